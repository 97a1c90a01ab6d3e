/* The report of nibble-prune. Numbers are derived here and nowhere else, so that people and machines read the same. */
#include "prune/prune_summary.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/measure.h"
#include "prune/structure_summary.h"
#include "prune/weights_outcome.h"
#include "tensor/kernels/kernels.h"

static double share_of(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* Sums over all pruned matrices. */
static struct prune_tensor total_of(const struct prune_result *result)
{
    struct prune_tensor total = {0};
    for (uint64_t i = 0; i < result->count; i++) {
        const struct prune_tensor *matrix = &result->tensors[i];
        total.weights += matrix->weights;
        total.zeros += matrix->zeros;
        total.exchanged += matrix->exchanged;
        total.gone += matrix->gone;
        total.power += matrix->power;
        total.output_error += matrix->output_error;
        total.output_power += matrix->output_power;
        total.solved_error += matrix->solved_error;
        total.dead += matrix->dead;
        total.seconds += matrix->seconds;
    }
    return total;
}

static uint64_t count_sparse(const struct prune_result *result)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < result->count; i++)
        count += result->tensors[i].target.storage == STORAGE_SPARSE;
    return count;
}

/* "sparse 2:4, 4 bits", "zeros, BF16". */
static char *storage_text(char out[64], const struct tensor *target)
{
    const char *how = target->storage != STORAGE_SPARSE ? "with zeros"
                      : target->mask == MASK_2_4        ? "sparse 2:4"
                                                        : "sparse";
    if (target->scheme.bits) {
        snprintf(out, 64, "%s, %" PRIu32 " bits", how, target->scheme.bits);
    } else {
        snprintf(out, 64, "%s, %s", how,
            target->storage == STORAGE_BLOCKS ? block_info(target->block)->name
                                              : dtype_info(target->dtype)->name);
    }
    return out;
}

/* ---- every matrix ---- */

static void print_matrix(struct table *table, const struct prune_tensor *matrix, bool dry_run)
{
    const struct tensor *target = &matrix->target;
    char shape[MEASURE_SHAPE_TEXT], storage[64];
    table_cell(table, "%s", matrix->name);
    table_cell(table, "%s", measure_shape_text(shape, target->rank, target->shape));
    table_cell(table, "%.2f %%",
        100 * (dry_run ? matrix->share : share_of((double)matrix->zeros, (double)matrix->weights)));
    table_cell(table, "%s", storage_text(storage, target));
    table_cell(table, "%" PRIu64, target->bytes);
    if (!dry_run) table_cell(table, "%.4f", weights_outcome_relative(matrix));
}

static void print_matrices(const struct prune_result *result, bool dry_run)
{
    const char *headings[] = {
        "matrix", "shape", ">zeros", "stored", dry_run ? ">bytes at most" : ">bytes", ">relative error"};
    struct table table = {0};
    table_head(&table, dry_run ? 5 : 6, headings);
    for (uint64_t i = 0; i < result->count; i++)
        print_matrix(&table, &result->tensors[i], dry_run);
    table_print(&table);
    table_free(&table);
    putchar('\n');
}

/* ---- for people ---- */

static void print_method(const struct prune_result *result, const struct prune_options *options)
{
    const struct prune_settings *settings = &result->settings;
    printf("method           %s: ", settings->method->name);
    if (settings->pattern.of) {
        printf("%" PRIu32 " of every %" PRIu32 " weights stay", settings->pattern.keep, settings->pattern.of);
    } else {
        printf("%.4g %% of the weights go%s", 100 * settings->sparsity,
            settings->owl ? ", less where more are outliers" : "");
    }
    if (result->target_sparsity > 0) printf(", chosen for %" PRIu64 " bytes", options->target_size);
    if (settings->bits) printf("; %" PRIu32 " bits", settings->bits);
    if (settings->bits && settings->group) printf(", group %" PRIu32, settings->group);
    putchar('\n');
}

static void print_calibrated(const struct prune_result *result, bool dry_run)
{
    char memory[16];
    struct prune_tensor total = total_of(result);
    printf("calibration      %" PRIu64 " samples, %" PRIu64 " tokens\n", result->samples, result->tokens);
    printf("memory needed    about %s\n", report_bytes(memory, result->memory_estimate));
    if (dry_run) return;
    printf("output error     %.5f (root mean square, relative", weights_outcome_relative(&total));
    if (total.exchanged)
        printf("; before polishing: %.5f", sqrt(share_of(total.solved_error, total.output_power)));
    printf(")\n");
    if (total.exchanged)
        printf("exchanged        %" PRIu64 " weights for better ones of their rows\n", total.exchanged);
    if (total.dead)
        printf("dead inputs      %" PRIu64 " channels that the calibration text never used\n", total.dead);
    if (result->layers_resumed) printf("resumed          after layer %" PRIu32 "\n", result->layers_resumed);
}

static void print_sizes(const struct prune_result *result, bool dry_run)
{
    char in[16], out[16];
    if (dry_run && !result->bytes_out) {
        printf("size             %s now\n", report_bytes(in, result->bytes_in));
        return;
    }
    printf("size             %s -> %s%s\n", report_bytes(in, result->bytes_in), dry_run ? "at most " : "",
        report_bytes(out, result->bytes_out));
}

static void print_people(const struct prune_result *result, const struct prune_options *options)
{
    struct prune_tensor total = total_of(result);
    char duration[24], memory[16];
    if (result->layers) {
        structure_summary_print(result, options);
        return;
    }
    if (options->dry_run || options->common.verbose) print_matrices(result, options->dry_run);
    printf("output           %s%s\n", options->output, options->dry_run ? " (dry run: not written)" : "");
    print_method(result, options);
    printf("matrices         %" PRIu64 " pruned", result->count);
    if (!options->dry_run) printf(", %" PRIu64 " of them stored sparse", count_sparse(result));
    printf(
        "\nweights          %" PRIu64 ": %" PRIu64 " in these matrices\n", result->weights_in, total.weights);
    if (!options->dry_run)
        printf("zeros            %" PRIu64 ": %.2f %% of these matrices, %.2f %% of the model\n", total.zeros,
            100 * share_of((double)total.zeros, (double)total.weights),
            100 * share_of((double)total.zeros, (double)result->weights_in));
    print_sizes(result, options->dry_run);
    if (result->settings.method->calibrated) print_calibrated(result, options->dry_run);
    if (options->dry_run) return;
    if (!result->settings.method->calibrated)
        printf("weight error     %.5f (root mean square, relative)\n", weights_outcome_relative(&total));
    printf("time             %s, %u thread%s, %s kernels\n", report_duration(duration, result->seconds),
        result->threads, result->threads == 1 ? "" : "s", kernels()->name);
    printf("peak memory      %s\n", report_bytes(memory, memory_peak_bytes()));
}

/* ---- for machines ---- */

static void write_matrix(struct json_writer *json, const struct prune_tensor *matrix, bool dry_run)
{
    char storage[64];
    json_open_object(json);
    json_put_text(json, "tensor", matrix->name);
    json_put_u64(json, "rows", matrix->target.shape[0]);
    json_put_u64(json, "cols", matrix->target.shape[1]);
    json_put_text(json, "stored", storage_text(storage, &matrix->target));
    json_put_u64(json, dry_run ? "bytes_at_most" : "bytes", matrix->target.bytes);
    if (!dry_run) json_put_number(json, "relative_error", weights_outcome_relative(matrix));
    weights_outcome_put(json, matrix);
    json_close_object(json);
}

static void write_settings(struct json_writer *json, const struct prune_result *result)
{
    const struct prune_settings *settings = &result->settings;
    char pattern[32] = "unstructured";
    if (settings->pattern.of)
        snprintf(
            pattern, sizeof pattern, "%" PRIu32 ":%" PRIu32, settings->pattern.keep, settings->pattern.of);
    json_put_text(json, "method", settings->method->name);
    json_put_number(json, "sparsity", settings->sparsity);
    json_put_text(json, "pattern", pattern);
    json_put_text(json, "ratios", settings->owl ? "owl" : "uniform");
    if (settings->bits) json_put_u64(json, "bits", settings->bits);
    if (settings->bits && settings->group) json_put_u64(json, "group", settings->group);
    if (result->target_sparsity > 0) json_put_number(json, "target_sparsity", result->target_sparsity);
}

static void write_totals(struct json_writer *json, const struct prune_result *result, bool dry_run)
{
    struct prune_tensor total = total_of(result);
    json_put_u64(json, "matrices", result->count);
    json_put_u64(json, "weights", result->weights_in);
    json_put_u64(json, "weights_of_matrices", total.weights);
    json_put_u64(json, "bytes_in", result->bytes_in);
    if (result->bytes_out) json_put_u64(json, dry_run ? "bytes_out_at_most" : "bytes_out", result->bytes_out);
    if (result->settings.method->calibrated) {
        json_put_u64(json, "calibration_samples", result->samples);
        json_put_u64(json, "calibration_tokens", result->tokens);
        json_put_u64(json, "memory_estimate_bytes", result->memory_estimate);
    }
    if (dry_run) return;
    json_put_u64(json, "zeros", total.zeros);
    json_put_u64(json, "stored_sparse", count_sparse(result));
    json_put_number(json, "relative_error", weights_outcome_relative(&total));
    json_put_u64(json, "exchanged", total.exchanged);
    json_put_u64(json, "layers_resumed", result->layers_resumed);
}

/* The JSON text (memory_free). */
static enum status make_json(char **out, uint64_t *bytes, const struct prune_result *result,
    const struct prune_options *options, bool every, struct error *err)
{
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    json_put_text(&json, "input", options->input);
    json_put_text(&json, "output", options->output);
    json_put_bool(&json, "dry_run", options->dry_run);
    if (result->layers) {
        structure_summary_put(&json, result);
    } else {
        write_settings(&json, result);
        write_totals(&json, result, options->dry_run);
    }
    checkpoint_write_dropped(&result->input, &json);
    if (every) json_write_key(&json, "tensors");
    if (every) json_open_array(&json);
    for (uint64_t i = 0; every && i < result->count; i++)
        write_matrix(&json, &result->tensors[i], options->dry_run);
    if (every) json_close_array(&json);
    json_put_number(&json, "seconds", result->seconds);
    json_put_u64(&json, "peak_memory_bytes", memory_peak_bytes());
    json_put_text(&json, "kernels", kernels()->name);
    json_put_u64(&json, "threads", result->threads);
    json_close_object(&json);
    enum status status = json_writer_take(&json, out, bytes, err);
    json_writer_free(&json);
    return status;
}

/* As a file, always with every tensor. */
static enum status write_report(
    const struct prune_result *result, const struct prune_options *options, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = make_json(&text, &bytes, result, options, true, err);
    if (status == OK) status = output_whole(options->report, true, text, bytes, err);
    memory_free(text);
    return status;
}

enum status prune_summary_print(
    const struct prune_result *result, const struct prune_options *options, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = options->report ? write_report(result, options, err) : OK;
    if (status == OK && !options->common.json) print_people(result, options);
    if (status != OK || !options->common.json) return status;
    status = make_json(&text, &bytes, result, options, options->dry_run || options->common.verbose, err);
    if (status == OK) fputs(text, stdout);
    memory_free(text);
    return status;
}
