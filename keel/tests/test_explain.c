/* find_interpreter and the facts of a file, without a container. */
#include "../explain.h"

#include <elf.h>
#include <stdint.h>
#include <string.h>

#include "check.h"

static char name[64];

/* From memory of exactly this size, so that the sanitizer sees a byte read too much. */
static size_t find(const void *head, size_t length) {
    unsigned char *exact = malloc(length ? length : 1);
    CHECK(exact);
    memcpy(exact, head, length);
    size_t found = find_interpreter(exact, length, name, sizeof name);
    free(exact);
    return found;
}

static void test_scripts(void) {
    CHECK(find("#!/bin/sh\n", 10) == 7 && strcmp(name, "/bin/sh") == 0);
    CHECK(find("#! /usr/bin/env python\n", 23) == 12 && strcmp(name, "/usr/bin/env") == 0);
    CHECK(find("#!/bin/sh\r\n", 11) == 8 && strcmp(name, "/bin/sh\r") == 0);
    CHECK(find("#!", 2) == 0);
    CHECK(find("#!   ", 5) == 0);
    CHECK(find("#!/bin/sh", 9) == 7);
    CHECK(find("", 0) == 0);
}

static void test_elf(void) {
    unsigned char head[512] = {0};
    Elf64_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB}, .e_phoff = 64, .e_phnum = 2};
    Elf64_Phdr program = {.p_type = PT_INTERP, .p_offset = 300, .p_filesz = 8};
    memcpy(head, &header, sizeof header);
    memcpy(head + 64 + sizeof program, &program, sizeof program);
    memcpy(head + 300, "/lib/ld", 8);
    CHECK(find(head, sizeof head) == 7 && strcmp(name, "/lib/ld") == 0);
    for (size_t length = 0; length < 308; length++)
        CHECK(find(head, length) == 0);
    program.p_offset = UINT64_MAX - 2;
    memcpy(head + 64 + sizeof program, &program, sizeof program);
    CHECK(find(head, sizeof head) == 0);
    header.e_phoff = UINT64_MAX - 8;
    memcpy(head, &header, sizeof header);
    CHECK(find(head, sizeof head) == 0);
}

static void test_facts(void) {
    char facts[16384];
    explain_executable("/proc/self/exe", facts, sizeof facts);
    CHECK(strncmp(facts, "path=/proc/self/exe\nmode=100", 28) == 0);
    CHECK(strstr(facts, "\nhead=7f454c46") && strstr(facts, "\ninterpreter=/"));
    CHECK(strstr(facts, "\ninterpreter_errno=0\n"));
    explain_executable("/nowhere", facts, sizeof facts);
    CHECK(strcmp(facts, "path=/nowhere\n") == 0);
    for (size_t size = 1; size < 10000; size += 97) {
        char *exact = malloc(size);
        CHECK(exact);
        explain_executable("/proc/self/exe", exact, size);
        size_t length = strlen(exact);
        CHECK(length < size && (length == 0 || exact[length - 1] == '\n'));
        free(exact);
    }
}

int main(void) {
    test_scripts();
    test_elf();
    test_facts();
    return 0;
}
