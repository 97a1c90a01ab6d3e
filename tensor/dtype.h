/* THE table of element types: name, bytes, and the reference decode and encode. One row per type; readers, writers and
 * kernels look here and nowhere else. */
#ifndef NIBBLE_TENSOR_DTYPE_H
#define NIBBLE_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

/* The numbers are part of the .nbl format (formats/SPEC.md) and never change. */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_BF16 = 2,
    DTYPE_F64 = 3,
    DTYPE_I8 = 4,
    DTYPE_I16 = 5,
    DTYPE_I32 = 6,
    DTYPE_I64 = 7,
    DTYPE_U8 = 8,
    DTYPE_BOOL = 9,
    DTYPE_COUNT
};

/* One row of the table. */
struct dtype_info {
    const char *name;   /* as safetensors spells it: "BF16" */
    const char *option; /* as command lines spell it: "bf16"; NULL if it cannot be asked for */
    uint32_t bytes;     /* of one element */
    bool is_float;
    /* Reference conversion of `count` elements; for integers exact up to 2^24, BOOL is 0 or 1. encode rounds to nearest,
     * ties to even; overflow becomes infinity (callers that must not lose a weight check for it), NaN stays NaN. encode is
     * NULL for types that are not floating point. Pointers may be unaligned. */
    void (*decode)(float *out, const void *in, uint64_t count);
    void (*encode)(void *out, const float *in, uint64_t count);
};

/* The row of a type; dtype must be below DTYPE_COUNT. */
const struct dtype_info *dtype_info(enum dtype dtype);

/* Find a type by its safetensors name of `bytes` bytes; false if unknown. */
bool dtype_by_name(enum dtype *out, const char *name, uint64_t bytes);

/* IEEE 754 half precision, one value: exact, and nearest-even with overflow to infinity. */
float dtype_f16_to_f32(uint16_t half);
uint16_t dtype_f32_to_f16(float value);
float dtype_bf16_to_f32(uint16_t brain);
uint16_t dtype_f32_to_bf16(float value);

#endif
