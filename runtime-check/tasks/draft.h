/* A multiple-choice item in the making: what the layouts (task_layouts.c) build items with. Errors are kept, not returned: the
 * first one stays, and what is put after it is ignored, so that a layout reads like its template. */
#ifndef NIBBLE_RUNTIME_CHECK_DRAFT_H
#define NIBBLE_RUNTIME_CHECK_DRAFT_H

#include "runtime-check/tasks/task_file.h"

struct draft {
    struct task_file *file;          /* texts and choices are appended to it */
    const struct json_value *object; /* the line */
    struct task_item item;           /* first is set, the rest comes */
    struct task_text context;        /* of the choices added next */
    struct error *err;
    enum status status;
};

/* Append to the file's texts. A text is what was put between draft_begin and draft_finish. */
void draft_put(struct draft *draft, const char *bytes, uint64_t count);
void draft_put_string(struct draft *draft, const char *string);
uint64_t draft_begin(const struct draft *draft);
struct task_text draft_finish(const struct draft *draft, uint64_t from);

/* Keep the error that `key` is missing or not `wanted` ("a string"); returns an empty text to go on with. */
struct json_text draft_refuse(struct draft *draft, const char *key, const char *wanted);

/* The string under a key of the line, or of an object in it; the children of a list with elements (NULL: there is none). What is
 * not there is refused. */
struct json_text draft_string(struct draft *draft, const char *key);
struct json_text draft_string_of(struct draft *draft, const struct json_value *object, const char *key);
const struct json_value *draft_list_of(struct draft *draft, const struct json_value *object, const char *key);
/* Position of a string among siblings, or UINT64_MAX. */
uint64_t draft_position(const struct json_value *list, struct json_text text);
bool draft_same(struct json_text a, struct json_text b);

/* Append a choice after the draft's context, a space before it: a text, the string under a key, every string of a list. More
 * than TASK_FILE_CHOICES are refused. */
void draft_add(struct draft *draft, struct json_text text);
void draft_add_key(struct draft *draft, const char *key);
void draft_add_list(struct draft *draft, const char *key);

/* Say which choice is right, after all were added: its index; the index under `key` (a number, true or false, or a string of
 * one or two digits) counted from `base`; or "answer": an index from 0, else the text of an element of "choices", else a
 * capital letter. An index that no choice has is refused. */
void draft_right(struct draft *draft, const char *key, uint64_t index);
void draft_right_by_index(struct draft *draft, const char *key, uint64_t base);
void draft_right_by_answer(struct draft *draft);

#endif
