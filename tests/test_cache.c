/* The quantized cache: how strips lie, how near the numbers come back, that positions alone decide what is stored, the rotation,
 * and the forward pass on it: token by token as at once, for any number of workers, after a truncation, and in how many bytes. */
#include "tensor/cache.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/forward.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

static struct pool *pool; /* of two workers, for all cases but the one about workers */

static const uint32_t sizes[] = {2, 6, 8, 16, 32, 34, 64, 80, 96, 128};
#define SIZE_COUNT (sizeof sizes / sizeof *sizes)
static const uint32_t widths[] = {8, 4};

/* ---- strips ---- */

static struct cache_layout layout_of(uint32_t bits, uint32_t size, uint64_t capacity, bool centered)
{
    struct cache_layout layout;
    struct error err = {0};

    REQUIRE(cache_layout(&layout, bits, size, capacity, centered, &err) == OK, &err);
    return layout;
}

/* A strip of exactly its bytes: the sanitizer sees every byte too many. */
static uint8_t *new_strip(const struct cache_layout *layout)
{
    uint8_t *strip = memory_new(1, layout->bytes, NULL);

    REQUIRE(strip, NULL);
    return strip;
}

/* Rows like keys: a large part that changes slowly, a small one at random. */
static float *key_rows(uint64_t rows, uint32_t size, uint64_t seed)
{
    float *x = memory_new(rows * size, sizeof *x, NULL);

    REQUIRE(x, NULL);
    for (uint64_t row = 0; row < rows; row++) {
        for (uint32_t i = 0; i < size; i++)
            x[row * size + i] =
                testing_normal(&seed) + 6 * cosf((float)i + (float)row / (float)(400 + 10 * (i % 7)));
    }
    return x;
}

/* Root mean square error of what is read back. */
static double error_of(const struct cache_layout *layout, const uint8_t *strip, const float *x, uint64_t rows)
{
    float *back = memory_new(rows * layout->size, sizeof *back, NULL);
    double sum = 0;

    REQUIRE(back, NULL);
    cache_read(layout, back, strip, 0, rows);
    for (uint64_t i = 0; i < rows * layout->size; i++)
        sum += ((double)back[i] - x[i]) * ((double)back[i] - x[i]);
    memory_free(back);
    return sqrt(sum / (double)(rows * layout->size));
}

static double written_error(uint32_t bits, uint32_t size, bool centered)
{
    enum { ROWS = 300 };
    struct cache_layout layout = layout_of(bits, size, ROWS, centered);
    uint8_t *strip = new_strip(&layout);
    float *x = key_rows(ROWS, size, size);
    struct error err = {0};
    double result;

    CHECK(cache_write(&layout, strip, 0, x, size, ROWS, &err) == OK, &err);
    result = error_of(&layout, strip, x, ROWS);
    memory_free(strip);
    memory_free(x);
    return result;
}

/* Rows have a standard deviation of about 4.4, about 1 of it at random; a group spans some 15. */
static void test_error(void)
{
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        double eight = written_error(8, sizes[i], false), four = written_error(4, sizes[i], false);
        double eight_centered = written_error(8, sizes[i], true),
               four_centered = written_error(4, sizes[i], true);

        CU_ASSERT_TRUE(eight < 0.03 && four < 0.45 && four > 4 * eight);
        if (sizes[i] >= 8) CU_ASSERT_TRUE(eight_centered < 0.7 * eight && four_centered < 0.7 * four);
    }
}

/* Codes by the definition of four bits: every level is found, and no other number is nearer. */
static void test_nearest(void)
{
    struct cache_layout layout = layout_of(4, 32, 1, false);
    uint8_t *strip = new_strip(&layout);
    uint64_t seed = 3;

    for (int turn = 0; turn < 500; turn++) {
        float x[32], back[32], step;
        struct error err = {0};
        uint16_t scale;

        for (int i = 0; i < 32; i++)
            x[i] = testing_normal(&seed) * (turn % 2 ? 1e-3f : 300);
        CHECK(cache_write(&layout, strip, 0, x, 32, 1, &err) == OK, &err);
        cache_read(&layout, back, strip, 0, 1);
        memcpy(&scale, strip + layout.scales_at, sizeof scale);
        dtype_info(DTYPE_F16)->decode(&step, &scale, 1);
        for (int i = 0; i < 32; i++) {
            float least = INFINITY;

            for (int k = 0; k < 16; k++)
                least = fminf(least, fabsf(x[i] - step / 16 * (float)cache_levels[k]));
            CU_ASSERT_TRUE(fabsf(x[i] - back[i]) <= least * 1.0001f);
        }
    }
    memory_free(strip);
}

/* The same bytes however the rows are spread over calls, and after rows were dropped and written again. */
static void check_calls(uint32_t bits, uint32_t size)
{
    enum { ROWS = 210 };
    struct cache_layout layout = layout_of(bits, size, ROWS, true);
    uint8_t *whole = new_strip(&layout), *parts = new_strip(&layout);
    float *x = key_rows(ROWS, size, 1), *other = key_rows(ROWS, size, 2), *back = key_rows(ROWS, size, 3),
          *piece = key_rows(ROWS, size, 4);
    struct error err = {0};
    uint64_t seed = bits;

    CHECK(cache_write(&layout, whole, 0, x, size, ROWS, &err) == OK, &err);
    for (uint64_t at = 0, count; at < ROWS; at += count) {
        count = 1 + testing_random(&seed) % 40;
        if (count > ROWS - at) count = ROWS - at;
        CHECK(cache_write(&layout, parts, at, other, size, ROWS - at, &err) == OK, &err);
        CHECK(cache_write(&layout, parts, at, x + at * size, size, count, &err) == OK, &err);
    }
    CU_ASSERT_EQUAL(memcmp(whole, parts, layout.bytes), 0);
    cache_read(&layout, back, whole, 0, ROWS);
    for (uint64_t at = 0; at < ROWS; at += 7) {
        uint64_t count = ROWS - at < 90 ? ROWS - at : 90;

        cache_read(&layout, piece, whole, at, count);
        CU_ASSERT_EQUAL(memcmp(piece, back + at * size, count * size * sizeof *back), 0);
    }
    memory_free(whole);
    memory_free(parts);
    memory_free(x);
    memory_free(other);
    memory_free(back);
    memory_free(piece);
}

static void test_calls(void)
{
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        check_calls(8, sizes[i]);
        check_calls(4, sizes[i]);
    }
}

static void check_special(const struct cache_layout *layout, float value, bool stays_bad)
{
    float x[3][64] = {{0}}, back[3][64];
    uint8_t *strip = new_strip(layout);
    struct error err = {0};

    x[1][40] = value;
    CHECK(cache_write(layout, strip, 0, x[0], 64, 3, &err) == OK, &err);
    cache_read(layout, back[0], strip, 0, 3);
    for (int i = 0; i < 64; i++) {
        CU_ASSERT_TRUE(back[0][i] == 0 && back[2][i] == 0); /* zeros are exact */
        if (i < 32) CU_ASSERT_TRUE(back[1][i] == 0);
        if (i >= 32) CU_ASSERT_TRUE(stays_bad ? isnan(back[1][i]) : isfinite(back[1][i]));
    }
    memory_free(strip);
}

static void test_specials(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct error err = {0};

    for (size_t w = 0; w < 2; w++) {
        struct cache_layout layout = layout_of(widths[w], 64, 3, true);
        float x[64] = {0};
        uint8_t *strip = new_strip(&layout);

        for (int i = 0; i < 3; i++)
            check_special(&layout, bad[i], true);
        check_special(&layout, 1e-42f, false);
        check_special(&layout, -399999, false);
        x[3] = -1e6f;
        CU_ASSERT_EQUAL(cache_write(&layout, strip, 2, x, 64, 1, &err), ERR_NUMERIC);
        CHECK(strstr(err.text, "position 2") && strstr(err.text, "400000"), &err);
        memory_free(strip);
    }
}

static void test_layouts(void)
{
    struct cache_layout layout;
    struct error err = {0};

    CU_ASSERT_EQUAL(cache_layout(&layout, 5, 64, 1, true, &err), ERR_UNSUPPORTED);
    CHECK(strstr(err.text, "5 bits") && strstr(err.text, "32, 8 and 4"), &err);
    CU_ASSERT_EQUAL(cache_layout(&layout, 8, 7, 1, true, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(cache_layout(&layout, 8, 0, 1, true, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(cache_layout(&layout, 8, 64, 0, true, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(cache_layout(&layout, 8, 64, UINT64_C(1) << 40, true, &err), ERR_MEMORY);
    CU_ASSERT_EQUAL(cache_layout(&layout, 4, 64, UINT64_MAX, true, &err), ERR_MEMORY);
    layout = layout_of(4, 64, 4096, true);
    CU_ASSERT_EQUAL(cache_row_bytes_spanwise(&layout), 64 * (32 + 4) + 128);
    CU_ASSERT_EQUAL(layout.bytes, 4096 * 36 + (4096 / 64 + 3) * 128); /* spans: 8, 8, 16, 32, then 64 each */
    layout = layout_of(8, 64, 4096, false);
    CU_ASSERT_EQUAL(layout.bytes, 4096 * (64 + 4));
}

/* ---- rotation ---- */

static void test_rotation(void)
{
    for (size_t s = 0; s < SIZE_COUNT; s++) {
        uint32_t size = sizes[s];
        float *x = key_rows(2, size, 1), *turned = key_rows(2, size, 1);
        double before = 0, after = 0;

        cache_rotate(turned, 2, size);
        for (uint32_t i = 0; i < size; i++) {
            before += (double)x[i] * x[size + i];
            after += (double)turned[i] * turned[size + i];
        }
        CU_ASSERT_DOUBLE_EQUAL(before, after, 1e-4 * size);
        CU_ASSERT_TRUE(memcmp(x, turned, 2 * size * sizeof *x) != 0);
        cache_rotate(turned, 2, size);
        for (uint32_t i = 0; i < 2 * size; i++)
            CU_ASSERT_DOUBLE_EQUAL(x[i], turned[i], 1e-5);
        memory_free(x);
        memory_free(turned);
    }
}

/* One large channel becomes `part` equal ones, of the power of two that divides the size. */
static void test_spreading(void)
{
    float x[48] = {0};

    x[21] = 8;
    cache_rotate(x, 1, 48);
    for (int i = 0; i < 48; i++)
        CU_ASSERT_DOUBLE_EQUAL(fabsf(x[i]), i / 16 == 1 ? 2 : 0, 1e-6);
}

/* ---- the forward pass ---- */

static struct model *open_model(const char *path, unsigned bits, struct pool *on)
{
    struct model *model;
    struct error err = {0};

    REQUIRE(model_open(&model, path, on, &err) == OK, &err);
    model->cache_bits = bits;
    return model;
}

static struct session *new_session(struct model *model, uint64_t sequences, uint64_t capacity)
{
    struct session *session;
    struct error err = {0};

    REQUIRE(session_create(&session, model, sequences, capacity, &err) == OK, &err);
    return session;
}

enum { LENGTH = 90, SEQUENCES = 2, HIDDEN = 64 };

static const uint32_t *tokens(void)
{
    static uint32_t ids[SEQUENCES * LENGTH];
    uint64_t seed = 5;

    for (int i = 0; i < SEQUENCES * LENGTH; i++)
        ids[i] = (uint32_t)(testing_random(&seed) % 269);
    return ids;
}

/* Step `length` tokens of one sequence. */
static void step(struct session *session, float *hidden, const uint32_t *ids, uint64_t length)
{
    struct error err = {0};

    REQUIRE(session_step(session, hidden, ids, length, &err) == OK, &err);
}

/* The root mean square difference, relative to b. */
static double distance(const float *a, const float *b, uint64_t count)
{
    double difference = 0, square = 0;

    for (uint64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        square += (double)b[i] * b[i];
    }
    return sqrt(difference / square);
}

static void whole_run(float *hidden, unsigned bits, struct pool *on)
{
    struct model *model = open_model(tiny_model_folder("tiny", (struct tiny_model){.seed = 1}), bits, on);
    struct session *session = new_session(model, SEQUENCES, LENGTH);

    REQUIRE(model->config.hidden == HIDDEN, NULL);
    step(session, hidden, tokens(), LENGTH);
    session_free(session);
    model_close(model);
}

static void check_steps(unsigned bits, double *error, double *between)
{
    static float exact[SEQUENCES * LENGTH * HIDDEN], whole[SEQUENCES * LENGTH * HIDDEN],
        steps[SEQUENCES * LENGTH * HIDDEN];
    struct model *model;
    struct session *session;

    whole_run(exact, 32, pool);
    whole_run(whole, bits, pool);
    model = open_model(tiny_model_folder("tiny", (struct tiny_model){.seed = 1}), bits, pool);
    session = new_session(model, 1, LENGTH);
    step(session, steps, tokens(), 20);
    for (uint64_t i = 20; i < LENGTH; i++)
        step(session, steps + i * HIDDEN, tokens() + i, 1);
    *error = distance(whole, exact, LENGTH * HIDDEN);
    *between = distance(steps, whole, LENGTH * HIDDEN);
    session_free(session);
    model_close(model);
}

/* A number halfway between two codes may get the other one, so rounding is not all there may be between the two; but what the
 * cache costs is much more. */
static void test_steps(void)
{
    double error, between;

    for (size_t w = 0; w < 2; w++) {
        check_steps(widths[w], &error, &between);
        printf("\n    %" PRIu32 " bits: %.1e from float, %.1e token by token", widths[w], error, between);
        CU_ASSERT_TRUE(error > (widths[w] == 8 ? 1e-4 : 1e-3) && error < (widths[w] == 8 ? 0.02 : 0.2));
        CU_ASSERT_TRUE(between < error / 10);
    }
    printf("\n  ");
}

static void test_workers(void)
{
    static const unsigned workers[] = {1, 2, 3, 7};
    static float first[SEQUENCES * LENGTH * HIDDEN], again[SEQUENCES * LENGTH * HIDDEN];
    struct error err = {0};

    for (size_t w = 0; w < 2; w++) {
        for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
            struct pool *other;

            REQUIRE(pool_create(&other, workers[i], &err) == OK, &err);
            whole_run(i ? again : first, widths[w], other);
            if (i) CU_ASSERT_EQUAL(memcmp(first, again, sizeof first), 0);
            pool_free(other);
        }
    }
}

/* Truncated to any length and continued, a session gives the very numbers of one that never went further. */
static void check_truncation(unsigned bits, uint64_t length)
{
    static float fresh[SEQUENCES * LENGTH * HIDDEN], again[SEQUENCES * LENGTH * HIDDEN];
    struct model *model = open_model(tiny_model_folder("tiny", (struct tiny_model){.seed = 2}), bits, pool);
    struct session *one = new_session(model, 1, LENGTH), *two = new_session(model, 1, LENGTH);
    const uint32_t *ids = tokens(), *other = ids + LENGTH;

    step(one, fresh, ids, length);
    step(one, fresh, ids + length, LENGTH - length);
    step(two, again, ids, length);
    step(two, again, other + length, LENGTH - length);
    session_truncate(two, length);
    CU_ASSERT_EQUAL(session_length(two), length);
    step(two, again, ids + length, LENGTH - length);
    CU_ASSERT_EQUAL(memcmp(fresh, again, (LENGTH - length) * HIDDEN * sizeof *fresh), 0);
    session_reset(two);
    step(two, again, ids, length);
    step(two, again, ids + length, LENGTH - length);
    CU_ASSERT_EQUAL(memcmp(fresh, again, (LENGTH - length) * HIDDEN * sizeof *fresh), 0);
    session_free(one);
    session_free(two);
    model_close(model);
}

static void test_truncation(void)
{
    static const uint64_t lengths[] = {1, 8, 13, 31, 64, 70};

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        check_truncation(8, lengths[i]);
        check_truncation(4, lengths[i]);
    }
}

/* Bytes of one token: what the session says, and what it takes more for more positions. */
static void test_bytes(void)
{
    static const uint64_t expected[] = {2 * 2 * (16 + 2 + 16 + 2) + 2, 2 * 2 * (8 + 2 + 8 + 2) + 2};
    struct model *model;
    struct session *session;
    struct error err = {0};

    for (size_t w = 0; w < 2;
         w++) { /* 2 layers, 2 kv heads of 16: k and v, codes and a scale, 2 bytes / 64 x 64 of centers */
        model = open_model(tiny_model_folder("tiny", (struct tiny_model){.seed = 1}), widths[w], pool);
        session = new_session(model, 1, 8);
        CU_ASSERT_EQUAL(session_cache_bytes_per_token(session), expected[w]);
        session_free(session);
        model->cache_bits = 6;
        CU_ASSERT_EQUAL(session_create(&session, model, 1, 8, &err), ERR_UNSUPPORTED);
        CU_ASSERT_PTR_NULL(session);
        CHECK(strstr(err.text, "6 bits"), &err);
        model->cache_bits = widths[w];
        CU_ASSERT_EQUAL(session_create(&session, model, UINT64_MAX, 8, &err), ERR_MEMORY);
        CU_ASSERT_EQUAL(session_create(&session, model, UINT64_C(1) << 33, 8, &err), ERR_MEMORY);
        model_close(model);
    }
}

/* A bad channel is reported by layer and channel, as with floats, and the session goes on afterwards. */
static void test_faults(void)
{
    static const float bad[] = {NAN, INFINITY};
    static float hidden[8 * HIDDEN];
    uint32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct error err = {0};

    for (int i = 0; i < 4; i++) {
        struct tiny_model options = {.poison = "model.layers.1.self_attn.v_proj.weight",
            .poison_at = 5 * 64,
            .poison_value = bad[i % 2],
            .seed = 3};
        struct model *model = open_model(tiny_model_folder("bad", options), widths[i / 2], pool);
        struct session *session = new_session(model, 1, 8);

        CU_ASSERT_EQUAL(session_step(session, hidden, ids, 8, &err), ERR_NUMERIC);
        CHECK(strstr(err.text, "layer 1: channel "), &err);
        CU_ASSERT_EQUAL(session_length(session), 0);
        session_free(session);
        model_close(model);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"layouts", test_layouts},
        {"error", test_error},
        {"nearest levels", test_nearest},
        {"calls", test_calls},
        {"special numbers", test_specials},
        {"rotation", test_rotation},
        {"spreading", test_spreading},
        {"steps", test_steps},
        {"workers", test_workers},
        {"truncation", test_truncation},
        {"bytes", test_bytes},
        {"faults", test_faults},
    };
    struct error err = {0};
    int result;

    testing_kernel_set();
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    result = TESTING_RUN("cache", cases);
    pool_free(pool);
    return result;
}
