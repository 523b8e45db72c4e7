/* Ports and model-specific registers: always a question. */

#include "cpu.h"
#include "procedures.h"

uint32_t port_in(struct cpu *cpu, uint32_t port, unsigned size)
{
    if (give_way(cpu))
        return 0;
    port_breakpoints(cpu, port, size);
    const struct journal_entry *known = replay(cpu, INPUT_PORT_IN, port, size);
    if (known)
        return (uint32_t)known->value;
    if (!cpu->bail)
        ask(cpu, INPUT_PORT_IN, port, size, 1, NULL);
    return 0;
}

void port_out(struct cpu *cpu, uint32_t port, uint32_t value, unsigned size)
{
    if (give_way(cpu))
        return;
    port_breakpoints(cpu, port, size);
    if (!replay(cpu, INPUT_PORT_OUT, port, size) && !cpu->bail)
        ask(cpu, INPUT_PORT_OUT, port, size, 1, (const uint8_t *)&value);
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
    read_elements(cpu, span.physical[0], n, down, size, data);
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
        msr_refused(cpu, number);
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
