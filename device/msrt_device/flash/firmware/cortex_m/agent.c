#include "agent.h"

#include <string.h>

#include "board.h"
#include "engine.h"
#include "frame.h"
#include "sha256.h"

enum { ASK = 1, LEASE, LOAD, CHUNK, FINISH, INFER, TAKEN, HELLO = 65, DONE, INFERRED, EVENT, FAILED };
enum { MALFORMED = 1, NO_LEASE, NO_MODEL, NO_ROOM, DIGEST, NOT_A_MODEL, OUT_OF_ORDER };
enum { PROFILE = 1, EVENTS = 16, EVENT_OUTPUTS = 64, EVENT_AGAIN_MS = 500, INPUT_HEAD = 12 };

typedef struct {
    uint32_t number, tag, uptime_ms, reading, best, size;
    int8_t outputs[EVENT_OUTPUTS];
} event_t;

static struct {
    decoder_t decoder;
    uint8_t reply[STUFFED_LIMIT + 2]; /* to the question `answered`: a repeated question gets it again */
    size_t reply_bytes;
    int answered;
    /* lease */
    uint32_t lease_from, lease_ms, sense_ms;
    uint8_t leased;
    /* model */
    uint32_t coming, arrived; /* bytes announced, and bytes that are here */
    uint8_t digest[32];
    model_t model;
    uint8_t ready;
    uint32_t gathered; /* bytes of an input that comes in pieces */
    /* sensor and its events */
    uint32_t sensed_at, reading, last_best, numbered, dropped;
    event_t events[EVENTS];
    uint32_t waiting, told_at;
    uint8_t told;
} me;

static uint32_t tag(void) { return get32(me.digest); }

static void answer(const frame_t *to, uint8_t kind, const uint8_t *body, size_t length) {
    me.reply_bytes = frame_out(me.reply, kind, to->sequence, body, length);
    me.answered = to->sequence;
    board_write(me.reply, me.reply_bytes);
}

static void done(const frame_t *to, uint32_t value) {
    uint8_t body[4];
    put32(body, value);
    answer(to, DONE, body, sizeof body);
}

static void fail(const frame_t *to, uint8_t code, const char *text) {
    uint8_t body[3 + 64] = {code, 0, (uint8_t)strlen(text)};
    memcpy(body + 3, text, body[2]);
    answer(to, FAILED, body, 3u + body[2]);
}

static uint8_t *put_text(uint8_t *at, const char *text) {
    size_t size = strlen(text);
    *at = (uint8_t)size;
    memcpy(at + 1, text, size);
    return at + 1 + size;
}

static void hello(const frame_t *frame) {
    uint8_t body[13 + 32 + 4 * 65];
    me.leased = 0;
    body[0] = PROFILE;
    put32(body + 1, board_boot());
    put32(body + 5, board_model_bytes);
    put32(body + 9, board_arena_bytes);
    memset(body + 13, 0, 32);
    if (me.ready) memcpy(body + 13, me.digest, 32);
    uint8_t *at = put_text(body + 45, board_serial);
    at = put_text(at, board_name);
    at = put_text(at, "msrt cortex-m " MSRT_VERSION);
    at = put_text(at, board_sensor);
    answer(frame, HELLO, body, (size_t)(at - body));
}

static void lease(const frame_t *frame) {
    if (frame->length != 12) { fail(frame, MALFORMED, "a lease has 12 bytes"); return; }
    me.lease_ms = get32(frame->body + 4), me.sense_ms = get32(frame->body + 8);
    me.lease_from = board_millis();
    me.leased = 1;
    done(frame, board_boot());
}

static void load(const frame_t *frame) {
    if (frame->length != 8) { fail(frame, MALFORMED, "an announcement has 8 bytes"); return; }
    me.ready = 0, me.arrived = 0, me.coming = 0, me.gathered = 0;
    if (get32(frame->body) > board_model_bytes) { fail(frame, NO_ROOM, "the model needs more flash"); return; }
    if (get32(frame->body + 4) > board_arena_bytes) { fail(frame, NO_ROOM, "the model needs more memory"); return; }
    me.coming = get32(frame->body);
    done(frame, 0);
}

static void chunk(const frame_t *frame) {
    if (frame->length < 5) { fail(frame, MALFORMED, "a chunk has an offset and bytes"); return; }
    uint32_t size = frame->length - 4u;
    if (get32(frame->body) != me.arrived || size > me.coming - me.arrived) {
        fail(frame, OUT_OF_ORDER, "not the next bytes");
        return;
    }
    memcpy(board_model + me.arrived, frame->body + 4, size);
    me.arrived += size;
    done(frame, me.arrived);
}

static void finish(const frame_t *frame) {
    if (frame->length != 32) { fail(frame, MALFORMED, "a digest has 32 bytes"); return; }
    if (!me.coming || me.arrived != me.coming) { fail(frame, OUT_OF_ORDER, "bytes are missing"); return; }
    sha256(board_model, me.coming, me.digest, board_alive);
    if (memcmp(me.digest, frame->body, 32)) { fail(frame, DIGEST, "its SHA-256 is another one"); return; }
    int fault = engine_open(&me.model, board_model, me.coming, board_arena_bytes);
    if (fault == ENGINE_NO_ROOM) { fail(frame, NO_ROOM, "the model needs more memory"); return; }
    if (fault == ENGINE_UNKNOWN_OPERATOR) { fail(frame, NOT_A_MODEL, "an operator is unknown here"); return; }
    if (fault == ENGINE_OTHER_VERSION) { fail(frame, NOT_A_MODEL, "a model of another version"); return; }
    if (fault) { fail(frame, NOT_A_MODEL, "no model, or a damaged one"); return; }
    me.ready = 1;
    me.last_best = UINT32_MAX;
    done(frame, me.coming);
}

static void infer(const frame_t *frame) {
    static uint8_t body[BODY_LIMIT];
    if (frame->length <= INPUT_HEAD) { fail(frame, MALFORMED, "a question has an input"); return; }
    if (!me.leased) { fail(frame, NO_LEASE, "no lease holds"); return; }
    if (!me.ready || get32(frame->body) != tag()) { fail(frame, NO_MODEL, "another model is here, or none"); return; }
    uint32_t total = get32(frame->body + 4), offset = get32(frame->body + 8), size = frame->length - 12u;
    if (!offset) me.gathered = 0;
    if (total != me.model.input_bytes || offset != me.gathered || size > total - offset) {
        fail(frame, OUT_OF_ORDER, "not the input's next bytes");
        return;
    }
    memcpy(board_arena + me.model.input_at + offset, frame->body + 12, size);
    me.gathered = offset + size;
    if (me.gathered < total) { done(frame, me.gathered); return; }
    me.gathered = 0;
    if (me.model.output_bytes > BODY_LIMIT - 4) { fail(frame, NO_ROOM, "the output does not fit a frame"); return; }
    uint32_t begun = board_micros();
    engine_run(&me.model, board_arena, board_alive);
    put32(body, board_micros() - begun);
    memcpy(body + 4, board_arena + me.model.output_at, me.model.output_bytes);
    answer(frame, INFERRED, body, 4 + me.model.output_bytes);
}

static void taken(const frame_t *frame) {
    if (frame->length != 4 || !me.waiting || me.events[0].number != get32(frame->body)) return;
    me.waiting--;
    memmove(me.events, me.events + 1, me.waiting * sizeof *me.events);
    me.told = 0;
}

static void received(const frame_t *frame) {
    if (frame->kind == TAKEN) { taken(frame); return; }
    if (frame->kind != ASK && me.answered == frame->sequence) {
        board_write(me.reply, me.reply_bytes);
        return;
    }
    switch (frame->kind) {
    case ASK: hello(frame); break;
    case LEASE: lease(frame); break;
    case LOAD: load(frame); break;
    case CHUNK: chunk(frame); break;
    case FINISH: finish(frame); break;
    case INFER: infer(frame); break;
    default: fail(frame, MALFORMED, "unknown type"); break;
    }
}

/* A finding is an event when it is another one than before. The oldest goes where there is no room, and is counted. */
static void noted(uint32_t reading, uint32_t best) {
    if (best == me.last_best) return;
    me.last_best = best;
    if (me.waiting == EVENTS) {
        me.waiting--, me.dropped++, me.told = 0;
        memmove(me.events, me.events + 1, me.waiting * sizeof *me.events);
    }
    event_t *event = &me.events[me.waiting++];
    event->number = ++me.numbered, event->tag = tag(), event->uptime_ms = board_millis();
    event->reading = reading, event->best = best;
    event->size = me.model.output_bytes < EVENT_OUTPUTS ? me.model.output_bytes : EVENT_OUTPUTS;
    memcpy(event->outputs, board_arena + me.model.output_at, event->size);
}

static void sense(void) {
    if (!me.leased || !me.ready || !me.sense_ms || !*board_sensor || me.gathered) return;
    if (board_millis() - me.sensed_at < me.sense_ms) return;
    me.sensed_at = board_millis();
    uint32_t reading = me.reading++;
    board_sense(reading, board_arena + me.model.input_at, me.model.input_bytes);
    engine_run(&me.model, board_arena, board_alive);
    const int8_t *outputs = board_arena + me.model.output_at;
    uint32_t best = 0;
    for (uint32_t at = 1; at < me.model.output_bytes; at++) {
        if (outputs[at] > outputs[best]) best = at;
    }
    noted(reading, best);
}

static void tell(void) {
    static uint8_t out[STUFFED_LIMIT + 2];
    uint8_t body[24 + EVENT_OUTPUTS];
    if (!me.leased || !me.waiting || (me.told && board_millis() - me.told_at < EVENT_AGAIN_MS)) return;
    const event_t *event = &me.events[0];
    const uint32_t head[6] = {event->number, event->tag, event->uptime_ms, event->reading, me.dropped, event->best};
    for (int at = 0; at < 6; at++) put32(body + 4 * at, head[at]);
    memcpy(body + 24, event->outputs, event->size);
    board_write(out, frame_out(out, EVENT, (uint8_t)event->number, body, 24 + event->size));
    me.told = 1, me.told_at = board_millis();
}

void agent_start(void) {
    memset(&me, 0, sizeof me);
    me.answered = -1;
}

void agent_step(void) {
    uint8_t bytes[64];
    frame_t frame;
    size_t count = board_read(bytes, sizeof bytes);
    for (size_t at = 0; at < count; at++) {
        if (frame_in(&me.decoder, bytes[at], &frame)) received(&frame);
    }
    if (me.leased && board_millis() - me.lease_from > me.lease_ms) me.leased = 0;
    sense();
    tell();
    board_alive();
    if (!count) board_idle();
}
