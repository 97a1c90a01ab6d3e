/* The forward pass against logits of transformers (tests/golden/logits), and its properties: the same numbers
 * token by token, in batches and in blocks, the same bits for any number of workers, quantized weights like
 * their dense twins, attention like its definition, and errors that name layer and channel. */
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/decoder.h"
#include "model/forward.h"
#include "tensor/grid.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

#define GOLDEN_BOUND 1e-4   /* of the largest logit */
#define ROUNDING_BOUND 2e-5 /* the same numbers computed in another order */

static struct pool *pool; /* of two workers, for all cases but the one about workers */

/* ---- running models ---- */

static struct model *open_model(const char *path, struct pool *on)
{
    struct model *model;
    struct error err = {0};

    REQUIRE(model_open(&model, path, on, &err) == OK, &err);
    return model;
}

/* A file of a golden case, or with "" its folder. */
static const char *golden_path(const char *name, const char *file)
{
    char relative[512];

    snprintf(relative, sizeof relative, "golden/logits/%s%s%s", name, *file ? "/" : "", file);
    return testing_source(relative);
}

static struct session *new_session(struct model *model, uint64_t sequences, uint64_t capacity)
{
    struct session *session;
    struct error err = {0};

    REQUIRE(session_create(&session, model, sequences, capacity, &err) == OK, &err);
    return session;
}

/* One step and its logits. logits [sequences][length][vocabulary] */
static void step(struct session *session, struct model *model, float *logits, const uint32_t *tokens,
    uint64_t sequences, uint64_t length)
{
    float *hidden = memory_new(sequences * length * model->config.hidden, sizeof(float), NULL);
    struct error err = {0};

    REQUIRE(hidden, NULL);
    REQUIRE(session_step(session, hidden, tokens, length, &err) == OK, &err);
    REQUIRE(model_logits(model, logits, hidden, sequences * length, &err) == OK, &err);
    memory_free(hidden);
}

/* All tokens of some sequences in one step. Owner of the logits [sequences][length][vocabulary]: the caller.
 */
static float *run(struct model *model, const uint32_t *tokens, uint64_t sequences, uint64_t length)
{
    struct session *session = new_session(model, sequences, length);
    float *logits = memory_new(sequences * length * model->config.vocabulary, sizeof(float), NULL);

    REQUIRE(logits, NULL);
    step(session, model, logits, tokens, sequences, length);
    session_free(session);
    return logits;
}

/* The largest difference, in units of the largest magnitude of b. */
static double distance(const float *a, const float *b, uint64_t count)
{
    double difference = 0, magnitude = 0;

    for (uint64_t i = 0; i < count; i++) {
        if (!(fabs((double)a[i] - b[i]) <= difference)) difference = fabs((double)a[i] - b[i]);
        if (fabs(b[i]) > magnitude) magnitude = fabs(b[i]);
    }
    return difference / magnitude;
}

static void random_tokens(uint32_t *tokens, uint64_t count, uint32_t vocabulary, uint64_t seed)
{
    for (uint64_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)(testing_random(&seed) % vocabulary);
}

static uint64_t argmax(const float *x, uint64_t count)
{
    uint64_t best = 0;

    for (uint64_t i = 1; i < count; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* ---- golden logits ---- */

struct golden {
    struct container *container;
    struct model *model;
    uint32_t *tokens;
    uint64_t length;
    const float *logits;   /* [length][vocabulary] */
    const int64_t *greedy; /* what follows the first 8 tokens, or NULL */
    uint64_t greedy_length;
};

static void golden_open(struct golden *golden, const char *name)
{
    const struct tensor *ids, *logits, *greedy;
    struct error err = {0};

    golden->model = open_model(golden_path(name, ""), pool);
    REQUIRE(container_open(&golden->container, golden_path(name, "golden.safetensors"), &err) == OK, &err);
    REQUIRE(container_map(golden->container, &err) == OK, &err);
    ids = container_find(golden->container, "input_ids");
    logits = container_find(golden->container, "logits");
    greedy = container_find(golden->container, "greedy");
    REQUIRE(ids && logits && logits->elements == ids->elements * golden->model->config.vocabulary, NULL);
    golden->length = ids->elements;
    golden->logits = logits->data;
    golden->greedy = greedy ? greedy->data : NULL;
    golden->greedy_length = greedy ? greedy->elements : 0;
    golden->tokens = memory_new(golden->length, sizeof *golden->tokens, &err);
    REQUIRE(golden->tokens, &err);
    for (uint64_t i = 0; i < golden->length; i++)
        golden->tokens[i] = (uint32_t)((const int64_t *)ids->data)[i];
}

static void golden_close(struct golden *golden)
{
    memory_free(golden->tokens);
    model_close(golden->model);
    container_close(golden->container);
}

/* One step with the first `prompt` tokens, then one token at a time. Returns the distance to the golden
 * logits. */
static double incremental_distance(const struct golden *golden, uint64_t prompt)
{
    uint64_t vocabulary = golden->model->config.vocabulary;
    struct session *session = new_session(golden->model, 1, golden->length);
    float *logits = memory_new(golden->length * vocabulary, sizeof(float), NULL);
    double result;

    REQUIRE(logits, NULL);
    step(session, golden->model, logits, golden->tokens, 1, prompt);
    for (uint64_t i = prompt; i < golden->length; i++)
        step(session, golden->model, logits + i * vocabulary, golden->tokens + i, 1, 1);
    CU_ASSERT_EQUAL(session_length(session), golden->length);
    result = distance(logits, golden->logits, golden->length * vocabulary);
    memory_free(logits);
    session_free(session);
    return result;
}

/* The likeliest token after each step, fed back: what transformers continued with. */
static void check_greedy(const struct golden *golden)
{
    const uint64_t prompt = 8, vocabulary = golden->model->config.vocabulary;
    struct session *session = new_session(golden->model, 1, prompt + golden->greedy_length);
    float *logits = memory_new(prompt * vocabulary, sizeof(float), NULL);
    uint32_t token;

    REQUIRE(logits, NULL);
    step(session, golden->model, logits, golden->tokens, 1, prompt);
    token = (uint32_t)argmax(logits + (prompt - 1) * vocabulary, vocabulary);
    for (uint64_t i = 0; i < golden->greedy_length; i++) {
        CU_ASSERT_EQUAL(token, golden->greedy[i]);
        step(session, golden->model, logits, &token, 1, 1);
        token = (uint32_t)argmax(logits, vocabulary);
    }
    memory_free(logits);
    session_free(session);
}

/* Dynamic rope scaling turns the keys of a step by what is known of the length then: beyond the trained
 * context, steps of other lengths are other computations (in transformers as well). */
static bool depends_on_steps(const struct golden *golden)
{
    return golden->model->config.rope.kind == ROPE_DYNAMIC && golden->length > golden->model->config.context;
}

static void check_golden(const char *name)
{
    struct golden golden;
    float *logits;
    double whole, steps = 0;

    golden_open(&golden, name);
    logits = run(golden.model, golden.tokens, 1, golden.length);
    whole = distance(logits, golden.logits, golden.length * golden.model->config.vocabulary);
    if (!depends_on_steps(&golden)) steps = incremental_distance(&golden, golden.length / 3);
    printf("\n    %-26s %.1e whole, %.1e token by token", name, whole, steps);
    CU_ASSERT_TRUE(whole <= GOLDEN_BOUND);
    CU_ASSERT_TRUE(steps <= GOLDEN_BOUND);
    if (golden.greedy) check_greedy(&golden);
    memory_free(logits);
    golden_close(&golden);
}

static void test_golden(void)
{
    DIR *folder = opendir(testing_source("golden/logits"));
    struct dirent *entry;
    int found = 0;

    REQUIRE(folder, NULL);
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] == '.') continue;
        check_golden(entry->d_name);
        found++;
    }
    closedir(folder);
    printf("\n  ");
    CU_ASSERT_TRUE(found >= 18);
}

/* ---- batches, blocks, workers ---- */

static void test_batches(void)
{
    struct model *model = open_model(golden_path("qwen2-sliding", ""), pool);
    uint64_t length = 37, vocabulary = model->config.vocabulary;
    uint32_t tokens[5 * 37];
    float *together, *alone;

    random_tokens(tokens, 5 * length, model->config.vocabulary, 1);
    together = run(model, tokens, 5, length);
    for (uint64_t i = 0; i < 5; i++) {
        alone = run(model, tokens + i * length, 1, length);
        CU_ASSERT_TRUE(
            distance(together + i * length * vocabulary, alone, length * vocabulary) < ROUNDING_BOUND);
        memory_free(alone);
    }
    memory_free(together);
    model_close(model);
}

/* More tokens than go through the layers at once: many sequences, and one long one (far beyond its trained
 * context, with a sliding window and without). */
static void check_blocks(const char *name, uint64_t sequences, uint64_t length)
{
    struct model *model = open_model(golden_path(name, ""), pool);
    uint64_t vocabulary = model->config.vocabulary, count = sequences * length, first = length / 2;
    struct session *session = new_session(model, 1, length);
    uint32_t *tokens = memory_new(count, sizeof *tokens, NULL);
    float *whole, *parts = memory_new(length * vocabulary, sizeof(float), NULL);
    const uint32_t *last;

    REQUIRE(tokens && parts, NULL);
    random_tokens(tokens, count, model->config.vocabulary, 2);
    last = tokens + (sequences - 1) * length;
    whole = run(model, tokens, sequences, length);
    step(session, model, parts, last, 1, first);
    step(session, model, parts + first * vocabulary, last + first, 1, length - first);
    CU_ASSERT_TRUE(
        distance(whole + (sequences - 1) * length * vocabulary, parts, length * vocabulary) < ROUNDING_BOUND);
    memory_free(whole);
    memory_free(parts);
    memory_free(tokens);
    session_free(session);
    model_close(model);
}

static void test_blocks(void)
{
    check_blocks("llama", 70, 31);
    check_blocks("llama", 3, 1030);
    check_blocks("llama", 2, 2500);
    check_blocks("mistral", 1, 2500);
}

static void test_workers(void)
{
    static const unsigned workers[] = {1, 2, 3, 7};
    enum { SEQUENCES = 11, LENGTH = 200 };
    static uint32_t tokens[SEQUENCES * LENGTH];
    float *first = NULL;
    uint64_t bytes = 0;

    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        struct pool *other;
        struct error err = {0};
        struct model *model;
        float *logits;

        REQUIRE(pool_create(&other, workers[i], &err) == OK, &err);
        model = open_model(golden_path("qwen3", ""), other);
        random_tokens(tokens, SEQUENCES * LENGTH, model->config.vocabulary, 3);
        logits = run(model, tokens, SEQUENCES, LENGTH);
        bytes = SEQUENCES * LENGTH * model->config.vocabulary * sizeof *logits;
        if (first) CU_ASSERT_EQUAL(memcmp(first, logits, bytes), 0);
        if (first)
            memory_free(logits);
        else
            first = logits;
        model_close(model);
        pool_free(other);
    }
    memory_free(first);
}

static void test_reset(void)
{
    struct model *model = open_model(golden_path("llama", ""), pool);
    struct session *session = new_session(model, 1, 20);
    uint32_t tokens[20];
    static float once[20 * 96], again[20 * 96];

    random_tokens(tokens, 20, 96, 4);
    step(session, model, once, tokens, 1, 20);
    session_reset(session);
    CU_ASSERT_EQUAL(session_length(session), 0);
    step(session, model, again, tokens, 1, 20);
    CU_ASSERT_EQUAL(memcmp(once, again, sizeof once), 0);
    CU_ASSERT_EQUAL(
        session_cache_bytes_per_token(session), 2 * 2 * 2 * 8 * 4); /* k and v, layers, heads, size, bytes */
    session_free(session);
    model_close(model);
}

/* Cut back and continued, a session gives what one gives that never went further; twice, and down to nothing. */
static void test_truncate(void)
{
    enum { VOCABULARY = 96, PREFIX = 11, REST = 9 };
    struct model *model = open_model(golden_path("llama", ""), pool);
    struct session *session = new_session(model, 2, PREFIX + REST),
                   *fresh = new_session(model, 2, PREFIX + REST);
    uint32_t prefix[2 * PREFIX], rest[2 * REST], other[2 * REST];
    static float expected[2 * PREFIX * VOCABULARY], logits[2 * PREFIX * VOCABULARY];

    random_tokens(prefix, 2 * PREFIX, VOCABULARY, 5);
    random_tokens(rest, 2 * REST, VOCABULARY, 6);
    random_tokens(other, 2 * REST, VOCABULARY, 7);
    step(fresh, model, expected, prefix, 2, PREFIX);
    step(fresh, model, expected, rest, 2, REST);
    step(session, model, logits, prefix, 2, PREFIX);
    for (int turn = 0; turn < 2; turn++) {
        step(session, model, logits, other, 2, REST);
        session_truncate(session, PREFIX);
        CU_ASSERT_EQUAL(session_length(session), PREFIX);
    }
    step(session, model, logits, rest, 2, REST);
    CU_ASSERT_EQUAL(memcmp(logits, expected, 2 * REST * VOCABULARY * sizeof *logits), 0);
    session_truncate(session, PREFIX + REST + 5); /* longer than it is: nothing to forget */
    CU_ASSERT_EQUAL(session_length(session), PREFIX + REST);
    session_truncate(session, 0);
    step(session, model, logits, prefix, 2, PREFIX);
    step(session, model, logits, rest, 2, REST);
    CU_ASSERT_EQUAL(memcmp(logits, expected, 2 * REST * VOCABULARY * sizeof *logits), 0);
    session_free(session);
    session_free(fresh);
    model_close(model);
}

/* ---- observers ---- */

/* What an observer has seen. Of the last layer it keeps the rows. */
struct seen {
    uint32_t layers, next_slot;
    uint64_t hidden, block_begin, block_end; /* rows of the block in progress */
    uint64_t calls;
    bool in_order;
    float *last; /* [tokens][hidden] */
    uint32_t fail_at;
};

static enum status see(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    struct seen *seen = context;
    const uint32_t slot = layer + 1; /* 0: the embedding */

    if (layer == SESSION_EMBEDDING) {
        if (first_token != seen->block_end) seen->in_order = false;
        seen->block_begin = first_token;
        seen->block_end = first_token + tokens;
    }
    if (slot != seen->next_slot || first_token != seen->block_begin ||
        first_token + tokens != seen->block_end)
        seen->in_order = false;
    seen->next_slot = slot == seen->layers ? 0 : slot + 1;
    seen->calls++;
    if (slot == seen->layers)
        memcpy(seen->last + first_token * seen->hidden, x, tokens * seen->hidden * sizeof *x);
    return layer == seen->fail_at ? fail(err, ERR_CHECK, "seen enough") : OK;
}

/* The rows of the last layer are those whose norm is the step's output. */
static double final_norm_distance(
    const struct model *model, const float *last, const float *hidden, uint64_t rows)
{
    uint64_t size = model->config.hidden;
    float *normed = memory_new(rows * size, sizeof *normed, NULL);
    struct error err = {0};
    double result;

    REQUIRE(normed, NULL);
    REQUIRE(decoder_final_norm(
                &model->backend, &model->config, model->tensors.once, normed, last, rows, &err) == OK,
        &err);
    result = distance(normed, hidden, rows * size);
    memory_free(normed);
    return result;
}

/* A step of more than one block: every layer shows every row, in order. */
static void check_observer(uint64_t sequences, uint64_t length)
{
    struct model *model = open_model(golden_path("llama", ""), pool);
    struct session *session = new_session(model, sequences, length);
    uint64_t rows = sequences * length, floats = rows * model->config.hidden;
    uint32_t *tokens = memory_new(rows, sizeof *tokens, NULL);
    float *hidden = memory_new(floats, sizeof *hidden, NULL);
    struct seen seen = {.layers = model->config.layers,
        .hidden = model->config.hidden,
        .in_order = true,
        .last = memory_new(floats, sizeof(float), NULL),
        .fail_at = UINT32_MAX - 1};
    struct error err = {0};

    REQUIRE(tokens && hidden && seen.last, NULL);
    random_tokens(tokens, rows, model->config.vocabulary, 8);
    session_observe(session, see, &seen);
    CHECK(session_step(session, hidden, tokens, length, &err) == OK, &err);
    CU_ASSERT_TRUE(seen.in_order && seen.block_end == rows && seen.next_slot == 0);
    CU_ASSERT_TRUE(seen.calls > seen.layers + 1); /* several blocks */
    CU_ASSERT_EQUAL(final_norm_distance(model, seen.last, hidden, rows), 0);
    session_reset(session);
    seen.calls = 0;
    seen.fail_at = 1;
    CU_ASSERT_EQUAL(session_step(session, hidden, tokens, length, &err), ERR_CHECK);
    CHECK(strstr(err.text, "layer 1") && strstr(err.text, "seen enough"), &err);
    CU_ASSERT_TRUE(seen.calls == 3 && session_length(session) == 0);
    session_observe(session, NULL, NULL);
    CHECK(session_step(session, hidden, tokens, length, &err) == OK && seen.calls == 3, &err);
    session_free(session);
    model_close(model);
    memory_free(tokens);
    memory_free(hidden);
    memory_free(seen.last);
}

static void test_observers(void)
{
    check_observer(1, 2500);
    check_observer(70, 31);
}

/* ---- quantized weights ---- */

/* A quantized tensor and the dense one that its codes decode to, both in memory. */
struct twin {
    struct tensor tiles, dense;
    void *tile_bytes;
    float *values;
};

/* Quantize by rounding to the nearest, tile by tile. */
static void twin_create(struct twin *twin, const struct tensor *source, struct scheme scheme)
{
    uint64_t rows = source->shape[0], cols = source->shape[1], fault_row, fault_col;
    struct tiles_layout layout;
    struct error err = {0};
    uint8_t *codes, *zeros, *base;
    uint16_t *scales;

    if (cols % scheme.group) scheme.group = (uint32_t)cols;
    REQUIRE(tiles_layout(&layout, rows, cols, scheme, &err) == OK, &err);
    codes = memory_new(rows * cols, 1, &err);
    scales = memory_new(rows * layout.groups, sizeof *scales, &err);
    zeros = memory_new(rows * layout.groups, 1, &err);
    twin->tile_bytes = base = memory_new(layout.bytes, 1, &err);
    twin->values = memory_new(rows * cols, sizeof *twin->values, &err);
    REQUIRE(codes && scales && zeros && base && twin->values, &err);
    dtype_info(source->dtype)->decode(twin->values, source->data, rows * cols);
    REQUIRE(grid_quantize_rows(codes, scales, scheme.asymmetric ? zeros : NULL, twin->values, rows, cols,
                scheme, GRID_MINMAX, NULL, &fault_row, &fault_col, &err) == OK,
        &err);
    for (uint64_t tile = 0; tile < layout.tiles; tile++) {
        uint64_t row = tile * TILE_ROWS, count = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;

        tiles_pack(&layout, base + tile * layout.tile_code_bytes,
            (uint16_t *)(void *)(base + layout.scales_offset + tile * layout.tile_scale_bytes),
            scheme.asymmetric ? base + layout.zeros_offset + tile * layout.tile_zero_bytes : NULL,
            codes + row * cols, scales + row * layout.groups,
            scheme.asymmetric ? zeros + row * layout.groups : NULL, count);
    }
    tiles_decode(&layout, twin->values, cols, base, 0, rows);
    twin->tiles = twin->dense = *source;
    twin->tiles.storage = STORAGE_TILES;
    twin->tiles.dtype = DTYPE_F16;
    twin->tiles.scheme = scheme;
    twin->tiles.bytes = layout.bytes;
    twin->tiles.data = base;
    twin->dense.dtype = DTYPE_F32;
    twin->dense.bytes = rows * cols * sizeof *twin->values;
    twin->dense.data = twin->values;
    memory_free(codes);
    memory_free(scales);
    memory_free(zeros);
}

/* The tensors of llama-tied that get twins: the embedding, which is the head, and the linear layers. */
#define TWINS 15

static void use_twins(struct model *model, struct twin twins[TWINS], bool quantized)
{
    int next = 1;

    model->tensors.once[ROLE_EMBEDDING] = quantized ? &twins[0].tiles : &twins[0].dense;
    model->tensors.once[ROLE_HEAD] = model->tensors.once[ROLE_EMBEDDING];
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            if (!layers_role_is_linear((enum role)role) || !model->tensors.layer[layer][role]) continue;
            model->tensors.layer[layer][role] = quantized ? &twins[next].tiles : &twins[next].dense;
            next++;
        }
    }
    REQUIRE(next == TWINS, NULL);
}

static void make_twins(const struct model *model, struct twin twins[TWINS], struct scheme scheme)
{
    int next = 1;

    twin_create(&twins[0], model->tensors.once[ROLE_EMBEDDING], scheme);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            if (layers_role_is_linear((enum role)role) && model->tensors.layer[layer][role])
                twin_create(&twins[next++], model->tensors.layer[layer][role], scheme);
        }
    }
}

static void check_quantized(struct scheme scheme)
{
    struct golden golden;
    struct twin twins[TWINS];
    float *quantized, *dense;
    uint64_t count;

    golden_open(&golden, "llama-tied");
    count = golden.length * golden.model->config.vocabulary;
    make_twins(golden.model, twins, scheme);
    use_twins(golden.model, twins, false);
    dense = run(golden.model, golden.tokens, 1, golden.length);
    use_twins(golden.model, twins, true);
    quantized = run(golden.model, golden.tokens, 1, golden.length);
    CU_ASSERT_TRUE(distance(quantized, dense, count) < ROUNDING_BOUND);
    memory_free(quantized);
    golden.logits = dense;
    CU_ASSERT_TRUE(incremental_distance(&golden, 5) < ROUNDING_BOUND);
    for (int i = 0; i < TWINS; i++) {
        memory_free(twins[i].tile_bytes);
        memory_free(twins[i].values);
    }
    memory_free(dense);
    golden_close(&golden);
}

static void test_quantized(void)
{
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};

    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        check_quantized((struct scheme){.bits = bits[i], .group = 32});
        check_quantized((struct scheme){.bits = bits[i], .group = 16, .asymmetric = true});
    }
}

/* ---- operations ---- */

static float *random_floats(uint64_t count, uint64_t seed)
{
    float *out = memory_new(count, sizeof *out, NULL);

    REQUIRE(out, NULL);
    for (uint64_t i = 0; i < count; i++)
        out[i] = testing_normal(&seed);
    return out;
}

/* One query by the definition, in double precision: softmax(scale q k^T) v over the keys it may see. */
static void attend_one(
    double *out, const struct attention *call, uint64_t sequence, uint64_t token, uint32_t head)
{
    uint64_t size = call->head_size, end = call->past + token + 1;
    uint64_t begin = call->window && end > call->window ? end - call->window : 0;
    uint64_t kv = sequence * call->kv_heads + head / (call->heads / call->kv_heads);
    const float *q = call->q + ((sequence * call->length + token) * call->heads + head) * size;
    double sum = 0;

    memset(out, 0, size * sizeof *out);
    for (uint64_t key = begin; key < end; key++) {
        const float *k = call->keys + (kv * call->capacity + key) * size;
        const float *v = call->values + (kv * call->capacity + key) * size;
        double score = 0, weight;

        for (uint64_t i = 0; i < size; i++)
            score += (double)q[i] * k[i];
        weight = exp(score * call->scale); /* scores of these inputs are small */
        sum += weight;
        for (uint64_t i = 0; i < size; i++)
            out[i] += weight * v[i];
    }
    for (uint64_t i = 0; i < size; i++)
        out[i] /= sum;
}

static void check_attention(struct attention call)
{
    uint64_t cache = call.sequences * call.kv_heads * call.capacity * call.head_size, size = call.head_size;
    uint64_t queries = call.sequences * call.length * call.heads * size;
    float *q = random_floats(queries, 5), *k = random_floats(cache, 6), *v = random_floats(cache, 7);
    float *out = random_floats(queries, 8);
    struct backend backend;
    struct error err = {0};
    double expected[64], worst = 0;

    REQUIRE(backend_cpu_create(&backend, pool, 64, &err) == OK, &err);
    call.q = q, call.keys = k, call.values = v, call.out = out;
    call.scale = 1 / sqrtf((float)size);
    REQUIRE(backend.attention(backend.state, &call, &err) == OK, &err);
    for (uint64_t i = 0; i < queries / size; i++) {
        attend_one(expected, &call, i / call.heads / call.length, i / call.heads % call.length,
            (uint32_t)(i % call.heads));
        for (uint64_t j = 0; j < size; j++) {
            if (!(fabs(out[i * size + j] - expected[j]) <= worst))
                worst = fabs(out[i * size + j] - expected[j]);
        }
    }
    CU_ASSERT_TRUE(worst < 1e-5);
    backend.release(backend.state);
    memory_free(q);
    memory_free(k);
    memory_free(v);
    memory_free(out);
}

static void test_attention(void)
{
    static const uint64_t lengths[][2] = {{1, 0}, {1, 700}, {5, 3}, {64, 0}, {65, 511}, {70, 1025}, {600, 0}};
    static const uint32_t heads[][2] = {{1, 1}, {4, 2}, {7, 1}, {70, 1}};
    static const uint32_t windows[] = {0, 1, 8, 513};

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t j = 0; j < sizeof heads / sizeof *heads; j++) {
            for (size_t k = 0; k < sizeof windows / sizeof *windows; k++)
                check_attention((struct attention){.sequences = 2,
                    .length = lengths[i][0],
                    .past = lengths[i][1],
                    .capacity = lengths[i][0] + lengths[i][1] + 3,
                    .heads = heads[j][0],
                    .kv_heads = heads[j][1],
                    .head_size = j == 1 ? 64 : 6,
                    .window = windows[k]});
        }
    }
}

/* e^(x - shift) for every length around the vector width, and the sum. */
static void test_exp(void)
{
    enum { LONGEST = 41 };
    float x[LONGEST], out[LONGEST], sum, greatest;
    double worst = 0;

    for (int turn = 0; turn < 20000; turn++) {
        uint64_t n = (uint64_t)turn % LONGEST, seed = (uint64_t)turn;
        double total = 0;

        for (uint64_t i = 0; i < n; i++)
            out[i] = x[i] = 20 * testing_normal(&seed);
        kernels()->maximum(&greatest, x, n);
        kernels()->exp_sum(&sum, out, 3, n);
        for (uint64_t i = 0; i < n; i++) {
            double expected = exp((double)(x[i] - 3)), error = fabs(out[i] / expected - 1);

            if (x[i] > greatest) CU_FAIL("not the greatest");
            if (!(error <= worst)) worst = error;
            total += expected;
        }
        CU_ASSERT_TRUE(fabs(sum - total) <= 1e-6 * total);
        CU_ASSERT_TRUE(n ? isfinite(greatest) : greatest == -INFINITY);
    }
    printf("relative error %.2e ", worst);
    CU_ASSERT_TRUE(worst < 2 * 1.19e-7);
}

static void test_exp_extremes(void)
{
    float x[] = {-INFINITY, -200, INFINITY, NAN, 0}, sum;

    kernels()->exp_sum(&sum, x, 0, 5);
    CU_ASSERT_TRUE(x[0] >= 0 && x[0] < 1e-37f && x[1] >= 0 && x[1] < 1e-37f);
    CU_ASSERT_TRUE(x[2] > 1e38f && isnan(x[3]) && x[4] == 1 && isnan(sum));
}

static void test_silu(void)
{
    float gate[] = {0, 1, -1, 20, -20, 100, -100, 0.5f, -0.5f, NAN}, up[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1};

    kernels()->silu_multiply(gate, up, 10);
    CU_ASSERT_EQUAL(gate[0], 0);
    CU_ASSERT_DOUBLE_EQUAL(gate[1], 2 / (1 + exp(-1)), 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(gate[2], -3 / (1 + exp(1)), 1e-6);
    CU_ASSERT_DOUBLE_EQUAL(gate[3], 80, 1e-5);
    CU_ASSERT_DOUBLE_EQUAL(gate[4], -100 / (1 + exp(20)), 1e-12);
    CU_ASSERT_EQUAL(gate[5], 600);
    CU_ASSERT_DOUBLE_EQUAL(gate[6], 0, 1e-30);
    CU_ASSERT_DOUBLE_EQUAL(gate[8], -4.5 / (1 + exp(0.5)), 1e-6);
    CU_ASSERT_TRUE(isnan(gate[9]));
}

/* GELU by its tanh formula, and soft caps, against the formulas in double precision. */
static void test_gelu_and_softcap(void)
{
    float gate[64], up[64], scores[64];
    uint64_t state = 11;

    for (int i = 0; i < 64; i++) {
        gate[i] = 4 * testing_normal(&state);
        up[i] = testing_normal(&state);
        scores[i] = 40 * testing_normal(&state);
    }
    gate[0] = 100, gate[1] = -100, gate[2] = 0, gate[3] = NAN, scores[0] = 1e6f, scores[1] = -1e6f,
    scores[2] = NAN;
    for (uint64_t n = 61; n <= 64; n++) { /* whole lanes and parts of them */
        float bent[64], capped[64];

        memcpy(bent, gate, sizeof bent);
        memcpy(capped, scores, sizeof capped);
        kernels()->gelu_multiply(bent, up, n);
        kernels()->softcap(capped, 30, n);
        CU_ASSERT_TRUE(isnan(bent[3]) && isnan(capped[2]) && bent[2] == 0);
        for (uint64_t i = 0; i < n; i++) {
            double g = gate[i], u = sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g);

            if (i != 3) CU_ASSERT_DOUBLE_EQUAL(bent[i], 0.5 * g * (1 + tanh(u)) * up[i], 4e-6);
            if (i != 2) CU_ASSERT_DOUBLE_EQUAL(capped[i], 30 * tanh((double)scores[i] / 30), 3e-5);
        }
    }
}

/* ---- faults ---- */

/* A weight matrix with one bad value makes one channel bad. */
static void check_bad_weight(float bad, const char *named)
{
    struct model *model = open_model(golden_path("llama", ""), pool);
    struct session *session = new_session(model, 2, 8);
    const struct tensor *down = model->tensors.layer[1][ROLE_DOWN];
    struct tensor copy = *down;
    float *values = memory_new(down->elements, sizeof *values, NULL);
    float hidden[2 * 8 * 32];
    uint32_t tokens[16] = {1};
    struct error err = {0};

    REQUIRE(values && down->dtype == DTYPE_F32, NULL);
    memcpy(values, down->data, down->bytes);
    values[5 * down->shape[1]] = bad;
    copy.data = values;
    model->tensors.layer[1][ROLE_DOWN] = &copy;
    CU_ASSERT_EQUAL(session_step(session, hidden, tokens, 8, &err), ERR_NUMERIC);
    CHECK(strstr(err.text, "layer 1: channel 5") && strstr(err.text, named), &err);
    CU_ASSERT_EQUAL(session_length(session), 0);
    model->tensors.layer[1][ROLE_DOWN] = down;
    CHECK(session_step(session, hidden, tokens, 8, &err) == OK, &err);
    session_free(session);
    model_close(model);
    memory_free(values);
}

static void test_numeric(void)
{
    check_bad_weight(NAN, "NaN"); /* N05 */
    check_bad_weight(INFINITY, "infinite");
}

static void test_bad_steps(void)
{
    struct model *model = open_model(golden_path("llama", ""), pool);
    struct session *session = new_session(model, 2, 4), *other;
    uint32_t tokens[10] = {0, 1, 2, 3, 4, 96, 0, 0, 0, 0};
    float hidden[8 * 32];
    struct error err = {0};

    CU_ASSERT_EQUAL(session_step(session, hidden, tokens, 3, &err), ERR_FORMAT);
    CHECK(strstr(err.text, "token 2 of sequence 1 is 96"), &err);
    CU_ASSERT_EQUAL(session_step(session, hidden, tokens, 5, &err), ERR_USAGE);
    CHECK(strstr(err.text, "capacity of 4"), &err);
    CHECK(session_step(session, hidden, tokens, 2, &err) == OK, &err);
    CU_ASSERT_EQUAL(session_step(session, hidden, tokens, 3, &err), ERR_USAGE);
    CHECK(session_step(session, hidden, tokens, 0, &err) == OK && session_length(session) == 2, &err);
    CU_ASSERT_EQUAL(session_create(&other, model, 0, 4, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(session_create(&other, model, 1, 0, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(session_create(&other, model, UINT64_C(1) << 20, UINT64_C(1) << 30, &err), ERR_MEMORY);
    CU_ASSERT_EQUAL(session_create(&other, model, UINT64_MAX, UINT64_MAX, &err), ERR_MEMORY);
    CU_ASSERT_PTR_NULL(other);
    session_free(session);
    model_close(model);
}

/* A folder with some of the files of a golden case. */
static const char *copy_case(const char *name, const char *config, const char *tokenizer)
{
    const char *folder = testing_folder();
    uint64_t bytes;
    char *file = testing_read(golden_path(name, "model.safetensors"), &bytes);

    testing_write(testing_path("model.safetensors"), file, bytes);
    memory_free(file);
    if (config) testing_write(testing_path("config.json"), config, strlen(config));
    if (tokenizer) testing_write(testing_path("tokenizer.json"), tokenizer, strlen(tokenizer));
    return folder;
}

static void check_not_opened(const char *path, enum status expected, const char *named)
{
    struct model *model;
    struct error err = {0};

    CU_ASSERT_EQUAL(model_open(&model, path, pool, &err), expected);
    CHECK(strstr(err.text, named), &err);
    CU_ASSERT_PTR_NULL(model);
}

static void test_bad_models(void)
{
    uint64_t bytes;
    char *config = testing_read(golden_path("qwen2", "config.json"), &bytes);

    check_not_opened(copy_case("llama", NULL, NULL), ERR_FORMAT, "no config.json");
    check_not_opened(copy_case("llama", "{}", NULL), ERR_FORMAT, "config.json: architectures");
    check_not_opened(copy_case("llama", config, NULL), ERR_FORMAT, "q_proj.bias is missing");
    check_not_opened(copy_case("qwen2", config, "{\"model\": 7}"), ERR_FORMAT, "tokenizer.json");
    check_not_opened(testing_path("absent"), ERR_IO, "absent");
    memory_free(config);
}

/* Every allocation from opening to logits fails once. */
static enum status open_and_run(struct error *err)
{
    struct model *model = NULL;
    struct session *session = NULL;
    uint32_t tokens[3] = {1, 2, 3};
    float hidden[3 * 32], logits[3 * 96];
    enum status status = model_open(&model, golden_path("llama", "model.safetensors"), pool, err);

    if (!status) status = session_create(&session, model, 1, 3, err);
    if (!status) status = session_step(session, hidden, tokens, 3, err);
    if (!status) status = model_logits(model, logits, hidden, 3, err);
    session_free(session);
    model_close(model);
    return status;
}

static void test_no_memory(void)
{
    struct error err = {0};
    enum status status = ERR_MEMORY;
    uint64_t nth;

    for (nth = 1; status == ERR_MEMORY && nth < 10000; nth++) {
        memory_fail_at(nth, 0);
        status = open_and_run(&err);
    }
    memory_fail_at(0, 0);
    CHECK(status == OK && nth > 20, &err);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden", test_golden},
        {"batches", test_batches},
        {"blocks", test_blocks},
        {"workers", test_workers},
        {"reset", test_reset},
        {"truncate", test_truncate},
        {"observers", test_observers},
        {"quantized", test_quantized},
        {"attention", test_attention},
        {"exp", test_exp},
        {"exp extremes", test_exp_extremes},
        {"silu", test_silu},
        {"GELU and soft caps", test_gelu_and_softcap},
        {"numeric faults", test_numeric},
        {"bad steps", test_bad_steps},
        {"bad models", test_bad_models},
        {"no memory", test_no_memory},
    };
    struct error err = {0};
    int result;

    testing_kernel_set();
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    result = TESTING_RUN("forward", cases);
    pool_free(pool);
    return result;
}
