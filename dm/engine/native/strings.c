/* REP MOVS, STOS and LODS between memory and a device, and MOVS between devices: many elements in one question.
 *
 * What is moved at once lies in one page on each side, inside the segments, the budget and the count, and nothing could
 * happen between the elements: the memory side is proven readable or writable, and a block ends with the element that
 * changes the instruction itself.  Anything else: 0, and the instruction moves one element as ever.  On replay the
 * journal says what was decided, since the budget has changed.
 *
 * From device to device it is the outside that reads and writes element by element (if it can), so no data comes here.
 */

#include "cpu.h"
#include "labels.h"
#include "procedures.h"

static bool is_device(struct cpu *cpu, uint64_t physical, bool write)
{
    const struct region *region = region_at(cpu, physical);
    if (!region)
        return true;
    if (write)
        return region->kind != RAM && region->kind != COALESCED && region->kind != HYPERVISOR;
    return !region->memory && region->kind != HYPERVISOR;
}

/* Whether this side of a move is plain memory. */
static bool is_plain(struct cpu *cpu, uint64_t physical, bool write)
{
    const struct region *region = region_at(cpu, physical);
    return region && region->memory && (!write || region->kind == RAM);
}

/* Whether elements written there go to the outside anyway, posted or asked, so that it may copy them itself. */
static bool is_outside(struct cpu *cpu, uint64_t physical)
{
    const struct region *region = region_at(cpu, physical);
    return !region || (region->kind != RAM && region->kind != HYPERVISOR);
}

/* The question that this instruction has had here: 1 a block, 0 none yet, -1 others. */
static int asked(const struct cpu *cpu)
{
    if (cpu->cursor == cpu->journal_count)
        return 0;
    const struct journal_entry *known = &cpu->journal[cpu->cursor];
    return known->count > 1 || known->kind == INPUT_COPY ? 1 : -1;
}

static void ask_block(struct cpu *cpu, unsigned kind, uint64_t physical, unsigned size, uint32_t count, bool down,
                      const uint8_t *data)
{
    ask(cpu, kind, physical, size, count, data);
    cpu->question.down = down && cpu->bail == BAIL_QUESTION;
}

uint32_t move_block(struct cpu *cpu, uint32_t to_segment, uint32_t to, uint32_t from_segment, uint32_t from,
                    uint32_t wanted, uint32_t down, uint32_t wide, unsigned size)
{
    struct span source, target;
    if (give_way(cpu) || wanted < 2 || !undisturbed(cpu) ||
        !check_data(cpu, from_segment, from, size, false, &source) || source.first < size)
        return 0;
    const bool reads = is_device(cpu, source.physical[0], false);
    if (!asked(cpu) && !reads && !is_plain(cpu, source.physical[0], false))
        return 0;
    if (!check_data(cpu, to_segment, to, size, true, &target) || target.first < size || asked(cpu) < 0)
        return 0;
    if (asked(cpu) > 0) {
        const struct journal_entry *known = &cpu->journal[cpu->cursor];
        const uint32_t n = known->count;
        if (known->kind == INPUT_STORE) {
            replay(cpu, INPUT_STORE, target.physical[0], size);
        } else if (known->kind == INPUT_COPY) {
            if (replay(cpu, INPUT_COPY, source.physical[0], size) && known->value != target.physical[0])
                give_up(cpu, LABEL_DIVERGED);
        } else if (replay(cpu, INPUT_LOAD, source.physical[0], size)) {
            withhold_block(cpu, target.physical[0], n, down, size);
        }
        cpu->moved = n;
        return n;
    }
    const bool copies = reads && cpu->copies && is_outside(cpu, target.physical[0]);
    if (!copies && (reads ? !is_plain(cpu, target.physical[0], true) : !is_device(cpu, target.physical[0], true)))
        return 0;
    const uint32_t most = block_room(cpu, to_segment, to, target.physical[0], wanted, down, wide, size, true);
    uint32_t n = block_room(cpu, from_segment, from, source.physical[0], most, down, wide, size, false);
    if (reads && !copies)
        n = up_to_itself(cpu, target.physical[0], n, down, size);
    if (n < 2)
        return 0;
    if (reads) {
        ask_block(cpu, copies ? INPUT_COPY : INPUT_LOAD, source.physical[0], size, n, down, NULL);
        cpu->question.value = copies ? target.physical[0] : 0;
        return 0;
    }
    uint8_t data[PAGE];
    read_elements(cpu, source.physical[0], n, down, size, data);
    ask_block(cpu, INPUT_STORE, target.physical[0], size, n, down, data);
    return 0;
}

uint32_t fill_block(struct cpu *cpu, uint32_t segment, uint32_t offset, uint32_t value, uint32_t wanted, uint32_t down,
                    uint32_t wide, unsigned size)
{
    struct span target;
    if (give_way(cpu) || wanted < 2 || !undisturbed(cpu) ||
        !check_data(cpu, segment, offset, size, true, &target) || target.first < size || asked(cpu) < 0)
        return 0;
    if (asked(cpu) > 0) {
        cpu->moved = cpu->journal[cpu->cursor].count;
        replay(cpu, INPUT_STORE, target.physical[0], size);
        return cpu->moved;
    }
    if (!is_device(cpu, target.physical[0], true))
        return 0;
    const uint32_t n = block_room(cpu, segment, offset, target.physical[0], wanted, down, wide, size, true);
    if (n < 2)
        return 0;
    uint8_t data[PAGE];
    for (uint32_t k = 0; k < n; k++)
        memcpy(data + (size_t)k * size, &value, size);
    ask_block(cpu, INPUT_STORE, target.physical[0], size, n, down, data);
    return 0;
}

uint64_t read_block(struct cpu *cpu, uint32_t segment, uint32_t offset, uint32_t wanted, uint32_t down, uint32_t wide,
                    unsigned size)
{
    struct span source;
    if (give_way(cpu) || wanted < 2 || !undisturbed(cpu) ||
        !check_data(cpu, segment, offset, size, false, &source) || source.first < size || asked(cpu) < 0)
        return 0;
    if (asked(cpu) > 0) {
        const uint32_t n = cpu->journal[cpu->cursor].count;
        if (!replay(cpu, INPUT_LOAD, source.physical[0], size))
            return 0;
        uint32_t last = 0;
        memcpy(&last, cpu->question_data + (size_t)(n - 1) * size, size);
        cpu->moved = n;
        return (uint64_t)n << 32 | last;
    }
    if (!is_device(cpu, source.physical[0], false))
        return 0;
    const uint32_t n = block_room(cpu, segment, offset, source.physical[0], wanted, down, wide, size, false);
    if (n >= 2)
        ask_block(cpu, INPUT_LOAD, source.physical[0], size, n, down, NULL);
    return 0;
}
