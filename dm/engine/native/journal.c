/* The journal of one instruction: every input it has had, so that it can be started over after a question.
 *
 * Stores are withheld until the last answer is there.  On replay each input is taken from the journal and its kind,
 * address and size are checked; only then new ones are recorded.
 */

#include "cpu.h"
#include "labels.h"

/* The next known input, NULL when there is none left (cpu->bail stays clear) or it is another one (an engine fault). */
struct journal_entry *replay(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size)
{
    if (cpu->cursor >= cpu->journal_count)
        return NULL;
    struct journal_entry *known = &cpu->journal[cpu->cursor];
    if (known->kind != kind || known->address != address || known->size != size) {
        give_up(cpu, LABEL_DIVERGED);
        return NULL;
    }
    cpu->cursor++;
    return known;
}

void record(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size, uint64_t value)
{
    if (cpu->journal_count >= JOURNAL_SIZE) {
        give_up(cpu, LABEL_TOO_MANY_ACCESSES);
        return;
    }
    cpu->journal[cpu->journal_count++] =
        (struct journal_entry){.kind = (uint8_t)kind, .address = address, .size = size, .value = value};
    cpu->cursor = cpu->journal_count;
}

/* Abandon the instruction until the outside has answered; the answer becomes a journal entry. */
void ask(struct cpu *cpu, unsigned kind, uint64_t address, uint32_t size, uint32_t count, const uint8_t *data)
{
    static const uint8_t reasons[] = {
        [INPUT_LOAD] = EXIT_MMIO_READ,     [INPUT_STORE] = EXIT_MMIO_WRITE,   [INPUT_PORT_IN] = EXIT_PORT_IN,
        [INPUT_PORT_OUT] = EXIT_PORT_OUT,  [INPUT_MSR_READ] = EXIT_MSR_READ,  [INPUT_MSR_WRITE] = EXIT_MSR_WRITE,
        [INPUT_COPY] = EXIT_MEMORY_COPY,
    };
    if (cpu->journal_count >= JOURNAL_SIZE) {
        give_up(cpu, LABEL_TOO_MANY_ACCESSES);
        return;
    }
    if (cpu->expect_mmio && (kind == INPUT_LOAD || kind == INPUT_STORE || kind == INPUT_COPY)) {
        if (cpu->request.mmio - address >= size) {
            cpu->hypervisor_address = address;
            cpu->bail = BAIL_MISMATCH;
            return;
        }
        cpu->expect_mmio = false;
    }
    cpu->question = (struct journal_entry){.kind = (uint8_t)kind, .address = address, .size = size, .count = count};
    cpu->question_reason = reasons[kind];
    if (data)
        memcpy(cpu->question_data, data, (size_t)size * count);
    cpu->bail = BAIL_QUESTION;
}

/* Bytes of withheld stores take precedence over memory. */
static uint64_t forward(const struct cpu *cpu, uint64_t physical, unsigned size, uint64_t value)
{
    for (unsigned n = 0; n < cpu->store_count; n++) {
        const struct store *made = &cpu->stores[n];
        if (physical + size <= made->physical || made->physical + made->size <= physical)
            continue;
        for (unsigned b = 0; b < size; b++) {
            const uint64_t at = physical + b - made->physical;
            if (at >= made->size)
                continue;
            const uint64_t byte = made->block ? cpu->block_data[at] : made->value >> (8 * at) & 0xff;
            value = (value & ~(UINT64_C(0xff) << (8 * b))) | byte << (8 * b);
        }
    }
    return value;
}

static bool odd_size(unsigned size)
{
    return size & (size - 1);
}

/* `size` bytes inside one page, from memory or from a device. */
uint64_t load_input(struct cpu *cpu, uint64_t physical, unsigned size)
{
    const struct region *region = region_at(cpu, physical);
    const unsigned kind = region ? region->kind : HOLE;
    if (odd_size(size) && (cpu->cursor < cpu->journal_count ? cpu->journal[cpu->cursor].size == 1
                                                            : !(region && region->memory))) {
        /* A device sees the bytes of a split access one by one. */
        uint64_t value = 0;
        for (unsigned n = 0; n < size && !cpu->bail; n++)
            value |= load_input(cpu, physical + n, 1) << (8 * n);
        return value;
    }
    uint64_t value = 0;
    const struct journal_entry *known = replay(cpu, INPUT_LOAD, physical, size);
    if (known) {
        value = known->value;
    } else if (cpu->bail) {
        return 0;
    } else if (kind == HYPERVISOR) {
        leave_to_hypervisor(cpu, physical, 0);
        return 0;
    } else if (region && region->memory) {
        value = host_load(region->memory + (physical - region->gpa), size);
        record(cpu, INPUT_LOAD, physical, size, value);
    } else {
        ask(cpu, INPUT_LOAD, physical, size, 1, NULL);
        return 0;
    }
    return cpu->store_count ? forward(cpu, physical, size, value) : value;
}

void withhold(struct cpu *cpu, uint64_t physical, uint64_t value, unsigned size)
{
    const struct region *region = region_at(cpu, physical);
    if (region && region->kind == HYPERVISOR) {
        leave_to_hypervisor(cpu, physical, 0);
        return;
    }
    if (cpu->store_count >= STORES_SIZE) {
        give_up(cpu, LABEL_TOO_MANY_ACCESSES);
        return;
    }
    if (size < 8)
        value &= (UINT64_C(1) << (8 * size)) - 1;
    cpu->stores[cpu->store_count++] = (struct store){.physical = physical, .value = value, .size = size};
}

/* Whether an earlier store of this instruction is there, so that what was read did not come from memory. */
bool withheld(const struct cpu *cpu, uint64_t physical, unsigned size)
{
    for (unsigned n = 0; n < cpu->store_count; n++)
        if (physical + size > cpu->stores[n].physical && cpu->stores[n].physical + cpu->stores[n].size > physical)
            return true;
    return false;
}

/* Bytes of each access that a device sees of this store. */
static unsigned piece_of(const struct store *made)
{
    return made->block ? made->element : odd_size(made->size) ? 1 : made->size;
}

static uint64_t value_at(const struct cpu *cpu, const struct store *made, unsigned offset, unsigned size)
{
    const uint64_t value = made->block ? host_load(cpu->block_data + offset, size) : made->value >> (8 * offset);
    return size < 8 ? value & ((UINT64_C(1) << (8 * size)) - 1) : value;
}

/* Have a device write acknowledged: known from the journal, or a question.  The map may change in between, so
   each store remembers how much of it a device has had.  False: abandoned. */
static bool acknowledge(struct cpu *cpu, struct store *made)
{
    const unsigned piece = piece_of(made);
    for (made->acknowledged = 0; made->acknowledged < made->size; made->acknowledged += piece) {
        const uint64_t physical = made->physical + made->acknowledged;
        if (cpu->cursor < cpu->journal_count) {
            const struct journal_entry *known = &cpu->journal[cpu->cursor];
            if (known->kind == INPUT_STORE && known->address == physical && known->size == piece) {
                cpu->cursor++;
                continue;
            }
        }
        const struct region *region = region_at(cpu, physical);
        const unsigned kind = region ? region->kind : HOLE;
        if (kind == RAM || kind == COALESCED)
            return true;
        const uint64_t value = value_at(cpu, made, made->acknowledged, piece);
        ask(cpu, INPUT_STORE, physical, piece, 1, (const uint8_t *)&value);
        return false;
    }
    return true;
}

static void perform(struct cpu *cpu, const struct store *made)
{
    struct region *region = region_at(cpu, made->physical);
    if (made->swapped)
        ram_touched(cpu, region, made->physical, made->size);
    else if (region && region->kind == RAM && !made->block && !made->acknowledged)
        ram_write(cpu, region, made->physical, made->value, made->size);
    else if (region && region->kind == RAM)
        for (unsigned n = made->acknowledged; n < made->size; n++)
            ram_write(cpu, region, made->physical + n, value_at(cpu, made, n, 1), 1);
    else
        for (unsigned n = made->acknowledged, piece = piece_of(made); n < made->size; n += piece)
            if (cpu->posted_count < POSTED_SIZE)
                cpu->posted[cpu->posted_count++] =
                    (struct dm_posted){made->physical + n, value_at(cpu, made, n, piece), piece};
}

/* False when somebody else changed the operand meanwhile: its new value is then in the journal. */
static bool swap(struct cpu *cpu, struct region *region, const struct store *made)
{
    uint8_t *host = region->memory + (made->physical - region->gpa);
    bool done;
    switch (made->size) {
    case 1:
        done = __sync_bool_compare_and_swap((volatile uint8_t *)host, (uint8_t)made->old, (uint8_t)made->value);
        break;
    case 2:
        done = __sync_bool_compare_and_swap((volatile uint16_t *)host, (uint16_t)made->old, (uint16_t)made->value);
        break;
    case 4:
        done = __sync_bool_compare_and_swap((volatile uint32_t *)host, (uint32_t)made->old, (uint32_t)made->value);
        break;
    default:
        done = __sync_bool_compare_and_swap((volatile uint64_t *)host, made->old, made->value);
    }
    if (!done)
        cpu->journal[made->input].value = host_load(host, made->size);
    return done;
}

/* Make all withheld stores, devices first.  False: the instruction was abandoned, nothing in memory has changed. */
bool commit_stores(struct cpu *cpu)
{
    for (unsigned n = 0; n < cpu->store_count; n++)
        if (!acknowledge(cpu, &cpu->stores[n]))
            return false;
    if (cpu->expect_mmio) { /* the instruction has ended without touching the address that the request names */
        cpu->hypervisor_address = 0;
        cpu->bail = BAIL_MISMATCH;
        return false;
    }
    for (unsigned n = 0; n < cpu->store_count; n++) {
        struct store *made = &cpu->stores[n];
        struct region *region = region_at(cpu, made->physical);
        if (made->locked && !made->acknowledged && region && region->kind == RAM) {
            if (!swap(cpu, region, made)) {
                cpu->bail = BAIL_AGAIN;
                return false;
            }
            made->swapped = true;
        }
    }
    for (unsigned n = 0; n < cpu->store_count; n++)
        perform(cpu, &cpu->stores[n]);
    cpu->store_count = 0;
    return true;
}

/* Make what was done so far final: a later fault returns to here.  On replay it has been done before. */
void commit(struct cpu *cpu)
{
    if (!cpu->recording) {
        cpu->bail = BAIL_EXACT;
        return;
    }
    /* Answers to device writes of this part lie before the mark. */
    bool done = false;
    for (unsigned n = cpu->cursor; n < cpu->journal_count && !done; n++)
        done = cpu->journal[n].kind == INPUT_COMMIT;
    if (done) {
        while (cpu->journal[cpu->cursor++].kind != INPUT_COMMIT) {
        }
        cpu->store_count = 0;
    } else {
        if (!commit_stores(cpu))
            return;
        record(cpu, INPUT_COMMIT, 0, 0, 0);
    }
    cpu->committed = cpu->a;
    cpu->on_fault = &cpu->committed;
}

/* Keep stores made so far, and general registers, if the instruction faults from here on. */
void keep(struct cpu *cpu)
{
    if (!cpu->recording)
        cpu->bail = BAIL_EXACT;
    cpu->keeping = true;
}
