"""Random x87 programs leave the same state and memory on both engines, step by step."""

from __future__ import annotations

import random

import pytest
from guest import RAM, Machine, make_engine, protected_mode, real_mode

from dm.engine.api import CpuConfig, RunRequest
from dm.engine.parts import part
from dm.machine.state import State

#: Significands and exponents at which something happens.
_SIGNIFICANDS = (0, 1, 1 << 62, 1 << 63, 1 << 63 | 1, 3 << 62, (1 << 64) - 1, (1 << 63) - 1)
_EXPONENTS = (0, 1, 2, 0x3BCD, 0x3C01, 0x3F6A, 0x3F81, 0x3FFE, 0x3FFF, 0x4000, 0x403E, 0x407F, 0x43FF, 0x7FFE, 0x7FFF)


def _register(r: random.Random) -> bytes:
    significand = r.choice((*_SIGNIFICANDS, r.getrandbits(64), r.getrandbits(64) | 1 << 63, r.getrandbits(24) << 40))
    exponent = r.choice((*_EXPONENTS, r.getrandbits(15), 0x3FFF + r.randint(-70, 70)))
    return (significand | (exponent | r.getrandbits(1) << 15) << 64).to_bytes(10, "little")


def _image(r: random.Random) -> bytes:
    image = bytearray(512)
    control = 0x40 | r.choice((0x3F, 0x3F, r.getrandbits(6))) | r.getrandbits(2) << 8 | r.getrandbits(2) << 10
    status = r.getrandbits(16) & 0x7F40 | (r.getrandbits(6) & control)
    image[0:4] = control.to_bytes(2, "little") + status.to_bytes(2, "little")
    image[4] = r.choice((255, r.getrandbits(8)))
    for n in range(8):
        image[32 + 16 * n : 42 + 16 * n] = _register(r)
    image[24:28] = b"\x80\x1f\0\0"
    return bytes(image)


def _code(r: random.Random) -> bytes:
    """A few instructions of D8-DF and FWAIT, operands in registers or at a fixed place."""
    out = bytearray()
    for _ in range(r.randint(1, 8)):
        if r.random() < 0.1:
            out.append(0x66)
        if r.random() < 0.05:
            out.append(0x9B)
            continue
        opcode, reg = 0xD8 + r.randrange(8), r.randrange(8)
        if r.random() < 0.5:
            out += bytes((opcode, 0xC0 | reg << 3 | r.randrange(8)))
        else:
            out += bytes((opcode, reg << 3 | 6)) + (0x3000 + 16 * r.randrange(8)).to_bytes(2, "little")
    return bytes(out) + b"\xf4"


def _state(r: random.Random) -> State:
    s = real_mode(0x7C00) if r.random() < 0.5 else protected_mode(0x7C00)
    s.cs.attributes &= ~0x4000
    s.cr0 |= 0x20
    s.fxsave = _image(r)
    return s


@pytest.mark.parametrize("seed", range(40))
def test_both_engines_compute_the_same(seed: int) -> None:
    r = random.Random(seed)
    name = r.choice(("intel", "amd", "x86-64", "amd-x86-64"))
    config: CpuConfig = part(name)
    for _ in range(5):
        state, code = _state(r), _code(r)
        data = b"".join(_register(r) + r.randbytes(6) for _ in range(16))
        results = []
        for engine in ("native", "python"):
            machine = Machine(make_engine(engine, config))
            try:
                machine.ram[0x7C00 : 0x7C00 + len(code)] = code
                machine.ram[0x3000 : 0x3000 + len(data)] = data
                machine.engine.set_state(state)
                steps = []
                for _ in range(12):
                    end = machine.engine.run(RunRequest(budget=1))
                    after = machine.engine.get_state()
                    steps.append((end.reason, end.detail, after.rip, after.rflags, after.fxsave))
                    if after.rip < 0x7C00 or after.rip >= 0x7C00 + len(code):
                        break
                results.append((steps, bytes(machine.ram[:RAM])))
            finally:
                machine.engine.close()
        assert results[0][0] == results[1][0], (name, code.hex(" "), state.fxsave[:8].hex())
        assert results[0][1] == results[1][1], (name, code.hex(" "))
