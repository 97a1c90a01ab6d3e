/* See divergence.h. */
#include "runtime-check/judge/divergence.h"

#include <float.h>
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

double divergence_log_sum(float *top, const float *logits, uint64_t vocabulary)
{
    struct row_sums sums = {0};
    kernels()->maximum(top, logits, vocabulary);
    sums.base_top = *top;
    for (uint64_t begin = 0; begin < vocabulary; begin += PIECE) {
        const uint64_t count = vocabulary - begin < PIECE ? vocabulary - begin : PIECE;
        float p[PIECE], unused;
        memcpy(p, logits + begin, count * sizeof *p);
        kernels()->exp_sum(&unused, p, *top, count);
        for (uint64_t at = 0; at < count; at++)
            sums.base[at < count - count % LANES ? at % LANES : 0] += (double)p[at];
    }
    return log(lanes_sum(sums.base));
}

/* ---- rows of a stored base ---- */

static uint32_t first_top(const float *logits, uint64_t vocabulary)
{
    float top;
    uint32_t i = 0;
    kernels()->maximum(&top, logits, vocabulary);
    while (i + 1 < vocabulary && logits[i] != top)
        i++;
    return i;
}

void divergence_row_exact(struct divergence_row *row, double base_log_prob, uint32_t base_first,
    const float *candidate, uint64_t vocabulary)
{
    row->base_nll = -base_log_prob;
    row->probability_change = exp(-row->nll) - exp(base_log_prob);
    row->same_top = first_top(candidate, vocabulary) == base_first;
}

/* p and q of one class more. Probabilities of both rows are normalised at the end, so q may be given times any constant. */
struct class_sums {
    double base, moved; /* sum p, sum p (ln p - ln q) */
};

static void add_class(struct class_sums *sums, double log_p, double log_q)
{
    const double p = exp(log_p);
    sums->base += p;
    sums->moved += p * (log_p - log_q);
}

/* The candidate's probability of the rest is summed over the rest, not taken from 1: it may be tiny. Exponentials below e^-87 are
 * anything down to zero (tensor/kernels), so a rest that small counts as e^-87, which only lowers the divergence. */
void divergence_row_top(struct divergence_row *out, const struct divergence_top *base, float *candidate,
    uint64_t vocabulary, uint32_t target)
{
    struct class_sums sums = {0};
    double top_sum = 0, rest_sum = 0;
    float top, unused;
    out->same_top = first_top(candidate, vocabulary) == base->ids[0];
    kernels()->maximum(&top, candidate, vocabulary);
    const double target_log = (double)candidate[target] - (double)top;
    for (uint64_t i = 0; i < base->k; i++)
        add_class(&sums, (double)base->log_probs[i], (double)candidate[base->ids[i]] - (double)top);
    kernels()->exp_sum(&unused, candidate, top, vocabulary);
    for (uint64_t i = 0; i < base->k; i++) {
        top_sum += (double)candidate[base->ids[i]];
        candidate[base->ids[i]] = 0;
    }
    for (uint64_t i = 0; i < vocabulary; i++)
        rest_sum += (double)candidate[i];
    const double candidate_log = log(top_sum + rest_sum);
    if (isfinite(base->log_rest))
        add_class(&sums, base->log_rest, log(rest_sum > exp(-87.0) ? rest_sum : exp(-87.0)));
    const double kld = sums.moved / sums.base - log(sums.base) + candidate_log;
    out->kld = kld < 0 && isfinite(kld) ? 0 : kld;
    out->base_nll = -base->base_log_prob;
    out->nll = candidate_log - target_log;
    out->probability_change = exp(-out->nll) - exp(base->base_log_prob);
}

/* ---- statistics ---- */

static uint64_t rows_per_block(const struct divergence *divergence)
{
    return divergence->per_window * estimate_block(divergence->capacity / divergence->per_window);
}

void divergence_add(struct divergence *divergence, const struct divergence_row *row)
{
    const uint64_t per_block = rows_per_block(divergence);
    divergence->klds[divergence->kld.tokens.count] = (float)fmin(row->kld, (double)FLT_MAX);
    if (divergence->window_nll)
        divergence->window_nll[divergence->nll.tokens.count / divergence->per_window] += row->nll;
    clustered_add(&divergence->base_nll, per_block, row->base_nll);
    clustered_add(&divergence->nll, per_block, row->nll);
    clustered_add(&divergence->log_ratio, per_block, row->nll - row->base_nll);
    clustered_add(&divergence->kld, per_block, row->kld);
    clustered_add(&divergence->squared_change, per_block, row->probability_change * row->probability_change);
    clustered_add(&divergence->same_top, per_block, row->same_top);
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
        estimate_percentiles(found, shares, PLACES, divergence->klds, count, rows_per_block(divergence), err);
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

static void take_window_means(struct comparison *out, struct divergence *divergence)
{
    out->window_nll = divergence->window_nll;
    divergence->window_nll = NULL;
    for (uint64_t i = 0; out->window_nll && i < divergence->capacity / divergence->per_window; i++)
        out->window_nll[i] /= (double)divergence->per_window;
}

enum status divergence_summarize(struct comparison *out, struct divergence *divergence, struct error *err)
{
    const struct estimate square = clustered_estimate(&divergence->squared_change);
    out->tokens_scored = divergence->kld.tokens.count;
    out->by_block = clustered_by_block(&divergence->kld);
    out->perplexity = estimate_exp(clustered_estimate(&divergence->nll));
    out->base_perplexity = estimate_exp(clustered_estimate(&divergence->base_nll));
    out->log_ratio = clustered_estimate(&divergence->log_ratio);
    out->kld = clustered_estimate(&divergence->kld);
    out->probability_rms.value = sqrt(square.value);
    out->probability_rms.error = square.value > 0 ? square.error / (2 * out->probability_rms.value) : 0;
    out->same_top = clustered_estimate(&divergence->same_top);
    out->same_top_effective = clustered_effective(&divergence->same_top);
    take_window_means(out, divergence);
    return summarize_klds(out, divergence, err);
}
