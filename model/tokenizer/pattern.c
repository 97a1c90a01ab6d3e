/* Two programs are compiled from each regular expression.
 *
 * The fast one (JIT where there is one) sees only a short window of the text and has a low match limit, so that a call
 * cannot take long. PCRE2_PARTIAL_HARD makes it say so when an answer depends on text beyond the window: an answer it does
 * give is the answer for the whole text. That covers words, which is nearly everything.
 *
 * Where it gives up, the slow one takes over for that match: it sees all of the text and stops at every item of the
 * pattern (PCRE2_AUTO_CALLOUT) to pay for the distance it moved, out of a budget in proportion to the text. PCRE2's own
 * match limit could not do this: it counts backtracking, not the scans in between, which alone can be quadratic. */
#include "model/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/pattern_dialect.h"
#include "model/tokenizer/unicode.h"

enum {
    WINDOW_BYTES = 256,
    FAST_MATCH_LIMIT = 200,
    STOP_COST = 16, /* of one callout, in bytes moved */
    BUDGET_PER_BYTE = 256,
    BUDGET_BASE = 1 << 26,
    DEPTH_LIMIT = 1 << 20,
    HEAP_LIMIT_KIB = 1 << 15,
    TRANSLATION_LIMIT = 1 << 18, /* bytes; classes are spelled out */
};

struct pattern {
    char *literal; /* NULL: a regular expression */
    uint64_t literal_bytes;
    pcre2_code *fast, *slow;
};

struct pattern_scratch {
    pcre2_general_context *general;
    pcre2_match_context *fast, *slow;
    pcre2_match_data *data;
    uint64_t budget;
    uint64_t position; /* where the slow program last stopped */
};

/* ---- memory for PCRE2 ---- */

static void *allocate(PCRE2_SIZE bytes, void *unused)
{
    (void)unused;
    return memory_new(bytes, 1, NULL);
}

static void release(void *block, void *unused)
{
    (void)unused;
    memory_free(block);
}

static enum status no_memory(struct error *err)
{
    return fail(err, ERR_MEMORY, "no memory left for a pattern");
}

/* ---- compiling ---- */

/* What PCRE2 says about a pattern. */
static enum status compile_fault(int code, struct error *err)
{
    PCRE2_UCHAR text[160];

    if (code == PCRE2_ERROR_HEAP_FAILED) return no_memory(err);
    if (pcre2_get_error_message(code, text, sizeof text) < 0)
        return fail(err, ERR_FORMAT, "the pattern is not valid");
    return fail(err, ERR_FORMAT, "the pattern is not valid: %s", (const char *)text);
}

static enum status compile(pcre2_code **out, const struct text *source, uint32_t options,
    pcre2_compile_context *context, struct error *err)
{
    PCRE2_SIZE offset;
    int code;

    *out = pcre2_compile((PCRE2_SPTR)source->bytes, source->count,
        options | PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, context);
    return *out ? OK : compile_fault(code, err);
}

static enum status compile_both(struct pattern *pattern, const struct text *source, struct error *err)
{
    pcre2_general_context *general = pcre2_general_context_create(allocate, release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    enum status status = context ? OK : no_memory(err);

    if (status == OK) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
        status = compile(&pattern->fast, source, 0, context, err);
    }
    if (status == OK) status = compile(&pattern->slow, source, PCRE2_AUTO_CALLOUT, context, err);
    /* Without JIT (none for this processor, or no executable memory) the interpreter runs instead. */
    if (status == OK) pcre2_jit_compile(pattern->fast, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return status;
}

enum status pattern_literal(struct pattern **out, const char *bytes, uint64_t count, struct error *err)
{
    struct pattern *pattern = memory_new(1, sizeof *pattern, err);

    if (pattern) pattern->literal = memory_text(bytes, count, err);
    if (!pattern || !pattern->literal) {
        pattern_free(pattern);
        return ERR_MEMORY;
    }
    pattern->literal_bytes = count;
    *out = pattern;
    return OK;
}

enum status pattern_regex(struct pattern **out, const char *bytes, uint64_t count, struct error *err)
{
    struct pattern *pattern = memory_new(1, sizeof *pattern, err);
    struct text source = {.limit = TRANSLATION_LIMIT};
    enum status status = pattern ? text_reserve(&source, 1, err) : ERR_MEMORY;

    if (status == OK) status = pattern_translate(&source, bytes, count, err);
    if (status == OK) status = compile_both(pattern, &source, err);
    text_free(&source);
    if (status == OK)
        *out = pattern;
    else
        pattern_free(pattern);
    return status;
}

enum status pattern_read(struct pattern **out, const struct json_value *value, struct error *err)
{
    const struct json_value *literal = json_member(value, "String"), *regex = json_member(value, "Regex");

    if (literal && literal->kind == JSON_STRING)
        return pattern_literal(out, literal->text.bytes, literal->text.count, err);
    if (regex && regex->kind == JSON_STRING)
        return pattern_regex(out, regex->text.bytes, regex->text.count, err);
    return fail(err, ERR_FORMAT, "the pattern is neither a String nor a Regex");
}

void pattern_free(struct pattern *pattern)
{
    if (!pattern) return;
    memory_free(pattern->literal);
    pcre2_code_free(pattern->fast);
    pcre2_code_free(pattern->slow);
    memory_free(pattern);
}

/* ---- scratch ---- */

/* The slow program stopped: pay for the way since the last stop, or make it give up. */
static int pay(pcre2_callout_block *block, void *context)
{
    struct pattern_scratch *scratch = context;
    uint64_t position = block->current_position;
    uint64_t moved =
        position > scratch->position ? position - scratch->position : scratch->position - position;

    scratch->position = position;
    if (scratch->budget < moved + STOP_COST) return PCRE2_ERROR_CALLOUT;
    scratch->budget -= moved + STOP_COST;
    return 0;
}

enum status pattern_scratch_create(struct pattern_scratch **out, uint64_t text_bytes, struct error *err)
{
    struct pattern_scratch *scratch = memory_new(1, sizeof *scratch, err);

    if (!scratch) return ERR_MEMORY;
    scratch->budget = BUDGET_BASE + BUDGET_PER_BYTE * text_bytes;
    scratch->general = pcre2_general_context_create(allocate, release, NULL);
    if (scratch->general) {
        scratch->fast = pcre2_match_context_create(scratch->general);
        scratch->slow = pcre2_match_context_create(scratch->general);
        scratch->data = pcre2_match_data_create(1, scratch->general);
    }
    if (!scratch->fast || !scratch->slow || !scratch->data) {
        pattern_scratch_free(scratch);
        return no_memory(err);
    }
    pcre2_set_match_limit(scratch->fast, FAST_MATCH_LIMIT);
    pcre2_set_match_limit(scratch->slow, UINT32_MAX); /* the budget limits it instead */
    pcre2_set_depth_limit(scratch->slow, DEPTH_LIMIT);
    pcre2_set_heap_limit(scratch->slow, HEAP_LIMIT_KIB);
    pcre2_set_callout(scratch->slow, pay, scratch);
    *out = scratch;
    return OK;
}

void pattern_scratch_free(struct pattern_scratch *scratch)
{
    if (!scratch) return;
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->slow);
    pcre2_match_context_free(scratch->fast);
    pcre2_general_context_free(scratch->general);
    memory_free(scratch);
}

/* ---- walking ---- */

void pattern_walk_init(struct pattern_walk *walk, const struct pattern *pattern,
    struct pattern_scratch *scratch, const char *text, uint64_t bytes)
{
    *walk = (struct pattern_walk){pattern, scratch, text, bytes, 0, UINT64_MAX, 0, 0};
}

/* Take the match out of what PCRE2 returned. */
static enum status take(struct pattern_walk *walk, int code, bool *found, struct error *err)
{
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(walk->scratch->data);

    *found = code >= 0;
    if (code == PCRE2_ERROR_NOMATCH) return OK;
    if (code == PCRE2_ERROR_NOMEMORY) return no_memory(err);
    if (code < 0 || bounds[0] < walk->at || bounds[0] > bounds[1])
        return fail(err, ERR_FORMAT, "a pattern exceeds its match limits");
    walk->begin = bounds[0];
    walk->end = bounds[1];
    return OK;
}

static int match_slowly(const struct pattern_walk *walk, uint64_t from)
{
    struct pattern_scratch *scratch = walk->scratch;

    scratch->position = from;
    return pcre2_match(walk->pattern->slow, (PCRE2_SPTR)walk->text, walk->bytes, from, PCRE2_NO_UTF_CHECK,
        scratch->data, scratch->slow);
}

static enum status find_regex(struct pattern_walk *walk, bool *found, struct error *err)
{
    uint64_t from = walk->at;

    for (;;) {
        uint64_t end = walk->bytes;
        uint32_t options = PCRE2_NO_UTF_CHECK;
        if (walk->bytes - from > WINDOW_BYTES) {
            end = from + WINDOW_BYTES;
            while (((uint8_t)walk->text[end] & 0xC0) == 0x80)
                end--;
            options |= PCRE2_PARTIAL_HARD;
        }
        int code = pcre2_match(walk->pattern->fast, (PCRE2_SPTR)walk->text, end, from, options,
            walk->scratch->data, walk->scratch->fast);
        if (code == PCRE2_ERROR_NOMATCH && end < walk->bytes) {
            from = end; /* no match begins in the window */
            continue;
        }
        if (code < 0 && code != PCRE2_ERROR_NOMATCH && code != PCRE2_ERROR_NOMEMORY)
            code = match_slowly(walk, from);
        return take(walk, code, found, err);
    }
}

static void find_literal(struct pattern_walk *walk, bool *found)
{
    const struct pattern *pattern = walk->pattern;
    const char *match =
        memmem(walk->text + walk->at, walk->bytes - walk->at, pattern->literal, pattern->literal_bytes);

    *found = match != NULL;
    if (!match) return;
    walk->begin = (uint64_t)(match - walk->text);
    walk->end = walk->begin + pattern->literal_bytes;
}

enum status pattern_next(struct pattern_walk *walk, bool *found, struct error *err)
{
    for (;;) {
        enum status status = OK;
        *found = false;
        if (walk->at > walk->bytes) return OK;
        if (walk->pattern->literal)
            find_literal(walk, found);
        else
            status = find_regex(walk, found, err);
        if (status != OK || !*found) return status;
        if (walk->begin < walk->end || walk->end != walk->last_end) break;
        walk->at += walk->at < walk->bytes ? unicode_length(walk->text[walk->at]) : 1;
    }
    walk->at = walk->last_end = walk->end;
    return OK;
}
