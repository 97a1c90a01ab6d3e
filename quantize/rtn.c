/* Round to nearest as a transfer encoder: tile by tile, so that the codes are packed while they are still in
 * the cache. */
#include "quantize/rtn.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "quantize/quantize.h"
#include "tensor/tiles.h"

/* ---- the error, if it is asked for ---- */

#define LANES 8   /* independent sums: the order of additions is fixed, and they vectorize */
#define PIECE 256 /* columns decoded at a time */

/* Add `count` weights before and after. */
static void add_squares(
    double error[LANES], double power[LANES], const float *before, const float *after, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        double weight = before[i], difference = weight - after[i];
        error[i % LANES] += difference * difference;
        power[i % LANES] += weight * weight;
    }
}

static struct rtn_sums sum_lanes(const double error[LANES], const double power[LANES])
{
    struct rtn_sums sums = {0};
    for (int lane = 0; lane < LANES; lane++) {
        sums.error += error[lane];
        sums.power += power[lane];
    }
    return sums;
}

struct rtn_sums rtn_sums_of(const float *before, const float *after, uint64_t count)
{
    double error[LANES] = {0}, power[LANES] = {0};
    add_squares(error, power, before, after, count);
    return sum_lanes(error, power);
}

/* Add one stretch of a row whose columns share a grid. */
static void add_group(double error[LANES], double power[LANES], const float *weights, const uint8_t *codes,
    uint64_t count, struct grid grid)
{
    float decoded[PIECE];
    for (uint64_t begin = 0; begin < count; begin += PIECE) {
        uint64_t piece = count - begin < PIECE ? count - begin : PIECE;
        grid_decode(decoded, codes + begin, piece, grid);
        add_squares(error, power, weights + begin, decoded, piece);
    }
}

struct rtn_sums rtn_tile_sums(const struct tiles_layout *layout, const float *rows, uint64_t row_count,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros)
{
    double error[LANES] = {0}, power[LANES] = {0};
    for (uint64_t at = 0; at < row_count * layout->groups; at++) {
        struct grid grid = {scales[at], zeros ? zeros[at] : (uint8_t)(1u << (layout->bits - 1))};
        add_group(error, power, rows + at * layout->group, codes + at * layout->group, layout->group, grid);
    }
    return sum_lanes(error, power);
}

/* ---- the encoder ---- */

static enum status weight_fault(float weight, uint64_t row, uint64_t col, struct error *err)
{
    if (isfinite(weight))
        return fail(err, ERR_NUMERIC,
            "weight [%" PRIu64 ", %" PRIu64 "] is %g: its scale does not fit half precision", row, col,
            (double)weight);
    return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu64 "] is %s", row, col,
        isnan(weight) ? "NaN" : "infinite");
}

enum status rtn_encode(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    const struct rtn_tensor *tensor = context;
    struct tiles_layout layout;
    enum status status = tiles_layout(&layout, target->shape[0], target->shape[1], target->scheme, err);
    if (status != OK) return status;

    /* Scratch: the codes of one tile, then its scales (2 bytes each), then its zero-points (1 byte each); the
     * fourth byte that every group has pays for the even address of the scales. */
    uint64_t tile_rows = row_count < TILE_ROWS ? row_count : TILE_ROWS;
    uint64_t code_bytes = (tile_rows * layout.cols + 1) / 2 * 2;
    uint16_t *tile_scales = (uint16_t *)(void *)(scratch + code_bytes);
    uint8_t *tile_zeros = layout.asymmetric ? (uint8_t *)(tile_scales + tile_rows * layout.groups) : NULL;

    for (uint64_t begin = 0; begin < row_count; begin += TILE_ROWS) {
        uint64_t tile = begin / TILE_ROWS,
                 count = row_count - begin < TILE_ROWS ? row_count - begin : TILE_ROWS;
        const float *weights = rows + begin * layout.cols;
        uint64_t row, col;
        status = grid_quantize_rows(scratch, tile_scales, tile_zeros, weights, count, layout.cols,
            target->scheme, tensor->range, NULL, &row, &col, NULL);
        if (status != OK)
            return weight_fault(weights[row * layout.cols + col], row_begin + begin + row, col, err);
        tiles_pack(&layout, codes + tile * layout.tile_code_bytes, scales + tile * layout.groups * TILE_ROWS,
            zeros ? zeros + tile * layout.groups * TILE_ROWS : NULL, scratch, tile_scales, tile_zeros, count);
        if (tensor->sums)
            tensor->sums[row_begin / TILE_ROWS + tile] =
                rtn_tile_sums(&layout, weights, count, scratch, tile_scales, tile_zeros);
    }
    return OK;
}

/* ---- the method ---- */

/* The sums of a tensor, tile by tile in order: the same bits for any number of threads. */
static void collect_sums(struct plan_tensor *planned, const struct rtn_tensor *tensor)
{
    uint64_t tiles = (planned->target.shape[0] + TILE_ROWS - 1) / TILE_ROWS;
    for (uint64_t tile = 0; tile < tiles; tile++) {
        planned->outcome.error += tensor->sums[tile].error;
        planned->outcome.power += tensor->sums[tile].power;
    }
}

enum status rtn_item(struct transfer_item *item, struct rtn_tensor *tensor, const struct plan_tensor *planned,
    bool measure_error, struct error *err)
{
    *item = (struct transfer_item){.source = planned->source, .target = planned->target};
    if (planned->recipe.keep) return OK;
    item->encode = rtn_encode;
    item->context = tensor;
    tensor->range = planned->recipe.range == RANGE_MINMAX ? GRID_MINMAX : GRID_MSE;
    if (!measure_error) return OK;
    tensor->sums =
        memory_new((planned->target.shape[0] + TILE_ROWS - 1) / TILE_ROWS, sizeof *tensor->sums, err);
    return tensor->sums ? OK : ERR_MEMORY;
}

void rtn_release(struct rtn_tensor *tensors, struct plan *plan, bool moved)
{
    for (uint64_t i = 0; tensors && i < plan->count; i++) {
        bool measured = tensors[i].sums && !plan->tensors[i].outcome.calibrated;
        if (moved && measured) collect_sums(&plan->tensors[i], &tensors[i]);
        memory_free(tensors[i].sums);
    }
    memory_free(tensors);
}

enum status rtn_run(struct quantize_job *job, struct error *err)
{
    struct plan *plan = job->plan;
    struct transfer_item *items = memory_new(plan->count, sizeof *items, err);
    struct rtn_tensor *tensors = memory_new(plan->count, sizeof *tensors, err);
    enum status status = items && tensors ? OK : ERR_MEMORY;
    for (uint64_t i = 0; status == OK && i < plan->count; i++)
        status = rtn_item(&items[i], &tensors[i], &plan->tensors[i], job->options->report_error, err);
    if (status == OK)
        status = transfer_run(job->input->container, job->writer, items, plan->count, job->source_crcs,
            job->pool, job->report, "quantizing", err);
    rtn_release(tensors, plan, status == OK);
    memory_free(items);
    return status;
}
