/* Multiple choice by log-likelihood, as EleutherAI's lm-evaluation-harness (version 0.4) scores it:
 * of each item the choice that the model gives the highest probability. choice.h has the protocol, tally.h the statistics. */
#ifndef NIBBLE_RUNTIME_CHECK_TASKS_H
#define NIBBLE_RUNTIME_CHECK_TASKS_H

#include "base/report.h"
#include "model/forward.h"
#include "runtime-check/tasks/task_file.h"

/* What a model will have to do for a file. */
struct tasks_plan {
    uint64_t context;   /* tokens the model may look at: as asked for, or as it declares */
    uint64_t longest;   /* tokens of the longest sequence to run; at most context */
    uint64_t truncated; /* choices whose text before was cut */
    uint64_t tokens;    /* of all sequences, run one by one */
    uint64_t scored;    /* of all continuations */
};

/* Tokenize every choice and check that it can be scored, before any of the work is done.
 *   context  0: as the model declares
 * ERR_UNSUPPORTED: no tokenizer; ERR_FORMAT: a choice without tokens of its own, or with more than the context, or with
 * nothing before it, naming its line. */
enum status tasks_plan(struct tasks_plan *out, const struct model *model, const struct task_file *file,
    uint64_t context, struct error *err);

/* What a model answers. Release with tasks_free. */
struct tasks_scores {
    double *sums; /* [choice_count of the file] ln of the continuation's probability */
    /* [count] The choice of the highest sum, sum / characters, sum / bytes; of equal ones the first. What the harness calls
     * acc, acc_norm and acc_bytes. */
    uint32_t *chosen, *chosen_by_characters, *chosen_by_bytes;
    uint64_t tokens_run; /* fewer than planned: common beginnings are run once */
    double seconds;
};

/* Score every choice. Sequences that begin with the same tokens share what was computed for them (examples, contexts), so a
 * log-likelihood may differ by rounding with what was scored before it; it does not depend on the number of threads.
 * ERR_NUMERIC: a logit is not finite. Memory: a KV cache and hidden states of plan->longest tokens, 64 MiB of logits. */
enum status tasks_score(struct tasks_scores *out, struct model *model, const struct task_file *file,
    const struct tasks_plan *plan, const struct report *report, struct error *err);
void tasks_free(struct tasks_scores *scores);

/* Choose by the sums of one item: score i is sums[i] / lengths[i] (lengths NULL: sums[i]; 0: minus infinity). The first of
 * the highest. */
uint32_t tasks_choose(const double *sums, const uint64_t *lengths, uint32_t count);

#endif
