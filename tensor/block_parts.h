/* Blocks taken apart, and put together again: the parameters of a block as it stores them, and one code per weight. Every method that
 * quantizes into blocks (rounding to nearest, GPTQ, AWQ) works on these; bytes are the business of two functions.
 *
 * A block is cut into sub-blocks of weights that share a line:
 *   value = step * level(code) + offset         step = d * scale[sub],  offset = m, or -(dmin * min[sub]), or 0
 *   level(code) = code + lowest, or the table of IQ4_NL and IQ4_XS
 * computed in single precision in the order of tensor/blocks.c, so that values are those of decoding to the last bit. */
#ifndef NIBBLE_TENSOR_BLOCK_PARTS_H
#define NIBBLE_TENSOR_BLOCK_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/blocks.h"

enum { BLOCK_SUBS_MOST = 16, BLOCK_SUB_MOST = 32 }; /* sub-blocks of a block; weights of one */

/* What the blocks of a type are made of. */
struct block_form {
    uint32_t weights;                /* of a block */
    uint32_t sub;                    /* weights of a sub-block: 16 or 32 */
    uint32_t subs;                   /* weights / sub */
    uint32_t codes;                  /* how many there are: 4, 8, 16, 32, 64 or 256 */
    int32_t lowest;                  /* level of code 0; levels rise by 1 unless there is a table */
    const int8_t *levels;            /* [codes] rising, or NULL */
    int32_t scale_least, scale_most; /* of scale[]; both 1: there is no integer scale */
    int32_t min_most;                /* of min[]; 0: there is none */
    bool offset;                     /* m is stored: Q4_1 and Q5_1 (the offset), Q2_K, Q4_K, Q5_K (dmin) */
};

/* The forms of the types that nibble writes: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS. NULL for the others. */
const struct block_form *block_form(enum block_type type);

struct block_parts {
    uint16_t d, m; /* half precision bits; m 0 where none is stored */
    int16_t scale
        [BLOCK_SUBS_MOST]; /* [subs] what d is multiplied by (Q3_K, IQ4_XS: already less 32); 1 where there is none */
    uint8_t min[BLOCK_SUBS_MOST];      /* [subs] */
    uint8_t codes[BLOCK_WEIGHTS_MOST]; /* [weights] in the order of the row */
};

/* Between bytes and parts; exact both ways. The type has a form. */
void block_parts_take(struct block_parts *out, enum block_type type, const uint8_t *block);
void block_parts_put(uint8_t *block, enum block_type type, const struct block_parts *parts);

/* Blocks without integer scales, one after the other, many times as fast: d, m [count] (m is read where it is stored), codes [count]
 * [weights], out [count] blocks. */
void block_parts_put_small(uint8_t *out, enum block_type type, const uint16_t *d, const uint16_t *m,
    const uint8_t *codes, uint64_t count);

/* The line of one sub-block. */
struct block_line {
    float step, offset;
};
struct block_line block_parts_line(enum block_type type, const struct block_parts *parts, uint32_t sub);

/* All values: out [weights], equal to block_info(type)->decode. */
void block_parts_values(float *out, enum block_type type, const struct block_parts *parts);

#endif
