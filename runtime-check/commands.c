/* See commands.h. Each command: a structure of values, one option table, and a function that calls the library and
 * prints. */
#include "runtime-check/commands.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/report.h"
#include "model/forward.h"
#include "runtime-check/generate.h"
#include "runtime-check/inspect.h"
#include "runtime-check/perplexity.h"
#include "runtime-check/record.h"
#include "runtime-check/verify.h"
#include "tensor/kernels/kernels.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* What every command needs once its options are known. */
struct setting {
    struct pool *pool;
    struct report report;
};

static enum status setting_open(struct setting *setting, const struct common_options *common, struct error *err)
{
    setting->report = (struct report){.quiet = common->quiet, .verbose = common->verbose};
    enum status status = pool_create(&setting->pool, (unsigned)common->threads, err);
    if (!status) {
        report_detail(&setting->report, "kernels: %s, threads: %u", kernels()->name, pool_workers(setting->pool));
    }
    return status;
}

static enum status print_json(struct json_writer *writer, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = json_writer_take(writer, &text, &bytes, err);
    if (!status && fwrite(text, 1, bytes, stdout) != bytes) status = fail(err, ERR_IO, "standard output: write error");
    memory_free(text);
    return status;
}

/* ---- perplexity ------------------------------------------------------------------------------------------------- */

struct perplexity_values {
    struct common_options common;
    const char *model, *text, *protocol;
    uint64_t context, windows;
    bool record;
};

static const struct operand perplexity_operands[] = {
    {"MODEL", offsetof(struct perplexity_values, model), "A Hugging Face folder, a .safetensors file or a .nbl file."},
};

static const struct option perplexity_options[] = {
    {"text", OPTION_TEXT, offsetof(struct perplexity_values, text), 0, 0, NULL, "FILE", NULL,
        "The text to score, UTF-8. Required.", "Options"},
    {"protocol", OPTION_CHOICE, offsetof(struct perplexity_values, protocol), 0, 0, "gptq|llama.cpp", "NAME", "gptq",
        "gptq: windows without overlap, every position but the first scored. llama.cpp: each window begins with BOS and "
        "its second half is scored. Numbers of different protocols or contexts do not compare.",
        NULL},
    {"context", OPTION_COUNT, offsetof(struct perplexity_values, context), 4, 1 << 20, NULL, "N",
        "the model's, at most 2048 (gptq) or 512 (llama.cpp)", "Tokens per window.", NULL},
    {"windows", OPTION_COUNT, offsetof(struct perplexity_values, windows), 1, 1e9, NULL, "N", "all",
        "Score only the first N windows.", NULL},
    {"record", OPTION_FLAG, offsetof(struct perplexity_values, record), 0, 0, NULL, NULL, NULL,
        "Write the result into MODEL itself (.nbl only), as its document evaluation.json.", NULL},
    COMMON_OPTIONS(struct perplexity_values),
};

static const struct command perplexity_command = {
    .name = "nibble-check perplexity",
    .summary = "Perplexity of a model on a text, under a named protocol.",
    .details = "Examples:\n"
               "  nibble-check perplexity models/folio-4M --text models/folio-4M/eval.txt\n"
               "  nibble-check perplexity small.nbl --text eval.txt --protocol llama.cpp --context 512 --json\n",
    .operands = perplexity_operands,
    .operand_count = COUNT_OF(perplexity_operands),
    .options = perplexity_options,
    .option_count = COUNT_OF(perplexity_options),
};

static enum status print_perplexity_json(const struct perplexity_values *values,
    const struct perplexity_result *result, const struct model *model, enum perplexity_protocol protocol,
    struct error *err)
{
    struct json_writer writer = {.indent = 2};
    json_open_object(&writer);
    json_put_text(&writer, "tool", "nibble-check perplexity");
    json_put_text(&writer, "version", NIBBLE_VERSION);
    json_put_text(&writer, "model", values->model);
    json_put_text(&writer, "text", values->text);
    json_put_text(&writer, "protocol", perplexity_protocol_name(protocol));
    json_put_u64(&writer, "context", result->context);
    json_put_number(&writer, "perplexity", result->perplexity);
    json_put_number(&writer, "perplexity_error", result->perplexity_error);
    json_put_number(&writer, "mean_nll", result->mean_nll);
    json_put_number(&writer, "bits_per_byte", result->bits_per_byte);
    json_put_u64(&writer, "tokens", result->tokens);
    json_put_u64(&writer, "tokens_scored", result->tokens_scored);
    json_put_u64(&writer, "windows", result->windows);
    json_put_u64(&writer, "text_bytes", result->text_bytes);
    json_put_u64(&writer, "model_bytes", container_bytes(model->container));
    json_put_number(&writer, "seconds", result->seconds);
    json_put_number(&writer, "tokens_per_second", result->tokens_per_second);
    json_put_u64(&writer, "peak_memory_bytes", memory_peak_bytes());
    json_put_u64(&writer, "threads", pool_workers(model->pool));
    json_put_text(&writer, "kernels", kernels()->name);
    json_close_object(&writer);
    return print_json(&writer, err);
}

static void print_perplexity(const struct perplexity_result *result, enum perplexity_protocol protocol)
{
    char duration[24], memory[16];
    printf("perplexity     %.4f +- %.4f (%s protocol, context %" PRIu64 ")\n", result->perplexity,
        result->perplexity_error, perplexity_protocol_name(protocol), result->context);
    printf("bits per byte  %.4f\n", result->bits_per_byte);
    printf("tokens         %" PRIu64 ", of which %" PRIu64 " scored in %" PRIu64 " windows\n", result->tokens,
        result->tokens_scored, result->windows);
    printf("time           %s, %.0f tokens per second, peak memory %s, %s kernels\n",
        report_duration(duration, result->seconds), result->tokens_per_second,
        report_bytes(memory, memory_peak_bytes()), kernels()->name);
}

static enum status run_perplexity(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct perplexity_values values = {.protocol = "gptq"};
    struct setting setting = {0};
    struct model *model = NULL;
    struct perplexity_result result;
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = options_parse(&perplexity_command, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if (!values.text) return fail(err, ERR_USAGE, "--text FILE is missing: the text to score");
    const struct perplexity_options options = {
        .protocol = strcmp(values.protocol, "gptq") == 0 ? PERPLEXITY_GPTQ : PERPLEXITY_LLAMA_CPP,
        .context = values.context,
        .max_windows = values.windows,
    };
    if ((status = setting_open(&setting, &values.common, err)) ||
        (status = file_read_all(&text, &bytes, values.text, UINT64_C(2) << 30, err)) ||
        (status = model_open(&model, values.model, setting.pool, err)) ||
        (values.record && (status = record_possible(model->container, err))) ||
        (status = perplexity_measure(&result, model, text, bytes, &options, &setting.report, err))) {
        goto done;
    }
    if (values.common.json) status = print_perplexity_json(&values, &result, model, options.protocol, err);
    else print_perplexity(&result, options.protocol);
    if (!status && values.record) {
        model_close(model);
        model = NULL;
        status = record_perplexity(values.model, &result, options.protocol, values.text, setting.pool,
            &setting.report, err);
    }
done:
    model_close(model);
    memory_free(text);
    pool_free(setting.pool);
    return status;
}

/* ---- verify ----------------------------------------------------------------------------------------------------- */

struct verify_values {
    struct common_options common;
    const char *file, *source;
};

static const struct operand verify_operands[] = {
    {"FILE", offsetof(struct verify_values, file), "A .nbl file, a .safetensors file or a Hugging Face folder."},
};

static const struct option verify_options[] = {
    {"source", OPTION_TEXT, offsetof(struct verify_values, source), 0, 0, NULL, "MODEL", NULL,
        "Also compare every tensor with the one of the same name in MODEL, and list what it lost.", "Options"},
    COMMON_OPTIONS(struct verify_values),
};

static const struct command verify_command = {
    .name = "nibble-check verify",
    .summary = "Read every byte of a model file and check it: structure, checksums, finite weights, architecture.",
    .details = "Exit code 0: everything holds. 7: something does not; every fault is named. 3: the file's header or "
               "table cannot be trusted at all.\n\n"
               "Example:\n"
               "  nibble-check verify small.nbl --source models/folio-4M\n",
    .operands = verify_operands,
    .operand_count = COUNT_OF(verify_operands),
    .options = verify_options,
    .option_count = COUNT_OF(verify_options),
};

/* Faults as they are found: printed for people, collected for --json. */
struct fault_list {
    bool json;
    struct json_writer writer;
};

static void add_fault(void *context, const char *text)
{
    struct fault_list *list = context;
    if (list->json) json_write_text(&list->writer, text);
    else printf("fault: %s\n", text);
}

static void put_differences(struct json_writer *writer, const struct verify_difference *differences, uint64_t count)
{
    json_write_key(writer, "differences");
    json_open_array(writer);
    for (uint64_t i = 0; i < count; i++) {
        json_open_object(writer);
        json_put_text(writer, "name", differences[i].tensor->name);
        json_put_bool(writer, "missing", differences[i].missing);
        json_put_number(writer, "relative_rms", differences[i].relative_rms);
        json_put_number(writer, "largest", differences[i].largest);
        json_close_object(writer);
    }
    json_close_array(writer);
}

static void print_differences(const struct verify_difference *differences, uint64_t count)
{
    struct table table = {0};
    char scheme[48];
    table_head(&table, 5,
        (const char *const[]){"tensor", "stored as", ">relative error", ">signal to noise", ">largest change"});
    for (uint64_t i = 0; i < count; i++) {
        const struct verify_difference *d = &differences[i];
        table_cell(&table, "%s", d->tensor->name);
        table_cell(&table, "%s", inspect_scheme(scheme, d->tensor));
        if (d->missing) {
            table_cell(&table, "not in source");
            table_cell(&table, "-");
            table_cell(&table, "-");
            continue;
        }
        table_cell(&table, "%.6f", d->relative_rms);
        if (d->relative_rms > 0) table_cell(&table, "%.1f dB", -20 * log10(d->relative_rms));
        else table_cell(&table, "exact");
        table_cell(&table, "%.3g", d->largest);
    }
    table_print(&table);
    table_free(&table);
}

/* Compare with --source and report, into the open JSON object or as a table. */
static enum status report_differences(const struct verify_values *values, struct setting *setting,
    struct json_writer *writer, struct error *err)
{
    struct container *container = NULL, *original = NULL;
    struct verify_difference *differences = NULL;
    enum status status = container_open(&container, values->file, err);
    if (!status) status = container_open(&original, values->source, err);
    if (!status) status = verify_against(&differences, container, original, setting->pool, &setting->report, err);
    if (!status && values->common.json) put_differences(writer, differences, container_count(container));
    else if (!status) print_differences(differences, container_count(container));
    memory_free(differences);
    container_close(original);
    container_close(container);
    return status;
}

static enum status run_verify(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct verify_values values = {0};
    struct setting setting = {0};
    struct verify_result result = {0};
    enum status status = options_parse(&verify_command, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = setting_open(&setting, &values.common, err))) return status;
    struct fault_list faults = {.json = values.common.json, .writer = {.indent = 2}};
    json_open_object(&faults.writer);
    json_put_text(&faults.writer, "tool", "nibble-check verify");
    json_put_text(&faults.writer, "version", NIBBLE_VERSION);
    json_put_text(&faults.writer, "file", values.file);
    json_write_key(&faults.writer, "faults");
    json_open_array(&faults.writer);
    status = verify_container(&result, values.file, setting.pool, &setting.report, add_fault, &faults, err);
    json_close_array(&faults.writer);
    if (status && status != ERR_CHECK) goto done;
    json_put_bool(&faults.writer, "ok", status == OK);
    json_put_u64(&faults.writer, "tensors", result.tensors);
    json_put_u64(&faults.writer, "bytes", result.bytes);
    if (!status && values.source) status = report_differences(&values, &setting, &faults.writer, err);
    json_close_object(&faults.writer);
    if (values.common.json) {
        struct error print_error;
        enum status printed = print_json(&faults.writer, &print_error);
        if (!status && printed) status = fail(err, printed, "%s", print_error.text);
    } else if (!status) {
        char bytes[16];
        printf("%s: everything holds: %" PRIu64 " tensors, %s\n", values.file, result.tensors,
            report_bytes(bytes, result.bytes));
    }
    if (status == ERR_CHECK) {
        fail(err, ERR_CHECK, "%s: %" PRIu64 " fault%s", values.file, result.faults, result.faults == 1 ? "" : "s");
    }
done:
    json_writer_free(&faults.writer);
    pool_free(setting.pool);
    return status;
}

/* ---- inspect ---------------------------------------------------------------------------------------------------- */

struct inspect_values {
    struct common_options common;
    const char *file;
    bool tensors;
};

static const struct operand inspect_operands[] = {
    {"FILE", offsetof(struct inspect_values, file), "A .nbl file, a .safetensors file or a Hugging Face folder."},
};

static const struct option inspect_options[] = {
    {"tensors", OPTION_FLAG, offsetof(struct inspect_values, tensors), 0, 0, NULL, NULL, NULL,
        "List every tensor instead of a summary.", "Options"},
    COMMON_OPTIONS(struct inspect_values),
};

static const struct command inspect_command = {
    .name = "nibble-check inspect",
    .summary = "Show what a model file holds: architecture, tensors, sizes, and how it was made.",
    .details = "Example:\n  nibble-check inspect small.nbl --tensors\n",
    .operands = inspect_operands,
    .operand_count = COUNT_OF(inspect_operands),
    .options = inspect_options,
    .option_count = COUNT_OF(inspect_options),
};

static enum status run_inspect(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct inspect_values values = {0};
    struct container *container = NULL;
    enum status status = options_parse(&inspect_command, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = container_open(&container, values.file, err))) return status;
    if (values.common.json) {
        struct json_writer writer = {.indent = 2};
        status = inspect_json(container, &writer, err);
        if (!status) status = print_json(&writer, err);
        json_writer_free(&writer);
    } else {
        status = inspect_print(container, values.tensors, err);
    }
    container_close(container);
    return status;
}

/* ---- generate --------------------------------------------------------------------------------------------------- */

struct generate_values {
    struct common_options common;
    const char *model, *prompt;
    struct generate_options options;
};

static const struct operand generate_operands[] = {
    {"MODEL", offsetof(struct generate_values, model), "A Hugging Face folder, a .safetensors file or a .nbl file."},
};

static const struct option generate_option_table[] = {
    {"prompt", OPTION_TEXT, offsetof(struct generate_values, prompt), 0, 0, NULL, "TEXT", "empty",
        "The text to continue.", "Options"},
    {"tokens", OPTION_COUNT, offsetof(struct generate_values, options.tokens), 1, 1 << 20, NULL, "N", "128",
        "At most so many new tokens.", NULL},
    {"temperature", OPTION_NUMBER, offsetof(struct generate_values, options.temperature), 0, 100, NULL, "T", "0",
        "0 takes the likeliest token every time; 0.7 to 1 reads more naturally.", NULL},
    {"top-k", OPTION_COUNT, offsetof(struct generate_values, options.top_k), 0, 1e9, NULL, "K", "0",
        "Sample among the K likeliest tokens only; 0: all.", NULL},
    {"top-p", OPTION_NUMBER, offsetof(struct generate_values, options.top_p), 0, 1, NULL, "P", "1",
        "Sample among the likeliest tokens that together reach probability P.", NULL},
    {"seed", OPTION_COUNT, offsetof(struct generate_values, options.seed), 0, 0x1p53, NULL, "N", "0",
        "The same seed gives the same text.", NULL},
    {"ignore-eos", OPTION_FLAG, offsetof(struct generate_values, options.ignore_eos), 0, 0, NULL, NULL, NULL,
        "Go on after an end-of-sequence token.", NULL},
    COMMON_OPTIONS(struct generate_values),
};

static const struct command generate_command = {
    .name = "nibble-check generate",
    .summary = "Continue a text with a model, to see that it still speaks.",
    .details = "Example:\n"
               "  nibble-check generate small.nbl --prompt 'It was a' --tokens 60 --temperature 0.8 --seed 7\n",
    .operands = generate_operands,
    .operand_count = COUNT_OF(generate_operands),
    .options = generate_option_table,
    .option_count = COUNT_OF(generate_option_table),
};

/* Text goes to the terminal as it comes, or into a buffer for --json. */
static void show_text(void *context, const char *text, uint64_t bytes)
{
    (void)context;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static enum status print_generate_json(const struct generate_values *values, const struct generate_result *result,
    struct model *model, const uint32_t *ids, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = tokenizer_decode(model->tokenizer, &text, &bytes, ids, result->new_tokens, true, err);
    if (status) return status;
    json_open_object(&writer);
    json_put_text(&writer, "tool", "nibble-check generate");
    json_put_text(&writer, "version", NIBBLE_VERSION);
    json_put_text(&writer, "model", values->model);
    json_put_text(&writer, "prompt", values->prompt);
    json_write_key(&writer, "text");
    json_write_string(&writer, text, bytes);
    json_write_key(&writer, "ids");
    json_open_array(&writer);
    for (uint64_t i = 0; i < result->new_tokens; i++) json_write_u64(&writer, ids[i]);
    json_close_array(&writer);
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
    return print_json(&writer, err);
}

static enum status run_generate(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct generate_values values = {.prompt = "", .options = {.tokens = 128, .top_p = 1}};
    struct setting setting = {0};
    struct model *model = NULL;
    struct generate_result result;
    uint32_t *ids = NULL;
    enum status status = options_parse(&generate_command, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    if ((status = setting_open(&setting, &values.common, err)) ||
        (status = model_open(&model, values.model, setting.pool, err)) ||
        (status = generate_text(&result, &ids, model, values.prompt, strlen(values.prompt), &values.options,
             values.common.json ? NULL : show_text, NULL, err))) {
        goto done;
    }
    if (values.common.json) {
        status = print_generate_json(&values, &result, model, ids, err);
    } else {
        printf("\n");
        report_note(&setting.report,
            "%" PRIu64 " prompt tokens in %.2f s, %" PRIu64 " new ones in %.2f s (%.1f per second)%s",
            result.prompt_tokens, result.prompt_seconds, result.new_tokens, result.new_seconds,
            (double)result.new_tokens / result.new_seconds, result.stopped ? ", stopped by an end token" : "");
    }
done:
    memory_free(ids);
    model_close(model);
    pool_free(setting.pool);
    return status;
}

const struct check_command check_commands[] = {
    {"perplexity", &perplexity_command, run_perplexity},
    {"verify", &verify_command, run_verify},
    {"inspect", &inspect_command, run_inspect},
    {"generate", &generate_command, run_generate},
};
const unsigned check_command_count = COUNT_OF(check_commands);
