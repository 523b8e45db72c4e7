"""What CPUID announces and is not executed: never #UD, once mode, privilege and control registers allow it."""

from __future__ import annotations

import random

import pytest
from encode import encode, home
from machine import Hypervisor, Machine, Unsupported, execute, fails, forms

from dm.isa import features
from dm.isa.insn import Variant
from dm.isa.lineage import Lineage
from dm.isa.map import coverage, opcodes
from dm.isa.map.coverage import form_name
from dm.isa.map.forms import Row, read

EM, TS, NE = 4, 8, 0x20
OSFXSR, VMXE, SMXE, OSXSAVE, KL, PKE, CET, TSD = 1 << 9, 1 << 13, 1 << 14, 1 << 18, 1 << 19, 1 << 22, 1 << 23, 4
SVME = 1 << 12
UD, NM, GP, MF = 6, 7, 13, 16
ALL = (1 << 64) - 1
LISTED = {row.text: row for row in read(opcodes.X87 + opcodes.SIMD + opcodes.ANNOUNCED)}
ROWS = [
    (row, variant)
    for row, variant in forms(*{row.mnemonic for row in LISTED.values()})
    if row.text in LISTED and not coverage.implemented(row)
]


def able(row: Row, *, code32: bool = True) -> Machine:
    """A machine that announces everything, and where nothing is switched off."""
    m = Machine().protect(3 if row.mnemonic == "ENCLU" else 0)
    m.vendor = int(home(row) == Lineage.AMD)
    m.code32 = code32
    m.features = m.more_features = ALL
    m.cr4 = OSFXSR | VMXE | SMXE | OSXSAVE | KL | PKE | CET
    m.efer = SVME
    return m


def lack(m: Machine, name: str) -> Machine:
    number = list(features.TABLE).index(name)
    m.features &= ~(1 << number)
    m.more_features &= ~(1 << number >> 64)
    return m


def text(row: Row, variant: Variant, code32: bool) -> bytes | None:
    return encode(row, variant, code32, random.Random(row.text))


@pytest.mark.parametrize(("row", "variant"), ROWS, ids=[f"{row.text} {form_name(v, row)}" for row, v in ROWS])
def test_what_is_announced_leaves_and_what_is_not_is_undefined(row: Row, variant: Variant) -> None:
    tried = 0
    for code32 in (True, False):
        code = text(row, variant, code32)
        if code is None:
            continue
        tried += 1
        m = able(row, code32=code32)
        before = (m.gpr32[:], bytes(m.memory), bytes(m.fxsave), m.eip)
        with pytest.raises(Unsupported, match=rf"^{row.mnemonic}$"):
            m.run(code)
        assert (m.gpr32[:], bytes(m.memory), bytes(m.fxsave), m.eip) == before
        if not row.feature:
            continue
        m = lack(able(row, code32=code32), row.feature)
        if "optional" in row.attributes:
            execute(code.hex(), m=m)
        else:
            fails(code.hex(), UD, "NO_FEATURE", m=m)
    assert tried or "66" in row.text or variant.osize == 16


def test_the_rows_are_many() -> None:
    assert len(ROWS) > 1000
    assert {row.mnemonic for row, _ in ROWS} >= {"PSHUFB", "ADDPS", "CVTPI2PS", "AVX", "XSAVE", "VMXON", "ENCLS"}


SSE, MMX, BOTH = "0f58c1 ; addps", "0ff1c1 ; psllw mm", "0f2ac1 ; cvtpi2ps"


@pytest.mark.parametrize(
    ("code", "cr0", "cr4", "vector", "cause"),
    [
        (SSE, 0, 0, UD, "NO_SSE"),
        (SSE, EM, OSFXSR, UD, "NO_SSE"),
        (SSE, EM | TS, OSFXSR, UD, "NO_SSE"),
        (SSE, TS, OSFXSR, NM, "NO_SSE"),
        (BOTH, 0, 0, UD, "NO_SSE"),
        (BOTH, TS, OSFXSR, NM, "NO_SSE"),
        (BOTH, NE, OSFXSR, MF, "X87_PENDING"),
        (MMX, EM, 0, UD, "NO_MMX"),
        (MMX, EM | TS, 0, UD, "NO_MMX"),
        (MMX, TS, 0, NM, "NO_X87"),
        (MMX, NE, 0, MF, "X87_PENDING"),
        ("0f70c100 ; pshufw mm", EM, 0, UD, "NO_MMX"),
    ],
)
def test_who_may_use_simd(code: str, cr0: int, cr4: int, vector: int, cause: str) -> None:
    m = Machine()
    m.features = m.more_features = ALL
    m.cr0, m.cr4 = m.cr0 | cr0, cr4
    m.fxsave[2] = 0x80 if vector == MF else 0
    fails(code, vector, cause, m=m)


@pytest.mark.parametrize(
    ("code", "feature"),
    [
        ("0f58c1 ; addps", "sse"), ("660f58c1 ; addpd", "sse2"), ("f20f58c1 ; addsd", "sse2"), ("f30f58c1", "sse"),
        ("0fd4c1 ; paddq mm", "sse2"), ("660fd4c1 ; paddq", "sse2"), ("0ffcc1 ; paddb mm", "mmx"), ("0fdac1", "mmxext"),
        ("660f7cc1 ; haddpd", "sse3"), ("0f3800c1 ; pshufb mm", "ssse3"), ("660f3817c1 ; ptest", "sse4.1"),
        ("660f3837c1 ; pcmpgtq", "sse4.2"), ("660f38dbc1 ; aesimc", "aes"), ("660f3a44c100 ; pclmulqdq", "pclmul"),
        ("0f38c8c1 ; sha1nexte", "sha"), ("660f38cfc1 ; gf2p8mulb", "gfni"), ("660f3a0fc100 ; palignr", "ssse3"),
    ],
)  # fmt: skip
def test_each_form_of_simd_needs_its_own_feature(code: str, feature: str) -> None:
    m = Machine()
    m.features = m.more_features = ALL
    m.cr4 = OSFXSR
    fails(code, UD, "NO_FEATURE", m=lack(m, feature))
    m.features = m.more_features = ALL
    with pytest.raises(Unsupported):
        m.run(bytes.fromhex(code.split(";")[0]))


@pytest.mark.parametrize(
    "code",
    [
        "f30f60c1", "f20ffcc1", "660f77 ; emms", "f30f77", "f20f77", "660f01ca ; clac", "f30f01ca",
        "f20f01cb ; stac", "660f01d0 ; xgetbv", "f20f01d0", "f30f01d1 ; xsetbv", "660f01d6 ; xtest",
        "f30fc7f0 ; rdrand", "f20fc7f0", "f20fc7f8 ; rdseed, rdpid", "660f01e8 ; serialize", "f30f01ee ; rdpkru",
        "f20faee8 ; lfence",
        "f30faef8 ; sfence", "f20fae38 ; clflush", "f30fae00 ; fxsave", "f20fae20 ; xsave", "f20fc301 ; movnti",
        "660f37 ; getsec", "660f3882c1 ; invpcid of a register", "f20f38f901 ; movdiri",
    ],
)  # fmt: skip
def test_mandatory_prefixes(code: str) -> None:
    """The manual gives these a row without (or with another) prefix only; AMD's part does the same (live oracle)."""
    m = Machine()
    m.features = m.more_features = ALL
    m.cr4 = OSFXSR | OSXSAVE | PKE | SMXE
    fails(code, UD, "UNDEFINED", m=m)


@pytest.mark.parametrize("mode", ["real", "vm86", 0, 3])
@pytest.mark.parametrize("hypervisor", [False, True])
@pytest.mark.parametrize(("code", "vendor"), [("0f01c1 ; vmcall", 0), ("0f01d9 ; vmmcall", 1)])
def test_calls_of_the_hypervisor(code: str, vendor: int, hypervisor: bool, mode: str | int) -> None:
    """Its own part's opcode leaves always, the other's where CPUID says that a hypervisor is there."""
    for part in (0, 1):
        m = Machine()
        m = m.virtual_8086() if mode == "vm86" else m if mode == "real" else m.protect(int(mode))
        m.vendor = part
        if hypervisor:
            m.features |= 1 << list(features.TABLE).index("hypervisor")
        if part == vendor or hypervisor:
            before = (m.gpr32[:], bytes(m.memory), m.eip)
            with pytest.raises(Hypervisor, match=r"VMM?CALL"):
                m.run(bytes.fromhex(code.split(";")[0]))
            assert (m.gpr32[:], bytes(m.memory), m.eip) == before
        else:
            fails(code, UD, "NO_FEATURE", m=m)


def test_protected_mode_only() -> None:
    for code in ("0f01c2 ; vmlaunch", "c5f877 ; vzeroupper", "0f01cf ; encls"):
        m = Machine()
        m.features = m.more_features = ALL
        m.cr4 = OSXSAVE | VMXE
        fails(code, UD, "NOT_PROTECTED_MODE", m=m)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("0fae20 ; xsave", "OSXSAVE_CLEAR"), ("c5f877 ; vzeroupper", "OSXSAVE_CLEAR"),
        ("0f01c4 ; vmxoff", "VMXE_CLEAR"),
        ("0f37 ; getsec", "SMXE_CLEAR"), ("0f01ee ; rdpkru", "PKE_CLEAR"), ("f30f01e8 ; setssbsy", "CET_CLEAR"),
        ("f30f38d800 ; aesencwide128kl", "KL_CLEAR"), ("0f01da ; vmload", "SVME_CLEAR"),
    ],
)  # fmt: skip
def test_what_the_guest_has_not_enabled_is_undefined(code: str, cause: str) -> None:
    m = Machine().protect(0)
    m.features = m.more_features = ALL
    fails(code, UD, cause, m=m)


def test_privilege() -> None:
    for code, vector in (("0f01cf ; encls", UD), ("0fc718 ; xrstors", GP), ("0f01c5 ; pconfig", GP), ("0f01da", GP)):
        m = Machine().protect(3)
        m.features = m.more_features = ALL
        m.cr4, m.efer = OSXSAVE, SVME
        fails(code, vector, "CPL_NOT_0", m=m)
    m = Machine().protect(0)
    m.features = m.more_features = ALL
    fails("0f01d7 ; enclu", UD, "CPL_NOT_3", m=m)
    m = Machine().protect(3)
    m.features = m.more_features = ALL
    m.cr4 = TSD
    fails("660faef0 ; tpause eax", GP, "TSD", m=m)


@pytest.mark.parametrize("code32", [False, True])
def test_extended_control_registers_in_every_size(code32: bool) -> None:
    for code in ("0f01d0 ; xgetbv", "0f01d1 ; xsetbv"):
        m = Machine()
        m.code32, m.features, m.cr4 = code32, ALL, OSXSAVE
        with pytest.raises(Unsupported, match="XCR0"):
            m.run(bytes.fromhex(code.split(";")[0]))
        m.cr4 = 0
        fails(code, UD, "OSXSAVE_CLEAR", m=m)


@pytest.mark.parametrize("code32", [False, True])
def test_pkru_needs_zeros(code32: bool) -> None:
    m = Machine()
    m.code32 = code32
    m.features, m.cr4 = ALL, PKE
    fails("0f01ee ; rdpkru", GP, "NOT_ZERO", {"ecx": 1}, m)
    fails("0f01ef ; wrpkru", GP, "NOT_ZERO", {"ecx": 0, "edx": 1}, m)
    for code in ("0f01ee", "0f01ef"):
        m = Machine()
        m.code32, m.features, m.cr4 = code32, ALL, PKE
        m.gpr32[1] = m.gpr32[2] = 0
        with pytest.raises(Unsupported, match="PKRU"):
            m.run(bytes.fromhex(code))
