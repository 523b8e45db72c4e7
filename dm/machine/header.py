"""Prints constants as C: ``CR0_PG``, ``EFLAGS_IF``, ``VECTOR_GP`` and the like, and the words of a run."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dm.machine import architecture as arch
from dm.machine.state import Activity, EventType, Seg, Shadow
from dm.machine.words import QUESTIONS, ExitReason, RegionKind

#: What is printed, by the prefix of its names in C.
PRINTED: Final[dict[str, type[IntEnum]]] = {
    "EFLAGS": arch.Eflags,
    "CR0": arch.Cr0,
    "CR3": arch.Cr3,
    "CR4": arch.Cr4,
    "EFER": arch.Efer,
    "DR6": arch.Dr6,
    "DR7": arch.Dr7,
    "BREAKPOINT": arch.Breakpoint,
    "PENDING_DEBUG": arch.PendingDebug,
    "DEBUGCTL": arch.DebugCtl,
    "APIC_BASE": arch.ApicBase,
    "VECTOR": arch.Vector,
    "SELECTOR_ERROR": arch.SelectorError,
    "PAGE_FAULT": arch.PageFault,
    "RIGHTS": arch.Rights,
    "SYSTEM": arch.System,
    "SELECTOR": arch.Selector,
    "ENTRY": arch.Entry,
    "X87_CONTROL": arch.X87Control,
    "X87_STATUS": arch.X87Status,
    "MSR": arch.Msr,
    "ACCESS": arch.Access,
    "SEG": Seg,
    "ACTIVITY": Activity,
    "SHADOW": Shadow,
    "EVENT": EventType,
}


def words_header() -> str:
    """Return the text of ``words.h``: kinds of regions and reasons of exits as enumerations."""
    kinds = ", ".join(kind.name for kind in RegionKind)
    reasons = [f"    EXIT_{reason.name}," for reason in ExitReason]
    lines = ["/* Printed from dm.machine.words. */", "#ifndef DM_WORDS_H", "#define DM_WORDS_H", ""]
    lines += [f"enum region_kind {{ {kinds} }};", "", "enum exit_reason {", *reasons, "};", ""]
    last = max(QUESTIONS, key=list(ExitReason).index)
    return "\n".join([*lines, f"enum {{ LAST_QUESTION = EXIT_{last.name} }};", "", "#endif", ""])


def header() -> str:
    """Return the text of ``architecture.h``: a macro for each member, unsigned, of 64 bits only where 32 do not do."""
    lines = ["/* Printed from dm.machine.architecture and dm.machine.state. */", "#ifndef DM_ARCHITECTURE_H"]
    lines.append("#define DM_ARCHITECTURE_H")
    for prefix, enum in PRINTED.items():
        lines += ["", f"/* {(enum.__doc__ or '').splitlines()[0]} */"]
        for name, member in enum.__members__.items():
            lines.append(f"#define {prefix}_{name} {member:#x}{'u' if member < 1 << 32 else 'ull'}")
    return "\n".join([*lines, "", "#endif", ""])
