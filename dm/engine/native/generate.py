"""Prints the instruction descriptions, the decoder's tables and the state structure as C.

Every form of every row of the opcode map becomes two functions: an *exact* handler, which goes through function calls
for everything, keeps a journal and works as a transaction, and, where it can be a leaf, a *fast* one (fast.h).  Forms
with the same text share one function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dm.engine.native import pairs
from dm.engine.native.digest import digest
from dm.isa import catalogue, cells, ends, insn
from dm.isa import primitives as p
from dm.isa.insn import Variant
from dm.isa.lineage import Lineage
from dm.isa.map import decode, forms
from dm.isa.map.forms import Row
from dm.machine import rules
from dm.machine.header import header
from dm.machine.state import FIELDS, GROUPS, Seg
from dm.microcode import Field, Microcode, MicrocodeError, Primitive, Procedure, Value
from dm.microcode.effects import is_transaction
from dm.microcode.ir import Block, Call, End, Get, If, Loop, Set, statements
from dm.microcode.print_c import CPrinter, CTarget

#: Procedures that the runtime calls by name, with their prototypes' parameter widths and result.
ENTRIES: Final[dict[str, tuple[tuple[int, ...], int]]] = {
    "segment_check": ((8, 32, 32, 1), 0),
    "page_walk": ((32, 8), 64),
    "raise_exception": ((8, 32, 32), 0),
    "deliver": ((), 0),
    "boundary": ((1,), 8),
    "enterable": ((8,), 1),
}

#: Answered by the outside, or recorded: where one of these stands, the handler had better run exactly at once.
_OUTSIDE: Final = frozenset(
    primitive.name
    for primitive in (
        *p.PORT_IN.values(),
        *p.PORT_OUT.values(),
        *p.PORT_IN_BLOCK.values(),
        *p.PORT_OUT_BLOCK.values(),
        p.MSR_READ,
        p.MSR_WRITE,
        p.TSC_READ,
        p.RANDOM,
    )
)

#: Members of struct cpu that are no part of the architectural state.
_ENGINE_CELLS: Final = frozenset({"features", "more_features", "vendor", "model", "delivering"})


def load_isa() -> dict[str, Procedure]:
    """Return the procedures of :data:`ENTRIES` by name.

    Raises:
        MicrocodeError: a procedure is missing or does not have the parameters the runtime passes.
    """
    found: dict[str, Procedure] = {}
    for module in [*catalogue.MODULES, rules]:
        for value in vars(module).values():
            if isinstance(value, Procedure) and value.name in ENTRIES:
                found[value.name] = value
    for name, (params, result) in ENTRIES.items():
        if name not in found:
            raise MicrocodeError(f"procedure {name} is not described in dm.isa or dm.machine.rules")
        made = found[name]
        if made.args != params or made.result != result:
            raise MicrocodeError(
                f"procedure {name} takes {made.args} and gives {made.result} bits, not {params}, {result}"
            )
    return found


# ------------------------------------------------------------------------------------------------ looking at microcode


@dataclass
class Uses:
    """What code and the procedures it calls make use of."""

    primitives: set[str] = field(default_factory=set)
    terminators: set[str] = field(default_factory=set)
    procedures: set[Procedure] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


_uses: dict[Procedure, Uses] = {}


def uses(code: Microcode) -> Uses:
    """Return everything that ``code`` reaches."""
    total = Uses()
    for s in statements(code.root):
        match s:
            case Call(target, _, _) if isinstance(target, Primitive):
                total.primitives.add(target.name)
            case Call(target, _, _) if isinstance(target, Procedure):
                if target not in _uses:
                    _uses[target] = Uses()
                    _uses[target] = uses(target.code)
                inner = _uses[target]
                total.procedures |= inner.procedures | {target}
                total.primitives |= inner.primitives
                total.reads |= inner.reads
                total.writes |= inner.writes
            case End(terminator, _, _):
                total.terminators.add(terminator.name)
            case Get(_, cell, _):
                total.reads.add(cell.name)
            case Set(cell, _, _):
                total.writes.add(cell.name)
            case _:
                pass
    return total


def can_be_fast(code: Microcode, used: Uses) -> bool:
    """Whether the code can run as a leaf that is simply started over when something is in its way."""
    if is_transaction(code) or used.primitives & _OUTSIDE:
        return False
    # Cell EIP is up to date only in exact mode; a lost compare-and-swap starts over.
    return cells.EIP.name not in used.reads and not _set_before_swap(code.root, False)[1]


def _set_before_swap(block: Block, changed: bool) -> tuple[bool, bool]:
    """Return (something architectural was set, that happened before a locked write)."""
    bad = False
    for s in block.body:
        match s:
            case Set(cell, _, _):
                changed = changed or cell.architectural
            case Call(target, _, _):
                bad = bad or (changed and target.name.startswith("rmw_locked_end"))
            case If(_, then, other):
                left, right = _set_before_swap(then, changed), _set_before_swap(other, changed)
                changed, bad = left[0] or right[0], bad or left[1] or right[1]
            case Loop(body):
                changed, inner = _set_before_swap(body, changed)
                bad = bad or inner
            case _:
                pass
    return changed, bad


# ------------------------------------------------------------------------------------------------ printing


class Target(CTarget):
    """How the native engine's machine is spelled."""

    row: Row | None = None

    def read(self, cell: Field, index: Value | None, index_text: str) -> str:
        """Expression for a cell; general registers are byte offsets in records, numbers elsewhere."""
        if cell.view:
            return f"{cell.name.upper()}({self._register(cell.width, index, index_text)})"
        where = "cpu->" if cell.name in _ENGINE_CELLS else "cpu->a."
        if "." in cell.name:
            array, part = cell.name.split(".", 1)
            return f"{where}{array}[{index_text}].{part}"
        return f"{where}{cell.name}[{index_text}]" if cell.count else f"{where}{cell.name}"

    def _register(self, width: int, index: Value | None, text: str) -> str:
        assert index is not None
        if index.op == "const":
            n = index.const
            return str((n & 3) * 8 + (n >> 2) if width == 8 else n * 8)
        if index.op == "arg" and index.m.is_handler:
            kind = self._class(index.name)
            if kind is None or (kind == "g8") != (width == 8):
                raise MicrocodeError(f"{index.m.name}: operand {index.name} does not name a {width}-bit register")
            return f"i->{index.name}"
        return f"(({text} & 3) * 8 + ({text} >> 2 & 1))" if width == 8 else f"({text} * 8)"

    def _class(self, name: str) -> str | None:
        assert self.row is not None
        if name in ("base", "index"):
            return "g"
        kind = {"reg": self.row.reg_class, "rm": self.row.rm_class, "imm2": self.row.imm2_class}.get(name)
        return None if kind == "plain" else kind

    def operand(self, name: str, width: int) -> str:
        """Expression for an operand of the record, as a number."""
        if name == "this_eip":
            return "(cpu->block_eip + i->offset)"
        if name == "next_eip":
            return "(cpu->block_eip + i->next)"
        kind = self._class(name)
        if kind == "g8":
            return f"(i->{name} >> 3 | (i->{name} & 1u) << 2)"
        return f"(i->{name} >> 3)" if kind == "g" else f"i->{name}"


@dataclass
class Form:
    """One form of a row: its functions, and what the run loop has to know of it (struct variant)."""

    row: int
    variant: Variant
    fast: str
    exact: str
    ends: bool
    falls: bool
    branches: bool
    cold: bool


_PLACE: Final = "HANDLER_NAME"
_LEAVES_BLOCK: Final = frozenset({"jump", "jump_indirect", "checkpoint", "transfer"})
_STAYS: Final = frozenset({"next", "repeat"})


class Output:
    """Everything that is printed, by file."""

    def __init__(self) -> None:
        self.entries = load_isa()
        self.target = Target()
        self.fast, self.exact = CPrinter(self.target, True), CPrinter(self.target, False)
        self.procedures: set[Procedure] = set()
        self.bodies: dict[tuple[str, str], str] = {}  # (kind, text) -> name
        self.groups: dict[tuple[str, str], list[str]] = {}  # (kind, group) -> names
        self.texts: dict[str, str] = {}
        self.forms: list[Form] = []
        self.pairs: list[tuple[str, str]] = []
        self._by_text: dict[str, list[Form]] = {}

    def expand(self) -> None:
        """Expand every form of every row.

        Raises:
            MicrocodeError: rows without a description, or a description that is wrong.
        """
        missing = sorted({row.mnemonic for row in forms.ROWS if row.mnemonic not in insn.DESCRIPTIONS})
        if missing:
            raise MicrocodeError(f"not described in dm.isa: {' '.join(missing)}")
        for number, row in enumerate(forms.ROWS):
            group = insn.DESCRIPTIONS[row.mnemonic].__module__.rpartition(".")[2]
            for variant in decode.variants(row):
                self._form(number, row, variant, group)
        for f in self.forms:
            self._by_text.setdefault(forms.ROWS[f.row].text, []).append(f)
        self.pairs = sorted({(self._find(first), self._find(second)) for first, second in pairs.pairs()})
        for entry in self.entries.values():
            self.procedures |= uses(entry.code).procedures | {entry}

    def _form(self, number: int, row: Row, variant: Variant, group: str) -> None:
        code = insn.expand(row, variant, _PLACE)
        used = uses(code)
        self.procedures |= used.procedures
        self.target.row = row
        if "jump" in used.terminators and {"Ap", "Iw"} & set(row.operands) and len(row.immediates) > 1:
            raise MicrocodeError(f"{row.text}: a direct jump needs the place of the second immediate")
        segment = "segment_changed" in used.primitives
        leaves = used.terminators & _LEAVES_BLOCK
        branches = leaves == {"jump"} and "next" in used.terminators
        ends = bool(leaves) and not branches
        fast = "leave_exact"
        if can_be_fast(code, used):
            fast = self._share("fast", group, row, self.fast.function(code), segment, branches)
        exact = self._share("exact", group, row, self.exact.function(code), segment, branches)
        falls = bool(used.terminators & _STAYS)
        self.forms.append(Form(number, variant, fast, exact, ends, falls, branches, bool(used.writes & _COLD)))

    def _find(self, form: pairs.Form) -> str:
        """Return the fast handler of a form; where the operand size makes no difference there is only that of 16 bits.

        Raises:
            MicrocodeError: there is no such form, or it cannot be fast.
        """
        found = {
            (f.variant.osize, f.variant.asize): f.fast
            for f in self._by_text[form.text]
            if f.variant.memory == form.memory and not f.variant.lock and not f.variant.rep
        }
        sizes = {asize: fast for (osize, asize), fast in found.items() if osize == form.osize} or {
            asize: fast for (_, asize), fast in found.items()
        }
        fast = sizes.get(form.asize) or (None if form.memory else next(iter(sizes.values()), None))
        if fast in (None, "leave_exact"):
            raise MicrocodeError(f"no fast handler to pair: {form}")
        return fast

    def _share(self, kind: str, group: str, row: Row, text: str, segment: bool, branches: bool) -> str:
        """Return the name of the function with this text."""
        if segment:
            text = text.replace("END_NEXT(", "END_NEXT_SEGMENT(")
        if branches:
            text = text.replace("END_JUMP(", "END_BRANCH(")
        name = self.bodies.get((kind, text))
        if name is None:
            # Named by content, so that a change elsewhere leaves this file's text alone.
            mark = hashlib.sha256(text.encode()).hexdigest()[:8]
            name = self.bodies[kind, text] = f"{kind}_{row.mnemonic.lower()}_{mark}"
            self.texts[name] = text.replace(_PLACE, name, 1)
            self.groups.setdefault((kind, group), []).append(name)
        return name

    def files(self) -> dict[str, str]:
        """Return file names and texts."""
        out = {"architecture.h": header(), "fields.h": fields_header(), "procedures.h": self._procedures_header()}
        for (kind, group), names in self.groups.items():
            for part, chunk in enumerate(_split([self.texts[name] for name in names], 260_000)):
                head = f'#include "{kind}.h"\n#include "labels.h"\n#include "procedures.h"\n\n'
                prototypes = "".join(f"HANDLER({name});\n" for name in names if f"HANDLER({name})" in "".join(chunk))
                out[f"{kind}_{group}_{part}.c"] = head + prototypes + "\n" + "\n".join(chunk)
        out |= self._pair_files()
        for part, chunk in enumerate(_split(self._procedure_texts(), 300_000)):
            out[f"procedures_{part}.c"] = (
                '#include "exact.h"\n#include "labels.h"\n#include "procedures.h"\n\n' + "\n".join(chunk)
            )
        out["labels.h"] = labels_header()
        out["tables.c"] = self._tables()
        out["state.c"] = state_source()
        out["digest.c"] = f'#include "cpu.h"\n\nconst char digest[] = DM_VARIANT "{digest()}";\n'
        return out

    def _pair_files(self) -> dict[str, str]:
        out = {}
        texts = [pairs.text(first, second, self.texts[first]) for first, second in self.pairs]
        seconds = sorted({second for _, second in self.pairs})
        head = '#include "fast.h"\n#include "labels.h"\n#include "procedures.h"\n\n'
        head += "\n".join(pairs.inline(second, self.texts[second]) for second in seconds) + "\n"
        for part, chunk in enumerate(_split(texts, 200_000)):
            names = [line for t in chunk for line in t.splitlines() if line.startswith("HANDLER(")]
            out[f"fast_pairs_{part}.c"] = head + "".join(f"{line};\n" for line in names) + "\n" + "\n".join(chunk)
        return out

    def _ordered(self) -> list[Procedure]:
        return sorted(self.procedures, key=lambda made: made.name)

    def _procedure_texts(self) -> list[str]:
        return [self.exact.function(made.code) for made in self._ordered()]

    def _procedures_header(self) -> str:
        lines = [f"{self.exact.prototype(made.code)};" for made in self._ordered()]
        return "#ifndef DM_PROCEDURES_H\n#define DM_PROCEDURES_H\n\n" + "\n".join(lines) + "\n\n#endif\n"

    def _tables(self) -> str:
        tops, leaves = decode.leaf_tables()
        lines = ['#include "cpu.h"', ""]
        names = sorted({f.fast for f in self.forms} - {"leave_exact"})
        lines += [f"handler {name};" for name in names]
        lines += [f"exact {name};" for name in sorted({f.exact for f in self.forms})]
        lines += [f"handler {pairs.name(*pair)};" for pair in self.pairs]
        firsts = {name: n + 1 for n, name in enumerate(sorted({first for first, _ in self.pairs}))}
        seconds = {name: n + 1 for n, name in enumerate(sorted({second for _, second in self.pairs}))}
        lines += ["exact exact_undefined;", "", "const struct variant variants[] = {"]
        lines.append("    {leave_exact, exact_undefined, true, false, false, false, 0, 0},")
        lines += [
            f"    {{{f.fast}, {f.exact}, {int(f.ends)}, {int(f.falls)}, {int(f.branches)}, {int(f.cold)}, "
            f"{firsts.get(f.fast, 0)}, {seconds.get(f.fast, 0)}}},"
            for f in self.forms
        ]
        across = len(seconds) + 1
        lines += ["};", "", f"const unsigned pair_seconds = {across};"]
        lines.append(f"handler *const pairs[{(len(firsts) + 1) * across}] = {{")
        lines += [f"    [{firsts[a] * across + seconds[b]}] = {pairs.name(a, b)}," for a, b in self.pairs]
        lines += ["};", "", "const struct row decode_rows[] = {"]
        for number, row in enumerate(forms.ROWS):
            lines.append(self._row(number, row))
        lines += ["};", "", "const struct top decode_tops[] = {"]
        lines += [f"    {{{leaf}, {int(modrm)}, {int(prefixed)}}}," for leaf, modrm, prefixed in tops]
        lines += ["};", "", f"const unsigned decode_map_size = {len(tops) // len(Lineage)};"]
        lines += ["", "const uint8_t decode_vex_maps[32] = {"]
        lines += [f"    [{selector}] = {number}," for selector, number in forms.VEX_MAPS.items()]
        lines += ["};", "", "const uint16_t decode_leaves[] = {"]
        for i in range(0, len(leaves), 24):
            lines.append("    " + " ".join(f"{leaf}," for leaf in leaves[i : i + 24]))
        lines += ["};", "", f"const unsigned label_count = {len(ends.CAUSES) + len(OWN_LABELS) + 1};"]
        lines.append('const char *const labels[] = {\n    "",')
        lines += [f'    "{cause}",' for cause in (*OWN_LABELS, *ends.CAUSES)]
        lines += ["};", ""]
        return "\n".join(lines)

    def _row(self, number: int, row: Row) -> str:
        table = [[[0] * 4 for _ in range(3)] for _ in range(2)]
        for index, f in enumerate(self.forms):
            if f.row == number:
                v = f.variant
                shape = (1 if v.asize == 16 else 2) if v.memory else 2 if v.asize == 32 else 0
                prefix = 1 if v.lock or v.rep == "rep" else {"": 0, "repe": 2, "repne": 3}[v.rep]
                table[v.osize == 32][shape][prefix] = index + 1
        codes = {
            "Ib": "IMM_IB2" if "Iw" in row.operands else "IMM_IB",
            "Iw": "IMM_IW",
            "Iz": "IMM_IZ",
            "Is": "IMM_IS",
            "Jb": "IMM_IS",
            "Jz": "IMM_JZ",
            "Ap": "IMM_AP",
            "Ob": "IMM_O",
            "Ov": "IMM_O",
        }
        immediates = [codes[o] for o in row.immediates]
        kind = {"plain": 0, "g": 1, "g8": 2}
        flags = [row.plus, row.addressed, "lock" in row.attributes, "rep" in row.attributes, "repz" in row.attributes]
        flags.append(row.imm2_class == "g")
        sizes = ", ".join("{" + ", ".join("{" + ", ".join(map(str, x)) + "}" for x in size) + "}" for size in table)
        return (
            f"    {{{['', 'rm', 'm', 'r', 'R'].index(row.mod)}, {kind[row.reg_class]}, {kind[row.rm_class]}, "
            f"{{{', '.join(immediates) or '0'}}}, {', '.join(str(int(x)) for x in flags)}, {{{sizes}}}}}, "
            f"/* {row.text} */"
        )


#: Reasons of the runtime's own, before those of the descriptions.
OWN_LABELS: Final = (
    "NO_SUCH_OPCODE",
    "ALIGNMENT",
    "CS_FETCH_LIMIT",
    "TOO_LONG",
    "MSR_REFUSED",
    "TOO_MANY_ACCESSES",
    "DIVERGED",
)


def labels_header() -> str:
    """Return the numbers of all causes; call it after everything has been expanded."""
    names = [*OWN_LABELS, *ends.CAUSES]
    lines = [f"    LABEL_{name} = {i + 1}," for i, name in enumerate(names)]
    return "#ifndef DM_LABELS_H\n#define DM_LABELS_H\n\nenum label {\n" + "\n".join(lines) + "\n};\n\n#endif\n"


def _split(texts: list[str], size: int) -> Iterator[list[str]]:
    """Yield stretches of about ``size`` characters."""
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if sum(map(len, chunk)) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ------------------------------------------------------------------------------------------------ state


#: Fields that few instructions write: they come last, and are saved only for those instructions.
_COLD: Final = frozenset(row.name for row in FIELDS if row.group in ("msrs", "fpu"))


def _ctype(width: int) -> str:
    return f"uint{next(w for w in (8, 16, 32, 64) if w >= width)}_t"


def fields_header() -> str:
    """Return struct segment and struct arch (what a fault rolls back), and the form in which Python passes a state."""
    parts = [row for row in FIELDS if row.name.startswith("seg.")]
    rest = [row for row in FIELDS if not row.name.startswith("seg.") and row.name not in ("gpr", "rip", "rflags")]
    lines = ["#ifndef DM_FIELDS_H", "#define DM_FIELDS_H", "", "struct segment {"]
    lines += [f"    {_ctype(row.width)} {row.name[4:]};" for row in sorted(parts, key=lambda row: -row.width)]
    lines += [
        "    /* last offset that may be read, written, both; -1 where segment_check has to decide */",
        "    int64_t read_top, write_top, change_top;",
        "};",
        "",
        "struct arch {",
        "    uint64_t gpr[9]; /* the last one is always zero */",
        "    uint32_t eip, flags, fr, fc;",
        f"    struct segment seg[{len(Seg)}];",
        "    /* derived from segments */",
        "    uint32_t stack_mask;",
        "    uint64_t cs_end; /* CS.limit + 1 */",
        "    uint8_t shadow_next;",
    ]
    for row in sorted(rest, key=lambda row: row.name in _COLD):
        lines.append(f"    {_ctype(row.width)} {row.name}{f'[{row.count}]' if row.count else ''}; /* {row.doc} */")
    first_cold = next(row.name for row in rest if row.name in _COLD)
    lines += ["};", "", f"#define ARCH_HOT offsetof(struct arch, {first_cold})", ""]
    lines += ["/* dm.machine.state.GROUPS in order, without padding */"]
    lines += ["struct __attribute__((packed)) wire_segment {"]
    lines += [f"    {_ctype(row.width)} {row.name[4:]};" for row in parts]
    lines += ["};", "", "struct __attribute__((packed)) wire {"]
    for group in GROUPS:
        if group == "segments":
            lines.append(f"    struct wire_segment seg[{len(Seg)}];")
            continue
        for row in FIELDS:
            if row.group == group:
                lines.append(f"    {_ctype(row.width)} {row.name}{f'[{row.count}]' if row.count else ''};")
    lines += ["};", "", "#endif", ""]
    return "\n".join(lines)


def state_source() -> str:
    """Return the conversion between struct wire and struct arch, field by field."""
    out = []
    for direction in ("take", "give"):
        pointer = "const struct wire *w" if direction == "take" else "struct wire *w"
        machine = "struct arch *a" if direction == "take" else "const struct arch *a"
        lines = [f"void {direction}_fields({machine}, {pointer})", "{"]

        def copy(
            left: str, right: str, count: int, blob: bool = False, lines: list[str] = lines, direction: str = direction
        ) -> None:
            to, source = (left, right) if direction == "take" else (right, left)
            if blob:  # byte by byte it would be most of an exchange's time in here
                lines.append(f"    memcpy({to}, {source}, {count});")
            elif count:
                lines.append(f"    for (unsigned n = 0; n < {count}; n++)\n        {to}[n] = {source}[n];")
            else:
                lines.append(f"    {to} = {source};")

        copy("a->gpr", "w->gpr", 8)
        lines.append(f"    for (unsigned s = 0; s < {len(Seg)}; s++) {{")
        for row in FIELDS:
            if row.name.startswith("seg."):
                name = row.name[4:]
                left, right = f"a->seg[s].{name}", f"w->seg[s].{name}"
                lines.append(f"        {left} = {right};" if direction == "take" else f"        {right} = {left};")
        lines.append("    }")
        for row in FIELDS:
            if not row.name.startswith("seg.") and row.name not in ("gpr", "rip", "rflags"):
                copy(f"a->{row.name}", f"w->{row.name}", row.count, row.blob)
        out.append("\n".join([*lines, "}", ""]))
    head = '#include "cpu.h"\n\nvoid take_fields(struct arch *, const struct wire *);\n'
    return head + "void give_fields(const struct arch *, struct wire *);\n\n" + "\n".join(out)


def generate(out: Path) -> list[Path]:
    """Write all generated files into ``out``, touching only those whose text changed, and nothing else that is there.

    Returns:
        The C files among them, in a fixed order.
    """
    output = Output()
    output.expand()
    files = output.files()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = out / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return [out / name for name in sorted(files) if name.endswith(".c")]
