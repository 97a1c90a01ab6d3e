/* See task_print.h. */
#include "runtime-check/tasks/task_print.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"
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
    table_cell(table, "%+.2f +- %.2f %%", 100 * summary->change.value, 100 * summary->change.error);
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

/* How the cells of a row are written. */
struct layout {
    const char *first, *between, *last;
    void (*text)(const char *text);
};

static void print_headings(const struct layout *layout)
{
    printf("%smodel%sbytes", layout->first, layout->between);
    for (int i = 0; i < COLUMNS; i++)
        printf("%s%s", layout->between, columns[i].name);
    printf("%slost%sgained%s\n", layout->between, layout->between, layout->last);
}

static void print_model(const struct layout *layout, const struct task_print_model *model, bool first)
{
    char text[32];
    printf("%s", layout->first);
    layout->text(model->name);
    printf("%s%" PRIu64, layout->between, model->bytes);
    for (int i = 0; i < COLUMNS; i++) {
        const bool empty = first && columns[i].compared;
        printf("%s%s", layout->between,
            empty ? "" : number_write(text, column_value(&columns[i], &model->summary)));
    }
    if (first)
        printf("%s%s%s\n", layout->between, layout->between, layout->last);
    else
        printf("%s%" PRIu64 "%s%" PRIu64 "%s\n", layout->between, model->summary.lost, layout->between,
            model->summary.gained, layout->last);
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

void task_print_csv(const struct task_print_model *models, uint64_t count)
{
    static const struct layout csv = {"", ",", "", csv_text};
    print_headings(&csv);
    for (uint64_t i = 0; i < count; i++)
        print_model(&csv, &models[i], i == 0);
}

/* A bar would end the cell, a line break the row. */
static void markdown_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '|' || *text == '\\') putchar('\\');
        putchar(*text == '\n' || *text == '\r' ? ' ' : *text);
    }
}

void task_print_markdown(const struct task_print_model *models, uint64_t count)
{
    static const struct layout markdown = {"| ", " | ", " |", markdown_text};
    print_headings(&markdown);
    printf("| --- |");
    for (int i = 0; i < COLUMNS + 3; i++)
        printf(" ---: |");
    printf("\n");
    for (uint64_t i = 0; i < count; i++)
        print_model(&markdown, &models[i], i == 0);
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
