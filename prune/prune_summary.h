/* What nibble-prune says when it is done: a table and a few lines for people, or one JSON object (docs/cli.md). */
#ifndef NIBBLE_PRUNE_SUMMARY_H
#define NIBBLE_PRUNE_SUMMARY_H

#include "prune/prune.h"

/* Print to standard output what prune_run did, or after a dry run would do. The caller flushes. */
enum status prune_summary_print(
    const struct prune_result *result, const struct prune_options *options, struct error *err);

#endif
