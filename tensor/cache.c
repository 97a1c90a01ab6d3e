/* See cache.h. */
#include "tensor/cache.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "tensor/dtype.h"
#include "tensor/kernels/kernels.h"

#define STRIP_LIMIT (UINT64_C(1) << 40)
#define FIRST_SPAN UINT64_C(8)

const int8_t cache_levels[16] = {-127, -101, -80, -63, -48, -34, -21, -9, 2, 13, 25, 37, 50, 66, 84, 110};

/* ---- layout ---- */

/* Span number `index` begins here: 0, 8, 16, 32, 64, 128, 192 .. */
static uint64_t span_begin(uint64_t index)
{
    if (index == 0) return 0;
    return index < 4 ? FIRST_SPAN << (index - 1) : (index - 3) * CACHE_SPAN;
}

static uint64_t span_of(uint64_t position)
{
    uint64_t index = 0;

    if (position >= CACHE_SPAN) return position / CACHE_SPAN + 3;
    while (position >= span_begin(index + 1))
        index++;
    return index;
}

enum status cache_layout(struct cache_layout *out, uint32_t bits, uint32_t size, uint64_t capacity,
    bool centered, struct error *err)
{
    uint64_t codes, scales, centers, sum;

    *out = (struct cache_layout){.bits = bits, .size = size, .capacity = capacity, .centered = centered};
    if (bits != 8 && bits != 4)
        return fail(
            err, ERR_UNSUPPORTED, "a cache of %" PRIu32 " bits is not known; there are 32, 8 and 4", bits);
    if (size == 0 || size % 2 || capacity == 0)
        return fail(err, ERR_USAGE, "a cache needs an even head size and at least one position");
    out->groups = (size - 1) / CACHE_GROUP + 1;
    out->code_bytes = (uint64_t)size * bits / 8;
    if (checked_multiply(&codes, capacity, out->code_bytes) || checked_align(&out->scales_at, codes, 64) ||
        checked_multiply(&scales, capacity, 2 * (uint64_t)out->groups) ||
        checked_add(&sum, out->scales_at, scales) || checked_align(&out->centers_at, sum, 64) ||
        checked_multiply(
            &centers, centered ? span_of(capacity - 1) + 1 : 0, sizeof(uint16_t) * (uint64_t)size) ||
        checked_add(&sum, out->centers_at, centers) || checked_align(&out->bytes, sum, 64) ||
        out->bytes >= STRIP_LIMIT)
        return fail(err, ERR_MEMORY, "a cache of %" PRIu64 " positions needs 2^40 bytes or more", capacity);
    return OK;
}

uint64_t cache_row_bytes_spanwise(const struct cache_layout *layout)
{
    uint64_t center = layout->centered ? sizeof(uint16_t) * (uint64_t)layout->size : 0;

    return CACHE_SPAN * (layout->code_bytes + sizeof(uint16_t) * layout->groups) + center;
}

static uint16_t *scales_of(const struct cache_layout *layout, const uint8_t *strip, uint64_t position)
{
    return (uint16_t *)(uintptr_t)(strip + layout->scales_at) + position * layout->groups;
}

/* The center of the span of a position, or NULL where it is 0. */
static uint16_t *center_of(const struct cache_layout *layout, const uint8_t *strip, uint64_t position)
{
    uint64_t span = span_of(position);

    if (!layout->centered || span == 0) return NULL;
    return (uint16_t *)(uintptr_t)(strip + layout->centers_at) + span * layout->size;
}

/* ---- reading ---- */

static void decode(const struct cache_layout *layout, float *out, const uint8_t *codes,
    const uint16_t *scales, const uint16_t *center, uint64_t rows, uint64_t size)
{
    if (layout->bits == 8)
        kernels()->cache_decode8(out, codes, scales, center, rows, size);
    else
        kernels()->cache_decode4(out, codes, scales, center, rows, size);
}

void cache_read(
    const struct cache_layout *layout, float *out, const uint8_t *strip, uint64_t first, uint64_t count)
{
    uint64_t end = first + count, rows;

    for (; first < end; first += rows, out += rows * layout->size) {
        rows = layout->centered ? span_begin(span_of(first) + 1) - first : count;
        if (rows > end - first) rows = end - first;
        decode(layout, out, strip + first * layout->code_bytes, scales_of(layout, strip, first),
            center_of(layout, strip, first), rows, layout->size);
    }
}

/* ---- writing ---- */

/* The numbers of a group at column `col`. */
static uint64_t group_size(const struct cache_layout *layout, uint64_t col)
{
    return layout->size - col < CACHE_GROUP ? layout->size - col : CACHE_GROUP;
}

/* The center of the span that begins at `position`: means of the span before it. A mean beyond half precision becomes 0: the
 * center is a guess, any will do. */
static void find_center(const struct cache_layout *layout, uint8_t *strip, uint64_t position)
{
    uint16_t *center = center_of(layout, strip, position);
    uint64_t before = span_begin(span_of(position) - 1);

    for (uint64_t col = 0; col < layout->size; col += CACHE_GROUP) {
        uint64_t n = group_size(layout, col);
        const uint16_t *last = center_of(layout, strip, before);
        double sums[CACHE_GROUP] = {0};
        float row[CACHE_GROUP], means[CACHE_GROUP];

        for (uint64_t p = before; p < position; p++) {
            decode(layout, row, strip + p * layout->code_bytes + col * layout->bits / 8,
                scales_of(layout, strip, p) + col / CACHE_GROUP, last ? last + col : NULL, 1, n);
            for (uint64_t i = 0; i < n; i++)
                sums[i] += row[i];
        }
        for (uint64_t i = 0; i < n; i++) {
            means[i] = (float)(sums[i] / (double)(position - before));
            if (!(fabsf(means[i]) <= 65504)) means[i] = 0;
        }
        kernels()->f32_to_f16(center + col, means, n);
    }
}

/* Eight bits need no search: the number of largest magnitude becomes code 0, the lowest there is. */
static void encode8(uint8_t *codes, uint16_t *scale, const float *x, uint64_t n, float extreme)
{
    const float zero = 128;
    float stored, inverse;

    *scale = dtype_f32_to_f16(extreme / -8);
    stored = dtype_f16_to_f32(*scale);
    inverse = stored != 0 ? 16 / stored : 0;
    kernels()->group_encode(codes, x, 1, n, &inverse, &zero, 255);
}

/* One group; false if its scale is beyond half precision. */
static bool encode(
    const struct cache_layout *layout, uint8_t *codes, uint16_t *scale, const float *x, uint64_t n)
{
    float low, high, extreme;

    kernels()->group_extremes(&low, &high, x, 1, n);
    if (isnan(low)) {
        memset(codes, 0, n * layout->bits / 8);
        *scale = dtype_f32_to_f16(NAN);
        return true;
    }
    extreme = -low >= high ? low : high;
    if (fabsf(extreme) > CACHE_LARGEST) return false;
    if (layout->bits == 8)
        encode8(codes, scale, x, n, extreme);
    else
        kernels()->cache_encode4(codes, scale, x, n, extreme);
    return true;
}

static bool write_row(const struct cache_layout *layout, uint8_t *strip, uint64_t position, const float *x)
{
    const uint16_t *center = center_of(layout, strip, position);
    uint8_t *codes = strip + position * layout->code_bytes;
    uint16_t *scales = scales_of(layout, strip, position);

    for (uint64_t col = 0; col < layout->size; col += CACHE_GROUP) {
        uint64_t n = group_size(layout, col);
        float rest[CACHE_GROUP];

        if (center) kernels()->f16_to_f32(rest, center + col, n);
        for (uint64_t i = 0; i < n; i++)
            rest[i] = center ? x[col + i] - rest[i] : x[col + i];
        if (!encode(layout, codes + col * layout->bits / 8, scales + col / CACHE_GROUP, rest, n))
            return false;
    }
    return true;
}

enum status cache_write(const struct cache_layout *layout, uint8_t *strip, uint64_t first, const float *x,
    uint64_t stride, uint64_t count, struct error *err)
{
    for (uint64_t position = first; position < first + count; position++, x += stride) {
        if (center_of(layout, strip, position) && span_begin(span_of(position)) == position)
            find_center(layout, strip, position);
        if (!write_row(layout, strip, position, x))
            return fail(err, ERR_NUMERIC,
                "a key or value at position %" PRIu64 " is too large for a cache of %" PRIu32
                " bits (above %.0f); use one of 32 bits",
                position, layout->bits, (double)CACHE_LARGEST);
    }
    return OK;
}

/* ---- rotation ---- */

/* The fast transform, n a power of two: sums and differences over distances 1, 2, 4 .. */
static void transform(float *x, uint32_t n, float norm)
{
    for (uint32_t distance = 1; distance < n; distance *= 2) {
        for (uint32_t begin = 0; begin < n; begin += 2 * distance) {
            for (uint32_t i = begin; i < begin + distance; i++) {
                float a = x[i], b = x[i + distance];

                x[i] = a + b;
                x[i + distance] = a - b;
            }
        }
    }
    for (uint32_t i = 0; i < n; i++)
        x[i] *= norm;
}

void cache_rotate(float *x, uint64_t rows, uint32_t size)
{
    uint32_t part = size & (~size + 1);
    float norm = (float)(1 / sqrt((double)part));

    for (uint64_t i = 0; i < rows * size; i += part)
        transform(x + i, part, norm);
}
