/* How an instruction or procedure is abandoned: cpu->bail says why. */

#include "cpu.h"

/* Whether what can only be done exactly has to be left, since the journal is not live or something is wrong already. */
bool give_way(struct cpu *cpu)
{
    if (!cpu->recording)
        cpu->bail = BAIL_EXACT;
    return cpu->bail != BAIL_NONE;
}

void raise_fault(struct cpu *cpu, uint32_t label, uint32_t vector, uint32_t error, uint32_t a, uint32_t b, uint32_t c)
{
    cpu->fault = (struct dm_fault){.vector = vector, .error = error, .label = label, .operand = {a, b, c}};
    cpu->bail = BAIL_FAULT;
}

/* Leave before this instruction: it touches the hypervisor's memory, or is the hypervisor's to execute (label). */
void leave_to_hypervisor(struct cpu *cpu, uint64_t physical, uint32_t label)
{
    cpu->hypervisor_address = physical;
    cpu->label = label;
    cpu->bail = BAIL_HYPERVISOR;
}

void give_up(struct cpu *cpu, uint32_t label)
{
    cpu->label = label;
    cpu->bail = BAIL_UNSUPPORTED;
}
