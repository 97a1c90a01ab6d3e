/* The numbers that GGUF files give to types of tensors. */
#ifndef NIBBLE_FORMATS_GGUF_TYPES_H
#define NIBBLE_FORMATS_GGUF_TYPES_H

#include "tensor/tensor.h"

/* Set storage, dtype and block of a tensor from a type's number. False: no type that is read here. */
bool gguf_types_set(struct tensor *tensor, uint32_t id);

/* The number of a tensor's type. False: GGUF has none for it. */
bool gguf_types_id(uint32_t *id, const struct tensor *tensor);

/* The numbers of files (general.file_type) that say what most of a file's weights are. */
#define GGUF_TYPES_FILE_ANY UINT32_MAX

/* The number for a file most of whose weights have the type `id`: `wanted` where it says that (Q4_K_S and Q4_K_M are both mostly
 * Q4_K), else the usual one. False: GGUF has none. Source: enum llama_ftype. */
bool gguf_types_file(uint32_t *file_type, uint32_t id, uint32_t wanted);

#endif
