/* Time, random numbers, the table of CPUID, and what follows from segment registers. */

#include <stdlib.h>
#include <sys/random.h>

#include "cpu.h"
#include "procedures.h"

static uint64_t host_tsc(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/* Virtual time (tsc_host 0) advances by one tick per reading.  A hypervisor whose clock is ahead of ours makes guest time
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

/* A register of a row of the guest's table with bit 32 set; 0: there is no such row (dm.isa.mechanisms.cpuid decides). */
uint64_t cpuid_entry(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t which)
{
    for (unsigned n = 0; n < cpu->cpuid_count; n++)
        if (cpu->cpuid[n].leaf == leaf && cpu->cpuid[n].subleaf == subleaf)
            return UINT64_C(1) << 32 | cpu->cpuid[n].value[which & 3];
    return 0;
}

/* Protected mode has been entered or left, or everything is new. */
void mode_changed(struct cpu *cpu)
{
    cpu->ends_protected = segments_checked(cpu);
    for (unsigned n = 0; n < sizeof cpu->a.seg / sizeof *cpu->a.seg; n++)
        segment_changed(cpu, n);
}

void segment_changed(struct cpu *cpu, uint32_t segment)
{
    derive_segment(cpu, segment);
    if (cpu->watch_segments || segment == SEG_CS)
        cpu->look = true;
}
