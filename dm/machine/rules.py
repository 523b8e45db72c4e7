"""Enterability: can whoever runs the CPU next enter this state?

Every rule is one row: a stable name, the manual's section, the field it checks, what is required, and the condition in
microcode.  The native check (:func:`procedure_for`) and the explanation (:func:`failing`) are made from the same rows.
Rules check what a hypervisor would load; bits it owns behind the guest's back (CR0.PE/PG/NE fixed bits, CR4.VMXE,
EFER.SVME) are left out except under ``vmx-raw``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final

from dm.machine.architecture import (
    Cr0,
    Cr4,
    DebugCtl,
    Efer,
    Eflags,
    Entry,
    PendingDebug,
    Rights,
    Selector,
    System,
    Vector,
)
from dm.machine.cells import FLAGS, cell
from dm.machine.state import Activity, EventType, Seg, Shadow, State
from dm.machine.words import Until
from dm.microcode import Field, Microcode, Procedure, Value
from dm.microcode.print_python import RUNTIME, PythonPrinter, PythonTarget


class Policy(IntEnum):
    """Who enters the state; the number is the argument of procedure ``enterable``."""

    NEVER = 0
    VMX = 1
    VMX_UG = 2
    VMX_RAW = 3
    SVM = 4
    SVM_RAW = 5
    PROTECTED = 6


#: The policy that a run is given with a word; NEVER where nobody is to take the CPU.
POLICIES: Final = {until: Policy.__members__.get(until.name, Policy.NEVER) for until in Until}

VMX_ALL: Final = frozenset({Policy.VMX, Policy.VMX_UG, Policy.VMX_RAW})
SVM_ALL: Final = frozenset({Policy.SVM, Policy.SVM_RAW})

_CR0, _CR3, _CR4, _EFER = cell("cr0"), cell("cr3"), cell("cr4"), cell("efer")
_SEGMENTS: Final = (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS)
_SECTION_SEGMENTS: Final = "SDM 3C 27.3.1.2"
_SECTION_CONTROL: Final = "SDM 3C 27.3.1.1"
_SECTION_TABLES: Final = "SDM 3C 27.3.1.3"
_SECTION_RIP: Final = "SDM 3C 27.3.1.4"
_SECTION_NONREG: Final = "SDM 3C 27.3.1.5"
_SECTION_PDPTE: Final = "SDM 3C 27.3.1.6"
_SECTION_SVM: Final = "APM 2 15.5.1"

Condition = Callable[[Microcode], Value]


@dataclass(frozen=True)
class Rule:
    """One entry rule.  ``holds`` gives 1 where the state satisfies it for policies in ``policies``."""

    name: str
    policies: frozenset[Policy]
    section: str
    field: str
    required: str
    holds: Condition


@dataclass(frozen=True)
class Failure:
    """A rule that does not hold: the field it checks, its value, and what is required."""

    rule: Rule
    actual: str

    def __str__(self) -> str:
        rule = self.rule
        return f"{rule.name}: {rule.field} is {self.actual}, required: {rule.required} ({rule.section})"


class _View:
    """The parts of a state that rules look at, as small functions of the builder."""

    def __init__(self, m: Microcode) -> None:
        self.m = m

    def attributes(self, seg: Seg) -> Value:
        return self.m.get(cell("seg.attributes"), int(seg))

    def type(self, seg: Seg) -> Value:
        return self.attributes(seg).field(Rights.TYPE)

    def has(self, seg: Seg, right: Rights) -> Value:
        return self.attributes(seg).has(right)

    def dpl(self, seg: Seg) -> Value:
        return self.attributes(seg).field(Rights.DPL)

    def rpl(self, seg: Seg) -> Value:
        return self.selector(seg) & Selector.RPL

    def selector(self, seg: Seg) -> Value:
        return self.m.get(cell("seg.selector"), int(seg))

    def base(self, seg: Seg) -> Value:
        return self.m.get(cell("seg.base"), int(seg))

    def limit(self, seg: Seg) -> Value:
        return self.m.get(cell("seg.limit"), int(seg))

    def unusable(self, seg: Seg) -> Value:
        return self.m.get(cell("seg.unusable"), int(seg))

    @property
    def pe(self) -> Value:
        return self.m.get(_CR0).has(Cr0.PE)

    @property
    def vm(self) -> Value:
        return self.m.get(FLAGS).has(Eflags.VM)

    @property
    def lma(self) -> Value:
        return self.m.get(_EFER).has(Efer.LMA)

    def v86_like(self, policy_is_ug: bool) -> Value:
        """Whether the hypervisor enters in virtual-8086 mode: VM86 itself, or real mode without unrestricted guest."""
        return self.vm & self.pe if policy_is_ug else (self.vm & self.pe) | ~self.pe


RULES: Final[list[Rule]] = []


def _rule(
    name: str, policies: frozenset[Policy], section: str, field: str, required: str
) -> Callable[[Condition], Condition]:
    def add(holds: Condition) -> Condition:
        RULES.append(Rule(name, policies, section, field, required, holds))
        return holds

    return add


def _accessed_and_readable(seg: Seg) -> Callable[[_View], Value]:
    return lambda v: v.has(seg, Rights.ACCESSED) & (~v.has(seg, Rights.CODE) | v.has(seg, Rights.READABLE))


def _dpl_reaches_rpl(seg: Seg) -> Callable[[_View], Value]:
    return lambda v: (v.dpl(seg) >= v.rpl(seg)) | (v.has(seg, Rights.CODE) & v.has(seg, Rights.CONFORMING))


def _segment_rules(ug: bool) -> None:
    policies = frozenset({Policy.VMX_UG}) if ug else frozenset({Policy.VMX})
    raw = frozenset() if ug else frozenset({Policy.VMX_RAW})

    def unless(excuse: Value, condition: Value) -> Value:
        return excuse | condition

    def outside_v86(seg: Seg, test: Callable[[_View], Value], usable_only: bool = True) -> Condition:
        def holds(m: Microcode) -> Value:
            v = _View(m)
            excuse = v.v86_like(ug)
            if usable_only and seg is not Seg.CS:
                excuse = excuse | v.unusable(seg)
            return unless(excuse, test(v))

        return holds

    both = policies | raw
    for seg in _SEGMENTS:
        low, up = seg.name.lower(), seg.name

        def base_holds(m: Microcode, seg: Seg = seg) -> Value:
            v = _View(m)
            return unless(~v.v86_like(ug), v.base(seg) == v.selector(seg).zext(64) << 4)

        def limit_holds(m: Microcode, seg: Seg = seg) -> Value:
            v = _View(m)
            return unless(~v.v86_like(ug), v.limit(seg) == 0xFFFF)

        def rights_holds(m: Microcode, seg: Seg = seg) -> Value:
            v = _View(m)
            rights = v.attributes(seg)
            # A real-mode cache holds 93h or 9Bh: DPL becomes 3, and for CS the type 3, when it is run as VM86.
            dropped = Rights.DPL | (Rights.TYPE if seg is Seg.CS else 0)
            added = Rights.DPL | (Rights.WRITABLE | Rights.ACCESSED if seg is Seg.CS else 0)
            as_loaded = (rights & (0xFFFF ^ dropped)) | added
            rights = m.select(v.pe, rights, as_loaded)
            return unless(~v.v86_like(ug), (rights == Rights.DATA | Rights.DPL) & ~v.unusable(seg))

        _rule(f"{up}_BASE_V86", both, _SECTION_SEGMENTS, f"{low}.base", "selector * 16")(base_holds)
        _rule(f"{up}_LIMIT_V86", both, _SECTION_SEGMENTS, f"{low}.limit", "FFFFh")(limit_holds)
        _rule(f"{up}_RIGHTS_V86", both, _SECTION_SEGMENTS, f"{low}.attributes", "F3h")(rights_holds)

        if seg in (Seg.CS, Seg.SS, Seg.DS, Seg.ES):
            _rule(f"{up}_BASE_HIGH", both, _SECTION_SEGMENTS, f"{low}.base", "bits 63:32 zero")(
                outside_v86(seg, lambda v, seg=seg: (v.base(seg) >> 32) == 0)  # type: ignore[misc]
            )
        if seg is Seg.CS:
            good = (3, 9, 11, 13, 15) if ug else (9, 11, 13, 15)

            def code_type(v: _View, good: tuple[int, ...] = good) -> Value:
                t = v.type(Seg.CS)
                value = t == good[0]
                for n in good[1:]:
                    value = value | (t == n)
                return value

            _rule("CS_TYPE", both, _SECTION_SEGMENTS, "cs.attributes.type", "one of " + " ".join(map(str, good)))(
                outside_v86(seg, code_type)
            )

            def code_dpl(v: _View) -> Value:
                conforming = v.has(Seg.CS, Rights.CONFORMING)
                ok = v.m.select(conforming, v.dpl(Seg.CS) <= v.dpl(Seg.SS), v.dpl(Seg.CS) == v.dpl(Seg.SS))
                return (v.type(Seg.CS) == 3) & (v.dpl(Seg.CS) == 0) | (v.type(Seg.CS) != 3) & ok if ug else ok

            _rule(
                "CS_DPL", both, _SECTION_SEGMENTS, "cs.attributes.dpl", "equal to SS.DPL (at most SS.DPL if conforming)"
            )(outside_v86(seg, code_dpl))
            _rule("CS_L_D", both, _SECTION_SEGMENTS, "cs.attributes", "L and D not both set in IA-32e mode")(
                outside_v86(seg, lambda v: ~(v.lma & v.has(Seg.CS, Rights.L) & v.has(Seg.CS, Rights.DB)))
            )
        elif seg is Seg.SS:
            _rule("SS_TYPE", both, _SECTION_SEGMENTS, "ss.attributes.type", "3 or 7")(
                outside_v86(seg, lambda v: (v.type(Seg.SS) == 3) | (v.type(Seg.SS) == 7))
            )
            if not ug:
                _rule("SS_RPL", both, _SECTION_SEGMENTS, "ss.selector", "RPL equal to CS.RPL")(
                    outside_v86(seg, lambda v: v.rpl(Seg.SS) == v.rpl(Seg.CS), usable_only=False)
                )
                _rule("SS_DPL", both, _SECTION_SEGMENTS, "ss.attributes.dpl", "equal to SS.RPL")(
                    outside_v86(seg, lambda v: v.dpl(Seg.SS) == v.rpl(Seg.SS), usable_only=False)
                )
            else:
                _rule("SS_DPL_REAL", both, _SECTION_SEGMENTS, "ss.attributes.dpl", "0 when CR0.PE=0 or CS type is 3")(
                    outside_v86(seg, lambda v: (v.dpl(Seg.SS) == 0) | (v.pe & (v.type(Seg.CS) != 3)), usable_only=False)
                )
        else:
            _rule(f"{up}_TYPE", both, _SECTION_SEGMENTS, f"{low}.attributes.type", "accessed, and readable if code")(
                outside_v86(seg, _accessed_and_readable(seg))
            )
            if not ug:
                _rule(
                    f"{up}_DPL",
                    both,
                    _SECTION_SEGMENTS,
                    f"{low}.attributes.dpl",
                    "at least its RPL unless conforming code",
                )(
                    outside_v86(
                        seg,
                        _dpl_reaches_rpl(seg),
                    )
                )
        _rule(f"{up}_S", both, _SECTION_SEGMENTS, f"{low}.attributes.s", "1")(
            outside_v86(seg, lambda v, seg=seg: v.has(seg, Rights.S))  # type: ignore[misc]
        )
        _rule(f"{up}_P", both, _SECTION_SEGMENTS, f"{low}.attributes.p", "1")(
            outside_v86(seg, lambda v, seg=seg: v.has(seg, Rights.P))  # type: ignore[misc]
        )
        _rule(f"{up}_RESERVED", both, _SECTION_SEGMENTS, f"{low}.attributes", "bits 11:8 zero")(
            outside_v86(seg, lambda v, seg=seg: v.attributes(seg).field(Rights.RESERVED) == 0)  # type: ignore[misc]
        )
        _rule(f"{up}_G", both, _SECTION_SEGMENTS, f"{low}.attributes.g", "G agreeing with the limit, both ways")(
            outside_v86(seg, lambda v, seg=seg: _granularity(v, seg))  # type: ignore[misc]
        )
    _rule("CS_USABLE", both, _SECTION_SEGMENTS, "cs.unusable", "0")(
        lambda m: _View(m).v86_like(ug) | ~_View(m).unusable(Seg.CS)
    )


def _granularity(v: _View, seg: Seg) -> Value:
    g = v.has(seg, Rights.G)
    low_ones = (v.limit(seg) & 0xFFF) == 0xFFF
    high_zero = (v.limit(seg) >> 20) == 0
    return (low_ones | ~g) & (high_zero | g)


_segment_rules(ug=False)
_segment_rules(ug=True)


def _system_segment_rules() -> None:
    def with_tr(test: Callable[[_View], Value]) -> Condition:
        # In real mode without unrestricted guest the hypervisor enters with a TSS of its own.
        def holds(m: Microcode) -> Value:
            v = _View(m)
            return ~v.pe | test(v)

        return holds

    def with_ldtr(test: Callable[[_View], Value]) -> Condition:
        def holds(m: Microcode) -> Value:
            v = _View(m)
            return v.unusable(Seg.LDTR) | test(v)

        return holds

    tr, ldtr = Seg.TR, Seg.LDTR

    def busy(v: _View) -> Value:
        return (v.type(tr) == System.TSS32_BUSY) | (v.type(tr) == System.TSS16_BUSY) & ~v.lma

    rows: list[tuple[str, str, str, Callable[[_View], Value]]] = [
        ("TI", "selector", "TI clear", lambda v: ~v.selector(tr).has(Selector.TI)),
        (
            "TYPE",
            "attributes.type",
            "3 or 11 (busy TSS)",
            busy,
        ),
        ("S", "attributes.s", "0", lambda v: ~v.has(tr, Rights.S)),
        ("P", "attributes.p", "1", lambda v: v.has(tr, Rights.P)),
        ("USABLE", "unusable", "0", lambda v: ~v.unusable(tr)),
        ("RESERVED", "attributes", "bits 11:8 zero", lambda v: v.attributes(tr).field(Rights.RESERVED) == 0),
        ("G", "attributes.g", "G agreeing with the limit, both ways", lambda v: _granularity(v, tr)),
        ("BASE_CANONICAL", "base", "canonical", lambda v: _canonical(v.base(tr))),
    ]
    for name, part, required, test in rows:
        _rule(f"TR_{name}", VMX_ALL, _SECTION_SEGMENTS, f"tr.{part}", required)(with_tr(test))
    rows = [
        ("TI", "selector", "TI clear", lambda v: ~v.selector(ldtr).has(Selector.TI)),
        ("TYPE", "attributes.type", "2", lambda v: v.type(ldtr) == System.LDT),
        ("S", "attributes.s", "0", lambda v: ~v.has(ldtr, Rights.S)),
        ("P", "attributes.p", "1", lambda v: v.has(ldtr, Rights.P)),
        ("RESERVED", "attributes", "bits 11:8 zero", lambda v: v.attributes(ldtr).field(Rights.RESERVED) == 0),
        ("G", "attributes.g", "G agreeing with the limit, both ways", lambda v: _granularity(v, ldtr)),
        ("BASE_CANONICAL", "base", "canonical", lambda v: _canonical(v.base(ldtr))),
    ]
    for name, part, required, test in rows:
        _rule(f"LDTR_{name}", VMX_ALL, _SECTION_SEGMENTS, f"ldtr.{part}", required)(with_ldtr(test))


def _canonical(address: Value) -> Value:
    return (address << 16).sar(16) == address


_system_segment_rules()


@_rule("FS_BASE_CANONICAL", VMX_ALL, _SECTION_SEGMENTS, "fs.base", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(_View(m).base(Seg.FS))


@_rule("GS_BASE_CANONICAL", VMX_ALL, _SECTION_SEGMENTS, "gs.base", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(_View(m).base(Seg.GS))


@_rule("GDTR_BASE", VMX_ALL, _SECTION_TABLES, "gdtr_base", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(m.get(cell("gdtr_base")))


@_rule("IDTR_BASE", VMX_ALL, _SECTION_TABLES, "idtr_base", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(m.get(cell("idtr_base")))


@_rule("CR0_PG_PE", VMX_ALL, _SECTION_CONTROL, "cr0", "PE set when PG is set")
def _(m: Microcode) -> Value:
    cr0 = m.get(_CR0)
    return ~cr0.has(Cr0.PG) | cr0.has(Cr0.PE)


@_rule("CR0_RESERVED", VMX_ALL, _SECTION_CONTROL, "cr0", "reserved bits zero (15:6, 17, 28:19)")
def _(m: Microcode) -> Value:
    return (m.get(_CR0) & (0xFFFFFFFF ^ Cr0.ALL)) == 0


@_rule("CR0_FIXED", frozenset({Policy.VMX_RAW}), _SECTION_CONTROL, "cr0", "PE, NE and PG set")
def _(m: Microcode) -> Value:
    fixed = Cr0.PE | Cr0.NE | Cr0.PG
    return (m.get(_CR0) & fixed) == fixed


@_rule("CR0_HIGH", VMX_ALL | SVM_ALL, _SECTION_CONTROL, "cr0", "bits 63:32 zero")
def _(m: Microcode) -> Value:
    return (m.get(_CR0) >> 32) == 0


@_rule("CR4_VMXE", frozenset({Policy.VMX_RAW}), _SECTION_CONTROL, "cr4", "VMXE set")
def _(m: Microcode) -> Value:
    return m.get(_CR4).has(Cr4.VMXE)


@_rule("CR4_RESERVED", VMX_ALL, _SECTION_CONTROL, "cr4", "reserved bits zero (15, 26, 31:29, 63:33)")
def _(m: Microcode) -> Value:
    return (m.get(_CR4) & (0xFFFFFFFFFFFFFFFF ^ sum(Cr4))) == 0


@_rule("CR4_MBZ", SVM_ALL, _SECTION_SVM, "cr4", "reserved bits zero (13:15, 19, 63:24)")
def _(m: Microcode) -> Value:
    intel = (Cr4.VMXE, Cr4.SMXE, Cr4.KL, Cr4.PKS, Cr4.UINTR, Cr4.LASS, Cr4.LAM_SUP, Cr4.FRED)
    return (m.get(_CR4) & (0xFFFFFFFFFFFFFFFF ^ (sum(Cr4) - sum(intel)))) == 0


@_rule("CR4_PCIDE", VMX_ALL, _SECTION_CONTROL, "cr4", "PCIDE clear outside IA-32e mode")
def _(m: Microcode) -> Value:
    return ~m.get(_CR4).has(Cr4.PCIDE) | _View(m).lma


@_rule("CR4_CET", VMX_ALL | SVM_ALL, _SECTION_CONTROL, "cr0", "WP set when CR4.CET is set")
def _(m: Microcode) -> Value:
    return ~m.get(_CR4).has(Cr4.CET) | m.get(_CR0).has(Cr0.WP)


@_rule("CR3_RESERVED", VMX_ALL | SVM_ALL, _SECTION_CONTROL, "cr3", "bits 63:52 zero")
def _(m: Microcode) -> Value:
    return (m.get(_CR3) >> 52) == 0


@_rule("EFER_LMA_PAE", VMX_ALL, _SECTION_CONTROL, "cr4", "PAE and CR0.PG set in IA-32e mode")
def _(m: Microcode) -> Value:
    return ~_View(m).lma | (m.get(_CR4).has(Cr4.PAE) & m.get(_CR0).has(Cr0.PG))


@_rule("EFER_LMA_LME", VMX_ALL, _SECTION_CONTROL, "efer", "LMA equal to LME when CR0.PG is set")
def _(m: Microcode) -> Value:
    efer = m.get(_EFER)
    return ~m.get(_CR0).has(Cr0.PG) | (efer.has(Efer.LMA) == efer.has(Efer.LME))


@_rule("EFER_RESERVED_VMX", VMX_ALL, _SECTION_CONTROL, "efer", "reserved bits zero (7:1, 9, 63:12)")
def _(m: Microcode) -> Value:
    known = Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE
    return (m.get(_EFER) & (0xFFFFFFFFFFFFFFFF ^ known)) == 0


@_rule("DEBUGCTL_RESERVED", VMX_ALL, _SECTION_CONTROL, "debugctl", "reserved bits zero (5:3, 63:16)")
def _(m: Microcode) -> Value:
    return (m.get(cell("debugctl")) & (0xFFFFFFFFFFFFFFFF ^ sum(DebugCtl))) == 0


@_rule("SYSENTER_ESP_CANONICAL", VMX_ALL, _SECTION_CONTROL, "sysenter_esp", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(m.get(cell("sysenter_esp")))


@_rule("SYSENTER_EIP_CANONICAL", VMX_ALL, _SECTION_CONTROL, "sysenter_eip", "canonical")
def _(m: Microcode) -> Value:
    return _canonical(m.get(cell("sysenter_eip")))


@_rule("PAT_TYPES", VMX_ALL | SVM_ALL, _SECTION_CONTROL, "pat", "each byte 0, 1, 4, 5, 6 or 7 (SVM: APM 2 15.25.4)")
def _(m: Microcode) -> Value:
    # No bits above the third, and bit 2 set wherever bit 1 is.
    pat = m.get(cell("pat"))
    return ((pat & 0xF8F8F8F8F8F8F8F8) == 0) & ((pat & ~(pat >> 1) & 0x0202020202020202) == 0)


@_rule("DR7_HIGH", VMX_ALL | SVM_ALL, _SECTION_CONTROL, "dr7", "bits 63:32 zero")
def _(m: Microcode) -> Value:
    return (m.get(cell("dr7")) >> 32) == 0


@_rule("DR6_HIGH", SVM_ALL, _SECTION_SVM, "dr6", "bits 63:32 zero")
def _(m: Microcode) -> Value:
    return (m.get(cell("dr6")) >> 32) == 0


@_rule("RFLAGS_RESERVED", VMX_ALL, _SECTION_RIP, "rflags", "reserved bits zero (3, 5, 15, 63:22)")
def _(m: Microcode) -> Value:
    return (m.get(FLAGS) & (0xFFFFFFFF ^ Eflags.ALL_32 ^ Eflags.FIXED)) == 0


@_rule("RFLAGS_VM", VMX_ALL, _SECTION_RIP, "rflags", "VM clear in IA-32e mode or when CR0.PE=0")
def _(m: Microcode) -> Value:
    v = _View(m)
    return ~v.vm | (v.pe & ~v.lma)


@_rule("RFLAGS_IF_INJECT", VMX_ALL, _SECTION_RIP, "rflags", "IF set when an external interrupt is injected")
def _(m: Microcode) -> Value:
    return (m.get(cell("inject_type")) != EventType.EXTERNAL) | m.get(FLAGS).has(Eflags.IF)


@_rule("ACTIVITY_SHUTDOWN", VMX_ALL | SVM_ALL, _SECTION_NONREG, "activity", "running or halted")
def _(m: Microcode) -> Value:
    return m.get(cell("activity")) < Activity.SHUTDOWN


@_rule("HLT_INJECT", VMX_ALL, _SECTION_NONREG, "inject_type", "while halted an interrupt, an NMI, #DB or #MC")
def _(m: Microcode) -> Value:
    kind, vector = m.get(cell("inject_type")), m.get(cell("inject_vector"))
    exception = (kind == EventType.EXCEPTION) & ((vector == Vector.DB) | (vector == Vector.MC))
    wakes = (kind == EventType.NONE) | (kind == EventType.EXTERNAL) | (kind == EventType.NMI) | exception
    return (m.get(cell("activity")) != Activity.HALTED) | wakes


@_rule("NMI_BLOCKED_INJECT", VMX_ALL, _SECTION_NONREG, "nmi_blocked", "0 when an NMI is injected (virtual NMIs)")
def _(m: Microcode) -> Value:
    return ~m.get(cell("nmi_blocked")) | (m.get(cell("inject_type")) != EventType.NMI)


@_rule("HLT_DPL", VMX_ALL, _SECTION_NONREG, "activity", "not halted when SS.DPL is not 0")
def _(m: Microcode) -> Value:
    v = _View(m)
    return (m.get(cell("activity")) != Activity.HALTED) | (v.dpl(Seg.SS) == 0) | ~v.pe


@_rule("HLT_SHADOW", VMX_ALL, _SECTION_NONREG, "activity", "running while an interrupt shadow is in force")
def _(m: Microcode) -> Value:
    return (m.get(cell("activity")) == Activity.RUNNING) | (m.get(cell("shadow")) == 0)


@_rule("SHADOW_BOTH", VMX_ALL, _SECTION_NONREG, "shadow", "not STI and MOV SS at once")
def _(m: Microcode) -> Value:
    return m.get(cell("shadow")) != Shadow.STI | Shadow.MOV_SS


@_rule("SHADOW_STI_IF", VMX_ALL, _SECTION_NONREG, "shadow", "no STI shadow when IF is clear")
def _(m: Microcode) -> Value:
    return ~m.get(cell("shadow")).has(Shadow.STI) | m.get(FLAGS).has(Eflags.IF)


@_rule(
    "SHADOW_INJECT",
    VMX_ALL,
    _SECTION_NONREG,
    "shadow",
    "none when an external interrupt or an NMI is injected (STI and NMI: some parts)",
)
def _(m: Microcode) -> Value:
    kind = m.get(cell("inject_type"))
    return ((kind != EventType.EXTERNAL) & (kind != EventType.NMI)) | (m.get(cell("shadow")) == 0)


@_rule(
    "PENDING_DEBUG_BS",
    VMX_ALL,
    _SECTION_NONREG,
    "pending_debug",
    "BS equal to TF without DEBUGCTL.BTF while a shadow is in force or halted",
)
def _(m: Microcode) -> Value:
    waiting = (m.get(cell("shadow")) != 0) | (m.get(cell("activity")) == Activity.HALTED)
    steps = m.get(FLAGS).has(Eflags.TF) & ~m.get(cell("debugctl")).has(DebugCtl.BTF)
    return ~waiting | (m.get(cell("pending_debug")).has(PendingDebug.BS) == steps)


@_rule("PENDING_DEBUG_RESERVED", VMX_ALL, _SECTION_NONREG, "pending_debug", "bits other than 0-3, 12, 14 zero")
def _(m: Microcode) -> Value:
    known = PendingDebug.B | PendingDebug.ENABLED | PendingDebug.BS
    return (m.get(cell("pending_debug")) & (0xFFFFFFFFFFFFFFFF ^ known)) == 0


def _pdpte(index: int) -> None:
    @_rule(
        f"PDPTE{index}_RESERVED",
        VMX_ALL,
        _SECTION_PDPTE,
        f"pdpte[{index}]",
        "bits 2:1, 8:5 and 63:52 zero when present",
    )
    def _(m: Microcode) -> Value:
        pae = m.get(_CR0).has(Cr0.PG) & m.get(_CR4).has(Cr4.PAE) & ~_View(m).lma
        entry = m.get(cell("pdpte"), index)
        return ~pae | ~entry.has(Entry.P) | ((entry & Entry.PDPTE_RESERVED) == 0)


for _i in range(4):
    _pdpte(_i)


@_rule("CR0_NW_CD", SVM_ALL, _SECTION_SVM, "cr0", "NW clear when CD is clear")
def _(m: Microcode) -> Value:
    cr0 = m.get(_CR0)
    return cr0.has(Cr0.CD) | ~cr0.has(Cr0.NW)


@_rule(
    "CR0_PG_REAL", frozenset({Policy.SVM}), "APM 2 15.19", "cr0", "PE set when PG is set (paged real mode is svm-raw)"
)
def _(m: Microcode) -> Value:
    cr0 = m.get(_CR0)
    return ~cr0.has(Cr0.PG) | cr0.has(Cr0.PE)


@_rule("EFER_RESERVED", SVM_ALL, _SECTION_SVM, "efer", "reserved bits zero (7:1, 9, 16, 19, 63:22)")
def _(m: Microcode) -> Value:
    return (m.get(_EFER) & (0xFFFFFFFFFFFFFFFF ^ sum(Efer))) == 0


@_rule("LONG_MODE_PAE", SVM_ALL, _SECTION_SVM, "cr4", "PAE and PE set when EFER.LME and CR0.PG are set")
def _(m: Microcode) -> Value:
    cr0 = m.get(_CR0)
    return ~(m.get(_EFER).has(Efer.LME) & cr0.has(Cr0.PG)) | (m.get(_CR4).has(Cr4.PAE) & cr0.has(Cr0.PE))


@_rule("LONG_MODE_CS", SVM_ALL, _SECTION_SVM, "cs.attributes", "L and D not both set in long mode")
def _(m: Microcode) -> Value:
    v = _View(m)
    long = m.get(_EFER).has(Efer.LME) & m.get(_CR0).has(Cr0.PG) & m.get(_CR4).has(Cr4.PAE)
    return ~(long & v.has(Seg.CS, Rights.L) & v.has(Seg.CS, Rights.DB))


@_rule("EVENTINJ", SVM_ALL, _SECTION_SVM, "inject_type", "0, 2, 3 or 4, and an exception's vector below 32 and not 2")
def _(m: Microcode) -> Value:
    kind, vector = m.get(cell("inject_type")), m.get(cell("inject_vector"))
    exception = (kind == EventType.EXCEPTION) & (vector < 32) & (vector != Vector.NMI)
    others = (EventType.NONE, EventType.EXTERNAL, EventType.NMI, EventType.SOFT_INT)
    good = kind == others[0]
    for other in others[1:]:
        good = good | (kind == other)
    return good | exception


@_rule("PE", frozenset({Policy.PROTECTED}), "SDM 3A 10.9.1", "cr0", "PE set")
def _(m: Microcode) -> Value:
    return m.get(_CR0).has(Cr0.PE)


@_rule(
    "CS_LOADED",
    frozenset({Policy.PROTECTED}),
    "SDM 3A 10.9.1",
    "cs.base",
    "CS loaded by a far transfer since PE was set",
)
def _(m: Microcode) -> Value:
    # A CS cache left from real mode is recognised by its base; VM86 is protected mode whatever its CS holds.
    v = _View(m)
    return v.vm | (v.base(Seg.CS) != v.selector(Seg.CS).zext(64) << 4)


@cache
def rules_for(policy: Policy) -> tuple[Rule, ...]:
    """Return the rules of a policy, in table order."""
    return tuple(rule for rule in RULES if policy in rule.policies)


def _enterable(m: Microcode, policy: Value) -> None:
    for who in Policy:
        if who is Policy.NEVER:
            continue
        with m.If(policy == int(who)):
            for rule in rules_for(who):
                with m.If(~rule.holds(m)):
                    m.return_(0)
            m.return_(1)
    m.return_(0)


#: Procedure ``enterable(policy) -> 1``: whether every rule of the policy holds for the state in the machine.
enterable: Final = Procedure("enterable", [("policy", 8)], 1, _enterable)


class _StateTarget(PythonTarget):
    def read(self, cell: Field, index: str) -> str:
        if cell.name == "flags":
            return "cpu.rflags"
        if cell.name == "eip":
            return "cpu.rip"
        if "." in cell.name:
            array, part = cell.name.split(".")
            return f"cpu.{array}[{index}].{part}"
        return super().read(cell, index)


@cache
def _compiled(rule: Rule) -> Callable[[State], int]:
    made = Procedure("holds", [], 1, lambda m: m.return_(rule.holds(m)))
    names: dict[str, Any] = dict(RUNTIME)
    exec(compile(PythonPrinter(_StateTarget()).function(made.code), f"<rule {rule.name}>", "exec"), names)
    check: Callable[[State], int] = names["holds"]
    return check


def _actual(state: State, path: str) -> str:
    name, _, rest = path.partition(".")
    part = rest.split(".")[0]
    if name.upper() in Seg.__members__:
        seg = state.seg[Seg[name.upper()]]
        tail = rest.split(".")[-1]
        value = {
            "type": seg.type,
            "dpl": seg.dpl,
            "s": int(bool(seg.attributes & Rights.S)),
            "p": int(bool(seg.attributes & Rights.P)),
            "g": int(bool(seg.attributes & Rights.G)),
        }.get(tail)
        if value is not None:
            return f"{value} (attributes {seg.attributes:#06x}, selector {seg.selector:#06x}, limit {seg.limit:#x})"
        return f"{getattr(seg, part):#x} (selector {seg.selector:#06x})"
    if "[" in name:
        array, index = name.rstrip("]").split("[")
        return f"{getattr(state, array)[int(index)]:#x}"
    return f"{getattr(state, name):#x}"


def failing(state: State, policy: Policy) -> list[Failure]:
    """Return every rule of ``policy`` that ``state`` violates, in table order; empty: it can be entered.

    Policy NEVER has no rules and is never enterable; an empty list for it means nothing.
    """
    return [Failure(rule, _actual(state, rule.field)) for rule in rules_for(policy) if not _compiled(rule)(state)]
