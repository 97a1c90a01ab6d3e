/* See comparison_print.h. */
#include "runtime-check/judge/comparison_print.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"
#include "base/report.h"

/* ---- for people ---- */

static void add_row(struct table *table, const struct comparison_model *model)
{
    const struct comparison *result = model->result;
    char bytes[16];
    table_cell(table, "%s", model->name);
    table_cell(table, "%s", report_bytes(bytes, model->bytes));
    table_cell(table, "%.3f", model->bits_per_weight);
    table_cell(table, "%.4f", model->perplexity.value);
    if (!result) {
        for (int i = 0; i < 6; i++)
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
    table_head(&table, 10,
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

/* How the cells of a row are written. */
struct layout {
    const char *first, *between, *last;
    void (*text)(const char *text);
};

static void print_number(const struct layout *layout, double value)
{
    char text[32];
    printf("%s%s", layout->between, number_write(text, value));
}

static void print_headings(const struct layout *layout)
{
    static const char *const common[] = {"bytes", "bits_per_weight", "perplexity", "perplexity_error"};
    printf("%smodel", layout->first);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        printf("%s%s", layout->between, common[i]);
    for (int i = 0; i < COLUMNS; i++) {
        if (columns[i].in_tables) printf("%s%s", layout->between, columns[i].name);
    }
    printf("%s\n", layout->last);
}

static void print_model(const struct layout *layout, const struct comparison_model *model)
{
    printf("%s", layout->first);
    layout->text(model->name);
    printf("%s%" PRIu64, layout->between, model->bytes);
    print_number(layout, model->bits_per_weight);
    print_number(layout, model->perplexity.value);
    print_number(layout, model->perplexity.error);
    for (int i = 0; i < COLUMNS; i++) {
        if (!columns[i].in_tables) continue;
        if (model->result)
            print_number(layout, column_value(&columns[i], model->result));
        else
            printf("%s", layout->between);
    }
    printf("%s\n", layout->last);
}

/* A cell in quotes where it needs them. */
static void csv_text(const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        printf("%s", text);
        return;
    }
    putchar('"');
    for (; *text; text++)
        printf(*text == '"' ? "\"\"" : "%c", *text);
    putchar('"');
}

void comparison_print_csv(const struct comparison_model *models, uint64_t count)
{
    static const struct layout csv = {"", ",", "", csv_text};
    print_headings(&csv);
    for (uint64_t i = 0; i < count; i++)
        print_model(&csv, &models[i]);
}

/* A bar would end the cell, a line break the row. */
static void markdown_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '|' || *text == '\\') putchar('\\');
        putchar(*text == '\n' || *text == '\r' ? ' ' : *text);
    }
}

void comparison_print_markdown(const struct comparison_model *models, uint64_t count)
{
    static const struct layout markdown = {"| ", " | ", " |", markdown_text};
    int numbers = 4;
    for (int i = 0; i < COLUMNS; i++)
        numbers += columns[i].in_tables;
    print_headings(&markdown);
    printf("| --- |");
    for (int i = 0; i < numbers; i++)
        printf(" ---: |");
    printf("\n");
    for (uint64_t i = 0; i < count; i++)
        print_model(&markdown, &models[i]);
}
