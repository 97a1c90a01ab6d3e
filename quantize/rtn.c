/* Round to nearest as a transfer encoder: tile by tile, so that the codes are packed while they are still in
 * the cache. */
#include "quantize/rtn.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "quantize/quantize.h"
#include "tensor/block_fit.h"
#include "tensor/tiles.h"

/* ---- the error, if it is asked for ---- */

#define LANES 8   /* independent sums: the order of additions is fixed, and they vectorize */
#define PIECE 256 /* columns decoded at a time */

struct lanes {
    double error[LANES], power[LANES];
};

static void add_values(struct lanes *lanes, const float *weights, const float *decoded, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        double weight = weights[i], difference = weight - decoded[i];
        lanes->error[i % LANES] += difference * difference;
        lanes->power[i % LANES] += weight * weight;
    }
}

/* Add one stretch of a row whose columns share a grid. */
static void add_squares(
    struct lanes *lanes, const float *weights, const uint8_t *codes, uint64_t count, struct grid grid)
{
    float decoded[PIECE];
    for (uint64_t begin = 0; begin < count; begin += PIECE) {
        uint64_t piece = count - begin < PIECE ? count - begin : PIECE;
        grid_decode(decoded, codes + begin, piece, grid);
        add_values(lanes, weights + begin, decoded, piece);
    }
}

static struct rtn_sums sum_of(const struct lanes *lanes)
{
    struct rtn_sums sums = {0};
    for (int lane = 0; lane < LANES; lane++) {
        sums.error += lanes->error[lane];
        sums.power += lanes->power[lane];
    }
    return sums;
}

struct rtn_sums rtn_tile_sums(const struct tiles_layout *layout, const float *rows, uint64_t row_count,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros)
{
    struct lanes lanes = {0};
    for (uint64_t at = 0; at < row_count * layout->groups; at++) {
        struct grid grid = {scales[at], zeros ? zeros[at] : (uint8_t)(1u << (layout->bits - 1))};
        add_squares(&lanes, rows + at * layout->group, codes + at * layout->group, layout->group, grid);
    }
    return sum_of(&lanes);
}

struct rtn_sums rtn_row_sums(enum block_type type, const uint8_t *blocks, const float *weights, uint64_t cols)
{
    const struct block_info *info = block_info(type);
    float decoded[BLOCK_WEIGHTS_MOST];
    struct lanes lanes = {0};
    for (uint64_t begin = 0; begin < cols; begin += info->weights, blocks += info->bytes) {
        info->decode(decoded, blocks);
        add_values(&lanes, weights + begin, decoded, info->weights);
    }
    return sum_of(&lanes);
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
            target->scheme, tensor->range, tensor->importance, &row, &col, NULL);
        if (status != OK)
            return weight_fault(weights[row * layout.cols + col], row_begin + begin + row, col, err);
        tiles_pack(&layout, codes + tile * layout.tile_code_bytes, scales + tile * layout.groups * TILE_ROWS,
            zeros ? zeros + tile * layout.groups * TILE_ROWS : NULL, scratch, tile_scales, tile_zeros, count);
        if (tensor->sums)
            tensor->sums[row_begin + begin] =
                rtn_tile_sums(&layout, weights, count, scratch, tile_scales, tile_zeros);
    }
    return OK;
}

/* The column of a row that is to blame for a block that cannot be fitted: the weight that is not finite, or the largest. */
static uint64_t worst_column(const float *row, uint64_t col, uint32_t block)
{
    uint64_t begin = col - col % block, worst = begin;
    for (uint64_t i = begin; i < begin + block; i++) {
        if (!isfinite(row[i])) return i;
        if (fabsf(row[i]) > fabsf(row[worst])) worst = i;
    }
    return worst;
}

enum status rtn_encode_blocks(const struct tensor *target, void *context, uint8_t *blocks, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    const struct rtn_tensor *tensor = context;
    const struct block_info *info = block_info(target->block);
    uint64_t cols = target->shape[1], row_bytes = cols / info->weights * info->bytes, row, col;
    (void)scales, (void)zeros, (void)scratch; /* of tiles */
    if (!block_fit_rows(blocks, target->block, rows, row_count, cols, tensor->importance, &row, &col)) {
        col = worst_column(rows + row * cols, col, info->weights);
        return weight_fault(rows[row * cols + col], row_begin + row, col, err);
    }
    for (uint64_t i = 0; tensor->sums && i < row_count; i++)
        tensor->sums[row_begin + i] =
            rtn_row_sums(target->block, blocks + i * row_bytes, rows + i * cols, cols);
    return OK;
}

/* ---- the method ---- */

/* The sums of a tensor, row by row in order: the same bits for any number of threads. */
static void collect_sums(struct plan_tensor *planned, const struct rtn_tensor *tensor)
{
    for (uint64_t row = 0; row < planned->target.shape[0]; row++) {
        planned->outcome.error += tensor->sums[row].error;
        planned->outcome.power += tensor->sums[row].power;
    }
}

enum status rtn_item(struct transfer_item *item, struct rtn_tensor *tensor, const struct plan_tensor *planned,
    bool measure_error, struct error *err)
{
    *item = (struct transfer_item){.source = planned->source, .target = planned->target};
    if (planned->recipe.keep) return OK;
    item->encode = planned->target.storage == STORAGE_BLOCKS ? rtn_encode_blocks : rtn_encode;
    item->context = tensor;
    tensor->range = planned->recipe.range == RANGE_MINMAX ? GRID_MINMAX : GRID_MSE;
    tensor->importance = planned->column_weights;
    if (!measure_error) return OK;
    tensor->sums = memory_new(planned->target.shape[0], sizeof *tensor->sums, err);
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
    if (status == OK) status = quantize_reserve(job, err);
    if (status == OK)
        status = transfer_run(job->input->container, job->writer, items, plan->count, job->source_crcs,
            job->pool, job->report, "quantizing", err);
    rtn_release(tensors, plan, status == OK);
    memory_free(items);
    return status;
}
