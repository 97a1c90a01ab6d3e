/* From a container to a file: open and account for every tensor, move, attach what belongs to the file,
 * commit. */
#include "convert/convert.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/destination_write.h"

/* ---- options ---- */

#define AT(field) offsetof(struct convert_options, field)

static const struct operand operands[] = {
    {"INPUT", AT(input),
        "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file; of a split GGUF file "
        "the first part."},
    {"OUTPUT", AT(output),
        "The file to write: NAME.gguf is a GGUF file, any other name a .nbl file; or the folder, where "
        "--format "
        "says so. It appears complete or not at all."},
};

static const struct option options_table[] = {
    {"type", OPTION_CHOICE, AT(type), 0, 0, "keep|f32|f16|bf16", "TYPE", "keep",
        "Element type of weight matrices; quantized ones are decoded to it. keep: as they are; quantized "
        "matrices of a .nbl file go into a GGUF file where a block type says exactly the same (symmetric, "
        "4, 5 or 8 bits, groups of a multiple of 32: Q4_0, Q5_0, Q8_0). Norms and biases always keep "
        "theirs; in a GGUF file they are F32.",
        "Conversion"},
    {"gptq-zeros", OPTION_CHOICE, AT(gptq_zeros), 0, 0, "v1|v2", "VERSION", "as the checkpoint says",
        "How a GPTQ folder stores its zero-points, where it does not say: v1 less 1, v2 as they are. A wrong "
        "choice moves every weight by its scale.",
        NULL},
    {"lora", OPTION_LIST, AT(lora), 0, 0, NULL, "DIR[:SCALE]", NULL,
        "Merge a LoRA adapter (a PEFT folder: adapter_config.json, adapter_model.safetensors) into the "
        "weights, its "
        "effect multiplied by SCALE (1 if not given). May be repeated; adapters are added in order.",
        NULL},
    {"layers", OPTION_TEXT, AT(layers), 0, 0, NULL, "FIRST-LAST", "all",
        "Write a slice: these layers only (counted from 0), with the embedding if they begin at 0, and the "
        "final norm "
        "and the head if they end with the last one. A .nbl file that inspect and verify read, and --join "
        "takes.",
        "Slices"},
    {"join", OPTION_LIST, AT(join), 0, 0, NULL, "SLICE", NULL,
        "A further slice of the model that INPUT is a slice of. Given for every other one, OUTPUT is the "
        "whole model.",
        NULL},
    DESTINATION_OPTIONS(struct convert_options),
    COMMON_OPTIONS(struct convert_options),
};

const struct command convert_command = {
    .name = "nibble-convert",
    .summary = "Write a model as a .nbl file, a GGUF file or a Hugging Face folder: weights, configuration, "
               "tokenizer "
               "and where they came from.",
    .details = "Examples:\n"
               "  nibble-convert model/ model.nbl\n"
               "  nibble-convert model/model.safetensors model.nbl --type f16\n"
               "  nibble-convert model-int4.nbl decoded.nbl --type f16\n"
               "  nibble-convert model-q4_k.gguf decoded.nbl --type f16\n"
               "  nibble-convert model/ model-f16.gguf --type f16\n"
               "  nibble-convert model-int4-g32.nbl model-q4_0.gguf\n"
               "  nibble-convert model/ model.gguf --split-size 2G\n"
               "  nibble-convert model-gptq/ model-gptq.nbl\n"
               "  nibble-convert model-int4.nbl model-awq/ --format awq\n"
               "  nibble-convert model-q4_k.gguf decoded/ --format safetensors --type f16\n"
               "  nibble-convert model/ front.nbl --layers 0-11\n"
               "  nibble-convert front.nbl whole.nbl --join back.nbl\n"
               "  nibble-convert model/ merged.nbl --lora adapter/ --lora style/:0.5\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = options_table,
    .option_count = sizeof options_table / sizeof *options_table,
};

struct convert_options convert_defaults(void)
{
    return (struct convert_options){.type = "keep"};
}

void convert_options_free(struct convert_options *options)
{
    options_list_free(&options->lora);
    options_list_free(&options->join);
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
        item.target.mask = MASK_NONE;
    }
    return item;
}

static const char *type_name(const struct tensor *tensor)
{
    if (tensor->storage == STORAGE_BLOCKS) return block_info(tensor->block)->name;
    if (tensor->storage == STORAGE_SPARSE) return "sparse";
    return tensor->storage == STORAGE_TILES ? "quantized" : dtype_info(tensor->dtype)->name;
}

static bool is_cast(const struct transfer_item *item)
{
    return item->target.storage != item->source->storage || item->target.dtype != item->source->dtype;
}

static struct destination destination_of(const struct convert_options *options)
{
    return (struct destination){.path = options->output,
        .format = options->format,
        .force = options->force,
        .slice = options->layers != NULL,
        .split_bytes = options->split_size,
        .file_type = GGUF_TYPES_FILE_ANY};
}

/* One item per tensor that is not dropped; counts them in result. items has room for all. */
static enum status plan_items(struct convert_result *result, struct transfer_item *items,
    const struct convert_options *options, const struct report *report, struct error *err)
{
    const struct destination destination = destination_of(options);
    enum dtype type = DTYPE_F32;
    bool cast = wanted_type(&type, options);
    for (uint64_t i = 0; i < container_count(result->input.container); i++) {
        const struct tensor *source = container_tensor(result->input.container, i);
        if (checkpoint_is_dropped(&result->input, source)) continue;
        if (!slice_has(&result->slice, &result->input.config, &result->input.tensors, source)) continue;
        struct transfer_item *item = &items[result->tensors++];
        *item = plan_item(source, cast, type);
        merge_item(result->merge, item);
        enum status status = destination_target(&destination, &result->input.config, &item->target, err);
        if (status != OK) return status;
        result->tensors_cast += is_cast(item);
        report_detail(report, "%s: %s%s%s", source->name, type_name(source), is_cast(item) ? " -> " : "",
            is_cast(item) ? type_name(&item->target) : "");
        result->weights += source->elements;
        result->tensor_bytes += transfer_target_bytes(&item->target);
    }
    return OK;
}

/* ---- the output ---- */

static enum status write_output(struct convert_result *result, const struct transfer_item *items,
    struct pool *pool, const struct convert_options *options, const struct report *report, struct error *err)
{
    const struct destination destination = destination_of(options);
    const char *recorded[4][2] = {{"type", options->type}};
    uint64_t count = 1;
    if (options->gptq_zeros)
        memcpy(recorded[count++], (const char *[2]){"gptq-zeros", options->gptq_zeros}, sizeof *recorded);
    if (options->layers)
        memcpy(recorded[count++], (const char *[2]){"layers", options->layers}, sizeof *recorded);
    if (result->merge)
        memcpy(recorded[count++], (const char *[2]){"lora", merge_text(result->merge)}, sizeof *recorded);
    const struct destination_model model = {.input = &result->input,
        .items = items,
        .count = result->tensors,
        .slice = options->layers ? &result->slice : NULL,
        .tool = convert_command.name,
        .options = (const char *const(*)[2])recorded,
        .option_count = count,
        .label = "converting"};
    enum status status = destination_write(&result->parts, &destination, &model, pool, report, err);
    if (status == OK) result->bytes_out = destination_parts_bytes(&result->parts, options->output);
    return status;
}

/* ---- all of it ---- */

static enum status convert_opened(struct convert_result *result, const struct convert_options *options,
    const struct report *report, struct error *err)
{
    struct pool *pool = NULL;
    struct transfer_item *items = memory_new(container_count(result->input.container), sizeof *items, err);
    enum status status = items ? plan_items(result, items, options, report, err) : ERR_MEMORY;
    if (status == OK) status = pool_create(&pool, (unsigned)options->common.threads, err);
    if (status == OK) {
        result->threads = pool_workers(pool);
        status = write_output(result, items, pool, options, report, err);
    }
    pool_free(pool);
    memory_free(items);
    return status;
}

static enum status find_slice(
    struct convert_result *result, const struct convert_options *options, struct error *err)
{
    const uint32_t layers = result->input.config.layers;
    result->slice = (struct slice){0, layers - 1, layers};
    return options->layers ? slice_parse(&result->slice, options->layers, layers, err) : OK;
}

enum status convert_run(struct convert_result *out, const struct convert_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    double start = report_seconds();
    *out = (struct convert_result){0};
    const struct destination destination = destination_of(options);
    enum status status = destination_check(&destination, err);
    if (status == OK) status = checkpoint_refuse_output(options->input, options->output, err);
    if (status == OK)
        status = checkpoint_open_with(&out->input, options->input,
            &(struct checkpoint_options){.slices = options->join.values,
                .slice_count = options->join.count,
                .container = {.gptq_zeros = options->gptq_zeros}},
            err);
    if (status == OK) status = find_slice(out, options, err);
    if (status == OK) status = destination_refuse_input(out->input.container, options->output, err);
    if (status == OK) status = merge_open(&out->merge, &options->lora, &out->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    checkpoint_note_dropped(&out->input, &report);
    status = convert_opened(out, options, &report, err);
    out->seconds = report_seconds() - start;
    return status;
}

void convert_release(struct convert_result *result)
{
    merge_close(result->merge);
    checkpoint_close(&result->input);
    destination_parts_free(&result->parts);
    *result = (struct convert_result){0};
}
