/* int8 kernels. Tensors are height, width, channels. Sums are 32 bits (the compiler refuses models whose sums are not),
   requantisation is one rounding of a 64-bit product: what msrt.inference.micro.interpret computes, bit for bit.
   Right shifts of negative numbers are arithmetic, as on every compiler this is built with. */
#include "kernels.h"

static int8_t clamped(int64_t value, const op_t *op) {
    if (value < op->low) return (int8_t)op->low;
    if (value > op->high) return (int8_t)op->high;
    return (int8_t)value;
}

static int8_t scaled(int64_t product, int32_t shift, const op_t *op) {
    return clamped(((product + ((int64_t)1 << (shift - 1))) >> shift) + op->out_zero, op);
}

typedef struct {
    const int8_t *weights;
    const int32_t *bias, *multipliers, *shifts;
} constants_t;

static int8_t requantised(int32_t sum, const constants_t *c, int32_t o, const op_t *op) {
    return scaled((int64_t)sum * c->multipliers[o], c->shifts[o], op);
}

static constants_t constants_of(const op_t *op, const uint8_t *blob) {
    constants_t found = {
        (const int8_t *)(blob + op->weights),
        (const int32_t *)(const void *)(blob + op->bias),
        (const int32_t *)(const void *)(blob + op->multipliers),
        (const int32_t *)(const void *)(blob + op->shifts),
    };
    return found;
}

static int32_t dot(const int8_t *x, const int8_t *w, int32_t count, int32_t zero) {
    int32_t sum = 0;
    for (; count > 0; count--) sum += (*x++ - zero) * *w++;
    return sum;
}

/* The same with four filters, `apart` bytes from each other: an input is loaded once for all of them. */
static void dot_four(const int8_t *x, const int8_t *w, int32_t apart, int32_t count, int32_t zero, int32_t *sums) {
    const int8_t *w1 = w + apart, *w2 = w1 + apart, *w3 = w2 + apart;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (const int8_t *end = x + count; x < end;) {
        int32_t value = *x++ - zero;
        s0 += value * *w++;
        s1 += value * *w1++;
        s2 += value * *w2++;
        s3 += value * *w3++;
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

static void dense(const op_t *op, const uint8_t *blob, int8_t *arena) {
    constants_t c = constants_of(op, blob);
    int32_t size = op->in_h * op->in_w * op->in_c, o = 0;
    const int8_t *x = arena + op->first, *w = c.weights;
    int8_t *y = arena + op->out;
    for (; o + 4 <= op->out_c; o += 4, w += 4 * size) {
        int32_t sums[4] = {c.bias[o], c.bias[o + 1], c.bias[o + 2], c.bias[o + 3]};
        dot_four(x, w, size, size, op->zero, sums);
        for (int32_t k = 0; k < 4; k++) y[o + k] = requantised(sums[k], &c, o + k, op);
    }
    for (; o < op->out_c; o++, w += size) y[o] = requantised(c.bias[o] + dot(x, w, size, op->zero), &c, o, op);
}

/* The part of a window that lies inside: taps first..last-1 of one axis. */
static void reach(int32_t at, int32_t stride, int32_t pad, int32_t dilation, int32_t kernel, int32_t size,
                  int32_t *first, int32_t *last) {
    int32_t begin = at * stride - pad;
    int32_t low = 0, high = kernel;
    while (low < high && begin + low * dilation < 0) low++;
    while (high > low && begin + (high - 1) * dilation >= size) high--;
    *first = low, *last = high;
}

typedef struct {
    int32_t top, left;        /* of the window, may lie outside */
    int32_t i0, i1, j0, j1;   /* taps that lie inside */
} view_t;

static view_t view_of(const op_t *op, int32_t row, int32_t column) {
    view_t v;
    v.top = row * op->stride_h - op->pad_top;
    v.left = column * op->stride_w - op->pad_left;
    reach(row, op->stride_h, op->pad_top, op->dilation_h, op->kernel_h, op->in_h, &v.i0, &v.i1);
    reach(column, op->stride_w, op->pad_left, op->dilation_w, op->kernel_w, op->in_w, &v.j0, &v.j1);
    return v;
}

static const int8_t *tap(const op_t *op, const int8_t *x, const view_t *v, int32_t i, int32_t j) {
    return x + ((v->top + i * op->dilation_h) * op->in_w + v->left + j * op->dilation_w) * op->in_c;
}

/* One filter, or four, at one place: rows of the window, each in one piece where its taps lie beside each other. */
static void conv_at(const op_t *op, const int8_t *x, const int8_t *w, const view_t *v, int32_t filters, int32_t *sums) {
    int32_t channels = op->in_c, beside = op->dilation_w == 1;
    int32_t filter = op->kernel_h * op->kernel_w * channels, run = beside ? (v->j1 - v->j0) * channels : channels;
    for (int32_t i = v->i0; i < v->i1; i++) {
        for (int32_t j = v->j0; j < v->j1; j += beside ? op->kernel_w : 1) {
            const int8_t *seen = tap(op, x, v, i, j), *taps = w + (i * op->kernel_w + j) * channels;
            if (filters == 4) dot_four(seen, taps, filter, run, op->zero, sums);
            else sums[0] += dot(seen, taps, run, op->zero);
        }
    }
}

static void conv(const op_t *op, const uint8_t *blob, int8_t *arena) {
    constants_t c = constants_of(op, blob);
    const int8_t *x = arena + op->first;
    int8_t *y = arena + op->out;
    int32_t filter = op->kernel_h * op->kernel_w * op->in_c;
    for (int32_t row = 0; row < op->out_h; row++) {
        for (int32_t column = 0; column < op->out_w; column++) {
            view_t v = view_of(op, row, column);
            for (int32_t o = 0; o < op->out_c;) {
                int32_t filters = o + 4 <= op->out_c ? 4 : 1, sums[4];
                for (int32_t k = 0; k < filters; k++) sums[k] = c.bias[o + k];
                conv_at(op, x, c.weights + o * filter, &v, filters, sums);
                for (int32_t k = 0; k < filters; k++, o++) *y++ = requantised(sums[k], &c, o, op);
            }
        }
    }
}

static void depthwise(const op_t *op, const uint8_t *blob, int8_t *arena) {
    constants_t c = constants_of(op, blob);
    const int8_t *x = arena + op->first;
    int8_t *y = arena + op->out;
    int32_t times = op->out_c / op->in_c;
    for (int32_t row = 0; row < op->out_h; row++) {
        for (int32_t column = 0; column < op->out_w; column++) {
            view_t v = view_of(op, row, column);
            for (int32_t channel = 0, o = 0; channel < op->in_c; channel++) {
                for (int32_t copy = 0; copy < times; copy++, o++) {
                    int32_t sum = c.bias[o];
                    for (int32_t i = v.i0; i < v.i1; i++) {
                        const int8_t *seen = tap(op, x, &v, i, v.j0) + channel;
                        const int8_t *w = c.weights + (i * op->kernel_w + v.j0) * op->out_c + o;
                        for (int32_t j = v.j0; j < v.j1; j++) {
                            sum += (*seen - op->zero) * *w;
                            seen += op->dilation_w * op->in_c;
                            w += op->out_c;
                        }
                    }
                    *y++ = requantised(sum, &c, o, op);
                }
            }
        }
    }
}

static int64_t floor_divided(int64_t value, int64_t by) {
    int64_t found = value / by;
    return value % by < 0 ? found - 1 : found;
}

static void average_pool(const op_t *op, int8_t *arena) {
    const int8_t *x = arena + op->first;
    int8_t *y = arena + op->out;
    for (int32_t row = 0; row < op->out_h; row++) {
        for (int32_t column = 0; column < op->out_w; column++) {
            view_t v = view_of(op, row, column);
            int64_t count = op->count_padding ? op->kernel_h * op->kernel_w : (v.i1 - v.i0) * (v.j1 - v.j0);
            int64_t divisor = (count ? count : 1) << op->shift;
            for (int32_t channel = 0; channel < op->in_c; channel++) {
                int32_t sum = 0;
                for (int32_t i = v.i0; i < v.i1; i++) {
                    for (int32_t j = v.j0; j < v.j1; j++) sum += tap(op, x, &v, i, j)[channel] - op->zero;
                }
                int64_t product = (int64_t)sum * op->multiplier;
                *y++ = clamped(floor_divided(product + (divisor >> 1), divisor) + op->out_zero, op);
            }
        }
    }
}

static void max_pool(const op_t *op, int8_t *arena) {
    const int8_t *x = arena + op->first;
    int8_t *y = arena + op->out;
    for (int32_t row = 0; row < op->out_h; row++) {
        for (int32_t column = 0; column < op->out_w; column++) {
            view_t v = view_of(op, row, column);
            for (int32_t channel = 0; channel < op->in_c; channel++) {
                int32_t best = -128;
                for (int32_t i = v.i0; i < v.i1; i++) {
                    for (int32_t j = v.j0; j < v.j1; j++) {
                        int32_t seen = tap(op, x, &v, i, j)[channel];
                        if (seen > best) best = seen;
                    }
                }
                *y++ = clamped(best, op);
            }
        }
    }
}

static void add(const op_t *op, int8_t *arena) {
    const int8_t *x = arena + op->first, *z = arena + op->second;
    int8_t *y = arena + op->out;
    int32_t size = op->in_h * op->in_w * op->in_c;
    for (int32_t at = 0; at < size; at++) {
        int64_t total = (int64_t)(x[at] - op->zero) * op->multiplier;
        total += (int64_t)(z[at] - op->second_zero) * op->second_multiplier;
        y[at] = scaled(total, op->shift, op);
    }
}

static void rescale(const op_t *op, int8_t *arena) {
    const int8_t *x = arena + op->first;
    int8_t *y = arena + op->out;
    int32_t size = op->in_h * op->in_w * op->in_c;
    for (int32_t at = 0; at < size; at++) y[at] = scaled((int64_t)(x[at] - op->zero) * op->multiplier, op->shift, op);
}

void kernel_run(const op_t *op, const uint8_t *blob, int8_t *arena) {
    switch (op->code) {
    case OP_DENSE: dense(op, blob, arena); break;
    case OP_CONV: conv(op, blob, arena); break;
    case OP_DEPTHWISE: depthwise(op, blob, arena); break;
    case OP_AVERAGE_POOL: average_pool(op, arena); break;
    case OP_MAX_POOL: max_pool(op, arena); break;
    case OP_ADD: add(op, arena); break;
    case OP_RESCALE: rescale(op, arena); break;
    default: break;
    }
}
