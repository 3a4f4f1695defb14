/* malloc for a program that allocates while it reads one plan and lets go of everything after it.
 *
 * Blocks are cut off a region one after the other. What is freed is not used again, but when the
 * last block is freed all regions go back to the kernel. */
#include <errno.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { REGION_BYTES = 256 * 1024 };

struct region {
    alignas(max_align_t) struct region *next;
    size_t size, used;
};

static struct region *regions;
static size_t live_blocks;

static struct region *new_region(size_t size) {
    size_t whole = size + sizeof(struct region);
    if (whole < REGION_BYTES)
        whole = REGION_BYTES;
    struct region *region =
        mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        return NULL;
    *region = (struct region){regions, whole, sizeof *region};
    return regions = region;
}

void *malloc(size_t size) {
    const size_t align = alignof(max_align_t);
    if (size > PTRDIFF_MAX - REGION_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    size = (size + align - 1) / align * align;
    struct region *region = regions;
    if (!region || region->size - region->used < size)
        region = new_region(size);
    if (!region)
        return NULL;
    void *block = (char *)region + region->used;
    region->used += size;
    live_blocks++;
    return block;
}

void *calloc(size_t count, size_t size) {
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return malloc(total); /* fresh from the kernel, never used before */
}

void free(void *block) {
    if (!block || --live_blocks > 0)
        return;
    while (regions) {
        struct region *region = regions;
        regions = region->next;
        munmap(region, region->size);
    }
}
