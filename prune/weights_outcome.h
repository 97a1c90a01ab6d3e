/* What became of the matrices of a layer, as its file in the journal holds it. */
#ifndef NIBBLE_PRUNE_WEIGHTS_OUTCOME_H
#define NIBBLE_PRUNE_WEIGHTS_OUTCOME_H

#include "prune/weights.h"

/* One matrix's numbers, into an open object. */
void weights_outcome_put(struct json_writer *json, const struct prune_tensor *matrix);

/* A layer's document, memory_free; and taken again from a layer's file. ERR_FORMAT: it is missing or damaged; ERR_MEMORY. */
enum status weights_outcome_write(
    char **out, uint64_t *bytes, const struct weights *work, uint32_t layer, struct error *err);
enum status weights_outcome_read(
    struct weights *work, uint32_t layer, struct container *from, struct error *err);

/* The root of the relative output error, or of the share of squared weights that went. */
double weights_outcome_relative(const struct prune_tensor *matrix);

/* Say what became of a layer. */
void weights_outcome_note(const struct weights *work, uint32_t layer, double seconds, double seconds_left);

#endif
