/* Speculative decoding (Leviathan, Kalman, Matias 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318): a small model drafts
 * some tokens, the large one looks at all of them in one step, and a rejection rule makes the result a sample of the large model's own
 * distribution. Really run, to measure what a compressed model is worth as a draft. */
#ifndef NIBBLE_RUNTIME_CHECK_SPECULATE_H
#define NIBBLE_RUNTIME_CHECK_SPECULATE_H

#include "base/report.h"
#include "model/forward.h"
#include "runtime-check/judge/estimate.h"
#include "runtime-check/generate/speculate_prompts.h"

enum {
    SPECULATE_LOOKAHEAD = 16, /* the most tokens that are drafted at once */
    SPECULATE_TABLE = 8       /* lookaheads that the table of implied speed-ups has */
};

/* Shown what followed a prompt, once by the target alone and once by speculation: ids [count], without the prompt. */
typedef void (*speculate_listener)(
    void *context, uint64_t prompt, bool alone, const uint32_t *ids, uint64_t count);

struct speculate_options {
    uint64_t tokens;    /* to generate after each prompt; the last cycle may give up to `lookahead` more */
    uint64_t lookahead; /* 1 .. SPECULATE_LOOKAHEAD */
    double temperature;
    uint64_t seed;
    bool ignore_eos;
    speculate_listener listen; /* or NULL */
    void *listen_context;
};

/* A lookahead, and what it would be worth. Costs are in single-token steps of the target. */
struct speculate_choice {
    double expected;    /* tokens per cycle */
    double verify_cost; /* measured: a step of lookahead + 1 tokens of the target */
    double implied;     /* expected / (lookahead * c + 1): verification as cheap as one token */
    double at_cost;     /* expected / (lookahead * c + verify_cost) */
    double
        by_bytes; /* expected / (lookahead * byte_ratio + 1): were time only that of reading weights from memory */
};

/* Errors: over prompts (jackknife) where there are ESTIMATE_LEAST or more, else of independent tokens, and 0 for the
 * speed-up. */
struct speculate_result {
    uint64_t prompts, prompt_tokens;
    uint64_t tokens,
        tokens_alone; /* generated after the first of each prompt: by speculation, by the target alone */
    uint64_t cycles, drafted, accepted;
    struct estimate acceptance; /* a: accepted / judged; tokens behind a rejected one are not judged */
    struct estimate positions[SPECULATE_LOOKAHEAD]; /* the same of the first, second .. drafted token */
    double accepted_per_cycle, tokens_per_cycle;
    double draft_cost, verify_cost; /* measured while generating: one drafted token (c); one verification */
    double byte_ratio;              /* weights that a token reads: bytes of the draft's / of the target's */
    double implied, at_cost,
        by_bytes;            /* as in a choice, of this lookahead, with draft_cost and verify_cost */
    struct estimate speedup; /* measured: tokens per second by speculation / alone; prompts not counted */
    double tokens_per_second, tokens_per_second_alone;
    double seconds; /* all of it */
    struct speculate_choice
        choices[SPECULATE_TABLE]; /* lookahead i + 1, by least times of steps at the end */
    double table_draft_cost;
    uint64_t best; /* lookahead of the largest at_cost; 0: none is above 1 */
    /* Temperature 0: prompts after which the text is not that of the target alone, and the largest difference of logits between
     * the two tokens where they part: steps of other sizes round differently, which decides ties. */
    uint64_t different;
    double different_gap;
};

/* Continue every prompt by the target alone and by speculation.
 * ERR_USAGE: another vocabulary (callers check tokenizers: same_tokens.h), no prompt; ERR_NUMERIC: a logit is not finite. What is
 * generated depends on models, prompts and options only; times do not. Memory: two KV caches, (2 lookahead + 3) rows of the
 * vocabulary. */
enum status speculate_measure(struct speculate_result *out, struct model *target, struct model *draft,
    const struct prompts *prompts, const struct speculate_options *options, const struct report *report,
    struct error *err);

#endif
