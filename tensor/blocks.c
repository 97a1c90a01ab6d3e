/* See blocks.h. What the bytes mean is in tensor/kernels/block_decode.h. */
#include "tensor/blocks.h"

#include "tensor/kernels/block_decode.h"
#include "tensor/kernels/kernels.h"

/* ---- one block of each type ---- */

#define PLAIN(type)                                                                                          \
    static void plain_##type(float *out, const uint8_t *block)                                               \
    {                                                                                                        \
        decode_##type(&(struct block_sink){.out = out}, block);                                              \
    }
PLAIN(q4_0)
PLAIN(q4_1)
PLAIN(q5_0)
PLAIN(q5_1)
PLAIN(q8_0)
PLAIN(q2_k)
PLAIN(q3_k)
PLAIN(q4_k)
PLAIN(q5_k)
PLAIN(q6_k)
PLAIN(iq4_nl)
PLAIN(iq4_xs)
PLAIN(mxfp4)
PLAIN(tq1_0)
PLAIN(tq2_0)

/* ---- the table ---- */

static const struct block_info table[BLOCK_COUNT] = {
    [BLOCK_Q4_0] = {"Q4_0", 2, 32, 18, plain_q4_0},
    [BLOCK_Q4_1] = {"Q4_1", 3, 32, 20, plain_q4_1},
    [BLOCK_Q5_0] = {"Q5_0", 6, 32, 22, plain_q5_0},
    [BLOCK_Q5_1] = {"Q5_1", 7, 32, 24, plain_q5_1},
    [BLOCK_Q8_0] = {"Q8_0", 8, 32, 34, plain_q8_0},
    [BLOCK_Q2_K] = {"Q2_K", 10, 256, 84, plain_q2_k},
    [BLOCK_Q3_K] = {"Q3_K", 11, 256, 110, plain_q3_k},
    [BLOCK_Q4_K] = {"Q4_K", 12, 256, 144, plain_q4_k},
    [BLOCK_Q5_K] = {"Q5_K", 13, 256, 176, plain_q5_k},
    [BLOCK_Q6_K] = {"Q6_K", 14, 256, 210, plain_q6_k},
    [BLOCK_IQ4_NL] = {"IQ4_NL", 20, 32, 18, plain_iq4_nl},
    [BLOCK_IQ4_XS] = {"IQ4_XS", 23, 256, 136, plain_iq4_xs},
    [BLOCK_MXFP4] = {"MXFP4", 39, 32, 17, plain_mxfp4},
    [BLOCK_TQ1_0] = {"TQ1_0", 34, 256, 54, plain_tq1_0},
    [BLOCK_TQ2_0] = {"TQ2_0", 35, 256, 66, plain_tq2_0},
};

const struct block_info *block_info(enum block_type type)
{
    return &table[type];
}

enum block_type block_of_id(uint32_t id)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (table[type].id == id) return type;
    }
    return BLOCK_NONE;
}

void blocks_decode(float *out, enum block_type type, const void *data, uint64_t first, uint64_t count)
{
    const struct block_info *info = &table[type];
    const uint8_t *block = (const uint8_t *)data + first / info->weights * info->bytes;
    kernels()->block_decode(out, type, block, count / info->weights);
}
