#include "prune/prune_summary.h"

#include <stdio.h>

enum status prune_summary_print(
    const struct prune_result *result, const struct prune_options *options, struct error *err)
{
    (void)err;
    printf("%s: %u layers of %u\n", options->output, result->layers_out, result->layers_in);
    return OK;
}
