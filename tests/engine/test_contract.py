"""What every engine promises (dm.engine.api), with small programs; both engines run all of it."""

import itertools
import random
import threading

import pytest

from dm.engine.api import QUESTIONS, Engine, ExitReason, MemoryMap, Region, RegionKind, Until
from dm.machine.state import FIELDS, Activity, EventType, Segment, State

CODE = 0x7C00
RAM = 0x100000
MMIO = Region(0xA0000, 0x10000, RegionKind.MMIO)


def random_state(rng):
    s = State()
    for row in FIELDS:
        if row.name.startswith("seg."):
            continue
        if row.blob:
            value = rng.randbytes(row.count)
        elif row.count:
            value = [rng.getrandbits(row.width) for _ in range(row.count)]
        else:
            value = rng.getrandbits(row.width)
        setattr(s, row.name, value)
    s.seg = [Segment(*(rng.getrandbits(w) for w in (16, 64, 32, 16, 1))) for _ in s.seg]
    return s


def test_is_an_engine(vm):
    assert isinstance(vm.engine, Engine)


def test_any_state_comes_back_unchanged_after_zero_steps(vm):
    rng = random.Random(1)
    for _ in range(50):
        s = random_state(rng)
        vm.engine.set_state(s)
        assert vm.engine.get_state() == s
        end = vm.run(budget=0)
        assert end.reason in (ExitReason.BUDGET, ExitReason.ENTERABLE)
        assert (end.steps, end.instructions, end.pages, end.posted) == (0, 0, (), ())
        assert vm.engine.get_state() == s


def test_a_value_too_wide_is_refused_and_changes_nothing(vm):
    vm.load("f4")
    before = vm.state
    for name, value in (("cpl", 4), ("cr0", 1 << 64), ("inject_vector", 256), ("tsc", -1), ("fxsave", b"")):
        bad = before.copy()
        setattr(bad, name, value)
        with pytest.raises(ValueError, match=name):
            vm.engine.set_state(bad)
    bad = before.copy()
    bad.ss.unusable = 2
    with pytest.raises(ValueError, match="unusable"):
        vm.engine.set_state(bad)
    assert vm.state == before


def test_a_loop(vm):
    # mov cx,1000; l: add ax,cx; dec cx; jnz l; mov [500h],ax; hlt
    vm.load("b9e803 01c8 49 75fb a30005 f4")
    end = vm.run()
    assert end.reason is ExitReason.HALT
    assert end.steps == end.instructions == 1 + 3000 + 2
    assert vm.state.ax == sum(range(1001)) & 0xFFFF
    assert vm.state.activity == Activity.HALTED
    assert int.from_bytes(vm.ram[0x500:0x502], "little") == vm.state.ax


def test_ports(vm):
    # in al,60h; out 80h,al; mov dx,1234h; in eax,dx; out dx,ax; hlt
    vm.load("e460 e680 ba3412 66ed ef f4")
    end = vm.run()
    assert (end.reason, end.address, end.size, end.count) == (ExitReason.PORT_IN, 0x60, 1, 1)
    assert vm.state.eip == CODE
    vm.engine.answer(b"\x42")
    end = vm.run()
    assert (end.reason, end.address, end.data, end.steps) == (ExitReason.PORT_OUT, 0x80, b"\x42", 1)
    vm.engine.answer()
    end = vm.run()
    assert (end.reason, end.address, end.size) == (ExitReason.PORT_IN, 0x1234, 4)
    vm.engine.answer(b"\x78\x56\x34\x12")
    end = vm.run()
    assert (end.reason, end.data) == (ExitReason.PORT_OUT, b"\x78\x56")
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.eax == 0x12345678


def test_misuse_is_refused(vm):
    vm.load("e460 f4")
    with pytest.raises(ValueError, match="no question"):
        vm.engine.answer(b"")
    vm.run()
    with pytest.raises(ValueError, match="open"):
        vm.run()
    with pytest.raises(ValueError, match="bytes"):
        vm.engine.answer(b"12")
    with pytest.raises(ValueError, match="MSR"):
        vm.engine.answer(fault=True)
    with pytest.raises(ValueError, match="question"):
        vm.engine.inject(EventType.EXTERNAL, 8)
    vm.engine.answer(b"\x01")
    with pytest.raises(ValueError):
        vm.engine.answer(b"\x01")
    assert vm.run().reason is ExitReason.HALT


# ------------------------------------------------------------------------------------------------ budgets

#: Loops, REP, CALL and RET, segment loads, INT with IRET, a fault, a page-crossing instruction.
PROGRAM = bytes.fromhex(
    "fc bf0020 b90700 b85a5a f3ab"  # cld; mov di,2000h; mov cx,7; mov ax,5a5ah; rep stosw
    " e80000"  # call f, see start
    " 1e 0e 1f 1f"  # push ds; push cs; pop ds; pop ds
    " cd40 cd40"  # int 40h, twice
    " be0020 bf0030 b90500 f3a4"  # rep movsb
    " b90a00 49 75fd"  # mov cx,10; dec cx; jnz
    " fb fa 9c 9d"  # sti; cli; pushf; popf
    " ff360020 8f060230"  # push [2000h]; pop [3002h]
    " eb03"  # jmp over f
    " 40 40 c3"  # f: inc ax; inc ax; ret
    " 0f0b"  # ud2: its handler halts
)


def start(vm):
    f = PROGRAM.index(bytes.fromhex("4040c3"))
    call = PROGRAM.index(b"\xe8")
    program = bytearray(PROGRAM)
    program[call + 1 : call + 3] = (f - call - 3).to_bytes(2, "little")
    vm.ram[0x2000:0x4000] = bytes(0x2000)
    vm.ram[0x6000:0x7100] = bytes(0x1100)
    vm.ram[4 * 0x40 : 4 * 0x40 + 4] = (0x1200).to_bytes(4, "little")
    vm.ram[0x1200:0x1202] = b"\x42\xcf"  # inc dx; iret
    vm.load(bytes(program))


def test_budget_is_exact_and_splitting_it_changes_nothing(vm):
    start(vm)
    end = vm.run()
    assert end.reason is ExitReason.HALT
    assert vm.fault() == 6
    total, last, ram = end.steps, vm.state, bytes(vm.ram)
    start(vm)
    for n in range(total):
        end = vm.run(budget=1)
        assert (end.reason, end.steps) == (ExitReason.BUDGET, 1), n
    assert vm.run(budget=0).reason is ExitReason.BUDGET
    assert (vm.run().reason, vm.state, bytes(vm.ram)) == (ExitReason.HALT, last, ram)
    for first in range(0, total, 3):
        start(vm)
        a, b = vm.run(budget=first), vm.run()
        assert (a.reason, a.steps, a.steps + b.steps) == (ExitReason.BUDGET, first, total)
        assert (vm.state, bytes(vm.ram)) == (last, ram)


def test_a_fault_is_one_step_and_no_instruction(vm):
    vm.load("90 0f0b")
    end = vm.run(budget=2)
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 2, 1)
    assert vm.state.eip == 0x1006
    assert int.from_bytes(vm.ram[0x6FFA:0x6FFC], "little") == CODE + 1


def test_an_endless_fault_uses_up_the_budget(vm):
    vm.ram[4 * 6 : 4 * 6 + 4] = CODE.to_bytes(4, "little")
    vm.load("0f0b")
    end = vm.run(budget=1000)
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 1000, 0)


def test_rep_stops_at_iterations(vm):
    vm.load("f3aa f4", di=0x2000, cx=10, ax=0x55)
    end = vm.run(budget=4)
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 4, 0)
    assert (vm.state.cx, vm.state.di, vm.state.eip) == (6, 0x2004, CODE)
    end = vm.run()
    assert (end.steps, end.instructions) == (7, 2)
    assert vm.ram[0x2000:0x200B] == b"\x55" * 10 + b"\0"


def test_kick_stops_an_endless_loop(vm):
    vm.load("ebfe")
    timer = threading.Timer(0.05, vm.engine.kick)
    timer.start()
    assert vm.run().reason is ExitReason.KICKED
    vm.engine.kick()
    assert vm.run().reason is ExitReason.KICKED
    end = vm.run(budget=10)
    assert (end.reason, end.steps) == (ExitReason.BUDGET, 10)


# ------------------------------------------------------------------------------------------------ device memory


class Devices:
    """Answers questions with numbers and keeps a log of all accesses."""

    def __init__(self):
        self.log = []
        self.next = 0x11

    def __call__(self, end):
        data = b""
        if end.reason in (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ):
            data = bytes((self.next + n) & 0xFF for n in range(end.size * end.count))
            self.next += len(data)
        self.log.append((str(end.reason), end.address, end.size, end.count, data or end.data))
        return data


#: ds = a000h.  rmw, exchange, push, pop, string, far pointer, split accesses, port strings on device memory.
DEVICE_PROGRAMS = {
    "add [0],ax": "0106 0000 f4",
    "xchg [2],ax": "8706 0200 f4",
    "push [4]": "ff36 0400 f4",
    "pop [6]": "8f06 0600 f4",
    "movsw, es = ds": "a5 f4",
    "rep movsw, 3 times": "b90300 f3a5 f4",
    "les bx,[8]": "c41e 0800 f4",
    "mov eax,[fff] across a page": "66a1 ff0f f4",
    "mov [fff],eax across a page": "66a3 ff0f f4",
    "lock inc dword [10]": "66f0ff06 1000 f4",
    "insb to device": "6c f4",
    "outsw from device": "6f f4",
    "cmpsb": "a6 f4",
    "cmpxchg8b [20]": "0fc70e 2000 f4",
}


def device_start(vm, code):
    vm.remap(MMIO)
    vm.load(code, ax=0x1234, dx=0x3F8, si=0x100, di=0x200, sp=0x7000)
    s = vm.state
    for seg in (s.ds, s.es):
        seg.selector, seg.base = 0xA000, 0xA0000
    vm.engine.set_state(s)


def device_run(vm, disturb=None):
    devices = Devices()
    while True:
        end = vm.run()
        if end.reason not in QUESTIONS:
            assert end.reason is ExitReason.HALT
            return devices.log, vm.state, bytes(vm.ram)
        if disturb:
            disturb(vm, end)
        vm.engine.answer(devices(end))


@pytest.mark.parametrize("code", DEVICE_PROGRAMS.values(), ids=DEVICE_PROGRAMS)
def test_each_device_access_happens_once_and_in_order(vm, code):
    device_start(vm, code)
    log, last, _ = device_run(vm)
    assert log
    for kind, address, size, count, data in log:
        assert len(data) == size * count
        assert address == 0x3F8 or (kind.startswith("mmio") and 0xA0000 <= address < 0xA2000)
    assert last.eip == CODE + len(bytes.fromhex(code))


@pytest.mark.parametrize("code", DEVICE_PROGRAMS.values(), ids=DEVICE_PROGRAMS)
def test_memory_that_changes_during_a_question_changes_nothing(vm, code):
    """The replay uses the inputs the instruction has had (its stack and operands), not what lies there now."""
    device_start(vm, code)
    expected, last, _ = device_run(vm)
    device_start(vm, code)

    def scribble(vm, end):
        vm.ram[0x6000:0x6FF0] = b"\xcc" * 0xFF0

    assert device_run(vm, scribble)[:2] == (expected, last)


@pytest.mark.parametrize("code", DEVICE_PROGRAMS.values(), ids=DEVICE_PROGRAMS)
def test_the_state_during_a_question_is_that_before_the_instruction(vm, code):
    device_start(vm, code)
    expected, last, _ = device_run(vm)
    for stop in range(len(expected)):
        device_start(vm, code)
        devices = Devices()
        for _ in range(stop):
            end = vm.run()
            vm.engine.answer(devices(end))
        before = vm.run()
        assert before.reason in QUESTIONS
        seen = vm.state
        ram_seen = bytes(vm.ram)
        # Given up there and started over, the instruction asks all of its own questions again.
        vm.engine.set_state(seen)
        assert vm.state == seen
        again = vm.run()
        assert again.reason in QUESTIONS
        assert bytes(vm.ram) == ram_seen
        assert seen.eip < last.eip


def test_block_in_and_out(vm):
    # rep insb to 2000h; mov si,2000h; mov cx,5; rep outsw; hlt
    vm.load("f36c be0020 b90500 f36f f4", cx=10, dx=0x1F0, di=0x2000)
    end = vm.run()
    assert (end.reason, end.address, end.size, end.count) == (ExitReason.PORT_IN, 0x1F0, 1, 10)
    vm.engine.answer(b"0123456789")
    end = vm.run()
    assert (end.reason, end.size, end.count, end.data) == (ExitReason.PORT_OUT, 2, 5, b"0123456789")
    assert end.steps == 12
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert (vm.state.si, vm.state.di, vm.state.cx) == (0x200A, 0x200A, 0)


def test_block_in_asks_only_for_what_can_be_stored(vm):
    vm.remap(MMIO)
    # downwards, across the page at 2000h; then up to the segment's end and beyond
    vm.load("fd f36c fc f4", cx=6, dx=0x1F0, di=0x2002)
    end = vm.run()
    assert end.count == 3
    vm.engine.answer(b"abc")
    end = vm.run()
    assert end.count == 3
    vm.engine.answer(b"def")
    assert vm.run().reason is ExitReason.HALT
    assert vm.ram[0x1FFD:0x2003] == b"fedcba"
    vm.load("f36d f4", cx=6, dx=0x1F0, di=0xFFFA)
    s = vm.state
    s.es.limit = 0xFFFD
    vm.engine.set_state(s)
    end = vm.run()
    assert (end.size, end.count) == (2, 2)
    vm.engine.answer(b"abcd")
    assert vm.run().reason is ExitReason.HALT
    assert vm.fault() == 13
    assert (vm.state.cx, vm.state.di) == (4, 0xFFFE)


def test_block_in_keeps_to_the_budget(vm):
    vm.load("f36c f4", cx=100, dx=0x1F0, di=0x2000)
    end = vm.run(budget=7)
    assert (end.reason, end.count) == (ExitReason.PORT_IN, 7)
    vm.engine.answer(bytes(7))
    end = vm.run(budget=0)
    assert (end.reason, end.steps, vm.state.cx) == (ExitReason.BUDGET, 7, 93)


def test_an_open_instruction_has_been_paid_for(vm):
    vm.load("e460 90 90 f4")
    vm.run(budget=1)
    vm.engine.answer(b"\1")
    end = vm.run(budget=0)
    assert (end.reason, end.steps, vm.state.eip) == (ExitReason.BUDGET, 1, CODE + 2)


def test_map_change_between_question_and_answer(vm):
    # insb to 50000h, whose page becomes a device before the answer, and the other way round
    for before, after, expected in ((None, MMIO, 1), (MMIO, None, 0)):
        vm.remap(*([before] if before else []))
        vm.load("6c f4", di=0, dx=0x60)
        s = vm.state
        s.es.base = 0xA0000
        vm.engine.set_state(s)
        vm.ram[0xA0000] = 0
        end = vm.run()
        assert end.reason is ExitReason.PORT_IN
        vm.remap(*([after] if after else []))
        vm.engine.answer(b"\x77")
        end = vm.run()
        if expected:
            assert (end.reason, end.address, end.data) == (ExitReason.MMIO_WRITE, 0xA0000, b"\x77")
            assert vm.ram[0xA0000] == 0
            vm.engine.answer()
            end = vm.run()
        assert end.reason is ExitReason.HALT
        assert vm.ram[0xA0000] == (0 if expected else 0x77)


def test_rom_reads_and_runs_and_writes_exit(vm):
    rom = bytearray(0x1000)
    rom[:7] = bytes.fromhex("a0 0300 2ea2 0300".replace(" ", ""))  # mov al,[3]; mov cs:[3],al
    rom[7] = 0xF4
    vm.remap(Region(0xC0000, 0x1000, RegionKind.ROM, rom))
    vm.load("ea 0000 00c0")
    end = vm.run()
    assert (end.reason, end.address, end.size) == (ExitReason.MMIO_WRITE, 0xC0003, 1)
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert rom[3] == 0x2E


def test_holes_and_code_in_device_memory(vm):
    # jmp 2000:0 is beyond RAM with a20: nothing is there; each byte of the instruction is asked for
    vm.remap(MMIO)
    vm.load("ea 0000 00a0")
    answers = itertools.chain(bytes.fromhex("b0 5a f4".replace(" ", "")))
    asked = []
    while True:
        end = vm.run()
        if end.reason is not ExitReason.MMIO_READ:
            break
        asked.append((end.address, end.size))
        vm.engine.answer(bytes([next(answers)]))
    assert end.reason is ExitReason.HALT
    assert asked == [(0xA0000, 1), (0xA0001, 1), (0xA0002, 1)]
    assert vm.state.ax & 0xFF == 0x5A


def test_coalesced_writes_are_posted_in_order_before_the_question(vm):
    vm.remap(Region(0xB0000, 0x10000, RegionKind.COALESCED))
    # mov [0],al; mov [2],ax; stosb es:di; in al,60h; mov [0],al; hlt
    vm.load("a20000 a30200 aa e460 a20000 f4", ax=0x1234, di=0x10)
    s = vm.state
    s.ds.base = s.es.base = 0xB8000
    vm.engine.set_state(s)
    end = vm.run()
    assert end.reason is ExitReason.PORT_IN
    assert end.posted == ((0xB8000, b"\x34"), (0xB8002, b"\x34\x12"), (0xB8010, b"\x34"))
    vm.engine.answer(b"\x01")
    end = vm.run()
    assert (end.reason, end.posted) == (ExitReason.HALT, ((0xB8000, b"\x01"),))


def test_no_coalesced_write_is_ever_lost(vm):
    vm.remap(Region(0xB0000, 0x10000, RegionKind.COALESCED))
    vm.load("f3aa f4", cx=20000, ax=0x41)
    s = vm.state
    s.es.base = 0xB0000
    vm.engine.set_state(s)
    posted = []
    for _ in range(1000):
        end = vm.run()
        posted += end.posted
        if end.reason is ExitReason.HALT:
            break
        assert end.reason is ExitReason.KICKED
    assert posted == [(0xB0000 + n, b"\x41") for n in range(20000)]


def test_hypervisor_region_ends_the_run_before_the_instruction(vm):
    vm.remap(Region(0xA0000, 0x1000, RegionKind.HYPERVISOR))
    for code in ("0106 0000", "a5", "ff36 0000", "a20000"):
        vm.load(code + "f4")
        s = vm.state
        s.ds.base = 0xA0000
        vm.engine.set_state(s)
        end = vm.run()
        assert (end.reason, end.address & ~0xF, end.steps) == (ExitReason.HYPERVISOR, 0xA0000, 0)
        assert vm.state == s


def test_firmware_region_ends_the_run_at_the_fetch(vm):
    image = bytearray(b"\xf4" * 0x1000)
    vm.remap(Region(0xF0000, 0x1000, RegionKind.FIRMWARE, image))
    vm.load("a0 0300 ea 5000 00f0")
    end = vm.run()
    assert (end.reason, end.address, end.steps) == (ExitReason.FIRMWARE, 0xF0050, 2)
    assert (vm.state.cs.selector, vm.state.eip) == (0xF000, 0x50)


def test_written_pages_are_reported_once_per_run(vm):
    # mov [2000h],ax; mov [2002h],ax; push ax; in al,60h; mov [2000h],ax; mov [5fffh],ax; hlt
    vm.load("a30020 a30220 50 e460 a30020 a3ff5f f4")
    end = vm.run()
    assert end.pages == (2, 6)
    vm.engine.answer(b"\0")
    end = vm.run()
    assert end.pages == (2, 5, 6)
    assert vm.run(budget=0).pages == ()


def test_a20_masks_physical_addresses(vm):
    # mov ax,ffffh; mov ds,ax; mov ax,[510h]; hlt
    vm.ram[0x500:0x502] = b"\xcd\xab"
    vm.remap(a20=False)
    vm.load("b8ffff 8ed8 a11005 f4")
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax == 0xABCD
    vm.remap()
    vm.load("b8ffff 8ed8 a11005 f4")
    end = vm.run()
    assert (end.reason, end.address, end.size) == (ExitReason.MMIO_READ, 0x100500, 2)


# ------------------------------------------------------------------------------------------------ self-modifying code


def test_code_that_changes_the_next_instruction(vm):
    # mov byte [L+1],42h; L: mov al,0; hlt   (all in one block)
    vm.load("c606 067c 42 b000 f4")
    for _ in range(2):
        assert vm.run().reason is ExitReason.HALT
        assert vm.state.ax & 0xFF == 0x42
        vm.load("c606 067c 42 b000 f4")


def test_a_loop_that_changes_its_own_body(vm):
    # mov cx,9; L: add al,0; inc byte [L+1]; loop L; hlt
    vm.load("b90900 0400 fe06 047c e2f8 f4", ax=0)
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax & 0xFF == sum(range(9))


def test_data_in_the_same_line_as_code(vm):
    # mov cx,1000; L: inc word [V]; dec cx; jnz L; hlt; V:
    vm.load("b9e803 ff06 0d7c 49 75f9 f4 9090 0000")
    assert vm.run().reason is ExitReason.HALT
    assert vm.ram[CODE + 13 : CODE + 15] == (1000).to_bytes(2, "little")


def test_code_changed_from_outside_between_runs(vm):
    vm.load("b001 ebfc")
    vm.run(budget=100)
    vm.ram[CODE + 1] = 7
    vm.run(budget=100)
    assert vm.state.ax & 0xFF == 7


def test_code_changed_through_another_segment_and_a_page_crossing_store(vm):
    # at 1fff0: es:[..] store of 4 bytes from 7ffe to 8001 overwrites the code at 8000
    vm.ram[0x8000:0x8003] = bytes.fromhex("b011 c3".replace(" ", ""))
    # call 8000; mov dword [7ffe],22b0xxxx; call 8000; hlt
    vm.load("e8fd03 66c706fe7f 0000b022 e8f103 f4")
    vm.ram[0x8000] = 0xB0
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax & 0xFF == 0x22


def test_rep_stos_over_its_own_code(vm):
    """The running instruction was fetched before: it ends its iteration, the next one sees the new bytes."""
    vm.load("f3aa f4", cx=5, di=CODE, ax=0x90)
    vm.ram[CODE + 2 : CODE + 8] = b"\xf4" * 6
    end = vm.run()
    assert end.reason is ExitReason.HALT
    # The first iteration made byte 0 a NOP; then AA alone stores once more, and so on.
    assert vm.ram[CODE] == 0x90
    assert vm.state.cx == 4


# ------------------------------------------------------------------------------------------------ fetching


def test_cs_limit_stops_the_fetch(vm):
    vm.load("90 90 90", at=0xFFFD)
    s = vm.state
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), int.from_bytes(vm.ram[0x6FFA:0x6FFC], "little")) == (13, 0)
    s.rip, s.cs.limit = CODE, CODE + 1
    vm.ram[CODE : CODE + 3] = bytes.fromhex("90b90000")[:3]
    vm.engine.set_state(s)
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), int.from_bytes(vm.ram[0x6FFA:0x6FFC], "little")) == (13, CODE + 1)


def test_sixteen_bytes_are_too_many(vm):
    vm.load(b"\x26" * 14 + b"\x90\xf4")
    assert vm.run().reason is ExitReason.HALT
    assert vm.fault() is None
    vm.load(b"\x26" * 15 + b"\x90\xf4")
    assert vm.run().reason is ExitReason.HALT
    assert vm.fault() == 13


def test_bytes_given_with_the_run_win_once(vm):
    vm.load("b001 b002 f4")
    end = vm.run(budget=1, code=bytes.fromhex("b055"))
    assert (end.steps, vm.state.ax & 0xFF, vm.state.eip) == (1, 0x55, CODE + 2)
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax & 0xFF == 2


def test_instructions_across_a_page(vm):
    vm.ram[0x8FFE:0x9004] = bytes.fromhex("b83412 48 ebfa")
    vm.load(b"", at=0x8FFE)
    end = vm.run(budget=301)
    assert (end.steps, vm.state.eip, vm.state.ax) == (301, 0x9001, 0x1234)


# ------------------------------------------------------------------------------------------------ paging


def paged(vm, code):
    """32-bit flat code with paging: identity for the first megabyte, page table at 11000h, directory at 10000h."""
    s = State.reset()
    s.cr0, s.cr3 = 0x80000011, 0x10000
    for seg in s.seg[:6]:
        seg.selector, seg.base, seg.limit, seg.attributes = 8, 0, 0xFFFFFFFF, 0xC093
    s.cs.attributes, s.cs.selector = 0xC09B, 16
    s.rip, s.esp = CODE, 0x7000
    vm.ram[0x10000:0x12000] = bytes(0x2000)
    vm.ram[0x10000:0x10004] = (0x11003).to_bytes(4, "little")
    for n in range(256):
        vm.ram[0x11000 + 4 * n : 0x11004 + 4 * n] = (n << 12 | 3).to_bytes(4, "little")
    # IDT at 12000h: every vector to a handler that halts at 1000h + vector; GDT at 13000h with code at 16
    for n in range(32):
        vm.ram[0x12000 + 8 * n : 0x12008 + 8 * n] = (0x1000 + n | 16 << 16 | 0x8E00 << 32).to_bytes(8, "little")
    vm.ram[0x13010:0x13018] = bytes.fromhex("ffff0000009bcf00")
    s.idtr_base, s.idtr_limit, s.gdtr_base, s.gdtr_limit = 0x12000, 0xFF, 0x13000, 0xFF
    vm.load(code, s)


def unmap(vm, page):
    vm.ram[0x11000 + 4 * page : 0x11004 + 4 * page] = bytes(4)


def test_accessed_and_dirty_bits(vm):
    # mov eax,[20000h]; mov [21000h],eax; hlt
    paged(vm, "a100000200 a300100200 f4")
    end = vm.run()
    assert end.reason is ExitReason.HALT
    assert [vm.ram[0x11000 + 4 * n] & 0x60 for n in (0x20, 0x21, 0x22)] == [0x20, 0x60, 0]
    assert set(end.pages) >= {0x11, 0x21}


def test_a_store_across_a_page_is_checked_in_full_first(vm):
    # mov dword [20ffeh],-1; hlt
    paged(vm, "c705 fe0f0200 ffffffff f4")
    unmap(vm, 0x21)
    before = bytes(vm.ram[0x20FF0:0x21010])
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), vm.state.cr2) == (14, 0x21000)
    assert vm.ram[0x20FF0:0x21010] == before


def test_page_fault_in_the_middle_of_an_instruction_fetch(vm):
    paged(vm, "90")
    vm.ram[0x20FFE:0x21003] = bytes.fromhex("b811223344")
    s = vm.state
    s.rip = 0x20FFE
    vm.engine.set_state(s)
    unmap(vm, 0x21)
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), vm.state.cr2) == (14, 0x21000)
    error, eip = (int.from_bytes(vm.ram[at : at + 4], "little") for at in (0x7000 - 16, 0x7000 - 12))
    assert (error & 1, eip) == (0, 0x20FFE)


def test_tlb_keeps_until_invlpg(vm):
    # mov al,[20000h]; mov dword [11080h],22003h; invlpg [20000h]; mov ah,[20000h]; hlt
    paged(vm, "a000000200 c70580100100 03200200 0f013d00000200 8a2500000200 f4")
    vm.ram[0x20000], vm.ram[0x22000] = 1, 2
    end = vm.run()
    assert end.reason is ExitReason.HALT
    assert vm.state.ax == 0x0201
    assert end.tlb_flush


def test_invlpg_forgets_all_of_a_large_page(vm):
    """SDM vol. 3A, 4.10.4.1: all translations for a page, also where it is cached in pieces."""
    # mov al,[420000h]; mov dword [10004h],14003h; invlpg [421000h]; mov ah,[420000h]; hlt
    paged(vm, "a000004200 c7050400010003400100 0f013d00104200 8a2500004200 f4")
    state = vm.state
    state.cr4 = 0x10  # PSE: 400000h is a page of 4 MiB, later one that a table maps
    vm.engine.set_state(state)
    vm.ram[0x10004:0x10008] = (0x83).to_bytes(4, "little")
    vm.ram[0x14000 + 4 * 0x20 : 0x14004 + 4 * 0x20] = (0x22003).to_bytes(4, "little")
    vm.ram[0x20000], vm.ram[0x22000] = 1, 2
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax == 0x0201


def test_code_seen_through_two_addresses(vm):
    """A store through an alias changes code that was decoded through another linear address."""
    # call 30000h; mov byte [50001h],42h; call 30000h; hlt   with 50000h mapped to 30000h
    paged(vm, "e8fb830200 c60501000500 42 e8ef830200 f4")
    vm.ram[0x11000 + 4 * 0x50 : 0x11004 + 4 * 0x50] = (0x30003).to_bytes(4, "little")
    vm.ram[0x30000:0x30003] = bytes.fromhex("b011c3")
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax & 0xFF == 0x42


# ------------------------------------------------------------------------------------------------ events


def test_inject_and_window(vm):
    # sti; nop; nop; cli; hlt
    vm.load("fb 90 90 fa f4")
    end = vm.run(window=True)
    assert (end.reason, end.steps, vm.state.eip) == (ExitReason.INTERRUPT_WINDOW, 2, CODE + 2)
    vm.engine.inject(EventType.EXTERNAL, 0x40)
    with pytest.raises(ValueError, match="pending"):
        vm.engine.inject(EventType.EXTERNAL, 0x41)
    assert vm.run().reason is ExitReason.HALT
    assert vm.fault() == 0x40


def test_single_step_and_shadow(vm):
    # TF: mov ss,ax; mov sp,7000h; nop: the trap comes one instruction later
    vm.load("8ed0 bc0070 90 f4", rflags=0x102)
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), int.from_bytes(vm.ram[0x6FFA:0x6FFC], "little")) == (1, CODE + 5)
    assert vm.state.dr6 & 0x4000


def test_data_breakpoint_traps_after_the_store(vm):
    vm.load("a30020 90 f4")
    s = vm.state
    s.dr[0], s.dr7 = 0x2001, 0x400 | 1 | 1 << 16
    vm.engine.set_state(s)
    assert vm.run().reason is ExitReason.HALT
    assert (vm.fault(), int.from_bytes(vm.ram[0x6FFA:0x6FFC], "little")) == (1, CODE + 3)
    assert vm.state.dr6 & 0xF == 1


def test_a_fault_leaves_everything_as_it_was(vm):
    # stack limit: pusha with room for three words only
    vm.load("60 f4", sp=6, ax=1, cx=2)
    s = vm.state
    s.ss.limit = 0xFFF0
    vm.engine.set_state(s)
    ram = bytes(vm.ram)
    end = vm.run()
    # #SS in real mode has no stack either: shutdown
    assert end.reason in (ExitReason.SHUTDOWN, ExitReason.HALT)
    assert bytes(vm.ram[0xFFF0:0x10000]) == ram[0xFFF0:0x10000]


def test_nmi_stays_unblocked_by_an_iret_that_faults(vm):
    vm.load("cf")
    s = vm.state
    s.nmi_blocked, s.esp = 1, 0xFFFE
    s.ss.limit = 0x7FFF
    vm.engine.set_state(s)
    vm.run()
    assert vm.state.nmi_blocked == 0


# ------------------------------------------------------------------------------------------------ ending a run


def test_until_protected_and_progress(vm):
    # mov eax,cr0; or al,1; mov cr0,eax; jmp 8:x
    vm.ram[0x13008:0x13010] = bytes.fromhex("ffff0000009b0000")
    vm.load("0f20c0 0c01 0f22c0 ea 0d7c 0800 90 f4")
    s = vm.state
    s.gdtr_base, s.gdtr_limit = 0x13000, 0xFF
    vm.engine.set_state(s)
    end = vm.run(until=Until.PROTECTED)
    assert (end.reason, end.steps, vm.state.cs.selector) == (ExitReason.ENTERABLE, 4, 8)
    end = vm.run(until=Until.PROTECTED)
    assert (end.reason, end.steps) == (ExitReason.ENTERABLE, 0)
    end = vm.run(until=Until.PROTECTED, progress=True)
    assert (end.reason, end.steps) == (ExitReason.ENTERABLE, 1)


def test_until_vmx_in_real_mode_sees_segment_loads(vm):
    # mov ds,ax makes the last segment one that VMX can run
    vm.load("90 8ed8 90 f4", ax=0x2000)
    s = vm.state
    s.ds.base = 0x12345
    s.ldtr.attributes, s.tr.attributes = 0x82, 0x8B
    vm.engine.set_state(s)
    end = vm.run(until=Until.VMX)
    assert (end.reason, end.steps, vm.state.eip) == (ExitReason.ENTERABLE, 2, CODE + 3)


def test_mmio_hint(vm):
    vm.remap(MMIO)
    vm.load("a2 0000 f4", ax=0x77)
    s = vm.state
    s.ds.base = 0xA0000
    vm.engine.set_state(s)
    end = vm.run(mmio=0xA0001)
    assert (end.reason, end.steps) == (ExitReason.MMIO_MISMATCH, 0)
    assert vm.state == s
    end = vm.run(mmio=0xA0000)
    assert (end.reason, end.data) == (ExitReason.MMIO_WRITE, b"\x77")
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    vm.load("50 f4")
    s, ram = vm.state, bytes(vm.ram)
    assert vm.run(mmio=0xA0000).reason is ExitReason.MMIO_MISMATCH
    assert (vm.state, bytes(vm.ram)) == (s, ram)


def test_a_run_ends_before_the_instruction_at_an_address(vm):
    vm.load("40 40 eb fc")  # inc ax; inc ax; jmp $-2: one address comes around
    end = vm.run(stop_at=CODE + 1)
    assert (end.reason, end.steps, vm.state.eip, vm.state.ax) == (ExitReason.DEBUG, 1, CODE + 1, 1)
    end = vm.run(stop_at=CODE + 1)
    assert (end.reason, end.steps) == (ExitReason.DEBUG, 0), "the first instruction counts too"
    end = vm.run(stop_at=CODE + 1, budget=2)
    assert (end.reason, end.steps) == (ExitReason.DEBUG, 0)
    end = vm.run(stop_at=CODE + 1, progress=True, until=Until.PROTECTED)
    assert (end.reason, end.steps, vm.state.ax) == (ExitReason.DEBUG, 3, 3), "but where progress is asked for"
    end = vm.run(stop_at=CODE + 3, budget=100)
    assert (end.reason, end.steps) == (ExitReason.BUDGET, 100), "in the middle of an instruction there is none"
    s = vm.state
    assert (s.dr, s.dr6 & 15, s.dr7) == ([0] * 4, 0, State.reset().dr7)


def test_an_address_is_linear(vm):
    vm.load("90 90 f4")
    s = vm.state
    s.cs.base, s.rip = s.cs.base + s.rip & ~0xF, s.rip & 0xF
    vm.engine.set_state(s)
    end = vm.run(stop_at=s.cs.base + s.eip + 1)
    assert (end.reason, end.steps, vm.state.eip) == (ExitReason.DEBUG, 1, s.eip + 1)


def test_an_address_holds_over_a_question(vm):
    vm.load("e480 90 f4")  # in al,80h; nop; hlt
    assert vm.run(stop_at=CODE + 2).reason is ExitReason.PORT_IN
    vm.engine.answer(b"\x55")
    end = vm.run(stop_at=CODE + 2)
    assert (end.reason, vm.state.eip, vm.state.ax & 0xFF) == (ExitReason.DEBUG, CODE + 2, 0x55)


def test_msr_refused(vm):
    vm.load("0f32 f4", cx=0x1234)
    end = vm.run()
    assert (end.reason, end.address) == (ExitReason.MSR_READ, 0x1234)
    vm.engine.answer(fault=True)
    assert vm.run().reason is ExitReason.HALT
    assert vm.fault() == 13
    vm.load("0f30 f4", cx=0x1234, eax=0x89ABCDEF, edx=0x1234567)
    end = vm.run()
    assert (end.reason, end.data) == (ExitReason.MSR_WRITE, (0x123456789ABCDEF).to_bytes(8, "little"))
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT


def test_triple_fault_is_shutdown(vm):
    vm.load("0f0b")
    s = vm.state
    s.idtr_limit = 0
    vm.engine.set_state(s)
    end = vm.run()
    assert (end.reason, vm.state.activity) == (ExitReason.SHUTDOWN, Activity.SHUTDOWN)
    assert vm.run().reason is ExitReason.SHUTDOWN


def test_closed(vm):
    vm.engine.close()
    for call in (vm.engine.get_state, vm.engine.run, vm.engine.kick, lambda: vm.engine.set_map(MemoryMap(9, ()))):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_random_states_over_random_bytes_neither_crash_nor_hang(vm):
    """Whatever the guest holds, each run ends within its budget and the state stays one that can be set again."""
    rng = random.Random(11)
    for case in range(150):
        vm.ram[:] = rng.randbytes(1 << 14) * (RAM >> 14)
        vm.remap(MMIO, Region(0xB8000, 0x1000, RegionKind.COALESCED), a20=rng.random() < 0.9)
        s = random_state(rng)
        s.activity, s.inject_type, s.cr4 = 0, 255, s.cr4 & 0x7FF
        if case % 3:  # mostly states that get somewhere
            s.cr0 &= 0x7FFFFFFF if case % 3 == 1 else 0xFFFFFFFF
            s.rflags &= 0x40ED5
            s.dr7, s.pending_debug, s.shadow, s.cr3 = 0x400, 0, 0, 0x10000
            s.idtr_limit = 0xFFFF
            for seg in s.seg:
                seg.base, seg.unusable = rng.randrange(RAM), 0
                seg.attributes = seg.attributes & 0x4000 | 0x93
            s.cs.attributes |= 8
        vm.engine.set_state(s)
        open_steps = 0
        for _ in range(60):
            end = vm.run(budget=300)
            assert end.steps <= 300 + open_steps
            open_steps = end.count if end.reason in QUESTIONS else 0
            if end.reason in QUESTIONS:
                reads = end.reason in (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ)
                vm.engine.answer(rng.randbytes(end.size * end.count) if reads else b"")
            elif end.reason is not ExitReason.BUDGET:
                break
        last = vm.state
        vm.engine.set_state(last)
        assert vm.state == last
