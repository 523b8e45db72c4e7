"""The user's terminal as a keyboard: its modes, the keys typed, Ctrl-Z, and its restoration."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import threading
from collections import deque
from types import FrameType
from typing import Any, Final

from dm.shim import keys
from dm.shim.escape import Escape, EscapeCommand, usage

#: What terminals send for keys, without the leading escape (ECMA-48, xterm).
_SEQUENCES: Final = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"OA": "up", b"OB": "down", b"OC": "right",
    b"OD": "left", b"[H": "home", b"[F": "end", b"OH": "home", b"OF": "end", b"[1~": "home", b"[4~": "end",
    b"[2~": "insert", b"[3~": "delete", b"[5~": "pageup", b"[6~": "pagedown", b"OP": "f1", b"OQ": "f2",
    b"OR": "f3", b"OS": "f4", b"[15~": "f5", b"[17~": "f6", b"[18~": "f7", b"[19~": "f8", b"[20~": "f9",
    b"[21~": "f10", b"[23~": "f11", b"[24~": "f12",
}  # fmt: skip


def decode_keys(data: bytes) -> list[bytes]:
    """Return the keys (set 1 bytes of each) that a terminal's input stands for; what no key can type is dropped."""
    out: list[bytes] = []
    while data:
        if data[0] == 0x1B and len(data) > 1:
            name = next((s for s in _SEQUENCES if data[1:].startswith(s)), None)
            if name is not None:
                out.append(keys.press(keys.NAMED[_SEQUENCES[name]]))
                data = data[1 + len(name) :]
                continue
            if 0x20 < data[1] < 0x7F:  # Alt with a character
                out += keys.parse(f"<alt-{chr(data[1])}>") if chr(data[1]) not in "<>-\\" else []
                data = data[2:]
                continue
        with contextlib.suppress(ValueError):  # no key types it
            out.append(keys.type_character(chr(data[0])))
        data = data[1:]
    return out


class Tty:
    """Takes the keys of a terminal until it is closed.

    A thread reads them, so that the user can quit whatever the main thread is waiting for; the command to quit arrives
    on the main thread as SIGINT, with ``left`` set.  ``stale`` says that the terminal has shown something else
    meanwhile; ``message`` is a line for the user.  All else is for the main thread.
    """

    def __init__(self, descriptor: int, escape: int) -> None:
        self.left = self.stale = self.suspend_asked = False
        self.message = usage(escape)
        self._fd = descriptor
        self._saved = termios.tcgetattr(descriptor)
        self._escape = Escape(escape)
        self._keys: deque[bytes] = deque()
        self._news = threading.Event()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._main = threading.get_ident()
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number, handler in ((signal.SIGTSTP, self._on_suspend), (signal.SIGCONT, self._on_continue)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, handler)
        self._take()
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        """Deliver every key at once, without echo, and as a character instead of a signal."""
        mode = termios.tcgetattr(self._fd)
        mode[0] &= ~(termios.IXON | termios.IXOFF)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)

    def _give_back(self) -> None:
        with contextlib.suppress(termios.error, OSError):  # it may be gone
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                return  # in the background: it is somebody else's now
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)

    def typed(self) -> list[bytes]:
        """Return the keys typed since the last call, each as set 1 bytes."""
        self._news.clear()
        data = b"".join(self._keys.popleft() for _ in range(len(self._keys)))
        return decode_keys(data)

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until the user types."""
        self._news.wait(seconds)

    def suspend(self) -> None:
        """Restore the terminal and stop the whole job, as Ctrl-Z does; returns when continued."""
        self.suspend_asked = False
        self._give_back()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self._on_continue(signal.SIGCONT, None)

    def close(self) -> None:
        """Restore the terminal for good; may be called again."""
        if self._stop < 0:
            return
        self._give_back()
        for number, before in self._before.items():
            signal.signal(number, before)
        os.eventfd_write(self._stop, 1)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            os.close(self._stop)
        self._stop = -1

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        """Note that the user wants to suspend: that is done between two runs, where nothing can be lost by it."""
        self.suspend_asked = True
        self._news.set()

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        """Set up the terminal again: after a SIGSTOP somebody else has changed its modes."""
        with contextlib.suppress(termios.error):
            self._take()
        self.stale = True

    def _read(self) -> None:
        poll = select.poll()
        stop = self._stop
        for descriptor in (self._fd, stop):
            poll.register(descriptor, select.POLLIN)
        while True:
            if any(descriptor == stop for descriptor, _ in poll.poll()):
                return
            try:
                data = os.read(self._fd, 4096)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                data = b""
            if not data:  # the terminal is gone; the kernel tells only those who have it as controlling terminal
                if callable(signal.getsignal(signal.SIGHUP)):
                    signal.pthread_kill(self._main, signal.SIGHUP)
                return
            guest, commands = self._escape.feed(data)
            if guest:
                self.message = ""
                self._keys.append(guest)
            for command in commands:
                self._obey(command)
            self._news.set()

    def _obey(self, command: EscapeCommand) -> None:
        match command:
            case EscapeCommand.LEAVE:
                self.left = True
                signal.pthread_kill(self._main, signal.SIGINT)
            case EscapeCommand.SUSPEND:
                self.suspend_asked = True
            case EscapeCommand.REDRAW:
                self.stale = True
            case EscapeCommand.HELP:
                self.message = usage(self._escape.code)
