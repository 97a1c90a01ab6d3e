#include "prune/weights_size.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/nbl_bound.h"
#include "formats/transfer.h"
#include "prune/prune_pairs.h"
#include "prune/weights_plan.h"
#include "tensor/sparse.h"

enum { STEPS = 1000 }; /* of the sparsities that are tried */

/* ---- one matrix ---- */

/* Counts are rounded once for every set of weights that is compared: at most a row or a block of 128 columns. */
static uint64_t stored_most(
    const struct prune_tensor *matrix, const struct prune_pattern *pattern, double sparsity)
{
    uint64_t rows = matrix->target.shape[0], sets = rows + matrix->target.shape[1] / 128 + 1;
    if (pattern->of) return matrix->weights / pattern->of * pattern->keep;
    uint64_t stored = matrix->weights - sparsity_count(sparsity, matrix->weights) + sets;
    return stored < matrix->weights ? stored : matrix->weights;
}

/* Bytes of the sparse form: codes of a block begin at a whole byte, those of a tile at a multiple of 8. */
static enum status sparse_bytes(
    uint64_t *out, const struct tensor *sparse, uint64_t stored, struct error *err)
{
    struct sparse_layout layout;
    enum status status = sparse_layout(&layout, sparse, 0, err);
    if (status != OK) return status;
    uint64_t blocks = layout.dense.tiles * layout.dense.blocks;
    uint64_t codes = (stored * layout.bits + 7) / 8 + (layout.bits < 8 ? blocks : 0) + layout.dense.tiles * 8;
    uint64_t most = layout.dense.tiles * layout.tile_code_bytes;
    codes = (codes + 7) / 8 * 8;
    if (layout.mask == MASK_BITMAP) status = sparse_layout(&layout, sparse, codes < most ? codes : most, err);
    *out = layout.bytes;
    return status;
}

/* As it is stored, in the form that is smaller. */
static enum status foretell(struct tensor *out, const struct weights *work, const struct prune_tensor *matrix,
    double sparsity, struct error *err)
{
    struct tensor sparse;
    *out = matrix->target;
    out->bytes = transfer_target_bytes(&matrix->target);
    if (!work->sparse || !weights_plan_sparse(&sparse, matrix, work)) return OK;
    uint64_t stored = stored_most(matrix, &work->job->settings->pattern, sparsity);
    enum status status = sparse_bytes(&sparse.bytes, &sparse, stored, err);
    if (status == OK && sparse.bytes < out->bytes) *out = sparse;
    return status == OK ? OK : fail_within(err, status, "tensor %s", matrix->name);
}

/* ---- the file ---- */

static enum status rest_bytes(uint64_t *out, const struct weights *work, struct error *err)
{
    const struct checkpoint *input = work->job->input;
    uint64_t tensors = 0, names = 0, bytes = 0;
    struct option_pairs pairs;
    for (uint64_t i = 0; i < container_count(input->container); i++) {
        const struct tensor *source = container_tensor(input->container, i);
        if (checkpoint_is_dropped(input, source)) continue;
        tensors++;
        names += strlen(source->name);
        bytes += weights_plan_find(work, source) ? 0 : source->bytes;
    }
    enum status status = prune_pairs_create(&pairs, work, err);
    if (status == OK)
        status = nbl_bound(
            out, input->container, tensors, names, (const char *const(*)[2])pairs.list, pairs.count, err);
    *out += bytes;
    option_pairs_free(&pairs);
    return status;
}

static enum status matrices_bytes(
    uint64_t *out, const struct weights *work, double sparsity, struct error *err)
{
    const struct prune_result *result = work->job->result;
    enum status status = OK;
    *out = 0;
    for (uint64_t i = 0; status == OK && i < result->count; i++) {
        struct tensor stored;
        status = foretell(&stored, work, &result->tensors[i], sparsity, err);
        *out += stored.bytes;
    }
    return status;
}

enum status weights_size_foretell(uint64_t *out, const struct weights *work, struct error *err)
{
    struct prune_result *result = work->job->result;
    double sparsity = work->job->settings->sparsity;
    uint64_t bytes = 0;
    enum status status = OK;
    *out = 0;
    for (uint64_t i = 0; status == OK && i < result->count; i++) {
        struct prune_tensor *matrix = &result->tensors[i];
        struct tensor stored;
        status = foretell(&stored, work, matrix, sparsity, err);
        matrix->target = stored;
        matrix->share = sparsity;
        bytes += stored.bytes;
    }
    if (status == OK && work->nbl) status = rest_bytes(out, work, err);
    if (work->nbl) *out += bytes;
    return status;
}

/* ---- the front ---- */

/* The squares that the smallest weights of a matrix have, at every tenth. */
static enum status add_gone(double gone[10], const struct weights *work, const struct layer *layer,
    const struct prune_tensor *matrix, struct error *err)
{
    uint64_t count = matrix->weights;
    float *weights = layer_floats(layer, matrix->role, err);
    uint8_t *mask = memory_new(count, 1, err);
    enum status status = weights && mask ? OK : ERR_MEMORY;
    for (uint64_t i = 0; status == OK && i < count; i++)
        weights[i] = fabsf(weights[i]);
    for (int tenth = 1; status == OK && tenth <= 10; tenth++) {
        const struct sparsity_rule rule = {.share = tenth < 10 ? tenth / 10.0 : 0};
        status = sparsity_mask(mask, weights, 1, count, &rule, work->job->pool, err);
        for (uint64_t i = 0; status == OK && i < count; i++) {
            if (tenth == 10 || !mask[i]) gone[tenth - 1] += (double)weights[i] * (double)weights[i];
        }
    }
    memory_free(weights);
    memory_free(mask);
    return status;
}

static enum status measure_gone(double gone[10], const struct weights *work, struct error *err)
{
    enum status status = OK;
    for (uint32_t index = 0; status == OK && index < work->job->input->config.layers; index++) {
        struct layer layer;
        status = layer_load(&layer, work->job->input, index, err);
        for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
            const struct prune_tensor *matrix = work->layer[index][role];
            if (matrix) status = add_gone(gone, work, &layer, matrix, err);
        }
        layer_free(&layer);
    }
    return status;
}

/* What every tenth would take and cost: bytes, and the relative error of the weights if the smallest went. */
static enum status note_front(const struct weights *work, uint64_t rest, struct error *err)
{
    double gone[10] = {0};
    if (work->job->report->quiet) return OK;
    enum status status = measure_gone(gone, work, err);
    if (status == OK) report_note(work->job->report, "sparsity  bytes at most  weight error of magnitude");
    for (int tenth = 1; status == OK && tenth < 10; tenth++) {
        uint64_t bytes;
        status = matrices_bytes(&bytes, work, tenth / 10.0, err);
        if (status == OK)
            report_note(work->job->report, "%7d%%  %13" PRIu64 "  %.4f", 10 * tenth, bytes + rest,
                gone[9] > 0 ? sqrt(gone[tenth - 1] / gone[9]) : 0);
    }
    return status;
}

/* ---- the choice ---- */

static enum status refuse_fixed(const struct weights *work, struct error *err)
{
    const struct prune_options *options = work->job->options;
    if (options->sparsity || work->job->settings->pattern.of)
        return fail(err, ERR_USAGE, "--target-size chooses the sparsity: leave %s out",
            options->sparsity ? "--sparsity" : "--pattern");
    if (work->sparse) return OK;
    return fail(err, ERR_USAGE,
        "--target-size: zeros take as much room as other weights in this output; only .nbl files store "
        "matrices sparse");
}

enum status weights_size_choose(struct weights *work, struct error *err)
{
    uint64_t target = work->job->options->target_size, rest = 0, bytes = 0, least = 1, most = STEPS - 1;
    enum status status = refuse_fixed(work, err);
    if (status == OK) status = rest_bytes(&rest, work, err);
    if (status == OK) status = note_front(work, rest, err);
    if (status == OK) status = matrices_bytes(&bytes, work, (double)most / STEPS, err);
    if (status != OK) return status;
    if (rest + bytes > target)
        return fail(err, ERR_USAGE,
            "--target-size %" PRIu64 ": with %g %% of these weights gone the file would still take %" PRIu64
            " bytes; --bits takes less",
            target, 100.0 * (double)most / STEPS, rest + bytes);
    while (least < most && status == OK) {
        uint64_t middle = (least + most) / 2;
        status = matrices_bytes(&bytes, work, (double)middle / STEPS, err);
        if (rest + bytes <= target)
            most = middle;
        else
            least = middle + 1;
    }
    work->job->result->settings.sparsity = work->job->result->target_sparsity = (double)most / STEPS;
    return status;
}
