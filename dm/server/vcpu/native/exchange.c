/*
 * The usual path of a vCPU's thread: wait, take in a request, run, ask, take in the answer, send the state back.
 *
 * dm/server/vcpu/core.py describes in full what a vCPU does.  Here is that part of it which most exchanges are made of,
 * with the same states, the same steps under the same names, and the same results to the byte.  Whatever is not
 * exactly as usual is left to Python before anything of it has been begun.
 */

#define _GNU_SOURCE

#include <stdint.h>

#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#include "architecture.h"
#include "engine/native/api.h"
#include "fast/waiting.h"
#include "messages.h"
#include "request_made.h"

enum {
    MESSAGE_ROOM = 1 << 14, /* larger requests are rare */
    PAGE_ROOM = 1 << 13,
    REPLY_ROOM = 1 << 18, /* all pages or posted writes, a string of elements and two states fit */
};

struct dx_private {
    struct x86_dm__libzmq zmq;
    struct x86_dm__waiter waiter;
    zmq_msg_t message;
    bool holds_message;
    struct dm_request request;
    struct dm_exit exit;
    struct submitted submitted;
    uint8_t now[WIRE_SIZE], before[WIRE_SIZE], reset[WIRE_SIZE];
    uint64_t pages[PAGE_ROOM];
    struct write writes[MAX_POSTED];
    uint8_t written[8 * MAX_POSTED];
    uint8_t request_bytes[MESSAGE_ROOM];
    uint8_t replies[3][REPLY_ROOM]; /* the newest question, the last answer, one in the making */
    uint8_t *making;
};

struct dx *dx_new(void)
{
    struct dx *x = calloc(1, sizeof *x);
    struct dx_private *own = calloc(1, sizeof *own);
    if (!x || !own) {
        free(x);
        free(own);
        return NULL;
    }
    x->own = own;
    x->wire_size = WIRE_SIZE;
    x->most_pages = PAGE_ROOM;
    x->reset = own->reset;
    x->before = own->before;
    x->pages = own->pages;
    x->request = own->request_bytes;
    x->question = own->replies[0];
    x->record = own->replies[1];
    own->making = own->replies[2];
    x->exit = &own->exit;
    return x;
}

const char *dx_sources(void)
{
    return sources;
}

/* ------------------------------------------------------------------------------------------- ZeroMQ */

static void release_message(struct dx *x)
{
    if (x->own->holds_message)
        x->own->zmq.msg_close(&x->own->message);
    x->own->holds_message = false;
    x->message = NULL;
}

/* Return where the next part goes. */
static zmq_msg_t *fresh_message(struct dx *x)
{
    release_message(x);
    x->own->zmq.msg_init(&x->own->message);
    x->own->holds_message = true;
    return &x->own->message;
}

void dx_free(struct dx *x)
{
    if (!x)
        return;
    release_message(x);
    free(x->own);
    free(x);
}

static void show_message(struct dx *x)
{
    x->message = x->own->zmq.msg_data(&x->own->message);
    x->message_size = x->own->zmq.msg_size(&x->own->message);
}

/* Take in the message whose first part is held, the peer's name; false for what ZeroMQ would not give. */
static bool take_in(struct dx *x)
{
    const struct x86_dm__libzmq *zmq = &x->own->zmq;
    show_message(x);
    if (x->message_size > sizeof x->identity)
        return false; /* ZeroMQ's have at most 255 bytes */
    x->identity_size = (uint32_t)x->message_size;
    memcpy(x->identity, x->message, x->message_size);
    x->parts = 0;
    while (zmq->msg_more(&x->own->message)) {
        if (x86_dm__receive_part(zmq, x->links.socket, fresh_message(x)) <= 0)
            return false; /* all parts come at once */
        show_message(x);
        x->parts++;
    }
    return true;
}

/* Take in the next message; 1 or, when there is none, 0, or -1. */
static int receive(struct dx *x)
{
    const int got = x86_dm__receive_part(&x->own->zmq, x->links.socket, fresh_message(x));
    return got > 0 && !take_in(x) ? -1 : got;
}

/* Wait for a message. */
static int next_message(struct dx *x)
{
    struct dx_private *own = x->own;
    struct pollfd fds[2] = {{.fd = x->links.zmq_fd, .events = POLLIN}, {.fd = x->links.wake_fd, .events = POLLIN}};
    for (;;) {
        if (x->called)
            return DX_CALLS;
        switch (x86_dm__await(&own->zmq, x->links.socket, &own->waiter, fds, 2, -1, fresh_message(x))) {
        case X86_DM__MESSAGE:
            return take_in(x) ? DX_ON : DX_ERROR;
        case X86_DM__OTHER:
            return DX_CALLS;
        case X86_DM__NOTHING:
            break;
        case X86_DM__FAILED:
            return DX_ERROR;
        }
    }
}

/* Send to the peer; DX_UNSENT when it cannot take it now. */
static int send_reply(struct dx *x, const uint8_t *data, uint32_t size)
{
    const struct x86_dm__libzmq *zmq = &x->own->zmq;
    x->counters.bytes_out += size; /* before it goes: who has it may compare counters at once */
    if (x86_dm__send_part(zmq, x->links.socket, x->peer, x->peer_size, ZMQ_SNDMORE) &&
        x86_dm__send_part(zmq, x->links.socket, data, size, 0))
        return DX_ON;
    x->counters.bytes_out -= size;
    x->unsent = data;
    x->unsent_size = size;
    return DX_UNSENT;
}

/* ------------------------------------------------------------------------------------------- messages */

static bool is_from_peer(const struct dx *x, const struct value *session, const struct value *vcpu,
                         const struct value *epoch)
{
    return session->number == x->session && vcpu->number == x->vcpu && epoch->number == x->kept.epoch && x->kept.epoch &&
           x->identity_size == x->peer_size && !memcmp(x->identity, x->peer, x->peer_size);
}

static void get_state(struct dx *x, uint8_t *wire)
{
    ((void (*)(void *, uint8_t *))x->links.engine_get_state)(x->links.cpu, wire);
}

/* Take up the message as a request; false, and nothing has changed, if it is an unusual one. */
static bool begin(struct dx *x)
{
    struct dx_private *own = x->own;
    struct value v[MAX_FIELDS];
    own->submitted.present = 0;
    if (x->parts != 1 || x->message_size > MESSAGE_ROOM ||
        !read_message(x->message, x->message_size, &emulate_form, EMULATE_UNDERSTOOD, v, &own->submitted) ||
        !is_from_peer(x, &v[EMULATE__SESSION], &v[EMULATE__VCPU], &v[EMULATE__EPOCH]))
        return false;
    const uint64_t base = v[EMULATE__BASE].number;
    const uint32_t reason = (uint32_t)v[EMULATE__REASON].number;
    if (v[EMULATE__SEQ].number <= x->kept.last || v[EMULATE__GENERATION].number > x->generation ||
        (reason == REASON_MMIO && !v[EMULATE__MMIO].said) || (base && (base != x->kept.last || !x->kept.known)))
        return false;
    if (base)
        get_state(x, own->now);
    else
        memcpy(own->now, own->reset, WIRE_SIZE);
    const uint32_t present = own->submitted.present;
    for (unsigned n = 0; n < GROUP_COUNT; n++)
        if (present >> n & 1)
            memcpy(own->now + groups[n].start, own->submitted.wire + groups[n].start, groups[n].end - groups[n].start);
    uint64_t cr0 = 0;
    memcpy(&cr0, own->now + CR0_AT, sizeof(uint32_t));
    if ((cr0 & (CR0_PG | CR0_PE)) == CR0_PG && v[EMULATE__UNTIL].number != x->words.until_raw)
        return false; /* SVM's paged real mode */

    x->run = (struct dx_run){
        .window = (uint32_t)v[EMULATE__WINDOW].number,
        .must_progress = reason == REASON_FAILURE || reason == REASON_INVALID_STATE || reason == REASON_MMIO,
        .exchanged_ns = x86_dm__now_ns(),
    };
    take_request(&x->run.request, v);
    memcpy(x->request, x->message, x->message_size);
    x->request_size = (uint32_t)x->message_size;
    memcpy(x->before, own->now, WIRE_SIZE);
    if (present || !base) /* otherwise the engine still has it */
        ((void (*)(void *, const uint8_t *))x->links.engine_set_state)(x->links.cpu, x->before);
    x->kept.known = 0;
    x->counters.bytes_in += x->message_size;
    x->counters.requests++;
    *x->links.runs = 1;
    x->state = DX_BOUNDARY;
    return true;
}

/* Take up the message as the answer to the open question; false, and nothing has changed, if it is an unusual one. */
static bool take_answer(struct dx *x)
{
    struct dx_run *run = &x->run;
    const struct dm_exit *asked = &x->own->exit;
    struct value v[MAX_FIELDS];
    if (x->parts != 1 || x->message_size > MAX_DATA ||
        !read_message(x->message, x->message_size, &io_answer_form, IO_ANSWER_UNDERSTOOD, v, NULL) ||
        !is_from_peer(x, &v[IO_ANSWER__SESSION], &v[IO_ANSWER__VCPU], &v[IO_ANSWER__EPOCH]))
        return false;
    const bool reads = x->words.reads[x->words.kinds[asked->reason]];
    const uint32_t wanted = reads ? asked->size * asked->count : 0;
    if (v[IO_ANSWER__SEQ].number != run->request.seq || v[IO_ANSWER__IO].number != run->questions ||
        v[IO_ANSWER__DATA].size != wanted)
        return false;
    if (v[IO_ANSWER__WINDOW].said)
        run->window = (uint32_t)v[IO_ANSWER__WINDOW].number;
    if (v[IO_ANSWER__STOP].number != STOP_NONE)
        run->stop = (uint32_t)v[IO_ANSWER__STOP].number;
    ((void (*)(void *, const uint8_t *, uint32_t, int))x->links.engine_answer)(x->links.cpu, v[IO_ANSWER__DATA].data,
                                                                               wanted, 0);
    run->exchanged_ns = x86_dm__now_ns();
    run->answered = 1;
    x->counters.bytes_in += x->message_size;
    x->state = DX_BOUNDARY;
    return true;
}

/* ------------------------------------------------------------------------------------------- runs */

/* Why the run must end at the next boundary, -1 while it may go on. */
static int ending(const struct dx *x, uint32_t open_steps)
{
    const struct dx_run *run = &x->run;
    if (run->request.has_steps && !run->request.steps)
        return DONE_REASON_BUDGET;
    if (run->must_progress && !run->steps && !open_steps)
        return -1;
    if (run->stop != STOP_NONE)
        return run->stop == STOP_KICK ? DONE_REASON_KICKED : DONE_REASON_STOPPED;
    if (run->request.has_steps && run->steps >= run->request.steps)
        return DONE_REASON_BUDGET;
    if (run->request.has_microseconds && (uint64_t)run->ran_ns / 1000 >= run->request.microseconds)
        return DONE_REASON_BUDGET;
    if (run->request.reason == REASON_MMIO && (run->instructions || run->ran_ns > (int64_t)x->slice_ns))
        return DONE_REASON_BUDGET; /* one instruction, or one slice of a repeated one */
    return -1;
}

/* The steps the engine may make now: an open instruction is not charged again when it is finished. */
static uint64_t budget(const struct dx *x)
{
    const struct dx_run *run = &x->run;
    uint64_t left = run->request.reason == REASON_MMIO ? 1 : x->kept.slice;
    if (run->request.reason != REASON_MMIO && run->request.has_steps)
        left = run->request.steps > run->steps ? run->request.steps - run->steps : 0;
    left = left > run->open_steps ? left - run->open_steps : 0;
    return left < x->kept.slice ? left : x->kept.slice;
}

/* Adjust the slice to a run of `steps` steps that took `ns` nanoseconds. */
static void learn(struct dx *x, uint64_t steps, uint64_t ns)
{
    if (steps < x->kept.slice / 2 && ns < x->slice_ns)
        return; /* it ended for another reason and says little */
    uint64_t wanted = steps > UINT64_MAX / x->slice_ns ? UINT64_MAX : steps * x->slice_ns / (ns ? ns : 1);
    if (wanted > 4 * x->kept.slice)
        wanted = 4 * x->kept.slice;
    if (wanted > x->most_slice)
        wanted = x->most_slice;
    x->kept.slice = wanted < 32 ? 32 : wanted;
}

/* Run the engine for one slice. */
static void step(struct dx *x)
{
    struct dx_run *run = &x->run;
    const bool first = !run->steps && !run->open_steps;
    const bool last = run->open_steps && ending(x, run->open_steps) >= 0; /* only the open instruction is finished */
    struct dm_request *request = &x->own->request;
    request->policy = x->words.policies[last ? x->words.until_never : run->request.until];
    request->budget = last ? 0 : budget(x);
    request->progress = first && run->must_progress;
    request->window = run->window && !last;
    request->has_mmio = first && run->request.reason == REASON_MMIO;
    request->mmio = request->has_mmio ? run->request.mmio : 0;
    request->has_stop_at = run->request.has_stop_at && !last;
    request->stop_at = run->request.stop_at;
    request->code_size = first ? run->request.code_size : 0;
    memcpy(request->code, run->request.code, request->code_size);
    const int64_t started = x86_dm__now_ns();
    ((void (*)(void *, const struct dm_request *, struct dm_exit *))x->links.engine_run)(x->links.cpu, request,
                                                                                         &x->own->exit);
    const int64_t taken = x86_dm__now_ns() - started;
    run->ran_ns += taken;
    learn(x, x->own->exit.steps, (uint64_t)taken);
}

static int by_number(const void *one, const void *other)
{
    const uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

/* Sort the pages and forget repeated ones. */
static void sort_pages(struct dx *x)
{
    uint64_t *pages = x->pages;
    uint32_t kept = 0, count = x->run.page_count;
    if (count > 1)
        qsort(pages, count, sizeof *pages, by_number);
    for (uint32_t n = 0; n < count; n++)
        if (!kept || pages[n] != pages[kept - 1])
            pages[kept++] = pages[n];
    x->run.page_count = kept;
}

/* Take in the pages of an exit; taking them in twice does no harm. */
static bool note_pages(struct dx *x, const struct dm_exit *exit)
{
    if (exit->page_count > PAGE_ROOM - x->run.page_count)
        sort_pages(x);
    if (exit->page_count > PAGE_ROOM - x->run.page_count)
        return false;
    if (exit->page_count)
        memcpy(x->pages + x->run.page_count, exit->pages, exit->page_count * sizeof *exit->pages);
    x->run.page_count += exit->page_count;
    return true;
}

/* Put consecutive posted writes of one size together; false when they are too many. */
static bool merge_posted(struct dx *x, const struct dm_exit *exit, struct value *value)
{
    struct dx_private *own = x->own;
    uint8_t *at = own->written;
    struct write *last = NULL;
    if (exit->posted_count > MAX_POSTED)
        return false;
    for (const struct dm_posted *one = exit->posted; one < exit->posted + exit->posted_count; one++) {
        if (one->size > sizeof one->value)
            return false;
        memcpy(at, &one->value, one->size);
        if (last && last->size == one->size && last->gpa + last->length == one->gpa && last->length + one->size <= MERGE) {
            last->length += one->size;
        } else {
            last = last ? last + 1 : own->writes;
            *last = (struct write){.gpa = one->gpa, .data = at, .size = one->size, .length = one->size};
        }
        at += one->size;
    }
    value->data = own->writes;
    value->size = last ? (uint32_t)(last - own->writes) + 1 : 0;
    return true;
}

static void note_work(struct dx_run *run, const struct dm_exit *exit)
{
    run->steps += exit->steps;
    run->instructions += exit->instructions;
    run->tlb_flush |= exit->tlb_flush;
}

static void swap(uint8_t **one, uint8_t **other)
{
    uint8_t *kept = *one;
    *one = *other;
    *other = kept;
}

/* Ask the question of the last exit. */
static int ask(struct dx *x, int kind)
{
    struct dx_private *own = x->own;
    struct dx_run *run = &x->run;
    const struct dm_exit *exit = &own->exit;
    if (x->words.ports[kind])
        for (uint32_t n = 0; n < x->state_port_count; n++)
            if (exit->address <= x->state_ports[n].last && x->state_ports[n].first < exit->address + exit->size)
                return DX_EXIT;
    if ((uint64_t)exit->size * exit->count > MAX_DATA)
        return DX_EXIT;
    sort_pages(x);
    if (run->request.checkpoint)
        get_state(x, own->now);
    struct value v[MAX_FIELDS] = {
        [IO__SESSION].number = x->session,
        [IO__VCPU].number = x->vcpu,
        [IO__EPOCH].number = x->kept.epoch,
        [IO__SEQ].number = run->request.seq,
        [IO__IO].number = run->questions + UINT64_C(1),
        [IO__KIND].number = (uint64_t)kind,
        [IO__ADDRESS].number = exit->address,
        [IO__SIZE].number = exit->size,
        [IO__COUNT].number = exit->count,
        [IO__DOWN].number = exit->down != 0,
        [IO__DATA] = {.data = exit->data, .size = x->words.reads[kind] ? 0 : exit->size * exit->count},
        [IO__PAGES] = {.data = x->pages, .size = run->page_count},
        [IO__TLB_FLUSH].number = run->tlb_flush || exit->tlb_flush,
        [IO__INSTRUCTIONS].number = run->instructions + exit->instructions,
        [IO__STEPS].number = run->steps + exit->steps,
        [IO__CHECKPOINT] = {.said = run->request.checkpoint, .data = own->now, .before = x->before},
    };
    const bool fits = merge_posted(x, exit, &v[IO__POSTED]);
    const size_t size = fits ? write_message(own->making, REPLY_ROOM, &io_form, v) : 0;
    if (!size)
        return DX_EXIT;
    note_work(run, exit);
    run->page_count = run->tlb_flush = 0;
    run->open_steps = exit->count;
    run->answered &= !exit->steps;
    run->questions++;
    x->counters.io++;
    swap(&x->question, &own->making);
    x->question_size = (uint32_t)size;
    x->state = DX_WAITING;
    return send_reply(x, x->question, x->question_size);
}

/* End the run; `exit` is what has ended it, if anything did. */
static int finish(struct dx *x, int reason, const struct dm_exit *exit)
{
    static const struct dm_exit nothing;
    struct dx_private *own = x->own;
    struct dx_run *run = &x->run;
    const int unusual = exit ? DX_EXIT : DX_END;
    if (!exit)
        exit = &nothing;
    const bool late = x86_dm__now_ns() - run->exchanged_ns > (int64_t)x->posted_ns;
    if (run->request.explain || exit->label || (exit->posted_count && late)) /* late ones go first, by themselves */
        return unusual;
    sort_pages(x);
    get_state(x, own->now);
    struct value v[MAX_FIELDS] = {
        [DONE__SESSION].number = x->session,
        [DONE__VCPU].number = x->vcpu,
        [DONE__EPOCH].number = x->kept.epoch,
        [DONE__SEQ].number = run->request.seq,
        [DONE__REASON].number = (uint64_t)reason,
        [DONE__STOP].number = run->stop,
        [DONE__ADDRESS].number = exit->address,
        [DONE__STATE] = {.data = own->now, .before = x->before},
        [DONE__INSTRUCTIONS].number = run->instructions + exit->instructions,
        [DONE__STEPS].number = run->steps + exit->steps,
        [DONE__PAGES] = {.data = x->pages, .size = run->page_count},
        [DONE__TLB_FLUSH].number = run->tlb_flush || exit->tlb_flush,
        [DONE__FAULT].number = exit->error,
    };
    const bool fits = merge_posted(x, exit, &v[DONE__POSTED]);
    const size_t size = fits ? write_message(own->making, REPLY_ROOM, &done_form, v) : 0;
    if (!size)
        return unusual;
    note_work(run, exit);
    run->page_count = run->tlb_flush = run->open_steps = 0;
    x->counters.steps += run->steps;
    x->counters.instructions += run->instructions;
    x->kept.last = run->request.seq;
    x->kept.known = 1;
    swap(&x->record, &own->making);
    x->record_size = (uint32_t)size;
    x->state = DX_IDLE;
    const int sent = send_reply(x, x->record, x->record_size);
    *x->links.runs = 0;
    return sent;
}

/* Run one slice and see to what came of it. */
static int run_on(struct dx *x)
{
    struct dx_run *run = &x->run;
    const struct dm_exit *exit = &x->own->exit;
    if (x->called)
        return DX_CALLS;
    int reason = run->open_steps ? -1 : ending(x, 0);
    if (reason >= 0)
        return finish(x, reason, NULL);
    if (*(const volatile int *)x->links.lost)
        return DX_END;
    step(x);
    if (*(const volatile int *)x->links.lost || !note_pages(x, exit))
        return DX_EXIT;
    if (x->words.kinds[exit->reason] >= 0)
        return ask(x, x->words.kinds[exit->reason]);
    if (exit->reason == x->words.exit_budget || exit->reason == x->words.exit_kicked) {
        if (exit->posted_count)
            return DX_EXIT; /* they wait for an exchange */
        note_work(run, exit);
        run->open_steps = run->answered = 0;
        if (ending(x, 0) >= 0)
            return DX_ON;
        const int got = receive(x);
        return !got ? DX_ON : got > 0 ? DX_MESSAGE : DX_ERROR;
    }
    reason = x->words.ends[exit->reason];
    if (reason < 0 || (exit->reason == x->words.exit_window && run->request.acknowledge))
        return DX_EXIT;
    return finish(x, reason, exit);
}

int dx_serve(struct dx *x)
{
    int why = DX_ON;
    _Static_assert(sizeof x->links.zmq == sizeof x->own->zmq, "one address for each function");
    memcpy(&x->own->zmq, x->links.zmq, sizeof x->own->zmq);
    release_message(x);
    while (why == DX_ON) {
        if (x->state == DX_BOUNDARY) {
            why = run_on(x);
        } else {
            why = next_message(x);
            if (why == DX_ON && !(x->state == DX_IDLE ? begin(x) : take_answer(x)))
                why = DX_MESSAGE;
        }
    }
    return why;
}
