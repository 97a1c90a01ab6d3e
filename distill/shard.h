/* One shard of a dataset: a file of whole sequences, each a run of token records. docs/dataset-format.md has the layout.
 *
 *   header      SHARD_HEADER_BYTES
 *   sequences   SHARD_SEQUENCE_BYTES each
 *   clear bytes up to a multiple of SHARD_ALIGNMENT
 *   records     one after the other; or, packed, a table of offsets and zlib streams of `chunk` records each
 *
 * A shard is untrusted when it is read. */
#ifndef NIBBLE_DISTILL_SHARD_H
#define NIBBLE_DISTILL_SHARD_H

#include "base/error.h"
#include "distill/token_record.h"

enum {
    SHARD_VERSION = 1,
    SHARD_HEADER_BYTES = 128,
    SHARD_SEQUENCE_BYTES = 32,
    SHARD_ALIGNMENT = 64,
    SHARD_COUNTERS = 5,
    SHARD_LIMIT = 100000 /* numbers in names have five digits */
};

enum { SHARD_ENDED = 1 }; /* flag of a sequence: its last token ends it (end of sequence) */

/* One sequence: its tokens are those of records first .. first + length - 1 of the shard. */
struct shard_sequence {
    uint64_t first;  /* record */
    uint64_t source; /* number of the window, the document, or the try */
    uint32_t length; /* tokens, at least 1 */
    uint32_t prompt; /* of which so many at the front were given, not sampled; from text: all */
    uint32_t flags;
    float nll; /* mean of -ln p of tokens 1 .. length - 1 under the teacher; 0 for a single token */
};

/* What a shard says of itself. */
struct shard_info {
    uint32_t number, stamp_crc; /* which of the dataset, and of which (model/stamp.h) */
    uint64_t sequences, records;
    uint64_t next_source; /* the first source number that no sequence up to here comes from */
    uint64_t counters
        [SHARD_COUNTERS]; /* sources that each filter took away, from the first shard on (filters.h) */
    uint32_t chunk;       /* records of a packed chunk; 0: not packed */
    uint64_t bytes;       /* of the file */
    uint32_t crc;         /* of the file */
};

/* "shard-00042.nbd"; out has at least 24 bytes. */
char *shard_name(char *out, uint32_t number);

/* ---- writing ---- */

/* A shard that grows in memory. Zero-initialise; release with shard_draft_free. */
struct shard_draft {
    struct shard_sequence *sequences; /* [count] */
    uint8_t *records;                 /* [record_count][record_bytes] */
    uint64_t count, capacity, record_count, byte_capacity;
};

/* Append a sequence, its `first` set here, with its records [length][record_bytes]. */
enum status shard_draft_add(struct shard_draft *draft, struct shard_sequence sequence, const uint8_t *records,
    uint64_t record_bytes, struct error *err);
/* Forget the contents, keep the memory. */
void shard_draft_clear(struct shard_draft *draft);
void shard_draft_free(struct shard_draft *draft);

/* Write it as folder/shard-<info->number>.nbd (base/file: complete or not at all). sequences, records, bytes and crc of *info are set
 * here, the rest is the caller's. */
enum status shard_write(struct shard_info *info, const char *folder, const struct shard_draft *draft,
    uint64_t record_bytes, struct error *err);

/* ---- reading ---- */

struct shard;

/* Open, map and check the whole file: every byte against its checksums, sequences against records, chunks against the file.
 * ERR_FORMAT names what is damaged and where; ERR_UNSUPPORTED: a later version.
 *   layout     what the dataset's records look like; must outlive the shard
 *   number, stamp_crc  what the shard must say of itself */
enum status shard_open(struct shard **out, const char *path, const struct token_record_layout *layout,
    uint32_t number, uint32_t stamp_crc, struct error *err);
void shard_close(struct shard *shard); /* NULL is allowed */
const struct shard_info *shard_info(const struct shard *shard);
/* index below info->sequences. */
struct shard_sequence shard_sequence(const struct shard *shard, uint64_t index);
/* Record number `index`, below info->records: *out [record_bytes] is valid until the next call for this shard. ERR_FORMAT: its chunk
 * does not unpack. The record itself is not checked (token_record_get). One thread at a time. */
enum status shard_record(struct shard *shard, const uint8_t **out, uint64_t index, struct error *err);

#endif
