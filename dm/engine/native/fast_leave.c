/* The ways out of a block: past its last record, and to the exact engine. */

#include "fast.h"

HANDLER(block_end)
{
    END_JUMP(cpu->block_eip + i->next, );
}

HANDLER(leave_exact)
{
    cpu->bail = BAIL_NONE;
    LEAVE(LEAVE_EXACT);
}
