#include "distill/teacher_row.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/sampling.h"
#include "tensor/kernels/kernels.h"

enum { PIECE = 1024 }; /* logits at a time: their exponentials stay in the nearest cache */

/* Exponentials of (logit - highest) of the piece that begins at `at`; how many. */
static uint32_t exponentials(const struct teacher_row *row, uint32_t at, float out[PIECE])
{
    const uint32_t left = row->vocabulary - at, count = left < PIECE ? left : PIECE;
    float unused;
    memcpy(out, row->logits + at, count * sizeof *out);
    kernels()->exp_sum(&unused, out, row->highest, count);
    return count;
}

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

bool teacher_row_init(struct teacher_row *row, const float *logits, uint32_t vocabulary)
{
    float piece[PIECE];
    *row = (struct teacher_row){.logits = logits, .vocabulary = vocabulary};
    if (!all_finite(logits, vocabulary)) return false;
    kernels()->maximum(&row->highest, logits, vocabulary);
    for (uint32_t at = 0, count; at < vocabulary; at += count) {
        count = exponentials(row, at, piece);
        row->sum += sum_of(piece, count);
    }
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
    float piece[PIECE];
    double moment = 0; /* of e^(logit - highest) * (logit - highest) */
    for (uint32_t at = 0, count; at < row->vocabulary; at += count) {
        count = exponentials(row, at, piece);
        for (uint32_t i = 0; i < count; i++)
            moment += (double)piece[i] * ((double)row->logits[at + i] - (double)row->highest);
    }
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

/* The share of the tokens that are not among the rising ids: summed itself, since 1 - the others would lose a small one. */
static double mass_outside(const struct teacher_row *row, const uint32_t *ids, uint32_t k)
{
    float piece[PIECE];
    double rest = 0;
    uint32_t next = 0;
    for (uint32_t at = 0, count; at < row->vocabulary; at += count) {
        count = exponentials(row, at, piece);
        for (; next < k && ids[next] < at + count; next++)
            piece[ids[next] - at] = 0;
        rest += sum_of(piece, count);
    }
    return rest / row->sum;
}

double teacher_row_top(const struct teacher_row *row, uint32_t *ids, uint32_t k)
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
    return k < row->vocabulary ? mass_outside(row, ids, k) : 0;
}

/* ---- draws ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The row divided by the temperature, normalised: what is drawn from. */
struct proposal {
    double temperature, sum; /* of e^((logit - highest) / temperature) */
};

static double proposal_weight(const struct teacher_row *row, const struct proposal *from, uint32_t id)
{
    return exp(((double)row->logits[id] - (double)row->highest) / from->temperature);
}

/* Exponentials of the piece at `at` as the proposal has them, in float as in teacher_row where the temperature is 1. */
static uint32_t proposal_piece(
    const struct teacher_row *row, const struct proposal *from, uint32_t at, float piece[PIECE])
{
    if (from->temperature == 1) return exponentials(row, at, piece);
    const uint32_t left = row->vocabulary - at, count = left < PIECE ? left : PIECE;
    for (uint32_t i = 0; i < count; i++)
        piece[i] = (float)proposal_weight(row, from, at + i);
    return count;
}

/* One walk over the vocabulary: a draw takes the first token whose cumulated weight exceeds it. */
static void take(const struct teacher_row *row, const struct proposal *from, uint32_t *ids, uint32_t count,
    const double *aims)
{
    float piece[PIECE];
    double reached = 0;
    uint32_t drawn = 0, last = 0;
    for (uint32_t at = 0, here; at < row->vocabulary && drawn < count; at += here) {
        here = proposal_piece(row, from, at, piece);
        const double after = reached + sum_of(piece, here);
        if (aims[drawn] * from->sum >= after) {
            reached = after;
            continue;
        }
        for (uint32_t i = 0; i < here && drawn < count; i++) {
            reached += (double)piece[i];
            if (piece[i] > 0) last = at + i;
            while (drawn < count && aims[drawn] * from->sum < reached)
                ids[drawn++] = at + i;
        }
    }
    while (drawn < count) /* the sum, rounded in another order, was a little larger */
        ids[drawn++] = last;
}

void teacher_row_draw(const struct teacher_row *row, uint32_t *ids, double *weights, uint32_t count,
    double temperature, uint64_t *random, double *scratch)
{
    struct proposal from = {.temperature = temperature, .sum = row->sum};
    float piece[PIECE];
    for (uint32_t at = 0, here; temperature != 1 && at < row->vocabulary; at += here) {
        here = proposal_piece(row, &from, at, piece);
        from.sum = (at ? from.sum : 0) + sum_of(piece, here);
    }
    for (uint32_t i = 0; i < count; i++)
        scratch[i] = sampling_uniform(random);
    qsort(scratch, count, sizeof *scratch, compare_doubles);
    take(row, &from, ids, count, scratch);
    for (uint32_t i = 0; i < count; i++) {
        const double offset = (double)row->logits[ids[i]] - (double)row->highest;
        weights[i] = temperature == 1 ? 0 : offset - log(row->sum) - offset / temperature + log(from.sum);
    }
}
