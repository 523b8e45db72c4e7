"""Images, and the reader of what they say."""

from __future__ import annotations

import pytest

from dm.bench import image
from dm.bench.engines import BenchError, BenchMachine
from dm.bench.image import Reader
from dm.bench.kernels import KERNELS, Kernel


def test_size_and_reset_vector() -> None:
    rom = image.build(KERNELS["alu"], 1)
    assert len(rom) == 0x10000
    assert rom[0xFFF0:0xFFF5] == bytes.fromhex("ea000000f0")  # jmp f000:0


def test_rounds_are_the_only_difference() -> None:
    one, other = image.build(KERNELS["crc"], 0x01020304), image.build(KERNELS["crc"], 0x11121314)
    assert [(a, b) for a, b in zip(one, other, strict=True) if a != b] == [(4, 0x14), (3, 0x13), (2, 0x12), (1, 0x11)]


@pytest.mark.parametrize("rounds", [0, -1, 1 << 32])
def test_rounds_out_of_range(rounds: int) -> None:
    with pytest.raises(ValueError, match=f"{rounds} rounds: 1 to 4294967295"):
        image.build(KERNELS["alu"], rounds)


def test_too_large_a_kernel() -> None:
    with pytest.raises(ValueError, match=r"kernel huge: .* an image holds"):
        image.build(Kernel("huge", "", b"\x90" * 0xFC00), 1)


@pytest.mark.parametrize(("code", "reason"), [(b"\xf4", "halt"), (b"\xe6\x80", "port-out")])
def test_a_kernel_that_does_not_return(code: bytes, reason: str) -> None:
    machine = BenchMachine("native")
    with pytest.raises(BenchError, match=f"kernel lost ended with {reason}"):
        machine.run(Kernel("lost", "", code), 1)
    machine.close()


def test_reader_keeps_the_times_of_the_marks() -> None:
    reader = Reader()
    assert not reader.feed(b"boot 0123\n", 1.0)
    assert not reader.feed(b"\x02", 2.0)
    assert not reader.feed(b"\x02\x04", 2.5)
    assert not reader.feed(b"\x03", 4.5)
    assert not reader.feed(b"012345", 9.0)
    assert reader.feed(b"?:\x04", 9.5)
    assert reader.seconds == 2.5
    assert reader.checksum == 0x012345FA


def test_reader_in_one_piece() -> None:
    reader = Reader()
    assert reader.feed(b"x\x02\x0300000001\x04", 3.0)
    assert (reader.seconds, reader.checksum) == (0.0, 1)


@pytest.mark.parametrize(
    "text", [b"\x02\x031234567\x04", b"\x02\x0312345678", b"\x0312345678\x04", b"\x0212345678\x04"]
)
def test_reader_is_not_done_with_less(text: bytes) -> None:
    assert not Reader().feed(text, 1.0)


def test_reader_has_no_time_before_the_end() -> None:
    reader = Reader()
    reader.feed(b"\x02", 1.0)
    with pytest.raises(ValueError, match="has not ended"):
        _ = reader.seconds
