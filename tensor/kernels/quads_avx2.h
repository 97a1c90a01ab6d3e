/* How the kernels of x86-64 see tiles (tensor/tiles.h): what those for AVX2 and those for AVX-512 share. Only they include this.
 *
 * In registers a block is eight quads: quad q holds columns 4q .. 4q+3 of all eight rows, a row in each
 * 32-bit lane:
 *
 *   | row 0: 4q 4q+1 4q+2 4q+3 | row 1: 4q 4q+1 4q+2 4q+3 | ... | row 7 |     one byte per code
 *
 * Quad width * t + j is in bits width * t and up of the plane's 32 bytes j; transposing the lanes of all
 * eight quads gives whole rows. */
#ifndef NIBBLE_TENSOR_QUADS_AVX2_H
#define NIBBLE_TENSOR_QUADS_AVX2_H

#include <string.h>

#include "tensor/tiles.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m128i load_128(const void *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

INLINE __m256i load_256(const void *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

INLINE __m256i low_bits_of_bytes(__m256i value, uint32_t width)
{
    return width == 8 ? value : _mm256_and_si256(value, _mm256_set1_epi8((char)((1 << width) - 1)));
}

/* Quad q of a plane. */
INLINE __m256i get_plane(const uint8_t *plane, uint32_t width, uint32_t q)
{
    __m256i bytes = load_256(plane + 32 * (q % width));
    return low_bits_of_bytes(_mm256_srli_epi16(bytes, (int)(q / width * width)), width);
}

/* Quad q of a block: one code per byte. */
INLINE __m256i get_quad(const uint8_t *block, uint32_t bits, uint32_t q)
{
    uint32_t low = tiles_low_width(bits), high = bits - low;
    __m256i codes = get_plane(block, low, q);
    if (high == 0) return codes;
    return _mm256_or_si256(codes, _mm256_slli_epi16(get_plane(block + 32 * low, high, q), (int)low));
}

/* Scales and zero-points of the eight rows of a half-block. */
struct half_grid {
    __m256 scale, zero;
};

/* Scales and zero-points of the eight rows of one group. */
INLINE struct half_grid group_grid(
    const struct tiles_layout *layout, const uint16_t *scales, const uint8_t *zeros, uint64_t group)
{
    uint64_t at = group * TILE_ROWS;
    struct half_grid grid = {
        _mm256_cvtph_ps(load_128(scales + at)), _mm256_set1_ps((float)(1u << (layout->bits - 1)))};
    if (zeros)
        grid.zero = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(zeros + at))));
    return grid;
}

/* code - zero of column 4 * q + k of a block, for its eight rows: exact, so all ways to it give the same bits. */
typedef __m256 (*quads_step)(const uint8_t *block, uint32_t bits, uint32_t q, uint32_t k, __m256 zero);

/* Where a walk over the half-blocks of a tile is. Groups are counted along instead of being divided for: a half-block never
 * skips one. */
struct quads_walk {
    uint64_t group, column, end;
};

INLINE struct half_grid next_half_grid(
    const struct tiles_layout *layout, const uint16_t *scales, const uint8_t *zeros, struct quads_walk *walk)
{
    if (walk->column >= walk->end && walk->group < layout->groups - 1) {
        walk->group++;
        walk->end += layout->group;
    }
    walk->column += 16;
    return group_grid(layout, scales, zeros, walk->group);
}

/* The sum over columns 4 * first_quad .. 4 * first_quad + 15 of a block of (code - zero) * x; x is that of the block's first
 * column. Four sums, one for every column of a quad, added up as (0 + 1) + (2 + 3): all sets give the same bits. */
INLINE __m256 quads_dot_half(
    const uint8_t *block, uint32_t bits, uint32_t first_quad, __m256 zero, const float *x, quads_step step)
{
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
#pragma GCC unroll 8
    for (uint32_t q = first_quad; q < first_quad + 4; q++) {
#pragma GCC unroll 8
        for (uint32_t k = 0; k < 4; k++)
            sums[k] =
                _mm256_fmadd_ps(step(block, bits, q, k, zero), _mm256_broadcast_ss(x + 4 * q + k), sums[k]);
    }
    return _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
}

INLINE void quads_tile_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x, uint32_t bits, quads_step step)
{
    const uint64_t blocks = layout->blocks;
    struct quads_walk walk = {.end = layout->group};
    __m256 sum = _mm256_setzero_ps();
    for (uint64_t block = 0; block < blocks; block++, codes += 32 * bits, x += TILE_COLS) {
#pragma GCC unroll 8
        for (uint32_t half = 0; half < 2; half++) {
            struct half_grid grid = next_half_grid(layout, scales, zeros, &walk);
            sum = _mm256_fmadd_ps(quads_dot_half(codes, bits, 4 * half, grid.zero, x, step), grid.scale, sum);
        }
    }
    _mm256_storeu_ps(y, sum);
}

/* ---- several tokens ---- */

/* Steps of columns k and k + 1 of four quads. */
struct quads_steps {
    __m256 of[4][2];
};

INLINE struct quads_steps decode_steps(
    const uint8_t *block, uint32_t bits, uint32_t first_quad, uint32_t k, __m256 zero, quads_step step)
{
    struct quads_steps steps;
#pragma GCC unroll 8
    for (uint32_t q = 0; q < 4; q++) {
        steps.of[q][0] = step(block, bits, first_quad + q, k, zero);
        steps.of[q][1] = step(block, bits, first_quad + q, k + 1, zero);
    }
    return steps;
}

/* sums[0] + sums[1] or sums[2] + sums[3] of quads_dot_half, of one token; x is that of column k of the first quad. */
INLINE __m256 dot_steps(const struct quads_steps *steps, const float *x)
{
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#pragma GCC unroll 8
    for (uint32_t q = 0; q < 4; q++) {
        sums[0] = _mm256_fmadd_ps(steps->of[q][0], _mm256_broadcast_ss(x + 4 * q), sums[0]);
        sums[1] = _mm256_fmadd_ps(steps->of[q][1], _mm256_broadcast_ss(x + 4 * q + 1), sums[1]);
    }
    return _mm256_add_ps(sums[0], sums[1]);
}

/* Half a block for all tokens: the steps of two columns of every quad stay in eight registers while the tokens pass, then those
 * of the other two. More would not fit the sixteen of AVX2. The order of operations of every token is that of quads_tile_dot:
 * the same bits. */
INLINE void quads_dots_half(float *y, const uint8_t *block, uint32_t bits, uint32_t half,
    struct half_grid grid, const float *x, uint64_t tokens, quads_step step)
{
    __m256 first[TILE_TOKENS];
    x += 16 * half;
    struct quads_steps steps = decode_steps(block, bits, 4 * half, 0, grid.zero, step);
    for (uint64_t t = 0; t < tokens; t++)
        first[t] = dot_steps(&steps, x + t * TILE_COLS);
    steps = decode_steps(block, bits, 4 * half, 2, grid.zero, step);
    for (uint64_t t = 0; t < tokens; t++) {
        __m256 sum = _mm256_add_ps(first[t], dot_steps(&steps, x + t * TILE_COLS + 2));
        _mm256_storeu_ps(
            y + t * TILE_ROWS, _mm256_fmadd_ps(sum, grid.scale, _mm256_loadu_ps(y + t * TILE_ROWS)));
    }
}

INLINE void quads_tile_dots(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x, uint64_t tokens, uint32_t bits,
    quads_step step)
{
    const uint64_t blocks = layout->blocks;
    struct quads_walk walk = {.end = layout->group};
    memset(y, 0, tokens * TILE_ROWS * sizeof *y);
    for (uint64_t block = 0; block < blocks; block++, codes += 32 * bits, x += tokens * TILE_COLS) {
#pragma GCC unroll 8
        for (uint32_t half = 0; half < 2; half++) {
            struct half_grid grid = next_half_grid(layout, scales, zeros, &walk);
            quads_dots_half(y, codes, bits, half, grid, x, tokens, step);
        }
    }
}

#endif
#endif
