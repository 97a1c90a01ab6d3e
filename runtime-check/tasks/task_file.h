/* Multiple-choice items from a file of JSON lines, as texts ready to be scored: what comes before, and what may follow.
 * Which keys a line has decides how it is read (task_layouts.h has the table of layouts and their templates). */
#ifndef NIBBLE_RUNTIME_CHECK_TASK_FILE_H
#define NIBBLE_RUNTIME_CHECK_TASK_FILE_H

#include "base/json.h"
#include "model/tokenizer/text.h"

/* Limits, so that a hostile file cannot ask for much: of a file (unpacked), of one line, of choices of one item. */
#define TASK_FILE_BYTES (UINT64_C(512) << 20)
#define TASK_FILE_LINE_BYTES (UINT64_C(1) << 20)
enum { TASK_FILE_CHOICES = 64 };

/* Bytes [offset, offset + bytes) of the file's texts, UTF-8. */
struct task_text {
    uint64_t offset, bytes;
};

/* One answer that may be chosen. */
struct task_choice {
    struct task_text context; /* what it is scored after; mostly the same for all choices of an item */
    struct task_text
        continuation; /* what is scored: a space (lm-evaluation-harness's target delimiter) and a text */
    uint64_t characters,
        bytes; /* length of that text, without the space: Unicode code points, bytes of UTF-8 */
};

struct task_item {
    uint64_t line;                /* in its file, from 1 */
    struct task_text description; /* stands before examples and context; mostly empty */
    uint64_t first;               /* its choices are choices[first .. first + choices) of the file */
    uint32_t choices, right;      /* 2 .. TASK_FILE_CHOICES; which is right, from 0 */
};

/* A file, read. Zero-initialise; release with task_file_free. */
struct task_file {
    const struct task_layout *layout;
    struct text texts;
    struct task_item *items; /* [count], at least one once read */
    struct task_choice *choices;
    uint64_t count, choice_count, item_capacity, choice_capacity;
    struct text examples; /* few-shot examples, as they stand before every context; mostly empty */
    uint64_t shots;
};

/* Read a file: UTF-8, one JSON object a line, empty lines ignored, gzip unpacked.
 *   layout  "auto" (the keys of the first object decide, for the whole file) or the name of a row of task_layouts
 *   limit   stop after so many items; 0: read all
 * ERR_FORMAT: not JSON, keys that no layout has, an answer that is no choice ..., naming the line. ERR_MEMORY: above a
 * limit. ERR_USAGE: no such layout. Release *out with task_file_free, also after an error. */
enum status task_file_read(
    struct task_file *out, const char *path, const char *layout, uint64_t limit, struct error *err);
/* The same from memory; `what` names the text in errors. */
enum status task_file_parse(struct task_file *out, const char *what, const char *bytes, uint64_t count,
    const char *layout, uint64_t limit, struct error *err);

/* Put the first `shots` items of another file of the same layout, each with its right answer, before every context: for each
 * its context, the right continuation and a blank line (lm-evaluation-harness's sampler "first_n"). ERR_USAGE: the file
 * has fewer. */
enum status task_file_add_examples(
    struct task_file *file, const char *path, uint64_t shots, struct error *err);

/* The accuracy of one who guesses: the mean of 1 / choices over the items. */
double task_file_chance(const struct task_file *file);

void task_file_free(struct task_file *file);

/* The bytes of a text; valid until more is read. */
static inline const char *task_file_text(const struct task_file *file, struct task_text text)
{
    return file->texts.bytes + text.offset;
}

#endif
