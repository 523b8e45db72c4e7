/*
 * Groups: what differs between a State and groups that are known, and groups stored in a State.
 *
 * Values are compared by identity first, so a state that has hardly changed is compared without a look at its numbers.
 */
#include "fast.h"

enum { MOST_VALUES = 256 };

/* One attribute: a number, `count` numbers in a list, or `size` bytes. */
struct place {
    Py_ssize_t offset;
    Py_ssize_t count; /* 0: one number, or bytes */
    Py_ssize_t size;  /* of bytes; 0: numbers */
    uint64_t most;
};

struct group {
    PyObject *name;
    Py_ssize_t n; /* values */
    Py_ssize_t n_places;
    struct place *places;
    bool segments; /* `places` are those of a segment, and there is a list of segments */
};

typedef struct {
    PyObject_HEAD
    PyTypeObject *state, *segment;
    Py_ssize_t seg; /* where a State has its list of segments */
    Py_ssize_t n_segments;
    Py_ssize_t n;
    struct group *groups;
} Groups;

/* Return an instance's attributes of this group as a list of objects that have them, or NULL when it has none such. */
static PyObject *const *holders(Groups *self, const struct group *group, PyObject **state, Py_ssize_t *n)
{
    PyObject *list;

    *n = 1;
    if (!group->segments) {
        return state;
    }
    list = *slot_at(*state, self->seg);
    if (!list || !PyList_CheckExact(list) || PyList_GET_SIZE(list) != self->n_segments) {
        return NULL;
    }
    *n = self->n_segments;
    for (Py_ssize_t i = 0; i < *n; i++) {
        if (!Py_IS_TYPE(PyList_GET_ITEM(list, i), self->segment)) {
            return NULL;
        }
    }
    return ((PyListObject *)list)->ob_item;
}

/* Collect the values of a group (borrowed); false when the state does not hold what it should. */
static bool collect(Groups *self, const struct group *group, PyObject *state, PyObject **values)
{
    Py_ssize_t n;
    PyObject *const *holder = holders(self, group, &state, &n);

    if (!holder) {
        return false;
    }
    for (Py_ssize_t h = 0; h < n; h++) {
        for (Py_ssize_t p = 0; p < group->n_places; p++) {
            const struct place *place = &group->places[p];
            PyObject *value = *slot_at(holder[h], place->offset);

            if (!value) {
                return false;
            }
            if (!place->count) {
                *values++ = value;
                continue;
            }
            if (!PyList_CheckExact(value) || PyList_GET_SIZE(value) != place->count) {
                return false;
            }
            for (Py_ssize_t i = 0; i < place->count; i++) {
                *values++ = PyList_GET_ITEM(value, i);
            }
        }
    }
    return true;
}

/* Return 1 when two values are the same, 0 when not, -1 for what is neither an integer nor bytes. */
static int same(PyObject *one, PyObject *other)
{
    if (one == other) {
        return 1;
    }
    if (!(PyLong_CheckExact(one) || PyBytes_CheckExact(one)) || !(PyLong_CheckExact(other) || PyBytes_CheckExact(other))) {
        return -1;
    }
    return PyObject_RichCompareBool(one, other, Py_EQ);
}

static PyObject *groups_changed(PyObject *object, PyObject *const *args, Py_ssize_t n_args)
{
    Groups *self = (Groups *)object;
    PyObject *values[MOST_VALUES], *out, *state, *known;

    if (n_args != 2 || !Py_IS_TYPE(args[0], self->state) || !PyDict_CheckExact(args[1])) {
        Py_RETURN_NONE;
    }
    state = args[0];
    known = args[1];
    if (!(out = PyDict_New())) {
        return NULL;
    }
    for (Py_ssize_t g = 0; g < self->n; g++) {
        const struct group *group = &self->groups[g];
        PyObject *old = PyDict_GetItemWithError(known, group->name), *list;
        bool differs = !old || !PyList_CheckExact(old) || PyList_GET_SIZE(old) != group->n;

        if (!collect(self, group, state, values)) {
            goto unknown;
        }
        for (Py_ssize_t i = 0; i < group->n && !differs; i++) {
            int equal = same(values[i], PyList_GET_ITEM(old, i));

            if (equal < 0) {
                goto unknown;
            }
            differs = !equal;
        }
        if (!differs) {
            continue;
        }
        if (!(list = PyList_New(group->n))) {
            goto failed;
        }
        for (Py_ssize_t i = 0; i < group->n; i++) {
            PyList_SET_ITEM(list, i, Py_NewRef(values[i]));
        }
        if (PyDict_SetItem(out, group->name, list) < 0) {
            Py_DECREF(list);
            goto failed;
        }
        Py_DECREF(list);
    }
    return out;
unknown:
    PyErr_Clear();
    Py_DECREF(out);
    Py_RETURN_NONE;
failed:
    Py_DECREF(out);
    return NULL;
}

static bool fits(const struct place *place, PyObject *value)
{
    uint64_t number;

    if (place->size) {
        return PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) == place->size;
    }
    return is_unsigned(value, place->most, &number);
}

/* Store a group's values; false, with nothing changed, when they or the state are not as they should be. */
static bool store(Groups *self, const struct group *group, PyObject *state, PyObject *list)
{
    Py_ssize_t n, at = 0;
    PyObject *const *holder = holders(self, group, &state, &n);

    if (!holder || !PyList_CheckExact(list) || PyList_GET_SIZE(list) < group->n) {
        return false;
    }
    for (Py_ssize_t h = 0; h < n; h++) {
        for (Py_ssize_t p = 0; p < group->n_places; p++) {
            for (Py_ssize_t i = 0; i < (group->places[p].count ? group->places[p].count : 1); i++) {
                if (!fits(&group->places[p], PyList_GET_ITEM(list, at++))) {
                    return false;
                }
            }
        }
    }
    at = 0;
    for (Py_ssize_t h = 0; h < n; h++) {
        for (Py_ssize_t p = 0; p < group->n_places; p++) {
            const struct place *place = &group->places[p];
            PyObject *value;

            if (place->count) {
                if (!(value = PyList_GetSlice(list, at, at + place->count))) {
                    PyErr_Clear();
                    return false;
                }
                at += place->count;
            } else {
                value = Py_NewRef(PyList_GET_ITEM(list, at++));
            }
            Py_XSETREF(*slot_at(holder[h], place->offset), value);
        }
    }
    return true;
}

static PyObject *groups_store(PyObject *object, PyObject *const *args, Py_ssize_t n_args)
{
    Groups *self = (Groups *)object;
    PyObject *name, *list;
    Py_ssize_t at = 0;

    if (n_args != 2 || !Py_IS_TYPE(args[0], self->state) || !PyDict_CheckExact(args[1])) {
        Py_RETURN_FALSE;
    }
    while (PyDict_Next(args[1], &at, &name, &list)) {
        for (Py_ssize_t g = 0; g < self->n; g++) {
            const struct group *group = &self->groups[g];

            if (name != group->name && !(PyUnicode_CheckExact(name) && PyUnicode_Compare(name, group->name) == 0)) {
                continue;
            }
            if (!store(self, group, args[0], list)) {
                Py_RETURN_FALSE;
            }
            break;
        }
    }
    Py_RETURN_TRUE;
}

/* Take in one group's row: (name, whether of segments, ((attribute, count, size of bytes, largest number), ...)). */
static bool read_group(Groups *self, struct group *group, PyObject *row)
{
    PyObject *places;
    int segments;

    if (!PyArg_ParseTuple(row, "O!pO!", &PyUnicode_Type, &group->name, &segments, &PyTuple_Type, &places)) {
        group->name = NULL;
        return false;
    }
    Py_INCREF(group->name);
    PyUnicode_InternInPlace(&group->name);
    group->segments = segments;
    group->places = PyMem_Calloc((size_t)PyTuple_GET_SIZE(places), sizeof *group->places);
    if (!group->places) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); i++) {
        struct place *place = &group->places[i];
        unsigned long long most;
        PyObject *name;

        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(places, i), "O!nnK", &PyUnicode_Type, &name, &place->count, &place->size,
                              &most) ||
            (place->offset = slot_of(segments ? self->segment : self->state, name)) < 0) {
            return false;
        }
        place->most = most;
        group->n += place->count ? place->count : 1;
    }
    group->n_places = PyTuple_GET_SIZE(places);
    group->n *= segments ? self->n_segments : 1;
    if (group->n > MOST_VALUES) {
        PyErr_Format(PyExc_ValueError, "group %U has more than %d values", group->name, MOST_VALUES);
        return false;
    }
    return true;
}

static int groups_init(PyObject *object, PyObject *args, PyObject *named)
{
    static char *names[] = {"state", "segment", "seg", "segments", "rows", NULL};
    Groups *self = (Groups *)object;
    PyTypeObject *state, *segment;
    PyObject *seg, *rows;

    if (self->groups) {
        PyErr_SetString(PyExc_TypeError, "made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!O!O!nO!", names, &PyType_Type, &state, &PyType_Type, &segment,
                                     &PyUnicode_Type, &seg, &self->n_segments, &PyTuple_Type, &rows) ||
        (self->seg = slot_of(state, seg)) < 0) {
        return -1;
    }
    self->state = (PyTypeObject *)Py_NewRef(state);
    self->segment = (PyTypeObject *)Py_NewRef(segment);
    self->groups = PyMem_Calloc((size_t)PyTuple_GET_SIZE(rows), sizeof *self->groups);
    if (!self->groups) {
        PyErr_NoMemory();
        return -1;
    }
    self->n = PyTuple_GET_SIZE(rows);
    for (Py_ssize_t i = 0; i < self->n; i++) {
        if (!read_group(self, &self->groups[i], PyTuple_GET_ITEM(rows, i))) {
            return -1;
        }
    }
    return 0;
}

static void groups_dealloc(PyObject *object)
{
    Groups *self = (Groups *)object;
    PyTypeObject *type = Py_TYPE(object);

    for (Py_ssize_t i = 0; i < self->n; i++) {
        Py_XDECREF(self->groups[i].name);
        PyMem_Free(self->groups[i].places);
    }
    PyMem_Free(self->groups);
    Py_XDECREF(self->state);
    Py_XDECREF(self->segment);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef groups_methods[] = {
    {"changed", (PyCFunction)(void (*)(void))groups_changed, METH_FASTCALL,
     "Return the groups of a state that differ from known ones; None: unusual, ask Python."},
    {"store", (PyCFunction)(void (*)(void))groups_store, METH_FASTCALL,
     "Store groups in a state; False: unusual, ask Python, which may do all of it again."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot groups_slots[] = {
    {Py_tp_doc, "See dm.machine.groups, which this equals."},
    {Py_tp_init, groups_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, groups_dealloc},
    {Py_tp_methods, groups_methods},
    {0, NULL},
};

PyType_Spec groups_spec = {
    .name = "dm.fast._fast.Groups",
    .basicsize = sizeof(Groups),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = groups_slots,
};
