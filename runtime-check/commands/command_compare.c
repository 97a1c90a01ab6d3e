/* nibble-check compare: its options, and what it opens. The work is in compare.c. */
#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/checkpoint.h"
#include "model/forward.h"
#include "runtime-check/commands/command_compare.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/page/page.h"
#include "runtime-check/judge/trace.h"

static const struct operand operands[] = {
    {"BASE MODEL...", offsetof(struct compare_values, paths),
        "The original and one or more models of the same vocabulary: Hugging Face folders, .safetensors or "
        ".nbl "
        "files. With --base-logits models only; with --save-base BASE alone will do."},
};

static const struct option option_table[] = {
    {"text", OPTION_TEXT, offsetof(struct compare_values, text.text), 0, 0, NULL, "FILE", NULL,
        "The text to read, UTF-8. Required, but not with --base-logits.", "Options"},
    WINDOW_OPTIONS(struct compare_values, text),
    {"save-base", OPTION_TEXT, offsetof(struct compare_values, save_base), 0, 0, NULL, "FILE", NULL,
        "Also write BASE's predictions to FILE: for every scored token all log-probabilities, 16 bits each.",
        NULL},
    {"top-k", OPTION_COUNT, offsetof(struct compare_values, top_k), 1, BASE_LOGITS_TOP_K_LIMIT, NULL, "K",
        "all tokens",
        "With --save-base: only the K likeliest tokens, and the probability of the rest. The file is far "
        "smaller, and divergences from it are lower bounds.",
        NULL},
    {"base-logits", OPTION_TEXT, offsetof(struct compare_values, base_logits), 0, 0, NULL, "FILE", NULL,
        "Compare with what --save-base has written instead of with BASE. Text, protocol, context and windows "
        "are those of FILE; --text, if given, must be that text.",
        NULL},
    {"layers", OPTION_FLAG, offsetof(struct compare_values, layers), 0, 0, NULL, NULL, NULL,
        "Also measure how far the output of every layer is from BASE's.", NULL},
    {"html", OPTION_TEXT, offsetof(struct compare_values, html), 0, 0, NULL, "FILE", NULL,
        "Also write the comparison to FILE as one self-contained HTML page, with the errors of layers where "
        "all models have BASE's.",
        NULL},
    {"force", OPTION_FLAG, offsetof(struct compare_values, force), 0, 0, NULL, NULL, NULL,
        "Replace the files of --save-base and --html if they exist.", NULL},
    {"csv", OPTION_FLAG, offsetof(struct compare_values, csv), 0, 0, NULL, NULL, NULL,
        "Print the table as comma-separated values, with all digits.", NULL},
    {"markdown", OPTION_FLAG, offsetof(struct compare_values, markdown), 0, 0, NULL, NULL, NULL,
        "Print the table as Markdown, with all digits.", NULL},
    MODEL_OPTIONS(struct compare_values, model),
    COMMON_OPTIONS(struct compare_values),
};

static const struct command usage = {
    .name = "nibble-check compare",
    .summary = "KL divergence and perplexity of models against the original, on one text.",
    .details =
        "All models read the text in lock step, token by token, so no file of logits is needed. One can be\n"
        "kept for later: --save-base writes it, --base-logits reads it, and BASE need not be there then.\n"
        "--kv-bits holds for the models; BASE keeps a cache of 32 bits, so that what a small one costs\n"
        "is part of the result.\n"
        "\n"
        "Examples:\n"
        "  nibble-check compare models/folio-4M int4.nbl int3.nbl --text models/folio-4M/eval.txt\n"
        "  nibble-check compare base.nbl small.nbl --text eval.txt --context 256 --csv\n"
        "  nibble-check compare models/folio-4M --text eval.txt --save-base folio.nbb\n"
        "  nibble-check compare int4.nbl int3.nbl --base-logits folio.nbb\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* Where --protocol points as long as it is not given. */
static const char protocol_default[] = "gptq";

/* ---- what was asked for ---- */

/* The candidates among the operands. */
static const char *const *candidate_paths(const struct compare_values *values)
{
    return values->paths.values + (values->base_logits ? 0 : 1);
}

static uint64_t candidate_count(const struct compare_values *values)
{
    return values->paths.count - (values->base_logits ? 0 : 1);
}

static enum status check_values(const struct compare_values *values, struct error *err)
{
    if (values->common.json + values->csv + values->markdown > 1)
        return fail(err, ERR_USAGE, "--json, --csv and --markdown exclude one another");
    if (values->base_logits && values->save_base)
        return fail(err, ERR_USAGE, "--save-base needs BASE itself; with --base-logits there is none");
    if (values->base_logits && values->layers)
        return fail(err, ERR_USAGE, "--layers needs BASE itself; with --base-logits there is none");
    if (values->top_k && !values->save_base)
        return fail(err, ERR_USAGE, "--top-k says what --save-base writes; it means nothing without it");
    if (candidate_count(values) == 0 && !values->save_base)
        return fail(err, ERR_USAGE, "MODEL is missing (a model to compare with BASE); --help explains");
    if (candidate_count(values) == 0 && (values->layers || values->html))
        return fail(err, ERR_USAGE, "--layers and --html show models; BASE alone has nothing to show");
    if (!values->text.text && !values->base_logits)
        return fail(err, ERR_USAGE, "--text FILE is missing: the text to read");
    return OK;
}

/* An output that would be refused at the end is refused before the work; one that is an input, in any case. */
static enum status check_output(const struct compare_values *values, const char *output, struct error *err)
{
    enum status status = OK;
    if (!output) return OK;
    for (uint64_t i = 0; i < values->paths.count && !status; i++)
        status = checkpoint_refuse_output(values->paths.values[i], output, err);
    if (!status && values->text.text) status = checkpoint_refuse_output(values->text.text, output, err);
    if (!status && values->base_logits) status = checkpoint_refuse_output(values->base_logits, output, err);
    if (!status && !values->force && file_kind(output) != FILE_ABSENT)
        status = fail(err, ERR_USAGE, "%s: exists; --force replaces it", output);
    return status;
}

static enum status check_outputs(const struct compare_values *values, struct error *err)
{
    if (values->save_base && values->html && strcmp(values->save_base, values->html) == 0)
        return fail(err, ERR_USAGE, "--save-base and --html name the same file");
    enum status status = check_output(values, values->save_base, err);
    return status ? status : check_output(values, values->html, err);
}

/* ---- opening ---- */

/* What is said of the text must be so; a stored base cannot be read any other way. */
static enum status check_stored(
    const struct base_logits_info *info, const struct compare_values *values, struct error *err)
{
    const struct text_values *text = &values->text;
    const char *protocol = perplexity_protocol_name(info->protocol);
    if ((text->protocol == protocol_default || strcmp(text->protocol, protocol) == 0) &&
        (!text->context || text->context == info->context) &&
        (!text->windows || text->windows == info->windows))
        return OK;
    return fail(err, ERR_USAGE,
        "%s holds %" PRIu64 " windows of %" PRIu64 " tokens, %s protocol, and can be read in no other way: "
        "leave --protocol, --context and --windows out",
        values->base_logits, info->windows, info->context, protocol);
}

static enum status open_base(struct compare_run *run, const struct compare_values *values, struct error *err)
{
    if (!values->base_logits) {
        struct model_values base = values->model;
        base.kv_bits = "32";
        run->protocol = values->text.protocol;
        return commands_open_model(&run->base.model, values->paths.values[0], &base, &run->setting, err);
    }
    enum status status = base_logits_open(&run->base.stored, values->base_logits, run->setting.pool, err);
    if (status) return status;
    const struct base_logits_info *info = base_logits_info(run->base.stored);
    run->protocol = perplexity_protocol_name(info->protocol);
    run->text_bytes = info->text_bytes;
    run->text_crc32 = info->text_crc32;
    return check_stored(info, values, err);
}

static enum status open_text(struct compare_run *run, const struct compare_values *values, struct error *err)
{
    if (!values->text.text) return OK;
    enum status status = commands_read_text(&run->text, &run->text_bytes, &values->text, err);
    if (!status) run->text_crc32 = file_crc32(0, run->text, run->text_bytes);
    return status;
}

static enum status open_all(struct compare_run *run, const struct compare_values *values, struct error *err)
{
    const uint64_t count = candidate_count(values);
    enum status status = commands_open(&run->setting, &values->common, err);
    if (!status) status = open_base(run, values, err);
    if (!status) status = open_text(run, values, err);
    if (status) return status;
    run->models = memory_new(count, sizeof *run->models, err);
    run->results = run->models ? memory_new(count ? count : 1, sizeof *run->results, err) : NULL;
    run->shown = run->results ? memory_new(1 + count, sizeof *run->shown, err) : NULL;
    if (!run->shown) return ERR_MEMORY;
    run->count = count;
    for (uint64_t i = 0; i < count && !status; i++)
        status = commands_open_model(
            &run->models[i], candidate_paths(values)[i], &values->model, &run->setting, err);
    return status;
}

static void close_all(struct compare_run *run)
{
    for (uint64_t i = 0; i < run->count; i++) {
        model_close(run->models[i]);
        memory_free(run->results[i].layer_errors);
    }
    model_close(run->base.model);
    base_logits_close(run->base.stored);
    memory_free(run->models);
    memory_free(run->results);
    memory_free(run->shown);
    memory_free(run->text);
    pool_free(run->setting.pool);
}

/* ---- running ---- */

static bool all_match(const struct compare_run *run)
{
    bool match = run->base.model != NULL;
    for (uint64_t i = 0; i < run->count && match; i++)
        match = trace_matches(run->base.model, run->models[i]);
    return match;
}

static enum status compare(struct compare_run *run, const struct compare_values *values, struct error *err)
{
    const struct compare_options options = {
        .text = commands_perplexity_options(&values->text),
        .layers = values->layers || (values->html && all_match(run)),
        .save_base = values->save_base,
        .force = values->force,
        .save_top_k = values->top_k,
    };
    const double start = report_seconds();
    enum status status = compare_models(run->results, &run->base, run->models, run->count, run->text,
        run->text_bytes, &options, &run->setting.report, err);
    run->seconds = report_seconds() - start;
    return status;
}

static struct comparison_model shown_base(const struct compare_run *run, const struct compare_values *values)
{
    struct inspect_totals totals = {0};
    if (run->base.model) {
        inspect_total(&totals, run->base.model->container);
    } else {
        totals.bytes = base_logits_info(run->base.stored)->model_bytes;
        totals.weights = base_logits_info(run->base.stored)->model_weights;
    }
    return (struct comparison_model){
        .name = values->base_logits ? values->base_logits : values->paths.values[0],
        .bytes = totals.bytes,
        .bits_per_weight = inspect_bits_per(totals.bytes, totals.weights),
        .perplexity = run->results->base_perplexity,
    };
}

/* Put names and sizes beside the results. */
static void describe(struct compare_run *run, const struct compare_values *values)
{
    run->shown[0] = shown_base(run, values);
    for (uint64_t i = 0; i < run->count; i++) {
        struct inspect_totals totals;
        inspect_total(&totals, run->models[i]->container);
        run->shown[1 + i] = (struct comparison_model){
            .name = candidate_paths(values)[i],
            .bytes = totals.bytes,
            .bits_per_weight = inspect_bits_per(totals.bytes, totals.weights),
            .perplexity = run->results[i].perplexity,
            .result = &run->results[i],
        };
    }
}

static enum status write_page(
    const struct compare_run *run, const struct compare_values *values, struct error *err)
{
    const struct page page = {
        .text = values->text.text,
        .protocol = run->protocol,
        .models = run->shown,
        .count = 1 + run->count,
    };
    return values->html ? page_write(values->html, values->force, &page, err) : OK;
}

static enum status run_compare(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct compare_values values = {.text = {.protocol = protocol_default}, .model = {.kv_bits = "32"}};
    struct compare_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN || (status = check_values(&values, err)) ||
        (status = check_outputs(&values, err)) || (status = open_all(&run, &values, err)) ||
        (status = compare(&run, &values, err))) {
        goto done;
    }
    describe(&run, &values);
    status = write_page(&run, &values, err);
    if (!status) status = command_compare_print(&run, &values, err);
done:
    close_all(&run);
    options_list_free(&values.paths);
    return status;
}

const struct check_command command_compare = {"compare", &usage, run_compare};
