/* Any bytes as a safetensors file. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, data, size);

    fuzz_open(path);
    close(descriptor);
    return 0;
}
