/* See structure_summary.h. */
#include "prune/structure_summary.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"

static const struct prune_method *method_of(const struct prune_result *result)
{
    return result->settings.method;
}

static bool has_scores(const struct prune_result *result)
{
    return method_of(result) && method_of(result)->kind == PRUNE_DEPTH;
}

static double sparsity_of(const struct prune_result *result)
{
    return result->target_sparsity > 0 ? result->target_sparsity : result->settings.sparsity;
}

/* ---- for people ---- */

static void print_layers(const struct prune_result *result)
{
    const char *headings[] = {"layer", "", ">heads", ">kv heads", ">channels", ">score"};
    const bool scores = has_scores(result);
    struct table table = {0};

    table_head(&table, scores ? 6 : 5, headings);
    for (uint32_t i = 0; i < result->layers_in; i++) {
        const struct prune_layer *layer = &result->layers[i];
        table_cell(&table, "%" PRIu32, i);
        table_cell(&table, "%s", layer->gone ? "goes" : "stays");
        table_cell(&table, "%" PRIu32 " of %" PRIu32, layer->left.heads, layer->was.heads);
        table_cell(&table, "%" PRIu32 " of %" PRIu32, layer->left.kv_heads, layer->was.kv_heads);
        table_cell(&table, "%" PRIu32 " of %" PRIu32, layer->left.ffn, layer->was.ffn);
        if (scores) table_cell(&table, "%.6g", layer->score);
    }
    table_print(&table);
    table_free(&table);
    putchar('\n');
}

static void print_method(const struct prune_result *result)
{
    const struct prune_method *method = method_of(result);

    if (!method) return;
    printf("method           %s: %.4g %% of the %s%s\n", method->name, 100 * sparsity_of(result),
        method->kind == PRUNE_DEPTH ? "layers" : "weights of heads and feed-forward channels",
        result->target_sparsity > 0 ? ", chosen for the target" : "");
}

static void print_gone(const struct prune_result *result)
{
    if (result->layers_out == result->layers_in) return;
    printf("layers           %" PRIu32 " -> %" PRIu32 ", without", result->layers_in, result->layers_out);
    for (uint32_t i = 0; i < result->layers_in; i++) {
        if (result->layers[i].gone) printf(" %" PRIu32, i);
    }
    putchar('\n');
}

/* Sums over the layers that stay. */
static void print_widths(const struct prune_result *result)
{
    uint64_t heads_in = 0, heads = 0, ffn_in = 0, ffn = 0;

    for (uint32_t i = 0; i < result->layers_in; i++) {
        const struct prune_layer *layer = &result->layers[i];
        if (layer->gone) continue;
        heads_in += layer->was.heads;
        heads += layer->left.heads;
        ffn_in += layer->was.ffn;
        ffn += layer->left.ffn;
    }
    if (heads < heads_in) printf("heads            %" PRIu64 " -> %" PRIu64 "\n", heads_in, heads);
    if (ffn < ffn_in) printf("channels         %" PRIu64 " -> %" PRIu64 "\n", ffn_in, ffn);
}

static void print_sizes(const struct prune_result *result, bool dry_run)
{
    char in[16], out[16];

    printf("weights          %" PRIu64 " -> %" PRIu64 " (%.2f %% less)\n", result->weights_in,
        result->weights_out, 100 - 100 * (double)result->weights_out / (double)result->weights_in);
    printf("size             %s -> %s%s\n", report_bytes(in, result->bytes_in),
        dry_run ? "tensors alone " : "", report_bytes(out, result->bytes_out));
}

void structure_summary_print(const struct prune_result *result, const struct prune_options *options)
{
    char duration[24], memory[16];

    if (options->dry_run || options->common.verbose) print_layers(result);
    printf("output           %s%s\n", options->output, options->dry_run ? " (dry run: not written)" : "");
    print_method(result);
    print_gone(result);
    print_widths(result);
    if (result->vocabulary_out < result->vocabulary_in)
        printf(
            "vocabulary       %" PRIu32 " -> %" PRIu32 "\n", result->vocabulary_in, result->vocabulary_out);
    print_sizes(result, options->dry_run);
    if (result->samples)
        printf("calibration      %" PRIu64 " samples, %" PRIu64 " tokens\n", result->samples, result->tokens);
    if (options->dry_run) return;
    printf("time             %s, %u thread%s, %s kernels\n", report_duration(duration, result->seconds),
        result->threads, result->threads == 1 ? "" : "s", kernels()->name);
    printf("peak memory      %s\n", report_bytes(memory, memory_peak_bytes()));
}

/* ---- for machines ---- */

static void put_layer(struct json_writer *json, const struct prune_layer *layer, bool score)
{
    json_open_object(json);
    json_put_bool(json, "gone", layer->gone);
    json_put_u64(json, "heads_in", layer->was.heads);
    json_put_u64(json, "heads", layer->left.heads);
    json_put_u64(json, "kv_heads_in", layer->was.kv_heads);
    json_put_u64(json, "kv_heads", layer->left.kv_heads);
    json_put_u64(json, "channels_in", layer->was.ffn);
    json_put_u64(json, "channels", layer->left.ffn);
    if (score) json_put_number(json, "score", layer->score);
    json_close_object(json);
}

void structure_summary_put(struct json_writer *json, const struct prune_result *result)
{
    const struct prune_method *method = method_of(result);

    json_put_text(json, "method", method ? method->name : NULL);
    if (method) json_put_number(json, "sparsity", sparsity_of(result));
    json_put_u64(json, "layers_in", result->layers_in);
    json_put_u64(json, "layers_out", result->layers_out);
    json_put_u64(json, "vocabulary_in", result->vocabulary_in);
    json_put_u64(json, "vocabulary_out", result->vocabulary_out);
    json_put_u64(json, "weights", result->weights_in);
    json_put_u64(json, "weights_out", result->weights_out);
    json_put_u64(json, "bytes_in", result->bytes_in);
    json_put_u64(json, "bytes_out", result->bytes_out);
    json_put_u64(json, "calibration_samples", result->samples);
    json_put_u64(json, "calibration_tokens", result->tokens);
    json_write_key(json, "layers");
    json_open_array(json);
    for (uint32_t i = 0; i < result->layers_in; i++)
        put_layer(json, &result->layers[i], has_scores(result));
    json_close_array(json);
}
