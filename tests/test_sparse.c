/* Sparse tiles: what is packed comes back, for every width and mask; sizes are what arithmetic says; lying masks read nothing outside. */
#include <string.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"
#include "tensor/sparse.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

enum { ROWS = 21, COLS = 144 };

static const uint32_t widths[] = {2, 4, 8, 0};

/* A matrix of codes or values, 0 but for about `percent` of 100; of 2:4 never more than two of four. */
struct matrix {
    struct tensor tensor;
    uint8_t codes[ROWS * COLS];
    uint16_t values[ROWS * COLS], scales[ROWS * COLS / 16];
};

static const void *weights_of(const struct matrix *matrix)
{
    return matrix->tensor.scheme.bits ? (const void *)matrix->codes : matrix->values;
}

static void fill(struct matrix *matrix, enum mask mask, uint32_t bits, uint64_t percent, uint64_t seed)
{
    const unsigned zero = bits ? 1u << (bits - 1) : 0;
    matrix->tensor = (struct tensor){.name = "w",
        .storage = STORAGE_SPARSE,
        .dtype = bits ? DTYPE_F16 : DTYPE_BF16,
        .mask = mask,
        .scheme = {bits, bits ? 48 : 0, false},
        .rank = 2,
        .shape = {ROWS, COLS}};
    for (uint64_t i = 0, kept = 0; i < ROWS * COLS; i++) {
        uint64_t random = testing_random(&seed);
        if (i % 4 == 0) kept = 0;
        bool keep = random % 100 < percent && !(mask == MASK_2_4 && kept == 2);
        kept += keep;
        matrix->codes[i] = keep ? (uint8_t)((random >> 20) % (1u << (bits ? bits : 1))) : (uint8_t)zero;
        matrix->values[i] = keep ? dtype_f32_to_bf16(testing_normal(&seed)) : 0;
    }
    for (uint64_t i = 0; i < ROWS * 3; i++)
        matrix->scales[i] = dtype_f32_to_f16(testing_normal(&seed));
}

static float value_of(const struct matrix *matrix, uint64_t row, uint64_t col)
{
    const uint32_t bits = matrix->tensor.scheme.bits;
    if (!bits) return dtype_bf16_to_f32(matrix->values[row * COLS + col]);
    return dtype_f16_to_f32(matrix->scales[row * 3 + col / 48]) *
           (float)(matrix->codes[row * COLS + col] - (1 << (bits - 1)));
}

static void check_same(const struct matrix *matrix)
{
    static float out[ROWS * COLS];
    struct sparse_layout layout;
    struct error err = {0};
    REQUIRE(sparse_layout_of(&layout, &matrix->tensor, &err) == OK, &err);
    CU_ASSERT_EQUAL(layout.bytes, matrix->tensor.bytes);
    void *scratch = memory_new(sparse_scratch(&layout), 1, NULL);
    REQUIRE(scratch != NULL, NULL);
    REQUIRE(sparse_decode(&layout, out, COLS, matrix->tensor.data, 0, ROWS, scratch, &err) == OK, &err);
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < ROWS * COLS; i++)
        wrong += out[i] != value_of(matrix, i / COLS, i % COLS);
    CU_ASSERT_EQUAL(wrong, 0);
    memory_free(scratch);
}

/* With every set the bits of the scalar one: the codes of every tile, whatever is stored. */
static void check_scalar(const struct matrix *matrix)
{
    struct sparse_layout layout;
    struct sparse_tile tile;
    struct error err = {0};
    REQUIRE(sparse_layout_of(&layout, &matrix->tensor, &err) == OK, &err);
    const uint64_t bytes = sparse_scratch(&layout);
    uint8_t *expected = memory_new(bytes, 1, NULL), *found = memory_new(bytes, 1, NULL);
    for (uint64_t i = 0; i < layout.dense.tiles; i++) {
        REQUIRE(sparse_at(&tile, &layout, matrix->tensor.data, i, &err) == OK, &err);
        kernels_sparse_spread(&layout, expected, tile.masks, tile.codes, tile.code_bytes);
        kernels()->sparse_spread(&layout, found, tile.masks, tile.codes, tile.code_bytes);
        CU_ASSERT(memcmp(expected, found, bytes) == 0);
        struct sparse_fault fault;
        struct tensor eight = matrix->tensor;
        struct sparse_layout part;
        eight.shape[0] = ROWS - i * TILE_ROWS < TILE_ROWS ? ROWS - i * TILE_ROWS : TILE_ROWS;
        REQUIRE(sparse_layout(&part, &eight, tile.code_bytes, &err) == OK, &err);
        CU_ASSERT(sparse_check(&fault, &part, &tile));
    }
    memory_free(expected);
    memory_free(found);
}

static void test_round_trip(void)
{
    static struct matrix matrix;
    struct error err = {0};
    for (unsigned mask = MASK_BITMAP; mask <= MASK_2_4; mask++) {
        for (unsigned w = 0; w < 4; w++) {
            for (uint64_t percent = 0; percent <= 100; percent += 25) {
                fill(&matrix, (enum mask)mask, widths[w], percent, 17 * w + percent);
                REQUIRE(sparse_make(&matrix.tensor, weights_of(&matrix), matrix.scales, &err) == OK, &err);
                check_same(&matrix);
                check_scalar(&matrix);
                memory_free((void *)(uintptr_t)matrix.tensor.data);
            }
        }
    }
}

/* The examples of formats/SPEC.md, section 6c. */
static void test_examples(void)
{
    static struct matrix matrix;
    struct error err = {0};
    struct sparse_layout layout;
    for (unsigned mask = MASK_BITMAP; mask <= MASK_2_4; mask++) {
        fill(&matrix, (enum mask)mask, 4, 0, 0);
        matrix.codes[COLS + 4] = 1;
        matrix.codes[COLS + 20] = 11;
        REQUIRE(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == OK, &err);
        REQUIRE(sparse_layout_of(&layout, &matrix.tensor, &err) == OK, &err);
        const uint8_t *data = matrix.tensor.data, *codes = data + layout.codes_offset;
        uint64_t set = 0;
        for (uint64_t i = 0; i < layout.mask_bytes; i++)
            set += data[i];
        if (mask == MASK_BITMAP) {
            CU_ASSERT(set == 3 && data[9] == 3 && layout.code_bytes == 8 && codes[0] == 0x39);
        } else {
            CU_ASSERT(set == 0 && codes[5] == 0x09 && codes[37] == 0x03 && codes[4] == 0 && codes[36] == 0);
        }
        memory_free((void *)(uintptr_t)matrix.tensor.data);
    }
}

/* Bytes of a matrix of 4096 x 4096 by arithmetic. */
static void test_sizes(void)
{
    struct tensor tensor = {.storage = STORAGE_SPARSE,
        .dtype = DTYPE_F16,
        .mask = MASK_2_4,
        .scheme = {4, 64, false},
        .rank = 2,
        .shape = {4096, 4096}};
    const uint64_t weights = 4096 * 4096;
    struct sparse_layout layout;
    struct error err = {0};
    REQUIRE(sparse_layout(&layout, &tensor, 0, &err) == OK, &err);
    CU_ASSERT_EQUAL(layout.bytes, weights * 24 / 256 + weights / 4 + weights / 64 * 2 + 64);
    tensor.mask = MASK_BITMAP;
    REQUIRE(sparse_layout(&layout, &tensor, weights / 4, &err) == OK, &err);
    CU_ASSERT_EQUAL(
        layout.bytes, weights / 8 + (513 * 4 + 60) / 64 * 64 + weights / 4 + weights / 64 * 2 + 64);
    CU_ASSERT(sparse_layout(&layout, &tensor, weights / 4 + 4, &err) == ERR_FORMAT);
    CU_ASSERT(sparse_layout(&layout, &tensor, weights / 2 + 8, &err) == ERR_FORMAT);
    tensor.bytes = 100;
    CU_ASSERT(sparse_layout_of(&layout, &tensor, &err) == ERR_FORMAT);
}

static void test_refusals(void)
{
    static struct matrix matrix;
    struct error err = {0};
    fill(&matrix, MASK_2_4, 4, 50, 3);
    matrix.codes[9 * COLS + 40] = matrix.codes[9 * COLS + 41] = matrix.codes[9 * COLS + 43] = 1;
    CU_ASSERT(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == ERR_FORMAT);
    CU_ASSERT(strstr(err.text, "row 1: more than two of columns 40 to 43") != NULL);
    CU_ASSERT(strstr(err.text, "rows from 8") != NULL);
    matrix.tensor.scheme.bits = 3;
    CU_ASSERT(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == ERR_FORMAT);
    matrix.tensor.scheme = (struct scheme){4, 48, true};
    CU_ASSERT(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == ERR_FORMAT);
    matrix.tensor.scheme = (struct scheme){0, 48, false};
    CU_ASSERT(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == ERR_FORMAT);
    matrix.tensor.scheme = (struct scheme){4, 48, false};
    matrix.tensor.mask = MASK_NONE;
    CU_ASSERT(sparse_make(&matrix.tensor, matrix.codes, matrix.scales, &err) == ERR_FORMAT);
}

/* Masks and offsets that say too much: an error, or values that do not matter, but nothing outside is read (run with sanitizers). */
static void test_lies(void)
{
    static float out[ROWS * COLS];
    static struct matrix matrix;
    struct sparse_layout layout;
    struct error err = {0};
    for (unsigned mask = MASK_BITMAP; mask <= MASK_2_4; mask++) {
        for (unsigned w = 0; w < 4; w++) {
            fill(&matrix, (enum mask)mask, widths[w], 30, w);
            REQUIRE(sparse_make(&matrix.tensor, weights_of(&matrix), matrix.scales, &err) == OK, &err);
            REQUIRE(sparse_layout_of(&layout, &matrix.tensor, &err) == OK, &err);
            uint8_t *data = (uint8_t *)(uintptr_t)matrix.tensor.data;
            void *scratch = memory_new(sparse_scratch(&layout), 1, NULL);
            float *x = memory_new(2 * 160, sizeof *x, NULL), sums[2][TILE_ROWS];
            struct sparse_tile tile;
            memset(data, 0xFF, layout.dense.tiles * layout.tile_mask_bytes);
            CHECK(sparse_decode(&layout, out, COLS, data, 0, ROWS, scratch, &err) == OK, &err);
            for (uint64_t i = 0; i < layout.dense.tiles; i++) {
                CHECK(sparse_at(&tile, &layout, data, i, &err) == OK, &err);
                sparse_dot(&layout, sums[0], &tile, x, 1, scratch);
                sparse_dot(&layout, sums[0], &tile, x, 2, scratch);
            }
            memory_free(x);
            if (mask == MASK_BITMAP) {
                uint32_t *offsets = (uint32_t *)(void *)(data + layout.offsets_offset);
                offsets[3]++;
                CU_ASSERT(sparse_decode(&layout, out, COLS, data, 0, ROWS, scratch, &err) == ERR_FORMAT);
                offsets[3]--;
                offsets[1] = offsets[2] + 1;
                CU_ASSERT(sparse_decode(&layout, out, COLS, data, 0, ROWS, scratch, &err) == ERR_FORMAT);
            }
            memory_free(scratch);
            memory_free(data);
        }
    }
}

int main(void)
{
    testing_kernel_set();
    static const struct test_case cases[] = {
        {"round trip", test_round_trip},
        {"the examples of the specification", test_examples},
        {"sizes", test_sizes},
        {"refusals", test_refusals},
        {"masks that lie", test_lies},
    };
    return TESTING_RUN("sparse", cases);
}
