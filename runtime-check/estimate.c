/* See estimate.h. */
#include "runtime-check/estimate.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

/* ---- means ---- */

void moments_add(struct moments *moments, double value)
{
    const double difference = value - moments->mean;
    moments->count++;
    moments->mean += difference / (double)moments->count;
    moments->squares += difference * (value - moments->mean);
}

struct estimate moments_estimate(const struct moments *moments)
{
    const double n = (double)moments->count;
    return (struct estimate){
        moments->mean,
        moments->count > 1 ? sqrt(moments->squares / (n - 1) / n) : 0,
    };
}

void clustered_add(struct clustered *clustered, uint64_t per_window, double value)
{
    moments_add(&clustered->tokens, value);
    clustered->window_sum += value;
    if (++clustered->in_window < per_window) return;
    moments_add(&clustered->windows, clustered->window_sum / (double)per_window);
    clustered->window_sum = 0;
    clustered->in_window = 0;
}

struct estimate clustered_estimate(const struct clustered *clustered)
{
    struct estimate estimate = moments_estimate(&clustered->tokens);
    if (clustered->windows.count >= ESTIMATE_WINDOWS)
        estimate.error = moments_estimate(&clustered->windows).error;
    return estimate;
}

double clustered_effective(const struct clustered *clustered)
{
    const double n = (double)clustered->tokens.count;
    const double alone = moments_estimate(&clustered->tokens).error,
                 error = clustered_estimate(clustered).error;
    return error > alone ? n * (alone / error) * (alone / error) : n;
}

/* ---- bounds ---- */

/* Newton's method on the complementary error function; the start is near enough everywhere. */
static double normal_quantile(double share)
{
    double z = 0;
    if (share < 0.5) return -normal_quantile(1 - share);
    for (int round = 0; round < 60; round++) {
        const double above = 0.5 * erfc(z / sqrt(2.0)), density = exp(-z * z / 2) / sqrt(2 * acos(-1.0));
        const double step = (above - (1 - share)) / density;
        z += step > 1 ? 1 : step;
        if (fabs(step) < 1e-14 * (1 + z)) break;
    }
    return z;
}

double estimate_t_quantile(double share, uint64_t freedom)
{
    const double z = normal_quantile(share), z2 = z * z;
    if (freedom == UINT64_MAX) return z;
    const double v = (double)freedom;
    const double g1 = (z2 + 1) * z / 4;
    const double g2 = ((5 * z2 + 16) * z2 + 3) * z / 96;
    const double g3 = (((3 * z2 + 19) * z2 + 17) * z2 - 15) * z / 384;
    const double g4 = ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) * z / 92160;
    return z + (((g4 / v + g3) / v + g2) / v + g1) / v;
}

double estimate_share_lower(double share, double effective, double confidence, uint64_t freedom)
{
    const double z = estimate_t_quantile(confidence, freedom), z2 = z * z;
    const double middle = share + z2 / (2 * effective);
    const double spread = z * sqrt(share * (1 - share) / effective + z2 / (4 * effective * effective));
    const double lower = (middle - spread) / (1 + z2 / effective);
    return lower > 0 ? lower : 0;
}

/* ---- order statistics ---- */

double estimate_percentile(const float *sorted, uint64_t count, double share)
{
    const double position = share * (double)(count - 1);
    const uint64_t below = (uint64_t)position;
    if (below + 1 >= count) return (double)sorted[count - 1];
    const double part = position - (double)below;
    return (1 - part) * (double)sorted[below] + part * (double)sorted[below + 1];
}

/* A value and the window it came from. */
struct placed {
    float value;
    uint32_t window;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? 1 : -1;
    return (x->window > y->window) - (x->window < y->window);
}

/* The next number of a linear congruential generator (Knuth's MMIX), of which the high bits are used. */
static uint32_t draw_below(uint64_t *state, uint32_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(((*state >> 32) * bound) >> 32);
}

/* One draw: how often each window was taken, then one pass up the sorted values. The percentile at a position between two
 * values is the lower one's: the spread of draws is far wider than that gap. */
static void resample(struct moments *draws, const double *shares, uint64_t share_count,
    const struct placed *sorted, uint64_t count, uint32_t *taken, uint32_t windows, uint64_t *random)
{
    uint64_t passed = 0, next = 0;
    for (uint32_t i = 0; i < windows; i++)
        taken[i] = 0;
    for (uint32_t i = 0; i < windows; i++)
        taken[draw_below(random, windows)]++;
    for (uint64_t i = 0; i < count && next < share_count; i++) {
        passed += taken[sorted[i].window];
        while (next < share_count && passed > (uint64_t)(shares[next] * (double)(count - 1)))
            moments_add(&draws[next++], (double)sorted[i].value);
    }
}

enum { DRAWS = 400 }; /* a standard deviation from so many is good to 4 percent */

static enum status bootstrap(struct estimate *out, const double *shares, uint64_t share_count,
    const struct placed *sorted, uint64_t count, uint32_t windows, struct error *err)
{
    uint64_t random = 1;
    struct moments *draws = memory_new(share_count, sizeof *draws, err);
    uint32_t *taken = draws ? memory_new(windows, sizeof *taken, err) : NULL;
    for (int draw = 0; draw < DRAWS && taken; draw++)
        resample(draws, shares, share_count, sorted, count, taken, windows, &random);
    for (uint64_t i = 0; i < share_count && taken; i++)
        out[i].error = sqrt(draws[i].squares / (DRAWS - 1));
    const enum status status = taken ? OK : ERR_MEMORY;
    memory_free(draws);
    memory_free(taken);
    return status;
}

enum status estimate_percentiles(struct estimate *out, const double *shares, uint64_t share_count,
    float *values, uint64_t count, uint64_t per_window, struct error *err)
{
    struct placed *placed = memory_new(count, sizeof *placed, err);
    if (!placed) return ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++)
        placed[i] = (struct placed){values[i], (uint32_t)(i / per_window)};
    qsort(placed, count, sizeof *placed, compare_placed);
    for (uint64_t i = 0; i < count; i++)
        values[i] = placed[i].value;
    for (uint64_t i = 0; i < share_count; i++)
        out[i] = (struct estimate){estimate_percentile(values, count, shares[i]), 0};
    const uint64_t windows = count / per_window;
    enum status status = OK;
    if (windows >= ESTIMATE_WINDOWS)
        status = bootstrap(out, shares, share_count, placed, count, (uint32_t)windows, err);
    memory_free(placed);
    return status;
}
