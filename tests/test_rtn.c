/* Rounding to nearest into blocks: the blocks of tensor/block_fit.h row by row, whatever the source, the number of threads and the kernels;
 * errors as they are; importance matrices where they belong. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "formats/cast.h"
#include "quantize/quantize.h"
#include "quantize/rtn.h"
#include "tensor/block_fit.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/gguf_file.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define DOWN_PROJ "model.layers.0.mlp.down_proj.weight"
#define Q_PROJ "model.layers.1.self_attn.q_proj.weight"
#define HEAD "lm_head.weight"

enum { HIDDEN = 256, FFN = 512 };

static const char *model_folder(void)
{
    static const char *folder;
    if (!folder)
        folder = tiny_model_folder(
            "model", (struct tiny_model){.hidden = HIDDEN, .ffn = FFN, .vocabulary = 200, .dtype = "BF16"});
    return folder;
}

static struct quantize_options options_for(const char *input, const char *output, const char *type)
{
    struct quantize_options options = settings_defaults();
    options.input = input;
    options.output = output;
    options.type = type;
    options.force = true;
    options.report_error = true;
    options.common.quiet = true;
    options.common.threads = 2;
    return options;
}

static void quantize(struct quantize_options options)
{
    struct quantize_result result;
    struct error err = {0};
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    quantize_release(&result);
}

static struct container *open_mapped(const char *path)
{
    struct container *container = NULL;
    struct error err = {0};
    REQUIRE(container_open(&container, path, &err) == OK && container_map(container, &err) == OK, &err);
    return container;
}

static const struct tensor *find(struct container *container, const char *name)
{
    const struct tensor *tensor = container_find(container, name);
    REQUIRE(tensor != NULL, NULL);
    return tensor;
}

/* A matrix of the model as floats (free). */
static float *floats_of(const struct tensor *tensor)
{
    float *out = malloc(tensor->elements * sizeof *out);
    REQUIRE(out != NULL, NULL);
    if (tensor->storage == STORAGE_BLOCKS)
        blocks_decode(out, tensor->block, tensor->data, 0, tensor->elements);
    else
        dtype_info(tensor->dtype)->decode(out, tensor->data, tensor->elements);
    return out;
}

/* Is the matrix in the file what the fit makes of these weights? */
static void check_blocks(
    const char *path, const char *name, enum block_type type, const float *weights, const float *importance)
{
    struct container *container = open_mapped(path);
    const struct tensor *tensor = find(container, name);
    uint8_t *expected = malloc(tensor->bytes);
    uint64_t row, col;
    REQUIRE(expected && tensor->storage == STORAGE_BLOCKS && tensor->block == type, NULL);
    CU_ASSERT(
        block_fit_rows(expected, type, weights, tensor->shape[0], tensor->shape[1], importance, &row, &col));
    CU_ASSERT(memcmp(tensor->data, expected, tensor->bytes) == 0);
    free(expected);
    container_close(container);
}

static void test_types(void)
{
    static const struct {
        const char *option;
        enum block_type type;
    } types[] = {{"q4_0", BLOCK_Q4_0}, {"q5_1", BLOCK_Q5_1}, {"q8_0", BLOCK_Q8_0}, {"q3_k_s", BLOCK_Q3_K},
        {"q6_k", BLOCK_Q6_K}, {"iq4_nl", BLOCK_IQ4_NL}};
    char path[1200];
    snprintf(path, sizeof path, "%s/model.safetensors", model_folder());
    struct container *model = open_mapped(path);
    float *weights = floats_of(find(model, Q_PROJ));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct quantize_options options =
            options_for(model_folder(), testing_path("%s.nbl", types[i].option), types[i].option);
        quantize(options);
        check_blocks(options.output, Q_PROJ, types[i].type, weights, NULL);
    }
    free(weights);
    container_close(model);
}

/* Nothing but the plan decides the bytes. */
static void test_threads(void)
{
    static const unsigned threads[] = {1, 2, 3, 7};
    static const char *const endings[] = {"nbl", "gguf"};
    for (int e = 0; e < 2; e++) {
        const char *first = testing_path("threads-1.%s", endings[e]);
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            struct quantize_options options =
                options_for(model_folder(), testing_path("threads-%u.%s", threads[i], endings[e]), "q4_k_m");
            options.common.threads = threads[i];
            quantize(options);
            CU_ASSERT(testing_same_files(first, options.output));
        }
    }
}

/* The report's errors are those of what the file holds. */
static void test_errors(void)
{
    struct quantize_options options = options_for(model_folder(), testing_path("errors.nbl"), "q4_k_m");
    struct quantize_result result;
    struct error err = {0};
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    struct container *out = open_mapped(options.output);
    REQUIRE(container_map(result.input.container, &err) == OK, &err);
    for (uint64_t i = 0; i < result.plan.count; i++) {
        const struct plan_tensor *planned = &result.plan.tensors[i];
        if (planned->recipe.keep) continue;
        float *before = floats_of(planned->source), *after = floats_of(find(out, planned->target.name));
        double error = 0, power = 0;
        for (uint64_t k = 0; k < planned->source->elements; k++) {
            double difference = (double)before[k] - after[k];
            error += difference * difference;
            power += (double)before[k] * before[k];
        }
        CU_ASSERT_DOUBLE_EQUAL(planned->outcome.error, error, 1e-9 * error);
        CU_ASSERT_DOUBLE_EQUAL(planned->outcome.power, power, 1e-9 * power);
        CU_ASSERT(error > 0 && error < 0.02 * power);
        free(before);
        free(after);
    }
    container_close(out);
    quantize_release(&result);
}

/* ---- importance ---- */

static void put_pair(struct gguf_file *file, const char *name, uint64_t cols, uint64_t seed)
{
    float sums[FFN], count = 8;
    char text[64];
    for (uint64_t i = 0; i < cols; i++)
        sums[i] = (float)(testing_random(&seed) % 1000 + 1);
    snprintf(text, sizeof text, "%s.in_sum2", name);
    gguf_file_tensor(file, text, 1, cols, 0, sums, cols * sizeof *sums);
    snprintf(text, sizeof text, "%s.counts", name);
    gguf_file_tensor(file, text, 1, 1, 0, &count, sizeof count);
}

/* Entries of all linear layers but one that may be left out. */
static const char *imatrix_file(const char *name, const char *omitted)
{
    static const char *const names[] = {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    const char *path = testing_path("%s", name);
    struct gguf_file file = {0};
    gguf_file_string(&file, "general.type", "imatrix");
    for (unsigned i = 0; i < 14; i++) {
        char text[64];
        snprintf(text, sizeof text, "blk.%u.%s.weight", i / 7, names[i % 7]);
        if (omitted && strcmp(text, omitted) == 0) continue;
        put_pair(&file, text, i % 7 == 6 ? FFN : HIDDEN, i);
    }
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    return path;
}

/* Weighted where there is an entry, and only there; in files of codes too. */
static void test_imatrix(void)
{
    struct quantize_options options = options_for(model_folder(), testing_path("weighted.nbl"), "q4_0");
    struct quantize_result result;
    struct error err = {0};
    options.imatrix = imatrix_file("all.gguf", NULL);
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    REQUIRE(container_map(result.input.container, &err) == OK, &err);
    static const char *const names[] = {Q_PROJ, DOWN_PROJ, HEAD};
    for (int i = 0; i < 3; i++) {
        const float *means = NULL;
        if (i == 0) imatrix_find(&means, &result.imatrix, ROLE_Q, 1, HIDDEN, &err);
        if (i == 1) imatrix_find(&means, &result.imatrix, ROLE_DOWN, 0, FFN, &err);
        CU_ASSERT_EQUAL(means == NULL, i == 2);
        float *weights = floats_of(find(result.input.container, names[i]));
        check_blocks(options.output, names[i], i == 2 ? BLOCK_Q6_K : BLOCK_Q4_0, weights, means);
        free(weights);
    }
    quantize_release(&result);
    options.type = NULL;
    options.output = testing_path("weighted-codes.nbl");
    quantize(options);
    options.imatrix = NULL;
    options.range = "mse";
    options.output = testing_path("codes.nbl");
    quantize(options);
    struct container *weighted = open_mapped(testing_path("weighted-codes.nbl")),
                     *plain = open_mapped(options.output);
    const struct tensor *a = find(weighted, Q_PROJ), *b = find(plain, Q_PROJ);
    CU_ASSERT(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) != 0);
    container_close(weighted);
    container_close(plain);
}

static void test_imatrix_refused(void)
{
    struct quantize_options options = options_for(model_folder(), testing_path("refused.nbl"), "q4_0");
    struct quantize_result result;
    struct error err = {0};
    options.imatrix = imatrix_file("less.gguf", "blk.0.ffn_down.weight");
    CHECK(quantize_run(&result, &options, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, DOWN_PROJ ": the importance matrix has no entry for it") != NULL, &err);
    quantize_release(&result);
    options.input = tiny_model_folder("other", (struct tiny_model){.hidden = 128, .ffn = FFN});
    options.fallback = "auto";
    CHECK(quantize_run(&result, &options, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "has 256 columns, the tensor 128") != NULL, &err);
    quantize_release(&result);
}

/* ---- what is quantized already ---- */

/* From codes and from blocks: the blocks of the values that those stand for. */
static void test_requantize(void)
{
    struct quantize_options options = options_for(model_folder(), testing_path("q8.gguf"), "q8_0");
    quantize(options);
    struct quantize_options again = options_for(options.output, testing_path("again.nbl"), "q4_0");
    struct quantize_result result;
    struct error err = {0};
    CHECK(quantize_run(&result, &again, &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "is quantized already (Q8_0)") != NULL, &err);
    quantize_release(&result);
    again.allow_requantize = true;
    CHECK(quantize_run(&result, &again, &err) == OK, &err);
    CU_ASSERT_EQUAL(result.plan.requantized, 16);
    REQUIRE(container_map(result.input.container, &err) == OK, &err);
    float *weights = floats_of(find(result.input.container, Q_PROJ));
    check_blocks(again.output, Q_PROJ, BLOCK_Q4_0, weights, NULL);
    free(weights);
    quantize_release(&result);

    options.type = NULL;
    options.output = testing_path("codes-8.nbl");
    options.bits = "8";
    quantize(options);
    again.input = options.output;
    quantize(again);
    struct container *first = open_mapped(model_folder()), *second = open_mapped(again.output);
    float *before = floats_of(find(first, Q_PROJ)), *after = floats_of(find(second, Q_PROJ));
    double error = 0, power = 0;
    for (uint64_t i = 0; i < HIDDEN * HIDDEN; i++) {
        error += (before[i] - after[i]) * (before[i] - after[i]);
        power += before[i] * before[i];
    }
    CU_ASSERT(error > 0 && error < 0.02 * power);
    free(before);
    free(after);
    container_close(first);
    container_close(second);
}

static void test_bad_weights(void)
{
    struct quantize_result result;
    struct error err = {0};
    const struct tiny_model models[] = {
        {.hidden = HIDDEN, .poison = Q_PROJ, .poison_at = 3 * HIDDEN + 7, .poison_value = NAN},
        {.hidden = HIDDEN, .poison = Q_PROJ, .poison_at = 3 * HIDDEN + 7, .poison_value = 1e30f}};
    static const char *const says[] = {
        Q_PROJ ": weight [3, 7] is NaN", Q_PROJ ": weight [3, 7] is 1e+30: its scale does not fit"};
    for (int i = 0; i < 2; i++) {
        struct quantize_options options =
            options_for(tiny_model_folder(i ? "huge" : "nan", models[i]), testing_path("bad.nbl"), "q4_0");
        CHECK(quantize_run(&result, &options, &err) == ERR_NUMERIC, &err);
        CHECK(strstr(err.text, says[i]) != NULL, &err);
        quantize_release(&result);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"types", test_types},
        {"threads", test_threads},
        {"errors", test_errors},
        {"importance matrix", test_imatrix},
        {"importance matrix, refused", test_imatrix_refused},
        {"requantize", test_requantize},
        {"bad weights", test_bad_weights},
    };
    struct error err = {0};
    REQUIRE(kernels_select(getenv("NIBBLE_KERNELS"), &err) == OK, &err);
    return TESTING_RUN("rtn", cases);
}
