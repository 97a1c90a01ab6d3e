/* What became of the tensors of a layer: told to people while the work goes on, and kept with the journal, so that the report of a
 * resumed run covers all layers. */
#ifndef NIBBLE_QUANTIZE_OUTCOME_H
#define NIBBLE_QUANTIZE_OUTCOME_H

#include "quantize/plan.h"

/* One plain line: layer, errors, time, time left. */
void outcome_note(const struct report *report, const struct plan *plan, uint32_t layer, uint32_t layers,
    double seconds, double seconds_left);

/* The outcomes of a layer's quantized matrices as JSON text (memory_free), and back into the plan from a finished layer's document
 * "layer.json". ERR_FORMAT: it is not what outcome_write wrote. */
enum status outcome_write(
    char **out, uint64_t *bytes, const struct plan *plan, uint32_t layer, struct error *err);
enum status outcome_read(struct plan *plan, uint32_t layer, struct container *from, struct error *err);

/* The fields of one outcome into an open JSON object. */
void outcome_put(struct json_writer *json, const struct outcome *outcome);

/* Root mean square error relative to the output's own size, of the tensor as it is and of rounding to nearest; 0 if not measured. */
double outcome_relative(const struct outcome *outcome);
double outcome_relative_nearest(const struct outcome *outcome);

/* The sums of several outcomes. */
void outcome_add(struct outcome *sum, const struct outcome *outcome);

#endif
