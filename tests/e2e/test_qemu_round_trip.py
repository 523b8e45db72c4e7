"""States go through QEMU and come back as they were: every field that an accelerator keeps in a form of its own.

The daemon here is a stand-in that runs nothing: it ends each run with a state of its own and looks at what QEMU submits
next.  With ``native`` it leaves one instruction to the accelerator, so that the state goes through that, too.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from qemu_machine import Daemon, Qemu, poll

from dm.machine.state import GROUPS, State, get_group, set_group
from dm.protocol import codec, schema
from dm.protocol.schema import Done, DoneReason, Emulate, Message, Ok

pytestmark = pytest.mark.timeout(1800)  # building QEMU takes minutes

Boot = Callable[..., Qemu]
SEED = int(os.environ.get("DM_SEED", "20261201"))
SESSION, SECRET = 7, bytes(range(16))
NOP_AT = 0x6000


class StandIn:
    """A daemon with one session and one vCPU, whose runs end as ``answer`` says."""

    def __init__(self, endpoint: str) -> None:
        self._folder = Path(endpoint.removeprefix("ipc://")).parent
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.ROUTER)
        self._vcpu = self._context.socket(zmq.ROUTER)
        for made, name in ((self._control, "control"), (self._vcpu, "vcpu")):
            made.bind(f"ipc://{self._folder / name}")
        self._ram = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ram.bind(str(self._folder / "ram"))
        self._ram.listen(4)
        self.blocks: dict[int, mmap.mmap] = {}
        self._over = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve, self._take_ram)]
        for thread in self._threads:
            thread.start()
        self.seq = 0

    def _serve(self) -> None:
        while not self._over:
            if zmq.select([self._control], [], [], 0.1)[0]:
                identity, data = self._control.recv_multipart()
                self._control.send_multipart([identity, codec.encode(self._reply(codec.decode(data)))])
        self._control.close(linger=0)

    def _reply(self, asked: Any) -> Message:
        match asked:
            case schema.Hello():
                limits = {
                    name: getattr(schema, name.upper())
                    for name in ("max_message", "max_control", "max_data", "max_regions", "max_vcpus")
                }
                return schema.Welcome(
                    seq=asked.seq,
                    version=schema.VERSION,
                    session=SESSION,
                    features=asked.features,
                    timeout_ms=60000,
                    ram_socket=str(self._folder / "ram"),
                    daemon="stand-in",
                    engine="none",
                    secret=SECRET,
                    **limits,
                )
            case schema.VcpuCreate():
                place = f"ipc://{self._folder / 'vcpu'}"
                return schema.VcpuReady(seq=asked.seq, session=SESSION, vcpu=asked.vcpu, endpoint=place)
            case _:
                return Ok(seq=asked.seq, session=SESSION)

    def _take_ram(self) -> None:
        while True:
            try:
                peer = self._ram.accept()[0]
            except OSError:
                return
            with peer:
                while True:
                    data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
                    if not data:
                        break
                    block = codec.decode(data)
                    assert isinstance(block, schema.Ram)
                    self.blocks[block.ram] = mmap.mmap(fds[0], block.size)
                    for fd in fds:
                        os.close(fd)
                    peer.send(codec.encode(Ok(seq=block.seq, session=SESSION)))

    def submitted(self) -> tuple[bytes, Emulate]:
        """Return the next request, and who has sent it."""
        while True:
            assert self._vcpu.poll(60000), "QEMU hands nothing over"
            identity, data = self._vcpu.recv_multipart()
            message = codec.decode(data)
            if isinstance(message, Emulate) and message.seq > self.seq:  # not one more kick
                self.seq = message.seq
                return identity, message

    def end(self, identity: bytes, request: Emulate, groups: dict[str, Any], reason: DoneReason) -> None:
        """End a run with these groups; it may have written code and tables."""
        done = Done(
            session=SESSION,
            vcpu=0,
            epoch=request.epoch,
            seq=request.seq,
            reason=reason,
            state=groups,
            pages=[0x5000 >> 12, NOP_AT >> 12],
        )
        self._vcpu.send_multipart([identity, codec.encode(done)])

    def close(self) -> None:
        self._over = True
        self._ram.shutdown(socket.SHUT_RDWR)
        self._ram.close()
        self._threads[0].join()
        self._vcpu.close(linger=0)
        self._context.term()


@pytest.fixture
def stand_in(daemon: Daemon) -> Iterator[StandIn]:
    one = StandIn(daemon.endpoint)
    yield one
    one.close()


def descriptor(rng: random.Random, kind: int, level: int) -> dict[str, int]:
    """Return a present segment with some base, limit, and such bits as loads leave."""
    limit = rng.choice((0xFFFF, 0xFFFFFFFF, rng.getrandbits(20), rng.getrandbits(20) << 12 | 0xFFF))
    high = rng.choice((0, 1)) << 14 | rng.choice((0, 1)) << 12 | (limit > 0xFFFFF) << 15
    return {
        "selector": rng.getrandbits(14) << 2 | level,
        "base": rng.choice((0, rng.getrandbits(32))),
        "limit": limit,
        "attributes": 0x80 | kind | level << 5 | high,
        "unusable": 0,
    }


def random_state(rng: random.Random, state: State, accel: str) -> None:
    """Change whatever may be any value, in a state that policy `legacy` hands over."""
    state.gpr = [rng.getrandbits(64) for _ in range(8)]
    state.rip = rng.getrandbits(32)
    protected, virtual = rng.random() < 0.8, rng.random() < 0.2
    flags = rng.getrandbits(22) & 0x3F7DD5 | 2
    state.rflags = flags & ~0x20000 | (protected and virtual) << 17
    state.cr0 = 0x10 | rng.getrandbits(32) & 0x5002E | protected
    state.cr0 |= (protected and rng.random() < 0.3) << 31
    state.cr4 = rng.choice((0, rng.getrandbits(11) & 0x69F))
    if not state.cr0 >> 31:
        state.cr4 |= rng.choice((0, 0x20))
    state.cr2, state.cr3 = rng.getrandbits(32), rng.getrandbits(20) << 12
    state.efer = rng.choice((0, 1, 0x800, 0x801))
    state.cpl = 0 if not protected else 3 if virtual else rng.randrange(4)
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        segment = getattr(state, name)
        if protected and not virtual:
            kind = rng.choice((0x19, 0x1B, 0x1D, 0x1F)) if name == "cs" else rng.choice((0x11, 0x13, 0x15, 0x17))
            given = descriptor(rng, 0x13 if name == "ss" else kind, state.cpl)
            if name not in ("cs", "ss") and rng.random() < 0.3:  # a null selector
                given |= {"selector": rng.randrange(4), "unusable": 1, "attributes": given["attributes"] & ~0x80}
        else:
            given = descriptor(rng, 0x13, state.cpl)
            if protected:
                given |= {"base": given["selector"] << 4, "limit": 0xFFFF, "attributes": 0xF3}
        for field, value in given.items():
            setattr(segment, field, value)
    for segment, kind in ((state.ldtr, 2), (state.tr, rng.choice((3, 11)))):
        for field, value in descriptor(rng, kind, 0).items():
            setattr(segment, field, value)
        segment.attributes &= ~0x4000
    if rng.random() < 0.4:
        state.ldtr.selector, state.ldtr.unusable = rng.randrange(4), 1
        state.ldtr.attributes &= ~0x80
        if accel == "tcg":
            state.ldtr.base = state.ldtr.limit = 0
    state.gdtr_base, state.gdtr_limit = rng.getrandbits(32), rng.getrandbits(16)
    state.idtr_base, state.idtr_limit = rng.getrandbits(32), rng.getrandbits(16)
    state.dr = [rng.getrandbits(32) for _ in range(4)]
    state.dr6 = 0xFFFF0FF0 | rng.getrandbits(4) | rng.choice((0, 1 << 13, 1 << 14, 1 << 15))
    state.dr7 = 0x400 | rng.choice((0, rng.getrandbits(8)))
    state.sysenter_cs, state.sysenter_esp = rng.getrandbits(16), rng.getrandbits(32)
    state.sysenter_eip, state.star = rng.getrandbits(32), rng.getrandbits(64)
    state.lstar, state.cstar = rng.getrandbits(47), rng.getrandbits(47)
    state.fmask, state.kernel_gs_base = rng.getrandbits(32), rng.getrandbits(47)
    state.pat = int.from_bytes(bytes(rng.choice((0, 1, 4, 5, 6, 7)) for _ in range(8)), "little")
    state.mtrr_fixed = [
        int.from_bytes(bytes(rng.choice((0, 1, 4, 5, 6)) for _ in range(8)), "little") for _ in range(11)
    ]
    state.mtrr_def_type = rng.choice((0, 6, 0x806, 0xC06))
    state.mtrr_base = [rng.getrandbits(20) << 12 | rng.choice((0, 1, 4, 5, 6)) for _ in range(8)]
    state.shadow = rng.choice((0, 1) if accel == "tcg" else (0, 1, 2))
    state.nmi_blocked = rng.randrange(2)
    fx = bytearray(512)
    fx[0:2] = (rng.getrandbits(13) & 0x0F3F | 0x40).to_bytes(2, "little")
    status = rng.getrandbits(16) & 0x7F7F
    if status & ~fx[0] & 0x3F:  # an unmasked exception: processors set ES and B themselves
        status |= 0x8080
    fx[2:4] = status.to_bytes(2, "little")
    fx[4] = rng.getrandbits(8)
    fx[6:8] = rng.getrandbits(11).to_bytes(2, "little")
    fx[8:14], fx[16:22] = rng.randbytes(6), rng.randbytes(6)
    if accel == "kvm" and not status & 0x80:  # AMD's parts save pointers with ES alone (APM vol. 2, 11.5.4): another
        fx[6:24] = bytes(18)  # thread of the host that runs in between loses them
    fx[24:28] = (rng.getrandbits(16) & 0xFFBF).to_bytes(4, "little")
    fx[28:32] = (0xFFFF).to_bytes(4, "little")
    for at in range(32, 160, 16):
        fx[at : at + 10] = rng.randbytes(10)
    fx[160:416] = rng.randbytes(256)
    state.fxsave = bytes(fx)


def groups(state: State) -> dict[str, Any]:
    return {name: get_group(state, name) for name in GROUPS}


def take_in(state: State, request: Emulate) -> None:
    """Bring a state up to what has been submitted."""
    for name, values in request.state.items():
        set_group(state, name, values)


def differences(wanted: State, got: State) -> dict[str, Any]:
    """Return the groups that differ, time aside, which goes on."""
    return {
        name: (get_group(wanted, name), get_group(got, name))
        for name in GROUPS
        if name != "time" and get_group(wanted, name) != get_group(got, name)
    }


@pytest.mark.parametrize("accel", ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_states_come_back(machine: Boot, stand_in: StandIn, accel: str) -> None:
    """Into QEMU's form of the state and back, 300 random ones."""
    vm = machine("legacy", accel=accel)
    rng, state = random.Random(SEED), State.reset()
    identity, request = stand_in.submitted()
    take_in(state, request)
    wanted = state.copy()
    for n in range(300):
        random_state(rng, wanted, accel)
        stand_in.end(identity, request, groups(wanted), DoneReason.BUDGET)
        identity, request = stand_in.submitted()
        assert request.base, "QEMU has lost what it was told"
        state = wanted.copy()
        take_in(state, request)
        assert differences(wanted, state) == {}, f"number {n}, seed {SEED}"
    assert vm.status() == "running"


@pytest.mark.parametrize("accel", ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_states_go_through_the_accelerator(machine: Boot, stand_in: StandIn, accel: str) -> None:
    """Each runs one NOP there: nothing but RIP, RF and the shadow has changed."""
    vm = machine("legacy", accel=accel)
    rng, state = random.Random(SEED), State.reset()
    identity, request = stand_in.submitted()
    take_in(state, request)
    poll(lambda: any(block.size() == 128 << 20 for block in stand_in.blocks.values()), 60)
    ram = next(block for block in stand_in.blocks.values() if block.size() == 128 << 20)
    ram[NOP_AT] = 0x90
    wanted = state.copy()
    for n in range(60):
        random_state(rng, wanted, accel)
        wanted.rip = NOP_AT
        wanted.cr0 = 0x11 | rng.choice((0, 2, 4, 8, 0x20, 0x2E))
        wanted.rflags &= ~0x30300  # no trap, no interrupt, no virtual-8086 mode
        wanted.dr7, wanted.cpl = 0x400, 0
        for segment in (*wanted.seg[:6], wanted.ldtr, wanted.tr):
            segment.selector &= ~7
            segment.attributes &= ~0x60
        for name, base, attributes in (("cs", 0, 0xC09B), ("ss", 0, 0xC093)):
            segment = getattr(wanted, name)
            segment.base, segment.limit, segment.attributes = base, 0xFFFFFFFF, attributes
        for name in ("ds", "es", "fs", "gs"):
            if not (segment := getattr(wanted, name)).unusable:
                segment.attributes = segment.attributes & 0xFF00 | 0x93
        stand_in.end(identity, request, groups(wanted), DoneReason.HYPERVISOR)
        identity, request = stand_in.submitted()
        state = wanted.copy()
        take_in(state, request)
        while state.rip == NOP_AT:  # kicked before it ran
            stand_in.end(identity, request, {}, DoneReason.HYPERVISOR)
            identity, request = stand_in.submitted()
            take_in(state, request)
        wanted.rip, wanted.shadow = NOP_AT + 1, 0
        wanted.rflags &= ~0x10000
        assert differences(wanted, state) == {}, f"number {n}, seed {SEED}"
    assert vm.status() == "running"


def flat(state: State) -> None:
    """Make it flat protected mode with a GDT at 5000h, at the instruction."""
    state.cr0, state.efer, state.cr4, state.rflags, state.cpl, state.dr7 = 0x11, 0, 0, 2, 0, 0x400
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        segment = getattr(state, name)
        segment.selector, segment.base, segment.limit, segment.unusable = 8, 0, 0xFFFFFFFF, 0
        segment.attributes = 0xC09B if name == "cs" else 0xC093
    state.gdtr_base, state.gdtr_limit, state.rip, state.shadow = 0x5000, 0x3F, NOP_AT, 0


#: 8h and 10h flat and not accessed yet, 18h an available 32-bit TSS, 20h an LDT.
GDT = (0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x0000890030000067, 0x0000820031000027)
#: Code, EAX, and what is then in which segment: selector, attributes (None: unusable).
LOADS = {
    "ltr": ("0f00d8", 0x18, "tr", 0x18, 0x8B),
    "lldt": ("0f00d0", 0x20, "ldtr", 0x20, 0x82),
    "lldt-null": ("0f00d0", 0, "ldtr", 0, None),
    "mov-ds": ("8ed8", 0x10, "ds", 0x10, 0xC093),
    "mov-ds-null": ("8ed8", 1, "ds", 1, None),
    "jmp-far": ("ea076000000800", 0, "cs", 8, 0xC09B),
    "mov-es-code": ("8ec0", 0x08, "es", 0x08, 0xC09B),
}


@pytest.mark.parametrize("accel", ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_what_the_accelerator_loads_is_as_hardware_has_it(machine: Boot, stand_in: StandIn, accel: str) -> None:
    """Accessed bits, TR's busy bit, null selectors: executed there, seen by the daemon."""
    machine("legacy", accel=accel)
    identity, request = stand_in.submitted()
    wanted = State.reset()
    take_in(wanted, request)
    poll(lambda: any(block.size() == 128 << 20 for block in stand_in.blocks.values()), 60)
    ram = next(block for block in stand_in.blocks.values() if block.size() == 128 << 20)
    for name, (code, eax, where, selector, attributes) in LOADS.items():
        ram[0x5000:0x5028] = b"".join(entry.to_bytes(8, "little") for entry in GDT)
        ram[NOP_AT : NOP_AT + len(code) // 2] = bytes.fromhex(code)
        flat(wanted)
        wanted.eax = eax
        got = wanted.copy()
        for _ in range(3):  # it may be kicked before it runs
            stand_in.end(identity, request, groups(wanted), DoneReason.HYPERVISOR)
            identity, request = stand_in.submitted()
            got = wanted.copy()
            take_in(got, request)
            if got.rip != NOP_AT:
                break
        assert got.rip == NOP_AT + len(code) // 2, name
        segment = getattr(got, where)
        assert (segment.selector, segment.unusable) == (selector, attributes is None), name
        if attributes is not None:
            assert hex(segment.attributes) == hex(attributes), name
        wanted = got


def test_tcg_has_its_own_form(machine: Boot, stand_in: StandIn) -> None:
    """TR is never busy there, which it aborts at, and an LDT without limit is none."""
    vm = machine("legacy")
    identity, request = stand_in.submitted()
    wanted = State.reset()
    take_in(wanted, request)
    flat(wanted)
    for kind, shown in ((0x8B, "00008900 DPL=0 TSS32-avl"), (0x83, "00008100 DPL=0 TSS16-avl")):
        tr = wanted.tr
        tr.selector, tr.base, tr.limit, tr.attributes = 0x18, 0x3000, 0x67, kind
        wanted.ldtr.selector, wanted.ldtr.limit, wanted.ldtr.attributes, wanted.ldtr.unusable = 0, 0x27, 0x02, 1
        stand_in.end(identity, request, groups(wanted), DoneReason.BUDGET)
        identity, request = stand_in.submitted()
        registers = vm.hmp("info registers")
        assert f"TR =0018 00003000 00000067 {shown}" in registers
        assert "LDT=0000 00000000 00000000 00000200" in registers
