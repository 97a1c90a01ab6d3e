/* A calibrated run: settle what is to be done, then layer after layer into the journal, then all tensors into the output. */
#include "quantize/calibrated.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/transfer.h"
#include "model/layerwise/layerwise.h"
#include "model/layerwise/source_stamp.h"
#include "quantize/budget.h"
#include "quantize/gptq.h"
#include "quantize/outcome.h"
#include "quantize/pairs.h"
#include "quantize/rescale.h"
#include "quantize/rtn.h"
#include "tensor/linalg.h"

/* ---- settling ---- */

static enum status prepare(struct calibrated *work, struct quantize_job *job, struct error *err)
{
    *work = (struct calibrated){.input = job->input,
        .plan = job->plan,
        .settings = job->settings,
        .pool = job->pool,
        .report = job->report};
    enum status status = linalg_init(err);
    return status == OK ? calibration_request_load(
                              &work->calibration, &job->options->calibration, work->input, work->report, err)
                        : status;
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
    uint64_t bytes;
    enum status status =
        pairs_create(&pairs, options, work->settings, &work->calibration, work->input->config.tied, err);
    if (status == OK) {
        json_open_object(&json);
        json_put_text(&json, "version", NIBBLE_VERSION);
        for (uint64_t i = 0; i < pairs.all.count; i++)
            json_put_text(&json, pairs.all.list[i][0], pairs.all.list[i][1]);
        put_bits(&json, work->plan);
        status = source_stamp_put(&json, work->input->container, work->pool, work->report, err);
    }
    if (status == OK) {
        json_close_object(&json);
        status = json_writer_take(&json, out, &bytes, err);
    }
    json_writer_free(&json);
    pairs_free(&pairs);
    return status;
}

/* ---- one layer ---- */

static bool is_journaled(const struct plan_tensor *planned)
{
    return planned && planned->role > ROLE_FINAL_NORM && planned->role < ROLE_COUNT &&
           (!planned->recipe.keep || planned->rewritten);
}

static enum status compress_layer(void *context, struct layer *layer, struct error *err)
{
    struct calibrated *work = context;
    enum status status = work->settings->method.rescale ? rescale_layer(work, layer, err) : OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = gptq_stage(work, layer, stage, err);
    return status;
}

/* The tensors of a layer that are not simply copied, with their data, and the scales in them. */
static enum status record_layer(
    void *context, const struct layer *layer, struct layer_record *out, struct error *err)
{
    const struct calibrated *work = context;
    struct tensor scales[RESCALE_TENSORS];
    uint64_t count = rescale_tensors(scales, layer, &work->input->config);
    uint32_t index = layer->walk.index;
    enum status status = OK;
    for (uint32_t place = ROLE_PER_LAYER; status == OK && place < work->plan->places; place++) {
        const struct plan_tensor *planned = plan_at(work->plan, index, place);
        if (!is_journaled(planned)) continue;
        struct tensor tensor = *layer_current(layer, place);
        tensor.name = planned->target.name;
        status = layer_record_add(out, &tensor, err);
    }
    for (uint64_t i = 0; status == OK && i < count; i++)
        status = layer_record_add(out, &scales[i], err);
    return status == OK ? outcome_write(&out->notes, &out->notes_bytes, work->plan, index, err) : status;
}

/* Put what the journal has in place of the original; it must be what the plan wants. */
static enum status take_again(
    void *context, struct layer *layer, uint32_t index, struct container *from, struct error *err)
{
    struct calibrated *work = context;
    enum status status = layer && work->settings->method.rescale ? rescale_again(work, layer, from, err) : OK;
    if (status == OK) status = outcome_read(work->plan, index, from, err);
    for (uint32_t place = ROLE_PER_LAYER; status == OK && place < work->plan->places; place++) {
        const struct plan_tensor *planned = plan_at(work->plan, index, place);
        if (!is_journaled(planned)) continue;
        const struct tensor *tensor = container_find(from, planned->target.name);
        status = layerwise_expect(tensor, &planned->target, from, err);
        if (status == OK && layer) status = layerwise_take(layer, place, tensor, from, err);
    }
    return status;
}

static void note_layer(void *context, uint32_t index, double seconds, double seconds_left)
{
    const struct calibrated *work = context;
    outcome_note(work->report, work->plan, index, work->input->config.layers, seconds, seconds_left);
}

static enum status quantize_layers(
    struct calibrated *work, struct journal *journal, const char *stamp, uint32_t finished, struct error *err)
{
    static const struct layerwise_work steps = {compress_layer, record_layer, take_again, note_layer};
    struct layerwise run = {.input = work->input,
        .walk = work->walk,
        .journal = journal,
        .stamp = stamp,
        .work = &steps,
        .context = work,
        .report = work->report};
    enum status status = layerwise_run(&run, finished, err);
    work->phases.journal += run.journal_seconds;
    work->phases.forward = walk_seconds(work->walk);
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

enum status calibrated_dry_run(struct quantize_job *job, struct error *err)
{
    struct calibrated work;
    struct settled settled;
    char *folder = file_parent(job->options->output, err);
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
        layerwise_note_for_signals("nibble-quantize", job->journal);
        status = settle_budget(&work, job, &settled, journal_folder(job->journal), err);
    }
    if (status == OK) status = start_walk(&work, &settled.running, journal_folder(job->journal), err);
    if (status == OK) status = quantize_layers(&work, job->journal, stamp, *resumed, err);
    summarize(job, &work);
    budget_free(&settled.budget);
    release(&work);
    memory_free(stamp);
    return status == OK ? write_output(job, err) : status;
}
