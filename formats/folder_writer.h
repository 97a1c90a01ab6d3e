/* Writing a Hugging Face folder: model.safetensors, or shards with their index, and the documents beside it. Quantized matrices are
 * stored as one of the packed layouts (formats/packed/packed.h), and config.json says so. */
#ifndef NIBBLE_FORMATS_FOLDER_WRITER_H
#define NIBBLE_FORMATS_FOLDER_WRITER_H

#include "formats/packed/packed.h"
#include "formats/writer.h"

#define FOLDER_WRITER_SHARD_BYTES UINT64_C(5000000000) /* as transformers and huggingface_hub split */

/* Where a tensor is put. All but the name may be 0. */
struct folder_place {
    char name[128];
    uint64_t rows;      /* of the matrix (or vector) of that name, of which the tensor has only some rows */
    uint64_t first_row; /* of them, then `run` rows that lie together, the next run `step` rows after */
    uint64_t run, step;
    bool transposed; /* the matrix is stored column by column */
};

/* What the folder calls a tensor, and what it is part of. */
struct folder_naming {
    /* place: out, zeros before. NULL: names stay, every tensor is whole. */
    enum status (*name)(
        const void *context, struct folder_place *place, const struct tensor *tensor, struct error *err);
    const void *context; /* must outlive the writer */
};

/* Start a folder that will appear at `path` on commit (output_folder_open's rules: it must not exist, or be empty).
 *
 *   kind         how tensors of tiles are stored; PACKED_KINDS: not at all, the model has dense tensors only
 *   shard_bytes  of tensor data in one file, at most (one tensor may have more); 0: FOLDER_WRITER_SHARD_BYTES
 *
 *   naming       NULL: names stay
 *
 * Its writer takes DENSE tensors of every type and TILES that packed_parts_plan takes; the bytes of these are collected until
 * they are complete, so that as many matrices are in memory as are being written at a time. Aliases are left out: readers of such folders tie
 * weights by config.json. "config.json" is attached as it would be without quantization. ERR_UNSUPPORTED at writer_add:
 * parts of one matrix that differ in type or scheme, or that cut tiles; at writer_begin: a kind, and nothing that is quantized; awq with several
 * group sizes. ERR_FORMAT at writer_begin: rows of a matrix are missing. */
enum status folder_writer_create(struct writer **out, const char *path, enum packed_kind kind,
    uint64_t shard_bytes, const struct folder_naming *naming, struct error *err);

#endif
