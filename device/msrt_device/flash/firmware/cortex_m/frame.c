#include "frame.h"

#include <string.h>

#include "engine.h"

uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void put32(uint8_t *at, uint32_t value) {
    for (int byte = 0; byte < 4; byte++) at[byte] = (uint8_t)(value >> 8 * byte);
}

/* In place: what is written never overtakes what is read. Returns 0 for what is stuffed wrongly. */
static size_t unstuffed(uint8_t *bytes, size_t count) {
    size_t from = 0, to = 0;
    while (from < count) {
        size_t size = bytes[from];
        if (!size || from + size > count) return 0;
        memmove(bytes + to, bytes + from + 1, size - 1);
        to += size - 1, from += size;
        if (size < 0xff && from < count) bytes[to++] = 0;
    }
    return to;
}

int frame_in(decoder_t *decoder, uint8_t byte, frame_t *found) {
    if (byte) {
        if (decoder->count == sizeof decoder->bytes) decoder->overrun = 1;
        else decoder->bytes[decoder->count++] = byte;
        return 0;
    }
    size_t size = decoder->overrun ? 0 : unstuffed(decoder->bytes, decoder->count);
    decoder->count = 0, decoder->overrun = 0;
    if (size < 8 || size > RAW_LIMIT) return 0;
    const uint8_t *raw = decoder->bytes;
    found->kind = raw[0], found->sequence = raw[1];
    found->length = (uint16_t)(raw[2] | raw[3] << 8);
    found->body = raw + 4;
    return found->length == size - 8 && get32(raw + size - 4) == crc32_of(raw, size - 4, 0);
}

typedef struct {
    uint8_t *out;
    size_t at, mark; /* next byte, and where the length of the present run stands */
} stuffer_t;

static void stuff(stuffer_t *s, uint8_t byte) {
    if (byte) s->out[s->at++] = byte;
    if (!byte || s->at - s->mark == 0xff) {
        s->out[s->mark] = (uint8_t)(s->at - s->mark);
        s->mark = s->at++;
    }
}

size_t frame_out(uint8_t *out, uint8_t kind, uint8_t sequence, const uint8_t *body, size_t length) {
    uint8_t head[4] = {kind, sequence, (uint8_t)length, (uint8_t)(length >> 8)}, crc[4];
    put32(crc, crc32_of(body, length, crc32_of(head, sizeof head, 0)));
    stuffer_t s = {out, 2, 1};
    out[0] = 0;
    for (size_t at = 0; at < sizeof head; at++) stuff(&s, head[at]);
    for (size_t at = 0; at < length; at++) stuff(&s, body[at]);
    for (size_t at = 0; at < sizeof crc; at++) stuff(&s, crc[at]);
    out[s.mark] = (uint8_t)(s.at - s.mark);
    out[s.at++] = 0;
    return s.at;
}
