/* The cache of decoded blocks, keyed by physical address and default operand size. */

#include "cpu.h"

struct block dead_block = {.count = UINT16_MAX};

struct block **bucket(struct cpu *cpu, uint64_t physical)
{
    return &cpu->hash[(physical ^ physical >> 13) % HASH_SIZE];
}

static bool overlaps(const struct block *block, uint64_t physical, unsigned size)
{
    const uint64_t offset = physical % PAGE, start = block->physical % PAGE;
    return offset < start + block->length && start < offset + size;
}

bool code_overlaps(const struct page *page, uint64_t physical, unsigned size)
{
    for (const struct block *block = page->blocks; block; block = block->page_next)
        if (overlaps(block, physical, size))
            return true;
    return false;
}

/* The 64-byte lines of its page that a block was decoded from. */
uint64_t lines(const struct block *block)
{
    const unsigned first = block->physical / 64 % 64, last = (block->physical + block->length - 1) / 64 % 64;
    return (UINT64_MAX >> (63 - last)) & (UINT64_MAX << first);
}

/* Drop the blocks that were decoded from these bytes.  Their memory goes when the arena is cleared. */
void kill_blocks(struct cpu *cpu, struct page *page, uint64_t physical, unsigned size)
{
    uint64_t code = 0;
    for (struct block **link = &page->blocks; *link;) {
        struct block *block = *link;
        if (!overlaps(block, physical, size)) {
            code |= lines(block);
            link = &block->page_next;
            continue;
        }
        *link = block->page_next;
        for (struct block **other = bucket(cpu, block->physical); *other; other = &(*other)->hash_next)
            if (*other == block) {
                *other = block->hash_next;
                break;
            }
        block->tag = 0;
        if (block == cpu->block)
            cpu->block_killed = true;
    }
    page->code = code;
}

void forget_blocks(struct cpu *cpu)
{
    for (unsigned n = 0; n < HASH_SIZE; n++) {
        for (const struct block *block = cpu->hash[n]; block; block = block->hash_next) {
            block->page->blocks = NULL;
            block->page->code = 0;
        }
        cpu->hash[n] = NULL;
    }
    for (unsigned n = 0; n < JUMPS_SIZE; n++)
        cpu->jumps[n] = &dead_block;
    memset(cpu->arena, 0, 96); /* where link 0 leads: a tag that never fits */
    cpu->arena_used = 96;      /* the second half of a block begins a cache line */
    cpu->arena_top = 0;
    cpu->block = NULL;
    cpu->resume = NULL;
    cpu->missed = NULL;
}

/* Number of the form of one of the block's records. */
uint16_t form_of(const struct block *block, const struct insn *i)
{
    uint16_t form;
    memcpy(&form, block->bytes + block->length + (i - block->insn) * sizeof form, sizeof form);
    return form;
}
