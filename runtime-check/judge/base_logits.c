/* Reading stored base logits. Opening walks over the headers of all blocks, so a file that is cut short anywhere is found out
 * before any work; blocks are unpacked when their rows are asked for, by all workers. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "runtime-check/judge/base_logits_parts.h"

/* No stream of zlib unpacks to more than 1032 times its size; what claims more is refused before memory is taken for it. */
enum { PACKED_RATIO_MOST = 1040 };

struct base_logits {
    struct file *file;
    struct base_logits_info info;
    struct base_logits_layout layout;
    struct windows windows;
    struct pool *pool;
    uint64_t *offsets; /* [blocks + 1] of each block's header, and the end */

    /* What base_logits_load made current. */
    uint64_t first_row, row_count;     /* rows of the file */
    uint64_t first_block, block_count; /* the blocks that hold them */
    uint8_t *blocks;                   /* [block_count][block_bytes] */
    uint64_t blocks_capacity;          /* in bytes */
    uint32_t *ids;                     /* [row_count][top_k] */
    float *log_probs;                  /* likewise */
    uint64_t tops_capacity;            /* in elements, of each */
};

/* ---- header and tokens ---- */

static enum status check_signature(const uint8_t *header, struct error *err)
{
    const uint32_t version = bytes_get_u32(header + 8);
    const uint64_t crc_at = BASE_LOGITS_HEADER_BYTES - BASE_LOGITS_CRC_BYTES;
    if (memcmp(header, base_logits_magic, sizeof base_logits_magic) != 0)
        return fail(
            err, ERR_FORMAT, "is no file of base logits (nibble-check compare --save-base writes them)");
    if (version != BASE_LOGITS_VERSION)
        return fail(err, ERR_UNSUPPORTED, "base logits of version %" PRIu32 "; this program reads version %d",
            version, BASE_LOGITS_VERSION);
    if (file_crc32(0, header, crc_at) != bytes_get_u32(header + crc_at))
        return fail(err, ERR_FORMAT, "the header's checksum (byte %" PRIu64 ") does not match", crc_at);
    return OK;
}

static enum status read_header(struct base_logits *stored, struct error *err)
{
    struct base_logits_info *info = &stored->info;
    uint8_t header[BASE_LOGITS_HEADER_BYTES];
    enum status status = file_read_at(stored->file, 0, header, sizeof header, err);
    if (status) return status;
    if ((status = check_signature(header, err))) return fail_within(err, status, "%s", stored->file->path);
    const uint32_t protocol = bytes_get_u32(header + 12);
    *info = (struct base_logits_info){
        .protocol = protocol == 0 ? PERPLEXITY_GPTQ : PERPLEXITY_LLAMA_CPP,
        .vocabulary = bytes_get_u32(header + 16),
        .top_k = bytes_get_u32(header + 20),
        .context = bytes_get_u64(header + 24),
        .windows = bytes_get_u64(header + 32),
        .model_bytes = bytes_get_u64(header + 40),
        .model_weights = bytes_get_u64(header + 48),
        .text_bytes = bytes_get_u64(header + 56),
        .text_crc32 = bytes_get_u32(header + 64),
    };
    error_quote(info->model, sizeof info->model, (const char *)header + 72,
        strnlen((const char *)header + 72, BASE_LOGITS_NAME));
    status = protocol > 1 ? fail(err, ERR_FORMAT, "protocol is %" PRIu32 ", not 0 or 1", protocol)
                          : base_logits_check_info(info, err);
    return status ? fail_within(err, status, "%s: header", stored->file->path) : OK;
}

/* Put the bytes at [offset, offset + 4 * count) into tokens as numbers. */
static void unpack_tokens(uint32_t *tokens, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        tokens[i] = bytes_get_u32((const uint8_t *)&tokens[i]);
}

/* *offset: behind the tokens and their checksum. */
static enum status read_tokens(struct base_logits *stored, uint64_t *offset, struct error *err)
{
    struct windows *windows = &stored->windows;
    const uint64_t begin = BASE_LOGITS_HEADER_BYTES, left = stored->file->bytes - begin;
    uint64_t count, bytes;
    uint8_t crc[BASE_LOGITS_CRC_BYTES];
    if (checked_multiply(&count, stored->info.windows, stored->info.context) ||
        checked_multiply(&bytes, count, sizeof(uint32_t)) || bytes > left || left - bytes < sizeof crc)
        return fail(err, ERR_FORMAT,
            "%s: ends at byte %" PRIu64 ", within the tokens: %" PRIu64 " windows of %" PRIu64
            " are announced",
            stored->file->path, stored->file->bytes, stored->info.windows, stored->info.context);
    windows->tokens = memory_new(count, sizeof *windows->tokens, err);
    if (!windows->tokens) return fail_within(err, ERR_MEMORY, "%s", stored->file->path);
    enum status status = file_read_at(stored->file, begin, windows->tokens, bytes, err);
    if (!status) status = file_read_at(stored->file, begin + bytes, crc, sizeof crc, err);
    if (status) return status;
    if (file_crc32(0, windows->tokens, bytes) != bytes_get_u32(crc))
        return fail(err, ERR_FORMAT, "%s: the tokens' checksum (byte %" PRIu64 ") does not match",
            stored->file->path, begin + bytes);
    unpack_tokens(windows->tokens, count);
    for (uint64_t i = 0; i < count; i++) {
        if (windows->tokens[i] < stored->info.vocabulary) continue;
        return fail(err, ERR_FORMAT, "%s: token %" PRIu64 " is %" PRIu32 ", the vocabulary has %" PRIu32,
            stored->file->path, i, windows->tokens[i], stored->info.vocabulary);
    }
    windows->token_count = count;
    windows->context = stored->info.context;
    windows->count = stored->info.windows;
    windows_place(windows, stored->info.protocol);
    stored->info.scored = windows->scored;
    *offset = begin + bytes + sizeof crc;
    return OK;
}

/* ---- the index ---- */

static uint64_t unpacked_bytes(const struct base_logits *stored, uint64_t block)
{
    return base_logits_block_rows(&stored->layout, block) * stored->layout.row_bytes;
}

/* One block's header: is there room for what it announces, and is that enough for its rows? */
static enum status index_block(
    struct base_logits *stored, uint64_t block, uint64_t *offset, struct error *err)
{
    const struct file *file = stored->file;
    uint8_t header[BASE_LOGITS_BLOCK_HEADER_BYTES];
    if (file->bytes - *offset < sizeof header)
        return fail(err, ERR_FORMAT,
            "%s: ends at byte %" PRIu64 ", before block %" PRIu64 " of %" PRIu64 " of the logits", file->path,
            file->bytes, block, stored->layout.blocks);
    enum status status = file_read_at(stored->file, *offset, header, sizeof header, err);
    if (status) return status;
    const uint64_t packed = bytes_get_u32(header), left = file->bytes - *offset - sizeof header;
    if (packed > left)
        return fail(err, ERR_FORMAT,
            "%s: ends at byte %" PRIu64 ", but block %" PRIu64 " at byte %" PRIu64 " has %" PRIu64 " bytes",
            file->path, file->bytes, block, *offset, packed);
    if (unpacked_bytes(stored, block) / PACKED_RATIO_MOST > packed)
        return fail(err, ERR_FORMAT,
            "%s: block %" PRIu64 " at byte %" PRIu64 " has %" PRIu64 " bytes, too few for %" PRIu64
            " unpacked",
            file->path, block, *offset, packed, unpacked_bytes(stored, block));
    stored->offsets[block] = *offset;
    *offset += sizeof header + packed;
    return OK;
}

static enum status read_index(struct base_logits *stored, uint64_t offset, struct error *err)
{
    const struct file *file = stored->file;
    const uint64_t blocks = stored->layout.blocks;
    enum status status = OK;
    if (blocks > (file->bytes - offset) / BASE_LOGITS_BLOCK_HEADER_BYTES)
        return fail(err, ERR_FORMAT,
            "%s: ends at byte %" PRIu64 ", too early for %" PRIu64 " blocks of logits", file->path,
            file->bytes, blocks);
    stored->offsets = memory_new(blocks + 1, sizeof *stored->offsets, err);
    if (!stored->offsets) return fail_within(err, ERR_MEMORY, "%s", file->path);
    for (uint64_t block = 0; block < blocks && !status; block++)
        status = index_block(stored, block, &offset, err);
    if (status) return status;
    stored->offsets[blocks] = offset;
    if (offset == file->bytes) return OK;
    return fail(err, ERR_FORMAT, "%s: %" PRIu64 " bytes after the last block, which ends at byte %" PRIu64,
        file->path, file->bytes - offset, offset);
}

/* ---- life ---- */

enum status base_logits_open(struct base_logits **out, const char *path, struct pool *pool, struct error *err)
{
    struct base_logits *stored = memory_new(1, sizeof *stored, err);
    uint64_t offset = 0;
    *out = NULL;
    if (!stored) return ERR_MEMORY;
    stored->pool = pool;
    enum status status = file_open(&stored->file, path, err);
    if (!status) status = read_header(stored, err);
    if (!status) status = read_tokens(stored, &offset, err);
    if (!status) {
        base_logits_layout(&stored->layout, &stored->info);
        status = read_index(stored, offset, err);
    }
    if (status)
        base_logits_close(stored);
    else
        *out = stored;
    return status;
}

void base_logits_close(struct base_logits *stored)
{
    if (!stored) return;
    file_close(stored->file);
    windows_free(&stored->windows);
    memory_free(stored->offsets);
    memory_free(stored->blocks);
    memory_free(stored->ids);
    memory_free(stored->log_probs);
    memory_free(stored);
}

const struct base_logits_info *base_logits_info(const struct base_logits *stored)
{
    return &stored->info;
}

const char *base_logits_path(const struct base_logits *stored)
{
    return stored->file->path;
}

const struct windows *base_logits_windows(const struct base_logits *stored)
{
    return &stored->windows;
}

/* ---- rows ---- */

/* Where a row of the file lies among the current blocks. */
struct place {
    uint8_t *block;
    uint64_t rows, row;
};

static struct place place_of(const struct base_logits *stored, uint64_t file_row)
{
    const struct base_logits_layout *layout = &stored->layout;
    const uint64_t block = file_row / layout->block_rows;
    return (struct place){
        .block = stored->blocks + (block - stored->first_block) * layout->block_rows * layout->row_bytes,
        .rows = base_logits_block_rows(layout, block),
        .row = file_row % layout->block_rows,
    };
}

static enum status unpack(struct base_logits *stored, uint64_t block, const uint8_t *packed,
    uint64_t packed_bytes, struct error *err)
{
    const uint8_t *data = packed + BASE_LOGITS_BLOCK_HEADER_BYTES;
    const uint64_t count = packed_bytes - BASE_LOGITS_BLOCK_HEADER_BYTES;
    const struct place place = place_of(stored, block * stored->layout.block_rows);
    if (bytes_get_u32(packed) != count) return fail(err, ERR_FORMAT, "has changed since the file was opened");
    if (file_crc32(0, data, count) != bytes_get_u32(packed + 4))
        return fail(err, ERR_FORMAT, "the checksum does not match");
    return file_unpack(place.block, unpacked_bytes(stored, block), data, count, err);
}

static enum status load_block(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct base_logits *stored = context;
    const uint64_t block = stored->first_block + index, offset = stored->offsets[block];
    const uint64_t bytes = stored->offsets[block + 1] - offset;
    uint8_t *packed = memory_new(bytes, 1, err);
    (void)worker;
    enum status status = packed ? file_read_at(stored->file, offset, packed, bytes, err) : ERR_MEMORY;
    if (!status) {
        status = unpack(stored, block, packed, bytes, err);
        if (status)
            status = fail_within(
                err, status, "%s: block %" PRIu64 " at byte %" PRIu64, stored->file->path, block, offset);
    }
    memory_free(packed);
    return status;
}

static enum status check_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct base_logits *stored = context;
    const struct place place = place_of(stored, stored->first_row + index);
    const uint64_t at = index * stored->layout.top_k;
    (void)worker;
    enum status status = base_logits_check_row(
        &stored->layout, place.block, place.rows, place.row, stored->ids + at, stored->log_probs + at, err);
    return status ? fail_within(
                        err, status, "%s: scored row %" PRIu64, stored->file->path, stored->first_row + index)
                  : OK;
}

/* A new array where the old one is too small. */
static enum status make_room(void **array, uint64_t needed, uint64_t size, struct error *err)
{
    memory_free(*array);
    *array = memory_new(needed, size, err);
    return *array ? OK : ERR_MEMORY;
}

static enum status make_all_room(struct base_logits *stored, struct error *err)
{
    const uint64_t bytes = stored->block_count * stored->layout.block_rows * stored->layout.row_bytes;
    const uint64_t tops = stored->row_count * stored->layout.top_k;
    void *blocks = stored->blocks, *ids = stored->ids, *log_probs = stored->log_probs;
    enum status status = OK;
    if (!blocks || bytes > stored->blocks_capacity) {
        stored->blocks_capacity = bytes;
        status = make_room(&blocks, bytes, 1, err);
    }
    if (!status && (!ids || !log_probs || tops > stored->tops_capacity)) {
        stored->tops_capacity = tops;
        status = make_room(&ids, tops, sizeof *stored->ids, err);
        if (!status) status = make_room(&log_probs, tops, sizeof *stored->log_probs, err);
    }
    stored->blocks = blocks;
    stored->ids = ids;
    stored->log_probs = log_probs;
    return status;
}

enum status base_logits_load(
    struct base_logits *stored, uint64_t window, uint64_t begin, uint64_t count, struct error *err)
{
    const uint64_t scored = stored->info.scored, block_rows = stored->layout.block_rows;
    if (window >= stored->info.windows || begin > scored || count > scored - begin || count == 0)
        return fail(err, ERR_USAGE, "%s: has no rows %" PRIu64 " to %" PRIu64 " of window %" PRIu64,
            stored->file->path, begin, begin + count, window);
    stored->first_row = window * scored + begin;
    stored->row_count = count;
    stored->first_block = stored->first_row / block_rows;
    stored->block_count = (stored->first_row + count - 1) / block_rows + 1 - stored->first_block;
    enum status status = make_all_room(stored, err);
    if (!status) status = pool_run(stored->pool, stored->block_count, load_block, stored, err);
    return status ? status : pool_run(stored->pool, count, check_row, stored, err);
}

double base_logits_target(const struct base_logits *stored, uint64_t row)
{
    const struct place place = place_of(stored, stored->first_row + row);
    return (double)base_logits_number(
        place.block, place.rows, place.row, stored->layout.top_k ? TOP_TARGET : WHOLE_TARGET);
}

uint32_t base_logits_first(const struct base_logits *stored, uint64_t row)
{
    const struct place place = place_of(stored, stored->first_row + row);
    if (stored->layout.top_k) return stored->ids[row * stored->layout.top_k];
    return base_logits_word(place.block, place.rows, place.row, WHOLE_FIRST);
}

void base_logits_row(const struct base_logits *stored, uint64_t row, float *out)
{
    const struct place place = place_of(stored, stored->first_row + row);
    base_logits_decode(&stored->layout, place.block, place.rows, place.row, out);
}

void base_logits_row_top(const struct base_logits *stored, uint64_t row, struct base_logits_top *out)
{
    const struct place place = place_of(stored, stored->first_row + row);
    const uint64_t at = row * stored->layout.top_k;
    *out = (struct base_logits_top){
        .ids = stored->ids + at,
        .log_probs = stored->log_probs + at,
        .log_rest = (double)base_logits_number(place.block, place.rows, place.row, TOP_REST),
    };
}
