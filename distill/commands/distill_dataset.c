/* nibble-distill dataset: what it prints. The work is in produce.c, the options in distill_options.c. */
#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "distill/commands/distill_commands.h"
#include "distill/filters.h"
#include "distill/produce.h"
#include "tensor/kernels/kernels.h"

static enum status print_as_json(
    const struct distill_options *options, const struct produce_result *result, struct error *err)
{
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_put_text(&json, "tool", "nibble-distill dataset");
    json_put_text(&json, "version", NIBBLE_VERSION);
    json_put_text(&json, "teacher", options->teacher);
    json_put_text(&json, "output", options->output);
    json_put_u64(&json, "sequences", result->sequences);
    json_put_u64(&json, "tokens", result->tokens);
    json_put_u64(&json, "bytes", result->bytes);
    json_put_number(&json, "bytes_per_token", (double)result->bytes / (double)result->tokens);
    json_put_u64(&json, "record_bytes", result->record_bytes);
    json_put_u64(&json, "shards", result->shards);
    json_put_u64(&json, "shards_resumed", result->shards_resumed);
    json_put_u64(&json, "sources", result->sources);
    json_write_key(&json, "taken_by_filters");
    json_open_object(&json);
    for (unsigned i = 0; i < SHARD_COUNTERS; i++)
        json_put_u64(&json, filter_name(i), result->taken[i]);
    json_close_object(&json);
    json_put_u64(&json, "tokens_run", result->tokens_run);
    json_put_number(&json, "seconds", result->seconds);
    json_put_number(&json, "teacher_seconds", result->teacher_seconds);
    json_put_u64(&json, "peak_memory_bytes", memory_peak_bytes());
    json_put_text(&json, "kernels", kernels()->name);
    json_close_object(&json);
    return distill_print_json(&json, err);
}

static void print_filters(const struct produce_result *result)
{
    uint64_t taken = 0;
    for (unsigned i = 0; i < SHARD_COUNTERS; i++)
        taken += result->taken[i];
    if (taken == 0) return;
    printf("left out       %" PRIu64 " of %" PRIu64 " sequences:", taken, result->sources);
    const char *comma = "";
    for (unsigned i = 0; i < SHARD_COUNTERS; i++) {
        if (result->taken[i] == 0) continue;
        printf("%s %" PRIu64 " by %s", comma, result->taken[i], filter_name(i));
        comma = ",";
    }
    printf("\n");
}

static void print_result(const struct produce_result *result)
{
    char size[16], duration[24], memory[16];
    printf("dataset        %" PRIu64 " sequences, %" PRIu64 " tokens in %" PRIu64 " shard%s, %s\n",
        result->sequences, result->tokens, result->shards, result->shards == 1 ? "" : "s",
        report_bytes(size, result->bytes));
    printf("per token      %.1f bytes, of which the record %" PRIu64 "\n",
        (double)result->bytes / (double)result->tokens, result->record_bytes);
    print_filters(result);
    const double seconds = result->seconds > 0 ? result->seconds : 1;
    printf("time           %s, %.0f tokens per second, %.0f %% of it in the teacher, peak memory %s, %s "
           "kernels\n",
        report_duration(duration, result->seconds), (double)result->tokens_run / seconds,
        100 * result->teacher_seconds / seconds, report_bytes(memory, memory_peak_bytes()), kernels()->name);
}

static enum status run_dataset(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct distill_options options = distill_settings_defaults();
    struct produce_result result;
    struct pool *pool = NULL;
    enum status status = options_parse(&distill_settings_command, argc, argv, &options, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    const struct report report = {.quiet = options.common.quiet, .verbose = options.common.verbose};
    status = pool_create(&pool, (unsigned)options.common.threads, err);
    if (!status) status = produce_dataset(&result, &options, pool, &report, err);
    if (!status && options.common.json)
        status = print_as_json(&options, &result, err);
    else if (!status)
        print_result(&result);
    pool_free(pool);
    return status;
}

const struct distill_command distill_dataset = {"dataset", &distill_settings_command, run_dataset};
