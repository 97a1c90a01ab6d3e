/* See bench_print.h. */
#include "runtime-check/bench/bench_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/report.h"
#include "runtime-check/inspect/inspect.h"

#define NOT_AVAILABLE "not available"

/* ---- derived numbers ---- */

double bench_bandwidth(const struct bench_report *report)
{
    double best = report->bandwidths ? 0 : NAN;
    for (uint64_t i = 0; report->bandwidths && i < report->options.rounds; i++)
        best = fmax(best, report->bandwidths[i]);
    return best;
}

static double bytes_per_token(const struct bench_model *model)
{
    return (double)model->traffic.weights + model->traffic.cache;
}

static struct spread spread(
    const struct bench_report *report, const struct bench_model *model, enum bench_metric metric)
{
    return bench_spread(model, metric, report->options.rounds);
}

double bench_bandwidth_share(const struct bench_report *report, const struct bench_model *model)
{
    return bytes_per_token(model) * spread(report, model, BENCH_TOKEN_RATE).median / bench_bandwidth(report);
}

bool bench_fits_cache(const struct bench_report *report, const struct bench_model *model)
{
    return bytes_per_token(model) <= (double)report->last_cache_bytes;
}

/* ---- one value in words ---- */

enum { TEXT_BYTES = 96 };

static int decimals(double value)
{
    return value < 10 ? 2 : value < 100 ? 1 : 0;
}

/* "22.8 tokens/s (22.1 .. 23.0)" */
static char *number_text(char out[TEXT_BYTES], struct spread value, const char *unit)
{
    if (isnan(value.median)) {
        snprintf(out, TEXT_BYTES, NOT_AVAILABLE);
    } else {
        const int digits = decimals(value.median);
        snprintf(out, TEXT_BYTES, "%.*f %s (%.*f .. %.*f)", digits, value.median, unit, digits, value.least,
            digits, value.most);
    }
    return out;
}

/* "1.84 ms", and from a second on as report_duration writes it. Returns out (at least 24 bytes). */
static char *duration_text(char *out, double seconds)
{
    const double milliseconds = 1000 * seconds;
    if (seconds >= 0.9995) return report_duration(out, seconds);
    snprintf(out, 24, "%.*f ms", decimals(milliseconds), milliseconds);
    return out;
}

static char *seconds_text(char out[TEXT_BYTES], struct spread value)
{
    char median[24], least[24], most[24];
    if (isnan(value.median))
        snprintf(out, TEXT_BYTES, NOT_AVAILABLE);
    else
        snprintf(out, TEXT_BYTES, "%s (%s .. %s)", duration_text(median, value.median),
            duration_text(least, value.least), duration_text(most, value.most));
    return out;
}

static char *bytes_text(char out[TEXT_BYTES], double bytes)
{
    char text[16];
    snprintf(out, TEXT_BYTES, "%s", isnan(bytes) ? NOT_AVAILABLE : report_bytes(text, (uint64_t)bytes));
    return out;
}

/* ---- one model ---- */

static void print_speed(const struct bench_report *report, const struct bench_model *model)
{
    char text[TEXT_BYTES], size[16];
    printf("model             %s: %s, %.3f bits per weight\n", model->path, report_bytes(size, model->bytes),
        inspect_bits_per(model->bytes, model->weights));
    printf("prompt            %s, %" PRIu64 " tokens\n",
        number_text(text, spread(report, model, BENCH_PROMPT_RATE), "tokens/s"),
        report->options.prompt_tokens);
    printf("first token       %s, prompt included\n",
        seconds_text(text, spread(report, model, BENCH_FIRST_TOKEN)));
    printf("generated         %s, %" PRIu64 " tokens after the first\n",
        number_text(text, spread(report, model, BENCH_TOKEN_RATE), "tokens/s"), report->options.tokens);
    printf("load, cold        %s", seconds_text(text, spread(report, model, BENCH_LOAD_COLD)));
    printf(*model->cold_reason ? ": %s\n" : ", opening and one token, the files read anew%s\n",
        model->cold_reason);
    printf("load, warm        %s, opening and one token\n",
        seconds_text(text, spread(report, model, BENCH_LOAD_WARM)));
}

static void print_memory(const struct bench_report *report, const struct bench_model *model)
{
    char peak[TEXT_BYTES], anonymous[TEXT_BYTES], mapped[16], resident[TEXT_BYTES], token[16], context[16];
    const double highest = spread(report, model, BENCH_PEAK).median;
    printf("peak memory       %s%s\n", bytes_text(peak, highest),
        isnan(highest) ? ": this system does not let the peak be reset, and it would be one of other work"
                       : "");
    printf("  model file      %s mapped, %s of it in the page cache\n",
        report_bytes(mapped, model->mapped_bytes),
        bytes_text(resident, spread(report, model, BENCH_RESIDENT).median));
    printf("  beside it       %s, anonymous\n",
        bytes_text(anonymous, spread(report, model, BENCH_ANONYMOUS).median));
    printf("KV cache          %s per token, %s at the context of %" PRIu64 " tokens (%u bits)\n",
        report_bytes(token, model->cache_bytes), report_bytes(context, model->cache_bytes * model->context),
        model->context, report->options.cache_bits);
}

static void print_energy(const struct bench_report *report, const struct bench_model *model)
{
    char prompt[TEXT_BYTES], token[TEXT_BYTES];
    if (*model->energy_reason) {
        printf("energy            " NOT_AVAILABLE ": %s\n", model->energy_reason);
        return;
    }
    printf("energy            prompt %s, generated %s per token; all that ran on the processor\n",
        number_text(prompt, spread(report, model, BENCH_PROMPT_JOULES), "J"),
        number_text(token, spread(report, model, BENCH_TOKEN_JOULES), "J"));
}

static void print_traffic(const struct bench_report *report, const struct bench_model *model)
{
    char weights[16], cache[16], bandwidth[16];
    printf("read per token    %s of weights, %s of KV cache\n", report_bytes(weights, model->traffic.weights),
        report_bytes(cache, (uint64_t)model->traffic.cache));
    if (!report->bandwidths) {
        printf("memory bandwidth  " NOT_AVAILABLE ": %s\n", report->no_bandwidth);
        return;
    }
    printf("memory bandwidth  %s/s read by %u threads; generation uses %.0f %% of it%s\n",
        report_bytes(bandwidth, (uint64_t)bench_bandwidth(report)), report->threads,
        100 * bench_bandwidth_share(report, model),
        bench_fits_cache(report, model)
            ? " (what it reads fits in the last-level cache, so this may exceed 100 %)"
            : "");
}

/* ---- several models ---- */

static const char *const headings[] = {"model", ">size", ">prompt/s", ">range", ">ratio", ">generated/s",
    ">range", ">ratio", ">first token", ">load cold", ">warm", ">peak memory", ">bandwidth", ">J/token"};
enum { COLUMNS = sizeof headings / sizeof *headings };

/* The median, how far the rounds lie apart in percent of it, and the ratio to the first model. */
static void rate_cells(struct table *table, const struct bench_report *report,
    const struct bench_model *model, enum bench_metric metric)
{
    const struct spread value = spread(report, model, metric);
    const struct spread ratio = bench_ratio(model, report->models, metric, report->options.rounds);
    table_cell(table, "%.*f", decimals(value.median), value.median);
    table_cell(table, "%.0f %%", 100 * (value.most - value.least) / value.median);
    if (model == report->models)
        table_cell(table, "%s", "");
    else
        table_cell(table, "%.2f", ratio.median);
}

static void duration_cell(struct table *table, double seconds)
{
    char text[24];
    table_cell(table, "%s", isnan(seconds) ? "n/a" : duration_text(text, seconds));
}

static void percent_cell(struct table *table, double share)
{
    if (isnan(share))
        table_cell(table, "n/a");
    else
        table_cell(table, "%.0f %%", 100 * share);
}

static void model_row(struct table *table, const struct bench_report *report, const struct bench_model *model)
{
    char text[16];
    const double peak = spread(report, model, BENCH_PEAK).median;
    const double joules = spread(report, model, BENCH_TOKEN_JOULES).median;
    table_cell(table, "%s", model->path);
    table_cell(table, "%s", report_bytes(text, model->bytes));
    rate_cells(table, report, model, BENCH_PROMPT_RATE);
    rate_cells(table, report, model, BENCH_TOKEN_RATE);
    duration_cell(table, spread(report, model, BENCH_FIRST_TOKEN).median);
    duration_cell(table, spread(report, model, BENCH_LOAD_COLD).median);
    duration_cell(table, spread(report, model, BENCH_LOAD_WARM).median);
    table_cell(table, "%s", isnan(peak) ? "n/a" : report_bytes(text, (uint64_t)peak));
    percent_cell(table, bench_bandwidth_share(report, model));
    table_cell(table, isnan(joules) ? "n/a" : "%.*f", decimals(joules), joules);
}

/* What stands in the table as n/a, and what could be misread. */
static void print_notes(const struct bench_report *report)
{
    char text[16];
    bool fits = false;
    for (uint64_t i = 0; i < report->count; i++) {
        const struct bench_model *model = &report->models[i];
        if (*model->cold_reason)
            printf("load cold, %s: " NOT_AVAILABLE ": %s\n", model->path, model->cold_reason);
        if (*model->energy_reason && i == 0) printf("energy: " NOT_AVAILABLE ": %s\n", model->energy_reason);
        fits |= report->bandwidths && bench_fits_cache(report, model);
    }
    if (report->bandwidths)
        printf("bandwidth: share of %s/s, read by %u threads, that generation uses%s\n",
            report_bytes(text, (uint64_t)bench_bandwidth(report)), report->threads,
            fits ? "; more than 100 % is possible where what a token reads fits in the last-level cache"
                 : "");
    else
        printf("bandwidth: " NOT_AVAILABLE ": %s\n", report->no_bandwidth);
}

static void print_table(const struct bench_report *report)
{
    struct table table = {0};
    table_head(&table, COLUMNS, headings);
    for (uint64_t i = 0; i < report->count; i++)
        model_row(&table, report, &report->models[i]);
    table_print(&table);
    table_free(&table);
    printf("\nprompt of %" PRIu64 " tokens, then %" PRIu64 " generated; medians; range: most less least\n",
        report->options.prompt_tokens, report->options.tokens);
    printf("ratio: to the first model, median over the rounds; cold and warm load: opening and one token\n");
    print_notes(report);
}

void bench_print(const struct bench_report *report)
{
    char duration[24], cache[16];
    if (report->count > 1) {
        print_table(report);
    } else {
        print_speed(report, report->models);
        print_memory(report, report->models);
        print_energy(report, report->models);
        print_traffic(report, report->models);
    }
    printf("rounds            %" PRIu64 ", each after a warm-up%s\n", report->options.rounds,
        report->count > 1 ? "; the models take turns" : "; medians (least .. most)");
    printf("machine           %u threads, %u processors, %s kernels, last-level cache %s\n", report->threads,
        report->processors, report->kernels,
        report->last_cache_bytes ? report_bytes(cache, report->last_cache_bytes) : "unknown");
    printf("time              %s\n", report_duration(duration, report->seconds));
}

/* ---- JSON ---- */

static const char *const metric_keys[BENCH_METRICS] = {
    [BENCH_PROMPT_RATE] = "prompt_tokens_per_second",
    [BENCH_FIRST_TOKEN] = "first_token_seconds",
    [BENCH_TOKEN_RATE] = "tokens_per_second",
    [BENCH_LOAD_COLD] = "load_cold_seconds",
    [BENCH_LOAD_WARM] = "load_warm_seconds",
    [BENCH_PROMPT_JOULES] = "joules_per_prompt_token",
    [BENCH_TOKEN_JOULES] = "joules_per_token",
    [BENCH_PEAK] = "peak_bytes",
    [BENCH_ANONYMOUS] = "anonymous_bytes",
    [BENCH_RESIDENT] = "resident_bytes",
};

/* {"median", "least", "most", "values"}, or null if some round lacks it. */
static void write_spread(
    struct json_writer *writer, const char *key, struct spread value, const double *values, uint64_t rounds)
{
    json_write_key(writer, key);
    if (isnan(value.median)) {
        json_write_text(writer, NULL);
        return;
    }
    json_open_object(writer);
    json_put_number(writer, "median", value.median);
    json_put_number(writer, "least", value.least);
    json_put_number(writer, "most", value.most);
    json_write_key(writer, "values");
    json_open_array(writer);
    for (uint64_t i = 0; i < rounds; i++)
        json_write_number(writer, values[i]);
    json_close_array(writer);
    json_close_object(writer);
}

static void write_ratio(struct json_writer *writer, const struct bench_report *report,
    const struct bench_model *model, enum bench_metric metric, const char *key)
{
    json_put_number(writer, key, bench_ratio(model, report->models, metric, report->options.rounds).median);
}

static void write_model(
    struct json_writer *writer, const struct bench_report *report, const struct bench_model *model)
{
    json_open_object(writer);
    json_put_text(writer, "model", model->path);
    json_put_u64(writer, "bytes", model->bytes);
    json_put_number(writer, "bits_per_weight", inspect_bits_per(model->bytes, model->weights));
    for (unsigned i = 0; i < BENCH_METRICS; i++)
        write_spread(
            writer, metric_keys[i], spread(report, model, i), model->values[i], report->options.rounds);
    json_put_text(writer, "load_cold_reason", *model->cold_reason ? model->cold_reason : NULL);
    json_put_text(writer, "energy_reason", *model->energy_reason ? model->energy_reason : NULL);
    json_put_u64(writer, "mapped_bytes", model->mapped_bytes);
    json_put_u64(writer, "context", model->context);
    json_put_u64(writer, "cache_bytes_per_token", model->cache_bytes);
    json_put_u64(writer, "cache_bytes_at_context", model->cache_bytes * model->context);
    json_put_u64(writer, "weight_bytes_read_per_token", model->traffic.weights);
    json_put_number(writer, "cache_bytes_read_per_token", model->traffic.cache);
    json_put_number(writer, "bandwidth_share", bench_bandwidth_share(report, model));
    json_put_bool(writer, "fits_last_level_cache", bench_fits_cache(report, model));
    write_ratio(writer, report, model, BENCH_PROMPT_RATE, "prompt_ratio");
    write_ratio(writer, report, model, BENCH_TOKEN_RATE, "token_ratio");
    json_close_object(writer);
}

void bench_write_json(struct json_writer *writer, const struct bench_report *report)
{
    const struct bench_options *options = &report->options;
    json_open_object(writer);
    json_put_text(writer, "tool", "nibble-check bench");
    json_put_text(writer, "version", NIBBLE_VERSION);
    json_put_u64(writer, "prompt_tokens", options->prompt_tokens);
    json_put_u64(writer, "tokens", options->tokens);
    json_put_u64(writer, "repeats", options->rounds);
    json_put_u64(writer, "kv_bits", options->cache_bits);
    json_write_key(writer, "models");
    json_open_array(writer);
    for (uint64_t i = 0; i < report->count; i++)
        write_model(writer, report, &report->models[i]);
    json_close_array(writer);
    json_put_number(writer, "bandwidth_bytes_per_second", bench_bandwidth(report));
    json_write_key(writer, "bandwidth_values");
    json_open_array(writer);
    for (uint64_t i = 0; report->bandwidths && i < options->rounds; i++)
        json_write_number(writer, report->bandwidths[i]);
    json_close_array(writer);
    json_put_u64(writer, "bandwidth_array_bytes", report->bandwidths ? report->array_bytes : 0);
    json_put_text(writer, "bandwidth_reason", report->bandwidths ? NULL : report->no_bandwidth);
    json_put_u64(writer, "last_level_cache_bytes", report->last_cache_bytes);
    json_put_number(writer, "seconds", report->seconds);
    json_put_u64(writer, "threads", report->threads);
    json_put_u64(writer, "processors", report->processors);
    json_put_text(writer, "kernels", report->kernels);
    json_close_object(writer);
}
