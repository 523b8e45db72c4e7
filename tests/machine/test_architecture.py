"""Architectural constants: what they are in C, and how masks are used."""

from __future__ import annotations

import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from dm.machine import architecture as arch
from dm.machine.header import PRINTED, header
from dm.machine.state import State


def test_every_enumeration_is_printed() -> None:
    found = {v for v in vars(arch).values() if isinstance(v, type) and issubclass(v, IntEnum) and v is not IntEnum}
    assert found <= set(PRINTED.values())


def test_the_header_gives_a_c_compiler_the_same_values(tmp_path: Path) -> None:
    (tmp_path / "architecture.h").write_text(header())
    asserts = [
        f'_Static_assert({prefix}_{name} == {int(member)}ull, "{name}");'
        for prefix, enum in PRINTED.items()
        for name, member in enum.__members__.items()
    ]
    source = tmp_path / "check.c"
    source.write_text("\n".join(['#include "architecture.h"', *asserts, ""]))
    command = ["cc", "-std=gnu11", "-Werror", "-Wall", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(asserts) > 200


def test_masks_are_ordinary_integers() -> None:
    """Bits that have no name survive ``~``, and a state takes what masks are put together to."""
    state = State()
    state.rflags = 1 << 40 | arch.Eflags.IF | arch.Eflags.FIXED
    assert state.rflags & ~arch.Eflags.IF == 1 << 40 | 2
    assert type(arch.Cr0.PE | arch.Cr0.PG) is int


@pytest.mark.parametrize(
    ("mask", "low"), [(arch.Cr0.PE, 0), (arch.Cr0.PG, 31), (arch.Eflags.IOPL, 12), (arch.Entry.XD, 63)]
)
def test_position_is_the_lowest_bit(mask: int, low: int) -> None:
    assert arch.position(mask) == low


def test_nothing_has_no_position() -> None:
    with pytest.raises(ValueError, match="positive"):
        arch.position(0)


def test_breakpoints_have_their_fields_in_dr7() -> None:
    assert [arch.breakpoint_enable(n) for n in range(4)] == [0x3, 0xC, 0x30, 0xC0]
    assert [arch.breakpoint_type(n) for n in range(4)] == [0x30000, 0x300000, 0x3000000, 0x30000000]
    assert [arch.breakpoint_length(n) for n in range(4)] == [0xC0000, 0xC00000, 0xC000000, 0xC0000000]
