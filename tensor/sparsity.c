#include "tensor/sparsity.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- scores ---- */

struct scoring {
    float *scores;
    const float *weights;
    const float *norms; /* [cols] what a weight of the column is multiplied by; NULL: 1 */
    uint64_t cols;
    double *columns; /* [cols] sums of |w|, of RIA; else NULL */
};

static float bounded(double score)
{
    return score < FLT_MAX ? (float)score : FLT_MAX;
}

/* |w| in relation to its row and column. */
static void relate_row(float *scores, const float *weights, const double *columns, uint64_t cols)
{
    double sum = 0;
    for (uint64_t c = 0; c < cols; c++)
        sum += fabsf(weights[c]);
    for (uint64_t c = 0; c < cols; c++) {
        double weight = fabsf(weights[c]);
        scores[c] = weight > 0 ? (float)(weight / sum + weight / columns[c]) : 0;
    }
}

static enum status score_row(void *context, uint64_t row, unsigned worker, struct error *err)
{
    const struct scoring *scoring = context;
    uint64_t cols = scoring->cols;
    const float *weights = scoring->weights + row * cols;
    float *scores = scoring->scores + row * cols;
    (void)worker, (void)err;
    for (uint64_t c = 0; c < cols; c++)
        scores[c] = fabsf(weights[c]);
    if (scoring->columns) relate_row(scores, weights, scoring->columns, cols);
    for (uint64_t c = 0; scoring->norms && c < cols; c++)
        scores[c] = bounded((double)scores[c] * (double)scoring->norms[c]);
    return OK;
}

static void sum_columns(double *columns, const float *weights, uint64_t rows, uint64_t cols)
{
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t c = 0; c < cols; c++)
            columns[c] += fabsf(weights[row * cols + c]);
    }
}

enum status sparsity_scores(float *scores, enum sparsity_score kind, const float *weights, uint64_t rows,
    uint64_t cols, const double *second, struct pool *pool, struct error *err)
{
    float *norms = kind != SPARSITY_MAGNITUDE ? memory_new(cols, sizeof *norms, err) : NULL;
    double *columns = kind == SPARSITY_RIA ? memory_new(cols, sizeof *columns, err) : NULL;
    struct scoring scoring = {scores, weights, norms, cols, columns};
    enum status status = ERR_MEMORY;
    if ((kind != SPARSITY_MAGNITUDE && !norms) || (kind == SPARSITY_RIA && !columns)) goto done;
    for (uint64_t c = 0; norms && c < cols; c++)
        norms[c] = bounded(columns ? sqrt(sqrt(second[c])) : sqrt(second[c]));
    if (columns) sum_columns(columns, weights, rows, cols);
    status = pool_run(pool, rows, score_row, &scoring, err);
done:
    memory_free(norms);
    memory_free(columns);
    return status;
}

/* ---- the lowest of many ---- */

static uint32_t bits_of(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits & UINT32_C(0x7FFFFFFF); /* -0 is 0 */
}

/* The score that number `rank` (from 0) has among sorted ones, as bits, digit by digit; *before: how many lie below it. Scores that
 * are >= 0 sort like their bits. */
static uint32_t select_rank(const float *scores, uint64_t count, uint64_t rank, uint64_t *before)
{
    uint32_t found = 0, known = 0;
    *before = 0;
    for (unsigned shift = 32; shift > 0;) {
        uint64_t counts[256] = {0};
        uint32_t digit = 0;
        shift -= 8;
        for (uint64_t i = 0; i < count; i++) {
            uint32_t bits = bits_of(scores[i]);
            if ((bits & known) == found) counts[bits >> shift & 255]++;
        }
        while (*before + counts[digit] <= rank)
            *before += counts[digit++];
        found |= digit << shift;
        known |= UINT32_C(255) << shift;
    }
    return found;
}

/* Let the `gone` lowest of `count` scores go, the first of equal ones first. */
static void mask_lowest(uint8_t *mask, const float *scores, uint64_t count, uint64_t gone)
{
    uint64_t below;
    memset(mask, 1, count);
    if (gone == 0) return;
    uint32_t bound = select_rank(scores, count, gone - 1, &below);
    uint64_t equal = gone - below;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits = bits_of(scores[i]);
        if (bits > bound) continue;
        if (bits == bound) {
            if (equal == 0) continue;
            equal--;
        }
        mask[i] = 0;
    }
}

void sparsity_mask_few(uint8_t *mask, const float *scores, uint32_t keep, uint32_t of)
{
    memset(mask, 1, of);
    for (uint32_t gone = 0; gone < of - keep; gone++) {
        uint32_t lowest = of;
        for (uint32_t i = 0; i < of; i++) {
            if (mask[i] && (lowest == of || bits_of(scores[i]) < bits_of(scores[lowest]))) lowest = i;
        }
        mask[lowest] = 0;
    }
}

uint64_t sparsity_count(double share, uint64_t count)
{
    return (uint64_t)floor(share * (double)count + 0.5);
}

struct masking {
    uint8_t *mask;
    const float *scores;
    uint64_t cols;
    const struct sparsity_rule *rule;
};

static enum status mask_row(void *context, uint64_t row, unsigned worker, struct error *err)
{
    const struct masking *masking = context;
    const struct sparsity_rule *rule = masking->rule;
    uint64_t cols = masking->cols;
    uint8_t *mask = masking->mask + row * cols;
    const float *scores = masking->scores + row * cols;
    (void)worker, (void)err;
    for (uint64_t c = 0; rule->of && c < cols; c += rule->of)
        sparsity_mask_few(mask + c, scores + c, rule->keep, rule->of);
    if (!rule->of) mask_lowest(mask, scores, cols, sparsity_count(rule->share, cols));
    return OK;
}

enum status sparsity_mask(uint8_t *mask, const float *scores, uint64_t rows, uint64_t cols,
    const struct sparsity_rule *rule, struct pool *pool, struct error *err)
{
    struct masking masking = {mask, scores, cols, rule};
    if (rule->of || rule->by_row) return pool_run(pool, rows, mask_row, &masking, err);
    mask_lowest(mask, scores, rows * cols, sparsity_count(rule->share, rows * cols));
    return OK;
}

/* ---- layers ---- */

double sparsity_sum(const float *scores, uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += (double)scores[i];
    return sum;
}

uint64_t sparsity_above(const float *scores, uint64_t count, double bound)
{
    uint64_t above = 0;
    for (uint64_t i = 0; i < count; i++)
        above += (double)scores[i] > bound;
    return above;
}

bool sparsity_spread(double *out, const double *outliers, const uint64_t *weights, uint64_t layers,
    double whole, double spread)
{
    double least = outliers[0], most = outliers[0], sum = 0, total = 0;
    for (uint64_t i = 0; i < layers; i++) {
        least = outliers[i] < least ? outliers[i] : least;
        most = outliers[i] > most ? outliers[i] : most;
        sum += outliers[i] * (double)weights[i];
        total += (double)weights[i];
    }
    double slope = most > least ? 2 * spread / (most - least) : 0;
    bool inside = true;
    for (uint64_t i = 0; i < layers; i++) {
        out[i] = whole - (outliers[i] - sum / total) * slope;
        inside &= out[i] > 0 && out[i] < 1;
    }
    return inside;
}
