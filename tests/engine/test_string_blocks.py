"""REP MOVS, STOS and LODS with a device on one side: one question for many elements, exactly as one by one."""

from __future__ import annotations

import random

import pytest
from guest import CODE, HLT, Machine, make_engine, protected_mode

from dm.engine.api import ExitReason, Region, RegionKind

DEVICE = 0xA0000
BUFFER = 0x20000
MOVSB, MOVSW, STOSB, STOSW, LODSB = b"\xf3\xa4", b"\xf3\xa5", b"\xf3\xaa", b"\xf3\xab", b"\xf3\xac"
MOVSD, STOSD, LODSD = b"\xf3\x66\xa5", b"\xf3\x66\xab", b"\xf3\x66\xad"


@pytest.fixture(params=["native", "python"])
def vm(request):
    machine = Machine(make_engine(request.param))
    machine.remap(Region(DEVICE, 0x10000, RegionKind.MMIO))
    machine.ram[BUFFER : BUFFER + 0x10000] = bytes(n * 7 & 0xFF for n in range(0x10000))
    return machine


def load(vm, code, *, to=DEVICE, source=BUFFER, down=False, **registers):
    vm.load(code + HLT, **registers)
    state = vm.state
    state.es.base, state.ds.base = to, source
    if down:
        state.rflags |= 0x400
    vm.engine.set_state(state)


class Device:
    """Answers reads with a count of the bytes read so far; notes each element in order."""

    def __init__(self):
        self.accesses = []
        self.questions = 0
        self._read = 0

    def __call__(self, end):
        self.questions += 1
        reads = end.reason is ExitReason.MMIO_READ
        data = end.data
        if reads:
            data = bytes((self._read + n) & 0xFF for n in range(end.size * end.count))
            self._read += len(data)
        for k in range(end.count):
            at = end.address + (-k if end.down else k) * end.size
            self.accesses.append((end.reason, at, end.size, data[k * end.size : (k + 1) * end.size]))
        return data if reads else b""


def finish(vm, **options):
    """Run to HLT with a device; returns it."""
    device = Device()
    while True:
        end = vm.run(**options)
        if end.reason is ExitReason.HALT:
            return device
        if end.reason is not ExitReason.BUDGET:
            assert end.reason in (ExitReason.MMIO_READ, ExitReason.MMIO_WRITE), end
            vm.engine.answer(device(end))


@pytest.mark.parametrize(("code", "size"), [(MOVSB, 1), (MOVSW, 2), (MOVSD, 4)])
@pytest.mark.parametrize("down", [False, True])
def test_memory_to_a_device_is_one_question(vm, code, size, down):
    at = 0x300 if down else 0x100
    load(vm, code, down=down, ecx=64, esi=at, edi=at)
    end = vm.run()
    assert (end.reason, end.address, end.size, end.count) == (ExitReason.MMIO_WRITE, DEVICE + at, size, 64)
    assert end.down is down
    places = [BUFFER + at + (-k if down else k) * size for k in range(64)]
    assert end.data == b"".join(bytes(vm.ram[place : place + size]) for place in places)
    vm.engine.answer()
    end = vm.run()
    assert (end.reason, end.steps, end.instructions) == (ExitReason.HALT, 65, 2)
    moved = -64 * size if down else 64 * size
    assert (vm.state.ecx, vm.state.esi, vm.state.edi) == (0, at + moved, at + moved)


@pytest.mark.parametrize("down", [False, True])
def test_a_device_to_memory_is_one_question(vm, down):
    load(vm, MOVSW, to=BUFFER, source=DEVICE, down=down, ecx=5, esi=0x100, edi=0x200)
    end = vm.run()
    assert (end.reason, end.address, end.size) == (ExitReason.MMIO_READ, DEVICE + 0x100, 2)
    assert (end.count, end.down) == (5, down)
    vm.engine.answer(b"0123456789")
    assert vm.run().reason is ExitReason.HALT
    low = BUFFER + 0x200 - (8 if down else 0)
    assert vm.ram[low : low + 10] == (b"8967452301" if down else b"0123456789")


@pytest.mark.parametrize(("code", "data"), [(STOSB, b"\x34"), (STOSW, b"\x34\x12"), (STOSD, b"\x34\x12\x00\x00")])
def test_fill_is_one_question(vm, code, data):
    load(vm, code, ecx=100, edi=0, eax=0x1234)
    end = vm.run()
    assert (end.reason, end.count, end.data) == (ExitReason.MMIO_WRITE, 100, data * 100)
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.edi == 100 * len(data)


@pytest.mark.parametrize(("code", "size"), [(LODSB, 1), (LODSD, 4)])
def test_lods_reads_all_and_keeps_the_last(vm, code, size):
    load(vm, code, source=DEVICE, ecx=3, esi=0, eax=0xFFFFFFFF)
    end = vm.run()
    assert (end.reason, end.size, end.count) == (ExitReason.MMIO_READ, size, 3)
    vm.engine.answer(bytes(range(3 * size)))
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.eax == (0xFFFFFF02 if size == 1 else 0x0B0A0908)
    assert (vm.state.ecx, vm.state.esi) == (0, 3 * size)


def test_a_block_ends_at_pages_of_either_side(vm):
    load(vm, MOVSB, ecx=0x1800, esi=0x0F00, edi=0x0E80)
    assert list(_counts(vm)) == [0x100, 0x80, 0xF80, 0x80, 0x680]


def _counts(vm):
    while (end := vm.run()).reason is ExitReason.MMIO_WRITE:
        vm.engine.answer()
        yield end.count
    assert end.reason is ExitReason.HALT


def test_a_block_keeps_to_the_budget(vm):
    load(vm, STOSB, ecx=50, edi=0)
    end = vm.run(budget=20)
    assert (end.reason, end.count) == (ExitReason.MMIO_WRITE, 20)
    vm.engine.answer()
    end = vm.run(budget=0)
    assert (end.reason, end.steps, vm.state.ecx, vm.state.edi) == (ExitReason.BUDGET, 20, 30, 20)


def test_a_block_ends_before_the_limit_and_faults_behind_it(vm):
    load(vm, STOSB, ecx=50, edi=0x10)
    state = vm.state
    state.es.limit = 0x1F
    vm.engine.set_state(state)
    end = vm.run()
    assert end.count == 16
    vm.engine.answer()
    vm.run(budget=1)
    assert vm.state.eip == 0x100D  # #GP: the handler of vector 13
    assert (vm.state.ecx, vm.state.edi) == (34, 0x20)


def test_16_bit_addresses_wrap(vm):
    load(vm, STOSB, ecx=4, edi=0xFFFE)
    assert list(_counts(vm)) == [2, 2]


@pytest.mark.parametrize("what", ["trap flag", "breakpoint"])
def test_when_something_may_happen_in_between_it_is_one_by_one(vm, what):
    load(vm, STOSB, ecx=3, edi=0)
    state = vm.state
    if what == "trap flag":
        state.rflags |= 0x100
    else:
        state.dr7, state.dr[0] = 0x402, 0x12345
    vm.engine.set_state(state)
    assert vm.run().count == 1


@pytest.mark.parametrize("kind", [RegionKind.ROM, RegionKind.HYPERVISOR])
def test_other_destinations(vm, kind):
    memory = bytearray(0x1000) if kind is RegionKind.ROM else None
    vm.remap(Region(DEVICE, 0x1000, kind, memory))
    load(vm, STOSB, ecx=3, edi=0)
    end = vm.run()
    if kind is RegionKind.ROM:
        assert (end.reason, end.count) == (ExitReason.MMIO_WRITE, 3)
    else:
        assert (end.reason, end.address, vm.state.ecx) == (ExitReason.HYPERVISOR, DEVICE, 3)


def test_from_device_to_device_it_is_one_by_one(vm):
    load(vm, MOVSB, source=DEVICE, ecx=3, esi=0x100, edi=0x200)
    device = finish(vm)
    kinds = [(reason, at - DEVICE) for reason, at, _, _ in device.accesses]
    read, write = ExitReason.MMIO_READ, ExitReason.MMIO_WRITE
    assert kinds == [(read, 0x100), (write, 0x200), (read, 0x101), (write, 0x201), (read, 0x102), (write, 0x202)]


def test_code_in_the_destination_page_is_safe(vm):
    """A device writes over the instructions behind: as one by one."""
    load(vm, MOVSB, to=0, source=DEVICE, ecx=4, esi=0, edi=CODE + 2)
    end = vm.run()
    taken = b""
    while end.reason is ExitReason.MMIO_READ:
        vm.engine.answer((b"\x43\x43\xf4\xf4")[len(taken) : len(taken) + end.count])
        taken += bytes(end.count)
        end = vm.run()
    assert (end.reason, vm.state.ebx) == (ExitReason.HALT, 2)  # inc bx; inc bx; hlt


def test_the_map_may_change_with_the_answer(vm):
    """What was memory is a device now: the block that was read goes there, each element once."""
    load(vm, MOVSB, to=BUFFER, source=DEVICE, ecx=3, esi=0, edi=0)
    assert vm.run().count == 3
    vm.remap(Region(BUFFER, 0x1000, RegionKind.MMIO), Region(DEVICE, 0x10000, RegionKind.MMIO))
    vm.engine.answer(b"abc")
    writes = []
    while (end := vm.run()).reason is ExitReason.MMIO_WRITE:
        writes.append((end.address, end.data))
        vm.engine.answer()
    assert (end.reason, writes) == (ExitReason.HALT, [(BUFFER, b"a"), (BUFFER + 1, b"b"), (BUFFER + 2, b"c")])


def test_paging_faults_come_before_the_device_is_asked(vm):
    """Each page of the destination is walked before the device is read for it."""
    table, directory = 0x31000, 0x30000
    for n in range(256):
        vm.ram[table + 4 * n : table + 4 * n + 4] = (n << 12 | 3).to_bytes(4, "little")
    vm.ram[table + 4 * 0x21 : table + 4 * 0x21 + 4] = bytes(4)  # page 21h is not there
    vm.ram[directory : directory + 4] = (table | 3).to_bytes(4, "little")
    state = protected_mode(ecx=8, esi=DEVICE, edi=BUFFER + 0xFFC)
    state.cr0, state.cr3 = 0x80000011, directory
    vm.load(MOVSB + HLT, state)
    end = vm.run()
    assert (end.reason, end.count) == (ExitReason.MMIO_READ, 4)
    vm.engine.answer(b"wxyz")
    end = vm.run(budget=5)
    assert end.reason is not ExitReason.MMIO_READ
    assert vm.ram[BUFFER + 0xFFC : BUFFER + 0x1000] == b"wxyz"
    assert vm.state.cr2 == BUFFER + 0x1000


def test_mmio_on_behalf_of_a_failed_exit_takes_one_element(vm):
    load(vm, STOSB, ecx=3, edi=0)
    assert vm.run(mmio=DEVICE, budget=1).count == 1
    load(vm, STOSB, ecx=3, edi=0)
    end = vm.run(mmio=DEVICE + 0x1000, budget=1)
    assert (end.reason, end.address) == (ExitReason.MMIO_MISMATCH, DEVICE)


@pytest.mark.parametrize("seed", range(40))
def test_blocks_are_as_one_by_one(vm, seed):
    """Random string instructions: the same accesses, memory and registers with large budgets and with single steps."""
    rng = random.Random(seed)
    code = rng.choice([MOVSB, MOVSW, MOVSD, STOSB, STOSW, STOSD, LODSB, LODSD])
    sides = rng.choice([(DEVICE, BUFFER), (BUFFER, DEVICE), (DEVICE, DEVICE), (BUFFER, BUFFER)])
    registers = {
        "ecx": rng.choice([0, 1, 2, 3, 17, 200, 700]),
        "esi": rng.choice([0, 1, 0xFF0, 0xFFF, 0x1FFD, 0x8000]),
        "edi": rng.choice([0, 3, 0xFEE, 0x1FFF, 0x4000]),
        "eax": rng.getrandbits(32),
    }
    down = rng.random() < 0.4
    results = []
    for options in ({}, {"budget": 1}, {"budget": rng.choice([2, 5, 33])}):
        vm.ram[BUFFER : BUFFER + 0x10000] = bytes(n * 7 & 0xFF for n in range(0x10000))
        load(vm, code, to=sides[0], source=sides[1], down=down, **registers)
        device = finish(vm, **options)
        results.append((device.accesses, vm.state, bytes(vm.ram)))
    assert results[0][0] == results[1][0] == results[2][0]
    assert results[0][1] == results[1][1] == results[2][1]
    assert results[0][2] == results[1][2] == results[2][2]
