/* How published multiple-choice sets are written, and what text lm-evaluation-harness (EleutherAI, version 0.4) makes of an item:
 * one row per layout. The templates are those of its task files hellaswag.yaml, winogrande/default.yaml, piqa.yaml,
 * arc_easy.yaml, openbookqa.yaml, super_glue/boolq, sciq.yaml and mmlu/default, found in its release 0.4.13. */
#ifndef NIBBLE_RUNTIME_CHECK_TASK_LAYOUTS_H
#define NIBBLE_RUNTIME_CHECK_TASK_LAYOUTS_H

#include "runtime-check/tasks/task_file.h"

struct draft; /* draft.h */

struct task_layout {
    const char *name;    /* for --layout */
    const char *keys[4]; /* an object that has all of these is of this layout, if no row before fits */
    void (*read)(struct draft *draft);
};

/* The table; a row without a name ends it. */
extern const struct task_layout task_layouts[];
/* The names for --layout, "auto" first: "auto|hellaswag|..." */
#define TASK_LAYOUTS_NAMES "auto|plain|hellaswag|winogrande|piqa|arc|openbookqa|boolq|sciq|mmlu"

/* The row of this name, or NULL. */
const struct task_layout *task_layouts_find(const char *name);
/* The first row whose keys the object has, or NULL. */
const struct task_layout *task_layouts_detect(const struct json_value *object);

/* Append the item that `object` describes to the file; its line is left 0. ERR_FORMAT: a key is missing or holds something
 * else than its layout says, naming the key. After an error the file holds the items it held before. */
enum status task_layouts_read(struct task_file *file, const struct task_layout *layout,
    const struct json_value *object, struct error *err);

#endif
