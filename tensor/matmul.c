/* Products with a weight matrix in any storage.
 *
 * Work is cut into tasks of consecutive rows of the weight (and, with many tokens, consecutive tokens). The
 * cut follows from the shapes alone, so the result does not depend on the number of workers. There are two
 * ways: with few tokens the codes are read from where they lie, once for all tokens (dot; blocks are decoded
 * some rows at a time); with many a panel of rows is decoded to float and multiplied through linalg. */
#include "tensor/matmul.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"
#include "tensor/sparse.h"

/* Up to this many tokens the dot kernels are taken. Measured on Zen 4, decoding and multiplying is as fast from 45 to
 * 110 tokens over tiles, and dense from 14 (256 columns) to 30 (2048); 17 are what speculation verifies at most. */
#define DOT_TOKENS TILE_TOKENS
#define DENSE_DOT_TOKENS 17
#define DOT_ROWS 64  /* rows per task */
#define DENSE_ROWS 2 /* rows of a dense weight that share the tokens */
/* A panel product takes a quarter of the rows, within these bounds. Tokens are packed anew for every panel
 * and rows for every block of tokens, which costs more the smaller they are; balance between workers wants
 * several of them. 256 x 512 runs at 90 percent and more of the speed of one undivided product, 64 x 512
 * at 85. */
#define PANEL_ROWS_LEAST 64
#define PANEL_ROWS_MOST 256
#define PANEL_TOKENS 512
#define PANEL_ROWS (PANEL_ROWS_MOST + TILE_ROWS) /* behind the panel a sparse tile is spread */

struct matmul {
    struct pool *pool;
    uint64_t max_cols;
    float **panels; /* one per worker: PANEL_ROWS rows of max_cols rounded up to whole blocks */
    float *padded;  /* [DOT_TOKENS][max_cols rounded up to whole blocks] */
};

/* One product, as its tasks see it. */
struct product {
    float *y;
    const float *x; /* [tokens][cols]; for dots over tiles as tiles_dot wants it */
    uint64_t tokens, rows, cols;
    const struct tensor *weight, *bias;
    struct tiles_layout layout;  /* TILES only */
    struct sparse_layout sparse; /* SPARSE only */
    uint64_t task_rows, row_tasks;
    float **panels;
};

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

void matmul_free(struct matmul *matmul)
{
    if (!matmul) return;
    for (unsigned i = 0; matmul->panels && i < pool_workers(matmul->pool); i++)
        memory_free(matmul->panels[i]);
    memory_free(matmul->panels);
    memory_free(matmul->padded);
    memory_free(matmul);
}

static enum status allocate(struct matmul *matmul, struct error *err)
{
    unsigned workers = pool_workers(matmul->pool);
    matmul->panels = memory_new(workers, sizeof *matmul->panels, err);
    if (!matmul->panels) return ERR_MEMORY;
    for (unsigned i = 0; i < workers; i++) {
        matmul->panels[i] =
            memory_new(round_up(matmul->max_cols, TILE_COLS), PANEL_ROWS * sizeof(float), err);
        if (!matmul->panels[i]) return ERR_MEMORY;
    }
    matmul->padded = memory_new(round_up(matmul->max_cols, TILE_COLS), DOT_TOKENS * sizeof(float), err);
    return matmul->padded ? OK : ERR_MEMORY;
}

enum status matmul_create(struct matmul **out, struct pool *pool, uint64_t max_cols, struct error *err)
{
    struct matmul *matmul = memory_new(1, sizeof *matmul, err);
    if (!matmul) return ERR_MEMORY;
    matmul->pool = pool;
    matmul->max_cols = max_cols;
    enum status status = allocate(matmul, err);
    if (status != OK) {
        matmul_free(matmul);
        return status;
    }
    *out = matmul;
    return OK;
}

/* ---- shared by both ways ---- */

static const void *dense_row(const struct product *product, uint64_t row)
{
    const uint8_t *bytes = product->weight->data;
    return bytes + row * product->cols * dtype_info(product->weight->dtype)->bytes;
}

/* Rows [row, row + count) of a weight of blocks as floats. */
static void decode_blocks(float *out, const struct product *product, uint64_t row, uint64_t count)
{
    const struct tensor *weight = product->weight;
    blocks_decode(out, weight->block, weight->data, row * product->cols, count * product->cols);
}

/* The bias of `count` rows as floats; 0 without one. */
static void read_bias(float *out, const struct product *product, uint64_t row, uint64_t count)
{
    memset(out, 0, count * sizeof *out);
    if (!product->bias) return;
    const struct dtype_info *info = dtype_info(product->bias->dtype);
    info->decode(out, (const uint8_t *)product->bias->data + row * info->bytes, count);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Where a worker's sparse tiles are spread. */
static void *spread_of(const struct product *product, unsigned worker)
{
    return product->panels[worker] + PANEL_ROWS_MOST * round_up(product->cols, TILE_COLS);
}

/* ---- few tokens ---- */

static void put_tile(const struct product *product, const float sums[DOT_TOKENS][TILE_ROWS], uint64_t row,
    uint64_t count, const float *bias)
{
    for (uint64_t t = 0; t < product->tokens; t++) {
        for (uint64_t r = 0; r < count; r++)
            product->y[t * product->rows + row + r] = sums[t][r] + bias[r];
    }
}

static void dot_tile(const struct product *product, uint64_t row, uint64_t count, const float *bias)
{
    struct tile tile = tiles_at(&product->layout, product->weight->data, row / TILE_ROWS);
    float sums[DOT_TOKENS][TILE_ROWS];
    tiles_dot(&product->layout, sums[0], tile.codes, tile.scales, tile.zeros, product->x, product->tokens);
    put_tile(product, sums, row, count, bias);
}

/* One token: y of one row, of elements of `dtype`. */
static void dot_one(const struct product *product, float *sum, enum dtype dtype, const void *weights)
{
    const struct kernels *k = kernels();
    (dtype == DTYPE_F16       ? k->dot_f16
        : dtype == DTYPE_BF16 ? k->dot_bf16
                              : k->dot_f32)(sum, weights, product->x, product->cols);
}

/* Rows row .. row+count-1, which lie at `weights` as elements of `dtype`. */
static void dot_rows(const struct product *product, enum dtype dtype, const void *weights, uint64_t row,
    uint64_t count, const float *bias)
{
    const struct kernels *k = kernels();
    const uint64_t row_bytes = product->cols * dtype_info(dtype)->bytes;
    float sums[DENSE_DOT_TOKENS * DENSE_ROWS];
    if (product->tokens == 1) {
        for (uint64_t r = 0; r < count; r++)
            dot_one(product, sums + r, dtype, (const uint8_t *)weights + r * row_bytes);
    } else {
        (dtype == DTYPE_F16 ? k->dots_f16
            : dtype == DTYPE_BF16
                ? k->dots_bf16
                : k->dots_f32)(sums, weights, count, product->x, product->tokens, product->cols);
    }
    for (uint64_t t = 0; t < product->tokens; t++) {
        for (uint64_t r = 0; r < count; r++)
            product->y[t * product->rows + row + r] = sums[t * count + r] + bias[r];
    }
}

/* One token: blocks are multiplied as they are read. The bits are those of decoding first. */
static void dot_blocks(const struct product *product, uint64_t row, uint64_t count, const float *bias)
{
    const struct tensor *weight = product->weight;
    const struct block_info *info = block_info(weight->block);
    const uint64_t blocks = product->cols / info->weights;
    const uint8_t *data = (const uint8_t *)weight->data + row * blocks * info->bytes;
    for (uint64_t r = 0; r < count; r++, data += blocks * info->bytes) {
        float sum;
        kernels()->block_dot(&sum, weight->block, data, product->x, blocks);
        product->y[row + r] = sum + bias[r];
    }
}

static enum status dot_sparse(const struct product *product, uint64_t row, uint64_t count, const float *bias,
    void *scratch, struct error *err)
{
    const struct sparse_layout *layout = &product->sparse;
    float sums[DOT_TOKENS][TILE_ROWS];
    struct sparse_tile tile;
    enum status status = sparse_at(&tile, layout, product->weight->data, row / TILE_ROWS, err);
    if (status) return fail_within(err, status, "tensor %s", product->weight->name);
    sparse_dot(layout, sums[0], &tile, product->x, product->tokens, scratch);
    put_tile(product, (const float(*)[TILE_ROWS])sums, row, count, bias);
    return OK;
}

static enum status dot_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct product *product = context;
    uint64_t row = index * product->task_rows, end = least(row + product->task_rows, product->rows);
    float bias[DOT_ROWS];
    enum status status = OK;
    read_bias(bias, product, row, end - row);
    if (product->weight->storage == STORAGE_SPARSE) {
        for (uint64_t r = row; r < end && !status; r += TILE_ROWS)
            status = dot_sparse(
                product, r, least(end - r, TILE_ROWS), bias + (r - row), spread_of(product, worker), err);
    } else if (product->weight->storage == STORAGE_DENSE) {
        for (uint64_t r = row; r < end; r += DENSE_ROWS)
            dot_rows(product, product->weight->dtype, dense_row(product, r), r, least(end - r, DENSE_ROWS),
                bias + (r - row));
    } else if (product->weight->storage == STORAGE_BLOCKS && product->tokens == 1) {
        dot_blocks(product, row, end - row, bias);
    } else if (product->weight->storage == STORAGE_BLOCKS) {
        float *decoded = product->panels[worker];
        for (uint64_t r = row; r < end; r += DENSE_ROWS) {
            uint64_t count = least(end - r, DENSE_ROWS);
            decode_blocks(decoded, product, r, count);
            dot_rows(product, DTYPE_F32, decoded, r, count, bias + (r - row));
        }
    } else {
        for (uint64_t r = row; r < end; r += TILE_ROWS) {
            dot_tile(product, r, least(end - r, TILE_ROWS), bias + (r - row));
        }
    }
    return status;
}

/* Tiles read whole blocks of x, 32-byte aligned: [blocks][tokens][32], zeros behind the last column. */
static void pad_tokens(struct matmul *matmul, struct product *product)
{
    float *out = matmul->padded;
    for (uint64_t col = 0; col < product->cols; col += TILE_COLS) {
        uint64_t count = least(product->cols - col, TILE_COLS);
        for (uint64_t t = 0; t < product->tokens; t++, out += TILE_COLS) {
            memcpy(out, product->x + t * product->cols + col, count * sizeof *out);
            memset(out + count, 0, (TILE_COLS - count) * sizeof *out);
        }
    }
    product->x = matmul->padded;
}

/* ---- many tokens ---- */

/* Rows [row, row + count) of the weight as floats, row stride cols: in place if they are floats already. Not SPARSE. */
static const float *panel_of(const struct product *product, float *scratch, uint64_t row, uint64_t count)
{
    const struct tensor *weight = product->weight;
    if (weight->storage == STORAGE_TILES) {
        tiles_decode(&product->layout, scratch, product->cols, weight->data, row, count);
        return scratch;
    }
    if (weight->storage == STORAGE_BLOCKS) {
        decode_blocks(scratch, product, row, count);
        return scratch;
    }
    const void *data = dense_row(product, row);
    uint64_t elements = count * product->cols;
    if (weight->dtype == DTYPE_F32) return data;
    if (weight->dtype == DTYPE_F16) {
        kernels()->f16_to_f32(scratch, data, elements);
    } else if (weight->dtype == DTYPE_BF16) {
        kernels()->bf16_to_f32(scratch, data, elements);
    } else {
        dtype_info(weight->dtype)->decode(scratch, data, elements);
    }
    return scratch;
}

/* Tasks go through all panels for the first block of tokens, then for the next. */
static enum status panel_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct product *product = context;
    uint64_t row = index % product->row_tasks * product->task_rows,
             first = index / product->row_tasks * PANEL_TOKENS;
    uint64_t count = least(product->task_rows, product->rows - row);
    uint64_t tokens = least(PANEL_TOKENS, product->tokens - first);
    const float *panel = product->panels[worker];
    if (product->weight->storage == STORAGE_SPARSE) {
        enum status status = sparse_decode(&product->sparse, product->panels[worker], product->cols,
            product->weight->data, row, count, spread_of(product, worker), err);
        if (status) return fail_within(err, status, "tensor %s", product->weight->name);
    } else {
        panel = panel_of(product, product->panels[worker], row, count);
    }
    float *y = product->y + first * product->rows + row, bias[PANEL_ROWS_MOST];
    if (product->bias) {
        read_bias(bias, product, row, count);
        for (uint64_t t = 0; t < tokens; t++)
            memcpy(y + t * product->rows, bias, count * sizeof *bias);
    }
    linalg_gemm_nt(tokens, count, product->cols, 1, product->x + first * product->cols, product->cols, panel,
        product->cols, product->bias ? 1 : 0, y, product->rows);
    return OK;
}

static uint64_t panel_rows(uint64_t rows)
{
    uint64_t quarter = round_up((rows + 3) / 4, TILE_ROWS);
    if (quarter < PANEL_ROWS_LEAST) return PANEL_ROWS_LEAST;
    return least(quarter, PANEL_ROWS_MOST);
}

/* ---- the choice ---- */

enum status matmul_run(struct matmul *matmul, float *y, const float *x, uint64_t tokens,
    const struct tensor *weight, const struct tensor *bias, struct error *err)
{
    struct product product = {
        .y = y,
        .x = x,
        .tokens = tokens,
        .rows = weight->shape[0],
        .cols = weight->shape[1],
        .weight = weight,
        .bias = bias,
        .panels = matmul->panels,
    };
    assert(product.cols <= matmul->max_cols);
    bool tiles = weight->storage == STORAGE_TILES;
    if (!tiles && !dtype_info(weight->dtype)->is_float) {
        return fail(
            err, ERR_UNSUPPORTED, "a product with a weight of type %s", dtype_info(weight->dtype)->name);
    }
    enum status status = OK;
    if (tiles) status = tiles_layout(&product.layout, product.rows, product.cols, weight->scheme, err);
    if (weight->storage == STORAGE_SPARSE) {
        status = sparse_layout_of(&product.sparse, weight, err);
        tiles = true; /* what follows is the same */
    }
    if (status != OK) return status;
    uint64_t most = tiles ? DOT_TOKENS : weight->dtype == DTYPE_F64 ? 0 : DENSE_DOT_TOKENS;
    bool few = tokens <= most;
    if (few && tiles) pad_tokens(matmul, &product);
    product.task_rows = few ? DOT_ROWS : panel_rows(product.rows);
    product.row_tasks = (product.rows + product.task_rows - 1) / product.task_rows;
    uint64_t token_tasks = few ? 1 : (tokens + PANEL_TOKENS - 1) / PANEL_TOKENS;
    return pool_run(
        matmul->pool, product.row_tasks * token_tasks, few ? dot_task : panel_task, &product, err);
}
