/* The few messages of messages.h, in MessagePack. */

#include "messages.h"

#include "fast/messagepack.h"

_Static_assert(MAX_FIELDS <= 64, "fields that are understood are bits");
_Static_assert(GROUP_COUNT <= 32, "groups that are present are bits");

/* ------------------------------------------------------------------------------------------- reading */

static bool read_group(struct x86_dm__reader *r, const struct group *group, uint8_t *wire)
{
    struct x86_dm__item head;
    if (!x86_dm__next_is(r, X86_DM__ARRAY, &head) || head.number != group->count)
        return false;
    for (const struct slot *slot = slots + group->first; slot < slots + group->first + group->count; slot++) {
        struct x86_dm__item item;
        if (slot->width > 64) {
            if (!x86_dm__next_is(r, X86_DM__BIN, &item) || item.number != slot->size)
                return false;
            memcpy(wire + slot->at, item.data, slot->size);
        } else {
            if (!x86_dm__next_unsigned(r, &item.number) || (slot->width < 64 && item.number >> slot->width))
                return false;
            memcpy(wire + slot->at, &item.number, slot->size); /* little-endian, as on every host we know */
        }
    }
    return true;
}

static bool read_state(struct x86_dm__reader *r, struct submitted *state)
{
    struct x86_dm__item head;
    if (!x86_dm__next_is(r, X86_DM__MAP, &head))
        return false;
    state->present = 0;
    for (uint64_t left = head.number; left; left--) {
        const struct x86_dm__item name = x86_dm__next(r);
        unsigned n = 0;
        while (n < GROUP_COUNT && !x86_dm__says(&name, groups[n].name, groups[n].length))
            n++;
        if (n == GROUP_COUNT || state->present >> n & 1 || !read_group(r, &groups[n], state->wire))
            return false;
        state->present |= UINT32_C(1) << n;
    }
    return true;
}

static bool read_field(struct x86_dm__reader *r, const struct field *field, struct value *value, struct submitted *state)
{
    if (field->kind == STATE)
        return read_state(r, state);
    const struct x86_dm__item item = x86_dm__next(r);
    value->number = item.number;
    switch (field->kind) {
    case NUMBER:
        return item.type == X86_DM__UNSIGNED && (field->limit >= 64 || !(item.number >> field->limit));
    case FLAG:
        return item.type == X86_DM__BOOLEAN;
    case BLOB:
        value->data = item.data;
        value->size = (uint32_t)item.number;
        return item.type == X86_DM__BIN && item.number <= field->limit;
    case WORD:
        for (value->number = 0; value->number < field->limit; value->number++) {
            const char *word = field->words[value->number];
            if (x86_dm__says(&item, word, strlen(word)))
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
    struct x86_dm__reader r = {data, data + size};
    const struct x86_dm__item head = x86_dm__next(&r);
    const struct x86_dm__item key = x86_dm__next(&r), type = x86_dm__next(&r);
    if (head.type != X86_DM__MAP || !head.number || !x86_dm__says(&key, "type", 4) ||
        !x86_dm__says(&type, form->name, form->length))
        return false;
    for (unsigned n = 0; n < form->count; n++)
        values[n] = (struct value){.number = form->fields[n].preset};
    unsigned expected = 0; /* fields mostly come in their order */
    for (uint64_t left = head.number - 1; left; left--) {
        const struct x86_dm__item name = x86_dm__next(&r);
        unsigned tried = 0, n = expected;
        while (tried < form->count && !x86_dm__says(&name, form->fields[n].name, form->fields[n].length)) {
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

static void put_group(struct x86_dm__writer *w, const struct group *group, const uint8_t *wire)
{
    x86_dm__put_str(w, group->name, group->length);
    x86_dm__put_array(w, group->count);
    for (const struct slot *slot = slots + group->first; slot < slots + group->first + group->count; slot++) {
        if (slot->width > 64) {
            x86_dm__put_bin(w, wire + slot->at, slot->size);
        } else {
            uint64_t number = 0;
            memcpy(&number, wire + slot->at, slot->size);
            x86_dm__put_unsigned(w, number);
        }
    }
}

static void put_state(struct x86_dm__writer *w, const uint8_t *now, const uint8_t *before)
{
    uint32_t differing = 0;
    for (unsigned n = 0; n < GROUP_COUNT; n++) {
        const struct group *group = &groups[n];
        if (memcmp(now + group->start, before + group->start, group->end - group->start))
            differing |= UINT32_C(1) << n;
    }
    x86_dm__put_map(w, (unsigned)__builtin_popcount(differing));
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

static bool put_value(struct x86_dm__writer *w, const struct field *field, const struct value *value)
{
    switch (field->kind) {
    case NUMBER:
        x86_dm__put_unsigned(w, value->number);
        return field->limit >= 64 || !(value->number >> field->limit);
    case FLAG:
        x86_dm__put_boolean(w, value->number);
        return true;
    case BLOB:
        x86_dm__put_bin(w, value->data, value->size);
        return value->size <= field->limit;
    case WORD:
        if (value->number >= field->limit)
            return false;
        x86_dm__put_str(w, field->words[value->number], strlen(field->words[value->number]));
        return true;
    case NUMBERS:
        x86_dm__put_array(w, value->size);
        for (uint32_t n = 0; n < value->size; n++)
            x86_dm__put_unsigned(w, ((const uint64_t *)value->data)[n]);
        return value->size <= field->limit;
    case WRITES:
        x86_dm__put_array(w, value->size);
        for (const struct write *one = value->data; one < (const struct write *)value->data + value->size; one++) {
            x86_dm__put_array(w, 3);
            x86_dm__put_unsigned(w, one->gpa);
            x86_dm__put_bin(w, one->data, one->length);
            x86_dm__put_unsigned(w, one->size);
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
    struct x86_dm__writer w = x86_dm__write_to(out, 0, room, NULL);
    uint32_t count = 1;
    for (unsigned n = 0; n < form->count; n++)
        count += counts(&form->fields[n], &values[n]);
    x86_dm__put_map(&w, count);
    x86_dm__put_str(&w, "type", 4);
    x86_dm__put_str(&w, form->name, form->length);
    bool right = true;
    for (unsigned n = 0; n < form->count; n++) {
        if (counts(&form->fields[n], &values[n])) {
            x86_dm__put_str(&w, form->fields[n].name, form->fields[n].length);
            right &= put_value(&w, &form->fields[n], &values[n]);
        }
    }
    return right && !w.failed ? x86_dm__written(&w) : 0;
}
