/* Which sequences stay out of a dataset, and how many each filter took away. */
#ifndef NIBBLE_DISTILL_FILTERS_H
#define NIBBLE_DISTILL_FILTERS_H

#include "base/json.h"
#include "distill/distill_settings.h"
#include "distill/shard.h"

/* In the order in which they are asked; the first that objects counts. */
enum filter {
    FILTER_LENGTH,
    FILTER_MATCH,
    FILTER_NO_MATCH,
    FILTER_PERPLEXITY,
    FILTER_UNIQUE,
    FILTER_NONE /* it stays */
};

/* "length", as in dataset.json. */
const char *filter_name(enum filter filter);

struct filters;

/* Compile the expressions of the settings; keeps both pointers. ERR_USAGE names the option of one that is none. Release with
 * filters_free (NULL is allowed). */
enum status filters_create(struct filters **out, const struct distill_settings *settings,
    const struct tokenizer *tokenizer, struct error *err);
void filters_free(struct filters *filters);

/* [SHARD_COUNTERS] what was taken away so far; may be set, to go on from a shard. */
uint64_t *filters_counters(struct filters *filters);

/* What tokens alone can say: length and text. *keep false: counted. */
enum status filters_before(
    struct filters *filters, const uint32_t *tokens, uint64_t count, bool *keep, struct error *err);

/* What the teacher says, and whether it is there already; one that stays is remembered.
 *   nll  mean of -ln p of all tokens but the first */
enum status filters_after(struct filters *filters, const uint32_t *tokens, uint64_t count, double nll,
    bool *keep, struct error *err);

/* Remember a sequence that was kept before. */
enum status filters_remember(
    struct filters *filters, const uint32_t *tokens, uint64_t count, struct error *err);

#endif
