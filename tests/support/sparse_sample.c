/* See sparse_sample.h. */
#include "tests/support/sparse_sample.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/container.h"
#include "formats/nbl.h"
#include "tests/support/testing.h"

enum { MAGNITUDES = 1 << 15 };

/* One row or part of one: its weights, whatever their type. */
struct line {
    uint8_t *codes;   /* or NULL */
    uint16_t *values; /* or NULL */
    uint32_t zero;    /* the code of the value 0 */
};

static uint32_t magnitude(const struct line *line, uint64_t col)
{
    if (line->values) return line->values[col] & 0x7FFFu;
    return line->codes[col] > line->zero ? line->codes[col] - line->zero : line->zero - line->codes[col];
}

static void remove_at(struct line *line, uint64_t col)
{
    if (line->values)
        line->values[col] = 0;
    else
        line->codes[col] = (uint8_t)line->zero;
}

static void prune_four(struct line *line, uint64_t col, uint64_t count)
{
    for (uint64_t left = count; left > 2; left--) {
        uint64_t least = col;
        for (uint64_t i = col; i < col + count; i++)
            if (magnitude(line, i) &&
                (!magnitude(line, least) || magnitude(line, i) < magnitude(line, least)))
                least = i;
        uint64_t there = 0;
        for (uint64_t i = col; i < col + count; i++)
            there += magnitude(line, i) != 0;
        if (there > 2) remove_at(line, least);
    }
}

/* The `wanted` smallest; of those that are as small as the largest of them, evenly spread ones. */
static void prune_row(struct line *line, uint64_t cols, uint64_t wanted)
{
    static uint64_t counts[MAGNITUDES];
    uint64_t below = 0, seen = 0;
    uint32_t level = 0;
    memset(counts, 0, sizeof counts);
    for (uint64_t i = 0; i < cols; i++)
        counts[magnitude(line, i)]++;
    for (; below + counts[level] < wanted; level++)
        below += counts[level];
    const uint64_t of_level = counts[level], more = wanted - below;
    for (uint64_t i = 0; i < cols; i++) {
        const uint32_t here = magnitude(line, i);
        if (here < level) remove_at(line, i);
        if (here != level) continue;
        if ((seen + 1) * more / of_level > seen * more / of_level) remove_at(line, i);
        seen++;
    }
}

void sparse_sample_prune(
    void *weights, uint64_t rows, uint64_t cols, uint32_t bits, enum mask mask, unsigned percent)
{
    for (uint64_t row = 0; row < rows; row++) {
        struct line line = {.zero = bits ? 1u << (bits - 1) : 0};
        if (bits)
            line.codes = (uint8_t *)weights + row * cols;
        else
            line.values = (uint16_t *)weights + row * cols;
        if (mask == MASK_BITMAP) {
            prune_row(&line, cols, cols * percent / 100);
            continue;
        }
        for (uint64_t col = 0; col < cols; col += 4)
            prune_four(&line, col, cols - col < 4 ? cols - col : 4);
    }
}

/* ---- a model ---- */

static bool is_pruned(const struct tensor *tensor)
{
    const struct scheme *scheme = &tensor->scheme;
    if (tensor->rank != 2 || strstr(tensor->name, "embed") || strstr(tensor->name, "lm_head")) return false;
    if (tensor->storage == STORAGE_DENSE) return tensor->dtype == DTYPE_F16 || tensor->dtype == DTYPE_BF16;
    return tensor->storage == STORAGE_TILES && !scheme->asymmetric &&
           (scheme->bits == 2 || scheme->bits == 4 || scheme->bits == 8);
}

/* Codes and scales of tiles, row by row. */
static void unpack(const struct tensor *tensor, uint8_t *codes, uint16_t *scales)
{
    struct tiles_layout layout;
    REQUIRE(tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, NULL) == OK, NULL);
    uint8_t *eight = memory_new(TILE_ROWS, layout.cols, NULL);
    REQUIRE(eight != NULL, NULL);
    for (uint64_t row = 0; row < layout.rows; row++) {
        const struct tile tile = tiles_at(&layout, tensor->data, row / TILE_ROWS);
        if (row % TILE_ROWS == 0) tiles_unpack(&layout, eight, tile.codes);
        memcpy(codes + row * layout.cols, eight + row % TILE_ROWS * layout.cols, layout.cols);
        for (uint64_t g = 0; g < layout.groups; g++)
            scales[row * layout.groups + g] = tile.scales[g * TILE_ROWS + row % TILE_ROWS];
    }
    memory_free(eight);
}

static struct tensor prune(const struct tensor *source, enum mask mask, unsigned percent)
{
    struct tensor out = *source;
    struct error err = {0};
    const bool codes = source->storage == STORAGE_TILES;
    const uint64_t groups = codes ? source->shape[1] / source->scheme.group : 0;
    void *weights = memory_new(source->elements, 2, NULL);
    uint16_t *scales = memory_new(source->shape[0] * groups, sizeof *scales, NULL);
    REQUIRE(weights && scales, NULL);
    out.storage = STORAGE_SPARSE;
    out.mask = mask;
    if (codes)
        unpack(source, weights, scales);
    else
        memcpy(weights, source->data, source->bytes);
    sparse_sample_prune(weights, source->shape[0], source->shape[1], source->scheme.bits, mask, percent);
    REQUIRE(sparse_make(&out, weights, codes ? scales : NULL, &err) == OK, &err);
    memory_free(weights);
    memory_free(scales);
    return out;
}

static void copy_documents(struct writer *writer, struct container *container)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json"};
    struct error err = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint64_t bytes;
        char *text;
        REQUIRE(container_document(container, names[i], &text, &bytes, &err) == OK, &err);
        if (text) REQUIRE(writer_document(writer, names[i], text, bytes, &err) == OK, &err);
        memory_free(text);
    }
}

void sparse_sample_model(const char *input, const char *output, enum mask mask, unsigned percent)
{
    struct container *container;
    struct writer *writer;
    struct error err = {0};
    REQUIRE(container_open(&container, input, &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    REQUIRE(nbl_writer_create(&writer, output, true, &err) == OK, &err);
    const uint64_t count = container_count(container);
    struct tensor *tensors = memory_new(count, sizeof *tensors, NULL);
    REQUIRE(tensors != NULL, NULL);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index;
        const struct tensor *source = container_tensor(container, i);
        tensors[i] = is_pruned(source) ? prune(source, mask, percent) : *source;
        REQUIRE(writer_add(writer, &tensors[i], &index, &err) == OK, &err);
    }
    for (uint64_t i = 0; i < container_alias_count(container); i++) {
        const char *alias, *target;
        container_alias(container, i, &alias, &target);
        REQUIRE(writer_alias(writer, alias, target, &err) == OK, &err);
    }
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (uint64_t i = 0; i < count; i++) {
        const struct tensor *tensor = &tensors[i];
        REQUIRE(writer_write(writer, i, 0, tensor->data, tensor->bytes, &err) == OK, &err);
        writer_checksum(writer, i, file_crc32(0, tensor->data, tensor->bytes));
        if (tensor->data != container_tensor(container, i)->data)
            memory_free((void *)(uintptr_t)tensor->data);
    }
    copy_documents(writer, container);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    memory_free(tensors);
    container_close(container);
}
