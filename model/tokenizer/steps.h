/* The normalizer, pre-tokenizer, post-processor and decoder of tokenizer.json are each null, one step, or a Sequence of
 * steps that may be Sequences again. This flattens all of that to a list. */
#ifndef NIBBLE_MODEL_STEPS_H
#define NIBBLE_MODEL_STEPS_H

#include "base/json.h"

enum { STEP_LIMIT = 32, STEP_DEPTH_LIMIT = 8 };

/* Called for each step in order, at most STEP_LIMIT times; `type` is its "type", terminated. */
typedef enum status (*step_reader)(
    void *context, const struct json_value *step, const char *type, struct error *err);

/* `section` may be NULL or null: no steps. `list` is the member of a Sequence that holds its steps. */
enum status steps_read(
    const struct json_value *section, const char *list, step_reader read, void *context, struct error *err);

/* The reader's answer to a type that it does not know. */
enum status steps_unknown(const char *type, struct error *err);

/* A member of a step that must be there: a text of any bytes, a character, or a truth value. */
enum status step_text(
    const struct json_value *step, const char *key, struct json_text *text, struct error *err);
enum status step_character(
    const struct json_value *step, const char *key, struct json_text *text, struct error *err);
enum status step_flag(const struct json_value *step, const char *key, bool *flag, struct error *err);

#endif
