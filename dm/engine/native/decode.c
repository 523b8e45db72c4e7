/* The decoder: the steps of dm.isa.map.decode.decode over the same tables. */

#include "cpu.h"

enum { NONE = 8, BP = 5, SP = 4, SS = 2, DS = 3 };

struct bytes {
    const uint8_t *code;
    unsigned size, position;
    int failed; /* 0, or what decode returns */
};

static uint32_t take(struct bytes *in, unsigned count)
{
    if (in->failed)
        return 0;
    if (in->position + count > LONGEST || in->position + count > in->size) {
        in->failed = in->size >= LONGEST ? -1 : 1;
        return 0;
    }
    uint32_t value = 0;
    for (unsigned n = 0; n < count; n++)
        value |= (uint32_t)in->code[in->position++] << (8 * n);
    return value;
}

static uint32_t take_signed(struct bytes *in, unsigned count)
{
    const uint32_t value = take(in, count);
    return count == 1 ? (uint32_t)(int32_t)(int8_t)value : count == 2 ? (uint32_t)(int32_t)(int16_t)value : value;
}

static uint8_t register_index(bool byte, unsigned number)
{
    return byte ? decode_byte_registers[number] : (uint8_t)number;
}

/* 16-bit addressing; returns the default segment. */
static unsigned address16(struct bytes *in, unsigned mod, unsigned rm, struct insn *out)
{
    static const uint8_t base[8] = {3, 3, 5, 5, 6, 7, 5, 3}, index[8] = {6, 7, 6, 7, 8, 8, 8, 8};
    out->base = base[rm];
    out->index = index[rm];
    if (mod == 0 && rm == 6) {
        out->base = NONE;
        out->disp = take(in, 2);
    } else if (mod == 1) {
        out->disp = take_signed(in, 1);
    } else if (mod == 2) {
        out->disp = take(in, 2);
    }
    return out->base == BP ? SS : DS;
}

static unsigned address32(struct bytes *in, unsigned mod, unsigned rm, struct insn *out)
{
    unsigned base = rm;
    if (rm == 4) {
        const uint32_t sib = take(in, 1);
        base = sib & 7;
        out->scale = (uint8_t)(sib >> 6);
        if ((sib >> 3 & 7) != 4)
            out->index = sib >> 3 & 7;
    }
    out->base = (uint8_t)base;
    if (mod == 0 && base == 5) {
        out->base = NONE;
        out->disp = take(in, 4);
    } else if (mod == 1) {
        out->disp = take_signed(in, 1);
    } else if (mod == 2) {
        out->disp = take(in, 4);
    }
    return out->base == SP || out->base == BP ? SS : DS;
}

static uint32_t immediate(struct bytes *in, const struct row *row, unsigned n, bool osize32)
{
    const unsigned size = row->immediates[n].size[osize32];
    return row->immediates[n].extend ? take_signed(in, size) : take(in, size);
}

static int segment_prefix(uint32_t byte)
{
    switch (byte) {
    case 0x26:
        return 0;
    case 0x2e:
        return 1;
    case 0x36:
        return 2;
    case 0x3e:
        return 3;
    case 0x64:
        return 4;
    case 0x65:
        return 5;
    default:
        return -1;
    }
}

int decode(const uint8_t *code, unsigned size, bool code32, unsigned lineage, struct insn *out, uint16_t *variant)
{
    const struct top *tops = &decode_tops[lineage * decode_map_size];
    struct bytes in = {code, size, 0, 0};
    bool osize66 = false, asize67 = false, lock = false;
    uint32_t repeat = 0, byte;
    int override = -1;
    memset(out, 0, sizeof *out);
    out->chain = &dead_block;
    out->base = out->index = NONE;
    out->seg = DS;
    *variant = 0;
    for (;;) {
        byte = take(&in, 1);
        if (in.failed)
            return in.failed == 1 ? 0 : -1;
        if (lineage == LINEAGE_80286 && byte >= 0x64 && byte <= 0x67) /* prefixes of the 80386 */
            return (int)in.position;
        const int segment = segment_prefix(byte);
        if (segment >= 0)
            override = segment;
        else if (byte == 0x66)
            osize66 = true;
        else if (byte == 0x67)
            asize67 = true;
        else if (byte == 0xf0)
            lock = true;
        else if (byte == 0xf2 || byte == 0xf3)
            repeat = byte;
        else
            break;
    }
    const bool osize32 = code32 != osize66, asize32 = code32 != asize67;
    unsigned map = 0;
    if (byte == 0x0f) {
        map = 1;
        byte = take(&in, 1);
        if ((byte == 0x38 || byte == 0x3a) && lineage >= LINEAGE_INTEL) {
            map = byte == 0x38 ? 2 : 3;
            byte = take(&in, 1);
        }
    }
    unsigned class = repeat == 0xf3 ? 2 : repeat == 0xf2 ? 3 : osize66;
    bool wrong = false;
    unsigned vvvv = 0;
    if (!map && byte == 0xc4 && lineage >= LINEAGE_INTEL) {
        const uint32_t first = take(&in, 1);
        const unsigned behind = in.position, selected = first >= 0xc0 ? decode_vex_maps[first & 31] : 0;
        const uint32_t second = selected ? take(&in, 1) : 0, third = selected ? take(&in, 1) : 0;
        if (selected && tops[selected * 256 + third].modrm) {
            map = selected;
            byte = third;
            wrong = osize66 || repeat || lock || second & 4;
            class = second & 3;
            vvvv = ~second >> 3 & 15;
        } else if (!in.failed) { /* LES, or an instruction of AVX, whose prefix is all that is looked at */
            in.position = behind - 1;
        }
    }
    const struct top *top = &tops[map * 256 + byte];
    const uint32_t modrm = top->modrm ? take(&in, 1) : 0;
    if (in.failed)
        return in.failed == 1 ? 0 : -1;
    const unsigned leaf =
        decode_leaves[top->leaf + (top->prefixed ? class : 0) * (top->modrm ? 256 : 1) + (top->modrm ? modrm : 0)];
    if (!leaf) {
        out->next = (uint8_t)in.position;
        return (int)in.position;
    }
    const struct row *row = &decode_rows[leaf - 1];
    if (row->vvvv)
        out->imm2 = vvvv & 7;
    else
        wrong = wrong || vvvv;
    const bool memory = row->mod && row->mod != 4 && modrm < 0xc0;
    out->reg = register_index(row->reg_byte, modrm >> 3 & 7);
    /* of a memory operand the whole byte, which x87 notes */
    out->rm = memory ? (uint8_t)modrm : register_index(row->rm_byte, row->plus ? byte & 7 : modrm & 7);
    unsigned segment = DS;
    if (memory)
        segment = (asize32 ? address32 : address16)(&in, modrm >> 6, modrm & 7, out);
    out->seg = (uint8_t)(override >= 0 ? (unsigned)override : segment);
    if (row->address)
        out->disp = take(&in, asize32 ? 4 : 2);
    if (row->immediates[0].size[0])
        out->imm = immediate(&in, row, 0, osize32);
    if (row->immediates[1].size[0])
        out->imm2 = immediate(&in, row, 1, osize32);
    if (in.failed)
        return in.failed == 1 ? 0 : -1;
    out->next = (uint8_t)in.position;
    const unsigned shape = memory ? (asize32 ? 2 : 1) : row->addressed && asize32 ? 2 : 0;
    unsigned prefix = 0;
    if (repeat && row->rep)
        prefix = 1;
    else if (repeat && row->repz)
        prefix = repeat == 0xf3 ? 2 : 3;
    if (wrong)
        return (int)in.position;
    if (lock && row->lock && (memory || row->mod == 4))
        prefix = 1;
    else if (lock && lineage != LINEAGE_80286) /* which takes it before everything */
        return (int)in.position;
    *variant = row->variants[osize32][shape][prefix];
    return (int)in.position;
}

int dm_decode(const uint8_t *code, uint32_t size, int code32, struct dm_decoded *out)
{
    struct insn i;
    uint16_t form;
    const int length = decode(code, size, code32, LINEAGE_INTEL, &i, &form);
    *out = (struct dm_decoded){form,  i.disp, i.imm,  i.chain == &dead_block ? 0 : (uint32_t)i.imm2,
                               i.seg, i.reg,  i.rm,   i.base,
                               i.index, i.scale};
    return length;
}
