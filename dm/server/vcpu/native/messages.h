/* Messages as values by field number, and their MessagePack.  What is not exactly as usual cannot be read here. */

#ifndef DM_MESSAGES_H
#define DM_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Kinds of fields.  OTHER: not understood here. */
enum { NUMBER, FLAG, BLOB, WORD, NUMBERS, WRITES, STATE, OTHER };
enum { REQUIRED, OPTIONAL, NOT_SAID }; /* NOT_SAID: may be left out, and has no default */

struct field {
    const char *name;
    uint8_t length, kind, use;
    uint32_t limit; /* bits of a number, most bytes of a blob, words, most numbers */
    uint64_t preset;
    const char *const *words;
};

struct form {
    const char *name;
    uint32_t length, count;
    const struct field *fields;
};

/* One value of a state group: bits, bytes and place in struct wire of the engine. */
struct slot {
    uint16_t width, size, at;
};

struct group {
    const char *name;
    uint8_t length;
    uint16_t start, end, first, count;
};

#include "schema_made.h"

/* Posted writes put together: `length` bytes, `size` in each. */
struct write {
    uint64_t gpa;
    const uint8_t *data;
    uint32_t size, length;
};

/* The value of one field.  A list points to `size` uint64_t or struct write; of a state see the functions. */
struct value {
    bool said;
    uint64_t number; /* number, flag, word */
    const void *data;
    uint32_t size;
    const uint8_t *before; /* written: the groups of the wire at `data` that differ from this one */
};

/* A state as it was sent: the groups in `present` (bit n: groups[n]) of `wire` count. */
struct submitted {
    uint32_t present;
    uint8_t wire[WIRE_SIZE];
};

/*
 * Read a message of this form into `values`, its state into `state`.  Returns false for anything unusual: another
 * form, a value the schema forbids, a field that is no bit of `understood`, an unknown or repeated one.
 */
bool read_message(const uint8_t *data, size_t size, const struct form *form, uint64_t understood,
                  struct value values[MAX_FIELDS], struct submitted *state);

/* Write a message, fields with their default left out.  Returns its size, 0 if it does not fit or breaks a limit. */
size_t write_message(uint8_t *out, size_t room, const struct form *form, const struct value values[MAX_FIELDS]);

#endif
