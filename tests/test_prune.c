/* nibble-prune on single weights, end to end: exact patterns and counts, values that stay, the same bytes for any number of threads and
 * after kills, and what is refused. */
#include "prune/prune.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/layerwise/layerwise.h"
#include "prune/weights.h"
#include "tensor/sparse.h"
#include "tests/support/sample_text.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 3 };

static const struct tiny_model small = {
    .layers = LAYERS, .hidden = 64, .ffn = 96, .heads = 2, .seed = 4, .dtype = "BF16"};

/* ---- runs ---- */

static struct prune_options options_for(const char *method)
{
    struct prune_options options = prune_settings_defaults();
    options.input = testing_path("model");
    options.output = testing_path("out.nbl");
    options.method = method;
    options.calibration.path = strcmp(method, "magnitude") != 0 ? testing_path("text") : NULL;
    options.calibration.samples = 4;
    options.calibration.length = 16;
    options.force = true;
    options.common.quiet = true;
    options.common.threads = 1;
    return options;
}

static struct prune_options fresh(struct tiny_model model, const char *method)
{
    testing_folder();
    sample_text("text", 2000, 1);
    tiny_model_folder("model", model);
    return options_for(method);
}

/* Of the last run that got through. */
static double said_error;
static uint64_t said_zeros;

static enum status prune(const struct prune_options *options, uint32_t *resumed, struct error *err)
{
    struct prune_result result;
    enum status status = prune_run(&result, options, err);
    said_error = 0;
    for (uint64_t i = 0; status == OK && i < result.count; i++)
        said_error += result.tensors[i].output_error;
    said_zeros = result.zeros;
    if (resumed) *resumed = result.layers_resumed;
    prune_release(&result);
    return status;
}

static void must_prune(const struct prune_options *options)
{
    struct error err = {0};
    REQUIRE(prune(options, NULL, &err) == OK, &err);
}

/* ---- what is in the file ---- */

/* A matrix of a .nbl file as floats, memory_free. */
static float *read_matrix(const char *path, const char *name, struct tensor *tensor)
{
    struct container *container = NULL;
    struct error err = {0};
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    const struct tensor *stored = container_find(container, name);
    *tensor = *stored;
    uint64_t rows = tensor->shape[0], cols = tensor->shape[1];
    void *bytes = memory_new(tensor->bytes, 1, &err);
    float *out = memory_new(rows * cols, sizeof *out, &err);
    REQUIRE(bytes && out && container_read(container, stored, 0, bytes, tensor->bytes, &err) == OK, &err);
    if (tensor->storage == STORAGE_SPARSE) {
        struct sparse_layout layout;
        REQUIRE(sparse_layout_of(&layout, tensor, &err) == OK, &err);
        void *scratch = memory_new(sparse_scratch(&layout), 1, &err);
        REQUIRE(sparse_decode(&layout, out, cols, bytes, 0, rows, scratch, &err) == OK, &err);
        memory_free(scratch);
    } else if (tensor->storage == STORAGE_TILES) {
        struct tiles_layout layout;
        REQUIRE(tiles_layout(&layout, rows, cols, tensor->scheme, &err) == OK, &err);
        tiles_decode(&layout, out, cols, bytes, 0, rows);
    } else {
        dtype_info(tensor->dtype)->decode(out, bytes, rows * cols);
    }
    memory_free(bytes);
    container_close(container);
    tensor->name = name;
    return out;
}

static uint64_t zeros_in(const float *values, uint64_t count)
{
    uint64_t zeros = 0;
    for (uint64_t i = 0; i < count; i++)
        zeros += values[i] == 0;
    return zeros;
}

#define DOWN "model.layers.1.mlp.down_proj.weight"

/* SPEC.md, section 6c: 24 bytes of pattern and 16 x 4 of codes for each of 8 x 3 blocks, a scale of 2 bytes for each of 64 x 3 groups, parts at
 * multiples of 64 bytes, 64 more behind the codes. */
enum { DOWN_2_4_BYTES = 576 + 384 + 24 * 64 + 64 };

/* Of every 4 columns 2 are 0 (with codes: at least), in every row. */
static void check_pattern(const char *path, bool codes)
{
    struct tensor tensor;
    float *values = read_matrix(path, DOWN, &tensor);
    uint64_t off = 0;
    for (uint64_t i = 0; i < tensor.shape[0] * tensor.shape[1]; i += 4) {
        uint64_t zeros = zeros_in(values + i, 4);
        off += codes ? zeros < 2 : zeros != 2;
    }
    CU_ASSERT_EQUAL(off, 0);
    CU_ASSERT_TRUE(tensor.storage == STORAGE_SPARSE && tensor.mask == MASK_2_4);
    if (codes) CU_ASSERT_EQUAL(tensor.bytes, DOWN_2_4_BYTES);
    memory_free(values);
}

static void test_patterns(void)
{
    static const char *const methods[] = {"magnitude", "wanda", "ria", "sparsegpt", "wanda+sparsegpt"};
    fresh(small, "wanda");
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        for (unsigned bits = 0; bits < 2; bits++) {
            struct prune_options options = options_for(methods[i]);
            options.pattern = "2:4";
            options.bits = bits ? "4" : NULL;
            options.group = 16 * (1 + bits);
            must_prune(&options);
            check_pattern(options.output, bits);
        }
    }
}

/* Half of every row or matrix, to the weight; and the others as they were where nothing is solved. */
static void check_counts(const char *method, bool by_row)
{
    struct prune_options options = options_for(method);
    struct tensor tensor, before;
    options.sparsity = "30%";
    must_prune(&options);
    float *values = read_matrix(options.output, DOWN, &tensor);
    float *original = read_matrix(testing_path("model"), DOWN, &before);
    uint64_t rows = tensor.shape[0], cols = tensor.shape[1];
    CU_ASSERT_EQUAL(tensor.storage, STORAGE_SPARSE);
    if (!by_row) CU_ASSERT_EQUAL(zeros_in(values, rows * cols), (uint64_t)(0.3 * 64 * 96 + 0.5));
    for (uint64_t r = 0; by_row && r < rows; r++)
        CU_ASSERT_EQUAL(zeros_in(values + r * cols, cols), (uint64_t)(0.3 * 96 + 0.5));
    for (uint64_t i = 0; i < rows * cols; i++)
        CU_ASSERT_TRUE(values[i] == 0 || values[i] == original[i]);
    memory_free(values);
    memory_free(original);
}

static void test_counts(void)
{
    fresh(small, "wanda");
    check_counts("magnitude", false);
    check_counts("wanda", true);
    check_counts("ria", true);
}

/* Sparse or with zeros: the same values. */
static void test_storage(void)
{
    for (unsigned bits = 0; bits < 2; bits++) {
        struct prune_options options = fresh(small, "sparsegpt");
        struct tensor sparse, dense;
        options.bits = bits ? "8" : NULL;
        options.group = 32;
        must_prune(&options);
        options.storage = "dense";
        options.output = testing_path("dense.nbl");
        must_prune(&options);
        float *a = read_matrix(testing_path("out.nbl"), DOWN, &sparse);
        float *b = read_matrix(testing_path("dense.nbl"), DOWN, &dense);
        CU_ASSERT_EQUAL(sparse.storage, STORAGE_SPARSE);
        CU_ASSERT_EQUAL(dense.storage, bits ? STORAGE_TILES : STORAGE_DENSE);
        CU_ASSERT_TRUE(sparse.bytes < dense.bytes);
        for (uint64_t i = 0; i < 64 * 96; i++)
            CU_ASSERT_EQUAL(a[i], b[i]);
        memory_free(a);
        memory_free(b);
    }
}

/* What would be larger sparse is stored with its zeros, and so are 32-bit weights. */
static void test_storage_is_the_smaller(void)
{
    struct tiny_model wide = small;
    struct tensor tensor;
    struct prune_options options = fresh(small, "magnitude");
    options.sparsity = "1%";
    must_prune(&options);
    memory_free(read_matrix(options.output, DOWN, &tensor));
    CU_ASSERT_EQUAL(tensor.storage, STORAGE_DENSE);
    wide.dtype = "F32";
    options = fresh(wide, "magnitude");
    must_prune(&options);
    memory_free(read_matrix(options.output, DOWN, &tensor));
    CU_ASSERT_TRUE(tensor.storage == STORAGE_DENSE && tensor.dtype == DTYPE_F32);
}

static void test_solving_is_better(void)
{
    double wanda, plain;
    struct prune_options options = fresh(small, "wanda");
    must_prune(&options);
    wanda = said_error;
    options.method = "sparsegpt";
    options.correction = "none";
    options.polish = 0;
    must_prune(&options);
    plain = said_error;
    CU_ASSERT_TRUE(plain < wanda);
    options.polish = 2;
    must_prune(&options);
    CU_ASSERT_TRUE(said_error < plain);
}

/* ---- the same bytes ---- */

static void test_threads(void)
{
    static const char *const methods[] = {"magnitude", "ria", "sparsegpt", "wanda+sparsegpt"};
    fresh(small, "wanda");
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct prune_options options = options_for(methods[i]);
            options.bits = i == 3 ? "4" : NULL;
            options.group = 32;
            options.output = testing_path("threads-%u.nbl", threads);
            options.common.threads = threads;
            must_prune(&options);
            CU_ASSERT_TRUE(testing_same_files(testing_path("threads-1.nbl"), options.output));
        }
    }
}

static struct file_calls real_calls;
static uint64_t renames_left;

static int failing_rename(const char *from, const char *to)
{
    if (--renames_left == 0) kill(getpid(), SIGKILL);
    return real_calls.rename(from, to);
}

/* A child that is killed at its nth renaming. */
static void kill_at(const struct prune_options *options, uint64_t nth)
{
    int how = 0;
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0, NULL);
    if (child == 0) {
        alarm(120);
        real_calls = file_calls;
        file_calls.rename = failing_rename;
        renames_left = nth;
        _exit((int)prune(options, NULL, NULL));
    }
    REQUIRE(waitpid(child, &how, 0) == child && WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL, NULL);
}

/* Killed before each file appears: what is finished is used again, and the bytes and errors are those of a run that nothing
 * disturbed. With OWL the choice of shares is a file too, before the layers. */
static void check_resume(const struct prune_options *options, unsigned before)
{
    struct prune_options whole = *options;
    struct error err = {0};
    whole.output = testing_path("expected.nbl");
    must_prune(&whole);
    double error = said_error;
    uint64_t zeros = said_zeros;
    for (uint32_t layers = 0; layers <= LAYERS; layers++) {
        struct prune_options again = *options;
        uint32_t resumed = 99;
        kill_at(options, before + layers + 1);
        again.common.threads = 1 + layers % 3;
        CHECK(prune(&again, &resumed, &err) == OK, &err);
        CU_ASSERT_EQUAL(resumed, layers);
        CU_ASSERT_TRUE(said_error == error && said_zeros == zeros);
        CU_ASSERT_TRUE(testing_same_files(whole.output, options->output));
        CU_ASSERT_EQUAL(file_kind(testing_path("out.nbl.journal")), FILE_ABSENT);
    }
}

static void test_resume(void)
{
    struct prune_options options = fresh(small, "magnitude");
    check_resume(&options, 1);
    options = fresh(small, "sparsegpt");
    check_resume(&options, 1);
    options.ratios = "owl";
    check_resume(&options, 2);
    options = fresh(small, "sparsegpt");
    options.pattern = "2:4";
    options.bits = "4";
    options.group = 32;
    check_resume(&options, 1);
    layerwise_states_interval = 0;
    options = fresh(small, "wanda");
    kill_at(&options, 5); /* the stamp, a layer, states, a layer */
    uint32_t resumed = 0;
    CU_ASSERT_EQUAL(prune(&options, &resumed, NULL), OK);
    CU_ASSERT_EQUAL(resumed, 2);
    layerwise_states_interval = 60;
}

/* A journal of other options is not continued. */
static void test_other_options(void)
{
    struct error err = {0};
    struct prune_options options = fresh(small, "wanda");
    kill_at(&options, 3);
    options.sparsity = "60%";
    CU_ASSERT_EQUAL(prune(&options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "sparsity"));
    options.restart = true;
    CU_ASSERT_EQUAL(prune(&options, NULL, &err), OK);
}

/* ---- layers ---- */

/* OWL: layers differ, the whole is what was asked for. */
static void test_owl(void)
{
    struct tensor tensor;
    double least = 1, most = 0;
    struct prune_options options = fresh(small, "wanda");
    options.ratios = "owl";
    options.owl_threshold = 2;
    must_prune(&options);
    for (int layer = 0; layer < LAYERS; layer++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", layer);
        float *values = read_matrix(options.output, name, &tensor);
        double share = (double)zeros_in(values, 64 * 96) / (64 * 96);
        least = share < least ? share : least;
        most = share > most ? share : most;
        memory_free(values);
    }
    CU_ASSERT_DOUBLE_EQUAL(most - least, 0.16, 0.02);
    double weights = LAYERS * (2.0 * 64 * 64 + 2.0 * 64 * 64 + 3 * 64 * 96);
    CU_ASSERT_DOUBLE_EQUAL((double)said_zeros / weights, 0.5, 0.01);
}

static void test_keep(void)
{
    struct tensor tensor, before;
    struct prune_options options = fresh(small, "sparsegpt");
    const char *kept = "layers\\.1.*down";
    options.keep.values = &kept;
    options.keep.count = 1;
    must_prune(&options);
    float *values = read_matrix(options.output, DOWN, &tensor);
    float *original = read_matrix(testing_path("model"), DOWN, &before);
    CU_ASSERT_EQUAL(memcmp(values, original, 64 * 96 * sizeof *values), 0);
    memory_free(values);
    memory_free(original);
}

/* ---- what is refused ---- */

/* ---- sizes ---- */

static uint64_t bytes_foretold(struct prune_options options)
{
    struct prune_result result;
    struct error err = {0};
    options.dry_run = true;
    REQUIRE(prune_run(&result, &options, &err) == OK, &err);
    uint64_t bytes = result.bytes_out;
    prune_release(&result);
    return bytes;
}

/* Never less than the file, and not much more. */
static void test_sizes(void)
{
    static const char *const sparsities[] = {"5%", "33%", "50%", "90%"};
    static const char *const bits[] = {NULL, "2", "4", "8"};
    fresh(small, "wanda");
    for (int i = 0; i < 16; i++) {
        struct prune_options options = options_for(i % 3 ? "magnitude" : "sparsegpt");
        options.sparsity = sparsities[i / 4];
        options.bits = bits[i % 4];
        options.group = 32;
        uint64_t most = bytes_foretold(options);
        must_prune(&options);
        uint64_t bytes = file_size(options.output);
        CU_ASSERT_TRUE(bytes <= most && most - bytes < 7000); /* padding, and rounding of counts and blocks */
    }
    for (uint64_t target = 300000; target <= 340000; target += 10000) {
        struct prune_options options = options_for("sparsegpt");
        options.target_size = target;
        must_prune(&options);
        CU_ASSERT_TRUE(file_size(options.output) <= target && file_size(options.output) > target - 12000);
    }
}

static void test_not_finite(void)
{
    struct error err = {0};
    struct tiny_model model = small;
    model.poison = "model.layers.2.mlp.up_proj.weight";
    model.poison_at = 7;
    model.poison_value = NAN;
    static const char *const methods[] = {"magnitude", "sparsegpt"};
    for (int i = 0; i < 2; i++) {
        struct prune_options options = fresh(model, methods[i]);
        err = (struct error){0};
        CU_ASSERT_EQUAL(prune(&options, NULL, &err), ERR_NUMERIC);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "model.layers.2.mlp.up_proj.weight: element 7 is NaN"));
        CU_ASSERT_EQUAL(file_kind(options.output), FILE_ABSENT);
    }
}

/* With hidden states in a file: less memory, the same bytes. */
static void check_states_in_file(struct prune_options options)
{
    struct prune_result whole, limited;
    struct error err = {0};
    REQUIRE(prune_run(&whole, &options, &err) == OK, &err);
    options.output = testing_path("limited.nbl");
    options.memory_limit = whole.memory_estimate - 1;
    REQUIRE(prune_run(&limited, &options, &err) == OK, &err);
    CU_ASSERT_TRUE(limited.memory_estimate < whole.memory_estimate);
    CU_ASSERT_TRUE(testing_same_files(testing_path("out.nbl"), testing_path("limited.nbl")));
    prune_release(&whole);
    prune_release(&limited);
}

static void test_memory_limit(void)
{
    struct error err = {0};
    struct prune_options options = fresh(small, "sparsegpt");
    check_states_in_file(options);
    unlink(options.output);
    options.memory_limit = 1000;
    CU_ASSERT_EQUAL(prune(&options, NULL, &err), ERR_MEMORY);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "--memory-limit"));
    CU_ASSERT_EQUAL(file_kind(testing_path("out.nbl.journal")), FILE_ABSENT);
}

/* Wherever memory runs out it is said, nothing appears, and nothing is lost; the same run goes on from what is there. */
static void test_no_memory(void)
{
    static const char *const methods[] = {"magnitude", "sparsegpt"};
    struct tiny_model model = small;
    model.layers = 1;
    for (int i = 0; i < 2; i++) {
        struct prune_options options = fresh(model, methods[i]);
        options.bits = i ? "4" : NULL;
        options.group = 32;
        options.ratios = i ? "owl" : NULL;
        options.owl_spread = 0;
        for (uint64_t nth = 1, failures = 1; failures; nth += 1 + nth / 16) {
            struct error err = {0};
            memory_fail_at(nth, 0);
            enum status status = prune(&options, NULL, &err);
            failures = memory_failures();
            memory_fail_at(0, 0);
            CU_ASSERT_TRUE(status == OK || status == ERR_MEMORY);
            CU_ASSERT_EQUAL(file_kind(options.output), status == OK ? FILE_REGULAR : FILE_ABSENT);
            if (status == OK) unlink(options.output);
        }
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"patterns", test_patterns},
        {"counts", test_counts},
        {"storage", test_storage},
        {"storage is the smaller", test_storage_is_the_smaller},
        {"solving is better", test_solving_is_better},
        {"threads", test_threads},
        {"resume", test_resume},
        {"other options", test_other_options},
        {"owl", test_owl},
        {"keep", test_keep},
        {"sizes", test_sizes},
        {"not finite", test_not_finite},
        {"memory limit", test_memory_limit},
        {"no memory", test_no_memory},
    };
    return TESTING_RUN("prune", cases);
}
