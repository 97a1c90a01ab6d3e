/* Element types are listed here; blocks know their own numbers (tensor/blocks.c). */
#include "formats/gguf_types.h"

static const struct {
    uint32_t id;
    enum dtype dtype;
} dense[] = {
    {0, DTYPE_F32},
    {1, DTYPE_F16},
    {24, DTYPE_I8},
    {25, DTYPE_I16},
    {26, DTYPE_I32},
    {27, DTYPE_I64},
    {28, DTYPE_F64},
    {30, DTYPE_BF16},
};

enum { DENSE_TYPES = sizeof dense / sizeof *dense };

bool gguf_types_set(struct tensor *tensor, uint32_t id)
{
    tensor->block = block_of_id(id);
    tensor->storage = tensor->block ? STORAGE_BLOCKS : STORAGE_DENSE;
    tensor->dtype = DTYPE_F32;
    if (tensor->block) return true;
    for (int i = 0; i < DENSE_TYPES; i++) {
        if (dense[i].id != id) continue;
        tensor->dtype = dense[i].dtype;
        return true;
    }
    return false;
}

bool gguf_types_id(uint32_t *id, const struct tensor *tensor)
{
    if (tensor->storage == STORAGE_BLOCKS) {
        *id = block_info(tensor->block)->id;
        return true;
    }
    for (int i = 0; i < DENSE_TYPES && tensor->storage == STORAGE_DENSE; i++) {
        if (dense[i].dtype != tensor->dtype) continue;
        *id = dense[i].id;
        return true;
    }
    return false;
}
