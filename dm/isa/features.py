"""CPUID features that change what instructions do, and vendors whose parts differ."""

from __future__ import annotations

from typing import Final

from dm.isa.cells import FEATURES, MODEL, MORE_FEATURES, VENDOR
from dm.microcode import Microcode, Value

#: Feature name -> (leaf, subleaf, register 0-3 for EAX EBX ECX EDX, bit).  Its position is its bit in cell FEATURES, or
#: from 64 on in MORE_FEATURES.
TABLE: Final[dict[str, tuple[int, int, int, int]]] = {
    "fpu": (1, 0, 3, 0),
    "vme": (1, 0, 3, 1),
    "de": (1, 0, 3, 2),
    "pse": (1, 0, 3, 3),
    "tsc": (1, 0, 3, 4),
    "msr": (1, 0, 3, 5),
    "pae": (1, 0, 3, 6),
    "cx8": (1, 0, 3, 8),
    "apic": (1, 0, 3, 9),
    "sep": (1, 0, 3, 11),
    "mtrr": (1, 0, 3, 12),
    "pge": (1, 0, 3, 13),
    "cmov": (1, 0, 3, 15),
    "pat": (1, 0, 3, 16),
    "pse36": (1, 0, 3, 17),
    "clflush": (1, 0, 3, 19),
    "mmx": (1, 0, 3, 23),
    "fxsr": (1, 0, 3, 24),
    "sse": (1, 0, 3, 25),
    "sse2": (1, 0, 3, 26),
    "monitor": (1, 0, 2, 3),
    "movbe": (1, 0, 2, 22),
    "popcnt": (1, 0, 2, 23),
    "xsave": (1, 0, 2, 26),
    "rdrand": (1, 0, 2, 30),
    "sse4.2": (1, 0, 2, 20),
    "bmi1": (7, 0, 1, 3),
    "fdp_excptn_only": (7, 0, 1, 6),
    "zero_fcs_fds": (7, 0, 1, 13),
    "smep": (7, 0, 1, 7),
    "bmi2": (7, 0, 1, 8),
    "rdseed": (7, 0, 1, 18),
    "adx": (7, 0, 1, 19),
    "smap": (7, 0, 1, 20),
    "umip": (7, 0, 2, 2),
    "syscall": (0x80000001, 0, 3, 11),
    "nx": (0x80000001, 0, 3, 20),
    "rdtscp": (0x80000001, 0, 3, 27),
    "lm": (0x80000001, 0, 3, 29),
    "cr8_legacy": (0x80000001, 0, 2, 4),
    "lzcnt": (0x80000001, 0, 2, 5),
    "prefetchw": (0x80000001, 0, 2, 8),
    "mce": (1, 0, 3, 7),
    "vmx": (1, 0, 2, 5),
    "smx": (1, 0, 2, 6),
    "pcid": (1, 0, 2, 17),
    "fsgsbase": (7, 0, 1, 0),
    "pku": (7, 0, 2, 3),
    "pdpe1gb": (0x80000001, 0, 3, 26),
    "sse3": (1, 0, 2, 0),
    "pclmul": (1, 0, 2, 1),
    "ssse3": (1, 0, 2, 9),
    "sse4.1": (1, 0, 2, 19),
    "aes": (1, 0, 2, 25),
    "avx": (1, 0, 2, 28),
    "hypervisor": (1, 0, 2, 31),
    "sgx": (7, 0, 1, 2),
    "invpcid": (7, 0, 1, 10),
    "rtm": (7, 0, 1, 11),
    "mpx": (7, 0, 1, 14),
    "avx512f": (7, 0, 1, 16),
    "clflushopt": (7, 0, 1, 23),
    "clwb": (7, 0, 1, 24),
    "sha": (7, 0, 1, 29),
    "waitpkg": (7, 0, 2, 5),
    "cet_ss": (7, 0, 2, 7),
    "gfni": (7, 0, 2, 8),
    "la57": (7, 0, 2, 16),
    "rdpid": (7, 0, 2, 22),
    "kl": (7, 0, 2, 23),
    "movdiri": (7, 0, 2, 27),
    "movdir64b": (7, 0, 2, 28),
    "enqcmd": (7, 0, 2, 29),
    "pks": (7, 0, 2, 31),
    "uintr": (7, 0, 3, 5),
    "serialize": (7, 0, 3, 14),
    "tsxldtrk": (7, 0, 3, 16),
    "pconfig": (7, 0, 3, 18),
    "cet_ibt": (7, 0, 3, 20),
    "raoint": (7, 1, 0, 3),
    "fred": (7, 1, 0, 17),
    "wrmsrns": (7, 1, 0, 19),
    "hreset": (7, 1, 0, 22),
    "lam": (7, 1, 0, 26),
    "xsaveopt": (0xD, 1, 0, 0),
    "xsavec": (0xD, 1, 0, 1),
    "xsaves": (0xD, 1, 0, 3),
    "ptwrite": (0x14, 0, 1, 4),
    "svm": (0x80000001, 0, 2, 2),
    "sse4a": (0x80000001, 0, 2, 6),
    "xop": (0x80000001, 0, 2, 11),
    "tce": (0x80000001, 0, 2, 17),
    "monitorx": (0x80000001, 0, 2, 29),
    "mmxext": (0x80000001, 0, 3, 22),
    "ffxsr": (0x80000001, 0, 3, 25),
    "3dnow": (0x80000001, 0, 3, 31),
    "clzero": (0x80000008, 0, 1, 0),
    "rstr_fp_err_ptrs": (0x80000008, 0, 1, 2),
    "invlpgb": (0x80000008, 0, 1, 3),
    "rdpru": (0x80000008, 0, 1, 4),
    "mcommit": (0x80000008, 0, 1, 8),
    "snp": (0x8000001F, 0, 0, 4),
}
_BIT: Final = {name: i for i, name in enumerate(TABLE)}
#: Features that another one brings along: SSE has AMD's extensions to MMX (SDM vol. 1, 5.5.3).
_BRINGS: Final = {"sse": "mmxext"}

#: Values of cell VENDOR: Intel and all that are not known; AMD; AMD from family 1Ah (Zen 5) on.
INTEL, AMD, AMD_1A = range(3)
#: Vendor string in CPUID leaf 0 (EBX EDX ECX) -> value of cell VENDOR.
VENDORS: Final = {b"GenuineIntel": INTEL, b"AuthenticAMD": AMD, b"HygonGenuine": AMD}

#: CpuConfig.model -> value of cell MODEL.
MODELS: Final = {"80286": 2, "80386": 3, "p6": 6}


def has(m: Microcode, name: str) -> Value:
    """Return whether the guest's CPUID shows the feature, 1 bit."""
    number = _BIT[name]
    return m.get(MORE_FEATURES).bit(number - 64) if number >= 64 else m.get(FEATURES).bit(number)


def bits(*names: str) -> int:
    """Return the bits of features, as :func:`feature_mask` numbers them."""
    return sum(1 << _BIT[name] for name in names)


def is_amd(m: Microcode) -> Value:
    """Return whether the part follows AMD where vendors differ, 1 bit."""
    return m.get(VENDOR) != INTEL


def is_amd_1a(m: Microcode) -> Value:
    """Return whether the part is AMD's, of family 1Ah or later, 1 bit."""
    return m.get(VENDOR) == AMD_1A


def is_amd_or_old(m: Microcode) -> Value:
    """Return whether the part is AMD's or older than the P6: in places these do the same, as recorded, 1 bit."""
    return is_amd(m) | (m.get(MODEL) < 6)


def before_386(m: Microcode) -> Value:
    """Return whether the part modelled is a 80286, 1 bit."""
    return m.get(MODEL) < 3


def feature_mask(cpuid: dict[tuple[int, int], tuple[int, int, int, int]]) -> int:
    """Return the features that a CPUID table of (leaf, subleaf) -> (EAX, EBX, ECX, EDX) shows.

    The lower 64 bits are cell FEATURES, those above cell MORE_FEATURES.
    """
    mask = 0
    for name, (leaf, subleaf, register, bit) in TABLE.items():
        values = cpuid.get((leaf, subleaf))
        if values and values[register] >> bit & 1:
            mask |= 1 << _BIT[name] | (1 << _BIT[_BRINGS[name]] if name in _BRINGS else 0)
    return mask


def vendor(cpuid: dict[tuple[int, int], tuple[int, int, int, int]]) -> int:
    """Return the VENDOR cell for a CPUID table; parts of unknown vendors follow Intel."""
    _, ebx, ecx, edx = cpuid.get((0, 0), (0, 0, 0, 0))
    found = VENDORS.get(b"".join(r.to_bytes(4, "little") for r in (ebx, edx, ecx)), INTEL)
    return AMD_1A if found == AMD and _family(cpuid.get((1, 0), (0, 0, 0, 0))[0]) >= 0x1A else found


def _family(version: int) -> int:
    """Return the family that EAX of leaf 1 says (AMD APM vol. 3, appendix E.3.2)."""
    base = version >> 8 & 15
    return base + (version >> 20 & 0xFF) if base == 15 else base
