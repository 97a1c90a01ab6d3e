/* The opcodes of a pickle that name, call or build something: described, never done. */
#ifndef NIBBLE_FORMATS_PICKLE_CALLS_H
#define NIBBLE_FORMATS_PICKLE_CALLS_H

#include "formats/pytorch/pickle_machine.h"

/* GLOBAL and STACK_GLOBAL: push a name of the allow-list. ERR_FORMAT: any other, by its text and place. */
enum status pickle_calls_global(struct pickle_machine *m, struct error *err);
enum status pickle_calls_stack_global(struct pickle_machine *m, struct error *err);

/* BINPERSID: a persistent id stands for a storage: ("storage", its class, key, device, elements). */
enum status pickle_calls_storage(struct pickle_machine *m, struct error *err);

/* REDUCE: push what calling a name with a tuple would give: a tensor's record, a dict, a tuple, nothing of interest. */
enum status pickle_calls_reduce(struct pickle_machine *m, struct error *err);

/* BUILD: torch gives a state dict an attribute, _metadata; nothing else gets a state. */
enum status pickle_calls_build(struct pickle_machine *m, struct error *err);

#endif
