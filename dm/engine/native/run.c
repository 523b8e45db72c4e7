/* The run loop: what is checked between instructions, and the way into the fast handlers. */

#include "fast.h"

enum { QUIET, EVENT, HALTED, SHUT_DOWN, WINDOW, WAIT_FOR_SIPI }; /* dm.isa.mechanisms.boundary */

static const struct insn entry = {.handler = (void *)enter_indirect};

/* Derive everything that depends on mode, privilege and flags. */
static void derive(struct cpu *cpu)
{
    if (segments_checked(cpu) != cpu->ends_protected)
        mode_changed(cpu);
    if (smap_suspended(cpu) != cpu->smap_open) {
        cpu->smap_open = !cpu->smap_open;
        tlb_drop(cpu);
    }
    cpu->tlb = &cpu->tlbs[cpu->a.cpl == 3];
    cpu->single = watched(cpu) || cpu->request.has_stop_at;
}

/* Run records until a handler leaves.  Nothing is live in the registers that fast handlers use without saving them
   (build.py); a function that names them here saves them for its caller. */
static unsigned __attribute__((noinline)) run_records(struct cpu *cpu, const struct insn *i, int64_t budget)
{
    unsigned why = ((handler *)i->handler)(cpu, i, cpu->a.fr, cpu->a.fc, budget, cpu->tlb);
#if DM_THREADED
    __asm__ volatile("" : : : "rbx", "r12", "r13", "r14", "r15");
#else
    while (why == GO_ON)
        why = ((handler *)cpu->at->handler)(cpu, cpu->at, cpu->a.fr, cpu->a.fc, cpu->budget, cpu->tlb);
#endif
    return why;
}

/* Run blocks until something has to be checked. */
static int run_fast(struct cpu *cpu)
{
    const uint64_t chunk = cpu->left < CHUNK ? cpu->left : CHUNK;
    const struct insn *i = &entry;
    int64_t budget = (int64_t)chunk;
    const uint32_t rf = cpu->a.flags & EFLAGS_RF; /* the first instruction that completes clears it */
    cpu->a.flags &= ~EFLAGS_RF;
    if (cpu->resume) {
        const int64_t rest = cpu->block->count - (cpu->resume - cpu->block->insn);
        if (cpu->block->tag == cpu->generation + code_linear(cpu, cpu->block_eip) && budget >= rest) {
            i = cpu->resume;
            budget -= rest;
        }
        cpu->resume = NULL;
    }
    cpu->repeats = 0;
    const unsigned why = run_records(cpu, i, budget);
    budget = cpu->budget;
    i = cpu->at;
    const struct block *block = cpu->block;
    if (why == LEAVE_CHECKPOINT)
        budget += block->count - (i - block->insn) - 1;
    else if (why == LEAVE_EXACT || why == LEAVE_REPEAT)
        budget += block->count - (i - block->insn);
    const uint64_t used = chunk - (uint64_t)budget;
    if (!used)
        cpu->a.flags |= rf;
    charge(cpu, used, used - cpu->repeats);
    switch (why) {
    case LEAVE_CHECKPOINT:
        retire(cpu);
        cpu->look = true;
        return RUN_ON;
    case LEAVE_REPEAT:
        cpu->a.eip = cpu->block_eip + i->offset;
        return RUN_ON;
    case LEAVE_EXACT:
        return exact_step(cpu, i, form_of(block, i));
    case LEAVE_BUDGET:
        if ((uint64_t)budget < cpu->left)
            return RUN_ON; /* only the chunk is used up */
        break;
    default:
        break;
    }
    return cpu->left ? single_step(cpu) : RUN_ON;
}

/* One turn at an instruction boundary. */
static int turn(struct cpu *cpu)
{
    if (cpu->look) {
        derive(cpu);
        if (cpu->request.policy && (cpu->progressed || !cpu->request.progress) &&
            enterable(cpu, cpu->request.policy))
            return EXIT_ENTERABLE;
    }
    if (atomic_load_explicit(&cpu->kick, memory_order_relaxed) && atomic_exchange(&cpu->kick, 0))
        return EXIT_KICKED;
    if (cpu->posted_count > POSTED_SIZE / 4 || cpu->page_count > PAGES_SIZE * 3 / 4)
        return EXIT_KICKED; /* the report is full */
    if (!cpu->left)
        return EXIT_BUDGET;
    if (cpu->look) {
        cpu->look = false;
        switch (boundary(cpu, cpu->request.window)) {
        case EVENT:
            if (cpu->after_event)
                charge(cpu, 1, 0); /* two events in a row: an endless sequence must use up the budget */
            cpu->after_event = true;
            return deliver_event(cpu);
        case HALTED:
        case WAIT_FOR_SIPI:
            cpu->look = true;
            return EXIT_HALT;
        case SHUT_DOWN:
            return EXIT_SHUTDOWN;
        case WINDOW:
            return EXIT_INTERRUPT_WINDOW;
        default:
            if (cpu->bail) { /* 64-bit mode */
                cpu->bail = BAIL_NONE;
                cpu->look = true;
                return EXIT_UNSUPPORTED;
            }
            derive(cpu);
        }
    }
    if (cpu->request.has_stop_at && code_linear(cpu, cpu->a.eip) == cpu->request.stop_at &&
        (cpu->progressed || !cpu->request.progress)) {
        cpu->look = true;
        return EXIT_DEBUG;
    }
    const bool special = cpu->first && (cpu->request.code_size || cpu->request.has_mmio);
    const bool must_progress = cpu->request.policy && cpu->request.progress && !cpu->progressed;
    if (cpu->single || special || must_progress) {
        cpu->look = true;
        return single_step(cpu);
    }
    return run_fast(cpu);
}

void dm_run(struct cpu *cpu, const struct dm_request *request, struct dm_exit *out)
{
    cpu->request = *request;
#ifdef WITHOUT_TLB
    cpu->flat = (uintptr_t)cpu->regions->memory;
    cpu->flat_pages = page_at(cpu->regions, 0);
#endif
    cpu->left = request->budget;
    cpu->progressed = false;
    cpu->look = true;
    cpu->watch_segments = request->policy != 0;
    cpu->posted_count = 0;
    cpu->flushed = false;
    cpu->steps = cpu->instructions = 0;
    if (cpu->page_count) {
        cpu->page_count = 0;
        cpu->report++;
        tlb_drop_writes(cpu);
    }
    bump_generation(cpu);
    int reason = RUN_ON;
    if (cpu->open) {
        cpu->first = false;
        derive(cpu);
        reason = cpu->open == OPEN_FETCH || cpu->open == OPEN_WALK ? single_resume(cpu) : exact_resume(cpu);
    }
    cpu->first = true;
    while (reason == RUN_ON)
        reason = turn(cpu);
    *out = (struct dm_exit){
        .reason = (uint32_t)reason,
        .steps = cpu->steps,
        .instructions = cpu->instructions,
        .posted = cpu->posted,
        .posted_count = cpu->posted_count,
        .pages = cpu->pages,
        .page_count = cpu->page_count,
        .tlb_flush = cpu->flushed,
        .count = 1,
    };
    if (reason <= LAST_QUESTION) {
        out->address = cpu->question.address;
        out->target = cpu->question.value;
        out->size = cpu->question.size;
        out->count = cpu->question.count;
        out->down = cpu->question.down;
        out->data = cpu->question_data;
    } else if (reason == EXIT_HYPERVISOR || reason == EXIT_FIRMWARE || reason == EXIT_MMIO_MISMATCH) {
        out->address = cpu->hypervisor_address;
        out->label = reason == EXIT_HYPERVISOR ? cpu->label : 0;
    } else if (reason == EXIT_PAGE_FAULT) {
        out->address = cpu->fault.operand[0];
        out->error = cpu->fault.error;
    } else if (reason == EXIT_UNSUPPORTED) {
        out->label = cpu->label;
    }
}
