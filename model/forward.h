/* The forward pass: a model in memory, and sessions (batches of sequences with a KV cache) that run through it. */
#ifndef NIBBLE_MODEL_FORWARD_H
#define NIBBLE_MODEL_FORWARD_H

#include "formats/container.h"
#include "model/backends/backend.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/tokenizer/tokenizer.h"

/* A model ready to run: mapped weights, configuration, tokenizer. Fields may be read. */
struct model {
    struct container *container;
    struct model_config config;
    struct model_tensors tensors;
    struct tokenizer *tokenizer;   /* NULL if the model carries none */
    const char *tokenizer_made_of; /* as in struct checkpoint */
    struct backend backend;
    struct pool *pool;
    /* Of keys and values in sessions made from now on: 32 (float, as opened), 8 or 4 (tensor/cache.h); may be set. */
    unsigned cache_bits;
};

/* Open a folder, .safetensors, .nbl or GGUF file, map it and check every tensor. The pool must outlive the model. ERR_FORMAT: no
 * config.json, or one that the tensors do not match. A tokenizer that knows more ids than the model has rows is no error:
 * session_step refuses such an id when it meets one. */
enum status model_open(struct model **out, const char *path, struct pool *pool, struct error *err);
/* The same of a checkpoint that is open, seen as it may be by now; it goes over to the model, also after an error. */
enum status model_of_checkpoint(
    struct model **out, struct checkpoint *checkpoint, struct pool *pool, struct error *err);
void model_close(struct model *model);

/* `sequences` sequences of equal length, running side by side. */
struct session;

/* capacity: the most tokens per sequence. ERR_USAGE: zero sequences or capacity; ERR_MEMORY: the KV cache and activations do
 * not fit (or above 2^40 bytes).
 * capacity may exceed config.context; positions are then simply larger than trained. ERR_UNSUPPORTED: a width of the cache
 * (model.cache_bits) that this version does not have. */
enum status session_create(
    struct session **out, struct model *model, uint64_t sequences, uint64_t capacity, struct error *err);
void session_free(struct session *session);

/* Forget all tokens; capacity stays. */
void session_reset(struct session *session);
/* Forget all tokens from position `length` on (at most session_length), of every sequence. */
void session_truncate(struct session *session, uint64_t length);
uint64_t session_length(const struct session *session);
/* Bytes of the KV cache per token of one sequence, rounded up; of a quantized one with scales, and with the share of centers that
 * holds beyond the first 64 tokens (tensor/cache.h). */
uint64_t session_cache_bytes_per_token(const struct session *session);

/* Append `length` tokens to every sequence and run them through all layers.
 *   tokens  [sequences][length]           in, ids below the vocabulary (ERR_FORMAT otherwise, naming the first)
 *   hidden  [sequences][length][hidden]   out, after the final norm
 * ERR_NUMERIC: NaN or infinity after a layer, naming layer and first bad channel. ERR_USAGE: past the capacity.
 * After an error the session is as it was before the call (hidden is not).
 * Dynamic rope scaling uses the length reached by this call for the tokens of this call.
 * At most 2048 tokens go through the layers at once, several sequences or part of one, so that activations take bounded
 * memory. Results do not depend on the number of workers; how tokens are spread over calls and batches changes them by
 * rounding only (in a quantized cache a number halfway between two codes may then get the other one, which is more: part of
 * what the cache costs anyway). Keys and values of a quantized cache are rounded before anything attends to them, the token's
 * own included; ERR_NUMERIC also where one is too large for the cache. */
enum status session_step(
    struct session *session, float *hidden, const uint32_t *tokens, uint64_t length, struct error *err);

/* Shown the residual stream after the embedding (layer SESSION_EMBEDDING) and after every decoder layer: x [tokens][hidden], rows
 * first_token .. of the step's `hidden`. Layers come in order for one block of tokens, then for the next. What the observer leaves
 * in x is what the next layer starts from. An error ends the step with it. */
#define SESSION_EMBEDDING UINT32_MAX
typedef enum status (*session_observer)(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err);

/* Call `observer` in all steps from now on; NULL: no more. */
void session_observe(struct session *session, session_observer observer, void *context);

/* logits[count][vocabulary] = head * hidden[count][hidden], bent where the configuration says so. Any number of rows; callers chunk to bound memory. */
enum status model_logits(
    struct model *model, float *logits, const float *hidden, uint64_t count, struct error *err);

#endif
