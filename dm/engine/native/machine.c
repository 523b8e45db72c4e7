/* Creation and destruction, conversion of the state, the memory map, answers. */

#include <stdlib.h>

#include "cpu.h"
#include "procedures.h"

void take_fields(struct arch *, const struct wire *);
void give_fields(const struct arch *, struct wire *);

void dm_free(struct cpu *cpu)
{
    if (!cpu)
        return;
    for (unsigned n = 0; n < cpu->region_count; n++) {
        const struct region *region = &cpu->regions[n];
        for (uint64_t c = 0; region->chunks && c * CHUNK_PAGES * PAGE < region->end - region->gpa; c++)
            free(region->chunks[c]);
        free(region->chunks);
    }
    free(cpu->regions);
    free(cpu->hash);
    free(cpu->arena);
    free(cpu->journal);
    free(cpu->stores);
    free(cpu->pages);
    free(cpu->posted);
    free(cpu->cpuid);
    free(cpu);
}

struct cpu *dm_new(const uint64_t features[2], uint32_t vendor, uint32_t model, uint32_t lineage,
                   const struct dm_cpuid *table, uint32_t count, int copies)
{
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return NULL;
    cpu->hash = calloc(HASH_SIZE, sizeof *cpu->hash);
    cpu->arena = aligned_alloc(64, ARENA_SIZE);
    cpu->journal = calloc(JOURNAL_SIZE, sizeof *cpu->journal);
    cpu->stores = calloc(STORES_SIZE, sizeof *cpu->stores);
    cpu->pages = calloc(PAGES_SIZE, sizeof *cpu->pages);
    cpu->posted = calloc(POSTED_SIZE, sizeof *cpu->posted);
    cpu->cpuid = calloc(count + 1, sizeof *cpu->cpuid);
    if (!cpu->hash || !cpu->arena || !cpu->journal || !cpu->stores || !cpu->pages || !cpu->posted || !cpu->cpuid) {
        dm_free(cpu);
        return NULL;
    }
    cpu->features = features[0];
    cpu->more_features = features[1];
    cpu->vendor = (uint8_t)vendor;
    cpu->model = (uint8_t)model;
    cpu->lineage = (uint8_t)lineage;
    cpu->copies = copies;
    cpu->cpuid_count = count;
    if (count)
        memcpy(cpu->cpuid, table, count * sizeof *table);
    cpu->a20_mask = UINT64_MAX;
    cpu->report = 1;
    cpu->generation = UINT64_C(1) << 32;
    cpu->tlb = &cpu->tlbs[0];
    cpu->tlbs[0].used = cpu->tlbs[1].used = true;
    forget_blocks(cpu);
    tlb_drop(cpu);
    return cpu;
}

/* The image has the x87 registers from ST(0) on, the cells as they lie in the part (dm.machine.x87). */
static void rotate_x87(uint8_t *image, unsigned by)
{
    uint8_t old[8 * 16];
    if (by % 8 == 0)
        return;
    memcpy(old, image + 32, sizeof old);
    for (unsigned n = 0; n < 8; n++)
        memcpy(image + 32 + 16 * n, old + 16 * ((n + by) % 8), 16);
}

static unsigned x87_top(const uint8_t *image)
{
    return image[3] >> 3 & 7;
}

void dm_set_state(struct cpu *cpu, const uint8_t *wire)
{
    const struct wire *w = (const struct wire *)wire;
    take_fields(&cpu->a, w);
    rotate_x87(cpu->a.fxsave, 8 - x87_top(cpu->a.fxsave));
    cpu->a.eip = (uint32_t)w->rip;
    split_eflags(cpu, (uint32_t)w->rflags);
    cpu->rip = w->rip;
    cpu->rflags = w->rflags;
    cpu->rflags_canonical = join_eflags(cpu);
    cpu->a.shadow_next = 0;
    cpu->after_event = false;
    cpu->open = OPEN_NONE;
    cpu->resume = NULL;
    cpu->prepaid = false;
    mode_changed(cpu);
    tlb_drop(cpu);
}

void dm_get_state(struct cpu *cpu, uint8_t *wire)
{
    struct wire *w = (struct wire *)wire;
    give_fields(&cpu->a, w);
    rotate_x87(w->fxsave, x87_top(w->fxsave));
    const uint64_t flags = join_eflags(cpu);
    w->rip = cpu->a.eip == (uint32_t)cpu->rip ? cpu->rip : cpu->a.eip;
    w->rflags = flags == cpu->rflags_canonical ? cpu->rflags : flags;
}

int dm_set_map(struct cpu *cpu, const struct dm_region *regions, uint32_t count, uint32_t a20)
{
    struct region *made = calloc(count + 1, sizeof *made);
    bool ok = made != NULL;
    for (uint32_t n = 0; n < count && ok; n++) {
        made[n] = (struct region){
            .gpa = regions[n].gpa,
            .end = regions[n].gpa + regions[n].size,
            .memory = regions[n].memory,
            .kind = regions[n].kind,
        };
        if (regions[n].memory) {
            made[n].chunks = calloc(regions[n].size / (CHUNK_PAGES * PAGE) + 1, sizeof *made[n].chunks);
            ok = made[n].chunks != NULL;
        }
    }
    if (!ok) {
        for (uint32_t n = 0; made && n < count; n++)
            free(made[n].chunks);
        free(made);
        return -1;
    }
    forget_blocks(cpu);
    tlb_drop(cpu);
    for (unsigned n = 0; n < cpu->region_count; n++) {
        struct region *region = &cpu->regions[n];
        for (uint64_t c = 0; region->chunks && c * CHUNK_PAGES * PAGE < region->end - region->gpa; c++)
            free(region->chunks[c]);
        free(region->chunks);
    }
    free(cpu->regions);
    cpu->regions = made;
    cpu->region_count = count;
    cpu->a20_mask = a20 ? UINT64_MAX : ~(UINT64_C(1) << 20);
    return 0;
}

void dm_answer(struct cpu *cpu, const uint8_t *data, uint32_t size, int fault)
{
    struct journal_entry *entry = &cpu->journal[cpu->journal_count++];
    *entry = cpu->question;
    entry->fault = fault;
    if (size)
        memcpy(cpu->question_data, data, size < PAGE ? size : PAGE);
    if (size <= 8)
        memcpy(&entry->value, cpu->question_data, size);
    cpu->answered = true;
}

/* `count` elements have been copied; 0: none, so that the instruction asks again. */
void dm_answer_copy(struct cpu *cpu, uint32_t count)
{
    if (count) {
        cpu->journal[cpu->journal_count] = cpu->question;
        cpu->journal[cpu->journal_count++].count = count;
    }
    cpu->answered = true;
}

void dm_kick(struct cpu *cpu)
{
    atomic_store(&cpu->kick, 1);
}

void dm_last_fault(struct cpu *cpu, struct dm_fault *out)
{
    *out = cpu->last_fault;
}

const char *dm_label(uint32_t number)
{
    return number < label_count ? labels[number] : "";
}

const char *dm_digest(void)
{
    return digest;
}
