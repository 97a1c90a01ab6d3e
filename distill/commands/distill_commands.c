#include "distill/commands/distill_commands.h"

#include <stdio.h>

#include "base/memory.h"

extern const struct distill_command distill_dataset, distill_inspect, distill_export;

const struct distill_command *const distill_commands[] = {
    &distill_dataset,
    &distill_inspect,
    &distill_export,
    NULL,
};

enum status distill_print_json(struct json_writer *writer, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = json_writer_take(writer, &text, &bytes, err);
    if (!status && fwrite(text, 1, bytes, stdout) != bytes)
        status = fail(err, ERR_IO, "standard output: write error");
    memory_free(text);
    return status;
}
