"""Errors of a daemon that cannot be used."""

from __future__ import annotations

from dm.protocol.schema import Error


class ShimError(Exception):
    """The daemon cannot be used; the text says why."""


class EndpointError(ShimError):
    """What was given as an endpoint is not a valid one."""


class Refused(ShimError):
    """The daemon refused a request.  ``error`` is its message: class, text, what would be right, field."""

    def __init__(self, error: Error) -> None:
        text = f"{error.error}: {error.text}"
        super().__init__(f"{text}; expected {error.expected}" if error.expected else text)
        self.error = error


class BadState(Refused, ValueError):
    """The daemon refused a state; the text names the field."""


class SessionLost(ShimError):
    """The daemon or the session is gone; :meth:`dm.shim.client.Shim.reconnect` may help."""


class RunLost(SessionLost):
    """A run was lost in the middle: memory may have changed, the registers are unknown.  The VM must stop."""
