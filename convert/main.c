/* nibble-convert: options, one library call, report. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "convert/convert.h"
#include "tensor/kernels/kernels.h"

static enum status run(const struct convert_options *options, struct error *err)
{
    struct convert_result result = {0};
    enum status status = kernels_select(getenv("NIBBLE_KERNELS"), err);
    if (status == OK) status = convert_run(&result, options, err);
    if (status == OK) status = convert_print(&result, options, err);
    convert_release(&result);
    return status;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct convert_options options = convert_defaults();
    enum options_outcome outcome;

    file_catch_signals();
    enum status status = options_parse(&convert_command, argc, argv, &options, &outcome, &err);
    if (status == OK && outcome == OPTIONS_HELP) {
        options_help(&convert_command);
    } else if (status == OK && outcome == OPTIONS_VERSION) {
        printf("%s %s\n", convert_command.name, NIBBLE_VERSION);
    } else if (status == OK) {
        status = run(&options, &err);
    }
    if (status == OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = fail_errno(&err, errno, "standard output");
    convert_options_free(&options);
    return status == OK ? 0 : report_failure(convert_command.name, &err);
}
