/* The report of a structured pruning: what became of each layer, and of the vocabulary. */
#ifndef NIBBLE_PRUNE_STRUCTURE_SUMMARY_H
#define NIBBLE_PRUNE_STRUCTURE_SUMMARY_H

#include "prune/prune.h"

/* For people, on standard output; after a dry run and with --verbose every layer. */
void structure_summary_print(const struct prune_result *result, const struct prune_options *options);

/* Members of the open JSON object that others of its kind do not have. */
void structure_summary_put(struct json_writer *json, const struct prune_result *result);

#endif
