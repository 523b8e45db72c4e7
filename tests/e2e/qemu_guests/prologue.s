# What every guest here begins with: a ROM that copies itself to RAM, enters flat protected mode, and has a console.
#
# Linked at 10000h and put at F0000h; output goes to the debug console at port E9h, `finish` ends the machine through
# port F4h.  A guest defines `main` (32-bit code).  SPDX-License-Identifier: GPL-2.0-or-later

    .intel_syntax noprefix

    .set BASE, 0x10000              # where the copy is
    .set STACK, 0x90000
    .set IDT, 0x8000
    .set CODE, 0x08
    .set DATA, 0x10
    .set CODE3, 0x18
    .set DATA3, 0x20
    .set TSS0, 0x28
    .set TSS1, 0x30
    .set CALLGATE, 0x38
    .set CODE16, 0x40
    .set DATA16, 0x48
    .set HIGHDATA, 0x50             # based at 30000h

    .code16
    .globl _start
_start:                             # F000:0000
    cli
    cld
    mov ax, 0xf000
    mov ds, ax
    mov ax, BASE >> 4
    mov es, ax
    xor si, si
    xor di, di
    mov cx, 0x3f00
    rep movsd
    lgdt [gdt_pointer - _start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                # jmp CODE:start32, a far jump with a 32-bit offset
    .long start32
    .word CODE

    .balign 8
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # CODE
    .quad 0x00cf93000000ffff        # DATA
    .quad 0x00cffb000000ffff        # CODE3
    .quad 0x00cff3000000ffff        # DATA3
    .quad 0                         # TSS0, TSS1, CALLGATE: the guest fills them in
    .quad 0
    .quad 0
    .quad 0x00009b000000ffff + (BASE << 16) # CODE16
    .quad 0x000093000000ffff        # DATA16
    .quad 0x00cf93030000ffff        # HIGHDATA
gdt_end:

    .code32
start32:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, STACK
    mov edi, IDT                    # 256 interrupt gates to the stubs
    mov edx, offset stubs
    mov ecx, 256
1:  mov eax, edx
    mov [edi], ax
    mov word ptr [edi + 2], CODE
    mov word ptr [edi + 4], 0x8e00
    shr eax, 16
    mov [edi + 6], ax
    add edx, 16
    add edi, 8
    loop 1b
    lidt idt_pointer
    jmp main

    .balign 8
idt_pointer:
    .word 256 * 8 - 1
    .long IDT

    .balign 16
stubs:
    .set n, 0
    .rept 256
    .balign 16
    .if n != 8 && n != 10 && n != 11 && n != 12 && n != 13 && n != 14 && n != 17
    push 0
    .endif
    push n
    jmp unexpected
    .set n, n + 1
    .endr

# Any exception or interrupt without a handler: note it, drop everything, go on at [resume].
unexpected:
    mov eax, ss:[esp]
    mov ebx, ss:[esp + 4]
    mov ecx, ss:[esp + 8]
    mov dx, DATA
    mov ds, edx
    mov es, edx
    mov ss, edx
    mov [vector], eax
    mov [error], ebx
    mov [where], ecx
    mov esp, [kernel_stack]
    push 2                          # NT, TF, IOPL and the rest away
    popfd
    jmp [resume]

# Prints the NUL-terminated text at ESI.
puts:
    push eax
1:  lodsb
    test al, al
    jz 2f
    out 0xe9, al
    jmp 1b
2:  pop eax
    ret

# Prints EAX as eight hexadecimal digits and a blank.
hex:
    push ecx
    push eax
    mov ecx, 8
1:  rol eax, 4
    push eax
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 'a' - '0' - 10
2:  out 0xe9, al
    pop eax
    loop 1b
    mov al, ' '
    out 0xe9, al
    pop eax
    pop ecx
    ret

newline:
    push eax
    mov al, 10
    out 0xe9, al
    pop eax
    ret

# Prints how a `try` ended: "none", or vector, error code and distance of EIP from EDX.
outcome:
    cmp dword ptr [vector], -1
    jne 1f
    mov esi, offset none_text
    call puts
    jmp newline
1:  mov eax, [vector]
    call hex
    mov eax, [error]
    call hex
    mov eax, [where]
    sub eax, edx
    call hex
    jmp newline
none_text: .asciz "none"

# Points vector EAX at EBX: an interrupt gate that everybody may use.
set_gate:
    mov [IDT + eax * 8], bx
    mov word ptr [IDT + eax * 8 + 2], CODE
    push ebx
    shr ebx, 16
    mov [IDT + eax * 8 + 6], bx
    pop ebx
    mov word ptr [IDT + eax * 8 + 4], 0xee00
    ret

# Makes a descriptor at GDT + EBX: base EAX, limit 103, rights CX.
system_descriptor:
    mov word ptr [gdt + ebx], 103
    mov [gdt + ebx + 2], ax
    shr eax, 16
    mov [gdt + ebx + 4], al
    mov [gdt + ebx + 5], ch
    mov byte ptr [gdt + ebx + 6], 0
    mov [gdt + ebx + 7], ah
    ret

# Points vector EAX back at its stub.
unset_gate:
    push ebx
    mov ebx, eax
    shl ebx, 4
    add ebx, offset stubs
    call set_gate
    pop ebx
    ret

    .macro say text
    push esi
    mov esi, offset 8771f
    call puts
    pop esi
    jmp 8772f
8771: .asciz "\text"
8772:
    .endm

    .macro show what
    push eax
    mov eax, \what
    call hex
    pop eax
    .endm

# Between `try` and `caught` there may be an exception; its EIP is told as the distance from `at`.
    .macro try name
    say "\name "
    mov dword ptr [vector], -1
    mov dword ptr [kernel_stack], esp
    mov dword ptr [resume], offset 8773f
    .endm

    .macro caught at
8773:
    mov edx, offset \at
    call outcome
    .endm

    .macro gate number, handler
    mov eax, \number
    mov ebx, offset \handler
    call set_gate
    .endm

finish:
    xor eax, eax
    out 0xf4, al
1:  cli
    hlt
    jmp 1b

    .balign 4
vector: .long 0
error: .long 0
where: .long 0
resume: .long 0
kernel_stack: .long 0
