/*
 * What Python sees of the exchange: read by cffi, so only plain declarations.  machine_made.h, which generate.py prints
 * from dm/server/vcpu/fields.py, has what both keep of a vCPU (struct dx_kept) and of its run.
 */

/* Where a vCPU is. */
enum dx_state {
    DX_IDLE,     /* no run */
    DX_BOUNDARY, /* the engine is to run on, a question it had is answered */
    DX_WAITING,  /* for the answer to a question */
};

/* Why dx_serve() has returned: what is left to Python.  Nothing of it has been begun. */
enum dx_cause {
    DX_ON,      /* (nothing yet) */
    DX_CALLS,   /* calls are queued */
    DX_MESSAGE, /* an unusual message, in `message` */
    DX_EXIT,    /* an unusual exit of the engine, in `exit`; its time is taken into account, its report is not */
    DX_END,     /* the run is to end, or go on, in an unusual way */
    DX_UNSENT,  /* the peer cannot take what is in `unsent`; otherwise all is as if it had */
    DX_ERROR,   /* ZeroMQ reports an error */
};

/* Functions and data of others, as addresses. */
struct dx_links {
    void *zmq[9]; /* struct x86_dm__libzmq */
    void *socket;
    void *cpu, *engine_run, *engine_answer, *engine_get_state, *engine_set_state;
    const int *lost; /* not 0: guest memory has been lost */
    uint8_t *runs;   /* 1 while this vCPU runs */
    int zmq_fd, wake_fd;
};

/* Numbers are indexes of the schema's enumerations; those of `kinds` and `ends` are -1 for what Python sees to. */
struct dx_words {
    int kinds[32];    /* exit reason of the engine: IoKind of a question */
    int ends[32];     /* exit reason: DoneReason */
    uint8_t reads[32]; /* IoKind: the answer has data */
    uint8_t ports[32]; /* IoKind: a port's */
    uint8_t policies[32]; /* Until: the engine's policy */
    uint8_t until_never, until_raw, exit_budget, exit_kicked, exit_window;
};

struct dx_ports {
    uint32_t first, last;
};

struct dx_counters {
    uint64_t requests, io, instructions, steps, bytes_in, bytes_out;
};

#include "machine_made.h"

struct dx {
    struct dx_links links;
    struct dx_words words;
    uint64_t slice_ns, most_slice, posted_ns;
    uint32_t session, vcpu, wire_size, most_pages;
    /* which ports' devices read and change registers */
    const struct dx_ports *state_ports;
    uint32_t state_port_count;
    /* written by any thread: calls are queued */
    volatile uint32_t called;
    /* of the vCPU */
    volatile uint32_t state; /* enum dx_state */
    struct dx_kept kept;
    uint64_t generation;
    uint8_t peer[256];
    uint32_t peer_size;
    struct dx_counters counters;
    struct dx_run run;
    uint8_t *reset, *before; /* a state after RESET; the one submitted */
    uint64_t *pages;         /* written by the run and not reported */
    /* bytes of the run's request, of the newest question, of the last answer; sizes 0: none, or Python's own */
    uint8_t *request, *question, *record;
    uint32_t request_size, question_size, record_size;
    /* what is left to Python */
    void *exit; /* struct dm_exit of the engine's last run */
    uint8_t identity[256];
    uint32_t identity_size, parts;
    const uint8_t *message; /* valid until the next call; of several parts the last */
    uint64_t message_size;
    const uint8_t *unsent;
    uint32_t unsent_size;
    struct dx_private *own;
};

struct dx *dx_new(void);
void dx_free(struct dx *x);
/* Carry out exchanges until there is something for Python; returns enum dx_cause. */
int dx_serve(struct dx *x);
const char *dx_sources(void);
