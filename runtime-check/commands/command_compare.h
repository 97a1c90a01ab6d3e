/* nibble-check compare in two files: what is asked for and done (command_compare.c), and what is printed (command_compare_print.c). */
#ifndef NIBBLE_RUNTIME_CHECK_COMMAND_COMPARE_H
#define NIBBLE_RUNTIME_CHECK_COMMAND_COMPARE_H

#include "runtime-check/commands/commands.h"
#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/comparison_print.h"

/* The command line. */
struct compare_values {
    struct common_options common;
    struct text_values text;
    struct model_values model;
    struct option_list paths; /* the base first, unless base_logits stands for it */
    const char *save_base, *base_logits, *html;
    uint64_t top_k;
    bool layers, force, csv, markdown;
};

/* What is open while the command runs. */
struct compare_run {
    struct commands_setting setting;
    struct compare_base base;
    struct model **models;          /* [count] the candidates */
    struct comparison *results;     /* [count], at least one */
    struct comparison_model *shown; /* [1 + count], the base first */
    uint64_t count;
    char *text;
    uint64_t text_bytes; /* of the text, also where only the stored base has seen it */
    uint32_t text_crc32;
    const char *protocol;
    double seconds;
};

/* Print the result as the options ask. ERR_IO, ERR_MEMORY. */
enum status command_compare_print(
    const struct compare_run *run, const struct compare_values *values, struct error *err);

#endif
