/* THE table of block types: how GGUF files store quantized weights. Every block of consecutive columns carries its own scales, so a
 * row is one stream of blocks. One row per type; readers, writers and products look here and nowhere else.
 *
 * Value of a weight, by family (d, m: half-precision numbers of the block; sc, mn: small integers of a sub-block; q: the code):
 *   Q4_0 Q5_0 Q8_0         d (q - 2^(bits-1)); Q8_0: d q with signed q
 *   Q4_1 Q5_1              d q + m
 *   Q2_K Q4_K Q5_K         (d sc) q - (dmin mn), sub-blocks of 16 (Q2_K) or 32
 *   Q3_K Q6_K              (d sc) (q - 2^(bits-1)), sub-blocks of 16
 *   IQ4_NL IQ4_XS          d L[q], (d (sc - 32)) L[q]: L a fixed table of 16 levels
 *   MXFP4                  2^(e - 127) F[q]: F the values of a 4-bit float (OCP Microscaling, 2023)
 *   TQ1_0 TQ2_0            d (q - 1), q ternary
 * Source: the GGUF specification and ggml's reference decoding; values are equal to the last bit. */
#ifndef NIBBLE_TENSOR_BLOCKS_H
#define NIBBLE_TENSOR_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

enum block_type {
    BLOCK_NONE, /* not a block type */
    BLOCK_Q4_0,
    BLOCK_Q4_1,
    BLOCK_Q5_0,
    BLOCK_Q5_1,
    BLOCK_Q8_0,
    BLOCK_Q2_K,
    BLOCK_Q3_K,
    BLOCK_Q4_K,
    BLOCK_Q5_K,
    BLOCK_Q6_K,
    BLOCK_IQ4_NL,
    BLOCK_IQ4_XS,
    BLOCK_MXFP4,
    BLOCK_TQ1_0,
    BLOCK_TQ2_0,
    BLOCK_COUNT
};

enum { BLOCK_WEIGHTS_MOST = 256, BLOCK_BYTES_MOST = 210 };

struct block_info {
    const char *name;                                 /* "Q4_K" */
    uint32_t id;                                      /* in GGUF files, and in the records of .nbl files */
    uint32_t weights;                                 /* of one block: 32 or 256; a row must be a multiple */
    uint32_t bytes;                                   /* of one block */
    void (*decode)(float *out, const uint8_t *block); /* one block: out [weights] */
};

/* The row of a type between BLOCK_NONE and BLOCK_COUNT. */
const struct block_info *block_info(enum block_type type);

/* The type with a number in GGUF files; BLOCK_NONE if there is none. */
enum block_type block_of_id(uint32_t id);

/* out [count] = weights first .. first+count-1 of consecutive blocks; both multiples of the block's weights. */
void blocks_decode(float *out, enum block_type type, const void *data, uint64_t first, uint64_t count);

#endif
