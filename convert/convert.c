/* From a container to a .nbl file: open and account for every tensor, move, attach what belongs to the file,
 * commit. */
#include "convert/convert.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/provenance.h"
#include "formats/transfer.h"

/* ---- options ---- */

#define AT(field) offsetof(struct convert_options, field)

static const struct operand operands[] = {
    {"INPUT", AT(input), "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file."},
    {"OUTPUT", AT(output), "The .nbl file to write. It appears complete or not at all."},
};

static const struct option options_table[] = {
    {"type", OPTION_CHOICE, AT(type), 0, 0, "keep|f32|f16|bf16", "TYPE", "keep",
        "Element type of weight matrices; quantized ones are decoded to it. Norms and biases always keep "
        "theirs.",
        "Conversion"},
    {"force", OPTION_FLAG, AT(force), 0, 0, NULL, NULL, NULL, "Replace OUTPUT if it exists.", NULL},
    COMMON_OPTIONS(struct convert_options),
};

const struct command convert_command = {
    .name = "nibble-convert",
    .summary = "Write a model as one .nbl file: weights, configuration, tokenizer and where they came from.",
    .details = "Examples:\n"
               "  nibble-convert model/ model.nbl\n"
               "  nibble-convert model/model.safetensors model.nbl --type f16\n"
               "  nibble-convert model-int4.nbl decoded.nbl --type f16\n"
               "  nibble-convert model-q4_k.gguf decoded.nbl --type f16\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = options_table,
    .option_count = sizeof options_table / sizeof *options_table,
};

struct convert_options convert_defaults(void)
{
    return (struct convert_options){.type = "keep"};
}

/* The element type asked for; false for keep. */
static bool wanted_type(enum dtype *out, const struct convert_options *options)
{
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        const char *option = dtype_info(dtype)->option;
        if (!option || strcmp(option, options->type) != 0) continue;
        *out = dtype;
        return true;
    }
    return false;
}

/* ---- what becomes of each tensor ---- */

static struct transfer_item plan_item(const struct tensor *source, bool cast, enum dtype type)
{
    struct transfer_item item = {.source = source, .target = *source};
    if (cast && source->rank == 2) {
        item.target.storage = STORAGE_DENSE;
        item.target.dtype = type;
        item.target.scheme = (struct scheme){0};
        item.target.block = BLOCK_NONE;
    }
    return item;
}

static const char *type_name(const struct tensor *tensor)
{
    if (tensor->storage == STORAGE_BLOCKS) return block_info(tensor->block)->name;
    return tensor->storage == STORAGE_TILES ? "quantized" : dtype_info(tensor->dtype)->name;
}

static bool is_cast(const struct transfer_item *item)
{
    return item->target.storage != item->source->storage || item->target.dtype != item->source->dtype;
}

/* One item per tensor that is not dropped; counts them in result. items has room for all. */
static void plan_items(struct convert_result *result, struct transfer_item *items,
    const struct convert_options *options, const struct report *report)
{
    enum dtype type = DTYPE_F32;
    bool cast = wanted_type(&type, options);
    for (uint64_t i = 0; i < container_count(result->input.container); i++) {
        const struct tensor *source = container_tensor(result->input.container, i);
        if (checkpoint_is_dropped(&result->input, source)) continue;
        struct transfer_item *item = &items[result->tensors++];
        *item = plan_item(source, cast, type);
        result->tensors_cast += is_cast(item);
        report_detail(report, "%s: %s%s%s", source->name, type_name(source), is_cast(item) ? " -> " : "",
            is_cast(item) ? type_name(&item->target) : "");
        result->weights += source->elements;
        result->tensor_bytes += transfer_target_bytes(&item->target);
    }
}

/* ---- the output ---- */

static enum status write_output(struct convert_result *result, const struct transfer_item *items,
    uint32_t *source_crcs, struct pool *pool, const struct convert_options *options,
    const struct report *report, struct error *err)
{
    struct writer *writer = NULL;
    const char *const recorded[][2] = {{"type", options->type}};
    enum status status = nbl_writer_create(&writer, options->output, options->force, err);
    if (status == OK)
        status = transfer_run(result->input.container, writer, items, result->tensors, source_crcs, pool,
            report, "converting", err);
    if (status == OK) status = checkpoint_write_aliases(&result->input, writer, err);
    if (status == OK)
        status = provenance_attach(
            writer, result->input.container, convert_command.name, recorded, 1, source_crcs, err);
    if (status != OK) {
        writer_abandon(writer);
        return status;
    }
    return writer_commit(writer, err);
}

/* ---- all of it ---- */

static enum status convert_opened(struct convert_result *result, const struct convert_options *options,
    const struct report *report, struct error *err)
{
    struct pool *pool = NULL;
    uint64_t count = container_count(result->input.container);
    struct transfer_item *items = memory_new(count, sizeof *items, err);
    uint32_t *source_crcs = memory_new(count, sizeof *source_crcs, err);
    enum status status = ERR_MEMORY;
    if (!items || !source_crcs) goto done;
    plan_items(result, items, options, report);
    status = pool_create(&pool, (unsigned)options->common.threads, err);
    if (status != OK) goto done;
    result->threads = pool_workers(pool);
    status = write_output(result, items, source_crcs, pool, options, report, err);
    if (status == OK) result->bytes_out = file_size(options->output);
done:
    pool_free(pool);
    memory_free(source_crcs);
    memory_free(items);
    return status;
}

enum status convert_run(struct convert_result *out, const struct convert_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    double start = report_seconds();
    *out = (struct convert_result){0};
    enum status status = checkpoint_refuse_output(options->input, options->output, err);
    if (status == OK) status = checkpoint_open(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    checkpoint_note_dropped(&out->input, &report);
    status = convert_opened(out, options, &report, err);
    out->seconds = report_seconds() - start;
    return status;
}

void convert_release(struct convert_result *result)
{
    checkpoint_close(&result->input);
    *result = (struct convert_result){0};
}
