/* Accesses of exact handlers and of procedures: every byte, with the journal.  The rules are dm.isa.mechanisms.access.
 *
 * Outside exact mode (procedures called from fast handlers) anything but a page walk for the TLB gives up with
 * BAIL_EXACT, and the instruction is started over in exact mode.
 */

#include "cpu.h"
#include "procedures.h"

/* An exact access's page: a finished walk is one entry in the journal, an unfinished one its loads. */
uint64_t translate(struct cpu *cpu, uint32_t linear, uint32_t access)
{
    if (!translated(cpu))
        return linear & cpu->a20_mask;
    const unsigned start = cpu->cursor;
    if (start < cpu->journal_count && cpu->journal[start].kind == INPUT_TRANSLATE) {
        const struct journal_entry *known = replay(cpu, INPUT_TRANSLATE, linear, access);
        return known ? known->value & cpu->a20_mask : 0;
    }
    const uint64_t found = physical_address(cpu, linear, access);
    if (cpu->bail)
        return 0;
    cpu->journal_count = cpu->cursor = start;
    record(cpu, INPUT_TRANSLATE, linear, access, found);
    return found & cpu->a20_mask;
}

/* Take where the access just checked goes.  False: it was abandoned. */
static bool take_span(const struct cpu *cpu, unsigned size, struct span *span)
{
    *span = (struct span){{cpu->reached[0], cpu->reached[1]}, cpu->reached_first, size};
    return cpu->bail == BAIL_NONE;
}

uint64_t load_span(struct cpu *cpu, const struct span *span)
{
    uint64_t value = load_input(cpu, span->physical[0], span->first);
    if (span->first < span->size && !cpu->bail)
        value |= load_input(cpu, span->physical[1], span->size - span->first) << (8 * span->first);
    return value;
}

void store_span(struct cpu *cpu, const struct span *span, uint64_t value)
{
    withhold(cpu, span->physical[0], value, span->first);
    if (span->first < span->size && !cpu->bail)
        withhold(cpu, span->physical[1], value >> (8 * span->first), span->size - span->first);
}

/* All checks of a data access through a segment. */
bool check_data(struct cpu *cpu, uint32_t segment, uint32_t offset, unsigned size, bool write, struct span *span)
{
    data_access(cpu, segment, offset, size, write);
    return take_span(cpu, size, span);
}

uint64_t load(struct cpu *cpu, uint32_t segment, uint32_t offset, unsigned size)
{
    struct span span;
    if (give_way(cpu) || !check_data(cpu, segment, offset, size, false, &span))
        return 0;
    return load_span(cpu, &span);
}

void store(struct cpu *cpu, uint32_t segment, uint32_t offset, uint64_t value, unsigned size)
{
    struct span span;
    if (!give_way(cpu) && check_data(cpu, segment, offset, size, true, &span))
        store_span(cpu, &span, value);
}

uint64_t rmw(struct cpu *cpu, uint32_t segment, uint32_t offset, unsigned size)
{
    struct span span;
    if (give_way(cpu))
        return 0;
    change_access(cpu, segment, offset, size);
    if (!take_span(cpu, size, &span))
        return 0;
    const uint64_t value = load_span(cpu, &span);
    cpu->rmw_physical[0] = span.physical[0];
    cpu->rmw_physical[1] = span.physical[1];
    cpu->rmw_first = span.first;
    cpu->rmw_old = value;
    cpu->rmw_input = cpu->cursor - 1;
    return value;
}

void rmw_end(struct cpu *cpu, uint64_t value, unsigned size)
{
    const struct span span = {{cpu->rmw_physical[0], cpu->rmw_physical[1]}, cpu->rmw_first, size};
    if (!give_way(cpu))
        store_span(cpu, &span, value);
}

uint64_t rmw_locked(struct cpu *cpu, uint32_t segment, uint32_t offset, unsigned size)
{
    const uint64_t value = rmw(cpu, segment, offset, size), physical = cpu->rmw_physical[0];
    cpu->rmw_locked = !cpu->bail && cpu->rmw_first == size && !(physical & (size - 1)) && !withheld(cpu, physical, size);
    return value;
}

void rmw_locked_end(struct cpu *cpu, uint64_t value, unsigned size)
{
    rmw_end(cpu, value, size);
    if (cpu->rmw_locked && !cpu->bail) {
        struct store *made = &cpu->stores[cpu->store_count - 1];
        made->locked = true;
        made->old = cpu->rmw_old;
        made->input = cpu->rmw_input;
    }
}

static void probe(struct cpu *cpu, uint32_t segment, uint32_t offset, uint32_t size, bool write)
{
    if (!give_way(cpu))
        probe_access(cpu, segment, offset, size, write);
}

void probe_read(struct cpu *cpu, uint32_t segment, uint32_t offset, uint32_t size)
{
    probe(cpu, segment, offset, size, false);
}

void probe_write(struct cpu *cpu, uint32_t segment, uint32_t offset, uint32_t size)
{
    probe(cpu, segment, offset, size, true);
}

static bool check_system(struct cpu *cpu, uint32_t linear, unsigned size, bool write, struct span *span)
{
    system_access(cpu, linear, size, write);
    return take_span(cpu, size, span);
}

uint64_t load_system(struct cpu *cpu, uint32_t linear, unsigned size)
{
    struct span span;
    if (give_way(cpu) || !check_system(cpu, linear, size, false, &span))
        return 0;
    return load_span(cpu, &span);
}

void store_system(struct cpu *cpu, uint32_t linear, uint64_t value, unsigned size)
{
    struct span span;
    if (!give_way(cpu) && check_system(cpu, linear, size, true, &span))
        store_span(cpu, &span, value);
}

/* value = value & keep | set, atomically. */
static void change_system8(struct cpu *cpu, uint32_t linear, uint8_t keep, uint8_t set)
{
    struct span span;
    if (give_way(cpu) || !check_system(cpu, linear, 1, true, &span))
        return;
    const bool locked = !withheld(cpu, span.physical[0], 1);
    const uint64_t old = load_span(cpu, &span);
    const unsigned input = cpu->cursor - 1;
    if (cpu->bail)
        return;
    store_span(cpu, &span, (old & keep) | set);
    if (cpu->bail || !locked)
        return;
    struct store *made = &cpu->stores[cpu->store_count - 1];
    made->locked = true;
    made->old = old;
    made->input = input;
}

void or_system8(struct cpu *cpu, uint32_t linear, uint32_t mask)
{
    change_system8(cpu, linear, 0xff, (uint8_t)mask);
}

void and_system8(struct cpu *cpu, uint32_t linear, uint32_t mask)
{
    change_system8(cpu, linear, (uint8_t)mask, 0);
}

uint64_t load_physical(struct cpu *cpu, uint64_t physical, unsigned size)
{
    physical &= cpu->a20_mask;
    if (!cpu->filling)
        return give_way(cpu) ? 0 : load_input(cpu, physical, size);
    const struct region *region = region_at(cpu, physical);
    if (!region || !region->memory) {
        cpu->bail = BAIL_EXACT;
        return 0;
    }
    return host_load(region->memory + (physical - region->gpa), size);
}

/* Replace an entry of a paging structure, at once: accessed and dirty bits stay set whatever happens to the access. */
uint32_t swap_physical(struct cpu *cpu, uint64_t physical, uint64_t old, uint64_t new, unsigned size)
{
    physical &= cpu->a20_mask;
    if (!cpu->filling) {
        if (give_way(cpu))
            return 0;
        if (cpu->cursor < cpu->journal_count) {
            const struct journal_entry *known = replay(cpu, INPUT_SWAP, physical, size);
            return known ? (uint32_t)known->value : 0;
        }
    }
    struct region *region = region_at(cpu, physical);
    uint32_t done = 1; /* entries in ROM or on a device keep their bits */
    if (region && region->kind == RAM) {
        uint8_t *host = region->memory + (physical - region->gpa);
        if (size == 4)
            done = __sync_bool_compare_and_swap((volatile uint32_t *)(host - physical % 4), (uint32_t)old, (uint32_t)new);
        else
            done = __sync_bool_compare_and_swap((volatile uint64_t *)(host - physical % 8), old, new);
        if (done)
            ram_touched(cpu, region, physical, size);
    }
    if (!cpu->filling)
        record(cpu, INPUT_SWAP, physical, size, done);
    return done;
}
