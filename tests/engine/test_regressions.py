"""Mistakes that random worlds (tests/oracle) have found, each as the smallest case of its own; both engines."""

from guest import CODE, protected_mode, real_mode

from dm.engine.api import ExitReason
from dm.machine.state import Activity, EventType

GDT = 0x2000


def test_the_same_bytes_as_32_and_16_bit_code(vm):
    """An indirect jump to where 32-bit code was decoded decodes anew for 16-bit code."""
    shared, back, end = CODE + 0x40, CODE + 0x60, CODE + 0x80
    vm.ram[shared : shared + 7] = bytes.fromhex("b801004040 ffe3")  # 16 bits: MOV AX,1; INC AX; INC AX
    vm.ram[back : back + 12] = (
        b"\xbb" + end.to_bytes(4, "little") + b"\xea" + shared.to_bytes(4, "little") + b"\x18\x00"
    )
    vm.ram[end] = 0xF4
    vm.ram[GDT + 0x18 : GDT + 0x20] = bytes.fromhex("ffff0000009b0000")
    state = protected_mode(ebx=back, edx=shared)
    state.gdtr_base, state.gdtr_limit = GDT, 0x1F
    vm.load("ffe2", state)
    assert vm.run(budget=100).reason is ExitReason.HALT
    assert vm.state.eax == 0x40400003
    assert vm.state.cs.selector == 0x18


def test_an_event_in_shutdown_whose_delivery_asks(vm):
    """The vector table on a device: the question is asked once, not for ever."""
    state = real_mode(activity=int(Activity.SHUTDOWN))
    state.inject_type, state.inject_vector = int(EventType.NMI), 2
    state.idtr_base = 0x200000  # beyond the memory there is
    vm.load("f4", state)
    end = vm.run(budget=5)
    assert (end.reason, end.address) == (ExitReason.MMIO_READ, 0x200008)
    assert vm.state.activity == Activity.SHUTDOWN
    vm.engine.answer((0x1000).to_bytes(4, "little"))
    assert vm.run(budget=5).reason is ExitReason.HALT
    assert vm.state.eip == 0x1001


def test_an_event_in_shutdown_whose_delivery_faults(vm):
    """It has left shutdown: the fault is delivered instead, or ends in shutdown again."""
    state = real_mode(activity=int(Activity.SHUTDOWN), idtr_limit=0x3F)
    state.inject_type, state.inject_vector = int(EventType.EXCEPTION), 18  # beyond the limit: #GP, vector 13
    vm.load("f4", state)
    assert vm.run(budget=5).reason is ExitReason.HALT
    assert vm.fault() == 13
    state.idtr_limit = 3
    vm.load("f4", state)
    assert vm.run(budget=5).reason is ExitReason.SHUTDOWN
    assert vm.state.inject_type == EventType.NONE


def test_smap_holds_for_descriptor_tables_with_ac_set(vm):
    """EFLAGS.AC opens user pages to the instruction's own accesses only (SDM vol. 3A, 4.6.1)."""
    state = protected_mode(eax=0x18)  # the only descriptor on a user page
    state.cr0, state.cr3, state.cr4 = state.cr0 | 1 << 31, 0x20000, 1 << 21
    state.rflags |= 1 << 18
    state.gdtr_base, state.gdtr_limit, state.idtr_base, state.idtr_limit = 0x1FE8, 0x1F, 0x3000, 0x7FF
    vm.ram[0x20000:0x20004] = (0x21027).to_bytes(4, "little")
    for page in range(256):
        user = 4 if page == 2 else 0
        vm.ram[0x21000 + 4 * page : 0x21004 + 4 * page] = (page << 12 | 0x63 | user).to_bytes(4, "little")
    vm.ram[0x1FF0:0x1FF8] = bytes.fromhex("ffff0000009bcf00")
    vm.ram[0x2000:0x2008] = bytes.fromhex("ffff00000093cf00")
    vm.ram[0x3070:0x3078] = bytes.fromhex("0e100800008e0000")
    vm.load("8b1d00200000 8ed8 f4", state)
    assert vm.run(budget=9).reason is ExitReason.HALT
    assert vm.state.ebx == 0xFFFF  # the instruction's own read
    assert vm.fault() == 14
    assert vm.state.cr2 == 0x2000


def test_alignment_faults_that_go_on_for_ever_end_with_the_budget(vm):
    """#AC is benign: during its own delivery it is delivered instead, again and again (SDM vol. 3A, table 6-5)."""
    state = real_mode(esp=0x7001)
    state.cpl, state.cr0, state.rflags = 3, 0x40010, 0x40002
    vm.load("8b060100 f4", state)
    end = vm.run(budget=4)
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 4, 0)
    assert vm.state.inject_vector == 17
