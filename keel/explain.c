#include "explain.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h> /* ST_NOEXEC */
#include <sys/vfs.h>

#include "keel.h"
#include "syscalls.h"

enum { HEAD_BYTES = 4096, CAPABILITY_BYTES = 24 };

struct text {
    char *at;
    size_t left;
};

/* Append one line, or nothing of it. */
__attribute__((format(printf, 2, 3))) static void add_line(struct text *text, const char *format,
                                                           ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->at, text->left, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= text->left) {
        *text->at = '\0';
        return;
    }
    text->at += length;
    text->left -= (size_t)length;
}

/* Bytes in hexadecimal as one line, or nothing of it. */
static void add_bytes(struct text *text, const char *name, const unsigned char *bytes,
                      size_t length) {
    static const char DIGITS[] = "0123456789abcdef";
    if (text->left < strlen(name) + sizeof "=\n" + 2 * length)
        return;
    add_line(text, "%s=", name);
    for (size_t i = 0; i < length; i++) {
        *text->at++ = DIGITS[bytes[i] >> 4];
        *text->at++ = DIGITS[bytes[i] & 15];
    }
    text->left -= 2 * length;
    add_line(text, "\n");
}

static size_t copy_name(const unsigned char *from, size_t length, char *name, size_t size) {
    if (length == 0 || length >= size)
        return 0;
    memcpy(name, from, length);
    name[length] = '\0';
    return length;
}

/* The first word after "#!", as the kernel reads it (binfmt_script): up to a blank or the line's
 * end. */
static size_t script_interpreter(const unsigned char *head, size_t length, char *name,
                                 size_t size) {
    size_t start = 2;
    while (start < length && (head[start] == ' ' || head[start] == '\t'))
        start++;
    size_t end = start;
    while (end < length && head[end] != ' ' && head[end] != '\t' && head[end] != '\n' &&
           head[end] != '\0')
        end++;
    return copy_name(head + start, end - start, name, size);
}

static uint64_t little_endian(const unsigned char *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* Little-endian only: what is big-endian does not run on a host that keel runs on. */
static size_t elf_interpreter(const unsigned char *head, size_t length, char *name, size_t size) {
    int wide = head[EI_CLASS] == ELFCLASS64;
    if (length < sizeof(Elf64_Ehdr) || head[EI_DATA] != ELFDATA2LSB)
        return 0;
    uint64_t table = wide ? little_endian(head + offsetof(Elf64_Ehdr, e_phoff), 8)
                          : little_endian(head + offsetof(Elf32_Ehdr, e_phoff), 4);
    uint64_t count = wide ? little_endian(head + offsetof(Elf64_Ehdr, e_phnum), 2)
                          : little_endian(head + offsetof(Elf32_Ehdr, e_phnum), 2);
    size_t entry = wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    for (uint64_t i = 0; i < count && table <= length && (i + 1) * entry <= length - table; i++) {
        const unsigned char *header = head + table + i * entry;
        if (little_endian(header, 4) != PT_INTERP)
            continue;
        uint64_t offset = wide ? little_endian(header + offsetof(Elf64_Phdr, p_offset), 8)
                               : little_endian(header + offsetof(Elf32_Phdr, p_offset), 4);
        uint64_t bytes = wide ? little_endian(header + offsetof(Elf64_Phdr, p_filesz), 8)
                              : little_endian(header + offsetof(Elf32_Phdr, p_filesz), 4);
        if (offset >= length || bytes > length - offset)
            return 0;
        return copy_name(head + offset, strnlen((const char *)head + offset, bytes), name, size);
    }
    return 0;
}

size_t find_interpreter(const unsigned char *head, size_t length, char *name, size_t size) {
    if (length >= 2 && head[0] == '#' && head[1] == '!')
        return script_interpreter(head, length, name, size);
    if (length > EI_DATA && memcmp(head, ELFMAG, SELFMAG) == 0)
        return elf_interpreter(head, length, name, size);
    return 0;
}

static void add_interpreter(struct text *text, const unsigned char *head, size_t length) {
    char name[PATH_MAX];
    if (!find_interpreter(head, length, name, sizeof name))
        return;
    int error = faccessat(AT_FDCWD, name, X_OK, AT_EACCESS) < 0 ? errno : 0;
    if (!strpbrk(name, "\n"))
        add_line(text, "interpreter=%s\ninterpreter_errno=%d\n", name, error);
}

void explain_executable(const char *path, char *facts, size_t size) {
    struct text text = {facts, size};
    struct stat stats;
    struct statfs mount;
    unsigned char head[HEAD_BYTES];
    *facts = '\0';
    if (!strpbrk(path, "\n"))
        add_line(&text, "path=%s\n", path);
    if (stat(path, &stats) < 0)
        return;
    add_line(&text, "mode=%o\nuid=%u\ngid=%u\n", stats.st_mode, stats.st_uid, stats.st_gid);
    if (statfs(path, &mount) == 0)
        add_line(&text, "noexec=%d\n", (mount.f_flags & ST_NOEXEC) != 0);
    ssize_t length = sys_getxattr(path, "security.capability", head, CAPABILITY_BYTES);
    if (length > 0)
        add_bytes(&text, "capabilities", head, (size_t)length);
    /* a FIFO or a device must not hold init up */
    SCOPED_FD file = S_ISREG(stats.st_mode) ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    length = file < 0 ? -1 : read(file, head, sizeof head);
    if (length < 0)
        return;
    add_bytes(&text, "head", head, (size_t)length);
    add_interpreter(&text, head, (size_t)length);
}
