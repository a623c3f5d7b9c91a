/* The agent as a process of this machine: its line is one connection after the other on the listening socket given. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "board.h"

const char board_name[] = "posix";
const char board_serial[] = "posix-1";
const char board_sensor[] = "ramp";
static uint32_t model_area[16384 / 4], arena_area[2048 / 4];
uint8_t *const board_model = (uint8_t *)model_area;
const uint32_t board_model_bytes = sizeof model_area;
int8_t *const board_arena = (int8_t *)arena_area;
const uint32_t board_arena_bytes = sizeof arena_area;

static int listener, line = -1;

static uint64_t micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

void board_start(void) {}
uint32_t board_millis(void) { return (uint32_t)(micros() / 1000); }
uint32_t board_micros(void) { return (uint32_t)micros(); }
uint32_t board_boot(void) { return (uint32_t)getpid(); }
void board_alive(void) {}

size_t board_read(uint8_t *into, size_t room) {
    if (line < 0) {
        line = accept(listener, NULL, NULL);
        if (line < 0) exit(1);
        fcntl(line, F_SETFL, O_NONBLOCK);
    }
    ssize_t count = read(line, into, room);
    if (!count) close(line), line = -1;
    return count > 0 ? (size_t)count : 0;
}

void board_write(const uint8_t *data, size_t size) {
    while (size && line >= 0) {
        ssize_t count = write(line, data, size);
        if (count > 0) data += count, size -= (size_t)count;
    }
}

void board_idle(void) {
    struct pollfd one = {line, POLLIN, 0};
    poll(&one, 1, 1);
}

void board_sense(uint32_t reading, int8_t *into, uint32_t count) {
    for (uint32_t at = 0; at < count; at++) into[at] = (int8_t)(uint8_t)(reading * 37u + at * 5u);
}

int main(int count, char **words) {
    if (count != 2) return 2;
    listener = atoi(words[1]);
    agent_start();
    for (;;) agent_step();
}
