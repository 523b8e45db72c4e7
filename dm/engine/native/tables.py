"""Prints the tables of the native engine: its decoder's, its handlers', and the causes of faults and exits."""

from __future__ import annotations

from typing import Final

from dm.engine.native.handlers import Handlers
from dm.engine.native.target import byte_index
from dm.isa import ends
from dm.isa.lineage import Lineage
from dm.isa.map import decode, forms
from dm.isa.map.forms import Row

#: Reasons of the runtime's own, before those of the descriptions.
OWN_LABELS: Final = (
    "TOO_MANY_ACCESSES",
    "DIVERGED",
)


def labels_header() -> str:
    """Return the numbers of all causes; call it after everything has been expanded."""
    names = [*OWN_LABELS, *ends.CAUSES]
    lines = [f"    LABEL_{name} = {i + 1}," for i, name in enumerate(names)]
    return "#ifndef DM_LABELS_H\n#define DM_LABELS_H\n\nenum label {\n" + "\n".join(lines) + "\n};\n\n#endif\n"


def tables_source(handlers: Handlers) -> str:
    """Return the tables of the decoder, of all forms, and of pairs; call it after everything has been expanded."""
    tops, leaves = decode.leaf_tables()
    lines = ['#include "cpu.h"', ""]
    lines += [f"handler {name};" for name in sorted({f.fast.name for f in handlers.forms if f.fast})]
    lines += [f"exact {name};" for name in sorted({f.exact.name for f in handlers.forms})]
    lines += [f"handler {pair.name};" for pair in handlers.pairs]
    firsts = {name: n + 1 for n, name in enumerate(sorted({pair.first.name for pair in handlers.pairs}))}
    seconds = {name: n + 1 for n, name in enumerate(sorted({pair.second.name for pair in handlers.pairs}))}
    lines += ["exact exact_undefined;", "", "const struct variant variants[] = {"]
    lines.append("    {leave_exact, exact_undefined, true, false, false, false, 0, 0},")
    for f in handlers.forms:
        fast = f.fast.name if f.fast else "leave_exact"
        lines.append(
            f"    {{{fast}, {f.exact.name}, {int(f.ends)}, {int(f.falls)}, {int(f.branches)}, {int(f.cold)}, "
            f"{firsts.get(fast, 0)}, {seconds.get(fast, 0)}}},"
        )
    across = len(seconds) + 1
    lines += ["};", "", f"const unsigned pair_seconds = {across};"]
    lines.append(f"handler *const pairs[{(len(firsts) + 1) * across}] = {{")
    lines += [
        f"    [{firsts[pair.first.name] * across + seconds[pair.second.name]}] = {pair.name},"
        for pair in handlers.pairs
    ]
    lines += ["};", "", "const struct row decode_rows[] = {"]
    for number, row in enumerate(forms.ROWS):
        lines.append(_row(handlers, number, row))
    lines += ["};", "", "const struct top decode_tops[] = {"]
    lines += [f"    {{{leaf}, {int(modrm)}, {int(prefixed)}}}," for leaf, modrm, prefixed in tops]
    lines += ["};", "", f"const unsigned decode_map_size = {len(tops) // len(Lineage)};"]
    lines += ["", "const uint8_t decode_vex_maps[32] = {"]
    lines += [f"    [{selector}] = {number}," for selector, number in forms.VEX_MAPS.items()]
    bytes_of = ", ".join(str(byte_index(number)) for number in range(8))
    lines += ["};", "", f"const uint8_t decode_byte_registers[8] = {{{bytes_of}}};"]
    lines += ["", "const uint16_t decode_leaves[] = {"]
    for i in range(0, len(leaves), 24):
        lines.append("    " + " ".join(f"{leaf}," for leaf in leaves[i : i + 24]))
    lines += ["};", "", f"const unsigned label_count = {len(ends.CAUSES) + len(OWN_LABELS) + 1};"]
    lines.append('const char *const labels[] = {\n    "",')
    lines += [f'    "{cause}",' for cause in (*OWN_LABELS, *ends.CAUSES)]
    lines += ["};", ""]
    return "\n".join(lines)


def _row(handlers: Handlers, number: int, row: Row) -> str:
    table = [[[0] * 4 for _ in range(3)] for _ in range(2)]
    for index, f in enumerate(handlers.forms):
        if f.row == number:
            v = f.variant
            shape = (1 if v.asize == 16 else 2) if v.memory else 2 if v.asize == 32 else 0
            prefix = 1 if v.lock or v.rep == "rep" else {"": 0, "repe": 2, "repne": 3}[v.rep]
            table[v.osize == 32][shape][prefix] = index + 1
    registers = [row.register(name) for name in ("reg", "rm")]
    flags = [
        *(form is not None and form.is_byte_register for form in registers),
        row.register("imm2") is not None,
        "disp" in row.fields,
        row.plus,
        row.addressed,
        *(name in row.attributes for name in ("lock", "rep", "repz")),
    ]
    immediates = ", ".join(f"{{{{{one}, {two}}}, {int(signed)}}}" for (one, two), signed in row.immediates)
    sizes = ", ".join("{" + ", ".join("{" + ", ".join(map(str, x)) + "}" for x in size) + "}" for size in table)
    return (
        f"    {{{['', 'rm', 'm', 'r', 'R'].index(row.mod)}, {', '.join(str(int(x)) for x in flags)}, "
        f"{{{immediates or '{{0, 0}, 0}'}}}, {{{sizes}}}}}, /* {row.text} */"
    )
