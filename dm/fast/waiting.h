/*
 * ZeroMQ messages to and fro, and how to wait for them: polling for a moment if that pays, else asleep.
 *
 * Most of an exchange is spent waking threads and idle processors.  dm/protocol/waiter.py says the same in Python, and
 * dm/fast/times.py how long each thing takes (X86_DM__..._NS, which it prints).  The types of dm.fast, the worker's
 * exchange and the C client x86_dm.h, into which this file is printed, wait by it.
 */
#ifndef X86_DM_WAITING_H
#define X86_DM_WAITING_H

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef ZMQ_VERSION /* zmq.h need not be there: zmq_msg_init(3), zmq_getsockopt(3), zmq_send(3) */
typedef struct zmq_msg_t {
    _Alignas(void *) unsigned char opaque[64];
} zmq_msg_t;
enum { ZMQ_EVENTS = 15, ZMQ_POLLIN = 1, ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2 };
#endif

/* Functions of libzmq, in the order of dm.protocol.libzmq: Python's sockets are those of a library it has loaded. */
struct x86_dm__libzmq {
    int (*send)(void *socket, const void *data, size_t size, int flags);
    int (*getsockopt)(void *socket, int option, void *value, size_t *size);
    int (*msg_init)(zmq_msg_t *message);
    int (*msg_recv)(zmq_msg_t *message, void *socket, int flags);
    void *(*msg_data)(zmq_msg_t *message);
    size_t (*msg_size)(const zmq_msg_t *message);
    int (*msg_more)(const zmq_msg_t *message);
    int (*msg_close)(zmq_msg_t *message);
    int (*error)(void);
};

static inline bool x86_dm__send_at_once(const struct x86_dm__libzmq *zmq, void *socket, const void *data, size_t size,
                                        int flags)
{
    while (zmq->send(socket, data, size, flags | ZMQ_DONTWAIT) < 0) {
        if (zmq->error() != EINTR) {
            return false;
        }
    }
    return true;
}

/* Send a message or a part of one; returns false when that is not possible now. */
static inline bool x86_dm__send_part(const struct x86_dm__libzmq *zmq, void *socket, const void *data, size_t size,
                                     int flags)
{
    int events;
    size_t room = sizeof(events);

    if (x86_dm__send_at_once(zmq, socket, data, size, flags)) {
        return true;
    }
    if (zmq->error() != EAGAIN) {
        return false;
    }
    /* Either the peer has read since, which libzmq looks for when asked for its events and not in send, or nobody is
     * there to take it. */
    zmq->getsockopt(socket, ZMQ_EVENTS, &events, &room);
    return x86_dm__send_at_once(zmq, socket, data, size, flags);
}

/* Receive a message or a part of one into `message`; returns 1, 0 when there is none, or -1. */
static inline int x86_dm__receive_part(const struct x86_dm__libzmq *zmq, void *socket, zmq_msg_t *message)
{
    while (zmq->msg_recv(message, socket, ZMQ_DONTWAIT) < 0) {
        int error = zmq->error();

        if (error != EINTR) {
            return error == EAGAIN ? 0 : -1;
        }
    }
    return 1;
}

/* Time of CLOCK_MONOTONIC in nanoseconds. */
static inline int64_t x86_dm__now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* How a thread waits.  Starts with zeros; times are those of x86_dm__now_ns(). */
struct x86_dm__waiter {
    int64_t stretch;             /* how long the next wait polls before it sleeps; 0: not at all */
    int64_t ended;               /* when the last one ended */
    int64_t resting_until, rest; /* another thread wanted this processor */
};

/* Wait for events as poll(2) does, and return what it returns. */
static inline int x86_dm__wait(struct x86_dm__waiter *waiter, struct pollfd *fds, nfds_t n, int timeout_ms)
{
    int64_t began, now, took;
    int ready;

    if (timeout_ms == 0) {
        return poll(fds, n, 0);
    }
    began = now = x86_dm__now_ns();
    if (began - waiter->ended > X86_DM__PAUSE_NS) {
        waiter->stretch = 0;
    }
    while (now - began < waiter->stretch && now > waiter->resting_until) {
        int64_t before = now;

        ready = poll(fds, n, 0);
        if (ready != 0) {
            waiter->ended = now;
            return ready;
        }
        sched_yield();
        now = x86_dm__now_ns();
        if (now - before > X86_DM__TAKEN_NS) { /* another thread wants this processor */
            int64_t longer = 2 * waiter->rest < X86_DM__LONGEST_REST_NS ? 2 * waiter->rest : X86_DM__LONGEST_REST_NS;

            waiter->rest = before - waiter->resting_until > 2 * X86_DM__REST_NS ? X86_DM__REST_NS : longer;
            waiter->resting_until = now + waiter->rest;
        }
    }
    ready = poll(fds, n, timeout_ms);
    waiter->ended = x86_dm__now_ns();
    took = waiter->ended - began;
    if (took >= X86_DM__AWAKE_NS) {
        waiter->stretch = 0;
    } else if (ready > 0 && took > waiter->stretch) {
        int64_t more = waiter->stretch ? 2 * waiter->stretch : X86_DM__FIRST_AWAKE_NS;

        waiter->stretch = more < X86_DM__AWAKE_NS ? more : X86_DM__AWAKE_NS;
    }
    return ready;
}

enum x86_dm__news {
    X86_DM__MESSAGE, /* or its first part, in `message` */
    X86_DM__OTHER,   /* another descriptor has an event: see its revents */
    X86_DM__NOTHING, /* a time-out, or a signal */
    X86_DM__FAILED,  /* ZeroMQ reports an error */
};

/*
 * Wait for a message into `message`, which is initialised, up to `timeout_ms` (-1: no limit).  fds[0] is the socket's
 * own descriptor (ZMQ_FD), others may follow.
 */
static inline enum x86_dm__news x86_dm__await(const struct x86_dm__libzmq *zmq, void *socket,
                                              struct x86_dm__waiter *waiter, struct pollfd *fds, nfds_t n,
                                              int timeout_ms, zmq_msg_t *message)
{
    for (;;) {
        /* The socket's descriptor signals the next message only after a receive that finds nothing (ZMQ_FD). */
        int got = x86_dm__receive_part(zmq, socket, message);

        if (got) {
            return got > 0 ? X86_DM__MESSAGE : X86_DM__FAILED;
        }
        if (x86_dm__wait(waiter, fds, n, timeout_ms) <= 0) {
            return X86_DM__NOTHING;
        }
        for (nfds_t i = 1; i < n; i++) {
            if (fds[i].revents) {
                return X86_DM__OTHER;
            }
        }
    }
}

#endif
