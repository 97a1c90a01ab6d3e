/* Floating types to floats and back, through the fast kernels, and the check that nothing finite is lost. */
#ifndef NIBBLE_FORMATS_CAST_H
#define NIBBLE_FORMATS_CAST_H

#include "tensor/dtype.h"

/* Elements as floats: `raw` itself where they are floats already, else `floats`.
 *   raw     [count]  in, elements of dtype, aligned to 64
 *   floats  [count]  scratch */
const float *cast_to_floats(enum dtype dtype, const void *raw, float *floats, uint64_t count);

/* Floats as elements, rounded to nearest: the floats themselves where that is the type, else `out`. */
const void *cast_from_floats(enum dtype dtype, const float *floats, void *out, uint64_t count);

/* Is there a finite value that becomes infinite in `dtype`? Then *index and *value say which is the first.
 * Infinities and NaN that were there before do not count.
 *
 *   floats   [count]  in
 *   doubles  [count]  in, what the floats were decoded from if that was F64, else NULL: it alone has finite
 *                     values that floats have not */
bool cast_overflows(enum dtype dtype, const float *floats, const double *doubles, uint64_t count,
    uint64_t *index, double *value);

#endif
