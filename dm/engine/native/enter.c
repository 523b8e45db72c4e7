/* Decoding blocks, and the ways into them that are taken seldom; fast_enter.c has the others. */

#include "fast.h"

static size_t rounded(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

/* Decode straight-line code inside one page; NULL when the first instruction crosses its end. */
static struct block *build(struct cpu *cpu, const struct fetch_entry *from, uint64_t physical, bool code32)
{
    struct insn insns[BLOCK_INSNS];
    uint16_t forms[BLOCK_INSNS];
    const uint8_t *code = from->host + physical % PAGE;
    const unsigned room = (unsigned)(PAGE - physical % PAGE);
    unsigned length = 0, count = 0;
    while (count < BLOCK_INSNS && length < BLOCK_BYTES && length < room) {
        const unsigned left = room - length;
        struct insn *i = &insns[count];
        const int size = decode(code + length, left < LONGEST ? left : LONGEST, code32, cpu->lineage, i, &forms[count]);
        if (size <= 0)
            break;
        i->handler = (void *)variants[forms[count]].fast;
        i->offset = (uint8_t)length;
        length += (unsigned)size;
        i->next = (uint8_t)length;
        if (variants[forms[count++]].ends)
            break;
    }
    if (!count)
        return NULL;
    for (unsigned n = 0; n + 1 < count; n++) {
        handler *both = pairs[variants[forms[n]].first * pair_seconds + variants[forms[n + 1]].second];
#ifdef WITHOUT_PAIRS
        both = NULL;
#endif
        if (both)
            insns[n].handler = (void *)both;
    }
    const bool falls = variants[forms[count - 1]].falls;
    /* Records grow from the bottom of the arena, the bytes that they were decoded from from its top. */
    const size_t records = rounded(sizeof(struct block) + (count + falls) * sizeof(struct insn));
    const size_t origin = length + count * sizeof(uint16_t);
    if (cpu->arena_used + records + origin + cpu->arena_top > ARENA_SIZE)
        forget_blocks(cpu);
    struct block *block = (struct block *)(void *)(cpu->arena + cpu->arena_used);
    cpu->arena_used += records;
    cpu->arena_top += origin;
    block->bytes = cpu->arena + ARENA_SIZE - cpu->arena_top;
    memcpy(block->bytes, code, length);
    memcpy(block->bytes + length, forms, count * sizeof(uint16_t));
    memcpy(block->insn, insns, count * sizeof(struct insn));
    for (unsigned n = 0; n < count; n++)
        if (variants[forms[n]].branches)
            block->insn[n].rest = (uint8_t)(count - n - 1);
    if (falls)
        block->insn[count] =
            (struct insn){.handler = (void *)block_end, .chain = &dead_block, .next = (uint8_t)length};
    block->physical = physical;
    block->length = (uint16_t)length;
    block->count = (uint16_t)count;
    block->code32 = code32;
    block->page = from->page;
    block->page_next = from->page->blocks;
    from->page->blocks = block;
    from->page->code |= lines(block);
    struct block **head = bucket(cpu, physical);
    block->hash_next = *head;
    *head = block;
    cpu->store_size = 0;
    return block;
}

/* The block at CS:eip, valid for the current generation; NULL when that instruction has to be run on its own. */
static struct block *find_block(struct cpu *cpu, uint32_t eip)
{
    const uint32_t linear = code_linear(cpu, eip);
    const struct fetch_entry *from = fetch_page(cpu, linear);
    if (!from)
        return NULL;
    const uint64_t physical = from->physical | linear % PAGE;
    const bool code32 = cpu->a.seg[SEG_CS].attributes & RIGHTS_DB;
    const uint8_t *code = from->host + linear % PAGE;
    struct block *block = *bucket(cpu, physical);
    while (block && (block->physical != physical || block->code32 != code32))
        block = block->hash_next;
    if (block && memcmp(block->bytes, code, block->length) != 0) {
        kill_blocks(cpu, from->page, physical, 1);
        block = NULL;
    }
    if (!block)
        block = build(cpu, from, physical, code32);
    if (!block || beyond_code(cpu, eip, block->length))
        return NULL;
    block->tag = cpu->generation + linear;
    block->source = code;
    return block;
}

/* Go to cpu->a.eip, remembering the way there in the record `i`: in the same page at once (END_JUMP), to another page
   when memory has been compared. */
HANDLER(enter_first)
{
    const struct block *source = cpu->block;
    struct block *block = find_block(cpu, cpu->a.eip);
    if (!block)
        LEAVE(LEAVE_ENTRY);
    if (cpu->block == source) { /* else `i` is gone */
        struct insn *from = (struct insn *)(uintptr_t)i;
        if ((source->physical ^ block->physical) < PAGE)
            from->chain = block;
        else
            from->link = (uint32_t)(((uint8_t *)block - cpu->arena) / LINK_UNIT);
    }
    if (budget < block->count)
        LEAVE(LEAVE_BUDGET);
    cpu->block = block;
    cpu->block_eip = cpu->a.eip;
    budget -= block->count;
    GO(block->insn);
}

/* The same for an indirect jump, remembered by address. */
HANDLER(enter_new)
{
    struct block *block = find_block(cpu, cpu->a.eip);
    if (!block)
        LEAVE(LEAVE_ENTRY);
    cpu->jumps[code_linear(cpu, cpu->a.eip) % JUMPS_SIZE] = block;
    if (budget < block->count)
        LEAVE(LEAVE_BUDGET);
    cpu->block = block;
    cpu->block_eip = cpu->a.eip;
    budget -= block->count;
    GO(block->insn);
}
