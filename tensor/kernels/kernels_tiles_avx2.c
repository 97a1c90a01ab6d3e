/* Tiles (tensor/tiles.h) for x86-64 with AVX2, FMA and F16C. On other processors this file overrides nothing. See
 * quads_avx2.h for how a block lies in registers. */
#include "tensor/kernels/kernels.h"
#include "tensor/kernels/quads_avx2.h"
#include "tensor/tiles.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

INLINE void store_256(void *at, __m256i value)
{
    _mm256_storeu_si256((__m256i *)at, value);
}

/* ---- quads and planes ---- */

INLINE void transpose_lanes(__m256i v[8])
{
    __m256i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* Write the plane of bits shift .. shift + width - 1. Shifting 16-bit lanes moves no bit into a neighbouring
 * byte, for every part has been cut to its width first. */
INLINE void put_plane(uint8_t *plane, const __m256i quads[8], uint32_t shift, uint32_t width)
{
    uint32_t parts = 8 / width;
#pragma GCC unroll 8
    for (uint32_t j = 0; j < width; j++) {
        __m256i bytes = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (uint32_t t = 0; t < parts; t++) {
            __m256i part = low_bits_of_bytes(_mm256_srli_epi16(quads[width * t + j], (int)shift), width);
            bytes = _mm256_or_si256(bytes, _mm256_slli_epi16(part, (int)(width * t)));
        }
        store_256(plane + 32 * j, bytes);
    }
}

/* ---- codes in, codes out ---- */

INLINE void pack(uint8_t *out, const uint8_t *codes, uint64_t stride, uint64_t blocks, uint32_t bits)
{
    uint32_t low = tiles_low_width(bits), high = bits - low;
    for (uint64_t block = 0; block < blocks; block++, out += 32 * bits, codes += TILE_COLS) {
        __m256i quads[8];
#pragma GCC unroll 8
        for (uint64_t row = 0; row < 8; row++)
            quads[row] = load_256(codes + row * stride);
        transpose_lanes(quads);
        put_plane(out, quads, 0, low);
        if (high) put_plane(out + 32 * low, quads, low, high);
    }
}

INLINE void unpack(uint8_t *out, uint64_t stride, const uint8_t *codes, uint64_t blocks, uint32_t bits)
{
    for (uint64_t block = 0; block < blocks; block++, codes += 32 * bits, out += TILE_COLS) {
        __m256i rows[8];
#pragma GCC unroll 8
        for (uint32_t q = 0; q < 8; q++)
            rows[q] = get_quad(codes, bits, q);
        transpose_lanes(rows);
#pragma GCC unroll 8
        for (uint64_t row = 0; row < 8; row++)
            store_256(out + row * stride, rows[row]);
    }
}

/* ---- decoding ---- */

INLINE struct half_grid half_grid(
    const struct tiles_layout *layout, const uint16_t *scales, const uint8_t *zeros, uint64_t half)
{
    return group_grid(layout, scales, zeros, tiles_half_group(layout, half));
}

INLINE __m256 decode_8(__m128i codes, float scale, float zero)
{
    __m256 steps = _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), _mm256_set1_ps(zero));
    return _mm256_mul_ps(_mm256_set1_ps(scale), steps);
}

/* Sixteen columns of eight rows: rows[r] holds in its low 16 bytes, or its high ones, the codes of row r. */
INLINE void decode_half(float *out, uint64_t stride, const __m256i rows[8], int which, struct half_grid grid)
{
    float scale[8], zero[8];
    _mm256_storeu_ps(scale, grid.scale);
    _mm256_storeu_ps(zero, grid.zero);
#pragma GCC unroll 8
    for (uint64_t r = 0; r < 8; r++) {
        __m128i codes = which ? _mm256_extracti128_si256(rows[r], 1) : _mm256_castsi256_si128(rows[r]);
        _mm256_storeu_ps(out + r * stride, decode_8(codes, scale[r], zero[r]));
        _mm256_storeu_ps(out + r * stride + 8, decode_8(_mm_srli_si128(codes, 8), scale[r], zero[r]));
    }
}

INLINE void decode(const struct tiles_layout *layout, float *out, uint64_t stride, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, uint64_t begin, uint64_t end, uint32_t bits)
{
    for (uint64_t block = begin; block < end; block++, out += TILE_COLS) {
        __m256i rows[8];
#pragma GCC unroll 8
        for (uint32_t q = 0; q < 8; q++)
            rows[q] = get_quad(codes + block * 32 * bits, bits, q);
        transpose_lanes(rows);
        decode_half(out, stride, rows, 0, half_grid(layout, scales, zeros, 2 * block));
        decode_half(out + 16, stride, rows, 1, half_grid(layout, scales, zeros, 2 * block + 1));
    }
}

/* ---- products ---- */

/* Lanes are the eight rows. A code c becomes a float without conversion: 0x4B000000 | c is the float 2^23 +
 * c, from which 2^23 + zero is taken, exactly. */
INLINE __m256 step(const uint8_t *block, uint32_t bits, uint32_t q, uint32_t k, __m256 zero)
{
    const __m256i magic = _mm256_castps_si256(_mm256_set1_ps(0x1p23f));
    const __m256 offset = _mm256_add_ps(_mm256_set1_ps(0x1p23f), zero);
    /* byte k of every lane, alone: 0x80 gives zero */
    const __m256i byte_k = _mm256_broadcastsi128_si256(_mm_set_epi32(
        (int)(0x8080800c + k), (int)(0x80808008 + k), (int)(0x80808004 + k), (int)(0x80808000 + k)));
    __m256i code = _mm256_or_si256(_mm256_shuffle_epi8(get_quad(block, bits, q), byte_k), magic);
    return _mm256_sub_ps(_mm256_castsi256_ps(code), offset);
}

/* ---- the table ----
 *
 * The functions above want `bits` as a constant: their loops over planes then unroll to shifts and masks. */
#define FOR_EACH_BITS(CASE) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(8)

static void avx2_blocks_pack(
    uint8_t *out, const uint8_t *codes, uint64_t stride, uint64_t blocks, uint32_t bits)
{
#define CASE(constant)                                                                                       \
    case constant:                                                                                           \
        pack(out, codes, stride, blocks, constant);                                                          \
        break;
    switch (bits) {
        FOR_EACH_BITS(CASE)
    }
#undef CASE
}

static void avx2_blocks_unpack(
    uint8_t *out, uint64_t stride, const uint8_t *codes, uint64_t blocks, uint32_t bits)
{
#define CASE(constant)                                                                                       \
    case constant:                                                                                           \
        unpack(out, stride, codes, blocks, constant);                                                        \
        break;
    switch (bits) {
        FOR_EACH_BITS(CASE)
    }
#undef CASE
}

static void avx2_blocks_decode(const struct tiles_layout *layout, float *out, uint64_t stride,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, uint64_t begin, uint64_t end)
{
#define CASE(constant)                                                                                       \
    case constant:                                                                                           \
        decode(layout, out, stride, codes, scales, zeros, begin, end, constant);                             \
        break;
    switch (layout->bits) {
        FOR_EACH_BITS(CASE)
    }
#undef CASE
}

static void avx2_tile_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x)
{
#define CASE(constant)                                                                                       \
    case constant:                                                                                           \
        quads_tile_dot(layout, y, codes, scales, zeros, x, constant, step);                                  \
        break;
    switch (layout->bits) {
        FOR_EACH_BITS(CASE)
    }
#undef CASE
}

static void avx2_tile_dots(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x, uint64_t tokens)
{
#define CASE(constant)                                                                                       \
    case constant:                                                                                           \
        quads_tile_dots(layout, y, codes, scales, zeros, x, tokens, constant, step);                         \
        break;
    switch (layout->bits) {
        FOR_EACH_BITS(CASE)
    }
#undef CASE
}

void kernels_override_tiles_avx2(struct kernels *table)
{
    table->blocks_pack = avx2_blocks_pack;
    table->blocks_unpack = avx2_blocks_unpack;
    table->blocks_decode = avx2_blocks_decode;
    table->tile_dot = avx2_tile_dot;
    table->tile_dots = avx2_tile_dots;
}

#else

void kernels_override_tiles_avx2(struct kernels *table)
{
    (void)table;
}

#endif
