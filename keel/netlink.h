/* Netlink messages as bytes: their borders, and what the kernel answers to one. */
#ifndef KEEL_NETLINK_H
#define KEEL_NETLINK_H

#include <stddef.h>
#include <stdint.h>

/* How far the message at `bytes` reaches, padding included; 0: its length is not within `left`. */
size_t netlink_span(const char *bytes, size_t left);

/* The number of messages in a batch; 0: it does not consist of whole messages. */
uint32_t netlink_count(const char *bytes, size_t size);

/* Look in a datagram of the kernel's for the acknowledgement of message `number`. 1: `error` is its
 * errno (0: done) and `words` what the kernel says of it, or empty. 0: it is not there. */
int netlink_answer(const char *bytes, size_t size, uint32_t number, int *error, char *words,
                   size_t words_size);

#endif
