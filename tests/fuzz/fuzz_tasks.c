/* Any bytes as items, in every layout. What is read keeps its promises: texts inside the buffer, two choices at least, and a right
 * one among them. */
#include <string.h>

#include "runtime-check/tasks/task_layouts.h"
#include "tests/fuzz/fuzz.h"

static void check_text(const struct task_file *file, struct task_text text)
{
    if (text.offset > file->texts.count || text.bytes > file->texts.count - text.offset) abort();
    if (text.bytes && !json_valid_utf8(task_file_text(file, text), text.bytes)) abort();
}

static void check_item(const struct task_file *file, const struct task_item *item)
{
    if (item->choices < 2 || item->choices > TASK_FILE_CHOICES || item->right >= item->choices) abort();
    if (item->line == 0 || item->first + item->choices > file->choice_count) abort();
    check_text(file, item->description);
    for (uint32_t i = 0; i < item->choices; i++) {
        const struct task_choice *choice = &file->choices[item->first + i];
        check_text(file, choice->context);
        check_text(file, choice->continuation);
        if (choice->bytes + 1 != choice->continuation.bytes || choice->characters > choice->bytes) abort();
    }
}

static void read_as(const char *layout, const uint8_t *data, size_t size)
{
    struct task_file file = {0};
    if (task_file_parse(&file, "fuzz", (const char *)data, size, layout, 0, NULL) == OK && file.count == 0)
        abort();
    for (uint64_t i = 0; i < file.count; i++) {
        if (file.items[i].line) check_item(&file, &file.items[i]);
    }
    task_file_free(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_as("auto", data, size);
    for (const struct task_layout *layout = task_layouts; layout->name; layout++)
        read_as(layout->name, data, size);
    return 0;
}
