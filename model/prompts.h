/* Prompts as tokens, one after the other: given ones, and the lines of a file. */
#ifndef NIBBLE_MODEL_PROMPTS_H
#define NIBBLE_MODEL_PROMPTS_H

#include "model/forward.h"

/* Zero-initialise. Release with prompts_free, also after an error. */
struct prompts {
    uint64_t
        limit; /* tokens of a prompt and what continues it (--length); one that leaves no room is refused. 0: any */
    uint32_t *ids;           /* of all prompts, one after the other */
    uint64_t *ends;          /* [count] where each prompt ends in ids; it begins where the one before ends */
    uint64_t count, longest; /* tokens of the longest prompt */
    uint64_t id_capacity, end_capacity; /* private */
};

/* One prompt that is tokens already. ERR_MEMORY. */
enum status prompts_append(struct prompts *prompts, const uint32_t *ids, uint64_t count, struct error *err);

/* The two below need the model's tokenizer: ERR_UNSUPPORTED without one. */
enum status prompts_need_tokenizer(const struct model *model, struct error *err);

/* One text, with what the tokenizer puts in front. ERR_USAGE: it has no token, or too many. */
enum status prompts_add(
    struct prompts *prompts, const struct model *model, const char *text, uint64_t bytes, struct error *err);

/* Every line that is not blank. A carriage return at a line's end does not belong to it.
 *   json_lines  a line is a JSON object, and its text the prompt (model/calibration_line.h)
 * ERR_FORMAT: a line is no UTF-8, or not such an object; ERR_USAGE: as prompts_add; there is no line with text. Errors name the line. */
enum status prompts_lines(struct prompts *prompts, const struct model *model, const char *text,
    uint64_t bytes, bool json_lines, struct error *err);

void prompts_free(struct prompts *prompts);

#endif
