"""The opcode map, in the manual's notation (SDM vol. 2, 3.1.1 and appendix A).

A row is ``[prefix] opcode [/r | /0-/7] MNEMONIC operands ; attributes``.  Prefix NP, 66, F2 or F3 is mandatory; NFx is
NP or 66.  ``VEX`` goes before it where prefix and map stand in a VEX prefix, VEX.L being 0 and VEX.W ignored.
``+r`` after the opcode: register in its low three bits; ``10-17``: all these opcodes.  ``A/B`` names the 16- and 32-bit
form.  Operands:

=========  ===========================================================================================
E G        ModRM rm (register or memory), ModRM reg; b 8, w 16, d 32, v 16/32 by operand size
M R        rm that must be memory (Mp far pointer, Ma two words, Ms six bytes, Mq eight) / a register
I          immediate: Ib, Iw, Iz (16/32), Is (8 bits sign-extended to the operand size)
J          relative target: Jb, Jz                    O     memory at an address in the instruction
A          far pointer in the instruction             S C D T segment, control, debug, test register in reg
Z          register in the opcode: Zb, Zv             X Y   string operands at DS:SI (override) and ES:DI
B          general register in VEX.vvvv: Bd
AL CL ...  a register; eAX is AX or EAX; 1 and 3 are constants
=========  ===========================================================================================

Attributes: ``lock`` LOCK is allowed with a memory destination (on MOV to and from CR0 AMD's parts take it for CR8);
``rep`` F2/F3 repeat; ``repz`` F3 repeats while equal, F2 while not; ``cpuid:X`` needs that feature, else #UD;
``fallback`` without the feature it is another instruction, which its description says; ``undefined`` what no other row
of the opcode takes; ``since:N`` the CPU model that introduced it, where :data:`SINCE` does not say so for the whole
opcode, ``until:N`` the last model that had it; ``intel``, ``amd`` only that vendor's processors have it.
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
8C /r      MOV Ev,Sw
8D /r      LEA Gv,M
8E /r      MOV Sw,Ew
8F /0      POP Ev
90         NOP
F3 90      PAUSE
90+r       XCHG Zv,eAX
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
D8 /r      X87 E
D9 /r      X87 E
DA /r      X87 E
DB /r      X87 E
DC /r      X87 E
DD /r      X87 E
DE /r      X87 E
DF /r      X87 E
"""
)

TWO_BYTE: Final = (
    """
0F 00 /0   SLDT Ev
0F 00 /1   STR Ev
0F 00 /2   LLDT Ew
0F 00 /3   LTR Ew
0F 00 /4   VERR Ew
0F 00 /5   VERW Ew
0F 01 /0   SGDT Ms
0F 01 /1   SIDT Ms
0F 01 /2   LGDT Ms
0F 01 /3   LIDT Ms
0F 01 /4   SMSW Ev
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
0F 1A-1B /r BND E ; cpuid:mpx fallback
0F 1C /r   NOP Ev
0F 1D /r   NOP Ev
0F 1E /r   NOP Ev
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
NP 0F AE /0 FXSAVE M ; cpuid:fxsr
NP 0F AE /1 FXRSTOR M ; cpuid:fxsr
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
0F BC /r   BSF Gv,Ev
0F BD /r   BSR Gv,Ev
F3 0F BC /r TZCNT Gv,Ev ; cpuid:bmi1 fallback
F3 0F BD /r LZCNT Gv,Ev ; cpuid:lzcnt fallback
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

#: MMX and SSE, which are carried but not executed: who may use them is described, the rest is the hypervisor's.
#: MMX works on MMX registers alone, SSE on XMM registers, SSEMMX on both.
SIMD: Final = """
NP 0F 10-11 /r SSE E ; cpuid:sse
66 0F 10-11 /r SSE E ; cpuid:sse2
F3 0F 10-11 /r SSE E ; cpuid:sse
F2 0F 10-11 /r SSE E ; cpuid:sse2
NP 0F 12 /r SSE E ; cpuid:sse
66 0F 12 /r SSE M ; cpuid:sse2
F3 0F 12 /r SSE E ; cpuid:sse3
F2 0F 12 /r SSE E ; cpuid:sse3
NP 0F 13 /r SSE M ; cpuid:sse
66 0F 13 /r SSE M ; cpuid:sse2
NP 0F 14-15 /r SSE E ; cpuid:sse
66 0F 14-15 /r SSE E ; cpuid:sse2
NP 0F 16 /r SSE E ; cpuid:sse
66 0F 16 /r SSE M ; cpuid:sse2
F3 0F 16 /r SSE E ; cpuid:sse3
NP 0F 17 /r SSE M ; cpuid:sse
66 0F 17 /r SSE M ; cpuid:sse2
NP 0F 28-29 /r SSE E ; cpuid:sse
66 0F 28-29 /r SSE E ; cpuid:sse2
NP 0F 2A /r SSEMMX E ; cpuid:sse
66 0F 2A /r SSEMMX E ; cpuid:sse2
F3 0F 2A /r SSE E ; cpuid:sse
F2 0F 2A /r SSE E ; cpuid:sse2
NP 0F 2B /r SSE M ; cpuid:sse
66 0F 2B /r SSE M ; cpuid:sse2
F3 0F 2B /r SSE M ; cpuid:sse4a
F2 0F 2B /r SSE M ; cpuid:sse4a
NP 0F 2C-2D /r SSEMMX E ; cpuid:sse
66 0F 2C-2D /r SSEMMX E ; cpuid:sse2
F3 0F 2C-2D /r SSE E ; cpuid:sse
F2 0F 2C-2D /r SSE E ; cpuid:sse2
NP 0F 2E-2F /r SSE E ; cpuid:sse
66 0F 2E-2F /r SSE E ; cpuid:sse2
NP 0F 50 /r SSE R ; cpuid:sse
66 0F 50 /r SSE R ; cpuid:sse2
NP 0F 51 /r SSE E ; cpuid:sse
66 0F 51 /r SSE E ; cpuid:sse2
F3 0F 51 /r SSE E ; cpuid:sse
F2 0F 51 /r SSE E ; cpuid:sse2
NP 0F 52-53 /r SSE E ; cpuid:sse
F3 0F 52-53 /r SSE E ; cpuid:sse
NP 0F 54-57 /r SSE E ; cpuid:sse
66 0F 54-57 /r SSE E ; cpuid:sse2
NP 0F 58-59 /r SSE E ; cpuid:sse
66 0F 58-59 /r SSE E ; cpuid:sse2
F3 0F 58-59 /r SSE E ; cpuid:sse
F2 0F 58-59 /r SSE E ; cpuid:sse2
NP 0F 5A-5B /r SSE E ; cpuid:sse2
66 0F 5A-5B /r SSE E ; cpuid:sse2
F3 0F 5A-5B /r SSE E ; cpuid:sse2
F2 0F 5A /r SSE E ; cpuid:sse2
NP 0F 5C-5F /r SSE E ; cpuid:sse
66 0F 5C-5F /r SSE E ; cpuid:sse2
F3 0F 5C-5F /r SSE E ; cpuid:sse
F2 0F 5C-5F /r SSE E ; cpuid:sse2
NP 0F 60-6B /r MMX E ; cpuid:mmx
66 0F 60-6D /r SSE E ; cpuid:sse2
NP 0F 6E-6F /r MMX E ; cpuid:mmx
66 0F 6E-6F /r SSE E ; cpuid:sse2
F3 0F 6F /r SSE E ; cpuid:sse2
NP 0F 70 /r MMX E,Ib ; cpuid:mmxext
66 0F 70 /r SSE E,Ib ; cpuid:sse2
F3 0F 70 /r SSE E,Ib ; cpuid:sse2
F2 0F 70 /r SSE E,Ib ; cpuid:sse2
NP 0F 71-73 /2 MMX R,Ib ; cpuid:mmx
NP 0F 71-72 /4 MMX R,Ib ; cpuid:mmx
NP 0F 71-73 /6 MMX R,Ib ; cpuid:mmx
66 0F 71-73 /2 SSE R,Ib ; cpuid:sse2
66 0F 73 /3 SSE R,Ib ; cpuid:sse2
66 0F 71-72 /4 SSE R,Ib ; cpuid:sse2
66 0F 71-73 /6 SSE R,Ib ; cpuid:sse2
66 0F 73 /7 SSE R,Ib ; cpuid:sse2
NP 0F 74-76 /r MMX E ; cpuid:mmx
66 0F 74-76 /r SSE E ; cpuid:sse2
66 0F 78 /0 SSE R,Iw ; cpuid:sse4a
F2 0F 78 /r SSE R,Iw ; cpuid:sse4a
66 0F 79 /r SSE R ; cpuid:sse4a
F2 0F 79 /r SSE R ; cpuid:sse4a
66 0F 7C-7D /r SSE E ; cpuid:sse3
F2 0F 7C-7D /r SSE E ; cpuid:sse3
NP 0F 7E-7F /r MMX E ; cpuid:mmx
66 0F 7E-7F /r SSE E ; cpuid:sse2
F3 0F 7E-7F /r SSE E ; cpuid:sse2
NP 0F C2 /r SSE E,Ib ; cpuid:sse
66 0F C2 /r SSE E,Ib ; cpuid:sse2
F3 0F C2 /r SSE E,Ib ; cpuid:sse
F2 0F C2 /r SSE E,Ib ; cpuid:sse2
NP 0F C4 /r MMX E,Ib ; cpuid:mmxext
66 0F C4 /r SSE E,Ib ; cpuid:sse2
NP 0F C5 /r MMX R,Ib ; cpuid:mmxext
66 0F C5 /r SSE R,Ib ; cpuid:sse2
NP 0F C6 /r SSE E,Ib ; cpuid:sse
66 0F C6 /r SSE E,Ib ; cpuid:sse2
66 0F D0 /r SSE E ; cpuid:sse3
F2 0F D0 /r SSE E ; cpuid:sse3
NP 0F D1-D3 /r MMX E ; cpuid:mmx
NP 0F D4 /r MMX E ; cpuid:sse2
NP 0F D5 /r MMX E ; cpuid:mmx
66 0F D1-D6 /r SSE E ; cpuid:sse2
F3 0F D6 /r SSEMMX R ; cpuid:sse2
F2 0F D6 /r SSEMMX R ; cpuid:sse2
NP 0F D7 /r MMX R ; cpuid:mmxext
66 0F D7 /r SSE R ; cpuid:sse2
NP 0F D8-D9 /r MMX E ; cpuid:mmx
NP 0F DA /r MMX E ; cpuid:mmxext
NP 0F DB-DD /r MMX E ; cpuid:mmx
NP 0F DE /r MMX E ; cpuid:mmxext
NP 0F DF /r MMX E ; cpuid:mmx
NP 0F E0 /r MMX E ; cpuid:mmxext
NP 0F E1-E2 /r MMX E ; cpuid:mmx
NP 0F E3-E4 /r MMX E ; cpuid:mmxext
NP 0F E5 /r MMX E ; cpuid:mmx
66 0F D8-E6 /r SSE E ; cpuid:sse2
F3 0F E6 /r SSE E ; cpuid:sse2
F2 0F E6 /r SSE E ; cpuid:sse2
NP 0F E7 /r MMX M ; cpuid:mmxext
66 0F E7 /r SSE M ; cpuid:sse2
NP 0F E8-E9 /r MMX E ; cpuid:mmx
NP 0F EA /r MMX E ; cpuid:mmxext
NP 0F EB-ED /r MMX E ; cpuid:mmx
NP 0F EE /r MMX E ; cpuid:mmxext
NP 0F EF /r MMX E ; cpuid:mmx
66 0F E8-EF /r SSE E ; cpuid:sse2
F2 0F F0 /r SSE M ; cpuid:sse3
NP 0F F1-F3 /r MMX E ; cpuid:mmx
NP 0F F4 /r MMX E ; cpuid:sse2
NP 0F F5 /r MMX E ; cpuid:mmx
NP 0F F6 /r MMX E ; cpuid:mmxext
66 0F F1-F6 /r SSE E ; cpuid:sse2
NP 0F F7 /r MMX R ; cpuid:mmxext
66 0F F7 /r SSE R ; cpuid:sse2
NP 0F F8-FA /r MMX E ; cpuid:mmx
NP 0F FB /r MMX E ; cpuid:sse2
NP 0F FC-FE /r MMX E ; cpuid:mmx
66 0F F8-FE /r SSE E ; cpuid:sse2
NP 0F 38 00-0B /r MMX E ; cpuid:ssse3
66 0F 38 00-0B /r SSE E ; cpuid:ssse3
66 0F 38 10 /r SSE E ; cpuid:sse4.1
66 0F 38 14-15 /r SSE E ; cpuid:sse4.1
66 0F 38 17 /r SSE E ; cpuid:sse4.1
NP 0F 38 1C-1E /r MMX E ; cpuid:ssse3
66 0F 38 1C-1E /r SSE E ; cpuid:ssse3
66 0F 38 20-25 /r SSE E ; cpuid:sse4.1
66 0F 38 28-29 /r SSE E ; cpuid:sse4.1
66 0F 38 2A /r SSE M ; cpuid:sse4.1
66 0F 38 2B /r SSE E ; cpuid:sse4.1
66 0F 38 30-35 /r SSE E ; cpuid:sse4.1
66 0F 38 37 /r SSE E ; cpuid:sse4.2
66 0F 38 38-41 /r SSE E ; cpuid:sse4.1
NP 0F 38 C8-CD /r SSE E ; cpuid:sha
66 0F 38 CF /r SSE E ; cpuid:gfni
66 0F 38 DB-DF /r SSE E ; cpuid:aes
66 0F 3A 08-0E /r SSE E,Ib ; cpuid:sse4.1
NP 0F 3A 0F /r MMX E,Ib ; cpuid:ssse3
66 0F 3A 0F /r SSE E,Ib ; cpuid:ssse3
66 0F 3A 14-17 /r SSE E,Ib ; cpuid:sse4.1
66 0F 3A 20-22 /r SSE E,Ib ; cpuid:sse4.1
66 0F 3A 40-42 /r SSE E,Ib ; cpuid:sse4.1
66 0F 3A 44 /r SSE E,Ib ; cpuid:pclmul
66 0F 3A 60-63 /r SSE E,Ib ; cpuid:sse4.2
NP 0F 3A CC /r SSE E,Ib ; cpuid:sha
66 0F 3A CE-CF /r SSE E,Ib ; cpuid:gfni
66 0F 3A DF /r SSE E,Ib ; cpuid:aes
0F 0E      MMX ; cpuid:3dnow amd
0F 0F /r   MMX E,Ib ; cpuid:3dnow amd
"""

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
F3 0F 1E /1 RDSSPD Rd ; cpuid:cet_ss fallback
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
