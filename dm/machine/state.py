"""The architectural state of one virtual CPU: every field once.

The dataclasses below *are* the state table: name, width in bits, group and meaning of each field are here and nowhere
else.  The engine's C structure, the codec's groups on the wire and the reference page are generated from
:data:`FIELDS`; nothing else may list registers.

Widths follow the wire contract (general registers, RIP, RFLAGS, bases, CR2 and CR3 are 64 bits wide from the first
version) so that a state passes through unchanged even where 16/32-bit code cannot see the upper half.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cache
from typing import Any, Final

from dm.machine.architecture import ApicBase, Cr0, Dr6, Dr7, Eflags, Rights, System, position


class Seg(IntEnum):
    """Segment registers in the order the instruction encoding numbers them, then the two system segments."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5
    LDTR = 6
    TR = 7


class Gpr(IntEnum):
    """General registers in encoding order (SDM vol. 2, table 3-1)."""

    AX = 0
    CX = 1
    DX = 2
    BX = 3
    SP = 4
    BP = 5
    SI = 6
    DI = 7


class Activity(IntEnum):
    """What the CPU is doing; the numbers are VMX's activity states (SDM vol. 3C, guest non-register state)."""

    RUNNING = 0
    HALTED = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3


class Shadow(IntEnum):
    """Bits of :attr:`State.shadow`, as in VMX's interruptibility state (SDM vol. 3C, table 25-3)."""

    STI = 1
    MOV_SS = 2


class EventType(IntEnum):
    """Kinds of injected event, numbered as VMX numbers interruption types (SDM vol. 3C, table 25-17)."""

    EXTERNAL = 0
    NMI = 2
    EXCEPTION = 3
    SOFT_INT = 4
    PRIVILEGED_SOFT = 5
    SOFT_EXCEPTION = 6
    NONE = 255


def _scalar(width: int, group: str, doc: str, reset: int = 0) -> Any:
    reset = int(reset)
    return field(default=reset, metadata={"width": width, "group": group, "doc": doc, "count": 0, "reset": reset})


def _array(width: int, count: int, group: str, doc: str) -> Any:
    return field(
        default_factory=lambda: [0] * count,
        metadata={"width": width, "group": group, "doc": doc, "count": count, "reset": 0},
    )


def _blob(size: int, group: str, doc: str) -> Any:
    return field(
        default_factory=lambda: bytes(size),
        metadata={"width": 8, "group": group, "doc": doc, "count": size, "reset": 0, "blob": True},
    )


@dataclass(slots=True)
class Segment:
    """One segment register with its hidden part (descriptor cache).

    ``attributes`` keeps descriptor bits 40-55 in descriptor order: type in 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13,
    D/B 14, G 15; bits 8-11 are zero.  It is VMX's access-rights format without the unusable bit.  ``limit`` counts
    bytes whatever G says.
    """

    selector: int = _scalar(16, "segment", "visible selector")
    base: int = _scalar(64, "segment", "linear base address")
    limit: int = _scalar(32, "segment", "limit in bytes (already scaled by G)")
    attributes: int = _scalar(16, "segment", "type, S, DPL, P, AVL, L, D/B, G in descriptor order")
    unusable: int = _scalar(1, "segment", "1: loaded with a null selector, every access faults")

    @property
    def type(self) -> int:
        """Descriptor type, 4 bits."""
        return self.attributes & Rights.TYPE

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0-3."""
        return (self.attributes & Rights.DPL) >> position(Rights.DPL)

    @property
    def big(self) -> bool:
        """D/B: 32-bit code, stack or upper bound."""
        return bool(self.attributes & Rights.DB)


def misfit(label: str, width: int, value: object) -> str | None:
    """Return what is wrong with a value for a field of ``width`` bits (above 64: so many bits of bytes); None: it fits.

    The one rule for all fields: a non-negative integer below ``2**width``, or a member of an IntEnum such as
    :class:`Activity`; True and False do not count, nor does what could only be converted to one.
    """
    if width > 64:
        if type(value) is not bytes:
            return f"{label} is {reprlib.repr(value)}, {width // 8} bytes are needed"
        return None if len(value) * 8 == width else f"{label} has {len(value)} bytes, {width // 8} needed"
    if type(value) is bytes:
        return f"{label} has {len(value)} bytes, an integer below 2**{width} is needed"
    if (type(value) is int or isinstance(value, IntEnum)) and 0 <= value < 1 << width:
        return None
    return f"{label} is {reprlib.repr(value)}, an integer below 2**{width} is needed"


class _Register:
    """A general register, or its low part, by name."""

    def __init__(self, index: int, width: int) -> None:
        self.index, self.width, self.mask = index, width, (1 << width) - 1

    def __set_name__(self, owner: type[State], name: str) -> None:
        self.name = name

    def __get__(self, state: State, owner: type[State]) -> int:
        return state.gpr[self.index] & self.mask

    def __set__(self, state: State, value: int) -> None:
        if (wrong := misfit(self.name, self.width, value)) is not None:
            raise ValueError(wrong)
        state.gpr[self.index] = state.gpr[self.index] & ~self.mask | int(value)


class _SegmentName:
    """A segment register by name."""

    def __init__(self, index: Seg) -> None:
        self.index = index

    def __get__(self, state: State, owner: type[State]) -> Segment:
        return state.seg[self.index]


@dataclass(slots=True)
class State:
    """Everything architectural about one vCPU.

    Values are non-negative integers below ``2**width`` (:func:`misfit`).  Setting a general register by name checks
    that at once; everything else is checked by whoever takes the state.  The ValueError names field and width.
    """

    # general
    gpr: list[int] = _array(64, 8, "general", "RAX RCX RDX RBX RSP RBP RSI RDI")
    rip: int = _scalar(64, "general", "instruction pointer", 0xFFF0)
    rflags: int = _scalar(64, "general", "flags, bit 1 always set", Eflags.FIXED)
    # segments, in Seg order
    seg: list[Segment] = field(
        default_factory=lambda: [Segment() for _ in Seg],
        metadata={"group": "segments", "doc": "ES CS SS DS FS GS LDTR TR", "count": 8, "width": 0},
    )
    # descriptor tables
    gdtr_base: int = _scalar(64, "tables", "GDT linear base")
    gdtr_limit: int = _scalar(16, "tables", "GDT limit in bytes", 0xFFFF)
    idtr_base: int = _scalar(64, "tables", "IDT or IVT linear base")
    idtr_limit: int = _scalar(16, "tables", "IDT or IVT limit in bytes", 0xFFFF)
    # control
    cr0: int = _scalar(64, "control", "CR0", Cr0.CD | Cr0.NW | Cr0.ET)
    cr2: int = _scalar(64, "control", "page-fault linear address")
    cr3: int = _scalar(64, "control", "paging root")
    cr4: int = _scalar(64, "control", "CR4")
    cr8: int = _scalar(64, "control", "task-priority register")
    efer: int = _scalar(64, "control", "EFER (MSR C0000080h)")
    pdpte: list[int] = _array(64, 4, "control", "PAE page-directory-pointer entries as loaded by MOV CR3")
    cpl: int = _scalar(2, "control", "current privilege level; never derived from a selector")
    # debug
    dr: list[int] = _array(64, 4, "debug", "DR0-DR3")
    dr6: int = _scalar(64, "debug", "debug status", Dr6.ONES)
    dr7: int = _scalar(64, "debug", "debug control", Dr7.FIXED)
    # MSRs
    sysenter_cs: int = _scalar(64, "msrs", "IA32_SYSENTER_CS (174h)")
    sysenter_esp: int = _scalar(64, "msrs", "IA32_SYSENTER_ESP (175h)")
    sysenter_eip: int = _scalar(64, "msrs", "IA32_SYSENTER_EIP (176h)")
    star: int = _scalar(64, "msrs", "STAR (C0000081h)")
    lstar: int = _scalar(64, "msrs", "LSTAR (C0000082h)")
    cstar: int = _scalar(64, "msrs", "CSTAR (C0000083h)")
    fmask: int = _scalar(64, "msrs", "SFMASK (C0000084h)")
    kernel_gs_base: int = _scalar(64, "msrs", "KERNEL_GS_BASE (C0000102h)")
    tsc_aux: int = _scalar(64, "msrs", "TSC_AUX (C0000103h)")
    apic_base: int = _scalar(64, "msrs", "IA32_APIC_BASE (1Bh)", 0xFEE00000 | ApicBase.EN | ApicBase.BSP)
    misc_enable: int = _scalar(64, "msrs", "IA32_MISC_ENABLE (1A0h)")
    debugctl: int = _scalar(64, "msrs", "IA32_DEBUGCTL (1D9h)")
    pat: int = _scalar(64, "msrs", "IA32_PAT (277h)", 0x0007040600070406)
    mtrr_def_type: int = _scalar(64, "msrs", "IA32_MTRR_DEF_TYPE (2FFh)")
    mtrr_fixed: list[int] = _array(64, 11, "msrs", "fixed-range MTRRs 250h, 258h-259h, 268h-26Fh")
    mtrr_base: list[int] = _array(64, 8, "msrs", "variable-range MTRR bases 200h, 202h ...")
    mtrr_mask: list[int] = _array(64, 8, "msrs", "variable-range MTRR masks 201h, 203h ...")
    # time: guest TSC = value at the instant the host TSC read `tsc_host`
    tsc: int = _scalar(64, "time", "guest time-stamp counter at tsc_host")
    tsc_host: int = _scalar(64, "time", "host TSC at which `tsc` was valid; 0: virtual time")
    tsc_scale: int = _scalar(64, "time", "guest ticks per host tick, 32.32 fixed point", 1 << 32)
    tsc_offset: int = _scalar(64, "time", "IA32_TSC_ADJUST-like offset of the hypervisor, carried only")
    # interrupt state
    activity: int = _scalar(8, "events", "Activity")
    shadow: int = _scalar(2, "events", "interrupt shadow: bit 0 STI, bit 1 MOV SS")
    nmi_blocked: int = _scalar(1, "events", "NMIs blocked until IRET")
    nmi_pending: int = _scalar(1, "events", "an NMI is pending")
    smm: int = _scalar(1, "events", "in system-management mode: such a CPU is never accepted")
    pending_debug: int = _scalar(64, "events", "VMX pending debug exceptions: B0-B3, bit 12, BS bit 14")
    inject_type: int = _scalar(8, "events", "EventType of an event to deliver first; 255: none", 255)
    inject_vector: int = _scalar(8, "events", "its vector")
    inject_has_error: int = _scalar(1, "events", "1: it pushes inject_error")
    inject_error: int = _scalar(32, "events", "its error code")
    inject_length: int = _scalar(8, "events", "instruction length of a soft event")
    inject_payload: int = _scalar(64, "events", "CR2 or DR6 bits that its delivery sets")
    inject_has_payload: int = _scalar(1, "events", "1: inject_payload is valid")
    # floating point and SIMD, carried as the 512-byte FXSAVE image
    fxsave: bytes = _blob(512, "fpu", "FXSAVE image (SDM vol. 2A, FXSAVE, table 3-43)")

    def copy(self) -> State:
        """Return an independent copy."""
        return copy.deepcopy(self)

    # The usual names.  Reading is exact; writing a 16/32-bit name keeps the upper bits.
    rax, eax, ax = _Register(0, 64), _Register(0, 32), _Register(0, 16)
    rcx, ecx, cx = _Register(1, 64), _Register(1, 32), _Register(1, 16)
    rdx, edx, dx = _Register(2, 64), _Register(2, 32), _Register(2, 16)
    rbx, ebx, bx = _Register(3, 64), _Register(3, 32), _Register(3, 16)
    rsp, esp, sp = _Register(4, 64), _Register(4, 32), _Register(4, 16)
    rbp, ebp, bp = _Register(5, 64), _Register(5, 32), _Register(5, 16)
    rsi, esi, si = _Register(6, 64), _Register(6, 32), _Register(6, 16)
    rdi, edi, di = _Register(7, 64), _Register(7, 32), _Register(7, 16)
    es, cs, ss, ds = _SegmentName(Seg.ES), _SegmentName(Seg.CS), _SegmentName(Seg.SS), _SegmentName(Seg.DS)
    fs, gs, ldtr, tr = _SegmentName(Seg.FS), _SegmentName(Seg.GS), _SegmentName(Seg.LDTR), _SegmentName(Seg.TR)

    @property
    def eip(self) -> int:
        """Low 32 bits of RIP."""
        return self.rip & 0xFFFFFFFF

    @property
    def eflags(self) -> int:
        """Low 32 bits of RFLAGS."""
        return self.rflags & 0xFFFFFFFF

    @classmethod
    def reset(cls) -> State:
        """Return the state after RESET (SDM vol. 3A, table 10-1): real mode, 16 bytes below 4 GiB."""
        s = cls()
        for seg in s.seg[:6]:
            seg.limit, seg.attributes = 0xFFFF, int(Rights.DATA)
        s.cs.selector, s.cs.base, s.cs.attributes = 0xF000, 0xFFFF0000, int(Rights.TEXT)
        s.ldtr.limit, s.ldtr.attributes = 0xFFFF, Rights.P | System.LDT
        s.tr.limit, s.tr.attributes = 0xFFFF, Rights.P | System.TSS32_BUSY
        s.gpr[Gpr.DX] = 0x600
        fx = bytearray(512)
        fx[0:2] = (0x0040).to_bytes(2, "little")
        fx[24:28] = (0x1F80).to_bytes(4, "little")
        s.fxsave = bytes(fx)
        return s


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One row of the state table.

    ``name`` is the attribute of :class:`State`; for a part of a segment it is ``seg.base`` and the like, with
    ``count`` 8.  ``count`` 0 is a scalar, otherwise the length of the array.
    """

    name: str
    width: int
    group: str
    doc: str
    count: int
    blob: bool = False


def _rows() -> Iterator[FieldInfo]:
    for f in fields(State):
        meta = f.metadata
        if f.name == "seg":
            for part in fields(Segment):
                p = part.metadata
                yield FieldInfo(f"seg.{part.name}", p["width"], meta["group"], p["doc"], meta["count"])
        else:
            yield FieldInfo(
                f.name, meta["width"], meta["group"], meta["doc"], meta["count"], bool(meta.get("blob", False))
            )


#: The state table, in order.
FIELDS: Final[tuple[FieldInfo, ...]] = tuple(_rows())
#: Field rows by name.
FIELD: Final[dict[str, FieldInfo]] = {row.name: row for row in FIELDS}
#: Group names in table order; a delta on the wire sends whole groups.
GROUPS: Final[tuple[str, ...]] = tuple(dict.fromkeys(row.group for row in FIELDS))


_ROWS_OF: Final[dict[str, tuple[FieldInfo, ...]]] = {
    group: tuple(row for row in FIELDS if row.group == group) for group in GROUPS
}


def get_group(state: State, group: str) -> list[int | bytes]:
    """Return the values of one group, flattened in table order (a segment's parts one after the other)."""
    out: list[int | bytes] = []
    if group == "segments":
        for seg in state.seg:
            out += [seg.selector, seg.base, seg.limit, seg.attributes, seg.unusable]
        return out
    for row in _ROWS_OF[group]:
        value = getattr(state, row.name)
        if row.count and not row.blob:
            out += value
        else:
            out.append(value)
    return out


@cache
def group_layout(group: str) -> tuple[tuple[str, int], ...]:
    """Return (label, width in bits) for each value of :func:`get_group`; a blob's width is its size in bits."""
    if group == "segments":
        parts = [(p.name, p.metadata["width"]) for p in fields(Segment)]
        return tuple((f"{seg.name.lower()}.{name}", width) for seg in Seg for name, width in parts)
    out: list[tuple[str, int]] = []
    for row in _ROWS_OF[group]:
        if row.blob:
            out.append((row.name, row.count * 8))
        elif row.count:
            out += [(f"{row.name}[{i}]", row.width) for i in range(row.count)]
        else:
            out.append((row.name, row.width))
    return tuple(out)


def set_group(state: State, group: str, values: list[int | bytes]) -> None:
    """Store values in the order of :func:`get_group`.

    Raises:
        ValueError: naming the field, when there are too few values or one does not fit its width.
    """
    layout = group_layout(group)
    if len(values) < len(layout):
        raise ValueError(f"state group {group!r} has {len(values)} values, {len(layout)} needed")
    for (label, width), value in zip(layout, values, strict=False):
        if (wrong := misfit(label, width, value)) is not None:
            raise ValueError(wrong)
    it: Iterator[Any] = iter(values)
    if group == "segments":
        for seg in state.seg:
            seg.selector, seg.base, seg.limit, seg.attributes, seg.unusable = (next(it) for _ in range(5))
        return
    for row in _ROWS_OF[group]:
        if row.count and not row.blob:
            setattr(state, row.name, [next(it) for _ in range(row.count)])
        else:
            setattr(state, row.name, next(it))


def checked(state: State) -> dict[str, list[int | bytes]]:
    """Return all groups of a state, having checked every value.

    Raises:
        ValueError: naming the field that does not hold what the table says, and what would be right.
    """
    if type(state.seg) is not list or [type(seg) for seg in state.seg] != [Segment] * len(Seg):
        raise ValueError(f"seg is {reprlib.repr(state.seg)}, a list of {len(Seg)} segments is needed")
    for row in FIELDS:
        if row.count and not row.blob and "." not in row.name:
            value = getattr(state, row.name)
            if type(value) is not list:
                raise ValueError(f"{row.name} is {reprlib.repr(value)}, a list of {row.count} values is needed")
            if len(value) != row.count:
                raise ValueError(f"{row.name} has {len(value)} values, {row.count} needed")
    found = {}
    for group in GROUPS:
        values = found[group] = get_group(state, group)
        for at, ((label, width), value) in enumerate(zip(group_layout(group), values, strict=True)):
            if (wrong := misfit(label, width, value)) is not None:
                raise ValueError(wrong)
            if isinstance(value, IntEnum):
                values[at] = int(value)
    return found


def difference(old: State, new: State) -> dict[str, list[int | bytes]]:
    """Return the groups of ``new`` that differ from ``old``, as the wire carries a delta."""
    out = {}
    for group in GROUPS:
        values = get_group(new, group)
        if values != get_group(old, group):
            out[group] = values
    return out


def update(state: State, delta: dict[str, list[int | bytes]]) -> None:
    """Apply a delta made by :func:`difference`; unknown groups are ignored.

    Raises:
        ValueError: a value does not fit (nothing has been changed by that group).
    """
    for group, values in delta.items():
        if group in GROUPS:
            set_group(state, group, values)
