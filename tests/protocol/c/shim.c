/* A shim in C against a daemon: `shim ENDPOINT SCENARIO`.  Exits with 0 when all is as it should be. */
#define X86_DM_IMPLEMENTATION
#include "x86_dm.h"

#include <sys/mman.h>

#define CHECK(what)                                                           \
    do {                                                                      \
        if (!(what)) {                                                        \
            fprintf(stderr, "line %d: not true: %s\n", __LINE__, #what);      \
            fprintf(stderr, "last failure: %s; %s\n", why.text, why.expected); \
            _exit(1);                                                         \
        }                                                                     \
    } while (0)
#define FINE(call) CHECK((call) == X86_DM_FINE)

enum { SIZE = 1 << 20, CODE = 0x1000, VIDEO = 0xa0000, MMIO = 0xc0000 };

static struct x86_dm_failure why;
static struct x86_dm *dm;
static struct x86_dm_vcpu *vcpu;
static uint8_t *ram;
static uint32_t block;
static struct x86_dm_region regions[3];
static struct x86_dm_message how;
static struct x86_dm_state state;
static const struct x86_dm_done *done;

/* What the devices have seen. */
static struct log {
    struct {
        enum x86_dm_io_kind kind;
        uint64_t address;
        uint32_t size, count, n_registers;
        uint8_t data[16];
    } io[8];
    unsigned ios;
    uint64_t posted[8], pages[8];
    uint8_t posted_data[8][8];
    unsigned n_posted, n_pages, wakes;
    void (*then)(struct x86_dm_answer *answer); /* in the middle of a question */
} seen;

static void on_io(void *opaque, const struct x86_dm_io *io, struct x86_dm_answer *answer)
{
    struct log *log = opaque;

    CHECK(log->ios < 8 && io->data.size <= 16);
    log->io[log->ios].kind = io->kind;
    log->io[log->ios].address = io->address;
    log->io[log->ios].size = io->size;
    log->io[log->ios].count = io->count;
    log->io[log->ios].n_registers = io->n_registers;
    memcpy(log->io[log->ios].data, io->data.size ? (const void *)io->data.data : "", io->data.size);
    log->ios++;
    if (io->kind == X86_DM_IO_KIND_INTERRUPT_ACK) {
        answer->data[0] = 0x21;
        answer->size = 1;
    } else if (io->address != 0x3f8) { /* there nobody answers */
        for (uint32_t i = 0; i < answer->size; i++) {
            answer->data[i] = (uint8_t)(0x55 + i);
        }
    }
    if (log->then) {
        log->then(answer);
    }
}

static void on_posted(void *opaque, uint64_t gpa, const uint8_t *data, uint32_t size)
{
    struct log *log = opaque;

    CHECK(log->n_posted < 8 && size <= 8);
    memcpy(log->posted_data[log->n_posted], data, size);
    log->posted[log->n_posted++] = gpa;
}

static void on_pages(void *opaque, const uint64_t *pages, uint32_t n)
{
    struct log *log = opaque;

    for (uint32_t i = 0; i < n && log->n_pages < 8; i++) {
        log->pages[log->n_pages++] = pages[i];
    }
}

static bool on_wake(void *opaque)
{
    struct log *log = opaque;

    log->wakes++;
    return false;
}

static const struct x86_dm_devices devices = {&seen, on_io, on_posted, on_pages, on_wake};

static void load(const char *code, size_t size)
{
    memset(&seen, 0, sizeof(seen));
    memcpy(ram + CODE, code, size);
    x86_dm_state_reset(&state);
    state.seg[X86_DM_SEG_CS].selector = CODE >> 4;
    state.seg[X86_DM_SEG_CS].base = CODE;
    state.rip = 0;
    state.gpr[4] = 0x800;
}

#define LOAD(code) load(code, sizeof(code) - 1)

static enum x86_dm_status run(void)
{
    return x86_dm_run(vcpu, &state, &how.emulate, &devices, &done, &why);
}

static void open_session(const char *endpoint)
{
    int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(ram != MAP_FAILED);
    dm = x86_dm_connect(endpoint, "c-shim", 20000, &why);
    CHECK(dm);
    FINE(x86_dm_add_ram(dm, fd, SIZE, &block, &why));
    close(fd); /* the library keeps its own */
    regions[0] = (struct x86_dm_region){.gpa = 0, .size = VIDEO, .kind = X86_DM_KIND_RAM, .ram = block};
    regions[1] = (struct x86_dm_region){.gpa = VIDEO, .size = 0x20000, .kind = X86_DM_KIND_COALESCED};
    regions[2] = (struct x86_dm_region){.gpa = MMIO, .size = 0x10000, .kind = X86_DM_KIND_MMIO};
    FINE(x86_dm_set_map(dm, regions, 3, true, &why));
    vcpu = x86_dm_create_vcpu(dm, 0, NULL, NULL, 0, &why);
    CHECK(vcpu);
    x86_dm_init(&how, X86_DM_EMULATE);
}

static void close_session(bool bye)
{
    x86_dm_close(dm, bye);
    munmap(ram, SIZE);
}

static void test_devices(void)
{
    struct x86_dm_stats stats;
    struct x86_dm_message counters;

    CHECK(x86_dm_daemon(dm)->version == X86_DM_VERSION && x86_dm_has_feature(dm, "ram-fd") && !x86_dm_has_feature(dm, "ram"));
    /* mov al, 41h; out 80h, al; in al, 60h; mov [7000h], al; mov dx, 3f8h; in ax, dx; hlt */
    LOAD("\xb0\x41\xe6\x80\xe4\x60\xa2\x00\x70\xba\xf8\x03\xed\xf4");
    state.gpr[6] = UINT64_C(0x1122334455667788); /* what 16-bit code does not see passes through */
    state.fxsave[511] = 0xa5;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && done->instructions == 7 && state.rip == 14);
    CHECK(seen.ios == 3 && seen.io[0].kind == X86_DM_IO_KIND_PORT_OUT && seen.io[0].address == 0x80);
    CHECK(seen.io[0].data[0] == 0x41 && seen.io[1].kind == X86_DM_IO_KIND_PORT_IN && seen.io[1].address == 0x60);
    CHECK(seen.io[2].size == 2 && (state.gpr[0] & 0xffff) == 0xffff && ram[0x7000] == 0x55);
    CHECK(seen.n_pages == 1 && seen.pages[0] == 7);
    CHECK(state.gpr[6] == UINT64_C(0x1122334455667788) && state.fxsave[511] == 0xa5);
    CHECK(state.activity == 1 && !(done->state.present & (X86_DM_GROUP_FPU | X86_DM_GROUP_TABLES)));

    /* the same state again for no steps, as a delta without groups: nothing changes */
    how.emulate.has_steps = true;
    how.emulate.steps = 0;
    struct x86_dm_state before = state;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_BUDGET && done->state.present == 0);
    CHECK(x86_dm_state_difference(&before, &state) == 0);
    how.emulate.has_steps = false;

    /* mov ax, c000h; mov ds, ax; add word [10h], 2; mov ax, a000h; mov ds, ax; mov word [0], 1234h; mov byte [2], 56h; hlt */
    LOAD("\xb8\x00\xc0\x8e\xd8\x83\x06\x10\x00\x02\xb8\x00\xa0\x8e\xd8\xc7\x06\x00\x00\x34\x12\xc6\x06\x02\x00\x56\xf4");
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && seen.ios == 2);
    CHECK(seen.io[0].kind == X86_DM_IO_KIND_MMIO_READ && seen.io[0].address == MMIO + 16 && seen.io[0].size == 2);
    CHECK(seen.io[1].kind == X86_DM_IO_KIND_MMIO_WRITE && seen.io[1].data[0] == 0x57 && seen.io[1].data[1] == 0x56);
    CHECK(seen.n_posted == 2 && seen.posted[0] == VIDEO && seen.posted[1] == VIDEO + 2);
    CHECK(memcmp(seen.posted_data[0], "\x34\x12", 2) == 0 && seen.posted_data[1][0] == 0x56);

    /* mov cx, 4; mov di, 6000h; mov dx, 1f0h; cld; rep insw; hlt: one exchange */
    LOAD("\xb9\x04\x00\xbf\x00\x60\xba\xf0\x01\xfc\xf3\x6d\xf4");
    FINE(run());
    CHECK(seen.ios == 1 && seen.io[0].size == 2 && seen.io[0].count == 4);
    CHECK(memcmp(ram + 0x6000, "\x55\x56\x57\x58\x59\x5a\x5b\x5c", 8) == 0);

    /* both sides have counted the same */
    x86_dm_get_stats(vcpu, &stats);
    FINE(x86_dm_query(dm, &counters, &why));
    CHECK(counters.counters.n_vcpus == 1 && counters.counters.vcpus[0].requests == 4 && stats.requests == 4);
    CHECK(counters.counters.vcpus[0].io == stats.io && stats.io == 6);
    CHECK(counters.counters.vcpus[0].instructions == stats.instructions && stats.instructions > 20);
    CHECK(counters.counters.vcpus[0].bytes_in == stats.bytes_sent);
    CHECK(counters.counters.vcpus[0].bytes_out == stats.bytes_received);
    x86_dm_message_free(&counters);
}

static struct x86_dm_map new_map;

static void change_map(struct x86_dm_answer *answer)
{
    FINE(x86_dm_next_map(dm, regions, 2, true, &new_map, &why)); /* the MMIO region turns into a hole */
    answer->map = &new_map;
    answer->window = 1;
    answer->stop = X86_DM_STOP_INIT;
}

static void change_registers(struct x86_dm_answer *answer)
{
    CHECK(answer->registers[0] == UINT64_C(0x99887766554433) && answer->registers[2] == 0x5658);
    answer->registers[0] = UINT64_C(0x1122334455667788);
    answer->registers[3] = 0x564d5868;
}

static void test_state_ports(void)
{
    const struct x86_dm_port_range ports[] = {{.first = 0x5658, .last = 0x5659}}, crossed[] = {{.first = 2, .last = 1}};

    FINE(x86_dm_set_state_ports(dm, ports, 1, &why));
    CHECK(x86_dm_set_state_ports(dm, crossed, 1, &why) == X86_DM_REFUSED && strcmp(why.field, "ports[0].last") == 0);
    LOAD("\xba\x58\x56\xed\xf4"); /* mov dx, 5658h; in ax, dx; hlt */
    state.gpr[0] = UINT64_C(0x99887766554433);
    seen.then = change_registers;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && seen.ios == 1 && seen.io[0].n_registers == 8);
    CHECK(state.gpr[0] == UINT64_C(0x1122334455665655)); /* what IN writes is the data's */
    CHECK(state.gpr[3] == 0x564d5868 && state.gpr[2] == 0x5658 && done->instructions == 3);
    LOAD("\xe4\x60\xf4"); /* in al, 60h: another port */
    FINE(run());
    CHECK(seen.ios == 1 && seen.io[0].n_registers == 0);
}

static void answer_native(struct x86_dm_answer *answer)
{
    answer->native = true;
}

static void test_native(void)
{
    LOAD("\x40\xe4\x7e\xf4"); /* inc ax; in al, 7eh; hlt */
    seen.then = answer_native;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HYPERVISOR && done->address == 0x7e && done->instructions == 1);
    CHECK(seen.ios == 1 && state.rip == 1);
    LOAD("\x66\xb9\x3b\x00\x00\x00\x0f\x30\xf4"); /* mov ecx, 3bh; wrmsr; hlt */
    seen.then = answer_native;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HYPERVISOR && done->address == 0x3b && state.rip == 6);
}

static void test_answers(void)
{
    LOAD("\xe6\x92\xeb\xfe"); /* out 92h, al; jmp $ */
    seen.then = change_map;
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_STOPPED && done->stop == X86_DM_STOP_INIT && state.rip == 2);
    CHECK(new_map.generation == 2);

    LOAD("\xb9\x78\x56\x00\x00\x0f\x32\xf4"); /* mov cx, 5678h ... */
    memcpy(ram + CODE, "\x66\xb9\x78\x56\x34\x12\x0f\x32\xf4", 9); /* mov ecx, 12345678h; rdmsr; hlt */
    how.emulate.has_steps = true;
    how.emulate.steps = 2;
    FINE(run()); /* the MSR does not exist: #GP through the empty IVT, which does not end */
    CHECK(seen.ios == 1 && seen.io[0].kind == X86_DM_IO_KIND_MSR_READ && seen.io[0].address == 0x12345678);
    how.emulate.has_steps = false;

    LOAD("\xfb\x90\xeb\xfe"); /* sti; nop; jmp $ */
    memcpy(ram + 0x21 * 4, "\x40\x00\x00\x01", 4); /* vector 21h: 0100:0040 */
    ram[CODE + 0x40] = 0xf4;
    how.emulate.window = how.emulate.acknowledge = true;
    FINE(run());
    CHECK(seen.ios == 1 && seen.io[0].kind == X86_DM_IO_KIND_INTERRUPT_ACK);
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && state.rip == 0x41);
    how.emulate.window = how.emulate.acknowledge = false;
}

/* Display memory with a latch: each read changes what later writes leave.  Every access is noted. */
static struct bus {
    uint8_t memory[0x20000], latch, waits_from, stop_from;
    uint64_t order[64]; /* address << 1 | whether it is a write */
    unsigned accesses, copies;
    bool whole;
} bus;

static uint8_t bus_read(uint64_t at)
{
    bus.order[bus.accesses++] = at << 1;
    return bus.latch = bus.memory[at - VIDEO];
}

static void bus_write(uint64_t at, uint8_t value)
{
    bus.order[bus.accesses++] = at << 1 | 1;
    bus.memory[at - VIDEO] = value ^ (bus.latch & 1);
}

static void bus_io(void *opaque, const struct x86_dm_io *io, struct x86_dm_answer *answer)
{
    CHECK(io->count == 1 && io->size == 1 && !io->down && bus.accesses < 62 && io->n_posted == 0 && opaque == &bus);
    if (io->kind == X86_DM_IO_KIND_MMIO_READ) {
        CHECK(answer->data[0] == 0xff && answer->size == 1 && io->data.size == 0);
        answer->data[0] = bus_read(io->address);
    } else {
        CHECK(io->kind == X86_DM_IO_KIND_MMIO_WRITE && io->data.size == 1);
        bus_write(io->address, io->data.data[0]);
    }
    answer->window = bus.waits_from && bus.accesses >= bus.waits_from;
    if (bus.stop_from && bus.accesses == bus.stop_from) { /* the map of this answer is gone at the next */
        FINE(x86_dm_next_map(dm, regions, 2, true, &new_map, &why));
        answer->map = &new_map;
        answer->stop = X86_DM_STOP_NMI;
    } else {
        memset(&new_map, 0xff, sizeof(new_map));
    }
}

static void bus_copy(void *opaque, const struct x86_dm_io *io, struct x86_dm_answer *answer)
{
    CHECK(io->kind == X86_DM_IO_KIND_MEMORY_COPY && io->size == 1 && answer->copied == io->count && answer->size == 0);
    CHECK(opaque == &bus);
    for (uint32_t i = 0; i < io->count && i < 9; i++, answer->copied = i) {
        bus_write(io->down ? io->target - i : io->target + i, bus_read(io->down ? io->address - i : io->address + i));
    }
    bus.copies++;
}

/* Copy 20 bytes within display memory; returns how many questions that took. */
static uint64_t run_copy(const char *code, uint64_t from, uint64_t to)
{
    const struct x86_dm_devices devices_of_bus = {
        .opaque = &bus, .on_io = bus_io, .on_copy = bus.whole ? bus_copy : NULL
    };
    struct x86_dm_stats before, after;

    load(code, 3);
    memset(&bus.order, 0, sizeof(bus.order));
    bus.accesses = bus.latch = 0;
    for (unsigned i = 0; i < 64; i++) {
        bus.memory[i] = (uint8_t)(i * 3);
    }
    state.gpr[1] = 20;
    state.gpr[6] = from;
    state.gpr[7] = to;
    state.seg[X86_DM_SEG_DS].base = state.seg[X86_DM_SEG_ES].base = VIDEO;
    x86_dm_get_stats(vcpu, &before);
    FINE(x86_dm_run(vcpu, &state, &how.emulate, &devices_of_bus, &done, &why));
    x86_dm_get_stats(vcpu, &after);
    return after.io - before.io;
}

static void test_copies(void)
{
    static const char up[] = "\xf3\xa4\xf4"; /* rep movsb; hlt */
    uint8_t single[64];

    CHECK(x86_dm_has_feature(dm, "memory-copy"));
    CHECK(run_copy(up, 4, 0) == 1 && done->reason == X86_DM_DONE_REASON_HALT && bus.accesses == 40);
    for (unsigned i = 0; i < 20; i++) { /* one after the other, whatever overlaps */
        CHECK(bus.order[2 * i] == (VIDEO + 4 + i) << 1 && bus.order[2 * i + 1] == ((VIDEO + i) << 1 | 1));
    }
    CHECK(done->steps == 21 && state.gpr[6] == 24 && state.gpr[7] == 20 && (state.gpr[1] & 0xffff) == 0);
    memcpy(single, bus.memory, sizeof(single));

    bus.whole = true; /* nine at a time: the rest is asked again, in one piece or where a slice ends in two */
    CHECK(run_copy(up, 4, 0) < 9 && bus.copies >= 2 && bus.accesses == 40);
    CHECK(memcmp(single, bus.memory, sizeof(single)) == 0 && done->steps == 21);
    bus.whole = false;

    bus.waits_from = 11; /* an interrupt waits from the sixth element on: the daemon hears of it there */
    uint64_t questions = run_copy(up, 4, 0);
    CHECK(questions >= 2 && questions < 9 && bus.accesses == 40 && memcmp(single, bus.memory, sizeof(single)) == 0);
    how.emulate.window = true; /* it knows: nothing new */
    CHECK(run_copy(up, 4, 0) == 1 && bus.accesses == 40);
    how.emulate.window = false;
    bus.waits_from = 0;

    bus.stop_from = 7; /* the read of the fourth element stops the run and changes the map */
    CHECK(run_copy(up, 4, 0) == 1 && done->reason == X86_DM_DONE_REASON_STOPPED && done->stop == X86_DM_STOP_NMI);
    CHECK(bus.accesses == 8 && done->steps == 4 && state.gpr[7] == 4 && (state.gpr[1] & 0xffff) == 16);
    bus.stop_from = 0;

    load(up, 3); /* nobody there: all ones, nothing happens */
    state.gpr[1] = 20;
    state.seg[X86_DM_SEG_DS].base = state.seg[X86_DM_SEG_ES].base = VIDEO;
    FINE(x86_dm_run(vcpu, &state, &how.emulate, NULL, &done, &why));
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && state.gpr[7] == 20);
}

static void test_refusals(void)
{
    struct x86_dm_region crossed[] = {regions[1], regions[0]};
    uint32_t number = 0;
    bool same;

    LOAD("\xf4");
    FINE(run());
    CHECK(x86_dm_set_map(dm, crossed, 2, true, &why) == X86_DM_REFUSED);
    CHECK(why.error == X86_DM_ERROR_CLASS_BAD_MEMORY && why.field[0]);
    CHECK(x86_dm_add_ram(dm, 0, SIZE, &number, &why) == X86_DM_REFUSED && number == 0); /* stdin is no memfd */
    CHECK(x86_dm_add_ram(dm, -1, SIZE, &number, &why) == X86_DM_NO_RESOURCES);
    CHECK(x86_dm_add_ram_file(dm, "/etc/passwd", SIZE, &number, &why) == X86_DM_REFUSED);
    CHECK(x86_dm_remove_ram(dm, block, &why) == X86_DM_REFUSED); /* the map uses it */
    CHECK(!x86_dm_create_vcpu(dm, 0, NULL, NULL, 0, &why) && why.status == X86_DM_REFUSED);
    CHECK(!x86_dm_create_vcpu(dm, 1, "8086", NULL, 0, &why) && why.status == X86_DM_REFUSED);
    CHECK(!x86_dm_create_vcpu(dm, 1, "a model with a long name", NULL, 0, &why) && why.status == X86_DM_UNUSABLE);
    CHECK(strcmp(why.field, "model") == 0);
    LOAD("\xf4");
    how.emulate.has_inject = true;
    how.emulate.inject = (struct x86_dm_event){.type = 1}; /* there is no such type */
    CHECK(run() == X86_DM_REFUSED && why.error == X86_DM_ERROR_CLASS_BAD_STATE);
    how.emulate.has_inject = false;
    state.smm = 2;
    CHECK(run() == X86_DM_UNUSABLE && strcmp(why.field, "state.events.smm") == 0);
    LOAD("\xf4");
    FINE(run()); /* after all that */
    CHECK(done->reason == X86_DM_DONE_REASON_HALT);

    struct x86_dm_vcpu *other = x86_dm_create_vcpu(dm, 1, "80386", NULL, 0, &why);
    CHECK(other);
    FINE(x86_dm_destroy_vcpu(other, &why));
    FINE(x86_dm_set_map(dm, NULL, 0, false, &why));
    FINE(x86_dm_remove_ram(dm, block, &why));
    FINE(x86_dm_reconnect(dm, &same, &why));
    CHECK(same);
}

static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static void *kick_later(void *opaque)
{
    (void)opaque;
    pause_ms(50);
    x86_dm_wake(vcpu);
    pause_ms(50);
    x86_dm_kick(vcpu, X86_DM_STOP_NONE, 1); /* only a word: the run goes on */
    pause_ms(50);
    x86_dm_kick(vcpu, X86_DM_STOP_RESET, -1);
    return NULL;
}

static void kick_from_handler(int number)
{
    (void)number;
    x86_dm_kick(vcpu, X86_DM_STOP_KICK, -1);
}

static void *signal_later(void *opaque)
{
    pause_ms(50);
    pthread_kill(*(pthread_t *)opaque, SIGUSR1);
    return NULL;
}

static void test_kicks(void)
{
    struct sigaction action = {.sa_handler = kick_from_handler};
    pthread_t self = pthread_self(), thread;
    struct x86_dm_stats stats;

    LOAD("\xf4"); /* hlt: the Python engine compiles at its first run */
    FINE(run());
    LOAD("\xeb\xfe"); /* jmp $ */
    CHECK(pthread_create(&thread, NULL, kick_later, NULL) == 0);
    FINE(run());
    pthread_join(thread, NULL);
    CHECK(done->reason == X86_DM_DONE_REASON_STOPPED && done->stop == X86_DM_STOP_RESET && done->steps > 1000);
    CHECK(seen.wakes >= 3);
    x86_dm_get_stats(vcpu, &stats);
    CHECK(stats.kicks == 2);

    x86_dm_kick(vcpu, X86_DM_STOP_KICK, -1); /* none is under way: the next one */
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_KICKED && done->stop == X86_DM_STOP_KICK);

    sigaction(SIGUSR1, &action, NULL);
    CHECK(pthread_create(&thread, NULL, signal_later, &self) == 0);
    FINE(run());
    pthread_join(thread, NULL);
    CHECK(done->reason == X86_DM_DONE_REASON_KICKED && state.rip == 0);
}

static bool kick_on_wake(void *opaque)
{
    struct log *log = opaque;

    log->wakes++;
    return true;
}

static void *wake_later(void *opaque)
{
    (void)opaque;
    pause_ms(50);
    x86_dm_wake(vcpu);
    return NULL;
}

/* on_wake that says true kicks once: it is not what wakes the run again. */
static void test_on_wake(void)
{
    struct x86_dm_devices kicking = devices;
    struct x86_dm_stats stats;
    pthread_t thread;

    kicking.on_wake = kick_on_wake;
    LOAD("\xeb\xfe"); /* jmp $ */
    for (unsigned turn = 1; turn <= 5; turn++) {
        CHECK(pthread_create(&thread, NULL, wake_later, NULL) == 0);
        FINE(x86_dm_run(vcpu, &state, &how.emulate, &kicking, &done, &why));
        pthread_join(thread, NULL);
        CHECK(done->reason == X86_DM_DONE_REASON_KICKED);
        x86_dm_get_stats(vcpu, &stats);
        CHECK(seen.wakes == turn && stats.kicks == turn);
    }
}

static void reconnect_now(struct x86_dm_answer *answer)
{
    bool same = false;

    (void)answer;
    FINE(x86_dm_reconnect(dm, &same, &why));
    CHECK(same);
}

static void *reconnect_later(void *opaque)
{
    (void)opaque;
    pause_ms(50);
    reconnect_now(NULL);
    pause_ms(50);
    x86_dm_kick(vcpu, X86_DM_STOP_KICK, -1);
    return NULL;
}

static void test_reconnect(void)
{
    struct x86_dm_stats stats;
    pthread_t thread;

    LOAD("\xe4\x60\xe6\x80\xf4"); /* in al, 60h; out 80h, al; hlt */
    seen.then = reconnect_now; /* in each question: its answer goes to the old socket, the request comes again */
    FINE(run());
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && done->instructions == 3);
    CHECK(seen.ios == 2 && seen.io[1].data[0] == 0x55); /* no device was touched twice */
    x86_dm_get_stats(vcpu, &stats);
    CHECK(stats.resent >= 1 && stats.requests == 1 && vcpu->epoch >= 2);

    LOAD("\xeb\xfe");
    CHECK(pthread_create(&thread, NULL, reconnect_later, NULL) == 0);
    FINE(run());
    pthread_join(thread, NULL);
    CHECK(done->reason == X86_DM_DONE_REASON_KICKED && done->epoch == vcpu->epoch);
}

static void raw_send(void *peer, const struct x86_dm_message *message)
{
    struct x86_dm_buffer bytes = {0};

    FINE(x86_dm_pack(&bytes, message, &why));
    CHECK(zmq_send(peer, bytes.data, bytes.size, 0) >= 0);
    x86_dm_buffer_free(&bytes);
}

static size_t raw_receive(void *peer, uint8_t *bytes, struct x86_dm_message *message)
{
    int size = zmq_recv(peer, bytes, 65536, 0);

    CHECK(size > 0 && size < 65536);
    FINE(x86_dm_unpack(message, bytes, (size_t)size, X86_DM_MAX_MESSAGE, &why));
    return (size_t)size;
}

/* Everything is said twice: questions come again, the answer comes again, nothing runs twice. */
static void test_duplicates(void)
{
    static uint8_t one[65536], two[65536];
    struct x86_dm_message message, request = {0}, answer;
    void *peer = x86_dm__open(dm, vcpu->endpoint, false);
    size_t size;
    int wait = 10000;

    CHECK(peer && zmq_setsockopt(peer, ZMQ_RCVTIMEO, &wait, sizeof(wait)) == 0);
    LOAD("\xfe\x06\x00\x70\xe4\x60\xf4"); /* inc byte [7000h]; in al, 60h; hlt */
    x86_dm_init(&request, X86_DM_EMULATE);
    request.emulate.session = dm->session;
    request.emulate.epoch = 1;
    request.emulate.seq = 1;
    request.emulate.generation = 1;
    request.emulate.state.present = X86_DM_ALL_GROUPS;
    request.emulate.state.state = state;
    raw_send(peer, &request);
    raw_receive(peer, one, &message);
    CHECK(message.type == X86_DM_ERROR && message.error.error == X86_DM_ERROR_CLASS_STALE_EPOCH);
    x86_dm_message_free(&message);
    request.emulate.secret = dm->welcome.welcome.secret; /* a new socket's has to show it */
    raw_send(peer, &request);
    raw_receive(peer, one, &message);
    CHECK(message.type == X86_DM_IO && message.io.io == 1);
    x86_dm_message_free(&message);
    raw_send(peer, &request);
    raw_receive(peer, two, &message);
    CHECK(message.type == X86_DM_IO && message.io.io == 1 && message.io.address == 0x60);
    x86_dm_message_free(&message);
    x86_dm_init(&answer, X86_DM_IO_ANSWER);
    answer.io_answer.session = dm->session;
    answer.io_answer.epoch = 1;
    answer.io_answer.seq = 1;
    answer.io_answer.io = 1;
    answer.io_answer.data = (struct x86_dm_blob){(const uint8_t *)"\x42", 1};
    raw_send(peer, &answer);
    raw_send(peer, &answer); /* not open any more: ignored */
    size = raw_receive(peer, one, &message);
    CHECK(message.type == X86_DM_DONE && message.done.reason == X86_DM_DONE_REASON_HALT);
    CHECK((message.done.state.state.gpr[0] & 0xff) == 0x42);
    x86_dm_message_free(&message);
    raw_send(peer, &request);
    CHECK(raw_receive(peer, two, &message) == size && memcmp(one, two, size) == 0);
    x86_dm_message_free(&message);
    CHECK(ram[0x7000] == 1);
    FINE(x86_dm_query(dm, &message, &why));
    CHECK(message.counters.vcpus[0].requests == 1 && message.counters.vcpus[0].io == 1);
    x86_dm_message_free(&message);
    zmq_close(peer);
}

/* Waits for the test to have done its part: it ends and starts the daemon meanwhile. */
static void tell(const char *what)
{
    puts(what);
    fflush(stdout);
}

static void *tell_later(void *opaque)
{
    pause_ms(100);
    tell(opaque);
    return NULL;
}

static bool say_that_it_takes_long(void *opaque)
{
    struct log *log = opaque;

    if (++log->wakes == 2) {
        tell("impatient");
    }
    return false;
}

static void *kick_when_told(void *opaque)
{
    tell_later("spinning");
    CHECK(getchar() == 'g');
    x86_dm_kick(vcpu, X86_DM_STOP_KICK, -1);
    return opaque;
}

/* A daemon that is late is no reason to wait in vain, nor to give the run up. */
static void test_patience(void)
{
    struct x86_dm_devices impatient = devices;
    pthread_t thread;

    impatient.on_wake = say_that_it_takes_long;
    impatient.patience_ms = 20;
    LOAD("\xeb\xfe"); /* jmp $ */
    CHECK(pthread_create(&thread, NULL, kick_when_told, NULL) == 0);
    FINE(x86_dm_run(vcpu, &state, &how.emulate, &impatient, &done, &why));
    pthread_join(thread, NULL);
    CHECK(done->reason == X86_DM_DONE_REASON_KICKED && seen.wakes == 2);
    LOAD("\xf4"); /* hlt */
    FINE(x86_dm_run(vcpu, &state, &how.emulate, &impatient, &done, &why));
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && seen.wakes == 0);
}

static void run_with_all_of_before(void)
{
    bool same = true;

    FINE(x86_dm_reconnect(dm, &same, &why));
    CHECK(!same && !x86_dm_is_lost(dm, NULL));
    LOAD("\xe4\x60\xf4");
    FINE(run()); /* with the RAM, the map and the vCPU of before */
    CHECK(done->reason == X86_DM_DONE_REASON_HALT && (state.gpr[0] & 0xff) == 0x55);
}

static void test_loss(void)
{
    char spinning[] = "spinning";
    pthread_t thread;

    LOAD("\xeb\xfe");
    CHECK(pthread_create(&thread, NULL, tell_later, spinning) == 0);
    CHECK(run() == X86_DM_RUN_LOST); /* the worker is killed */
    pthread_join(thread, NULL);
    CHECK(x86_dm_is_lost(dm, &why) && why.status == X86_DM_SESSION_LOST);
    CHECK(run() == X86_DM_SESSION_LOST);
    CHECK(x86_dm_set_map(dm, regions, 3, true, &why) == X86_DM_SESSION_LOST);
    tell("lost");
    run_with_all_of_before(); /* a new session of the same daemon */

    LOAD("\xeb\xfe");
    CHECK(pthread_create(&thread, NULL, tell_later, spinning) == 0);
    FINE(run()); /* the daemon is asked to end */
    pthread_join(thread, NULL);
    CHECK(done->reason == X86_DM_DONE_REASON_KICKED && done->closing && done->steps > 0 && state.rip == 0);
    CHECK(run() == X86_DM_SESSION_LOST || why.error == X86_DM_ERROR_CLASS_SHUTTING_DOWN);
    tell("closed");
    CHECK(getchar() == 'g');
    run_with_all_of_before(); /* of another daemon */
}

/* A heartbeat keeps an idle session; the test has made its time-out short. */
static void test_idle(void)
{
    pause_ms(10000);
    LOAD("\xf4");
    FINE(run());
    CHECK(!x86_dm_is_lost(dm, NULL));
}

static const struct {
    const char *name;
    void (*test)(void);
} scenarios[] = {
    {"devices", test_devices}, {"answers", test_answers},       {"refusals", test_refusals}, {"kicks", test_kicks},
    {"state-ports", test_state_ports}, {"native", test_native}, {"on-wake", test_on_wake}, {"copies", test_copies},
    {"reconnect", test_reconnect}, {"duplicates", test_duplicates}, {"loss", test_loss},         {"idle", test_idle},
    {"patience", test_patience},
};

/* A daemon on tcp, with the right keys, with wrong ones and without; RAM is the file at `path`. */
static void test_curve(const char *endpoint, const char *server, const char *public_key, const char *secret_key,
                       const char *path)
{
    struct x86_dm_curve curve = {server, public_key, secret_key};
    struct x86_dm_devices all = devices;
    bool same = false;

    CHECK(!x86_dm_connect(endpoint, "c-shim", 1000, &why) && why.status == X86_DM_UNUSABLE);
    CHECK(strstr(why.text, "tcp needs CURVE keys"));
    curve.server = "too short";
    CHECK(!x86_dm_connect_curve(endpoint, "c-shim", &curve, 1000, &why) && why.status == X86_DM_UNUSABLE);
    curve.server = public_key; /* a key, but not the daemon's */
    CHECK(!x86_dm_connect_curve(endpoint, "c-shim", &curve, 500, &why) && why.status == X86_DM_SESSION_LOST);
    curve.server = server;
    dm = x86_dm_connect_curve(endpoint, "c-shim", &curve, 20000, &why);
    CHECK(dm && !x86_dm_has_feature(dm, "ram-fd"));
    FINE(x86_dm_add_ram_file(dm, path, SIZE, &block, &why));
    regions[0] = (struct x86_dm_region){.gpa = 0, .size = SIZE, .kind = X86_DM_KIND_RAM, .ram = block};
    FINE(x86_dm_set_map(dm, regions, 1, true, &why));
    vcpu = x86_dm_create_vcpu(dm, 0, NULL, NULL, 0, &why);
    CHECK(vcpu && strncmp(vcpu->endpoint, "tcp://", 6) == 0);
    x86_dm_init(&how, X86_DM_EMULATE);
    x86_dm_state_reset(&state);
    state.seg[X86_DM_SEG_CS].selector = CODE >> 4;
    state.seg[X86_DM_SEG_CS].base = CODE;
    state.rip = 0;
    for (unsigned turn = 1; turn <= 2; turn++) { /* in al, 60h; hlt; the same again */
        state.activity = 0;
        FINE(x86_dm_run(vcpu, &state, &how.emulate, &all, &done, &why));
        CHECK(done->reason == X86_DM_DONE_REASON_HALT && seen.ios == turn && (state.gpr[0] & 0xff) == 0x55);
        FINE(x86_dm_reconnect(dm, &same, &why));
        CHECK(same);
    }
    x86_dm_close(dm, true);
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[2], "curve") == 0) {
        test_curve(argv[1], argv[3], argv[4], argv[5], argv[6]);
        return 0;
    }
    if (argc == 3 && strcmp(argv[2], "nobody") == 0) {
        CHECK(!x86_dm_connect(argv[1], "c-shim", 200, &why) && why.status == X86_DM_SESSION_LOST);
        CHECK(strstr(why.text, "is it running?"));
        CHECK(!x86_dm_connect("no endpoint", "c-shim", 200, &why) && why.status == X86_DM_SESSION_LOST);
        return 0;
    }
    for (size_t i = 0; argc == 3 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        if (strcmp(argv[2], scenarios[i].name) == 0) {
            open_session(argv[1]);
            scenarios[i].test();
            close_session(true);
            return 0;
        }
    }
    fprintf(stderr, "usage: shim ENDPOINT SCENARIO\n");
    return 2;
}
