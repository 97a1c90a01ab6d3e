/* One function per type of step, and the table of them. Steps find matches; the splitter turns matches into pieces. */
#include "model/tokenizer/pretokenizer.h"

#include "base/memory.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/steps.h"
#include "model/tokenizer/unicode.h"

/* What becomes of the parts of a text that match, and of those between. */
enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };

static const char *const behavior_names[] = {
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};

enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct step;
struct run;

/* One row per type: how to read it and how to run it on a piece, as step number `index`. */
struct kind {
    const char *type;
    enum status (*read)(struct step *step, const struct json_value *value, struct error *err);
    enum status (*cut)(struct run *run, unsigned index, const struct piece *piece, struct error *err);
    unicode_class class;
    enum behavior behavior;
};

struct step {
    const struct kind *kind;
    struct pattern *pattern; /* matches are found by a pattern, or else by a class of characters */
    unicode_class class;
    enum behavior behavior;
    bool invert;
    bool prefix_space, use_regex; /* ByteLevel */
    enum prepend prepend;         /* Metaspace */
    bool split;                   /* Metaspace */
    char replacement[4];          /* Metaspace */
    unsigned replacement_bytes;
};

struct pretokenizer {
    struct step steps[STEP_LIMIT];
    unsigned count;
    char byte_text[256][2]; /* GPT-2's characters for bytes, as UTF-8 */
    uint8_t byte_length[256];
};

/* The texts that a step wrote: the piece with something put in front, and a part of it rewritten. */
struct step_scratch {
    struct text whole, part;
};

struct pretokenizer_scratch {
    struct step_scratch steps[STEP_LIMIT];
};

struct run {
    const struct pretokenizer *pretokenizer;
    struct pretokenizer_scratch *scratch;
    struct pattern_scratch *patterns;
    piece_sink sink;
    void *context;
};

/* Hand a piece to step number `index`, or to the sink after the last. */
static enum status pass_on(struct run *run, unsigned index, const struct piece *piece, struct error *err)
{
    if (piece->bytes == 0) return OK;
    if (index == run->pretokenizer->count) return run->sink(run->context, piece, err);
    return run->pretokenizer->steps[index].kind->cut(run, index, piece, err);
}

/* ---- cutting at matches ---- */

/* Turns matches, from left to right, into parts. */
struct splitter {
    struct run *run;
    unsigned index;            /* of the step */
    const struct piece *piece; /* what is cut */
    enum behavior behavior;
    bool invert;      /* take the parts between the matches for the matches */
    bool to_bytes;    /* rewrite the parts in GPT-2's alphabet */
    uint64_t covered; /* how far the parts reach so far */
    bool held;        /* a part is kept back because it may still grow */
    uint64_t held_begin, held_end;
    bool held_matches; /* whether the last part that went into it was a match */
};

/* Write a part in GPT-2's alphabet. */
static enum status write_bytes(const struct pretokenizer *pretokenizer, struct text *out, const char *text,
    uint64_t bytes, struct error *err)
{
    out->count = 0;
    if (text_reserve(out, bytes * 2, err) != OK) return ERR_MEMORY;
    char *at = out->bytes;
    for (uint64_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)text[i];
        memcpy(at, pretokenizer->byte_text[byte], 2);
        at += pretokenizer->byte_length[byte];
    }
    out->count = (uint64_t)(at - out->bytes);
    return OK;
}

/* A part of a piece. */
static struct piece part_of(const struct piece *piece, uint64_t begin, uint64_t end)
{
    uint64_t first = piece->first < end ? piece->first : end;

    return (struct piece){piece->text + begin, end - begin, first > begin ? first - begin : 0};
}

static enum status emit(struct splitter *splitter, uint64_t begin, uint64_t end, struct error *err)
{
    struct run *run = splitter->run;
    struct piece part = part_of(splitter->piece, begin, end);

    if (splitter->to_bytes) {
        struct text *out = &run->scratch->steps[splitter->index].part;
        uint64_t first = 0;
        for (uint64_t i = 0; i < part.first; i++)
            first += run->pretokenizer->byte_length[(uint8_t)part.text[i]];
        if (write_bytes(run->pretokenizer, out, part.text, part.bytes, err) != OK) return ERR_MEMORY;
        part = (struct piece){out->bytes, out->count, first};
    }
    return pass_on(run, splitter->index + 1, &part, err);
}

static enum status let_go(struct splitter *splitter, struct error *err)
{
    if (!splitter->held) return OK;
    splitter->held = false;
    return emit(splitter, splitter->held_begin, splitter->held_end, err);
}

/* Whether a part joins the one before it. Parts may be empty; as parts they count all the same. */
static bool joins(const struct splitter *splitter, bool matches)
{
    if (!splitter->held) return false;
    switch (splitter->behavior) {
    case CONTIGUOUS:
        return matches == splitter->held_matches;
    case MERGED_WITH_PREVIOUS:
        return matches && !splitter->held_matches;
    default:
        return !matches && splitter->held_matches;
    }
}

/* The next part, which begins where the last one ended. */
static enum status add_part(
    struct splitter *splitter, uint64_t begin, uint64_t end, bool matches, struct error *err)
{
    enum status status = OK;

    splitter->covered = end;
    if (splitter->invert) matches = !matches;
    if (splitter->behavior == ISOLATED || splitter->behavior == REMOVED)
        return matches && splitter->behavior == REMOVED ? OK : emit(splitter, begin, end, err);
    if (!joins(splitter, matches)) {
        status = let_go(splitter, err);
        splitter->held_begin = begin;
        splitter->held = true;
    }
    splitter->held_end = end;
    splitter->held_matches = matches;
    return status;
}

/* A match: first what lies before it, then itself. */
static enum status add_match(struct splitter *splitter, uint64_t begin, uint64_t end, struct error *err)
{
    enum status status = OK;

    if (splitter->covered < begin) status = add_part(splitter, splitter->covered, begin, false, err);
    return status == OK ? add_part(splitter, begin, end, true, err) : status;
}

static enum status end_split(struct splitter *splitter, struct error *err)
{
    enum status status = OK;

    if (splitter->covered < splitter->piece->bytes)
        status = add_part(splitter, splitter->covered, splitter->piece->bytes, false, err);
    return status == OK ? let_go(splitter, err) : status;
}

static enum status split_by_pattern(
    struct splitter *splitter, const struct pattern *pattern, struct error *err)
{
    struct pattern_walk walk;
    bool found;
    enum status status;

    pattern_walk_init(&walk, pattern, splitter->run->patterns, splitter->piece->text, splitter->piece->bytes);
    while ((status = pattern_next(&walk, &found, err)) == OK && found) {
        status = add_match(splitter, walk.begin, walk.end, err);
        if (status != OK) return status;
    }
    return status == OK ? end_split(splitter, err) : status;
}

static enum status split_by_class(struct splitter *splitter, unicode_class class, struct error *err)
{
    const struct piece *piece = splitter->piece;
    enum status status = OK;
    unsigned length;

    for (uint64_t at = 0; at < piece->bytes && status == OK; at += length) {
        if (class(unicode_decode(piece->text + at, &length)))
            status = add_match(splitter, at, at + length, err);
    }
    return status == OK ? end_split(splitter, err) : status;
}

/* ---- Split, Digits, Punctuation, WhitespaceSplit, CharDelimiterSplit ---- */

static enum status cut_at_matches(
    struct run *run, unsigned index, const struct piece *piece, struct error *err)
{
    const struct step *step = &run->pretokenizer->steps[index];
    struct splitter splitter = {
        .run = run, .index = index, .piece = piece, .behavior = step->behavior, .invert = step->invert};

    if (step->pattern) return split_by_pattern(&splitter, step->pattern, err);
    return split_by_class(&splitter, step->class, err);
}

static enum status read_behavior(struct step *step, const struct json_value *value, struct error *err)
{
    char quoted[40];
    struct json_text name;
    enum status status = step_text(value, "behavior", &name, err);

    if (status != OK) return status;
    for (unsigned i = 0; i <= CONTIGUOUS; i++) {
        if (strlen(behavior_names[i]) != name.count || memcmp(behavior_names[i], name.bytes, name.count) != 0)
            continue;
        step->behavior = (enum behavior)i;
        return OK;
    }
    return fail(err, ERR_UNSUPPORTED, "unknown behavior \"%s\"",
        error_quote(quoted, sizeof quoted, name.bytes, name.count));
}

static enum status read_split(struct step *step, const struct json_value *value, struct error *err)
{
    enum status status = read_behavior(step, value, err);

    if (status == OK) status = step_flag(value, "invert", &step->invert, err);
    return status == OK ? pattern_read(&step->pattern, json_member(value, "pattern"), err) : status;
}

static enum status read_punctuation(struct step *step, const struct json_value *value, struct error *err)
{
    return json_member(value, "behavior") ? read_behavior(step, value, err) : OK;
}

static enum status read_digits(struct step *step, const struct json_value *value, struct error *err)
{
    bool single = false;
    enum status status = step_flag(value, "individual_digits", &single, err);

    if (single) step->behavior = ISOLATED;
    return status;
}

static enum status read_delimiter(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text delimiter;
    enum status status = step_character(value, "delimiter", &delimiter, err);

    return status == OK ? pattern_literal(&step->pattern, delimiter.bytes, delimiter.count, err) : status;
}

/* ---- Whitespace: \w+|[^\w\s]+ ---- */

static enum status cut_words(struct run *run, unsigned index, const struct piece *piece, struct error *err)
{
    enum { SPACE, WORD, OTHER } last = SPACE;
    uint64_t begin = 0, at = 0;
    enum status status = OK;

    for (unsigned length = 0; at <= piece->bytes && status == OK; at += length) {
        uint32_t point = at < piece->bytes ? unicode_decode(piece->text + at, &length) : ' ';
        int now = unicode_is_space(point) ? SPACE : unicode_is_word(point) ? WORD : OTHER;
        if (at == piece->bytes) length = 1;
        if (now == (int)last) continue;
        struct piece word = part_of(piece, begin, at);
        if (last != SPACE) status = pass_on(run, index + 1, &word, err);
        begin = at;
        last = now;
    }
    return status;
}

/* ---- ByteLevel ---- */

/* GPT-2's split (https://github.com/openai/gpt-2, src/encoder.py). */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status read_byte_level(struct step *step, const struct json_value *value, struct error *err)
{
    enum status status = step_flag(value, "add_prefix_space", &step->prefix_space, err);

    step->use_regex = true;
    if (status == OK) status = json_get_bool(value, "ByteLevel", "use_regex", &step->use_regex, err);
    if (status != OK || !step->use_regex) return status;
    return pattern_regex(&step->pattern, gpt2_pattern, sizeof gpt2_pattern - 1, err);
}

static enum status cut_byte_level(
    struct run *run, unsigned index, const struct piece *piece, struct error *err)
{
    const struct step *step = &run->pretokenizer->steps[index];
    struct text *whole = &run->scratch->steps[index].whole;
    struct piece prefixed = *piece;
    struct splitter splitter = {
        .run = run, .index = index, .piece = &prefixed, .behavior = ISOLATED, .to_bytes = true};

    if (step->prefix_space && *piece->text != ' ') {
        whole->count = 0;
        enum status status = text_append(whole, " ", 1, err);
        if (status == OK) status = text_append(whole, piece->text, piece->bytes, err);
        if (status != OK) return status;
        prefixed = (struct piece){whole->bytes, whole->count, piece->first > 0 ? piece->first + 1 : 0};
    }
    return step->pattern ? split_by_pattern(&splitter, step->pattern, err) : end_split(&splitter, err);
}

/* ---- Metaspace ---- */

/* prepend_scheme, or in older files add_prefix_space. */
static enum status read_prepend(struct step *step, const struct json_value *value, struct error *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const struct json_value *scheme = json_member(value, "prepend_scheme");
    bool prefix_space = true;
    enum status status = json_get_bool(value, "Metaspace", "add_prefix_space", &prefix_space, err);

    if (status != OK) return status;
    if (!scheme) {
        step->prepend = prefix_space ? PREPEND_ALWAYS : PREPEND_NEVER;
        return OK;
    }
    for (unsigned i = 0; i < 3; i++) {
        if (!json_is_text(scheme, names[i])) continue;
        step->prepend = (enum prepend)i;
        if (prefix_space || step->prepend == PREPEND_NEVER) return OK;
        return fail(err, ERR_FORMAT, "add_prefix_space contradicts prepend_scheme");
    }
    return fail(err, ERR_UNSUPPORTED, "unknown prepend_scheme");
}

static enum status read_metaspace(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text replacement;
    enum status status = step_character(value, "replacement", &replacement, err);

    if (status != OK) return status;
    memcpy(step->replacement, replacement.bytes, replacement.count);
    step->replacement_bytes = (unsigned)replacement.count;
    step->split = true;
    status = json_get_bool(value, "Metaspace", "split", &step->split, err);
    if (status == OK) status = read_prepend(step, value, err);
    return status == OK ? pattern_literal(&step->pattern, replacement.bytes, replacement.count, err) : status;
}

/* Append text with the replacement for every space. */
static enum status replace_spaces(
    const struct step *step, struct text *out, const struct piece *piece, struct error *err)
{
    const char *at = piece->text, *end = at + piece->bytes, *space;
    enum status status = OK;

    while (status == OK && (space = memchr(at, ' ', (uint64_t)(end - at))) != NULL) {
        status = text_append(out, at, (uint64_t)(space - at), err);
        if (status == OK) status = text_append(out, step->replacement, step->replacement_bytes, err);
        at = space + 1;
    }
    return status == OK ? text_append(out, at, (uint64_t)(end - at), err) : status;
}

static bool begins_with_replacement(const struct step *step, const struct piece *piece)
{
    if (*piece->text == ' ') return true;
    return piece->bytes >= step->replacement_bytes &&
           memcmp(piece->text, step->replacement, step->replacement_bytes) == 0;
}

static enum status cut_metaspace(
    struct run *run, unsigned index, const struct piece *piece, struct error *err)
{
    const struct step *step = &run->pretokenizer->steps[index];
    struct text *whole = &run->scratch->steps[index].whole;
    bool prepend = step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && piece->first > 0);
    struct piece head = part_of(piece, 0, piece->first), tail = part_of(piece, piece->first, piece->bytes);
    uint64_t first = 0;
    enum status status = OK;

    whole->count = 0;
    if (prepend && !begins_with_replacement(step, piece))
        status = text_append(whole, step->replacement, step->replacement_bytes, err);
    if (status == OK) status = replace_spaces(step, whole, &head, err);
    if (piece->first > 0) first = whole->count;
    if (status == OK) status = replace_spaces(step, whole, &tail, err);
    if (status != OK) return status;
    struct piece replaced = {whole->bytes, whole->count, first};
    if (!step->split) return pass_on(run, index + 1, &replaced, err);
    struct splitter splitter = {.run = run, .index = index, .piece = &replaced, .behavior = MERGED_WITH_NEXT};
    return split_by_pattern(&splitter, step->pattern, err);
}

/* ---- the list ---- */

static const struct kind kinds[] = {
    {"ByteLevel", read_byte_level, cut_byte_level, NULL, ISOLATED},
    {"Metaspace", read_metaspace, cut_metaspace, NULL, MERGED_WITH_NEXT},
    {"Split", read_split, cut_at_matches, NULL, ISOLATED},
    {"Digits", read_digits, cut_at_matches, unicode_is_numeric, CONTIGUOUS},
    {"Punctuation", read_punctuation, cut_at_matches, unicode_is_punctuation, ISOLATED},
    {"Whitespace", NULL, cut_words, NULL, REMOVED},
    {"WhitespaceSplit", NULL, cut_at_matches, unicode_is_space, REMOVED},
    {"CharDelimiterSplit", read_delimiter, cut_at_matches, NULL, REMOVED},
};

static enum status add_step(
    void *context, const struct json_value *value, const char *type, struct error *err)
{
    struct pretokenizer *pretokenizer = context;
    struct step *step = &pretokenizer->steps[pretokenizer->count];

    for (uint64_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        pretokenizer->count++;
        step->kind = &kinds[i];
        step->class = step->kind->class;
        step->behavior = step->kind->behavior;
        return step->kind->read ? step->kind->read(step, value, err) : OK;
    }
    return steps_unknown(type, err);
}

/* GPT-2's characters are all below U+0800: one or two bytes. */
static void fill_byte_texts(struct pretokenizer *pretokenizer)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t point = byte_level_point((uint8_t)i);
        bool one = point < 0x80;
        pretokenizer->byte_length[i] = one ? 1 : 2;
        pretokenizer->byte_text[i][0] = (char)(one ? point : 0xC0 | point >> 6);
        pretokenizer->byte_text[i][1] = (char)(0x80 | (point & 0x3F));
    }
}

enum status pretokenizer_create(
    struct pretokenizer **out, const struct json_value *section, struct error *err)
{
    struct pretokenizer *pretokenizer = memory_new(1, sizeof *pretokenizer, err);
    enum status status =
        pretokenizer ? steps_read(section, "pretokenizers", add_step, pretokenizer, err) : ERR_MEMORY;

    if (status == OK) {
        fill_byte_texts(pretokenizer);
        *out = pretokenizer;
    } else {
        pretokenizer_free(pretokenizer);
    }
    return status;
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    for (unsigned i = 0; i < pretokenizer->count; i++)
        pattern_free(pretokenizer->steps[i].pattern);
    memory_free(pretokenizer);
}

enum status pretokenizer_scratch_create(struct pretokenizer_scratch **out, uint64_t limit, struct error *err)
{
    struct pretokenizer_scratch *scratch = memory_new(1, sizeof *scratch, err);

    if (!scratch) return ERR_MEMORY;
    for (unsigned i = 0; i < STEP_LIMIT; i++)
        scratch->steps[i].whole.limit = scratch->steps[i].part.limit = limit;
    *out = scratch;
    return OK;
}

void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch)
{
    if (!scratch) return;
    for (unsigned i = 0; i < STEP_LIMIT; i++) {
        text_free(&scratch->steps[i].whole);
        text_free(&scratch->steps[i].part);
    }
    memory_free(scratch);
}

enum status pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch,
    struct pattern_scratch *patterns, const struct piece *text, piece_sink sink, void *context,
    struct error *err)
{
    struct run run = {pretokenizer, scratch, patterns, sink, context};

    return pass_on(&run, 0, text, err);
}
