# Copies within VGA memory: a text screen's scroll, planes by latches, ranges that overlap, both directions.

    .include "prologue.s"

    .set PLANES, 0xa0000
    .set TEXT, 0xb8000
    .set BUFFER, 0x30000

    .macro sequencer index, value
    mov dx, 0x3c4
    mov ax, (\value << 8) + \index
    out dx, ax
    .endm

    .macro graphics index, value
    mov dx, 0x3ce
    mov ax, (\value << 8) + \index
    out dx, ax
    .endm

    .macro copy insn, to, from, count
    mov edi, PLANES + \to
    mov esi, PLANES + \from
    mov ecx, \count
    rep \insn
    .endm

main:
    mov dx, 0x3c2
    mov al, 0x63                    # the adapter answers at 3DXh and its memory is there
    out dx, al
    sequencer 0, 3
    graphics 1, 0                   # no set/reset, no rotation, all bits
    graphics 3, 0
    graphics 8, 0xff

    say "text "
    sequencer 2, 3
    sequencer 4, 2                  # odd/even
    graphics 5, 0x10
    graphics 6, 0x0e
    mov edi, TEXT
    mov ecx, 2000
    mov eax, 0x0741
1:  mov [edi], ax
    add edi, 2
    imul eax, eax, 73
    inc eax
    loop 1b
    mov edi, TEXT
    mov esi, TEXT + 160
    mov ecx, 960
    rep movsd
    mov ecx, 40
    mov eax, 0x07200720
    rep stosd
    mov esi, TEXT
    mov ecx, 4000
    call checksum
    mov esi, TEXT + 3998            # and back down by words
    mov edi, TEXT + 3998
    sub esi, 160
    mov ecx, 1920
    std
    rep movsw
    cld
    mov esi, TEXT
    mov ecx, 4000
    call checksum
    call newline

    sequencer 4, 6                  # planes
    graphics 6, 5
    call fill
    say "latches "
    graphics 5, 1                   # write mode 1
    sequencer 2, 0x0f
    copy movsb, 0x400, 0, 0x380
    copy movsb, 0x1ff0, 0x10, 0x40  # over the end of a page
    copy movsb, 0x801, 0x800, 0x40  # the first byte everywhere
    std
    copy movsb, 0x93f, 0x43f, 0x40
    cld
    call show_planes

    say "two planes "
    sequencer 2, 6
    copy movsb, 0x1000, 0x100, 0x80
    call show_planes

    say "wide "                     # several bytes by one latch: the last of them counts
    sequencer 2, 0x0f
    copy movsw, 0x1800, 0x200, 0x40
    copy movsd, 0x1900, 0x300, 0x20
    call show_planes

    say "functions "                # write mode 0: XOR with the latches of the source
    graphics 5, 0
    graphics 3, 0x18
    graphics 4, 2
    copy movsb, 0x1a00, 0x10, 0x100
    copy movsd, 0x1b00, 0x80, 0x40
    graphics 3, 0
    call show_planes
    say "end"
    call newline
    jmp finish

# Fills 2000h bytes of each plane with something of its own.
fill:
    mov ebx, 1
1:  mov dx, 0x3c4
    mov ah, bl
    mov al, 2
    out dx, ax
    graphics 5, 0
    mov edi, PLANES
    mov ecx, 0x2000 / 4
    mov eax, ebx
2:  imul eax, eax, 1664525
    add eax, 1013904223
    stosd
    loop 2b
    shl ebx, 1
    cmp ebx, 16
    jb 1b
    ret

show_planes:
    xor ebx, ebx
1:  mov dx, 0x3ce
    mov ah, bl
    mov al, 4
    out dx, ax
    mov esi, PLANES
    mov ecx, 0x2040
    call checksum
    inc ebx
    cmp ebx, 4
    jb 1b
    jmp newline

# Prints a checksum of ECX bytes at ESI.
checksum:
    push ebx
    mov ebx, ecx
    mov edi, BUFFER
    rep movsb
    mov ecx, ebx
    mov esi, BUFFER
    xor ebx, ebx
1:  xor eax, eax
    lodsb
    rol ebx, 7
    add ebx, eax
    loop 1b
    mov eax, ebx
    call hex
    pop ebx
    ret
