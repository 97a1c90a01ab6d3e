/* An earlier result as the base of a gate: the JSON that nibble-check perplexity --json or gate --json wrote, so that a new
 * release can be held against the last one without keeping the model. */
#ifndef NIBBLE_RUNTIME_CHECK_GATE_BASELINE_H
#define NIBBLE_RUNTIME_CHECK_GATE_BASELINE_H

#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/perplexity.h"

/* What was measured, and on what: results compare only if all of it is the same. */
struct gate_text {
    enum perplexity_protocol protocol;
    uint64_t context, windows;
    uint64_t tokens; /* of the whole text, 0: not known; another number shows another tokenizer */
    uint32_t crc32;  /* of the text's bytes */
};

struct gate_baseline {
    struct gate_text text;
    struct estimate perplexity;
    double mean_nll;
    double *window_nll; /* [text.windows] mean of each window, or NULL: the file has none */
};

/* Read a result. `name` is the file's, for messages. ERR_FORMAT: no JSON object, a key missing, out of range or in contradiction to
 * another, named. Release with gate_baseline_free, also after an error. */
enum status gate_baseline_parse(
    struct gate_baseline *out, const char *name, const char *bytes, uint64_t count, struct error *err);
/* The same from a file of at most 16 MiB. */
enum status gate_baseline_read(struct gate_baseline *out, const char *path, struct error *err);
void gate_baseline_free(struct gate_baseline *baseline);

/* ERR_USAGE: another protocol, context, number of windows, text or tokenizer; says which, and both values. */
enum status gate_baseline_matches(
    const struct gate_baseline *baseline, const char *name, const struct gate_text *text, struct error *err);

/* ln (perplexity of `now` / the baseline's) on the same windows. With the baseline's window means the error is that of the
 * paired differences. Without (*paired = false), both count as independent: root of the sum of both squared relative errors,
 * the baseline's taken to be no smaller than the new one, since an older file may have taken tokens as independent. */
struct estimate gate_baseline_ratio(
    const struct gate_baseline *baseline, const struct perplexity_result *now, bool *paired);

#endif
