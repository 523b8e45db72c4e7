"""``x86-dm serve``: run the daemon.

Nothing here imports ZeroMQ or asyncio before ``--daemonize`` has forked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from dm.keys import Keys
from dm.qmp.address import parse_address
from dm.server.daemonize import daemonize
from dm.server.endpoint import Endpoint, parse_endpoint
from dm.version import VERSION

_LEVELS: Final = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``x86-dm serve``."""
    parser.add_argument(
        "--listen",
        required=True,
        metavar="ENDPOINT",
        help="control endpoint: ipc:///PATH (PATH.d is made for the daemon's own) or, with CURVE keys, tcp://ADDRESS:PORT",
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
    parser.add_argument("--engine", default="auto", metavar="native|python", help="engine to run guest code with")
    parser.add_argument("--memory-path", metavar="DIR", help="guests' RAM may also be files below DIR, given by path")
    parser.add_argument(
        "--session-timeout", type=float, default=10.0, metavar="SECONDS", help="free a silent shim's session (10)"
    )
    parser.add_argument("--daemonize", action="store_true", help="go to the background once all sockets are bound")
    parser.add_argument("--log-level", choices=_LEVELS, default="warning", help="what to log on stderr (warning)")
    parser.add_argument("--log-file", metavar="FILE", help="append the log to FILE instead")


def main(args: argparse.Namespace) -> int:
    """Run the daemon; returns its exit status: 0 after an orderly end, 1 when it cannot serve, 2 for bad arguments."""
    try:
        endpoint = parse_endpoint(args.listen)
        _check_curve(endpoint, args.curve_secret_key, args.curve_clients)
        addresses = [parse_address(text) for text in args.qmp]
        memory_path = _directory(args.memory_path)
        if args.engine not in ("auto", "native", "python") and ":" not in args.engine:
            raise ValueError(f"--engine {args.engine}: use native or python")
        if not 0.1 <= args.session_timeout <= 86400:
            raise ValueError(f"--session-timeout {args.session_timeout:g}: use 0.1 to 86400 seconds")
        if args.log_file:
            _log_to(args.log_file)
    except ValueError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    report: Callable[[str | None], None] = daemonize() if args.daemonize else _report

    import asyncio
    import logging

    from dm.server.daemon import serve
    from dm.server.supervisor import Settings

    logging.basicConfig(level=args.log_level.upper(), format="x86-dm: %(levelname)s: %(message)s")
    try:
        engine = _engine(args.engine)
        keys, clients = _curve(args.curve_secret_key, args.curve_clients) if args.curve_clients else (None, frozenset())
        settings = Settings(endpoint, args.engine, memory_path, args.session_timeout, args.log_level, keys, clients)

        def ready() -> None:
            print(f"x86-dm {VERSION} serves {args.listen}, engine {engine}", file=sys.stderr, flush=True)
            report(None)

        asyncio.run(serve(settings, addresses, ready))
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        report(f"x86-dm serve: {error}")
        return 1
    return 0


def _check_curve(endpoint: Endpoint, secret_key: str | None, clients: str | None) -> None:
    """Raise ValueError unless there are keys just when there must be."""
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
        raise ValueError("--memory-path /: would open every file; name the directory the guests' RAM lies in")
    return real


def _log_to(path: str) -> None:
    """Make the log file standard error, of this process and of the workers."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 2)
    os.close(fd)


def _engine(name: str) -> str:
    """Return name and reason of the engine the workers will use; an error if they cannot use it."""
    from dm.server.worker import find_engine

    found = find_engine(name)
    return f"{found.name} ({found.why})"


def _report(error: str | None) -> None:
    if error is not None:
        print(error, file=sys.stderr)


def _fail(text: str, status: int) -> int:
    print(f"x86-dm serve: {text}", file=sys.stderr)
    return status
