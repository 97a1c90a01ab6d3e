/* Mixed precision: measure what every width would cost each matrix on the calibration text, choose under a budget, or take the
 * choice from a file. */
#ifndef NIBBLE_QUANTIZE_BUDGET_H
#define NIBBLE_QUANTIZE_BUDGET_H

#include "quantize/calibrated.h"

/* Walk the original model once, choose bits for all matrices of decoder layers that the plan quantizes, and change the plan. Those
 * outside the layers keep what they have; what they take is subtracted from the budget.
 *   path   where the choice is written as a file (NULL: nowhere); replaced if it exists and force */
enum status budget_choose(struct calibrated *work, const struct quantize_options *options,
    uint64_t fixed_bytes, const char *path, bool force, struct error *err);

/* Change the plan as an allocation file says; matrices it does not name keep what the options say. ERR_USAGE: a name that is
 * no weight matrix of the plan. */
enum status budget_apply(struct plan *plan, const char *path, struct error *err);

#endif
