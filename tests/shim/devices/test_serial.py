import pytest

from dm.shim.bus import PortBus
from dm.shim.devices.serial import Serial

BASE = 0x3F8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(BASE, BASE + 8)


class Rig:
    def __init__(self):
        self.bus, self.sent, self.irq = PortBus(), bytearray(), False
        self.serial = Serial(BASE, self.sent.extend, self._irq)
        self.serial.connect(self.bus)

    def _irq(self, level):
        self.irq = level

    def out(self, port, value):
        self.bus.write(port, 1, bytes((value,)))

    def read(self, port):
        return self.bus.read(port, 1)[0]


@pytest.fixture
def rig():
    return Rig()


def test_transmits_at_once_and_is_always_ready(rig):
    assert rig.read(LSR) == 0x60
    for byte in b"hello":
        rig.out(DATA, byte)
    assert rig.sent == b"hello"
    assert rig.read(LSR) == 0x60


def test_received_bytes_queue_without_overrun(rig):
    rig.serial.receive(b"abc")
    assert rig.read(LSR) & 1
    assert bytes(rig.read(DATA) for _ in range(3)) == b"abc"
    assert not rig.read(LSR) & 1


def test_receive_interrupt_needs_ier_and_out2(rig):
    rig.serial.receive(b"x")
    rig.out(IER, 1)
    assert not rig.irq
    rig.out(MCR, 8)
    assert rig.irq
    assert rig.read(IIR) & 0x0F == 4
    rig.read(DATA)
    assert not rig.irq
    assert rig.read(IIR) & 1


def test_transmitter_interrupt_clears_on_iir_read_and_comes_back(rig):
    rig.out(MCR, 8)
    rig.out(IER, 2)
    assert rig.irq
    assert rig.read(IIR) & 0x0F == 2
    assert not rig.irq
    rig.out(DATA, 0x41)
    assert rig.irq


def test_divisor_hides_behind_dlab(rig):
    rig.out(LCR, 0x83)
    rig.out(DATA, 0x01)
    rig.out(IER, 0x02)
    assert (rig.read(DATA), rig.read(IER)) == (1, 2)
    rig.out(LCR, 0x03)
    assert rig.serial.divisor == 0x201
    assert rig.read(IER) == 0
    assert rig.sent == b""


def test_fifo_is_reported_and_cleared(rig):
    rig.out(IIR, 1)
    assert rig.read(IIR) & 0xC0 == 0xC0
    rig.serial.receive(b"0123456789abcdefXY")
    rig.out(IIR, 3)
    assert bytes(rig.read(DATA) for _ in range(2)) == b"XY", "what the FIFO held is gone, what waited outside is not"


def test_loopback_returns_data_and_lines(rig):
    rig.out(MCR, 0x1F)
    rig.out(DATA, 0x5A)
    assert rig.sent == b""
    assert rig.read(DATA) == 0x5A
    assert rig.read(MSR) & 0xF0 == 0xF0
    rig.out(MCR, 0x12)
    assert rig.read(MSR) & 0xF0 == 0x10


def test_scratch_register_keeps_a_byte(rig):
    rig.out(SCR, 0xA5)
    assert rig.read(SCR) == 0xA5
