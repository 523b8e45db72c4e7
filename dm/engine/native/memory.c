/* Guest-physical memory. */

#include "cpu.h"

#include <stdlib.h>

struct region *region_at(struct cpu *cpu, uint64_t physical)
{
    unsigned low = 0, high = cpu->region_count;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        struct region *region = &cpu->regions[middle];
        if (physical < region->gpa)
            high = middle;
        else if (physical >= region->end)
            low = middle + 1;
        else
            return region;
    }
    return NULL;
}

/* NULL without memory for it: such a page is not written on the fast path, and its blocks are not kept. */
struct page *page_at(struct region *region, uint64_t physical)
{
    const uint64_t number = (physical - region->gpa) / PAGE;
    struct page **chunk = &region->chunks[number / CHUNK_PAGES];
    if (!*chunk)
        *chunk = calloc(CHUNK_PAGES, sizeof(struct page));
    return *chunk ? &(*chunk)[number % CHUNK_PAGES] : NULL;
}

/* Before the first store to a page since the last report: the one place where a log of old contents would go too. */
void page_written(struct cpu *cpu, struct region *region, uint64_t physical)
{
    struct page *page = page_at(region, physical);
    if (page && page->written == cpu->report)
        return;
    if (page)
        page->written = cpu->report;
    if (cpu->page_count < PAGES_SIZE)
        cpu->pages[cpu->page_count++] = physical / PAGE;
}

uint64_t host_load(const uint8_t *host, unsigned size)
{
    switch (size) {
    case 1:
        return *(const volatile any8 *)host;
    case 2:
        return *(const volatile any16 *)host;
    case 4:
        return *(const volatile any32 *)host;
    case 8:
        return *(const volatile any64 *)host;
    default: { /* part of an access that crosses a page */
        uint64_t value = 0;
        for (unsigned n = 0; n < size; n++)
            value |= (uint64_t)*(const volatile any8 *)(host + n) << (8 * n);
        return value;
    }
    }
}

void ram_write(struct cpu *cpu, struct region *region, uint64_t physical, uint64_t value, unsigned size)
{
    uint8_t *host = region->memory + (physical - region->gpa);
    switch (size) {
    case 1:
        *(volatile any8 *)host = (uint8_t)value;
        break;
    case 2:
        *(volatile any16 *)host = (uint16_t)value;
        break;
    case 4:
        *(volatile any32 *)host = (uint32_t)value;
        break;
    case 8:
        *(volatile any64 *)host = value;
        break;
    default:
        for (unsigned n = 0; n < size; n++)
            *(volatile any8 *)(host + n) = (uint8_t)(value >> (8 * n));
    }
    ram_touched(cpu, region, physical, size);
}

/* Memory has been written: report the page, and drop code that was decoded from these bytes. */
void ram_touched(struct cpu *cpu, struct region *region, uint64_t physical, unsigned size)
{
    page_written(cpu, region, physical);
    struct page *page = page_at(region, physical);
    if (page && page->code && code_overlaps(page, physical, size))
        kill_blocks(cpu, page, physical, size);
}

/* Earlier stores become visible to other CPUs before later loads are made. */
void fence(struct cpu *cpu)
{
    (void)cpu;
    atomic_thread_fence(memory_order_seq_cst);
}
