/* What writing and reading a file of base logits share: the layout (docs/base-logits.md). Included by base_logits*.c only. */
#ifndef NIBBLE_RUNTIME_CHECK_BASE_LOGITS_PARTS_H
#define NIBBLE_RUNTIME_CHECK_BASE_LOGITS_PARTS_H

#include "runtime-check/judge/base_logits.h"

enum {
    BASE_LOGITS_VERSION = 1,
    BASE_LOGITS_HEADER_BYTES = 336,
    BASE_LOGITS_BLOCK_HEADER_BYTES = 8,
    BASE_LOGITS_CRC_BYTES = 4,
    BASE_LOGITS_BLOCK_BYTES = 512 * 1024, /* rows are packed by so many bytes, or one by one if larger */
    BASE_LOGITS_LEVELS = 65535,
    BASE_LOGITS_VOCABULARY_LIMIT = 1 << 24,
    BASE_LOGITS_CONTEXT_LIMIT = 1 << 20
};

extern const uint8_t base_logits_magic[8];

/* How rows lie in the blocks. All scored rows of the file are one sequence, cut into blocks of block_rows; the last may have
 * fewer. In a block of n rows stand first `words` columns [n] of 32-bit numbers, then `planes` planes [n][elements] of
 * bytes: byte 0 of every element, then byte 1, and so on.
 *   whole   words: highest log-probability, step, log-probability of the target, first likeliest token;
 *           elements: one 16-bit code per token, steps below the highest
 *   top-k   words: log of the rest's probability, log-probability of the target;
 *           elements: id (2 or 4 bytes) and log-probability (4 bytes) of one token */
struct base_logits_layout {
    uint32_t vocabulary;
    uint64_t top_k;
    unsigned words, planes, id_bytes;
    uint64_t elements, row_bytes;
    uint64_t rows, block_rows, blocks;
};

/* info: already checked, so that nothing here overflows. */
void base_logits_layout(struct base_logits_layout *out, const struct base_logits_info *info);
/* How many rows a block has, and the bytes of its first `rows` rows. */
uint64_t base_logits_block_rows(const struct base_logits_layout *layout, uint64_t block);

/* Check what is said of a file; `windows` is bounded by the caller. ERR_FORMAT with the field's name. */
enum status base_logits_check_info(const struct base_logits_info *info, struct error *err);

/* ---- one row of a block ---- */

/* A token on its way into the k likeliest. */
struct base_logits_candidate {
    float logit;
    uint32_t id;
};

/* Write row `row` of a block of `rows` rows.
 *   scratch  [top_k], of this worker; unused for whole rows
 * false: a logit is not finite. */
bool base_logits_encode(const struct base_logits_layout *layout, uint8_t *block, uint64_t rows, uint64_t row,
    const float *logits, uint32_t target, struct base_logits_candidate *scratch);

/* Check row `row` of a block as it came from a file, and take it apart.
 *   ids, log_probs  [top_k] out; unused for whole rows
 * ERR_FORMAT: a number that no writer writes. */
enum status base_logits_check_row(const struct base_logits_layout *layout, const uint8_t *block,
    uint64_t rows, uint64_t row, uint32_t *ids, float *log_probs, struct error *err);

/* A 32-bit column of a row, as it stands or as a float. */
uint32_t base_logits_word(const uint8_t *block, uint64_t rows, uint64_t row, unsigned column);
float base_logits_number(const uint8_t *block, uint64_t rows, uint64_t row, unsigned column);

/* Columns. */
enum { WHOLE_HIGHEST, WHOLE_STEP, WHOLE_TARGET, WHOLE_FIRST, TOP_REST = 0, TOP_TARGET = 1 };

/* All log-probabilities of a whole row: out [vocabulary]. */
void base_logits_decode(
    const struct base_logits_layout *layout, const uint8_t *block, uint64_t rows, uint64_t row, float *out);

#endif
