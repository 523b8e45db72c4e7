"""The session that ``protocol/golden/v1/session.json`` holds: what it does, with the client of either version."""

from __future__ import annotations

from dm.machine.state import State
from dm.protocol import schema
from dm.shim.answer import Answer
from dm.shim.client import Shim
from dm.shim.ram import Ram

SIZE = 1 << 20
#: out 80h; in al, 60h; mov [2000h], al; inc byte [a000:10]; mov byte [b800:0], 'A'; rep insw (4); rdmsr; sti; nop; hlt
CODE = bytes.fromhex(
    "b041 e680 e460 a20020 b800a0 8ed8 fe061000 b800b8 8ed8 c606000041"
    "b90400 bf0030 baf001 f36d 66b978563412 0f32 fb 90 f4"
)
HANDLER = bytes.fromhex("40 f4")
REGIONS = [
    schema.Region(0, 0xA0000, schema.Kind.RAM, 1),
    schema.Region(0xA0000, 0x1000, schema.Kind.MMIO),
    schema.Region(0xB8000, 0x8000, schema.Kind.COALESCED),
]


def start(rip=0x7C00):
    """Real mode with zeros in all that matters; virtual time."""
    state = State.reset()
    state.cr0, state.idtr_base, state.idtr_limit = 0x10, 0, 0x3FF
    state.cs.selector, state.cs.base, state.rip, state.esp = 0, 0, rip, 0x7000
    return state


def play(endpoint, features=("ram-fd", "coalesced", "acknowledge", "checkpoint", "explain")):
    """Do it all; returns what a hypervisor would have seen."""
    seen = []
    with Shim.connect(endpoint, "v1", features) as shim, Ram(SIZE) as ram:
        ram.view[0x7C00 : 0x7C00 + len(CODE)] = CODE
        ram.view[0x21 * 4 : 0x21 * 4 + 4] = (0x5000).to_bytes(4, "little")
        ram.view[0x5000 : 0x5000 + len(HANDLER)] = HANDLER
        block = shim.add_ram(ram)
        shim.set_map(REGIONS)
        vcpu = shim.create_vcpu(0)

        def on_io(io):
            seen.append((str(io.kind), io.address, io.size, io.count, bytes(io.data)))
            if io.kind is schema.IoKind.INTERRUPT_ACK:
                return b"\x21"
            if io.address == 0x80:
                return Answer(map=shim.next_map(REGIONS), window=True)
            return bytes(range(0x30, 0x30 + io.size * io.count)) if not io.data else None

        posted = []
        state = start()
        done = vcpu.run(
            state,
            on_io=on_io,
            on_posted=lambda gpa, data: posted.append((gpa, data)),
            acknowledge=True,
            reason="failure",
            until="protected",
            microseconds=10_000_000,
            checkpoint=True,
        )
        seen.append((str(done.reason), done.instructions, state.rip, state.eax, posted))
        state.rip = 0x5000
        state.activity = 0
        done = vcpu.run(state, steps=1, explain=True, until="vmx")
        seen.append((str(done.reason), done.steps, state.eax, sorted(row.rule for row in done.failing)))
        state.rip = 0x5000
        done = vcpu.run(state, until="vmx-ug", inject=schema.Event(4, 0x21, length=2))
        seen.append((str(done.reason), state.rip))
        shim.set_map(REGIONS[:1])
        counters = shim.counters()
        seen.append((counters.generation, [row.requests for row in counters.vcpus]))
        shim.destroy_vcpu(0)
        seen.append(block)
    return seen
