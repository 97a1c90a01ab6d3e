/* Blocks taken apart and put together: the same bytes, and the same values as decoding, for the reference's blocks
 * (tests/golden/blocks) and for every possible byte. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/block_parts.h"
#include "tests/support/testing.h"

/* Both ways, and the values; false and a printed name if anything differs. */
static bool block_holds(enum block_type type, const uint8_t *block)
{
    const struct block_info *info = block_info(type);
    struct block_parts parts;
    uint8_t again[BLOCK_BYTES_MOST];
    float values[BLOCK_WEIGHTS_MOST], expected[BLOCK_WEIGHTS_MOST];
    block_parts_take(&parts, type, block);
    memset(again, 0x5a, sizeof again);
    block_parts_put(again, type, &parts);
    if (memcmp(again, block, info->bytes) != 0) {
        printf("%s: other bytes\n", info->name);
        return false;
    }
    block_parts_values(values, type, &parts);
    info->decode(expected, block);
    if (memcmp(values, expected, info->weights * sizeof *values) == 0) return true;
    printf("%s: other values\n", info->name);
    return false;
}

static void reference_blocks(void)
{
    int types = 0;
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        const struct block_info *info = block_info(type);
        if (!block_form(type)) continue;
        char name[64];
        uint64_t bytes;
        snprintf(name, sizeof name, "golden/blocks/%s.bin", info->name);
        char *blocks = testing_read(testing_source(name), &bytes);
        CU_ASSERT(bytes >= info->bytes);
        for (uint64_t at = 0; at + info->bytes <= bytes; at += info->bytes)
            CU_ASSERT(block_holds(type, (const uint8_t *)blocks + at));
        memory_free(blocks);
        types++;
    }
    CU_ASSERT_EQUAL(types, 12);
}

/* Random bytes; those that hold a NaN or an infinity are left out. */
static void random_blocks(void)
{
    uint64_t state = 7;
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!block_form(type)) continue;
        int held = 0;
        for (int round = 0; round < 200; round++) {
            uint8_t block[BLOCK_BYTES_MOST];
            float values[BLOCK_WEIGHTS_MOST];
            for (size_t i = 0; i < sizeof block; i++)
                block[i] = (uint8_t)testing_random(&state);
            block_info(type)->decode(values, block);
            bool finite = true;
            for (uint32_t i = 0; i < block_info(type)->weights; i++)
                finite = finite && isfinite(values[i]);
            if (!finite) continue;
            CU_ASSERT(block_holds(type, block));
            held++;
        }
        CU_ASSERT(held > 100);
    }
}

/* What the forms say agrees with the table of blocks and with what can be taken. */
static void forms(void)
{
    for (enum block_type type = BLOCK_NONE; type < BLOCK_COUNT; type++) {
        const struct block_form *form = block_form(type);
        if (!form) continue;
        CU_ASSERT_EQUAL(form->weights, block_info(type)->weights);
        CU_ASSERT_EQUAL(form->sub * form->subs, form->weights);
        CU_ASSERT(form->subs <= BLOCK_SUBS_MOST && form->sub <= 32);
        uint8_t ones[BLOCK_BYTES_MOST], zeros[BLOCK_BYTES_MOST] = {0};
        struct block_parts most, least;
        memset(ones, 0xff, sizeof ones);
        block_parts_take(&most, type, ones);
        block_parts_take(&least, type, zeros);
        uint32_t top = 0;
        for (uint32_t i = 0; i < form->weights; i++)
            top = most.codes[i] > top ? most.codes[i] : top;
        if (type != BLOCK_Q8_0)
            CU_ASSERT_EQUAL(top, form->codes - 1); /* of signed bytes the greatest is 127 */
        for (uint32_t sub = 0; sub < form->subs; sub++) {
            if (type != BLOCK_Q6_K)
                CU_ASSERT(most.scale[sub] == form->scale_most && least.scale[sub] == form->scale_least);
            CU_ASSERT(most.min[sub] == form->min_most && least.min[sub] == 0);
        }
        for (uint32_t code = 1; form->levels && code < form->codes; code++)
            CU_ASSERT(form->levels[code] > form->levels[code - 1]);
    }
    CU_ASSERT_PTR_NULL(block_form(BLOCK_NONE));
    CU_ASSERT_PTR_NULL(block_form(BLOCK_MXFP4));
}

int main(void)
{
    static const struct test_case cases[] = {
        {"reference blocks", reference_blocks},
        {"random blocks", random_blocks},
        {"forms", forms},
    };
    return TESTING_RUN("block_parts", cases);
}
