# Floating point in ring 3, which a kernel without VMX and SVM makes an invalid opcode.

    .include "prologue.s"

main:
    mov eax, offset tss
    mov ebx, TSS0
    mov cx, 0x8900
    call system_descriptor
    mov dword ptr [tss + 4], STACK - 0x1000
    mov dword ptr [tss + 8], DATA
    mov ax, TSS0
    ltr ax
    gate 0x31, back
    say "fpu3 "
    mov dword ptr [vector], -1
    mov dword ptr [kernel_stack], esp
    mov dword ptr [resume], offset 1f
    push DATA3 | 3
    push 0x7f000
    push 2
    push CODE3 | 3
    push offset user
    mov ax, DATA3 | 3
    mov ds, ax
    mov es, ax
    iretd
1:  show [vector]
    show [value]
    call newline
    say "end"
    call newline
    jmp finish

user:
    fld1
    fstp dword ptr [value]
    int 0x31

back:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov esp, [kernel_stack]
    jmp [resume]

    .balign 4
value: .long 0
    .balign 16
tss: .space 104
