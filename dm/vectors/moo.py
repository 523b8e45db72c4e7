"""Real-mode tests in SingleStepTests' MOO format, version 1 (https://github.com/dbalsom/moo).

A file is a sequence of chunks: four characters, a 32-bit little-endian length, the payload; some payloads are chunks
again.  Unknown chunks are skipped, as the format asks, and so are those about bus cycles and the prefetch queue.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dm.machine.architecture import Cr0, Dr6, Dr7
from dm.vectors.case import Case, FormatError
from dm.vectors.real_mode import FLAGS, RealMode, frame_address, initial_state
from dm.vectors.vendor import cpu
from dm.vectors.world_memory import Patch

_REGS16: Final = ("ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags")
_REGS32: Final = (
    "cr0", "cr3", "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp",
    "cs", "ds", "es", "fs", "gs", "ss", "eip", "eflags", "dr6", "dr7",
)  # fmt: skip
#: CPU field of the header: the model it is checked against.
_MODELS: Final = {"C286": "80286", "386E": "80386"}
_REAL_MODE: Final = 0
_REVOKED: Final = "revocation_list.txt"
_METADATA: Final = "metadata.json"
_ALL: Final = 0xFFFFFFFF
# Of CR0 but the bits of the 80386; its reserved bits read as ones, a P6's as zeros.  Paging is off in these tests.
_CR0: Final = Cr0.MSW | Cr0.ET
# Registers that are compared only as far as these bits; the others in full.
_MASKS: Final = {
    "flags": FLAGS,
    "eflags": FLAGS,
    "cr0": _CR0,
    "dr6": int(Dr6.WRITABLE),
    "dr7": int(Dr7.WRITABLE),
} | dict.fromkeys(("es", "cs", "ss", "ds", "fs", "gs"), 0xFFFF)

Registers = dict[str, int]


def _chunks(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise FormatError(f"{where}: {len(data) - at} bytes left where a chunk's 8-byte header should be")
        kind, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if size > len(data) - at:
            raise FormatError(f"{where}: chunk {kind!r} of {size} bytes, but {len(data) - at} are left")
        yield kind.decode("latin-1"), data[at : at + size]
        at += size


def _unpack(layout: str, data: bytes, where: str) -> tuple[int, ...]:
    if len(data) < struct.calcsize(layout):
        raise FormatError(f"{where}: {len(data)} bytes, {struct.calcsize(layout)} needed")
    return struct.unpack_from(layout, data)


def _registers(data: bytes, names: tuple[str, ...], width: str, where: str) -> Registers:
    """Decode a bit mask of registers followed by the value of each one set (REGS, RG32, RMSK, RM32)."""
    (present,) = _unpack("<" + width, data, where)
    chosen = [name for i, name in enumerate(names) if present >> i & 1]
    values = _unpack(f"<{1 + len(chosen)}{width}", data, where)
    return dict(zip(chosen, values[1:], strict=True))


def _ram(data: bytes, where: str) -> tuple[Patch, ...]:
    """Decode a count and that many (32-bit address, byte), joined where addresses follow each other."""
    (count,) = _unpack("<I", data, where)
    if len(data) < 4 + 5 * count:
        raise FormatError(f"{where}: {count} entries announced, room for {(len(data) - 4) // 5}")
    runs: list[tuple[int, bytearray]] = []
    for address, byte in struct.iter_unpack("<IB", data[4 : 4 + 5 * count]):
        if runs and runs[-1][0] + len(runs[-1][1]) == address:
            runs[-1][1].append(byte)
        else:
            runs.append((address, bytearray([byte])))
    return tuple((address, bytes(run)) for address, run in runs)


class _Test:
    """The chunks of one test, decoded."""

    def __init__(self, data: bytes, where: str) -> None:
        (self.index,) = _unpack("<I", data, where)
        self.name, self.code, self.hash = "", b"", ""
        self.initial, self.final, self.masks = Registers(), Registers(), Registers()
        self.patches: tuple[Patch, ...] = ()
        self.changes: tuple[Patch, ...] = ()
        self.exception = False
        where = f"{where} {self.index}"
        for kind, body in _chunks(data[4:], where):
            if kind in ("NAME", "BYTS"):
                (size,) = _unpack("<I", body, f"{where} {kind}")
                if kind == "NAME":
                    self.name = body[4 : 4 + size].decode("latin-1")
                else:
                    self.code = body[4 : 4 + size]
            elif kind == "INIT":
                self.initial, _, self.patches = _state(body, where)
            elif kind == "FINA":
                self.final, self.masks, self.changes = _state(body, where)
            elif kind == "EXCP":
                self.exception = True
            elif kind == "HASH":
                self.hash = body.hex()


def _state(data: bytes, where: str) -> tuple[Registers, Registers, tuple[Patch, ...]]:
    registers, masks = Registers(), Registers()
    ram: tuple[Patch, ...] = ()
    for kind, body in _chunks(data, where):
        inside = f"{where} {kind}"
        if kind in ("REGS", "RG32"):
            registers = _values(kind, body, inside)
        elif kind in ("RMSK", "RM32"):
            masks = _values(kind, body, inside)
        elif kind == "RAM ":
            ram = _ram(body, inside)
    return registers, masks, ram


def _values(kind: str, body: bytes, where: str) -> Registers:
    if kind in ("REGS", "RMSK"):
        return _registers(body, _REGS16, "H", where)
    return _registers(body, _REGS32, "I", where)


def read(path: Path, vendor: str = "intel") -> tuple[RealMode, Iterator[Case]]:
    """Return the world and the cases of a file, checked against the part that it names, made by ``vendor``.

    Undefined flags are masked by the file's own chunks and by the set's ``metadata.json``.

    Raises:
        FormatError: it is damaged, or of a part or mode that is not modelled.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as e:
        raise FormatError(f"{path}: {e}") from e
    chunks = _chunks(data, str(path))
    kind, header = next(chunks, ("", b""))
    if kind != "MOO ":
        raise FormatError(f"{path}: begins with chunk {kind!r}, not 'MOO '")
    if len(header) < 12 or header[0] != 1:
        raise FormatError(f"{path}: header of {len(header)} bytes, version {header[:1].hex()}; 12 bytes, 1 needed")
    part = header[8:12].decode("latin-1").strip()
    if part not in _MODELS:
        raise FormatError(f"{path}: recorded on part {part!r}; modelled are {', '.join(_MODELS)}")
    return RealMode(dataclasses.replace(cpu(vendor), model=_MODELS[part])), _cases(path, chunks)


def _cases(path: Path, chunks: Iterator[tuple[str, bytes]]) -> Iterator[Case]:
    opcode = path.name.upper().removesuffix(".GZ").removesuffix(".MOO")
    revoked = _revoked(path)
    masks = Registers()
    defined = _defined_flags(path, opcode)
    for kind, body in chunks:
        if kind in ("RMSK", "RM32"):
            masks = _values(kind, body, f"{path} {kind}")
        elif kind == "META":
            mode = body[27] if len(body) > 27 else _REAL_MODE
            if mode != _REAL_MODE:
                raise FormatError(f"{path}: recorded in CPU mode {mode}; only real mode (0) is known")
        elif kind == "TEST":
            test = _Test(body, f"{path} test")
            yield _case(opcode, test, masks | test.masks, defined, test.hash in revoked)


@functools.lru_cache(maxsize=4)
def _opcodes(folder: Path) -> dict[str, Any]:
    """Return the opcodes of a set's ``metadata.json``, in the folder of the tests or one up; empty without one.

    Raises:
        FormatError: it is not what the set's documentation says.
    """
    for place in (folder / _METADATA, folder.parent / _METADATA):
        try:
            opcodes = json.loads(place.read_text(encoding="utf-8"))["opcodes"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise FormatError(f"{place}: not a set's metadata: {e!r}") from e
        if not isinstance(opcodes, dict):
            raise FormatError(f"{place}: 'opcodes' is no table")
        return opcodes
    return {}


def _defined_flags(path: Path, opcode: str) -> int:
    """Return the mask of the flags that the set's metadata calls defined after an opcode (``D2.5``, ``660FA4``).

    Raises:
        FormatError: the metadata is damaged.
    """
    name, _, group = opcode.partition(".")
    opcodes = _opcodes(path.parent)
    bare = name
    while bare not in opcodes and bare[:2] in ("66", "67"):
        bare = bare[2:]
    row = opcodes.get(bare, {})
    try:
        if group:
            row = row.get("reg", {}).get(group, {})
        return int(row.get("flags-mask", _ALL))
    except (AttributeError, TypeError, ValueError) as e:
        raise FormatError(f"{path.parent}: {_METADATA} has no mask of flags for {opcode}: {e!r}") from e


def _revoked(path: Path) -> frozenset[str]:
    """Return the hashes of tests the set's authors took back: a list beside the file or one folder up."""
    for folder in (path.parent, path.parent.parent):
        try:
            return frozenset((folder / _REVOKED).read_text(encoding="ascii").lower().split())
        except FileNotFoundError:
            continue
    return frozenset()


def _case(opcode: str, test: _Test, masks: Registers, defined: int, revoked: bool) -> Case:
    before = test.initial
    after = before | test.final
    wide = "eip" in before
    letter = "e" if wide else ""
    try:
        state = initial_state(
            [before[letter + r] for r in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")],
            [before.get(r, 0) & 0xFFFF for r in ("es", "cs", "ss", "ds", "fs", "gs")],
            before[letter + "ip"],
            before[letter + "flags"],
        )
    except KeyError as e:
        raise FormatError(f"test {test.index} of {opcode}: the initial state lacks register {e}") from None
    state.cr0 |= before.get("cr0", 0) & _CR0 & ~Cr0.PE
    for name in ("cr3", "dr6", "dr7"):
        setattr(state, name, before.get(name, getattr(state, name)))
    full = 0xFFFFFFFF if wide else 0xFFFF
    flags = masks.get(letter + "flags", full) & defined
    masks = masks | {letter + "flags": flags}
    # Flags pushed by an exception; the address in EXCP is that of an aligned bus cycle.
    at = frame_address(after["ss"], after[letter + "sp"], 2)
    return Case(
        opcode=opcode,
        index=test.index,
        name=test.name,
        code=test.code,
        state=state,
        patches=test.patches,
        registers={r: (v, _MASKS.get(r, full) & masks.get(r, full)) for r, v in after.items()},
        changes=test.changes,
        memory_masks=dict(enumerate((flags & FLAGS).to_bytes(2, "little"), at)) if test.exception else {},
        skip="taken back by the set's authors" if revoked else "",
    )
