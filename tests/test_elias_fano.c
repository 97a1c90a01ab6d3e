/* Sorted ids in a fixed number of bytes: what is read is what was written, sizes are the stated ones, and other bytes are refused or
 * are sorted ids themselves. */
#include "distill/elias_fano.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

enum { MOST = 4096 };

static int compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void check_round(const struct elias_fano *code, const uint32_t *ids)
{
    static uint32_t found[MOST];
    static uint8_t bytes[16 * MOST];
    elias_fano_put(bytes, code, ids);
    CU_ASSERT_TRUE(elias_fano_get(found, code, bytes));
    CU_ASSERT_EQUAL(memcmp(found, ids, code->count * sizeof *ids), 0);
}

static void test_round_trips(void)
{
    static const uint32_t universes[] = {1, 2, 3, 50, 2048, 32000, 131072, 151936, 262144, 1 << 20};
    static const uint32_t counts[] = {1, 2, 12, 50, 128, 1000, 4096};
    static uint32_t ids[MOST];
    uint64_t random = 3;
    for (unsigned u = 0; u < 10; u++) {
        for (unsigned c = 0; c < 7; c++) {
            const struct elias_fano code = elias_fano_layout(universes[u], counts[c]);
            for (unsigned kind = 0; kind < 6; kind++) {
                for (uint32_t i = 0; i < counts[c]; i++) {
                    const uint32_t any = (uint32_t)(testing_random(&random) % universes[u]);
                    ids[i] = kind == 0 ? 0 : kind == 1 ? universes[u] - 1 : kind == 2 ? any / 50 : any;
                }
                qsort(ids, counts[c], sizeof *ids, compare);
                check_round(&code, ids);
            }
        }
    }
}

/* Every subset of a small universe, with and without repeats. */
static void test_all_multisets(void)
{
    const struct elias_fano code = elias_fano_layout(6, 3);
    for (uint32_t a = 0; a < 6; a++) {
        for (uint32_t b = a; b < 6; b++) {
            for (uint32_t c = b; c < 6; c++)
                check_round(&code, (const uint32_t[]){a, b, c});
        }
    }
}

static void test_sizes(void)
{
    CU_ASSERT_EQUAL(elias_fano_layout(131072, 50).bytes, 83); /* 50 * 11 + 50 + 63 bits */
    CU_ASSERT_EQUAL(elias_fano_layout(131072, 12).bytes, 23); /* 12 * 13 + 12 + 15 */
    CU_ASSERT_EQUAL(elias_fano_layout(1 << 20, 50).low, 14);
    CU_ASSERT_EQUAL(elias_fano_layout(10, 100).low, 0);
}

/* Of all strings of two bytes those that are accepted are exactly the codes of the multisets. */
static void test_hostile(void)
{
    const struct elias_fano code = elias_fano_layout(20, 3);
    uint32_t ids[3], accepted = 0;
    REQUIRE(code.bytes == 2, NULL);
    for (uint32_t value = 0; value < 65536; value++) {
        const uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
        uint8_t again[2];
        if (!elias_fano_get(ids, &code, bytes)) continue;
        accepted++;
        CU_ASSERT_TRUE(ids[0] <= ids[1] && ids[1] <= ids[2] && ids[2] < 20);
        elias_fano_put(again, &code, ids);
        CU_ASSERT_EQUAL(memcmp(again, bytes, 2), 0);
    }
    CU_ASSERT_EQUAL(accepted, 1540); /* 20 + 3 - 1 over 3 */
}

int main(void)
{
    static const struct test_case cases[] = {
        {"round trips", test_round_trips},
        {"all multisets", test_all_multisets},
        {"sizes", test_sizes},
        {"hostile", test_hostile},
    };
    return TESTING_RUN("elias_fano", cases);
}
