/* Mixed precision: choose the bits of every matrix under a budget, by what each width would cost on the calibration text, or take the
 * choice from a file.
 *
 * Chosen for are the weight matrices of decoder layers that the plan quantizes and whose bits no --override gives. A target in bits
 * is an average over all that are quantized in decoder layers, those of an --override included; a target size is that of the file. */
#ifndef NIBBLE_QUANTIZE_BUDGET_H
#define NIBBLE_QUANTIZE_BUDGET_H

#include "quantize/cost.h"
#include "quantize/footprint.h"

struct budget {
    struct cost_table table;
    uint64_t bytes; /* what its matrices may take */
};

/* Find what there is to choose, without measuring anything.
 *   fixed_bytes  of the file beside its tensors, at most
 * ERR_USAGE: nothing to choose; the target is too small (the text says what would be the least). Release with budget_free, also
 * after an error. */
enum status budget_create(struct budget *out, const struct calibrated *work,
    const struct quantize_options *options, uint64_t fixed_bytes, struct error *err);
void budget_free(struct budget *budget);

/* Measure, choose and change the plan; write the choice to options->save_allocation if that is given. With a journal (NULL: none) a
 * choice that is in there is taken instead of measuring, and one that was measured is put there.
 *   folder  for states that do not stay in memory, as `footprint` says
 * ERR_USAGE: the file exists, without --force (a choice from the journal leaves it as it is). */
enum status budget_choose(struct budget *budget, struct calibrated *work,
    const struct quantize_options *options, const struct footprint *footprint, struct journal *journal,
    const char *folder, struct error *err);

/* Change the plan as an allocation file says; matrices it does not name keep what the options say. ERR_USAGE: a name that is no
 * weight matrix of the plan, or one that cannot have these bits. */
enum status budget_apply(
    struct plan *plan, const struct settings *settings, const char *path, struct error *err);

#endif
