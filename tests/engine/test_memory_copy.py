"""REP MOVS from device to device: one question, carried out by the outside element by element, as if asked singly."""

from __future__ import annotations

import pytest
from guest import HLT, Machine, make_engine, protected_mode
from hypothesis import given, settings
from hypothesis import strategies as st

from dm.engine.api import CpuConfig, ExitReason, Region, RegionKind

DEVICE, VIDEO, BUFFER = 0xA0000, 0xB8000, 0x20000
MOVSB, MOVSW, MOVSD = b"\xf3\xa4", b"\xf3\xa5", b"\xf3\x66\xa5"
COPY, READ, WRITE = ExitReason.MEMORY_COPY, ExitReason.MMIO_READ, ExitReason.MMIO_WRITE


class Latches:
    """Display memory with side effects: a read changes what later writes leave, and every access is noted."""

    def __init__(self):
        self.memory = {}
        self.latch = 0
        self.accesses = []

    def read(self, at, size):
        data = bytes(self.memory.get(at + n, (at + n) * 5 & 0xFF) for n in range(size))
        self.latch = (self.latch * 7 + sum(data)) & 0xFF
        self.accesses.append(("read", at, data))
        return data

    def write(self, at, data):
        self.accesses.append(("write", at, data))
        for n, byte in enumerate(data):
            self.memory[at + n] = byte ^ self.latch & 0x0F

    def ask(self, end, done=None):
        """Carry out a question; of a copy ``done`` elements, None for all.  Returns the arguments of the answer."""
        for gpa, data in end.posted:
            self.write(gpa, data)
        places = [(-k if end.down else k) * end.size for k in range(end.count)]
        if end.reason is READ:
            return {"data": b"".join(self.read(end.address + at, end.size) for at in places)}
        if end.reason is WRITE:
            for k, at in enumerate(places):
                self.write(end.address + at, end.data[k * end.size : (k + 1) * end.size])
            return {}
        assert end.reason is COPY, end
        for at in places[:done]:
            self.write(end.target + at, self.read(end.address + at, end.size))
        return {} if done is None else {"copied": min(done, end.count)}


class World:
    """A machine with a device at A0000 and a coalesced one at B8000."""

    def __init__(self, name, copies):
        self.vm = Machine(make_engine(name, CpuConfig(copies=copies)))
        self.map()

    def map(self):
        self.vm.remap(Region(DEVICE, 0x10000, RegionKind.MMIO), Region(VIDEO, 0x8000, RegionKind.COALESCED))

    def load(self, code, *, to=VIDEO, source=VIDEO, down=False, **registers):
        self.vm.load(code + HLT, **registers)
        state = self.vm.state
        state.es.base, state.ds.base = to, source
        state.rflags |= 0x400 if down else 0
        self.vm.engine.set_state(state)

    def play(self, *, budgets=(1 << 62,), done=(None,)):
        """Run to HLT; ``budgets`` and ``done`` are gone through in turn.  Returns the device, exits and steps."""
        device, exits, steps = Latches(), [], 0
        for turn in range(100000):
            end = self.vm.run(budget=budgets[turn % len(budgets)])
            steps += end.steps
            if end.reason is ExitReason.BUDGET:
                for gpa, data in end.posted:
                    device.write(gpa, data)
                continue
            if end.reason is ExitReason.HALT:
                for gpa, data in end.posted:
                    device.write(gpa, data)
                return device, exits, steps
            exits.append(end)
            self.vm.engine.answer(**device.ask(end, done[turn % len(done)]))
        raise AssertionError("no end")


@pytest.fixture(scope="module", params=["native", "python"])
def name(request):
    return request.param


@pytest.fixture
def world(name):
    return World(name, True)


@pytest.mark.parametrize(("code", "size"), [(MOVSB, 1), (MOVSW, 2), (MOVSD, 4)])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("to", [DEVICE, VIDEO])
def test_from_device_to_device_is_one_question(world, code, size, down, to):
    start = 0x400 if down else 0x100
    world.load(code, to=to, source=DEVICE, down=down, ecx=64, esi=start, edi=start + 0x80)
    end = world.vm.run()
    assert (end.reason, end.address, end.target) == (COPY, DEVICE + start, to + start + 0x80)
    assert (end.size, end.count, end.down, end.data, end.steps) == (size, 64, down, b"", 0)
    world.vm.engine.answer()
    end = world.vm.run()
    assert (end.reason, end.steps, end.instructions, end.posted) == (ExitReason.HALT, 65, 2, ())
    moved = -64 * size if down else 64 * size
    state = world.vm.state
    assert (state.ecx, state.esi, state.edi) == (0, start + moved, start + 0x80 + moved)


def test_scrolling_a_text_screen_is_one_question(world):
    world.load(MOVSW, ecx=24 * 80, esi=160, edi=0)
    device, exits, steps = world.play()
    assert [(end.reason, end.count) for end in exits] == [(COPY, 24 * 80)]
    assert steps == 24 * 80 + 1
    assert [what for what, _, _ in device.accesses[:4]] == ["read", "write", "read", "write"]


def test_an_engine_that_may_not_asks_for_each_element(name):
    world = World(name, False)
    world.load(MOVSB, to=DEVICE, source=DEVICE, ecx=3, esi=0x100, edi=0x200)
    _, exits, _ = world.play()
    assert [(end.reason, end.address, end.count) for end in exits] == [
        (reason, DEVICE + at + k, 1) for k in range(3) for reason, at in ((READ, 0x100), (WRITE, 0x200))
    ]


@pytest.mark.parametrize("done", [1, 2, 40])
def test_the_outside_may_stop_early(world, done):
    world.load(MOVSW, to=DEVICE, source=VIDEO, ecx=50, esi=0, edi=0x20)
    end = world.vm.run()
    assert (end.reason, end.count) == (COPY, 50)
    world.vm.engine.answer(copied=done)
    end = world.vm.run(budget=0)
    state = world.vm.state
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, done, 0)
    assert (state.ecx, state.esi, state.edi, state.rflags >> 16 & 1) == (50 - done, 2 * done, 0x20 + 2 * done, 1)
    assert world.vm.run().count == 50 - done


def test_with_nothing_copied_the_instruction_decides_anew(world):
    """As when what looked like devices turns out to be memory that was not there yet."""
    world.load(MOVSB, to=DEVICE, source=VIDEO, ecx=5, esi=0, edi=0)
    assert world.vm.run().reason is COPY
    world.vm.remap(Region(VIDEO, 0x8000, RegionKind.MMIO))  # A0000 is RAM now
    world.vm.engine.answer(copied=0)
    end = world.vm.run()
    assert (end.reason, end.address, end.count, end.steps) == (READ, VIDEO, 5, 0)
    world.vm.engine.answer(b"abcde")
    assert world.vm.run().reason is ExitReason.HALT
    assert world.vm.ram[DEVICE : DEVICE + 5] == b"abcde"


def test_nothing_copied_again_and_again_is_no_progress(world):
    world.load(MOVSB, ecx=5, esi=0, edi=1)
    for _ in range(3):
        end = world.vm.run(budget=5)
        assert (end.reason, end.steps, world.vm.state.ecx) == (COPY, 0, 5)
        world.vm.engine.answer(copied=0)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"copied": 6}, "0 to 5"), ({"copied": -1}, "0 to 5"), ({"data": b"a"}, "bytes"), ({"fault": True}, "MSR")],
)
def test_a_bad_answer_is_refused_and_the_question_stays_open(world, given, text):
    world.load(MOVSB, ecx=5, esi=0, edi=1)
    assert world.vm.run().reason is COPY
    with pytest.raises(ValueError, match=text):
        world.vm.engine.answer(**given)
    world.vm.engine.answer()
    assert world.vm.run().reason is ExitReason.HALT


def test_only_copies_are_counted(world):
    world.vm.load(b"\xe4\x60" + HLT)
    assert world.vm.run().reason is ExitReason.PORT_IN
    with pytest.raises(ValueError, match="port-in copies nothing"):
        world.vm.engine.answer(b"a", copied=1)


def test_a_copy_ends_at_pages_of_either_side(world):
    world.load(MOVSB, to=DEVICE, source=VIDEO, ecx=0x1800, esi=0x0F00, edi=0x0E80)
    _, exits, _ = world.play()
    assert [end.count for end in exits] == [0x100, 0x80, 0xF80, 0x80, 0x680]


def test_a_copy_keeps_to_the_budget(world):
    world.load(MOVSB, ecx=50, esi=0, edi=1)
    end = world.vm.run(budget=20)
    assert end.count == 20
    world.vm.engine.answer()
    end = world.vm.run(budget=0)
    assert (end.reason, end.steps, world.vm.state.ecx) == (ExitReason.BUDGET, 20, 30)


@pytest.mark.parametrize("segment", ["es", "ds"])
def test_a_copy_ends_before_either_limit_and_faults_behind_it(world, segment):
    world.load(MOVSB, to=DEVICE, source=VIDEO, ecx=50, esi=0x10, edi=0x10)
    state = world.vm.state
    getattr(state, segment).limit = 0x1F
    world.vm.engine.set_state(state)
    assert world.vm.run().count == 16
    world.vm.engine.answer()
    world.vm.run(budget=1)
    assert world.vm.state.eip == 0x100D  # #GP, before the device is read
    assert (world.vm.state.ecx, world.vm.state.edi) == (34, 0x20)


def test_16_bit_addresses_wrap(world):
    world.load(MOVSB, to=DEVICE, source=DEVICE, ecx=4, esi=0x100, edi=0xFFFE)
    _, exits, _ = world.play()
    assert [(end.count, end.target - DEVICE) for end in exits] == [(2, 0xFFFE), (2, 0)]


@pytest.mark.parametrize("what", ["trap flag", "breakpoint"])
def test_when_something_may_happen_in_between_it_is_one_by_one(world, what):
    world.load(MOVSB, ecx=3, esi=0, edi=1)
    state = world.vm.state
    if what == "trap flag":
        state.rflags |= 0x100
    else:
        state.dr7, state.dr[0] = 0x402, 0x12345
    world.vm.engine.set_state(state)
    end = world.vm.run()
    assert (end.reason, end.count) == (READ, 1)


def test_the_last_element_is_asked_as_ever(world):
    world.load(MOVSB, to=DEVICE, ecx=1, esi=0, edi=1)
    _, exits, _ = world.play()
    assert [end.reason for end in exits] == [READ, WRITE]


def test_the_hypervisors_memory_is_not_copied(world):
    world.vm.remap(Region(DEVICE, 0x1000, RegionKind.HYPERVISOR), Region(VIDEO, 0x8000, RegionKind.MMIO))
    for to, source in ((DEVICE, VIDEO), (VIDEO, DEVICE)):
        world.load(MOVSB, to=to, source=source, ecx=3, esi=0, edi=0)
        end = world.vm.run()
        if end.reason is READ:  # the source is asked first, alone
            world.vm.engine.answer(b"a")
            end = world.vm.run()
        assert (end.reason, end.address, world.vm.state.ecx) == (ExitReason.HYPERVISOR, DEVICE, 3)


def test_rom_takes_what_a_device_gives(world):
    rom = bytearray(b"r" * 0x1000)
    world.vm.remap(Region(DEVICE, 0x1000, RegionKind.ROM, rom), Region(VIDEO, 0x8000, RegionKind.MMIO))
    world.load(MOVSB, to=DEVICE, source=VIDEO, ecx=3, esi=0, edi=0)
    assert world.vm.run().reason is COPY
    world.load(MOVSB, to=VIDEO, source=DEVICE, ecx=3, esi=0, edi=0)
    end = world.vm.run()
    assert (end.reason, end.data) == (WRITE, b"rrr")


def test_both_pages_are_walked_before_the_devices_are_asked(world):
    """Accessed and dirty bits as one by one; a page that is not there faults at its first element."""
    table, directory, ram = 0x31000, 0x30000, world.vm.ram
    for n in range(256):
        ram[table + 4 * n : table + 4 * n + 4] = (n << 12 | 3).to_bytes(4, "little")
    ram[table + 4 * 0xB9 : table + 4 * 0xB9 + 4] = bytes(4)  # page B9000 is not there
    ram[directory : directory + 4] = (table | 3).to_bytes(4, "little")
    state = protected_mode(ecx=8, esi=DEVICE, edi=VIDEO + 0xFFC)
    state.cr0, state.cr3 = 0x80000011, directory
    world.vm.load(MOVSB + HLT, state)
    end = world.vm.run()
    assert (end.reason, end.count) == (COPY, 4)
    entry = {page: ram[table + 4 * page] & 0x60 for page in (DEVICE >> 12, VIDEO >> 12)}
    assert entry == {DEVICE >> 12: 0x20, VIDEO >> 12: 0x60}
    world.vm.engine.answer()
    assert world.vm.run(budget=5).reason is not COPY
    assert world.vm.state.cr2 == VIDEO + 0x1000


def test_mmio_on_behalf_of_a_failed_exit(world):
    world.load(MOVSB, to=VIDEO, source=DEVICE, ecx=3, esi=0, edi=0)
    end = world.vm.run(mmio=DEVICE, budget=1)
    assert (end.reason, end.count) == (READ, 1)
    world.load(MOVSB, to=VIDEO, source=DEVICE, ecx=3, esi=0, edi=0)
    end = world.vm.run(mmio=VIDEO)
    assert (end.reason, end.address, world.vm.state.ecx) == (ExitReason.MMIO_MISMATCH, DEVICE, 3)
    end = world.vm.run(mmio=DEVICE)
    assert (end.reason, end.count) == (COPY, 3)


def test_an_interrupt_comes_between_two_elements(world):
    """The outside stops as soon as one waits: ECX, ESI, EDI and the return address are those of that iteration."""
    world.load(MOVSB, to=DEVICE, source=VIDEO, ecx=9, esi=0, edi=0)
    state = world.vm.state
    state.rflags |= 0x200
    world.vm.engine.set_state(state)
    assert world.vm.run().count == 9
    world.vm.engine.answer(copied=4)
    end = world.vm.run(window=True)
    state = world.vm.state
    assert (end.reason, state.ecx, state.esi, state.edi) == (ExitReason.INTERRUPT_WINDOW, 5, 4, 4)


registers = st.fixed_dictionaries(
    {
        "ecx": st.sampled_from([0, 1, 2, 3, 17, 200, 700]),
        "esi": st.one_of(st.sampled_from([0, 1, 0xFF0, 0xFFF, 0x1FFD, 0x7FFE, 0xFFFD]), st.integers(0, 0x1FFF)),
        "edi": st.one_of(st.sampled_from([0, 3, 0xFEE, 0x1FFF, 0x4000, 0xFFFE]), st.integers(0, 0x1FFF)),
    }
)
side = st.sampled_from([DEVICE, VIDEO, BUFFER])


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from([MOVSB, MOVSW, MOVSD]),
    to=side,
    source=side,
    down=st.booleans(),
    registers=registers,
    budgets=st.lists(st.sampled_from([1, 2, 7, 33, 5000]), min_size=1, max_size=3),
    done=st.lists(st.sampled_from([None, 1, 2, 30]), min_size=1, max_size=3),
)
def test_a_copy_is_as_one_by_one(worlds, code, to, source, down, registers, budgets, done):
    """The same single accesses in the same order, the same registers, memory and steps, with and without copies."""
    results = []
    for made, options in zip(worlds, ({}, {"budgets": (1,)}, {"budgets": budgets, "done": done}), strict=True):
        made.vm.ram[BUFFER : BUFFER + 0x10000] = bytes(n * 7 & 0xFF for n in range(0x10000))
        made.load(code, to=to, source=source, down=down, **registers)
        device, _, steps = made.play(**options)
        results.append((device.accesses, device.memory, made.vm.state, bytes(made.vm.ram), steps))
    assert results[0] == results[1]
    assert results[2] == results[1]


@pytest.fixture(scope="module")
def worlds(name):
    """One that copies, one that may not, and one that copies in pieces."""
    return [World(name, True), World(name, False), World(name, True)]
