/* Rows of stored base logits to bytes and back. In a block the bytes of equal weight lie together, because the high bytes of
 * the codes repeat and the low ones do not. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/bytes.h"
#include "runtime-check/judge/base_logits_parts.h"
#include "runtime-check/judge/divergence.h"
#include "tensor/kernels/kernels.h"

const uint8_t base_logits_magic[8] = {0x89, 'N', 'B', 'B', '\r', '\n', 0x1A, '\n'};

/* ---- layout ---- */

void base_logits_layout(struct base_logits_layout *out, const struct base_logits_info *info)
{
    const bool whole = info->top_k == 0;
    *out = (struct base_logits_layout){
        .vocabulary = info->vocabulary,
        .top_k = info->top_k,
        .words = whole ? 4 : 2,
        .id_bytes = whole                         ? 0
                    : info->vocabulary <= 1 << 16 ? 2
                                                  : 4,
        .elements = whole ? info->vocabulary : info->top_k,
        .rows = info->windows * info->scored,
    };
    out->planes = whole ? 2 : out->id_bytes + (unsigned)sizeof(float);
    out->row_bytes = out->words * sizeof(uint32_t) + out->planes * out->elements;
    out->block_rows = BASE_LOGITS_BLOCK_BYTES / out->row_bytes;
    if (out->block_rows == 0) out->block_rows = 1;
    out->blocks = (out->rows + out->block_rows - 1) / out->block_rows;
}

uint64_t base_logits_block_rows(const struct base_logits_layout *layout, uint64_t block)
{
    const uint64_t left = layout->rows - block * layout->block_rows;
    return left < layout->block_rows ? left : layout->block_rows;
}

enum status base_logits_check_info(const struct base_logits_info *info, struct error *err)
{
    const uint64_t top_k_most =
        info->vocabulary < BASE_LOGITS_TOP_K_LIMIT ? info->vocabulary : BASE_LOGITS_TOP_K_LIMIT;
    if (info->protocol != PERPLEXITY_GPTQ && info->protocol != PERPLEXITY_LLAMA_CPP)
        return fail(err, ERR_FORMAT, "protocol is %u, not 0 or 1", (unsigned)info->protocol);
    if (info->vocabulary == 0 || info->vocabulary > BASE_LOGITS_VOCABULARY_LIMIT)
        return fail(err, ERR_FORMAT, "vocabulary is %" PRIu32 ", not 1 to %d", info->vocabulary,
            BASE_LOGITS_VOCABULARY_LIMIT);
    if (info->context < 4 || info->context > BASE_LOGITS_CONTEXT_LIMIT)
        return fail(
            err, ERR_FORMAT, "context is %" PRIu64 ", not 4 to %d", info->context, BASE_LOGITS_CONTEXT_LIMIT);
    if (info->windows == 0) return fail(err, ERR_FORMAT, "there are no windows");
    if (info->top_k > top_k_most)
        return fail(err, ERR_FORMAT, "top-k is %" PRIu64 ", not at most %" PRIu64, info->top_k, top_k_most);
    return OK;
}

static void put_word(uint8_t *block, uint64_t rows, uint64_t row, unsigned column, uint32_t value)
{
    bytes_put(block + sizeof(uint32_t) * (column * rows + row), value, sizeof value);
}

static uint64_t plane_offset(
    const struct base_logits_layout *layout, uint64_t rows, uint64_t row, unsigned plane)
{
    return sizeof(uint32_t) * layout->words * rows + (plane * rows + row) * layout->elements;
}

uint32_t base_logits_word(const uint8_t *block, uint64_t rows, uint64_t row, unsigned column)
{
    return bytes_get_u32(block + sizeof(uint32_t) * (column * rows + row));
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float base_logits_number(const uint8_t *block, uint64_t rows, uint64_t row, unsigned column)
{
    return float_of(base_logits_word(block, rows, row, column));
}

/* ---- whole rows ---- */

enum { LANES = 8 };

/* The lowest of n, and whether all are finite. */
static float lowest_of(const float *x, uint64_t n, bool *finite)
{
    float lanes[LANES];
    uint32_t odd = 0;
    uint64_t i = 0;
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = x[0];
    for (; i + LANES <= n; i += LANES) {
        for (unsigned lane = 0; lane < LANES; lane++) {
            lanes[lane] = x[i + lane] < lanes[lane] ? x[i + lane] : lanes[lane];
            odd |= !(fabsf(x[i + lane]) <= FLT_MAX);
        }
    }
    for (; i < n; i++) {
        lanes[0] = x[i] < lanes[0] ? x[i] : lanes[0];
        odd |= !(fabsf(x[i]) <= FLT_MAX);
    }
    for (int lane = 1; lane < LANES; lane++)
        lanes[0] = lanes[lane] < lanes[0] ? lanes[lane] : lanes[0];
    *finite = !odd;
    return lanes[0];
}

static uint32_t first_equal(const float *x, uint64_t n, float value)
{
    uint32_t i = 0;
    while (i + 1 < n && x[i] != value)
        i++;
    return i;
}

static bool encode_whole(const struct base_logits_layout *layout, uint8_t *block, uint64_t rows, uint64_t row,
    const float *logits, uint32_t target)
{
    const uint64_t count = layout->vocabulary;
    uint8_t *low = block + plane_offset(layout, rows, row, 0),
            *high = block + plane_offset(layout, rows, row, 1);
    float top;
    bool finite;
    const double log_sum = divergence_log_sum(&top, logits, count);
    const float bottom = lowest_of(logits, count, &finite);
    if (!finite || !isfinite(log_sum)) return false;
    const float range = top - bottom < BASE_LOGITS_RANGE ? top - bottom : BASE_LOGITS_RANGE;
    const float step = range / BASE_LOGITS_LEVELS, per_step = range > 0 ? BASE_LOGITS_LEVELS / range : 0;
    const float words[] = {[WHOLE_HIGHEST] = (float)-log_sum,
        [WHOLE_STEP] = step,
        [WHOLE_TARGET] = (float)((double)logits[target] - (double)top - log_sum)};
    for (unsigned i = 0; i <= WHOLE_TARGET; i++)
        put_word(block, rows, row, i, bits_of(words[i]));
    put_word(block, rows, row, WHOLE_FIRST, first_equal(logits, count, top));
    for (uint64_t i = 0; i < count; i++) {
        const float below = (top - logits[i]) * per_step + 0.5f;
        const uint32_t code = below < BASE_LOGITS_LEVELS ? (uint32_t)below : BASE_LOGITS_LEVELS;
        low[i] = (uint8_t)code;
        high[i] = (uint8_t)(code >> 8);
    }
    return true;
}

void base_logits_decode(
    const struct base_logits_layout *layout, const uint8_t *block, uint64_t rows, uint64_t row, float *out)
{
    const uint8_t *low = block + plane_offset(layout, rows, row, 0),
                  *high = block + plane_offset(layout, rows, row, 1);
    const float highest = base_logits_number(block, rows, row, WHOLE_HIGHEST),
                step = base_logits_number(block, rows, row, WHOLE_STEP);
    for (uint64_t i = 0; i < layout->vocabulary; i++)
        out[i] = highest - step * (float)(low[i] | high[i] << 8);
}

/* ---- the k likeliest ---- */

/* The order of tokens: by falling logit, ties by id. */
static bool likelier(struct base_logits_candidate a, struct base_logits_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* A heap whose root is the least likely: let the entry at `at` sink to its place among the first `count`. */
static void sink(struct base_logits_candidate *heap, uint64_t count, uint64_t at)
{
    const struct base_logits_candidate moved = heap[at];
    for (uint64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && likelier(heap[child], heap[child + 1])) child++;
        if (!likelier(moved, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* The k likeliest of n logits, in order. A later logit that only equals the least likely one so far stays behind it. */
static void select_top(struct base_logits_candidate *top, uint64_t k, const float *logits, uint64_t n)
{
    for (uint64_t i = 0; i < k; i++)
        top[i] = (struct base_logits_candidate){logits[i], (uint32_t)i};
    for (uint64_t i = k / 2; i-- > 0;)
        sink(top, k, i);
    for (uint64_t i = k; i < n; i++) {
        if (!(logits[i] > top[0].logit)) continue;
        top[0] = (struct base_logits_candidate){logits[i], (uint32_t)i};
        sink(top, k, 0);
    }
    for (uint64_t left = k; left-- > 1;) {
        const struct base_logits_candidate last = top[left];
        top[left] = top[0];
        top[0] = last;
        sink(top, left, 0);
    }
}

/* Sum of e^(x - top) over the tokens behind `last`, in single-precision exponentials as everywhere. */
static double sum_behind(const float *logits, uint64_t n, float top, struct base_logits_candidate last)
{
    enum { PIECE = 1024 };
    float piece[PIECE], unused;
    double sum = 0;
    for (uint64_t begin = 0; begin < n; begin += PIECE) {
        const uint64_t count = n - begin < PIECE ? n - begin : PIECE;
        memcpy(piece, logits + begin, count * sizeof *piece);
        kernels()->exp_sum(&unused, piece, top, count);
        for (uint64_t i = 0; i < count; i++) {
            const struct base_logits_candidate here = {logits[begin + i], (uint32_t)(begin + i)};
            if (likelier(last, here)) sum += (double)piece[i];
        }
    }
    return sum;
}

static bool encode_top(const struct base_logits_layout *layout, uint8_t *block, uint64_t rows, uint64_t row,
    const float *logits, uint32_t target, struct base_logits_candidate *top)
{
    bool finite;
    float highest;
    const double log_sum = divergence_log_sum(&highest, logits, layout->vocabulary);
    lowest_of(logits, layout->vocabulary, &finite);
    if (!finite || !isfinite(log_sum)) return false;
    select_top(top, layout->top_k, logits, layout->vocabulary);
    const double rest = sum_behind(logits, layout->vocabulary, highest, top[layout->top_k - 1]);
    const float log_rest = rest > 0 ? (float)(log(rest) - log_sum) : -INFINITY;
    const float log_target = (float)((double)logits[target] - (double)highest - log_sum);
    put_word(block, rows, row, TOP_REST, bits_of(log_rest));
    put_word(block, rows, row, TOP_TARGET, bits_of(log_target));
    for (uint64_t i = 0; i < layout->top_k; i++) {
        const float log_prob = (float)((double)top[i].logit - (double)highest - log_sum);
        const uint64_t id_bits = 8 * layout->id_bytes;
        for (unsigned plane = 0; plane < layout->planes; plane++) {
            const uint64_t element = top[i].id | (uint64_t)bits_of(log_prob) << id_bits;
            block[plane_offset(layout, rows, row, plane) + i] = (uint8_t)(element >> (8 * plane));
        }
    }
    return true;
}

bool base_logits_encode(const struct base_logits_layout *layout, uint8_t *block, uint64_t rows, uint64_t row,
    const float *logits, uint32_t target, struct base_logits_candidate *scratch)
{
    return layout->top_k ? encode_top(layout, block, rows, row, logits, target, scratch)
                         : encode_whole(layout, block, rows, row, logits, target);
}

/* ---- what a file holds ---- */

/* A logarithm of a probability, up to rounding. */
static bool is_log_probability(float value)
{
    return isfinite(value) && value <= 1e-3f;
}

static enum status check_whole(const struct base_logits_layout *layout, const uint8_t *block, uint64_t rows,
    uint64_t row, struct error *err)
{
    const float step = base_logits_number(block, rows, row, WHOLE_STEP);
    const uint32_t first = base_logits_word(block, rows, row, WHOLE_FIRST);
    if (!is_log_probability(base_logits_number(block, rows, row, WHOLE_HIGHEST)))
        return fail(err, ERR_FORMAT, "the highest log-probability is not one");
    if (!is_log_probability(base_logits_number(block, rows, row, WHOLE_TARGET)))
        return fail(err, ERR_FORMAT, "the target's log-probability is not one");
    if (!(step >= 0 && step <= BASE_LOGITS_RANGE / BASE_LOGITS_LEVELS * 1.001f))
        return fail(err, ERR_FORMAT, "the step is %g, not 0 to %g", (double)step,
            (double)(BASE_LOGITS_RANGE / BASE_LOGITS_LEVELS));
    if (first >= layout->vocabulary)
        return fail(err, ERR_FORMAT, "the likeliest token is %" PRIu32 ", the vocabulary has %" PRIu32, first,
            layout->vocabulary);
    return OK;
}

static enum status check_top(const struct base_logits_layout *layout, const uint8_t *block, uint64_t rows,
    uint64_t row, uint32_t *ids, float *log_probs, struct error *err)
{
    const float rest = base_logits_number(block, rows, row, TOP_REST);
    if (!is_log_probability(rest) && rest != -INFINITY)
        return fail(err, ERR_FORMAT, "the log-probability of the rest is not one");
    if (!is_log_probability(base_logits_number(block, rows, row, TOP_TARGET)))
        return fail(err, ERR_FORMAT, "the target's log-probability is not one");
    for (uint64_t i = 0; i < layout->top_k; i++) {
        uint64_t element = 0;
        for (unsigned plane = 0; plane < layout->planes; plane++)
            element |= (uint64_t)block[plane_offset(layout, rows, row, plane) + i] << (8 * plane);
        ids[i] = (uint32_t)(element & ((UINT64_C(1) << (8 * layout->id_bytes)) - 1));
        log_probs[i] = float_of((uint32_t)(element >> (8 * layout->id_bytes)));
        if (ids[i] >= layout->vocabulary)
            return fail(err, ERR_FORMAT, "token %" PRIu32 " is beyond the vocabulary of %" PRIu32, ids[i],
                layout->vocabulary);
        if (!is_log_probability(log_probs[i]) || (i > 0 && log_probs[i] > log_probs[i - 1]))
            return fail(
                err, ERR_FORMAT, "log-probability %" PRIu64 " is not one, or higher than the one before", i);
    }
    return OK;
}

enum status base_logits_check_row(const struct base_logits_layout *layout, const uint8_t *block,
    uint64_t rows, uint64_t row, uint32_t *ids, float *log_probs, struct error *err)
{
    return layout->top_k ? check_top(layout, block, rows, row, ids, log_probs, err)
                         : check_whole(layout, block, rows, row, err);
}
