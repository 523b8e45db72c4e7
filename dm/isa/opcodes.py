"""The opcode map, in the manual's notation (SDM vol. 2, 3.1.1 and appendix A).

A row is ``[prefix] opcode [/r | /0-/7] MNEMONIC operands ; attributes``.  Prefix NP, 66, F2 or F3 is mandatory.
``VEX`` goes before it where prefix and map stand in a VEX prefix, VEX.L being 0 and VEX.W ignored.
``+r`` after the opcode: register in its low three bits.  ``A/B`` names the 16- and 32-bit form.  Operands:

=========  ===========================================================================================
E G        ModRM rm (register or memory), ModRM reg; b 8, w 16, d 32, v 16/32 by operand size
M R        rm that must be memory (Mp far pointer, Ma two words, Ms six bytes, Mq eight) / a register
I          immediate: Ib, Iw, Iz (16/32), Is (8 bits sign-extended to the operand size)
J          relative target: Jb, Jz                    O     memory at an address in the instruction
A          far pointer in the instruction             S C D segment, control, debug register in reg
Z          register in the opcode: Zb, Zv             X Y   string operands at DS:SI (override) and ES:DI
B          general register in VEX.vvvv: Bd
AL CL ...  a register; eAX is AX or EAX; 1 and 3 are constants
=========  ===========================================================================================

Attributes: ``lock`` LOCK is allowed with a memory destination (on MOV to and from CR0 AMD's parts take it for CR8);
``rep`` F2/F3 repeat; ``repz`` F3 repeats while equal, F2 while not; ``cpuid:X`` needs that feature, else #UD;
``fallback`` without the feature it is another instruction, which its description says; ``undefined`` what no other row
of the opcode takes; ``since:N`` the part that brought a row, where :data:`SINCE` does not say it for the whole opcode.
"""

from __future__ import annotations

from typing import Final


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


_CONDITIONS: Final = "O NO B NB Z NZ BE NBE S NS P NP L NL LE NLE".split()

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
    + "".join(f"{0x70 + i:02X}         J{cc} Jb\n" for i, cc in enumerate(_CONDITIONS))
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
0F 01 C8   MONITOR ; cpuid:monitor
0F 01 C9   MWAIT ; cpuid:monitor
0F 01 CA   CLAC ; cpuid:smap
0F 01 CB   STAC ; cpuid:smap
0F 01 D0   XGETBV ; cpuid:xsave
0F 01 D1   XSETBV ; cpuid:xsave
0F 01 F9   RDTSCP ; cpuid:rdtscp
0F 02 /r   LAR Gv,Ew
0F 03 /r   LSL Gv,Ew
0F 05      SYSCALL
0F 06      CLTS
0F 07      SYSRET
0F 08      INVD
0F 09      WBINVD
0F 0B      UD2
0F 0D /r   NOP Ev
0F 18 /r   NOP Ev
0F 19 /r   NOP Ev
0F 1A /r   NOP Ev
0F 1B /r   NOP Ev
0F 1C /r   NOP Ev
0F 1D /r   NOP Ev
0F 1E /r   NOP Ev
0F 1F /r   NOP Ev
0F 20 /r   MOV Rd,Cd ; lock
0F 21 /r   MOV Rd,Dd
0F 22 /r   MOV Cd,Rd ; lock
0F 23 /r   MOV Dd,Rd
0F 30      WRMSR
0F 31      RDTSC ; cpuid:tsc
0F 32      RDMSR
0F 33      RDPMC
0F 34      SYSENTER
0F 35      SYSEXIT
"""
    + "".join(f"0F {0x40 + i:02X} /r   CMOV{cc} Gv,Ev ; cpuid:cmov\n" for i, cc in enumerate(_CONDITIONS))
    + "".join(f"0F {0x80 + i:02X}      J{cc} Jz\n" for i, cc in enumerate(_CONDITIONS))
    + "".join(f"0F {0x90 + i:02X} /r   SET{cc} Eb\n" for i, cc in enumerate(_CONDITIONS))
    + """
0F 77      EMMS ; cpuid:mmx
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
0F B9      UD1
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
0F C7 /6   RDRAND Rv ; cpuid:rdrand
0F C7 /7   RDSEED Rv ; cpuid:rdseed
0F C8+r    BSWAP Zv
0F FF      UD0
"""
)

THREE_BYTE: Final = """
NP 0F 38 F0 /r MOVBE Gv,Mv ; cpuid:movbe
NP 0F 38 F1 /r MOVBE Mv,Gv ; cpuid:movbe
66 0F 38 F0 /r MOVBE Gv,Mv ; cpuid:movbe
66 0F 38 F1 /r MOVBE Mv,Gv ; cpuid:movbe
F2 0F 38 F0 /r CRC32 Gd,Eb ; cpuid:sse4.2
F2 0F 38 F1 /r CRC32 Gd,Ev ; cpuid:sse4.2
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

#: What is left of groups and of opcodes that take only memory or only registers: #UD, but all bytes are fetched first,
#: so that running into CS.limit or an absent page goes before it (measured).
UNDEFINED: Final = "".join(
    f"{opcode} /r UD {operands} ; undefined\n"
    for opcode, operands in (
        *((opcode, "E") for opcode in ("62", "8D", "8F", "C4", "C5", "FE", "FF")),
        ("C6", "Eb,Ib"),
        ("C7", "Ev,Iz"),
        ("0F BA", "Ev,Ib"),
        *((f"0F {opcode}", "E") for opcode in ("00", "01", "AE", "B2", "B4", "B5", "B8", "C3", "C7")),
        *((f"0F 38 {opcode}", "E") for opcode in ("F0", "F1", "F6")),
    )
)

#: Which part brought the opcodes after 0F: last digit of its number (2: 80286), 5 for the Pentium, and 6 for the P6,
#: which is also taken for whatever is not listed and for all that CPUID announces.
SINCE: Final = {
    2: ((0x00, 0x03), (0x06, 0x06)),
    3: (
        (0x20, 0x23), (0x80, 0xA1), (0xA3, 0xA5), (0xA8, 0xA9), (0xAB, 0xAD), (0xAF, 0xAF), (0xB2, 0xB7), (0xBA, 0xBF)
    ),
    4: ((0x08, 0x09), (0xB0, 0xB1), (0xC0, 0xC1), (0xC8, 0xCF)),
    5: ((0x30, 0x32), (0xA2, 0xA2), (0xAA, 0xAA)),
}  # fmt: skip

#: Opcodes that belong to x87, MMX and SSE, which are not described one by one here: (first, last) after 0F.
SIMD: Final = ((0x10, 0x17), (0x28, 0x2F), (0x50, 0x76), (0x78, 0x7F), (0xC2, 0xC2), (0xC4, 0xC6), (0xD0, 0xFE))
