"""INT 14h serial and INT 17h printer services (IBM PC/AT Technical Reference)."""

from __future__ import annotations

from dm.shim.bios.call import BiosCall
from dm.shim.devices.serial import Serial

_DIVISORS = (1047, 768, 384, 192, 96, 48, 24, 12)  # 110 to 9600 baud
_TIMEOUT = 0x80


class SerialServices:
    """INT 14h for COM1; the other ports time out."""

    def __init__(self, serial: Serial) -> None:
        self._serial = serial

    def service(self, call: BiosCall) -> None:
        """Answer one INT 14h."""
        serial, function = self._serial, call.ah
        if call.state.dx != 0:
            call.ah = _TIMEOUT
        elif function == 0:
            serial.set_line(_DIVISORS[call.al >> 5], call.al & 0x1F)
            call.ah, call.al = serial.line_status, serial.modem_status
        elif function == 1:
            serial.send_byte(call.al)
            call.ah = serial.line_status
        elif function == 2:
            byte = serial.read_byte()
            call.ah = _TIMEOUT if byte is None else 0
            call.al = byte or 0
        elif function == 3:
            call.ah, call.al = serial.line_status, serial.modem_status
        else:
            call.ah = _TIMEOUT
        call.finish()


def printer_service(call: BiosCall) -> None:
    """Answer one INT 17h: there is no printer, so it times out."""
    call.ah = 0x01
    call.finish()
