/* One record of a blob's table of operators, and what runs it. Field by field as msrt.inference.micro.blob.Op. */
#ifndef MSRT_KERNELS_H
#define MSRT_KERNELS_H

#include <stdint.h>

enum { OP_DENSE = 1, OP_CONV, OP_DEPTHWISE, OP_AVERAGE_POOL, OP_MAX_POOL, OP_ADD, OP_RESCALE };

typedef struct {
    int32_t code;
    int32_t first, second, out;                 /* bytes into the arena */
    int32_t weights, bias, multipliers, shifts; /* bytes into the blob */
    int32_t zero, second_zero, out_zero;
    int32_t low, high;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
    int32_t dilation_h, dilation_w;
    int32_t multiplier, second_multiplier, shift;
    int32_t count_padding;
    int32_t reserved;
} op_t;

typedef char op_t_is_32_words[sizeof(op_t) == 128 ? 1 : -1];

/* The record must have been checked (engine_open). */
void kernel_run(const op_t *op, const uint8_t *blob, int8_t *arena);

#endif
