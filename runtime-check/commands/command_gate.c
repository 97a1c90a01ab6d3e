/* nibble-check gate: its options, what it opens and measures. The decision is in gate.c, the reports in gate_print.c and
 * gate_report.c. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/checkpoint.h"
#include "runtime-check/judge/base_logits.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/judge/compare_check.h"
#include "runtime-check/gate/gate.h"
#include "runtime-check/gate/gate_baseline.h"
#include "runtime-check/gate/gate_print.h"
#include "runtime-check/gate/gate_report.h"
#include "runtime-check/judge/windows.h"
#include "tensor/kernels/kernels.h"

struct gate_values {
    struct common_options common;
    struct text_values text;
    struct model_values running;
    const char *model, *base, *base_logits, *baseline;
    const char *limits[GATE_CHECKS]; /* in the order of gate_checks */
    const char *confidence, *junit, *summary;
};

static const struct operand operands[] = {
    {"MODEL", offsetof(struct gate_values, model),
        "The compressed model: a .nbl file, a Hugging Face folder or a .safetensors file."},
};

static const struct option option_table[] = {
    {"base", OPTION_TEXT, offsetof(struct gate_values, base), 0, 0, NULL, "MODEL", NULL,
        "The original; both models read the text in lock step.", "What to hold the model against: one of"},
    {"base-logits", OPTION_TEXT, offsetof(struct gate_values, base_logits), 0, 0, NULL, "FILE", NULL,
        "The original's predictions, stored by nibble-check compare --save-base with the text's tokens.",
        NULL},
    {"baseline", OPTION_TEXT, offsetof(struct gate_values, baseline), 0, 0, NULL, "FILE", NULL,
        "An earlier result on the same text: the output of nibble-check perplexity --json or gate --json. "
        "For "
        "--max-ppl-increase.",
        NULL},
    {"max-ppl-increase", OPTION_TEXT, offsetof(struct gate_values, limits[0]), 0, 0, NULL, "SHARE", NULL,
        "Perplexity may be at most this much above the base's: 2% or 0.02.", "Limits, at least one"},
    {"max-ppl", OPTION_TEXT, offsetof(struct gate_values, limits[1]), 0, 0, NULL, "X", NULL,
        "The most that perplexity may be; needs no base.", NULL},
    {"max-kld", OPTION_TEXT, offsetof(struct gate_values, limits[2]), 0, 0, NULL, "X", NULL,
        "The most that the mean KL divergence from the base may be, in nats per token.", NULL},
    {"max-kld-p99", OPTION_TEXT, offsetof(struct gate_values, limits[3]), 0, 0, NULL, "X", NULL,
        "The most that its 99th percentile may be: how bad the worst tokens are.", NULL},
    {"min-top1", OPTION_TEXT, offsetof(struct gate_values, limits[4]), 0, 0, NULL, "SHARE", NULL,
        "At least this share of tokens must keep the base's likeliest token: 95% or 0.95.", NULL},
    {"confidence", OPTION_TEXT, offsetof(struct gate_values, confidence), 0, 0, NULL, "SHARE", "95%",
        "Of each bound, one-sided: 50% to 99.99%.", NULL},
    {"junit", OPTION_TEXT, offsetof(struct gate_values, junit), 0, 0, NULL, "FILE", NULL,
        "Also write the outcome as JUnit XML, also when a check fails; an older file is replaced.",
        "Reports"},
    {"summary", OPTION_TEXT, offsetof(struct gate_values, summary), 0, 0, NULL, "FILE",
        "$GITHUB_STEP_SUMMARY, where it is set", "Also append the outcome as Markdown.", NULL},
    {"text", OPTION_TEXT, offsetof(struct gate_values, text.text), 0, 0, NULL, "FILE", NULL,
        "The text to read, UTF-8. Required, but with --base-logits, which holds its tokens.", "Options"},
    WINDOW_OPTIONS(struct gate_values, text),
    MODEL_OPTIONS(struct gate_values, running),
    COMMON_OPTIONS(struct gate_values),
};

static const struct command usage = {
    .name = "nibble-check gate",
    .summary = "Fail, with exit code 7, if compression cost more than you allow.",
    .details =
        "Each check is decided by the one-sided confidence bound of what was measured, not by the measured "
        "value: the table shows both. A check whose value is within the limit but whose bound is not fails; "
        "a "
        "longer text narrows the bound. The text must give at least 8 windows.\n"
        "\n"
        "--kv-bits is MODEL's alone: a base model keeps 32 bits.\n"
        "\n"
        "Examples:\n"
        "  nibble-check gate small.nbl --base models/folio-4M --text models/folio-4M/eval.txt \\\n"
        "      --max-ppl-increase 2% --max-kld 0.02 --min-top1 90% --junit gate.xml\n"
        "  nibble-check perplexity release.nbl --text eval.txt --json > release.json\n"
        "  nibble-check gate new.nbl --baseline release.json --text eval.txt --max-ppl-increase 0.5%\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* What is open while the command runs. */
struct gate_run {
    struct commands_setting setting;
    struct gate_limits limits;
    struct model *model, *base;
    struct base_logits *stored;
    struct gate_baseline baseline;
    struct gate_text cut; /* what is measured on */
    char *text;
    uint64_t text_bytes;
    struct comparison
        measured; /* without a base model or its predictions: perplexity and, against a baseline, log_ratio */
    struct gate_subject subject;
    struct gate_result result;
};

/* ---- options ---- */

static enum status read_limits(
    struct gate_limits *limits, const struct gate_values *values, struct error *err)
{
    enum status status = OK;
    for (int i = 0; i < GATE_CHECKS && !status; i++) {
        limits->given[i] = values->limits[i] != NULL;
        if (values->limits[i])
            status = gate_read_limit(&limits->limit[i], &gate_checks[i], values->limits[i], err);
    }
    if (status) return status;
    return gate_read_share(&limits->confidence, "confidence", values->confidence, 0.5, 0.9999, err);
}

static enum gate_base base_kind(const struct gate_values *values)
{
    if (values->base || values->base_logits)
        return GATE_BASE_WHOLE; /* of stored ones check_stored knows more */
    return values->baseline ? GATE_BASE_RESULT : GATE_BASE_NONE;
}

/* The text and its windows come from the file of predictions, or else from the command line. */
static enum status check_text(const struct gate_values *values, struct error *err)
{
    const struct text_values *text = &values->text;
    if (!values->base_logits && !text->text)
        return fail(err, ERR_USAGE, "--text FILE is missing: the text to read");
    if (values->base_logits && (text->context || text->windows || text->protocol)) {
        return fail(err, ERR_USAGE,
            "--protocol, --context and --windows are those that %s was made with; leave them out",
            values->base_logits);
    }
    return OK;
}

static enum status check_values(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    enum status status = read_limits(&run->limits, values, err);
    if (!status && !!values->base + !!values->base_logits + !!values->baseline > 1)
        status = fail(err, ERR_USAGE, "--base, --base-logits and --baseline exclude one another");
    if (!status) status = gate_possible(&run->limits, base_kind(values), values->baseline, err);
    return status ? status : check_text(values, err);
}

/* Reports must not destroy what is being judged. */
static enum status check_output(const char *output, const struct gate_values *values, struct error *err)
{
    const char *const folders[] = {values->model, values->base};
    const char *const files[] = {values->text.text, values->base_logits, values->baseline};
    enum status status = OK;
    for (size_t i = 0; output && i < COMMANDS_COUNT(folders) && !status; i++) {
        if (folders[i]) status = checkpoint_refuse_output(folders[i], output, err);
    }
    for (size_t i = 0; output && i < COMMANDS_COUNT(files) && !status; i++) {
        if (files[i] && file_same(files[i], output))
            status = fail(err, ERR_USAGE, "%s: is an input; name another output", output);
    }
    return status;
}

/* Find out before hours of work that a file cannot be written. */
static enum status try_output(const char *path, struct error *err)
{
    struct output *output = NULL;
    enum status status = output_open(&output, path, true, err);
    if (!status) output_abandon(output);
    return status;
}

static enum status check_outputs(const struct gate_values *values, struct error *err)
{
    enum status status = check_output(values->junit, values, err);
    if (!status) status = check_output(values->summary, values, err);
    if (!status && values->junit && values->summary &&
        (strcmp(values->junit, values->summary) == 0 || file_same(values->junit, values->summary)))
        status = fail(err, ERR_USAGE, "--junit and --summary name the same file");
    return status || !values->junit ? status : try_output(values->junit, err);
}

/* ---- opening ---- */

static enum status open_models(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    struct model_values exact = values->running;
    exact.kv_bits = "32";
    enum status status =
        commands_open_model(&run->model, values->model, &values->running, &run->setting, err);
    if (status || !values->base) return status;
    return commands_open_model(&run->base, values->base, &exact, &run->setting, err);
}

/* Cut the text to know its windows before hours of work. */
static enum status describe_text(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct perplexity_options options = commands_perplexity_options(&values->text);
    struct windows windows = {0};
    enum status status = windows_cut(
        &windows, run->base ? run->base : run->model, run->text, run->text_bytes, &options, NULL, err);
    if (!status) {
        run->cut = (struct gate_text){options.protocol, windows.context, windows.count, windows.token_count,
            file_crc32(0, run->text, run->text_bytes)};
    }
    windows_free(&windows);
    if (!status) status = gate_enough(run->cut.windows, run->cut.context, values->text.text, err);
    if (!status && values->baseline)
        status = gate_baseline_matches(&run->baseline, values->baseline, &run->cut, err);
    return status;
}

/* What stored predictions were made of is known from their file alone. */
static enum status check_stored(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct base_logits_info *info = base_logits_info(run->stored);
    run->cut = (struct gate_text){
        .protocol = info->protocol,
        .context = info->context,
        .windows =
            info->windows, /* the file holds whole windows only: how long the text is, it does not say */
        .crc32 = info->text_crc32,
    };
    enum status status = run->text ? compare_check_text(run->stored, run->text, run->text_bytes, err) : OK;
    if (!status && info->top_k) status = gate_possible(&run->limits, GATE_BASE_TOP, values->base_logits, err);
    return status ? status : gate_enough(info->windows, info->context, values->base_logits, err);
}

/* Small files first: what they refuse is known before a model is read. */
static enum status open_all(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    enum status status = commands_open(&run->setting, &values->common, err);
    if (!status && values->text.text)
        status = commands_read_text(&run->text, &run->text_bytes, &values->text, err);
    if (!status && values->baseline) status = gate_baseline_read(&run->baseline, values->baseline, err);
    if (!status && values->base_logits)
        status = base_logits_open(&run->stored, values->base_logits, run->setting.pool, err);
    if (!status && run->stored) status = check_stored(run, values, err);
    if (!status) status = open_models(run, values, err);
    if (!status && !run->stored) status = describe_text(run, values, err);
    return status;
}

static void close_all(struct gate_run *run)
{
    model_close(run->model);
    model_close(run->base);
    base_logits_close(run->stored);
    gate_baseline_free(&run->baseline);
    memory_free(run->measured.window_nll);
    memory_free(run->measured.layer_errors);
    memory_free(run->text);
    pool_free(run->setting.pool);
}

/* ---- measuring ---- */

static enum status measure_against(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct compare_options options = {
        .text = commands_perplexity_options(&values->text), .window_nll = true};
    const struct compare_base base = {.model = run->base, .stored = run->stored};
    return compare_models(&run->measured, &base, &run->model, 1, run->stored ? NULL : run->text,
        run->stored ? 0 : run->text_bytes, &options, &run->setting.report, err);
}

static enum status measure_alone(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct perplexity_options options = commands_perplexity_options(&values->text);
    struct perplexity_result now = {0};
    enum status status =
        perplexity_measure(&now, run->model, run->text, run->text_bytes, &options, &run->setting.report, err);
    run->measured = (struct comparison){.tokens_scored = now.tokens_scored,
        .windows = now.windows,
        .context = now.context,
        .by_block = now.by_block,
        .perplexity = now.perplexity,
        .window_nll = now.window_nll};
    if (status || !values->baseline) return status;
    bool paired;
    run->measured.log_ratio = gate_baseline_ratio(&run->baseline, &now, &paired);
    run->subject.unpaired = !paired;
    if (!paired) {
        report_note(&run->setting.report,
            "%s has no window_nll: errors are not paired, so the bound is far wider than it need be",
            values->baseline);
    }
    return OK;
}

static enum status measure(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const double start = report_seconds();
    enum status status = open_all(run, values, err);
    if (!status)
        status =
            run->base || run->stored ? measure_against(run, values, err) : measure_alone(run, values, err);
    run->subject.seconds = report_seconds() - start;
    if (status) return status;
    run->subject.protocol = perplexity_protocol_name(run->cut.protocol);
    run->subject.text_crc32 = run->cut.crc32;
    run->subject.tokens = run->cut.tokens;
    run->subject.measured = &run->measured;
    return gate_decide(&run->result, &run->limits, &run->measured, err);
}

/* ---- reporting ---- */

static enum status print_result(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    if (!values->common.json) {
        gate_print_table(&run->result, &run->subject);
        return OK;
    }
    gate_write_json(&writer, &run->result, &run->subject, kernels()->name, pool_workers(run->setting.pool));
    return commands_print_json(&writer, err);
}

static enum status write_reports(
    const struct gate_values *values, const struct gate_report *report, struct error *err)
{
    enum status status = OK, appended = OK;
    if (values->junit) status = gate_report_junit(values->junit, report, err);
    if (values->summary) appended = gate_report_summary(values->summary, report, status ? NULL : err);
    return status ? status : appended;
}

/* The measurement could not be made: its error is reported, and stays the one that the command ends with. */
static void report_failure_to_measure(
    struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct error first = *err;
    struct error second = {0};
    const struct gate_report report = {&run->subject, NULL, &first};
    run->subject.measured = NULL;
    if (write_reports(values, &report, &second)) fail(err, first.code, "%s; and %s", first.text, second.text);
}

/* Exit code 7 says which checks failed. */
static enum status conclude(const struct gate_run *run, struct error *err)
{
    char words[GATE_CHECKS * 24] = "";
    size_t used = 0;
    if (run->result.failed == 0) return OK;
    for (uint64_t i = 0; i < run->result.count; i++) {
        const struct gate_verdict *verdict = &run->result.verdicts[i];
        if (verdict->passed) continue;
        used += (size_t)snprintf(
            words + used, sizeof words - used, "%s%s", used ? ", " : "", verdict->check->word);
    }
    return fail(err, ERR_CHECK, "%s: %" PRIu64 " of %" PRIu64 " checks failed: %s", run->subject.model,
        run->result.failed, run->result.count, words);
}

static enum status run_checked(struct gate_run *run, const struct gate_values *values, struct error *err)
{
    const struct gate_report report = {&run->subject, &run->result, NULL};
    run->subject.model = values->model;
    run->subject.text = values->text.text;
    run->subject.base_option = values->base          ? "base"
                               : values->base_logits ? "base-logits"
                               : values->baseline    ? "baseline"
                                                     : NULL;
    run->subject.base = values->base          ? values->base
                        : values->base_logits ? values->base_logits
                                              : values->baseline;
    enum status status = measure(run, values, err);
    if (status) {
        report_failure_to_measure(run, values, err);
        return status;
    }
    status = print_result(run, values, err);
    if (!status) status = write_reports(values, &report, err);
    return status ? status : conclude(run, err);
}

static enum status run_gate(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct gate_values values = {.running = {.kv_bits = "32"}, .confidence = "95%"};
    struct gate_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    const char *job_summary = getenv("GITHUB_STEP_SUMMARY");
    if (!values.summary && job_summary && *job_summary) values.summary = job_summary;
    status = check_values(&run, &values, err);
    if (!status) status = check_outputs(&values, err);
    if (!values.text.protocol) values.text.protocol = "gptq";
    if (!status) status = run_checked(&run, &values, err);
    close_all(&run);
    return status;
}

const struct check_command command_gate = {"gate", &usage, run_gate};
