/* See gate.h. */
#include "runtime-check/gate/gate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

/* ---- the checks ---- */

static void set(struct gate_verdict *verdict, double value, double error, double bound)
{
    verdict->value = value;
    verdict->error = error;
    verdict->bound = bound;
}

static void measure_increase(
    struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t)
{
    const struct estimate ratio = measured->log_ratio;
    (void)confidence;
    set(verdict, expm1(ratio.value), exp(ratio.value) * ratio.error, expm1(ratio.value + t * ratio.error));
}

static void measure_perplexity(
    struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t)
{
    const struct estimate perplexity = measured->perplexity;
    (void)confidence;
    set(verdict, perplexity.value, perplexity.error,
        perplexity.value * exp(t * perplexity.error / perplexity.value));
}

static void measure_kld(
    struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t)
{
    (void)confidence;
    set(verdict, measured->kld.value, measured->kld.error, measured->kld.value + t * measured->kld.error);
}

static void measure_kld_p99(
    struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t)
{
    const struct estimate p99 = measured->kld_p99;
    (void)confidence;
    set(verdict, p99.value, p99.error, p99.value + t * p99.error);
}

static void measure_top(
    struct gate_verdict *verdict, const struct comparison *measured, double confidence, double t)
{
    const struct estimate top = measured->same_top;
    (void)t;
    set(verdict, top.value, top.error,
        estimate_share_lower(
            top.value, measured->same_top_effective, confidence, estimate_blocks(measured->windows) - 1));
}

/* The lower bound of a share never reaches 100 %, so no such limit could be met. */
const struct gate_check gate_checks[GATE_CHECKS] = {
    {"max-ppl-increase", "perplexity increase", true, false, GATE_BASE_RESULT, 0, 1000, measure_increase},
    {"max-ppl", "perplexity", false, false, GATE_BASE_NONE, 1, 1e9, measure_perplexity},
    {"max-kld", "mean KL divergence", false, false, GATE_BASE_WHOLE, 0, 1000, measure_kld},
    {"max-kld-p99", "99th percentile of KL divergence", false, false, GATE_BASE_WHOLE, 0, 1000,
        measure_kld_p99},
    {"min-top1", "same likeliest token", true, true, GATE_BASE_TOP, 0, 0.99999, measure_top},
};

/* ---- limits ---- */

static enum status refuse_range(
    const char *word, const char *text, double lowest, double highest, const char *unit, struct error *err)
{
    return fail(err, ERR_USAGE, "--%s: \"%s\" is not between %.10g%s and %.10g%s", word, text, lowest, unit,
        highest, unit);
}

enum status gate_read_share(
    double *out, const char *word, const char *text, double lowest, double highest, struct error *err)
{
    const size_t length = strlen(text);
    const bool percent = length > 0 && text[length - 1] == '%';
    double value;
    if (!number_read(&value, text, length - percent))
        return fail(err, ERR_USAGE, "--%s: \"%s\" is not a share; write it as 2%% or as 0.02", word, text);
    if (!percent && value >= 1) {
        return fail(err, ERR_USAGE, "--%s: %s would be %.10g %%; write %s%% for percent", word, text,
            100 * value, text);
    }
    if (percent) value /= 100;
    if (!(value >= lowest && value <= highest))
        return refuse_range(word, text, 100 * lowest, 100 * highest, "%", err);
    *out = value;
    return OK;
}

enum status gate_read_limit(double *out, const struct gate_check *check, const char *text, struct error *err)
{
    double value;
    if (check->share) return gate_read_share(out, check->word, text, check->lowest, check->highest, err);
    if (!number_read(&value, text, strlen(text)))
        return fail(err, ERR_USAGE, "--%s: \"%s\" is not a number", check->word, text);
    if (!(value >= check->lowest && value <= check->highest))
        return refuse_range(check->word, text, check->lowest, check->highest, "", err);
    *out = value;
    return OK;
}

static enum status refuse_check(
    const struct gate_check *check, enum gate_base base, const char *name, struct error *err)
{
    if (base == GATE_BASE_NONE) {
        return fail(err, ERR_USAGE, "--%s needs something to compare with: --base MODEL%s", check->word,
            check->needs == GATE_BASE_RESULT ? ", --base-logits FILE or --baseline FILE"
                                             : " or --base-logits FILE");
    }
    if (base == GATE_BASE_RESULT) {
        return fail(err, ERR_USAGE,
            "--%s compares predictions, and the result in %s holds none; use --base-logits FILE (or --base "
            "MODEL)",
            check->word, name);
    }
    return fail(err, ERR_USAGE,
        "--%s: %s holds only the likeliest tokens of each prediction, by which divergences are lower bounds: "
        "a worse model could pass; store whole predictions, or use --base MODEL",
        check->word, name);
}

enum status gate_possible(
    const struct gate_limits *limits, enum gate_base base, const char *name, struct error *err)
{
    unsigned given = 0;
    for (int i = 0; i < GATE_CHECKS; i++) {
        if (limits->given[i] && gate_checks[i].needs > base)
            return refuse_check(&gate_checks[i], base, name, err);
        given += limits->given[i];
    }
    if (given) return OK;
    return fail(err, ERR_USAGE,
        "no limit is given: --max-ppl-increase, --max-ppl, --max-kld, --max-kld-p99 or --min-top1; "
        "--help explains");
}

enum status gate_enough(uint64_t windows, uint64_t context, const char *name, struct error *err)
{
    if (windows >= ESTIMATE_LEAST) return OK;
    return fail(err, ERR_USAGE,
        "%s gives %" PRIu64 " window%s of %" PRIu64 " tokens, and a bound needs at least %d; take a longer "
        "text, a smaller --context or more --windows",
        name, windows, windows == 1 ? "" : "s", context, ESTIMATE_LEAST);
}

/* ---- the decision ---- */

/* Written so that what is not a number does not pass. */
static bool holds(const struct gate_check *check, double value, double limit)
{
    return check->least ? value >= limit : value <= limit;
}

enum status gate_decide(struct gate_result *out, const struct gate_limits *limits,
    const struct comparison *measured, struct error *err)
{
    *out = (struct gate_result){.confidence = limits->confidence};
    enum status status = gate_enough(measured->windows, measured->context, "the text", err);
    if (status) return status;
    const double t = estimate_t_quantile(limits->confidence, estimate_blocks(measured->windows) - 1);
    for (int i = 0; i < GATE_CHECKS; i++) {
        const struct gate_check *check = &gate_checks[i];
        if (!limits->given[i]) continue;
        struct gate_verdict *verdict = &out->verdicts[out->count++];
        verdict->check = check;
        verdict->limit = limits->limit[i];
        check->measure(verdict, measured, limits->confidence, t);
        verdict->within = holds(check, verdict->value, verdict->limit);
        verdict->passed = verdict->within && holds(check, verdict->bound, verdict->limit);
        out->failed += !verdict->passed;
    }
    return OK;
}

/* ---- for people ---- */

char *gate_show(char *out, const struct gate_check *check, double value)
{
    if (check->share && fabs(value) < 5e-6) value = 0; /* no "-0.000 %" */
    if (check->share)
        snprintf(out, GATE_TEXT, "%.3f %%", 100 * value);
    else if (check->needs == GATE_BASE_NONE)
        snprintf(out, GATE_TEXT, "%.4f", value);
    else if (value != 0 && fabs(value) < 1e-4)
        snprintf(out, GATE_TEXT, "%.2e", value);
    else
        snprintf(out, GATE_TEXT, "%.6f", value);
    return out;
}

char *gate_show_limit(char *out, const struct gate_verdict *verdict)
{
    const struct gate_check *check = verdict->check;
    snprintf(out, GATE_TEXT, "at %s %.10g%s", check->least ? "least" : "most",
        check->share ? 100 * verdict->limit : verdict->limit, check->share ? " %" : "");
    return out;
}

char *gate_show_confidence(char *out, double confidence)
{
    snprintf(out, GATE_TEXT, "%.10g %%", 100 * confidence);
    return out;
}
