/* Accuracy on multiple-choice items, and what compression changed in the answers, also where accuracy did not move. */
#ifndef NIBBLE_RUNTIME_CHECK_TALLY_H
#define NIBBLE_RUNTIME_CHECK_TALLY_H

#include "runtime-check/judge/estimate.h"
#include "runtime-check/tasks/tasks.h"

/* One model over all items; base is the first model's. Shares are 0 to 1. Standard errors take items as independent:
 * sqrt(p (1 - p) / (n - 1)) for a share p; of differences, those of the paired differences by item. */
struct tally_summary {
    struct estimate accuracy, accuracy_by_characters, accuracy_by_bytes;
    struct estimate change, change_by_characters; /* accuracy minus the base's, paired */
    /* Share of items that were right and are wrong, or the reverse ("flips"; Dutta et al. 2024, arXiv 2407.09141). */
    struct estimate flips;
    uint64_t lost, gained; /* right in the base and wrong here; the reverse */
    struct estimate agree; /* share of items with the same choice, right or wrong */
    /* Of the choices' probabilities, normalised over the item: mean KL(base || this) and mean ln of the right one's, nats. */
    struct estimate kld, right_log_prob;
};
void tally_summarize(struct tally_summary *out, const struct task_file *file,
    const struct tasks_scores *scores, const struct tasks_scores *base);

#endif
