/* Ports and model-specific registers: always a question. */

#include "cpu.h"
#include "labels.h"

enum { TF = 1 << 8 };

uint64_t port_in(struct cpu *cpu, uint32_t port, unsigned size)
{
    if (give_way(cpu))
        return 0;
    watch_port(cpu, port, size);
    const struct journal_entry *known = replay(cpu, INPUT_PORT_IN, port, size);
    if (known)
        return known->value;
    if (!cpu->bail)
        ask(cpu, INPUT_PORT_IN, port, size, 1, NULL);
    return 0;
}

void port_out(struct cpu *cpu, uint32_t port, uint32_t value, unsigned size)
{
    if (give_way(cpu))
        return;
    watch_port(cpu, port, size);
    if (!replay(cpu, INPUT_PORT_OUT, port, size) && !cpu->bail)
        ask(cpu, INPUT_PORT_OUT, port, size, 1, (const uint8_t *)&value);
}

/* How many elements from `offset` on lie in the same page, inside the segment, before the address wraps. */
uint32_t block_room(const struct cpu *cpu, uint32_t segment, uint32_t offset, uint64_t physical, uint32_t wanted,
                    bool down, bool wide, unsigned size, bool write)
{
    const struct segment *s = &cpu->a.seg[segment];
    const uint64_t in_page = physical % PAGE, wrap = wide ? UINT64_C(1) << 32 : 0x10000;
    const int64_t top = write ? s->write_top : s->read_top;
    if (top < 0 || (cpu->a.dr7 & 0xff) || (cpu->a.flags & TF) || cpu->align_check)
        return 1; /* something may happen between two elements */
    uint64_t n = wanted;
    const uint64_t page_room = down ? in_page / size + 1 : (PAGE - in_page) / size;
    const uint64_t wrap_room = down ? offset / size + 1 : (wrap - offset) / size;
    const uint64_t top_room = down ? n : (uint64_t)(top + 1 - (int64_t)offset) / size;
    n = n < page_room ? n : page_room;
    n = n < wrap_room ? n : wrap_room;
    n = n < top_room ? n : top_room;
    n = n < cpu->left ? n : cpu->left;
    return n > 1 ? (uint32_t)n : 1;
}

/* Number of the first of `n` elements from `to` on that touches [first, end); `n` if none does. */
static uint64_t first_element(uintptr_t to, uintptr_t first, uintptr_t end, uint32_t n, bool down, unsigned size)
{
    uint64_t k = 0;
    if (down ? to >= end : to + size <= first)
        k = down ? (to - end) / size + 1 : (first - to) / size;
    else if (down ? to + size <= first : to >= end)
        return n;
    return k < n ? k : n;
}

/* Cut a block of `n` elements to be written from `physical` on behind the first that changes this very instruction. */
uint32_t up_to_itself(struct cpu *cpu, uint64_t physical, uint32_t n, bool down, unsigned size)
{
    const struct region *region = region_at(cpu, physical);
    if (n < 2 || !region || !region->memory)
        return n;
    const uintptr_t to = (uintptr_t)(region->memory + (physical - region->gpa));
    for (uint32_t done = 0, room; done < cpu->insn_length; done += room) {
        const uint32_t linear = cs_linear(cpu, cpu->a.eip + done);
        room = PAGE - linear % PAGE;
        room = room < cpu->insn_length - done ? room : cpu->insn_length - done;
        const struct fetch_entry *code = fetch_page(cpu, linear);
        if (!code)
            continue; /* it is not in memory */
        const uintptr_t first = (uintptr_t)(code->host + linear % PAGE);
        const uint64_t k = first_element(to, first, first + room, n, down, size);
        n = k < n ? (uint32_t)k + 1 : n;
    }
    return n;
}

static bool in_ram(struct cpu *cpu, uint64_t physical)
{
    const struct region *region = region_at(cpu, physical);
    return region && region->kind == RAM;
}

uint32_t port_in_block(struct cpu *cpu, uint32_t port, uint32_t offset, uint32_t wanted, uint32_t down, uint32_t wide,
                       unsigned size)
{
    struct span span;
    if (give_way(cpu) || !check_data(cpu, 0, offset, size, true, &span))
        return 0;
    const bool asked = cpu->cursor < cpu->journal_count;
    uint32_t n = 1;
    if (asked)
        n = cpu->journal[cpu->cursor].count;
    else if (span.first == size && in_ram(cpu, span.physical[0]))
        n = up_to_itself(cpu, span.physical[0],
                         block_room(cpu, 0, offset, span.physical[0], wanted, down, wide, size, true), down, size);
    if (n <= 1) {
        const uint64_t value = port_in(cpu, port, size);
        if (!cpu->bail)
            store_span(cpu, &span, value);
        return 1;
    }
    if (!asked) {
        ask(cpu, INPUT_PORT_IN, port, size, n, NULL);
        return 0;
    }
    if (!replay(cpu, INPUT_PORT_IN, port, size))
        return 0;
    withhold_block(cpu, span.physical[0], n, down, size);
    cpu->moved = n;
    return n;
}

uint32_t port_out_block(struct cpu *cpu, uint32_t port, uint32_t segment, uint32_t offset, uint32_t wanted,
                        uint32_t down, uint32_t wide, unsigned size)
{
    struct span span;
    if (give_way(cpu) || !check_data(cpu, segment, offset, size, false, &span))
        return 0;
    const bool asked = cpu->cursor < cpu->journal_count;
    const struct journal_entry *known = asked ? &cpu->journal[cpu->cursor] : NULL;
    if (known && known->kind == INPUT_PORT_OUT) {
        const uint32_t n = known->count;
        replay(cpu, INPUT_PORT_OUT, port, size);
        cpu->moved = n;
        return n;
    }
    uint32_t n = 1;
    if (!asked && span.first == size && in_ram(cpu, span.physical[0]))
        n = block_room(cpu, segment, offset, span.physical[0], wanted, down, wide, size, false);
    if (n <= 1) {
        const uint64_t value = load_span(cpu, &span);
        if (!cpu->bail)
            port_out(cpu, port, (uint32_t)value, size);
        return 1;
    }
    uint8_t data[PAGE];
    const struct region *region = region_at(cpu, span.physical[0]);
    const uint8_t *host = region->memory + (span.physical[0] - region->gpa);
    for (uint32_t k = 0; k < n; k++) {
        const uint64_t value = host_load(down ? host - (size_t)k * size : host + (size_t)k * size, size);
        memcpy(data + (size_t)k * size, &value, size);
    }
    ask(cpu, INPUT_PORT_OUT, port, size, n, data);
    return 0;
}

static bool answered(struct cpu *cpu, unsigned kind, uint32_t number, const uint64_t *value, uint64_t *answer)
{
    if (give_way(cpu))
        return false;
    const struct journal_entry *known = replay(cpu, kind, number, 8);
    if (!known) {
        if (!cpu->bail)
            ask(cpu, kind, number, 8, 1, (const uint8_t *)value);
        return false;
    }
    if (known->fault) {
        raise_fault(cpu, LABEL_MSR_REFUSED, 13, 0, number, 0, 0);
        return false;
    }
    *answer = known->value;
    return true;
}

uint64_t msr_read(struct cpu *cpu, uint32_t number)
{
    uint64_t value = 0;
    answered(cpu, INPUT_MSR_READ, number, NULL, &value);
    return value;
}

void msr_write(struct cpu *cpu, uint32_t number, uint64_t value)
{
    uint64_t ignored;
    answered(cpu, INPUT_MSR_WRITE, number, &value, &ignored);
}
