/* Memory on top of calloc, which gives large blocks as untouched zero pages: a big buffer costs nothing until
 * used. */
#include "base/memory.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/checked.h"

enum { ALIGNMENT = 64 };

/* No machine that runs this has so much; a request above it comes from a bad multiplication or a hostile
 * file. */
static const uint64_t LARGEST_BLOCK = (UINT64_C(1) << 40) - 4096;

/* What lies just before every block handed out: where calloc's own block begins. */
struct prefix {
    void *block;
};

static _Atomic uint64_t fail_countdown; /* 0: no failure is planned; n: the nth allocation from now fails */
static atomic_bool fail_sticky;
static _Atomic uint64_t fail_count;

void memory_fail_at(uint64_t nth, int sticky)
{
    atomic_store(&fail_sticky, sticky != 0);
    atomic_store(&fail_count, 0);
    atomic_store(&fail_countdown, nth);
}

uint64_t memory_failures(void)
{
    return atomic_load(&fail_count);
}

static bool must_fail(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    while (left > 0) {
        uint64_t after = left > 1 ? left - 1 : atomic_load(&fail_sticky) ? 1 : 0;
        if (!atomic_compare_exchange_weak(&fail_countdown, &left, after)) continue;
        if (left > 1) return false;
        atomic_fetch_add(&fail_count, 1);
        return true;
    }
    return false;
}

void *memory_new(uint64_t count, uint64_t size, struct error *err)
{
    uint64_t bytes;

    if (checked_multiply(&bytes, count, size) || bytes > LARGEST_BLOCK) {
        fail(err, ERR_MEMORY,
            "memory: %" PRIu64 " elements of %" PRIu64 " bytes are more than any block may have", count,
            size);
        return NULL;
    }
    char *block = must_fail() ? NULL : calloc(1, bytes + sizeof(struct prefix) + ALIGNMENT);
    if (!block) {
        fail(err, ERR_MEMORY, "memory: no %" PRIu64 " bytes left", bytes);
        return NULL;
    }
    uintptr_t first = (uintptr_t)block + sizeof(struct prefix);
    char *aligned = block + sizeof(struct prefix) + (-first & (ALIGNMENT - 1));
    ((struct prefix *)(void *)aligned)[-1].block = block;
    return aligned;
}

void memory_free(void *pointer)
{
    if (pointer) free(((struct prefix *)pointer)[-1].block);
}

enum status memory_grow(void *array, uint64_t *capacity, uint64_t needed, uint64_t size, struct error *err)
{
    uint64_t larger;
    void *old, *grown;

    if (needed <= *capacity) return OK;
    if (checked_multiply(&larger, *capacity, 2) || larger < needed) larger = needed;
    memcpy(&old, array, sizeof old); /* `array` is a T ** of any T: copying keeps within the aliasing rules */
    grown = memory_new(larger, size, err);
    if (!grown) return ERR_MEMORY;
    if (old) memcpy(grown, old, *capacity * size);
    memory_free(old);
    memcpy(array, &grown, sizeof grown);
    *capacity = larger;
    return OK;
}

char *memory_text(const char *text, uint64_t count, struct error *err)
{
    char *copy = count == UINT64_MAX ? memory_new(UINT64_MAX, 1, err) : memory_new(count + 1, 1, err);

    if (copy && count > 0) memcpy(copy, text, count);
    return copy;
}

uint64_t memory_peak_bytes(void)
{
    /* VmHWM first: ru_maxrss survives exec, so it may speak of the shell or the script that started us. */
    FILE *status = fopen("/proc/self/status", "re");
    struct rusage usage;
    uint64_t kilobytes = 0;
    char line[256];

    while (status && kilobytes == 0 && fgets(line, sizeof line, status)) {
        if (sscanf(line, "VmHWM: %" SCNu64 " kB", &kilobytes) != 1) kilobytes = 0;
    }
    if (status) fclose(status);
    if (kilobytes == 0 && getrusage(RUSAGE_SELF, &usage) == 0) kilobytes = (uint64_t)usage.ru_maxrss;
    return kilobytes * 1024;
}
