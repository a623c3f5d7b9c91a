/* What the agent needs of a board: one file implements it for each. */
#ifndef MSRT_BOARD_H
#define MSRT_BOARD_H

#include <stddef.h>
#include <stdint.h>

extern const char board_name[];
extern const char board_serial[];

void board_start(void);
uint32_t board_millis(void);
uint32_t board_micros(void); /* wraps */
uint32_t board_boot(void);   /* differs from start to start; asked after the first byte came */

size_t board_read(uint8_t *into, size_t room); /* what has arrived, 0 for nothing */
void board_write(const uint8_t *data, size_t size);
void board_alive(void); /* to the watchdog */
void board_idle(void);  /* sleep until something happens, a millisecond at most */

/* Where a model lies, aligned to four bytes, and the memory for its tensors. */
extern uint8_t *const board_model;
extern const uint32_t board_model_bytes;
extern int8_t *const board_arena;
extern const uint32_t board_arena_bytes;

/* Its own sensor: one reading of `count` 8-bit numbers. */
extern const char board_sensor[];
void board_sense(uint32_t reading, int8_t *into, uint32_t count);

#endif
