"""``x86-dm qmp``: send one QMP command to a daemon (or to QEMU) and print the answer."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from typing import Any, Final

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from dm.qmp.address import TcpAddress, parse_address

EXIT_STATUS: Final = (
    "Prints what the command returns, as JSON. Exit status: 0, 1 when it was refused or nobody answers, 2 for a wrong "
    "option or argument."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options and operands."""
    parser.add_argument("address", metavar="ADDRESS", help="unix:PATH or tcp:HOST:PORT, as given to serve --qmp")
    parser.add_argument("command", metavar="COMMAND", help="e.g. query-status, query-x86-dm, stop, cont, quit")
    parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*", help="arguments; VALUE is JSON, or else a string")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="give up after this many seconds (10)")


def main(args: argparse.Namespace) -> int:
    """Send the command; returns 0, 1 when it was refused or nobody answers, 2 for bad arguments."""
    try:
        address = parse_address(args.address)
        arguments = dict(_argument(word) for word in args.arguments)
    except ValueError as error:
        return _fail(str(error), 2)
    target = (address.host, address.port) if isinstance(address, TcpAddress) else address.path
    try:
        answer = asyncio.run(asyncio.wait_for(_execute(target, args.command, arguments), args.timeout))
    except ExecuteError as error:
        return _fail(f"{error.error_class}: {error}", 1)
    except ConnectError as error:
        return _fail(f"{args.address}: {error}; is a daemon running with --qmp {args.address}?", 1)
    except TimeoutError:  # which is an OSError, too
        return _fail(f"{args.address}: no answer within {args.timeout:g} s", 1)
    except EOFError:
        return _fail(f"{args.address}: the connection was closed before the answer", 1)
    except (QMPError, OSError) as error:
        return _fail(f"{args.address}: {error}", 1)
    print(json.dumps(answer, indent=2))
    return 0


def _argument(word: str) -> tuple[str, object]:
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise ValueError(f"{word}: arguments are written NAME=VALUE")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text


async def _execute(target: str | tuple[str, int], command: str, arguments: dict[str, Any]) -> object:
    client = QMPClient("x86-dm")
    client.logger.disabled = True  # errors are reported once, by main()
    await client.connect(target)
    try:
        return await client.execute(command, arguments or None)
    finally:
        with contextlib.suppress(EOFError, OSError, QMPError):  # after quit nobody is there to disconnect from
            await client.disconnect()


def _fail(text: str, status: int) -> int:
    print(f"x86-dm qmp: {text}", file=sys.stderr)
    return status
