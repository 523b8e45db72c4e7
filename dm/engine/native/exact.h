/* Primitives and terminators of exact handlers and of procedures: everything through functions, see access.c. */
#ifndef DM_EXACT_H
#define DM_EXACT_H

#include "cpu.h"

#define HANDLER(name) unsigned name(struct cpu *cpu, const struct insn *i)
#define HANDLER_PROLOGUE (void)i;

#define BAIL_HANDLER return END_OF_ABORT
#define BAIL_PROCEDURE return
#define BAIL_PROCEDURE_VALUE return 0

#define GPR8(byte) (*((any8 *)cpu->a.gpr + (byte)))
#define GPR16(n) (*(any16 *)&cpu->a.gpr[n])
#define GPR32(n) (*(any32 *)&cpu->a.gpr[n])
#define GPR64(n) (*(any64 *)&cpu->a.gpr[n])

#define TRY_(call, otherwise) \
    do { \
        call; \
        if (UNLIKELY(cpu->bail)) \
            otherwise; \
    } while (0)

#define LOAD8(t, s, o, bail) TRY_(t = (uint32_t)load(cpu, s, o, 1), bail)
#define LOAD16(t, s, o, bail) TRY_(t = (uint32_t)load(cpu, s, o, 2), bail)
#define LOAD32(t, s, o, bail) TRY_(t = (uint32_t)load(cpu, s, o, 4), bail)
#define LOAD64(t, s, o, bail) TRY_(t = load(cpu, s, o, 8), bail)
#define STORE8(s, o, v, bail) TRY_(store(cpu, s, o, v, 1), bail)
#define STORE16(s, o, v, bail) TRY_(store(cpu, s, o, v, 2), bail)
#define STORE32(s, o, v, bail) TRY_(store(cpu, s, o, v, 4), bail)
#define STORE64(s, o, v, bail) TRY_(store(cpu, s, o, v, 8), bail)
#define RMW8(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 1, false), bail)
#define RMW16(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 2, false), bail)
#define RMW32(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 4, false), bail)
#define RMW64(t, s, o, bail) TRY_(t = rmw(cpu, s, o, 8, false), bail)
#define RMW_END8(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_END16(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_END32(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_END64(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_LOCKED8(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 1, true), bail)
#define RMW_LOCKED16(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 2, true), bail)
#define RMW_LOCKED32(t, s, o, bail) TRY_(t = (uint32_t)rmw(cpu, s, o, 4, true), bail)
#define RMW_LOCKED64(t, s, o, bail) TRY_(t = rmw(cpu, s, o, 8, true), bail)
#define RMW_LOCKED_END8(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_LOCKED_END16(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_LOCKED_END32(v, bail) TRY_(rmw_end(cpu, v), bail)
#define RMW_LOCKED_END64(v, bail) TRY_(rmw_end(cpu, v), bail)
#define PROBE_WRITE(s, o, size, bail) TRY_(probe(cpu, s, o, size, true), bail)
#define PROBE_READ(s, o, size, bail) TRY_(probe(cpu, s, o, size, false), bail)
#define LOAD_SYSTEM8(t, l, bail) TRY_(t = (uint32_t)load_system(cpu, l, 1), bail)
#define LOAD_SYSTEM16(t, l, bail) TRY_(t = (uint32_t)load_system(cpu, l, 2), bail)
#define LOAD_SYSTEM32(t, l, bail) TRY_(t = (uint32_t)load_system(cpu, l, 4), bail)
#define LOAD_SYSTEM64(t, l, bail) TRY_(t = load_system(cpu, l, 8), bail)
#define STORE_SYSTEM8(l, v, bail) TRY_(store_system(cpu, l, v, 1), bail)
#define STORE_SYSTEM16(l, v, bail) TRY_(store_system(cpu, l, v, 2), bail)
#define STORE_SYSTEM32(l, v, bail) TRY_(store_system(cpu, l, v, 4), bail)
#define STORE_SYSTEM64(l, v, bail) TRY_(store_system(cpu, l, v, 8), bail)
#define OR_SYSTEM8(l, v, bail) TRY_(change_system8(cpu, l, 0xff, (uint8_t)(v)), bail)
#define AND_SYSTEM8(l, v, bail) TRY_(change_system8(cpu, l, (uint8_t)(v), 0), bail)
#define TRANSLATE(t, l, access, bail) TRY_(t = translate(cpu, l, access), bail)
#define LOAD_PHYSICAL32(t, p, bail) TRY_(t = (uint32_t)load_physical(cpu, p, 4), bail)
#define LOAD_PHYSICAL64(t, p, bail) TRY_(t = load_physical(cpu, p, 8), bail)
#define SWAP_PHYSICAL32(t, p, old, new, bail) TRY_(t = swap_physical(cpu, p, old, new, 4), bail)
#define SWAP_PHYSICAL64(t, p, old, new, bail) TRY_(t = swap_physical(cpu, p, old, new, 8), bail)
#define PORT_IN8(t, p, bail) TRY_(t = (uint32_t)port_in(cpu, p, 1), bail)
#define PORT_IN16(t, p, bail) TRY_(t = (uint32_t)port_in(cpu, p, 2), bail)
#define PORT_IN32(t, p, bail) TRY_(t = (uint32_t)port_in(cpu, p, 4), bail)
#define PORT_OUT8(p, v, bail) TRY_(port_out(cpu, p, v, 1), bail)
#define PORT_OUT16(p, v, bail) TRY_(port_out(cpu, p, v, 2), bail)
#define PORT_OUT32(p, v, bail) TRY_(port_out(cpu, p, v, 4), bail)
#define PORT_IN_BLOCK8(t, p, o, n, d, w, bail) TRY_(t = port_in_block(cpu, p, o, n, d, w, 1), bail)
#define PORT_IN_BLOCK16(t, p, o, n, d, w, bail) TRY_(t = port_in_block(cpu, p, o, n, d, w, 2), bail)
#define PORT_IN_BLOCK32(t, p, o, n, d, w, bail) TRY_(t = port_in_block(cpu, p, o, n, d, w, 4), bail)
#define PORT_OUT_BLOCK8(t, p, s, o, n, d, w, bail) TRY_(t = port_out_block(cpu, p, s, o, n, d, w, 1), bail)
#define PORT_OUT_BLOCK16(t, p, s, o, n, d, w, bail) TRY_(t = port_out_block(cpu, p, s, o, n, d, w, 2), bail)
#define PORT_OUT_BLOCK32(t, p, s, o, n, d, w, bail) TRY_(t = port_out_block(cpu, p, s, o, n, d, w, 4), bail)
#define MOVE_BLOCK8(t, d, o, s, p, n, f, w, bail) TRY_(t = move_block(cpu, d, o, s, p, n, f, w, 1), bail)
#define MOVE_BLOCK16(t, d, o, s, p, n, f, w, bail) TRY_(t = move_block(cpu, d, o, s, p, n, f, w, 2), bail)
#define MOVE_BLOCK32(t, d, o, s, p, n, f, w, bail) TRY_(t = move_block(cpu, d, o, s, p, n, f, w, 4), bail)
#define FILL_BLOCK8(t, s, o, v, n, f, w, bail) TRY_(t = fill_block(cpu, s, o, v, n, f, w, 1), bail)
#define FILL_BLOCK16(t, s, o, v, n, f, w, bail) TRY_(t = fill_block(cpu, s, o, v, n, f, w, 2), bail)
#define FILL_BLOCK32(t, s, o, v, n, f, w, bail) TRY_(t = fill_block(cpu, s, o, v, n, f, w, 4), bail)
#define READ_BLOCK8(t, s, o, n, f, w, bail) TRY_(t = read_block(cpu, s, o, n, f, w, 1), bail)
#define READ_BLOCK16(t, s, o, n, f, w, bail) TRY_(t = read_block(cpu, s, o, n, f, w, 2), bail)
#define READ_BLOCK32(t, s, o, n, f, w, bail) TRY_(t = read_block(cpu, s, o, n, f, w, 4), bail)
#define MSR_READ(t, n, bail) TRY_(t = msr_read(cpu, n), bail)
#define MSR_WRITE(n, v, bail) TRY_(msr_write(cpu, n, v), bail)
#define TSC_READ(t, bail) TRY_(t = tsc_read(cpu), bail)
#define TSC_WRITE(v, bail) tsc_write(cpu, v)
#define RANDOM(t, bail) TRY_(t = random64(cpu), bail)
#define COMMIT(bail) TRY_(commit(cpu), bail)
#define KEEP(bail) TRY_(keep(cpu), bail)
#define CPUID_ENTRY(t, leaf, subleaf, which, bail) (t = cpuid_entry(cpu, leaf, subleaf, which))
#define SEGMENT_CHANGED(s, bail) segment_changed(cpu, s)
#define TLB_FLUSH(bail) tlb_flush(cpu)
#define TLB_FLUSH_PAGE(linear, bail) tlb_flush_page(cpu, linear)
#define FENCE(bail) atomic_thread_fence(memory_order_seq_cst)

#define END_NEXT(bail) return END_OF_NEXT
#define END_NEXT_SEGMENT(bail) return END_OF_NEXT
#define END_JUMP(target, bail) \
    do { \
        cpu->a.eip = (target); \
        return END_OF_JUMP; \
    } while (0)
#define END_BRANCH(target, bail) END_JUMP(target, bail)
#define END_JUMP_INDIRECT(target, bail) END_JUMP(target, bail)
#define END_CHECKPOINT(bail) return END_OF_CHECKPOINT
#define END_TRANSFER(bail) return END_OF_TRANSFER
#define END_REPEAT(n, bail) \
    do { \
        cpu->repeat = (n); \
        return END_OF_REPEAT; \
    } while (0)
#define END_FAULT(label, vector, error, a, b, c, bail) \
    do { \
        raise_fault(cpu, label, vector, error, a, b, c); \
        bail; \
    } while (0)
#define END_HYPERVISOR(label, bail) \
    do { \
        leave_to_hypervisor(cpu, 0, label); \
        bail; \
    } while (0)
#define END_UNSUPPORTED(label, bail) \
    do { \
        give_up(cpu, label); \
        bail; \
    } while (0)

#endif
