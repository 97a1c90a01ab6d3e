/* The walk against the forward pass: the same hidden states at the end, for every architecture and kind of rotation;
 * what is shown at each stage by its definition; two streams, re-entered layers, padding, files instead of memory,
 * saved states, and faults. */
#include "model/walk.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl.h"
#include "model/forward.h"
#include "tensor/tiles.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define BOUND 1e-5 /* of the largest magnitude: the same numbers, added up in other orders */

static struct pool *pool; /* of two workers, for all cases but the one about workers */

/* ---- what is walked ---- */

struct subject {
    struct checkpoint checkpoint;
    struct calibration calibration;
    struct tensor copies[ROLE_COUNT]; /* weights of one layer made up by a case */
};

static void open_subject(
    struct subject *subject, const char *path, uint64_t samples, uint64_t length, bool unequal)
{
    struct calibration *calibration = &subject->calibration;
    struct error err = {0};
    uint64_t seed = 3;

    *subject = (struct subject){.calibration = {.samples = samples, .length = length}};
    REQUIRE(checkpoint_open(&subject->checkpoint, path, &err) == OK, &err);
    REQUIRE(container_map(subject->checkpoint.container, &err) == OK, &err);
    calibration->tokens = memory_new(samples * length, sizeof(uint32_t), &err);
    calibration->lengths = memory_new(samples, sizeof(uint32_t), &err);
    REQUIRE(calibration->tokens && calibration->lengths, &err);
    for (uint64_t i = 0; i < samples; i++) {
        calibration->lengths[i] = (uint32_t)(unequal ? 1 + testing_random(&seed) % length : length);
        calibration->tokens_used += calibration->lengths[i];
        for (uint64_t j = 0; j < calibration->lengths[i]; j++)
            calibration->tokens[i * length + j] =
                (uint32_t)(testing_random(&seed) % subject->checkpoint.config.vocabulary);
    }
}

static void close_subject(struct subject *subject)
{
    memory_free(subject->calibration.tokens);
    memory_free(subject->calibration.lengths);
    checkpoint_close(&subject->checkpoint);
}

static const char *tiny(const char *name)
{
    testing_folder();
    return tiny_model_folder(name, (struct tiny_model){.layers = 3, .seed = 5});
}

static const char *golden(const char *name)
{
    char relative[512];

    snprintf(relative, sizeof relative, "golden/logits/%s", name);
    return testing_source(relative);
}

static struct walk_layer layer_of(const struct subject *subject, uint32_t index)
{
    struct walk_layer layer = {.index = index};

    memcpy(layer.original, subject->checkpoint.tensors.layer[index], sizeof layer.original);
    memcpy(layer.current, subject->checkpoint.tensors.layer[index], sizeof layer.current);
    if (subject->checkpoint.config.experts)
        layer.original_experts = layer.current_experts =
            subject->checkpoint.tensors.experts + (uint64_t)index * subject->checkpoint.config.experts;
    return layer;
}

static const struct walk_options one_stream = {.in_memory = true};
static const struct walk_options two_streams = {.original = true, .in_memory = true};

static struct walk *new_walk(struct subject *subject, const struct walk_options *options)
{
    struct walk *walk;
    struct error err = {0};

    REQUIRE(walk_create(&walk, &subject->checkpoint, &subject->calibration, options, pool, &err) == OK, &err);
    return walk;
}

/* ---- what is seen ---- */

/* Everything a stage shows, one block after the other. */
struct seen {
    float *x, *original, *residual;
    uint64_t tokens, cols, hidden, calls;
};

static void append(float **rows, uint64_t tokens, const float *more, uint64_t count, uint64_t cols)
{
    if (!more) return;
    *rows = realloc(*rows, (tokens + count) * cols * sizeof **rows);
    REQUIRE(*rows != NULL, NULL);
    memcpy(*rows + tokens * cols, more, count * cols * sizeof **rows);
}

static enum status look(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct seen *seen = context;

    (void)err;
    CU_ASSERT_TRUE(inputs->tokens > 0 && inputs->tokens <= 2048);
    append(&seen->x, seen->tokens, inputs->x, inputs->tokens, inputs->cols);
    append(&seen->original, seen->tokens, inputs->original, inputs->tokens, inputs->cols);
    append(&seen->residual, seen->tokens, inputs->residual, inputs->tokens, inputs->hidden);
    seen->tokens += inputs->tokens;
    seen->cols = inputs->cols;
    seen->hidden = inputs->hidden;
    seen->calls++;
    return OK;
}

static void forget(struct seen *seen)
{
    free(seen->x);
    free(seen->original);
    free(seen->residual);
    *seen = (struct seen){0};
}

/* Through one layer; what is shown at stage s goes to seen[s] (NULL: nobody looks). */
static void walk_stages(
    struct walk *walk, const struct walk_layer *layer, bool only_current, struct seen seen[WALK_STAGES])
{
    struct error err = {0};

    for (int stage = 0; stage < WALK_STAGES; stage++)
        REQUIRE(walk_to(walk, (enum stage)stage, layer, only_current, seen ? look : NULL,
                    seen ? &seen[stage] : NULL, &err) == OK,
            &err);
}

static void finish(struct walk *walk, const struct walk_layer *layer)
{
    struct error err = {0};

    REQUIRE(walk_finish(walk, layer, &err) == OK, &err);
}

static void walk_layers(struct walk *walk, const struct subject *subject, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        struct walk_layer layer = layer_of(subject, i);

        walk_stages(walk, &layer, false, NULL);
        finish(walk, &layer);
    }
}

/* The residual streams at the start of a layer, seen through a norm: the first stage of that layer, of whose tensors
 * only the norm is used. */
static struct seen look_at_start(struct walk *walk, const struct walk_layer *layer)
{
    struct seen seen = {0};
    struct error err = {0};

    REQUIRE(walk_to(walk, WALK_QKV, layer, false, look, &seen, &err) == OK, &err);
    return seen;
}

/* The same after the last layer, through the final norm. */
static struct seen look_at_end(struct walk *walk, const struct subject *subject)
{
    struct walk_layer layer = {0};

    layer.original[ROLE_ATTENTION_NORM] = subject->checkpoint.tensors.once[ROLE_FINAL_NORM];
    layer.current[ROLE_ATTENTION_NORM] = subject->checkpoint.tensors.once[ROLE_FINAL_NORM];
    layer.original[ROLE_ATTENTION_NORM_BIAS] = subject->checkpoint.tensors.once[ROLE_FINAL_NORM_BIAS];
    layer.current[ROLE_ATTENTION_NORM_BIAS] = subject->checkpoint.tensors.once[ROLE_FINAL_NORM_BIAS];
    return look_at_start(walk, &layer);
}

static double distance(const float *a, const float *b, uint64_t count)
{
    double difference = 0, magnitude = 0;

    for (uint64_t i = 0; i < count; i++) {
        if (!(fabs((double)a[i] - b[i]) <= difference)) difference = fabs((double)a[i] - b[i]);
        if (fabs(b[i]) > magnitude) magnitude = fabs(b[i]);
    }
    return difference / magnitude;
}

static bool same_floats(const float *a, const float *b, uint64_t count)
{
    return memcmp(a, b, count * sizeof *a) == 0;
}

static void check_same(const struct seen *a, const struct seen *b)
{
    CU_ASSERT_EQUAL_FATAL(a->tokens * a->cols, b->tokens * b->cols);
    CU_ASSERT_TRUE(same_floats(a->x, b->x, a->tokens * a->cols));
    CU_ASSERT_EQUAL(!a->original, !b->original);
    if (a->original) CU_ASSERT_TRUE(same_floats(a->original, b->original, a->tokens * a->cols));
    CU_ASSERT_EQUAL(!a->residual, !b->residual);
    if (a->residual) CU_ASSERT_TRUE(same_floats(a->residual, b->residual, a->tokens * a->hidden));
}

/* ---- against the forward pass ---- */

/* Hidden states after the final norm of every sample alone, one after the other. */
static float *forward(const struct subject *subject, const char *path)
{
    const struct calibration *calibration = &subject->calibration;
    struct model *model;
    struct session *session;
    struct error err = {0};
    float *hidden, *at;

    REQUIRE(model_open(&model, path, pool, &err) == OK, &err);
    REQUIRE(session_create(&session, model, 1, calibration->length, &err) == OK, &err);
    at = hidden = memory_new(calibration->tokens_used * model->config.hidden, sizeof(float), &err);
    REQUIRE(hidden, &err);
    for (uint64_t i = 0; i < calibration->samples; i++) {
        session_reset(session);
        REQUIRE(session_step(session, at, calibration->tokens + i * calibration->length,
                    calibration->lengths[i], &err) == OK,
            &err);
        at += (uint64_t)calibration->lengths[i] * model->config.hidden;
    }
    session_free(session);
    model_close(model);
    return hidden;
}

static double check_forward(
    const char *path, uint64_t samples, uint64_t length, bool unequal, const struct walk_options *options)
{
    struct subject subject;
    struct walk *walk;
    struct seen seen;
    float *hidden;
    double result;

    open_subject(&subject, path, samples, length, unequal);
    hidden = forward(&subject, path);
    walk = new_walk(&subject, options);
    walk_layers(walk, &subject, 0, subject.checkpoint.config.layers);
    seen = look_at_end(walk, &subject);
    CU_ASSERT_EQUAL_FATAL(seen.tokens, subject.calibration.tokens_used);
    CU_ASSERT_TRUE(walk_seconds(walk) > 0);
    result = distance(seen.x, hidden, seen.tokens * seen.cols);
    CU_ASSERT_TRUE(result < BOUND);
    if (options->original) CU_ASSERT_TRUE(same_floats(seen.x, seen.original, seen.tokens * seen.cols));
    forget(&seen);
    walk_free(walk);
    memory_free(hidden);
    close_subject(&subject);
    return result;
}

static void test_forward(void)
{
    const char *path = tiny("forward");

    check_forward(path, 5, 33, false, &one_stream);
    check_forward(path, 5, 33, false, &two_streams);
    check_forward(path, 1, 1, false, &two_streams);
    check_forward(path, 90, 50, false, &two_streams);  /* several blocks, the last one smaller */
    check_forward(path, 2, 2100, false, &two_streams); /* a sample beyond the size of a block */
}

/* Every architecture, bias, window and kind of rotation that there are golden logits for. */
static void test_golden(void)
{
    DIR *folder = opendir(testing_source("golden/logits"));
    struct dirent *entry;
    int found = 0;

    REQUIRE(folder, NULL);
    while ((entry = readdir(folder))) {
        double equal, unequal;

        if (entry->d_name[0] == '.') continue;
        equal = check_forward(golden(entry->d_name), 7, 77, false, &one_stream);
        unequal = check_forward(golden(entry->d_name), 7, 150, true, &two_streams);
        printf("\n    %-26s %.1e equal, %.1e unequal lengths", entry->d_name, equal, unequal);
        found++;
    }
    closedir(folder);
    printf("\n  ");
    CU_ASSERT_TRUE(found >= 35);
}

/* Samples of all lengths together are as each of them alone: to rounding, because products of few tokens add up in
 * another order. */
static void test_lengths(void)
{
    check_forward(tiny("lengths"), 40, 60, true, &one_stream);
    check_forward(tiny("lengths"), 3, 2500, true, &two_streams);
}

/* ---- what is shown ---- */

static float dot(const struct tensor *weight, uint64_t row, const float *x)
{
    double sum = 0;

    for (uint64_t i = 0; i < weight->shape[1]; i++)
        sum += (double)((const float *)weight->data)[row * weight->shape[1] + i] * x[i];
    return (float)sum;
}

/* y = norm(x) * gain, in double precision. */
static void norm(float *y, const float *x, const struct tensor *gain, double epsilon)
{
    uint64_t size = gain->shape[0];
    double sum = 0;

    for (uint64_t i = 0; i < size; i++)
        sum += (double)x[i] * x[i];
    for (uint64_t i = 0; i < size; i++)
        y[i] = (float)(x[i] / sqrt(sum / (double)size + epsilon) * ((const float *)gain->data)[i]);
}

/* The stages of the first layer for the first token of a sample, which sees nothing but itself: what it attends to is
 * its own v, of the head's group. */
static void check_first_token(const struct subject *subject, const struct seen seen[WALK_STAGES])
{
    const struct model_config *config = &subject->checkpoint.config;
    const struct tensor *const *tensors = subject->checkpoint.tensors.layer[0];
    uint64_t hidden = config->hidden, size = config->head_size, group = config->heads / config->kv_heads;
    float x[64], normed[64], mixed[64], wide[96];

    memcpy(x,
        (const float *)subject->checkpoint.tensors.once[ROLE_EMBEDDING]->data +
            subject->calibration.tokens[0] * hidden,
        sizeof x);
    norm(normed, x, tensors[ROLE_ATTENTION_NORM], config->norm_epsilon);
    CU_ASSERT_TRUE(distance(seen[WALK_QKV].x, normed, hidden) < BOUND);
    for (uint64_t i = 0; i < 64; i++)
        mixed[i] = dot(tensors[ROLE_V], i / size / group * size + i % size, normed);
    CU_ASSERT_TRUE(distance(seen[WALK_O].x, mixed, 64) < BOUND);
    for (uint64_t i = 0; i < hidden; i++)
        x[i] += dot(tensors[ROLE_O], i, mixed);
    norm(normed, x, tensors[ROLE_MLP_NORM], config->norm_epsilon);
    CU_ASSERT_TRUE(distance(seen[WALK_GATE_UP].x, normed, hidden) < BOUND);
    for (uint64_t i = 0; i < config->ffn; i++) {
        double gate = dot(tensors[ROLE_GATE], i, normed);

        wide[i] = (float)(gate / (1 + exp(-gate)) * dot(tensors[ROLE_UP], i, normed));
    }
    CU_ASSERT_TRUE(distance(seen[WALK_DOWN].x, wide, config->ffn) < BOUND);
}

static void test_shown(void)
{
    struct subject subject;
    struct seen seen[WALK_STAGES] = {0};
    struct walk_layer layer;
    struct walk *walk;

    open_subject(&subject, tiny("shown"), 60, 40, true);
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &two_streams);
    walk_stages(walk, &layer, false, seen);
    check_first_token(&subject, seen);
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        bool residual = stage == WALK_O || stage == WALK_DOWN;

        CU_ASSERT_EQUAL(seen[stage].tokens, subject.calibration.tokens_used);
        CU_ASSERT_EQUAL(seen[stage].cols, walk_stage_cols(&subject.checkpoint.config, (enum stage)stage, 0));
        CU_ASSERT_EQUAL(seen[stage].calls, 2);
        CU_ASSERT_TRUE(
            same_floats(seen[stage].x, seen[stage].original, seen[stage].tokens * seen[stage].cols));
        CU_ASSERT_EQUAL(residual, seen[stage].residual != NULL);
        for (uint64_t i = 0; residual && i < seen[stage].tokens * seen[stage].hidden; i++)
            CU_ASSERT_EQUAL(seen[stage].residual[i], 0);
        forget(&seen[stage]);
    }
    walk_free(walk);
    close_subject(&subject);
}

static void test_stage_of(void)
{
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_Q), WALK_QKV);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_K), WALK_QKV);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_V), WALK_QKV);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_O), WALK_O);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_GATE), WALK_GATE_UP);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_UP), WALK_GATE_UP);
    CU_ASSERT_EQUAL(walk_stage_of(ROLE_DOWN), WALK_DOWN);
}

/* ---- replaced weights ---- */

/* A copy of a weight of the layer, scaled, in place of the current one. */
static void replace(struct subject *subject, struct walk_layer *layer, enum role role, float factor)
{
    struct tensor *copy = &subject->copies[role];
    float *values = memory_new(layer->original[role]->elements, sizeof(float), NULL);

    REQUIRE(values && layer->original[role]->dtype == DTYPE_F32, NULL);
    *copy = *layer->original[role];
    for (uint64_t i = 0; i < copy->elements; i++)
        values[i] = factor * ((const float *)copy->data)[i];
    copy->data = values;
    layer->current[role] = copy;
}

static void drop_copies(struct subject *subject)
{
    for (int role = 0; role < ROLE_COUNT; role++)
        memory_free((void *)(uintptr_t)subject->copies[role].data);
    memset(subject->copies, 0, sizeof subject->copies);
}

/* What is shown with another o in the current stream: it differs from GATE_UP on, the original one is as it was, and
 * the residual is what half of o adds. */
static void check_halved_o(
    const struct seen plain[WALK_STAGES], const struct seen both[WALK_STAGES], const struct tensor *o)
{
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        uint64_t floats = plain[stage].tokens * plain[stage].cols;

        CU_ASSERT_TRUE(same_floats(both[stage].original, plain[stage].x, floats));
        CU_ASSERT_EQUAL(same_floats(both[stage].x, plain[stage].x, floats), stage < WALK_GATE_UP);
    }
    for (uint64_t i = 0; i < both[WALK_DOWN].tokens; i++) {
        const float *attended = both[WALK_O].x + i * both[WALK_O].cols;
        float expected[64];

        for (uint64_t j = 0; j < 64; j++)
            expected[j] = 0.5f * dot(o, j, attended);
        CU_ASSERT_TRUE(distance(both[WALK_DOWN].residual + i * 64, expected, 64) < 1e-4);
    }
}

static void forget_all(struct seen seen[WALK_STAGES])
{
    for (int stage = 0; stage < WALK_STAGES; stage++)
        forget(&seen[stage]);
}

/* The states at the start of layer 1 when nothing was replaced. */
static struct seen start_of_second(struct subject *subject)
{
    struct walk_layer layer = layer_of(subject, 1);
    struct walk *walk = new_walk(subject, &one_stream);
    struct seen start;

    walk_layers(walk, subject, 0, 1);
    start = look_at_start(walk, &layer);
    walk_free(walk);
    return start;
}

static void test_replaced(void)
{
    struct seen plain[WALK_STAGES] = {0}, both[WALK_STAGES] = {0}, expected, next;
    struct walk_layer same, other;
    struct subject subject;
    struct walk *walk;

    open_subject(&subject, tiny("replaced"), 9, 30, true);
    same = other = layer_of(&subject, 0);
    replace(&subject, &other, ROLE_O, 0.5f);
    walk = new_walk(&subject, &two_streams);
    walk_stages(walk, &same, false, plain);
    walk_stages(walk, &other, false, both);
    check_halved_o(plain, both, same.original[ROLE_O]);
    finish(walk, &other);
    same = layer_of(&subject, 1);
    next = look_at_start(walk, &same);
    expected = start_of_second(&subject);
    CU_ASSERT_FALSE(same_floats(next.x, expected.x, next.tokens * next.cols));
    CU_ASSERT_TRUE(same_floats(next.original, expected.x, next.tokens * next.cols));
    forget_all(plain);
    forget_all(both);
    forget(&expected);
    forget(&next);
    walk_free(walk);
    drop_copies(&subject);
    close_subject(&subject);
}

/* Walked again, wholly or up to some stage, with other weights in between: nothing of it is left. */
static void test_again(void)
{
    struct seen first[WALK_STAGES] = {0}, again[WALK_STAGES] = {0};
    struct walk_layer same, other;
    struct subject subject;
    struct error err = {0};
    struct walk *walk;

    open_subject(&subject, tiny("again"), 9, 30, true);
    walk = new_walk(&subject, &two_streams);
    walk_layers(walk, &subject, 0, 1);
    same = other = layer_of(&subject, 1);
    replace(&subject, &other, ROLE_Q, 3);
    replace(&subject, &other, ROLE_UP, 0.1f);
    walk_stages(walk, &same, false, first);
    walk_stages(walk, &other, true, NULL);
    CHECK(walk_to(walk, WALK_QKV, &other, false, NULL, NULL, &err) == OK, &err);
    CHECK(walk_to(walk, WALK_O, &other, false, look, &again[0], &err) == OK, &err);
    forget(&again[0]);
    walk_stages(walk, &same, false, again);
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        check_same(&first[stage], &again[stage]);
        forget(&first[stage]);
        forget(&again[stage]);
    }
    walk_free(walk);
    drop_copies(&subject);
    close_subject(&subject);
}

/* The original stream may stay behind, wholly or after some stage: walk_finish brings it along. */
static void check_left_behind(struct subject *subject, int stages, const struct seen *expected)
{
    struct walk_layer layer = layer_of(subject, 0), next = layer_of(subject, 1);
    struct seen seen[WALK_STAGES] = {0}, start;
    struct error err = {0};
    struct walk *walk = new_walk(subject, &two_streams);

    replace(subject, &layer, ROLE_O, 0.5f);
    for (int stage = 0; stage < stages; stage++)
        CHECK(walk_to(walk, (enum stage)stage, &layer, false, NULL, NULL, &err) == OK, &err);
    walk_stages(walk, &layer, true, seen);
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        CU_ASSERT_PTR_NULL(seen[stage].original);
        CU_ASSERT_PTR_NULL(seen[stage].residual);
        forget(&seen[stage]);
    }
    finish(walk, &layer);
    start = look_at_start(walk, &next);
    CU_ASSERT_TRUE(same_floats(start.original, expected->x, start.tokens * start.cols));
    CU_ASSERT_FALSE(same_floats(start.x, expected->x, start.tokens * start.cols));
    forget(&start);
    walk_free(walk);
    drop_copies(subject);
}

static void test_only_current(void)
{
    struct subject subject;
    struct seen expected;

    open_subject(&subject, tiny("behind"), 9, 30, true);
    expected = start_of_second(&subject);
    for (int stages = 0; stages <= WALK_STAGES; stages++)
        check_left_behind(&subject, stages, &expected);
    forget(&expected);
    close_subject(&subject);
}

/* ---- quantized weights ---- */

/* Bytes of a quantized twin of a matrix: arbitrary codes, all scales 2^-6. Owner: the caller. */
static uint8_t *make_tiles(struct tensor *tiles, const struct tensor *matrix, struct scheme scheme)
{
    struct tiles_layout layout;
    struct error err = {0};
    uint64_t rows = matrix->shape[0], cols = matrix->shape[1], seed = 4;

    REQUIRE(tiles_layout(&layout, rows, cols, scheme, &err) == OK, &err);
    uint8_t *bytes = memory_new(layout.bytes, 1, &err), *codes = memory_new(TILE_ROWS, cols, &err);
    uint8_t *zeros = memory_new(TILE_ROWS, layout.groups, &err);
    uint16_t *scales = memory_new(TILE_ROWS * layout.groups, sizeof *scales, &err);
    REQUIRE(bytes && codes && zeros && scales, &err);
    for (uint64_t i = 0; i < TILE_ROWS * layout.groups; i++)
        scales[i] = 0x2400, zeros[i] = (uint8_t)(i % 3 + 2);
    for (uint64_t i = 0; i < layout.tiles; i++) {
        struct tile tile = tiles_at(&layout, bytes, i);

        for (uint64_t j = 0; j < TILE_ROWS * cols; j++)
            codes[j] = (uint8_t)(testing_random(&seed) % (1u << scheme.bits));
        tiles_pack(&layout, (uint8_t *)(uintptr_t)tile.codes, (uint16_t *)(uintptr_t)tile.scales,
            (uint8_t *)(uintptr_t)tile.zeros, codes, scales, scheme.asymmetric ? zeros : NULL,
            rows - i * TILE_ROWS < TILE_ROWS ? rows - i * TILE_ROWS : TILE_ROWS);
    }
    *tiles = *matrix;
    tiles->storage = STORAGE_TILES;
    tiles->dtype = DTYPE_F16;
    tiles->scheme = scheme;
    tiles->bytes = layout.bytes;
    tiles->data = bytes;
    memory_free(codes);
    memory_free(zeros);
    memory_free(scales);
    return bytes;
}

/* The first layer's o as tiles, and as the dense matrix that they decode to. */
static void test_tiles(void)
{
    const struct scheme scheme = {.bits = 4, .group = 32};
    struct seen seen[WALK_STAGES] = {0};
    struct subject subject;
    struct tiles_layout layout;
    struct walk_layer layer;
    struct tensor tiles;
    struct walk *walk;
    uint8_t *bytes;

    open_subject(&subject, tiny("tiles"), 9, 30, false);
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &two_streams);
    bytes = make_tiles(&tiles, layer.original[ROLE_O], scheme);
    replace(&subject, &layer, ROLE_O, 0);
    REQUIRE(tiles_layout(&layout, 64, 64, scheme, NULL) == OK, NULL);
    tiles_decode(&layout, (float *)(uintptr_t)subject.copies[ROLE_O].data, 64, bytes, 0, 64);
    layer.original[ROLE_O] = &subject.copies[ROLE_O];
    layer.current[ROLE_O] = &tiles;
    walk_stages(walk, &layer, false, seen);
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        CU_ASSERT_TRUE(
            distance(seen[stage].x, seen[stage].original, seen[stage].tokens * seen[stage].cols) < BOUND);
        forget(&seen[stage]);
    }
    walk_free(walk);
    memory_free(bytes);
    drop_copies(&subject);
    close_subject(&subject);
}

static void write_tensors(struct writer *writer, const struct tensor *tensors, uint64_t count)
{
    struct error err = {0};
    uint64_t index;

    for (uint64_t i = 0; i < count; i++)
        REQUIRE(writer_add(writer, &tensors[i], &index, &err) == OK && index == i, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (uint64_t i = 0; i < count; i++) {
        REQUIRE(writer_write(writer, i, 0, tensors[i].data, tensors[i].bytes, &err) == OK, &err);
        writer_checksum(writer, i, file_crc32(0, tensors[i].data, tensors[i].bytes));
    }
}

/* A .nbl file of a checkpoint with its embedding quantized. */
static void write_quantized(const char *path, const char *folder, struct scheme scheme)
{
    struct tensor tensors[64];
    struct writer *writer;
    struct checkpoint input;
    struct error err = {0};
    uint64_t count, bytes;
    uint8_t *tiles = NULL;
    char *config;

    REQUIRE(checkpoint_open(&input, folder, &err) == OK, &err);
    REQUIRE(container_map(input.container, &err) == OK, &err);
    REQUIRE((count = container_count(input.container)) <= 64, NULL);
    for (uint64_t i = 0; i < count; i++) {
        tensors[i] = *container_tensor(input.container, i);
        if (container_tensor(input.container, i) == input.tensors.once[ROLE_EMBEDDING])
            tiles = make_tiles(&tensors[i], input.tensors.once[ROLE_EMBEDDING], scheme);
    }
    REQUIRE(nbl_writer_create(&writer, path, true, &err) == OK, &err);
    write_tensors(writer, tensors, count);
    REQUIRE(container_document(input.container, "config.json", &config, &bytes, &err) == OK, &err);
    REQUIRE(writer_document(writer, "config.json", config, bytes, &err) == OK, &err);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    memory_free(config);
    memory_free(tiles);
    checkpoint_close(&input);
}

/* A quantized embedding is read tile by tile; the vocabulary ends within one. */
static void test_tiled_embedding(void)
{
    const char *folder = tiny("embedding"), *path = testing_path("embedding.nbl");

    write_quantized(path, folder, (struct scheme){.bits = 4, .group = 32});
    check_forward(path, 40, 30, false, &one_stream);
    write_quantized(path, folder, (struct scheme){.bits = 3, .group = 16, .asymmetric = true});
    check_forward(path, 40, 30, true, &one_stream);
    write_quantized(path, folder, (struct scheme){.bits = 8, .group = 64, .asymmetric = true});
    check_forward(path, 40, 30, true, &one_stream);
}

/* ---- always the same ---- */

/* What is shown in layer 1 after a walk through layer 0. */
static void walk_two(
    struct subject *subject, const struct walk_options *options, struct seen seen[WALK_STAGES])
{
    struct walk_layer layer = layer_of(subject, 0);
    struct walk *walk = new_walk(subject, options);

    replace(subject, &layer, ROLE_GATE, 0.9f);
    walk_stages(walk, &layer, false, NULL);
    finish(walk, &layer);
    layer = layer_of(subject, 1);
    walk_stages(walk, &layer, false, seen);
    walk_free(walk);
    drop_copies(subject);
}

static void check_all_same(struct seen a[WALK_STAGES], struct seen b[WALK_STAGES])
{
    for (int stage = 0; stage < WALK_STAGES; stage++) {
        check_same(&a[stage], &b[stage]);
        forget(&b[stage]);
    }
}

static void test_spilled(void)
{
    const struct walk_options options = {.original = true, .folder = testing_folder()};
    struct seen memory[WALK_STAGES] = {0}, spilled[WALK_STAGES] = {0};
    struct subject subject;

    open_subject(&subject, tiny("spilled"), 90, 50, true);
    walk_two(&subject, &two_streams, memory);
    walk_two(&subject, &options, spilled);
    check_all_same(memory, spilled);
    forget_all(memory);
    close_subject(&subject);
}

static void test_workers(void)
{
    static const unsigned workers[] = {1, 2, 3};
    struct pool *before = pool;
    struct seen first[WALK_STAGES] = {0}, other[WALK_STAGES] = {0};
    struct subject subject;
    struct error err = {0};

    open_subject(&subject, tiny("workers"), 30, 150, true);
    for (size_t i = 0; i < 3; i++) {
        REQUIRE(pool_create(&pool, workers[i], &err) == OK, &err);
        walk_two(&subject, &two_streams, i == 0 ? first : other);
        if (i > 0) check_all_same(first, other);
        pool_free(pool);
    }
    pool = before;
    forget_all(first);
    close_subject(&subject);
}

/* ---- saving ---- */

/* Two walks at the start of layer `first` go on alike to the end. */
static void check_alike(const struct subject *subject, struct walk *a, struct walk *b, uint32_t first)
{
    struct walk_layer layer = layer_of(subject, first);
    struct seen seen_a = look_at_start(a, &layer), seen_b = look_at_start(b, &layer);

    check_same(&seen_a, &seen_b);
    forget(&seen_a);
    forget(&seen_b);
    walk_layers(a, subject, first, subject->checkpoint.config.layers);
    walk_layers(b, subject, first, subject->checkpoint.config.layers);
    seen_a = look_at_end(a, subject);
    seen_b = look_at_end(b, subject);
    check_same(&seen_a, &seen_b);
    forget(&seen_a);
    forget(&seen_b);
}

static void check_save(const struct walk_options *options)
{
    struct walk_layer layer;
    struct subject subject;
    struct error err = {0};
    struct walk *walk, *other;
    const char *path;

    open_subject(&subject, tiny("save"), 90, 30, true);
    path = testing_path("walk.state");
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, options);
    replace(&subject, &layer, ROLE_DOWN, 0.7f);
    CHECK(walk_save(walk, path, "at the start", &err) == OK, &err);
    walk_stages(walk, &layer, false, NULL);
    finish(walk, &layer);
    CHECK(walk_save(walk, path, "after layer 0", &err) == OK, &err); /* replaces the file */
    other = new_walk(&subject, options);
    CHECK(walk_load(other, path, "after layer 0", &err) == OK, &err);
    check_alike(&subject, walk, other, 1);
    walk_free(walk);
    walk_free(other);
    drop_copies(&subject);
    close_subject(&subject);
}

static void test_save(void)
{
    check_save(&one_stream);
    check_save(&two_streams);
    check_save(&(struct walk_options){.original = true, .folder = testing_folder()});
}

/* Every file of fewer bytes, one with more, and one with any bit wrong is refused. */
static void check_refused(struct walk *walk, const char *path, char *file, uint64_t bytes)
{
    struct error err = {0};

    for (uint64_t cut = 0; cut < bytes; cut++) {
        testing_write(path, file, cut);
        CU_ASSERT_EQUAL(walk_load(walk, path, "stamp", &err), ERR_FORMAT);
    }
    testing_write(path, file, bytes + 1);
    CU_ASSERT_EQUAL(walk_load(walk, path, "stamp", &err), ERR_FORMAT);
    for (uint64_t bit = 0; bit < 8 * bytes; bit++) {
        file[bit / 8] = (char)(file[bit / 8] ^ 1 << bit % 8);
        testing_write(path, file, bytes);
        CU_ASSERT_EQUAL(walk_load(walk, path, "stamp", &err), ERR_FORMAT);
        CHECK(strstr(err.text, "damaged.state"), &err);
        file[bit / 8] = (char)(file[bit / 8] ^ 1 << bit % 8);
    }
}

/* And the walk is then where it was. */
static void test_damaged(void)
{
    struct walk_layer layer;
    struct seen expected, after;
    struct subject subject;
    struct error err = {0};
    struct walk *walk;
    const char *path;
    uint64_t bytes;
    char *file;

    open_subject(&subject, tiny_model_folder("damaged", (struct tiny_model){.hidden = 32}), 1, 3, false);
    path = testing_path("damaged.state");
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &two_streams);
    walk_layers(walk, &subject, 0, 1);
    CHECK(walk_save(walk, path, "stamp", &err) == OK, &err);
    walk_layers(walk, &subject, 1, 2);
    expected = look_at_start(walk, &layer);
    file = testing_read(path, &bytes);
    check_refused(walk, path, file, bytes);
    after = look_at_start(walk, &layer);
    check_same(&expected, &after);
    testing_write(path, file, bytes);
    CHECK(walk_load(walk, path, "stamp", &err) == OK, &err);
    memory_free(file);
    forget(&expected);
    forget(&after);
    walk_free(walk);
    close_subject(&subject);
}

static void check_not_loaded(struct subject *subject, const struct walk_options *options, const char *path,
    const char *stamp, enum status expected, const char *named)
{
    struct walk *walk = new_walk(subject, options);
    struct error err = {0};

    CU_ASSERT_EQUAL(walk_load(walk, path, stamp, &err), expected);
    CHECK(strstr(err.text, named), &err);
    walk_free(walk);
}

static void test_foreign(void)
{
    struct subject subject, longer;
    struct error err = {0};
    struct walk *walk;
    const char *folder = tiny("foreign"), *path = testing_path("walk.state");

    open_subject(&subject, folder, 2, 5, false);
    open_subject(&longer, folder, 2, 6, false);
    walk = new_walk(&subject, &two_streams);
    CHECK(walk_save(walk, path, "stamp", &err) == OK, &err);
    check_not_loaded(&subject, &two_streams, path, "stamp 2", ERR_FORMAT, "another walk");
    check_not_loaded(&subject, &two_streams, path, "", ERR_FORMAT, "another walk");
    check_not_loaded(&subject, &one_stream, path, "stamp", ERR_FORMAT, "another walk");
    check_not_loaded(&longer, &two_streams, path, "stamp", ERR_FORMAT, "another walk");
    subject.calibration.tokens_crc32 = 1;
    check_not_loaded(&subject, &two_streams, path, "stamp", ERR_FORMAT, "another walk");
    check_not_loaded(&subject, &two_streams, testing_path("absent"), "stamp", ERR_IO, "absent");
    check_not_loaded(&subject, &two_streams, folder, "stamp", ERR_FORMAT, "is a folder");
    testing_write(path, "GGUF is what this begins with, and then it goes on for a while longer", 60);
    check_not_loaded(&subject, &two_streams, path, "stamp", ERR_FORMAT, "no saved walk");
    CU_ASSERT_EQUAL(walk_save(walk, testing_path("absent/walk"), "", &err), ERR_IO);
    walk_free(walk);
    close_subject(&subject);
    close_subject(&longer);
}

/* ---- faults ---- */

/* A layer of which one element of one weight is bad, in one stream or both. */
static void check_bad(struct subject *subject, enum role role, bool current, float bad, const char *named)
{
    struct walk_layer layer = layer_of(subject, 1);
    struct walk *walk = new_walk(subject, &two_streams);
    struct error err = {0};
    enum status status = OK;

    walk_layers(walk, subject, 0, 1);
    replace(subject, &layer, role, 1);
    ((float *)(uintptr_t)subject->copies[role].data)[5 * subject->copies[role].shape[1]] = bad;
    if (!current) {
        layer.original[role] = &subject->copies[role];
        layer.current[role] = subject->checkpoint.tensors.layer[1][role];
    }
    for (int stage = 0; stage < WALK_STAGES && !status; stage++)
        status = walk_to(walk, (enum stage)stage, &layer, false, NULL, NULL, &err);
    if (!status) status = walk_finish(walk, &layer, &err);
    CU_ASSERT_EQUAL(status, ERR_NUMERIC);
    CHECK(strstr(err.text, named), &err);
    walk_free(walk);
    drop_copies(subject);
}

static void test_numeric(void)
{
    struct subject subject;

    open_subject(&subject, tiny("numeric"), 4, 9, false);
    check_bad(&subject, ROLE_V, true, NAN,
        "layer 1, input of o_proj, current stream: channel 5 is NaN at position 0 of sample 0");
    check_bad(&subject, ROLE_V, false, NAN,
        "layer 1, input of o_proj, original stream: channel 5 is NaN at position 0 of sample 0");
    check_bad(&subject, ROLE_O, true, INFINITY,
        "layer 1, residual stream after o_proj, current stream: channel 5 is infinite");
    check_bad(&subject, ROLE_UP, true, NAN, "layer 1, input of down_proj, current stream: channel 5 is NaN");
    check_bad(&subject, ROLE_DOWN, false, NAN,
        "layer 1, residual stream after down_proj, original stream: channel 5 is NaN");
    close_subject(&subject);
}

/* A sample's padding takes part in products. Whatever its tokens are, and however large activations become, it stays
 * out of what is shown: here the embedding of token 0 is infinite, and padding is token 0. */
static void test_padding(void)
{
    struct subject subject;
    struct seen seen[WALK_STAGES] = {0};
    struct walk_layer layer;
    struct walk *walk;

    testing_folder();
    open_subject(&subject,
        tiny_model_folder(
            "padding", (struct tiny_model){.poison = "model.embed_tokens.weight", .poison_value = INFINITY}),
        9, 40, true);
    for (uint64_t i = 0; i < 9; i++) {
        for (uint64_t j = 0; j < subject.calibration.lengths[i]; j++)
            subject.calibration.tokens[i * 40 + j] |= 1;
    }
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &two_streams);
    walk_stages(walk, &layer, false, seen);
    for (int stage = 0; stage < WALK_STAGES; stage++)
        CU_ASSERT_EQUAL(seen[stage].tokens, subject.calibration.tokens_used);
    finish(walk, &layer);
    forget_all(seen);
    walk_free(walk);
    close_subject(&subject);
}

static void check_not_created(
    const struct tiny_model *options, uint32_t token, enum status expected, const char *named)
{
    struct subject subject;
    struct error err = {0};
    struct walk *walk;

    testing_folder();
    open_subject(&subject, tiny_model_folder("bad", *options), 3, 4, true);
    for (uint32_t i = 0; i < 12; i++)
        subject.calibration.tokens[i] = 7;
    subject.calibration.lengths[2] = 3;
    subject.calibration.tokens[11] = 1000000; /* padding is not looked at */
    subject.calibration.tokens[9] = token;
    CU_ASSERT_EQUAL(
        walk_create(&walk, &subject.checkpoint, &subject.calibration, &one_stream, pool, &err), expected);
    CU_ASSERT_PTR_NULL(walk);
    CHECK(strstr(err.text, named), &err);
    close_subject(&subject);
}

static void test_bad_embedding(void)
{
    const struct tiny_model poisoned = {
        .poison = "model.embed_tokens.weight", .poison_at = 8 * 64 + 3, .poison_value = NAN};

    check_not_created(
        &(struct tiny_model){0}, 269, ERR_FORMAT, "token 1 of sample 2 is 269, the vocabulary has 269");
    check_not_created(&poisoned, 8, ERR_NUMERIC, "embedding: channel 3 is NaN at position 1 of sample 2");
}

static enum status refuse(void *context, const struct walk_inputs *inputs, struct error *err)
{
    (void)inputs;
    return --*(int *)context > 0 ? OK : fail(err, ERR_CHECK, "enough");
}

/* What a tap says is passed on as it is, and the stage can be entered again. */
static void test_refusing_tap(void)
{
    struct walk_layer layer;
    struct subject subject;
    struct error err = {0};
    struct walk *walk;
    int calls = 2;

    open_subject(&subject, tiny("tap"), 90, 50, false);
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &two_streams);
    CHECK(walk_to(walk, WALK_QKV, &layer, false, NULL, NULL, &err) == OK, &err);
    CU_ASSERT_EQUAL(walk_to(walk, WALK_O, &layer, false, refuse, &calls, &err), ERR_CHECK);
    CU_ASSERT_STRING_EQUAL(err.text, "enough");
    CU_ASSERT_EQUAL(calls, 0);
    CHECK(walk_to(walk, WALK_O, &layer, false, NULL, NULL, &err) == OK, &err);
    walk_free(walk);
    close_subject(&subject);
}

/* From the first allocation to the last. */
static enum status walk_and_save(struct subject *subject, const char *path, struct error *err)
{
    const struct walk_options options = {.original = true, .folder = testing_path(".")};
    struct walk_layer layer = layer_of(subject, 0);
    struct walk *walk = NULL;
    enum status status = walk_create(&walk, &subject->checkpoint, &subject->calibration, &options, pool, err);

    for (int stage = 0; stage < WALK_STAGES && !status; stage++)
        status = walk_to(walk, (enum stage)stage, &layer, false, NULL, NULL, err);
    if (!status) status = walk_finish(walk, &layer, err);
    if (!status) status = walk_save(walk, path, "stamp", err);
    if (!status) status = walk_load(walk, path, "stamp", err);
    walk_free(walk);
    return status;
}

static void test_no_memory(void)
{
    enum status status = ERR_MEMORY;
    struct subject subject;
    struct error err = {0};
    const char *path;
    uint64_t nth;

    open_subject(&subject, tiny("memory"), 3, 7, true);
    path = testing_path("walk.state");
    for (nth = 1; status == ERR_MEMORY && nth < 10000; nth++) {
        memory_fail_at(nth, 0);
        status = walk_and_save(&subject, path, &err);
    }
    memory_fail_at(0, 0);
    CHECK(status == OK && nth > 20, &err);
    close_subject(&subject);
}

static struct file_calls real_calls;
static int64_t calls_left;

static int64_t failing_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    if (--calls_left == 0) return errno = EIO, -1;
    return real_calls.pread(descriptor, buffer, count, offset);
}

static int64_t failing_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (--calls_left == 0) return errno = ENOSPC, -1;
    return real_calls.pwrite(descriptor, buffer, count, offset);
}

/* Every read and write fails once. */
static void test_no_disk(void)
{
    enum status status = ERR_IO;
    struct subject subject;
    struct error err = {0};
    const char *path;
    int64_t nth;

    open_subject(&subject, tiny("disk"), 3, 7, true);
    path = testing_path("walk.state");
    real_calls = file_calls;
    file_calls.pread = failing_pread;
    file_calls.pwrite = failing_pwrite;
    for (nth = 1; status == ERR_IO && nth < 10000; nth++) {
        calls_left = nth;
        status = walk_and_save(&subject, path, &err);
    }
    file_calls = real_calls;
    CHECK(status == OK && nth > 20, &err);
    close_subject(&subject);
}

/* A disk that fails while the end of a layer is written: finished again, the states are as if it had not. */
static void test_finish_again(void)
{
    const struct walk_options options = {.original = true, .folder = testing_folder()};
    struct walk_layer layer;
    struct subject subject;
    struct error err = {0};
    struct walk *walk, *other;

    open_subject(&subject, tiny("again"), 90, 50, true);
    layer = layer_of(&subject, 0);
    walk = new_walk(&subject, &options);
    other = new_walk(&subject, &two_streams);
    walk_stages(walk, &layer, false, NULL);
    real_calls = file_calls;
    file_calls.pwrite = failing_pwrite;
    calls_left = 3;
    CU_ASSERT_EQUAL(walk_finish(walk, &layer, &err), ERR_IO);
    file_calls = real_calls;
    finish(walk, &layer);
    walk_layers(other, &subject, 0, 1);
    check_alike(&subject, walk, other, 1);
    walk_free(walk);
    walk_free(other);
    close_subject(&subject);
}

/* ---- memory ---- */

static uint64_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

/* What is foreseen is what is taken, but for what the backend needs by its workers. */
static void test_bytes(void)
{
    struct walk_options options = two_streams;
    struct subject subject;
    struct backend backend;
    struct error err = {0};
    struct walk *walk;
    uint64_t foreseen, states, taken, before;

    open_subject(&subject, tiny("bytes"), 70, 100, false);
    before = allocated();
    REQUIRE(backend_cpu_create(&backend, pool, 96, &err) == OK, &err);
    taken = allocated() - before;
    backend.release(backend.state);
    before = allocated();
    walk = new_walk(&subject, &options);
    taken = allocated() - before - taken;
    foreseen = walk_bytes(&subject.checkpoint.config, 70, 100, &options, &states);
    CU_ASSERT_EQUAL(states, UINT64_C(2) * 7000 * (64 + 64 + 96) * 4);
    if (!TESTING_SANITIZED) CU_ASSERT_DOUBLE_EQUAL((double)taken, (double)foreseen, 0.02 * (double)foreseen);
    options.in_memory = false;
    CU_ASSERT_EQUAL(walk_bytes(&subject.checkpoint.config, 70, 100, &options, NULL), foreseen - states);
    CU_ASSERT_EQUAL(
        walk_bytes(&subject.checkpoint.config, UINT64_MAX, UINT64_MAX, &two_streams, &states), UINT64_MAX);
    CU_ASSERT_EQUAL(states, UINT64_MAX);
    walk_free(walk);
    close_subject(&subject);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"forward", test_forward},
        {"golden", test_golden},
        {"lengths", test_lengths},
        {"shown", test_shown},
        {"stage of", test_stage_of},
        {"replaced weights", test_replaced},
        {"again", test_again},
        {"only current", test_only_current},
        {"tiles", test_tiles},
        {"tiled embedding", test_tiled_embedding},
        {"spilled", test_spilled},
        {"workers", test_workers},
        {"save", test_save},
        {"damaged", test_damaged},
        {"foreign", test_foreign},
        {"numeric faults", test_numeric},
        {"padding", test_padding},
        {"bad embedding", test_bad_embedding},
        {"refusing tap", test_refusing_tap},
        {"no memory", test_no_memory},
        {"no disk", test_no_disk},
        {"finish again", test_finish_again},
        {"bytes", test_bytes},
    };
    struct error err = {0};
    int result;

    testing_kernel_set();
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    result = TESTING_RUN("walk", cases);
    pool_free(pool);
    return result;
}
