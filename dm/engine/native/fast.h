/* Primitives and terminators of fast handlers.
 *
 * A fast handler is a leaf: it has no stack frame, and whatever it cannot do at once it leaves to another function by
 * a tail call.  All accesses that can fail come before the first change of state (dm.microcode.verify), so an
 * instruction can always be started over: after the TLB has been filled, or exactly, with a journal.
 */
#ifndef DM_FAST_H
#define DM_FAST_H

#include "cpu.h"
#include "procedures.h"

#define HANDLER(name) \
    unsigned name(struct cpu *cpu, const struct insn *i, uint32_t fr, uint32_t fc, int64_t budget, \
                  const struct tlb *tlb)
#define HANDLER_PROLOGUE uintptr_t rmw_host = 0; (void)rmw_host;
#define STATE cpu, i, fr, fc, budget, tlb

#if DM_THREADED
#define GO(next) return ((handler *)(next)->handler)(cpu, (next), fr, fc, budget, tlb)
#else
#define GO(next) \
    do { \
        cpu->at = (next); \
        cpu->a.fr = fr; \
        cpu->a.fc = fc; \
        cpu->budget = budget; \
        return GO_ON; \
    } while (0)
#endif

#define LEAVE(why) \
    do { \
        cpu->at = i; \
        cpu->a.fr = fr; \
        cpu->a.fc = fc; \
        cpu->budget = budget; \
        return (why); \
    } while (0)

#define SPILL() (cpu->a.fr = fr, cpu->a.fc = fc)
#define RELOAD() (fr = cpu->a.fr, fc = cpu->a.fc)
#define BAIL_HANDLER return leave_exact(STATE)

#define GPR8(byte) (*((any8 *)cpu->a.gpr + (byte)))
#define GPR16(n) (*(any16 *)&cpu->a.gpr[n])
#define GPR32(n) (*(any32 *)&cpu->a.gpr[n])
#define GPR64(n) (*(any64 *)&cpu->a.gpr[n])
#define FXSAVE16(at) (*(any16 *)(cpu->a.fxsave + (at)))
#define FXSAVE32(at) (*(any32 *)(cpu->a.fxsave + (at)))
#define FXSAVE64(at) (*(any64 *)(cpu->a.fxsave + (at)))

/* Builds without a check measure its cost (build.py --without); they are never used otherwise. */
#ifdef WITHOUT_LIMITS
#define BEYOND(rule, s, o, bytes) 0
#define BEYOND_CS(eip, block) 0
#else
#define BEYOND(rule, s, o, bytes) UNLIKELY(rule(cpu, s, o, bytes))
#define BEYOND_CS(eip, block) beyond_code(cpu, eip, (block)->length)
#endif
#ifdef WITHOUT_BUDGET
#define SPENT(block) 0
#define SPEND(block) ((void)0)
#define REFUND(steps) ((void)0)
#else
#define SPENT(block) (budget < (block)->count)
#define SPEND(block) (budget -= (block)->count)
#define REFUND(steps) (budget += (steps))
#endif
#ifdef WITHOUT_SMC
#define CODE_HIT(code, linear, bytes) 0
#else
#define CODE_HIT(code, linear, bytes) ((code) && code_hit(cpu, code, linear, bytes))
#endif
#ifdef WITHOUT_TLB /* linear addresses are offsets into the first region */
#define READ_MISSES(e, l, bytes) 0
#define WRITE_MISSES(e, l, bytes) 0
#define READ_HOST(e, l) (cpu->flat + (l))
#define WRITE_HOST(e, l) (cpu->flat + (l))
#define WRITE_CODE(e, l) (cpu->flat_pages[(l) / PAGE].code)
#else
#define READ_MISSES(e, l, bytes) UNLIKELY((e)->tag != (((l) + ((bytes) - 1)) & -PAGE))
#define WRITE_MISSES(e, l, bytes) READ_MISSES(e, l, bytes)
#define READ_HOST(e, l) ((e)->host + (l))
#define WRITE_HOST(e, l) ((e)->host + (l))
#define WRITE_CODE(e, l) (*(e)->code)
#endif

/* The TLB does not know `linear`: fill it and start over, or leave the instruction to the exact engine. */
#define MISS(linear, bytes, how) \
    do { \
        cpu->miss_linear = (linear); \
        cpu->miss_size = (bytes); \
        return how(STATE); \
    } while (0)

#define READ_(bits, t, s, o) \
    do { \
        const uint32_t s_ = (s), o_ = (o); \
        const uint32_t l_ = linear_address(cpu, s_, o_); \
        if (BEYOND(beyond_read, s_, o_, (bits) / 8)) \
            BAIL_HANDLER; \
        const struct read_entry *e_ = &tlb->read[l_ / PAGE % TLB_SIZE]; \
        if (READ_MISSES(e_, l_, (bits) / 8)) \
            MISS(l_, (bits) / 8, miss_read); \
        t = *(const volatile any##bits *)READ_HOST(e_, l_); \
    } while (0)

/* A store into a line that holds code has to be checked, unless this very store has been. */
static inline bool code_hit(const struct cpu *cpu, uint64_t code, uint32_t linear, uint32_t size)
{
    return ((code >> (linear / 64 % 64) & 1) || (code >> ((linear + size - 1) / 64 % 64) & 1)) &&
           !(cpu->store_linear == linear && cpu->store_size == size);
}

#define FIND_WRITE_(bytes, s, o, rule, result) \
    do { \
        const uint32_t s_ = (s), o_ = (o); \
        const uint32_t l_ = linear_address(cpu, s_, o_); \
        if (BEYOND(rule, s_, o_, bytes)) \
            BAIL_HANDLER; \
        const struct write_entry *e_ = &tlb->write[l_ / PAGE % TLB_SIZE]; \
        if (WRITE_MISSES(e_, l_, bytes) || UNLIKELY(CODE_HIT(WRITE_CODE(e_, l_), l_, bytes))) \
            MISS(l_, (bytes), miss_write); \
        result = WRITE_HOST(e_, l_); \
    } while (0)

#define WRITE_(bits, s, o, v) \
    do { \
        uintptr_t p_; \
        FIND_WRITE_((bits) / 8, s, o, beyond_write, p_); \
        *(volatile any##bits *)p_ = (v); \
    } while (0)

#define RMW_(bits, t, s, o) \
    do { \
        FIND_WRITE_((bits) / 8, s, o, beyond_change, rmw_host); \
        t = *(const volatile any##bits *)rmw_host; \
    } while (0)

/* Host atomics need natural alignment; anything else is for the exact engine. */
#define RMW_LOCKED_(bits, t, s, o) \
    do { \
        RMW_(bits, rmw_old, s, o); \
        if (UNLIKELY(rmw_host % ((bits) / 8))) \
            BAIL_HANDLER; \
        t = rmw_old; \
    } while (0)

#define RMW_LOCKED_END_(bits, v) \
    do { \
        if (UNLIKELY(!__sync_bool_compare_and_swap((volatile uint##bits##_t *)rmw_host, (uint##bits##_t)rmw_old, \
                                                   (uint##bits##_t)(v)))) \
            GO(i); \
    } while (0)

/* The fast paths of primitives (macros.py).  Blocks are those of devices, which are for the exact engine. */
#define FAST_LOAD(bits, result, seg, offset, bail) READ_(bits, result, seg, offset)
#define FAST_STORE(bits, seg, offset, value, bail) WRITE_(bits, seg, offset, value)
#define FAST_RMW(bits, result, seg, offset, bail) RMW_(bits, result, seg, offset)
#define FAST_RMW_END(bits, value, bail) (*(volatile any##bits *)rmw_host = (value))
#define FAST_RMW_LOCKED(bits, result, seg, offset, bail) \
    uint##bits##_t rmw_old; \
    RMW_LOCKED_(bits, result, seg, offset)
#define FAST_RMW_LOCKED_END(bits, value, bail) RMW_LOCKED_END_(bits, value)
#define FAST_MOVE_BLOCK(bits, result, to_seg, to, from_seg, offset, wanted, down, wide, bail) (result = 0)
#define FAST_FILL_BLOCK(bits, result, seg, offset, value, wanted, down, wide, bail) (result = 0)
#define FAST_READ_BLOCK(bits, result, seg, offset, wanted, down, wide, bail) (result = 0)

#include "fast_primitives.h"

#define END_NEXT(bail) GO(i + 1)

/* The instruction loaded a segment register: `until` may have to be tested. */
#define END_NEXT_SEGMENT(bail) \
    do { \
        if (UNLIKELY(cpu->watch_segments)) { \
            cpu->a.eip = cpu->block_eip + i->next; \
            LEAVE(LEAVE_CHECKPOINT); \
        } \
        GO(i + 1); \
    } while (0)

/* A jump that may not be made: what is behind it in the block is not charged. */
#define END_BRANCH(target, bail) \
    do { \
        REFUND(i->rest); \
        END_JUMP(target, bail); \
    } while (0)

#define END_JUMP(target, bail) \
    do { \
        const uint32_t to_ = (target); \
        struct block *b_ = i->chain; \
        if (LIKELY(b_->tag == cpu->generation + code_linear(cpu, to_) && !BEYOND_CS(to_, b_) && \
                   !SPENT(b_))) { \
            cpu->block = b_; \
            cpu->block_eip = to_; \
            SPEND(b_); \
            GO(b_->insn); \
        } \
        cpu->a.eip = to_; \
        return enter(STATE); \
    } while (0)

#define END_JUMP_INDIRECT(target, bail) \
    do { \
        cpu->a.eip = (target); \
        return enter_indirect(STATE); \
    } while (0)

#define END_CHECKPOINT(bail) LEAVE(LEAVE_CHECKPOINT)
#define END_TRANSFER(bail) LEAVE(LEAVE_CHECKPOINT)

#define END_REPEAT(n, bail) \
    do { \
        cpu->repeats += (n); \
        budget -= (n); \
        if (UNLIKELY(budget < 0)) \
            LEAVE(LEAVE_REPEAT); \
        GO(i); \
    } while (0)

#define END_FAULT(label, vector, error, a, b, c, bail) bail
#define END_HYPERVISOR(label, bail) bail
#define END_UNSUPPORTED(label, bail) bail

#endif
