/* What nibble-check bench prints: lines for one model, a table for several, JSON with every round's value. */
#ifndef NIBBLE_RUNTIME_CHECK_BENCH_PRINT_H
#define NIBBLE_RUNTIME_CHECK_BENCH_PRINT_H

#include "base/json.h"
#include "runtime-check/bench/bench.h"

/* Everything that was measured in one run. */
struct bench_report {
    const struct bench_model *models; /* [count], at least one */
    uint64_t count;
    struct bench_options options;
    const double *bandwidths;  /* [rounds] bytes per second, the best of each round; NULL: not measured */
    const char *no_bandwidth;  /* why bandwidths is NULL */
    uint64_t array_bytes;      /* of the array that was read for it */
    uint64_t last_cache_bytes; /* 0: unknown */
    unsigned threads, processors;
    const char *kernels;
    double seconds;
};

/* The best round's bandwidth; NaN where it was not measured. */
double bench_bandwidth(const struct bench_report *report);
/* The share of it that generation uses: bytes read per token * tokens per second / bandwidth; NaN where it was not measured. */
double bench_bandwidth_share(const struct bench_report *report, const struct bench_model *model);
/* Whether all that a token reads fits in the last-level cache, so that the share may exceed 1. */
bool bench_fits_cache(const struct bench_report *report, const struct bench_model *model);

/* To standard output. */
void bench_print(const struct bench_report *report);

void bench_write_json(struct json_writer *writer, const struct bench_report *report);

#endif
