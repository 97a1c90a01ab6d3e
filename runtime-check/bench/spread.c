/* See spread.h. */
#include "runtime-check/bench/spread.h"

#include <math.h>
#include <stdlib.h>

static int compare_numbers(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct spread spread_of(double *values, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (isnan(values[i])) return (struct spread){values[i], values[i], values[i]};
    }
    qsort(values, count, sizeof *values, compare_numbers);
    const double low = values[(count - 1) / 2], high = values[count / 2];
    return (struct spread){low + (high - low) / 2, values[0], values[count - 1]};
}
