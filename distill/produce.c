#include "distill/produce.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/dataset_folder.h"
#include "distill/filters.h"
#include "distill/token_source.h"
#include "distill/wave.h"
#include "model/layerwise/source_stamp.h"
#include "model/stamp.h"

enum { CHUNK_RECORDS = 256 };

struct production {
    struct produce_result *out;
    const struct distill_options *options;
    const struct report *report;
    struct pool *pool;
    struct dataset_folder folder;
    struct dataset_document before; /* what an earlier run left */
    struct model *teacher;
    struct distill_settings settings;
    struct token_source source;
    struct json_document *stamp;
    struct dataset_document document; /* what is written; borrows stamp and settings */
    uint64_t shard_capacity;
    struct filters *filters;
    struct wave *wave;
    struct shard_draft draft;
    uint64_t next_source;
    char signal_text[512];
    char teacher_name[256];
};

/* ---- before the work ---- */

/* What stands under the output's name must be nothing, or unfinished. */
static enum status look_at_output(struct production *run, struct error *err)
{
    const char *path = run->options->output;
    enum status status = dataset_folder_enter(&run->folder, path, err);
    if (status || !run->folder.begun) return status;
    status = dataset_document_read(&run->before, path, err);
    if (status == ERR_FORMAT && run->options->restart) return OK;
    if (status == ERR_FORMAT)
        return fail_within(err, status, "it cannot be gone on with, --restart begins anew");
    if (!status && run->before.complete)
        return fail(err, ERR_USAGE, "%s: is a complete dataset; remove it first, or name a new one", path);
    return status;
}

static void name_teacher(struct production *run)
{
    const char *path = run->options->teacher;
    size_t end = strlen(path), begin;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    error_quote(run->teacher_name, sizeof run->teacher_name, path + begin, end - begin);
}

static enum status make_stamp(struct production *run, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    enum status status = source_stamp_put(&json, run->teacher->container, run->pool, run->report, err);
    distill_settings_stamp(&run->settings, run->source.crc, &json);
    json_close_object(&json);
    if (!status) status = json_writer_take(&json, &text, &bytes, err);
    json_writer_free(&json);
    if (!status) status = stamp_parse(&run->stamp, "stamp", text, bytes, err);
    memory_free(text);
    return status;
}

static enum status write_file(
    const char *folder, const char *name, const char *text, uint64_t bytes, struct error *err)
{
    struct output *output = NULL;
    char *path = NULL;
    enum status status = file_join(&path, folder, name, strlen(name), err);
    if (!status) status = output_open(&output, path, true, err);
    memory_free(path);
    if (!status) status = output_write_at(output, 0, text, bytes, err);
    if (!status) return output_commit(output, err);
    output_abandon(output);
    return status;
}

/* An empty dataset of this stamp. */
static enum status begin(struct production *run, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = dataset_folder_remove(&run->folder, err);
    if (!status) status = container_document(run->teacher->container, DATASET_TOKENIZER, &text, &bytes, err);
    if (!status) status = write_file(run->options->output, DATASET_TOKENIZER, text, bytes, err);
    memory_free(text);
    return status ? status : dataset_document_write(&run->document, run->options->output, err);
}

/* ---- what an earlier run finished ---- */

/* The tokens of its sequences are known to the filter of duplicates. */
static enum status remember_shard(struct production *run, struct shard *shard, struct error *err)
{
    uint64_t capacity = 0;
    uint32_t *tokens = NULL;
    enum status status = OK;
    for (uint64_t i = 0; run->options->unique && i < shard_info(shard)->sequences && !status; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        const uint8_t *record;
        status = memory_grow(&tokens, &capacity, sequence.length, sizeof *tokens, err);
        for (uint32_t j = 0; j < sequence.length && !status; j++) {
            status = shard_record(shard, &record, sequence.first + j, err);
            if (!status) tokens[j] = token_record_token(record);
        }
        if (!status) status = filters_remember(run->filters, tokens, sequence.length, err);
    }
    memory_free(tokens);
    return status;
}

/* Take a shard, just written or found, into the index. */
static enum status add_shard(struct production *run, const struct shard_info *info, struct error *err)
{
    struct dataset_document *document = &run->document;
    enum status status =
        memory_grow(&document->shards, &run->shard_capacity, document->shard_count + 1, sizeof *info, err);
    if (status) return status;
    document->shards[document->shard_count++] = *info;
    document->sequences += info->sequences;
    document->tokens += info->records;
    document->bytes += info->bytes;
    return OK;
}

static enum status resume_shard(struct production *run, const char *path, struct error *err)
{
    struct shard *shard = NULL;
    enum status status = shard_open(&shard, path, &run->settings.layout, (uint32_t)run->document.shard_count,
        run->document.stamp_crc, err);
    if (!status) status = remember_shard(run, shard, err);
    if (!status) status = add_shard(run, shard_info(shard), err);
    if (!status) {
        run->next_source = shard_info(shard)->next_source;
        memcpy(
            filters_counters(run->filters), shard_info(shard)->counters, sizeof shard_info(shard)->counters);
    }
    shard_close(shard);
    return status;
}

/* The leading shards that are there and whole stay, what comes after them is made again. */
static enum status resume(struct production *run, struct error *err)
{
    enum status status = OK;
    while (!status) {
        char name[24], *path = NULL;
        shard_name(name, (uint32_t)run->document.shard_count);
        status = file_join(&path, run->options->output, name, strlen(name), err);
        const bool there = !status && file_kind(path) == FILE_REGULAR;
        if (there) status = resume_shard(run, path, err);
        memory_free(path);
        if (!there) break;
    }
    run->out->shards_resumed = run->document.shard_count;
    if (status == ERR_FORMAT || status == ERR_UNSUPPORTED) {
        report_note(run->report, "note: %s; it and what comes after are made again", err->text);
        status = OK;
    }
    if (status) return status;
    if (run->document.shard_count > 0)
        report_note(run->report, "resumed behind %" PRIu64 " complete shard%s, %" PRIu64 " sequences",
            run->document.shard_count, run->document.shard_count == 1 ? "" : "s", run->document.sequences);
    return dataset_folder_remove_shards(&run->folder, (uint32_t)run->document.shard_count, err);
}

static enum status settle_output(struct production *run, struct error *err)
{
    const bool found = run->folder.begun && !run->options->restart;
    run->document = (struct dataset_document){.teacher = run->teacher_name,
        .layout = run->settings.layout,
        .hidden_layers = run->settings.hidden_layers,
        .stamp = json_root(run->stamp),
        .stamp_crc = stamp_crc(json_root(run->stamp))};
    enum status status = OK;
    if (found) status = stamp_compare(run->options->output, run->before.stamp, run->document.stamp, err);
    if (!status) status = found ? resume(run, err) : begin(run, err);
    return status;
}

/* ---- the work ---- */

static bool is_enough(const struct production *run)
{
    return run->document.sequences + run->draft.count >= run->settings.sequences;
}

/* The next sources that pass what can be asked beforehand. */
static enum status fill(struct production *run, struct error *err)
{
    enum status status = OK;
    wave_clear(run->wave);
    while (!status && wave_count(run->wave) < run->settings.batch && run->next_source < run->source.count) {
        uint64_t count;
        bool keep = true;
        const uint32_t *tokens = token_source_piece(&run->source, run->next_source, &count);
        if (!run->source.sampled) status = filters_before(run->filters, tokens, count, &keep, err);
        if (!status && keep) wave_add(run->wave, tokens, count, run->next_source);
        run->next_source++;
    }
    return status;
}

static enum status judge(struct production *run, uint64_t index, bool *keep, struct error *err)
{
    const struct shard_sequence sequence = wave_sequence(run->wave, index);
    const uint32_t *tokens = wave_tokens(run->wave, index);
    enum status status = OK;
    *keep = true;
    if (run->source.sampled) status = filters_before(run->filters, tokens, sequence.length, keep, err);
    if (!status && *keep)
        status = filters_after(run->filters, tokens, sequence.length, (double)sequence.nll, keep, err);
    return status;
}

/* Sequences of the wave, in order, until there are enough; what is left of it then is looked at for nothing. */
static enum status harvest(struct production *run, struct progress *progress, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < wave_count(run->wave) && !status && !is_enough(run); i++) {
        const struct shard_sequence sequence = wave_sequence(run->wave, i);
        bool keep;
        status = judge(run, i, &keep, err);
        run->out->tokens_run += sequence.length;
        progress_add(progress, sequence.length);
        if (status || !keep) continue;
        status = shard_draft_add(
            &run->draft, sequence, wave_records(run->wave, i), run->settings.layout.bytes, err);
    }
    return status;
}

static enum status flush(struct production *run, struct error *err)
{
    struct shard_info info = {.number = (uint32_t)run->document.shard_count,
        .stamp_crc = run->document.stamp_crc,
        .next_source = run->next_source,
        .chunk = run->options->pack ? CHUNK_RECORDS : 0};
    if (run->draft.count == 0) return OK;
    if (run->document.shard_count == SHARD_LIMIT)
        return fail(err, ERR_USAGE, "%s: more than %d shards; give a larger --shard-size",
            run->options->output, SHARD_LIMIT);
    memcpy(info.counters, filters_counters(run->filters), sizeof info.counters);
    enum status status =
        shard_write(&info, run->options->output, &run->draft, run->settings.layout.bytes, err);
    if (!status) status = add_shard(run, &info, err);
    shard_draft_clear(&run->draft);
    return status;
}

static enum status work(struct production *run, struct error *err)
{
    struct progress *progress = progress_start(run->report, "distilling",
        run->settings.from_text ? run->source.pieces.ends[run->source.pieces.count - 1] : 0, PROGRESS_TOKENS);
    const double start = report_seconds();
    enum status status = OK;
    while (!status && !is_enough(run) && run->next_source < run->source.count) {
        status = fill(run, err);
        if (!status && wave_count(run->wave) > 0) status = wave_run(run->wave, err);
        if (!status) status = harvest(run, progress, err);
        if (!status && run->draft.record_count * run->settings.layout.bytes >= run->options->shard_size)
            status = flush(run, err);
    }
    if (!status) status = flush(run, err);
    run->out->seconds = report_seconds() - start;
    run->out->teacher_seconds = wave_teacher_seconds(run->wave);
    progress_end(progress);
    return status;
}

/* ---- the whole ---- */

static enum status finish(struct production *run, struct error *err)
{
    struct dataset_document *document = &run->document;
    if (document->sequences == 0)
        return fail(err, ERR_USAGE, "the filters left none of %" PRIu64 " sequences", run->next_source);
    if (document->sequences < run->settings.sequences && run->settings.sequences != UINT64_MAX)
        report_note(run->report, "note: only %" PRIu64 " of the %" PRIu64 " sequences asked for: %s",
            document->sequences, run->settings.sequences,
            run->settings.from_text ? "the text gives no more" : "--attempts are used up");
    document->complete = true;
    document->sources = run->next_source;
    memcpy(document->counters, filters_counters(run->filters), sizeof document->counters);
    return dataset_document_write(document, run->options->output, err);
}

static void summarise(struct production *run)
{
    struct produce_result *out = run->out;
    out->sequences = run->document.sequences;
    out->tokens = run->document.tokens;
    out->bytes = run->document.bytes;
    out->sources = run->document.sources;
    out->shards = run->document.shard_count;
    out->record_bytes = run->settings.layout.bytes;
    memcpy(out->taken, run->document.counters, sizeof out->taken);
}

static enum status prepare(struct production *run, struct error *err)
{
    enum status status = distill_settings_check(run->options, err);
    if (!status) status = look_at_output(run, err);
    if (!status) status = model_open(&run->teacher, run->options->teacher, run->pool, err);
    if (!status) status = distill_settings_resolve(&run->settings, run->options, run->teacher, err);
    if (!status) status = filters_create(&run->filters, &run->settings, run->teacher->tokenizer, err);
    if (!status) status = token_source_load(&run->source, &run->settings, run->teacher, run->report, err);
    if (!status) status = wave_create(&run->wave, &run->settings, run->teacher, err);
    if (!status) status = make_stamp(run, err);
    return status ? status : settle_output(run, err);
}

/* The text must outlive the run: a signal handler may be reading it. */
static void note_for_signals(const char *output)
{
    static char text[512];
    snprintf(text, sizeof text,
        "\nnibble-distill: stopped; complete shards are kept in %.400s, and the same command goes on from "
        "there",
        output);
    file_signal_note(text);
}

enum status produce_dataset(struct produce_result *out, const struct distill_options *options,
    struct pool *pool, const struct report *report, struct error *err)
{
    struct production *run = memory_new(1, sizeof *run, err);
    struct error trouble; /* a damaged shard is told of, also to a caller that wants no text */
    *out = (struct produce_result){0};
    if (!run) return ERR_MEMORY;
    if (!err) err = &trouble;
    run->out = out;
    run->options = options;
    run->pool = pool;
    run->report = report;
    name_teacher(run);
    enum status status = prepare(run, err);
    if (!status) {
        note_for_signals(options->output);
        status = work(run, err);
    }
    if (!status) status = finish(run, err);
    file_signal_note(NULL);
    summarise(run);
    dataset_folder_leave(&run->folder, status != OK && run->document.shard_count == 0);
    shard_draft_free(&run->draft);
    wave_free(run->wave);
    filters_free(run->filters);
    token_source_free(&run->source);
    json_free(run->stamp);
    memory_free(run->document.shards);
    dataset_document_free(&run->before);
    model_close(run->teacher);
    memory_free(run);
    return status;
}
