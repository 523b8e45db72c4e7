"""Firmware services that the guest executes itself: those that need neither a disk nor the host.

What programs call thousands of times (a character on the screen, whether a key waits, the time of day) would cost a
round trip each if the shim answered it.  It is ROM code instead, as in any PC, and works like that in virtual-8086 mode
and under paging.  What it does not handle it passes to the shim, by jumping to the vector's entry point with all
registers unchanged.  Graphics modes are the shim's: there a character is drawn by calling that entry point.

IBM PC/AT Technical Reference, "BIOS listing", and IBM VGA Technical Reference for what the services do.  The code uses
only instructions of the 80286.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from dm.isa.map.assembler import Assembly, assemble

#: Offset of the code in segment F000h, and where it has to end.
START: Final = 0xD100
END: Final = 0xDA00

#: A page of RAM in the firmware's segment.  The VGA's cursor location is in it (CRTC 0Eh and 0Fh show that word), so
#: that writing a character moves the cursor without a port access.
WORK: Final = 0x8000
CURSOR: Final = WORK
#: Calls left that find nothing new (no key, the same tick) before the shim is asked whether the guest is only waiting.
POLLS: Final = WORK + 2
#: What :data:`POLLS` begins with.
PATIENCE: Final = 64
#: Set by a call that found no key.
ASKED: Final = WORK + 4
LAST_TICK: Final = WORK + 6
#: Text that :data:`print` shows, ended by 0.
MESSAGE: Final = WORK + 0x100
MESSAGE_SIZE: Final = 0x100

_KEYBOARD: Final = """
int16:      sti                         ; as the AT's BIOS does
            push bp
            mov bp,sp
            push ds
            push bx
            mov bx,0x40
            mov ds,bx
            mov bl,ah
            and bl,0xef                 ; 10h-12h are 00h-02h for the keys of an AT keyboard
            jz read_key
            dec bl
            jz ask_key
            dec bl
            jz shifts
            pop bx
            pop ds
            pop bp
            jmp shim16

read_key:   cli
            call peek
            jnb take
            mov byte cs:[asked],1
            sti                         ; no interrupt between the look and the halt
            hlt
            jmp read_key
take:       mov ax,bx
            call advance
            jmp key_done

ask_key:    call peek
            jb no_key
            mov ax,bx
            and byte [bp+6],0xbf        ; ZF in the caller's flags
            jmp key_done
no_key:     or byte [bp+6],0x40
            mov byte cs:[asked],1
            dec word cs:[polls]
            jnz key_done
            pop bx
            pop ds
            pop bp
            jmp shim_rest

shifts:     mov al,[0x17]
            test ah,0x10
            jz key_done
            mov bl,[0x18]
            mov ah,bl
            and ah,0x73
            and bl,4                    ; SysRq is bit 7 here
            shl bl,5
            or ah,bl
            mov bl,[0x96]
            and bl,0x0c                 ; right Ctrl and Alt
            or ah,bl
key_done:   pop bx
            pop ds
            pop bp
            iret

; BX: the next key as function AH shows it; CF: there is none.
peek:       mov bx,[0x1a]
            cmp bx,[0x1c]
            jz peek_none
            mov bx,[bx]
            test ah,0x10
            jnz peek_all
            cmp bl,0xe0
            jnz not_grey
            or bh,bh
            jz peek_found
            xor bl,bl                   ; a grey cursor key as its twin on the keypad
            jmp peek_found
not_grey:   cmp bh,0xe0
            jnz not_pad
            mov bh,0x1c                 ; Enter, or the slash, of the keypad
            cmp bl,0x0d
            jz peek_found
            cmp bl,0x0a
            jz peek_found
            mov bx,0x352f
            jmp peek_found
not_pad:    cmp bl,0xf0
            jnz not_new
            or bh,bh
            jnz skip
not_new:    or bl,bl
            jnz peek_found
            cmp bh,0x84
            jbe peek_found
skip:       call advance                ; a key that the old calls do not know
            jmp peek
peek_all:   cmp bl,0xf0
            jnz peek_found
            or bh,bh
            jz peek_found
            xor bl,bl
peek_found: clc
            ret
peek_none:  stc
            ret

advance:    push bx
            mov bx,[0x1a]
            inc bx
            inc bx
            cmp bx,[0x82]
            jb advanced
            mov bx,[0x80]
advanced:   mov [0x1a],bx
            pop bx
            ret
"""

_VIDEO: Final = """
; Frame: [bp+2] is the return address; below it DS ES AX BX CX DX SI DI, the page's offset in display memory, the count
; and place of a string, its mode, and whether characters bring an attribute.
int10:      push bp
            mov bp,sp
            push ds
            push es
            push ax
            push bx
            push cx
            push dx
            push si
            push di
            sub sp,8
            mov si,0x40
            mov ds,si
            cld
            cmp ah,0x0e
            jz tty
            cmp ah,2
            jz place_cursor
            cmp ah,3
            jz get_cursor
            cmp ah,0x0f
            jz get_mode
            cmp ah,0x13
            jz string
            call display                ; ES: display memory; CF: a graphics mode
            jb leave10
            mov si,[0x4e]
            mov [bp-0x12],si
            cmp ah,6
            jb leave10
            cmp ah,0x0b
            jnb leave10
            cmp ah,7
            jbe scroll_call
            call cell
            mov cx,[bp-0x0a]
            mov bx,[bp-8]
            mov ax,[bp-6]
            cmp ah,8
            jnz write
            mov ax,es:[di]
            mov [bp-6],ax
            jmp done10

write:      mov dx,0x8000               ; no further than display memory goes
            sub dx,di
            shr dx,1
            cmp cx,dx
            jbe write_fits
            mov cx,dx
write_fits: jcxz done10
            cmp ah,9
            jnz write_char
            mov ah,bl
            rep stosw
            jmp done10
write_char: stosb
            inc di
            loop write_char
            jmp done10

scroll_call: call scroll
done10:     lea sp,[bp-0x10]
            pop di
            pop si
            pop dx
            pop cx
            pop bx
            pop ax
            pop es
            pop ds
            pop bp
            iret

leave10:    lea sp,[bp-0x10]
            pop di
            pop si
            pop dx
            pop cx
            pop bx
            pop ax
            pop es
            pop ds
            pop bp
            jmp shim10

tty:        mov bh,[0x62]
            mov byte [bp-0x17],0
            call teletype
            jmp done10

place_cursor: call page
            call place
            jmp done10

get_cursor: call page
            mov dx,[si+0x50]
            mov [bp-0x0c],dx
            mov cx,[0x60]
            mov [bp-0x0a],cx
            mov word [bp-6],0
            jmp done10

get_mode:   mov al,[0x87]
            and al,0x80
            or al,[0x49]
            mov ah,[0x4a]
            mov [bp-6],ax
            mov al,[0x62]
            mov [bp-7],al
            jmp done10

; AH=13h: CX characters at ES:BP to page BH, row DH, column DL; AL bit 0 the cursor follows, bit 1 attributes are there.
string:     and al,3
            mov [bp-0x18],al
            mov byte [bp-0x17],1        ; every character brings an attribute
            call page
            push word [si+0x50]
            call place
            mov [bp-0x14],cx
            mov si,[bp]
            mov [bp-0x16],si
next_char:  cmp word [bp-0x14],0
            jz string_end
            dec word [bp-0x14]
            mov si,[bp-0x16]
            mov es,[bp-4]
            mov al,es:[si]
            inc si
            mov bx,[bp-8]
            test byte [bp-0x18],2
            jz no_attribute
            mov bl,es:[si]
            inc si
no_attribute: mov [bp-0x16],si
            call teletype
            jmp next_char
string_end: pop dx
            test byte [bp-0x18],1
            jnz done10
            mov bx,[bp-8]
            call page
            call place
            jmp done10

; Character AL in colour BL on page BH: at the cursor, which moves on.  [bp-17h]: in text modes with attribute BL too.
teletype:   push ax
            call page
            pop ax
            mov dx,[si+0x50]
            cmp al,7
            jz tty_done                 ; the bell: there is no speaker to wait for
            cmp al,8
            jz backspace
            cmp al,0x0a
            jz line_feed
            cmp al,0x0d
            jz carriage
            push ax
            call display
            pop ax
            jnb tty_text
            push cx
            mov ah,0x0a
            mov cx,1
            pushf                       ; the shim draws it
            push cs
            call shim10
            pop cx
            jmp tty_next
tty_text:   push ax
            push bx
            push dx
            call cell
            pop dx
            pop bx
            pop ax
            stosb
            cmp byte [bp-0x17],0
            jz tty_next
            mov es:[di],bl
tty_next:   inc dl
            cmp dl,[0x4a]
            jb tty_place
            xor dl,dl
line_feed:  inc dh
            cmp dh,[0x84]
            jbe tty_place
            mov dh,[0x84]
            push bx
            push dx
            call scroll_up
            pop dx
            pop bx
tty_place:  call page
            call place
tty_done:   ret
backspace:  or dl,dl
            jz tty_place
            dec dl
            jmp tty_place
carriage:   xor dl,dl
            jmp tty_place

; The whole page BH up by one row; the new one is like the first cell of the last.
scroll_up:  call display
            mov cx,0
            mov dl,[0x4a]
            dec dl
            jb scroll_shim
            push dx
            xor dl,dl
            push word [si+0x50]
            mov [si+0x50],dx
            call cell
            call page
            pop word [si+0x50]
            pop dx
            mov bh,es:[di+1]
            mov ax,0x0601
            xor cx,cx
            call scroll
            ret
scroll_shim: mov ax,0x0601
            xor bh,bh
            pushf
            push cs
            call shim10
            ret

; SI: twice the page BH; [bp-12h]: its offset in display memory.  Changes AX.
page:       mov al,bh
            and ax,7
            mov si,ax
            push dx
            mul word [0x4c]
            pop dx
            mov [bp-0x12],ax
            shl si,1
            ret

; DI: offset of the cell at the cursor of page BH.  Changes AX DX SI.
cell:       call page
            mov al,[si+0x51]
            mul byte [0x4a]
            mov dl,[si+0x50]
            xor dh,dh
            add ax,dx
            shl ax,1
            add ax,[bp-0x12]
            and ax,0x7fff
            mov di,ax
            ret

; The cursor of the page that SI is twice of goes to DX; the VGA's with it if that page shows.  Changes AX CX SI.
place:      push cx
            mov [si+0x50],dx
            shr si,1
            mov ax,si
            cmp al,[0x62]
            jnz placed
            mov al,dh
            mul byte [0x4a]
            mov cl,dl
            xor ch,ch
            add ax,cx
            mov cx,[0x4e]
            shr cx,1
            add ax,cx
            mov cs:[cursor],ax
placed:     pop cx
            ret

; ES: display memory; CF: a graphics mode, which is the shim's.
display:    push ax
            mov ax,0xb800
            cmp byte [0x49],3
            jbe is_text
            mov ax,0xb000
            cmp byte [0x49],7
            jz is_text
            pop ax
            stc
            ret
is_text:    mov es,ax
            pop ax
            clc
            ret

; Window of rows CH to DH, columns CL to DL up (AH=6) or down by AL rows, 0: all; new rows are blank with attribute BH.
scroll:     mov bl,[0x4a]
            dec bl
            cmp dl,bl
            jbe right_fits
            mov dl,bl
right_fits: mov bl,[0x84]
            cmp dh,bl
            jbe rows_fit
            mov dh,bl
rows_fit:   cmp cl,dl
            jnbe scrolled
            cmp ch,dh
            jnbe scrolled
            mov bl,dh
            sub bl,ch
            inc bl                      ; BL: rows of the window
            or al,al
            jz clear
            cmp al,bl
            jb not_all
clear:      mov al,bl
not_all:    sub bl,al                   ; BL rows move, AL are new
            sub dl,cl
            inc dl                      ; DL: its width
            cmp ah,7
            jz from_below
            mov dh,ch
from_below: push ax
            mov al,dh
            mul byte [0x4a]
            xor ch,ch
            add ax,cx
            shl ax,1
            add ax,[bp-0x12]
            mov di,ax                   ; DI: the row that is written first
            pop ax
            mov cx,[0x4a]
            shl cx,1
            cmp ah,7
            jnz upwards
            neg cx
upwards:    xor dh,dh
            push dx
            push ax
            xor ah,ah
            mul cx
            mov si,ax
            add si,di                   ; SI: the row that comes there
            pop ax
            pop dx
            push ds
            push bp
            mov bp,cx                   ; BP: from row to row
            push es
            pop ds
            or bl,bl
            jz blank
move_row:   push si
            push di
            mov cx,dx
            rep movsw
            pop di
            pop si
            add si,bp
            add di,bp
            dec bl
            jnz move_row
blank:      mov bl,al
            mov ah,bh
            mov al,0x20
blank_row:  push di
            mov cx,dx
            rep stosw
            pop di
            add di,bp
            dec bl
            jnz blank_row
            pop bp
            pop ds
scrolled:   ret
"""

_SMALL: Final = """
int11:      push ds
            mov ax,0x40
            mov ds,ax
            mov ax,[0x10]
            pop ds
            iret

int12:      push ds
            mov ax,0x40
            mov ds,ax
            mov ax,[0x13]
            pop ds
            iret

; The tick: the time of day, the diskette motor's time, the guest's own handler, the end of interrupt.
int08:      push ax
            push dx
            push ds
            mov ax,0x40
            mov ds,ax
            inc word [0x6c]
            jnz same_hour
            inc word [0x6e]
same_hour:  cmp word [0x6e],0x18
            jb same_day
            cmp word [0x6c],0xb0
            jb same_day
            xor ax,ax
            mov [0x6c],ax
            mov [0x6e],ax
            inc byte [0x70]
same_day:   cmp byte [0x40],0
            jz motor_off
            dec byte [0x40]
motor_off:  int 0x1c
            cli
            mov al,0x20
            out 0x20,al
            pop ds
            pop dx
            pop ax
            iret

int1a:      cmp ah,1
            jbe time_of_day
            jmp shim1a
time_of_day: push bp
            mov bp,sp
            push ds
            push ax
            mov ax,0x40
            mov ds,ax
            pop ax
            and byte [bp+6],0xfe        ; CF in the caller's flags
            or ah,ah
            jnz set_ticks
            mov cx,[0x6e]
            mov dx,[0x6c]
            xor ax,ax
            xchg [0x70],al
            pop ds
            pop bp
            cmp cs:[last_tick],dx
            mov cs:[last_tick],dx
            jnz ticked
            dec word cs:[polls]
            jz time_rest
ticked:     iret
time_rest:  jmp shim_rest
set_ticks:  mov [0x6e],cx
            mov [0x6c],dx
            mov byte [0x70],0
            xor ah,ah
            pop ds
            pop bp
            iret

; Shows the text in the work page and halts for good.
print:      mov si,message
print_next: mov al,cs:[si]
            or al,al
            jz print_end
            mov ah,0x0e
            mov bx,7
            pushf
            push cs
            call int10
            inc si
            jmp print_next
print_end:  cli
            hlt
            jmp print_end
"""


@cache
def assembled(shim10: int, shim16: int, shim1a: int, rest: int) -> Assembly:
    """Return the code and its labels: ``int10``, ``int16``, ... and ``print``.

    Args:
        shim10: entry point of the shim's INT 10h, an offset in segment F000h.
        shim16: likewise of INT 16h.
        shim1a: likewise of INT 1Ah.
        rest: entry point that lets the host rest and returns with IRET.

    Raises:
        ValueError: the code is longer than its place in the ROM.
    """
    symbols = {
        "shim10": shim10, "shim16": shim16, "shim1a": shim1a, "shim_rest": rest, "cursor": CURSOR, "polls": POLLS,
        "asked": ASKED, "last_tick": LAST_TICK, "message": MESSAGE,
    }  # fmt: skip
    made = assemble(_KEYBOARD + _VIDEO + _SMALL, START, symbols)
    if START + len(made.code) > END:
        raise ValueError(f"the services end at {START + len(made.code):#x}, beyond {END:#x}")
    return made
