/* See task_file.h. */
#include "runtime-check/tasks/task_file.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/tasks/task_layouts.h"

void task_file_free(struct task_file *file)
{
    memory_free(file->items);
    memory_free(file->choices);
    text_free(&file->texts);
    text_free(&file->examples);
    memset(file, 0, sizeof *file);
}

double task_file_chance(const struct task_file *file)
{
    double sum = 0;
    for (uint64_t i = 0; i < file->count; i++)
        sum += 1 / (double)file->items[i].choices;
    return sum / (double)file->count;
}

/* ---- lines ---- */

/* The layout is settled by the first object, or was given. */
static enum status settle_layout(struct task_file *file, const struct json_value *object, struct error *err)
{
    if (file->layout) return OK;
    file->layout = task_layouts_detect(object);
    if (file->layout) return OK;
    return fail(err, ERR_FORMAT,
        "the keys of this object are those of no known layout; --layout plain expects \"question\", "
        "\"choices\" and "
        "\"answer\"");
}

static enum status read_line(struct task_file *file, const char *bytes, uint64_t count, struct error *err)
{
    struct json_document *document = NULL;
    if (count > TASK_FILE_LINE_BYTES) {
        return fail(err, ERR_MEMORY, "longer than %" PRIu64 " bytes", (uint64_t)TASK_FILE_LINE_BYTES);
    }
    enum status status = json_parse(&document, "item", bytes, count, err);
    if (!status && json_root(document)->kind != JSON_OBJECT)
        status = fail(err, ERR_FORMAT, "not a JSON object");
    if (!status) status = settle_layout(file, json_root(document), err);
    if (!status) status = task_layouts_read(file, file->layout, json_root(document), err);
    json_free(document);
    return status;
}

static bool is_blank(const char *bytes, uint64_t count)
{
    while (count > 0 && strchr(" \t\r", *bytes) && *bytes) {
        bytes++;
        count--;
    }
    return count == 0;
}

enum status task_file_parse(struct task_file *out, const char *what, const char *bytes, uint64_t count,
    const char *layout, uint64_t limit, struct error *err)
{
    const char *const end = bytes + count;
    *out = (struct task_file){.layout = task_layouts_find(layout)};
    if (!out->layout && strcmp(layout, "auto") != 0)
        return fail(err, ERR_USAGE, "there is no layout \"%s\"", layout);
    for (uint64_t line = 1; bytes < end && (!limit || out->count < limit); line++) {
        const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
        const uint64_t length = (uint64_t)((newline ? newline : end) - bytes);
        if (!is_blank(bytes, length)) {
            const enum status status = read_line(out, bytes, length, err);
            if (status) return fail_within(err, status, "%s: line %" PRIu64, what, line);
            out->items[out->count - 1].line = line;
        }
        bytes += length + (newline != NULL);
    }
    return out->count ? OK : fail(err, ERR_FORMAT, "%s: there are no items in it", what);
}

enum status task_file_read(
    struct task_file *out, const char *path, const char *layout, uint64_t limit, struct error *err)
{
    char *bytes = NULL;
    uint64_t count = 0;
    uint32_t crc32;
    *out = (struct task_file){0};
    enum status status = file_read_text(&bytes, &count, &crc32, path, TASK_FILE_BYTES, err);
    if (!status) status = task_file_parse(out, path, bytes, count, layout, limit, err);
    memory_free(bytes);
    return status;
}

/* ---- few-shot examples ---- */

static enum status add_example(
    struct task_file *file, const struct task_file *from, uint64_t index, struct error *err)
{
    const struct task_item *item = &from->items[index];
    const struct task_choice *choice = &from->choices[item->first + item->right];
    enum status status =
        text_append(&file->examples, task_file_text(from, choice->context), choice->context.bytes, err);
    if (!status) {
        status = text_append(
            &file->examples, task_file_text(from, choice->continuation), choice->continuation.bytes, err);
    }
    return status ? status : text_append_string(&file->examples, "\n\n", err);
}

enum status task_file_add_examples(
    struct task_file *file, const char *path, uint64_t shots, struct error *err)
{
    struct task_file from;
    enum status status = task_file_read(&from, path, file->layout->name, shots, err);
    if (!status && from.count < shots) {
        status = fail(err, ERR_USAGE, "%s: %" PRIu64 " examples were asked for, it has %" PRIu64, path, shots,
            from.count);
    }
    for (uint64_t i = 0; i < shots && !status; i++)
        status = add_example(file, &from, i, err);
    if (!status) file->shots += shots;
    task_file_free(&from);
    return status;
}
