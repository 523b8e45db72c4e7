# Events of the local APIC: priorities, NMIs that nest, task gates, x2APIC mode and the MSRs that lead there.

    .include "prologue.s"

    .set LAPIC, 0xfee00000
    .set APIC_BASE, 0x1b

# Sends `what` to itself: a fixed interrupt, or 400h for NMI.
    .macro self what
    mov dword ptr [LAPIC + 0x310], 0
    mov dword ptr [LAPIC + 0x300], 0x4000 | \what
    .endm

    .macro read_msr number
    mov ecx, \number
    rdmsr
    .endm

    .macro write_msr number, value
    mov ecx, \number
    xor edx, edx
    mov eax, \value
    wrmsr
    .endm

# Waits until `counter` is `value`, at most for a while.
    .macro await counter, value
    mov ecx, 20000000
8775:
    cmp dword ptr [\counter], \value
    loopne 8775b
    .endm

main:
    mov al, 0xff                    # nothing of the PICs
    out 0x21, al
    out 0xa1, al
    mov dword ptr [LAPIC + 0xf0], 0x1ff
    mov dword ptr [LAPIC + 0x80], 0
    mov eax, offset tss0
    mov ebx, TSS0
    mov cx, 0x8900
    call system_descriptor
    mov eax, offset tss1
    mov ebx, TSS1
    mov cx, 0x8900
    call system_descriptor
    mov ax, TSS0
    ltr ax
    gate 0x50, low
    gate 0x51, high
    gate 0x62, upper

    # ------------------------------------------------------------------ priorities: what has come with IF clear
    say "order "
    self 0x50
    self 0x62
    self 0x51
    sti
    nop
    await logged, 3
    cli
    show [log]                      # the last one in the low byte
    call newline

    # ------------------------------------------------------------------ an NMI while one is handled
    gate 2, nmi
    say "nmi "
    self 0x400
    await nmis, 2
    show [nmis]
    show [inside]                   # had come before the first one's IRET
    mov eax, [nmi_at]               # the second comes right behind that IRET
    sub eax, [nmi_at + 4]
    call hex
    call newline
    say "nmi-and-irq "              # with IF clear an NMI comes alone
    mov dword ptr [nmis], 8
    mov dword ptr [logged], 0
    self 0x50
    self 0x400
    await nmis, 9
    show [nmis]
    show [logged]
    sti
    nop
    await logged, 1
    cli
    show [logged]
    call newline

    # ------------------------------------------------------------------ an interrupt that is a task
    mov word ptr [IDT + 0x53 * 8 + 2], TSS1
    mov word ptr [IDT + 0x53 * 8 + 4], 0x8500
    mov edi, offset tss1
    mov dword ptr [edi + 0x20], offset task
    mov dword ptr [edi + 0x24], 2
    mov dword ptr [edi + 0x38], 0x8e000
    mov dword ptr [edi + 0x48], DATA
    mov dword ptr [edi + 0x4c], CODE
    mov dword ptr [edi + 0x50], DATA
    mov dword ptr [edi + 0x54], DATA
    mov dword ptr [edi + 0x58], DATA
    mov dword ptr [edi + 0x5c], DATA
    say "task "
    sti
    self 0x53
    await tasks, 1
    self 0x53
    await tasks, 2
    cli
    show [tasks]
    movzx eax, word ptr [tss1]      # its link
    call hex
    movzx eax, byte ptr [gdt + TSS0 + 5]
    call hex
    movzx eax, byte ptr [gdt + TSS1 + 5]
    call hex
    pushfd
    pop eax
    and eax, 0x4100                 # neither NT nor TF is left
    call hex
    call newline
    say "task-in-halt "
    mov dword ptr [LAPIC + 0x3e0], 0x0b
    mov dword ptr [LAPIC + 0x320], 0x53 # one shot
    mov dword ptr [LAPIC + 0x380], 5000000
    sti
    hlt
    cli
    show [tasks]
    movzx eax, byte ptr [gdt + TSS0 + 5]
    call hex
    call newline

    # ------------------------------------------------------------------ x2APIC
    say "x2apic "
    read_msr APIC_BASE
    mov [base], eax
    or eax, 0x400
    wrmsr
    read_msr 0x802                  # ID, in the same breath
    call hex
    read_msr 0x803
    movzx eax, al                   # 14h to 15h
    and al, 0xf0
    call hex
    mov dword ptr [logged], 0
    mov byte ptr [x2apic], 1
    write_msr 0x80b, 0
    sti
    write_msr 0x83f, 0x62           # self IPI
    await logged, 1
    cli
    show [log]
    read_msr APIC_BASE
    call hex
    call newline
    try "x2apic-to-xapic"
    mov eax, [base]
    xor edx, edx
    mov ecx, APIC_BASE
wrmsr1:
    wrmsr
    caught wrmsr1
    say "xapic-again "
    mov eax, [base]
    and eax, ~0xc00                 # through disabled
    xor edx, edx
    mov ecx, APIC_BASE
    wrmsr
    mov eax, [base]
    wrmsr
    mov byte ptr [x2apic], 0
    mov dword ptr [LAPIC + 0xf0], 0x1ff
    mov dword ptr [logged], 0
    sti
    self 0x62
    await logged, 1
    cli
    show [log]
    read_msr APIC_BASE
    call hex
    call newline
    try "msr-of-x2apic"
    mov ecx, 0x802
rdmsr1:
    rdmsr
    caught rdmsr1
    say "end"
    call newline
    jmp finish

low:
    push 0x50
    jmp note
high:
    sti                             # the lower one of the same class has to wait all the same
    nop
    nop
    push 0x51
    jmp note
upper:
    push 0x62
note:                               # the vector is on the stack
    push eax
    mov eax, [log]
    shl eax, 8
    mov al, [esp + 4]
    mov [log], eax
    inc dword ptr [logged]
    call eoi
    pop eax
    add esp, 4
    iretd

eoi:
    cmp byte ptr [x2apic], 0
    jne 1f
    mov dword ptr [LAPIC + 0xb0], 0
    ret
1:  push ecx
    push edx
    write_msr 0x80b, 0
    pop edx
    pop ecx
    ret

nmi:
    push eax
    push ecx
    mov eax, [nmis]
    inc dword ptr [nmis]
    test eax, eax
    jnz 1f
    self 0x400
    mov ecx, 1000                   # it does not come in here
2:  loop 2b
    mov ecx, [nmis]
    mov [inside], ecx
1:  mov ecx, [esp + 8]
    and eax, 1
    mov [nmi_at + eax * 4], ecx
    pop ecx
    pop eax
    iretd

task:
    inc dword ptr [tasks]
    mov dword ptr [LAPIC + 0xb0], 0
    iretd                           # back to the task that was interrupted; the next time goes on here
    jmp task

    .balign 4
log: .long 0
logged: .long 0
nmis: .long 0
inside: .long 0
nmi_at: .long 0, 0
tasks: .long 0
base: .long 0
x2apic: .byte 0
    .balign 16
tss0: .space 104
tss1: .space 104
