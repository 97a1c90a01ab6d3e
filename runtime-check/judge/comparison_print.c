/* See comparison_print.h. */
#include "runtime-check/judge/comparison_print.h"

#include <string.h>

#include "base/report.h"

/* ---- for people ---- */

enum { ALONE = 4, COMPARED = 10 }; /* columns, the first ALONE of every model */

static void add_row(struct table *table, const struct comparison_model *model)
{
    const struct comparison *result = model->result;
    char bytes[16];
    table_cell(table, "%s", model->name);
    table_cell(table, "%s", report_bytes(bytes, model->bytes));
    table_cell(table, "%.3f", model->bits_per_weight);
    table_cell(table, "%.4f", model->perplexity.value);
    if (!result) {
        for (uint64_t i = ALONE; i < table->columns; i++)
            table_cell(table, "%s", "");
        return;
    }
    table_cell(table, "%.5f +- %.5f", result->log_ratio.value, result->log_ratio.error);
    table_cell(table, "%.6f +- %.6f", result->kld.value, result->kld.error);
    table_cell(table, "%.6f", result->kld_median.value);
    table_cell(table, "%.4f", result->kld_p99.value);
    table_cell(table, "%.4f", result->kld_max);
    table_cell(table, "%.2f +- %.2f %%", 100 * result->same_top.value, 100 * result->same_top.error);
}

void comparison_print_table(const struct comparison_model *models, uint64_t count)
{
    struct table table = {0};
    table_head(&table, count > 1 ? COMPARED : ALONE,
        (const char *const[]){"model", ">bytes", ">bpw", ">perplexity", ">ln ratio", ">KLD mean", ">median",
            ">99 %", ">max", ">same top"});
    for (uint64_t i = 0; i < count; i++)
        add_row(&table, &models[i]);
    table_print(&table);
    table_free(&table);
}

/* ---- for programs ---- */

/* The numbers of a candidate, by the names that --json, --csv and --markdown share. */
struct column {
    const char *name;
    size_t offset;
    bool in_tables;
};

#define COLUMN(name, member, in_tables)                                                                      \
    {                                                                                                        \
        name, offsetof(struct comparison, member), in_tables                                                 \
    }
#define ESTIMATE(field, in_tables, error_too)                                                                \
    COLUMN(#field, field.value, in_tables), COLUMN(#field "_error", field.error, error_too)
static const struct column columns[] = {
    ESTIMATE(log_ratio, true, true),
    ESTIMATE(kld, true, true),
    ESTIMATE(kld_median, true, false),
    ESTIMATE(kld_p90, false, false),
    ESTIMATE(kld_p95, false, false),
    ESTIMATE(kld_p99, true, false),
    ESTIMATE(kld_p999, false, false),
    COLUMN("kld_max", kld_max, true),
    ESTIMATE(probability_rms, false, false),
    ESTIMATE(same_top, true, false),
    COLUMN("seconds", seconds, false),
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static double column_value(const struct column *column, const struct comparison *result)
{
    double value;
    memcpy(&value, (const char *)result + column->offset, sizeof value);
    return value;
}

void comparison_write_json(struct json_writer *writer, const struct comparison_model *model)
{
    json_open_object(writer);
    json_put_text(writer, "model", model->name);
    json_put_u64(writer, "bytes", model->bytes);
    json_put_number(writer, "bits_per_weight", model->bits_per_weight);
    json_put_number(writer, "perplexity", model->perplexity.value);
    json_put_number(writer, "perplexity_error", model->perplexity.error);
    for (int i = 0; i < COLUMNS && model->result; i++)
        json_put_number(writer, columns[i].name, column_value(&columns[i], model->result));
    if (model->result) json_put_numbers(writer, "kld_curve", model->result->kld_curve, COMPARE_CURVE);
    if (model->result && model->result->layer_errors)
        json_put_numbers(writer, "layer_errors", model->result->layer_errors, model->result->layers);
    json_close_object(writer);
}

/* `compared`: there is a candidate. */
static void print_headings(struct cells *cells, bool compared)
{
    static const char *const common[] = {
        "model", "bytes", "bits_per_weight", "perplexity", "perplexity_error"};
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        cells_text(cells, common[i]);
    for (int i = 0; i < COLUMNS && compared; i++) {
        if (columns[i].in_tables) cells_text(cells, columns[i].name);
    }
    cells_end_head(cells);
}

static void print_model(struct cells *cells, const struct comparison_model *model, bool compared)
{
    cells_text(cells, model->name);
    cells_u64(cells, model->bytes);
    cells_number(cells, model->bits_per_weight);
    cells_number(cells, model->perplexity.value);
    cells_number(cells, model->perplexity.error);
    for (int i = 0; i < COLUMNS && compared; i++) {
        if (!columns[i].in_tables) continue;
        if (model->result)
            cells_number(cells, column_value(&columns[i], model->result));
        else
            cells_empty(cells);
    }
    cells_end(cells);
}

void comparison_print_cells(enum cells_format format, const struct comparison_model *models, uint64_t count)
{
    struct cells cells = {.format = format};
    print_headings(&cells, count > 1);
    for (uint64_t i = 0; i < count; i++)
        print_model(&cells, &models[i], count > 1);
}
