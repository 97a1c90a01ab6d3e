/* See damage_print.h. */
#include "runtime-check/judge/damage_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cells.h"
#include "base/report.h"
#include "runtime-check/inspect/inspect.h"

enum { BAR_WIDTH = 24, UNKNOWN = -1 };

/* ---- how bad ---- */

static bool any_swapped_tensor(const struct damage *damage)
{
    for (uint64_t i = 0; i < damage->tensor_count; i++) {
        if (damage->tensors[i].swapped) return true;
    }
    return false;
}

static bool any_swapped_part(const struct damage *damage)
{
    for (uint64_t i = 0; i < damage->part_count; i++) {
        if (damage->parts[i].swapped) return true;
    }
    return false;
}

static double tensor_badness(const struct damage_tensor *tensor)
{
    if (tensor->difference.missing) return UNKNOWN;
    return tensor->swapped ? tensor->kld.value : tensor->difference.relative_rms;
}

static double part_badness(const struct damage_part *part)
{
    if (part->swapped) return part->kld.value;
    return part->traced ? part->own : UNKNOWN;
}

/* By insertion, which keeps the order of equals; a model has some hundred tensors. */
static void sort_tensors(struct damage_tensor *tensors, uint64_t count)
{
    for (uint64_t i = 1; i < count; i++) {
        const struct damage_tensor moved = tensors[i];
        uint64_t at = i;
        for (; at > 0 && tensor_badness(&tensors[at - 1]) < tensor_badness(&moved); at--)
            tensors[at] = tensors[at - 1];
        tensors[at] = moved;
    }
}

void damage_sort(struct damage *damage)
{
    sort_tensors(damage->tensors, damage->tensor_count);
    for (uint64_t i = 1; i < damage->part_count; i++) {
        const struct damage_part moved = damage->parts[i];
        uint64_t at = i;
        for (; at > 0 && part_badness(&damage->parts[at - 1]) < part_badness(&moved); at--)
            damage->parts[at] = damage->parts[at - 1];
        damage->parts[at] = moved;
    }
}

/* ---- for people ---- */

/* A bar whose length is value / most, at least one mark for what is not 0. */
static const char *bar(double value, double most)
{
    static const char marks[BAR_WIDTH + 1] = "########################";
    if (!(value > 0)) return "";
    const double length = isfinite(most) ? ceil(BAR_WIDTH * value / most) : value == most ? BAR_WIDTH : 1;
    return marks + BAR_WIDTH - (int)length;
}

static void decibel_cell(struct table *table, const struct damage_tensor *tensor)
{
    if (tensor->difference.missing)
        table_cell(table, "not in base");
    else if (tensor->exact)
        table_cell(table, "exact");
    else
        table_cell(table, "%.1f dB", -20 * log10(tensor->difference.relative_rms));
}

/* A number, or nothing where it is not known. */
static void number_cell(struct table *table, bool known, double value)
{
    if (known)
        table_cell(table, "%.6f", value);
    else
        table_cell(table, "%s", "");
}

static void kld_cell(struct table *table, bool known, const struct estimate *kld)
{
    if (known)
        table_cell(table, "%.6f +- %.6f", kld->value, kld->error);
    else
        table_cell(table, "%s", "");
}

static void print_parts(const struct damage *damage)
{
    struct table table = {0};
    const bool swapped = any_swapped_part(damage);
    double most = 0;
    for (uint64_t i = 0; i < damage->part_count; i++)
        most = fmax(most, part_badness(&damage->parts[i]));
    table_head(&table, swapped ? 7 : 6,
        swapped ? (const char *const[]){"layer", ">bits/weight", ">output error", ">own error",
                      ">of its change", ">KLD alone", "damage"}
                : (const char *const[]){
                      "layer", ">bits/weight", ">output error", ">own error", ">of its change", "damage"});
    for (uint64_t i = 0; i < damage->part_count; i++) {
        const struct damage_part *part = &damage->parts[i];
        if (part->name)
            table_cell(&table, "%s", part->name);
        else
            table_cell(&table, "%" PRIu32, part->layer);
        table_cell(&table, "%.3f", part->bits_per_weight);
        number_cell(&table, part->traced, part->error);
        number_cell(&table, part->traced, part->own);
        number_cell(&table, part->traced, part->share);
        if (swapped) kld_cell(&table, part->swapped, &part->kld);
        table_cell(&table, "%s", bar(part_badness(part), most));
    }
    table_print(&table);
    table_free(&table);
}

static void print_tensors(const struct damage *damage)
{
    struct table table = {0};
    const bool swapped = any_swapped_tensor(damage);
    double most = 0;
    for (uint64_t i = 0; i < damage->tensor_count; i++)
        most = fmax(most, tensor_badness(&damage->tensors[i]));
    table_head(&table, swapped ? 8 : 7,
        swapped ? (const char *const[]){"tensor", "stored as", ">bits/weight", ">signal to noise",
                      ">relative error", ">largest change", ">KLD alone", "damage"}
                : (const char *const[]){"tensor", "stored as", ">bits/weight", ">signal to noise",
                      ">relative error", ">largest change", "damage"});
    for (uint64_t i = 0; i < damage->tensor_count; i++) {
        const struct damage_tensor *row = &damage->tensors[i];
        const struct tensor *tensor = row->difference.tensor;
        char scheme[48];
        table_cell(&table, "%s", tensor->name);
        table_cell(&table, "%s", inspect_scheme(scheme, tensor));
        table_cell(&table, "%.3f", inspect_bits_per(tensor->bytes, tensor->elements));
        decibel_cell(&table, row);
        number_cell(&table, !row->difference.missing, row->difference.relative_rms);
        if (row->difference.missing)
            table_cell(&table, "%s", "");
        else
            table_cell(&table, "%.3g", row->difference.largest);
        if (swapped) kld_cell(&table, row->swapped, &row->kld);
        table_cell(&table, "%s", bar(tensor_badness(row), most));
    }
    table_print(&table);
    table_free(&table);
}

void damage_print_tables(const struct damage *damage)
{
    if (damage->tokens) {
        print_parts(damage);
        printf("\n");
    }
    print_tensors(damage);
}

/* ---- for programs ---- */

static double decibels(const struct damage_tensor *tensor)
{
    return tensor->exact || tensor->difference.missing ? NAN : -20 * log10(tensor->difference.relative_rms);
}

static void put_kld(struct json_writer *writer, bool known, const struct estimate *kld)
{
    if (!known) return;
    json_put_number(writer, "kld_alone", kld->value);
    json_put_number(writer, "kld_alone_error", kld->error);
}

static void write_part(struct json_writer *writer, const struct damage_part *part)
{
    json_open_object(writer);
    if (part->name)
        json_put_text(writer, "layer", part->name);
    else
        json_put_u64(writer, "layer", part->layer);
    json_put_number(writer, "bits_per_weight", part->bits_per_weight);
    json_put_bool(writer, "exact", part->exact);
    if (part->traced) {
        json_put_number(writer, "output_error", part->error);
        json_put_number(writer, "own_error", part->own);
        json_put_number(writer, "own_error_of_change", part->share);
    }
    put_kld(writer, part->swapped, &part->kld);
    json_close_object(writer);
}

static void write_tensor(struct json_writer *writer, const struct damage_tensor *row)
{
    char scheme[48];
    const struct tensor *tensor = row->difference.tensor;
    json_open_object(writer);
    json_put_text(writer, "name", tensor->name);
    json_put_text(writer, "stored_as", inspect_scheme(scheme, tensor));
    json_put_number(writer, "bits_per_weight", inspect_bits_per(tensor->bytes, tensor->elements));
    json_put_bool(writer, "missing", row->difference.missing);
    json_put_bool(writer, "exact", row->exact);
    if (!row->difference.missing) {
        json_put_number(writer, "relative_error", row->difference.relative_rms);
        json_put_number(writer, "signal_to_noise_db", decibels(row));
        json_put_number(writer, "largest_change", row->difference.largest);
    }
    put_kld(writer, row->swapped, &row->kld);
    json_close_object(writer);
}

void damage_write_json(struct json_writer *writer, const struct damage *damage)
{
    if (damage->tokens) {
        json_write_key(writer, "layers");
        json_open_array(writer);
        for (uint64_t i = 0; i < damage->part_count; i++)
            write_part(writer, &damage->parts[i]);
        json_close_array(writer);
    }
    json_write_key(writer, "tensors");
    json_open_array(writer);
    for (uint64_t i = 0; i < damage->tensor_count; i++)
        write_tensor(writer, &damage->tensors[i]);
    json_close_array(writer);
}

static void put_numbers(struct cells *cells, bool known, const double *values, int count)
{
    for (int i = 0; i < count; i++)
        cells_number(cells, known ? values[i] : NAN);
}

static void print_part(struct cells *cells, const struct damage_part *part)
{
    cells_text(cells, "layer");
    if (part->name)
        cells_text(cells, part->name);
    else
        cells_u64(cells, part->layer);
    cells_empty(cells);
    cells_number(cells, part->bits_per_weight);
    put_numbers(cells, part->traced, (const double[]){part->error, part->own, part->share}, 3);
    for (int i = 0; i < 3; i++)
        cells_empty(cells);
    put_numbers(cells, part->swapped, (const double[]){part->kld.value, part->kld.error}, 2);
    cells_end(cells);
}

static void print_tensor(struct cells *cells, const struct damage_tensor *row)
{
    const struct tensor *tensor = row->difference.tensor;
    const double numbers[] = {row->difference.relative_rms, decibels(row), row->difference.largest};
    char scheme[48];
    cells_text(cells, "tensor");
    cells_text(cells, tensor->name);
    cells_text(cells, inspect_scheme(scheme, tensor));
    cells_number(cells, inspect_bits_per(tensor->bytes, tensor->elements));
    for (int i = 0; i < 3; i++)
        cells_empty(cells);
    put_numbers(cells, !row->difference.missing, numbers, 3);
    put_numbers(cells, row->swapped, (const double[]){row->kld.value, row->kld.error}, 2);
    cells_end(cells);
}

void damage_print_csv(const struct damage *damage)
{
    static const char *const headings[] = {"kind", "name", "stored_as", "bits_per_weight", "output_error",
        "own_error", "own_error_of_change", "relative_error", "signal_to_noise_db", "largest_change",
        "kld_alone", "kld_alone_error"};
    struct cells cells = {.format = CELLS_CSV};
    for (size_t i = 0; i < sizeof headings / sizeof *headings; i++)
        cells_text(&cells, headings[i]);
    cells_end_head(&cells);
    for (uint64_t i = 0; damage->tokens && i < damage->part_count; i++)
        print_part(&cells, &damage->parts[i]);
    for (uint64_t i = 0; i < damage->tensor_count; i++)
        print_tensor(&cells, &damage->tensors[i]);
}
