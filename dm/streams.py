"""Standard input, output and error, whatever a command was started with: closed, full, a pipe that ends, ASCII only."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, Final, cast

#: Exit status of a program that SIGPIPE has ended, as in shells.
PIPE_STATUS: Final = 141


class _Raw(io.FileIO):
    """A descriptor that remembers why it could not be written to."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as FileIO does."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class _Lossy(io.FileIO):
    """A descriptor for messages, whose write errors are ignored: nobody could be told."""

    def write(self, data: Any) -> int:
        """Write as FileIO does; a failure counts as success."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(memoryview(data).cast("B"))


class Streams:
    """The three standard streams of a command, for its whole life."""

    def __init__(self) -> None:
        """Take over the streams.

        Descriptors 0 to 2 that are closed become those of /dev/null: else the next file or socket would get their
        numbers, and be printed into.  Characters that cannot be encoded are replaced.
        """
        _open_closed()
        self._out = _Raw(1, "wb", closefd=False)
        sys.stdout = _text(self._out, sys.stdout, "replace")
        sys.stderr = _text(_Lossy(2, "wb", closefd=False), sys.stderr, "backslashreplace")

    @property
    def failed(self) -> bool:
        """Whether standard output could not be written to."""
        return self._out.failure is not None

    def close(self, status: int) -> int:
        """Write what has not been written.

        Returns:
            The exit status of a command that wants to end with ``status``: 141 if the reader of a pipe has gone,
            which is not reported; 1 if the output is incomplete for another reason, which is.
        """
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        failure = self._out.failure
        if failure is None:
            return status
        # The rest in the buffers cannot be written; the interpreter must not try again when it ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        if failure.errno == errno.EPIPE:
            return PIPE_STATUS
        print(f"x86-dm: standard output: {failure.strerror}", file=sys.stderr)
        return status or 1


def _text(raw: io.FileIO, old: Any, errors: str) -> io.TextIOWrapper:
    """Return a text stream over ``raw`` like the interpreter's own, which is discarded."""
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=True)
    before = cast(io.TextIOWrapper, old)
    before.flush()
    made = io.TextIOWrapper(
        io.BufferedWriter(raw), before.encoding, errors,
        line_buffering=before.line_buffering, write_through=before.write_through,
    )  # fmt: skip
    before.detach()
    return made


def _open_closed() -> None:
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # it lives as long as the command
