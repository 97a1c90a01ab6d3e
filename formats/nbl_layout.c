/* Header and records of .nbl, to bytes and back. */
#include "formats/nbl_layout.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/measure.h"

/* The first byte is no text in any encoding and shows a transfer that cleared the high bits; CR LF and the
 * last LF show one that converted line ends; 1A ends the output of a careless `type`. The idea is PNG's. */
static const uint8_t magic[8] = {0x89, 'N', 'B', 'L', '\r', '\n', 0x1A, '\n'};
static const uint8_t magic_swapped[8] = {'\n', 0x1A, '\n', '\r', 'L', 'B', 'N', 0x89};

static const uint32_t ORDER_MARK = 0x0A0B0C0D, ORDER_MARK_SWAPPED = 0x0D0C0B0A;

/* The header, 128 bytes:
 *
 *     0  89 4E 42 4C 0D 0A 1A 0A                          magic
 *     8  version u32          12  byte-order mark u32
 *    16  file bytes u64       24  tensor count u64
 *    32  table offset u64     40  table bytes u64
 *    48  data offset u64      56  data bytes u64
 *    64  metadata offset u64  72  metadata bytes u64
 *    80  zeros                                            44 bytes
 *   124  CRC-32 u32 */
enum {
    H_MAGIC = 0,
    H_VERSION = 8,
    H_ORDER = 12,
    H_FILE_BYTES = 16,
    H_TENSOR_COUNT = 24,
    H_TABLE_OFFSET = 32,
    H_TABLE_BYTES = 40,
    H_DATA_OFFSET = 48,
    H_DATA_BYTES = 56,
    H_METADATA_OFFSET = 64,
    H_METADATA_BYTES = 72,
    H_RESERVED = 80
};
_Static_assert(H_RESERVED + 44 == NBL_CRC_OFFSET, "the reserved part reaches to the checksum");
_Static_assert(NBL_CRC_OFFSET + 4 == NBL_HEADER_BYTES, "the checksum ends the header");

/* A record, 128 bytes:
 *
 *     0  name offset u64      8  name bytes u32   12  type u16   14  storage u8   15  rank u8
 *    16  shape 8 x u64
 *    80  bits u8  81  flags u8  82  block u8     83  mask u8     84  group u32
 *    88  offset u64          96  bytes u64       104  CRC-32 u32
 *   108  zeros                                            20 bytes */
enum {
    R_NAME_OFFSET = 0,
    R_NAME_BYTES = 8,
    R_DTYPE = 12,
    R_STORAGE = 14,
    R_RANK = 15,
    R_SHAPE = 16,
    R_BITS = 80,
    R_FLAGS = 81,
    R_BLOCK = 82,
    R_MASK = 83,
    R_GROUP = 84,
    R_OFFSET = 88,
    R_BYTES = 96,
    R_CRC = 104,
    R_RESERVED = 108
};
_Static_assert(R_SHAPE + 8 * TENSOR_RANK_LIMIT == R_BITS, "the shape has room for every dimension");
_Static_assert(R_RESERVED + 20 == NBL_RECORD_BYTES, "the reserved part ends the record");

enum { FLAG_ASYMMETRIC = 1 };

static bool all_zero(const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (bytes[i] != 0) return false;
    }
    return true;
}

/* ---- the header ---- */

void nbl_put_header(uint8_t out[NBL_HEADER_BYTES], const struct nbl_header *header)
{
    memset(out, 0, NBL_HEADER_BYTES);
    memcpy(out + H_MAGIC, magic, sizeof magic);
    bytes_put(out + H_VERSION, NBL_VERSION, 4);
    bytes_put(out + H_ORDER, ORDER_MARK, 4);
    bytes_put(out + H_FILE_BYTES, header->file_bytes, 8);
    bytes_put(out + H_TENSOR_COUNT, header->tensor_count, 8);
    bytes_put(out + H_TABLE_OFFSET, NBL_HEADER_BYTES, 8);
    bytes_put(out + H_TABLE_BYTES, header->table_bytes, 8);
    bytes_put(out + H_DATA_OFFSET, header->data_offset, 8);
    bytes_put(out + H_DATA_BYTES, header->data_bytes, 8);
    bytes_put(out + H_METADATA_OFFSET, header->metadata_offset, 8);
    bytes_put(out + H_METADATA_BYTES, header->metadata_bytes, 8);
    bytes_put(out + NBL_CRC_OFFSET, header->crc, 4);
}

/* Is it a .nbl file that this version reads? */
static enum status check_identity(const uint8_t *in, struct error *err)
{
    uint32_t order = bytes_get_u32(in + H_ORDER), version = bytes_get_u32(in + H_VERSION);

    if (memcmp(in + H_MAGIC, magic_swapped, sizeof magic) == 0 ||
        (memcmp(in + H_MAGIC, magic, sizeof magic) == 0 && order == ORDER_MARK_SWAPPED))
        return fail(err, ERR_UNSUPPORTED, "written big-endian; only little-endian .nbl files are read");
    if (memcmp(in + H_MAGIC, magic, sizeof magic) != 0)
        return fail(err, ERR_FORMAT, "the signature at byte 0 is damaged, as by a transfer in text mode");
    if (order != ORDER_MARK)
        return fail(err, ERR_FORMAT, "byte-order mark 0x%08" PRIx32 " at byte %d", order, H_ORDER);
    if (version != NBL_VERSION)
        return fail(err, ERR_UNSUPPORTED, ".nbl version %" PRIu32 "; this program reads version %d", version,
            NBL_VERSION);
    return OK;
}

/* The sections follow one another and end with the file. */
static enum status check_sections(
    const struct nbl_header *header, uint64_t table_offset, uint64_t file_bytes, struct error *err)
{
    uint64_t table_end, data_offset, data_end, end;

    if (header->file_bytes != file_bytes)
        return fail(err, ERR_FORMAT, "the header says %" PRIu64 " bytes, the file has %" PRIu64,
            header->file_bytes, file_bytes);
    if (table_offset != NBL_HEADER_BYTES)
        return fail(err, ERR_FORMAT, "table offset %" PRIu64 ", must be %d", table_offset, NBL_HEADER_BYTES);
    if (checked_add(&table_end, NBL_HEADER_BYTES, header->table_bytes) ||
        checked_align(&data_offset, table_end, NBL_DATA_ALIGNMENT) || header->data_offset != data_offset)
        return fail(err, ERR_FORMAT, "data offset %" PRIu64 " does not follow a table of %" PRIu64 " bytes",
            header->data_offset, header->table_bytes);
    if (checked_add(&data_end, data_offset, header->data_bytes) || header->metadata_offset != data_end)
        return fail(err, ERR_FORMAT, "metadata offset %" PRIu64 " does not follow data of %" PRIu64 " bytes",
            header->metadata_offset, header->data_bytes);
    if (checked_add(&end, data_end, header->metadata_bytes) || end != file_bytes)
        return fail(err, ERR_FORMAT,
            "metadata of %" PRIu64 " bytes at byte %" PRIu64 " does not end with the file",
            header->metadata_bytes, header->metadata_offset);
    return OK;
}

/* What is read into memory at once has limits (N7, N10). */
static enum status check_limits(const struct nbl_header *header, struct error *err)
{
    uint64_t names_bytes;

    if (header->tensor_count > header->table_bytes / NBL_RECORD_BYTES)
        return fail(err, ERR_FORMAT, "%" PRIu64 " tensors do not fit in a table of %" PRIu64 " bytes",
            header->tensor_count, header->table_bytes);
    if (header->tensor_count > CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_FORMAT, "%" PRIu64 " tensors, the limit is %d", header->tensor_count,
            CONTAINER_TENSOR_LIMIT);
    names_bytes = header->table_bytes - header->tensor_count * NBL_RECORD_BYTES;
    if (names_bytes > header->tensor_count * CONTAINER_NAME_LIMIT)
        return fail(err, ERR_FORMAT, "%" PRIu64 " bytes of names for %" PRIu64 " tensors", names_bytes,
            header->tensor_count);
    if (header->metadata_bytes > NBL_METADATA_LIMIT)
        return fail(err, ERR_FORMAT, "metadata of %" PRIu64 " bytes, the limit is %d", header->metadata_bytes,
            NBL_METADATA_LIMIT);
    return OK;
}

enum status nbl_get_header(
    struct nbl_header *out, const uint8_t in[NBL_HEADER_BYTES], uint64_t file_bytes, struct error *err)
{
    enum status status = check_identity(in, err);

    if (status) return status;
    out->file_bytes = bytes_get_u64(in + H_FILE_BYTES);
    out->tensor_count = bytes_get_u64(in + H_TENSOR_COUNT);
    out->table_bytes = bytes_get_u64(in + H_TABLE_BYTES);
    out->data_offset = bytes_get_u64(in + H_DATA_OFFSET);
    out->data_bytes = bytes_get_u64(in + H_DATA_BYTES);
    out->metadata_offset = bytes_get_u64(in + H_METADATA_OFFSET);
    out->metadata_bytes = bytes_get_u64(in + H_METADATA_BYTES);
    out->crc = bytes_get_u32(in + NBL_CRC_OFFSET);
    status = check_sections(out, bytes_get_u64(in + H_TABLE_OFFSET), file_bytes, err);
    if (!status) status = check_limits(out, err);
    if (status) return status;
    if (!all_zero(in + H_RESERVED, NBL_CRC_OFFSET - H_RESERVED))
        return fail(err, ERR_FORMAT, "reserved bytes at byte %d are not zero", H_RESERVED);
    return OK;
}

/* ---- records ---- */

void nbl_put_record(uint8_t out[NBL_RECORD_BYTES], const struct nbl_record *record)
{
    const struct tensor *tensor = &record->tensor;

    memset(out, 0, NBL_RECORD_BYTES);
    bytes_put(out + R_NAME_OFFSET, record->name_offset, 8);
    bytes_put(out + R_NAME_BYTES, record->name_bytes, 4);
    bytes_put(out + R_DTYPE, tensor->dtype, 2);
    bytes_put(out + R_STORAGE, tensor->storage, 1);
    bytes_put(out + R_RANK, tensor->rank, 1);
    for (uint32_t i = 0; i < tensor->rank; i++)
        bytes_put(out + R_SHAPE + 8 * i, tensor->shape[i], 8);
    bytes_put(out + R_BITS, tensor->scheme.bits, 1);
    bytes_put(out + R_FLAGS, tensor->scheme.asymmetric ? FLAG_ASYMMETRIC : 0, 1);
    if (tensor->storage == STORAGE_BLOCKS) out[R_BLOCK] = (uint8_t)block_info(tensor->block)->id;
    bytes_put(out + R_MASK, tensor->mask, 1);
    bytes_put(out + R_GROUP, tensor->scheme.group, 4);
    bytes_put(out + R_OFFSET, record->offset, 8);
    bytes_put(out + R_BYTES, tensor->bytes, 8);
    bytes_put(out + R_CRC, record->crc, 4);
}

/* Type, storage, rank, flags and reserved bytes: everything that is not arithmetic. */
static enum status check_codes(const uint8_t *in, struct error *err)
{
    unsigned dtype = bytes_get_u16(in + R_DTYPE), rank = in[R_RANK];

    if (dtype >= DTYPE_COUNT) return fail(err, ERR_FORMAT, "type %u is unknown", dtype);
    if (in[R_STORAGE] > STORAGE_SPARSE) return fail(err, ERR_FORMAT, "storage %u is unknown", in[R_STORAGE]);
    if (rank > TENSOR_RANK_LIMIT)
        return fail(err, ERR_FORMAT, "rank %u is above %d", rank, TENSOR_RANK_LIMIT);
    if (!all_zero(in + R_SHAPE + 8 * rank, 8 * (TENSOR_RANK_LIMIT - rank)))
        return fail(err, ERR_FORMAT, "dimensions beyond rank %u are not zero", rank);
    if (in[R_FLAGS] > FLAG_ASYMMETRIC) return fail(err, ERR_FORMAT, "flags 0x%02x are unknown", in[R_FLAGS]);
    if (!all_zero(in + R_RESERVED, NBL_RECORD_BYTES - R_RESERVED))
        return fail(err, ERR_FORMAT, "reserved bytes of the record are not zero");
    if (in[R_STORAGE] != STORAGE_SPARSE && in[R_MASK] != MASK_NONE)
        return fail(err, ERR_FORMAT, "mask kind %u without sparse storage", in[R_MASK]);
    if (in[R_STORAGE] != STORAGE_BLOCKS && in[R_BLOCK] != 0)
        return fail(err, ERR_FORMAT, "block type %u without block storage", in[R_BLOCK]);
    if (in[R_STORAGE] == STORAGE_BLOCKS && !block_of_id(in[R_BLOCK]))
        return fail(err, ERR_FORMAT, "block type %u is unknown", in[R_BLOCK]);
    return OK;
}

enum status nbl_get_record(struct nbl_record *out, const uint8_t in[NBL_RECORD_BYTES], struct error *err)
{
    struct tensor *tensor = &out->tensor;
    enum status status = check_codes(in, err);

    if (status) return status;
    memset(out, 0, sizeof *out);
    out->name_offset = bytes_get_u64(in + R_NAME_OFFSET);
    out->name_bytes = bytes_get_u32(in + R_NAME_BYTES);
    out->offset = bytes_get_u64(in + R_OFFSET);
    out->crc = bytes_get_u32(in + R_CRC);
    tensor->dtype = (enum dtype)bytes_get_u16(in + R_DTYPE);
    tensor->storage = (enum storage)in[R_STORAGE];
    if (tensor->storage == STORAGE_BLOCKS) tensor->block = block_of_id(in[R_BLOCK]);
    tensor->mask = (enum mask)in[R_MASK];
    tensor->scheme.bits = in[R_BITS];
    tensor->scheme.group = bytes_get_u32(in + R_GROUP);
    tensor->scheme.asymmetric = in[R_FLAGS] == FLAG_ASYMMETRIC;
    tensor->rank = in[R_RANK];
    for (uint32_t i = 0; i < tensor->rank; i++)
        tensor->shape[i] = bytes_get_u64(in + R_SHAPE + 8 * i);
    tensor->bytes = bytes_get_u64(in + R_BYTES);
    status = measure_tensor(tensor, err);
    if (status) return status;
    if (bytes_get_u64(in + R_BYTES) != tensor->bytes)
        return fail(err, ERR_FORMAT, "%" PRIu64 " bytes in the table, its shape and type make %" PRIu64,
            bytes_get_u64(in + R_BYTES), tensor->bytes);
    return OK;
}
