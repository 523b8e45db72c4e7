# Instruction families that kernel emulators refuse or get wrong.  Each line of output is a fact that hardware has.

    .include "prologue.s"

# Prints AX and the flags of `mask` after an instruction.
    .macro bcd name, ax, flags, instruction, mask
    say "\name "
    push 2 + \flags
    popfd
    mov eax, \ax
    \instruction
    pushfd
    pop ebx
    and ebx, \mask
    show eax
    show ebx
    call newline
    .endm

    .macro invalid name, bytes:vararg
    try "\name"
9:  .byte \bytes
    caught 9b
    .endm

main:
    # ------------------------------------------------------------------ BCD: AF, CF (AAA, AAS) or SF ZF AF PF CF
    bcd "aaa", 0x010f, 0, aaa, 0x11
    bcd "aaa-af", 0x0105, 0x10, aaa, 0x11
    bcd "aaa-none", 0x0105, 0, aaa, 0x11
    bcd "aas", 0x020f, 0, aas, 0x11
    bcd "aas-af", 0x0205, 0x10, aas, 0x11
    bcd "daa", 0x00ae, 0, daa, 0xd5
    bcd "daa-both", 0x0035, 0x11, daa, 0xd5
    bcd "daa-zero", 0x009a, 0, daa, 0xd5
    bcd "das", 0x00ee, 0x10, das, 0xd5
    bcd "das-borrow", 0x0005, 0x10, das, 0xd5
    bcd "aam", 0x003f, 0, aam, 0xc4
    bcd "aad", 0x0307, 0, aad, 0xc4
    try "aam-zero"
1:  .byte 0xd4, 0x00
    caught 1b

    # ------------------------------------------------------------------ BOUND
    try "bound-in"
    mov eax, 5
1:  bound eax, bounds
    caught 1b
    try "bound-above"
    mov eax, 6
1:  bound eax, bounds
    caught 1b
    try "bound-below"
    mov eax, -4
1:  bound eax, bounds
    caught 1b

    # ------------------------------------------------------------------ ENTER: EBP and ESP, the copied frame pointers
    say "enter-0 "
    mov ebp, 0x1234
    mov edi, esp
    enter 16, 0
    call show_frame
    mov esp, edi
    say "enter-1 "
    mov ebp, 0x1234
    enter 16, 1
    call show_frame
    mov esp, edi
    say "enter-3 "
    mov dword ptr [0x80ffc], 0x11111111
    mov dword ptr [0x80ff8], 0x22222222
    mov ebp, 0x81000
    enter 4, 3
    call show_frame
    mov eax, [edi - 8]
    show eax
    mov eax, [edi - 12]
    show eax
    mov esp, edi
    call newline

    # ------------------------------------------------------------------ #UD
    invalid "ud0", 0x0f, 0xff, 0xc0
    invalid "ud1", 0x0f, 0xb9, 0xc0
    invalid "ud2", 0x0f, 0x0b
    invalid "lea-register", 0x8d, 0xc0
    invalid "fe/2", 0xfe, 0xd0
    invalid "8f/1", 0x8f, 0xc8
    invalid "lock-nop", 0xf0, 0x90
    invalid "mov-to-cs", 0x8e, 0xc8
    invalid "mov-cr1", 0x0f, 0x20, 0xc8
    invalid "c6/1", 0xc6, 0xc8, 0x00
    invalid "rsm", 0x0f, 0xaa

    # ------------------------------------------------------------------ software interrupts and IRETD
    gate 0x30, report
    gate 3, report
    gate 4, report
    say "int "
    mov edx, offset 1f
    mov edi, esp
    stc
    int 0x30
1:  call newline
    say "int3 "
    mov edx, offset 1f
    mov edi, esp
    int3
1:  call newline
    say "into-taken "
    mov edx, offset 1f
    mov edi, esp
    mov al, 0x7f
    add al, 1
    into
1:  call newline
    say "into-not "
    mov edx, offset 1f
    mov edi, esp
    xor eax, eax
    into
1:  call newline
    mov eax, 3
    call unset_gate
    mov eax, 4
    call unset_gate
    say "iretd "
    mov edi, esp
    push 0x0cd7                     # DF and every arithmetic flag
    push CODE
    push offset 1f
    iretd
1:  pushfd
    pop eax
    show eax
    mov eax, esp
    sub eax, edi
    show eax
    call newline
    push 2
    popfd

    # ------------------------------------------------------------------ task state segments
    mov eax, offset tss0
    mov ebx, TSS0
    mov ecx, 0x8900
    call system_descriptor
    mov eax, offset tss1
    mov ebx, TSS1
    mov ecx, 0x8900
    call system_descriptor
    mov ax, TSS0
    ltr ax
    mov dword ptr [tss0 + 4], STACK - 0x1000 # ESP0, SS0
    mov dword ptr [tss0 + 8], DATA
    say "ltr "
    str eax
    show eax
    call show_busy
    call newline

    # ------------------------------------------------------------------ ring 3 and back
    gate 0x3f, unexpected_3f
    gate 0x31, report
    try "ring3-int"
    mov ebx, offset user_int
    jmp to_user
    caught user_int
    try "ring3-hlt"
    mov ebx, offset user_hlt
    jmp to_user
    caught user_hlt
    try "ring3-cli"
    mov ebx, offset user_cli
    jmp to_user
    caught user_cli
    try "ring3-int-denied"
    mov word ptr [IDT + 0x35 * 8 + 4], 0x8e00
    mov ebx, offset user_denied
    jmp to_user
    caught user_denied
    try "ring3-ud2"
    mov ebx, offset user_ud2
    jmp to_user
    caught user_ud2

    # ------------------------------------------------------------------ call gates
    mov eax, offset gated
    mov word ptr [gdt + CALLGATE], ax
    mov word ptr [gdt + CALLGATE + 2], CODE
    mov word ptr [gdt + CALLGATE + 4], 0xec02 # present, DPL 3, 32-bit call gate, two parameters
    shr eax, 16
    mov word ptr [gdt + CALLGATE + 6], ax
    say "gate-same "
    mov edi, esp
    push 0x1111
    push 0x2222
    lcall CALLGATE, 0
    mov eax, esp
    sub eax, edi
    show eax
    call newline
    try "gate-inner"
    mov ebx, offset user_gate
    jmp to_user
    caught user_gate

    # ------------------------------------------------------------------ task switches
    mov edi, offset tss1
    mov dword ptr [edi + 32], offset task
    mov dword ptr [edi + 36], 2
    mov dword ptr [edi + 56], STACK - 0x2000
    mov dword ptr [edi + 72], DATA
    mov dword ptr [edi + 76], CODE
    mov dword ptr [edi + 80], DATA
    mov dword ptr [edi + 84], DATA
    mov dword ptr [edi + 88], DATA
    mov dword ptr [edi + 92], DATA
    say "task-call "
    lcall TSS1, 0
    say "task-back "
    call show_task
    say "task-gate "
    mov word ptr [IDT + 0x33 * 8], 0
    mov word ptr [IDT + 0x33 * 8 + 2], TSS1
    mov word ptr [IDT + 0x33 * 8 + 4], 0xe500
    mov word ptr [IDT + 0x33 * 8 + 6], 0
    int 0x33
    say "task-back "
    call show_task
    say "task-jump "
    ljmp TSS1, 0
    say "task-back "
    call show_task
    say "cr0-ts "
    mov eax, cr0
    and eax, 8
    show eax
    call newline
    clts

    # ------------------------------------------------------------------ LAR, LSL, VERR, VERW, ARPL
    say "lar "
    mov ecx, CODE
    call show_lar
    mov ecx, TSS0
    call show_lar
    mov ecx, CALLGATE
    call show_lar
    mov ecx, 0
    call show_lar
    mov ecx, 0xfff8
    call show_lar
    call newline
    say "lsl "
    mov ecx, CODE
    call show_lsl
    mov ecx, TSS0
    call show_lsl
    mov ecx, CALLGATE
    call show_lsl
    mov ecx, CODE16
    call show_lsl
    call newline
    say "ver "
    xor edx, edx
    mov ax, CODE
    verr ax
    setz dl
    verw ax
    setz dh
    show edx
    mov ax, DATA
    verr ax
    setz dl
    verw ax
    setz dh
    show edx
    call newline
    say "arpl "
    mov eax, 0x1234
    mov ebx, 3
    arpl ax, bx
    setz bh
    show eax
    show ebx
    arpl ax, bx
    setz bh
    show eax
    show ebx
    call newline

    say "end"
    call newline
    jmp finish

# Prints distance of EIP from EDX, CS, flags (arithmetic and IF) and distance of ESP from EDI, as the frame has them.
report:
    push eax
    mov eax, [esp + 4]
    sub eax, edx
    call hex
    mov eax, [esp + 8]
    call hex
    mov eax, [esp + 12]
    and eax, 0x201
    call hex
    lea eax, [esp + 4]
    sub eax, edi
    call hex
    pop eax
    iretd

unexpected_3f:
    push 0
    push 0x3f
    jmp unexpected

show_frame:                         # EBP from EDI, ESP (of the caller) from EDI, what is at EBP
    mov eax, ebp
    sub eax, edi
    call hex
    lea eax, [esp + 4]
    sub eax, edi
    call hex
    mov eax, [ebp]
    call hex
    cmp eax, 0x81000
    je 1f
    call newline
1:  ret

show_busy:                          # access bytes of both TSS
    movzx eax, byte ptr [gdt + TSS0 + 5]
    call hex
    movzx eax, byte ptr [gdt + TSS1 + 5]
    call hex
    ret

show_task:                          # TR, NT, the access bytes
    str eax
    call hex
    pushfd
    pop eax
    and eax, 0x4000
    call hex
    call show_busy
    jmp newline

task:
    call show_task
    movzx eax, word ptr [tss1]
    push eax
    say "task-link "
    pop eax
    call hex
    call newline
    iretd
    call show_task                  # again, by the task gate
    iretd
    call show_task                  # again, by JMP: no link, no NT
    ljmp TSS0, 0

to_user:                            # go to EBX at CPL 3, IOPL 3 but for ...-cli and its like
    push DATA3 + 3
    push STACK - 0x4000
    push 0x3002
    cmp ebx, offset user_cli
    jne 1f
    mov dword ptr [esp], 2
1:  push CODE3 + 3
    push ebx
    mov ax, DATA3 + 3
    mov ds, ax
    mov es, ax
    iretd

user_int:
    mov edx, offset 1f
    mov edi, STACK - 0x1000
    int 0x31                        # prints EIP, CS, flags, ESP in ring 0: below the TSS's
1:  mov eax, cs
    call hex
    mov eax, esp
    call hex
    int 0x3f
user_hlt:
    hlt
user_cli:
    cli
user_denied:
    int 0x35
user_ud2:
    ud2
user_gate:
    push 0x3333
    push 0x4444
    lcall CALLGATE + 3, 0
    mov eax, esp
    call hex
    int 0x3f

gated:                              # prints parameters, CS of the caller, distance of ESP from the TSS's
    mov eax, [esp + 8]
    call hex
    mov eax, [esp + 12]
    call hex
    mov eax, [esp + 4]
    call hex
    mov eax, cs
    call hex
    lret 8

show_lar:
    mov eax, 0xdead
    lar eax, ecx
    setz dl
    jnz 1f
    and eax, 0xf0ff00               # the rest is undefined
    jmp 1f
show_lsl:
    mov eax, 0xdead
    lsl eax, ecx
    setz dl
1:  call hex
    movzx eax, dl
    call hex
    ret

    .balign 4
bounds: .long -3, 5
    .balign 16
tss0: .space 104
tss1: .space 104
