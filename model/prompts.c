/* See prompts.h. */
#include "model/prompts.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/calibration_line.h"

enum status prompts_append(struct prompts *prompts, const uint32_t *ids, uint64_t count, struct error *err)
{
    const uint64_t begin = prompts->count ? prompts->ends[prompts->count - 1] : 0;
    enum status status =
        memory_grow(&prompts->ids, &prompts->id_capacity, begin + count, sizeof *prompts->ids, err);
    if (!status)
        status = memory_grow(
            &prompts->ends, &prompts->end_capacity, prompts->count + 1, sizeof *prompts->ends, err);
    if (status) return status;
    memcpy(prompts->ids + begin, ids, count * sizeof *ids);
    prompts->ends[prompts->count++] = begin + count;
    if (count > prompts->longest) prompts->longest = count;
    return OK;
}

enum status prompts_need_tokenizer(const struct model *model, struct error *err)
{
    if (model->tokenizer) return OK;
    return fail(err, ERR_UNSUPPORTED, "%s carries no tokenizer.json, so it cannot continue a text",
        container_path(model->container));
}

enum status prompts_add(
    struct prompts *prompts, const struct model *model, const char *text, uint64_t bytes, struct error *err)
{
    uint32_t *ids = NULL;
    uint64_t count = 0;
    enum status status = prompts_need_tokenizer(model, err);
    if (!status) status = tokenizer_encode(model->tokenizer, &ids, &count, text, bytes, true, err);
    if (!status && !count)
        status = fail(err, ERR_USAGE, "the prompt is empty and this tokenizer adds no BOS");
    if (!status && prompts->limit && count >= prompts->limit)
        status = fail(err, ERR_USAGE, "has %" PRIu64 " tokens, which leaves no room within --length %" PRIu64,
            count, prompts->limit);
    if (!status) status = prompts_append(prompts, ids, count, err);
    memory_free(ids);
    return status;
}

/* ---- lines ---- */

static bool is_blank(const char *line, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    }
    return true;
}

/* json NULL: the line is the prompt. */
static enum status add_line(struct prompts *prompts, const struct model *model, struct calibration_line *json,
    const char *line, uint64_t bytes, uint64_t number, struct error *err)
{
    enum status status = OK;
    if (is_blank(line, bytes)) return OK;
    if (json) {
        status = calibration_line_read(json, &line, &bytes, number, line, bytes, err);
        if (status) return status; /* names the line */
    } else if (line[bytes - 1] == '\r') {
        bytes--;
    }
    if (!json_valid_utf8(line, bytes))
        status = fail(err, ERR_FORMAT, "is no UTF-8");
    else
        status = prompts_add(prompts, model, line, bytes, err);
    return status ? fail_within(err, status, "line %" PRIu64, number) : OK;
}

enum status prompts_lines(struct prompts *prompts, const struct model *model, const char *text,
    uint64_t bytes, bool json_lines, struct error *err)
{
    struct calibration_line json = {0};
    const uint64_t before = prompts->count;
    enum status status = prompts_need_tokenizer(model, err);
    for (uint64_t begin = 0, end, number = 1; begin < bytes && !status; begin = end + 1, number++) {
        const char *newline = memchr(text + begin, '\n', bytes - begin);
        end = newline ? (uint64_t)(newline - text) : bytes;
        status = add_line(prompts, model, json_lines ? &json : NULL, text + begin, end - begin, number, err);
    }
    if (!status && prompts->count == before)
        status = fail(err, ERR_USAGE, "there is no line with text");
    calibration_line_free(&json);
    return status;
}

void prompts_free(struct prompts *prompts)
{
    memory_free(prompts->ids);
    memory_free(prompts->ends);
    *prompts = (struct prompts){0};
}
