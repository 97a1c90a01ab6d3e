/* What nibble-quantize says when it is done: a table and a few lines for people, or one JSON object
 * (docs/cli.md). */
#ifndef NIBBLE_QUANTIZE_SUMMARY_H
#define NIBBLE_QUANTIZE_SUMMARY_H

#include "quantize/quantize.h"

/* Print to standard output what quantize_run did, or after a dry run would do. The caller flushes. */
enum status summary_print(
    const struct quantize_result *result, const struct quantize_options *options, struct error *err);

#endif
