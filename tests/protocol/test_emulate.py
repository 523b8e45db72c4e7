"""Message ``emulate``: state, budgets, ``until``, reasons, events, given bytes, repetition, epochs."""

import pytest
from harness import Peer, groups
from live import CODE, DEVICE, MAP, real_mode

from dm.machine.state import EventType
from dm.protocol.schema import Done, DoneReason, ErrorClass, Event, Io, IoKind, Kind, Reason, Region, Until


def test_a_state_comes_back_as_it_went(vm):
    state = real_mode(rsi=0x1122334455667788, cr2=0xDEADBEEFCAFE, fxsave=bytes(n * 3 & 0xFF for n in range(512)))
    state.kernel_gs_base, state.dr6, state.pdpte[2] = 1 << 63, 0xFFFF4FF0, 0x1234
    done = vm.emulate(state, steps=0)
    assert (done.reason, done.state, done.steps) == (DoneReason.BUDGET, {}, 0)
    vm.load("40 40 f4")
    done = vm.emulate(None, base=1, state={})  # from the daemon's own copy
    assert done.reason is DoneReason.HALT
    assert "fpu" not in done.state
    assert done.state["general"][6] == 0x1122334455667788


def test_the_fxsave_image_is_carried_untouched(vm):
    image = bytes(n * 7 & 0xFF for n in range(512))
    seen, done = vm.run("40 e680 f4", None, real_mode(fxsave=image), checkpoint=True)
    assert "fpu" not in done.state
    assert "fpu" not in seen[0].checkpoint
    done = vm.emulate(None, base=1, state={}, steps=0)
    assert done.state == {}
    changed = bytes(512)
    done = vm.emulate(None, base=2, state={"fpu": [changed]}, steps=0)
    assert done.state == {}  # the difference is against what was submitted


def test_a_delta_needs_a_base_that_is_known(vm):
    vm.load("f4")
    error = vm.refused(vm.emulate(base=7))
    assert (error.error, error.field) == (ErrorClass.UNKNOWN_BASE, "base")
    assert isinstance(vm.emulate(), Done)  # in full


@pytest.mark.parametrize(("steps", "rip"), [(0, CODE), (1, CODE + 1), (5, CODE + 1), (1000, CODE + 1)])
def test_steps_are_exact(vm, steps, rip):
    vm.load("40 ebfd")
    done = vm.emulate(steps=steps)
    vm.finish(done)
    assert (done.reason, done.steps) == (DoneReason.BUDGET, steps)
    assert vm.state.eax == (steps + 1) // 2


def test_microseconds_are_a_budget(vm):
    vm.load("ebfe")
    done = vm.emulate(microseconds=2000)
    assert (done.reason, done.steps > 1000) == (DoneReason.BUDGET, True)


@pytest.mark.parametrize(
    ("until", "code", "rip"),
    [
        (Until.VMX_UG, "90 f4", CODE),
        (Until.PROTECTED, "0f22c0 90 f4", None),
        (Until.NEVER, "90 f4", CODE + 2),
    ],
)
def test_until(vm, until, code, rip):
    """Unrestricted guest takes real mode at once; ``protected`` waits for the far transfer behind MOV CR0."""
    if until is Until.PROTECTED:
        gdt = 0x3000
        vm.ram.view[gdt + 8 : gdt + 16] = bytes.fromhex("ffff0000009acf00")
        code = "0f20c0 0c01 0f22c0 66ea107c00000800"  # mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:7c10h
        state = real_mode(gdtr_base=gdt, gdtr_limit=15)
        vm.ram.view[0x7C10] = 0xF4
        _, done = vm.run(code, None, state, until=until)
        assert (done.reason, vm.state.cs.selector, vm.state.rip) == (DoneReason.ENTERABLE, 8, 0x7C10)
        return
    _, done = vm.run(code, None, until=until)
    reason = DoneReason.HALT if until is Until.NEVER else DoneReason.ENTERABLE
    assert (done.reason, vm.state.rip) == (reason, rip)


@pytest.mark.parametrize("reason", [Reason.FAILURE, Reason.INVALID_STATE])
def test_a_run_for_a_failure_makes_a_step_before_until_is_looked_at(vm, reason):
    _, done = vm.run("90 90 f4", None, reason=reason, until=Until.VMX_UG)
    assert (done.reason, done.steps) == (DoneReason.ENTERABLE, 1)


def test_failing_rules_are_explained(vm):
    state = real_mode()
    state.cs.base = 0x12345
    done = vm.emulate(state, until=Until.VMX, steps=0, explain=True)
    assert "cs.base" in {row.field for row in done.failing}
    assert all(row.section for row in done.failing)


def test_an_event_is_delivered_first(vm):
    vm.load("f4")
    done = vm.emulate(inject=Event(3, 6))
    vm.finish(done)
    assert (done.reason, vm.state.rip) == (DoneReason.HALT, 0x1006 + 1)
    # the same through the state, an interrupt that the shim has acknowledged: not acknowledged again
    state = real_mode(inject_type=int(EventType.EXTERNAL), inject_vector=0x10, rflags=0x202)
    seen, done = vm.run("f4", None, state, window=True, acknowledge=True)
    assert seen == []
    assert (vm.state.rip, vm.state.inject_type) == (0x1011, 255)


def test_an_event_of_no_type_is_refused(vm):
    error = vm.refused(vm.emulate(inject=Event(1, 6)))
    assert error.error is ErrorClass.BAD_STATE
    assert isinstance(vm.emulate(steps=0), Done)


def test_the_window_ends_the_run(vm):
    _, done = vm.run("fb 90 90 f4", None, window=True)
    assert (done.reason, vm.state.rip) == (DoneReason.INTERRUPT_WINDOW, CODE + 2)


def test_mmio_runs_the_one_instruction(vm):
    vm.load("a01000 40 f4")
    io = vm.emulate(real_mode(ds=DEVICE), reason=Reason.MMIO, mmio=DEVICE + 0x10)
    assert (io.kind, io.address) == (IoKind.MMIO_READ, DEVICE + 0x10)
    _, done = vm.finish(vm.answer(io, data=b"\x5a"))
    assert (done.reason, done.instructions, vm.state.eax & 0xFF) == (DoneReason.BUDGET, 1, 0x5A)


@pytest.mark.parametrize("code", ["a02000 f4", "40 f4", "f4"])
def test_mmio_that_meets_another_address_changes_nothing(vm, code):
    vm.load(code)
    done = vm.emulate(real_mode(ds=DEVICE), reason=Reason.MMIO, mmio=DEVICE + 0x10)
    assert (done.reason, done.state, done.steps) == (DoneReason.MMIO_MISMATCH, {}, 0)


def test_mmio_needs_its_address(vm):
    error = vm.refused(vm.emulate(reason=Reason.MMIO))
    assert (error.error, error.field) == (ErrorClass.BAD_MESSAGE, "mmio")


def test_given_bytes_win_over_memory_once(vm):
    vm.load("f4")
    done = vm.emulate(code=bytes.fromhex("90"), steps=1)
    vm.finish(done)
    assert vm.state.rip == CODE + 1
    vm.load("40 f4")
    io = vm.emulate(real_mode(ds=DEVICE), reason=Reason.MMIO, mmio=DEVICE, code=bytes.fromhex("a00000"))
    assert io.address == DEVICE
    vm.finish(vm.answer(io, data=b"\x01"))


def test_the_hypervisors_region_ends_the_run_before_the_instruction(vm):
    vm.set_map([*MAP, Region(0xFEE00000, 0x1000, Kind.HYPERVISOR)])
    for code in ("40 a03000 f4", "40 a23000 f4", "40 fe063000 f4", "40 f3a4 f4"):
        state = real_mode(ds=0xFEE00000, ecx=1, esi=0x30)
        _, done = vm.run(code, None, state)
        assert (done.reason, done.address) == (DoneReason.HYPERVISOR, 0xFEE00030)
        assert (vm.state.rip, vm.state.eax, done.instructions) == (CODE + 1, 1, 1)


def test_a_firmware_region_ends_the_run_at_the_fetch(vm):
    vm.set_map([Region(0, 0x9000, Kind.RAM, 1), Region(0x9000, 0x1000, Kind.FIRMWARE, 1, 0x9000)])
    vm.ram.view[0x9123] = 0x77
    _, done = vm.run("a02391 e91e14", None)  # mov al, [9123h]; jmp 9124h: reading it is nothing special
    assert (done.reason, done.address) == (DoneReason.FIRMWARE, 0x9024)
    assert vm.state.eax & 0xFF == 0x77


def test_a_generation_the_daemon_has_not_is_refused(vm):
    error = vm.refused(vm.emulate(generation=vm.generation + 1))
    assert (error.error, error.field) == (ErrorClass.BAD_GENERATION, "generation")


def test_a_repeated_request_is_answered_from_the_record(vm):
    vm.load("e680 fe060020 f4")  # out 80h; inc byte [2000h]; hlt
    io = vm.emulate()
    again = vm.vcpu.ask(vm.sent)
    assert again == io  # the open question once more
    done = vm.answer(io)
    assert vm.vcpu.ask(vm.sent) == done
    assert vm.vcpu.ask(vm.sent) == done
    assert vm.ram.view[0x2000] == 1


def test_sequence_numbers_grow(vm):
    vm.load("f4")
    vm.emulate()
    vm.emulate()
    vm.seq -= 2
    assert vm.refused(vm.emulate()).error is ErrorClass.STALE_SEQUENCE
    vm.seq += 1


def test_one_run_at_a_time(vm):
    vm.load("e460 f4")
    io = vm.emulate()
    assert vm.refused(vm.emulate()).error is ErrorClass.BUSY
    vm.seq -= 1
    vm.finish(vm.answer(io, data=b"\x01"))


def test_a_new_epoch_takes_over_and_the_old_is_refused(vm):
    vm.load("e460 e461 f4")
    io = vm.emulate()
    with Peer(vm.endpoint) as second:
        sent = vm.sent
        sent.epoch = 2
        again = second.ask(sent)
        assert isinstance(again, Io)
        assert (again.io, again.address, again.epoch) == (io.io, 0x60, 2)
        assert vm.refused(vm.answer(io, data=b"\x01")).error is ErrorClass.STALE_EPOCH
        vm.kick()
        assert vm.refused(vm.vcpu.receive()).error is ErrorClass.STALE_EPOCH
        vm.epoch = 2
        vm.vcpu, old = second, vm.vcpu
        seen, done = vm.finish(vm.answer(again, data=b"\x01"))
        assert [one.address for one in seen] == [0x61]
        assert done.reason is DoneReason.HALT
        vm.vcpu = old


def test_another_socket_of_the_same_epoch_is_refused(vm):
    vm.load("f4")
    vm.emulate()
    with Peer(vm.endpoint) as second:
        vm.sent.seq += 1
        assert second.ask(vm.sent).error is ErrorClass.STALE_EPOCH


@pytest.mark.parametrize(
    ("changes", "error"), [({"session": 1}, ErrorClass.UNKNOWN_SESSION), ({"vcpu": 5}, ErrorClass.UNKNOWN_VCPU)]
)
def test_ids_are_checked(vm, changes, error):
    assert vm.refused(vm.emulate(**changes)).error is error
    vm.seq -= 1
    assert isinstance(vm.emulate(steps=0), Done)


def test_a_state_that_does_not_fit_is_refused_by_name(vm):
    state = groups(real_mode())
    state["segments"][2] = 1 << 32
    error = vm.refused(vm.emulate(state=state))
    assert error.error is ErrorClass.BAD_STATE
    assert "es.limit" in error.text
    state["segments"] = state["segments"][:-1]
    assert vm.refused(vm.emulate(state=state)).error is ErrorClass.BAD_STATE


def test_the_time_stamp_counter_never_goes_backwards(vm):
    """Neither inside a run, nor from the shim's side to the guest's, nor back."""
    from dm.engine.python_engine.host_tsc import host_tsc

    vm.load("0f31 668bf0 668bfa 0f31 f4")  # rdtsc; mov esi, eax; mov edi, edx; rdtsc; hlt
    state = real_mode()
    state.tsc, state.tsc_host = 5_000_000_000, host_tsc()
    for _ in range(5):
        state.rip = CODE
        state.activity = 0
        before = state.tsc + ((host_tsc() - state.tsc_host) * state.tsc_scale >> 32)
        done = vm.emulate(state)
        vm.finish(done)
        first, second = vm.state.edi << 32 | vm.state.esi, vm.state.edx << 32 | vm.state.eax
        state = vm.state
        after = state.tsc + ((host_tsc() - state.tsc_host) * state.tsc_scale >> 32)
        assert before <= first < second <= after
    # a clock of the shim that is a little ahead of the daemon's: still not below what it has said
    state.tsc_host, state.rip, state.activity = host_tsc() + 10**10, CODE, 0
    vm.finish(vm.emulate(state))
    assert (vm.state.edi << 32 | vm.state.esi) >= state.tsc


def test_virtual_time_goes_on_with_each_reading(vm):
    state = real_mode()
    state.tsc = 100
    vm.load("0f31 0f31 f4")
    vm.finish(vm.emulate(state))
    assert (vm.state.eax, vm.state.tsc) == (102, 102)


def test_paged_real_mode_is_for_svm_raw_and_its_page_faults_are_the_shims(vm):
    """APM vol. 2, 15.19: PE=0 with PG=1 is real mode through page tables that the hypervisor keeps."""
    directory, table = 0x2000, 0x3000
    vm.ram.view[directory : directory + 4] = (table | 7).to_bytes(4, "little")
    for page in range(16):
        entry = 0 if page == 9 else page << 12 | 7
        vm.ram.view[table + 4 * page : table + 4 * page + 4] = entry.to_bytes(4, "little")
    state = real_mode(cr0=0x80000010, cr3=directory)
    vm.load("90 c606009001 f4")  # nop; mov byte [9000h],1
    refusal = vm.refused(vm.emulate(state))
    assert (refusal.error, refusal.expected) == (ErrorClass.BAD_STATE, "until svm-raw for it, else PE with PG")
    first = {"reason": Reason.FAILURE, "until": Until.SVM_RAW}
    _, done = vm.finish(vm.emulate(state, **first))
    assert (done.reason, done.steps) == (DoneReason.ENTERABLE, 1)
    _, done = vm.finish(vm.emulate(vm.state, **first))
    assert (done.reason, done.address, done.fault, vm.state.rip) == (DoneReason.PAGE_FAULT, 0x9000, 2, CODE + 1)
