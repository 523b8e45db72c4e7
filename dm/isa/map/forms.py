"""The rows of the opcode map, parsed into data; their operands are those of :mod:`dm.isa.map.operands`.

:data:`ROWS` is what decoders, disassembler, assembler and coverage report are made from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
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
        if self.map > 1 or (self.feature and "fallback" not in self.attributes):
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


#: The whole map.
ROWS: Final[tuple[Row, ...]] = tuple(
    parse(line)
    for table in (
        opcodes.ONE_BYTE, opcodes.TWO_BYTE, opcodes.THREE_BYTE, opcodes.VEX, opcodes.SIMD, opcodes.ANNOUNCED,
        opcodes.UNDEFINED,
    )
    for line in table.splitlines()
    if line.strip()
)  # fmt: skip


def matches(row: Row, prefix: str, modrm: int) -> bool:
    """Return whether the row is the one for this mandatory-prefix class and ModRM byte (ignored without one)."""
    if prefix not in _TAKES[row.prefix]:
        return False
    if not row.mod:
        return True
    if row.third >= 0:
        return modrm == row.third
    if row.reg >= 0 and modrm >> 3 & 7 != row.reg:
        return False
    register = modrm >= 0xC0
    return row.mod in ("rm", "R") or register == (row.mod == "r")


def select(candidates: list[Row], prefix: str, modrm: int) -> Row | None:
    """Return the row that applies; None: #UD at once.

    A whole-byte row goes first, then one with a mandatory prefix, then any, last the undefined rest of a group.
    """
    found = [row for row in candidates if matches(row, prefix, modrm)]
    return max(found, key=_rank, default=None)


def _rank(row: Row) -> tuple[bool, bool, bool]:
    return "undefined" not in row.attributes, row.third >= 0, row.prefix != ""
