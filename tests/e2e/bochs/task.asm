; Hardware task switches by JMP, CALL, event and IRET between 16- and 32-bit TSSs, and what can go wrong with each step.
%include "frame.inc"
VARIABLE type
VARIABLE dpl
VARIABLE old16
VARIABLE new16
VARIABLE by

STACK_A equ 0xF000
STACK_B equ 0xF800
STACK_C equ 0xFC00

; TASK32 tss, label, stack: a task of level 0
%macro TASK32 3
        mov edi, %1
        mov eax, %2
        mov ebx, %3
        call make_task32
%endmacro
%macro TASK16 3
        mov edi, %1
        mov eax, OFFSET(%2)
        mov ebx, %3
        call make_task16
%endmacro

make_task32:
        mov [edi + 0x20], eax
        mov dword [edi + 0x24], 0x2
        mov dword [edi + 0x28], 0x01010101
        mov dword [edi + 0x2C], 0x02020202
        mov dword [edi + 0x30], 0x03030303
        mov dword [edi + 0x34], 0x04040404
        mov [edi + 0x38], ebx
        mov dword [edi + 0x3C], 0x05050505
        mov dword [edi + 0x40], 0x06060606
        mov dword [edi + 0x44], 0x07070707
        mov eax, DATA0
        mov dword [edi + 0x48], eax
        mov dword [edi + 0x4C], CODE0
        mov dword [edi + 0x50], eax
        mov dword [edi + 0x54], eax
        mov dword [edi + 0x58], eax
        mov dword [edi + 0x5C], eax
        mov dword [edi + 0x60], LDTR
        mov dword [edi + 0x64], 0x680000
        mov dword [edi + 4], STACK0
        mov dword [edi + 8], eax
        jmp patterns
make_task16:
        mov [edi + 0x0E], ax
        mov word [edi + 0x10], 0x2
        mov dword [edi + 0x12], 0x02020101
        mov dword [edi + 0x16], 0x04040303
        mov [edi + 0x1A], bx
        mov word [edi + 0x1C], 0x0505
        mov dword [edi + 0x1E], 0x07070606
        mov eax, DATA0
        mov [edi + 0x22], ax
        mov word [edi + 0x24], CODE16
        mov word [edi + 0x26], STACK16
        mov [edi + 0x28], ax
        mov word [edi + 0x2A], LDTR
        mov word [edi + 2], STACK0
        mov [edi + 4], ax
        mov dword [edi + 0x2C], 0xFFFFFFFF
patterns:
        mov eax, EAX0
        mov ebx, EBX0
        mov edi, EDI0
        ret

; Code of the other tasks
arrived:                                ; runs in both sizes
        int 0x30
back:   iretd
        jmp back
bits 16
back16: o32 iretd
        jmp back16
bits 32
tell:   str ecx
        sldt edx
        smsw ebx
        mov esi, cr3
        int 0x30
; A handler's task: shows what it got and where it came from
handler_task:
        mov eax, [esp]
        movzx ebx, word [TSS_C]
        str ecx
        sldt edx
        int 0x30
%macro HANDLER 1                        ; vector
        GATE_AT IDT + (%1) * 8, TR_C, 0, 0x85, 0
%endmacro
%macro HANDLERS 0
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 8
        HANDLER 10
        HANDLER 11
        HANDLER 12
        HANDLER 13
%endmacro

guest:
; SIZES code, code16: TR_A is a task of the size [new16] asks for, with this code; the one left is of size [old16].
%macro SIZES 2
        cmp dword [old16], 0
        je %%old32
        TASK16 TSS_B, arrived, STACK_B
        DESC GDT + TR_B, TSS_B, 0x2B, 0x81, 0
        mov ax, TR_B
        ltr ax
%%old32:
        TASK32 TSS_A, %1, STACK_A
        cmp dword [new16], 0
        je %%new32
        mov edi, TSS_A
        mov ecx, 0x68 / 4
        xor eax, eax
        rep stosd
        TASK16 TSS_A, %2, STACK_A
        DESC GDT + TR_A, TSS_A, 0x2B, 0x81, 0
%%new32:
        GATE_AT GDT + SLOT, TR_A, 0xDEADBEEF, 0x85, 0x1F
        GATE_AT IDT + 0x31 * 8, TR_A, 0, 0x85, 0
        mov ecx, ECX0
        push dword 0xED7
        popfd
%endmacro
; Every pair of sizes, by (0) JMP, (1) JMP and a gate, (2) CALL, (3) CALL and a gate, (4) INT; the last three come back too.
FOR old16, 0, 1, 1
FOR new16, 0, 1, 1
FOR by, 0, 4, 1
        CHECK "switch", old16, new16, by
        SIZES arrived, arrived
        cmp dword [by], 1
        jb .jump
        je .jump_gate
        cmp dword [by], 3
        jb .call
        je .call_gate
        int 0x31
.jump:  jmp TR_A:0x12345678
.jump_gate: jmp SLOT:0
.call:  call TR_A:0x12345678
.call_gate: call SLOT:0
        ENDCHECK GDT + TR + 4, 1, GDT + TR_A + 4, 1, GDT + TR_B + 4, 1, TSS_A, 1, TSS + 0x20, 17, TSS_B, 12
NEXT
FOR by, 2, 4, 1
        CHECK "switch and back", old16, new16, by
        SIZES back, back16
        cmp dword [old16], 0
        jne .from16
        cmp dword [by], 3
        jb .call
        je .call_gate
        int 0x31
        jmp .over
.call:  call TR_A:0
        jmp .over
.call_gate: call SLOT:0
        jmp .over
.from16: push dword STACK16             ; a 16-bit TSS keeps IP and SP only
        pop ss
        jmp CODE16:OFFSET(.in16)
bits 16
.in16:  cmp word [by], 3
        jb .call16
        je .call_gate16
        int 0x31
        jmp .over
.call16: call dword TR_A:0
        jmp .over
.call_gate16: call dword SLOT:0
bits 32
.over:
        ENDCHECK GDT + TR + 4, 1, GDT + TR_A + 4, 1, GDT + TR_B + 4, 1, TSS_A, 26, TSS + 0x20, 17, TSS_B, 12
NEXT
NEXT
NEXT
        CHECK "state of the new task"
        TASK32 TSS_A, tell, STACK_A
        mov dword [TSS_A + 0x1C], 0x12345000
        jmp TR_A:0
        ENDCHECK
        CHECK "debug register 7 after a switch"
        TASK32 TSS_A, .dr7, STACK_A
        mov eax, 0x3FF
        mov dr7, eax
        jmp TR_A:0
.dr7:   mov ecx, dr7
        ENDCHECK
        CHECK "trap flag of the tss"
        TASK32 TSS_A, arrived, STACK_A
        mov byte [TSS_A + 0x64], 1
        jmp TR_A:0
        ENDCHECK
        CHECK "tf in the new task"
        TASK32 TSS_A, .nops, STACK_A
        mov byte [TSS_A + 0x64], 1
        mov word [TSS_A + 0x24], 0x102
        AGAIN 2
        jmp TR_A:0
.nops:  nop
        nop
        ENDCHECK
        CHECK "all flags in the new task"
        TASK32 TSS_A, arrived, STACK_A
        mov dword [TSS_A + 0x24], 0x003D7ED7 & ~0x20000
        jmp TR_A:0
        ENDCHECK
        CHECK "level 3 task"
        TASK32 TSS_A, arrived, STACK_A
        mov dword [TSS_A + 0x4C], CODE3
        mov dword [TSS_A + 0x50], DATA3
        call TR_A:0
        ENDCHECK
        CHECK "virtual-8086 task"
        TASK32 TSS_A, OFFSET(arrived), STACK_A
        mov dword [TSS_A + 0x24], 0x23202
        mov dword [TSS_A + 0x4C], BASE >> 4
        mov dword [TSS_A + 0x50], 0x1234
        mov dword [TSS_A + 0x48], 0x2345
        mov dword [TSS_A + 0x54], 0x3456
        mov dword [TSS_A + 0x58], 0x4567
        mov dword [TSS_A + 0x5C], 0x5678
        call TR_A:0
        ENDCHECK
        CHECK "virtual-8086 task beyond 64 KiB"
        HANDLERS
        TASK32 TSS_A, 0x10000, STACK_A
        mov dword [TSS_A + 0x24], 0x23202
        mov dword [TSS_A + 0x4C], BASE >> 4
        call TR_A:0
        ENDCHECK TSS_A + 0x20, 18
        CHECK "event in a virtual-8086 task goes to a task"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 13
        TOVM 0
        hlt
        ENDCHECK TSS + 0x20, 17
        CHECK "and back to the virtual-8086 task"
        TASK32 TSS_C, .resume, STACK_C
        HANDLER 13
        TOVM 0
        mov bx, 0x3333
        hlt
        ud2
bits 32
.resume: inc dword [TSS + 0x20]
        add esp, 4
        iretd
        ENDCHECK TSS + 0x20, 17, GDT + TR_C + 4, 1
        CHECK "fault goes to a task, with an error code"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 13
        TORING 3
        mov eax, 0xFFF8
        mov ds, ax
        ENDCHECK TSS + 0x20, 17, STACK_C - 8, 2
        CHECK "fault goes to a 16-bit task, with an error code"
        TASK16 TSS_C, arrived, STACK_C
        DESC GDT + TR_C, TSS_C, 0x2B, 0x81, 0
        HANDLER 13
        TORING 3
        mov eax, 0xFFF8
        mov ds, ax
        ENDCHECK TSS + 0x20, 17, STACK_C - 8, 2
        CHECK "no room for the error code"
        TASK32 TSS_C, arrived, STACK_C
        TASK32 TSS_B, handler_task, STACK_B
        GATE_AT IDT + 12 * 8, TR_B, 0, 0x85, 0
        DESC GDT + SLOT2, DATA, 0x10, 0x93, 4
        mov dword [TSS_C + 0x50], SLOT2
        mov dword [TSS_C + 0x38], 2
        HANDLER 13
        TORING 3
        hlt
        ENDCHECK TSS_C + 0x20, 17, STACK_B - 8, 2
        CHECK "fault goes to a busy task"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 6
        mov byte [GDT + TR_C + 5], 0x8B
        ud2
        ENDCHECK
        CHECK "fault goes to the task it is in"
        GATE_AT IDT + 6 * 8, TR, 0, 0x85, 0
        ud2
        ENDCHECK

; What names a task: type, level, presence, place
FOR type, 0, 15, 1
        CHECK "task gate to a descriptor", type
        TASK32 TSS_A, arrived, STACK_A
        mov al, [type]
        or al, 0x80
        mov [GDT + TR_A + 5], al
        GATE_AT GDT + SLOT, TR_A, 0, 0x85, 0
        jmp SLOT:0
        ENDCHECK GDT + TR_A + 4, 1
        CHECK "event's task gate to a descriptor", type
        TASK32 TSS_A, arrived, STACK_A
        mov al, [type]
        or al, 0x80
        mov [GDT + TR_A + 5], al
        GATE_AT IDT + 0x31 * 8, TR_A, 0, 0x85, 0
        int 0x31
        ENDCHECK GDT + TR_A + 4, 1
        CHECK "iret to a task", type
        TASK32 TSS_A, arrived, STACK_A
        mov al, [type]
        or al, 0x80
        mov [GDT + TR_A + 5], al
        mov word [TSS], TR_A
        push dword 0x4002
        popfd
        iretd
        ENDCHECK GDT + TR_A + 4, 1
NEXT
FOR dpl, 0, 3, 1
        CHECK "level of a tss", dpl
        TASK32 TSS_A, arrived, STACK_A
        mov eax, [dpl]
        shl eax, 5
        or [GDT + TR_A + 5], al
        TORING 2
        jmp TR_A | 2:0
        ENDCHECK
        CHECK "rpl of a tss", dpl
        TASK32 TSS_A, arrived, STACK_A
        mov eax, [dpl]
        shl eax, 5
        or [GDT + TR_A + 5], al
        jmp TR_A | 2:0
        ENDCHECK
        CHECK "level of a task gate", dpl
        TASK32 TSS_A, arrived, STACK_A
        GATE_AT GDT + SLOT, TR_A, 0, 0x85, 0
        mov eax, [dpl]
        shl eax, 5
        or [GDT + SLOT + 5], al
        TORING 2
        call SLOT | 2:0
        ENDCHECK
NEXT
%macro TASK_CHECK 1
        CHECK %1
        TASK32 TSS_A, arrived, STACK_A
        HANDLERS
        GATE_AT GDT + SLOT, TR_A, 0, 0x85, 0
%endmacro
%macro ENDTASK 0
        call SLOT:0
        ENDCHECK GDT + TR + 4, 1, GDT + TR_A + 4, 1, GDT + TR_C + 4, 1, TSS_A, 1, TSS_A + 0x20, 17, TSS_C, 1
%endmacro
        TASK_CHECK "absent gate"
        mov byte [GDT + SLOT + 5], 5
        ENDTASK
        TASK_CHECK "gate to a local selector"
        mov word [GDT + SLOT + 2], TR_A | 4
        ENDTASK
        TASK_CHECK "gate to null"
        mov word [GDT + SLOT + 2], 0
        ENDTASK
        TASK_CHECK "gate beyond the table"
        mov word [GDT + SLOT + 2], 0x1000
        ENDTASK
        TASK_CHECK "gate with an rpl"
        mov word [GDT + SLOT + 2], TR_A | 3
        ENDTASK
        TASK_CHECK "absent tss"
        and byte [GDT + TR_A + 5], 0x7F
        ENDTASK
        TASK_CHECK "tss with limit 66h"
        mov byte [GDT + TR_A], 0x66
        ENDTASK
        TASK_CHECK "16-bit tss with limit 2Ah"
        mov byte [GDT + TR_A], 0x2A
        mov byte [GDT + TR_A + 5], 0x81
        ENDTASK
%macro TASK_FIELD 3                     ; name, offset, value
        TASK_CHECK %1
        mov word [TSS_A + %2], %3
        ENDTASK
%endmacro
%macro TASK_DESCRIPTOR 4                ; name, offset, access, rpl
        TASK_CHECK %1
        DESC GDT + SLOT2, 0, 0xFFFFF, %3, 0xC
        mov word [TSS_A + %2], SLOT2 | %4
        ENDTASK
%endmacro
%define T_LDT 0x60
%define T_CS 0x4C
%define T_SS 0x50
%define T_DS 0x54
%define T_ES 0x48
%define T_FS 0x58
%define T_GS 0x5C
        TASK_FIELD "null ldt", T_LDT, 0
        TASK_FIELD "local ldt", T_LDT, 0xC
        TASK_FIELD "ldt beyond the table", T_LDT, 0x1000
        TASK_FIELD "ldt of another type", T_LDT, TR_B
        TASK_FIELD "ldt is a segment", T_LDT, DATA0
        TASK_DESCRIPTOR "absent ldt", T_LDT, 0x02, 0
        TASK_DESCRIPTOR "ldt with an rpl", T_LDT, 0x82, 3
        TASK_FIELD "null cs", T_CS, 0
        TASK_CHECK "null cs of rpl 3"
        mov word [TSS_A + T_CS], 3
        mov word [TSS_A + T_SS], DATA3
        ENDTASK
        TASK_FIELD "cs beyond the table", T_CS, 0x1000
        TASK_FIELD "cs is data", T_CS, DATA0
        TASK_FIELD "cs is a gate", T_CS, SLOT
        TASK_DESCRIPTOR "absent cs", T_CS, 0x1B, 0
        TASK_DESCRIPTOR "cs not accessed", T_CS, 0x9A, 0
        TASK_DESCRIPTOR "cs of level 1 with rpl 0", T_CS, 0xBB, 0
        TASK_DESCRIPTOR "cs of level 0 with rpl 1", T_CS, 0x9B, 1
        TASK_DESCRIPTOR "conforming cs of level 1 with rpl 0", T_CS, 0xBF, 0
        TASK_DESCRIPTOR "conforming cs of level 0 with rpl 1", T_CS, 0x9F, 1
        TASK_FIELD "null ss", T_SS, 0
        TASK_FIELD "ss beyond the table", T_SS, 0x1000
        TASK_FIELD "ss is code", T_SS, CODE0
        TASK_DESCRIPTOR "read-only ss", T_SS, 0x91, 0
        TASK_DESCRIPTOR "absent ss", T_SS, 0x13, 0
        TASK_DESCRIPTOR "ss of level 1", T_SS, 0xB3, 0
        TASK_DESCRIPTOR "ss of rpl 1", T_SS, 0x93, 1
        TASK_FIELD "null ds", T_DS, 0
        TASK_FIELD "ds beyond the table", T_DS, 0x1000
        TASK_FIELD "ds is a tss", T_DS, TR_B
        TASK_DESCRIPTOR "execute-only ds", T_DS, 0x99, 0
        TASK_DESCRIPTOR "ds of rpl 3 and level 0", T_DS, 0x93, 3
        TASK_DESCRIPTOR "conforming ds of rpl 3 and level 0", T_DS, 0x9F, 3
        TASK_DESCRIPTOR "absent ds", T_DS, 0x13, 0
        TASK_DESCRIPTOR "absent es", T_ES, 0x13, 0
        TASK_DESCRIPTOR "absent fs", T_FS, 0x13, 0
        TASK_DESCRIPTOR "absent gs", T_GS, 0x13, 0
        TASK_DESCRIPTOR "gs not accessed", T_GS, 0x92, 0
        TASK_CHECK "eip beyond the limit"
        DESC GDT + SLOT2, 0, 0x100, 0x9B, 4
        mov dword [TSS_A + T_CS], SLOT2
        ENDTASK
        TASK_CHECK "segment in the new task's local table"
        DESC GDT + SLOT2, DATA + 0x800, 0xFF, 0x82, 0
        DESC DATA + 0x808, DATA, 0xFFFF, 0x92, 4
        mov word [TSS_A + T_LDT], SLOT2
        mov word [TSS_A + T_GS], 0xC
        mov word [TSS_A + T_FS], 0xC
        call SLOT:0
        ENDCHECK DATA + 0x808, 2, GDT + SLOT2, 2
        CHECK "old tss too small"
        HANDLERS
        TASK32 TSS_A, arrived, STACK_A
        DESC GDT + TR_B, TSS_B, 0x5E, 0x89, 0
        mov ax, TR_B
        ltr ax
        jmp TR_A:0
        ENDCHECK GDT + TR_A + 4, 1
        CHECK "iret, nested, to a null link"
        HANDLERS
        push dword 0x4002
        popfd
        iretd
        ENDCHECK
        CHECK "iret, nested, to a local link"
        HANDLERS
        mov word [TSS], TR_A | 4
        push dword 0x4002
        popfd
        iretd
        ENDCHECK
        CHECK "iret, nested, to an absent task"
        HANDLERS
        mov word [TSS], TR_A
        mov byte [GDT + TR_A + 5], 0x0B
        push dword 0x4002
        popfd
        iretd
        ENDCHECK
        CHECK "iret, nested, to a short task"
        HANDLERS
        mov word [TSS], TR_A
        mov byte [GDT + TR_A + 5], 0x8B
        mov byte [GDT + TR_A], 0x66
        push dword 0x4002
        popfd
        iretd
        ENDCHECK
        CHECK "iret, nested, at level 3"
        TASK32 TSS_A, arrived, STACK_A
        mov word [TSS], TR_A
        mov byte [GDT + TR_A + 5], 0x8B
        TORING 3, 0x4002
        iretd
        ENDCHECK GDT + TR + 4, 1, GDT + TR_A + 4, 1
        CHECK "jmp to itself"
        jmp TR:0
        ENDCHECK
        CHECK "double fault goes to a task"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 8
        and byte [IDT + 13 * 8 + 5], 0x7F
        TORING 3
        hlt
        ENDCHECK TSS + 0x20, 17, STACK_C - 4, 1
        CHECK "stack fault of level 0 goes to a task"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 8
        HANDLER 12
        DESC GDT + SLOT2, DATA, 0xFF, 0x93, 4
        push dword SLOT2
        pop ss
        mov esp, 0x102
        push eax
        ENDCHECK TSS + 0x20, 17, STACK_C - 4, 1
        CHECK "double fault by a stack that is gone"
        TASK32 TSS_C, handler_task, STACK_C
        HANDLER 8
        DESC GDT + SLOT2, DATA, 0xFF, 0x93, 4
        push dword SLOT2
        pop ss
        mov esp, 0x102
        ud2
        ENDCHECK TSS + 0x20, 17, STACK_C - 4, 1
        CHECK "triple fault"
        DESC GDT + SLOT2, DATA, 0xFF, 0x93, 4
        push dword SLOT2
        pop ss
        mov esp, 0x102
        ud2
        ENDCHECK
        FINISH
