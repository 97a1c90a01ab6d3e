/* The table of commands, and what they share. */
#include "runtime-check/commands.h"

#include <stdio.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"

extern const struct check_command command_perplexity, command_compare, command_verify, command_inspect,
    command_generate;

const struct check_command *const check_commands[] = {
    &command_perplexity,
    &command_compare,
    &command_verify,
    &command_inspect,
    &command_generate,
    NULL,
};

enum status commands_open(
    struct commands_setting *setting, const struct common_options *common, struct error *err)
{
    setting->report = (struct report){.quiet = common->quiet, .verbose = common->verbose};
    enum status status = pool_create(&setting->pool, (unsigned)common->threads, err);
    if (status) return status;
    report_detail(&setting->report, "kernels: %s, threads: %u", kernels()->name, pool_workers(setting->pool));
    return OK;
}

enum status commands_print_json(struct json_writer *writer, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = json_writer_take(writer, &text, &bytes, err);
    if (!status && fwrite(text, 1, bytes, stdout) != bytes)
        status = fail(err, ERR_IO, "standard output: write error");
    memory_free(text);
    return status;
}
