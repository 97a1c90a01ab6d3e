/* Moving tensors. Every tensor becomes one move, every move a number of chunks; all chunks of all moves are
 * the tasks of one pool run, so that neither one huge tensor nor a thousand small ones leave a worker idle.
 * What a chunk is depends on shapes alone. Checksums are taken of each chunk as it passes and joined in order
 * at the end, so nothing is read twice. */
#include "formats/transfer.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "formats/measure.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"

#define CHUNK_ELEMENTS                                                                                       \
    (UINT64_C(1) << 18) /* about 3 MB per worker in all its buffers: stays in the last cache */
#define CHUNK_BYTES (UINT64_C(1) << 20)         /* where bytes are not converted */
#define PANEL_LIMIT_BYTES (UINT64_C(256) << 20) /* 8 rows of floats */
#define PARTS 3                                 /* codes, scales, zeros */

enum move_kind {
    MOVE_READ,  /* no target: for the checksum alone */
    MOVE_COPY,  /* bytes untouched */
    MOVE_CAST,  /* DENSE to DENSE of another floating type */
    MOVE_PACK,  /* DENSE to TILES, through the item's encoder */
    MOVE_UNPACK /* TILES to DENSE */
};

/* One tensor on its way. Units are bytes for READ and COPY, elements for CAST, rows for PACK and UNPACK. */
struct move {
    enum move_kind kind;
    const struct transfer_item *item;
    const struct tensor *source;
    struct tensor target;       /* measured */
    uint64_t target_index;      /* in the writer */
    struct tiles_layout layout; /* of the tiled side, if there is one */
    uint64_t units, chunk_units;
    uint64_t
        first_chunk; /* among the chunks of all moves; its own are as many as chunk_units make of units */
};

/* The checksums of one chunk: by parts where tiles are, else in [0]. */
struct chunk_crcs {
    uint32_t source[PARTS], target[PARTS];
};

/* The memory of one worker. */
struct buffers {
    uint8_t *raw;     /* bytes as read */
    float *floats;    /* decoded */
    uint8_t *out;     /* bytes to write: elements, or the three parts */
    uint8_t *scratch; /* the encoder's */
};

struct job {
    struct container *container;
    struct nbl_writer *writer;
    struct move *moves;
    uint64_t move_count, chunk_count;
    struct chunk_crcs *crcs; /* [chunk_count] */
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

/* ---- planning ---- */

static bool is_float(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_DENSE && dtype_info(tensor->dtype)->is_float;
}

static bool same_storage(const struct tensor *a, const struct tensor *b)
{
    return a->storage == b->storage && a->dtype == b->dtype && a->scheme.bits == b->scheme.bits &&
           a->scheme.group == b->scheme.group && a->scheme.asymmetric == b->scheme.asymmetric;
}

static uint64_t chunks_of(const struct move *move)
{
    return move->units / move->chunk_units + (move->units % move->chunk_units != 0);
}

/* The units of chunk number `chunk` of a move: the last one may be shorter. */
static uint64_t units_of(const struct move *move, uint64_t chunk)
{
    uint64_t left = move->units - chunk * move->chunk_units;

    return left < move->chunk_units ? left : move->chunk_units;
}

static void plan_units(struct move *move, uint64_t units, uint64_t chunk_units)
{
    move->units = units;
    move->chunk_units = chunk_units;
}

/* Whole tiles of rows, about CHUNK_ELEMENTS in all. */
static enum status plan_rows(struct move *move, const struct tensor *tiled, struct error *err)
{
    enum status status = tiles_layout(&move->layout, tiled->shape[0], tiled->shape[1], tiled->scheme, err);
    uint64_t cols = tiled->shape[1], rows;

    if (status) return status;
    if (cols > PANEL_LIMIT_BYTES / (TILE_ROWS * sizeof(float)))
        return fail(err, ERR_MEMORY,
            "rows of %" PRIu64 " columns are too long: %d of them exceed %" PRIu64 " bytes", cols, TILE_ROWS,
            PANEL_LIMIT_BYTES);
    rows = CHUNK_ELEMENTS / cols / TILE_ROWS * TILE_ROWS;
    plan_units(move, tiled->shape[0], rows > 0 ? rows : TILE_ROWS);
    return OK;
}

static enum status impossible(const struct move *move, struct error *err)
{
    const struct tensor *source = move->source, *target = &move->target;
    char from[MEASURE_SHAPE_TEXT], to[MEASURE_SHAPE_TEXT];

    return fail(err, ERR_UNSUPPORTED, "%s%s %s cannot become %s%s %s", dtype_info(source->dtype)->name,
        source->storage == STORAGE_TILES ? " tiles" : "",
        measure_shape_text(from, source->rank, source->shape), dtype_info(target->dtype)->name,
        target->storage == STORAGE_TILES ? " tiles" : "",
        measure_shape_text(to, target->rank, target->shape));
}

/* How a tensor moves, and in what chunks. */
static enum status plan_move(struct move *move, struct error *err)
{
    const struct tensor *source = move->source, *target = &move->target;
    enum status status = measure_tensor(&move->target, err);

    if (status) return status;
    if (source->elements != target->elements) return impossible(move, err);
    if (same_storage(source, target)) {
        if (source->bytes != target->bytes) return impossible(move, err); /* tiles of another shape */
        move->kind = MOVE_COPY;
        plan_units(move, source->bytes, CHUNK_BYTES);
        return OK;
    }
    if (is_float(source) && is_float(target)) {
        move->kind = MOVE_CAST;
        plan_units(move, source->elements, CHUNK_ELEMENTS);
        return OK;
    }
    if (is_float(source) && target->storage == STORAGE_TILES && move->item->encode) {
        move->kind = MOVE_PACK;
        return plan_rows(move, target, err);
    }
    if (source->storage == STORAGE_TILES && is_float(target)) {
        move->kind = MOVE_UNPACK;
        return plan_rows(move, source, err);
    }
    return impossible(move, err);
}

/* One move per item, declared in the writer in this order. */
static enum status plan_items(
    struct job *job, const struct transfer_item *items, uint64_t count, bool *seen, struct error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        struct move *move = &job->moves[job->move_count++];
        enum status status;
        *move = (struct move){.item = &items[i], .source = items[i].source, .target = items[i].target};
        status = plan_move(move, err);
        if (status) return fail_within(err, status, "tensor %s", items[i].target.name);
        status = nbl_writer_add(job->writer, &move->target, &move->target_index, err);
        if (status) return status;
        seen[container_index(job->container, items[i].source)] = true;
    }
    return OK;
}

/* Tensors that no item names are read for their checksum. */
static void plan_rest(struct job *job, const bool *seen)
{
    for (uint64_t i = 0; i < container_count(job->container); i++) {
        struct move *move = &job->moves[job->move_count];
        if (seen[i]) continue;
        *move = (struct move){.kind = MOVE_READ, .source = container_tensor(job->container, i)};
        plan_units(move, move->source->bytes, CHUNK_BYTES);
        job->move_count++;
    }
}

static enum status plan(struct job *job, const struct transfer_item *items, uint64_t count, struct error *err)
{
    uint64_t sources = container_count(job->container);
    bool *seen = memory_new(sources, sizeof *seen, err);
    enum status status = ERR_MEMORY;

    if (!seen) return ERR_MEMORY;
    job->moves = memory_new(count + sources, sizeof *job->moves, err);
    if (job->moves) status = plan_items(job, items, count, seen, err);
    if (!status) plan_rest(job, seen);
    memory_free(seen);
    for (uint64_t i = 0; i < job->move_count && !status; i++) {
        job->moves[i].first_chunk = job->chunk_count;
        job->chunk_count += chunks_of(&job->moves[i]);
    }
    return status;
}

/* ---- memory ---- */

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* One of the three parts of tile storage, for a run of tiles. Without zero-points the third has no bytes. */
struct part {
    uint64_t tile_bytes; /* of one tile */
    uint64_t in_tensor;  /* where the part begins in the tensor */
    uint64_t in_buffer;  /* where it begins in a worker's buffer */
};

/* Lay out the parts of `tiles` tiles; returns the bytes they take in a buffer. A chunk is limited
 * (plan_rows), so nothing here can wrap. */
static uint64_t parts_of(struct part parts[PARTS], const struct tiles_layout *layout, uint64_t tiles)
{
    uint64_t end = 0;

    parts[0] = (struct part){.tile_bytes = layout->tile_code_bytes, .in_tensor = 0};
    parts[1] = (struct part){.tile_bytes = layout->tile_scale_bytes, .in_tensor = layout->scales_offset};
    parts[2] = (struct part){.tile_bytes = layout->tile_zero_bytes, .in_tensor = layout->zeros_offset};
    for (unsigned i = 0; i < PARTS; i++) {
        parts[i].in_buffer = end;
        end += round_up(tiles * parts[i].tile_bytes);
    }
    return end;
}

static uint64_t tiles_in(uint64_t rows)
{
    return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

struct buffer_sizes {
    uint64_t raw, floats, out, scratch;
};

/* What the largest chunk of a move needs. */
static struct buffer_sizes sizes_of(const struct move *move)
{
    uint64_t units = move->units < move->chunk_units ? move->units : move->chunk_units;
    uint64_t elements = move->kind == MOVE_CAST ? units : units * move->layout.cols;
    struct part parts[PARTS];
    uint64_t part_bytes = parts_of(parts, &move->layout, tiles_in(units));
    uint64_t source_bytes = elements * dtype_info(move->source->dtype)->bytes;
    uint64_t target_bytes = elements * dtype_info(move->target.dtype)->bytes;
    uint64_t float_bytes = elements * sizeof(float);
    uint64_t notes_bytes =
        units * move->layout.groups * 4; /* the encoder's scales and zero-points, unpacked */

    switch (move->kind) {
    case MOVE_READ:
    case MOVE_COPY:
        return (struct buffer_sizes){.raw = units};
    case MOVE_CAST:
        return (struct buffer_sizes){.raw = source_bytes, .floats = float_bytes, .out = target_bytes};
    case MOVE_UNPACK:
        return (struct buffer_sizes){.raw = part_bytes, .floats = float_bytes, .out = target_bytes};
    case MOVE_PACK:
        break;
    }
    return (struct buffer_sizes){.raw = source_bytes,
        .floats = float_bytes,
        .out = part_bytes,
        .scratch = round_up(elements) + notes_bytes};
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static enum status allocate(struct job *job, struct error *err)
{
    struct buffer_sizes most = {0};

    for (uint64_t i = 0; i < job->move_count; i++) {
        struct buffer_sizes sizes = sizes_of(&job->moves[i]);
        most.raw = larger(most.raw, sizes.raw);
        most.floats = larger(most.floats, sizes.floats);
        most.out = larger(most.out, sizes.out);
        most.scratch = larger(most.scratch, sizes.scratch);
    }
    job->crcs = memory_new(job->chunk_count, sizeof *job->crcs, err);
    job->buffers = memory_new(job->workers, sizeof *job->buffers, err);
    if (!job->crcs || !job->buffers) return ERR_MEMORY;
    for (unsigned i = 0; i < job->workers; i++) {
        struct buffers *buffers = &job->buffers[i];
        buffers->raw = memory_new(most.raw, 1, err);
        buffers->floats = memory_new(most.floats, 1, err);
        buffers->out = memory_new(most.out, 1, err);
        buffers->scratch = memory_new(most.scratch, 1, err);
        if (!buffers->raw || !buffers->floats || !buffers->out || !buffers->scratch) return ERR_MEMORY;
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
    }
    memory_free(job->buffers);
    memory_free(job->crcs);
    memory_free(job->moves);
}

/* ---- floats in and out ---- */

/* Elements as floats: `raw` itself where they are floats already. */
static const float *to_floats(enum dtype dtype, const void *raw, float *floats, uint64_t count)
{
    switch (dtype) {
    case DTYPE_F32:
        return raw;
    case DTYPE_F16:
        kernels()->f16_to_f32(floats, raw, count);
        break;
    case DTYPE_BF16:
        kernels()->bf16_to_f32(floats, raw, count);
        break;
    default:
        dtype_info(dtype)->decode(floats, raw, count);
        break;
    }
    return floats;
}

/* Floats as elements: the floats themselves where that is the type. */
static const void *from_floats(enum dtype dtype, const float *floats, void *out, uint64_t count)
{
    switch (dtype) {
    case DTYPE_F32:
        return floats;
    case DTYPE_F16:
        kernels()->f32_to_f16(out, floats, count);
        break;
    case DTYPE_BF16:
        kernels()->f32_to_bf16(out, floats, count);
        break;
    default:
        dtype_info(dtype)->encode(out, floats, count);
        break;
    }
    return out;
}

static uint32_t magnitude_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7FFFFFFF;
}

enum { MAGNITUDE_INFINITE = 0x7F800000 };

/* The least magnitude, as bits of a float, that becomes infinite in a type: halfway from its largest number
 * to what would be the next. */
static uint32_t overflow_magnitude(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F16:
        return 0x477FF000; /* 65520 */
    case DTYPE_BF16:
        return 0x7F7F8000; /* (2 - 2^-8) * 2^127 */
    default:
        return MAGNITUDE_INFINITE;
    }
}

static bool any_reaches(const float *floats, uint64_t count, uint32_t magnitude)
{
    uint32_t most = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t found = magnitude_of(floats[i]);
        most = found > most ? found : most;
    }
    return most >= magnitude;
}

/* The element before it was decoded. F64 is the one type with finite values that floats do not have. */
static double value_before(const struct move *move, const uint8_t *raw, const float *floats, uint64_t index)
{
    double value = floats[index];

    if (move->source->storage == STORAGE_DENSE && move->source->dtype == DTYPE_F64)
        memcpy(&value, raw + index * sizeof value, sizeof value);
    return value;
}

/* A finite value must not become infinite. Infinities and NaN that the source has are its own affair. */
static enum status check_overflow(
    const struct chunk *chunk, const float *floats, uint64_t first, uint64_t count, struct error *err)
{
    const struct move *move = chunk->move;
    uint32_t limit = overflow_magnitude(move->target.dtype);

    if (!any_reaches(floats, count, limit)) return OK;
    for (uint64_t i = 0; i < count; i++) {
        double value = value_before(move, chunk->buffers->raw, floats, i);
        if (magnitude_of(floats[i]) < limit || !(value - value == 0))
            continue; /* false for infinity and NaN */
        return fail(err, ERR_NUMERIC, "tensor %s: element %" PRIu64 " is %g, too large for %s",
            move->target.name, first + i, value, dtype_info(move->target.dtype)->name);
    }
    return OK;
}

/* ---- one chunk ---- */

static enum status read_part(struct job *job, const struct chunk *chunk, unsigned part, uint64_t offset,
    void *bytes, uint64_t count, struct error *err)
{
    enum status status = container_read(job->container, chunk->move->source, offset, bytes, count, err);

    if (!status) chunk->crcs->source[part] = file_crc32(0, bytes, count);
    return status;
}

static enum status write_part(struct job *job, const struct chunk *chunk, unsigned part, uint64_t offset,
    const void *bytes, uint64_t count, struct error *err)
{
    chunk->crcs->target[part] = file_crc32(0, bytes, count);
    return nbl_writer_write(job->writer, chunk->move->target_index, offset, bytes, count, err);
}

/* READ and COPY: one checksum serves both sides. */
static enum status copy_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    uint8_t *raw = chunk->buffers->raw;
    enum status status = read_part(job, chunk, 0, chunk->begin, raw, chunk->count, err);

    if (status || chunk->move->kind == MOVE_READ) return status;
    chunk->crcs->target[0] = chunk->crcs->source[0];
    return nbl_writer_write(job->writer, chunk->move->target_index, chunk->begin, raw, chunk->count, err);
}

/* Elements [first, first + count), as floats, to a DENSE target. */
static enum status write_floats(struct job *job, const struct chunk *chunk, const float *floats,
    uint64_t first, uint64_t count, struct error *err)
{
    enum dtype dtype = chunk->move->target.dtype;
    uint64_t size = dtype_info(dtype)->bytes;
    enum status status = check_overflow(chunk, floats, first, count, err);

    if (status) return status;
    return write_part(job, chunk, 0, first * size, from_floats(dtype, floats, chunk->buffers->out, count),
        count * size, err);
}

/* Elements [first, first + count) of a DENSE source as floats. */
static enum status read_floats(struct job *job, const struct chunk *chunk, const float **floats,
    uint64_t first, uint64_t count, struct error *err)
{
    enum dtype dtype = chunk->move->source->dtype;
    uint64_t size = dtype_info(dtype)->bytes;
    enum status status = read_part(job, chunk, 0, first * size, chunk->buffers->raw, count * size, err);

    if (!status) *floats = to_floats(dtype, chunk->buffers->raw, chunk->buffers->floats, count);
    return status;
}

static enum status cast_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    const float *floats;
    enum status status = read_floats(job, chunk, &floats, chunk->begin, chunk->count, err);

    return status ? status : write_floats(job, chunk, floats, chunk->begin, chunk->count, err);
}

static enum status pack_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    const struct move *move = chunk->move;
    uint64_t tile = chunk->begin / TILE_ROWS, tiles = tiles_in(chunk->count), cols = move->layout.cols;
    uint8_t *out = chunk->buffers->out;
    struct part parts[PARTS];
    const float *floats;
    enum status status = read_floats(job, chunk, &floats, chunk->begin * cols, chunk->count * cols, err);

    if (status) return status;
    parts_of(parts, &move->layout, tiles);
    status = move->item->encode(&move->target, move->item->context, out,
        (uint16_t *)(void *)(out + parts[1].in_buffer),
        move->layout.asymmetric ? out + parts[2].in_buffer : NULL, floats, chunk->begin, chunk->count,
        chunk->buffers->scratch, err);
    if (status) return fail_within(err, status, "tensor %s", move->target.name);
    for (unsigned i = 0; i < PARTS && !status; i++)
        status = write_part(job, chunk, i, parts[i].in_tensor + tile * parts[i].tile_bytes,
            out + parts[i].in_buffer, tiles * parts[i].tile_bytes, err);
    return status;
}

static enum status unpack_chunk(struct job *job, const struct chunk *chunk, struct error *err)
{
    const struct tiles_layout *layout = &chunk->move->layout;
    uint64_t tile = chunk->begin / TILE_ROWS, tiles = tiles_in(chunk->count), cols = layout->cols;
    uint8_t *raw = chunk->buffers->raw;
    float *floats = chunk->buffers->floats;
    struct part parts[PARTS];
    enum status status = OK;

    parts_of(parts, layout, tiles);
    for (unsigned i = 0; i < PARTS && !status; i++)
        status = read_part(job, chunk, i, parts[i].in_tensor + tile * parts[i].tile_bytes,
            raw + parts[i].in_buffer, tiles * parts[i].tile_bytes, err);
    if (status) return status;
    for (uint64_t i = 0; i < tiles; i++) {
        uint64_t row = i * TILE_ROWS, rows = chunk->count - row < TILE_ROWS ? chunk->count - row : TILE_ROWS;
        const uint8_t *scales = raw + parts[1].in_buffer + i * parts[1].tile_bytes;
        const uint8_t *zeros = raw + parts[2].in_buffer + i * parts[2].tile_bytes;
        tiles_decode_tile(layout, floats + row * cols, cols, raw + i * parts[0].tile_bytes,
            (const uint16_t *)(const void *)scales, layout->asymmetric ? zeros : NULL, rows);
    }
    return write_floats(job, chunk, floats, chunk->begin * cols, chunk->count * cols, err);
}

/* The move that a chunk belongs to: the last that begins at or before it (moves without chunks begin where
 * the next one does). */
static const struct move *move_of(const struct job *job, uint64_t index)
{
    uint64_t low = 0, high = job->move_count;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (job->moves[middle].first_chunk <= index)
            low = middle;
        else
            high = middle;
    }
    return &job->moves[low];
}

/* Which side of a move. */
enum side { SIDE_SOURCE, SIDE_TARGET };

/* Does this side lie in parts, with a checksum for each? (A copy of tiles goes by bytes.) */
static bool in_parts(const struct move *move, enum side side)
{
    return move->kind == (side == SIDE_SOURCE ? MOVE_UNPACK : MOVE_PACK);
}

/* Bytes of one unit on a side that does not lie in parts. */
static uint64_t unit_bytes(const struct move *move, enum side side)
{
    enum dtype dtype = side == SIDE_SOURCE ? move->source->dtype : move->target.dtype;

    switch (move->kind) {
    case MOVE_READ:
    case MOVE_COPY:
        return 1;
    case MOVE_CAST:
        return dtype_info(dtype)->bytes;
    case MOVE_PACK:
    case MOVE_UNPACK:
        break;
    }
    return move->layout.cols * dtype_info(dtype)->bytes;
}

/* How many bytes of the source are behind a chunk. */
static uint64_t source_bytes(const struct move *move, uint64_t units)
{
    struct part parts[PARTS];
    uint64_t bytes = 0;

    if (!in_parts(move, SIDE_SOURCE)) return units * unit_bytes(move, SIDE_SOURCE);
    parts_of(parts, &move->layout, tiles_in(units));
    for (unsigned i = 0; i < PARTS; i++)
        bytes += tiles_in(units) * parts[i].tile_bytes;
    return bytes;
}

static enum status run_chunk(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct job *job = context;
    const struct move *move = move_of(job, index);
    struct chunk chunk = {.move = move, .crcs = &job->crcs[index], .buffers = &job->buffers[worker]};
    enum status status = OK;

    chunk.begin = (index - move->first_chunk) * move->chunk_units;
    chunk.count = units_of(move, index - move->first_chunk);
    switch (move->kind) {
    case MOVE_READ:
    case MOVE_COPY:
        status = copy_chunk(job, &chunk, err);
        break;
    case MOVE_CAST:
        status = cast_chunk(job, &chunk, err);
        break;
    case MOVE_PACK:
        status = pack_chunk(job, &chunk, err);
        break;
    case MOVE_UNPACK:
        status = unpack_chunk(job, &chunk, err);
        break;
    }
    progress_add(job->progress, source_bytes(move, chunk.count));
    return status;
}

/* ---- joining checksums ---- */

static uint32_t chunk_crc(
    const struct job *job, const struct move *move, enum side side, uint64_t chunk, unsigned part)
{
    const struct chunk_crcs *crcs = &job->crcs[move->first_chunk + chunk];

    return side == SIDE_SOURCE ? crcs->source[part] : crcs->target[part];
}

static uint32_t join_flat(const struct job *job, const struct move *move, enum side side)
{
    uint64_t bytes = unit_bytes(move, side);
    uint32_t crc = 0;

    for (uint64_t i = 0; i < chunks_of(move); i++)
        crc = file_crc32_combine(crc, chunk_crc(job, move, side, i, 0), units_of(move, i) * bytes);
    return crc;
}

/* Parts one after the other, with the zeros of the gaps between them. */
static uint32_t join_parts(const struct job *job, const struct move *move, enum side side)
{
    static const uint8_t zeros[64];
    struct part parts[PARTS];
    uint64_t end = 0;
    uint32_t crc = 0;

    parts_of(parts, &move->layout, 0);
    for (unsigned part = 0; part < PARTS; part++) {
        crc = file_crc32(crc, zeros, parts[part].in_tensor - end);
        end = parts[part].in_tensor;
        for (uint64_t i = 0; i < chunks_of(move); i++) {
            uint64_t bytes = tiles_in(units_of(move, i)) * parts[part].tile_bytes;
            crc = file_crc32_combine(crc, chunk_crc(job, move, side, i, part), bytes);
            end += bytes;
        }
    }
    return crc;
}

static uint32_t join(const struct job *job, const struct move *move, enum side side)
{
    return in_parts(move, side) ? join_parts(job, move, side) : join_flat(job, move, side);
}

/* Hand the checksums on; a source that records its own must agree. */
static enum status finish(struct job *job, uint32_t *source_crcs, struct error *err)
{
    for (uint64_t i = 0; i < job->move_count; i++) {
        const struct move *move = &job->moves[i];
        uint32_t crc = join(job, move, SIDE_SOURCE), recorded;
        if (container_checksum(job->container, move->source, &recorded) && recorded != crc)
            return fail(err, ERR_FORMAT,
                "%s: tensor %s: its bytes are damaged: CRC-32 %08" PRIx32 ", recorded %08" PRIx32,
                container_path(job->container), move->source->name, crc, recorded);
        source_crcs[container_index(job->container, move->source)] = crc;
        if (move->kind != MOVE_READ)
            nbl_writer_checksum(job->writer, move->target_index, join(job, move, SIDE_TARGET));
    }
    return OK;
}

/* ---- all of it ---- */

static uint64_t total_source_bytes(const struct job *job)
{
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < job->move_count; i++)
        bytes += job->moves[i].source->bytes;
    return bytes;
}

enum status transfer_run(struct container *container, struct nbl_writer *writer,
    const struct transfer_item *items, uint64_t count, uint32_t *source_crcs, struct pool *pool,
    const struct report *report, const char *label, struct error *err)
{
    struct job job = {.container = container, .writer = writer, .workers = pool_workers(pool)};
    enum status status = plan(&job, items, count, err);

    if (!status) status = allocate(&job, err);
    if (!status) status = nbl_writer_begin(writer, err);
    if (status) goto done;
    job.progress = progress_start(report, label, total_source_bytes(&job), PROGRESS_BYTES);
    status = pool_run(pool, job.chunk_count, run_chunk, &job, err);
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
