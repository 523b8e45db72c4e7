"""The script of an unattended boot: what to wait for and what to type, in order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dm.shim import keys


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait until this text has appeared."""

    text: str


@dataclass(frozen=True, slots=True)
class TypeKeys:
    """Type these keys (each the set 1 bytes of one key)."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Let these bytes arrive at the serial port."""

    data: bytes


Step = Expect | TypeKeys | Send


class AppendExpect(argparse.Action):
    """``--expect TEXT``: append an :class:`Expect` to ``script``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Refuse an empty text."""
        if not values:
            parser.error("--expect needs a text to wait for")
        _append(namespace, Expect(str(values)))


class AppendKeys(argparse.Action):
    """``--keys TEXT``: append a :class:`TypeKeys` to ``script``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Refuse a text that cannot be typed."""
        try:
            _append(namespace, TypeKeys(tuple(keys.parse(str(values)))))
        except ValueError as error:
            parser.error(str(error))


class AppendSend(argparse.Action):
    """``--send TEXT``: append a :class:`Send` to ``script``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Replace the escapes of ``--keys``; a line ends in a carriage return, as terminals send it."""
        try:
            _append(namespace, Send(keys.unescape(str(values)).encode()))
        except ValueError as error:
            parser.error(str(error))


def _append(namespace: argparse.Namespace, step: Step) -> None:
    namespace.script = [*(getattr(namespace, "script", None) or []), step]
