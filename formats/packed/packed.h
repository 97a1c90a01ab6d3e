/* Quantized matrices as Hugging Face checkpoints store them: several tensors for one matrix. The table of layouts, and codes
 * to and from words of 32 bits.
 *
 *   layout              codes (int32)           scales          zero-points                  source
 *   gptq, gptq_v2       [cols * bits/32, rows]  [groups, rows]  [groups, rows * bits/32]     auto_gptq qlinear, GPTQModel
 *   awq (GEMM)          [cols, rows * bits/32]  [groups, rows]  [groups, rows * bits/32]     awq/utils/packing_utils.py
 *   compressed-tensors  [rows, cols * bits/32]  [rows, groups]  [rows * bits/32, groups]     compressors/pack_quantized
 *   mlx (affine)        [rows, cols * bits/32]  [rows, groups]  biases [rows, groups]        mlx/backend/cpu/quantized.cpp
 *
 * A line of codes (a row, a column or a group, as the layout says) is a dense stream of bits: code i takes the bits i * bits and
 * up, the lowest bit of the first word first; codes of 3, 5 and 6 bits go on in the next word. AWQ puts the eight codes of a
 * word in another order: column c of eight lies in nibble 0 4 1 5 2 6 3 7 [c].
 *
 * value = (code - zero-point) * scale, for mlx code * scale + bias. gptq (v1) stores zero-points less 1. */
#ifndef NIBBLE_FORMATS_PACKED_H
#define NIBBLE_FORMATS_PACKED_H

#include "base/error.h"
#include "tensor/tensor.h"

/* How the codes of a matrix, or its zero-points, lie in an array of words. */
struct packed_plane {
    bool
        along_rows; /* a line runs over the matrix's rows, one line a column or group; else over the columns, one a row */
    bool words_first; /* the array is [words of a line][lines]; else [lines][words of a line] */
};

enum packed_kind { PACKED_GPTQ, PACKED_GPTQ_V2, PACKED_AWQ, PACKED_COMPRESSED, PACKED_MLX, PACKED_KINDS };

/* One row: a way of storing a matrix NAME as the tensors NAME.<codes>, NAME.<scales> and so on. */
struct packed_layout {
    const char *name;   /* as --format spells it: "compressed-tensors" */
    const char *method; /* quant_method in the configuration */
    const char *codes, *scales;
    const char *zeros; /* zero-points, or mlx's biases */
    const char *order; /* the group of each column, int32 [cols]; NULL: none */
    const char *shape; /* int64 [2]: rows, cols; NULL: none */
    struct packed_plane code_plane, zero_plane;
    bool scales_first;  /* scales are [groups, rows] */
    bool always_order;  /* the group of each column is stored also where it is column / group */
    bool always_zeros;  /* zero-points are stored also where all are those of symmetric quantization */
    bool biases;        /* mlx: floating-point biases in place of zero-points */
    bool interleaved;   /* AWQ's order of the codes of a word */
    uint32_t zero_less; /* subtracted from a zero-point before it is stored */
    uint32_t bits_mask; /* bit b: b bits can be stored */
};

const struct packed_layout *packed_layout(enum packed_kind kind);

/* Words of a line of `count` codes. count * bits must fit 64 bits. */
uint64_t packed_words(uint64_t count, uint32_t bits);

/* Read `count` codes from a line.
 *   codes  [count], each code_step after the one before   out
 *   words  word i of the line lies at words[i * word_step]
 *   first  the bit of words[0] at which the first code begins; below 32, 0 for AWQ's order */
void packed_get(uint8_t *codes, uint64_t code_step, const uint32_t *words, uint64_t word_step, uint32_t first,
    uint64_t count, uint32_t bits, bool interleaved);

/* The same the other way, from the line's start; its words [packed_words(count, bits)] must be 0 before. */
void packed_put(uint32_t *words, uint64_t word_step, const uint8_t *codes, uint64_t code_step, uint64_t count,
    uint32_t bits, bool interleaved);

#endif
