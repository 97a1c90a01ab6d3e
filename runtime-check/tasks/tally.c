/* See tally.h. */
#include "runtime-check/tasks/tally.h"

#include <math.h>

/* ln of the choices' probabilities, normalised over the item. */
static void normalise(double *out, const double *sums, uint32_t count)
{
    double highest = sums[0], total = 0;
    for (uint32_t i = 1; i < count; i++)
        highest = sums[i] > highest ? sums[i] : highest;
    for (uint32_t i = 0; i < count; i++)
        total += exp(sums[i] - highest);
    for (uint32_t i = 0; i < count; i++)
        out[i] = sums[i] - highest - log(total);
}

static double divergence_of(const double *base, const double *other, uint32_t count)
{
    double kld = 0;
    for (uint32_t i = 0; i < count; i++)
        kld += exp(base[i]) * (base[i] - other[i]);
    return kld > 0 ? kld : 0; /* rounding may leave it below */
}

/* What is kept of all items so far. */
struct tally {
    struct moments right, right_by_characters, right_by_bytes, change, change_by_characters, flips, agree,
        kld, right_log_prob;
};

static void add_item(struct tally *tally, const struct task_file *file, uint64_t index,
    const struct tasks_scores *scores, const struct tasks_scores *base)
{
    const struct task_item *item = &file->items[index];
    const bool right = scores->chosen[index] == item->right, was = base->chosen[index] == item->right,
               right_c = scores->chosen_by_characters[index] == item->right,
               was_c = base->chosen_by_characters[index] == item->right;
    double here[TASK_FILE_CHOICES], there[TASK_FILE_CHOICES];
    normalise(here, scores->sums + item->first, item->choices);
    normalise(there, base->sums + item->first, item->choices);
    moments_add(&tally->right, right);
    moments_add(&tally->right_by_characters, right_c);
    moments_add(&tally->right_by_bytes, scores->chosen_by_bytes[index] == item->right);
    moments_add(&tally->change, right - was);
    moments_add(&tally->change_by_characters, right_c - was_c);
    moments_add(&tally->flips, right != was);
    moments_add(&tally->agree, scores->chosen[index] == base->chosen[index]);
    moments_add(&tally->kld, divergence_of(there, here, item->choices));
    moments_add(&tally->right_log_prob, here[item->right]);
}

/* The mean of whole numbers: their sum, known exactly, by their count. */
static struct estimate mean_of_whole(const struct moments *moments)
{
    struct estimate estimate = moments_estimate(moments);
    estimate.value = nearbyint(estimate.value * (double)moments->count) / (double)moments->count;
    return estimate;
}

void tally_summarize(struct tally_summary *out, const struct task_file *file,
    const struct tasks_scores *scores, const struct tasks_scores *base)
{
    struct tally tally = {0};
    uint64_t lost = 0, gained = 0;
    for (uint64_t i = 0; i < file->count; i++) {
        const bool right = scores->chosen[i] == file->items[i].right,
                   was = base->chosen[i] == file->items[i].right;
        add_item(&tally, file, i, scores, base);
        lost += was && !right;
        gained += right && !was;
    }
    *out = (struct tally_summary){
        .accuracy = mean_of_whole(&tally.right),
        .accuracy_by_characters = mean_of_whole(&tally.right_by_characters),
        .accuracy_by_bytes = mean_of_whole(&tally.right_by_bytes),
        .change = mean_of_whole(&tally.change),
        .change_by_characters = mean_of_whole(&tally.change_by_characters),
        .flips = mean_of_whole(&tally.flips),
        .lost = lost,
        .gained = gained,
        .agree = mean_of_whole(&tally.agree),
        .kld = moments_estimate(&tally.kld),
        .right_log_prob = moments_estimate(&tally.right_log_prob),
    };
}
