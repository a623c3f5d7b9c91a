/* From reset to main: vectors, data, zeros. A fault resets the board; so does a watchdog that nobody calmed. */
#include <stdint.h>

#include "agent.h"
#include "board.h"

extern uint32_t stack_top, data_from, data_begin, data_end, zero_begin, zero_end;

void uart0_rx_handler(void);
void systick_handler(void);

int main(void) {
    board_start();
    agent_start();
    for (;;) agent_step();
}

void reset_handler(void) {
    const uint32_t *from = &data_from;
    for (uint32_t *to = &data_begin; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &zero_begin; to < &zero_end;) *to++ = 0;
    main();
}

static void fault_handler(void) {
    *(volatile uint32_t *)0xe000ed0cu = 0x05fa0004u; /* AIRCR: system reset request */
    for (;;) {}
}

static void watchdog_handler(void) {
    for (;;) {} /* the next time it resets */
}

static void ignored_handler(void) {}

typedef void (*handler_t)(void);

__attribute__((section(".vectors"), used)) static const handler_t vectors[16 + 2] = {
    (handler_t)&stack_top, reset_handler,   watchdog_handler, fault_handler,   fault_handler,    fault_handler,
    fault_handler,         0,               0,                0,               0,                ignored_handler,
    ignored_handler,       0,               ignored_handler,  systick_handler, uart0_rx_handler, ignored_handler,
};
