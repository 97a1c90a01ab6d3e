/* The state dict in what a pickle left on the stack. */
#ifndef NIBBLE_FORMATS_PICKLE_STATE_H
#define NIBBLE_FORMATS_PICKLE_STATE_H

#include "formats/pytorch/pickle_machine.h"

/* Append the tensors of the state dict, under their names. The machine has stopped with one value. Errors as those of pickle_read. */
enum status pickle_state_collect(struct pickle *out, const struct pickle_machine *m, struct error *err);

#endif
