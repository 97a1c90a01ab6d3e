/* The fixed parts of a .nbl file as formats/SPEC.md draws them, shared by reader, writer and verification.
 * Rule numbers (N1 ...) are those of SPEC.md. */
#ifndef NIBBLE_FORMATS_NBL_LAYOUT_H
#define NIBBLE_FORMATS_NBL_LAYOUT_H

#include "base/error.h"
#include "tensor/tensor.h"

enum {
    NBL_VERSION = 1,
    NBL_HEADER_BYTES = 128,
    NBL_RECORD_BYTES = 128,
    NBL_CRC_OFFSET = 124, /* of the checksum in the header */
    NBL_DATA_ALIGNMENT = 65536,
    NBL_TENSOR_ALIGNMENT = 64,
    NBL_COUNTS_BYTES = 8, /* how the metadata begins */
    NBL_ITEM_BYTES = 12,  /* before each name in the metadata */
    NBL_DOCUMENT_COUNT_LIMIT = 1024,
    NBL_ALIAS_COUNT_LIMIT = 65536,
    NBL_METADATA_LIMIT = 256 << 20
};

/* The header without its constants. */
struct nbl_header {
    uint64_t file_bytes, tensor_count, table_bytes, data_offset, data_bytes, metadata_offset, metadata_bytes;
    uint32_t crc;
};

/* One row of the table. tensor.name is not set. */
struct nbl_record {
    struct tensor tensor;
    uint64_t name_offset, offset;
    uint32_t name_bytes, crc;
};

void nbl_put_header(uint8_t out[NBL_HEADER_BYTES], const struct nbl_header *header);

/* Decode and check a header (N2 to N11) for a file of file_bytes bytes. ERR_UNSUPPORTED: written big-endian,
 * or another version; else ERR_FORMAT. Texts do not name the file. */
enum status nbl_get_header(
    struct nbl_header *out, const uint8_t in[NBL_HEADER_BYTES], uint64_t file_bytes, struct error *err);

void nbl_put_record(uint8_t out[NBL_RECORD_BYTES], const struct nbl_record *record);

/* Decode and check one record by itself (N17 to N23), and measure its tensor. The text does not name it. */
enum status nbl_get_record(struct nbl_record *out, const uint8_t in[NBL_RECORD_BYTES], struct error *err);

#endif
