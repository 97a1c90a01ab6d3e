/* Softmax attention by blocks: up to 64 rows (queries x heads that share keys) against up to 512 keys at a
 * time, with the running maximum and sum of Milakov and Gimelshein 2018 (arXiv:1805.02867), as in
 * FlashAttention (Dao et al. 2022, arXiv:2205.14135, Algorithm 1). Scratch is bounded whatever the context,
 * keys that no row of a block may see are never touched (which halves causal work), and heads that share keys
 * read them once. Of a quantized cache a block of keys, then of values, is decoded into scratch. */
#include "model/backends/cpu_attention.h"

#include <math.h>
#include <string.h>

#include "model/backends/cpu_parallel.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"

#define ROWS 64  /* of a block of queries */
#define KEYS 512 /* of a block of keys */

/* How a call is cut into tasks: [sequences][kv_heads][head_blocks][token_blocks], computed from shapes alone.
 */
struct plan {
    const struct attention *call;
    uint64_t group;                   /* heads that share one key head */
    uint64_t head_block, token_block; /* of one task: head_block * token_block <= ROWS */
    uint64_t head_blocks, token_blocks, tasks;
    float *scratch;
};

/* One task: rows are tokens x heads, heads innermost. */
struct block {
    uint64_t sequence, kv_head, first_head, heads, first_token, tokens;
    float *q;         /* [rows][head_size] */
    float *sum_v;     /* [rows][head_size]: sum over keys of weight * value */
    float *weights;   /* [rows][KEYS]: scores, then their exponentials */
    float *decoded;   /* [KEYS][head_size], of a quantized cache */
    float peak[ROWS]; /* the largest score so far */
    float sum[ROWS];  /* sum of exponentials so far, relative to peak */
};

uint64_t cpu_attention_scratch(const struct attention *call)
{
    uint64_t size = call->head_size;

    return ROWS * (2 * size + KEYS) + (call->cache ? KEYS * size : 0);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static struct plan make_plan(const struct attention *call, float *scratch)
{
    struct plan plan = {.call = call, .group = call->heads / call->kv_heads, .scratch = scratch};

    plan.head_block = smaller(plan.group, ROWS);
    plan.token_block = ROWS / plan.head_block;
    plan.head_blocks = (plan.group + plan.head_block - 1) / plan.head_block;
    plan.token_blocks = (call->length + plan.token_block - 1) / plan.token_block;
    plan.tasks = call->sequences * call->kv_heads * plan.head_blocks * plan.token_blocks;
    return plan;
}

static struct block make_block(const struct plan *plan, uint64_t index, unsigned worker)
{
    const struct attention *call = plan->call;
    uint64_t size = call->head_size, head_block;
    struct block block;

    block.first_token = index % plan->token_blocks * plan->token_block;
    block.tokens = smaller(plan->token_block, call->length - block.first_token);
    index /= plan->token_blocks;
    head_block = index % plan->head_blocks * plan->head_block;
    block.heads = smaller(plan->head_block, plan->group - head_block);
    index /= plan->head_blocks;
    block.kv_head = index % call->kv_heads;
    block.first_head = block.kv_head * plan->group + head_block;
    block.sequence = index / call->kv_heads;
    block.q = plan->scratch + worker * cpu_attention_scratch(call);
    block.sum_v = block.q + ROWS * size;
    block.weights = block.sum_v + ROWS * size;
    block.decoded = block.weights + ROWS * KEYS;
    return block;
}

/* Where the heads of one token of the block lie in q and out. */
static uint64_t token_offset(const struct attention *call, const struct block *block, uint64_t token)
{
    uint64_t row = block->sequence * call->length + block->first_token + token;

    return (row * call->heads + block->first_head) * call->head_size;
}

static void load_queries(struct block *block, const struct attention *call)
{
    uint64_t floats = block->heads * call->head_size;

    for (uint64_t token = 0; token < block->tokens; token++)
        memcpy(block->q + token * floats, call->q + token_offset(call, block, token), floats * sizeof(float));
    memset(block->sum_v, 0, block->tokens * floats * sizeof(float));
    for (uint64_t row = 0; row < block->tokens * block->heads; row++) {
        block->peak[row] = -INFINITY;
        block->sum[row] = 0;
    }
}

static void store_outputs(const struct block *block, const struct attention *call)
{
    for (uint64_t row = 0; row < block->tokens * block->heads; row++) {
        float *out =
            call->out + token_offset(call, block, row / block->heads) + row % block->heads * call->head_size;
        const float *sum_v = block->sum_v + row * call->head_size;

        for (uint32_t i = 0; i < call->head_size; i++)
            out[i] = sum_v[i] / block->sum[row];
    }
}

/* Scores of one row to weights relative to its peak; what was summed under a lower peak is scaled down.
 *   scores  [count]  in: scores of the block's keys; out: weights, 0 outside begin .. end-1 (what the row may
 * see) */
static void exponentiate(struct block *block, const struct attention *call, uint64_t row, uint64_t count,
    uint64_t begin, uint64_t end)
{
    uint32_t head_size = call->head_size;
    float *scores = block->weights + row * KEYS, *sum_v = block->sum_v + row * head_size;
    float peak, decay, sum;

    memset(scores, 0, begin * sizeof *scores);
    memset(scores + end, 0, (count - end) * sizeof *scores);
    if (begin == end) return;
    if (call->softcap != 0) kernels()->softcap(scores + begin, call->softcap, end - begin);
    kernels()->maximum(&peak, scores + begin, end - begin);
    if (peak > block->peak[row]) {
        decay = expf(block->peak[row] - peak);
        block->sum[row] *= decay;
        for (uint32_t i = 0; i < head_size; i++)
            sum_v[i] *= decay;
        block->peak[row] = peak;
    }
    kernels()->exp_sum(&sum, scores + begin, block->peak[row], end - begin);
    block->sum[row] += sum;
}

/* Keys or values first .. first+count-1 of the block's head: where they lie as floats, or decoded. */
static const float *rows_of(
    const struct block *block, const struct attention *call, bool values, uint64_t first, uint64_t count)
{
    uint64_t head = block->sequence * call->kv_heads + block->kv_head;
    const struct cache_layout *layout;

    if (!call->cache)
        return (values ? call->values : call->keys) + (head * call->capacity + first) * call->head_size;
    layout = values ? &call->cache->values : &call->cache->keys;
    cache_read(layout, block->decoded,
        (values ? call->cache->value_strips : call->cache->key_strips) + head * layout->bytes, first, count);
    return block->decoded;
}

/* All rows of the block against keys first .. first+count-1. */
static void attend(struct block *block, const struct attention *call, uint64_t first, uint64_t count)
{
    uint64_t rows = block->tokens * block->heads, size = call->head_size;

    linalg_gemm_nt(rows, count, size, call->scale, block->q, size, rows_of(block, call, false, first, count),
        size, 0, block->weights, KEYS);
    for (uint64_t row = 0; row < rows; row++) {
        uint64_t end =
            call->past + block->first_token + row / block->heads + 1; /* sees keys begin .. end-1 */
        uint64_t begin = call->window && end > call->window ? end - call->window : 0;

        end = smaller(end > first ? end - first : 0, count);
        begin = smaller(begin > first ? begin - first : 0, end);
        exponentiate(block, call, row, count, begin, end);
    }
    linalg_gemm_nn(rows, size, count, 1, block->weights, KEYS, rows_of(block, call, true, first, count), size,
        1, block->sum_v, size);
}

static enum status run_block(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    struct block block = make_block(plan, index, worker);
    uint64_t first = call->past + block.first_token, end = first + block.tokens;

    (void)err;
    first = call->window && first + 1 > call->window ? first + 1 - call->window : 0;
    load_queries(&block, call);
    for (; first < end; first += KEYS)
        attend(&block, call, first, smaller(KEYS, end - first));
    store_outputs(&block, call);
    return OK;
}

enum status cpu_attention(struct pool *pool, const struct attention *call, float *scratch, struct error *err)
{
    struct plan plan = make_plan(call, scratch);
    uint64_t work =
        call->sequences * call->length * call->heads * (call->past + call->length) * call->head_size;

    return cpu_parallel(pool, plan.tasks, work, run_block, &plan, err);
}
