"""Messages ``ram`` and ``ram-remove``: by descriptor, and in messages with a page cache in the daemon."""

import os
import socket
import threading

import pytest
from live import DEVICE, MAP, SIZE, VIDEO, Vm, real_mode

from dm.machine.state import update
from dm.protocol import codec, schema
from dm.protocol.schema import DoneReason, ErrorClass, IoKind, Kind, Ok, PageRange, Patch, Region, Stop
from dm.shim import Shim, ShimError
from dm.shim.ram import Ram

PAGE = 4096


def test_a_descriptor_is_shared_not_copied(vm):
    with Ram(8192) as more:
        vm.share(2, more)
        vm.set_map([*MAP, Region(0x100000, 8192, Kind.RAM, 2)])
        more.view[5] = 0x42
        vm.run("a00500 fe060600 f4", None, real_mode(ds=0x100000))
        assert (vm.state.eax & 0xFF, more.view[6]) == (0x42, 1)
        assert vm.request(schema.RamRemove, ram=2).error is ErrorClass.BAD_MEMORY  # the map uses it
        vm.set_map()
        assert isinstance(vm.request(schema.RamRemove, ram=2), Ok)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ram": 0}, "ram"),
        ({"ram": 1}, "ram"),
        ({"size": 0}, "size"),
        ({"size": 100}, "size"),
        ({"size": schema.MAX_MESSAGE_RAM + PAGE}, "size"),
        ({"path": "/dev/shm/x"}, "path"),
    ],
)
def test_a_block_by_messages_is_checked(vm, fields, field):
    error = vm.request(schema.Ram, **{"ram": 9, "size": PAGE, "messages": True, **fields})
    assert (error.error, error.field) == (ErrorClass.BAD_MEMORY, field)


def test_without_descriptor_path_or_messages_it_is_refused(vm):
    error = vm.request(schema.Ram, ram=9, size=PAGE)
    assert (error.error, error.field) == (ErrorClass.BAD_MEMORY, "path")


def test_a_descriptor_that_may_shrink_is_refused(vm):
    fd = os.memfd_create("x")
    os.ftruncate(fd, PAGE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as side:
        side.connect(vm.welcome.ram_socket)
        message = codec.encode(schema.Ram(seq=1, session=vm.session, ram=9, size=PAGE))
        socket.send_fds(side, [message], [fd])
        error = codec.decode(side.recv(65536))
    os.close(fd)
    assert error.error is ErrorClass.BAD_MEMORY


# ------------------------------------------------------------------------------------------- carried in messages


class Far:
    """RAM that stays with the shim: answers ``memory-read``, applies patches; notes which pages were asked for."""

    def __init__(self, vm, number=3, size=SIZE):
        self.vm, self.number = vm, number
        self.memory = bytearray(size)
        self.asked = []
        self.applied = 0
        self.patched = []
        answer = vm.request(schema.Ram, ram=number, size=size, messages=True)
        assert isinstance(answer, Ok), answer

    def regions(self):
        return [Region(0, DEVICE, Kind.RAM, self.number), *MAP[1:]]

    def load(self, code, at=0x7C00):
        code = bytes.fromhex(code)
        self.memory[at : at + len(code)] = code

    def patch(self, message):
        self.applied = max(self.applied, message.version)
        self.patched.append(sum(len(patch.data) for patch in message.patches))
        for patch in message.patches:
            assert patch.ram == self.number
            self.memory[patch.offset : patch.offset + len(patch.data)] = patch.data

    def run(self, code, state=None, devices=None, answers=(), **fields):
        """Run; returns device questions and the done message.  ``answers``: fields for each answer to a device."""
        self.load(code)
        seen, answers = [], iter(answers)
        message = self.vm.emulate(state, **fields)
        while isinstance(message, schema.Io):
            self.patch(message)
            extra = {}
            if message.kind is IoKind.MEMORY_READ:
                assert (message.ram, message.size) == (self.number, 1)
                assert message.address % PAGE == message.count % PAGE == 0
                self.asked += range(message.address // PAGE, (message.address + message.count) // PAGE)
                data = bytes(self.memory[message.address : message.address + message.count])
            else:
                seen.append(message)
                reads = str(message.kind).endswith(("in", "read"))
                data = (devices(message) if devices else bytes(message.size * message.count)) if reads else b""
                if message.kind is not IoKind.REPORT:
                    extra = next(answers, {})
                    if callable(extra):
                        extra = extra()
            message = self.vm.answer(message, **{"data": data, "applied": self.applied, **extra})
        assert isinstance(message, schema.Done), message
        self.patch(message)
        update(self.vm.state, message.state)
        return seen, message


@pytest.fixture
def far(live_daemon):
    with Vm(live_daemon.endpoint) as vm:
        made = Far(vm)
        vm.set_map(made.regions())
        yield made


def test_pages_come_when_touched_and_changes_go_back(far):
    far.memory[0x23456] = 0x41
    _, done = far.run("a05634 fe065734 f4", real_mode(ds=0x20000))
    assert done.reason is DoneReason.HALT
    assert far.vm.state.eax & 0xFF == 0x41
    assert (far.memory[0x23457], done.pages) == (1, [0x23])
    assert done.patches == [Patch(3, 0x23457, b"\x01")]
    assert set(far.asked) == {*range(0x10), *range(0x20, 0x30)}  # code and data, by windows of 64 KiB
    far.asked.clear()
    far.run("a05634 fe065734 f4", real_mode(ds=0x20000))
    assert far.asked == []  # they are still there
    assert far.memory[0x23457] == 2


def test_what_is_written_is_there_before_a_device_acts(far):
    """A disk that reads the buffer when its port is written finds what the guest has put there."""
    found = []

    def port():
        found.append(bytes(far.memory[0x30000:0x30004]))
        return {}

    far.run("66c706000078563412 e680 f4", real_mode(ds=0x30000), answers=[port])
    assert found == [b"\x78\x56\x34\x12"]


@pytest.mark.parametrize("how", ["emulate", "io-answer"])
def test_pages_that_changed_here_are_fetched_again(far, how):
    far.memory[0x20000] = 1
    far.run("a00000 f4", real_mode(ds=0x20000))
    far.asked.clear()
    if how == "emulate":
        far.memory[0x20000] = 2
        far.run("a00000 f4", real_mode(ds=0x20000), changed=[PageRange(3, 0x20, 1)])
    else:

        def port():
            far.memory[0x20000] = 2  # DMA
            return {"changed": [PageRange(3, 0x1F, 3), PageRange(99, 0, 1 << 63)]}

        far.load("e680 a00000 f4")
        far.run("e680 a00000 f4", real_mode(ds=0x20000), answers=[port], changed=[PageRange(3, 7, 1)])
    assert far.vm.state.eax & 0xFF == 2
    assert 0x20 in far.asked
    assert 0x22 not in far.asked


def test_both_sides_may_write_to_one_page(far):
    """The guest writes byte 0, a device byte 1; nothing is lost on either side."""

    def port():
        far.memory[0x20001] = 0x22
        return {"changed": [PageRange(3, 0x20, 1)]}

    far.run("c606000011 e680 a10000 c606020033 f4", real_mode(ds=0x20000), answers=[port])
    assert far.vm.state.eax & 0xFFFF == 0x2211
    assert far.memory[0x20000:0x20003] == b"\x11\x22\x33"


def test_bytes_the_shim_has_not_seen_survive_a_change_by_kick(far):
    vm = far.vm
    far.load("c606000011 a00100 3c22 75f9 f4")  # mov byte [0], 11h; wait until [1] is 22h
    message = vm.emulate(real_mode(ds=0x20000))
    kicked = False
    while isinstance(message, schema.Io):
        far.patch(message)
        data = b""
        if message.kind is IoKind.MEMORY_READ:
            far.asked.append(message.address)
            data = bytes(far.memory[message.address : message.address + message.count])
        vm.vcpu.send(vm.message(message, data=data))
        if far.memory[0x20000] == 0x11 and not kicked:  # told by a report
            far.memory[0x20001], kicked = 0x22, True
            vm.kick(stop=Stop.NONE, changed=[PageRange(3, 0x20, 1)])
        message = vm.vcpu.receive()
    assert (message.reason, kicked) == (DoneReason.HALT, True)
    assert far.memory[0x20000:0x20002] == b"\x11\x22"


def test_every_kind_of_access_may_meet_a_page_that_is_not_here(far):
    """Fetch, split access, locked read-modify-write, push, string: each in windows of their own."""
    far.memory[0x2FFFE:0x30002] = b"\x01\x02\x03\x04"
    # mov eax, [fffeh] over the end of a window; lock inc word [4]; push ax; movsb; hlt
    state = real_mode(ds=0x20000, es=0x60000, esi=0x100, edi=0x200, esp=0x8000)
    state.ss.base, state.ds.limit = 0x50000, 0xFFFFF
    far.memory[0x20100] = 0x99
    _, done = far.run("66 67 a1feff0000 f0ff060400 50 a4 f4", state)
    assert done.reason is DoneReason.HALT
    assert far.vm.state.eax == 0x04030201
    assert far.memory[0x20004:0x20006] == b"\x01\x00"
    assert far.memory[0x57FFE:0x58000] == b"\x01\x02"
    assert far.memory[0x60200] == 0x99


def test_a_device_read_before_the_page_comes_happens_once(far):
    reads = []

    def device(io):
        reads.append(io.address)
        return b"\x5a"

    _, done = far.run("a4 f4", real_mode(ds=DEVICE, es=0x40000, esi=0, edi=0), device)
    assert (done.reason, reads, far.memory[0x40000]) == (DoneReason.HALT, [DEVICE], 0x5A)


def test_the_one_instruction_of_mmio_may_need_pages_first(far):
    far.load("a00000 f4")
    seen, done = far.run("a00000 f4", real_mode(ds=DEVICE), lambda io: b"\x21", reason=schema.Reason.MMIO, mmio=DEVICE)
    assert ([io.address for io in seen], done.instructions) == ([DEVICE], 1)
    _, done = far.run("a00000 f4", real_mode(ds=0x30000), reason=schema.Reason.MMIO, mmio=DEVICE)
    assert (done.reason, done.state) == (DoneReason.MMIO_MISMATCH, {})


def test_firmware_and_rom_by_messages(far):
    vm = far.vm
    vm.set_map(
        [
            Region(0, 0x8000, Kind.RAM, 3),
            Region(0x8000, 0x1000, Kind.FIRMWARE, 3, 0x8000),
            Region(0x9000, 0x1000, Kind.ROM, 3, 0x9000),
        ]
    )
    far.memory[0x9010] = 0x31
    seen, done = far.run("a01090 a21190 e9f703", None)  # mov al, [9010h]; mov [9011h], al; jmp 8000h
    assert (done.reason, done.address) == (DoneReason.FIRMWARE, 0x8000)
    assert [(io.kind, io.address, io.data) for io in seen] == [(IoKind.MMIO_WRITE, 0x9011, b"\x31")]
    assert far.memory[0x9011] == 0


def test_much_that_is_written_is_cut_into_reports(far):
    # fill 64 KiB at 40000h and 64 KiB at 50000h with dwords, then out 80h
    code = "b90040 33ff 66b8aa55aa55 f366ab 8cc3 81c30010 8ec3 b90040 33ff f366ab e680 f4"
    state = real_mode()
    state.es.selector, state.es.base = 0x4000, 0x40000

    def port():
        assert far.memory[0x40000:0x60000] == b"\xaa\x55" * 0x10000
        return {}

    seen, done = far.run(code, state, answers=[port])
    assert [io.kind for io in seen][-1] is IoKind.PORT_OUT
    assert max(far.patched) <= schema.MAX_PATCH_DATA
    assert sum(far.patched) == 0x20000
    assert done.reason is DoneReason.HALT


def test_a_block_may_be_taken_back(far):
    far.run("f4")
    assert far.vm.request(schema.RamRemove, ram=3).error is ErrorClass.BAD_MEMORY
    far.vm.set_map()
    assert isinstance(far.vm.request(schema.RamRemove, ram=3), Ok)
    assert far.vm.request(schema.MemoryMap, map=far.vm.map(far.regions())).error is ErrorClass.BAD_MEMORY
    far.vm.generation -= 1


def test_an_answer_of_the_wrong_size_is_refused(far):
    far.load("f4")
    io = far.vm.emulate()
    assert io.kind is IoKind.MEMORY_READ
    error = far.vm.refused(far.vm.answer(io, data=bytes(100)))
    assert (error.error, error.field) == (ErrorClass.BAD_ANSWER, "data")
    data = bytes(far.memory[io.address : io.address + io.count])
    assert far.vm.answer(io, data=data).reason is DoneReason.HALT


def test_two_vcpus_share_what_one_has_brought_in(live_daemon):
    """Through the client library: a counter that both raise with LOCK, in RAM that stays with the shim."""
    memory = bytearray(SIZE)
    code = bytes.fromhex("b91027 f0ff060000 49 75f8 f4")  # 10000 times lock inc word [0]
    memory[0x1000 : 0x1000 + len(code)] = code
    with Shim.connect(live_daemon.endpoint) as shim:
        block = shim.add_ram_by_messages(memory)
        shim.set_map([Region(0, SIZE, Kind.RAM, block)])
        vcpus = [shim.create_vcpu(n) for n in range(2)]
        ends = []

        def work(vcpu):
            ends.append(vcpu.run(real_mode(0x1000, ds=0x8000)).reason)

        threads = [threading.Thread(target=work, args=(vcpu,)) for vcpu in vcpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert ends == [DoneReason.HALT] * 2
    assert int.from_bytes(memory[0x8000:0x8002], "little") == 20000


def test_the_client_notices_what_changed_on_its_side(live_daemon):
    memory = bytearray(SIZE)
    with Shim.connect(live_daemon.endpoint) as shim:
        block = shim.add_ram_by_messages(memory)
        shim.set_map([Region(0, SIZE, Kind.RAM, block)])
        vcpu = shim.create_vcpu(0)
        memory[0x1000:0x1006] = bytes.fromhex("e460 a00090 f4")

        def disk(io):
            memory[0x9000] = 0x77
            return b"\x01"

        for _ in range(2):
            memory[0x9000] = 0
            state = real_mode(0x1000)
            vcpu.run(state, on_io=disk)
            assert state.eax & 0xFF == 0x77
        with pytest.raises(ShimError, match="RAM block 5, which is not carried in messages"):
            shim.kept(5)
        with pytest.raises(ValueError, match="a positive multiple of 4096"):
            shim.add_ram_by_messages(bytearray(5))


def test_an_older_daemon_is_not_asked_for_it(live_daemon):
    with Shim.connect(live_daemon.endpoint, features=["ram-fd"]) as shim:
        with pytest.raises(ShimError, match="does not support RAM carried in messages"):
            shim.add_ram_by_messages(bytearray(PAGE))
        with pytest.raises(ShimError, match="does not support state ports"):
            shim.set_state_ports(0x5658)


@pytest.mark.parametrize(("es", "ds"), [(VIDEO, 0x20000), (0x20000, VIDEO), (VIDEO, DEVICE), (0x20000, 0x30000)])
def test_a_string_between_devices_and_pages_that_are_not_here(far, es, ds):
    """A page that is not here yet looks like a device; what is brought in is no part of a copy."""
    far.memory[0x20000:0x20010] = far.memory[0x30000:0x30010] = b"0123456789abcdef"
    state = real_mode(ecx=8, esi=0, edi=8, es=es, ds=ds)
    seen, done = far.run("f3a4 f4", state, lambda io: b"device78")
    kinds = {(VIDEO, 0x20000): [], (0x20000, VIDEO): [IoKind.MMIO_READ], (VIDEO, DEVICE): [IoKind.MEMORY_COPY]}
    assert [io.kind for io in seen] == kinds.get((es, ds), [])
    assert (done.reason, done.steps, far.vm.state.edi) == (schema.DoneReason.HALT, 9, 16)
    if es == 0x20000:
        assert far.memory[0x20008:0x20010] == (b"device78" if ds == VIDEO else b"01234567")
    elif ds == 0x20000:
        posted = [post for message in (*seen, done) for post in message.posted]
        assert b"".join(post.data for post in posted) == b"01234567"
