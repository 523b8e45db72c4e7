; Ways from compatibility mode into 64-bit code: events through 16-byte gates, call gates, far transfers, returns,
; SYSENTER; LDT and TSS descriptors.  What arrives there is recorded by 64-bit code, which x86-dm does not run:
; test_bochs.py does its work there.
%include "frame.inc"
VARIABLE type
VARIABLE dpl
VARIABLE bits_
VARIABLE cpl
VARIABLE case
VARIABLE present

PML4    equ 0x22000
POINTERS equ 0x23000
DIRECTORY equ 0x25000
IDT64   equ 0x28000
STACK_64 equ 0x2A000                    ; of level 0; 1 and 2 below it
STACK_IST equ 0x2C000                   ; the first; the others 100h apart
RECORD  equ 0x2F000                     ; vector, RSP, CS, SS, RFLAGS, eight quadwords of the stack
SCRATCH equ 0x2FF00
EFER    equ 0xC0000080
CODE64  equ 0x120                       ; selectors of the checks
CODE64_3 equ 0x128 | 3
SLOT64  equ 0x130                       ; 16 bytes
TSS64   equ 0x140                       ; 16 bytes
SEEN    equ 0x3F                        ; vector for what is no event

bits 64
align 16
handlers:
%assign i 0
%rep 0x40
    %if i = 0x32
        jmp near level_0
    %else
        mov byte [abs RECORD], i
        jmp near record
    %endif
        times 16 - ($ - handlers) % 16 db 0x90
%assign i i + 1
%endrep
record: mov [abs RECORD + 8], rsp
        mov rsi, rsp
        mov rsp, SCRATCH
        pushfq
        pop rax
        mov [abs RECORD + 32], rax
        mov word [abs RECORD + 16], cs
        mov word [abs RECORD + 24], ss
        mov rdi, RECORD + 40
        mov ecx, 8
        cld
        rep movsq
        test byte [abs RECORD + 16], 3
        jz level_0
        int 0x32
level_0: mov eax, DATA0
        mov ss, eax
        mov ds, eax
        mov es, eax
        mov esp, STACK
        jmp far dword [abs resume]
bits 32
resume: dd recorded
        dw CODE0
        db "HANDLERS"                   ; what test_bochs.py looks for
        dd handlers, recorded, RECORD

; In compatibility mode again: leave it, show the record.
recorded:
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        mov esp, [resume_esp]
        push dword 2
        popfd
        call space
        mov al, '<'
        call putc
        mov al, [RECORD]
        call hex8
        mov ax, [RECORD + 16]
        call space
        call hex16
        mov ax, [RECORD + 24]
        call space
        call hex16
        mov esi, RECORD + 8
        call quad
        mov esi, RECORD + 32
        mov ecx, 9
.next:  call quad
        loop .next
        mov al, '>'
        call putc
        cmp byte [RECORD], 14
        jne .end
        call space
        mov eax, cr2
        call hex32
.end:   jmp [resume_eip]
quad:   call space
        lodsd
        push eax
        lodsd
        test eax, eax
        jz .low
        call hex32
.low:   pop eax
        jmp hex32

; Tables; IA-32e mode; the TSS loaded.
enter:  mov ecx, EFER
        xor eax, eax
        xor edx, edx
        wrmsr
        mov edi, STACK_64 - 0x880
        mov ecx, (STACK_IST + 0x700 - (STACK_64 - 0x880)) / 4
        rep stosd
        mov dword [PML4], POINTERS + 7
        mov dword [POINTERS], DIRECTORY + 7
        mov dword [DIRECTORY], 0xE7
        mov dword [DIRECTORY + 8], 0x2000E7
        mov edi, IDT64
        mov eax, handlers
        mov ecx, 0x40
.gate:  mov edx, eax
        and edx, 0xFFFF
        or edx, CODE64 << 16
        mov [edi], edx
        mov edx, eax
        mov dx, 0xEE00
        cmp ecx, 0x10
        jbe .user
        mov dx, 0x8E00
.user:  mov [edi + 4], edx
        mov dword [edi + 8], 0
        add eax, 16
        add edi, 16
        loop .gate
        DESC GDT + CODE64, 0, 0, 0x9B, 2
        DESC GDT + (CODE64_3 & ~3), 0, 0, 0xFB, 2
        DESC GDT + TSS64, TSS, 0xFF, 0x89, 0
        mov edi, TSS
        xor eax, eax
        mov ecx, 0x68 / 4
        rep stosd
        mov dword [TSS + 4], STACK_64 + 8
        mov dword [TSS + 0x0C], STACK_64 - 0x400
        mov dword [TSS + 0x14], STACK_64 - 0x800
        mov eax, STACK_IST
        mov edi, TSS + 0x24
        mov ecx, 7
.ist:   mov [edi], eax
        add eax, 0x100
        add edi, 8
        loop .ist
        mov edi, RECORD
        mov ecx, 26
        xor eax, eax
        rep stosd
        mov ecx, EFER
        mov eax, 0x100
        xor edx, edx
        wrmsr
        mov eax, 0x30
        mov cr4, eax
        mov eax, PML4
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        lidt [.idtr]
        mov eax, TSS64
        ltr ax
        mov eax, EAX0
        mov ecx, ECX0
        mov edx, EDX0
        mov edi, EDI0
        ret
.idtr:  dw 0x3FF
        dd IDT64
pointer: dd handlers + SEEN * 16
        dw 0

%macro LONGCHECK 1-*
        CHECK %{1:-1}
        call enter
%endmacro
; Goes to level 3 where [cpl] is 3.
%macro AT_CPL 0
        cmp dword [cpl], 0
        je %%there
        TORING 3
%%there:
%endmacro

guest:
FOR cpl, 0, 3, 3
        LONGCHECK "int", cpl
        AT_CPL
        push dword 0x12345678
        int 0x31
        ENDCHECK
        LONGCHECK "ud2", cpl
        AT_CPL
        ud2
        ENDCHECK
        LONGCHECK "divide", cpl
        AT_CPL
        xor ecx, ecx
        div ecx
        ENDCHECK
        LONGCHECK "error code", cpl
        AT_CPL
        mov ecx, 0xFFF8
        mov fs, ecx
        ENDCHECK
        LONGCHECK "page fault", cpl
        AT_CPL
        mov ecx, [0x12345678]
        ENDCHECK
        LONGCHECK "int3", cpl
        AT_CPL
        int3
        ENDCHECK
        LONGCHECK "int1", cpl
        AT_CPL
        db 0xF1
        ENDCHECK
        LONGCHECK "overflow", cpl
        AT_CPL
        mov al, 0x7F
        inc al
        into
        ENDCHECK
        LONGCHECK "flags of the frame, and after a trap gate", cpl
        mov byte [IDT64 + 0x31 * 16 + 5], 0xEF
        AT_CPL
        push dword 0x246ED7 & ~0x4000
        popfd
        int 0x31
        ENDCHECK
        LONGCHECK "flags after an interrupt gate", cpl
        AT_CPL
        push dword 0x246FD7 & ~0x100
        popfd
        int 0x31
        ENDCHECK
        LONGCHECK "single step", cpl
        AT_CPL
        push dword 0x102
        popfd
        nop
        nop
        ENDCHECK
        LONGCHECK "idt limit", cpl
        lidt [.short]
        AT_CPL
        int 0x3F
.short: dw 0x3FE
        dd IDT64
        ENDCHECK
        LONGCHECK "tss too small for the stack", cpl
        mov word [GDT + TSS64], 0x2B
        mov byte [GDT + TSS64 + 5], 0x89
        mov eax, TSS64
        ltr ax
        mov byte [IDT64 + 0x31 * 16 + 4], 2
        AT_CPL
        int 0x31
        ENDCHECK
        LONGCHECK "double fault", cpl
        mov byte [IDT64 + 13 * 16 + 5], 0
        AT_CPL
        mov ecx, 0xFFF8
        mov fs, ecx
        ENDCHECK
        LONGCHECK "gate's segment is null", cpl
        mov word [IDT64 + 0x31 * 16 + 2], 3
        AT_CPL
        int 0x31
        ENDCHECK
        LONGCHECK "gate's segment beyond the table", cpl
        mov word [IDT64 + 0x31 * 16 + 2], 0x1000
        AT_CPL
        int 0x31
        ENDCHECK
FOR case, 0, 7, 1
        LONGCHECK "interrupt stack", cpl, case
        mov al, [case]
        mov [IDT64 + 0x31 * 16 + 4], al
        AT_CPL
        int 0x31
        ENDCHECK
        LONGCHECK "esp of any alignment", cpl, case
        AT_CPL
        sub esp, [case]
        sub esp, [case]
        int 0x31
        ENDCHECK
NEXT
FOR type, 0, 31, 1
FOR dpl, 0, 3, 3
FOR present, 0, 1, 1
        LONGCHECK "type of a gate", cpl, type, dpl, present
        mov eax, [present]
        shl eax, 2
        or eax, [dpl]
        shl eax, 5
        or eax, [type]
        mov [IDT64 + 0x31 * 16 + 5], al
        AT_CPL
        int 0x31
        ENDCHECK
NEXT
NEXT
NEXT
FOR type, 0x10, 0x1F, 1
FOR dpl, 0, 3, 3
FOR bits_, 0, 3, 1
%macro WITH_CODE 1
        LONGCHECK %1, cpl, type, dpl, bits_
        mov eax, [dpl]
        shl eax, 5
        or eax, [type]
        or eax, 0x80
        mov [GDT + SLOT64 + 5], al
        mov eax, [bits_]
        shl eax, 5
        or eax, 0x8F
        mov [GDT + SLOT64 + 6], al
        mov word [GDT + SLOT64], 0xFFFF
%endmacro
        WITH_CODE "handler's segment"
        mov word [IDT64 + 0x31 * 16 + 2], SLOT64
        AT_CPL
        int 0x31
        ENDCHECK GDT + SLOT64 + 4, 1
        WITH_CODE "far jmp"
        AT_CPL
        jmp SLOT64:handlers + SEEN * 16
        ENDCHECK GDT + SLOT64 + 4, 1
        WITH_CODE "far call"
        AT_CPL
        call SLOT64:handlers + SEEN * 16
        ENDCHECK
        WITH_CODE "far return"
        AT_CPL
        mov eax, [cpl]
        or eax, SLOT64
        push eax
        push dword handlers + SEEN * 16
        retf
        ENDCHECK
        WITH_CODE "call gate"
        GATE GDT + 0x150, SLOT64, handlers, 0xEC, 0
        add dword [GDT + 0x150], SEEN * 16
        AT_CPL
        call 0x150 | 3:0
        ENDCHECK
        WITH_CODE "jmp through a call gate"
        GATE GDT + 0x150, SLOT64, handlers, 0xEC, 0
        add dword [GDT + 0x150], SEEN * 16
        AT_CPL
        jmp 0x150 | 3:0
        ENDCHECK
NEXT
NEXT
NEXT
FOR type, 0, 15, 1
        LONGCHECK "call to a system descriptor", cpl, type
        GATE GDT + 0x150, CODE64, handlers, 0xE0, 0
        add dword [GDT + 0x150], SEEN * 16
        mov al, [type]
        or [GDT + 0x150 + 5], al
        AT_CPL
        call 0x150:0
        ENDCHECK
        LONGCHECK "upper half of a call gate", cpl, type
        GATE GDT + 0x150, CODE64, handlers, 0xEC, 0
        add dword [GDT + 0x150], SEEN * 16
        mov al, [type]
        mov [GDT + 0x15D], al
        AT_CPL
        call 0x150:0
        ENDCHECK
NEXT
FOR dpl, 0, 3, 1
        LONGCHECK "level of a call gate", cpl, dpl
        GATE GDT + 0x150, CODE64, handlers, 0x8C, 0
        add dword [GDT + 0x150], SEEN * 16
        mov eax, [dpl]
        shl eax, 5
        or [GDT + 0x150 + 5], al
        AT_CPL
        call 0x150:0
        ENDCHECK
NEXT
        LONGCHECK "sysenter", cpl
        mov ecx, 0x174
        mov eax, CODE64
        xor edx, edx
        wrmsr
        mov ecx, 0x175
        mov eax, STACK_64
        wrmsr
        mov ecx, 0x176
        mov eax, handlers + SEEN * 16
        wrmsr
        AT_CPL
        sysenter
        ENDCHECK
        LONGCHECK "syscall", cpl
        AT_CPL
        syscall
        ENDCHECK
        LONGCHECK "iret with nt", cpl
        AT_CPL
        push dword 0x4002
        popfd
        iretd
        ENDCHECK
NEXT
; Returns to an outer level: SS null or not
FOR cpl, 0, 3, 1
FOR case, 0, 5, 1
%macro OUTER 1
        LONGCHECK %1, cpl, case
        DESC GDT + SLOT64, 0, 0, 0x9A, 2
        mov eax, [cpl]
        shl eax, 5
        or [GDT + SLOT64 + 5], al
        mov eax, [case]
        mov eax, [stacks + eax * 4]
        cmp eax, 5
        jne %%known
        mov eax, [cpl]
        shl eax, 4
        add eax, DATA0
        or eax, [cpl]
%%known:
        push eax
        push dword 0x0002A55C
%endmacro
        OUTER "outer return"
        mov eax, [cpl]
        or eax, SLOT64
        push eax
        push dword handlers + SEEN * 16
        retf
        ENDCHECK
        OUTER "outer iret"
        push dword 0x23202
        mov eax, [cpl]
        or eax, SLOT64
        push eax
        push dword handlers + SEEN * 16
        iretd
        ENDCHECK
NEXT
NEXT
; LDT and TSS descriptors
FOR type, 0, 31, 1
        LONGCHECK "lldt", type
        DESC GDT + SLOT64, LDT, 0xFF, 0x80, 0
        mov al, [type]
        or [GDT + SLOT64 + 5], al
        mov eax, SLOT64
        lldt ax
        ENDCHECK
        LONGCHECK "ltr", type
        DESC GDT + SLOT64, TSS, 0xFF, 0x80, 0
        mov al, [type]
        or [GDT + SLOT64 + 5], al
        mov eax, SLOT64
        ltr ax
        ENDCHECK GDT + SLOT64 + 4, 1
        LONGCHECK "lldt, upper half", type
        DESC GDT + SLOT64, LDT, 0xFF, 0x82, 0
        mov al, [type]
        mov [GDT + SLOT64 + 13], al
        mov eax, SLOT64
        lldt ax
        ENDCHECK
        LONGCHECK "ltr, upper half", type
        DESC GDT + SLOT64, TSS, 0xFF, 0x89, 0
        mov al, [type]
        mov [GDT + SLOT64 + 13], al
        mov eax, SLOT64
        ltr ax
        ENDCHECK GDT + SLOT64 + 4, 1
NEXT
        LONGCHECK "lldt, base not canonical"
        DESC GDT + SLOT64, LDT, 0xFF, 0x82, 0
        mov dword [GDT + SLOT64 + 8], 0x8000
        mov eax, SLOT64
        lldt ax
        ENDCHECK
        LONGCHECK "lldt, high base"
        DESC GDT + SLOT64, LDT, 0xFF, 0x82, 0
        mov dword [GDT + SLOT64 + 8], 0xFFFF8000
        mov eax, SLOT64
        lldt ax
        sldt eax
        ENDCHECK
        LONGCHECK "ltr, base not canonical"
        DESC GDT + SLOT64, TSS, 0xFF, 0x89, 0
        mov dword [GDT + SLOT64 + 8], 0x8000
        mov eax, SLOT64
        ltr ax
        ENDCHECK GDT + SLOT64 + 4, 1
        LONGCHECK "lldt at the end of the table"
        DESC GDT + SLOT64, LDT, 0xFF, 0x82, 0
        lgdt [.gdtr]
        mov eax, SLOT64
        lldt ax
        jmp .over
.gdtr:  dw SLOT64 + 14
        dd GDT
.over:
        ENDCHECK
        jmp finish_guest
stacks: dd 0, 1, 2, 3, 5, DATA0
finish_guest:
        FINISH
