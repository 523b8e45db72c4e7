"""Answer ``native``: the hypervisor executes the instruction itself."""

import pytest
from live import CODE, real_mode

from dm.protocol.schema import DoneReason, ErrorClass, IoKind, Reason, Stop


@pytest.mark.parametrize(
    ("code", "kind", "address"),
    [
        ("ec", IoKind.PORT_IN, 0x7E),  # in al, dx
        ("66ef", IoKind.PORT_OUT, 0x7E),  # out dx, eax
        ("f36c", IoKind.PORT_IN, 0x7E),  # rep insb
        ("c7070102", IoKind.MMIO_WRITE, 0xFEE00080),  # mov word [bx], 0201h
        ("8b07", IoKind.MMIO_READ, 0xFEE00080),
        ("0f32", IoKind.MSR_READ, 0x3B),
        ("0f30", IoKind.MSR_WRITE, 0x3B),
    ],
)
def test_the_run_ends_before_the_instruction(vm, code, kind, address):
    vm.load(f"90 43 {code} f4")
    state = real_mode(edx=0x7E, ecx=address & 0xFF, ebx=0x7F, edi=0x2000, eax=0x11223344, ds=0xFEE00000)
    io = vm.emulate(state)
    assert (io.kind, io.address) == (kind, address)
    _, done = vm.finish(vm.answer(io, native=True))
    assert (done.reason, done.address, done.instructions) == (DoneReason.HYPERVISOR, address, 2)
    got = vm.state
    assert (got.rip, got.ebx, got.eax, got.ecx, got.edi) == (CODE + 2, 0x80, 0x11223344, address & 0xFF, 0x2000)
    # and goes on from there as if nothing had been asked
    again = vm.emulate(got)
    assert (again.kind, again.address, again.io) == (kind, address, 1)


def test_what_the_instruction_wrote_first_is_not_done(vm):
    """Stores of an instruction that is left open have not been made."""
    vm.load("66a5 f4")  # movsd: read from the device, write to RAM
    vm.ram.view[0x2000:0x2004] = b"abcd"
    io = vm.emulate(real_mode(ds=0xFEE00000, esi=0x80, edi=0x2000))
    assert (io.kind, io.address) == (IoKind.MMIO_READ, 0xFEE00080)
    _, done = vm.finish(vm.answer(io, native=True))
    assert (done.reason, done.instructions, done.pages) == (DoneReason.HYPERVISOR, 0, [])
    assert bytes(vm.ram.view[0x2000:0x2004]) == b"abcd"
    assert (vm.state.rip, vm.state.esi, vm.state.edi) == (CODE, 0x80, 0x2000)


@pytest.mark.parametrize("ending", [{"steps": 2}, {"microseconds": 0}])
def test_it_ends_the_run_whatever_else_would(vm, ending):
    vm.load("ec f4")
    io = vm.emulate(real_mode(edx=0x7E), reason=Reason.FAILURE, **ending)
    _, done = vm.finish(vm.answer(io, native=True, stop=Stop.NMI))
    assert (done.reason, done.stop, done.steps, vm.state.rip) == (DoneReason.HYPERVISOR, Stop.NMI, 0, CODE)


def test_data_beside_it_is_refused(vm):
    vm.load("ec f4")
    io = vm.emulate(real_mode(edx=0x7E))
    error = vm.refused(vm.answer(io, data=b"\x01", native=True))
    assert (error.error, error.field) == (ErrorClass.BAD_ANSWER, "data")
    vm.finish(vm.answer(io, data=b"\x01"))


def test_an_acknowledge_cycle_is_no_instruction(vm):
    vm.load("fb 90 90 f4")
    io = vm.emulate(real_mode(), window=True, acknowledge=True)
    assert io.kind is IoKind.INTERRUPT_ACK
    error = vm.refused(vm.answer(io, native=True))
    assert (error.error, error.field, error.expected) == (
        ErrorClass.BAD_ANSWER,
        "native",
        "only for ports, MMIO and MSRs",
    )
    vm.finish(vm.answer(io))


@pytest.mark.parametrize("explain", [False, True])
def test_a_call_of_the_hypervisor_is_left_to_it_by_name(vm, explain):
    """VMCALL of the default, Intel's part; the usual path in C and the one in Python say the same."""
    vm.load("43 0f01c1 f4")
    _, done = vm.finish(vm.emulate(real_mode(ebx=1), explain=explain))
    assert (done.reason, done.address, done.detail) == (DoneReason.HYPERVISOR, 0, "VMCALL")
    assert (done.instructions, vm.state.rip, vm.state.ebx) == (1, CODE + 1, 2)


def test_an_nmi_leaves_shutdown(vm):
    vm.load("f4")
    vm.ram.view[8:12] = (0x2000).to_bytes(4, "little")
    vm.ram.view[0x2000:0x2001] = b"\xf4"
    _, done = vm.finish(vm.emulate(real_mode(activity=2)))
    assert done.reason == DoneReason.SHUTDOWN
    _, done = vm.finish(vm.emulate(real_mode(activity=2, nmi_pending=1)))
    assert (done.reason, vm.state.rip, vm.state.nmi_blocked) == (DoneReason.HALT, 0x2001, 1)
    _, done = vm.finish(vm.emulate(real_mode(activity=2, nmi_pending=1, nmi_blocked=1)))
    assert (done.reason, vm.state.nmi_pending) == (DoneReason.SHUTDOWN, 1)


def test_an_instruction_of_which_a_device_has_answered_is_not_left(vm):
    """The hypervisor would make that access again."""
    vm.load("a4 ec f4")  # movsb from device to device; in al, dx
    read = vm.emulate(real_mode(ds=0xFEE00000, es=0xFEF00000, esi=0x80, edi=0x10, edx=0x7E))
    write = vm.answer(read, data=b"\x5a")
    assert (write.kind, write.address, write.data) == (IoKind.MMIO_WRITE, 0xFEF00010, b"\x5a")
    error = vm.refused(vm.answer(write, native=True))
    assert (error.error, error.field) == (ErrorClass.BAD_ANSWER, "native")
    assert "second question" in error.text
    first = vm.answer(write)  # the question was still open
    assert (first.kind, first.address, first.steps) == (IoKind.PORT_IN, 0x7E, 1)
    _, done = vm.finish(vm.answer(first, native=True))
    assert (done.reason, done.steps, vm.state.rip) == (DoneReason.HYPERVISOR, 1, CODE + 1)
