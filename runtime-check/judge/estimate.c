/* See estimate.h. */
#include "runtime-check/judge/estimate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- means ---- */

struct estimate estimate_exp(struct estimate estimate)
{
    const double value = exp(estimate.value);
    return (struct estimate){value, value * estimate.error};
}

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

uint64_t estimate_block(uint64_t windows)
{
    return windows < 2 * ESTIMATE_BLOCKS ? 1 : windows / ESTIMATE_BLOCKS;
}

uint64_t estimate_blocks(uint64_t windows)
{
    return windows / estimate_block(windows);
}

void clustered_add(struct clustered *clustered, uint64_t per_block, double value)
{
    moments_add(&clustered->tokens, value);
    clustered->block_sum += value;
    if (++clustered->in_block < per_block) return;
    moments_add(&clustered->blocks, clustered->block_sum / (double)per_block);
    clustered->block_sum = 0;
    clustered->in_block = 0;
}

bool clustered_by_block(const struct clustered *clustered)
{
    return clustered->blocks.count >= ESTIMATE_LEAST;
}

struct estimate clustered_estimate(const struct clustered *clustered)
{
    struct estimate estimate = moments_estimate(&clustered->tokens);
    if (clustered_by_block(clustered)) estimate.error = moments_estimate(&clustered->blocks).error;
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

/* Newton's method on the logarithm of the tail, which is nearly a parabola, from above: the tail is at most
 * exp(-z^2 / 2) / 2, and a concave function's tangents never cross it. A handful of rounds, for every share. */
static double normal_quantile(double share)
{
    const double tail = share < 0.5 ? share : 1 - share;
    double z = sqrt(-2 * log(2 * tail));
    for (int round = 0; round < 60; round++) {
        const double above = 0.5 * erfc(z / sqrt(2.0)), density = exp(-z * z / 2) / sqrt(2 * acos(-1.0));
        const double step = log(above / tail) * above / density;
        z += step;
        if (fabs(step) <= 1e-15 * (1 + z)) break;
    }
    return share < 0.5 ? -z : z;
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
    /* (middle - spread) / (1 + z2 / effective), without cancellation. */
    return share * share / (middle + spread);
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

/* A value and the block it came from. */
struct placed {
    float value;
    uint32_t block;
};

/* A number that is in the order of values, then of blocks: the bits of a float are ordered like their numbers but for the sign. */
static uint64_t sort_key(const struct placed *placed)
{
    uint32_t bits;
    memcpy(&bits, &placed->value, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
    return (uint64_t)bits << 32 | placed->block;
}

/* Radix exchange (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm R): in place, where the C library's qsort takes
 * memory for a second array, and no slower. `bit` and those below are left to sort by; the depth is at most 64. */
static void sort_placed(struct placed *placed, uint64_t count, int bit)
{
    for (; count > 1 && bit >= 0; bit--) {
        uint64_t zeros = 0;
        for (uint64_t end = count; zeros < end;) {
            const struct placed first = placed[zeros];
            if (!(sort_key(&first) >> bit & 1)) {
                zeros++;
                continue;
            }
            placed[zeros] = placed[--end];
            placed[end] = first;
        }
        sort_placed(placed, zeros, bit - 1);
        placed += zeros;
        count -= zeros;
    }
}

/* The next number of a linear congruential generator (Knuth's MMIX), of which the high bits are used. */
static uint32_t draw_below(uint64_t *state, uint32_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(((*state >> 32) * bound) >> 32);
}

/* A percentile of resampled values: between the positions below and above by their distance, as estimate_percentile. */
struct quantile {
    uint64_t below, above;
    double part, value;   /* the distance from below; what this draw has found so far */
    struct moments draws; /* value of all draws */
};

static void place_quantile(struct quantile *quantile, double share, uint64_t count)
{
    const double position = share * (double)(count - 1);
    quantile->below = (uint64_t)position;
    quantile->above = quantile->below + 1 < count ? quantile->below + 1 : quantile->below;
    quantile->part = position - (double)quantile->below;
}

/* What resampling works on. Values after the last whole block belong to one that is never taken. */
struct resampling {
    const struct placed *sorted; /* [count] */
    uint64_t count;
    struct quantile *quantiles; /* [quantile_count], by rising position */
    uint64_t quantile_count, random;
    uint32_t *taken; /* [blocks + 1] how often a block is in this draw */
    uint32_t blocks;
};

/* One draw: how often each block was taken, then one pass up the sorted values. */
static void resample(struct resampling *run)
{
    struct quantile *const quantiles = run->quantiles;
    uint64_t passed = 0, below = 0, above = 0;
    memset(run->taken, 0, run->blocks * sizeof *run->taken);
    for (uint32_t i = 0; i < run->blocks; i++)
        run->taken[draw_below(&run->random, run->blocks)]++;
    for (uint64_t i = 0; i < run->count && above < run->quantile_count; i++) {
        const double value = (double)run->sorted[i].value;
        passed += run->taken[run->sorted[i].block];
        for (; below < run->quantile_count && passed > quantiles[below].below; below++)
            quantiles[below].value = (1 - quantiles[below].part) * value;
        for (; above < run->quantile_count && passed > quantiles[above].above; above++)
            quantiles[above].value += quantiles[above].part * value;
    }
    for (uint64_t i = 0; i < run->quantile_count; i++)
        moments_add(&quantiles[i].draws, quantiles[i].value);
}

static enum status bootstrap(struct estimate *out, const double *shares, uint64_t share_count,
    const struct placed *sorted, uint64_t count, uint64_t per_block, struct error *err)
{
    struct resampling run = {.sorted = sorted, .count = count, .quantile_count = share_count, .random = 1};
    run.blocks = (uint32_t)(count / per_block);
    run.quantiles = memory_new(share_count, sizeof *run.quantiles, err);
    run.taken = run.quantiles ? memory_new((uint64_t)run.blocks + 1, sizeof *run.taken, err) : NULL;
    const enum status status = run.taken ? OK : ERR_MEMORY;
    for (uint64_t i = 0; i < share_count && !status; i++)
        place_quantile(&run.quantiles[i], shares[i], run.blocks * per_block);
    for (int draw = 0; draw < ESTIMATE_DRAWS && !status; draw++)
        resample(&run);
    /* Of a mean, the bootstrap's variance is (blocks - 1) / blocks of the usual estimate: corrected likewise. */
    const double correction = (double)run.blocks / (double)(run.blocks - 1);
    for (uint64_t i = 0; i < share_count && !status; i++)
        out[i].error = sqrt(run.quantiles[i].draws.squares / (ESTIMATE_DRAWS - 1) * correction);
    memory_free(run.quantiles);
    memory_free(run.taken);
    return status;
}

enum status estimate_percentiles(struct estimate *out, const double *shares, uint64_t share_count,
    float *values, uint64_t count, uint64_t per_block, struct error *err)
{
    const uint64_t blocks = count / per_block;
    if (blocks >= UINT32_MAX)
        return fail(err, ERR_MEMORY, "%" PRIu64 " blocks are more than percentiles are made for", blocks);
    struct placed *placed = memory_new(count, sizeof *placed, err);
    if (!placed) return ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++)
        placed[i] = (struct placed){values[i], (uint32_t)(i / per_block)};
    sort_placed(placed, count, 63);
    for (uint64_t i = 0; i < count; i++)
        values[i] = placed[i].value;
    for (uint64_t i = 0; i < share_count; i++)
        out[i] = (struct estimate){estimate_percentile(values, count, shares[i]), 0};
    enum status status = OK;
    if (blocks >= ESTIMATE_LEAST) status = bootstrap(out, shares, share_count, placed, count, per_block, err);
    memory_free(placed);
    return status;
}
