"""``x86-dm boot``: boot a disk image, a kernel or a ROM on the daemon alone, with the small built-in PC."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dm.engine.api import CpuConfig
from dm.engine.parts import part, summary
from dm.isa.parts import DEFAULT
from dm.keys import Curve, load_keys, load_public
from dm.protocol.schema import Cpuid
from dm.shim import disk, escape, formats, multiboot
from dm.shim.boot import Boot, BootEnd, BootOutcome
from dm.shim.client import Shim
from dm.shim.daemon import DaemonError, OwnDaemon
from dm.shim.endpoint import check
from dm.shim.ends import Interrupted, Signals, Status, TimeLimit, TimeOver, epilog, of_signal
from dm.shim.errors import EndpointError, SessionLost, ShimError
from dm.shim.keep import Dump, check_writable, parse_dump, write_dump, write_screenshot
from dm.shim.multiboot import KernelImage
from dm.shim.pc_memory import MAX_RAM, MIB, MIN_RAM, check_rom
from dm.shim.ram import Ram
from dm.shim.remote import RemoteVcpu
from dm.shim.script import AppendExpect, AppendKeys, AppendSend, Expect
from dm.shim.terminal import open_console
from dm.shim.trace import Trace
from dm.shim.vcpu import Stats as ClientStats

_EXPECT_TIMEOUT: Final = 60.0
#: How long to wait for a daemon that is being started, for a successor, and for counters, in seconds.
_START: Final = 1.0
_PATIENCE: Final = 10.0
#: Nobody replaces our own daemon, but it frees our session while we are suspended.
_OWN_PATIENCE: Final = 2.0
_COUNTERS_TIMEOUT: Final = 1.0
#: Bytes of the VM's name in the protocol.
_NAME: Final = 64

#: Counters both sides keep, by name: (this side's, the daemon's).
_COUNTERS: Final = {
    "requests": ("requests", "requests"),
    "io": ("io", "io"),
    "instructions": ("instructions", "instructions"),
    "steps": ("steps", "steps"),
    "bytes_to_daemon": ("bytes_sent", "bytes_in"),
    "bytes_from_daemon": ("bytes_received", "bytes_out"),
}


_DEFAULT_POST: Final = 0x80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``x86-dm boot``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = epilog()
    parser.add_argument(
        "image",
        type=Path,
        nargs="?",
        metavar="IMAGE",
        help="CD-ROM (El Torito), diskette or hard-disk image, or a Multiboot kernel",
    )
    parser.add_argument(
        "--bios",
        type=Path,
        metavar="FILE",
        help="start this ROM (a multiple of 64 KiB, which ends at 4 GiB and at 1 MiB) at the reset vector, instead of "
        "IMAGE and the built-in firmware",
    )
    parser.add_argument("--append", default="", metavar="TEXT", help="command line of a Multiboot kernel")
    parser.add_argument(
        "--as",
        dest="kind",
        type=_kind,
        choices=[str(kind) for kind in disk.DiskKind],
        help="the kind of image (default: guessed; a diskette by its size or its BIOS parameter block)",
    )
    parser.add_argument(
        "--no-signature-check",
        dest="check_signature",
        action="store_false",
        help="boot a diskette without 55 AA at the end of its first sector, as QEMU does with -boot ... fd-bootchk=off",
    )
    parser.add_argument("--write", action="store_true", help="write the guest's changes to the image")
    parser.add_argument("--memory", type=_memory, default=64, metavar="MIB", help="RAM in MiB (64)")
    parser.add_argument(
        "--expect",
        action=AppendExpect,
        metavar="TEXT",
        help="exit with 0 once TEXT has appeared on screen or serial line",
    )
    parser.add_argument(
        "--keys",
        action=AppendKeys,
        metavar="TEXT",
        help=r"type TEXT; --expect and --keys take effect in the order given (\n, <up>, <ctrl-c>, << for a <)",
    )
    parser.add_argument(
        "--send", action=AppendSend, metavar="TEXT", help="send TEXT to the serial port, in the same order"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="end after SECONDS (60 with --expect), with 1 if an expected text is missing and 4 otherwise",
    )
    parser.add_argument("--debugcon", type=_port, default=0xE9, metavar="PORT", help="debug console port (0xe9)")
    parser.add_argument(
        "--post-port",
        type=_port,
        metavar="PORT",
        help="show POST codes written to PORT as lines 'POST 1F', which --expect sees too (with --bios: 0x80)",
    )
    parser.add_argument(
        "--exit-port",
        type=_port,
        metavar="PORT",
        help="end when the guest writes a byte to PORT, with twice the byte plus 1 as exit status",
    )
    parser.add_argument(
        "--cpu",
        type=_cpu,
        default=part(),
        metavar="VENDOR-OR-MODEL",
        help=f"the CPU model ({DEFAULT}); {summary()}. 64-bit kernels insist on a 64-bit model, and entering 64-bit "
        "mode ends the boot",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write instructions and states to FILE, for x86-dm explain"
    )
    parser.add_argument(
        "--trace-from",
        type=_address,
        metavar="ADDRESS",
        help="begin the trace at this linear address (the guest runs at full speed until then)",
    )
    parser.add_argument("--trace-count", type=_count, default=1000, metavar="N", help="instructions to trace (1000)")
    parser.add_argument(
        "--screenshot", type=Path, metavar="FILE", help="write a picture of the last screen (PNG), text or graphics"
    )
    parser.add_argument(
        "--dump-memory",
        type=_dump,
        metavar="FILE[,START,LENGTH]",
        help="write physical memory at the end: all of RAM, or LENGTH bytes from START on",
    )
    daemon = parser.add_mutually_exclusive_group()
    daemon.add_argument("--engine", choices=("auto", "native", "python"), default="auto", help="engine of the daemon")
    daemon.add_argument("--connect", metavar="ENDPOINT", help="use the daemon at ENDPOINT instead of starting one")
    parser.add_argument(
        "--ram",
        choices=("shared", "messages"),
        default="shared",
        help="how the daemon accesses RAM: by a descriptor, or page by page in messages, as always over tcp (shared)",
    )
    parser.add_argument(
        "--curve-secret-key", metavar="FILE", help="with --connect tcp://...: our keys (NAME.key_secret of keygen)"
    )
    parser.add_argument(
        "--curve-server-key", metavar="FILE", help="with --connect tcp://...: the daemon's public key (NAME.key)"
    )
    parser.add_argument(
        "--patience",
        type=_patience,
        metavar="SECONDS",
        help="with --connect: how long to wait for a daemon that is not there: at first (1), and for the successor of "
        "one that has shut down or is gone (10)",
    )
    parser.add_argument(
        "--escape",
        type=_escape,
        default=escape.DEFAULT,
        metavar="KEY",
        help="key that begins a command to x86-dm on the terminal, such as ctrl-a (ctrl-]); "
        f"{escape.usage(escape.DEFAULT)}; all other keys, Ctrl-C included, go to the guest",
    )
    parser.add_argument("--stats", action="store_true", help="print what the boot cost, and what the daemon counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object about the boot, nothing else")
    parser.set_defaults(script=[])


def _escape(text: str) -> int:
    try:
        return escape.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _kind(text: str) -> str:
    return "cd" if text == "cdrom" else text


def _dump(text: str) -> Dump:
    try:
        return parse_dump(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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


def _cpu(text: str) -> CpuConfig:
    try:
        return part(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _patience(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _address(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 0) < 1 << 32:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"{text}: use a linear address from 0 to 0xffffffff")


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: use a number of instructions above 0")
    return int(text)


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 0) <= 0xFFFF:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"{text}: use a port number from 0 to 0xffff")


def main(args: argparse.Namespace) -> int:
    """Boot the image; returns one of :class:`~dm.shim.ends.Status`, or a status that a signal or the guest decides."""
    if (args.image is None) == (args.bios is None):
        return _fail(args, Status.USAGE, "one of IMAGE and --bios FILE is needed; a ROM has no drives")
    path = args.image or args.bios
    try:
        with Signals(), TimeLimit(_timeout(args)) as limit:
            return _boot(args, path, limit)
    except _Unusable as error:
        return _fail(args, Status.USAGE, error)
    except (DaemonError, ShimError) as error:
        return _fail(args, Status.DAEMON, error)
    except TimeOver:
        whom = args.connect or "its own daemon"
        return _fail(args, Status.TIMEOUT, f"time is over after {_timeout(args):g} s, in which {whom} was not ready")
    except Interrupted as error:
        return _fail(args, of_signal(error.number), error)


class _Unusable(Exception):
    """An option or a file cannot be used; the text says why."""


@contextlib.contextmanager
def _usable(path: Path | None = None) -> Iterator[None]:
    """Turn what options and files raise into :class:`_Unusable`, with the path of the file concerned."""
    try:
        yield
    except EndpointError as error:
        raise _Unusable(error) from None
    except OSError as error:
        where = f"{error.filename or path}: " if error.filename or path else ""
        raise _Unusable(f"{where}{error.strerror or error}") from None
    except ValueError as error:
        raise _Unusable(error if path is None else f"{path}: {error}") from None


def _boot(args: argparse.Namespace, path: Path, limit: TimeLimit) -> int:
    with _usable():
        curve = _curve(args)
        if args.connect:
            check(args.connect)
    with _usable(path):
        guest = _guest(args)
    with contextlib.ExitStack() as stack:
        try:
            return _start(args, path, guest, curve, stack)
        finally:
            limit.lift()  # ending has time limits of its own


def _start(
    args: argparse.Namespace, path: Path, guest: _Guest, curve: Curve | None, stack: contextlib.ExitStack
) -> int:
    with _usable():
        ram = stack.enter_context(Ram(args.memory * MIB + len(guest.bios)))
        trace = None
        if args.trace:
            file = stack.enter_context(args.trace.open("w", encoding="utf-8"))
            trace = Trace(file, start=args.trace_from, count=args.trace_count)
        boot = Boot(
            ram.view, guest.drives, script=args.script, timeout=_timeout(args), debug_port=args.debugcon,
            post_port=_DEFAULT_POST if args.post_port is None else args.post_port,
            show_post=bool(guest.bios) or args.post_port is not None, exit_port=args.exit_port,
            kernel=guest.kernel, bios=guest.bios, trace=trace, check_signature=args.check_signature,
        )  # fmt: skip
        check_writable(args.screenshot, args.dump_memory and args.dump_memory.file)
    if args.connect:
        start, patience = (_START, _PATIENCE) if args.patience is None else (args.patience, args.patience)
        shim = Shim.connect(args.connect, _name(path), curve=curve, patience=start)
    else:
        patience = _OWN_PATIENCE
        shim = Shim.connect(stack.enter_context(OwnDaemon(args.engine)).endpoint, _name(path))
    stack.callback(shim.close)
    shared = args.ram == "shared" and "ram-fd" in shim.welcome.features  # over tcp it cannot be
    if shim.welcome.engine.startswith("python") and args.engine != "python":
        note = f": {shim.welcome.engine_note}" if shim.welcome.engine_note else ""
        print(f"x86-dm boot: the Python engine runs this, some hundred times slower{note}", file=sys.stderr)
    vcpu = RemoteVcpu(shim, ram if shared else ram.view, _rows(args.cpu), patience, args.cpu.model)
    return _run(boot, vcpu, shim, args)


def _name(path: Path) -> str:
    """Return the VM's name: the image's, as far as there is room for it in the protocol."""
    return path.name.encode("utf-8", "replace")[:_NAME].decode("utf-8", "ignore")


def _rows(cpu: CpuConfig) -> list[Cpuid]:
    return [Cpuid(row.leaf, row.subleaf, row.eax, row.ebx, row.ecx, row.edx) for row in cpu.cpuid]


def _curve(args: argparse.Namespace) -> Curve | None:
    """Load the keys for a daemon on tcp.

    Raises:
        ValueError: one is missing, useless or not a key.
        OSError: a file cannot be read.
    """
    given = {"--curve-secret-key FILE": args.curve_secret_key, "--curve-server-key FILE": args.curve_server_key}
    if not (args.connect or "").startswith("tcp:"):
        if any(given.values()):
            raise ValueError("CURVE keys are for --connect tcp://ADDRESS:PORT")
        return None
    missing = [option for option, value in given.items() if not value]
    if missing:
        raise ValueError(f"{args.connect}: tcp needs CURVE keys: {' and '.join(missing)}")
    return Curve(load_keys(args.curve_secret_key), load_public(args.curve_server_key))


@dataclass(frozen=True, slots=True)
class _Guest:
    """What to boot: drives, or a kernel, or a ROM."""

    drives: list[disk.Drive]
    kernel: KernelImage | None = None
    bios: bytes = b""


def _guest(args: argparse.Namespace) -> _Guest:
    """Open what is to be booted.

    Raises:
        ValueError: it cannot be booted, with the reason.
        OSError: it cannot be opened.
    """
    if args.bios:
        rom = bytes(disk.open_image(args.bios))
        check_rom(rom)
        return _Guest([], bios=rom)
    image = disk.open_image(args.image, write=args.write)
    if not args.kind and (what := formats.foreign(image, args.image.name)):
        raise ValueError(what)
    kind = disk.DiskKind(args.kind) if args.kind else disk.detect(image)
    if not args.kind and kind is disk.DiskKind.DISK and (what := formats.foreign_elf(image)):
        raise ValueError(what)
    kernel = multiboot.parse(image, args.append) if kind is disk.DiskKind.MULTIBOOT else None
    return _Guest(disk.drives(image, kind), kernel)


def _timeout(args: argparse.Namespace) -> float | None:
    if args.timeout is None and any(isinstance(step, Expect) for step in args.script):
        return _EXPECT_TIMEOUT
    return float(args.timeout) if args.timeout else None


def _run(boot: Boot, vcpu: RemoteVcpu, shim: Shim, args: argparse.Namespace) -> int:
    console = open_console(quiet=args.json, escape=args.escape)
    try:
        outcome = boot.run(vcpu, console)
    finally:
        console.close()
    with _usable():
        if args.screenshot:
            write_screenshot(boot.pc, args.screenshot)
        if args.dump_memory:
            write_dump(boot.pc, args.dump_memory)
    counters: dict[str, tuple[int, int]] = {}
    there = outcome.reason not in (BootEnd.LOST, BootEnd.RUN_LOST) and outcome.answers and shim.lost is None
    if there:
        try:
            counters = _compare(shim)
        except SessionLost:  # the daemon may be gone by now
            there = False
    if not there:
        shim.close(bye=False)  # nobody is there to say goodbye to
    if args.json:
        print(json.dumps(_report(outcome, shim, counters) | {"successions": vcpu.successions}, indent=2))
    else:
        print(f"x86-dm boot: {outcome.detail}", file=sys.stderr)
        if args.stats:
            _print_stats(outcome, shim, counters)
    return outcome.exit_code


def _compare(shim: Shim) -> dict[str, tuple[int, int]]:
    """Return each counter as counted here and by the daemon."""
    ours: ClientStats = shim.stats()
    theirs = shim.counters(_COUNTERS_TIMEOUT).vcpus
    return {
        name: (getattr(ours, here), sum(getattr(vcpu, there) for vcpu in theirs))
        for name, (here, there) in _COUNTERS.items()
    }


def _report(outcome: BootOutcome, shim: Shim, counters: dict[str, tuple[int, int]]) -> dict[str, Any]:
    stats = outcome.stats
    return {
        "outcome": str(outcome.reason),
        "detail": outcome.detail,
        "screen": outcome.screen,
        "serial": outcome.serial,
        "post": outcome.post,
        "exit_value": outcome.exit_value,
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
            "interrupts": stats.interrupts,
            "firmware": {f"{vector:#04x}": n for vector, n in sorted(outcome.firmware.items())},
            "shim": {name: pair[0] for name, pair in counters.items()},
            "daemon": {name: pair[1] for name, pair in counters.items()},
        },
    }


def _print_stats(outcome: BootOutcome, shim: Shim, counters: dict[str, tuple[int, int]]) -> None:
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


def _fail(args: argparse.Namespace, status: int, error: object) -> int:
    """Say why nothing was booted, as JSON if requested; returns ``status``."""
    print(f"x86-dm boot: {error}", file=sys.stderr)
    if args.json:
        print(json.dumps({"outcome": "not-started", "detail": str(error)}, indent=2))
    return status
