# Two processors: INIT and SIPI, atomic additions to the same word, an interrupt from one to a halted other; then INIT
# and SIPI at once, again and again, to one that is halted without interrupts, and then busy.

    .include "prologue.s"

    .set LAPIC, 0xfee00000
    .set TRAMPOLINE, 0x6000
    .set ROUNDS, 20000
    .set AGAIN, 16
    .set CONTROL, 0x0340            # of the x87: INIT leaves it alone

main:
    mov edi, TRAMPOLINE
    mov esi, offset trampoline
    mov ecx, offset trampoline_end - trampoline
    rep movsb
    gate 0x52, wake
    mov dword ptr [LAPIC + 0xf0], 0x1ff
    say "init "
    mov dword ptr [LAPIC + 0x310], 0x01000000
    mov dword ptr [LAPIC + 0x300], 0x4500
    mov ecx, 100000                 # a while
1:  pause
    loop 1b
    mov dword ptr [LAPIC + 0x300], 0x4600 + (TRAMPOLINE >> 12)
2:  pause
    cmp dword ptr [up], 1
    jne 2b
    say "up "
    mov eax, [mode]
    call hex
    call newline

    say "sum "
    mov dword ptr [go], 1
    mov ecx, ROUNDS
3:  lock inc dword ptr [sum]
    loop 3b
4:  pause
    cmp dword ptr [finished], 1
    jne 4b
    mov eax, [sum]
    call hex
    call newline

    say "wake "
    mov ecx, 200000                 # it is in HLT by then
5:  pause
    loop 5b
    mov dword ptr [LAPIC + 0x310], 0x01000000
    mov dword ptr [LAPIC + 0x300], 0x4052
6:  pause
    cmp dword ptr [woken], 2
    jne 6b
    mov eax, [woken]
    call hex
    call newline

    say "again "
    mov dword ptr [LAPIC + 0x310], 0x01000000
    mov ebx, AGAIN
7:  mov edx, [starts]
    inc edx
    mov dword ptr [LAPIC + 0x300], 0x4500
    mov dword ptr [LAPIC + 0x300], 0x4600 + (TRAMPOLINE >> 12)
    mov ecx, 100000000
8:  pause
    cmp [starts], edx
    je 9f
    loop 8b
    say "lost "
9:  dec ebx
    jnz 7b
    show [starts]
    show [mode]
    show [controls]
    call newline
    say "end"
    call newline
    jmp finish

    .code16
trampoline:                         # CS is TRAMPOLINE >> 4
    cli
    mov ax, cs
    mov ds, ax
    mov ebx, cr0
    lgdt [ap_gdt - trampoline]
    mov eax, ebx
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long ap32
    .word CODE
ap_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
ap32:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK - 0x8000
    lidt idt_pointer
    and ebx, 1                      # PE, when it started
    or [mode], ebx
    cmp dword ptr [starts], 0
    jne again
    inc dword ptr [starts]
    mov dword ptr [LAPIC + 0xf0], 0x1ff
    mov dword ptr [up], 1
1:  pause
    cmp dword ptr [go], 1
    jne 1b
    mov ecx, ROUNDS
2:  lock inc dword ptr [sum]
    loop 2b
    mov dword ptr [finished], 1
    sti
    hlt
    cli
    inc dword ptr [woken]
3:  hlt
    jmp 3b

again:
    cmp dword ptr [starts], 1
    je 1f
    fnstcw [control]
    movzx eax, word ptr [control]
    xor eax, CONTROL
    or [controls], eax
    jmp 2f
1:  mov word ptr [control], CONTROL
    fldcw [control]
2:  inc dword ptr [starts]
3:  pause
    jmp 3b

wake:
    inc dword ptr [woken]
    mov dword ptr [LAPIC + 0xb0], 0
    iretd

    .balign 4
up: .long 0
mode: .long 0
go: .long 0
sum: .long 0
finished: .long 0
woken: .long 0
starts: .long 0
control: .long 0
controls: .long 0
