"""``x86-dm serve``: run the daemon.

Nothing here imports ZeroMQ or asyncio before ``--daemonize`` has forked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

from dm.keys import Keys
from dm.protocol import schema
from dm.qmp.address import Address, UnixAddress, parse_address
from dm.server import logfile, signals
from dm.server.daemon.daemonize import daemonize
from dm.server.daemon.endpoint import ControlEndpoint, parse_endpoint
from dm.server.limits import DaemonLimits
from dm.version import VERSION

_LEVELS: Final = ("debug", "info", "warning", "error")


EXIT_STATUS: Final = (
    "Exit status: 0 after an orderly end (SIGTERM, quit), 1 when it cannot serve, 2 for a wrong option."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``x86-dm serve``."""
    parser.add_argument(
        "--listen",
        required=True,
        metavar="ENDPOINT",
        help="control endpoint: ipc:///PATH (the daemon creates PATH.d) or, with CURVE keys, tcp://ADDRESS:PORT",
    )
    parser.add_argument(
        "--curve-secret-key", metavar="FILE", help="for tcp: the daemon's keys (NAME.key_secret of x86-dm keygen)"
    )
    parser.add_argument(
        "--curve-clients",
        metavar="DIR",
        help="for tcp: directory with the public keys (*.key) of those who may connect",
    )
    parser.add_argument(
        "--qmp",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="serve QMP on unix:PATH or tcp:HOST:PORT; may be repeated",
    )
    parser.add_argument("--engine", default="auto", metavar="native|python", help="engine that runs guest code")
    parser.add_argument("--memory-path", metavar="DIR", help="guests' RAM may be files below DIR, named by path")
    parser.add_argument(
        "--session-timeout", type=float, default=10.0, metavar="SECONDS", help="free a silent shim's session (10)"
    )
    _add_limits(parser)
    parser.add_argument("--daemonize", action="store_true", help="go to the background once all sockets are bound")
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="what to log on stderr (info)")
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="append the log to FILE instead; SIGHUP reopens it (without this option SIGHUP ends the daemon)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    default = DaemonLimits()
    parser.add_argument(
        "--max-sessions",
        type=int,
        default=default.sessions,
        metavar="N",
        help=f"most sessions at a time ({default.sessions}); fewer if the system allows only few descriptors",
    )
    parser.add_argument(
        "--max-vcpus", type=int, default=default.vcpus, metavar="N", help=f"most vCPUs of a session ({default.vcpus})"
    )
    parser.add_argument(
        "--max-regions",
        type=int,
        default=default.regions,
        metavar="N",
        help=f"most regions of a session's memory map, times its vCPUs ({default.regions})",
    )
    parser.add_argument(
        "--max-ram",
        metavar="SIZE",
        help="most RAM of a session: bytes, or with suffix K, M, G or T (as much as the host has)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the daemon; returns its exit status: 0 after an orderly end, 1 when it cannot serve, 2 for bad arguments."""
    _standard_descriptors()
    try:
        endpoint = parse_endpoint(args.listen)
        _check_curve(endpoint, args.curve_secret_key, args.curve_clients)
        addresses = [_absolute(parse_address(text)) for text in args.qmp]
        secret_key, clients_at, log_file = (
            path and os.path.abspath(path) for path in (args.curve_secret_key, args.curve_clients, args.log_file)
        )
        limits = _limits(args)
        memory_path = _directory(args.memory_path)
        if args.engine not in ("auto", "native", "python") and ":" not in args.engine:
            raise ValueError(f"--engine {args.engine}: use native or python")
        if not 0.1 <= args.session_timeout <= 86400:
            raise ValueError(f"--session-timeout {args.session_timeout:g}: use 0.1 to 86400 seconds")
        log_to = logfile.open_file(log_file) if log_file else -1
    except ValueError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    signals.reset()
    report: Callable[[str | None], None] = daemonize() if args.daemonize else _report
    if log_to >= 0:
        if not args.daemonize:
            report = _to_terminal()
        logfile.use(log_to)

    import asyncio

    from dm.server import log
    from dm.server.daemon.process import serve
    from dm.server.daemon.supervisor import Settings

    log.set_up(args.log_level)
    try:
        engine = _engine(args.engine)
        keys, clients = _curve(secret_key, clients_at) if secret_key and clients_at else (None, frozenset())
        settings = Settings(
            *(endpoint, args.engine, memory_path, args.session_timeout, args.log_level, keys, clients, limits, log_file)
        )

        def ready() -> None:
            _say(f"x86-dm {VERSION} serves {args.listen}, engine {engine}")
            report(None)

        asyncio.run(serve(settings, addresses, ready))
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        report(f"x86-dm serve: {error}")
        return 1
    return 0


def _check_curve(endpoint: ControlEndpoint, secret_key: str | None, clients: str | None) -> None:
    """Raise ValueError if keys are missing or not wanted."""
    missing = [
        option
        for option, value in (("--curve-secret-key FILE", secret_key), ("--curve-clients DIR", clients))
        if not value
    ]
    if endpoint.path and len(missing) < 2:
        raise ValueError(f"endpoint {endpoint}: CURVE keys are for tcp endpoints")
    if not endpoint.path and missing:
        raise ValueError(
            f"endpoint {endpoint}: tcp needs CURVE keys: {' and '.join(missing)} (x86-dm keygen makes them)"
        )


def _curve(secret_key: str, clients: str) -> tuple[Keys, frozenset[bytes]]:
    """Load the daemon's keys, and those of its clients."""
    from dm.keys import load_clients, load_keys

    return load_keys(secret_key), load_clients(clients)


def _directory(path: str | None) -> str | None:
    if path is None:
        return None
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise ValueError(f"--memory-path {path}: an existing directory is needed")
    if real == "/":
        raise ValueError("--memory-path /: would open every file; name the directory that the guests' RAM is in")
    return real


def _standard_descriptors() -> None:
    """Open descriptors 0 to 2 where our parent has closed them, or the next file opened would take their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _absolute(address: Address) -> Address:
    """Return an address that means the same in every working directory."""
    return UnixAddress(os.path.abspath(address.path)) if isinstance(address, UnixAddress) else address


def _limits(args: argparse.Namespace) -> DaemonLimits:
    """Return the limits the operator has set."""
    most = {"sessions": 1 << 16, "vcpus": schema.MAX_VCPUS, "regions": schema.MAX_REGIONS * schema.MAX_VCPUS}
    given = {name: getattr(args, f"max_{name}") for name in most}
    for name, value in given.items():
        if not 1 <= value <= most[name]:
            raise ValueError(f"--max-{name} {value}: use 1 to {most[name]}")
    return DaemonLimits(**given) if args.max_ram is None else DaemonLimits(**given, ram=_size(args.max_ram))


def _size(text: str) -> int:
    """Return a number of bytes: a number, or one with a suffix."""
    digits, suffix = (text[:-1], text[-1].upper()) if text and not text[-1].isdigit() else (text, "")
    if not (digits.isascii() and digits.isdigit() and int(digits) and suffix in ("", *"KMGT")):
        raise ValueError(f"--max-ram {text}: use a number of bytes, or one with the suffix K, M, G or T")
    return int(digits) << 10 * " KMGT".index(suffix or " ")


def _engine(name: str) -> str:
    """Return name and reason of the engine the workers will use; an error if they cannot use it."""
    from dm.server.session.worker import find_engine

    found = find_engine(name)
    return f"{found.name} ({found.why})"


def _say(text: str) -> None:
    """Write a line to standard error, if possible; failing to is no reason to end."""
    with contextlib.suppress(OSError):
        os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))


def _report(error: str | None) -> None:
    if error is not None:
        _say(error)


def _to_terminal() -> Callable[[str | None], None]:
    """Return a function that reports to the current standard error and then releases it."""
    terminal = os.dup(2)

    def report(error: str | None) -> None:
        _report(error)
        if error is not None:
            with contextlib.suppress(OSError):
                os.write(terminal, (error + "\n").encode("utf-8", "backslashreplace"))
        os.close(terminal)

    return report


def _fail(text: str, status: int) -> int:
    print(f"x86-dm serve: {text}", file=sys.stderr)
    return status
