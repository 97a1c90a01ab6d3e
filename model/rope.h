/* Rotary position embedding: the frequencies of a configuration, and the cosines and sines of a run of positions.
 * Su et al. 2021 (arXiv:2104.09864), section 3.4.2, in the half-split arrangement: channel i turns with channel
 * i + rotary / 2, among the first `rotary` of a head (all of them, as a rule). */
#ifndef NIBBLE_MODEL_ROPE_H
#define NIBBLE_MODEL_ROPE_H

#include <stdint.h>

#include "model/config.h"

/* The rotation per position, rounded as transformers' modeling_rope_utils.py does (single precision).
 *   frequencies  [rotary / 2]  out, radians per position
 *   rope         in: of the configuration, or that of its sliding layers
 *   length       in: tokens of the sequence so far; matters to ROPE_DYNAMIC only
 * Returns the factor that cosines and sines are multiplied by: 1 but for YaRN (arXiv:2309.00071, section 3.4). */
float rope_frequencies(
    float *frequencies, const struct model_config *config, const struct rope_config *rope, uint64_t length);

/* How many ways of rotating a configuration has: 2 where layers that slide have their own, else 1. */
uint32_t rope_count(const struct model_config *config);
/* Which of them layer `layer` uses: 0, or 1 if it slides and has its own. */
uint32_t rope_of(const struct model_config *config, uint32_t layer);

/* Tables for positions first .. first + count - 1, for all ways of rotating.
 *   cosine, sine  [rope_count][count][rotary / 2]  out
 *   frequencies   [rotary / 2]                     scratch
 *   length        as above */
void rope_tables(float *cosine, float *sine, float *frequencies, const struct model_config *config,
    uint64_t length, uint64_t first, uint64_t count);

#endif
