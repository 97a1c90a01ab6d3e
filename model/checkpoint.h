/* A checkpoint: a container whose configuration is known and whose tensors are all accounted for, and what every tool that
 * makes a new file of one has to do. */
#ifndef NIBBLE_MODEL_CHECKPOINT_H
#define NIBBLE_MODEL_CHECKPOINT_H

#include "base/report.h"
#include "formats/nbl.h"
#include "model/layers.h"
#include "model/tokenizer/tokenizer.h"

/* An opened model: each tensor plays a role, or is dropped for a reason. */
struct checkpoint {
    struct container *container;
    struct model_config config;
    struct model_tensors tensors;
    struct dropped_tensor *dropped; /* [dropped_count] */
    uint64_t dropped_count;
    /* The file that tokenizer.json was made of; NULL: it is there, or there is none. */
    const char *tokenizer_made_of;
    /* Why there is none although there are files of one; code OK: no such case. */
    struct error no_tokenizer;
};

/* Parse the configuration attached to a container; *found is false (and *out unset) where there is none. */
enum status checkpoint_read_config(
    struct model_config *out, bool *found, struct container *container, struct error *err);

/* See the fused matrices of a container as checkpoint_open does, if a known configuration is attached: for who compares tensors by
 * name. Before it is mapped. */
enum status checkpoint_split(struct container *container, struct error *err);

/* Open a folder, a .safetensors, .nbl or PyTorch file, a GGUF file or a llama2.c model (seen through model/gguf/gguf_checkpoint.h and
 * model/llama2c_checkpoint.h) and hold its tensors against its configuration: missing, misshapen and unknown ones
 * are errors (layers_bind). Nothing is mapped. Release with checkpoint_close, also after an error. */
enum status checkpoint_open(struct checkpoint *out, const char *path, struct error *err);

/* The same, with what the user says of the model beside its path. */
struct checkpoint_options {
    const char *const
        *slices; /* [slice_count] it lies in slices (model/slice.h), path is one: the paths of all others */
    uint64_t slice_count;
    struct container_options container;
};
enum status checkpoint_open_with(
    struct checkpoint *out, const char *path, const struct checkpoint_options *options, struct error *err);
void checkpoint_close(struct checkpoint *checkpoint);

/* After its container is seen in another way (formats/container_select.h, another config.json): read the configuration again and bind the
 * tensors anew. Pointers to tensors and `dropped` are others afterwards. Errors as checkpoint_open. */
enum status checkpoint_bind_again(struct checkpoint *checkpoint, struct error *err);

/* The tokenizer of a container's tokenizer.json, which is made of other files where they are all there is (tokenizer_files.h); *out is
 * NULL where there is none. Owner: the caller, tokenizer_free. */
enum status checkpoint_tokenizer(struct tokenizer **out, struct container *container, struct error *err);

/* True if the tensor is one of those dropped on purpose. */
bool checkpoint_is_dropped(const struct checkpoint *checkpoint, const struct tensor *tensor);

/* Tell people, path first, which packed matrices of a container are decoded, and why, and what its tokenizer was made of
 * (`made_of` NULL: nothing to say). */
void checkpoint_note_made(
    const struct container *container, const char *made_of, const struct report *report);
/* The same, and why there is no tokenizer, and what is dropped. */
void checkpoint_note_dropped(const struct checkpoint *checkpoint, const struct report *report);

/* Write "dropped": a list of {"tensor", "why"} into an open JSON object. */
void checkpoint_write_dropped(const struct checkpoint *checkpoint, struct json_writer *json);

/* Carry the names that stand for another tensor over to a new file, but for those whose tensor was dropped. */
enum status checkpoint_write_aliases(
    const struct checkpoint *checkpoint, struct writer *writer, struct error *err);

/* ERR_USAGE if the output's name leads to the input or to a file of the input's folder, also through links. */
enum status checkpoint_refuse_output(const char *input, const char *output, struct error *err);

/* The same for what is written beside the output (reports), which has no place in the input's folder either: a new file there would be
 * a part of the model for whoever opens the folder next. ERR_MEMORY. */
enum status checkpoint_refuse_beside(const char *input, const char *path, struct error *err);

#endif
