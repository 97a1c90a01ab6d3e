/* See container_select.h. */
#include "formats/container_select.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/measure.h"
#include "formats/reader.h"

enum { PANEL_BYTES = 1 << 20 };

/* What an entry was before rows and columns of it were chosen. */
struct selection {
    struct reader_entry whole;
    uint64_t *rows, *cols; /* [row_count], [col_count]; NULL: all */
    uint64_t row_count, col_count;
};

void selection_free(struct selection *selection)
{
    if (!selection) return;
    selection_free(selection->whole.selection);
    memory_free(selection->whole.copy);
    memory_free(selection->rows);
    memory_free(selection->cols);
    memory_free(selection);
}

static uint64_t columns_of(const struct tensor *tensor)
{
    return tensor->rank == 2 ? tensor->shape[1] : 1;
}

/* ---- reading ---- */

/* A row of the whole tensor to one of ours. */
static void gather(
    uint8_t *out, const uint8_t *row, const struct selection *selection, uint64_t cols, uint64_t size)
{
    if (!selection->cols) {
        memcpy(out, row, cols * size);
        return;
    }
    for (uint64_t i = 0; i < selection->col_count; i++)
        memcpy(out + i * size, row + selection->cols[i] * size, size);
}

/* Our rows [first, first + count) in order. Rows that follow one another are read at once, as many as `panel` holds. */
static enum status read_rows(uint8_t *out, uint8_t *panel, uint64_t panel_rows, struct container *container,
    const struct selection *selection, uint64_t first, uint64_t count, struct error *err)
{
    const struct tensor *whole = &selection->whole.tensor;
    const uint64_t size = dtype_info(whole->dtype)->bytes, cols = columns_of(whole), bytes = cols * size;
    const uint64_t out_bytes = (selection->cols ? selection->col_count : cols) * size;

    for (uint64_t done = 0, run; done < count; done += run) {
        const uint64_t *rows = selection->rows ? selection->rows + first + done : NULL;
        const uint64_t from = rows ? rows[0] : first + done;
        for (run = 1; run < panel_rows && done + run < count && (!rows || rows[run] == from + run);)
            run++;
        enum status status = reader_read(container, &selection->whole, from * bytes, panel, run * bytes, err);
        if (status) return status;
        for (uint64_t i = 0; i < run; i++)
            gather(out + (done + i) * out_bytes, panel + i * bytes, selection, cols, size);
    }
    return OK;
}

static enum status read_selected(struct container *container, const struct reader_entry *entry,
    uint64_t offset, uint8_t *buffer, uint64_t count, struct error *err)
{
    const struct selection *selection = entry->selection;
    const uint64_t size = dtype_info(entry->tensor.dtype)->bytes;
    const uint64_t row_bytes = columns_of(&entry->tensor) * size, end = offset + count;
    const uint64_t whole_bytes = columns_of(&selection->whole.tensor) * size;
    const uint64_t most = whole_bytes < PANEL_BYTES ? PANEL_BYTES / whole_bytes : 1;
    uint8_t *panel = memory_new(most, whole_bytes, err), *rows = memory_new(most, row_bytes, err);
    enum status status = panel && rows ? OK : ERR_MEMORY;

    for (uint64_t at = offset, part; at < end && !status; at += part) {
        const uint64_t first = at / row_bytes, within = at - first * row_bytes;
        const uint64_t left = (end - 1) / row_bytes - first + 1, taken = left < most ? left : most;
        part = taken * row_bytes - within < end - at ? taken * row_bytes - within : end - at;
        status = read_rows(rows, panel, most, container, selection, first, taken, err);
        if (!status) memcpy(buffer + (at - offset), rows + within, part);
    }
    memory_free(panel);
    memory_free(rows);
    return status;
}

/* ---- choosing ---- */

static enum status check_list(const struct tensor *tensor, const char *what, const uint64_t *numbers,
    uint64_t count, uint64_t limit, struct error *err)
{
    if (numbers && !count) return fail(err, ERR_USAGE, "tensor %s: no %s stay", tensor->name, what);
    for (uint64_t i = 0; numbers && i < count; i++) {
        if (numbers[i] >= limit)
            return fail(err, ERR_USAGE, "tensor %s: %s %" PRIu64 " of %" PRIu64, tensor->name, what,
                numbers[i], limit);
    }
    return OK;
}

static enum status check_choice(
    const struct reader_entry *entry, const struct container_choice *choice, struct error *err)
{
    const struct tensor *tensor = &entry->tensor;

    if (tensor->storage != STORAGE_DENSE || entry->packed)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s is quantized or sparse, and its rows and columns cannot be chosen: prune the model first, then "
            "quantize it",
            tensor->name);
    if (tensor->rank < 1 || tensor->rank > 2 || (tensor->rank == 1 && choice->cols))
        return fail(err, ERR_USAGE, "tensor %s is no matrix", tensor->name);
    enum status status = check_list(tensor, "rows", choice->rows, choice->row_count, tensor->shape[0], err);
    return status ? status
                  : check_list(tensor, "columns", choice->cols, choice->col_count, columns_of(tensor), err);
}

/* Afterwards nobody can check it: the bytes that are read are not those that were summed. */
static enum status check_sum(struct container *container, const struct reader_entry *entry, struct error *err)
{
    const struct tensor *tensor = &entry->tensor;
    uint8_t *piece = memory_new(PANEL_BYTES, 1, err);
    enum status status = piece ? OK : ERR_MEMORY;
    uint32_t crc = 0;

    for (uint64_t at = 0, count; at < tensor->bytes && !status; at += count) {
        count = tensor->bytes - at < PANEL_BYTES ? tensor->bytes - at : PANEL_BYTES;
        status = reader_read(container, entry, at, piece, count, err);
        if (!status) crc = file_crc32(crc, piece, count);
    }
    memory_free(piece);
    if (status || crc == entry->crc) return status;
    return fail(
        err, ERR_FORMAT, "tensor %s: its data do not match its checksum; the file is damaged", tensor->name);
}

static enum status copy_list(uint64_t **out, const uint64_t *list, uint64_t count, struct error *err)
{
    if (!list) return OK;
    *out = memory_new(count, sizeof **out, err);
    if (!*out) return ERR_MEMORY;
    memcpy(*out, list, count * sizeof **out);
    return OK;
}

enum status container_select(
    struct container *container, uint64_t index, const struct container_choice *choice, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    struct selection *selection = NULL;
    enum status status = check_choice(entry, choice, err);

    if (status || (!choice->rows && !choice->cols)) return status;
    if (container->records_checksums && !entry->made) status = check_sum(container, entry, err);
    if (!status) selection = memory_new(1, sizeof *selection, err);
    if (!selection) return status ? status : ERR_MEMORY;
    selection->row_count = choice->row_count;
    selection->col_count = choice->col_count;
    status = copy_list(&selection->rows, choice->rows, choice->row_count, err);
    if (!status) status = copy_list(&selection->cols, choice->cols, choice->col_count, err);
    if (status) {
        selection_free(selection);
        return status;
    }
    selection->whole = *entry;
    *entry = (struct reader_entry){.tensor = entry->tensor,
        .offset = entry->offset,
        .file = entry->file,
        .compute = read_selected,
        .selection = selection,
        .made = true};
    if (choice->rows) entry->tensor.shape[0] = choice->row_count;
    if (choice->cols) entry->tensor.shape[1] = choice->col_count;
    if (!container->records_checksums) container->has_gaps = true;
    return measure_tensor(&entry->tensor, err);
}

/* ---- tensors that come and go ---- */

static enum status read_added(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    (void)container, (void)err;
    memcpy(buffer, (const uint8_t *)entry->copy + offset, count);
    return OK;
}

enum status container_add(struct container *container, const struct tensor *tensor, struct error *err)
{
    struct reader_entry entry = {.tensor = *tensor, .compute = read_added, .made = true};
    enum status status = names_check(tensor->name, strlen(tensor->name), err);

    entry.tensor.data = NULL;
    if (!status) status = measure_tensor(&entry.tensor, err);
    if (status) return status;
    entry.tensor.name = names_keep(&container->names, tensor->name, strlen(tensor->name), err);
    entry.copy = memory_new(entry.tensor.bytes, 1, err);
    status = entry.tensor.name && entry.copy ? reader_add_entry(container, &entry, err) : ERR_MEMORY;
    if (status) {
        memory_free(entry.copy);
        return status;
    }
    memcpy(entry.copy, tensor->data, entry.tensor.bytes);
    if (!container->records_checksums) container->has_gaps = true;
    return OK;
}

static void remove_aliases(struct container *container, const bool *gone)
{
    uint64_t kept = 0;

    for (uint64_t i = 0; i < container->alias_count; i++) {
        if (!gone[container->aliases[i].number]) container->aliases[kept++] = container->aliases[i];
    }
    container->alias_count = kept;
}

void container_remove(struct container *container, const bool *gone)
{
    uint64_t kept = 0;

    remove_aliases(container, gone);
    for (uint64_t i = 0; i < container->entry_count; i++) {
        struct reader_entry *entry = &container->entries[i];
        if (gone[i])
            reader_entry_release(entry);
        else
            container->entries[kept++] = *entry;
    }
    if (kept < container->entry_count && !container->records_checksums) container->has_gaps = true;
    container->entry_count = kept;
}

void container_forget_metadata(struct container *container)
{
    metadata_free(&container->metadata);
    container->metadata = (struct metadata){0};
}
