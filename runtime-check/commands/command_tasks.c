/* nibble-check tasks: its options, and what it does in which order. The work is in tasks.c and tally.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/tasks/task_layouts.h"
#include "runtime-check/tasks/task_print.h"

struct tasks_values {
    struct common_options common;
    struct model_values model;
    struct option_list models;
    const char *data, *layout, *examples, *samples;
    uint64_t limit, shots, context;
    bool csv, markdown, force;
};

static const struct operand operands[] = {
    {"MODEL...", offsetof(struct tasks_values, models),
        "One or more models: Hugging Face folders, .nbl, GGUF or other model files. The others are compared "
        "with "
        "the "
        "first."},
};

static const struct option option_table[] = {
    {"data", OPTION_TEXT, offsetof(struct tasks_values, data), 0, 0, NULL, "FILE", NULL,
        "The items: UTF-8, one JSON object a line, may be gzipped. Required.", "Options"},
    {"layout", OPTION_CHOICE, offsetof(struct tasks_values, layout), 0, 0, TASK_LAYOUTS_NAMES, "NAME", "auto",
        "How an item is written and what text is made of it; auto: the keys of the first item decide.", NULL},
    {"limit", OPTION_COUNT, offsetof(struct tasks_values, limit), 1, 1e9, NULL, "N", "all",
        "Score only the first N items.", NULL},
    {"examples", OPTION_TEXT, offsetof(struct tasks_values, examples), 0, 0, NULL, "FILE", NULL,
        "Items of the same layout to show with their answers before each question; not those that are "
        "scored.",
        NULL},
    {"shots", OPTION_COUNT, offsetof(struct tasks_values, shots), 1, 1000, NULL, "N", NULL,
        "Show the first N items of --examples.", NULL},
    {"context", OPTION_COUNT, offsetof(struct tasks_values, context), 4, 1 << 20, NULL, "N", "the model's",
        "Longest sequence in tokens; longer ones lose their beginning, and are counted.", NULL},
    {"samples", OPTION_TEXT, offsetof(struct tasks_values, samples), 0, 0, NULL, "FILE", NULL,
        "Also write every item's log-likelihoods and answers, one JSON object a line.", NULL},
    {"force", OPTION_FLAG, offsetof(struct tasks_values, force), 0, 0, NULL, NULL, NULL,
        "Replace the file of --samples if it exists.", NULL},
    {"csv", OPTION_FLAG, offsetof(struct tasks_values, csv), 0, 0, NULL, NULL, NULL,
        "Print the table as comma-separated values, with all digits.", NULL},
    {"markdown", OPTION_FLAG, offsetof(struct tasks_values, markdown), 0, 0, NULL, NULL, NULL,
        "Print the table as Markdown, with all digits.", NULL},
    MODEL_OPTIONS(struct tasks_values, model),
    COMMON_OPTIONS(struct tasks_values),
};

static const struct command usage = {
    .name = "nibble-check tasks",
    .summary = "Multiple-choice accuracy, and which answers compression changed.",
    .details =
        "Of each item the choice with the highest log-likelihood is the model's answer (accuracy), or the "
        "one "
        "with the highest log-likelihood per character (normalised), as EleutherAI's lm-evaluation-harness "
        "scores them. With several models, changes against the first are paired item by item.\n"
        "\n"
        "Layouts: plain is {\"question\": TEXT, \"choices\": [TEXT, ...], \"answer\": index from 0, letter "
        "or "
        "text}; the others are published sets as they are distributed (JSON lines).\n"
        "\n"
        "Examples:\n"
        "  nibble-check tasks models/folio-4M int4.nbl --data models/folio-4M/choices.jsonl\n"
        "  nibble-check tasks base.nbl small.nbl --data hellaswag_val.jsonl --limit 1000 --samples "
        "answers.jsonl\n"
        "  nibble-check tasks small.nbl --data ARC-Easy-Test.jsonl --examples ARC-Easy-Train.jsonl --shots "
        "5\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* What is open while the command runs. */
struct tasks_run {
    struct commands_setting setting;
    struct task_file file;
    struct model **models;          /* [count] */
    struct task_print_model *shown; /* [count] */
    uint64_t count;
    struct output *samples; /* NULL: none asked for, or complete */
    double seconds;
};

static enum status check_values(const struct tasks_values *values, struct error *err)
{
    if (!values->data) return fail(err, ERR_USAGE, "--data FILE is missing: the items to score");
    if (values->common.json + values->csv + values->markdown > 1)
        return fail(err, ERR_USAGE, "--json, --csv and --markdown exclude one another");
    if (!values->examples != !values->shots)
        return fail(err, ERR_USAGE, "--examples FILE and --shots N go together");
    if (values->examples && file_same(values->examples, values->data))
        return fail(err, ERR_USAGE, "--examples is the file of --data: models would be shown the answers");
    return OK;
}

/* Open the file of --samples before the long work. It must not be a file that is read. */
static enum status open_samples(struct tasks_run *run, const struct tasks_values *values, struct error *err)
{
    const char *path = values->samples;
    if (!path) return OK;
    bool read = file_same(path, values->data) || (values->examples && file_same(path, values->examples));
    for (uint64_t i = 0; i < values->models.count; i++)
        read = read || file_same(path, values->models.values[i]);
    if (read) return fail(err, ERR_USAGE, "--samples would replace %s, which is read", path);
    return output_open(&run->samples, path, values->force, err);
}

/* Write and complete it. */
static enum status write_samples(struct tasks_run *run, struct error *err)
{
    struct output *output = run->samples;
    if (!output) return OK;
    const enum status status = task_print_samples(output, &run->file, run->shown, run->count, err);
    if (status) return status;
    run->samples = NULL;
    return output_commit(output, err);
}

static enum status read_items(struct tasks_run *run, const struct tasks_values *values, struct error *err)
{
    enum status status = task_file_read(&run->file, values->data, values->layout, values->limit, err);
    if (!status && values->examples)
        status = task_file_add_examples(&run->file, values->examples, values->shots, err);
    return status;
}

/* Open every model and check that it can score every item, before the long work begins. */
static enum status open_models(struct tasks_run *run, const struct tasks_values *values, struct error *err)
{
    enum status status = OK;
    run->models = memory_new(values->models.count, sizeof *run->models, err);
    run->shown = run->models ? memory_new(values->models.count, sizeof *run->shown, err) : NULL;
    if (!run->shown) return ERR_MEMORY;
    run->count = values->models.count;
    for (uint64_t i = 0; i < run->count && !status; i++) {
        const char *path = values->models.values[i];
        status = commands_open_model(&run->models[i], path, &values->model, &run->setting, err);
        if (status) break;
        run->shown[i].name = path;
        run->shown[i].bytes = container_bytes(run->models[i]->container);
        status = tasks_plan(&run->shown[i].plan, run->models[i], &run->file, values->context, err);
        if (status) fail_within(err, status, "%s, %s", path, values->data);
    }
    return status;
}

static enum status score_models(struct tasks_run *run, struct error *err)
{
    const double start = report_seconds();
    enum status status = OK;
    for (uint64_t i = 0; i < run->count && !status; i++) {
        struct task_print_model *shown = &run->shown[i];
        if (shown->plan.truncated) {
            report_note(&run->setting.report,
                "note: %s: %" PRIu64 " choices are longer than the context of %" PRIu64
                " tokens and lose their beginning",
                shown->name, shown->plan.truncated, shown->plan.context);
        }
        status =
            tasks_score(&shown->scores, run->models[i], &run->file, &shown->plan, &run->setting.report, err);
        if (status) return fail_within(err, status, "%s", shown->name);
        tally_summarize(&shown->summary, &run->file, &shown->scores, &run->shown[0].scores);
    }
    run->seconds = report_seconds() - start;
    return status;
}

static void close_all(struct tasks_run *run)
{
    for (uint64_t i = 0; i < run->count; i++) {
        tasks_free(&run->shown[i].scores);
        model_close(run->models[i]);
    }
    memory_free(run->models);
    memory_free(run->shown);
    task_file_free(&run->file);
    output_abandon(run->samples);
    pool_free(run->setting.pool);
}

static enum status print_as_json(
    const struct tasks_run *run, const struct tasks_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    commands_open_json(&writer, "tasks");
    json_put_text(&writer, "data", values->data);
    json_put_text(&writer, "layout", run->file.layout->name);
    json_put_u64(&writer, "items", run->file.count);
    json_put_u64(&writer, "choices", run->file.choice_count);
    json_put_u64(&writer, "shots", run->file.shots);
    json_put_text(&writer, "examples", values->examples);
    json_write_key(&writer, "models");
    json_open_array(&writer);
    for (uint64_t i = 0; i < run->count; i++)
        task_print_json(&writer, &run->shown[i], i == 0);
    json_close_array(&writer);
    json_put_number(&writer, "seconds", run->seconds);
    return commands_close_json(&writer, &run->setting, err);
}

static void print_for_people(const struct tasks_run *run)
{
    task_print_table(run->shown, run->count);
    printf("\n%" PRIu64 " items (layout %s, %" PRIu64 " shots), %.1f choices each; chance %.2f %%\n",
        run->file.count, run->file.layout->name, run->file.shots,
        (double)run->file.choice_count / (double)run->file.count, 100 * task_file_chance(&run->file));
    commands_print_cost(run->seconds);
}

static enum status print_result(
    const struct tasks_run *run, const struct tasks_values *values, struct error *err)
{
    if (values->common.json) return print_as_json(run, values, err);
    if (values->csv || values->markdown)
        task_print_cells(values->csv ? CELLS_CSV : CELLS_MARKDOWN, run->shown, run->count);
    else
        print_for_people(run);
    return OK;
}

static enum status run_tasks(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct tasks_values values = {.layout = "auto", .model = {.kv_bits = "32"}};
    struct tasks_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN || (status = check_values(&values, err)) ||
        (status = read_items(&run, &values, err)) || (status = open_samples(&run, &values, err)) ||
        (status = commands_open(&run.setting, &values.common, err)) ||
        (status = open_models(&run, &values, err)) || (status = score_models(&run, err))) {
        goto done;
    }
    status = write_samples(&run, err);
    if (!status) status = print_result(&run, &values, err);
done:
    close_all(&run);
    options_list_free(&values.models);
    return status;
}

const struct check_command command_tasks = {"tasks", &usage, run_tasks};
