/* One instruction on its own, fetched byte-exactly: segment limit, page faults, device memory, 15 bytes. */

#include "cpu.h"
#include "labels.h"

enum { USER = 2, FETCH = 4 };

/* Fetch at least one more byte.  False: abandoned. */
static bool fetch_more(struct cpu *cpu)
{
    cpu->walked = false;
    const uint64_t offset = (uint64_t)cpu->a.eip + cpu->fetch_count;
    if (offset >= cpu->a.cs_end) {
        raise_fault(cpu, LABEL_CS_FETCH_LIMIT, 13, 0, (uint32_t)offset, cpu->a.seg[1].limit, 0);
        return false;
    }
    const uint32_t linear = cs_linear(cpu, (uint32_t)offset);
    uint64_t physical;
    cpu->recording = true;
    cpu->cursor = 0;
    const bool found = translate(cpu, linear, FETCH | (cpu->a.cpl == 3 ? USER : 0), &physical);
    cpu->recording = false;
    if (!found)
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
    uint64_t n = LONGEST - cpu->fetch_count;
    const uint64_t in_page = PAGE - linear % PAGE, in_limit = cpu->a.cs_end - offset;
    n = n < in_page ? n : in_page;
    n = n < in_limit ? n : in_limit;
    memcpy(cpu->fetched + cpu->fetch_count, region->memory + (physical - region->gpa), n);
    cpu->fetch_count += (unsigned)n;
    return true;
}

static int fetch_and_run(struct cpu *cpu)
{
    const bool code32 = cpu->a.seg[1].attributes >> 14 & 1;
    int size;
    cpu->bail = BAIL_NONE;
    while ((size = decode(cpu->fetched, cpu->fetch_count, code32, cpu->lineage, &cpu->open_insn,
                          &cpu->open_variant)) == 0)
        if (!fetch_more(cpu))
            return not_fetched(cpu);
    if (size < 0) {
        raise_fault(cpu, LABEL_TOO_LONG, 13, 0, cpu->a.eip, 0, 0);
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
