/* The error of scale vectors, in tasks of (vector, panel of rows). With d the panel's rounding differences, the sum of
 * d H d^T needs only one triangle of the symmetric H: T is its upper triangle with everything off the diagonal
 * doubled, d H d^T = d T d^T, and a block of T's columns ends at the diagonal, which halves the products. */
#include "quantize/awq_error.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "tensor/block_fit.h"
#include "tensor/linalg.h"

enum {
    PANEL = 128,    /* rows in a task */
    BLOCK = 256,    /* columns of T in a product */
    CODE_BYTES = 2, /* for a column: more than any block takes */
    LANES = 8       /* independent sums: the order of additions is fixed, and they vectorize */
};

/* One worker's memory. */
struct scratch {
    float *difference; /* [PANEL][cols] */
    float *product;    /* [PANEL][BLOCK] */
    float *scaled;     /* [cols] one row of w s */
    float *inverse;    /* [cols] 1 / s */
    float *importance; /* [cols] diag(H) / s^2 */
    uint8_t *codes;    /* [CODE_BYTES cols] the codes, or the blocks, of one row */
};

struct awq_error {
    const struct awq_matrix *matrices;
    uint64_t count, cols;
    struct pool *pool;
    const struct hessian *hessian;
    double unit; /* the greatest of H's diagonal: what single precision holds is relative to it */
    float *
        triangle; /* T, block after block of columns: [rows down to the diagonal's end][BLOCK], as block_of says */
    float *diagonal;         /* [cols] */
    struct scratch *scratch; /* [workers] */
    float *floats;           /* of all workers */
    uint8_t *codes;
};

/* ---- the triangle ---- */

struct block {
    uint64_t begin, width, depth; /* columns begin .. begin + width, rows 0 .. depth */
    uint64_t at;                  /* in `triangle` */
};

static uint64_t block_count(uint64_t cols)
{
    return (cols + BLOCK - 1) / BLOCK;
}

/* All blocks before the last are BLOCK wide, and block i is (i + 1) * BLOCK deep. */
static struct block block_of(uint64_t cols, uint64_t index)
{
    struct block block = {.begin = index * BLOCK, .at = index * (index + 1) / 2 * BLOCK * BLOCK};
    block.width = cols - block.begin < BLOCK ? cols - block.begin : BLOCK;
    block.depth = block.begin + block.width;
    return block;
}

static enum status fill_block(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct awq_error *error = context;
    struct block block = block_of(error->cols, index);
    (void)worker, (void)err;
    for (uint64_t row = 0; row < block.depth; row++) {
        const double *from = error->hessian->second + row * error->cols;
        float *to = error->triangle + block.at + row * block.width;
        for (uint64_t i = 0; i < block.width; i++) {
            uint64_t col = block.begin + i;
            double factor = row < col ? 2 : row == col;
            to[i] = factor == 0 ? 0 : (float)(factor * from[col] / error->unit);
        }
    }
    return OK;
}

static void fill_diagonal(struct awq_error *error)
{
    const double *second = error->hessian->second;
    error->unit = 0;
    for (uint64_t col = 0; col < error->cols; col++)
        error->unit = fmax(error->unit, second[col * error->cols + col]);
    if (error->unit == 0) error->unit = 1; /* every channel is dead */
    for (uint64_t col = 0; col < error->cols; col++)
        error->diagonal[col] = (float)(second[col * error->cols + col] / error->unit);
}

/* ---- life ---- */

/* Hand out one worker's part of the shared arrays. */
static struct scratch scratch_of(const struct awq_error *error, uint64_t worker)
{
    uint64_t cols = error->cols;
    struct scratch scratch = {.codes = error->codes + worker * CODE_BYTES * cols};
    scratch.difference = error->floats + worker * ((PANEL + 3) * cols + PANEL * BLOCK);
    scratch.product = scratch.difference + PANEL * cols;
    scratch.scaled = scratch.product + PANEL * BLOCK;
    scratch.inverse = scratch.scaled + cols;
    scratch.importance = scratch.inverse + cols;
    return scratch;
}

static enum status allocate(struct awq_error *error, struct error *err)
{
    uint64_t cols = error->cols, workers = pool_workers(error->pool);
    struct block last = block_of(cols, block_count(cols) - 1);
    error->triangle = memory_new(last.at + last.depth * last.width, sizeof *error->triangle, err);
    error->diagonal = error->triangle ? memory_new(cols, sizeof *error->diagonal, err) : NULL;
    error->scratch = error->diagonal ? memory_new(workers, sizeof *error->scratch, err) : NULL;
    error->codes = error->scratch ? memory_new(workers * cols, CODE_BYTES, err) : NULL;
    error->floats =
        error->codes ? memory_new(workers, ((PANEL + 3) * cols + PANEL * BLOCK) * sizeof(float), err) : NULL;
    for (uint64_t worker = 0; error->floats && worker < workers; worker++)
        error->scratch[worker] = scratch_of(error, worker);
    return error->floats ? OK : ERR_MEMORY;
}

enum status awq_error_create(struct awq_error **out, const struct awq_matrix *matrices, uint64_t count,
    const struct hessian *hessian, struct pool *pool, struct error *err)
{
    struct awq_error *error = *out = memory_new(1, sizeof *error, err);
    if (!error) return ERR_MEMORY;
    error->matrices = matrices;
    error->count = count;
    error->cols = hessian->cols;
    error->pool = pool;
    error->hessian = hessian;
    enum status status = allocate(error, err);
    if (status == OK) {
        fill_diagonal(error);
        status = pool_run(pool, block_count(error->cols), fill_block, error, err);
    }
    if (status != OK) {
        awq_error_free(error);
        *out = NULL;
    }
    return status;
}

void awq_error_free(struct awq_error *error)
{
    if (!error) return;
    memory_free(error->triangle);
    memory_free(error->diagonal);
    memory_free(error->scratch);
    memory_free(error->codes);
    memory_free(error->floats);
    memory_free(error);
}

/* ---- which rows ---- */

static uint64_t stride_of(uint64_t rows, bool every_row)
{
    return every_row || rows == 0 ? 1 : (rows + AWQ_ROWS_SEEN - 1) / AWQ_ROWS_SEEN;
}

static uint64_t panels_of(uint64_t rows, bool every_row)
{
    uint64_t stride = stride_of(rows, every_row), seen = (rows + stride - 1) / stride;
    return (seen + PANEL - 1) / PANEL;
}

bool awq_error_is_sampled(const struct awq_error *error)
{
    bool sampled = false;
    for (uint64_t i = 0; i < error->count; i++)
        sampled |= error->matrices[i].rows > AWQ_ROWS_SEEN;
    return sampled;
}

/* ---- one panel ---- */

/* What one call of awq_error_measure works on. */
struct measurement {
    const struct awq_error *error;
    const float *scales;
    bool every_row;
    uint64_t panels; /* per vector */
    double *sums;    /* [vectors][panels] */
};

static void prepare(struct scratch *scratch, const struct awq_error *error, const float *scales)
{
    for (uint64_t col = 0; col < error->cols; col++) {
        float inverse = scratch->inverse[col] = 1 / scales[col];
        scratch->importance[col] = error->diagonal[col] * inverse * inverse;
    }
}

/* out = Q(scratch->scaled), by a scheme or into blocks; false if a group or a block does not fit. */
static bool round_by_scheme(
    float *out, const struct scratch *scratch, const struct awq_matrix *matrix, uint64_t cols)
{
    struct scheme scheme = matrix->scheme;
    for (uint64_t at = 0; at < cols; at += scheme.group) {
        struct grid grid;
        if (!grid_fit(&grid, scratch->scaled + at, scratch->importance + at, scheme.group, scheme.bits,
                scheme.asymmetric, matrix->range))
            return false;
        grid_encode(scratch->codes + at, scratch->scaled + at, scheme.group, grid, scheme.bits);
        grid_decode(out + at, scratch->codes + at, scheme.group, grid);
    }
    return true;
}

static bool round_into_blocks(
    float *out, const struct scratch *scratch, const struct awq_matrix *matrix, uint64_t cols)
{
    uint64_t row, col;
    if (!block_fit_rows(
            scratch->codes, matrix->block, scratch->scaled, 1, cols, scratch->importance, &row, &col))
        return false;
    blocks_decode(out, matrix->block, scratch->codes, 0, cols);
    return true;
}

/* difference = Q(w s)/s - w; false if it does not fit. */
static bool round_row(float *difference, const struct scratch *scratch, const struct awq_matrix *matrix,
    const float *weights, const float *scales, uint64_t cols)
{
    for (uint64_t col = 0; col < cols; col++)
        scratch->scaled[col] = weights[col] * scales[col];
    if (!(matrix->block ? round_into_blocks : round_by_scheme)(difference, scratch, matrix, cols))
        return false;
    for (uint64_t col = 0; col < cols; col++)
        difference[col] = difference[col] * scratch->inverse[col] - weights[col];
    return true;
}

/* Add the products of `width` neighbours of a row. */
static void add_products(double sums[LANES], const float *a, const float *b, uint64_t width)
{
    uint64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        for (uint64_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)a[i + lane] * b[i + lane];
    }
    for (; i < width; i++)
        sums[i % LANES] += (double)a[i] * b[i];
}

/* The sum of d T d^T over the panel's rows. */
static double panel_sum(const struct awq_error *error, const struct scratch *scratch, uint64_t rows)
{
    double sums[LANES] = {0}, sum = 0;
    for (uint64_t index = 0; index < block_count(error->cols); index++) {
        struct block block = block_of(error->cols, index);
        linalg_gemm_nn(rows, block.width, block.depth, 1, scratch->difference, error->cols,
            error->triangle + block.at, block.width, 0, scratch->product, block.width);
        for (uint64_t row = 0; row < rows; row++)
            add_products(sums, scratch->product + row * block.width,
                scratch->difference + row * error->cols + block.begin, block.width);
    }
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* Panel `index` of a vector: panels of the matrices, one matrix after another. */
static enum status measure_panel(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct measurement *measurement = context;
    const struct awq_error *error = measurement->error;
    const struct awq_matrix *matrix = error->matrices;
    const float *scales = measurement->scales + index / measurement->panels * error->cols;
    struct scratch *scratch = &error->scratch[worker];
    uint64_t panel = index % measurement->panels, rows = 0;
    (void)err;

    for (; panel >= panels_of(matrix->rows, measurement->every_row); matrix++)
        panel -= panels_of(matrix->rows, measurement->every_row);
    prepare(scratch, error, scales);
    uint64_t stride = stride_of(matrix->rows, measurement->every_row);
    for (uint64_t row = panel * PANEL * stride; rows < PANEL && row < matrix->rows; row += stride, rows++) {
        if (!round_row(scratch->difference + rows * error->cols, scratch, matrix,
                matrix->weights + row * error->cols, scales, error->cols)) {
            measurement->sums[index] = INFINITY;
            return OK;
        }
    }
    measurement->sums[index] = panel_sum(error, scratch, rows);
    return OK;
}

enum status awq_error_measure(struct awq_error *error, double *errors, const float *scales, uint64_t vectors,
    bool every_row, struct error *err)
{
    struct measurement measurement = {.error = error, .scales = scales, .every_row = every_row};
    for (uint64_t i = 0; i < error->count; i++)
        measurement.panels += panels_of(error->matrices[i].rows, every_row);
    measurement.sums = memory_new(vectors * measurement.panels, sizeof *measurement.sums, err);
    if (!measurement.sums) return ERR_MEMORY;

    enum status status =
        pool_run(error->pool, vectors * measurement.panels, measure_panel, &measurement, err);
    for (uint64_t v = 0; status == OK && v < vectors; v++) {
        errors[v] = 0;
        for (uint64_t panel = 0; panel < measurement.panels; panel++)
            errors[v] += measurement.sums[v * measurement.panels + panel];
    }
    memory_free(measurement.sums);
    return status;
}

/* ---- faults ---- */

/* The first stretch that does not fit. */
static enum status group_fault(const struct awq_matrix *matrix, uint64_t cols, struct error *err)
{
    uint64_t group = matrix->scheme.group, groups = cols / group;
    for (uint64_t at = 0; at < matrix->rows * groups; at++) {
        struct grid grid;
        if (!grid_fit(&grid, matrix->weights + at * group, NULL, group, matrix->scheme.bits,
                matrix->scheme.asymmetric, GRID_MINMAX))
            return fail(err, ERR_NUMERIC,
                "tensor %s: row %" PRIu64 ", columns from %" PRIu64
                ": a weight is not finite, or its scale does not fit half precision",
                matrix->name, at / groups, at % groups * group);
    }
    return OK;
}

static enum status block_fault(
    const struct awq_matrix *matrix, const struct scratch *scratch, uint64_t cols, struct error *err)
{
    for (uint64_t at = 0; at < matrix->rows; at++) {
        uint64_t row, col;
        if (!block_fit_rows(
                scratch->codes, matrix->block, matrix->weights + at * cols, 1, cols, NULL, &row, &col))
            return fail(err, ERR_NUMERIC,
                "tensor %s: row %" PRIu64 ", column %" PRIu64
                ": the weight is not finite, or its scale does not fit half precision",
                matrix->name, at, col);
    }
    return OK;
}

enum status awq_error_fault(const struct awq_error *error, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; status == OK && i < error->count; i++) {
        const struct awq_matrix *matrix = &error->matrices[i];
        status = matrix->block ? block_fault(matrix, &error->scratch[0], error->cols, err)
                               : group_fault(matrix, error->cols, err);
    }
    return status == OK ? fail(err, ERR_NUMERIC, "the output error of rounding is not finite") : status;
}
