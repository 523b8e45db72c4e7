/*
 * Codec: messages to MessagePack and back, checked against the schema, for what goes well.
 *
 * Told the schema as rows (dm.protocol.codec makes them), it either does exactly what dm.protocol.codec does in Python
 * or says None: for everything that is wrong, or right but unusual, that one decides and names what is the matter.
 */
#include "fast.h"
#include "messagepack.h"

enum kind { UNSIGNED, FLAG, TEXT, BLOB, CHOICE, RECORD, LIST, GROUPS };

struct shape;

struct type {
    enum kind kind;
    uint64_t most; /* UNSIGNED: largest; TEXT, BLOB: bytes; LIST: values; GROUPS: groups */
    uint64_t most_values, most_bytes; /* GROUPS: in each group, in each value */
    PyObject *words;                  /* CHOICE: tuple of its members */
    struct shape *record;
    struct type *of; /* LIST */
};

struct field {
    PyObject *name, *fallback; /* fallback: NULL when the field is required */
    const char *key;           /* the name in UTF-8 */
    size_t key_size;
    Py_ssize_t offset;
    struct type type;
};

/* A message or record class. */
struct shape {
    PyTypeObject *cls;
    PyObject *name; /* a message's, in the key `type` */
    uint64_t limit; /* bytes of a message */
    Py_ssize_t n;
    struct field *fields;
};

struct memory {
    struct memory *next;
    _Alignas(max_align_t) unsigned char data[];
};

typedef struct {
    PyObject_HEAD
    struct memory *memory; /* all tables */
    PyObject *kept;        /* all objects they refer to */
    Py_ssize_t n;
    struct shape *messages;
} Codec;

/* ------------------------------------------------------------------------------------------- writing */

/* The writer of codec_pack(): begins on the stack. */
struct out {
    struct x86_dm__writer writer;
    unsigned char *to_free;
};

static bool grow(struct x86_dm__writer *writer, size_t needed, size_t *room)
{
    struct out *out = (struct out *)writer;
    unsigned char *data = PyMem_Malloc(*room = 2 * needed);

    if (!data) {
        return false;
    }
    memcpy(data, writer->data, x86_dm__written(writer));
    PyMem_Free(out->to_free);
    writer->data = out->to_free = data;
    return true;
}

static bool put_text(struct x86_dm__writer *out, PyObject *text, uint64_t most)
{
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(text, &size);

    if (!data || (uint64_t)size > most) {
        return false;
    }
    x86_dm__put_str(out, data, (size_t)size);
    return true;
}

static bool put_blob(struct x86_dm__writer *out, PyObject *blob, uint64_t most)
{
    uint64_t size = (uint64_t)PyBytes_GET_SIZE(blob);

    if (size > most) {
        return false;
    }
    x86_dm__put_bin(out, PyBytes_AS_STRING(blob), size);
    return true;
}

/* The head of a list, if `list` is one of at most so many values. */
static bool put_list(struct x86_dm__writer *out, PyObject *list, uint64_t most)
{
    if (!PyList_CheckExact(list) || (uint64_t)PyList_GET_SIZE(list) > most) {
        return false;
    }
    x86_dm__put_array(out, (size_t)PyList_GET_SIZE(list));
    return true;
}

static bool put_number(struct x86_dm__writer *out, PyObject *value, uint64_t most)
{
    uint64_t number;

    if (!is_unsigned(value, most, &number)) {
        return false;
    }
    x86_dm__put_unsigned(out, number);
    return true;
}

static bool put_groups(struct x86_dm__writer *out, const struct type *type, PyObject *groups)
{
    PyObject *name, *values;
    Py_ssize_t at = 0;

    if (!PyDict_CheckExact(groups) || (uint64_t)PyDict_GET_SIZE(groups) > type->most) {
        return false;
    }
    x86_dm__put_map(out, (size_t)PyDict_GET_SIZE(groups));
    while (PyDict_Next(groups, &at, &name, &values)) {
        if (!PyUnicode_CheckExact(name) || !put_text(out, name, UINT32_MAX) ||
            !put_list(out, values, type->most_values)) {
            return false;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++) {
            PyObject *value = PyList_GET_ITEM(values, i);

            if (PyBytes_CheckExact(value) ? !put_blob(out, value, type->most_bytes)
                                          : !put_number(out, value, UINT64_MAX)) {
                return false;
            }
        }
    }
    return true;
}

/* Write a value; false when it is not as its type has it. */
static bool put_value(struct x86_dm__writer *out, const struct type *type, PyObject *value)
{
    switch (type->kind) {
    case UNSIGNED:
        return put_number(out, value, type->most);
    case FLAG:
        x86_dm__put_boolean(out, value == Py_True);
        return PyBool_Check(value);
    case TEXT:
        return PyUnicode_CheckExact(value) && put_text(out, value, type->most);
    case BLOB:
        return PyBytes_CheckExact(value) && put_blob(out, value, type->most);
    case CHOICE:
        return Py_IS_TYPE(value, Py_TYPE(PyTuple_GET_ITEM(type->words, 0))) && put_text(out, value, UINT32_MAX);
    case RECORD:
        if (!Py_IS_TYPE(value, type->record->cls)) {
            return false;
        }
        x86_dm__put_array(out, (size_t)type->record->n);
        for (Py_ssize_t i = 0; i < type->record->n; i++) {
            PyObject *part = *slot_at(value, type->record->fields[i].offset);

            if (!part || !put_value(out, &type->record->fields[i].type, part)) {
                return false;
            }
        }
        return true;
    case LIST:
        if (!put_list(out, value, type->most)) {
            return false;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); i++) {
            if (!put_value(out, type->of, PyList_GET_ITEM(value, i))) {
                return false;
            }
        }
        return true;
    case GROUPS:
        return put_groups(out, type, value);
    }
    return false;
}

/* Tell whether a value is the default, which is left out: 1, 0, or -1 for what Python has to compare. */
static int is_default(PyObject *value, PyObject *fallback)
{
    if (value == fallback || value == Py_None) {
        return 1;
    }
    if (PyList_CheckExact(value) && PyList_CheckExact(fallback)) { /* the default is empty */
        return PyList_GET_SIZE(value) == 0;
    }
    if (fallback == Py_None || Py_TYPE(value) != Py_TYPE(fallback)) {
        /* True == 1: the reference leaves that out */
        return PyBool_Check(value) && PyLong_Check(fallback) ? -1 : 0;
    }
    if (PyLong_CheckExact(value) || PyUnicode_Check(value) || PyBytes_CheckExact(value)) {
        return PyObject_RichCompareBool(value, fallback, Py_EQ);
    }
    return PyBool_Check(value) ? 0 : -1;
}

PyObject *codec_pack(PyObject *object, PyObject *message)
{
    Codec *self = (Codec *)object;
    unsigned char here[1024];
    enum { WIDEST_MAP = 3 }; /* the head comes last: how many fields there are is not known yet */
    struct out out = {x86_dm__write_to(here, WIDEST_MAP, sizeof here, grow), NULL};
    struct x86_dm__writer *writer = &out.writer;
    const struct shape *shape = self->messages, *end = shape + self->n;
    unsigned n = 1;
    PyObject *data = NULL;

    while (shape < end && !Py_IS_TYPE(message, shape->cls)) {
        shape++;
    }
    if (shape == end) {
        Py_RETURN_NONE;
    }
    x86_dm__put_str(writer, "type", 4);
    if (!put_text(writer, shape->name, UINT32_MAX)) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        const struct field *field = &shape->fields[i];
        PyObject *value = *slot_at(message, field->offset);
        int left_out;

        if (!value) {
            goto done;
        }
        left_out = field->fallback ? is_default(value, field->fallback) : 0;
        if (left_out > 0) {
            continue;
        }
        x86_dm__put_str(writer, field->key, field->key_size);
        if (left_out < 0 || !put_value(writer, &field->type, value)) {
            goto done;
        }
        n++;
    }
    if (!writer->failed) {
        uint8_t *start = writer->data + (n < 16 ? WIDEST_MAP - 1 : 0);
        struct x86_dm__writer head = x86_dm__write_to(start, 0, WIDEST_MAP, NULL);

        x86_dm__put_map(&head, n);
        if ((size_t)(writer->at - start) <= shape->limit) {
            data = PyBytes_FromStringAndSize((char *)start, writer->at - start);
        }
    }
done:
    PyMem_Free(out.to_free);
    if (data) {
        return data;
    }
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------- reading */

static PyObject *blob_of(const struct x86_dm__item *item, uint64_t most)
{
    if (item->type != X86_DM__BIN || item->number > most) {
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)item->data, (Py_ssize_t)item->number);
}

/* Return text, or NULL when it is not; with an exception when it is no UTF-8. */
static PyObject *text_of(const struct x86_dm__item *item, uint64_t most)
{
    if (item->type != X86_DM__STR || item->number > most) {
        return NULL;
    }
    return PyUnicode_DecodeUTF8((const char *)item->data, (Py_ssize_t)item->number, NULL);
}

/* Return the next value of a state group, or NULL. */
static PyObject *get_slot(struct x86_dm__reader *in, uint64_t most_bytes)
{
    struct x86_dm__item item = x86_dm__next(in);

    return item.type == X86_DM__UNSIGNED ? PyLong_FromUnsignedLongLong(item.number) : blob_of(&item, most_bytes);
}

static PyObject *get_groups(struct x86_dm__reader *in, const struct type *type)
{
    struct x86_dm__item head = x86_dm__next(in);
    PyObject *groups;

    if (head.type != X86_DM__MAP || head.number > type->most || !(groups = PyDict_New())) {
        return NULL;
    }
    for (uint64_t i = 0; i < head.number; i++) {
        struct x86_dm__item key = x86_dm__next(in), count = x86_dm__next(in);
        PyObject *name, *values;
        bool fine = false;

        if (count.type != X86_DM__ARRAY || count.number > type->most_values || !(name = text_of(&key, UINT64_MAX))) {
            goto failed;
        }
        if ((values = PyList_New((Py_ssize_t)count.number))) {
            fine = true;
            for (uint64_t k = 0; k < count.number && fine; k++) {
                PyObject *value = get_slot(in, type->most_bytes);

                fine = value != NULL;
                PyList_SET_ITEM(values, (Py_ssize_t)k, value);
            }
            fine = fine && PyDict_SetItem(groups, name, values) == 0;
            Py_DECREF(values);
        }
        Py_DECREF(name);
        if (!fine) {
            goto failed;
        }
    }
    if ((uint64_t)PyDict_GET_SIZE(groups) == head.number) { /* else a name came twice */
        return groups;
    }
failed:
    Py_DECREF(groups);
    return NULL;
}

static PyObject *get_value(struct x86_dm__reader *in, const struct type *type);

/* Return what a field holds that does not travel. */
static PyObject *fallback_of(const struct field *field)
{
    if (!field->fallback) {
        return NULL;
    }
    return PyList_CheckExact(field->fallback) ? PyList_New(0) : Py_NewRef(field->fallback);
}

static PyObject *get_record(struct x86_dm__reader *in, const struct shape *shape)
{
    struct x86_dm__item head = x86_dm__next(in);
    PyObject *made;

    if (head.type != X86_DM__ARRAY || head.number > (uint64_t)shape->n || !(made = shape->cls->tp_alloc(shape->cls, 0))) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        const struct field *field = &shape->fields[i];
        PyObject *value = (uint64_t)i < head.number ? get_value(in, &field->type) : fallback_of(field);

        if (!value) {
            Py_DECREF(made);
            return NULL;
        }
        *slot_at(made, field->offset) = value;
    }
    return made;
}

static PyObject *get_list(struct x86_dm__reader *in, const struct type *type)
{
    struct x86_dm__item head = x86_dm__next(in);
    PyObject *list;

    if (head.type != X86_DM__ARRAY || head.number > type->most || !(list = PyList_New((Py_ssize_t)head.number))) {
        return NULL;
    }
    for (uint64_t i = 0; i < head.number; i++) {
        PyObject *value = get_value(in, type->of);

        if (!value) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, value);
    }
    return list;
}

static PyObject *word_of(const struct x86_dm__item *item, PyObject *words)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(words); i++) {
        PyObject *word = PyTuple_GET_ITEM(words, i);
        Py_ssize_t size;
        const char *known = PyUnicode_AsUTF8AndSize(word, &size);

        if (known && x86_dm__says(item, known, (size_t)size)) {
            return Py_NewRef(word);
        }
    }
    return NULL;
}

/* Return the value that comes next, or NULL when it is not as this type has it (perhaps with an exception). */
static PyObject *get_value(struct x86_dm__reader *in, const struct type *type)
{
    struct x86_dm__item item;

    switch (type->kind) {
    case UNSIGNED:
        return x86_dm__next_unsigned(in, &item.number) && item.number <= type->most
                   ? PyLong_FromUnsignedLongLong(item.number)
                   : NULL;
    case RECORD:
        return get_record(in, type->record);
    case LIST:
        return get_list(in, type);
    case GROUPS:
        return get_groups(in, type);
    default:
        item = x86_dm__next(in);
    }
    switch (type->kind) {
    case FLAG:
        return item.type == X86_DM__BOOLEAN ? PyBool_FromLong((long)item.number) : NULL;
    case TEXT:
        return text_of(&item, type->most);
    case BLOB:
        return blob_of(&item, type->most);
    default:
        return word_of(&item, type->words);
    }
}

/* Return the field a key names, which is most often the one at `from` or soon after it; NULL when there is none. */
static const struct field *find(const struct shape *shape, Py_ssize_t from, const struct x86_dm__item *key)
{
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        const struct field *field = &shape->fields[from];

        if (x86_dm__says(key, field->key, field->key_size)) {
            return field;
        }
        from = from + 1 == shape->n ? 0 : from + 1;
    }
    return NULL;
}

/* Read the fields of a message; false when one is not as it should be. */
static bool get_fields(struct x86_dm__reader *in, const struct shape *shape, uint64_t n, PyObject *made)
{
    Py_ssize_t next = 0;

    for (; n; n--) {
        struct x86_dm__item key = x86_dm__next(in);
        const struct field *field = find(shape, next, &key);
        PyObject *value;

        if (!field || *slot_at(made, field->offset) || !(value = get_value(in, &field->type))) {
            return false;
        }
        *slot_at(made, field->offset) = value;
        next = field - shape->fields + 1 == shape->n ? 0 : field - shape->fields + 1;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        PyObject **slot = slot_at(made, shape->fields[i].offset);

        if (!*slot && !(*slot = fallback_of(&shape->fields[i]))) {
            return false;
        }
    }
    return in->at == in->end;
}

PyObject *codec_unpack(PyObject *object, PyObject *data)
{
    Codec *self = (Codec *)object;
    const struct shape *shape = self->messages, *end = shape + self->n;
    struct x86_dm__reader in;
    struct x86_dm__item head, key, name;
    PyObject *made;

    if (!PyBytes_CheckExact(data)) {
        Py_RETURN_NONE;
    }
    in.at = (const unsigned char *)PyBytes_AS_STRING(data);
    in.end = in.at + PyBytes_GET_SIZE(data);
    head = x86_dm__next(&in);
    key = x86_dm__next(&in);
    name = x86_dm__next(&in);
    if (head.type != X86_DM__MAP || !head.number || !x86_dm__says(&key, "type", 4)) {
        Py_RETURN_NONE;
    }
    for (; shape < end; shape++) {
        Py_ssize_t size;
        const char *known = PyUnicode_AsUTF8AndSize(shape->name, &size);

        if (known && x86_dm__says(&name, known, (size_t)size)) {
            break;
        }
    }
    if (shape < end && (uint64_t)PyBytes_GET_SIZE(data) <= shape->limit && (made = shape->cls->tp_alloc(shape->cls, 0))) {
        if (get_fields(&in, shape, head.number - 1, made)) {
            return made;
        }
        Py_DECREF(made);
    }
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------- tables */

static void *get_memory(Codec *self, size_t n, size_t size)
{
    struct memory *memory = PyMem_Calloc(1, sizeof *memory + n * size);

    if (!memory) {
        PyErr_NoMemory();
        return NULL;
    }
    memory->next = self->memory;
    self->memory = memory;
    return memory->data;
}

static bool read_shape(Codec *self, struct shape *shape, PyObject *cls, PyObject *rows);

/* Take in a field's type: a tuple that begins with its letter. */
static bool read_type(Codec *self, struct type *type, PyObject *row)
{
    static const char letters[] = "uftbcrlg";
    const char *letter, *found;
    unsigned long long most = 0, values = 0, bytes = 0;
    PyObject *one = NULL, *two = NULL;

    if (!PyTuple_CheckExact(row) || PyTuple_GET_SIZE(row) < 1 ||
        !(letter = PyUnicode_AsUTF8(PyTuple_GET_ITEM(row, 0))) || !(found = strchr(letters, *letter))) {
        goto wrong;
    }
    type->kind = (enum kind)(found - letters);
    switch (type->kind) {
    case UNSIGNED:
    case TEXT:
    case BLOB:
        if (!PyArg_ParseTuple(row, "sK", &letter, &most)) {
            return false;
        }
        break;
    case FLAG:
        break;
    case CHOICE:
        if (!PyArg_ParseTuple(row, "sO!", &letter, &PyTuple_Type, &type->words)) {
            return false;
        }
        break;
    case RECORD:
        if (!PyArg_ParseTuple(row, "sO!O!", &letter, &PyType_Type, &one, &PyTuple_Type, &two) ||
            !(type->record = get_memory(self, 1, sizeof *type->record))) {
            return false;
        }
        return read_shape(self, type->record, one, two);
    case LIST:
        if (!PyArg_ParseTuple(row, "sKO!", &letter, &most, &PyTuple_Type, &one) ||
            !(type->of = get_memory(self, 1, sizeof *type->of)) || !read_type(self, type->of, one)) {
            return false;
        }
        break;
    case GROUPS:
        if (!PyArg_ParseTuple(row, "sKKK", &letter, &most, &values, &bytes)) {
            return false;
        }
        break;
    }
    type->most = most;
    type->most_values = values;
    type->most_bytes = bytes;
    return true;
wrong:
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "%R is no type of a field", row);
    }
    return false;
}

/* Take in a class's rows: (name, type, whether optional, default). */
static bool read_shape(Codec *self, struct shape *shape, PyObject *cls, PyObject *rows)
{
    shape->cls = (PyTypeObject *)cls;
    shape->n = PyTuple_GET_SIZE(rows);
    if (!(shape->fields = get_memory(self, (size_t)shape->n + 1, sizeof *shape->fields))) {
        return false;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        struct field *field = &shape->fields[i];
        Py_ssize_t size;
        int optional;
        PyObject *type, *fallback;

        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(rows, i), "O!O!pO", &PyUnicode_Type, &field->name, &PyTuple_Type, &type,
                              &optional, &fallback) ||
            !(field->key = PyUnicode_AsUTF8AndSize(field->name, &size)) ||
            (field->offset = slot_of(shape->cls, field->name)) < 0 || !read_type(self, &field->type, type)) {
            return false;
        }
        field->key_size = (size_t)size;
        field->fallback = optional ? fallback : NULL;
    }
    return true;
}

static int codec_init(PyObject *object, PyObject *args, PyObject *named)
{
    static char *names[] = {"messages", NULL};
    Codec *self = (Codec *)object;
    PyObject *messages;

    if (self->kept) {
        PyErr_SetString(PyExc_TypeError, "made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!", names, &PyTuple_Type, &messages) ||
        !(self->messages = get_memory(self, (size_t)PyTuple_GET_SIZE(messages), sizeof *self->messages))) {
        return -1;
    }
    self->kept = Py_NewRef(messages); /* rows keep all that the tables point to */
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(messages); i++) {
        struct shape *shape = &self->messages[i];
        unsigned long long limit;
        PyObject *cls, *rows;

        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(messages, i), "O!O!KO!", &PyType_Type, &cls, &PyUnicode_Type,
                              &shape->name, &limit, &PyTuple_Type, &rows) ||
            !read_shape(self, shape, cls, rows)) {
            return -1;
        }
        shape->limit = limit;
        self->n = i + 1;
    }
    return 0;
}

static void codec_dealloc(PyObject *object)
{
    Codec *self = (Codec *)object;
    PyTypeObject *type = Py_TYPE(object);
    struct memory *next;

    for (struct memory *memory = self->memory; memory; memory = next) {
        next = memory->next;
        PyMem_Free(memory);
    }
    Py_XDECREF(self->kept);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef codec_methods[] = {
    {"pack", codec_pack, METH_O, "Return a message's bytes, or None: ask Python."},
    {"unpack", codec_unpack, METH_O, "Return the message in bytes, or None: ask Python."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot codec_slots[] = {
    {Py_tp_doc, "See dm.protocol.codec, which this equals where it does not say None."},
    {Py_tp_init, codec_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, codec_dealloc},
    {Py_tp_methods, codec_methods},
    {0, NULL},
};

bool is_codec(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == codec_dealloc;
}

PyType_Spec codec_spec = {
    .name = "dm.fast._fast.Codec",
    .basicsize = sizeof(Codec),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = codec_slots,
};
