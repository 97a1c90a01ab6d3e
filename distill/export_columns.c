#include "distill/export_columns.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"

enum { PIECE_TOKENS = 1024 };

/* ---- the plan ---- */

static void set_column(struct export_plan *plan, enum column column, const char *name,
    const char *safetensors, const char *numpy, uint64_t element)
{
    struct export_column *out = &plan->columns[column];
    out->name = name;
    out->safetensors = safetensors;
    out->numpy = numpy;
    out->row_bytes = element;
    for (unsigned i = 1; i < out->rank; i++)
        out->row_bytes *= out->shape[i];
    out->bytes = out->row_bytes * out->shape[0];
}

static void set_shape(
    struct export_plan *plan, enum column column, unsigned rank, uint64_t a, uint64_t b, uint64_t c)
{
    plan->columns[column].rank = rank;
    plan->columns[column].shape[0] = a;
    plan->columns[column].shape[1] = b;
    plan->columns[column].shape[2] = c;
}

static void plan_columns(struct export_plan *plan, const struct token_record_shape *shape)
{
    const uint64_t tokens = plan->tokens, sequences = plan->sequences;
    set_shape(plan, COLUMN_TOKENS, 1, tokens, 0, 0);
    set_shape(plan, COLUMN_LOG_SUM, 1, tokens, 0, 0);
    set_shape(plan, COLUMN_REST, 1, tokens, 0, 0);
    set_shape(plan, COLUMN_IDS, 2, tokens, shape->count, 0);
    set_shape(plan, COLUMN_VALUES, 2, tokens, shape->count, 0);
    if (shape->hidden_layers)
        set_shape(plan, COLUMN_HIDDEN, 3, tokens, shape->hidden_layers, shape->hidden_width);
    set_shape(plan, COLUMN_OFFSETS, 1, sequences + 1, 0, 0);
    set_shape(plan, COLUMN_PROMPTS, 1, sequences, 0, 0);
    set_shape(plan, COLUMN_SOURCES, 1, sequences, 0, 0);
    set_column(plan, COLUMN_TOKENS, "tokens", "I32", "<i4", 4);
    set_column(plan, COLUMN_LOG_SUM, "logsumexp", "F32", "<f4", 4);
    set_column(plan, COLUMN_REST, shape->draws ? "entropy" : "tail", "F32", "<f4", 4);
    set_column(plan, COLUMN_IDS, "ids", "I32", "<i4", 4);
    set_column(plan, COLUMN_VALUES, shape->draws ? "log_weights" : "log_probs", "F32", "<f4", 4);
    set_column(plan, COLUMN_HIDDEN, "hidden", "F16", "<f2", 2);
    set_column(plan, COLUMN_OFFSETS, "offsets", "I64", "<i8", 8);
    set_column(plan, COLUMN_PROMPTS, "prompts", "I32", "<i4", 4);
    set_column(plan, COLUMN_SOURCES, "sources", "I64", "<i8", 8);
}

enum status export_plan_make(struct export_plan *out, struct dataset *dataset, struct error *err)
{
    *out = (struct export_plan){0};
    for (uint64_t i = 0; i < dataset->shard_count; i++) {
        struct shard *shard = NULL;
        enum status status = dataset_shard(&shard, dataset, i, err);
        if (status) return status;
        out->sequences += shard ? shard_info(shard)->sequences : 0;
        out->tokens += shard ? shard_info(shard)->records : 0;
        shard_close(shard);
    }
    if (out->sequences == 0) return fail(err, ERR_USAGE, "%s: holds no sequence to export", dataset->path);
    plan_columns(out, &dataset->document.layout.shape);
    return OK;
}

/* ---- the pieces ---- */

struct exporting {
    const struct export_plan *plan;
    struct dataset *dataset;
    export_sink sink;
    void *context;
    uint8_t *pieces[COLUMN_HIDDEN + 1]; /* [PIECE_TOKENS][row bytes] */
    struct token_record record;
    uint64_t token, sequence; /* the first of what comes next */
};

static void put_f32(uint8_t *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bytes_put(out, bits, 4);
}

static enum status decode(struct exporting *run, const uint8_t *bytes, uint64_t slot, struct error *err)
{
    const struct token_record_layout *layout = &run->dataset->document.layout;
    const struct token_record_field *hidden = &layout->fields[FIELD_HIDDEN];
    const uint32_t count = layout->shape.count;
    enum status status = token_record_get(&run->record, layout, bytes, err);
    if (status) return status;
    bytes_put(run->pieces[COLUMN_TOKENS] + 4 * slot, run->record.token, 4);
    put_f32(run->pieces[COLUMN_LOG_SUM] + 4 * slot, run->record.log_sum);
    put_f32(run->pieces[COLUMN_REST] + 4 * slot, run->record.rest);
    for (uint64_t i = 0; i < count; i++) {
        bytes_put(run->pieces[COLUMN_IDS] + 4 * (slot * count + i), run->record.ids[i], 4);
        put_f32(run->pieces[COLUMN_VALUES] + 4 * (slot * count + i), (float)run->record.values[i]);
    }
    if (hidden->bytes)
        memcpy(run->pieces[COLUMN_HIDDEN] + slot * hidden->bytes, bytes + hidden->at, hidden->bytes);
    return OK;
}

static enum status export_tokens(struct exporting *run, struct shard *shard, struct error *err)
{
    const uint64_t records = shard_info(shard)->records;
    enum status status = OK;
    for (uint64_t begin = 0, count; begin < records && !status; begin += count) {
        count = records - begin < PIECE_TOKENS ? records - begin : PIECE_TOKENS;
        for (uint64_t i = 0; i < count && !status; i++) {
            const uint8_t *bytes;
            status = shard_record(shard, &bytes, begin + i, err);
            if (!status) status = decode(run, bytes, i, err);
            if (status)
                fail_within(
                    err, status, "shard %" PRIu32 ", record %" PRIu64, shard_info(shard)->number, begin + i);
        }
        for (unsigned column = 0; column <= COLUMN_HIDDEN && !status; column++) {
            const struct export_column *plan = &run->plan->columns[column];
            if (plan->rank == 0) continue;
            status = run->sink(run->context, (enum column)column, (run->token + begin) * plan->row_bytes,
                run->pieces[column], count * plan->row_bytes, err);
        }
    }
    return status;
}

static enum status export_sequences(struct exporting *run, const struct shard *shard, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < shard_info(shard)->sequences && !status; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        const uint64_t at = run->sequence + i;
        uint8_t offset[8], prompt[4], source[8];
        bytes_put(offset, run->token + sequence.first, 8);
        bytes_put(prompt, sequence.prompt, 4);
        bytes_put(source, sequence.source, 8);
        status = run->sink(run->context, COLUMN_OFFSETS, 8 * at, offset, 8, err);
        if (!status) status = run->sink(run->context, COLUMN_PROMPTS, 4 * at, prompt, 4, err);
        if (!status) status = run->sink(run->context, COLUMN_SOURCES, 8 * at, source, 8, err);
    }
    return status;
}

static enum status export_shard(struct exporting *run, uint64_t index, struct error *err)
{
    struct shard *shard = NULL;
    enum status status = dataset_shard(&shard, run->dataset, index, err);
    if (status || !shard) return status;
    if (shard_info(shard)->records > run->plan->tokens - run->token ||
        shard_info(shard)->sequences > run->plan->sequences - run->sequence)
        status = fail(err, ERR_FORMAT, "%s: was changed by someone else meanwhile", run->dataset->path);
    if (!status) status = export_tokens(run, shard, err);
    if (!status) status = export_sequences(run, shard, err);
    run->token += shard_info(shard)->records;
    run->sequence += shard_info(shard)->sequences;
    shard_close(shard);
    return status;
}

enum status export_columns(const struct export_plan *plan, struct dataset *dataset, export_sink sink,
    void *context, struct error *err)
{
    struct exporting run = {.plan = plan, .dataset = dataset, .sink = sink, .context = context};
    enum status status = token_record_new(&run.record, &dataset->document.layout, err);
    uint8_t end[8];
    for (unsigned i = 0; i <= COLUMN_HIDDEN && !status; i++) {
        run.pieces[i] = memory_new(PIECE_TOKENS, plan->columns[i].row_bytes, err);
        if (!run.pieces[i]) status = ERR_MEMORY;
    }
    for (uint64_t i = 0; i < dataset->shard_count && !status; i++)
        status = export_shard(&run, i, err);
    if (!status && (run.token != plan->tokens || run.sequence != plan->sequences))
        status = fail(err, ERR_FORMAT, "%s: was changed by someone else meanwhile", dataset->path);
    bytes_put(end, plan->tokens, 8);
    if (!status) status = sink(context, COLUMN_OFFSETS, 8 * plan->sequences, end, 8, err);
    for (unsigned i = 0; i <= COLUMN_HIDDEN; i++)
        memory_free(run.pieces[i]);
    token_record_free(&run.record);
    return status;
}
