/* GGUF's blocks (tensor/blocks.h) decoded with AVX-512: the common code, compiled for it. */
#include "tensor/kernels/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#include "tensor/kernels/block_decode.h"

static void block_decode(float *out, enum block_type type, const void *data, uint64_t blocks)
{
    const uint8_t *block = data;
    struct block_sink sink = {.out = out};
    BLOCK_LOOPS
}

static void block_dot(float *sum, enum block_type type, const void *data, const float *x, uint64_t blocks)
{
    const uint8_t *block = data;
    struct block_sink sink = {.x = x};
    BLOCK_LOOPS
    *sum = block_sum(&sink);
}

void kernels_override_blocks_avx512(struct kernels *table)
{
    table->block_decode = block_decode;
    table->block_dot = block_dot;
}

#else

void kernels_override_blocks_avx512(struct kernels *table)
{
    (void)table;
}

#endif
