# What devices do to a vCPU: A20, PAM, SMRAM, interrupts and HLT, NMI, the local APIC; SMI where `smi` says so.

    .include "prologue.s"

    .set LAPIC, 0xfee00000

# Writes AL to a register of the host bridge (bus 0, device 0).
    .macro bridge register, value
    mov dx, 0xcf8
    mov eax, 0x80000000 + (\register & ~3)
    out dx, eax
    mov dx, 0xcfc + (\register & 3)
    mov al, \value
    out dx, al
    .endm

main:
    # ------------------------------------------------------------------ A20
    say "a20 "
    mov dword ptr [0x500], 0x11111111
    in al, 0x92
    or al, 2
    out 0x92, al
    mov dword ptr [0x100500], 0x22222222
    show [0x500]
    in al, 0x92
    and al, 0xfc
    out 0x92, al
    show [0x100500]
    mov dword ptr [0x100500], 0x33333333
    in al, 0x92
    or al, 2
    and al, 0xfe
    out 0x92, al
    show [0x500]
    show [0x100500]
    call newline

    # ------------------------------------------------------------------ PAM: the same address as ROM and as RAM
    say "pam "
    mov edi, 0xf0000 + routine - _start
    call edi                        # the ROM
    show eax
    bridge 0x59, 0x20               # reads ROM, writes RAM
    mov byte ptr [edi + 1], 2       # cannot be seen yet
    mov dword ptr [edi + 2], 0xc3000000
    mov byte ptr [edi], 0xb8
    call edi
    show eax
    bridge 0x59, 0x30               # both RAM
    call edi
    show eax
    mov byte ptr [edi + 1], 3
    call edi
    show eax
    bridge 0x59, 0x10               # reads RAM, writes go nowhere
    mov byte ptr [edi + 1], 4
    call edi
    show eax
    bridge 0x59, 0x00
    call edi
    show eax
    call newline

    say "smram "
    bridge 0x72, 0x4a               # D_OPEN
    mov dword ptr [0xa0000], 0x44444444
    show [0xa0000]
    bridge 0x72, 0x0a
    mov eax, [0xa0000]
    cmp eax, 0x44444444
    setne al
    movzx eax, al
    call hex
    bridge 0x72, 0x4a
    show [0xa0000]
    bridge 0x72, 0x02
    call newline

    # ------------------------------------------------------------------ PIC, PIT, HLT
    mov dword ptr [LAPIC + 0xf0], 0x1ff # enabled; LINT0 is the PIC's, LINT1 NMI
    mov dword ptr [LAPIC + 0x350], 0x700
    mov dword ptr [LAPIC + 0x360], 0x400
    gate 0x20, tick
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    mov al, 0x34                    # counter 0, rate generator
    out 0x43, al
    mov al, 0x00
    out 0x40, al
    mov al, 0x10                    # 291 Hz
    out 0x40, al
    say "halted "
1:  sti
    hlt
    cli
    cmp dword ptr [ticks], 5
    jb 1b
    mov eax, [ticks]                # a slow host lets more than five come
    sub eax, [in_halt]
    call hex
    call newline
    say "spinning "
    mov dword ptr [ticks], 0
    sti
2:  cmp dword ptr [ticks], 5
    jb 2b
    cli
    call newline
    say "shadow "                   # a tick waits; STI keeps it from what follows
    mov al, 0x30                    # counter 0 interrupts once, when its count has come
    out 0x43, al
    sti                             # one that waited
    nop
    cli
    mov dword ptr [ticks], 0
    mov al, 0x00
    out 0x40, al
    mov al, 0x10
    out 0x40, al
    mov ecx, 20000000
3:  mov al, 0x0a                    # read IRR
    out 0x20, al
    in al, 0x20
    test al, 1
    loopz 3b
    xor ebx, ebx
    sti
    mov ebx, [ticks]                # in the shadow: none yet
    nop
    mov eax, [ticks]
    cli
    show ebx
    show eax
    call newline
    mov al, 0xff
    out 0x21, al

    # ------------------------------------------------------------------ local APIC
    say "lapic "
    gate 0x50, ipi
    gate 0x51, ipi
    mov dword ptr [LAPIC + 0x80], 0
    show [LAPIC + 0x20]
    mov dword ptr [LAPIC + 0x310], 0
    mov dword ptr [LAPIC + 0x300], 0x40050 # to itself
    sti
1:  cmp dword ptr [ipis], 1
    jb 1b
    cli
    mov dword ptr [LAPIC + 0x3e0], 0x0b
    mov dword ptr [LAPIC + 0x320], 0x51 # one shot
    mov dword ptr [LAPIC + 0x380], 5000000
2:  sti
    hlt
    cli
    cmp dword ptr [ipis], 2
    jb 2b
    sti
    nop
    cli
    show [ipis]                     # one for each: neither is delivered twice
    mov dword ptr [LAPIC + 0x320], 0x20051 # periodic, and no HLT
    mov dword ptr [LAPIC + 0x380], 5000000
    sti
3:  cmp dword ptr [ipis], 4
    jb 3b
    cli
    mov dword ptr [LAPIC + 0x380], 0
    cmp dword ptr [ipis], 4         # a slow host lets more come
    setae al
    movzx eax, al
    call hex
    mov eax, 0xfee00000             # RDMSR of APIC_BASE: enabled, bootstrap processor
    mov ecx, 0x1b
    rdmsr
    call hex
    call newline

    # ------------------------------------------------------------------ NMI
    gate 2, nmi
    say "nmi? "
1:  cmp dword ptr [nmis], 1
    jb 1b
    show [nmis]
    call newline
    say "nmi-in-halt? "
    hlt                             # IF is clear: only an NMI wakes it
    show [nmis]
    call newline

    # ------------------------------------------------------------------ SMI
    mov edi, 0x38000                # SMBASE + 8000h
    mov esi, offset smm
    mov ecx, offset smm_end - smm
    rep movsb
    mov dx, 0xcf8
    mov eax, 0x80000b58             # PM function of the PIIX4: SMI on APM control
    out dx, eax
    mov dx, 0xcfc
    in eax, dx
    or eax, 0x02000000
    out dx, eax
    say "smi "
    mov ebx, 0x55
    mov dword ptr [0x600], 0
    mov al, 1
    out 0xb2, al
    mov ecx, 100000                 # it need not come at once
1:  cmp dword ptr [0x600], 0
    loopz 1b
    show [0x600]
    show ebx
    call newline

    say "end"
    call newline
    jmp finish

routine:                            # what the ROM has; RAM gets others
    mov eax, 1
    ret

tick:
    push eax
    inc dword ptr [ticks]
    mov eax, [esp + 4]
    cmp byte ptr [eax - 1], 0xf4    # returns behind HLT
    jne 1f
    inc dword ptr [in_halt]
1:  mov al, 0x20
    out 0x20, al
    pop eax
    iretd

ipi:
    inc dword ptr [ipis]
    mov dword ptr [LAPIC + 0xb0], 0
    iretd

nmi:
    inc dword ptr [nmis]
    iretd

    .code16
smm:
    xor ax, ax
    mov ds, ax
    mov dword ptr [0x600], 0x534d4d21
    rsm
smm_end:
    .code32

    .balign 4
ticks: .long 0
in_halt: .long 0
ipis: .long 0
nmis: .long 0
