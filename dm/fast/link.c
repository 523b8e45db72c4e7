/*
 * Link: sends and receives on a ZeroMQ socket without the interpreter (waiting.h).
 *
 * libzmq is the one pyzmq uses, reached through the addresses of its functions: a second copy could not share sockets.
 */
#include "fast.h"

#include "waiting.h"

enum { MOST_OTHERS = 4 };
/*
 * Longest sleep, in ms.  A signal that comes just before it does not end it, and Python's handlers run only when the
 * interpreter has the thread back.
 */
enum { LONGEST_SLEEP = 100 };

typedef struct {
    PyObject_HEAD
    struct x86_dm__libzmq zmq;
    void *socket;
    PyObject *codec;
    struct pollfd polled[1 + MOST_OTHERS]; /* the socket's first */
    nfds_t n;
    struct x86_dm__waiter waiter;
} Link;

/* Send a message, without the interpreter's lock. */
static bool send_data(Link *self, const void *data, size_t size)
{
    return x86_dm__send_part(&self->zmq, self->socket, data, size, 0);
}

/* Receive a message; false when there is none but another event, a signal or a time-out. */
static bool receive_message(Link *self, zmq_msg_t *message, int timeout)
{
    if (timeout < 0 || timeout > LONGEST_SLEEP) {
        timeout = LONGEST_SLEEP;
    }
    return x86_dm__await(&self->zmq, self->socket, &self->waiter, self->polled, self->n, timeout, message) ==
           X86_DM__MESSAGE;
}

static PyObject *link_send(PyObject *object, PyObject *data)
{
    bool sent;

    if (!PyBytes_Check(data)) {
        return PyErr_Format(PyExc_TypeError, "bytes are sent, not %s", Py_TYPE(data)->tp_name);
    }
    Py_BEGIN_ALLOW_THREADS
    sent = send_data((Link *)object, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(sent);
}

static PyObject *bytes_of(Link *self, zmq_msg_t *message)
{
    return PyBytes_FromStringAndSize(self->zmq.msg_data(message), (Py_ssize_t)self->zmq.msg_size(message));
}

static PyObject *link_receive(PyObject *object, PyObject *argument)
{
    Link *self = (Link *)object;
    zmq_msg_t message;
    PyObject *data = NULL;
    int timeout = -1;
    bool got;

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
    if (got) {
        data = bytes_of(self, &message);
    }
    self->zmq.msg_close(&message);
    if (!got) {
        Py_RETURN_NONE;
    }
    return data;
}

static PyObject *link_call(PyObject *object, PyObject *message)
{
    Link *self = (Link *)object;
    zmq_msg_t answer;
    PyObject *packed = codec_pack(self->codec, message), *data, *found = NULL;
    Py_ssize_t sent = 0, got = 0;
    bool answered = false;

    if (!packed || packed == Py_None) {
        return packed;
    }
    self->zmq.msg_init(&answer);
    Py_BEGIN_ALLOW_THREADS
    if (send_data(self, PyBytes_AS_STRING(packed), (size_t)PyBytes_GET_SIZE(packed))) {
        sent = PyBytes_GET_SIZE(packed);
        answered = receive_message(self, &answer, -1);
    }
    Py_END_ALLOW_THREADS
    Py_DECREF(packed);
    if (!answered) {
        found = Py_NewRef(Py_None);
    } else if ((data = bytes_of(self, &answer))) {
        got = PyBytes_GET_SIZE(data);
        found = codec_unpack(self->codec, data);
        if (found == Py_None) { /* the codec in Python says what is wrong with it */
            Py_SETREF(found, Py_NewRef(data));
        }
        Py_DECREF(data);
    }
    self->zmq.msg_close(&answer);
    return found ? Py_BuildValue("Nnn", found, sent, got) : NULL;
}

static PyObject *link_news(PyObject *object, PyObject *Py_UNUSED(none))
{
    Link *self = (Link *)object;

    return PyBool_FromLong(poll(self->polled + 1, self->n - 1, 0) != 0);
}

static int link_init(PyObject *object, PyObject *args, PyObject *named)
{
    static char *names[] = {"functions", "codec", "socket", "descriptors", NULL};
    enum { FUNCTIONS = sizeof(struct x86_dm__libzmq) / sizeof(void *) };
    Link *self = (Link *)object;
    PyObject *functions, *codec, *descriptors;
    unsigned long long socket;

    if (self->codec) {
        PyErr_SetString(PyExc_TypeError, "made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!OKO!", names, &PyTuple_Type, &functions, &codec, &socket,
                                     &PyTuple_Type, &descriptors)) {
        return -1;
    }
    if (PyTuple_GET_SIZE(functions) != FUNCTIONS) {
        PyErr_Format(PyExc_ValueError, "%d functions of libzmq are needed, not %zd", (int)FUNCTIONS,
                     PyTuple_GET_SIZE(functions));
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
    for (Py_ssize_t i = 0; i < FUNCTIONS; i++) {
        void *function = PyLong_AsVoidPtr(PyTuple_GET_ITEM(functions, i));

        if (!function) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "a function of libzmq is not there");
            }
            return -1;
        }
        memcpy((char *)&self->zmq + (size_t)i * sizeof function, &function, sizeof function);
    }
    if (!is_codec(codec)) {
        PyErr_Format(PyExc_TypeError, "a Codec is needed, not %s", Py_TYPE(codec)->tp_name);
        return -1;
    }
    self->codec = Py_NewRef(codec);
    self->socket = (void *)(uintptr_t)socket;
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
