# Real-mode code that begins with a device access: a vCPU that is taken early is taken there, and no access may be lost
# or made twice.  The way into real mode makes no exit, so that a kernel's first exit is the access itself.
#
# Each line: how often it went as it must, of 64 times (`outs` and `out`: what came out).
# Needs an IDE disk and -device e1000,addr=3.

    .include "prologue.s"

    .set TIMES, 64
    .set FW_CFG, 0x510              # selector; data at +1, where each read is of the next byte
    .set DIRECTORY, 0x19            # a key whose data are long enough, "QEMU" is that of key 0
    .set IDE, 0x1f0
    .set NIC, 0xe0000000            # where the e1000 is put
    .set ICR, NIC + 0xc0            # causes of interrupts, cleared by a read
    .set ICS, NIC + 0xc8            # sets them
    .set FILTER, NIC + 0x5600       # a register like memory
    .set REFERENCE, 0x30000
    .set BUFFER, 0x50ff0            # pages end within what is read
    .set LENGTH, 600

# The body runs in real mode, with the segments' limits of protected mode; EBP is lost.
    .macro in_real
    .byte 0xea                      # jmp CODE16
    .long 8781f - _start
    .word CODE16
    .code16
8781: mov ebp, cr0
    and ebp, ~1
    mov cr0, ebp
    .byte 0xea                      # jmp BASE >> 4
    .word 8782f - _start
    .word BASE >> 4
8782:
    .endm

    .macro in_protected
    mov ebp, cr0
    or ebp, 1
    mov cr0, ebp
    .byte 0x66, 0xea                # jmp CODE
    .long 8783f
    .word CODE
    .code32
8783:
    .endm

# What is between runs TIMES times; `must` leaves it when the condition does not hold.
    .macro times name
    say "\name "
    mov dword ptr [good], 0
    mov dword ptr [left], TIMES
8791:
    .endm

    .macro must condition
    j\condition 8793f
    jmp 8792f
8793:
    .endm

    .macro so_often
    inc dword ptr [good]
8792:
    dec dword ptr [left]
    jnz 8791b
    show [good]
    call newline
    .endm

# Selects a key of fw_cfg and leaves its data port in DX.
    .macro key number
    mov dx, FW_CFG
    mov ax, \number
    out dx, ax
    inc dx
    .endm

# Reads LENGTH bytes of the directory to REFERENCE, one by one.
    .macro read_reference
    key DIRECTORY
    mov edi, REFERENCE
    mov ecx, LENGTH
8795: in al, dx
    stosb
    loop 8795b
    .endm

    .macro clear_buffer
    mov edi, BUFFER - 16
    mov ecx, (LENGTH + 32) / 4
    xor eax, eax
    rep stosd
    .endm

# Sets ZF when ECX bytes at BUFFER are those at REFERENCE.
    .macro compare bytes
    mov esi, REFERENCE
    mov edi, BUFFER
    mov ecx, \bytes
    repe cmpsb
    .endm

# Asks the disk for its identification and waits until that can be read.
    .macro identify
    mov dx, IDE + 6
    mov al, 0xa0
    out dx, al
    inc dx
    mov al, 0xec
    out dx, al
8796: in al, dx
    and al, 0x88
    cmp al, 0x08
    jne 8796b
    mov dx, IDE
    .endm

main:
    times "in"
    key 0
    in_real
    in al, dx
    in_protected
    cmp al, 'Q'
    must e
    in al, dx
    cmp al, 'E'
    must e
    so_often

    times "insb"
    key 0
    mov edi, BUFFER
    mov byte ptr [BUFFER + 1], 0
    in_real
    ins byte ptr es:[edi], dx
    in_protected
    cmp edi, BUFFER + 1
    must e
    cmp word ptr [BUFFER], 'Q'
    must e
    in al, dx
    cmp al, 'E'
    must e
    so_often

    read_reference
    times "rep-insb"
    clear_buffer
    key DIRECTORY
    mov edi, BUFFER
    mov ecx, LENGTH
    in_real
    addr32 rep insb
    in_protected
    cmp edi, BUFFER + LENGTH
    must e
    test ecx, ecx
    must e
    compare LENGTH
    must e
    so_often

    times "rep-insb-down"
    clear_buffer
    key DIRECTORY
    mov edi, BUFFER + 99
    mov ecx, 100
    in_real
    std
    addr32 rep insb
    cld
    in_protected
    cmp edi, BUFFER - 1
    must e
    mov esi, REFERENCE
    mov edi, BUFFER + 99
    mov ecx, 100
1:  cmpsb
    lea edi, [edi - 2]
    loope 1b
    must e
    so_often

    identify
    mov edi, REFERENCE
    mov ecx, 256
1:  in ax, dx
    stosw
    loop 1b
    times "rep-insw"
    clear_buffer
    identify
    mov edi, BUFFER
    mov ecx, 256
    in_real
    addr32 rep insw
    in_protected
    compare 512
    must e
    mov dx, IDE + 7                 # the disk has no data left
    in al, dx
    test al, 0x08
    must z
    so_often

    say "out "
    mov esi, offset text
1:  lodsb
    in_real
    out 0xe9, al
    in_protected
    cmp byte ptr [esi], 0
    jne 1b
    say "outs "
    mov dword ptr [left], 3
2:  mov esi, offset text
    mov ecx, offset text_end - text
    mov edx, 0xe9
    in_real
    addr32 rep outsb
    in_protected
    dec dword ptr [left]
    jnz 2b

    mov dx, 0xcf8                   # the e1000's registers, and its memory enabled
    mov eax, 0x80001810
    out dx, eax
    mov dx, 0xcfc
    mov eax, NIC
    out dx, eax
    mov dx, 0xcf8
    mov eax, 0x80001804
    out dx, eax
    mov dx, 0xcfc
    mov ax, 2
    out dx, ax

    times "mmio-read"
    mov dword ptr [ICS], 4
    xor eax, eax
    mov ebx, ICR
    in_real
    mov eax, [ebx]
    in_protected
    test al, 4
    must nz
    mov eax, [ICR]
    test al, 4
    must z
    so_often

    times "mmio-movs"
    mov dword ptr [ICS], 4
    mov esi, ICR
    mov edi, BUFFER
    mov dword ptr [edi], 0
    in_real
    movs dword ptr es:[edi], dword ptr ds:[esi]
    in_protected
    test byte ptr [BUFFER], 4
    must nz
    cmp esi, ICR + 4
    must e
    so_often

    times "mmio-add"
    mov dword ptr [FILTER], 0x01fe
    mov ebx, FILTER
    in_real
    add dword ptr [ebx], 3
    in_protected
    mov eax, [FILTER]
    cmp eax, 0x0201
    must e
    so_often

    say "end"
    call newline
    jmp finish

text: .ascii "the quick brown fox jumps over the lazy dog\n"
text_end: .byte 0
    .balign 4
good: .long 0
left: .long 0
