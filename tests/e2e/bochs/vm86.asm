; Virtual-8086 mode, with and without CR4.VME: entry, IOPL, redirection bitmap, events out of it, IRET in every form.
%include "frame.inc"
VARIABLE iopl
VARIABLE vme
VARIABLE flags_
VARIABLE case

VME equ 1
PVI equ 2
VIF equ 0x80000
VIP equ 0x100000

; Enters with IOPL [iopl], CR4 [vme] and the flags in [flags_].
%macro ENTERVM 0
        mov eax, [vme]
        mov cr4, eax
        push dword 0x4444
        push dword 0x3333
        push dword 0x1111
        push dword 0x2222
        push dword BASE >> 4
        push dword 0xFE00
        mov eax, [iopl]
        shl eax, 12
        or eax, 0x20002
        or eax, [flags_]
        push eax
        mov eax, EAX0
        push dword BASE >> 4
        push dword OFFSET(%%there)
        iretd
bits 16
%%there:
%endmacro
%macro VMCHECK 2                        ; name, instruction: over IOPL, VME and VIF/VIP
FOR vme, 0, 1, 1
FOR iopl, 0, 3, 1
FOR case, 0, 3, 1
        mov eax, [case]
        shl eax, 19                     ; VIF, VIP
        mov [flags_], eax
        CHECK %1, vme, iopl, flags_
        mov dword [BASE + 0xFDF0], 0x00010002
        mov dword [BASE + 0xFDF4], 0x00030201
        ENTERVM
        %2
        mov bx, sp
        ud2
        ENDCHECK BASE + 0xFDF8, 4
NEXT
NEXT
NEXT
%endmacro

%macro DO_POPF 0
        push word 0x7ED7
        popf
%endmacro
%macro DO_POPF_TF 0                     ; the trap comes after the next instruction
        push word 0x0102
        popf
        nop
%endmacro
%macro DO_POPFD 0
        push dword 0x3F7ED7
        popfd
%endmacro
%macro DO_IRET 0
        mov sp, OFFSET(frame16)
        iret
%endmacro
%macro DO_IRET_TF 0
        mov sp, OFFSET(frame16_tf)
        iret
%endmacro
%macro DO_IRETD 0
        mov sp, OFFSET(frame32)
        iretd
%endmacro
%macro DO_INT 0
        int 0x31
%endmacro
%macro DO_INT3 0
        int3
%endmacro
%macro DO_INTO 0
        mov al, 0x7F
        add al, 1
        into
%endmacro
%macro DO_INT1 0
        db 0xF1
%endmacro
%macro DO_STI 0
        sti
        nop
%endmacro

bits 16
vm_handler:                             ; of the virtual-8086 program's own vector table
        mov bx, 0x4321
        ud2
vm_iret: iret
vm_iretd: o32 iret
frame16: dw OFFSET(vm_landing), BASE >> 4, 0x7ED7
frame16_tf: dw OFFSET(vm_landing), BASE >> 4, 0x0302
frame32: dd OFFSET(vm_landing), BASE >> 4, 0x257ED7
vm_landing: ud2
bits 32

guest:
        mov dword [0x31 * 4], OFFSET(vm_handler) | ((BASE >> 4) << 16)
        mov dword [3 * 4], OFFSET(vm_handler) | ((BASE >> 4) << 16)
        mov dword [6 * 4], 0
        VMCHECK "cli", cli
        VMCHECK "sti", DO_STI
        VMCHECK "pushf", pushf
        VMCHECK "pushfd", pushfd
        VMCHECK "popf", DO_POPF
        VMCHECK "popf with tf", DO_POPF_TF
        VMCHECK "popfd", DO_POPFD
        VMCHECK "iret", DO_IRET
        VMCHECK "iret with tf", DO_IRET_TF
        VMCHECK "iretd", DO_IRETD
        VMCHECK "int, redirected", DO_INT
        VMCHECK "int3", DO_INT3
        VMCHECK "into", DO_INTO
        VMCHECK "int1", DO_INT1
FOR case, 0, 1, 1
FOR vme, 0, 1, 1
FOR iopl, 0, 3, 3
        mov dword [flags_], 0
        CHECK "int, to the monitor", case, vme, iopl
        mov byte [TSS + REDIRECTION + 6], 2     ; INT 31h
        GATE IDT + 0x31 * 8, CODE0, landing, 0xEE, 0
        cmp dword [case], 0
        je .enter
        GATE IDT + 0x31 * 8, CODE16, landing, 0xE6, 0
.enter: ENTERVM
        int 0x31
        ud2
        ENDCHECK STACK0 - 0x28, 10
NEXT
NEXT
        CHECK "redirection bitmap beyond the tss", vme
        mov word [TSS + 0x66], 0x800
        mov dword [iopl], 0
        mov dword [vme], 1
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "redirection without a bitmap: short tss"
        DESC GDT + SLOT2, TSS, 0x66, 0x89, 0
        mov ax, SLOT2
        ltr ax
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "redirection in a 16-bit tss"
        DESC GDT + SLOT2, TSS, 0xFF, 0x81, 0
        mov dword [TSS + 2], STACK0 | (DATA0 << 16)
        mov ax, SLOT2
        ltr ax
        ENTERVM
        int 0x31
        ENDCHECK
NEXT
        mov dword [vme], 0
        mov dword [iopl], 3
        CHECK "handler of level 1"
        GATE IDT + 0x31 * 8, CODE1, landing, 0xEE, 0
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "conforming handler"
        DESC GDT + SLOT2, 0, 0xFFFFF, 0x9F, 0xC
        GATE IDT + 0x31 * 8, SLOT2, landing, 0xEE, 0
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "gate of level 2"
        GATE IDT + 0x31 * 8, CODE0, landing, 0xCE, 0
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "fault through a trap gate with an error code"
        GATE IDT + 13 * 8, CODE0, landing, 0x8F, 0
        ENTERVM
        hlt
        ENDCHECK STACK0 - 0x28, 10
        CHECK "fault through a 16-bit gate"
        GATE IDT + 6 * 8, CODE16, landing, 0x86, 0
        ENTERVM
        ud2
        ENDCHECK STACK0 - 0x28, 10
        CHECK "fault whose stack is too small"
        DESC GDT + SLOT2, 0, 0xA000 - 5, 0x93, 4
        mov word [TSS + 8], SLOT2
        ENTERVM
        int 0x31
        ENDCHECK
        CHECK "back again"
        AGAIN 1
        ENTERVM
        mov ax, 0x5555
        mov ds, ax
        int 0x31
        mov bx, ds
        ud2
        ENDCHECK
%macro VM_FAULT 2+
        CHECK %1
        ENTERVM
        %2
        ud2
        ENDCHECK
%endmacro
        mov dword [iopl], 3
        VM_FAULT "vm: arpl", arpl ax, bx
        VM_FAULT "vm: lar", lar eax, bx
        VM_FAULT "vm: lsl", lsl eax, bx
        VM_FAULT "vm: verr", verr ax
        VM_FAULT "vm: verw", verw ax
        VM_FAULT "vm: lldt", lldt ax
        VM_FAULT "vm: sldt", sldt ax
        VM_FAULT "vm: ltr", ltr ax
        VM_FAULT "vm: str", str ax
        VM_FAULT "vm: hlt", hlt
        VM_FAULT "vm: lgdt", lgdt [bx]
        VM_FAULT "vm: mov cr0", mov eax, cr0
        VM_FAULT "vm: mov dr7", mov eax, dr7
        VM_FAULT "vm: clts", clts
        VM_FAULT "vm: smsw", smsw ax
        VM_FAULT "vm: invlpg", invlpg [bx]
        VM_FAULT "vm: rdmsr", rdmsr
        VM_FAULT "vm: in", in al, 0x80
        VM_FAULT "vm: mov cs", db 0x8E, 0xC8
        VM_FAULT "vm: read at ffff", mov ax, [0xFFFF]
        VM_FAULT "vm: read at 10000", mov ax, [dword 0x10000]
        VM_FAULT "vm: write to cs", mov [cs:0xFF00], ax
        VM_FAULT "vm: load ds", mov ds, ax
        VM_FAULT "vm: jmp far", jmp 0x1234:0x5678
        VM_FAULT "vm: jmp far beyond", jmp dword 0x1000:0x12345
        VM_FAULT "vm: sysexit", sysexit
        CHECK "vm: push at sp 1"
        ENTERVM
        mov sp, 1
        push ax
        ENDCHECK
        CHECK "vm: stack at ffff"
        ENTERVM
        mov sp, 0xFFFF
        pop ax
        ENDCHECK
        CHECK "vm: call far and back"
        ENTERVM
        call (BASE >> 4) - 1:OFFSET(.far) + 16
        mov bx, sp
        ud2
.far:   mov cx, cs
        retf
        ENDCHECK
        CHECK "vm: io bitmap"
        mov byte [TSS + IO_MAP + 0x1F], 0x40
        ENTERVM
        mov dx, 0xF8
        in al, dx
        mov dx, 0xFD
        mov ax, 0
        mov bx, 1
        in ax, dx
        ENDCHECK
        CHECK "iret to virtual-8086 mode beyond 64 KiB"
        times 4 push dword 0
        push dword 0
        push dword 0
        push dword 0x20002
        push dword 0x1000
        push dword 0x10000
        iretd
        ENDCHECK
        CHECK "iret to virtual-8086 mode, upper halves"
        push dword 0xAAAA4444
        push dword 0xBBBB3333
        push dword 0xCCCC1111
        push dword 0xDDDD2222
        push dword 0xEEEE1000
        push dword 0x1234FE00
        push dword 0x277ED7 & ~0x4000
        push dword 0xFFFF0000 | (BASE >> 4)
        push dword OFFSET(vm_landing)
        iretd
        ENDCHECK
        CHECK "iret to virtual-8086 mode from level 1"
        TORING 1, 0x3002
        push dword 0x23002
        push dword CODE1
        push dword landing
        iretd
        ENDCHECK
        CHECK "iret to virtual-8086 mode, stack too short"
        DESC GDT + SLOT2, STACK - 0x500, 0x40F, 0x93, 4
        push dword SLOT2
        pop ss
        mov dword [STACK - 0x100], OFFSET(vm_landing)
        mov dword [STACK - 0xFC], BASE >> 4
        mov dword [STACK - 0xF8], 0x20002
        mov esp, 0x400                  ; room for these, none for ESP, SS and the data segments
        iretd
        ENDCHECK
        CHECK "16-bit iret has no vm"
        push word 2
        push word CODE16
        push word OFFSET(landing)
        o16 iret
        ENDCHECK

; Protected-mode virtual interrupts
FOR iopl, 0, 3, 3
FOR case, 0, 3, 1
%macro PVI_CHECK 2+
        CHECK %1, iopl, case
        mov eax, PVI
        mov cr4, eax
        mov eax, [case]
        shl eax, 19
        mov ebx, [iopl]
        shl ebx, 12
        or ebx, eax
        or ebx, 2
        push dword DATA3
        push dword STACK3
        push dword ebx
        push dword CODE3
        push dword %%there
        mov eax, EAX0
        mov ebx, EBX0
        iretd
%%there:
        %2
        nop
        ENDCHECK
%endmacro
        PVI_CHECK "pvi: cli", cli
        PVI_CHECK "pvi: sti", sti
        PVI_CHECK "pvi: popf", popf
        PVI_CHECK "pvi: hlt", hlt
NEXT
NEXT
        jmp finish_guest
landing: int 0x30
finish_guest:
        FINISH
