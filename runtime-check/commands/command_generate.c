/* nibble-check generate: its options, and what it prints. The work is in generate.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/forward.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/generate/generate.h"
#include "tensor/kernels/kernels.h"

struct generate_values {
    struct common_options common;
    const char *model, *prompt;
    struct model_values run;
    struct generate_options options;
};

static const struct operand operands[] = {
    {"MODEL", offsetof(struct generate_values, model),
        "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file."},
};

static const struct option option_table[] = {
    {"prompt", OPTION_TEXT, offsetof(struct generate_values, prompt), 0, 0, NULL, "TEXT", "empty",
        "The text to continue.", "Options"},
    {"tokens", OPTION_COUNT, offsetof(struct generate_values, options.tokens), 1, 1 << 20, NULL, "N", "128",
        "At most so many new tokens.", NULL},
    {"temperature", OPTION_NUMBER, offsetof(struct generate_values, options.sampling.temperature), 0, 100,
        NULL, "T", "0", "0 takes the likeliest token every time; 0.7 to 1 reads more naturally.", NULL},
    {"top-k", OPTION_COUNT, offsetof(struct generate_values, options.sampling.top_k), 0, 1e9, NULL, "K", "0",
        "Sample among the K likeliest tokens only; 0: all.", NULL},
    {"top-p", OPTION_NUMBER, offsetof(struct generate_values, options.sampling.top_p), 0, 1, NULL, "P", "1",
        "Sample among the likeliest tokens that together reach probability P.", NULL},
    {"min-p", OPTION_NUMBER, offsetof(struct generate_values, options.sampling.min_p), 0, 1, NULL, "P", "0",
        "Sample among tokens at least P times as likely as the likeliest.", NULL},
    {"repetition-penalty", OPTION_NUMBER,
        offsetof(struct generate_values, options.sampling.repetition_penalty), 0.01, 100, NULL, "R", "1",
        "Divide the logits of tokens that occurred already by R (multiply negative ones).", NULL},
    {"seed", OPTION_COUNT, offsetof(struct generate_values, options.seed), 0, 0x1p53, NULL, "N", "0",
        "The same seed gives the same text.", NULL},
    {"ignore-eos", OPTION_FLAG, offsetof(struct generate_values, options.ignore_eos), 0, 0, NULL, NULL, NULL,
        "Go on after an end-of-sequence token.", NULL},
    MODEL_OPTIONS(struct generate_values, run),
    COMMON_OPTIONS(struct generate_values),
};

static const struct command usage = {
    .name = "nibble-check generate",
    .summary = "Continue a text with a model, to see that it still speaks.",
    .details =
        "Example:\n"
        "  nibble-check generate small.nbl --prompt 'It was a' --tokens 60 --temperature 0.8 --seed 7\n"
        "  nibble-check generate small.nbl --prompt 'It was a' --kv-bits 8\n"
        "\n"
        "--kv-bits keeps what attention looks back at in fewer bits: of the memory that 32 take, 8 take 27 "
        "percent and change "
        "next to nothing, 4 take 15 percent and cost a little quality.\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

/* Text goes to the terminal as it comes. */
static void show_text(void *context, const char *text, uint64_t bytes)
{
    (void)context;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static enum status print_as_json(const struct generate_values *values, const struct generate_result *result,
    struct model *model, const uint32_t *ids, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status =
        tokenizer_decode(model->tokenizer, &text, &bytes, ids, result->new_tokens, true, err);
    if (status) return status;
    commands_open_json(&writer, "generate");
    json_put_text(&writer, "model", values->model);
    json_put_text(&writer, "prompt", values->prompt);
    json_write_key(&writer, "text");
    json_write_string(&writer, text, bytes);
    json_write_key(&writer, "ids");
    json_open_array(&writer);
    for (uint64_t i = 0; i < result->new_tokens; i++)
        json_write_u64(&writer, ids[i]);
    json_close_array(&writer);
    json_put_u64(&writer, "kv_bits", model->cache_bits);
    json_put_u64(&writer, "prompt_tokens", result->prompt_tokens);
    json_put_u64(&writer, "new_tokens", result->new_tokens);
    json_put_bool(&writer, "stopped", result->stopped);
    json_put_number(&writer, "prompt_seconds", result->prompt_seconds);
    json_put_number(&writer, "seconds", result->new_seconds);
    json_put_number(&writer, "tokens_per_second", (double)result->new_tokens / result->new_seconds);
    json_put_u64(&writer, "peak_memory_bytes", memory_peak_bytes());
    json_put_text(&writer, "kernels", kernels()->name);
    json_close_object(&writer);
    memory_free(text);
    return commands_print_json(&writer, err);
}

static enum status run_generate(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct generate_values values = {.prompt = "",
        .run = {.kv_bits = "32"},
        .options = {.tokens = 128, .sampling = {.top_p = 1, .repetition_penalty = 1}}};
    struct commands_setting setting = {0};
    struct model *model = NULL;
    struct generate_result result;
    uint32_t *ids = NULL;
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = commands_open(&setting, &values.common, err)) ||
        (status = commands_open_model(&model, values.model, &values.run, &setting, err)) ||
        (status = generate_text(&result, &ids, model, values.prompt, strlen(values.prompt), &values.options,
             values.common.json ? NULL : show_text, NULL, err))) {
        goto done;
    }
    if (values.common.json) {
        status = print_as_json(&values, &result, model, ids, err);
    } else {
        printf("\n");
        report_note(&setting.report,
            "%" PRIu64 " prompt tokens in %.2f s, %" PRIu64 " new ones in %.2f s (%.1f per second)%s",
            result.prompt_tokens, result.prompt_seconds, result.new_tokens, result.new_seconds,
            (double)result.new_tokens / result.new_seconds,
            result.stopped ? ", stopped by an end token" : "");
    }
done:
    memory_free(ids);
    model_close(model);
    pool_free(setting.pool);
    return status;
}

const struct check_command command_generate = {"generate", &usage, run_generate};
