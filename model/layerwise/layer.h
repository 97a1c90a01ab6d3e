/* One decoder layer in memory: its original tensors, and what the compressed model has in their places so far. */
#ifndef NIBBLE_MODEL_LAYER_H
#define NIBBLE_MODEL_LAYER_H

#include "model/walk.h"

struct layer {
    struct walk_layer walk; /* what a walk is shown; its pointers lead to the tensors below */
    struct tensor original[ROLE_COUNT], current[ROLE_COUNT];
    void *original_data
        [ROLE_COUNT]; /* owned; NULL where current and original share, or the layer has no such role */
    void *current_data[ROLE_COUNT]; /* owned, once replaced */
    float *scales[WALK_STAGES]; /* owned; of the stage's input channels, once AWQ has folded them; or NULL */
};

/* Read layer `index`, every element checked: ERR_NUMERIC names the first that is not finite. Both streams see the
 * originals. Release with layer_free, also after an error. */
enum status layer_load(struct layer *out, struct checkpoint *input, uint32_t index, struct error *err);
void layer_free(struct layer *layer);

/* ERR_NUMERIC, naming tensor and element, if an element of a DENSE floating tensor is not finite.
 *   bytes  elements first .. first + count - 1, as they are stored */
enum status layer_check_finite(
    const struct tensor *tensor, const void *bytes, uint64_t first, uint64_t count, struct error *err);

/* From now on the current stream sees `tensor` (its name, shape and storage; data, memory_new, goes over to the layer). */
void layer_replace(struct layer *layer, enum role role, const struct tensor *tensor, void *data);

/* From now on both streams see these floats (memory_new, goes over to the layer), of the shape that was there. */
void layer_rewrite(struct layer *layer, enum role role, float *values);

/* The current stream's tensor decoded to floats: [elements], memory_free; NULL with the error of layer_decode_rows, or ERR_MEMORY. */
float *layer_floats(const struct layer *layer, enum role role, struct error *err);

/* Rows of a matrix in memory as floats: out [rows][cols]. row is a multiple of 8. ERR_FORMAT: sparse, with parts that do not fit together.
 * ERR_MEMORY. Errors name the tensor. */
enum status layer_decode_rows(
    float *out, const struct tensor *tensor, uint64_t row, uint64_t rows, struct error *err);

/* Bytes of layer `index` as it is stored. */
uint64_t layer_bytes(const struct checkpoint *input, uint32_t index);

#endif
