/* See task_print.h. */
#include "runtime-check/tasks/task_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/report.h"

/* ---- for people ---- */

static void add_share(struct table *table, const struct estimate *share)
{
    table_cell(table, "%.2f +- %.2f %%", 100 * share->value, 100 * share->error);
}

static void add_row(struct table *table, const struct task_print_model *model, bool first)
{
    const struct tally_summary *summary = &model->summary;
    table_cell(table, "%s", model->name);
    add_share(table, &summary->accuracy);
    add_share(table, &summary->accuracy_by_characters);
    if (first) {
        for (int i = 0; i < 5; i++)
            table_cell(table, "%s", "");
        return;
    }
    const double change = fabs(summary->change.value) < 5e-5 ? 0 : summary->change.value; /* no "-0.00" */
    table_cell(table, "%+.2f +- %.2f %%", 100 * change, 100 * summary->change.error);
    table_cell(table, "%.2f %%", 100 * summary->flips.value);
    table_cell(table, "%" PRIu64 " / %" PRIu64, summary->lost, summary->gained);
    table_cell(table, "%.2f %%", 100 * summary->agree.value);
    table_cell(table, "%.5f +- %.5f", summary->kld.value, summary->kld.error);
}

void task_print_table(const struct task_print_model *models, uint64_t count)
{
    struct table table = {0};
    table_head(&table, 8,
        (const char *const[]){"model", ">accuracy", ">normalised", ">change", ">flips", ">lost / gained",
            ">same answer", ">KLD"});
    for (uint64_t i = 0; i < count; i++)
        add_row(&table, &models[i], i == 0);
    table_print(&table);
    table_free(&table);
}

/* ---- for programs ---- */

/* The numbers of a model, by the names that --json, --csv and --markdown share. */
struct column {
    const char *name;
    size_t offset;
    bool compared; /* with the first model */
};

#define COLUMN(name, member, compared)                                                                       \
    {                                                                                                        \
        name, offsetof(struct tally_summary, member), compared                                               \
    }
#define ESTIMATE(field, compared)                                                                            \
    COLUMN(#field, field.value, compared), COLUMN(#field "_error", field.error, compared)
static const struct column columns[] = {
    ESTIMATE(accuracy, false),
    ESTIMATE(accuracy_by_characters, false),
    ESTIMATE(accuracy_by_bytes, false),
    ESTIMATE(right_log_prob, false),
    ESTIMATE(change, true),
    ESTIMATE(change_by_characters, true),
    ESTIMATE(flips, true),
    ESTIMATE(agree, true),
    ESTIMATE(kld, true),
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static double column_value(const struct column *column, const struct tally_summary *summary)
{
    double value;
    memcpy(&value, (const char *)summary + column->offset, sizeof value);
    return value;
}

void task_print_json(struct json_writer *writer, const struct task_print_model *model, bool first)
{
    json_open_object(writer);
    json_put_text(writer, "model", model->name);
    json_put_u64(writer, "bytes", model->bytes);
    json_put_u64(writer, "context", model->plan.context);
    json_put_u64(writer, "truncated", model->plan.truncated);
    json_put_u64(writer, "tokens_scored", model->plan.scored);
    json_put_u64(writer, "tokens_run", model->scores.tokens_run);
    for (int i = 0; i < COLUMNS; i++) {
        if (!first || !columns[i].compared)
            json_put_number(writer, columns[i].name, column_value(&columns[i], &model->summary));
    }
    if (!first) {
        json_put_u64(writer, "lost", model->summary.lost);
        json_put_u64(writer, "gained", model->summary.gained);
    }
    json_put_number(writer, "seconds", model->scores.seconds);
    json_close_object(writer);
}

static void print_headings(struct cells *cells)
{
    cells_text(cells, "model");
    cells_text(cells, "bytes");
    for (int i = 0; i < COLUMNS; i++)
        cells_text(cells, columns[i].name);
    cells_text(cells, "lost");
    cells_text(cells, "gained");
    cells_end_head(cells);
}

static void print_model(struct cells *cells, const struct task_print_model *model, bool first)
{
    cells_text(cells, model->name);
    cells_u64(cells, model->bytes);
    for (int i = 0; i < COLUMNS; i++) {
        if (first && columns[i].compared)
            cells_empty(cells);
        else
            cells_number(cells, column_value(&columns[i], &model->summary));
    }
    if (first) {
        cells_empty(cells);
        cells_empty(cells);
    } else {
        cells_u64(cells, model->summary.lost);
        cells_u64(cells, model->summary.gained);
    }
    cells_end(cells);
}

void task_print_cells(enum cells_format format, const struct task_print_model *models, uint64_t count)
{
    struct cells cells = {.format = format};
    print_headings(&cells);
    for (uint64_t i = 0; i < count; i++)
        print_model(&cells, &models[i], i == 0);
}

/* ---- samples ---- */

static void write_answer(struct json_writer *writer, const struct task_item *item,
    const struct task_print_model *model, uint64_t index)
{
    const struct tasks_scores *scores = &model->scores;
    json_open_object(writer);
    json_put_text(writer, "model", model->name);
    json_write_key(writer, "log_likelihoods");
    json_open_array(writer);
    for (uint32_t i = 0; i < item->choices; i++)
        json_write_number(writer, scores->sums[item->first + i]);
    json_close_array(writer);
    json_put_u64(writer, "chosen", scores->chosen[index]);
    json_put_u64(writer, "chosen_by_characters", scores->chosen_by_characters[index]);
    json_put_u64(writer, "chosen_by_bytes", scores->chosen_by_bytes[index]);
    json_put_bool(writer, "correct", scores->chosen[index] == item->right);
    json_close_object(writer);
}

static enum status write_sample(struct output *output, uint64_t *offset, const struct task_file *file,
    uint64_t index, const struct task_print_model *models, uint64_t count, struct error *err)
{
    struct json_writer writer = {0};
    const struct task_item *item = &file->items[index];
    char *line = NULL;
    uint64_t bytes = 0;
    json_open_object(&writer);
    json_put_u64(&writer, "line", item->line);
    json_put_u64(&writer, "right", item->right);
    json_write_key(&writer, "models");
    json_open_array(&writer);
    for (uint64_t i = 0; i < count; i++)
        write_answer(&writer, item, &models[i], index);
    json_close_array(&writer);
    json_close_object(&writer);
    enum status status = json_writer_take(&writer, &line, &bytes, err);
    if (!status) status = output_write_at(output, *offset, line, bytes, err);
    *offset += bytes;
    memory_free(line);
    return status;
}

enum status task_print_samples(struct output *output, const struct task_file *file,
    const struct task_print_model *models, uint64_t count, struct error *err)
{
    uint64_t offset = 0;
    enum status status = OK;
    for (uint64_t i = 0; i < file->count && !status; i++)
        status = write_sample(output, &offset, file, i, models, count, err);
    return status;
}
