/* What there is to choose, the choice, and where it is kept. The measurement is in cost.c, the optimization in allocate.c. */
#include "quantize/budget.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "formats/transfer.h"

/* ---- what there is to choose ---- */

static bool is_in_layer(const struct plan_tensor *planned)
{
    return !planned->recipe.keep && planned->role > ROLE_PER_LAYER && planned->role < ROLE_COUNT;
}

static uint64_t bytes_at(const struct plan_tensor *planned, uint32_t bits)
{
    struct tensor target = planned->target;
    if (target.storage == STORAGE_BLOCKS) {
        target.block = mix_candidate(bits, target.shape[1]);
    } else {
        target.scheme.bits = bits;
    }
    return transfer_target_bytes(&target);
}

static enum status collect(struct cost_table *out, const struct plan *plan, struct error *err)
{
    out->matrices = memory_new(plan->count, sizeof *out->matrices, err);
    out->planned = memory_new(plan->count, sizeof *out->planned, err);
    if (!out->matrices || !out->planned) return ERR_MEMORY;
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        if (!is_in_layer(planned) || planned->pinned) continue;
        struct allocate_matrix *matrix = &out->matrices[out->count];
        matrix->name = planned->target.name;
        matrix->weights = planned->source->elements;
        for (unsigned w = 0; w < ALLOCATE_WIDTHS; w++)
            matrix->bytes[w] = bytes_at(planned, allocate_widths[w]);
        out->planned[out->count++] = planned;
    }
    if (out->count) return OK;
    return fail(err, ERR_USAGE, "the target leaves nothing to choose: every matrix is kept or has its bits");
}

/* The sums that targets are about. */
struct sums {
    uint64_t least; /* bytes of what is chosen for, at the least widths */
    uint64_t layer_weights,
        pinned_bytes; /* of decoder layers: all that is quantized; what an --override gives */
    uint64_t others;  /* bytes of all that is not chosen for */
};

static struct sums add_up(const struct cost_table *table, const struct plan *plan)
{
    struct sums sums = {.others = plan->bytes};
    for (uint64_t i = 0; i < table->count; i++) {
        sums.least += table->matrices[i].bytes[0];
        sums.others -= table->planned[i]->bytes;
    }
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct plan_tensor *planned = &plan->tensors[i];
        if (!is_in_layer(planned)) continue;
        sums.layer_weights += planned->source->elements;
        if (planned->pinned) sums.pinned_bytes += planned->bytes;
    }
    return sums;
}

static enum status find_bits(uint64_t *out, const struct sums *sums, double target, struct error *err)
{
    double weights = (double)sums->layer_weights;
    uint64_t bytes = (uint64_t)(target * weights / 8), least = sums->pinned_bytes + sums->least;
    if (bytes < least)
        return fail(err, ERR_USAGE,
            "--target-bits %g is too little: with the least everywhere, quantized weights take %.4g bits, "
            "scales "
            "included; a larger --group makes it less",
            target, ceil(8000 * (double)least / weights) / 1000);
    *out = bytes - sums->pinned_bytes;
    return OK;
}

static enum status find_size(
    uint64_t *out, const struct sums *sums, uint64_t target, uint64_t fixed_bytes, struct error *err)
{
    uint64_t others = sums->others + fixed_bytes;
    if (target < others + sums->least)
        return fail(err, ERR_USAGE,
            "--target-size %" PRIu64
            " is too small: with the least bits everywhere the file takes up to %" PRIu64
            " bytes, of which %" PRIu64 " are not chosen here (embedding, head, norms, tokenizer); "
            "--embedding 8 and --head 8 make it less",
            target, others + sums->least, others);
    *out = target - others;
    return OK;
}

enum status budget_create(struct budget *out, const struct calibrated *work,
    const struct quantize_options *options, uint64_t fixed_bytes, struct error *err)
{
    *out = (struct budget){0};
    enum status status = collect(&out->table, work->plan, err);
    if (status != OK) return status;
    const struct sums sums = add_up(&out->table, work->plan);
    if (options->target_bits > 0) return find_bits(&out->bytes, &sums, options->target_bits, err);
    return find_size(&out->bytes, &sums, options->target_size, fixed_bytes, err);
}

void budget_free(struct budget *budget)
{
    memory_free(budget->table.matrices);
    memory_free(budget->table.planned);
    *budget = (struct budget){0};
}

/* ---- the journal's copy ---- */

/* {"NAME": {"bits": 3, "importance": 0.0125}, ...} */
static enum status keep(const struct cost_table *table, struct journal *journal, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    for (uint64_t i = 0; i < table->count; i++) {
        json_write_key(&json, table->matrices[i].name);
        json_open_object(&json);
        json_put_u64(&json, "bits", table->matrices[i].bits);
        json_put_number(&json, "importance", table->matrices[i].importance);
        json_close_object(&json);
    }
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (status == OK) status = journal_put_choice(journal, text, bytes, err);
    json_writer_free(&json);
    memory_free(text);
    return status;
}

static enum status read_choice(
    struct cost_table *table, const struct json_value *root, const char *what, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; status == OK && i < table->count; i++) {
        struct allocate_matrix *matrix = &table->matrices[i];
        const struct json_value *object = json_member(root, matrix->name);
        uint64_t bits = 0;
        status = json_get_u64(object, what, "bits", 2, 8, &bits, err);
        if (status == OK)
            status = json_get_number(object, what, "importance", 0, 1, &matrix->importance, err);
        if (status == OK && (bits == 7 || bits == 0))
            status = fail(err, ERR_FORMAT, "%s: has no bits of %s", what, matrix->name);
        matrix->bits = (uint32_t)bits;
    }
    return status;
}

static enum status recall(struct cost_table *table, struct journal *journal, bool *found, struct error *err)
{
    struct json_document *document = NULL;
    char *text = NULL;
    uint64_t bytes;
    enum status status = journal_get_choice(journal, &text, &bytes, err);
    *found = text != NULL;
    if (status == OK && text) status = json_parse(&document, "allocation.json", text, bytes, err);
    if (status == OK && text) status = read_choice(table, json_root(document), "allocation.json", err);
    json_free(document);
    memory_free(text);
    return status == OK ? OK : fail_within(err, status, "%s", journal_folder(journal));
}

/* ---- choosing ---- */

static enum status measure(struct budget *budget, struct calibrated *work, const struct footprint *footprint,
    const char *folder, struct error *err)
{
    struct cost_table *table = &budget->table;
    struct phases phases = work->phases;
    double start = report_seconds();
    uint64_t taken;
    enum status status = cost_measure(work, table, footprint->in_memory, folder, err);
    phases.measure = report_seconds() - start;
    work->phases = phases; /* those of the run itself */
    return status == OK ? allocate_choose(table->matrices, table->count, budget->bytes, &taken, err) : status;
}

/* Not an hour later. */
static enum status check_file(const struct quantize_options *options, struct error *err)
{
    const char *path = options->save_allocation;
    if (!path || options->force || file_kind(path) == FILE_ABSENT) return OK;
    return fail(err, ERR_USAGE, "%s exists; --force replaces it", path);
}

static enum status save(
    const struct cost_table *table, const struct quantize_options *options, bool recalled, struct error *err)
{
    const char *path = options->save_allocation;
    if (!path || (recalled && !options->force && file_kind(path) != FILE_ABSENT)) return OK;
    return allocate_write(path, options->force, table->matrices, table->count, err);
}

/* One matrix gets what was chosen for it. */
static enum status take(struct allocate_matrix *matrix, struct plan_tensor *planned,
    const struct calibrated *work, struct error *err)
{
    enum block_type block = BLOCK_NONE;
    planned->importance = matrix->importance;
    if (planned->recipe.block) {
        block = mix_candidate(matrix->bits, planned->target.shape[1]);
        matrix->label = mix_block_name(block);
    }
    return plan_choose(work->plan, planned, work->settings, matrix->bits, block, err);
}

enum status budget_choose(struct budget *budget, struct calibrated *work,
    const struct quantize_options *options, const struct footprint *footprint, struct journal *journal,
    const char *folder, struct error *err)
{
    const struct cost_table *table = &budget->table;
    bool recalled = false;
    enum status status = journal ? recall(&budget->table, journal, &recalled, err) : OK;
    if (status == OK && !recalled) {
        status = check_file(options, err);
        if (status == OK) status = measure(budget, work, footprint, folder, err);
        if (status == OK && journal) status = keep(table, journal, err);
    }
    for (uint64_t i = 0; status == OK && i < table->count; i++) {
        status = take(&table->matrices[i], table->planned[i], work, err);
    }
    return status == OK ? save(table, options, recalled, err) : status;
}

/* ---- a choice from a file ---- */

static struct plan_tensor *find_planned(struct plan *plan, const char *name)
{
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        bool is_matrix = planned->role < ROLE_COUNT && planned->target.rank == 2;
        if (is_matrix && strcmp(planned->target.name, name) == 0) return planned;
    }
    return NULL;
}

enum status budget_apply(
    struct plan *plan, const struct settings *settings, const char *path, struct error *err)
{
    struct allocation allocation = {0};
    enum status status = allocate_read(&allocation, path, err);
    for (uint64_t i = 0; status == OK && i < allocation.count; i++) {
        const struct allocation_line *line = &allocation.lines[i];
        struct plan_tensor *planned = find_planned(plan, line->name);
        if (!planned) {
            status = fail(err, ERR_USAGE, "%s: %s is no weight matrix of this model", path, line->name);
        } else if (settings->mix && line->bits) {
            status = fail(
                err, ERR_USAGE, "%s: %s has bits; with --type, name a block type or keep", path, line->name);
        } else {
            status = plan_choose(plan, planned, settings, line->bits, line->block, err);
            if (status != OK) fail_within(err, status, "%s", path);
        }
    }
    allocate_free(&allocation);
    return status;
}
