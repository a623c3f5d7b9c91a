/* Frames of profile `mcu` (runtime/msrt/protocol/README.md, section 6): COBS between zeros, CRC-32. */
#ifndef MSRT_FRAME_H
#define MSRT_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { BODY_LIMIT = 1024, RAW_LIMIT = 4 + BODY_LIMIT + 4, STUFFED_LIMIT = RAW_LIMIT + RAW_LIMIT / 254 + 1 };

typedef struct {
    uint8_t kind, sequence;
    uint16_t length;
    const uint8_t *body;
} frame_t;

typedef struct {
    uint8_t bytes[STUFFED_LIMIT];
    size_t count;
    uint8_t overrun;
} decoder_t;

/* One byte in; 1 when a frame is whole. It is valid until the next byte. Damaged ones are dropped. */
int frame_in(decoder_t *decoder, uint8_t byte, frame_t *found);

/* Writes a frame with zeros around it; returns its bytes. `out` has room for STUFFED_LIMIT + 2. */
size_t frame_out(uint8_t *out, uint8_t kind, uint8_t sequence, const uint8_t *body, size_t length);

uint32_t get32(const uint8_t *at);
void put32(uint8_t *at, uint32_t value);

#endif
