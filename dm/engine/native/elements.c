/* Many elements of a string in one question: what INS and OUTS (ports.c) and MOVS, STOS and LODS (strings.c) share. */

#include "cpu.h"
#include "procedures.h"

/* How many elements from `offset` on can be moved at once, inside the budget; 1 at least. */
uint32_t block_room(struct cpu *cpu, uint32_t segment, uint32_t offset, uint64_t physical, uint32_t wanted, bool down,
                    bool wide, unsigned size, bool write)
{
    const uint32_t n = elements_in_line(cpu, segment, offset, physical, wanted, down, wide, size, write);
    return n < cpu->left ? n : cpu->left > 1 ? (uint32_t)cpu->left : 1;
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

/* Cut a block of `n` elements to be written from `physical` on after the first that changes this instruction. */
uint32_t up_to_itself(struct cpu *cpu, uint64_t physical, uint32_t n, bool down, unsigned size)
{
    const struct region *region = region_at(cpu, physical);
    if (n < 2 || !region || !region->memory)
        return n;
    const uintptr_t to = (uintptr_t)(region->memory + (physical - region->gpa));
    for (uint32_t done = 0, room; done < cpu->insn_length; done += room) {
        const uint32_t linear = code_linear(cpu, cpu->a.eip + done);
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

/* Copy elements of one page of memory, in the order of access. */
void read_elements(struct cpu *cpu, uint64_t physical, uint32_t count, bool down, unsigned size, uint8_t *data)
{
    const struct region *region = region_at(cpu, physical);
    const uint8_t *host = region->memory + (physical - region->gpa);
    for (uint32_t k = 0; k < count; k++) {
        const uint64_t value = host_load(down ? host - (size_t)k * size : host + (size_t)k * size, size);
        memcpy(data + (size_t)k * size, &value, size);
    }
}

/* Withhold the answer to a block question, `count` elements from `physical` on upwards or downwards. */
void withhold_block(struct cpu *cpu, uint64_t physical, uint32_t count, bool down, unsigned size)
{
    if (cpu->cursor == cpu->journal_count) /* else there was another question since, and the bytes have been kept */
        for (uint32_t k = 0; k < count; k++)
            memcpy(cpu->block_data + (size_t)(down ? count - 1 - k : k) * size, cpu->question_data + (size_t)k * size,
                   size);
    withhold(cpu, physical - (down ? (uint64_t)(count - 1) * size : 0), 0, size);
    if (cpu->bail)
        return;
    struct store *made = &cpu->stores[cpu->store_count - 1];
    made->block = true;
    made->element = (uint8_t)size;
    made->size = count * size;
}
