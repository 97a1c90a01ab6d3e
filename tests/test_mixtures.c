/* Calibration of mixtures of experts: each expert's Hessian by definition, every method on every architecture that has experts, what is
 * said of experts that few tokens were sent to, the same bytes for any number of threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "formats/provenance.h"
#include "model/forward.h"
#include "quantize/gptq.h"
#include "quantize/outcome.h"
#include "quantize/summary.h"
#include "quantize/uncalibrated.h"
#include "tests/support/gguf_file.h"
#include "tests/support/kernel_set.h"
#include "tests/support/sample_text.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { TOKENS = 24, MIXTURES = 3 };

static const char *const mixtures[MIXTURES] = {"mixtral", "qwen2-moe", "qwen3-moe"};
static struct pool *pool;

/* ---- models and runs ---- */

static struct quantize_options options_for(const char *input, const char *output, const char *method)
{
    struct quantize_options options = settings_defaults();
    options.input = input;
    options.output = output;
    options.method = method;
    options.calibration.path = testing_path("text");
    options.calibration.samples = 16;
    options.calibration.length = 64;
    options.group = "row";
    options.force = true;
    options.common.quiet = true;
    options.common.threads = 2;
    return options;
}

static void copy(const char *from, const char *to)
{
    uint64_t count;
    char *bytes = testing_read(from, &count);
    testing_write(to, bytes, count);
    memory_free(bytes);
}

/* A fresh folder with a text and a golden model, and a tokenizer, which these lack. */
static const char *golden(const char *name)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    const char *folder = testing_folder();
    sample_text("text", 8000, 1);
    for (int i = 0; i < 2; i++) {
        char relative[256];
        snprintf(relative, sizeof relative, "golden/logits/%s/%s", name, files[i]);
        copy(testing_source(relative), testing_path("%s", files[i]));
    }
    tiny_model_folder("other", (struct tiny_model){0});
    copy(testing_path("other/tokenizer.json"), testing_path("tokenizer.json"));
    return folder;
}

/* The same with six experts of 64 to 96, and one more that is never used. */
static const char *unused(void)
{
    testing_folder();
    sample_text("text", 8000, 1);
    return tiny_model_folder("model",
        (struct tiny_model){.experts = 7, .unused_expert = true, .layers = 2, .spaces = true, .seed = 6});
}

/* All that must be so of a run; the summed outcome of what calibration reached. */
static struct outcome run(const struct quantize_options *options, uint64_t *uncalibrated)
{
    struct quantize_result result;
    struct outcome sum = {0};
    struct error err = {0};
    enum status status = quantize_run(&result, options, &err);
    CHECK(status == OK, &err);
    for (uint64_t i = 0; status == OK && i < result.plan.count; i++) {
        const struct plan_tensor *planned = &result.plan.tensors[i];
        const struct outcome *outcome = &planned->outcome;
        bool inside = planned->role > ROLE_PER_LAYER && planned->role < ROLE_COUNT;
        CU_ASSERT_EQUAL(outcome->calibrated, inside && !planned->recipe.keep);
        if (!outcome->calibrated) continue;
        CU_ASSERT_TRUE(outcome->error > 0 && outcome->output_error > 0);
        CU_ASSERT_TRUE(outcome->tokens <= result.calibrated.tokens);
        if (!layers_role_is_expert(planned->role)) CU_ASSERT_EQUAL(outcome->tokens, result.calibrated.tokens);
        CU_ASSERT_EQUAL(
            outcome->uncalibrated, layers_role_is_expert(planned->role) &&
                                       outcome->tokens < gptq_least_tokens(planned->target.shape[1]));
        if (result.settings.method.safeguard)
            CU_ASSERT_TRUE(outcome->output_error <= outcome->nearest_error * (1 + 1e-9));
        if (!outcome->uncalibrated) outcome_add(&sum, outcome);
    }
    if (uncalibrated) *uncalibrated = uncalibrated_count(&result.plan);
    quantize_release(&result);
    return sum;
}

/* The final hidden states of some other text of the same kind, byte by byte as the tokenizer cuts it; memory_free. */
static float *hidden_states(const char *path, uint64_t *count)
{
    struct error err = {0};
    struct model *model = NULL;
    struct session *session = NULL;
    uint32_t tokens[TOKENS] = {1};
    uint64_t bytes;
    char *words = testing_read(testing_path("text"), &bytes);
    for (uint32_t i = 1; i < TOKENS; i++)
        tokens[i] = 3 + (uint8_t)words[bytes - TOKENS + i];
    memory_free(words);
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

/* ---- Hessians ---- */

/* Every input of the experts' gate and up, as the stage shows it, for sums by hand. */
struct gathered {
    float *x;
    uint64_t tokens, cols;
};

static enum status gather(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct gathered *all = context;
    const uint64_t before = all->tokens * inputs->cols, more = inputs->tokens * inputs->cols;
    (void)err;
    all->x = realloc(all->x, (before + more) * sizeof *all->x);
    REQUIRE(all->x != NULL, NULL);
    memcpy(all->x + before, inputs->x, more * sizeof *all->x);
    all->tokens += inputs->tokens;
    all->cols = inputs->cols;
    return OK;
}

static double dot(const struct tensor *weight, uint64_t row, const float *x)
{
    const float *values = weight->data;
    double sum = 0;
    for (uint64_t i = 0; i < weight->shape[1]; i++)
        sum += (double)values[row * weight->shape[1] + i] * x[i];
    return sum;
}

static bool is_sent(
    const struct layer *layer, const struct model_config *config, const float *x, uint32_t expert)
{
    const struct tensor *router = layer->walk.current[ROLE_ROUTER];
    uint32_t better = 0;
    for (uint32_t i = 0; i < config->experts; i++)
        better += i != expert && dot(router, i, x) > dot(router, expert, x);
    return better < config->experts_per_token;
}

/* What an expert sees at a stage of one token: [cols]. */
static void expert_input(
    double *out, const struct layer *layer, enum stage stage, uint32_t expert, const float *x, uint64_t cols)
{
    const struct tensor *const *matrices = layer->walk.current_experts[expert];
    for (uint64_t i = 0; i < cols; i++) {
        if (stage != WALK_DOWN) {
            out[i] = x[i];
            continue;
        }
        double gate = dot(matrices[0], i, x);
        out[i] = gate / (1 + exp(-gate)) * dot(matrices[1], i, x);
    }
}

/* The mean of x x^T over the tokens that are sent to an expert. */
static uint64_t hessian_by_hand(double *out, const struct gathered *all, const struct layer *layer,
    const struct model_config *config, enum stage stage, uint32_t expert)
{
    const uint64_t cols = walk_expert_cols(config, stage);
    double input[128];
    uint64_t count = 0;
    memset(out, 0, cols * cols * sizeof *out);
    for (uint64_t t = 0; t < all->tokens; t++) {
        const float *x = all->x + t * all->cols;
        if (!is_sent(layer, config, x, expert)) continue;
        expert_input(input, layer, stage, expert, x, cols);
        for (uint64_t i = 0; i < cols * cols; i++)
            out[i] += input[i / cols] * input[i % cols];
        count++;
    }
    for (uint64_t i = 0; i < cols * cols && count; i++)
        out[i] /= (double)count;
    return count;
}

static void check_hessian(struct calibrated *work, struct layer *layer, const struct gathered *all,
    enum stage stage, uint32_t expert)
{
    const struct model_config *config = &work->input->config;
    const uint64_t cols = walk_expert_cols(config, stage);
    double *wanted = memory_new(cols * cols, sizeof *wanted, NULL), most = 0, difference = 0;
    struct hessian hessian;
    struct error err = {0};
    enum gptq_known known;
    REQUIRE(wanted != NULL, NULL);
    const uint64_t count = hessian_by_hand(wanted, all, layer, config, stage, expert);
    CHECK(gptq_observe(
              work, layer, (struct gptq_group){stage, expert}, false, true, &hessian, &known, &err) == OK,
        &err);
    CU_ASSERT_EQUAL(hessian.tokens, count);
    CU_ASSERT_EQUAL(known, count == 0                        ? GPTQ_NOTHING
                           : count < gptq_least_tokens(cols) ? GPTQ_CHANNELS
                                                             : GPTQ_ALL);
    for (uint64_t i = 0; i < cols * cols; i++) {
        double expected = known == GPTQ_ALL || i % (cols + 1) == 0 ? wanted[i] : 0;
        if (known == GPTQ_NOTHING) expected = i % (cols + 1) == 0;
        most = fmax(most, fabs(expected));
        difference = fmax(difference, fabs(expected - hessian.second[i]));
    }
    CU_ASSERT_TRUE(difference < 1e-5 * most);
    hessian_free(&hessian);
    memory_free(wanted);
}

/* Every expert's at both stages; some saw enough, some little, one nothing. */
static void check_hessians(const char *folder, uint64_t samples, uint64_t length)
{
    struct checkpoint input;
    struct settings settings = {0};
    struct plan plan = {0};
    struct calibrated work = {.input = &input, .plan = &plan, .settings = &settings, .pool = pool};
    struct calibration *calibration = &work.calibration;
    const struct walk_options options = {.in_memory = true};
    struct gathered all = {0};
    struct layer layer;
    struct error err = {0};
    uint64_t seed = 3;
    REQUIRE(checkpoint_open(&input, folder, &err) == OK, &err);
    *calibration = (struct calibration){.samples = samples, .length = length};
    calibration->tokens = memory_new(samples * length, sizeof(uint32_t), &err);
    calibration->lengths = memory_new(samples, sizeof(uint32_t), &err);
    REQUIRE(calibration->tokens && calibration->lengths, &err);
    for (uint64_t i = 0; i < samples * length; i++) {
        calibration->lengths[i / length] = (uint32_t)length;
        calibration->tokens[i] = (uint32_t)(testing_random(&seed) % input.config.vocabulary);
    }
    REQUIRE(walk_create(&work.walk, &input, calibration, &options, pool, &err) == OK, &err);
    REQUIRE(layer_load(&layer, &input, 0, &err) == OK, &err);
    for (enum stage stage = WALK_QKV; stage <= WALK_GATE_UP; stage++)
        CHECK(walk_to(work.walk, stage, &layer.walk, true, stage == WALK_GATE_UP ? gather : NULL, &all,
                  &err) == OK,
            &err);
    for (uint32_t i = 0; i < 2 * input.config.experts; i++)
        check_hessian(&work, &layer, &all, i % 2 ? WALK_DOWN : WALK_GATE_UP, i / 2);
    free(all.x);
    layer_free(&layer);
    walk_free(work.walk);
    calibration_free(calibration);
    checkpoint_close(&input);
}

static void test_hessians(void)
{
    for (int i = 0; i < MIXTURES; i++)
        check_hessians(golden(mixtures[i]), 20, 40);
    check_hessians(unused(), 2, 50);
    check_hessians(unused(), 30, 50);
}

/* ---- methods ---- */

/* Solving errs less than rounding; scaling does no harm. */
static void test_methods(void)
{
    static const char *const methods[] = {"rtn", "gptq", "awq", "awq+gptq", "gptq-plain"};
    for (int i = 0; i < MIXTURES; i++) {
        const char *folder = golden(mixtures[i]);
        double errors[5];
        for (int m = 0; m < 5; m++) {
            struct quantize_options options =
                options_for(folder, testing_path("%s.nbl", methods[m]), methods[m]);
            if (m == 0) options.range = "hessian";
            struct outcome sum = run(&options, NULL);
            errors[m] = outcome_relative(&sum);
        }
        CU_ASSERT_TRUE(errors[1] < 0.85 * errors[0] && errors[3] < 0.85 * errors[2]);
        CU_ASSERT_TRUE(errors[2] < 1.02 * errors[0] && errors[4] < errors[0]);
    }
}

/* What the whole network computes is nearer too, on tokens of the kind that it was calibrated on. */
static void test_network(void)
{
    static const char *const methods[] = {"rtn", "gptq", "awq+gptq"};
    const char *folder = unused();
    double far[3];
    for (int m = 0; m < 3; m++) {
        struct quantize_options options = options_for(folder, testing_path("%s.nbl", methods[m]), methods[m]);
        options.group = "32";
        options.bits = "3";
        if (m == 0) options.range = "hessian";
        run(&options, NULL);
        far[m] = distance(folder, options.output);
    }
    CU_ASSERT_TRUE(far[1] < 0.8 * far[0] && far[2] < 0.8 * far[0]);
}

/* At 8 bits hardly anything is lost, no more than by rounding to nearest, so that a scale folded into the wrong place shows: norms
 * into experts, the shared one and routers, up into down of each. */
static void test_folding(void)
{
    for (int i = 0; i < MIXTURES; i++) {
        const char *folder = golden(mixtures[i]);
        struct quantize_options options = options_for(folder, testing_path("awq.nbl"), "awq"), nearest;
        options.bits = "8";
        nearest = options;
        nearest.method = "rtn";
        nearest.range = "hessian";
        nearest.output = testing_path("nearest.nbl");
        struct outcome sum = run(&options, NULL);
        run(&nearest, NULL);
        CU_ASSERT_TRUE(sum.output_error > 0);
        double far = distance(folder, options.output), near = distance(folder, nearest.output);
        CU_ASSERT_TRUE(far < 0.02 || far < 1.3 * near);
    }
}

/* Where a matrix is kept nothing is scaled, and the rest is quantized all the same. */
static void test_rules(void)
{
    static const char *const keeps[] = {
        "experts\\.1\\.", "experts\\.[02]\\.(up_proj|w3)", "w1|gate_proj", "o_proj"};
    for (unsigned i = 0; i < 8; i++) {
        const char *keep[] = {keeps[i % 4]};
        struct quantize_options options =
            options_for(golden(mixtures[i % MIXTURES]), testing_path("out.nbl"), i % 2 ? "gptq" : "awq+gptq");
        options.keep = (struct option_list){.values = keep, .count = 1};
        options.calibration.samples = 8;
        run(&options, NULL);
    }
}

/* In blocks, and into GGUF. */
static void test_blocks(void)
{
    for (int i = 0; i < 2; i++) {
        struct quantize_options options =
            options_for(unused(), testing_path(i ? "out.gguf" : "out.nbl"), i ? "awq+gptq" : "gptq");
        uint64_t uncalibrated;
        options.group = NULL;
        options.type = "q4_0";
        options.pure = true;
        run(&options, &uncalibrated);
        CU_ASSERT_EQUAL(uncalibrated, 2);
        CU_ASSERT_TRUE(distance(options.input, options.output) < 0.3);
    }
}

static void test_threads(void)
{
    static const char *const methods[] = {"gptq", "awq+gptq"};
    const char *folder = unused();
    for (int m = 0; m < 2; m++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct quantize_options options =
                options_for(folder, testing_path("%s-%u.nbl", methods[m], threads), methods[m]);
            options.common.threads = threads;
            options.group = "32";
            run(&options, NULL);
            CU_ASSERT_TRUE(testing_same_files(testing_path("%s-1.nbl", methods[m]), options.output));
        }
    }
}

/* ---- memory ---- */

/* What is estimated is enough, in memory or in files; with less it is refused before the work. */
static void test_memory_limit(void)
{
    const char *folder = unused();
    struct quantize_options options = options_for(folder, testing_path("plenty.nbl"), "gptq");
    struct quantize_result result;
    struct error err = {0};
    REQUIRE(quantize_run(&result, &options, &err) == OK, &err);
    options.memory_limit = result.calibrated.memory_estimate - 1;
    quantize_release(&result);
    options.output = testing_path("less.nbl");
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    CU_ASSERT_TRUE(result.calibrated.memory_estimate <= options.memory_limit);
    CU_ASSERT_TRUE(testing_same_files(testing_path("plenty.nbl"), options.output));
    options.memory_limit = result.calibrated.memory_estimate - 1;
    quantize_release(&result);
    CHECK(quantize_run(&result, &options, &err) == ERR_MEMORY, &err);
    quantize_release(&result);
}

/* ---- what is said ---- */

/* The report as it is printed; memory_free. */
static char *summary(const struct quantize_options *options, bool json)
{
    struct quantize_options aloud = *options;
    struct quantize_result result;
    struct error err = {0};
    uint64_t count;
    aloud.common.json = json;
    CHECK(quantize_run(&result, &aloud, &err) == OK, &err);
    testing_capture(1);
    CHECK(summary_print(&result, &aloud, &err) == OK, &err);
    fflush(stdout);
    char *said = testing_captured(&count);
    quantize_release(&result);
    return said;
}

static void check_says(char *said, const char *part)
{
    CU_ASSERT_TRUE(said && strstr(said, part));
    memory_free(said);
}

/* ---- importance matrices ---- */

static void put_entry(
    struct gguf_file *file, uint32_t layer, const char *name, uint64_t matrices, uint64_t cols)
{
    float *sums = memory_new(matrices * cols, sizeof *sums, NULL),
          *counts = memory_new(matrices, sizeof *counts, NULL);
    uint64_t seed = layer + matrices + cols;
    char text[64];
    REQUIRE(sums && counts, NULL);
    for (uint64_t i = 0; i < matrices; i++)
        counts[i] = matrices > 1 && i == matrices - 1 ? 0 : 5;
    for (uint64_t i = 0; i < matrices * cols; i++)
        sums[i] = counts[i / cols] > 0 ? (float)(testing_random(&seed) % 1000 + 1) : 0;
    snprintf(text, sizeof text, "blk.%u.%s.weight.in_sum2", layer, name);
    gguf_file_tensor(file, text, matrices, cols, 0, sums, matrices * cols * sizeof *sums);
    snprintf(text, sizeof text, "blk.%u.%s.weight.counts", layer, name);
    gguf_file_tensor(file, text, matrices, 1, 0, counts, matrices * sizeof *counts);
    memory_free(sums);
    memory_free(counts);
}

/* Of the model of unused(), whose last expert has no tokens here either. */
static const char *imatrix_file(uint64_t experts)
{
    static const char *const names[] = {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
    const char *path = testing_path("imatrix-%u.gguf", (unsigned)experts);
    struct gguf_file file = {0};
    gguf_file_string(&file, "general.type", "imatrix");
    for (uint32_t i = 0; i < 14; i++)
        put_entry(&file, i / 7, names[i % 7], i % 7 > 3 ? experts : 1, i % 7 == 6 ? 96 : 64);
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    return path;
}

/* Every expert by its own means; one that has none as without, and reported. */
static void test_imatrix(void)
{
    struct quantize_options options = options_for(unused(), testing_path("out.nbl"), "rtn");
    struct quantize_result result;
    struct error err = {0};
    options.calibration.path = NULL;
    options.group = NULL;
    options.type = "q4_0";
    options.pure = true;
    options.imatrix = imatrix_file(7);
    check_says(summary(&options, false), "uncalibrated     2 of 14 experts");
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    for (uint32_t expert = 0; expert < 7; expert++) {
        const struct plan_tensor *planned = plan_at(&result.plan, 1, layers_place(ROLE_EXPERT_DOWN, expert));
        const struct imatrix_entry *entry = result.imatrix.entries;
        while (entry->role != ROLE_EXPERT_DOWN || entry->layer != 1)
            entry++;
        CU_ASSERT_PTR_EQUAL(
            planned->column_weights, expert == 6 ? NULL : entry->means + (uint64_t)expert * 96);
        CU_ASSERT_EQUAL(planned->outcome.uncalibrated, expert == 6);
    }
    quantize_release(&result);
    options.imatrix = imatrix_file(6);
    CHECK(quantize_run(&result, &options, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "384 columns for all experts, 7 experts of 64 columns have 448"), &err);
    quantize_release(&result);
}

/* ---- experts that few tokens were sent to ---- */

/* For people, for machines, and in the file. */
static void test_uncalibrated(void)
{
    struct quantize_options options = options_for(unused(), testing_path("out.nbl"), "gptq");
    struct container *container = NULL;
    struct error err = {0};
    char *provenance = NULL;
    uint64_t bytes;
    check_says(summary(&options, false),
        "uncalibrated     2 of 14 experts: too few tokens were sent there; rounded to nearest\n"
        "                 layer 0: expert 6 (0 tokens)\n"
        "                 layer 1: expert 6 (0 tokens)\n");
    check_says(summary(&options, true),
        "\"uncalibrated_experts\": [\n    {\n      \"layer\": 0,\n      \"expert\": 6,\n"
        "      \"tokens\": 0\n    },");
    REQUIRE(container_open(&container, options.output, &err) == OK, &err);
    CHECK(container_document(container, PROVENANCE_DOCUMENT, &provenance, &bytes, &err) == OK, &err);
    check_says(provenance, "\"uncalibrated experts\": \"0:6, 1:6\"");
    container_close(container);
}

/* Experts that saw few tokens, and a whole model in which none did. */
static void test_few_tokens(void)
{
    struct quantize_options options = options_for(unused(), testing_path("few.nbl"), "awq+gptq");
    uint64_t few, one;
    options.calibration.samples = 1;
    options.calibration.length = 60;
    run(&options, &few);
    options.calibration.length = 2;
    run(&options, &one);
    CU_ASSERT_TRUE(few > 2 && few < 14);
    CU_ASSERT_EQUAL(one, 14);
    CU_ASSERT_TRUE(distance(options.input, options.output) < 0.3);
}

static void test_refused(void)
{
    struct quantize_options options = options_for(golden("mixtral"), testing_path("out.nbl"), "gptq");
    for (int i = 0; i < 2; i++) {
        struct quantize_result result;
        struct error err = {0};
        options.target_bits = i ? 0 : 4;
        options.target_size = i ? 100000 : 0;
        CHECK(quantize_run(&result, &options, &err) == ERR_UNSUPPORTED, &err);
        CHECK(strstr(err.text, i ? "--target-size: MixtralForCausalLM has a mixture of experts"
                                 : "--target-bits: MixtralForCausalLM has a mixture of experts"),
            &err);
        quantize_release(&result);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"Hessians", test_hessians},
        {"methods", test_methods},
        {"network", test_network},
        {"folding", test_folding},
        {"rules", test_rules},
        {"blocks", test_blocks},
        {"threads", test_threads},
        {"memory limit", test_memory_limit},
        {"importance matrix", test_imatrix},
        {"uncalibrated", test_uncalibrated},
        {"few tokens", test_few_tokens},
        {"refused", test_refused},
    };
    struct error err = {0};
    int failed;
    testing_kernel_set();
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    failed = TESTING_RUN("mixtures", cases);
    pool_free(pool);
    return failed;
}
