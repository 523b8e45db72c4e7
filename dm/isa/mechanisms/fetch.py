"""Fetching an instruction: limit of CS, pages, 15 bytes, and what comes of bytes that are none."""

from __future__ import annotations

from typing import Final

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import BASE, CODE_END, EIP, LIMIT
from dm.isa.mechanisms.access import PAGE, privilege
from dm.isa.mechanisms.mode import fault_if
from dm.machine.architecture import Access, Vector
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

#: Bytes of the longest instruction (SDM vol. 2, 2.3.11).
LONGEST: Final = 15


@procedure(result=32, eip=32)
def code_linear(m: Microcode, eip: Value) -> None:
    """Return the linear address of CS:``eip``, which wraps at 4 GiB."""
    m.return_(m.get(BASE, Seg.CS).trunc(32) + eip)


@procedure(result=1, eip=32, size=32)
def beyond_code(m: Microcode, eip: Value, size: Value) -> None:
    """Return whether ``size`` bytes of code at CS:``eip`` go beyond the limit of CS."""
    m.return_(eip.zext(64) + size.zext(64) > m.get(CODE_END))


@procedure(result=64, count=32)
def fetch_address(m: Microcode, count: Value) -> None:
    """Return the guest-physical address of an instruction's next byte, ``count`` bytes being fetched.

    #GP(0) beyond the limit of CS, #PF by the page (SDM vol. 3A, 5.3 and 4.6).
    """
    offset = m.get(EIP).zext(64) + count.zext(64)
    limit = m.get(LIMIT, Seg.CS)
    fault_if(m, offset >= m.get(CODE_END), Vector.GP, 0, "CS_FETCH_LIMIT", offset.trunc(32), limit)
    linear = m.call(code_linear, offset.trunc(32))
    m.return_(m.call(p.TRANSLATE, linear, m.call(privilege) | Access.FETCH))


@procedure(result=32, count=32)
def fetch_room(m: Microcode, count: Value) -> None:
    """Return how many bytes can be fetched behind the first ``count`` before page, limit or length ends; 0 for none."""
    offset = m.get(EIP).zext(64) + count.zext(64)
    end = m.get(CODE_END)
    with m.If(offset >= end):
        m.return_(0)
    in_page = PAGE - (m.call(code_linear, offset.trunc(32)) & (PAGE - 1))
    room = m.select(in_page < LONGEST - count, in_page, LONGEST - count)
    in_limit = end - offset
    m.return_(m.select(in_limit < room.zext(64), in_limit.trunc(32), room))


@procedure()
def too_long(m: Microcode) -> None:
    """#GP(0) for an instruction of more than 15 bytes (SDM vol. 3A, 6.15, interrupt 13)."""
    ends.fault(m, Vector.GP, 0, "TOO_LONG", m.get(EIP))


@procedure()
def no_such_opcode(m: Microcode) -> None:
    """#UD for bytes that are no instruction."""
    ends.fault(m, Vector.UD, 0, "NO_SUCH_OPCODE")
