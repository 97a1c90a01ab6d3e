#include "model/layerwise/layerwise.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"

double layerwise_states_interval = 60;

enum status layer_record_add(struct layer_record *record, const struct tensor *tensor, struct error *err)
{
    enum status status =
        memory_grow(&record->tensors, &record->capacity, record->count + 1, sizeof *tensor, err);
    if (status == OK) record->tensors[record->count++] = *tensor;
    return status;
}

/* ---- one layer ---- */

static enum status add_to_journal(struct layerwise *run, const struct layer *layer, struct error *err)
{
    struct layer_record record = {0};
    double start = report_seconds();
    enum status status = run->work->record(run->context, layer, &record, err);
    if (status == OK)
        status = journal_add(run->journal, layer->walk.index, record.tensors, record.count, record.notes,
            record.notes_bytes, err);
    memory_free(record.tensors);
    memory_free(record.notes);
    run->journal_seconds += report_seconds() - start;
    return status;
}

static enum status compress_layer(struct layerwise *run, uint32_t index, struct error *err)
{
    struct layer layer;
    enum status status = layer_load(&layer, run->input, index, err);
    if (status == OK) status = run->work->compress(run->context, &layer, err);
    if (status == OK && run->walk) status = walk_finish(run->walk, &layer.walk, err);
    if (status == OK) status = add_to_journal(run, &layer, err);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

/* ---- a finished layer again ---- */

enum status layerwise_expect(
    const struct tensor *tensor, const struct tensor *target, const struct container *from, struct error *err)
{
    bool same = tensor && tensor->storage == target->storage && tensor->dtype == target->dtype &&
                tensor->rank == target->rank && tensor->block == target->block &&
                tensor->mask == target->mask && tensor->scheme.bits == target->scheme.bits &&
                tensor->scheme.group == target->scheme.group &&
                tensor->scheme.asymmetric == target->scheme.asymmetric;
    for (uint32_t i = 0; same && i < target->rank; i++)
        same = tensor->shape[i] == target->shape[i];
    if (same) return OK;
    return fail(err, ERR_FORMAT, "%s: tensor %s is not what this run makes of it; --restart begins anew",
        container_path(from), target->name);
}

enum status layerwise_take(struct layer *layer, uint32_t place, const struct tensor *tensor,
    struct container *from, struct error *err)
{
    void *data = memory_new(tensor->bytes, 1, err);
    if (!data) return ERR_MEMORY;
    enum status status = container_read(from, tensor, 0, data, tensor->bytes, err);
    layer_replace(layer, place, tensor, data);
    return status;
}

/* Walk through a finished layer; what it shows nobody needs to see. */
static enum status replay_layer(struct layerwise *run, uint32_t index, struct error *err)
{
    struct layer layer;
    enum status status = layer_load(&layer, run->input, index, err);
    if (status == OK)
        status = run->work->again(run->context, &layer, index, journal_layer(run->journal, index), err);
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = walk_to(run->walk, stage, &layer.walk, false, NULL, NULL, err);
    if (status == OK) status = walk_finish(run->walk, &layer.walk, err);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

/* Bring the walk to the first layer that is not finished: from the latest saved states, or from the start. */
static enum status resume(struct layerwise *run, uint32_t finished, struct error *err)
{
    enum status status = OK;
    struct error ignored = {0};
    uint32_t from = run->walk ? journal_latest_states(run->journal, finished) : finished;
    if (run->walk && from &&
        walk_load(run->walk, journal_states_path(run->journal, from), run->stamp, &ignored) != OK) {
        report_note(run->report, "saved states are not used: %s", ignored.text);
        from = 0;
    }
    for (uint32_t layer = 0; status == OK && layer < from; layer++)
        status = run->work->again(run->context, NULL, layer, journal_layer(run->journal, layer), err);
    struct progress *progress =
        progress_start(run->report, "walking through finished layers", finished - from, PROGRESS_ITEMS);
    for (uint32_t layer = from; status == OK && layer < finished; layer++) {
        status = replay_layer(run, layer, err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    return status;
}

/* ---- all layers ---- */

static enum status save_states(struct layerwise *run, uint32_t layer, double *last, struct error *err)
{
    double start = report_seconds();
    if (!run->walk || start - *last < layerwise_states_interval) return OK;
    enum status status = walk_save(run->walk, journal_states_path(run->journal, layer), run->stamp, err);
    if (status == OK) journal_drop_states(run->journal, layer);
    *last = report_seconds();
    run->journal_seconds += *last - start;
    return status;
}

enum status layerwise_run(struct layerwise *run, uint32_t finished, struct error *err)
{
    uint32_t layers = run->input->config.layers;
    double start = report_seconds(), last = start;
    enum status status = resume(run, finished, err);
    for (uint32_t layer = finished; status == OK && layer < layers; layer++) {
        double layer_start = report_seconds();
        status = compress_layer(run, layer, err);
        if (status != OK) break;
        run->work->note(run->context, layer, report_seconds() - layer_start,
            (report_seconds() - start) / (layer + 1 - finished) * (layers - layer - 1));
        if (layer + 1 < layers) status = save_states(run, layer + 1, &last, err);
    }
    return status;
}

/* Ctrl-C ends the process at once; what it says has to be ready. */
void layerwise_note_for_signals(const char *tool, const struct journal *journal)
{
    static char note[512];
    snprintf(note, sizeof note,
        "\n%s: stopped; finished layers are kept in %.300s, and the same command goes on from there\n", tool,
        journal_folder(journal));
    file_signal_note(note);
}
