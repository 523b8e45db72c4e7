"""The native engine: :class:`dm.engine.api.Engine` over the C extension ``dm.engine._native``."""

from __future__ import annotations

import struct
from dataclasses import fields
from enum import IntEnum
from typing import Any, Final

from dm.engine import _native
from dm.engine.api import (
    FREELY,
    QUESTIONS,
    CpuConfig,
    Exit,
    ExitReason,
    Groups,
    MemoryMap,
    RegionKind,
    RunRequest,
    check_copied,
)
from dm.engine.parts import identity
from dm.machine.rules import POLICIES
from dm.machine.state import (
    FIELD,
    FIELDS,
    GROUPS,
    EventType,
    Seg,
    Segment,
    State,
    checked,
    get_group,
    group_layout,
    misfit,
)

_ffi: Any = _native.ffi
_lib: Any = _native.lib

#: By the numbers of enum exit_reason in words.h.
REASONS: Final = tuple(ExitReason)
_READS: Final = frozenset({ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ})
_WRITES: Final = QUESTIONS - _READS - {ExitReason.MEMORY_COPY}
_MSRS: Final = frozenset({ExitReason.MSR_READ, ExitReason.MSR_WRITE})
_VALUE_TYPES: Final = {int, bytes}


def _code(width: int) -> str:
    return f"{width // 8}s" if width > 64 else "BHIQ"[next(i for i, w in enumerate((8, 16, 32, 64)) if width <= w)]


class _Group:
    """Where a state group is in struct wire, and how its values are packed there."""

    def __init__(self, group: str, at: int) -> None:
        self.layout = group_layout(group)
        self._form = struct.Struct("<" + "".join(_code(width) for _, width in self.layout))
        self._count = len(self.layout)
        # what the packing itself does not check: widths below that of the integer, and the length of bytes
        widths = [width for _, width in self.layout]
        self._narrow = [(i, 1 << width) for i, width in enumerate(widths) if width < 64 and width not in (8, 16, 32)]
        self._blobs = [(i, width // 8) for i, width in enumerate(widths) if width > 64]
        self.start, self.end = at, at + self._form.size
        self.part = slice(self.start, self.end)

    def unpack(self, data: bytes) -> list[Any]:
        """Return the values that the group's part of a struct wire holds."""
        return list(self._form.unpack(data))

    def pack_into(self, wire: bytearray, values: list[Any]) -> None:
        """Store values; further ones than the group has are ignored.

        Raises:
            ValueError: naming the value that is missing or does not fit its width; nothing is stored.
        """
        values = values[: self._count]
        try:
            if not _VALUE_TYPES.issuperset(map(type, values)):
                # Members of the state table's enumerations count as their numbers.
                values = [int(v) if isinstance(v, IntEnum) else v for v in values]
                if not _VALUE_TYPES.issuperset(map(type, values)):
                    raise struct.error
            for i, top in self._narrow:
                if not 0 <= values[i] < top:
                    raise struct.error
            for i, size in self._blobs:
                if len(values[i]) != size:
                    raise struct.error
            self._form.pack_into(wire, self.start, *values)
        except (struct.error, TypeError, IndexError):
            raise ValueError(self._wrong(values)) from None

    def _wrong(self, values: list[Any]) -> str:
        for (label, width), value in zip(self.layout, values, strict=False):
            if (wrong := misfit(label, width, value)) is not None:
                return wrong
        return f"{self.layout[len(values)][0]} is missing: {len(values)} values, {self._count} needed"


def _groups() -> dict[str, _Group]:
    found: dict[str, _Group] = {}
    at = 0
    for group in GROUPS:
        found[group] = _Group(group, at)
        at = found[group].end
    return found


_GROUPS: Final = _groups()
#: Bytes of a state as C has it (struct wire).
WIRE_SIZE: Final = _GROUPS[GROUPS[-1]].end
_PARTS: Final = [(name, group, group.part) for name, group in _GROUPS.items()]
#: Groups up to this one differ after most instructions, the others after few: those are compared as a whole first.
_OFTEN: Final = 1 + GROUPS.index(FIELD["rflags"].group)
_SELDOM: Final = slice(_GROUPS[GROUPS[_OFTEN - 1]].end, WIRE_SIZE)


def _places() -> tuple[list[tuple[str, str, int]], list[tuple[str, str, slice]]]:
    """Return name, group and place of the state's scalars and of its arrays; not of the segments."""
    scalars, arrays = [], []
    for group in GROUPS:
        at = 0
        for row in (row for row in FIELDS if row.group == group and "." not in row.name):
            if row.count and not row.blob:
                arrays.append((row.name, group, slice(at, at + row.count)))
                at += row.count
            else:
                scalars.append((row.name, group, at))
                at += 1
    return scalars, arrays


_SCALARS, _ARRAYS = _places()
_SEGMENTS: Final = FIELD["seg.base"].group
_WIDE: Final = len(fields(Segment))
_SEGMENT_PARTS: Final = [slice(at, at + _WIDE) for at in range(0, len(Seg) * _WIDE, _WIDE)]


class NativeEngine:
    """One vCPU run by generated C; see :class:`dm.engine.api.Engine`.  The GIL is released while guest code runs."""

    name = "native"

    def __init__(self, config: CpuConfig) -> None:
        """Raises ValueError for an unknown model or CPUID values beyond 32 bits, MemoryError without memory."""
        part = identity(config)
        rows = [(leaf, subleaf, values) for (leaf, subleaf), values in part.cpuid.items()]
        cpu = _lib.dm_new(
            _ffi.new("uint64_t[2]", (part.features, part.more_features)), part.vendor, part.model, part.lineage,
            _ffi.new("struct dm_cpuid[]", rows), len(rows), config.copies,
        )  # fmt: skip
        if not cpu:
            raise MemoryError("no memory for a vCPU")
        self._cpu: Any = _ffi.gc(cpu, _lib.dm_free)
        self._exit: Any = _ffi.new("struct dm_exit *")
        self._request: Any = _ffi.new("struct dm_request *")
        self._asked: RunRequest | None = None  # what it holds
        self._wire = bytearray(WIRE_SIZE)
        self._buffer: Any = _ffi.from_buffer(self._wire)
        self._current = False  # the wire holds the current state
        self._seen = b""  # what get_groups() last saw, whole and by group, and what it returned for it
        self._parts: dict[str, bytes] = {}
        self._groups: Groups = {}
        self._memory: list[Any] = []
        self._question: Exit | None = None
        self._answered = False
        self.set_state(State.reset())

    @property
    def _open(self) -> Any:
        if self._cpu is None:
            raise ValueError("the engine is closed")
        return self._cpu

    def get_state(self) -> State:
        """Return the architectural state; after a question, as it was before the interrupted instruction."""
        groups: dict[str, list[Any]] = self.get_groups()
        found: dict[str, Any] = {name: groups[group][at] for name, group, at in _SCALARS}
        found |= {name: groups[group][at] for name, group, at in _ARRAYS}
        found["seg"] = [Segment(*groups[_SEGMENTS][part]) for part in _SEGMENT_PARTS]
        return State(**found)

    def set_state(self, state: State) -> None:
        """Replace the architectural state; abandons an interrupted instruction.

        Raises:
            ValueError: a value does not fit its width (state unchanged).
        """
        try:
            groups = {group: get_group(state, group) for group in GROUPS}
            if any(len(groups[name]) != len(group.layout) for name, group in _GROUPS.items()):
                raise ValueError
            self.set_groups(groups)
        except (ValueError, TypeError, AttributeError):
            checked(state)  # says which field it is
            raise

    def _read(self) -> None:
        cpu = self._open
        if not self._current:
            _lib.dm_get_state(cpu, self._buffer)
            self._current = True

    def get_groups(self) -> Groups:
        """Return the same as :meth:`get_state`, as lists by group; one that has not changed is the list last returned.

        The caller must not change the lists.
        """
        self._read()
        wire = bytes(self._wire)
        if wire != self._seen:
            seldom = wire[_SELDOM] != self._seen[_SELDOM]
            self._seen, found, parts = wire, dict(self._groups), self._parts
            for name, group, part in _PARTS if seldom else _PARTS[:_OFTEN]:
                data = wire[part]
                if parts.get(name) != data:
                    parts[name], found[name] = data, group.unpack(data)
            self._groups = found
        return self._groups

    def set_groups(self, delta: Groups) -> None:
        """Replace the groups in ``delta``; abandons an interrupted instruction.

        Raises:
            ValueError: naming the field, when values are missing or one does not fit its width (state unchanged).
        """
        cpu = self._open
        self._read()
        self._current = False  # nor is it if a value is refused half-way
        for name, values in delta.items():
            group = _GROUPS.get(name)
            if group is not None:
                group.pack_into(self._wire, values)
        _lib.dm_set_state(cpu, self._buffer)
        self._question, self._answered = None, False

    def inject(self, event: EventType, vector: int, *, error: int | None = None, length: int = 0) -> None:
        """Deliver this event before the next instruction.

        Raises:
            ValueError: an event is pending already, a question is open, or a value does not fit.
        """
        if self._question is not None:
            raise ValueError("a question is open: answer it and finish the instruction before an event is injected")
        state = self.get_state()
        if state.inject_type != EventType.NONE:
            raise ValueError(
                f"an event is pending already ({EventType(state.inject_type).name} {state.inject_vector:#x})"
            )
        if event is EventType.NONE:
            raise ValueError("event NONE cannot be injected")
        state.inject_type, state.inject_vector, state.inject_length = int(event), vector, length
        state.inject_has_error, state.inject_error = int(error is not None), error or 0
        state.inject_has_payload, state.inject_payload = 0, 0
        self.set_state(state)

    def set_map(self, memory: MemoryMap) -> None:
        """Replace the memory map, also between a question and its answer; takes effect at once.

        Raises:
            MemoryError: no memory for its tables (the old map stays).
        """
        cpu, buffers = self._open, []
        regions = _ffi.new("struct dm_region[]", len(memory.regions))
        for into, region in zip(regions, memory.regions, strict=True):
            into.gpa, into.size, into.kind = region.gpa, region.size, int(region.kind)
            if region.memory is not None:
                buffer = _ffi.from_buffer(region.memory, require_writable=region.kind is RegionKind.RAM)
                buffers.append(buffer)
                into.memory = _ffi.cast("uint8_t *", buffer) + region.offset
        if _lib.dm_set_map(cpu, regions, len(memory.regions), int(memory.a20)):
            raise MemoryError("no memory for the memory map")
        for buffer in self._memory:
            _ffi.release(buffer)
        self._memory = buffers

    def run(self, request: RunRequest = FREELY) -> Exit:
        """Run guest code; see :meth:`dm.engine.api.Engine.run`.

        Raises:
            ValueError: a question is open.
        """
        cpu = self._open
        if self._question is not None and not self._answered:
            raise ValueError(f"the question {self._question.reason} is open: answer it first")
        if request is not self._asked and request != self._asked:  # else it stands there already
            self._write(request)
        self._current = False
        _lib.dm_run(cpu, self._request, self._exit)
        made = self._result(self._exit)
        self._question = made if made.reason in QUESTIONS else None
        self._answered = False
        return made

    def _write(self, request: RunRequest) -> None:
        """Write a request where C reads it."""
        c, self._asked = self._request, None  # should a value be refused, what stands there is nobody's request
        c.policy, c.budget = int(POLICIES[request.until]), request.budget
        c.progress, c.window = request.progress, request.window
        c.has_mmio, c.mmio = request.mmio is not None, request.mmio or 0
        c.has_stop_at, c.stop_at = request.stop_at is not None, request.stop_at or 0
        c.code_size = len(request.code)
        _ffi.memmove(c.code, request.code, len(request.code))
        self._asked = request

    def _result(self, out: Any) -> Exit:
        reason = REASONS[out.reason]
        posted: tuple[tuple[int, bytes], ...] = ()
        if out.posted_count:
            entries = (out.posted[i] for i in range(out.posted_count))
            posted = tuple((e.gpa, int(e.value).to_bytes(8, "little")[: e.size]) for e in entries)
        address, size, count = out.address, out.size, out.count
        data = bytes(_ffi.buffer(out.data, size * count)) if reason in _WRITES else b""
        detail = _ffi.string(_lib.dm_label(out.label)).decode() if out.label else ""
        pages = tuple(sorted(_ffi.unpack(out.pages, out.page_count))) if out.page_count else ()
        # In the order of its fields: names cost time here.
        return Exit(
            reason, address, size, count, data, bool(out.down), detail, out.steps, out.instructions, posted, pages,
            bool(out.tlb_flush), out.error, out.target,
        )  # fmt: skip

    def answer(self, data: bytes = b"", *, fault: bool = False, copied: int | None = None) -> None:
        """Answer the open question; see :meth:`dm.engine.api.Engine.answer`.

        Raises:
            ValueError: no question is open, or the length or the count is wrong.
        """
        cpu, question = self._open, self._question
        if question is None or self._answered:
            raise ValueError("no question is open")
        if fault and question.reason not in _MSRS:
            raise ValueError(f"a fault answers {question.reason}, only MSR accesses can be refused")
        wanted = question.size * question.count if question.reason in _READS and not fault else 0
        if len(data) != wanted:
            raise ValueError(f"the answer to {question.reason} has {len(data)} bytes, {wanted} are needed")
        if copied is not None:
            check_copied(copied, question.reason, question.count)
        self._current = False
        if question.reason is ExitReason.MEMORY_COPY:
            _lib.dm_answer_copy(cpu, question.count if copied is None else copied)
        else:
            _lib.dm_answer(cpu, data, len(data), fault)
        self._answered = True

    def kick(self) -> None:
        """Make a running or the next :meth:`run` end with ``kicked`` soon; callable from any thread."""
        _lib.dm_kick(self._open)

    @property
    def last_fault(self) -> tuple[int, int, str, tuple[int, int, int]]:
        """The newest exception of an instruction: vector, error code, cause, its three operands; for tests, traces."""
        out = _ffi.new("struct dm_fault *")
        _lib.dm_last_fault(self._open, out)
        return out.vector, out.error, _ffi.string(_lib.dm_label(out.label)).decode(), tuple(out.operand)

    # For C code that runs this engine itself (dm.server.vcpu.exchange), on the engine's one thread.

    def links(self) -> dict[str, int]:
        """Return the address of the vCPU and of the functions of api.h that run it, by the names C knows them by."""
        functions = {name: f"dm_{name}" for name in ("run", "answer", "get_state", "set_state")}
        made = {
            f"engine_{name}": int(_ffi.cast("uintptr_t", _ffi.addressof(_lib, function)))
            for name, function in functions.items()
        }
        return {"cpu": int(_ffi.cast("uintptr_t", self._open)), **made}

    def follow(self, out: int | None) -> Exit | None:
        """Record that C code has run this engine or changed its state.

        ``out`` is the address of the struct dm_exit of its last run; None when no question is to be answered.

        Returns:
            That exit.
        """
        self._current = self._answered = False
        made = self._result(_ffi.cast("struct dm_exit *", out)) if out is not None else None
        self._question = made if made is not None and made.reason in QUESTIONS else None
        return made

    def pack(self, groups: Groups) -> bytes:
        """Return a whole state as C has it.

        Raises:
            ValueError: naming the value that is missing or does not fit.
        """
        wire = bytearray(WIRE_SIZE)
        for name, group in _GROUPS.items():
            group.pack_into(wire, groups[name])
        return bytes(wire)

    def unpack(self, wire: bytes) -> Groups:
        """Return the groups of a whole state as C has it."""
        return {name: group.unpack(wire[group.part]) for name, group in _GROUPS.items()}

    def close(self) -> None:
        """Free everything; further calls raise ValueError."""
        if self._cpu is not None:
            _ffi.release(self._cpu)
            self._cpu = None
        for buffer in self._memory:
            _ffi.release(buffer)
        self._memory = []
