/* Text from a model: prompt in, sampled continuation out, piece by piece. */
#ifndef NIBBLE_RUNTIME_CHECK_GENERATE_H
#define NIBBLE_RUNTIME_CHECK_GENERATE_H

#include "model/forward.h"
#include "model/sampling.h"

struct generate_options {
    uint64_t tokens; /* at most so many new ones */
    struct sampling_options sampling;
    uint64_t seed;
    bool ignore_eos; /* go on past an end-of-sequence token */
};

struct generate_result {
    uint64_t prompt_tokens, new_tokens;
    double prompt_seconds, new_seconds;
    bool stopped; /* by an end-of-sequence token */
};

/* Generate, handing each piece of text to `emit` as soon as it is whole UTF-8. Deterministic for a seed.
 *   ids  [*new_tokens]  out, the new tokens; owner: the caller, memory_free; may be NULL
 * ERR_USAGE: an empty prompt for a tokenizer that adds nothing. */
enum status generate_text(struct generate_result *out, uint32_t **ids, struct model *model,
    const char *prompt, uint64_t prompt_bytes, const struct generate_options *options,
    void (*emit)(void *context, const char *text, uint64_t bytes), void *context, struct error *err);

#endif
