/* Calibration text: the samples of tokens on which a model's activations are observed. */
#ifndef NIBBLE_MODEL_CALIBRATION_H
#define NIBBLE_MODEL_CALIBRATION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/report.h"
#include "model/tokenizer/tokenizer.h"

/* Which windows of the text become samples, if there are more than asked for. */
enum calibration_pick {
    CALIBRATION_SPREAD, /* evenly over the whole text: window i * available / samples */
    CALIBRATION_FIRST,  /* the first ones */
    CALIBRATION_RANDOM /* distinct ones drawn by `seed` (the same ones everywhere), in the order of the text */
};

struct calibration_options {
    /* UTF-8 text; JSON lines if it is named .jsonl or .ndjson; gzip of either (known by its first bytes; a further .gz in
     * the name is looked past). */
    const char *path;
    uint64_t samples, length; /* wanted: number of samples, tokens per sample */
    bool at_most;             /* fewer samples than that are as good */
    enum calibration_pick pick;
    uint64_t seed;
    /* Every document is a sample of its own, cut at `length`, instead of all joined and cut in windows. */
    bool unpacked;
};

struct calibration {
    uint32_t *tokens;  /* [samples][length]; beyond a sample's own length: zeros */
    uint32_t *lengths; /* [samples], 1 .. length; all `length` when packed */
    uint64_t samples, length;
    uint64_t tokens_used;           /* sum of lengths */
    uint64_t documents, text_bytes; /* that were tokenized: without empty ones, and those not needed */
    uint32_t file_crc32;            /* of the file's bytes as they lie on disk */
    uint32_t tokens_crc32;          /* of lengths and tokens: what decides the result */
};

/* Read and tokenize. A plain text is one document. JSON lines: one object a line, its `text` (a string), or without one its
 * `messages`, a list of {"role", "content"} whose contents (a string, or a list of {"type": "text", "text"}) are joined by
 * newlines; null counts as absent; empty lines and empty documents are skipped. Every document is encoded with what the
 * tokenizer puts in front (BOS). Packed: documents are joined and cut into windows of `length`, the tail is dropped.
 * Unpacked: documents of fewer than 2 tokens are left out. With CALIBRATION_FIRST reading ends where there are enough
 * samples; lines after that are not looked at.
 * Fewer samples than asked for are told to report (note), with their number; a text that gives none is an error.
 * ERR_USAGE: not one sample, samples or length 0; ERR_FORMAT names line and field, or the line of invalid UTF-8 (a plain
 * text may end inside a character, as the first part of a longer one does); ERR_MEMORY: more than 2 GiB of text (also once
 * unpacked). Release with calibration_free, also after an error. */
enum status calibration_load(struct calibration *out, const struct calibration_options *options,
    const struct tokenizer *tokenizer, const struct report *report, struct error *err);
void calibration_free(struct calibration *calibration);

/* Whether a file of this name is read as JSON lines. */
bool calibration_is_json_lines(const char *path);

#endif
