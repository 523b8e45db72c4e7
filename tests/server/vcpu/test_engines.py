"""The daemon with the real engines: what crosses both the engine's interface and the wire."""

import threading

import pytest
from harness import Daemon

from dm.engine import native_status
from dm.machine.state import GROUPS, State, get_group
from dm.protocol import schema
from dm.protocol.schema import DoneReason, Event, IoKind, Kind, Reason, Region, Stop, Until
from dm.shim.answer import Answer
from dm.shim.client import Shim
from dm.shim.ram import Ram

SIZE = 1 << 20
CODE = 0x1000
MMIO = 0xC0000


@pytest.fixture(scope="module", params=["python", "native"])
def daemon(request, tmp_path_factory):
    if request.param == "native" and not native_status()[0]:
        pytest.skip(native_status()[1])
    with Daemon(tmp_path_factory.mktemp("d"), engine=request.param) as running:
        yield running


class Vm:
    """RAM below 640 KiB, coalesced memory, MMIO, a hypervisor's page and firmware; code at CODE."""

    def __init__(self, endpoint):
        """One for all tests: starting the Python engine takes a while."""
        self.shim = Shim.connect(endpoint)
        self.ram = Ram(SIZE)
        block = self.shim.add_ram(self.ram)
        self.regions = [
            Region(0, 0xA0000, Kind.RAM, block),
            Region(0xA0000, 0x20000, Kind.COALESCED),
            Region(MMIO, 0x10000, Kind.MMIO),
            Region(0xD0000, 0x1000, Kind.HYPERVISOR),
            Region(0xF0000, 0x1000, Kind.FIRMWARE, block, 0xF0000),
        ]

    def renew(self):
        """As after power-on, with a new vCPU."""
        self.ram.view[:] = bytes(SIZE)
        self.shim.set_map(self.regions)
        if self.shim.vcpus:
            self.shim.destroy_vcpu(0)
        self.vcpu = self.shim.create_vcpu(0)

    def load(self, code, at=CODE):
        data = bytes.fromhex(code)
        self.ram.view[at : at + len(data)] = data

    def start(self, **registers):
        state = State.reset()
        state.cs.selector, state.cs.base, state.rip = CODE >> 4, CODE, 0
        state.rsp = 0x800
        for name, value in registers.items():
            setattr(state, name, value)
        return state

    def close(self):
        self.shim.close()
        self.ram.close()


@pytest.fixture(scope="module")
def machine(daemon):
    one = Vm(daemon.endpoint)
    yield one
    one.close()


@pytest.fixture
def vm(machine):
    machine.renew()
    return machine


def segment(state, name, base):
    part = getattr(state, name)
    part.selector, part.base = base >> 4, base


def test_the_engine_is_named(vm, daemon):
    assert vm.shim.welcome.engine in ("python", "native")
    assert vm.shim.welcome.engine_note


def test_zero_steps_lose_nothing(vm):
    state = vm.start(rsi=0x1122334455667788, dr7=0x455, pat=0x0706050403020100, sysenter_eip=7, tsc_aux=9)
    state.gs.base, state.gs.limit, state.gs.attributes = 0xDEADBEEF, 0x12345, 0x4093
    state.fxsave = bytes(range(256)) * 2
    before = {group: get_group(state, group) for group in GROUPS}
    done = vm.vcpu.run(state, steps=0)
    assert (done.reason, done.state, done.steps) == (DoneReason.BUDGET, {}, 0)
    assert {group: get_group(state, group) for group in GROUPS} == before


def test_ports(vm):
    vm.load("B041 E680 E460 F4")  # mov al, 41h; out 80h, al; in al, 60h; hlt
    log = []
    state = vm.start()
    done = vm.vcpu.run(state, on_io=lambda io: log.append((io.kind, io.address, io.data)) or (b"\x55" * (not io.data)))
    assert log == [(IoKind.PORT_OUT, 0x80, b"A"), (IoKind.PORT_IN, 0x60, b"")]
    assert (done.reason, done.instructions, state.rax & 0xFF, state.rip) == (DoneReason.HALT, 4, 0x55, 7)


def test_thousands_of_exchanges_without_a_pause(vm):
    """Nobody waits long enough for ZeroMQ to look by itself whether the peer has read: sends must not starve."""
    vm.load("EC EBFD")  # in al, dx; jmp back
    state = vm.start()
    seen = []
    done = vm.vcpu.run(state, steps=10_000, on_io=lambda io: seen.append(io.address) or b"\0")
    assert (done.reason, done.steps, len(seen)) == (DoneReason.BUDGET, 10_000, 5_000)


def test_string_output_is_one_exchange(vm):
    vm.load("F36E F4")  # rep outsb; hlt
    vm.ram.view[0x2000:0x2005] = b"hello"
    asked = []
    done = vm.vcpu.run(vm.start(ecx=5, esi=0x2000, edx=0x3F8), on_io=lambda io: asked.append(io))
    assert [(io.kind, io.address, io.size, io.count, io.data) for io in asked] == [
        (IoKind.PORT_OUT, 0x3F8, 1, 5, b"hello")
    ]
    assert done.reason is DoneReason.HALT


def test_string_input_is_one_exchange_into_ram(vm):
    vm.load("F36D F4")  # rep insw; hlt
    asked = []
    pages = []
    data = bytes(range(256)) * 2
    state = vm.start(ecx=256, edi=0x3000, edx=0x1F0)
    vm.vcpu.run(state, on_io=lambda io: asked.append((io.size, io.count)) or data, on_pages=pages.extend)
    assert asked == [(2, 256)]
    assert vm.ram.view[0x3000:0x3200] == data
    assert state.ecx == 0
    assert pages == [3]


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 6, 7, 40, 41, 42])
@pytest.mark.parametrize("code", ["F36E", "F36C"])
def test_a_budget_is_exact_also_when_a_block_is_asked_for(vm, code, steps):
    vm.load(code + "40 EBFD")  # rep outsb or insb; again: inc ax; jmp again
    state = vm.start(ecx=5, esi=0x2000, edi=0x3000, edx=0x3F8)
    moved = []

    def device(io):
        moved.append(io.count)
        return bytes(io.count) if io.kind is IoKind.PORT_IN else b""

    done = vm.vcpu.run(state, steps=steps, on_io=device)
    assert (done.reason, done.steps) == (DoneReason.BUDGET, steps)
    assert sum(moved) == 5 - state.ecx == min(steps, 5)


def test_read_modify_write_of_a_device(vm):
    vm.load("8006 0000 05 F4")  # add byte [0], 5; hlt
    state = vm.start()
    segment(state, "ds", MMIO)
    log = []
    done = vm.vcpu.run(state, on_io=lambda io: log.append((io.kind, io.address, io.data)) or (b"\x10" * (not io.data)))
    assert log == [(IoKind.MMIO_READ, MMIO, b""), (IoKind.MMIO_WRITE, MMIO, b"\x15")]
    assert done.instructions == 2


def test_screen_output_is_posted(vm):
    vm.load("F3AB F4")  # rep stosw; hlt
    state = vm.start(eax=0x0741, ecx=2000)
    segment(state, "es", 0xA0000)
    writes = []
    done = vm.vcpu.run(
        state,
        on_io=lambda io: pytest.fail(f"asked {io.kind}"),
        on_posted=lambda gpa, data: writes.append((gpa, data)),
    )
    assert done.reason is DoneReason.HALT
    assert writes == [(0xA0000 + 2 * n, b"A\x07") for n in range(2000)]
    assert vm.vcpu.stats.io < 100  # the daemon may report now and then when the engine is slow
    assert vm.vcpu.stats.bytes_received < 20_000


def test_stop_in_an_answer_ends_behind_its_instruction(vm):
    vm.load("E460 E460 F4")  # in al, 60h; in al, 60h; hlt
    for until in (Until.NEVER, Until.VMX_UG):
        state = vm.start()
        done = vm.vcpu.run(state, until=until, reason=Reason.FAILURE, on_io=lambda io: Answer(b"a", stop=Stop.RESET))
        assert (done.reason, done.stop, done.steps, state.rip) == (DoneReason.STOPPED, Stop.RESET, 1, 2)


def test_one_step_is_one_instruction_with_its_questions(vm):
    vm.load("8006 0000 05 F4")
    state = vm.start()
    segment(state, "ds", MMIO)
    done = vm.vcpu.run(state, steps=1, on_io=lambda io: b"\x10" * (not io.data))
    assert (done.reason, done.steps, state.rip, vm.vcpu.stats.io) == (DoneReason.BUDGET, 1, 5, 2)


def test_checkpoints_hold_the_start_of_the_instruction(vm):
    vm.load("B80100 8006 0000 05 F4")  # mov ax, 1; add byte [0], 5; hlt
    state = vm.start()
    segment(state, "ds", MMIO)
    seen = []

    def devices(io):
        seen.append((io.checkpoint["general"][0], io.checkpoint["general"][8]))
        return b"\x10" * (not io.data)

    vm.vcpu.run(state, on_io=devices, checkpoint=True)
    assert seen == [(1, 3), (1, 3)]


def test_an_interrupt_is_acknowledged_and_delivered(vm):
    vm.load("FB 90 EBFD")  # sti; nop; jmp to the nop
    vm.load("F4", at=0x4000)
    vm.load("0000 0004", at=0x20 * 4)  # vector 20h: 0400:0000
    state = vm.start()
    kinds = []
    done = vm.vcpu.run(state, window=True, acknowledge=True, on_io=lambda io: kinds.append(io.kind) or b"\x20")
    assert kinds == [IoKind.INTERRUPT_ACK]
    assert (done.reason, state.cs.selector, state.rip) == (DoneReason.HALT, 0x400, 1)
    assert not state.rflags & 0x200


def test_the_window_ends_the_run_where_asked(vm):
    vm.load("FB 90 90 F4")  # sti; nop; nop; hlt: the shadow of STI covers one instruction
    state = vm.start()
    assert vm.vcpu.run(state, window=True).reason is DoneReason.INTERRUPT_WINDOW
    assert state.rip == 2


def test_an_injected_event_comes_first(vm):
    vm.load("0000 0004", at=0x0D * 4)
    vm.load("F4", at=0x4000)
    state = vm.start()
    vm.vcpu.run(state, inject=Event(3, 13))
    assert (state.cs.selector, state.rip) == (0x400, 1)


def test_a_vcpu_spins_until_it_is_kicked(vm):
    vm.load("40 EBFD")  # inc ax; jmp back
    done = []
    state = vm.start()
    thread = threading.Thread(target=lambda: done.append(vm.vcpu.run(state)))
    thread.start()
    while not vm.shim.counters().vcpus[0].requests:
        pass
    vm.vcpu.kick()
    thread.join(60)
    assert done[0].reason is DoneReason.KICKED
    assert done[0].instructions > 100


def test_exact_steps_over_many_slices(vm):
    vm.load("40 EBFD")
    state = vm.start()
    done = vm.vcpu.run(state, steps=100_001)
    assert (done.reason, done.steps, done.instructions) == (DoneReason.BUDGET, 100_001, 100_001)
    assert state.eax & 0xFFFF == (50_001 & 0xFFFF)


def test_the_hypervisors_own_page_ends_the_run_before_the_access(vm):
    vm.load("90 A00000 F4")  # nop; mov al, [0]
    state = vm.start()
    segment(state, "ds", 0xD0000)
    done = vm.vcpu.run(state)
    assert (done.reason, done.address, state.rip) == (DoneReason.HYPERVISOR, 0xD0000, 1)


def test_firmware_ends_the_run(vm):
    vm.load("EA 1300 00F0")  # jmp f000:0013
    state = vm.start()
    done = vm.vcpu.run(state)
    assert (done.reason, done.address) == (DoneReason.FIRMWARE, 0xF0013)
    assert (state.cs.selector, state.rip) == (0xF000, 0x13)


def test_a_device_access_may_change_the_map(vm):
    vm.load("E6EE A10020 F4")  # out 0eeh, al; mov ax, [2000h]; hlt
    vm.ram.view[0x2000:0x2002] = b"\x11\x11"
    vm.ram.view[0x92000:0x92002] = b"\x22\x22"
    block = vm.regions[0].ram
    moved = [
        Region(0, 0x2000, Kind.RAM, block),
        Region(0x2000, 0x1000, Kind.ROM, block, 0x92000),
        Region(0x3000, 0x9D000, Kind.RAM, block, 0x3000),
    ]
    state = vm.start()
    vm.vcpu.run(state, on_io=lambda io: Answer(map=vm.shim.next_map(moved)))
    assert state.rax & 0xFFFF == 0x2222


def test_mmio_on_behalf_of_a_failed_exit(vm):
    vm.load("A00000 F4")  # mov al, [0]
    state = vm.start()
    segment(state, "ds", MMIO)
    done = vm.vcpu.run(state, reason=Reason.MMIO, mmio=MMIO + 8)
    assert (done.reason, done.state) == (DoneReason.MMIO_MISMATCH, {})
    done = vm.vcpu.run(state, reason=Reason.MMIO, mmio=MMIO, on_io=lambda io: b"\x77")
    assert (done.reason, done.instructions, state.rax & 0xFF, state.rip) == (DoneReason.BUDGET, 1, 0x77, 3)


def test_a_run_ends_at_an_address_whatever_comes_before(vm):
    vm.load("B90300 E480 E2FC F4")  # mov cx, 3; in al, 80h; loop $-2; hlt
    state = vm.start()
    asked, code = [], state.cs.base

    def device(io):
        asked.append(io.address)
        return b"\x05"

    done = vm.vcpu.run(state, stop_at=code + 5, on_io=device)
    assert (done.reason, state.rip, state.rcx & 0xFFFF, asked) == (DoneReason.DEBUG, 5, 3, [0x80])
    done = vm.vcpu.run(state, stop_at=code + 5, on_io=device)
    assert (done.reason, done.steps) == (DoneReason.DEBUG, 0)
    done = vm.vcpu.run(state, stop_at=code + 7, on_io=device)
    assert (done.reason, state.rip, state.rcx & 0xFFFF, asked) == (DoneReason.DEBUG, 7, 0, [0x80] * 3)
    assert vm.vcpu.run(state, stop_at=code + 6).reason is DoneReason.HALT


def test_given_instruction_bytes_win(vm):
    vm.load("F4")
    state = vm.start()
    done = vm.vcpu.run(state, code=b"\xb0\x09", steps=1)
    assert (done.steps, state.rax & 0xFF, state.rip) == (1, 9, 2)


def test_an_enterable_state_is_handed_back(vm):
    state = vm.start()
    vm.load("90 F4")
    assert vm.vcpu.run(state, until=Until.VMX_UG).reason is DoneReason.ENTERABLE
    state.ds.base = 0x12340  # not 16 times the selector: no virtual-8086 mode can hold it
    done = vm.vcpu.run(state, until=Until.VMX, explain=True)
    assert done.reason is DoneReason.HALT
    assert "ds.base" in [rule.field for rule in done.failing]


def test_msrs(vm):
    vm.load("B9 1122 0F32 F4")  # mov cx, 2211h; rdmsr; hlt
    vm.load("0000 0004", at=0x0D * 4)
    vm.load("F4", at=0x4000)
    state = vm.start()
    done = vm.vcpu.run(state, on_io=lambda io: (0x1122334455667788).to_bytes(8, "little"))
    assert (done.reason, state.eax, state.edx) == (DoneReason.HALT, 0x55667788, 0x11223344)
    state = vm.start()
    vm.vcpu.run(state, on_io=lambda io: Answer(fault=True))
    assert (state.cs.selector, state.rip) == (0x400, 1)


def test_counters_agree(vm):
    vm.load("E460 F3AA F4")
    for _ in range(3):
        vm.vcpu.run(vm.start(ecx=100, edi=0x3000), on_io=lambda io: b"a")
    ours, theirs = vm.vcpu.stats, vm.shim.counters().vcpus[0]
    assert (ours.requests, ours.io) == (3, 3)
    assert ours.steps == 3 * 102
    assert (
        schema.VcpuCounters(
            0, ours.requests, ours.io, ours.instructions, ours.steps, ours.bytes_sent, ours.bytes_received, 0
        )
        == theirs
    )
