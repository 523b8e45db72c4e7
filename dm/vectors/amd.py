"""The CPU that the recorded sets are held against: a P6-class part of AMD's."""

from __future__ import annotations

from typing import Final

from dm.engine.api import CpuConfig, CpuidEntry


def _text(four: str) -> int:
    return int.from_bytes(four.encode("ascii"), "little")


# FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 MMX FXSR SSE SSE2
# (CPUID leaf 1, EDX; AMD APM vol. 3, appendix E.3).
_FEATURES: Final = 0x0783FBFF

# AltMovCr8, LOCK MOV CR0 meaning CR8 (CPUID leaf 80000001h, ECX).
_ALT_MOV_CR8: Final = 1 << 4


def _amd(features: int) -> CpuConfig:
    return CpuConfig(
        cpuid=(
            CpuidEntry(0, 0, 1, _text("Auth"), _text("cAMD"), _text("enti")),
            CpuidEntry(1, 0, 0x0F4A, 0, 0, features),
            CpuidEntry(0x80000000, 0, 0x80000001, 0, 0, 0),
            CpuidEntry(0x80000001, 0, 0, 0, _ALT_MOV_CR8, 0),
        ),
        model="p6",
    )


#: Vendor AuthenticAMD; everything else as the default part.
AMD: Final = _amd(_FEATURES)
#: The same without x87: sets recorded on boards whose coprocessor socket was empty.
AMD_WITHOUT_X87: Final = _amd(_FEATURES & ~1)
