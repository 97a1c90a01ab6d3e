/* Where a tool writes a model, and as what: THE table of output formats lies in destination.c; one row to add one. */
#ifndef NIBBLE_MODEL_DESTINATION_H
#define NIBBLE_MODEL_DESTINATION_H

#include "base/options.h"
#include "formats/gguf/gguf_types.h"
#include "model/checkpoint.h"

struct destination {
    const char *path;
    const char *format;   /* of DESTINATION_FORMATS; NULL: by the path's ending, .gguf or else .nbl */
    bool force;           /* replace what is there */
    bool slice;           /* some layers only (model/slice.h) */
    uint64_t split_bytes; /* GGUF, folders: parts of at most so many bytes; 0: one file, in folders 5 GB */
    uint32_t file_type;   /* GGUF: general.file_type (model/gguf/gguf_export.h), or GGUF_TYPES_FILE_ANY */
};

#define DESTINATION_FORMATS "nbl|gguf|safetensors|gptq|gptq-v2|awq|compressed-tensors|mlx"

/* The options behind it, for the table of a tool whose structure has `const char *format`, `uint64_t split_size` and `bool force`. */
#define DESTINATION_OPTIONS(type)                                                                            \
    {"format", OPTION_CHOICE, offsetof(type, format), 0, 0, DESTINATION_FORMATS, "FORMAT",                   \
        "by OUTPUT's name: gguf if it ends in .gguf, else nbl",                                              \
        "Format of OUTPUT. From safetensors on a Hugging Face folder: safetensors holds dense weights, the " \
        "others also quantized ones, code for code (gptq: 2, 3, 4, 8 bits, zero-points stored less 1; "      \
        "gptq-v2: "                                                                                          \
        "as they are; awq: 4 bits; compressed-tensors: pack-quantized; mlx: groups of 32, 64, 128).",        \
        "Output"},                                                                                           \
        {"split-size", OPTION_COUNT, offsetof(type, split_size), 1, 9e18, NULL, "BYTES", "one file",         \
            "Write the model as parts of at most so many bytes (2G, 500M). GGUF: "                           \
            "NAME-00001-of-00003.gguf, all read again through the first. Folders: "                          \
            "model-00001-of-00003.safetensors with an index, 5G if not given.",                              \
            NULL},                                                                                           \
    {                                                                                                        \
        "force", OPTION_FLAG, offsetof(type, force), 0, 0, NULL, NULL, NULL,                                 \
            "Replace OUTPUT if it exists. A folder with files in it is never replaced.", NULL                \
    }

/* ERR_USAGE: an option that the format does not have. */
enum status destination_check(const struct destination *destination, struct error *err);

/* Whether only our own tools read the format: it holds what no other reader would know (config_refuse_own). */
bool destination_is_own(const struct destination *destination);

/* How the format keeps in one matrix, of one type, what the architecture fuses (layers_is_fused). */
enum fused_in destination_fuses(const struct destination *destination);

/* Change what a tensor is to become into what the format holds (gguf_export_target). Errors name the tensor. */
enum status destination_target(const struct destination *destination, const struct model_config *config,
    struct tensor *target, struct error *err);

/* ERR_USAGE if only the values that a quantized tensor will have decide whether the format holds it: gptq has no place for the
 * zero-point 0. For those who will have worked for hours by then. */
enum status destination_certain(
    const struct destination *destination, const struct tensor *target, struct error *err);

/* Make the writer of the format for tensors of `input`, which must outlive it. */
enum status destination_create(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err);

/* ERR_USAGE if a file that is to appear is one of the input's. */
enum status destination_refuse_input(const struct container *input, const char *path, struct error *err);

/* The files that a writer makes (writer_file) as sizes once they are there. */
struct destination_parts {
    char **paths; /* [count]; none if the format has but one file, the destination's path */
    uint64_t count, capacity;
};

/* Take down the paths before the writer commits. ERR_USAGE if one is a file of the input. Release with destination_parts_free, also
 * after an error. */
enum status destination_parts_note(struct destination_parts *parts, const struct writer *writer,
    const struct container *input, struct error *err);
/* Bytes of all of them, or of the file at `path` if there are none. */
uint64_t destination_parts_bytes(const struct destination_parts *parts, const char *path);
void destination_parts_free(struct destination_parts *parts);

#endif
