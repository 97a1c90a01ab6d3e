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

/* What the file says of one entry. Numbers are little-endian floats at any address. */
struct said {
    const uint8_t *sums; /* [values] */
    uint64_t values;
    const uint8_t *counts; /* [matrices] tokens; NULL: `calls` for all */
    uint64_t matrices;     /* 0: not said */
    double calls;
};

static float get_float(const uint8_t *at)
{
    const uint32_t bits = bytes_get_u32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The means of one matrix: its sums divided by its count. Sums that are all 0 mean that the matrix was not used: an expert's
 * become 1. */
static enum status divide(
    float *means, const uint8_t *sums, uint64_t cols, double count, bool expert, struct error *err)
{
    bool some = false;
    if (!isfinite(count) || count < 0 || (count == 0 && !expert))
        return fail(err, ERR_FORMAT, "counts %g tokens", count);
    for (uint64_t i = 0; i < cols; i++) {
        const float sum = get_float(sums + 4 * i);
        if (!isfinite(sum) || sum < 0)
            return fail(err, ERR_FORMAT, "sum of squares %" PRIu64 " is %g", i, (double)sum);
        means[i] = count > 0 ? (float)(sum / count) : 0;
        some = some || means[i] > 0;
    }
    if (!some && !expert) return fail(err, ERR_FORMAT, "all sums are 0: the matrix was not used");
    for (uint64_t i = 0; i < cols && !some; i++)
        means[i] = 1;
    return OK;
}

static enum status divide_all(
    struct imatrix_entry *entry, const struct said *said, bool experts, struct error *err)
{
    const uint64_t matrices = said->matrices ? said->matrices : 1, cols = entry->cols / matrices;
    enum status status = OK;
    for (uint64_t i = 0; i < matrices && status == OK; i++) {
        const double count = said->counts ? (double)get_float(said->counts + 4 * i) : said->calls;
        status = divide(
            entry->means + i * cols, said->sums + 4 * i * cols, cols, count, experts && said->counts, err);
    }
    return status;
}

/* Keep what is said of `name`, if that is a known matrix. entries has room. */
static enum status add(struct imatrix *out, const char *name, const struct said *said, struct error *err)
{
    struct imatrix_entry entry = {.cols = said->values, .matrices = said->matrices};
    if (!gguf_names_role(name, &entry.role, &entry.layer) &&
        !gguf_names_fused_role(name, &entry.role, &entry.layer))
        return OK;
    const bool experts = layers_role_is_expert(entry.role);
    if (!experts) entry.matrices = 1;
    if (!experts && said->matrices > 1)
        return fail(
            err, ERR_UNSUPPORTED, "counts for %" PRIu64 " matrices, where there is one", said->matrices);
    if (said->matrices && entry.cols % said->matrices != 0)
        return fail(err, ERR_FORMAT, "%" PRIu64 " sums are not those of %" PRIu64 " matrices", entry.cols,
            said->matrices);
    if (is_known(out, entry.role, entry.layer)) return fail(err, ERR_FORMAT, "is there twice");
    entry.means = memory_new(entry.cols, sizeof *entry.means, err);
    if (!entry.means) return ERR_MEMORY;
    out->entries[out->count++] = entry;
    return divide_all(&out->entries[out->count - 1], said, experts, err);
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
    const struct said said = {.sums = sums, .values = cols, .calls = calls ? (double)calls : 1};
    status = add(out, name, &said, err);
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
    if (counts->elements == 0 || sums->elements == 0) return fail(err, ERR_FORMAT, "is empty");
    const struct said said = {
        .sums = sums->data, .values = sums->elements, .counts = counts->data, .matrices = counts->elements};
    return add(out, name, &said, err);
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

/* An expert without tokens: all its means are 1. */
static bool is_unseen(const float *means, uint64_t cols)
{
    for (uint64_t i = 0; i < cols; i++)
        if (means[i] != 1) return false;
    return true;
}

enum status imatrix_find_expert(const float **out, bool *unseen, const struct imatrix *imatrix,
    const struct imatrix_expert *wanted, struct error *err)
{
    *unseen = false;
    *out = NULL;
    for (uint64_t i = 0; i < imatrix->count; i++) {
        const struct imatrix_entry *entry = &imatrix->entries[i];
        if (entry->role != wanted->role || entry->layer != wanted->layer) continue;
        if ((entry->matrices && entry->matrices != wanted->experts) ||
            entry->cols != wanted->experts * wanted->cols)
            return fail(err, ERR_FORMAT,
                "the importance matrix has %" PRIu64 " columns for all experts, %" PRIu32
                " experts of %" PRIu64 " columns have %" PRIu64,
                entry->cols, wanted->experts, wanted->cols, wanted->experts * wanted->cols);
        const float *means = entry->means + wanted->expert * wanted->cols;
        *unseen = is_unseen(means, wanted->cols);
        if (!*unseen) *out = means;
        return OK;
    }
    return OK;
}
