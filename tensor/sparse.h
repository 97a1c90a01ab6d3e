/* The storage of pruned matrices: which weights are there, and those weights alone.
 *
 * Rows are taken in tiles of 8 and columns in blocks of 32, as in tensor/tiles.h. What is stored of a weight is a symmetric code of 2, 4 or
 * 8 bits, value = scale * (code - 2^(bits-1)) with a scale per row and group; or, unquantized (bits 0), a 16-bit value of type F16 or
 * BF16. A weight that is not stored is 0. A code is stored as code XOR 2^(bits-1): two's complement, 0 is the value 0.
 *
 * The tensor is up to four parts, each starting at a multiple of 64 bytes:
 *   masks    [tiles][blocks][32 or 24]  bytes
 *   offsets  [tiles + 1]                u32, only of a bitmap: where the codes of each tile begin, in units of 8 bytes; the last one: where
 *                                       they end
 *   scales   [tiles][groups][8]         IEEE half, only if quantized
 *   codes    and behind them SPARSE_SLACK zero bytes, so that a kernel may load whole registers
 *
 * MASK_BITMAP, 32 bytes a block: bit i (bit i % 8 of byte i / 8) is set if weight i of the block is stored. Weights are counted as tiles
 * have them in their bytes: i = byte * (8 / bits) + t, so that a block whose codes are spread to where their bits are set has the very bytes
 * of a tile's block, XOR 2^(bits-1) in every code; 16-bit values are counted by rows, i = row * 32 + column. Codes follow one another in
 * that order, from the lowest bit of each byte on; a block's begin at the next byte, a tile's at the next multiple of 8 bytes.
 *
 * MASK_2_4, 24 bytes a block: of the columns 4q .. 4q+3 of a row two are stored, in one of six ways:
 *
 *     p   0     1     2     3     4     5
 *        0,1   0,2   0,3   1,2   1,3   2,3
 *
 * Quads q = 2n and 2n+1 (n < 4) of a row's block are the number p + 6 p', below 36: bits 6n .. 6n+5 of the 24-bit number in bytes 3 * row .. . The
 * 16 codes of a row's block follow one another by columns, from the lowest bit on, in bits / 2 words of 32 bits; word j of row r is bytes
 * 32 * j + 4 * r .. of the block's 16 * bits (of 16-bit values: value n of row r is bytes 2 * (16 * r + n) ..). A weight that is 0
 * and stored has the code 0.
 *
 * Nothing past the end of the matrix is stored (2:4: is stored as 0, two of which are p = 0). */
#ifndef NIBBLE_TENSOR_SPARSE_H
#define NIBBLE_TENSOR_SPARSE_H

#include "base/error.h"
#include "tensor/tiles.h"

#define SPARSE_SLACK 64
#define SPARSE_BITMAP_BYTES 32
#define SPARSE_2_4_BYTES 24

/* Where everything lies. Offsets are from the start of the tensor's bytes. */
struct sparse_layout {
    struct tiles_layout
        dense; /* the tiles that the tensor spreads to; unquantized: of rows, cols, tiles and blocks alone */
    enum mask mask;
    enum dtype dtype; /* unquantized: of the values; else DTYPE_F16 */
    bool quantized;
    uint32_t bits;             /* of a code or value: 2, 4, 8 or 16 */
    uint64_t mask_bytes;       /* of a block */
    uint64_t tile_mask_bytes;  /* of a tile */
    uint64_t tile_scale_bytes; /* of a tile; 0 if unquantized */
    uint64_t tile_code_bytes;  /* 2:4: of a tile; bitmap: the most that a tile may have */
    uint64_t offsets_offset, scales_offset, codes_offset;
    uint64_t code_bytes; /* of all tiles, without the slack */
    uint64_t bytes;      /* of all */
};

/* Check storage, dtype, scheme, mask and shape of a description and lay it out for codes of `code_bytes` bytes (bitmap; 2:4 has its
 * own). ERR_FORMAT: not rank 2; quantized: type not F16, bits not 2, 4 or 8, asymmetric, a group that tiles_layout refuses; unquantized: type
 * neither F16 nor BF16, a group; mask unknown; code bytes that are no multiple of 8, or more than all weights take; sizes that do
 * not fit 2^63, or codes that do not fit 2^35. */
enum status sparse_layout(
    struct sparse_layout *out, const struct tensor *tensor, uint64_t code_bytes, struct error *err);

/* The same of a tensor whose bytes are known, for a bitmap from a file: tensor->bytes says how many there are. */
enum status sparse_layout_of(struct sparse_layout *out, const struct tensor *tensor, struct error *err);

/* Make the description of a sparse tensor that of what it spreads to: TILES of its scheme, or DENSE values of its type. Others are left. */
void sparse_describe_spread(struct tensor *tensor);

/* ---- making ---- */

/* Bytes that the codes of one tile take: the sum over all tiles is sparse_layout's code_bytes.
 *   weights  [row_count][cols]  in: codes, a byte each (stored unless 2^(bits-1)); or 16-bit values (stored unless 0 or -0) */
uint64_t sparse_measure(const struct sparse_layout *layout, const void *weights, uint64_t row_count);

/* Pack one tile.
 *   masks_out   [tile_mask_bytes]    out
 *   codes_out   [sparse_measure]     out
 *   scales_out  [groups][8]          out, half precision bits; NULL if unquantized
 *   weights     [row_count][cols]    in, as in sparse_measure
 *   scales      [row_count][groups]  in, half precision bits; NULL if unquantized
 * row_count is 1..8 (fewer than 8 only in the last tile). ERR_FORMAT: 2:4 and three of four columns that are not 0; row and column
 * are named, rows counted in the tile. */
enum status sparse_pack(const struct sparse_layout *layout, uint8_t *masks_out, uint8_t *codes_out,
    uint16_t *scales_out, const void *weights, const uint16_t *scales, uint64_t row_count, struct error *err);

/* A whole tensor from its codes or values.
 *   tensor   in: storage, dtype, scheme, mask, rank, shape; out: elements, bytes, and data, which is the caller's (memory_free)
 *   weights  [rows][cols], scales [rows][groups]  in, as in sparse_pack
 * ERR_FORMAT: what sparse_layout and sparse_pack refuse. ERR_MEMORY. */
enum status sparse_make(
    struct tensor *tensor, const void *weights, const uint16_t *scales, struct error *err);

/* ---- using ---- */

/* The parts of one tile. */
struct sparse_tile {
    const uint8_t *masks;   /* [tile_mask_bytes] */
    const uint16_t *scales; /* [groups][8]; NULL if unquantized */
    const uint8_t *codes;   /* [code_bytes], and SPARSE_SLACK bytes more that may be read */
    uint64_t code_bytes;
};

/* Where the codes of tiles [begin, end) lie, checked: in the part of the codes, and in order. offsets [end - begin + 1]: as stored, from
 * tile `begin` on; NULL for 2:4. ERR_FORMAT: they do not. */
enum status sparse_check_offsets(const struct sparse_layout *layout, const uint32_t *offsets, uint64_t begin,
    uint64_t end, struct error *err);

/* Tile `index` of a whole tensor in memory; base: the tensor's bytes (64-byte aligned). ERR_FORMAT: its offsets do not fit. */
enum status sparse_at(struct sparse_tile *out, const struct sparse_layout *layout, const void *base,
    uint64_t index, struct error *err);

/* A tile with everything in its place, whatever its masks say: no byte outside its parts is read.
 *   out  quantized: [dense.tile_code_bytes], codes as tiles have them (rows past the end: of the value 0)
 *        unquantized: [8][cols] values of 16 bits; sparse_scratch bytes are used */
void sparse_spread(const struct sparse_layout *layout, void *out, const struct sparse_tile *tile);

/* The codes of a tile of quantized weights as tiles hold them, `row_count` rows of which exist: out [dense.tile_code_bytes]. */
void sparse_put_tile(
    const struct sparse_layout *layout, uint8_t *out, const struct sparse_tile *tile, uint64_t row_count);

/* One tile to floats.
 *   out      [row_count][out_stride >= cols]  out
 *   scratch  [sparse_scratch]                 used, aligned to 64 */
void sparse_decode_tile(const struct sparse_layout *layout, float *out, uint64_t out_stride,
    const struct sparse_tile *tile, uint64_t row_count, void *scratch);

/* Rows [row_begin, row_begin + row_count) of a whole tensor to floats; row_begin is a multiple of 8. ERR_FORMAT: its offsets do not fit. */
enum status sparse_decode(const struct sparse_layout *layout, float *out, uint64_t out_stride,
    const void *base, uint64_t row_begin, uint64_t row_count, void *scratch, struct error *err);

/* What tiles_dot does, for a tile of any kind: y [tokens][8], x as there. A token has the same bits alone and in any company; bitmaps of codes have
 * the very bits of the tile that they spread to. scratch [sparse_scratch], aligned to 64. */
void sparse_dot(const struct sparse_layout *layout, float *y, const struct sparse_tile *tile, const float *x,
    uint64_t tokens, void *scratch);

/* Rows [row_begin, row_begin + row_count) of a tensor in memory to floats, with scratch of its own: out [row_count][cols]; row_begin is a multiple
 * of 8. ERR_FORMAT, ERR_MEMORY. Errors name the tensor. */
enum status sparse_rows(
    const struct tensor *tensor, float *out, uint64_t row_begin, uint64_t row_count, struct error *err);

/* Bytes that sparse_spread writes: what scratch must hold. */
uint64_t sparse_scratch(const struct sparse_layout *layout);

/* How many weights the masks [blocks][mask_bytes] say are stored. */
uint64_t sparse_count(const struct sparse_layout *layout, const uint8_t *masks, uint64_t blocks);

/* ---- verifying ---- */

/* What is wrong with a tile. */
struct sparse_fault {
    uint64_t block;
    const char *text; /* static */
};

/* Check a tile against formats/SPEC.md: nothing past the end is stored, patterns exist, values are finite, bits between codes are zero, and
 * its codes end where its bytes do. false: *out says what is wrong first.
 *   layout  of the tile alone: its rows and cols are those that exist */
bool sparse_check(
    struct sparse_fault *out, const struct sparse_layout *layout, const struct sparse_tile *tile);

#endif
