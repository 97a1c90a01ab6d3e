/* nibble-check bench: its options, and the order of the measurements. The work is in bench.c and bandwidth.c. */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "runtime-check/bench/bandwidth.h"
#include "runtime-check/bench/bench_print.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/bench/sysfs.h"
#include "tensor/kernels/kernels.h"

struct bench_values {
    struct common_options common;
    struct model_values model;
    struct option_list models;
    struct bench_options options;
};

static const struct operand operands[] = {
    {"MODEL...", offsetof(struct bench_values, models),
        "One or more models: Hugging Face folders, .nbl, GGUF or other model files. Several take turns, so "
        "that "
        "what "
        "disturbs the machine hits all alike."},
};

static const struct option option_table[] = {
    {"prompt-tokens", OPTION_COUNT, offsetof(struct bench_values, options.prompt_tokens), 1, 1 << 20, NULL,
        "N", "512", "Tokens of the prompt. They are random: speed does not depend on them.", "Options"},
    {"tokens", OPTION_COUNT, offsetof(struct bench_values, options.tokens), 1, 1 << 20, NULL, "N", "128",
        "Tokens generated after the first one.", NULL},
    {"repeats", OPTION_COUNT, offsetof(struct bench_values, options.rounds), 1, 10000, NULL, "N", "5",
        "How often everything is measured.", NULL},
    MODEL_OPTIONS(struct bench_values, model),
    COMMON_OPTIONS(struct bench_values),
};

static const struct command usage = {
    .name = "nibble-check bench",
    .summary = "Speed, memory and energy of models, and how much of the memory's bandwidth they use.",
    .details = "Every repeat opens the model anew: cold (its files dropped from the page cache first, which "
               "is verified), "
               "then warm; then a warm-up, the prompt, and the generation, each timed. Medians are shown "
               "with the least and "
               "the greatest value. A number that this machine does not give (energy counters, mostly) is "
               "shown as not "
               "available, with the reason.\n"
               "\n"
               "Examples:\n"
               "  nibble-check bench small.nbl\n"
               "  nibble-check bench original int8.nbl int4.nbl --prompt-tokens 256 --tokens 64 --repeats 9\n"
               "  nibble-check bench small.nbl --kv-bits 8 --threads 4 --json\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* What is there while the command runs. */
struct bench_command {
    struct commands_setting setting;
    struct bench_model *models; /* [report.count] */
    double *bandwidths;         /* [rounds] */
    struct energy energy;
    struct bench_report report;
};

/* Look at every model before hours are spent on the first. */
static enum status describe_all(
    struct bench_command *command, const struct bench_values *values, struct error *err)
{
    const uint64_t count = values->models.count;
    if (!(command->models = memory_new(count, sizeof *command->models, err))) return ERR_MEMORY;
    command->report.count = count;
    for (uint64_t i = 0; i < count; i++) {
        struct model *model = NULL;
        const char *path = values->models.values[i];
        enum status status = commands_open_model(&model, path, &values->model, &command->setting, err);
        if (!status) status = bench_describe(&command->models[i], path, model, &values->options, err);
        model_close(model);
        if (status) return status;
        if (values->options.prompt_tokens + values->options.tokens > command->models[i].context)
            report_note(&command->setting.report,
                "%s: prompt and generated tokens go beyond its context of %" PRIu64
                "; speed is measured all the same",
                path, command->models[i].context);
    }
    return OK;
}

static unsigned processors(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return (unsigned)CPU_COUNT(&allowed);
    return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

static enum status plan_bandwidth(struct bench_command *command, struct error *err)
{
    struct bench_report *report = &command->report;
    uint64_t available = 0;
    report->last_cache_bytes = bandwidth_cache_bytes(BANDWIDTH_CPU_ROOT);
    if (!sysfs_kilobytes(&available, "/proc/meminfo", "MemAvailable")) {
        report->no_bandwidth = "the system does not say how much memory is free";
        return OK;
    }
    report->array_bytes = bandwidth_array_bytes(report->last_cache_bytes, available);
    if (!report->array_bytes) {
        report->no_bandwidth = "too little free memory for an array beyond the caches";
        return OK;
    }
    command->bandwidths = memory_new(report->options.rounds, sizeof(double), err);
    report->bandwidths = command->bandwidths;
    return command->bandwidths ? OK : ERR_MEMORY;
}

static enum status run_rounds(struct bench_command *command, struct error *err)
{
    const struct bench_report *report = &command->report;
    struct pool *pool = command->setting.pool;
    struct progress *progress = progress_start(
        &command->setting.report, "measuring", report->options.rounds * report->count, PROGRESS_ITEMS);
    enum status status = OK;
    for (uint64_t round = 0; round < report->options.rounds && !status; round++) {
        if (command->bandwidths)
            status = bandwidth_measure(&command->bandwidths[round], pool, report->array_bytes, err);
        for (uint64_t i = 0; i < report->count && !status; i++) {
            struct bench_model *model = &command->models[i];
            status = bench_round(model, round, &report->options, pool, &command->energy, err);
            progress_add(progress, 1);
            if (!status)
                report_detail(&command->setting.report,
                    "round %" PRIu64 ", %s: prompt %.2f tokens/s, generated %.2f tokens/s", round + 1,
                    model->path, model->values[BENCH_PROMPT_RATE][round],
                    model->values[BENCH_TOKEN_RATE][round]);
        }
    }
    progress_end(progress);
    return status;
}

static enum status measure(
    struct bench_command *command, const struct bench_values *values, struct error *err)
{
    struct bench_report *report = &command->report;
    const double start = report_seconds();
    enum status status = commands_open(&command->setting, &values->common, err);
    if (status) return status;
    report->options = values->options;
    report->threads = pool_workers(command->setting.pool);
    report->processors = processors();
    report->kernels = kernels()->name;
    energy_open(&command->energy, ENERGY_ROOT);
    if ((status = describe_all(command, values, err)) || (status = plan_bandwidth(command, err)) ||
        (status = run_rounds(command, err)))
        return status;
    report->models = command->models;
    report->seconds = report_seconds() - start;
    return OK;
}

static enum status print_result(
    const struct bench_command *command, const struct bench_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    if (!values->common.json) {
        bench_print(&command->report);
        return OK;
    }
    bench_write_json(&writer, &command->report);
    return commands_print_json(&writer, err);
}

static enum status run_bench(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct bench_values values = {
        .model.kv_bits = "32", .options = {.prompt_tokens = 512, .tokens = 128, .rounds = 5}};
    struct bench_command command = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (!status && *outcome == OPTIONS_RUN) {
        values.options.cache_bits = (unsigned)strtoul(values.model.kv_bits, NULL, 10);
        status = measure(&command, &values, err);
        if (!status) status = print_result(&command, &values, err);
    }
    for (uint64_t i = 0; i < command.report.count; i++)
        bench_release(&command.models[i]);
    memory_free(command.models);
    memory_free(command.bandwidths);
    pool_free(command.setting.pool);
    options_list_free(&values.models);
    return status;
}

const struct check_command command_bench = {"bench", &usage, run_bench};
