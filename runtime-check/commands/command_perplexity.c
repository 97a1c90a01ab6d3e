/* nibble-check perplexity: its options, and what it prints. The work is in perplexity.c. */
#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "model/forward.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/judge/perplexity.h"
#include "runtime-check/inspect/record.h"
#include "tensor/kernels/kernels.h"

struct perplexity_values {
    struct common_options common;
    struct model_values how;
    struct text_values reading;
    const char *model;
    bool record;
};

static const struct operand operands[] = {
    {"MODEL", offsetof(struct perplexity_values, model),
        "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file."},
};

static const struct option option_table[] = {
    TEXT_OPTIONS(struct perplexity_values, reading),
    {"record", OPTION_FLAG, offsetof(struct perplexity_values, record), 0, 0, NULL, NULL, NULL,
        "Write the result into MODEL itself (.nbl only), as its document evaluation.json.", NULL},
    MODEL_OPTIONS(struct perplexity_values, how),
    COMMON_OPTIONS(struct perplexity_values),
};

static const struct command usage = {
    .name = "nibble-check perplexity",
    .summary = "Perplexity of a model on a text, under a named protocol.",
    .details =
        "The number after +- is the standard error: with at least 8 windows it takes blocks of consecutive\n"
        "windows as independent (20 or a few more; below 40 windows each is a block), because the tokens of\n"
        "one passage are hard or easy together; with fewer it takes tokens.\n"
        "\n"
        "Examples:\n"
        "  nibble-check perplexity models/folio-4M --text models/folio-4M/eval.txt\n"
        "  nibble-check perplexity small.nbl --text eval.txt --protocol llama.cpp --context 512 --json\n"
        "  nibble-check perplexity small.nbl --text eval.txt --json >baseline.json\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* What the standard error takes as independent. */
static const char *independent(const struct perplexity_result *result)
{
    return result->by_block ? "by block" : "by token";
}

static enum status print_as_json(const struct perplexity_values *values,
    const struct perplexity_result *result, const struct model *model, enum perplexity_protocol protocol,
    const struct commands_setting *setting, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    commands_open_json(&writer, "perplexity");
    json_put_text(&writer, "model", values->model);
    json_put_text(&writer, "text", values->reading.text);
    json_put_text(&writer, "protocol", perplexity_protocol_name(protocol));
    json_put_u64(&writer, "context", result->context);
    json_put_u64(&writer, "kv_bits", result->kv_bits);
    json_put_number(&writer, "perplexity", result->perplexity.value);
    json_put_number(&writer, "perplexity_error", result->perplexity.error);
    json_put_text(&writer, "errors", independent(result));
    json_put_number(&writer, "mean_nll", result->mean_nll);
    json_put_number(&writer, "bits_per_byte", result->bits_per_byte);
    json_put_u64(&writer, "tokens", result->tokens);
    json_put_u64(&writer, "tokens_scored", result->tokens_scored);
    json_put_u64(&writer, "windows", result->windows);
    json_put_numbers(&writer, "window_nll", result->window_nll, result->windows);
    json_put_u64(&writer, "text_bytes", result->text_bytes);
    json_put_crc32(&writer, "text_crc32", result->text_crc32);
    json_put_u64(&writer, "model_bytes", container_bytes(model->container));
    json_put_number(&writer, "seconds", result->seconds);
    json_put_number(&writer, "tokens_per_second", result->tokens_per_second);
    return commands_close_json(&writer, setting, err);
}

static void print_perplexity(const struct perplexity_result *result, enum perplexity_protocol protocol)
{
    char duration[24], memory[16], cache[32] = "";
    if (result->kv_bits < 32) snprintf(cache, sizeof cache, ", KV cache of %u bits", result->kv_bits);
    printf("perplexity     %.4f +- %.4f %s (%s protocol, context %" PRIu64 "%s)\n", result->perplexity.value,
        result->perplexity.error, independent(result), perplexity_protocol_name(protocol), result->context,
        cache);
    printf("bits per byte  %.4f\n", result->bits_per_byte);
    printf("tokens         %" PRIu64 ", of which %" PRIu64 " scored in %" PRIu64 " window%s\n",
        result->tokens, result->tokens_scored, result->windows, result->windows == 1 ? "" : "s");
    printf("time           %s, %.0f tokens per second, peak memory %s, %s kernels\n",
        report_duration(duration, result->seconds), result->tokens_per_second,
        report_bytes(memory, memory_peak_bytes()), kernels()->name);
}

static enum status run_perplexity(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct perplexity_values values = {.how.kv_bits = "32", .reading.protocol = "gptq"};
    struct commands_setting setting = {0};
    struct model *model = NULL;
    struct perplexity_result result = {0};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    const struct perplexity_options options = commands_perplexity_options(&values.reading);
    if ((status = commands_read_text(&text, &bytes, &values.reading, err)) ||
        (status = commands_open(&setting, &values.common, err)) ||
        (status = commands_open_model(&model, values.model, &values.how, &setting, err)) ||
        (values.record && (status = record_possible(model->container, err))) ||
        (status = perplexity_measure(&result, model, text, bytes, &options, &setting.report, err))) {
        goto done;
    }
    if (values.common.json)
        status = print_as_json(&values, &result, model, options.protocol, &setting, err);
    else
        print_perplexity(&result, options.protocol);
    if (!status && values.record) {
        model_close(model);
        model = NULL;
        status = record_perplexity(
            values.model, &result, options.protocol, values.reading.text, setting.pool, &setting.report, err);
    }
done:
    model_close(model);
    memory_free(result.window_nll);
    memory_free(text);
    pool_free(setting.pool);
    return status;
}

const struct check_command command_perplexity = {"perplexity", &usage, run_perplexity};
