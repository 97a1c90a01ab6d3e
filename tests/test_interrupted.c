/* A calibrated run that is killed, stopped, or let down by memory and disk at any point: what is finished is kept and used again,
 * the bytes at the end are those of a run that nothing disturbed, and an output that was there stands until then. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/layerwise/layerwise.h"
#include "quantize/calibrated.h"
#include "quantize/outcome.h"
#include "tensor/kernels/kernels.h"
#include "tests/support/kernel_set.h"
#include "tests/support/sample_text.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define OLD_TEXT "what stood here before"

enum { CALLS_LIMIT = 20000, LAYERS = 3 };

static const struct tiny_model small = {.layers = LAYERS, .hidden = 32, .ffn = 32, .heads = 2, .seed = 4};

/* ---- runs ---- */

static struct quantize_options options_for(const char *input, const char *method)
{
    struct quantize_options options = settings_defaults();
    options.input = input;
    options.output = testing_path("out.nbl");
    options.method = method;
    options.calibration.path = testing_path("text");
    options.calibration.samples = 4;
    options.calibration.length = 16;
    options.force = true;
    options.common.quiet = true;
    options.common.threads = 1;
    return options;
}

/* A fresh folder with a model and a text. */
static struct quantize_options fresh(const struct tiny_model *model, const char *method)
{
    testing_folder();
    sample_text("text", 2000, 1);
    return options_for(tiny_model_folder("model", *model), method);
}

/* What the last run that got through says of its matrices; a run that was continued must say the same. */
static struct outcome said, expected;

static enum status quantize(const struct quantize_options *options, uint32_t *resumed, struct error *err)
{
    struct quantize_result result;
    enum status status = quantize_run(&result, options, err);
    said = (struct outcome){0};
    for (uint64_t i = 0; status == OK && i < result.plan.count; i++)
        outcome_add(&said, &result.plan.tensors[i].outcome);
    if (resumed) *resumed = result.calibrated.layers_resumed;
    quantize_release(&result);
    return status;
}

/* The same run where nothing disturbs it; its output is expected.nbl. */
static double undisturbed(struct quantize_options options)
{
    struct error err = {0};
    double start = report_seconds();
    options.output = testing_path("expected.nbl");
    REQUIRE(quantize(&options, NULL, &err) == OK, &err);
    expected = said;
    return report_seconds() - start;
}

/* ---- what must hold ---- */

static bool in_journal(const char *name)
{
    return file_kind(testing_path("out.nbl.journal/%s", name)) == FILE_REGULAR;
}

static bool has_journal(void)
{
    return file_kind(testing_path("out.nbl.journal")) != FILE_ABSENT;
}

static unsigned temporaries_in(const char *folder)
{
    DIR *listing = opendir(folder);
    struct dirent *entry;
    unsigned count = 0;
    while (listing && (entry = readdir(listing)) != NULL)
        count += strstr(entry->d_name, ".tmp.") != NULL;
    if (listing) closedir(listing);
    return count;
}

static void check_no_temporary(void)
{
    CU_ASSERT_EQUAL(temporaries_in(testing_path(".")), 0);
    CU_ASSERT_EQUAL(temporaries_in(testing_path("out.nbl.journal")), 0);
}

static void put_old_output(void)
{
    testing_write(testing_path("out.nbl"), OLD_TEXT, sizeof OLD_TEXT);
}

static bool is_old_output(void)
{
    uint64_t count;
    char *bytes = testing_read(testing_path("out.nbl"), &count);
    bool same = count == sizeof OLD_TEXT && memcmp(bytes, OLD_TEXT, count) == 0;
    memory_free(bytes);
    return same;
}

/* The output is there as if nothing had happened, and nothing but it. */
static void check_finished(void)
{
    CU_ASSERT_TRUE(testing_same_files(testing_path("expected.nbl"), testing_path("out.nbl")));
    CU_ASSERT_FALSE(has_journal());
    check_no_temporary();
}

/* To the last bit: codes may come out the same although the numbers behind them are not. */
static void check_report(void)
{
    CU_ASSERT_EQUAL(said.error, expected.error);
    CU_ASSERT_EQUAL(said.output_error, expected.output_error);
    CU_ASSERT_EQUAL(said.output_power, expected.output_power);
    CU_ASSERT_EQUAL(said.nearest_error, expected.nearest_error);
    CU_ASSERT_EQUAL(said.unpolished_error, expected.unpolished_error);
    CU_ASSERT_EQUAL(said.rows_nearest, expected.rows_nearest);
    CU_ASSERT_TRUE(said.calibrated && said.output_error > 0);
}

/* Go on to the end after whatever happened; the number of layers that were found finished. */
static uint32_t finish(const struct quantize_options *options)
{
    struct error err = {0};
    uint32_t resumed = 0;
    CHECK(quantize(options, &resumed, &err) == OK, &err);
    check_report();
    check_finished();
    return resumed;
}

/* ---- system calls that go wrong ---- */

static struct file_calls real_calls;
static _Atomic uint64_t calls_left; /* until the one that matters; 0: none does */
static int fault_signal, fault_errno;

static bool is_the_call(void)
{
    uint64_t left = atomic_load(&calls_left);
    while (left > 1 && !atomic_compare_exchange_weak(&calls_left, &left, left - 1))
        continue;
    return left == 1;
}

/* This call, and on a broken disk every later one; or the process ends here. */
static bool fails_now(void)
{
    if (!is_the_call()) return false;
    if (fault_signal) {
        kill(getpid(), fault_signal);
        for (;;)
            pause();
    }
    errno = fault_errno;
    return true;
}

static int64_t failing_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    return fails_now() ? -1 : real_calls.pread(descriptor, buffer, count, offset);
}

/* A process that is killed may have written a part. */
static int64_t failing_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (fault_signal && atomic_load(&calls_left) == 1 && count > 1)
        real_calls.pwrite(descriptor, buffer, count / 2, offset);
    return fails_now() ? -1 : real_calls.pwrite(descriptor, buffer, count, offset);
}

static int failing_fsync(int descriptor)
{
    return fails_now() ? -1 : real_calls.fsync(descriptor);
}

static int failing_rename(const char *from, const char *to)
{
    return fails_now() ? -1 : real_calls.rename(from, to);
}

/* A process that ends takes nothing from the system's memory: waiting for the disk would show nothing here. */
static int no_sync(int descriptor)
{
    (void)descriptor;
    return 0;
}

static struct file_calls writes_fail(void)
{
    struct file_calls calls = real_calls;
    calls.pwrite = failing_pwrite;
    return calls;
}

static struct file_calls renames_fail(void)
{
    struct file_calls calls = real_calls;
    calls.rename = failing_rename;
    return calls;
}

static struct file_calls syncs_fail(void)
{
    struct file_calls calls = real_calls;
    calls.fsync = failing_fsync;
    return calls;
}

static struct file_calls reads_fail(void)
{
    struct file_calls calls = real_calls;
    calls.pread = failing_pread;
    return calls;
}

/* ---- processes ---- */

/* A child that does the run and ends with its status. */
static pid_t start(const struct quantize_options *options)
{
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0, NULL);
    if (child == 0) {
        alarm(120);
        _exit((int)quantize(options, NULL, NULL));
    }
    return child;
}

static int end_of(pid_t child)
{
    int how = 0;
    REQUIRE(waitpid(child, &how, 0) == child, NULL);
    return how;
}

/* A child that gets the signal at its nth call. True if it did, false if it ended by itself, with OK. */
static bool interrupted_at(
    const struct quantize_options *options, struct file_calls calls, uint64_t nth, int signal_number)
{
    fault_signal = signal_number;
    atomic_store(&calls_left, nth);
    file_calls = calls;
    int how = end_of(start(options));
    file_calls = real_calls;
    atomic_store(&calls_left, 0);
    fault_signal = 0;
    if (WIFSIGNALED(how)) CU_ASSERT_EQUAL(WTERMSIG(how), signal_number);
    CU_ASSERT_TRUE(WIFSIGNALED(how) || (WIFEXITED(how) && WEXITSTATUS(how) == OK));
    return WIFSIGNALED(how);
}

/* The journal that a killed run leaves: renames are the stamp, then layer by layer. */
static void leave_journal(const struct quantize_options *options, uint32_t layers)
{
    put_old_output();
    REQUIRE(interrupted_at(options, renames_fail(), layers + 2, SIGKILL), NULL);
    REQUIRE(is_old_output(), NULL);
    for (uint32_t i = 0; i < LAYERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer-%05" PRIu32 ".nbl", i);
        REQUIRE(in_journal(name) == (i < layers), NULL);
    }
}

/* ---- killed ---- */

/* Killed again and again at moments that nobody chose, each time going on from there. */
static void kill_at_random(struct quantize_options options, unsigned kills, uint64_t seed)
{
    double seconds = undisturbed(options);
    unsigned killed = 0;
    put_old_output();
    for (unsigned i = 0; i < 3 * kills && killed < kills; i++) {
        pid_t child = start(&options);
        usleep((useconds_t)(seconds * 1e6 * (double)(testing_random(&seed) % 1000) / 1000));
        kill(child, SIGKILL);
        bool hit = WIFSIGNALED(end_of(child));
        killed += hit;
        if (!hit) {
            check_finished();
            seconds /= 2; /* the machine was busier when the run was timed */
        }
        CU_ASSERT_TRUE(
            !hit || is_old_output() || testing_same_files(testing_path("expected.nbl"), options.output));
        if (!hit) put_old_output();
    }
    CU_ASSERT_EQUAL(killed, kills);
    finish(&options);
}

static void test_killed_at_random(void)
{
    static const char *const methods[] = {"gptq", "awq+gptq", "gptq-plain", "rtn", "gptq"};
    const struct tiny_model model = {.layers = LAYERS, .seed = 4};
    for (unsigned i = 0; i < 5; i++) {
        struct quantize_options options = fresh(&model, methods[i]);
        options.calibration.samples = 16;
        options.calibration.length = 64;
        options.common.threads = 1 + i % 2;
        if (i == 1) layerwise_states_interval = 0;
        if (i == 2) options.correction = "inputs";
        if (i == 3) options.range = "hessian";
        if (i == 4) options.type = "q4_1";
        options.pure = i == 4;
        kill_at_random(options, 6, i);
        layerwise_states_interval = 60;
    }
}

/* The same with experts, one of which no token is sent to, and a shared norm whose scales go into the routers too. */
static void test_mixtures_killed_at_random(void)
{
    static const char *const methods[] = {"gptq", "awq+gptq"};
    const struct tiny_model model = {
        .layers = LAYERS, .experts = 6, .unused_expert = true, .ffn = 32, .seed = 4};
    for (unsigned i = 0; i < 2; i++) {
        struct quantize_options options = fresh(&model, methods[i]);
        options.calibration.samples = 16;
        options.calibration.length = 64;
        options.common.threads = 1 + i;
        if (i == 1) layerwise_states_interval = 0;
        kill_at_random(options, 4, i);
        layerwise_states_interval = 60;
    }
}

/* Killed at every call of a kind in turn. */
static void kill_at_every(const struct quantize_options *options, struct file_calls calls, uint64_t least)
{
    uint64_t n = 1;
    for (;; n++) {
        put_old_output();
        if (!interrupted_at(options, calls, n, SIGKILL)) break;
        finish(options);
        REQUIRE(n < CALLS_LIMIT, NULL);
    }
    check_finished();
    CU_ASSERT_TRUE(n > least);
}

static void test_killed_at_every_call(void)
{
    struct tiny_model model = small;
    model.layers = 2;
    struct quantize_options options = fresh(&model, "awq+gptq");
    options.range = "minmax";
    undisturbed(options);
    kill_at_every(&options, renames_fail(), 4); /* stamp, layers, output */
    kill_at_every(&options, syncs_fail(), 8);
    kill_at_every(&options, writes_fail(), 20);
    layerwise_states_interval = 0;
    kill_at_every(&options, renames_fail(), 5); /* and the states in between */
    layerwise_states_interval = 60;
}

/* ---- going on ---- */

static void test_layers_are_used_again(void)
{
    for (unsigned blocks = 0; blocks < 2; blocks++) {
        struct quantize_options options = fresh(&small, "gptq");
        if (blocks) options.type = "q5_1";
        options.pure = blocks;
        undisturbed(options);
        for (uint32_t layers = 0; layers <= LAYERS; layers++) {
            leave_journal(&options, layers);
            options.common.threads = 1 + layers % 3; /* what does not show may change */
            options.memory_limit = layers == 2 ? UINT64_C(1) << 40 : 0;
            CU_ASSERT_EQUAL(finish(&options), layers);
        }
    }
}

static void flip_byte(const char *name, uint64_t at)
{
    uint64_t count;
    const char *path = testing_path("out.nbl.journal/%s", name);
    char *bytes = testing_read(path, &count);
    bytes[at < count ? at : count / 2] ^= 1;
    testing_write(path, bytes, count);
    memory_free(bytes);
}

/* Finish aloud; the note that it must print. */
static uint32_t finish_noting(struct quantize_options options, const char *part)
{
    uint64_t count;
    options.common.quiet = false;
    testing_capture(2);
    uint32_t resumed = finish(&options);
    char *noted = testing_captured(&count);
    CU_ASSERT_PTR_NOT_NULL(strstr(noted, part));
    memory_free(noted);
    return resumed;
}

static void test_damaged_layer(void)
{
    struct quantize_options options = fresh(&small, "awq+gptq");
    undisturbed(options);
    leave_journal(&options, 2);
    flip_byte("layer-00001.nbl", 65536 + 5);
    CU_ASSERT_EQUAL(finish_noting(options, "the work goes on at layer 1"), 1);
    leave_journal(&options, 2);
    REQUIRE(truncate(testing_path("out.nbl.journal/layer-00000.nbl"), 70000) == 0, NULL);
    CU_ASSERT_EQUAL(finish_noting(options, "the work goes on at layer 0"), 0);
}

/* A journal whose hidden states were saved is continued from there; if they are damaged, by walking. */
static void test_saved_states(void)
{
    struct quantize_options options = fresh(&small, "gptq");
    layerwise_states_interval = 0;
    undisturbed(options);
    for (unsigned damaged = 0; damaged < 3; damaged++) {
        put_old_output();
        REQUIRE(interrupted_at(&options, renames_fail(), 6, SIGKILL), NULL); /* stamp, 0, states, 1, states */
        REQUIRE(in_journal("states-00002"), NULL);
        CU_ASSERT_FALSE(in_journal("states-00001"));
        if (damaged == 1) flip_byte("states-00002", UINT64_MAX);
        if (damaged == 2) REQUIRE(truncate(testing_path("out.nbl.journal/states-00002"), 9) == 0, NULL);
        CU_ASSERT_EQUAL(finish_noting(options, damaged ? "saved states are not used" : "layer 3/3"), 2);
    }
    layerwise_states_interval = 60;
}

/* ---- another run on that journal ---- */

static void check_refused(const struct quantize_options *options, const char *part)
{
    struct error err = {0};
    CHECK(quantize(options, NULL, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, part) && strstr(err.text, "--restart"), &err);
    CU_ASSERT_TRUE(is_old_output() && in_journal("layer-00000.nbl"));
    CU_ASSERT_EQUAL(temporaries_in(testing_path(".")), 0);
}

/* Each option that decides bytes, and what the message must name. */
static void refuse_options(const struct quantize_options *before)
{
    static const char *const keeps[] = {"k_proj"};
    struct quantize_options options[10];
    static const char *const parts[10] = {"with bits 4, this run has 3", "group", "method", "with damping",
        "samples", "sample length", "calibration", "keep 1", "symmetry", "act-order"};
    for (unsigned i = 0; i < 10; i++)
        options[i] = *before;
    options[0].bits = "3";
    options[1].group = "16";
    options[2].method = "gptq-plain";
    options[3].damping = 0.02;
    options[4].calibration.samples = 3;
    options[5].calibration.length = 8;
    options[6].calibration.path = sample_text("other-text", 2000, 2);
    options[7].keep = (struct option_list){.values = (const char **)(uintptr_t)keeps, .count = 1};
    options[8].asymmetric = true;
    options[9].act_order = "static";
    for (unsigned i = 0; i < 10; i++)
        check_refused(&options[i], parts[i]);
}

static void test_another_run(void)
{
    struct quantize_options options = fresh(&small, "gptq"), other = options;
    struct tiny_model model = small;
    undisturbed(options);
    leave_journal(&options, 1);
    refuse_options(&options);
    model.seed++;
    other.input = tiny_model_folder("other-model", model);
    check_refused(&other, "input");
    const char *set = kernels()->name;
    if (kernels_select(strcmp(set, "scalar") == 0 ? "avx2" : "scalar", NULL) == OK)
        check_refused(&options, "kernels");
    REQUIRE(kernels_select(set, NULL) == OK, NULL);
    CU_ASSERT_EQUAL(finish(&options), 1);

    leave_journal(&options, 2);
    options.bits = "3";
    undisturbed(options);
    options.restart = true;
    CU_ASSERT_EQUAL(finish(&options), 0);
}

/* ---- stopped ---- */

static void test_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct quantize_options options = fresh(&small, "gptq");
    undisturbed(options);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t count;
        put_old_output();
        testing_capture(2);
        struct sigaction before;
        sigaction(signals[i], NULL, &before);
        file_catch_signals();
        CU_ASSERT_TRUE(interrupted_at(&options, renames_fail(), 3, signals[i]));
        sigaction(signals[i], &before, NULL);
        char *noted = testing_captured(&count);
        CU_ASSERT_PTR_NOT_NULL(strstr(noted, "out.nbl.journal, and the same command goes on from there\n"));
        memory_free(noted);
        CU_ASSERT_TRUE(is_old_output() && in_journal("layer-00000.nbl"));
        check_no_temporary();
        CU_ASSERT_EQUAL(finish(&options), 1);
    }
}

/* ---- let down ---- */

static struct quantize_options one_layer(uint32_t experts)
{
    struct tiny_model model = small;
    model.layers = 1;
    model.experts = experts;
    struct quantize_options options = fresh(&model, "awq+gptq");
    options.calibration.samples = 2;
    options.calibration.length = 8;
    options.range = "minmax"; /* the search takes most of the time, and no memory and no disk */
    undisturbed(options);
    return options;
}

/* Without the nth allocation, for every step-th n: an error that says so, the old output, and the next run goes on. */
static void fail_allocations(const struct quantize_options *options, uint64_t step)
{
    uint64_t n = 0, failures;
    do {
        struct error err = {0};
        put_old_output();
        memory_fail_at(n += step, 0);
        enum status status = quantize(options, NULL, &err);
        failures = memory_failures();
        memory_fail_at(0, 0);
        CHECK(status == OK || (failures && status == ERR_MEMORY), &err);
        CU_ASSERT_TRUE(status == OK || is_old_output());
        if (status == OK) check_finished();
        check_no_temporary();
    } while (failures > 0 && n < CALLS_LIMIT);
    CU_ASSERT_TRUE(n > 300 && n < CALLS_LIMIT);
}

static void test_every_allocation_may_fail(void)
{
    struct quantize_options options = one_layer(0);
    options.restart = true;
    fail_allocations(&options, 1);
    options.restart = false;
    fail_allocations(&options, 3);
    options = one_layer(3);
    options.restart = true;
    fail_allocations(&options, 7);
}

/* The disk is broken from the nth call on. */
static void fail_every_call(
    const struct quantize_options *options, struct file_calls calls, int code, uint64_t least)
{
    enum status status = ERR_IO;
    uint64_t n = 0;
    while (status != OK && ++n < CALLS_LIMIT) {
        struct error err = {0};
        put_old_output();
        fault_errno = code;
        atomic_store(&calls_left, n);
        file_calls = calls;
        status = quantize(options, NULL, &err);
        file_calls = real_calls;
        CHECK(status == OK || status == ERR_IO, &err);
        CU_ASSERT_TRUE(status == OK || is_old_output());
        check_no_temporary();
    }
    check_finished();
    CU_ASSERT_TRUE(n > least);
}

static void test_every_call_may_fail(void)
{
    struct quantize_options options = one_layer(0);
    options.restart = true;
    fail_every_call(&options, writes_fail(), ENOSPC, 20);
    fail_every_call(&options, renames_fail(), EIO, 3);
    fail_every_call(&options, reads_fail(), EIO, 20);
    options.restart = false;
    fail_every_call(&options, reads_fail(), EIO, 10);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"killed at random", test_killed_at_random},
        {"mixtures killed at random", test_mixtures_killed_at_random},
        {"killed at every call", test_killed_at_every_call},
        {"layers are used again", test_layers_are_used_again},
        {"damaged layer", test_damaged_layer},
        {"saved states", test_saved_states},
        {"another run", test_another_run},
        {"signals", test_signals},
        {"every allocation may fail", test_every_allocation_may_fail},
        {"every call may fail", test_every_call_may_fail},
    };
    testing_kernel_set();
    file_calls.fsync = no_sync;
    real_calls = file_calls;
    return TESTING_RUN("interrupted", cases);
}
