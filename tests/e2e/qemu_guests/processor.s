# Devices that look at the processor that accesses them: VMware's backdoor, and kvmvapic, which takes the place of its ROM
# from CS:EIP; also from a place where there is no RAM, behind a reset.

    .include "prologue.s"

    .set MAGIC, 0x564d5868

main:
    cmp dword ptr [0x500], MAGIC
    je again
    say "vmport "
    mov edi, 100                    # registers are other ones than at any start of a run
1:  mov eax, MAGIC
    mov ebx, edi
    mov ecx, 10                     # version
    mov edx, 0x5658
    in eax, dx
    dec edi
    jnz 1b
    show eax
    show ebx
    show ecx
    call newline
    say "vapic"
    call newline
    xor eax, eax
    call low
    mov dword ptr [0x500], MAGIC
    mov al, 0xfe                    # reset
    out 0x64, al
1:  jmp 1b

again:
    say "again"
    call newline
    xor eax, eax
    mov edi, 0xffff0000 + high - _start # in the ROM below 4 GiB
    call edi
    call edi
    call low
    call edi
    say "end"
    call newline
    jmp finish

    .balign 512
low:                                # what would be the ROM's size, in blocks, is the third byte
    out 0x7e, ax
    ret

    .balign 512
high:
    out 0x7e, ax
    ret
