"""Says the same to two vCPUs, whose exchanges are made in C and in Python, and compares their replies to the byte."""

import contextlib
import importlib.util
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import msgpack
import zmq
from harness import Peer, flat, groups

import dm.server.vcpu.run
from dm.engine.api import CpuConfig, MemoryMap, Region, RegionKind
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import (
    Done,
    Emulate,
    Error,
    ErrorClass,
    Event,
    Io,
    IoAnswer,
    IoKind,
    Kick,
    Reason,
    Stop,
    Until,
)
from dm.server.memory.pages import PageCache
from dm.server.run_table import RunTable
from dm.server.vcpu import exchange
from dm.server.vcpu.endpoint import IpcEndpoint
from dm.server.vcpu.thread import VcpuThread

SESSION, NUMBER = 9, 2
SIZE = 1 << 16
READS = {IoKind.PORT_IN, IoKind.MMIO_READ, IoKind.MSR_READ}
#: in al,dx; jmp back
ASKING = "EC EBFD"
#: What guests do: 16-bit code, DS and SS at 0, FS in coalesced memory, GS in a hole, DX a port.
PIECES = (
    "90",  # nop
    "40 41",  # inc ax; inc cx
    "EC",  # in al, dx
    "66 ED",  # in eax, dx
    "E6 80",  # out 80h, al
    "A2 00 80",  # mov [8000h], al
    "66 A3 F0 9F",  # mov [9ff0h], eax
    "C7 06 FF 6F 34 12",  # mov word [6fffh], 1234h: two pages
    "65 A0 10 00",  # mov al, gs:[10h]
    "65 A3 20 00",  # mov gs:[20h], ax
    "64 A3 20 00",  # mov fs:[20h], ax
    "65 FE 06 30 00",  # inc byte gs:[30h]
    "B9 07 00 BE 00 40 F3 6E",  # mov cx, 7; mov si, 4000h; rep outsb
    "B9 05 00 BF 00 50 F3 6D",  # mov cx, 5; mov di, 5000h; rep insw
    "B9 1B 00 0F 32",  # mov cx, 1bh; rdmsr
    "B9 99 00 0F 30",  # mov cx, 99h; wrmsr
    "FA",  # cli
    "FB 90 90",  # sti; nop; nop
    "50 58",  # push ax; pop ax
    "0F 01 E0",  # smsw ax
    "CD 20",  # int 20h
    "B8 00 A0 8E C0 31 FF B9 20 00 F3 AB",  # mov ax, 0a000h; mov es, ax; xor di, di; mov cx, 32; rep stosw
    "B9 FF 00 E2 FE",  # mov cx, 255; loop $
    "F4",  # hlt
    "0F 0B",  # ud2
    "66 0F 20 C0 66 0F 22 C0",  # mov eax, cr0; mov cr0, eax
)


SECRET = b"s" * 32


class Owner:
    number = SESSION
    secret = SECRET
    several = False
    memory_lost = ""

    def __init__(self):
        self.ram = bytearray(SIZE)
        self.current = self.map(3)
        self.pages = PageCache()
        self.state_ports = (range(0x5658, 0x565C),)

    def map(self, generation, a20=True):
        ram = Region(0, SIZE, RegionKind.RAM, self.ram)
        return MemoryMap(generation, (ram, Region(0xA0000, 1 << 16, RegionKind.COALESCED)), a20)

    def pages_moved(self, by):
        raise AssertionError("no RAM carried in messages here")

    def replace_map(self, wire, by):
        if wire.generation <= self.current.generation:
            raise ProtocolError(ErrorClass.BAD_GENERATION, "old", "new", "map.generation")
        self.current = self.map(wire.generation, wire.a20)


class Side:
    """A vCPU with the native engine, its exchanges in C or in Python, and two peers."""

    def __init__(self, path, in_c, program):
        from dm.engine.native_engine import NativeEngine

        self.context, self.owner, self.runs = zmq.Context(), Owner(), RunTable()
        self.owner.ram[: len(program)] = program
        self.engine = NativeEngine(CpuConfig())
        place = IpcEndpoint(str(path))
        self.vcpu = VcpuThread(self.context, self.owner, NUMBER, place, self.engine, self.runs, in_c)
        self.vcpu.start()
        self.peers = [Peer(self.vcpu.endpoint) for _ in range(2)]

    def receive(self, peer):
        socket = self.peers[peer].socket
        assert socket.poll(10000), "no answer"
        (data,) = socket.recv_multipart()
        return data

    def close(self):
        self.vcpu.abort()
        assert self.vcpu.join(60)
        for peer in self.peers:
            peer.close()
        self.context.term()


@contextlib.contextmanager
def sides(directory, program):
    """Yield C's and Python's, on a machine on which nothing takes so long that it would make a difference."""
    endless = {"SLICE_NS": 1 << 50, "POSTED_NS": 1 << 50}
    with mock.patch.multiple(dm.server.vcpu.run, **endless), mock.patch.multiple(dm.server.vcpu.thread, **endless):
        made = [Side(directory / name, in_c, program) for name, in_c in (("c", True), ("python", False))]
        try:
            yield made
        finally:
            for side in made:
                side.close()


def start():
    state = flat(ecx=3, edx=0x60, esp=0x7000)
    for name, base in (("ds", 0), ("ss", 0), ("es", 0), ("fs", 0xA0000), ("gs", 0xD0000)):
        getattr(state, name).base = base
    return state


class Conversation:
    """Says the same to both sides, and compares what they answer."""

    def __init__(self, both, rng):
        self.both, self.rng = both, rng
        self.seq = self.base = 0
        self.epoch, self.peer = 1, 0
        self.generation = 3
        self.request = None
        self.question = None
        self.state = groups(start())
        self.proved = 0  # the newest epoch whose socket has shown the secret

    def say(self, *parts, peer=None):
        peer = self.peer if peer is None else peer
        for side in self.both:
            side.peers[peer].send(*parts)

    def hear(self, peer=None):
        peer = self.peer if peer is None else peer
        ours, theirs = (side.receive(peer) for side in self.both)
        assert ours == theirs, (codec.decode(ours), codec.decode(theirs))
        heard = codec.decode(ours)
        if peer == self.peer:
            self.proved = max(self.proved, heard.epoch)
        if isinstance(heard, Io):
            self.question = heard
        elif isinstance(heard, Done):
            self.question, self.base = None, heard.seq
            self.state |= heard.state
        return heard

    def fence(self):
        """Wait until all that was said has been taken in."""
        self.say(b"\xc1")
        while True:
            heard = self.hear()
            if isinstance(heard, Error) and "not MessagePack" in heard.text:
                return

    def secret(self):
        """What the next request says: the secret, if it has to be shown."""
        return b"" if self.proved >= self.epoch else SECRET

    def emulate(self, **changes):
        rng, self.seq = self.rng, self.seq + 1
        whole = self.base == 0 or rng.random() < 0.2
        state = dict(self.state) if whole else {}
        general = list(self.state["general"])
        if rng.random() < 0.7:
            general[rng.randrange(3)] = rng.choice((0, 1, 0xFFFF, rng.getrandbits(64)))
            state["general"] = general
        made = Emulate(
            session=SESSION,
            vcpu=NUMBER,
            epoch=self.epoch,
            seq=self.seq,
            generation=self.generation,
            base=0 if whole else self.base,
            state=state,
            reason=rng.choice((Reason.REQUEST, Reason.REAL_MODE, Reason.FAILURE)),
            until=rng.choice((Until.NEVER, Until.NEVER, Until.VMX, Until.PROTECTED)),
            secret=self.secret(),
            steps=rng.choice((1, 1, 2, 30, 0)),  # a slice has at least 32; how many, depends on speed
        )
        if rng.random() < 0.4:
            kind = rng.choice(("window", "checkpoint", "code", "explain", "acknowledge", "microseconds"))
            new = {
                "window": True, "checkpoint": True, "code": b"\xec", "explain": True, "acknowledge": True,
                "microseconds": 10**9,
            }[kind]  # fmt: skip
            made = replace(made, **{kind: new}, **({"window": True} if kind == "acknowledge" else {}))
        return replace(made, **changes)

    def answer(self, **changes):
        asked = self.question
        size = asked.size * asked.count if asked.kind in READS else 0
        stop = self.rng.choice((Stop.NONE,) * 8 + (Stop.KICK, Stop.NMI))
        made = IoAnswer(
            session=SESSION, vcpu=NUMBER, epoch=self.epoch, seq=asked.seq, io=asked.io,
            data=self.rng.randbytes(size), window=self.rng.choice((None,) * 6 + (True, False)), stop=stop,
        )  # fmt: skip
        return replace(made, **changes)

    # ------------------------------------------------------------------------------------ what may happen

    def usual(self):
        """A request, or the answer it waits for."""
        if self.question is None:
            self.request = self.emulate()
            self.say(self.request)
        else:
            self.say(self.answer())
        self.hear()

    def odd_request(self):
        """A request that is unusual, or wrong."""
        rng = self.rng
        state = dict(self.state)
        general = list(state["general"])
        wrong = [
            {"session": 1}, {"vcpu": 1}, {"epoch": 0}, {"seq": 0}, {"generation": 99}, {"base": 12345},
            {"state": state | {"general": general[:-1]}}, {"state": state | {"general": [*general, 7]}},
            {"state": state | {"general": [1 << 63, *general[1:]]}}, {"state": {"general": [b"x", *general[1:]]}},
            {"state": state | {"segments": [1 << 20, *state["segments"][1:]]}}, {"state": state | {"unheard": [1]}},
            {"inject": Event(0, 0x20)}, {"inject": Event(4, 0x21, length=2)}, {"inject": Event(3, 13, True, 5)},
            {"reason": Reason.MMIO}, {"reason": Reason.MMIO, "mmio": 0xD0010}, {"reason": Reason.MMIO, "mmio": 5},
            {"stop_at": 0}, {"stop_at": 0x7C00},
            {"applied": 3}, {"until": Until.SVM_RAW}, {"base": 0, "state": {}},
            {"changed": [schema.PageRange(1, 0, 1)]}, {"secret": SECRET}, {"secret": b"wrong"},
            {"secret": b"wrong", "epoch": 99}, {"secret": b"", "epoch": 99},
        ]  # fmt: skip
        request = self.emulate(**rng.choice(wrong))
        if self.question is not None:
            self.seq -= 1
        self.say(request)
        heard = self.hear()
        if not isinstance(heard, Error):
            self.request = request
        elif request.session == SESSION and self.question is None:
            self.base = 0  # a state that was refused half way leaves no base behind

    def odd_bytes(self):
        """Something else than a message of the schema, made of a right one."""
        rng = self.rng
        message = self.emulate() if self.question is None else self.answer()
        if self.question is None:
            self.seq -= 1
        right = codec.encode(message)
        raw = msgpack.unpackb(right)
        keys = list(raw)
        kind = rng.randrange(7)
        if kind == 0:
            data = right[: rng.randrange(1, len(right))]
        elif kind == 1:
            data = right + b"\x00"
        elif kind == 2:
            data = msgpack.packb(
                {**raw, rng.choice(keys): rng.choice((None, -1, 1.5, "x", b"x", [], {}, True, 1 << 63))}
            )
        elif kind == 3:  # a key twice
            data = bytes([right[0] + 1]) + right[1:] + msgpack.packb(keys[-1]) + msgpack.packb(raw[keys[-1]])
        elif kind == 4:
            data = msgpack.packb({key: raw[key] for key in keys if key != rng.choice(keys)})
        elif kind == 5:
            data = bytes(rng.randrange(256) if rng.random() < 0.02 else byte for byte in right)
        else:
            self.say(right, right)
            self.hear()
            return
        try:
            codec.decode(data)
        except ProtocolError:
            self.say(data)
            self.hear()

    def same_otherwise(self):
        """A usual message in another order and other words, with a field nobody knows."""
        message = self.emulate() if self.question is None else self.answer()
        raw = msgpack.unpackb(codec.encode(message))
        items = list(raw.items())
        self.rng.shuffle(items)
        made = dict(items)
        if self.rng.random() < 0.5:
            made["unheard"] = {"of": [1, None]}
        if self.question is None:
            self.request = message
        self.say(msgpack.packb(made))
        self.hear()

    def again(self):
        """The newest request once more: its question, or its record, comes again."""
        if self.request is not None:
            self.say(replace(self.request, epoch=self.epoch, secret=self.secret()))
            self.hear()

    def moved(self):
        """The same from a new socket."""
        if self.request is not None:
            self.peer, self.epoch = 1 - self.peer, self.epoch + 1
            self.again()

    def old_socket(self):
        if self.epoch > 1:
            self.say(self.emulate(), peer=1 - self.peer)
            self.seq -= 1
            self.hear(1 - self.peer)

    def odd_answer(self):
        if self.question is None:
            self.say(IoAnswer(session=SESSION, vcpu=NUMBER, epoch=self.epoch, seq=self.seq, io=1))
            self.fence()
            return
        changes = self.rng.choice(
            ({"data": b"123456789"}, {"fault": True}, {"io": 0}, {"io": 99}, {"seq": 1}, {"registers": [1]},
             {"map": schema.Map(self.generation, [], True)}, {"copied": 1}, {"data": b"123456789", "native": True})
        )  # fmt: skip
        before = self.question
        self.say(self.answer(**changes))
        if changes == {"fault": True} and before.kind in (IoKind.MSR_READ, IoKind.MSR_WRITE):
            self.hear()
        else:
            self.fence()

    def new_map(self):
        if self.question is not None:
            self.generation += 1
            self.say(self.answer(map=schema.Map(self.generation, [], self.rng.random() < 0.8)))
            self.hear()

    def native(self):
        """The hypervisor executes the open instruction itself."""
        if self.question is not None and self.question.kind is not IoKind.INTERRUPT_ACK:
            self.say(self.answer(data=b"", native=True))
            self.hear()

    def kick(self):
        seq = self.request.seq if self.request is not None else 1
        stop, window = self.rng.choice(list(Stop)), self.rng.choice((None, True, False))
        self.say(Kick(session=SESSION, vcpu=NUMBER, epoch=self.epoch, seq=seq, stop=stop, window=window))
        self.fence()

    def call(self):
        """Another thread of the worker wants something."""
        for side in self.both:
            side.vcpu.new_map()
            assert side.vcpu.pause(True).wait(60)
            assert side.vcpu.pause(False).wait(60)

    def check(self):
        """Compare all that can be seen from outside."""
        if self.question is not None:
            self.say(self.answer(stop=Stop.KICK))
            while isinstance(self.hear(), Io):
                self.say(self.answer(stop=Stop.KICK))
        self.fence()
        ours, theirs = self.both
        assert ours.vcpu.counters == theirs.vcpu.counters
        assert ours.vcpu.doing == theirs.vcpu.doing == "idle"
        assert ours.owner.ram == theirs.owner.ram
        assert ours.runs.running() == theirs.runs.running() == []


ACTIONS = (
    *("usual",) * 12,
    *("odd_request", "odd_bytes", "same_otherwise", "again", "moved", "old_socket", "odd_answer", "new_map", "native"),
    *("kick", "call"),
)


def play(directory, pieces, actions, seed):
    """Let two sides with the program ``pieces`` go through ``actions``."""
    program = bytes.fromhex("".join(pieces)) + b"\xeb\xfe"
    with sides(directory, program) as both:
        talk = Conversation(both, random.Random(seed))
        for action in actions:
            getattr(talk, action)()
        talk.check()


def play_for(directory, seconds, seed):
    """Play at random; return how many times."""
    end, rng, count = time.monotonic() + seconds, random.Random(seed), 0
    while time.monotonic() < end:
        pieces = rng.choices(PIECES, k=rng.randrange(1, 12))
        play(directory, pieces, rng.choices(ACTIONS, k=rng.randrange(60)), rng.getrandbits(32))
        count += 1
    return count


if __name__ == "__main__":  # MODULE SECONDS SEED: with another extension module
    spec = importlib.util.spec_from_file_location("dm.server.vcpu._exchange", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["dm.server.vcpu._exchange"] = dm.server.vcpu._exchange = module
    assert exchange.status()[0], exchange.status()
    with tempfile.TemporaryDirectory() as place:
        print(play_for(Path(place), float(sys.argv[2]), int(sys.argv[3])), "conversations")
