/* One token's record: the token, and what the teacher says of the token after it, in a number of bytes that depends on the dataset
 * alone, so that any record is found by a multiplication. docs/dataset-format.md has the layout byte by byte.
 *
 * The k likeliest. Ids exactly; each log-probability as its distance d below the likeliest one, in 8 bits (range * (code / 255)^2),
 * 16 (half precision) or 32 (float); the probability of all other tokens ("tail") and the logsumexp of the logits as floats. What is
 * decoded is normalised so that the stored tokens together have probability 1 - tail:
 *
 *   ln q_i = ln(1 - tail) - d_i - ln sum_j e^-d_j
 *
 * What rounding costs. Let e_i be the error of d_i. With 8 bits |e_i| <= sqrt(range * d_i) / 255 + range / 260100, at most
 * D = range / 255; with 16 bits at most d_i / 2048 (or 2^-25); with 32, d_i / 2^24. With m the mass of the stored tokens, the divergence
 * of the decoded distribution q from the true one p, the tail as one token, is m (ln E e^-e + E e), E under p / m. By Hoeffding's lemma
 * that is at most m D^2 / 2, and by ln x <= x - 1 and e^x <= 1 + x + x^2 e^|x| / 2 at most e^D / 2 * sum p_i e_i^2. For a student s and
 * f_i = ln(p_i / s_i), its divergence moves by at most (e^2D - 1) * sum p_i |f_i - mean f| + m D^2 / 2. Distances above
 * TOKEN_RECORD_RANGE nats are stored as that, but for 32 bits: such a token counts for less than 1e-17 of the likeliest.
 *
 * The tail. With its tokens as one, a student's divergence is never above that over all tokens (data processing), and below it by at
 * most tail * ln(p_k * s_tail / (tail * s_min)): p_k is the smallest stored probability, s_tail the student's mass on the tail, s_min its
 * smallest probability there.
 *
 * Draws. `count` tokens drawn from the teacher with replacement (random sampling knowledge distillation, Anshumann et al. 2025, arXiv
 * 2503.16870): the mean over draws of weight * f(token) is an unbiased estimate of the sum of p f, so the cross-entropy with a student,
 * and its gradient, are unbiased. At proposal temperature 1 all weights are 1 and none are stored; else ln of the weight in half
 * precision (off by at most 2^-11 of itself). The teacher's entropy, a float, makes a divergence of a cross-entropy. */
#ifndef NIBBLE_DISTILL_TOKEN_RECORD_H
#define NIBBLE_DISTILL_TOKEN_RECORD_H

#include "base/error.h"
#include "base/json.h"
#include "distill/elias_fano.h"

#define TOKEN_RECORD_RANGE 40.0

enum {
    TOKEN_RECORD_VOCABULARY_LIMIT = 1 << 20,
    TOKEN_RECORD_COUNT_LIMIT = 1 << 16,
    TOKEN_RECORD_BYTES_LIMIT = 1 << 24
};

/* What decides a record's layout. */
struct token_record_shape {
    bool draws;          /* else the likeliest */
    uint32_t vocabulary; /* at most TOKEN_RECORD_VOCABULARY_LIMIT */
    uint32_t count;      /* k, at most the vocabulary, or draws; at most TOKEN_RECORD_COUNT_LIMIT */
    uint32_t value_bits; /* per id: 8, 16 or 32; draws: 0 (proposal temperature 1) or 16 */
    uint32_t hidden_layers, hidden_width; /* stored hidden states, half precision; layers 0: none */
};

/* A part of the record: `count` elements at byte `at`. */
struct token_record_field {
    const char *name, *type; /* as in dataset.json: "token", "u24" */
    uint64_t at, bytes, count;
};

enum {
    FIELD_TOKEN,
    FIELD_LOG_SUM,
    FIELD_REST,  /* tail or entropy */
    FIELD_RANGE, /* 8 bits only */
    FIELD_IDS,
    FIELD_VALUES,
    FIELD_HIDDEN,
    FIELD_COUNT
};

struct token_record_layout {
    struct token_record_shape shape;
    struct elias_fano ids;
    struct token_record_field fields[FIELD_COUNT]; /* of 0 bytes: not there */
    uint64_t bytes;
};

/* ERR_USAGE: a shape outside the limits above. */
enum status token_record_plan(
    struct token_record_layout *out, const struct token_record_shape *shape, struct error *err);
/* The fields as an open JSON object's member "fields". */
void token_record_write_fields(const struct token_record_layout *layout, struct json_writer *json);

/* A record decoded. The arrays are the caller's. */
struct token_record {
    uint32_t token;
    float log_sum;  /* of the teacher's logits after this token */
    float rest;     /* tail, or entropy in nats */
    uint32_t *ids;  /* [count] rising */
    double *values; /* [count] ln of the probability, or of the weight */
    float *weights; /* [vocabulary] scratch of token_record_put */
};

/* Memory for one record at a time: arrays of `count`. Release with token_record_free. */
enum status token_record_new(
    struct token_record *out, const struct token_record_layout *layout, struct error *err);
void token_record_free(struct token_record *record);

/* Write a record, hidden states excepted, of a row of the teacher's logits.
 *   out          [layout->bytes]
 *   work         overwritten; log_sum is that of the row
 *   temperature  of the proposal, and `random`, state of sampling_uniform: for draws only
 * False: a logit is not finite. */
bool token_record_put(uint8_t *out, const struct token_record_layout *layout, uint32_t token,
    const float *logits, double temperature, uint64_t *random, struct token_record *work);

/* Read one. ERR_FORMAT: no record of this layout. */
enum status token_record_get(struct token_record *out, const struct token_record_layout *layout,
    const uint8_t *bytes, struct error *err);

/* The token of a record alone, not checked. */
uint32_t token_record_token(const uint8_t *bytes);

#endif
