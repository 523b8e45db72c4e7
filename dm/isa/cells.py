"""Cells of the machine that microcode reads and writes.

Architectural cells come from the state table (:mod:`dm.machine.cells`); the few that follow them here exist only while
an engine runs and are converted where a state enters or leaves it.
"""

from __future__ import annotations

from typing import Final

from dm.machine.cells import EIP as EIP
from dm.machine.cells import FLAGS as FLAGS
from dm.machine.cells import cell as cell
from dm.machine.state import Seg
from dm.microcode import Field

# General registers by operand size.  Index 8 of GPR32 reads as zero ("no base", "no index").
GPR8: Final = Field("gpr8", 8, 8, view="gpr")  # AL CL DL BL AH CH DH BH
GPR16: Final = Field("gpr16", 16, 8, view="gpr")
GPR32: Final = Field("gpr32", 32, 9, view="gpr")
#: All of a register: what goes into 64-bit frames and comes out of a 64-bit TSS.
GPR64: Final = Field("gpr64", 64, 9, view="gpr")

# Lazy arithmetic flags; see dm.isa.flags for their meaning.
FR: Final = Field("fr", 32, register=True)
FC: Final = Field("fc", 32, register=True)
SELECTOR: Final = cell("seg.selector")
BASE: Final = cell("seg.base")
LIMIT: Final = cell("seg.limit")
ATTRIBUTES: Final = cell("seg.attributes")
UNUSABLE: Final = cell("seg.unusable")
CR0: Final = cell("cr0")
CR2: Final = cell("cr2")
CR3: Final = cell("cr3")
CR4: Final = cell("cr4")
EFER: Final = cell("efer")
CPL: Final = cell("cpl")
DR: Final = cell("dr")
DR6: Final = cell("dr6")
DR7: Final = cell("dr7")

# Constant while a vCPU lives; set by the engine from CpuConfig.
#: What of dm.isa.features.TABLE the guest's CPUID shows: the first 64, and the rest.
FEATURES: Final = Field("features", 64, architectural=False)
MORE_FEATURES: Final = Field("more_features", 64, architectural=False)
#: Whose part it is (dm.isa.features.VENDORS).
VENDOR: Final = Field("vendor", 8, architectural=False)
#: 2: 80286, 3: 80386, 6: P6 class.
MODEL: Final = Field("model", 8, architectural=False)

# Kept by the engine.
# What follows from segment registers and mode (dm.isa.mechanisms.access, derive_segment).
#: Behind the last byte that may be read, written, or both through a segment without a further look; 0: none.
READ_END: Final = Field("seg.read_end", 64, len(Seg), architectural=False)
WRITE_END: Final = Field("seg.write_end", 64, len(Seg), architectural=False)
CHANGE_END: Final = Field("seg.change_end", 64, len(Seg), architectural=False)
#: Behind the last byte of code: CS.limit + 1.
CODE_END: Final = Field("code_end", 64, architectural=False)
#: Mask of the stack pointer: FFFFh or FFFFFFFFh by SS.B.
STACK_MASK: Final = Field("stack_mask", 32, architectural=False)
#: Where the access just checked goes: guest-physical addresses of its first piece and, when it crosses a page, of its
#: second; and the bytes in the first.
REACHED: Final = Field("reached", 64, 2, architectural=False)
REACHED_FIRST: Final = Field("reached_first", 32, architectural=False)
#: 1 while `deliver` runs: a fault then is combined with the event under delivery (dm.isa.mechanisms.events,
#: raise_exception).
DELIVERING: Final = Field("delivering", 8, architectural=False)
#: Shadow that the current instruction leaves behind.  On every retirement SHADOW takes its value and it becomes 0.
SHADOW_NEXT: Final = Field("shadow_next", 8)
#: Interrupt shadow in force (bit 0 STI, bit 1 MOV SS).
SHADOW: Final = cell("shadow")
#: Debug traps waiting for the next boundary, as DR6 bits (B0-B3, BS 14, BT 15) plus bit 12 "a breakpoint was enabled".
#: Before an instruction with TF set the engine sets BS here; INT n, which takes no trap, clears it.
PENDING_DEBUG: Final = cell("pending_debug")
ACTIVITY: Final = cell("activity")
NMI_BLOCKED: Final = cell("nmi_blocked")
NMI_PENDING: Final = cell("nmi_pending")
INJECT_TYPE: Final = cell("inject_type")
INJECT_VECTOR: Final = cell("inject_vector")
INJECT_HAS_ERROR: Final = cell("inject_has_error")
INJECT_ERROR: Final = cell("inject_error")
INJECT_LENGTH: Final = cell("inject_length")

#: x87, MMX and SSE state: the bytes of an FXSAVE image (SDM vol. 2A, FXSAVE, table 3-43).
#: The x87 registers in it stand here as they lie in the part, R0 to R7, not as the image has them, from ST(0) on.
FXSAVE: Final = Field("fxsave", 8, 512)
#: The same by words, doublewords and quadwords, from any byte on.
FXSAVE16: Final = Field("fxsave16", 16, 512, view="fxsave")
FXSAVE32: Final = Field("fxsave32", 32, 512, view="fxsave")
FXSAVE64: Final = Field("fxsave64", 64, 512, view="fxsave")
