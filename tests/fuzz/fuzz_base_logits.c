/* Any bytes as stored base logits: as they are; with checksums that fit; and with everything after the tokens packed, so that what
 * is inside the blocks can be anything. What opens must be readable, or refused, row by row. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "formats/bytes.h"
#include "runtime-check/judge/base_logits.h"
#include "tests/fuzz/fuzz.h"

enum { HEADER = 336, ROWS_MOST = 64, VOCABULARY_MOST = 1 << 16 };

static struct pool *pool;

static void check_row(const struct base_logits *stored, uint64_t row)
{
    static float whole[VOCABULARY_MOST];
    const struct base_logits_info *info = base_logits_info(stored);
    struct base_logits_top top;
    if (!isfinite(base_logits_target(stored, row))) abort();
    if (base_logits_first(stored, row) >= info->vocabulary) abort();
    if (!info->top_k) {
        if (info->vocabulary > VOCABULARY_MOST) return;
        base_logits_row(stored, row, whole);
        for (uint32_t i = 0; i < info->vocabulary; i++) {
            if (!isfinite(whole[i])) abort();
        }
        return;
    }
    base_logits_row_top(stored, row, &top);
    for (uint64_t i = 0; i < info->top_k; i++) {
        if (top.ids[i] >= info->vocabulary || !isfinite(top.log_probs[i])) abort();
    }
    if (isnan(top.log_rest) || top.log_rest > 1) abort();
}

static void read_all(const uint8_t *data, size_t size)
{
    struct base_logits *stored = NULL;
    char path[FUZZ_PATH_BYTES];
    const int descriptor = fuzz_file(path, data, size);
    if (base_logits_open(&stored, path, pool, NULL) == OK) {
        const struct base_logits_info *info = base_logits_info(stored);
        for (uint64_t window = 0; window < info->windows && window < ROWS_MOST; window++) {
            const uint64_t count = info->scored < ROWS_MOST ? info->scored : ROWS_MOST;
            if (base_logits_load(stored, window, info->scored - count, count, NULL) != OK) break;
            for (uint64_t row = 0; row < count; row++)
                check_row(stored, row);
        }
    }
    base_logits_close(stored);
    close(descriptor);
}

/* Where the tokens end, their checksum not counted; 0: beyond the data. */
static size_t tokens_end(const uint8_t *data, size_t size)
{
    const uint64_t context = bytes_get_u64(data + 24), windows = bytes_get_u64(data + 32);
    const uint64_t left = (size - HEADER) / 4;
    if (context == 0 || windows == 0 || context > left || windows > left / context) return 0;
    const size_t end = HEADER + 4 * context * windows;
    return size - end < 4 ? 0 : end;
}

static void repair(uint8_t *data, size_t size)
{
    bytes_put(data + HEADER - 4, file_crc32(0, data, HEADER - 4), 4);
    const size_t end = tokens_end(data, size);
    if (!end) return;
    bytes_put(data + end, file_crc32(0, data + HEADER, end - HEADER), 4);
    for (size_t at = end + 4; size - at >= 8;) {
        const size_t count = bytes_get_u32(data + at), left = size - at - 8;
        if (count > left) return;
        bytes_put(data + at + 4, file_crc32(0, data + at + 8, count), 4);
        at += 8 + count;
    }
}

/* What follows the tokens becomes one block. */
static void read_packed(const uint8_t *data, size_t size)
{
    const size_t end = tokens_end(data, size);
    if (!end) return;
    const size_t front = end + 4, count = size - front, room = file_pack_bound(count);
    uint8_t *file = malloc(front + 8 + room);
    uint64_t packed;
    if (!file) return;
    memcpy(file, data, front);
    if (file_pack(file + front + 8, room, &packed, data + front, count, NULL) != OK) abort();
    bytes_put(file + front, packed, 4);
    repair(file, front + 8 + packed);
    read_all(file, front + 8 + packed);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!pool && pool_create(&pool, 1, NULL) != OK) abort();
    read_all(data, size);
    if (size < HEADER) return 0;
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data, size);
    repair(copy, size);
    read_all(copy, size);
    read_packed(copy, size);
    free(copy);
    return 0;
}
