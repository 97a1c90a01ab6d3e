/* For a weight i that goes, the best j to come is a search over all columns; but by |g_j - w H_ij| <= |g_j| + |w| |H_ij| a whole block of
 * them can be passed over unread, if its greatest |g_j| / sqrt(H_jj) (of a row, kept up to date) and |H_ij| / sqrt(H_jj) (of the problem)
 * together do not make up for what i is worth. So nearly all are, and what is found is what a search of everything finds. */
#include "tensor/prune_exchange.h"

#include <math.h>

enum { LANES = 8 /* independent maxima: they vectorize */ };
#define SLACK 1.00001f /* on bounds, for the rounding of what they bound */

/* One row while weights are exchanged. */
struct row {
    const struct prune_exchange *exchange;
    uint64_t cols;
    float *weights, *gradient; /* [cols] */
    uint8_t *mask;             /* [cols] */
    float *comes;              /* [cols] 1 / H_jj where j may come, else 0 */
    float *reach;              /* [blocks] at least |g_j| / sqrt(H_jj) of all j of the block that may come */
};

/* The best weight to come. */
struct choice {
    float gain; /* to be beaten; (g_j - w H_ij)^2 / H_jj of what is found */
    uint64_t col;
};

uint64_t prune_exchange_blocks(uint64_t cols)
{
    return (cols + PRUNE_EXCHANGE_BLOCK - 1) / PRUNE_EXCHANGE_BLOCK;
}

uint64_t prune_exchange_floats(uint64_t cols)
{
    return PRUNE_EXCHANGE_ROWS * (cols + prune_exchange_blocks(cols));
}

static uint64_t end_of(uint64_t block, uint64_t cols)
{
    uint64_t end = (block + 1) * PRUNE_EXCHANGE_BLOCK;
    return end < cols ? end : cols;
}

void prune_exchange_tops(float *out, const float *damped, uint64_t cols, uint64_t i)
{
    for (uint64_t block = 0; block < prune_exchange_blocks(cols); block++) {
        float most = 0;
        for (uint64_t j = block * PRUNE_EXCHANGE_BLOCK; j < end_of(block, cols); j++) {
            float part = fabsf(damped[i * cols + j]) / sqrtf(damped[j * cols + j]);
            if (j != i && part > most) most = part;
        }
        out[block] = most * SLACK;
    }
}

/* ---- searching ---- */

/* The greatest (g_j - w h_j)^2 * comes_j for j in [begin, end). */
static float greatest(const float *gradient, const float *hessian, const float *comes, float weight,
    uint64_t begin, uint64_t end)
{
    float most[LANES] = {0}, all = 0;
    uint64_t j = begin;
    for (; j + LANES <= end; j += LANES) {
        for (uint64_t l = 0; l < LANES; l++) {
            float rest = gradient[j + l] - weight * hessian[j + l], gain = rest * rest * comes[j + l];
            most[l] = gain > most[l] ? gain : most[l];
        }
    }
    for (; j < end; j++) {
        float rest = gradient[j] - weight * hessian[j], gain = rest * rest * comes[j];
        all = gain > all ? gain : all;
    }
    for (uint64_t l = 0; l < LANES; l++)
        all = most[l] > all ? most[l] : all;
    return all;
}

static const float *hessian_of(const struct row *row, uint64_t col)
{
    return row->exchange->problem->damped + col * row->cols;
}

/* Of equal gains the first column's. */
static bool search(const struct row *row, uint64_t i, struct choice *choice, uint64_t begin, uint64_t end)
{
    const float *hessian = hessian_of(row, i);
    float weight = row->weights[i], most = greatest(row->gradient, hessian, row->comes, weight, begin, end);
    if (!(most > choice->gain)) return false;
    for (uint64_t j = begin; j < end; j++) {
        float rest = row->gradient[j] - weight * hessian[j];
        if (rest * rest * row->comes[j] != most) continue;
        *choice = (struct choice){most, j};
        return true;
    }
    return false;
}

static bool search_blocks(const struct row *row, uint64_t i, struct choice *choice)
{
    uint64_t blocks = prune_exchange_blocks(row->cols);
    const float *tops = row->exchange->tops + i * blocks;
    float size = fabsf(row->weights[i]);
    bool found = false;
    for (uint64_t block = 0; block < blocks; block++) {
        float bound = row->reach[block] + size * tops[block];
        if (bound * bound > choice->gain)
            found |= search(row, i, choice, block * PRUNE_EXCHANGE_BLOCK, end_of(block, row->cols));
    }
    return found;
}

/* ---- exchanging ---- */

static void bound_row(const struct row *row)
{
    static const float none[PRUNE_EXCHANGE_BLOCK] = {0};
    for (uint64_t block = 0; row->exchange->tops && block < prune_exchange_blocks(row->cols); block++) {
        uint64_t begin = block * PRUNE_EXCHANGE_BLOCK;
        row->reach[block] = SLACK * sqrtf(greatest(row->gradient + begin, none, row->comes + begin, 0, 0,
                                        end_of(block, row->cols) - begin));
    }
}

static void move(const struct row *row, uint64_t col, float by)
{
    const float *hessian = hessian_of(row, col);
    for (uint64_t c = 0; c < row->cols; c++)
        row->gradient[c] += by * hessian[c];
}

static void replace(const struct row *row, uint64_t i, uint64_t j)
{
    float weight = row->weights[i], rest = row->gradient[j] - weight * hessian_of(row, i)[j],
          value = -rest * row->comes[j];
    row->weights[i] = 0;
    row->weights[j] = value;
    row->mask[i] = 0;
    row->mask[j] = 1;
    row->comes[j] = 0;
    row->comes[i] = row->exchange->inverse[i];
    move(row, i, -weight);
    move(row, j, value);
    bound_row(row);
}

/* Weight i goes, j comes with the value that is then best, if the best j lowers the error: it changes by
 * w^2 H_ii - 2 w g_i - (g_j - w H_ij)^2 / H_jj. By how much it fell; 0: everything stays. */
static double exchange_one(const struct row *row, uint64_t i)
{
    uint64_t of = row->exchange->problem->rule.of, begin = of ? i / of * of : 0;
    float weight = row->weights[i], loss = weight * (weight * hessian_of(row, i)[i] - 2 * row->gradient[i]);
    struct choice choice = {.gain = fmaxf(loss + 1e-6f * fabsf(loss), 0)};
    bool found = of ? search(row, i, &choice, begin, begin + of) : search_blocks(row, i, &choice);
    if (!found) return 0;
    replace(row, i, choice.col);
    return (double)choice.gain - (double)loss;
}

static void begin_row(struct row *row)
{
    for (uint64_t c = 0; c < row->cols; c++)
        row->comes[c] = row->mask[c] ? 0 : row->exchange->inverse[c];
    bound_row(row);
}

void prune_exchange(struct prune_exchange *exchange)
{
    uint64_t cols = exchange->problem->cols, blocks = prune_exchange_blocks(cols);
    struct row rows[PRUNE_EXCHANGE_ROWS];
    for (uint64_t r = 0; r < exchange->rows; r++) {
        float *scratch = exchange->scratch + r * (cols + blocks);
        rows[r] = (struct row){exchange, cols, exchange->weights + r * cols, exchange->gradient + r * cols,
            exchange->mask + r * cols, scratch, scratch + cols};
        begin_row(&rows[r]);
        exchange->exchanged[r] = 0;
        exchange->gain[r] = 0;
    }
    for (uint64_t i = 0; i < cols; i++) {
        for (uint64_t r = 0; r < exchange->rows; r++) {
            double gain = rows[r].mask[i] ? exchange_one(&rows[r], i) : 0;
            exchange->exchanged[r] += gain > 0;
            exchange->gain[r] += gain;
        }
    }
}
