"""The rows of the opcode map, parsed into data; their operands are those of :mod:`dm.isa.map.operands`.

:data:`ROWS` is what decoders, disassembler, assembler and coverage report are made from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

from dm.isa.lineage import MODEL, Lineage
from dm.isa.map import opcodes
from dm.isa.map.operands import CONTROL, DEBUG, NUMBERS, TEST, Immediate, OperandForm, Place, operand_form

#: Opcode maps: one byte, 0F, 0F 38, 0F 3A, and those that a VEX prefix selects.
MAPS: Final = ("", "0F", "0F38", "0F3A", "VEX0F38", "VEX0F3A")
#: VEX.mmmmm -> the map it selects; others have no instruction outside AVX.
VEX_MAPS: Final = {2: MAPS.index("VEX0F38"), 3: MAPS.index("VEX0F3A")}
#: Mandatory prefixes in decode order.
PREFIXES: Final = ("NP", "66", "F3", "F2")
#: Prefix of a row -> those it is there with; NFx is the manual's "neither F2 nor F3".
_TAKES: Final = {"": PREFIXES, "NFx": ("NP", "66"), **{prefix: (prefix,) for prefix in PREFIXES}}

#: All ModRM bytes, and those that address memory, as sets of bits.
_ANY: Final = (1 << 256) - 1
MEMORY: Final = (1 << 0xC0) - 1


@dataclass(frozen=True)
class Row:
    """One row of the opcode map.

    ``reg``: required ModRM.reg, or -1; ``third``: required whole ModRM byte, or -1 (``0F 01 C8``).  ``mod``: ``"rm"``
    any, ``"m"`` memory only, ``"r"`` register only, ``"R"`` register whatever mod says (MOV to and from CR, DR, TR),
    ``""`` no ModRM byte.  ``last``: the last of the opcodes it stands for.  ``plus``: these name a register.
    ``names``: mnemonic for 16- and 32-bit operand size.  ``operands`` and ``forms``: its operands, in words and parsed.
    """

    map: int
    opcode: int
    last: int
    prefix: str
    reg: int
    third: int
    mod: str
    plus: bool
    names: tuple[str, str]
    operands: tuple[str, ...]
    forms: tuple[OperandForm, ...]
    attributes: frozenset[str]
    text: str

    def __str__(self) -> str:
        """Return its line in the map, without attributes."""
        return self.text

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Classes of mandatory prefixes (of :data:`PREFIXES`) that it is there with."""
        return _TAKES[self.prefix]

    @cached_property
    def modrm(self) -> int:
        """ModRM bytes that it is there with, bit n for byte n; all where it has none."""
        if not self.mod:
            return _ANY
        if self.third >= 0:
            return 1 << self.third
        found = {"m": MEMORY, "r": _ANY ^ MEMORY}.get(self.mod, _ANY)
        return found if self.reg < 0 else found & sum(0xFF << (mod | self.reg << 3) for mod in (0, 0x40, 0x80, 0xC0))

    @property
    def rank(self) -> int:
        """Which row of several that take the same bytes is meant: the one of the highest rank."""
        return 0 if "undefined" in self.attributes else 1 if "fallback" in self.attributes else 2

    @property
    def mnemonic(self) -> str:
        """The name its description has in :data:`dm.isa.insn.DESCRIPTIONS`: that for 16-bit operand size."""
        return self.names[0]

    @property
    def vex(self) -> bool:
        """Whether it is encoded with a VEX prefix."""
        return self.map in VEX_MAPS.values()

    @property
    def feature(self) -> str:
        """CPUID feature it needs, or an empty string."""
        return next((a[6:] for a in self.attributes if a.startswith("cpuid:")), "")

    @property
    def since(self) -> int:
        """The CPU model that introduced it, numbered as in :data:`dm.isa.features.MODELS`: 2 the 80286 ... 6 the P6."""
        for attribute in self.attributes:
            if attribute.startswith("since:"):
                return int(attribute[6:])
        if self.map > 1 or (self.feature and "optional" not in self.attributes):
            return 6
        if self.map == 0:
            return 2
        listed = (n for n, ranges in opcodes.SINCE.items() if any(a <= self.opcode <= b for a, b in ranges))
        return next(listed, 6)

    def on(self, part: Lineage) -> bool:
        """Whether processors of this lineage have it."""
        until = next((int(a[6:]) for a in self.attributes if a.startswith("until:")), 6)
        others = {"intel": Lineage.AMD, "amd": Lineage.INTEL}
        vendor = all(part is not other for name, other in others.items() if name in self.attributes)
        return self.since <= MODEL[part] <= until and vendor

    @property
    def addressed(self) -> bool:
        """Whether the address size matters although there is no ModRM byte (strings, moffs, XLAT, LOOP, JCXZ)."""
        return not self.mod and (
            any(form.memory for form in self.forms) or self.mnemonic in ("XLAT", "LOOP", "LOOPE", "LOOPNE", "JCXZ")
        )

    @cached_property
    def immediates(self) -> tuple[Immediate, ...]:
        """What it ends with: the first goes to field ``imm`` of the decoded instruction, the second to ``imm2``."""
        return tuple(immediate for form in self.forms for immediate in form.immediates)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Field of the decoded instruction that each operand is in; empty for those that are implied."""
        found, taken = [], 0
        for form in self.forms:
            if form.immediates:
                found.append(("imm", "imm2")[taken])
                taken += len(form.immediates)
            elif form.place is Place.OFFSET:
                found.append("disp")
            else:
                found.append(NUMBERS[form.place] if form.registers and form.place in NUMBERS else "")
        return tuple(found)

    def register(self, field: str) -> OperandForm | None:
        """Return the operand whose register's number is in a field of the decoded instruction; None: that is none."""
        for form, where in zip(self.forms, self.fields, strict=True):
            if where == field and form.place in NUMBERS:
                return form
        return None


_ROW = re.compile(
    r"(?P<vex>VEX )?(?:(?P<prefix>NP|NFx|66|F2|F3) )?(?P<bytes>(?:0F (?:3[8A] )?)?[0-9A-F]{2})"
    r"(?:(?P<plus>\+r)|-(?P<last>[0-9A-F]{2}))?"
    r"(?P<third> [0-9A-F]{2})?(?: /(?P<reg>[r0-7]))? +"
    r"(?P<name>[A-Z][A-Z0-9/]*)(?: (?P<operands>[^ ;]+))? *(?:; *(?P<attributes>.*))?$"
)


def parse(line: str) -> Row:
    """Parse one line of the map.

    Raises:
        ValueError: the line is not in the notation, or has an operand that is not.
    """
    match = _ROW.match(line.strip())
    if not match:
        raise ValueError(f"opcode map: cannot read {line!r}")
    codes = match["bytes"].split()
    third = int(match["third"], 16) if match["third"] else -1
    operands = tuple(match["operands"].split(",")) if match["operands"] else ()
    forms = tuple(map(operand_form, operands))
    mod = ""
    if any(form.registers in (CONTROL, DEBUG, TEST) for form in forms):
        mod = "R"
    elif third >= 0 or any(form.must_be_register for form in forms):
        mod = "r"
    elif match["reg"]:
        mod = "m" if any(form.must_be_memory for form in forms) else "rm"
    names = match["name"].split("/")
    opcode = int(codes[-1], 16)
    return Row(
        map=MAPS.index("VEX" * bool(match["vex"]) + "".join(codes[:-1])),
        opcode=opcode,
        last=int(match["last"], 16) if match["last"] else opcode + 7 * bool(match["plus"]),
        prefix=match["prefix"] or "",
        reg=int(match["reg"]) if match["reg"] and match["reg"] != "r" else -1,
        third=third,
        mod=mod,
        plus=bool(match["plus"]),
        names=(names[0], names[-1]),
        operands=operands,
        forms=forms,
        attributes=frozenset((match["attributes"] or "").split()),
        text=" ".join(line.split(";")[0].split()),
    )


def read(text: str) -> tuple[Row, ...]:
    """Return the rows of a map, a line each.

    Raises:
        ValueError: a line is not in the notation, or two rows take the same bytes on the same part and neither says
            that it takes what the other leaves.
    """
    rows = tuple(parse(line) for line in text.splitlines() if line.strip())
    by_opcode: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        for opcode in range(row.opcode, row.last + 1):
            by_opcode.setdefault((row.map, opcode), []).append(row)
    for both in {both for group in by_opcode.values() for both in combinations(group, 2)}:
        _refuse_overlap(*both)
    return rows


def _refuse_overlap(a: Row, b: Row) -> None:
    if not any(a.on(part) and b.on(part) for part in Lineage):
        return
    if bool(a.mod) != bool(b.mod):
        raise ValueError(f"opcode map: '{a}' or '{b}' has a ModRM byte, the other has none")
    if a.rank == b.rank and a.modrm & b.modrm and set(a.prefixes) & set(b.prefixes):
        raise ValueError(f"opcode map: '{a}' and '{b}' take the same bytes; one has to say that it is the fallback")


#: The whole map.
ROWS: Final[tuple[Row, ...]] = read(
    opcodes.ONE_BYTE + opcodes.X87 + opcodes.TWO_BYTE + opcodes.THREE_BYTE + opcodes.VEX + opcodes.SIMD
    + opcodes.ANNOUNCED + opcodes.UNDEFINED
)  # fmt: skip


def select(candidates: list[Row], prefix: str, modrm: int) -> Row | None:
    """Return the row that applies; None: #UD at once.

    Args:
        candidates: rows of the opcode.
        prefix: class of the mandatory prefix.
        modrm: the ModRM byte, any number where the opcode has none.
    """
    found = [row for row in candidates if prefix in row.prefixes and row.modrm >> modrm & 1]
    return max(found, key=lambda row: row.rank, default=None)
