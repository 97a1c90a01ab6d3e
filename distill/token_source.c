#include "distill/token_source.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/calibration.h"
#include "model/calibration_line.h"

enum { WINDOWS_LIMIT = 1 << 30 };

const uint32_t *token_source_piece(const struct token_source *source, uint64_t number, uint64_t *count)
{
    const uint64_t piece = number % source->pieces, begin = piece ? source->ends[piece - 1] : 0;
    *count = source->ends[piece] - begin;
    return source->ids + begin;
}

void token_source_free(struct token_source *source)
{
    memory_free(source->ids);
    memory_free(source->ends);
    *source = (struct token_source){0};
}

/* ---- a text ---- */

/* Rows of equal length become pieces end to end, in place. */
static enum status take_windows(
    struct token_source *out, struct calibration *text, uint64_t length, struct error *err)
{
    uint64_t used = 0;
    out->ends = memory_new(text->samples, sizeof *out->ends, err);
    if (!out->ends) return ERR_MEMORY;
    for (uint64_t i = 0; i < text->samples; i++) {
        memmove(text->tokens + used, text->tokens + i * length, text->lengths[i] * sizeof *text->tokens);
        out->ends[i] = used += text->lengths[i];
    }
    out->ids = text->tokens;
    text->tokens = NULL;
    out->pieces = out->count = text->samples;
    out->crc = text->tokens_crc32;
    return OK;
}

static enum status load_text(struct token_source *out, const struct distill_settings *settings,
    const struct model *teacher, struct error *err)
{
    const struct report quiet = {.quiet = true}; /* that there are fewer than the limit is no news */
    const struct calibration_options wanted = {.path = settings->options->text,
        .samples = WINDOWS_LIMIT,
        .length = settings->length,
        .pick = CALIBRATION_FIRST,
        .unpacked = settings->options->unpacked};
    struct calibration text = {0};
    enum status status = calibration_load(&text, &wanted, teacher->tokenizer, &quiet, err);
    if (!status) status = take_windows(out, &text, settings->length, err);
    calibration_free(&text);
    return status;
}

/* ---- prompts ---- */

struct prompts {
    struct token_source *out;
    const struct distill_settings *settings;
    const struct model *teacher;
    uint64_t id_capacity, end_capacity;
};

static enum status add_prompt(struct prompts *prompts, const char *text, uint64_t bytes, struct error *err)
{
    struct token_source *out = prompts->out;
    uint32_t *ids = NULL;
    uint64_t count = 0, before = out->pieces ? out->ends[out->pieces - 1] : 0;
    enum status status = tokenizer_encode(prompts->teacher->tokenizer, &ids, &count, text, bytes, true, err);
    if (!status && count == 0) status = fail(err, ERR_USAGE, "this tokenizer makes no token of it");
    if (!status && count >= prompts->settings->length)
        status = fail(err, ERR_USAGE, "has %" PRIu64 " tokens, which leaves no room within --length %" PRIu64,
            count, prompts->settings->length);
    if (!status) status = memory_grow(&out->ids, &prompts->id_capacity, before + count, sizeof *ids, err);
    if (!status)
        status = memory_grow(&out->ends, &prompts->end_capacity, out->pieces + 1, sizeof *out->ends, err);
    if (!status) {
        memcpy(out->ids + before, ids, count * sizeof *ids);
        out->ends[out->pieces++] = before + count;
    }
    memory_free(ids);
    return status;
}

static bool is_blank(const char *line, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    }
    return true;
}

static enum status add_line(struct prompts *prompts, struct calibration_line *json, const char *line,
    uint64_t bytes, uint64_t number, struct error *err)
{
    enum status status = OK;
    if (is_blank(line, bytes)) return OK;
    if (json) {
        status = calibration_line_read(json, &line, &bytes, number, line, bytes, err);
        if (status) return status;
    } else if (line[bytes - 1] == '\r') {
        bytes--;
    }
    if (!json_valid_utf8(line, bytes))
        status = fail(err, ERR_FORMAT, "is no UTF-8");
    else
        status = add_prompt(prompts, line, bytes, err);
    return status ? fail_within(err, status, "line %" PRIu64, number) : OK;
}

static enum status load_prompts(struct prompts *prompts, const char *path, struct error *err)
{
    struct calibration_line line = {0};
    char *text = NULL;
    uint64_t bytes = 0, number = 1;
    uint32_t crc;
    enum status status = file_read_text(&text, &bytes, &crc, path, UINT64_C(2) << 30, err);
    const char *at = text, *end = text + (status ? 0 : bytes);
    for (; !status && at < end; number++) {
        const char *newline = memchr(at, '\n', (uint64_t)(end - at));
        const uint64_t count = (uint64_t)((newline ? newline : end) - at);
        status = add_line(prompts, calibration_is_json_lines(path) ? &line : NULL, at, count, number, err);
        at = newline ? newline + 1 : end;
    }
    if (status && text) fail_within(err, status, "%s", path);
    if (!status && prompts->out->pieces == 0) status = fail(err, ERR_USAGE, "%s: holds no prompt", path);
    calibration_line_free(&line);
    memory_free(text);
    return status;
}

static enum status load_bos(struct prompts *prompts, struct error *err)
{
    struct token_source *out = prompts->out;
    uint32_t bos;
    if (!tokenizer_prefix(prompts->teacher->tokenizer, &bos))
        return fail(
            err, ERR_USAGE, "--bos: this tokenizer puts no BOS in front of a text; give --prompts FILE");
    out->ids = memory_new(1, sizeof *out->ids, err);
    out->ends = out->ids ? memory_new(1, sizeof *out->ends, err) : NULL;
    if (!out->ends) return ERR_MEMORY;
    out->ids[0] = bos;
    out->ends[0] = out->pieces = 1;
    return OK;
}

enum status token_source_load(struct token_source *out, const struct distill_settings *settings,
    const struct model *teacher, const struct report *report, struct error *err)
{
    struct prompts prompts = {.out = out, .settings = settings, .teacher = teacher};
    enum status status;
    *out = (struct token_source){.sampled = !settings->from_text};
    if (settings->from_text) return load_text(out, settings, teacher, err);
    status = settings->options->prompts ? load_prompts(&prompts, settings->options->prompts, err)
                                        : load_bos(&prompts, err);
    if (status) return status;
    out->count = settings->sequences == UINT64_MAX ? out->pieces : settings->attempts;
    out->crc = file_crc32(0, out->ends, out->pieces * sizeof *out->ends);
    out->crc = file_crc32(out->crc, out->ids, out->ends[out->pieces - 1] * sizeof *out->ids);
    report_detail(report, "%" PRIu64 " prompt%s", out->pieces, out->pieces == 1 ? "" : "s");
    return OK;
}
