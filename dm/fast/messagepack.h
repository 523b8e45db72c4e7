/*
 * MessagePack (msgpack.org, specification): its one reader and its one writer in C.
 *
 * A reader never leaves the message and a writer never leaves its room.  Who uses them decides what values mean: the
 * codec of dm.fast, the worker's exchange, and the C client x86_dm.h, into which this file is printed.
 */
#ifndef X86_DM_MESSAGEPACK_H
#define X86_DM_MESSAGEPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct x86_dm__reader {
    const uint8_t *at, *end;
};

enum x86_dm__item_type {
    X86_DM__WRONG, /* cut off, or no MessagePack */
    X86_DM__NIL,
    X86_DM__BOOLEAN,
    X86_DM__UNSIGNED,
    X86_DM__NEGATIVE,
    X86_DM__FLOAT,
    X86_DM__STR,
    X86_DM__BIN,
    X86_DM__ARRAY,
    X86_DM__MAP,
    X86_DM__EXTENSION,
};

/* The head of a value; str and bin are whole, what is in an array or a map follows. */
struct x86_dm__item {
    enum x86_dm__item_type type;
    uint64_t number;     /* the integer (a negative one modulo 2**64), the boolean, or how many bytes, values or pairs */
    const uint8_t *data; /* of str and bin */
};

/* Read a number of `size` bytes, the most significant first. */
static inline bool x86_dm__big_endian(struct x86_dm__reader *reader, unsigned size, uint64_t *number)
{
    uint64_t value = 0;

    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    for (; size; size--) {
        value = value << 8 | *reader->at++;
    }
    *number = value;
    return true;
}

/* x86_dm__next() behind the first byte, for what is not read there. */
static inline struct x86_dm__item x86_dm__next_after(struct x86_dm__reader *reader, unsigned head)
{
    const struct x86_dm__item wrong = {X86_DM__WRONG, 0, NULL};
    struct x86_dm__item item = wrong;
    unsigned size = 0;   /* bytes of the number behind the head */
    uint64_t follow = 0; /* bytes, at least, behind that */

    item.number = head;
    if (head < 0x90) {
        item.type = X86_DM__MAP;
        item.number = head & 15;
    } else if (head < 0xa0) {
        item.type = X86_DM__ARRAY;
        item.number = head & 15;
    } else if (head < 0xc0) {
        item.type = X86_DM__STR;
        item.number = head & 31;
    } else if (head >= 0xe0) {
        item.type = X86_DM__NEGATIVE;
        item.number = head | ~UINT64_C(0xff);
    } else if (head == 0xc0) {
        item.type = X86_DM__NIL;
    } else if (head == 0xc1) {
        return wrong;
    } else if (head <= 0xc3) {
        item.type = X86_DM__BOOLEAN;
        item.number = head & 1;
    } else if (head <= 0xc6) {
        item.type = X86_DM__BIN;
        size = 1u << (head - 0xc4);
    } else if (head <= 0xc9) {
        item.type = X86_DM__EXTENSION;
        size = 1u << (head - 0xc7);
    } else if (head <= 0xcb) {
        item.type = X86_DM__FLOAT;
        size = 4u << (head - 0xca);
    } else if (head <= 0xd3) {
        item.type = X86_DM__UNSIGNED; /* see below */
        size = 1u << (head - 0xd0);
    } else if (head <= 0xd8) {
        item.type = X86_DM__EXTENSION;
        item.number = 1u << (head - 0xd4);
    } else if (head <= 0xdb) {
        item.type = X86_DM__STR;
        size = 1u << (head - 0xd9);
    } else if (head <= 0xdd) {
        item.type = X86_DM__ARRAY;
        size = 2u << (head - 0xdc);
    } else {
        item.type = X86_DM__MAP;
        size = 2u << (head - 0xde);
    }
    if (size && !x86_dm__big_endian(reader, size, &item.number)) {
        return wrong;
    }
    if (head >= 0xd0 && head <= 0xd3 && item.number >> (8 * size - 1)) {
        item.type = X86_DM__NEGATIVE;
        item.number |= size == 8 ? 0 : ~UINT64_C(0) << 8 * size;
    }
    if (item.type == X86_DM__STR || item.type == X86_DM__BIN || item.type == X86_DM__ARRAY) {
        follow = item.number;
    } else if (item.type == X86_DM__MAP) {
        follow = 2 * item.number;
    } else if (item.type == X86_DM__EXTENSION) {
        follow = item.number + 1; /* its type */
    }
    if (follow > (uint64_t)(reader->end - reader->at)) {
        return wrong;
    }
    item.data = reader->at;
    if (item.type != X86_DM__ARRAY && item.type != X86_DM__MAP) {
        reader->at += follow;
    }
    return item;
}

/*
 * Read the head of the next value.  An array or a map with more in it than bytes follow is wrong here, so that nobody
 * makes room for what cannot come.
 */
static inline struct x86_dm__item x86_dm__next(struct x86_dm__reader *reader)
{
    struct x86_dm__item item = {X86_DM__WRONG, 0, NULL};
    unsigned head;

    if (reader->at == reader->end) {
        return item;
    }
    head = *reader->at++;
    if (head < 0x80) { /* most values are unsigned integers */
        item.type = X86_DM__UNSIGNED;
        item.number = head;
    } else if (head >= 0xcc && head <= 0xcf) {
        if (x86_dm__big_endian(reader, 1u << (head - 0xcc), &item.number)) {
            item.type = X86_DM__UNSIGNED;
        }
    } else {
        item = x86_dm__next_after(reader, head);
    }
    return item;
}

static inline bool x86_dm__next_unsigned(struct x86_dm__reader *reader, uint64_t *number)
{
    struct x86_dm__item item = x86_dm__next(reader);

    *number = item.number;
    return item.type == X86_DM__UNSIGNED;
}

static inline bool x86_dm__next_is(struct x86_dm__reader *reader, enum x86_dm__item_type type,
                                   struct x86_dm__item *item)
{
    *item = x86_dm__next(reader);
    return item->type == type;
}

static inline bool x86_dm__says(const struct x86_dm__item *item, const char *text, size_t size)
{
    return item->type == X86_DM__STR && item->number == size && (!size || memcmp(item->data, text, size) == 0);
}

struct x86_dm__writer {
    uint8_t *at, *end; /* what room there is */
    uint8_t *data;     /* what has been written */
    bool failed;       /* there was no room: what is in `data` is of no use */
    /* Move `data` to where there is room for `needed` bytes, and say how many; NULL: there is no more room. */
    bool (*grow)(struct x86_dm__writer *writer, size_t needed, size_t *room);
};

/* Return a writer that goes on behind `size` bytes of `data`, which has room for `room`. */
static inline struct x86_dm__writer x86_dm__write_to(uint8_t *data, size_t size, size_t room,
                                                     bool (*grow)(struct x86_dm__writer *, size_t, size_t *))
{
    return (struct x86_dm__writer){data + size, data + room, data, false, grow};
}

static inline size_t x86_dm__written(const struct x86_dm__writer *writer)
{
    return (size_t)(writer->at - writer->data);
}

/* Make room for `size` more bytes; a writer that has failed has none from then on. */
static inline bool x86_dm__make_room(struct x86_dm__writer *writer, size_t size)
{
    size_t before = x86_dm__written(writer), room = before;

    if (writer->failed || size > SIZE_MAX - before || !writer->grow ||
        !writer->grow(writer, before + size, &room)) {
        writer->failed = true;
    }
    writer->at = writer->data + before;
    writer->end = writer->failed ? writer->at : writer->data + room;
    return !writer->failed;
}

/* Return where the next `size` bytes go, NULL when there is no room for them. */
static inline uint8_t *x86_dm__reserve(struct x86_dm__writer *writer, size_t size)
{
    if ((size_t)(writer->end - writer->at) < size && !x86_dm__make_room(writer, size)) {
        return NULL;
    }
    writer->at += size;
    return writer->at - size;
}

static inline void x86_dm__put_data(struct x86_dm__writer *writer, const void *data, size_t size)
{
    uint8_t *to = x86_dm__reserve(writer, size);

    if (to && size) {
        memcpy(to, data, size);
    }
}

/* Write a head, and behind it a number of `size` bytes, the most significant first. */
static inline void x86_dm__put_head(struct x86_dm__writer *writer, unsigned head, uint64_t number, unsigned size)
{
    uint8_t *to = x86_dm__reserve(writer, (size_t)1 + size);

    if (to) {
        *to = (uint8_t)head;
        if (size) {
            uint64_t big = number << (64 - 8 * size);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            big = __builtin_bswap64(big);
#endif
            memcpy(to + 1, &big, size);
        }
    }
}

static inline void x86_dm__put_unsigned(struct x86_dm__writer *writer, uint64_t number)
{
    if (number < 0x80) {
        x86_dm__put_head(writer, (unsigned)number, 0, 0);
    } else if (number <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xcc, number, 1);
    } else if (number <= UINT16_MAX) {
        x86_dm__put_head(writer, 0xcd, number, 2);
    } else if (number <= UINT32_MAX) {
        x86_dm__put_head(writer, 0xce, number, 4);
    } else {
        x86_dm__put_head(writer, 0xcf, number, 8);
    }
}

static inline void x86_dm__put_boolean(struct x86_dm__writer *writer, bool value)
{
    x86_dm__put_head(writer, value ? 0xc3 : 0xc2, 0, 0);
}

/* Write a head for so many: `few` has room for numbers below `fixed`, `wide` is the first of those with 2 or 4 bytes. */
static inline void x86_dm__put_count(struct x86_dm__writer *writer, unsigned few, unsigned fixed, unsigned wide,
                                     size_t count)
{
    if (count < fixed) {
        x86_dm__put_head(writer, few | (unsigned)count, 0, 0);
    } else if (count <= UINT16_MAX) {
        x86_dm__put_head(writer, wide, count, 2);
    } else if (count <= UINT32_MAX) {
        x86_dm__put_head(writer, wide + 1, count, 4);
    } else {
        writer->failed = true;
    }
}

/* The head of an array; its values come next. */
static inline void x86_dm__put_array(struct x86_dm__writer *writer, size_t count)
{
    x86_dm__put_count(writer, 0x90, 16, 0xdc, count);
}

/* The head of a map; its pairs come next. */
static inline void x86_dm__put_map(struct x86_dm__writer *writer, size_t count)
{
    x86_dm__put_count(writer, 0x80, 16, 0xde, count);
}

static inline void x86_dm__put_str(struct x86_dm__writer *writer, const char *text, size_t size)
{
    if (size > 31 && size <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xd9, size, 1);
    } else {
        x86_dm__put_count(writer, 0xa0, 32, 0xda, size);
    }
    x86_dm__put_data(writer, text, size);
}

static inline void x86_dm__put_bin(struct x86_dm__writer *writer, const void *data, size_t size)
{
    if (size <= UINT8_MAX) {
        x86_dm__put_head(writer, 0xc4, size, 1);
    } else {
        x86_dm__put_count(writer, 0, 0, 0xc5, size);
    }
    x86_dm__put_data(writer, data, size);
}

#endif
