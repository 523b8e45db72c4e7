# What kernel emulators get wrong without a word: stacks with a base, traps, breakpoints, virtual-8086 mode, paging.

    .include "prologue.s"

main:
    mov eax, offset tss0
    mov ebx, TSS0
    mov ecx, 0x8900
    call system_descriptor
    mov dword ptr [tss0 + 4], STACK - 0x1000 # ESP0, SS0
    mov dword ptr [tss0 + 8], DATA
    mov ax, TSS0
    ltr ax

    # ------------------------------------------------------------------ event frames where SS has a base
    say "based-stack "
    gate 0x32, based
    mov edi, esp
    mov ax, HIGHDATA
    mov ss, ax
    mov esp, 0x1000
    mov edx, offset 1f
    int 0x32
1:  mov eax, esp
    mov cx, DATA
    mov ss, cx
    mov esp, edi
    show eax
    call newline

    # ------------------------------------------------------------------ single stepping, across MOV SS
    gate 1, stepped
    mov dword ptr [step_count], 0
    mov dword ptr [step_limit], 3
    mov edi, offset step_list
    mov cx, DATA
    pushfd
    or dword ptr [esp], 0x100
    popfd
1:  mov ss, cx                      # no trap behind it
    nop
    nop
    nop
    nop
    say "tf-mov-ss "
    mov ebx, offset 1b
    call show_steps

    # ------------------------------------------------------------------ debug registers
    mov dword ptr [step_count], 0
    mov dword ptr [step_limit], 100
    mov edi, offset step_list
    mov eax, offset 2f
    mov dr0, eax
    mov eax, offset watched
    mov dr1, eax
    mov eax, 0x80
    mov dr2, eax
    mov eax, cr4
    or eax, 8                       # DE
    mov cr4, eax
    mov eax, 0x02d00415             # L0 instruction, L1 four bytes written, L2 port
    mov dr7, eax
1:  nop
2:  nop                             # +1: fault
    mov dword ptr [watched], 5      # trap behind it
    mov eax, [watched]              # not watched
    out 0x80, al                    # trap behind it
    nop
    xor eax, eax
    mov dr7, eax
    say "breakpoints "
    mov ebx, offset 1b
    call show_steps
    mov dword ptr [step_count], 0
    mov edi, offset step_list
    mov eax, 0x2400                 # GD
    mov dr7, eax
1:  mov eax, dr0                    # fault, which clears GD
    say "dr7-gd "
    mov ebx, offset 1b
    call show_steps
    mov eax, 1
    call unset_gate

    # ------------------------------------------------------------------ virtual-8086 mode
    mov dword ptr [0x70000], 0x909035cd # INT 35h, NOP, NOP
    try "vm86-iopl0"
    mov edx, 0x20002
    call to_vm86
    caught 0
    say "vm86-iopl3 "
    gate 0x35, from_vm86
    mov dword ptr [resume], offset 1f
    mov [kernel_stack], esp
    mov edx, 0x23002
    call to_vm86
1:  call newline

    # ------------------------------------------------------------------ paging, 32-bit
    mov edi, 0x40000
    mov ecx, 1024
    xor eax, eax
    rep stosd
    mov eax, 0x003                  # 4 MiB, each page present and writable, to itself
    mov ecx, 1024
1:  stosd
    add eax, 0x1000
    loop 1b
    mov dword ptr [0x40000], 0x41007
    mov dword ptr [0x41000 + 4 * 0x300], 0  # 300000h is absent
    mov dword ptr [0x41000 + 4 * 0x301], 0x301001 # 301000h is read-only
    mov dword ptr [0x41000 + 4 * 0x302], 0x302003 # 302000h: A and D are looked at
    mov dword ptr [0x41000 + 4 * 0x303], 0x304003 # 303000h is 304000h
    mov dword ptr [0x304000], 0xabcd
    mov eax, 0x40000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000              # PG, WP
    mov cr0, eax
    jmp 1f
1:  say "page-moved "
    mov eax, [0x303000]
    show eax
    mov eax, [0x41000 + 4 * 0x302]
    and eax, 0x60
    show eax
    mov eax, [0x302000]
    mov eax, [0x41000 + 4 * 0x302]
    and eax, 0x60
    show eax
    mov [0x302000], eax
    mov eax, [0x41000 + 4 * 0x302]
    and eax, 0x60
    show eax
    call newline
    try "page-absent"
1:  mov dword ptr [0x300004], 1
    caught 1b
    call show_cr2
    try "page-read-only"
1:  mov dword ptr [0x301008], 1
    caught 1b
    call show_cr2
    say "page-invlpg "
    mov dword ptr [0x41000 + 4 * 0x303], 0x305003
    mov dword ptr [0x305000], 0x5678
    invlpg [0x303000]
    mov eax, [0x303000]
    show eax
    call newline
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax

    say "end"
    call newline
    jmp finish

based:
    mov eax, [0x31000 - 12]
    sub eax, edx
    call hex
    mov eax, [0x31000 - 8]
    call hex
    mov eax, esp
    call hex
    iretd

stepped:                            # notes EIP and DR6, steps on or stops
    push eax
    mov eax, [esp + 4]
    mov [edi], eax
    mov eax, dr6
    mov [edi + 4], eax
    add edi, 8
    mov eax, 0xffff0ff0
    mov dr6, eax
    inc dword ptr [step_count]
    mov eax, [step_limit]
    cmp [step_count], eax
    jb 1f
    and dword ptr [esp + 12], ~0x100
1:  or dword ptr [esp + 12], 0x10000 # RF, for instruction breakpoints
    pop eax
    iretd

show_steps:                         # count, then distance of EIP from EBX and DR6 of each
    mov ecx, [step_count]
    show ecx
    mov esi, offset step_list
1:  jecxz 2f
    lodsd
    sub eax, ebx
    call hex
    lodsd
    and eax, 0xe00f
    call hex
    dec ecx
    jmp 1b
2:  jmp newline

show_cr2:
    say "cr2 "
    mov eax, cr2
    call hex
    jmp newline

to_vm86:                            # run 7000:0000 with flags EDX
    push 0                          # GS, FS, DS, ES
    push 0
    push 0x1111
    push 0x2222
    push 0x6000                     # SS, ESP
    push 0xfff0
    push edx
    push 0x7000
    push 0
    iretd

from_vm86:                          # EIP, CS, VM and IOPL, ESP, SS, ES, DS; then away
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ebp, esp
    mov eax, [ebp]
    call hex
    mov eax, [ebp + 4]
    call hex
    mov eax, [ebp + 8]
    and eax, 0x23000
    call hex
    mov eax, [ebp + 12]
    call hex
    mov eax, [ebp + 16]
    call hex
    mov eax, [ebp + 20]
    call hex
    mov eax, [ebp + 24]
    call hex
    mov esp, [kernel_stack]
    push 2
    popfd
    jmp [resume]

    .balign 4
watched: .long 0
step_count: .long 0
step_limit: .long 0
step_list: .space 64
    .balign 16
tss0: .space 104
