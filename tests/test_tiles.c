/* Tiles: every width, kind, group and odd shape against a reader of the layout that knows only the comment in
 * tensor/tiles.h. */
#include "tensor/tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/kernels/kernels.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

/* One quantized matrix: what went in, and the tensor it became. */
struct matrix {
    struct tiles_layout layout;
    uint8_t *codes, *zeros; /* [rows][cols], [rows][groups] (NULL if symmetric) */
    uint16_t *scales;       /* [rows][groups] */
    uint8_t *bytes;
};

static void *get(uint64_t count)
{
    void *memory = aligned_alloc(64, (count + 63) / 64 * 64);
    REQUIRE(memory != NULL, NULL);
    memset(memory, 0, count);
    return memory;
}

static void fill_matrix(struct matrix *matrix, uint64_t *state)
{
    const struct tiles_layout *layout = &matrix->layout;
    for (uint64_t i = 0; i < layout->rows * layout->cols; i++) {
        matrix->codes[i] = (uint8_t)(testing_random(state) % (1u << layout->bits));
    }
    for (uint64_t i = 0; i < layout->rows * layout->groups; i++) {
        uint64_t random = testing_random(state);
        matrix->scales[i] =
            (uint16_t)((random & 0x83ff) | (random >> 16) % 20 << 10); /* any finite one, to 32 */
        if (matrix->zeros) matrix->zeros[i] = (uint8_t)((random >> 32) % (1u << layout->bits));
    }
}

static void pack_matrix(struct matrix *matrix)
{
    const struct tiles_layout *layout = &matrix->layout;
    for (uint64_t t = 0; t < layout->tiles; t++) {
        uint64_t row = t * 8, count = layout->rows - row < 8 ? layout->rows - row : 8;
        uint8_t *zeros = matrix->bytes + layout->zeros_offset + t * layout->tile_zero_bytes;
        tiles_pack(layout, matrix->bytes + t * layout->tile_code_bytes,
            (uint16_t *)(void *)(matrix->bytes + layout->scales_offset + t * layout->tile_scale_bytes),
            matrix->zeros ? zeros : NULL, matrix->codes + row * layout->cols,
            matrix->scales + row * layout->groups,
            matrix->zeros ? matrix->zeros + row * layout->groups : NULL, count);
    }
}

static struct matrix make_matrix(uint64_t rows, uint64_t cols, struct scheme scheme, uint64_t *state)
{
    struct matrix matrix = {.codes = NULL};
    struct error err = {0};
    REQUIRE(tiles_layout(&matrix.layout, rows, cols, scheme, &err) == OK, &err);
    matrix.codes = get(rows * cols);
    matrix.scales = get(rows * matrix.layout.groups * 2);
    if (scheme.asymmetric) matrix.zeros = get(rows * matrix.layout.groups);
    matrix.bytes = get(matrix.layout.bytes);
    memset(matrix.bytes, 0xaa, matrix.layout.bytes); /* packing must not count on zeroed memory */
    fill_matrix(&matrix, state);
    pack_matrix(&matrix);
    return matrix;
}

static void free_matrix(struct matrix *matrix)
{
    free(matrix->codes);
    free(matrix->zeros);
    free(matrix->scales);
    free(matrix->bytes);
}

static uint32_t zero_of(const struct matrix *matrix, uint64_t row, uint64_t col)
{
    const struct tiles_layout *layout = &matrix->layout;
    if (!matrix->zeros) return 1u << (layout->bits - 1);
    return matrix->zeros[row * layout->groups + col / layout->group];
}

static float value_of(const struct matrix *matrix, uint64_t row, uint64_t col)
{
    const struct tiles_layout *layout = &matrix->layout;
    float scale = dtype_f16_to_f32(matrix->scales[row * layout->groups + col / layout->group]);
    return scale * (float)((int)matrix->codes[row * layout->cols + col] - (int)zero_of(matrix, row, col));
}

/* ---- the layout, read as its comment tells it ---- */

/* A plane of width w: byte j*32 + r*4 + k holds in its bits w*t .. w*t+w-1 the code of column 4*(w*t + j) +
 * k. */
static void read_plane(uint8_t codes[8][32], const uint8_t *plane, uint32_t w, uint32_t shift)
{
    for (uint32_t j = 0; j < w; j++) {
        for (uint32_t r = 0; r < 8; r++) {
            for (uint32_t k = 0; k < 4; k++) {
                uint32_t byte = plane[j * 32 + r * 4 + k];
                for (uint32_t t = 0; t < 8 / w; t++) {
                    uint32_t part = byte >> (w * t) & ((1u << w) - 1);
                    codes[r][4 * (w * t + j) + k] |= (uint8_t)(part << shift);
                }
            }
        }
    }
}

static void read_block(uint8_t codes[8][32], const uint8_t *block, uint32_t bits)
{
    static const uint32_t planes[9][2] = {
        [2] = {2}, [3] = {2, 1}, [4] = {4}, [5] = {4, 1}, [6] = {4, 2}, [8] = {8}};
    memset(codes, 0, 8 * 32);
    read_plane(codes, block, planes[bits][0], 0);
    if (planes[bits][1]) read_plane(codes, block + 32 * planes[bits][0], planes[bits][1], planes[bits][0]);
}

/* What a place of the padded matrix must hold. */
static uint32_t expected_code(const struct matrix *matrix, uint64_t row, uint64_t col)
{
    if (row >= matrix->layout.rows) return 0;
    if (col >= matrix->layout.cols) return zero_of(matrix, row, matrix->layout.cols - 1);
    return matrix->codes[row * matrix->layout.cols + col];
}

static void check_codes(const struct matrix *matrix)
{
    const struct tiles_layout *layout = &matrix->layout;
    unsigned wrong = 0;
    for (uint64_t row = 0; row < layout->tiles * 8; row++) {
        for (uint64_t block = 0; block < layout->blocks; block++) {
            uint8_t codes[8][32];
            read_block(
                codes, matrix->bytes + (row / 8 * layout->blocks + block) * 32 * layout->bits, layout->bits);
            for (uint64_t c = 0; c < 32; c++)
                wrong += codes[row % 8][c] != expected_code(matrix, row, 32 * block + c);
        }
    }
    CHECK(wrong == 0, NULL);
}

static void check_scales(const struct matrix *matrix)
{
    const struct tiles_layout *layout = &matrix->layout;
    const uint8_t *scales = matrix->bytes + layout->scales_offset,
                  *zeros = matrix->bytes + layout->zeros_offset;
    unsigned wrong = 0;
    for (uint64_t row = 0; row < layout->tiles * 8; row++) {
        bool real = row < layout->rows;
        for (uint64_t g = 0; g < layout->groups; g++) {
            uint64_t at = (row / 8 * layout->groups + g) * 8 + row % 8, from = row * layout->groups + g;
            wrong +=
                (uint32_t)(scales[2 * at] | scales[2 * at + 1] << 8) != (real ? matrix->scales[from] : 0);
            if (matrix->zeros) wrong += zeros[at] != (real ? matrix->zeros[from] : 0);
        }
    }
    CHECK(wrong == 0, NULL);
}

/* ---- the ways back ---- */

static void check_unpack(const struct matrix *matrix)
{
    const struct tiles_layout *layout = &matrix->layout;
    for (uint64_t row = 0; row < layout->rows; row += 8) {
        uint8_t *codes = malloc(8 * layout->cols);
        REQUIRE(codes, NULL);
        tiles_unpack(layout, codes, matrix->bytes + row / 8 * layout->tile_code_bytes);
        uint64_t count = layout->rows - row < 8 ? layout->rows - row : 8;
        CHECK(memcmp(codes, matrix->codes + row * layout->cols, count * layout->cols) == 0, NULL);
        free(codes);
    }
}

/* Every bit of every value, and nothing written between the rows. */
static void check_decode(const struct matrix *matrix, uint64_t row_begin)
{
    const struct tiles_layout *layout = &matrix->layout;
    uint64_t rows = layout->rows - row_begin, stride = layout->cols + 3;
    float *out = malloc(rows * stride * sizeof *out);
    REQUIRE(out, NULL);
    for (uint64_t i = 0; i < rows * stride; i++)
        out[i] = 77;
    tiles_decode(layout, out, stride, matrix->bytes, row_begin, rows);
    unsigned wrong = 0;
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t col = 0; col < stride; col++) {
            float expected = col < layout->cols ? value_of(matrix, row_begin + row, col) : 77;
            wrong += memcmp(&out[row * stride + col], &expected, sizeof expected) != 0;
        }
    }
    CHECK(wrong == 0, NULL);
    free(out);
}

/* The set avx512 adds up in the order of avx2, so that the same model says the same on both. */
static void check_bits_of_avx2(
    const struct tiles_layout *layout, const float y[8], const struct tile *tile, const float *x)
{
    float expected[8];
    if (strcmp(kernels()->name, "avx512") != 0) return;
    REQUIRE(kernels_select("avx2", NULL) == OK, NULL);
    tiles_dot(layout, expected, tile->codes, tile->scales, tile->zeros, x, 1);
    CHECK(memcmp(y, expected, sizeof expected) == 0, NULL);
    REQUIRE(kernels_select("avx512", NULL) == OK, NULL);
}

static void check_dot(const struct matrix *matrix, uint64_t *state)
{
    const struct tiles_layout *layout = &matrix->layout;
    float *x = get(layout->blocks * 32 * sizeof *x), y[8];
    for (uint64_t col = 0; col < layout->cols; col++)
        x[col] = testing_normal(state);
    for (uint64_t index = 0; index < layout->tiles; index++) {
        struct tile tile = tiles_at(layout, matrix->bytes, index);
        tiles_dot(layout, y, tile.codes, tile.scales, tile.zeros, x, 1);
        check_bits_of_avx2(layout, y, &tile, x);
        for (uint64_t r = 0; r < 8; r++) {
            double sum = 0, magnitude = 0;
            for (uint64_t col = 0; index * 8 + r < layout->rows && col < layout->cols; col++) {
                double product = (double)value_of(matrix, index * 8 + r, col) * x[col];
                sum += product;
                magnitude += fabs(product);
            }
            CHECK(fabs(y[r] - sum) <= 1e-6 * magnitude, NULL);
        }
    }
    free(x);
}

/* Tokens of any company: each has the bits it has alone, and nothing is written behind the last. */
static void check_company(const struct tiles_layout *layout, const struct tile *tile, const float *x,
    const float *alone, uint64_t tokens)
{
    float *together = get(layout->blocks * tokens * 32 * sizeof *together);
    float *y = get((tokens * 8 + 1) * sizeof *y);
    for (uint64_t block = 0; block < layout->blocks; block++) {
        for (uint64_t t = 0; t < tokens; t++)
            memcpy(
                together + (block * tokens + t) * 32, x + (t * layout->blocks + block) * 32, 32 * sizeof *x);
    }
    for (uint64_t i = 0; i <= tokens * 8; i++)
        y[i] = 77;
    tiles_dot(layout, y, tile->codes, tile->scales, tile->zeros, together, tokens);
    CHECK(memcmp(y, alone, tokens * 8 * sizeof *y) == 0, NULL);
    CHECK(y[tokens * 8] == 77, NULL);
    /* the kernel for several, also with one token */
    kernels()->tile_dots(layout, y, tile->codes, tile->scales, tile->zeros, x, 1);
    CHECK(memcmp(y, alone, 8 * sizeof *y) == 0, NULL);
    free(together);
    free(y);
}

static void check_companies(const struct matrix *matrix, uint64_t *state)
{
    static const uint64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, TILE_TOKENS};
    const struct tiles_layout *layout = &matrix->layout;
    uint64_t stride = layout->blocks * 32;
    float *x = get(TILE_TOKENS * stride * sizeof *x), alone[TILE_TOKENS][8];
    for (uint64_t t = 0; t < TILE_TOKENS; t++) {
        for (uint64_t col = 0; col < layout->cols; col++)
            x[t * stride + col] = testing_normal(state);
    }
    for (uint64_t index = 0; index < layout->tiles; index++) {
        struct tile tile = tiles_at(layout, matrix->bytes, index);
        for (uint64_t t = 0; t < TILE_TOKENS; t++)
            tiles_dot(layout, alone[t], tile.codes, tile.scales, tile.zeros, x + t * stride, 1);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            check_company(layout, &tile, x, alone[0], counts[c]);
    }
    free(x);
}

/* ---- all schemes and shapes ---- */

static void check_matrix(uint64_t rows, uint64_t cols, uint64_t group, uint64_t *state)
{
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    for (int kind = 0; kind < 12; kind++) {
        struct scheme scheme = {widths[kind / 2], (uint32_t)group, kind % 2};
        struct matrix matrix = make_matrix(rows, cols, scheme, state);
        check_codes(&matrix);
        check_scales(&matrix);
        check_unpack(&matrix);
        check_decode(&matrix, 0);
        if (rows > 8) check_decode(&matrix, 8);
        check_dot(&matrix, state);
        if (rows == 9) check_companies(&matrix, state);
        free_matrix(&matrix);
    }
}

static void every_scheme_and_shape(void)
{
    static const struct {
        uint64_t cols, group;
    } shapes[] = {{16, 16}, {48, 16}, {160, 16}, {32, 32}, {96, 32}, {48, 48}, {144, 48}, {64, 64}, {192, 64},
        {1, 1}, {7, 7}, {31, 31}, {33, 33}, {172, 172}, {100, 100}, {256, 256}, {576, 192}};
    static const uint64_t rows[] = {1, 7, 8, 9, 24};
    uint64_t state = 1;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            check_matrix(rows[r], shapes[s].cols, shapes[s].group, &state);
        }
    }
}

/* ---- sizes ---- */

static void parts_follow_one_another(void)
{
    struct tiles_layout layout;
    struct error err = {0};
    CHECK(tiles_layout(&layout, 9, 48, (struct scheme){3, 16, true}, &err) == OK, &err);
    CHECK(layout.tiles == 2 && layout.blocks == 2 && layout.groups == 3, NULL);
    CHECK(layout.block_bytes == 96 && layout.tile_code_bytes == 192, NULL);
    CHECK(layout.tile_scale_bytes == 48 && layout.tile_zero_bytes == 24, NULL);
    CHECK(layout.scales_offset == 384, NULL);
    CHECK(layout.zeros_offset == 512, NULL); /* 384 + 96 = 480, rounded up to a multiple of 64 */
    CHECK(layout.bytes == 512 + 48, NULL);
    CHECK(tiles_layout(&layout, 9, 48, (struct scheme){3, 16, false}, &err) == OK, &err);
    CHECK(layout.bytes == 384 + 96, NULL);
}

static void bad_schemes_are_refused(void)
{
    static const struct {
        uint64_t rows, cols;
        struct scheme scheme;
    } bad[] = {
        {8, 32, {0, 32, false}},
        {8, 32, {1, 32, false}},
        {8, 32, {7, 32, false}},
        {8, 32, {16, 32, false}},
        {8, 32, {4, 0, false}},
        {8, 32, {4, 64, false}},
        {8, 32, {4, 8, false}},
        {8, 72, {4, 24, false}},
        {8, 80, {4, 32, false}},
        {8, 172, {4, 43, false}},
        {0, 32, {4, 32, false}},
        {8, 0, {4, 0, false}},
        {UINT64_MAX, 32, {4, 32, false}},
        {UINT64_MAX / 64, 1 << 20, {8, 16, true}},
        {8, UINT64_MAX - 15, {4, 16, true}},
        {1ull << 59, 32, {4, 32, true}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tiles_layout layout;
        struct error err = {0};
        CHECK(tiles_layout(&layout, bad[i].rows, bad[i].cols, bad[i].scheme, &err) == ERR_FORMAT, &err);
        CHECK(err.text[0] != 0, NULL);
    }
}

int main(void)
{
    testing_kernel_set();
    static const struct test_case cases[] = {
        {"every scheme and shape", every_scheme_and_shape},
        {"parts follow one another", parts_follow_one_another},
        {"bad schemes are refused", bad_schemes_are_refused},
    };
    return TESTING_RUN("tiles", cases);
}
