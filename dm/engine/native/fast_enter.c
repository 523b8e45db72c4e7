/* The ways into a block that are taken often; enter.c has the others. */

#include "fast.h"

/* Whether memory still holds what the block was decoded from. */
static inline bool unchanged(const struct block *block)
{
#ifdef WITHOUT_SMC
    return true;
#endif
    const uint8_t *a = block->bytes, *b = block->source;
    const unsigned n = block->length;
    if (n >= 8) {
        for (unsigned k = 0; k < n - 8; k += 8)
            if (*(const any64 *)(a + k) != *(const volatile any64 *)(b + k))
                return false;
        return *(const any64 *)(a + n - 8) == *(const volatile any64 *)(b + n - 8);
    }
    if (n >= 4)
        return *(const any32 *)a == *(const volatile any32 *)b &&
               *(const any32 *)(a + n - 4) == *(const volatile any32 *)(b + n - 4);
    return a[0] == *(const volatile any8 *)b && a[n / 2] == *(const volatile any8 *)(b + n / 2) &&
           a[n - 1] == *(const volatile any8 *)(b + n - 1);
}

/* A direct jump that is not linked within the page: to another page, or for the first time. */
HANDLER(enter)
{
    const uint32_t eip = cpu->a.eip;
    struct block *block = (struct block *)(void *)(cpu->arena + (size_t)i->link * LINK_UNIT);
    if (UNLIKELY(block->tag != cpu->generation + code_linear(cpu, eip) || BEYOND_CS(eip, block) || SPENT(block) ||
                 !unchanged(block)))
        return enter_first(STATE);
    cpu->block = block;
    cpu->block_eip = eip;
    SPEND(block);
    GO(block->insn);
}

HANDLER(enter_indirect)
{
    const uint32_t eip = cpu->a.eip, linear = code_linear(cpu, eip);
    struct block **known = &cpu->jumps[linear % JUMPS_SIZE], *block = *known;
    if (UNLIKELY(block->tag != cpu->generation + linear || BEYOND_CS(eip, block) ||
                 block->code32 != !!(cpu->a.seg[SEG_CS].attributes & RIGHTS_DB) || !unchanged(block)))
        return enter_new(STATE);
    if (UNLIKELY(SPENT(block)))
        LEAVE(LEAVE_BUDGET);
    cpu->block = block;
    cpu->block_eip = eip;
    SPEND(block);
    GO(block->insn);
}
