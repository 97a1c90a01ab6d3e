/* One choice of a multiple-choice item as tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_CHOICE_H
#define NIBBLE_RUNTIME_CHECK_CHOICE_H

#include "model/forward.h"
#include "runtime-check/tasks/task_file.h"

/* How one choice is scored (lm_eval/api/model.py _encode_pair, lm_eval/models/huggingface.py _loglikelihood_tokens):
 * the text before it is description + examples + context; white space at its end moves to the front of the continuation. Both
 * are tokenized together, with what the tokenizer puts in front (BOS); the tokens beyond as many as the text before has by
 * itself are scored, after the tokens of the text before by itself. Without any text before, BOS stands alone in front (of a
 * tokenizer that adds none: the configuration's BOS, else its end of sequence). The last tokens that fit the context are run,
 * so a text too long loses its beginning. */

struct choice_tokens {
    uint32_t *ids;             /* [count] those of the text before, then the continuation's */
    uint64_t count;            /* all but the last are run */
    uint64_t scored;           /* the last so many are the continuation; at least one, below count */
    bool truncated;            /* the text before lost its beginning */
    struct text before, whole; /* scratch */
};

/* Make the tokens of choice `index` of an item (one of the file's). *out: zero-initialised, or from a call before, whose tokens
 * are then lost; release with choice_free, also after an error.
 *   context  tokens that may be run
 * ERR_FORMAT: a choice without tokens of its own, or with more than the context, or with nothing before it, naming its line. */
enum status choice_tokenize(struct choice_tokens *out, const struct model *model,
    const struct task_file *file, const struct task_item *item, uint32_t index, uint64_t context,
    struct error *err);
void choice_free(struct choice_tokens *tokens);

#endif
