/* Reading importance matrices. Nothing is believed before the bytes that remain allow it. */
#include "quantize/imatrix.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "model/gguf/gguf_names.h"

#define SUMS_SUFFIX ".in_sum2"
#define COUNTS_SUFFIX ".counts"

/* ---- entries ---- */

static bool is_known(const struct imatrix *imatrix, enum role role, uint32_t layer)
{
    for (uint64_t i = 0; i < imatrix->count; i++) {
        if (imatrix->entries[i].role == role && imatrix->entries[i].layer == layer) return true;
    }
    return false;
}

/* Keep `cols` sums, little-endian floats at any address, divided by `count`, as the entry of `name`, if that is a known matrix.
 * entries has room. */
static enum status add(struct imatrix *out, const char *name, const uint8_t *sums, uint64_t cols,
    double count, struct error *err)
{
    struct imatrix_entry entry = {.cols = cols};
    bool some = false;
    if (!gguf_names_role(name, &entry.role, &entry.layer) &&
        !gguf_names_fused_role(name, &entry.role, &entry.layer))
        return OK;
    if (is_known(out, entry.role, entry.layer)) return fail(err, ERR_FORMAT, "is there twice");
    if (!isfinite(count) || count <= 0) return fail(err, ERR_FORMAT, "counts %g tokens", count);
    entry.means = memory_new(cols, sizeof *entry.means, err);
    if (!entry.means) return ERR_MEMORY;
    out->entries[out->count++] = entry;
    for (uint64_t i = 0; i < cols; i++) {
        uint32_t bits = bytes_get_u32(sums + 4 * i);
        float sum;
        memcpy(&sum, &bits, sizeof sum);
        if (!isfinite(sum) || sum < 0)
            return fail(err, ERR_FORMAT, "sum of squares %" PRIu64 " is %g", i, (double)sum);
        entry.means[i] = (float)(sum / count);
        some = some || entry.means[i] > 0;
    }
    return some ? OK : fail(err, ERR_FORMAT, "all sums are 0: the matrix was not used");
}

/* ---- .dat ---- */

/* What is left of the file. */
struct rest {
    const uint8_t *at;
    uint64_t bytes, offset;
};

static enum status take_bytes(
    struct rest *rest, uint64_t bytes, const char *what, const uint8_t **out, struct error *err)
{
    *out = rest->at;
    if (bytes > rest->bytes)
        return fail(err, ERR_FORMAT,
            "offset %" PRIu64 ": truncated: %s takes %" PRIu64 " bytes, %" PRIu64 " are left", rest->offset,
            what, bytes, rest->bytes);
    rest->at += bytes;
    rest->offset += bytes;
    rest->bytes -= bytes;
    return OK;
}

/* A number between `least` and `most`; it is stored with a sign. */
static enum status take_number(
    struct rest *rest, uint64_t least, uint64_t most, const char *what, uint64_t *out, struct error *err)
{
    const uint8_t *at;
    uint64_t offset = rest->offset;
    *out = 0;
    enum status status = take_bytes(rest, 4, what, &at, err);
    if (status != OK) return status;
    *out = bytes_get_u32(at);
    if (*out >= least && *out <= most) return OK;
    return fail(err, ERR_FORMAT, "offset %" PRIu64 ": %s is %" PRId32, offset, what, (int32_t)*out);
}

/* One entry: a name, how often the matrix was called, and sums that are means multiplied by that. */
static enum status read_entry(struct imatrix *out, struct rest *rest, struct error *err)
{
    char name[CONTAINER_NAME_LIMIT + 1];
    const uint8_t *text = NULL, *sums = NULL;
    uint64_t bytes, calls, cols;
    enum status status = take_number(rest, 1, CONTAINER_NAME_LIMIT, "the length of a name", &bytes, err);
    if (status == OK) status = take_bytes(rest, bytes, "a name", &text, err);
    if (status != OK) return status;
    memcpy(name, text, bytes);
    name[bytes] = '\0';
    status = take_number(rest, 0, INT32_MAX, "a count of calls", &calls, err);
    if (status == OK) status = take_number(rest, 1, INT32_MAX, "a count of columns", &cols, err);
    if (status == OK) status = take_bytes(rest, 4 * cols, "a row of sums", &sums, err);
    if (status != OK) return status;
    status = add(out, name, sums, cols, calls ? (double)calls : 1, err);
    return status == OK ? OK : fail_within(err, status, "%s", name);
}

#define ENTRY_LEAST 17 /* bytes: a name of one letter, one column */

/* After the entries, in most files: the last chunk, and the name of the text. */
static enum status read_trailer(struct rest *rest, struct error *err)
{
    const uint8_t *text;
    uint64_t chunks, bytes;
    if (rest->bytes == 0) return OK;
    enum status status = take_number(rest, 0, INT32_MAX, "the count of chunks", &chunks, err);
    if (status != OK || rest->bytes == 0) return status;
    status = take_number(rest, 0, INT32_MAX, "the length of the text's name", &bytes, err);
    if (status == OK) status = take_bytes(rest, bytes, "the text's name", &text, err);
    if (status != OK || rest->bytes == 0) return status;
    return fail(
        err, ERR_FORMAT, "offset %" PRIu64 ": %" PRIu64 " bytes are left over", rest->offset, rest->bytes);
}

static enum status read_dat(struct imatrix *out, const struct file *file, struct error *err)
{
    struct rest rest = {file->map, file->bytes, 0};
    uint64_t count;
    enum status status = take_number(&rest, 1, file->bytes / ENTRY_LEAST,
        "no GGUF file; as an importance matrix of the older kind its count of entries", &count, err);
    if (status != OK) return status;
    out->entries = memory_new(count, sizeof *out->entries, err);
    if (!out->entries) return ERR_MEMORY;
    for (uint64_t i = 0; i < count && status == OK; i++)
        status = read_entry(out, &rest, err);
    return status == OK ? read_trailer(&rest, err) : status;
}

/* ---- GGUF ---- */

static enum status check_kind(const struct container *container, struct error *err)
{
    const char *kind = NULL;
    uint64_t bytes = 0;
    enum status status =
        metadata_get_string(container_metadata(container), "general.type", &kind, &bytes, err);
    if (status != OK) return status;
    if (kind && bytes == strlen("imatrix") && memcmp(kind, "imatrix", bytes) == 0) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "is no importance matrix: its general.type is not imatrix; llama-imatrix makes one");
}

static bool is_plain(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_DENSE && tensor->dtype == DTYPE_F32;
}

/* The entry whose sums are `sums`; `name` has their suffix cut off. */
static enum status read_pair(struct imatrix *out, const struct container *container, const char *name,
    const struct tensor *sums, struct error *err)
{
    char counts_name[CONTAINER_NAME_LIMIT + sizeof COUNTS_SUFFIX];
    snprintf(counts_name, sizeof counts_name, "%s" COUNTS_SUFFIX, name);
    const struct tensor *counts = container_find(container, counts_name);
    if (!counts) return fail(err, ERR_FORMAT, "has sums but no counts");
    if (!is_plain(sums) || !is_plain(counts)) return fail(err, ERR_FORMAT, "its sums and counts are not F32");
    if (counts->elements != 1)
        return fail(err, ERR_UNSUPPORTED, "counts for %" PRIu64 " matrices; experts are not known here",
            counts->elements);
    uint32_t bits = bytes_get_u32(counts->data);
    float count;
    memcpy(&count, &bits, sizeof count);
    return add(out, name, sums->data, sums->elements, (double)count, err);
}

static enum status read_pairs(struct imatrix *out, const struct container *container, struct error *err)
{
    uint64_t suffix = strlen(SUMS_SUFFIX);
    enum status status = OK;
    out->entries = memory_new(container_count(container), sizeof *out->entries, err);
    if (!out->entries) return ERR_MEMORY;
    for (uint64_t i = 0; i < container_count(container) && status == OK; i++) {
        const struct tensor *sums = container_tensor(container, i);
        char name[CONTAINER_NAME_LIMIT + 1];
        uint64_t bytes = strlen(sums->name);
        if (bytes <= suffix || bytes >= sizeof name || strcmp(sums->name + bytes - suffix, SUMS_SUFFIX) != 0)
            continue;
        memcpy(name, sums->name, bytes - suffix);
        name[bytes - suffix] = '\0';
        status = read_pair(out, container, name, sums, err);
        if (status != OK) fail_within(err, status, "%s", name);
    }
    return status;
}

static enum status read_gguf(struct imatrix *out, const char *path, struct error *err)
{
    struct container *container = NULL;
    enum status status = container_open(&container, path, err);
    if (status != OK) return status;
    status = check_kind(container, err);
    if (status == OK) status = container_map(container, err);
    if (status == OK) status = read_pairs(out, container, err);
    container_close(container);
    return status == OK ? OK : fail_within(err, status, "%s", path);
}

/* ---- both ---- */

enum status imatrix_read(struct imatrix *out, const char *path, struct error *err)
{
    struct file *file = NULL;
    *out = (struct imatrix){0};
    enum status status = file_open(&file, path, err);
    if (status == OK) status = file_map(file, err);
    if (status != OK) goto done;
    out->crc32 = file_crc32(0, file->map, file->bytes);
    if (file->bytes >= 4 && memcmp(file->map, "GGUF", 4) == 0) {
        status = read_gguf(out, path, err);
    } else {
        status = read_dat(out, file, err);
        if (status != OK) fail_within(err, status, "%s", path);
    }
    if (status == OK && out->count == 0)
        status = fail(err, ERR_FORMAT, "%s: names no matrix of a decoder (blk.0.attn_q.weight ...)", path);
done:
    file_close(file);
    return status;
}

void imatrix_free(struct imatrix *imatrix)
{
    for (uint64_t i = 0; i < imatrix->count; i++)
        memory_free(imatrix->entries[i].means);
    memory_free(imatrix->entries);
    *imatrix = (struct imatrix){0};
}

enum status imatrix_find(const float **out, const struct imatrix *imatrix, enum role role, uint32_t layer,
    uint64_t cols, struct error *err)
{
    *out = NULL;
    for (uint64_t i = 0; i < imatrix->count; i++) {
        const struct imatrix_entry *entry = &imatrix->entries[i];
        if (entry->role != role || entry->layer != layer) continue;
        if (entry->cols != cols)
            return fail(err, ERR_FORMAT, "the importance matrix has %" PRIu64 " columns, the tensor %" PRIu64,
                entry->cols, cols);
        *out = entry->means;
        return OK;
    }
    return OK;
}
