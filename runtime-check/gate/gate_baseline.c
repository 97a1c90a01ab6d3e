/* See gate_baseline.h. */
#include "runtime-check/gate/gate_baseline.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* exp of 709 is the largest power that is finite; rounding may leave the mean of zeros a little below. */
static const double NLL_LEAST = -1e-3, NLL_MOST = 709;

/* ---- reading ---- */

static enum status require_key(
    const struct json_value *root, const char *name, const char *key, struct error *err)
{
    const struct json_value *value = json_member(root, key);
    if (value && value->kind != JSON_NULL) return OK;
    return fail(err, ERR_FORMAT,
        "%s: there is no \"%s\"; a baseline is the output of nibble-check perplexity --json or gate --json",
        name, key);
}

static enum status read_count(uint64_t *out, const struct json_value *root, const char *name, const char *key,
    uint64_t least, uint64_t most, struct error *err)
{
    enum status status = require_key(root, name, key, err);
    return status ? status : json_get_u64(root, name, key, least, most, out, err);
}

static enum status read_number(double *out, const struct json_value *root, const char *name, const char *key,
    double least, double most, struct error *err)
{
    enum status status = require_key(root, name, key, err);
    return status ? status : json_get_number(root, name, key, least, most, out, err);
}

static enum status read_protocol(
    enum perplexity_protocol *out, const struct json_value *root, const char *name, struct error *err)
{
    const struct json_value *protocol = json_member(root, "protocol");
    enum status status = require_key(root, name, "protocol", err);
    if (status) return status;
    for (int i = PERPLEXITY_GPTQ; i <= PERPLEXITY_LLAMA_CPP; i++) {
        *out = (enum perplexity_protocol)i;
        if (json_is_text(protocol, perplexity_protocol_name(*out))) return OK;
    }
    return fail(err, ERR_FORMAT, "%s: \"protocol\" is neither \"gptq\" nor \"llama.cpp\"", name);
}

/* Eight lower-case hexadecimal digits. */
static enum status read_crc(uint32_t *out, const struct json_value *root, const char *name, struct error *err)
{
    static const char digits[] = "0123456789abcdef";
    const char *text = "";
    enum status status = require_key(root, name, "text_crc32", err);
    if (!status) status = json_get_text(root, name, "text_crc32", &text, err);
    if (status) return status;
    *out = 0;
    for (int i = 0; i < 8; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit) return fail(err, ERR_FORMAT, "%s: \"text_crc32\" is not 8 hexadecimal digits", name);
        *out = *out << 4 | (uint32_t)(digit - digits);
    }
    if (text[8]) return fail(err, ERR_FORMAT, "%s: \"text_crc32\" is not 8 hexadecimal digits", name);
    return OK;
}

static enum status read_text(
    struct gate_text *out, const struct json_value *root, const char *name, struct error *err)
{
    enum status status = read_protocol(&out->protocol, root, name, err);
    if (!status) status = read_count(&out->context, root, name, "context", 4, 1 << 20, err);
    if (!status) status = read_count(&out->windows, root, name, "windows", 1, UINT64_C(1000000000), err);
    if (!status) status = json_get_u64(root, name, "tokens", 1, UINT64_C(1) << 40, &out->tokens, err);
    if (!status) status = read_crc(&out->crc32, root, name, err);
    if (!status && out->tokens && out->tokens / out->context < out->windows) {
        return fail(err, ERR_FORMAT, "%s: %" PRIu64 " tokens do not make %" PRIu64 " windows of %" PRIu64,
            name, out->tokens, out->windows, out->context);
    }
    return status;
}

/* The numbers say the same thing more than once; a file that was edited shows. */
static enum status read_perplexity(
    struct gate_baseline *out, const struct json_value *root, const char *name, struct error *err)
{
    enum status status = read_number(&out->perplexity.value, root, name, "perplexity", 0, 1.7e308, err);
    if (!status)
        status = read_number(&out->perplexity.error, root, name, "perplexity_error", 0, 1.7e308, err);
    if (!status) status = read_number(&out->mean_nll, root, name, "mean_nll", NLL_LEAST, NLL_MOST, err);
    if (status) return status;
    if (fabs(out->perplexity.value / exp(out->mean_nll) - 1) <= 1e-6) return OK;
    return fail(err, ERR_FORMAT, "%s: \"perplexity\" %.10g is not exp of \"mean_nll\" %.10g", name,
        out->perplexity.value, out->mean_nll);
}

static enum status copy_windows(
    struct gate_baseline *out, const struct json_value *array, const char *name, struct error *err)
{
    double sum = 0;
    uint64_t index = 0;
    for (const struct json_value *value = array->children; value; value = value->next, index++) {
        if (value->kind != JSON_NUMBER || !(value->number >= NLL_LEAST && value->number <= NLL_MOST)) {
            return fail(err, ERR_FORMAT, "%s: \"window_nll\" [%" PRIu64 "] is not a number from %g to %g",
                name, index, NLL_LEAST, NLL_MOST);
        }
        out->window_nll[index] = value->number;
        sum += value->number;
    }
    const double mean = sum / (double)array->count;
    if (fabs(mean - out->mean_nll) <= 1e-6 * (1 + fabs(mean))) return OK;
    return fail(err, ERR_FORMAT, "%s: the mean of \"window_nll\" is %.10g, but \"mean_nll\" %.10g", name,
        mean, out->mean_nll);
}

static enum status read_windows(
    struct gate_baseline *out, const struct json_value *root, const char *name, struct error *err)
{
    const struct json_value *array = json_member(root, "window_nll");
    if (!array || array->kind == JSON_NULL) return OK;
    if (array->kind != JSON_ARRAY) return fail(err, ERR_FORMAT, "%s: \"window_nll\" is no array", name);
    if (array->count != out->text.windows) {
        return fail(err, ERR_FORMAT, "%s: \"window_nll\" has %" PRIu64 " values for %" PRIu64 " windows",
            name, array->count, out->text.windows);
    }
    out->window_nll = memory_new(array->count, sizeof *out->window_nll, err);
    return out->window_nll ? copy_windows(out, array, name, err) : ERR_MEMORY;
}

enum status gate_baseline_parse(
    struct gate_baseline *out, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    struct json_document *document = NULL;
    *out = (struct gate_baseline){0};
    enum status status = json_parse(&document, name, bytes, count, err);
    if (status) return status;
    const struct json_value *root = json_root(document);
    if (root->kind != JSON_OBJECT) status = fail(err, ERR_FORMAT, "%s: is no JSON object", name);
    if (!status) status = read_text(&out->text, root, name, err);
    if (!status) status = read_perplexity(out, root, name, err);
    if (!status) status = read_windows(out, root, name, err);
    json_free(document);
    return status;
}

enum status gate_baseline_read(struct gate_baseline *out, const char *path, struct error *err)
{
    char *bytes = NULL;
    uint64_t count = 0;
    *out = (struct gate_baseline){0};
    enum status status = file_read_all(&bytes, &count, path, UINT64_C(16) << 20, err);
    if (!status) status = gate_baseline_parse(out, path, bytes, count, err);
    memory_free(bytes);
    return status;
}

void gate_baseline_free(struct gate_baseline *baseline)
{
    memory_free(baseline->window_nll);
    baseline->window_nll = NULL;
}

/* ---- comparing ---- */

static enum status refuse_count(
    const char *name, const char *what, uint64_t theirs, uint64_t ours, const char *advice, struct error *err)
{
    return fail(err, ERR_USAGE, "%s was measured with %s %" PRIu64 ", this run has %" PRIu64 "%s", name, what,
        theirs, ours, advice);
}

enum status gate_baseline_matches(
    const struct gate_baseline *baseline, const char *name, const struct gate_text *text, struct error *err)
{
    const struct gate_text *old = &baseline->text;
    if (old->protocol != text->protocol) {
        return fail(err, ERR_USAGE, "%s was measured under --protocol %s, this run is under %s", name,
            perplexity_protocol_name(old->protocol), perplexity_protocol_name(text->protocol));
    }
    if (old->crc32 != text->crc32) {
        return fail(err, ERR_USAGE,
            "%s was measured on another text: its CRC-32 is %08" PRIx32 ", that of --text %08" PRIx32, name,
            old->crc32, text->crc32);
    }
    if (old->context != text->context)
        return refuse_count(name, "--context", old->context, text->context, "", err);
    if (old->tokens && text->tokens && old->tokens != text->tokens) {
        return refuse_count(name, "a text of so many tokens:", old->tokens, text->tokens,
            ": another tokenizer, whose perplexity does not compare", err);
    }
    if (old->windows != text->windows)
        return refuse_count(name, "--windows", old->windows, text->windows, "", err);
    return OK;
}

struct estimate gate_baseline_ratio(
    const struct gate_baseline *baseline, const struct perplexity_result *now, bool *paired)
{
    *paired = baseline->window_nll && now->window_nll;
    if (*paired) {
        struct clustered differences = {0};
        const uint64_t windows = baseline->text.windows;
        for (uint64_t i = 0; i < windows; i++)
            clustered_add(
                &differences, estimate_block(windows), now->window_nll[i] - baseline->window_nll[i]);
        return clustered_estimate(&differences);
    }
    const double error = now->perplexity.error / now->perplexity.value;
    const double stated = baseline->perplexity.error / baseline->perplexity.value;
    return (struct estimate){
        now->mean_nll - baseline->mean_nll, hypot(error, stated > error ? stated : error)};
}
