"""INT 13h disk services: CHS, the IBM/Microsoft LBA extensions (EDD 1.1), El Torito status.

Phoenix "Enhanced Disk Drive Specification" 1.1; IBM PC/AT Technical Reference; El Torito specification, "INT 13".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dm.machine.state import Seg
from dm.shim.bios import rom
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import BiosCall
from dm.shim.disk import SECTOR, DiskKind, Drive

# Error codes in AH.
OK, BAD_COMMAND, NOT_FOUND, CHANGED, DMA_BOUNDARY, WRITE_PROTECTED = 0x00, 0x01, 0x04, 0x06, 0x09, 0x03
NO_MEDIA, NOT_REMOVABLE = 0x31, 0xB2


class DiskServices:
    """INT 13h over the machine's drives."""

    def __init__(self, bda: Bda, drives: Sequence[Drive]) -> None:
        self._bda = bda
        self.drives = list(drives)
        self.sectors_read = 0
        self.sectors_written = 0
        self._functions: dict[int, Callable[[BiosCall, Drive], int]] = {
            0x00: self._nothing, 0x02: self._transfer, 0x03: self._transfer, 0x04: self._transfer,
            0x05: self._format, 0x08: self._parameters, 0x09: self._nothing, 0x0C: self._nothing, 0x0D: self._nothing,
            0x10: self._nothing, 0x11: self._nothing, 0x14: self._nothing, 0x15: self._type, 0x16: self._nothing,
            0x17: self._nothing, 0x18: self._media_type, 0x41: self._extensions, 0x42: self._extended,
            0x43: self._extended, 0x44: self._extended, 0x45: self._lock, 0x46: self._eject, 0x47: self._extended,
            0x48: self._extended_parameters, 0x49: self._unchanged, 0x4B: self._emulation, 0x4E: self._configure,
        }  # fmt: skip

    def reset(self) -> None:
        """Fill in the data area: number of hard disks, status."""
        self._bda.disk_count = sum(d.kind is DiskKind.DISK for d in self.drives)
        self._bda.disk_status = self._bda.floppy_status = 0

    @property
    def floppies(self) -> list[Drive]:
        """The diskette drives."""
        return [d for d in self.drives if d.kind is DiskKind.FLOPPY]

    def drive(self, number: int) -> Drive | None:
        """Return the drive with an INT 13h number (8 bits)."""
        return next((d for d in self.drives if d.number == number), None)

    def service(self, call: BiosCall) -> None:
        """Answer one INT 13h."""
        function, number = call.ah, call.dl
        if function == 0x01:
            status = self._bda.disk_status if number & 0x80 else self._bda.floppy_status
            call.al = status
            call.succeed() if not status else call.fail(status)
            call.finish()
            return
        drive = self.drive(number)
        handler = self._functions.get(function)
        if handler is None:
            status = BAD_COMMAND
        elif drive is None:
            status = self._absent(call)
        else:
            status = handler(call, drive)
        if number & 0x80:
            self._bda.disk_status = status
        else:
            self._bda.floppy_status = status
        if status:
            call.fail(status)
        elif function == 0x15:
            call.carry(False)  # AH holds the type
        elif function == 0x41:
            call.succeed(0x21)  # version 1.1; the interface bitmap is in CX
        else:
            call.succeed()
        call.finish()

    def _absent(self, call: BiosCall) -> int:
        if call.ah == 0x08 and not call.dl & 0x80:
            # The number of diskette drives is returned even for a drive that is not there.
            call.state.bx = call.state.cx = 0
            call.dl, call.dh = len(self.floppies), 0
            return OK
        if call.ah == 0x15:
            call.ah = 0
            return OK
        return BAD_COMMAND

    def _nothing(self, call: BiosCall, drive: Drive) -> int:
        return OK

    # --- CHS

    def _transfer(self, call: BiosCall, drive: Drive) -> int:
        count = call.al
        sector = drive.geometry.lba((call.cl & 0xC0) << 2 | call.ch, call.dh, call.cl & 0x3F)
        if not 1 <= count <= 128:
            return BAD_COMMAND
        call.al = 0
        if sector is None or drive.sector_size != SECTOR:
            return NOT_FOUND
        # As the diskette controller does: a transfer may run into the next head and track.
        status = self._move(call, drive, sector, count, call.state.es.base + call.state.bx, call.ah)
        if not status:
            call.al = count
        return status

    def _move(self, call: BiosCall, drive: Drive, sector: int, count: int, buffer: int, function: int) -> int:
        """Read (x2h), write (x3h) or verify (x4h, x7h) whole sectors at linear address ``buffer``."""
        if sector + count > drive.sectors:
            return NOT_FOUND
        if function & 0xF == 2:
            data = drive.read(sector, count)
            assert data is not None
            call.space.write_linear(buffer, data)
            self.sectors_read += count
        elif function & 0xF == 3:
            if drive.read_only:
                return WRITE_PROTECTED
            drive.write(sector, call.space.read_linear(buffer, count * drive.sector_size))
            self.sectors_written += count
        return OK

    def _format(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is not DiskKind.FLOPPY:
            return BAD_COMMAND
        if drive.read_only:
            return WRITE_PROTECTED
        sector = drive.geometry.lba(call.ch, call.dh, 1)
        if sector is None:
            return NOT_FOUND
        drive.write(sector, b"\xf6" * (drive.geometry.sectors * SECTOR))
        return OK

    def _parameters(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.CD:
            return BAD_COMMAND
        g = drive.geometry
        last = g.cylinders - 1
        call.ch, call.cl = last & 0xFF, g.sectors | last >> 2 & 0xC0
        call.dh = g.heads - 1
        if drive.kind is DiskKind.FLOPPY:
            call.dl, call.state.bx = len(self.floppies), drive.floppy_type
            call.set_segment(Seg.ES, rom.SEGMENT)
            call.state.di = rom.FLOPPY_TABLE
        else:
            call.dl = sum(d.kind is DiskKind.DISK for d in self.drives)
        call.al = 0
        return OK

    def _type(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.CD:
            return BAD_COMMAND
        if drive.kind is DiskKind.FLOPPY:
            call.ah = 2  # with change line
        else:
            call.ah = 3
            call.state.cx, call.state.dx = drive.sectors >> 16 & 0xFFFF, drive.sectors & 0xFFFF
        return OK

    def _media_type(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is not DiskKind.FLOPPY:
            return BAD_COMMAND
        if (call.cl & 0x3F, call.ch + 1) != (drive.geometry.sectors, drive.geometry.cylinders):
            return 0x0C
        call.set_segment(Seg.ES, rom.SEGMENT)
        call.state.di = rom.FLOPPY_TABLE
        return OK

    # --- LBA extensions

    def _extensions(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.FLOPPY or call.state.bx != 0x55AA:
            return BAD_COMMAND
        call.state.bx = 0xAA55
        # Fixed disk access; drive locking and ejecting for the CD; enhanced drive parameters.
        call.state.cx = 0b111 if drive.kind is DiskKind.CD else 0b101
        return OK

    def _extended(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.FLOPPY:
            return BAD_COMMAND
        at = call.state.ds.base + call.state.si
        packet = call.space.read_linear(at, 16)
        if packet[0] < 16:
            return BAD_COMMAND
        count = int.from_bytes(packet[2:4], "little")
        offset, segment = int.from_bytes(packet[4:6], "little"), int.from_bytes(packet[6:8], "little")
        if count > 127:
            return BAD_COMMAND
        sector = int.from_bytes(packet[8:16], "little")
        function = 4 if call.ah == 0x47 else call.ah
        status = self._move(call, drive, sector, count, (segment << 4) + offset, function)
        if status:
            call.space.write_linear(at + 2, b"\0\0")  # blocks moved
        return status

    def _extended_parameters(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.FLOPPY:
            return BAD_COMMAND
        size = call.space.read_word(call.state.ds, call.state.si)
        if size < 26:
            return BAD_COMMAND
        size = 30 if size >= 30 else 26
        g = drive.geometry
        # Information flags: DMA boundary errors handled; CHS valid, or removable with change line and lock.
        flags = 0x0003 if drive.kind is DiskKind.DISK else 0x0075
        table = size.to_bytes(2, "little") + flags.to_bytes(2, "little")
        table += b"".join(value.to_bytes(4, "little") for value in (g.cylinders, g.heads, g.sectors))
        table += drive.sectors.to_bytes(8, "little") + drive.sector_size.to_bytes(2, "little")
        table += b"\xff" * 4  # no device parameter table
        call.space.write(call.state.ds, call.state.si, table[:size])
        return OK

    def _lock(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.FLOPPY:
            return BAD_COMMAND
        call.al = 0
        return OK if drive.kind is DiskKind.CD else NOT_REMOVABLE

    def _eject(self, call: BiosCall, drive: Drive) -> int:
        return NO_MEDIA if drive.kind is DiskKind.CD else NOT_REMOVABLE if drive.kind is DiskKind.DISK else BAD_COMMAND

    def _unchanged(self, call: BiosCall, drive: Drive) -> int:
        return OK if drive.kind is not DiskKind.FLOPPY else BAD_COMMAND

    def _configure(self, call: BiosCall, drive: Drive) -> int:
        if drive.kind is DiskKind.FLOPPY:
            return BAD_COMMAND
        call.al = 0
        return OK

    # --- El Torito

    def _emulation(self, call: BiosCall, drive: Drive) -> int:
        """AX=4B00h/4B01h: status packet of the boot CD at DS:SI; AX=4B00h also ends the emulation."""
        entry = drive.boot
        if entry is None or call.al > 1:
            return BAD_COMMAND
        g = drive.geometry
        emulated = next(d for d in self.drives if d.boot)
        packet = bytes((0x13, entry.media, emulated.number, 0)) + entry.start.to_bytes(4, "little") + b"\0\0\0\0"
        packet += entry.load_segment.to_bytes(2, "little") + entry.sectors.to_bytes(2, "little")
        last = max(g.cylinders - 1, 0)
        packet += bytes((last & 0xFF, g.sectors & 0x3F | last >> 2 & 0xC0, max(g.heads - 1, 0)))
        call.space.write(call.state.ds, call.state.si, packet)
        if call.al == 0 and emulated.kind is not DiskKind.CD:
            self.drives.remove(emulated)
            self._bda.disk_count = sum(d.kind is DiskKind.DISK for d in self.drives)
        return OK
