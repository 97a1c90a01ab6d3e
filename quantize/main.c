/* nibble-quantize: options, one library call, report. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "quantize/summary.h"
#include "tensor/kernels/kernels.h"

static enum status run(const struct quantize_options *options, struct error *err)
{
    struct quantize_result result = {0};
    enum status status = kernels_select(getenv("NIBBLE_KERNELS"), err);
    if (status == OK) status = quantize_run(&result, options, err);
    if (status == OK) status = summary_print(&result, options, err);
    quantize_release(&result);
    return status;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct quantize_options options = settings_defaults();
    enum options_outcome outcome;

    file_catch_signals();
    enum status status = options_parse(&settings_command, argc, argv, &options, &outcome, &err);
    if (status == OK && outcome == OPTIONS_HELP) {
        options_help(&settings_command);
    } else if (status == OK && outcome == OPTIONS_VERSION) {
        printf("%s %s\n", settings_command.name, NIBBLE_VERSION);
    } else if (status == OK) {
        status = run(&options, &err);
    }
    if (status == OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = fail_errno(&err, errno, "standard output");
    settings_options_free(&options);
    return status == OK ? 0 : report_failure(settings_command.name, &err);
}
