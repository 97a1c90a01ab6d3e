/* The meaning of every kernel: plain C, double accumulation where sets may differ, no tricks. */
#include <math.h>
#include <string.h>

#include "tensor/cache.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"

/* ---- conversion ---- */

static void scalar_f16_to_f32(float *out, const void *in, uint64_t n)
{
    dtype_info(DTYPE_F16)->decode(out, in, n);
}

static void scalar_bf16_to_f32(float *out, const void *in, uint64_t n)
{
    dtype_info(DTYPE_BF16)->decode(out, in, n);
}

static void scalar_f32_to_f16(void *out, const float *in, uint64_t n)
{
    dtype_info(DTYPE_F16)->encode(out, in, n);
}

static void scalar_f32_to_bf16(void *out, const float *in, uint64_t n)
{
    dtype_info(DTYPE_BF16)->encode(out, in, n);
}

/* ---- dot products ---- */

static float dot(enum dtype dtype, const void *weights, const float *x, uint64_t n)
{
    const struct dtype_info *info = dtype_info(dtype);
    const unsigned char *bytes = weights;
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        float weight;
        info->decode(&weight, bytes + i * info->bytes, 1);
        sum += (double)weight * x[i];
    }
    return (float)sum;
}

static void scalar_dot_f32(float *sum, const void *weights, const float *x, uint64_t n)
{
    *sum = dot(DTYPE_F32, weights, x, n);
}

static void scalar_dot_f16(float *sum, const void *weights, const float *x, uint64_t n)
{
    *sum = dot(DTYPE_F16, weights, x, n);
}

static void scalar_dot_bf16(float *sum, const void *weights, const float *x, uint64_t n)
{
    *sum = dot(DTYPE_BF16, weights, x, n);
}

static void dots(enum dtype dtype, float *sums, const void *weights, uint64_t rows, const float *x,
    uint64_t tokens, uint64_t n)
{
    const unsigned char *bytes = weights;
    for (uint64_t t = 0; t < tokens; t++) {
        for (uint64_t r = 0; r < rows; r++)
            sums[t * rows + r] = dot(dtype, bytes + r * n * dtype_info(dtype)->bytes, x + t * n, n);
    }
}

static void scalar_dots_f32(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    dots(DTYPE_F32, sums, weights, rows, x, tokens, n);
}

static void scalar_dots_f16(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    dots(DTYPE_F16, sums, weights, rows, x, tokens, n);
}

static void scalar_dots_bf16(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    dots(DTYPE_BF16, sums, weights, rows, x, tokens, n);
}

/* ---- the grid ---- */

static void scalar_group_extremes(
    float *low, float *high, const float *weights, uint64_t groups, uint64_t group)
{
    for (uint64_t g = 0; g < groups; g++, weights += group) {
        low[g] = high[g] = weights[0];
        for (uint64_t i = 0; i < group; i++) {
            if (!isfinite(weights[i])) {
                low[g] = high[g] = NAN;
                break;
            }
            if (weights[i] < low[g]) low[g] = weights[i];
            if (weights[i] > high[g]) high[g] = weights[i];
        }
    }
}

/* The whole number of steps nearest to the weight that a code can express: code - zero. The limits are whole
 * numbers, so it does not matter that they are applied before the rounding. */
static float nearest_step(float weight, float inverse, float zero, float top)
{
    float steps = weight * inverse;
    if (steps < -zero) steps = -zero;
    if (steps > top - zero) steps = top - zero;
    return (float)lrintf(steps);
}

static void scalar_group_encode(uint8_t *codes, const float *weights, uint64_t groups, uint64_t group,
    const float *inverses, const float *zeros, float top)
{
    for (uint64_t g = 0; g < groups; g++) {
        for (uint64_t i = 0; i < group; i++) {
            *codes++ = (uint8_t)(nearest_step(*weights++, inverses[g], zeros[g], top) + zeros[g]);
        }
    }
}

/* Squared error of one candidate: single-precision sums of GRID_SEARCH_CHUNK columns, added up in double
 * precision. */
static double candidate_error(const struct grid_candidates *candidates, uint64_t c, const float *weights,
    const float *importance, uint64_t count)
{
    double total = 0;
    for (uint64_t begin = 0; begin < count; begin += GRID_SEARCH_CHUNK) {
        uint64_t end = count - begin < GRID_SEARCH_CHUNK ? count : begin + GRID_SEARCH_CHUNK;
        float sum = 0;
        for (uint64_t i = begin; i < end; i++) {
            float steps =
                nearest_step(weights[i], candidates->inverse[c], candidates->zero[c], candidates->top);
            float difference = weights[i] - candidates->scale[c] * steps;
            float square = difference * difference;
            sum += importance ? square * importance[i] : square;
        }
        total += sum;
    }
    return total;
}

static void scalar_grid_search(uint64_t *best, const struct grid_candidates *candidates, const float *weights,
    const float *importance, uint64_t count)
{
    double least = INFINITY;
    *best = 0;
    for (uint64_t c = 0; c < candidates->count; c++) {
        double error = candidate_error(candidates, c, weights, importance, count);
        if (error < least) {
            least = error;
            *best = c;
        }
    }
}

/* ---- tiles ---- */

/* The byte of a plane that holds column `col` (of 32) of a row, and the bit where its part starts: see
 * tensor/tiles.h. */
struct place {
    uint64_t byte;
    uint32_t shift;
};

static struct place place_of(uint32_t width, uint64_t row, uint64_t col)
{
    uint64_t quad = col / 4; /* width * t + j */
    return (struct place){quad % width * 32 + row * 4 + col % 4, (uint32_t)(quad / width * width)};
}

static uint32_t plane_get(const uint8_t *plane, uint32_t width, uint64_t row, uint64_t col)
{
    struct place place = place_of(width, row, col);
    return (uint32_t)plane[place.byte] >> place.shift & ((1u << width) - 1);
}

static void plane_put(uint8_t *plane, uint32_t width, uint64_t row, uint64_t col, uint32_t part)
{
    struct place place = place_of(width, row, col);
    plane[place.byte] |= (uint8_t)((part & ((1u << width) - 1)) << place.shift);
}

static uint8_t block_get(const uint8_t *block, uint32_t bits, uint64_t row, uint64_t col)
{
    uint32_t low = tiles_low_width(bits), high = bits - low;
    uint32_t code = plane_get(block, low, row, col);
    if (high) code |= plane_get(block + 32 * low, high, row, col) << low;
    return (uint8_t)code;
}

static void block_put(uint8_t *block, uint32_t bits, uint64_t row, uint64_t col, uint8_t code)
{
    uint32_t low = tiles_low_width(bits), high = bits - low;
    plane_put(block, low, row, col, code);
    if (high) plane_put(block + 32 * low, high, row, col, (uint32_t)code >> low);
}

static void scalar_blocks_pack(
    uint8_t *out, const uint8_t *codes, uint64_t stride, uint64_t blocks, uint32_t bits)
{
    memset(out, 0, blocks * 32 * bits);
    for (uint64_t row = 0; row < TILE_ROWS; row++) {
        for (uint64_t col = 0; col < blocks * TILE_COLS; col++) {
            block_put(
                out + col / TILE_COLS * 32 * bits, bits, row, col % TILE_COLS, codes[row * stride + col]);
        }
    }
}

static void scalar_blocks_unpack(
    uint8_t *out, uint64_t stride, const uint8_t *codes, uint64_t blocks, uint32_t bits)
{
    for (uint64_t row = 0; row < TILE_ROWS; row++) {
        for (uint64_t col = 0; col < blocks * TILE_COLS; col++) {
            out[row * stride + col] =
                block_get(codes + col / TILE_COLS * 32 * bits, bits, row, col % TILE_COLS);
        }
    }
}

/* The value of one code: what a column `col` (padding included) of a row of the tile decodes to. */
static float tile_value(const struct tiles_layout *layout, const uint8_t *codes, const uint16_t *scales,
    const uint8_t *zeros, uint64_t row, uint64_t col)
{
    const uint8_t *block = codes + col / TILE_COLS * layout->block_bytes;
    uint64_t at = tiles_half_group(layout, col / 16) * TILE_ROWS + row;
    int zero = zeros ? zeros[at] : 1 << (layout->bits - 1);
    return dtype_f16_to_f32(scales[at]) *
           (float)(block_get(block, layout->bits, row, col % TILE_COLS) - zero);
}

static void scalar_blocks_decode(const struct tiles_layout *layout, float *out, uint64_t stride,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, uint64_t begin, uint64_t end)
{
    uint64_t first = begin * TILE_COLS, cols = (end - begin) * TILE_COLS;
    for (uint64_t row = 0; row < TILE_ROWS; row++) {
        for (uint64_t col = 0; col < cols; col++) {
            out[row * stride + col] = tile_value(layout, codes, scales, zeros, row, first + col);
        }
    }
}

/* Every value is decoded once for all tokens. */
static void scalar_tile_dots(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x, uint64_t tokens)
{
    for (uint64_t row = 0; row < TILE_ROWS; row++) {
        double sums[TILE_TOKENS] = {0};
        for (uint64_t col = 0; col < layout->cols; col++) {
            const float *x_col = x + col / TILE_COLS * TILE_COLS * tokens + col % TILE_COLS;
            double value = (double)tile_value(layout, codes, scales, zeros, row, col);
            for (uint64_t t = 0; t < tokens; t++)
                sums[t] += value * x_col[t * TILE_COLS];
        }
        for (uint64_t t = 0; t < tokens; t++)
            y[t * TILE_ROWS + row] = (float)sums[t];
    }
}

static void scalar_tile_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x)
{
    scalar_tile_dots(layout, y, codes, scales, zeros, x, 1);
}

/* ---- the cache ---- */

/* scale / 16, exact, and times a level exact as well: only the center's sum is rounded. */
static float cache_step(uint16_t scale)
{
    return dtype_f16_to_f32(scale) / 16;
}

static void scalar_cache_decode8(float *out, const uint8_t *codes, const uint16_t *scales,
    const uint16_t *center, uint64_t rows, uint64_t size)
{
    uint64_t groups = (size + CACHE_GROUP - 1) / CACHE_GROUP;
    for (uint64_t row = 0; row < rows; row++, scales += groups) {
        for (uint64_t i = 0; i < size; i++) {
            float value = cache_step(scales[i / CACHE_GROUP]) * (float)(*codes++ - 128);
            *out++ = center ? value + dtype_f16_to_f32(center[i]) : value;
        }
    }
}

static void scalar_cache_decode4(float *out, const uint8_t *codes, const uint16_t *scales,
    const uint16_t *center, uint64_t rows, uint64_t size)
{
    uint64_t groups = (size + CACHE_GROUP - 1) / CACHE_GROUP;
    for (uint64_t row = 0; row < rows; row++, scales += groups, codes += size / 2) {
        for (uint64_t i = 0; i < size; i++) {
            uint64_t begin = i / CACHE_GROUP * CACHE_GROUP, n = size - begin, at = i - begin;
            if (n > CACHE_GROUP) n = CACHE_GROUP;
            uint32_t pair = codes[begin / 2 + at % (n / 2)];
            float value =
                cache_step(scales[i / CACHE_GROUP]) * (float)cache_levels[at < n / 2 ? pair & 15 : pair >> 4];
            *out++ = center ? value + dtype_f16_to_f32(center[i]) : value;
        }
    }
}

/* The code of the level nearest to x; halfway between two, the lower one. */
static uint8_t nearest_level(float x)
{
    uint8_t code = 0;
    for (int k = 0; k < 15; k++)
        code += x > (float)(cache_levels[k] + cache_levels[k + 1]) / 2;
    return code;
}

/* Codes of a group under a step, and its squared error, summed in eight lanes. */
static float levels_error(uint8_t *codes, const float *x, uint64_t n, float step)
{
    float lanes[8] = {0}, inverse = step != 0 ? 1 / step : 0;
    for (uint64_t i = 0; i < n; i++) {
        codes[i] = nearest_level(x[i] * inverse);
        float difference = x[i] - step * (float)cache_levels[codes[i]];
        lanes[i % 8] += difference * difference;
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* The scales that are tried: with either sign the outermost level at the extreme, and 0.80 to 1.15 times that. */
static void scalar_cache_encode4(uint8_t *codes, uint16_t *scale, const float *x, uint64_t n, float extreme)
{
    uint8_t best[CACHE_GROUP] = {0}, tried[CACHE_GROUP];
    float least = INFINITY;
    *scale = 0;
    for (int c = 0; c < 16; c++) {
        float factor = (float)(16 + c / 2) / 20;
        uint16_t stored = dtype_f32_to_f16(extreme * factor * (c % 2 ? 16.0f / 127 : -16.0f / 127));
        float error = levels_error(tried, x, n, cache_step(stored));
        if (!(error < least)) continue;
        least = error;
        *scale = stored;
        memcpy(best, tried, n);
    }
    for (uint64_t i = 0; i < n / 2; i++)
        codes[i] = (uint8_t)(best[i] | best[i + n / 2] << 4);
}

/* ---- sub-blocks ---- */

/* A lane of its own: what block_lanes.h says of lanes, for one float. */
typedef float lanes;
typedef bool lanes_mask;
#define LANES_WIDTH 1
#define LANES_KERNEL(name) scalar_##name
#define lanes_load(at) (*(at))
#define lanes_store(at, x) (*(at) = (x))
#define lanes_all(x) ((float)(x))
#define lanes_add(a, b) ((a) + (b))
#define lanes_sub(a, b) ((a) - (b))
#define lanes_mul(a, b) ((a) * (b))
#define lanes_div(a, b) ((a) / (b))
#define lanes_min(a, b) ((a) < (b) ? (a) : (b))
#define lanes_max(a, b) ((a) > (b) ? (a) : (b))
#define lanes_above(a, b) ((a) > (b))
#define lanes_choose(mask, a, b) ((mask) ? (a) : (b))

static float lanes_round(float x)
{
    return (float)lrintf(x);
}

typedef const int8_t *lanes_table;
#define lanes_table_of(levels) (levels)

static uint32_t nearest_code(const int8_t *levels, float x)
{
    uint32_t code = 0;
    for (int k = 0; k < 15; k++)
        code += x > (float)(levels[k] + levels[k + 1]) / 2;
    return code;
}

static float lanes_nearest(const lanes_table *table, float x)
{
    return (float)(*table)[nearest_code(*table, x)];
}

#include "tensor/kernels/block_lanes.h"

static void scalar_block_gather(struct block_lanes *out, bool *within, const float *weights,
    const float *importance, const float *per, uint32_t n)
{
    *within = true;
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        for (uint32_t i = 0; i < n; i++) {
            const float x = weights[lane * n + i], w = importance ? importance[lane * n + i] * per[lane] : 0;
            out->x[i][lane] = x;
            if (importance) out->w[i][lane] = w > BLOCK_LEAST ? w : BLOCK_LEAST;
            *within = *within && fabsf(x) <= BLOCK_MOST;
        }
    }
}

static void scalar_block_codes(uint8_t *codes, const struct block_grid *grid, const float *weights,
    const float *steps, const float *offsets, uint64_t count)
{
    for (uint64_t lane = 0; lane < count; lane++, weights += grid->n, codes += grid->n) {
        const float inverse = lanes_inverse(steps[lane], 0);
        for (uint32_t i = 0; i < grid->n; i++) {
            const float t = (weights[i] - offsets[lane]) * inverse;
            const float level = lanes_within(t, grid->lowest, grid->highest);
            codes[i] = (uint8_t)(grid->levels ? nearest_code(grid->levels, t)
                                              : (uint32_t)(lrintf(level) - lrintf(grid->lowest)));
        }
    }
}

/* ---- GGUF's blocks ---- */

static void scalar_block_decode(float *out, enum block_type type, const void *data, uint64_t blocks)
{
    const struct block_info *info = block_info(type);
    for (uint64_t i = 0; i < blocks; i++)
        info->decode(out + i * info->weights, (const uint8_t *)data + i * info->bytes);
}

static void scalar_block_dot(
    float *sum, enum block_type type, const void *data, const float *x, uint64_t blocks)
{
    const struct block_info *info = block_info(type);
    float values[BLOCK_WEIGHTS_MOST];
    double total = 0;
    for (uint64_t i = 0; i < blocks; i++) {
        info->decode(values, (const uint8_t *)data + i * info->bytes);
        for (uint32_t j = 0; j < info->weights; j++)
            total += (double)values[j] * x[i * info->weights + j];
    }
    *sum = (float)total;
}

/* ---- softmax and activations ---- */

static void scalar_maximum(float *out, const float *x, uint64_t n)
{
    *out = -INFINITY;
    for (uint64_t i = 0; i < n; i++)
        *out = x[i] > *out ? x[i] : *out;
}

static void scalar_exp_sum(float *sum, float *x, float shift, uint64_t n)
{
    double total = 0;
    for (uint64_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - shift);
        total += x[i];
    }
    *sum = (float)total;
}

static void scalar_silu_multiply(float *gate, const float *up, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

/* (1 + tanh(u)) / 2 = 1 / (1 + e^-2u). */
static void scalar_gelu_multiply(float *gate, const float *up, uint64_t n)
{
    const float slope = 1.5957691216057308f; /* sqrt(8 / pi) */
    for (uint64_t i = 0; i < n; i++) {
        float g = gate[i], bent = slope * (g + 0.044715f * g * g * g);
        gate[i] = g / (1 + expf(-bent)) * up[i];
    }
}

static void scalar_softcap(float *x, float cap, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        x[i] = cap * tanhf(x[i] / cap);
}

#define scalar_sparse_spread kernels_sparse_spread
#define scalar_sparse_dots kernels_sparse_dots
#define scalar_sparse_value_dots kernels_sparse_value_dots
#define KERNEL_ENTRY(name, arguments) .name = scalar_##name,
const struct kernels kernels_scalar = {.name = "scalar", KERNEL_LIST(KERNEL_ENTRY)};
