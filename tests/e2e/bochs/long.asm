; PAE with NX, EFER, and compatibility mode under 4-level paging, as far as no event goes to 64-bit code.
%include "frame.inc"
VARIABLE pde_rights
VARIABLE pte_rights
VARIABLE cpl
VARIABLE case
VARIABLE type

PML4    equ 0x22000
POINTERS equ 0x23000                    ; of four levels
POINTERS_PAE equ 0x24000
DIRECTORY equ 0x25000
TABLE   equ 0x26000                     ; 4 to 6 MiB
PAGE    equ 0x400000
FRAME   equ DATA
EFER    equ 0xC0000080

; The first 4 MiB in two pages, as they are; PAGE on FRAME.
tables:
        pushad
        mov ecx, EFER
        xor eax, eax
        xor edx, edx
        wrmsr
        mov edi, PML4
        mov ecx, 0x5000 / 4
        xor eax, eax
        rep stosd
        mov dword [PML4], POINTERS + 7
        mov dword [POINTERS], DIRECTORY + 7
        mov dword [POINTERS_PAE], DIRECTORY + 1
        mov dword [DIRECTORY], 0xE7
        mov dword [DIRECTORY + 8], 0x2000E7
        mov dword [DIRECTORY + 0x10], TABLE + 7
        mov dword [TABLE], FRAME + 7
        mov dword [TABLE + 8], FRAME + 0x1007
        mov edi, FRAME
        mov eax, 0x30CD30CD             ; INT 30h
        mov ecx, 0x800
        rep stosd
        popad
        ret
%macro SET_EFER 1
        mov ecx, EFER
        mov eax, %1
        xor edx, edx
        wrmsr
%endmacro
%macro PAGING 1                         ; CR3
        mov eax, 0x30
        mov cr4, eax
        mov eax, %1
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
%endmacro
; Leaves IA-32e mode, in which an interrupt would go to 64-bit code.
%macro LEAVE 0
        mov ebx, cr0
        and ebx, 0x7FFFFFFF
        mov cr0, ebx
%endmacro

guest:
FOR cpl, 0, 3, 3
FOR pde_rights, 0, 1, 1
FOR pte_rights, 0, 1, 1
FOR case, 0, 2, 1
        CHECK "pae with nx", cpl, pde_rights, pte_rights, case
        call tables
        mov eax, [pde_rights]
        shl eax, 31
        mov [DIRECTORY + 0x14], eax
        mov eax, [pte_rights]
        shl eax, 31
        mov [TABLE + 4], eax
        SET_EFER 0x800
        PAGING POINTERS_PAE
        cmp dword [cpl], 0
        je .go
        TORING 3
.go:    cmp dword [case], 1
        jb .read
        je .write
        jmp PAGE + 0x10
.read:  mov ecx, [PAGE + 0x10]
        int 0x30
.write: mov [PAGE + 0x10], ecx
        ENDCHECK DIRECTORY + 0x10, 2, TABLE, 2
NEXT
NEXT
NEXT
NEXT
        CHECK "nx bit without nxe"
        call tables
        mov dword [TABLE + 4], 0x80000000
        PAGING POINTERS_PAE
        mov ecx, [PAGE]
        ENDCHECK
        CHECK "fetch from an absent page with nxe"
        call tables
        mov dword [TABLE], 6
        SET_EFER 0x800
        PAGING POINTERS_PAE
        jmp PAGE
        ENDCHECK
        CHECK "fetch from a supervisor's page with nxe"
        call tables
        mov dword [TABLE], FRAME + 3
        SET_EFER 0x800
        PAGING POINTERS_PAE
        TORING 3
        jmp PAGE
        ENDCHECK
FOR case, 0, 31, 1
        CHECK "efer bit", case
        call tables
        mov ecx, [case]
        mov eax, 1
        shl eax, cl
        mov ecx, EFER
        xor edx, edx
        wrmsr
        rdmsr
        ENDCHECK
NEXT
        CHECK "lme while paging"
        call tables
        PAGING POINTERS_PAE
        SET_EFER 0x100
        ENDCHECK
        CHECK "paging with lme and without pae"
        call tables
        SET_EFER 0x100
        mov eax, PML4
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ENDCHECK
        CHECK "lma comes and goes with paging"
        call tables
        SET_EFER 0x100
        PAGING PML4
        mov ecx, EFER
        rdmsr
        mov edi, eax
        LEAVE
        rdmsr
        ENDCHECK PML4, 1, POINTERS, 1, DIRECTORY, 1
        CHECK "compatibility mode: accesses"
        call tables
        SET_EFER 0x100
        PAGING PML4
        mov esi, [PAGE + 4]
        inc dword [PAGE + 8]
        push eax
        pop edi
        LEAVE
        ENDCHECK PML4, 2, POINTERS, 2, DIRECTORY + 0x10, 2, TABLE, 4, FRAME + 8, 1
        CHECK "compatibility mode: reading a page leaves it clean"
        call tables
        SET_EFER 0x100
        PAGING PML4
        mov esi, [PAGE + 0x1004]
        LEAVE
        ENDCHECK TABLE, 4
        CHECK "compatibility mode: 16-bit code, segments with a base"
        call tables
        SET_EFER 0x100
        PAGING PML4
        DESC GDT + SLOT, PAGE, 0xFF, 0x93, 4
        mov ecx, SLOT
        mov gs, ecx
        jmp CODE16:OFFSET(.sixteen)
bits 16
.sixteen: mov esi, [gs:0x10]
        mov bx, cs
        mov edi, [cs:OFFSET(.data)]
        jmp dword CODE0:.back
.data:  dd 0x12345678
bits 32
.back:  mov ax, DATA0
        mov gs, ax
        mov ebp, ebx
        LEAVE
        ENDCHECK GDT + SLOT, 2
        CHECK "compatibility mode: what is visible"
        call tables
        SET_EFER 0x100
        PAGING PML4
        mov eax, 0x23
        str cx
        sldt dx
        smsw si
        lar edi, eax
        mov ebp, cr3
        LEAVE
        ENDCHECK
; What LAR and LSL tell in IA-32e mode
FOR type, 0, 31, 1
        CHECK "compatibility mode: lar lsl verr verw", type
        call tables
        mov eax, [type]
        or eax, 0x80
        shl eax, 8
        or eax, 0x00C00000
        mov dword [GDT + SLOT], 0x1234
        mov [GDT + SLOT + 4], eax
        SET_EFER 0x100
        PAGING PML4
        mov eax, SLOT
        xor ecx, ecx
        xor edi, edi
        xor esi, esi
        lar esi, ax
        setz cl
        lsl edi, ax
        setz ch
        mov edx, ecx
        verr ax
        setz cl
        verw ax
        setz ch
        LEAVE
        ENDCHECK
NEXT
        CHECK "compatibility mode: lldt and ltr"
        call tables
        DESC GDT + SLOT, LDT, 0xFF, 0x82, 0
        mov dword [GDT + SLOT2], 0
        mov dword [GDT + SLOT2 + 4], 0
        DESC GDT + SLOT3, TSS, 0xAA, 0x89, 0
        mov dword [GDT + SLOT4], 0
        mov dword [GDT + SLOT4 + 4], 0
        DESC LDT + 8, DATA, 0xFFF, 0x92, 4
        mov dword [DATA + 0x20], 0x77665544
        SET_EFER 0x100
        PAGING PML4
        mov ecx, SLOT
        lldt cx
        mov ecx, SLOT3
        ltr cx
        mov ecx, 0xC
        mov gs, ecx
        mov esi, [gs:0x20]
        sldt ecx
        str edx
        mov edi, DATA0
        mov gs, edi
        LEAVE
        ENDCHECK GDT + SLOT, 8
        FINISH
