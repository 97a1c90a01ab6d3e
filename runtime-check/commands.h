/* The subcommands of nibble-check: for each its option table and what it runs. */
#ifndef NIBBLE_RUNTIME_CHECK_COMMANDS_H
#define NIBBLE_RUNTIME_CHECK_COMMANDS_H

#include "base/options.h"

/* One subcommand; argv[0] is its own name. Prints its result and returns a status. `outcome` tells main that help or the
 * version was asked for instead. */
struct check_command {
    const char *word; /* "perplexity" */
    const struct command *table;
    enum status (*run)(int argc, char **argv, enum options_outcome *outcome, struct error *err);
};

extern const struct check_command check_commands[];
extern const unsigned check_command_count;

#endif
