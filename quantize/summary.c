/* The report of nibble-quantize. Numbers are derived here and nowhere else, so that people and machines read
 * the same. */
#include "quantize/summary.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/file.h"
#include "formats/measure.h"
#include "quantize/outcome.h"
#include "quantize/uncalibrated.h"
#include "tensor/kernels/kernels.h"

static double bits_per(uint64_t bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)bytes / (double)weights : 0;
}

static double relative_error(double error, double power)
{
    return power > 0 ? sqrt(error / power) : 0;
}

static double total_error(const struct plan *plan)
{
    double error = 0, power = 0;
    for (uint64_t i = 0; i < plan->count; i++) {
        error += plan->tensors[i].outcome.error;
        power += plan->tensors[i].outcome.power;
    }
    return relative_error(error, power);
}

/* The sums over all tensors that calibration reached. */
static struct outcome total_outcome(const struct plan *plan)
{
    struct outcome total = {0};
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct outcome *outcome = &plan->tensors[i].outcome;
        if (outcome->calibrated && !outcome->uncalibrated) outcome_add(&total, outcome);
    }
    return total;
}

static bool has_errors(const struct quantize_options *options)
{
    return options->report_error && !options->dry_run;
}

/* ---- the plan ---- */

static const char *type_name(const struct tensor *tensor)
{
    if (tensor->storage == STORAGE_TILES) return "tiles";
    if (tensor->storage == STORAGE_SPARSE) return "sparse";
    return tensor->storage == STORAGE_BLOCKS ? block_info(tensor->block)->name
                                             : dtype_info(tensor->dtype)->name;
}

/* How a tensor is stored: its recipe, or its element type and what that was before. */
static char *storage_text(char out[64], const struct plan_tensor *planned)
{
    const struct tensor *source = planned->source, *target = &planned->target;
    if (!planned->recipe.keep) {
        settings_recipe_text(out, &planned->recipe);
    } else if (target->storage == STORAGE_TILES) {
        snprintf(out, 64, "kept, %" PRIu32 " bits", target->scheme.bits);
    } else if (target->storage == STORAGE_BLOCKS || target->storage == STORAGE_SPARSE) {
        snprintf(out, 64, "kept, %s", type_name(target));
    } else if (target->dtype == source->dtype && source->storage == STORAGE_DENSE) {
        snprintf(out, 64, "kept, %s", dtype_info(target->dtype)->name);
    } else {
        snprintf(out, 64, "%s, from %s", dtype_info(target->dtype)->name,
            source->storage == STORAGE_TILES ? "codes" : type_name(source));
    }
    if (planned->fallback) strncat(out, ", fallback", 63 - strlen(out));
    return out;
}

/* True if bits were chosen by importance. */
static bool has_importance(const struct plan *plan)
{
    for (uint64_t i = 0; i < plan->count; i++) {
        if (plan->tensors[i].importance > 0) return true;
    }
    return false;
}

static void print_planned(
    struct table *table, const struct plan_tensor *planned, bool importance, bool errors)
{
    const struct tensor *target = &planned->target;
    char shape[MEASURE_SHAPE_TEXT], storage[64];
    table_cell(table, "%s", target->name);
    table_cell(table, "%s", measure_shape_text(shape, target->rank, target->shape));
    table_cell(table, "%s", storage_text(storage, planned));
    table_cell(table, "%" PRIu64, planned->bytes);
    if (importance && planned->importance > 0) {
        table_cell(table, "%.2f %%", 100 * planned->importance);
    } else if (importance) {
        table_cell(table, "%s", "");
    }
    if (errors && !planned->recipe.keep) {
        table_cell(table, "%.5f", relative_error(planned->outcome.error, planned->outcome.power));
    } else if (errors) {
        table_cell(table, "%s", "");
    }
}

static void print_plan(const struct plan *plan, bool errors)
{
    const char *headings[6] = {"tensor", "shape", "stored as", ">bytes"};
    bool importance = has_importance(plan);
    unsigned columns = 4;
    struct table table = {0};
    if (importance) headings[columns++] = ">importance";
    if (errors) headings[columns++] = ">relative error";
    table_head(&table, columns, headings);
    for (uint64_t i = 0; i < plan->count; i++)
        print_planned(&table, &plan->tensors[i], importance, errors);
    table_print(&table);
    table_free(&table);
    putchar('\n');
}

/* ---- for people ---- */

/* What became of matrices whose row the group does not divide; after INDIVISIBLE_STOP there are none. */
static const char *indivisible_text(enum indivisible indivisible, bool blocks)
{
    if (blocks) return "the fallback, as blocks do not divide their rows";
    if (indivisible == INDIVISIBLE_ROW) return "one scale per row";
    return indivisible == INDIVISIBLE_DIVISOR ? "a smaller group" : "kept";
}

/* "12 Q4_K, 3 Q6_K, 13 F32": block types by their number, then the others. */
static void print_types(const struct plan *plan)
{
    uint64_t counts[BLOCK_COUNT] = {0}, dense[DTYPE_COUNT] = {0};
    const char *between = "";
    for (uint64_t i = 0; i < plan->count; i++) {
        const struct tensor *target = &plan->tensors[i].target;
        if (target->storage == STORAGE_BLOCKS) counts[target->block]++;
        if (target->storage == STORAGE_DENSE) dense[target->dtype]++;
    }
    printf("types            ");
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!counts[type]) continue;
        printf("%s%" PRIu64 " %s", between, counts[type], block_info(type)->name);
        between = ", ";
    }
    for (enum dtype type = 0; type < DTYPE_COUNT; type++) {
        if (!dense[type]) continue;
        printf("%s%" PRIu64 " %s", between, dense[type], dtype_info(type)->name);
        between = ", ";
    }
    putchar('\n');
}

/* "rtn: q4_k_m, mse". */
static void print_mix(const struct quantize_result *result, const struct quantize_options *options)
{
    const struct settings *settings = &result->settings;
    bool chosen = options->allocation || options->target_bits > 0 || options->target_size > 0;
    printf("method           %s: %s%s%s, %s\n", settings->method.name, options->type,
        options->pure ? " pure" : "", chosen ? ", types of layers chosen" : "",
        settings_range_name(settings->method.range));
    print_types(&result->plan);
}

/* "gptq: 4 bits, group 32, symmetric, hessian"; the bits are not those of --bits where they were chosen. */
static void print_method(const struct quantize_result *result, const struct quantize_options *options)
{
    char recipe[64];
    const char *chosen = options->allocation ? "bits from the allocation, " : NULL;
    if (options->target_bits > 0 || options->target_size > 0) chosen = "bits chosen for the target, ";
    settings_recipe_text(recipe, &result->settings.linear);
    const char *rest = chosen ? strchr(recipe, ',') + 2 : recipe;
    printf("method           %s: %s%s\n", result->settings.method.name, chosen ? chosen : "", rest);
}

/* Where the time went, the largest share first would be nicer to read but harder to compare: always in this order. */
static void print_phases(const struct phases *phases)
{
    const struct {
        const char *name;
        double seconds;
    } parts[] = {{"measuring", phases->measure}, {"forward", phases->forward}, {"Hessians", phases->hessian},
        {"factors", phases->factor}, {"scales", phases->rescale}, {"solving", phases->solve},
        {"journal", phases->journal}};
    char text[24];
    const char *between = "";
    printf("phases           ");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].seconds <= 0) continue;
        printf("%s%s %s", between, parts[i].name, report_duration(text, parts[i].seconds));
        between = ", ";
    }
    putchar('\n');
}

static void print_calibrated(const struct quantize_result *result, bool dry_run)
{
    const struct calibrated_summary *calibrated = &result->calibrated;
    struct outcome total = total_outcome(&result->plan);
    char memory[16];
    printf("calibration      %" PRIu64 " samples, %" PRIu64 " tokens, text %08" PRIx32 "\n",
        calibrated->samples, calibrated->tokens, calibrated->text_crc32);
    printf("memory needed    about %s\n", report_bytes(memory, calibrated->memory_estimate));
    if (dry_run) return;
    printf("output error     %.5f (root mean square, relative", outcome_relative(&total));
    if (total.nearest_error > 0) printf("; rounding to nearest: %.5f", outcome_relative_nearest(&total));
    printf(")\n");
    if (result->settings.method.safeguard)
        printf(
            "kept as nearest  %" PRIu64 " rows, where rounding to nearest erred less\n", total.rows_nearest);
    if (total.dead)
        printf("dead inputs      %" PRIu64 " channels that the calibration text never used\n", total.dead);
    if (calibrated->layers_resumed)
        printf("resumed          after layer %" PRIu32 "\n", calibrated->layers_resumed);
    print_phases(&calibrated->phases);
}

static void print_people(const struct quantize_result *result, const struct quantize_options *options)
{
    const struct plan *plan = &result->plan;
    char in[16], out[16], duration[24], memory[16];
    if (options->dry_run || options->common.verbose) print_plan(plan, has_errors(options));
    printf("output           %s%s\n", options->output, options->dry_run ? " (dry run: not written)" : "");
    if (options->type) print_mix(result, options);
    if (!options->type) print_method(result, options);
    printf("tensors          %" PRIu64 ": %" PRIu64 " quantized, %" PRIu64 " kept\n", plan->count,
        plan->quantized, plan->count - plan->quantized);
    if (plan->indivisible)
        printf("indivisible      %" PRIu64 ": %s\n", plan->indivisible,
            indivisible_text(result->settings.indivisible, result->settings.mix != NULL));
    if (plan->requantized)
        printf("requantized      %" PRIu64 ": from what was quantized already; the errors of both add up\n",
            plan->requantized);
    printf("weights          %" PRIu64 ": %" PRIu64 " quantized\n", plan->weights, plan->weights_quantized);
    printf("size             %s -> %s%s\n", report_bytes(in, result->bytes_in),
        result->bounded ? "about " : "", report_bytes(out, result->bytes_out));
    printf("bits per weight  %.3f; of quantized weights %.3f\n", bits_per(plan->bytes, plan->weights),
        bits_per(plan->bytes_quantized, plan->weights_quantized));
    if (has_errors(options)) printf("relative error   %.5f (root mean square)\n", total_error(plan));
    if (result->settings.calibrated) print_calibrated(result, options->dry_run);
    uncalibrated_print(plan);
    if (options->dry_run) return;
    printf("time             %s, %u thread%s, %s kernels\n", report_duration(duration, result->seconds),
        result->threads, result->threads == 1 ? "" : "s", kernels()->name);
    printf("peak memory      %s\n", report_bytes(memory, memory_peak_bytes()));
}

/* ---- for machines ---- */

static void write_group(struct json_writer *json, const char *key, uint32_t group)
{
    if (group) {
        json_put_u64(json, key, group);
    } else {
        json_put_text(json, key, "row");
    }
}

static void write_scheme(struct json_writer *json, const struct recipe *recipe)
{
    json_put_u64(json, "bits", recipe->bits);
    write_group(json, "group", recipe->group);
    json_put_bool(json, "asymmetric", recipe->asymmetric);
}

/* What a calibrated method measured of one tensor. */
static void write_outcome(struct json_writer *json, const struct outcome *outcome)
{
    json_put_number(json, "relative_output_error", outcome_relative(outcome));
    json_put_number(json, "relative_output_error_nearest", outcome_relative_nearest(outcome));
    outcome_put(json, outcome);
}

static void write_planned(struct json_writer *json, const struct plan_tensor *planned, bool errors)
{
    const struct tensor *target = &planned->target;
    const struct recipe *recipe = &planned->recipe;
    json_open_object(json);
    json_put_text(json, "tensor", target->name);
    json_write_key(json, "shape");
    json_open_array(json);
    for (uint32_t i = 0; i < target->rank; i++)
        json_write_u64(json, target->shape[i]);
    json_close_array(json);
    json_put_bool(json, "quantized", !recipe->keep);
    if (recipe->keep) {
        json_put_text(json, "type", type_name(target));
    } else {
        if (recipe->block) json_put_text(json, "type", type_name(target));
        if (!recipe->block) write_scheme(json, recipe);
        json_put_text(json, "range", settings_range_name(recipe->range));
        if (planned->importance > 0) json_put_number(json, "importance", planned->importance);
        if (planned->outcome.calibrated) write_outcome(json, &planned->outcome);
        if (errors)
            json_put_number(
                json, "relative_error", relative_error(planned->outcome.error, planned->outcome.power));
    }
    if (planned->fallback) json_put_bool(json, "fallback", true);
    if (planned->requantized) json_put_bool(json, "requantized", true);
    json_put_u64(json, "bytes", planned->bytes);
    json_close_object(json);
}

static void write_plan(struct json_writer *json, const struct plan *plan, bool errors)
{
    json_write_key(json, "plan");
    json_open_array(json);
    for (uint64_t i = 0; i < plan->count; i++)
        write_planned(json, &plan->tensors[i], errors);
    json_close_array(json);
}

static void write_calibrated(struct json_writer *json, const struct quantize_result *result)
{
    const struct calibrated_summary *calibrated = &result->calibrated;
    const struct phases *phases = &calibrated->phases;
    const struct settings *settings = &result->settings;
    struct outcome total = total_outcome(&result->plan);
    json_put_text(json, "correction", settings_correction_name(settings->method.correction));
    json_put_u64(json, "polish", settings->method.polish);
    json_put_text(json, "act_order", settings_order_name(settings->method.order));
    json_put_u64(json, "calibration_samples", calibrated->samples);
    json_put_u64(json, "calibration_tokens", calibrated->tokens);
    json_put_u64(json, "calibration_documents", calibrated->documents);
    json_put_u64(json, "layers_resumed", calibrated->layers_resumed);
    json_put_u64(json, "memory_estimate_bytes", calibrated->memory_estimate);
    json_put_number(json, "relative_output_error", outcome_relative(&total));
    json_put_number(json, "relative_output_error_nearest", outcome_relative_nearest(&total));
    json_put_u64(json, "rows_nearest", total.rows_nearest);
    json_put_u64(json, "dead_inputs", total.dead);
    json_put_number(json, "greatest_damping", total.damping);
    json_put_number(json, "seconds_measuring", phases->measure);
    json_put_number(json, "seconds_forward", phases->forward);
    json_put_number(json, "seconds_hessians", phases->hessian);
    json_put_number(json, "seconds_factors", phases->factor);
    json_put_number(json, "seconds_scales", phases->rescale);
    json_put_number(json, "seconds_solving", phases->solve);
    json_put_number(json, "seconds_journal", phases->journal);
}

/* True if it is known which experts calibration, or an importance matrix, reached. */
static bool knows_experts(const struct quantize_result *result, const struct quantize_options *options)
{
    const struct settings *settings = &result->settings;
    if (!result->input.config.experts) return false;
    return settings->calibrated ? !options->dry_run : settings->informed;
}

static void write_json(struct json_writer *json, const struct quantize_result *result,
    const struct quantize_options *options, bool with_plan)
{
    const struct plan *plan = &result->plan;
    const struct recipe *linear = &result->settings.linear;
    json_open_object(json);
    json_put_text(json, "tool", settings_command.name);
    json_put_text(json, "version", NIBBLE_VERSION);
    json_put_text(json, "input", options->input);
    json_put_text(json, "output", options->output);
    json_put_bool(json, "dry_run", options->dry_run);
    json_put_text(json, "method", result->settings.method.name);
    if (options->type) json_put_text(json, "type", options->type);
    if (options->type) json_put_bool(json, "pure", options->pure);
    if (!options->type) write_scheme(json, linear);
    json_put_text(json, "range", settings_range_name(linear->range));
    if (result->settings.calibrated) write_calibrated(json, result);
    if (knows_experts(result, options)) uncalibrated_put(json, plan);
    json_put_u64(json, "tensors", plan->count);
    json_put_u64(json, "tensors_quantized", plan->quantized);
    json_put_u64(json, "tensors_indivisible", plan->indivisible);
    json_put_u64(json, "tensors_requantized", plan->requantized);
    json_put_u64(json, "weights", plan->weights);
    json_put_u64(json, "weights_quantized", plan->weights_quantized);
    json_put_u64(json, "bytes_in", result->bytes_in);
    json_put_u64(json, "bytes_out", result->bytes_out);
    json_put_number(json, "bits_per_weight", bits_per(plan->bytes, plan->weights));
    json_put_number(
        json, "bits_per_quantized_weight", bits_per(plan->bytes_quantized, plan->weights_quantized));
    if (has_errors(options)) json_put_number(json, "relative_error", total_error(plan));
    checkpoint_write_dropped(&result->input, json);
    if (with_plan) write_plan(json, plan, has_errors(options));
    json_put_number(json, "seconds", result->seconds);
    json_put_u64(json, "peak_memory_bytes", memory_peak_bytes());
    json_put_text(json, "kernels", kernels()->name);
    json_put_u64(json, "threads", result->threads);
    json_close_object(json);
}

/* The JSON text (memory_free). */
static enum status make_json(char **out, uint64_t *bytes, const struct quantize_result *result,
    const struct quantize_options *options, bool with_plan, struct error *err)
{
    struct json_writer json = {.indent = 2};
    write_json(&json, result, options, with_plan);
    enum status status = json_writer_take(&json, out, bytes, err);
    json_writer_free(&json);
    return status;
}

static enum status print_json(
    const struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status =
        make_json(&text, &bytes, result, options, options->dry_run || options->common.verbose, err);
    if (status == OK) fputs(text, stdout);
    memory_free(text);
    return status;
}

/* The same as a file, always with every tensor. */
static enum status write_report(
    const struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = make_json(&text, &bytes, result, options, true, err);
    if (status == OK) status = output_whole(options->report, true, text, bytes, err);
    memory_free(text);
    return status;
}

enum status summary_print(
    const struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    if (options->report) {
        enum status status = write_report(result, options, err);
        if (status != OK) return status;
    }
    if (options->common.json) return print_json(result, options, err);
    print_people(result, options);
    return OK;
}
