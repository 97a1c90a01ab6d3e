/* One decoder layer in memory: its original tensors, and what the compressed model has in their places so far. */
#ifndef NIBBLE_MODEL_LAYER_H
#define NIBBLE_MODEL_LAYER_H

#include "model/walk.h"

/* What lies in one place (layers_place), for roles and for the experts' matrices alike. */
struct layer_slot {
    struct tensor original, current;
    void *original_data; /* owned */
    void *current_data;  /* owned, once replaced */
};

struct layer {
    struct walk_layer walk;   /* what a walk is shown; its pointers lead to the tensors below */
    struct layer_slot *slots; /* [places] owned */
    uint32_t places;
    float *scales[WALK_STAGES]; /* owned; of the stage's input channels, once AWQ has folded them; or NULL */
    float *expert_scales; /* owned; [experts][expert_ffn] the same of what each expert's down sees; or NULL */
};

/* Read layer `index`, every element checked: ERR_NUMERIC names the first that is not finite. Both streams see the
 * originals. Release with layer_free, also after an error. */
enum status layer_load(struct layer *out, struct checkpoint *input, uint32_t index, struct error *err);
void layer_free(struct layer *layer);

/* ERR_NUMERIC, naming tensor and element, if an element of a DENSE floating tensor is not finite.
 *   bytes  elements first .. first + count - 1, as they are stored */
enum status layer_check_finite(
    const struct tensor *tensor, const void *bytes, uint64_t first, uint64_t count, struct error *err);

/* The tensor that the current stream sees in a place (a role, or layers_place of an expert's matrix); NULL where there is none. */
const struct tensor *layer_current(const struct layer *layer, uint32_t place);

/* From now on the current stream sees `tensor` (its name, shape and storage; data, memory_new, goes over to the layer). */
void layer_replace(struct layer *layer, uint32_t place, const struct tensor *tensor, void *data);

/* From now on both streams see these floats (memory_new, goes over to the layer), of the shape that was there. */
void layer_rewrite(struct layer *layer, uint32_t place, float *values);

/* The current stream's tensor decoded to floats: [elements], memory_free; NULL with the error of layer_decode_rows, or ERR_MEMORY. */
float *layer_floats(const struct layer *layer, uint32_t place, struct error *err);

/* Rows of a matrix in memory as floats: out [rows][cols]. row is a multiple of 8. ERR_FORMAT: sparse, with parts that do not fit together.
 * ERR_MEMORY. Errors name the tensor. */
enum status layer_decode_rows(
    float *out, const struct tensor *tensor, uint64_t row, uint64_t rows, struct error *err);

/* Bytes of layer `index` as it is stored. */
uint64_t layer_bytes(const struct checkpoint *input, uint32_t index);

#endif
