"""Guest programs that engines are measured with.

Each is called at 1000h with a number of rounds in ECX and :data:`REGISTERS` in the others, and returns; what it
computes is in its registers and between 8000h and FFFFh.  Bytes stand with their meaning; :mod:`dm.bench.image` makes
images of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from dm.machine.state import State

MEMORY: Final = 1 << 20
ORIGIN: Final = 0x1000
STACK: Final = 0x1FF0  # below 2000h: in the code's own page, as boot programs have it
DATA: Final = 0x8000
TABLES: Final = 0x10000
DEVICE: Final = 0xE0000  # where kernel rmw-mmio finds a device register
#: EAX, EDX, EBX, EBP, ESI and EDI at the call, by number.
REGISTERS: Final = {0: 0x12345678, 2: 0x0F1E2D3C, 3: 0x9ABCDEF1, 5: 0x31415926, 6: 0x2468ACE0, 7: 0x13579BDF}


@dataclass(frozen=True)
class Kernel:
    """A program: ``code`` at ORIGIN and what else memory holds, as (address, bytes).

    ``paged``: it wants flat 32-bit protected mode, the first 4 MiB mapped to themselves by tables at TABLES.
    ``device``: it wants a byte-wide register at DEVICE, whose segment is in ES.  ``stack`` is where its stack begins.
    """

    name: str
    about: str
    code: bytes
    memory: tuple[tuple[int, bytes], ...] = ()
    paged: bool = False
    device: bool = False
    stack: int = STACK


def listing(text: str) -> bytes:
    """Assemble ``bytes ; meaning`` lines."""
    return bytes.fromhex("".join(line.split(";")[0] for line in text.splitlines()))


def real_mode() -> State:
    """Return the state in which real-mode kernels are called: all segments 0."""
    state = State.reset()
    for number, value in REGISTERS.items():
        state.gpr[number] = value
    state.cs.selector, state.cs.base, state.rip = 0, 0, ORIGIN
    state.esp = STACK
    return state


def _tables() -> tuple[tuple[int, bytes], ...]:
    directory = (TABLES + 0x1007).to_bytes(4, "little") + bytes(0xFFC)
    return (TABLES, directory), (TABLES + 0x1000, b"".join((n << 12 | 7).to_bytes(4, "little") for n in range(1024)))


def _noise(size: int) -> tuple[tuple[int, bytes], ...]:
    return ((DATA, random.Random(2).randbytes(size)),)


def _branchy(blocks: int = 1500, seed: int = 1) -> bytes:
    """Random blocks chained in random order: a few ALU instructions, a conditional skip, a jump."""
    rng = random.Random(seed)
    order = list(range(1, blocks))
    rng.shuffle(order)
    follow = dict(zip([0, *order], [*order, blocks], strict=True))

    def word() -> bytes:
        return (0xC000 + 2 * rng.randrange(512)).to_bytes(2, "little")

    def alu() -> bytes:
        match rng.randrange(7):
            case 0:
                return b"\x05" + rng.randbytes(2)  # add ax, imm
            case 1:
                return b"\x8b\x2e" + word()  # mov bp, [c000h+]
            case 2:
                return b"\x89\x36" + word()  # mov [c000h+], si
        # xor bx, ax; sub dx, bx; adc si, dx; rol di, 1
        return rng.choice((b"\x31\xc3", b"\x29\xda", b"\x11\xd6", b"\xd1\xc7"))

    bodies = []
    for _ in range(blocks):
        body = b"".join(alu() for _ in range(rng.randint(2, 4)))
        skipped = b"".join(alu() for _ in range(rng.randint(1, 2)))
        body += b"\xa8" + bytes([rng.randrange(256)])  # test al, imm
        body += bytes([rng.choice((0x74, 0x75, 0x78, 0x7A)), len(skipped)]) + skipped
        bodies.append(body)
    start, address = [], 0
    for body in bodies:
        start.append(address)
        address += len(body) + 3
    start.append(address)
    out = bytearray()
    for n, body in enumerate(bodies):
        out += body
        out += b"\xe9" + ((start[follow[n]] - len(out) - 3) & 0xFFFF).to_bytes(2, "little")  # jmp
    out += b"\x66\x49\x0f\x85" + ((-len(out) - 6) & 0xFFFF).to_bytes(2, "little") + b"\xc3"  # dec ecx; jnz start; ret
    return bytes(out)


KERNELS: Final[dict[str, Kernel]] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            "alu",
            "six-instruction register loop",
            listing(
                """
                01d8    ; loop: add ax, bx
                31c2    ; xor dx, ax
                29d6    ; sub si, dx
                d1c3    ; rol bx, 1
                6649    ; dec ecx
                75f4    ; jnz loop
                c3      ; ret
                """
            ),
        ),
        Kernel(
            "sieve",
            "sieve of Eratosthenes over 16 KiB of bytes",
            listing(
                """
                bf0080      ; round: mov di, 8000h
                51          ; push cx
                b90040      ; mov cx, 4000h
                b001        ; mov al, 1
                fc f3aa     ; cld; rep stosb
                59          ; pop cx
                be0200      ; mov si, 2
                80bc008000  ; next: cmp byte [si+8000h], 0
                7413        ; je skip
                89f7        ; mov di, si
                01f7        ; add di, si
                81ff0040    ; mark: cmp di, 4000h
                7309        ; jae skip
                c685008000  ; mov byte [di+8000h], 0
                01f7        ; add di, si
                ebf1        ; jmp mark
                46          ; skip: inc si
                81fe8000    ; cmp si, 128
                72df        ; jb next
                6649        ; dec ecx
                75cb        ; jnz round
                c3          ; ret
                """
            ),
        ),
        Kernel(
            "fib",
            "recursive Fibonacci, stack and code in one page",
            listing(
                """
                b81200      ; round: mov ax, 18
                e80500      ; call fib
                6649        ; dec ecx
                75f6        ; jnz round
                c3          ; ret
                83f802      ; fib: cmp ax, 2
                7212        ; jb done
                50          ; push ax
                48          ; dec ax
                e8f6ff      ; call fib
                5a          ; pop dx
                50          ; push ax
                89d0        ; mov ax, dx
                83e802      ; sub ax, 2
                e8ecff      ; call fib
                5a          ; pop dx
                01d0        ; add ax, dx
                c3          ; done: ret
                """
            ),
        ),
        Kernel(
            "crc",
            "bitwise CRC-32, 32-bit registers in 16-bit code",
            listing(
                """
                66b8ffffffff  ; round: mov eax, -1
                be0080        ; mov si, 8000h
                3204          ; byte: xor al, [si]
                b208          ; mov dl, 8
                66d1e8        ; bit: shr eax, 1
                7306          ; jnc no
                66352083b8ed  ; xor eax, 0edb88320h
                feca          ; no: dec dl
                75f1          ; jnz bit
                46            ; inc si
                81fe0081      ; cmp si, 8100h
                72e6          ; jb byte
                6649          ; dec ecx
                75d9          ; jnz round
                c3            ; ret
                """
            ),
            _noise(256),
        ),
        Kernel(
            "str",
            "rep movsw of 512 words and a lodsb/stosb loop over 256 bytes",
            listing(
                """
                be0080    ; round: mov si, 8000h
                bf00a0    ; mov di, a000h
                89cb      ; mov bx, cx
                b90002    ; mov cx, 512
                fc f3a5   ; cld; rep movsw
                be0080    ; mov si, 8000h
                bf00a0    ; mov di, a000h
                ba0001    ; mov dx, 256
                ac        ; each: lodsb
                345a      ; xor al, 5ah
                aa        ; stosb
                4a        ; dec dx
                75f9      ; jnz each
                89d9      ; mov cx, bx
                6649      ; dec ecx
                75dc      ; jnz round
                c3        ; ret
                """
            ),
            _noise(1024),
        ),
        Kernel("branchy", "1,500 random blocks, 29 KB of code: the realistic one", _branchy(), stack=0xFFF0),
        Kernel(
            "call32",
            "recursive Fibonacci as a compiler writes it, 32-bit paged protected mode",
            listing(
                """
                51              ; round: push ecx
                6a12            ; push 18
                e808000000      ; call fib
                83c404          ; add esp, 4
                59              ; pop ecx
                49              ; dec ecx
                75f1            ; jnz round
                c3              ; ret
                55              ; fib: push ebp
                89e5            ; mov ebp, esp
                53              ; push ebx
                8b5d08          ; mov ebx, [ebp+8]
                83fb02          ; cmp ebx, 2
                89d8            ; mov eax, ebx
                721e            ; jb done
                8d43ff          ; lea eax, [ebx-1]
                50              ; push eax
                e8e9ffffff      ; call fib
                83c404          ; add esp, 4
                894508          ; mov [ebp+8], eax
                8d43fe          ; lea eax, [ebx-2]
                50              ; push eax
                e8daffffff      ; call fib
                83c404          ; add esp, 4
                034508          ; add eax, [ebp+8]
                5b              ; done: pop ebx
                5d              ; pop ebp
                c3              ; ret
                """
            ),
            _tables(),
            paged=True,
            stack=0x80000,
        ),
        Kernel(
            "rmw-mmio",
            "read-modify-write of a device register: two exits each",
            listing(
                """
                26fe060000  ; round: inc byte [es:0]
                6649        ; dec ecx
                75f7        ; jnz round
                c3          ; ret
                """
            ),
            device=True,
        ),
    )
}
