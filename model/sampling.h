/* Picking the next token from a row of logits, and the generator that picks are made with. */
#ifndef NIBBLE_MODEL_SAMPLING_H
#define NIBBLE_MODEL_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

/* How a token is drawn, in this order: repetition penalty, temperature, then the likeliest tokens that top-k, top-p and min-p all
 * leave (as transformers orders its logits warpers). */
struct sampling_options {
    double temperature; /* 0: the likeliest token, always */
    uint64_t top_k;     /* only the k likeliest; 0: all */
    double top_p;       /* only the likeliest whose share of what top-k leaves reaches p; 1: all */
    double
        min_p; /* only tokens at least so likely as this share of the likeliest; 0: all (arXiv 2407.01082) */
    /* Logits of tokens that occurred are divided by it where positive, else multiplied (Keskar et al. 2019, arXiv 1909.05858);
     * 0 or 1: none. */
    double repetition_penalty;
};

/* One token on its way to be picked. */
struct sampling_candidate {
    float logit;
    uint32_t id;
};

/* Pick a token from logits[count]; `random` is the generator's state, which one pick above temperature 0 advances by one draw.
 *   scratch  [count]  not used at temperature 0, which takes the first of the highest
 * A logit of -infinity is never picked while another is finite. */
uint32_t sampling_pick(const float *logits, uint64_t count, const struct sampling_options *options,
    uint64_t *random, struct sampling_candidate *scratch);

/* Change the logits [count] of tokens among ids [id_count] (below count; each counts once) by the penalty.
 *   scratch  [(count + 7) / 8]  out, nothing of use */
void sampling_penalize(
    float *logits, uint64_t count, const uint32_t *ids, uint64_t id_count, double penalty, uint8_t *scratch);

/* 64 random bits: splitmix64 (Steele, Lea, Flood 2014), enough for sampling, the same everywhere. */
uint64_t sampling_random(uint64_t *state);
/* Uniform in [0, 1), 53 bits of sampling_random. */
double sampling_uniform(uint64_t *state);
/* The state of a generator of its own for one of many things: states of different (seed, number, place) are unrelated. */
uint64_t sampling_state(uint64_t seed, uint64_t number, uint64_t place);

/* Whether an id is one of the model's end-of-sequence tokens. */
bool sampling_is_stop(const struct model_config *config, uint32_t id);

#endif
