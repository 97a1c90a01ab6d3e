/* Products with weights of every kind against sums in double precision, for every number of workers. */
#include "tensor/matmul.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"
#include "tensor/tiles.h"
#include "tests/support/kernel_set.h"
#include "tests/support/sparse_sample.h"
#include "tests/support/testing.h"

enum { ROWS_MOST = 600, COLS_MOST = 320, TOKENS_MOST = 530 };

/* A weight, what it decodes to, and a bias. */
struct weight {
    struct tensor tensor, bias;
    void *bytes, *bias_bytes;
    float *values, *bias_values;
};

static void *get(uint64_t count)
{
    void *memory = memory_new(count, 1, NULL);
    REQUIRE(memory != NULL, NULL);
    return memory;
}

static struct tensor tensor_of(
    enum dtype dtype, uint32_t rank, uint64_t rows, uint64_t cols, const void *data)
{
    return (struct tensor){.name = "weight",
        .storage = STORAGE_DENSE,
        .dtype = dtype,
        .rank = rank,
        .shape = {rows, cols},
        .elements = rows * cols,
        .bytes = rows * cols * dtype_info(dtype)->bytes,
        .data = data};
}

/* Random values in storage of a type; `values` receives what they decode to. */
static void *store(enum dtype dtype, float *values, uint64_t count, uint64_t *state)
{
    const struct dtype_info *info = dtype_info(dtype);
    void *bytes = get(count * info->bytes);
    for (uint64_t i = 0; i < count; i++)
        values[i] = testing_normal(state);
    info->encode(bytes, values, count);
    info->decode(values, bytes, count);
    return bytes;
}

static void store_tiles(
    struct weight *weight, uint64_t rows, uint64_t cols, struct scheme scheme, uint64_t *state)
{
    struct tiles_layout layout;
    struct error err = {0};
    REQUIRE(tiles_layout(&layout, rows, cols, scheme, &err) == OK, &err);
    weight->bytes = get(layout.bytes);
    for (uint64_t i = 0; i < layout.bytes; i++)
        ((uint8_t *)weight->bytes)[i] = (uint8_t)testing_random(state);
    uint16_t *scales = (uint16_t *)(void *)((uint8_t *)weight->bytes + layout.scales_offset);
    for (uint64_t i = 0; i < layout.tiles * layout.groups * 8; i++) {
        scales[i] = dtype_f32_to_f16(testing_normal(state) / (float)(1 << scheme.bits));
    }
    tiles_decode(&layout, weight->values, cols, weight->bytes, 0, rows);
    weight->tensor = tensor_of(DTYPE_F16, 2, rows, cols, weight->bytes);
    weight->tensor.storage = STORAGE_TILES;
    weight->tensor.scheme = scheme;
    weight->tensor.bytes = layout.bytes;
}

/* kind 0: codes of 4 bits with a bitmap; 1: of two of four; 2: F16 values; 3: BF16 of two of four. */
static void store_sparse(struct weight *weight, uint64_t rows, uint64_t cols, int kind, uint64_t *state)
{
    struct tensor *tensor = &weight->tensor;
    struct sparse_layout layout;
    struct error err = {0};
    *tensor = tensor_of(kind == 3 ? DTYPE_BF16 : DTYPE_F16, 2, rows, cols, NULL);
    tensor->storage = STORAGE_SPARSE;
    tensor->mask = kind % 2 ? MASK_2_4 : MASK_BITMAP;
    if (kind < 2) tensor->scheme = (struct scheme){4, cols % 32 ? (uint32_t)cols : 32, false};
    uint8_t *codes = get(rows * cols);
    uint16_t *values = store(tensor->dtype, weight->values, rows * cols, state);
    for (uint64_t i = 0; i < rows * cols; i++)
        codes[i] = (uint8_t)(testing_random(state) % 16);
    void *weights = kind < 2 ? (void *)codes : values;
    sparse_sample_prune(weights, rows, cols, tensor->scheme.bits, tensor->mask, 50);
    uint16_t *scales = get(rows * cols * sizeof *scales); /* more than there are groups */
    for (uint64_t i = 0; i < rows * cols; i++)
        scales[i] = dtype_f32_to_f16(testing_normal(state) / 16);
    REQUIRE(sparse_make(tensor, weights, scales, &err) == OK, &err);
    weight->bytes = (void *)(uintptr_t)tensor->data;
    REQUIRE(sparse_layout_of(&layout, tensor, &err) == OK, &err);
    void *scratch = get(sparse_scratch(&layout));
    REQUIRE(sparse_decode(&layout, weight->values, cols, tensor->data, 0, rows, scratch, &err) == OK, &err);
    memory_free(scratch);
    memory_free(scales);
    memory_free(values);
    memory_free(codes);
}

/* kinds 0..3: dense of the floating types; 4..7: tiles; above: sparse. */
enum { KINDS = 12 };
static struct weight make_weight(int kind, uint64_t rows, uint64_t cols, uint64_t *state)
{
    static const enum dtype dense[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64};
    const struct scheme schemes[] = {{4, (uint32_t)cols, false}, {4, cols % 32 ? (uint32_t)cols : 32, true},
        {3, (uint32_t)cols, true}, {8, (uint32_t)cols, false}};
    struct weight weight = {
        .values = get(rows * cols * sizeof(float)), .bias_values = get(rows * sizeof(float))};
    if (kind < 4) {
        weight.bytes = store(dense[kind], weight.values, rows * cols, state);
        weight.tensor = tensor_of(dense[kind], 2, rows, cols, weight.bytes);
    } else if (kind < 8) {
        store_tiles(&weight, rows, cols, schemes[kind - 4], state);
    } else {
        store_sparse(&weight, rows, cols, kind - 8, state);
    }
    weight.bias_bytes = store(dense[kind % 4], weight.bias_values, rows, state);
    weight.bias = tensor_of(dense[kind % 4], 1, rows, 1, weight.bias_bytes);
    return weight;
}

static void free_weight(struct weight *weight)
{
    memory_free(weight->bytes);
    memory_free(weight->bias_bytes);
    memory_free(weight->values);
    memory_free(weight->bias_values);
}

static void check_product(
    const struct weight *weight, const float *y, const float *x, uint64_t tokens, bool with_bias)
{
    uint64_t rows = weight->tensor.shape[0], cols = weight->tensor.shape[1];
    unsigned wrong = 0;
    for (uint64_t t = 0; t < tokens; t++) {
        for (uint64_t row = 0; row < rows; row++) {
            double sum = with_bias ? weight->bias_values[row] : 0, magnitude = fabs(sum);
            for (uint64_t col = 0; col < cols; col++) {
                double product = (double)weight->values[row * cols + col] * x[t * cols + col];
                sum += product;
                magnitude += fabs(product);
            }
            wrong += !(fabs(y[t * rows + row] - sum) <= 2e-6 * magnitude);
        }
    }
    CHECK(wrong == 0, NULL);
}

/* Multiply with 1, 2, 3 and 7 workers: close to the truth, and the same bytes. */
static void check_workers(const struct weight *weight, const float *x, uint64_t tokens, bool with_bias)
{
    static const unsigned workers[] = {1, 2, 3, 7};
    static float first[TOKENS_MOST * ROWS_MOST], y[TOKENS_MOST * ROWS_MOST];
    uint64_t bytes = tokens * weight->tensor.shape[0] * sizeof(float);
    for (int w = 0; w < 4; w++) {
        struct pool *pool = NULL;
        struct matmul *matmul = NULL;
        struct error err = {0};
        REQUIRE(pool_create(&pool, workers[w], &err) == OK, &err);
        REQUIRE(matmul_create(&matmul, pool, weight->tensor.shape[1], &err) == OK, &err);
        float *out = w == 0 ? first : y;
        memset(out, 0xff, bytes);
        CHECK(
            matmul_run(matmul, out, x, tokens, &weight->tensor, with_bias ? &weight->bias : NULL, &err) == OK,
            &err);
        if (w == 0) check_product(weight, out, x, tokens, with_bias);
        CHECK(memcmp(first, out, bytes) == 0, NULL);
        matmul_free(matmul);
        pool_free(pool);
    }
}

static void every_kind_and_shape(void)
{
    static const struct {
        uint64_t rows, cols, tokens;
    } shapes[] = {{1, 32, 1}, {8, 172, 3}, {9, 1, 6}, {63, 48, 7}, {65, 320, 4}, {200, 96, 40}, {70, 96, 12},
        {70, 172, 32}, {70, 172, 33}, {600, 64, 1}, {520, 32, 530}, {16, 64, 0}};
    static float x[TOKENS_MOST * COLS_MOST];
    uint64_t state = 1;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int kind = 0; kind < KINDS; kind++) {
            struct weight weight = make_weight(kind, shapes[s].rows, shapes[s].cols, &state);
            for (uint64_t i = 0; i < shapes[s].tokens * shapes[s].cols; i++)
                x[i] = testing_normal(&state);
            check_workers(&weight, x, shapes[s].tokens, s % 2);
            free_weight(&weight);
        }
    }
}

/* A token's result does not depend on how many go with it, as long as they are few: what is generated is the same whether
 * tokens come one by one or are verified together. */
static void tokens_do_not_see_their_company(void)
{
    enum { ROWS = 75, COLS = 172, FEW = TILE_TOKENS, DENSE_FEW = 17 };
    static float x[FEW * COLS], alone[FEW * ROWS], y[FEW * ROWS];
    uint64_t state = 3;
    struct pool *pool = NULL;
    struct matmul *matmul = NULL;
    struct error err = {0};
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    REQUIRE(matmul_create(&matmul, pool, COLS, &err) == OK, &err);
    for (int i = 0; i < FEW * COLS; i++)
        x[i] = testing_normal(&state);
    for (int kind = 0; kind < KINDS; kind++) {
        if (kind == 3) continue; /* F64 always goes through linalg */
        struct weight weight = make_weight(kind, ROWS, COLS, &state);
        for (int t = 0; t < FEW; t++)
            CHECK(matmul_run(matmul, alone + t * ROWS, x + t * COLS, 1, &weight.tensor, &weight.bias, &err) ==
                      OK,
                &err);
        for (uint64_t tokens = 1; tokens <= (kind < 4 ? DENSE_FEW : FEW); tokens++) {
            memset(y, 0xff, sizeof y);
            CHECK(matmul_run(matmul, y, x, tokens, &weight.tensor, &weight.bias, &err) == OK, &err);
            CHECK(memcmp(y, alone, tokens * ROWS * sizeof *y) == 0, NULL);
        }
        free_weight(&weight);
    }
    matmul_free(matmul);
    pool_free(pool);
}

/* An infinity in a wide product leaves nothing behind for a narrow one. */
static void products_do_not_see_the_ones_before(void)
{
    enum { WIDE = 320, NARROW = 172 };
    struct pool *pool = NULL;
    struct matmul *matmul = NULL;
    struct error err = {0};
    float x[WIDE], y[8];
    uint64_t state = 2;
    struct weight wide = make_weight(4, 8, WIDE, &state), narrow = make_weight(4, 8, NARROW, &state);
    REQUIRE(pool_create(&pool, 1, &err) == OK, &err);
    REQUIRE(matmul_create(&matmul, pool, WIDE, &err) == OK, &err);
    for (int i = 0; i < WIDE; i++)
        x[i] = INFINITY;
    CHECK(matmul_run(matmul, y, x, 1, &wide.tensor, NULL, &err) == OK, &err);
    for (int i = 0; i < NARROW; i++)
        x[i] = testing_normal(&state);
    CHECK(matmul_run(matmul, y, x, 1, &narrow.tensor, NULL, &err) == OK, &err);
    check_product(&narrow, y, x, 1, false);
    matmul_free(matmul);
    pool_free(pool);
    free_weight(&wide);
    free_weight(&narrow);
}

static void integer_weights_are_refused(void)
{
    struct pool *pool = NULL;
    struct matmul *matmul = NULL;
    struct error err = {0};
    const int8_t data[4] = {0};
    const float x[2] = {0};
    float y[2];
    struct tensor weight = tensor_of(DTYPE_I8, 2, 2, 2, data);
    REQUIRE(pool_create(&pool, 1, &err) == OK, &err);
    REQUIRE(matmul_create(&matmul, pool, 2, &err) == OK, &err);
    CHECK(matmul_run(matmul, y, x, 1, &weight, NULL, &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "I8") != NULL, &err);
    matmul_free(matmul);
    pool_free(pool);
}

static void every_allocation_may_fail(void)
{
    struct pool *pool = NULL;
    struct error err = {0};
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    enum status status = ERR_MEMORY;
    uint64_t failures = 0;
    for (uint64_t nth = 1; status == ERR_MEMORY; nth++) {
        struct matmul *matmul = NULL;
        memory_fail_at(nth, 0);
        status = matmul_create(&matmul, pool, 64, &err);
        memory_fail_at(0, 0);
        CHECK((status == OK) == (matmul != NULL), &err);
        failures += status == ERR_MEMORY;
        matmul_free(matmul);
    }
    CHECK(status == OK && failures == 5, &err);
    pool_free(pool);
}

/* ---- linalg ---- */

static void products_of_nothing(void)
{
    float c[2] = {1, 2}, one = 1;
    linalg_gemm_nt(1, 2, 0, 1, &one, 0, &one, 0, 0.5f, c, 2);
    CHECK(c[0] == 0.5f && c[1] == 1, NULL);
    linalg_gemm_nt(0, 2, 1, 1, &one, 1, &one, 1, 0, c, 2);
    linalg_gemm_nn(1, 0, 1, 1, &one, 1, &one, 0, 0, c, 0);
    CHECK(c[0] == 0.5f && c[1] == 1, NULL);
}

static void small_products(void)
{
    const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 0, -1, 2, 1, 0};
    float c[4] = {10, 10, 10, 10};
    linalg_gemm_nt(2, 2, 3, 2, a, 3, b, 3, 1, c, 2);
    CHECK(c[0] == 6 && c[1] == 18 && c[2] == 6 && c[3] == 36, NULL);
    linalg_gemm_nn(2, 2, 3, 1, a, 3, b, 2, 0, c, 2);
    CHECK(c[0] == 2 && c[1] == 4 && c[2] == 5 && c[3] == 10, NULL);
}

int main(void)
{
    struct error err = {0};
    testing_kernel_set();
    REQUIRE(linalg_init(&err) == OK, &err);
    static const struct test_case cases[] = {
        {"every kind and shape", every_kind_and_shape},
        {"tokens do not see their company", tokens_do_not_see_their_company},
        {"products do not see the ones before", products_do_not_see_the_ones_before},
        {"integer weights are refused", integer_weights_are_refused},
        {"every allocation may fail", every_allocation_may_fail},
        {"products of nothing", products_of_nothing},
        {"small products", small_products},
    };
    return TESTING_RUN("matmul", cases);
}
