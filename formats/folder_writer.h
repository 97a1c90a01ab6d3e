/* Writing a Hugging Face folder: model.safetensors, or shards with their index, and the documents beside it. Quantized matrices are
 * stored as one of the packed layouts (formats/packed/packed.h), and config.json says so. */
#ifndef NIBBLE_FORMATS_FOLDER_WRITER_H
#define NIBBLE_FORMATS_FOLDER_WRITER_H

#include "formats/packed/packed.h"
#include "formats/writer.h"

#define FOLDER_WRITER_SHARD_BYTES UINT64_C(5000000000) /* as transformers and huggingface_hub split */

/* Start a folder that will appear at `path` on commit (output_folder_open's rules: it must not exist, or be empty).
 *
 *   kind         how tensors of tiles are stored; PACKED_KINDS: not at all, the model has dense tensors only
 *   shard_bytes  of tensor data in one file, at most (one tensor may have more); 0: FOLDER_WRITER_SHARD_BYTES
 *
 * Its writer takes DENSE tensors of every type and TILES that packed_parts_plan takes; the bytes of these are collected until
 * they are complete, so that as many matrices are in memory as are being written at a time. Aliases are left out: readers of such folders tie
 * weights by config.json. "config.json" is attached as it would be without quantization. ERR_UNSUPPORTED at writer_begin: a kind, and
 * nothing that is quantized; awq with several group sizes. */
enum status folder_writer_create(
    struct writer **out, const char *path, enum packed_kind kind, uint64_t shard_bytes, struct error *err);

#endif
