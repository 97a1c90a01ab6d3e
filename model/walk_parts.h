/* What the files of the walk share: its streams, its buffers and how it is cut into blocks. Only for model/walk*.c.
 * */
#ifndef NIBBLE_MODEL_WALK_PARTS_H
#define NIBBLE_MODEL_WALK_PARTS_H

#include "base/spill.h"
#include "model/decoder.h"
#include "model/walk.h"

#define WALK_BLOCK_TOKENS 2048

/* Activations through one set of weights. The spills are addressed float by float; rows are those of the
 * calibration's tokens, padding included (its embedding is zero, so that it stays harmless; nobody sees it). */
struct stream {
    const char *name;     /* "current", "original": for error texts */
    struct spill *start;  /* [tokens][hidden] the residual stream at the layer's start */
    struct spill *middle; /* [tokens][hidden] after o was added */
    struct spill *wide;   /* [tokens][cols] the input of o, later that of down */
    unsigned done;        /* stages of this layer that were run: the next one */
    float *x;             /* [block tokens][hidden] the residual stream of a block */
    float *input;         /* [block tokens][widest input] what a stage's matrices are applied to */
};

enum { STREAM_CURRENT, STREAM_ORIGINAL, STREAMS };

struct walk {
    const struct model_config *config;
    const struct calibration *calibration;
    struct backend backend;
    uint64_t samples, length;
    uint64_t block_samples; /* that go through a stage at once */
    unsigned stream_count;
    struct stream streams[STREAMS];
    bool dynamic;                 /* rotation depends on the sample's own length */
    bool spoiled;                 /* walk_finish has failed: the layer's start is lost */
    float *normed;                /* [block tokens][hidden]; also what comes back from o and down */
    float *beside;                /* [block tokens][]: the queries, or the output of up */
    float *k, *v, *keys, *values; /* [block tokens][kv_heads * head_size] */
    float *routed;                /* [block tokens][experts_scratch] of a mixture */
    uint16_t *routes; /* [tokens][experts_per_token] where the current stream sends each; or NULL */
    float *frequencies, *cosine, *sine; /* [rotary / 2], rope_tables of [length] */
    double seconds;
};

/* Whole samples: first_sample .. first_sample + samples - 1. */
struct walk_block {
    uint64_t first_sample, samples;
    uint64_t first, tokens; /* the same in tokens, padding included */
};

/* A layer as a stream (STREAM_CURRENT, STREAM_ORIGINAL) runs it. */
struct decoder_layer walk_decoder_layer(
    const struct walk *walk, unsigned stream, const struct walk_layer *layer);

/* Move on from a block (zeroed: the first is next); false after the last. */
bool walk_next_block(const struct walk *walk, struct walk_block *block);

/* A block's rows of `cols` floats out of a spill, or into it. */
enum status walk_read(
    struct spill *spill, const struct walk_block *block, uint64_t cols, float *rows, struct error *err);
enum status walk_write(
    struct spill *spill, const struct walk_block *block, uint64_t cols, const float *rows, struct error *err);

/* ERR_NUMERIC if a row [cols] of a block, padding aside, is not finite: channel, position and sample. */
enum status walk_check(const struct walk *walk, const struct walk_block *block, const float *rows,
    uint64_t cols, struct error *err);

/* Settle where the tokens of a block go in a layer of the current stream; normed [block tokens][hidden] is what the router sees. */
enum status walk_route(struct walk *walk, const struct decoder_layer *layer, const struct walk_block *block,
    const float *normed, struct error *err);

/* Start all streams with the samples' embeddings. Errors as walk_create. */
enum status walk_embed(struct walk *walk, struct checkpoint *input, struct error *err);

#endif
