# A long computation that moves through memory and talks to a device: whatever interrupts it must not show.
#
# 320 rounds over 4 MiB, each word x = 1664525 x + 1013904223 + word; one dot for each round, then the last x.

    .include "prologue.s"

    .set ROUNDS, 320
    .set AREA, 0x400000
    .set WORDS, 0x100000

main:
    say "work "
    mov eax, 1
    mov ebx, ROUNDS
1:  mov edi, AREA
    mov ecx, WORDS
2:  imul eax, eax, 1664525
    add eax, 1013904223
    add eax, [edi]
    mov [edi], eax
    add edi, 4
    dec ecx
    jnz 2b
    push eax
    mov al, '.'
    out 0xe9, al
    pop eax
    dec ebx
    jnz 1b
    call newline
    call hex
    call newline
    say "end"
    call newline
    jmp finish
