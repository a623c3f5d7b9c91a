/* Runs a model's blob (runtime/msrt/inference/micro/README.md) with int8 kernels. No allocation, no floats. */
#ifndef MSRT_ENGINE_H
#define MSRT_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#define ENGINE_VERSION 1

/* A blob that was checked: every offset in it lies where it should. */
typedef struct {
    const uint8_t *blob;
    uint32_t arena_bytes;
    uint32_t op_count;
    uint32_t ops_at;
    uint32_t input_at, input_bytes;
    uint32_t output_at, output_bytes;
} model_t;

/* What a blob was refused for; 0 for none. */
enum { ENGINE_OK, ENGINE_NOT_A_BLOB, ENGINE_OTHER_VERSION, ENGINE_DAMAGED, ENGINE_NO_ROOM, ENGINE_UNKNOWN_OPERATOR };

/* `blob` must be aligned to four bytes and stay where it is. */
int engine_open(model_t *model, const uint8_t *blob, size_t size, size_t arena_bytes);

/* The input lies in the arena before (model->input_at), the output after it (model->output_at). `between` is called
   before each operator, for a watchdog; may be NULL. */
void engine_run(const model_t *model, int8_t *arena, void (*between)(void));

uint32_t crc32_of(const uint8_t *data, size_t size, uint32_t before);

#endif
