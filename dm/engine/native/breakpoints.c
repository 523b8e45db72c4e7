/* Data and I/O breakpoints of DR0-DR3 (SDM vol. 3B, 17.2.4); instruction breakpoints are seen to at boundaries. */

#include "cpu.h"

enum { ON_WRITE = 1, ON_PORT = 2, ON_ACCESS = 3, A_BREAKPOINT_WAS_ENABLED = 1 << 12 };

static void watch(struct cpu *cpu, uint32_t first, unsigned size, bool (*matches)(unsigned kind, bool write), bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        const unsigned control = (unsigned)(cpu->a.dr7 >> (16 + 4 * n)) & 15;
        const unsigned length_code = control >> 2;
        const uint32_t length = length_code == 2 ? 8 : length_code + 1;
        const uint32_t at = (uint32_t)cpu->a.dr[n] & ~(length - 1);
        /* What lies beyond 4 GiB only 64-bit code can meet. */
        const bool enabled = (cpu->a.dr7 >> (2 * n) & 3) && !(cpu->a.dr[n] >> 32);
        if (enabled && matches(control & 3, write) && (first - at < length || at - first < size))
            cpu->a.pending_debug |= UINT64_C(1) << n | A_BREAKPOINT_WAS_ENABLED;
    }
}

static bool data(unsigned kind, bool write)
{
    return kind == ON_ACCESS || (kind == ON_WRITE && write);
}

static bool port(unsigned kind, bool write)
{
    (void)write;
    return kind == ON_PORT;
}

void watch_data(struct cpu *cpu, uint32_t linear, unsigned size, bool write)
{
    watch(cpu, linear, size, data, write);
}

void watch_port(struct cpu *cpu, uint32_t number, unsigned size)
{
    if ((cpu->a.dr7 & 0xff) && (cpu->a.cr4 >> 3 & 1))
        watch(cpu, number, size, port, false);
}
