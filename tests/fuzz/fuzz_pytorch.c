/* Any bytes as a PyTorch file. The checksums of the directory are made right first, or no change would ever reach the pickle. */
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/pytorch/pytorch.h"
#include "tests/fuzz/fuzz.h"

/* What may be a record of the directory: write the checksum of the data that it means into it and into the local header. */
static void forge_record(uint8_t *bytes, size_t size, size_t at)
{
    const uint64_t count = bytes_get_u32(bytes + at + 24), local = bytes_get_u32(bytes + at + 42);

    if (local + 30 > size) return;
    const uint64_t data = local + 30 + bytes_get_u16(bytes + local + 26) + bytes_get_u16(bytes + local + 28);
    if (data + count > size) return;
    const uint32_t crc = file_crc32(0, bytes + data, count);
    bytes_put(bytes + at + 16, crc, 4);
    if (bytes_get_u32(bytes + local + 14)) bytes_put(bytes + local + 14, crc, 4);
}

static void ignore_fault(void *context, const char *text)
{
    (void)context;
    (void)text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct container *container = NULL;
    char path[FUZZ_PATH_BYTES];
    uint8_t *bytes = memory_new(size, 1, NULL);

    if (!bytes) abort();
    memcpy(bytes, data, size);
    for (size_t at = 0; at + 46 <= size; at++) {
        if (memcmp(bytes + at, "PK\1\2", 4) == 0) forge_record(bytes, size, at);
    }
    int descriptor = fuzz_file(path, bytes, size);
    if (container_open(&container, path, NULL) == OK && container_map(container, NULL) == OK) {
        fuzz_look(container);
        if (strcmp(container_format(container), PYTORCH_FORMAT) == 0 &&
            pytorch_verify(container, ignore_fault, NULL, NULL) != OK)
            abort();
    }
    container_close(container);
    close(descriptor);
    memory_free(bytes);
    return 0;
}
