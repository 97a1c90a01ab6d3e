/* Sizes of tensors from their descriptions. Every multiplication is checked. */
#include "formats/measure.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "tensor/sparse.h"

char *measure_shape_text(char out[MEASURE_SHAPE_TEXT], uint32_t rank, const uint64_t *shape)
{
    size_t used = 0;

    out[used++] = '[';
    for (uint32_t i = 0; i < rank; i++) {
        const char *comma = i > 0 ? ", " : "";
        used += (size_t)snprintf(out + used, MEASURE_SHAPE_TEXT - used, "%s%" PRIu64, comma, shape[i]);
    }
    out[used++] = ']';
    out[used] = 0;
    return out;
}

enum status measure_shape(uint64_t *elements, uint32_t rank, const uint64_t *shape, struct error *err)
{
    uint64_t product = 1;
    bool empty = false, overflow = false;
    char text[MEASURE_SHAPE_TEXT];

    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] == 0)
            empty = true;
        else
            overflow |= checked_multiply(&product, product, shape[i]) || product > INT64_MAX;
    }
    if (overflow)
        return fail(
            err, ERR_FORMAT, "shape %s has 2^63 elements or more", measure_shape_text(text, rank, shape));
    *elements = empty ? 0 : product;
    return OK;
}

static enum status measure_dense(struct tensor *tensor, struct error *err)
{
    char text[MEASURE_SHAPE_TEXT];

    if (tensor->scheme.bits != 0 || tensor->scheme.group != 0 || tensor->scheme.asymmetric)
        return fail(err, ERR_FORMAT, "dense storage with a quantization scheme");
    if (checked_multiply(&tensor->bytes, tensor->elements, dtype_info(tensor->dtype)->bytes) ||
        tensor->bytes > INT64_MAX)
        return fail(err, ERR_FORMAT, "shape %s of %s has 2^63 bytes or more",
            measure_shape_text(text, tensor->rank, tensor->shape), dtype_info(tensor->dtype)->name);
    return OK;
}

static enum status measure_tiles(struct tensor *tensor, struct error *err)
{
    struct tiles_layout layout;
    enum status status;

    if (tensor->rank != 2)
        return fail(err, ERR_FORMAT, "tile storage of rank %" PRIu32 ", must be a matrix", tensor->rank);
    if (tensor->dtype != DTYPE_F16)
        return fail(err, ERR_FORMAT, "tile storage with scales of type %s, must be F16",
            dtype_info(tensor->dtype)->name);
    status = tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, err);
    if (status) return status;
    tensor->bytes = layout.bytes;
    return OK;
}

static enum status measure_blocks(struct tensor *tensor, struct error *err)
{
    const uint64_t cols = tensor->rank ? tensor->shape[tensor->rank - 1] : 1;
    const struct block_info *info;

    if (tensor->scheme.bits != 0 || tensor->scheme.group != 0 || tensor->scheme.asymmetric)
        return fail(err, ERR_FORMAT, "block storage with a quantization scheme");
    if (tensor->dtype != DTYPE_F32)
        return fail(
            err, ERR_FORMAT, "block storage of type %s, must be F32", dtype_info(tensor->dtype)->name);
    if (tensor->block <= BLOCK_NONE || tensor->block >= BLOCK_COUNT)
        return fail(err, ERR_FORMAT, "block type %u is unknown", (unsigned)tensor->block);
    info = block_info(tensor->block);
    if (cols % info->weights)
        return fail(err, ERR_FORMAT, "rows of %" PRIu64 " do not divide into %s blocks of %" PRIu32, cols,
            info->name, info->weights);
    tensor->bytes =
        tensor->elements / info->weights * info->bytes; /* fewer bytes than elements, or 17 / 16 */
    return OK;
}

static enum status measure_sparse(struct tensor *tensor, struct error *err)
{
    struct sparse_layout layout;
    enum status status = sparse_layout_of(&layout, tensor, err);

    if (!status) tensor->bytes = layout.bytes;
    return status;
}

enum status measure_tensor(struct tensor *tensor, struct error *err)
{
    enum status status;

    if (tensor->rank > TENSOR_RANK_LIMIT)
        return fail(err, ERR_FORMAT, "rank %" PRIu32 " is above %d", tensor->rank, TENSOR_RANK_LIMIT);
    if ((unsigned)tensor->dtype >= DTYPE_COUNT)
        return fail(err, ERR_FORMAT, "type %u is unknown", (unsigned)tensor->dtype);
    status = measure_shape(&tensor->elements, tensor->rank, tensor->shape, err);
    if (status) return status;
    if (tensor->storage != STORAGE_SPARSE && tensor->mask != MASK_NONE)
        return fail(err, ERR_FORMAT, "a mask without sparse storage");
    switch (tensor->storage) {
    case STORAGE_DENSE:
        return measure_dense(tensor, err);
    case STORAGE_TILES:
        return measure_tiles(tensor, err);
    case STORAGE_BLOCKS:
        return measure_blocks(tensor, err);
    case STORAGE_SPARSE:
        return measure_sparse(tensor, err);
    }
    return fail(err, ERR_FORMAT, "storage %u is unknown", (unsigned)tensor->storage);
}
