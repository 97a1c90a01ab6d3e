/* The table of commands, and what they share. */
#include "runtime-check/commands/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/checkpoint.h"
#include "runtime-check/inspect/verify.h"
#include "tensor/kernels/kernels.h"

extern const struct check_command command_perplexity, command_compare, command_verify, command_inspect,
    command_generate, command_layers, command_speculate, command_gate, command_bench, command_tasks;

const struct check_command *const check_commands[] = {
    &command_perplexity,
    &command_compare,
    &command_gate,
    &command_layers,
    &command_tasks,
    &command_bench,
    &command_speculate,
    &command_verify,
    &command_inspect,
    &command_generate,
    NULL,
};

enum status commands_open(
    struct commands_setting *setting, const struct common_options *common, struct error *err)
{
    setting->report = (struct report){.quiet = common->quiet, .verbose = common->verbose};
    enum status status = pool_create(&setting->pool, (unsigned)common->threads, err);
    if (status) return status;
    report_detail(&setting->report, "kernels: %s, threads: %u", kernels()->name, pool_workers(setting->pool));
    return OK;
}

struct perplexity_options commands_perplexity_options(const struct text_values *values)
{
    return (struct perplexity_options){
        .protocol = strcmp(values->protocol, "gptq") == 0 ? PERPLEXITY_GPTQ : PERPLEXITY_LLAMA_CPP,
        .context = values->context,
        .max_windows = values->windows,
    };
}

enum status commands_read_text(
    char **out, uint64_t *bytes, const struct text_values *values, struct error *err)
{
    if (!values->text) return fail(err, ERR_USAGE, "--text FILE is missing: the text to read");
    return file_read_all(out, bytes, values->text, UINT64_C(2) << 30, err);
}

/* Whether a message begins with this path, or that of a file in this folder. */
static bool names_path(const char *text, const char *path)
{
    const size_t length = strlen(path);
    return strncmp(text, path, length) == 0 && (text[length] == ':' || text[length] == '/');
}

enum status commands_open_model(struct model **out, const char *path, const struct model_values *values,
    const struct commands_setting *setting, struct error *err)
{
    struct verify_result verified;
    enum status status = OK;
    *out = NULL;
    if (values->check)
        status = verify_container(&verified, path, setting->pool, &setting->report, NULL, NULL, err);
    if (status && names_path(err->text, path)) return fail_within(err, status, "--check");
    if (status) return fail_within(err, status, "--check: %s", path);
    status = model_open(out, path, setting->pool, err);
    if (status) return status;
    (*out)->cache_bits = (unsigned)strtoul(values->kv_bits, NULL, 10);
    checkpoint_note_made((*out)->container, (*out)->tokenizer_made_of, &setting->report);
    return OK;
}

void commands_open_json(struct json_writer *writer, const char *word)
{
    char tool[64];
    snprintf(tool, sizeof tool, "nibble-check %s", word);
    json_open_object(writer);
    json_put_text(writer, "tool", tool);
    json_put_text(writer, "version", NIBBLE_VERSION);
}

enum status commands_close_json(
    struct json_writer *writer, const struct commands_setting *setting, struct error *err)
{
    json_put_u64(writer, "peak_memory_bytes", memory_peak_bytes());
    json_put_u64(writer, "threads", pool_workers(setting->pool));
    json_put_text(writer, "kernels", kernels()->name);
    json_close_object(writer);
    return commands_print_json(writer, err);
}

void commands_print_cost(double seconds)
{
    char duration[24], memory[16];
    printf("time           %s, peak memory %s, %s kernels\n", report_duration(duration, seconds),
        report_bytes(memory, memory_peak_bytes()), kernels()->name);
}

enum status commands_print_json(struct json_writer *writer, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = json_writer_take(writer, &text, &bytes, err);
    if (!status && fwrite(text, 1, bytes, stdout) != bytes)
        status = fail(err, ERR_IO, "standard output: write error");
    memory_free(text);
    return status;
}
