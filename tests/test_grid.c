/* The quantization grid: what a fit promises, for every width, both kinds and both searches. */
#include "tensor/grid.h"

#include <math.h>
#include <string.h>

#include "tensor/kernels/kernels.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
enum { WIDTH_COUNT = 6, GROUP = 32 };

static float value_of(struct grid grid, uint8_t code)
{
    return dtype_f16_to_f32(grid.scale) * (float)(code - grid.zero);
}

/* Sum of importance * (weight - what it decodes to)^2. */
static double error_of(
    struct grid grid, const float *weights, const float *importance, uint64_t count, uint32_t bits)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t code;
        grid_encode(&code, weights + i, 1, grid, bits);
        double difference = (double)weights[i] - value_of(grid, code);
        sum += difference * difference * (importance ? importance[i] : 1);
    }
    return sum;
}

static void fill(float *weights, uint64_t count, uint64_t *state)
{
    for (uint64_t i = 0; i < count; i++)
        weights[i] = testing_normal(state) * 0.05f;
}

/* Run `check` for every width, symmetric and not, min-max and search. */
static void for_every_fit(void (*check)(uint32_t bits, bool asymmetric, enum grid_range range))
{
    for (int w = 0; w < WIDTH_COUNT; w++) {
        for (int kind = 0; kind < 4; kind++)
            check(widths[w], kind & 1, kind & 2 ? GRID_MSE : GRID_MINMAX);
    }
}

/* ---- special groups ---- */

static void check_zeros(uint32_t bits, bool asymmetric, enum grid_range range)
{
    float weights[GROUP] = {0}, decoded[GROUP];
    uint8_t codes[GROUP];
    struct grid grid;
    weights[3] = -0.0f;
    CHECK(grid_fit(&grid, weights, NULL, GROUP, bits, asymmetric, range), NULL);
    CHECK(grid.scale == 0, NULL);
    grid_encode(codes, weights, GROUP, grid, bits);
    grid_decode(decoded, codes, GROUP, grid);
    for (int i = 0; i < GROUP; i++)
        CHECK(codes[i] == grid.zero && decoded[i] == 0, NULL);
}

static void zeros_stay_zero(void)
{
    for_every_fit(check_zeros);
}

/* The middle of the grid is off by at most half a step; at its ends a code more or less may be missing. */
static void check_round_trip(uint32_t bits, bool asymmetric, enum grid_range range)
{
    uint64_t state = bits;
    for (int repeat = 0; repeat < 50 && range == GRID_MINMAX; repeat++) {
        float weights[GROUP];
        fill(weights, GROUP, &state);
        if (repeat % 3 == 1) weights[repeat % GROUP] = 1000; /* one huge weight */
        for (int i = 0; repeat % 3 == 2 && i < GROUP; i++)
            weights[i] = weights[0]; /* a constant group */
        struct grid grid;
        REQUIRE(grid_fit(&grid, weights, NULL, GROUP, bits, asymmetric, range), NULL);
        float step = fabsf(dtype_f16_to_f32(grid.scale));
        for (int i = 0; i < GROUP; i++) {
            uint8_t code, again;
            grid_encode(&code, weights + i, 1, grid, bits);
            float value = value_of(grid, code);
            CHECK(fabsf(value - weights[i]) <= 1.2f * step, NULL);
            if (code > 0 && code < (1u << bits) - 1) CHECK(fabsf(value - weights[i]) <= 0.501f * step, NULL);
            grid_encode(&again, &value, 1, grid, bits);
            CHECK(again == code, NULL);
        }
        if (repeat % 3 == 1) { /* it is met up to the rounding of the scale; the others vanish in it */
            uint8_t code;
            grid_encode(&code, weights + repeat % GROUP, 1, grid, bits);
            CHECK(fabsf(value_of(grid, code) - 1000) <= 1000 * 0x1p-11f, NULL);
        }
    }
}

static void weights_come_back_within_a_step(void)
{
    for_every_fit(check_round_trip);
}

static void the_extreme_has_the_full_range(void)
{
    struct grid grid;
    CHECK(grid_fit(&grid, (float[]){0.5f, -4, 3}, NULL, 3, 4, false, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == 0.5f && grid.zero == 8, NULL);
    CHECK(grid_fit(&grid, (float[]){0.5f, 4, -3}, NULL, 3, 4, false, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == -0.5f && grid.zero == 8, NULL);
    /* the first of equals */
    CHECK(grid_fit(&grid, (float[]){0, 4, -4, 4}, NULL, 4, 4, false, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == -0.5f, NULL);
    CHECK(grid_fit(&grid, (float[]){0, -4, 4, 4}, NULL, 4, 4, false, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == 0.5f, NULL);
}

static void asymmetric_ranges_contain_zero(void)
{
    struct grid grid;
    CHECK(grid_fit(&grid, (float[]){1, 2, 3}, NULL, 3, 2, true, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == 1 && grid.zero == 0, NULL);
    CHECK(grid_fit(&grid, (float[]){-1, -2, -3}, NULL, 3, 2, true, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == 1 && grid.zero == 3, NULL);
    CHECK(grid_fit(&grid, (float[]){-1, 1, 2}, NULL, 3, 2, true, GRID_MINMAX), NULL);
    CHECK(dtype_f16_to_f32(grid.scale) == 1 && grid.zero == 1, NULL);
}

static void check_subnormals(uint32_t bits, bool asymmetric, enum grid_range range)
{
    const float magnitudes[] = {1e-3f, 1e-5f, 1e-6f, 1e-7f, 1e-8f, 1e-20f, 1e-40f};
    for (size_t m = 0; m < sizeof magnitudes / sizeof *magnitudes; m++) {
        uint64_t state = 9;
        float weights[GROUP], decoded[GROUP];
        uint8_t codes[GROUP];
        struct grid grid;
        for (int i = 0; i < GROUP; i++)
            weights[i] = testing_normal(&state) * magnitudes[m];
        CHECK(grid_fit(&grid, weights, NULL, GROUP, bits, asymmetric, range), NULL);
        CHECK(grid.scale != 0x8000, NULL);
        grid_encode(codes, weights, GROUP, grid, bits);
        grid_decode(decoded, codes, GROUP, grid);
        for (int i = 0; i < GROUP; i++)
            CHECK(isfinite(decoded[i]) && codes[i] < 1u << bits, NULL);
    }
}

static void tiny_weights_are_accepted(void)
{
    for_every_fit(check_subnormals);
    /* The scale 1.4 * 2^-24 becomes 2^-24; the zero-point stays a code all the same. */
    struct grid grid;
    CHECK(grid_fit(&grid, (float[]){-255 * 1.4f * 0x1p-24f}, NULL, 1, 8, true, GRID_MINMAX), NULL);
    CHECK(grid.scale == 1 && grid.zero == 255, NULL);
}

/* ---- codes ---- */

/* For every scale there is: what a code decodes to is encoded as that code. */
static void decoded_values_encode_to_their_codes(void)
{
    uint8_t codes[256], back[256];
    float values[256];
    unsigned wrong = 0;
    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    for (uint32_t half = 0; half < 65536; half++) {
        if ((half & 0x7fff) == 0 || (half & 0x7c00) == 0x7c00) continue;
        struct grid grid = {(uint16_t)half, (uint8_t)(half * 7)};
        grid_decode(values, codes, 256, grid);
        grid_encode(back, values, 256, grid, 8);
        wrong += memcmp(codes, back, sizeof codes) != 0;
    }
    CHECK(wrong == 0, NULL);
}

/* ---- search ---- */

static void check_search(uint32_t bits, bool asymmetric, enum grid_range range)
{
    uint64_t state = 10 + bits, better = 0;
    for (int repeat = 0; repeat < 20 && range == GRID_MSE; repeat++) {
        float weights[GROUP], importance[GROUP];
        const float *weighting = repeat % 2 ? importance : NULL;
        fill(weights, GROUP, &state);
        for (int i = 0; i < GROUP; i++)
            importance[i] = fabsf(testing_normal(&state));
        struct grid minmax, best;
        CHECK(grid_fit(&minmax, weights, weighting, GROUP, bits, asymmetric, GRID_MINMAX), NULL);
        CHECK(grid_fit(&best, weights, weighting, GROUP, bits, asymmetric, GRID_MSE), NULL);
        double before = error_of(minmax, weights, weighting, GROUP, bits);
        double after = error_of(best, weights, weighting, GROUP, bits);
        CHECK(after <= before * (1 + 1e-6), NULL);
        better += after < before;
    }
    if (range == GRID_MSE) CHECK(better >= 10, NULL);
}

static void a_search_is_never_worse_than_minmax(void)
{
    for_every_fit(check_search);
}

static void check_importance(uint32_t bits, bool asymmetric, enum grid_range range)
{
    uint64_t state = 20 + bits, better = 0;
    for (int repeat = 0; repeat < 20 && range == GRID_MSE; repeat++) {
        float weights[GROUP], importance[GROUP];
        int matters = repeat % GROUP;
        fill(weights, GROUP, &state);
        for (int i = 0; i < GROUP; i++)
            importance[i] = i == matters ? 1e4f : 1;
        struct grid plain, weighted;
        CHECK(grid_fit(&plain, weights, NULL, GROUP, bits, asymmetric, GRID_MSE), NULL);
        CHECK(grid_fit(&weighted, weights, importance, GROUP, bits, asymmetric, GRID_MSE), NULL);
        double without = error_of(plain, weights + matters, NULL, 1, bits);
        double with = error_of(weighted, weights + matters, NULL, 1, bits);
        CHECK(error_of(weighted, weights, importance, GROUP, bits) <=
                  error_of(plain, weights, importance, GROUP, bits) * (1 + 1e-6),
            NULL);
        better += with < without;
    }
    if (range == GRID_MSE) CHECK(better >= 10, NULL);
}

static void importance_is_respected(void)
{
    for_every_fit(check_importance);
}

/* An outlier without importance does not hold the scale up. */
static void unimportant_outliers_are_cut(void)
{
    float weights[GROUP], importance[GROUP];
    uint64_t state = 30;
    fill(weights, GROUP, &state);
    for (int i = 0; i < GROUP; i++)
        importance[i] = 1;
    weights[5] = 0.5f;
    importance[5] = 0;
    struct grid plain, weighted;
    CHECK(grid_fit(&plain, weights, NULL, GROUP, 4, false, GRID_MINMAX), NULL);
    CHECK(grid_fit(&weighted, weights, importance, GROUP, 4, false, GRID_MSE), NULL);
    CHECK(fabsf(dtype_f16_to_f32(weighted.scale)) < 0.6f * fabsf(dtype_f16_to_f32(plain.scale)), NULL);
}

/* ---- whole rows ---- */

struct rows {
    uint64_t rows, cols, group;
};
static const struct rows shapes[] = {{1, 1, 1}, {3, 7, 7}, {2, 256, 32}, {3, 80, 16}, {5, 96, 48},
    {4, 172, 172}, {2, 2050, 2050}, {1, 4096, 32}};

/* Everything that quantizing a matrix gives, as one piece of memory to compare. */
struct result {
    uint8_t codes[5 * 4096], zeros[512];
    uint16_t scales[512];
};

static void quantize(struct result *out, const float *weights, const float *importance, struct rows shape,
    struct scheme scheme, enum grid_range range)
{
    struct error err = {0};
    uint64_t fault_row, fault_col;
    memset(out, 0, sizeof *out);
    REQUIRE(grid_quantize_rows(out->codes, out->scales, scheme.asymmetric ? out->zeros : NULL, weights,
                shape.rows, shape.cols, scheme, range, importance, &fault_row, &fault_col, &err) == OK,
        &err);
}

/* Weights of all magnitudes, with some zeros and ties. */
static void fill_hard(float *weights, uint64_t count, uint64_t *state)
{
    fill(weights, count, state);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t kind = testing_random(state) % 16;
        if (kind == 0) weights[i] = 0;
        if (kind == 1) weights[i] = -weights[i / 2];
        if (kind == 2) weights[i] *= 1e-6f;
        if (kind == 3 && i % 64 == 0) weights[i] *= 50;
    }
}

static void check_rows(uint32_t bits, bool asymmetric, enum grid_range range)
{
    static float weights[5 * 4096], importance[4096];
    static struct result scalar, fast;
    const char *name = kernels()->name;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct rows shape = shapes[s];
        struct scheme scheme = {bits, (uint32_t)shape.group, asymmetric};
        uint64_t state = s + bits;
        const float *weighting = s & 1 ? importance : NULL;
        fill_hard(weights, shape.rows * shape.cols, &state);
        for (uint64_t i = 0; i < shape.cols; i++)
            importance[i] = fabsf(testing_normal(&state));
        quantize(&fast, weights, weighting, shape, scheme, range);
        REQUIRE(kernels_select("scalar", NULL) == OK, NULL);
        quantize(&scalar, weights, weighting, shape, scheme, range);
        REQUIRE(kernels_select(name, NULL) == OK, NULL);
        CHECK(memcmp(&scalar, &fast, sizeof scalar) == 0, NULL);
        for (uint64_t g = 0; g < shape.rows * shape.cols / shape.group; g++) { /* a group alone is the same */
            uint8_t codes[4096];
            struct grid grid;
            const float *part = weighting ? weighting + g * shape.group % shape.cols : NULL;
            CHECK(
                grid_fit(&grid, weights + g * shape.group, part, shape.group, bits, asymmetric, range), NULL);
            CHECK(grid.scale == fast.scales[g] && (!asymmetric || grid.zero == fast.zeros[g]), NULL);
            grid_encode(codes, weights + g * shape.group, shape.group, grid, bits);
            CHECK(memcmp(codes, fast.codes + g * shape.group, shape.group) == 0, NULL);
        }
    }
}

static void rows_are_groups_and_every_set_agrees(void)
{
    for_every_fit(check_rows);
}

/* The refusal names the weight. */
static void check_refusal(float bad, const char *word)
{
    static const struct rows shape = {2, 3200, 32}; /* more than a batch of groups */
    static float weights[2 * 3200];
    static struct result result;
    const uint64_t places[] = {0, 31, 32, 2047, 2048, 3199, 3200, 6399};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
            struct scheme scheme = {4, 32, asymmetric};
            struct error err = {0};
            uint64_t row = 99, col = 99;
            weights[places[p]] = bad;
            CHECK(grid_quantize_rows(result.codes, result.scales, asymmetric ? result.zeros : NULL, weights,
                      shape.rows, shape.cols, scheme, GRID_MINMAX, NULL, &row, &col, &err) == ERR_NUMERIC,
                &err);
            CHECK(row == places[p] / shape.cols && col == places[p] % shape.cols, &err);
            CHECK(strstr(err.text, word) != NULL, &err);
            weights[places[p]] = 0;
        }
    }
}

static void bad_weights_are_refused_by_name(void)
{
    check_refusal(NAN, "NaN");
    check_refusal(INFINITY, "infinite");
    check_refusal(-INFINITY, "infinite");
    check_refusal(1e6f, "half precision");
    check_refusal(-3e38f, "half precision");
}

static void scales_fill_half_precision(void)
{
    struct grid grid;
    CHECK(grid_fit(&grid, (float[]){65504.0f * 8}, NULL, 1, 4, false, GRID_MSE), NULL);
    CHECK(!grid_fit(&grid, (float[]){65520.0f * 8}, NULL, 1, 4, false, GRID_MSE), NULL);
    CHECK(grid_fit(&grid, (float[]){65504.0f * 15}, NULL, 1, 4, true, GRID_MSE), NULL);
    CHECK(!grid_fit(&grid, (float[]){65520.0f * 15}, NULL, 1, 4, true, GRID_MSE), NULL);
    CHECK(!grid_fit(&grid, (float[]){3e38f, -3e38f}, NULL, 2, 8, true, GRID_MINMAX), NULL);
}

int main(void)
{
    testing_kernel_set();
    static const struct test_case cases[] = {
        {"zeros stay zero", zeros_stay_zero},
        {"weights come back within a step", weights_come_back_within_a_step},
        {"the extreme has the full range", the_extreme_has_the_full_range},
        {"asymmetric ranges contain zero", asymmetric_ranges_contain_zero},
        {"tiny weights are accepted", tiny_weights_are_accepted},
        {"decoded values encode to their codes", decoded_values_encode_to_their_codes},
        {"a search is never worse than min-max", a_search_is_never_worse_than_minmax},
        {"importance is respected", importance_is_respected},
        {"unimportant outliers are cut", unimportant_outliers_are_cut},
        {"rows are groups and every set agrees", rows_are_groups_and_every_set_agrees},
        {"bad weights are refused by name", bad_weights_are_refused_by_name},
        {"scales fill half precision", scales_fill_half_precision},
    };
    return TESTING_RUN("grid", cases);
}
