/* The sequences that a dataset is made of, by number, before the teacher has seen them: pieces of a text, which are given, or prompts,
 * which the teacher continues. */
#ifndef NIBBLE_DISTILL_TOKEN_SOURCE_H
#define NIBBLE_DISTILL_TOKEN_SOURCE_H

#include "base/report.h"
#include "distill/distill_settings.h"
#include "model/prompts.h"

struct token_source {
    bool sampled;          /* pieces are prompts */
    uint64_t count;        /* source numbers below it exist; UINT64_MAX: no end */
    uint32_t crc;          /* CRC-32 of all tokens */
    struct prompts pieces; /* source number s is piece s % pieces.count */
};

/* Read and tokenize what the settings name. ERR_USAGE: no piece at all; a prompt that leaves no room within the length, by its line; no
 * BOS for --bos. Else errors of reading (model/calibration.h). Release with token_source_free, also after an error. */
enum status token_source_load(struct token_source *out, const struct distill_settings *settings,
    const struct model *teacher, const struct report *report, struct error *err);
void token_source_free(struct token_source *source);

/* The tokens of a source number below count; *count of them. */
const uint32_t *token_source_piece(const struct token_source *source, uint64_t number, uint64_t *count);

#endif
