"""Small programs in a boot sector: each asks the built-in PC for one thing, through a daemon.

They are assembled with GNU as and start as a BIOS starts them: real mode, CS:IP 0:7C00h, DL the drive.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import need

BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot"]

PROLOGUE = """
    .intel_syntax noprefix
    .code16
    .globl _start
_start:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    jmp main
print:                      # print the string at DS:SI on the screen
    lodsb
    test al, al
    jz 1f
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    jmp print
1:  ret
say:                        # print the string at DS:SI and stop
    call print
stop:
    cli
    hlt
    jmp stop
main:
"""

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that assembles a program into a diskette image."""
    need("as", "ld")

    def assemble(text: str) -> Path:
        source, binary, path = tmp_path / "boot.s", tmp_path / "boot.bin", tmp_path / "floppy.img"
        source.write_text(PROLOGUE + text)
        for words in (
            ["as", "--32", source, "-o", tmp_path / "boot.o"],
            ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", tmp_path / "boot.o", "-o", binary],
        ):
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        code = binary.read_bytes()
        assert len(code) <= 510, f"the program has {len(code)} bytes"
        path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1474560 - 512))
        return path

    return assemble


@pytest.fixture(params=["native", "python"])
def run(request: pytest.FixtureRequest, image: Callable[[str], Path]) -> Run:
    """Return a function that boots a program until a text appears, on each engine."""

    def boot(text: str, expect: str, *options: str) -> dict[str, Any]:
        words = [*BOOT, image(text), "--engine", request.param, *options, "--expect", expect, "--timeout", "200"]
        done = subprocess.run([*map(str, words), "--json"], capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        assert request.param in value["engine"]
        assert value["stats"]["shim"] == value["stats"]["daemon"]
        return value

    return boot


def test_print_and_halt(run: Run) -> None:
    result = run('mov si, offset text; jmp say; text: .asciz "hello"', "hello")
    assert result["screen"][0] == "hello"


def test_serial_and_debug_console(run: Run) -> None:
    """A string instruction is one exchange, however long the string."""
    result = run(
        """
        mov dx, 0x3f8
        mov al, '<'
        out dx, al
        mov si, offset text
        mov cx, 16
        mov dx, 0x402
        rep outsb
        jmp stop
        text: .ascii "0123456789abcde>"
        """,
        "<0123456789abcde>",
        "--debugcon",
        "0x402",
    )
    stats = result["stats"]
    # Beside the program's own only the timer's, which end with a byte to the controller.
    assert stats["questions"]["port-out"] - stats["interrupts"] == 17
    # The single byte and the string.
    assert stats["shim"]["io"] - stats["questions"].get("interrupt-ack", 0) - stats["interrupts"] == 2


def test_timer_wakes_a_halted_program(run: Run) -> None:
    result = run(
        """
        mov word ptr [0x1c * 4], offset tick
        mov word ptr [0x1c * 4 + 2], 0
        sti
    1:  hlt
        cmp byte ptr [count], 5
        jb 1b
        mov si, offset text
        jmp say
    tick:
        inc byte ptr cs:[count]
        iret
    count: .byte 0
    text: .asciz "five ticks"
        """,
        "five ticks",
    )
    assert result["stats"]["wall_seconds"] > 0.2
    assert result["stats"]["interrupts"] >= 5
    assert "0x08" not in result["stats"]["firmware"], "the ROM counts ticks by itself"


def test_timer_interrupts_a_busy_loop(run: Run) -> None:
    run(
        """
        sti
        mov eax, [0x46c]
        add eax, 3
    1:  cmp [0x46c], eax
        jb 1b
        mov si, offset text
        jmp say
    text: .asciz "time passes"
        """,
        "time passes",
    )


def test_keys_through_the_firmware(run: Run) -> None:
    result = run(
        """
        mov si, offset text
        call print
    1:  xor ah, ah
        int 0x16
        mov ah, 0x0e
        int 0x10
        cmp al, 13
        jne 1b
        mov al, 10
        int 0x10
        mov si, offset text2
        jmp say
    text: .asciz "> "
    text2: .asciz "thanks"
        """,
        "thanks",
        "--expect",
        ">",
        "--keys",
        r"Hello, World$\n",
    )
    assert result["screen"][0] == "> Hello, World$"


def test_keys_through_the_controller(run: Run) -> None:
    """The program has its own IRQ 1 handler and reads port 60h."""
    result = run(
        """
        cli
        mov word ptr [9 * 4], offset key
        mov word ptr [9 * 4 + 2], 0
        sti
        mov si, offset text
        call print
    1:  hlt
        cmp byte ptr [last], 0x9c       # Enter released
        jne 1b
        mov si, offset text2
        jmp say
    key:
        push ax
        in al, 0x60
        mov cs:[last], al
        add cs:[sum], al
        mov al, 0x20
        out 0x20, al
        pop ax
        iret
    last: .byte 0
    sum: .byte 0
    text: .asciz "press"
    text2: .asciz "entered"
        """,
        "entered",
        "--expect",
        "press",
        "--keys",
        r"a\n",
    )
    assert result["stats"]["interrupts"] >= 4


def test_a20_wraps_until_port_92_opens_it(run: Run) -> None:
    run(
        """
        mov ax, 0xffff
        mov es, ax
        mov byte ptr [0x500], 0x11
        mov byte ptr es:[0x510], 0x22
        mov al, [0x500]
        mov si, offset bad
        cmp al, 0x22
        jne say
        in al, 0x92
        or al, 2
        out 0x92, al
        mov byte ptr es:[0x510], 0x33
        cmp byte ptr [0x500], 0x22
        jne say
        cmp byte ptr es:[0x510], 0x33
        jne say
        and al, 0xfd
        out 0x92, al
        cmp byte ptr es:[0x510], 0x22
        jne say
        mov si, offset good
        jmp say
    bad: .asciz "wrong memory"
    good: .asciz "A20 good"
        """,
        "A20 good",
    )


def test_reset_resumes_where_cmos_says(run: Run) -> None:
    result = run(
        """
        mov al, 0x0f
        out 0x70, al
        mov al, 0x0a
        out 0x71, al
        mov dword ptr [0x467], offset resumed
        mov al, 0xfe
        out 0x64, al
    1:  jmp 1b
    resumed:
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x7c00
        mov si, offset text
        jmp say
    text: .asciz "back again"
        """,
        "back again",
    )
    assert result["resets"] == 1


def test_triple_fault_boots_again(run: Run) -> None:
    result = run(
        """
        inc byte ptr [0x600]
        cmp byte ptr [0x600], 2
        mov si, offset text
        je say
        lidt [none]
        int3
    none: .word 0
        .long 0
    text: .asciz "second life"
        """,
        "second life",
    )
    assert result["resets"] == 1


def test_protected_mode_takes_timer_interrupts(run: Run) -> None:
    """A flat protected-mode program with its own GDT, IDT, PIC and PIT programming writes to the screen itself."""
    run(
        """
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        .byte 0xea
        .word protected, 8
        .code32
    protected:
        mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov esp, 0x7000
        mov eax, offset tick
        mov [0x1000 + 0x20 * 8], ax
        mov word ptr [0x1000 + 0x20 * 8 + 2], 8
        mov dword ptr [0x1000 + 0x20 * 8 + 4], 0x8e00
        lidt [idtr]
        mov al, 0x11
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xfe
        out 0x21, al
        mov al, 0x34
        out 0x43, al
        mov al, 0xa9
        out 0x40, al
        mov al, 0x04
        out 0x40, al
        xor ecx, ecx
        sti
    1:  hlt
        cmp ecx, 100
        jb 1b
        mov esi, offset text
        mov edi, 0xb8000
        mov ah, 0x1f
    2:  lodsb
        stosw
        test al, al
        jnz 2b
        cli
        hlt
    tick:
        inc ecx
        push eax
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
    gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
    gdtr: .word 23
        .long gdt
    idtr: .word 0x21 * 8 - 1
        .long 0x1000
    text: .asciz "flat and ticking"
        """,
        "flat and ticking",
    )


def test_big_real_mode_reaches_extended_memory(run: Run) -> None:
    run(
        """
        mov ax, 0x2401
        int 0x15
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, 8
        mov fs, bx
        and al, 0xfe
        mov cr0, eax
        sti
        mov edi, 0x800000
        mov dword ptr fs:[edi], 0x12345678
        xor bx, bx
        mov fs, bx
        mov eax, fs:[edi]           # a real-mode load leaves the limit alone
        mov si, offset bad
        cmp eax, 0x12345678
        jne say
        mov si, offset good
        jmp say
    gdt: .quad 0, 0x00cf92000000ffff
    gdtr: .word 15
        .long gdt
    bad: .asciz "limit lost"
    good: .asciz "unreal"
        """,
        "unreal",
    )


def test_disk_writes_stay_in_memory_unless_told_otherwise(run: Run, image: Callable[[str], Path]) -> None:
    program = """
        mov ax, 0x0301
        mov cx, 0x0002
        xor dh, dh
        mov bx, 0x7c00
        int 0x13
        jc bad
        mov ax, 0x0201
        mov cx, 0x0002
        mov bx, 0x8000
        int 0x13
        jc bad
        mov si, 0x7c00
        mov di, 0x8000
        mov cx, 256
        repe cmpsw
        mov si, offset good
        je say
    bad:
        mov si, offset text
        jmp say
    good: .asciz "same"
    text: .asciz "different"
    """
    path = image(program)
    before = path.read_bytes()
    run(program, "same")
    assert path.read_bytes() == before
    run(program, "same", "--write")
    assert path.read_bytes()[512:1024] == before[:512]


def test_time_of_day_wait(run: Run) -> None:
    result = run(
        """
        mov ah, 0x86
        mov cx, 3
        mov dx, 0x0d40              # 200,000 us
        int 0x15
        mov si, offset text
        jmp say
    text: .asciz "waited"
        """,
        "waited",
    )
    assert result["stats"]["wall_seconds"] >= 0.2
    assert result["stats"]["runs"] < 50, "waiting costs no runs"
