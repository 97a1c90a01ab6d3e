/* JSON lines: one sequence at a time in memory. */
#include <inttypes.h>
#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/export_files.h"

struct lines {
    struct dataset *dataset;
    struct tokenizer *tokenizer;
    struct output *output;
    struct export_result *out;
    uint32_t *tokens, *ids; /* [tokens of the sequence][1 and count] */
    double *numbers;        /* [tokens][2 + count]: logsumexp, tail or entropy, values */
    uint64_t token_capacity, id_capacity, number_capacity;
    struct token_record record;
};

/* ---- one sequence ---- */

static enum status make_room(struct lines *run, uint64_t length, uint64_t count, struct error *err)
{
    enum status status = memory_grow(&run->tokens, &run->token_capacity, length, sizeof *run->tokens, err);
    if (!status) status = memory_grow(&run->ids, &run->id_capacity, length * count, sizeof *run->ids, err);
    return status ? status
                  : memory_grow(&run->numbers, &run->number_capacity, length * (2 + count),
                        sizeof *run->numbers, err);
}

static enum status read_sequence(
    struct lines *run, struct shard *shard, const struct shard_sequence *sequence, struct error *err)
{
    const struct token_record_layout *layout = &run->dataset->document.layout;
    const uint64_t count = layout->shape.count, length = sequence->length;
    enum status status = make_room(run, length, count, err);
    for (uint64_t i = 0; i < length && !status; i++) {
        const uint8_t *bytes;
        status = shard_record(shard, &bytes, sequence->first + i, err);
        if (!status) status = token_record_get(&run->record, layout, bytes, err);
        if (status) return fail_within(err, status, "record %" PRIu64 " of its shard", sequence->first + i);
        run->tokens[i] = run->record.token;
        run->numbers[i] = (double)run->record.log_sum;
        run->numbers[length + i] = (double)run->record.rest;
        for (uint64_t j = 0; j < count; j++) {
            run->ids[i * count + j] = run->record.ids[j];
            run->numbers[2 * length + i * count + j] =
                layout->shape.draws ? exp(run->record.values[j]) : run->record.values[j];
        }
    }
    return status;
}

static void put_ids(struct json_writer *json, const uint32_t *ids, uint64_t count)
{
    json_open_array(json);
    for (uint64_t i = 0; i < count; i++)
        json_write_u64(json, ids[i]);
    json_close_array(json);
}

static void put_numbers(struct json_writer *json, const double *numbers, uint64_t count)
{
    json_open_array(json);
    for (uint64_t i = 0; i < count; i++)
        json_write_number(json, numbers[i]);
    json_close_array(json);
}

static void put_sequence(struct lines *run, struct json_writer *json, const struct shard_sequence *sequence,
    const char *text, uint64_t bytes)
{
    const struct token_record_shape *shape = &run->dataset->document.layout.shape;
    const uint64_t length = sequence->length, count = shape->count;
    json_open_object(json);
    json_put_u64(json, "source", sequence->source);
    json_put_u64(json, "prompt", sequence->prompt);
    json_write_key(json, "text");
    json_write_string(json, text, bytes);
    json_write_key(json, "tokens");
    put_ids(json, run->tokens, length);
    json_write_key(json, "logsumexp");
    put_numbers(json, run->numbers, length);
    json_write_key(json, shape->draws ? "entropy" : "tail");
    put_numbers(json, run->numbers + length, length);
    json_write_key(json, "ids");
    json_open_array(json);
    for (uint64_t i = 0; i < length; i++)
        put_ids(json, run->ids + i * count, count);
    json_close_array(json);
    json_write_key(json, shape->draws ? "weights" : "log_probs");
    json_open_array(json);
    for (uint64_t i = 0; i < length; i++)
        put_numbers(json, run->numbers + 2 * length + i * count, count);
    json_close_array(json);
    json_close_object(json);
}

static enum status write_sequence(
    struct lines *run, struct shard *shard, const struct shard_sequence *sequence, struct error *err)
{
    struct json_writer json = {0};
    char *text = NULL, *line = NULL;
    uint64_t bytes, line_bytes;
    enum status status = read_sequence(run, shard, sequence, err);
    if (!status)
        status = tokenizer_decode(run->tokenizer, &text, &bytes, run->tokens, sequence->length, true, err);
    if (!status) {
        put_sequence(run, &json, sequence, text, bytes);
        status = json_writer_take(&json, &line, &line_bytes, err);
    }
    if (!status) status = output_write_at(run->output, run->out->bytes, line, line_bytes, err);
    if (!status) {
        run->out->bytes += line_bytes;
        run->out->sequences++;
        run->out->tokens += sequence->length;
    }
    memory_free(text);
    memory_free(line);
    return status;
}

/* ---- all ---- */

static enum status write_shards(struct lines *run, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < run->dataset->shard_count && !status; i++) {
        struct shard *shard = NULL;
        status = dataset_shard(&shard, run->dataset, i, err);
        for (uint64_t j = 0; shard && j < shard_info(shard)->sequences && !status; j++) {
            const struct shard_sequence sequence = shard_sequence(shard, j);
            status = write_sequence(run, shard, &sequence, err);
        }
        if (status && shard) fail_within(err, status, "shard %" PRIu64, i);
        shard_close(shard);
    }
    if (status || run->out->sequences > 0) return status;
    return fail(err, ERR_USAGE, "%s: holds no sequence to export", run->dataset->path);
}

enum status export_json_lines(
    struct export_result *out, struct dataset *dataset, const char *path, bool force, struct error *err)
{
    struct lines run = {.dataset = dataset, .out = out};
    *out = (struct export_result){0};
    enum status status = output_open(&run.output, path, force, err);
    if (!status) status = token_record_new(&run.record, &dataset->document.layout, err);
    if (!status) status = dataset_tokenizer(&run.tokenizer, dataset, err);
    if (!status) status = write_shards(&run, err);
    if (status)
        output_abandon(run.output);
    else
        status = output_commit(run.output, err);
    token_record_free(&run.record);
    tokenizer_free(run.tokenizer);
    memory_free(run.tokens);
    memory_free(run.ids);
    memory_free(run.numbers);
    return status;
}
