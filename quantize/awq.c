/* The search for AWQ's scales: statistics of the channels, candidates made from them, and a search from coarse to fine.
 * What a candidate costs is measured by quantize/awq_error. */
#include "quantize/awq.h"

#include <assert.h>
#include <math.h>

#include "base/memory.h"
#include "quantize/awq_error.h"

/* Candidates by number: 0 is identity, 1 .. RATIOS the ratios number / RATIOS, then the same with weights. */
enum { RATIOS = 20, CANDIDATES = 1 + 2 * RATIOS, COARSE = 4, STRIPE = 256 };
_Static_assert(1 + 2 * (RATIOS / COARSE) <= AWQ_BATCH, "the coarse candidates are one batch");

#define SCALE_LEAST 1e-4

struct search {
    const struct awq_matrix *matrices;
    uint64_t count, cols;
    const uint32_t *shared;
    struct pool *pool;
    double *magnitude;         /* [cols] of activations, relative to the mean; 0: dead */
    double *weight;            /* [cols] of weights relative to their group's greatest, 0 .. 1 */
    double *sums;              /* [count][cols] the same, summed over one matrix */
    float *scales;             /* [AWQ_BATCH][cols] */
    double errors[CANDIDATES]; /* NaN: not measured */
    struct awq_error *error;
};

/* ---- statistics of the channels ---- */

/* Replace the values of channels that share a scale by their mean. */
static enum status share(double *values, const struct search *search, struct error *err)
{
    if (!search->shared) return OK;
    double *sums = memory_new(search->cols, 2 * sizeof *sums, err);
    if (!sums) return ERR_MEMORY;
    for (uint64_t col = 0; col < search->cols; col++) {
        assert(search->shared[col] < search->cols);
        sums[2 * search->shared[col]] += values[col];
        sums[2 * search->shared[col] + 1] += 1;
    }
    for (uint64_t col = 0; col < search->cols; col++)
        values[col] = sums[2 * search->shared[col]] / sums[2 * search->shared[col] + 1];
    memory_free(sums);
    return OK;
}

static enum status find_magnitudes(struct search *search, const struct hessian *hessian, struct error *err)
{
    uint64_t cols = search->cols, live = 0;
    double total = 0;
    for (uint64_t col = 0; col < cols; col++)
        search->magnitude[col] = hessian->second[col * cols + col] > 0 ? hessian->magnitude[col] : 0;
    enum status status = share(search->magnitude, search, err);
    for (uint64_t col = 0; col < cols; col++) {
        total += search->magnitude[col];
        live += search->magnitude[col] > 0;
    }
    for (uint64_t col = 0; live && col < cols; col++)
        search->magnitude[col] /= total / (double)live;
    return status;
}

/* Columns that share a scale. */
static uint64_t group_of(const struct awq_matrix *matrix)
{
    const struct block_form *form = block_form(matrix->block);
    return form ? form->sub : matrix->scheme.group;
}

/* Columns of a task of add_stripe: whole groups. */
static uint64_t stripe_of(const struct awq_matrix *matrix)
{
    uint64_t group = group_of(matrix);
    return (STRIPE + group - 1) / group * group;
}

static uint64_t stripes_of(const struct awq_matrix *matrix, uint64_t cols)
{
    return (cols + stripe_of(matrix) - 1) / stripe_of(matrix);
}

static void add_group(double *sums, const float *weights, uint64_t group)
{
    float most = 0;
    for (uint64_t i = 0; i < group; i++)
        most = fmaxf(most, fabsf(weights[i]));
    for (uint64_t i = 0; most > 0 && i < group; i++)
        sums[i] += fabsf(weights[i] / most);
}

/* Sum |weight| / greatest of its group over one matrix' rows, in one stripe of its columns. */
static enum status add_stripe(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct search *search = context;
    const struct awq_matrix *matrix = search->matrices;
    double *sums = search->sums;
    (void)worker, (void)err;
    for (; index >= stripes_of(matrix, search->cols); matrix++, sums += search->cols)
        index -= stripes_of(matrix, search->cols);
    uint64_t begin = index * stripe_of(matrix), end = begin + stripe_of(matrix), group = group_of(matrix);
    if (end > search->cols) end = search->cols;
    for (uint64_t row = 0; row < matrix->rows; row++) {
        for (uint64_t at = begin; at < end; at += group)
            add_group(sums + at, matrix->weights + row * search->cols + at, group);
    }
    return OK;
}

static enum status find_weights(struct search *search, struct error *err)
{
    uint64_t stripes = 0, rows = 0;
    for (uint64_t i = 0; i < search->count; i++) {
        stripes += stripes_of(&search->matrices[i], search->cols);
        rows += search->matrices[i].rows;
    }
    enum status status = pool_run(search->pool, stripes, add_stripe, search, err);
    if (status != OK) return status;
    for (uint64_t i = 0; i < search->count; i++) {
        for (uint64_t col = 0; col < search->cols; col++)
            search->weight[col] += search->sums[i * search->cols + col] / (double)rows;
    }
    return share(search->weight, search, err);
}

/* ---- candidates ---- */

static bool with_weights(unsigned candidate)
{
    return candidate > RATIOS;
}

static double ratio_of(unsigned candidate)
{
    return (double)(with_weights(candidate) ? candidate - RATIOS : candidate) / RATIOS;
}

static double raw_scale(const struct search *search, uint64_t col, unsigned candidate)
{
    double ratio = ratio_of(candidate), scale = pow(search->magnitude[col], ratio);
    if (with_weights(candidate)) scale /= pow(search->weight[col], 1 - ratio) + SCALE_LEAST;
    return fmax(scale, SCALE_LEAST);
}

/* scales [cols] of a candidate. */
static void make_scales(float *scales, const struct search *search, unsigned candidate)
{
    double least = INFINITY, most = 0;
    for (uint64_t col = 0; col < search->cols; col++) {
        scales[col] = 1;
        if (candidate == 0 || search->magnitude[col] == 0) continue;
        double scale = raw_scale(search, col, candidate);
        scales[col] = (float)scale;
        least = fmin(least, scale);
        most = fmax(most, scale);
    }
    for (uint64_t col = 0; most > 0 && col < search->cols; col++) {
        if (search->magnitude[col] > 0) scales[col] = (float)(scales[col] / sqrt(most * least));
    }
}

/* ---- the search ---- */

/* Measure the candidates of a list. */
static enum status look(struct search *search, const unsigned *list, uint64_t count, struct error *err)
{
    double errors[AWQ_BATCH];
    for (uint64_t i = 0; i < count; i++)
        make_scales(search->scales + i * search->cols, search, list[i]);
    enum status status = awq_error_measure(search->error, errors, search->scales, count, false, err);
    for (uint64_t i = 0; status == OK && i < count; i++)
        search->errors[list[i]] = errors[i];
    return status;
}

/* The best of those measured among first .. last; of equals the first. */
static unsigned best_of(const struct search *search, unsigned first, unsigned last)
{
    unsigned best = first;
    for (unsigned i = first; i <= last; i++) {
        if (isnan(search->errors[best]) || search->errors[i] < search->errors[best]) best = i;
    }
    return best;
}

static enum status look_coarsely(struct search *search, struct error *err)
{
    unsigned list[AWQ_BATCH] = {0}, count = 1;
    for (unsigned i = COARSE; i < CANDIDATES; i += COARSE)
        list[count++] = i;
    return look(search, list, count, err);
}

/* Candidates `step` from the best of each family. */
static enum status look_around(struct search *search, unsigned step, struct error *err)
{
    unsigned list[AWQ_BATCH], count = 0;
    for (unsigned first = 1; first < CANDIDATES; first += RATIOS) {
        unsigned best = best_of(search, first, first + RATIOS - 1);
        if (best >= first + step) list[count++] = best - step;
        if (best + step < first + RATIOS) list[count++] = best + step;
    }
    return look(search, list, count, err);
}

/* Compare the best candidate with identity, on every row. */
static enum status settle(struct search *search, unsigned best, double errors[2], struct error *err)
{
    enum status status = OK;
    errors[0] = search->errors[0];
    errors[1] = search->errors[best];
    if (awq_error_is_sampled(search->error)) {
        make_scales(search->scales, search, 0);
        make_scales(search->scales + search->cols, search, best);
        status = awq_error_measure(search->error, errors, search->scales, 2, true, err);
    }
    if (status == OK && !isfinite(errors[0])) status = awq_error_fault(search->error, err);
    return status;
}

static enum status run(float *scales, struct awq_choice *choice, struct search *search, struct error *err)
{
    double errors[2];
    enum status status = look_coarsely(search, err);
    for (unsigned step = COARSE / 2; status == OK && step; step /= 2)
        status = look_around(search, step, err);
    if (status != OK) return status;
    unsigned best = best_of(search, 0, CANDIDATES - 1);
    status = settle(search, best, errors, err);
    if (status != OK) return status;
    if (!(errors[1] < errors[0])) best = 0;
    *choice = (struct awq_choice){.ratio = ratio_of(best), .with_weights = with_weights(best), .error = 1};
    if (best) choice->error = errors[1] / errors[0];
    make_scales(scales, search, best);
    return OK;
}

static enum status allocate(struct search *search, struct error *err)
{
    uint64_t cols = search->cols;
    search->magnitude = memory_new(cols, sizeof *search->magnitude, err);
    search->weight = search->magnitude ? memory_new(cols, sizeof *search->weight, err) : NULL;
    search->sums = search->weight ? memory_new(search->count * cols, sizeof *search->sums, err) : NULL;
    search->scales = search->sums ? memory_new(AWQ_BATCH * cols, sizeof *search->scales, err) : NULL;
    return search->scales ? OK : ERR_MEMORY;
}

enum status awq_search(float *scales, struct awq_choice *choice, const struct awq_matrix *matrices,
    uint64_t count, const struct hessian *hessian, const uint32_t *shared, struct pool *pool,
    struct error *err)
{
    struct search search = {
        .matrices = matrices, .count = count, .cols = hessian->cols, .shared = shared, .pool = pool};
    for (unsigned i = 0; i < CANDIDATES; i++)
        search.errors[i] = NAN;
    enum status status = allocate(&search, err);
    if (status == OK) status = find_magnitudes(&search, hessian, err);
    if (status == OK) status = find_weights(&search, err);
    if (status == OK) status = awq_error_create(&search.error, matrices, count, hessian, pool, err);
    if (status == OK) status = run(scales, choice, &search, err);
    awq_error_free(search.error);
    memory_free(search.magnitude);
    memory_free(search.weight);
    memory_free(search.sums);
    memory_free(search.scales);
    return status;
}

void awq_shared_heads(uint32_t *shared, const struct model_config *config, uint32_t layer)
{
    const struct config_widths widths = config_widths(config, layer);
    uint32_t size = config->head_size, group = widths.heads / widths.kv_heads;
    for (uint32_t head = 0; head < widths.heads; head++) {
        for (uint32_t d = 0; d < size; d++)
            shared[head * size + d] = head / group * size + d;
    }
}
