; Single steps, breakpoints, the shadow of MOV SS, resume flag; double and triple faults; real mode, between modes.
%include "frame.inc"
VARIABLE case
VARIABLE size

%macro DR_ON 2                          ; address in DR0, DR7
        mov eax, %1
        mov dr0, eax
        mov eax, %2
        mov dr7, eax
        mov eax, EAX0
%endmacro
%macro TF_ON 0
        push dword 0x102
        popfd
%endmacro

bits 16
%macro REAL 0                           ; leave protected mode: real-address mode, CS BASE >> 4, SS:SP below it, IVT
        lidt [real_idtr]
        jmp CODE16:OFFSET(%%sixteen)
bits 16
%%sixteen:
        mov eax, DATA16
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov eax, cr0
        and al, 0xFE
        mov cr0, eax
        jmp (BASE >> 4):OFFSET(%%real)
%%real: xor eax, eax
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ax, 0x800
        mov ss, ax
        mov sp, 0x2000
        mov eax, EAX0
%endmacro
; An interrupt in real mode comes here, by a small stub that pushes its number: back to protected mode, and shown.
%macro REAL_STUB 1
real %+ %1:
        push word %1
        jmp near real_event
%endmacro
%assign i 0
%rep 17
        REAL_STUB i
%assign i i + 1
%endrep
        REAL_STUB 48
real_event:
        pushad
        push ds
        push es
        push ss
        push word 0
        pop ds
        ; The frame, 46 bytes, for the 32-bit side: segments, registers, number, IP, CS, flags.
        mov di, 0x700
        mov cx, 23
        mov bx, sp
.copy:  mov ax, [ss:bx]
        mov [di], ax
        add bx, 2
        add di, 2
        loop .copy
        mov ax, ss
        mov [0x740], ax
        mov [0x744], sp
        xor ax, ax
        mov ds, ax
        o32 lgdt [cs:OFFSET(first_gdtr)]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:show_real
bits 32
show_real:
        mov ax, DATA0
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov esp, [resume_esp]
        push dword 2
        popfd
        call space
        mov al, '{'
        call putc
        mov ebx, 0x700 + 6 + 32         ; number, ip, cs, flags
        mov ecx, 4
.next:  mov ax, [ebx]
        call hex16
        call space
        add ebx, 2
        loop .next
        mov ax, [0x740]
        call hex16
        mov al, ':'
        call putc
        mov eax, [0x744]
        add ax, 6 + 32 + 8
        call hex16
        mov al, '}'
        call putc
        mov ebp, 0x700 - 6
        DIFFERENT 40, EAX0, "eax"
        DIFFERENT 36, ECX0, "ecx"
        DIFFERENT 32, EDX0, "edx"
        DIFFERENT 28, EBX0, "ebx"
        DIFFERENT 20, EBP0, "ebp"
        DIFFERENT 16, ESI0, "esi"
        DIFFERENT 12, EDI0, "edi"
        mov ax, [0x704]
        call space
        call hex16
        mov ax, [0x702]
        call space
        call hex16
        cmp word [0x700 + 6 + 32], 1
        jne .no_debug
        mov eax, dr6
        call space
        call hex32
        xor eax, eax
        mov dr6, eax
.no_debug:
        call rebuild
        jmp [resume_eip]

set_ivt:
        xor edi, edi
        mov eax, OFFSET(real0) | ((BASE >> 4) << 16)
        mov ecx, 17
.next:  stosd
        add eax, real1 - real0
        loop .next
        mov dword [0x30 * 4], OFFSET(real48) | ((BASE >> 4) << 16)
        ret


guest:
        call set_ivt
; ---- single steps
        CHECK "tf over nops"
        AGAIN 3
        TF_ON
        nop
        nop
        nop
        ENDCHECK
        CHECK "tf over a branch, a call and a return"
        AGAIN 4
        TF_ON
        jmp .on
        nop
.on:    call .sub
        jmp .done
.sub:   ret
.done:  ENDCHECK
        CHECK "tf over rep"
        mov ecx, 3
        mov esi, DATA
        mov edi, DATA + 0x100
        AGAIN 4
        TF_ON
        rep movsb
        nop
        ENDCHECK
        CHECK "tf over rep with count 0"
        mov ecx, 0
        AGAIN 2
        TF_ON
        rep movsb
        nop
        ENDCHECK
        CHECK "tf over mov ss"
        mov ecx, DATA0
        AGAIN 2
        TF_ON
        mov ss, ecx
        nop
        nop
        ENDCHECK
        CHECK "tf over pop ss"
        push dword DATA0
        AGAIN 2
        TF_ON
        pop ss
        nop
        nop
        ENDCHECK
        CHECK "tf over mov ss twice"
        mov ecx, DATA0
        AGAIN 2
        TF_ON
        mov ss, ecx
        mov ss, ecx
        nop
        nop
        ENDCHECK
        CHECK "tf over lss"
        mov dword [DATA], STACK
        mov dword [DATA + 4], DATA0
        AGAIN 2
        TF_ON
        lss esp, [DATA]
        nop
        ENDCHECK
        CHECK "tf over sti"
        AGAIN 2
        TF_ON
        sti
        cli
        ENDCHECK
        CHECK "tf over mov fs"
        mov ecx, DATA3
        AGAIN 2
        TF_ON
        mov fs, ecx
        nop
        ENDCHECK
        CHECK "tf over int"
        GATE IDT + 0x31 * 8, CODE0, .handler, 0x8E, 0
        AGAIN 3
        TF_ON
        int 0x31
        nop
        nop
        jmp .over
.handler: iretd
.over:  ENDCHECK
        CHECK "tf over a fault"
        TF_ON
        ud2
        ENDCHECK
        CHECK "tf over popf that clears it"
        push dword 2
        AGAIN 3
        TF_ON
        popfd
        nop
        ENDCHECK
        CHECK "tf over iret"
        AGAIN 2
        push dword 0x102
        push dword CODE0
        push dword .there
        iretd
.there: nop
        nop
        ENDCHECK
        CHECK "tf over pushf"
        AGAIN 2
        TF_ON
        pushfd
        pop ecx
        ENDCHECK
        CHECK "tf into level 3"
        AGAIN 2
        TORING 3, 0x102
        nop
        nop
        ENDCHECK
        CHECK "tf and a call gate"
        GATE GDT + SLOT, CODE0, .inner, 0xEC, 0
        AGAIN 2
        TORING 3, 0x102
        call SLOT | 3:0
.inner: nop
        ENDCHECK
        CHECK "tf and enter, pusha, leave"
        AGAIN 4
        TF_ON
        pushad
        popad
        enter 8, 1
        leave
        ENDCHECK
        CHECK "tf and mov dr"
        AGAIN 2
        TF_ON
        mov ecx, dr7
        nop
        ENDCHECK
        CHECK "icebp"
        AGAIN 1
        db 0xF1
        nop
        ENDCHECK
        CHECK "icebp with tf"
        AGAIN 3
        TF_ON
        nop
        db 0xF1
        nop
        ENDCHECK
        CHECK "int3"
        AGAIN 1
        int3
        nop
        ENDCHECK
        CHECK "int3 with tf"
        AGAIN 3
        TF_ON
        nop
        int3
        nop
        ENDCHECK
        CHECK "int 3, long form"
        AGAIN 1
        db 0xCD, 3
        ENDCHECK
; ---- breakpoints
        CHECK "instruction breakpoint"
        DR_ON .here, 2
        nop
.here:  nop
        ENDCHECK
        CHECK "instruction breakpoint goes on"
        AGAIN 1
        DR_ON .here, 2
        nop
.here:  nop
        ENDCHECK
        CHECK "instruction breakpoint with rf"
        DR_ON .here, 2
        push dword 0x10002
        push dword CODE0
        push dword .here
        iretd
.here:  nop
        mov ecx, 1
        ENDCHECK
        CHECK "instruction breakpoint in a loop"
        AGAIN 3
        DR_ON .here, 2
        mov ecx, 3
.here:  loop .here
        ENDCHECK
        CHECK "instruction breakpoint on rep"
        AGAIN 4
        DR_ON .here, 2
        mov ecx, 3
        mov esi, DATA
        mov edi, DATA + 0x100
.here:  rep movsb
        ENDCHECK
        CHECK "instruction breakpoint within an instruction"
        DR_ON .here + 1, 2
.here:  mov ecx, 1
        ENDCHECK
        CHECK "instruction breakpoint on a prefix"
        DR_ON .here, 2
.here:  db 0x3E
        nop
        ENDCHECK
        CHECK "instruction breakpoint on a fault"
        AGAIN 1
        DR_ON .here, 2
.here:  ud2
        ENDCHECK
        CHECK "instruction breakpoint after mov ss"
        AGAIN 1
        DR_ON .here, 2
        mov ecx, DATA0
        mov ss, ecx
.here:  nop
        nop
        ENDCHECK
        CHECK "tf and an instruction breakpoint"
        AGAIN 4
        DR_ON .here, 2
        TF_ON
        nop
.here:  nop
        nop
        ENDCHECK
        CHECK "disabled instruction breakpoint"
        DR_ON .here, 0
.here:  nop
        ENDCHECK
        CHECK "match of a disabled one with an enabled one"
        AGAIN 1
        mov eax, .here
        mov dr3, eax
        DR_ON .here, 2
.here:  nop
        ENDCHECK
        CHECK "four breakpoints"
        AGAIN 1
        mov eax, .here
        mov dr1, eax
        mov dr2, eax
        mov dr3, eax
        DR_ON .here, 0xFF
.here:  nop
        ENDCHECK
        CHECK "instruction breakpoint with a length"
        DR_ON .here, 0x00040002
.here:  nop
        ENDCHECK
        CHECK "breakpoint on a data write"
        AGAIN 1
        DR_ON DATA, 0x000D0002
        mov [DATA], ecx
        nop
        ENDCHECK
        CHECK "breakpoint on a data write does not see reads"
        DR_ON DATA, 0x000D0002
        mov ecx, [DATA]
        nop
        ENDCHECK
        CHECK "breakpoint on reads and writes"
        AGAIN 3
        DR_ON DATA, 0x000F0002
        mov [DATA], ecx
        mov ecx, [DATA]
        inc dword [DATA]
        nop
        ENDCHECK
FOR size, 0, 3, 1
FOR case, 0, 9, 1
        CHECK "data breakpoint of size, at", size, case
        mov eax, DATA + 4
        mov dr0, eax
        mov eax, [size]
        shl eax, 18
        or eax, 0x00030002
        mov dr7, eax
        mov ecx, [case]
        mov eax, EAX0
        AGAIN 3
        mov al, [DATA + ecx]
        mov ax, [DATA + ecx]
        mov eax, [DATA + ecx]
        mov eax, EAX0
        ENDCHECK
NEXT
NEXT
        CHECK "data breakpoint on push, pop, call, pusha"
        AGAIN 5
        DR_ON STACK3 - 4, 0x000F0002
        TORING 3
        push ecx
        pop ecx
        call .next
.next:  pop ecx
        pushad
        nop
        ENDCHECK
        CHECK "data breakpoint in rep"
        AGAIN 2
        DR_ON DATA + 2, 0x00030002
        mov edi, DATA
        mov ecx, 5
        rep stosb
        nop
        ENDCHECK
        CHECK "data breakpoint and mov ss"
        AGAIN 2
        mov dword [DATA], DATA0
        DR_ON DATA, 0x000F0002
        mov ss, [DATA]
        nop
        nop
        ENDCHECK
        CHECK "data breakpoint and tf"
        AGAIN 2
        DR_ON DATA, 0x000F0002
        TF_ON
        mov ecx, [DATA]
        nop
        ENDCHECK
        CHECK "data breakpoint of an instruction that faults"
        DR_ON DATA, 0x000F0002
        xor edx, edx
        mov dword [DATA], 0
        div dword [DATA]
        ENDCHECK
        CHECK "data breakpoint on a frame"
        AGAIN 1
        DR_ON STACK0 - 4, 0x000F0002
        TORING 3
        int 0x30
        ENDCHECK
        CHECK "data breakpoint and a segment base"
        DESC GDT + SLOT, DATA, 0xFF, 0x93, 4
        mov ecx, SLOT
        mov fs, ecx
        AGAIN 1
        DR_ON DATA + 8, 0x000F0002
        mov ecx, [fs:8]
        nop
        ENDCHECK
        CHECK "i/o breakpoint"
        mov ecx, 8
        mov cr4, ecx
        AGAIN 3
        DR_ON 0x2F0, 0x00020002
        mov edx, 0x2F0
        out dx, al
        dec edx
        out dx, al
        out dx, ax
        nop
        ENDCHECK
        CHECK "i/o breakpoint without de"
        DR_ON 0x2F0, 0x00020002
        mov edx, 0x2F0
        out dx, al
        nop
        ENDCHECK
        CHECK "i/o breakpoint on rep outsb"
        mov ecx, 8
        mov cr4, ecx
        AGAIN 4
        DR_ON 0x2F0, 0x00020002
        mov edx, 0x2F0
        mov esi, DATA
        mov ecx, 3
        rep outsb
        nop
        ENDCHECK
        CHECK "gd"
        mov eax, 0x2000
        mov dr7, eax
        mov ecx, dr0
        ENDCHECK
        CHECK "gd is clear in the handler"
        AGAIN 2
        mov eax, 0x2000
        mov dr7, eax
        mov ecx, dr7
        mov dr7, eax
        mov dr3, eax
        mov ecx, dr7
        ENDCHECK
        CHECK "dr4 with and without de"
        mov ecx, dr4
        mov edx, dr5
        mov eax, 8
        mov cr4, eax
        mov eax, EAX0
        mov ebx, dr4
        ENDCHECK
        CHECK "fixed bits of dr6 and dr7"
        mov eax, 0xFFFFFFFF
        mov dr6, eax
        mov ecx, dr6
        mov eax, 0xFFFF23FF & ~0x2000
        mov dr7, eax
        mov edx, dr7
        xor eax, eax
        mov dr7, eax
        mov ebx, dr7
        mov dr6, eax
        mov eax, dr6
        ENDCHECK

; ---- double faults, triple faults
        CHECK "double fault: gp in gp"
        mov byte [IDT + 13 * 8 + 5], 0
        TORING 3
        hlt
        ENDCHECK STACK0 - 24, 6
        CHECK "double fault: np in gp"
        and byte [IDT + 13 * 8 + 5], 0x7F
        mov ecx, 0xFFF8
        mov fs, ecx
        ENDCHECK
        CHECK "no double fault: np in ud"
        and byte [IDT + 6 * 8 + 5], 0x7F
        ud2
        ENDCHECK
        CHECK "double fault: gp in de"
        mov byte [IDT + 5], 0
        xor ecx, ecx
        div ecx
        ENDCHECK
        CHECK "no double fault: gp in br"
        mov byte [IDT + 5 * 8 + 5], 0
        mov ecx, 9
        mov dword [DATA], 1
        mov dword [DATA + 4], 2
        bound ecx, [DATA]
        ENDCHECK
        CHECK "gp in int n carries no ext"
        mov byte [IDT + 0x31 * 8 + 5], 0
        int 0x31
        ENDCHECK
        CHECK "gp in icebp"
        mov byte [IDT + 1 * 8 + 5], 0
        db 0xF1
        ENDCHECK
        CHECK "gp in int3"
        mov byte [IDT + 3 * 8 + 5], 0
        int3
        ENDCHECK
        CHECK "gp in a single step"
        mov byte [IDT + 1 * 8 + 5], 0
        TF_ON
        nop
        nop
        ENDCHECK
        CHECK "triple fault by a short table"
        lidt [.short]
        ud2
.short: dw 0, 0, 0
        ENDCHECK
        CHECK "triple fault: df's gate is bad"
        mov byte [IDT + 8 * 8 + 5], 0
        mov byte [IDT + 13 * 8 + 5], 0
        TORING 3
        hlt
        ENDCHECK
        CHECK "gp of df's handler alone is no triple fault"
        mov byte [IDT + 13 * 8 + 5], 0
        GATE IDT + 8 * 8, CODE0, .df, 0x8E, 0
        TORING 3
        hlt
.df:    GATE IDT + 13 * 8, CODE0, stub13, 0x8E, 0
        mov ecx, 0xFFF8
        mov fs, ecx
        ENDCHECK

; ---- real mode
%macro REALCHECK 1
        CHECK %1
        REAL
%endmacro
        REALCHECK "real: int 30"
        ENDCHECK
        REALCHECK "real: divide"
        xor cx, cx
        div cx
        ENDCHECK
        REALCHECK "real: bound"
        mov dword [0x7F0], 0x00020001
        mov ax, 3
        bound ax, [0x7F0]
        ENDCHECK
        REALCHECK "real: ud2"
        ud2
        ENDCHECK
        REALCHECK "real: word at ffff"
        mov ax, [0xFFFF]
        ENDCHECK
        REALCHECK "real: double at fffe"
        mov eax, [0xFFFE]
        ENDCHECK
        REALCHECK "real: les at fffe"
        mov bx, 0xFFFE
        les ax, [bx]
        ENDCHECK
        REALCHECK "real: les at fffd"
        les ax, [0xFFFD]
        ENDCHECK
        REALCHECK "real: beyond 64 KiB"
        mov eax, [dword 0x10000]
        ENDCHECK
        REALCHECK "real: stack at sp 1"
        mov sp, 1
        push ax
        ENDCHECK
        REALCHECK "real: stack wraps at sp 0"
        mov sp, 0
        push ax
        mov bx, sp
        mov sp, 0x1000
        ENDCHECK
        REALCHECK "real: bp at ffff"
        mov bp, 0xFFFF
        mov ax, [bp]
        ENDCHECK
        REALCHECK "real: jump beyond the limit"
        jmp dword (BASE >> 4):0x12345
        ENDCHECK
        REALCHECK "real: near jump beyond the limit"
        mov eax, 0x12345
        jmp eax
        ENDCHECK
        REALCHECK "real: lar"
        lar ax, ax
        ENDCHECK
        REALCHECK "real: verr"
        verr ax
        ENDCHECK
        REALCHECK "real: arpl"
        arpl ax, ax
        ENDCHECK
        REALCHECK "real: lldt"
        lldt ax
        ENDCHECK
        REALCHECK "real: ltr"
        ltr ax
        ENDCHECK
        REALCHECK "real: sldt"
        sldt ax
        ENDCHECK
        REALCHECK "real: str"
        str ax
        ENDCHECK
        REALCHECK "real: mov cs"
        db 0x8E, 0xC8
        ENDCHECK
        REALCHECK "real: sixteen bytes"
        times 15 db 0x3E
        nop
        ENDCHECK
        REALCHECK "real: lock"
        db 0xF0, 0x90
        ENDCHECK
        REALCHECK "real: sysenter"
        sysenter
        ENDCHECK
        REALCHECK "real: sysexit"
        sysexit
        ENDCHECK
        REALCHECK "real: sgdt, sidt"
        o32 lgdt [cs:OFFSET(.table)]
        sgdt [0x7E0]
        sidt [0x7E8]
        mov eax, [0x7E0]
        mov ebx, [0x7E4]
        mov ecx, [0x7E8]
        jmp .over
.table: dw 0x1234
        dd 0x89ABCDEF
.over:  ENDCHECK
        REALCHECK "real: 16-bit lgdt"
        o16 lgdt [cs:OFFSET(.table)]
        sgdt [0x7E0]
        mov eax, [0x7E0]
        mov ebx, [0x7E4]
        jmp .over
.table: dw 0x1234
        dd 0x89ABCDEF
.over:  ENDCHECK
        REALCHECK "real: flags of popfd"
        push dword 0x003D7ED7 & ~0x100
        popfd
        pushfd
        pop ecx
        ENDCHECK
        REALCHECK "real: flags of iretd"
        push dword 0x003F7ED7 & ~0x100
        push dword BASE >> 4
        push dword OFFSET(.there)
        iretd
.there: pushfd
        pop ecx
        ENDCHECK
        REALCHECK "real: int clears if, tf, ac"
        push dword 0x00247ED7 & ~0x100
        popfd
        ENDCHECK
        REALCHECK "real: tf"
        push word 0x102
        popf
        nop
        ENDCHECK
        REALCHECK "real: tf and mov ss"
        mov ax, 0x800
        push word 0x102
        popf
        mov ss, ax
        nop
        nop
        ENDCHECK
        REALCHECK "real: instruction breakpoint"
        mov eax, BASE + OFFSET(.here)
        mov dr0, eax
        mov eax, 2
        mov dr7, eax
.here:  nop
        ENDCHECK
        REALCHECK "real: short interrupt table"
        o32 lidt [cs:OFFSET(.table)]
        int 0x30
.table: dw 0x30 * 4 + 2
        dd 0
        ENDCHECK
        REALCHECK "real: interrupt table elsewhere"
        mov dword [0x7F8], OFFSET(real48) | ((BASE >> 4) << 16)
        o32 lidt [cs:OFFSET(.table)]
        mov bx, 0x1234
        int 0x30
.table: dw 0x3FF
        dd 0x7F8 - 0x30 * 4
        ENDCHECK
        REALCHECK "real: triple fault"
        o32 lidt [cs:OFFSET(.table)]
        int 0x30
.table: dw 0, 0, 0
        ENDCHECK
        REALCHECK "real: a20 and the first 64 KiB above 1 MiB"
        mov ax, 0xFFFF
        mov es, ax
        mov dword [es:0x1000], 0x12345678
        mov ebx, [es:0x1000]
        mov ecx, [0xFF0]
        ENDCHECK
; ---- between modes
        REALCHECK "big real mode: 4 GiB segment stays"
        o32 lgdt [cs:OFFSET(first_gdtr)]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, DATA0
        mov fs, bx
        and al, 0xFE
        mov cr0, eax
        mov esi, 0x100000
        mov dword [fs:esi], 0x5A5AA5A5
        mov edx, [fs:esi]
        mov bx, 0x1234
        mov fs, bx
        mov dword [fs:esi + 0x100], 0x77777777
        mov ebx, [fs:esi + 0x100]
        ENDCHECK 0x112440, 1
        REALCHECK "big real mode: read-only segment stays"
        o32 lgdt [cs:OFFSET(.table)]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, 8
        mov fs, bx
        and al, 0xFE
        mov cr0, eax
        mov bx, 0
        mov fs, bx
        mov ebx, [fs:0]
        mov [fs:0x7F0], ebx
        jmp .over
.table: dw 15
        dd .gdt
.gdt:   dd 0, 0, 0x0000FFFF, 0x00009100
.over:  ENDCHECK
        REALCHECK "protection on, segments of real mode still there"
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, ds
        mov ecx, [0x30 * 4]
        mov dx, cs
        mov ax, ss
        and eax, 0xFFFF
        push eax
        pop esi
        mov eax, cr0
        and al, 0xFE
        mov cr0, eax
        ENDCHECK
        REALCHECK "btx: selector 0 is no null segment before it is loaded"
        o32 lgdt [cs:OFFSET(first_gdtr)]
        mov dword [0x7F0], 0x87654321
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:.flat
bits 32
.flat:  mov eax, DATA0
        mov ss, ax
        mov esp, STACK
        push dword [0x7F0]
        pop ecx
        lidt [cs:idtr]
        lgdt [cs:gdtr]
        ENDCHECK
        REALCHECK "code with a base that is not selector * 16"
        mov eax, cr0
        or al, 1
        mov cr0, eax
        o32 lgdt [cs:OFFSET(gdtr)]
        jmp CODE16:OFFSET(.sixteen)
.sixteen: and al, 0xFE
        mov cr0, eax
        mov ax, cs
        mov bx, [cs:OFFSET(.word)]
        mov [cs:OFFSET(.word)], ax
        mov cx, [cs:OFFSET(.word)]
        jmp (BASE >> 4):OFFSET(.real)
.word:  dw 0x1357
.real:  ENDCHECK
        CHECK "protected, 16-bit: address arithmetic"
        TO16
        mov bx, 0xFFFF
        mov si, 2
        mov al, [bx + si]
        mov al, 0
        mov ax, [bx]
        ENDCHECK
        FINISH
