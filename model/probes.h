/* Probes: what a change in one weight matrix does to a model's predictions. A probe is a copy of the residual stream of some
 * calibration samples which went through one layer with the changed matrix and goes through all others as they are, beside a walk
 * that nothing has changed; in the end its predictions are held against the walk's. Weights of one layer are in memory at a time. */
#ifndef NIBBLE_MODEL_PROBES_H
#define NIBBLE_MODEL_PROBES_H

#include "model/walk.h"

struct probes_options {
    uint64_t capacity; /* probes at most */
    uint64_t samples;  /* of the walk's calibration, evenly spread: 1 .. calibration->samples */
    bool in_memory;    /* states in memory; else in a nameless file in `folder` */
    const char *folder;
};

struct probes;

/* Bytes of memory for probes, as walk_bytes counts them, and those of their states, in memory or in the file; what probes_finish takes
 * for itself on top (head and logits). UINT64_MAX: beyond counting. */
uint64_t probes_bytes(const struct model_config *config, const struct calibration *calibration,
    const struct probes_options *options, uint64_t *state_bytes);
uint64_t probes_finish_bytes(const struct checkpoint *input, const struct calibration *calibration);

/* The checkpoint, the calibration and the pool must outlive the probes. ERR_IO: no disk for the states; ERR_MEMORY. */
enum status probes_create(struct probes **out, struct checkpoint *input,
    const struct calibration *calibration, const struct probes_options *options, struct pool *pool,
    struct error *err);
void probes_free(struct probes *probes);

/* Take all probes that there are through a layer, tensors [ROLE_COUNT] as in decoder.h. Once per layer, before probes are added in
 * it. ERR_NUMERIC: an activation is not finite. */
enum status probes_advance(
    struct probes *probes, uint32_t layer, const struct tensor *const *tensors, struct error *err);

/* One more probe: from where the walk stands, at the start of `layer` (it may be within it, but not beyond), through the layer with
 * these tensors, one of which is changed. Beyond the capacity: assert. */
enum status probes_add(struct probes *probes, struct walk *walk, uint32_t layer,
    const struct tensor *const *tensors, struct error *err);

/* After the last layer of the walk and of the probes: the Kullback-Leibler divergence of each probe's predictions from the walk's in
 * nats per token, >= 0, in the order they were added.  divergences [probes]. Reads final norm and head. ERR_NUMERIC: one is not
 * finite. The same for any number of workers. */
enum status probes_finish(struct probes *probes, struct walk *walk, double *divergences, struct error *err);

#endif
