#include "engine.h"

#include <string.h>

#include "kernels.h"

enum { HEADER_BYTES = 64, CRC_FROM = 16, MAX_OPS = 1024, VERSION = 1, MAX_SIDE = 1 << 15 };

static uint32_t word(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* CRC-32 as zlib has it, four bits at a time: 64 bytes of table. */
uint32_t crc32_of(const uint8_t *data, size_t size, uint32_t before) {
    static const uint32_t table[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    uint32_t crc = ~before;
    for (size_t at = 0; at < size; at++) {
        crc ^= data[at];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static int inside(uint64_t at, uint64_t bytes, uint64_t size) { return at <= size && bytes <= size - at; }

static int positive(int32_t value) { return value > 0 && value <= MAX_SIDE; }

/* The last row and column that a window touches lie where its padding ends at most: kernels look at each tap anyway,
   so only what they index without looking is checked. */
static int op_fits(const op_t *op, uint64_t size, uint64_t arena) {
    const int32_t sides[] = {op->in_h,     op->in_w,     op->out_h,    op->out_w,      op->kernel_h,
                             op->kernel_w, op->stride_h, op->stride_w, op->dilation_h, op->dilation_w};
    for (size_t at = 0; at < sizeof sides / sizeof *sides; at++) {
        if (!positive(sides[at])) return 0;
    }
    if (op->in_c <= 0 || op->out_c <= 0 || op->in_c > (1 << 24) || op->out_c > (1 << 24)) return 0;
    if (op->pad_top < 0 || op->pad_left < 0 || op->pad_top > MAX_SIDE || op->pad_left > MAX_SIDE) return 0;
    if (op->first < 0 || op->second < 0 || op->out < 0) return 0;
    uint64_t in_bytes = (uint64_t)op->in_h * op->in_w * (uint64_t)op->in_c;
    uint64_t out_bytes = (uint64_t)op->out_h * op->out_w * (uint64_t)op->out_c;
    if (!inside(op->first, in_bytes, arena) || !inside(op->out, out_bytes, arena)) return 0;
    if (op->shift < 0 || op->shift > 62) return 0;
    uint64_t taps = (uint64_t)op->kernel_h * op->kernel_w;
    uint64_t weights;
    switch (op->code) {
    case OP_DENSE: weights = in_bytes * (uint64_t)op->out_c; break;
    case OP_CONV: weights = taps * op->in_c * (uint64_t)op->out_c; break;
    case OP_DEPTHWISE:
        if (op->out_c % op->in_c) return 0;
        weights = taps * op->out_c;
        break;
    case OP_AVERAGE_POOL: return op->in_c == op->out_c && op->shift <= 46 && taps <= 1 << 15;
    case OP_MAX_POOL: return op->in_c == op->out_c;
    case OP_ADD: return in_bytes == out_bytes && op->shift > 0 && inside(op->second, in_bytes, arena);
    case OP_RESCALE: return in_bytes == out_bytes && op->shift > 0;
    default: return 0;
    }
    const int32_t tables[] = {op->bias, op->multipliers, op->shifts};
    for (size_t at = 0; at < 3; at++) {
        if (tables[at] < HEADER_BYTES || tables[at] % 4 || !inside(tables[at], 4 * (uint64_t)op->out_c, size)) return 0;
    }
    return op->weights >= HEADER_BYTES && inside(op->weights, weights, size);
}

static int shifts_fit(const op_t *op, const uint8_t *blob) {
    if (op->code > OP_DEPTHWISE) return 1;
    const int32_t *shifts = (const int32_t *)(const void *)(blob + op->shifts);
    for (int32_t at = 0; at < op->out_c; at++) {
        if (shifts[at] < 1 || shifts[at] > 62) return 0;
    }
    return 1;
}

int engine_open(model_t *model, const uint8_t *blob, size_t size, size_t arena_bytes) {
    if (size < HEADER_BYTES || memcmp(blob, "MSRM", 4)) return ENGINE_NOT_A_BLOB;
    if ((blob[4] | blob[5] << 8) != VERSION || (blob[6] | blob[7] << 8) != HEADER_BYTES) return ENGINE_OTHER_VERSION;
    if (word(blob + 8) != size || word(blob + 12) != crc32_of(blob + CRC_FROM, size - CRC_FROM, 0)) return ENGINE_DAMAGED;
    model->blob = blob;
    model->arena_bytes = word(blob + 16);
    model->op_count = word(blob + 20);
    model->input_at = word(blob + 24), model->input_bytes = word(blob + 28);
    model->output_at = word(blob + 32), model->output_bytes = word(blob + 36);
    model->ops_at = word(blob + 56);
    if (model->arena_bytes > arena_bytes) return ENGINE_NO_ROOM;
    uint64_t table = (uint64_t)model->op_count * sizeof(op_t);
    if (model->op_count > MAX_OPS || model->ops_at % 4 || !inside(model->ops_at, table, size)) return ENGINE_DAMAGED;
    if (!inside(model->input_at, model->input_bytes, model->arena_bytes)) return ENGINE_DAMAGED;
    if (!inside(model->output_at, model->output_bytes, model->arena_bytes)) return ENGINE_DAMAGED;
    const op_t *ops = (const op_t *)(const void *)(blob + model->ops_at);
    for (uint32_t at = 0; at < model->op_count; at++) {
        if (ops[at].code < OP_DENSE || ops[at].code > OP_RESCALE) return ENGINE_UNKNOWN_OPERATOR;
        if (!op_fits(&ops[at], size, model->arena_bytes) || !shifts_fit(&ops[at], blob)) return ENGINE_DAMAGED;
    }
    return ENGINE_OK;
}

void engine_run(const model_t *model, int8_t *arena, void (*between)(void)) {
    const op_t *ops = (const op_t *)(const void *)(model->blob + model->ops_at);
    for (uint32_t at = 0; at < model->op_count; at++) {
        if (between) between();
        kernel_run(&ops[at], model->blob, arena);
    }
}
