/* nibble-check layers: its options, and what it says around the tables. The work is in damage.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/judge/damage.h"
#include "runtime-check/judge/damage_print.h"

struct layers_values {
    struct common_options common;
    const char *base, *model, *swap, *sort;
    struct text_values text;
    struct model_values models;
    bool csv;
};

static const struct operand operands[] = {
    {"BASE", offsetof(struct layers_values, base),
        "The original: a Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file."},
    {"MODEL", offsetof(struct layers_values, model), "What became of it: the same architecture and shape."},
};

static const struct option option_table[] = {
    {"text", OPTION_TEXT, offsetof(struct layers_values, text.text), 0, 0, NULL, "FILE", NULL,
        "Also run both models on this text, UTF-8, and show what every layer does to the residual stream.",
        "Options"},
    {"swap", OPTION_CHOICE, offsetof(struct layers_values, swap), 0, 0, "none|layer|matrix", "WHAT", "none",
        "Also put each layer (or each tensor) of MODEL alone into BASE and measure the KL divergence this "
        "causes: what it would be worth to store that one exactly. Reads the text once for each.",
        NULL},
    {"sort", OPTION_CHOICE, offsetof(struct layers_values, sort), 0, 0, "error|order", "HOW", "error",
        "error: worst first. order: as they come in the model.", NULL},
    {"csv", OPTION_FLAG, offsetof(struct layers_values, csv), 0, 0, NULL, NULL, NULL,
        "Print comma-separated values, with all digits.", NULL},
    WINDOW_OPTIONS(struct layers_values, text),
    MODEL_OPTIONS(struct layers_values, models),
    COMMON_OPTIONS(struct layers_values),
};

static const struct command usage = {
    .name = "nibble-check layers",
    .summary = "Where a compressed model is damaged: every tensor and every layer against the original.",
    .details =
        "output error: how far the residual stream after a layer is from BASE's, relative to its length, "
        "errors "
        "of earlier layers included. own error: the same when the layer starts from BASE's own stream, so "
        "what "
        "it adds by itself; 'of its change' is that relative to what the layer adds to the stream at all. "
        "KLD "
        "alone: KL divergence in nats per token of BASE with only that layer (tensor) from MODEL. --kv-bits "
        "is about the cache of MODEL; BASE keeps 32, also with a layer swapped in.\n"
        "\n"
        "Weights alone (seconds), layers on a text, and which matrices to give more bits:\n"
        "  nibble-check layers models/folio-4M int3.nbl\n"
        "  nibble-check layers models/folio-4M int3.nbl --text models/folio-4M/eval.txt --swap layer\n"
        "  nibble-check layers models/folio-4M int3.nbl --text models/folio-4M/eval.txt --windows 20 --swap "
        "matrix\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

struct layers_run {
    struct commands_setting setting;
    struct model *base, *model;
    char *text; /* NULL without --text */
    uint64_t text_bytes;
    struct damage damage;
    double seconds;
};

static enum status check_values(const struct layers_values *values, struct error *err)
{
    const bool swaps = strcmp(values->swap, "none") != 0;
    if (values->common.json && values->csv)
        return fail(err, ERR_USAGE, "--json and --csv exclude one another");
    if (swaps && !values->text.text)
        return fail(
            err, ERR_USAGE, "--swap %s needs --text FILE: a divergence is measured on a text", values->swap);
    return OK;
}

static enum status open_all(struct layers_run *run, const struct layers_values *values, struct error *err)
{
    const struct model_values exact_cache = {.kv_bits = "32", .check = values->models.check};
    enum status status = commands_open(&run->setting, &values->common, err);
    if (!status && values->text.text)
        status = commands_read_text(&run->text, &run->text_bytes, &values->text, err);
    if (!status) status = commands_open_model(&run->base, values->base, &exact_cache, &run->setting, err);
    return status ? status
                  : commands_open_model(&run->model, values->model, &values->models, &run->setting, err);
}

static void close_all(struct layers_run *run)
{
    damage_free(&run->damage);
    model_close(run->base);
    model_close(run->model);
    memory_free(run->text);
    pool_free(run->setting.pool);
}

/* ---- printing ---- */

/* What all parts (or tensors) alone cause, added up. */
static double sum_alone(const struct damage *damage)
{
    double sum = 0;
    for (uint64_t i = 0; i < damage->part_count; i++)
        sum += damage->parts[i].swapped ? damage->parts[i].kld.value : 0;
    for (uint64_t i = 0; i < damage->tensor_count; i++)
        sum += damage->tensors[i].swapped ? damage->tensors[i].kld.value : 0;
    return sum;
}

static enum status print_as_json(
    const struct layers_run *run, const struct layers_values *values, struct error *err)
{
    const struct damage *damage = &run->damage;
    struct json_writer writer = {.indent = 2};
    commands_open_json(&writer, "layers");
    json_put_text(&writer, "base", values->base);
    json_put_text(&writer, "model", values->model);
    json_put_bool(&writer, "rescaled", damage->rescaled);
    if (run->text) {
        json_put_text(&writer, "text", values->text.text);
        json_put_text(&writer, "protocol", values->text.protocol);
        json_put_u64(&writer, "context", damage->context);
        json_put_u64(&writer, "windows", damage->windows);
        json_put_u64(&writer, "tokens", damage->tokens);
        json_put_text(&writer, "kv_bits", values->models.kv_bits);
    }
    json_put_text(&writer, "swap", values->swap);
    if (strcmp(values->swap, "none") != 0) {
        json_put_number(&writer, "kld", damage->kld.value);
        json_put_number(&writer, "kld_error", damage->kld.error);
        json_put_number(&writer, "kld_alone_sum", sum_alone(damage));
    }
    damage_write_json(&writer, damage);
    json_put_number(&writer, "seconds", run->seconds);
    return commands_close_json(&writer, &run->setting, err);
}

static uint64_t count_exact(const struct damage *damage)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < damage->tensor_count; i++)
        count += damage->tensors[i].exact;
    return count;
}

static void print_for_people(const struct layers_run *run, const struct layers_values *values)
{
    const struct damage *damage = &run->damage;
    damage_print_tables(damage);
    printf("\n%" PRIu64 " of %" PRIu64 " tensors are exact\n", count_exact(damage), damage->tensor_count);
    if (run->text)
        printf("%" PRIu64 " tokens read (%s protocol, context %" PRIu64 ")\n", damage->tokens,
            values->text.protocol, damage->context);
    if (strcmp(values->swap, "none") != 0)
        printf("KLD            %.6f +- %.6f of the whole model; those alone add up to %.6f\n",
            damage->kld.value, damage->kld.error, sum_alone(damage));
    commands_print_cost(run->seconds);
}

static void print_notes(const struct layers_run *run)
{
    const struct report *report = &run->setting.report;
    if (run->damage.rescaled)
        report_note(report, "note: norms differ from the base's: scales were moved between tensors (as AWQ "
                            "does), so errors of single tensors say nothing; those of layers hold");
    if (!run->text) report_note(report, "note: --text FILE shows what the layers do on a text");
}

static enum status run_layers(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct layers_values values = {
        .swap = "none", .sort = "error", .text.protocol = "gptq", .models.kv_bits = "32"};
    struct layers_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = check_values(&values, err)) || (status = open_all(&run, &values, err))) goto done;
    const struct damage_options options = {
        .text = commands_perplexity_options(&values.text),
        .swap = values.swap[0] == 'l'   ? DAMAGE_SWAP_LAYERS
                : values.swap[0] == 'm' ? DAMAGE_SWAP_MATRICES
                                        : DAMAGE_SWAP_NONE,
    };
    const double start = report_seconds();
    status = damage_measure(
        &run.damage, run.base, run.model, run.text, run.text_bytes, &options, &run.setting.report, err);
    run.seconds = report_seconds() - start;
    if (status) goto done;
    if (strcmp(values.sort, "error") == 0) damage_sort(&run.damage);
    print_notes(&run);
    if (values.common.json)
        status = print_as_json(&run, &values, err);
    else if (values.csv)
        damage_print_csv(&run.damage);
    else
        print_for_people(&run, &values);
done:
    close_all(&run);
    return status;
}

const struct check_command command_layers = {"layers", &usage, run_layers};
