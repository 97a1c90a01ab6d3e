/* Floating types to floats and back. */
#include "formats/cast.h"

#include <math.h>
#include <string.h>

#include "tensor/kernels/kernels.h"

const float *cast_to_floats(enum dtype dtype, const void *raw, float *floats, uint64_t count)
{
    switch (dtype) {
    case DTYPE_F32:
        return raw;
    case DTYPE_F16:
        kernels()->f16_to_f32(floats, raw, count);
        break;
    case DTYPE_BF16:
        kernels()->bf16_to_f32(floats, raw, count);
        break;
    default:
        dtype_info(dtype)->decode(floats, raw, count);
        break;
    }
    return floats;
}

const void *cast_from_floats(enum dtype dtype, const float *floats, void *out, uint64_t count)
{
    switch (dtype) {
    case DTYPE_F32:
        return floats;
    case DTYPE_F16:
        kernels()->f32_to_f16(out, floats, count);
        break;
    case DTYPE_BF16:
        kernels()->f32_to_bf16(out, floats, count);
        break;
    default:
        dtype_info(dtype)->encode(out, floats, count);
        break;
    }
    return out;
}

static uint32_t magnitude_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7FFFFFFF;
}

enum { MAGNITUDE_INFINITE = 0x7F800000 };

/* The least magnitude, as bits of a float, that becomes infinite in a type: halfway from its largest number
 * to what would be the next. */
static uint32_t overflow_magnitude(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F16:
        return 0x477FF000; /* 65520 */
    case DTYPE_BF16:
        return 0x7F7F8000; /* (2 - 2^-8) * 2^127 */
    default:
        return MAGNITUDE_INFINITE;
    }
}

static bool any_reaches(const float *floats, uint64_t count, uint32_t magnitude)
{
    uint32_t most = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t found = magnitude_of(floats[i]);
        most = found > most ? found : most;
    }
    return most >= magnitude;
}

bool cast_overflows(enum dtype dtype, const float *floats, const double *doubles, uint64_t count,
    uint64_t *index, double *value)
{
    uint32_t limit = overflow_magnitude(dtype);

    if (!any_reaches(floats, count, limit)) return false; /* as good as always */
    for (*index = 0; *index < count; ++*index) {
        *value = doubles ? doubles[*index] : floats[*index];
        if (magnitude_of(floats[*index]) >= limit && isfinite(*value)) return true;
    }
    return false;
}
