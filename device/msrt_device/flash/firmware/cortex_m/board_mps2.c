/* Arm MPS2 with the AN385 image (Cortex-M3, 25 MHz), as QEMU has it: UART0, SysTick, one CMSDK timer, the watchdog.
   Register layouts: Arm "Cortex-M System Design Kit Technical Reference Manual" (DDI 0479). Models lie in SRAM, so a
   reset forgets them. Its sensor is synthetic: a ramp that moves with every reading. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART_DATA REGISTER(0x40004000u)
#define UART_STATE REGISTER(0x40004004u)
#define UART_CTRL REGISTER(0x40004008u)
#define UART_INTCLEAR REGISTER(0x4000400cu)
#define UART_BAUDDIV REGISTER(0x40004010u)
#define TIMER_CTRL REGISTER(0x40000000u)
#define TIMER_VALUE REGISTER(0x40000004u)
#define TIMER_RELOAD REGISTER(0x40000008u)
#define WATCHDOG_LOAD REGISTER(0x40008000u)
#define WATCHDOG_CTRL REGISTER(0x40008008u)
#define WATCHDOG_CLEAR REGISTER(0x4000800cu)
#define WATCHDOG_LOCK REGISTER(0x40008c00u)
#define SYSTICK_CTRL REGISTER(0xe000e010u)
#define SYSTICK_LOAD REGISTER(0xe000e014u)
#define SYSTICK_VALUE REGISTER(0xe000e018u)
#define NVIC_ENABLE REGISTER(0xe000e100u)

enum { CLOCK_HZ = 25000000, BAUD = 115200, UART0_RX_IRQ = 0 };
enum { TX_FULL = 1, RX_FULL = 2, TX_ENABLE = 1, RX_ENABLE = 2, RX_INTERRUPT = 8, RX_PENDING = 2 };
enum { RING = 4096, MODEL_BYTES = 512 * 1024, ARENA_BYTES = 256 * 1024 };

#ifndef MSRT_SERIAL
#define MSRT_SERIAL "mps2-1"
#endif

const char board_name[] = "mps2-an385";
const char board_serial[] = MSRT_SERIAL;
const char board_sensor[] = "ramp";

static uint32_t model_area[MODEL_BYTES / 4];
static uint32_t arena_area[ARENA_BYTES / 4];
uint8_t *const board_model = (uint8_t *)model_area;
const uint32_t board_model_bytes = MODEL_BYTES;
int8_t *const board_arena = (int8_t *)arena_area;
const uint32_t board_arena_bytes = ARENA_BYTES;

static volatile uint8_t ring[RING];
static volatile uint32_t ring_in, ring_out, millis;
static uint32_t boot;
static uint32_t starts __attribute__((section(".noinit"))); /* keeps counting over resets */

void uart0_rx_handler(void) {
    UART_INTCLEAR = RX_PENDING; /* before the register is read: what arrives after that interrupts again */
    while (UART_STATE & RX_FULL) {
        uint8_t byte = (uint8_t)UART_DATA;
        if (ring_in - ring_out < RING) ring[ring_in++ % RING] = byte; /* else its frame is lost, and asked again */
    }
}

void systick_handler(void) { millis++; }

void board_start(void) {
    starts++;
    TIMER_RELOAD = 0xffffffffu, TIMER_VALUE = 0xffffffffu, TIMER_CTRL = 1;
    SYSTICK_LOAD = CLOCK_HZ / 1000 - 1, SYSTICK_VALUE = 0, SYSTICK_CTRL = 7;
    WATCHDOG_LOCK = 0x1acce551u; /* two seconds of silence interrupt, two more reset */
    WATCHDOG_LOAD = 2u * CLOCK_HZ, WATCHDOG_CTRL = 3;
    UART_BAUDDIV = CLOCK_HZ / BAUD;
    UART_CTRL = TX_ENABLE | RX_ENABLE | RX_INTERRUPT;
    NVIC_ENABLE = 1u << UART0_RX_IRQ;
}

uint32_t board_millis(void) { return millis; }

uint32_t board_micros(void) { return (0xffffffffu - TIMER_VALUE) / (CLOCK_HZ / 1000000); }

/* There is no source of randomness here: when somebody first asked, and how often it started, differ enough. */
uint32_t board_boot(void) {
    if (!boot) boot = (TIMER_VALUE * 2654435761u ^ starts) | 1u;
    return boot;
}

size_t board_read(uint8_t *into, size_t room) {
    size_t count = 0;
    while (count < room && ring_out != ring_in) into[count++] = ring[ring_out++ % RING];
    return count;
}

void board_write(const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size; at++) {
        while (UART_STATE & TX_FULL) {}
        UART_DATA = data[at];
    }
}

void board_alive(void) { WATCHDOG_CLEAR = 1; }

void board_idle(void) {
    __asm volatile("cpsid i" ::: "memory");
    if (ring_out == ring_in) __asm volatile("wfi"); /* wakes for what is pending, masked or not */
    __asm volatile("cpsie i" ::: "memory");
}

void board_sense(uint32_t reading, int8_t *into, uint32_t count) {
    for (uint32_t at = 0; at < count; at++) into[at] = (int8_t)(uint8_t)(reading * 37u + at * 5u);
}
