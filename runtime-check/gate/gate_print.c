/* See gate_print.h. */
#include "runtime-check/gate/gate_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/report.h"
#include "runtime-check/gate/gate_report.h"

static void print_row(struct table *table, const struct gate_verdict *verdict)
{
    const struct gate_check *check = verdict->check;
    char text[GATE_TEXT];
    table_cell(table, "%s", check->what);
    table_cell(table, "%s", gate_show_limit(text, verdict));
    table_cell(table, "%s", gate_show(text, check, verdict->value));
    table_cell(table, "%s", gate_show(text, check, verdict->error));
    table_cell(table, "%s", gate_show(text, check, verdict->bound));
    table_cell(table, "%s", verdict->passed ? "pass" : "FAIL");
}

void gate_print_table(const struct gate_result *result, const struct gate_subject *subject)
{
    struct table table = {0};
    char share[GATE_TEXT], heading[GATE_TEXT + 16], remark[GATE_REMARK];
    snprintf(heading, sizeof heading, ">bound at %s", gate_show_confidence(share, result->confidence));
    table_head(&table, 6,
        (const char *const[]){"check", ">limit", ">measured", ">standard error", heading, "verdict"});
    for (uint64_t i = 0; i < result->count; i++)
        print_row(&table, &result->verdicts[i]);
    table_print(&table);
    table_free(&table);
    printf("\n");
    for (uint64_t i = 0; i < result->count; i++) {
        if (gate_remark(remark, &result->verdicts[i], result->confidence)) printf("%s\n", remark);
    }
    printf("%s: %" PRIu64 " of %" PRIu64 " checks hold, decided by the bound; %" PRIu64
           " tokens scored in %" PRIu64 " windows (%s protocol, context %" PRIu64 ")\n",
        result->failed ? "FAIL" : "pass", result->count - result->failed, result->count,
        subject->measured->tokens_scored, subject->measured->windows, subject->protocol,
        subject->measured->context);
}

/* ---- JSON ---- */

static void put_check(struct json_writer *writer, const struct gate_verdict *verdict, double confidence)
{
    json_open_object(writer);
    json_put_text(writer, "check", verdict->check->word);
    json_put_number(writer, "limit", verdict->limit);
    json_put_number(writer, "value", verdict->value);
    json_put_number(writer, "error", verdict->error);
    json_put_number(writer, "bound", verdict->bound);
    json_put_number(writer, "confidence", confidence);
    json_put_bool(writer, "value_within_limit", verdict->within);
    json_put_bool(writer, "passed", verdict->passed);
    json_put_text(writer, "decided_by", "bound");
    json_close_object(writer);
}

static void put_subject(struct json_writer *writer, const struct gate_subject *subject)
{
    json_put_text(writer, "model", subject->model);
    json_put_text(writer, "base_option", subject->base_option);
    json_put_text(writer, "base", subject->base);
    json_put_text(writer, "text", subject->text);
    json_put_crc32(writer, "text_crc32", subject->text_crc32);
    json_put_text(writer, "protocol", subject->protocol);
    json_put_u64(writer, "context", subject->measured->context);
    if (subject->tokens) json_put_u64(writer, "tokens", subject->tokens);
    json_put_u64(writer, "tokens_scored", subject->measured->tokens_scored);
    json_put_u64(writer, "windows", subject->measured->windows);
}

static void put_perplexity(struct json_writer *writer, const struct gate_subject *subject)
{
    const struct comparison *measured = subject->measured;
    json_put_number(writer, "perplexity", measured->perplexity.value);
    json_put_number(writer, "perplexity_error", measured->perplexity.error);
    json_put_text(writer, "errors", "by block"); /* gate_enough: never so few windows that it is by token */
    json_put_number(writer, "mean_nll", log(measured->perplexity.value));
    if (subject->base_option) json_put_bool(writer, "paired", !subject->unpaired);
    if (!measured->window_nll) return;
    json_write_key(writer, "window_nll");
    json_open_array(writer);
    for (uint64_t i = 0; i < measured->windows; i++)
        json_write_number(writer, measured->window_nll[i]);
    json_close_array(writer);
}

void gate_write_json(struct json_writer *writer, const struct gate_result *result,
    const struct gate_subject *subject, const char *kernels, unsigned threads)
{
    json_open_object(writer);
    json_put_text(writer, "tool", "nibble-check gate");
    json_put_text(writer, "version", NIBBLE_VERSION);
    put_subject(writer, subject);
    json_write_key(writer, "checks");
    json_open_array(writer);
    for (uint64_t i = 0; i < result->count; i++)
        put_check(writer, &result->verdicts[i], result->confidence);
    json_close_array(writer);
    json_put_bool(writer, "passed", result->failed == 0);
    put_perplexity(writer, subject);
    json_put_number(writer, "seconds", subject->seconds);
    json_put_u64(writer, "peak_memory_bytes", memory_peak_bytes());
    json_put_u64(writer, "threads", threads);
    json_put_text(writer, "kernels", kernels);
    json_close_object(writer);
}
