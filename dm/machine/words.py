"""The words of a run, said once: region kinds, who runs the state next, why a run ends.

Engines (:mod:`dm.engine.api` hands them on), the wire (:mod:`dm.protocol.schema`) and the client all use them.
:func:`dm.machine.header.words_header` prints them for C, numbered in this order.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class RegionKind(IntEnum):
    """How a range of guest-physical memory answers.  Addresses that no region covers are holes.

    RAM: reads, writes and fetches are local.  ROM: reads and fetches local, writes exit as MMIO.  MMIO: all exit.
    COALESCED: reads exit, writes are posted in order (:attr:`Exit.posted`).  HYPERVISOR: touching it ends the run
    before the instruction.  FIRMWARE: as ROM, but fetching an instruction there ends the run with exit ``firmware``.
    HOLE: as MMIO; the kind of an address without a region.
    """

    RAM = 0
    ROM = 1
    MMIO = 2
    COALESCED = 3
    HYPERVISOR = 4
    FIRMWARE = 5
    HOLE = 6


class Until(StrEnum):
    """Who will run the state next; the run ends with ``enterable`` as soon as that one can take it."""

    VMX = "vmx"
    VMX_UG = "vmx-ug"
    VMX_RAW = "vmx-raw"
    SVM = "svm"
    SVM_RAW = "svm-raw"
    PROTECTED = "protected"
    INSTRUCTIONS = "instructions"
    NEVER = "never"


class ExitReason(StrEnum):
    """Why :meth:`Engine.run` returned.

    The first block are questions in the middle of an instruction: call :meth:`Engine.answer`, then run again.  All
    others occur at an instruction boundary.
    """

    PORT_IN = "port-in"
    PORT_OUT = "port-out"
    MMIO_READ = "mmio-read"
    MMIO_WRITE = "mmio-write"
    MSR_READ = "msr-read"
    MSR_WRITE = "msr-write"
    MEMORY_COPY = "memory-copy"

    BUDGET = "budget"
    KICKED = "kicked"
    ENTERABLE = "enterable"
    HALT = "halt"
    SHUTDOWN = "shutdown"
    DEBUG = "debug"
    INTERRUPT_WINDOW = "interrupt-window"
    FIRMWARE = "firmware"
    HYPERVISOR = "hypervisor"
    UNSUPPORTED = "unsupported"
    MMIO_MISMATCH = "mmio-mismatch"
    MEMORY_LOST = "memory-lost"
    PAGE_FAULT = "page-fault"


#: Reasons that are questions in mid-instruction.
QUESTIONS = frozenset(
    {
        ExitReason.PORT_IN,
        ExitReason.PORT_OUT,
        ExitReason.MMIO_READ,
        ExitReason.MMIO_WRITE,
        ExitReason.MSR_READ,
        ExitReason.MSR_WRITE,
        ExitReason.MEMORY_COPY,
    }
)
