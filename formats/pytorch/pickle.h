/* What a pickle says of tensors, without unpickling it. A pickle is a program for a machine that can import and call anything;
 * this one has no import and no call. It follows the opcodes that pickling writes (protocols 2 to 5) over values that are
 * plain, and knows a short list of names (pickle_names.h) whose calls it describes instead of making them:
 * the result is a list of records, and nothing in a file can make it anything else. Every other opcode and name is
 * refused, with its place.
 *
 * Sources: CPython's Lib/pickletools.py (the opcodes), torch/_utils.py and torch/serialization.py (what a tensor is pickled as). */
#ifndef NIBBLE_FORMATS_PICKLE_H
#define NIBBLE_FORMATS_PICKLE_H

#include "base/error.h"
#include "formats/pytorch/pickle_names.h"
#include "tensor/tensor.h"

/* Limits: bytes of one pickle, values in it, values on the stack at once. Real ones have about twenty values a tensor, and
 * at most a few thousand on the stack. */
#define PICKLE_BYTES_LIMIT (64u << 20)
#define PICKLE_VALUE_LIMIT (4u << 20)
#define PICKLE_STACK_LIMIT (1u << 16)

/* One tensor of the state dict: a view of a storage. Texts lie in the pickle's bytes and are not terminated. */
struct pickle_tensor {
    const char *name, *key; /* the key names the storage */
    uint64_t name_bytes, key_bytes;
    const struct pickle_type *type; /* of the elements */
    uint64_t storage_bytes;
    uint64_t offset; /* of the first element, in elements */
    uint32_t rank;
    uint64_t shape[TENSOR_RANK_LIMIT], stride[TENSOR_RANK_LIMIT]; /* strides in elements */
};

/* Zero-initialise; release with pickle_free. */
struct pickle {
    struct pickle_tensor *tensors; /* [count], in the order of the state dict */
    uint64_t count, capacity;
};

/* Read the state dict of a pickle: the dict that the pickle is, or the one under its key "model", "state_dict", "module" or
 * "model_state_dict" if that is the only of these that holds a dict with tensors. `bytes` [count] must outlive *out.
 * ERR_FORMAT: the pickle is damaged, or does what loading a checkpoint never does ("would call os.system").
 * ERR_UNSUPPORTED: valid, but no state dict of tensors. ERR_MEMORY: over a limit. Errors name the byte. */
enum status pickle_read(struct pickle *out, const char *bytes, uint64_t count, struct error *err);
void pickle_free(struct pickle *pickle);

#endif
