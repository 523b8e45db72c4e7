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
#define FXSAVE16(at) (*(any16 *)(cpu->a.fxsave + (at)))
#define FXSAVE32(at) (*(any32 *)(cpu->a.fxsave + (at)))
#define FXSAVE64(at) (*(any64 *)(cpu->a.fxsave + (at)))

#define TRY_(call, otherwise) \
    do { \
        call; \
        if (UNLIKELY(cpu->bail)) \
            otherwise; \
    } while (0)

#include "exact_primitives.h"

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
