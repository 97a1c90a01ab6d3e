/* A calibrated run: settle what is to be done, then layer after layer into the journal, then all tensors into the output. Whatever a
 * kill can interrupt is on disk by then or is computed again to the same bits. */
#include "quantize/calibrated.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/transfer.h"
#include "quantize/budget.h"
#include "quantize/gptq.h"
#include "quantize/outcome.h"
#include "quantize/pairs.h"
#include "quantize/rescale.h"
#include "quantize/rtn.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"

#define DEFAULT_LENGTH 512

double calibrated_states_interval = 60;

/* ---- settling ---- */

static enum status load_calibration(
    struct calibrated *work, const struct quantize_options *options, struct error *err)
{
    uint64_t context = work->input->config.context;
    const struct calibration_options wanted = {.path = options->calibration,
        .samples = options->samples,
        .length = options->sample_length                    ? options->sample_length
                  : context > 1 && context < DEFAULT_LENGTH ? context
                                                            : DEFAULT_LENGTH,
        .pick = strcmp(options->pick, "first") == 0    ? CALIBRATION_FIRST
                : strcmp(options->pick, "random") == 0 ? CALIBRATION_RANDOM
                                                       : CALIBRATION_SPREAD,
        .seed = options->seed,
        .unpacked = options->unpacked};
    struct tokenizer *tokenizer = NULL;
    enum status status = checkpoint_tokenizer(&tokenizer, work->input->container, err);
    if (status == OK && !tokenizer)
        status = fail(err, ERR_UNSUPPORTED, "%s carries no tokenizer.json, which calibration text needs",
            container_path(work->input->container));
    if (status == OK) status = calibration_load(&work->calibration, &wanted, tokenizer, work->report, err);
    tokenizer_free(tokenizer);
    return status;
}

static enum status prepare(struct calibrated *work, struct quantize_job *job, struct error *err)
{
    *work = (struct calibrated){.input = job->input,
        .plan = job->plan,
        .settings = job->settings,
        .pool = job->pool,
        .report = job->report};
    enum status status = linalg_init(err);
    return status == OK ? load_calibration(work, job->options, err) : status;
}

/* The report's numbers; the provenance wants those of the calibration too, not its tokens. */
static void summarize(struct quantize_job *job, const struct calibrated *work)
{
    const struct calibration *calibration = &work->calibration;
    struct calibrated_summary *summary = &job->calibrated;
    job->calibration = *calibration;
    job->calibration.tokens = job->calibration.lengths = NULL;
    summary->samples = calibration->samples;
    summary->length = calibration->length;
    summary->tokens = calibration->tokens_used;
    summary->documents = calibration->documents;
    summary->text_crc32 = calibration->file_crc32;
    summary->phases = work->phases;
}

static bool has_target(const struct quantize_options *options)
{
    return options->target_bits > 0 || options->target_size > 0;
}

static void release(struct calibrated *work)
{
    walk_free(work->walk);
    calibration_free(&work->calibration);
}

/* ---- the journal's stamp ---- */

struct checksums {
    struct container *container;
    uint32_t *crcs;
    uint8_t *buffers; /* [workers][CHUNK] */
    struct progress *progress;
};

#define CHUNK (UINT64_C(1) << 20)

static enum status checksum_tensor(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct checksums *sums = context;
    const struct tensor *tensor = container_tensor(sums->container, index);
    uint8_t *buffer = sums->buffers + worker * CHUNK;
    for (uint64_t at = 0; at < tensor->bytes; at += CHUNK) {
        uint64_t count = tensor->bytes - at < CHUNK ? tensor->bytes - at : CHUNK;
        enum status status = container_read(sums->container, tensor, at, buffer, count, err);
        if (status != OK) return status;
        sums->crcs[index] = file_crc32(sums->crcs[index], buffer, count);
        uint64_t size = tensor->storage == STORAGE_DENSE ? dtype_info(tensor->dtype)->bytes : 1;
        status = layer_check_finite(tensor, buffer, at / size, count / size, err);
        if (status != OK) return status;
        progress_add(sums->progress, count);
    }
    return OK;
}

/* Everything that the result depends on is read once before the work begins, because a journal must not be continued with another
 * model of the same shape, and a NaN in the last layer should not be found after hours. */
static enum status write_sources(struct json_writer *json, struct calibrated *work, struct error *err)
{
    struct container *container = work->input->container;
    uint64_t count = container_count(container);
    struct checksums sums = {.container = container,
        .crcs = memory_new(count, sizeof *sums.crcs, err),
        .buffers = memory_new(pool_workers(work->pool), CHUNK, err)};
    enum status status = sums.crcs && sums.buffers ? OK : ERR_MEMORY;
    sums.progress = progress_start(work->report, "reading", container_bytes(container), PROGRESS_BYTES);
    if (status == OK) status = pool_run(work->pool, count, checksum_tensor, &sums, err);
    progress_end(sums.progress);
    if (status == OK) status = container_write_sources(container, sums.crcs, json, err);
    memory_free(sums.crcs);
    memory_free(sums.buffers);
    return status;
}

/* The sources as one text, which is the value of one entry of the stamp. */
static enum status sources_text(char **out, struct calibrated *work, struct error *err)
{
    struct json_writer json = {0};
    uint64_t bytes;
    enum status status = write_sources(&json, work, err);
    if (status == OK) status = json_writer_take(&json, out, &bytes, err);
    json_writer_free(&json);
    if (status == OK) (*out)[strcspn(*out, "\n")] = '\0';
    return status;
}

/* The bits of every matrix, one digit each (0: kept): they may come from a file. With a target, those before the choice,
 * which the journal keeps beside its stamp. */
static void put_bits(struct json_writer *json, const struct plan *plan)
{
    char digits[2048];
    uint64_t used = 0;
    uint32_t crc = 0;
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct recipe *recipe = &plan->tensors[i].recipe;
        digits[used++] = (char)('0' + (recipe->keep ? 0 : recipe->bits));
        if (used < sizeof digits && i + 1 < plan->count) continue;
        crc = file_crc32(crc, digits, used);
        used = 0;
    }
    json_put_crc32(json, "bits of all matrices crc32", crc);
}

static enum status make_stamp(
    char **out, struct calibrated *work, const struct quantize_options *options, struct error *err)
{
    struct json_writer json = {.indent = 2};
    struct pairs pairs = {0};
    char *sources = NULL;
    uint64_t bytes;
    enum status status =
        pairs_create(&pairs, options, work->settings, &work->calibration, work->input->config.tied, err);
    if (status == OK) status = sources_text(&sources, work, err);
    if (status == OK) {
        json_open_object(&json);
        json_put_text(&json, "version", NIBBLE_VERSION);
        for (uint64_t i = 0; i < pairs.count; i++)
            json_put_text(&json, pairs.list[i][0], pairs.list[i][1]);
        json_put_text(&json, "input", sources);
        put_bits(&json, work->plan);
        json_put_text(&json, "kernels", kernels()->name);
        json_put_text(&json, "blas", linalg_core());
        json_close_object(&json);
        status = json_writer_take(&json, out, &bytes, err);
    }
    json_writer_free(&json);
    memory_free(sources);
    pairs_free(&pairs);
    return status;
}

/* ---- one layer ---- */

static bool is_journaled(const struct plan_tensor *planned)
{
    return planned && planned->role > ROLE_FINAL_NORM && planned->role < ROLE_COUNT &&
           (!planned->recipe.keep || planned->rewritten);
}

/* The tensors of a layer that are not simply copied, with their data, and the scales in them. */
static uint64_t finished_tensors(
    struct tensor out[ROLE_COUNT + WALK_STAGES], const struct calibrated *work, const struct layer *layer)
{
    uint64_t count = 0;
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct plan_tensor *planned = work->plan->layer[layer->walk.index][role];
        if (!is_journaled(planned)) continue;
        out[count] = *layer->walk.current[role];
        out[count++].name = planned->target.name;
    }
    return count + rescale_tensors(out + count, layer, &work->input->config);
}

static enum status add_to_journal(
    struct calibrated *work, struct journal *journal, const struct layer *layer, struct error *err)
{
    struct tensor tensors[ROLE_COUNT + WALK_STAGES];
    uint32_t index = layer->walk.index;
    uint64_t count = finished_tensors(tensors, work, layer), bytes;
    char *notes = NULL;
    double start = report_seconds();
    enum status status = outcome_write(&notes, &bytes, work->plan, index, err);
    if (status == OK) status = journal_add(journal, index, tensors, count, notes, bytes, err);
    memory_free(notes);
    work->phases.journal += report_seconds() - start;
    return status;
}

static enum status quantize_layer(
    struct calibrated *work, struct journal *journal, uint32_t index, struct error *err)
{
    struct layer layer;
    enum status status = layer_load(&layer, work->input, index, err);
    if (status == OK && work->settings->method.rescale) status = rescale_layer(work, &layer, err);
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = gptq_stage(work, &layer, stage, err);
    if (status == OK) status = walk_finish(work->walk, &layer.walk, err);
    if (status == OK) status = add_to_journal(work, journal, &layer, err);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

/* ---- a finished layer again ---- */

/* Put what the journal has in place of the original; it must be what the plan wants. */
static enum status take_finished(struct layer *layer, enum role role, const struct plan_tensor *planned,
    struct container *from, struct error *err)
{
    const struct tensor *tensor = container_find(from, planned->target.name), *target = &planned->target;
    if (!tensor || tensor->storage != target->storage || tensor->dtype != target->dtype ||
        tensor->rank != target->rank || tensor->elements != target->elements ||
        tensor->block != target->block || tensor->scheme.bits != target->scheme.bits ||
        tensor->scheme.group != target->scheme.group)
        return fail(err, ERR_FORMAT, "%s: tensor %s is not what this run makes of it; --restart begins anew",
            container_path(from), target->name);
    if (!layer) return OK;
    void *data = memory_new(tensor->bytes, 1, err);
    if (!data) return ERR_MEMORY;
    enum status status = container_read(from, tensor, 0, data, tensor->bytes, err);
    layer_replace(layer, role, tensor, data);
    return status;
}

static enum status take_all_finished(
    struct layer *layer, struct calibrated *work, uint32_t index, struct container *from, struct error *err)
{
    enum status status = outcome_read(work->plan, index, from, err);
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        const struct plan_tensor *planned = work->plan->layer[index][role];
        if (is_journaled(planned)) status = take_finished(layer, role, planned, from, err);
    }
    return status;
}

/* Walk through a finished layer; what it shows nobody needs to see. */
static enum status replay_layer(
    struct calibrated *work, struct journal *journal, uint32_t index, struct error *err)
{
    struct layer layer;
    struct container *from = journal_layer(journal, index);
    enum status status = layer_load(&layer, work->input, index, err);
    if (status == OK && work->settings->method.rescale) status = rescale_again(work, &layer, from, err);
    if (status == OK) status = take_all_finished(&layer, work, index, from, err);
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = walk_to(work->walk, stage, &layer.walk, false, NULL, NULL, err);
    if (status == OK) status = walk_finish(work->walk, &layer.walk, err);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

/* Bring the walk to the first layer that is not finished: from the latest saved states, or from the start. */
static enum status resume(
    struct calibrated *work, struct journal *journal, const char *stamp, uint32_t finished, struct error *err)
{
    enum status status = OK;
    struct error ignored = {0};
    uint32_t from = journal_latest_states(journal, finished);
    if (from && walk_load(work->walk, journal_states_path(journal, from), stamp, &ignored) != OK) {
        report_note(work->report, "saved states are not used: %s", ignored.text);
        from = 0;
    }
    for (uint32_t layer = 0; status == OK && layer < from; layer++)
        status = take_all_finished(NULL, work, layer, journal_layer(journal, layer), err);
    struct progress *progress =
        progress_start(work->report, "walking through finished layers", finished - from, PROGRESS_ITEMS);
    for (uint32_t layer = from; status == OK && layer < finished; layer++) {
        status = replay_layer(work, journal, layer, err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    return status;
}

/* ---- all layers ---- */

static enum status save_states(struct calibrated *work, struct journal *journal, const char *stamp,
    uint32_t layer, double *last, struct error *err)
{
    double start = report_seconds();
    if (start - *last < calibrated_states_interval) return OK;
    enum status status = walk_save(work->walk, journal_states_path(journal, layer), stamp, err);
    if (status == OK) journal_drop_states(journal, layer);
    *last = report_seconds();
    work->phases.journal += *last - start;
    return status;
}

static enum status quantize_layers(
    struct calibrated *work, struct journal *journal, const char *stamp, uint32_t finished, struct error *err)
{
    uint32_t layers = work->input->config.layers;
    double start = report_seconds(), last = start;
    enum status status = resume(work, journal, stamp, finished, err);
    for (uint32_t layer = finished; status == OK && layer < layers; layer++) {
        double layer_start = report_seconds();
        status = quantize_layer(work, journal, layer, err);
        if (status != OK) break;
        outcome_note(work->report, work->plan, layer, layers, report_seconds() - layer_start,
            (report_seconds() - start) / (layer + 1 - finished) * (layers - layer - 1));
        if (layer + 1 < layers) status = save_states(work, journal, stamp, layer + 1, &last, err);
    }
    return status;
}

/* ---- the output ---- */

static enum status write_output(struct quantize_job *job, struct error *err)
{
    struct plan *plan = job->plan;
    struct transfer_item *items = memory_new(plan->count, sizeof *items, err);
    struct rtn_tensor *tensors = memory_new(plan->count, sizeof *tensors, err);
    enum status status = items && tensors ? OK : ERR_MEMORY;
    for (uint64_t i = 0; status == OK && i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        status = rtn_item(&items[i], &tensors[i], planned, job->options->report_error, err);
        if (status != OK || !is_journaled(planned)) continue;
        struct container *from = journal_layer(job->journal, planned->layer);
        items[i] = (struct transfer_item){
            .from = from, .source = container_find(from, planned->target.name), .target = planned->target};
    }
    if (status == OK) status = quantize_reserve(job, err);
    if (status == OK)
        status = transfer_run(job->input->container, job->writer, items, plan->count, job->source_crcs,
            job->pool, job->report, "writing", err);
    rtn_release(tensors, plan, status == OK);
    memory_free(items);
    return status;
}

/* ---- the run ---- */

/* Ctrl-C ends the process at once; what it says has to be ready. */
static void note_for_signals(const struct journal *journal)
{
    static char note[512];
    snprintf(note, sizeof note,
        "\nnibble-quantize: stopped; finished layers are kept in %.300s, and the same command goes on from "
        "there\n",
        journal_folder(journal));
    file_signal_note(note);
}

/* What is settled before the work begins. */
struct settled {
    struct footprint running, measuring;
    struct budget budget; /* empty without a target */
};

static void note_footprint(const struct calibrated *work, const struct footprint *footprint)
{
    char peak[16], states[16];
    report_note(work->report,
        "calibration: %" PRIu64 " samples, %" PRIu64 " tokens; about %s of memory at most%s%s%s",
        work->calibration.samples, work->calibration.tokens_used, report_bytes(peak, footprint->peak),
        footprint->in_memory ? "" : ", and ",
        footprint->in_memory ? "" : report_bytes(states, footprint->states),
        footprint->in_memory ? "" : " of disk for hidden states");
}

static enum status settle(
    struct calibrated *work, struct quantize_job *job, struct settled *settled, struct error *err)
{
    const struct quantize_options *options = job->options;
    struct footprint *running = &settled->running, *measuring = &settled->measuring;
    *settled = (struct settled){0};
    enum status status = prepare(work, job, err);
    if (status == OK && has_target(options)) {
        status = budget_create(&settled->budget, work, options, job->fixed_bytes, err);
        if (status == OK)
            status =
                footprint_measuring(measuring, work, settled->budget.table.count, options->memory_limit, err);
    }
    if (status == OK) status = footprint_settle(running, work, options->memory_limit, err);
    if (status != OK) return status;
    const struct footprint *larger = measuring->peak > running->peak ? measuring : running;
    job->calibrated.memory_estimate = larger->peak;
    note_footprint(work, larger);
    return OK;
}

static enum status settle_budget(struct calibrated *work, struct quantize_job *job, struct settled *settled,
    const char *folder, struct error *err)
{
    if (!has_target(job->options)) return OK;
    return budget_choose(
        &settled->budget, work, job->options, &settled->measuring, job->journal, folder, err);
}

/* The folder that a file is to lie in; memory_free. */
static char *folder_of(const char *path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return memory_text(".", 1, err);
    return memory_text(path, slash == path ? 1 : (uint64_t)(slash - path), err);
}

enum status calibrated_dry_run(struct quantize_job *job, struct error *err)
{
    struct calibrated work;
    struct settled settled;
    char *folder = folder_of(job->options->output, err);
    enum status status = settle(&work, job, &settled, err);
    if (status == OK && !folder) status = ERR_MEMORY;
    if (status == OK) status = settle_budget(&work, job, &settled, folder, err);
    summarize(job, &work);
    budget_free(&settled.budget);
    memory_free(folder);
    release(&work);
    return status;
}

static enum status start_walk(
    struct calibrated *work, const struct footprint *footprint, const char *folder, struct error *err)
{
    const struct walk_options options = {.original = work->settings->method.correction != CORRECTION_NONE,
        .in_memory = footprint->in_memory,
        .folder = folder};
    return walk_create(&work->walk, work->input, &work->calibration, &options, work->pool, err);
}

enum status calibrated_run(struct quantize_job *job, struct error *err)
{
    struct calibrated work;
    struct settled settled;
    const struct quantize_options *options = job->options;
    uint32_t *resumed = &job->calibrated.layers_resumed;
    char *stamp = NULL;
    enum status status = settle(&work, job, &settled, err);
    if (status == OK) status = make_stamp(&stamp, &work, options, err);
    if (status == OK)
        status = journal_open(&job->journal, options->output, stamp, work.input->config.layers,
            options->restart, work.pool, work.report, resumed, err);
    if (status == OK) {
        note_for_signals(job->journal);
        status = settle_budget(&work, job, &settled, journal_folder(job->journal), err);
    }
    if (status == OK) status = start_walk(&work, &settled.running, journal_folder(job->journal), err);
    if (status == OK) {
        status = quantize_layers(&work, job->journal, stamp, *resumed, err);
        work.phases.forward = walk_seconds(work.walk);
    }
    summarize(job, &work);
    budget_free(&settled.budget);
    release(&work);
    memory_free(stamp);
    return status == OK ? write_output(job, err) : status;
}
