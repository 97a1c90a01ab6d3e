/* Tiles as blocks: which are, and the same values to the last bit. */
#include "tensor/tile_blocks.h"

#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

enum { COLS_MOST = 128 };

static void types(void)
{
    static const struct {
        struct scheme scheme;
        uint64_t cols;
        enum block_type type;
    } cases[] = {
        {{4, 32, false}, 64, BLOCK_Q4_0},
        {{5, 64, false}, 64, BLOCK_Q5_0},
        {{8, 96, false}, 96, BLOCK_Q8_0},
        {{4, 32, true}, 64, BLOCK_NONE},  /* zero-points */
        {{4, 16, false}, 64, BLOCK_NONE}, /* two scales a block */
        {{4, 48, false}, 48, BLOCK_NONE}, /* half a block */
        {{6, 32, false}, 64, BLOCK_NONE},
        {{3, 32, false}, 64, BLOCK_NONE},
        {{2, 32, false}, 64, BLOCK_NONE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_EQUAL(tile_blocks_type(cases[i].scheme, cases[i].cols), cases[i].type);
}

/* Random codes and scales of one tile of `rows` rows. */
static void check_values(struct scheme scheme, uint64_t cols, uint64_t rows)
{
    static uint8_t codes[TILE_ROWS * COLS_MOST], scratch[TILE_ROWS * COLS_MOST],
        blocks[TILE_ROWS * COLS_MOST * 2];
    static uint8_t packed[TILE_ROWS * COLS_MOST * 2];
    static uint16_t scales[TILE_ROWS * COLS_MOST / 32], packed_scales[TILE_ROWS * COLS_MOST / 32];
    static float expected[TILE_ROWS * COLS_MOST], values[TILE_ROWS * COLS_MOST];
    const enum block_type type = tile_blocks_type(scheme, cols);
    struct tiles_layout layout;
    struct error err = {0};
    uint64_t random = scheme.bits + cols + rows;

    REQUIRE(tiles_layout(&layout, rows, cols, scheme, &err) == OK, &err);
    for (uint64_t i = 0; i < rows * cols; i++)
        codes[i] = (uint8_t)(testing_random(&random) & ((1u << scheme.bits) - 1));
    for (uint64_t i = 0; i < rows * layout.groups; i++)
        scales[i] = dtype_f32_to_f16(testing_normal(&random));
    tiles_pack(&layout, packed, packed_scales, NULL, codes, scales, NULL, rows);
    tiles_decode_tile(&layout, expected, cols, packed, packed_scales, NULL, rows);
    tile_blocks_put(blocks, type, &layout, packed, packed_scales, rows, scratch);
    blocks_decode(values, type, blocks, 0, rows * cols);
    CU_ASSERT_TRUE(memcmp(values, expected, rows * cols * sizeof(float)) == 0);
}

static void same_values(void)
{
    static const uint32_t bits[] = {4, 5, 8};

    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        check_values((struct scheme){bits[i], 32, false}, 128, 8);
        check_values((struct scheme){bits[i], 64, false}, 128, 3);
        check_values((struct scheme){bits[i], 96, false}, 96, 1);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"which tiles are blocks", types},
        {"the same values", same_values},
    };

    return TESTING_RUN("tile_blocks", cases);
}
