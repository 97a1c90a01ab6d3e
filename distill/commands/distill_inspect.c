/* nibble-distill inspect: what a dataset holds, whether it is sound, and a look at one record. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "distill/commands/distill_commands.h"
#include "distill/dataset.h"
#include "distill/filters.h"

#define NO_RECORD UINT64_MAX

struct inspect_values {
    struct common_options common;
    const char *dataset;
    uint64_t record; /* NO_RECORD: none */
    bool skip_damaged;
};

static const struct operand operands[] = {
    {"DATASET", offsetof(struct inspect_values, dataset), "A folder that `nibble-distill dataset` made."},
};

static const struct option option_table[] = {
    {"record", OPTION_COUNT, offsetof(struct inspect_values, record), 0, 1e15, NULL, "N", NULL,
        "Show record number N, counted from 0 over all shards.", "Options"},
    {"skip-damaged", OPTION_FLAG, offsetof(struct inspect_values, skip_damaged), 0, 0, NULL, NULL, NULL,
        "Go on without shards that are damaged or missing; each is named.", NULL},
    COMMON_OPTIONS(struct inspect_values),
};

static const struct command usage = {
    .name = "nibble-distill inspect",
    .summary = "What a dataset holds; every byte is checked.",
    .details = "Examples:\n"
               "  nibble-distill inspect out.nbd\n"
               "  nibble-distill inspect out.nbd --record 1000\n",
    .operands = operands,
    .operand_count = DISTILL_COUNT(operands),
    .options = option_table,
    .option_count = DISTILL_COUNT(option_table),
};

/* What is added up over the shards. */
struct totals {
    uint64_t sequences, tokens, bytes, ended, prompt;
    uint64_t shortest, longest;
    double nll; /* sum over predicted tokens */
    uint64_t predicted;
};

/* One record, and where it stands. */
struct found_record {
    bool found;
    uint64_t position;
    struct shard_sequence sequence;
    struct token_record record;
};

static void add_sequences(struct totals *totals, const struct shard *shard)
{
    for (uint64_t i = 0; i < shard_info(shard)->sequences; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        if (totals->sequences == 0 || sequence.length < totals->shortest) totals->shortest = sequence.length;
        if (sequence.length > totals->longest) totals->longest = sequence.length;
        totals->sequences++;
        totals->ended += sequence.flags & SHARD_ENDED;
        totals->prompt += sequence.prompt;
        totals->nll += (double)sequence.nll * (sequence.length - 1);
        totals->predicted += sequence.length - 1;
    }
    totals->tokens += shard_info(shard)->records;
    totals->bytes += shard_info(shard)->bytes;
}

static enum status take_record(struct found_record *out, struct shard *shard, uint64_t index,
    const struct dataset *dataset, struct error *err)
{
    const uint8_t *bytes;
    enum status status = shard_record(shard, &bytes, index, err);
    if (!status) status = token_record_new(&out->record, &dataset->document.layout, err);
    if (!status) status = token_record_get(&out->record, &dataset->document.layout, bytes, err);
    if (status) return fail_within(err, status, "record %" PRIu64 " of its shard", index);
    for (uint64_t i = 0; i < shard_info(shard)->sequences; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        if (index < sequence.first || index >= sequence.first + sequence.length) continue;
        out->sequence = sequence;
        out->position = index - sequence.first;
    }
    out->found = true;
    return OK;
}

static enum status read_all(struct totals *totals, struct found_record *found, struct dataset *dataset,
    uint64_t wanted, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < dataset->shard_count && !status; i++) {
        struct shard *shard = NULL;
        status = dataset_shard(&shard, dataset, i, err);
        if (status || !shard) continue;
        const uint64_t before = totals->tokens;
        add_sequences(totals, shard);
        if (wanted != NO_RECORD && wanted >= before && wanted < totals->tokens)
            status = take_record(found, shard, wanted - before, dataset, err);
        shard_close(shard);
    }
    if (status || wanted == NO_RECORD || found->found) return status;
    return fail(
        err, ERR_USAGE, "--record %" PRIu64 ": there are %" PRIu64 " records", wanted, totals->tokens);
}

/* ---- printing ---- */

static void print_kind(const struct dataset *dataset)
{
    const struct token_record_shape *shape = &dataset->document.layout.shape;
    if (shape->draws)
        printf("record         %" PRIu32 " draws%s, entropy, logsumexp", shape->count,
            shape->value_bits ? " with weights" : "");
    else
        printf("record         the %" PRIu32 " likeliest tokens in %" PRIu32 " bits, tail, logsumexp",
            shape->count, shape->value_bits);
    if (shape->hidden_layers)
        printf(", %" PRIu32 " hidden state%s of %" PRIu32, shape->hidden_layers,
            shape->hidden_layers == 1 ? "" : "s", shape->hidden_width);
    printf(": %" PRIu64 " bytes\n", dataset->document.layout.bytes);
}

static void print_totals(const struct dataset *dataset, const struct totals *totals)
{
    char size[16];
    printf("dataset        %s, %s\n", dataset->path, dataset->document.complete ? "complete" : "unfinished");
    printf("teacher        %s, vocabulary %" PRIu32 "\n", dataset->document.teacher,
        dataset->document.layout.shape.vocabulary);
    print_kind(dataset);
    printf("shards         %" PRIu64 "%s", dataset->shard_count, dataset->damaged ? "" : ", all sound\n");
    if (dataset->damaged) printf(", of which %" PRIu64 " damaged and not counted here\n", dataset->damaged);
    if (totals->sequences == 0) return;
    printf("sequences      %" PRIu64 " of %" PRIu64 " to %" PRIu64 " tokens, mean %.1f; %" PRIu64
           " ended by the teacher\n",
        totals->sequences, totals->shortest, totals->longest,
        (double)totals->tokens / (double)totals->sequences, totals->ended);
    printf("tokens         %" PRIu64 ", of which %" PRIu64 " given; %s, %.1f bytes per token\n",
        totals->tokens, totals->prompt, report_bytes(size, totals->bytes),
        (double)totals->bytes / (double)totals->tokens);
    if (totals->predicted)
        printf("perplexity     %.4f under the teacher\n", exp(totals->nll / (double)totals->predicted));
}

/* An id of a record to be shown. */
struct shown_id {
    uint32_t id;
    double value;
};

/* Likeliest first, ties by id. */
static int compare_shown(const void *a, const void *b)
{
    const struct shown_id *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static const char *show_token(char out[64], const struct tokenizer *tokenizer, uint32_t id)
{
    uint64_t bytes;
    const char *token = tokenizer_token(tokenizer, id, &bytes);
    return token ? error_quote(out, 64, token, bytes) : "(no token)";
}

static void print_ids(
    const struct shown_id *ids, uint32_t count, bool draws, const struct tokenizer *tokenizer)
{
    const char *const heads[] = {">id", "token", draws ? ">weight" : ">probability"};
    struct table table = {0};
    char shown[64];
    table_head(&table, 3, heads);
    for (uint32_t i = 0; i < count; i++) {
        table_cell(&table, "%" PRIu32, ids[i].id);
        table_cell(&table, "%s", show_token(shown, tokenizer, ids[i].id));
        table_cell(&table, "%.6f", exp(ids[i].value));
    }
    table_print(&table);
    table_free(&table);
}

static enum status print_record(
    const struct dataset *dataset, const struct found_record *found, uint64_t number, struct error *err)
{
    const struct token_record *record = &found->record;
    const uint32_t count = dataset->document.layout.shape.count;
    const bool draws = dataset->document.layout.shape.draws;
    struct tokenizer *tokenizer = NULL;
    char shown[64];
    struct shown_id *ids = memory_new(count, sizeof *ids, err);
    enum status status = ids ? dataset_tokenizer(&tokenizer, dataset, err) : ERR_MEMORY;
    if (!status) {
        for (uint32_t i = 0; i < count; i++)
            ids[i] = (struct shown_id){record->ids[i], record->values[i]};
        if (!draws) qsort(ids, count, sizeof *ids, compare_shown);
        printf("\nrecord         %" PRIu64 ": token %" PRIu64 " of %" PRIu32 " of source %" PRIu64 "\n",
            number, found->position, found->sequence.length, found->sequence.source);
        printf("token          %" PRIu32 " %s\n", record->token, show_token(shown, tokenizer, record->token));
        printf("after it       logsumexp %.6f, %s %.6f\n\n", (double)record->log_sum,
            draws ? "entropy" : "tail", (double)record->rest);
        print_ids(ids, count, draws, tokenizer);
    }
    tokenizer_free(tokenizer);
    memory_free(ids);
    return status;
}

static void put_record(struct json_writer *json, const struct found_record *found, uint32_t count)
{
    const struct token_record *record = &found->record;
    json_write_key(json, "record");
    json_open_object(json);
    json_put_u64(json, "source", found->sequence.source);
    json_put_u64(json, "position", found->position);
    json_put_u64(json, "token", record->token);
    json_put_number(json, "logsumexp", (double)record->log_sum);
    json_put_number(json, "rest", (double)record->rest);
    json_write_key(json, "ids");
    json_open_array(json);
    for (uint32_t i = 0; i < count; i++)
        json_write_u64(json, record->ids[i]);
    json_close_array(json);
    json_put_numbers(json, "values", record->values, count);
    json_close_object(json);
}

static enum status print_as_json(const struct dataset *dataset, const struct totals *totals,
    const struct found_record *found, struct error *err)
{
    const struct token_record_shape *shape = &dataset->document.layout.shape;
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_put_text(&json, "tool", "nibble-distill inspect");
    json_put_text(&json, "version", NIBBLE_VERSION);
    json_put_text(&json, "dataset", dataset->path);
    json_put_bool(&json, "complete", dataset->document.complete);
    json_put_text(&json, "teacher", dataset->document.teacher);
    json_put_u64(&json, "vocabulary", shape->vocabulary);
    json_put_text(&json, "targets", shape->draws ? "draws" : "top-k");
    json_put_u64(&json, "count", shape->count);
    json_put_u64(&json, "value_bits", shape->value_bits);
    json_put_u64(&json, "record_bytes", dataset->document.layout.bytes);
    json_put_u64(&json, "shards", dataset->shard_count);
    json_put_u64(&json, "shards_damaged", dataset->damaged);
    json_put_u64(&json, "sequences", totals->sequences);
    json_put_u64(&json, "tokens", totals->tokens);
    json_put_u64(&json, "bytes", totals->bytes);
    json_put_u64(&json, "tokens_given", totals->prompt);
    json_put_u64(&json, "sequences_ended", totals->ended);
    json_put_number(&json, "mean_nll", totals->predicted ? totals->nll / (double)totals->predicted : 0);
    if (found->found) put_record(&json, found, shape->count);
    json_close_object(&json);
    return distill_print_json(&json, err);
}

static enum status run_inspect(int argc, char **argv, enum options_outcome *outcome, struct error *err)
{
    struct inspect_values values = {.record = NO_RECORD};
    struct dataset dataset;
    struct totals totals = {0};
    struct found_record found = {0};
    enum status status = options_parse(&usage, argc, argv, &values, outcome, err);
    if (status || *outcome != OPTIONS_RUN) return status;
    const struct report report = {.quiet = values.common.quiet, .verbose = values.common.verbose};
    status = dataset_open(&dataset, values.dataset, values.skip_damaged, &report, err);
    if (!status) status = read_all(&totals, &found, &dataset, values.record, err);
    if (!status && values.common.json) {
        status = print_as_json(&dataset, &totals, &found, err);
    } else if (!status) {
        print_totals(&dataset, &totals);
        if (found.found) status = print_record(&dataset, &found, values.record, err);
    }
    token_record_free(&found.record);
    dataset_close(&dataset);
    return status;
}

const struct distill_command distill_inspect = {"inspect", &usage, run_inspect};
