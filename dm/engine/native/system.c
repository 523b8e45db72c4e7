/* Time, CPUID, random numbers, segment caches, and how an instruction gives up. */

#include <stdlib.h>
#include <sys/random.h>

#include "cpu.h"
#include "labels.h"

static uint64_t host_tsc(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/* Virtual time (tsc_host 0) goes on by one tick per reading.  A hypervisor whose clock is ahead of ours makes guest time
   stand still until then, not go backwards. */
static uint64_t tsc_now(const struct cpu *cpu)
{
    if (!cpu->a.tsc_host)
        return cpu->a.tsc + 1;
    const uint64_t past = host_tsc() - cpu->a.tsc_host;
    if ((int64_t)past < 0)
        return cpu->a.tsc;
    return cpu->a.tsc + (uint64_t)(((unsigned __int128)past * cpu->a.tsc_scale) >> 32);
}

uint64_t tsc_read(struct cpu *cpu)
{
    if (give_way(cpu))
        return 0;
    const struct journal_entry *known = replay(cpu, INPUT_TSC, 0, 8);
    const uint64_t value = known ? known->value : tsc_now(cpu);
    if (!known && !cpu->bail)
        record(cpu, INPUT_TSC, 0, 8, value);
    if (!cpu->a.tsc_host)
        cpu->a.tsc = value;
    return value;
}

void tsc_write(struct cpu *cpu, uint64_t value)
{
    cpu->a.tsc = value;
    if (cpu->a.tsc_host)
        cpu->a.tsc_host = host_tsc();
}

uint64_t random64(struct cpu *cpu)
{
    if (give_way(cpu))
        return 0;
    const struct journal_entry *known = replay(cpu, INPUT_RANDOM, 0, 8);
    uint64_t value = known ? known->value : 0;
    if (!known && !cpu->bail) {
        if (getrandom(&value, sizeof value, 0) != sizeof value)
            value = host_tsc();
        record(cpu, INPUT_RANDOM, 0, 8, value);
    }
    return value;
}

static const struct dm_cpuid *cpuid_row(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned n = 0; n < cpu->cpuid_count; n++)
        if (cpu->cpuid[n].leaf == leaf && cpu->cpuid[n].subleaf == subleaf)
            return &cpu->cpuid[n];
    return NULL;
}

/* Leaves without subleaves are in the table once; those with them answer unknown ones with zeros. */
static bool has_subleaves(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || (leaf >= 0xd && leaf <= 0x1f) || leaf == 0x8000001d;
}

uint32_t cpuid_read(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t which)
{
    const struct dm_cpuid *row = cpuid_row(cpu, leaf, subleaf);
    if (!row && !has_subleaves(leaf))
        row = cpuid_row(cpu, leaf, 0);
    return row ? row->value[which & 3] : 0;
}

/* The tops decide in the fast path; whatever they do not allow, segment_check looks at again. */
static void set_tops(struct cpu *cpu, struct segment *s)
{
    const unsigned type = s->attributes & 15;
    const bool code = type & 8, bit1 = type & 2, is_protected = (cpu->a.cr0 & 1) && !(cpu->a.flags >> 17 & 1);
    const bool usable = !s->unusable && (s->attributes >> 7 & 1) && (code || !(type & 4));
    s->read_top = usable && (!code || bit1 || !is_protected) ? (int64_t)s->limit : -1;
    s->write_top = usable && (code ? !is_protected : bit1) ? (int64_t)s->limit : -1;
    s->change_top = s->read_top < s->write_top ? s->read_top : s->write_top;
}

/* Protected mode has been entered or left, or everything is new. */
void mode_changed(struct cpu *cpu)
{
    cpu->tops_protected = (cpu->a.cr0 & 1) && !(cpu->a.flags >> 17 & 1);
    for (unsigned n = 0; n < 6; n++)
        segment_changed(cpu, n);
}

void segment_changed(struct cpu *cpu, uint32_t segment)
{
    struct segment *s = &cpu->a.seg[segment & 7];
    set_tops(cpu, s);
    if (cpu->watch_segments)
        cpu->look = true;
    if (segment == 2)
        cpu->a.stack_mask = s->attributes >> 14 & 1 ? 0xffffffff : 0xffff;
    if (segment == 1) {
        cpu->a.cs_end = (uint64_t)s->limit + 1;
        cpu->look = true;
    }
}

void raise_fault(struct cpu *cpu, uint32_t label, uint32_t vector, uint32_t error, uint32_t a, uint32_t b, uint32_t c)
{
    cpu->fault = (struct dm_fault){.vector = vector, .error = error, .label = label, .operand = {a, b, c}};
    cpu->bail = BAIL_FAULT;
}

/* Leave before this instruction: it touches what only the hypervisor has, or is its to execute (label: its name). */
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
