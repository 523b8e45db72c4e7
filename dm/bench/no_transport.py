"""What a request of the daemon takes without its transport: the exchange in C, with a libzmq that carries nothing.

From the message's bytes to the reply's: decoding and checks, the state in, one instruction, the state's changes out,
encoding.  Registers go in and come out with every request.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from dm.bench.engines import BenchError, BenchMachine, Figure
from dm.bench.kernels import MEMORY, ORIGIN, Kernel, real_mode
from dm.bench.programs import Skipped
from dm.engine.api import MemoryMap, Region, RegionKind
from dm.machine.groups import flatten
from dm.machine.state import GROUPS, State, get_group
from dm.protocol import codec, libzmq, schema
from dm.server.vcpu.exchange import Cause, Exchange
from dm.server.vcpu.run import MOST_STEPS, POSTED_NS, SLICE_NS, Slice

_SOURCE: Final = Path(__file__).with_suffix(".c")
#: Sequence numbers begin here, so that each takes four bytes, as no other value of these messages does.
_FIRST: Final = 0x51A7_0000
_MOST: Final = 4096


def _library(directory: Path) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Skipped("it needs a C compiler")
    made = directory / "no_transport.so"
    command = [compiler, "-std=gnu11", "-O2", "-fPIC", "-shared", str(_SOURCE), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{_SOURCE.name} cannot be compiled: {done.stderr[-500:]}")
    library = ctypes.CDLL(str(made))
    size = ctypes.c_size_t
    library.begin.argtypes = ctypes.c_char_p, size, size, size, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p
    library.begin.restype = None
    library.last_reply.restype = size
    return library


class _Requests:
    """An engine behind the exchange, and requests for it."""

    def __init__(self, kernel: Kernel, directory: Path) -> None:
        from dm.server.vcpu._exchange import ffi  # only where it is built

        self._ffi = ffi
        self._machine = BenchMachine("native")
        memory = bytearray(MEMORY)
        memory[ORIGIN : ORIGIN + len(kernel.code)] = kernel.code
        self._machine.engine.set_map(MemoryMap(2, (Region(0, MEMORY, RegionKind.RAM, memory),)))
        reset = {group: get_group(State.reset(), group) for group in GROUPS}
        self._exchange = Exchange(self._machine.engine, 1, 0, None, reset)
        self._library = _library(directory)
        c = self._exchange.c
        found = (ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value for name in libzmq.NAMES)
        c.links.zmq = [self._ffi.cast("void *", address) for address in found]
        c.slice_ns, c.most_slice, c.posted_ns, c.kept.slice = SLICE_NS, MOST_STEPS, POSTED_NS, Slice().steps
        c.kept.epoch, c.generation, c.peer, c.peer_size, c.kept.last = 1, 2, b"p", 1, _FIRST - 1
        state = real_mode()
        state.ecx = 0x7FFF_FFFF
        self._groups = flatten(state)
        self._next = _FIRST
        self._make(whole=True, count=1)

    def _make(self, whole: bool, count: int) -> schema.Done:
        """Carry out requests and return the last reply."""
        delta = self._groups if whole else {"general": self._groups["general"]}
        base = 0 if whole else _FIRST - 1
        emulate = schema.Emulate(
            session=1, vcpu=0, epoch=1, seq=_FIRST, generation=2, base=base, reason=schema.Reason.REQUEST, state=delta
        )
        emulate.steps = 1
        data = codec.encode(emulate)
        seq_at = data.index(_FIRST.to_bytes(4, "big"))
        base_at = 0 if whole else data.index((_FIRST - 1).to_bytes(4, "big"))
        c = self._exchange.c
        called = int(self._ffi.cast("uintptr_t", self._ffi.addressof(c, "called")))
        self._library.begin(data, len(data), seq_at, base_at, self._next, count, called)
        c.called = 0
        cause = self._exchange.serve()
        if cause is not Cause.CALLS:
            raise BenchError(f"the exchange left a request to Python ({cause.name})")
        self._next += count
        reply = ctypes.create_string_buffer(_MOST)
        size = self._library.last_reply(reply)
        done = codec.decode(reply.raw[:size])
        if not isinstance(done, schema.Done) or done.seq != self._next - 1 or done.steps != 1:
            raise BenchError(f"a request was answered by {done}")
        return done

    def time(self, count: int) -> float:
        """Return the microseconds of each of ``count`` requests."""
        started = time.perf_counter()
        self._make(whole=False, count=count)
        return (time.perf_counter() - started) / count * 1e6

    def close(self) -> None:
        """End."""
        del self._exchange
        self._machine.close()


def single_request(kernel: Kernel, runs: int, count: int) -> list[Figure]:
    """Return microseconds of one instruction as a request with registers in and out, as the daemon carries it out.

    Raises:
        Skipped, BenchError: there is no compiler; something fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        requests = _Requests(kernel, Path(folder))
        try:
            return [Figure.of("single request without transport", "us", [requests.time(count) for _ in range(runs)])]
        finally:
            requests.close()
