/* Embeddings of the samples, read row by row: the matrix of a large vocabulary is larger than a layer. A row, or the
 * tile that a quantized row lies in, is made a little matrix of its own, which the backend decodes like any other. */
#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "formats/sparse_part.h"
#include "model/walk_parts.h"

struct rows {
    struct container *container;
    const struct tensor *matrix;
    struct tensor unit; /* one row of a matrix of elements or blocks, one tile of a quantized one */
    uint8_t *bytes;     /* unit.data */
    float scale;        /* of embeddings */
    struct tiles_layout of_matrix, of_unit;
    struct sparse_layout sparse; /* of a sparse matrix, whose units are eight rows of floats */
    uint8_t *part, *scratch;     /* of it: what is read, and what it is decoded with; NULL */
};

static enum status open_rows(
    struct rows *rows, struct checkpoint *input, const struct tensor *matrix, float scale, struct error *err)
{
    uint64_t cols = matrix->shape[1];
    enum status status = OK;

    *rows = (struct rows){.container = input->container, .matrix = matrix, .unit = *matrix, .scale = scale};
    rows->unit.shape[0] = 1;
    rows->unit.bytes = cols * dtype_info(matrix->dtype)->bytes;
    if (matrix->storage == STORAGE_TILES) {
        rows->unit.shape[0] = TILE_ROWS;
        status = tiles_layout(&rows->of_matrix, matrix->shape[0], cols, matrix->scheme, err);
        if (!status) status = tiles_layout(&rows->of_unit, TILE_ROWS, cols, matrix->scheme, err);
        if (status) return status;
        rows->unit.bytes = rows->of_unit.bytes;
    } else if (matrix->storage == STORAGE_SPARSE) {
        status = sparse_layout_of(&rows->sparse, matrix, err);
        if (status) return status;
        rows->unit =
            (struct tensor){.name = matrix->name, .dtype = DTYPE_F32, .rank = 2, .shape = {TILE_ROWS, cols}};
        rows->unit.bytes = TILE_ROWS * cols * sizeof(float);
        rows->part = memory_new(sparse_part_bytes(&rows->sparse, TILE_ROWS), 1, err);
        rows->scratch = memory_new(sparse_scratch(&rows->sparse), 1, err);
        if (!rows->part || !rows->scratch) return ERR_MEMORY;
    } else if (matrix->storage == STORAGE_BLOCKS) {
        rows->unit.bytes = cols / block_info(matrix->block)->weights * block_info(matrix->block)->bytes;
    }
    rows->unit.elements = rows->unit.shape[0] * cols;
    rows->unit.data = rows->bytes = memory_new(rows->unit.bytes, 1, err);
    return rows->bytes ? OK : ERR_MEMORY;
}

static void free_rows(struct rows *rows)
{
    memory_free(rows->bytes);
    memory_free(rows->part);
    memory_free(rows->scratch);
}

static enum status read_tile(struct rows *rows, uint64_t tile, struct error *err)
{
    const struct tiles_layout *from = &rows->of_matrix, *to = &rows->of_unit;
    enum status status = container_read(
        rows->container, rows->matrix, tile * from->tile_code_bytes, rows->bytes, from->tile_code_bytes, err);

    if (!status)
        status =
            container_read(rows->container, rows->matrix, from->scales_offset + tile * from->tile_scale_bytes,
                rows->bytes + to->scales_offset, from->tile_scale_bytes, err);
    if (!status && from->asymmetric)
        status =
            container_read(rows->container, rows->matrix, from->zeros_offset + tile * from->tile_zero_bytes,
                rows->bytes + to->zeros_offset, from->tile_zero_bytes, err);
    return status;
}

static enum status read_sparse(struct rows *rows, uint64_t tile, struct error *err)
{
    const uint64_t left = rows->matrix->shape[0] - tile * TILE_ROWS,
                   count = left < TILE_ROWS ? left : TILE_ROWS;
    struct sparse_layout part;
    enum status status = sparse_part_read(
        &part, rows->container, rows->matrix, &rows->sparse, tile * TILE_ROWS, count, rows->part, err);

    if (status) return status;
    return sparse_decode(
        &part, (float *)(void *)rows->bytes, rows->unit.shape[1], rows->part, 0, count, rows->scratch, err);
}

static enum status read_row(
    struct rows *rows, const struct backend *backend, float *out, uint32_t id, struct error *err)
{
    uint32_t within = id % (uint32_t)rows->unit.shape[0];
    enum status status;

    if (rows->matrix->storage == STORAGE_TILES)
        status = read_tile(rows, id / TILE_ROWS, err);
    else if (rows->matrix->storage == STORAGE_SPARSE)
        status = read_sparse(rows, id / TILE_ROWS, err);
    else
        status = container_read(
            rows->container, rows->matrix, id * rows->unit.bytes, rows->bytes, rows->unit.bytes, err);
    return status ? status : backend->embed(backend->state, out, &within, 1, &rows->unit, rows->scale, err);
}

static enum status embed_sample(struct walk *walk, struct rows *rows, struct rows *positions, uint64_t sample,
    float *out, struct error *err)
{
    const uint32_t *tokens = walk->calibration->tokens + sample * walk->length;
    uint64_t hidden = walk->config->hidden;
    enum status status = OK;

    for (uint64_t i = 0; i < walk->calibration->lengths[sample] && !status; i++) {
        if (tokens[i] >= walk->config->vocabulary)
            return fail(err, ERR_FORMAT,
                "token %" PRIu64 " of sample %" PRIu64 " is %" PRIu32 ", the vocabulary has %" PRIu32, i,
                sample, tokens[i], walk->config->vocabulary);
        status = read_row(rows, &walk->backend, out + i * hidden, tokens[i], err);
        if (!status && positions->matrix)
            status = read_row(positions, &walk->backend, walk->normed, (uint32_t)i, err);
        for (uint64_t j = 0; j < hidden && !status && positions->matrix; j++)
            out[i * hidden + j] += walk->normed[j];
    }
    return status;
}

/* One block into x and from there into every stream. */
static enum status embed_block(struct walk *walk, struct rows *rows, struct rows *positions,
    const struct walk_block *block, struct error *err)
{
    uint64_t hidden = walk->config->hidden;
    float *x = walk->streams[STREAM_CURRENT].x;
    enum status status = OK;

    for (uint64_t i = 0; i < block->tokens * hidden; i++)
        x[i] = 0;
    for (uint64_t i = 0; i < block->samples && !status; i++)
        status =
            embed_sample(walk, rows, positions, block->first_sample + i, x + i * walk->length * hidden, err);
    if (status) return status;
    status = walk_check(walk, block, x, hidden, err);
    if (status) return fail_within(err, status, "embedding");
    for (unsigned i = 0; i < walk->stream_count && !status; i++)
        status = walk_write(walk->streams[i].start, block, hidden, x, err);
    return status;
}

enum status walk_embed(struct walk *walk, struct checkpoint *input, struct error *err)
{
    struct walk_block block = {0};
    struct rows rows, positions = {0};
    enum status status =
        open_rows(&rows, input, input->tensors.once[ROLE_EMBEDDING], input->config.embedding_scale, err);

    if (!status && input->tensors.once[ROLE_POSITIONS])
        status = open_rows(&positions, input, input->tensors.once[ROLE_POSITIONS], 1, err);

    while (!status && walk_next_block(walk, &block))
        status = embed_block(walk, &rows, &positions, &block, err);
    free_rows(&rows);
    free_rows(&positions);
    return status;
}
