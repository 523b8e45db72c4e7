"""Copies from device to device: whole to ``on_copy``, else to ``on_io`` as single accesses, with the same outcome."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from harness import Daemon

from dm.engine import engine_name
from dm.machine.state import State
from dm.protocol.schema import FEATURES, DoneReason, IoKind, Kind, Region, Stop
from dm.shim.answer import Answer
from dm.shim.client import Shim
from dm.shim.errors import Refused
from dm.shim.ram import Ram

SIZE, VIDEO, DEVICE = 0x10000, 0xB8000, 0xA0000
REGIONS = [Region(DEVICE, 0x10000, Kind.MMIO), Region(VIDEO, 0x8000, Kind.COALESCED)]
MOVSB, MOVSW, MOVSD = b"\xf3\xa4", b"\xf3\xa5", b"\xf3\x66\xa5"
SINGLES = [word for word in FEATURES if word != "memory-copy"]


class Display:
    """Memory whose reads change what later writes leave; every single access is noted in order."""

    def __init__(self):
        self.memory = {}
        self.latch = 0
        self.accesses = []

    def read(self, at, size):
        data = bytes(self.memory.get(at + n, (at + n) * 5 & 0xFF) for n in range(size))
        self.latch = (self.latch * 7 + sum(data)) & 0xFF
        self.accesses.append((IoKind.MMIO_READ, at, data))
        return data

    def write(self, at, data):
        self.accesses.append((IoKind.MMIO_WRITE, at, data))
        for n, byte in enumerate(data):
            self.memory[at + n] = byte ^ self.latch & 0x0F

    def on_io(self, io):
        assert io.kind in (IoKind.MMIO_READ, IoKind.MMIO_WRITE)
        step = -io.size if io.down else io.size
        if io.kind is IoKind.MMIO_READ:
            return b"".join(self.read(io.address + n * step, io.size) for n in range(io.count))
        for n in range(io.count):
            self.write(io.address + n * step, io.data[n * io.size : (n + 1) * io.size])
        return None

    def on_copy(self, io):
        assert io.kind is IoKind.MEMORY_COPY
        step = -io.size if io.down else io.size
        for n in range(io.count):
            self.write(io.target + n * step, self.read(io.address + n * step, io.size))


class Vm:
    """A session with 64 KiB of RAM and one vCPU."""

    def __init__(self, endpoint, features=tuple(FEATURES)):
        self.shim, self.ram = Shim.connect(endpoint, features=features), Ram(SIZE)
        self.shim.set_map([Region(0, SIZE, Kind.RAM, self.shim.add_ram(self.ram)), *REGIONS])
        self.vcpu = self.shim.create_vcpu(0)

    def state(self, code, source=VIDEO, to=VIDEO, down=False, **registers):
        """Real mode at the program, which is loaded."""
        state = State.reset()
        state.cr0, state.idtr_base, state.idtr_limit = 0x10, 0, 0x3FF
        state.cs.selector, state.cs.base, state.rip = 0, 0, 0x100
        state.ds.base, state.es.base = source, to
        state.rflags |= 0x400 if down else 0
        for name, value in registers.items():
            setattr(state, name, value)
        self.ram.view[0:0x80] = bytes.fromhex("f000 0000") * 32  # exceptions halt at 0:F0
        self.ram.view[0xF0], self.ram.view[0x100 : 0x101 + len(code)] = 0xF4, code + b"\xf4"
        return state

    def run(self, display, state, whole=False, **fields):
        """Run with a display; returns done and the number of exchanges."""
        before = self.vcpu.stats.io
        fields.setdefault("on_io", display.on_io)
        done = self.vcpu.run(state, on_copy=display.on_copy if whole else None, on_posted=display.write, **fields)
        return done, self.vcpu.stats.io - before

    def close(self):
        self.shim.close()
        self.ram.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("d"), "--session-timeout", "300", engine=engine_name()) as running:
        yield running


@pytest.fixture(scope="module")
def vm(daemon):
    made = Vm(daemon.endpoint)
    yield made
    made.close()


@pytest.fixture(scope="module")
def old(daemon):
    """A session that never gets a copy."""
    made = Vm(daemon.endpoint, SINGLES)
    yield made
    made.close()


def test_without_on_copy_devices_see_single_accesses(vm, old):
    displays, states, exchanges = [], [], []
    for machine in (vm, old):
        display, state = Display(), machine.state(MOVSW, ecx=100, esi=160, edi=0)
        done, count = machine.run(display, state)
        assert (done.reason, done.steps) == (DoneReason.HALT, 101)
        displays.append((display.accesses, display.memory)), states.append(state), exchanges.append(count)
    assert displays[0] == displays[1]
    assert states[0] == states[1]
    assert exchanges[0] == 1
    assert exchanges[1] >= 100


def test_with_on_copy_it_comes_whole(vm):
    display, asked = Display(), []

    def on_copy(io):
        asked.append((io.address, io.target, io.size, io.count, io.down))
        return display.on_copy(io)

    state = vm.state(MOVSD, to=DEVICE, down=True, ecx=30, esi=0x100, edi=0x200)
    vm.vcpu.run(state, on_copy=on_copy, on_io=lambda io: pytest.fail("asked singly"))
    assert asked == [(VIDEO + 0x100, DEVICE + 0x200, 4, 30, True)]
    assert (state.ecx, state.edi) == (0, 0x200 - 120)


@pytest.mark.parametrize("say", [{"stop": Stop.NMI}, {"window": True}, {"map": True}])
@pytest.mark.parametrize("on", [IoKind.MMIO_READ, IoKind.MMIO_WRITE])
def test_an_answer_that_says_more_ends_the_copy_there(vm, say, on):
    display, state = Display(), vm.state(MOVSB, ecx=20, esi=0, edi=0x100)
    state.rflags |= 0x200

    def on_io(io):
        data = display.on_io(io)
        if len(display.accesses) == (9 if on is IoKind.MMIO_READ else 10):
            more = {"map": vm.shim.next_map(vm.shim._map.regions)} if "map" in say else say
            return Answer(data or b"", **more)
        return data

    done, _ = vm.run(display, state, on_io=on_io)
    if "map" in say:
        assert (done.reason, len(display.accesses)) == (DoneReason.HALT, 40)
        return
    reason = DoneReason.STOPPED if "stop" in say else DoneReason.INTERRUPT_WINDOW
    assert (done.reason, len(display.accesses), done.steps) == (reason, 10, 5)
    assert (state.ecx, state.esi, state.edi, state.rip) == (15, 5, 0x105, 0x100)


def test_an_interrupt_that_the_daemon_knows_of_ends_nothing(vm):
    display, state = Display(), vm.state(MOVSB, ecx=20, esi=0, edi=0x100)
    done, exchanges = vm.run(
        display, state, window=True, on_io=lambda io: Answer(display.on_io(io) or b"", window=True)
    )
    assert (done.reason, exchanges) == (DoneReason.HALT, 1)  # interrupts are off


def test_a_device_that_raises_ends_the_run_behind_its_element(vm):
    display, state = Display(), vm.state(MOVSB, ecx=20, esi=0, edi=0x100)

    def on_io(io):
        if len(display.accesses) == 6:
            raise KeyError("device")
        return display.on_io(io)

    with pytest.raises(KeyError, match="device"):
        vm.run(display, state, on_io=on_io)
    assert (state.ecx, state.edi, len(display.accesses)) == (16, 0x104, 6)
    done, _ = vm.run(display, state)
    assert (done.reason, state.ecx, len(display.accesses)) == (DoneReason.HALT, 0, 38)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (b"ab", IoKind.MMIO_READ, "data has 2 bytes; expected 1 for mmio-read"),
        (b"a", IoKind.MMIO_WRITE, "data has 1 bytes; expected 0 for mmio-write"),
        (Answer(b"a", fault=True), IoKind.MMIO_READ, "fault answers mmio-read; expected only for MSRs"),
    ],
)
def test_a_single_answer_that_does_not_fit(vm, given, kind, text):
    state = vm.state(MOVSB, ecx=5, esi=0, edi=0x100)
    with pytest.raises(Refused, match=text):
        vm.vcpu.run(state, on_io=lambda io: given if io.kind is kind else b"a" if io.kind is IoKind.MMIO_READ else None)
    assert (state.ecx, state.edi) == (4, 0x101)
    assert vm.vcpu.run(state).reason is DoneReason.HALT


@pytest.mark.parametrize("copied", [0, 6])
def test_a_count_that_does_not_fit(vm, copied):
    state = vm.state(MOVSB, ecx=5, esi=0, edi=0x100)
    with pytest.raises(Refused, match=f"copied is {copied}; expected 1 to 5"):
        vm.vcpu.run(state, on_copy=lambda io: Answer(copied=copied))
    assert state.ecx == 0  # as on an empty bus
    assert vm.vcpu.run(state).reason is DoneReason.HALT


@settings(max_examples=25, deadline=None)
@given(
    code=st.sampled_from([MOVSB, MOVSW, MOVSD]),
    source=st.sampled_from([DEVICE, VIDEO, 0x8000]),
    to=st.sampled_from([DEVICE, VIDEO, 0x4000]),
    down=st.booleans(),
    ecx=st.integers(0, 60),
    esi=st.one_of(st.integers(0, 0x1FFF), st.sampled_from([0xFFF, 0x1000])),
    edi=st.one_of(st.integers(0, 0x1FFF), st.sampled_from([0xFFE, 0x1003])),
)
def test_whole_or_singly_or_never_it_is_the_same(vm, old, code, source, to, down, ecx, esi, edi):
    outcomes = []
    for machine, whole in ((vm, True), (vm, False), (old, False)):
        machine.ram.view[:] = bytes(n * 7 & 0xFF for n in range(SIZE))
        display = Display()
        state = machine.state(code, source, to, down, ecx=ecx, esi=esi, edi=edi)
        done, _ = machine.run(display, state, whole)
        ram = bytes(machine.ram.view)
        outcomes.append((display.accesses, display.memory, state, ram, done.reason, done.steps, done.instructions))
    assert outcomes[0] == outcomes[2]
    assert outcomes[1] == outcomes[2]
