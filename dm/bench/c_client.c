/*
 * Round trips of the C client beside an echo in C: `c_client ENDPOINT DIRECTORY TURN TURNS RUNS`.
 *
 * Prints one line for each run: microseconds of a request of one instruction, of a bare echo of the same bytes, of an
 * I/O exit, and of its echo.  They take turns every TURN calls.
 */
#define X86_DM_IMPLEMENTATION
#include "x86_dm.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { RAM_SIZE = 1 << 20, REQUESTS_AT = 0x1000, EXITS_AT = 0x2000, MOST = 4096 };

/* inc cx; jmp back.  in al, dx; jmp back. */
static const uint8_t requests_code[] = {0x41, 0xeb, 0xfd}, exits_code[] = {0xec, 0xeb, 0xfd};

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* Answer each message with as many bytes as its first four say; an empty one is the last. */
static void serve_echo(const char *endpoint)
{
    static uint8_t answer[MOST];
    void *router = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);

    if (zmq_bind(router, endpoint) < 0) {
        fail(endpoint, zmq_strerror(errno));
    }
    for (;;) {
        uint8_t peer[256], message[MOST];
        uint32_t wanted;
        int peer_size = zmq_recv(router, peer, sizeof(peer), 0), size = zmq_recv(router, message, sizeof(message), 0);

        if (peer_size < 0 || size < (int)sizeof(wanted)) {
            _exit(0);
        }
        memcpy(&wanted, message, sizeof(wanted));
        zmq_send(router, peer, (size_t)peer_size, ZMQ_SNDMORE);
        zmq_send(router, answer, wanted < MOST ? wanted : MOST, 0);
    }
}

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* One vCPU, what it does in a call, and how many bytes that takes. */
struct machine {
    struct x86_dm_vcpu *vcpu;
    struct x86_dm_state state;
    bool exits;
    uint32_t sent, answered;
};

static void calls(struct machine *machine, unsigned n)
{
    struct x86_dm_message how;
    const struct x86_dm_done *done;
    struct x86_dm_failure why;
    unsigned runs = machine->exits ? 1 : n;

    x86_dm_init(&how, X86_DM_EMULATE);
    how.emulate.has_steps = true;
    how.emulate.steps = machine->exits ? 2 * n : 1;
    while (runs--) {
        if (x86_dm_run(machine->vcpu, &machine->state, &how.emulate, NULL, &done, &why) != X86_DM_FINE) {
            fail("run", why.text);
        }
    }
}

static void echoes(void *dealer, const struct machine *machine, unsigned n)
{
    static uint8_t message[MOST], answer[MOST];

    memcpy(message, &machine->answered, sizeof(machine->answered));
    while (n--) {
        if (zmq_send(dealer, message, machine->sent, 0) < 0 ||
            zmq_recv(dealer, answer, sizeof(answer), 0) != (int)machine->answered) {
            fail("echo", zmq_strerror(errno));
        }
    }
}

static void start(struct machine *machine, struct x86_dm *dm, uint16_t number, uint16_t at, unsigned turn)
{
    struct x86_dm_failure why;
    struct x86_dm_stats before, after;

    machine->vcpu = x86_dm_create_vcpu(dm, number, NULL, NULL, 0, &why);
    if (!machine->vcpu) {
        fail("vCPU", why.text);
    }
    x86_dm_state_reset(&machine->state);
    machine->state.seg[X86_DM_SEG_CS].selector = (uint16_t)(at >> 4);
    machine->state.seg[X86_DM_SEG_CS].base = at;
    machine->state.rip = 0;
    calls(machine, turn); /* the first sends the whole state */
    x86_dm_get_stats(machine->vcpu, &before);
    calls(machine, turn);
    x86_dm_get_stats(machine->vcpu, &after);
    machine->sent = (uint32_t)((after.bytes_sent - before.bytes_sent) / turn);
    machine->answered = (uint32_t)((after.bytes_received - before.bytes_received) / turn);
}

int main(int argc, char **argv)
{
    struct x86_dm_failure why;
    struct x86_dm_region region = {.size = RAM_SIZE, .kind = X86_DM_KIND_RAM};
    struct machine machines[2] = {{.exits = false}, {.exits = true}};
    char echo[128];
    unsigned turn, turns, runs;

    if (argc != 6 || snprintf(echo, sizeof(echo), "ipc://%s/echo", argv[2]) >= (int)sizeof(echo)) {
        fail("usage", "c_client ENDPOINT DIRECTORY TURN TURNS RUNS");
    }
    turn = (unsigned)atoi(argv[3]);
    turns = (unsigned)atoi(argv[4]);
    runs = (unsigned)atoi(argv[5]);

    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve_echo(echo);
    }
    void *dealer = zmq_socket(zmq_ctx_new(), ZMQ_DEALER);
    zmq_connect(dealer, echo);

    struct x86_dm *dm = x86_dm_connect(argv[1], "bench-c", 0, &why);
    if (!dm) {
        fail(argv[1], why.text);
    }
    int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, RAM_SIZE) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0 ||
        pwrite(fd, requests_code, sizeof(requests_code), REQUESTS_AT) < 0 ||
        pwrite(fd, exits_code, sizeof(exits_code), EXITS_AT) < 0) {
        fail("RAM", strerror(errno));
    }
    if (x86_dm_add_ram(dm, fd, RAM_SIZE, &region.ram, &why) != X86_DM_FINE ||
        x86_dm_set_map(dm, &region, 1, true, &why) != X86_DM_FINE) {
        fail("RAM", why.text);
    }
    start(&machines[0], dm, 0, REQUESTS_AT, turn);
    start(&machines[1], dm, 1, EXITS_AT, turn);

    for (unsigned run = 0; run < runs; run++) {
        double taken[4] = {0};

        for (unsigned t = 0; t < turns; t++) {
            for (int k = 0; k < 4; k++) {
                double began = now_us();

                if (k % 2) {
                    echoes(dealer, &machines[k / 2], turn);
                } else {
                    calls(&machines[k / 2], turn);
                }
                taken[k] += now_us() - began;
            }
        }
        for (int k = 0; k < 4; k++) {
            printf("%.3f%c", taken[k] / (turn * turns), k == 3 ? '\n' : ' ');
        }
        fflush(stdout);
    }
    zmq_send(dealer, "", 0, 0);
    waitpid(child, NULL, 0);
    x86_dm_close(dm, true);
    return 0;
}
