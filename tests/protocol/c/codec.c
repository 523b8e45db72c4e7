/*
 * Unpacks each message on stdin (u32 size, bytes) and packs it again.  Answers each with: u32 status, u32 error class,
 * 129 bytes of field, u32 size and bytes of the message packed again.
 */
#define X86_DM_IMPLEMENTATION
#include "x86_dm.h"

static bool fill(void *to, size_t size)
{
    return fread(to, 1, size, stdin) == size;
}

int main(void)
{
    struct x86_dm_buffer again = {0};
    uint32_t size;

    while (fill(&size, sizeof(size))) {
        uint8_t *bytes = malloc(size); /* exactly: the sanitizer sees a byte too many */
        struct x86_dm_failure why = {0};
        struct x86_dm_message message;
        uint32_t head[2], length = 0;

        if (size && (!bytes || !fill(bytes, size))) {
            return 1;
        }
        head[0] = x86_dm_unpack(&message, bytes, size, X86_DM_MAX_MESSAGE, &why);
        free(bytes); /* the message does not refer to it */
        if (head[0] == X86_DM_FINE) {
            head[0] = x86_dm_pack(&again, &message, &why);
            length = (uint32_t)again.size;
            x86_dm_message_free(&message);
        } else if (why.status != head[0] || !why.text[0]) {
            return 1;
        }
        head[1] = why.error;
        fwrite(head, sizeof(head), 1, stdout);
        fwrite(why.field, sizeof(why.field), 1, stdout);
        fwrite(&length, sizeof(length), 1, stdout);
        if (length) {
            fwrite(again.data, 1, length, stdout);
        }
    }
    x86_dm_buffer_free(&again);
    return 0;
}
