"""The opcode map, in the manual's notation (SDM vol. 2, 3.1.1 and appendix A).

A row is ``[prefix] opcode [/r | /0-/7] MNEMONIC operands ; attributes``.  Prefix NP, 66, F2 or F3 is mandatory; NFx is
NP or 66.  ``VEX`` goes before it where prefix and map stand in a VEX prefix, VEX.L being 0 and VEX.W ignored.
``+r`` after the opcode: register in its low three bits; ``10-17``: all these opcodes.  ``A/B`` names the 16- and 32-bit
form.  Operands are those of :mod:`dm.isa.map.operands`: ``Ev`` is ModRM.rm, a general register or memory, of the
operand size.

Attributes: ``lock`` LOCK is allowed with a memory destination (on MOV to and from CR0 AMD's parts take it for CR8);
``rep`` F2/F3 repeat; ``repz`` F3 repeats while equal, F2 while not; ``cpuid:X`` needs that feature, else #UD;
``optional`` its description says what it is without the feature; ``fallback`` it takes what the opcode's other rows
leave, and ``undefined`` what is left after that; ``since:N`` the CPU model that introduced it, where :data:`SINCE` does
not say so for the whole opcode, ``until:N`` the last model that had it; ``intel``, ``amd`` only that vendor's
processors have it.
"""

from __future__ import annotations

from typing import Final

from dm.machine.architecture import CONDITIONS


def _alu(base: int, name: str, group: int) -> str:
    lock = "" if name == "CMP" else " ; lock"
    return f"""
{base:02X} /r      {name} Eb,Gb{lock}
{base + 1:02X} /r      {name} Ev,Gv{lock}
{base + 2:02X} /r      {name} Gb,Eb
{base + 3:02X} /r      {name} Gv,Ev
{base + 4:02X}         {name} AL,Ib
{base + 5:02X}         {name} eAX,Iz
80 /{group}      {name} Eb,Ib{lock}
81 /{group}      {name} Ev,Iz{lock}
82 /{group}      {name} Eb,Ib{lock}
83 /{group}      {name} Ev,Is{lock}
"""


def _shift(group: int, name: str) -> str:
    return f"""
C0 /{group}      {name} Eb,Ib
C1 /{group}      {name} Ev,Ib
D0 /{group}      {name} Eb,1
D1 /{group}      {name} Ev,1
D2 /{group}      {name} Eb,CL
D3 /{group}      {name} Ev,CL
"""


ONE_BYTE: Final = (
    "".join(_alu(8 * i, name, i) for i, name in enumerate(("ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP")))
    + """
06         PUSH ES
07         POP ES
0E         PUSH CS
16         PUSH SS
17         POP SS
1E         PUSH DS
1F         POP DS
27         DAA
2F         DAS
37         AAA
3F         AAS
40+r       INC Zv
48+r       DEC Zv
50+r       PUSH Zv
58+r       POP Zv
60         PUSHA/PUSHAD
61         POPA/POPAD
62 /r      BOUND Gv,Ma
63 /r      ARPL Ew,Gw
68         PUSH Iz
69 /r      IMUL Gv,Ev,Iz
6A         PUSH Is
6B /r      IMUL Gv,Ev,Is
6C         INSB Yb,DX ; rep
6D         INSW/INSD Yv,DX ; rep
6E         OUTSB DX,Xb ; rep
6F         OUTSW/OUTSD DX,Xv ; rep
"""
    + "".join(f"{0x70 + i:02X}         J{cc} Jb\n" for i, cc in enumerate(CONDITIONS))
    + """
84 /r      TEST Eb,Gb
85 /r      TEST Ev,Gv
86 /r      XCHG Eb,Gb ; lock
87 /r      XCHG Ev,Gv ; lock
88 /r      MOV Eb,Gb
89 /r      MOV Ev,Gv
8A /r      MOV Gb,Eb
8B /r      MOV Gv,Ev
8C /r      MOV Rv/Mw,Sw
8D /r      LEA Gv,M
8E /r      MOV Sw,Ew
8F /0      POP Ev
NP 90      NOP
F3 90      PAUSE
90+r       XCHG Zv,eAX ; fallback
98         CBW/CWDE
99         CWD/CDQ
9A         CALLF Ap
9B         FWAIT
9C         PUSHF/PUSHFD
9D         POPF/POPFD
9E         SAHF
9F         LAHF
A0         MOV AL,Ob
A1         MOV eAX,Ov
A2         MOV Ob,AL
A3         MOV Ov,eAX
A4         MOVSB Yb,Xb ; rep
A5         MOVSW/MOVSD Yv,Xv ; rep
A6         CMPSB Xb,Yb ; repz
A7         CMPSW/CMPSD Xv,Yv ; repz
A8         TEST AL,Ib
A9         TEST eAX,Iz
AA         STOSB Yb,AL ; rep
AB         STOSW/STOSD Yv,eAX ; rep
AC         LODSB AL,Xb ; rep
AD         LODSW/LODSD eAX,Xv ; rep
AE         SCASB AL,Yb ; repz
AF         SCASW/SCASD eAX,Yv ; repz
B0+r       MOV Zb,Ib
B8+r       MOV Zv,Iz
"""
    + "".join(_shift(i, name) for i, name in enumerate(("ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SHL", "SAR")))
    + """
C2         RET Iw
C3         RET
C4 /r      LES Gv,Mp
C5 /r      LDS Gv,Mp
C6 /0      MOV Eb,Ib
C7 /0      MOV Ev,Iz
C8         ENTER Iw,Ib
C9         LEAVE
CA         RETF Iw
CB         RETF
CC         INT3
CD         INT Ib
CE         INTO
CF         IRET/IRETD
D4         AAM Ib
D5         AAD Ib
D6         SALC
D7         XLAT
E0         LOOPNE Jb ; repz
E1         LOOPE Jb ; repz
E2         LOOP Jb
E3         JCXZ Jb
E4         IN AL,Ib
E5         IN eAX,Ib
E6         OUT Ib,AL
E7         OUT Ib,eAX
E8         CALL Jz
E9         JMP Jz
EA         JMPF Ap
EB         JMP Jb
EC         IN AL,DX
ED         IN eAX,DX
EE         OUT DX,AL
EF         OUT DX,eAX
F1         ICEBP ; since:3
F4         HLT
F5         CMC
F6 /0      TEST Eb,Ib
F6 /1      TEST Eb,Ib
F6 /2      NOT Eb ; lock
F6 /3      NEG Eb ; lock
F6 /4      MUL AL,Eb
F6 /5      IMUL AL,Eb
F6 /6      DIV AL,Eb
F6 /7      IDIV AL,Eb
F7 /0      TEST Ev,Iz
F7 /1      TEST Ev,Iz
F7 /2      NOT Ev ; lock
F7 /3      NEG Ev ; lock
F7 /4      MUL eAX,Ev
F7 /5      IMUL eAX,Ev
F7 /6      DIV eAX,Ev
F7 /7      IDIV eAX,Ev
F8         CLC
F9         STC
FA         CLI
FB         STI
FC         CLD
FD         STD
FE /0      INC Eb ; lock
FE /1      DEC Eb ; lock
FF /0      INC Ev ; lock
FF /1      DEC Ev ; lock
FF /2      CALL Ev
FF /3      CALLF Mp
FF /4      JMP Ev
FF /5      JMPF Mp
FF /6      PUSH Ev
C6 F8      XABORT Ib ; cpuid:rtm
C7 F8      XBEGIN Jz ; cpuid:rtm
"""
)

#: D8-DF (SDM vol. 2D, tables A-7 to A-22), with the names that their aliases have in the manual.
X87: Final = """
D8 /0      FADD Msr
D8 /0      FADD ST(0),ST(i)
D8 /1      FMUL Msr
D8 /1      FMUL ST(0),ST(i)
D8 /2      FCOM Msr
D8 /2      FCOM ST(i)
D8 /3      FCOMP Msr
D8 /3      FCOMP ST(i)
D8 /4      FSUB Msr
D8 /4      FSUB ST(0),ST(i)
D8 /5      FSUBR Msr
D8 /5      FSUBR ST(0),ST(i)
D8 /6      FDIV Msr
D8 /6      FDIV ST(0),ST(i)
D8 /7      FDIVR Msr
D8 /7      FDIVR ST(0),ST(i)
D9 /0      FLD Msr
D9 /2      FST Msr
D9 /3      FSTP Msr
D9 /4      FLDENV Me
D9 /5      FLDCW Mw
D9 /6      FNSTENV Me
D9 /7      FNSTCW Mw
D9 /0      FLD ST(i)
D9 /1      FXCH ST(i)
D9 D0      FNOP
D9 /3      FSTPNCE ST(i)
D9 E0      FCHS
D9 E1      FABS
D9 E4      FTST
D9 E5      FXAM
D9 E8      FLD1
D9 E9      FLDL2T
D9 EA      FLDL2E
D9 EB      FLDPI
D9 EC      FLDLG2
D9 ED      FLDLN2
D9 EE      FLDZ
D9 F0      F2XM1
D9 F1      FYL2X
D9 F2      FPTAN
D9 F3      FPATAN
D9 F4      FXTRACT
D9 F5      FPREM1 ; since:3
D9 F6      FDECSTP
D9 F7      FINCSTP
D9 F8      FPREM
D9 F9      FYL2XP1
D9 FA      FSQRT
D9 FB      FSINCOS ; since:3
D9 FC      FRNDINT
D9 FD      FSCALE
D9 FE      FSIN ; since:3
D9 FF      FCOS ; since:3
DA /0      FIADD Mdi
DA /1      FIMUL Mdi
DA /2      FICOM Mdi
DA /3      FICOMP Mdi
DA /4      FISUB Mdi
DA /5      FISUBR Mdi
DA /6      FIDIV Mdi
DA /7      FIDIVR Mdi
DA /0      FCMOVB ST(0),ST(i) ; cpuid:cmov
DA /1      FCMOVE ST(0),ST(i) ; cpuid:cmov
DA /2      FCMOVBE ST(0),ST(i) ; cpuid:cmov
DA /3      FCMOVU ST(0),ST(i) ; cpuid:cmov
DA E9      FUCOMPP ; since:3
DB /0      FILD Mdi
DB /1      FISTTP Mdi ; cpuid:sse3
DB /2      FIST Mdi
DB /3      FISTP Mdi
DB /5      FLD Mer
DB /7      FSTP Mer
DB /0      FCMOVNB ST(0),ST(i) ; cpuid:cmov
DB /1      FCMOVNE ST(0),ST(i) ; cpuid:cmov
DB /2      FCMOVNBE ST(0),ST(i) ; cpuid:cmov
DB /3      FCMOVNU ST(0),ST(i) ; cpuid:cmov
DB E0      FNENI
DB E1      FNDISI
DB E2      FNCLEX
DB E3      FNINIT
DB E4      FNSETPM
DB /5      FUCOMI ST(0),ST(i) ; cpuid:cmov
DB /6      FCOMI ST(0),ST(i) ; cpuid:cmov
DC /0      FADD Mdr
DC /1      FMUL Mdr
DC /2      FCOM Mdr
DC /3      FCOMP Mdr
DC /4      FSUB Mdr
DC /5      FSUBR Mdr
DC /6      FDIV Mdr
DC /7      FDIVR Mdr
DC /0      FADD ST(i),ST(0)
DC /1      FMUL ST(i),ST(0)
DC /2      FCOM ST(i)
DC /3      FCOMP ST(i)
DC /4      FSUBR ST(i),ST(0)
DC /5      FSUB ST(i),ST(0)
DC /6      FDIVR ST(i),ST(0)
DC /7      FDIV ST(i),ST(0)
DD /0      FLD Mdr
DD /1      FISTTP Mqi ; cpuid:sse3
DD /2      FST Mdr
DD /3      FSTP Mdr
DD /4      FRSTOR Mst
DD /6      FNSAVE Mst
DD /7      FNSTSW Mw
DD /0      FFREE ST(i)
DD /1      FXCH ST(i)
DD /2      FST ST(i)
DD /3      FSTP ST(i)
DD /4      FUCOM ST(i) ; since:3
DD /5      FUCOMP ST(i) ; since:3
DE /0      FIADD Mwi
DE /1      FIMUL Mwi
DE /2      FICOM Mwi
DE /3      FICOMP Mwi
DE /4      FISUB Mwi
DE /5      FISUBR Mwi
DE /6      FIDIV Mwi
DE /7      FIDIVR Mwi
DE /0      FADDP ST(i),ST(0)
DE /1      FMULP ST(i),ST(0)
DE /2      FCOMP ST(i)
DE /4      FSUBRP ST(i),ST(0)
DE /5      FSUBP ST(i),ST(0)
DE /6      FDIVRP ST(i),ST(0)
DE /7      FDIVP ST(i),ST(0)
DE D9      FCOMPP
DF /0      FILD Mwi
DF /1      FISTTP Mwi ; cpuid:sse3
DF /2      FIST Mwi
DF /3      FISTP Mwi
DF /4      FBLD Mbcd
DF /5      FILD Mqi
DF /6      FBSTP Mbcd
DF /7      FISTP Mqi
DF /0      FFREEP ST(i)
DF /1      FXCH ST(i)
DF /2      FSTP ST(i)
DF /3      FSTP ST(i)
DF E0      FNSTSW AX
DF /5      FUCOMIP ST(0),ST(i) ; cpuid:cmov
DF /6      FCOMIP ST(0),ST(i) ; cpuid:cmov
D9 /r      X87 E ; undefined
DA /r      X87 E ; undefined
DB /r      X87 E ; undefined
DD /r      X87 E ; undefined
DE /r      X87 E ; undefined
DF /r      X87 E ; undefined
"""

TWO_BYTE: Final = (
    """
0F 00 /0   SLDT Rv/Mw
0F 00 /1   STR Rv/Mw
0F 00 /2   LLDT Ew
0F 00 /3   LTR Ew
0F 00 /4   VERR Ew
0F 00 /5   VERW Ew
0F 01 /0   SGDT Ms
0F 01 /1   SIDT Ms
0F 01 /2   LGDT Ms
0F 01 /3   LIDT Ms
0F 01 /4   SMSW Rv/Mw
0F 01 /6   LMSW Ew
0F 01 /7   INVLPG M ; since:4
0F 01 C1   VMCALL ; since:6
NP 0F 01 C6 WRMSRNS ; cpuid:wrmsrns
0F 01 C8   MONITOR ; cpuid:monitor
0F 01 C9   MWAIT ; cpuid:monitor
NP 0F 01 CA CLAC ; cpuid:smap
NP 0F 01 CB STAC ; cpuid:smap
NP 0F 01 D0 XGETBV ; cpuid:xsave
NP 0F 01 D1 XSETBV ; cpuid:xsave
NP 0F 01 D5 XEND ; cpuid:rtm
NP 0F 01 D6 XTEST ; cpuid:rtm
0F 01 D9   VMMCALL ; since:6
NP 0F 01 E8 SERIALIZE ; cpuid:serialize
NP 0F 01 EE RDPKRU ; cpuid:pku
NP 0F 01 EF WRPKRU ; cpuid:pku
0F 01 F9   RDTSCP ; cpuid:rdtscp
0F 02 /r   LAR Gv,Ew
0F 03 /r   LSL Gv,Ew
0F 05      LOADALL ; since:2 until:2
0F 05      SYSCALL
0F 06      CLTS
0F 07      SYSRET
0F 08      INVD
0F 09      WBINVD
0F 0B      UD2
0F 0D /r   NOP Ev
0F 18 /r   NOP Ev
0F 19 /r   NOP Ev
0F 1A-1B /r BND E ; cpuid:mpx optional
0F 1C /r   NOP Ev
0F 1D /r   NOP Ev
0F 1E /r   NOP Ev ; fallback
0F 1F /r   NOP Ev
0F 20 /r   MOV Rd,Cd ; lock
0F 21 /r   MOV Rd,Dd
0F 22 /r   MOV Cd,Rd ; lock
0F 23 /r   MOV Dd,Rd
0F 24 /r   MOV Rd,Td ; since:3 until:3
0F 26 /r   MOV Td,Rd ; since:3 until:3
0F 30      WRMSR
0F 31      RDTSC ; cpuid:tsc
0F 32      RDMSR
0F 33      RDPMC
0F 34      SYSENTER
0F 35      SYSEXIT
"""
    + "".join(f"0F {0x40 + i:02X} /r   CMOV{cc} Gv,Ev ; cpuid:cmov\n" for i, cc in enumerate(CONDITIONS))
    + "".join(f"0F {0x80 + i:02X}      J{cc} Jz\n" for i, cc in enumerate(CONDITIONS))
    + "".join(f"0F {0x90 + i:02X} /r   SET{cc} Eb\n" for i, cc in enumerate(CONDITIONS))
    + """
NP 0F 77   EMMS ; cpuid:mmx
0F A0      PUSH FS
0F A1      POP FS
0F A2      CPUID
0F A3 /r   BT Ev,Gv
0F A4 /r   SHLD Ev,Gv,Ib
0F A5 /r   SHLD Ev,Gv,CL
0F A8      PUSH GS
0F A9      POP GS
0F AA      RSM
0F AB /r   BTS Ev,Gv ; lock
0F AC /r   SHRD Ev,Gv,Ib
0F AD /r   SHRD Ev,Gv,CL
NP 0F AE /0 FXSAVE Mstx ; cpuid:fxsr
NP 0F AE /1 FXRSTOR Mstx ; cpuid:fxsr
NP 0F AE /2 LDMXCSR Md ; cpuid:sse
NP 0F AE /3 STMXCSR Md ; cpuid:sse
NP 0F AE /5 LFENCE R ; cpuid:sse2
NP 0F AE /6 MFENCE R ; cpuid:sse2
NP 0F AE /7 SFENCE R ; cpuid:sse
NP 0F AE /7 CLFLUSH Mb ; cpuid:clflush
66 0F AE /6 CLWB Mb ; cpuid:clwb
66 0F AE /7 CLFLUSHOPT Mb ; cpuid:clflushopt
0F AF /r   IMUL Gv,Ev
0F B0 /r   CMPXCHG Eb,Gb ; lock
0F B1 /r   CMPXCHG Ev,Gv ; lock
0F B2 /r   LSS Gv,Mp
0F B3 /r   BTR Ev,Gv ; lock
0F B4 /r   LFS Gv,Mp
0F B5 /r   LGS Gv,Mp
0F B6 /r   MOVZX Gv,Eb
0F B7 /r   MOVZX Gv,Ew
F3 0F B8 /r POPCNT Gv,Ev ; cpuid:popcnt
0F B9 /r   UD1 Gv,Ev ; intel
0F B9      UD1 ; amd
0F BA /4   BT Ev,Ib
0F BA /5   BTS Ev,Ib ; lock
0F BA /6   BTR Ev,Ib ; lock
0F BA /7   BTC Ev,Ib ; lock
0F BB /r   BTC Ev,Gv ; lock
0F BC /r   BSF Gv,Ev ; fallback
0F BD /r   BSR Gv,Ev ; fallback
F3 0F BC /r TZCNT Gv,Ev ; cpuid:bmi1 optional
F3 0F BD /r LZCNT Gv,Ev ; cpuid:lzcnt optional
0F BE /r   MOVSX Gv,Eb
0F BF /r   MOVSX Gv,Ew
0F C0 /r   XADD Eb,Gb ; lock
0F C1 /r   XADD Ev,Gv ; lock
NP 0F C3 /r MOVNTI Md,Gd ; cpuid:sse2
0F C7 /1   CMPXCHG8B Mq ; lock cpuid:cx8
NFx 0F C7 /6 RDRAND Rv ; cpuid:rdrand
NFx 0F C7 /7 RDSEED Rv ; cpuid:rdseed
F3 0F C7 /7 RDPID Rd ; cpuid:rdpid
0F C8+r    BSWAP Zv
0F FF /r   UD0 Gv,Ev ; intel
0F FF      UD0 ; amd
"""
)

THREE_BYTE: Final = """
NP 0F 38 F0 /r MOVBE Gv,Mv ; cpuid:movbe
NP 0F 38 F1 /r MOVBE Mv,Gv ; cpuid:movbe
66 0F 38 F0 /r MOVBE Gv,Mv ; cpuid:movbe
66 0F 38 F1 /r MOVBE Mv,Gv ; cpuid:movbe
F2 0F 38 F0 /r CRC32 Gd,Eb ; cpuid:sse4.2
F2 0F 38 F1 /r CRC32 Gd,Ev ; cpuid:sse4.2
66 0F 38 82 /r INVPCID Gd,M ; cpuid:invpcid
NP 0F 38 F9 /r MOVDIRI Md,Gd ; cpuid:movdiri
66 0F 38 F6 /r ADCX Gd,Ed ; cpuid:adx
F3 0F 38 F6 /r ADOX Gd,Ed ; cpuid:adx
"""

VEX: Final = """
VEX NP 0F 38 F2 /r ANDN Gd,Bd,Ed ; cpuid:bmi1
VEX NP 0F 38 F3 /1 BLSR Bd,Ed ; cpuid:bmi1
VEX NP 0F 38 F3 /2 BLSMSK Bd,Ed ; cpuid:bmi1
VEX NP 0F 38 F3 /3 BLSI Bd,Ed ; cpuid:bmi1
VEX NP 0F 38 F5 /r BZHI Gd,Ed,Bd ; cpuid:bmi2
VEX F2 0F 38 F5 /r PDEP Gd,Bd,Ed ; cpuid:bmi2
VEX F3 0F 38 F5 /r PEXT Gd,Bd,Ed ; cpuid:bmi2
VEX F2 0F 38 F6 /r MULX Gd,Bd,Ed ; cpuid:bmi2
VEX NP 0F 38 F7 /r BEXTR Gd,Ed,Bd ; cpuid:bmi1
VEX 66 0F 38 F7 /r SHLX Gd,Ed,Bd ; cpuid:bmi2
VEX F2 0F 38 F7 /r SHRX Gd,Ed,Bd ; cpuid:bmi2
VEX F3 0F 38 F7 /r SARX Gd,Ed,Bd ; cpuid:bmi2
VEX F2 0F 3A F0 /r RORX Gd,Ed,Ib ; cpuid:bmi2
"""


def _integers(first: int, names: str, feature: str = "mmx") -> str:
    """Packed integers, opcodes in line (``-`` leaves one out): in MMX and, with 66, in XMM registers."""
    return "".join(
        f"""
NP 0F {opcode:02X} /r {name} Pq,Qq ; cpuid:{feature}
66 0F {opcode:02X} /r {name} Vdq,Wdq ; cpuid:sse2
"""
        for opcode, name in enumerate(names.split(), first)
        if name != "-"
    )


def _reals(opcode: int, name: str, types: str = "ps pd ss sd", immediate: str = "") -> str:
    """Packed and scalar reals, single and double."""
    prefixes = {"ps": "NP", "pd": "66", "ss": "F3", "sd": "F2"}
    return "".join(
        f"{prefixes[t]} 0F {opcode:02X} /r {name}{t.upper()} V{t},W{t}{immediate} ; cpuid:sse{'2' * (t[1] == 'd')}\n"
        for t in types.split()
    )


def _ssse3(first: int, names: str) -> str:
    return "".join(
        f"""
NP 0F 38 {opcode:02X} /r {name} Pq,Qq ; cpuid:ssse3
66 0F 38 {opcode:02X} /r {name} Vdq,Wdq ; cpuid:ssse3
"""
        for opcode, name in enumerate(names.split(), first)
    )


def _sse4(
    first: int, names: str, operands: str, feature: str = "sse4.1", escape: str = "38", prefix: str = "66"
) -> str:
    """Opcodes in line, with the same operands."""
    return "".join(
        f"{prefix} 0F {escape} {opcode:02X} /r {name} {operands} ; cpuid:{feature}\n"
        for opcode, name in enumerate(names.split(), first)
        if name != "-"
    )


def _shifts(opcode: int, reg: int, name: str) -> str:
    return f"""
NP 0F {opcode:02X} /{reg} {name} Nq,Ib ; cpuid:mmx
66 0F {opcode:02X} /{reg} {name} Udq,Ib ; cpuid:sse2
"""


#: MMX, SSE and their successors without VEX (appendix A.3).
SIMD: Final = (
    """
NP 0F 10 /r MOVUPS Vps,Wps ; cpuid:sse
66 0F 10 /r MOVUPD Vpd,Wpd ; cpuid:sse2
F3 0F 10 /r MOVSS Vss,Wss ; cpuid:sse
F2 0F 10 /r MOVSD Vsd,Wsd ; cpuid:sse2
NP 0F 11 /r MOVUPS Wps,Vps ; cpuid:sse
66 0F 11 /r MOVUPD Wpd,Vpd ; cpuid:sse2
F3 0F 11 /r MOVSS Wss,Vss ; cpuid:sse
F2 0F 11 /r MOVSD Wsd,Vsd ; cpuid:sse2
NP 0F 12 /r MOVLPS Vq,Mq ; cpuid:sse
NP 0F 12 /r MOVHLPS Vq,Uq ; cpuid:sse
66 0F 12 /r MOVLPD Vq,Mq ; cpuid:sse2
F3 0F 12 /r MOVSLDUP Vps,Wps ; cpuid:sse3
F2 0F 12 /r MOVDDUP Vpd,Wsd ; cpuid:sse3
NP 0F 13 /r MOVLPS Mq,Vq ; cpuid:sse
66 0F 13 /r MOVLPD Mq,Vq ; cpuid:sse2
NP 0F 16 /r MOVHPS Vdq,Mq ; cpuid:sse
NP 0F 16 /r MOVLHPS Vdq,Uq ; cpuid:sse
66 0F 16 /r MOVHPD Vdq,Mq ; cpuid:sse2
F3 0F 16 /r MOVSHDUP Vps,Wps ; cpuid:sse3
NP 0F 17 /r MOVHPS Mq,Vq ; cpuid:sse
66 0F 17 /r MOVHPD Mq,Vq ; cpuid:sse2
NP 0F 29 /r MOVAPS Wps,Vps ; cpuid:sse
66 0F 29 /r MOVAPD Wpd,Vpd ; cpuid:sse2
NP 0F 2A /r CVTPI2PS Vps,Qpi ; cpuid:sse
66 0F 2A /r CVTPI2PD Vpd,Qpi ; cpuid:sse2
F3 0F 2A /r CVTSI2SS Vss,Ey ; cpuid:sse
F2 0F 2A /r CVTSI2SD Vsd,Ey ; cpuid:sse2
NP 0F 2B /r MOVNTPS Mps,Vps ; cpuid:sse
66 0F 2B /r MOVNTPD Mpd,Vpd ; cpuid:sse2
F3 0F 2B /r MOVNTSS Mss,Vss ; cpuid:sse4a
F2 0F 2B /r MOVNTSD Msd,Vsd ; cpuid:sse4a
NP 0F 2C /r CVTTPS2PI Ppi,Wq ; cpuid:sse
66 0F 2C /r CVTTPD2PI Ppi,Wpd ; cpuid:sse2
F3 0F 2C /r CVTTSS2SI Gy,Wss ; cpuid:sse
F2 0F 2C /r CVTTSD2SI Gy,Wsd ; cpuid:sse2
NP 0F 2D /r CVTPS2PI Ppi,Wq ; cpuid:sse
66 0F 2D /r CVTPD2PI Ppi,Wpd ; cpuid:sse2
F3 0F 2D /r CVTSS2SI Gy,Wss ; cpuid:sse
F2 0F 2D /r CVTSD2SI Gy,Wsd ; cpuid:sse2
NP 0F 2E /r UCOMISS Vss,Wss ; cpuid:sse
66 0F 2E /r UCOMISD Vsd,Wsd ; cpuid:sse2
NP 0F 2F /r COMISS Vss,Wss ; cpuid:sse
66 0F 2F /r COMISD Vsd,Wsd ; cpuid:sse2
NP 0F 50 /r MOVMSKPS Gy,Ups ; cpuid:sse
66 0F 50 /r MOVMSKPD Gy,Upd ; cpuid:sse2
"""
    + _reals(0x14, "UNPCKL", "ps pd")
    + _reals(0x15, "UNPCKH", "ps pd")
    + _reals(0x28, "MOVA", "ps pd")
    + _reals(0x51, "SQRT")
    + _reals(0x52, "RSQRT", "ps ss")
    + _reals(0x53, "RCP", "ps ss")
    + "".join(_reals(opcode, name, "ps pd") for opcode, name in enumerate("AND ANDN OR XOR".split(), 0x54))
    + _reals(0x58, "ADD")
    + _reals(0x59, "MUL")
    + "".join(_reals(opcode, name) for opcode, name in enumerate("SUB MIN DIV MAX".split(), 0x5C))
    + _reals(0xC2, "CMP", immediate=",Ib")
    + _reals(0xC6, "SHUF", "ps pd", ",Ib")
    + """
NP 0F 5A /r CVTPS2PD Vpd,Wq ; cpuid:sse2
66 0F 5A /r CVTPD2PS Vps,Wpd ; cpuid:sse2
F3 0F 5A /r CVTSS2SD Vsd,Wss ; cpuid:sse2
F2 0F 5A /r CVTSD2SS Vss,Wsd ; cpuid:sse2
NP 0F 5B /r CVTDQ2PS Vps,Wdq ; cpuid:sse2
66 0F 5B /r CVTPS2DQ Vdq,Wps ; cpuid:sse2
F3 0F 5B /r CVTTPS2DQ Vdq,Wps ; cpuid:sse2
NP 0F 60 /r PUNPCKLBW Pq,Qd ; cpuid:mmx
66 0F 60 /r PUNPCKLBW Vdq,Wdq ; cpuid:sse2
NP 0F 61 /r PUNPCKLWD Pq,Qd ; cpuid:mmx
66 0F 61 /r PUNPCKLWD Vdq,Wdq ; cpuid:sse2
NP 0F 62 /r PUNPCKLDQ Pq,Qd ; cpuid:mmx
66 0F 62 /r PUNPCKLDQ Vdq,Wdq ; cpuid:sse2
66 0F 6C /r PUNPCKLQDQ Vdq,Wdq ; cpuid:sse2
66 0F 6D /r PUNPCKHQDQ Vdq,Wdq ; cpuid:sse2
NP 0F 6E /r MOVD Pd,Ey ; cpuid:mmx
66 0F 6E /r MOVD Vy,Ey ; cpuid:sse2
NP 0F 6F /r MOVQ Pq,Qq ; cpuid:mmx
66 0F 6F /r MOVDQA Vdq,Wdq ; cpuid:sse2
F3 0F 6F /r MOVDQU Vdq,Wdq ; cpuid:sse2
NP 0F 70 /r PSHUFW Pq,Qq,Ib ; cpuid:mmxext
66 0F 70 /r PSHUFD Vdq,Wdq,Ib ; cpuid:sse2
F3 0F 70 /r PSHUFHW Vdq,Wdq,Ib ; cpuid:sse2
F2 0F 70 /r PSHUFLW Vdq,Wdq,Ib ; cpuid:sse2
66 0F 73 /3 PSRLDQ Udq,Ib ; cpuid:sse2
66 0F 73 /7 PSLLDQ Udq,Ib ; cpuid:sse2
66 0F 78 /0 EXTRQ Udq,Ib,Ib ; cpuid:sse4a
F2 0F 78 /r INSERTQ Vdq,Udq,Ib,Ib ; cpuid:sse4a
66 0F 79 /r EXTRQ Vdq,Udq ; cpuid:sse4a
F2 0F 79 /r INSERTQ Vdq,Udq ; cpuid:sse4a
66 0F 7C /r HADDPD Vpd,Wpd ; cpuid:sse3
F2 0F 7C /r HADDPS Vps,Wps ; cpuid:sse3
66 0F 7D /r HSUBPD Vpd,Wpd ; cpuid:sse3
F2 0F 7D /r HSUBPS Vps,Wps ; cpuid:sse3
NP 0F 7E /r MOVD Ey,Pd ; cpuid:mmx
66 0F 7E /r MOVD Ey,Vy ; cpuid:sse2
F3 0F 7E /r MOVQ Vq,Wq ; cpuid:sse2
NP 0F 7F /r MOVQ Qq,Pq ; cpuid:mmx
66 0F 7F /r MOVDQA Wdq,Vdq ; cpuid:sse2
F3 0F 7F /r MOVDQU Wdq,Vdq ; cpuid:sse2
NP 0F C4 /r PINSRW Pq,Ry/Mw,Ib ; cpuid:mmxext
66 0F C4 /r PINSRW Vdq,Ry/Mw,Ib ; cpuid:sse2
NP 0F C5 /r PEXTRW Gy,Nq,Ib ; cpuid:mmxext
66 0F C5 /r PEXTRW Gy,Udq,Ib ; cpuid:sse2
66 0F D0 /r ADDSUBPD Vpd,Wpd ; cpuid:sse3
F2 0F D0 /r ADDSUBPS Vps,Wps ; cpuid:sse3
66 0F D6 /r MOVQ Wq,Vq ; cpuid:sse2
F3 0F D6 /r MOVQ2DQ Vdq,Nq ; cpuid:sse2
F2 0F D6 /r MOVDQ2Q Pq,Uq ; cpuid:sse2
NP 0F D7 /r PMOVMSKB Gy,Nq ; cpuid:mmxext
66 0F D7 /r PMOVMSKB Gy,Udq ; cpuid:sse2
66 0F E6 /r CVTTPD2DQ Vq,Wpd ; cpuid:sse2
F3 0F E6 /r CVTDQ2PD Vpd,Wq ; cpuid:sse2
F2 0F E6 /r CVTPD2DQ Vq,Wpd ; cpuid:sse2
NP 0F E7 /r MOVNTQ Mq,Pq ; cpuid:mmxext
66 0F E7 /r MOVNTDQ Mdq,Vdq ; cpuid:sse2
F2 0F F0 /r LDDQU Vdq,Mdq ; cpuid:sse3
NP 0F F7 /r MASKMOVQ Pq,Nq ; cpuid:mmxext
66 0F F7 /r MASKMOVDQU Vdq,Udq ; cpuid:sse2
"""
    + _integers(0x63, "PACKSSWB PCMPGTB PCMPGTW PCMPGTD PACKUSWB PUNPCKHBW PUNPCKHWD PUNPCKHDQ PACKSSDW")
    + "".join(
        _shifts(opcode, reg, name + size)
        for opcode, size in ((0x71, "W"), (0x72, "D"), (0x73, "Q"))
        for reg, name in ((2, "PSRL"), (4, "PSRA"), (6, "PSLL"))
        if name + size != "PSRAQ"
    )
    + _integers(0x74, "PCMPEQB PCMPEQW PCMPEQD")
    + _integers(0xD1, "PSRLW PSRLD PSRLQ")
    + _integers(0xD4, "PADDQ", "sse2")
    + _integers(0xD5, "PMULLW")
    + _integers(0xD8, "PSUBUSB PSUBUSW - PAND PADDUSB PADDUSW - PANDN - PSRAW PSRAD - - PMULHW")
    + _integers(0xDA, "PMINUB - - - PMAXUB - PAVGB - - PAVGW PMULHUW", "mmxext")
    + _integers(0xE8, "PSUBSB PSUBSW - POR PADDSB PADDSW - PXOR")
    + _integers(0xEA, "PMINSW - - - PMAXSW", "mmxext")
    + _integers(0xF1, "PSLLW PSLLD PSLLQ - PMADDWD")
    + _integers(0xF4, "PMULUDQ", "sse2")
    + _integers(0xF6, "PSADBW", "mmxext")
    + _integers(0xF8, "PSUBB PSUBW PSUBD - PADDB PADDW PADDD")
    + _integers(0xFB, "PSUBQ", "sse2")
    + _ssse3(0x00, "PSHUFB PHADDW PHADDD PHADDSW PMADDUBSW PHSUBW PHSUBD PHSUBSW PSIGNB PSIGNW PSIGND PMULHRSW")
    + _ssse3(0x1C, "PABSB PABSW PABSD")
    + _sse4(0x10, "PBLENDVB - - - BLENDVPS BLENDVPD", "Vdq,Wdq,XMM0")
    + _sse4(0x17, "PTEST", "Vdq,Wdq")
    + "".join(
        _sse4(first, f"PMOV{x}BW", "Vdq,Wq")
        + _sse4(first + 1, f"PMOV{x}BD", "Vdq,Wd")
        + _sse4(first + 2, f"PMOV{x}BQ", "Vdq,Ww")
        + _sse4(first + 3, f"PMOV{x}WD", "Vdq,Wq")
        + _sse4(first + 4, f"PMOV{x}WQ", "Vdq,Wd")
        + _sse4(first + 5, f"PMOV{x}DQ", "Vdq,Wq")
        for first, x in ((0x20, "SX"), (0x30, "ZX"))
    )
    + _sse4(0x28, "PMULDQ PCMPEQQ", "Vdq,Wdq")
    + _sse4(0x2A, "MOVNTDQA", "Vdq,Mdq")
    + _sse4(0x2B, "PACKUSDW", "Vdq,Wdq")
    + _sse4(0x37, "PCMPGTQ", "Vdq,Wdq", "sse4.2")
    + _sse4(0x38, "PMINSB PMINSD PMINUW PMINUD PMAXSB PMAXSD PMAXUW PMAXUD PMULLD PHMINPOSUW", "Vdq,Wdq")
    + _sse4(0xC8, "SHA1NEXTE SHA1MSG1 SHA1MSG2 - SHA256MSG1 SHA256MSG2", "Vdq,Wdq", "sha", prefix="NP")
    + _sse4(0xCB, "SHA256RNDS2", "Vdq,Wdq,XMM0", "sha", prefix="NP")
    + _sse4(0xCF, "GF2P8MULB", "Vdq,Wdq", "gfni")
    + _sse4(0xDB, "AESIMC AESENC AESENCLAST AESDEC AESDECLAST", "Vdq,Wdq", "aes")
    + """
66 0F 3A 08 /r ROUNDPS Vps,Wps,Ib ; cpuid:sse4.1
66 0F 3A 09 /r ROUNDPD Vpd,Wpd,Ib ; cpuid:sse4.1
66 0F 3A 0A /r ROUNDSS Vss,Wss,Ib ; cpuid:sse4.1
66 0F 3A 0B /r ROUNDSD Vsd,Wsd,Ib ; cpuid:sse4.1
66 0F 3A 0C /r BLENDPS Vps,Wps,Ib ; cpuid:sse4.1
66 0F 3A 0D /r BLENDPD Vpd,Wpd,Ib ; cpuid:sse4.1
66 0F 3A 0E /r PBLENDW Vdq,Wdq,Ib ; cpuid:sse4.1
NP 0F 3A 0F /r PALIGNR Pq,Qq,Ib ; cpuid:ssse3
66 0F 3A 0F /r PALIGNR Vdq,Wdq,Ib ; cpuid:ssse3
66 0F 3A 14 /r PEXTRB Ry/Mb,Vdq,Ib ; cpuid:sse4.1
66 0F 3A 15 /r PEXTRW Ry/Mw,Vdq,Ib ; cpuid:sse4.1
66 0F 3A 16 /r PEXTRD Ey,Vdq,Ib ; cpuid:sse4.1
66 0F 3A 17 /r EXTRACTPS Ed,Vdq,Ib ; cpuid:sse4.1
66 0F 3A 20 /r PINSRB Vdq,Ry/Mb,Ib ; cpuid:sse4.1
66 0F 3A 21 /r INSERTPS Vdq,Wss,Ib ; cpuid:sse4.1
66 0F 3A 22 /r PINSRD Vdq,Ey,Ib ; cpuid:sse4.1
"""
    + _sse4(0x40, "DPPS DPPD MPSADBW", "Vdq,Wdq,Ib", escape="3A")
    + _sse4(0x44, "PCLMULQDQ", "Vdq,Wdq,Ib", "pclmul", "3A")
    + _sse4(0x60, "PCMPESTRM PCMPESTRI PCMPISTRM PCMPISTRI", "Vdq,Wdq,Ib", "sse4.2", "3A")
    + _sse4(0xCC, "SHA1RNDS4", "Vdq,Wdq,Ib", "sha", "3A", "NP")
    + _sse4(0xCE, "GF2P8AFFINEQB GF2P8AFFINEINVQB", "Vdq,Wdq,Ib", "gfni", "3A")
    + _sse4(0xDF, "AESKEYGENASSIST", "Vdq,Wdq,Ib", "aes", "3A")
    + """
0F 0E      FEMMS ; cpuid:3dnow amd
0F 0F /r   PF3DNOW Pq,Qq,Ib ; cpuid:3dnow amd
"""
)

#: What else CPUID can announce and is not executed here (dm.isa.instructions.announced).  Of AVX and what has an EVEX
#: or XOP prefix only that prefix is looked at.
ANNOUNCED: Final = """
NP C4-C5 /r AVX R ; cpuid:avx
NP 62 /r   AVX R ; cpuid:avx512f
8F /1      XOP R ; cpuid:xop
8F /5      XOP R ; cpuid:xop
0F 01 C0   ENCLV ; cpuid:sgx
0F 01 C2   VMLAUNCH ; cpuid:vmx
0F 01 C3   VMRESUME ; cpuid:vmx
0F 01 C4   VMXOFF ; cpuid:vmx
NP 0F 01 C5 PCONFIG ; cpuid:pconfig
NP 0F 01 CF ENCLS ; cpuid:sgx
NP 0F 01 D4 VMFUNC ; cpuid:vmx
NP 0F 01 D7 ENCLU ; cpuid:sgx
0F 01 D8   VMRUN ; cpuid:svm
0F 01 DA   VMLOAD ; cpuid:svm
0F 01 DB   VMSAVE ; cpuid:svm
0F 01 DC   STGI ; cpuid:svm
0F 01 DD   CLGI ; cpuid:svm
0F 01 DE   SKINIT ; cpuid:svm
0F 01 DF   INVLPGA ; cpuid:svm
F3 0F 01 /5 RSTORSSP M ; cpuid:cet_ss
F3 0F 01 E8 SETSSBSY ; cpuid:cet_ss
F2 0F 01 E8 XSUSLDTRK ; cpuid:tsxldtrk
F2 0F 01 E9 XRESLDTRK ; cpuid:tsxldtrk
F3 0F 01 EA SAVEPREVSSP ; cpuid:cet_ss
NP 0F 01 FA MONITORX ; cpuid:monitorx
F3 0F 01 FA MCOMMIT ; cpuid:mcommit
NP 0F 01 FB MWAITX ; cpuid:monitorx
NFx 0F 01 FC CLZERO ; cpuid:clzero
NP 0F 01 FD RDPRU ; cpuid:rdpru
NP 0F 01 FE INVLPGB ; cpuid:invlpgb
NP 0F 01 FF TLBSYNC ; cpuid:invlpgb
F2 0F 01 FF PVALIDATE ; cpuid:snp
F3 0F 1E /1 RDSSPD Rd ; cpuid:cet_ss optional
NP 0F 37   GETSEC ; cpuid:smx
NP 0F 78 /r VMREAD Ed,Gd ; cpuid:vmx
NP 0F 79 /r VMWRITE Gd,Ed ; cpuid:vmx
NP 0F AE /4 XSAVE M ; cpuid:xsave
NP 0F AE /5 XRSTOR M ; cpuid:xsave
NP 0F AE /6 XSAVEOPT M ; cpuid:xsaveopt
F3 0F AE /4 PTWRITE Ed ; cpuid:ptwrite
F3 0F AE /5 INCSSPD Rd ; cpuid:cet_ss
F3 0F AE /6 CLRSSBSY M ; cpuid:cet_ss
66 0F AE /6 TPAUSE Rd ; cpuid:waitpkg
F3 0F AE /6 UMONITOR Rd ; cpuid:waitpkg
F2 0F AE /6 UMWAIT Rd ; cpuid:waitpkg
NP 0F C7 /3 XRSTORS M ; cpuid:xsaves
NP 0F C7 /4 XSAVEC M ; cpuid:xsavec
NP 0F C7 /5 XSAVES M ; cpuid:xsaves
NP 0F C7 /6 VMPTRLD M ; cpuid:vmx
66 0F C7 /6 VMCLEAR M ; cpuid:vmx
F3 0F C7 /6 VMXON M ; cpuid:vmx
NP 0F C7 /7 VMPTRST M ; cpuid:vmx
66 0F 38 80 /r INVEPT Gd,M ; cpuid:vmx
66 0F 38 81 /r INVVPID Gd,M ; cpuid:vmx
F3 0F 38 D8 /r KEYLOCKER M ; cpuid:kl
F3 0F 38 DC /r KEYLOCKER E ; cpuid:kl
F3 0F 38 DD-DF /r KEYLOCKER M ; cpuid:kl
F3 0F 38 FA-FB /r KEYLOCKER R ; cpuid:kl
66 0F 38 F5 /r WRUSSD Md,Gd ; cpuid:cet_ss
NP 0F 38 F6 /r WRSSD Md,Gd ; cpuid:cet_ss
66 0F 38 F8 /r MOVDIR64B Gv,M ; cpuid:movdir64b
F2 0F 38 F8 /r ENQCMD Gv,M ; cpuid:enqcmd
F3 0F 38 F8 /r ENQCMDS Gv,M ; cpuid:enqcmd
NP 0F 38 FC /r AADD Md,Gd ; cpuid:raoint
66 0F 38 FC /r AAND Md,Gd ; cpuid:raoint
F3 0F 38 FC /r AXOR Md,Gd ; cpuid:raoint
F2 0F 38 FC /r AOR Md,Gd ; cpuid:raoint
F3 0F 3A F0 /r HRESET R,Ib ; cpuid:hreset
"""

#: What is left of groups and of opcodes that take only memory or only registers, and opcodes without any instruction:
#: #UD, but all bytes are fetched first, so that running into CS.limit or an absent page goes before it (measured; of
#: the two-byte opcodes without an instruction AMD's parts look no further than the opcode).
UNDEFINED: Final = "".join(
    f"{opcode} /r UD {operands} ; undefined{vendor}\n"
    for opcode, operands, vendor in (
        *((opcode, "E", "") for opcode in ("62", "8D", "8F", "C4", "C5", "FE", "FF")),
        ("C6", "Eb,Ib", ""),
        ("C7", "Ev,Iz", ""),
        ("0F BA", "Ev,Ib", ""),
        *((f"0F {opcode}", "E", "") for opcode in ("00", "01", "AE", "B2", "B4", "B5", "B8", "C3", "C7")),
        *((f"0F {opcode}", "E", "") for opcode in ("10-17", "28-2F", "50-6F", "74-76", "78-79", "7C-7F")),
        *((f"0F {opcode}", "E,Ib", "") for opcode in ("70-73", "C4-C6")),
        ("0F D0-FE", "E", ""),
        *((f"0F {opcode}", "E", " intel") for opcode in ("39", "3B-3F", "7A-7B", "A6-A7")),
        ("0F 38 00-FF", "E", ""),
        ("0F 3A 00-FF", "E,Ib", ""),
    )
)

#: Which CPU model introduced the opcodes after 0F: last digit of its number (2: 80286), 5 for the Pentium, and 6 for
#: the P6, which is also taken for whatever is not listed and for all that CPUID announces.
SINCE: Final = {
    2: ((0x00, 0x03), (0x06, 0x06)),
    3: (
        (0x20, 0x23), (0x80, 0xA1), (0xA3, 0xA5), (0xA8, 0xA9), (0xAB, 0xAD), (0xAF, 0xAF), (0xB2, 0xB7), (0xBA, 0xBF)
    ),
    4: ((0x08, 0x09), (0xB0, 0xB1), (0xC0, 0xC1), (0xC8, 0xCF)),
    5: ((0x30, 0x32), (0xA2, 0xA2), (0xAA, 0xAA)),
}  # fmt: skip
