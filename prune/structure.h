/* Structured pruning: layers, heads, channels and tokens. What goes is decided on the model as it is; then the container is seen without it
 * (formats/container_select.h), bound again, and written like any model. */
#ifndef NIBBLE_PRUNE_STRUCTURE_H
#define NIBBLE_PRUNE_STRUCTURE_H

#include "prune/depth.h"
#include "prune/prune.h"
#include "prune/trim.h"
#include "prune/width.h"

/* What has been decided. */
struct structure {
    struct depth depth; /* which layers go */
    struct width width; /* what stays of each layer; no layers: all of all */
    struct trim *trim;  /* which tokens stay; owned, or NULL */
    bool biases;        /* biases make up for what goes */
    /* What it was decided by, for the provenance. */
    double sparsity;
    uint64_t samples, length; /* of calibration; 0: none */
    uint32_t file_crc32, tokens_crc32;
};

/* Methods of PRUNE_WIDTH and PRUNE_DEPTH, --drop-layers and --trim-vocabulary, alone or together. Leaves job->input as the pruned
 * model. */
enum status structure_run(struct prune_job *job, struct error *err);

/* See `input` as it is decided: its container, its configuration, its tokenizer. */
enum status structure_apply(
    struct checkpoint *input, const struct structure *structure, bool own_format, struct error *err);

/* Whether a width is to be the same in every layer: unless --widths says otherwise. */
bool structure_is_uniform(const struct prune_job *job);

void structure_free(struct structure *structure);

#endif
