/* A base model's predictions on a text, stored: so that many candidates can be compared with an original that is too large,
 * too slow or no longer there. Written and read a few rows at a time; memory does not grow with the text but for its tokens.
 *
 * Per scored token either all log-probabilities in 16 bits, linear between the row's highest and its lowest (or
 * BASE_LOGITS_RANGE below the highest), or the k likeliest in single precision plus the probability of the rest; and in
 * either case the log-probability of the token that followed and which token is likeliest, exactly. docs/base-logits.md has
 * the layout.
 *
 * What 16 bits cost, with s the row's step (at most BASE_LOGITS_RANGE / 65535): each log-probability moves by at most s / 2,
 * so the divergence of the stored row from the true one is at most s^2 / 8 (Hoeffding's lemma), below 5e-8 nats, and a
 * candidate's divergence changes by at most that and s / 2 times the standard deviation of ln (p / q) under p, of either
 * sign. Perplexities and the share of equal likeliest tokens do not change. */
#ifndef NIBBLE_RUNTIME_CHECK_BASE_LOGITS_H
#define NIBBLE_RUNTIME_CHECK_BASE_LOGITS_H

#include "base/error.h"
#include "runtime-check/judge/windows.h"

/* Nats below the row's highest where stored log-probabilities end. What lies below is e^-40 of the highest and counts for
 * less than 1e-12 nats of a divergence; without an end, one outlier would coarsen its whole row. */
#define BASE_LOGITS_RANGE 40.0f

enum { BASE_LOGITS_NAME = 256, BASE_LOGITS_TOP_K_LIMIT = 1 << 16 };

/* What a file says of itself. */
struct base_logits_info {
    enum perplexity_protocol protocol;
    uint64_t context, windows, scored; /* scored rows per window; follows from the others */
    uint32_t vocabulary;
    uint64_t top_k; /* 0: all, in 16 bits; else at most the vocabulary and BASE_LOGITS_TOP_K_LIMIT */
    uint64_t model_bytes, model_weights; /* sizes of the base, as nibble-check inspect counts */
    uint64_t text_bytes;
    uint32_t text_crc32;
    char model[BASE_LOGITS_NAME]; /* the base's file name, without its folder, quoted if it was strange */
};

/* ---- writing ---- */

struct base_logits_writer;

/* Start a file (base/file: all or nothing). Rows are packed on the pool, which must outlive the writer; the bytes do not
 * depend on the number of workers.
 *   info     scored is not read. ERR_USAGE: top_k beyond the vocabulary or the limit
 *   windows  as cut by the protocol of info; tokens are copied into the file, and the writer reads them until it is freed */
enum status base_logits_create(struct base_logits_writer **out, const char *path, bool force,
    const struct base_logits_info *info, const struct windows *windows, struct pool *pool, struct error *err);
/* Append the next `count` scored rows: logits [count][vocabulary], not necessarily normalised. In order; rows of a window
 * may come in several calls. ERR_NUMERIC: a logit is not finite. */
enum status base_logits_add(
    struct base_logits_writer *writer, const float *logits, uint64_t count, struct error *err);
/* Complete the file and free the writer. ERR_USAGE: rows are missing (the file is then removed). */
enum status base_logits_commit(struct base_logits_writer *writer, struct error *err);
/* Remove what was written and free the writer; NULL is allowed. */
void base_logits_abandon(struct base_logits_writer *writer);

/* ---- reading ---- */

struct base_logits;

/* Open and check header, tokens and where every block lies. The pool, which must outlive the file, unpacks. ERR_FORMAT:
 * damaged, cut short or hostile, naming field and offset; ERR_UNSUPPORTED: a later version. Close with base_logits_close
 * (NULL is allowed). */
enum status base_logits_open(
    struct base_logits **out, const char *path, struct pool *pool, struct error *err);
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

/* Make scored rows begin .. begin + count - 1 of a window current: read, check and unpack them; any order. ERR_FORMAT:
 * damaged, naming the block and its offset. */
enum status base_logits_load(
    struct base_logits *stored, uint64_t window, uint64_t begin, uint64_t count, struct error *err);

/* Of current row `row` (0: `begin`), from any thread. ln of the probability of the token that followed: */
double base_logits_target(const struct base_logits *stored, uint64_t row);
/* The likeliest token, of equally likely ones the first. */
uint32_t base_logits_first(const struct base_logits *stored, uint64_t row);
/* Whole files only: out [vocabulary] log-probabilities, normalised up to rounding. */
void base_logits_row(const struct base_logits *stored, uint64_t row, float *out);
/* Files of the k likeliest only; *out is valid until the next load. */
void base_logits_row_top(const struct base_logits *stored, uint64_t row, struct base_logits_top *out);

#endif
