/* nibble-check speculate: its options, and what it prints. The work is in speculate.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/commands/commands.h"
#include "runtime-check/judge/same_tokens.h"
#include "runtime-check/generate/speculate.h"
#include "tensor/kernels/kernels.h"

#define PROMPT_FILE_LIMIT (UINT64_C(64) << 20)

struct speculate_values {
    struct common_options common;
    const char *target, *draft, *prompt, *prompts, *text;
    uint64_t count, prompt_tokens;
    struct speculate_options options;
    struct model_values models;
};

static const struct operand operands[] = {
    {"TARGET", offsetof(struct speculate_values, target),
        "The model whose text is wanted: a Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or "
        "llama2.c file."},
};

static const struct option option_table[] = {
    {"draft", OPTION_TEXT, offsetof(struct speculate_values, draft), 0, 0, NULL, "MODEL", NULL,
        "The model that drafts tokens, of the same vocabulary. Required.", "Options"},
    {"lookahead", OPTION_COUNT, offsetof(struct speculate_values, options.lookahead), 1, SPECULATE_LOOKAHEAD,
        NULL, "N", "4", "Tokens drafted before the target looks at them.", NULL},
    {"tokens", OPTION_COUNT, offsetof(struct speculate_values, options.tokens), 1, 1 << 20, NULL, "N", "64",
        "Tokens to generate after each prompt, each way.", NULL},
    {"temperature", OPTION_NUMBER, offsetof(struct speculate_values, options.temperature), 0, 100, NULL, "T",
        "0", "0 takes the likeliest token every time; drafts are accepted less at higher ones.", NULL},
    {"seed", OPTION_COUNT, offsetof(struct speculate_values, options.seed), 0, 0x1p53, NULL, "N", "0",
        "The same seed gives the same texts.", NULL},
    {"ignore-eos", OPTION_FLAG, offsetof(struct speculate_values, options.ignore_eos), 0, 0, NULL, NULL, NULL,
        "Go on after an end-of-sequence token.", NULL},
    {"text", OPTION_TEXT, offsetof(struct speculate_values, text), 0, 0, NULL, "FILE", NULL,
        "Continue windows of this text, UTF-8, spread evenly over it: the best estimate for text of that "
        "kind.",
        "Prompts (one of these; none: BOS and each of the likeliest first tokens)"},
    {"prompt", OPTION_TEXT, offsetof(struct speculate_values, prompt), 0, 0, NULL, "TEXT", NULL,
        "Continue this text.", NULL},
    {"prompts", OPTION_TEXT, offsetof(struct speculate_values, prompts), 0, 0, NULL, "FILE", NULL,
        "Continue every line of this file.", NULL},
    {"count", OPTION_COUNT, offsetof(struct speculate_values, count), 1, 1 << 20, NULL, "N", "16",
        "Windows of --text, or first tokens.", NULL},
    {"prompt-tokens", OPTION_COUNT, offsetof(struct speculate_values, prompt_tokens), 1, 1 << 20, NULL, "N",
        "32", "Tokens of each window of --text.", NULL},
    MODEL_OPTIONS(struct speculate_values, models),
    COMMON_OPTIONS(struct speculate_values),
};

static const struct command usage = {
    .name = "nibble-check speculate",
    .summary =
        "Run speculative decoding: what a small or compressed model is worth as a draft for a large one.",
    .details =
        "The draft proposes --lookahead tokens, TARGET looks at them in one step and keeps the longest part "
        "that "
        "the rejection rule of Leviathan et al. 2023 (arXiv 2211.17192) accepts, and one token of its own. "
        "What "
        "comes out is distributed as TARGET alone would have it; at temperature 0 it is the same text. Both "
        "ways "
        "are run after every prompt, and both are timed.\n"
        "\n"
        "Costs are in steps of TARGET that generate one token. 'implied speed-up' takes the acceptance and "
        "the "
        "costs measured here. 'if verifying cost 1' assumes that looking at all tokens costs as much as at "
        "one "
        "(equation of the paper), 'by bytes' also that a drafted token costs its share of the bytes of "
        "weights: "
        "what a runtime could reach that waits for memory only. What was really reached is the measured "
        "speed-up.\n"
        "\n"
        "Small models repeat themselves at temperature 0, and repetition is easy to draft; --temperature 1 "
        "shows more ordinary text.\n"
        "\n"
        "Example:\n"
        "  nibble-check speculate models/folio-4M --draft int4.nbl --text models/folio-4M/eval.txt\n",
    .operands = operands,
    .operand_count = COMMANDS_COUNT(operands),
    .options = option_table,
    .option_count = COMMANDS_COUNT(option_table),
};

struct speculate_run {
    struct commands_setting setting;
    struct model *target, *draft;
    char *text; /* of --text or --prompts; NULL without */
    uint64_t text_bytes;
    struct prompts prompts;
    struct speculate_result result;
};

static enum status check_values(const struct speculate_values *values, struct error *err)
{
    if (!values->draft)
        return fail(err, ERR_USAGE, "--draft MODEL is missing: the model that proposes tokens");
    if (!!values->prompt + !!values->prompts + !!values->text > 1)
        return fail(err, ERR_USAGE, "--prompt, --prompts and --text exclude one another");
    return OK;
}

static enum status make_prompts(
    struct speculate_run *run, const struct speculate_values *values, struct error *err)
{
    struct prompts *prompts = &run->prompts;
    const char *path = values->text ? values->text : values->prompts;
    enum status status =
        path ? file_read_all(&run->text, &run->text_bytes, path, PROMPT_FILE_LIMIT, err) : OK;
    if (status) return status;
    if (values->text)
        return speculate_prompts_windows(
            prompts, run->target, run->text, run->text_bytes, values->count, values->prompt_tokens, err);
    if (values->prompts) {
        status = prompts_lines(prompts, run->target, run->text, run->text_bytes, false, err);
        return status ? fail_within(err, status, "%s", path) : OK;
    }
    if (values->prompt) return prompts_add(prompts, run->target, values->prompt, strlen(values->prompt), err);
    return speculate_prompts_likeliest(prompts, run->target, values->count, err);
}

static enum status open_all(
    struct speculate_run *run, const struct speculate_values *values, struct error *err)
{
    enum status status = commands_open(&run->setting, &values->common, err);
    if (!status)
        status = commands_open_model(&run->target, values->target, &values->models, &run->setting, err);
    if (!status)
        status = commands_open_model(&run->draft, values->draft, &values->models, &run->setting, err);
    if (!status) status = make_prompts(run, values, err);
    if (status) return status;
    const char *text = run->text ? run->text : values->prompt;
    return same_tokens_check(run->target, run->draft, text,
        run->text ? run->text_bytes
        : text    ? strlen(text)
                  : 0,
        err);
}

static void close_all(struct speculate_run *run)
{
    prompts_free(&run->prompts);
    memory_free(run->text);
    model_close(run->target);
    model_close(run->draft);
    pool_free(run->setting.pool);
}

static void print_notes(const struct speculate_run *run, const struct speculate_values *values)
{
    const struct report *report = &run->setting.report;
    const uint64_t reach = run->prompts.longest + 1 + values->options.tokens;
    const uint32_t context = run->target->config.context;
    if (reach > context)
        report_note(report, "note: %" PRIu64 " tokens are beyond the %" PRIu32 " that this model declares",
            reach, context);
    if (run->result.different)
        report_note(report,
            "note: %" PRIu64 " of %" PRIu64
            " texts part from those of the target alone: steps of one and of several tokens round "
            "differently, and the two tokens were a tie but for %.2g in their logits",
            run->result.different, run->result.prompts, run->result.different_gap);
}

/* ---- for programs ---- */

static void put_estimate(
    struct json_writer *writer, const char *key, const char *error_key, const struct estimate *estimate)
{
    json_put_number(writer, key, estimate->value);
    json_put_number(writer, error_key, estimate->error);
}

static void write_lists(struct json_writer *writer, const struct speculate_result *result, uint64_t lookahead)
{
    json_write_key(writer, "positions");
    json_open_array(writer);
    for (uint64_t i = 0; i < lookahead; i++) {
        json_open_object(writer);
        put_estimate(writer, "acceptance", "acceptance_error", &result->positions[i]);
        json_close_object(writer);
    }
    json_close_array(writer);
    json_write_key(writer, "lookaheads");
    json_open_array(writer);
    for (uint64_t i = 0; i < SPECULATE_TABLE; i++) {
        const struct speculate_choice *choice = &result->choices[i];
        json_open_object(writer);
        json_put_u64(writer, "lookahead", i + 1);
        json_put_number(writer, "tokens_per_cycle", choice->expected);
        json_put_number(writer, "draft_cost", result->table_draft_cost);
        json_put_number(writer, "verify_cost", choice->verify_cost);
        json_put_number(writer, "implied_speedup", choice->implied);
        json_put_number(writer, "implied_speedup_at_cost", choice->at_cost);
        json_put_number(writer, "implied_speedup_by_bytes", choice->by_bytes);
        json_close_object(writer);
    }
    json_close_array(writer);
}

static void write_numbers(struct json_writer *writer, const struct speculate_result *result)
{
    json_put_u64(writer, "prompts", result->prompts);
    json_put_u64(writer, "prompt_tokens", result->prompt_tokens);
    json_put_u64(writer, "tokens", result->tokens);
    json_put_u64(writer, "tokens_alone", result->tokens_alone);
    json_put_u64(writer, "cycles", result->cycles);
    json_put_u64(writer, "drafted", result->drafted);
    json_put_u64(writer, "accepted", result->accepted);
    put_estimate(writer, "acceptance", "acceptance_error", &result->acceptance);
    json_put_number(writer, "accepted_per_cycle", result->accepted_per_cycle);
    json_put_number(writer, "tokens_per_cycle", result->tokens_per_cycle);
    json_put_number(writer, "draft_cost", result->draft_cost);
    json_put_number(writer, "verify_cost", result->verify_cost);
    json_put_number(writer, "byte_ratio", result->byte_ratio);
    json_put_number(writer, "implied_speedup", result->implied);
    json_put_number(writer, "implied_speedup_at_cost", result->at_cost);
    json_put_number(writer, "implied_speedup_by_bytes", result->by_bytes);
    put_estimate(writer, "speedup", "speedup_error", &result->speedup);
    json_put_number(writer, "tokens_per_second", result->tokens_per_second);
    json_put_number(writer, "tokens_per_second_alone", result->tokens_per_second_alone);
    json_put_u64(writer, "best_lookahead", result->best);
    json_put_u64(writer, "different_texts", result->different);
    json_put_number(writer, "different_logit_gap", result->different_gap);
}

static enum status print_as_json(
    const struct speculate_run *run, const struct speculate_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    commands_open_json(&writer, "speculate");
    json_put_text(&writer, "target", values->target);
    json_put_text(&writer, "draft", values->draft);
    if (values->text) json_put_text(&writer, "text", values->text);
    if (values->prompt) json_put_text(&writer, "prompt", values->prompt);
    if (values->prompts) json_put_text(&writer, "prompt_file", values->prompts);
    json_put_u64(&writer, "lookahead", values->options.lookahead);
    json_put_number(&writer, "temperature", values->options.temperature);
    json_put_u64(&writer, "seed", values->options.seed);
    json_put_text(&writer, "kv_bits", values->models.kv_bits);
    write_numbers(&writer, &run->result);
    write_lists(&writer, &run->result, values->options.lookahead);
    json_put_number(&writer, "seconds", run->result.seconds);
    return commands_close_json(&writer, &run->setting, err);
}

/* ---- for people ---- */

static void print_acceptance(const struct speculate_result *result, uint64_t lookahead)
{
    printf("acceptance     %.4f +- %.4f of drafted tokens that were judged;", result->acceptance.value,
        result->acceptance.error);
    for (uint64_t i = 0; i < lookahead; i++)
        printf("%s %.3f", i ? "," : " by position", result->positions[i].value);
    printf("\naccepted       %.3f of %" PRIu64 " per cycle, so %.3f tokens per cycle in %" PRIu64 " cycles\n",
        result->accepted_per_cycle, lookahead, result->tokens_per_cycle, result->cycles);
}

static void print_speedups(const struct speculate_result *result, uint64_t lookahead)
{
    printf("cost           a drafted token %.3f, verifying %" PRIu64
           " tokens %.3f (a token of the target alone: 1)\n",
        result->draft_cost, lookahead + 1, result->verify_cost);
    printf("speed-up       %.3f", result->speedup.value);
    if (result->speedup.error > 0) printf(" +- %.3f", result->speedup.error);
    printf(" measured: %.1f tokens per second, %.1f alone\n", result->tokens_per_second,
        result->tokens_per_second_alone);
    printf("implied        %.3f by acceptance and costs, %.3f if verifying cost one token, %.3f by bytes\n",
        result->at_cost, result->implied, result->by_bytes);
    printf("bytes          the draft reads %.3f of the target's weights per token\n", result->byte_ratio);
}

static void print_table(const struct speculate_result *result)
{
    struct table table = {0};
    table_head(&table, 6,
        (const char *const[]){">lookahead", ">tokens per cycle", ">cost of verifying", ">implied speed-up",
            ">if verifying cost 1", ">by bytes"});
    for (uint64_t i = 0; i < SPECULATE_TABLE; i++) {
        const struct speculate_choice *choice = &result->choices[i];
        table_cell(&table, "%" PRIu64 "%s", i + 1, i + 1 == result->best ? " *" : "  ");
        table_cell(&table, "%.3f", choice->expected);
        table_cell(&table, "%.3f", choice->verify_cost);
        table_cell(&table, "%.3f", choice->at_cost);
        table_cell(&table, "%.3f", choice->implied);
        table_cell(&table, "%.3f", choice->by_bytes);
    }
    table_print(&table);
    table_free(&table);
}

static void print_for_people(const struct speculate_run *run, const struct speculate_values *values)
{
    const struct speculate_result *result = &run->result;
    char duration[24], memory[16];
    printf("generated      %" PRIu64 " tokens after %" PRIu64 " prompt%s at temperature %g, %" PRIu64
           " by the target alone\n",
        result->tokens, result->prompts, result->prompts == 1 ? "" : "s", values->options.temperature,
        result->tokens_alone);
    print_acceptance(result, values->options.lookahead);
    print_speedups(result, values->options.lookahead);
    printf("\n");
    print_table(result);
    if (result->best)
        printf("\n* the best of these at this acceptance; a drafted token then costs %.3f\n",
            result->table_draft_cost);
    else
        printf("\nno lookahead makes this draft faster than the target alone\n");
    printf("time           %s, peak memory %s, %u threads, %s kernels\n",
        report_duration(duration, result->seconds), report_bytes(memory, memory_peak_bytes()),
        pool_workers(run->setting.pool), kernels()->name);
}

static enum status run_speculate(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct speculate_values values = {
        .count = 16, .prompt_tokens = 32, .options = {.tokens = 64, .lookahead = 4}, .models.kv_bits = "32"};
    struct speculate_run run = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = check_values(&values, err)) || (status = open_all(&run, &values, err)) ||
        (status = speculate_measure(
             &run.result, run.target, run.draft, &run.prompts, &values.options, &run.setting.report, err))) {
        goto done;
    }
    print_notes(&run, &values);
    if (values.common.json)
        status = print_as_json(&run, &values, err);
    else
        print_for_people(&run, &values);
done:
    close_all(&run);
    return status;
}

const struct check_command command_speculate = {"speculate", &usage, run_speculate};
