"""Real-mode tests recorded on an 80286, with what a 386 or later does instead (``*.mp.gz`` with a ``regs`` list).

The set is a selection of SingleStepTests/80286; columns ``x386`` and ``x386_regs`` were added to it and say where the
80386 and its successors differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dm.machine.architecture import Eflags
from dm.vectors import packed
from dm.vectors.case import Case, FormatError, RecordedFault
from dm.vectors.real_mode import FLAGS, RealMode, frame_address, initial_state, probe
from dm.vectors.vendor import cpu
from dm.vectors.world_memory import Patch

REGISTERS: Final = ("ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags")
FIELDS: Final = (
    "idx", "bytes", "initial", "ram", "final_regs", "final_ram", "exception", "name", "x386", "x386_regs",
)  # fmt: skip
_NOT_386: Final = -1


def read(path: Path, table: dict[str, Any], vendor: str) -> tuple[RealMode, Iterator[Case]]:
    """Return the world and the cases of a file (``80.4.mp.gz``), unpacked as ``table``, checked against a ``vendor``.

    Raises:
        FormatError: the table is not as the set's README says.
    """
    tests = packed.check_tests(path, table, FIELDS)
    if tuple(table.get("regs", ())) != REGISTERS:
        raise FormatError(f"{path}: registers must be {' '.join(REGISTERS)}")
    opcode = path.name.removesuffix(".mp.gz")
    mask = int(table["flags_mask"]) & FLAGS
    return RealMode(cpu(vendor, x87=False)), (_case(opcode, mask, row) for row in tests)


def _frame(before: dict[str, int], sp: int) -> tuple[Patch, ...]:
    """Return what a fault of the instruction at ``before`` pushes when SP ends as ``sp``."""
    words = (before["ip"], before["cs"], before["flags"] & FLAGS | Eflags.FIXED)
    return tuple((frame_address(before["ss"], sp, i), word.to_bytes(2, "little")) for i, word in enumerate(words))


def _case(opcode: str, flags_mask: int, row: list[Any]) -> Case:
    index, code, initial, ram, final, final_ram, exception, name, x386, x386_regs = row
    before = dict(zip(REGISTERS, initial, strict=True))
    state = initial_state(
        [before[r] for r in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")],
        [before["es"], before["cs"], before["ss"], before["ds"], 0, 0],
        before["ip"],
        before["flags"],
    )
    patches = tuple((address, data) for address, data in ram)
    changes = tuple((address, data) for address, data in final_ram)
    after = before | {REGISTERS[i]: value for i, value in final.items()}
    kept = {REGISTERS[i]: value for i, value in (x386_regs or {}).items()}
    masks = {}
    if exception:
        if "sp" in kept:
            # SP is as it was when the exception is taken, so the frame stands elsewhere too.
            kept["sp"] = kept["sp"] - 6 & 0xFFFF
            changes = _frame(before, kept["sp"])
        # (The set's own address of the pushed flags is that of an aligned bus cycle.)
        pushed = frame_address(after["ss"], kept.get("sp", after["sp"]), 2)
        masks = {pushed: flags_mask & 0xFF, pushed + 1: flags_mask >> 8}
    after |= kept
    fault = None
    if x386 is not None and x386 != _NOT_386:
        fault = RecordedFault(x386)
        patches += probe(state, patches + changes)
    return Case(
        opcode=opcode,
        index=index,
        name=name,
        code=code,
        state=state,
        patches=patches,
        registers={r: (v, flags_mask if r == "flags" else 0xFFFF) for r, v in after.items()},
        changes=changes,
        memory_masks=masks,
        fault=fault,
        vector_only=fault is not None,
        skip="the 80286 differs from all later parts here" if x386 == _NOT_386 else "",
    )
