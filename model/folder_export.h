/* A checkpoint as a Hugging Face folder: what the architecture keeps in one matrix, and what it stores column by column, is put back. */
#ifndef NIBBLE_MODEL_FOLDER_EXPORT_H
#define NIBBLE_MODEL_FOLDER_EXPORT_H

#include "formats/folder_writer.h"
#include "model/checkpoint.h"

/* Make the writer (formats/folder_writer.h) for tensors that have the names of `input`, which must outlive it. ERR_UNSUPPORTED: quantized
 * matrices of an architecture that stores them column by column (GPT-2). */
enum status folder_export_create(struct writer **out, const struct checkpoint *input, const char *path,
    enum packed_kind kind, uint64_t shard_bytes, struct error *err);

#endif
