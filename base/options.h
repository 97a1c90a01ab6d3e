/* Command lines: one table per tool drives parsing, range checks and --help (and later man pages and completion). */
#ifndef NIBBLE_BASE_OPTIONS_H
#define NIBBLE_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,   /* bool: true when given */
    OPTION_COUNT,  /* uint64_t between minimum and maximum */
    OPTION_NUMBER, /* double between minimum and maximum */
    OPTION_TEXT,   /* const char *, points into argv */
    OPTION_CHOICE, /* const char *, one of `choices` ("a|b|c"); points into argv */
    OPTION_LIST    /* struct option_list: may be given more than once, in order */
};

/* Every value of a repeatable option; the strings point into argv, the array is owned by the list. */
struct option_list {
    const char **values;
    uint64_t count, capacity;
};

/* One option. `offset` is where its value lies in the tool's options structure (offsetof). Defaults are whatever the
 * structure holds before parsing; `shown_default` is how --help prints them. */
struct option {
    const char *name; /* without the dashes: "threads" */
    enum option_kind kind;
    size_t offset;
    double minimum, maximum;   /* COUNT and NUMBER: inclusive */
    const char *choices;       /* CHOICE */
    const char *metavar;       /* what --help calls the value: "N", "FILE" */
    const char *shown_default; /* NULL: none shown */
    const char *help;          /* one or two sentences; wrapped by --help */
    const char *section;       /* NULL: under the section of the option before it */
};

/* A positional argument; all are required and stand in order among the options. The last one may take the rest: a name that
 * ends in "..." means one or more, collected into a struct option_list. */
struct operand {
    const char *name; /* "INPUT", "MODEL..." */
    size_t offset;    /* of a const char *, or of a struct option_list */
    const char *help;
};

/* A whole command (a tool, or one subcommand of it). */
struct command {
    const char *name;    /* "nibble-quantize", or "nibble-check perplexity" */
    const char *summary; /* one sentence */
    const char *details; /* paragraphs after the options: examples, notes; may be NULL */
    const struct operand *operands;
    size_t operand_count;
    const struct option *options;
    size_t option_count;
};

/* What parsing found besides values. */
enum options_outcome { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

/* Parse argv[1 ..) into `values` by the table. `--help` and `--version` win wherever they stand (also before a missing
 * operand, but not after `--`); `-h` is --help. `--name value` and `--name=value` both work; `--` ends options, and a
 * lone `-` is an operand. Of an option given twice the last value holds. Errors are ERR_USAGE
 * and name the option, the value, what is allowed, and for an unknown option the nearest known one.
 * The common options below are part of every table through COMMON_OPTIONS. */
enum status options_parse(const struct command *command, int argc, char **argv, void *values,
    enum options_outcome *outcome, struct error *err);

/* Parse one count with an optional suffix K, M, G (powers of 1000) or Ki, Mi, Gi; whole string, no sign. */
enum status options_count(uint64_t *out, const char *text, struct error *err);

/* Print the help of a command to stdout, wrapped to 100 columns. */
void options_help(const struct command *command);

void options_list_free(struct option_list *list);

/* Options that every tool has. Put `struct common_options common;` first in the tool's structure and COMMON_OPTIONS
 * last in its table. */
struct common_options {
    uint64_t threads; /* 0 = all processors */
    bool json, quiet, verbose;
};

#define COMMON_OPTIONS(type)                                                                                 \
    {"threads", OPTION_COUNT, offsetof(type, common.threads), 0, 1024, NULL, "N", "all processors",          \
        "Worker threads. The output is the same for every number.", "Common options"},                       \
        {"json", OPTION_FLAG, offsetof(type, common.json), 0, 0, NULL, NULL, NULL,                           \
            "Print the result as one JSON object on standard output.", NULL},                                \
        {"quiet", OPTION_FLAG, offsetof(type, common.quiet), 0, 0, NULL, NULL, NULL,                         \
            "No progress and no notes; errors and results only.", NULL},                                     \
    {                                                                                                        \
        "verbose", OPTION_FLAG, offsetof(type, common.verbose), 0, 0, NULL, NULL, NULL,                      \
            "Say more: every tensor, the kernel set in use.", NULL                                           \
    }

#endif
