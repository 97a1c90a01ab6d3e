/* nibble-prune: options, one library call, report. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "prune/prune_summary.h"
#include "tensor/kernels/kernels.h"

static enum status run(const struct prune_options *options, struct error *err)
{
    struct prune_result result = {0};
    enum status status = kernels_select(getenv("NIBBLE_KERNELS"), err);
    if (status == OK) status = prune_run(&result, options, err);
    if (status == OK) status = prune_summary_print(&result, options, err);
    prune_release(&result);
    return status;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct prune_options options = prune_settings_defaults();
    enum options_outcome outcome;

    file_catch_signals();
    enum status status = options_parse(&prune_settings_command, argc, argv, &options, &outcome, &err);
    if (status == OK && outcome == OPTIONS_HELP) {
        options_help(&prune_settings_command);
    } else if (status == OK && outcome == OPTIONS_VERSION) {
        printf("%s %s\n", prune_settings_command.name, NIBBLE_VERSION);
    } else if (status == OK) {
        status = run(&options, &err);
    }
    if (status == OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = fail_errno(&err, errno, "standard output");
    prune_settings_options_free(&options);
    return status == OK ? 0 : report_failure(prune_settings_command.name, &err);
}
