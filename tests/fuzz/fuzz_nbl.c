/* Any bytes as a .nbl file: as they are, with the padding that inputs leave out, and with a checksum that fits. */
#include "formats/nbl.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/nbl_forge.h"

/* Open the file, and verify what opening leaves unread. */
static void run(const uint8_t *file, size_t count)
{
    struct nbl_verification found;
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, file, count);

    fuzz_open(path);
    nbl_verify(&found, path, NULL, NULL, NULL);
    close(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[NBL_FORGE_ROOM];
    const size_t count = nbl_forge_pad(file, data, size);

    run(data, size);
    if (count) run(file, count);
    if (count && nbl_forge_seal(file, count)) run(file, count);
    return 0;
}
