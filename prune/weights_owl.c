#include "prune/weights_owl.h"

#include <inttypes.h>

#include "base/memory.h"

#define OUTLIERS "outliers"

/* ---- inputs ---- */

/* Sums of squares of a stage's inputs. */
struct squares {
    double *sums; /* [cols] */
    uint64_t cols, tokens;
};

static enum status add_squares(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct squares *squares = context;
    (void)err;
    for (uint64_t t = 0; t < inputs->tokens; t++) {
        const float *x = inputs->x + t * inputs->cols;
        for (uint64_t c = 0; c < inputs->cols; c++)
            squares->sums[c] += (double)x[c] * (double)x[c];
    }
    squares->tokens += inputs->tokens;
    return OK;
}

static enum status observe(struct weights *work, const struct walk_layer *layer, enum stage stage,
    struct squares *squares, struct error *err)
{
    squares->cols = walk_stage_cols(&work->job->input->config, stage, layer->index);
    squares->sums = memory_new(squares->cols, sizeof *squares->sums, err);
    if (!squares->sums) return ERR_MEMORY;
    enum status status = walk_to(work->walk, stage, layer, false, add_squares, squares, err);
    for (uint64_t c = 0; c < squares->cols && squares->tokens; c++)
        squares->sums[c] /= (double)squares->tokens;
    return status;
}

/* ---- scores ---- */

/* Over all matrices of a layer. */
struct tally {
    double sum;
    uint64_t count, above;
};

/* Add the scores of one matrix up, or (with the sums known) count those that are outliers. */
static enum status tally_matrix(struct weights *work, const struct layer *layer,
    const struct prune_tensor *matrix, const double *second, struct tally *tally, bool counting,
    struct error *err)
{
    uint64_t cols = matrix->target.shape[1], count = matrix->weights;
    float *weights = layer_floats(layer, matrix->role, err);
    float *scores = memory_new(count, sizeof *scores, err);
    enum status status = weights && scores ? OK : ERR_MEMORY;
    if (status == OK)
        status = sparsity_scores(
            scores, SPARSITY_WANDA, weights, count / cols, cols, second, work->job->pool, err);
    if (status == OK && counting) {
        double mean = tally->sum / (double)tally->count;
        tally->above += sparsity_above(scores, count, work->job->options->owl_threshold * mean);
    } else if (status == OK) {
        tally->sum += sparsity_sum(scores, count);
        tally->count += count;
    }
    memory_free(weights);
    memory_free(scores);
    return status;
}

static enum status tally_layer(struct weights *work, const struct layer *layer,
    const struct squares squares[WALK_STAGES], bool counting, struct tally *tally, struct error *err)
{
    enum status status = OK;
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        const struct prune_tensor *matrix = work->layer[layer->walk.index][role];
        if (!matrix) continue;
        status = tally_matrix(work, layer, matrix, squares[walk_stage_of(role)].sums, tally, counting, err);
    }
    return status;
}

/* ---- layers ---- */

/* The share of outliers among a layer's scores. */
static enum status measure_layer(struct weights *work, uint32_t index, double *out, struct error *err)
{
    struct squares squares[WALK_STAGES] = {0};
    struct tally tally = {0};
    struct layer layer;
    enum status status = layer_load(&layer, work->job->input, index, err);
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = observe(work, &layer.walk, stage, &squares[stage], err);
    if (status == OK) status = walk_finish(work->walk, &layer.walk, err);
    if (status == OK) status = tally_layer(work, &layer, squares, false, &tally, err);
    if (status == OK) status = tally_layer(work, &layer, squares, true, &tally, err);
    *out = tally.count ? (double)tally.above / (double)tally.count : 0;
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++)
        memory_free(squares[stage].sums);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

static enum status measure(struct weights *work, double *outliers, struct error *err)
{
    const struct walk_options options = {
        .in_memory = work->in_memory, .folder = journal_folder(work->journal)};
    uint32_t layers = work->job->input->config.layers;
    enum status status =
        walk_create(&work->walk, work->job->input, &work->calibration, &options, work->job->pool, err);
    struct progress *progress =
        progress_start(work->job->report, "measuring outliers", layers, PROGRESS_ITEMS);
    for (uint32_t i = 0; status == OK && i < layers; i++) {
        status = measure_layer(work, i, &outliers[i], err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    walk_free(work->walk);
    work->walk = NULL;
    return status;
}

/* ---- the journal ---- */

static enum status keep(struct weights *work, const double *outliers, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    json_put_numbers(&json, OUTLIERS, outliers, work->job->input->config.layers);
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (status == OK) status = journal_put_choice(work->journal, text, bytes, err);
    json_writer_free(&json);
    memory_free(text);
    return status;
}

/* False if the text does not hold a number from 0 to 1 for every layer. */
static bool read_outliers(double *outliers, uint32_t layers, const struct json_value *root)
{
    const struct json_value *list = json_member(root, OUTLIERS);
    if (!list || list->kind != JSON_ARRAY || list->count != layers) return false;
    const struct json_value *value = list->children;
    for (uint32_t i = 0; i < layers; i++, value = value->next) {
        if (value->kind != JSON_NUMBER || !(value->number >= 0 && value->number <= 1)) return false;
        outliers[i] = value->number;
    }
    return true;
}

static enum status recall(struct weights *work, double *outliers, bool *found, struct error *err)
{
    struct json_document *document = NULL;
    char *text = NULL;
    uint64_t bytes;
    enum status status = journal_get_choice(work->journal, &text, &bytes, err);
    *found = false;
    if (status == OK && text && json_parse(&document, "outliers", text, bytes, NULL) == OK)
        *found = read_outliers(outliers, work->job->input->config.layers, json_root(document));
    json_free(document);
    memory_free(text);
    return status;
}

/* ---- shares ---- */

static enum status spread(struct weights *work, const double *outliers, struct error *err)
{
    const struct prune_options *options = work->job->options;
    uint32_t layers = work->job->input->config.layers;
    uint64_t *counts = memory_new(layers, sizeof *counts, err);
    if (!counts) return ERR_MEMORY;
    for (uint32_t i = 0; i < layers; i++) {
        for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++)
            counts[i] += work->layer[i][role] ? work->layer[i][role]->weights : 0;
    }
    bool inside = sparsity_spread(
        work->shares, outliers, counts, layers, work->job->settings->sparsity, options->owl_spread);
    memory_free(counts);
    if (inside) return OK;
    return fail(err, ERR_USAGE,
        "--owl-spread %g: a layer would lose nothing or all of its weights at a sparsity of %g%%; give a "
        "smaller one",
        options->owl_spread, 100 * work->job->settings->sparsity);
}

enum status weights_owl_shares(struct weights *work, struct error *err)
{
    uint32_t layers = work->job->input->config.layers;
    bool found = false;
    for (uint32_t i = 0; i < layers; i++)
        work->shares[i] = work->job->settings->sparsity;
    if (!work->job->settings->owl) return OK;
    double *outliers = memory_new(layers, sizeof *outliers, err);
    enum status status = outliers ? recall(work, outliers, &found, err) : ERR_MEMORY;
    if (status == OK && !found) status = measure(work, outliers, err);
    if (status == OK && !found) status = keep(work, outliers, err);
    if (status == OK) status = spread(work, outliers, err);
    for (uint32_t i = 0; status == OK && i < layers; i++)
        report_detail(work->job->report, "layer %" PRIu32 ": %.3f %% outliers, %.2f %% of the weights go", i,
            100 * outliers[i], 100 * work->shares[i]);
    memory_free(outliers);
    return status;
}
