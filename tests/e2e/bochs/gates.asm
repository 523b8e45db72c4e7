; Call, interrupt and trap gates of both sizes, returns from them, inner stacks, and everything that refuses them.
%include "frame.inc"
VARIABLE gate
VARIABLE count
VARIABLE level
VARIABLE type
VARIABLE dpl
VARIABLE rpl
VARIABLE case

landing: int 0x30
; Leaves through a far return with `count` parameters' room; what follows shows the caller's stack.
return32: retf
return32_8: retf 8
bits 16
landing16: int 0x30
bits 32

; 16-bit gate to landing16 or 32-bit gate to landing by [gate]: writes SLOT
compose_call:
        GATE GDT + SLOT, CODE0, landing, 0xEC, 0
        cmp dword [gate], 12
        je .count
        GATE GDT + SLOT, CODE16, landing16, 0xE4, 0
.count: mov al, [count]
        mov [GDT + SLOT + 4], al
        mov eax, EAX0
        ret

guest:
FOR gate, 4, 12, 8
FOR count, 0, 5, 1
        CHECK "call gate from level 3", gate, count
        call compose_call
        TORING 3
        push dword 0x11112222
        push dword 0x33334444
        push dword 0x55556666
        call SLOT | 3:0x12345678
        ENDCHECK STACK0 - 0x48, 12
        CHECK "call gate from level 0", gate, count
        call compose_call
        push dword 0x11112222
        push dword 0x33334444
        call SLOT:0
        ENDCHECK STACK - 16, 4
        CHECK "call gate from a 16-bit stack", gate, count
        call compose_call
        TO16_3
        push dword 0x11112222
        push dword 0x33334444
        push dword 0x55556666
        call SLOT | 3:0x1234
        ENDCHECK STACK0 - 0x48, 12
NEXT
NEXT
        CHECK "call gate with 31 parameters"
        mov dword [gate], 12
        mov dword [count], 31
        call compose_call
        TORING 3
        mov ecx, 31
.fill:  push ecx
        loop .fill
        call SLOT | 3:0
        ENDCHECK STACK0 - 4 * 42, 42
        CHECK "parameters beyond the stack"
        mov dword [gate], 12
        mov dword [count], 4
        call compose_call
        DESC GDT + SLOT2, DATA, 0xFF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ss
        mov esp, 0xF8
        call SLOT | 3:0
        ENDCHECK STACK0 - 4 * 12, 12
        CHECK "call gate to level 1 and back"
        GATE GDT + SLOT, CODE1, return32_8, 0xEC, 2
        TORING 3
        push dword 0x11112222
        push dword 0x33334444
        call SLOT | 3:0
        ENDCHECK STACK1 - 24, 6
        CHECK "return of the inner level makes segments null"
        GATE GDT + SLOT, CODE0, .inner, 0xEC, 0
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x9F, 0xC
        TORING 3
        call SLOT | 3:0
        jmp .back
.inner: mov eax, DATA0
        mov ds, eax
        mov eax, DATA3
        mov es, eax
        mov eax, SLOT2                  ; conforming
        mov fs, eax
        mov eax, CODE0
        mov gs, eax
        retf
.back:  ENDCHECK
        CHECK "call gate to conforming code stays at level 3"
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x9F, 0xC
        GATE GDT + SLOT, SLOT2, landing, 0xEC, 3
        TORING 3
        call SLOT | 3:0
        ENDCHECK STACK3 - 8, 2
        CHECK "jmp through a gate to an inner level"
        GATE GDT + SLOT, CODE0, landing, 0xEC, 0
        TORING 3
        jmp SLOT | 3:0
        ENDCHECK
        CHECK "jmp through a gate to the same level"
        GATE GDT + SLOT, CODE3, landing, 0xEC, 0
        TORING 3
        jmp SLOT | 3:0
        ENDCHECK
        CHECK "jmp through a gate to conforming code"
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x9F, 0xC
        GATE GDT + SLOT, SLOT2, landing, 0xEC, 0
        TORING 3
        jmp SLOT | 3:0
        ENDCHECK

; What a gate names: a code segment of each type and level; the gate's own level and presence.
FOR type, 0x10, 0x1F, 1
FOR dpl, 0, 3, 1
        CHECK "target of a call gate", type, dpl
        GATE GDT + SLOT, SLOT2, landing, 0xEC, 0
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x80, 0xC
        mov eax, [dpl]
        shl eax, 5
        or eax, [type]
        or [GDT + SLOT2 + 5], al
        TORING 2
        call SLOT | 2:0
        ENDCHECK GDT + SLOT2 + 4, 1
        CHECK "target of an interrupt gate", type, dpl
        GATE IDT + 0x31 * 8, SLOT2, landing, 0xEE, 0
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x80, 0xC
        mov eax, [dpl]
        shl eax, 5
        or eax, [type]
        or [GDT + SLOT2 + 5], al
        TORING 2
        int 0x31
        ENDCHECK GDT + SLOT2 + 4, 1
NEXT
NEXT
FOR dpl, 0, 3, 1
FOR rpl, 0, 3, 1
        CHECK "level of a call gate", dpl, rpl
        GATE GDT + SLOT, CODE0, landing, 0x8C, 0
        mov eax, [dpl]
        shl eax, 5
        or [GDT + SLOT + 5], al
        mov eax, [rpl]
        or eax, SLOT
        mov [DATA], dword 0
        mov [DATA + 4], eax
        TORING 1
        call far [DATA]
        ENDCHECK
NEXT
        CHECK "level of an interrupt gate", dpl
        GATE IDT + 0x31 * 8, CODE0, landing, 0x8E, 0
        mov eax, [dpl]
        shl eax, 5
        or [IDT + 0x31 * 8 + 5], al
        TORING 2
        int 0x31
        ENDCHECK
NEXT
%macro REFUSED 1                        ; name; what makes it wrong comes between this and ENDREFUSED
        CHECK %1
        GATE GDT + SLOT, CODE0, landing, 0xEC, 0
%endmacro
%macro ENDREFUSED 0
        TORING 3
        call SLOT | 3:0
        ENDCHECK STACK0 - 8, 2
%endmacro
        REFUSED "gate not present"
        and byte [GDT + SLOT + 5], 0x7F
        ENDREFUSED
        REFUSED "gate with a null selector"
        mov word [GDT + SLOT + 2], 3
        ENDREFUSED
        REFUSED "gate with a selector beyond the table"
        mov word [GDT + SLOT + 2], 0x1000
        ENDREFUSED
        REFUSED "gate with a local selector"
        DESC LDT + 8, 0, 0xFFFFF, 0x9B, 0xC
        mov word [GDT + SLOT + 2], 0xC
        ENDREFUSED
        REFUSED "gate to an absent segment"
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x1B, 0xC
        mov word [GDT + SLOT + 2], SLOT2
        ENDREFUSED
        REFUSED "gate beyond the limit"
        DESC GDT + SLOT2, 0, 0x100, 0x9B, 4
        mov word [GDT + SLOT + 2], SLOT2
        ENDREFUSED

; Inner stacks that will not do: SDM vol. 3A, 5.8.5.  INT from level 3 to a handler of level 1, CALL likewise.
%macro BAD_STACK 2+
        CHECK {"call, ", %1}
        GATE GDT + SLOT, CODE1, landing, 0xEC, 0
        %2
        TORING 3
        call SLOT | 3:0
        ENDCHECK
        CHECK {"int, ", %1}
        GATE IDT + 0x31 * 8, CODE1, landing, 0xEE, 0
        %2
        TORING 3
        int 0x31
        ENDCHECK
        CHECK {"fault, ", %1}
        GATE IDT + 6 * 8, CODE1, landing, 0x8E, 0
        %2
        TORING 3
        ud2
        ENDCHECK
%endmacro
%macro STACK_DESCRIPTOR 2               ; access, limit
        DESC GDT + SLOT2, 0, %2, %1, 4
        mov word [TSS + 0x10], SLOT2 | 1
%endmacro
        BAD_STACK "null stack", mov word [TSS + 0x10], 1
        BAD_STACK "stack of the wrong rpl", mov word [TSS + 0x10], DATA1 ^ 3
        BAD_STACK "stack beyond the table", mov word [TSS + 0x10], 0x2001
        BAD_STACK "stack of the wrong dpl", mov word [TSS + 0x10], DATA2 ^ 3
        BAD_STACK "stack that is code", STACK_DESCRIPTOR 0xBB, 0xFFFFF
        BAD_STACK "read-only stack", STACK_DESCRIPTOR 0xB1, 0xFFFFF
        BAD_STACK "absent stack", STACK_DESCRIPTOR 0x33, 0xFFFFF
        BAD_STACK "stack not accessed yet", STACK_DESCRIPTOR 0xB2, 0xFFFFF
        BAD_STACK "stack with a low limit", STACK_DESCRIPTOR 0xB3, 0x4000
        BAD_STACK "local stack", mov word [TSS + 0x10], 0xD
; An inner stack at DATA, at its beginning nothing but zeroes, with room for [case] bytes
%macro ROOM 0
        mov edi, DATA
        mov ecx, 6
        xor eax, eax
        rep stosd
        mov ecx, ECX0
        mov edi, EDI0
        DESC GDT + SLOT2, DATA, 0xFF, 0xB3, 4
        mov word [TSS + 0x10], SLOT2 | 1
        mov eax, [case]
        mov dword [TSS + 0xC], eax
%endmacro
FOR case, 0, 20, 4
        CHECK "room on the inner stack", case
        GATE GDT + SLOT, CODE1, landing, 0xEC, 1
        ROOM
        TORING 3
        push dword 0x12345678
        call SLOT | 3:0
        ENDCHECK DATA, 6
        CHECK "room on the inner stack, event", case
        GATE IDT + 0x31 * 8, CODE1, landing, 0xEE, 0
        ROOM
        TORING 3
        int 0x31
        ENDCHECK DATA, 6
        CHECK "room on a 16-bit inner stack", case
        GATE IDT + 0x31 * 8, CODE1, landing, 0xEE, 0
        ROOM
        DESC GDT + SLOT2, DATA, 0xFFFF, 0xB3, 0
        or dword [TSS + 0xC], 0x55550000
        TORING 3
        int 0x31
        ENDCHECK DATA, 6, DATA + 0xFFF0, 4
NEXT
        CHECK "tss too short for the stack"
        GATE GDT + SLOT, CODE1, landing, 0xEC, 0
        DESC GDT + SLOT2, TSS, 0x10, 0x89, 0
        mov ax, SLOT2
        ltr ax
        TORING 3
        call SLOT | 3:0
        ENDCHECK
        CHECK "16-bit tss"
        GATE GDT + SLOT, CODE1, landing, 0xEC, 0
        DESC GDT + SLOT2, TSS, 0x2B, 0x81, 0
        mov dword [TSS + 2], STACK0 | (DATA0 << 16)
        mov dword [TSS + 6], STACK1 | (DATA1 << 16)
        mov ax, SLOT2
        ltr ax
        TORING 3
        call SLOT | 3:0
        ENDCHECK STACK1 - 16, 4

; Interrupt and trap gates of both sizes with every flag set, from level 0 and level 3; with error codes.
; TYPED_GATE vector, label, access: a gate of type [type] to level 0, of 16 bits below type 8
%macro TYPED_GATE 3
        GATE IDT + (%1) * 8, CODE0, %2, %3, 0
        test dword [type], 8
        jnz %%wide
        GATE IDT + (%1) * 8, CODE16, %2, %3, 0
        mov word [IDT + (%1) * 8 + 6], 0xDEAD ; does not count
%%wide: mov al, [type]
        or [IDT + (%1) * 8 + 5], al
%endmacro
FOR type, 6, 15, 1
        CHECK "int", type
        TYPED_GATE 0x31, .see, 0xE0
        push dword 0x257FD7 & ~0x100    ; all but VM, TF, VIF, VIP
        popfd
        int 0x31
.see:   int 0x30
        ENDCHECK STACK - 16, 4
        CHECK "int from level 3", type
        TYPED_GATE 0x31, .see, 0xE0
        TORING 3, 0x3202
        int 0x31
.see:   int 0x30
        ENDCHECK STACK0 - 24, 6
        CHECK "fault with an error code from level 3", type
        TYPED_GATE 13, .see, 0x80
        TORING 3
        push dword 0x12345678
        mov eax, 0xFFF8
        mov ds, ax
.see:   int 0x30
        ENDCHECK STACK0 - 24, 6
NEXT
        CHECK "int beyond the table"
        mov word [idtr_short], 0x31 * 8 + 6
        lidt [idtr_short]
        int 0x31
        ENDCHECK
        CHECK "int at the end of the table"
        mov word [idtr_short], 0x31 * 8 + 7
        lidt [idtr_short]
        int 0x31
        ENDCHECK
        CHECK "gate absent"
        TORING 3
        int 0x3F
        ENDCHECK
        CHECK "absent interrupt gate"
        GATE IDT + 0x31 * 8, CODE0, landing, 0x6E, 0
        TORING 3
        int 0x31
        ENDCHECK
        CHECK "absent interrupt gate of level 0"
        GATE IDT + 0x31 * 8, CODE0, landing, 0x0E, 0
        TORING 3
        int 0x31
        ENDCHECK
        CHECK "int3 through a gate of level 0"
        TORING 3
        int3
        ENDCHECK
        CHECK "into through a gate of level 0"
        TORING 3
        mov al, 0x7F
        inc al
        into
        ENDCHECK
        CHECK "int1 through a gate of level 0"
        TORING 3
        db 0xF1
        ENDCHECK
        CHECK "int 13 pushes no error code"
        GATE IDT + 13 * 8, CODE0, landing, 0xEE, 0
        TORING 3
        int 13
        ENDCHECK STACK0 - 24, 6
        CHECK "fault whose handler is absent"
        and byte [IDT + 6 * 8 + 5], 0x7F
        TORING 3
        ud2
        ENDCHECK
        CHECK "gp whose handler is absent"
        and byte [IDT + 13 * 8 + 5], 0x7F
        TORING 3
        hlt
        ENDCHECK
        CHECK "fault whose handler's gate is a call gate"
        mov byte [IDT + 6 * 8 + 5], 0x8C
        ud2
        ENDCHECK
        CHECK "fault whose handler's code is null"
        mov word [IDT + 6 * 8 + 2], 0
        ud2
        ENDCHECK
        CHECK "fault whose handler is beyond the limit"
        DESC GDT + SLOT2, 0, 0x100, 0x9B, 4
        mov word [IDT + 6 * 8 + 2], SLOT2
        ud2
        ENDCHECK
        CHECK "int whose handler is beyond the limit"
        DESC GDT + SLOT2, 0, 0x100, 0x9B, 4
        mov word [IDT + 0x30 * 8 + 2], SLOT2
        TORING 3
        ENDCHECK STACK0 - 24, 6

; Returns
%macro RETURN 3                         ; name, cs, ss: a far return and an IRETD at level 0, then at level 2
        CHECK %1
        push dword %3
        push dword STACK3
        push dword %2
        push dword landing
        retf
        ENDCHECK GDT + SLOT + 4, 1, GDT + SLOT2 + 4, 1
        CHECK {"iret, ", %1}
        push dword %3
        push dword STACK3
        push dword 0x246ED7 | 0x3000
        push dword %2
        push dword landing
        iretd
        ENDCHECK
        CHECK {"at level 2, ", %1}
        TORING 2
        push dword %3
        push dword STACK3
        push dword %2
        push dword landing
        retf
        ENDCHECK
        CHECK {"iret at level 2, ", %1}
        TORING 2
        push dword %3
        push dword STACK3
        push dword 0x246ED7 | 0x3000
        push dword %2
        push dword landing
        iretd
        ENDCHECK
%endmacro
        RETURN "to level 0", CODE0, DATA0
        RETURN "to level 1", CODE1, DATA1
        RETURN "to level 2", CODE2, DATA2
        RETURN "to level 3", CODE3, DATA3
        RETURN "to a null cs", 0, DATA3
        RETURN "to a null cs of rpl 3", 3, DATA3
        RETURN "cs beyond the table", 0xFFFB, DATA3
        RETURN "to data", DATA3, DATA3
        RETURN "dpl below rpl", CODE2 | 1, DATA3
        RETURN "rpl above dpl", CODE2 | 3, DATA3
        RETURN "to a null ss", CODE3, 0
        RETURN "to a null ss of rpl 3", CODE3, 3
        RETURN "ss beyond the table", CODE3, 0xFFFB
        RETURN "ss of another rpl", CODE3, DATA3 ^ 1
        RETURN "ss of another dpl", CODE3, DATA2 | 3
        RETURN "ss is code", CODE3, CODE3
        RETURN "to a system descriptor", TR | 3, DATA3
FOR type, 0x10, 0x1F, 1
FOR dpl, 0, 3, 1
        CHECK "return to code", type, dpl
        DESC GDT + SLOT, 0, 0xFFFFF, 0x80, 0xC
        mov eax, [dpl]
        shl eax, 5
        or eax, [type]
        or [GDT + SLOT + 5], al
        push dword DATA2
        push dword STACK2
        push dword SLOT | 2
        push dword landing
        retf
        ENDCHECK GDT + SLOT + 4, 1
        CHECK "return to stack", type, dpl
        DESC GDT + SLOT, 0, 0xFFFFF, 0x80, 0xC
        mov eax, [dpl]
        shl eax, 5
        or eax, [type]
        or [GDT + SLOT + 5], al
        push dword SLOT | 2
        push dword STACK2
        push dword CODE2
        push dword landing
        retf
        ENDCHECK GDT + SLOT + 4, 1
NEXT
NEXT
        CHECK "return to absent code"
        DESC GDT + SLOT, 0, 0xFFFFF, 0x7B, 0xC
        push dword DATA3
        push dword STACK3
        push dword SLOT | 3
        push dword landing
        retf
        ENDCHECK
        CHECK "return to an absent stack"
        DESC GDT + SLOT, 0, 0xFFFFF, 0x73, 0xC
        push dword SLOT | 3
        push dword STACK3
        push dword CODE3
        push dword landing
        retf
        ENDCHECK
        CHECK "return beyond the limit"
        DESC GDT + SLOT, 0, 0x100, 0xFB, 4
        push dword DATA3
        push dword STACK3
        push dword SLOT | 3
        push dword landing
        retf
        ENDCHECK
        CHECK "return beyond the limit, same level"
        DESC GDT + SLOT, 0, 0x100, 0x9B, 4
        push dword SLOT
        push dword landing
        retf
        ENDCHECK GDT + SLOT + 4, 1
        CHECK "return with parameters to level 3"
        push dword DATA3
        push dword STACK3 - 0x100
        push dword 0x11112222
        push dword 0x33334444
        push dword CODE3
        push dword landing
        retf 8
        ENDCHECK
        CHECK "return with parameters, same level"
        push dword 0x11112222
        push dword 0x33334444
        push dword CODE0
        push dword landing
        retf 8
        ENDCHECK
        CHECK "16-bit return to level 3"
        push word DATA16_3
        push word 0xFE00
        push word 0x1234
        push word CODE16_3
        push word OFFSET(landing)
        o16 retf 2
        ENDCHECK
        CHECK "16-bit iret to level 3"
        push word DATA16_3
        push word 0xFE00
        push word 0x3ED7
        push word CODE16_3
        push word OFFSET(landing)
        o16 iret
        ENDCHECK
        CHECK "16-bit return to a 32-bit stack"
        push word DATA3
        push word 0xD000
        push word CODE16_3
        push word OFFSET(landing)
        o16 retf
        ENDCHECK
        CHECK "32-bit return to a 16-bit stack"
        push dword DATA16_3
        push dword 0x5555FE00
        push dword CODE3
        push dword landing
        retf
        ENDCHECK
        CHECK "iret at level 3 keeps iopl and if"
        TORING 3, 0x1202
        push dword 0x246ED7 & ~0x200 | 0x3000
        push dword CODE3
        push dword landing
        iretd
        ENDCHECK
        CHECK "iret at level 1 with iopl 1 changes if"
        TORING 1, 0x1202
        push dword 0x3002
        push dword CODE1
        push dword landing
        iretd
        ENDCHECK
        CHECK "iret sets vif and vip at level 0"
        push dword 0x180002
        push dword CODE0
        push dword landing
        iretd
        ENDCHECK
        CHECK "iret at level 3 ignores vm"
        TORING 3
        push dword 0x1A0002 | 0x20000
        push dword CODE3
        push dword landing
        iretd
        ENDCHECK
        CHECK "popf at level 3"
        TORING 3, 0x1202
        push dword 0x3F7ED7 & ~0x200
        popfd
        ENDCHECK
        CHECK "popf at level 0"
        push dword 0x3F7ED7
        popfd
        ENDCHECK
        CHECK "popf at level 1 with iopl 1"
        TORING 1, 0x1002
        push dword 0x3202
        popfd
        ENDCHECK
        CHECK "popfw at level 0 keeps ac and id"
        push dword 0x240002
        popfd
        push word 0x7ED7
        popfw
        ENDCHECK
        CHECK "pushf shows neither rf nor vm"
        push dword 0x3ED7
        popfd
        pushfd
        pop eax
        ENDCHECK

; I/O permission: SDM vol. 1, 19.5.2
FOR case, 0xF6, 0x107, 1
        CHECK "io bitmap", case
        mov byte [TSS + IO_MAP + 0x1F], 0x40
        mov edx, [case]
        TORING 3
        mov bl, 1
        in al, dx
        mov bl, 2
        in ax, dx
        mov bl, 4
        in eax, dx
        mov eax, EAX0
        ENDCHECK
NEXT
        CHECK "io bitmap beyond the tss"
        mov word [TSS + 0x66], 0xFFFF
        mov edx, 0
        TORING 3
        in al, dx
        ENDCHECK
        CHECK "io bitmap's last byte"
        mov edx, 0x110
        TORING 3
        in al, dx
        ENDCHECK
        CHECK "io by iopl"
        mov word [TSS + 0x66], 0xFFFF
        mov edx, 0x110
        TORING 3, 0x3002
        in al, dx
        mov eax, EAX0
        cli
        sti
        ENDCHECK
        CHECK "io without a bitmap in a 16-bit tss"
        DESC GDT + SLOT2, TSS, 0x2B, 0x81, 0
        mov ax, SLOT2
        ltr ax
        mov dword [TSS + 2], STACK0 | (DATA0 << 16)
        TORING 3
        in al, 0x10
        ENDCHECK
        CHECK "outs without permission"
        mov byte [TSS + IO_MAP], 1
        TORING 3
        mov edx, 0
        mov esi, DATA
        outsb
        ENDCHECK
        CHECK "outs beyond its segment"
        DESC GDT + SLOT2, DATA, 0xF, 0xF3, 4
        TORING 3
        push dword SLOT2 | 3
        pop ds
        mov edx, 0x20
        mov esi, 0xE
        mov ecx, 4
        es rep outsb                    ; the override counts
        mov esi, 0x10
        mov ecx, 1
        rep outsb
        ENDCHECK
        jmp finish_guest
idtr_short: dw 0
        dd IDT
finish_guest:
        FINISH
