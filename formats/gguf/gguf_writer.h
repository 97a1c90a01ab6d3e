/* Writing GGUF files (version 3): metadata that are known before, tensors in the order in which they are declared, data at multiples
 * of 32 bytes. One file, or parts of at most so many bytes called NAME-00001-of-00003.gguf, of which the first has the metadata.
 * Source: ggml's GGUF specification; parts as llama.cpp's gguf-split makes them. */
#ifndef NIBBLE_FORMATS_GGUF_WRITER_H
#define NIBBLE_FORMATS_GGUF_WRITER_H

#include "formats/metadata_builder.h"
#include "formats/writer.h"

/* The key under which the document "provenance.json" lies. */
#define GGUF_WRITER_PROVENANCE "nibble.provenance"

enum { GGUF_WRITER_NAME_BYTES = 64 }; /* a tensor's name with its end */

/* Where a tensor is put. All but the name may be 0. */
struct gguf_place {
    char name[GGUF_WRITER_NAME_BYTES];
    uint64_t head; /* rows of which the two halves are interleaved (container_interleave) */
    float shift;   /* added to every element */
    uint64_t rows; /* of the matrix of that name, of which the tensor is only the rows from first_row on */
    uint64_t first_row;
    uint64_t stacked; /* so many matrices are these rows, one below the other, of rank 3; 0: they are one */
};

/* What GGUF calls a tensor, and how it wants its rows. */
struct gguf_naming {
    /* place: out, zeros before. ERR_UNSUPPORTED: no name. NULL: names stay, rows are in their order. */
    enum status (*name)(
        void *context, struct gguf_place *place, const struct tensor *tensor, struct error *err);
    void *context; /* owner: the writer from here on, released by free_context (may be NULL) */
    void (*free_context)(void *context);
};

struct gguf_writer_options {
    bool force; /* replace what is there */
    uint64_t
        split_bytes; /* parts of at most so many bytes, unless a tensor alone has more; 0: one file, not called a part */
    uint32_t
        file_type; /* general.file_type where it agrees with what most weights are, else GGUF_TYPES_FILE_ANY */
    struct gguf_naming naming;
};

/* Start a file (or parts) that will appear at `path` on commit. `metadata` is taken over, also after an error; general.file_type,
 * general.quantization_version (2), split.* and nibble.provenance are added to it and must not be in it. Parts appear one after
 * the other, the first last: without it nobody finds the others.
 *
 * The writer takes tensors of rank 1 to 4 of types that formats/gguf/gguf_types.h knows. Aliases and checksums have no place in the format
 * and are passed over; so is every document but provenance.json (what config.json and tokenizer.json say is for the caller to put into
 * the metadata), whose room must be reserved. Errors of writer_add: ERR_FORMAT: a name that is empty, of more than 63 bytes or
 * there twice; ERR_UNSUPPORTED: storage, type or rank, or matrices of different types that are to be one. Errors of writer_begin:
 * ERR_FORMAT: rows of such a matrix are missing. */
enum status gguf_writer_create(struct writer **out, const char *path,
    const struct gguf_writer_options *options, struct metadata_builder *metadata, struct error *err);

/* Declare a tensor that the writer itself will write: `name` as it is, F32 [count] (copied). Before writer_begin. */
enum status gguf_writer_floats(
    struct writer *writer, const char *name, const float *values, uint64_t count, struct error *err);

/* The name of part `number` (from 1) of `count`: a path that ends in ".gguf" loses that first. Owner: the caller, memory_free. */
char *gguf_writer_part_path(const char *path, uint64_t number, uint64_t count, struct error *err);

#endif
