/* Rotary position embedding: the frequencies of a configuration, and the cosines and sines of a run of positions.
 * Su et al. 2021 (arXiv:2104.09864), section 3.4.2, in the half-split arrangement: channel i turns with channel
 * i + head_size / 2. */
#ifndef NIBBLE_MODEL_ROPE_H
#define NIBBLE_MODEL_ROPE_H

#include <stdint.h>

#include "model/config.h"

/* The rotation per position, rounded as transformers' modeling_rope_utils.py does (single precision).
 *   frequencies  [head_size / 2]  out, radians per position
 *   length       in: tokens of the sequence so far; matters to ROPE_DYNAMIC only
 * Returns the factor that cosines and sines are multiplied by: 1 but for YaRN (arXiv:2309.00071, section 3.4). */
float rope_frequencies(float *frequencies, const struct model_config *config, uint64_t length);

/* Tables for positions first .. first + count - 1.
 *   cosine, sine  [count][half]  out, times scale
 *   frequencies   [half]         in */
void rope_tables(float *cosine, float *sine, const float *frequencies, float scale, uint32_t half,
    uint64_t first, uint64_t count);

#endif
