; Descriptors of every type, level and presence under everything that looks at or loads them; limits.
%include "frame.inc"
VARIABLE type
VARIABLE dpl
VARIABLE rpl
VARIABLE cpl
VARIABLE present
VARIABLE size
VARIABLE at

; Writes SLOT's descriptor: a flat segment, a gate to `landing`, TSS_A or the LDT, of the type etc. in the variables.
compose:
        mov edx, [type]
        mov ebx, [dpl]
        shl ebx, 5
        or edx, ebx
        mov ebx, [present]
        shl ebx, 7
        or edx, ebx                     ; access byte
        mov eax, 0x0000FFFF
        mov ebx, 0x00CF0000
        cmp dword [type], 16
        jae .store
        mov ecx, [type]
        bt dword [.gates], ecx
        jc .gate
        mov eax, (TSS_A << 16) | 0x67
        mov ebx, 0
        jmp .store
.gate:  mov eax, (CODE0 << 16) | OFFSET(landing)
        mov ebx, BASE
        cmp ecx, 5
        je .task
        test cl, 8
        jnz .store
        mov eax, (CODE16 << 16) | OFFSET(landing)
        mov ebx, 0xABCD0000             ; a 286 gate's upper word does not count
        jmp .store
.task:  mov eax, TR_A << 16
.store: mov dh, dl
        mov dl, 0
        movzx edx, dx
        or ebx, edx
        mov [GDT + SLOT], eax
        mov [GDT + SLOT + 4], ebx
        mov eax, SLOT
        or eax, [rpl]
        mov [pointer + 4], eax
        mov ecx, ECX0
        mov edx, EDX0
        mov ebx, EBX0
        ret
.gates: dd 0xD0F0
pointer: dd landing, 0
landing: int 0x30

guest:
%macro LOAD_ALL 2                       ; register, name
FOR cpl, 0, 3, 3
FOR type, 0, 31, 1
FOR dpl, 0, 3, 3
FOR rpl, 0, 3, 3
FOR present, 0, 1, 1
        CHECK %2, cpl, type, dpl, rpl, present
        call compose
        cmp dword [cpl], 0
        je %%level0
        TORING 3
%%level0:
        mov %1, ax
        mov eax, EAX0
        push dword DATA3
        pop es
        ENDCHECK GDT + SLOT + 4, 1
NEXT
NEXT
NEXT
NEXT
NEXT
%endmacro
        LOAD_ALL ds, "load ds"
        LOAD_ALL ss, "load ss"

FOR cpl, 0, 3, 3
FOR type, 0, 31, 1
FOR dpl, 0, 3, 1
FOR rpl, 0, 3, 3
        mov eax, [dpl]
        and eax, 1
        mov [present], eax              ; which does not matter
        CHECK "lar lsl verr verw", cpl, type, dpl, rpl
        call compose
        cmp dword [cpl], 0
        je .look
        TORING 3
.look:  xor ebp, ebp                    ; bit 0: readable, bit 1: writable
        mov ebx, eax
        lar ebx, ax
        setz cl
        pushfd
        and ebx, 0xFFF0FFFF             ; these bits are undefined
        popfd
        lsl edx, ax
        setz ch
        lar si, ax
        lsl di, ax
        verr ax
        jnz .unreadable
        or ebp, 1
.unreadable:
        verw ax
        jnz .unwritable
        or ebp, 2
.unwritable:
        ENDCHECK GDT + SLOT + 4, 1
NEXT
NEXT
NEXT
NEXT

%macro FAR_ALL 2
FOR cpl, 0, 3, 3
FOR type, 0, 31, 1
FOR dpl, 0, 3, 3
FOR rpl, 0, 3, 3
FOR present, 0, 1, 1
        cmp dword [type], 16
        jae %%sane
        cmp dword [type], 1             ; tasks have their own guest
        je near %%next
        cmp dword [type], 3
        je near %%next
        cmp dword [type], 5
        je near %%next
        cmp dword [type], 9
        je near %%next
        cmp dword [type], 11
        je near %%next
%%sane:
        CHECK %2, cpl, type, dpl, rpl, present
        call compose
        cmp dword [cpl], 0
        je %%level0
        TORING 3
%%level0:
        %1 far [pointer]
        ENDCHECK STACK - 8, 2, STACK0 - 16, 4, GDT + SLOT + 4, 1
%%next:
NEXT
NEXT
NEXT
NEXT
NEXT
%endmacro
        FAR_ALL jmp, "jmp far"
        FAR_ALL call, "call far"

; Limits: expand-up and expand-down, with both sizes; offsets around the edge, around 64 KiB and 4 GiB.
FOR type, 0x13, 0x17, 4
FOR size, 0, 1, 1
FOR at, 0, 13, 1
%macro LIMIT_CHECK 2+
        CHECK %1, type, size, at
        DESC GDT + SLOT, DATA, 0x1FF, 0x93, 0
        mov eax, [type]
        or al, 0x80
        mov [GDT + SLOT + 5], al
        mov eax, [size]
        shl eax, 6
        mov [GDT + SLOT + 6], al
        mov eax, [at]
        mov ebx, [offsets + eax * 4]
        mov ecx, SLOT
        mov gs, ecx
        %2
        ENDCHECK
%endmacro
        LIMIT_CHECK "byte", mov cl, [gs:ebx]
        LIMIT_CHECK "word", mov cx, [gs:ebx]
        LIMIT_CHECK "double", mov ecx, [gs:ebx]
        LIMIT_CHECK "write", mov [gs:ebx], eax
NEXT
NEXT
NEXT
        jmp granular
offsets: dd 0, 0x1FC, 0x1FD, 0x1FE, 0x1FF, 0x200, 0x201, 0xFFFC, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFFC, 0xFFFFFFFD, 0xFFFFFFFF
granular:

; What a segment register allows once loaded.
%macro ACCESS 3+                        ; name, access byte, instruction
        CHECK %1
        DESC GDT + SLOT, DATA, 0xFFFFF, %2, 0xC
        mov ecx, SLOT
        mov gs, ecx
        %3
        ENDCHECK DATA, 1
%endmacro
        ACCESS "write to read-only data", 0x91, mov [gs:0], eax
        ACCESS "read of read-only data", 0x91, mov eax, [gs:0]
        ACCESS "write to code", 0x9B, mov [gs:0], eax
        ACCESS "read of readable code", 0x9B, mov eax, [gs:0]
        ACCESS "read of conforming code", 0x9F, mov eax, [gs:0]
        ACCESS "add to read-only data", 0x91, add [gs:0], eax
        ACCESS "compare with read-only data", 0x91, cmp [gs:0], eax
        CHECK "null ds"
        xor eax, eax
        mov ds, ax
        mov eax, [0]
        ENDCHECK
        CHECK "null with rpl 3"
        mov eax, 3
        mov gs, ax
        mov eax, [gs:eax]
        ENDCHECK
        CHECK "null ss"
        xor eax, eax
        mov ss, ax
        ENDCHECK
        CHECK "null ss at level 3"
        TORING 3
        mov eax, 3
        mov ss, ax
        ENDCHECK
        CHECK "mov cs"
        db 0x8E, 0xC8
        ENDCHECK
        CHECK "segment register 6"
        db 0x8E, 0xF0
        ENDCHECK
        CHECK "beyond the table"
        mov eax, 0x800
        mov gs, ax
        ENDCHECK
        CHECK "beyond the local table"
        mov eax, 0x104
        mov gs, ax
        ENDCHECK
        CHECK "no local table"
        xor eax, eax
        lldt ax
        mov eax, 0xC
        mov gs, ax
        ENDCHECK
        CHECK "local segment"
        DESC LDT + 8, DATA, 0xFF, 0xF2, 4
        mov dword [DATA + 0xFC], 0x12345678
        TORING 3
        mov eax, 0xF
        mov gs, ax
        mov edx, [gs:0xFC]
        mov ecx, [gs:0xFD]
        ENDCHECK LDT + 8, 2
        CHECK "read of execute-only code"
        DESC GDT + SLOT, 0, 0xFFFFF, 0x99, 0xC
        jmp SLOT:.only
.only:  mov eax, [cs:.only]
        ENDCHECK
        CHECK "beyond the code segment"
        DESC GDT + SLOT, 0, 0x20, 0x9B, 0xC
        jmp SLOT:0x21000
        ENDCHECK
        CHECK "running out of the code segment"
        DESC GDT + SLOT, DATA, 0x100, 0x9B, 4
        mov dword [DATA + 0xFE], 0x90909090
        jmp SLOT:0xFE
        ENDCHECK
        CHECK "instruction across the limit"
        DESC GDT + SLOT, DATA, 0x100, 0x9B, 4
        mov dword [DATA + 0xFC], 0xB8909090 ; MOV EAX, imm32 in the last byte
        jmp SLOT:0xFC
        ENDCHECK
        CHECK "near jump beyond the limit"
        DESC GDT + SLOT, DATA, 0x100, 0x9B, 4
        mov dword [DATA], 0x000FFBE9        ; jmp $+1000h
        mov dword [DATA + 4], 0
        jmp SLOT:0
        ENDCHECK
        CHECK "sixteen bytes"
        times 15 db 0x3E
        nop
        ENDCHECK
        CHECK "fifteen bytes"
        times 14 db 0x3E
        nop
        ENDCHECK
        CHECK "stack limit"
        DESC GDT + SLOT2, DATA, 0xFF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0x102
        push eax
        ENDCHECK
        CHECK "stack limit through ebp"
        DESC GDT + SLOT2, DATA, 0xFF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov ebp, 0xFD
        mov eax, [ebp]
        ENDCHECK
        CHECK "stack wraps at 64 KiB"
        DESC GDT + SLOT2, DATA, 0xFFFF, 0xF3, 0
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0x12340002
        push ax
        push ax
        push eax
        ENDCHECK
        CHECK "push across the end of a 16-bit stack"
        DESC GDT + SLOT2, DATA, 0xFFFF, 0xF3, 0
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0x12340001
        push ax
        ENDCHECK
        CHECK "expand-down stack"
        DESC GDT + SLOT2, DATA, 0xEFFF, 0xF7, 0
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0xF002
        push ax
        push ax
        ENDCHECK
        CHECK "pusha out of room"
        DESC GDT + SLOT2, DATA, 0xFF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0x18
        pushad
        ENDCHECK
        CHECK "popa out of room"
        DESC GDT + SLOT2, DATA, 0xFF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0xF8
        popad
        ENDCHECK

; ARPL
FOR rpl, 0, 3, 1
FOR dpl, 0, 3, 1
        CHECK "arpl", rpl, dpl
        mov eax, [rpl]
        or eax, 0x10
        mov ebx, [dpl]
        arpl ax, bx
        ENDCHECK
NEXT
NEXT
; LLDT, LTR over all types
FOR type, 0, 31, 1
FOR present, 0, 1, 1
        mov dword [dpl], 0
        mov dword [rpl], 0
        CHECK "lldt", type, present
        call compose
        lldt ax
        sldt ax
        ENDCHECK
        CHECK "ltr", type, present
        call compose
        ltr ax
        str ax
        ENDCHECK GDT + SLOT + 4, 1
NEXT
NEXT
        CHECK "lldt of a local selector"
        mov eax, 0xC
        lldt ax
        ENDCHECK
        CHECK "ltr of a local selector"
        mov eax, 0xC
        ltr ax
        ENDCHECK
        CHECK "ltr of null"
        xor eax, eax
        ltr ax
        ENDCHECK
%macro PRIVILEGED 2+
        CHECK %1
        TORING 3
        %2
        ENDCHECK
%endmacro
        PRIVILEGED "level 3: lldt", lldt ax
        PRIVILEGED "level 3: ltr", ltr ax
        PRIVILEGED "level 3: lgdt", lgdt [eax]
        PRIVILEGED "level 3: lidt", lidt [eax]
        PRIVILEGED "level 3: lmsw", lmsw ax
        PRIVILEGED "level 3: clts", clts
        PRIVILEGED "level 3: hlt", hlt
        PRIVILEGED "level 3: mov cr0", mov eax, cr0
        PRIVILEGED "level 3: mov cr1", db 0x0F, 0x20, 0xC8
        PRIVILEGED "level 3: mov dr0", mov eax, dr0
        PRIVILEGED "level 3: invd", invd
        PRIVILEGED "level 3: wbinvd", wbinvd
        PRIVILEGED "level 3: invlpg", invlpg [eax]
        PRIVILEGED "level 3: rdmsr", rdmsr
        PRIVILEGED "level 3: wrmsr", wrmsr
        PRIVILEGED "level 3: cli", cli
        PRIVILEGED "level 3: sti", sti
        PRIVILEGED "level 3: sldt", sldt eax
        PRIVILEGED "level 3: str", str eax
        PRIVILEGED "level 3: smsw", smsw eax
        PRIVILEGED "level 3: rsm", rsm
        CHECK "mov cr1"
        db 0x0F, 0x20, 0xC8
        ENDCHECK
        CHECK "mov cr5"
        db 0x0F, 0x22, 0xE8
        ENDCHECK
        CHECK "reserved cr4 bit"
        mov eax, 0x80000000
        mov cr4, eax
        ENDCHECK
        CHECK "paging without protection"
        mov eax, 0x80000000
        mov cr0, eax
        ENDCHECK
        CHECK "nw without cd"
        mov eax, 0x20000011
        mov cr0, eax
        ENDCHECK
        CHECK "lmsw cannot clear pe"
        mov eax, 0xFFF0
        lmsw ax
        smsw eax
        ENDCHECK
        CHECK "bound inside"
        mov dword [DATA], 0xFFFFFFF0
        mov dword [DATA + 4], 0x10
        mov ecx, 0xFFFFFFF0
        bound ecx, [DATA]
        mov ecx, 0x10
        bound ecx, [DATA]
        ENDCHECK
        CHECK "bound above"
        mov dword [DATA], 0xFFFFFFF0
        mov dword [DATA + 4], 0x10
        mov ecx, 0x11
        bound ecx, [DATA]
        ENDCHECK
        CHECK "bound below, 16 bits"
        mov dword [DATA], 0x0010FFF0
        mov ecx, 0xFFEF
        bound cx, [DATA]
        ENDCHECK
%macro ENTER_LEVEL 1
        %defstr level_text %1
        CHECK {"enter level ", level_text}
        mov ecx, 33
%%fill: mov [DATA + ecx * 4], ecx       ; what is copied
        loop %%fill
        mov ebp, DATA + 34 * 4
        mov ecx, ECX0
        mov esp, DATA + 0x200
        enter 0x20, %1
        mov eax, esp
        mov esp, [resume_esp]
        ENDCHECK DATA + 0x1F0, 4, DATA + 0x180, 2
%endmacro
        ENTER_LEVEL 0
        ENTER_LEVEL 1
        ENTER_LEVEL 2
        ENTER_LEVEL 31
        ENTER_LEVEL 32
        CHECK "lock nop"
        db 0xF0, 0x90
        ENDCHECK
        CHECK "lock add register"
        db 0xF0, 0x01, 0xC0
        ENDCHECK
        CHECK "lock cmp"
        db 0xF0, 0x39, 0x03
        ENDCHECK
        CHECK "lock bts"
        lock bts dword [DATA], 5
        ENDCHECK
        CHECK "ud2"
        ud2
        ENDCHECK
        CHECK "cmpxchg8b register"
        db 0x0F, 0xC7, 0xC8
        ENDCHECK
        CHECK "les register"
        db 0xC4, 0xC0
        ENDCHECK
        FINISH
