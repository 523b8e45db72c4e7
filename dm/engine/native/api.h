/* What Python sees of the engine: read by cffi as it stands, so only plain declarations. */

struct cpu;

struct dm_region {
    uint64_t gpa, size;
    uint8_t *memory; /* NULL for kinds without backing */
    uint32_t kind;   /* dm.machine.words.RegionKind */
};

struct dm_cpuid {
    uint32_t leaf, subleaf, value[4]; /* EAX EBX ECX EDX */
};

struct dm_request {
    uint64_t budget; /* steps */
    uint64_t mmio;   /* guest-physical address, when has_mmio */
    uint32_t policy; /* dm.machine.rules.Policy */
    uint32_t progress, window, has_mmio;
    uint32_t has_stop_at, stop_at; /* linear address */
    uint32_t code_size;
    uint8_t code[16];
};

struct dm_posted {
    uint64_t gpa, value;
    uint32_t size;
};

struct dm_exit {
    uint32_t reason; /* enum exit_reason of words.h */
    uint32_t size, count;
    uint32_t posted_count, page_count;
    uint32_t tlb_flush;
    uint32_t down;  /* each element lies below the one before */
    uint32_t label; /* number of a cause */
    uint32_t error; /* of a page fault */
    uint64_t address;
    uint64_t target; /* of a copy: where the first element goes */
    uint64_t steps, instructions;
    const uint8_t *data; /* size * count bytes of a write */
    const struct dm_posted *posted;
    const uint64_t *pages; /* in order of first store */
};

struct dm_fault {
    uint32_t vector, error, label, operand[3];
};

/* A decoded instruction as records hold it; for tests.  Registers are byte offsets. */
struct dm_decoded {
    uint32_t form, disp, imm, imm2;
    uint8_t seg, reg, rm, base, index, scale;
};

struct cpu *dm_new(const uint64_t features[2], uint32_t vendor, uint32_t model, uint32_t lineage, const struct dm_cpuid *table, uint32_t count,
                   int copies);
void dm_free(struct cpu *cpu);
void dm_set_state(struct cpu *cpu, const uint8_t *wire);
void dm_get_state(struct cpu *cpu, uint8_t *wire);
int dm_set_map(struct cpu *cpu, const struct dm_region *regions, uint32_t count, uint32_t a20);
void dm_run(struct cpu *cpu, const struct dm_request *request, struct dm_exit *out);
void dm_answer(struct cpu *cpu, const uint8_t *data, uint32_t size, int fault);
void dm_answer_copy(struct cpu *cpu, uint32_t count);
void dm_kick(struct cpu *cpu);
void dm_last_fault(struct cpu *cpu, struct dm_fault *out);
int dm_decode(const uint8_t *code, uint32_t size, int code32, struct dm_decoded *out);
const char *dm_label(uint32_t number);
const char *dm_digest(void);
