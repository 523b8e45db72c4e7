; Two-level paging with PSE, PAE: rights, error codes, CR2, accessed and dirty bits, reserved bits, page-crossing accesses.
%include "frame.inc"
VARIABLE pde_rights
VARIABLE pte_rights
VARIABLE cpl
VARIABLE wp
VARIABLE case
VARIABLE bits_

DIRECTORY equ 0x20000
TABLE0  equ 0x21000                     ; the first 4 MiB, as they are
TABLE1  equ 0x22000                     ; 4 to 8 MiB
POINTERS equ 0x23000                    ; PAE
DIRECTORY_PAE equ 0x24000
TABLE_PAE0 equ 0x25000                  ; the first 2 MiB, as they are
TABLE_PAE1 equ 0x26000                  ; 4 to 6 MiB
FRAME   equ DATA                        ; what linear 4 MiB is mapped to
FRAME2  equ DATA + 0x1000
PAGE    equ 0x400000
SPARE   equ 0x30000                     ; a page that checks unmap

; Identity below 4 MiB (user, writable, accessed and dirty); PAGE and the page behind it on FRAME and FRAME2.
tables:
        pushad
        mov edi, DIRECTORY
        mov ecx, 0x7000 / 4
        xor eax, eax
        rep stosd
        mov dword [DIRECTORY], TABLE0 + 0x67
        mov dword [DIRECTORY + 4], TABLE1 + 7
        mov edi, TABLE0
        mov eax, 0x67
        mov ecx, 0x400
.next:  stosd
        add eax, 0x1000
        loop .next
        mov dword [TABLE1], FRAME + 7
        mov dword [TABLE1 + 4], FRAME2 + 7
        mov dword [POINTERS], DIRECTORY_PAE + 1
        mov dword [DIRECTORY_PAE], TABLE_PAE0 + 0x67
        mov dword [DIRECTORY_PAE + 0x10], TABLE_PAE1 + 7
        mov edi, TABLE_PAE0
        mov eax, 0x67
        mov ecx, 0x200
.pae:   stosd
        mov dword [edi], 0
        add edi, 4
        add eax, 0x1000
        loop .pae
        mov dword [TABLE_PAE1], FRAME + 7
        mov dword [TABLE_PAE1 + 8], FRAME2 + 7
        mov edi, FRAME
        mov eax, 0x30CD30CD             ; INT 30h
        mov ecx, 0x800
        rep stosd
        popad
        ret
%macro PAGING 0-1 DIRECTORY             ; CR3
        mov eax, %1
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, EAX0
%endmacro
%macro CR4 1
        mov eax, %1
        mov cr4, eax
%endmacro
; TASK tss, cr3, label: a task of level 0
%macro TASK 3
        mov dword [%1 + 0x1C], %2
        mov dword [%1 + 0x20], %3
        mov dword [%1 + 0x24], 2
        mov dword [%1 + 0x38], STACK0
        mov eax, DATA0
        mov dword [%1 + 0x48], eax
        mov dword [%1 + 0x4C], CODE0
        mov dword [%1 + 0x50], eax
        mov dword [%1 + 0x54], eax
%endmacro
%macro PAGED 1                          ; name
        CHECK %1
        call tables
%endmacro

guest:
; Rights of both levels, at level 0 and 3, with and without WP: read, write, fetch
%macro RIGHTS 2+
FOR cpl, 0, 3, 3
FOR wp, 0, 1, 1
FOR pde_rights, 1, 7, 2
FOR pte_rights, 0, 7, 1
        CHECK %1, cpl, wp, pde_rights, pte_rights
        call tables
        mov eax, [pde_rights]
        mov [DIRECTORY + 4], al
        mov eax, [pte_rights]
        mov [TABLE1], al
        mov eax, cr0
        mov ebx, [wp]
        shl ebx, 16
        or eax, ebx
        mov cr0, eax
        PAGING
        mov ebx, EBX0
        mov ecx, 0x11111111
        cmp dword [cpl], 0
        je %%go
        TORING 3
%%go:   %2
        ENDCHECK DIRECTORY + 4, 1, TABLE1, 1
NEXT
NEXT
NEXT
NEXT
%endmacro
        RIGHTS "read", mov ecx, [PAGE + 0x10]
        RIGHTS "write", mov [PAGE + 0x10], ecx
        RIGHTS "modify", add [PAGE + 0x10], ecx
        RIGHTS "fetch", jmp PAGE
        PAGED "absent table"
        mov byte [DIRECTORY + 4], 6
        PAGING
        mov ecx, [PAGE + 0x123]
        ENDCHECK DIRECTORY + 4, 1, TABLE1, 1
; Accesses that cross into a page with other rights
FOR pte_rights, 0, 7, 1
FOR case, 0xFFC, 0x1000, 1
%macro CROSSING 2+
        CHECK %1, pte_rights, case
        call tables
        mov eax, [pte_rights]
        mov [TABLE1 + 4], al
        PAGING
        mov ebx, [case]
        TORING 3
        %2
        ENDCHECK TABLE1, 2, FRAME + 0xFFC, 2
%endmacro
        CROSSING "crossing read", mov ecx, [ebx + PAGE]
        CROSSING "crossing write", mov [ebx + PAGE], ecx
        CROSSING "crossing modify", add [ebx + PAGE], ecx
        CROSSING "crossing word", mov [ebx + PAGE], cx
        CROSSING "crossing exchange", xchg [ebx + PAGE], ecx
NEXT
NEXT
        PAGED "instruction across a page that is absent"
        mov dword [TABLE1 + 4], 0
        mov dword [FRAME + 0xFFC], 0xB8909090
        PAGING
        jmp PAGE + 0xFFC
        ENDCHECK TABLE1, 2
        PAGED "push into an absent page"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        PAGING
        TORING 3
        mov esp, SPARE + 0x1000
        push eax
        ENDCHECK
        PAGED "pusha across an absent page"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        PAGING
        TORING 3
        mov esp, SPARE + 0x1010
        pushad
        ENDCHECK
        PAGED "enter across an absent page"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        PAGING
        TORING 3
        mov esp, SPARE + 0x1010
        enter 0x100, 0
        ENDCHECK
        PAGED "movs into an absent page"
        mov dword [TABLE1 + 4], 0
        PAGING
        TORING 3
        mov esi, FRAME
        mov edi, PAGE + 0xFF8
        mov ecx, 8
        rep movsd
        ENDCHECK TABLE1, 2
        PAGED "cmps of absent pages"
        mov dword [TABLE1 + 4], 0
        PAGING
        TORING 3
        mov esi, PAGE + 0xFFC
        mov edi, FRAME
        mov ecx, 8
        repe cmpsd
        ENDCHECK
        PAGED "descriptor table of a supervisor's page at level 3"
        mov byte [TABLE0 + 4], 0x63
        mov byte [TABLE0 + 8], 0x63
        mov byte [TABLE0 + 12], 0x63
        PAGING
        TORING 3
        mov ecx, DATA3
        mov fs, ecx
        mov ecx, [GDT]
        ENDCHECK
        PAGED "absent local table"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        DESC GDT + SLOT, SPARE, 0xFF, 0x82, 0
        PAGING
        mov ecx, SLOT
        lldt cx
        TORING 3
        mov ecx, 0xF
        mov fs, ecx
        ENDCHECK
        PAGED "absent local table, lar"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        DESC GDT + SLOT, SPARE, 0xFF, 0x82, 0
        PAGING
        mov ecx, SLOT
        lldt cx
        mov ecx, 0xF
        lar ecx, ecx
        ENDCHECK
        PAGED "absent tss, io bitmap"
        DESC GDT + SLOT, SPARE - 0x70, 0x1FF, 0x89, 0
        mov dword [SPARE - 0x70 + 4], STACK0
        mov dword [SPARE - 0x70 + 8], DATA0
        mov dword [SPARE - 0x70 + 0x64], 0x780000
        PAGING
        mov ecx, SLOT
        ltr cx
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        invlpg [SPARE]
        TORING 3
        in al, 0x80
        ENDCHECK
        PAGED "accessed bit of a descriptor in a read-only page, with wp"
        DESC LDT + 8, DATA, 0xFF, 0x92, 4
        DESC GDT + SLOT, SPARE, 0xFF, 0x82, 0
        DESC SPARE + 8, DATA, 0xFF, 0xF2, 4
        mov byte [TABLE0 + 4 * (SPARE >> 12)], 0x25
        mov eax, cr0
        or eax, 0x10000
        mov cr0, eax
        PAGING
        mov ecx, SLOT
        lldt cx
        mov ecx, 0xF
        mov fs, ecx
        ENDCHECK SPARE + 8, 2
        PAGED "event onto an absent stack"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        TASK TSS_C, DIRECTORY, .df
        GATE_AT IDT + 8 * 8, TR_C, 0, 0x85, 0
        mov dword [TSS + 4], SPARE + 0x1000
        PAGING
        TORING 3
        mov ecx, [PAGE + 0x2000]
        jmp .over
.df:    mov eax, cr2
        mov ecx, [esp]
        mov edx, cr3
.over:  ENDCHECK
        PAGED "page fault in the delivery of gp"
        mov dword [TABLE0 + 4 * (SPARE >> 12)], 0
        DESC GDT + SLOT, SPARE, 0xFF, 0x82, 0
        mov word [IDT + 13 * 8 + 2], 0xC
        PAGING
        mov ecx, SLOT
        lldt cx
        TORING 3
        hlt
        ENDCHECK STACK0 - 24, 6
        PAGED "np in the delivery of a page fault"
        and byte [IDT + 14 * 8 + 5], 0x7F
        PAGING
        TORING 3
        mov ecx, [PAGE + 0x2000]
        ENDCHECK
        PAGED "page fault in the delivery of a page fault, triple fault"
        mov dword [TABLE0 + 4 * (IDT >> 12)], 0
        PAGING
        TORING 3
        mov ecx, [PAGE + 0x2000]
        ENDCHECK
        PAGED "invlpg"
        PAGING
        mov ecx, [PAGE]
        mov dword [TABLE1], FRAME2 + 7
        mov dword [FRAME2], 0x22222222
        invlpg [PAGE]
        mov edx, [PAGE]
        ENDCHECK
        PAGED "cr3"
        PAGING
        mov ecx, [PAGE]
        mov dword [TABLE1], FRAME2 + 7
        mov dword [FRAME2], 0x22222222
        mov eax, DIRECTORY + 0x18
        mov cr3, eax
        mov eax, cr3
        mov edx, [PAGE]
        ENDCHECK
        PAGED "global page and cr4"
        CR4 0x80
        mov dword [TABLE1], FRAME + 0x107
        PAGING
        mov ecx, [PAGE]
        mov dword [TABLE1], FRAME2 + 7
        mov dword [FRAME2], 0x22222222
        CR4 0
        mov edx, [PAGE]
        ENDCHECK
        PAGED "virtual-8086 mode is level 3"
        mov byte [TABLE0 + 4 * (SPARE >> 12)], 0x63
        PAGING
        TOVM 0x3000
        mov bx, SPARE >> 4
        mov ds, bx
        mov cx, [0]
        ENDCHECK

; 4 MiB pages
%macro BIG 2                            ; name, entry
        PAGED %1
        mov dword [DIRECTORY + 4], %2
        CR4 0x10
        PAGING
        mov ecx, [PAGE + FRAME]
        mov [PAGE + FRAME + 4], ecx
        ENDCHECK DIRECTORY + 4, 1
%endmacro
        BIG "4 MiB page", 0x00000087
        BIG "4 MiB page of the supervisor", 0x00000083
        BIG "4 MiB page, read-only", 0x00000085
        BIG "4 MiB page, dirty", 0x000000E7
        BIG "4 MiB page, pat", 0x00001087
        BIG "4 MiB page, bit 21", 0x00200087
        PAGED "4 MiB page at level 3"
        mov dword [DIRECTORY + 4], 0x83
        CR4 0x10
        PAGING
        TORING 3
        mov ecx, [PAGE + FRAME]
        ENDCHECK DIRECTORY + 4, 1
        PAGED "bit 7 without pse"
        or byte [DIRECTORY + 4], 0x80
        PAGING
        mov ecx, [PAGE]
        ENDCHECK DIRECTORY + 4, 1

; PAE
%macro PAE_PAGING 0
        CR4 0x30
        PAGING POINTERS
%endmacro
FOR cpl, 0, 3, 3
FOR pde_rights, 1, 7, 2
FOR pte_rights, 0, 7, 1
        CHECK "pae", cpl, pde_rights, pte_rights
        call tables
        mov eax, [pde_rights]
        mov [DIRECTORY_PAE + 0x10], al
        mov eax, [pte_rights]
        mov [TABLE_PAE1], al
        PAE_PAGING
        cmp dword [cpl], 0
        je .go
        TORING 3
.go:    mov ecx, [PAGE + 0x10]
        mov [PAGE + 0x10], ecx
        ENDCHECK DIRECTORY_PAE + 0x10, 2, TABLE_PAE1, 2
NEXT
NEXT
NEXT
FOR case, 0x14, 0x1F, 1
        mov ecx, [case]
        mov eax, 1
        shl eax, cl
        mov [bits_], eax
        CHECK "pae: reserved bit in the upper half of a pte", case
        call tables
        mov eax, [bits_]
        mov [TABLE_PAE1 + 4], eax
        PAE_PAGING
        mov ecx, [PAGE]
        ENDCHECK TABLE_PAE1, 2
        CHECK "pae: reserved bit in the upper half of a pde", case
        call tables
        mov eax, [bits_]
        mov [DIRECTORY_PAE + 0x14], eax
        PAE_PAGING
        mov ecx, [PAGE]
        ENDCHECK DIRECTORY_PAE + 0x10, 2
        CHECK "pae: reserved bit of an absent pte", case
        call tables
        mov eax, [bits_]
        mov [TABLE_PAE1 + 4], eax
        mov byte [TABLE_PAE1], 6
        PAE_PAGING
        mov ecx, [PAGE]
        ENDCHECK
NEXT
FOR case, 1, 12, 1
        mov ecx, [case]
        mov eax, 1
        shl eax, cl
        mov [bits_], eax
        CHECK "pae: bit of a pdpte", case
        call tables
        mov eax, [bits_]
        or [POINTERS], eax
        PAE_PAGING
        mov ecx, [PAGE]
        ENDCHECK POINTERS, 2
NEXT
        PAGED "pae: bit of an absent pdpte"
        mov dword [POINTERS + 8], 6
        PAE_PAGING
        mov ecx, [0x40000000]
        ENDCHECK POINTERS, 2
        PAGED "pae: mov cr3 with a reserved bit"
        PAE_PAGING
        mov eax, POINTERS + 0x20
        mov dword [POINTERS + 0x20], DIRECTORY_PAE + 1
        mov dword [POINTERS + 0x28], 3
        mov cr3, eax
        ENDCHECK
        PAGED "pae: pdptes are kept until cr3 is written"
        PAE_PAGING
        mov dword [POINTERS], 0
        invlpg [PAGE]
        mov ecx, [PAGE]
        ENDCHECK
        PAGED "pae: 2 MiB page"
        mov dword [DIRECTORY_PAE + 0x10], 0x87
        PAE_PAGING
        mov ecx, [PAGE + FRAME]
        mov [PAGE + FRAME + 4], ecx
        ENDCHECK DIRECTORY_PAE + 0x10, 2
FOR case, 12, 20, 1
        mov ecx, [case]
        mov eax, 1
        shl eax, cl
        mov [bits_], eax
        CHECK "pae: low bit of a 2 MiB page", case
        call tables
        mov eax, [bits_]
        or eax, 0x87
        mov [DIRECTORY_PAE + 0x10], eax
        PAE_PAGING
        mov ecx, [PAGE + FRAME]
        ENDCHECK DIRECTORY_PAE + 0x10, 2
NEXT
        PAGED "pae and a task switch"
        TASK TSS_A, POINTERS + 0x20, .task
        mov dword [POINTERS + 0x20], DIRECTORY_PAE + 1
        PAE_PAGING
        jmp TR_A:0
.task:  mov eax, cr3
        mov ecx, [PAGE]
        ENDCHECK
        FINISH
