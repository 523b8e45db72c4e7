import pytest

from dm.shim import keys
from dm.shim.bus import PortBus
from dm.shim.clock import ManualClock
from dm.shim.devices.i8042 import I8042, KEY_INTERVAL
from dm.shim.devices.system import SystemControl


class Rig:
    def __init__(self):
        self.clock, self.bus, self.edges, self.level = ManualClock(), PortBus(), 0, False
        self.changes = 0
        self.system = SystemControl(self._changed)
        self.controller = I8042(self.clock, self.system, self._irq)
        self.controller.connect(self.bus)

    def _changed(self):
        self.changes += 1

    def _irq(self, level):
        self.edges += level and not self.level
        self.level = level

    def out(self, port, value):
        self.bus.write(port, 1, bytes((value,)))

    def read(self, port):
        return self.bus.read(port, 1)[0]

    def drain(self):
        out = []
        while self.read(0x64) & 1:
            out.append(self.read(0x60))
        return out


@pytest.fixture
def rig():
    return Rig()


def test_typed_key_arrives_byte_by_byte_with_an_edge_each(rig):
    rig.controller.type([keys.type_character("A")])
    assert rig.edges == 1
    assert rig.drain() == [0x2A, 0x1E, 0x9E, 0xAA]
    assert rig.edges == 4
    assert rig.read(0x60) == 0xAA, "the last byte can be read again"


def test_keys_come_one_at_a_time(rig):
    rig.controller.type([keys.type_character("a"), keys.type_character("b")])
    assert rig.drain() == [0x1E, 0x9E]
    rig.controller.update()
    assert rig.drain() == []
    assert rig.controller.typing
    rig.clock.advance(KEY_INTERVAL)
    rig.controller.update()
    assert rig.drain() == [0x30, 0xB0]
    assert not rig.controller.typing


def test_keys_wait_while_the_guest_is_not_ready(rig):
    rig.controller.ready_for_key = lambda: False
    rig.controller.type([b"\x1e\x9e"])
    assert rig.drain() == []
    assert rig.controller.next_event() is not None


def test_without_translation_set_2_arrives(rig):
    rig.out(0x64, 0x60)
    rig.out(0x60, 0x01)
    rig.controller.type([keys.press(keys.NAMED["up"])])
    assert rig.drain() == [0xE0, 0x75, 0xE0, 0xF0, 0x75]


def test_disabled_keyboard_sends_nothing(rig):
    rig.out(0x64, 0xAD)
    rig.controller.type([b"\x1e\x9e"])
    assert rig.drain() == []
    rig.out(0x64, 0xAE)
    rig.controller.update()
    assert rig.drain() == [0x1E, 0x9E]


@pytest.mark.parametrize(("command", "answer"), [(0xAA, [0x55]), (0xAB, [0x00]), (0x20, [0x61]), (0xA9, [0x02])])
def test_controller_answers(rig, command, answer):
    rig.out(0x64, command)
    assert rig.drain() == answer


def test_command_byte_reads_back_and_gates_irq1(rig):
    rig.out(0x64, 0x60)
    rig.out(0x60, 0x40)
    rig.out(0x64, 0x20)
    assert rig.drain() == [0x40]
    rig.edges = 0
    rig.controller.type([b"\x1e\x9e"])
    assert rig.edges == 0
    assert rig.drain() == [0x1E, 0x9E]


def test_output_port_drives_a20(rig):
    rig.out(0x64, 0xD1)
    rig.out(0x60, 0xDD)
    assert not rig.system.a20
    assert rig.changes == 1
    rig.out(0x64, 0xD0)
    assert not rig.drain()[0] & 2
    rig.out(0x64, 0xD1)
    rig.out(0x60, 0xDF)
    assert rig.system.a20
    assert not rig.system.reset_requested


def test_pulse_resets(rig):
    rig.out(0x64, 0xFE)
    assert rig.system.reset_requested


def test_output_port_bit_0_resets(rig):
    rig.out(0x64, 0xD1)
    rig.out(0x60, 0x02)
    assert rig.system.reset_requested


@pytest.mark.parametrize(
    ("command", "answer"),
    [(0xFF, [0xFA, 0xAA]), (0xEE, [0xEE]), (0xF2, [0xFA, 0xAB, 0x41]), (0xF4, [0xFA]), (0xC3, [0xFE])],
)
def test_keyboard_answers(rig, command, answer):
    rig.out(0x60, command)
    assert rig.drain() == answer


def test_leds_take_a_parameter(rig):
    rig.out(0x60, 0xED)
    assert rig.drain() == [0xFA]
    rig.out(0x60, 0x07)
    assert rig.drain() == [0xFA]
    assert rig.controller.leds == 7


def test_scan_code_set_is_chosen_and_asked_for(rig):
    rig.out(0x64, 0x60)
    rig.out(0x60, 0x01)
    for value in (0xF0, 0x01, 0xF0, 0x00):
        rig.out(0x60, value)
    assert rig.drain() == [0xFA, 0xFA, 0xFA, 0xFA, 0x01]
    rig.controller.type([b"\x1e\x9e"])
    assert rig.drain() == [0x1E, 0x9E]


def test_stopped_scanning_holds_keys(rig):
    rig.out(0x60, 0xF5)
    rig.drain()
    rig.controller.type([b"\x1e\x9e"])
    assert rig.drain() == []


def test_status_tells_commands_from_data(rig):
    rig.out(0x64, 0xAE)
    assert rig.read(0x64) & 8
    rig.out(0x60, 0xEE)
    assert not rig.read(0x64) & 8


def test_answers_nobody_reads_do_not_pile_up(rig):
    for _ in range(1000):
        rig.out(0x60, 0xEE)
    assert len(rig.drain()) <= 17
