/* Buffers packed as zlib streams (RFC 1950), for numbers rather than text: what repeats is the frequency of byte values, not
 * runs of bytes, so only Huffman coding is done. It is three times as fast as looking for runs and, on planes of bytes of
 * numbers, packs as well to within a percent. */
#include "base/file.h"

#include <inttypes.h>

#include "base/file_zlib.h"

enum { WINDOW_BITS = 15, MEMORY_LEVEL = 9, LEVEL = 1 };

uint64_t file_pack_bound(uint64_t count)
{
    return count <= FILE_PACK_LIMIT ? (uint64_t)compressBound((uLong)count) : 0;
}

enum status file_pack(void *out, uint64_t capacity, uint64_t *packed_bytes, const void *bytes, uint64_t count,
    struct error *err)
{
    z_stream stream = {.zalloc = file_zlib_new, .zfree = file_zlib_free};
    if (count > FILE_PACK_LIMIT || capacity < file_pack_bound(count))
        return fail(err, ERR_MEMORY, "%" PRIu64 " bytes do not fit into a packed block", count);
    if (deflateInit2(&stream, LEVEL, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL, Z_HUFFMAN_ONLY) != Z_OK)
        return fail(err, ERR_MEMORY, "no memory left to pack %" PRIu64 " bytes", count);
    stream.next_in = (Bytef *)(uintptr_t)bytes; /* zlib only reads it */
    stream.avail_in = (uInt)count;
    stream.next_out = out;
    stream.avail_out = capacity < UINT32_MAX ? (uInt)capacity : UINT32_MAX;
    const int code = deflate(&stream, Z_FINISH);
    *packed_bytes = stream.total_out;
    deflateEnd(&stream);
    return code == Z_STREAM_END ? OK : fail(err, ERR_MEMORY, "%" PRIu64 " bytes cannot be packed", count);
}

enum status file_unpack(
    void *out, uint64_t count, const void *packed, uint64_t packed_bytes, struct error *err)
{
    z_stream stream = {.zalloc = file_zlib_new, .zfree = file_zlib_free};
    if (count > FILE_PACK_LIMIT || packed_bytes > UINT32_MAX)
        return fail(err, ERR_MEMORY, "%" PRIu64 " bytes are too many for a packed block", count);
    stream.next_in = (Bytef *)(uintptr_t)packed;
    stream.avail_in = (uInt)packed_bytes;
    if (inflateInit2(&stream, WINDOW_BITS) != Z_OK)
        return fail(err, ERR_MEMORY, "no memory left to unpack %" PRIu64 " bytes", count);
    stream.next_out = out;
    stream.avail_out = (uInt)count;
    const int code = inflate(&stream, Z_FINISH);
    const uint64_t found = stream.total_out, left = stream.avail_in;
    inflateEnd(&stream);
    if (code == Z_MEM_ERROR)
        return fail(err, ERR_MEMORY, "no memory left to unpack %" PRIu64 " bytes", count);
    if (code == Z_STREAM_END && found == count && left == 0) return OK;
    if (code == Z_STREAM_END)
        return fail(err, ERR_FORMAT,
            "unpacks to %" PRIu64 " bytes with %" PRIu64 " left over, %" PRIu64 " are expected", found, left,
            count);
    return fail(err, ERR_FORMAT,
        "the packed data is damaged or cut short after %" PRIu64 " of %" PRIu64 " bytes", found, count);
}
