/* Strings and bytes, as C has them. Small before fast, but for what a container's output passes. */
#include <stdint.h>
#include <string.h>

/* Few bytes by two words that may overlap: "rep" is slow to begin, and as fast as any loop then. */
void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    void *at = to;
    if (size >= sizeof(uint64_t) && size <= 2 * sizeof(uint64_t)) {
        uint64_t head, tail;
        __builtin_memcpy(&head, from, sizeof head);
        __builtin_memcpy(&tail, (const char *)from + size - sizeof tail, sizeof tail);
        __builtin_memcpy(to, &head, sizeof head);
        __builtin_memcpy((char *)to + size - sizeof tail, &tail, sizeof tail);
        return to;
    }
    if (size < sizeof(uint64_t)) {
        for (size_t i = 0; i < size; i++)
            ((char *)to)[i] = ((const char *)from)[i];
        return to;
    }
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    if ((uintptr_t)to - (uintptr_t)from >= size)
        return memcpy(to, from, size);
    for (unsigned char *at = to; size-- > 0;)
        at[size] = ((const unsigned char *)from)[size];
    return to;
}

void *memset(void *to, int byte, size_t size) {
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(byte) : "memory");
    return to;
}

int memcmp(const void *one, const void *other, size_t size) {
    const unsigned char *a = one, *b = other;
    for (; size > 0; size--, a++, b++)
        if (*a != *b)
            return *a < *b ? -1 : 1;
    return 0;
}

/* Eight bytes at a time: (w - 0x01…) & ~w & 0x80… is not zero where w has a zero byte. */
void *memchr(const void *bytes, int byte, size_t size) {
    const uint64_t ones = 0x0101010101010101u, highs = ones << 7;
    const unsigned char *at = bytes;
    uint64_t word;
    for (; size >= sizeof word; at += sizeof word, size -= sizeof word) {
        __builtin_memcpy(&word, at, sizeof word);
        word ^= ones * (unsigned char)byte;
        if ((word - ones) & ~word & highs)
            break;
    }
    for (; size > 0; at++, size--)
        if (*at == (unsigned char)byte)
            return (void *)(uintptr_t)at;
    return NULL;
}

size_t strnlen(const char *string, size_t limit) {
    size_t length = 0;
    while (length < limit && string[length])
        length++;
    return length;
}

size_t strlen(const char *string) { return strnlen(string, SIZE_MAX); }

char *strcpy(char *restrict to, const char *restrict from) {
    return memcpy(to, from, strlen(from) + 1);
}

int strncmp(const char *one, const char *other, size_t limit) {
    for (; limit > 0; limit--, one++, other++)
        if (*one != *other || !*one)
            return (unsigned char)*one - (unsigned char)*other;
    return 0;
}

int strcmp(const char *one, const char *other) { return strncmp(one, other, SIZE_MAX); }

char *strchr(const char *string, int character) {
    while (*string != (char)character)
        if (!*string++)
            return NULL;
    return (char *)(uintptr_t)string;
}

char *strrchr(const char *string, int character) {
    const char *found = NULL;
    do
        if (*string == (char)character)
            found = string;
    while (*string++);
    return (char *)(uintptr_t)found;
}

static size_t span(const char *string, const char *set, int inside) {
    size_t length = 0;
    while (string[length] && (strchr(set, string[length]) != NULL) == inside)
        length++;
    return length;
}

size_t strspn(const char *string, const char *accept) { return span(string, accept, 1); }
size_t strcspn(const char *string, const char *reject) { return span(string, reject, 0); }
