/* Exact execution: one instruction, or the delivery of one event, as a transaction. */

#include "cpu.h"
#include "labels.h"
#include "procedures.h"

enum { AGAIN_LIMIT = 10000, DELIVERIES = 8 };

exact exact_undefined;

unsigned exact_undefined(struct cpu *cpu, const struct insn *i)
{
    (void)i;
    no_such_opcode(cpu);
    return END_OF_ABORT;
}

static unsigned deliver_now(struct cpu *cpu, const struct insn *i)
{
    (void)i;
    deliver(cpu);
    return cpu->bail ? END_OF_ABORT : END_OF_CHECKPOINT;
}

/* Run from the start, with what the journal already holds.  When it is abandoned, cpu->bail says why, and the state is
   as before (after a fault: as at the last commit, and with what is to be kept). */
static unsigned transact(struct cpu *cpu, const struct insn *i, exact *run, bool cold)
{
    const size_t size = cold ? sizeof cpu->a : ARCH_HOT;
    unsigned end = END_OF_ABORT;
    memcpy(&cpu->before, &cpu->a, size);
    cpu->recording = true;
    cpu->expect_mmio = i && cpu->first && cpu->request.has_mmio;
    for (unsigned n = 0; n < AGAIN_LIMIT; n++) {
        cpu->on_fault = &cpu->before;
        cpu->keeping = false;
        cpu->cursor = cpu->store_count = 0;
        cpu->moved = 1;
        cpu->bail = BAIL_NONE;
        const bool by_branch = i && begin_instruction(cpu);
        end = run(cpu, i);
        if (by_branch && (end == END_OF_JUMP || end == END_OF_TRANSFER))
            branch_taken(cpu);
        if (end != END_OF_ABORT) {
            if (commit_stores(cpu))
                break;
            end = END_OF_ABORT;
        }
        if (cpu->bail == BAIL_FAULT && cpu->keeping) {
            cpu->bail = BAIL_NONE;
            if (commit_stores(cpu)) {
                memcpy(cpu->before.gpr, cpu->a.gpr, sizeof cpu->a.gpr);
                cpu->bail = BAIL_FAULT;
            }
        }
        memcpy(&cpu->a, cpu->bail == BAIL_FAULT ? cpu->on_fault : &cpu->before, size);
        if (cpu->bail != BAIL_AGAIN)
            break;
    }
    if (cpu->bail == BAIL_AGAIN)
        give_up(cpu, LABEL_TOO_MANY_ACCESSES);
    cpu->recording = false;
    return end;
}

void charge(struct cpu *cpu, uint64_t steps, uint64_t instructions)
{
    const uint64_t due = cpu->prepaid ? 0 : steps;
    cpu->prepaid = false;
    cpu->left -= due < cpu->left ? due : cpu->left;
    cpu->steps += steps;
    cpu->instructions += instructions;
    cpu->progressed = cpu->progressed || steps;
    cpu->first = cpu->first && !steps;
    cpu->after_event = cpu->after_event && !steps;
}

static int abandoned(struct cpu *cpu, enum open open)
{
    const unsigned why = cpu->bail;
    cpu->bail = BAIL_NONE;
    cpu->look = true;
    switch (why) {
    case BAIL_QUESTION:
        cpu->open = open;
        cpu->answered = false;
        return (int)cpu->question_reason;
    case BAIL_HYPERVISOR:
        return EXIT_HYPERVISOR;
    case BAIL_FIRMWARE:
        return EXIT_FIRMWARE;
    case BAIL_MISMATCH:
        return EXIT_MMIO_MISMATCH;
    default:
        return EXIT_UNSUPPORTED;
    }
}

static void raise(struct cpu *cpu)
{
    cpu->bail = BAIL_NONE;
    cpu->last_fault = cpu->fault;
    raise_exception(cpu, cpu->fault.vector, cpu->fault.error, cpu->fault.operand[0]);
}

static int page_fault_exit(struct cpu *cpu)
{
    cpu->bail = BAIL_NONE;
    cpu->look = true;
    return EXIT_PAGE_FAULT;
}

static int deliver_from(struct cpu *cpu, bool journal_kept)
{
    cpu->look = true;
    for (unsigned n = 0; n < DELIVERIES; n++) {
        if (!journal_kept)
            cpu->journal_count = 0;
        journal_kept = false;
        cpu->delivering = 1;
        const bool cold = cpu->a.inject_vector == VECTOR_DB; /* its delivery changes IA32_DEBUGCTL */
        const unsigned end = transact(cpu, NULL, deliver_now, cold);
        const bool fault = end == END_OF_ABORT && cpu->bail == BAIL_FAULT;
        if (fault && is_hypervisors(cpu, cpu->fault.vector)) {
            cpu->delivering = 0;
            return page_fault_exit(cpu);
        }
        if (fault)
            raise(cpu);
        cpu->delivering = 0;
        if (end != END_OF_ABORT || (fault && cpu->a.activity == ACTIVITY_SHUTDOWN)) {
            cpu->progressed = true;
            return RUN_ON;
        }
        if (!fault)
            return abandoned(cpu, OPEN_DELIVER);
    }
    charge(cpu, 1, 0); /* #AC while #AC is delivered would never end: the budget ends it */
    return RUN_ON;
}

int deliver_event(struct cpu *cpu)
{
    cpu->resume = NULL;
    return deliver_from(cpu, false);
}

static int faulted(struct cpu *cpu)
{
    if (cpu->first && cpu->request.has_mmio) {
        cpu->hypervisor_address = 0;
        cpu->bail = BAIL_MISMATCH;
        return abandoned(cpu, OPEN_NONE);
    }
    if (is_hypervisors(cpu, cpu->fault.vector))
        return page_fault_exit(cpu);
    raise(cpu);
    charge(cpu, 1, 0); /* a step that has completed no instruction */
    return deliver_event(cpu);
}

/* Not all of the instruction's bytes could be read. */
int not_fetched(struct cpu *cpu)
{
    return cpu->bail == BAIL_FAULT ? faulted(cpu) : abandoned(cpu, cpu->walked ? OPEN_FETCH : OPEN_WALK);
}

/* Account for an instruction that has run, or handle why it did not complete. */
static int settle(struct cpu *cpu, const struct insn *i, uint16_t variant, unsigned end)
{
    cpu->resume = NULL;
    if (end == END_OF_ABORT) {
        if (cpu->bail == BAIL_FAULT)
            return faulted(cpu);
        if (i != &cpu->open_insn)
            cpu->open_insn = *i;
        cpu->open_variant = variant;
        return abandoned(cpu, OPEN_INSN);
    }
    retire(cpu);
    if (end == END_OF_REPEAT) {
        cpu->a.eip = cpu->block_eip + i->offset;
        charge(cpu, cpu->repeat, 0);
    } else {
        if (end == END_OF_NEXT)
            cpu->a.eip = cpu->block_eip + i->next;
        charge(cpu, cpu->moved, 1);
    }
    if (end == END_OF_CHECKPOINT || end == END_OF_TRANSFER)
        cpu->look = true;
    else if (i != &cpu->open_insn && cpu->block && !cpu->block_killed && end != END_OF_JUMP)
        cpu->resume = end == END_OF_REPEAT ? i : i + 1;
    return RUN_ON;
}

int exact_step(struct cpu *cpu, const struct insn *i, uint16_t variant)
{
    cpu->a.eip = cpu->block_eip + i->offset;
    cpu->insn_length = i->next - i->offset;
    cpu->journal_count = 0;
    cpu->block_killed = false;
    return settle(cpu, i, variant, transact(cpu, i, variants[variant].exact, variants[variant].cold));
}

/* The answer is in the journal: run again what asked. */
int exact_resume(struct cpu *cpu)
{
    const enum open open = cpu->open;
    cpu->open = OPEN_NONE;
    if (open == OPEN_DELIVER)
        return deliver_from(cpu, true);
    cpu->prepaid = true;
    cpu->block = NULL;
    cpu->block_eip = cpu->a.eip - cpu->open_insn.offset;
    cpu->insn_length = cpu->open_insn.next - cpu->open_insn.offset;
    const struct variant *variant = &variants[cpu->open_variant];
    return settle(cpu, &cpu->open_insn, cpu->open_variant,
                  transact(cpu, &cpu->open_insn, variant->exact, variant->cold));
}
