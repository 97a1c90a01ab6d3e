/* Where the numbers of a shard's header and sequences lie. Included by shard_write.c, shard_read.c and tests only.
 *
 *   header    0 magic | 8 version u32 | 12 CRC of the header u32 | 16 stamp CRC u32 | 20 number u32 | 24 record bytes u32
 *             | 28 chunk u32 | 32 sequences u64 | 40 records u64 | 48 next source u64 | 56 bytes of the file u64
 *             | 64 CRC of sequences and padding u32 | 68 CRC of all that follows u32 | 72 counters u64[5] | 112 clear
 *   sequence  0 first u64 | 8 source u64 | 16 length u32 | 20 prompt u32 | 24 flags u32 | 28 nll f32 */
#ifndef NIBBLE_DISTILL_SHARD_LAYOUT_H
#define NIBBLE_DISTILL_SHARD_LAYOUT_H

#define SHARD_MAGIC "NIBBLEDS"

enum {
    AT_VERSION = 8,
    AT_HEADER_CRC = 12,
    AT_STAMP = 16,
    AT_NUMBER = 20,
    AT_RECORD_BYTES = 24,
    AT_CHUNK = 28,
    AT_SEQUENCES = 32,
    AT_RECORDS = 40,
    AT_NEXT_SOURCE = 48,
    AT_BYTES = 56,
    AT_TABLE_CRC = 64,
    AT_DATA_CRC = 68,
    AT_COUNTERS = 72,
    AT_CLEAR = 112
};

#endif
