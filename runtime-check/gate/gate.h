/* An accuracy gate: limits on what compression may cost, and the decision whether they hold. The decision stands on a
 * one-sided confidence bound of what was measured, not on the measured value: a model that is over a limit passes that check with
 * a probability of at most 1 - confidence, however short the text was. A gate passes if every check does, so more
 * checks make it stricter and need no correction. */
#ifndef NIBBLE_RUNTIME_CHECK_GATE_H
#define NIBBLE_RUNTIME_CHECK_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime-check/judge/compare.h"

/* What the model is held against, by how much it lets one measure. */
enum gate_base {
    GATE_BASE_NONE,   /* nothing: the model's own perplexity only */
    GATE_BASE_RESULT, /* an earlier perplexity on the same text (gate_baseline.h) */
    GATE_BASE_TOP,    /* the k likeliest tokens of every prediction: divergences are lower bounds */
    GATE_BASE_WHOLE   /* whole predictions, by a model or stored */
};

struct gate_verdict;

/* One kind of check. To add one: a row in gate.c and an option in command_gate.c. */
struct gate_check {
    const char *word; /* the option without its dashes, and the name in reports: "max-kld" */
    const char *what; /* "mean KL divergence" */
    bool share;       /* a share of 1, shown in percent; its limit may be written 2% */
    bool least;       /* the value must reach the limit; otherwise it must not exceed it */
    enum gate_base needs;
    double lowest, highest; /* limits that can be meant, inclusive */
    /* Fill in value, error and bound. */
    void (*measure)(
        struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t);
};

enum { GATE_CHECKS = 5 };
extern const struct gate_check gate_checks[GATE_CHECKS];

/* Limits in the order of gate_checks; those that are not `given` are not checked. */
struct gate_limits {
    double limit[GATE_CHECKS];
    bool given[GATE_CHECKS];
    double confidence; /* of each bound, one-sided: 0.95 */
};

/* How one check came out. All numbers in the check's own unit: a perplexity increase of 2 % is 0.02. */
struct gate_verdict {
    const struct gate_check *check;
    double limit, value;
    double error; /* standard error of value */
    double bound; /* one-sided, on the side of the limit */
    bool passed;  /* the bound is within the limit */
    bool within;  /* the value is */
};

struct gate_result {
    struct gate_verdict verdicts[GATE_CHECKS];
    uint64_t count, failed;
    double confidence;
};

/* Read a limit: "0.02", or for shares "2%". ERR_USAGE: no number, out of range; or a share of 1 or more without a percent sign,
 * since whoever writes 2 means 2 %, not 200 %. */
enum status gate_read_limit(double *out, const struct gate_check *check, const char *text, struct error *err);
/* The same for any share between lowest and highest; `word` names the option. */
enum status gate_read_share(
    double *out, const char *word, const char *text, double lowest, double highest, struct error *err);

/* ERR_USAGE: no limit is given, or one that cannot be held against such a base; says what to use instead. `name` is the base's for
 * the message. */
enum status gate_possible(
    const struct gate_limits *limits, enum gate_base base, const char *name, struct error *err);

/* ERR_USAGE: fewer windows than bounds need (ESTIMATE_LEAST). `name` is where they come from, "the text". */
enum status gate_enough(uint64_t windows, uint64_t context, const char *name, struct error *err);

/* Hold what was measured against the limits. Of *measured, checks read perplexity, log_ratio, kld, kld_p99, same_top,
 * same_top_effective and windows; without a base only perplexity needs to be there. Errors must be by block. Bounds, with t the
 * quantile of Student's distribution with blocks - 1 degrees of freedom (estimate_blocks):
 *   increase of perplexity   exp(log ratio + t x error) - 1
 *   perplexity               value x exp(t x error / value)
 *   KL divergence            value + t x error; its 99th percentile likewise, by its bootstrap error
 *   same top                 estimate_share_lower
 * ERR_USAGE: gate_enough. A failed check is no error here: out->failed counts them. */
enum status gate_decide(struct gate_result *out, const struct gate_limits *limits,
    const struct comparison *measured, struct error *err);

/* A number of a check for people: "0.624 %", "0.007364", "29.1765". Returns out (at least GATE_TEXT bytes). */
enum { GATE_TEXT = 80 };
char *gate_show(char *out, const struct gate_check *check, double value);
/* The limit: "at most 2 %". Likewise. */
char *gate_show_limit(char *out, const struct gate_verdict *verdict);
/* The confidence: "95 %". Likewise. */
char *gate_show_confidence(char *out, double confidence);

/* What a gate was run on, for reports. Nothing is owned. */
struct gate_subject {
    const char *model;                 /* as given */
    const char *base_option, *base;    /* "base", "base-logits" or "baseline" and its name; NULL: none */
    const char *text, *protocol;       /* text NULL: it came with the stored base */
    uint32_t text_crc32;               /* of the text's bytes */
    uint64_t tokens;                   /* of the whole text, 0: not known */
    const struct comparison *measured; /* NULL: the measurement failed */
    bool unpaired;                     /* the baseline has no window means: its error counts as independent */
    double seconds;                    /* of the measurement */
};

#endif
