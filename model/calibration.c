/* See calibration.h. Documents are tokenized one after the other into one growing list; only then is cut and picked. */
#include "model/calibration.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "model/calibration_line.h"

static const uint64_t TEXT_LIMIT = UINT64_C(2) << 30; /* what tokenizer_encode takes */

/* One load on its way. */
struct loading {
    const struct calibration_options *options;
    const struct tokenizer *tokenizer;
    struct calibration *out;
    uint32_t *tokens; /* of all documents */
    uint64_t count, capacity;
    uint64_t *ends; /* unpacked: where in tokens each document ends */
    uint64_t end_count, end_capacity;
};

/* ---- documents ---- */

/* How many samples the documents read so far can give. */
static uint64_t available(const struct loading *loading)
{
    return loading->options->unpacked ? loading->end_count : loading->count / loading->options->length;
}

/* The rest of the text changes nothing. */
static bool is_enough(const struct loading *loading)
{
    return loading->options->pick == CALIBRATION_FIRST && available(loading) >= loading->options->samples;
}

/* Take over the first document's ids, append the others'. */
static enum status append_tokens(struct loading *loading, uint32_t **ids, uint64_t count, struct error *err)
{
    if (!loading->tokens) {
        loading->tokens = *ids;
        loading->count = loading->capacity = count;
        *ids = NULL;
        return OK;
    }
    enum status status =
        memory_grow(&loading->tokens, &loading->capacity, loading->count + count, sizeof **ids, err);
    if (status) return status;
    if (count > 0) memcpy(loading->tokens + loading->count, *ids, count * sizeof **ids);
    loading->count += count;
    return OK;
}

static enum status end_document(struct loading *loading, struct error *err)
{
    enum status status = memory_grow(
        &loading->ends, &loading->end_capacity, loading->end_count + 1, sizeof *loading->ends, err);

    if (!status) loading->ends[loading->end_count++] = loading->count;
    return status;
}

static enum status add_document(struct loading *loading, const char *text, uint64_t bytes, struct error *err)
{
    const struct calibration_options *options = loading->options;
    uint32_t *ids = NULL;
    uint64_t count = 0;
    enum status status;

    if (bytes == 0) return OK; /* nothing to observe but the BOS */
    status = tokenizer_encode(loading->tokenizer, &ids, &count, text, bytes, true, err);
    if (status) return status;
    loading->out->documents++;
    loading->out->text_bytes += bytes;
    if (!options->unpacked) {
        status = append_tokens(loading, &ids, count, err);
    } else if (count >= 2) {
        status = append_tokens(loading, &ids, count < options->length ? count : options->length, err);
        if (!status) status = end_document(loading, err);
    }
    memory_free(ids);
    return status;
}

/* ---- the file ---- */

static bool ends_in(const char *name, size_t bytes, const char *end)
{
    const size_t end_bytes = strlen(end);
    return bytes >= end_bytes && strncasecmp(name + bytes - end_bytes, end, end_bytes) == 0;
}

bool calibration_is_json_lines(const char *path)
{
    size_t bytes = strlen(path);

    if (ends_in(path, bytes, ".gz")) bytes -= 3;
    return ends_in(path, bytes, ".jsonl") || ends_in(path, bytes, ".ndjson");
}

static bool is_blank(const char *line, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    }
    return true;
}

static enum status add_lines(
    struct loading *loading, const char *text, uint64_t bytes, struct progress *progress, struct error *err)
{
    struct calibration_line line = {0};
    const char *at = text, *end = text + bytes, *document;
    uint64_t document_bytes;
    enum status status = OK;

    for (uint64_t number = 1; at < end && !status && !is_enough(loading); number++) {
        const char *newline = memchr(at, '\n', (uint64_t)(end - at));
        const uint64_t count = (uint64_t)((newline ? newline : end) - at);
        if (!is_blank(at, count)) {
            status = calibration_line_read(&line, &document, &document_bytes, number, at, count, err);
            if (!status && (status = add_document(loading, document, document_bytes, err)))
                fail_within(err, status, "line %" PRIu64, number);
        }
        progress_add(progress, count + 1);
        at = newline ? newline + 1 : end;
    }
    calibration_line_free(&line);
    return status;
}

/* A file of another encoding, or no text at all, would be observed as garbage. A character cut off at the very end is let
 * through: that is what the first million bytes of a longer text look like. */
static enum status check_utf8(const char *text, uint64_t bytes, struct error *err)
{
    uint64_t line = 1, at = 0;

    if (json_valid_utf8(text, bytes)) return OK;
    for (unsigned length; at < bytes && (length = utf8_sequence(text + at, bytes - at)) > 0; at += length)
        line += text[at] == '\n';
    if (bytes - at < 4 && (uint8_t)text[at] >= 0xC2 && (uint8_t)text[at] <= 0xF4) return OK;
    return fail(err, ERR_FORMAT, "line %" PRIu64 ": invalid UTF-8 at byte %" PRIu64 " of the text", line, at);
}

static enum status add_file(struct loading *loading, const struct report *report, struct error *err)
{
    const char *path = loading->options->path;
    char *text = NULL;
    uint64_t bytes = 0;
    struct progress *progress;
    enum status status = file_read_text(&text, &bytes, &loading->out->file_crc32, path, TEXT_LIMIT, err);

    if (status) return status;
    progress = progress_start(report, "tokenizing", bytes, PROGRESS_BYTES);
    if (calibration_is_json_lines(path)) {
        status = add_lines(loading, text, bytes, progress, err);
    } else if (!(status = check_utf8(text, bytes, err))) {
        status = add_document(loading, text, bytes, err);
    }
    progress_end(progress);
    memory_free(text);
    return status ? fail_within(err, status, "%s", path) : OK;
}

/* ---- samples ---- */

/* splitmix64, Steele, Lea and Flood 2014: a seed gives the same samples everywhere and for ever. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* A number below `bound`, all equally likely: what lies above the last whole multiple is drawn again. */
static uint64_t draw_below(uint64_t *state, uint64_t bound)
{
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value;

    do
        value = draw(state);
    while (value >= limit);
    return value % bound;
}

/* Distinct, in order, every choice equally likely (Knuth, volume 2, algorithm S): a window is taken with probability
 * wanted / left. */
static void pick_random(uint64_t *picks, uint64_t samples, uint64_t windows, uint64_t seed)
{
    uint64_t picked = 0;

    for (uint64_t i = 0; picked < samples; i++) {
        if (draw_below(&seed, windows - i) < samples - picked) picks[picked++] = i;
    }
}

static void pick_windows(
    uint64_t *picks, uint64_t samples, uint64_t windows, const struct calibration_options *options)
{
    if (options->pick == CALIBRATION_RANDOM) {
        pick_random(picks, samples, windows, options->seed);
        return;
    }
    for (uint64_t i = 0; i < samples; i++)
        picks[i] = options->pick == CALIBRATION_FIRST ? i : i * windows / samples;
}

/* Copy one window into its row. */
static void take_sample(const struct loading *loading, uint64_t row, uint64_t window)
{
    struct calibration *out = loading->out;
    uint64_t begin = window * out->length, count = out->length;

    if (loading->options->unpacked) {
        begin = window > 0 ? loading->ends[window - 1] : 0;
        count = loading->ends[window] - begin;
    }
    memcpy(out->tokens + row * out->length, loading->tokens + begin, count * sizeof *out->tokens);
    out->lengths[row] = (uint32_t)count;
    out->tokens_used += count;
}

static enum status too_few(const struct loading *loading, struct error *err)
{
    const struct calibration_options *options = loading->options;

    if (options->unpacked) {
        return fail(err, ERR_USAGE,
            "%s: gives not one sample; none of its %" PRIu64 " documents has 2 tokens or more", options->path,
            loading->out->documents);
    }
    return fail(err, ERR_USAGE, "%s: gives not one sample; it has %" PRIu64 " tokens, a sample has %" PRIu64,
        options->path, loading->count, options->length);
}

static enum status make_samples(struct loading *loading, const struct report *report, struct error *err)
{
    const struct calibration_options *options = loading->options;
    struct calibration *out = loading->out;
    const uint64_t windows = available(loading);
    uint64_t *picks = NULL;

    if (windows == 0) return too_few(loading, err);
    out->samples = windows < options->samples ? windows : options->samples;
    out->length = options->length;
    out->lengths = memory_new(out->samples, sizeof *out->lengths, err);
    out->tokens = out->lengths ? memory_new(out->samples, out->length * sizeof *out->tokens, err) : NULL;
    picks = out->tokens ? memory_new(out->samples, sizeof *picks, err) : NULL;
    if (!picks) return ERR_MEMORY;
    pick_windows(picks, out->samples, windows, options);
    for (uint64_t i = 0; i < out->samples; i++)
        take_sample(loading, i, picks[i]);
    memory_free(picks);
    out->tokens_crc32 = file_crc32(0, out->lengths, out->samples * sizeof *out->lengths);
    out->tokens_crc32 =
        file_crc32(out->tokens_crc32, out->tokens, out->samples * out->length * sizeof *out->tokens);
    if (out->samples < options->samples && !options->at_most) {
        report_note(report, "note: %s gives only %" PRIu64 " of the %" PRIu64 " samples asked for",
            options->path, out->samples, options->samples);
    }
    return OK;
}

/* ---- the whole ---- */

static enum status check_options(const struct calibration_options *options, struct error *err)
{
    if (options->samples == 0) return fail(err, ERR_USAGE, "calibration: 0 samples teach nothing");
    if (options->length == 0) return fail(err, ERR_USAGE, "calibration: samples of 0 tokens teach nothing");
    if (options->length > UINT32_MAX) {
        return fail(err, ERR_USAGE,
            "calibration: samples of %" PRIu64 " tokens are too long; at most %" PRIu32, options->length,
            UINT32_MAX);
    }
    return OK;
}

enum status calibration_load(struct calibration *out, const struct calibration_options *options,
    const struct tokenizer *tokenizer, const struct report *report, struct error *err)
{
    struct loading loading = {.options = options, .tokenizer = tokenizer, .out = out};
    enum status status;

    *out = (struct calibration){0};
    status = check_options(options, err);
    if (!status) status = add_file(&loading, report, err);
    if (!status) status = make_samples(&loading, report, err);
    memory_free(loading.tokens);
    memory_free(loading.ends);
    if (status) calibration_free(out);
    return status;
}

void calibration_free(struct calibration *calibration)
{
    memory_free(calibration->tokens);
    memory_free(calibration->lengths);
    *calibration = (struct calibration){0};
}
