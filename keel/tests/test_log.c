/* The log alone: escapes, repair, splitting, rotation, a full disk. Built with ASan and UBSan. */
#include "../supervise.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const struct timespec MOMENT = {1732391999, 1020}; /* 2024-11-23T19:59:59.000001020Z */
static const char STAMP[] = "\",\"stream\":\"stdout\",\"time\":\"2024-11-23T19:59:59.000001020Z\"}\n";
static struct log the_log;
static char directory_name[] = "keel-log-XXXXXX";
static int directory;

static void start(uint64_t max_bytes, uint64_t max_files) {
    for (unsigned i = 0; i < 100; i++) {
        char name[32];
        snprintf(name, sizeof name, i ? "log.%u" : "log", i);
        unlinkat(directory, name, 0);
    }
    memset(&the_log, 0, sizeof the_log);
    CHECK(log_open(&the_log, directory, "log", max_bytes, max_files) == 0);
}

static void finish(void) {
    log_end_stream(&the_log, STREAM_STDOUT, &MOMENT);
    log_flush(&the_log);
    CHECK(close(the_log.file) == 0);
}

static size_t content(const char *name, char *into, size_t size) {
    int file = openat(directory, name, O_RDONLY);
    if (file < 0)
        return 0;
    ssize_t length = read(file, into, size);
    close(file);
    CHECK(length >= 0);
    return (size_t)length;
}

static void append(const char *bytes, size_t length) {
    log_append(&the_log, STREAM_STDOUT, (const unsigned char *)bytes, length, &MOMENT);
}

static void expect(const char *input, size_t length, const char *text) {
    char expected[512], actual[512];
    start(0, 5);
    append(input, length);
    finish();
    int size = snprintf(expected, sizeof expected, "{\"log\":\"%s%s", text, STAMP);
    CHECK(content("log", actual, sizeof actual) == (size_t)size);
    CHECK(memcmp(actual, expected, (size_t)size) == 0);
}

#define EXPECT(input, text) expect(input, sizeof(input) - 1, text)

static void test_escapes(void) {
    EXPECT("plain\n", "plain\\n");
    EXPECT("no newline", "no newline");
    EXPECT("\"\\\r\t\x01\x1f\x7f\n", "\\\"\\\\\\r\\u0009\\u0001\\u001f\x7f\\n");
    EXPECT("<a>&b", "\\u003ca\\u003e\\u0026b");
    EXPECT("\0nul", "\\u0000nul");
    EXPECT("\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa", "\\u2028\\u2029\xe2\x80\xaa");
}

static void test_repair(void) {
    EXPECT("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xb3", "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xb3");
    EXPECT("\xff\xfe", "\\ufffd\\ufffd");
    EXPECT("\xc0\x80", "\\ufffd\\ufffd");                     /* overlong */
    EXPECT("\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd");          /* surrogate */
    EXPECT("\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"); /* above U+10FFFF */
    EXPECT("a\xe2\x82", "a\\ufffd\\ufffd");                   /* cut off */
    EXPECT("\xe2\x82z", "\\ufffd\\ufffdz");
    EXPECT("\xf4\x8f\xbf\xbf\xee\x80\x80", "\xf4\x8f\xbf\xbf\xee\x80\x80");
}

/* A line that comes in pieces is one entry; a character at the border of 16 KiB stays whole. */
static void test_split(void) {
    static char input[LOG_LINE_BYTES + 100], actual[LOG_LINE_BYTES * 2];
    start(0, 5);
    append("one ", 4);
    append("line", 4);
    append("\n", 1);
    finish();
    size_t length = content("log", actual, sizeof actual - 1);
    CHECK(length == strlen("{\"log\":\"one line\\n") + strlen(STAMP));
    start(0, 5);
    memset(input, 'x', sizeof input);
    memcpy(input + LOG_LINE_BYTES - 1, "\xe2\x82\xac", 3);
    for (size_t at = 0; at < sizeof input; at++)
        append(input + at, 1);
    finish();
    length = content("log", actual, sizeof actual - 1);
    actual[length] = '\0';
    char *second = strchr(actual, '\n') + 1;
    CHECK((size_t)(second - actual) == 8 + LOG_LINE_BYTES - 1 + strlen(STAMP));
    CHECK(strncmp(second, "{\"log\":\"\xe2\x82\xacxx", 13) == 0);
    CHECK(strchr(second, '\n')[1] == '\0');
}

/* Every file is within its limit, none is missing, and the entries are in order. */
static void test_rotation(void) {
    static char actual[4096];
    unsigned next = 0;
    start(1000, 100);
    for (unsigned i = 0; i < 500; i++) {
        char line[16];
        append(line, (size_t)snprintf(line, sizeof line, "%u\n", i));
        if (i % 7 == 0)
            log_flush(&the_log);
    }
    finish();
    for (int number = 99; number >= 0; number--) {
        char name[32];
        snprintf(name, sizeof name, number ? "log.%d" : "log", number);
        size_t length = content(name, actual, sizeof actual - 1);
        CHECK(length <= 1000);
        actual[length] = '\0';
        for (char *at = actual; *at; at = strchr(at, '\n') + 1) {
            CHECK(strncmp(at, "{\"log\":\"", 8) == 0);
            CHECK(strtoul(at + 8, NULL, 10) == next++);
        }
    }
    CHECK(next == 500);
    CHECK(the_log.dropped_lines == 0);
}

static void test_few_files(void) {
    static char actual[4096];
    for (unsigned files = 1; files <= 3; files++) {
        start(200, files);
        for (unsigned i = 0; i < 50; i++)
            append("0123456789\n", 11);
        finish();
        CHECK((content("log.1", actual, sizeof actual) > 0) == (files > 1));
        CHECK((content("log.2", actual, sizeof actual) > 0) == (files > 2));
        CHECK(content("log.3", actual, sizeof actual) == 0);
        CHECK(content("log", actual, sizeof actual) <= 200);
    }
}

/* No room: entries are dropped and counted, none is torn, and it goes on when there is room again. */
static void test_full_disk(void) {
    static char actual[8192];
    struct rlimit before, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = 1000;
    start(0, 5);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    for (int i = 0; i < 20; i++) {
        append("0123456789\n", 11);
        log_flush(&the_log);
    }
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    append("after\n", 6);
    finish();
    size_t length = content("log", actual, sizeof actual - 1);
    actual[length] = '\0';
    unsigned entries = 0;
    for (char *at = actual; *at; at = strchr(at, '\n') + 1, entries++)
        CHECK(strncmp(at, "{\"log\":\"", 8) == 0);
    CHECK(the_log.dropped_lines > 0);
    CHECK(entries + the_log.dropped_lines == 21);
    CHECK(strstr(actual, "after"));
}

/* Worst case of everything: no entry outgrows the batch, whatever the pieces. */
static void test_noise(void) {
    static unsigned char noise[CHUNK_BYTES];
    struct stat facts;
    start(0, 5);
    srand(1);
    for (int round = 0; round < 60; round++) {
        size_t length = (size_t)rand() % sizeof noise + 1;
        for (size_t i = 0; i < length; i++)
            noise[i] = (unsigned char)(round % 3 == 0 ? 1 : round % 3 == 1 ? 0xe2 : rand());
        log_append(&the_log, 1 + round % 2, noise, length, &MOMENT);
        if (round % 5 == 0)
            log_flush(&the_log), log_release(&the_log);
    }
    log_end_stream(&the_log, STREAM_STDERR, &MOMENT);
    finish();
    CHECK(fstatat(directory, "log", &facts, 0) == 0 && facts.st_size > 0);
}

int main(void) {
    signal(SIGXFSZ, SIG_IGN);
    CHECK(mkdtemp(directory_name));
    directory = open(directory_name, O_RDONLY | O_DIRECTORY);
    CHECK(directory >= 0);
    test_escapes();
    test_repair();
    test_split();
    test_rotation();
    test_few_files();
    test_full_disk();
    test_noise();
    start(0, 1);
    unlinkat(directory, "log", 0);
    CHECK(rmdir(directory_name) == 0);
    puts("log: ok");
    return 0;
}
