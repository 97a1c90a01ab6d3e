/* What a comparison works on, shared by the files that prepare it (contest.c), score rows (contest_score.c) and run it (compare.c). */
#ifndef NIBBLE_RUNTIME_CHECK_CONTEST_H
#define NIBBLE_RUNTIME_CHECK_CONTEST_H

#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/divergence.h"
#include "runtime-check/judge/trace.h"
#include "runtime-check/judge/windows.h"

/* One model of the comparison. */
struct contestant {
    struct model *model;
    float *hidden;                /* [batch * context][hidden] */
    struct divergence divergence; /* candidates only */
    double seconds;
};

/* Everything that one comparison holds. */
struct contest {
    const struct windows *windows;     /* `cut`, or those of `stored` */
    struct windows cut;                /* owned */
    struct base_logits *stored;        /* stands for the base's model, or NULL */
    struct base_logits_writer *writer; /* keeps the base's logits, or NULL */
    struct trace *trace;               /* or NULL */
    struct contestant base;            /* its model is NULL with `stored` */
    struct contestant *candidates;     /* [count] */
    uint64_t count, vocabulary, top_k; /* top_k of `stored`, 0: whole rows */
    struct pool *pool;
    float *base_logits, *logits; /* [logit_rows][vocabulary] each; base_logits NULL with top_k */
    struct divergence_row *rows; /* [logit_rows] */
    uint64_t logit_rows;
    struct clustered base_nll; /* only kept where there is no candidate */
    struct progress *progress;
    bool window_nll; /* keep the candidates' window means */
};

/* Open and check everything that compare_models (compare.h, which see for arguments and errors) was asked for, and allocate what it
 * needs. Zero-initialise *out; release it with contest_release, also after an error. */
enum status contest_prepare(struct contest *out, const struct compare_base *base,
    struct model *const *candidates, uint64_t count, const char *text, uint64_t text_bytes,
    const struct compare_options *options, const struct report *report, struct error *err);
void contest_release(struct contest *contest);

/* Score all rows of window `window`, which is number `local` of the batch whose hidden states the contestants hold: the base's once,
 * then every candidate's, whose statistics they are added to. ERR_NUMERIC: a logit is not finite; ERR_IO, ERR_FORMAT: of a stored
 * base, or one being stored. */
enum status contest_score_window(struct contest *contest, uint64_t window, uint64_t local, struct error *err);

#endif
