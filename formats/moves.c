/* Planning a transfer. What a chunk is depends on shapes alone, never on the number of workers. */
#include "formats/moves.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/measure.h"
#include "tensor/tile_blocks.h"

#define CHUNK_ELEMENTS (UINT64_C(1) << 18) /* a worker's buffers are then about 3 MB: stay in the cache */
#define CHUNK_BYTES (UINT64_C(1) << 20)    /* where bytes are not converted */
#define PANEL_LIMIT_BYTES (UINT64_C(256) << 20) /* 8 rows of floats */

/* ---- planning ---- */

static bool is_float(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_DENSE && dtype_info(tensor->dtype)->is_float;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

static bool same_storage(const struct tensor *a, const struct tensor *b)
{
    return a->storage == b->storage && a->block == b->block && a->mask == b->mask && a->dtype == b->dtype &&
           a->scheme.bits == b->scheme.bits && a->scheme.group == b->scheme.group &&
           a->scheme.asymmetric == b->scheme.asymmetric;
}

uint64_t moves_chunks(const struct move *move)
{
    return move->units / move->chunk_units + (move->units % move->chunk_units != 0);
}

uint64_t moves_units(const struct move *move, uint64_t chunk)
{
    uint64_t left = move->units - chunk * move->chunk_units;

    return left < move->chunk_units ? left : move->chunk_units;
}

static void plan_units(struct move *move, uint64_t units, uint64_t chunk_units)
{
    move->units = units;
    move->chunk_units = chunk_units;
}

/* Whole tiles of rows, about CHUNK_ELEMENTS in all. `by` is the side that says what a row is. */
static enum status plan_rows(struct move *move, const struct tensor *by, struct error *err)
{
    const struct tensor *sides[] = {move->source, &move->target};
    uint64_t cols = by->shape[1], rows;
    enum status status = OK;

    for (int side = 0; side < 2 && !status; side++) {
        const struct tensor *tensor = sides[side];
        if (tensor->storage == STORAGE_TILES)
            status =
                tiles_layout(&move->layout[side], tensor->shape[0], tensor->shape[1], tensor->scheme, err);
        if (!status && tensor->storage == STORAGE_SPARSE)
            status = sparse_layout_of(&move->sparse, tensor, err);
    }
    if (status) return status;
    if (cols > PANEL_LIMIT_BYTES / (TILE_ROWS * sizeof(float)))
        return fail(err, ERR_MEMORY,
            "rows of %" PRIu64 " columns are too long: %d of them exceed %" PRIu64 " bytes", cols, TILE_ROWS,
            PANEL_LIMIT_BYTES);
    move->kind = MOVE_ROWS;
    move->cols = cols;
    rows = cols ? CHUNK_ELEMENTS / cols / TILE_ROWS * TILE_ROWS : 0;
    plan_units(move, by->shape[0], rows > 0 ? rows : TILE_ROWS);
    return OK;
}

static const char *type_name(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_BLOCKS ? block_info(tensor->block)->name
                                             : dtype_info(tensor->dtype)->name;
}

static const char *kind_name(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_TILES ? " tiles" : tensor->storage == STORAGE_SPARSE ? " sparse" : "";
}

static enum status impossible(const struct move *move, struct error *err)
{
    const struct tensor *source = move->source, *target = &move->target;
    char from[MEASURE_SHAPE_TEXT], to[MEASURE_SHAPE_TEXT];

    return fail(err, ERR_UNSUPPORTED, "%s%s %s cannot become %s%s %s", type_name(source), kind_name(source),
        measure_shape_text(from, source->rank, source->shape), type_name(target), kind_name(target),
        measure_shape_text(to, target->rank, target->shape));
}

/* Dense floats, or what decodes to floats in rows that both sides have. */
static bool can_be_encoded(const struct tensor *source, const struct tensor *target)
{
    if (target->storage == STORAGE_DENSE || target->storage == STORAGE_SPARSE || target->rank != 2)
        return false;
    return is_float(source) || (source->storage != STORAGE_DENSE && same_shape(source, target));
}

/* Tiles, or what spreads to tiles, that say what the blocks or tiles wanted say. */
static bool are_the_same(const struct tensor *source, const struct tensor *target)
{
    const bool sparse = source->storage == STORAGE_SPARSE && source->scheme.bits;

    if ((source->storage != STORAGE_TILES && !sparse) || !same_shape(source, target)) return false;
    if (target->storage == STORAGE_BLOCKS)
        return target->block == tile_blocks_type(source->scheme, source->shape[1]);
    return target->storage == STORAGE_TILES && source->scheme.bits == target->scheme.bits &&
           source->scheme.group == target->scheme.group && !target->scheme.asymmetric;
}

/* Elements of a chunk that cuts no row. A row of a matrix that is too long for one is a chunk. */
static uint64_t whole_rows(const struct tensor *tensor)
{
    uint64_t cols = tensor->rank == 2 && tensor->shape[1] ? tensor->shape[1] : 1;

    return cols > CHUNK_ELEMENTS ? cols : CHUNK_ELEMENTS / cols * cols;
}

/* How a tensor moves, and in what chunks. */
static enum status plan_move(struct move *move, struct error *err)
{
    const struct tensor *source = move->source, *target = &move->target;
    enum status status;

    if (target->storage == STORAGE_SPARSE) move->target.bytes = source->bytes; /* only a copy has them */
    status = measure_tensor(&move->target, err);
    if (status) return status;
    if (source->elements != target->elements) return impossible(move, err);
    if (same_storage(source, target) && !(move->item->patch && is_float(source))) {
        if (source->storage != STORAGE_DENSE && !same_shape(source, target)) return impossible(move, err);
        move->kind = MOVE_COPY;
        plan_units(move, source->bytes, CHUNK_BYTES);
        return OK;
    }
    if (is_float(source) && is_float(target)) {
        move->kind = MOVE_CAST;
        plan_units(move, source->elements, CHUNK_ELEMENTS);
        if (move->item->patch) move->chunk_units = whole_rows(source);
        return OK;
    }
    if (move->item->encode ? can_be_encoded(source, target) : are_the_same(source, target))
        return plan_rows(move, target, err);
    if ((source->storage == STORAGE_TILES || source->storage == STORAGE_SPARSE) && is_float(target))
        return plan_rows(move, source, err);
    if (source->storage == STORAGE_BLOCKS && is_float(target)) {
        const uint32_t weights = block_info(source->block)->weights;
        move->kind = MOVE_DECODE;
        plan_units(move, source->elements / weights, CHUNK_ELEMENTS / weights);
        return OK;
    }
    return impossible(move, err);
}

/* A writer that wants rows interleaved gets whole heads at a time. */
static enum status plan_heads(struct move *move, uint64_t head, struct error *err)
{
    const struct tensor *target = &move->target;
    uint64_t step = head, least;

    move->head = target->bytes ? head : 0;
    if (!move->head) return OK;
    if (target->storage == STORAGE_TILES || target->storage == STORAGE_SPARSE || target->rank < 1 ||
        target->rank > 2 || target->shape[0] % head || head % 2)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: its rows cannot be interleaved in heads of %" PRIu64 " rows", target->name, head);
    if (moves_in_parts(move, MOVE_SOURCE) || moves_is_sparse(move))
        while (step % TILE_ROWS)
            step += head;
    least = move->units / target->shape[0] * step;
    if (target->shape[0] > PANEL_LIMIT_BYTES || moves_row_bytes(target) > PANEL_LIMIT_BYTES / step)
        return fail(err, ERR_MEMORY, "tensor %s: a head of %" PRIu64 " rows exceeds %" PRIu64 " bytes",
            target->name, head, PANEL_LIMIT_BYTES);
    move->chunk_units = move->chunk_units > least ? move->chunk_units / least * least : least;
    return OK;
}

/* A writer that wants something added gets floats that were floats. */
static enum status plan_shift(struct move *move, float shift, struct error *err)
{
    move->shift = shift;
    if (shift == 0 || move->kind == MOVE_CAST) return OK;
    if (move->kind != MOVE_COPY || !is_float(move->source))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: is stored with %g added, which is done to vectors of a floating type only",
            move->target.name, (double)shift);
    move->kind = MOVE_CAST;
    plan_units(move, move->source->elements, CHUNK_ELEMENTS);
    return OK;
}

/* One more, for a checksum. */
static void plan_read(struct moves *moves, struct container *container, const struct tensor *source)
{
    struct move *move = &moves->list[moves->count++];

    *move = (struct move){.kind = MOVE_READ, .container = container, .source = source};
    plan_units(move, source->bytes, CHUNK_BYTES);
}

static enum status plan_items(struct moves *moves, struct container *container, struct writer *writer,
    const struct transfer_item *items, uint64_t count, bool *seen, struct error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        struct move *move = &moves->list[moves->count++];
        enum status status;
        *move = (struct move){.item = &items[i],
            .container = items[i].from ? items[i].from : container,
            .source = items[i].source,
            .target = items[i].target};
        status = plan_move(move, err);
        if (status) return fail_within(err, status, "tensor %s", items[i].target.name);
        status = writer_add(writer, &move->target, &move->target_index, err);
        if (!status) status = plan_shift(move, writer_shift(writer, move->target_index), err);
        if (!status) status = plan_heads(move, writer_head(writer, move->target_index), err);
        if (status) return status;
        if (move->container == container) seen[container_index(container, move->source)] = true;
        if (moves_is_sparse(move)) plan_read(moves, move->container, move->source);
    }
    return OK;
}

/* Tensors that no item names are read for their checksum. */
static void plan_rest(struct moves *moves, struct container *container, const bool *seen)
{
    for (uint64_t i = 0; i < container_count(container); i++) {
        if (!seen[i]) plan_read(moves, container, container_tensor(container, i));
    }
}

enum status moves_plan(struct moves *out, struct container *container, struct writer *writer,
    const struct transfer_item *items, uint64_t count, struct error *err)
{
    uint64_t sources = container_count(container);
    bool *seen = memory_new(sources, sizeof *seen, err);
    enum status status = ERR_MEMORY;

    *out = (struct moves){0};
    if (!seen) return ERR_MEMORY;
    out->list = memory_new(2 * count + sources, sizeof *out->list, err);
    if (out->list) status = plan_items(out, container, writer, items, count, seen, err);
    if (!status) plan_rest(out, container, seen);
    memory_free(seen);
    for (uint64_t i = 0; i < out->count && !status; i++) {
        out->list[i].first_chunk = out->chunks;
        out->chunks += moves_chunks(&out->list[i]);
    }
    return status;
}

void moves_free(struct moves *moves)
{
    memory_free(moves->list);
}

/* The last move that begins at or before the chunk: moves without chunks begin where the next one does. */
const struct move *moves_of_chunk(const struct moves *moves, uint64_t chunk)
{
    uint64_t low = 0, high = moves->count;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (moves->list[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    return &moves->list[low];
}

/* ---- bytes ---- */

/* A chunk is limited (plan_rows), so nothing here can wrap. */
uint64_t moves_parts(struct move_part parts[MOVE_PARTS], const struct tiles_layout *layout, uint64_t tiles)
{
    uint64_t end = 0;

    parts[0] = (struct move_part){.tile_bytes = layout->tile_code_bytes, .in_tensor = 0};
    parts[1] = (struct move_part){.tile_bytes = layout->tile_scale_bytes, .in_tensor = layout->scales_offset};
    parts[2] = (struct move_part){.tile_bytes = layout->tile_zero_bytes, .in_tensor = layout->zeros_offset};
    for (unsigned i = 0; i < MOVE_PARTS; i++) {
        parts[i].in_buffer = end;
        end += (tiles * parts[i].tile_bytes + 63) / 64 * 64;
    }
    return end;
}

uint64_t moves_tiles(uint64_t rows)
{
    return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

static const struct tensor *tensor_of(const struct move *move, enum move_side side)
{
    return side == MOVE_SOURCE ? move->source : &move->target;
}

bool moves_is_sparse(const struct move *move)
{
    return move->kind == MOVE_ROWS && move->source->storage == STORAGE_SPARSE;
}

bool moves_in_parts(const struct move *move, enum move_side side)
{
    return move->kind == MOVE_ROWS && tensor_of(move, side)->storage == STORAGE_TILES;
}

uint64_t moves_unit_bytes(const struct move *move, enum move_side side)
{
    const struct tensor *tensor = tensor_of(move, side);

    switch (move->kind) {
    case MOVE_READ:
    case MOVE_COPY:
        return 1;
    case MOVE_CAST:
        return dtype_info(tensor->dtype)->bytes;
    case MOVE_DECODE:
        return side == MOVE_SOURCE
                   ? block_info(tensor->block)->bytes
                   : block_info(move->source->block)->weights * dtype_info(tensor->dtype)->bytes;
    case MOVE_ROWS:
        break;
    }
    return move->units ? tensor->bytes / move->units : 0;
}

uint64_t moves_row_bytes(const struct tensor *tensor)
{
    return tensor->shape[0] ? tensor->bytes / tensor->shape[0] : 0;
}

uint64_t moves_source_bytes(const struct move *move, uint64_t units)
{
    struct move_part parts[MOVE_PARTS];
    uint64_t bytes = 0;

    if (!moves_in_parts(move, MOVE_SOURCE)) return units * moves_unit_bytes(move, MOVE_SOURCE);
    moves_parts(parts, &move->layout[MOVE_SOURCE], moves_tiles(units));
    for (unsigned i = 0; i < MOVE_PARTS; i++)
        bytes += moves_tiles(units) * parts[i].tile_bytes;
    return bytes;
}
