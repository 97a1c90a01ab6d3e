/* See inspect.h. */
#include "runtime-check/inspect/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/report.h"
#include "formats/provenance.h"
#include "model/checkpoint.h"
#include "model/slice.h"
#include "runtime-check/inspect/inspect_metadata.h"
#include "runtime-check/inspect/record.h"
#include "tensor/sparse.h"

void inspect_total(struct inspect_totals *out, struct container *container)
{
    *out =
        (struct inspect_totals){.bytes = container_bytes(container), .tensors = container_count(container)};
    for (uint64_t i = 0; i < out->tensors; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        out->weights += tensor->elements;
        const bool values = tensor->storage == STORAGE_SPARSE && tensor->scheme.bits == 0;
        if (tensor->storage == STORAGE_DENSE || values) continue;
        out->quantized_tensors++;
        out->quantized_weights += tensor->elements;
        out->quantized_bytes += tensor->bytes;
    }
}

char *inspect_scheme(char *out, const struct tensor *tensor)
{
    const bool sparse = tensor->storage == STORAGE_SPARSE;
    const char *mask = !sparse ? "" : tensor->mask == MASK_2_4 ? ", 2:4" : ", sparse";
    if (sparse && !tensor->scheme.bits) {
        snprintf(out, 48, "%s%s", dtype_info(tensor->dtype)->name, mask);
        return out;
    }
    if (tensor->storage != STORAGE_TILES && !sparse) {
        const bool blocks = tensor->storage == STORAGE_BLOCKS;
        snprintf(out, 48, "%s", blocks ? block_info(tensor->block)->name : dtype_info(tensor->dtype)->name);
        return out;
    }
    const struct scheme *scheme = &tensor->scheme;
    char group[24] = "whole row";
    if (scheme->group != tensor->shape[1]) snprintf(group, sizeof group, "group %" PRIu32, scheme->group);
    snprintf(out, 48, "%" PRIu32 " bits, %s%s%s", scheme->bits, group,
        scheme->asymmetric ? ", zero-points" : "", mask);
    return out;
}

char *inspect_shape(char *out, const struct tensor *tensor)
{
    size_t at = (size_t)snprintf(out, 200, "[");
    for (uint32_t i = 0; i < tensor->rank; i++) {
        at += (size_t)snprintf(out + at, 200 - at, "%s%" PRIu64, i ? ", " : "", tensor->shape[i]);
    }
    snprintf(out + at, 200 - at, "]");
    return out;
}

double inspect_bits_per(uint64_t bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)bytes / (double)weights : 0;
}

enum status inspect_stored(
    uint64_t *out, struct container *container, const struct tensor *tensor, struct error *err)
{
    uint8_t piece[1024 * SPARSE_BITMAP_BYTES];
    struct sparse_layout layout;
    *out = tensor->elements;
    if (tensor->storage != STORAGE_SPARSE) return OK;
    const uint64_t rest = tensor->shape[1] % 4;
    *out = tensor->shape[0] * (tensor->shape[1] / 4 * 2 + (rest < 2 ? rest : 2));
    if (tensor->mask == MASK_2_4) return OK;
    *out = 0;
    enum status status = sparse_layout_of(&layout, tensor, err);
    const uint64_t end = status ? 0 : layout.dense.tiles * layout.tile_mask_bytes;
    for (uint64_t at = 0, count; at < end && !status; at += count) {
        count = end - at < sizeof piece ? end - at : sizeof piece;
        status = container_read(container, tensor, at, piece, count, err);
        if (!status) *out += sparse_count(&layout, piece, count / SPARSE_BITMAP_BYTES);
    }
    return status;
}

static bool has_sparse(const struct container *container)
{
    for (uint64_t i = 0; i < container_count(container); i++) {
        if (container_tensor(container, i)->storage == STORAGE_SPARSE) return true;
    }
    return false;
}

static enum status add_tensor_row(struct table *table, struct container *container,
    const struct tensor *tensor, bool sparse, struct error *err)
{
    char shape[200], scheme[48], bytes[16];
    uint64_t stored;
    enum status status = inspect_stored(&stored, container, tensor, err);
    if (status) return status;
    table_cell(table, "%s", tensor->name);
    table_cell(table, "%s", inspect_shape(shape, tensor));
    table_cell(table, "%s", inspect_scheme(scheme, tensor));
    table_cell(table, "%s", report_bytes(bytes, tensor->bytes));
    table_cell(table, "%.3f", inspect_bits_per(tensor->bytes, tensor->elements));
    if (sparse && tensor->storage == STORAGE_SPARSE)
        table_cell(table, "%.2f %%", 100.0 * (double)(tensor->elements - stored) / (double)tensor->elements);
    else if (sparse)
        table_cell(table, "-");
    return OK;
}

static enum status print_tensors(struct container *container, struct error *err)
{
    struct table table = {0};
    const bool sparse = has_sparse(container);
    enum status status = OK;
    table_head(&table, sparse ? 6 : 5,
        (const char *const[]){"tensor", "shape", "stored as", ">bytes", ">bits/weight", ">zeros"});
    for (uint64_t i = 0; i < container_count(container) && !status; i++)
        status = add_tensor_row(&table, container, container_tensor(container, i), sparse, err);
    if (!status) table_print(&table);
    table_free(&table);
    return status;
}

/* One row per way of storing: the tensors that share a text of inspect_scheme, in order of first appearance. */
static enum status print_kinds(struct container *container, struct error *err)
{
    struct kind {
        char scheme[48];
        uint64_t tensors, weights, bytes;
    } *kinds = NULL;
    uint64_t count = 0, capacity = 0;
    enum status status = OK;
    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        char scheme[48];
        uint64_t k = 0;
        inspect_scheme(scheme, tensor);
        while (k < count && strcmp(kinds[k].scheme, scheme) != 0)
            k++;
        if (k == count) {
            if ((status = memory_grow(&kinds, &capacity, count + 1, sizeof *kinds, err))) break;
            memcpy(kinds[count++].scheme, scheme, sizeof scheme);
        }
        kinds[k].tensors++;
        kinds[k].weights += tensor->elements;
        kinds[k].bytes += tensor->bytes;
    }
    struct table table = {0};
    table_head(
        &table, 5, (const char *const[]){"stored as", ">tensors", ">weights", ">bytes", ">bits/weight"});
    for (uint64_t k = 0; k < count; k++) {
        char bytes[16];
        table_cell(&table, "%s", kinds[k].scheme);
        table_cell(&table, "%" PRIu64, kinds[k].tensors);
        table_cell(&table, "%" PRIu64, kinds[k].weights);
        table_cell(&table, "%s", report_bytes(bytes, kinds[k].bytes));
        table_cell(&table, "%.3f", inspect_bits_per(kinds[k].bytes, kinds[k].weights));
    }
    if (!status) table_print(&table);
    table_free(&table);
    memory_free(kinds);
    return status;
}

static void print_config(const struct model_config *config)
{
    printf("architecture   %s: %" PRIu32 " layers, hidden %" PRIu32 ", ffn %" PRIu32 ", %" PRIu32
           " heads of %" PRIu32 ", %" PRIu32 " kv heads, vocabulary %" PRIu32 "%s, context %" PRIu32,
        config->architecture->name, config->layers, config->hidden, config->ffn, config->heads,
        config->head_size, config->kv_heads, config->vocabulary, config->tied ? " (tied)" : "",
        config->context);
    if (config->varied) printf(" (the widest layer; others are narrower)");
    if (config->window) printf(", sliding window %" PRIu32, config->window);
    printf("\n");
}

static enum status print_slice(struct container *container, struct error *err)
{
    struct slice slice;
    bool found;
    enum status status = slice_read(&slice, &found, container, err);
    if (!status && found)
        printf("slice          layers %" PRIu32 " to %" PRIu32 " of %" PRIu32 "\n", slice.first, slice.last,
            slice.layers);
    return status;
}

/* Name one document and its size, if it is there. */
static enum status print_document_name(
    struct container *container, const char *name, const char **separator, struct error *err)
{
    char *text = NULL, size[16];
    uint64_t bytes = 0;
    enum status status = container_document(container, name, &text, &bytes, err);
    if (!status && text) {
        printf("%s%s (%s)", *separator, name, report_bytes(size, bytes));
        *separator = ", ";
    }
    memory_free(text);
    return status;
}

static enum status print_documents(struct container *container, struct error *err)
{
    const char *separator = "documents      ";
    enum status status = OK;
    for (size_t i = 0; provenance_carried[i] && !status; i++) {
        status = print_document_name(container, provenance_carried[i], &separator, err);
    }
    if (!status) status = print_document_name(container, PROVENANCE_DOCUMENT, &separator, err);
    if (!status) status = print_document_name(container, RECORD_DOCUMENT, &separator, err);
    printf("%s", separator[0] == ',' ? "\n" : "");
    return status;
}

/* The text of a small attached document, indented under its name. */
static enum status print_document(struct container *container, const char *name, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = container_document(container, name, &text, &bytes, err);
    if (!status && text) {
        printf("\n%s\n", name);
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            printf("  %s\n", line);
    }
    memory_free(text);
    return status;
}

enum status inspect_print(struct container *container, bool all_tensors, struct error *err)
{
    struct inspect_totals totals;
    struct model_config config;
    bool known = false;
    char bytes[16];
    inspect_total(&totals, container);
    enum status status = checkpoint_read_config(&config, &known, container, err);
    if (status) return status;
    printf("file           %s (%s)\n", container_path(container), container_format(container));
    printf("size           %s, %" PRIu64 " tensors, %" PRIu64 " weights, %.3f bits per weight\n",
        report_bytes(bytes, totals.bytes), totals.tensors, totals.weights,
        inspect_bits_per(totals.bytes, totals.weights));
    if (totals.quantized_tensors) {
        printf("quantized      %" PRIu64 " tensors, %" PRIu64 " weights, %.3f bits per quantized weight\n",
            totals.quantized_tensors, totals.quantized_weights,
            inspect_bits_per(totals.quantized_bytes, totals.quantized_weights));
    }
    if (known) print_config(&config);
    if (known && (status = print_slice(container, err))) return status;
    for (uint64_t i = 0; i < container_alias_count(container); i++) {
        const char *alias, *target;
        container_alias(container, i, &alias, &target);
        printf("alias          %s = %s\n", alias, target);
    }
    if ((status = print_documents(container, err))) return status;
    printf("\n");
    inspect_metadata_print(container_metadata(container));
    if (all_tensors)
        status = print_tensors(container, err);
    else
        status = print_kinds(container, err);
    if (status) return status;
    if ((status = print_document(container, PROVENANCE_DOCUMENT, err))) return status;
    return print_document(container, RECORD_DOCUMENT, err);
}

/* stored: of inspect_stored. */
static void write_tensor(struct json_writer *writer, const struct tensor *tensor, uint64_t stored)
{
    json_open_object(writer);
    json_put_text(writer, "name", tensor->name);
    json_write_key(writer, "shape");
    json_open_array(writer);
    for (uint32_t i = 0; i < tensor->rank; i++)
        json_write_u64(writer, tensor->shape[i]);
    json_close_array(writer);
    static const char *const storages[] = {[STORAGE_DENSE] = "dense",
        [STORAGE_TILES] = "tiles",
        [STORAGE_BLOCKS] = "blocks",
        [STORAGE_SPARSE] = "sparse"};
    const bool blocks = tensor->storage == STORAGE_BLOCKS;
    json_put_text(writer, "storage", storages[tensor->storage]);
    json_put_text(
        writer, "dtype", blocks ? block_info(tensor->block)->name : dtype_info(tensor->dtype)->name);
    if (tensor->storage == STORAGE_TILES || (tensor->storage == STORAGE_SPARSE && tensor->scheme.bits)) {
        json_put_u64(writer, "bits", tensor->scheme.bits);
        json_put_u64(writer, "group", tensor->scheme.group);
        json_put_bool(writer, "asymmetric", tensor->scheme.asymmetric);
    }
    if (tensor->storage == STORAGE_SPARSE) {
        json_put_text(writer, "mask", tensor->mask == MASK_2_4 ? "2:4" : "bitmap");
        json_put_u64(writer, "weights_stored", stored);
    }
    json_put_u64(writer, "bytes", tensor->bytes);
    json_close_object(writer);
}

/* A document that is JSON itself goes in as its text, so that nothing of it is reinterpreted. */
static enum status write_document(struct container *container, struct json_writer *writer, const char *name,
    const char *key, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = container_document(container, name, &text, &bytes, err);
    if (!status && text) {
        json_write_key(writer, key);
        json_write_string(writer, text, bytes);
    }
    memory_free(text);
    return status;
}

enum status inspect_json(struct container *container, struct json_writer *writer, struct error *err)
{
    struct inspect_totals totals;
    struct model_config config;
    bool known = false;
    inspect_total(&totals, container);
    enum status status = checkpoint_read_config(&config, &known, container, err);
    if (status) return status;
    json_open_object(writer);
    json_put_text(writer, "file", container_path(container));
    json_put_text(writer, "format", container_format(container));
    if (known) {
        json_put_text(writer, "architecture", config.architecture->name);
        json_put_u64(writer, "layers", config.layers);
        json_put_u64(writer, "hidden", config.hidden);
        json_put_u64(writer, "vocabulary", config.vocabulary);
        json_put_u64(writer, "context", config.context);
        json_put_bool(writer, "tied", config.tied);
    }
    json_put_u64(writer, "bytes", totals.bytes);
    json_put_u64(writer, "weights", totals.weights);
    json_put_number(writer, "bits_per_weight", inspect_bits_per(totals.bytes, totals.weights));
    json_put_u64(writer, "weights_quantized", totals.quantized_weights);
    json_put_number(writer, "bits_per_quantized_weight",
        inspect_bits_per(totals.quantized_bytes, totals.quantized_weights));
    inspect_metadata_json(writer, container_metadata(container));
    json_write_key(writer, "tensors");
    json_open_array(writer);
    for (uint64_t i = 0; i < totals.tensors; i++) {
        uint64_t stored;
        status = inspect_stored(&stored, container, container_tensor(container, i), err);
        if (status) return status;
        write_tensor(writer, container_tensor(container, i), stored);
    }
    json_close_array(writer);
    if ((status = write_document(container, writer, SLICE_DOCUMENT, "slice", err))) return status;
    if ((status = write_document(container, writer, PROVENANCE_DOCUMENT, "provenance", err))) return status;
    if ((status = write_document(container, writer, RECORD_DOCUMENT, "evaluation", err))) return status;
    json_close_object(writer);
    return OK;
}
