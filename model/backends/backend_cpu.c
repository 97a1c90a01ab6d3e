/* The CPU backend: single-precision arrays, every operation cut into tasks by its shape alone, so that
 * results are the same bits for any number of workers. Products are tensor/matmul's, attention is
 * cpu_attention's; the rest is here. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/backends/backend.h"
#include "model/backends/cpu_attention.h"
#include "model/backends/cpu_parallel.h"
#include "tensor/kernels/kernels.h"
#include "tensor/matmul.h"
#include "tensor/sparse.h"

#define TASK_FLOATS 16384 /* of one task of a cheap operation */
#define EXP_WORK 8        /* what an activation or a soft cap costs, in float operations */
#define QUANTIZE_WORK 128 /* what a number costs that goes into a quantized cache */

struct cpu {
    struct pool *pool;
    struct matmul *matmul;
    float *gain, *bias; /* [max_cols]: of the norm in progress */
    float *
        tile_rows; /* [workers][2 TILE_ROWS][max_cols in whole blocks]: decoded rows of a quantized embedding; a sparse tile spread */
    uint64_t max_cols;
    float *attention; /* [workers][cpu_attention_scratch(call)] */
    uint64_t attention_capacity;
};

/* Rows of `size` floats that make up one task, and the tasks that `rows` rows take. */
static uint64_t rows_per_task(uint64_t size)
{
    return size < TASK_FLOATS ? TASK_FLOATS / size : 1;
}

static uint64_t tasks_for(uint64_t rows, uint64_t per_task)
{
    return (rows + per_task - 1) / per_task;
}

/* The end of task `index`, of `per_task` items each out of `count`. */
static uint64_t task_end(uint64_t index, uint64_t per_task, uint64_t count)
{
    return count - index * per_task < per_task ? count : (index + 1) * per_task;
}

/* Elements first .. first+count-1 of a dense tensor as floats. */
static void decode_dense(float *out, const struct tensor *tensor, uint64_t first, uint64_t count)
{
    const struct dtype_info *info = dtype_info(tensor->dtype);
    const uint8_t *from = (const uint8_t *)tensor->data + first * info->bytes;

    if (tensor->dtype == DTYPE_F32)
        memcpy(out, from, count * sizeof *out);
    else if (tensor->dtype == DTYPE_F16)
        kernels()->f16_to_f32(out, from, count);
    else if (tensor->dtype == DTYPE_BF16)
        kernels()->bf16_to_f32(out, from, count);
    else
        info->decode(out, from, count);
}

static enum status cpu_linear(void *state, float *y, const float *x, uint64_t tokens,
    const struct tensor *weight, const struct tensor *bias, struct error *err)
{
    struct cpu *cpu = state;

    return matmul_run(cpu->matmul, y, x, tokens, weight, bias, err);
}

/* ---- embedding ---- */

struct embed {
    struct cpu *cpu;
    float *out;
    const uint32_t *ids;
    uint64_t tokens;
    const struct tensor *weight;
    float scale;
    struct tiles_layout layout;  /* TILES only */
    struct sparse_layout sparse; /* SPARSE only */
};

/* Tiles decode from their first row on: decode up to the row wanted and keep that. */
static void embed_quantized(float *out, const struct embed *embed, uint32_t id, float *rows)
{
    uint64_t cols = embed->layout.cols, row = id % TILE_ROWS;

    tiles_decode(&embed->layout, rows, cols, embed->weight->data, id - row, row + 1);
    memcpy(out, rows + row * cols, cols * sizeof *out);
}

static enum status embed_sparse(
    float *out, const struct embed *embed, uint32_t id, float *rows, void *scratch, struct error *err)
{
    uint64_t cols = embed->weight->shape[1], row = id % TILE_ROWS;
    enum status status =
        sparse_decode(&embed->sparse, rows, cols, embed->weight->data, id - row, row + 1, scratch, err);

    if (status) return fail_within(err, status, "tensor %s", embed->weight->name);
    memcpy(out, rows + row * cols, cols * sizeof *out);
    return OK;
}

/* Floats of eight rows in whole blocks: as many as a spread sparse tile takes, or more. */
static uint64_t tile_floats(uint64_t max_cols)
{
    return TILE_ROWS * ((max_cols + TILE_COLS - 1) / TILE_COLS * TILE_COLS);
}

static enum status embed_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct embed *embed = context;
    uint64_t cols = embed->weight->shape[1], per_task = rows_per_task(cols);
    const uint64_t floats = tile_floats(embed->cpu->max_cols);
    float *rows = embed->cpu->tile_rows + worker * 2 * floats;
    enum status status = OK;

    for (uint64_t i = index * per_task; i < task_end(index, per_task, embed->tokens) && !status; i++) {
        if (embed->weight->storage == STORAGE_SPARSE)
            status = embed_sparse(embed->out + i * cols, embed, embed->ids[i], rows, rows + floats, err);
        else if (embed->weight->storage == STORAGE_TILES)
            embed_quantized(embed->out + i * cols, embed, embed->ids[i], rows);
        else if (embed->weight->storage == STORAGE_BLOCKS)
            blocks_decode(
                embed->out + i * cols, embed->weight->block, embed->weight->data, embed->ids[i] * cols, cols);
        else
            decode_dense(embed->out + i * cols, embed->weight, embed->ids[i] * cols, cols);
        for (uint64_t k = 0; embed->scale != 1 && k < cols; k++)
            embed->out[i * cols + k] *= embed->scale;
    }
    return status;
}

static enum status cpu_embed(void *state, float *out, const uint32_t *ids, uint64_t tokens,
    const struct tensor *weight, float scale, struct error *err)
{
    struct cpu *cpu = state;
    struct embed embed = {
        .cpu = cpu, .out = out, .ids = ids, .tokens = tokens, .weight = weight, .scale = scale};
    uint64_t cols = weight->shape[1];
    enum status status = OK;

    if (weight->storage == STORAGE_TILES)
        status = tiles_layout(&embed.layout, weight->shape[0], cols, weight->scheme, err);
    if (weight->storage == STORAGE_SPARSE) status = sparse_layout_of(&embed.sparse, weight, err);
    if (status) return status;
    return cpu_parallel(
        cpu->pool, tasks_for(tokens, rows_per_task(cols)), tokens * cols, embed_task, &embed, err);
}

/* ---- norm ---- */

struct norm {
    float *y;
    const float *x, *gain, *bias; /* bias NULL: none */
    uint64_t rows, size;
    float epsilon;
    bool centered;
};

/* Of x - mean, in double precision and eight lanes: exact enough for any width, and vector code. */
static double sum_of_squares(const float *x, double mean, uint64_t size)
{
    double lanes[8] = {0};
    uint64_t i = 0;

    for (; i + 8 <= size; i += 8) {
        for (int lane = 0; lane < 8; lane++)
            lanes[lane] += (x[i + lane] - mean) * (x[i + lane] - mean);
    }
    for (; i < size; i++)
        lanes[0] += (x[i] - mean) * (x[i] - mean);
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static double mean_of(const float *x, uint64_t size)
{
    double sum = 0;

    for (uint64_t i = 0; i < size; i++)
        sum += x[i];
    return sum / (double)size;
}

static enum status norm_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct norm *norm = context;
    uint64_t size = norm->size, per_task = rows_per_task(size);

    (void)worker;
    (void)err;
    for (uint64_t row = index * per_task; row < task_end(index, per_task, norm->rows); row++) {
        const float *x = norm->x + row * size;
        float *y = norm->y + row * size;
        double mean = norm->centered ? mean_of(x, size) : 0;
        float scale = (float)(1 / sqrt(sum_of_squares(x, mean, size) / (double)size + (double)norm->epsilon));

        for (uint64_t i = 0; i < size; i++)
            y[i] = (x[i] - (float)mean) * scale * norm->gain[i];
        for (uint64_t i = 0; norm->bias && i < size; i++)
            y[i] += norm->bias[i];
    }
    return OK;
}

static enum status cpu_norm(void *state, float *y, const float *x, uint64_t rows, uint64_t size,
    const struct norm_call *call, struct error *err)
{
    struct cpu *cpu = state;
    struct norm norm = {.y = y,
        .x = x,
        .gain = cpu->gain,
        .bias = call->bias ? cpu->bias : NULL,
        .rows = rows,
        .size = size,
        .epsilon = call->epsilon,
        .centered = call->centered};

    decode_dense(cpu->gain, call->gain, 0, size);
    for (uint64_t i = 0; call->offset != 0 && i < size; i++)
        cpu->gain[i] += call->offset;
    if (call->bias) decode_dense(cpu->bias, call->bias, 0, size);
    return cpu_parallel(
        cpu->pool, tasks_for(rows, rows_per_task(size)), 2 * rows * size, norm_task, &norm, err);
}

/* ---- rope ---- */

struct rope {
    float *x;
    const float *cosine, *sine;
    uint64_t tokens, length;
    uint32_t heads, head_size, rotary;
};

/* RoFormer (arXiv:2104.09864), equation 34, for channel pairs (i, i + half). */
static void rotate(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];

        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static enum status rope_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct rope *rope = context;
    uint32_t half = rope->rotary / 2;
    uint64_t width = (uint64_t)rope->heads * rope->head_size, per_task = rows_per_task(width);

    (void)worker;
    (void)err;
    for (uint64_t token = index * per_task; token < task_end(index, per_task, rope->tokens); token++) {
        uint64_t position = token % rope->length;

        for (uint32_t head = 0; head < rope->heads; head++)
            rotate(rope->x + token * width + (uint64_t)head * rope->head_size, rope->cosine + position * half,
                rope->sine + position * half, half);
    }
    return OK;
}

static enum status cpu_rope(void *state, float *x, uint64_t sequences, uint64_t length, uint32_t heads,
    uint32_t head_size, uint32_t rotary, const float *cosine, const float *sine, struct error *err)
{
    struct cpu *cpu = state;
    struct rope rope = {x, cosine, sine, sequences * length, length, heads, head_size, rotary};
    uint64_t width = (uint64_t)heads * head_size;

    return cpu_parallel(cpu->pool, tasks_for(rope.tokens, rows_per_task(width)), 3 * rope.tokens * width,
        rope_task, &rope, err);
}

/* ---- the cache, and attention over it ---- */

struct store {
    float *cache;
    const float *x;
    uint64_t length, past, capacity;
    uint32_t kv_heads, head_size;
};

/* One head of one sequence. */
static enum status store_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct store *store = context;
    uint64_t size = store->head_size, sequence = index / store->kv_heads, head = index % store->kv_heads;
    float *to = store->cache + (index * store->capacity + store->past) * size;
    const float *from = store->x + (sequence * store->length * store->kv_heads + head) * size;

    (void)worker;
    (void)err;
    for (uint64_t token = 0; token < store->length; token++)
        memcpy(to + token * size, from + token * store->kv_heads * size, size * sizeof *to);
    return OK;
}

static enum status cpu_store(void *state, float *cache, const float *x, uint64_t sequences, uint64_t length,
    uint64_t past, uint64_t capacity, uint32_t kv_heads, uint32_t head_size, struct error *err)
{
    struct cpu *cpu = state;
    struct store store = {cache, x, length, past, capacity, kv_heads, head_size};

    return cpu_parallel(
        cpu->pool, sequences * kv_heads, sequences * length * kv_heads * head_size, store_task, &store, err);
}

struct store_quantized {
    const struct cache_layout *layout;
    uint8_t *strips;
    const float *x;
    uint64_t length, past;
    uint32_t kv_heads;
};

/* One head of one sequence: its rows in order, because centers follow from the rows before. */
static enum status store_quantized_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct store_quantized *store = context;
    uint64_t size = store->layout->size, sequence = index / store->kv_heads, head = index % store->kv_heads;
    const float *from = store->x + (sequence * store->length * store->kv_heads + head) * size;

    (void)worker;
    return cache_write(store->layout, store->strips + index * store->layout->bytes, store->past, from,
        store->kv_heads * size, store->length, err);
}

static enum status cpu_store_quantized(void *state, const struct cache_layout *layout, uint8_t *strips,
    const float *x, uint64_t sequences, uint64_t length, uint64_t past, uint32_t kv_heads, struct error *err)
{
    struct cpu *cpu = state;
    struct store_quantized store = {layout, strips, x, length, past, kv_heads};

    return cpu_parallel(cpu->pool, sequences * kv_heads,
        QUANTIZE_WORK * sequences * length * kv_heads * layout->size, store_quantized_task, &store, err);
}

struct rotate {
    float *x;
    uint64_t rows;
    uint32_t size;
};

static enum status rotate_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct rotate *rotate = context;
    uint64_t per_task = rows_per_task(rotate->size), first = index * per_task;

    (void)worker;
    (void)err;
    cache_rotate(
        rotate->x + first * rotate->size, task_end(index, per_task, rotate->rows) - first, rotate->size);
    return OK;
}

static enum status cpu_rotate(void *state, float *x, uint64_t rows, uint32_t size, struct error *err)
{
    struct cpu *cpu = state;
    struct rotate rotate = {x, rows, size};

    return cpu_parallel(
        cpu->pool, tasks_for(rows, rows_per_task(size)), 8 * rows * size, rotate_task, &rotate, err);
}

static enum status cpu_attend(void *state, const struct attention *call, struct error *err)
{
    struct cpu *cpu = state;
    uint64_t needed = pool_workers(cpu->pool) * cpu_attention_scratch(call);
    enum status status = memory_grow(&cpu->attention, &cpu->attention_capacity, needed, sizeof(float), err);

    return status ? status : cpu_attention(cpu->pool, call, cpu->attention, err);
}

/* ---- element by element ---- */

struct elementwise {
    float *x;
    const float *y;
    uint64_t count;
    enum activation activation; /* of gate */
    float cap;                  /* of softcap */
};

/* gate = gelu(gate) * up. */
static void gelu_exact(float *gate, const float *up, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        gate[i] = 0.5f * gate[i] * (1 + erff(gate[i] * 0.70710678f)) * up[i];
}

static void bend(enum activation activation, float *gate, const float *up, uint64_t count)
{
    if (activation == ACTIVATION_GELU)
        gelu_exact(gate, up, count);
    else if (activation == ACTIVATION_GELU_TANH)
        kernels()->gelu_multiply(gate, up, count);
    else
        kernels()->silu_multiply(gate, up, count);
}

static enum status gate_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct elementwise *call = context;
    uint64_t first = index * TASK_FLOATS, end = task_end(index, TASK_FLOATS, call->count);

    (void)worker;
    (void)err;
    bend(call->activation, call->x + first, call->y + first, end - first);
    return OK;
}

/* A gate without what it gates: everything is multiplied by 1. */
static enum status activate_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct elementwise *call = context;
    uint64_t first = index * TASK_FLOATS, end = task_end(index, TASK_FLOATS, call->count);
    float ones[256];

    (void)worker;
    (void)err;
    for (unsigned i = 0; i < 256; i++)
        ones[i] = 1;
    for (uint64_t at = first; at < end; at += 256)
        bend(call->activation, call->x + at, ones, end - at < 256 ? end - at : 256);
    return OK;
}

static enum status cpu_activate(
    void *state, enum activation activation, float *x, uint64_t count, struct error *err)
{
    struct cpu *cpu = state;
    struct elementwise call = {.x = x, .count = count, .activation = activation};

    return cpu_parallel(
        cpu->pool, tasks_for(count, TASK_FLOATS), EXP_WORK * count, activate_task, &call, err);
}

static enum status cpu_gate(
    void *state, enum activation activation, float *gate, const float *up, uint64_t count, struct error *err)
{
    struct cpu *cpu = state;
    struct elementwise call = {.x = gate, .y = up, .count = count, .activation = activation};

    return cpu_parallel(cpu->pool, tasks_for(count, TASK_FLOATS), EXP_WORK * count, gate_task, &call, err);
}

static enum status softcap_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct elementwise *call = context;
    uint64_t first = index * TASK_FLOATS, end = task_end(index, TASK_FLOATS, call->count);

    (void)worker;
    (void)err;
    kernels()->softcap(call->x + first, call->cap, end - first);
    return OK;
}

static enum status cpu_softcap(void *state, float *x, float cap, uint64_t count, struct error *err)
{
    struct cpu *cpu = state;
    struct elementwise call = {.x = x, .count = count, .cap = cap};

    return cpu_parallel(cpu->pool, tasks_for(count, TASK_FLOATS), EXP_WORK * count, softcap_task, &call, err);
}

static enum status add_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct elementwise *call = context;
    float *x = call->x;

    (void)worker;
    (void)err;
    for (uint64_t i = index * TASK_FLOATS, end = task_end(index, TASK_FLOATS, call->count); i < end; i++)
        x[i] += call->y[i];
    return OK;
}

static enum status cpu_add(void *state, float *x, const float *y, uint64_t count, struct error *err)
{
    struct cpu *cpu = state;
    struct elementwise call = {.x = x, .y = y, .count = count};

    return cpu_parallel(cpu->pool, tasks_for(count, TASK_FLOATS), count, add_task, &call, err);
}

/* ---- life ---- */

static void cpu_release(void *state)
{
    struct cpu *cpu = state;

    if (!cpu) return;
    matmul_free(cpu->matmul);
    memory_free(cpu->gain);
    memory_free(cpu->bias);
    memory_free(cpu->tile_rows);
    memory_free(cpu->attention);
    memory_free(cpu);
}

enum status backend_cpu_create(struct backend *out, struct pool *pool, uint64_t max_cols, struct error *err)
{
    struct cpu *cpu = memory_new(1, sizeof *cpu, err);
    enum status status;

    if (!cpu) return ERR_MEMORY;
    cpu->pool = pool;
    cpu->max_cols = max_cols;
    status = matmul_create(&cpu->matmul, pool, max_cols, err);
    if (!status && !(cpu->gain = memory_new(max_cols, sizeof(float), err))) status = ERR_MEMORY;
    if (!status && !(cpu->bias = memory_new(max_cols, sizeof(float), err))) status = ERR_MEMORY;
    if (!status &&
        !(cpu->tile_rows = memory_new(2 * pool_workers(pool) * tile_floats(max_cols), sizeof(float), err)))
        status = ERR_MEMORY;
    if (status) {
        cpu_release(cpu);
        return status;
    }
    *out = (struct backend){
        .name = "cpu",
        .state = cpu,
        .linear = cpu_linear,
        .embed = cpu_embed,
        .norm = cpu_norm,
        .rope = cpu_rope,
        .store = cpu_store,
        .store_quantized = cpu_store_quantized,
        .rotate = cpu_rotate,
        .attention = cpu_attend,
        .gate = cpu_gate,
        .activate = cpu_activate,
        .softcap = cpu_softcap,
        .add = cpu_add,
        .release = cpu_release,
    };
    return OK;
}
