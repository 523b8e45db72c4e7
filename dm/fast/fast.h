/* The hot part of every exchange between shim and daemon, in C.  Each type has a Python equivalent that is the
 * reference; what a type here does not know, it leaves to that one. */
#ifndef DM_FAST_H
#define DM_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern PyType_Spec codec_spec, groups_spec, link_spec;

bool is_codec(PyObject *object);
/* Codec.pack and Codec.unpack. */
PyObject *codec_pack(PyObject *codec, PyObject *message);
PyObject *codec_unpack(PyObject *codec, PyObject *data);

/* Return where instances of a class with __slots__ keep an attribute; -1 with an exception when they do not. */
Py_ssize_t slot_of(PyTypeObject *cls, PyObject *name);

static inline PyObject **slot_at(PyObject *object, Py_ssize_t offset)
{
    return (PyObject **)((char *)object + offset);
}

/* Tell whether `object` is an int (no bool) from 0 to `most`, and which. */
static inline bool is_unsigned(PyObject *object, uint64_t most, uint64_t *value)
{
    if (!PyLong_CheckExact(object)) {
        return false;
    }
    *value = PyLong_AsUnsignedLongLong(object);
    if (*value == UINT64_MAX && PyErr_Occurred()) { /* negative, or too large */
        PyErr_Clear();
        return false;
    }
    return *value <= most;
}

#endif
