/* Converting a model: any container to a .nbl or GGUF file, every tensor accounted for, bytes copied or cast. */
#ifndef NIBBLE_CONVERT_CONVERT_H
#define NIBBLE_CONVERT_CONVERT_H

#include "base/options.h"
#include "convert/merge.h"
#include "model/checkpoint.h"
#include "model/slice.h"

/* The command line as it was parsed. */
struct convert_options {
    struct common_options common;
    const char *input, *output;
    const char *type;       /* "keep", "f32", "f16", "bf16" */
    const char *format;     /* as in model/destination.h */
    const char *gptq_zeros; /* "v1", "v2"; NULL: as the checkpoint says */
    uint64_t split_size;
    struct option_list lora; /* "DIR" or "DIR:SCALE" */
    const char *layers;      /* "FIRST-LAST"; NULL: all */
    struct option_list join; /* further slices */
    bool force;
};

/* The defaults; options_parse overwrites what is given. */
struct convert_options convert_defaults(void);
void convert_options_free(struct convert_options *options);
extern const struct command convert_command;

/* What was done, for the report. Holds the input open, because names point into it. */
struct convert_result {
    struct checkpoint input;
    struct merge *merge; /* adapters; NULL: none */
    struct slice slice;  /* what is written; all layers unless --layers was given */
    uint64_t tensors, tensors_cast;
    uint64_t weights, tensor_bytes; /* elements and bytes of the tensors written */
    uint64_t bytes_in, bytes_out;   /* of the files that hold tensors */
    char **parts;                   /* [part_count] paths of the parts of a split output; 0: one file */
    uint64_t part_count, part_capacity;
    unsigned threads;
    double seconds;
};

/* Do what the options say. With a type other than keep, matrices of floating point and quantized matrices
 * become that type; vectors (norms, biases) keep theirs, because they take no room and carry much; in GGUF files they are F32. Errors:
 * those of reading and writing; ERR_FORMAT: a tensor is missing, misshapen or unknown to the architecture;
 * ERR_NUMERIC: a weight would overflow to infinity. The output is the same for any number of threads, and on
 * an error it is not touched. Release *out with convert_release, also after an error. */
enum status convert_run(struct convert_result *out, const struct convert_options *options, struct error *err);
void convert_release(struct convert_result *result);

/* Print to standard output what was done, for people or with --json (docs/cli.md). The caller flushes. */
enum status convert_print(
    const struct convert_result *result, const struct convert_options *options, struct error *err);

#endif
