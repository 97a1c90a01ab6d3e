/* See bandwidth.h. */
#include "runtime-check/bench/bandwidth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/report.h"
#include "runtime-check/bench/sysfs.h"

/* ---- caches ---- */

enum { CPU_LIMIT = 8192, CACHE_INDEX_LIMIT = 16 };

/* One file of a cache's folder. */
static bool cache_text(char out[64], const char *root, unsigned cpu, unsigned index, const char *file)
{
    char path[512];
    const int count = snprintf(path, sizeof path, "%s/cpu%u/cache/index%u/%s", root, cpu, index, file);
    return count >= 0 && (size_t)count < sizeof path && sysfs_text(out, 64, path);
}

/* "32768K" in bytes; 0 if it is something else. */
static uint64_t size_of(const char *text)
{
    char *end;
    const unsigned long long value = strtoull(text, &end, 10);
    const unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return *text < '0' || *text > '9' || value >> 32 ? 0 : (uint64_t)value << shift;
}

/* The size of the last cache on the way from one processor to memory, if the processor is the first of those that share it
 * (so that it is counted once); else 0. */
static uint64_t last_cache(const char *root, unsigned cpu)
{
    char text[64];
    unsigned long highest = 0;
    uint64_t bytes = 0;
    for (unsigned index = 0; index < CACHE_INDEX_LIMIT; index++) {
        if (!cache_text(text, root, cpu, index, "level")) break;
        const unsigned long level = strtoul(text, NULL, 10);
        if (level <= highest || !cache_text(text, root, cpu, index, "type") || !strcmp(text, "Instruction"))
            continue;
        highest = level;
        bytes = cache_text(text, root, cpu, index, "size") ? size_of(text) : 0;
        if (cache_text(text, root, cpu, index, "shared_cpu_list") && strtoul(text, NULL, 10) != cpu)
            bytes = 0;
    }
    return bytes;
}

uint64_t bandwidth_cache_bytes(const char *root)
{
    uint64_t bytes = 0;
    char path[512];
    for (unsigned cpu = 0; cpu < CPU_LIMIT; cpu++) {
        snprintf(path, sizeof path, "%s/cpu%u", root, cpu);
        if (file_kind(path) == FILE_ABSENT) break;
        bytes += last_cache(root, cpu);
    }
    return bytes;
}

uint64_t bandwidth_array_bytes(uint64_t cache_bytes, uint64_t available_bytes)
{
    const uint64_t least = UINT64_C(256) << 20, most = UINT64_C(4) << 30;
    uint64_t bytes = cache_bytes > most / 4 ? most : 4 * cache_bytes;
    if (bytes < least) bytes = least;
    return bytes > available_bytes / 2 ? 0 : bytes;
}

/* ---- reading ---- */

enum { CHUNK_WORDS = (1 << 20) / 8, LANES = 16 };

struct passes {
    uint64_t *words; /* [chunks][CHUNK_WORDS] */
    uint64_t *sums;  /* [chunks] */
};

/* Fresh pages are all one page of zeros until they are written. */
static enum status fill_chunk(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct passes *passes = context;
    uint64_t *words = passes->words + index * CHUNK_WORDS;
    (void)worker;
    (void)err;
    for (uint64_t i = 0; i < CHUNK_WORDS; i++)
        words[i] = i ^ index;
    return OK;
}

/* Independent sums, so that the loop waits for memory and not for an addition. */
static enum status sum_chunk(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct passes *passes = context;
    const uint64_t *words = passes->words + index * CHUNK_WORDS;
    uint64_t lanes[LANES] = {0}, sum = 0;
    (void)worker;
    (void)err;
    for (uint64_t i = 0; i < CHUNK_WORDS; i += LANES) {
        for (unsigned lane = 0; lane < LANES; lane++)
            lanes[lane] += words[i + lane];
    }
    for (unsigned lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    passes->sums[index] = sum;
    return OK;
}

/* The words of a chunk are 0 .. CHUNK_WORDS - 1, changed in the bits of its number: those below CHUNK_WORDS only change the
 * order, those above are added to every word. */
static enum status check_sums(const struct passes *passes, uint64_t chunks, struct error *err)
{
    const uint64_t mask = CHUNK_WORDS - 1;
    for (uint64_t i = 0; i < chunks; i++) {
        const uint64_t expected = (uint64_t)CHUNK_WORDS * (CHUNK_WORDS - 1) / 2 + (i & ~mask) * CHUNK_WORDS;
        if (passes->sums[i] != expected)
            return fail(err, ERR_NUMERIC,
                "memory does not hold what was written: chunk %" PRIu64 " sums to %" PRIu64 ", not %" PRIu64,
                i, passes->sums[i], expected);
    }
    return OK;
}

enum status bandwidth_measure(double *bytes_per_second, struct pool *pool, uint64_t bytes, struct error *err)
{
    const uint64_t chunks = bytes >> 20 ? bytes >> 20 : 1;
    struct passes passes = {
        memory_new(chunks, CHUNK_WORDS * sizeof(uint64_t), err), memory_new(chunks, sizeof(uint64_t), err)};
    enum status status = passes.words && passes.sums ? OK : ERR_MEMORY;
    double best = 0;
    if (!status) status = pool_run(pool, chunks, fill_chunk, &passes, err);
    for (unsigned pass = 0; pass < BANDWIDTH_PASSES && !status; pass++) {
        const double start = report_seconds();
        status = pool_run(pool, chunks, sum_chunk, &passes, err);
        const double rate = (double)(chunks << 20) / (report_seconds() - start);
        if (!status) status = check_sums(&passes, chunks, err);
        if (rate > best) best = rate;
    }
    *bytes_per_second = best;
    memory_free(passes.words);
    memory_free(passes.sums);
    return status;
}
