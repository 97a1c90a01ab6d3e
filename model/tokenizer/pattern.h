/* Patterns: a literal text or a regular expression, and the walk over their matches in a text. The only includer of
 * PCRE2. Patterns come from a file and may be hostile: whatever they are, a walk over n bytes takes time in proportion
 * to n, or ends with an error. */
#ifndef NIBBLE_MODEL_PATTERN_H
#define NIBBLE_MODEL_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

struct pattern;

/* Read {"String": "..."} or {"Regex": "..."}. */
enum status pattern_read(struct pattern **out, const struct json_value *value, struct error *err);

/* The text itself, which may be empty: that matches between all characters. */
enum status pattern_literal(struct pattern **out, const char *bytes, uint64_t count, struct error *err);

/* A regular expression in Oniguruma's syntax (pattern_dialect.h). ERR_FORMAT: not a valid one. */
enum status pattern_regex(struct pattern **out, const char *bytes, uint64_t count, struct error *err);

void pattern_free(struct pattern *pattern);

/* What matching needs to write to; one per thread at a time, for any number of patterns. `text_bytes` sizes the amount of
 * work that all walks together may take. */
struct pattern_scratch;
enum status pattern_scratch_create(struct pattern_scratch **out, uint64_t text_bytes, struct error *err);
void pattern_scratch_free(struct pattern_scratch *scratch);

/* A walk over the matches from left to right, none overlapping another. */
struct pattern_walk {
    const struct pattern *pattern;
    struct pattern_scratch *scratch;
    const char *text; /* well-formed UTF-8 */
    uint64_t bytes;
    uint64_t at, last_end; /* private */
    uint64_t begin, end;   /* the match */
};

void pattern_walk_init(struct pattern_walk *walk, const struct pattern *pattern,
    struct pattern_scratch *scratch, const char *text, uint64_t bytes);

/* Go to the next match; *found = false if there is none. An empty match just behind the last match is left out.
 * ERR_FORMAT: the pattern needs too much time or memory. */
enum status pattern_next(struct pattern_walk *walk, bool *found, struct error *err);

#endif
