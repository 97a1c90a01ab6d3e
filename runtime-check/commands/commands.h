/* The commands of nibble-check: for each its option table and what it runs. One file per command, one row in commands.c. */
#ifndef NIBBLE_RUNTIME_CHECK_COMMANDS_H
#define NIBBLE_RUNTIME_CHECK_COMMANDS_H

#include "base/json.h"
#include "base/options.h"
#include "base/report.h"
#include "base/threads.h"
#include "model/forward.h"
#include "runtime-check/judge/perplexity.h"

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

/* Options of every command that runs a model. */
struct model_values {
    const char *kv_bits; /* start it as "32" */
    bool check;
};
#define MODEL_OPTIONS(type, field)                                                                           \
    {"kv-bits", OPTION_CHOICE, offsetof(type, field.kv_bits), 0, 0, "32|8|4", "N", "32",                     \
        "Bits of keys and values in the KV cache.", NULL},                                                   \
    {                                                                                                        \
        "check", OPTION_FLAG, offsetof(type, field.check), 0, 0, NULL, NULL, NULL,                           \
            "Read every byte of the model files first and refuse damaged ones (checksums, finite weights).", \
            NULL                                                                                             \
    }

/* Options of every command that reads a text under a protocol. */
struct text_values {
    const char *text, *protocol; /* start protocol as "gptq" */
    uint64_t context, windows;
};
/* All but --text, for a command that says itself what a text is to it. */
#define WINDOW_OPTIONS(type, field)                                                                          \
    {"protocol", OPTION_CHOICE, offsetof(type, field.protocol), 0, 0, "gptq|llama.cpp", "NAME", "gptq",      \
        "gptq: windows without overlap, every position but the first scored. llama.cpp: each window "        \
        "begins with BOS and its second half is scored. Numbers of different protocols or contexts do "      \
        "not compare.",                                                                                      \
        NULL},                                                                                               \
        {"context", OPTION_COUNT, offsetof(type, field.context), 4, 1 << 20, NULL, "N",                      \
            "the model's, at most 2048 (gptq) or 512 (llama.cpp)", "Tokens per window.", NULL},              \
    {                                                                                                        \
        "windows", OPTION_COUNT, offsetof(type, field.windows), 1, 1e9, NULL, "N", "all",                    \
            "Read only the first N windows.", NULL                                                           \
    }
#define TEXT_OPTIONS(type, field)                                                                            \
    {"text", OPTION_TEXT, offsetof(type, field.text), 0, 0, NULL, "FILE", NULL,                              \
        "The text to read, UTF-8. Required.", "Options"},                                                    \
        WINDOW_OPTIONS(type, field)

struct perplexity_options commands_perplexity_options(const struct text_values *values);
/* Read the text of --text into memory. ERR_USAGE: it is not given. Owner of *out: the caller, memory_free. */
enum status commands_read_text(
    char **out, uint64_t *bytes, const struct text_values *values, struct error *err);
/* Open a model as MODEL_OPTIONS say, and note what it was made of (checkpoint_note_made). ERR_CHECK: --check found damage. Owner: the caller, model_close. */
enum status commands_open_model(struct model **out, const char *path, const struct model_values *values,
    const struct commands_setting *setting, struct error *err);

/* Open the object that --json prints, and say which tool made it: "nibble-check <word>". */
void commands_open_json(struct json_writer *writer, const char *word);
/* Say at what cost (memory, threads, kernels), close the object and print it to standard output. */
enum status commands_close_json(
    struct json_writer *writer, const struct commands_setting *setting, struct error *err);
/* Print a finished document to standard output. */
enum status commands_print_json(struct json_writer *writer, struct error *err);
/* The same for people: the last line of a result. */
void commands_print_cost(double seconds);

#endif
