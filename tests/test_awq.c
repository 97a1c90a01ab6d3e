/* AWQ: the search for scales against a plain computation in double precision, and folding against a plain forward pass. */
#include "quantize/awq.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/layers.h"
#include "quantize/fold.h"
#include "tensor/linalg.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

static void *get(uint64_t count, uint64_t size)
{
    void *memory = memory_new(count, size, NULL);
    REQUIRE(memory != NULL, NULL);
    return memory;
}

/* ---- a stage ---- */

enum { MATRICES = 3 };

struct stage_case {
    uint64_t cols, count;
    struct awq_matrix matrices[MATRICES];
    struct hessian hessian;
    uint32_t *shared;
    float *scales;
    struct awq_choice choice;
};

static float *random_weights(uint64_t rows, uint64_t cols, uint64_t *state)
{
    float *weights = get(rows * cols, sizeof *weights);
    for (uint64_t i = 0; i < rows * cols; i++)
        weights[i] = 0.05f * testing_normal(state);
    return weights;
}

/* H and mean |x| of random inputs; loudness [cols] multiplies the channels. Neighbours are correlated. */
static void make_hessian(struct hessian *hessian, uint64_t cols, const float *loudness, uint64_t *state)
{
    uint64_t tokens = 2 * cols;
    double *x = get(cols + 1, sizeof *x);
    *hessian = (struct hessian){.cols = cols, .tokens = tokens};
    hessian->second = get(cols * cols, sizeof *hessian->second);
    hessian->magnitude = get(cols, sizeof *hessian->magnitude);
    for (uint64_t token = 0; token < tokens; token++) {
        for (uint64_t i = 0; i <= cols; i++)
            x[i] = testing_normal(state);
        for (uint64_t i = 0; i < cols; i++)
            x[i] = (double)loudness[i] * (x[i] + 0.5 * x[i + 1]);
        for (uint64_t i = 0; i < cols; i++) {
            hessian->magnitude[i] += fabs(x[i]) / (double)tokens;
            for (uint64_t j = 0; j < cols; j++)
                hessian->second[i * cols + j] += x[i] * x[j] / (double)tokens;
        }
    }
    memory_free(x);
}

/* Matrices of rows[i] rows each; the loudness of channels is between `quiet` and 1 with a few much louder. */
static struct stage_case make_case(
    const uint64_t *rows, uint64_t count, uint64_t cols, struct scheme scheme, uint64_t seed)
{
    struct stage_case stage = {.cols = cols, .count = count};
    float *loudness = get(cols, sizeof *loudness);
    for (uint64_t i = 0; i < cols; i++)
        loudness[i] = i % 37 == 5 ? 12 : 0.2f + fabsf(testing_normal(&seed));
    make_hessian(&stage.hessian, cols, loudness, &seed);
    for (uint64_t i = 0; i < count; i++)
        stage.matrices[i] = (struct awq_matrix){random_weights(rows[i], cols, &seed), rows[i], scheme,
            BLOCK_NONE, GRID_MINMAX, i ? "second" : "first"};
    stage.scales = get(cols, sizeof *stage.scales);
    memory_free(loudness);
    return stage;
}

static void release(struct stage_case *stage)
{
    for (uint64_t i = 0; i < stage->count; i++)
        memory_free((void *)stage->matrices[i].weights);
    memory_free(stage->hessian.second);
    memory_free(stage->hessian.magnitude);
    memory_free(stage->shared);
    memory_free(stage->scales);
}

static void make_dead(struct stage_case *stage, uint64_t channel)
{
    uint64_t cols = stage->cols;
    stage->hessian.magnitude[channel] = 0;
    for (uint64_t i = 0; i < cols; i++)
        stage->hessian.second[channel * cols + i] = stage->hessian.second[i * cols + channel] = 0;
}

static enum status search(struct stage_case *stage, unsigned workers, struct error *err)
{
    struct pool *pool;
    REQUIRE(pool_create(&pool, workers, err) == OK, err);
    enum status status = awq_search(stage->scales, &stage->choice, stage->matrices, stage->count,
        &stage->hessian, stage->shared, pool, err);
    pool_free(pool);
    return status;
}

static void must_search(struct stage_case *stage)
{
    struct error err = {0};
    REQUIRE(search(stage, 2, &err) == OK, &err);
}

/* ---- the meaning, in double precision ---- */

/* d H d^T of one row. */
static double row_error(const struct stage_case *stage, const struct awq_matrix *matrix, const float *weights,
    const float *scales)
{
    uint64_t cols = stage->cols, group = matrix->scheme.group;
    float *scaled = get(cols, sizeof *scaled), *importance = get(cols, sizeof *importance);
    uint8_t *codes = get(cols, 1);
    double *d = get(cols, sizeof *d), sum = 0;
    for (uint64_t i = 0; i < cols; i++) {
        scaled[i] = weights[i] * scales[i];
        importance[i] = (float)(stage->hessian.second[i * cols + i] / scales[i] / scales[i]);
    }
    for (uint64_t at = 0; at < cols; at += group) {
        struct grid grid;
        REQUIRE(grid_fit(&grid, scaled + at, importance + at, group, matrix->scheme.bits,
                    matrix->scheme.asymmetric, matrix->range),
            NULL);
        grid_encode(codes + at, scaled + at, group, grid, matrix->scheme.bits);
        grid_decode(scaled + at, codes + at, group, grid);
    }
    for (uint64_t i = 0; i < cols; i++)
        d[i] = (double)scaled[i] / scales[i] - weights[i];
    for (uint64_t i = 0; i < cols; i++) {
        for (uint64_t j = 0; j < cols; j++)
            sum += d[i] * d[j] * stage->hessian.second[i * cols + j];
    }
    memory_free(scaled);
    memory_free(importance);
    memory_free(codes);
    memory_free(d);
    return sum;
}

static double error_of(const struct stage_case *stage, const float *scales)
{
    double sum = 0;
    for (uint64_t m = 0; m < stage->count; m++) {
        const struct awq_matrix *matrix = &stage->matrices[m];
        for (uint64_t row = 0; row < matrix->rows; row++)
            sum += row_error(stage, matrix, matrix->weights + row * stage->cols, scales);
    }
    return sum;
}

/* The error with the chosen scales, relative to that without. */
static double relative_error(const struct stage_case *stage)
{
    float *ones = get(stage->cols, sizeof *ones);
    for (uint64_t i = 0; i < stage->cols; i++)
        ones[i] = 1;
    double relative = error_of(stage, stage->scales) / error_of(stage, ones);
    memory_free(ones);
    return relative;
}

static void normalise(const struct stage_case *stage, float *scales)
{
    double least = INFINITY, most = 0;
    for (uint64_t i = 0; i < stage->cols; i++) {
        least = fmin(least, scales[i]);
        most = fmax(most, scales[i]);
    }
    for (uint64_t i = 0; i < stage->cols; i++)
        scales[i] = (float)(scales[i] / sqrt(least * most));
}

/* Mean over all rows of |weight| / greatest |weight| of its group, for one channel. */
static double mean_weight(const struct stage_case *stage, uint64_t col)
{
    double sum = 0, rows = 0;
    for (uint64_t m = 0; m < stage->count; m++) {
        uint64_t group = stage->matrices[m].scheme.group, first = col / group * group;
        for (uint64_t row = 0; row < stage->matrices[m].rows; row++) {
            const float *weights = stage->matrices[m].weights + row * stage->cols;
            float most = 0;
            for (uint64_t i = first; i < first + group; i++)
                most = fmaxf(most, fabsf(weights[i]));
            sum += fabsf(weights[col]) / most;
            rows++;
        }
    }
    return sum / rows;
}

/* The scales of a candidate, as the contract says it; no channel dead or shared. */
static void plain_scales(const struct stage_case *stage, float *scales, double ratio, bool with_weights)
{
    double mean = 0;
    for (uint64_t i = 0; i < stage->cols; i++)
        mean += stage->hessian.magnitude[i] / (double)stage->cols;
    for (uint64_t i = 0; i < stage->cols; i++) {
        double scale = pow(stage->hessian.magnitude[i] / mean, ratio);
        if (with_weights) scale /= pow(mean_weight(stage, i), 1 - ratio) + 1e-4;
        scales[i] = (float)scale;
    }
    normalise(stage, scales);
}

/* ---- the search ---- */

/* What the search says about its choice is what a plain computation finds, for every kind of grid. */
static void test_errors_are_true(void)
{
    const uint64_t rows[] = {24, 8, 16};
    for (unsigned kind = 0; kind < 12; kind++) {
        struct scheme scheme = {2 + kind / 4, kind & 2 ? 32 : 96, kind & 1};
        struct stage_case stage = make_case(rows, 3, 96, scheme, kind);
        stage.matrices[1].range = GRID_MSE;
        stage.matrices[2].scheme.bits = 8;
        must_search(&stage);
        CHECK(stage.choice.error <= 1, NULL);
        CHECK(fabs(stage.choice.error - relative_error(&stage)) < 1e-4, NULL);
        CHECK((stage.choice.ratio == 0) == (stage.choice.error == 1), NULL);
        release(&stage);
    }
}

/* Every block of the triangle, the last one narrow, and one that ends exactly. */
static void test_wide_matrices(void)
{
    const uint64_t rows[] = {5}, widths[] = {256, 272, 528};
    for (int i = 0; i < 3; i++) {
        struct stage_case stage = make_case(rows, 1, widths[i], (struct scheme){3, 16, false}, 40);
        must_search(&stage);
        CHECK(fabs(stage.choice.error - relative_error(&stage)) < 1e-4, NULL);
        release(&stage);
    }
}

/* Coarse to fine must come close to the best of all candidates, and nothing that was not a candidate may be chosen. */
static void test_search_is_good(void)
{
    const uint64_t rows[] = {24, 16};
    unsigned with_weights = 0;
    for (unsigned seed = 0; seed < 12; seed++) {
        struct stage_case stage = make_case(rows, 2, 64, (struct scheme){3, 32, seed & 1}, 100 + seed);
        float scales[64];
        double least = INFINITY;
        must_search(&stage);
        for (int i = 0; i <= 40; i++) {
            plain_scales(&stage, scales, (i > 20 ? i - 20 : i) / 20.0, i > 20);
            least = fmin(least, error_of(&stage, scales));
        }
        double error = error_of(&stage, stage.scales);
        CHECK(error <= 1.03 * least && error >= 0.9999 * least, NULL);
        with_weights += stage.choice.with_weights;
        release(&stage);
    }
    CHECK(with_weights > 0 && with_weights < 12, NULL);
}

/* The scales are those of the ratio that is reported; two stripes of columns, groups of several widths. */
static void test_scales_are_the_ratio(void)
{
    const uint64_t rows[] = {7, 5, 4};
    unsigned kinds[2] = {0};
    for (unsigned seed = 0; seed < 8; seed++) {
        struct stage_case stage = make_case(rows, 3, 288, (struct scheme){3, 32, false}, 200 + seed);
        float scales[288];
        stage.matrices[1].scheme.group = 96;
        stage.matrices[2].scheme.group = 288;
        must_search(&stage);
        plain_scales(&stage, scales, stage.choice.ratio, stage.choice.with_weights);
        for (uint64_t i = 0; i < 288; i++)
            CHECK(fabsf(scales[i] / stage.scales[i] - 1) < 1e-5f, NULL);
        kinds[stage.choice.with_weights]++;
        release(&stage);
    }
    CHECK(kinds[0] > 0 && kinds[1] > 0, NULL);
}

/* One channel 50 times louder than the others: its rounding error is all that counts, and scaling it up buys
 * it a finer grid. Rounding without scaling leaves it (1/sqrt(12) of a step)^2; a scale t times larger about
 * t^2 less, until it alone spans the group: several times better at least. */
static void test_outlier_wins(void)
{
    const uint64_t rows[] = {64};
    struct stage_case stage = make_case(rows, 1, 64, (struct scheme){4, 64, false}, 7);
    uint64_t state = 8;
    float loudness[64];
    for (int i = 0; i < 64; i++)
        loudness[i] = i == 20 ? 50 : 1;
    memory_free(stage.hessian.second);
    memory_free(stage.hessian.magnitude);
    make_hessian(&stage.hessian, 64, loudness, &state);
    must_search(&stage);
    CHECK(stage.choice.ratio > 0, NULL);
    CHECK(stage.choice.error < 0.3, NULL);
    CHECK(stage.scales[20] > 3 * stage.scales[0], NULL);
    CHECK(fabs(stage.choice.error - relative_error(&stage)) < 1e-4, NULL);
    release(&stage);
}

/* Weights that are on their grid already: nothing to win, so nothing is scaled. */
static void test_identity_stays(void)
{
    const uint64_t rows[] = {16};
    struct stage_case stage = make_case(rows, 1, 32, (struct scheme){4, 32, false}, 9);
    float *weights = get(16 * 32, sizeof *weights);
    for (int i = 0; i < 16 * 32; i++)
        weights[i] = (float)(i % 32 == 0 ? -8 : i % 16 - 8) / 16;
    memory_free((void *)stage.matrices[0].weights);
    stage.matrices[0].weights = weights;
    must_search(&stage);
    CHECK(stage.choice.ratio == 0 && !stage.choice.with_weights && stage.choice.error == 1, NULL);
    for (int i = 0; i < 32; i++)
        CHECK(stage.scales[i] == 1, NULL);
    release(&stage);
}

static void test_dead_channels(void)
{
    const uint64_t rows[] = {48};
    struct stage_case stage = make_case(rows, 1, 64, (struct scheme){3, 32, false}, 10);
    make_dead(&stage, 0);
    make_dead(&stage, 33);
    must_search(&stage);
    CHECK(stage.choice.error < 1, NULL);
    for (int i = 0; i < 64; i++)
        CHECK((stage.scales[i] == 1) == (i == 0 || i == 33), NULL);
    for (uint64_t i = 0; i < 64; i++)
        make_dead(&stage, i);
    must_search(&stage);
    CHECK(stage.choice.ratio == 0 && stage.choice.error == 1, NULL);
    release(&stage);
}

/* More rows than are looked at: the winner is compared on every row, so its error is still the true one. */
static void test_tall_matrices(void)
{
    const uint64_t rows[] = {1300, 20};
    struct stage_case stage = make_case(rows, 2, 32, (struct scheme){3, 32, false}, 11);
    must_search(&stage);
    CHECK(stage.choice.error < 1, NULL);
    CHECK(fabs(stage.choice.error - relative_error(&stage)) < 1e-4, NULL);
    release(&stage);
}

/* The rows looked at first (every other) would like scales; the others are large and on their grid already, and would lose it.
 * On every row identity wins, whatever the sample said. */
static void test_sample_is_not_believed(void)
{
    const uint64_t rows[] = {1024};
    struct stage_case stage = make_case(rows, 1, 32, (struct scheme){3, 32, false}, 17);
    float *weights = (float *)stage.matrices[0].weights;
    for (int i = 0; i < 1024 * 32; i++) {
        if (i / 32 % 2) weights[i] = (float)(i % 32 == 0 ? -4 : i % 8 - 4) / 4;
    }
    must_search(&stage);
    CHECK(stage.choice.ratio == 0 && stage.choice.error == 1 && stage.scales[5] == 1, NULL);
    for (int i = 0; i < 1024 * 32; i++) { /* the sampled rows alone */
        if (i / 32 % 2) weights[i] = 0;
    }
    must_search(&stage);
    CHECK(stage.choice.ratio > 0 && stage.choice.error < 1, NULL);
    release(&stage);
}

/* The same bits for any number of workers. */
static void test_workers(void)
{
    const uint64_t rows[] = {700, 130, 3};
    struct stage_case stage = make_case(rows, 3, 288, (struct scheme){4, 32, true}, 12);
    stage.matrices[2].range = GRID_MSE;
    struct error err = {0};
    float first[288];
    struct awq_choice choice;
    for (unsigned workers = 1; workers <= 3; workers++) {
        CHECK(search(&stage, workers, &err) == OK, &err);
        if (workers == 1) {
            memcpy(first, stage.scales, sizeof first);
            choice = stage.choice;
        }
        CHECK(memcmp(first, stage.scales, sizeof first) == 0, NULL);
        CHECK(choice.error == stage.choice.error && choice.ratio == stage.choice.ratio, NULL);
    }
    release(&stage);
}

/* ---- heads ---- */

static struct model_config grouped_config(void)
{
    struct model_config config = {.architecture = layers_architecture("LlamaForCausalLM", 16)};
    config.heads = 6;
    config.kv_heads = 2;
    config.head_size = 8;
    config.hidden = 48;
    config.ffn = 64;
    return config;
}

static void test_shared_heads(void)
{
    struct model_config config = grouped_config();
    const uint64_t rows[] = {32};
    struct stage_case stage = make_case(rows, 1, 48, (struct scheme){3, 16, false}, 13);
    stage.shared = get(48, sizeof *stage.shared);
    awq_shared_heads(stage.shared, &config, 0);
    for (uint32_t i = 0; i < 48; i++)
        CHECK(stage.shared[i] == i / 24 * 8 + i % 8, NULL);
    make_dead(&stage, 0); /* its class is alive */
    must_search(&stage);
    CHECK(stage.choice.error < 1, NULL);
    CHECK(stage.scales[0] != 1 && stage.scales[0] == stage.scales[8], NULL);
    for (uint32_t i = 0; i < 48; i++)
        CHECK(stage.scales[i] == stage.scales[i / 24 * 24 + i % 8], NULL);
    for (uint32_t i = 0; i < 24; i += 8) /* a whole class */
        make_dead(&stage, i);
    must_search(&stage);
    CHECK(stage.scales[0] == 1 && stage.scales[8] == 1 && stage.scales[16] == 1, NULL);
    release(&stage);
}

/* ---- failure ---- */

static void test_faults(void)
{
    const uint64_t rows[] = {4, 1100};
    struct stage_case stage = make_case(rows, 2, 32, (struct scheme){4, 16, false}, 14);
    float *weights = (float *)stage.matrices[1].weights, good = weights[1099 * 32 + 17];
    const float bad[] = {NAN, INFINITY, 1e9f};
    for (int i = 0; i < 3; i++) {
        struct error err = {0};
        weights[1099 * 32 + 17] = bad[i]; /* in a row that the sample does not hold */
        CHECK(search(&stage, 2, &err) == ERR_NUMERIC, &err);
        CHECK(strstr(err.text, "tensor second: row 1099, columns from 16") != NULL, &err);
    }
    weights[1099 * 32 + 17] = good;
    struct error err = {0};
    stage.hessian.second[1] = NAN;
    CHECK(search(&stage, 2, &err) == ERR_NUMERIC, &err);
    release(&stage);
}

static void test_no_memory(void)
{
    const uint64_t rows[] = {600};
    struct stage_case stage = make_case(rows, 1, 32, (struct scheme){4, 16, false}, 15);
    stage.shared = get(32, sizeof *stage.shared);
    struct pool *pool;
    struct error err = {0};
    enum status status = ERR_MEMORY;
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        memory_fail_at(nth, 0);
        status = awq_search(
            stage.scales, &stage.choice, stage.matrices, 1, &stage.hessian, stage.shared, pool, &err);
    }
    memory_fail_at(0, 0);
    CHECK(status == OK, &err);
    pool_free(pool);
    release(&stage);
}

/* ---- folding: a layer, plainly ---- */

enum { TOKENS = 5 };

/* One decoder layer's tensors by role, [rows][cols] or [rows]. */
struct layer {
    struct model_config config;
    float *data[ROLE_COUNT];
    uint64_t rows[ROLE_COUNT], cols[ROLE_COUNT];
};

static struct layer make_layer(const char *architecture, bool biases, uint64_t *state)
{
    struct layer layer = {.config = grouped_config()};
    layer.config.architecture = layers_architecture(architecture, strlen(architecture));
    layer.config.attention_bias = layer.config.output_bias = layer.config.mlp_bias = biases;
    for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        uint32_t rank;
        uint64_t shape[2];
        if (!layers_role_shape(&layer.config, (enum role)role, 0, &rank, shape)) continue;
        layer.rows[role] = shape[0];
        layer.cols[role] = rank == 2 ? shape[1] : 1;
        layer.data[role] = get(shape[0] * layer.cols[role], sizeof(float));
        for (uint64_t i = 0; i < shape[0] * layer.cols[role]; i++)
            layer.data[role][i] = 0.3f * testing_normal(state) + (rank == 1);
    }
    return layer;
}

static void release_layer(struct layer *layer)
{
    for (int role = 0; role < ROLE_COUNT; role++)
        memory_free(layer->data[role]);
}

/* x / rms(x) * (gain + offset), or x where the layer has no such norm */
static void norm(const struct layer *layer, double *out, const double *x, enum role role, uint64_t count)
{
    const float *gain = layer->data[role], offset = layer->config.architecture->gain_offset;
    double square = 1e-6;
    for (uint64_t i = 0; i < count; i++)
        square += x[i] * x[i] / (double)count;
    for (uint64_t i = 0; i < count; i++)
        out[i] = gain ? x[i] / sqrt(square) * (gain[i] + offset) : x[i];
}

static void linear(const struct layer *layer, double *y, const double *x, enum role role, enum role bias)
{
    for (uint64_t row = 0; row < layer->rows[role]; row++) {
        y[row] = layer->data[bias] ? layer->data[bias][row] : 0;
        for (uint64_t col = 0; col < layer->cols[role]; col++)
            y[row] += layer->data[role][row * layer->cols[role] + col] * x[col];
    }
}

static void head_norms(const struct layer *layer, double *x, enum role role, uint64_t heads)
{
    uint64_t size = layer->config.head_size;
    for (uint64_t head = 0; layer->data[role] && head < heads; head++)
        norm(layer, x + head * size, x + head * size, role, size);
}

/* One head of one token: softmax(q k / sqrt(size)) v over the tokens up to it. Positions play no part in folding. */
static void attend(double *out, const double *q, double (*k)[48], double (*v)[48], uint64_t token,
    uint64_t at, uint64_t size)
{
    double sum = 0;
    for (uint64_t d = 0; d < size; d++)
        out[d] = 0;
    for (uint64_t past = 0; past <= token; past++) {
        double score = 0;
        for (uint64_t d = 0; d < size; d++)
            score += q[d] * k[past][at + d] / sqrt((double)size);
        sum += exp(score);
        for (uint64_t d = 0; d < size; d++)
            out[d] += exp(score) * v[past][at + d];
    }
    for (uint64_t d = 0; d < size; d++)
        out[d] /= sum;
}

static void attention(const struct layer *layer, double (*x)[48])
{
    double k[TOKENS][48], v[TOKENS][48], q[48], normed[48], mixed[48], out[48];
    uint64_t size = layer->config.head_size, group = layer->config.heads / layer->config.kv_heads;
    for (uint64_t token = 0; token < TOKENS; token++) {
        norm(layer, normed, x[token], ROLE_ATTENTION_NORM, 48);
        linear(layer, k[token], normed, ROLE_K, ROLE_K_BIAS);
        linear(layer, v[token], normed, ROLE_V, ROLE_V_BIAS);
        head_norms(layer, k[token], ROLE_K_NORM, layer->config.kv_heads);
        linear(layer, q, normed, ROLE_Q, ROLE_Q_BIAS);
        head_norms(layer, q, ROLE_Q_NORM, layer->config.heads);
        for (uint64_t head = 0; head < layer->config.heads; head++)
            attend(mixed + head * size, q + head * size, k, v, token, head / group * size, size);
        linear(layer, out, mixed, ROLE_O, ROLE_O_BIAS);
        norm(layer, out, out, ROLE_ATTENTION_POST_NORM, 48);
        for (uint64_t i = 0; i < 48; i++)
            x[token][i] += out[i];
    }
}

static void feed_forward(const struct layer *layer, double *x)
{
    double normed[48], gate[64], up[64], out[48];
    norm(layer, normed, x, ROLE_MLP_NORM, 48);
    linear(layer, gate, normed, ROLE_GATE, ROLE_GATE_BIAS);
    linear(layer, up, normed, ROLE_UP, ROLE_UP_BIAS);
    for (uint64_t i = 0; i < 64; i++)
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    linear(layer, out, up, ROLE_DOWN, ROLE_DOWN_BIAS);
    norm(layer, out, out, ROLE_MLP_POST_NORM, 48);
    for (uint64_t i = 0; i < 48; i++)
        x[i] += out[i];
}

static void forward(const struct layer *layer, double (*out)[48])
{
    uint64_t state = 77;
    for (uint64_t i = 0; i < TOKENS * 48; i++)
        out[i / 48][i % 48] = testing_normal(&state);
    attention(layer, out);
    for (uint64_t token = 0; token < TOKENS; token++)
        feed_forward(layer, out[token]);
}

/* Fold one stage, as the table of pairs says. */
static void fold(struct layer *layer, enum stage stage, const float *scales)
{
    const struct fold_pair *pair = fold_pair(stage);
    float by[64];
    for (unsigned i = 0; i < pair->reader_count; i++) {
        enum role role = pair->readers[i];
        fold_columns(layer->data[role], layer->rows[role], layer->cols[role], scales);
    }
    memcpy(by, scales, layer->rows[pair->producer] * sizeof *by);
    if (stage == WALK_O) fold_heads(by, scales, &layer->config, 0);
    if (!layers_role_is_linear(pair->producer)) {
        fold_gain(layer->data[pair->producer], layer->rows[pair->producer], by,
            layer->config.architecture->gain_offset);
        return;
    }
    fold_rows(layer->data[pair->producer], layer->rows[pair->producer], layer->cols[pair->producer], by);
    if (layer->data[pair->producer_bias])
        fold_rows(layer->data[pair->producer_bias], layer->rows[pair->producer_bias], 1, by);
}

static void check_fold(struct layer *layer, enum stage stage, uint64_t *state)
{
    double before[TOKENS][48], after[TOKENS][48], most = 0, difference = 0;
    float scales[64];
    for (int i = 0; i < 64; i++)
        scales[i] = expf(testing_normal(state));
    for (int i = 0; stage == WALK_O && i < 48; i++)
        scales[i] = scales[i / 24 * 24 + i % 8];
    forward(layer, before);
    fold(layer, stage, scales);
    forward(layer, after);
    for (int i = 0; i < TOKENS * 48; i++) {
        most = fmax(most, fabs(before[i / 48][i % 48]));
        difference = fmax(difference, fabs(before[i / 48][i % 48] - after[i / 48][i % 48]));
    }
    CHECK(difference < 1e-5 * most, NULL);
}

/* Every stage of every architecture, with and without biases, one fold on top of the other. */
static void test_folding_is_exact(void)
{
    const char *architectures[] = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
        "Qwen3ForCausalLM", "Gemma3ForCausalLM", "Gemma2ForCausalLM", "Phi3ForCausalLM"};
    uint64_t state = 16;
    for (size_t i = 0; i < 2 * sizeof architectures / sizeof *architectures; i++) {
        struct layer layer = make_layer(architectures[i / 2], i % 2, &state);
        for (int stage = 0; stage < WALK_STAGES; stage++)
            check_fold(&layer, (enum stage)stage, &state);
        release_layer(&layer);
    }
}

int main(void)
{
    struct error err = {0};
    testing_kernel_set();
    REQUIRE(linalg_init(&err) == OK, &err);
    static const struct test_case cases[] = {
        {"errors are true", test_errors_are_true},
        {"wide matrices", test_wide_matrices},
        {"the search is good", test_search_is_good},
        {"scales are the ratio's", test_scales_are_the_ratio},
        {"an outlier wins", test_outlier_wins},
        {"identity stays", test_identity_stays},
        {"dead channels", test_dead_channels},
        {"tall matrices", test_tall_matrices},
        {"the sample is not believed", test_sample_is_not_believed},
        {"workers", test_workers},
        {"shared heads", test_shared_heads},
        {"faults", test_faults},
        {"every allocation may fail", test_no_memory},
        {"folding is exact", test_folding_is_exact},
    };
    return TESTING_RUN("awq", cases);
}
