/* See divergence.h. */
#include "runtime-check/divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/kernels/kernels.h"

enum {
    PIECE = 1024, /* logits at a time: their exponentials stay in the nearest cache */
    LANES = 4     /* independent sums, so that additions need not wait for one another */
};

/* Sums over the vocabulary: e^(base - its maximum), the same of the candidate, and the first times the difference of
 * both exponents. */
struct row_sums {
    float base_top, candidate_top;
    double base[LANES], candidate[LANES], moved[LANES];
};

static double lanes_sum(const double lanes[LANES])
{
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

static void add_piece(struct row_sums *sums, const float *base, const float *candidate, uint64_t count)
{
    const double shift = (double)sums->base_top - (double)sums->candidate_top;
    float p[PIECE], q[PIECE], unused;
    memcpy(p, base, count * sizeof *p);
    memcpy(q, candidate, count * sizeof *q);
    kernels()->exp_sum(&unused, p, sums->base_top, count);
    kernels()->exp_sum(&unused, q, sums->candidate_top, count);
    for (uint64_t i = 0; i + LANES <= count; i += LANES) {
        for (uint64_t lane = 0; lane < LANES; lane++) {
            const uint64_t at = i + lane;
            const double weight = (double)p[at];
            sums->base[lane] += weight;
            sums->candidate[lane] += (double)q[at];
            sums->moved[lane] += weight * ((double)base[at] - (double)candidate[at] - shift);
        }
    }
    for (uint64_t at = count - count % LANES; at < count; at++) {
        sums->base[0] += (double)p[at];
        sums->candidate[0] += (double)q[at];
        sums->moved[0] += (double)p[at] * ((double)base[at] - (double)candidate[at] - shift);
    }
}

/* Whether the first position where either row reaches its maximum is one where both do. */
static bool same_first_top(
    const struct row_sums *sums, const float *base, const float *candidate, uint64_t vocabulary)
{
    for (uint64_t i = 0; i < vocabulary; i++) {
        const bool base_here = base[i] == sums->base_top,
                   candidate_here = candidate[i] == sums->candidate_top;
        if (base_here || candidate_here) return base_here && candidate_here;
    }
    return false;
}

/* With a = base - max(base), b = candidate - max(candidate), A = ln sum e^a and B = ln sum e^b:
 * KL = sum p ((a - A) - (b - B)) = (sum e^a (a - b)) / (sum e^a) - (A - B). */
void divergence_row(struct divergence_row *out, const float *base, const float *candidate,
    uint64_t vocabulary, uint32_t target)
{
    struct row_sums sums = {0};
    kernels()->maximum(&sums.base_top, base, vocabulary);
    kernels()->maximum(&sums.candidate_top, candidate, vocabulary);
    for (uint64_t i = 0; i < vocabulary; i += PIECE)
        add_piece(&sums, base + i, candidate + i, vocabulary - i < PIECE ? vocabulary - i : PIECE);
    const double base_sum = lanes_sum(sums.base), candidate_sum = lanes_sum(sums.candidate);
    const double base_log = log(base_sum), candidate_log = log(candidate_sum);
    const double kld = lanes_sum(sums.moved) / base_sum - (base_log - candidate_log);
    out->kld = kld < 0 && isfinite(kld) ? 0 : kld;
    out->base_nll = base_log + ((double)sums.base_top - (double)base[target]);
    out->nll = candidate_log + ((double)sums.candidate_top - (double)candidate[target]);
    out->probability_change = exp(-out->nll) - exp(-out->base_nll);
    out->same_top = same_first_top(&sums, base, candidate, vocabulary);
}

/* ---- statistics ---- */

static void moments_add(struct divergence_moments *moments, double value)
{
    const double difference = value - moments->mean;
    moments->count++;
    moments->mean += difference / (double)moments->count;
    moments->squares += difference * (value - moments->mean);
}

/* Standard error of the mean: sqrt(squares / (n - 1) / n); 0 for one value. */
static double moments_error(const struct divergence_moments *moments)
{
    const double n = (double)moments->count;
    return moments->count > 1 ? sqrt(moments->squares / (n - 1) / n) : 0;
}

void divergence_add(struct divergence *divergence, const struct divergence_row *row)
{
    divergence->klds[divergence->kld.count] = (float)row->kld;
    divergence->same_top += row->same_top;
    moments_add(&divergence->base_nll, row->base_nll);
    moments_add(&divergence->nll, row->nll);
    moments_add(&divergence->log_ratio, row->nll - row->base_nll);
    moments_add(&divergence->kld, row->kld);
    moments_add(&divergence->squared_change, row->probability_change * row->probability_change);
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, between neighbours by their distance, as numpy and llama.cpp do it. */
static double percentile(const float *sorted, uint64_t count, double share)
{
    const double position = share * (double)(count - 1);
    const uint64_t below = (uint64_t)position;
    if (below + 1 >= count) return (double)sorted[count - 1];
    const double part = position - (double)below;
    return (1 - part) * (double)sorted[below] + part * (double)sorted[below + 1];
}

static void summarize_klds(struct comparison *out, float *klds, uint64_t count)
{
    qsort(klds, count, sizeof *klds, compare_floats);
    out->kld_median = percentile(klds, count, 0.5);
    out->kld_p90 = percentile(klds, count, 0.9);
    out->kld_p95 = percentile(klds, count, 0.95);
    out->kld_p99 = percentile(klds, count, 0.99);
    out->kld_p999 = percentile(klds, count, 0.999);
    out->kld_max = (double)klds[count - 1];
}

void divergence_summarize(struct comparison *out, struct divergence *divergence)
{
    const double n = (double)divergence->kld.count;
    out->tokens_scored = divergence->kld.count;
    out->perplexity = exp(divergence->nll.mean);
    out->perplexity_error = out->perplexity * moments_error(&divergence->nll);
    out->base_perplexity = exp(divergence->base_nll.mean);
    out->base_perplexity_error = out->base_perplexity * moments_error(&divergence->base_nll);
    out->log_ratio = divergence->log_ratio.mean;
    out->log_ratio_error = moments_error(&divergence->log_ratio);
    out->kld = divergence->kld.mean;
    out->kld_error = moments_error(&divergence->kld);
    summarize_klds(out, divergence->klds, divergence->kld.count);
    out->probability_rms = sqrt(divergence->squared_change.mean);
    out->probability_rms_error = out->probability_rms > 0
                                     ? moments_error(&divergence->squared_change) / (2 * out->probability_rms)
                                     : 0;
    out->same_top = (double)divergence->same_top / n;
    out->same_top_error = n > 1 ? sqrt(out->same_top * (1 - out->same_top) / (n - 1)) : 0;
}
