"""Which bytes are an instruction: every mandatory prefix of 0F, 0F 38 and 0F 3A, the map against the CPU it runs on.

Hardware says #UD or not; what it does otherwise is no matter here, so MMX, SSE and their successors are asked too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import host
from generate import CODE32, Request

from dm.isa import features
from dm.isa.lineage import lineage
from dm.isa.map import opcodes
from dm.isa.map.decode import decode
from dm.isa.map.forms import parse

pytestmark = pytest.mark.modify_ldt
UD = 6
DATA = 3
LDT = [[CODE32, 0x30000, 0xFFFF, 1, 2, 0, 0, 0], [DATA, 0, 0xFFFF, 0, 0, 0, 0, 0]]
PREFIXES = ("", "66", "f3", "f2")
#: After 0F: MMX and SSE; EMMS, fences and the like, POPCNT, RDRAND and the like are groups of their own.
TWO = (
    *range(0x10, 0x18),
    *range(0x28, 0x30),
    *range(0x50, 0x80),
    0xB8,
    0xC2,
    0xC3,
    0xC4,
    0xC5,
    0xC6,
    *range(0xD0, 0xFF),
)
#: Rows that CPUID announces and an operating system, or its hypervisor, may have switched off.
SWITCHED = {parse(line).text for line in opcodes.ANNOUNCED.splitlines() if line}


def encodings() -> Iterator[bytes]:
    """Yield prefix, opcode and ModRM: a register, and memory at [EBX]; all of x87."""
    for opcode in range(0xD8, 0xE0):
        for modrm in (*(3 | reg << 3 for reg in range(8)), *range(0xC0, 0x100)):
            yield bytes([opcode, modrm])
    for prefix in PREFIXES:
        for opcode in TWO:
            regs = range(8) if opcode in (0x71, 0x72, 0x73) else (0,)
            for modrm in (n for reg in regs for n in (0xC1 | reg << 3, 0x03 | reg << 3)):
                yield bytes.fromhex(prefix) + bytes([0x0F, opcode, modrm])
        for escape in (0x38, 0x3A):
            for opcode in range(256):
                for modrm in (0xC1, 0x03):
                    yield bytes.fromhex(prefix) + bytes([0x0F, escape, opcode, modrm])
        for opcode in (0xAE, 0xC7):
            for reg in range(8):
                for modrm in (0xC1 | reg << 3, 0x03 | reg << 3):
                    yield bytes.fromhex(prefix) + bytes([0x0F, opcode, modrm])


def test_the_map_and_this_cpu_agree_on_what_is_an_instruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [code.ljust(16, b"\x90") for code in encodings()]
    seg = [DATA << 3 | 7, CODE32 << 3 | 7, *[DATA << 3 | 7] * 4]
    gpr = [0, 0, 0, 0x100, 0x8000, 0, 0x200, 0x300]
    requests = [Request(1, code, gpr, seg, 0x100, 2, [], 0) for code in codes]
    monkeypatch.setattr(host, "_row", lambda r, gpr, seg, eip, eflags, changes, exception, *_: [r.code, exception])
    try:
        rows, cpuid = host.run(host.build(tmp_path), [LDT], requests)
    except host.HostError as error:
        pytest.skip(f"no modify_ldt or no compiler: {error}")
    table = {(row[0], row[1]): row[2:] for row in cpuid}
    shown = features.feature_mask(table)
    line = lineage(6, features.vendor(table))
    wrong, asked = [], 0
    for code, exception in rows:
        row = decode(code, True, line).row
        known = row is not None and "undefined" not in row.attributes
        if known and row is not None:
            announced = not row.feature or shown >> list(features.TABLE).index(row.feature) & 1
            if not announced or row.text in SWITCHED:
                continue  # a host may execute what it hides, and refuse what nobody has enabled
        asked += 1
        if known == (exception is not None and exception[0] == UD):
            wrong.append(f"{code[:5].hex(' ')}: {row}, hardware: {exception}")
    assert not wrong, f"{len(wrong)} of {asked}:\n" + "\n".join(wrong[:20])
    assert asked > 3000
