/* Experts that too few tokens were sent to: what is said of them after a run, in the report and in the provenance. An expert is one if
 * any of its matrices is marked (struct outcome: uncalibrated). */
#ifndef NIBBLE_QUANTIZE_UNCALIBRATED_H
#define NIBBLE_QUANTIZE_UNCALIBRATED_H

#include "quantize/plan.h"

/* How many they are. */
uint64_t uncalibrated_count(const struct plan *plan);

/* For people, on standard output: how many, then a line per layer with their numbers and the tokens that they saw. Nothing where there
 * are none. */
void uncalibrated_print(const struct plan *plan);

/* For machines: [{"layer", "expert", "tokens"}, ...] under "uncalibrated_experts" in an open JSON object. */
void uncalibrated_put(struct json_writer *json, const struct plan *plan);

/* "0:7, 3:7", layer and expert; NULL where there are none. Owner of *out: the caller, memory_free. ERR_MEMORY. */
enum status uncalibrated_text(char **out, const struct plan *plan, struct error *err);

#endif
