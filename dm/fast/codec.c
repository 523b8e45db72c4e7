/*
 * Codec: messages to MessagePack and back, checked against the schema, for what goes well.
 *
 * Told the schema as rows (dm.protocol.codec makes them), it either does exactly what dm.protocol.codec does in Python
 * or says None: for everything that is wrong, or right but unusual, that one decides and names what is the matter.
 */
#include "fast.h"

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

struct out {
    unsigned char *data, *to_free;
    size_t size, room;
};

static bool make_room(struct out *out, size_t more)
{
    size_t room = out->room * 2 > out->size + more ? out->room * 2 : out->size + more;
    unsigned char *data;

    if (out->room - out->size >= more) {
        return true;
    }
    if (!(data = PyMem_Malloc(room))) {
        return false;
    }
    memcpy(data, out->data, out->size);
    PyMem_Free(out->to_free);
    out->data = out->to_free = data;
    out->room = room;
    return true;
}

/* Write `head` and then `bytes` of `value`, the most significant first. */
static void put_head(struct out *out, unsigned head, uint64_t value, int bytes)
{
    out->data[out->size++] = (unsigned char)head;
    while (bytes--) {
        out->data[out->size++] = (unsigned char)(value >> 8 * bytes);
    }
}

enum { LONGEST_HEAD = 9 };

static bool put_unsigned(struct out *out, uint64_t value)
{
    if (!make_room(out, LONGEST_HEAD)) {
        return false;
    }
    if (value < 0x80) {
        put_head(out, (unsigned)value, 0, 0);
    } else if (value <= 0xff) {
        put_head(out, 0xcc, value, 1);
    } else if (value <= 0xffff) {
        put_head(out, 0xcd, value, 2);
    } else if (value <= 0xffffffff) {
        put_head(out, 0xce, value, 4);
    } else {
        put_head(out, 0xcf, value, 8);
    }
    return true;
}

/* Write the head of something with a size: `fix` for sizes below `fixed`, else `first` and on by size. */
static bool put_size(struct out *out, uint64_t size, unsigned fix, uint64_t fixed, unsigned first, bool has_8)
{
    if (!make_room(out, LONGEST_HEAD)) {
        return false;
    }
    if (size < fixed) {
        put_head(out, fix | (unsigned)size, 0, 0);
    } else if (has_8 && size <= 0xff) {
        put_head(out, first, size, 1);
    } else if (size <= 0xffff) {
        put_head(out, first + has_8, size, 2);
    } else if (size <= 0xffffffff) {
        put_head(out, first + has_8 + 1, size, 4);
    } else {
        return false;
    }
    return true;
}

static bool put_bytes(struct out *out, const void *data, size_t size)
{
    if (!make_room(out, size)) {
        return false;
    }
    memcpy(out->data + out->size, data, size);
    out->size += size;
    return true;
}

static bool put_text(struct out *out, PyObject *text, uint64_t most)
{
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(text, &size);

    return data && (uint64_t)size <= most && put_size(out, (uint64_t)size, 0xa0, 32, 0xd9, true) &&
           put_bytes(out, data, (size_t)size);
}

static bool put_blob(struct out *out, PyObject *blob, uint64_t most)
{
    uint64_t size = (uint64_t)PyBytes_GET_SIZE(blob);

    return size <= most && put_size(out, size, 0, 0, 0xc4, true) && put_bytes(out, PyBytes_AS_STRING(blob), size);
}

static bool put_groups(struct out *out, const struct type *type, PyObject *groups)
{
    PyObject *name, *values;
    Py_ssize_t at = 0;
    uint64_t number;

    if (!PyDict_CheckExact(groups) || (uint64_t)PyDict_GET_SIZE(groups) > type->most ||
        !put_size(out, (uint64_t)PyDict_GET_SIZE(groups), 0x80, 16, 0xde, false)) {
        return false;
    }
    while (PyDict_Next(groups, &at, &name, &values)) {
        if (!PyUnicode_CheckExact(name) || !PyList_CheckExact(values) ||
            (uint64_t)PyList_GET_SIZE(values) > type->most_values || !put_text(out, name, UINT32_MAX) ||
            !put_size(out, (uint64_t)PyList_GET_SIZE(values), 0x90, 16, 0xdc, false)) {
            return false;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++) {
            PyObject *value = PyList_GET_ITEM(values, i);

            if (PyBytes_CheckExact(value) ? !put_blob(out, value, type->most_bytes)
                                          : !is_unsigned(value, UINT64_MAX, &number) || !put_unsigned(out, number)) {
                return false;
            }
        }
    }
    return true;
}

static bool put_value(struct out *out, const struct type *type, PyObject *value)
{
    uint64_t number;

    switch (type->kind) {
    case UNSIGNED:
        return is_unsigned(value, type->most, &number) && put_unsigned(out, number);
    case FLAG:
        return PyBool_Check(value) && put_bytes(out, value == Py_True ? "\xc3" : "\xc2", 1);
    case TEXT:
        return PyUnicode_CheckExact(value) && put_text(out, value, type->most);
    case BLOB:
        return PyBytes_CheckExact(value) && put_blob(out, value, type->most);
    case CHOICE:
        return Py_IS_TYPE(value, Py_TYPE(PyTuple_GET_ITEM(type->words, 0))) && put_text(out, value, UINT32_MAX);
    case RECORD:
        if (!Py_IS_TYPE(value, type->record->cls) || !put_size(out, (uint64_t)type->record->n, 0x90, 16, 0xdc, false)) {
            return false;
        }
        for (Py_ssize_t i = 0; i < type->record->n; i++) {
            PyObject *part = *slot_at(value, type->record->fields[i].offset);

            if (!part || !put_value(out, &type->record->fields[i].type, part)) {
                return false;
            }
        }
        return true;
    case LIST:
        if (!PyList_CheckExact(value) || (uint64_t)PyList_GET_SIZE(value) > type->most ||
            !put_size(out, (uint64_t)PyList_GET_SIZE(value), 0x90, 16, 0xdc, false)) {
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
    struct out out = {here, NULL, 0, sizeof here};
    const struct shape *shape = self->messages, *end = shape + self->n;
    enum { WIDEST_MAP = 3 };
    size_t start;
    uint64_t n = 1;
    PyObject *data = NULL;

    while (shape < end && !Py_IS_TYPE(message, shape->cls)) {
        shape++;
    }
    if (shape == end) {
        Py_RETURN_NONE;
    }
    out.size = WIDEST_MAP;
    if (!put_bytes(&out, "\xa4type", 5) || !put_text(&out, shape->name, UINT32_MAX)) {
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
        if (left_out < 0 || !put_size(&out, field->key_size, 0xa0, 32, 0xd9, true) ||
            !put_bytes(&out, field->key, field->key_size) || !put_value(&out, &field->type, value)) {
            goto done;
        }
        n++;
    }
    start = n < 16 ? WIDEST_MAP - 1 : 0;
    out.data[start] = n < 16 ? (unsigned char)(0x80 | n) : 0xde;
    if (n >= 16) {
        out.data[1] = (unsigned char)(n >> 8);
        out.data[2] = (unsigned char)n;
    }
    if (out.size - start <= shape->limit) {
        data = PyBytes_FromStringAndSize((char *)out.data + start, (Py_ssize_t)(out.size - start));
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

struct in {
    const unsigned char *at, *end;
};

/* Read `bytes` bytes, the most significant first. */
static bool get_number(struct in *in, int bytes, uint64_t *value)
{
    if (in->end - in->at < bytes) {
        return false;
    }
    *value = 0;
    while (bytes--) {
        *value = *value << 8 | *in->at++;
    }
    return true;
}

static bool get_unsigned(struct in *in, uint64_t *value)
{
    if (in->at == in->end) {
        return false;
    }
    if (*in->at < 0x80) {
        *value = *in->at++;
        return true;
    }
    if (*in->at < 0xcc || *in->at > 0xcf) {
        return false;
    }
    return get_number(in, 1 << (*in->at++ - 0xcc), value);
}

/* Read the head of something with a size, as put_size writes it; what follows must be long enough for it. */
static bool get_size(struct in *in, unsigned fix, uint64_t fixed, unsigned first, bool has_8, uint64_t *size)
{
    unsigned head;

    if (in->at == in->end) {
        return false;
    }
    head = *in->at;
    if (fixed && head >= fix && head < fix + fixed) {
        in->at++;
        *size = head - fix;
    } else {
        int wide = (int)head - (int)first + !has_8;

        if (head < first || wide > 2) {
            return false;
        }
        in->at++;
        if (!get_number(in, 1 << wide, size)) {
            return false;
        }
    }
    return *size <= (uint64_t)(in->end - in->at);
}

static bool get_text(struct in *in, const unsigned char **text, uint64_t *size)
{
    if (!get_size(in, 0xa0, 32, 0xd9, true, size)) {
        return false;
    }
    *text = in->at;
    in->at += *size;
    return true;
}

static PyObject *get_blob(struct in *in, uint64_t most)
{
    uint64_t size;

    if (!get_size(in, 0, 0, 0xc4, true, &size) || size > most) {
        return NULL;
    }
    in->at += size;
    return PyBytes_FromStringAndSize((const char *)in->at - size, (Py_ssize_t)size);
}

static PyObject *get_groups(struct in *in, const struct type *type)
{
    uint64_t n;
    PyObject *groups;

    if (!get_size(in, 0x80, 16, 0xde, false, &n) || n > type->most || !(groups = PyDict_New())) {
        return NULL;
    }
    for (uint64_t i = 0; i < n; i++) {
        const unsigned char *text;
        uint64_t size, count;
        PyObject *name, *values;
        bool fine = false;

        if (!get_text(in, &text, &size) || !get_size(in, 0x90, 16, 0xdc, false, &count) || count > type->most_values ||
            !(name = PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)size, NULL))) {
            goto failed;
        }
        if ((values = PyList_New((Py_ssize_t)count))) {
            fine = true;
            for (uint64_t k = 0; k < count && fine; k++) {
                uint64_t number;
                PyObject *value = get_unsigned(in, &number) ? PyLong_FromUnsignedLongLong(number)
                                                            : get_blob(in, type->most_bytes);

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
    if ((uint64_t)PyDict_GET_SIZE(groups) == n) { /* else a name came twice */
        return groups;
    }
failed:
    Py_DECREF(groups);
    return NULL;
}

static PyObject *get_value(struct in *in, const struct type *type);

/* Return what a field holds that does not travel. */
static PyObject *fallback_of(const struct field *field)
{
    if (!field->fallback) {
        return NULL;
    }
    return PyList_CheckExact(field->fallback) ? PyList_New(0) : Py_NewRef(field->fallback);
}

static PyObject *get_record(struct in *in, const struct shape *shape)
{
    uint64_t n;
    PyObject *made;

    if (!get_size(in, 0x90, 16, 0xdc, false, &n) || n > (uint64_t)shape->n ||
        !(made = shape->cls->tp_alloc(shape->cls, 0))) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        const struct field *field = &shape->fields[i];
        PyObject *value = (uint64_t)i < n ? get_value(in, &field->type) : fallback_of(field);

        if (!value) {
            Py_DECREF(made);
            return NULL;
        }
        *slot_at(made, field->offset) = value;
    }
    return made;
}

static PyObject *get_list(struct in *in, const struct type *type)
{
    uint64_t n;
    PyObject *list;

    if (!get_size(in, 0x90, 16, 0xdc, false, &n) || n > type->most || !(list = PyList_New((Py_ssize_t)n))) {
        return NULL;
    }
    for (uint64_t i = 0; i < n; i++) {
        PyObject *value = get_value(in, type->of);

        if (!value) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, value);
    }
    return list;
}

/* Return the value that comes next, or NULL when it is not as this type has it (perhaps with an exception). */
static PyObject *get_value(struct in *in, const struct type *type)
{
    const unsigned char *text;
    uint64_t number;

    switch (type->kind) {
    case UNSIGNED:
        return get_unsigned(in, &number) && number <= type->most ? PyLong_FromUnsignedLongLong(number) : NULL;
    case FLAG:
        if (in->at == in->end || (*in->at != 0xc2 && *in->at != 0xc3)) {
            return NULL;
        }
        return PyBool_FromLong(*in->at++ == 0xc3);
    case TEXT:
        if (!get_text(in, &text, &number) || number > type->most) {
            return NULL;
        }
        return PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)number, NULL);
    case BLOB:
        return get_blob(in, type->most);
    case CHOICE:
        if (!get_text(in, &text, &number)) {
            return NULL;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->words); i++) {
            PyObject *word = PyTuple_GET_ITEM(type->words, i);
            Py_ssize_t size;
            const char *known = PyUnicode_AsUTF8AndSize(word, &size);

            if (known && (uint64_t)size == number && memcmp(known, text, number) == 0) {
                return Py_NewRef(word);
            }
        }
        return NULL;
    case RECORD:
        return get_record(in, type->record);
    case LIST:
        return get_list(in, type);
    case GROUPS:
        return get_groups(in, type);
    }
    return NULL;
}

/* Return the field a key names, which is most often the one at `from` or soon after it; NULL when there is none. */
static const struct field *find(const struct shape *shape, Py_ssize_t from, const unsigned char *key, uint64_t size)
{
    for (Py_ssize_t i = 0; i < shape->n; i++) {
        const struct field *field = &shape->fields[from];

        if (field->key_size == size && memcmp(field->key, key, size) == 0) {
            return field;
        }
        from = from + 1 == shape->n ? 0 : from + 1;
    }
    return NULL;
}

/* Read the fields of a message; false when one is not as it should be. */
static bool get_fields(struct in *in, const struct shape *shape, uint64_t n, PyObject *made)
{
    Py_ssize_t next = 0;

    for (; n; n--) {
        const unsigned char *key;
        const struct field *field;
        uint64_t size;
        PyObject *value;

        if (!get_text(in, &key, &size) || !(field = find(shape, next, key, size)) || *slot_at(made, field->offset) ||
            !(value = get_value(in, &field->type))) {
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
    const unsigned char *text;
    uint64_t n, size;
    struct in in;
    PyObject *made;

    if (!PyBytes_CheckExact(data)) {
        Py_RETURN_NONE;
    }
    in.at = (const unsigned char *)PyBytes_AS_STRING(data);
    in.end = in.at + PyBytes_GET_SIZE(data);
    if (!get_size(&in, 0x80, 16, 0xde, false, &n) || !n || !get_text(&in, &text, &size) || size != 4 ||
        memcmp(text, "type", 4) != 0 || !get_text(&in, &text, &size)) {
        Py_RETURN_NONE;
    }
    for (; shape < end; shape++) {
        Py_ssize_t length;
        const char *name = PyUnicode_AsUTF8AndSize(shape->name, &length);

        if (name && (uint64_t)length == size && memcmp(name, text, size) == 0) {
            break;
        }
    }
    if (shape < end && (uint64_t)PyBytes_GET_SIZE(data) <= shape->limit && (made = shape->cls->tp_alloc(shape->cls, 0))) {
        if (get_fields(&in, shape, n - 1, made)) {
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
