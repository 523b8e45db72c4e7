"""Operand forms and decode rows: the opcode map parsed into data.

:data:`ROWS` is what decoders, disassembler and coverage report are made from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dm.isa.lineage import MODEL, Lineage
from dm.isa.map import opcodes

#: Opcode maps: one byte, 0F, 0F 38, 0F 3A, and those that a VEX prefix selects.
MAPS: Final = ("", "0F", "0F38", "0F3A", "VEX0F38", "VEX0F3A")
#: VEX.mmmmm -> the map it selects; others have no instruction outside AVX.
VEX_MAPS: Final = {2: MAPS.index("VEX0F38"), 3: MAPS.index("VEX0F3A")}
#: Mandatory prefixes in decode order.
PREFIXES: Final = ("NP", "66", "F3", "F2")
#: Prefix of a row -> those it is there with; NFx is the manual's "neither F2 nor F3".
_TAKES: Final = {"": PREFIXES, "NFx": ("NP", "66"), **{prefix: (prefix,) for prefix in PREFIXES}}

#: Register operands that need no bits in the instruction: name -> (class, number).
FIXED: Final = {
    **{name: ("g8", i) for i, name in enumerate(("AL", "CL", "DL", "BL", "AH", "CH", "DH", "BH"))},
    "AX": ("g16", 0),
    "DX": ("g16", 2),
    "eAX": ("gv", 0),
    **{name: ("seg", i) for i, name in enumerate(("ES", "CS", "SS", "DS", "FS", "GS"))},
}


@dataclass(frozen=True)
class Row:
    """One row of the opcode map.

    ``reg``: required ModRM.reg, or -1; ``third``: required whole ModRM byte, or -1 (``0F 01 C8``).  ``mod``: ``"rm"``
    any, ``"m"`` memory only, ``"r"`` register only, ``"R"`` register whatever mod says (MOV to and from CR, DR, TR),
    ``""`` no ModRM byte.  ``last``: the last of the opcodes it stands for.  ``plus``: these name a register.
    ``names``: mnemonic for 16- and 32-bit operand size.
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
    attributes: frozenset[str]
    text: str

    def __str__(self) -> str:
        """Return its line in the map, without attributes."""
        return self.text

    @property
    def mnemonic(self) -> str:
        """Name of the description in dm.isa: that of the 16-bit form, with MOV to CR/DR and segments told apart."""
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
        """The part that brought it, as :data:`dm.isa.features.MODELS` numbers them: 2 the 80286 ... 6 the P6."""
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
        """Whether the part has it."""
        until = next((int(a[6:]) for a in self.attributes if a.startswith("until:")), 6)
        others = {"intel": Lineage.AMD, "amd": Lineage.INTEL}
        vendor = all(part is not other for name, other in others.items() if name in self.attributes)
        return self.since <= MODEL[part] <= until and vendor

    @property
    def reg_class(self) -> str:
        """What ModRM.reg names: ``g8`` a byte register, ``g`` a word or dword one, ``plain`` anything else."""
        form = next((o for o in self.operands if o[0] in "GSCDT" and o not in FIXED), "")
        return "g8" if form == "Gb" else "g" if form[:1] == "G" else "plain"

    @property
    def rm_class(self) -> str:
        """The same for ModRM.rm in register form, or for the register in the opcode."""
        return "g8" if any(o in ("Eb", "Zb") for o in self.operands) else "g"

    @property
    def imm2_class(self) -> str:
        """The same for the second immediate, whose place VEX.vvvv takes."""
        return "g" if "Bd" in self.operands else "plain"

    @property
    def addressed(self) -> bool:
        """Whether the address size matters although there is no ModRM byte (strings, moffs, XLAT, LOOP, JCXZ)."""
        return not self.mod and (
            any(o[0] in "XYO" for o in self.operands) or self.mnemonic in ("XLAT", "LOOP", "LOOPE", "LOOPNE", "JCXZ")
        )

    @property
    def immediates(self) -> tuple[str, ...]:
        """Immediate operands in encoding order (Ib Iw Iz Is Jb Jz Ap Ob Ov)."""
        return tuple(o for o in self.operands if o in ("Ib", "Iw", "Iz", "Is", "Jb", "Jz", "Ap", "Ob", "Ov"))


_ROW = re.compile(
    r"(?P<vex>VEX )?(?:(?P<prefix>NP|NFx|66|F2|F3) )?(?P<bytes>(?:0F (?:3[8A] )?)?[0-9A-F]{2})"
    r"(?:(?P<plus>\+r)|-(?P<last>[0-9A-F]{2}))?"
    r"(?P<third> [0-9A-F]{2})?(?: /(?P<reg>[r0-7]))? +"
    r"(?P<name>[A-Z][A-Z0-9/]*)(?: (?P<operands>[^ ;]+))? *(?:; *(?P<attributes>.*))?$"
)


def parse(line: str) -> Row:
    """Parse one line of the map.

    Raises:
        ValueError: the line is not in the notation.
    """
    match = _ROW.match(line.strip())
    if not match:
        raise ValueError(f"opcode map: cannot read {line!r}")
    codes = match["bytes"].split()
    third = int(match["third"], 16) if match["third"] else -1
    operands = tuple(match["operands"].split(",")) if match["operands"] else ()
    mod = ""
    if match["reg"] or third >= 0:
        mod = "rm"
        for o in operands:
            if o[0] == "M":
                mod = "m"
            elif o[0] == "R" and (len(o) == 1 or o[1] in "dv"):
                mod = "r"
        if third >= 0:
            mod = "r"
        if any(o in ("Cd", "Dd", "Td") for o in operands):
            mod = "R"
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
