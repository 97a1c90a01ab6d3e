/* nibble-check compare: its options, and what it prints. The work is in compare.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/forward.h"
#include "runtime-check/commands.h"
#include "runtime-check/compare.h"
#include "runtime-check/comparison_print.h"
#include "runtime-check/inspect.h"
#include "tensor/kernels/kernels.h"

struct compare_values {
    struct common_options common;
    const char *base, *text, *protocol;
    struct option_list candidates;
    uint64_t context, windows;
    bool csv, markdown;
};

static const struct operand operands[] = {
    {"BASE", offsetof(struct compare_values, base),
        "The original: a Hugging Face folder, a .safetensors file or a .nbl file."},
    {"MODEL...", offsetof(struct compare_values, candidates),
        "One or more models to compare with it, of the same vocabulary."},
};

static const struct option option_table[] = {
    {"text", OPTION_TEXT, offsetof(struct compare_values, text), 0, 0, NULL, "FILE", NULL,
        "The text to read, UTF-8. Required.", "Options"},
    {"protocol", OPTION_CHOICE, offsetof(struct compare_values, protocol), 0, 0, "gptq|llama.cpp", "NAME",
        "gptq", "Which positions count, as in nibble-check perplexity.", NULL},
    {"context", OPTION_COUNT, offsetof(struct compare_values, context), 4, 1 << 20, NULL, "N",
        "the base's, at most 2048 (gptq) or 512 (llama.cpp)", "Tokens per window.", NULL},
    {"windows", OPTION_COUNT, offsetof(struct compare_values, windows), 1, 1e9, NULL, "N", "all",
        "Read only the first N windows.", NULL},
    {"csv", OPTION_FLAG, offsetof(struct compare_values, csv), 0, 0, NULL, NULL, NULL,
        "Print the table as comma-separated values, with all digits.", NULL},
    {"markdown", OPTION_FLAG, offsetof(struct compare_values, markdown), 0, 0, NULL, NULL, NULL,
        "Print the table as Markdown, with all digits.", NULL},
    COMMON_OPTIONS(struct compare_values),
};

static const struct command usage = {
    .name = "nibble-check compare",
    .summary = "KL divergence and perplexity of models against the original, on one text.",
    .details = "All models read the text in lock step, token by token; no file of logits is needed.\n"
               "\n"
               "Examples:\n"
               "  nibble-check compare models/folio-4M int4.nbl int3.nbl --text models/folio-4M/eval.txt\n"
               "  nibble-check compare base.nbl small.nbl --text eval.txt --context 256 --csv\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* What is open while the command runs. The base is models[0]. */
struct compare_run {
    struct commands_setting setting;
    struct model **models; /* [count] */
    struct comparison *results;
    struct comparison_model *shown; /* [count] */
    uint64_t count;
    char *text;
    uint64_t text_bytes;
    double seconds;
};

static enum status check_values(const struct compare_values *values, struct error *err)
{
    if (!values->text) return fail(err, ERR_USAGE, "--text FILE is missing: the text to read");
    if (values->common.json + values->csv + values->markdown > 1)
        return fail(err, ERR_USAGE, "--json, --csv and --markdown exclude one another");
    return OK;
}

static enum status open_all(struct compare_run *run, const struct compare_values *values, struct error *err)
{
    const uint64_t count = values->candidates.count + 1;
    enum status status = commands_open(&run->setting, &values->common, err);
    if (!status) status = file_read_all(&run->text, &run->text_bytes, values->text, UINT64_C(2) << 30, err);
    if (status) return status;
    run->models = memory_new(count, sizeof *run->models, err);
    run->results = run->models ? memory_new(count - 1, sizeof *run->results, err) : NULL;
    run->shown = run->results ? memory_new(count, sizeof *run->shown, err) : NULL;
    if (!run->shown) return ERR_MEMORY;
    run->count = count;
    for (uint64_t i = 0; i < count && !status; i++) {
        const char *path = i ? values->candidates.values[i - 1] : values->base;
        status = model_open(&run->models[i], path, run->setting.pool, err);
    }
    return status;
}

static void close_all(struct compare_run *run)
{
    for (uint64_t i = 0; i < run->count; i++)
        model_close(run->models[i]);
    memory_free(run->models);
    memory_free(run->results);
    memory_free(run->shown);
    memory_free(run->text);
    pool_free(run->setting.pool);
}

/* Put names and sizes beside the results. */
static void describe(struct compare_run *run, const struct compare_values *values)
{
    for (uint64_t i = 0; i < run->count; i++) {
        struct inspect_totals totals;
        const struct comparison *result = &run->results[i ? i - 1 : 0];
        inspect_total(&totals, run->models[i]->container);
        run->shown[i] = (struct comparison_model){
            .name = i ? values->candidates.values[i - 1] : values->base,
            .bytes = totals.bytes,
            .bits_per_weight = inspect_bits_per(totals.bytes, totals.weights),
            .perplexity = i ? result->perplexity : result->base_perplexity,
            .result = i ? result : NULL,
        };
    }
}

static enum status print_as_json(
    const struct compare_run *run, const struct compare_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    json_open_object(&writer);
    json_put_text(&writer, "tool", "nibble-check compare");
    json_put_text(&writer, "version", NIBBLE_VERSION);
    json_put_text(&writer, "text", values->text);
    json_put_text(&writer, "protocol", values->protocol);
    json_put_u64(&writer, "context", run->results->context);
    json_put_u64(&writer, "windows", run->results->windows);
    json_put_u64(&writer, "tokens_scored", run->results->tokens_scored);
    json_put_u64(&writer, "text_bytes", run->text_bytes);
    json_write_key(&writer, "base");
    comparison_write_json(&writer, &run->shown[0]);
    json_write_key(&writer, "models");
    json_open_array(&writer);
    for (uint64_t i = 1; i < run->count; i++)
        comparison_write_json(&writer, &run->shown[i]);
    json_close_array(&writer);
    json_put_number(&writer, "seconds", run->seconds);
    json_put_u64(&writer, "peak_memory_bytes", memory_peak_bytes());
    json_put_u64(&writer, "threads", pool_workers(run->setting.pool));
    json_put_text(&writer, "kernels", kernels()->name);
    json_close_object(&writer);
    return commands_print_json(&writer, err);
}

static void print_for_people(const struct compare_run *run, const struct compare_values *values)
{
    char duration[24], memory[16];
    comparison_print_table(run->shown, run->count);
    printf("\n%" PRIu64 " tokens scored in %" PRIu64 " windows (%s protocol, context %" PRIu64
           "); divergences in nats per token\n",
        run->results->tokens_scored, run->results->windows, values->protocol, run->results->context);
    printf("time           %s, peak memory %s, %s kernels\n", report_duration(duration, run->seconds),
        report_bytes(memory, memory_peak_bytes()), kernels()->name);
}

static enum status print_result(
    const struct compare_run *run, const struct compare_values *values, struct error *err)
{
    if (values->common.json) return print_as_json(run, values, err);
    if (values->csv)
        comparison_print_csv(run->shown, run->count);
    else if (values->markdown)
        comparison_print_markdown(run->shown, run->count);
    else
        print_for_people(run, values);
    return OK;
}

static enum status run_compare(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct compare_values values = {.protocol = "gptq"};
    struct compare_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN || (status = check_values(&values, err)) ||
        (status = open_all(&run, &values, err))) {
        goto done;
    }
    const struct compare_options options = {
        .text =
            {
                .protocol = strcmp(values.protocol, "gptq") == 0 ? PERPLEXITY_GPTQ : PERPLEXITY_LLAMA_CPP,
                .context = values.context,
                .max_windows = values.windows,
            },
    };
    const struct compare_base base = {.model = run.models ? run.models[0] : NULL};
    const double start = report_seconds();
    status = compare_models(run.results, &base, run.models + 1, run.count - 1, run.text, run.text_bytes,
        &options, &run.setting.report, err);
    run.seconds = report_seconds() - start;
    if (status) goto done;
    describe(&run, &values);
    status = print_result(&run, &values, err);
done:
    close_all(&run);
    options_list_free(&values.candidates);
    return status;
}

const struct check_command command_compare = {"compare", &usage, run_compare};
