/* What makes a .nbl file of a fuzz target's input, as a forger would: inputs leave out the padding between table and data, so that
 * they stay small, and a checksum that does not fit would end every look at what is behind it. */
#ifndef NIBBLE_TESTS_FUZZ_NBL_FORGE_H
#define NIBBLE_TESTS_FUZZ_NBL_FORGE_H

#include <stdbool.h>
#include <string.h>

#include "base/file.h"
#include "formats/bytes.h"

enum { NBL_FORGE_HEADER = 128, NBL_FORGE_DATA = 65536, NBL_FORGE_ROOM = NBL_FORGE_DATA + (1 << 20) };

/* Put the padding back: the bytes of the file, at `file` (NBL_FORGE_ROOM bytes); 0: the input is too short, or its table does
 * not fit. */
static inline size_t nbl_forge_pad(uint8_t *file, const uint8_t *data, size_t size)
{
    if (size < NBL_FORGE_HEADER || size > NBL_FORGE_ROOM - NBL_FORGE_DATA) return 0;
    const uint64_t table_end = NBL_FORGE_HEADER + bytes_get_u64(data + 40);
    if (table_end < NBL_FORGE_HEADER || table_end > size || table_end > NBL_FORGE_DATA) return 0;
    memcpy(file, data, table_end);
    memset(file + table_end, 0, NBL_FORGE_DATA - table_end);
    memcpy(file + NBL_FORGE_DATA, data + table_end, size - table_end);
    return NBL_FORGE_DATA + size - table_end;
}

/* Make the checksum of header, table and metadata fit, in a file that nbl_forge_pad made. False: the metadata is not in it. */
static inline bool nbl_forge_seal(uint8_t *file, size_t count)
{
    const uint64_t table = bytes_get_u64(file + 40), metadata = bytes_get_u64(file + 64),
                   bytes = bytes_get_u64(file + 72);
    if (metadata > count || bytes > count - metadata) return false;
    const uint32_t crc = file_crc32(file_crc32(0, file, 124), file + NBL_FORGE_HEADER, table);
    bytes_put(file + 124, file_crc32(crc, file + metadata, bytes), 4);
    return true;
}

#endif
