/* nibble-distill export: its options, and what it prints. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "distill/commands/distill_commands.h"
#include "distill/export_files.h"

struct export_values {
    struct common_options common;
    const char *dataset, *output, *format;
    bool force, skip_damaged;
};

static const struct operand operands[] = {
    {"DATASET", offsetof(struct export_values, dataset), "A folder that `nibble-distill dataset` made."},
    {"OUT", offsetof(struct export_values, output), "The file to write; with --format npy a new folder."},
};

static const struct option option_table[] = {
    {"format", OPTION_CHOICE, offsetof(struct export_values, format), 0, 0, "safetensors|npy|jsonl", "NAME",
        "by OUT's name", "safetensors and npy: arrays. jsonl: one object per sequence, with its text.",
        "Options"},
    {"force", OPTION_FLAG, offsetof(struct export_values, force), 0, 0, NULL, NULL, NULL,
        "Replace OUT if it is a file that exists.", NULL},
    {"skip-damaged", OPTION_FLAG, offsetof(struct export_values, skip_damaged), 0, 0, NULL, NULL, NULL,
        "Go on without shards that are damaged or missing; each is named.", NULL},
    COMMON_OPTIONS(struct export_values),
};

static const struct command usage = {
    .name = "nibble-distill export",
    .summary = "Write a dataset as arrays or JSON lines, for other programs.",
    .details = "Arrays, one row per token: tokens, logsumexp, tail (or entropy), ids and log_probs (or "
               "log_weights),\n"
               "hidden. Per sequence: offsets (where it begins; one more for the end), prompts (tokens "
               "given), sources.\n"
               "\n"
               "Examples:\n"
               "  nibble-distill export out.nbd out.safetensors\n"
               "  nibble-distill export out.nbd arrays --format npy\n"
               "  nibble-distill export out.nbd out.jsonl\n",
    .operands = operands,
    .operand_count = DISTILL_COUNT(operands),
    .options = option_table,
    .option_count = DISTILL_COUNT(option_table),
};

static const char *format_of(const struct export_values *values)
{
    const char *end = strrchr(values->output, '.');
    if (values->format) return values->format;
    if (end && strcmp(end, ".safetensors") == 0) return "safetensors";
    if (end && (strcmp(end, ".jsonl") == 0 || strcmp(end, ".ndjson") == 0)) return "jsonl";
    return NULL;
}

static enum status export_as(struct export_result *out, struct dataset *dataset,
    const struct export_values *values, const char *format, struct error *err)
{
    if (strcmp(format, "npy") == 0) return export_npy(out, dataset, values->output, err);
    if (strcmp(format, "jsonl") == 0)
        return export_json_lines(out, dataset, values->output, values->force, err);
    return export_safetensors(out, dataset, values->output, values->force, err);
}

static enum status print_as_json(const struct export_values *values, const struct export_result *result,
    uint64_t damaged, struct error *err)
{
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_put_text(&json, "tool", "nibble-distill export");
    json_put_text(&json, "version", NIBBLE_VERSION);
    json_put_text(&json, "output", values->output);
    json_put_u64(&json, "sequences", result->sequences);
    json_put_u64(&json, "tokens", result->tokens);
    json_put_u64(&json, "bytes", result->bytes);
    json_put_u64(&json, "shards_damaged", damaged);
    json_close_object(&json);
    return distill_print_json(&json, err);
}

static enum status run_export(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct export_values values = {0};
    struct export_result result = {0};
    struct dataset dataset;
    char size[16];
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    const struct report report = {.quiet = values.common.quiet, .verbose = values.common.verbose};
    const char *format = format_of(&values);
    if (!format)
        return fail(err, ERR_USAGE, "%s: its name says no format; give --format safetensors, npy or jsonl",
            values.output);
    status = dataset_open(&dataset, values.dataset, values.skip_damaged, &report, err);
    if (!status) status = export_as(&result, &dataset, &values, format, err);
    if (!status && values.common.json)
        status = print_as_json(&values, &result, dataset.damaged, err);
    else if (!status)
        printf("%s: %" PRIu64 " sequences, %" PRIu64 " tokens, %s\n", values.output, result.sequences,
            result.tokens, report_bytes(size, result.bytes));
    dataset_close(&dataset);
    return status;
}

const struct distill_command distill_export = {"export", &usage, run_export};
