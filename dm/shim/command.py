"""``x86-dm boot``: boot a disk image on the daemon alone, with the small built-in PC."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

from dm.shim import disk
from dm.shim.boot import Boot, Outcome, Reason
from dm.shim.client import Shim, ShimError
from dm.shim.client import Stats as ClientStats
from dm.shim.daemon import DaemonError, OwnDaemon
from dm.shim.memory import MAX_RAM, MIB, MIN_RAM
from dm.shim.ram import Ram
from dm.shim.script import AppendExpect, AppendKeys, AppendSend, Expect
from dm.shim.terminal import open_console
from dm.shim.vcpu import RemoteVcpu

_EXPECT_TIMEOUT: Final = 60.0

#: Counters both sides keep, by name: (this side's, the daemon's).
_COUNTERS: Final = {
    "requests": ("requests", "requests"),
    "io": ("io", "io"),
    "instructions": ("instructions", "instructions"),
    "steps": ("steps", "steps"),
    "bytes_to_daemon": ("bytes_sent", "bytes_in"),
    "bytes_from_daemon": ("bytes_received", "bytes_out"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``x86-dm boot``."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="CD-ROM (El Torito), diskette or hard-disk image")
    parser.add_argument(
        "--as", dest="kind", choices=[str(kind) for kind in disk.Kind], help="what the image is, instead of guessing"
    )
    parser.add_argument("--write", action="store_true", help="keep what the guest writes to the image")
    parser.add_argument("--memory", type=_memory, default=64, metavar="MIB", help="RAM in MiB (64)")
    parser.add_argument(
        "--expect", action=AppendExpect, metavar="TEXT", help="exit with 0 once TEXT has appeared on screen or serial"
    )
    parser.add_argument(
        "--keys",
        action=AppendKeys,
        metavar="TEXT",
        help=r"type TEXT; --expect and --keys are obeyed in the order given (\n, <up>, <ctrl-c>, << for a <)",
    )
    parser.add_argument(
        "--send", action=AppendSend, metavar="TEXT", help="send TEXT to the serial port, in the same order"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="give up with 1 after SECONDS (60 when something is expected)",
    )
    parser.add_argument("--debugcon", type=_port, default=0xE9, metavar="PORT", help="debug console port (0xe9)")
    daemon = parser.add_mutually_exclusive_group()
    daemon.add_argument("--engine", choices=("auto", "native", "python"), default="auto", help="engine of the daemon")
    daemon.add_argument("--connect", metavar="ENDPOINT", help="use the daemon that serves ENDPOINT, start none")
    parser.add_argument("--stats", action="store_true", help="say what it cost, and what the daemon counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object about the boot, nothing else")
    parser.set_defaults(script=[])


def _memory(text: str) -> int:
    low, high = MIN_RAM // MIB, MAX_RAM // MIB
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text}: use {low} to {high} MiB")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e9:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: use a number of seconds above 0")


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 0) <= 0xFFFF:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"{text}: use a port number from 0 to 0xffff")


def main(args: argparse.Namespace) -> int:
    """Boot the image.

    Returns:
        0 when all that was expected has appeared (or nothing was expected), 1 when not or when something failed, 2
        for an image that cannot be booted, 130 after Ctrl-C.
    """
    try:
        image = disk.open_image(args.image, write=args.write)
        drives = disk.drives(image, disk.Kind(args.kind) if args.kind else disk.detect(image))
    except (OSError, ValueError) as error:
        return _fail(error if isinstance(error, OSError) else f"{args.image}: {_without(error, args.image)}", 2)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Ram(args.memory * MIB) as ram, contextlib.ExitStack() as stack:
            boot = Boot(ram.view, drives, script=args.script, timeout=_timeout(args), debug_port=args.debugcon)
            endpoint = args.connect or stack.enter_context(OwnDaemon(args.engine)).endpoint
            shim = stack.enter_context(Shim.connect(endpoint, name=args.image.name))
            return _run(boot, RemoteVcpu(shim, ram), shim, args)
    except (DaemonError, ShimError, OSError, ValueError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _timeout(args: argparse.Namespace) -> float | None:
    if args.timeout is None and any(isinstance(step, Expect) for step in args.script):
        return _EXPECT_TIMEOUT
    return float(args.timeout) if args.timeout else None


def _interrupt(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


def _without(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _run(boot: Boot, vcpu: RemoteVcpu, shim: Shim, args: argparse.Namespace) -> int:
    console = open_console(quiet=args.json)
    try:
        outcome = boot.run(vcpu, console)
    finally:
        console.close()
    counters: dict[str, tuple[int, int]] = {}
    if outcome.reason is Reason.LOST:
        shim.close(bye=False)  # nobody is there to say goodbye to
    else:
        counters = _compare(shim)
    if args.json:
        print(json.dumps(_report(outcome, shim, counters), indent=2))
    else:
        print(f"x86-dm boot: {outcome.detail}", file=sys.stderr)
        if args.stats:
            _print_stats(outcome, shim, counters)
    return outcome.exit_code


def _compare(shim: Shim) -> dict[str, tuple[int, int]]:
    """Return each counter as counted here and by the daemon."""
    ours: ClientStats = shim.stats()
    theirs = shim.counters().vcpus
    return {
        name: (getattr(ours, here), sum(getattr(vcpu, there) for vcpu in theirs))
        for name, (here, there) in _COUNTERS.items()
    }


def _report(outcome: Outcome, shim: Shim, counters: dict[str, tuple[int, int]]) -> dict[str, Any]:
    stats = outcome.stats
    return {
        "outcome": str(outcome.reason),
        "detail": outcome.detail,
        "screen": outcome.screen,
        "serial": outcome.serial,
        "engine": shim.welcome.engine,
        "resets": outcome.resets,
        "stats": {
            "wall_seconds": round(stats.wall, 6),
            "running_seconds": round(stats.running, 6),
            "mips": round(stats.mips, 3),
            "instructions": stats.instructions,
            "runs": stats.runs,
            "ends": {str(k): v for k, v in sorted(stats.ends.items())},
            "questions": {str(k): v for k, v in sorted(stats.questions.items())},
            "firmware": {f"{vector:#04x}": n for vector, n in sorted(outcome.firmware.items())},
            "shim": {name: pair[0] for name, pair in counters.items()},
            "daemon": {name: pair[1] for name, pair in counters.items()},
        },
    }


def _print_stats(outcome: Outcome, shim: Shim, counters: dict[str, tuple[int, int]]) -> None:
    stats = outcome.stats
    lines = [
        f"engine {shim.welcome.engine}, wall {stats.wall:.3f} s, running {stats.running:.3f} s, {stats.mips:.2f} MIPS",
        "runs ended by " + ", ".join(f"{reason} {n}" for reason, n in stats.ends.most_common()),
        "asked for " + (", ".join(f"{kind} {n}" for kind, n in stats.questions.most_common()) or "nothing"),
        "firmware " + ", ".join(f"INT {vector:02X}h {n}" for vector, n in sorted(outcome.firmware.items())),
        f"{'':18}{'shim':>14}{'daemon':>14}",
    ]
    lines += [f"{name:18}{ours:14}{theirs:14}" for name, (ours, theirs) in counters.items()]
    print("\n".join(lines), file=sys.stderr)


def _fail(error: object, status: int) -> int:
    print(f"x86-dm boot: {error}", file=sys.stderr)
    return status
