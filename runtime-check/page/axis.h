/* Axes of a figure: from a value to a position, and where the ticks go. */
#ifndef NIBBLE_RUNTIME_CHECK_AXIS_H
#define NIBBLE_RUNTIME_CHECK_AXIS_H

#include <stdbool.h>
#include <stdint.h>

/* Linear; or logarithmic from `low` to `high` and, with `zero`, linear below `low` down to 0, so that no value is without a place. */
struct axis {
    bool logarithmic, zero;
    double low, high;                /* values; low < high, above 0 if logarithmic */
    double at_low, at_high, at_zero; /* their positions in the figure's units */
};

/* The position of a finite value. Values beyond the axis go to its nearer end. */
double axis_at(const struct axis *axis, double value);

/* Set low and high of a logarithmic axis to round numbers with some room around the values least .. most (both above 0; taken as at least 1e-12 and at most
 * 1e20). */
void axis_fit(struct axis *axis, double least, double most);

/* Round values from low to high, ascending: powers of ten where there are enough of them, else finer steps. Returns how many. */
enum { AXIS_TICKS = 16 };
uint64_t axis_ticks(const struct axis *axis, double *out);

#endif
