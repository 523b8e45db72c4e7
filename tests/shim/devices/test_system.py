import pytest

from dm.shim.bus import PortBus
from dm.shim.devices.debugcon import DebugConsole, ExitPort, PostCodes
from dm.shim.devices.system import SystemControl


@pytest.fixture
def rig():
    changes = []
    system, bus = SystemControl(lambda: changes.append(1)), PortBus()
    system.connect(bus)
    return system, bus, changes


def test_port_92_gates_a20(rig):
    system, bus, changes = rig
    assert bus.read(0x92, 1) == b"\x02"
    bus.write(0x92, 1, b"\x00")
    assert not system.a20
    assert bus.read(0x92, 1) == b"\x00"
    bus.write(0x92, 1, b"\x00")
    assert len(changes) == 1, "nothing has changed"


def test_port_92_bit_0_resets(rig):
    system, bus, _ = rig
    bus.write(0x92, 1, b"\x03")
    assert system.reset_requested


@pytest.mark.parametrize(
    ("values", "resets"), [((0x06,), True), ((0x02,), False), ((0x04,), True), ((0x02, 0x06), True)]
)
def test_port_cf9_resets_on_the_rising_edge_of_bit_2(rig, values, resets):
    system, bus, _ = rig
    for value in values:
        bus.write(0xCF9, 1, bytes((value,)))
    assert system.reset_requested is resets


def test_pci_configuration_address_is_no_reset(rig):
    system, bus, _ = rig
    bus.write(0xCF8, 4, bytes((0x00, 0x06, 0x00, 0x80)))
    assert not system.reset_requested
    assert bus.read(0xCF8, 4) == b"\xff" * 4


def test_only_cf9_bit_1_resets_the_devices_too(rig):
    system, bus, _ = rig
    bus.write(0xCF9, 1, b"\x04")
    assert not system.full_reset
    bus.write(0xCF9, 1, b"\x00")
    bus.write(0xCF9, 1, b"\x06")
    assert system.full_reset


def test_reset_opens_a20(rig):
    system, _, _ = rig
    system.set_a20(False)
    system.request_reset(full=True)
    system.reset()
    assert system.a20
    assert not system.reset_requested
    assert not system.full_reset


def test_debug_console_takes_bytes_and_identifies_itself():
    bus, text = PortBus(), bytearray()
    DebugConsole(0x402, text.extend).connect(bus)
    bus.write(0x402, 1, b"hello")
    assert text == b"hello"
    assert bus.read(0x402, 1) == b"\xe9"


def test_post_codes_are_kept_in_order():
    bus, post = PortBus(), PostCodes()
    post.connect(bus)
    assert bus.read(0x80, 1) == b"\x00"
    for code in range(300):
        bus.write(0x80, 1, bytes((code & 0xFF,)))
    assert post.codes == [code & 0xFF for code in range(44, 300)]
    assert bus.read(0x80, 1) == bytes((299 & 0xFF,))


def test_post_codes_are_shown_when_they_change():
    shown = []
    bus, post = PortBus(), PostCodes(0x190, shown.append)
    post.connect(bus)
    bus.write(0x190, 1, bytes((1, 1, 2, 1)))
    bus.write(0x80, 1, b"\x33")
    assert shown == [1, 2, 1]
    assert post.codes == [1, 1, 2, 1]


def test_exit_port_keeps_the_first_byte():
    bus, port = PortBus(), ExitPort(0xF4)
    port.connect(bus)
    assert port.value is None
    bus.write(0xF4, 4, bytes((7, 1, 2, 3)))
    bus.write(0xF4, 1, b"\x08")
    assert port.value == 7
