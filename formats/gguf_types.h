/* The numbers that GGUF files give to types of tensors. */
#ifndef NIBBLE_FORMATS_GGUF_TYPES_H
#define NIBBLE_FORMATS_GGUF_TYPES_H

#include "tensor/tensor.h"

/* Set storage, dtype and block of a tensor from a type's number. False: no type that is read here. */
bool gguf_types_set(struct tensor *tensor, uint32_t id);

/* The number of a tensor's type. False: GGUF has none for it. */
bool gguf_types_id(uint32_t *id, const struct tensor *tensor);

#endif
