/* Moving tensors. Every tensor becomes one move, every move a number of chunks; all chunks of all moves are
 * the tasks of one pool run, so that neither one huge tensor nor a thousand small ones leave a worker idle.
 * What a chunk is depends on shapes alone. Checksums are taken of each chunk as it passes and joined in order
 * at the end, so nothing is read twice. */
#include "formats/transfer.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/cast.h"
#include "formats/measure.h"
#include "formats/moves.h"
#include "formats/sparse_part.h"
#include "tensor/tile_blocks.h"

/* The checksums of one chunk: by parts where tiles are, else in [0]. */
struct chunk_crcs {
    uint32_t source[MOVE_PARTS], target[MOVE_PARTS];
};

/* The memory of one worker. */
struct buffers {
    uint8_t *raw;     /* bytes as read */
    float *floats;    /* decoded */
    uint8_t *out;     /* bytes to write: elements, or the three parts */
    uint8_t *scratch; /* the encoder's */
    uint8_t *head;    /* the rows of one, to be interleaved */
};

struct job {
    struct container *container;
    struct writer *writer;
    struct moves moves;
    struct chunk_crcs *crcs; /* [moves.chunks] */
    struct buffers *buffers; /* [workers] */
    unsigned workers;
    struct progress *progress;
};

/* The units [begin, begin + count) of a move. */
struct chunk {
    const struct move *move;
    uint64_t begin, count;
    struct chunk_crcs *crcs;
    struct buffers *buffers;
};

/* ---- memory ---- */

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

struct buffer_sizes {
    uint64_t raw, floats, out, scratch, head;
};

/* Bytes of `units` units on one side, as they lie in a buffer. */
static uint64_t side_bytes(const struct move *move, enum move_side side, uint64_t units)
{
    struct move_part parts[MOVE_PARTS];

    if (side == MOVE_SOURCE && moves_is_sparse(move)) return sparse_part_bytes(&move->sparse, units);
    if (!moves_in_parts(move, side)) return units * moves_unit_bytes(move, side);
    return moves_parts(parts, &move->layout[side], moves_tiles(units));
}

/* What the largest chunk of a move needs. */
static struct buffer_sizes sizes_of(const struct move *move)
{
    uint64_t units = move->units < move->chunk_units ? move->units : move->chunk_units;
    struct buffer_sizes sizes = {.raw = side_bytes(move, MOVE_SOURCE, units)};
    uint64_t elements = units * move->cols;

    if (move->kind == MOVE_READ || move->kind == MOVE_COPY) return sizes;
    sizes.out = side_bytes(move, MOVE_TARGET, units);
    if (move->kind == MOVE_CAST) elements = units;
    if (move->kind == MOVE_DECODE) elements = units * block_info(move->source->block)->weights;
    sizes.floats = elements * sizeof(float);
    /* The encoder's codes, scales and zero-points, unpacked. */
    if (moves_in_parts(move, MOVE_TARGET))
        sizes.scratch = round_up(elements) + units * move->layout[MOVE_TARGET].groups * 4;
    else if (moves_in_parts(move, MOVE_SOURCE))
        sizes.scratch = TILE_ROWS * move->cols; /* of tile_blocks_put */
    if (moves_is_sparse(move))                  /* spread, and of tile_blocks_put behind it */
        sizes.scratch = larger(sizes.scratch, sparse_scratch(&move->sparse) + TILE_ROWS * move->cols);
    return sizes;
}

/* Whether it is bytes of the target that are interleaved, rather than floats before they become that. */
static bool turns_bytes(const struct move *move)
{
    return move->kind == MOVE_COPY || move->target.storage == STORAGE_BLOCKS;
}

static uint64_t head_bytes(const struct move *move)
{
    if (!move->head) return 0;
    if (turns_bytes(move)) return move->head * moves_row_bytes(&move->target);
    return move->head * (move->target.rank == 2 ? move->target.shape[1] : 1) * sizeof(float);
}

static enum status allocate(struct job *job, struct error *err)
{
    struct buffer_sizes most = {0};

    for (uint64_t i = 0; i < job->moves.count; i++) {
        struct buffer_sizes sizes = sizes_of(&job->moves.list[i]);
        most.raw = larger(most.raw, sizes.raw);
        most.floats = larger(most.floats, sizes.floats);
        most.out = larger(most.out, sizes.out);
        most.scratch = larger(most.scratch, sizes.scratch);
        most.head = larger(most.head, head_bytes(&job->moves.list[i]));
    }
    job->crcs = memory_new(job->moves.chunks, sizeof *job->crcs, err);
    job->buffers = memory_new(job->workers, sizeof *job->buffers, err);
    if (!job->crcs || !job->buffers) return ERR_MEMORY;
    for (unsigned i = 0; i < job->workers; i++) {
        struct buffers *buffers = &job->buffers[i];
        buffers->raw = memory_new(most.raw, 1, err);
        buffers->floats = memory_new(most.floats, 1, err);
        buffers->out = memory_new(most.out, 1, err);
        buffers->scratch = memory_new(most.scratch, 1, err);
        buffers->head = memory_new(most.head, 1, err);
        if (!buffers->raw || !buffers->floats || !buffers->out || !buffers->scratch || !buffers->head)
            return ERR_MEMORY;
    }
    return OK;
}

static void free_job(struct job *job)
{
    for (unsigned i = 0; job->buffers && i < job->workers; i++) {
        memory_free(job->buffers[i].raw);
        memory_free(job->buffers[i].floats);
        memory_free(job->buffers[i].out);
        memory_free(job->buffers[i].scratch);
        memory_free(job->buffers[i].head);
    }
    memory_free(job->buffers);
    memory_free(job->crcs);
    moves_free(&job->moves);
}

/* ---- one chunk ---- */

/* A finite value must not become infinite. */
static enum status check_overflow(
    const struct chunk *chunk, const float *floats, uint64_t first, uint64_t count, struct error *err)
{
    const struct move *move = chunk->move;
    bool from_doubles = move->source->storage == STORAGE_DENSE && move->source->dtype == DTYPE_F64;
    const double *doubles = from_doubles ? (const double *)(const void *)chunk->buffers->raw : NULL;
    uint64_t index;
    double value;

    if (!cast_overflows(move->target.dtype, floats, doubles, count, &index, &value)) return OK;
    return fail(err, ERR_NUMERIC, "tensor %s: element %" PRIu64 " is %g, too large for %s", move->target.name,
        first + index, value, dtype_info(move->target.dtype)->name);
}

static enum status read_part(
    const struct chunk *chunk, unsigned part, uint64_t offset, void *bytes, uint64_t count, struct error *err)
{
    enum status status =
        container_read(chunk->move->container, chunk->move->source, offset, bytes, count, err);

    if (!status) chunk->crcs->source[part] = file_crc32(0, bytes, count);
    return status;
}

static enum status write_part(struct job *job, const struct chunk *chunk, unsigned part, uint64_t offset,
    const void *bytes, uint64_t count, struct error *err)
{
    chunk->crcs->target[part] = file_crc32(0, bytes, count);
    return writer_write(job->writer, chunk->move->target_index, offset, bytes, count, err);
}

/* The rows of a chunk, `bytes` bytes of whole heads, as the writer wants them: the halves of every head interleaved. */
static void interleave(const struct chunk *chunk, void *rows, uint64_t bytes)
{
    uint64_t head = chunk->move->head, whole = head_bytes(chunk->move), row = head ? whole / head : 0;
    uint8_t *turned = chunk->buffers->head;

    for (uint8_t *at = rows; head && bytes; at += whole, bytes -= whole) {
        for (uint64_t i = 0; i < head; i++)
            memcpy(turned + i * row, at + (i % 2 * (head / 2) + i / 2) * row, row);
        memcpy(at, turned, whole);
    }
}

/* READ and COPY: one checksum serves both sides, unless rows change places. */
static enum status copy_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    uint8_t *raw = chunk->buffers->raw;
    enum status status = read_part(chunk, 0, chunk->begin, raw, chunk->count, err);

    if (status || chunk->move->kind == MOVE_READ) return status;
    if (chunk->move->head) {
        interleave(chunk, raw, chunk->count);
        return write_part(job, chunk, 0, chunk->begin, raw, chunk->count, err);
    }
    chunk->crcs->target[0] = chunk->crcs->source[0];
    return writer_write(job->writer, chunk->move->target_index, chunk->begin, raw, chunk->count, err);
}

/* Elements [first, first + count), as floats in the worker's memory, to a DENSE target. */
static enum status write_floats(struct job *job, const struct chunk *chunk, float *floats, uint64_t first,
    uint64_t count, struct error *err)
{
    enum dtype dtype = chunk->move->target.dtype;
    uint64_t size = dtype_info(dtype)->bytes;
    enum status status = check_overflow(chunk, floats, first, count, err);

    if (status) return status;
    interleave(chunk, floats, count * sizeof *floats);
    return write_part(job, chunk, 0, first * size,
        cast_from_floats(dtype, floats, chunk->buffers->out, count), count * size, err);
}

/* Elements [first, first + count) of a DENSE source as floats, in the worker's memory. */
static enum status read_floats(
    const struct chunk *chunk, float **floats, uint64_t first, uint64_t count, struct error *err)
{
    enum dtype dtype = chunk->move->source->dtype;
    uint64_t size = dtype_info(dtype)->bytes;
    enum status status = read_part(chunk, 0, first * size, chunk->buffers->raw, count * size, err);

    if (!status) *floats = (float *)cast_to_floats(dtype, chunk->buffers->raw, chunk->buffers->floats, count);
    return status;
}

/* Elements [first, first + count), whole rows, through the item's patch; then what the writer wants added. */
static void patch(const struct chunk *chunk, float *floats, uint64_t first, uint64_t count)
{
    const struct transfer_item *item = chunk->move->item;
    const struct tensor *source = chunk->move->source;
    uint64_t cols = source->rank == 2 ? source->shape[1] : 1;

    if (item->patch && count) item->patch(item->patch_context, floats, first / cols, count / cols);
    for (uint64_t i = 0; chunk->move->shift != 0 && i < count; i++)
        floats[i] += chunk->move->shift;
}

static enum status cast_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    float *floats;
    enum status status = read_floats(chunk, &floats, chunk->begin, chunk->count, err);

    if (status) return status;
    patch(chunk, floats, chunk->begin, chunk->count);
    return write_floats(job, chunk, floats, chunk->begin, chunk->count, err);
}

/* The tiles of a chunk, as stored, in the worker's memory, where `parts` says. */
static enum status read_tiles(
    const struct chunk *chunk, struct move_part parts[MOVE_PARTS], struct error *err)
{
    uint64_t tile = chunk->begin / TILE_ROWS, tiles = moves_tiles(chunk->count);
    enum status status = OK;

    moves_parts(parts, &chunk->move->layout[MOVE_SOURCE], tiles);
    for (unsigned i = 0; i < MOVE_PARTS && !status; i++)
        status = read_part(chunk, i, parts[i].in_tensor + tile * parts[i].tile_bytes,
            chunk->buffers->raw + parts[i].in_buffer, tiles * parts[i].tile_bytes, err);
    return status;
}

/* Part `part` of tile number `tile` of what read_tiles has read. */
static const void *tile_part(
    const struct chunk *chunk, const struct move_part parts[MOVE_PARTS], unsigned part, uint64_t tile)
{
    return chunk->buffers->raw + parts[part].in_buffer + tile * parts[part].tile_bytes;
}

static uint64_t rows_of_tile(const struct chunk *chunk, uint64_t tile)
{
    uint64_t left = chunk->count - tile * TILE_ROWS;

    return left < TILE_ROWS ? left : TILE_ROWS;
}

static enum status decode_tiles(const struct chunk *chunk, float *floats, struct error *err)
{
    const struct tiles_layout *layout = &chunk->move->layout[MOVE_SOURCE];
    struct move_part parts[MOVE_PARTS];
    enum status status = read_tiles(chunk, parts, err);

    if (status) return status;
    for (uint64_t i = 0; i < moves_tiles(chunk->count); i++)
        tiles_decode_tile(layout, floats + i * TILE_ROWS * layout->cols, layout->cols,
            tile_part(chunk, parts, 0, i), tile_part(chunk, parts, 1, i),
            layout->asymmetric ? tile_part(chunk, parts, 2, i) : NULL, rows_of_tile(chunk, i));
    return OK;
}

/* The rows of a chunk of a sparse source, as stored, in the worker's memory. Their checksum is another move's. */
static enum status read_sparse(struct sparse_layout *part, const struct chunk *chunk, struct error *err)
{
    const struct move *move = chunk->move;

    return sparse_part_read(part, move->container, move->source, &move->sparse, chunk->begin, chunk->count,
        chunk->buffers->raw, err);
}

static enum status decode_sparse(const struct chunk *chunk, float *floats, struct error *err)
{
    struct sparse_layout part;
    enum status status = read_sparse(&part, chunk, err);

    if (status) return status;
    return sparse_decode(
        &part, floats, chunk->move->cols, chunk->buffers->raw, 0, chunk->count, chunk->buffers->scratch, err);
}

/* `count` blocks from number `first` on as floats. */
static enum status read_blocks(
    const struct chunk *chunk, float *floats, uint64_t first, uint64_t count, struct error *err)
{
    const struct block_info *info = block_info(chunk->move->source->block);
    uint8_t *raw = chunk->buffers->raw;
    enum status status = read_part(chunk, 0, first * info->bytes, raw, count * info->bytes, err);

    if (!status) blocks_decode(floats, chunk->move->source->block, raw, 0, count * info->weights);
    return status;
}

/* The rows of a chunk as floats, from any storage. */
static enum status read_rows(const struct chunk *chunk, float **floats, struct error *err)
{
    const struct tensor *source = chunk->move->source;
    uint64_t cols = chunk->move->cols, blocks;

    *floats = chunk->buffers->floats;
    if (source->storage == STORAGE_TILES) return decode_tiles(chunk, *floats, err);
    if (source->storage == STORAGE_SPARSE) return decode_sparse(chunk, *floats, err);
    if (source->storage == STORAGE_DENSE)
        return read_floats(chunk, floats, chunk->begin * cols, chunk->count * cols, err);
    blocks = cols / block_info(source->block)->weights;
    return read_blocks(chunk, *floats, chunk->begin * blocks, chunk->count * blocks, err);
}

/* The tiles of a chunk from where `parts` says they are in the worker's memory. */
static enum status write_tiles(
    struct job *job, const struct chunk *chunk, const struct move_part parts[MOVE_PARTS], struct error *err)
{
    uint64_t tile = chunk->begin / TILE_ROWS, tiles = moves_tiles(chunk->count);
    enum status status = OK;

    for (unsigned i = 0; i < MOVE_PARTS && !status; i++)
        status = write_part(job, chunk, i, parts[i].in_tensor + tile * parts[i].tile_bytes,
            chunk->buffers->out + parts[i].in_buffer, tiles * parts[i].tile_bytes, err);
    return status;
}

static enum status encode_tiles(struct job *job, const struct chunk *chunk, float *floats, struct error *err)
{
    const struct move *move = chunk->move;
    const struct tiles_layout *layout = &move->layout[MOVE_TARGET];
    uint8_t *out = chunk->buffers->out;
    struct move_part parts[MOVE_PARTS];
    enum status status;

    moves_parts(parts, layout, moves_tiles(chunk->count));
    status = move->item->encode(&move->target, move->item->context, out,
        (uint16_t *)(void *)(out + parts[1].in_buffer), layout->asymmetric ? out + parts[2].in_buffer : NULL,
        floats, chunk->begin, chunk->count, chunk->buffers->scratch, err);
    if (status) return fail_within(err, status, "tensor %s", move->target.name);
    return write_tiles(job, chunk, parts, err);
}

/* Sparse codes with all the others that are not stored: tiles. */
static enum status repack_sparse(struct job *job, const struct chunk *chunk, struct error *err)
{
    const struct tiles_layout *layout = &chunk->move->layout[MOVE_TARGET];
    uint8_t *out = chunk->buffers->out;
    struct move_part parts[MOVE_PARTS];
    struct sparse_layout part;
    struct sparse_tile tile;
    enum status status = read_sparse(&part, chunk, err);

    moves_parts(parts, layout, moves_tiles(chunk->count));
    for (uint64_t i = 0; i < moves_tiles(chunk->count) && !status; i++) {
        status = sparse_at(&tile, &part, chunk->buffers->raw, i, err);
        if (status) return status;
        sparse_put_tile(&part, out + i * layout->tile_code_bytes, &tile, rows_of_tile(chunk, i));
        memcpy(
            out + parts[1].in_buffer + i * layout->tile_scale_bytes, tile.scales, layout->tile_scale_bytes);
    }
    return status ? status : write_tiles(job, chunk, parts, err);
}

static enum status encode_blocks(struct job *job, const struct chunk *chunk, float *floats, struct error *err)
{
    const struct move *move = chunk->move;
    uint64_t row = moves_unit_bytes(move, MOVE_TARGET), bytes = chunk->count * row;
    uint8_t *out = chunk->buffers->out;
    enum status status = move->item->encode(
        &move->target, move->item->context, out, NULL, NULL, floats, chunk->begin, chunk->count, NULL, err);

    if (status) return fail_within(err, status, "tensor %s", move->target.name);
    interleave(chunk, out, bytes);
    return write_part(job, chunk, 0, chunk->begin * row, out, bytes, err);
}

/* One tile of a chunk of tiles, or of a sparse one, which is spread to the worker's scratch. */
static enum status repack_tile(const struct chunk *chunk, const struct move_part parts[MOVE_PARTS],
    const struct sparse_layout *sparse, uint64_t index, uint8_t *out, struct error *err)
{
    const enum block_type type = chunk->move->target.block;
    uint8_t *scratch = chunk->buffers->scratch;
    struct sparse_tile tile;
    enum status status;

    if (!moves_is_sparse(chunk->move)) {
        tile_blocks_put(out, type, &chunk->move->layout[MOVE_SOURCE], tile_part(chunk, parts, 0, index),
            tile_part(chunk, parts, 1, index), rows_of_tile(chunk, index), scratch);
        return OK;
    }
    status = sparse_at(&tile, sparse, chunk->buffers->raw, index, err);
    if (status) return status;
    sparse_spread(sparse, scratch, &tile);
    tile_blocks_put(out, type, &sparse->dense, scratch, tile.scales, rows_of_tile(chunk, index),
        scratch + sparse_scratch(sparse));
    return OK;
}

/* What is a block type's as it is: codes and scales are taken over. */
static enum status repack_blocks(struct job *job, const struct chunk *chunk, struct error *err)
{
    const struct move *move = chunk->move;
    uint64_t row = moves_unit_bytes(move, MOVE_TARGET), bytes = chunk->count * row;
    uint8_t *out = chunk->buffers->out;
    struct move_part parts[MOVE_PARTS];
    struct sparse_layout sparse = {0};
    enum status status =
        moves_is_sparse(move) ? read_sparse(&sparse, chunk, err) : read_tiles(chunk, parts, err);

    for (uint64_t i = 0; i < moves_tiles(chunk->count) && !status; i++)
        status = repack_tile(chunk, parts, &sparse, i, out + i * TILE_ROWS * row, err);
    if (status) return status;
    interleave(chunk, out, bytes);
    return write_part(job, chunk, 0, chunk->begin * row, out, bytes, err);
}

static enum status rows_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    const struct move *move = chunk->move;
    float *floats;
    enum status status;

    if (move->target.storage == STORAGE_BLOCKS && !move->item->encode) return repack_blocks(job, chunk, err);
    if (move->target.storage == STORAGE_TILES && !move->item->encode) return repack_sparse(job, chunk, err);
    status = read_rows(chunk, &floats, err);
    if (status) return status;
    patch(chunk, floats, chunk->begin * move->cols, chunk->count * move->cols);
    if (move->target.storage == STORAGE_TILES) return encode_tiles(job, chunk, floats, err);
    if (move->target.storage == STORAGE_BLOCKS) return encode_blocks(job, chunk, floats, err);
    return write_floats(job, chunk, floats, chunk->begin * move->cols, chunk->count * move->cols, err);
}

static enum status decode_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    uint64_t weights = block_info(chunk->move->source->block)->weights;
    float *floats = chunk->buffers->floats;
    enum status status = read_blocks(chunk, floats, chunk->begin, chunk->count, err);

    if (status) return status;
    return write_floats(job, chunk, floats, chunk->begin * weights, chunk->count * weights, err);
}

static enum status run_chunk(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct job *job = context;
    const struct move *move = moves_of_chunk(&job->moves, index);
    struct chunk chunk = {.move = move, .crcs = &job->crcs[index], .buffers = &job->buffers[worker]};
    enum status status = OK;

    chunk.begin = (index - move->first_chunk) * move->chunk_units;
    chunk.count = moves_units(move, index - move->first_chunk);
    switch (move->kind) {
    case MOVE_READ:
    case MOVE_COPY:
        status = copy_chunk(job, &chunk, err);
        break;
    case MOVE_CAST:
        status = cast_chunk(job, &chunk, err);
        break;
    case MOVE_DECODE:
        status = decode_chunk(job, &chunk, err);
        break;
    case MOVE_ROWS:
        status = rows_chunk(job, &chunk, err);
        break;
    }
    progress_add(job->progress, moves_source_bytes(move, chunk.count));
    return status;
}

/* ---- joining checksums ---- */

static uint32_t chunk_crc(
    const struct job *job, const struct move *move, enum move_side side, uint64_t chunk, unsigned part)
{
    const struct chunk_crcs *crcs = &job->crcs[move->first_chunk + chunk];

    return side == MOVE_SOURCE ? crcs->source[part] : crcs->target[part];
}

static uint32_t join_flat(const struct job *job, const struct move *move, enum move_side side)
{
    uint64_t bytes = moves_unit_bytes(move, side);
    uint32_t crc = 0;

    for (uint64_t i = 0; i < moves_chunks(move); i++)
        crc = file_crc32_combine(crc, chunk_crc(job, move, side, i, 0), moves_units(move, i) * bytes);
    return crc;
}

/* Parts one after the other, with the zeros of the gaps between them. */
static uint32_t join_parts(const struct job *job, const struct move *move, enum move_side side)
{
    static const uint8_t zeros[64];
    struct move_part parts[MOVE_PARTS];
    uint64_t end = 0;
    uint32_t crc = 0;

    moves_parts(parts, &move->layout[side], 0);
    for (unsigned part = 0; part < MOVE_PARTS; part++) {
        crc = file_crc32(crc, zeros, parts[part].in_tensor - end);
        end = parts[part].in_tensor;
        for (uint64_t i = 0; i < moves_chunks(move); i++) {
            uint64_t bytes = moves_tiles(moves_units(move, i)) * parts[part].tile_bytes;
            crc = file_crc32_combine(crc, chunk_crc(job, move, side, i, part), bytes);
            end += bytes;
        }
    }
    return crc;
}

static uint32_t join(const struct job *job, const struct move *move, enum move_side side)
{
    return moves_in_parts(move, side) ? join_parts(job, move, side) : join_flat(job, move, side);
}

/* Hand the checksums on; a source that records its own must agree. */
static enum status finish(struct job *job, uint32_t *source_crcs, struct error *err)
{
    for (uint64_t i = 0; i < job->moves.count; i++) {
        const struct move *move = &job->moves.list[i];
        const bool read = !moves_is_sparse(move); /* or by the move behind it */
        uint32_t crc = read ? join(job, move, MOVE_SOURCE) : 0, recorded;
        if (read && container_checksum(move->container, move->source, &recorded) && recorded != crc)
            return fail(err, ERR_FORMAT,
                "%s: tensor %s: its bytes are damaged: CRC-32 %08" PRIx32 ", recorded %08" PRIx32,
                container_path(move->container), move->source->name, crc, recorded);
        if (read && move->container == job->container)
            source_crcs[container_index(job->container, move->source)] = crc;
        if (move->kind != MOVE_READ)
            writer_checksum(job->writer, move->target_index, join(job, move, MOVE_TARGET));
    }
    return OK;
}

/* ---- all of it ---- */

static uint64_t total_source_bytes(const struct job *job)
{
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < job->moves.count; i++)
        bytes += job->moves.list[i].source->bytes;
    return bytes;
}

enum status transfer_run(struct container *container, struct writer *writer,
    const struct transfer_item *items, uint64_t count, uint32_t *source_crcs, struct pool *pool,
    const struct report *report, const char *label, struct error *err)
{
    struct job job = {.container = container, .writer = writer, .workers = pool_workers(pool)};
    enum status status = moves_plan(&job.moves, container, writer, items, count, err);

    if (!status) status = allocate(&job, err);
    if (!status) status = writer_begin(writer, err);
    if (status) goto done;
    job.progress = progress_start(report, label, total_source_bytes(&job), PROGRESS_BYTES);
    status = pool_run(pool, job.moves.chunks, run_chunk, &job, err);
    progress_end(job.progress);
    if (!status) status = finish(&job, source_crcs, err);
done:
    free_job(&job);
    return status;
}

uint64_t transfer_target_bytes(const struct tensor *target)
{
    struct tensor measured = *target;

    return measure_tensor(&measured, NULL) == OK ? measured.bytes : 0;
}
