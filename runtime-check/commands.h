/* The commands of nibble-check: for each its option table and what it runs. One file per command, one row in commands.c. */
#ifndef NIBBLE_RUNTIME_CHECK_COMMANDS_H
#define NIBBLE_RUNTIME_CHECK_COMMANDS_H

#include "base/json.h"
#include "base/options.h"
#include "base/report.h"
#include "base/threads.h"

#define COMMANDS_COUNT(array) (sizeof(array) / sizeof *(array))

/* One command; argv[0] of run is its own name. run prints its result and returns a status; `outcome` tells main that help
 * or the version was asked for instead. */
struct check_command {
    const char *word; /* "perplexity" */
    const struct command *table;
    enum status (*run)(int argc, char **argv, enum options_outcome *outcome, struct error *err);
};

extern const struct check_command *const check_commands[]; /* NULL ends the list */

/* What every command needs once its options are known. The pool is freed by the command. */
struct commands_setting {
    struct pool *pool;
    struct report report;
};

enum status commands_open(
    struct commands_setting *setting, const struct common_options *common, struct error *err);

/* Print a finished document to standard output. */
enum status commands_print_json(struct json_writer *writer, struct error *err);

#endif
