#include "distill/teacher_row.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/sampling.h"
#include "tensor/kernels/kernels.h"

enum { PIECE = 256 }; /* weights that draws can step over at once */

static double sum_of(const float *x, uint32_t count)
{
    double lanes[4] = {0};
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (unsigned lane = 0; lane < 4; lane++)
            lanes[lane] += (double)x[i + lane];
    }
    for (; i < count; i++)
        lanes[0] += (double)x[i];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* A NaN or an infinity times 0 is NaN; finite numbers give a zero. */
static bool all_finite(const float *x, uint32_t count)
{
    float probe[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (unsigned lane = 0; lane < 8; lane++)
            probe[lane] += 0 * x[i + lane];
    }
    for (; i < count; i++)
        probe[0] += 0 * x[i];
    for (unsigned lane = 0; lane < 8; lane++) {
        if (probe[lane] != 0) return false;
    }
    return true;
}

bool teacher_row_init(struct teacher_row *row, const float *logits, float *weights, uint32_t vocabulary)
{
    float unused;
    *row = (struct teacher_row){.logits = logits, .weights = weights, .vocabulary = vocabulary};
    if (!all_finite(logits, vocabulary)) return false;
    kernels()->maximum(&row->highest, logits, vocabulary);
    memcpy(weights, logits, vocabulary * sizeof *weights);
    kernels()->exp_sum(&unused, weights, row->highest, vocabulary); /* its sum is a float; ours is not */
    row->sum = sum_of(weights, vocabulary);
    row->log_sum = (double)row->highest + log(row->sum);
    return true;
}

double teacher_row_log_prob(const struct teacher_row *row, uint32_t id)
{
    return (double)row->logits[id] - row->log_sum;
}

/* H = log_sum - sum of p * logit. */
double teacher_row_entropy(const struct teacher_row *row)
{
    double moment = 0; /* of e^(logit - highest) * (logit - highest) */
    for (uint32_t i = 0; i < row->vocabulary; i++)
        moment += (double)row->weights[i] * ((double)row->logits[i] - (double)row->highest);
    const double entropy = log(row->sum) - moment / row->sum;
    return entropy > 0 ? entropy : 0;
}

/* ---- the k likeliest ---- */

/* Less likely, or as likely and of a higher id: that is who leaves first. */
static bool is_worse(const float *logits, uint32_t a, uint32_t b)
{
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

/* ids is a heap with the worst at its root. */
static void sift_down(const float *logits, uint32_t *ids, uint32_t count, uint32_t at)
{
    const uint32_t moved = ids[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_worse(logits, ids[child + 1], ids[child])) child++;
        if (!is_worse(logits, ids[child], moved)) break;
        ids[at] = ids[child];
    }
    ids[at] = moved;
}

static int compare_ids(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

double teacher_row_top(struct teacher_row *row, uint32_t *ids, uint32_t k)
{
    const float *logits = row->logits;
    for (uint32_t i = 0; i < k; i++)
        ids[i] = i;
    for (uint32_t i = k / 2; i-- > 0;)
        sift_down(logits, ids, k, i);
    for (uint32_t id = k; id < row->vocabulary; id++) {
        if (logits[id] <= logits[ids[0]]) continue; /* as likely as the worst: its id is higher */
        ids[0] = id;
        sift_down(logits, ids, k, 0);
    }
    qsort(ids, k, sizeof *ids, compare_ids);
    if (k == row->vocabulary) return 0;
    for (uint32_t i = 0; i < k; i++)
        row->weights[ids[i]] = 0;
    return sum_of(row->weights, row->vocabulary) / row->sum; /* 1 - the others would lose a small rest */
}

/* ---- draws ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* One walk over the vocabulary: a draw takes the first token whose cumulated weight exceeds it. */
static void take(
    const float *weights, uint32_t vocabulary, double sum, uint32_t *ids, uint32_t count, const double *aims)
{
    double reached = 0;
    uint32_t drawn = 0, last = 0;
    for (uint32_t at = 0, here; at < vocabulary && drawn < count; at += here) {
        here = vocabulary - at < PIECE ? vocabulary - at : PIECE;
        const double after = reached + sum_of(weights + at, here);
        if (aims[drawn] * sum >= after) { /* none of this piece */
            reached = after;
            continue;
        }
        for (uint32_t id = at; id < at + here && drawn < count; id++) {
            reached += (double)weights[id];
            if (weights[id] > 0) last = id;
            while (drawn < count && aims[drawn] * sum < reached)
                ids[drawn++] = id;
        }
    }
    while (drawn < count) /* the sum, rounded in another order, was a little larger */
        ids[drawn++] = last;
}

void teacher_row_draw(struct teacher_row *row, uint32_t *ids, double *weights, uint32_t count,
    double temperature, uint64_t *random, double *scratch)
{
    double sum = row->sum; /* of e^((logit - highest) / temperature) */
    if (temperature != 1) {
        for (uint32_t i = 0; i < row->vocabulary; i++)
            row->weights[i] = (float)exp(((double)row->logits[i] - (double)row->highest) / temperature);
        sum = sum_of(row->weights, row->vocabulary);
    }
    for (uint32_t i = 0; i < count; i++)
        scratch[i] = sampling_uniform(random);
    qsort(scratch, count, sizeof *scratch, compare_doubles);
    take(row->weights, row->vocabulary, sum, ids, count, scratch);
    for (uint32_t i = 0; i < count; i++) {
        const double offset = (double)row->logits[ids[i]] - (double)row->highest;
        weights[i] = temperature == 1 ? 0 : offset - log(row->sum) - offset / temperature + log(sum);
    }
}
