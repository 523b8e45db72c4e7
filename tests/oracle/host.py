"""Runs cases on the host's own CPU (host.c) and gives them back as rows of the recorded ring-3 set."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import undefined
from generate import ARENA, CODE, Request, prefix_length

_ANSWER = struct.Struct("<8I2I6HHHII")
_NONE = 0xFFFF
_PAGE_FAULT = 14
_STEP_LIMIT = 4096

FLAGS = [
    "-O2", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector", "-mno-red-zone", "-fcf-protection=none", "-Wl,-z,now",
]  # fmt: skip


class HostError(Exception):
    """The host cannot run the oracle, or its program failed."""


def build(folder: Path) -> Path:
    """Compile host.c into ``folder`` and return the program.

    Raises:
        HostError: with the compiler's words.
    """
    program = folder / "host"
    source = Path(__file__).with_name("host.c")
    done = subprocess.run(["gcc", *FLAGS, str(source), "-o", str(program)], capture_output=True, text=True)
    if done.returncode:
        raise HostError(done.stderr)
    return program


def run(
    program: Path, ldts: list[list[list[int]]], requests: list[Request]
) -> tuple[list[list[Any]], list[tuple[int, ...]]]:
    """Run ``requests`` on the host.

    Returns:
        Rows of the recorded set (dm.vectors.hwamd.FIELDS) for the cases whose answer can be compared, and the host's
        CPUID rows (leaf, subleaf, EAX, EBX, ECX, EDX).

    Raises:
        HostError: the program died.
    """
    out = [struct.pack("<I", len(ldts))]
    for ldt in ldts:
        out.append(struct.pack("<I", len(ldt)))
        out += [struct.pack("<8I", *entry) for entry in ldt]
    out.append(struct.pack("<I", len(requests)))
    for r in requests:
        out.append(struct.pack("<8I2I6H2H16s", *r.gpr, r.eip, r.eflags, *r.seg, r.ldt, len(r.patches), r.code))
        out += [struct.pack("<II16s", offset, len(data), data) for offset, data in r.patches]
    done = subprocess.run([str(program)], input=b"".join(out), capture_output=True)
    if done.returncode:
        raise HostError(f"host program ended with {done.returncode}: {done.stderr.decode()}")
    data = done.stdout
    cpuid = [struct.unpack_from("<6I", data, 24 * n) for n in range(4)]
    position = 24 * 4
    rows = []
    for r in requests:
        *gpr, eip, eflags, es, cs, ss, ds, fs, gs, vector, count, error, steps = _ANSWER.unpack_from(data, position)
        position += _ANSWER.size
        changes = [struct.unpack_from("<II", data, position + 8 * n) for n in range(count)]
        position += 8 * count
        exception = None if vector == _NONE else (vector, error)
        row = _row(r, gpr, [es, cs, ss, ds, fs, gs], eip, eflags, changes, exception, steps, ldts[r.ldt])
        if row is not None:
            rows.append(row)
    return rows, cpuid


def _row(
    r: Request,
    gpr: list[int],
    seg: list[int],
    eip: int,
    eflags: int,
    changes: list[tuple[int, ...]],
    exception: tuple[int, int] | None,
    steps: int,
    ldt: list[list[int]],
) -> list[Any] | None:
    # The kernel's own segments, memory outside the arena and endless loops say nothing.
    if exception and exception[0] == _PAGE_FAULT:
        return None
    if steps >= _STEP_LIMIT or len(changes) >= 256:
        return None
    if any(s & 4 == 0 and s & ~3 and s != old for s, old in zip(seg, r.seg, strict=True)):
        return None
    op = r.code[prefix_length(r.code)]
    string = 0xA4 <= op <= 0xA7 or 0xAA <= op <= 0xAF
    if steps and not string:
        return None  # a loop onto itself: hardware made more than one step
    writes = [(offset, bytes([value])) for offset, value in changes]
    if op == 0x9C and not exception:
        writes = _without_trap_flag(r, gpr, ldt, writes)
    return [
        r.code32, r.code[: ARENA - CODE - r.eip], r.gpr, r.seg, r.eip, r.eflags, [list(p) for p in r.patches], r.ldt,
        dict(enumerate(gpr)), dict(enumerate(seg)), eip, eflags & 0x244CD5 | 2, writes,
        list(exception) if exception else None, 0 if exception else undefined.flags(r),
    ]  # fmt: skip


def _without_trap_flag(
    r: Request, gpr: list[int], ldt: list[list[int]], writes: list[tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """PUSHF pushed the trap flag that stepping needs: clear it in the second byte of the image."""
    stack = next(entry for entry in ldt if entry[0] == r.seg[2] >> 3)
    image = stack[1] + (gpr[4] & (0xFFFFFFFF if stack[3] else 0xFFFF)) & 0xFFFFFFFF
    found = dict(writes)
    pushed = found.get(image + 1, bytes([_before(r, image + 1)]))
    found[image + 1] = bytes([pushed[0] & ~1])
    return sorted(found.items())


def _before(r: Request, offset: int) -> int:
    """Return what the arena holds at ``offset`` before the case runs."""
    for start, data in [*reversed(r.patches), (CODE + r.eip, r.code)]:
        if start <= offset < start + len(data):
            return data[offset - start]
    return offset * 167 + (offset >> 8) * 13 + (offset >> 4) * 5 + 7 & 0xFF
