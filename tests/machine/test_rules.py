"""Enterability rules against the manuals' wording (SDM vol. 3C, checks on guest state; APM vol. 2, 15.5.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dm.machine.rules import RULES, Policy, failing, rules_for
from dm.machine.state import Activity, State


def real() -> State:
    """Real mode as a hypervisor without unrestricted guest takes it."""
    state = State.reset()
    state.cs.base = state.cs.selector << 4
    return state


def flat() -> State:
    """Flat 32-bit protected mode, ring 0."""
    state = State.reset()
    state.cr0 |= 1
    for seg in state.seg[:6]:
        seg.selector, seg.base, seg.limit, seg.attributes = 0x10, 0, 0xFFFFFFFF, 0xC093
    state.cs.selector, state.cs.attributes = 8, 0xC09B
    return state


def fields(state: State, **values: int) -> None:
    for name, value in values.items():
        setattr(state, name, value)


def names(state: State, policy: Policy) -> list[str]:
    return [failure.rule.name for failure in failing(state, policy)]


@pytest.mark.parametrize("policy", [Policy.VMX, Policy.VMX_UG, Policy.SVM, Policy.SVM_RAW])
@pytest.mark.parametrize("state", [real(), flat()], ids=["real", "flat"])
def test_plain_states_are_enterable(state: State, policy: Policy) -> None:
    assert names(state, policy) == []


def test_names_are_unique_within_a_policy() -> None:
    for policy in Policy:
        listed = [rule.name for rule in rules_for(policy)]
        assert len(listed) == len(set(listed))


CASES: list[tuple[str, Callable[[], State], Callable[[State], None], Policy, list[str]]] = [
    ("big real mode", real, lambda s: setattr(s.ds, "limit", 0xFFFFFFFF), Policy.VMX, ["DS_LIMIT_V86"]),
    (
        "big real mode with G",
        real,
        lambda s: (setattr(s.ds, "limit", 0xFFFFFFFF), setattr(s.ds, "attributes", 0x8093)),
        Policy.VMX_UG,
        [],
    ),
    ("big real mode under SVM", real, lambda s: setattr(s.ds, "limit", 0xFFFFFFFF), Policy.SVM, []),
    ("base of 16-bit code elsewhere", real, lambda s: setattr(s.es, "base", 0x12345), Policy.VMX, ["ES_BASE_V86"]),
    ("D bit left in real mode", real, lambda s: setattr(s.ss, "attributes", 0x4093), Policy.VMX, ["SS_RIGHTS_V86"]),
    ("unusable in real mode", real, lambda s: setattr(s.gs, "unusable", 1), Policy.VMX, ["GS_RIGHTS_V86"]),
    ("PE just set, CS still data", flat, lambda s: setattr(s.cs, "attributes", 0x93), Policy.VMX, ["CS_TYPE", "CS_G"]),
    ("PE just set, CS still data, UG", flat, lambda s: setattr(s.cs, "attributes", 0xC093), Policy.VMX_UG, []),
    ("SS.RPL differs", flat, lambda s: setattr(s.ss, "selector", 0x9003), Policy.VMX, ["SS_RPL", "SS_DPL"]),
    ("SS.RPL differs, UG", flat, lambda s: setattr(s.ss, "selector", 0x9003), Policy.VMX_UG, []),
    ("DS.RPL above DPL", flat, lambda s: setattr(s.ds, "selector", 0x13), Policy.VMX, ["DS_DPL"]),
    (
        "DS unusable is not judged",
        flat,
        lambda s: (setattr(s.ds, "selector", 3), setattr(s.ds, "unusable", 1), setattr(s.ds, "attributes", 0)),
        Policy.VMX,
        [],
    ),
    ("ES not accessed", flat, lambda s: setattr(s.es, "attributes", 0xC092), Policy.VMX, ["ES_TYPE"]),
    ("FS execute-only code", flat, lambda s: setattr(s.fs, "attributes", 0xC099), Policy.VMX, ["FS_TYPE"]),
    ("G clear with a big limit", flat, lambda s: setattr(s.ds, "attributes", 0x4093), Policy.VMX, ["DS_G"]),
    ("G set with an odd limit", flat, lambda s: setattr(s.ds, "limit", 0x1234), Policy.VMX, ["DS_G"]),
    ("TR available", flat, lambda s: setattr(s.tr, "attributes", 0x89), Policy.VMX, ["TR_TYPE"]),
    ("TR in the LDT", flat, lambda s: setattr(s.tr, "selector", 4), Policy.VMX, ["TR_TI"]),
    ("LDTR not present", flat, lambda s: setattr(s.ldtr, "attributes", 2), Policy.VMX, ["LDTR_P"]),
    ("VM without PE", real, lambda s: setattr(s, "rflags", 0x20002), Policy.VMX, ["RFLAGS_VM"]),
    ("reserved flag", flat, lambda s: setattr(s, "rflags", 0x8002), Policy.VMX, ["RFLAGS_RESERVED"]),
    (
        "both shadows",
        flat,
        lambda s: (setattr(s, "shadow", 3), setattr(s, "rflags", 0x202)),
        Policy.VMX,
        ["SHADOW_BOTH"],
    ),
    ("STI shadow without IF", flat, lambda s: setattr(s, "shadow", 1), Policy.VMX, ["SHADOW_STI_IF"]),
    (
        "halted at ring 3",
        flat,
        lambda s: (
            setattr(s, "activity", Activity.HALTED),
            setattr(s.ss, "attributes", 0xC0F3),
            setattr(s.cs, "attributes", 0xC0FB),
            setattr(s.ss, "selector", 0x13),
            setattr(s.cs, "selector", 0xB),
        ),
        Policy.VMX,
        ["HLT_DPL"],
    ),
    (
        "interrupt injected with IF clear",
        flat,
        lambda s: setattr(s, "inject_type", 0),
        Policy.VMX,
        ["RFLAGS_IF_INJECT"],
    ),
    (
        "TF under a shadow without BS",
        flat,
        lambda s: (setattr(s, "shadow", 2), setattr(s, "rflags", 0x102)),
        Policy.VMX,
        ["PENDING_DEBUG_BS"],
    ),
    (
        "BTF with a pending step under a shadow",
        flat,
        lambda s: fields(s, shadow=2, rflags=0x102, debugctl=2, pending_debug=1 << 14),
        Policy.VMX,
        ["PENDING_DEBUG_BS"],
    ),
    ("BTF without one", flat, lambda s: fields(s, shadow=2, rflags=0x102, debugctl=2), Policy.VMX, []),
    ("TF with one", flat, lambda s: fields(s, shadow=2, rflags=0x102, pending_debug=1 << 14), Policy.VMX, []),
    ("PCIDE outside IA-32e mode", flat, lambda s: fields(s, cr4=1 << 17), Policy.VMX, ["CR4_PCIDE"]),
    ("PCIDE in real mode, UG", real, lambda s: fields(s, cr4=1 << 17), Policy.VMX_UG, ["CR4_PCIDE"]),
    ("PCIDE under SVM", flat, lambda s: fields(s, cr4=1 << 17), Policy.SVM, []),
    ("CET without WP", flat, lambda s: fields(s, cr4=1 << 23), Policy.VMX, ["CR4_CET"]),
    ("reserved CR0 bit", flat, lambda s: fields(s, cr0=s.cr0 | 1 << 6), Policy.VMX, ["CR0_RESERVED"]),
    ("reserved CR4 bit", flat, lambda s: fields(s, cr4=1 << 15), Policy.VMX, ["CR4_RESERVED"]),
    ("reserved EFER bit", flat, lambda s: fields(s, efer=2), Policy.VMX, ["EFER_RESERVED_VMX"]),
    ("EFER bit that AMD reserves", flat, lambda s: fields(s, efer=1 << 16), Policy.SVM, ["EFER_RESERVED"]),
    ("AMD's TCE, MCOMMIT, INTWB, UAIE and AIBRSE", flat, lambda s: fields(s, efer=0x368000), Policy.SVM, []),
    ("reserved DEBUGCTL bit", flat, lambda s: fields(s, debugctl=8), Policy.VMX, ["DEBUGCTL_RESERVED"]),
    ("SYSENTER_ESP", flat, lambda s: fields(s, sysenter_esp=1 << 47), Policy.VMX, ["SYSENTER_ESP_CANONICAL"]),
    ("SYSENTER_EIP", flat, lambda s: fields(s, sysenter_eip=1 << 63), Policy.VMX_UG, ["SYSENTER_EIP_CANONICAL"]),
    ("PAT with type 2", flat, lambda s: fields(s, pat=0x0007040600070206), Policy.VMX, ["PAT_TYPES"]),
    ("PAT with type 3", flat, lambda s: fields(s, pat=0x0307040600070406), Policy.SVM, ["PAT_TYPES"]),
    ("PAT of all types", flat, lambda s: fields(s, pat=0x0706050401000007), Policy.VMX, []),
    (
        "#GP injected while halted",
        flat,
        lambda s: fields(s, activity=1, inject_type=3, inject_vector=13),
        Policy.VMX,
        ["HLT_INJECT"],
    ),
    (
        "#MC injected while halted",
        flat,
        lambda s: fields(s, activity=1, inject_type=3, inject_vector=18),
        Policy.VMX,
        [],
    ),
    (
        "NMI injected while NMIs are blocked",
        flat,
        lambda s: fields(s, nmi_blocked=1, inject_type=2, inject_vector=2),
        Policy.VMX,
        ["NMI_BLOCKED_INJECT"],
    ),
    (
        "NMI injected behind STI",
        flat,
        lambda s: fields(s, shadow=1, rflags=0x202, inject_type=2, inject_vector=2),
        Policy.VMX,
        ["SHADOW_INJECT"],
    ),
    (
        "PAE with a bad PDPTE",
        flat,
        lambda s: (setattr(s, "cr0", 0x80000011), setattr(s, "cr4", 0x20), setattr(s, "pdpte", [7, 0, 0, 0])),
        Policy.VMX,
        ["PDPTE0_RESERVED"],
    ),
    ("paged real mode", real, lambda s: setattr(s, "cr0", 0x80000010), Policy.SVM, ["CR0_PG_REAL"]),
    ("paged real mode, raw", real, lambda s: setattr(s, "cr0", 0x80000010), Policy.SVM_RAW, []),
    ("NW without CD", flat, lambda s: setattr(s, "cr0", 0x20000011), Policy.SVM, ["CR0_NW_CD"]),
    (
        "64-bit code segment with D",
        flat,
        lambda s: (
            setattr(s, "cr0", 0x80000011),
            setattr(s, "cr4", 0x20),
            setattr(s, "efer", 0x500),
            setattr(s.cs, "attributes", 0xE09B),
        ),
        Policy.SVM,
        ["LONG_MODE_CS"],
    ),
    ("DR7 above 32 bits", flat, lambda s: setattr(s, "dr7", 1 << 32), Policy.SVM, ["DR7_HIGH"]),
    ("fixed CR0 bits, raw", flat, lambda s: None, Policy.VMX_RAW, ["CR0_FIXED", "CR4_VMXE"]),
    ("protected, CS still from real mode", real, lambda s: setattr(s, "cr0", 0x11), Policy.PROTECTED, ["CS_LOADED"]),
    ("protected", flat, lambda s: None, Policy.PROTECTED, []),
]


@pytest.mark.parametrize(("start", "change", "policy", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_rule(start: Callable[[], State], change: Callable[[State], None], policy: Policy, expected: list[str]) -> None:
    state = start()
    change(state)
    assert names(state, policy) == expected


def test_an_explanation_names_field_value_requirement_and_section() -> None:
    state = flat()
    state.ss.selector = 0x9003
    text = str(failing(state, Policy.VMX)[0])
    for part in ("SS_RPL", "ss.selector", "0x9003", "RPL equal to CS.RPL", "SDM 3C"):
        assert part in text


def test_every_rule_can_fail() -> None:
    """A rule no case of this file or of the scrambled states below breaks would be dead."""
    from random import Random

    from dm.machine.state import GROUPS, group_layout, set_group

    broken: set[tuple[str, frozenset[Policy]]] = set()
    for _, start, change, policy, _ in CASES:
        state = start()
        change(state)
        broken |= {(f.rule.name, f.rule.policies) for f in failing(state, policy)}
    rng = Random(7)
    for _ in range(1500):
        state = rng.choice([real, flat])()
        for group in rng.sample([g for g in GROUPS if g != "fpu"], 3):
            set_group(
                state, group, [rng.getrandbits(rng.choice([min(w, 1), min(w, 2), w])) for _, w in group_layout(group)]
            )
        state.cr0 = state.cr0 & ~1 | rng.getrandbits(1)
        for policy in Policy:
            broken |= {(f.rule.name, f.rule.policies) for f in failing(state, policy)}
    assert {(r.name, r.policies) for r in RULES} - broken == set()
