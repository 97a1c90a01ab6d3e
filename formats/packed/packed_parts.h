/* A tensor of tiles as the tensors that a packed layout (formats/packed/packed.h) stores for it. Only formats/ includes this. */
#ifndef NIBBLE_FORMATS_PACKED_PARTS_H
#define NIBBLE_FORMATS_PACKED_PARTS_H

#include "formats/packed/packed.h"

enum { PACKED_PARTS_MOST = 5 };

/* One of them. */
struct packed_part {
    const char *suffix; /* NAME.<suffix> */
    const char *type;   /* as safetensors spells it; mlx's words are "U32" */
    uint32_t element_bytes, rank;
    uint64_t shape[2], bytes;
};

/* codes, scales, and what else there is, in this order: zero-points (or biases), order, shape. */
struct packed_parts {
    struct packed_part list[PACKED_PARTS_MOST];
    unsigned count;
};

/* The bytes of a matrix's name before ".weight"; 0 if it has another ending. */
uint64_t packed_stem(const char *name);

/* What is stored for a tensor of tiles (name, scheme and shape are taken). ERR_UNSUPPORTED (the text names the tensor): the layout
 * cannot say it: bits, lines that do not fill their words, groups (mlx: 32, 64, 128), a name without ".weight", an embedding. */
enum status packed_parts_plan(
    struct packed_parts *out, enum packed_kind kind, const struct tensor *tensor, struct error *err);

/* Fill the parts from the tensor's bytes (64-byte aligned). bytes[i]: zeroed memory for part i. Codes and scales are kept bit for
 * bit; mlx's biases are -(zero-point * scale), rounded to half precision. Takes rows * cols bytes of memory. ERR_UNSUPPORTED:
 * a zero-point 0 in gptq (v1), which has no place for it; ERR_NUMERIC: a bias beyond half precision. */
enum status packed_parts_fill(void *const bytes[PACKED_PARTS_MOST], const struct packed_parts *parts,
    enum packed_kind kind, const struct tensor *tensor, const void *tiles, struct error *err);

#endif
