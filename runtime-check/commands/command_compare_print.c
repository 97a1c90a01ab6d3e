/* See command_compare.h. */
#include "runtime-check/commands/command_compare.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"

/* What the numbers stand for: the text, and how it was read. */
static void write_setting(
    struct json_writer *writer, const struct compare_run *run, const struct compare_values *values)
{
    if (values->text.text) json_put_text(writer, "text", values->text.text);
    json_put_text(writer, "protocol", run->protocol);
    json_put_u64(writer, "context", run->results->context);
    json_put_u64(writer, "windows", run->results->windows);
    json_put_u64(writer, "tokens_scored", run->results->tokens_scored);
    json_put_u64(writer, "text_bytes", run->text_bytes);
    json_put_crc32(writer, "text_crc32", run->text_crc32);
    json_put_text(writer, "errors", run->results->by_block ? "by block" : "by token");
    if (!run->base.stored) return;
    json_put_text(writer, "base_logits", values->base_logits);
    json_put_text(writer, "base_model", base_logits_info(run->base.stored)->model);
    json_put_u64(writer, "base_top_k", run->results->base_top_k);
}

static enum status print_as_json(
    const struct compare_run *run, const struct compare_values *values, struct error *err)
{
    struct json_writer writer = {.indent = 2};
    commands_open_json(&writer, "compare");
    write_setting(&writer, run, values);
    json_write_key(&writer, "base");
    comparison_write_json(&writer, &run->shown[0]);
    json_write_key(&writer, "models");
    json_open_array(&writer);
    for (uint64_t i = 0; i < run->count; i++)
        comparison_write_json(&writer, &run->shown[1 + i]);
    json_close_array(&writer);
    if (values->save_base) {
        json_put_text(&writer, "saved_base", values->save_base);
        json_put_u64(&writer, "saved_base_bytes", file_size(values->save_base));
    }
    json_put_number(&writer, "seconds", run->seconds);
    return commands_close_json(&writer, &run->setting, err);
}

/* A row per layer, a column per model. */
static void print_layers(const struct compare_run *run)
{
    struct table table = {0};
    if (run->count == 0 || !run->results->layer_errors) return;
    table_head(&table, 1, (const char *const[]){"relative error after layer"});
    table.columns = 1 + run->count;
    for (uint64_t i = 0; i < run->count; i++)
        table_cell(&table, ">%s", run->shown[1 + i].name);
    for (uint32_t layer = 0; layer < run->results->layers; layer++) {
        table_cell(&table, "%" PRIu32, layer);
        for (uint64_t i = 0; i < run->count; i++)
            table_cell(&table, "%.5f", run->results[i].layer_errors[layer]);
    }
    printf("\n");
    table_print(&table);
    table_free(&table);
}

static void print_notes(const struct compare_run *run, const struct compare_values *values)
{
    const struct comparison *result = run->results;
    char size[16];
    printf("\n%" PRIu64 " tokens scored in %" PRIu64 " window%s (%s protocol, context %" PRIu64 ")%s\n",
        result->tokens_scored, result->windows, result->windows == 1 ? "" : "s", run->protocol,
        result->context, run->count ? "; divergences in nats per token" : "");
    printf("standard errors %s\n", result->by_block
                                       ? "by block of windows (tokens near one another are not independent)"
                                       : "by token (too few windows to take them by block)");
    if (run->base.stored)
        printf("base           %s, stored in %s\n", base_logits_info(run->base.stored)->model,
            values->base_logits);
    if (result->base_top_k)
        printf("lower bound    divergences are of the %" PRIu64
               " likeliest tokens of the base and the rest as one; the true ones are at least as large\n",
            result->base_top_k);
    if (values->save_base)
        printf(
            "base stored    %s, %s\n", values->save_base, report_bytes(size, file_size(values->save_base)));
    commands_print_cost(run->seconds);
}

enum status command_compare_print(
    const struct compare_run *run, const struct compare_values *values, struct error *err)
{
    const uint64_t count = 1 + run->count;
    if (values->common.json) return print_as_json(run, values, err);
    if (values->csv || values->markdown) {
        comparison_print_cells(values->csv ? CELLS_CSV : CELLS_MARKDOWN, run->shown, count);
    } else {
        comparison_print_table(run->shown, count);
        print_layers(run);
        print_notes(run, values);
        return OK;
    }
    if (run->results->base_top_k)
        report_note(&run->setting.report,
            "note: divergences are lower bounds, of the %" PRIu64 " likeliest tokens of the base",
            run->results->base_top_k);
    return OK;
}
