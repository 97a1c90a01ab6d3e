/* Element types are listed here; blocks know their own numbers (tensor/blocks.c). */
#include "formats/gguf/gguf_types.h"

#include <stddef.h>

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

/* The usual one comes first. */
static const struct {
    uint32_t file_type, id;
} file_types[] = {
    {0, 0}, {1, 1}, {32, 30},     /* F32, F16, BF16 */
    {2, 2}, {3, 3},               /* Q4_0, Q4_1 */
    {8, 6}, {9, 7}, {7, 8},       /* Q5_0, Q5_1, Q8_0 */
    {10, 10}, {21, 10},           /* Q2_K, Q2_K_S */
    {12, 11}, {11, 11}, {13, 11}, /* Q3_K_M, _S, _L */
    {15, 12}, {14, 12},           /* Q4_K_M, _S */
    {17, 13}, {16, 13},           /* Q5_K_M, _S */
    {18, 14},                     /* Q6_K */
    {25, 20}, {30, 23},           /* IQ4_NL, IQ4_XS */
    {36, 34}, {37, 35}, {38, 39}, /* TQ1_0, TQ2_0, MXFP4 */
};

bool gguf_types_file(uint32_t *file_type, uint32_t id, uint32_t wanted)
{
    bool found = false;

    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++) {
        if (file_types[i].id != id) continue;
        if (!found || file_types[i].file_type == wanted) *file_type = file_types[i].file_type;
        found = true;
    }
    return found;
}
