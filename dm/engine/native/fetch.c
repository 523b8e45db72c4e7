/* One instruction on its own, fetched byte-exactly; the rules are dm.isa.mechanisms.fetch. */

#include "cpu.h"
#include "procedures.h"

/* Fetch at least one more byte.  False: abandoned. */
static bool fetch_more(struct cpu *cpu)
{
    cpu->walked = false;
    cpu->recording = true;
    cpu->expect_mmio = false; /* its own bytes are not what an instruction touches */
    cpu->cursor = 0;
    const uint64_t physical = fetch_address(cpu, cpu->fetch_count);
    cpu->recording = false;
    if (cpu->bail)
        return false; /* the walk may have asked a device for an entry: its journal is kept */
    cpu->journal_count = cpu->cursor = 0;
    cpu->walked = true;
    struct region *region = region_at(cpu, physical);
    if (region && (region->kind == FIRMWARE || region->kind == HYPERVISOR)) {
        leave_to_hypervisor(cpu, physical, 0);
        if (region->kind == FIRMWARE)
            cpu->bail = BAIL_FIRMWARE;
        return false;
    }
    if (!region || !region->memory) {
        cpu->question = (struct journal_entry){.kind = INPUT_LOAD, .address = physical, .size = 1, .count = 1};
        cpu->question_reason = EXIT_MMIO_READ;
        cpu->bail = BAIL_QUESTION;
        return false;
    }
    const uint32_t n = fetch_room(cpu, cpu->fetch_count);
    memcpy(cpu->fetched + cpu->fetch_count, region->memory + (physical - region->gpa), n);
    cpu->fetch_count += n;
    return true;
}

static int fetch_and_run(struct cpu *cpu)
{
    const bool code32 = cpu->a.seg[SEG_CS].attributes & RIGHTS_DB;
    int size;
    cpu->bail = BAIL_NONE;
    while ((size = decode(cpu->fetched, cpu->fetch_count, code32, cpu->lineage, &cpu->open_insn,
                          &cpu->open_variant)) == 0)
        if (!fetch_more(cpu))
            return not_fetched(cpu);
    if (size < 0) {
        too_long(cpu);
        return not_fetched(cpu);
    }
    cpu->block = NULL;
    cpu->block_eip = cpu->a.eip;
    return exact_step(cpu, &cpu->open_insn, cpu->open_variant);
}

int single_step(struct cpu *cpu)
{
    cpu->resume = NULL;
    cpu->fetch_count = 0;
    cpu->journal_count = cpu->cursor = 0;
    if (cpu->first && cpu->request.code_size) {
        cpu->fetch_count = cpu->request.code_size < LONGEST ? cpu->request.code_size : LONGEST;
        memcpy(cpu->fetched, cpu->request.code, cpu->fetch_count);
    }
    return fetch_and_run(cpu);
}

/* The byte asked for, or the paging entry on the way to it, is in the journal. */
int single_resume(struct cpu *cpu)
{
    if (cpu->open == OPEN_FETCH) {
        cpu->fetched[cpu->fetch_count++] = (uint8_t)cpu->journal[0].value;
        cpu->journal_count = cpu->cursor = 0;
    }
    cpu->open = OPEN_NONE;
    cpu->prepaid = true;
    return fetch_and_run(cpu);
}
