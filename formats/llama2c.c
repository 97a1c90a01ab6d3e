/* See llama2c.h. */
#include "formats/llama2c.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/measure.h"
#include "formats/reader.h"

#define MAGIC "24ka"

enum { HEADER_BYTES = 256, NUMBERS = 7, SIZE_LIMIT = 1 << 24, SCALES_CHECKED = 4096, BATCH = 4096 };

/* Sizes that shapes are made of; the first seven are the header's numbers. */
enum size { DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT, KV_DIM, ONE, SIZES };

enum part { EMBEDDING, ATTENTION_NORM, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, NORM, OUTPUT, ROTARY, PARTS };

static const struct part_info {
    const char *name; /* of layer %u, where there is one of every layer */
    bool per_layer;
    enum size rows, cols; /* cols ONE: a vector, never quantized */
} parts[PARTS] = {
    [EMBEDDING] = {"tok_embeddings.weight", false, VOCABULARY, DIM},
    [ATTENTION_NORM] = {"layers.%u.attention_norm.weight", true, DIM, ONE},
    [WQ] = {"layers.%u.attention.wq.weight", true, DIM, DIM},
    [WK] = {"layers.%u.attention.wk.weight", true, KV_DIM, DIM},
    [WV] = {"layers.%u.attention.wv.weight", true, KV_DIM, DIM},
    [WO] = {"layers.%u.attention.wo.weight", true, DIM, DIM},
    [FFN_NORM] = {"layers.%u.ffn_norm.weight", true, DIM, ONE},
    [W1] = {"layers.%u.feed_forward.w1.weight", true, HIDDEN, DIM},
    [W2] = {"layers.%u.feed_forward.w2.weight", true, DIM, HIDDEN},
    [W3] = {"layers.%u.feed_forward.w3.weight", true, HIDDEN, DIM},
    [NORM] = {"norm.weight", false, DIM, ONE},
    [OUTPUT] = {"output.weight", false, VOCABULARY, DIM},
    [ROTARY] = {NULL, false, CONTEXT, DIM}, /* / n_heads */
};

static const enum part order_0[] = {
    EMBEDDING, ATTENTION_NORM, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, NORM, ROTARY, OUTPUT, PARTS};
static const enum part order_1[] = {
    ATTENTION_NORM, FFN_NORM, NORM, EMBEDDING, WQ, WK, WV, WO, W1, W2, W3, OUTPUT, PARTS};

struct header {
    uint64_t size[SIZES];
    uint32_t version;
    bool shared;    /* the classifier is the embedding */
    uint64_t group; /* version 2 */
    uint64_t data;  /* where the tensors begin */
    const enum part *order;
};

/* ---- the header ---- */

/* The seven numbers and what follows from them. ERR_FORMAT names the one that cannot be. */
static enum status read_numbers(struct header *out, const uint8_t *bytes, struct error *err)
{
    static const char *const names[NUMBERS] = {
        "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"};
    uint64_t *size = out->size;

    for (int i = 0; i < NUMBERS; i++) {
        const int64_t number = (int32_t)bytes_get_u32(bytes + 4 * i);
        const bool own = i == VOCABULARY && out->version == 0 && number < 0;
        if (i == VOCABULARY && out->version == 0) out->shared = !own;
        size[i] = (uint64_t)(own ? -number : number);
        if (size[i] < 1 || size[i] > SIZE_LIMIT)
            return fail(err, ERR_FORMAT, "%s is %" PRId64 ", must be 1 to %d", names[i], number, SIZE_LIMIT);
    }
    if (size[DIM] % size[HEADS] || size[DIM] / size[HEADS] % 2)
        return fail(err, ERR_FORMAT, "dim %" PRIu64 " is no even number for each of n_heads %" PRIu64,
            size[DIM], size[HEADS]);
    if (size[HEADS] % size[KV_HEADS])
        return fail(err, ERR_FORMAT, "n_heads %" PRIu64 " is no multiple of n_kv_heads %" PRIu64, size[HEADS],
            size[KV_HEADS]);
    size[KV_DIM] = size[DIM] / size[HEADS] * size[KV_HEADS];
    size[ONE] = 1;
    return OK;
}

/* Bytes of one tensor; true if they do not fit. Version 2: codes, then scales. */
static bool overflows(uint64_t *out, const struct header *header, enum part part)
{
    const struct part_info *info = &parts[part];
    const bool quantized = header->version == 2 && info->cols != ONE;
    uint64_t elements;

    if (checked_multiply(&elements, header->size[info->rows], header->size[info->cols])) return true;
    if (part == ROTARY) elements /= header->size[HEADS];
    if (!quantized) return checked_multiply(out, elements, 4);
    return elements % header->group || checked_add(out, elements, elements / header->group * 4);
}

/* The size of the whole file; true if it does not fit. */
static bool file_overflows(uint64_t *out, const struct header *header)
{
    *out = header->data;
    for (const enum part *part = header->order; *part != PARTS; part++) {
        const uint64_t times = parts[*part].per_layer ? header->size[LAYERS] : 1;
        uint64_t bytes;
        if (*part == OUTPUT && header->shared) continue;
        if (overflows(&bytes, header, *part) || checked_multiply(&bytes, bytes, times) ||
            checked_add(out, *out, bytes))
            return true;
    }
    return false;
}

/* Version 0 as the seven numbers at the beginning of the file describe it. */
static bool read_first(struct header *out, const uint8_t *head)
{
    *out = (struct header){.data = 4 * NUMBERS, .order = order_0};
    return read_numbers(out, head, NULL) == OK;
}

bool llama2c_recognize(const uint8_t *head, uint64_t count, uint64_t file_bytes)
{
    struct header header;
    uint64_t bytes;

    if (count >= 4 && memcmp(head, MAGIC, 4) == 0) return true;
    return count == LLAMA2C_HEAD_BYTES && read_first(&header, head) && !file_overflows(&bytes, &header) &&
           bytes == file_bytes;
}

static enum status read_later(struct header *out, struct file *file, struct error *err)
{
    uint8_t bytes[HEADER_BYTES];
    enum status status = file_read_at(file, 0, bytes, HEADER_BYTES, err);

    if (status) return status;
    *out = (struct header){.version = bytes_get_u32(bytes + 4), .data = HEADER_BYTES, .order = order_1};
    if (out->version < 1 || out->version > 2)
        return fail(err, ERR_UNSUPPORTED, "llama2.c version %" PRIu32 "; 0, 1 and 2 are read", out->version);
    status = read_numbers(out, bytes + 8, err);
    if (status) return status;
    if (bytes[36] > 1)
        return fail(err, ERR_FORMAT, "shared_classifier at byte 36 is %u", (unsigned)bytes[36]);
    out->shared = bytes[36];
    if (out->version == 2) out->group = bytes_get_u32(bytes + 37);
    if (out->version == 2 && (out->group < 1 || out->size[DIM] % out->group))
        return fail(err, ERR_FORMAT, "group size %" PRIu64 " at byte 37 does not divide dim %" PRIu64,
            out->group, out->size[DIM]);
    return OK;
}

static enum status read_header(struct header *out, struct file *file, struct error *err)
{
    uint8_t head[LLAMA2C_HEAD_BYTES];
    enum status status = file_read_at(file, 0, head, sizeof head, err);
    uint64_t bytes;

    if (status) return status;
    if (memcmp(head, MAGIC, 4) == 0)
        status = read_later(out, file, err);
    else if (!read_first(out, head))
        status = fail(err, ERR_FORMAT, "is no llama2.c model");
    if (status) return status;
    if (file_overflows(&bytes, out) || bytes != file->bytes)
        return fail(err, ERR_FORMAT, "the header describes a file of another size than %" PRIu64 " bytes%s",
            file->bytes, out->version == 2 ? ", or matrices that are no whole groups" : "");
    return OK;
}

/* ---- tensors ---- */

/* Codes [elements] at entry->offset, a scale for every entry->group of them at entry->scales. */
static enum status compute(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    struct file *file = container->files[entry->file].file;
    uint8_t scales[4 * (BATCH + 1)]; /* so many groups touch a batch at most */
    int8_t codes[BATCH];
    float values[BATCH];

    for (uint64_t at = offset, end = offset + count, part; at < end; at += part) {
        const uint64_t first = at / 4, left = (end - 1) / 4 - first + 1, batch = left < BATCH ? left : BATCH;
        const uint64_t group = first / entry->group, groups = (first + batch - 1) / entry->group - group + 1;
        enum status status = file_read_at(file, entry->offset + first, codes, batch, err);
        if (!status) status = file_read_at(file, entry->scales + 4 * group, scales, 4 * groups, err);
        if (status) return status;
        for (uint64_t i = 0; i < batch; i++) {
            float scale;
            dtype_info(DTYPE_F32)->decode(&scale, scales + 4 * ((first + i) / entry->group - group), 1);
            values[i] = (float)codes[i] * scale;
        }
        part = 4 * (first + batch) < end ? 4 * (first + batch) - at : end - at;
        memcpy(buffer + (at - offset), (const uint8_t *)values + at % 4, part);
    }
    return OK;
}

static enum status add_tensor(struct container *container, const struct header *header, enum part part,
    uint32_t layer, uint64_t *at, struct error *err)
{
    const struct part_info *info = &parts[part];
    struct reader_entry entry = {.offset = *at, .tensor.dtype = DTYPE_F32};
    char name[64];
    uint64_t bytes;

    snprintf(name, sizeof name, info->name, layer);
    entry.tensor.name = names_keep(&container->names, name, strlen(name), err);
    if (!entry.tensor.name) return ERR_MEMORY;
    entry.tensor.rank = info->cols == ONE ? 1 : 2;
    entry.tensor.shape[0] = header->size[info->rows];
    if (info->cols != ONE) entry.tensor.shape[1] = header->size[info->cols];
    enum status status = measure_tensor(&entry.tensor, err);
    if (status || overflows(&bytes, header, part)) return status; /* file_overflows has looked */
    if (header->version == 2 && info->cols != ONE) {
        entry.compute = compute;
        entry.scales = *at + entry.tensor.elements;
        entry.group = header->group;
    }
    *at += bytes;
    return reader_add_entry(container, &entry, err);
}

static enum status add_tensors(struct container *container, const struct header *header, struct error *err)
{
    uint64_t at = header->data, skipped;
    enum status status = OK;

    for (const enum part *part = header->order; *part != PARTS && !status; part++) {
        const uint32_t times = parts[*part].per_layer ? (uint32_t)header->size[LAYERS] : 1;
        if (*part == OUTPUT && header->shared) continue;
        if (*part == ROTARY) {
            if (!overflows(&skipped, header, ROTARY)) at += skipped;
            continue;
        }
        for (uint32_t layer = 0; layer < times && !status; layer++)
            status = add_tensor(container, header, *part, layer, &at, err);
    }
    return status ? status : reader_index_tensors(container, err);
}

/* For some time in 2023 version 2 was written with all scales at the end; then codes stand where scales are expected. */
static enum status check_scales(struct container *container, const struct header *header, struct error *err)
{
    uint8_t scales[4 * SCALES_CHECKED];

    for (uint64_t i = 0; i < container->entry_count; i++) {
        const struct reader_entry *entry = &container->entries[i];
        const uint64_t groups = entry->compute ? entry->tensor.elements / header->group : 0;
        const uint64_t checked = groups < SCALES_CHECKED ? groups : SCALES_CHECKED;
        enum status status = file_read_at(container->files[0].file, entry->scales, scales, 4 * checked, err);
        if (status) return status;
        for (uint64_t group = 0; group < checked; group++) {
            float scale;
            dtype_info(DTYPE_F32)->decode(&scale, scales + 4 * group, 1);
            if (isfinite(scale) && !signbit(scale)) continue;
            return fail(err, ERR_FORMAT,
                "tensor %s: scale %" PRIu64 " at byte %" PRIu64
                " is %g: damaged, or written by an export.py that put all scales at the end; export it again",
                entry->tensor.name, group, entry->scales + 4 * group, (double)scale);
        }
    }
    return OK;
}

/* ---- what the file says of itself ---- */

static enum status add_item(struct metadata *out, struct container *container, const char *key,
    uint64_t value, bool is_bool, struct error *err)
{
    struct metadata_item item = {.key = key, .type = is_bool ? METADATA_BOOL : METADATA_U64};
    uint8_t bytes[8];
    enum status status;

    bytes_put(bytes, value, 8);
    item.bytes = (const uint8_t *)names_keep(&container->names, (const char *)bytes, sizeof bytes, err);
    if (!item.bytes) return ERR_MEMORY;
    status = memory_grow(&out->items, &out->capacity, out->count + 1, sizeof item, err);
    if (!status) status = names_add(&out->index, key, out->count, err);
    if (!status) out->items[out->count++] = item;
    return status;
}

static enum status add_metadata(struct container *container, const struct header *header, struct error *err)
{
    static const char *const keys[NUMBERS] = {LLAMA2C_DIM, LLAMA2C_HIDDEN_DIM, LLAMA2C_LAYERS, LLAMA2C_HEADS,
        LLAMA2C_KV_HEADS, LLAMA2C_VOCABULARY, LLAMA2C_CONTEXT};
    struct metadata *out = &container->metadata;
    enum status status = add_item(out, container, "llama2.c.version", header->version, false, err);

    for (int i = 0; i < NUMBERS && !status; i++)
        status = add_item(out, container, keys[i], header->size[i], false, err);
    if (!status) status = add_item(out, container, LLAMA2C_SHARED, header->shared, true, err);
    if (!status && header->version == 2)
        status = add_item(out, container, "llama2.c.group_size", header->group, false, err);
    if (!status) names_sort(&out->index);
    return status;
}

/* The first of the two files that lies beside the model, as it is. */
static enum status attach_tokenizer(
    struct container *container, const char *path, uint64_t vocabulary, struct error *err)
{
    const uint64_t folder_bytes = (uint64_t)(reader_base_name(path) - path);
    char names[2][32];
    enum status status = OK;

    snprintf(names[0], sizeof names[0], "tok%" PRIu64 ".bin", vocabulary);
    snprintf(names[1], sizeof names[1], LLAMA2C_TOKENIZER);
    for (int i = 0; i < 2 && !status; i++) {
        char *folder = folder_bytes ? memory_text(path, folder_bytes, err) : memory_text(".", 1, err);
        char *beside = NULL, *text = NULL;
        uint64_t bytes;
        status = folder ? file_join(&beside, folder, names[i], strlen(names[i]), err) : ERR_MEMORY;
        const bool there = !status && file_kind(beside) != FILE_ABSENT;
        if (there) status = file_read_all(&text, &bytes, beside, CONTAINER_DOCUMENT_LIMIT, err);
        memory_free(beside);
        memory_free(folder);
        if (there) return status ? status : container_attach(container, LLAMA2C_TOKENIZER, text, bytes, err);
    }
    return status;
}

enum status llama2c_read(struct container *container, const char *path, struct error *err)
{
    struct header header;
    enum status status = reader_add_file(container, path, reader_base_name(path), err);

    if (status) return status;
    container->has_gaps = true;
    status = read_header(&header, container->files[0].file, err);
    if (!status) status = add_tensors(container, &header, err);
    if (!status && header.version == 2) status = check_scales(container, &header, err);
    if (!status) status = add_metadata(container, &header, err);
    if (status) return fail_within(err, status, "%s", path);
    return attach_tokenizer(container, path, header.size[VOCABULARY], err);
}
