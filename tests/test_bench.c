/* nibble-check bench: what it computes from what it measures (spreads, ratios, joules, bytes per token), where the numbers come
 * from (counters and caches in made-up folders, pages of a real file), and that what cannot be measured is said, not made up.
 * How fast anything is, is not tested. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/report.h"
#include "quantize/quantize.h"
#include "runtime-check/bench/bandwidth.h"
#include "runtime-check/bench/bench.h"
#include "runtime-check/bench/bench_print.h"
#include "runtime-check/bench/residency.h"
#include "runtime-check/bench/sysfs.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

/* ---- statistics ---- */

static void check_spread(double *values, uint64_t count, double median, double least, double most)
{
    const struct spread spread = spread_of(values, count);
    CU_ASSERT_EQUAL(spread.median, median);
    CU_ASSERT_EQUAL(spread.least, least);
    CU_ASSERT_EQUAL(spread.most, most);
}

static void spreads(void)
{
    check_spread((double[]){3}, 1, 3, 3, 3);
    check_spread((double[]){9, 1, 4}, 3, 4, 1, 9);
    check_spread((double[]){8, 1, 2, 100}, 4, 5, 1, 100);
    check_spread((double[]){-1, -5}, 2, -3, -5, -1);
    const struct spread none = spread_of((double[]){1, NAN, 3}, 3);
    CU_ASSERT(isnan(none.median) && isnan(none.least) && isnan(none.most));
}

/* Two rounds in which the machine was first fast, then slow: the second model is twice as fast in each, although the medians
 * over three rounds say something else. */
static void ratios_are_of_rounds(void)
{
    double first_values[] = {10, 100, 40}, second_values[] = {20, 200, 30}, scratch[3];
    struct bench_model first = {.scratch = scratch}, second = {.scratch = scratch};
    first.values[BENCH_TOKEN_RATE] = first_values;
    second.values[BENCH_TOKEN_RATE] = second_values;
    CU_ASSERT_EQUAL(bench_spread(&first, BENCH_TOKEN_RATE, 3).median, 40);
    CU_ASSERT_EQUAL(bench_spread(&second, BENCH_TOKEN_RATE, 3).median, 30);
    CU_ASSERT_EQUAL(bench_ratio(&second, &first, BENCH_TOKEN_RATE, 3).median, 2);
    CU_ASSERT_EQUAL(bench_ratio(&second, &first, BENCH_TOKEN_RATE, 3).least, 0.75);
    CU_ASSERT_EQUAL(first_values[0], 10); /* still in the order of rounds */
}

static void shares_of_bandwidth(void)
{
    double rates[] = {10, 20, 30}, bandwidths[] = {1e9, 4e9, 2e9}, scratch[3];
    struct bench_model model = {.scratch = scratch, .traffic = {.weights = 90000000, .cache = 1e7}};
    struct bench_report report = {.models = &model,
        .count = 1,
        .options.rounds = 3,
        .bandwidths = bandwidths,
        .last_cache_bytes = 99999999};
    model.values[BENCH_TOKEN_RATE] = rates;
    CU_ASSERT_EQUAL(bench_bandwidth(&report), 4e9);
    CU_ASSERT_DOUBLE_EQUAL(bench_bandwidth_share(&report, &model), 0.5, 1e-12);
    CU_ASSERT(!bench_fits_cache(&report, &model));
    report.last_cache_bytes = 100000000;
    CU_ASSERT(bench_fits_cache(&report, &model));
    report.bandwidths = NULL;
    CU_ASSERT(isnan(bench_bandwidth(&report)) && isnan(bench_bandwidth_share(&report, &model)));
}

/* ---- energy ---- */

static void make_folder(const char *path)
{
    REQUIRE(mkdir(path, 0700) == 0 || errno == EEXIST, NULL);
}

/* A file root/folder/name; the folder is made. */
static void put(const char *root, const char *folder, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", root, folder);
    make_folder(path);
    snprintf(path, sizeof path, "%s/%s/%s", root, folder, name);
    testing_write(path, text, strlen(text));
}

static void put_zone(
    const char *root, const char *folder, const char *name, const char *range, const char *counter)
{
    put(root, folder, "name", name);
    put(root, folder, "max_energy_range_uj", range);
    put(root, folder, "energy_uj", counter);
}

/* Two packages among everything else a real machine shows. */
static const char *two_packages(void)
{
    const char *root = testing_folder();
    put(root, "intel-rapl", "enabled", "1\n");
    put_zone(root, "intel-rapl:0", "package-0\n", "262143328850\n", "1000\n");
    put_zone(root, "intel-rapl:0:0", "core\n", "262143328850\n", "77\n");
    put_zone(root, "intel-rapl:0:1", "package-9\n", "262143328850\n", "78\n");
    put_zone(root, "intel-rapl:1", "package-1-die-0\n", "65532610987\n", "65532610900\n");
    put_zone(root, "intel-rapl:2", "psys\n", "262143328850\n", "5\n");
    put_zone(root, "intel-rapl-mmio:0", "package-0\n", "262143328850\n", "1000\n");
    put_zone(root, "dtpm", "package-0\n", "262143328850\n", "1000\n");
    return root;
}

static void energy_of_packages(void)
{
    struct energy energy;
    struct energy_reading before, after;
    const char *root = two_packages();
    energy_open(&energy, root);
    CU_ASSERT_EQUAL_FATAL(energy.count, 2);
    CU_ASSERT(energy_read(&before, &energy));
    put(root, "intel-rapl:0", "energy_uj", "3001000\n");
    CU_ASSERT(energy_read(&after, &energy));
    CU_ASSERT_DOUBLE_EQUAL(energy_joules(&energy, &before, &after), 3, 1e-12);
    /* the other one passes its range: 88 steps to 0 and 500000 more */
    put(root, "intel-rapl:1", "energy_uj", "500000\n");
    CU_ASSERT(energy_read(&after, &energy));
    CU_ASSERT_DOUBLE_EQUAL(energy_joules(&energy, &before, &after), 3.500088, 1e-12);
    /* nothing counted is nothing known */
    CU_ASSERT(isnan(energy_joules(&energy, &before, &before)));
    /* a counter beyond its range is no counter */
    put(root, "intel-rapl:1", "energy_uj", "65532610988\n");
    CU_ASSERT(energy_read(&after, &energy));
    CU_ASSERT(isnan(energy_joules(&energy, &before, &after)));
    CU_ASSERT(unlink(energy.packages[0].counter) == 0);
    CU_ASSERT(!energy_read(&after, &energy));
}

/* One package that cannot be read makes all of them unavailable, and the reason names the file. */
static void check_unusable(const char *root, const char *reason)
{
    struct energy energy;
    struct energy_reading reading;
    energy_open(&energy, root);
    CU_ASSERT_EQUAL(energy.count, 0);
    if (!strstr(energy.reason, reason)) printf("  \"%s\" does not say \"%s\"\n", energy.reason, reason);
    CU_ASSERT_PTR_NOT_NULL(strstr(energy.reason, reason));
    CU_ASSERT(!energy_read(&reading, &energy));
    CU_ASSERT(isnan(energy_joules(&energy, &reading, &reading)));
}

static void energy_not_available(void)
{
    char path[600], counter[32];
    check_unusable(testing_folder(), "no energy counter in ");
    check_unusable("/nonexistent/powercap", "no energy counter in /nonexistent/powercap");

    const char *root = two_packages();
    put(root, "intel-rapl:1", "energy_uj", "12 34\n");
    check_unusable(root, "/intel-rapl:1/energy_uj: Invalid argument");
    put(root, "intel-rapl:1", "energy_uj", "99999999999999999999\n");
    check_unusable(root, "/intel-rapl:1/energy_uj: Invalid argument");
    put(root, "intel-rapl:1", "energy_uj", "");
    check_unusable(root, "/intel-rapl:1/energy_uj: Invalid argument");
    put(root, "intel-rapl:1", "energy_uj", "000000000000000000000000000000000000001\n");
    check_unusable(root, "/intel-rapl:1/energy_uj: File too large");
    snprintf(path, sizeof path, "%s/intel-rapl:1/energy_uj", root);
    CU_ASSERT(chmod(path, 0) == 0);
    if (geteuid() != 0) check_unusable(root, "/intel-rapl:1/energy_uj: Permission denied");
    CU_ASSERT(unlink(path) == 0);
    check_unusable(root, "/intel-rapl:1/energy_uj: No such file or directory");
    make_folder(path);
    check_unusable(root, "/intel-rapl:1/energy_uj: Is a directory");

    root = testing_folder();
    for (unsigned i = 0; i <= ENERGY_PACKAGE_LIMIT; i++) {
        snprintf(counter, sizeof counter, "intel-rapl:%u", i);
        put_zone(root, counter, "package-0\n", "1\n", "1\n");
    }
    check_unusable(root, "more packages");
}

/* ---- caches and bandwidth ---- */

static void put_cache(const char *root, unsigned cpu, unsigned index, const char *level, const char *type,
    const char *size, const char *shared)
{
    char folder[64], path[600];
    snprintf(path, sizeof path, "%s/cpu%u", root, cpu);
    make_folder(path);
    snprintf(path, sizeof path, "%s/cpu%u/cache", root, cpu);
    make_folder(path);
    snprintf(folder, sizeof folder, "cpu%u/cache/index%u", cpu, index);
    put(root, folder, "level", level);
    put(root, folder, "type", type);
    put(root, folder, "size", size);
    put(root, folder, "shared_cpu_list", shared);
}

static void cache_sizes(void)
{
    const char *root = testing_folder();
    CU_ASSERT_EQUAL(bandwidth_cache_bytes(root), 0);
    for (unsigned cpu = 0; cpu < 4; cpu++) { /* two dies of two */
        put_cache(root, cpu, 0, "1\n", "Data\n", "32K\n", cpu < 2 ? "0-1\n" : "2-3\n");
        put_cache(root, cpu, 1, "1\n", "Instruction\n", "64K\n", cpu < 2 ? "0-1\n" : "2-3\n");
        put_cache(root, cpu, 2, "3\n", "Unified\n", "32768K\n", cpu < 2 ? "0-1\n" : "2-3\n");
        put_cache(root, cpu, 3, "2\n", "Unified\n", "1M\n", cpu < 2 ? "0-1\n" : "2-3\n");
    }
    CU_ASSERT_EQUAL(bandwidth_cache_bytes(root), UINT64_C(64) << 20);
    put_cache(root, 2, 2, "3\n", "Unified\n", "huge\n", "2-3\n"); /* says nothing: not counted */
    CU_ASSERT_EQUAL(bandwidth_cache_bytes(root), UINT64_C(32) << 20);
}

static void array_sizes(void)
{
    const uint64_t mib = UINT64_C(1) << 20;
    CU_ASSERT_EQUAL(bandwidth_array_bytes(0, 8192 * mib), 256 * mib);
    CU_ASSERT_EQUAL(bandwidth_array_bytes(32 * mib, 8192 * mib), 256 * mib);
    CU_ASSERT_EQUAL(bandwidth_array_bytes(384 * mib, 8192 * mib), 1536 * mib);
    CU_ASSERT_EQUAL(bandwidth_array_bytes(UINT64_MAX, UINT64_MAX), 4096 * mib);
    CU_ASSERT_EQUAL(bandwidth_array_bytes(0, 512 * mib), 256 * mib);
    CU_ASSERT_EQUAL(bandwidth_array_bytes(0, 511 * mib), 0);
}

static void bandwidth_runs(void)
{
    for (unsigned workers = 1; workers <= 3; workers += 2) {
        struct error err = {0};
        struct pool *pool = NULL;
        double rate = 0;
        REQUIRE(!pool_create(&pool, workers, &err), &err);
        CHECK(!bandwidth_measure(&rate, pool, 3 << 20, &err), &err);
        CU_ASSERT(isfinite(rate) && rate > 0);
        CHECK(!bandwidth_measure(&rate, pool, 1, &err), &err); /* at least one chunk */
        for (uint64_t nth = 1; nth <= 2; nth++) {
            memory_fail_at(nth, 0);
            CU_ASSERT_EQUAL(bandwidth_measure(&rate, pool, 3 << 20, &err), ERR_MEMORY);
        }
        memory_fail_at(0, 0);
        pool_free(pool);
    }
}

/* ---- pages ---- */

enum { FILE_BYTES = 300001 };

/* A written file of which one byte in every page is read through a map. */
static struct file *open_touched(const char *path)
{
    struct error err = {0};
    struct file *file = NULL;
    unsigned sum = 0;
    REQUIRE(!file_open(&file, path, &err) && !file_map(file, &err), &err);
    for (uint64_t i = 0; i < file->bytes; i += 512)
        sum += file->map[i];
    CU_ASSERT_EQUAL(sum, (FILE_BYTES + 511) / 512);
    return file;
}

static void pages_of_a_file(void)
{
    struct error err = {0};
    static char bytes[FILE_BYTES];
    uint64_t resident = 0, left = 0;
    testing_folder();
    const char *path = testing_path("pages");
    memset(bytes, 1, sizeof bytes);
    testing_write(path, bytes, sizeof bytes);
    struct file *file = open_touched(path);
    CHECK(!residency_of_map(&resident, file->map, file->bytes, &err), &err);
    CU_ASSERT_EQUAL(resident, FILE_BYTES);
    /* pages that a process has mapped and used stay: exactly what must be noticed */
    CHECK(!residency_drop(&left, path, &err), &err);
    CU_ASSERT(left > 0 && left <= FILE_BYTES);
    file_close(file);
    CHECK(!residency_drop(&left, path, &err), &err);
    CU_ASSERT(left <= FILE_BYTES); /* 0 on a disk, all in a file system in memory */
    printf("  dropped: %" PRIu64 " of %d bytes stay here\n", left, FILE_BYTES);
    CU_ASSERT_EQUAL(residency_drop(&left, testing_path("absent"), &err), ERR_IO);
    CHECK(!residency_of_map(&resident, bytes, 0, &err), &err);
    CU_ASSERT_EQUAL(resident, 0);
}

static void memory_of_the_process(void)
{
    uint64_t before = 0, during = 0, number;
    char text[4];
    if (!residency_anonymous(&before)) {
        printf("  no RssAnon here\n");
        return;
    }
    const uint64_t bytes = UINT64_C(32) << 20;
    char *array = memory_new(bytes, 1, NULL);
    REQUIRE(array, NULL);
    memset(array, 1, bytes);
    CU_ASSERT(residency_anonymous(&during));
    CU_ASSERT(during >= before + bytes / 2);
    CU_ASSERT(array[bytes - 1] == 1);
    memory_free(array);
    if (residency_reset_peak()) CU_ASSERT(residency_peak(&number) && number > 0);
    CU_ASSERT(!sysfs_kilobytes(&number, "/proc/self/status", "RssAno"));
    CU_ASSERT(!sysfs_text(text, sizeof text, "/proc/self/status") && errno == EFBIG);
}

/* ---- bytes per token ---- */

static const char *quantized(const char *model, const char *name, const char *once)
{
    struct error err = {0};
    struct quantize_result result;
    struct quantize_options options = settings_defaults();
    options.input = model;
    options.output = testing_path("%s", name);
    options.bits = "4";
    options.group = "32";
    options.embedding = options.head = once;
    options.common.quiet = true;
    REQUIRE(!quantize_run(&result, &options, &err), &err);
    quantize_release(&result);
    return options.output;
}

static struct model *open_model(const char *path, struct pool *pool)
{
    struct error err = {0};
    struct model *model = NULL;
    REQUIRE(!model_open(&model, path, pool, &err), &err);
    return model;
}

/* The tiny model in 4 bits, groups of 32, by hand: q and o [64, 64] are 2048 bytes of codes and 64 * 2 scales of 2 bytes; k and
 * v [32, 64] half of that; gate, up [96, 64] and down [64, 96] 3072 and 384. */
enum {
    LAYER_BYTES = 2 * 2304 + 2 * 1152 + 3 * 3456 + 2 * 64 * 4, /* and two norms in single precision */
    HEAD_BYTES = 269 * 64 * 4,
    NORM_BYTES = 64 * 4,
    ROW_BYTES = 64 * 4,
    CACHE_BYTES = 2 * 4 * 2 * 2 * 16 /* keys and values, floats, layers, heads, head size */
};

static void check_traffic(const char *path, uint64_t weights)
{
    struct pool *pool = NULL;
    REQUIRE(!pool_create(&pool, 1, NULL), NULL);
    struct model *model = open_model(path, pool);
    struct traffic traffic = traffic_per_token(model, CACHE_BYTES, 10, 5); /* positions 11 to 15 are seen */
    CU_ASSERT_EQUAL(traffic.weights, weights);
    CU_ASSERT_EQUAL(traffic.cache, 13 * CACHE_BYTES);
    /* half the layers see four positions only; then 12, 13, 14, 14, 14 of a window of 14 */
    model->config.window = 4;
    model->config.window_layers[0] = 1;
    CU_ASSERT_EQUAL(traffic_per_token(model, CACHE_BYTES, 10, 5).cache, (13 + 4) * CACHE_BYTES / 2);
    model->config.window = 14;
    model->config.window_layers[0] = 3;
    CU_ASSERT_DOUBLE_EQUAL(
        traffic_per_token(model, CACHE_BYTES, 11, 5).cache, (12 + 13 + 14 * 3) / 5.0 * CACHE_BYTES, 1e-9);
    model_close(model);
    pool_free(pool);
}

static void bytes_per_token(void)
{
    testing_folder();
    const char *model = tiny_model_folder("model", (struct tiny_model){0});
    check_traffic(
        quantized(model, "kept.nbl", "keep"), 2 * LAYER_BYTES + NORM_BYTES + HEAD_BYTES + ROW_BYTES);
    /* 34 tiles of 8 rows: a byte per code, two scales a row */
    check_traffic(
        quantized(model, "all8.nbl", "8"), 2 * LAYER_BYTES + NORM_BYTES + 272 * (64 + 4) + (64 + 4));
    model = tiny_model_folder("tied", (struct tiny_model){.tied = true});
    check_traffic(
        quantized(model, "tied.nbl", "keep"), 2 * LAYER_BYTES + NORM_BYTES + HEAD_BYTES + ROW_BYTES);
}

/* ---- rounds ---- */

static const struct bench_options small_options = {
    .prompt_tokens = 20, .tokens = 3, .rounds = 2, .cache_bits = 32};

static enum status describe(struct bench_model *out, const char *path, const struct bench_options *options,
    struct pool *pool, struct error *err)
{
    struct model *model = NULL;
    memset(out, 0, sizeof *out);
    enum status status = model_open(&model, path, pool, err);
    if (!status) model->cache_bits = options->cache_bits;
    if (!status) status = bench_describe(out, path, model, options, err);
    model_close(model);
    return status;
}

static void check_round(const struct bench_model *model, uint64_t round)
{
    static const enum bench_metric always[] = {
        BENCH_PROMPT_RATE, BENCH_FIRST_TOKEN, BENCH_TOKEN_RATE, BENCH_LOAD_WARM, BENCH_RESIDENT};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) {
        const double value = model->values[always[i]][round];
        CU_ASSERT(isfinite(value) && value > 0);
    }
    CU_ASSERT(model->values[BENCH_FIRST_TOKEN][round] >=
              (double)small_options.prompt_tokens / model->values[BENCH_PROMPT_RATE][round] * 0.999);
    uint64_t bytes;
    CU_ASSERT(isfinite(model->values[BENCH_ANONYMOUS][round]) == residency_anonymous(&bytes));
    CU_ASSERT(model->values[BENCH_RESIDENT][round] <= (double)model->mapped_bytes);
    CU_ASSERT(isnan(model->values[BENCH_LOAD_COLD][round]) == (*model->cold_reason != 0));
}

static void rounds_of_a_model(void)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct bench_model bench;
    struct energy energy;
    testing_folder();
    const char *path = quantized(tiny_model_folder("model", (struct tiny_model){0}), "small.nbl", "keep");
    energy_open(&energy, testing_folder());
    REQUIRE(!pool_create(&pool, 2, &err), &err);
    REQUIRE(!describe(&bench, path, &small_options, pool, &err), &err);
    CU_ASSERT_EQUAL(bench.mapped_bytes, file_size(path));
    CU_ASSERT_EQUAL(bench.cache_bytes, CACHE_BYTES);
    CU_ASSERT_EQUAL(bench.traffic.cache, 22 * CACHE_BYTES);
    CU_ASSERT_EQUAL(bench.file_count, 1);
    for (uint64_t round = 0; round < 2; round++) {
        CHECK(!bench_round(&bench, round, &small_options, pool, &energy, &err), &err);
        check_round(&bench, round);
        CU_ASSERT(isnan(bench.values[BENCH_PROMPT_JOULES][round]));
        CU_ASSERT(isnan(bench.values[BENCH_TOKEN_JOULES][round]));
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(bench.energy_reason, "no energy counter"));
    printf("  cold: %s\n", *bench.cold_reason ? bench.cold_reason : "measured");
    bench_release(&bench);
    pool_free(pool);
}

/* A model that someone else has open cannot be loaded cold; that is said, and everything else is measured. Shards: each of the
 * files is looked at. */
static void cold_only_if_it_was(void)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct bench_model bench;
    const struct energy energy = {.reason = "none"};
    testing_folder();
    const char *path = tiny_model_folder("model", (struct tiny_model){.shards = 2});
    REQUIRE(!pool_create(&pool, 1, &err), &err);
    REQUIRE(!describe(&bench, path, &small_options, pool, &err), &err);
    CU_ASSERT_EQUAL(bench.file_count, 2);
    char *second = testing_read(bench.files[1], &(uint64_t){0});
    memory_free(second);
    struct file *held = NULL;
    volatile uint8_t byte;
    REQUIRE(!file_open(&held, bench.files[1], &err) && !file_map(held, &err), &err);
    byte = held->map[0];
    (void)byte;
    CHECK(!bench_round(&bench, 0, &small_options, pool, &energy, &err), &err);
    CU_ASSERT(isnan(bench.values[BENCH_LOAD_COLD][0]));
    CU_ASSERT_PTR_NOT_NULL(strstr(bench.cold_reason, "stay in memory"));
    CU_ASSERT_PTR_NOT_NULL(strstr(bench.cold_reason, ".safetensors"));
    check_round(&bench, 0);
    /* one round without makes the median unavailable */
    bench.values[BENCH_LOAD_COLD][1] = 1;
    CU_ASSERT(isnan(bench_spread(&bench, BENCH_LOAD_COLD, 2).median));
    file_close(held);
    bench_release(&bench);
    pool_free(pool);
}

/* A counter that advances while the model runs. */
struct meter {
    const char *root, *path;
    atomic_bool stop;
};

static void *turn_meter(void *argument)
{
    struct meter *meter = argument;
    char text[32], next[600];
    snprintf(next, sizeof next, "%s/next", meter->root);
    for (uint64_t value = 1; !atomic_load(&meter->stop); value++) {
        const int count = snprintf(text, sizeof text, "%" PRIu64 "\n", value);
        testing_write(next, text, (uint64_t)count);
        if (rename(next, meter->path) != 0) break;
    }
    return NULL;
}

/* The meter must have turned in both phases; a busy machine may need several attempts. */
static void energy_of_rounds(void)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct bench_model bench;
    struct energy energy;
    pthread_t thread;
    const struct bench_options options = {.prompt_tokens = 200, .tokens = 100, .rounds = 1, .cache_bits = 32};
    const char *root = testing_folder();
    put_zone(root, "intel-rapl:0", "package-0\n", "262143328850\n", "0\n");
    energy_open(&energy, root);
    CU_ASSERT_EQUAL_FATAL(energy.count, 1);
    testing_folder();
    const char *path = tiny_model_folder("model", (struct tiny_model){0});
    REQUIRE(!pool_create(&pool, 1, &err), &err);
    REQUIRE(!describe(&bench, path, &options, pool, &err), &err);
    CHECK(!bench_round(&bench, 0, &options, pool, &energy, &err), &err);
    CU_ASSERT(isnan(bench.values[BENCH_TOKEN_JOULES][0]));
    CU_ASSERT_STRING_EQUAL(bench.energy_reason, "the counters did not advance");
    struct meter meter = {.root = root, .path = energy.packages[0].counter};
    REQUIRE(pthread_create(&thread, NULL, turn_meter, &meter) == 0, NULL);
    bool counted = false;
    for (unsigned attempt = 0; attempt < 50 && !counted; attempt++) {
        CHECK(!bench_round(&bench, 0, &options, pool, &energy, &err), &err);
        counted = bench.values[BENCH_PROMPT_JOULES][0] > 0 && bench.values[BENCH_TOKEN_JOULES][0] > 0;
    }
    CU_ASSERT(counted);
    atomic_store(&meter.stop, true);
    pthread_join(thread, NULL);
    bench_release(&bench);
    pool_free(pool);
}

static void check_refused(
    const char *path, const struct bench_options *options, enum status expected, const char *text)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct bench_model bench;
    const struct energy energy = {.reason = "none"};
    REQUIRE(!pool_create(&pool, 1, &err), &err);
    enum status status = describe(&bench, path, options, pool, &err);
    if (!status) status = bench_round(&bench, 0, options, pool, &energy, &err);
    CU_ASSERT_EQUAL(status, expected);
    CHECK(strstr(err.text, text) != NULL, &err);
    bench_release(&bench);
    pool_free(pool);
}

static void what_is_refused(void)
{
    struct bench_options options = small_options;
    testing_folder();
    const char *poisoned = tiny_model_folder(
        "poisoned", (struct tiny_model){.poison = "model.layers.1.mlp.up_proj.weight", .poison_value = NAN});
    check_refused(poisoned, &options, ERR_NUMERIC, "poisoned: layer 1");
    check_refused(testing_path("absent"), &options, ERR_IO, "absent");
    options.cache_bits = 7;
    check_refused(tiny_model_folder("model", (struct tiny_model){0}), &options, ERR_UNSUPPORTED, "7 bits");
}

/* A file that becomes another one between two rounds. */
static void model_changes(void)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct bench_model bench;
    const struct energy energy = {.reason = "none"};
    testing_folder();
    const char *model = tiny_model_folder("model", (struct tiny_model){0});
    const char *small = quantized(model, "small.nbl", "8"), *large = quantized(model, "large.nbl", "keep");
    REQUIRE(!pool_create(&pool, 1, &err), &err);
    REQUIRE(!describe(&bench, small, &small_options, pool, &err), &err);
    CHECK(!bench_round(&bench, 0, &small_options, pool, &energy, &err), &err);
    REQUIRE(rename(large, small) == 0, NULL);
    CU_ASSERT_EQUAL(bench_round(&bench, 1, &small_options, pool, &energy, &err), ERR_FORMAT);
    CHECK(strstr(err.text, "must not change") != NULL, &err);
    bench_release(&bench);
    pool_free(pool);
}

static void without_memory(void)
{
    const struct energy energy = {.reason = "none"};
    struct pool *pool = NULL;
    enum status status = ERR_MEMORY;
    REQUIRE(!pool_create(&pool, 1, NULL), NULL);
    testing_folder();
    const char *path = tiny_model_folder("model", (struct tiny_model){.layers = 1});
    uint64_t nth;
    for (nth = 1; status && nth < 100000; nth++) {
        struct error err = {0};
        struct bench_model bench;
        memory_fail_at(nth, 1);
        status = describe(&bench, path, &small_options, pool, &err);
        if (!status) status = bench_round(&bench, 0, &small_options, pool, &energy, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
        bench_release(&bench);
    }
    CHECK(status == OK && nth > 50, NULL);
    pool_free(pool);
}

static const struct test_case cases[] = {
    {"median, least and greatest", spreads},
    {"ratios are taken round by round", ratios_are_of_rounds},
    {"the share of the bandwidth", shares_of_bandwidth},
    {"energy of all packages, and of a counter that wraps", energy_of_packages},
    {"energy that cannot be read is not available", energy_not_available},
    {"the last-level cache of a machine", cache_sizes},
    {"the array beyond it", array_sizes},
    {"reading memory", bandwidth_runs},
    {"pages of a file, dropped and not", pages_of_a_file},
    {"memory of the process", memory_of_the_process},
    {"bytes read per token, by hand", bytes_per_token},
    {"rounds", rounds_of_a_model},
    {"a cold load only if it was one", cold_only_if_it_was},
    {"joules per token", energy_of_rounds},
    {"what is refused", what_is_refused},
    {"a model that changes", model_changes},
    {"without memory", without_memory},
};

int main(void)
{
    return TESTING_RUN("bench", cases);
}
