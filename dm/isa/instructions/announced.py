"""What CPUID can announce and is not executed here: its refusals by mode and privilege, then exit ``unsupported``.

The exit comes before the instruction and before its operands, so that whoever executes it raises what else there is to
raise.  Left out for the same reason are refusals that depend on state which does not travel (XCR0, PKRU, whether VMX
operation is on, whether a transaction is running).
"""

from __future__ import annotations

from dm.isa import ends, features
from dm.isa.cells import CPL, EFER
from dm.isa.insn import Insn, Operand, instruction
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr0, Cr4, Efer, Vector


def _leave(x: Insn) -> None:
    ends.unsupported(x.m, x.row.mnemonic)


def _undefined_above_0(x: Insn) -> None:
    cpl = x.m.get(CPL)
    x.fault_if(cpl != 0, Vector.UD, 0, "CPL_NOT_0", cpl.zext(32))


@instruction("VMCALL", "VMMCALL")
def VMCALL(x: Insn) -> None:
    """Call the hypervisor, at any level and in any mode: it executes this one (SDM vol. 3C, 30.3; APM vol. 3, VMMCALL).

    The other vendor's opcode is #UD in hardware; a hypervisor that CPUID tells of may take it all the same.
    """
    m = x.m
    amd = features.is_amd(m)
    own = amd if x.row.mnemonic == "VMMCALL" else ~amd
    x.fault_if(~own & ~features.has(m, "hypervisor"), Vector.UD, 0, "NO_FEATURE")
    ends.hypervisor(m, x.row.mnemonic)


@instruction("XSAVE", "XRSTOR", "XSAVEOPT", "XSAVEC", "XSAVES", "XRSTORS")
def XSAVE(x: Insn, _: Operand) -> None:
    """Save and restore what XCR0 names, which is no part of the state that travels."""
    mode.require_osxsave(x.m)
    if x.row.mnemonic in ("XSAVES", "XRSTORS"):
        mode.require_cpl0(x.m)
    x.fault_if(mode.cr0_bit(x.m, Cr0.TS), Vector.NM, 0, "NO_X87")
    _leave(x)


@instruction(
    "VMLAUNCH", "VMRESUME", "VMXOFF", "VMFUNC", "VMREAD", "VMWRITE", "VMPTRLD", "VMPTRST", "VMCLEAR", "VMXON",
    "INVEPT", "INVVPID",
)  # fmt: skip
def VMX(x: Insn, *_: Operand) -> None:
    """Virtual-machine extensions: #UD outside protected mode and without CR4.VMXE (SDM vol. 3C, chapter 30)."""
    mode.require_protected(x.m)
    x.fault_if(~mode.cr4_bit(x.m, Cr4.VMXE), Vector.UD, 0, "VMXE_CLEAR")
    _leave(x)


@instruction("VMRUN", "VMLOAD", "VMSAVE", "STGI", "CLGI", "SKINIT", "INVLPGA")
def SVM(x: Insn) -> None:
    """AMD's virtual machines: #UD without EFER.SVME and outside protected mode, #GP(0) above CPL 0 (APM vol. 3)."""
    x.fault_if(~x.m.get(EFER).has(Efer.SVME), Vector.UD, 0, "SVME_CLEAR")
    mode.require_protected(x.m)
    mode.require_cpl0(x.m)
    _leave(x)


@instruction()
def GETSEC(x: Insn) -> None:
    """Safer mode extensions: #UD without CR4.SMXE."""
    x.fault_if(~mode.cr4_bit(x.m, Cr4.SMXE), Vector.UD, 0, "SMXE_CLEAR")
    _leave(x)


@instruction("ENCLS", "ENCLV", "ENCLU")
def SGX(x: Insn) -> None:
    """Enclaves: in protected mode, ENCLS and ENCLV at CPL 0, ENCLU at CPL 3."""
    mode.require_protected(x.m)
    if x.row.mnemonic == "ENCLU":
        cpl = x.m.get(CPL)
        x.fault_if(cpl != 3, Vector.UD, 0, "CPL_NOT_3", cpl.zext(32))
    else:
        _undefined_above_0(x)
    _leave(x)


@instruction("RSTORSSP", "SETSSBSY", "SAVEPREVSSP", "INCSSPD", "CLRSSBSY", "WRSSD", "WRUSSD", "RDSSPD")
def SHADOW_STACK(x: Insn, *_: Operand) -> None:
    """Shadow stacks: #UD without CR4.CET; RDSSPD, a long NOP on older parts, does nothing then."""
    if x.row.mnemonic == "RDSSPD":
        with x.m.If(~features.has(x.m, "cet_ss") | ~mode.cr4_bit(x.m, Cr4.CET)):
            x.m.end(ends.NEXT)
    else:
        x.fault_if(~mode.cr4_bit(x.m, Cr4.CET), Vector.UD, 0, "CET_CLEAR")
    _leave(x)


@instruction()
def KEYLOCKER(x: Insn, _: Operand) -> None:
    """AES with wrapped keys: #UD without CR4.KL, #NM with CR0.TS."""
    x.fault_if(~mode.cr4_bit(x.m, Cr4.KL), Vector.UD, 0, "KL_CLEAR")
    x.fault_if(mode.cr0_bit(x.m, Cr0.TS), Vector.NM, 0, "NO_SSE")
    _leave(x)


@instruction()
def BND(x: Insn, _: Operand) -> None:
    """Bounds, a long NOP where CPUID or CR4.OSXSAVE says that there are none."""
    with x.m.If(features.has(x.m, "mpx") & mode.cr4_bit(x.m, Cr4.OSXSAVE)):
        _leave(x)


@instruction("PCONFIG", "INVLPGB", "TLBSYNC", "PVALIDATE", "HRESET", "ENQCMDS")
def PRIVILEGED(x: Insn, *_: Operand) -> None:
    """#GP(0) above CPL 0."""
    mode.require_cpl0(x.m)
    _leave(x)


@instruction("TPAUSE", "UMWAIT")
def TPAUSE(x: Insn, _: Operand) -> None:
    """Wait for a time: as RDTSC, CR4.TSD keeps it for CPL 0."""
    m = x.m
    x.fault_if(mode.cr4_bit(m, Cr4.TSD) & (m.get(CPL) != 0), Vector.GP, 0, "TSD")
    _leave(x)


@instruction(
    "UMONITOR", "MONITORX", "MWAITX", "CLZERO", "RDPRU", "MCOMMIT", "XSUSLDTRK", "XRESLDTRK", "PTWRITE", "MOVDIR64B",
    "ENQCMD", "AADD", "AAND", "AXOR", "AOR",
)  # fmt: skip
def ANNOUNCED(x: Insn, *_: Operand) -> None:
    """What no mode or privilege refuses."""
    _leave(x)


@instruction("RDPKRU", "WRPKRU")
def PKRU(x: Insn) -> None:
    """Protection keys of user pages: #UD without CR4.PKE, #GP(0) unless ECX (and for WRPKRU EDX) is 0."""
    m = x.m
    x.fault_if(~mode.cr4_bit(m, Cr4.PKE), Vector.UD, 0, "PKE_CLEAR")
    given = x.register(1, 32).read()
    if x.row.mnemonic == "WRPKRU":
        given = given | x.register(2, 32).read()
    x.fault_if(given != 0, Vector.GP, 0, "NOT_ZERO", given)
    _leave(x)
