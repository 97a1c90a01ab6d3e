/* Any bytes as a .nbl file, as they are and with a checksum that fits, as a forger would make it. So that
 * inputs stay small, the padding between table and data is left out of them and put back here. */
#include <string.h>

#include "base/file.h"
#include "formats/bytes.h"
#include "formats/nbl.h"
#include "tests/fuzz/fuzz.h"

enum { HEADER_BYTES = 128, DATA_AT = 65536, ROOM = DATA_AT + (1 << 20) };

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
    static uint8_t file[ROOM];
    uint64_t table_end, count, metadata, bytes;

    run(data, size);
    if (size < HEADER_BYTES || size > ROOM - DATA_AT) return 0;
    table_end = HEADER_BYTES + bytes_get_u64(data + 40);
    if (table_end < HEADER_BYTES || table_end > size || table_end > DATA_AT) return 0;
    count = DATA_AT + size - table_end;
    memcpy(file, data, table_end);
    memset(file + table_end, 0, DATA_AT - table_end);
    memcpy(file + DATA_AT, data + table_end, size - table_end);
    run(file, count);
    metadata = bytes_get_u64(file + 64);
    bytes = bytes_get_u64(file + 72);
    if (metadata > count || bytes > count - metadata) return 0;
    uint32_t crc = file_crc32(file_crc32(0, file, 124), file + HEADER_BYTES, table_end - HEADER_BYTES);
    bytes_put(file + 124, file_crc32(crc, file + metadata, bytes), 4);
    run(file, count);
    return 0;
}
