/* Mixed precision through the whole tool: targets are met, a choice that was saved gives the same tensors, an edited one is obeyed,
 * rules are respected, and an interrupted run does not measure again. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "quantize/allocate.h"
#include "quantize/quantize.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define Q_PROJ "model.layers.0.self_attn.q_proj.weight"
#define DOWN_PROJ "model.layers.1.mlp.down_proj.weight"

/* ---- helpers ---- */

static const char *calibration_text(void)
{
    char text[2000];
    uint64_t seed = 11;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i % 7 == 6 ? ' ' : 'a' + (int)(testing_random(&seed) % 20));
    const char *path = testing_path("text.txt");
    testing_write(path, text, sizeof text);
    return path;
}

/* Options for a fresh tiny model, in a fresh folder. */
static struct quantize_options fresh_options(void)
{
    struct quantize_options options = settings_defaults();
    testing_folder();
    options.input = tiny_model_folder("model", (struct tiny_model){.seed = 2});
    options.output = testing_path("out.nbl");
    options.calibration.path = calibration_text();
    options.calibration.samples = 4;
    options.calibration.length = 32;
    options.common.quiet = true;
    options.common.threads = 2;
    return options;
}

static enum status quantize(const struct quantize_options *options, struct error *err)
{
    struct quantize_result result;
    enum status status = quantize_run(&result, options, err);
    quantize_release(&result);
    return status;
}

/* Must work; the caller releases the result. */
static struct quantize_result planned(struct quantize_options options)
{
    struct error err = {0};
    struct quantize_result result;
    options.dry_run = true;
    REQUIRE(quantize_run(&result, &options, &err) == OK, &err);
    return result;
}

static void check_refused(const struct quantize_options *options, const char *part)
{
    struct error err = {0};
    CHECK(quantize(options, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(options->output), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind(testing_path("out.nbl.journal")), FILE_ABSENT);
}

static const struct plan_tensor *find(const struct quantize_result *result, const char *name)
{
    for (uint64_t i = 0; i < result->plan.count; i++) {
        if (strcmp(result->plan.tensors[i].target.name, name) == 0) return &result->plan.tensors[i];
    }
    REQUIRE(false, NULL);
    return NULL;
}

/* Tensors alike in two files, whatever their provenance says. */
static bool same_tensors(const char *path_a, const char *path_b)
{
    struct error err = {0};
    struct container *a, *b;
    REQUIRE(container_open(&a, path_a, &err) == OK, &err);
    REQUIRE(container_open(&b, path_b, &err) == OK, &err);
    bool same = container_count(a) == container_count(b);
    for (uint64_t i = 0; same && i < container_count(a); i++) {
        const struct tensor *left = container_tensor(a, i), *right = container_find(b, left->name);
        uint32_t crc_left = 0, crc_right = 1;
        same = right && left->bytes == right->bytes && left->scheme.bits == right->scheme.bits &&
               container_checksum(a, left, &crc_left) && container_checksum(b, right, &crc_right) &&
               crc_left == crc_right;
    }
    container_close(a);
    container_close(b);
    return same;
}

static bool is_in_layer(const struct plan_tensor *tensor)
{
    return !tensor->recipe.keep && tensor->role >= ROLE_PER_LAYER && tensor->role < ROLE_COUNT;
}

/* Bits per weight of what is quantized in decoder layers. */
static double layer_bits(const struct quantize_result *result)
{
    uint64_t bytes = 0, weights = 0;
    for (uint64_t i = 0; i < result->plan.count; i++) {
        const struct plan_tensor *tensor = &result->plan.tensors[i];
        if (!is_in_layer(tensor)) continue;
        bytes += tensor->bytes;
        weights += tensor->source->elements;
    }
    return 8 * (double)bytes / (double)weights;
}

/* ---- targets ---- */

static void test_target_bits(void)
{
    static const double targets[] = {2.5, 2.51, 3, 3.5, 4.25, 5.77, 8, 8.5, 16};
    struct quantize_options options = fresh_options();
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        options.target_bits = targets[i];
        struct quantize_result result = planned(options);
        double bits = layer_bits(&result), wanted = fmin(targets[i], 8.5), sum = 0;
        /* The smallest step: a bit (6 to 8: two) of k or v, which have a thirtieth of the weights. */
        CU_ASSERT(bits <= wanted && bits > wanted - 2.0 / 30);
        for (uint64_t k = 0; k < result.plan.count; k++) {
            const struct plan_tensor *tensor = &result.plan.tensors[k];
            CU_ASSERT_EQUAL(tensor->importance > 0, is_in_layer(tensor));
            sum += tensor->importance;
        }
        CU_ASSERT_DOUBLE_EQUAL(sum, 1, 1e-9);
        quantize_release(&result);
    }
}

static void test_target_size(void)
{
    static const struct {
        const char *embedding;
        uint64_t target;
    } cases[] = {{"keep", 240000}, {"keep", 225678}, {"8", 190000}};
    struct quantize_options options = fresh_options();
    options.input = tiny_model_folder("tied", (struct tiny_model){.tied = true, .ffn = 192});
    options.force = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        options.embedding = cases[i].embedding;
        options.target_size = cases[i].target;
        CHECK(quantize(&options, &err) == OK, &err);
        uint64_t bytes = file_size(options.output);
        CU_ASSERT(bytes <= cases[i].target && bytes >= cases[i].target / 100 * 98);
        printf("(%d of %d) ", (int)bytes, (int)cases[i].target);
    }
}

static void test_too_small(void)
{
    struct quantize_options options = fresh_options();
    options.target_bits = 2.49;
    check_refused(&options, "2.5 bits");
    options.target_bits = 0;
    options.target_size = 1000;
    check_refused(&options, "the least bits everywhere the file takes up to ");
    options.target_size = 0;
    options.target_bits = 3;
    const char *keep[] = {"."};
    options.keep = (struct option_list){.values = keep, .count = 1};
    check_refused(&options, "nothing to choose");
}

static void test_rules(void)
{
    struct quantize_options options = fresh_options();
    const char *keep[] = {"v_proj"}, *override[] = {"down_proj=bits:6", "q_proj=group:64"};
    options.keep = (struct option_list){.values = keep, .count = 1};
    options.override = (struct option_list){.values = override, .count = 2};
    options.embedding = "8";
    options.target_bits = 4.2;
    struct quantize_result result = planned(options);
    CU_ASSERT_TRUE(find(&result, "model.layers.0.self_attn.v_proj.weight")->recipe.keep);
    CU_ASSERT_EQUAL(find(&result, DOWN_PROJ)->recipe.bits, 6);
    CU_ASSERT_EQUAL(find(&result, DOWN_PROJ)->importance, 0);
    CU_ASSERT_EQUAL(find(&result, Q_PROJ)->target.scheme.group, 64);
    CU_ASSERT(find(&result, Q_PROJ)->importance > 0);
    CU_ASSERT_EQUAL(find(&result, "model.embed_tokens.weight")->recipe.bits, 8);
    /* Those of the override are in the average. */
    CU_ASSERT(layer_bits(&result) <= 4.2 && layer_bits(&result) > 4.1);
    quantize_release(&result);
    options.target_bits = 3.3; /* 6.5 bits for a quarter, and at least 2.25 or 2.5 for the others */
    check_refused(&options, "--target-bits 3.3 is too little");
}

static void test_every_method(void)
{
    static const char *const methods[] = {"rtn", "gptq-plain", "awq"};
    struct quantize_options options = fresh_options();
    options.target_bits = 3.5;
    for (size_t i = 0; i < 3; i++) {
        options.method = methods[i];
        options.asymmetric = i == 1;
        struct quantize_result result = planned(options);
        CU_ASSERT(layer_bits(&result) <= 3.5 && layer_bits(&result) > 3.4);
        quantize_release(&result);
    }
}

static void test_threads(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.6;
    for (uint64_t threads = 1; threads <= 3; threads++) {
        options.common.threads = threads;
        options.output = testing_path("threads%d.nbl", (int)threads);
        options.save_allocation = testing_path("threads%d.txt", (int)threads);
        CHECK(quantize(&options, &err) == OK, &err);
        if (threads == 1) continue;
        CU_ASSERT_TRUE(testing_same_files(testing_path("threads1.nbl"), options.output));
        CU_ASSERT_TRUE(testing_same_files(testing_path("threads1.txt"), options.save_allocation));
    }
}

/* A little less than what it takes puts the states into a file. */
static void test_memory_limit(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.6;
    CHECK(quantize(&options, &err) == OK, &err);
    struct quantize_result result = planned(options);
    options.memory_limit = result.calibrated.memory_estimate - 1;
    quantize_release(&result);
    const char *in_memory = options.output;
    options.output = testing_path("limited.nbl");
    CHECK(quantize(&options, &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(in_memory, options.output));
    options.output = testing_path("none.nbl");
    options.memory_limit = 1000000;
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_MEMORY);
}

/* ---- files ---- */

static void test_round_trip(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.3;
    options.save_allocation = testing_path("bits.txt");
    CHECK(quantize(&options, &err) == OK, &err);
    const char *first = options.output;
    options.output = testing_path("again.nbl");
    options.target_bits = 0;
    options.allocation = options.save_allocation;
    options.save_allocation = NULL;
    CHECK(quantize(&options, &err) == OK, &err);
    CU_ASSERT_TRUE(same_tensors(first, options.output));
}

static void test_saving(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.3;
    options.dry_run = true;
    options.save_allocation = testing_path("bits.txt");
    CHECK(quantize(&options, &err) == OK, &err);
    CU_ASSERT_EQUAL(file_kind(options.output), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind(options.save_allocation), FILE_REGULAR);
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
    CHECK(strstr(err.text, "--force") != NULL, &err);
    options.force = true;
    CHECK(quantize(&options, &err) == OK, &err);
}

static void write_bits(struct quantize_options *options, const char *text)
{
    options->allocation = testing_path("edited.txt");
    testing_write(options->allocation, text, strlen(text));
}

static void test_edited(void)
{
    struct quantize_options options = fresh_options();
    const char *override[] = {"down_proj=bits:6"};
    options.override = (struct option_list){.values = override, .count = 1};
    options.kept_type = "f16";
    write_bits(&options, Q_PROJ " 8\n" DOWN_PROJ " 3 # the file wins\n"
                                "model.layers.0.mlp.up_proj.weight keep\n"
                                "lm_head.weight 5\n");
    struct quantize_result result = planned(options);
    CU_ASSERT_EQUAL(find(&result, Q_PROJ)->target.scheme.bits, 8);
    CU_ASSERT_EQUAL(find(&result, DOWN_PROJ)->target.scheme.bits, 3);
    CU_ASSERT_EQUAL(find(&result, "lm_head.weight")->target.scheme.bits, 5);
    CU_ASSERT_EQUAL(find(&result, "model.layers.0.mlp.down_proj.weight")->target.scheme.bits, 6);
    CU_ASSERT_EQUAL(find(&result, "model.layers.0.mlp.gate_proj.weight")->target.scheme.bits, 4);
    const struct plan_tensor *kept = find(&result, "model.layers.0.mlp.up_proj.weight");
    CU_ASSERT(kept->recipe.keep && kept->target.storage == STORAGE_DENSE);
    CU_ASSERT_EQUAL(kept->target.dtype, DTYPE_F16);
    quantize_release(&result);
}

static void test_bad_files(void)
{
    struct quantize_options options = fresh_options();
    write_bits(&options, "model.layers.7.mlp.up_proj.weight 3\n");
    check_refused(&options, "model.layers.7.mlp.up_proj.weight is no weight matrix");
    write_bits(&options, "model.norm.weight 3\n");
    check_refused(&options, "is no weight matrix");
    options.group = "64";
    options.indivisible = "keep"; /* down has 96 columns */
    write_bits(&options, DOWN_PROJ " 3\n");
    check_refused(&options, "group 64 does not divide the 96 columns");
    write_bits(&options, DOWN_PROJ " keep\n");
    options.dry_run = true;
    struct error err = {0};
    CHECK(quantize(&options, &err) == OK, &err);
    options.target_bits = 3;
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
}

/* ---- block types ---- */

/* Rows of 64 and 96 columns: the types of 32 columns, within the target, and the same file from the saved choice. */
static void test_block_types(void)
{
    static const enum block_type allowed[] = {BLOCK_IQ4_NL, BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1, BLOCK_Q8_0};
    struct quantize_options options = fresh_options();
    struct quantize_result result;
    struct error err = {0};
    bool seen[BLOCK_COUNT] = {false};
    unsigned kinds = 0;
    options.type = "q5_0";
    options.head = "q8_0";
    options.method = "rtn";
    options.range = "hessian";
    options.target_bits = 5.6;
    options.save_allocation = testing_path("types.txt");
    CHECK(quantize_run(&result, &options, &err) == OK, &err);
    CU_ASSERT(layer_bits(&result) <= 5.6 && layer_bits(&result) > 5.3);
    for (uint64_t i = 0; i < result.plan.count; i++) {
        if (is_in_layer(&result.plan.tensors[i])) seen[result.plan.tensors[i].target.block] = true;
    }
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        kinds += seen[allowed[i]];
        seen[allowed[i]] = false;
    }
    CU_ASSERT(kinds > 1);
    for (int i = 0; i < BLOCK_COUNT; i++)
        CU_ASSERT(!seen[i]);
    CU_ASSERT_EQUAL(find(&result, "model.embed_tokens.weight")->target.block, BLOCK_Q5_0);
    CU_ASSERT_EQUAL(find(&result, "lm_head.weight")->target.block, BLOCK_Q8_0);
    quantize_release(&result);

    struct quantize_options again = options;
    again.target_bits = 0;
    again.save_allocation = NULL;
    again.allocation = options.save_allocation;
    again.output = testing_path("again.nbl");
    CHECK(quantize(&again, &err) == OK, &err);
    CU_ASSERT(same_tensors(options.output, again.output));
    options.target_bits = 4;
    options.force = true;
    options.output = testing_path("little.nbl");
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
    CHECK(strstr(err.text, "--target-bits 4 is too little: with the least everywhere") != NULL, &err);
    again.force = true;
    write_bits(&again, DOWN_PROJ " 3\n");
    CU_ASSERT_EQUAL(quantize(&again, &err), ERR_USAGE);
    CHECK(strstr(err.text, "name a block type") != NULL, &err);
    write_bits(&again, DOWN_PROJ " q4_k\n");
    CU_ASSERT_EQUAL(quantize(&again, &err), ERR_USAGE);
    CHECK(strstr(err.text, "a block of 256 does not divide the 96 columns") != NULL, &err);
}

/* ---- going on ---- */

static struct file_calls real_calls;
static int renames_left;

static int failing_rename(const char *from, const char *to)
{
    if (renames_left-- > 0) return real_calls.rename(from, to);
    errno = EIO;
    return -1;
}

/* Run until so many files of the journal are complete: stamp, choice, layers. */
static void interrupt(const struct quantize_options *options, int files)
{
    struct error err = {0};
    real_calls = file_calls;
    renames_left = files;
    file_calls.rename = failing_rename;
    CU_ASSERT_EQUAL(quantize(options, &err), ERR_IO);
    file_calls = real_calls;
    CU_ASSERT_EQUAL(file_kind(options->output), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind(testing_path("out.nbl.journal")), FILE_FOLDER);
}

/* Go on; true if the choice was measured (again). */
static bool measured(const struct quantize_options *options, uint32_t layers)
{
    struct error err = {0};
    struct quantize_result result;
    CHECK(quantize_run(&result, options, &err) == OK, &err);
    bool again = result.calibrated.phases.measure > 0;
    CU_ASSERT_EQUAL(result.calibrated.layers_resumed, layers);
    CU_ASSERT(find(&result, Q_PROJ)->importance > 0);
    quantize_release(&result);
    CU_ASSERT_EQUAL(file_kind(testing_path("out.nbl.journal")), FILE_ABSENT);
    return again;
}

static void damage_choice(void)
{
    const char *path = testing_path("out.nbl.journal/allocation.nbl");
    uint64_t count;
    char *bytes = testing_read(path, &count);
    bytes[count - 1] ^= 1;
    testing_write(path, bytes, count);
    memory_free(bytes);
}

static void test_resume(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.6;
    CHECK(quantize(&options, &err) == OK, &err);
    const char *whole = testing_path("whole.nbl");
    REQUIRE(rename(options.output, whole) == 0, NULL);
    for (int layers = 0; layers <= 2; layers++) {
        interrupt(&options, 2 + layers);
        CU_ASSERT_FALSE(measured(&options, (uint32_t)layers));
        CU_ASSERT_TRUE(testing_same_files(whole, options.output));
        remove(options.output);
    }
    interrupt(&options, 1); /* before the choice was kept */
    CU_ASSERT_TRUE(measured(&options, 0));
    CU_ASSERT_TRUE(testing_same_files(whole, options.output));
    remove(options.output);
    interrupt(&options, 3);
    damage_choice();
    CU_ASSERT_TRUE(measured(&options, 1));
    CU_ASSERT_TRUE(testing_same_files(whole, options.output));
}

static void test_resume_another(void)
{
    struct quantize_options options = fresh_options();
    struct error err = {0};
    options.target_bits = 3.6;
    options.save_allocation = testing_path("bits.txt");
    interrupt(&options, 4); /* stamp, choice, the saved choice, a layer */
    CU_ASSERT_EQUAL(file_kind(options.save_allocation), FILE_REGULAR);
    options.target_bits = 4;
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
    CHECK(strstr(err.text, "target bits") != NULL, &err);
    options.target_bits = 3.6;
    CU_ASSERT_FALSE(measured(&options, 1)); /* the file that stands there is no obstacle */
    remove(options.output);
    remove(options.save_allocation);
    interrupt(&options, 4);
    options.restart = true;
    options.force = true;
    CU_ASSERT_TRUE(measured(&options, 0));
}

int main(void)
{
    static const struct test_case cases[] = {
        {"target bits", test_target_bits},
        {"target size", test_target_size},
        {"too small", test_too_small},
        {"rules", test_rules},
        {"every method", test_every_method},
        {"threads", test_threads},
        {"memory limit", test_memory_limit},
        {"round trip", test_round_trip},
        {"saving", test_saving},
        {"edited", test_edited},
        {"bad files", test_bad_files},
        {"block types", test_block_types},
        {"resume", test_resume},
        {"resume another", test_resume_another},
    };
    return TESTING_RUN("budget", cases);
}
