"""The opcode map and the disassembler compared with binutils' objdump, instruction by instruction.

Lengths must be equal, and so must mnemonic and operands once both are written by one convention.  What differs is
either in :data:`REVIEWED`, with the reason, or an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from dm.isa.map.decode import has_modrm, lookup
from dm.isa.map.disassembler import Line, disassemble
from dm.isa.map.forms import MAPS, VEX_MAPS, Row

# Every case has its own place, padded with NOPs, so that objdump is in step again at the next one.
_SLOT: Final = 32
_NOP: Final = b"\x90"
_CHUNK: Final = 20000

#: Prefixes before each opcode.
PREFIXES: Final = ("", "66", "67", "6667", "f2", "f3", "f0", "2e", "65", "66f2", "66f3", "f0f3")
#: What follows opcode and ModRM: an SIB byte, displacement, immediate; small and negative numbers.
_TAILS: Final = (bytes.fromhex("2412345678123456"), bytes.fromhex("9df0ffffff8f9aeb"))
#: ModRM bytes where not all 256 are tried: every register number with each kind of operand.
_MODRM: Final = tuple(
    mod | reg << 3 | rm for reg in range(8) for mod, rm in ((0, 4), (0, 6), (0x40, 5), (0x80, 1), (0xC0, 2))
)


def opcodes() -> Iterator[tuple[int, int, bytes]]:
    """Return every opcode as (map, opcode byte, its bytes); escapes and prefixes are none."""
    prefixes = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
    for number, escape in enumerate(MAPS):
        if number in VEX_MAPS.values():
            yield from _vex_opcodes(number)
            continue
        for opcode in range(256):
            if number == 0 and (opcode in prefixes or opcode == 0x0F):
                continue
            if number == 1 and opcode in (0x38, 0x3A):
                continue
            yield number, opcode, bytes.fromhex(escape) + bytes([opcode])


def _vex_opcodes(number: int) -> Iterator[tuple[int, int, bytes]]:
    """Return every opcode of a VEX map with each prefix in it; those listed also with registers, W and L."""
    selector = next(n for n, selected in VEX_MAPS.items() if selected == number)
    for opcode in range(256):
        for rest in (0x78, 0x50, 0xA8, 0x7C) if has_modrm(number, opcode) else (0x78,):
            for prefix in range(4):
                yield number, opcode, bytes([0xC4, 0xE0 | selector, rest | prefix, opcode])


def cases() -> Iterator[bytes]:
    """Return the byte strings to compare."""
    for number, opcode, code in opcodes():
        listed = lookup(number, opcode, "NP", 0)
        for prefix in PREFIXES:
            choice: Iterable[int] = _MODRM
            if not has_modrm(number, opcode):
                # A few numbers show whether objdump knows a ModRM byte.
                choice = _MODRM[:: 13 if number else 40]
            elif listed is not None and listed.operands[:1] in (("E",), ("M",), ("R",)):
                choice = _MODRM[::3]
            elif not prefix:
                choice = range(256)
            for n, modrm in enumerate(choice):
                yield bytes.fromhex(prefix) + code + bytes([modrm]) + _TAILS[n & 1]


@dataclass(frozen=True, slots=True)
class InsnText:
    """An instruction by one convention: length, mnemonic (empty: none) and operands."""

    length: int
    name: str
    operands: str

    def __str__(self) -> str:
        return f"{self.name or '(bad)'} {self.operands}".strip() + f" [{self.length}]"


# objdump's words for prefixes, those that say nothing about the instruction.
_IDLE: Final = frozenset(
    "data16 data32 addr16 addr32 cs ds es ss fs gs bnd notrack xacquire xrelease repz repnz rep".split()
)
_STRINGS: Final = frozenset(f"{name}{size}" for name in "movs stos lods scas cmps ins outs".split() for size in "bwd")
_CONDITIONS: Final = {"nb": "ae", "z": "e", "nz": "ne", "nbe": "a", "nl": "ge", "nle": "g"}
_OTHER_NAMES: Final = {"callf": "call", "jmpf": "jmp", "icebp": "int1", "salc": "salc"}


def _our_name(name: str, row: Row) -> str:
    if name in _STRINGS and not row.mod:
        return name[:-1]
    for start in ("cmov", "set", "j"):
        if name.startswith(start) and name[len(start) :] in _CONDITIONS:
            return start + _CONDITIONS[name[len(start) :]]
    return _OTHER_NAMES.get(name, name)


def ours(line: Line) -> InsnText:
    """Return our text by that convention."""
    if line.row is None or "undefined" in line.row.attributes:
        return InsnText(len(line.code), "", "")
    words = line.text.split(" ", 1)
    repeat = ""
    while words[0] in ("lock", "rep", "repe", "repne"):
        if words[0] != "lock":
            repeat = {"repe": "repz ", "repne": "repnz "}.get(words[0], "rep ")
        words = words[1].split(" ", 1)
    return InsnText(len(line.code), repeat + _our_name(words[0], line.row), words[1] if len(words) > 1 else "")


def theirs(lines: list[tuple[int, str]]) -> InsnText:
    """Return objdump's text by that convention; ``lines`` are (length, text) from the case's first byte on."""
    total = 0
    repeat = ""
    for length, line in lines:
        total += length
        words = re.sub(r"\(\d+ only\)", "", line.lower().split("#")[0]).split()
        while words and (words[0] in _IDLE or words[0] == "lock"):
            repeat = words[0] if words[0].startswith("rep") else repeat
            words = words[1:]
        if not words:
            continue  # prefixes on a line of their own
        if any("(bad)" in word for word in words):  # alone, or in the place of an operand
            return InsnText(total, "", "")
        name, operands = words[0], " ".join(words[1:])
        operands = re.sub(r"\+?e?[ir]?iz\*\d", "", operands).replace("+0x0]", "]")
        if name in ("movs", "stos", "lods", "ins", "outs") and repeat:
            name = f"rep {name}"  # F2 repeats them as F3 does
        elif name in ("cmps", "scas") and repeat:
            name = f"{'repnz' if repeat == 'repnz' else 'repz'} {name}"
        return InsnText(total, name, operands)
    return InsnText(total, "", "")


_TARGET: Final = re.compile(r"0x[0-9a-f]+$")


def same(a: InsnText, b: InsnText) -> bool:
    """Return whether ours and theirs are the same instruction; their mnemonics may end in a size."""
    if not a.name and not b.name:
        return True  # how long nothing is does not matter
    named = b.name == a.name or b.name.rstrip("bwdl") == a.name or b.name.rstrip("dw") == a.name.rstrip("dw")
    return named and a.length == b.length and _operands(a) == _operands(b)


def _operands(text: InsnText) -> str:
    if text.name[0] in "jcl" and _TARGET.match(text.operands):
        return hex(int(text.operands, 16) & 0xFFFF)  # objdump leaves 16-bit targets beyond 64 KiB
    return text.operands


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Disagreements that are meant: those whose description matches ``pattern`` throughout.

    ``since`` is the version of binutils with which the disagreement began.  A description is
    ``prefixes code: ours [length], objdump: theirs [length]``, all bytes in hex.
    """

    pattern: str
    reason: str
    since: tuple[int, int] = (0, 0)


def describe(code: bytes, a: InsnText, b: InsnText) -> str:
    """Return the description of a disagreement."""
    bare = code.lstrip(_PREFIX_BYTES)
    return f"{code[: len(code) - len(bare)].hex() or '-'} {bare.hex()}: {a}, objdump: {b}"


_PREFIX_BYTES: Final = bytes.fromhex("262e363e64656667f0f2f3")
# Behind our text: theirs of the same length, or none.
_EQUAL: Final = r" .*\[(?P<n>\d+)\], objdump: (?:\(bad\).*|.* \[(?P=n)\])"

REVIEWED: Final = (
    Reviewed(
        r"\w*f0\w* \w+: \(bad\) .*", "LOCK is #UD here where the instruction does not allow it; objdump prints it"
    ),
    Reviewed(rf"\S+ 0f\w*: (bnd|keylocker){_EQUAL}", "one row for many: who may use them is described"),
    Reviewed(r"\S+ (c[45]|62|8f)\w*: (avx|xop) .*", "AVX and XOP: only the prefix is looked at"),
    Reviewed(
        rf"\S+ 0f\w*: (wru?ssd|inve?v?pi?t?d?|movdir64b|enqcmds?|rstorssp|clrssbsy|vm\w+){_EQUAL}",
        "operands of what is not executed are written without their size",
    ),
    Reviewed(
        r"\S+ 0f(1[ab]|78|79|c5|d[67]|e7|f7)\w*: (\(bad\)|bnd) .*",
        "#UD with memory, with a register or with F3 (live oracle); objdump prints what it could have been",
    ),
    Reviewed(r"\S+ 0f3af0\w*: hreset .*", "HRESET is later than this objdump, or not followed by C0"),
    Reviewed(
        r"\S+ d[9c-f]\w*: (fcomp?|fxch|fstp|fstpnce) st\(\d\) \[(?P<n>\d+)\], objdump: \(bad\) \[(?P=n)\]",
        "another opcode of the same instruction, which parts execute",
    ),
    Reviewed(rf"\S+ 0ff0\w*: lddqu{_EQUAL}", "objdump writes no size"),
    Reviewed(rf"\w*66\w* 0fd6\w*: (movdq2q|movq2dq){_EQUAL}", "objdump takes both registers for XMM with 66 too"),
    Reviewed(
        r"\S+ 0f(38(8[0-2]|f[01c])|0e|24|26|37)\w*: \(bad\) .*",
        "registers where memory is needed, AMD's FEMMS, test registers of the 80386, GETSEC with a prefix: #UD",
    ),
    Reviewed(r"\S+ c4\w*: \(bad\) \[\d+\], objdump: (\{vex\} )?[vkt]\w+ .*", "AVX, AMX and the like: not here"),
    Reviewed(
        r"\w*(66|f[23])\w* c4\w*: \(bad\) .*",
        "VEX behind 66, F2 or F3 is #UD (SDM vol. 2, 2.3.2); objdump prints it",
    ),
    Reviewed(r"\S+ 0f01\w*: \(bad\) .*", "VMX, SVM, SGX, CET, PKU and the like in group 7: not in a P6"),
    Reviewed(r"\S+ 0f(ae|c7)\w*: \(bad\) .*", "XSAVE, CET, RDPID, VMX and the like in groups 9 and 15: not in a P6"),
    Reviewed(r"\S+ d6\w*: salc .*", "SALC exists on every part and in no assembler"),
    Reviewed(
        r"\S+ 0f(0d|18|1[a-e])\w*: nop .*", "hints (prefetch, MPX, CET, CLDEMOTE) do nothing here: NOPs of their length"
    ),
    Reviewed(rf"\S+ (0f0[23]|8e)\w*: (lar|lsl|mov){_EQUAL}", "the source is a word; objdump writes the whole register"),
    Reviewed(
        rf"\w*f2\w* 0fd0\w*: addsubps{_EQUAL}", "F2 counts before 66 (SDM vol. 2, 2.1.2); objdump has 66", (2, 44)
    ),
    Reviewed(
        rf"\S+ (63|0f0[01])\w*: (arpl|lldt|ltr|ver[rw]|lmsw){_EQUAL}",
        "the operands are words; objdump writes the whole register",
        (2, 44),
    ),
    Reviewed(rf"\S+ 0f01\w*: invlpg{_EQUAL}", "INVLPG takes an address, not a byte"),
    Reviewed(
        rf"\S+ e[01]\w*: repn?z loopn?e{_EQUAL}",
        "F2 and F3 before LOOPE and LOOPNE count on AMD's parts, so they are kept",
    ),
    Reviewed(rf"\S+ 0f09\w*: wbinvd{_EQUAL}", "prefixes are ignored (WBNOINVD is WBINVD where it does not exist)"),
    Reviewed(r"\w*f2\w* 0fb[cd]\w*: bs[fr] .*", "F2 is ignored before BSF and BSR"),
    Reviewed(
        rf"\w*f2\w* 90\w*: xchg{_EQUAL}", "F2 is ignored before XCHG of the accumulator with itself, which does nothing"
    ),
    Reviewed(r"\S+ dbe5\w*: \(bad\) .*", "FRSTPM is the 80287XL's alone: #UD on later parts (recorded on Intel's)"),
    Reviewed(
        rf"\S+ 0faef\w*: umonitor{_EQUAL}",
        "its register is as wide as an address; it is not executed, and shown as a doubleword",
    ),
    Reviewed(r"\S+ 0fae\w*: [ms]fence .*", "the register number in a fence is ignored (SDM vol. 2, MFENCE)"),
)


@cache
def version() -> tuple[int, int]:
    """Return the version of binutils, (2, 40) say.

    Raises:
        FileNotFoundError: there is no objdump.
        RuntimeError: it does not say.
    """
    done = subprocess.run(["objdump", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", done.stdout.partition("\n")[0])
    if found is None:
        raise RuntimeError(f"objdump --version says {done.stdout[:80]!r}")
    return int(found[1]), int(found[2])


def run_objdump(codes: list[bytes], code32: bool) -> list[list[tuple[int, str]]]:
    """Return, for each byte string, objdump's lines from its first byte on as (length, text).

    Raises:
        FileNotFoundError: there is no objdump.
        RuntimeError: objdump failed.
    """
    tool = shutil.which("objdump")
    if tool is None:
        raise FileNotFoundError("objdump is not installed; it belongs to binutils")
    with tempfile.NamedTemporaryFile() as image:
        image.write(b"".join(code.ljust(_SLOT, _NOP) for code in codes))
        image.flush()
        machine = "i386" if code32 else "i8086"
        words = [tool, "-D", "-w", "-z", "-b", "binary", "-m", machine, "-M", "intel", "--no-show-raw-insn", image.name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"objdump: {done.stderr.strip()}")
    found: list[list[tuple[int, str]]] = [[] for _ in codes]
    starts = [(int(at, 16), text) for at, text in re.findall(r"^ *([0-9a-f]+):\t(.*)$", done.stdout, re.MULTILINE)]
    ends = [at for at, _ in starts[1:]] + [len(codes) * _SLOT]
    for (at, text), end in zip(starts, ends, strict=True):
        slot = at // _SLOT
        if at == slot * _SLOT or (found[slot] and len(found[slot]) < 4):
            found[slot].append((end - at, text))
    return found


@dataclass
class DisassemblyComparison:
    """What a comparison has found; ``reviewed`` counts by reason, ``examples`` has all descriptions of each."""

    compared: int = 0
    reviewed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def compare(codes: Iterable[bytes], code32: bool) -> DisassemblyComparison:
    """Compare byte strings; see the module."""
    result = DisassemblyComparison()
    batch: list[bytes] = []
    for code in codes:
        batch.append(code)
        if len(batch) == _CHUNK:
            _compare_batch(batch, code32, result)
            batch = []
    if batch:
        _compare_batch(batch, code32, result)
    return result


def _compare_batch(codes: list[bytes], code32: bool, result: DisassemblyComparison) -> None:
    known = [row for row in REVIEWED if row.since <= version()]
    for n, (code, lines) in enumerate(zip(codes, run_objdump(codes, code32), strict=True)):
        line = disassemble(code.ljust(_SLOT, _NOP), code32, n * _SLOT)
        a, b = ours(line), theirs(lines)
        result.compared += 1
        if same(a, b):
            continue
        what = describe(code, a, b)
        row = next((row for row in known if re.fullmatch(row.pattern, what)), None)
        if row is not None:
            result.reviewed[row.reason] += 1
            result.examples.setdefault(row.reason, []).append(what)
        else:
            result.errors.append(f"{32 if code32 else 16}-bit {what}")
