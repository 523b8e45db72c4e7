/* Runs single instructions natively in 16- and 32-bit segments of an LDT and records what the CPU does.
 *
 * stdin:  u32 number of LDTs, each: u32 number of entries, each 8 u32 (index, base, limit, big, contents,
 *         read_exec_only, pages, not_present); then u32 number of cases, each a struct request and its patches.
 * stdout: for each case a struct answer and its memory changes (u32 offset, u8 old value's replacement), and a line
 *         of CPUID registers before them all.
 *
 * A case is entered by rt_sigreturn, which alone can load CS, SS, EIP, ESP and flags together and keeps ESP[31:16] under a
 * 16-bit SS.  The trap flag, or the instruction's fault, brings control back to the signal handler, which stores the
 * result and puts the next case into its own frame.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARENA_BASE 0x10000000u
#define ARENA_SIZE 0x40000u
#define CODE 0x30000u
#define STEPS 4096u
#define CHANGES 256u

struct request {
    uint32_t gpr[8], eip, eflags;
    uint16_t seg[6]; /* ES CS SS DS FS GS */
    uint16_t ldt, patches;
    uint8_t code[16];
};
struct patch {
    uint32_t offset, length;
    uint8_t data[16];
};
struct answer {
    uint32_t gpr[8], eip, eflags;
    uint16_t seg[6];
    uint16_t vector, changes; /* vector FFFFh: none */
    uint32_t error, steps;
};
struct change {
    uint32_t offset, value;
};

static uint8_t *arena, *shadow;
static struct user_desc **ldts;
static uint32_t *ldt_sizes, ldt_count, cases, current, steps, loaded_ldt = UINT32_MAX, loaded_size;
static struct request *requests;
static struct patch **patches;
static struct answer *answers;
static struct change **changes;
static ucontext_t home;
static uint64_t home_fs;

/* Segment registers that sigreturn does not load; the restorer below takes them from here. */
__attribute__((used)) static uint16_t next_ds, next_es, next_fs, next_gs;
__attribute__((used)) static uint8_t load_segments;

__asm__(".text\n"
        "restorer:\n"
        "  cmpb $0, load_segments(%rip)\n"
        "  je 1f\n"
        "  movw next_ds(%rip), %ax\n  movw %ax, %ds\n"
        "  movw next_es(%rip), %ax\n  movw %ax, %es\n"
        "  movw next_gs(%rip), %ax\n  movw %ax, %gs\n"
        "  movw next_fs(%rip), %ax\n  movw %ax, %fs\n"
        "1: movl $15, %eax\n"
        "  syscall\n");
extern void restorer(void);

static long sys4(long n, long a, long b, long c, long d)
{
    long r;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}

static long sys3(long n, long a, long b, long c) { return sys4(n, a, b, c, 0); }

static uint8_t background(uint32_t a) { return (uint8_t)(a * 167 + (a >> 8) * 13 + (a >> 4) * 5 + 7); }

static void put(uint32_t offset, const uint8_t *data, uint32_t length)
{
    for (uint32_t n = 0; n < length && offset + n < ARENA_SIZE; n++)
        arena[offset + n] = shadow[offset + n] = data[n];
}

static void load_ldt(uint32_t which)
{
    if (which == loaded_ldt)
        return;
    struct user_desc none = {0};
    none.read_exec_only = 1;
    none.seg_not_present = 1;
    for (uint32_t n = 0; n < loaded_size; n++) {
        none.entry_number = n;
        sys3(SYS_modify_ldt, 0x11, (long)&none, sizeof none);
    }
    loaded_size = 0;
    for (uint32_t n = 0; n < ldt_sizes[which]; n++) {
        struct user_desc d = ldts[which][n];
        d.base_addr += ARENA_BASE;
        if ((int)sys3(SYS_modify_ldt, 0x11, (long)&d, sizeof d) != 0)
            sys3(SYS_exit_group, 3, 0, 0);
        if (d.entry_number >= loaded_size)
            loaded_size = d.entry_number + 1;
    }
    loaded_ldt = which;
}

static void start(ucontext_t *u)
{
    struct request *r = &requests[current];
    greg_t *g = u->uc_mcontext.gregs;
    load_ldt(r->ldt);
    put(CODE + r->eip, r->code, sizeof r->code);
    for (uint32_t n = 0; n < r->patches; n++)
        put(patches[current][n].offset, patches[current][n].data, patches[current][n].length);
    g[REG_RAX] = r->gpr[0], g[REG_RCX] = r->gpr[1], g[REG_RDX] = r->gpr[2], g[REG_RBX] = r->gpr[3];
    g[REG_RSP] = r->gpr[4], g[REG_RBP] = r->gpr[5], g[REG_RSI] = r->gpr[6], g[REG_RDI] = r->gpr[7];
    g[REG_RIP] = r->eip;
    g[REG_EFL] = (r->eflags & 0x244cd5) | 0x302; /* IF, TF */
    g[REG_CSGSFS] = (greg_t)r->seg[1] | (greg_t)r->seg[2] << 48;
    next_es = r->seg[0], next_ds = r->seg[3], next_fs = r->seg[4], next_gs = r->seg[5];
    load_segments = 1;
    steps = 0;
}

static void finish(ucontext_t *u, int signal_number, const uint16_t data_segments[4])
{
    struct request *r = &requests[current];
    struct answer *a = &answers[current];
    const greg_t *g = u->uc_mcontext.gregs;
    a->gpr[0] = g[REG_RAX], a->gpr[1] = g[REG_RCX], a->gpr[2] = g[REG_RDX], a->gpr[3] = g[REG_RBX];
    a->gpr[4] = g[REG_RSP], a->gpr[5] = g[REG_RBP], a->gpr[6] = g[REG_RSI], a->gpr[7] = g[REG_RDI];
    a->eip = g[REG_RIP], a->eflags = g[REG_EFL];
    a->seg[0] = data_segments[0], a->seg[3] = data_segments[1];
    a->seg[4] = data_segments[2], a->seg[5] = data_segments[3];
    a->seg[1] = (uint16_t)g[REG_CSGSFS], a->seg[2] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    a->vector = signal_number == SIGTRAP && g[REG_TRAPNO] == 1 ? 0xffff : (uint16_t)g[REG_TRAPNO];
    a->error = g[REG_ERR];
    a->steps = steps;
    a->changes = 0;
    for (uint32_t o = 0; o < ARENA_SIZE; o += 8) {
        if (*(uint64_t *)(arena + o) == *(uint64_t *)(shadow + o))
            continue;
        for (uint32_t n = o; n < o + 8; n++)
            if (arena[n] != shadow[n]) {
                if (a->changes < CHANGES) {
                    changes[current][a->changes].offset = n;
                    changes[current][a->changes].value = arena[n];
                    a->changes++;
                }
                arena[n] = shadow[n] = background(n);
            }
    }
    for (uint32_t n = CODE + r->eip; n < CODE + r->eip + sizeof r->code && n < ARENA_SIZE; n++)
        arena[n] = shadow[n] = background(n);
    for (uint32_t p = 0; p < r->patches; p++)
        for (uint32_t n = 0; n < patches[current][p].length; n++) {
            uint32_t o = patches[current][p].offset + n;
            if (o < ARENA_SIZE)
                arena[o] = shadow[o] = background(o);
        }
}

static void handler(int signal_number, siginfo_t *info, void *context)
{
    uint16_t data_segments[4];
    __asm__ volatile("movw %%es, %0\n movw %%ds, %1\n movw %%fs, %2\n movw %%gs, %3"
                     : "=m"(data_segments[0]), "=m"(data_segments[1]), "=m"(data_segments[2]), "=m"(data_segments[3]));
    /* AC, NT and ID survive into the handler. */
    __asm__ volatile("pushq $2\n popfq" ::: "cc", "memory");
    ucontext_t *u = context;
    greg_t *g = u->uc_mcontext.gregs;
    (void)info;
    if (signal_number == SIGUSR1) {
        home = *u;
        start(u);
        return;
    }
    if (signal_number == SIGTRAP && g[REG_TRAPNO] == 1 && (uint32_t)g[REG_RIP] == requests[current].eip
        && ++steps < STEPS) {
        /* A REP iteration (or a jump to itself, which the step limit ends). */
        g[REG_EFL] |= 0x100;
        next_es = data_segments[0], next_ds = data_segments[1], next_fs = data_segments[2], next_gs = data_segments[3];
        load_segments = 1;
        return;
    }
    finish(u, signal_number, data_segments);
    if (++current < cases) {
        start(u);
        return;
    }
    __asm__ volatile("movw %w0, %%ds\n movw %w0, %%es\n movw %w0, %%gs\n movw %w0, %%fs" ::"r"(0));
    sys3(SYS_arch_prctl, ARCH_SET_FS, (long)home_fs, 0);
    load_segments = 0;
    memcpy(u->uc_mcontext.gregs, home.uc_mcontext.gregs, sizeof home.uc_mcontext.gregs);
}

static void take(void *to, size_t size)
{
    if (fread(to, 1, size, stdin) != size) {
        fprintf(stderr, "host: input ends early\n");
        exit(2);
    }
}

struct kernel_sigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

int main(void)
{
    arena = mmap((void *)(uintptr_t)ARENA_BASE, ARENA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    shadow = malloc(ARENA_SIZE);
    if (arena != (void *)(uintptr_t)ARENA_BASE || !shadow) {
        perror("host: arena");
        return 2;
    }
    for (uint32_t n = 0; n < ARENA_SIZE; n++)
        arena[n] = shadow[n] = background(n);

    take(&ldt_count, 4);
    ldts = calloc(ldt_count, sizeof *ldts);
    ldt_sizes = calloc(ldt_count, 4);
    for (uint32_t n = 0; n < ldt_count; n++) {
        take(&ldt_sizes[n], 4);
        ldts[n] = calloc(ldt_sizes[n], sizeof **ldts);
        for (uint32_t e = 0; e < ldt_sizes[n]; e++) {
            uint32_t w[8];
            take(w, sizeof w);
            struct user_desc d = {.entry_number = w[0], .base_addr = w[1], .limit = w[2], .seg_32bit = w[3],
                                  .contents = w[4], .read_exec_only = w[5], .limit_in_pages = w[6],
                                  .seg_not_present = w[7], .useable = 1};
            ldts[n][e] = d;
        }
    }
    take(&cases, 4);
    requests = calloc(cases + 1, sizeof *requests);
    answers = calloc(cases + 1, sizeof *answers);
    patches = calloc(cases + 1, sizeof *patches);
    changes = calloc(cases + 1, sizeof *changes);
    for (uint32_t n = 0; n < cases; n++) {
        take(&requests[n], sizeof *requests);
        patches[n] = calloc(requests[n].patches + 1u, sizeof **patches);
        take(patches[n], requests[n].patches * sizeof **patches);
        changes[n] = calloc(CHANGES, sizeof **changes);
    }

    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    if (sigaltstack(&stack, NULL) || (uintptr_t)stack.ss_sp >> 32 == 0) {
        fprintf(stderr, "host: no signal stack above 4 GiB\n");
        return 2;
    }
    static const int signals[] = {SIGUSR1, SIGFPE, SIGTRAP, SIGILL, SIGBUS, SIGSEGV};
    for (size_t n = 0; n < sizeof signals / sizeof *signals; n++) {
        struct kernel_sigaction action = {handler, SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */, restorer,
                                          UINT64_MAX};
        if (sys4(SYS_rt_sigaction, signals[n], (long)&action, 0, sizeof action.mask)) {
            fprintf(stderr, "host: rt_sigaction failed\n");
            return 2;
        }
    }
    sys3(SYS_arch_prctl, ARCH_GET_FS, (long)&home_fs, 0);
    if (cases)
        sys3(SYS_tgkill, sys3(SYS_getpid, 0, 0, 0), sys3(SYS_gettid, 0, 0, 0), SIGUSR1);

    uint32_t leaves[4][6] = {{0, 0}, {1, 0}, {7, 0}, {0x80000001, 0}};
    for (int n = 0; n < 4; n++)
        __cpuid_count(leaves[n][0], leaves[n][1], leaves[n][2], leaves[n][3], leaves[n][4], leaves[n][5]);
    fwrite(leaves, sizeof leaves, 1, stdout);
    for (uint32_t n = 0; n < cases; n++) {
        fwrite(&answers[n], sizeof *answers, 1, stdout);
        fwrite(changes[n], sizeof **changes, answers[n].changes, stdout);
    }
    return 0;
}
