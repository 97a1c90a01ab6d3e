/* A backend: the operations a network is made of, as one table of functions. The CPU backend is the meaning; every other is
 * compared with it, operation by operation. Buffers are plain float arrays in the backend's memory. */
#ifndef NIBBLE_MODEL_BACKENDS_BACKEND_H
#define NIBBLE_MODEL_BACKENDS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/threads.h"
#include "model/activation.h"
#include "tensor/cache.h"
#include "tensor/tensor.h"

/* One attention call: `sequences` independent sequences of `length` new tokens each, after `past` cached ones.
 * Shapes: q and out [sequences * length][heads * head_size]; keys, values [sequences][kv_heads][capacity][head_size], in
 * which the new tokens are already stored at past .. past+length-1; or NULL, and `cache` holds them. Queries of a quantized cache
 * are rotated as its keys are. */
struct attention {
    float *out;
    const float *q, *keys, *values;
    const struct cache *cache; /* NULL: keys and values are floats */
    uint64_t sequences, length, past, capacity;
    uint32_t heads, kv_heads, head_size;
    uint32_t window; /* 0: causal only; else position i sees j > i - window */
    float scale;     /* of the scores, 1/sqrt(head_size) as a rule */
    float softcap;   /* scaled scores become softcap * tanh(score / softcap); 0: they stay */
};

/* How a norm treats a row: divided by its root mean square, or centered first (LayerNorm, Ba et al. 2016). */
struct norm_call {
    const struct tensor *gain, *bias; /* [size]; bias NULL: none */
    float offset;                     /* added to every gain */
    float epsilon;
    bool centered;
};

struct backend {
    const char *name;
    void *state;
    enum status (*linear)(void *state, float *y, const float *x, uint64_t tokens, const struct tensor *weight,
        const struct tensor *bias, struct error *err);
    /* out[tokens][hidden]: rows of an embedding matrix in any storage, times scale */
    enum status (*embed)(void *state, float *out, const uint32_t *ids, uint64_t tokens,
        const struct tensor *weight, float scale, struct error *err);
    /* y = (x - m) / sqrt(mean((x - m)^2) + epsilon) * (gain + offset) + bias, over rows of `size`; m is the row's mean if
     * centered, else 0; y may be x */
    enum status (*norm)(void *state, float *y, const float *x, uint64_t rows, uint64_t size,
        const struct norm_call *call, struct error *err);
    /* rotate pairs (i, i + rotary/2) among the first `rotary` channels of every head by cosine/sine [length][rotary/2];
     * x [sequences*length][heads*head_size] */
    enum status (*rope)(void *state, float *x, uint64_t sequences, uint64_t length, uint32_t heads,
        uint32_t head_size, uint32_t rotary, const float *cosine, const float *sine, struct error *err);
    /* put new keys or values where attention reads them: x [sequences*length][kv_heads*head_size] goes to positions past ..
     * past+length-1 of cache [sequences][kv_heads][capacity][head_size] */
    enum status (*store)(void *state, float *cache, const float *x, uint64_t sequences, uint64_t length,
        uint64_t past, uint64_t capacity, uint32_t kv_heads, uint32_t head_size, struct error *err);
    /* the same into strips [sequences][kv_heads] of a quantized cache; capacity and head size are the layout's */
    enum status (*store_quantized)(void *state, const struct cache_layout *layout, uint8_t *strips,
        const float *x, uint64_t sequences, uint64_t length, uint64_t past, uint32_t kv_heads,
        struct error *err);
    /* cache_rotate: x [rows][size] */
    enum status (*rotate)(void *state, float *x, uint64_t rows, uint32_t size, struct error *err);
    enum status (*attention)(void *state, const struct attention *call, struct error *err);
    /* gate = activation(gate) * up */
    enum status (*gate)(void *state, enum activation activation, float *gate, const float *up, uint64_t count,
        struct error *err);
    /* x = activation(x) */
    enum status (*activate)(
        void *state, enum activation activation, float *x, uint64_t count, struct error *err);
    /* x = cap * tanh(x / cap) */
    enum status (*softcap)(void *state, float *x, float cap, uint64_t count, struct error *err);
    /* x += y */
    enum status (*add)(void *state, float *x, const float *y, uint64_t count, struct error *err);
    void (*release)(void *state);
};

/* The CPU backend on a pool; max_cols: the widest weight. Owner: the caller, backend->release(backend->state). */
enum status backend_cpu_create(struct backend *out, struct pool *pool, uint64_t max_cols, struct error *err);

#endif
