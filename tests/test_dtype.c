/* The dtype table: every row, and the half-precision formats against their definition. */
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

#include "tests/support/testing.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ---- the table ---- */

static void every_type_is_found_by_its_name(void)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype_info *info = dtype_info((enum dtype)i);
        enum dtype found = DTYPE_COUNT;
        CHECK(dtype_by_name(&found, info->name, strlen(info->name)), NULL);
        CHECK(found == (enum dtype)i, NULL);
        CHECK(info->decode != NULL, NULL);
        CHECK((info->encode != NULL) == info->is_float, NULL);
    }
}

static void other_names_are_unknown(void)
{
    enum dtype found;
    CHECK(!dtype_by_name(&found, "F17", 3), NULL);
    CHECK(!dtype_by_name(&found, "F16", 2), NULL);
    CHECK(!dtype_by_name(&found, "F16x", 4), NULL);
    CHECK(!dtype_by_name(&found, "f16", 3), NULL);
    CHECK(!dtype_by_name(&found, "", 0), NULL);
}

static const float extremes[] = {0.0f, -0.0f, 1.0f, -1.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, 65504.0f,
    65520.0f, 3.4028235e38f, -3.4028235e38f, INFINITY, -INFINITY};

/* What a type keeps of a value, it keeps for good, and at any address. */
static void encode_is_idempotent_and_takes_any_address(void)
{
    enum { COUNT = sizeof extremes / sizeof *extremes };
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype_info *info = dtype_info((enum dtype)i);
        if (!info->encode) continue;
        unsigned char first[COUNT * 8 + 1], second[COUNT * 8 + 1];
        float decoded[COUNT];
        info->encode(first + 1, extremes, COUNT);
        info->decode(decoded, first + 1, COUNT);
        info->encode(second + 1, decoded, COUNT);
        CHECK(memcmp(first + 1, second + 1, COUNT * info->bytes) == 0, NULL);
        if (info->bytes >= 4) CHECK(memcmp(decoded, extremes, sizeof decoded) == 0, NULL);
    }
}

static void integers_decode(void)
{
    float out[3];
    dtype_info(DTYPE_I8)->decode(out, (const int8_t[]){-128, 0, 127}, 3);
    CHECK(out[0] == -128 && out[1] == 0 && out[2] == 127, NULL);
    dtype_info(DTYPE_U8)->decode(out, (const uint8_t[]){0, 128, 255}, 3);
    CHECK(out[0] == 0 && out[1] == 128 && out[2] == 255, NULL);
    dtype_info(DTYPE_I16)->decode(out, (const int16_t[]){-32768, -1, 32767}, 3);
    CHECK(out[0] == -32768 && out[1] == -1 && out[2] == 32767, NULL);
    dtype_info(DTYPE_I32)->decode(out, (const int32_t[]){-(1 << 24), 1 << 24, INT32_MIN}, 3);
    CHECK(out[0] == -0x1p24f && out[1] == 0x1p24f && out[2] == -0x1p31f, NULL);
    dtype_info(DTYPE_I64)->decode(out, (const int64_t[]){-(1 << 24), 1 << 24, INT64_MIN}, 3);
    CHECK(out[0] == -0x1p24f && out[1] == 0x1p24f && out[2] == -0x1p63f, NULL);
    dtype_info(DTYPE_BOOL)->decode(out, (const uint8_t[]){0, 1, 255}, 3);
    CHECK(out[0] == 0 && out[1] == 1 && out[2] == 1, NULL);
}

static void doubles_decode_to_nearest(void)
{
    float out[4];
    const double in[] = {1 + 0x1p-24, 1 + 0x1.8p-23, 1e300, -1e-300};
    dtype_info(DTYPE_F64)->decode(out, in, 4);
    CHECK(out[0] == 1 && out[1] == 1 + 0x1p-22f && isinf(out[2]) && out[3] == 0 && signbit(out[3]), NULL);
}

/* ---- half precision, by its definition ---- */

static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_half_decodes_and_comes_back(void)
{
    unsigned wrong = 0;
    for (uint32_t half = 0; half < 65536; half++) {
        float value = dtype_f16_to_f32((uint16_t)half);
        bool special = (half & 0x7c00) == 0x7c00, nan = special && (half & 0x3ff);
        uint32_t back = nan ? half | 0x200 : half; /* a NaN comes back quiet, with what else it held */
        if (nan) {
            wrong += !isnan(value) || !(bits_of(value) & 0x400000);
        } else if (special) {
            wrong += !isinf(value) || !signbit(value) != !(half & 0x8000);
        } else {
            wrong += (double)value != half_value((uint16_t)half) || !signbit(value) != !(half & 0x8000);
        }
        wrong += dtype_f32_to_f16(value) != back;
    }
    CHECK(wrong == 0, NULL);
}

static void every_brain_float_decodes_and_comes_back(void)
{
    unsigned wrong = 0;
    for (uint32_t brain = 0; brain < 65536; brain++) {
        float value = dtype_bf16_to_f32((uint16_t)brain);
        wrong += bits_of(value) != brain << 16;
        wrong += dtype_f32_to_bf16(value) != (isnan(value) ? brain | 0x40 : brain);
    }
    CHECK(wrong == 0, NULL);
}

/* Between two neighbours of a 16-bit type: the midpoint goes to the even one, its neighbours to the nearer
 * one. Both the neighbours and the midpoint are exact in single precision. `last` is the largest finite one;
 * beyond it lies infinity, which stands for the next power of two here. */
static unsigned wrong_roundings(float (*decode)(uint16_t), uint16_t (*encode)(float), uint16_t last)
{
    unsigned wrong = 0;
    for (uint16_t low = 0; low <= last; low++) {
        double step = low < last ? (double)decode(low + 1) - (double)decode(low)
                                 : (double)decode(low) - (double)decode(low - 1);
        float middle = (float)((double)decode(low) + step / 2);
        uint16_t even = low % 2 ? low + 1 : low;
        wrong += encode(middle) != even || encode(-middle) != (even | 0x8000);
        wrong += encode(nextafterf(middle, 0)) != low || encode(-nextafterf(middle, 0)) != (low | 0x8000);
        wrong += encode(nextafterf(middle, INFINITY)) != low + 1;
    }
    return wrong;
}

static void halves_round_to_nearest_even(void)
{
    CHECK(wrong_roundings(dtype_f16_to_f32, dtype_f32_to_f16, 0x7bff) == 0, NULL);
    CHECK(dtype_f32_to_f16(65519.996f) == 0x7bff, NULL);
    CHECK(dtype_f32_to_f16(65520.0f) == 0x7c00, NULL);
    CHECK(dtype_f32_to_f16(3.4e38f) == 0x7c00 && dtype_f32_to_f16(-3.4e38f) == 0xfc00, NULL);
    CHECK(dtype_f32_to_f16(0x1p-25f) == 0 && dtype_f32_to_f16(0x1.000002p-25f) == 1, NULL);
    CHECK(dtype_f32_to_f16(-0x1p-149f) == 0x8000, NULL);
}

static void brain_floats_round_to_nearest_even(void)
{
    CHECK(wrong_roundings(dtype_bf16_to_f32, dtype_f32_to_bf16, 0x7f7f) == 0, NULL);
}

static void nan_stays_nan(void)
{
    float signalling;
    memcpy(&signalling, &(uint32_t){0x7f800001}, sizeof signalling); /* all of its fraction is cut off */
    CHECK(dtype_f32_to_f16(signalling) == 0x7e00, NULL);
    CHECK(dtype_f32_to_bf16(signalling) == 0x7fc0, NULL);
    CHECK(isnan(dtype_f16_to_f32(0xfc01)) && isnan(dtype_bf16_to_f32(0xff81)), NULL);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"every type is found by its name", every_type_is_found_by_its_name},
        {"other names are unknown", other_names_are_unknown},
        {"encode is idempotent and takes any address", encode_is_idempotent_and_takes_any_address},
        {"integers decode", integers_decode},
        {"doubles decode to nearest", doubles_decode_to_nearest},
        {"every half decodes and comes back", every_half_decodes_and_comes_back},
        {"every brain float decodes and comes back", every_brain_float_decodes_and_comes_back},
        {"halves round to nearest even", halves_round_to_nearest_even},
        {"brain floats round to nearest even", brain_floats_round_to_nearest_even},
        {"NaN stays NaN", nan_stays_nan},
    };
    return TESTING_RUN("dtype", cases);
}
