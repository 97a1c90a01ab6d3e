/* Any bytes as a pickle: what comes out must lie in them. */
#include "formats/pytorch/pickle.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pickle pickle = {0};
    const char *begin = (const char *)data, *end = begin + size;

    if (pickle_read(&pickle, begin, size, NULL) == OK) {
        if (pickle.count == 0) abort();
        for (uint64_t i = 0; i < pickle.count; i++) {
            const struct pickle_tensor *tensor = &pickle.tensors[i];
            if (tensor->name < begin || tensor->name_bytes > (uint64_t)(end - tensor->name)) abort();
            if (tensor->key < begin || tensor->key_bytes > (uint64_t)(end - tensor->key)) abort();
            if (!tensor->type || tensor->rank > TENSOR_RANK_LIMIT) abort();
        }
    }
    pickle_free(&pickle);
    return 0;
}
