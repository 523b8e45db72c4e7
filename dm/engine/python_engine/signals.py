"""Why an instruction or a delivery is abandoned: exceptions that primitives raise and the run loop catches."""

from __future__ import annotations

from dm.engine.api import ExitReason


class Abandon(Exception):
    """Base class: nothing of the current instruction (since its last COMMIT) has happened."""


class Fault(Abandon):
    """A guest exception: vector, error code, cause (a name of dm.isa.ends.CAUSES) and its three operands."""

    def __init__(self, cause: str, vector: int, error: int, a: int = 0, b: int = 0, c: int = 0) -> None:
        super().__init__(cause, vector, error, a, b, c)
        self.cause, self.vector, self.error, self.operands = cause, vector, error, (a, b, c)


class Unsupported(Abandon):
    """The processor has this, the emulator does not; ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class NeedExact(Abandon):
    """The fast path cannot do this: start over in exact mode."""


class Again(Abandon):
    """Somebody else changed a locked operand: start over with its new value."""


class Mismatch(Abandon):
    """The first instruction does not touch the address that the request named; ``address`` is what it touched, or 0."""

    def __init__(self, address: int = 0) -> None:
        super().__init__(address)
        self.address = address


class PagedRealModeFault(Abandon):
    """A page fault of SVM's paged real mode, which is the hypervisor's: linear address and error code."""

    def __init__(self, address: int, error: int) -> None:
        super().__init__(address, error)
        self.address, self.error = address, error


class Hypervisor(Abandon):
    """The instruction touches memory that only the hypervisor has, or is the hypervisor's own (``what``)."""

    def __init__(self, address: int, what: str = "") -> None:
        super().__init__(address, what)
        self.address, self.what = address, what


class FirmwareReached(Abandon):
    """An instruction was to be fetched from a FIRMWARE region, at this guest-physical address."""

    def __init__(self, address: int) -> None:
        super().__init__(address)
        self.address = address


class Question(Abandon):
    """The outside must answer first."""

    def __init__(
        self, reason: ExitReason, address: int, size: int, count: int, data: bytes, down: bool = False, target: int = 0
    ) -> None:
        super().__init__(reason, address, size, count, data, down, target)
        self.reason, self.address, self.size, self.count, self.data = reason, address, size, count, data
        self.down, self.target = down, target

    @property
    def expected(self) -> int:
        """Number of bytes that its answer has."""
        reads = (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ)
        return self.size * self.count if self.reason in reads else 0
