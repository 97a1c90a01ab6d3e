/* What repeated measurements say together: the median and how far they lie apart. */
#ifndef NIBBLE_RUNTIME_CHECK_SPREAD_H
#define NIBBLE_RUNTIME_CHECK_SPREAD_H

#include <stdint.h>

/* The median (of an even number of values the mean of the two in the middle), the least and the greatest. A median, because
 * one disturbed repeat must not move the result; the extremes, because with few repeats they show all there is to know. */
struct spread {
    double median, least, most;
};

/* Of count values (at least 1) in any order; one that is NaN makes all three NaN: what could not be measured every time has no
 * result. The array is sorted by the call, unless it holds a NaN. */
struct spread spread_of(double *values, uint64_t count);

#endif
