/* A comparison for people and for programs: one list of models, several ways to write it. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARISON_PRINT_H
#define NIBBLE_RUNTIME_CHECK_COMPARISON_PRINT_H

#include "base/cells.h"
#include "base/json.h"
#include "runtime-check/judge/compare.h"

/* The base (result NULL) or a candidate. */
struct comparison_model {
    const char *name; /* as given on the command line */
    uint64_t bytes;
    double bits_per_weight; /* of the whole file, as inspect counts */
    struct estimate perplexity;
    const struct comparison *result;
};

/* All to standard output, models[count] in the order given, the base first.
 * table: aligned, rounded. cells (CSV or Markdown): all digits, one column per number. What a base has no value for is empty; a
 * base alone has only the columns that it has values for. */
void comparison_print_table(const struct comparison_model *models, uint64_t count);
void comparison_print_cells(enum cells_format format, const struct comparison_model *models, uint64_t count);

/* One model as a JSON object. */
void comparison_write_json(struct json_writer *writer, const struct comparison_model *model);

#endif
