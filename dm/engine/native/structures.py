"""Prints the structures of the state and their conversion, from the state table."""

from __future__ import annotations

from typing import Final

from dm.machine.state import FIELDS, GROUPS, Seg

#: Fields that few instructions write: they come last, and are saved only for those instructions.
COLD: Final = frozenset(row.name for row in FIELDS if row.group in ("msrs", "fpu"))


def _ctype(width: int) -> str:
    return f"uint{next(w for w in (8, 16, 32, 64) if w >= width)}_t"


def fields_header() -> str:
    """Return struct segment and struct arch (what a fault rolls back), and the form in which Python passes a state."""
    parts = [row for row in FIELDS if row.name.startswith("seg.")]
    rest = [row for row in FIELDS if not row.name.startswith("seg.") and row.name not in ("gpr", "rip", "rflags")]
    lines = ["#ifndef DM_FIELDS_H", "#define DM_FIELDS_H", "", "struct segment {"]
    lines += [f"    {_ctype(row.width)} {row.name[4:]};" for row in sorted(parts, key=lambda row: -row.width)]
    lines += [
        "    /* derived: see dm.isa.cells */",
        "    uint64_t read_end, write_end, change_end;",
        "};",
        "",
        "struct arch {",
        "    uint64_t gpr[9]; /* the last one is always zero */",
        "    uint32_t eip, flags, fr, fc;",
        f"    struct segment seg[{len(Seg)}];",
        "    /* derived from segments */",
        "    uint32_t stack_mask;",
        "    uint64_t code_end;",
        "    uint8_t shadow_next;",
    ]
    for row in sorted(rest, key=lambda row: row.name in COLD):
        lines.append(f"    {_ctype(row.width)} {row.name}{f'[{row.count}]' if row.count else ''}; /* {row.doc} */")
    first_cold = next(row.name for row in rest if row.name in COLD)
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
