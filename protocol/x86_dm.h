/*
 * C client of the x86-dm wire protocol, version 3, on libzmq.
 *
 * Made by generate_c.py from the schema, the state table, x86_dm.in.h and the C core of dm/fast: edit those, not
 * x86_dm.h.
 *
 * One file includes it with X86_DM_IMPLEMENTATION defined; link with -lzmq -pthread.  C11 with GNU
 * extensions, Linux.
 *
 *     struct x86_dm_failure why;
 *     struct x86_dm *dm = x86_dm_connect("ipc:///run/x86-dm.sock", "vm1", 10000, &why);
 *     x86_dm_add_ram(dm, memfd, size, &block, &why);
 *     x86_dm_set_map(dm, regions, n, true, &why);
 *     struct x86_dm_vcpu *vcpu = x86_dm_create_vcpu(dm, 0, "p6", NULL, 0, &why);
 *     x86_dm_run(vcpu, &state, &how, &devices, &done, &why);         // the state is brought up to date
 *
 * Threads: a struct x86_dm may be used from any thread; a thread of its own keeps the session alive.  A vCPU belongs
 * to the thread that runs it; only x86_dm_kick() and x86_dm_wake() may be called from elsewhere, also from a signal
 * handler.  No thread of the library takes signals.  There are no globals, and nothing a daemon sends ends the process.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef X86_DM_H
#define X86_DM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ------------------------------------------------------------------------------------------- the schema */

struct x86_dm_blob {
    const uint8_t *data;
    uint32_t size; /* bytes */
};

#define X86_DM_VERSION 3u
#define X86_DM_OLDEST 1u
#define X86_DM_MAX_MESSAGE 1048576u
#define X86_DM_MAX_CONTROL 65536u
#define X86_DM_MAX_DATA 262144u
#define X86_DM_MAX_REGIONS 1024u
#define X86_DM_MAX_VCPUS 256u
#define X86_DM_MAX_RAM_BLOCKS 256u
#define X86_DM_MAX_PAGES 32768u
#define X86_DM_MAX_POSTED 8192u
#define X86_DM_MAX_PATCHES 2048u
#define X86_DM_MAX_PATCH_DATA 65536u
#define X86_DM_MAX_PORTS 256u

/* How a region of guest-physical memory answers; what no region covers is a hole and answers like mmio. */
enum x86_dm_kind {
    X86_DM_KIND_RAM,
    X86_DM_KIND_ROM,
    X86_DM_KIND_MMIO,
    X86_DM_KIND_COALESCED,
    X86_DM_KIND_HYPERVISOR,
    X86_DM_KIND_FIRMWARE,
};

/* Why the shim asks for emulation. After failure, invalid-state and mmio the daemon retires at least one instruction or REP iteration, or delivers one event, before it tests until. */
enum x86_dm_reason {
    X86_DM_REASON_REQUEST,
    X86_DM_REASON_REAL_MODE,
    X86_DM_REASON_INVALID_STATE,
    X86_DM_REASON_FAILURE,
    X86_DM_REASON_MMIO,
};

/* Who will run the state next; the run ends with enterable as soon as that one can take it. */
enum x86_dm_until {
    X86_DM_UNTIL_VMX,
    X86_DM_UNTIL_VMX_UG,
    X86_DM_UNTIL_VMX_RAW,
    X86_DM_UNTIL_SVM,
    X86_DM_UNTIL_SVM_RAW,
    X86_DM_UNTIL_PROTECTED,
    X86_DM_UNTIL_INSTRUCTIONS,
    X86_DM_UNTIL_NEVER,
};

/* What an io asks. report asks nothing: it only delivers posted writes and written pages. memory-read (since 2) asks for count bytes of block ram, which is carried in messages, from offset address on; it is not a device access. memory-copy (since 2): read an element at address, write it at target, advance both, count times. */
enum x86_dm_io_kind {
    X86_DM_IO_KIND_PORT_IN,
    X86_DM_IO_KIND_PORT_OUT,
    X86_DM_IO_KIND_MMIO_READ,
    X86_DM_IO_KIND_MMIO_WRITE,
    X86_DM_IO_KIND_MSR_READ,
    X86_DM_IO_KIND_MSR_WRITE,
    X86_DM_IO_KIND_INTERRUPT_ACK,
    X86_DM_IO_KIND_REPORT,
    X86_DM_IO_KIND_MEMORY_READ,
    X86_DM_IO_KIND_MEMORY_COPY,
};

/* What ends a run at the end of the current instruction. */
enum x86_dm_stop {
    X86_DM_STOP_NONE,
    X86_DM_STOP_KICK,
    X86_DM_STOP_RESET,
    X86_DM_STOP_INIT,
    X86_DM_STOP_NMI,
    X86_DM_STOP_SMI,
};

/* Why a run ended; always at an instruction (or REP iteration) boundary. */
enum x86_dm_done_reason {
    X86_DM_DONE_REASON_BUDGET,
    X86_DM_DONE_REASON_KICKED,
    X86_DM_DONE_REASON_STOPPED,
    X86_DM_DONE_REASON_ENTERABLE,
    X86_DM_DONE_REASON_HALT,
    X86_DM_DONE_REASON_SHUTDOWN,
    X86_DM_DONE_REASON_DEBUG,
    X86_DM_DONE_REASON_INTERRUPT_WINDOW,
    X86_DM_DONE_REASON_FIRMWARE,
    X86_DM_DONE_REASON_HYPERVISOR,
    X86_DM_DONE_REASON_UNSUPPORTED,
    X86_DM_DONE_REASON_MMIO_MISMATCH,
    X86_DM_DONE_REASON_MEMORY_LOST,
    X86_DM_DONE_REASON_PAGE_FAULT,
};

/* What was wrong with a request. */
enum x86_dm_error_class {
    X86_DM_ERROR_CLASS_BAD_MESSAGE,
    X86_DM_ERROR_CLASS_UNKNOWN_MESSAGE,
    X86_DM_ERROR_CLASS_TOO_LARGE,
    X86_DM_ERROR_CLASS_VERSION,
    X86_DM_ERROR_CLASS_UNKNOWN_SESSION,
    X86_DM_ERROR_CLASS_UNKNOWN_VCPU,
    X86_DM_ERROR_CLASS_STALE_EPOCH,
    X86_DM_ERROR_CLASS_STALE_SEQUENCE,
    X86_DM_ERROR_CLASS_UNKNOWN_BASE,
    X86_DM_ERROR_CLASS_BAD_GENERATION,
    X86_DM_ERROR_CLASS_BAD_MEMORY,
    X86_DM_ERROR_CLASS_BAD_STATE,
    X86_DM_ERROR_CLASS_BAD_ANSWER,
    X86_DM_ERROR_CLASS_LIMIT,
    X86_DM_ERROR_CLASS_BUSY,
    X86_DM_ERROR_CLASS_ABORTED,
    X86_DM_ERROR_CLASS_SESSION_LOST,
    X86_DM_ERROR_CLASS_SHUTTING_DOWN,
    X86_DM_ERROR_CLASS_INTERNAL,
};

/* One segment register with its hidden part; limit counts bytes, attributes are descriptor bits 40-55. */
struct x86_dm_segment {
    uint16_t selector; /* visible selector */
    uint64_t base; /* linear base address */
    uint32_t limit; /* limit in bytes (already scaled by G) */
    uint16_t attributes; /* type, S, DPL, P, AVL, L, D/B, G in descriptor order */
    uint8_t unusable; /* 1: loaded with a null selector, every access faults */
};

enum {
    X86_DM_SEG_ES = 0,
    X86_DM_SEG_CS = 1,
    X86_DM_SEG_SS = 2,
    X86_DM_SEG_DS = 3,
    X86_DM_SEG_FS = 4,
    X86_DM_SEG_GS = 5,
    X86_DM_SEG_LDTR = 6,
    X86_DM_SEG_TR = 7,
};

/* Everything architectural about one vCPU. */
struct x86_dm_state {
    uint64_t gpr[8]; /* RAX RCX RDX RBX RSP RBP RSI RDI */
    uint64_t rip; /* instruction pointer */
    uint64_t rflags; /* flags, bit 1 always set */
    struct x86_dm_segment seg[8]; /* ES CS SS DS FS GS LDTR TR */
    uint64_t gdtr_base; /* GDT linear base */
    uint16_t gdtr_limit; /* GDT limit in bytes */
    uint64_t idtr_base; /* IDT or IVT linear base */
    uint16_t idtr_limit; /* IDT or IVT limit in bytes */
    uint64_t cr0; /* CR0 */
    uint64_t cr2; /* page-fault linear address */
    uint64_t cr3; /* paging root */
    uint64_t cr4; /* CR4 */
    uint64_t cr8; /* task-priority register */
    uint64_t efer; /* EFER (MSR C0000080h) */
    uint64_t pdpte[4]; /* PAE page-directory-pointer entries as loaded by MOV CR3 */
    uint8_t cpl; /* current privilege level; never derived from a selector */
    uint64_t dr[4]; /* DR0-DR3 */
    uint64_t dr6; /* debug status */
    uint64_t dr7; /* debug control */
    uint64_t sysenter_cs; /* IA32_SYSENTER_CS (174h) */
    uint64_t sysenter_esp; /* IA32_SYSENTER_ESP (175h) */
    uint64_t sysenter_eip; /* IA32_SYSENTER_EIP (176h) */
    uint64_t star; /* STAR (C0000081h) */
    uint64_t lstar; /* LSTAR (C0000082h) */
    uint64_t cstar; /* CSTAR (C0000083h) */
    uint64_t fmask; /* SFMASK (C0000084h) */
    uint64_t kernel_gs_base; /* KERNEL_GS_BASE (C0000102h) */
    uint64_t tsc_aux; /* TSC_AUX (C0000103h) */
    uint64_t apic_base; /* IA32_APIC_BASE (1Bh) */
    uint64_t misc_enable; /* IA32_MISC_ENABLE (1A0h) */
    uint64_t debugctl; /* IA32_DEBUGCTL (1D9h) */
    uint64_t pat; /* IA32_PAT (277h) */
    uint64_t mtrr_def_type; /* IA32_MTRR_DEF_TYPE (2FFh) */
    uint64_t mtrr_fixed[11]; /* fixed-range MTRRs 250h, 258h-259h, 268h-26Fh */
    uint64_t mtrr_base[8]; /* variable-range MTRR bases 200h, 202h ... */
    uint64_t mtrr_mask[8]; /* variable-range MTRR masks 201h, 203h ... */
    uint64_t tsc; /* guest time-stamp counter at tsc_host */
    uint64_t tsc_host; /* host TSC at which tsc was valid; 0: virtual time */
    uint64_t tsc_scale; /* guest ticks per host tick, 32.32 fixed point */
    uint64_t tsc_offset; /* IA32_TSC_ADJUST-like offset of the hypervisor, carried only */
    uint8_t activity; /* Activity */
    uint8_t shadow; /* interrupt shadow: bit 0 STI, bit 1 MOV SS */
    uint8_t nmi_blocked; /* NMIs blocked until IRET */
    uint8_t nmi_pending; /* an NMI is pending */
    uint8_t smm; /* in system-management mode: such a CPU is never accepted */
    uint64_t pending_debug; /* VMX pending debug exceptions: B0-B3, bit 12, BS bit 14 */
    uint8_t inject_type; /* EventType of an event to deliver first; 255: none */
    uint8_t inject_vector; /* its vector */
    uint8_t inject_has_error; /* 1: it pushes inject_error */
    uint32_t inject_error; /* its error code */
    uint8_t inject_length; /* instruction length of a soft event */
    uint64_t inject_payload; /* CR2 or DR6 bits that its delivery sets */
    uint8_t inject_has_payload; /* 1: inject_payload is valid */
    uint8_t fxsave[512]; /* FXSAVE image (SDM vol. 2A, FXSAVE, table 3-43) */
};

/* State groups: bits of x86_dm_groups.present. */
enum {
    X86_DM_GROUP_GENERAL = 1 << 0,
    X86_DM_GROUP_SEGMENTS = 1 << 1,
    X86_DM_GROUP_TABLES = 1 << 2,
    X86_DM_GROUP_CONTROL = 1 << 3,
    X86_DM_GROUP_DEBUG = 1 << 4,
    X86_DM_GROUP_MSRS = 1 << 5,
    X86_DM_GROUP_TIME = 1 << 6,
    X86_DM_GROUP_EVENTS = 1 << 7,
    X86_DM_GROUP_FPU = 1 << 8,
    X86_DM_GROUPS = 9,
    X86_DM_ALL_GROUPS = (1 << 9) - 1
};

/* Some or all groups of a state. */
struct x86_dm_groups {
    uint32_t present; /* X86_DM_GROUP_... */
    struct x86_dm_state state; /* only the groups in present count */
};

/* One range of guest-physical memory. */
struct x86_dm_region {
    uint64_t gpa; /* first guest-physical address, a multiple of 4096 */
    uint64_t size; /* bytes, a positive multiple of 4096 */
    enum x86_dm_kind kind; /* how it answers */
    uint32_t ram; /* RAM block behind it (ram, rom, firmware); else 0 */
    uint64_t offset; /* first byte inside that block */
};

/* A whole memory map. */
struct x86_dm_map {
    uint64_t generation; /* greater than that of the map before */
    uint32_t n_regions;
    const struct x86_dm_region *regions; /* sorted by address, not overlapping */
    bool a20; /* false: bit 20 of every physical address is cleared */
};

/* One row of the guest's CPUID table. */
struct x86_dm_cpuid {
    uint32_t leaf; /* EAX in */
    uint32_t subleaf; /* ECX in */
    uint32_t eax; /* EAX out */
    uint32_t ebx; /* EBX out */
    uint32_t ecx; /* ECX out */
    uint32_t edx; /* EDX out */
};

/* An event to deliver before the first instruction. */
struct x86_dm_event {
    uint8_t type; /* VMX interruption type: 0 external, 2 NMI, 3 exception, 4 INT n, 5 ICEBP, 6 INT3/INTO */
    uint8_t vector; /* vector */
    bool has_error; /* an error code is pushed */
    uint32_t error; /* the error code */
    uint8_t length; /* instruction length of a soft event */
};

/* Writes to a coalesced region, made without waiting: one, or several of one size to ascending addresses. */
struct x86_dm_posted {
    uint64_t gpa; /* guest-physical address of the first */
    struct x86_dm_blob data; /* bytes written, lowest address first */
    uint8_t size; /* bytes of each write; data is a multiple of it */
};

/* Bytes that the guest has changed in a block carried in messages. */
struct x86_dm_patch {
    uint32_t ram; /* the block */
    uint64_t offset; /* first of them in the block */
    struct x86_dm_blob data; /* their new values, all in one page */
};

/* Consecutive pages of a block carried in messages. */
struct x86_dm_page_range {
    uint32_t ram; /* the block */
    uint64_t first; /* offset of the first in the block >> 12 */
    uint64_t count; /* how many */
};

/* A contiguous range of ports. */
struct x86_dm_port_range {
    uint16_t first; /* first port */
    uint16_t last; /* last port, not below the first */
};

/* One entry rule that does not hold. */
struct x86_dm_failing {
    const char *rule; /* its stable name */
    const char *field; /* field checked, as the state table names it */
    const char *actual; /* its value */
    const char *expected; /* what the rule requires */
    const char *section; /* where the manual says so */
};

/* What one vCPU has done since it was created. */
struct x86_dm_vcpu_counters {
    uint16_t vcpu; /* vCPU number */
    uint64_t requests; /* runs accepted; a repeated request counts once */
    uint64_t io; /* io exchanges */
    uint64_t instructions; /* instructions completed */
    uint64_t steps; /* instructions and REP iterations */
    uint64_t bytes_in; /* bytes of messages received on its endpoint */
    uint64_t bytes_out; /* bytes of messages sent from its endpoint */
    uint64_t errors; /* error messages sent from its endpoint */
};

/* Open a session, or resume one with a new socket. First message on a control socket. */
struct x86_dm_hello {
    uint64_t seq; /* request number, echoed by the answer */
    uint16_t min_version; /* oldest protocol version the shim speaks */
    uint16_t max_version; /* newest protocol version the shim speaks */
    uint32_t n_features;
    const char *const *features; /* features the shim can use */
    const char *name; /* name of the VM, for logs and QMP */
    uint32_t resume; /* session to resume; 0: a new one */
    uint32_t epoch; /* counts the shim's connections; must grow with each resume */
    struct x86_dm_blob secret; /* with resume: the session's */
};

/* Answer to hello: what both will use. */
struct x86_dm_welcome {
    uint64_t seq; /* of the request */
    uint16_t version; /* protocol version to use */
    uint32_t session; /* session number, never 0 */
    uint32_t n_features;
    const char *const *features; /* those of the shim's features that the daemon has too */
    uint32_t max_message; /* largest message on a vCPU's endpoint, bytes */
    uint32_t max_control; /* largest message on the control endpoint and the RAM socket, bytes */
    uint32_t max_data; /* most device data in one exchange, bytes */
    uint32_t max_regions; /* most regions in a map */
    uint32_t max_vcpus; /* most vCPUs in a session */
    uint32_t timeout_ms; /* a session without any control message for this long is freed */
    const char *ram_socket; /* path of the AF_UNIX socket for RAM descriptors; empty: none */
    const char *daemon; /* name and version of the daemon */
    const char *engine; /* engine in use */
    const char *engine_note; /* why this engine, when it is not the usual one */
    struct x86_dm_blob secret; /* what the shim's other sockets must show; empty before version 3 */
};

/* Make a block of RAM known. With its descriptor on the RAM socket; or, on the control endpoint, by path or to travel in messages. */
struct x86_dm_ram {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    uint32_t ram; /* number the shim gives the block; not in use, not 0 */
    uint64_t size; /* bytes, a positive multiple of 4096 */
    const char *path; /* absolute, below the daemon's memory path; empty: a descriptor comes along */
    bool messages; /* the block stays with the shim, its pages travel in messages */
    struct x86_dm_blob secret; /* on the RAM socket: the session's */
};

/* Forget a block of RAM that the map no longer uses. */
struct x86_dm_ram_remove {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    uint32_t ram; /* number of the block */
};

/* Replace the memory map of the session; running vCPUs use it within a slice. */
struct x86_dm_memory_map {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    struct x86_dm_map map; /* the new map */
};

/* Say which ports' devices read and change the CPU's registers; replaces the previous list. */
struct x86_dm_state_ports {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    uint32_t n_ports;
    const struct x86_dm_port_range *ports; /* those ports */
};

/* Create a vCPU; it gets an endpoint of its own. */
struct x86_dm_vcpu_create {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    uint16_t vcpu; /* number the shim gives it, below max_vcpus */
    const char *model; /* CPU model: p6, 80386 or 80286 */
    uint32_t n_cpuid;
    const struct x86_dm_cpuid *cpuid; /* CPUID table; its leaf 0 decides the vendor's behaviour; empty: GenuineIntel, P6 class */
};

/* Answer to vcpu-create. */
struct x86_dm_vcpu_ready {
    uint64_t seq; /* of the request */
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    const char *endpoint; /* ZeroMQ endpoint of this vCPU; connect a DEALER */
};

/* Destroy a vCPU; its run, if any, is abandoned. */
struct x86_dm_vcpu_destroy {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
};

/* Ask for the session's counters. */
struct x86_dm_query {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
};

/* Answer to query. */
struct x86_dm_counters {
    uint64_t seq; /* of the request */
    uint32_t session; /* session */
    uint64_t generation; /* generation of the memory map */
    uint32_t n_vcpus;
    const struct x86_dm_vcpu_counters *vcpus; /* one record per vCPU */
};

/* Heartbeat: keeps the session alive; send one every third of timeout_ms or so. */
struct x86_dm_ping {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
};

/* End the session and free all it had. */
struct x86_dm_bye {
    uint64_t seq; /* request number */
    uint32_t session; /* session */
};

/* A request without other answer has been carried out. */
struct x86_dm_ok {
    uint64_t seq; /* of the request */
    uint32_t session; /* session */
};

/* Run guest code. The answer is any number of io and then done or error. */
struct x86_dm_emulate {
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    uint32_t epoch; /* counts the sockets this vCPU has used, from 1 */
    uint64_t seq; /* counts this vCPU's runs, from 1; the same number again repeats the answer */
    uint64_t generation; /* newest memory map the shim has sent */
    uint64_t base; /* seq of the run whose final state state differs from; 0: state is whole */
    struct x86_dm_groups state; /* whole state, or the groups that differ from base */
    enum x86_dm_reason reason; /* why */
    enum x86_dm_until until; /* who runs the state next */
    bool has_steps;
    uint64_t steps; /* end after this many instructions or REP iterations */
    bool has_microseconds;
    uint64_t microseconds; /* end after running this long, without waits for answers */
    bool window; /* an external interrupt is pending: act at the interrupt window */
    bool acknowledge; /* at the window ask for the vector and deliver it; else end there */
    bool has_inject;
    struct x86_dm_event inject; /* event to deliver first */
    struct x86_dm_blob code; /* instruction bytes that take precedence over memory for the first fetch */
    bool has_mmio;
    uint64_t mmio; /* address the one instruction of reason mmio must touch */
    bool explain; /* done lists the entry rules that fail */
    bool checkpoint; /* every io carries the state at the start of its instruction */
    uint32_t n_changed;
    const struct x86_dm_page_range *changed; /* RAM in messages: pages that others have changed */
    uint64_t applied; /* RAM in messages: all patches up to this version have been applied */
    struct x86_dm_blob secret; /* the session's, until a run on this socket has been answered */
    bool has_stop_at;
    uint32_t stop_at; /* linear address: the run ends with debug before the instruction there */
};

/* A question in the middle of an instruction. The daemon waits for io-answer. */
struct x86_dm_io {
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    uint32_t epoch; /* newest epoch of the vCPU */
    uint64_t seq; /* of the run */
    uint32_t io; /* counts the questions of this run, from 1 */
    enum x86_dm_io_kind kind; /* what is asked */
    uint64_t address; /* port, guest-physical address or MSR number; memory-read: offset in the block */
    uint8_t size; /* bytes of one element */
    uint32_t count; /* elements; above 1 for string I/O */
    bool down; /* MMIO strings, copies: each element is size below the one before, not above */
    struct x86_dm_blob data; /* size * count bytes written, little-endian, in order of access */
    uint32_t n_posted;
    const struct x86_dm_posted *posted; /* coalesced writes before this, in order */
    uint32_t n_pages;
    const uint64_t *pages; /* pages (gpa >> 12) written since the last exchange */
    bool tlb_flush; /* the guest flushed or changed paging since the last exchange */
    uint64_t instructions; /* instructions completed in this run so far */
    uint64_t steps; /* instructions and REP iterations in this run so far */
    bool has_checkpoint;
    struct x86_dm_groups checkpoint; /* state at the start of this instruction: groups that differ from the state submitted */
    uint32_t n_patches;
    const struct x86_dm_patch *patches; /* RAM in messages: what the guest has changed, in no order */
    uint64_t version; /* RAM in messages: number of patches among those of the session */
    uint32_t ram; /* memory-read: the block */
    uint32_t n_registers;
    const uint64_t *registers; /* state ports: RAX RCX RDX RBX RSP RBP RSI RDI before the instruction */
    uint64_t target; /* memory-copy: guest-physical address of the first element written */
};

/* Answer to io. */
struct x86_dm_io_answer {
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    uint32_t epoch; /* epoch */
    uint64_t seq; /* of the run */
    uint32_t io; /* number of the question */
    struct x86_dm_blob data; /* size * count bytes read; interrupt-ack: the vector, or none */
    bool fault; /* MSR accesses: raise #GP(0) in the guest */
    bool has_map;
    struct x86_dm_map map; /* the access changed the memory map; takes effect at once */
    bool has_window;
    bool window; /* an external interrupt is pending (true) or no longer is (false) */
    enum x86_dm_stop stop; /* end the run after this instruction */
    uint32_t n_changed;
    const struct x86_dm_page_range *changed; /* RAM in messages: pages that others have changed */
    uint64_t applied; /* RAM in messages: all patches up to this version have been applied */
    uint32_t n_registers;
    const uint64_t *registers; /* state ports: the registers after the access; empty: it changed none */
    bool has_copied;
    uint32_t copied; /* memory-copy: elements copied, at least one; not said: all */
    bool native; /* nothing done: the hypervisor executes this instruction itself */
};

/* Act on a run in progress. It has no answer; one for a run that is over is ignored. */
struct x86_dm_kick {
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    uint32_t epoch; /* epoch */
    uint64_t seq; /* of the run */
    enum x86_dm_stop stop; /* end the run at the next boundary */
    bool has_window;
    bool window; /* as in io-answer; with stop none the run continues */
    uint32_t n_changed;
    const struct x86_dm_page_range *changed; /* RAM in messages: pages that others have changed */
};

/* The run has ended; the vCPU belongs to the shim again. */
struct x86_dm_done {
    uint32_t session; /* session */
    uint16_t vcpu; /* vCPU */
    uint32_t epoch; /* newest epoch of the vCPU */
    uint64_t seq; /* of the run */
    enum x86_dm_done_reason reason; /* why it ended */
    enum x86_dm_stop stop; /* what an answer or kick asked for, whatever ended the run */
    uint64_t address; /* reasons firmware, hypervisor: guest-physical address; page-fault: linear */
    const char *detail; /* reasons unsupported, memory-lost: which, in words; hypervisor: instruction */
    struct x86_dm_groups state; /* groups that differ from the state submitted */
    uint64_t instructions; /* instructions completed in this run */
    uint64_t steps; /* instructions and REP iterations in this run */
    uint32_t n_posted;
    const struct x86_dm_posted *posted; /* coalesced writes since the last exchange */
    uint32_t n_pages;
    const uint64_t *pages; /* pages (gpa >> 12) written since the last exchange */
    bool tlb_flush; /* the guest flushed or changed paging since the last exchange */
    uint32_t n_failing;
    const struct x86_dm_failing *failing; /* entry rules that fail, when asked for */
    bool closing; /* the daemon is shutting down: take the vCPU elsewhere */
    uint32_t n_patches;
    const struct x86_dm_patch *patches; /* RAM in messages: what the guest has changed, in no order */
    uint64_t version; /* RAM in messages: number of patches among those of the session */
    uint32_t fault; /* reason page-fault: its error code */
};

/* A request was refused and has changed nothing; or, unasked, the session or the run is gone. */
struct x86_dm_error {
    enum x86_dm_error_class error; /* what kind of mistake */
    const char *text; /* what was wrong */
    const char *expected; /* what would be right */
    const char *field; /* field at fault */
    uint64_t seq; /* of the request, when it could be read */
    uint32_t session; /* session, when known */
    bool has_vcpu;
    uint16_t vcpu; /* vCPU, when known */
    uint32_t epoch; /* newest epoch, when known */
};

enum x86_dm_type {
    X86_DM_HELLO,
    X86_DM_WELCOME,
    X86_DM_RAM,
    X86_DM_RAM_REMOVE,
    X86_DM_MEMORY_MAP,
    X86_DM_STATE_PORTS,
    X86_DM_VCPU_CREATE,
    X86_DM_VCPU_READY,
    X86_DM_VCPU_DESTROY,
    X86_DM_QUERY,
    X86_DM_COUNTERS,
    X86_DM_PING,
    X86_DM_BYE,
    X86_DM_OK,
    X86_DM_EMULATE,
    X86_DM_IO,
    X86_DM_IO_ANSWER,
    X86_DM_KICK,
    X86_DM_DONE,
    X86_DM_ERROR,
    X86_DM_TYPES
};

/* Any message.  What x86_dm_unpack() made is freed with x86_dm_message_free(). */
struct x86_dm_message {
    enum x86_dm_type type;
    union {
        struct x86_dm_hello hello;
        struct x86_dm_welcome welcome;
        struct x86_dm_ram ram;
        struct x86_dm_ram_remove ram_remove;
        struct x86_dm_memory_map memory_map;
        struct x86_dm_state_ports state_ports;
        struct x86_dm_vcpu_create vcpu_create;
        struct x86_dm_vcpu_ready vcpu_ready;
        struct x86_dm_vcpu_destroy vcpu_destroy;
        struct x86_dm_query query;
        struct x86_dm_counters counters;
        struct x86_dm_ping ping;
        struct x86_dm_bye bye;
        struct x86_dm_ok ok;
        struct x86_dm_emulate emulate;
        struct x86_dm_io io;
        struct x86_dm_io_answer io_answer;
        struct x86_dm_kick kick;
        struct x86_dm_done done;
        struct x86_dm_error error;
    };
    void *zone, *bytes; /* private: what the pointers above point into */
};

/* ------------------------------------------------------------------------------------------- failures */

enum x86_dm_status {
    X86_DM_FINE,
    X86_DM_REFUSED,      /* the daemon refused the request and has changed nothing: see error */
    X86_DM_SESSION_LOST, /* the daemon or the session is gone; x86_dm_reconnect() may help */
    X86_DM_RUN_LOST,     /* a run was lost in the middle: memory may have changed, the registers are unknown */
    X86_DM_UNUSABLE,     /* bytes or arguments are not what the protocol allows: see error */
    X86_DM_NO_RESOURCES, /* the system is out of memory, descriptors or threads */
};

/* Why something failed, in the terms of the message `error`. */
struct x86_dm_failure {
    enum x86_dm_status status;
    enum x86_dm_error_class error; /* with X86_DM_REFUSED and X86_DM_UNUSABLE */
    char text[513];                /* what was wrong */
    char expected[513];            /* what would be right, or "" */
    char field[129];               /* field at fault, or "" */
};

/* ------------------------------------------------------------------------------------------- messages */

/* Bytes that grow as needed.  Start with zeros, end with x86_dm_buffer_free(). */
struct x86_dm_buffer {
    uint8_t *data;
    size_t size, room;
};

/* Make `message` one of `type` with all defaults. */
void x86_dm_init(struct x86_dm_message *message, enum x86_dm_type type);

/* Replace what is in `out` by the bytes of a message.  NULL stands for empty text. */
enum x86_dm_status x86_dm_pack(struct x86_dm_buffer *out, const struct x86_dm_message *message,
                               struct x86_dm_failure *why);

/*
 * Make a message of bytes from a peer; `limit` is the size that is allowed.  The message does not refer to `data`.
 * After success give it back with x86_dm_message_free().  Text that contains a NUL is refused.
 */
enum x86_dm_status x86_dm_unpack(struct x86_dm_message *message, const void *data, size_t size, size_t limit,
                                 struct x86_dm_failure *why);

void x86_dm_message_free(struct x86_dm_message *message);
void x86_dm_buffer_free(struct x86_dm_buffer *buffer);

/* The wire's word for a value of an enumeration, as in x86_dm_done_reason_name(done->reason); "?" for a wrong one. */
const char *x86_dm_io_kind_name(enum x86_dm_io_kind kind);
const char *x86_dm_done_reason_name(enum x86_dm_done_reason reason);
const char *x86_dm_error_class_name(enum x86_dm_error_class error);

/* Set a state to that after RESET. */
void x86_dm_state_reset(struct x86_dm_state *state);
/* Return the groups (X86_DM_GROUP_...) in which two states differ. */
uint32_t x86_dm_state_difference(const struct x86_dm_state *one, const struct x86_dm_state *other);
/* Copy the groups that are present into `state`. */
void x86_dm_state_update(struct x86_dm_state *state, const struct x86_dm_groups *groups);

/* ------------------------------------------------------------------------------------------- session */

struct x86_dm;
struct x86_dm_vcpu;

/*
 * Open a session at a daemon's control endpoint.  `name` is the VM's, for logs.  Every control request, this one
 * included, may take `timeout_ms` (0: 30 seconds).  Returns NULL and says why when there is none.
 */
struct x86_dm *x86_dm_connect(const char *endpoint, const char *name, unsigned timeout_ms, struct x86_dm_failure *why);

/* Keys for a daemon on tcp, each 40 characters of Z85: the daemon's public one, and both of ours. */
struct x86_dm_curve {
    const char *server, *public_key, *secret_key;
};
/* x86_dm_connect() for tcp endpoints; a daemon that does not know the keys is one that does not answer. */
struct x86_dm *x86_dm_connect_curve(const char *endpoint, const char *name, const struct x86_dm_curve *curve,
                                    unsigned timeout_ms, struct x86_dm_failure *why);

/* What the daemon said: version, features, limits, engine.  Valid until the next reconnect. */
const struct x86_dm_welcome *x86_dm_daemon(const struct x86_dm *dm);
bool x86_dm_has_feature(const struct x86_dm *dm, const char *feature);

/* Tell whether the session cannot be used any more, and why (`why` may be NULL). */
bool x86_dm_is_lost(struct x86_dm *dm, struct x86_dm_failure *why);
/* Tell whether the daemon is shutting down: runs end, new ones are refused. */
bool x86_dm_is_closing(struct x86_dm *dm);

/* Share RAM by its descriptor, a memfd sealed with F_SEAL_SHRINK; `number` is what regions name it by. */
enum x86_dm_status x86_dm_add_ram(struct x86_dm *dm, int fd, uint64_t size, uint32_t *number,
                                  struct x86_dm_failure *why);
/* Share RAM that is a file below the daemon's memory path. */
enum x86_dm_status x86_dm_add_ram_file(struct x86_dm *dm, const char *path, uint64_t size, uint32_t *number,
                                       struct x86_dm_failure *why);
/* Take back a block that the map no longer uses. */
enum x86_dm_status x86_dm_remove_ram(struct x86_dm *dm, uint32_t number, struct x86_dm_failure *why);

/* Replace the memory map; the regions are copied. */
enum x86_dm_status x86_dm_set_map(struct x86_dm *dm, const struct x86_dm_region *regions, uint32_t n, bool a20,
                                  struct x86_dm_failure *why);
/* Number a map that goes with an answer; it counts as sent.  `map` refers to `regions`. */
enum x86_dm_status x86_dm_next_map(struct x86_dm *dm, const struct x86_dm_region *regions, uint32_t n, bool a20,
                                   struct x86_dm_map *map, struct x86_dm_failure *why);
/* Name the ports whose devices read and change registers; replaces what was said before.  Feature state-ports. */
enum x86_dm_status x86_dm_set_state_ports(struct x86_dm *dm, const struct x86_dm_port_range *ports, uint32_t n,
                                          struct x86_dm_failure *why);

/* Create a vCPU; n = 0 rows of CPUID: the model's own table.  Returns NULL and says why when there is none. */
struct x86_dm_vcpu *x86_dm_create_vcpu(struct x86_dm *dm, uint16_t number, const char *model,
                                       const struct x86_dm_cpuid *cpuid, uint32_t n, struct x86_dm_failure *why);
/* Destroy a vCPU that is not running; it is freed whatever the daemon says. */
enum x86_dm_status x86_dm_destroy_vcpu(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why);

/* Ask for the daemon's counters.  After success free `answer` with x86_dm_message_free(). */
enum x86_dm_status x86_dm_query(struct x86_dm *dm, struct x86_dm_message *answer, struct x86_dm_failure *why);

/*
 * Take the session up again with new sockets and a new epoch.  A run under way goes on: its request is sent again and
 * answered from the daemon's record.  When the daemon does not know the session (it is another one), a new session
 * gets the same RAM, map and vCPUs, and a run that was under way is lost; `same` tells which.
 */
enum x86_dm_status x86_dm_reconnect(struct x86_dm *dm, bool *same, struct x86_dm_failure *why);

/* End the session and free everything, vCPUs included; none may be running.  `bye` false: just vanish. */
void x86_dm_close(struct x86_dm *dm, bool bye);

/* ------------------------------------------------------------------------------------------- runs */

/* Answer to a question.  It arrives with the defaults: empty bus, nothing changes. */
struct x86_dm_answer {
    uint8_t *data;                /* where to put bytes read: room for size * count and at least 8; all ones */
    uint32_t size;                /* bytes that count: already right, save for interrupt-ack (1: data[0] is the vector) */
    bool fault;                   /* MSRs: raise #GP(0); already set for them */
    const struct x86_dm_map *map; /* the access changed the memory map (x86_dm_next_map()), or NULL */
    int window;                   /* an external interrupt waits: 1 yes, 0 no longer, -1 as before */
    enum x86_dm_stop stop;        /* end the run after this instruction */
    uint64_t registers[16];       /* state ports: as in the question; what the device changes here, changes in the guest */
    uint32_t copied;              /* memory-copy: elements copied, at least one; already all of them */
    bool native;                  /* not done, the run ends before this instruction; feature native, not for copies */
};

/* What a run calls, on its own thread.  Any may be NULL, and so may the pointer to them: an empty bus. */
struct x86_dm_devices {
    void *opaque;
    /* A question other than `report`.  For a write `io->data` holds the bytes. */
    void (*on_io)(void *opaque, const struct x86_dm_io *io, struct x86_dm_answer *answer);
    /* One coalesced write, in order. */
    void (*on_posted)(void *opaque, uint64_t gpa, const uint8_t *data, uint32_t size);
    /* Numbers (gpa >> 12) of pages the guest has written. */
    void (*on_pages)(void *opaque, const uint64_t *pages, uint32_t n);
    /*
     * The wait was cut short, by x86_dm_wake(), a signal or patience_ms; true kicks the run.  It may take its time:
     * the run stays under way meanwhile, and whatever the daemon says of it is kept.
     */
    bool (*on_wake)(void *opaque);
    /*
     * A memory-copy: `io->count` times read `io->size` bytes at `io->address` and write them at `io->target`, one
     * element after the other, then step both addresses by the size, downwards with `io->down`.  It may end early
     * (`answer->copied`), as for a stop, a map or an interrupt.  NULL: on_io gets it as single reads and writes, up to
     * the first answer that has one of these.
     */
    void (*on_copy)(void *opaque, const struct x86_dm_io *io, struct x86_dm_answer *answer);
    /* How long a kicked run may take to end, in ms, before on_wake is called, once for each kick; 0: as long as it takes. */
    unsigned patience_ms;
};

/* What a vCPU has done, counted on this side. */
struct x86_dm_stats {
    uint64_t requests, io, instructions, steps, bytes_sent, bytes_received, kicks, resent;
};

/*
 * Run guest code from `state`, which is brought up to date.  `how` is made with x86_dm_init(); session, vcpu, epoch,
 * seq, generation, base, state and secret in it are filled in.  `done` tells how the run ended; it is valid until the vCPU's
 * next run or its end.  After failure the state is as it was.
 */
enum x86_dm_status x86_dm_run(struct x86_dm_vcpu *vcpu, struct x86_dm_state *state, const struct x86_dm_emulate *how,
                              const struct x86_dm_devices *devices, const struct x86_dm_done **done,
                              struct x86_dm_failure *why);

/*
 * End the run under way soon, or with X86_DM_STOP_NONE only tell whether an interrupt waits (1, 0; -1: not said).
 * Without a run under way the next one is kicked.  Any thread, also a signal handler.
 */
void x86_dm_kick(struct x86_dm_vcpu *vcpu, enum x86_dm_stop stop, int window);
/* Make a waiting run call on_wake.  Any thread, also a signal handler. */
void x86_dm_wake(struct x86_dm_vcpu *vcpu);

void x86_dm_get_stats(const struct x86_dm_vcpu *vcpu, struct x86_dm_stats *stats);

#endif /* X86_DM_H */

#if defined(X86_DM_IMPLEMENTATION) && !defined(X86_DM_IMPLEMENTED)
#define X86_DM_IMPLEMENTED

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

/* ------------------------------------------------------------------------------------------- tables */

enum { X86_DM__U, X86_DM__FLAG, X86_DM__TEXT, X86_DM__BLOB, X86_DM__WORD, X86_DM__RECORD, X86_DM__STATE };
enum { X86_DM__REQUIRED, X86_DM__OPTIONAL, X86_DM__NOT_SAID };

/* One field.  `width` is bits (U), most bytes (TEXT, BLOB) or the number of words; `limit` above 0 makes it a list. */
struct x86_dm__row {
    const char *name;
    uint8_t kind, use;
    uint32_t width, limit;
    size_t offset, beside; /* of the value, and of n_... or has_... beside it */
    size_t size;           /* of one value */
    uint64_t preset;
    const char *preset_text;
    const void *table; /* words, or the record's table */
};

struct x86_dm__table {
    const char *name;
    const struct x86_dm__row *rows;
    uint32_t n;
    uint32_t limit; /* most bytes of a message */
};

/* One value of a state group: bits, and where it is in struct x86_dm_state. */
struct x86_dm__slot {
    const char *name;
    uint32_t width;
    size_t offset;
};

struct x86_dm__group {
    const char *name;
    const struct x86_dm__slot *slots;
    uint32_t n;
};

#define X86_DM__AWAKE_NS INT64_C(200000)
#define X86_DM__FIRST_AWAKE_NS INT64_C(50000)
#define X86_DM__PAUSE_NS INT64_C(10000000)
#define X86_DM__TAKEN_NS INT64_C(100000)
#define X86_DM__REST_NS INT64_C(10000000)
#define X86_DM__LONGEST_REST_NS INT64_C(160000000)

/*
 * MessagePack (msgpack.org, specification): its one reader and its one writer in C.
 *
 * A reader never leaves the message and a writer never leaves its room.  Who uses them decides what values mean: the
 * codec of dm.fast, the worker's exchange, and the C client x86_dm.h, into which this file is printed.
 */
#ifndef X86_DM_MESSAGEPACK_H
#define X86_DM_MESSAGEPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct x86_dm__reader {
    const uint8_t *at, *end;
};

enum x86_dm__item_type {
    X86_DM__WRONG, /* cut off, or no MessagePack */
    X86_DM__NIL,
    X86_DM__BOOLEAN,
    X86_DM__UNSIGNED,
    X86_DM__NEGATIVE,
    X86_DM__FLOAT,
    X86_DM__STR,
    X86_DM__BIN,
    X86_DM__ARRAY,
    X86_DM__MAP,
    X86_DM__EXTENSION,
};

/* The head of a value; str and bin are whole, what is in an array or a map follows. */
struct x86_dm__item {
    enum x86_dm__item_type type;
    uint64_t number;     /* the integer (a negative one modulo 2**64), the boolean, or how many bytes, values or pairs */
    const uint8_t *data; /* of str and bin */
};

/* Read a number of `size` bytes, the most significant first. */
static inline bool x86_dm__big_endian(struct x86_dm__reader *reader, unsigned size, uint64_t *number)
{
    uint64_t value = 0;

    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    for (; size; size--) {
        value = value << 8 | *reader->at++;
    }
    *number = value;
    return true;
}

/* x86_dm__next() behind the first byte, for what is not read there. */
static inline struct x86_dm__item x86_dm__next_after(struct x86_dm__reader *reader, unsigned head)
{
    const struct x86_dm__item wrong = {X86_DM__WRONG, 0, NULL};
    struct x86_dm__item item = wrong;
    unsigned size = 0;   /* bytes of the number behind the head */
    uint64_t follow = 0; /* bytes, at least, behind that */

    item.number = head;
    if (head < 0x90) {
        item.type = X86_DM__MAP;
        item.number = head & 15;
    } else if (head < 0xa0) {
        item.type = X86_DM__ARRAY;
        item.number = head & 15;
    } else if (head < 0xc0) {
        item.type = X86_DM__STR;
        item.number = head & 31;
    } else if (head >= 0xe0) {
        item.type = X86_DM__NEGATIVE;
        item.number = head | ~UINT64_C(0xff);
    } else if (head == 0xc0) {
        item.type = X86_DM__NIL;
    } else if (head == 0xc1) {
        return wrong;
    } else if (head <= 0xc3) {
        item.type = X86_DM__BOOLEAN;
        item.number = head & 1;
    } else if (head <= 0xc6) {
        item.type = X86_DM__BIN;
        size = 1u << (head - 0xc4);
    } else if (head <= 0xc9) {
        item.type = X86_DM__EXTENSION;
        size = 1u << (head - 0xc7);
    } else if (head <= 0xcb) {
        item.type = X86_DM__FLOAT;
        size = 4u << (head - 0xca);
    } else if (head <= 0xd3) {
        item.type = X86_DM__UNSIGNED; /* see below */
        size = 1u << (head - 0xd0);
    } else if (head <= 0xd8) {
        item.type = X86_DM__EXTENSION;
        item.number = 1u << (head - 0xd4);
    } else if (head <= 0xdb) {
        item.type = X86_DM__STR;
        size = 1u << (head - 0xd9);
    } else if (head <= 0xdd) {
        item.type = X86_DM__ARRAY;
        size = 2u << (head - 0xdc);
    } else {
        item.type = X86_DM__MAP;
        size = 2u << (head - 0xde);
    }
    if (size && !x86_dm__big_endian(reader, size, &item.number)) {
        return wrong;
    }
    if (head >= 0xd0 && head <= 0xd3 && item.number >> (8 * size - 1)) {
        item.type = X86_DM__NEGATIVE;
        item.number |= size == 8 ? 0 : ~UINT64_C(0) << 8 * size;
    }
    if (item.type == X86_DM__STR || item.type == X86_DM__BIN || item.type == X86_DM__ARRAY) {
        follow = item.number;
    } else if (item.type == X86_DM__MAP) {
        follow = 2 * item.number;
    } else if (item.type == X86_DM__EXTENSION) {
        follow = item.number + 1; /* its type */
    }
    if (follow > (uint64_t)(reader->end - reader->at)) {
        return wrong;
    }
    item.data = reader->at;
    if (item.type != X86_DM__ARRAY && item.type != X86_DM__MAP) {
        reader->at += follow;
    }
    return item;
}

/*
 * Read the head of the next value.  An array or a map with more in it than bytes follow is wrong here, so that nobody
 * makes room for what cannot come.
 */
static inline struct x86_dm__item x86_dm__next(struct x86_dm__reader *reader)
{
    struct x86_dm__item item = {X86_DM__WRONG, 0, NULL};
    unsigned head;

    if (reader->at == reader->end) {
        return item;
    }
    head = *reader->at++;
    if (head < 0x80) { /* most values are unsigned integers */
        item.type = X86_DM__UNSIGNED;
        item.number = head;
    } else if (head >= 0xcc && head <= 0xcf) {
        if (x86_dm__big_endian(reader, 1u << (head - 0xcc), &item.number)) {
            item.type = X86_DM__UNSIGNED;
        }
    } else {
        item = x86_dm__next_after(reader, head);
    }
    return item;
}

static inline bool x86_dm__next_unsigned(struct x86_dm__reader *reader, uint64_t *number)
{
    struct x86_dm__item item = x86_dm__next(reader);

    *number = item.number;
    return item.type == X86_DM__UNSIGNED;
}

static inline bool x86_dm__next_is(struct x86_dm__reader *reader, enum x86_dm__item_type type,
                                   struct x86_dm__item *item)
{
    *item = x86_dm__next(reader);
    return item->type == type;
}

static inline bool x86_dm__says(const struct x86_dm__item *item, const char *text, size_t size)
{
    return item->type == X86_DM__STR && item->number == size && (!size || memcmp(item->data, text, size) == 0);
}

struct x86_dm__writer {
    uint8_t *at, *end; /* what room there is */
    uint8_t *data;     /* what has been written */
    bool failed;       /* there was no room: what is in `data` is of no use */
    /* Move `data` to where there is room for `needed` bytes, and say how many; NULL: there is no more room. */
    bool (*grow)(struct x86_dm__writer *writer, size_t needed, size_t *room);
};

/* Return a writer that goes on behind `size` bytes of `data`, which has room for `room`. */
static inline struct x86_dm__writer x86_dm__write_to(uint8_t *data, size_t size, size_t room,
                                                     bool (*grow)(struct x86_dm__writer *, size_t, size_t *))
{
    return (struct x86_dm__writer){data + size, data + room, data, false, grow};
}

static inline size_t x86_dm__written(const struct x86_dm__writer *writer)
{
    return (size_t)(writer->at - writer->data);
}

/* Make room for `size` more bytes; a writer that has failed has none from then on. */
static inline bool x86_dm__make_room(struct x86_dm__writer *writer, size_t size)
{
    size_t before = x86_dm__written(writer), room = before;

    if (writer->failed || size > SIZE_MAX - before || !writer->grow ||
        !writer->grow(writer, before + size, &room)) {
        writer->failed = true;
    }
    writer->at = writer->data + before;
    writer->end = writer->failed ? writer->at : writer->data + room;
    return !writer->failed;
}

/* Return where the next `size` bytes go, NULL when there is no room for them. */
static inline uint8_t *x86_dm__reserve(struct x86_dm__writer *writer, size_t size)
{
    if ((size_t)(writer->end - writer->at) < size && !x86_dm__make_room(writer, size)) {
        return NULL;
    }
    writer->at += size;
    return writer->at - size;
}

static inline void x86_dm__put_data(struct x86_dm__writer *writer, const void *data, size_t size)
{
    uint8_t *to = x86_dm__reserve(writer, size);

    if (to && size) {
        memcpy(to, data, size);
    }
}

/* Write a head, and behind it a number of `size` bytes, the most significant first. */
static inline void x86_dm__put_head(struct x86_dm__writer *writer, unsigned head, uint64_t number, unsigned size)
{
    uint8_t *to = x86_dm__reserve(writer, (size_t)1 + size);

    if (to) {
        *to = (uint8_t)head;
        if (size) {
            uint64_t big = number << (64 - 8 * size);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            big = __builtin_bswap64(big);
#endif
            memcpy(to + 1, &big, size);
        }
    }
}

static inline void x86_dm__put_unsigned(struct x86_dm__writer *writer, uint64_t number)
{
    if (number < 0x80) {
        x86_dm__put_head(writer, (unsigned)number, 0, 0);
    } else if (number <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xcc, number, 1);
    } else if (number <= UINT16_MAX) {
        x86_dm__put_head(writer, 0xcd, number, 2);
    } else if (number <= UINT32_MAX) {
        x86_dm__put_head(writer, 0xce, number, 4);
    } else {
        x86_dm__put_head(writer, 0xcf, number, 8);
    }
}

static inline void x86_dm__put_boolean(struct x86_dm__writer *writer, bool value)
{
    x86_dm__put_head(writer, value ? 0xc3 : 0xc2, 0, 0);
}

/* Write a head for so many: `few` has room for numbers below `fixed`, `wide` is the first of those with 2 or 4 bytes. */
static inline void x86_dm__put_count(struct x86_dm__writer *writer, unsigned few, unsigned fixed, unsigned wide,
                                     size_t count)
{
    if (count < fixed) {
        x86_dm__put_head(writer, few | (unsigned)count, 0, 0);
    } else if (count <= UINT16_MAX) {
        x86_dm__put_head(writer, wide, count, 2);
    } else if (count <= UINT32_MAX) {
        x86_dm__put_head(writer, wide + 1, count, 4);
    } else {
        writer->failed = true;
    }
}

/* The head of an array; its values come next. */
static inline void x86_dm__put_array(struct x86_dm__writer *writer, size_t count)
{
    x86_dm__put_count(writer, 0x90, 16, 0xdc, count);
}

/* The head of a map; its pairs come next. */
static inline void x86_dm__put_map(struct x86_dm__writer *writer, size_t count)
{
    x86_dm__put_count(writer, 0x80, 16, 0xde, count);
}

static inline void x86_dm__put_str(struct x86_dm__writer *writer, const char *text, size_t size)
{
    if (size > 31 && size <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xd9, size, 1);
    } else {
        x86_dm__put_count(writer, 0xa0, 32, 0xda, size);
    }
    x86_dm__put_data(writer, text, size);
}

static inline void x86_dm__put_bin(struct x86_dm__writer *writer, const void *data, size_t size)
{
    if (size <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xc4, size, 1);
    } else {
        x86_dm__put_count(writer, 0, 0, 0xc5, size);
    }
    x86_dm__put_data(writer, data, size);
}

#endif

/*
 * ZeroMQ messages to and fro, and how to wait for them: polling for a moment if that pays, else asleep.
 *
 * Most of an exchange is spent waking threads and idle processors.  dm/protocol/waiter.py says the same in Python, and
 * dm/fast/times.py how long each thing takes (X86_DM__..._NS, which it prints).  The types of dm.fast, the worker's
 * exchange and the C client x86_dm.h, into which this file is printed, wait by it.
 */
#ifndef X86_DM_WAITING_H
#define X86_DM_WAITING_H

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef ZMQ_VERSION /* zmq.h need not be there: zmq_msg_init(3), zmq_getsockopt(3), zmq_send(3) */
typedef struct zmq_msg_t {
    _Alignas(void *) unsigned char opaque[64];
} zmq_msg_t;
enum { ZMQ_EVENTS = 15, ZMQ_POLLIN = 1, ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2 };
#endif

/* Functions of libzmq, in the order of dm.protocol.libzmq: Python's sockets are those of a library it has loaded. */
struct x86_dm__libzmq {
    int (*send)(void *socket, const void *data, size_t size, int flags);
    int (*getsockopt)(void *socket, int option, void *value, size_t *size);
    int (*msg_init)(zmq_msg_t *message);
    int (*msg_recv)(zmq_msg_t *message, void *socket, int flags);
    void *(*msg_data)(zmq_msg_t *message);
    size_t (*msg_size)(const zmq_msg_t *message);
    int (*msg_more)(const zmq_msg_t *message);
    int (*msg_close)(zmq_msg_t *message);
    int (*error)(void);
};

static inline bool x86_dm__send_at_once(const struct x86_dm__libzmq *zmq, void *socket, const void *data, size_t size,
                                        int flags)
{
    while (zmq->send(socket, data, size, flags | ZMQ_DONTWAIT) < 0) {
        if (zmq->error() != EINTR) {
            return false;
        }
    }
    return true;
}

/* Send a message or a part of one; returns false when that is not possible now. */
static inline bool x86_dm__send_part(const struct x86_dm__libzmq *zmq, void *socket, const void *data, size_t size,
                                     int flags)
{
    int events;
    size_t room = sizeof(events);

    if (x86_dm__send_at_once(zmq, socket, data, size, flags)) {
        return true;
    }
    if (zmq->error() != EAGAIN) {
        return false;
    }
    /* Either the peer has read since, which libzmq looks for when asked for its events and not in send, or nobody is
     * there to take it. */
    zmq->getsockopt(socket, ZMQ_EVENTS, &events, &room);
    return x86_dm__send_at_once(zmq, socket, data, size, flags);
}

/* Receive a message or a part of one into `message`; returns 1, 0 when there is none, or -1. */
static inline int x86_dm__receive_part(const struct x86_dm__libzmq *zmq, void *socket, zmq_msg_t *message)
{
    while (zmq->msg_recv(message, socket, ZMQ_DONTWAIT) < 0) {
        int error = zmq->error();

        if (error != EINTR) {
            return error == EAGAIN ? 0 : -1;
        }
    }
    return 1;
}

/* Time of CLOCK_MONOTONIC in nanoseconds. */
static inline int64_t x86_dm__now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* How a thread waits.  Starts with zeros; times are those of x86_dm__now_ns(). */
struct x86_dm__waiter {
    int64_t stretch;             /* how long the next wait polls before it sleeps; 0: not at all */
    int64_t ended;               /* when the last one ended */
    int64_t resting_until, rest; /* another thread wanted this processor */
};

/* Wait for events as poll(2) does, and return what it returns. */
static inline int x86_dm__wait(struct x86_dm__waiter *waiter, struct pollfd *fds, nfds_t n, int timeout_ms)
{
    int64_t began, now, took;
    int ready;

    if (timeout_ms == 0) {
        return poll(fds, n, 0);
    }
    began = now = x86_dm__now_ns();
    if (began - waiter->ended > X86_DM__PAUSE_NS) {
        waiter->stretch = 0;
    }
    while (now - began < waiter->stretch && now > waiter->resting_until) {
        int64_t before = now;

        ready = poll(fds, n, 0);
        if (ready != 0) {
            waiter->ended = now;
            return ready;
        }
        sched_yield();
        now = x86_dm__now_ns();
        if (now - before > X86_DM__TAKEN_NS) { /* another thread wants this processor */
            int64_t longer = 2 * waiter->rest < X86_DM__LONGEST_REST_NS ? 2 * waiter->rest : X86_DM__LONGEST_REST_NS;

            waiter->rest = before - waiter->resting_until > 2 * X86_DM__REST_NS ? X86_DM__REST_NS : longer;
            waiter->resting_until = now + waiter->rest;
        }
    }
    ready = poll(fds, n, timeout_ms);
    waiter->ended = x86_dm__now_ns();
    took = waiter->ended - began;
    if (took >= X86_DM__AWAKE_NS) {
        waiter->stretch = 0;
    } else if (ready > 0 && took > waiter->stretch) {
        int64_t more = waiter->stretch ? 2 * waiter->stretch : X86_DM__FIRST_AWAKE_NS;

        waiter->stretch = more < X86_DM__AWAKE_NS ? more : X86_DM__AWAKE_NS;
    }
    return ready;
}

enum x86_dm__news {
    X86_DM__MESSAGE, /* or its first part, in `message` */
    X86_DM__OTHER,   /* another descriptor has an event: see its revents */
    X86_DM__NOTHING, /* a time-out, or a signal */
    X86_DM__FAILED,  /* ZeroMQ reports an error */
};

/*
 * Wait for a message into `message`, which is initialised, up to `timeout_ms` (-1: no limit).  fds[0] is the socket's
 * own descriptor (ZMQ_FD), others may follow.
 */
static inline enum x86_dm__news x86_dm__await(const struct x86_dm__libzmq *zmq, void *socket,
                                              struct x86_dm__waiter *waiter, struct pollfd *fds, nfds_t n,
                                              int timeout_ms, zmq_msg_t *message)
{
    for (;;) {
        /* The socket's descriptor signals the next message only after a receive that finds nothing (ZMQ_FD). */
        int got = x86_dm__receive_part(zmq, socket, message);

        if (got) {
            return got > 0 ? X86_DM__MESSAGE : X86_DM__FAILED;
        }
        if (x86_dm__wait(waiter, fds, n, timeout_ms) <= 0) {
            return X86_DM__NOTHING;
        }
        for (nfds_t i = 1; i < n; i++) {
            if (fds[i].revents) {
                return X86_DM__OTHER;
            }
        }
    }
}

#endif
#define X86_DM__MAX_GROUPS 32u
#define X86_DM__MAX_GROUP_VALUES 256u
#define X86_DM__MAX_GROUP_BLOB 8192u
#define X86_DM__MAX_FIELDS 22

static const char *const x86_dm__kind_words[] = {"ram", "rom", "mmio", "coalesced", "hypervisor", "firmware"};
static const char *const x86_dm__reason_words[] = {"request", "real-mode", "invalid-state", "failure", "mmio"};
static const char *const x86_dm__until_words[] = {"vmx", "vmx-ug", "vmx-raw", "svm", "svm-raw", "protected", "instructions", "never"};
static const char *const x86_dm__io_kind_words[] = {"port-in", "port-out", "mmio-read", "mmio-write", "msr-read", "msr-write", "interrupt-ack", "report", "memory-read", "memory-copy"};
static const char *const x86_dm__stop_words[] = {"none", "kick", "reset", "init", "nmi", "smi"};
static const char *const x86_dm__done_reason_words[] = {"budget", "kicked", "stopped", "enterable", "halt", "shutdown", "debug", "interrupt-window", "firmware", "hypervisor", "unsupported", "mmio-mismatch", "memory-lost", "page-fault"};
static const char *const x86_dm__error_class_words[] = {"bad-message", "unknown-message", "too-large", "version", "unknown-session", "unknown-vcpu", "stale-epoch", "stale-sequence", "unknown-base", "bad-generation", "bad-memory", "bad-state", "bad-answer", "limit", "busy", "aborted", "session-lost", "shutting-down", "internal"};

static const struct x86_dm__row x86_dm__region_rows[] = {
    {"gpa", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_region, gpa),
     offsetof(struct x86_dm_region, gpa), sizeof(uint64_t), 0, NULL, NULL},
    {"size", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_region, size),
     offsetof(struct x86_dm_region, size), sizeof(uint64_t), 0, NULL, NULL},
    {"kind", X86_DM__WORD, X86_DM__REQUIRED, 6, 0, offsetof(struct x86_dm_region, kind),
     offsetof(struct x86_dm_region, kind), sizeof(enum x86_dm_kind), 0, NULL, x86_dm__kind_words},
    {"ram", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_region, ram),
     offsetof(struct x86_dm_region, ram), sizeof(uint32_t), 0, NULL, NULL},
    {"offset", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_region, offset),
     offsetof(struct x86_dm_region, offset), sizeof(uint64_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__region_table = {"Region", x86_dm__region_rows, 5, 0};

static const struct x86_dm__row x86_dm__cpuid_rows[] = {
    {"leaf", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, leaf),
     offsetof(struct x86_dm_cpuid, leaf), sizeof(uint32_t), 0, NULL, NULL},
    {"subleaf", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, subleaf),
     offsetof(struct x86_dm_cpuid, subleaf), sizeof(uint32_t), 0, NULL, NULL},
    {"eax", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, eax),
     offsetof(struct x86_dm_cpuid, eax), sizeof(uint32_t), 0, NULL, NULL},
    {"ebx", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, ebx),
     offsetof(struct x86_dm_cpuid, ebx), sizeof(uint32_t), 0, NULL, NULL},
    {"ecx", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, ecx),
     offsetof(struct x86_dm_cpuid, ecx), sizeof(uint32_t), 0, NULL, NULL},
    {"edx", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_cpuid, edx),
     offsetof(struct x86_dm_cpuid, edx), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__cpuid_table = {"Cpuid", x86_dm__cpuid_rows, 6, 0};

static const struct x86_dm__row x86_dm__event_rows[] = {
    {"type", X86_DM__U, X86_DM__REQUIRED, 8, 0, offsetof(struct x86_dm_event, type),
     offsetof(struct x86_dm_event, type), sizeof(uint8_t), 0, NULL, NULL},
    {"vector", X86_DM__U, X86_DM__REQUIRED, 8, 0, offsetof(struct x86_dm_event, vector),
     offsetof(struct x86_dm_event, vector), sizeof(uint8_t), 0, NULL, NULL},
    {"has_error", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_event, has_error),
     offsetof(struct x86_dm_event, has_error), sizeof(bool), 0, NULL, NULL},
    {"error", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_event, error),
     offsetof(struct x86_dm_event, error), sizeof(uint32_t), 0, NULL, NULL},
    {"length", X86_DM__U, X86_DM__OPTIONAL, 8, 0, offsetof(struct x86_dm_event, length),
     offsetof(struct x86_dm_event, length), sizeof(uint8_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__event_table = {"Event", x86_dm__event_rows, 5, 0};

static const struct x86_dm__row x86_dm__posted_rows[] = {
    {"gpa", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_posted, gpa),
     offsetof(struct x86_dm_posted, gpa), sizeof(uint64_t), 0, NULL, NULL},
    {"data", X86_DM__BLOB, X86_DM__REQUIRED, 4096, 0, offsetof(struct x86_dm_posted, data),
     offsetof(struct x86_dm_posted, data), sizeof(struct x86_dm_blob), 0, NULL, NULL},
    {"size", X86_DM__U, X86_DM__REQUIRED, 8, 0, offsetof(struct x86_dm_posted, size),
     offsetof(struct x86_dm_posted, size), sizeof(uint8_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__posted_table = {"Posted", x86_dm__posted_rows, 3, 0};

static const struct x86_dm__row x86_dm__patch_rows[] = {
    {"ram", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_patch, ram),
     offsetof(struct x86_dm_patch, ram), sizeof(uint32_t), 0, NULL, NULL},
    {"offset", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_patch, offset),
     offsetof(struct x86_dm_patch, offset), sizeof(uint64_t), 0, NULL, NULL},
    {"data", X86_DM__BLOB, X86_DM__REQUIRED, 4096, 0, offsetof(struct x86_dm_patch, data),
     offsetof(struct x86_dm_patch, data), sizeof(struct x86_dm_blob), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__patch_table = {"Patch", x86_dm__patch_rows, 3, 0};

static const struct x86_dm__row x86_dm__page_range_rows[] = {
    {"ram", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_page_range, ram),
     offsetof(struct x86_dm_page_range, ram), sizeof(uint32_t), 0, NULL, NULL},
    {"first", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_page_range, first),
     offsetof(struct x86_dm_page_range, first), sizeof(uint64_t), 0, NULL, NULL},
    {"count", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_page_range, count),
     offsetof(struct x86_dm_page_range, count), sizeof(uint64_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__page_range_table = {"PageRange", x86_dm__page_range_rows, 3, 0};

static const struct x86_dm__row x86_dm__port_range_rows[] = {
    {"first", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_port_range, first),
     offsetof(struct x86_dm_port_range, first), sizeof(uint16_t), 0, NULL, NULL},
    {"last", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_port_range, last),
     offsetof(struct x86_dm_port_range, last), sizeof(uint16_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__port_range_table = {"PortRange", x86_dm__port_range_rows, 2, 0};

static const struct x86_dm__row x86_dm__failing_rows[] = {
    {"rule", X86_DM__TEXT, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_failing, rule),
     offsetof(struct x86_dm_failing, rule), sizeof(const char *), 0, NULL, NULL},
    {"field", X86_DM__TEXT, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_failing, field),
     offsetof(struct x86_dm_failing, field), sizeof(const char *), 0, NULL, NULL},
    {"actual", X86_DM__TEXT, X86_DM__REQUIRED, 128, 0, offsetof(struct x86_dm_failing, actual),
     offsetof(struct x86_dm_failing, actual), sizeof(const char *), 0, NULL, NULL},
    {"expected", X86_DM__TEXT, X86_DM__REQUIRED, 128, 0, offsetof(struct x86_dm_failing, expected),
     offsetof(struct x86_dm_failing, expected), sizeof(const char *), 0, NULL, NULL},
    {"section", X86_DM__TEXT, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_failing, section),
     offsetof(struct x86_dm_failing, section), sizeof(const char *), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__failing_table = {"Failing", x86_dm__failing_rows, 5, 0};

static const struct x86_dm__row x86_dm__vcpu_counters_rows[] = {
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_vcpu_counters, vcpu),
     offsetof(struct x86_dm_vcpu_counters, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"requests", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, requests),
     offsetof(struct x86_dm_vcpu_counters, requests), sizeof(uint64_t), 0, NULL, NULL},
    {"io", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, io),
     offsetof(struct x86_dm_vcpu_counters, io), sizeof(uint64_t), 0, NULL, NULL},
    {"instructions", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, instructions),
     offsetof(struct x86_dm_vcpu_counters, instructions), sizeof(uint64_t), 0, NULL, NULL},
    {"steps", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, steps),
     offsetof(struct x86_dm_vcpu_counters, steps), sizeof(uint64_t), 0, NULL, NULL},
    {"bytes_in", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, bytes_in),
     offsetof(struct x86_dm_vcpu_counters, bytes_in), sizeof(uint64_t), 0, NULL, NULL},
    {"bytes_out", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, bytes_out),
     offsetof(struct x86_dm_vcpu_counters, bytes_out), sizeof(uint64_t), 0, NULL, NULL},
    {"errors", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_counters, errors),
     offsetof(struct x86_dm_vcpu_counters, errors), sizeof(uint64_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__vcpu_counters_table = {"VcpuCounters", x86_dm__vcpu_counters_rows, 8, 0};

static const struct x86_dm__row x86_dm__map_rows[] = {
    {"generation", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_map, generation),
     offsetof(struct x86_dm_map, generation), sizeof(uint64_t), 0, NULL, NULL},
    {"regions", X86_DM__RECORD, X86_DM__REQUIRED, 0, 1024, offsetof(struct x86_dm_map, regions),
     offsetof(struct x86_dm_map, n_regions), sizeof(struct x86_dm_region), 0, NULL, &x86_dm__region_table},
    {"a20", X86_DM__FLAG, X86_DM__REQUIRED, 0, 0, offsetof(struct x86_dm_map, a20),
     offsetof(struct x86_dm_map, a20), sizeof(bool), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__map_table = {"Map", x86_dm__map_rows, 3, 0};

static const struct x86_dm__row x86_dm__hello_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_hello, seq),
     offsetof(struct x86_dm_hello, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"min_version", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_hello, min_version),
     offsetof(struct x86_dm_hello, min_version), sizeof(uint16_t), 0, NULL, NULL},
    {"max_version", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_hello, max_version),
     offsetof(struct x86_dm_hello, max_version), sizeof(uint16_t), 0, NULL, NULL},
    {"features", X86_DM__TEXT, X86_DM__OPTIONAL, 32, 64, offsetof(struct x86_dm_hello, features),
     offsetof(struct x86_dm_hello, n_features), sizeof(const char *), 0, NULL, NULL},
    {"name", X86_DM__TEXT, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_hello, name),
     offsetof(struct x86_dm_hello, name), sizeof(const char *), 0, NULL, NULL},
    {"resume", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_hello, resume),
     offsetof(struct x86_dm_hello, resume), sizeof(uint32_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_hello, epoch),
     offsetof(struct x86_dm_hello, epoch), sizeof(uint32_t), 1, NULL, NULL},
    {"secret", X86_DM__BLOB, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_hello, secret),
     offsetof(struct x86_dm_hello, secret), sizeof(struct x86_dm_blob), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__hello_table = {"hello", x86_dm__hello_rows, 8, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__welcome_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_welcome, seq),
     offsetof(struct x86_dm_welcome, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"version", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_welcome, version),
     offsetof(struct x86_dm_welcome, version), sizeof(uint16_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, session),
     offsetof(struct x86_dm_welcome, session), sizeof(uint32_t), 0, NULL, NULL},
    {"features", X86_DM__TEXT, X86_DM__OPTIONAL, 32, 64, offsetof(struct x86_dm_welcome, features),
     offsetof(struct x86_dm_welcome, n_features), sizeof(const char *), 0, NULL, NULL},
    {"max_message", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, max_message),
     offsetof(struct x86_dm_welcome, max_message), sizeof(uint32_t), 0, NULL, NULL},
    {"max_control", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, max_control),
     offsetof(struct x86_dm_welcome, max_control), sizeof(uint32_t), 0, NULL, NULL},
    {"max_data", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, max_data),
     offsetof(struct x86_dm_welcome, max_data), sizeof(uint32_t), 0, NULL, NULL},
    {"max_regions", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, max_regions),
     offsetof(struct x86_dm_welcome, max_regions), sizeof(uint32_t), 0, NULL, NULL},
    {"max_vcpus", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, max_vcpus),
     offsetof(struct x86_dm_welcome, max_vcpus), sizeof(uint32_t), 0, NULL, NULL},
    {"timeout_ms", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_welcome, timeout_ms),
     offsetof(struct x86_dm_welcome, timeout_ms), sizeof(uint32_t), 0, NULL, NULL},
    {"ram_socket", X86_DM__TEXT, X86_DM__OPTIONAL, 108, 0, offsetof(struct x86_dm_welcome, ram_socket),
     offsetof(struct x86_dm_welcome, ram_socket), sizeof(const char *), 0, NULL, NULL},
    {"daemon", X86_DM__TEXT, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_welcome, daemon),
     offsetof(struct x86_dm_welcome, daemon), sizeof(const char *), 0, NULL, NULL},
    {"engine", X86_DM__TEXT, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_welcome, engine),
     offsetof(struct x86_dm_welcome, engine), sizeof(const char *), 0, NULL, NULL},
    {"engine_note", X86_DM__TEXT, X86_DM__OPTIONAL, 512, 0, offsetof(struct x86_dm_welcome, engine_note),
     offsetof(struct x86_dm_welcome, engine_note), sizeof(const char *), 0, NULL, NULL},
    {"secret", X86_DM__BLOB, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_welcome, secret),
     offsetof(struct x86_dm_welcome, secret), sizeof(struct x86_dm_blob), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__welcome_table = {"welcome", x86_dm__welcome_rows, 15, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__ram_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_ram, seq),
     offsetof(struct x86_dm_ram, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ram, session),
     offsetof(struct x86_dm_ram, session), sizeof(uint32_t), 0, NULL, NULL},
    {"ram", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ram, ram),
     offsetof(struct x86_dm_ram, ram), sizeof(uint32_t), 0, NULL, NULL},
    {"size", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_ram, size),
     offsetof(struct x86_dm_ram, size), sizeof(uint64_t), 0, NULL, NULL},
    {"path", X86_DM__TEXT, X86_DM__OPTIONAL, 4096, 0, offsetof(struct x86_dm_ram, path),
     offsetof(struct x86_dm_ram, path), sizeof(const char *), 0, NULL, NULL},
    {"messages", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_ram, messages),
     offsetof(struct x86_dm_ram, messages), sizeof(bool), 0, NULL, NULL},
    {"secret", X86_DM__BLOB, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_ram, secret),
     offsetof(struct x86_dm_ram, secret), sizeof(struct x86_dm_blob), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__ram_table = {"ram", x86_dm__ram_rows, 7, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__ram_remove_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_ram_remove, seq),
     offsetof(struct x86_dm_ram_remove, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ram_remove, session),
     offsetof(struct x86_dm_ram_remove, session), sizeof(uint32_t), 0, NULL, NULL},
    {"ram", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ram_remove, ram),
     offsetof(struct x86_dm_ram_remove, ram), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__ram_remove_table = {"ram-remove", x86_dm__ram_remove_rows, 3, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__memory_map_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_memory_map, seq),
     offsetof(struct x86_dm_memory_map, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_memory_map, session),
     offsetof(struct x86_dm_memory_map, session), sizeof(uint32_t), 0, NULL, NULL},
    {"map", X86_DM__RECORD, X86_DM__REQUIRED, 0, 0, offsetof(struct x86_dm_memory_map, map),
     offsetof(struct x86_dm_memory_map, map), sizeof(struct x86_dm_map), 0, NULL, &x86_dm__map_table},
};
static const struct x86_dm__table x86_dm__memory_map_table = {"memory-map", x86_dm__memory_map_rows, 3, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__state_ports_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_state_ports, seq),
     offsetof(struct x86_dm_state_ports, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_state_ports, session),
     offsetof(struct x86_dm_state_ports, session), sizeof(uint32_t), 0, NULL, NULL},
    {"ports", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 256, offsetof(struct x86_dm_state_ports, ports),
     offsetof(struct x86_dm_state_ports, n_ports), sizeof(struct x86_dm_port_range), 0, NULL, &x86_dm__port_range_table},
};
static const struct x86_dm__table x86_dm__state_ports_table = {"state-ports", x86_dm__state_ports_rows, 3, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__vcpu_create_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_create, seq),
     offsetof(struct x86_dm_vcpu_create, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_vcpu_create, session),
     offsetof(struct x86_dm_vcpu_create, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_vcpu_create, vcpu),
     offsetof(struct x86_dm_vcpu_create, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"model", X86_DM__TEXT, X86_DM__OPTIONAL, 16, 0, offsetof(struct x86_dm_vcpu_create, model),
     offsetof(struct x86_dm_vcpu_create, model), sizeof(const char *), 0, "p6", NULL},
    {"cpuid", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 256, offsetof(struct x86_dm_vcpu_create, cpuid),
     offsetof(struct x86_dm_vcpu_create, n_cpuid), sizeof(struct x86_dm_cpuid), 0, NULL, &x86_dm__cpuid_table},
};
static const struct x86_dm__table x86_dm__vcpu_create_table = {"vcpu-create", x86_dm__vcpu_create_rows, 5, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__vcpu_ready_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_ready, seq),
     offsetof(struct x86_dm_vcpu_ready, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_vcpu_ready, session),
     offsetof(struct x86_dm_vcpu_ready, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_vcpu_ready, vcpu),
     offsetof(struct x86_dm_vcpu_ready, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"endpoint", X86_DM__TEXT, X86_DM__REQUIRED, 256, 0, offsetof(struct x86_dm_vcpu_ready, endpoint),
     offsetof(struct x86_dm_vcpu_ready, endpoint), sizeof(const char *), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__vcpu_ready_table = {"vcpu-ready", x86_dm__vcpu_ready_rows, 4, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__vcpu_destroy_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_vcpu_destroy, seq),
     offsetof(struct x86_dm_vcpu_destroy, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_vcpu_destroy, session),
     offsetof(struct x86_dm_vcpu_destroy, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_vcpu_destroy, vcpu),
     offsetof(struct x86_dm_vcpu_destroy, vcpu), sizeof(uint16_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__vcpu_destroy_table = {"vcpu-destroy", x86_dm__vcpu_destroy_rows, 3, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__query_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_query, seq),
     offsetof(struct x86_dm_query, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_query, session),
     offsetof(struct x86_dm_query, session), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__query_table = {"query", x86_dm__query_rows, 2, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__counters_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_counters, seq),
     offsetof(struct x86_dm_counters, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_counters, session),
     offsetof(struct x86_dm_counters, session), sizeof(uint32_t), 0, NULL, NULL},
    {"generation", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_counters, generation),
     offsetof(struct x86_dm_counters, generation), sizeof(uint64_t), 0, NULL, NULL},
    {"vcpus", X86_DM__RECORD, X86_DM__REQUIRED, 0, 256, offsetof(struct x86_dm_counters, vcpus),
     offsetof(struct x86_dm_counters, n_vcpus), sizeof(struct x86_dm_vcpu_counters), 0, NULL, &x86_dm__vcpu_counters_table},
};
static const struct x86_dm__table x86_dm__counters_table = {"counters", x86_dm__counters_rows, 4, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__ping_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_ping, seq),
     offsetof(struct x86_dm_ping, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ping, session),
     offsetof(struct x86_dm_ping, session), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__ping_table = {"ping", x86_dm__ping_rows, 2, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__bye_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_bye, seq),
     offsetof(struct x86_dm_bye, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_bye, session),
     offsetof(struct x86_dm_bye, session), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__bye_table = {"bye", x86_dm__bye_rows, 2, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__ok_rows[] = {
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_ok, seq),
     offsetof(struct x86_dm_ok, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_ok, session),
     offsetof(struct x86_dm_ok, session), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__ok_table = {"ok", x86_dm__ok_rows, 2, X86_DM_MAX_CONTROL};

static const struct x86_dm__row x86_dm__emulate_rows[] = {
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_emulate, session),
     offsetof(struct x86_dm_emulate, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_emulate, vcpu),
     offsetof(struct x86_dm_emulate, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_emulate, epoch),
     offsetof(struct x86_dm_emulate, epoch), sizeof(uint32_t), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_emulate, seq),
     offsetof(struct x86_dm_emulate, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"generation", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_emulate, generation),
     offsetof(struct x86_dm_emulate, generation), sizeof(uint64_t), 0, NULL, NULL},
    {"base", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_emulate, base),
     offsetof(struct x86_dm_emulate, base), sizeof(uint64_t), 0, NULL, NULL},
    {"state", X86_DM__STATE, X86_DM__REQUIRED, 0, 0, offsetof(struct x86_dm_emulate, state),
     offsetof(struct x86_dm_emulate, state), sizeof(struct x86_dm_groups), 0, NULL, NULL},
    {"reason", X86_DM__WORD, X86_DM__OPTIONAL, 5, 0, offsetof(struct x86_dm_emulate, reason),
     offsetof(struct x86_dm_emulate, reason), sizeof(enum x86_dm_reason), 0, NULL, x86_dm__reason_words},
    {"until", X86_DM__WORD, X86_DM__OPTIONAL, 8, 0, offsetof(struct x86_dm_emulate, until),
     offsetof(struct x86_dm_emulate, until), sizeof(enum x86_dm_until), 7, NULL, x86_dm__until_words},
    {"steps", X86_DM__U, X86_DM__NOT_SAID, 64, 0, offsetof(struct x86_dm_emulate, steps),
     offsetof(struct x86_dm_emulate, has_steps), sizeof(uint64_t), 0, NULL, NULL},
    {"microseconds", X86_DM__U, X86_DM__NOT_SAID, 64, 0, offsetof(struct x86_dm_emulate, microseconds),
     offsetof(struct x86_dm_emulate, has_microseconds), sizeof(uint64_t), 0, NULL, NULL},
    {"window", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_emulate, window),
     offsetof(struct x86_dm_emulate, window), sizeof(bool), 0, NULL, NULL},
    {"acknowledge", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_emulate, acknowledge),
     offsetof(struct x86_dm_emulate, acknowledge), sizeof(bool), 0, NULL, NULL},
    {"inject", X86_DM__RECORD, X86_DM__NOT_SAID, 0, 0, offsetof(struct x86_dm_emulate, inject),
     offsetof(struct x86_dm_emulate, has_inject), sizeof(struct x86_dm_event), 0, NULL, &x86_dm__event_table},
    {"code", X86_DM__BLOB, X86_DM__OPTIONAL, 15, 0, offsetof(struct x86_dm_emulate, code),
     offsetof(struct x86_dm_emulate, code), sizeof(struct x86_dm_blob), 0, NULL, NULL},
    {"mmio", X86_DM__U, X86_DM__NOT_SAID, 64, 0, offsetof(struct x86_dm_emulate, mmio),
     offsetof(struct x86_dm_emulate, has_mmio), sizeof(uint64_t), 0, NULL, NULL},
    {"explain", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_emulate, explain),
     offsetof(struct x86_dm_emulate, explain), sizeof(bool), 0, NULL, NULL},
    {"checkpoint", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_emulate, checkpoint),
     offsetof(struct x86_dm_emulate, checkpoint), sizeof(bool), 0, NULL, NULL},
    {"changed", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 2048, offsetof(struct x86_dm_emulate, changed),
     offsetof(struct x86_dm_emulate, n_changed), sizeof(struct x86_dm_page_range), 0, NULL, &x86_dm__page_range_table},
    {"applied", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_emulate, applied),
     offsetof(struct x86_dm_emulate, applied), sizeof(uint64_t), 0, NULL, NULL},
    {"secret", X86_DM__BLOB, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_emulate, secret),
     offsetof(struct x86_dm_emulate, secret), sizeof(struct x86_dm_blob), 0, NULL, NULL},
    {"stop_at", X86_DM__U, X86_DM__NOT_SAID, 32, 0, offsetof(struct x86_dm_emulate, stop_at),
     offsetof(struct x86_dm_emulate, has_stop_at), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__emulate_table = {"emulate", x86_dm__emulate_rows, 22, X86_DM_MAX_MESSAGE};

static const struct x86_dm__row x86_dm__io_rows[] = {
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io, session),
     offsetof(struct x86_dm_io, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_io, vcpu),
     offsetof(struct x86_dm_io, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io, epoch),
     offsetof(struct x86_dm_io, epoch), sizeof(uint32_t), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_io, seq),
     offsetof(struct x86_dm_io, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"io", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io, io),
     offsetof(struct x86_dm_io, io), sizeof(uint32_t), 0, NULL, NULL},
    {"kind", X86_DM__WORD, X86_DM__REQUIRED, 10, 0, offsetof(struct x86_dm_io, kind),
     offsetof(struct x86_dm_io, kind), sizeof(enum x86_dm_io_kind), 0, NULL, x86_dm__io_kind_words},
    {"address", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io, address),
     offsetof(struct x86_dm_io, address), sizeof(uint64_t), 0, NULL, NULL},
    {"size", X86_DM__U, X86_DM__OPTIONAL, 8, 0, offsetof(struct x86_dm_io, size),
     offsetof(struct x86_dm_io, size), sizeof(uint8_t), 0, NULL, NULL},
    {"count", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_io, count),
     offsetof(struct x86_dm_io, count), sizeof(uint32_t), 1, NULL, NULL},
    {"down", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_io, down),
     offsetof(struct x86_dm_io, down), sizeof(bool), 0, NULL, NULL},
    {"data", X86_DM__BLOB, X86_DM__OPTIONAL, 262144, 0, offsetof(struct x86_dm_io, data),
     offsetof(struct x86_dm_io, data), sizeof(struct x86_dm_blob), 0, NULL, NULL},
    {"posted", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 8192, offsetof(struct x86_dm_io, posted),
     offsetof(struct x86_dm_io, n_posted), sizeof(struct x86_dm_posted), 0, NULL, &x86_dm__posted_table},
    {"pages", X86_DM__U, X86_DM__OPTIONAL, 64, 32768, offsetof(struct x86_dm_io, pages),
     offsetof(struct x86_dm_io, n_pages), sizeof(uint64_t), 0, NULL, NULL},
    {"tlb_flush", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_io, tlb_flush),
     offsetof(struct x86_dm_io, tlb_flush), sizeof(bool), 0, NULL, NULL},
    {"instructions", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io, instructions),
     offsetof(struct x86_dm_io, instructions), sizeof(uint64_t), 0, NULL, NULL},
    {"steps", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io, steps),
     offsetof(struct x86_dm_io, steps), sizeof(uint64_t), 0, NULL, NULL},
    {"checkpoint", X86_DM__STATE, X86_DM__NOT_SAID, 0, 0, offsetof(struct x86_dm_io, checkpoint),
     offsetof(struct x86_dm_io, has_checkpoint), sizeof(struct x86_dm_groups), 0, NULL, NULL},
    {"patches", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 2048, offsetof(struct x86_dm_io, patches),
     offsetof(struct x86_dm_io, n_patches), sizeof(struct x86_dm_patch), 0, NULL, &x86_dm__patch_table},
    {"version", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io, version),
     offsetof(struct x86_dm_io, version), sizeof(uint64_t), 0, NULL, NULL},
    {"ram", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_io, ram),
     offsetof(struct x86_dm_io, ram), sizeof(uint32_t), 0, NULL, NULL},
    {"registers", X86_DM__U, X86_DM__OPTIONAL, 64, 16, offsetof(struct x86_dm_io, registers),
     offsetof(struct x86_dm_io, n_registers), sizeof(uint64_t), 0, NULL, NULL},
    {"target", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io, target),
     offsetof(struct x86_dm_io, target), sizeof(uint64_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__io_table = {"io", x86_dm__io_rows, 22, X86_DM_MAX_MESSAGE};

static const struct x86_dm__row x86_dm__io_answer_rows[] = {
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io_answer, session),
     offsetof(struct x86_dm_io_answer, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_io_answer, vcpu),
     offsetof(struct x86_dm_io_answer, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io_answer, epoch),
     offsetof(struct x86_dm_io_answer, epoch), sizeof(uint32_t), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_io_answer, seq),
     offsetof(struct x86_dm_io_answer, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"io", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_io_answer, io),
     offsetof(struct x86_dm_io_answer, io), sizeof(uint32_t), 0, NULL, NULL},
    {"data", X86_DM__BLOB, X86_DM__OPTIONAL, 262144, 0, offsetof(struct x86_dm_io_answer, data),
     offsetof(struct x86_dm_io_answer, data), sizeof(struct x86_dm_blob), 0, NULL, NULL},
    {"fault", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_io_answer, fault),
     offsetof(struct x86_dm_io_answer, fault), sizeof(bool), 0, NULL, NULL},
    {"map", X86_DM__RECORD, X86_DM__NOT_SAID, 0, 0, offsetof(struct x86_dm_io_answer, map),
     offsetof(struct x86_dm_io_answer, has_map), sizeof(struct x86_dm_map), 0, NULL, &x86_dm__map_table},
    {"window", X86_DM__FLAG, X86_DM__NOT_SAID, 0, 0, offsetof(struct x86_dm_io_answer, window),
     offsetof(struct x86_dm_io_answer, has_window), sizeof(bool), 0, NULL, NULL},
    {"stop", X86_DM__WORD, X86_DM__OPTIONAL, 6, 0, offsetof(struct x86_dm_io_answer, stop),
     offsetof(struct x86_dm_io_answer, stop), sizeof(enum x86_dm_stop), 0, NULL, x86_dm__stop_words},
    {"changed", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 2048, offsetof(struct x86_dm_io_answer, changed),
     offsetof(struct x86_dm_io_answer, n_changed), sizeof(struct x86_dm_page_range), 0, NULL, &x86_dm__page_range_table},
    {"applied", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_io_answer, applied),
     offsetof(struct x86_dm_io_answer, applied), sizeof(uint64_t), 0, NULL, NULL},
    {"registers", X86_DM__U, X86_DM__OPTIONAL, 64, 16, offsetof(struct x86_dm_io_answer, registers),
     offsetof(struct x86_dm_io_answer, n_registers), sizeof(uint64_t), 0, NULL, NULL},
    {"copied", X86_DM__U, X86_DM__NOT_SAID, 32, 0, offsetof(struct x86_dm_io_answer, copied),
     offsetof(struct x86_dm_io_answer, has_copied), sizeof(uint32_t), 0, NULL, NULL},
    {"native", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_io_answer, native),
     offsetof(struct x86_dm_io_answer, native), sizeof(bool), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__io_answer_table = {"io-answer", x86_dm__io_answer_rows, 15, X86_DM_MAX_MESSAGE};

static const struct x86_dm__row x86_dm__kick_rows[] = {
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_kick, session),
     offsetof(struct x86_dm_kick, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_kick, vcpu),
     offsetof(struct x86_dm_kick, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_kick, epoch),
     offsetof(struct x86_dm_kick, epoch), sizeof(uint32_t), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_kick, seq),
     offsetof(struct x86_dm_kick, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"stop", X86_DM__WORD, X86_DM__OPTIONAL, 6, 0, offsetof(struct x86_dm_kick, stop),
     offsetof(struct x86_dm_kick, stop), sizeof(enum x86_dm_stop), 1, NULL, x86_dm__stop_words},
    {"window", X86_DM__FLAG, X86_DM__NOT_SAID, 0, 0, offsetof(struct x86_dm_kick, window),
     offsetof(struct x86_dm_kick, has_window), sizeof(bool), 0, NULL, NULL},
    {"changed", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 2048, offsetof(struct x86_dm_kick, changed),
     offsetof(struct x86_dm_kick, n_changed), sizeof(struct x86_dm_page_range), 0, NULL, &x86_dm__page_range_table},
};
static const struct x86_dm__table x86_dm__kick_table = {"kick", x86_dm__kick_rows, 7, X86_DM_MAX_MESSAGE};

static const struct x86_dm__row x86_dm__done_rows[] = {
    {"session", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_done, session),
     offsetof(struct x86_dm_done, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__REQUIRED, 16, 0, offsetof(struct x86_dm_done, vcpu),
     offsetof(struct x86_dm_done, vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__REQUIRED, 32, 0, offsetof(struct x86_dm_done, epoch),
     offsetof(struct x86_dm_done, epoch), sizeof(uint32_t), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__REQUIRED, 64, 0, offsetof(struct x86_dm_done, seq),
     offsetof(struct x86_dm_done, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"reason", X86_DM__WORD, X86_DM__REQUIRED, 14, 0, offsetof(struct x86_dm_done, reason),
     offsetof(struct x86_dm_done, reason), sizeof(enum x86_dm_done_reason), 0, NULL, x86_dm__done_reason_words},
    {"stop", X86_DM__WORD, X86_DM__OPTIONAL, 6, 0, offsetof(struct x86_dm_done, stop),
     offsetof(struct x86_dm_done, stop), sizeof(enum x86_dm_stop), 0, NULL, x86_dm__stop_words},
    {"address", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_done, address),
     offsetof(struct x86_dm_done, address), sizeof(uint64_t), 0, NULL, NULL},
    {"detail", X86_DM__TEXT, X86_DM__OPTIONAL, 512, 0, offsetof(struct x86_dm_done, detail),
     offsetof(struct x86_dm_done, detail), sizeof(const char *), 0, NULL, NULL},
    {"state", X86_DM__STATE, X86_DM__REQUIRED, 0, 0, offsetof(struct x86_dm_done, state),
     offsetof(struct x86_dm_done, state), sizeof(struct x86_dm_groups), 0, NULL, NULL},
    {"instructions", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_done, instructions),
     offsetof(struct x86_dm_done, instructions), sizeof(uint64_t), 0, NULL, NULL},
    {"steps", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_done, steps),
     offsetof(struct x86_dm_done, steps), sizeof(uint64_t), 0, NULL, NULL},
    {"posted", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 8192, offsetof(struct x86_dm_done, posted),
     offsetof(struct x86_dm_done, n_posted), sizeof(struct x86_dm_posted), 0, NULL, &x86_dm__posted_table},
    {"pages", X86_DM__U, X86_DM__OPTIONAL, 64, 32768, offsetof(struct x86_dm_done, pages),
     offsetof(struct x86_dm_done, n_pages), sizeof(uint64_t), 0, NULL, NULL},
    {"tlb_flush", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_done, tlb_flush),
     offsetof(struct x86_dm_done, tlb_flush), sizeof(bool), 0, NULL, NULL},
    {"failing", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 128, offsetof(struct x86_dm_done, failing),
     offsetof(struct x86_dm_done, n_failing), sizeof(struct x86_dm_failing), 0, NULL, &x86_dm__failing_table},
    {"closing", X86_DM__FLAG, X86_DM__OPTIONAL, 0, 0, offsetof(struct x86_dm_done, closing),
     offsetof(struct x86_dm_done, closing), sizeof(bool), 0, NULL, NULL},
    {"patches", X86_DM__RECORD, X86_DM__OPTIONAL, 0, 2048, offsetof(struct x86_dm_done, patches),
     offsetof(struct x86_dm_done, n_patches), sizeof(struct x86_dm_patch), 0, NULL, &x86_dm__patch_table},
    {"version", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_done, version),
     offsetof(struct x86_dm_done, version), sizeof(uint64_t), 0, NULL, NULL},
    {"fault", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_done, fault),
     offsetof(struct x86_dm_done, fault), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__done_table = {"done", x86_dm__done_rows, 19, X86_DM_MAX_MESSAGE};

static const struct x86_dm__row x86_dm__error_rows[] = {
    {"error", X86_DM__WORD, X86_DM__REQUIRED, 19, 0, offsetof(struct x86_dm_error, error),
     offsetof(struct x86_dm_error, error), sizeof(enum x86_dm_error_class), 0, NULL, x86_dm__error_class_words},
    {"text", X86_DM__TEXT, X86_DM__REQUIRED, 512, 0, offsetof(struct x86_dm_error, text),
     offsetof(struct x86_dm_error, text), sizeof(const char *), 0, NULL, NULL},
    {"expected", X86_DM__TEXT, X86_DM__OPTIONAL, 512, 0, offsetof(struct x86_dm_error, expected),
     offsetof(struct x86_dm_error, expected), sizeof(const char *), 0, NULL, NULL},
    {"field", X86_DM__TEXT, X86_DM__OPTIONAL, 128, 0, offsetof(struct x86_dm_error, field),
     offsetof(struct x86_dm_error, field), sizeof(const char *), 0, NULL, NULL},
    {"seq", X86_DM__U, X86_DM__OPTIONAL, 64, 0, offsetof(struct x86_dm_error, seq),
     offsetof(struct x86_dm_error, seq), sizeof(uint64_t), 0, NULL, NULL},
    {"session", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_error, session),
     offsetof(struct x86_dm_error, session), sizeof(uint32_t), 0, NULL, NULL},
    {"vcpu", X86_DM__U, X86_DM__NOT_SAID, 16, 0, offsetof(struct x86_dm_error, vcpu),
     offsetof(struct x86_dm_error, has_vcpu), sizeof(uint16_t), 0, NULL, NULL},
    {"epoch", X86_DM__U, X86_DM__OPTIONAL, 32, 0, offsetof(struct x86_dm_error, epoch),
     offsetof(struct x86_dm_error, epoch), sizeof(uint32_t), 0, NULL, NULL},
};
static const struct x86_dm__table x86_dm__error_table = {"error", x86_dm__error_rows, 8, X86_DM_MAX_MESSAGE};

static const struct x86_dm__table *const x86_dm__tables[X86_DM_TYPES] = {
    &x86_dm__hello_table,
    &x86_dm__welcome_table,
    &x86_dm__ram_table,
    &x86_dm__ram_remove_table,
    &x86_dm__memory_map_table,
    &x86_dm__state_ports_table,
    &x86_dm__vcpu_create_table,
    &x86_dm__vcpu_ready_table,
    &x86_dm__vcpu_destroy_table,
    &x86_dm__query_table,
    &x86_dm__counters_table,
    &x86_dm__ping_table,
    &x86_dm__bye_table,
    &x86_dm__ok_table,
    &x86_dm__emulate_table,
    &x86_dm__io_table,
    &x86_dm__io_answer_table,
    &x86_dm__kick_table,
    &x86_dm__done_table,
    &x86_dm__error_table,
};
static const char *const x86_dm__features[] = {
    "ram-fd", "ram-path", "coalesced", "acknowledge", "checkpoint", "explain", "ram-messages", "state-ports", "memory-copy", "native", "stop-at"
};
static const struct x86_dm__slot x86_dm__general_slots[] = {
    {"gpr[0]", 64, offsetof(struct x86_dm_state, gpr[0])},
    {"gpr[1]", 64, offsetof(struct x86_dm_state, gpr[1])},
    {"gpr[2]", 64, offsetof(struct x86_dm_state, gpr[2])},
    {"gpr[3]", 64, offsetof(struct x86_dm_state, gpr[3])},
    {"gpr[4]", 64, offsetof(struct x86_dm_state, gpr[4])},
    {"gpr[5]", 64, offsetof(struct x86_dm_state, gpr[5])},
    {"gpr[6]", 64, offsetof(struct x86_dm_state, gpr[6])},
    {"gpr[7]", 64, offsetof(struct x86_dm_state, gpr[7])},
    {"rip", 64, offsetof(struct x86_dm_state, rip)},
    {"rflags", 64, offsetof(struct x86_dm_state, rflags)},
};
static const struct x86_dm__slot x86_dm__segments_slots[] = {
    {"es.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_ES].selector)},
    {"es.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_ES].base)},
    {"es.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_ES].limit)},
    {"es.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_ES].attributes)},
    {"es.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_ES].unusable)},
    {"cs.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_CS].selector)},
    {"cs.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_CS].base)},
    {"cs.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_CS].limit)},
    {"cs.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_CS].attributes)},
    {"cs.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_CS].unusable)},
    {"ss.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_SS].selector)},
    {"ss.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_SS].base)},
    {"ss.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_SS].limit)},
    {"ss.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_SS].attributes)},
    {"ss.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_SS].unusable)},
    {"ds.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_DS].selector)},
    {"ds.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_DS].base)},
    {"ds.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_DS].limit)},
    {"ds.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_DS].attributes)},
    {"ds.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_DS].unusable)},
    {"fs.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_FS].selector)},
    {"fs.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_FS].base)},
    {"fs.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_FS].limit)},
    {"fs.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_FS].attributes)},
    {"fs.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_FS].unusable)},
    {"gs.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_GS].selector)},
    {"gs.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_GS].base)},
    {"gs.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_GS].limit)},
    {"gs.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_GS].attributes)},
    {"gs.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_GS].unusable)},
    {"ldtr.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_LDTR].selector)},
    {"ldtr.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_LDTR].base)},
    {"ldtr.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_LDTR].limit)},
    {"ldtr.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_LDTR].attributes)},
    {"ldtr.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_LDTR].unusable)},
    {"tr.selector", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_TR].selector)},
    {"tr.base", 64, offsetof(struct x86_dm_state, seg[X86_DM_SEG_TR].base)},
    {"tr.limit", 32, offsetof(struct x86_dm_state, seg[X86_DM_SEG_TR].limit)},
    {"tr.attributes", 16, offsetof(struct x86_dm_state, seg[X86_DM_SEG_TR].attributes)},
    {"tr.unusable", 1, offsetof(struct x86_dm_state, seg[X86_DM_SEG_TR].unusable)},
};
static const struct x86_dm__slot x86_dm__tables_slots[] = {
    {"gdtr_base", 64, offsetof(struct x86_dm_state, gdtr_base)},
    {"gdtr_limit", 16, offsetof(struct x86_dm_state, gdtr_limit)},
    {"idtr_base", 64, offsetof(struct x86_dm_state, idtr_base)},
    {"idtr_limit", 16, offsetof(struct x86_dm_state, idtr_limit)},
};
static const struct x86_dm__slot x86_dm__control_slots[] = {
    {"cr0", 64, offsetof(struct x86_dm_state, cr0)},
    {"cr2", 64, offsetof(struct x86_dm_state, cr2)},
    {"cr3", 64, offsetof(struct x86_dm_state, cr3)},
    {"cr4", 64, offsetof(struct x86_dm_state, cr4)},
    {"cr8", 64, offsetof(struct x86_dm_state, cr8)},
    {"efer", 64, offsetof(struct x86_dm_state, efer)},
    {"pdpte[0]", 64, offsetof(struct x86_dm_state, pdpte[0])},
    {"pdpte[1]", 64, offsetof(struct x86_dm_state, pdpte[1])},
    {"pdpte[2]", 64, offsetof(struct x86_dm_state, pdpte[2])},
    {"pdpte[3]", 64, offsetof(struct x86_dm_state, pdpte[3])},
    {"cpl", 2, offsetof(struct x86_dm_state, cpl)},
};
static const struct x86_dm__slot x86_dm__debug_slots[] = {
    {"dr[0]", 64, offsetof(struct x86_dm_state, dr[0])},
    {"dr[1]", 64, offsetof(struct x86_dm_state, dr[1])},
    {"dr[2]", 64, offsetof(struct x86_dm_state, dr[2])},
    {"dr[3]", 64, offsetof(struct x86_dm_state, dr[3])},
    {"dr6", 64, offsetof(struct x86_dm_state, dr6)},
    {"dr7", 64, offsetof(struct x86_dm_state, dr7)},
};
static const struct x86_dm__slot x86_dm__msrs_slots[] = {
    {"sysenter_cs", 64, offsetof(struct x86_dm_state, sysenter_cs)},
    {"sysenter_esp", 64, offsetof(struct x86_dm_state, sysenter_esp)},
    {"sysenter_eip", 64, offsetof(struct x86_dm_state, sysenter_eip)},
    {"star", 64, offsetof(struct x86_dm_state, star)},
    {"lstar", 64, offsetof(struct x86_dm_state, lstar)},
    {"cstar", 64, offsetof(struct x86_dm_state, cstar)},
    {"fmask", 64, offsetof(struct x86_dm_state, fmask)},
    {"kernel_gs_base", 64, offsetof(struct x86_dm_state, kernel_gs_base)},
    {"tsc_aux", 64, offsetof(struct x86_dm_state, tsc_aux)},
    {"apic_base", 64, offsetof(struct x86_dm_state, apic_base)},
    {"misc_enable", 64, offsetof(struct x86_dm_state, misc_enable)},
    {"debugctl", 64, offsetof(struct x86_dm_state, debugctl)},
    {"pat", 64, offsetof(struct x86_dm_state, pat)},
    {"mtrr_def_type", 64, offsetof(struct x86_dm_state, mtrr_def_type)},
    {"mtrr_fixed[0]", 64, offsetof(struct x86_dm_state, mtrr_fixed[0])},
    {"mtrr_fixed[1]", 64, offsetof(struct x86_dm_state, mtrr_fixed[1])},
    {"mtrr_fixed[2]", 64, offsetof(struct x86_dm_state, mtrr_fixed[2])},
    {"mtrr_fixed[3]", 64, offsetof(struct x86_dm_state, mtrr_fixed[3])},
    {"mtrr_fixed[4]", 64, offsetof(struct x86_dm_state, mtrr_fixed[4])},
    {"mtrr_fixed[5]", 64, offsetof(struct x86_dm_state, mtrr_fixed[5])},
    {"mtrr_fixed[6]", 64, offsetof(struct x86_dm_state, mtrr_fixed[6])},
    {"mtrr_fixed[7]", 64, offsetof(struct x86_dm_state, mtrr_fixed[7])},
    {"mtrr_fixed[8]", 64, offsetof(struct x86_dm_state, mtrr_fixed[8])},
    {"mtrr_fixed[9]", 64, offsetof(struct x86_dm_state, mtrr_fixed[9])},
    {"mtrr_fixed[10]", 64, offsetof(struct x86_dm_state, mtrr_fixed[10])},
    {"mtrr_base[0]", 64, offsetof(struct x86_dm_state, mtrr_base[0])},
    {"mtrr_base[1]", 64, offsetof(struct x86_dm_state, mtrr_base[1])},
    {"mtrr_base[2]", 64, offsetof(struct x86_dm_state, mtrr_base[2])},
    {"mtrr_base[3]", 64, offsetof(struct x86_dm_state, mtrr_base[3])},
    {"mtrr_base[4]", 64, offsetof(struct x86_dm_state, mtrr_base[4])},
    {"mtrr_base[5]", 64, offsetof(struct x86_dm_state, mtrr_base[5])},
    {"mtrr_base[6]", 64, offsetof(struct x86_dm_state, mtrr_base[6])},
    {"mtrr_base[7]", 64, offsetof(struct x86_dm_state, mtrr_base[7])},
    {"mtrr_mask[0]", 64, offsetof(struct x86_dm_state, mtrr_mask[0])},
    {"mtrr_mask[1]", 64, offsetof(struct x86_dm_state, mtrr_mask[1])},
    {"mtrr_mask[2]", 64, offsetof(struct x86_dm_state, mtrr_mask[2])},
    {"mtrr_mask[3]", 64, offsetof(struct x86_dm_state, mtrr_mask[3])},
    {"mtrr_mask[4]", 64, offsetof(struct x86_dm_state, mtrr_mask[4])},
    {"mtrr_mask[5]", 64, offsetof(struct x86_dm_state, mtrr_mask[5])},
    {"mtrr_mask[6]", 64, offsetof(struct x86_dm_state, mtrr_mask[6])},
    {"mtrr_mask[7]", 64, offsetof(struct x86_dm_state, mtrr_mask[7])},
};
static const struct x86_dm__slot x86_dm__time_slots[] = {
    {"tsc", 64, offsetof(struct x86_dm_state, tsc)},
    {"tsc_host", 64, offsetof(struct x86_dm_state, tsc_host)},
    {"tsc_scale", 64, offsetof(struct x86_dm_state, tsc_scale)},
    {"tsc_offset", 64, offsetof(struct x86_dm_state, tsc_offset)},
};
static const struct x86_dm__slot x86_dm__events_slots[] = {
    {"activity", 8, offsetof(struct x86_dm_state, activity)},
    {"shadow", 2, offsetof(struct x86_dm_state, shadow)},
    {"nmi_blocked", 1, offsetof(struct x86_dm_state, nmi_blocked)},
    {"nmi_pending", 1, offsetof(struct x86_dm_state, nmi_pending)},
    {"smm", 1, offsetof(struct x86_dm_state, smm)},
    {"pending_debug", 64, offsetof(struct x86_dm_state, pending_debug)},
    {"inject_type", 8, offsetof(struct x86_dm_state, inject_type)},
    {"inject_vector", 8, offsetof(struct x86_dm_state, inject_vector)},
    {"inject_has_error", 1, offsetof(struct x86_dm_state, inject_has_error)},
    {"inject_error", 32, offsetof(struct x86_dm_state, inject_error)},
    {"inject_length", 8, offsetof(struct x86_dm_state, inject_length)},
    {"inject_payload", 64, offsetof(struct x86_dm_state, inject_payload)},
    {"inject_has_payload", 1, offsetof(struct x86_dm_state, inject_has_payload)},
};
static const struct x86_dm__slot x86_dm__fpu_slots[] = {
    {"fxsave", 4096, offsetof(struct x86_dm_state, fxsave)},
};
static const struct x86_dm__group x86_dm__groups[X86_DM_GROUPS] = {
    {"general", x86_dm__general_slots, 10},
    {"segments", x86_dm__segments_slots, 40},
    {"tables", x86_dm__tables_slots, 4},
    {"control", x86_dm__control_slots, 11},
    {"debug", x86_dm__debug_slots, 6},
    {"msrs", x86_dm__msrs_slots, 41},
    {"time", x86_dm__time_slots, 4},
    {"events", x86_dm__events_slots, 13},
    {"fpu", x86_dm__fpu_slots, 1},
};

/* State after RESET (SDM vol. 3A, table 10-1); what is 0 is left out. */
static const struct x86_dm__reset { uint32_t group, slot; uint64_t value; } x86_dm__reset[] = {
    {0, 2, UINT64_C(0x600)},
    {0, 8, UINT64_C(0xfff0)},
    {0, 9, UINT64_C(0x2)},
    {1, 2, UINT64_C(0xffff)},
    {1, 3, UINT64_C(0x93)},
    {1, 5, UINT64_C(0xf000)},
    {1, 6, UINT64_C(0xffff0000)},
    {1, 7, UINT64_C(0xffff)},
    {1, 8, UINT64_C(0x9b)},
    {1, 12, UINT64_C(0xffff)},
    {1, 13, UINT64_C(0x93)},
    {1, 17, UINT64_C(0xffff)},
    {1, 18, UINT64_C(0x93)},
    {1, 22, UINT64_C(0xffff)},
    {1, 23, UINT64_C(0x93)},
    {1, 27, UINT64_C(0xffff)},
    {1, 28, UINT64_C(0x93)},
    {1, 32, UINT64_C(0xffff)},
    {1, 33, UINT64_C(0x82)},
    {1, 37, UINT64_C(0xffff)},
    {1, 38, UINT64_C(0x8b)},
    {2, 1, UINT64_C(0xffff)},
    {2, 3, UINT64_C(0xffff)},
    {3, 0, UINT64_C(0x60000010)},
    {4, 4, UINT64_C(0xffff0ff0)},
    {4, 5, UINT64_C(0x400)},
    {5, 9, UINT64_C(0xfee00900)},
    {5, 12, UINT64_C(0x7040600070406)},
    {6, 2, UINT64_C(0x100000000)},
    {7, 6, UINT64_C(0xff)},
};
static const struct x86_dm__reset_byte { uint32_t at; uint8_t value; } x86_dm__reset_fxsave[] = {
    {0, 0x40},
    {24, 0x80},
    {25, 0x1f},
};

/* ------------------------------------------------------------------------------------------- failures */

static void x86_dm__say(char *out, size_t room, const char *text)
{
    size_t size = text ? strlen(text) : 0;

    if (size >= room) {
        for (size = room - 1; size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80; size--) {
            /* do not cut a character in two */
        }
    }
    if (size) {
        memcpy(out, text, size);
    }
    out[size] = 0;
}

__attribute__((format(printf, 3, 4))) static enum x86_dm_status
x86_dm__fail(struct x86_dm_failure *why, enum x86_dm_status status, const char *format, ...)
{
    va_list list;

    if (why) {
        memset(why, 0, sizeof(*why));
        why->status = status;
        why->error = X86_DM_ERROR_CLASS_BAD_MESSAGE;
        va_start(list, format);
        vsnprintf(why->text, sizeof(why->text), format, list);
        va_end(list);
    }
    return status;
}

static enum x86_dm_status x86_dm__no_memory(struct x86_dm_failure *why)
{
    return x86_dm__fail(why, X86_DM_NO_RESOURCES, "out of memory");
}

static enum x86_dm_status x86_dm__refused(struct x86_dm_failure *why, enum x86_dm_status status,
                                          const struct x86_dm_error *error)
{
    x86_dm__fail(why, status, "%s", "");
    if (why) {
        why->error = error->error;
        x86_dm__say(why->text, sizeof(why->text), error->text);
        x86_dm__say(why->expected, sizeof(why->expected), error->expected);
        x86_dm__say(why->field, sizeof(why->field), error->field);
    }
    return status;
}

/* Where in a message the codec is, for failures. */
struct x86_dm__place {
    struct x86_dm_failure *why;
    char path[129];
    size_t size;
};

static void x86_dm__append(struct x86_dm__place *at, const char *text, size_t size)
{
    size_t room = sizeof(at->path) - 1 - at->size;

    size = size < room ? size : room;
    memcpy(at->path + at->size, text, size);
    at->size += size;
    at->path[at->size] = 0;
}

/* Enter a field; `dot` is what comes before its name.  Every value is entered: no printf here. */
static size_t x86_dm__enter(struct x86_dm__place *at, const char *dot, const char *name)
{
    size_t before = at->size;

    x86_dm__append(at, dot, strlen(dot));
    x86_dm__append(at, name, strlen(name));
    return before;
}

static size_t x86_dm__enter_item(struct x86_dm__place *at, uint32_t index)
{
    char text[12] = "]";
    size_t before = at->size, size = 1;

    do {
        memmove(text + 1, text, size++);
        text[0] = (char)('0' + index % 10);
        index /= 10;
    } while (index);
    x86_dm__enter(at, "[", text);
    return before;
}

static void x86_dm__leave(struct x86_dm__place *at, size_t before)
{
    at->size = before;
    at->path[before] = 0;
}

__attribute__((format(printf, 3, 4))) static bool x86_dm__bad(struct x86_dm__place *at, const char *is,
                                                              const char *expected, ...)
{
    va_list list;

    x86_dm__fail(at->why, X86_DM_UNUSABLE, "%s is %s", at->path, is);
    if (at->why) {
        va_start(list, expected);
        vsnprintf(at->why->expected, sizeof(at->why->expected), expected, list);
        va_end(list);
        memcpy(at->why->field, at->path, at->size + 1);
    }
    return false;
}

/* ------------------------------------------------------------------------------------------- values */

static void *x86_dm__at(void *base, size_t offset)
{
    return (char *)base + offset;
}

static const void *x86_dm__in(const void *base, size_t offset)
{
    return (const char *)base + offset;
}

static uint64_t x86_dm__load(const void *from, uint32_t bits)
{
    return bits <= 8    ? *(const uint8_t *)from
           : bits <= 16 ? *(const uint16_t *)from
           : bits <= 32 ? *(const uint32_t *)from
                        : *(const uint64_t *)from;
}

static void x86_dm__store(void *to, uint32_t bits, uint64_t value)
{
    if (bits <= 8) {
        *(uint8_t *)to = (uint8_t)value;
    } else if (bits <= 16) {
        *(uint16_t *)to = (uint16_t)value;
    } else if (bits <= 32) {
        *(uint32_t *)to = (uint32_t)value;
    } else {
        *(uint64_t *)to = value;
    }
}

static bool x86_dm__fits(uint64_t value, uint32_t bits)
{
    return bits >= 64 || value >> bits == 0;
}

/* Enumerations are as wide as unsigned (GCC and Clang without -fshort-enums). */
_Static_assert(sizeof(enum x86_dm_stop) == sizeof(unsigned), "enumerations must be as wide as int");

static unsigned x86_dm__load_word(const void *from)
{
    unsigned value;

    memcpy(&value, from, sizeof(value));
    return value;
}

static void x86_dm__store_word(void *to, unsigned value)
{
    memcpy(to, &value, sizeof(value));
}

/* Tell whether bytes are UTF-8 (RFC 3629: no surrogates, no overlong forms). */
static bool x86_dm__is_utf8(const uint8_t *p, size_t size)
{
    size_t i = 0;

    while (i < size) {
        uint32_t c = p[i++], least;
        unsigned more;

        if (c < 0x80) {
            continue;
        }
        if (c < 0xc2 || c > 0xf4) {
            return false;
        }
        more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        least = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
        c &= 0x3fu >> more;
        for (; more; more--) {
            if (i == size || (p[i] & 0xc0) != 0x80) {
                return false;
            }
            c = c << 6 | (p[i++] & 0x3fu);
        }
        if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
            return false;
        }
    }
    return true;
}

static const char *x86_dm__name(const char *const *words, unsigned n, unsigned index)
{
    return index < n ? words[index] : "?";
}

#define X86_DM__NAME(of, value) x86_dm__name(of, sizeof(of) / sizeof((of)[0]), (unsigned)(value))

const char *x86_dm_io_kind_name(enum x86_dm_io_kind kind)
{
    return X86_DM__NAME(x86_dm__io_kind_words, kind);
}

const char *x86_dm_done_reason_name(enum x86_dm_done_reason reason)
{
    return X86_DM__NAME(x86_dm__done_reason_words, reason);
}

const char *x86_dm_error_class_name(enum x86_dm_error_class error)
{
    return X86_DM__NAME(x86_dm__error_class_words, error);
}

/* ------------------------------------------------------------------------------------------- state */

static size_t x86_dm__slot_size(const struct x86_dm__slot *slot)
{
    return slot->width > 64 ? slot->width / 8 : slot->width > 32 ? 8 : slot->width > 16 ? 4 : slot->width > 8 ? 2 : 1;
}

void x86_dm_state_reset(struct x86_dm_state *state)
{
    memset(state, 0, sizeof(*state));
    for (size_t i = 0; i < sizeof(x86_dm__reset) / sizeof(x86_dm__reset[0]); i++) {
        const struct x86_dm__slot *slot = &x86_dm__groups[x86_dm__reset[i].group].slots[x86_dm__reset[i].slot];
        x86_dm__store(x86_dm__at(state, slot->offset), slot->width, x86_dm__reset[i].value);
    }
    for (size_t i = 0; i < sizeof(x86_dm__reset_fxsave) / sizeof(x86_dm__reset_fxsave[0]); i++) {
        state->fxsave[x86_dm__reset_fxsave[i].at] = x86_dm__reset_fxsave[i].value;
    }
}

uint32_t x86_dm_state_difference(const struct x86_dm_state *one, const struct x86_dm_state *other)
{
    uint32_t out = 0;

    for (uint32_t g = 0; g < X86_DM_GROUPS; g++) {
        for (uint32_t i = 0; i < x86_dm__groups[g].n; i++) {
            const struct x86_dm__slot *slot = &x86_dm__groups[g].slots[i];

            if (memcmp(x86_dm__in(one, slot->offset), x86_dm__in(other, slot->offset), x86_dm__slot_size(slot))) {
                out |= 1u << g;
                break;
            }
        }
    }
    return out;
}

void x86_dm_state_update(struct x86_dm_state *state, const struct x86_dm_groups *groups)
{
    for (uint32_t g = 0; g < X86_DM_GROUPS; g++) {
        for (uint32_t i = 0; i < x86_dm__groups[g].n && groups->present >> g & 1; i++) {
            const struct x86_dm__slot *slot = &x86_dm__groups[g].slots[i];

            memcpy(x86_dm__at(state, slot->offset), x86_dm__in(&groups->state, slot->offset), x86_dm__slot_size(slot));
        }
    }
}

/* ------------------------------------------------------------------------------------------- packing */

/* The writer of a buffer. */
static bool x86_dm__grow(struct x86_dm__writer *writer, size_t needed, size_t *room)
{
    uint8_t *grown = realloc(writer->data, *room = needed < 256 ? 512 : 2 * needed);

    if (!grown) {
        return false;
    }
    writer->data = grown;
    return true;
}

static struct x86_dm__writer x86_dm__write_buffer(const struct x86_dm_buffer *out)
{
    return x86_dm__write_to(out->data, out->size, out->room, x86_dm__grow);
}

static void x86_dm__keep_buffer(struct x86_dm_buffer *out, const struct x86_dm__writer *from)
{
    out->data = from->data;
    out->size = x86_dm__written(from);
    out->room = (size_t)(from->end - from->data);
}

/* Write to the end of a buffer; returns false when memory runs out. */
static bool x86_dm__add(struct x86_dm_buffer *out, const void *data, size_t size)
{
    struct x86_dm__writer to = x86_dm__write_buffer(out);

    x86_dm__put_data(&to, data, size);
    x86_dm__keep_buffer(out, &to);
    return !to.failed;
}

void x86_dm_buffer_free(struct x86_dm_buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof(*buffer));
}

static void x86_dm__pack_text(struct x86_dm__writer *to, const char *text)
{
    x86_dm__put_str(to, text, text ? strlen(text) : 0);
}

static bool x86_dm__pack_state(struct x86_dm__place *at, struct x86_dm__writer *to, const struct x86_dm_groups *groups)
{
    uint32_t present = groups->present & X86_DM_ALL_GROUPS;

    x86_dm__put_map(to, (size_t)__builtin_popcount(present));
    for (uint32_t g = 0; g < X86_DM_GROUPS; g++) {
        const struct x86_dm__group *group = &x86_dm__groups[g];

        if (!(present >> g & 1)) {
            continue;
        }
        x86_dm__pack_text(to, group->name);
        x86_dm__put_array(to, group->n);
        for (uint32_t i = 0; i < group->n; i++) {
            const struct x86_dm__slot *slot = &group->slots[i];
            const void *from = x86_dm__in(&groups->state, slot->offset);
            uint64_t value = slot->width > 64 ? 0 : x86_dm__load(from, slot->width);

            if (slot->width > 64) {
                x86_dm__put_bin(to, from, slot->width / 8);
            } else if (x86_dm__fits(value, slot->width)) {
                x86_dm__put_unsigned(to, value);
            } else {
                char is[32];

                x86_dm__enter(at, ".", group->name);
                x86_dm__enter(at, ".", slot->name);
                snprintf(is, sizeof(is), "%" PRIu64, value);
                return x86_dm__bad(at, is, "an integer below 2**%u", (unsigned)slot->width);
            }
        }
    }
    return true;
}

static bool x86_dm__pack_row(struct x86_dm__place *at, struct x86_dm__writer *to, const struct x86_dm__row *row,
                             const void *base);

static bool x86_dm__pack_value(struct x86_dm__place *at, struct x86_dm__writer *to, const struct x86_dm__row *row,
                               const void *from)
{
    char is[48];

    switch (row->kind) {
    case X86_DM__U:
        x86_dm__put_unsigned(to, x86_dm__load(from, row->width));
        return true;
    case X86_DM__FLAG:
        x86_dm__put_boolean(to, *(const bool *)from);
        return true;
    case X86_DM__TEXT: {
        const char *text = *(const char *const *)from;
        size_t size = text ? strlen(text) : 0;

        if (size > row->width || !x86_dm__is_utf8((const uint8_t *)text, size)) {
            snprintf(is, sizeof(is), "text of %zu bytes", size);
            return x86_dm__bad(at, is, "UTF-8 text of at most %u bytes", (unsigned)row->width);
        }
        x86_dm__put_str(to, text, size);
        return true;
    }
    case X86_DM__BLOB: {
        const struct x86_dm_blob *blob = from;

        if (blob->size > row->width) {
            snprintf(is, sizeof(is), "bytes of %u", (unsigned)blob->size);
            return x86_dm__bad(at, is, "at most %u bytes", (unsigned)row->width);
        }
        x86_dm__put_bin(to, blob->data, blob->size);
        return true;
    }
    case X86_DM__WORD: {
        unsigned word = x86_dm__load_word(from);

        if (word >= row->width) {
            snprintf(is, sizeof(is), "%u", word);
            return x86_dm__bad(at, is, "a value below %u", (unsigned)row->width);
        }
        x86_dm__pack_text(to, ((const char *const *)row->table)[word]);
        return true;
    }
    case X86_DM__STATE:
        return x86_dm__pack_state(at, to, from);
    default: {
        const struct x86_dm__table *table = row->table;

        x86_dm__put_array(to, table->n);
        for (uint32_t i = 0; i < table->n; i++) {
            size_t before = x86_dm__enter(at, ".", table->rows[i].name);

            if (!x86_dm__pack_row(at, to, &table->rows[i], from)) {
                return false;
            }
            x86_dm__leave(at, before);
        }
        return true;
    }
    }
}

static bool x86_dm__pack_row(struct x86_dm__place *at, struct x86_dm__writer *to, const struct x86_dm__row *row,
                             const void *base)
{
    const void *from = x86_dm__in(base, row->offset);
    const char *items;
    uint32_t n;

    if (!row->limit) {
        return x86_dm__pack_value(at, to, row, from);
    }
    n = *(const uint32_t *)x86_dm__in(base, row->beside);
    memcpy(&items, from, sizeof(items));
    if (n > row->limit) {
        char is[32];

        snprintf(is, sizeof(is), "list of %u", (unsigned)n);
        return x86_dm__bad(at, is, "a list of at most %u values", (unsigned)row->limit);
    }
    x86_dm__put_array(to, n);
    for (uint32_t i = 0; i < n; i++) {
        size_t before = x86_dm__enter_item(at, i);

        if (!x86_dm__pack_value(at, to, row, items + row->size * i)) {
            return false;
        }
        x86_dm__leave(at, before);
    }
    return true;
}

/* Tell whether a field has its default, so that it is left out. */
static bool x86_dm__is_default(const struct x86_dm__row *row, const void *base)
{
    const void *from = x86_dm__in(base, row->offset);

    if (row->use == X86_DM__REQUIRED) {
        return false;
    }
    if (row->use == X86_DM__NOT_SAID) {
        return !*(const bool *)x86_dm__in(base, row->beside);
    }
    if (row->limit) {
        return *(const uint32_t *)x86_dm__in(base, row->beside) == 0;
    }
    switch (row->kind) {
    case X86_DM__U:
        return x86_dm__load(from, row->width) == row->preset;
    case X86_DM__FLAG:
        return *(const bool *)from == (row->preset != 0);
    case X86_DM__WORD:
        return x86_dm__load_word(from) == row->preset;
    case X86_DM__BLOB:
        return ((const struct x86_dm_blob *)from)->size == 0;
    case X86_DM__TEXT: {
        const char *text = *(const char *const *)from;

        return strcmp(text ? text : "", row->preset_text ? row->preset_text : "") == 0;
    }
    default:
        return false;
    }
}

static void *x86_dm__body(struct x86_dm_message *message)
{
    return &message->hello; /* all members of the union begin in the same place */
}

static void x86_dm__preset(const struct x86_dm__row *row, void *base)
{
    void *to = x86_dm__at(base, row->offset);

    if (row->limit) {
        return;
    }
    if (row->kind == X86_DM__U) {
        x86_dm__store(to, row->width, row->preset);
    } else if (row->kind == X86_DM__FLAG) {
        *(bool *)to = row->preset != 0;
    } else if (row->kind == X86_DM__WORD) {
        x86_dm__store_word(to, (unsigned)row->preset);
    } else if (row->kind == X86_DM__TEXT) {
        *(const char **)to = row->preset_text ? row->preset_text : "";
    }
}

void x86_dm_init(struct x86_dm_message *message, enum x86_dm_type type)
{
    memset(message, 0, sizeof(*message));
    message->type = type;
    for (uint32_t i = 0; (unsigned)type < X86_DM_TYPES && i < x86_dm__tables[type]->n; i++) {
        x86_dm__preset(&x86_dm__tables[type]->rows[i], x86_dm__body(message));
    }
}

static enum x86_dm_status x86_dm__pack_message(struct x86_dm__writer *to, const struct x86_dm_message *message,
                                               struct x86_dm_failure *why)
{
    const struct x86_dm__table *table = x86_dm__tables[message->type];
    struct x86_dm__place at = {why, "", 0};
    const void *body = &message->hello;
    size_t fields = 1;

    for (uint32_t i = 0; i < table->n; i++) {
        fields += !x86_dm__is_default(&table->rows[i], body);
    }
    x86_dm__put_map(to, fields);
    x86_dm__pack_text(to, "type");
    x86_dm__pack_text(to, table->name);
    for (uint32_t i = 0; i < table->n; i++) {
        const struct x86_dm__row *row = &table->rows[i];

        if (x86_dm__is_default(row, body)) {
            continue;
        }
        x86_dm__leave(&at, 0);
        x86_dm__enter(&at, "", row->name);
        x86_dm__pack_text(to, row->name);
        if (!x86_dm__pack_row(&at, to, row, body)) {
            return why->status;
        }
    }
    if (to->failed) {
        return x86_dm__no_memory(why);
    }
    if (x86_dm__written(to) > table->limit) {
        x86_dm__fail(why, X86_DM_UNUSABLE, "%s has %zu bytes", table->name, x86_dm__written(to));
        why->error = X86_DM_ERROR_CLASS_TOO_LARGE;
        snprintf(why->expected, sizeof(why->expected), "at most %u", (unsigned)table->limit);
        return X86_DM_UNUSABLE;
    }
    return X86_DM_FINE;
}

enum x86_dm_status x86_dm_pack(struct x86_dm_buffer *out, const struct x86_dm_message *message,
                               struct x86_dm_failure *why)
{
    struct x86_dm_failure ignored;
    struct x86_dm__writer to;
    enum x86_dm_status status;

    if ((unsigned)message->type >= X86_DM_TYPES) {
        return x86_dm__fail(why, X86_DM_UNUSABLE, "there is no message type %u", (unsigned)message->type);
    }
    out->size = 0;
    to = x86_dm__write_buffer(out);
    status = x86_dm__pack_message(&to, message, why ? why : &ignored);
    x86_dm__keep_buffer(out, &to);
    return status;
}

/* ------------------------------------------------------------------------------------------- unpacking */

enum { X86_DM__DEPTH = 16, X86_DM__ZONE = 1024 };

/*
 * Tell whether `data` is one complete MessagePack object, nested at most X86_DM__DEPTH deep, all text UTF-8.  `*plain`:
 * the keys of all its maps, of unknown fields too, are text or bytes.
 */
static bool x86_dm__is_msgpack(const uint8_t *data, size_t size, bool *plain)
{
    struct x86_dm__reader reader = {data, data + size};
    uint64_t left[X86_DM__DEPTH] = {1}; /* values still to come at each depth */
    bool map[X86_DM__DEPTH] = {false};  /* keys and values in turn */
    unsigned depth = 0;

    for (*plain = true;;) {
        struct x86_dm__item item;

        while (left[depth] == 0) {
            if (depth-- == 0) {
                return reader.at == reader.end;
            }
        }
        item = x86_dm__next(&reader);
        if (item.type == X86_DM__WRONG ||
            (item.type == X86_DM__STR && !x86_dm__is_utf8(item.data, (size_t)item.number))) {
            return false;
        }
        if (map[depth] && left[depth] % 2 == 0 && item.type != X86_DM__STR && item.type != X86_DM__BIN) {
            *plain = false;
        }
        left[depth]--;
        if ((item.type == X86_DM__ARRAY || item.type == X86_DM__MAP) && item.number) {
            if (++depth == X86_DM__DEPTH) {
                return false;
            }
            map[depth] = item.type == X86_DM__MAP;
            left[depth] = item.number << map[depth];
        }
    }
}

/* Go past `n` whole values of a message that is in order. */
static void x86_dm__skip(struct x86_dm__reader *reader, uint64_t n)
{
    for (; n; n--) {
        struct x86_dm__item item = x86_dm__next(reader);

        n += item.type == X86_DM__ARRAY ? item.number : item.type == X86_DM__MAP ? 2 * item.number : 0;
    }
}

/* Memory of a message, all of which is freed at once. */
struct x86_dm__zone {
    struct x86_dm__zone *next;
    size_t used, room;
    uint64_t data[];
};

static void *x86_dm__allocate(struct x86_dm__zone **zone, size_t size)
{
    size_t room = size > X86_DM__ZONE ? size : X86_DM__ZONE;

    size = (size + 7) & ~(size_t)7;
    if (!*zone || (*zone)->room - (*zone)->used < size) {
        struct x86_dm__zone *more = malloc(sizeof(*more) + room + 7);

        if (!more) {
            return NULL;
        }
        *more = (struct x86_dm__zone){.next = *zone, .room = room + 7};
        *zone = more;
    }
    (*zone)->used += size;
    return (char *)(*zone)->data + (*zone)->used - size;
}

static void x86_dm__free_zone(struct x86_dm__zone *zone)
{
    while (zone) {
        struct x86_dm__zone *next = zone->next;

        free(zone);
        zone = next;
    }
}

/* Describe a value shortly; a peer's megabyte is not repeated. */
static const char *x86_dm__show(const struct x86_dm__item *item, char *out, size_t room)
{
    switch (item->type) {
    case X86_DM__NIL:
        return "nil";
    case X86_DM__BOOLEAN:
        return item->number ? "true" : "false";
    case X86_DM__UNSIGNED:
        snprintf(out, room, "%" PRIu64, item->number);
        return out;
    case X86_DM__NEGATIVE:
        snprintf(out, room, "%" PRId64, (int64_t)item->number);
        return out;
    case X86_DM__FLOAT:
        return "a float";
    case X86_DM__STR:
        snprintf(out, room, "text of %u bytes", (unsigned)item->number);
        return out;
    case X86_DM__BIN:
        snprintf(out, room, "bytes of %u", (unsigned)item->number);
        return out;
    case X86_DM__ARRAY:
        snprintf(out, room, "list of %u", (unsigned)item->number);
        return out;
    case X86_DM__MAP:
        snprintf(out, room, "map of %u", (unsigned)item->number);
        return out;
    default:
        return "an extension";
    }
}

static bool x86_dm__is_text(const struct x86_dm__item *item, const char *text)
{
    return x86_dm__says(item, text, strlen(text));
}

static bool x86_dm__get_group(struct x86_dm__place *at, const struct x86_dm__group *group,
                              struct x86_dm__reader *reader, struct x86_dm_state *state)
{
    struct x86_dm__item head = x86_dm__next(reader), item;
    struct x86_dm__reader values = *reader;
    char is[48];

    if (head.type != X86_DM__ARRAY || head.number > X86_DM__MAX_GROUP_VALUES) {
        return x86_dm__bad(at, x86_dm__show(&head, is, sizeof(is)), "a list of at most %u values",
                           X86_DM__MAX_GROUP_VALUES);
    }
    for (uint32_t i = 0; i < head.number; i++) {
        item = x86_dm__next(reader);
        if (item.type != X86_DM__UNSIGNED && (item.type != X86_DM__BIN || item.number > X86_DM__MAX_GROUP_BLOB)) {
            x86_dm__enter_item(at, i);
            return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "an unsigned integer or bytes");
        }
    }
    if (!group) {
        return true;
    }
    if (head.number < group->n) {
        return x86_dm__bad(at, x86_dm__show(&head, is, sizeof(is)), "a list of at least %u values", (unsigned)group->n);
    }
    for (uint32_t i = 0; i < group->n; i++) {
        const struct x86_dm__slot *slot = &group->slots[i];
        void *to = x86_dm__at(state, slot->offset);

        item = x86_dm__next(&values);
        if (slot->width > 64 && item.type == X86_DM__BIN && item.number == slot->width / 8) {
            memcpy(to, item.data, slot->width / 8);
        } else if (slot->width <= 64 && item.type == X86_DM__UNSIGNED && x86_dm__fits(item.number, slot->width)) {
            x86_dm__store(to, slot->width, item.number);
        } else {
            x86_dm__enter(at, ".", slot->name);
            return slot->width > 64
                       ? x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "%u bytes", slot->width / 8)
                       : x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "an integer below 2**%u", slot->width);
        }
    }
    return true;
}

static bool x86_dm__get_state(struct x86_dm__place *at, struct x86_dm__reader *reader, struct x86_dm_groups *groups)
{
    struct x86_dm__item head = x86_dm__next(reader);
    char is[48];

    groups->present = 0;
    if (head.type != X86_DM__MAP || head.number > X86_DM__MAX_GROUPS) {
        return x86_dm__bad(at, x86_dm__show(&head, is, sizeof(is)), "a map of at most %u state groups",
                           X86_DM__MAX_GROUPS);
    }
    for (uint32_t i = 0; i < head.number; i++) {
        struct x86_dm__item key = x86_dm__next(reader);
        uint32_t g = 0;
        size_t before;

        if (key.type != X86_DM__STR) {
            return x86_dm__bad(at, x86_dm__show(&key, is, sizeof(is)), "group names that are text");
        }
        while (g < X86_DM_GROUPS && !x86_dm__is_text(&key, x86_dm__groups[g].name)) {
            g++;
        }
        if (g < X86_DM_GROUPS && groups->present >> g & 1) {
            return x86_dm__bad(at, "a map with a repeated key", "each group once");
        }
        before = x86_dm__enter(at, ".", g < X86_DM_GROUPS ? x86_dm__groups[g].name : "unknown group");
        if (!x86_dm__get_group(at, g < X86_DM_GROUPS ? &x86_dm__groups[g] : NULL, reader, &groups->state)) {
            return false;
        }
        groups->present |= g < X86_DM_GROUPS ? 1u << g : 0;
        x86_dm__leave(at, before);
    }
    return true;
}

/* A failed allocation. */
static bool x86_dm__out_of_memory(struct x86_dm__place *at)
{
    x86_dm__no_memory(at->why);
    return false;
}

static bool x86_dm__get_row(struct x86_dm__place *at, struct x86_dm__zone **zone, const struct x86_dm__row *row,
                            struct x86_dm__reader *reader, void *base);

static bool x86_dm__get_record(struct x86_dm__place *at, struct x86_dm__zone **zone, const struct x86_dm__table *table,
                               struct x86_dm__reader *reader, void *to)
{
    struct x86_dm__item head = x86_dm__next(reader);
    uint32_t needed = 0;
    char is[48];

    while (needed < table->n && table->rows[needed].use == X86_DM__REQUIRED) {
        needed++;
    }
    if (head.type != X86_DM__ARRAY || head.number < needed) {
        return x86_dm__bad(at, x86_dm__show(&head, is, sizeof(is)), "an array of %u to %u values (%s)",
                           (unsigned)needed, (unsigned)table->n, table->name);
    }
    for (uint32_t i = 0; i < table->n; i++) {
        size_t before = x86_dm__enter(at, ".", table->rows[i].name);

        if (i >= head.number) {
            x86_dm__preset(&table->rows[i], to);
        } else if (!x86_dm__get_row(at, zone, &table->rows[i], reader, to)) {
            return false;
        }
        x86_dm__leave(at, before);
    }
    x86_dm__skip(reader, head.number > table->n ? head.number - table->n : 0);
    return true;
}

static bool x86_dm__get_value(struct x86_dm__place *at, struct x86_dm__zone **zone, const struct x86_dm__row *row,
                              struct x86_dm__reader *reader, void *to)
{
    struct x86_dm__item item;
    char is[48];

    if (row->kind == X86_DM__STATE) {
        return x86_dm__get_state(at, reader, to);
    }
    if (row->kind == X86_DM__RECORD) {
        return x86_dm__get_record(at, zone, row->table, reader, to);
    }
    item = x86_dm__next(reader);
    switch (row->kind) {
    case X86_DM__U:
        if (item.type == X86_DM__UNSIGNED && x86_dm__fits(item.number, row->width)) {
            x86_dm__store(to, row->width, item.number);
            return true;
        }
        return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "an integer from 0 to %#" PRIx64,
                           UINT64_MAX >> (64 - row->width));
    case X86_DM__FLAG:
        if (item.type == X86_DM__BOOLEAN) {
            *(bool *)to = item.number;
            return true;
        }
        return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "true or false");
    case X86_DM__TEXT:
        if (item.type == X86_DM__STR && item.number <= row->width &&
            !(item.number && memchr(item.data, 0, (size_t)item.number))) {
            char *text = x86_dm__allocate(zone, (size_t)item.number + 1);

            if (!text) {
                return x86_dm__out_of_memory(at);
            }
            if (item.number) {
                memcpy(text, item.data, (size_t)item.number);
            }
            text[item.number] = 0;
            *(const char **)to = text;
            return true;
        }
        return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "text of at most %u bytes, without NUL", row->width);
    case X86_DM__BLOB:
        if (item.type == X86_DM__BIN && item.number <= row->width) {
            *(struct x86_dm_blob *)to = (struct x86_dm_blob){item.data, (uint32_t)item.number};
            return true;
        }
        return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "at most %u bytes", row->width);
    default:
        for (unsigned i = 0; i < row->width; i++) {
            if (x86_dm__is_text(&item, ((const char *const *)row->table)[i])) {
                x86_dm__store_word(to, i);
                return true;
            }
        }
        return x86_dm__bad(at, x86_dm__show(&item, is, sizeof(is)), "one of the %u words", row->width);
    }
}

static bool x86_dm__get_row(struct x86_dm__place *at, struct x86_dm__zone **zone, const struct x86_dm__row *row,
                            struct x86_dm__reader *reader, void *base)
{
    struct x86_dm__item head;
    char *items, is[48];
    uint32_t n;

    if (!row->limit) {
        return x86_dm__get_value(at, zone, row, reader, x86_dm__at(base, row->offset));
    }
    head = x86_dm__next(reader);
    if (head.type != X86_DM__ARRAY || head.number > row->limit) {
        return x86_dm__bad(at, x86_dm__show(&head, is, sizeof(is)), "a list of at most %u values", row->limit);
    }
    n = (uint32_t)head.number;
    items = n ? x86_dm__allocate(zone, row->size * n) : NULL;
    if (n && !items) {
        return x86_dm__out_of_memory(at);
    }
    if (n) {
        memset(items, 0, row->size * n);
    }
    for (uint32_t i = 0; i < n; i++) {
        size_t before = x86_dm__enter_item(at, i);

        if (!x86_dm__get_value(at, zone, row, reader, items + row->size * i)) {
            return false;
        }
        x86_dm__leave(at, before);
    }
    memcpy(x86_dm__at(base, row->offset), &items, sizeof(items));
    *(uint32_t *)x86_dm__at(base, row->beside) = n;
    return true;
}

/* Read the type of a message, whose pairs begin at `reader`. */
static bool x86_dm__get_type(struct x86_dm__place *at, struct x86_dm__reader reader, uint64_t pairs, bool plain,
                             unsigned *which)
{
    struct x86_dm__item type = {X86_DM__WRONG, 0, NULL}, key;
    bool found = false;
    char is[48];

    for (; pairs; pairs--) {
        key = x86_dm__next(&reader);
        if (key.type != X86_DM__STR) {
            x86_dm__fail(at->why, X86_DM_UNUSABLE, "a key is %s", x86_dm__show(&key, is, sizeof(is)));
            return false;
        }
        if (x86_dm__is_text(&key, "type")) {
            struct x86_dm__reader value = reader;

            x86_dm__leave(at, 0);
            x86_dm__enter(at, "", "type");
            if (found) {
                return x86_dm__bad(at, "there twice", "each key once");
            }
            type = x86_dm__next(&value);
            found = true;
        }
        x86_dm__skip(&reader, 1);
    }
    if (!plain) {
        x86_dm__fail(at->why, X86_DM_UNUSABLE, "not MessagePack with text for keys");
        return false;
    }
    if (type.type != X86_DM__STR) {
        x86_dm__leave(at, 0);
        x86_dm__enter(at, "", "type");
        return x86_dm__bad(at, found ? x86_dm__show(&type, is, sizeof(is)) : "missing", "the name of a message");
    }
    for (*which = 0; *which < X86_DM_TYPES; ++*which) {
        if (x86_dm__is_text(&type, x86_dm__tables[*which]->name)) {
            return true;
        }
    }
    x86_dm__bad(at, "unknown", "the name of a message");
    at->why->error = X86_DM_ERROR_CLASS_UNKNOWN_MESSAGE;
    return false;
}

static bool x86_dm__get_message(struct x86_dm__place *at, struct x86_dm__zone **zone, struct x86_dm__reader *reader,
                                bool plain, struct x86_dm_message *message)
{
    const uint8_t *values[X86_DM__MAX_FIELDS] = {NULL}; /* where each field's is */
    bool twice[X86_DM__MAX_FIELDS] = {false};
    struct x86_dm__item head = x86_dm__next(reader);
    const struct x86_dm__table *table;
    unsigned which = 0;
    uint32_t next = 0; /* fields mostly come in their order */
    char is[48];

    if (head.type != X86_DM__MAP) {
        x86_dm__fail(at->why, X86_DM_UNUSABLE, "the message is %s", x86_dm__show(&head, is, sizeof(is)));
        return false;
    }
    if (!x86_dm__get_type(at, *reader, head.number, plain, &which)) {
        return false;
    }
    x86_dm_init(message, (enum x86_dm_type)which);
    table = x86_dm__tables[which];
    for (uint64_t left = head.number; left; left--) {
        struct x86_dm__item key = x86_dm__next(reader);
        uint32_t tried = 0, i = next;

        while (tried < table->n && !x86_dm__is_text(&key, table->rows[i].name)) {
            tried++;
            i = i + 1 == table->n ? 0 : i + 1;
        }
        if (tried < table->n) {
            twice[i] = values[i] != NULL;
            values[i] = reader->at;
            next = i + 1 == table->n ? 0 : i + 1;
        }
        x86_dm__skip(reader, 1);
    }
    for (uint32_t i = 0; i < table->n; i++) {
        const struct x86_dm__row *row = &table->rows[i];
        struct x86_dm__reader value = {values[i], reader->end};

        x86_dm__leave(at, 0);
        x86_dm__enter(at, "", row->name);
        if (twice[i]) {
            return x86_dm__bad(at, "there twice", "each key once");
        }
        if (value.at) {
            if (!x86_dm__get_row(at, zone, row, &value, x86_dm__body(message))) {
                return false;
            }
            if (row->use == X86_DM__NOT_SAID) {
                *(bool *)x86_dm__at(x86_dm__body(message), row->beside) = true;
            }
        } else if (row->use == X86_DM__REQUIRED) {
            return x86_dm__bad(at, "missing", "a value for it");
        }
    }
    return true;
}

enum x86_dm_status x86_dm_unpack(struct x86_dm_message *message, const void *data, size_t size, size_t limit,
                                 struct x86_dm_failure *why)
{
    struct x86_dm__place at = {why, "", 0};
    struct x86_dm__zone *zone = NULL;
    struct x86_dm__reader reader;
    struct x86_dm_failure ignored;
    uint8_t *bytes;
    bool plain;

    memset(message, 0, sizeof(*message));
    if (!why) {
        at.why = why = &ignored;
    }
    if (size > limit) {
        x86_dm__fail(why, X86_DM_UNUSABLE, "the message has %zu bytes", size);
        why->error = X86_DM_ERROR_CLASS_TOO_LARGE;
        snprintf(why->expected, sizeof(why->expected), "at most %zu", limit);
        return X86_DM_UNUSABLE;
    }
    if (!x86_dm__is_msgpack(data, size, &plain)) {
        x86_dm__fail(why, X86_DM_UNUSABLE, "not MessagePack");
        x86_dm__say(why->expected, sizeof(why->expected), "one complete MessagePack map");
        return X86_DM_UNUSABLE;
    }
    bytes = malloc(size);
    if (!bytes) {
        return x86_dm__no_memory(why);
    }
    memcpy(bytes, data, size);
    reader = (struct x86_dm__reader){bytes, bytes + size};
    if (!x86_dm__get_message(&at, &zone, &reader, plain, message)) {
        x86_dm__free_zone(zone);
        free(bytes);
        memset(message, 0, sizeof(*message));
        return why->status;
    }
    message->zone = zone;
    message->bytes = bytes;
    return X86_DM_FINE;
}

void x86_dm_message_free(struct x86_dm_message *message)
{
    x86_dm__free_zone(message->zone);
    free(message->bytes);
    message->zone = message->bytes = NULL;
}

/* ------------------------------------------------------------------------------------------- session */

/*
 * Milliseconds.  A new connection is a new epoch and so a new socket: ZeroMQ shall not reconnect.  Its own word for
 * that, -1, drops what has arrived but was not read when the daemon closes.
 */
enum { X86_DM__NO_RECONNECT = 1 << 29, X86_DM__TIMEOUT_MS = 30000, X86_DM__BYE_MS = 2000, X86_DM__KEY = 40 };

/* A control request that waits for its answer; lives on the stack of the thread that asks. */
struct x86_dm__call {
    struct x86_dm__call *next;
    uint64_t seq;
    const struct x86_dm_buffer *request;
    struct x86_dm_buffer answer;
    bool sent, answered;
};

/* A block of RAM that the daemon has, kept for a successor: a descriptor of our own, or a path. */
struct x86_dm__block {
    struct x86_dm__block *next;
    uint32_t number;
    uint64_t size;
    int fd;
    char *path;
};

struct x86_dm {
    pthread_mutex_t admin; /* one control operation at a time; taken before `lock` */
    pthread_mutex_t lock;  /* all below that changes */
    pthread_cond_t answered;
    void *context;
    char *endpoint, *name;
    unsigned timeout_ms;
    pthread_t thread;
    bool running, stop, closing;
    bool secured;
    char keys[3][X86_DM__KEY + 1]; /* daemon's public, our public, our secret */
    int wake; /* eventfd of the control thread */
    struct x86_dm_failure lost;
    struct x86_dm__call *calls;
    uint64_t seq, generation;
    uint32_t session, epoch;
    uint32_t beating; /* session to keep alive; 0: none yet */
    unsigned interval_ms;
    struct x86_dm_message welcome;
    struct x86_dm_buffer map; /* the last map, as a packed memory-map; empty: none */
    struct x86_dm_buffer state_ports; /* likewise */
    struct x86_dm__block *blocks;
    struct x86_dm_vcpu *vcpus;
};

/* As struct x86_dm__libzmq has them. */
static const struct x86_dm__libzmq x86_dm__zmq = {
    zmq_send, zmq_getsockopt, zmq_msg_init, zmq_msg_recv, zmq_msg_data, zmq_msg_size, zmq_msg_more, zmq_msg_close,
    zmq_errno,
};

struct x86_dm_vcpu {
    struct x86_dm_vcpu *next;
    struct x86_dm *dm;
    uint16_t number;
    struct x86_dm_buffer create; /* the packed vcpu-create, for a successor */
    int wake;                    /* eventfd in the poll set of a run */
    uint32_t kicks;              /* atomic: bit n: stop word n; X86_DM__WINDOW_... */
    /* under dm->lock */
    char endpoint[257];
    bool renewed, same;
    /* the running thread's */
    void *socket;
    int socket_fd; /* ZeroMQ's, for poll() */
    struct x86_dm__waiter waiter;
    uint32_t epoch;
    uint64_t seq, base;
    struct x86_dm_state known;
    struct x86_dm_message request, last;
    bool running, has_answer;
    bool is_known; /* a run on this socket has been answered: the daemon has seen the secret */
    uint32_t answered_io;
    bool waits; /* the daemon has been told that an interrupt waits */
    struct x86_dm_buffer packed, answer, read;
    unsigned patience_ms;
    int64_t impatient_at;   /* when on_wake is to hear that a kicked run has not ended, ms; 0: it is not */
    struct x86_dm_map kept; /* that a read of a copy has brought */
    struct x86_dm_region kept_regions[X86_DM_MAX_REGIONS];
    struct x86_dm_stats stats;
};

enum { X86_DM__WINDOW_OFF = 1 << 30, X86_DM__WINDOW_ON = 1 << 29, X86_DM__WINDOW = 3 << 29 };

static int64_t x86_dm__now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void x86_dm__signal(int eventfd_)
{
    uint64_t one = 1;
    int saved = errno;

    if (write(eventfd_, &one, sizeof(one)) < 0) {
        /* full: whoever reads it will wake up anyway */
    }
    errno = saved;
}

static bool x86_dm__drain(int eventfd_)
{
    uint64_t count;

    return read(eventfd_, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

/* Store into the field of a message that has this name. */
static void x86_dm__set(struct x86_dm_message *message, const char *name, uint64_t value)
{
    const struct x86_dm__table *table = x86_dm__tables[message->type];

    for (uint32_t i = 0; i < table->n; i++) {
        if (strcmp(table->rows[i].name, name) == 0) {
            x86_dm__store(x86_dm__at(x86_dm__body(message), table->rows[i].offset), table->rows[i].width, value);
        }
    }
}

static uint64_t x86_dm__get(const struct x86_dm_message *message, const char *name)
{
    const struct x86_dm__table *table = x86_dm__tables[message->type];

    for (uint32_t i = 0; i < table->n; i++) {
        if (strcmp(table->rows[i].name, name) == 0) {
            return x86_dm__load(x86_dm__in(&message->hello, table->rows[i].offset), table->rows[i].width);
        }
    }
    return 0;
}

/* Mark the session as lost, once, and wake everybody.  Called with the lock held. */
static void x86_dm__lose(struct x86_dm *dm, const struct x86_dm_failure *why)
{
    if (dm->lost.status == X86_DM_FINE) {
        dm->lost = *why;
        for (struct x86_dm_vcpu *v = dm->vcpus; v; v = v->next) {
            x86_dm__signal(v->wake);
        }
        pthread_cond_broadcast(&dm->answered);
    }
}

/* Take one message on the control socket.  Called with the lock held. */
static void x86_dm__take(struct x86_dm *dm, const void *data, size_t size)
{
    struct x86_dm_message message;
    struct x86_dm_failure why;
    uint64_t seq;

    if (x86_dm_unpack(&message, data, size, X86_DM_MAX_CONTROL, &why) != X86_DM_FINE) {
        if (why.status == X86_DM_UNUSABLE) {
            why.status = X86_DM_SESSION_LOST;
        }
        x86_dm__lose(dm, &why);
        return;
    }
    seq = x86_dm__get(&message, "seq");
    for (struct x86_dm__call *call = dm->calls; call && seq; call = call->next) {
        if (call->sent && !call->answered && call->seq == seq) {
            if (!x86_dm__add(&call->answer, data, size)) {
                x86_dm__no_memory(&why);
                x86_dm__lose(dm, &why);
            }
            call->answered = true;
            pthread_cond_broadcast(&dm->answered);
            x86_dm_message_free(&message);
            return;
        }
    }
    if (message.type == X86_DM_ERROR) {
        const struct x86_dm_error *error = &message.error;

        if (error->error == X86_DM_ERROR_CLASS_SHUTTING_DOWN) {
            dm->closing = true; /* a run under way still ends with its done */
        } else if ((error->error == X86_DM_ERROR_CLASS_SESSION_LOST ||
                    error->error == X86_DM_ERROR_CLASS_UNKNOWN_SESSION ||
                    error->error == X86_DM_ERROR_CLASS_STALE_EPOCH) &&
                   (error->session == 0 || error->session == dm->session)) {
            x86_dm__refused(&why, X86_DM_SESSION_LOST, error);
            x86_dm__lose(dm, &why);
        }
    }
    x86_dm_message_free(&message);
}

static void *x86_dm__open(const struct x86_dm *dm, const char *endpoint, bool reconnects)
{
    void *socket_ = zmq_socket(dm->context, ZMQ_DEALER);
    const size_t key = X86_DM__KEY + 1;
    int linger = 0, interval = X86_DM__NO_RECONNECT, v6 = 1;
    int64_t most = 4 * (int64_t)X86_DM_MAX_MESSAGE;

    if (socket_ && (zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger)) ||
                    zmq_setsockopt(socket_, ZMQ_MAXMSGSIZE, &most, sizeof(most)) ||
                    (!reconnects && zmq_setsockopt(socket_, ZMQ_RECONNECT_IVL, &interval, sizeof(interval))) ||
                    (dm->secured && (zmq_setsockopt(socket_, ZMQ_CURVE_SERVERKEY, dm->keys[0], key) ||
                                     zmq_setsockopt(socket_, ZMQ_CURVE_PUBLICKEY, dm->keys[1], key) ||
                                     zmq_setsockopt(socket_, ZMQ_CURVE_SECRETKEY, dm->keys[2], key) ||
                                     zmq_setsockopt(socket_, ZMQ_IPV6, &v6, sizeof(v6)))) ||
                    zmq_connect(socket_, endpoint))) {
        int saved = errno;

        zmq_close(socket_);
        errno = saved;
        return NULL;
    }
    return socket_;
}

/* The control thread: it alone uses the control socket. */
static void *x86_dm__control(void *opaque)
{
    struct x86_dm *dm = opaque;
    struct x86_dm_buffer ping = {0};
    struct x86_dm_message message;
    struct x86_dm_failure why;
    int64_t heard = x86_dm__now_ms(), due = heard;
    void *link = x86_dm__open(dm, dm->endpoint, true);
    int failed = errno;

    pthread_mutex_lock(&dm->lock);
    if (!link) {
        x86_dm__fail(&why, X86_DM_SESSION_LOST, "cannot connect to %s: %s", dm->endpoint, zmq_strerror(failed));
        x86_dm__lose(dm, &why);
    }
    while (link && !dm->stop) {
        zmq_pollitem_t items[] = {{link, 0, ZMQ_POLLIN, 0}, {NULL, dm->wake, ZMQ_POLLIN, 0}};
        int64_t now = x86_dm__now_ms();
        long wait = !dm->beating ? -1 : due > now ? (long)(due - now) : 0;
        zmq_msg_t frame;

        for (struct x86_dm__call *call = dm->calls; call; call = call->next) {
            if (!call->sent && zmq_send(link, call->request->data, call->request->size, ZMQ_DONTWAIT) >= 0) {
                call->sent = true;
            }
        }
        pthread_mutex_unlock(&dm->lock);
        zmq_poll(items, 2, wait);
        x86_dm__drain(dm->wake);
        pthread_mutex_lock(&dm->lock);
        zmq_msg_init(&frame);
        while (zmq_msg_recv(&frame, link, ZMQ_DONTWAIT) >= 0) {
            heard = x86_dm__now_ms();
            x86_dm__take(dm, zmq_msg_data(&frame), zmq_msg_size(&frame));
        }
        zmq_msg_close(&frame);
        now = x86_dm__now_ms();
        if (dm->beating && now >= due) {
            due = now + dm->interval_ms;
            if (now - heard > 3 * (int64_t)dm->interval_ms) {
                x86_dm__fail(&why, X86_DM_SESSION_LOST, "the daemon at %s is silent", dm->endpoint);
                x86_dm__lose(dm, &why);
            }
            x86_dm_init(&message, X86_DM_PING);
            message.ping.session = dm->beating;
            if (x86_dm_pack(&ping, &message, NULL) == X86_DM_FINE) {
                zmq_send(link, ping.data, ping.size, ZMQ_DONTWAIT);
            }
        }
    }
    pthread_mutex_unlock(&dm->lock);
    x86_dm_buffer_free(&ping);
    if (link) {
        zmq_close(link);
    }
    return NULL;
}

static enum x86_dm_status x86_dm__start(struct x86_dm *dm, struct x86_dm_failure *why)
{
    sigset_t all, before;
    int failed;

    pthread_mutex_lock(&dm->lock);
    dm->stop = dm->closing = false;
    dm->beating = 0;
    memset(&dm->lost, 0, sizeof(dm->lost));
    pthread_mutex_unlock(&dm->lock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&dm->thread, NULL, x86_dm__control, dm);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        return x86_dm__fail(why, X86_DM_NO_RESOURCES, "no thread for the control socket: %s", strerror(failed));
    }
    dm->running = true;
    return X86_DM_FINE;
}

static void x86_dm__end(struct x86_dm *dm)
{
    if (dm->running) {
        pthread_mutex_lock(&dm->lock);
        dm->stop = true;
        pthread_mutex_unlock(&dm->lock);
        x86_dm__signal(dm->wake);
        pthread_join(dm->thread, NULL);
        dm->running = false;
    }
}

/*
 * Send a control request (seq and session are filled in) and wait for its answer, which must be of type `expected`;
 * the caller frees it.
 */
static enum x86_dm_status x86_dm__ask(struct x86_dm *dm, struct x86_dm_message *request, enum x86_dm_type expected,
                                      unsigned timeout_ms, struct x86_dm_message *answer, struct x86_dm_failure *why)
{
    struct x86_dm_buffer bytes = {0};
    struct x86_dm__call call = {.request = &bytes};
    int64_t end = x86_dm__now_ms() + timeout_ms;
    struct timespec until = {.tv_sec = (time_t)(end / 1000), .tv_nsec = (long)(end % 1000) * 1000000};
    enum x86_dm_status status;
    int late = 0;

    pthread_mutex_lock(&dm->lock);
    call.seq = ++dm->seq;
    x86_dm__set(request, "seq", call.seq);
    x86_dm__set(request, "session", dm->session);
    status = x86_dm_pack(&bytes, request, why);
    if (status == X86_DM_FINE) {
        call.next = dm->calls;
        dm->calls = &call;
        x86_dm__signal(dm->wake);
        while (!call.answered && !late && dm->lost.status == X86_DM_FINE) {
            late = pthread_cond_timedwait(&dm->answered, &dm->lock, &until);
        }
        for (struct x86_dm__call **at = &dm->calls; *at; at = &(*at)->next) {
            if (*at == &call) {
                *at = call.next;
                break;
            }
        }
        if (!call.answered && dm->lost.status != X86_DM_FINE) {
            status = dm->lost.status;
            if (why) {
                *why = dm->lost;
            }
        } else if (!call.answered) {
            status = x86_dm__fail(why, X86_DM_SESSION_LOST, "no daemon answers at %s within %u ms; is it running?",
                                  dm->endpoint, timeout_ms);
        }
    }
    pthread_mutex_unlock(&dm->lock);
    if (status == X86_DM_FINE) {
        status = x86_dm_unpack(answer, call.answer.data, call.answer.size, X86_DM_MAX_CONTROL, why);
    }
    if (status == X86_DM_FINE && answer->type != expected) {
        if (answer->type == X86_DM_ERROR) {
            status = x86_dm__refused(why, X86_DM_REFUSED, &answer->error);
        } else {
            status = x86_dm__fail(why, X86_DM_UNUSABLE, "%s was answered by %s, %s expected",
                                  x86_dm__tables[request->type]->name, x86_dm__tables[answer->type]->name,
                                  x86_dm__tables[expected]->name);
        }
        x86_dm_message_free(answer);
    }
    x86_dm_buffer_free(&call.answer);
    x86_dm_buffer_free(&bytes);
    return status;
}

/* The same for requests that are answered by `ok`. */
static enum x86_dm_status x86_dm__do(struct x86_dm *dm, struct x86_dm_message *request, struct x86_dm_failure *why)
{
    struct x86_dm_message answer;
    enum x86_dm_status status = x86_dm__ask(dm, request, X86_DM_OK, dm->timeout_ms, &answer, why);

    if (status == X86_DM_FINE) {
        x86_dm_message_free(&answer);
    }
    return status;
}

/* Say hello on a new control socket; `resume` is the session to take up, 0 for a new one. */
static enum x86_dm_status x86_dm__hello(struct x86_dm *dm, uint32_t resume, struct x86_dm_failure *why)
{
    const char *features[sizeof(x86_dm__features) / sizeof(x86_dm__features[0])];
    struct x86_dm_message hello, welcome;
    enum x86_dm_status status = x86_dm__start(dm, why);

    if (status != X86_DM_FINE) {
        return status;
    }
    memcpy(features, x86_dm__features, sizeof(features));
    x86_dm_init(&hello, X86_DM_HELLO);
    hello.hello.min_version = X86_DM_OLDEST;
    hello.hello.max_version = X86_DM_VERSION;
    hello.hello.features = features;
    hello.hello.n_features = sizeof(features) / sizeof(features[0]);
    hello.hello.name = dm->name;
    hello.hello.resume = resume;
    hello.hello.epoch = ++dm->epoch;
    if (resume) {
        hello.hello.secret = dm->welcome.welcome.secret;
    }
    status = x86_dm__ask(dm, &hello, X86_DM_WELCOME, dm->timeout_ms, &welcome, why);
    if (status == X86_DM_FINE) {
        pthread_mutex_lock(&dm->lock);
        x86_dm_message_free(&dm->welcome);
        dm->welcome = welcome;
        dm->session = dm->beating = welcome.welcome.session;
        dm->interval_ms = welcome.welcome.timeout_ms / 4 ? welcome.welcome.timeout_ms / 4 : 1;
        pthread_mutex_unlock(&dm->lock);
        x86_dm__signal(dm->wake);
    }
    return status;
}

struct x86_dm *x86_dm_connect(const char *endpoint, const char *name, unsigned timeout_ms, struct x86_dm_failure *why)
{
    if (strncmp(endpoint, "tcp:", 4) == 0) {
        x86_dm__fail(why, X86_DM_UNUSABLE, "%.200s: tcp needs CURVE keys, and none are given", endpoint);
        return NULL;
    }
    return x86_dm_connect_curve(endpoint, name, NULL, timeout_ms, why);
}

struct x86_dm *x86_dm_connect_curve(const char *endpoint, const char *name, const struct x86_dm_curve *curve,
                                    unsigned timeout_ms, struct x86_dm_failure *why)
{
    const char *keys[3] = {NULL, NULL, NULL};
    struct x86_dm *dm = calloc(1, sizeof(*dm));
    pthread_condattr_t clock;

    if (curve) {
        keys[0] = curve->server;
        keys[1] = curve->public_key;
        keys[2] = curve->secret_key;
    }
    for (size_t i = 0; curve && i < 3; i++) {
        if (!keys[i] || strlen(keys[i]) != X86_DM__KEY) {
            x86_dm__fail(why, X86_DM_UNUSABLE, "a CURVE key has %d characters", (int)X86_DM__KEY);
            free(dm);
            return NULL;
        }
    }
    if (!dm) {
        x86_dm__no_memory(why);
        return NULL;
    }
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&dm->answered, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&dm->admin, NULL);
    pthread_mutex_init(&dm->lock, NULL);
    dm->secured = curve != NULL;
    for (size_t i = 0; curve && i < 3; i++) {
        memcpy(dm->keys[i], keys[i], X86_DM__KEY + 1);
    }
    dm->timeout_ms = timeout_ms ? timeout_ms : X86_DM__TIMEOUT_MS;
    dm->endpoint = strdup(endpoint);
    dm->name = strdup(name ? name : "");
    dm->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dm->context = zmq_ctx_new();
    if (!dm->endpoint || !dm->name || dm->wake < 0 || !dm->context) {
        x86_dm__fail(why, X86_DM_NO_RESOURCES, "cannot set up a session: %s", strerror(errno));
    } else if (x86_dm__hello(dm, 0, why) == X86_DM_FINE) {
        return dm;
    }
    x86_dm_close(dm, false);
    return NULL;
}

const struct x86_dm_welcome *x86_dm_daemon(const struct x86_dm *dm)
{
    return &dm->welcome.welcome;
}

bool x86_dm_has_feature(const struct x86_dm *dm, const char *feature)
{
    for (uint32_t i = 0; i < dm->welcome.welcome.n_features; i++) {
        if (strcmp(dm->welcome.welcome.features[i], feature) == 0) {
            return true;
        }
    }
    return false;
}

bool x86_dm_is_lost(struct x86_dm *dm, struct x86_dm_failure *why)
{
    bool lost;

    pthread_mutex_lock(&dm->lock);
    lost = dm->lost.status != X86_DM_FINE;
    if (lost && why) {
        *why = dm->lost;
    }
    pthread_mutex_unlock(&dm->lock);
    return lost;
}

bool x86_dm_is_closing(struct x86_dm *dm)
{
    bool closing;

    pthread_mutex_lock(&dm->lock);
    closing = dm->closing;
    pthread_mutex_unlock(&dm->lock);
    return closing;
}

/* ------------------------------------------------------------------------------------------- memory */

/* Send a descriptor over the RAM socket: ZeroMQ cannot pass any. */
static enum x86_dm_status x86_dm__share(struct x86_dm *dm, const struct x86_dm__block *block,
                                        struct x86_dm_failure *why)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct timeval wait = {.tv_sec = dm->timeout_ms / 1000, .tv_usec = (dm->timeout_ms % 1000) * 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct sockaddr *to = (const void *)&address;
    const char *path = dm->welcome.welcome.ram_socket;
    struct x86_dm_buffer bytes = {0};
    struct x86_dm_message message;
    struct msghdr packet = {0};
    enum x86_dm_status status;
    struct iovec part;
    uint8_t *answer;
    ssize_t size = -1;
    int side;

    if (!*path) {
        return x86_dm__fail(why, X86_DM_UNUSABLE,
                            "this daemon takes no descriptors; share files below its memory path instead");
    }
    if (strlen(path) >= sizeof(address.sun_path)) {
        return x86_dm__fail(why, X86_DM_UNUSABLE, "the path of the RAM socket is too long");
    }
    x86_dm_init(&message, X86_DM_RAM);
    message.ram.seq = 1;
    message.ram.session = dm->session;
    message.ram.ram = block->number;
    message.ram.size = block->size;
    message.ram.secret = dm->welcome.welcome.secret;
    status = x86_dm_pack(&bytes, &message, why);
    if (status != X86_DM_FINE) {
        x86_dm_buffer_free(&bytes);
        return status;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    memset(&control, 0, sizeof(control));
    part = (struct iovec){bytes.data, bytes.size};
    packet.msg_iov = &part;
    packet.msg_iovlen = 1;
    packet.msg_control = &control;
    packet.msg_controllen = sizeof(control.room);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &block->fd, sizeof(int));
    answer = malloc(X86_DM_MAX_CONTROL);
    side = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (answer && side >= 0 && setsockopt(side, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) == 0 &&
        setsockopt(side, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) == 0 &&
        connect(side, to, sizeof(address)) == 0 &&
        sendmsg(side, &packet, MSG_NOSIGNAL) >= 0) {
        do {
            size = recv(side, answer, X86_DM_MAX_CONTROL, 0);
        } while (size < 0 && errno == EINTR);
    }
    if (size <= 0) {
        status = x86_dm__fail(why, X86_DM_SESSION_LOST, "the RAM socket does not answer: %s",
                              size == 0 ? "it was closed" : strerror(errno));
    } else {
        status = x86_dm_unpack(&message, answer, (size_t)size, X86_DM_MAX_CONTROL, why);
    }
    if (status == X86_DM_FINE) {
        if (message.type == X86_DM_ERROR) {
            status = x86_dm__refused(why, X86_DM_REFUSED, &message.error);
        } else if (message.type != X86_DM_OK) {
            status = x86_dm__fail(why, X86_DM_UNUSABLE, "ram was answered by %s", x86_dm__tables[message.type]->name);
        }
        x86_dm_message_free(&message);
    }
    if (side >= 0) {
        close(side);
    }
    free(answer);
    x86_dm_buffer_free(&bytes);
    return status;
}

/* Make a block known to the daemon, in either way. */
static enum x86_dm_status x86_dm__send_block(struct x86_dm *dm, const struct x86_dm__block *block,
                                             struct x86_dm_failure *why)
{
    struct x86_dm_message message;

    if (!block->path) {
        return x86_dm__share(dm, block, why);
    }
    x86_dm_init(&message, X86_DM_RAM);
    message.ram.ram = block->number;
    message.ram.size = block->size;
    message.ram.path = block->path;
    return x86_dm__do(dm, &message, why);
}

static void x86_dm__free_block(struct x86_dm__block *block)
{
    if (block->fd >= 0) {
        close(block->fd);
    }
    free(block->path);
    free(block);
}

static enum x86_dm_status x86_dm__add_block(struct x86_dm *dm, int fd, const char *path, uint64_t size,
                                            uint32_t *number, struct x86_dm_failure *why)
{
    struct x86_dm__block *block = calloc(1, sizeof(*block));
    enum x86_dm_status status;

    if (!block) {
        return x86_dm__no_memory(why);
    }
    block->size = size;
    block->path = path ? strdup(path) : NULL;
    block->fd = path ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (path ? !block->path : block->fd < 0) {
        status = x86_dm__fail(why, X86_DM_NO_RESOURCES, "cannot keep RAM: %s", strerror(errno));
        x86_dm__free_block(block);
        return status;
    }
    pthread_mutex_lock(&dm->admin);
    block->number = 1; /* as good as any that is free */
    for (const struct x86_dm__block *one = dm->blocks; one; one = one->next) {
        if (one->number >= block->number) {
            block->number = one->number + 1;
        }
    }
    status = x86_dm__send_block(dm, block, why);
    if (status == X86_DM_FINE) {
        *number = block->number;
        block->next = dm->blocks;
        dm->blocks = block;
    } else {
        x86_dm__free_block(block);
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

enum x86_dm_status x86_dm_add_ram(struct x86_dm *dm, int fd, uint64_t size, uint32_t *number,
                                  struct x86_dm_failure *why)
{
    return x86_dm__add_block(dm, fd, NULL, size, number, why);
}

enum x86_dm_status x86_dm_add_ram_file(struct x86_dm *dm, const char *path, uint64_t size, uint32_t *number,
                                       struct x86_dm_failure *why)
{
    return x86_dm__add_block(dm, -1, path, size, number, why);
}

enum x86_dm_status x86_dm_remove_ram(struct x86_dm *dm, uint32_t number, struct x86_dm_failure *why)
{
    struct x86_dm_message message;
    enum x86_dm_status status;

    x86_dm_init(&message, X86_DM_RAM_REMOVE);
    message.ram_remove.ram = number;
    pthread_mutex_lock(&dm->admin);
    status = x86_dm__do(dm, &message, why);
    for (struct x86_dm__block **at = &dm->blocks; *at && status == X86_DM_FINE; at = &(*at)->next) {
        if ((*at)->number == number) {
            struct x86_dm__block *gone = *at;

            *at = gone->next;
            x86_dm__free_block(gone);
            break;
        }
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

/* Keep a map for a successor, numbered with the next generation.  Called with `admin` held. */
static enum x86_dm_status x86_dm__keep_map(struct x86_dm *dm, struct x86_dm_message *message,
                                           const struct x86_dm_region *regions, uint32_t n, bool a20,
                                           struct x86_dm_buffer *bytes, struct x86_dm_failure *why)
{
    x86_dm_init(message, X86_DM_MEMORY_MAP);
    message->memory_map.map.generation = dm->generation + 1;
    message->memory_map.map.regions = regions;
    message->memory_map.map.n_regions = n;
    message->memory_map.map.a20 = a20;
    return x86_dm_pack(bytes, message, why);
}

/* The map in `bytes` is the daemon's now.  Called with `admin` held. */
static void x86_dm__use_map(struct x86_dm *dm, struct x86_dm_buffer *bytes)
{
    x86_dm_buffer_free(&dm->map);
    dm->map = *bytes;
    pthread_mutex_lock(&dm->lock);
    dm->generation++;
    pthread_mutex_unlock(&dm->lock);
}

enum x86_dm_status x86_dm_set_map(struct x86_dm *dm, const struct x86_dm_region *regions, uint32_t n, bool a20,
                                  struct x86_dm_failure *why)
{
    struct x86_dm_buffer bytes = {0};
    struct x86_dm_message message;
    enum x86_dm_status status;

    pthread_mutex_lock(&dm->admin);
    status = x86_dm__keep_map(dm, &message, regions, n, a20, &bytes, why);
    if (status == X86_DM_FINE) {
        status = x86_dm__do(dm, &message, why);
    }
    if (status == X86_DM_FINE) {
        x86_dm__use_map(dm, &bytes);
    } else {
        x86_dm_buffer_free(&bytes);
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

enum x86_dm_status x86_dm_next_map(struct x86_dm *dm, const struct x86_dm_region *regions, uint32_t n, bool a20,
                                   struct x86_dm_map *map, struct x86_dm_failure *why)
{
    struct x86_dm_buffer bytes = {0};
    struct x86_dm_message message;
    enum x86_dm_status status;

    pthread_mutex_lock(&dm->admin);
    status = x86_dm__keep_map(dm, &message, regions, n, a20, &bytes, why);
    if (status == X86_DM_FINE) {
        x86_dm__use_map(dm, &bytes);
        *map = message.memory_map.map;
    } else {
        x86_dm_buffer_free(&bytes);
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

enum x86_dm_status x86_dm_set_state_ports(struct x86_dm *dm, const struct x86_dm_port_range *ports, uint32_t n,
                                          struct x86_dm_failure *why)
{
    struct x86_dm_buffer bytes = {0};
    struct x86_dm_message message;
    enum x86_dm_status status;

    if (!x86_dm_has_feature(dm, "state-ports")) {
        return x86_dm__fail(why, X86_DM_UNUSABLE, "this daemon knows no state ports");
    }
    x86_dm_init(&message, X86_DM_STATE_PORTS);
    message.state_ports.ports = ports;
    message.state_ports.n_ports = n;
    pthread_mutex_lock(&dm->admin);
    status = x86_dm_pack(&bytes, &message, why);
    if (status == X86_DM_FINE) {
        status = x86_dm__do(dm, &message, why);
    }
    if (status == X86_DM_FINE) {
        x86_dm_buffer_free(&dm->state_ports);
        dm->state_ports = bytes;
    } else {
        x86_dm_buffer_free(&bytes);
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

/* ------------------------------------------------------------------------------------------- vCPUs and life */

/* Use a new socket and epoch from now on; `same` false: with a daemon that knows of no earlier run. */
static void x86_dm__renew(struct x86_dm_vcpu *vcpu, const char *endpoint, bool same)
{
    pthread_mutex_lock(&vcpu->dm->lock);
    if (endpoint) {
        x86_dm__say(vcpu->endpoint, sizeof(vcpu->endpoint), endpoint);
    }
    vcpu->same = same && (vcpu->same || !vcpu->renewed);
    vcpu->renewed = true;
    pthread_mutex_unlock(&vcpu->dm->lock);
    x86_dm__signal(vcpu->wake);
}

static void x86_dm__free_vcpu(struct x86_dm_vcpu *vcpu)
{
    if (vcpu->socket) {
        zmq_close(vcpu->socket);
    }
    if (vcpu->wake >= 0) {
        close(vcpu->wake);
    }
    x86_dm_message_free(&vcpu->last);
    x86_dm_buffer_free(&vcpu->create);
    x86_dm_buffer_free(&vcpu->packed);
    x86_dm_buffer_free(&vcpu->answer);
    x86_dm_buffer_free(&vcpu->read);
    free(vcpu);
}

struct x86_dm_vcpu *x86_dm_create_vcpu(struct x86_dm *dm, uint16_t number, const char *model,
                                       const struct x86_dm_cpuid *cpuid, uint32_t n, struct x86_dm_failure *why)
{
    struct x86_dm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    struct x86_dm_message create, ready;

    if (!vcpu) {
        x86_dm__no_memory(why);
        return NULL;
    }
    vcpu->dm = dm;
    vcpu->number = number;
    vcpu->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    x86_dm_init(&create, X86_DM_VCPU_CREATE);
    create.vcpu_create.vcpu = number;
    create.vcpu_create.cpuid = cpuid;
    create.vcpu_create.n_cpuid = n;
    if (model) {
        create.vcpu_create.model = model;
    }
    if (vcpu->wake < 0) {
        x86_dm__fail(why, X86_DM_NO_RESOURCES, "no eventfd: %s", strerror(errno));
        x86_dm__free_vcpu(vcpu);
        return NULL;
    }
    pthread_mutex_lock(&dm->admin);
    if (x86_dm_pack(&vcpu->create, &create, why) != X86_DM_FINE ||
        x86_dm__ask(dm, &create, X86_DM_VCPU_READY, dm->timeout_ms, &ready, why) != X86_DM_FINE) {
        pthread_mutex_unlock(&dm->admin);
        x86_dm__free_vcpu(vcpu);
        return NULL;
    }
    x86_dm__say(vcpu->endpoint, sizeof(vcpu->endpoint), ready.vcpu_ready.endpoint);
    x86_dm_message_free(&ready);
    pthread_mutex_lock(&dm->lock);
    vcpu->next = dm->vcpus;
    dm->vcpus = vcpu;
    pthread_mutex_unlock(&dm->lock);
    pthread_mutex_unlock(&dm->admin);
    return vcpu;
}

enum x86_dm_status x86_dm_destroy_vcpu(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why)
{
    struct x86_dm *dm = vcpu->dm;
    struct x86_dm_message message;
    enum x86_dm_status status;

    x86_dm_init(&message, X86_DM_VCPU_DESTROY);
    message.vcpu_destroy.vcpu = vcpu->number;
    pthread_mutex_lock(&dm->admin);
    status = x86_dm__do(dm, &message, why);
    pthread_mutex_lock(&dm->lock);
    for (struct x86_dm_vcpu **at = &dm->vcpus; *at; at = &(*at)->next) {
        if (*at == vcpu) {
            *at = vcpu->next;
            break;
        }
    }
    pthread_mutex_unlock(&dm->lock);
    pthread_mutex_unlock(&dm->admin);
    x86_dm__free_vcpu(vcpu);
    return status;
}

enum x86_dm_status x86_dm_query(struct x86_dm *dm, struct x86_dm_message *answer, struct x86_dm_failure *why)
{
    struct x86_dm_message query;

    x86_dm_init(&query, X86_DM_QUERY);
    return x86_dm__ask(dm, &query, X86_DM_COUNTERS, dm->timeout_ms, answer, why);
}

/* Give a new session all that the old one had. */
static enum x86_dm_status x86_dm__rebuild(struct x86_dm *dm, struct x86_dm_failure *why)
{
    enum x86_dm_status status = X86_DM_FINE;
    struct x86_dm_message message, ready;

    for (const struct x86_dm__block *b = dm->blocks; b && status == X86_DM_FINE; b = b->next) {
        status = x86_dm__send_block(dm, b, why);
    }
    if (status == X86_DM_FINE && dm->map.size) {
        status = x86_dm_unpack(&message, dm->map.data, dm->map.size, X86_DM_MAX_CONTROL, why);
        if (status == X86_DM_FINE) {
            status = x86_dm__do(dm, &message, why);
            x86_dm_message_free(&message);
        }
    }
    if (status == X86_DM_FINE && dm->state_ports.size) {
        status = x86_dm_unpack(&message, dm->state_ports.data, dm->state_ports.size, X86_DM_MAX_CONTROL, why);
        if (status == X86_DM_FINE) {
            status = x86_dm__do(dm, &message, why);
            x86_dm_message_free(&message);
        }
    }
    for (struct x86_dm_vcpu *v = dm->vcpus; v && status == X86_DM_FINE; v = v->next) {
        status = x86_dm_unpack(&message, v->create.data, v->create.size, X86_DM_MAX_CONTROL, why);
        if (status == X86_DM_FINE) {
            status = x86_dm__ask(dm, &message, X86_DM_VCPU_READY, dm->timeout_ms, &ready, why);
            x86_dm_message_free(&message);
        }
        if (status == X86_DM_FINE) {
            x86_dm__renew(v, ready.vcpu_ready.endpoint, false);
            x86_dm_message_free(&ready);
        }
    }
    return status;
}

enum x86_dm_status x86_dm_reconnect(struct x86_dm *dm, bool *same, struct x86_dm_failure *why)
{
    struct x86_dm_failure refusal;
    enum x86_dm_status status;

    pthread_mutex_lock(&dm->admin);
    x86_dm__end(dm);
    *same = true;
    status = x86_dm__hello(dm, dm->session, &refusal);
    if (status == X86_DM_REFUSED && refusal.error == X86_DM_ERROR_CLASS_UNKNOWN_SESSION) {
        *same = false;
        x86_dm__end(dm);
        status = x86_dm__hello(dm, 0, &refusal);
        if (status == X86_DM_FINE) {
            status = x86_dm__rebuild(dm, &refusal);
        }
    }
    for (struct x86_dm_vcpu *v = dm->vcpus; v && status == X86_DM_FINE && *same; v = v->next) {
        x86_dm__renew(v, NULL, true);
    }
    if (status != X86_DM_FINE) {
        pthread_mutex_lock(&dm->lock);
        x86_dm__lose(dm, &refusal); /* nobody waits for a session that did not come */
        pthread_mutex_unlock(&dm->lock);
        if (why) {
            *why = refusal;
        }
    }
    pthread_mutex_unlock(&dm->admin);
    return status;
}

void x86_dm_close(struct x86_dm *dm, bool bye)
{
    struct x86_dm_message message, answer;

    if (bye && dm->running && !x86_dm_is_lost(dm, NULL) && !x86_dm_is_closing(dm)) {
        pthread_mutex_lock(&dm->lock);
        dm->beating = 0; /* no heartbeat may follow */
        pthread_mutex_unlock(&dm->lock);
        x86_dm_init(&message, X86_DM_BYE);
        if (x86_dm__ask(dm, &message, X86_DM_OK, X86_DM__BYE_MS, &answer, NULL) == X86_DM_FINE) {
            x86_dm_message_free(&answer);
        }
    }
    x86_dm__end(dm);
    while (dm->vcpus) {
        struct x86_dm_vcpu *gone = dm->vcpus;

        dm->vcpus = gone->next;
        x86_dm__free_vcpu(gone);
    }
    while (dm->blocks) {
        struct x86_dm__block *gone = dm->blocks;

        dm->blocks = gone->next;
        x86_dm__free_block(gone);
    }
    if (dm->context) {
        while (zmq_ctx_term(dm->context) && errno == EINTR) {
        }
    }
    if (dm->wake >= 0) {
        close(dm->wake);
    }
    x86_dm_message_free(&dm->welcome);
    x86_dm_buffer_free(&dm->map);
    x86_dm_buffer_free(&dm->state_ports);
    pthread_cond_destroy(&dm->answered);
    pthread_mutex_destroy(&dm->lock);
    pthread_mutex_destroy(&dm->admin);
    free(dm->endpoint);
    free(dm->name);
    free(dm);
}

/* ------------------------------------------------------------------------------------------- runs */

void x86_dm_wake(struct x86_dm_vcpu *vcpu)
{
    x86_dm__signal(vcpu->wake);
}

/* Note a kick, which the run's thread passes on before it waits again. */
static void x86_dm__note_kick(struct x86_dm_vcpu *vcpu, enum x86_dm_stop stop, int window)
{
    uint32_t before = __atomic_load_n(&vcpu->kicks, __ATOMIC_RELAXED), after;

    do {
        after = before | (uint32_t)1 << (unsigned)stop;
        if (window >= 0) {
            after = (after & ~(uint32_t)X86_DM__WINDOW) |
                    (uint32_t)(window ? X86_DM__WINDOW_ON : X86_DM__WINDOW_OFF);
        }
    } while (!__atomic_compare_exchange_n(&vcpu->kicks, &before, after, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}

void x86_dm_kick(struct x86_dm_vcpu *vcpu, enum x86_dm_stop stop, int window)
{
    if ((unsigned)stop >= sizeof(x86_dm__stop_words) / sizeof(x86_dm__stop_words[0])) {
        return;
    }
    x86_dm__note_kick(vcpu, stop, window);
    x86_dm__signal(vcpu->wake);
}

static void x86_dm__count(uint64_t *counter, uint64_t more)
{
    __atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
}

void x86_dm_get_stats(const struct x86_dm_vcpu *vcpu, struct x86_dm_stats *stats)
{
    const uint64_t *from = &vcpu->stats.requests;
    uint64_t *to = &stats->requests;

    for (size_t i = 0; i < sizeof(*stats) / sizeof(*to); i++) {
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    }
}

/* Send bytes; what nobody is there to take is sent again after a reconnect. */
static void x86_dm__send(struct x86_dm_vcpu *vcpu, const struct x86_dm_buffer *bytes)
{
    if (x86_dm__send_part(&x86_dm__zmq, vcpu->socket, bytes->data, bytes->size, 0)) {
        x86_dm__count(&vcpu->stats.bytes_sent, bytes->size);
    }
}

static enum x86_dm_status x86_dm__send_request(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why)
{
    enum x86_dm_status status;

    vcpu->request.emulate.epoch = vcpu->epoch;
    vcpu->request.emulate.secret = (struct x86_dm_blob){NULL, 0};
    if (vcpu->is_known) {
        status = x86_dm_pack(&vcpu->packed, &vcpu->request, why);
    } else {
        pthread_mutex_lock(&vcpu->dm->lock); /* a reconnect may bring another secret meanwhile */
        vcpu->request.emulate.secret = vcpu->dm->welcome.welcome.secret;
        status = x86_dm_pack(&vcpu->packed, &vcpu->request, why);
        vcpu->request.emulate.secret = (struct x86_dm_blob){NULL, 0};
        pthread_mutex_unlock(&vcpu->dm->lock);
    }
    if (status == X86_DM_FINE) {
        x86_dm__send(vcpu, &vcpu->packed);
    }
    return status;
}

static enum x86_dm_status x86_dm__pass_kicks(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why)
{
    uint32_t kicks = __atomic_exchange_n(&vcpu->kicks, 0, __ATOMIC_SEQ_CST);
    bool window = kicks & (uint32_t)X86_DM__WINDOW;
    enum x86_dm_status status = X86_DM_FINE;

    if ((kicks & ~(uint32_t)X86_DM__WINDOW) > 1u << X86_DM_STOP_NONE) {
        kicks &= ~(1u << X86_DM_STOP_NONE); /* a stop carries the window along */
    }
    for (unsigned stop = 0; stop < 16 && status == X86_DM_FINE; stop++) {
        struct x86_dm_message kick;

        if (!(kicks >> stop & 1)) {
            continue;
        }
        x86_dm_init(&kick, X86_DM_KICK);
        kick.kick.session = vcpu->request.emulate.session;
        kick.kick.vcpu = vcpu->number;
        kick.kick.epoch = vcpu->epoch;
        kick.kick.seq = vcpu->request.emulate.seq;
        kick.kick.stop = (enum x86_dm_stop)stop;
        kick.kick.has_window = window;
        kick.kick.window = kicks & (uint32_t)X86_DM__WINDOW_ON;
        vcpu->waits = window ? kick.kick.window : vcpu->waits;
        window = false;
        status = x86_dm_pack(&vcpu->packed, &kick, why);
        if (status == X86_DM_FINE) {
            x86_dm__send(vcpu, &vcpu->packed);
            x86_dm__count(&vcpu->stats.kicks, 1);
            if (stop != X86_DM_STOP_NONE && vcpu->patience_ms) {
                vcpu->impatient_at = x86_dm__now_ms() + vcpu->patience_ms;
            }
        }
    }
    return status;
}

/* Open the socket the first time; after a reconnect use a new one and send an unanswered request again. */
static enum x86_dm_status x86_dm__renew_if_asked(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why)
{
    char endpoint[sizeof(vcpu->endpoint)];
    bool renewed, same;
    size_t size;

    pthread_mutex_lock(&vcpu->dm->lock);
    renewed = vcpu->renewed;
    same = !renewed || vcpu->same;
    vcpu->renewed = false;
    memcpy(endpoint, vcpu->endpoint, sizeof(endpoint));
    pthread_mutex_unlock(&vcpu->dm->lock);
    if (!renewed && vcpu->socket) {
        return X86_DM_FINE;
    }
    if (vcpu->socket) {
        zmq_close(vcpu->socket);
    }
    if (!same) {
        vcpu->base = 0;
    }
    vcpu->socket = x86_dm__open(vcpu->dm, endpoint, false);
    size = sizeof(vcpu->socket_fd);
    if (!vcpu->socket || zmq_getsockopt(vcpu->socket, ZMQ_FD, &vcpu->socket_fd, &size)) {
        return x86_dm__fail(why, vcpu->running ? X86_DM_RUN_LOST : X86_DM_SESSION_LOST, "cannot connect to %s: %s",
                            endpoint, zmq_strerror(errno));
    }
    vcpu->epoch++;
    vcpu->is_known = false;
    if (!vcpu->running) {
        return X86_DM_FINE;
    }
    if (!same) {
        return x86_dm__fail(why, X86_DM_RUN_LOST, "a run was lost in the middle: the daemon is another one");
    }
    x86_dm__count(&vcpu->stats.resent, 1);
    return x86_dm__send_request(vcpu, why);
}

/* How long to sleep at most, for poll(). */
static int x86_dm__patience(const struct x86_dm_vcpu *vcpu)
{
    int64_t left = vcpu->impatient_at - x86_dm__now_ms();

    return !vcpu->impatient_at ? -1 : left > 0 ? (int)left : 0;
}

/* Call on_wake, and do what it or a reconnect asks for. */
static enum x86_dm_status x86_dm__woken(struct x86_dm_vcpu *vcpu, const struct x86_dm_devices *devices,
                                        struct x86_dm_failure *why)
{
    enum x86_dm_status status = X86_DM_FINE;

    x86_dm__drain(vcpu->wake);
    if (vcpu->impatient_at && x86_dm__patience(vcpu) == 0) {
        vcpu->impatient_at = 0;
    }
    if (devices->on_wake && devices->on_wake(devices->opaque)) {
        x86_dm__note_kick(vcpu, X86_DM_STOP_KICK, -1); /* no wake: that would call on_wake again, and again */
        status = x86_dm__pass_kicks(vcpu, why);
    }
    return status == X86_DM_FINE ? x86_dm__renew_if_asked(vcpu, why) : status;
}

/* Receive a message, awake or asleep until there is one; carry out kicks and reconnects meanwhile. */
static enum x86_dm_status x86_dm__receive_frame(struct x86_dm_vcpu *vcpu, const struct x86_dm_devices *devices,
                                                zmq_msg_t *frame, struct x86_dm_failure *why)
{
    for (;;) {
        struct pollfd fds[] = {{vcpu->socket_fd, POLLIN, 0}, {vcpu->wake, POLLIN, 0}};
        enum x86_dm_status status = x86_dm__pass_kicks(vcpu, why);
        enum x86_dm__news news = X86_DM__OTHER;
        struct x86_dm_failure lost;
        bool gone;

        if (status != X86_DM_FINE) {
            return status;
        }
        if (poll(&fds[1], 1, 0) <= 0) { /* a wake-up counts also where there always is a message */
            news = x86_dm__await(&x86_dm__zmq, vcpu->socket, &vcpu->waiter, fds, 2, x86_dm__patience(vcpu), frame);
        }
        if (news == X86_DM__MESSAGE) {
            return X86_DM_FINE;
        }
        if (news == X86_DM__FAILED) {
            return x86_dm__fail(why, X86_DM_RUN_LOST, "a run was lost in the middle: %s", zmq_strerror(zmq_errno()));
        }
        status = x86_dm__woken(vcpu, devices, why);
        if (status != X86_DM_FINE) {
            return status;
        }
        if (x86_dm__receive_part(&x86_dm__zmq, vcpu->socket, frame) > 0) { /* it came before what has ended the session */
            return X86_DM_FINE;
        }
        pthread_mutex_lock(&vcpu->dm->lock);
        gone = vcpu->dm->lost.status != X86_DM_FINE && !vcpu->renewed;
        lost = vcpu->dm->lost;
        pthread_mutex_unlock(&vcpu->dm->lock);
        if (gone) {
            return x86_dm__fail(why, X86_DM_RUN_LOST, "a run was lost in the middle: %.400s", lost.text);
        }
    }
}

/* Receive the next message and take it apart. */
static enum x86_dm_status x86_dm__receive(struct x86_dm_vcpu *vcpu, const struct x86_dm_devices *devices,
                                          struct x86_dm_message *message, struct x86_dm_failure *why)
{
    struct x86_dm_failure wrong;
    enum x86_dm_status status;
    zmq_msg_t frame;

    zmq_msg_init(&frame);
    status = x86_dm__receive_frame(vcpu, devices, &frame, why);
    if (status == X86_DM_FINE) {
        x86_dm__count(&vcpu->stats.bytes_received, zmq_msg_size(&frame));
        if (x86_dm_unpack(message, zmq_msg_data(&frame), zmq_msg_size(&frame), X86_DM_MAX_MESSAGE, &wrong)) {
            status = x86_dm__fail(why, X86_DM_RUN_LOST, "the daemon does not speak this protocol: %.400s", wrong.text);
        }
    }
    zmq_msg_close(&frame);
    return status;
}

static void x86_dm__deliver(const struct x86_dm_devices *devices, const struct x86_dm_posted *posted, uint32_t n_posted,
                            const uint64_t *pages, uint32_t n_pages)
{
    for (uint32_t i = 0; i < n_posted && devices->on_posted; i++) {
        uint32_t size = posted[i].size ? posted[i].size : 1;

        for (uint32_t at = 0; at < posted[i].data.size; at += size) {
            uint32_t left = posted[i].data.size - at;

            devices->on_posted(devices->opaque, posted[i].gpa + at, posted[i].data.data + at, left < size ? left : size);
        }
    }
    if (n_pages && devices->on_pages) {
        devices->on_pages(devices->opaque, pages, n_pages);
    }
}

/* Ask the devices for one access of a copy, and add to `whole` what else they say. */
static void x86_dm__single(struct x86_dm_vcpu *vcpu, const struct x86_dm_io *single,
                           const struct x86_dm_devices *devices, struct x86_dm_answer *whole)
{
    struct x86_dm_answer given = {.data = vcpu->read.data, .window = -1};

    if (single->kind == X86_DM_IO_KIND_MMIO_READ) {
        given.size = single->size;
        memset(given.data, 0xff, single->size);
    }
    devices->on_io(devices->opaque, single, &given);
    if (given.map) {
        whole->map = given.map;
    }
    if (given.window >= 0) {
        whole->window = given.window;
    }
    if (given.stop != X86_DM_STOP_NONE) {
        whole->stop = given.stop;
    }
}

/* Most bytes of an element. */
enum { X86_DM__ELEMENT = 8 };

/* Carry out a copy as single reads and writes. */
static void x86_dm__copy(struct x86_dm_vcpu *vcpu, const struct x86_dm_io *io, const struct x86_dm_devices *devices,
                         struct x86_dm_answer *whole)
{
    struct x86_dm_io single = *io;
    uint8_t element[X86_DM__ELEMENT];

    single.target = 0;
    single.count = 1;
    single.down = false;
    single.n_posted = single.n_pages = single.n_patches = 0;
    for (uint32_t n = 0; n < io->count; n++) {
        uint64_t at = (uint64_t)n * io->size;

        single.kind = X86_DM_IO_KIND_MMIO_READ;
        single.address = io->down ? io->address - at : io->address + at;
        single.data = (struct x86_dm_blob){NULL, 0};
        x86_dm__single(vcpu, &single, devices, whole);
        memcpy(element, vcpu->read.data, io->size);
        if (whole->map && whole->map->n_regions <= X86_DM_MAX_REGIONS) { /* it need not outlive the next call */
            vcpu->kept = *whole->map;
            for (uint32_t i = 0; i < vcpu->kept.n_regions; i++) {
                vcpu->kept_regions[i] = vcpu->kept.regions[i];
            }
            vcpu->kept.regions = vcpu->kept_regions;
            whole->map = &vcpu->kept;
        }
        single.kind = X86_DM_IO_KIND_MMIO_WRITE;
        single.address = io->down ? io->target - at : io->target + at;
        single.data = (struct x86_dm_blob){element, io->size};
        x86_dm__single(vcpu, &single, devices, whole);
        if (whole->stop != X86_DM_STOP_NONE || whole->map || (whole->window > 0 && !vcpu->waits)) {
            whole->copied = n + 1;
            break;
        }
    }
}

/* Ask the devices, and send what they say. */
static enum x86_dm_status x86_dm__question(struct x86_dm_vcpu *vcpu, const struct x86_dm_io *io,
                                           const struct x86_dm_devices *devices, struct x86_dm_failure *why)
{
    bool reads = io->kind == X86_DM_IO_KIND_PORT_IN || io->kind == X86_DM_IO_KIND_MMIO_READ ||
                 io->kind == X86_DM_IO_KIND_MSR_READ;
    bool copies = io->kind == X86_DM_IO_KIND_MEMORY_COPY;
    uint64_t size = (uint64_t)io->size * io->count;
    struct x86_dm_answer given = {.window = -1};
    struct x86_dm_message answer;
    enum x86_dm_status status;

    if (size > X86_DM_MAX_DATA || (copies && io->size > X86_DM__ELEMENT) ||
        (!reads && !copies && io->kind != X86_DM_IO_KIND_INTERRUPT_ACK && io->kind != X86_DM_IO_KIND_REPORT &&
         io->data.size != size)) {
        return x86_dm__fail(why, X86_DM_RUN_LOST, "the daemon does not speak this protocol: %s of %u times %u bytes",
                            x86_dm_io_kind_name(io->kind), (unsigned)io->count, (unsigned)io->size);
    }
    if (vcpu->read.room < size + 8) {
        uint8_t *grown = realloc(vcpu->read.data, (size_t)size + 8);

        if (!grown) {
            x86_dm__no_memory(why);
            return x86_dm__fail(why, X86_DM_RUN_LOST, "a run was lost in the middle: out of memory");
        }
        vcpu->read.data = grown;
        vcpu->read.room = (size_t)size + 8;
    }
    given.data = vcpu->read.data;
    given.fault = io->kind == X86_DM_IO_KIND_MSR_READ || io->kind == X86_DM_IO_KIND_MSR_WRITE;
    if (reads) {
        given.size = (uint32_t)size;
        memset(given.data, 0xff, (size_t)size);
    }
    if (io->n_registers) {
        memcpy(given.registers, io->registers, io->n_registers * sizeof(given.registers[0]));
    }
    given.copied = io->count;
    if (copies && devices->on_copy) {
        devices->on_copy(devices->opaque, io, &given);
    } else if (copies && devices->on_io) {
        x86_dm__copy(vcpu, io, devices, &given);
    } else if (!copies && devices->on_io && io->kind != X86_DM_IO_KIND_REPORT) {
        devices->on_io(devices->opaque, io, &given);
    }
    if (given.window >= 0 || io->kind == X86_DM_IO_KIND_INTERRUPT_ACK) {
        vcpu->waits = given.window > 0;
    }
    x86_dm_init(&answer, X86_DM_IO_ANSWER);
    answer.io_answer.session = io->session;
    answer.io_answer.vcpu = io->vcpu;
    answer.io_answer.epoch = vcpu->epoch;
    answer.io_answer.seq = io->seq;
    answer.io_answer.io = io->io;
    answer.io_answer.native = given.native;
    if (given.native) {
        given.fault = false;
    } else if (!given.fault) {
        answer.io_answer.data = (struct x86_dm_blob){given.data, given.size};
    }
    answer.io_answer.fault = given.fault;
    if (given.map) {
        answer.io_answer.has_map = true;
        answer.io_answer.map = *given.map;
    }
    if (given.window >= 0) {
        answer.io_answer.has_window = true;
        answer.io_answer.window = given.window != 0;
    }
    answer.io_answer.stop = given.stop;
    if (given.copied < io->count) {
        answer.io_answer.has_copied = true;
        answer.io_answer.copied = given.copied;
    }
    if (io->n_registers && memcmp(given.registers, io->registers, io->n_registers * sizeof(given.registers[0]))) {
        answer.io_answer.registers = given.registers;
        answer.io_answer.n_registers = io->n_registers;
    }
    status = x86_dm_pack(&vcpu->answer, &answer, why);
    if (status == X86_DM_FINE) {
        vcpu->has_answer = true;
        vcpu->answered_io = io->io;
        x86_dm__send(vcpu, &vcpu->answer);
    }
    return status;
}

/* Our answer was lost: say it again, with the epoch of now, and touch no device. */
static enum x86_dm_status x86_dm__answer_again(struct x86_dm_vcpu *vcpu, struct x86_dm_failure *why)
{
    struct x86_dm_message answer;
    enum x86_dm_status status = x86_dm_unpack(&answer, vcpu->answer.data, vcpu->answer.size, X86_DM_MAX_MESSAGE, why);

    if (status == X86_DM_FINE) {
        answer.io_answer.epoch = vcpu->epoch;
        status = x86_dm_pack(&vcpu->packed, &answer, why);
        x86_dm_message_free(&answer);
    }
    if (status == X86_DM_FINE) {
        x86_dm__send(vcpu, &vcpu->packed);
    }
    return status;
}

/* What one message means for the run.  Sets *over when it is the last. */
static enum x86_dm_status x86_dm__react(struct x86_dm_vcpu *vcpu, const struct x86_dm_state *state,
                                        const struct x86_dm_message *message, const struct x86_dm_devices *devices,
                                        bool *over, struct x86_dm_failure *why)
{
    struct x86_dm_emulate *request = &vcpu->request.emulate;

    if (message->type == X86_DM_IO && message->io.seq == request->seq) {
        const struct x86_dm_io *io = &message->io;

        if (vcpu->has_answer && io->io <= vcpu->answered_io) {
            return io->io == vcpu->answered_io ? x86_dm__answer_again(vcpu, why) : X86_DM_FINE;
        }
        x86_dm__count(&vcpu->stats.io, 1);
        x86_dm__deliver(devices, io->posted, io->n_posted, io->pages, io->n_pages);
        return x86_dm__question(vcpu, io, devices, why);
    }
    if (message->type == X86_DM_DONE && message->done.seq == request->seq) {
        const struct x86_dm_done *done = &message->done;

        x86_dm__deliver(devices, done->posted, done->n_posted, done->pages, done->n_pages);
        *over = true;
        return X86_DM_FINE;
    }
    if (message->type == X86_DM_ERROR && (message->error.seq == request->seq || message->error.seq == 0)) {
        const struct x86_dm_error *error = &message->error;

        if (error->error == X86_DM_ERROR_CLASS_UNKNOWN_BASE && request->base) {
            request->base = 0; /* the daemon has forgotten: say it in full */
            request->state.present = X86_DM_ALL_GROUPS;
            request->state.state = *state;
            return x86_dm__send_request(vcpu, why);
        }
        if (error->error == X86_DM_ERROR_CLASS_ABORTED || error->error == X86_DM_ERROR_CLASS_INTERNAL ||
            error->error == X86_DM_ERROR_CLASS_SESSION_LOST) {
            return x86_dm__refused(why, X86_DM_RUN_LOST, error);
        }
        return x86_dm__refused(why, X86_DM_REFUSED, error);
    }
    return X86_DM_FINE; /* of a run that is over */
}

enum x86_dm_status x86_dm_run(struct x86_dm_vcpu *vcpu, struct x86_dm_state *state, const struct x86_dm_emulate *how,
                              const struct x86_dm_devices *devices, const struct x86_dm_done **done,
                              struct x86_dm_failure *why)
{
    static const struct x86_dm_devices none;
    struct x86_dm *dm = vcpu->dm;
    struct x86_dm_emulate *request = &vcpu->request.emulate;
    enum x86_dm_status status = x86_dm__renew_if_asked(vcpu, why);
    bool over = false, accepted = false;

    devices = devices ? devices : &none;

    x86_dm_message_free(&vcpu->last);
    if (status != X86_DM_FINE) {
        return status;
    }
    x86_dm_init(&vcpu->request, X86_DM_EMULATE);
    *request = *how;
    pthread_mutex_lock(&dm->lock);
    if (dm->lost.status != X86_DM_FINE) {
        status = dm->lost.status;
        if (why) {
            *why = dm->lost;
        }
    } else if (dm->closing) {
        status = x86_dm__fail(why, X86_DM_SESSION_LOST, "the daemon is shutting down");
    }
    request->session = dm->session;
    request->generation = dm->generation;
    pthread_mutex_unlock(&dm->lock);
    if (status != X86_DM_FINE) {
        return status;
    }
    request->vcpu = vcpu->number;
    request->seq = ++vcpu->seq;
    request->base = vcpu->base;
    request->state.present = vcpu->base ? x86_dm_state_difference(&vcpu->known, state) : X86_DM_ALL_GROUPS;
    request->state.state = *state;
    vcpu->has_answer = false;
    vcpu->waits = how->window;
    vcpu->patience_ms = devices->patience_ms;
    vcpu->impatient_at = 0;
    status = x86_dm__send_request(vcpu, why);
    if (status == X86_DM_FINE) {
        accepted = vcpu->running = true;
        x86_dm__count(&vcpu->stats.requests, 1);
    }
    while (status == X86_DM_FINE && !over) {
        struct x86_dm_message message;

        status = x86_dm__receive(vcpu, devices, &message, why);
        if (status != X86_DM_FINE) {
            break;
        }
        status = x86_dm__react(vcpu, state, &message, devices, &over, why);
        if (over) {
            vcpu->last = message;
        } else {
            x86_dm_message_free(&message);
        }
    }
    vcpu->running = false;
    if (status != X86_DM_FINE) {
        vcpu->base = 0;
        if (accepted && status != X86_DM_REFUSED) { /* whatever went wrong here: the run's outcome is not known */
            status = X86_DM_RUN_LOST;
            if (why) {
                why->status = status;
            }
        }
        return status;
    }
    x86_dm_state_update(state, &vcpu->last.done.state);
    vcpu->known = *state;
    vcpu->base = vcpu->last.done.seq;
    vcpu->is_known = true;
    x86_dm__count(&vcpu->stats.instructions, vcpu->last.done.instructions);
    x86_dm__count(&vcpu->stats.steps, vcpu->last.done.steps);
    *done = &vcpu->last.done;
    return X86_DM_FINE;
}

#endif /* X86_DM_IMPLEMENTATION */
