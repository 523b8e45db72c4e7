/* MessagePack (msgpack.org, specification) for the few messages of messages.h.  Every read is bounded by the message. */

#include "messages.h"

#include <string.h>

_Static_assert(MAX_FIELDS <= 64, "fields that are understood are bits");
_Static_assert(GROUP_COUNT <= 32, "groups that are present are bits");

/* ------------------------------------------------------------------------------------------- reading */

enum item_type { ITEM_WRONG, ITEM_NUMBER, ITEM_FLAG, ITEM_TEXT, ITEM_BYTES, ITEM_ARRAY, ITEM_MAP };

struct reader {
    const uint8_t *at, *end;
};

struct item {
    enum item_type type;
    uint64_t number;     /* the number, the flag, or how many bytes, values or pairs follow */
    const uint8_t *data; /* of text and bytes */
};

static uint64_t big_endian(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned n = 0; n < size; n++)
        value = value << 8 | at[n];
    return value;
}

/* The next value's head, text and bytes whole.  ITEM_WRONG: cut off, or of a type that no usual message has. */
static struct item next_item(struct reader *r)
{
    struct item item = {.type = ITEM_WRONG};
    if (r->at == r->end)
        return item;
    const uint8_t head = *r->at++;
    unsigned size = 0; /* of the number behind the head */
    if (head < 0x80) {
        item = (struct item){.type = ITEM_NUMBER, .number = head};
    } else if (head < 0x90) {
        item = (struct item){.type = ITEM_MAP, .number = head & 15};
    } else if (head < 0xa0) {
        item = (struct item){.type = ITEM_ARRAY, .number = head & 15};
    } else if (head < 0xc0) {
        item = (struct item){.type = ITEM_TEXT, .number = head & 31};
    } else {
        switch (head) {
        case 0xc2:
        case 0xc3:
            item = (struct item){.type = ITEM_FLAG, .number = head & 1};
            break;
        case 0xc4: case 0xc5: case 0xc6:
            item.type = ITEM_BYTES;
            size = 1u << (head - 0xc4);
            break;
        case 0xcc: case 0xcd: case 0xce: case 0xcf:
            item.type = ITEM_NUMBER;
            size = 1u << (head - 0xcc);
            break;
        case 0xd9: case 0xda: case 0xdb:
            item.type = ITEM_TEXT;
            size = 1u << (head - 0xd9);
            break;
        case 0xdc: case 0xdd:
            item.type = ITEM_ARRAY;
            size = 2u << (head - 0xdc);
            break;
        case 0xde: case 0xdf:
            item.type = ITEM_MAP;
            size = 2u << (head - 0xde);
            break;
        default: /* nil, negative or signed numbers, floating point, extensions */
            return item;
        }
        if (size) {
            if ((size_t)(r->end - r->at) < size)
                return (struct item){.type = ITEM_WRONG};
            item.number = big_endian(r->at, size);
            r->at += size;
        }
    }
    if (item.type == ITEM_TEXT || item.type == ITEM_BYTES) {
        if ((uint64_t)(r->end - r->at) < item.number)
            return (struct item){.type = ITEM_WRONG};
        item.data = r->at;
        r->at += item.number;
    }
    return item;
}

static bool is_text(const struct item *item, const char *text, size_t length)
{
    return item->type == ITEM_TEXT && item->number == length && !memcmp(item->data, text, length);
}

static bool read_group(struct reader *r, const struct group *group, uint8_t *wire)
{
    const struct item head = next_item(r);
    if (head.type != ITEM_ARRAY || head.number != group->count)
        return false;
    for (const struct slot *slot = slots + group->first; slot < slots + group->first + group->count; slot++) {
        const struct item item = next_item(r);
        if (slot->width > 64) {
            if (item.type != ITEM_BYTES || item.number != slot->size)
                return false;
            memcpy(wire + slot->at, item.data, slot->size);
        } else {
            if (item.type != ITEM_NUMBER || (slot->width < 64 && item.number >> slot->width))
                return false;
            memcpy(wire + slot->at, &item.number, slot->size); /* little-endian, as on every host we know */
        }
    }
    return true;
}

static bool read_state(struct reader *r, struct submitted *state)
{
    const struct item head = next_item(r);
    if (head.type != ITEM_MAP)
        return false;
    state->present = 0;
    for (uint64_t left = head.number; left; left--) {
        const struct item name = next_item(r);
        unsigned n = 0;
        while (n < GROUP_COUNT && !is_text(&name, groups[n].name, groups[n].length))
            n++;
        if (n == GROUP_COUNT || state->present >> n & 1 || !read_group(r, &groups[n], state->wire))
            return false;
        state->present |= UINT32_C(1) << n;
    }
    return true;
}

static bool read_field(struct reader *r, const struct field *field, struct value *value, struct submitted *state)
{
    if (field->kind == STATE)
        return read_state(r, state);
    const struct item item = next_item(r);
    value->number = item.number;
    switch (field->kind) {
    case NUMBER:
        return item.type == ITEM_NUMBER && (field->limit >= 64 || !(item.number >> field->limit));
    case FLAG:
        return item.type == ITEM_FLAG;
    case BLOB:
        value->data = item.data;
        value->size = (uint32_t)item.number;
        return item.type == ITEM_BYTES && item.number <= field->limit;
    case WORD:
        for (value->number = 0; value->number < field->limit; value->number++) {
            const char *word = field->words[value->number];
            if (is_text(&item, word, strlen(word)))
                return true;
        }
        return false;
    default:
        return false;
    }
}

bool read_message(const uint8_t *data, size_t size, const struct form *form, uint64_t understood,
                  struct value values[MAX_FIELDS], struct submitted *state)
{
    struct reader r = {data, data + size};
    const struct item head = next_item(&r);
    const struct item key = next_item(&r), type = next_item(&r);
    if (head.type != ITEM_MAP || !head.number || !is_text(&key, "type", 4) || !is_text(&type, form->name, form->length))
        return false;
    for (unsigned n = 0; n < form->count; n++)
        values[n] = (struct value){.number = form->fields[n].preset};
    unsigned expected = 0; /* fields mostly come in their order */
    for (uint64_t left = head.number - 1; left; left--) {
        const struct item name = next_item(&r);
        unsigned tried = 0, n = expected;
        while (tried < form->count && !is_text(&name, form->fields[n].name, form->fields[n].length)) {
            tried++;
            n = n + 1 == form->count ? 0 : n + 1;
        }
        if (tried == form->count || !(understood >> n & 1) || values[n].said ||
            !read_field(&r, &form->fields[n], &values[n], state))
            return false;
        values[n].said = true;
        expected = n + 1 == form->count ? 0 : n + 1;
    }
    for (unsigned n = 0; n < form->count; n++)
        if (form->fields[n].use == REQUIRED && !values[n].said)
            return false;
    return r.at == r.end;
}

/* ------------------------------------------------------------------------------------------- writing */

struct writer {
    uint8_t *at, *end;
    bool full;
};

static void put(struct writer *w, const void *data, size_t size)
{
    if ((size_t)(w->end - w->at) < size) {
        w->full = true;
        return;
    }
    if (size)
        memcpy(w->at, data, size);
    w->at += size;
}

/* A head byte, and behind it a number of `size` bytes. */
static void put_head(struct writer *w, unsigned head, uint64_t number, unsigned size)
{
    uint8_t bytes[9] = {(uint8_t)head};
    for (unsigned n = 0; n < size; n++)
        bytes[1 + n] = (uint8_t)(number >> 8 * (size - 1 - n));
    put(w, bytes, 1 + size);
}

static void put_number(struct writer *w, uint64_t number)
{
    if (number < 0x80)
        put_head(w, (unsigned)number, 0, 0);
    else if (number <= UINT8_MAX)
        put_head(w, 0xcc, number, 1);
    else if (number <= UINT16_MAX)
        put_head(w, 0xcd, number, 2);
    else if (number <= UINT32_MAX)
        put_head(w, 0xce, number, 4);
    else
        put_head(w, 0xcf, number, 8);
}

static void put_text(struct writer *w, const char *text, size_t length)
{
    if (length < 32)
        put_head(w, 0xa0 | (unsigned)length, 0, 0);
    else
        put_head(w, 0xd9, length, 1); /* names and words have less than 256 characters */
    put(w, text, length);
}

static void put_bytes(struct writer *w, const void *data, uint32_t size)
{
    if (size <= UINT8_MAX)
        put_head(w, 0xc4, size, 1);
    else if (size <= UINT16_MAX)
        put_head(w, 0xc5, size, 2);
    else
        put_head(w, 0xc6, size, 4);
    put(w, data, size);
}

/* The head of an array (few: 0x90, many: 0xdc) or a map (0x80, 0xde). */
static void put_count(struct writer *w, unsigned few, unsigned many, uint32_t count)
{
    if (count < 16)
        put_head(w, few | count, 0, 0);
    else if (count <= UINT16_MAX)
        put_head(w, many, count, 2);
    else
        put_head(w, many + 1, count, 4);
}

static void put_group(struct writer *w, const struct group *group, const uint8_t *wire)
{
    put_text(w, group->name, group->length);
    put_count(w, 0x90, 0xdc, group->count);
    for (const struct slot *slot = slots + group->first; slot < slots + group->first + group->count; slot++) {
        if (slot->width > 64) {
            put_bytes(w, wire + slot->at, slot->size);
        } else {
            uint64_t number = 0;
            memcpy(&number, wire + slot->at, slot->size);
            put_number(w, number);
        }
    }
}

static void put_state(struct writer *w, const uint8_t *now, const uint8_t *before)
{
    uint32_t differing = 0;
    for (unsigned n = 0; n < GROUP_COUNT; n++) {
        const struct group *group = &groups[n];
        if (memcmp(now + group->start, before + group->start, group->end - group->start))
            differing |= UINT32_C(1) << n;
    }
    put_count(w, 0x80, 0xde, (uint32_t)__builtin_popcount(differing));
    for (unsigned n = 0; n < GROUP_COUNT; n++)
        if (differing >> n & 1)
            put_group(w, &groups[n], now);
}

/* Whether a value is written: fields that have their default are left out. */
static bool counts(const struct field *field, const struct value *value)
{
    if (field->use == REQUIRED)
        return true;
    if (field->use == NOT_SAID)
        return value->said;
    return value->size || value->number != field->preset;
}

static bool put_value(struct writer *w, const struct field *field, const struct value *value)
{
    switch (field->kind) {
    case NUMBER:
        put_number(w, value->number);
        return field->limit >= 64 || !(value->number >> field->limit);
    case FLAG:
        put_head(w, 0xc2 | !!value->number, 0, 0);
        return true;
    case BLOB:
        put_bytes(w, value->data, value->size);
        return value->size <= field->limit;
    case WORD:
        if (value->number >= field->limit)
            return false;
        put_text(w, field->words[value->number], strlen(field->words[value->number]));
        return true;
    case NUMBERS:
        put_count(w, 0x90, 0xdc, value->size);
        for (uint32_t n = 0; n < value->size; n++)
            put_number(w, ((const uint64_t *)value->data)[n]);
        return value->size <= field->limit;
    case WRITES:
        put_count(w, 0x90, 0xdc, value->size);
        for (const struct write *one = value->data; one < (const struct write *)value->data + value->size; one++) {
            put_count(w, 0x90, 0xdc, 3);
            put_number(w, one->gpa);
            put_bytes(w, one->data, one->length);
            put_number(w, one->size);
        }
        return value->size <= field->limit;
    case STATE:
        put_state(w, value->data, value->before);
        return true;
    default:
        return false;
    }
}

size_t write_message(uint8_t *out, size_t room, const struct form *form, const struct value values[MAX_FIELDS])
{
    struct writer w = {out, out + room, false};
    uint32_t count = 1;
    for (unsigned n = 0; n < form->count; n++)
        count += counts(&form->fields[n], &values[n]);
    put_count(&w, 0x80, 0xde, count);
    put_text(&w, "type", 4);
    put_text(&w, form->name, form->length);
    bool right = true;
    for (unsigned n = 0; n < form->count; n++) {
        if (counts(&form->fields[n], &values[n])) {
            put_text(&w, form->fields[n].name, form->fields[n].length);
            right &= put_value(&w, &form->fields[n], &values[n]);
        }
    }
    return right && !w.full ? (size_t)(w.at - out) : 0;
}
