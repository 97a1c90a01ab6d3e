/* A slice: consecutive layers of a model in a .nbl file of its own, for a machine that holds no more. The configuration is that of the whole
 * model; "slice.json" says which layers are there. The first slice has the embedding, the last the final norm and the head (a tied
 * embedding is in both). */
#ifndef NIBBLE_MODEL_SLICE_H
#define NIBBLE_MODEL_SLICE_H

#include "formats/writer.h"
#include "model/layers.h"

#define SLICE_DOCUMENT "slice.json"

struct slice {
    uint32_t first, last; /* layers, inclusive */
    uint32_t layers;      /* of the whole model */
};

/* Parse "FIRST-LAST" or "LAYER". ERR_USAGE: no such range in a model of so many layers. */
enum status slice_parse(struct slice *out, const char *text, uint32_t layers, struct error *err);

/* True if a tensor that plays a part in the model belongs to the slice. */
bool slice_has(const struct slice *slice, const struct model_config *config,
    const struct model_tensors *tensors, const struct tensor *tensor);

/* The slice that a container says it is; *found is false (and *out unset) where it is none. */
enum status slice_read(struct slice *out, bool *found, struct container *container, struct error *err);
enum status slice_write(const struct slice *slice, struct writer *writer, struct error *err);

/* ERR_UNSUPPORTED if the container is a slice: what it lacks, and what to do. */
enum status slice_refuse(struct container *container, struct error *err);

/* Join the slices in the files `paths` [count] to the one that `container` is. ERR_FORMAT: one is no slice, they are not of one model (its
 * configuration or tokenizer differs), a layer is missing or there twice. */
enum status slice_join(
    struct container *container, const char *const *paths, uint64_t count, struct error *err);

#endif
