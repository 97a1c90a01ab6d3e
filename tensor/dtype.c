/* The table of element types, and the reference conversions: portable C on bits, no hardware float16. */
#include "tensor/dtype.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and are read in place");

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/*   half    s eeeee ffffffffff                         bias 15
 *   single  s eeeeeeee fffffffffffffffffffffff         bias 127: the exponent grows by 112 */
float dtype_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1f;
    uint32_t fraction = half & 0x3ff;
    if (exponent == 0x1f) return float_of(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in single precision */
        float magnitude = (float)fraction * 0x1p-24f;
        return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Drop the low `drop` bits of `bits`, to nearest, ties to even. A carry out of the fraction raises the
 * exponent, which is what it should do; out of the largest number it gives infinity. */
static uint32_t drop_bits(uint32_t bits, uint32_t drop)
{
    uint32_t odd = bits >> drop & 1;
    return (bits + (1u << (drop - 1)) - 1 + odd) >> drop;
}

uint16_t dtype_f32_to_f16(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 2^16 and more */
    if (magnitude >= 0x38800000)
        return (uint16_t)(sign | drop_bits(magnitude - (112u << 23), 13)); /* 2^-14 and more */
    if (magnitude < 0x33000000) return (uint16_t)sign; /* below 2^-25, half of the least subnormal */
    uint32_t exponent = magnitude >> 23;
    uint32_t significand = (magnitude & 0x7fffff) | 0x800000;
    return (uint16_t)(sign | drop_bits(significand, 126 - exponent)); /* in units of 2^-24 */
}

float dtype_bf16_to_f32(uint16_t brain)
{
    return float_of((uint32_t)brain << 16);
}

uint16_t dtype_f32_to_bf16(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* NaN: quiet, whatever is cut off */
    return (uint16_t)drop_bits(bits, 16);
}

/* The loops of the table. Elements are copied out first, because they may lie at any address. */
#define DECODE(name, type, expression)                                                                       \
    static void decode_##name(float *out, const void *in, uint64_t count)                                    \
    {                                                                                                        \
        const unsigned char *bytes = in;                                                                     \
        for (uint64_t i = 0; i < count; i++) {                                                               \
            type element;                                                                                    \
            memcpy(&element, bytes + i * sizeof element, sizeof element);                                    \
            out[i] = (expression);                                                                           \
        }                                                                                                    \
    }
#define ENCODE(name, type, expression)                                                                       \
    static void encode_##name(void *out, const float *in, uint64_t count)                                    \
    {                                                                                                        \
        unsigned char *bytes = out;                                                                          \
        for (uint64_t i = 0; i < count; i++) {                                                               \
            type element = (expression);                                                                     \
            memcpy(bytes + i * sizeof element, &element, sizeof element);                                    \
        }                                                                                                    \
    }

DECODE(f32, float, element)
DECODE(f16, uint16_t, dtype_f16_to_f32(element))
DECODE(bf16, uint16_t, dtype_bf16_to_f32(element))
DECODE(f64, double, (float)element)
DECODE(i8, int8_t, (float)element)
DECODE(i16, int16_t, (float)element)
DECODE(i32, int32_t, (float)element)
DECODE(i64, int64_t, (float)element)
DECODE(u8, uint8_t, (float)element)
DECODE(bool, uint8_t, (float)(element != 0))

ENCODE(f32, float, in[i])
ENCODE(f16, uint16_t, dtype_f32_to_f16(in[i]))
ENCODE(bf16, uint16_t, dtype_f32_to_bf16(in[i]))
ENCODE(f64, double, (double)in[i])

static const struct dtype_info table[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", "f32", 4, true, decode_f32, encode_f32},
    [DTYPE_F16] = {"F16", "f16", 2, true, decode_f16, encode_f16},
    [DTYPE_BF16] = {"BF16", "bf16", 2, true, decode_bf16, encode_bf16},
    [DTYPE_F64] = {"F64", NULL, 8, true, decode_f64, encode_f64},
    [DTYPE_I8] = {"I8", NULL, 1, false, decode_i8, NULL},
    [DTYPE_I16] = {"I16", NULL, 2, false, decode_i16, NULL},
    [DTYPE_I32] = {"I32", NULL, 4, false, decode_i32, NULL},
    [DTYPE_I64] = {"I64", NULL, 8, false, decode_i64, NULL},
    [DTYPE_U8] = {"U8", NULL, 1, false, decode_u8, NULL},
    [DTYPE_BOOL] = {"BOOL", NULL, 1, false, decode_bool, NULL},
};

const struct dtype_info *dtype_info(enum dtype dtype)
{
    return &table[dtype];
}

bool dtype_by_name(enum dtype *out, const char *name, uint64_t bytes)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strlen(table[i].name) != bytes || memcmp(table[i].name, name, bytes) != 0) continue;
        *out = (enum dtype)i;
        return true;
    }
    return false;
}
