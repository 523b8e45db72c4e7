/* The translation buffers of the fast path. */

#include "fast.h"

/* Forget all translations. */
void tlb_drop(struct cpu *cpu)
{
    for (unsigned user = 0; user < 2; user++) {
        struct tlb *tlb = &cpu->tlbs[user];
        if (!tlb->used)
            continue;
        for (unsigned n = 0; n < TLB_SIZE; n++)
            tlb->read[n].tag = tlb->write[n].tag = tlb->fetch[n].tag = 1;
        tlb->used = false;
    }
    bump_generation(cpu);
}

/* Make the next store to each page take the slow path, so that it is reported. */
void tlb_drop_writes(struct cpu *cpu)
{
    for (unsigned user = 0; user < 2; user++)
        if (cpu->tlbs[user].used)
            for (unsigned n = 0; n < TLB_SIZE; n++)
                cpu->tlbs[user].write[n].tag = 1;
}

/* The guest asked for it: tell the hypervisor too. */
void tlb_flush(struct cpu *cpu)
{
    cpu->flushed = true;
    cpu->look = true;
    tlb_drop(cpu);
}

/* Every piece of the page is forgotten, however large it was (SDM vol. 3A, 4.10.4.1): all that could be one. */
void tlb_flush_page(struct cpu *cpu, uint32_t linear)
{
    const uint32_t largest = cpu->a.efer & EFER_LMA ? UINT32_C(1) << 30 : UINT32_C(1) << 22;
    for (unsigned user = 0; user < 2; user++) {
        struct tlb *tlb = &cpu->tlbs[user];
        if (!tlb->used)
            continue;
        for (unsigned n = 0; n < TLB_SIZE; n++) {
            if ((tlb->read[n].tag ^ linear) < largest)
                tlb->read[n].tag = 1;
            if ((tlb->write[n].tag ^ linear) < largest)
                tlb->write[n].tag = 1;
            if ((tlb->fetch[n].tag ^ linear) < largest)
                tlb->fetch[n].tag = 1;
        }
    }
    cpu->flushed = true;
    bump_generation(cpu);
}

/* From here on every block is compared with memory before it runs. */
void bump_generation(struct cpu *cpu)
{
    cpu->generation += UINT64_C(1) << 32;
    cpu->store_size = 0;
    if (cpu->generation == 0) { /* tags would come round again */
        forget_blocks(cpu);
        cpu->generation = UINT64_C(1) << 32;
    }
}

/* Physical address of a linear one for the fast path; false: let the exact engine find out what is wrong. */
static bool walk(struct cpu *cpu, uint32_t linear, unsigned access, uint64_t *physical)
{
    cpu->filling = true;
    const uint64_t found = physical_address(cpu, linear, access | privilege(cpu));
    cpu->filling = false;
    if (cpu->bail) {
        cpu->bail = BAIL_NONE;
        return false;
    }
    *physical = found & cpu->a20_mask;
    return true;
}

static struct tlb *current_tlb(struct cpu *cpu)
{
    struct tlb *tlb = &cpu->tlbs[cpu->a.cpl == 3];
    tlb->used = true;
    return tlb;
}

static bool fill_read(struct cpu *cpu, uint32_t linear)
{
    uint64_t physical;
    if (!walk(cpu, linear, 0, &physical))
        return false;
    const struct region *region = region_at(cpu, physical);
    if (!region || !region->memory)
        return false;
    struct read_entry *entry = &current_tlb(cpu)->read[linear / PAGE % TLB_SIZE];
    entry->tag = linear & -PAGE;
    entry->host = (uintptr_t)(region->memory + (physical - region->gpa)) - linear;
    return true;
}

static bool fill_write(struct cpu *cpu, uint32_t linear)
{
    uint64_t physical;
    if (!walk(cpu, linear, ACCESS_WRITE, &physical))
        return false;
    struct region *region = region_at(cpu, physical);
    if (!region || region->kind != RAM)
        return false;
    struct page *page = page_at(region, physical);
    if (!page || cpu->page_count > PAGES_SIZE * 3 / 4)
        return false; /* the run will end soon */
    page_written(cpu, region, physical);
    struct write_entry *entry = &current_tlb(cpu)->write[linear / PAGE % TLB_SIZE];
    entry->tag = linear & -PAGE;
    entry->host = (uintptr_t)(region->memory + (physical - region->gpa)) - linear;
    entry->code = &page->code;
    return true;
}

/* Translation for fetching, NULL when the page cannot be executed from memory directly. */
const struct fetch_entry *fetch_page(struct cpu *cpu, uint32_t linear)
{
    struct fetch_entry *entry = &cpu->tlbs[cpu->a.cpl == 3].fetch[linear / PAGE % TLB_SIZE];
    if (entry->tag == (linear & -PAGE))
        return entry;
    uint64_t physical;
    if (!walk(cpu, linear, ACCESS_FETCH, &physical))
        return NULL;
    struct region *region = region_at(cpu, physical);
    if (!region || !region->memory || region->kind == FIRMWARE)
        return NULL;
    struct page *page = page_at(region, physical);
    if (!page)
        return NULL;
    current_tlb(cpu);
    entry->tag = linear & -PAGE;
    entry->physical = physical & -(uint64_t)PAGE;
    entry->host = region->memory + (entry->physical - region->gpa);
    entry->page = page;
    return entry;
}

/* An instruction that misses again and again (two of its pages share an entry) is run exactly. */
static bool repeats(struct cpu *cpu, const struct insn *i)
{
    cpu->misses = cpu->missed == i ? cpu->misses + 1 : 0;
    cpu->missed = i;
    return cpu->misses > 3;
}

static bool in_one_page(const struct cpu *cpu)
{
    return cpu->miss_linear % PAGE + cpu->miss_size <= PAGE;
}

HANDLER(miss_read)
{
    if (in_one_page(cpu) && !repeats(cpu, i) && fill_read(cpu, cpu->miss_linear))
        GO(i);
    cpu->missed = NULL;
    LEAVE(LEAVE_EXACT);
}

HANDLER(miss_write)
{
    const uint32_t linear = cpu->miss_linear, size = cpu->miss_size;
    if (in_one_page(cpu) && !repeats(cpu, i)) {
        const struct write_entry *entry = &tlb->write[linear / PAGE % TLB_SIZE];
        if (entry->tag != (linear & -PAGE)) {
            if (fill_write(cpu, linear))
                GO(i);
        } else if (*entry->code) {
            struct page *page = (struct page *)((uintptr_t)entry->code - offsetof(struct page, code));
            if (!code_overlaps(page, linear % PAGE, size)) {
                cpu->store_linear = linear;
                cpu->store_size = size;
                GO(i);
            }
        }
    }
    cpu->missed = NULL;
    LEAVE(LEAVE_EXACT);
}
