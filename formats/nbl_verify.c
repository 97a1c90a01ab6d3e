/* Verifying a .nbl file: opening it has checked header, table and metadata; here every other byte is read and
 * checked against SPEC.md: padding (N13, N26), checksums (N27), and what the parts of tile storage (N33 to N37) and of sparse storage
 * (N40 to N44) may hold. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/nbl.h"
#include "formats/nbl_layout.h"
#include "formats/reader.h"
#include "formats/sparse_part.h"

#define CHUNK_BYTES (1 << 20)
#define BLOCK_CODES (TILE_ROWS * TILE_COLS)
_Static_assert(CHUNK_BYTES >= NBL_DATA_ALIGNMENT, "padding fits in a chunk");
_Static_assert(CHUNK_BYTES % 2 == 0, "no scale is cut in two");

struct check {
    struct container *container;
    struct file *file;
    uint8_t *chunk; /* [CHUNK_BYTES] */
    struct nbl_verification *out;
    struct error *err;
    void (*fault)(void *context, const char *text);
    void *context;
};

static void found(struct check *check, const char *format, ...) NIBBLE_PRINTF(2, 3);

/* Tell of one fault; the first is also the error returned in the end. */
static void found(struct check *check, const char *format, ...)
{
    struct error error;
    va_list arguments;
    char text[sizeof error.text];

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail(&error, ERR_CHECK, "%s: %s", check->file->path, text);
    if (check->out->faults++ == 0 && check->err) *check->err = error;
    if (check->fault) check->fault(check->context, error.text);
}

static bool find_nonzero(const uint8_t *bytes, uint64_t count, uint64_t *at)
{
    for (*at = 0; *at < count; ++*at) {
        if (bytes[*at] != 0) return true;
    }
    return false;
}

/* Padding between the parts of the file is zero (N13, N26). It is shorter than a chunk. */
static enum status check_padding(struct check *check, uint64_t begin, uint64_t end)
{
    enum status status = file_read_at(check->file, begin, check->chunk, end - begin, check->err);
    uint64_t at;

    if (status) return status;
    if (find_nonzero(check->chunk, end - begin, &at))
        found(check, "padding at byte %" PRIu64 " is not zero", begin + at);
    return OK;
}

/* Read the next piece of part [begin, end) of a tensor into the chunk; *count is 0 at the part's end. */
static enum status next_piece(
    struct check *check, const struct tensor *tensor, uint64_t at, uint64_t end, uint64_t *count)
{
    *count = end - at < CHUNK_BYTES ? end - at : CHUNK_BYTES;
    return container_read(check->container, tensor, at, check->chunk, *count, check->err);
}

/* ---- tile storage ---- */

/* Each check below tells its first fault only, so that a damaged tensor is a few lines and not a million. */

/* Does entry number `index` of the scales or zero-points, [tiles][groups][8], belong to a row? */
static bool row_exists(const struct tiles_layout *layout, uint64_t index)
{
    return index / TILE_ROWS / layout->groups * TILE_ROWS + index % TILE_ROWS < layout->rows;
}

/* Gaps between the parts are zero (N33). */
static enum status check_gap(struct check *check, const struct tensor *tensor, uint64_t begin, uint64_t end)
{
    enum status status;
    uint64_t count, at;

    if (begin == end) return OK;
    status = next_piece(check, tensor, begin, end, &count);
    if (status) return status;
    if (find_nonzero(check->chunk, count, &at))
        found(check, "tensor %s: the gap at byte %" PRIu64 " is not zero", tensor->name, begin + at);
    return OK;
}

/* Scales, which begin at byte `begin` of the tensor, are finite, and zero for rows past the end (N34, N36, N44). */
static enum status check_scales(
    struct check *check, const struct tensor *tensor, const struct tiles_layout *layout, uint64_t begin)
{
    uint64_t end = begin + layout->tiles * layout->tile_scale_bytes, count;

    for (uint64_t at = begin; at < end; at += count) {
        enum status status = next_piece(check, tensor, at, end, &count);
        if (status) return status;
        for (uint64_t i = 0; i < count; i += 2) {
            uint16_t scale = bytes_get_u16(check->chunk + i);
            bool exists = row_exists(layout, (at - begin + i) / 2);
            if (exists ? (scale & 0x7C00) != 0x7C00 : scale == 0) continue;
            found(check, "tensor %s: the scale at byte %" PRIu64 " is 0x%04x, must be %s", tensor->name,
                at + i, scale, exists ? "finite" : "0 in a row past the end");
            return OK;
        }
    }
    return OK;
}

/* Zero-points are codes, and zero for rows past the end (N35, N36). */
static enum status check_zeros(
    struct check *check, const struct tensor *tensor, const struct tiles_layout *layout)
{
    uint64_t begin = layout->zeros_offset, end = begin + layout->tiles * layout->tile_zero_bytes, count;

    for (uint64_t at = begin; at < end; at += count) {
        enum status status = next_piece(check, tensor, at, end, &count);
        if (status) return status;
        for (uint64_t i = 0; i < count; i++) {
            unsigned limit = row_exists(layout, at - begin + i) ? (1u << layout->bits) - 1 : 0;
            if (check->chunk[i] <= limit) continue;
            found(check, "tensor %s: the zero-point at byte %" PRIu64 " is %u, must not be above %u",
                tensor->name, at + i, check->chunk[i], limit);
            return OK;
        }
    }
    return OK;
}

/* One block of one tile: rows past the end have codes 0 (N36), columns past the end decode to 0 (N37).
 *
 *   padding  [8]  the code that decodes to 0 in the last group of each row */
static enum status check_block(struct check *check, const struct tensor *tensor,
    const struct tiles_layout *layout, uint64_t tile, uint64_t block, const uint8_t *padding)
{
    const struct scheme scheme = {.bits = layout->bits, .group = TILE_COLS};
    uint64_t at = tile * layout->tile_code_bytes + block * layout->block_bytes;
    struct tiles_layout one;
    uint8_t codes[BLOCK_CODES];
    enum status status;

    status = container_read(check->container, tensor, at, check->chunk, layout->block_bytes, check->err);
    if (!status) status = tiles_layout(&one, TILE_ROWS, TILE_COLS, scheme, check->err);
    if (status) return status;
    tiles_unpack(&one, codes, check->chunk);
    for (unsigned i = 0; i < BLOCK_CODES; i++) {
        uint64_t row = tile * TILE_ROWS + i / TILE_COLS, col = block * TILE_COLS + i % TILE_COLS;
        bool exists = row < layout->rows;
        unsigned expected = exists ? padding[i / TILE_COLS] : 0;
        if ((exists && col < layout->cols) || codes[i] == expected) continue;
        found(check, "tensor %s: row %" PRIu64 " column %" PRIu64 " is padding and has code %u, must be %u",
            tensor->name, row, col, codes[i], expected);
        break;
    }
    return OK;
}

/* All blocks of a tile that hold padding: every one if rows are missing, else the last if columns are. */
static enum status check_tile(
    struct check *check, const struct tensor *tensor, const struct tiles_layout *layout, uint64_t tile)
{
    uint64_t block = (tile + 1) * TILE_ROWS > layout->rows ? 0 : layout->blocks - 1,
             faults = check->out->faults;
    uint8_t padding[TILE_ROWS];
    enum status status = OK;

    memset(padding, 1 << (layout->bits - 1), sizeof padding);
    if (layout->asymmetric) { /* the last group of this tile ends where the next tile begins */
        uint64_t at = layout->zeros_offset + (tile + 1) * layout->tile_zero_bytes - TILE_ROWS;
        status = container_read(check->container, tensor, at, padding, sizeof padding, check->err);
    }
    for (; block < layout->blocks && !status && check->out->faults == faults; block++)
        status = check_block(check, tensor, layout, tile, block, padding);
    return status;
}

static enum status check_code_padding(
    struct check *check, const struct tensor *tensor, const struct tiles_layout *layout)
{
    uint64_t faults = check->out->faults;
    uint64_t tile = layout->cols % TILE_COLS != 0 ? 0 : layout->rows / TILE_ROWS; /* without padding: none */
    enum status status = OK;

    for (; tile < layout->tiles && !status && check->out->faults == faults; tile++)
        status = check_tile(check, tensor, layout, tile);
    return status;
}

static enum status check_tiles(struct check *check, const struct tensor *tensor)
{
    uint64_t codes_end, scales_end;
    struct tiles_layout layout;
    enum status status =
        tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, check->err);

    if (status) return status;
    codes_end = layout.tiles * layout.tile_code_bytes;
    scales_end = layout.scales_offset + layout.tiles * layout.tile_scale_bytes;
    status = check_gap(check, tensor, codes_end, layout.scales_offset);
    if (!status) status = check_gap(check, tensor, scales_end, layout.zeros_offset);
    if (!status) status = check_scales(check, tensor, &layout, layout.scales_offset);
    if (!status) status = check_zeros(check, tensor, &layout);
    if (!status) status = check_code_padding(check, tensor, &layout);
    return status;
}

/* ---- sparse storage ---- */

/* One tile: its masks, and how far its codes reach (N40 to N43).
 *   part  the layout of the tile as it lies at `bytes`, a sparse tensor of its own */
static void check_sparse_tile(struct check *check, const struct tensor *tensor,
    const struct sparse_layout *part, const uint8_t *bytes, uint64_t tile)
{
    struct sparse_fault fault;
    struct sparse_tile parts;

    if (sparse_at(&parts, part, bytes, 0, NULL) || sparse_check(&fault, part, &parts)) return;
    found(check, "tensor %s: tile %" PRIu64 ", block %" PRIu64 ": %s", tensor->name, tile, fault.block,
        fault.text);
}

/* Tiles, one after the other. */
static enum status check_sparse_tiles(
    struct check *check, const struct tensor *tensor, const struct sparse_layout *layout)
{
    const uint64_t faults = check->out->faults, rows = layout->dense.rows;
    uint8_t *bytes = memory_new(sparse_part_bytes(layout, TILE_ROWS), 1, check->err);
    enum status status = bytes ? OK : ERR_MEMORY;
    struct sparse_layout part;

    for (uint64_t row = 0; row < rows && !status && check->out->faults == faults; row += TILE_ROWS) {
        struct error err;
        status = sparse_part_read(&part, check->container, tensor, layout, row,
            rows - row < TILE_ROWS ? rows - row : TILE_ROWS, bytes, &err);
        if (status == ERR_FORMAT) { /* offsets: a fault like any other, but nothing more can be found */
            found(check, "%s", err.text);
            status = OK;
        } else if (!status) {
            check_sparse_tile(check, tensor, &part, bytes, row / TILE_ROWS);
        } else if (check->err) {
            *check->err = err;
        }
    }
    memory_free(bytes);
    return status;
}

/* The first offset is 0 and the last where the codes end (N40): those between are each tile's. */
static enum status check_ends(
    struct check *check, const struct tensor *tensor, const struct sparse_layout *layout)
{
    const uint64_t last = layout->offsets_offset + 4 * layout->dense.tiles;
    uint8_t first_bytes[4], last_bytes[4];
    enum status status;

    if (layout->mask != MASK_BITMAP) return OK;
    status = container_read(check->container, tensor, layout->offsets_offset, first_bytes, 4, check->err);
    if (!status) status = container_read(check->container, tensor, last, last_bytes, 4, check->err);
    if (!status && (bytes_get_u32(first_bytes) != 0 || bytes_get_u32(last_bytes) != layout->code_bytes / 8))
        found(check, "tensor %s: offsets from %" PRIu32 " to %" PRIu32 ", must be from 0 to %" PRIu64,
            tensor->name, bytes_get_u32(first_bytes), bytes_get_u32(last_bytes), layout->code_bytes / 8);
    return status;
}

static enum status check_sparse(struct check *check, const struct tensor *tensor)
{
    struct sparse_layout layout;
    enum status status = sparse_layout_of(&layout, tensor, check->err);
    uint64_t tiles, offsets_end, scales_end, faults = check->out->faults;

    if (status) return status;
    tiles = layout.dense.tiles;
    offsets_end = layout.offsets_offset + (layout.mask == MASK_BITMAP ? 4 * (tiles + 1) : 0);
    scales_end = layout.scales_offset + tiles * layout.tile_scale_bytes;
    status = check_gap(check, tensor, tiles * layout.tile_mask_bytes, layout.offsets_offset);
    if (!status) status = check_gap(check, tensor, offsets_end, layout.scales_offset);
    if (!status) status = check_gap(check, tensor, scales_end, layout.codes_offset);
    if (!status) status = check_gap(check, tensor, layout.codes_offset + layout.code_bytes, layout.bytes);
    if (!status && layout.quantized)
        status = check_scales(check, tensor, &layout.dense, layout.scales_offset);
    if (!status) status = check_ends(check, tensor, &layout);
    if (!status && check->out->faults == faults) status = check_sparse_tiles(check, tensor, &layout);
    return status;
}

/* ---- the whole file ---- */

static enum status check_checksum(struct check *check, const struct tensor *tensor)
{
    uint32_t crc = 0, recorded;
    uint64_t count;

    for (uint64_t at = 0; at < tensor->bytes; at += count) {
        enum status status = next_piece(check, tensor, at, tensor->bytes, &count);
        if (status) return status;
        crc = file_crc32(crc, check->chunk, count);
    }
    container_checksum(check->container, tensor, &recorded);
    if (crc != recorded)
        found(check, "tensor %s: its bytes are damaged: CRC-32 %08" PRIx32 ", recorded %08" PRIx32,
            tensor->name, crc, recorded);
    return OK;
}

static enum status check_file(struct check *check, const struct nbl_header *header)
{
    const struct container *container = check->container;
    uint64_t end = NBL_HEADER_BYTES + header->table_bytes;
    enum status status = OK;

    for (uint64_t i = 0; i < container->entry_count && !status; i++) {
        const struct reader_entry *entry = &container->entries[i];
        status = check_padding(check, end, entry->offset);
        if (!status) status = check_checksum(check, &entry->tensor);
        if (!status && entry->tensor.storage == STORAGE_TILES) status = check_tiles(check, &entry->tensor);
        if (!status && entry->tensor.storage == STORAGE_SPARSE) status = check_sparse(check, &entry->tensor);
        end = entry->offset + entry->tensor.bytes;
    }
    return status ? status : check_padding(check, end, header->metadata_offset);
}

/* Everything that opening has not looked at. */
static enum status check_opened(struct check *check)
{
    uint8_t bytes[NBL_HEADER_BYTES];
    struct nbl_header header;
    enum status status;

    if (!check->container->records_checksums)
        return fail(check->err, ERR_FORMAT, "%s: is a %s file, not .nbl", check->container->path,
            check->container->format);
    check->file = check->container->files[0].file;
    check->out->tensors = check->container->entry_count;
    check->out->bytes = check->file->bytes;
    check->chunk = memory_new(CHUNK_BYTES, 1, check->err);
    if (!check->chunk) return ERR_MEMORY;
    status = file_read_at(check->file, 0, bytes, NBL_HEADER_BYTES, check->err);
    if (!status) status = nbl_get_header(&header, bytes, check->file->bytes, check->err);
    if (!status) status = check_file(check, &header);
    return status;
}

enum status nbl_verify(struct nbl_verification *out, const char *path,
    void (*fault)(void *context, const char *text), void *context, struct error *err)
{
    struct check check = {.out = out, .err = err, .fault = fault, .context = context};
    enum status status;

    *out = (struct nbl_verification){0};
    status = container_open(&check.container, path, err);
    if (!status) status = check_opened(&check);
    memory_free(check.chunk);
    container_close(check.container);
    if (status) return status;
    return out->faults > 0 ? ERR_CHECK : OK;
}
