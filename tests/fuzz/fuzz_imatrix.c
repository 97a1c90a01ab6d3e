/* Any bytes as an importance matrix, of either format. What is read can be found, and is what it promises. */
#include <math.h>

#include "quantize/imatrix.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imatrix imatrix;
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, data, size);

    if (imatrix_read(&imatrix, path, NULL) == OK && imatrix.count == 0) abort();
    for (uint64_t i = 0; i < imatrix.count; i++) {
        const struct imatrix_entry *entry = &imatrix.entries[i];
        const float *means;
        if (imatrix_find(&means, &imatrix, entry->role, entry->layer, entry->cols, NULL) != OK) abort();
        if (means != entry->means) abort();
        const uint64_t experts = entry->matrices ? entry->matrices : 1;
        const struct imatrix_expert wanted = {
            entry->role, entry->layer, (uint32_t)experts - 1, (uint32_t)experts, entry->cols / experts};
        bool unseen;
        if (experts > UINT32_MAX) continue;
        if (imatrix_find_expert(&means, &unseen, &imatrix, &wanted, NULL) != OK) abort();
        if (!means != unseen) abort();
    }
    imatrix_free(&imatrix);
    close(descriptor);
    return 0;
}
