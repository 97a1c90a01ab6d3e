/* Adapters merged while converting: which tensors of a model they change, and how. */
#ifndef NIBBLE_CONVERT_MERGE_H
#define NIBBLE_CONVERT_MERGE_H

#include "base/options.h"
#include "formats/transfer.h"
#include "model/lora.h"

struct merge;

/* Open every adapter of a list of "DIR" or "DIR:SCALE"; they are added in that order. NULL for an empty list. Errors: lora_open's.
 * Owner of *out: the caller, merge_close. */
enum status merge_open(struct merge **out, const struct option_list *specs,
    const struct checkpoint *checkpoint, struct error *err);
void merge_close(struct merge *merge);

/* Let an item carry what the adapters change of its tensor. NULL merges nothing. */
void merge_item(struct merge *merge, struct transfer_item *item);

/* How many tensors merge_item has changed. */
uint64_t merge_count(const struct merge *merge);

/* How many adapters there are. */
uint64_t merge_adapters(const struct merge *merge);

/* What provenance says of them: "NAME scale S crc32 C", several with "; " between. Owner: the merge. */
const char *merge_text(const struct merge *merge);

#endif
