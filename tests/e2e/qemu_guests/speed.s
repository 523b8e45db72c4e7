# What is measured: port reads in protected mode (between < and >), scrolls of the text screen (between [ and ]).

    .include "prologue.s"

    .set READS, 10000
    .set SCROLLS, 20

main:
    say "<"
    mov ecx, READS
    mov dx, 0x71
1:  in al, dx
    dec ecx
    jnz 1b
    say ">["
    mov ebx, SCROLLS
2:  mov esi, 0xb80a0
    mov edi, 0xb8000
    mov ecx, 80 * 24 / 2
    rep movsd
    mov eax, 0x07200720
    mov ecx, 40
    rep stosd
    dec ebx
    jnz 2b
    say "]"
    call newline
    say "end"
    call newline
    jmp finish
