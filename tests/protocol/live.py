"""A bare session with a daemon: every message is made by hand, nothing is repaired or hidden."""

from __future__ import annotations

import socket

from harness import Peer, groups

from dm.machine.state import State, update
from dm.protocol import codec, schema
from dm.protocol.schema import Done, Emulate, Error, Io, IoAnswer, Kick, Kind, Region
from dm.shim.ram import Ram

SIZE = 1 << 20
CODE = 0x7C00
DEVICE = 0xA0000
VIDEO = 0xB8000
MAP = [
    Region(0, DEVICE, Kind.RAM, 1),
    Region(DEVICE, 0x10000, Kind.MMIO),
    Region(VIDEO, 0x8000, Kind.COALESCED),
]


def real_mode(code_at=CODE, **registers):
    """Real mode with all segments at 0 but ES and DS, which show what the test puts into their bases."""
    state = State.reset()
    state.cr0, state.idtr_base, state.idtr_limit = 0x10, 0, 0x3FF
    state.cs.selector, state.cs.base, state.rip = 0, 0, code_at
    state.esp = 0x7000
    for name, value in registers.items():
        if name in ("es", "ds"):
            getattr(state, name).base = value
        else:
            setattr(state, name, value)
    return state


class Vm:
    """A session: ``control`` and ``vcpu`` are bare peers, ``ram`` the shared memory."""

    def __init__(self, endpoint, regions=tuple(MAP), features=tuple(schema.FEATURES)):
        self.control, self.vcpu, self.ram = Peer(endpoint), None, Ram(SIZE)
        try:
            self.welcome = self.control.hello(max_version=schema.VERSION, features=list(features), name="live")
            assert isinstance(self.welcome, schema.Welcome), self.welcome
            self.session = self.welcome.session
            self.control_seq = 1
            self.share(1, self.ram)
            self.generation = 0
            self.set_map(list(regions))
            self.begin()
        except BaseException:
            self.control.close()
            self.ram.close()
            raise

    def begin(self):
        """Begin with a new vCPU, the default map, and zeros in RAM."""
        if self.vcpu is not None:
            self.vcpu.close()
            self.request(schema.VcpuDestroy, vcpu=0)
            self.set_map()
            self.ram.view[:] = bytes(SIZE)
        self.endpoint = self.request(schema.VcpuCreate, vcpu=0).endpoint
        self.vcpu = Peer(self.endpoint)
        self.epoch, self.seq, self.shown = 1, 0, 0
        for vector in range(32):  # exception handlers that halt, each at its own address
            self.ram.view[4 * vector : 4 * vector + 4] = (0x1000 + vector).to_bytes(4, "little")
        self.ram.view[0x1000:0x1020] = b"\xf4" * 32

    def request(self, kind, **fields):
        self.control_seq += 1
        return self.control.ask(kind(seq=self.control_seq, session=self.session, **fields))

    def share(self, number, ram):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as side:
            side.settimeout(100)
            side.connect(self.welcome.ram_socket)
            message = schema.Ram(seq=1, session=self.session, ram=number, size=ram.size, secret=self.welcome.secret)
            socket.send_fds(side, [codec.encode(message)], [ram.fd])
            answer = codec.decode(side.recv(65536))
        assert isinstance(answer, schema.Ok), answer

    def map(self, regions=None, a20=True):
        """The next map."""
        self.generation += 1
        return schema.Map(self.generation, list(MAP if regions is None else regions), a20)

    def set_map(self, regions=None, a20=True):
        answer = self.request(schema.MemoryMap, map=self.map(regions, a20))
        assert isinstance(answer, schema.Ok), answer

    def load(self, code, at=CODE):
        code = bytes.fromhex(code)
        self.ram.view[at : at + len(code)] = code

    def emulate(self, state=None, /, **fields):
        """Send an emulate message; returns what comes first."""
        self.start(state, **fields)
        heard = self.vcpu.receive()
        if isinstance(heard, (Io, Done)):
            self.shown = self.epoch  # the daemon has seen the secret
        return heard

    def start(self, state=None, /, **fields):
        """Send an emulate message."""
        self.seq += 1
        self.state = state if state is not None else real_mode()
        given = {
            "session": self.session,
            "vcpu": 0,
            "epoch": self.epoch,
            "seq": self.seq,
            "generation": self.generation,
            "state": groups(self.state),
            "secret": self.welcome.secret if self.epoch != self.shown else b"",
        }
        self.sent = Emulate(**{**given, **fields})
        self.vcpu.send(self.sent)

    def message(self, io, /, **fields):
        """The answer to a question."""
        given = {"session": self.session, "vcpu": 0, "epoch": self.epoch, "seq": self.seq, "io": io.io}
        return IoAnswer(**{**given, **fields})

    def answer(self, io, /, **fields):
        """Answer a question; returns what comes next."""
        return self.vcpu.ask(self.message(io, **fields))

    def kick(self, **fields):
        given = {"session": self.session, "vcpu": 0, "epoch": self.epoch, "seq": self.seq}
        self.vcpu.send(Kick(**{**given, **fields}))

    def finish(self, message, devices=None):
        """Answer questions until the run is over, reads with ``devices(io)``.

        Returns the questions and the done message, after which ``state`` is new.
        """
        seen = []
        while isinstance(message, Io):
            seen.append(message)
            reads = str(message.kind).endswith(("in", "read", "ack"))
            data = devices(message) if devices and reads else None
            if data is None:
                data = b"\xff" * (message.size * message.count) if reads else b""
            message = self.answer(message, data=data)
        assert isinstance(message, Done), message
        update(self.state, message.state)
        return seen, message

    def run(self, code, devices=None, state=None, **fields):
        """Load code, run it to its end; returns questions and the done message."""
        self.load(code)
        return self.finish(self.emulate(state, **fields), devices)

    def refused(self, message):
        assert isinstance(message, Error), message
        return message

    def close(self):
        self.vcpu.close()
        self.control.ask(schema.Bye(seq=1 << 40, session=self.session))
        self.control.close()
        self.ram.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
