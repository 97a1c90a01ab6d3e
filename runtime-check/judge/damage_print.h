/* Where the damage is, as tables for people, as JSON and as comma-separated values. */
#ifndef NIBBLE_RUNTIME_CHECK_DAMAGE_PRINT_H
#define NIBBLE_RUNTIME_CHECK_DAMAGE_PRINT_H

#include "base/json.h"
#include "runtime-check/judge/damage.h"

/* Put parts and tensors in order, worst first, by what is known best: the divergence that each causes alone, else the error a layer
 * adds (the relative error of a tensor). What is equal keeps its order, and what is not known goes last. */
void damage_sort(struct damage *damage);

/* Tables to standard output: layers where a text was read, then tensors. Bars compare with the longest of their table. */
void damage_print_tables(const struct damage *damage);
/* Members "layers" (where a text was read) and "tensors" of an open JSON object. */
void damage_write_json(struct json_writer *writer, const struct damage *damage);
/* One row for each layer and each tensor; what does not apply is empty. */
void damage_print_csv(const struct damage *damage);

#endif
