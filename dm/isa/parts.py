"""Processors that can be modelled without a CPUID table from the hypervisor: the one home of default tables.

A processor is known by its vendor where vendors differ (:func:`dm.isa.features.vendor`, CPUID leaf 0) and by what CPUID
announces elsewhere; ``model`` refuses what later processors introduced.  Unknown vendors follow Intel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: (leaf, subleaf) -> (EAX, EBX, ECX, EDX).
Cpuid = dict[tuple[int, int], tuple[int, int, int, int]]

INTEL, AMD = "GenuineIntel", "AuthenticAMD"

#: CPUID.1:EDX of the P6 class: what is modelled of it, without floating point beyond FXSR.  No bit is set whose
#: registers and devices need a hypervisor: MCE and MCA (7, 14) promise banks of MSRs, APIC (9) a device.
P6_FEATURES: Final = 0x0183B97F
#: What Linux requires of a 64-bit part beyond that (arch/x86/include/asm/required-features.h): SSE and SSE2 here, LM,
#: NX and SYSCALL in leaf 80000001h, LAHF there too.
_64_BIT_FEATURES: Final = 0x078BB97F
_64_BIT_EXTENDED: Final = (1, 0x20100800)
#: CPUID.1:EBX, bits 8-15: what CLFLUSH, bit 19 of EDX, works on, in units of 8 bytes.
_CLFLUSH_LINE: Final = 8 << 8
#: AltMovCr8 of leaf 80000001h, ECX: LOCK MOV CR0 is MOV CR8 (AMD APM vol. 3, appendix E.4.2).
_ALT_MOV_CR8: Final = 1 << 4


def signature(vendor: str) -> tuple[int, int, int]:
    """Return EBX, ECX and EDX of leaf 0 for a vendor's twelve characters."""
    ebx, edx, ecx = (int.from_bytes(vendor[i : i + 4].encode("ascii"), "little") for i in (0, 4, 8))
    return ebx, ecx, edx


def table(vendor: str, version: int, features: int, extended: tuple[int, int] = (0, 0)) -> Cpuid:
    """Return a small CPUID table: leaf 0, leaf 1, and leaf 80000001h where it says something.

    Args:
        vendor: the twelve characters of leaf 0.
        version: EAX of leaf 1, family, model and stepping.
        features: EDX of leaf 1.
        extended: ECX and EDX of leaf 80000001h.
    """
    line = _CLFLUSH_LINE if features >> 19 & 1 else 0
    rows: Cpuid = {(0, 0): (1, *signature(vendor)), (1, 0): (version, line, 0, features)}
    if any(extended):
        rows[0x80000000, 0] = (0x80000001, 0, 0, 0)
        rows[0x80000001, 0] = (0, 0, *extended)
    return rows


@dataclass(frozen=True)
class Part:
    """One part: its CPU model (:data:`dm.isa.features.MODELS`), its CPUID table, and a line of description."""

    model: str
    cpuid: Cpuid
    summary: str


#: CPUID of the default processor.
DEFAULT_CPUID: Final[Cpuid] = {
    (0, 0): (2, *signature(INTEL)),
    (1, 0): (0x673, 0, 0, P6_FEATURES),
    (2, 0): (0x03020101, 0, 0, 0x0C040843),
}

#: Name -> part.  The first is the default.
PARTS: Final[dict[str, Part]] = {
    "intel": Part("p6", DEFAULT_CPUID, "Intel, P6 class"),
    "amd": Part("p6", table(AMD, 0x673, P6_FEATURES, (_ALT_MOV_CR8, 0)), "AMD, P6 class"),
    "x86-64": Part("p6", table(INTEL, 0x6F0, _64_BIT_FEATURES, _64_BIT_EXTENDED), "Intel, 64-bit"),
    "amd-x86-64": Part(
        "p6",
        table(AMD, 0x0F4A, _64_BIT_FEATURES, (_64_BIT_EXTENDED[0] | _ALT_MOV_CR8, _64_BIT_EXTENDED[1])),
        "AMD, 64-bit",
    ),
    "80386": Part("80386", DEFAULT_CPUID, "Intel 80386"),
    "80286": Part("80286", DEFAULT_CPUID, "Intel 80286"),
}
DEFAULT: Final = next(iter(PARTS))

#: Other names of parts: the model's, and what CPUID leaf 0 says.
ALIASES: Final = {"p6": "intel", INTEL: "intel", AMD: "amd"}
