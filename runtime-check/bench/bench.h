/* Speed, memory and energy of a model, measured in rounds: every round opens the model anew, so that only one model is in
 * memory at a time and several can take turns. */
#ifndef NIBBLE_RUNTIME_CHECK_BENCH_H
#define NIBBLE_RUNTIME_CHECK_BENCH_H

#include "model/forward.h"
#include "runtime-check/bench/energy.h"
#include "runtime-check/bench/spread.h"
#include "runtime-check/bench/traffic.h"

struct bench_options {
    uint64_t prompt_tokens, tokens; /* of the prompt; generated after the first one. Both at least 1 */
    uint64_t rounds;                /* at least 1 */
    unsigned cache_bits;            /* model.cache_bits */
};

/* What a round measures. One sequence; token ids of the prompt are random (fixed seed), for speed does not depend on them.
 *
 * Loading is opening (headers, configuration, tokenizer, map), a session for one token, and that token through all layers and
 * the head, so that every page of the weights is used but for the embedding's rows. Cold: after the pages of the files that
 * hold tensors have left the page cache, which is verified; what a disk or a host machine keeps is beyond reach, and
 * documents beside the model stay in memory. Warm: the same again at once.
 *
 * Then, in one session and after a warm-up of the whole prompt and two tokens: the prompt; up to the first token, its logits and
 * the greedy choice included; and the generation of the tokens after it, each through all layers, head and greedy choice. */
enum bench_metric {
    BENCH_PROMPT_RATE,   /* prompt tokens per second through all layers, without the head */
    BENCH_FIRST_TOKEN,   /* seconds */
    BENCH_TOKEN_RATE,    /* generated tokens per second */
    BENCH_LOAD_COLD,     /* seconds */
    BENCH_LOAD_WARM,     /* seconds */
    BENCH_PROMPT_JOULES, /* per prompt token, up to the first generated one */
    BENCH_TOKEN_JOULES,  /* per generated token */
    BENCH_PEAK,          /* bytes: highest resident set of the round, mapped pages included */
    BENCH_ANONYMOUS,     /* bytes: memory of the process that is no file, at the round's end */
    BENCH_RESIDENT,      /* bytes of the model's files in the page cache, at the round's end */
    BENCH_METRICS
};

/* One model: what is known of it, and what every round measured. */
struct bench_model {
    const char *path; /* as given to bench_describe */
    uint64_t bytes, weights, context;
    uint64_t mapped_bytes;  /* of its files */
    uint64_t cache_bytes;   /* KV cache, per token */
    struct traffic traffic; /* of the generated tokens */
    char **files;           /* [file_count] paths of the files that hold tensors */
    uint64_t file_count;
    double *values[BENCH_METRICS]; /* [rounds]; NaN: not available */
    double *scratch;               /* [rounds], of bench_spread and bench_ratio */
    char cold_reason[1280];        /* why BENCH_LOAD_COLD is not available in some round; else empty */
    char energy_reason[1280];      /* likewise the joules */
};

/* Take down what an open model is, before the first round. path and options must outlive *out. ERR_UNSUPPORTED: the width of the KV
 * cache; ERR_MEMORY. Free with bench_release, also after an error. */
enum status bench_describe(struct bench_model *out, const char *path, struct model *model,
    const struct bench_options *options, struct error *err);
void bench_release(struct bench_model *model);

/* One round, number `round`. It opens the model itself: nobody else in this process may hold it open, or no page leaves the cache.
 * ERR_FORMAT: the model is not the one that was described (another size). Other errors: those of model_open and session_step. */
enum status bench_round(struct bench_model *model, uint64_t round, const struct bench_options *options,
    struct pool *pool, const struct energy *energy, struct error *err);

/* Over all rounds; NaN if any lacks it. */
struct spread bench_spread(const struct bench_model *model, enum bench_metric metric, uint64_t rounds);
/* The same of the quotients round by round with the first model: rounds lie close together in time, so that what disturbs the machine
 * for longer than a round cancels. */
struct spread bench_ratio(const struct bench_model *model, const struct bench_model *first,
    enum bench_metric metric, uint64_t rounds);

#endif
