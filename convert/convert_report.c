/* What nibble-convert says when it is done. */
#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/report.h"
#include "convert/convert.h"
#include "tensor/kernels/kernels.h"

static double bits_per_weight(const struct convert_result *result)
{
    return result->weights ? 8.0 * (double)result->tensor_bytes / (double)result->weights : 0;
}

static void print_people(const struct convert_result *result, const struct convert_options *options)
{
    char in[16], out[16], duration[24], memory[16];
    const bool folder = file_kind(options->output) == FILE_FOLDER;
    printf("output           %s\n", result->part_count && !folder ? result->parts[0] : options->output);
    if (result->part_count > folder) printf("parts            %" PRIu64 "\n", result->part_count);
    printf("tensors          %" PRIu64 ": %" PRIu64 " cast, %" PRIu64 " copied\n", result->tensors,
        result->tensors_cast, result->tensors - result->tensors_cast);
    if (options->layers)
        printf("slice            layers %" PRIu32 " to %" PRIu32 " of %" PRIu32 "\n", result->slice.first,
            result->slice.last, result->slice.layers);
    if (result->merge)
        printf("merged           %" PRIu64 " tensors changed by %" PRIu64 " adapter%s\n",
            merge_count(result->merge), merge_adapters(result->merge),
            merge_adapters(result->merge) == 1 ? "" : "s");
    printf("weights          %" PRIu64 "\n", result->weights);
    printf("size             %s -> %s\n", report_bytes(in, result->bytes_in),
        report_bytes(out, result->bytes_out));
    printf("bits per weight  %.3f\n", bits_per_weight(result));
    printf("time             %s, %u thread%s, %s kernels\n", report_duration(duration, result->seconds),
        result->threads, result->threads == 1 ? "" : "s", kernels()->name);
    printf("peak memory      %s\n", report_bytes(memory, memory_peak_bytes()));
}

static void write_parts(struct json_writer *json, const struct convert_result *result)
{
    json_write_key(json, "parts");
    json_open_array(json);
    for (uint64_t i = 0; i < result->part_count; i++)
        json_write_text(json, result->parts[i]);
    json_close_array(json);
}

static enum status print_json(
    const struct convert_result *result, const struct convert_options *options, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    json_put_text(&json, "tool", convert_command.name);
    json_put_text(&json, "version", NIBBLE_VERSION);
    json_put_text(&json, "input", options->input);
    json_put_text(&json, "output", options->output);
    if (result->part_count) write_parts(&json, result);
    json_put_text(&json, "type", options->type);
    json_put_u64(&json, "tensors", result->tensors);
    json_put_u64(&json, "tensors_cast", result->tensors_cast);
    json_put_u64(&json, "tensors_merged", merge_count(result->merge));
    json_put_u64(&json, "weights", result->weights);
    json_put_u64(&json, "bytes_in", result->bytes_in);
    json_put_u64(&json, "bytes_out", result->bytes_out);
    json_put_number(&json, "bits_per_weight", bits_per_weight(result));
    checkpoint_write_dropped(&result->input, &json);
    json_put_number(&json, "seconds", result->seconds);
    json_put_u64(&json, "peak_memory_bytes", memory_peak_bytes());
    json_put_text(&json, "kernels", kernels()->name);
    json_put_u64(&json, "threads", result->threads);
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (status == OK) fputs(text, stdout);
    memory_free(text);
    json_writer_free(&json);
    return status;
}

enum status convert_print(
    const struct convert_result *result, const struct convert_options *options, struct error *err)
{
    if (options->common.json) return print_json(result, options, err);
    print_people(result, options);
    return OK;
}
