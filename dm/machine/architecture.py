"""Architectural constants: the one home of register bits, vectors, access rights, page-table bits and MSR numbers.

Members of register enumerations are masks, named as the manuals name the bits (SDM and AMD APM; the section stands at
each class).  They are IntEnum and not IntFlag: ``~`` and ``|`` give ordinary integers (IntFlag's ``~`` drops bits that
have no name), a state field takes them as they are, and using them costs nothing.  Microcode asks ``value.has(Cr0.PG)``
and ``value.field(Rights.DPL)``; :mod:`dm.machine.header` prints all of this for C.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


def position(mask: int) -> int:
    """Return the number of the lowest bit of a mask.

    Raises:
        ValueError: the mask has no bit.
    """
    if mask <= 0:
        raise ValueError(f"a mask is a positive number, not {mask}")
    return (mask & -mask).bit_length() - 1


class Eflags(IntEnum):
    """EFLAGS (SDM vol. 1, 3.4.3)."""

    CF = 1 << 0
    FIXED = 1 << 1  #: always set
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21
    #: The status flags (SDM vol. 1, 3.4.3.1).
    STATUS = CF | PF | AF | ZF | SF | OF
    #: Every flag of FLAGS, and of EFLAGS, without the fixed bit.
    ALL_16 = STATUS | TF | IF | DF | IOPL | NT
    ALL_32 = ALL_16 | RF | VM | AC | VIF | VIP | ID


class Cr0(IntEnum):
    """CR0 (SDM vol. 3A, 2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31
    #: The machine status word, and what LMSW can change of it.
    MSW = PE | MP | EM | TS
    #: Every bit that exists; the last five came with the 80486.
    ALL_386 = MSW | ET | PG
    ALL = ALL_386 | NE | WP | AM | NW | CD


class Cr3(IntEnum):
    """CR3 (SDM vol. 3A, 2.5 and 4.5; tables 4-3, 4-7 and 4-12)."""

    PCID = 0xFFF
    #: Address of the page directory, and of the page-directory-pointer table under PAE paging.
    DIRECTORY = 0xFFFFF000
    POINTERS = 0xFFFFFFE0


class Cr4(IntEnum):
    """CR4 (SDM vol. 3A, 2.5)."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2
    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    UMIP = 1 << 11
    LA57 = 1 << 12
    VMXE = 1 << 13
    SMXE = 1 << 14
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    OSXSAVE = 1 << 18
    KL = 1 << 19
    SMEP = 1 << 20
    SMAP = 1 << 21
    PKE = 1 << 22
    CET = 1 << 23
    PKS = 1 << 24
    UINTR = 1 << 25
    LASS = 1 << 27
    LAM_SUP = 1 << 28
    FRED = 1 << 32


class Efer(IntEnum):
    """IA32_EFER (SDM vol. 3A, 2.2.1; AMD APM vol. 2, 3.1.7)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11
    SVME = 1 << 12
    LMSLE = 1 << 13
    FFXSR = 1 << 14
    TCE = 1 << 15
    MCOMMIT = 1 << 17
    INTWB = 1 << 18
    UAIE = 1 << 20
    AIBRSE = 1 << 21


class Dr6(IntEnum):
    """DR6, the debug status register (SDM vol. 3B, 17.2.3)."""

    B0 = 1 << 0
    B1 = 1 << 1
    B2 = 1 << 2
    B3 = 1 << 3
    BD = 1 << 13
    BS = 1 << 14
    BT = 1 << 15
    RTM = 1 << 16
    #: B0 to B3.
    B = B0 | B1 | B2 | B3
    #: What a MOV can change, and what always reads as ones, on a part without RTM and bus-lock detection.
    WRITABLE = B | BD | BS | BT
    ONES = 0xFFFF0FF0


class Dr7(IntEnum):
    """DR7, the debug control register (SDM vol. 3B, 17.2.4).

    The fields of breakpoints 1 to 3 follow those of breakpoint 0: see :func:`breakpoint_enable`,
    :func:`breakpoint_type`, :func:`breakpoint_length`.
    """

    L0 = 1 << 0
    G0 = 1 << 1
    LE = 1 << 8
    GE = 1 << 9
    FIXED = 1 << 10  #: always set
    RTM = 1 << 11
    GD = 1 << 13
    RW0 = 3 << 16
    LEN0 = 3 << 18
    #: L0 to L3 and G0 to G3: zero where no breakpoint is enabled.
    ENABLED = 0xFF
    #: L0 to L3 and LE, which a task switch clears.
    LOCAL = 0x155
    #: What a MOV can change.
    WRITABLE = ENABLED | LE | GE | GD | 0xFFFF0000


def breakpoint_enable(number: int) -> int:
    """Return the mask of Ln and Gn in DR7."""
    return (Dr7.L0 | Dr7.G0) << 2 * number


def breakpoint_type(number: int) -> int:
    """Return the mask of R/Wn in DR7, which holds a :class:`Breakpoint`."""
    return Dr7.RW0 << 4 * number


def breakpoint_length(number: int) -> int:
    """Return the mask of LENn in DR7: 0 for 1 byte, 1 for 2, 2 for 8, 3 for 4."""
    return Dr7.LEN0 << 4 * number


class Breakpoint(IntEnum):
    """Kinds of breakpoint in the R/W fields of DR7 (SDM vol. 3B, 17.2.4)."""

    EXECUTE = 0
    WRITE = 1
    IO = 2
    ACCESS = 3


class PendingDebug(IntEnum):
    """Pending debug exceptions (SDM vol. 3C, 25.4.2), and BT as DR6 has it, which only an engine sets."""

    B0 = Dr6.B0
    B1 = Dr6.B1
    B2 = Dr6.B2
    B3 = Dr6.B3
    ENABLED = 1 << 12  #: a breakpoint that was met was enabled in DR7
    BS = Dr6.BS
    BT = Dr6.BT
    B = Dr6.B


class DebugCtl(IntEnum):
    """IA32_DEBUGCTL (SDM vol. 3B, 17.4.1)."""

    LBR = 1 << 0
    BTF = 1 << 1
    BLD = 1 << 2
    TR = 1 << 6
    BTS = 1 << 7
    BTINT = 1 << 8
    BTS_OFF_OS = 1 << 9
    BTS_OFF_USR = 1 << 10
    FREEZE_LBRS_ON_PMI = 1 << 11
    FREEZE_PERFMON_ON_PMI = 1 << 12
    ENABLE_UNCORE_PMI = 1 << 13
    FREEZE_WHILE_SMM = 1 << 14
    RTM = 1 << 15


class ApicBase(IntEnum):
    """IA32_APIC_BASE (SDM vol. 3A, 11.4.4)."""

    BSP = 1 << 8
    EXTD = 1 << 10
    EN = 1 << 11


class Vector(IntEnum):
    """Vectors of exceptions and of the non-maskable interrupt (SDM vol. 3A, table 6-1)."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19
    VE = 20
    CP = 21


class SelectorError(IntEnum):
    """Low bits of an error code that names a selector or a gate of the IDT (SDM vol. 3A, 6.13)."""

    EXT = 1 << 0
    IDT = 1 << 1
    TI = 1 << 2


class PageFault(IntEnum):
    """Error code of #PF (SDM vol. 3A, 4.7)."""

    P = 1 << 0
    WR = 1 << 1
    US = 1 << 2
    RSVD = 1 << 3
    ID = 1 << 4


class Rights(IntEnum):
    """Access rights of a segment: bits 40-55 of its descriptor (SDM vol. 3A, 3.4.5; vol. 3C, 25.4.1)."""

    TYPE = 15
    ACCESSED = 1 << 0
    WRITABLE = 1 << 1  #: data
    READABLE = 1 << 1  #: code
    EXPAND_DOWN = 1 << 2  #: data
    CONFORMING = 1 << 2  #: code
    CODE = 1 << 3
    #: The second bit of a TSS's type: it is busy.
    BUSY = 1 << 1
    #: The highest bit of the type of a TSS or a gate: it is one of the 80386's.
    WIDE = 1 << 3
    S = 1 << 4
    DPL = 3 << 5
    P = 1 << 7
    RESERVED = 15 << 8
    AVL = 1 << 12
    L = 1 << 13
    DB = 1 << 14
    G = 1 << 15
    #: A segment that can be read and written, or executed and read, as a load leaves it: present, DPL 0, accessed.
    DATA = P | S | WRITABLE | ACCESSED
    TEXT = P | S | CODE | READABLE | ACCESSED
    #: What makes such a one flat: 4-GiB limit and 32 bits.
    FLAT = G | DB


class System(IntEnum):
    """Types of system segments and gates (SDM vol. 3A, table 3-2).  The 16-bit ones are the 80286's."""

    TSS16 = 1
    LDT = 2
    TSS16_BUSY = 3
    CALL16 = 4
    TASK_GATE = 5
    INT16 = 6
    TRAP16 = 7
    TSS32 = 9
    TSS32_BUSY = 11
    CALL32 = 12
    INT32 = 14
    TRAP32 = 15


class Selector(IntEnum):
    """Parts of a segment selector (SDM vol. 3A, 3.4.2)."""

    RPL = 3
    TI = 1 << 2
    #: The index, times 8: offset in the table.
    INDEX = 0xFFF8
    #: All but the RPL: zero in a null selector.
    NAME = 0xFFFC


class Entry(IntEnum):
    """Bits of paging-structure entries (SDM vol. 3A, tables 4-4 to 4-20)."""

    P = 1 << 0
    RW = 1 << 1
    US = 1 << 2
    PWT = 1 << 3
    PCD = 1 << 4
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    G = 1 << 8
    XD = 1 << 63
    #: Address of a page or table: of 32 bits, and of 52.
    ADDRESS_32 = 0xFFFFF000
    ADDRESS = 0x000FFFFFFFFFF000
    #: Reserved in a PDE of 32-bit paging that maps 4 MiB (table 4-4).
    PSE36_RESERVED = 1 << 21
    #: Reserved in a PDPTE of PAE paging (table 4-8).
    PDPTE_RESERVED = 0xFFF << 52 | G | PS | D | A | US | RW


class X87Control(IntEnum):
    """x87 control word (SDM vol. 1, 8.1.5)."""

    IM = 1 << 0
    DM = 1 << 1
    ZM = 1 << 2
    OM = 1 << 3
    UM = 1 << 4
    PM = 1 << 5
    #: Reads as one.
    FIXED = 1 << 6
    PC = 3 << 8
    RC = 3 << 10
    X = 1 << 12  #: infinity control, of the 80287
    MASKS = 0x3F
    #: Every bit that can be changed.
    ALL = MASKS | PC | RC | X
    #: What FNINIT sets.
    INITIAL = MASKS | FIXED | PC


class X87Status(IntEnum):
    """x87 status word (SDM vol. 1, 8.1.3)."""

    IE = 1 << 0
    DE = 1 << 1
    ZE = 1 << 2
    OE = 1 << 3
    UE = 1 << 4
    PE = 1 << 5
    SF = 1 << 6  #: stack fault
    ES = 1 << 7  #: an unmasked exception waits
    C0 = 1 << 8
    C1 = 1 << 9
    C2 = 1 << 10
    TOP = 7 << 11
    C3 = 1 << 14
    B = 1 << 15  #: what ES is
    EXCEPTIONS = 0x3F
    #: Both bits that say that an unmasked exception waits.
    PENDING = ES | B
    CODES = C0 | C1 | C2 | C3


class Msr(IntEnum):
    """Model-specific registers that are in the state table (SDM vol. 4, table 2-2; AMD APM vol. 2, appendix A)."""

    TSC = 0x10
    APIC_BASE = 0x1B
    MTRRCAP = 0xFE
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MISC_ENABLE = 0x1A0
    DEBUGCTL = 0x1D9
    MTRR_PHYSBASE0 = 0x200
    MTRR_PHYSMASK0 = 0x201
    MTRR_FIX64K_00000 = 0x250
    MTRR_FIX16K_80000 = 0x258
    MTRR_FIX4K_C0000 = 0x268
    PAT = 0x277
    MTRR_DEF_TYPE = 0x2FF
    EFER = 0xC0000080
    STAR = 0xC0000081
    LSTAR = 0xC0000082
    CSTAR = 0xC0000083
    FMASK = 0xC0000084
    FS_BASE = 0xC0000100
    GS_BASE = 0xC0000101
    KERNEL_GS_BASE = 0xC0000102
    TSC_AUX = 0xC0000103


class Access(IntEnum):
    """What a page walk is told of the access; it is no register, but its first three bits are those of #PF's code."""

    WRITE = 1 << 0
    USER = 1 << 1
    FETCH = 1 << 2
    IMPLICIT = 1 << 3  #: to a descriptor table or TSS, which EFLAGS.AC does not help under SMAP


#: Names of the 4-bit condition codes, in order (SDM vol. 1, table B-1).
CONDITIONS: Final = ("O", "NO", "B", "NB", "Z", "NZ", "BE", "NBE", "S", "NS", "P", "NP", "L", "NL", "LE", "NLE")
