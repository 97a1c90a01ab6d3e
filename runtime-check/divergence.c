/* See divergence.h. */
#include "runtime-check/divergence.h"

#include <math.h>
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

void divergence_add(struct divergence *divergence, const struct divergence_row *row)
{
    const uint64_t per_window = divergence->per_window;
    divergence->klds[divergence->kld.tokens.count] = (float)row->kld;
    if (divergence->window_nll)
        divergence->window_nll[divergence->nll.windows.count] += row->nll / (double)per_window;
    clustered_add(&divergence->base_nll, per_window, row->base_nll);
    clustered_add(&divergence->nll, per_window, row->nll);
    clustered_add(&divergence->log_ratio, per_window, row->nll - row->base_nll);
    clustered_add(&divergence->kld, per_window, row->kld);
    clustered_add(&divergence->squared_change, per_window, row->probability_change * row->probability_change);
    clustered_add(&divergence->same_top, per_window, row->same_top);
}

static enum status summarize_klds(struct comparison *out, struct divergence *divergence, struct error *err)
{
    static const double shares[] = {0.5, 0.9, 0.95, 0.99, 0.999};
    struct estimate *const places[] = {
        &out->kld_median, &out->kld_p90, &out->kld_p95, &out->kld_p99, &out->kld_p999};
    enum { PLACES = sizeof shares / sizeof *shares };
    const uint64_t count = divergence->kld.tokens.count;
    struct estimate found[PLACES];
    enum status status =
        estimate_percentiles(found, shares, PLACES, divergence->klds, count, divergence->per_window, err);
    if (status) return status;
    for (int i = 0; i < PLACES; i++)
        *places[i] = found[i];
    out->kld_max = (double)divergence->klds[count - 1];
    for (int i = 0; i < COMPARE_CURVE; i++) {
        const double above = pow(10, -(double)i / COMPARE_CURVE_PER_DECADE);
        out->kld_curve[i] = estimate_percentile(divergence->klds, count, 1 - above);
    }
    return OK;
}

/* exp of a mean, with the error that follows to first order. */
static struct estimate exponential(const struct clustered *mean)
{
    const struct estimate log_value = clustered_estimate(mean);
    return (struct estimate){exp(log_value.value), exp(log_value.value) * log_value.error};
}

enum status divergence_summarize(struct comparison *out, struct divergence *divergence, struct error *err)
{
    const struct estimate square = clustered_estimate(&divergence->squared_change);
    out->tokens_scored = divergence->kld.tokens.count;
    out->by_window = divergence->kld.windows.count >= ESTIMATE_WINDOWS;
    out->perplexity = exponential(&divergence->nll);
    out->base_perplexity = exponential(&divergence->base_nll);
    out->log_ratio = clustered_estimate(&divergence->log_ratio);
    out->kld = clustered_estimate(&divergence->kld);
    out->probability_rms.value = sqrt(square.value);
    out->probability_rms.error = square.value > 0 ? square.error / (2 * out->probability_rms.value) : 0;
    out->same_top = clustered_estimate(&divergence->same_top);
    out->same_top_effective = clustered_effective(&divergence->same_top);
    return summarize_klds(out, divergence, err);
}
