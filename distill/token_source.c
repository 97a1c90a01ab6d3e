#include "distill/token_source.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/calibration.h"

enum { WINDOWS_LIMIT = 1 << 30 };

const uint32_t *token_source_piece(const struct token_source *source, uint64_t number, uint64_t *count)
{
    const struct prompts *pieces = &source->pieces;
    const uint64_t piece = number % pieces->count, begin = piece ? pieces->ends[piece - 1] : 0;
    *count = pieces->ends[piece] - begin;
    return pieces->ids + begin;
}

void token_source_free(struct token_source *source)
{
    prompts_free(&source->pieces);
    *source = (struct token_source){0};
}

/* ---- a text ---- */

/* Rows of equal length become pieces end to end, in place. */
static enum status take_windows(
    struct token_source *out, struct calibration *text, uint64_t length, struct error *err)
{
    struct prompts *pieces = &out->pieces;
    uint64_t used = 0;
    pieces->ends = memory_new(text->samples, sizeof *pieces->ends, err);
    if (!pieces->ends) return ERR_MEMORY;
    for (uint64_t i = 0; i < text->samples; i++) {
        memmove(text->tokens + used, text->tokens + i * length, text->lengths[i] * sizeof *text->tokens);
        pieces->ends[i] = used += text->lengths[i];
        if (text->lengths[i] > pieces->longest) pieces->longest = text->lengths[i];
    }
    pieces->ids = text->tokens;
    text->tokens = NULL;
    pieces->count = out->count = text->samples;
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

static enum status load_prompts(
    struct prompts *out, const char *path, const struct model *teacher, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    uint32_t crc;
    enum status status = file_read_text(&text, &bytes, &crc, path, UINT64_C(2) << 30, err);
    if (status) return status;
    status = prompts_lines(out, teacher, text, bytes, calibration_is_json_lines(path), err);
    memory_free(text);
    return status ? fail_within(err, status, "%s", path) : OK;
}

static enum status load_bos(struct prompts *out, const struct model *teacher, struct error *err)
{
    uint32_t bos;
    if (!tokenizer_prefix(teacher->tokenizer, &bos))
        return fail(
            err, ERR_USAGE, "--bos: this tokenizer puts no BOS in front of a text; give --prompts FILE");
    return prompts_append(out, &bos, 1, err);
}

enum status token_source_load(struct token_source *out, const struct distill_settings *settings,
    const struct model *teacher, const struct report *report, struct error *err)
{
    struct prompts *pieces = &out->pieces;
    enum status status;
    *out = (struct token_source){.sampled = !settings->from_text, .pieces = {.limit = settings->length}};
    if (settings->from_text) return load_text(out, settings, teacher, err);
    status = settings->options->prompts ? load_prompts(pieces, settings->options->prompts, teacher, err)
                                        : load_bos(pieces, teacher, err);
    if (status) return status;
    out->count = settings->sequences == UINT64_MAX ? pieces->count : settings->attempts;
    out->crc = file_crc32(0, pieces->ends, pieces->count * sizeof *pieces->ends);
    out->crc = file_crc32(out->crc, pieces->ids, pieces->ends[pieces->count - 1] * sizeof *pieces->ids);
    report_detail(report, "%" PRIu64 " prompt%s", pieces->count, pieces->count == 1 ? "" : "s");
    return OK;
}
