/* The storage of quantized matrices: one layout that serves one-token and many-token products straight from a map.
 *
 * Rows are taken in tiles of 8 and columns in blocks of 32. A block of a tile is 256 codes in 32 * bits bytes, made of bit
 * planes: a code of 2, 4 or 8 bits is one plane of that width; 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, the plane of the low bits
 * first. A plane of width w (1, 2, 4 or 8) is 32 * w bytes: byte j*32 + r*4 + k (j < w, row r < 8, k < 4) holds in its bits
 * w*t .. w*t+w-1 the code of column 4*(w*t + j) + k, for t < 8/w. One 32-byte load therefore gives four columns of eight
 * rows, 8/w times over:
 *
 *   w = 4, byte j*32 + r*4 + k:   | high: row r, col 16+4j+k | low: row r, col 4j+k |
 *
 * The tensor is three parts, each starting at a multiple of 64 bytes:
 *   codes   [tiles][blocks][32 * bits]   bytes
 *   scales  [tiles][groups][8]           IEEE half, little-endian
 *   zeros   [tiles][groups][8]           bytes; only if asymmetric
 * Rows past the end have scale 0 and zero-point 0 with codes 0; columns past the end hold the code of the value 0
 * (the zero-point of their row's last group, 2^(bits-1) if symmetric). */
#ifndef NIBBLE_TENSOR_TILES_H
#define NIBBLE_TENSOR_TILES_H

#include "base/error.h"
#include "tensor/tensor.h"

#define TILE_ROWS 8
#define TILE_COLS 32
#define TILE_TOKENS 32 /* the most that tiles_dot takes at once */

/* Where everything lies, computed from shape and scheme alone. Offsets are from the start of the tensor's bytes. */
struct tiles_layout {
    uint64_t rows, cols, tiles, blocks, groups, group;
    uint32_t bits;
    bool asymmetric;
    uint64_t block_bytes;      /* 32 * bits */
    uint64_t tile_code_bytes;  /* blocks * block_bytes */
    uint64_t tile_scale_bytes; /* groups * 8 * 2 */
    uint64_t tile_zero_bytes;  /* groups * 8, or 0 */
    uint64_t scales_offset, zeros_offset, bytes;
};

/* Width of the plane of the low bits: the other plane has what is left of `bits`, if anything. */
static inline uint32_t tiles_low_width(uint32_t bits)
{
    return bits == 8 ? 8 : bits >= 4 ? 4 : 2;
}

/* The group of columns 16 * half .. 16 * half + 15. All of them share it, because a group is a multiple of 16 or the
 * whole row. Columns past the end belong to the last group. */
static inline uint64_t tiles_half_group(const struct tiles_layout *layout, uint64_t half)
{
    uint64_t group = 16 * half / layout->group;
    return group < layout->groups ? group : layout->groups - 1;
}

/* Check a scheme against a shape and lay it out. ERR_FORMAT: bits not 2, 3, 4, 5, 6, 8; group 0, above cols, or neither
 * cols nor a multiple of 16 that divides cols; rows or cols 0; sizes that do not fit 2^63. */
enum status tiles_layout(
    struct tiles_layout *out, uint64_t rows, uint64_t cols, struct scheme scheme, struct error *err);

/* The three parts of one tile. */
struct tile {
    const uint8_t *codes;   /* [tile_code_bytes] */
    const uint16_t *scales; /* [groups][8], half precision bits */
    const uint8_t *zeros;   /* [groups][8]; NULL if symmetric */
};

/* Tile `index` of a whole tensor; base: the tensor's bytes (64-byte aligned). */
struct tile tiles_at(const struct tiles_layout *layout, const void *base, uint64_t index);

/* Pack one tile.
 *   codes_out   [tile_code_bytes]   out
 *   scales_out  [groups][8]         out, half precision bits
 *   zeros_out   [groups][8]         out; NULL if symmetric
 *   codes       [row_count][cols]   in, one byte per code
 *   scales      [row_count][groups] in, half precision bits
 *   zeros       [row_count][groups] in; NULL if symmetric
 * row_count is 1..8 (fewer than 8 only in the last tile). */
void tiles_pack(const struct tiles_layout *layout, uint8_t *codes_out, uint16_t *scales_out,
    uint8_t *zeros_out, const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros,
    uint64_t row_count);

/* Decode rows [row_begin, row_begin + row_count) of a whole tensor to floats: out [row_count][out_stride >= cols].
 * row_begin is a multiple of 8. base: the tensor's bytes (64-byte aligned). */
void tiles_decode(const struct tiles_layout *layout, float *out, uint64_t out_stride, const void *base,
    uint64_t row_begin, uint64_t row_count);

/* The same for one tile given by its three parts, as read from a file piece by piece. */
void tiles_decode_tile(const struct tiles_layout *layout, float *out, uint64_t out_stride,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, uint64_t row_count);

/* The codes of one tile back, one byte each: codes [8][cols]. For verification and conversion. */
void tiles_unpack(const struct tiles_layout *layout, uint8_t *codes, const uint8_t *tile_codes);

/* y[t][8] = sum over cols of decoded weight * x of token t, for one tile and a few tokens; codes are read once. Sums in float, in
 * an order that depends on the layout only: a token has the same bits alone and in any company.
 *   y       [tokens][8]            out
 *   x       [blocks][tokens][32]   in, zero beyond cols, 32-byte aligned
 *   tokens  1 .. TILE_TOKENS */
void tiles_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes, const uint16_t *scales,
    const uint8_t *zeros, const float *x, uint64_t tokens);

#endif
