/* Fitting blocks: never worse than the textbook's rounding nor than llama.cpp's quantizers, the nearest codes, the same bytes for every
 * kernel set and however blocks come, and everything that weights can do to it. */
#include "tensor/block_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

enum { ROWS = 32, COLS = 256 };

#define EACH_TYPE(type)                                                                                      \
    enum block_type type = BLOCK_NONE + 1;                                                                   \
    type < BLOCK_COUNT;                                                                                      \
    type++

/* Normal weights with an outlier in each 37; importance as of squared activations. The golden errors below hold for these. */
static void fill(float *weights, float *importance, uint64_t seed)
{
    uint64_t state = seed;
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        weights[i] = testing_normal(&state) * (i % 37 == 5 ? 0.0625f : 0.015625f);
    for (uint32_t i = 0; i < COLS; i++) {
        const float root = testing_normal(&state);
        importance[i] = 0.125f + root * root;
    }
}

static double error_of(const float *weights, const float *values, const float *importance, uint32_t count)
{
    double error = 0;
    for (uint32_t i = 0; i < count; i++) {
        const double rest = (double)weights[i] - (double)values[i];
        error += rest * rest * (importance ? (double)importance[i % COLS] : 1);
    }
    return error;
}

static double error_of_parts(
    enum block_type type, const struct block_parts *parts, const float *weights, const float *importance)
{
    float values[BLOCK_WEIGHTS_MOST];
    block_parts_values(values, type, parts);
    return error_of(weights, values, importance, block_form(type)->weights);
}

static float level_of(const struct block_form *form, uint32_t code)
{
    return form->levels ? (float)form->levels[code] : (float)((int32_t)code + form->lowest);
}

/* Every code tried for every weight. */
static void nearest_codes(struct block_parts *parts, enum block_type type, const float *weights)
{
    const struct block_form *form = block_form(type);
    for (uint32_t i = 0; i < form->weights; i++) {
        const struct block_line line = block_parts_line(type, parts, i / form->sub);
        double least = INFINITY;
        for (uint32_t code = 0; code < form->codes; code++) {
            const double value = (double)line.step * (double)level_of(form, code) + (double)line.offset;
            if (!(fabs(value - (double)weights[i]) < least)) continue;
            least = fabs(value - (double)weights[i]);
            parts->codes[i] = (uint8_t)code;
        }
    }
}

/* The textbook: a sub-block's step from its extremes, d from the largest step, everything rounded to nearest. */
static void reference(struct block_parts *parts, enum block_type type, const float *weights)
{
    const struct block_form *form = block_form(type);
    float steps[BLOCK_SUBS_MOST], offsets[BLOCK_SUBS_MOST], step = 0, offset = 0;
    for (uint32_t sub = 0; sub < form->subs; sub++) {
        float low = 0, high = 0;
        for (uint32_t i = sub * form->sub; i < (sub + 1) * form->sub; i++) {
            low = fminf(low, weights[i]);
            high = fmaxf(high, weights[i]);
        }
        const float extreme = -low > high ? low : high;
        steps[sub] = form->offset ? (high - low) / (float)(form->codes - 1) : extreme / level_of(form, 0);
        offsets[sub] = form->offset ? low : 0;
        if (fabsf(steps[sub]) > fabsf(step)) step = steps[sub];
        offset = fminf(offset, offsets[sub]);
    }
    const bool integers = form->scale_least != form->scale_most;
    memset(parts, 0, sizeof *parts);
    const int32_t end = form->scale_least < 0 ? form->scale_least : form->scale_most;
    parts->d = dtype_f32_to_f16(step / (float)end);
    parts->m = dtype_f32_to_f16(form->min_most ? -offset / (float)form->min_most : offset);
    const float d = dtype_f16_to_f32(parts->d), m = dtype_f16_to_f32(parts->m);
    for (uint32_t sub = 0; sub < form->subs; sub++) {
        const float scale = d != 0 ? rintf(steps[sub] / d) : 0, min = m != 0 ? rintf(-offsets[sub] / m) : 0;
        parts->scale[sub] =
            integers ? (int16_t)fminf(fmaxf(scale, (float)form->scale_least), (float)form->scale_most) : 1;
        parts->min[sub] = form->min_most ? (uint8_t)fminf(min, (float)form->min_most) : 0;
    }
    nearest_codes(parts, type, weights);
}

/* What counts without importance: a weight's magnitude and the mean of its sub-block. */
static void own_importance(float *out, const float *weights, const struct block_form *form)
{
    for (uint32_t sub = 0; sub < form->weights; sub += form->sub) {
        float sum = 0;
        for (uint32_t i = sub; i < sub + form->sub; i++)
            sum += fabsf(weights[i]);
        for (uint32_t i = sub; i < sub + form->sub; i++)
            out[i] = fabsf(weights[i]) + sum / (float)form->sub;
    }
}

/* Block by block within 2 % of rounding, and all of them better: in the error that counts, and in the plain one. Q8_0 without importance
 * is hardly searched: its extreme weight has level -128 and not 127, and one line is fitted. */
static void better_than_the_textbook(void)
{
    float weights[ROWS * COLS], importance[COLS], own[BLOCK_WEIGHTS_MOST];
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        for (uint64_t seed = 1; seed <= 2; seed++) {
            fill(weights, importance, seed);
            double ours[2] = {0}, theirs[2] = {0}, worst = 0;
            for (uint32_t i = 0; i < ROWS * COLS; i += form->weights) {
                const float *given = seed == 2 ? importance + i % COLS : NULL;
                struct block_parts parts, plain;
                CU_ASSERT(block_fit(&parts, type, weights + i, given));
                reference(&plain, type, weights + i);
                own_importance(own, weights + i, form);
                const float *counts = given ? given : own;
                const double one = error_of_parts(type, &parts, weights + i, counts);
                const double other = error_of_parts(type, &plain, weights + i, counts);
                worst = fmax(worst, one / other);
                ours[0] += one;
                theirs[0] += other;
                ours[1] += error_of_parts(type, &parts, weights + i, given);
                theirs[1] += error_of_parts(type, &plain, weights + i, given);
            }
            const bool quick = type == BLOCK_Q8_0 && seed == 1;
            const bool holds = worst <= 1.02 && ours[0] <= (quick ? 0.99 : 0.95) * theirs[0] &&
                               ours[1] <= (quick ? 0.99 : 0.97) * theirs[1];
            if (!holds)
                printf("%s: worst %g, all %g, plain %g\n", block_info(type)->name, worst, ours[0] / theirs[0],
                    ours[1] / theirs[1]);
            CU_ASSERT(holds);
        }
    }
}

/* Squared errors of llama.cpp's quantizers (commit 3af988fab, quantize_q4_0 and the others of ggml-quants.c, called through
 * libggml-base) on fill(.., 1): without an importance matrix, the plain error; with it, the weighted one. */
static const struct golden {
    enum block_type type;
    double plain, weighted;
} golden[] = {
    {BLOCK_Q4_0, 3.767242e-02, 2.977897e-02},
    {BLOCK_Q4_1, 2.287025e-02, 1.358039e-02},
    {BLOCK_Q5_0, 9.709317e-03, 7.862068e-03},
    {BLOCK_Q5_1, 5.271849e-03, 3.272844e-03},
    {BLOCK_Q8_0, 1.490026e-04, 1.353384e-04},
    {BLOCK_Q2_K, 2.996942e-01, 1.761225e-01},
    {BLOCK_Q3_K, 9.592240e-02, 7.219519e-02},
    {BLOCK_Q4_K, 1.945519e-02, 1.436050e-02},
    {BLOCK_Q5_K, 4.960699e-03, 4.013198e-03},
    {BLOCK_Q6_K, 1.344347e-03, 1.069350e-03},
    {BLOCK_IQ4_NL, 2.486675e-02, 2.001405e-02},
    {BLOCK_IQ4_XS, 2.542669e-02, 2.074351e-02},
};

static void not_worse_than_llama_cpp(void)
{
    float weights[ROWS * COLS], importance[COLS], values[ROWS * COLS];
    uint8_t out[ROWS * COLS * 2];
    uint64_t row, col;
    fill(weights, importance, 1);
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        for (int weighted = 0; weighted < 2; weighted++) {
            const float *part = weighted ? importance : NULL;
            CU_ASSERT(block_fit_rows(out, golden[i].type, weights, ROWS, COLS, part, &row, &col));
            blocks_decode(values, golden[i].type, out, 0, ROWS * COLS);
            const double ratio = error_of(weights, values, part, ROWS * COLS) /
                                 (weighted ? golden[i].weighted : golden[i].plain);
            if (!(ratio <= 1)) printf("%s: %.4f of llama.cpp's\n", block_info(golden[i].type)->name, ratio);
            CU_ASSERT(ratio <= 1 && ratio > 0.5);
        }
    }
    CU_ASSERT_EQUAL(sizeof golden / sizeof *golden, 12);
}

/* ---- the pieces ---- */

static void codes_are_the_nearest(void)
{
    float weights[ROWS * COLS], importance[COLS];
    fill(weights, importance, 3);
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        for (uint32_t i = 0; i < ROWS * COLS; i += form->weights) {
            struct block_parts parts, nearest;
            CU_ASSERT(block_fit(&parts, type, weights + i, NULL));
            nearest = parts;
            nearest_codes(&nearest, type, weights + i);
            const double ours = error_of_parts(type, &parts, weights + i, NULL);
            CU_ASSERT(ours <= error_of_parts(type, &nearest, weights + i, NULL) * (1 + 1e-5));
            for (uint32_t sub = 0; sub < form->subs; sub++)
                block_fit_codes(&nearest, type, sub, weights + i + sub * form->sub);
            CU_ASSERT(memcmp(nearest.codes, parts.codes, form->weights) == 0);
        }
    }
}

/* A sub-block anew, from a d that was fitted and scales that were not: nothing else changes, and the error is about that of the
 * whole fit. */
static void sub_blocks(void)
{
    float weights[ROWS * COLS], importance[COLS];
    fill(weights, importance, 4);
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form || form->subs == 1) continue;
        double sums[2] = {0};
        for (uint32_t i = 0; i < ROWS * COLS; i += form->weights) {
            struct block_parts fitted, parts;
            CU_ASSERT(block_fit(&fitted, type, weights + i, importance));
            parts = fitted;
            for (uint32_t sub = 0; sub < form->subs; sub++) {
                struct block_parts before = parts;
                before.scale[sub] = (int16_t)(form->scale_most / 2);
                before.min[sub] = 0;
                memset(before.codes + sub * form->sub, 1, form->sub);
                parts = before;
                block_fit_sub(
                    &parts, 1, type, sub, weights + i + sub * form->sub, 1, importance + sub * form->sub);
                before.scale[sub] = parts.scale[sub];
                before.min[sub] = parts.min[sub];
                memcpy(before.codes + sub * form->sub, parts.codes + sub * form->sub, form->sub);
                CU_ASSERT(memcmp(&before, &parts, sizeof parts) == 0);
            }
            sums[0] += error_of_parts(type, &parts, weights + i, importance);
            sums[1] += error_of_parts(type, &fitted, weights + i, importance);
        }
        CU_ASSERT(sums[0] <= 1.01 * sums[1]);
    }
}

/* Rows of one, three and more blocks are their blocks one by one. */
static void rows_are_their_blocks(void)
{
    float weights[ROWS * COLS], importance[COLS];
    uint8_t out[ROWS * COLS * 2], one[BLOCK_BYTES_MOST];
    fill(weights, importance, 5);
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        for (uint32_t blocks = 1; blocks <= (form->subs == 1 ? 8u : 1u); blocks += 2) {
            const uint64_t cols = (uint64_t)blocks * form->weights;
            const uint8_t *at = out;
            uint64_t row, col;
            CU_ASSERT(block_fit_rows(out, type, weights, 3, cols, importance, &row, &col));
            for (uint64_t i = 0; i < 3 * cols; i += form->weights, at += block_info(type)->bytes) {
                struct block_parts parts;
                CU_ASSERT(block_fit(&parts, type, weights + i, importance + i % cols));
                block_parts_put(one, type, &parts);
                CU_ASSERT(memcmp(one, at, block_info(type)->bytes) == 0);
            }
        }
    }
}

enum { COLUMN_ROWS = 19 };

/* Blocks of one place in many rows, and their sub-blocks, are what each of them is alone. */
static void check_column(enum block_type type, const float *weights, const float *importance)
{
    const struct block_form *form = block_form(type);
    struct block_parts column[2 * COLUMN_ROWS], one;
    float subs[COLUMN_ROWS * BLOCK_SUB_MOST];
    memset(column, 0, sizeof column);
    CU_ASSERT(block_fit_column(column, 2, type, weights, COLUMN_ROWS, importance) == COLUMN_ROWS);
    for (uint32_t row = 0; row < COLUMN_ROWS; row++) {
        memset(&one, 0, sizeof one);
        CU_ASSERT(block_fit(&one, type, weights + row * form->weights, importance));
        CU_ASSERT(memcmp(&one, &column[2 * row], sizeof one) == 0);
        for (uint32_t i = 0; i < form->sub; i++) /* a sub-block of other weights */
            subs[row * form->sub + i] = 0.75f * weights[(row + 1) * form->weights + i];
    }
    struct block_parts before[2 * COLUMN_ROWS];
    memcpy(before, column, sizeof before);
    block_fit_sub(column, 2, type, form->subs - 1, subs, COLUMN_ROWS, importance);
    for (uint32_t row = 0; row < COLUMN_ROWS; row++) {
        block_fit_sub(&before[2 * row], 1, type, form->subs - 1, subs + row * form->sub, 1, importance);
        CU_ASSERT(memcmp(&before[2 * row], &column[2 * row], sizeof one) == 0);
    }
}

static void columns_are_their_blocks(void)
{
    float weights[ROWS * COLS], importance[COLS];
    struct block_parts column[COLUMN_ROWS];
    fill(weights, importance, 8);
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        check_column(type, weights, importance);
        check_column(type, weights, NULL);
        for (uint32_t bad = 0; bad < COLUMN_ROWS; bad++) {
            float *weight = &weights[(bad + 1) * form->weights - 1], kept = *weight;
            *weight = 1e30f;
            CU_ASSERT(block_fit_column(column, 1, type, weights, COLUMN_ROWS, importance) == bad);
            *weight = kept;
        }
    }
}

/* The set in use against the scalar one; also with weights and importances of all sizes. */
static void the_same_bytes_for_every_set(void)
{
    float weights[ROWS * COLS], importance[COLS];
    uint8_t out[ROWS * COLS * 2], expected[ROWS * COLS * 2];
    struct error err = {0};
    char name[16];
    snprintf(name, sizeof name, "%s", kernels()->name);
    for (int round = 0; round < 4; round++) {
        uint64_t state = 99, row, col;
        fill(weights, importance, 6);
        for (uint32_t i = 0; round > 1 && i < ROWS * COLS; i++)
            weights[i] = ldexpf(weights[i], (int)(testing_random(&state) % 40) - 30);
        for (uint32_t i = 0; round > 1 && i < COLS; i++)
            importance[i] = ldexpf(importance[i], (int)(testing_random(&state) % 200) - 120);
        for (EACH_TYPE(type)) {
            if (!block_form(type)) continue;
            const uint64_t bytes =
                (uint64_t)ROWS * COLS / block_info(type)->weights * block_info(type)->bytes;
            const float *part = round % 2 ? importance : NULL;
            CU_ASSERT(block_fit_rows(out, type, weights, ROWS, COLS, part, &row, &col));
            CHECK(kernels_select("scalar", &err) == OK, &err);
            CU_ASSERT(block_fit_rows(expected, type, weights, ROWS, COLS, part, &row, &col));
            CHECK(kernels_select(name, &err) == OK, &err);
            CU_ASSERT(memcmp(out, expected, bytes) == 0);
        }
    }
}

/* ---- weights of every kind ---- */

static bool all_finite(const float *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* Error of a block of weights[i % 32] relative to the weights' squares; and the block's bytes hold what was fitted. */
static double relative_error(enum block_type type, const float pattern[32], const float *importance)
{
    float weights[BLOCK_WEIGHTS_MOST], values[BLOCK_WEIGHTS_MOST], again[BLOCK_WEIGHTS_MOST];
    uint8_t block[BLOCK_BYTES_MOST];
    struct block_parts parts;
    const uint32_t count = block_form(type)->weights;
    double squares = 0;
    for (uint32_t i = 0; i < count; i++) {
        weights[i] = pattern[i % 32];
        squares += (double)weights[i] * (double)weights[i];
    }
    CU_ASSERT(block_fit(&parts, type, weights, importance));
    block_parts_put(block, type, &parts);
    block_parts_values(values, type, &parts);
    block_info(type)->decode(again, block);
    CU_ASSERT(memcmp(values, again, count * sizeof *values) == 0);
    CU_ASSERT(all_finite(values, count));
    return error_of(weights, values, NULL, count) / (squares > 0 ? squares : 1);
}

static void strange_weights(void)
{
    float zero[32] = {0}, pattern[32], importance[BLOCK_WEIGHTS_MOST] = {0};
    for (EACH_TYPE(type)) {
        if (!block_form(type)) continue;
        const bool table = block_form(type)->levels; /* which has no level 0 */
        CU_ASSERT_EQUAL(relative_error(type, zero, NULL), 0);
        for (int sign = -1; sign <= 1; sign += 2) { /* all the same */
            for (int i = 0; i < 32; i++)
                pattern[i] = (float)sign * 0.7f;
            CU_ASSERT(relative_error(type, pattern, NULL) < 1e-4);
            CU_ASSERT(relative_error(type, pattern, importance) < 1e-4); /* no column matters */
            memset(pattern, 0, sizeof pattern);                          /* one alone */
            pattern[17] = (float)sign * 3.1f;
            CU_ASSERT(relative_error(type, pattern, NULL) < (table ? 2e-3 : 1e-4));
            for (int i = 0; i < 32; i++) /* one among small ones */
                pattern[i] = i == 9 ? (float)sign : 0.001f * (float)(i % 5 - 2);
            CU_ASSERT(relative_error(type, pattern, NULL) < (table ? 3e-3 : 1e-3));
        }
        for (int i = 0; i < 32; i++) /* no half precision number has d's size */
            pattern[i] = ldexpf((float)(i % 15 - 7), -23);
        CU_ASSERT(relative_error(type, pattern, NULL) < (table ? 0.2 : 0.1));
        for (int i = 0; i < 32; i++)
            pattern[i] = ldexpf((float)(i % 15 - 7), -140);
        CU_ASSERT_EQUAL(relative_error(type, pattern, NULL), 1); /* all 0 */
        memset(pattern, 0, sizeof pattern);
        pattern[0] = pattern[31] = -0.0f;
        CU_ASSERT_EQUAL(relative_error(type, pattern, NULL), 0);
    }
}

/* Columns without importance take what is left, those with it are met. */
static void importance_decides(void)
{
    float weights[ROWS * COLS], importance[COLS];
    fill(weights, importance, 7);
    for (uint32_t i = 0; i < COLS; i++)
        importance[i] = i % 8 == 0 ? 1e-30f : 0;
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        double with = 0, without = 0;
        for (uint32_t i = 0; i < ROWS * COLS; i += form->weights) {
            struct block_parts parts;
            CU_ASSERT(block_fit(&parts, type, weights + i, importance + i % COLS));
            with += error_of_parts(type, &parts, weights + i, importance + i % COLS);
            CU_ASSERT(block_fit(&parts, type, weights + i, NULL));
            without += error_of_parts(type, &parts, weights + i, importance + i % COLS);
        }
        CU_ASSERT(with < 0.8 * without);
    }
}

static void faults_have_a_place(void)
{
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    float weights[3 * COLS], importance[COLS], normal[ROWS * COLS];
    uint8_t out[3 * COLS * 2];
    uint64_t row, col;
    fill(normal, importance, 8);
    for (EACH_TYPE(type)) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        for (uint32_t i = 0; i < 3 * COLS; i += 41) {
            memcpy(weights, normal, sizeof weights);
            weights[i] = wrong[i % 3];
            CU_ASSERT(!block_fit_rows(out, type, weights, 3, COLS, NULL, &row, &col));
            CU_ASSERT(row == i / COLS && col == i % COLS);
            weights[i] = 1e13f; /* beyond half precision times every level */
            CU_ASSERT(!block_fit_rows(out, type, weights, 3, COLS, i % 2 ? importance : NULL, &row, &col));
            CU_ASSERT(row == i / COLS && col == i % COLS);
            weights[i] = 30000;
            CU_ASSERT(block_fit_rows(out, type, weights, 3, COLS, NULL, &row, &col));
            weights[i] = 3e38f;
            weights[i ^ 1] = -3e38f;
            CU_ASSERT(!block_fit_rows(out, type, weights, 3, COLS, NULL, &row, &col));
        }
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"better than the textbook", better_than_the_textbook},
        {"not worse than llama.cpp", not_worse_than_llama_cpp},
        {"codes are the nearest", codes_are_the_nearest},
        {"sub-blocks", sub_blocks},
        {"rows are their blocks", rows_are_their_blocks},
        {"columns are their blocks", columns_are_their_blocks},
        {"the same bytes for every kernel set", the_same_bytes_for_every_set},
        {"strange weights", strange_weights},
        {"importance decides", importance_decides},
        {"faults have a place", faults_have_a_place},
    };
    testing_kernel_set();
    return TESTING_RUN("block_fit", cases);
}
