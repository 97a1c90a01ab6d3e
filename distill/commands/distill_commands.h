/* The commands of nibble-distill: for each its option table and what it runs. One file per command, one row in distill_commands.c. */
#ifndef NIBBLE_DISTILL_COMMANDS_H
#define NIBBLE_DISTILL_COMMANDS_H

#include "base/json.h"
#include "base/options.h"
#include "base/report.h"
#include "base/threads.h"

#define DISTILL_COUNT(array) (sizeof(array) / sizeof *(array))

/* One command; argv[0] of run is its own name. run prints its result and returns a status; `outcome` tells main that help or the version
 * was asked for instead. */
struct distill_command {
    const char *word; /* "dataset" */
    const struct command *table;
    enum status (*run)(int argc, char **argv, enum options_outcome *outcome, struct error *err);
};

extern const struct distill_command *const distill_commands[]; /* NULL ends the list */

/* Print a finished document to standard output. */
enum status distill_print_json(struct json_writer *writer, struct error *err);

#endif
