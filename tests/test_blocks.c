/* Block types against the reference package: the same values to the last bit (tests/golden/blocks, made by
 * scripts/make-golden-blocks.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/blocks.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/testing.h"

static void values_are_the_reference(void)
{
    for (int type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        const struct block_info *info = block_info((enum block_type)type);
        char name[64];
        uint64_t block_bytes, value_bytes;
        snprintf(name, sizeof name, "golden/blocks/%s.bin", info->name);
        char *blocks = testing_read(testing_source(name), &block_bytes);
        snprintf(name, sizeof name, "golden/blocks/%s.f32", info->name);
        char *values = testing_read(testing_source(name), &value_bytes);
        const uint64_t count = block_bytes / info->bytes * info->weights;
        CU_ASSERT_EQUAL(value_bytes, count * sizeof(float));
        CU_ASSERT(info->weights <= BLOCK_WEIGHTS_MOST && info->bytes <= BLOCK_BYTES_MOST);
        float *out = memory_new(count, sizeof *out, NULL);
        REQUIRE(out != NULL, NULL);
        blocks_decode(out, (enum block_type)type, blocks, 0, count);
        uint64_t same = 0;
        for (uint64_t i = 0; i < count; i++) {
            float expected;
            memcpy(&expected, values + i * sizeof expected, sizeof expected);
            same += out[i] == expected;
        }
        if (same != count)
            printf("%s: %d of %d values differ\n", info->name, (int)(count - same), (int)count);
        CU_ASSERT_EQUAL(same, count);
        memory_free(out);
        memory_free(values);
        memory_free(blocks);
    }
}

/* A part of a row is that part of the whole. */
static void parts(void)
{
    for (int type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        const struct block_info *info = block_info((enum block_type)type);
        uint8_t blocks[4 * BLOCK_BYTES_MOST];
        float whole[4 * BLOCK_WEIGHTS_MOST], part[2 * BLOCK_WEIGHTS_MOST];
        for (size_t i = 0; i < sizeof blocks; i++)
            blocks[i] = (uint8_t)(i % 59); /* no half of these bytes is infinite */
        blocks_decode(whole, (enum block_type)type, blocks, 0, 4 * info->weights);
        blocks_decode(part, (enum block_type)type, blocks, info->weights, 2 * info->weights);
        CU_ASSERT(memcmp(part, whole + info->weights, 2 * info->weights * sizeof *part) == 0);
    }
}

/* Every kernel set decodes to the same bits, and its products are those of its dot_f32 with what the blocks decode to. */
static void kernel_sets(void)
{
    static const char *const sets[] = {"scalar", "avx2", "avx512"};
    enum { BLOCKS = 5 };
    uint8_t blocks[BLOCKS * BLOCK_BYTES_MOST];
    float values[2][BLOCKS * BLOCK_WEIGHTS_MOST], x[BLOCKS * BLOCK_WEIGHTS_MOST];
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = testing_normal(&seed);
    for (size_t i = 0; i < sizeof blocks; i++)
        blocks[i] = (uint8_t)(testing_random(&seed) & 0xBB); /* no half of these bytes is infinite */
    for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
        if (kernels_select(sets[set], NULL) != OK) continue; /* this CPU lacks the set */
        for (int type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
            const uint64_t count = BLOCKS * block_info((enum block_type)type)->weights;
            float product, expected;
            kernels_scalar.block_decode(values[0], (enum block_type)type, blocks, BLOCKS);
            blocks_decode(values[1], (enum block_type)type, blocks, 0, count);
            CU_ASSERT(memcmp(values[0], values[1], count * sizeof **values) == 0);
            kernels()->block_dot(&product, (enum block_type)type, blocks, x, BLOCKS);
            kernels()->dot_f32(&expected, values[0], x, count);
            CU_ASSERT(memcmp(&product, &expected, sizeof product) == 0);
        }
    }
    CU_ASSERT(kernels_select(NULL, NULL) == OK);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"values are the reference's", values_are_the_reference},
        {"parts", parts},
        {"kernel sets", kernel_sets},
    };
    return TESTING_RUN("blocks", cases);
}
