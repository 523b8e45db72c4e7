"""The kernels compute what they claim to, and the same on every engine."""

from __future__ import annotations

import zlib

import pytest

from dm.bench.engines import BenchMachine
from dm.bench.kernels import DATA, KERNELS, MEMORY, ORIGIN, real_mode
from dm.engine import create
from dm.engine.api import CpuConfig, ExitReason, MemoryMap, Region, RegionKind
from dm.machine.state import State

ENGINES = ("native", "python")

#: Checksum of each image after three rounds; QEMU TCG, Bochs, Unicorn and KVM gave the same (test_peers.py).
CHECKSUMS = {
    "alu": 0x129AA909,
    "sieve": 0x4F776C4C,
    "fib": 0x12B965F2,
    "crc": 0xE52746BE,
    "str": 0x83920B76,
    "branchy": 0x7E340065,
    "call32": 0x010402EE,
    "rmw-mmio": 0x12BA4E4E,
}

RETURN = 0x700


def called(name: str, rounds: int) -> tuple[State, bytearray]:
    """Call a real-mode kernel on the native engine; returns the state and memory it leaves."""
    kernel = KERNELS[name]
    memory = bytearray(MEMORY)
    for address, data in ((ORIGIN, kernel.code), *kernel.memory, (RETURN, b"\xf4")):
        memory[address : address + len(data)] = data
    state = real_mode()
    state.ecx = rounds
    state.esp -= 2
    memory[state.esp : state.esp + 2] = RETURN.to_bytes(2, "little")
    engine = create("native", CpuConfig())
    engine.set_map(MemoryMap(1, (Region(0, MEMORY, RegionKind.RAM, memory),)))
    engine.set_state(state)
    assert engine.run().reason is ExitReason.HALT
    end = engine.get_state()
    engine.close()
    return end, memory


def noise(name: str) -> bytes:
    ((address, data),) = KERNELS[name].memory
    assert address == DATA
    return data


def test_crc_is_crc32() -> None:
    state, _ = called("crc", 1)
    assert state.eax ^ 0xFFFFFFFF == zlib.crc32(noise("crc"))


def test_fib_is_fibonacci() -> None:
    state, _ = called("fib", 1)
    assert state.eax & 0xFFFF == 2584  # F(18)


def test_sieve_leaves_the_primes() -> None:
    _, memory = called("sieve", 1)
    found = [n for n in range(2, 0x4000) if memory[DATA + n]]
    assert found == [n for n in range(2, 0x4000) if all(n % d for d in range(2, int(n**0.5) + 1))]


def test_str_copies_and_mixes() -> None:
    _, memory = called("str", 2)
    data = noise("str")
    assert memory[0xA000:0xA100] == bytes(byte ^ 0x5A for byte in data[:256])
    assert memory[0xA100:0xA400] == data[256:]


def test_branchy_is_large_and_runs_all_over() -> None:
    kernel = KERNELS["branchy"]
    assert len(kernel.code) > 20_000
    machine = BenchMachine("native")
    per_round = (machine.run(kernel, 40).instructions - machine.run(kernel, 20).instructions) / 20
    machine.close()
    assert per_round > 1500 * 5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", KERNELS)
def test_checksum(name: str, engine: str) -> None:
    machine = BenchMachine(engine)
    ran = machine.run(KERNELS[name], 3)
    machine.close()
    assert ran.checksum == CHECKSUMS[name], hex(ran.checksum)
    assert ran.instructions > 0
    assert ran.seconds > 0


@pytest.mark.parametrize("name", KERNELS)
def test_more_rounds_are_more_instructions(name: str) -> None:
    machine = BenchMachine("native")
    few, many = (machine.run(KERNELS[name], rounds) for rounds in (10, 20))
    machine.close()
    assert many.instructions > 1.8 * few.instructions - 50


def test_checksum_tells_a_wrong_register_and_a_wrong_byte() -> None:
    right = KERNELS["alu"]
    machine = BenchMachine("native")
    wanted = machine.run(right, 3).checksum
    for code in (b"\x45" + right.code, b"\xc6\x06\x23\x91\x01" + right.code):  # inc bp; mov byte [9123h], 1
        broken = type(right)("broken", "", code)
        assert machine.run(broken, 3).checksum != wanted
    machine.close()
