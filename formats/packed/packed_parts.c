/* See packed_parts.h. */
#include "formats/packed/packed_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/tiles.h"

#define ENDING ".weight"
#define EMBEDDING "model.embed_tokens.weight"

uint64_t packed_stem(const char *name)
{
    const uint64_t bytes = strlen(name), ending = strlen(ENDING);

    return bytes > ending && strcmp(name + bytes - ending, ENDING) == 0 ? bytes - ending : 0;
}

/* ---- planning ---- */

static enum status cannot(
    const struct packed_layout *layout, const struct tensor *tensor, const char *why, struct error *err)
{
    return fail(err, ERR_UNSUPPORTED,
        "tensor %s: %s cannot store %" PRIu32 " bits in groups of %" PRIu32 ": %s", tensor->name,
        layout->name, tensor->scheme.bits, tensor->scheme.group, why);
}

/* Of a line of codes, do the words have bits to spare? */
static bool is_ragged(uint64_t count, uint32_t bits)
{
    return count % 32 * bits % 32 != 0;
}

static enum status check(const struct packed_layout *layout, const struct tensor *tensor, struct error *err)
{
    const struct scheme *scheme = &tensor->scheme;
    const uint64_t rows = tensor->shape[0], cols = tensor->shape[1];
    const bool mlx = layout->biases;

    if (!packed_stem(tensor->name)) return cannot(layout, tensor, "its name does not end in " ENDING, err);
    if (!mlx && strcmp(tensor->name, EMBEDDING) == 0)
        return cannot(layout, tensor,
            "it is an embedding, which that format keeps (nibble-quantize --embedding keep)", err);
    if (!(layout->bits_mask >> scheme->bits & 1)) return cannot(layout, tensor, "it has no such width", err);
    if (mlx && scheme->group != 32 && scheme->group != 64 && scheme->group != 128)
        return cannot(layout, tensor, "its groups are of 32, 64 or 128", err);
    if (layout->shape) return OK;
    if (is_ragged(layout->code_plane.along_rows ? rows : cols, scheme->bits) ||
        (!mlx && is_ragged(layout->zero_plane.along_rows ? rows : cols, scheme->bits)))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: %s cannot store %" PRIu64 " x %" PRIu64 " weights of %" PRIu32
            " bits: rows and columns must fill words of 32 bits",
            tensor->name, layout->name, rows, cols, scheme->bits);
    return OK;
}

static void add_part(struct packed_parts *out, const char *suffix, const char *type, uint32_t element_bytes,
    uint64_t first, uint64_t second)
{
    /* second 0: rank 1. A tensor of tiles is smaller than 2^63 bytes, and its parts add a small factor to a small share of it. */
    out->list[out->count++] = (struct packed_part){suffix, type, element_bytes, second ? 2 : 1,
        {first, second}, first * (second ? second : 1) * element_bytes};
}

static void add_plane(struct packed_parts *out, const char *suffix, const char *type,
    struct packed_plane plane, uint64_t rows, uint64_t width, uint32_t bits)
{
    const uint64_t words = packed_words(plane.along_rows ? rows : width, bits);
    const uint64_t lines = plane.along_rows ? width : rows;

    add_part(out, suffix, type, 4, plane.words_first ? words : lines, plane.words_first ? lines : words);
}

enum status packed_parts_plan(
    struct packed_parts *out, enum packed_kind kind, const struct tensor *tensor, struct error *err)
{
    const struct packed_layout *layout = packed_layout(kind);
    const uint64_t rows = tensor->shape[0], cols = tensor->shape[1], groups = cols / tensor->scheme.group;
    const uint32_t bits = tensor->scheme.bits;
    const bool first = layout->scales_first;
    enum status status = check(layout, tensor, err);

    *out = (struct packed_parts){0};
    if (status) return status;
    add_plane(out, layout->codes, layout->biases ? "U32" : "I32", layout->code_plane, rows, cols, bits);
    add_part(out, layout->scales, "F16", 2, first ? groups : rows, first ? rows : groups);
    if (layout->biases)
        add_part(out, layout->zeros, "F16", 2, rows, groups);
    else if (layout->always_zeros || tensor->scheme.asymmetric)
        add_plane(out, layout->zeros, "I32", layout->zero_plane, rows, groups, bits);
    if (layout->always_order) add_part(out, layout->order, "I32", 4, cols, 0);
    if (layout->shape) add_part(out, layout->shape, "I64", 8, 2, 0);
    return OK;
}

/* ---- filling ---- */

/* A matrix of tiles taken apart. */
struct matrix {
    const struct packed_layout *layout;
    const struct tensor *tensor;
    struct tiles_layout tiles;
    uint8_t *codes;   /* [tiles * 8][cols] */
    uint16_t *scales; /* [tiles * 8][groups] */
    uint8_t *zeros;   /* [tiles * 8][groups] */
};

static enum status take_apart(struct matrix *matrix, const void *bytes, struct error *err)
{
    const struct tiles_layout *tiles = &matrix->tiles;
    const uint64_t rows = tiles->tiles * TILE_ROWS, groups = tiles->groups;

    matrix->codes = memory_new(rows * tiles->cols, 1, err);
    matrix->scales = memory_new(rows * groups, sizeof *matrix->scales, err);
    matrix->zeros = memory_new(rows * groups, 1, err);
    if (!matrix->codes || !matrix->scales || !matrix->zeros) return ERR_MEMORY;
    for (uint64_t i = 0; i < tiles->tiles; i++) {
        const struct tile tile = tiles_at(tiles, bytes, i);
        tiles_unpack(tiles, matrix->codes + i * TILE_ROWS * tiles->cols, tile.codes);
        for (uint64_t at = 0; at < groups * TILE_ROWS; at++) {
            const uint64_t to = (i * TILE_ROWS + at % TILE_ROWS) * groups + at / TILE_ROWS;
            matrix->scales[to] = tile.scales[at];
            matrix->zeros[to] = tile.zeros ? tile.zeros[at] : (uint8_t)(1u << (tiles->bits - 1));
        }
    }
    return OK;
}

static void fill_plane(const struct matrix *matrix, struct packed_plane plane, uint32_t *words,
    const uint8_t *codes, uint64_t width)
{
    const uint64_t rows = matrix->tiles.rows, lines = plane.along_rows ? width : rows;
    const uint64_t length = plane.along_rows ? rows : width;
    const uint64_t line_words = packed_words(length, matrix->tiles.bits);

    for (uint64_t i = 0; i < lines; i++)
        packed_put(plane.words_first ? words + i : words + i * line_words, plane.words_first ? lines : 1,
            plane.along_rows ? codes + i : codes + i * width, plane.along_rows ? width : 1, length,
            matrix->tiles.bits, matrix->layout->interleaved);
}

static enum status fill_biases(const struct matrix *matrix, uint16_t *out, struct error *err)
{
    const uint64_t groups = matrix->tiles.groups;

    for (uint64_t i = 0; i < matrix->tiles.rows * groups; i++) {
        const float bias = -(dtype_f16_to_f32(matrix->scales[i]) * (float)matrix->zeros[i]);
        out[i] = dtype_f32_to_f16(bias);
        if (!isfinite(dtype_f16_to_f32(out[i])))
            return fail(err, ERR_NUMERIC,
                "tensor %s: row %" PRIu64 ", group %" PRIu64 ": the bias %g does not fit half precision",
                matrix->tensor->name, i / groups, i % groups, (double)bias);
    }
    return OK;
}

static enum status fill_zeros(const struct matrix *matrix, void *out, struct error *err)
{
    const uint64_t groups = matrix->tiles.groups;
    const uint32_t less = matrix->layout->zero_less;

    if (matrix->layout->biases) return fill_biases(matrix, out, err);
    for (uint64_t i = 0; i < matrix->tiles.rows * groups; i++) {
        if (matrix->zeros[i] < less)
            return fail(err, ERR_UNSUPPORTED,
                "tensor %s: row %" PRIu64 ", group %" PRIu64
                " has the zero-point 0, which gptq (v1) cannot store; --format gptq-v2 can",
                matrix->tensor->name, i / groups, i % groups);
        matrix->zeros[i] = (uint8_t)(matrix->zeros[i] - less);
    }
    fill_plane(matrix, matrix->layout->zero_plane, out, matrix->zeros, groups);
    return OK;
}

static void fill_scales(const struct matrix *matrix, uint16_t *out)
{
    const uint64_t rows = matrix->tiles.rows, groups = matrix->tiles.groups;

    for (uint64_t i = 0; i < rows * groups; i++)
        out[matrix->layout->scales_first ? i % groups * rows + i / groups : i] = matrix->scales[i];
}

enum status packed_parts_fill(void *const bytes[PACKED_PARTS_MOST], const struct packed_parts *parts,
    enum packed_kind kind, const struct tensor *tensor, const void *tiles, struct error *err)
{
    struct matrix matrix = {.layout = packed_layout(kind), .tensor = tensor};
    enum status status = tiles_layout(&matrix.tiles, tensor->shape[0], tensor->shape[1], tensor->scheme, err);

    if (!status) status = take_apart(&matrix, tiles, err);
    if (!status) fill_plane(&matrix, matrix.layout->code_plane, bytes[0], matrix.codes, matrix.tiles.cols);
    if (!status) fill_scales(&matrix, bytes[1]);
    for (unsigned i = 2; i < parts->count && !status; i++) {
        if (parts->list[i].suffix == matrix.layout->zeros) {
            status = fill_zeros(&matrix, bytes[i], err);
        } else if (parts->list[i].suffix == matrix.layout->order) {
            for (uint64_t col = 0; col < matrix.tiles.cols; col++)
                ((int32_t *)bytes[i])[col] = (int32_t)(col / matrix.tiles.group);
        } else {
            memcpy(bytes[i], (const int64_t[]){(int64_t)matrix.tiles.rows, (int64_t)matrix.tiles.cols}, 16);
        }
    }
    memory_free(matrix.zeros);
    memory_free(matrix.scales);
    memory_free(matrix.codes);
    return status;
}
