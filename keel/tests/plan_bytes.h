/* Plans for the tests, byte by byte. */
#ifndef KEEL_PLAN_BYTES_H
#define KEEL_PLAN_BYTES_H

#include <stdint.h>
#include <string.h>

struct buffer {
    uint8_t bytes[8192];
    size_t size;
    size_t step; /* where the current step's payload length stands */
};

static inline void put(struct buffer *buffer, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        buffer->bytes[buffer->size++] = (uint8_t)(value >> (8 * i));
}

static inline void put_text(struct buffer *buffer, const char *text) {
    size_t length = strlen(text);
    put(buffer, length, 4);
    memcpy(buffer->bytes + buffer->size, text, length + 1);
    buffer->size += length + 1;
}

static inline void begin_plan(struct buffer *buffer, uint32_t steps) {
    memcpy(buffer->bytes, "KEEL\1\0\0\0", 8);
    buffer->size = 8;
    put(buffer, steps, 4);
}

static inline void begin_step(struct buffer *buffer, unsigned opcode, unsigned flags) {
    put(buffer, opcode, 2);
    put(buffer, flags, 2);
    buffer->step = buffer->size;
    put(buffer, 0, 4);
}

static inline void end_step(struct buffer *buffer) {
    size_t end = buffer->size;
    buffer->size = buffer->step;
    put(buffer, end - buffer->step - 4, 4);
    buffer->size = end;
}

static inline void put_supervise(struct buffer *buffer, uint64_t terminal) {
    begin_step(buffer, 1, 0);
    put_text(buffer, "/run/x");
    for (int i = 0; i < 3; i++)
        put_text(buffer, "");
    put(buffer, terminal, 8);
    for (int i = 0; i < 4; i++)
        put(buffer, 0, 8);
    put_text(buffer, "");
    put(buffer, 0, 4);
    end_step(buffer);
}

static inline void put_clone(struct buffer *buffer, uint64_t pidfd_slot, int64_t cgroup_slot) {
    begin_step(buffer, 4, 0);
    put(buffer, 0x20000000, 8);
    put(buffer, 1, 4);
    put_text(buffer, "net:/proc/1/ns/net");
    put(buffer, 2, 4);
    put(buffer, pidfd_slot, 8);
    put(buffer, 0x40000000, 8);
    put(buffer, (uint64_t)cgroup_slot, 8);
    end_step(buffer);
}

static inline void put_execute(struct buffer *buffer, const char *argument, uint32_t candidates) {
    begin_step(buffer, 40, 0);
    put(buffer, 1, 4);
    put_text(buffer, argument);
    put(buffer, 0, 4);
    put(buffer, candidates, 4);
    for (uint32_t i = 0; i < candidates; i++)
        put_text(buffer, "/bin/true");
    put(buffer, 0, 8);
    end_step(buffer);
}

static inline void put_good_plan(struct buffer *buffer) {
    begin_plan(buffer, 4);
    put_supervise(buffer, 0);
    put_clone(buffer, 3, -1);
    begin_step(buffer, 35, 1);
    put(buffer, 022, 8);
    end_step(buffer);
    put_execute(buffer, "true", 2);
}

#endif
