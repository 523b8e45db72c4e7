# A TSS and what needs one: interrupts out of ring 3 and of virtual-8086 mode, the I/O bitmap, INT n from both; and in
# both what a kernel's emulator cannot do.

    .include "prologue.s"

    .set LAPIC, 0xfee00000
    .set USER_STACK, 0x7f000

# Runs `code` in ring 3 until INT 31h, or an exception, comes back.
    .macro ring3 code, flags=0x202
    mov dword ptr [kernel_stack], esp
    push DATA3 | 3
    push USER_STACK
    push \flags
    push CODE3 | 3
    push offset \code
    mov ax, DATA3 | 3
    mov ds, ax
    mov es, ax
    iretd
    .endm

# Likewise in virtual-8086 mode, code and data at segment BASE / 16.
    .macro vm86 code, flags=0x20202
    mov dword ptr [kernel_stack], esp
    push 0
    push 0
    push BASE >> 4                  # DS
    push BASE >> 4
    push USER_STACK >> 4 & 0xf000   # SS
    push 0xf000
    push \flags
    push BASE >> 4
    push offset \code - BASE
    iretd
    .endm

# Where INT 31h goes on.
    .macro then
    mov dword ptr [resume], offset 8774f
    .endm
    .macro here
8774:
    .endm

main:
    mov eax, offset tss
    mov ebx, TSS0
    mov cx, 0x8900
    call system_descriptor
    mov word ptr [gdt + TSS0], 136  # with the bitmap of ports 0 to FFh
    mov dword ptr [tss + 4], STACK - 0x1000
    mov dword ptr [tss + 8], DATA
    mov word ptr [tss + 102], 104
    mov byte ptr [tss + 104 + 12], 4 # port 62h may not be used
    mov ax, TSS0
    ltr ax
    gate 0x20, tick
    gate 0x30, service
    gate 0x31, back
    mov dword ptr [LAPIC + 0xf0], 0x1ff # enabled; LINT0 is the PIC's
    mov dword ptr [LAPIC + 0x350], 0x700
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
    mov al, 0x34                    # counter 0, rate generator
    out 0x43, al
    mov al, 0x00
    out 0x40, al
    mov al, 0x10                    # 291 Hz
    out 0x40, al

    # ------------------------------------------------------------------ ring 3
    say "ring3-irq "
    then
    ring3 wait3
    here
    show [tick_cs]
    show [tick_vm]
    call newline
    say "ring3-int "
    then
    ring3 call3
    here
    show [served]
    show [answered]
    call newline
    say "ring3-refused "
    then
    ring3 refused3, 0x2
    here
    show [results]
    show [results + 4]
    show [results + 8]
    show [results + 12]
    show [results + 16]
    call newline
    try "ring3-bound"
    ring3 bound3
    caught bound3_at
    say "ring3-port "
    then
    ring3 port3
    here
    call newline
    try "ring3-port-denied"
    ring3 denied3
    caught denied3_at
    try "ring3-word-denied"
    ring3 word3
    caught word3_at

    # ------------------------------------------------------------------ virtual-8086 mode
    say "vm86-irq "
    then
    vm86 wait86
    here
    show [tick_cs]
    show [tick_vm]
    call newline
    say "vm86-int "
    then
    vm86 int86, 0x23202
    here
    show [served]
    show [answered]
    call newline
    try "vm86-int-denied"
    vm86 int86
    caught int86-BASE
    say "vm86-refused "
    then
    vm86 refused86, 0x23202
    here
    show [results]
    show [results + 4]
    call newline
    try "vm86-port-denied"
    vm86 denied86
    caught denied86_at-BASE

    # and after all that, the task register is the one that was loaded
    say "tr "
    str eax
    show eax
    movzx eax, byte ptr [gdt + TSS0 + 5]
    call hex
    call newline
    say "end"
    call newline
    jmp finish

wait3:
    mov eax, [ticks]
    add eax, 3
1:  cmp [ticks], eax
    js 1b
    int 0x31

call3:                              # as FreeBSD's BTX is called by its clients
    mov eax, 0x1234
    int 0x30
    mov [answered], eax
    int 0x31

refused3:                           # none of these can a kernel's emulator do
    mov eax, 0x0f
    aaa
    movzx eax, ax
    mov [results], eax
    mov eax, 0x9b
    daa
    movzx eax, al
    mov [results + 4], eax
    mov ax, CODE3
    lar eax, eax
    and eax, 0xf0ff00               # what the rest is, is not defined
    mov [results + 8], eax
    mov eax, 0x10
    mov ebx, 3
    arpl ax, bx
    movzx eax, ax
    mov [results + 12], eax
    mov ebp, esp
    enter 8, 1
    mov eax, esp
    leave
    sub eax, esp
    mov [results + 16], eax
    int 0x31

bound3:
    mov eax, 7
bound3_at:
    bound eax, [bounds]
    int 0x31

port3:
    in al, 0x61
    mov al, '+'
    out 0xe9, al
    int 0x31

denied3:
denied3_at:
    in al, 0x62
    int 0x31

word3:                              # its upper half may not
word3_at:
    in ax, 0x61
    int 0x31

    .code16
wait86:
    mov eax, [ticks - _start]
    add eax, 3
1:  cmp [ticks - _start], eax
    js 1b
    int 0x31

int86:
    int 0x30
    mov [answered - _start], eax
    int 0x31

refused86:
    mov ax, 0x0f
    aaa
    movzx eax, ax
    mov [results - _start], eax
    mov al, 0x9b
    daa
    movzx eax, al
    mov [results - _start + 4], eax
    int 0x31

denied86:
denied86_at:
    in al, 0x62
    int 0x31
    .code32

tick:
    push eax
    push ds
    mov ax, DATA
    mov ds, ax
    mov eax, [esp + 12]
    mov [tick_cs], eax
    mov eax, [esp + 16]
    and eax, 0x20000
    mov [tick_vm], eax
    inc dword ptr [ticks]
    mov al, 0x20
    out 0x20, al
    pop ds
    pop eax
    iretd

service:
    push ds
    mov ax, DATA
    mov ds, ax
    mov eax, [esp + 8]
    mov [served], eax
    mov eax, 0x5678
    pop ds
    iretd

back:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov esp, [kernel_stack]
    push 2
    popfd
    jmp [resume]

    .balign 4
ticks: .long 0
tick_cs: .long 0
tick_vm: .long 0
served: .long 0
answered: .long 0
results: .long 0, 0, 0, 0, 0
bounds: .long 1, 5
    .balign 16
tss: .space 104 + 33
