/* Calibrated quantization from a folder to a file: every method and what can be combined with it gives a file that holds and
 * runs; what the report says is so; the same bytes however the work is done; what the numbers cannot bear is named. */
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl.h"
#include "model/forward.h"
#include "quantize/outcome.h"
#include "quantize/quantize.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/kernel_set.h"
#include "tests/support/sample_text.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define ATTENTION_NORM "model.layers.0.input_layernorm.weight"
#define FEED_FORWARD_NORM "model.layers.0.post_attention_layernorm.weight"
#define V_PROJ "model.layers.0.self_attn.v_proj.weight"
#define DOWN_PROJ "model.layers.1.mlp.down_proj.weight"

enum { TOKENS = 24 }; /* of the sequence that is run */

static const char *text; /* calibration */
static struct pool *pool;

/* ---- helpers ---- */

static struct quantize_options options_for(const char *input, const char *output, const char *method)
{
    struct quantize_options options = settings_defaults();
    options.input = input;
    options.output = output;
    options.method = method;
    options.calibration.path = text;
    options.calibration.samples = 8;
    options.calibration.length = 32;
    options.common.quiet = true;
    options.common.threads = 2;
    return options;
}

static struct option_list list_of(const char **values, uint64_t count)
{
    return (struct option_list){.values = values, .count = count};
}

static enum status quantize(const struct quantize_options *options, struct error *err)
{
    struct quantize_result result;
    enum status status = quantize_run(&result, options, err);
    quantize_release(&result);
    return status;
}

/* Run it and catch what it says; the text is the caller's (memory_free). */
static char *quantize_aloud(struct quantize_options options, enum status expected)
{
    struct error err = {0};
    uint64_t count;
    options.common.quiet = false;
    testing_capture(2);
    enum status status = quantize(&options, &err);
    char *said = testing_captured(&count);
    CHECK(status == expected, &err);
    return said;
}

static const struct plan_tensor *planned(const struct quantize_result *result, const char *name)
{
    for (uint64_t i = 0; i < result->plan.count; i++) {
        if (strcmp(result->plan.tensors[i].target.name, name) == 0) return &result->plan.tensors[i];
    }
    REQUIRE(false, NULL);
    return NULL;
}

static bool has_journal(const char *output)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.journal", output);
    return file_kind(path) != FILE_ABSENT;
}

/* ---- what a finished file must be ---- */

/* The final hidden states of one fixed sequence; memory_free. */
static float *hidden_states(const char *path, uint64_t *count)
{
    struct error err = {0};
    struct model *model = NULL;
    struct session *session = NULL;
    uint32_t tokens[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = 3 + (i * 37 + 11) % 90;
    REQUIRE(model_open(&model, path, pool, &err) == OK, &err);
    REQUIRE(session_create(&session, model, 1, TOKENS, &err) == OK, &err);
    *count = (uint64_t)TOKENS * model->config.hidden;
    float *hidden = memory_new(*count, sizeof *hidden, &err);
    REQUIRE(hidden != NULL, &err);
    CHECK(session_step(session, hidden, tokens, TOKENS, &err) == OK, &err);
    session_free(session);
    model_close(model);
    return hidden;
}

/* How far apart what two models compute is, relative to what the first computes (root mean square). */
static double distance(const char *path_a, const char *path_b)
{
    uint64_t count_a, count_b;
    float *a = hidden_states(path_a, &count_a), *b = hidden_states(path_b, &count_b);
    double difference = 0, power = 0;
    REQUIRE(count_a == count_b, NULL);
    for (uint64_t i = 0; i < count_a; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        power += (double)a[i] * a[i];
    }
    memory_free(a);
    memory_free(b);
    return sqrt(difference / power);
}

/* Every quantized matrix of a decoder layer was measured, and never made worse than rounding to nearest where that is promised. */
static void check_outcomes(const struct quantize_result *result)
{
    const struct method *method = &result->settings.method;
    for (uint64_t i = 0; i < result->plan.count; i++) {
        const struct plan_tensor *tensor = &result->plan.tensors[i];
        const struct outcome *outcome = &tensor->outcome;
        bool inside = tensor->role > ROLE_PER_LAYER && tensor->role < ROLE_COUNT;
        CU_ASSERT_EQUAL(outcome->calibrated, inside && !tensor->recipe.keep);
        if (!outcome->calibrated) continue;
        CU_ASSERT_TRUE(outcome->output_power > 0 && outcome->output_error > 0 && outcome->power > 0);
        CU_ASSERT_TRUE(outcome->error > 0);
        CU_ASSERT_TRUE(outcome->output_error < outcome->output_power);
        CU_ASSERT_TRUE(outcome->damping >= result->settings.damping);
        if (method->safeguard) CU_ASSERT_TRUE(outcome->output_error <= outcome->nearest_error * (1 + 1e-9));
        if (method->polish) CU_ASSERT_TRUE(outcome->output_error <= outcome->unpolished_error * (1 + 1e-9));
    }
}

/* The file holds, runs, says where it comes from, and nothing else is left. */
static void check_file(const char *path, const struct calibrated_summary *summary)
{
    struct error err = {0};
    struct nbl_verification found;
    struct container *container = NULL;
    char *json = NULL, crc[32];
    uint64_t bytes;
    CHECK(nbl_verify(&found, path, NULL, NULL, &err) == OK, &err);
    memory_free(hidden_states(path, &bytes));
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CHECK(container_document(container, "provenance.json", &json, &bytes, &err) == OK, &err);
    snprintf(crc, sizeof crc, "\"%08" PRIx32 "\"", summary->text_crc32);
    CU_ASSERT_TRUE(json && strstr(json, "calibration crc32") && strstr(json, crc));
    memory_free(json);
    container_close(container);
    CU_ASSERT_FALSE(has_journal(path));
}

/* Run it and check all that must hold for any calibrated run; gives the summed outcome. */
static struct outcome check_run(const struct quantize_options *options)
{
    struct error err = {0};
    struct quantize_result result;
    struct outcome sum = {0};
    enum status status = quantize_run(&result, options, &err);
    CHECK(status == OK, &err);
    if (status == OK) {
        check_outcomes(&result);
        CU_ASSERT_TRUE(result.calibrated.tokens > 0 && result.calibrated.memory_estimate > 0);
        check_file(options->output, &result.calibrated);
    }
    for (uint64_t i = 0; status == OK && i < result.plan.count; i++) {
        outcome_add(&sum, &result.plan.tensors[i].outcome);
        sum.scale_ratio += result.plan.tensors[i].outcome.scale_ratio;
    }
    quantize_release(&result);
    return sum;
}

/* ---- methods and options ---- */

static void test_every_method(void)
{
    static const char *const methods[] = {"rtn", "gptq", "gptq-plain", "awq", "awq+gptq"};
    const char *folder = tiny_model_folder("methods", (struct tiny_model){.seed = 1});
    double errors[5];
    for (unsigned i = 0; i < 10; i++) {
        struct quantize_options options =
            options_for(folder, testing_path("methods-%u.nbl", i), methods[i % 5]);
        options.asymmetric = i / 5;
        if (i % 5 == 0) options.range = "hessian";
        struct outcome sum = check_run(&options);
        errors[i % 5] = outcome_relative(&sum);
        CU_ASSERT_EQUAL(sum.scale_ratio > 0, i % 5 >= 3);
        if (i % 5 == 4) CU_ASSERT_TRUE(errors[1] < errors[0] && errors[4] < errors[3]);
    }
}

/* Without --method a calibration text means gptq. */
static void test_default_method(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("method", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, testing_path("method-1.nbl"), NULL);
    CHECK(quantize(&options, &err) == OK, &err);
    options.method = "gptq";
    options.output = testing_path("method-2.nbl");
    CHECK(quantize(&options, &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(testing_path("method-1.nbl"), options.output));
}

static void test_solver_options(void)
{
    static const char *const orders[] = {"none", "static", "group-aware"},
                             *const corrections[] = {"none", "inputs", "residual"},
                             *const groups[] = {"32", "16", "row"};
    const char *folder = tiny_model_folder("solver", (struct tiny_model){.seed = 2});
    for (unsigned i = 0; i < 9; i++) {
        struct quantize_options options = options_for(folder, testing_path("solver-%u.nbl", i), "gptq");
        options.act_order = orders[i % 3];
        options.correction = corrections[i / 3];
        options.group = groups[(i + i / 3) % 3];
        options.bits = i % 2 ? "3" : "4";
        options.asymmetric = i % 2;
        options.polish = i % 3;
        options.calibration.pick = i % 2 ? "random" : "first";
        options.calibration.unpacked = i == 8;
        if (i == 8) options.calibration.length = 64;
        check_run(&options);
    }
}

/* Into block types, one of each family: solving errs less than rounding to nearest. */
static void test_block_types(void)
{
    static const char *const types[] = {"q4_0", "q4_k", "q6_k", "iq4_xs"};
    static const char *const methods[] = {"rtn", "awq", "gptq", "awq+gptq"};
    const char *folder =
        tiny_model_folder("blocks", (struct tiny_model){.hidden = 256, .ffn = 256, .layers = 1, .seed = 5});
    for (unsigned t = 0; t < 4; t++) {
        double errors[4];
        for (unsigned i = 0; i < 4; i += t == 1 ? 1 : 2) {
            struct quantize_options options =
                options_for(folder, testing_path("blocks-%u-%u.nbl", t, i), methods[i]);
            options.type = types[t];
            options.pure = true;
            options.calibration.samples = 2;
            if (i == 0) options.range = "hessian";
            struct outcome sum = check_run(&options);
            errors[i] = outcome_relative(&sum);
        }
        CU_ASSERT_TRUE(errors[2] < 0.9 * errors[0]);
        if (t == 1) CU_ASSERT_TRUE(errors[3] < errors[1] && errors[1] <= errors[0] * 1.01);
    }
}

/* Every rule that leaves a hole in a stage, in a pair that AWQ would scale, or in a whole layer. */
static void test_rules(void)
{
    static const char *const keeps[] = {"v_proj", "layers\\.0\\.", "layers\\.1\\.", "[qkv]_proj", "up_proj",
        "1.*(gate|up|down)_proj", "o_proj"};
    const char *folder = tiny_model_folder("holes", (struct tiny_model){.seed = 3});
    for (unsigned i = 0; i < 7; i++) {
        const char *keep[] = {keeps[i]},
                   *overrides[] = {"k_proj=bits:8,group:16", "down_proj=asymmetric,range:mse"};
        struct quantize_options options =
            options_for(folder, testing_path("holes-%u.nbl", i), i % 2 ? "gptq" : "awq+gptq");
        options.keep = list_of(keep, 1);
        if (i < 3 && i != 1) options.override = list_of(overrides, 2);
        check_run(&options);
    }
}

/* Element types, tied weights, shards, key-value heads; the embedding quantized outside the layers. */
static void test_models(void)
{
    static const struct tiny_model models[] = {
        {.dtype = "F16"},
        {.dtype = "BF16", .tied = true},
        {.tied = true, .under_head = true, .kv_heads = 4},
        {.shards = 3, .kv_heads = 1},
        {.layers = 1, .dtype = "BF16", .hidden = 32, .ffn = 64},
    };
    for (unsigned i = 0; i < sizeof models / sizeof *models; i++) {
        testing_folder();
        const char *folder = tiny_model_folder("model", models[i]);
        for (unsigned awq = 0; awq < 2; awq++) {
            struct quantize_options options =
                options_for(folder, testing_path("out-%u.nbl", awq), awq ? "awq+gptq" : "gptq");
            options.embedding = "8";
            options.report_error = true;
            options.kept_type = i == 1 ? "f16" : "keep";
            check_run(&options);
        }
    }
}

/* ---- folding ---- */

/* At 8 bits hardly anything is lost, no more than by rounding to nearest, so that a scale folded into the wrong place shows. */
static void check_folding(const char *folder, const char *name)
{
    struct quantize_options options = options_for(folder, testing_path("%s.nbl", name), "awq"), nearest;
    options.bits = "8";
    options.group = "16";
    nearest = options;
    struct outcome sum = check_run(&options);
    CU_ASSERT_TRUE(sum.scale_ratio > 0);
    nearest.method = "rtn";
    nearest.range = "hessian";
    nearest.output = testing_path("%s-nearest.nbl", name);
    check_run(&nearest);
    double far = distance(folder, options.output);
    CU_ASSERT_TRUE(far < 1e-2 || far < 1.3 * distance(folder, nearest.output));
}

/* Channels of very different size, so that there is something to scale; every number of query heads per group. */
static void test_folding(void)
{
    for (uint32_t kv_heads = 1; kv_heads <= 4; kv_heads *= 2) {
        struct tiny_model model = {
            .kv_heads = kv_heads, .seed = kv_heads, .poison_at = 9, .poison_value = 40};
        model.poison = kv_heads == 2 ? FEED_FORWARD_NORM : ATTENTION_NORM;
        char name[16];
        snprintf(name, sizeof name, "fold-%" PRIu32, kv_heads);
        check_folding(tiny_model_folder(name, model), name);
    }
}

/* A folder with one of the golden models, and a tokenizer, which these lack. */
static const char *golden_model(const char *name, const char *tokenizer, uint64_t tokenizer_bytes)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    const char *folder = testing_folder();
    char relative[256];
    for (int i = 0; i < 2; i++) {
        uint64_t count;
        snprintf(relative, sizeof relative, "golden/logits/%s/%s", name, files[i]);
        char *bytes = testing_read(testing_source(relative), &count);
        testing_write(testing_path("%s", files[i]), bytes, count);
        memory_free(bytes);
    }
    testing_write(testing_path("tokenizer.json"), tokenizer, tokenizer_bytes);
    return folder;
}

/* Biases, norms of heads, heads wider than the model: all architectures. */
static void test_folding_in_every_architecture(void)
{
    static const char *const names[] = {"qwen2", "qwen3", "mistral", "llama-bias", "llama-headdim", "gemma3",
        "gemma2", "phi3", "olmo2", "stablelm", "stablelm-parallel", "neox", "neox-serial", "gpt2",
        "gpt2-bare"};
    uint64_t count;
    tiny_model_folder("tokenizer", (struct tiny_model){0});
    char *tokenizer = testing_read(testing_path("tokenizer/tokenizer.json"), &count);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        check_folding(golden_model(names[i], tokenizer, count), names[i]);
    memory_free(tokenizer);
}

/* What is new in a layer disturbs no method: each does better than rounding, measured at the matrices. */
static void check_methods(const char *name, const char *folder)
{
    static const char *const methods[] = {"rtn", "gptq", "awq", "awq+gptq"};
    double errors[4];
    for (unsigned i = 0; i < 4; i++) {
        struct quantize_options options = options_for(folder, testing_path("%s-%u.nbl", name, i), methods[i]);
        options.group = "16";
        if (i == 0) options.range = "hessian";
        struct outcome sum = check_run(&options);
        errors[i] = outcome_relative(&sum);
    }
    CU_ASSERT_TRUE(errors[1] < errors[0] && errors[3] < errors[2]);
    CU_ASSERT_TRUE(errors[2] < errors[0] * 1.05); /* scales are chosen before what comes in changes */
}

static void test_methods_in_every_architecture(void)
{
    static const char *const names[] = {"gemma3", "gemma2", "phi3", "olmo2", "stablelm", "stablelm-parallel",
        "neox", "neox-serial", "gpt2", "gpt2-bare"};
    uint64_t count;
    tiny_model_folder("tokenizer", (struct tiny_model){0});
    char *tokenizer = testing_read(testing_path("tokenizer/tokenizer.json"), &count);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        check_methods(names[i], golden_model(names[i], tokenizer, count));
    memory_free(tokenizer);
}

/* A norm after o and down: what is missing in the stream is no target of theirs. */
static void test_no_residual_behind_a_norm(void)
{
    uint64_t count;
    tiny_model_folder("tokenizer", (struct tiny_model){0});
    char *tokenizer = testing_read(testing_path("tokenizer/tokenizer.json"), &count);
    const char *folder = golden_model("gemma3", tokenizer, count);
    struct quantize_options options = options_for(folder, testing_path("residual.nbl"), "gptq");
    struct error err = {0};
    options.group = "16";
    char *said = quantize_aloud(options, OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "--correction inputs"));
    memory_free(said);
    options.correction = "residual";
    options.output = testing_path("refused.nbl");
    CHECK(quantize(&options, &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "Gemma3ForCausalLM norms what o and down give") != NULL, &err);
    memory_free(tokenizer);
}

/* GPTQ's first layout cannot say the zero-point 0, which only the finished work would show: refused before it. */
static void test_zero_point_unsayable(void)
{
    const char *folder = tiny_model_folder("unsayable", (struct tiny_model){.spaces = true});
    struct quantize_options options = options_for(folder, testing_path("unsayable-gptq"), "gptq");
    struct error err = {0};
    options.format = "gptq";
    options.asymmetric = true;
    CHECK(quantize(&options, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "zero-point 0") && strstr(err.text, "gptq-v2"), &err);
    options.dry_run = true;
    CHECK(quantize(&options, &err) == ERR_USAGE, &err);
    options.format = "gptq-v2";
    CHECK(quantize(&options, &err) == OK, &err);
}

/* ---- the same bytes ---- */

static void test_threads_do_not_show(void)
{
    static const char *const methods[] = {"gptq", "awq+gptq", "rtn", "awq+gptq"};
    const char *folder = tiny_model_folder(
        "threads", (struct tiny_model){.hidden = 96, .ffn = 288, .layers = 1, .dtype = "F16"});
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct error err = {0};
            struct quantize_options options =
                options_for(folder, testing_path("threads-%u-%u.nbl", i, threads), methods[i]);
            options.common.threads = threads;
            options.asymmetric = i == 1;
            if (i == 0) options.act_order = "group-aware";
            if (i == 2) options.range = "hessian";
            if (i == 3) options.type = "iq4_nl";
            options.pure = i == 3;
            CHECK(quantize(&options, &err) == OK, &err);
            CU_ASSERT_TRUE(testing_same_files(testing_path("threads-%u-1.nbl", i), options.output));
        }
    }
}

/* The folder of the model, the day and the place of the output do not show either. */
static void test_places_do_not_show(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("places", (struct tiny_model){.shards = 2});
    struct quantize_options options = options_for(folder, testing_path("places.nbl"), "gptq");
    CHECK(quantize(&options, &err) == OK, &err);
    const char *first = options.output;
    REQUIRE(symlink(folder, testing_path("link")) == 0 && mkdir(testing_path("far"), 0700) == 0, NULL);
    options.input = testing_path("link");
    const char *second = options.output = testing_path("far/out.nbl");
    options.calibration.path = sample_text("the-same.txt", 4000, 1);
    bool comma = testing_comma_locale();
    CHECK(quantize(&options, &err) == OK, &err);
    REQUIRE(!comma || setlocale(LC_ALL, "C") != NULL, NULL);
    CU_ASSERT_TRUE(testing_same_files(first, second));
}

/* States in a file instead of in memory; and a limit that nothing can keep, refused before anything is done. */
static void test_memory_limit(void)
{
    struct error err = {0};
    struct quantize_result result;
    const char *folder = tiny_model_folder("limit", (struct tiny_model){.kv_heads = 1});
    struct quantize_options options = options_for(folder, testing_path("limit-0.nbl"), "awq+gptq");
    uint64_t needed[2];
    for (unsigned i = 0; i < 2; i++) {
        options.output = testing_path("limit-%u.nbl", i);
        options.memory_limit = i ? needed[0] - 1 : 0;
        CHECK(quantize_run(&result, &options, &err) == OK, &err);
        needed[i] = result.calibrated.memory_estimate;
        quantize_release(&result);
    }
    CU_ASSERT_TRUE(needed[1] < needed[0]);
    CU_ASSERT_TRUE(testing_same_files(testing_path("limit-0.nbl"), testing_path("limit-1.nbl")));
    options.output = testing_path("limit-2.nbl");
    options.memory_limit = needed[1] - 1;
    CHECK(quantize(&options, &err) == ERR_MEMORY && strstr(err.text, "--memory-limit"), &err);
    CU_ASSERT_TRUE(file_kind(options.output) == FILE_ABSENT && !has_journal(options.output));
}

/* A dry run says how much memory, and touches nothing. */
static void test_dry_run(void)
{
    struct error err = {0};
    struct quantize_result result;
    const char *folder = tiny_model_folder("dry", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, testing_path("dry.nbl"), "gptq");
    options.dry_run = true;
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    CU_ASSERT_EQUAL(result.calibrated.tokens, 8 * 32);
    CU_ASSERT_TRUE(result.calibrated.memory_estimate > 0 && result.bytes_out > 0);
    CU_ASSERT_TRUE(file_kind(options.output) == FILE_ABSENT && !has_journal(options.output));
    quantize_release(&result);
}

/* Products may differ in their last bits from one kernel set to another; what comes out may not be worse for it. */
static void test_kernel_sets(void)
{
    static const char *const sets[] = {"scalar", "avx2"};
    const char *folder = tiny_model_folder("sets", (struct tiny_model){.dtype = "F16"});
    double errors[2] = {0};
    for (unsigned i = 0; i < 2; i++) {
        if (kernels_select(sets[i], NULL) != OK) continue; /* this CPU lacks the set */
        struct quantize_options options = options_for(folder, testing_path("sets-%u.nbl", i), "awq+gptq");
        struct outcome sum = check_run(&options);
        errors[i] = outcome_relative(&sum);
    }
    testing_kernel_set();
    CU_ASSERT_TRUE(errors[1] == 0 || fabs(errors[0] / errors[1] - 1) < 0.02);
}

/* ---- numbers ---- */

static const char *const all_methods[] = {"gptq", "gptq-plain", "awq", "awq+gptq"};

/* One sample of fewer tokens than channels; and so little damping that it must be raised, which is said. */
static void test_few_tokens(void)
{
    const char *folder = tiny_model_folder("few", (struct tiny_model){0});
    for (unsigned i = 0; i < 4; i++) {
        struct quantize_options options = options_for(folder, testing_path("few-%u.nbl", i), all_methods[i]);
        options.calibration.samples = 1;
        options.calibration.length = 16;
        check_run(&options);
    }
    struct quantize_options options = options_for(folder, testing_path("few.nbl"), "gptq");
    options.calibration.samples = 1;
    options.calibration.length = 2;
    options.calibration.path = sample_text("one-token.txt", 2, 5);
    options.damping = 1e-9;
    char *said = quantize_aloud(options, OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "calibration: 1 samples, 2 tokens"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(said, "q_proj.weight: not positive definite over 2 tokens; damping raised to 1e-0"));
    memory_free(said);
}

/* One token over and over: every position of a sample sees the same input. */
static void test_one_token_repeated(void)
{
    char bytes[600];
    const char *folder = tiny_model_folder("repeated", (struct tiny_model){0});
    memset(bytes, 'A', sizeof bytes);
    testing_write(testing_path("repeated.txt"), bytes, sizeof bytes);
    for (unsigned i = 0; i < 4; i++) {
        struct quantize_options options =
            options_for(folder, testing_path("repeated-%u.nbl", i), all_methods[i]);
        options.calibration.path = testing_path("repeated.txt");
        check_run(&options);
    }
}

/* A channel that is always 0 for q, k and v is counted, and its weights come out as near as any. */
static void test_dead_channel(void)
{
    const char *folder =
        tiny_model_folder("dead", (struct tiny_model){.poison = ATTENTION_NORM, .poison_at = 5});
    for (unsigned i = 0; i < 4; i++) {
        struct error err = {0};
        struct quantize_result result;
        struct quantize_options options = options_for(folder, testing_path("dead-%u.nbl", i), all_methods[i]);
        options.act_order = i == 0 ? "static" : NULL;
        CHECK(quantize_run(&result, &options, &err) == OK, &err);
        CU_ASSERT_EQUAL(planned(&result, V_PROJ)->outcome.dead, 1);
        CU_ASSERT_EQUAL(planned(&result, DOWN_PROJ)->outcome.dead, 0);
        CU_ASSERT_TRUE(outcome_relative(&planned(&result, V_PROJ)->outcome) < 0.2);
        check_outcomes(&result);
        check_file(options.output, &result.calibrated);
        quantize_release(&result);
    }
}

/* A channel ten thousand times as large as the others. */
static void test_large_channel(void)
{
    const char *folder = tiny_model_folder(
        "large", (struct tiny_model){.poison = ATTENTION_NORM, .poison_at = 63, .poison_value = 1e4f});
    for (unsigned i = 0; i < 4; i++) {
        struct quantize_options options =
            options_for(folder, testing_path("large-%u.nbl", i), all_methods[i]);
        check_run(&options);
    }
}

/* Must fail and say all of these, with the old output untouched. */
static void check_refused(struct quantize_options options, enum status code, const char *const parts[3])
{
    struct error err = {0};
    uint64_t count;
    options.output = testing_path("refused.nbl");
    options.force = true;
    options.restart = true;
    testing_write(options.output, "precious", 8);
    enum status status = quantize(&options, &err);
    CHECK(status == code, &err);
    for (int i = 0; i < 3 && parts[i]; i++)
        CHECK(strstr(err.text, parts[i]) != NULL, &err);
    CHECK(!strchr(err.text, '\n'), &err);
    char *bytes = testing_read(options.output, &count);
    CU_ASSERT_TRUE(count == 8 && memcmp(bytes, "precious", 8) == 0);
    memory_free(bytes);
}

static void test_bad_numbers(void)
{
    static const struct {
        const char *tensor;
        uint64_t at;
        float value;
        const char *parts[3];
    } bad[] = {
        {DOWN_PROJ, 1163, NAN, {DOWN_PROJ, "element 1163 is NaN", NULL}},
        {DOWN_PROJ, 7, INFINITY, {DOWN_PROJ, "element 7 is infinite", NULL}},
        {V_PROJ, 70, -INFINITY, {V_PROJ, "element 70 is infinite", NULL}},
        {ATTENTION_NORM, 3, NAN, {ATTENTION_NORM, "element 3 is NaN", NULL}},
        {"model.embed_tokens.weight", 70 * 64 + 5, NAN,
            {"model.embed_tokens.weight", "element 4485 is NaN", NULL}},
        {"lm_head.weight", 70 * 64 + 5, NAN, {"lm_head.weight", "element 4485", "NaN"}},
        {V_PROJ, 70, 1e30f, {V_PROJ, "not fit half precision", "layer 0"}},
        {ATTENTION_NORM, 3, 3e38f, {"channel 3", "layer 0", NULL}},
        {FEED_FORWARD_NORM, 9, 1e25f, {"channel 9", "layer 0", NULL}},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tiny_model model = {
            .poison = bad[i].tensor, .poison_at = bad[i].at, .poison_value = bad[i].value};
        char name[16];
        snprintf(name, sizeof name, "bad-%u", i);
        struct quantize_options options =
            options_for(tiny_model_folder(name, model), NULL, all_methods[i % 4]);
        options.head = "8";
        check_refused(options, ERR_NUMERIC, bad[i].parts);
    }
}

/* A weight that is kept may be as large as it likes, but what it does to the activations is noticed. */
static void test_overflow_behind_a_kept_weight(void)
{
    static const char *const parts[] = {"channel 1", "layer 0", NULL};
    static const float values[] = {3e38f, 1e30f};
    for (unsigned i = 0; i < 2; i++) {
        struct tiny_model model = {.poison = V_PROJ, .poison_at = 70, .poison_value = values[i]};
        const char *keep[] = {"v_proj"};
        struct quantize_options options =
            options_for(tiny_model_folder(i ? "large-kept" : "huge-kept", model), NULL, "gptq");
        options.keep = list_of(keep, 1);
        check_refused(options, ERR_NUMERIC, parts);
    }
}

/* ---- wrong use ---- */

static void check_usage(struct quantize_options options, const char *part)
{
    const char *const parts[3] = {part};
    check_refused(options, ERR_USAGE, parts);
    CU_ASSERT_FALSE(has_journal(testing_path("refused.nbl")));
}

static void test_options_without_calibration(void)
{
    testing_folder();
    const char *folder = tiny_model_folder("usage-1", (struct tiny_model){0});
    const char *overrides[] = {"up_proj=range:hessian"};
    for (unsigned i = 0; i < 4; i++) {
        struct quantize_options options = options_for(folder, NULL, all_methods[i]);
        char part[64];
        options.calibration.path = NULL;
        snprintf(part, sizeof part, "%s needs --calibration FILE", all_methods[i]);
        check_usage(options, part);
    }
    struct quantize_options options = options_for(folder, NULL, NULL), rtn = options;
    rtn.calibration.path = NULL;
    options = rtn;
    options.range = "hessian";
    check_usage(options, "range hessian needs --calibration FILE");
    options = rtn;
    options.override = list_of(overrides, 1);
    check_usage(options, "range hessian needs --calibration FILE");
    options = rtn;
    options.target_bits = 3;
    check_usage(options, "a target needs --calibration FILE");
    options = rtn;
    options.target_size = 100000;
    check_usage(options, "a target needs --calibration FILE");
}

static void test_options_that_do_not_go_together(void)
{
    const char *folder = tiny_model_folder("usage-2", (struct tiny_model){0});
    struct quantize_options gptq = options_for(folder, NULL, "gptq"), options = gptq;
    options.method = "rtn";
    check_usage(options, "--calibration has no use for method rtn with range minmax");
    options.range = "mse";
    check_usage(options, "--calibration has no use for method rtn with range mse");
    options = gptq;
    options.target_bits = 3;
    options.target_size = 100000;
    check_usage(options, "--target-bits and --target-size");
    options.target_size = 0;
    options.allocation = "allocation.txt";
    check_usage(options, "--allocation already says the bits");
    options = gptq;
    options.save_allocation = "allocation.txt";
    check_usage(options, "--save-allocation needs");
    for (unsigned i = 0; i < 3; i++) {
        options = options_for(folder, NULL, i == 1 ? "rtn" : "awq");
        if (i == 1) options.range = "hessian";
        if (i == 0) options.correction = "none";
        if (i == 1) options.act_order = "none";
        if (i == 2) options.polish = 0;
        check_usage(options, (const char *[]){"--correction: method awq", "--act-order: method rtn",
                                 "--polish: method awq"}[i]);
    }
}

/* What is read must not be written over, nor the output by what is written beside it. */
static void test_files_that_are_one(void)
{
    const char *folder = tiny_model_folder("usage-4", (struct tiny_model){0});
    struct quantize_options gptq = options_for(folder, NULL, "gptq"), options = gptq;
    options.calibration.path = testing_path("refused.nbl");
    check_usage(options, "is the calibration text");
    options = gptq;
    options.report = testing_path("refused.nbl");
    check_usage(options, "--report ");
    options.report = testing_path("usage-4/config.json");
    check_usage(options, "is the input, or a file of it");
    options.report = testing_path("usage-4/report.json");
    check_usage(options, "lies in the input's folder");
    options.report = NULL;
    options.save_allocation = testing_path("usage-4/plan.json");
    check_usage(options, "lies in the input's folder");
    options.save_allocation = NULL;
    options.report = text;
    check_usage(options, "is the calibration text");
    options.report = options.save_allocation = testing_path("both.json");
    options.target_bits = 4;
    check_usage(options, "is also --save-allocation");
    options = gptq;
    options.allocation = testing_path("refused.nbl");
    check_usage(options, "is the allocation to read");
}

static void test_no_text(void)
{
    const char *folder = tiny_model_folder("usage-3", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, NULL, "gptq");
    options.calibration.path = testing_path("nowhere.txt");
    check_refused(options, ERR_IO, (const char *const[3]){"nowhere.txt"});
    options.calibration.path = sample_text("short.txt", 31, 1);
    check_usage(options, "it has 31 tokens, a sample has 32");
    options.calibration.path = sample_text("empty.txt", 0, 1);
    check_usage(options, "it has 0 tokens");
    options.calibration.path = text;
    REQUIRE(unlink(testing_path("usage-3/tokenizer.json")) == 0, NULL);
    check_refused(options, ERR_UNSUPPORTED, (const char *const[3]){"usage-3", "no tokenizer.json"});
    CU_ASSERT_FALSE(has_journal(testing_path("refused.nbl")));
}

/* Fewer samples than asked for are enough, but it is said. */
static void test_fewer_samples(void)
{
    struct quantize_options options =
        options_for(tiny_model_folder("fewer", (struct tiny_model){0}), testing_path("fewer.nbl"), "gptq");
    options.calibration.path = sample_text("fewer.txt", 100, 1);
    char *said = quantize_aloud(options, OK);
    CU_ASSERT_TRUE(strstr(said, "3 samples") != NULL && strstr(said, "layer 2/2") != NULL);
    memory_free(said);
}

int main(void)
{
    struct error err = {0};
    static const struct test_case cases[] = {
        {"every method", test_every_method},
        {"default method", test_default_method},
        {"solver options", test_solver_options},
        {"block types", test_block_types},
        {"rules", test_rules},
        {"models", test_models},
        {"folding", test_folding},
        {"folding in every architecture", test_folding_in_every_architecture},
        {"methods in every architecture", test_methods_in_every_architecture},
        {"no residual behind a norm", test_no_residual_behind_a_norm},
        {"threads do not show", test_threads_do_not_show},
        {"places do not show", test_places_do_not_show},
        {"kernel sets", test_kernel_sets},
        {"memory limit", test_memory_limit},
        {"dry run", test_dry_run},
        {"few tokens", test_few_tokens},
        {"one token repeated", test_one_token_repeated},
        {"dead channel", test_dead_channel},
        {"large channel", test_large_channel},
        {"bad numbers", test_bad_numbers},
        {"overflow behind a kept weight", test_overflow_behind_a_kept_weight},
        {"a zero-point that cannot be said", test_zero_point_unsayable},
        {"options without calibration", test_options_without_calibration},
        {"options that do not go together", test_options_that_do_not_go_together},
        {"files that are one", test_files_that_are_one},
        {"no text", test_no_text},
        {"fewer samples", test_fewer_samples},
    };
    testing_kernel_set();
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    text = sample_text("calibration.txt", 4000, 1);
    int result = TESTING_RUN("calibrated", cases);
    pool_free(pool);
    return result;
}
