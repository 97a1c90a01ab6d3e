/* nibble-check inspect: its options, and what it prints. The work is in inspect.c. */
#include <stdio.h>

#include "base/memory.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/inspect/inspect.h"

struct inspect_values {
    struct common_options common;
    const char *file;
    bool tensors;
};

static const struct operand operands[] = {
    {"FILE", offsetof(struct inspect_values, file),
        "A .nbl file, a .safetensors file or a Hugging Face folder."},
};

static const struct option option_table[] = {
    {"tensors", OPTION_FLAG, offsetof(struct inspect_values, tensors), 0, 0, NULL, NULL, NULL,
        "List every tensor instead of a summary.", "Options"},
    COMMON_OPTIONS(struct inspect_values),
};

static const struct command usage = {
    .name = "nibble-check inspect",
    .summary = "Show what a model file holds: architecture, tensors, sizes, and how it was made.",
    .details = "Example:\n  nibble-check inspect small.nbl --tensors\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

static enum status run_inspect(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct inspect_values values = {0};
    struct container *container = NULL;
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = container_open(&container, values.file, err))) return status;
    if (values.common.json) {
        struct json_writer writer = {.indent = 2};
        status = inspect_json(container, &writer, err);
        if (!status) status = commands_print_json(&writer, err);
        json_writer_free(&writer);
    } else {
        status = inspect_print(container, values.tensors, err);
    }
    container_close(container);
    return status;
}

const struct check_command command_inspect = {"inspect", &usage, run_inspect};
