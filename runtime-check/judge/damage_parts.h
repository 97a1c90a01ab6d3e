/* What the two halves of damage.h share: measuring tensors and layers (damage.c), and the base with parts of the model in it
 * (damage_swap.c). */
#ifndef NIBBLE_RUNTIME_CHECK_DAMAGE_PARTS_H
#define NIBBLE_RUNTIME_CHECK_DAMAGE_PARTS_H

#include "runtime-check/judge/damage.h"

/* One call of damage_measure: its arguments. */
struct damage_parts {
    struct damage *out;
    struct model *base, *model;
    const char *text;
    uint64_t text_bytes;
    const struct damage_options *options;
    const struct report *report;
};

/* The tensors of a part, wherever the model's are. */
struct damage_members {
    const struct tensor *tensors[ROLE_COUNT];
    uint64_t count;
};

void damage_parts_list(struct damage_members *out, const struct model *model, const struct damage_part *part);

/* Whether the swaps that were asked for can be made. ERR_USAGE: there is no text; ERR_UNSUPPORTED: scales were moved between the model's
 * tensors. Needs the tensors and parts of work->out. */
enum status damage_swap_check(const struct damage_parts *work, struct error *err);
/* Fill in the KL divergences of the whole model and of every part or matrix alone in the base. Errors: those of compare_models. */
enum status damage_swap_measure(struct damage_parts *work, struct error *err);

#endif
