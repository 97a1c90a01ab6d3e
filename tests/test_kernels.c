/* Kernels one by one: the set in use against the scalar one, and the scalar one against first principles. */
#include "tensor/kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/cache.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

/* Lengths around every vector width in use. */
static const uint64_t lengths[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 172};
#define LENGTH_COUNT (sizeof lengths / sizeof *lengths)
enum { LONGEST = 172 };

static const float specials[] = {0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1p-24f, 0x1p-25f,
    0x1.8p-25f, 65504.0f, 65519.99f, 65520.0f, -65520.0f, 3.4028235e38f, -3.4028235e38f, INFINITY, -INFINITY,
    NAN, 1.0009765625f};
enum { SPECIAL_COUNT = sizeof specials / sizeof *specials };

static float any_float(uint64_t *state)
{
    uint64_t random = testing_random(state);
    if (random % 4 == 0) return specials[(random >> 8) % SPECIAL_COUNT];
    uint32_t bits = (uint32_t)(random >> 32);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- choosing a set ---- */

static void unknown_sets_are_refused(void)
{
    struct error err = {0};
    const char *before = kernels()->name;
    CHECK(kernels_select("avx3", &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "avx3") && strstr(err.text, "scalar") && strstr(err.text, "avx2"), &err);
    CHECK(strcmp(kernels()->name, before) == 0, NULL);
}

static void the_named_set_is_in_use(void)
{
    const char *name = getenv("NIBBLE_KERNELS");
    if (name && *name) CHECK(strcmp(kernels()->name, name) == 0, NULL);
}

/* ---- conversion ---- */

/* Buffers are exactly as long as needed and start at an odd address: the sanitizer sees every byte too many.
 */
static void compare_widening(
    void (*fast)(float *, const void *, uint64_t), void (*scalar)(float *, const void *, uint64_t))
{
    uint64_t state = 1;
    for (size_t l = 0; l < LENGTH_COUNT; l++) {
        uint64_t n = lengths[l];
        unsigned char *in = malloc(2 * n + 1);
        float *out = malloc((n + 1) * sizeof *out), *expected = malloc((n + 1) * sizeof *expected);
        REQUIRE(in && out && expected, NULL);
        for (uint64_t i = 0; i <= 2 * n; i++)
            in[i] = (unsigned char)testing_random(&state);
        fast(out + 1, in + 1, n);
        scalar(expected + 1, in + 1, n);
        CHECK(memcmp(out + 1, expected + 1, n * sizeof *out) == 0, NULL);
        free(in);
        free(out);
        free(expected);
    }
}

static void compare_narrowing(
    void (*fast)(void *, const float *, uint64_t), void (*scalar)(void *, const float *, uint64_t))
{
    uint64_t state = 2;
    for (size_t repeat = 0; repeat < 200 * LENGTH_COUNT; repeat++) {
        uint64_t n = lengths[repeat % LENGTH_COUNT];
        float *in = malloc((n + 1) * sizeof *in);
        unsigned char *out = malloc(2 * n + 1), *expected = malloc(2 * n + 1);
        REQUIRE(in && out && expected, NULL);
        for (uint64_t i = 0; i <= n; i++)
            in[i] = any_float(&state);
        fast(out + 1, in + 1, n);
        scalar(expected + 1, in + 1, n);
        CHECK(memcmp(out + 1, expected + 1, 2 * n) == 0, NULL);
        free(in);
        free(out);
        free(expected);
    }
}

static void conversions_give_the_same_bits(void)
{
    compare_widening(kernels()->f16_to_f32, kernels_scalar.f16_to_f32);
    compare_widening(kernels()->bf16_to_f32, kernels_scalar.bf16_to_f32);
    compare_narrowing(kernels()->f32_to_f16, kernels_scalar.f32_to_f16);
    compare_narrowing(kernels()->f32_to_bf16, kernels_scalar.f32_to_bf16);
}

static void every_half_gives_the_same_bits(void)
{
    enum { COUNT = 65536 };
    static uint16_t halves[COUNT], back[COUNT], expected_back[COUNT];
    static float out[COUNT], expected[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        halves[i] = (uint16_t)i;
    kernels()->f16_to_f32(out, halves, COUNT);
    kernels_scalar.f16_to_f32(expected, halves, COUNT);
    CHECK(memcmp(out, expected, sizeof out) == 0, NULL);
    kernels()->f32_to_f16(back, expected, COUNT);
    kernels_scalar.f32_to_f16(expected_back, expected, COUNT);
    CHECK(memcmp(back, expected_back, sizeof back) == 0, NULL);
}

/* Every sign, exponent and leading part of a fraction, followed by what rounding to 16 bits is about:
 * nothing, a half, and one bit less and more than a half. */
static void check_ties(void (*fast)(void *, const float *, uint64_t),
    void (*scalar)(void *, const float *, uint64_t), uint32_t dropped)
{
    enum { COUNT = 1024 };
    uint32_t half = 1u << (dropped - 1), tails[] = {0, half - 1, half, half + 1}, bits[COUNT];
    float in[COUNT];
    uint16_t out[COUNT], expected[COUNT];
    unsigned wrong = 0;
    for (uint32_t first = 0; first < 1u << (32 - dropped); first += COUNT / 4) {
        for (uint32_t i = 0; i < COUNT; i++)
            bits[i] = (first + i / 4) << dropped | tails[i % 4];
        memcpy(in, bits, sizeof in);
        fast(out, in, COUNT);
        scalar(expected, in, COUNT);
        wrong += memcmp(out, expected, sizeof out) != 0;
    }
    CHECK(wrong == 0, NULL);
}

static void ties_give_the_same_bits(void)
{
    check_ties(kernels()->f32_to_f16, kernels_scalar.f32_to_f16, 13);
    check_ties(kernels()->f32_to_bf16, kernels_scalar.f32_to_bf16, 16);
}

/* ---- dot products ---- */

static void check_dot(enum dtype dtype, void (*fast)(float *, const void *, const float *, uint64_t))
{
    const struct dtype_info *info = dtype_info(dtype);
    uint64_t state = 3;
    for (size_t l = 0; l < LENGTH_COUNT; l++) {
        uint64_t n = lengths[l];
        float weights[LONGEST], x[LONGEST + 1];
        unsigned char *stored = malloc(n * info->bytes + 1);
        REQUIRE(stored, NULL);
        for (uint64_t i = 0; i < n; i++) {
            weights[i] = testing_normal(&state) * (i % 5 == 0 ? 1e-3f : 1);
            x[i + 1] = i % 7 == 0 ? 0x1p-140f : testing_normal(&state);
        }
        info->encode(stored + 1, weights, n);
        info->decode(weights, stored + 1, n);
        double sum = 0, magnitude = 0;
        for (uint64_t i = 0; i < n; i++) {
            sum += (double)weights[i] * x[i + 1];
            magnitude += fabs((double)weights[i] * x[i + 1]);
        }
        float got;
        fast(&got, stored + 1, x + 1, n);
        CHECK(fabs(got - sum) <= 1e-6 * magnitude + 0x1p-149, NULL);
        free(stored);
    }
}

typedef void (*one_dot)(float *sum, const void *weights, const float *x, uint64_t n);
typedef void (*several_dots)(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n);

/* Rows and tokens in any number: each sum has the bits it has alone. Buffers are exactly as long as needed. */
static void compare_dots(
    enum dtype dtype, one_dot one, several_dots several, uint64_t rows, uint64_t tokens, uint64_t n)
{
    uint64_t state = n, bytes = n * dtype_info(dtype)->bytes;
    float *x = malloc((tokens > rows ? tokens : rows) * n * sizeof *x);
    float *sums = malloc(rows * tokens * sizeof *sums);
    uint8_t *weights = malloc(rows * bytes);
    REQUIRE(weights && x && sums, NULL);
    for (uint64_t i = 0; i < rows * n; i++)
        x[i] = testing_normal(&state);
    dtype_info(dtype)->encode(weights, x, rows * n);
    for (uint64_t i = 0; i < tokens * n; i++)
        x[i] = testing_normal(&state);
    several(sums, weights, rows, x, tokens, n);
    for (uint64_t i = 0; i < rows * tokens; i++) {
        float alone;
        one(&alone, weights + i % rows * bytes, x + i / rows * n, n);
        CHECK(memcmp(&sums[i], &alone, sizeof alone) == 0, NULL);
    }
    free(weights);
    free(x);
    free(sums);
}

static void dots_of_several_have_the_bits_of_one(void)
{
    const struct kernels *k = kernels();
    for (size_t l = 1; l < LENGTH_COUNT; l++) {
        for (uint64_t rows = 1; rows <= 3; rows++) {
            for (uint64_t tokens = 1; tokens <= 13; tokens++) {
                compare_dots(DTYPE_F32, k->dot_f32, k->dots_f32, rows, tokens, lengths[l]);
                compare_dots(DTYPE_F16, k->dot_f16, k->dots_f16, rows, tokens, lengths[l]);
                compare_dots(DTYPE_BF16, k->dot_bf16, k->dots_bf16, rows, tokens, lengths[l]);
            }
        }
    }
}

static void dots_are_close(void)
{
    check_dot(DTYPE_F32, kernels()->dot_f32);
    check_dot(DTYPE_F16, kernels()->dot_f16);
    check_dot(DTYPE_BF16, kernels()->dot_bf16);
}

/* ---- the grid ---- */

static void extremes_are_found(void)
{
    uint64_t state = 4;
    for (size_t l = 1; l < LENGTH_COUNT; l++) {
        uint64_t group = lengths[l], groups = 3;
        float *weights = malloc(groups * group * sizeof *weights), low[3], high[3];
        REQUIRE(weights, NULL);
        for (uint64_t i = 0; i < groups * group; i++)
            weights[i] = testing_normal(&state);
        kernels()->group_extremes(low, high, weights, groups, group);
        for (uint64_t g = 0; g < groups; g++) {
            float least = weights[g * group], greatest = least;
            for (uint64_t i = 0; i < group; i++) {
                least = fminf(least, weights[g * group + i]);
                greatest = fmaxf(greatest, weights[g * group + i]);
            }
            CHECK(low[g] == least && high[g] == greatest, NULL);
        }
        free(weights);
    }
}

static void one_bad_weight_makes_its_group_nan(void)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t l = 1; l < LENGTH_COUNT; l++) {
        for (uint64_t at = 0; at < lengths[l]; at++) {
            float weights[2 * LONGEST] = {0}, low[2], high[2];
            weights[lengths[l] + at] = bad[at % 3];
            kernels()->group_extremes(low, high, weights, 2, lengths[l]);
            CHECK(low[0] == 0 && high[0] == 0 && isnan(low[1]) && isnan(high[1]), NULL);
        }
    }
}

/* A weight that often lies exactly between two codes, or far outside. */
static float hard_weight(uint64_t *state)
{
    switch (testing_random(state) % 4) {
    case 0:
        return (float)((int)(testing_random(state) % 40) - 20) / 2;
    case 1:
        return testing_normal(state) * 1e30f;
    case 2:
        return testing_normal(state) * 1e-42f;
    default:
        return testing_normal(state) * 4;
    }
}

static void codes_are_the_nearest(void)
{
    uint64_t state = 5;
    for (size_t repeat = 0; repeat < 50 * LENGTH_COUNT; repeat++) {
        uint64_t group = lengths[repeat % LENGTH_COUNT], groups = 3;
        float *weights = malloc(groups * group * sizeof *weights);
        uint8_t *codes = malloc(groups * group);
        REQUIRE(weights && codes, NULL);
        float top = (float)((1 << (1 + repeat % 8)) - 1);
        const float inverses[] = {1, -0.37f, 0}, zeros[] = {0, floorf(top / 2), top};
        for (uint64_t i = 0; i < groups * group; i++)
            weights[i] = hard_weight(&state);
        kernels()->group_encode(codes, weights, groups, group, inverses, zeros, top);
        for (uint64_t i = 0; i < groups * group; i++) {
            float product =
                weights[i] * inverses[i / group]; /* in single precision: part of the definition */
            double code = rint((double)product) + zeros[i / group];
            CHECK(codes[i] == (uint8_t)fmin(fmax(code, 0), top), NULL);
        }
        free(weights);
        free(codes);
    }
}

static void fill_candidates(struct grid_candidates *candidates, uint64_t *state, uint64_t count)
{
    candidates->count = count;
    candidates->top = 15;
    for (uint64_t c = 0; c < count; c++) {
        candidates->scale[c] =
            0.02f * (1 + (float)(testing_random(state) % 50)) * (testing_random(state) % 2 ? 1 : -1);
        candidates->inverse[c] = 1 / candidates->scale[c];
        candidates->zero[c] = (float)(testing_random(state) % 16);
    }
}

static void searches_choose_the_same_candidate(void)
{
    static struct grid_candidates candidates;
    uint64_t state = 6;
    for (size_t repeat = 0; repeat < 20 * LENGTH_COUNT; repeat++) {
        uint64_t n = lengths[repeat % LENGTH_COUNT], chosen = 0, expected = 0;
        float weights[LONGEST], importance[LONGEST];
        fill_candidates(&candidates, &state, 8 * (1 + repeat % 88));
        for (uint64_t i = 0; i < n; i++) {
            weights[i] = testing_normal(&state);
            importance[i] = testing_random(&state) % 3 ? fabsf(testing_normal(&state)) : 0;
        }
        kernels()->grid_search(&chosen, &candidates, weights, NULL, n);
        kernels_scalar.grid_search(&expected, &candidates, weights, NULL, n);
        CHECK(chosen == expected, NULL);
        kernels()->grid_search(&chosen, &candidates, weights, importance, n);
        kernels_scalar.grid_search(&expected, &candidates, weights, importance, n);
        CHECK(chosen == expected, NULL);
    }
}

/* Equal errors, also in other lanes and other vectors, and errors that are all infinite. */
static void the_first_of_equals_wins(void)
{
    static struct grid_candidates candidates;
    float weights[LONGEST], importance[LONGEST];
    uint64_t state = 7, chosen = 99;
    for (int i = 0; i < LONGEST; i++) {
        weights[i] = testing_normal(&state);
        importance[i] = INFINITY;
    }
    fill_candidates(&candidates, &state, 32);
    for (int c = 0; c < 32; c++) { /* all are bad but 11, 14, 19 and 30, which are the same */
        bool good = c == 11 || c == 14 || c == 19 || c == 30;
        candidates.scale[c] = good ? 0.5f : 100.0f;
        candidates.inverse[c] = 1 / candidates.scale[c];
        candidates.zero[c] = 8;
    }
    kernels()->grid_search(&chosen, &candidates, weights, NULL, LONGEST);
    CHECK(chosen == 11, NULL);
    kernels()->grid_search(&chosen, &candidates, weights, importance, LONGEST);
    CHECK(chosen == 0, NULL);
}

/* ---- the cache ---- */

/* Buffers are exactly as long as needed: the sanitizer sees every byte too many. */
static void compare_cache_decoding(uint64_t size, uint64_t rows, bool centered, bool four)
{
    uint64_t groups = (size + CACHE_GROUP - 1) / CACHE_GROUP, bytes = rows * size / (four ? 2 : 1);
    uint64_t state = size;
    uint8_t *codes = malloc(bytes);
    uint16_t *scales = malloc(rows * groups * sizeof *scales), *center = malloc(size * sizeof *center);
    float *out = malloc(rows * size * sizeof *out), *expected = malloc(rows * size * sizeof *expected);
    REQUIRE(codes && scales && center && out && expected, NULL);
    for (uint64_t i = 0; i < bytes; i++)
        codes[i] = (uint8_t)testing_random(&state);
    for (uint64_t i = 0; i < rows * groups; i++)
        scales[i] = (uint16_t)(testing_random(&state) % 0x7c00 | (testing_random(&state) & 0x8000));
    for (uint64_t i = 0; i < size; i++)
        center[i] = (uint16_t)(testing_random(&state) % 0x7c00);
    (four ? kernels()->cache_decode4 : kernels()->cache_decode8)(
        out, codes, scales, centered ? center : NULL, rows, size);
    (four ? kernels_scalar.cache_decode4 : kernels_scalar.cache_decode8)(
        expected, codes, scales, centered ? center : NULL, rows, size);
    CHECK(memcmp(out, expected, rows * size * sizeof *out) == 0, NULL);
    free(codes);
    free(scales);
    free(center);
    free(out);
    free(expected);
}

static void cache_rows_decode_to_the_same_bits(void)
{
    for (uint64_t size = 2; size <= 130; size += 2) {
        for (unsigned way = 0; way < 4; way++)
            compare_cache_decoding(size, 1 + size % 3, way & 1, way & 2);
    }
}

/* Also groups of zeros, of equal numbers, and of numbers whose squares or scales vanish. */
static void cache_groups_encode_to_the_same_bits(void)
{
    uint64_t state = 8;
    for (unsigned repeat = 0; repeat < 4000; repeat++) {
        uint64_t n = repeat % 2 ? CACHE_GROUP : 2 + repeat / 2 % 16 * 2;
        uint8_t codes[CACHE_GROUP / 2], expected[CACHE_GROUP / 2];
        uint16_t scale, expected_scale;
        float *x = malloc(n * sizeof *x), extreme = 0;
        static const float factors[] = {1, 1e5f, 1e-4f, 1e-30f, 0};
        REQUIRE(x, NULL);
        for (uint64_t i = 0; i < n; i++) {
            x[i] = repeat % 7 ? testing_normal(&state) * factors[repeat % 5] : (float)(repeat % 3) - 1;
            if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
        }
        kernels()->cache_encode4(codes, &scale, x, n, extreme);
        kernels_scalar.cache_encode4(expected, &expected_scale, x, n, extreme);
        CHECK(scale == expected_scale && memcmp(codes, expected, n / 2) == 0, NULL);
        free(x);
    }
}

int main(void)
{
    testing_kernel_set();
    static const struct test_case cases[] = {
        {"unknown sets are refused", unknown_sets_are_refused},
        {"the named set is in use", the_named_set_is_in_use},
        {"conversions give the same bits", conversions_give_the_same_bits},
        {"every half gives the same bits", every_half_gives_the_same_bits},
        {"ties give the same bits", ties_give_the_same_bits},
        {"dots are close", dots_are_close},
        {"dots of several have the bits of one", dots_of_several_have_the_bits_of_one},
        {"extremes are found", extremes_are_found},
        {"one bad weight makes its group NaN", one_bad_weight_makes_its_group_nan},
        {"codes are the nearest", codes_are_the_nearest},
        {"searches choose the same candidate", searches_choose_the_same_candidate},
        {"the first of equals wins", the_first_of_equals_wins},
        {"cache rows decode to the same bits", cache_rows_decode_to_the_same_bits},
        {"cache groups encode to the same bits", cache_groups_encode_to_the_same_bits},
    };
    return TESTING_RUN("kernels", cases);
}
