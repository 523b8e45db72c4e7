/*
 * Link: sends and receives on a ZeroMQ socket without the interpreter, and waits as dm.protocol.waiter does.
 *
 * libzmq is the one pyzmq uses, reached through the addresses of its functions: a second copy could not share sockets.
 */
#include "fast.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <time.h>

enum { MOST_OTHERS = 4, ZMQ_EVENTS_OPTION = 15, DONT_WAIT = 1 };
/*
 * Longest sleep, in ms.  A signal that comes just before it does not end it, and Python's handlers run only when the
 * interpreter has the thread back.
 */
enum { LONGEST_SLEEP = 100 };

/* zmq_msg_t: 64 opaque bytes, aligned like a pointer, in every libzmq 4. */
struct zmq_message {
    _Alignas(void *) unsigned char opaque[64];
};

/* In the order of dm.shim.link._LIBZMQ. */
struct libzmq {
    int (*send)(void *socket, const void *data, size_t size, int flags);
    int (*getsockopt)(void *socket, int option, void *value, size_t *size);
    int (*msg_init)(struct zmq_message *message);
    int (*msg_recv)(struct zmq_message *message, void *socket, int flags);
    void *(*msg_data)(struct zmq_message *message);
    size_t (*msg_size)(const struct zmq_message *message);
    int (*msg_close)(struct zmq_message *message);
    int (*error)(void);
};

typedef struct {
    PyObject_HEAD
    struct libzmq zmq;
    void *socket;
    PyObject *codec;
    struct pollfd polled[1 + MOST_OTHERS]; /* the socket's first */
    nfds_t n;
    bool lively;
    int64_t awake, taken, first_rest, longest_rest; /* in nanoseconds: those of dm.protocol.waiter */
    int64_t rest, resting_until;
} Link;

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Wait until a descriptor has an event, up to `timeout` ms (-1: no limit) or LONGEST_SLEEP; returns what poll returns. */
static int wait_for_news(Link *self, int timeout)
{
    int64_t began = now_ns(), now = began;
    int ready;

    if (self->lively && timeout != 0 && now > self->resting_until) {
        while (now - began < self->awake) {
            int64_t before = now;

            if ((ready = poll(self->polled, self->n, 0)) != 0) {
                return ready;
            }
            sched_yield();
            now = now_ns();
            if (now - before > self->taken) { /* another thread wants this processor */
                bool went_well = before - self->resting_until > 2 * self->first_rest;

                self->rest = went_well ? self->first_rest
                             : 2 * self->rest < self->longest_rest ? 2 * self->rest : self->longest_rest;
                self->resting_until = now + self->rest;
                break;
            }
        }
    }
    ready = poll(self->polled, self->n, timeout < 0 || timeout > LONGEST_SLEEP ? LONGEST_SLEEP : timeout);
    self->lively = now_ns() - began < self->awake;
    return ready;
}

/* Send a message; returns its size, or -1 when it cannot be sent now.  Without the interpreter's lock. */
static int send_data(Link *self, const void *data, size_t size)
{
    int sent = self->zmq.send(self->socket, data, size, DONT_WAIT), events;
    size_t room = sizeof events;

    if (sent < 0) {
        /* Either the peer has read since, which libzmq looks for when asked for its events and not in send, or nobody
         * is there to take it. */
        self->zmq.getsockopt(self->socket, ZMQ_EVENTS_OPTION, &events, &room);
        sent = self->zmq.send(self->socket, data, size, DONT_WAIT);
    }
    return sent;
}

/* Receive a message; returns its size, or -1 when there is none but another event, a signal or a time-out. */
static int receive_message(Link *self, struct zmq_message *message, int timeout)
{
    int got;

    /* The socket's descriptor signals the next message only after a recv that finds nothing (ZMQ_FD). */
    while ((got = self->zmq.msg_recv(message, self->socket, DONT_WAIT)) < 0) {
        if (self->zmq.error() != EAGAIN || wait_for_news(self, timeout) <= 0) {
            break;
        }
        for (nfds_t i = 1; i < self->n; i++) {
            if (self->polled[i].revents) {
                return -1;
            }
        }
    }
    return got;
}

static PyObject *link_send(PyObject *object, PyObject *data)
{
    int sent;

    if (!PyBytes_Check(data)) {
        return PyErr_Format(PyExc_TypeError, "bytes are sent, not %s", Py_TYPE(data)->tp_name);
    }
    Py_BEGIN_ALLOW_THREADS
    sent = send_data((Link *)object, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(sent >= 0);
}

static PyObject *bytes_of(Link *self, struct zmq_message *message)
{
    return PyBytes_FromStringAndSize(self->zmq.msg_data(message), (Py_ssize_t)self->zmq.msg_size(message));
}

static PyObject *link_receive(PyObject *object, PyObject *argument)
{
    Link *self = (Link *)object;
    struct zmq_message message;
    PyObject *data = NULL;
    int timeout = -1, got;

    if (argument != Py_None) {
        timeout = (int)PyLong_AsLong(argument);
        if (timeout == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    self->zmq.msg_init(&message);
    Py_BEGIN_ALLOW_THREADS
    got = receive_message(self, &message, timeout);
    Py_END_ALLOW_THREADS
    if (got >= 0) {
        data = bytes_of(self, &message);
    }
    self->zmq.msg_close(&message);
    if (got < 0) {
        Py_RETURN_NONE;
    }
    return data;
}

static PyObject *link_call(PyObject *object, PyObject *message)
{
    Link *self = (Link *)object;
    struct zmq_message answer;
    PyObject *packed = codec_pack(self->codec, message), *data, *found = NULL;
    int sent, got;

    if (!packed || packed == Py_None) {
        return packed;
    }
    self->zmq.msg_init(&answer);
    Py_BEGIN_ALLOW_THREADS
    sent = send_data(self, PyBytes_AS_STRING(packed), (size_t)PyBytes_GET_SIZE(packed));
    got = sent < 0 ? -1 : receive_message(self, &answer, -1);
    Py_END_ALLOW_THREADS
    Py_DECREF(packed);
    if (got < 0) {
        found = Py_NewRef(Py_None);
    } else if ((data = bytes_of(self, &answer))) {
        found = codec_unpack(self->codec, data);
        if (found == Py_None) { /* the codec in Python says what is wrong with it */
            Py_SETREF(found, Py_NewRef(data));
        }
        Py_DECREF(data);
    }
    self->zmq.msg_close(&answer);
    return found ? Py_BuildValue("Nii", found, sent < 0 ? 0 : sent, got < 0 ? 0 : got) : NULL;
}

static PyObject *link_news(PyObject *object, PyObject *Py_UNUSED(none))
{
    Link *self = (Link *)object;

    return PyBool_FromLong(poll(self->polled + 1, self->n - 1, 0) != 0);
}

static int link_init(PyObject *object, PyObject *args, PyObject *named)
{
    static char *names[] = {"functions", "codec", "socket", "descriptors", "times", NULL};
    Link *self = (Link *)object;
    PyObject *functions, *codec, *descriptors;
    unsigned long long socket, address[8];
    long long times[4];

    if (self->codec) {
        PyErr_SetString(PyExc_TypeError, "made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!OKO!(LLLL)", names, &PyTuple_Type, &functions, &codec, &socket,
                                     &PyTuple_Type, &descriptors, times, times + 1, times + 2, times + 3) ||
        !PyArg_ParseTuple(functions, "KKKKKKKK", address, address + 1, address + 2, address + 3, address + 4,
                          address + 5, address + 6, address + 7)) {
        return -1;
    }
    self->n = (nfds_t)PyTuple_GET_SIZE(descriptors);
    if (self->n < 1 || self->n > 1 + MOST_OTHERS) {
        PyErr_SetString(PyExc_ValueError, "the socket's descriptor and at most four others");
        return -1;
    }
    for (nfds_t i = 0; i < self->n; i++) {
        self->polled[i].fd = (int)PyLong_AsLong(PyTuple_GET_ITEM(descriptors, (Py_ssize_t)i));
        self->polled[i].events = POLLIN;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    _Static_assert(sizeof self->zmq == 8 * sizeof(void *), "one address for each function");
    for (int i = 0; i < 8; i++) {
        void *function = (void *)(uintptr_t)address[i];

        memcpy((char *)&self->zmq + i * sizeof function, &function, sizeof function);
    }
    if (!is_codec(codec)) {
        PyErr_Format(PyExc_TypeError, "a Codec is needed, not %s", Py_TYPE(codec)->tp_name);
        return -1;
    }
    self->codec = Py_NewRef(codec);
    self->socket = (void *)(uintptr_t)socket;
    self->awake = times[0];
    self->taken = times[1];
    self->first_rest = self->rest = times[2];
    self->longest_rest = times[3];
    return 0;
}

static void link_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    Py_XDECREF(((Link *)object)->codec);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef link_methods[] = {
    {"send", link_send, METH_O, "Send a message; return False when it cannot be sent now."},
    {"receive", link_receive, METH_O, "Wait for a message, up to so many ms (None: no limit); None: other news, or none for a while."},
    {"call", link_call, METH_O,
     "Send a message and wait for the next; return it (None: other news; bytes: not understood), bytes sent, received."
     "  None alone: nothing was done, the message is for Python to encode."},
    {"news", link_news, METH_NOARGS, "Return whether another descriptor has news."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_doc, "See dm.shim.link.Link, which this equals."},
    {Py_tp_init, link_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_methods, link_methods},
    {0, NULL},
};

PyType_Spec link_spec = {
    .name = "dm.fast._fast.Link",
    .basicsize = sizeof(Link),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = link_slots,
};
