/* Nanoseconds per weight that fitting blocks takes on one core (tensor/block_fit.h): every type, every kernel set of this CPU, without and
 * with importance. The least of several repeats, so that a busy machine disturbs little. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/report.h"
#include "tensor/block_fit.h"
#include "tensor/kernels/kernels.h"

enum { ROWS = 256, COLS = 1024, REPEATS = 7 };

struct bench {
    float *weights, *importance; /* [ROWS][COLS], [COLS] */
    uint8_t *out;
};

static void require(bool condition, const struct error *err)
{
    if (!condition) exit(report_failure("bench-blocks", err));
}

/* Four uniform numbers of 16 bits: near enough to normal. */
static float random_normal(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    z ^= z >> 31;
    float sum = 0;
    for (int i = 0; i < 4; i++, z >>= 16)
        sum += (float)(z & 0xffff);
    return (sum - 2 * 65535) * (1.7320508f / 65536);
}

static double nanoseconds(const struct bench *bench, enum block_type type, const float *importance)
{
    double least = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        uint64_t row, col;
        const double start = report_seconds();
        if (!block_fit_rows(bench->out, type, bench->weights, ROWS, COLS, importance, &row, &col)) exit(1);
        const double seconds = report_seconds() - start;
        if (repeat == 0 || seconds < least) least = seconds;
    }
    return least * 1e9 / (ROWS * COLS);
}

int main(void)
{
    static const char *const sets[] = {"scalar", "avx2", "avx512"};
    struct error err = {0};
    struct bench bench = {.weights = memory_new(ROWS * COLS, sizeof(float), &err),
        .importance = memory_new(COLS, sizeof(float), &err),
        .out = memory_new(ROWS * COLS, 2, &err)};
    require(bench.weights && bench.importance && bench.out, &err);
    uint64_t state = 1;
    for (uint64_t i = 0; i < ROWS * COLS; i++)
        bench.weights[i] = random_normal(&state) / 64;
    for (uint64_t i = 0; i < COLS; i++) {
        const float root = random_normal(&state);
        bench.importance[i] = 0.125f + root * root;
    }
    printf("nanoseconds per weight, without / with importance\n%-8s", "type");
    for (size_t set = 0; set < sizeof sets / sizeof *sets; set++)
        printf("%16s", sets[set]);
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!block_form(type)) continue;
        printf("\n%-8s", block_info(type)->name);
        for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
            if (kernels_select(sets[set], &err) != OK) continue; /* this CPU lacks it */
            printf(
                "%8.2f /%6.2f", nanoseconds(&bench, type, NULL), nanoseconds(&bench, type, bench.importance));
        }
    }
    printf("\n");
    memory_free(bench.weights);
    memory_free(bench.importance);
    memory_free(bench.out);
    return 0;
}
