/* Netlink messages as bytes. Promises: no byte outside a buffer is read, whatever it holds.
 * It knows how messages are framed, never what they mean. Source: netlink(7), linux/netlink.h. */
#include "netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>

enum { ALIGNMENT = NLMSG_ALIGNTO, HEADER_BYTES = NLMSG_HDRLEN, MAX_ERRNO = 4095 };

static size_t padded(size_t length) {
    return (length + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

size_t netlink_span(const char *bytes, size_t left) {
    uint32_t length = 0;
    if (left < HEADER_BYTES)
        return 0;
    memcpy(&length, bytes, sizeof length);
    if (length < HEADER_BYTES || length > left)
        return 0;
    size_t whole = padded(length);
    return whole < left ? whole : left; /* behind the last one there may be no padding */
}

uint32_t netlink_count(const char *bytes, size_t size) {
    uint32_t count = 0;
    for (size_t at = 0, span; at < size; at += span, count++)
        if (!(span = netlink_span(bytes + at, size - at)))
            return 0;
    return count;
}

/* NLMSGERR_ATTR_MSG among the attributes. */
static void copy_words(const char *bytes, size_t size, char *words, size_t words_size) {
    struct nlattr attribute;
    size_t step;
    for (; size >= sizeof attribute; bytes += step, size -= step) {
        memcpy(&attribute, bytes, sizeof attribute);
        if (attribute.nla_len < sizeof attribute || attribute.nla_len > size)
            return;
        if ((attribute.nla_type & NLA_TYPE_MASK) == NLMSGERR_ATTR_MSG) {
            size_t length = strnlen(bytes + sizeof attribute, attribute.nla_len - sizeof attribute);
            length = length < words_size ? length : words_size - 1;
            memcpy(words, bytes + sizeof attribute, length);
            words[length] = '\0';
            return;
        }
        step = padded(attribute.nla_len);
        if (step > size)
            return;
    }
}

static int read_answer(const char *bytes, size_t length, const struct nlmsghdr *head, int *error,
                       char *words, size_t words_size) {
    struct nlmsgerr answer;
    size_t attributes = HEADER_BYTES + sizeof answer;
    if (length < attributes)
        return 0;
    memcpy(&answer, bytes + HEADER_BYTES, sizeof answer);
    *error = answer.error >= -MAX_ERRNO && answer.error <= 0 ? -answer.error : EPROTO;
    words[0] = '\0';
    /* the refused message is echoed unless the answer is capped */
    if (!(head->nlmsg_flags & NLM_F_CAPPED) && answer.msg.nlmsg_len > HEADER_BYTES)
        attributes += padded(answer.msg.nlmsg_len) - HEADER_BYTES;
    if (head->nlmsg_flags & NLM_F_ACK_TLVS && attributes < length)
        copy_words(bytes + attributes, length - attributes, words, words_size);
    return 1;
}

int netlink_answer(const char *bytes, size_t size, uint32_t number, int *error, char *words,
                   size_t words_size) {
    struct nlmsghdr head;
    for (size_t at = 0, span; at < size; at += span) {
        if (!(span = netlink_span(bytes + at, size - at)))
            return 0;
        memcpy(&head, bytes + at, sizeof head);
        if (head.nlmsg_type == NLMSG_ERROR && head.nlmsg_seq == number)
            return read_answer(bytes + at, head.nlmsg_len, &head, error, words, words_size);
    }
    return 0;
}
