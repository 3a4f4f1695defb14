/* keel's own C library against glibc's. Built with ASan and UBSan. */
#include <errno.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

/* The names of theirs are taken: give ours others. */
#define memcpy own_memcpy
#define memmove own_memmove
#define memset own_memset
#define memcmp own_memcmp
#define memchr own_memchr
#define strnlen own_strnlen
#define strlen own_strlen
#define strcpy own_strcpy
#define strncmp own_strncmp
#define strcmp own_strcmp
#define strchr own_strchr
#define strrchr own_strrchr
#define strspn own_strspn
#define strcspn own_strcspn
#define vsnprintf own_vsnprintf
#define snprintf own_snprintf
#define malloc own_malloc
#define calloc own_calloc
#define free own_free
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#include "../libc/string.c"

#include "../libc/format.c"
#include "../libc/memory.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp
#undef memchr
#undef strnlen
#undef strlen
#undef strcpy
#undef strncmp
#undef strcmp
#undef strchr
#undef strrchr
#undef strspn
#undef strcspn
#undef vsnprintf
#undef snprintf
#undef malloc
#undef calloc
#undef free

static int sign(int value) { return (value > 0) - (value < 0); }

/* Every length and alignment up to a few words, in an alphabet small enough that bytes repeat. */
static void test_bytes(void) {
    unsigned char one[64], two[64], ours[64], theirs[64];
    for (unsigned round = 0; round < 20000; round++) {
        size_t start = (size_t)rand() % 9, size = (size_t)rand() % 40, other = (size_t)rand() % 9;
        for (size_t i = 0; i < sizeof one; i++) {
            one[i] = (unsigned char)("\0\1\x80\xff"[rand() % 4]);
            two[i] = rand() % 8 ? one[i] : (unsigned char)rand();
        }
        int byte = "\0\1\x80\xff"[rand() % 4];
        CHECK(own_memchr(one + start, byte, size) == memchr(one + start, byte, size));
        CHECK(sign(own_memcmp(one + start, two + start, size)) ==
              sign(memcmp(one + start, two + start, size)));
        memcpy(ours, two, sizeof two);
        memcpy(theirs, two, sizeof two);
        CHECK(own_memcpy(ours + other, one + start, size) == ours + other);
        memcpy(theirs + other, one + start, size);
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);
        CHECK(own_memmove(ours + other, ours + start, size) == ours + other);
        memmove(theirs + other, theirs + start, size);
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);
        own_memset(ours + start, byte, size);
        memset(theirs + start, byte, size);
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);
    }
}

static void test_strings(void) {
    char one[16], two[16], copy[16];
    for (unsigned round = 0; round < 20000; round++) {
        for (size_t i = 0; i < sizeof one; i++) {
            one[i] = "\0ab\xff"[rand() % 4];
            two[i] = rand() % 4 ? one[i] : "\0ab\xff"[rand() % 4];
        }
        one[sizeof one - 1] = two[sizeof two - 1] = '\0';
        size_t limit = (size_t)rand() % sizeof one;
        int character = "\0ab\xff"[rand() % 4];
        CHECK(own_strlen(one) == strlen(one) && own_strnlen(one, limit) == strnlen(one, limit));
        CHECK(sign(own_strcmp(one, two)) == sign(strcmp(one, two)));
        CHECK(sign(own_strncmp(one, two, limit)) == sign(strncmp(one, two, limit)));
        CHECK(own_strchr(one, character) == strchr(one, character));
        CHECK(own_strrchr(one, character) == strrchr(one, character));
        CHECK(own_strspn(one, two) == strspn(one, two));
        CHECK(own_strcspn(one, two) == strcspn(one, two));
        CHECK(own_strcpy(copy, one) == copy && strcmp(copy, one) == 0);
    }
}

/* All that keel's sources use, cut off at every size. */
#define SAME(...)                                                                                  \
    for (size_t size = 0; size < sizeof ours; size++) {                                            \
        memset(ours, 'x', sizeof ours);                                                            \
        memset(theirs, 'x', sizeof theirs);                                                        \
        CHECK(own_snprintf(ours, size, __VA_ARGS__) == snprintf(theirs, size, __VA_ARGS__));       \
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);                                             \
    }

#pragma GCC diagnostic ignored "-Wformat-truncation"
static void test_format(void) {
    char ours[80], theirs[80];
    SAME("%s and %s", "one", "");
    SAME("%.*s/%s", 3, "longer", "x");
    SAME("%d %d %d", 0, -5, INT32_MIN);
    SAME("%lld %lld", (long long)INT64_MIN, 77ll);
    SAME("%u %llu %zu", UINT32_MAX, (unsigned long long)UINT64_MAX, (size_t)9);
    SAME("%o %#x %#x %#llx", 0755, 0u, 0xbeefu, 1ull << 63);
    SAME("100%% of %s%%", "it");
    SAME("no conversion at all, and longer than some of the buffers");
}

static void test_memory(void) {
    char *blocks[300];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 300; i++) {
            blocks[i] = i % 2 ? own_malloc(i * 37) : own_calloc(i, 41);
            CHECK(blocks[i] && (uintptr_t)blocks[i] % alignof(max_align_t) == 0);
            for (size_t at = 0; i % 2 == 0 && at < i * 41; at++)
                CHECK(blocks[i][at] == 0);
            memset(blocks[i], (int)i, i * 37);
        }
        for (size_t i = 0; i < 300; i++)
            for (size_t at = 0; at < i * 37; at++)
                CHECK(blocks[i][at] == (char)i);
        CHECK(regions && regions->next);
        for (size_t i = 0; i < 300; i++)
            own_free(blocks[i]);
        CHECK(!regions);
        own_free(NULL);
    }
    char *large = own_malloc(8 << 20);
    CHECK(large);
    memset(large, 1, 8 << 20);
    own_free(large);
    CHECK(!own_malloc(SIZE_MAX) && errno == ENOMEM);
    CHECK(!own_calloc(SIZE_MAX / 2, 3) && errno == ENOMEM && !regions);
}

int main(void) {
    srand(1);
    test_bytes();
    test_strings();
    test_format();
    test_memory();
    puts("libc: ok");
    return 0;
}
