"""The command ``x86-dm``: finds the subcommand and hands over.

A subcommand is a module with ``add_arguments(parser)`` and ``main(args) -> int``.  It is imported only when it is
asked for: ``serve --daemonize`` must fork before ZeroMQ is imported, and ``--help`` should not load an engine.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import itertools
import json
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol, cast

from dm.streams import Streams
from dm.version import VERSION

#: Subcommand: (module, one line for --help).  Only those whose module is installed are offered.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("dm.commands.serve", "run the daemon that hypervisors connect to"),
    "boot": ("dm.commands.boot", "boot a disk image on the daemon alone, with a small built-in PC"),
    "keygen": ("dm.keys", "make CURVE keys for daemons and clients on tcp"),
    "qmp": ("dm.commands.qmp", "send a QMP command to a daemon"),
    "vectors": ("dm.commands.vectors", "check an engine against recorded hardware tests"),
    "isa": ("dm.commands.isa", "print the opcode map, disassemble, report coverage"),
    "explain": ("dm.commands.explain", "say why a hypervisor could or could not enter a state"),
    "bench": ("dm.commands.bench", "measure the engines"),
}


class Subcommand(Protocol):
    """What a subcommand's module offers; an ``EXIT_STATUS`` is the end of its ``--help``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and operands."""

    def main(self, args: argparse.Namespace) -> int:
        """Do it and return the exit status."""


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``" (did you mean X?)"`` for the known word most like ``word``, or nothing when none is close."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {found[0]}?)" if found else ""


class Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown option with the nearest known one."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all of ``arguments``; exits with status 2 and a message on the first one that does not belong."""
        options = [name for action in self._actions for name in action.option_strings]
        # Before argparse sees them: it would complain first about a required option that was misspelt.
        for word in itertools.takewhile(lambda word: word != "--", arguments):
            name = word.partition("=")[0]
            if word.startswith("--") and name not in options:
                self.error(f"unknown option {name}{nearest(name, options)}")
        args, extra = self.parse_known_args(arguments)
        if extra:
            kind = "unknown option" if extra[0].startswith("-") else "unexpected argument"
            self.error(f"{kind} {extra[0]}{nearest(extra[0], options)}")
        return args

    def error(self, message: str) -> NoReturn:
        """Print one line that says what was wrong and where to look, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def installed() -> dict[str, tuple[str, str]]:
    """Return the rows of :data:`COMMANDS` whose module can be found."""
    found = {}
    for name, row in COMMANDS.items():
        try:
            spec = importlib.util.find_spec(row[0])
        except ModuleNotFoundError:
            continue
        if spec is not None:
            found[name] = row
    return found


def versions() -> dict[str, str]:
    """Return the values of ``--version``: version, engine in use and why, libzmq, Python."""
    import zmq

    from dm.engine import engine_in_use

    name, why = engine_in_use()
    return {
        "version": VERSION,
        "engine": name,
        "engine_note": why,
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
    }


def version_report() -> str:
    """Return what ``--version`` prints for people."""
    found = versions()
    return (
        f"x86-dm {found['version']}\n"
        f"engine: {found['engine']} ({found['engine_note']})\n"
        f"libzmq {found['libzmq']} (pyzmq {found['pyzmq']})\n"
        f"Python {found['python']} ({found['implementation']}, {found['machine']})"
    )


def usage(commands: dict[str, tuple[str, str]]) -> str:
    """Return the text of ``x86-dm --help``."""
    width = max(map(len, commands), default=0)
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in commands.items())
    return (
        "usage: x86-dm COMMAND ...\n"
        "       x86-dm --version [--json]\n"
        "       x86-dm --help\n\n"
        "Runs the x86 guest code that a hypervisor cannot.\n\n"
        f"commands:\n{rows}\n\n"
        "'x86-dm COMMAND --help' describes one command."
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit status."""
    commands = installed()
    first, *rest = arguments or ["--help"]
    if first in ("-h", "--help", "help"):
        print(usage(commands))
        return 0 if arguments else 2
    if first in ("-V", "--version") and rest in ([], ["--json"]):
        print(json.dumps(versions(), indent=2) if rest else version_report())
        return 0
    if first in ("-V", "--version"):
        print(f"x86-dm: --version takes --json only, not {rest[0]}\nTry 'x86-dm --help'.", file=sys.stderr)
        return 2
    if first not in commands:
        kind = "option" if first.startswith("-") else "command"
        close = nearest(first, ["--help", "--version"] if kind == "option" else list(commands))
        print(f"x86-dm: unknown {kind} {first}{close}\nTry 'x86-dm --help'.", file=sys.stderr)
        return 2
    module, text = commands[first]
    command = cast(Subcommand, importlib.import_module(module))
    parser = Parser(f"x86-dm {first}", text[0].upper() + text[1:] + ".")
    parser.epilog = getattr(command, "EXIT_STATUS", None)
    command.add_arguments(parser)
    return command.main(parser.parse(rest))


def main() -> int:
    """Entry point of the ``x86-dm`` script; 130 when interrupted, 141 without a word when a pipe's reader goes away."""
    streams = Streams()
    try:
        status = _status(run, sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    except OSError:
        if not streams.failed:
            raise
        status = 1
    return streams.close(status)


def _status(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Return the exit status of a command, also of one that argparse ends."""
    try:
        return command(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0


if __name__ == "__main__":
    sys.exit(main())
