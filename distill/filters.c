#include "distill/filters.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/sampling.h"
#include "model/tokenizer/pattern.h"

struct filters {
    const struct distill_settings *settings;
    const struct tokenizer *tokenizer;
    struct pattern *match, *no_match;
    struct json_keys seen; /* hashes of sequences that were kept */
    uint64_t counters[SHARD_COUNTERS];
};

_Static_assert((int)FILTER_NONE == (int)SHARD_COUNTERS, "a shard has a counter for every filter");

const char *filter_name(enum filter filter)
{
    static const char *const names[] = {"length", "match", "no-match", "perplexity", "unique"};
    return names[filter];
}

static enum status compile(struct pattern **out, const char *option, const char *text, struct error *err)
{
    enum status status = text ? pattern_regex(out, text, strlen(text), err) : OK;
    if (status == ERR_FORMAT || status == ERR_UNSUPPORTED) status = ERR_USAGE;
    return status ? fail_within(err, status, "%s %s", option, text) : OK;
}

enum status filters_create(struct filters **out, const struct distill_settings *settings,
    const struct tokenizer *tokenizer, struct error *err)
{
    struct filters *filters = memory_new(1, sizeof *filters, err);
    *out = NULL;
    if (!filters) return ERR_MEMORY;
    filters->settings = settings;
    filters->tokenizer = tokenizer;
    enum status status = compile(&filters->match, "--match", settings->options->match, err);
    if (!status) status = compile(&filters->no_match, "--no-match", settings->options->no_match, err);
    if (status)
        filters_free(filters);
    else
        *out = filters;
    return status;
}

void filters_free(struct filters *filters)
{
    if (!filters) return;
    pattern_free(filters->match);
    pattern_free(filters->no_match);
    json_keys_free(&filters->seen);
    memory_free(filters);
}

uint64_t *filters_counters(struct filters *filters)
{
    return filters->counters;
}

/* ---- before ---- */

static enum status find(
    bool *found, const struct pattern *pattern, const char *text, uint64_t bytes, struct error *err)
{
    struct pattern_scratch *scratch = NULL;
    struct pattern_walk walk;
    enum status status = pattern_scratch_create(&scratch, bytes, err);
    if (!status) {
        pattern_walk_init(&walk, pattern, scratch, text, bytes);
        status = pattern_next(&walk, found, err);
    }
    pattern_scratch_free(scratch);
    return status;
}

static enum status judge_text(const struct filters *filters, const uint32_t *tokens, uint64_t count,
    enum filter *verdict, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    bool found = true;
    enum status status = tokenizer_decode(filters->tokenizer, &text, &bytes, tokens, count, true, err);
    if (!status && filters->match) status = find(&found, filters->match, text, bytes, err);
    if (!found) *verdict = FILTER_MATCH;
    found = false;
    if (!status && filters->no_match) status = find(&found, filters->no_match, text, bytes, err);
    if (found && *verdict == FILTER_NONE) *verdict = FILTER_NO_MATCH;
    memory_free(text);
    return status;
}

static bool count_verdict(struct filters *filters, enum filter verdict)
{
    if (verdict == FILTER_NONE) return true;
    filters->counters[verdict]++;
    return false;
}

enum status filters_before(
    struct filters *filters, const uint32_t *tokens, uint64_t count, bool *keep, struct error *err)
{
    const struct distill_options *options = filters->settings->options;
    enum filter verdict = FILTER_NONE;
    enum status status = OK;
    if (count < options->min_length || (options->max_length && count > options->max_length))
        verdict = FILTER_LENGTH;
    else if (filters->match || filters->no_match)
        status = judge_text(filters, tokens, count, &verdict, err);
    *keep = !status && count_verdict(filters, verdict);
    return status;
}

/* ---- after ---- */

/* 128 bits of the tokens: two sequences of a dataset of 2^32 collide by chance with probability 2^-65. */
static enum status remember(
    struct filters *filters, const uint32_t *tokens, uint64_t count, bool *added, struct error *err)
{
    uint64_t hash[2] = {count, ~count};
    for (uint64_t i = 0; i < count; i++) {
        hash[0] = sampling_state(hash[0], tokens[i], 0);
        hash[1] = sampling_state(hash[1], tokens[i], 1);
    }
    return json_keys_add(&filters->seen, (const char *)hash, sizeof hash, added, err);
}

enum status filters_remember(
    struct filters *filters, const uint32_t *tokens, uint64_t count, struct error *err)
{
    bool added;
    return filters->settings->options->unique ? remember(filters, tokens, count, &added, err) : OK;
}

enum status filters_after(struct filters *filters, const uint32_t *tokens, uint64_t count, double nll,
    bool *keep, struct error *err)
{
    const struct distill_settings *settings = filters->settings;
    const double perplexity = exp(nll);
    enum filter verdict = FILTER_NONE;
    enum status status = OK;
    bool added = true;
    if (settings->options->perplexity &&
        !(perplexity >= settings->perplexity_low && perplexity <= settings->perplexity_high))
        verdict = FILTER_PERPLEXITY;
    else if (settings->options->unique)
        status = remember(filters, tokens, count, &added, err);
    if (!added) verdict = FILTER_UNIQUE;
    *keep = !status && count_verdict(filters, verdict);
    return status;
}
