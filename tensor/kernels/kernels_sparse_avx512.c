/* Products of two of four for x86-64 with AVX-512 (F, BW and VL) in registers of 256 bits: what takes AVX2 two logical operations takes one,
 * and twice the registers hold the constants. The same source, the same bits. On other processors this file overrides nothing. */
#include "tensor/kernels/kernels.h"
#include "tensor/kernels/sparse_2_4_avx2.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__BMI2__)

PAIRS_DOTS(avx512)

void kernels_override_sparse_avx512(struct kernels *table)
{
    kernels_sparse_pairs(&pairs_tables);
    table->sparse_dots = avx512_sparse_dots;
}

#else

void kernels_override_sparse_avx512(struct kernels *table)
{
    (void)table;
}

#endif
