/* What printed microcode needs of C's arithmetic beyond its operators (dm.microcode.print_c). */
#ifndef DM_ARITHMETIC_H
#define DM_ARITHMETIC_H

#include <stdint.h>

__extension__ typedef unsigned __int128 uint128_t;
__extension__ typedef __int128 int128_t;

#define SDIV_(type, unsigned_type, a, b) \
    ((b) == 0 ? 0 : (b) == -1 ? (type)((unsigned_type)0 - (unsigned_type)(a)) : (a) / (b))
#define SREM_(a, b) ((b) == 0 || (b) == -1 ? 0 : (a) % (b))
#define SDIV32(a, b) SDIV_(int32_t, uint32_t, a, b)
#define SDIV64(a, b) SDIV_(int64_t, uint64_t, a, b)
#define SDIV128(a, b) SDIV_(int128_t, uint128_t, a, b)
#define SREM32(a, b) SREM_(a, b)
#define SREM64(a, b) SREM_(a, b)
#define SREM128(a, b) SREM_(a, b)

/* Without a library call, which would cost fast handlers a stack frame. */
static inline uint32_t popcount32(uint32_t v)
{
    v -= v >> 1 & 0x55555555;
    v = (v & 0x33333333) + (v >> 2 & 0x33333333);
    return ((v + (v >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

static inline uint32_t popcount64(uint64_t v)
{
    return popcount32((uint32_t)v) + popcount32((uint32_t)(v >> 32));
}

static inline uint32_t popcount128(uint128_t v)
{
    return popcount64((uint64_t)v) + popcount64((uint64_t)(v >> 64));
}

static inline uint32_t clz128(uint128_t v)
{
    const uint64_t high = (uint64_t)(v >> 64), low = (uint64_t)v;
    return high ? (uint32_t)__builtin_clzll(high) : low ? 64 + (uint32_t)__builtin_clzll(low) : 128;
}

static inline uint32_t ctz128(uint128_t v)
{
    const uint64_t high = (uint64_t)(v >> 64), low = (uint64_t)v;
    return low ? (uint32_t)__builtin_ctzll(low) : high ? 64 + (uint32_t)__builtin_ctzll(high) : 128;
}

static inline uint128_t bswap128(uint128_t v)
{
    return (uint128_t)__builtin_bswap64((uint64_t)v) << 64 | __builtin_bswap64((uint64_t)(v >> 64));
}

#endif
