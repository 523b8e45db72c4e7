"""A scripted engine: runs a toy byte code out of guest memory at CS.base + RIP, so that tests drive all of it over
the wire.  Each letter is one instruction:

n             nothing                          I port16 size8     port in, to RAX
O port16 size8  port out, from RAX             B port16 count8    string port in of bytes, sum to RAX
R gpa32 size8 MMIO read, to RAX                W gpa32 size8      MMIO write, from RAX
P gpa32 val8  posted byte write                S gpa32 val8       store a byte to RAM
A val16       RAX = val                        J back8            jump back
h             halt                             F num8             firmware exit
M msr32       RDMSR to RAX                     X                  the engine breaks
Y             hypervisor exit                  E                  end of until (enterable)
"""

import struct
import threading

from dm.engine.api import FREELY, CpuConfig, Exit, ExitReason, MemoryMap, RegionKind, Until
from dm.machine.state import GROUPS, EventType, State, get_group, update


class FakeEngine:
    name = "fake"

    def __init__(self, config):
        if config.model == "80286":
            raise ValueError("the fake knows no 80286")
        self.config = config
        self.state = State.reset()
        self.map = MemoryMap(0, ())
        self.question = None
        self.reply = None
        self.delivered = []
        self.closed = False
        self._kick = threading.Event()

    def get_state(self):
        return self.state.copy()

    def set_state(self, state):
        self.state, self.question, self.reply = state.copy(), None, None

    def get_groups(self):
        return {group: get_group(self.state, group) for group in GROUPS}

    def set_groups(self, delta):
        state = self.state.copy()
        update(state, delta)
        self.set_state(state)

    def inject(self, event, vector, *, error=None, length=0):
        if self.state.inject_type != EventType.NONE:
            raise ValueError("inject: an event is pending already")
        self.state.inject_type, self.state.inject_vector = event, vector

    def set_map(self, memory):
        self.map = memory

    def kick(self):
        if self.closed:
            raise ValueError("closed")
        self._kick.set()

    def close(self):
        self.closed = True

    def answer(self, data=b"", *, fault=False):
        if self.question is None:
            raise ValueError("no question is open")
        self.reply = (bytes(data), fault)

    def _byte(self, gpa, length=1):
        for region in self.map.regions:
            if region.gpa <= gpa < region.gpa + region.size and region.memory is not None:
                at = gpa - region.gpa + region.offset
                return region.memory[at : at + length]
        return b"h" * length

    def _store(self, gpa, value):
        for region in self.map.regions:
            if region.gpa <= gpa < region.gpa + region.size and region.kind == RegionKind.RAM:
                region.memory[gpa - region.gpa + region.offset] = value

    def run(self, request=FREELY):
        s = self.state
        steps, posted, pages = 0, [], set()

        def end(reason, **what):
            return Exit(
                reason, steps=steps, instructions=steps, posted=tuple(posted), pages=tuple(sorted(pages)), **what
            )

        while True:
            if self.question is None:
                if steps >= request.budget:
                    return end(ExitReason.BUDGET)
                if self._kick.is_set():
                    self._kick.clear()
                    return end(ExitReason.KICKED)
                if s.inject_type != EventType.NONE:  # deliver: note it where a test can see it
                    s.gpr[7] = s.inject_vector
                    s.inject_type, s.inject_vector = EventType.NONE, 0
                    steps += 1
                    continue
                if request.window and s.rflags & 0x200 and not s.shadow:
                    return end(ExitReason.INTERRUPT_WINDOW)
            pc = s.cs.base + s.rip
            text = self._byte(pc, 8).ljust(8, b"h")
            if request.code and steps == 0:
                text = request.code.ljust(8, b"h")
            op, rest = chr(text[0]), text[1:]
            length = {
                "n": 1,
                "I": 4,
                "O": 4,
                "B": 4,
                "R": 6,
                "W": 6,
                "P": 6,
                "S": 6,
                "A": 3,
                "J": 2,
                "F": 2,
                "M": 5,
            }.get(op, 1)
            ask = None
            if op in "IOB":
                port, size = struct.unpack_from("<HB", rest)
                if op == "B":
                    ask = (ExitReason.PORT_IN, port, 1, size, b"")
                else:
                    data = s.gpr[0].to_bytes(8, "little")[:size] if op == "O" else b""
                    ask = (ExitReason.PORT_OUT if op == "O" else ExitReason.PORT_IN, port, size, 1, data)
            elif op in "RW":
                gpa, size = struct.unpack_from("<IB", rest)
                if request.mmio is not None and steps == 0 and request.mmio != gpa:
                    return end(ExitReason.MMIO_MISMATCH)
                data = s.gpr[0].to_bytes(8, "little")[:size] if op == "W" else b""
                ask = (ExitReason.MMIO_WRITE if op == "W" else ExitReason.MMIO_READ, gpa, size, 1, data)
            elif op == "M":
                ask = (ExitReason.MSR_READ, struct.unpack_from("<I", rest)[0], 8, 1, b"")
            elif request.mmio is not None and steps == 0:
                return end(ExitReason.MMIO_MISMATCH)
            if ask is not None:
                if self.reply is None:
                    self.question = ask
                    reason, address, size, count, data = ask
                    return end(reason, address=address, size=size, count=count, data=data)
                assert self.question == ask, "replay diverged"
                (data, fault), self.reply, self.question = self.reply, None, None
                if fault:
                    s.gpr[0] = 0xDEAD
                elif op == "B":
                    s.gpr[0] = sum(data)
                elif op in "IRM":
                    s.gpr[0] = int.from_bytes(data, "little")
            elif op == "P":
                gpa, value = struct.unpack_from("<IB", rest)
                posted.append((gpa, bytes([value])))
            elif op == "S":
                gpa, value = struct.unpack_from("<IB", rest)
                self._store(gpa, value)
                pages.add(gpa >> 12)
            elif op == "A":
                s.gpr[0] = struct.unpack_from("<H", rest)[0]
            elif op == "J":
                s.rip -= rest[0]
                steps += 1
                continue
            elif op == "h":
                s.rip += 1
                steps += 1
                return end(ExitReason.HALT)
            elif op == "F":
                return end(ExitReason.FIRMWARE, address=rest[0])
            elif op == "Y":
                return end(ExitReason.HYPERVISOR, address=0xFEE00000)
            elif op == "E":
                if request.until != Until.NEVER and not (request.progress and steps == 0):
                    return end(ExitReason.ENTERABLE)
            elif op == "X":
                raise RuntimeError("the fake engine breaks")
            elif op != "n":
                return end(ExitReason.UNSUPPORTED, detail=f"letter {op!r}")
            s.rip += length
            steps += 1


def create(config: CpuConfig) -> FakeEngine:
    return FakeEngine(config)
