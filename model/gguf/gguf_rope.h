/* The divisors of rotary frequencies that GGUF files of Llama 3.1 and later carry, explained. */
#ifndef NIBBLE_MODEL_GGUF_ROPE_H
#define NIBBLE_MODEL_GGUF_ROPE_H

#include "formats/container.h"
#include "model/config.h"

/* Find the parameters of rope_type llama3 that give the divisors in `factors`, F32 [head_size / 2].
 *   rope  in: theta; out: kind (ROPE_DEFAULT if every divisor is 1) and the parameters
 * low_freq_factor and high_freq_factor are 1 and 4, factor is the largest divisor, the original context a power of two from 16
 * to 2^24 (Llama 3.1 and 3.2: 8192); all divisors must agree to 1e-4. ERR_UNSUPPORTED: no such parameters, another type or
 * length of the tensor. */
enum status gguf_rope_solve(struct rope_config *rope, struct container *container,
    const struct tensor *factors, uint64_t head_size, struct error *err);

/* The divisors of a configuration of ROPE_LLAMA3: out [head_size / 2], in the single precision of llama.cpp's converter. */
void gguf_rope_factors(float *factors, const struct model_config *config);

#endif
