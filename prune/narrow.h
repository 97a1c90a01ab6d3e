/* Making a model narrower: the view of its container in which only some heads and channels are left. */
#ifndef NIBBLE_PRUNE_NARROW_H
#define NIBBLE_PRUNE_NARROW_H

#include "prune/width.h"

/* ERR_UNSUPPORTED, before any work: experts; quantized matrices that would lose rows or columns; heads where q and k are normed across all
 * heads. */
enum status narrow_refuse(const struct checkpoint *input, bool heads, bool ffn, struct error *err);

/* How the input's configuration says the biases that narrow_biases adds, in a format that is or is not ours: what the architecture has of its
 * own if that is enough (then q, k, v or gate and up get biases of zeros), else "nibble" in config.json. Changes *config.
 * ERR_UNSUPPORTED: the format is not ours and cannot say it; names --no-bias. */
enum status narrow_say_biases(
    struct model_config *config, bool own_format, bool heads, bool ffn, struct error *err);

/* The new biases of o and down, into width->layers: the old ones plus what the channels that go give on the mean of the calibration text,
 * b += W mean(x) over them (FLAP, section 3.3). NULL stays where nothing goes. */
enum status narrow_means(
    struct checkpoint *input, struct width *width, const struct channel_table *table, struct error *err);

/* Put those biases into the container, and biases of zeros where `wanted`, of the input's widths still, has some that the input lacks. Element
 * types are those of the bias before, else of the matrix. */
enum status narrow_biases(struct checkpoint *input, const struct width *width,
    const struct model_config *wanted, struct error *err);

/* See only what stays of q, k, v, o, gate, up and down and their biases. The input is then to be bound again (checkpoint_bind_again) with a
 * configuration that says so: widths are put into *config. */
enum status narrow_select(
    struct checkpoint *input, const struct width *width, struct model_config *config, struct error *err);

#endif
