/*
 * libzmq as the exchange in C calls it, without a transport: brings the same request again and again, numbered anew,
 * and keeps the last reply.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { POLLIN_BIT = 1, MOST = 4096 };

static uint8_t request[MOST], reply[MOST], identity = 'p';
static size_t request_size, reply_size, seq_at, base_at;
static uint32_t number, left;
static volatile uint32_t *stop;
static int part;

static void put_number(size_t at, uint32_t value)
{
    for (int byte = 0; byte < 4; byte++) {
        request[at + byte] = (uint8_t)(value >> (24 - 8 * byte));
    }
}

/* Bring `count` requests, the first with sequence number `first`; `seq` and `base` say where numbers of 32 bits are,
 * base 0 that it has none.  `*called` is set when the last one has been answered. */
void begin(const uint8_t *data, size_t size, size_t seq, size_t base, uint32_t first, uint32_t count,
           volatile uint32_t *called)
{
    memcpy(request, data, size);
    request_size = size;
    seq_at = seq;
    base_at = base;
    number = first;
    left = count;
    stop = called;
    part = 0;
}

size_t last_reply(uint8_t *data)
{
    memcpy(data, reply, reply_size);
    return reply_size;
}

int zmq_getsockopt(void *socket, int option, void *value, size_t *size)
{
    (void)socket, (void)option, (void)size;
    *(int *)value = left ? POLLIN_BIT : 0;
    return 0;
}

int zmq_msg_init(void *message)
{
    (void)message;
    return 0;
}

int zmq_msg_close(void *message)
{
    (void)message;
    return 0;
}

int zmq_msg_recv(void *message, void *socket, int flags)
{
    (void)message, (void)socket, (void)flags;
    if (part != 1 && !left) {
        return -1; /* EAGAIN */
    }
    if (part == 1) {
        put_number(seq_at, number);
        if (base_at) {
            put_number(base_at, number - 1);
        }
        number++;
        left--;
    }
    part = part == 1 ? 2 : 1;
    return part == 1 ? 1 : (int)request_size;
}

void *zmq_msg_data(void *message)
{
    (void)message;
    return part == 1 ? &identity : request;
}

size_t zmq_msg_size(const void *message)
{
    (void)message;
    return part == 1 ? 1 : request_size;
}

int zmq_msg_more(const void *message)
{
    (void)message;
    return part == 1;
}

int zmq_send(void *socket, const void *data, size_t size, int flags)
{
    enum { SNDMORE = 2 };

    (void)socket;
    if (!(flags & SNDMORE)) {
        reply_size = size < MOST ? size : MOST;
        memcpy(reply, data, reply_size);
        *stop = left == 0;
    }
    return (int)size;
}

int zmq_errno(void)
{
    return EAGAIN;
}
