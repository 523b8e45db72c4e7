"""Message ``io``: what the daemon asks, and what it reports on the way."""

import pytest
from live import CODE, DEVICE, VIDEO, Vm, real_mode

from dm.protocol.schema import FEATURES, Done, DoneReason, ErrorClass, IoKind, Stop


def test_ports_of_each_size(vm):
    seen, done = vm.run("e460 e561 66e562 e680 e781 66e782 f4", lambda io: b"\x11\x22\x33\x44"[: io.size * io.count])
    got = [(io.kind, io.address, io.size, io.count, io.data) for io in seen]
    into, out = IoKind.PORT_IN, IoKind.PORT_OUT
    assert got == [
        (into, 0x60, 1, 1, b""),
        (into, 0x61, 2, 1, b""),
        (into, 0x62, 4, 1, b""),
        (out, 0x80, 1, 1, b"\x11"),
        (out, 0x81, 2, 1, b"\x11\x22"),
        (out, 0x82, 4, 1, b"\x11\x22\x33\x44"),
    ]
    assert [io.io for io in seen] == [1, 2, 3, 4, 5, 6]
    assert [io.instructions for io in seen] == [0, 1, 2, 3, 4, 5]
    assert (done.reason, done.instructions) == (DoneReason.HALT, 7)


def test_a_string_from_a_port_is_one_exchange(vm):
    state = real_mode(ecx=256, edi=0x2000, edx=0x1F0)
    data = bytes(n * 3 & 0xFF for n in range(512))
    seen, _ = vm.run("f36d f4", lambda io: data, state)
    assert [(io.kind, io.size, io.count) for io in seen] == [(IoKind.PORT_IN, 2, 256)]
    assert vm.ram.view[0x2000:0x2200] == data


def test_a_string_to_a_port_is_one_exchange_in_order_of_access(vm):
    vm.ram.view[0x2000:0x2006] = b"abcdef"
    state = real_mode(ecx=3, esi=0x2004, edx=0x1F0, rflags=0x402)
    seen, _ = vm.run("f36f f4", None, state)
    assert [(io.kind, io.size, io.count, io.data) for io in seen] == [(IoKind.PORT_OUT, 2, 3, b"efcdab")]


@pytest.mark.parametrize("down", [False, True])
def test_a_string_to_a_device_is_one_exchange(vm, down):
    vm.ram.view[0x2000:0x2200] = bytes(range(256)) * 2
    first = 0x100 if down else 0
    state = real_mode(ecx=128, esi=0x2000 + first, edi=first, es=DEVICE, rflags=0x402 if down else 2)
    seen, done = vm.run("f3a5 f4", None, state)
    assert [(io.kind, io.address, io.size, io.count, io.down) for io in seen] == [
        (IoKind.MMIO_WRITE, DEVICE + first, 2, 128, down)
    ]
    words = [bytes(vm.ram.view[0x2000 + 2 * n : 0x2002 + 2 * n]) for n in range(129)]
    assert seen[0].data == b"".join(words[128:0:-1] if down else words[:128])
    assert (done.steps, done.instructions) == (129, 2)


def test_a_string_from_a_device_is_one_exchange(vm):
    state = real_mode(ecx=1000, esi=0, edi=0x3000, ds=DEVICE)
    seen, _ = vm.run("f366a5 f4", lambda io: bytes(n & 0xFF for n in range(io.size * io.count)), state)
    assert [(io.kind, io.address, io.size, io.count) for io in seen] == [(IoKind.MMIO_READ, DEVICE, 4, 1000)]
    assert vm.ram.view[0x3000 : 0x3000 + 4000] == bytes(n & 0xFF for n in range(4000))


def test_filling_and_loading_are_one_exchange(vm):
    seen, _ = vm.run("f3ab f4", None, real_mode(ecx=900, edi=0, es=DEVICE, eax=0x1234))
    assert [(io.address, io.count, io.data) for io in seen] == [(DEVICE, 900, b"\x34\x12" * 900)]
    seen, _ = vm.run("f3ac f4", lambda io: b"xyz", real_mode(ecx=3, esi=5, ds=DEVICE))
    assert [(io.address, io.count) for io in seen] == [(DEVICE + 5, 3)]
    assert vm.state.eax & 0xFF == ord("z")


def test_a_read_modify_write_reads_once_and_writes_once(vm):
    seen, _ = vm.run("8306100005 f4", lambda io: b"\x40\x00", real_mode(ds=DEVICE))
    assert [(io.kind, io.address, io.data) for io in seen] == [
        (IoKind.MMIO_READ, DEVICE + 0x10, b""),
        (IoKind.MMIO_WRITE, DEVICE + 0x10, b"\x45\x00"),
    ]


def test_coalesced_writes_come_in_order_before_the_question(vm):
    code = "c606000041 c70602004243 c606010044 e680 c606000045 f4"
    seen, done = vm.run(code, None, real_mode(ds=VIDEO))
    assert [(post.gpa, post.data, post.size) for post in seen[0].posted] == [
        (VIDEO, b"A", 1),
        (VIDEO + 2, b"\x42\x43", 2),
        (VIDEO + 1, b"D", 1),
    ]
    assert [(post.gpa, post.data) for post in done.posted] == [(VIDEO, b"E")]


def test_scrolling_a_text_screen_costs_no_exchange_of_its_own(vm):
    state = real_mode(ecx=24 * 80, edi=0, esi=0x4000, es=VIDEO)
    seen, done = vm.run("f3a5 f4", None, state)
    assert seen == []
    assert sum(len(post.data) for post in done.posted) == 24 * 160
    assert len(done.posted) <= 2  # one run of writes, cut where a record is full


def test_reads_of_a_coalesced_region_are_asked_after_its_writes(vm):
    seen, _ = vm.run("c606000041 a00000 f4", lambda io: b"\x41", real_mode(ds=VIDEO))
    assert [(io.kind, [post.data for post in io.posted]) for io in seen] == [(IoKind.MMIO_READ, [b"A"])]


def test_pages_and_flushes_are_reported_at_every_exchange(vm):
    # mov [2000h], al; out 80h; mov cr3, eax; out 80h; mov [3000h], al; out 80h; out 80h; hlt
    seen, done = vm.run("a20020 e680 0f22d8 e680 a20030 e680 e680 f4")
    assert [(io.pages, io.tlb_flush) for io in seen] == [([2], False), ([], True), ([3], False), ([], False)]
    assert (done.pages, done.tlb_flush) == ([], False)
    seen, done = vm.run("a20020 0f22d8 f4")
    assert (done.pages, done.tlb_flush) == ([2], True)


def test_a_report_comes_when_posted_writes_have_waited(vm):
    vm.load("c606000041 ebfe")
    io = vm.emulate(real_mode(ds=VIDEO))
    assert (io.kind, [post.data for post in io.posted]) == (IoKind.REPORT, [b"A"])
    vm.vcpu.send(vm.message(io))
    vm.kick()
    done = vm.vcpu.receive()
    assert isinstance(done, Done)


def test_a_checkpoint_is_the_state_at_the_start_of_the_instruction(vm):
    seen, _ = vm.run("40 40 e680 f4", None, checkpoint=True)
    assert seen[0].checkpoint["general"][0] == 2
    assert seen[0].checkpoint["general"][8] == CODE + 2
    seen, _ = vm.run("e680 f4", None)
    assert seen[0].checkpoint is None


def test_msrs_that_are_no_state_are_forwarded_once(vm):
    # mov ecx, 12345678h; rdmsr; wrmsr; hlt
    code = "66b978563412 0f32 0f30 f4"
    seen, done = vm.run(code, lambda io: bytes(range(8)))
    assert [(io.kind, io.address, io.size, io.data) for io in seen] == [
        (IoKind.MSR_READ, 0x12345678, 8, b""),
        (IoKind.MSR_WRITE, 0x12345678, 8, bytes(range(8))),
    ]
    assert (vm.state.edx, vm.state.eax) == (0x07060504, 0x03020100)
    assert done.reason is DoneReason.HALT


def test_an_interrupt_is_acknowledged_once_the_window_opens(vm):
    vm.ram.view[4 * 0x40 : 4 * 0x40 + 4] = bytes.fromhex("00200000")
    vm.ram.view[0x2000] = 0xF4
    vm.load("90 fb 90 90 f4")
    io = vm.emulate(window=True, acknowledge=True)
    assert (io.kind, io.instructions) == (IoKind.INTERRUPT_ACK, 3)  # NOP, STI and the instruction in its shadow
    seen, done = vm.finish(vm.answer(io, data=b"\x40"))
    assert (seen, done.reason, vm.state.rip) == ([], DoneReason.HALT, 0x2001)


SCROLL = {"ecx": 800, "esi": 160, "edi": 0, "es": VIDEO, "ds": VIDEO}


def test_a_string_from_device_to_device_is_one_exchange(vm):
    seen, done = vm.run("f3a5 f4", None, real_mode(**SCROLL))
    assert [(io.kind, io.address, io.target, io.size, io.count, io.down, io.data) for io in seen] == [
        (IoKind.MEMORY_COPY, VIDEO + 160, VIDEO, 2, 800, False, b"")
    ]
    assert (done.reason, done.steps, done.instructions, done.posted) == (DoneReason.HALT, 801, 2, [])
    assert (vm.state.ecx, vm.state.esi, vm.state.edi) == (0, 1760, 1600)


def test_a_text_screen_within_display_memory_scrolls_in_one_exchange_for_each_slice(vm):
    seen, done = vm.run("f3a5 f4", None, real_mode(**{**SCROLL, "ecx": 24 * 80}))
    assert {io.kind for io in seen} == {IoKind.MEMORY_COPY}
    assert sum(io.count for io in seen) == 24 * 80
    assert len(seen) <= 2
    assert done.steps == 24 * 80 + 1


def test_a_copy_downwards_with_posted_writes_before_it(vm):
    state = real_mode(ecx=3, esi=0x104, edi=0x204, es=DEVICE, ds=VIDEO, rflags=0x402)
    seen, _ = vm.run("c606000041 f3a4 f4", None, state)
    assert [(io.kind, io.address, io.target, io.size, io.count, io.down) for io in seen] == [
        (IoKind.MEMORY_COPY, VIDEO + 0x104, DEVICE + 0x204, 1, 3, True)
    ]
    assert [post.data for post in seen[0].posted] == [b"A"]


def test_a_copy_may_end_early(vm):
    vm.load("f3a5 f4")
    io = vm.emulate(real_mode(**SCROLL))
    io = vm.answer(io, copied=7)
    assert (io.kind, io.address, io.target, io.steps) == (IoKind.MEMORY_COPY, VIDEO + 174, VIDEO + 14, 7)
    done = vm.answer(io, copied=1, stop=Stop.SMI)
    assert (done.reason, done.steps, done.instructions) == (DoneReason.STOPPED, 8, 0)
    vm.finish(done)
    assert (vm.state.ecx, vm.state.edi, vm.state.rflags >> 16 & 1) == (792, 16, 1)


@pytest.mark.parametrize("copied", [0, 801])
def test_a_copy_of_too_little_or_too_much_is_refused(vm, copied):
    vm.load("f3a5 f4")
    io = vm.emulate(real_mode(**SCROLL))
    error = vm.refused(vm.answer(io, copied=copied))
    assert (error.error, error.field, error.expected) == (ErrorClass.BAD_ANSWER, "copied", "1 to 800")
    error = vm.refused(vm.answer(io, data=b"ab"))
    assert (error.error, error.field) == (ErrorClass.BAD_ANSWER, "data")
    done = vm.answer(io)
    assert done.reason is DoneReason.HALT


def test_only_copies_say_how_much_they_have_copied(vm):
    vm.load("e680 f4")
    io = vm.emulate()
    error = vm.refused(vm.answer(io, copied=1))
    assert (error.error, error.field, error.expected) == (ErrorClass.BAD_ANSWER, "copied", "only for copies")
    assert vm.answer(io).reason is DoneReason.HALT


def test_a_shim_that_does_not_know_copies_never_gets_one(live_daemon):
    features = [word for word in FEATURES if word != "memory-copy"]
    with Vm(live_daemon.endpoint, features=features) as vm:
        seen, done = vm.run("f3a5 f4", lambda io: b"ab", real_mode(**{**SCROLL, "ecx": 5}))
        assert [(io.kind, io.address, io.count) for io in seen] == [
            (IoKind.MMIO_READ, VIDEO + 160 + 2 * n, 1) for n in range(5)
        ]
        posted = [post for message in (*seen, done) for post in message.posted]
        assert b"".join(post.data for post in posted) == b"ab" * 5
