"""Random ring-3 cases for the live host oracle: segments of every shape, 16- and 32-bit code, any opcode.

A case is what one row of the recorded ring-3 set is (dm.vectors.hwamd), before hardware has run it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dm.isa.map.decode import lookup
from dm.isa.map.forms import PREFIXES, VEX_MAPS

ARENA = 0x40000
CODE = 0x30000
CODE_LENGTH = 16
ALIGNMENT_CHECKS = 0.08  # fraction of the cases with EFLAGS.AC set
CODE16, CODE32 = 1, 2  # entries of every LDT: code from CODE on, 64 KiB, 16- and 32-bit

_PREFIXES = (0x66, 0x67, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
_STRINGS = frozenset({0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F})

# Opcodes that cannot be compared here, by reason.
# Another instruction set under the same byte in a 64-bit kernel's compatibility mode, or executed by the kernel:
_SYSTEM_CALLS = frozenset({0x05, 0x07, 0x34, 0x35})
# x87, MMX, SSE: carried, not executed.
_FLOATING = frozenset(range(0xD8, 0xE0)) | {0x9B}
_SIMD = (
    frozenset(range(0x10, 0x18)) | frozenset(range(0x28, 0x30)) | frozenset(range(0x50, 0x80))
    | {0xC2, 0xC4, 0xC5, 0xC6} | frozenset(range(0xD0, 0xFF)) | {0xAE, 0xC3}
)  # fmt: skip
# Results that depend on the machine: time, identity, other features of the host than those modelled.
_MACHINE = frozenset(
    {0x00, 0x01, 0x02, 0x03, 0x31, 0x33, 0xA2, 0x0D, 0x0E, 0x0F, 0x3A, 0x1A, 0x1B, 0x1C, 0x1E, 0x36, 0x37, 0x39}
)
#: The kernel's code and data segments of level 3 in the host's GDT: the engine's has none there.
_HOST_SEGMENTS = frozenset({0x20, 0x28, 0x30})
# 0F 38: all but MOVBE, CRC32, ADCX, ADOX.
_KNOWN_38 = frozenset({0xF0, 0xF1, 0xF6})
# VEX.mmmmm and opcode: BMI1 and BMI2.
_KNOWN_VEX = {2: (0xF2, 0xF3, 0xF5, 0xF6, 0xF7), 3: (0xF0,)}


@dataclass
class Request:
    """One case: ``gpr`` in encoding order, ``seg`` ES CS SS DS FS GS, ``patches`` (offset in the arena, bytes)."""

    code32: int
    code: bytes
    gpr: list[int]
    seg: list[int]
    eip: int
    eflags: int
    patches: list[tuple[int, bytes]]
    ldt: int


def prefix_length(code: bytes) -> int:
    """Return how many prefix bytes ``code`` starts with, at most all but one."""
    n = 0
    while n < len(code) - 1 and code[n] in (*_PREFIXES, 0xF0, 0xF2, 0xF3):
        n += 1
    return n


def comparable(code: bytes) -> bool:
    """Return whether hardware's answer to this instruction says anything about the CPU modelled."""
    n = prefix_length(code)
    if n > 11:
        return n < len(code) - 1  # too long whatever it is
    op, after = code[n], code[n + 1]
    if op in _FLOATING or op in (0xCD, 0xF1):
        return False
    if op in (0x62, 0xC4, 0xC5) and after >= 0xC0:
        # Not EVEX, nor the rest of VEX, of which hardware fetches operands before it refuses it.
        found = VEX_MAPS.get(after & 31, 0) if op == 0xC4 else 0
        return bool(found) and lookup(found, code[n + 3], PREFIXES[code[n + 2] & 3], code[n + 4]) is not None
    if op in (0x9A, 0xEA) and any(
        int.from_bytes(code[at : at + 2], "little") & ~3 in _HOST_SEGMENTS for at in (n + 3, n + 5)
    ):
        return False
    if op == 0x8F and after & 0x38:
        return False  # XOP on some parts
    if op in (0xC6, 0xC7) and after == 0xF8:
        return False  # XABORT and XBEGIN: some of Intel's parts run them although CPUID does not show RTM
    if op == 0x17 or (op == 0x8E and after >> 3 & 7 == 2):
        return False  # the MOV SS shadow lets the next instruction run too
    if op != 0x0F:
        return True
    if after in _SYSTEM_CALLS or after in _SIMD or after in _MACHINE or after == 0xB2:
        return False
    if after == 0x38:
        return code[n + 2] in _KNOWN_38 and not (code[n + 2] == 0xF6 and not {0x66, 0xF3} & set(code[:n]))
    return not (after == 0xC7 and code[n + 2] >> 3 & 7 != 1)


def make_ldt(rng: random.Random) -> list[list[int]]:
    """Return LDT entries (index, base, limit, big, contents, read_exec_only, pages, not_present)."""
    entries = [[CODE16, CODE, 0xFFFF, 0, 2, 0, 0, 0], [CODE32, CODE, 0xFFFF, 1, 2, 0, 0, 0]]
    for index in range(3, 11):
        contents = rng.choice((0, 0, 0, 0, 1, 1, 2))
        limit = rng.choice((0xFF, 0xFFF, 0x7FFF, 0xFFFF, 0xFFFF, rng.randrange(0x10000)))
        pages = 0
        if rng.random() < 0.15:
            pages, limit = 1, rng.choice((0, 1, 7, 15, 31))
        base = rng.choice((0, 0, 0x100, 0x1000, rng.randrange(0x20000)))
        entries.append(
            [index, base, limit, rng.getrandbits(1), contents, int(rng.random() < 0.2), pages, int(rng.random() < 0.02)]
        )
    return entries


def _number(rng: random.Random) -> int:
    match rng.randrange(10):
        case 0:
            return rng.choice(
                (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
            )
        case 1:
            return 0xFFFF - rng.randrange(9)
        case 2:
            return rng.getrandbits(32)
        case 3:
            return (1 << rng.randrange(32)) - rng.randrange(2)
        case 4 | 5:
            return rng.getrandbits(32) & 0xFFFF0000 | rng.randrange(0x10000)
        case 6:
            return rng.randrange(0x200)
    return rng.randrange(0x10000)


def _instruction(rng: random.Random) -> bytes:
    while True:
        prefixes = bytes(rng.choice(_PREFIXES) for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3))))
        if rng.random() < 0.06:
            prefixes += b"\xf0"
        if rng.random() < 0.002:
            prefixes *= 5
        body = bytearray(rng.randbytes(CODE_LENGTH))
        if rng.random() < 0.4:
            body[0] = 0x0F
        elif rng.random() < 0.02:
            body[0], body[1] = 0xC4, 0xC0 | body[1] & 0x20 | rng.choice((2, 2, 2, 3))
            body[3] = rng.choice(_KNOWN_VEX[body[1] & 31])
        repeat = 0.6 if body[0] in _STRINGS else 0.05
        if rng.random() < repeat:
            prefixes += bytes([rng.choice((0xF2, 0xF3))])
        if rng.random() < 0.5:
            body[2] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(33)))
        code = (prefixes + bytes(body))[:CODE_LENGTH]
        if comparable(code):
            return code


def make_case(rng: random.Random, ldts: list[list[list[int]]]) -> Request:
    """Return one random case on a random one of ``ldts``."""
    which = rng.randrange(len(ldts))
    ldt = ldts[which]
    code32 = rng.getrandbits(1)
    data = [e for e in ldt if e[0] >= 3]
    usable = [e for e in data if e[4] < 2 and not e[5] and not e[7]] or [e for e in data if e[4] < 2 and not e[7]]
    stacks = [e for e in data if e[4] < 2 and not e[5] and not e[7]]
    if not stacks:
        return make_case(rng, ldts)

    def pick() -> int:
        if rng.random() < 0.03:
            return 0  # null; with another RPL the kernel's own IRET would clear it
        entry = rng.choice(usable if rng.random() < 0.7 else data)
        if entry[7]:  # not present: cannot be loaded
            return 0
        if entry[4] == 2 and entry[5]:  # execute-only code cannot be loaded either
            return 0
        return entry[0] << 3 | 7

    stack = rng.choice(stacks)
    seg = [pick(), (CODE32 if code32 else CODE16) << 3 | 7, stack[0] << 3 | 7, pick(), pick(), pick()]
    code = _instruction(rng)
    gpr = [_number(rng) for _ in range(8)]
    if rng.random() < 0.85:
        top = stack[2] << 12 | 0xFFF if stack[6] else stack[2]
        low, high = (min(top + 1, 0xFFFF), 0xFFFF) if stack[4] == 1 else (0, min(top, 0xFFFF))
        gpr[4] = gpr[4] & 0xFFFF0000 * (not stack[3]) | rng.randint(low, high) & (
            0xFFFC if rng.random() < 0.8 else 0xFFFF
        )
    if rng.random() < 0.9:
        gpr[1] = gpr[1] & 0xFFFF0000 * rng.getrandbits(1) | rng.randrange(40)
    if any(b in _STRINGS for b in code[:5]):
        gpr[1] &= 0xFFFF001F  # a short REP in 16-bit addresses; the 32-bit ones are mostly cut below
        if rng.random() < 0.9:
            gpr[1] &= 0x1F
    eip = rng.choice((0x100, 0x200, rng.randrange(0xFF00), rng.randrange(0xFF00)))
    if rng.random() < 0.02:
        eip = 0xFFFF - rng.randrange(CODE_LENGTH)
    patches = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        entry = rng.choice(data)
        offset = (entry[1] + rng.choice(gpr) % 0x10000) % (CODE - 16)
        value = rng.choice(
            (bytes(8), b"\xff" * 8, rng.choice((entry[0] << 3 | 7, 0)).to_bytes(2, "little") * 4, rng.randbytes(8))
        )
        patches.append((offset, value))
    # Arithmetic flags, DF less often, AC (alignment checks: the kernel has CR0.AM set) rarely; NT and ID are clear.
    eflags = rng.getrandbits(32) & 0x8D5 | 2 | (0x400 if rng.random() < 0.3 else 0)
    eflags |= 0x40000 if rng.random() < ALIGNMENT_CHECKS else 0
    return Request(code32, code, gpr, seg, eip, eflags, patches, which)
