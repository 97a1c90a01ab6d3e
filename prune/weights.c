/* Settle what is to be done, then layer after layer into the journal, then all tensors into the output. */
#include "prune/weights.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/destination_write.h"
#include "model/layerwise/source_stamp.h"
#include "prune/prune_pairs.h"
#include "prune/weights_outcome.h"
#include "prune/weights_owl.h"
#include "prune/weights_plan.h"
#include "prune/weights_size.h"
#include "prune/weights_stage.h"
#include "tensor/linalg.h"

/* ---- what the options mean for this model ---- */

#define ROUNDS 2 /* of polishing, if nobody says: docs/methods/pruning.md */
#define DAMPING 0.01

static enum status check_options(const struct prune_job *job, struct error *err)
{
    const struct prune_options *options = job->options;
    const struct prune_method *method = job->settings->method;
    const char *solver = NULL;
    if (options->damping > 0) solver = "--damping";
    if (options->polish != PRUNE_UNSET) solver = "--polish";
    if (options->correction) solver = "--correction";
    if (solver && !method->solve)
        return fail(
            err, ERR_USAGE, "%s has no meaning for method %s, which solves nothing", solver, method->name);
    if (job->settings->owl && !method->calibrated)
        return fail(err, ERR_USAGE,
            "--ratios owl measures outliers on a calibration text, which --method %s does without; use "
            "wanda, ria, sparsegpt or wanda+sparsegpt",
            method->name);
    if (options->target_latency > 0)
        return fail(err, ERR_UNSUPPORTED,
            "--target-latency is not there for single weights; choose by --target-size and nibble-check "
            "bench");
    return OK;
}

/* Where a norm lies between a matrix and the residual stream, the matrix cannot make up for what is missing in the stream. */
static enum status choose_aim(struct weights *work, struct error *err)
{
    const struct prune_options *options = work->job->options;
    const struct architecture *architecture = work->job->input->config.architecture;
    const char *wanted = options->correction ? options->correction : "residual";
    if (!work->job->settings->method->solve) return OK;
    work->aim.inputs = strcmp(wanted, "none") != 0;
    work->aim.residual = strcmp(wanted, "residual") == 0;
    if (!architecture->post_norm || !work->aim.residual) return OK;
    if (options->correction)
        return fail(err, ERR_UNSUPPORTED,
            "--correction residual: %s norms what o and down give before it is added; use inputs or none",
            architecture->name);
    report_note(work->job->report, "%s norms what o and down give before it is added: --correction inputs",
        architecture->name);
    work->aim.residual = false;
    return OK;
}

/* Ask the format: others turn a sparse matrix into what it spreads to. */
static bool holds_sparse(const struct weights *work)
{
    const struct destination destination = prune_destination(work->job->options);
    struct tensor probe = {.name = "",
        .storage = STORAGE_SPARSE,
        .dtype = DTYPE_F16,
        .mask = MASK_BITMAP,
        .rank = 2,
        .shape = {8, 32}};
    struct error ignored;
    return destination_target(&destination, &work->job->input->config, &probe, &ignored) == OK &&
           probe.storage == STORAGE_SPARSE;
}

static enum status choose_storage(struct weights *work, struct error *err)
{
    const char *storage = work->job->options->storage;
    bool wanted = storage && strcmp(storage, "sparse") == 0;
    work->nbl = holds_sparse(work);
    work->sparse = work->nbl && (!storage || wanted);
    if (!wanted || work->sparse) return OK;
    return fail(err, ERR_USAGE,
        "--storage sparse: only .nbl files hold sparse matrices; leave it out, and zeros are stored");
}

/* The matrices that could be sparse but for their type. */
static void note_wide(const struct weights *work)
{
    const struct prune_result *result = work->job->result;
    struct tensor sparse;
    uint64_t wide = 0;
    for (uint64_t i = 0; work->sparse && i < result->count; i++)
        wide += !weights_plan_sparse(&sparse, &result->tensors[i], work);
    if (wide)
        report_note(work->job->report,
            "%" PRIu64 " matrices of %s weights are stored with their zeros: sparse storage takes 16-bit "
            "weights (nibble-convert --type bf16), or --bits",
            wide, dtype_info(result->tensors[0].target.dtype)->name);
}

static enum status settle(struct weights *work, struct error *err)
{
    const struct prune_options *options = work->job->options;
    const struct prune_method *method = work->job->settings->method;
    enum status status = check_options(work->job, err);
    if (status == OK) status = choose_aim(work, err);
    if (status == OK) status = choose_storage(work, err);
    if (status == OK) status = weights_plan(work, err);
    if (status == OK && options->target_size) status = weights_size_choose(work, err);
    if (status != OK) return status;
    note_wide(work);
    work->damping = options->damping > 0 ? options->damping : DAMPING;
    work->rounds = options->polish != PRUNE_UNSET ? (unsigned)options->polish : ROUNDS;
    if (!method->solve) work->rounds = 0;
    work->shares = memory_new(work->job->input->config.layers, sizeof *work->shares, err);
    if (!work->shares) return ERR_MEMORY;
    if (!method->calibrated) return OK;
    status = linalg_init(err);
    return status == OK ? calibration_request_load(&work->calibration, &options->calibration,
                              work->job->input, work->job->report, err)
                        : status;
}

/* Ask the format of the output before days of work whether it takes these tensors and this model: a writer is made, told of every
 * tensor, and dropped again. */
static enum status try_destination(const struct weights *work, struct error *err)
{
    const struct report silent = {.quiet = true};
    const struct checkpoint *input = work->job->input;
    struct destination destination = prune_destination(work->job->options);
    struct writer *writer = NULL;
    uint64_t index;
    enum status status = destination_check(&destination, err);
    if (work->job->options->dry_run) destination.force = true;
    if (status == OK) status = destination_create(&writer, &destination, input, &silent, err);
    for (uint64_t i = 0; status == OK && i < container_count(input->container); i++) {
        const struct tensor *source = container_tensor(input->container, i);
        struct tensor target;
        if (checkpoint_is_dropped(input, source)) continue;
        status = weights_plan_target(&target, work, source, weights_plan_find(work, source), err);
        if (status == OK) status = writer_add(writer, &target, &index, err);
    }
    if (writer) writer_abandon(writer);
    return status;
}

/* ---- memory ---- */

#define BASE_BYTES (UINT64_C(24) << 20)    /* the program, its libraries, tokenizer and buffers of BLAS */
#define STATES_BYTES (UINT64_C(512) << 20) /* hidden states above this go to a file */

static uint64_t largest_layer(const struct weights *work)
{
    uint64_t largest = 0;
    for (uint32_t layer = 0; layer < work->job->input->config.layers; layer++) {
        uint64_t weights = layer_bytes(work->job->input, layer), most = 0;
        for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
            uint64_t bytes = weights_stage_bytes(work, layer, stage);
            if (bytes > most) most = bytes;
        }
        if (2 * weights + most > largest) largest = 2 * weights + most;
    }
    return largest;
}

/* States stay in memory if they are few and the limit allows. */
static enum status settle_memory(struct weights *work, struct error *err)
{
    const struct model_config *config = &work->job->input->config;
    const struct calibration *calibration = &work->calibration;
    uint64_t limit = work->job->options->memory_limit, states = 0, peak = BASE_BYTES + largest_layer(work),
             walk;
    struct walk_options options = {.original = work->aim.inputs, .in_memory = true};
    char needed[16], allowed[16];
    walk = walk_bytes(config, calibration->samples, calibration->length, &options, &states);
    work->in_memory = states <= STATES_BYTES && (limit == 0 || peak + walk <= limit);
    options.in_memory = work->in_memory;
    walk = walk_bytes(config, calibration->samples, calibration->length, &options, &states);
    peak += walk;
    work->job->result->memory_estimate = peak;
    work->job->result->samples = calibration->samples;
    work->job->result->tokens = calibration->tokens_used;
    if (limit && peak > limit)
        return fail(err, ERR_MEMORY,
            "this needs about %s of memory, --memory-limit allows %s; --correction none, fewer --threads and "
            "shorter samples take less",
            report_bytes(needed, peak), report_bytes(allowed, limit));
    report_note(work->job->report,
        "calibration: %" PRIu64 " samples, %" PRIu64 " tokens; about %s of memory at most",
        calibration->samples, calibration->tokens_used, report_bytes(needed, peak));
    return OK;
}

/* ---- layers ---- */

static enum status compress_layer(void *context, struct layer *layer, struct error *err)
{
    struct weights *work = context;
    if (!work->walk) return weights_layer(work, layer, err);
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = weights_stage(work, layer, stage, err);
    return status;
}

static enum status record_layer(
    void *context, const struct layer *layer, struct layer_record *out, struct error *err)
{
    const struct weights *work = context;
    enum status status = OK;
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        const struct prune_tensor *matrix = work->layer[layer->walk.index][role];
        if (!matrix) continue;
        struct tensor tensor = *layer->walk.current[role];
        tensor.name = matrix->name;
        status = layer_record_add(out, &tensor, err);
    }
    return status == OK ? weights_outcome_write(&out->notes, &out->notes_bytes, work, layer->walk.index, err)
                        : status;
}

/* A finished matrix has one of the two forms. */
static enum status expect(const struct weights *work, const struct prune_tensor *matrix,
    const struct tensor *tensor, const struct container *from, struct error *err)
{
    struct tensor sparse;
    bool may = work->sparse && weights_plan_sparse(&sparse, matrix, work);
    return layerwise_expect(
        tensor, may && tensor && tensor->storage == STORAGE_SPARSE ? &sparse : &matrix->target, from, err);
}

static enum status take_again(
    void *context, struct layer *layer, uint32_t index, struct container *from, struct error *err)
{
    struct weights *work = context;
    enum status status = weights_outcome_read(work, index, from, err);
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        const struct prune_tensor *matrix = work->layer[index][role];
        if (!matrix) continue;
        const struct tensor *tensor = container_find(from, matrix->name);
        status = expect(work, matrix, tensor, from, err);
        if (status == OK && layer) status = layerwise_take(layer, role, tensor, from, err);
    }
    return status;
}

static void note_layer(void *context, uint32_t index, double seconds, double seconds_left)
{
    weights_outcome_note(context, index, seconds, seconds_left);
}

static enum status prune_layers(struct weights *work, const char *stamp, uint32_t finished, struct error *err)
{
    static const struct layerwise_work steps = {compress_layer, record_layer, take_again, note_layer};
    const struct walk_options options = {
        .original = work->aim.inputs, .in_memory = work->in_memory, .folder = journal_folder(work->journal)};
    enum status status = OK;
    if (work->job->settings->method->calibrated)
        status =
            walk_create(&work->walk, work->job->input, &work->calibration, &options, work->job->pool, err);
    struct layerwise run = {.input = work->job->input,
        .walk = work->walk,
        .journal = work->journal,
        .stamp = stamp,
        .work = &steps,
        .context = work,
        .report = work->job->report};
    return status == OK ? layerwise_run(&run, finished, err) : status;
}

/* ---- the journal ---- */

static enum status make_stamp(char **out, struct weights *work, struct error *err)
{
    struct json_writer json = {.indent = 2};
    struct option_pairs pairs;
    uint64_t bytes;
    enum status status = prune_pairs_create(&pairs, work, err);
    json_open_object(&json);
    json_put_text(&json, "version", NIBBLE_VERSION);
    for (uint64_t i = 0; status == OK && i < pairs.count; i++)
        json_put_text(&json, pairs.list[i][0], pairs.list[i][1]);
    if (status == OK)
        status =
            source_stamp_put(&json, work->job->input->container, work->job->pool, work->job->report, err);
    json_close_object(&json);
    if (status == OK) status = json_writer_take(&json, out, &bytes, err);
    json_writer_free(&json);
    option_pairs_free(&pairs);
    return status;
}

static enum status compress(struct weights *work, struct error *err)
{
    const struct prune_options *options = work->job->options;
    uint32_t *resumed = &work->job->result->layers_resumed;
    char *stamp = NULL;
    enum status status = make_stamp(&stamp, work, err);
    if (status == OK)
        status = journal_open(&work->journal, options->output, stamp, work->job->input->config.layers,
            options->restart, work->job->pool, work->job->report, resumed, err);
    if (status == OK) layerwise_note_for_signals("nibble-prune", work->journal);
    if (status == OK) status = weights_owl_shares(work, err);
    if (status == OK) status = prune_layers(work, stamp, *resumed, err);
    memory_free(stamp);
    return status;
}

/* ---- the output ---- */

/* Where each tensor comes from and what it becomes; pruned ones keep the form that the journal has. */
static enum status make_items(
    struct transfer_item *items, uint64_t *count, struct weights *work, struct error *err)
{
    const struct checkpoint *input = work->job->input;
    enum status status = OK;
    *count = 0;
    for (uint64_t i = 0; status == OK && i < container_count(input->container); i++) {
        const struct tensor *source = container_tensor(input->container, i);
        if (checkpoint_is_dropped(input, source)) continue;
        struct prune_tensor *pruned = weights_plan_find(work, source);
        struct transfer_item *item = &items[(*count)++];
        item->source = source;
        if (pruned) {
            item->from = journal_layer(work->journal, pruned->layer);
            item->source = container_find(item->from, pruned->name);
            pruned->target = *item->source;
            pruned->target.name = pruned->name; /* the journal goes */
            pruned->target.data = NULL;
        }
        status = weights_plan_target(&item->target, work, source, pruned, err);
    }
    return status;
}

static enum status write_items(
    struct weights *work, const struct transfer_item *items, uint64_t count, struct error *err)
{
    struct prune_job *job = work->job;
    const struct destination destination = prune_destination(job->options);
    struct destination_parts parts = {0};
    struct option_pairs pairs;
    enum status status = prune_pairs_create(&pairs, work, err);
    const struct destination_model model = {.input = job->input,
        .items = items,
        .count = count,
        .tool = prune_settings_command.name,
        .options = (const char *const(*)[2])pairs.list,
        .option_count = pairs.count,
        .label = "writing"};
    if (status == OK) status = destination_write(&parts, &destination, &model, job->pool, job->report, err);
    if (status == OK) job->result->bytes_out = destination_parts_bytes(&parts, destination.path);
    destination_parts_free(&parts);
    option_pairs_free(&pairs);
    return status;
}

static enum status write_output(struct weights *work, struct error *err)
{
    uint64_t count = container_count(work->job->input->container);
    struct transfer_item *items = memory_new(count, sizeof *items, err);
    enum status status = items ? make_items(items, &count, work, err) : ERR_MEMORY;
    if (status == OK) status = write_items(work, items, count, err);
    memory_free(items);
    return status;
}

/* ---- the run ---- */

/* Sums over all tensors. */
static void add_up(struct weights *work)
{
    struct prune_result *result = work->job->result;
    const struct checkpoint *input = work->job->input;
    for (uint64_t i = 0; i < container_count(input->container); i++) {
        const struct tensor *source = container_tensor(input->container, i);
        result->weights_in += checkpoint_is_dropped(input, source) ? 0 : source->elements;
    }
    result->weights_out = result->weights_in;
    for (uint64_t i = 0; i < result->count; i++)
        result->zeros += result->tensors[i].zeros;
}

static enum status finish_journal(struct weights *work, enum status status, struct error *err)
{
    file_signal_note(NULL);
    if (status == OK) return journal_remove(work->journal, err);
    journal_close(work->journal);
    return status;
}

enum status weights_run(struct prune_job *job, struct error *err)
{
    struct weights work = {.job = job};
    enum status status = settle(&work, err);
    if (status == OK) status = try_destination(&work, err);
    if (status == OK && job->settings->method->calibrated) status = settle_memory(&work, err);
    if (status == OK && job->options->dry_run) {
        status = weights_size_foretell(&job->result->bytes_out, &work, err);
    } else if (status == OK) {
        status = compress(&work, err);
        if (status == OK) status = write_output(&work, err);
        if (work.journal) status = finish_journal(&work, status, err);
    }
    if (status == OK) add_up(&work);
    walk_free(work.walk);
    calibration_free(&work.calibration);
    memory_free(work.layer);
    memory_free(work.shares);
    return status;
}
