/* nibble-quantize as a library: which tensor gets what, how far decoded weights may be off, what is refused,
 * and that neither threads nor kernels show in the bytes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "quantize/quantize.h"
#include "quantize/rtn.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define EMBEDDING "model.embed_tokens.weight"
#define UP_PROJ "model.layers.1.mlp.up_proj.weight"
#define DOWN_PROJ "model.layers.0.mlp.down_proj.weight"
#define NORM "model.layers.0.input_layernorm.weight"

/* ---- helpers ---- */

/* Options as a command line would give them, quiet. */
static struct quantize_options options_for(const char *input, const char *output)
{
    struct quantize_options options = settings_defaults();
    options.input = input;
    options.output = output;
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

/* Plan only; the caller releases *result. */
static enum status plan_only(
    struct quantize_result *result, struct quantize_options options, struct error *err)
{
    options.dry_run = true;
    return quantize_run(result, &options, err);
}

static const struct plan_tensor *planned(const struct quantize_result *result, const char *name)
{
    for (uint64_t i = 0; i < result->plan.count; i++) {
        if (strcmp(result->plan.tensors[i].target.name, name) == 0) return &result->plan.tensors[i];
    }
    REQUIRE(false, NULL);
    return NULL;
}

/* The recipe of one tensor as text, valid until the next call. */
static const char *recipe(const struct quantize_result *result, const char *name)
{
    static char text[64];
    return settings_recipe_text(text, &planned(result, name)->recipe);
}

static struct container *open_mapped(const char *path)
{
    struct error err = {0};
    struct container *container = NULL;
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    return container;
}

/* A whole tensor as floats; memory_free. */
static float *decode(const struct tensor *tensor)
{
    struct error err = {0};
    struct tiles_layout layout;
    float *out = memory_new(tensor->elements, sizeof *out, &err);
    REQUIRE(out != NULL, &err);
    if (tensor->storage == STORAGE_DENSE) {
        dtype_info(tensor->dtype)->decode(out, tensor->data, tensor->elements);
        return out;
    }
    REQUIRE(tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, &err) == OK, &err);
    tiles_decode(&layout, out, layout.cols, tensor->data, 0, layout.rows);
    return out;
}

/* Quantizing must fail with this code, say `part`, and leave no file. */
static void check_refused(struct quantize_options options, enum status code, const char *part)
{
    struct error err = {0};
    options.output = testing_path("refused.nbl");
    CHECK(quantize(&options, &err) == code, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(options.output), FILE_ABSENT);
}

/* ---- which tensor gets what ---- */

static void test_linear_layers_only_by_default(void)
{
    struct error err = {0};
    struct quantize_result result;
    const char *folder = tiny_model_folder("default", (struct tiny_model){0});
    CHECK(plan_only(&result, options_for(folder, testing_path("default.nbl")), &err) == OK, &err);
    CU_ASSERT_EQUAL(result.plan.count, 2 * 9 + 3);
    CU_ASSERT_EQUAL(result.plan.quantized, 2 * 7);
    CU_ASSERT_STRING_EQUAL(recipe(&result, UP_PROJ), "4 bits, group 32, symmetric, minmax");
    CU_ASSERT_STRING_EQUAL(recipe(&result, EMBEDDING), "kept");
    CU_ASSERT_STRING_EQUAL(recipe(&result, "lm_head.weight"), "kept");
    CU_ASSERT_STRING_EQUAL(recipe(&result, NORM), "kept");
    CU_ASSERT_EQUAL(8 * result.plan.bytes_quantized, result.plan.weights_quantized * 9 / 2);
    CU_ASSERT_EQUAL(file_kind(testing_path("default.nbl")), FILE_ABSENT);
    quantize_release(&result);
}

static void test_embedding_and_head(void)
{
    struct error err = {0};
    struct quantize_result result;
    struct quantize_options options =
        options_for(tiny_model_folder("roles", (struct tiny_model){0}), testing_path("roles.nbl"));
    options.embedding = "8";
    options.head = "same";
    CHECK(plan_only(&result, options, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(recipe(&result, EMBEDDING), "8 bits, group 32, symmetric, minmax");
    CU_ASSERT_STRING_EQUAL(recipe(&result, "lm_head.weight"), "4 bits, group 32, symmetric, minmax");
    quantize_release(&result);
}

/* One matrix plays both parts: --embedding decides, and --head may only agree. */
static void test_tied_embedding(void)
{
    struct error err = {0};
    struct quantize_result result;
    const char *folder = tiny_model_folder("tied", (struct tiny_model){.tied = true, .under_head = true});
    struct quantize_options options = options_for(folder, testing_path("tied.nbl"));
    options.embedding = "8";
    CHECK(plan_only(&result, options, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(recipe(&result, "lm_head.weight"), "8 bits, group 32, symmetric, minmax");
    quantize_release(&result);
    options.head = "8";
    CHECK(plan_only(&result, options, &err) == OK, &err);
    quantize_release(&result);
    options.head = "keep";
    check_refused(options, ERR_USAGE, "--embedding");

    options.head = NULL;
    CHECK(quantize(&options, &err) == OK, &err);
    struct container *container = open_mapped(options.output);
    const struct tensor *head = container_find(container, "lm_head.weight");
    CU_ASSERT_TRUE(head && head->storage == STORAGE_TILES);
    CU_ASSERT_PTR_EQUAL(head, container_find(container, EMBEDDING));
    container_close(container);
}

static void test_overrides(void)
{
    struct error err = {0};
    struct quantize_result result;
    const char *overrides[] = {".=group:16", "down_proj=bits:6,asymmetric,range:mse",
        "layers\\.1\\.=bits:8,group:row", "layers\\.1\\.mlp\\.up_proj=keep"};
    const char *keeps[] = {"v_proj"};
    struct quantize_options options =
        options_for(tiny_model_folder("rules", (struct tiny_model){0}), testing_path("rules.nbl"));
    options.override = list_of(overrides, 4);
    options.keep = list_of(keeps, 1);
    CHECK(plan_only(&result, options, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(
        recipe(&result, "model.layers.0.self_attn.q_proj.weight"), "4 bits, group 16, symmetric, minmax");
    CU_ASSERT_STRING_EQUAL(recipe(&result, DOWN_PROJ), "6 bits, group 16, asymmetric, mse");
    CU_ASSERT_STRING_EQUAL(
        recipe(&result, "model.layers.1.mlp.down_proj.weight"), "8 bits, whole row, asymmetric, mse");
    CU_ASSERT_STRING_EQUAL(recipe(&result, UP_PROJ), "kept");
    CU_ASSERT_STRING_EQUAL(recipe(&result, "model.layers.1.self_attn.v_proj.weight"), "kept");
    /* The first rule matches the embedding, too, but only bits would quantize it. */
    CU_ASSERT_STRING_EQUAL(recipe(&result, EMBEDDING), "kept");
    quantize_release(&result);
}

static void test_bad_rules(void)
{
    static const struct {
        const char *override, *part;
    } bad[] = {
        {"up_proj", "REGEX=HOW"},
        {"=bits:4", "empty"},
        {"up_proj=", "none of keep"},
        {"up_proj=bits:7", "bits 7"},
        {"up_proj=bits:44", "bits 44"},
        {"up_proj=bits:4,", "none of keep"},
        {"up_proj=group:24", "multiple of 16"},
        {"up_proj=group:0", "multiple of 16"},
        {"up_proj=range:best", "range best"},
        {"up_proj=keep,bits:4", "stands alone"},
        {"up_(proj=bits:4", "not a regular expression"},
        {"layernorm=bits:4", "matches no weight matrix"},
        {"nothing=keep", "matches no weight matrix"},
        {"embed=group:16", "changes nothing"},
    };
    const char *folder = tiny_model_folder("bad-rules", (struct tiny_model){0});
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *values[] = {bad[i].override};
        struct quantize_options options = options_for(folder, "");
        options.override = list_of(values, 1);
        check_refused(options, ERR_USAGE, bad[i].part);
    }
    const char *keeps[] = {"layernorm"};
    struct quantize_options options = options_for(folder, "");
    options.keep = list_of(keeps, 1);
    check_refused(options, ERR_USAGE, "--keep 'layernorm'");
    options = options_for(folder, "");
    options.group = "24";
    check_refused(options, ERR_USAGE, "group 24");
}

static void test_indivisible_rows(void)
{
    struct error err = {0};
    struct quantize_result result;
    /* down_proj has 80 columns: 32 does not divide them, 16 does. */
    struct quantize_options options =
        options_for(tiny_model_folder("odd", (struct tiny_model){.ffn = 80}), testing_path("odd.nbl"));
    check_refused(options, ERR_USAGE, "divisor");

    static const char *const choices[][2] = {{"row", "4 bits, whole row, symmetric, minmax"},
        {"divisor", "4 bits, group 16, symmetric, minmax"}, {"keep", "kept"}};
    for (size_t i = 0; i < 3; i++) {
        options.indivisible = choices[i][0];
        CHECK(plan_only(&result, options, &err) == OK, &err);
        CU_ASSERT_STRING_EQUAL(recipe(&result, DOWN_PROJ), choices[i][1]);
        CU_ASSERT_STRING_EQUAL(recipe(&result, UP_PROJ), "4 bits, group 32, symmetric, minmax");
        quantize_release(&result);
    }

    /* Nothing divides 88: the divisor has to be asked for differently. */
    options =
        options_for(tiny_model_folder("odder", (struct tiny_model){.ffn = 88}), testing_path("odd.nbl"));
    options.indivisible = "divisor";
    check_refused(options, ERR_USAGE, DOWN_PROJ);
    options.indivisible = "row";
    CHECK(quantize(&options, &err) == OK, &err);
}

static void test_type_of_what_is_kept(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("kept-type", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, testing_path("kept-type.nbl"));
    options.kept_type = "bf16";
    CHECK(quantize(&options, &err) == OK, &err);
    struct container *container = open_mapped(options.output);
    CU_ASSERT_EQUAL(container_find(container, EMBEDDING)->dtype, DTYPE_BF16);
    CU_ASSERT_EQUAL(container_find(container, NORM)->dtype, DTYPE_F32);
    container_close(container);
}

/* ---- how good it is ---- */

/* How far a decoded weight may be from the original, in steps of its grid: half a step, and what rounding the
 * scale to half precision adds over all 2^bits steps. The top code of a symmetric grid, which has one code
 * less on that side, also stands for what lies a step beyond it. */
static double allowed_steps(uint8_t code, struct scheme scheme)
{
    double codes = 1u << scheme.bits;
    bool is_short_side = code == codes - 1 && !scheme.asymmetric;
    return (is_short_side ? 1.0 : 0.5) + codes / 2048 + 1e-3;
}

static void check_close(const struct tensor *original, const struct tensor *quantized)
{
    struct error err = {0};
    struct tiles_layout layout;
    REQUIRE(
        tiles_layout(&layout, quantized->shape[0], quantized->shape[1], quantized->scheme, &err) == OK, &err);
    float *weights = decode(original), *decoded = decode(quantized);
    uint8_t *codes = memory_new(TILE_ROWS * layout.cols, 1, &err);
    REQUIRE(codes != NULL, &err);
    const uint8_t *base = quantized->data;
    uint64_t bad = 0;
    for (uint64_t row = 0; row < layout.rows; row++) {
        uint64_t tile = row / TILE_ROWS, lane = row % TILE_ROWS;
        const uint16_t *scales = (const uint16_t *)(const void *)(base + layout.scales_offset);
        if (lane == 0) tiles_unpack(&layout, codes, base + tile * layout.tile_code_bytes);
        for (uint64_t col = 0; col < layout.cols; col++) {
            uint64_t at = row * layout.cols + col;
            float scale =
                dtype_f16_to_f32(scales[(tile * layout.groups + col / layout.group) * TILE_ROWS + lane]);
            double limit = fabs(scale) * allowed_steps(codes[lane * layout.cols + col], quantized->scheme);
            bad += !(fabs(weights[at] - decoded[at]) <= limit);
        }
    }
    CU_ASSERT_EQUAL(bad, 0);
    memory_free(codes);
    memory_free(decoded);
    memory_free(weights);
}

/* Every width, symmetric and not, in three group sizes. The vocabulary of 269 rows ends in the middle of a
 * tile. */
static void test_decoded_weights_are_close(void)
{
    static const char *const widths[] = {"2", "3", "4", "5", "6", "8"}, *const groups[] = {"16", "32", "row"};
    const char *folder = tiny_model_folder("close", (struct tiny_model){.dtype = "BF16"}),
               *out = testing_path("close.nbl");
    struct container *source = open_mapped(folder);
    for (size_t i = 0; i < 6 * 3 * 2; i++) {
        struct error err = {0};
        struct quantize_options options = options_for(folder, out);
        options.bits = widths[i % 6];
        options.group = groups[i / 6 % 3];
        options.asymmetric = i / 18;
        options.embedding = "same";
        options.force = true;
        CHECK(quantize(&options, &err) == OK, &err);
        struct container *target = open_mapped(out);
        check_close(container_find(source, UP_PROJ), container_find(target, UP_PROJ));
        check_close(container_find(source, EMBEDDING), container_find(target, EMBEDDING));
        container_close(target);
    }
    container_close(source);
}

/* The sums of squares of one tensor, from the file. */
static double relative_error(const struct tensor *original, const struct tensor *quantized)
{
    float *weights = decode(original), *decoded = decode(quantized);
    double error = 0, power = 0;
    for (uint64_t i = 0; i < original->elements; i++) {
        error += ((double)weights[i] - decoded[i]) * ((double)weights[i] - decoded[i]);
        power += (double)weights[i] * weights[i];
    }
    memory_free(weights);
    memory_free(decoded);
    return sqrt(error / power);
}

/* --report-error says what an independent look at the files says, and the search is never worse than the
 * extremes. */
static void test_reported_error(void)
{
    const char *folder = tiny_model_folder("error", (struct tiny_model){0});
    double errors[2];
    for (int mse = 0; mse < 2; mse++) {
        struct error err = {0};
        struct quantize_result result;
        struct quantize_options options = options_for(folder, testing_path("error-%d.nbl", mse));
        options.range = mse ? "mse" : "minmax";
        options.bits = "3";
        options.asymmetric = true;
        options.report_error = true;
        CHECK(quantize_run(&result, &options, &err) == OK, &err);
        const struct plan_tensor *tensor = planned(&result, UP_PROJ);
        struct container *target = open_mapped(options.output), *source = open_mapped(folder);
        errors[mse] = sqrt(tensor->outcome.error / tensor->outcome.power);
        CU_ASSERT_DOUBLE_EQUAL(errors[mse],
            relative_error(container_find(source, UP_PROJ), container_find(target, UP_PROJ)), 1e-9);
        container_close(source);
        container_close(target);
        quantize_release(&result);
    }
    CU_ASSERT_TRUE(errors[1] < errors[0]);
    CU_ASSERT_TRUE(errors[0] < 0.3);
}

/* ---- what is refused ---- */

static void test_bad_weights(void)
{
    static const struct {
        float value;
        const char *what;
    } bad[] = {{NAN, "NaN"}, {INFINITY, "infinite"}, {-INFINITY, "infinite"}, {1e30f, "does not fit"}};
    for (size_t i = 0; i < 4; i++) {
        struct error err = {0};
        /* up_proj has 64 columns, so element 1163 is in row 18, column 11; the row lies in the third tile. */
        const char *folder = tiny_model_folder(bad[i].what,
            (struct tiny_model){.poison = UP_PROJ, .poison_at = 18 * 64 + 11, .poison_value = bad[i].value});
        struct quantize_options options = options_for(folder, testing_path("bad.nbl"));
        options.force = true;
        testing_write(options.output, "precious", 8);
        CU_ASSERT_EQUAL(quantize(&options, &err), ERR_NUMERIC);
        CHECK(
            strstr(err.text, UP_PROJ) && strstr(err.text, "[18, 11]") && strstr(err.text, bad[i].what), &err);
        uint64_t count;
        char *bytes = testing_read(options.output, &count);
        CU_ASSERT_TRUE(count == 8 && memcmp(bytes, "precious", 8) == 0);
        memory_free(bytes);
    }
}

static void test_bad_models(void)
{
    check_refused(options_for(tiny_model_folder("missing", (struct tiny_model){.omit = UP_PROJ}), ""),
        ERR_FORMAT, UP_PROJ);
    check_refused(options_for(tiny_model_folder("extra", (struct tiny_model){.extra = "surprise"}), ""),
        ERR_FORMAT, "surprise");
    check_refused(options_for(tiny_model_folder("rank3", (struct tiny_model){.rank3 = UP_PROJ}), ""),
        ERR_FORMAT, UP_PROJ);
}

static void test_quantized_input(void)
{
    struct error err = {0};
    struct quantize_options options =
        options_for(tiny_model_folder("twice", (struct tiny_model){0}), testing_path("twice.nbl"));
    CHECK(quantize(&options, &err) == OK, &err);
    struct quantize_options again = options_for(options.output, "");
    check_refused(again, ERR_UNSUPPORTED, "original");

    /* What is kept may be quantized already: here all of it, while the embedding is added. */
    const char *keeps[] = {"layers"};
    again.keep = list_of(keeps, 1);
    again.embedding = "8";
    again.output = testing_path("twice-again.nbl");
    CHECK(quantize(&again, &err) == OK, &err);
    struct container *container = open_mapped(again.output);
    CU_ASSERT_EQUAL(container_find(container, UP_PROJ)->scheme.bits, 4);
    CU_ASSERT_EQUAL(container_find(container, EMBEDDING)->scheme.bits, 8);
    container_close(container);
}

static void test_outputs(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("outputs", (struct tiny_model){0});
    struct quantize_options options = options_for(folder, testing_path("outputs.nbl"));
    testing_write(options.output, "precious", 8);
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
    CHECK(strstr(err.text, "--force") != NULL, &err);
    options.force = true;
    CHECK(quantize(&options, &err) == OK, &err);
    options.output = testing_path("outputs/model.safetensors");
    CU_ASSERT_EQUAL(quantize(&options, &err), ERR_USAGE);
    CHECK(strstr(err.text, "input") != NULL, &err);
}

/* ---- the same bytes ---- */

static void test_threads_and_folders_do_not_show(void)
{
    static const uint64_t counts[] = {2, 3, 7};
    struct error err = {0};
    const char *folder = tiny_model_folder("threads", (struct tiny_model){.hidden = 256, .ffn = 512});
    const char *one = testing_path("threads-1.nbl");
    struct quantize_options options = options_for(folder, one);
    options.common.threads = 1;
    options.range = "mse";
    options.asymmetric = true;
    CHECK(quantize(&options, &err) == OK, &err);
    for (size_t i = 0; i < 3; i++) {
        options.common.threads = counts[i];
        options.output = testing_path("threads-%d.nbl", (int)counts[i]);
        CHECK(quantize(&options, &err) == OK, &err);
        CU_ASSERT_TRUE(testing_same_files(one, options.output));
    }
    char before[4096];
    REQUIRE(getcwd(before, sizeof before) && chdir(testing_path(".")) == 0, NULL);
    options.input = "./threads/../threads";
    options.output = "threads-here.nbl";
    CHECK(quantize(&options, &err) == OK, &err);
    REQUIRE(chdir(before) == 0, NULL);
    CU_ASSERT_TRUE(testing_same_files(one, testing_path("threads-here.nbl")));
}

static void test_kernels_do_not_show(void)
{
    static const char *const sets[] = {"scalar", "avx2"};
    const char *folder =
        tiny_model_folder("kernels", (struct tiny_model){.hidden = 128, .ffn = 208, .dtype = "F16"});
    const char *paths[4] = {0};
    for (size_t i = 0; i < 4; i++) {
        struct error err = {0};
        if (kernels_select(sets[i / 2], &err) != OK) continue; /* this CPU lacks the set */
        struct quantize_options options =
            options_for(folder, testing_path("kernels-%s-%s.nbl", sets[i / 2], i % 2 ? "mse" : "minmax"));
        options.range = i % 2 ? "mse" : "minmax";
        options.asymmetric = i % 2;
        options.embedding = "3";
        options.head = "5";
        options.group = "16";
        options.kept_type = "bf16";
        CHECK(quantize(&options, &err) == OK, &err);
        paths[i] = options.output;
    }
    REQUIRE(kernels_select(getenv("NIBBLE_KERNELS"), NULL) == OK, NULL);
    CU_ASSERT_TRUE(!paths[2] || testing_same_files(paths[0], paths[2]));
    CU_ASSERT_TRUE(!paths[3] || testing_same_files(paths[1], paths[3]));
}

/* ---- the rest ---- */

static void test_size_is_predicted(void)
{
    struct error err = {0};
    struct quantize_result dry, real;
    struct quantize_options options =
        options_for(tiny_model_folder("size", (struct tiny_model){0}), testing_path("size.nbl"));
    CHECK(plan_only(&dry, options, &err) == OK, &err);
    CHECK(quantize_run(&real, &options, &err) == OK, &err);
    CU_ASSERT_EQUAL(dry.plan.bytes, real.plan.bytes);
    CU_ASSERT_DOUBLE_EQUAL((double)dry.bytes_out, (double)real.bytes_out, 8192);
    quantize_release(&dry);
    quantize_release(&real);
}

/* Of formats that lay everything out before the data, to the byte. */
static void test_size_is_exact(void)
{
    static const struct {
        const char *output, *format, *type;
        uint64_t split_size;
    } cases[] = {
        {"a.gguf", NULL, "q4_0", 0},
        {"b.gguf", NULL, "q8_0", 30000},
        {"c", "gptq", NULL, 0},
        {"d", "compressed-tensors", NULL, 30000},
        {"e", "mlx", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct quantize_result dry, real;
        const struct tiny_model model = {.ffn = 128, .spaces = true};
        struct quantize_options options =
            options_for(tiny_model_folder("exact", model), testing_path("%s", cases[i].output));
        options.format = cases[i].format;
        options.type = cases[i].type;
        options.split_size = cases[i].split_size;
        if (options.type)
            options.fallback = "auto";
        else
            options.group = "32";
        CHECK(plan_only(&dry, options, &err) == OK, &err);
        CHECK(!dry.bounded && file_kind(options.output) == FILE_ABSENT, NULL);
        CHECK(quantize_run(&real, &options, &err) == OK, &err);
        CU_ASSERT_EQUAL(dry.bytes_out, real.bytes_out);
        quantize_release(&dry);
        quantize_release(&real);
    }
}

static void test_provenance_says_what_decides_the_bytes(void)
{
    struct error err = {0};
    struct container *container = NULL;
    char *json = NULL;
    uint64_t bytes = 0;
    const char *overrides[] = {"up_proj=bits:8"};
    struct quantize_options options =
        options_for(tiny_model_folder("provenance", (struct tiny_model){0}), testing_path("provenance.nbl"));
    options.override = list_of(overrides, 1);
    CHECK(quantize(&options, &err) == OK, &err);
    REQUIRE(container_open(&container, options.output, &err) == OK, &err);
    CHECK(container_document(container, "provenance.json", &json, &bytes, &err) == OK, &err);
    REQUIRE(json != NULL, NULL);
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "nibble-quantize"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "rtn"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "up_proj=bits:8"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "model.safetensors"));
    CU_ASSERT_PTR_NULL(strstr(json, "threads"));
    CU_ASSERT_PTR_NULL(strstr(json, testing_path("provenance")));
    memory_free(json);
    container_close(container);
}

/* Let every allocation fail in turn: an error each time, no file, nothing leaked (the sanitizer's part). */
static void test_every_allocation_may_fail(void)
{
    const char *overrides[] = {"up_proj=bits:8"};
    const char *folder = tiny_model_folder(
        "memory", (struct tiny_model){.layers = 1, .hidden = 32, .ffn = 32, .vocabulary = 32});
    struct quantize_options options = options_for(folder, testing_path("memory.nbl"));
    options.override = list_of(overrides, 1);
    options.report_error = true;
    options.common.threads = 1;
    for (uint64_t nth = 1;; nth++) {
        struct error err = {0};
        memory_fail_at(nth, 0);
        enum status status = quantize(&options, &err);
        bool failed = memory_failures() > 0;
        memory_fail_at(0, 0);
        if (!failed) {
            CHECK(status == OK, &err);
            break;
        }
        CHECK(status == ERR_MEMORY || status == OK, &err);
        CU_ASSERT_TRUE(status == OK || file_kind(options.output) == FILE_ABSENT);
        unlink(options.output);
    }
}

int main(void)
{
    struct error err = {0};
    static const struct test_case cases[] = {
        {"linear layers only by default", test_linear_layers_only_by_default},
        {"embedding and head", test_embedding_and_head},
        {"tied embedding", test_tied_embedding},
        {"overrides", test_overrides},
        {"bad rules", test_bad_rules},
        {"indivisible rows", test_indivisible_rows},
        {"type of what is kept", test_type_of_what_is_kept},
        {"decoded weights are close", test_decoded_weights_are_close},
        {"reported error", test_reported_error},
        {"bad weights", test_bad_weights},
        {"bad models", test_bad_models},
        {"quantized input", test_quantized_input},
        {"outputs", test_outputs},
        {"threads and folders do not show", test_threads_and_folders_do_not_show},
        {"kernels do not show", test_kernels_do_not_show},
        {"size is predicted", test_size_is_predicted},
        {"size is exact", test_size_is_exact},
        {"provenance says what decides the bytes", test_provenance_says_what_decides_the_bytes},
        {"every allocation may fail", test_every_allocation_may_fail},
    };
    REQUIRE(kernels_select(getenv("NIBBLE_KERNELS"), &err) == OK, &err);
    return TESTING_RUN("quantize", cases);
}
