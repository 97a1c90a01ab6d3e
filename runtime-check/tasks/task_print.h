/* Answers of models to multiple-choice items, for people and for programs. */
#ifndef NIBBLE_RUNTIME_CHECK_TASK_PRINT_H
#define NIBBLE_RUNTIME_CHECK_TASK_PRINT_H

#include "base/cells.h"
#include "base/file.h"
#include "base/json.h"
#include "runtime-check/tasks/tally.h"

/* One model; the first of a list is what the others are compared with. */
struct task_print_model {
    const char *name; /* as given on the command line */
    uint64_t bytes;
    struct tasks_plan plan;
    struct tasks_scores scores;
    struct tally_summary summary;
};

/* All to standard output, models[count] in the order given.
 * table: aligned, percentages. cells (CSV or Markdown): shares with all digits, one column per number; what the first model has no
 * value for is empty. */
void task_print_table(const struct task_print_model *models, uint64_t count);
void task_print_cells(enum cells_format format, const struct task_print_model *models, uint64_t count);

/* One model as a JSON object; `first`: without comparison. */
void task_print_json(struct json_writer *writer, const struct task_print_model *model, bool first);

/* Write what every model answered to every item to an open output (base/file.h), one JSON object a line; the caller commits. */
enum status task_print_samples(struct output *output, const struct task_file *file,
    const struct task_print_model *models, uint64_t count, struct error *err);

#endif
