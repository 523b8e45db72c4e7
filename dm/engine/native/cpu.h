/* The machine of one virtual CPU, shared by the runtime, the handlers and the procedures. */
#ifndef DM_CPU_H
#define DM_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api.h"
#include "arithmetic.h"
#include "architecture.h"
#include "words.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the native engine needs a little-endian host"
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Handlers end in tail calls only where the compiler is sure to turn them into jumps. */
#ifndef DM_THREADED
#if defined(__OPTIMIZE__) && defined(__GNUC__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define DM_THREADED 1
#else
#define DM_THREADED 0
#endif
#endif

/* Guest memory is reached through these: single host accesses at any alignment, and never assumed unaliased. */
typedef uint8_t __attribute__((may_alias)) any8;
typedef uint16_t __attribute__((may_alias, aligned(1))) any16;
typedef uint32_t __attribute__((may_alias, aligned(1))) any32;
typedef uint64_t __attribute__((may_alias, aligned(1))) any64;

enum {
    PAGE = 4096,
    LONGEST = 15,        /* bytes of an instruction */
    BLOCK_INSNS = 32,    /* instructions of a block */
    BLOCK_BYTES = 240,   /* a block takes no instruction beyond; offsets fit one byte */
    HASH_SIZE = 16384,
    JUMPS_SIZE = 1024,
    ARENA_SIZE = 16 << 20,
    LINK_UNIT = 32,      /* of places in the arena */
    TLB_SIZE = 256,
    CHUNK = 16384,       /* steps between two checks of the kick word */
    JOURNAL_SIZE = 1024, /* inputs of one instruction */
    STORES_SIZE = 512,   /* stores of one instruction */
    POSTED_SIZE = 8192,  /* coalesced writes, of which one instruction makes at most three quarters */
    PAGES_SIZE = 16384,  /* written pages reported at once */
    CHUNK_PAGES = 512,   /* pages whose bookkeeping is allocated together */
};

/* Records a decoded instruction.  Registers are numbers, `base` and `index` 8 for none; byte registers are which byte
 * of the general registers they are. */
struct insn {
    void *handler;
    union {
        struct block *chain; /* where a direct jump goes, &dead_block when unknown */
        uint64_t imm2;
    };
    uint32_t imm;
    union {
        uint32_t disp;
        uint32_t link; /* where a direct jump to another page goes, its place in the arena */
    };
    uint8_t offset, next; /* where it begins and ends, from the start of the block */
    uint8_t base, index;
    union {
        uint8_t scale;
        uint8_t rest; /* of a direct jump: records behind it in the block */
    };
    uint8_t seg, reg, rm;
};

_Static_assert(sizeof(struct insn) == 32, "two records to a cache line");

/* Straight-line code decoded from one page.  `tag` is generation << 32 | linear address: valid there and then. */
struct block {
    uint64_t physical;
    struct block *hash_next, *page_next;
    struct page *page;
    /* what is needed to enter it shares a cache line with the first record */
    uint64_t tag;
    uint8_t *bytes;        /* what it was decoded from; then the number of each record's form */
    const uint8_t *source; /* where that lay when the tag was set */
    uint16_t length, count;
    bool code32;
    struct insn insn[]; /* `count` records, and an end record where the last one may go on */
};

_Static_assert(offsetof(struct block, tag) == 32 && sizeof(struct block) == 64, "one cache line");

/* Bookkeeping of one page of RAM or ROM. */
struct page {
    uint64_t code;        /* 64-byte lines that blocks were decoded from */
    struct block *blocks;
    uint64_t written;     /* report in which it was listed as written */
};

struct region {
    uint64_t gpa, end;
    uint8_t *memory;
    unsigned kind;
    struct page **chunks;
};

struct read_entry {
    uint32_t tag; /* linear page, odd when empty */
    uintptr_t host;
};

struct write_entry {
    uint32_t tag;
    uintptr_t host;
    const uint64_t *code;
};

struct fetch_entry {
    uint32_t tag;
    const uint8_t *host; /* of the page */
    uint64_t physical;
    struct page *page;
};

struct tlb {
    struct read_entry read[TLB_SIZE];
    struct write_entry write[TLB_SIZE];
    struct fetch_entry fetch[TLB_SIZE];
    bool used;
};

/* Why an instruction or procedure was abandoned. */
enum bail {
    BAIL_NONE,
    BAIL_EXACT, /* needs recording */
    BAIL_FAULT,
    BAIL_UNSUPPORTED,
    BAIL_QUESTION,
    BAIL_HYPERVISOR,
    BAIL_FIRMWARE,
    BAIL_MISMATCH,
    BAIL_AGAIN, /* start over (lost compare-and-swap) */
};

/* How a fast handler chain returns to the run loop. */
enum leave {
    GO_ON, /* not threaded: run cpu->at */
    LEAVE_EXACT,
    LEAVE_CHECKPOINT,
    LEAVE_REPEAT, /* out of budget between two iterations */
    LEAVE_ENTRY,  /* no block can be entered at cpu->eip */
    LEAVE_BUDGET, /* the block at cpu->eip is longer than the budget */
};

/* How an exact handler ends. */
enum end { END_OF_NEXT, END_OF_JUMP, END_OF_CHECKPOINT, END_OF_TRANSFER, END_OF_REPEAT, END_OF_ABORT };

enum input {
    INPUT_TRANSLATE,
    INPUT_LOAD,
    INPUT_SWAP,
    INPUT_STORE,
    INPUT_PORT_IN,
    INPUT_PORT_OUT,
    INPUT_MSR_READ,
    INPUT_MSR_WRITE,
    INPUT_COPY, /* address and value: of its first elements read and written */
    INPUT_TSC,
    INPUT_RANDOM,
    INPUT_COMMIT,
};

struct journal_entry {
    uint64_t address, value;
    uint32_t size, count;
    uint8_t kind;
    bool fault, down;
};

struct store {
    uint64_t physical, value, old;
    uint32_t size;
    uint32_t acknowledged; /* bytes that a device has had */
    uint32_t input; /* index of the journal entry that gave `old`, when locked */
    bool locked, swapped;
    bool block; /* bytes are in cpu->block_data, `element` each */
    uint8_t element;
};

/* Where an access goes: one piece, or two when it crosses a page. */
struct span {
    uint64_t physical[2];
    unsigned first; /* bytes in the first piece */
    unsigned size;
};

enum open { OPEN_NONE, OPEN_FETCH, OPEN_WALK, OPEN_INSN, OPEN_DELIVER };

#include "fields.h"

struct cpu {
    struct arch a; /* printed from the state table; everything below is the engine's own */

    /* hot */
    const struct tlb *tlb;
    struct block *block;
    uint64_t generation; /* << 32 */
    uint32_t block_eip;
    uint32_t miss_linear, miss_size; /* access that the TLB does not know */
    uint32_t store_linear, store_size; /* store into a line of code that was found to hit none */
    bool watch_segments;
    unsigned bail;
    int64_t budget;
    uint64_t repeats;
    const struct insn *at;
    const struct insn *missed;
    unsigned misses;
    const struct insn *resume; /* continue here, inside cpu->block, after an instruction that ran exactly */

    uint64_t features, more_features;
    uint8_t vendor, model, delivering;
    uint8_t lineage; /* whose opcode map it has, enum lineage */
    bool copies; /* the outside copies from device to device itself */

    /* modes */
    bool look;      /* examine everything at the next boundary */
    bool single;    /* one exact instruction at a time */
    bool recording; /* exact mode: the journal is live */
    bool filling;   /* walking for the fast path */
    bool block_killed;
    bool ends_protected; /* the mode that segments' ends were computed for */
    bool smap_open;      /* whether EFLAGS.AC suspends SMAP, as the TLB knows it */
    uint32_t repeat; /* iterations that the current instruction has made */
    uint32_t moved;  /* elements that a port string instruction has moved, else 1 */

    /* memory */
    struct region *regions;
    unsigned region_count;
    uint64_t a20_mask;
    struct tlb tlbs[2]; /* supervisor, user */
    uint64_t report;    /* number of the current report of written pages */
    uint64_t *pages;
    uint32_t page_count;
    struct dm_posted *posted;
    uint32_t posted_count;
    bool flushed;

    /* blocks */
    struct block **hash;
    struct block *jumps[JUMPS_SIZE]; /* by linear address, for indirect jumps */
    uint8_t *arena;
    size_t arena_used, arena_top; /* bytes taken at the bottom and at the top */

    /* the current instruction */
    struct arch before;           /* what an open question restores */
    struct arch committed;        /* the state at the last commit */
    const struct arch *on_fault;  /* which of the two a fault restores */
    bool keeping;                 /* except stores and general registers */
    struct journal_entry *journal;
    unsigned journal_count, cursor;
    struct store *stores;
    unsigned store_count;
    uint8_t block_data[PAGE];
    /* read-modify-write under way */
    bool rmw_locked;
    uint64_t rmw_physical[2];
    uint32_t rmw_first, rmw_input;
    uint64_t rmw_old;
    uint64_t reached[2]; /* where the access just checked goes, see struct span */
    uint32_t reached_first;
    struct dm_fault fault;
    struct dm_fault last_fault;
    uint32_t label;
    uint64_t hypervisor_address;

    /* the current question */
    enum open open;
    bool answered;
    struct journal_entry question;
    uint32_t question_reason;
    uint8_t question_data[PAGE]; /* what a write writes, then the answer to a read */
    struct insn open_insn;
    uint16_t open_variant;
    uint8_t fetched[16];
    unsigned fetch_count;
    bool walked; /* the page of the byte being fetched has been found */

    /* the current request */
    struct dm_request request;
    uint64_t left; /* steps of the budget not yet made */
    bool progressed;
    bool first;    /* the first instruction of this request has not been executed yet */
    bool expect_mmio; /* the access that the request names has not been seen yet */
    bool prepaid;  /* the current instruction was begun, and is charged, in an earlier run */
    uint64_t steps, instructions;
    uint32_t insn_length; /* of the instruction run exactly */
    bool after_event; /* the last thing done was the delivery of an event, in this run or the one before */

    uint64_t rip, rflags, rflags_canonical; /* as given, for the parts that 32-bit code does not see */
    atomic_uint kick;
    struct dm_cpuid *cpuid;
    unsigned cpuid_count;
#ifdef WITHOUT_TLB /* last: no other field moves */
    uintptr_t flat;
    struct page *flat_pages;
#endif
};

typedef unsigned handler(struct cpu *cpu, const struct insn *i, uint32_t fr, uint32_t fc, int64_t budget,
                         const struct tlb *tlb);
typedef unsigned exact(struct cpu *cpu, const struct insn *i);

/* One form of one row of the opcode map. */
struct variant {
    handler *fast; /* leave_exact when it must run exactly */
    exact *exact;
    bool ends; /* the block ends with it: nothing follows it, or what follows must be checked */
    bool falls; /* the next record may follow */
    bool branches; /* so may a jump */
    bool cold; /* it writes fields beyond ARCH_HOT */
    uint8_t first, second; /* its number among those that come first, or second, in a pair */
};

/* A row of the opcode map; where its operands are follows from their forms (dm.isa.map.operands). */
struct row {
    uint8_t mod;            /* 0 no ModRM, 1 rm, 2 memory, 3 register, 4 register whatever mod says */
    bool reg_byte, rm_byte; /* a byte register */
    bool vvvv;              /* VEX.vvvv names a register, in `imm2` */
    bool address;           /* memory at an address in the instruction, in `disp` */
    bool plus, addressed, lock, rep, repz;
    struct {
        uint8_t size[2]; /* bytes by operand size, 0 none */
        bool extend;     /* its sign */
    } immediates[2];     /* to `imm` and `imm2` */
    uint16_t variants[2][3][4]; /* [osize][register or 16-bit, memory 16, memory or addressed 32][none, lock or rep, repe, repne] */
};

struct top {
    uint32_t leaf;
    bool modrm, prefixed;
};

extern const struct top decode_tops[]; /* by lineage, map, opcode */
extern const unsigned decode_map_size;
extern const uint8_t decode_vex_maps[32]; /* map that VEX.mmmmm selects, 0 none */
extern const uint8_t decode_byte_registers[8]; /* which byte of the general registers AL to BH are */
extern const uint16_t decode_leaves[];
extern const struct row decode_rows[];
extern const struct variant variants[];
extern handler *const pairs[]; /* [first][second]: both at once, or NULL */
extern const unsigned pair_seconds;
extern const char *const labels[];
extern const unsigned label_count;
#ifndef DM_VARIANT
#define DM_VARIANT "" /* of a build that is not the product */
#endif
extern const char digest[];
extern struct block dead_block;

#include "primitives.h" /* implemented in access.c, journal.c, memory.c, ports.c, strings.c, system.c and tlb.c */

/* abandon.c */
bool give_way(struct cpu *cpu);
void raise_fault(struct cpu *cpu, uint32_t label, uint32_t vector, uint32_t error, uint32_t a, uint32_t b, uint32_t c);
void leave_to_hypervisor(struct cpu *cpu, uint64_t physical, uint32_t label);
void give_up(struct cpu *cpu, uint32_t label);

/* memory.c */
struct region *region_at(struct cpu *cpu, uint64_t physical);
struct page *page_at(struct region *region, uint64_t physical);
void page_written(struct cpu *cpu, struct region *region, uint64_t physical);
void ram_write(struct cpu *cpu, struct region *region, uint64_t physical, uint64_t value, unsigned size);
void ram_touched(struct cpu *cpu, struct region *region, uint64_t physical, unsigned size);
uint64_t host_load(const uint8_t *host, unsigned size);

/* tlb.c */
void tlb_drop(struct cpu *cpu);
void tlb_drop_writes(struct cpu *cpu);
void bump_generation(struct cpu *cpu);
const struct fetch_entry *fetch_page(struct cpu *cpu, uint32_t linear);
handler miss_read, miss_write;

/* access.c: the accesses of exact handlers and of procedures */
bool check_data(struct cpu *cpu, uint32_t segment, uint32_t offset, unsigned size, bool write, struct span *span);
uint64_t load_span(struct cpu *cpu, const struct span *span);
void store_span(struct cpu *cpu, const struct span *span, uint64_t value);

/* journal.c */
struct journal_entry *replay(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size);
void record(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size, uint64_t value);
void ask(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size, uint32_t count, const uint8_t *data);
uint64_t load_input(struct cpu *cpu, uint64_t physical, unsigned size);
bool withheld(const struct cpu *cpu, uint64_t physical, unsigned size);
void withhold(struct cpu *cpu, uint64_t physical, uint64_t value, unsigned size);
bool commit_stores(struct cpu *cpu);

/* elements.c: blocks of elements, of ports.c and strings.c */
uint32_t block_room(struct cpu *cpu, uint32_t segment, uint32_t offset, uint64_t physical, uint32_t wanted, bool down,
                    bool wide, unsigned size, bool write);
uint32_t up_to_itself(struct cpu *cpu, uint64_t physical, uint32_t n, bool down, unsigned size);
void read_elements(struct cpu *cpu, uint64_t physical, uint32_t count, bool down, unsigned size, uint8_t *data);
void withhold_block(struct cpu *cpu, uint64_t physical, uint32_t count, bool down, unsigned size);

/* system.c */
void mode_changed(struct cpu *cpu);

/* decode.c: length, or 0 when `size` bytes end inside the instruction, or -1 when it is longer than 15 */
enum lineage { LINEAGE_80286, LINEAGE_80386, LINEAGE_INTEL, LINEAGE_AMD }; /* dm.isa.lineage */
int decode(const uint8_t *code, unsigned size, bool code32, unsigned lineage, struct insn *out, uint16_t *variant);

/* blocks.c */
struct block **bucket(struct cpu *cpu, uint64_t physical);
void kill_blocks(struct cpu *cpu, struct page *page, uint64_t physical, unsigned size);
bool code_overlaps(const struct page *page, uint64_t physical, unsigned size);
void forget_blocks(struct cpu *cpu);
uint64_t lines(const struct block *block);
uint16_t form_of(const struct block *block, const struct insn *i);

/* enter.c */
handler enter_first, enter_new;

/* fast_enter.c */
handler enter, enter_indirect;

/* fast_leave.c */
handler block_end, leave_exact;

/* transact.c: return the reason of an exit, or RUN_ON */
enum { RUN_ON = -1 };
int exact_step(struct cpu *cpu, const struct insn *i, uint16_t variant);
int exact_resume(struct cpu *cpu);
int deliver_event(struct cpu *cpu);
int not_fetched(struct cpu *cpu);
void charge(struct cpu *cpu, uint64_t steps, uint64_t instructions);

/* fetch.c */
int single_step(struct cpu *cpu);
int single_resume(struct cpu *cpu);

#endif
