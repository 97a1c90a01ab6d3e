/* A base model's predictions on a text, stored: so that many candidates can be compared with an original that is too large,
 * too slow or no longer there. Written and read window by window; memory does not grow with the text.
 *
 * Per scored token either all log-probabilities in 16 bits, linear between the row's extremes, or the k likeliest in single
 * precision plus the probability of the rest. Windows are compressed by zlib, each with its CRC-32; header and tokens have
 * theirs. docs/base-logits.md has the layout. */
#ifndef NIBBLE_RUNTIME_CHECK_BASE_LOGITS_H
#define NIBBLE_RUNTIME_CHECK_BASE_LOGITS_H

#include "base/error.h"
#include "runtime-check/windows.h"

/* What a file says of itself. */
struct base_logits_info {
    enum perplexity_protocol protocol;
    uint64_t context, windows, scored; /* scored rows per window */
    uint32_t vocabulary;
    uint64_t top_k; /* 0: all, in 16 bits */
    uint64_t model_bytes;
    uint32_t text_crc32;
    char model[256]; /* the base's file name, without its folder, quoted if it was strange */
};

/* ---- writing ---- */

struct base_logits_writer;

/* Start a file (base/file: all or nothing). windows: as cut, tokens are copied into the file. */
enum status base_logits_create(struct base_logits_writer **out, const char *path, bool force,
    const struct base_logits_info *info, const struct windows *windows, struct pool *pool, struct error *err);
/* Append the next `count` scored rows: logits [count][vocabulary], not necessarily normalised. In order; rows of a window
 * may come in several calls. */
enum status base_logits_add(
    struct base_logits_writer *writer, const float *logits, uint64_t count, struct error *err);
/* Complete the file and free the writer. abandon: remove what was written; NULL is allowed. */
enum status base_logits_commit(struct base_logits_writer *writer, struct error *err);
void base_logits_abandon(struct base_logits_writer *writer);

/* ---- reading ---- */

struct base_logits;

/* Open and check header and tokens. ERR_FORMAT: damaged or hostile, naming field and offset; ERR_UNSUPPORTED: a later
 * version. Close with base_logits_close (NULL is allowed). */
enum status base_logits_open(struct base_logits **out, const char *path, struct error *err);
void base_logits_close(struct base_logits *stored);
const struct base_logits_info *base_logits_info(const struct base_logits *stored);
const char *base_logits_path(const struct base_logits *stored);
/* The windows as they were cut; valid until base_logits_close, not to be freed. */
const struct windows *base_logits_windows(const struct base_logits *stored);

/* One stored row of the k likeliest tokens. */
struct base_logits_top {
    const uint32_t *ids;    /* [top_k] by falling probability, ties by id */
    const float *log_probs; /* [top_k] natural logarithms */
    double log_rest;        /* ln of the probability of all others; -infinity if there is none */
};

/* Make window `window` current: read, check and unpack it. ERR_FORMAT: damaged, naming the window. */
enum status base_logits_load(struct base_logits *stored, uint64_t window, struct error *err);
/* Scored row `row` of the current window. Whole: out [vocabulary] log-probabilities (normalised up to rounding). */
void base_logits_row(const struct base_logits *stored, uint64_t row, float *out);
void base_logits_row_top(const struct base_logits *stored, uint64_t row, struct base_logits_top *out);

#endif
