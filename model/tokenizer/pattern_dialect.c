/* One pass over the pattern. What it keeps in mind is where the last atom began in the output, because Ruby's
 * `x{2,3}+` repeats the interval where PCRE2 would make it possessive, and so needs a group around it. */
#include "model/tokenizer/pattern_dialect.h"

#include <stdbool.h>

#include "model/tokenizer/pattern_classes.h"
#include "model/tokenizer/unicode.h"

enum { GROUP_LIMIT = 100, NAME_LIMIT = 32 };
static const uint64_t NO_ATOM = UINT64_MAX;

struct translator {
    struct text *out;
    const char *start, *at, *end;
    uint64_t atom; /* where the last thing that can be repeated begins in the output, or NO_ATOM */
    struct {
        uint64_t begin;    /* in the output */
        bool caseless;     /* around the group */
    } groups[GROUP_LIMIT]; /* the open ones */
    unsigned depth;
    bool fresh;    /* nothing but the opening of the pattern or of a group came before */
    bool caseless; /* case is ignored here */
};

typedef enum status (*translate_step)(struct translator *, struct error *);

static enum status unsupported(const struct translator *translator, uint64_t bytes, struct error *err)
{
    char quoted[64];
    uint64_t left = (uint64_t)(translator->end - translator->at);

    error_quote(quoted, sizeof quoted, translator->at, bytes < left ? bytes : left);
    return fail(err, ERR_UNSUPPORTED, "the pattern has %s at byte %llu, which this version does not know",
        quoted, (unsigned long long)(translator->at - translator->start));
}

static bool looking_at(const struct translator *translator, const char *text)
{
    uint64_t bytes = strlen(text);
    return (uint64_t)(translator->end - translator->at) >= bytes && memcmp(translator->at, text, bytes) == 0;
}

static enum status put(struct translator *translator, const char *text, struct error *err)
{
    return text_append_string(translator->out, text, err);
}

/* Copy so many bytes of the pattern as they are. */
static enum status copy(struct translator *translator, uint64_t bytes, struct error *err)
{
    enum status status = text_append(translator->out, translator->at, bytes, err);

    translator->at += bytes;
    return status;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hexadecimal(char byte)
{
    return is_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

static bool is_letter(char byte)
{
    return (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z';
}

/* Where case is ignored, Oniguruma lets "ss" match a sharp s and the like: texts of another length, which PCRE2 does not
 * know. Refuse pairs that are such ligatures of Latin, and to be safe everything outside of ASCII. */
static enum status check_folding(const struct translator *translator, struct error *err)
{
    static const char *const pairs[] = {"ss", "ff", "fi", "fl", "st"};
    const char *at = translator->at;
    bool folds = (uint8_t)*at >= 0x80;

    if (!translator->caseless) return OK;
    for (unsigned i = 0; i < 5 && at > translator->start; i++) {
        if ((at[-1] | 0x20) == pairs[i][0] && (at[0] | 0x20) == pairs[i][1]) folds = true;
    }
    if (!folds) return OK;
    return fail(err, ERR_UNSUPPORTED, "the pattern ignores case where that may change the length of a text");
}

/* ---- classes of characters ---- */

/* Put text at a place in the output that was written already. */
static enum status insert(struct translator *translator, uint64_t place, const char *text, struct error *err)
{
    struct text *out = translator->out;
    uint64_t bytes = strlen(text);

    if (text_reserve(out, bytes, err) != OK) return ERR_MEMORY;
    memmove(out->bytes + place + bytes, out->bytes + place, out->count - place);
    memcpy(out->bytes + place, text, bytes);
    out->count += bytes;
    return OK;
}

static const char *property_items(const char *name)
{
    for (uint64_t i = 0; i < sizeof pattern_properties / sizeof *pattern_properties; i++) {
        if (strcmp(name, pattern_properties[i].name) == 0) return pattern_properties[i].items;
    }
    return NULL;
}

/* \w: letters, marks, decimal numbers and what else Oniguruma takes for a word. Superscripts and fractions of Latin-1 are
 * words to it where \w stands by itself, but not inside brackets. */
static enum status put_word(struct translator *translator, bool inside, struct error *err)
{
    static const char *const names[] = {"L", "M", "Nd"};
    enum status status = OK;

    for (unsigned i = 0; i < 3 && status == OK; i++)
        status = put(translator, property_items(names[i]), err);
    if (status == OK && !inside) status = put(translator, "\\x{b2}-\\x{b3}\\x{b9}\\x{bc}-\\x{be}", err);
    if (status != OK) return status;
    return put(translator,
        "\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}",
        err);
}

/* The items of \p{name} inside brackets: from the table, a general category, or else a script by that name. */
static enum status put_property(
    struct translator *translator, const char *name, bool negated, struct error *err)
{
    const char *items = negated ? NULL : property_items(name);
    uint64_t bytes = strlen(name);
    enum status status;

    if (items) return put(translator, items, err);
    status = put(translator, negated ? "\\P{" : "\\p{", err);
    if (status == OK && bytes > 2) status = put(translator, "sc:", err);
    if (status == OK) status = put(translator, name, err);
    return status == OK ? put(translator, "}", err) : status;
}

/* Read \p{name}, \p{^name} or \P{name}; the reader stands at the backslash. */
static enum status read_property(
    struct translator *translator, char name[NAME_LIMIT], bool *negated, struct error *err)
{
    const char *at = translator->at + 2;
    uint64_t bytes = 0;

    *negated = translator->at[1] == 'P';
    if (at == translator->end || *at++ != '{') return unsupported(translator, 3, err);
    if (at < translator->end && *at == '^') {
        *negated = !*negated;
        at++;
    }
    while (
        at + bytes < translator->end && (is_letter(at[bytes]) || at[bytes] == '_') && bytes < NAME_LIMIT - 1)
        bytes++;
    if (bytes == 0 || at + bytes == translator->end || at[bytes] != '}')
        return unsupported(translator, NAME_LIMIT, err);
    memcpy(name, at, bytes);
    name[bytes] = 0;
    translator->at = at + bytes + 1;
    return OK;
}

/* If a class such as \s or \p{L} stands here, append its items as they stand inside brackets. Outside of brackets
 * `negated` reports what the caller's bracket must do; inside, a negated class must be spelled out. */
static enum status class_items(struct translator *translator, bool inside, bool *negated, struct error *err)
{
    char letter = translator->at[1], name[NAME_LIMIT];
    enum status status;

    *negated = false;
    if (letter == 'p' || letter == 'P') {
        status = read_property(translator, name, negated, err);
        /* Whether a class of one case takes in the other where case is ignored, the two see differently. */
        if (status == OK && translator->caseless &&
            (!strcmp(name, "Lu") || !strcmp(name, "Ll") || !strcmp(name, "Lt")))
            return fail(err, ERR_UNSUPPORTED, "the pattern ignores the case of \\p{%s}", name);
        return status == OK ? put_property(translator, name, *negated && inside, err) : status;
    }
    *negated = letter < 'a';
    if (*negated && inside && letter != 'S' && letter != 'D') return unsupported(translator, 2, err);
    translator->at += 2;
    switch (letter | 0x20) {
    case 's':
        return put(translator, *negated && inside ? CLASS_NOT_SPACE : CLASS_SPACE, err);
    case 'd':
        return put_property(translator, "Nd", *negated && inside, err);
    case 'h':
        return put(translator, "0-9A-Fa-f", err);
    default:
        return put_word(translator, inside, err);
    }
}

static bool at_class(const struct translator *translator)
{
    return translator->end - translator->at >= 2 && translator->at[0] == '\\' &&
           memchr("sSdDhHwWpP", translator->at[1], 10) != NULL;
}

/* ---- escapes ---- */

/* \x41, \x{2581} or \u2581, as \x{...}. */
static enum status hexadecimal(struct translator *translator, struct error *err)
{
    const char *at = translator->at + 2;
    bool braces = at < translator->end && *at == '{' && translator->at[1] == 'x';
    uint64_t digits = 0, limit = translator->at[1] == 'u' ? 4 : braces ? 6 : 2;
    enum status status;

    if (braces) at++;
    while (digits < limit && at + digits < translator->end && is_hexadecimal(at[digits]))
        digits++;
    bool whole = translator->at[1] == 'u' ? digits == 4 : digits > 0;
    if (braces && (at + digits == translator->end || at[digits] != '}')) whole = false;
    if (!braces && digits == 2 && translator->at[1] == 'x' && at[0] > '7')
        whole = false; /* one byte of a character */
    if (!whole) return unsupported(translator, 10, err);
    if ((digits > 2 || braces) && translator->caseless) return unsupported(translator, 10, err);
    translator->at = at;
    status = put(translator, "\\x{", err);
    if (status == OK) status = copy(translator, digits, err);
    if (braces) translator->at++;
    return status == OK ? put(translator, "}", err) : status;
}

/* An escape that means one character, inside brackets or not. */
static enum status character_escape(struct translator *translator, struct error *err)
{
    char letter = translator->at[1];

    if (letter == 'x' || letter == 'u') return hexadecimal(translator, err);
    if (letter == 'v') {
        translator->at += 2;
        return put(translator, "\\x0b", err);
    }
    if (is_digit(letter) || (is_letter(letter) && !strchr("tnrfae", letter)))
        return unsupported(translator, 2, err);
    if ((uint8_t)letter >= 0x80) {
        translator->at++; /* the backslash means nothing; the character is copied next */
        return copy(translator, unicode_length(letter), err);
    }
    return copy(translator, 2, err);
}

/* \b or \B, which rest on what a word is. */
static enum status word_boundary(struct translator *translator, struct error *err)
{
    bool inside = translator->at[1] == 'B';
    const char *const parts[] = {
        "(?:(?<=[", inside ? "])(?=[" : "])(?![", "])|(?<![", inside ? "])(?![" : "])(?=["};
    enum status status = OK;

    translator->at += 2;
    for (unsigned i = 0; i < 4 && status == OK; i++) {
        status = put(translator, parts[i], err);
        if (status == OK) status = put_word(translator, false, err);
    }
    return status == OK ? put(translator, "]))", err) : status;
}

static enum status escape(struct translator *translator, struct error *err)
{
    uint64_t begin = translator->out->count;
    bool negated;
    enum status status;

    if (translator->end - translator->at < 2) return copy(translator, 1, err);
    translator->atom = begin;
    if (at_class(translator)) {
        status = put(translator, "[", err);
        if (status == OK) status = class_items(translator, false, &negated, err);
        if (status == OK && negated) status = insert(translator, begin + 1, "^", err);
        return status == OK ? put(translator, "]", err) : status;
    }
    switch (translator->at[1]) {
    case 'b':
    case 'B':
        return word_boundary(translator, err);
    case 'A':
    case 'z':
    case 'Z':
    case 'R':
    case 'N':
        return copy(translator, 2, err);
    default:
        return character_escape(translator, err);
    }
}

/* ---- brackets ---- */

/* [:name:] inside brackets, for the names whose meaning is known to be the same or that have a class of their own. */
static enum status posix_class(struct translator *translator, struct error *err)
{
    static const struct {
        const char *text, *items;
    } known[] = {
        {"[:space:]", CLASS_SPACE},
        {"[:xdigit:]", "0-9A-Fa-f"},
        {"[:cntrl:]", "\\p{Cc}"},
    };

    for (uint64_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!looking_at(translator, known[i].text)) continue;
        translator->at += strlen(known[i].text);
        return put(translator, known[i].items, err);
    }
    if (looking_at(translator, "[:digit:]")) {
        translator->at += strlen("[:digit:]");
        return put_property(translator, "Nd", false, err);
    }
    if (looking_at(translator, "[:word:]")) {
        translator->at += strlen("[:word:]");
        return put_word(translator, true, err);
    }
    return unsupported(translator, 10, err);
}

/* One item of a bracket. A hyphen beside a class of characters is just a hyphen in Ruby; in PCRE2, after the last range
 * of the spelled out class, it would go on as another range. */
static enum status bracket_item(struct translator *translator, struct error *err)
{
    bool negated, class = true;
    enum status status;

    if (*translator->at == '[')
        status = posix_class(translator, err); /* or a set within a set, which is refused there */
    else if (looking_at(translator, "&&"))
        return unsupported(translator, 2, err);
    else if (at_class(translator))
        status = class_items(translator, true, &negated, err);
    else
        class = false;
    if (class) {
        if (status != OK || !looking_at(translator, "-")) return status;
        translator->at++;
        return put(translator, "\\-", err);
    }
    if (*translator->at == '-') {
        translator->at++;
        return put(translator, at_class(translator) || looking_at(translator, "[") ? "\\-" : "-", err);
    }
    if (looking_at(translator, "\\b")) return copy(translator, 2, err); /* a backspace in both */
    if (*translator->at == '\\' && translator->end - translator->at >= 2)
        return character_escape(translator, err);
    if ((uint8_t)*translator->at >= 0x80 && check_folding(translator, err) != OK) return ERR_UNSUPPORTED;
    return copy(translator, unicode_length(*translator->at), err);
}

static enum status bracket(struct translator *translator, struct error *err)
{
    enum status status;

    translator->atom = translator->out->count;
    status = copy(translator, 1, err);
    if (status == OK && looking_at(translator, "^")) status = copy(translator, 1, err);
    if (status == OK && looking_at(translator, "]")) { /* first, it is a character */
        translator->at++;
        status = put(translator, "\\]", err);
    }
    while (status == OK && translator->at < translator->end && *translator->at != ']')
        status = bracket_item(translator, err);
    return status == OK && translator->at < translator->end ? copy(translator, 1, err) : status;
}

/* ---- groups ---- */

/* (?i), (?m:, (?-i: ... : Ruby's m is what PCRE2 calls s. Without a colon the options end, in Ruby, an alternative, in
 * PCRE2 not; at the very start of a group that is the same. */
static enum status options(struct translator *translator, bool *opened, struct error *err)
{
    const char *at = translator->at + 2;
    enum status status;

    while (at < translator->end && *at && strchr("im-", *at))
        at++;
    *opened = at < translator->end && *at == ':';
    if (!*opened && (at == translator->end || *at != ')' || !translator->fresh))
        return unsupported(translator, (uint64_t)(at - translator->at) + 1, err);
    status = copy(translator, 2, err);
    const char *off = memchr(translator->at, '-', (uint64_t)(at - translator->at));
    const char *i = memchr(translator->at, 'i', (uint64_t)(at - translator->at));
    if (i) translator->caseless = !off || i < off;
    while (translator->at < at && status == OK) {
        if (*translator->at != 'm') {
            status = copy(translator, 1, err);
            continue;
        }
        translator->at++;
        status = put(translator, "s", err);
    }
    return status == OK ? copy(translator, 1, err) : status;
}

/* (?<name>...), as an ordinary group: nothing refers to it. */
static enum status named_group(struct translator *translator, struct error *err)
{
    const char *at = translator->at + 3;

    while (at < translator->end && (is_letter(*at) || is_digit(*at) || *at == '_'))
        at++;
    if (at == translator->end || *at != '>') return unsupported(translator, 5, err);
    translator->at = at + 1;
    return put(translator, "(?:", err);
}

/* (? and what follows it. *opened is false for options, which no parenthesis will close. */
static enum status special_group(struct translator *translator, bool *opened, struct error *err)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};

    for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
        if (looking_at(translator, known[i])) return copy(translator, strlen(known[i]), err);
    }
    if (looking_at(translator, "(?<")) return named_group(translator, err);
    return options(translator, opened, err);
}

static enum status comment(struct translator *translator, struct error *err)
{
    const char *close = memchr(translator->at, ')', (uint64_t)(translator->end - translator->at));

    if (!close) return unsupported(translator, 3, err);
    translator->at = close + 1;
    return OK;
}

static enum status group(struct translator *translator, struct error *err)
{
    uint64_t begin = translator->out->count;
    enum status status;
    bool opened = true, caseless = translator->caseless;

    if (looking_at(translator, "(?#")) return comment(translator, err);
    if (looking_at(translator, "(*")) return unsupported(translator, 8, err);
    if (translator->depth == GROUP_LIMIT)
        return fail(
            err, ERR_UNSUPPORTED, "the pattern has more than %d groups within one another", GROUP_LIMIT);
    if (looking_at(translator, "(?")) {
        status = special_group(translator, &opened, err);
    } else {
        translator->at++;
        status = put(translator, "(?:", err);
    }
    if (status != OK || !opened) return status;
    translator->groups[translator->depth].begin = begin;
    translator->groups[translator->depth++].caseless = caseless;
    translator->atom = NO_ATOM;
    translator->fresh = true;
    return OK;
}

static enum status close_group(struct translator *translator, struct error *err)
{
    if (translator->depth == 0)
        return fail(err, ERR_FORMAT, "the pattern closes a group that it never opened");
    translator->atom = translator->groups[--translator->depth].begin;
    translator->caseless = translator->groups[translator->depth].caseless;
    return copy(translator, 1, err);
}

/* ---- repetition ---- */

/* Put a group around the last atom and all that follows it. */
static enum status wrap_atom(struct translator *translator, struct error *err)
{
    enum status status = insert(translator, translator->atom, "(?:", err);

    return status == OK ? put(translator, ")", err) : status;
}

/* The length of {n}, {n,}, {,m} or {n,m} at the reader, or 0. */
static uint64_t interval_length(const struct translator *translator, bool *fixed, bool *open_low)
{
    const char *at = translator->at + 1;
    uint64_t low = 0, high = 0;

    while (at < translator->end && is_digit(*at) && low < 6)
        at++, low++;
    *fixed = at < translator->end && *at == '}';
    *open_low = low == 0;
    if (*fixed) return low > 0 ? (uint64_t)(at + 1 - translator->at) : 0;
    if (at == translator->end || *at++ != ',') return 0;
    while (at < translator->end && is_digit(*at) && high < 6)
        at++, high++;
    if (at == translator->end || *at != '}' || (low == 0 && high == 0)) return 0;
    return (uint64_t)(at + 1 - translator->at);
}

static enum status interval(struct translator *translator, struct error *err)
{
    bool fixed, open_low;
    uint64_t bytes = interval_length(translator, &fixed, &open_low);
    enum status status;

    if (bytes == 0) { /* not an interval: a brace like any other character */
        translator->atom = translator->out->count;
        translator->at++;
        return put(translator, "\\{", err);
    }
    if (translator->atom == NO_ATOM) return unsupported(translator, bytes, err);
    status = copy(translator, 1, err);
    if (status == OK && open_low) status = put(translator, "0", err);
    if (status == OK) status = copy(translator, bytes - 1, err);
    if (status != OK) return status;
    bool again = looking_at(translator, "+") || (fixed && looking_at(translator, "?"));
    if (again) {
        status = wrap_atom(translator, err);
        if (status == OK) status = copy(translator, 1, err);
    } else if (looking_at(translator, "?")) {
        status = copy(translator, 1, err);
    }
    translator->atom = NO_ATOM;
    return status;
}

/* *, + or ?, with ? (lazy) or + (possessive) after it. */
static enum status repetition(struct translator *translator, struct error *err)
{
    enum status status;

    if (translator->atom == NO_ATOM) return unsupported(translator, 1, err);
    status = copy(translator, 1, err);
    if (status == OK && (looking_at(translator, "?") || looking_at(translator, "+")))
        status = copy(translator, 1, err);
    translator->atom = NO_ATOM;
    return status;
}

/* ---- the pass ---- */

static enum status alternative_or_anchor(struct translator *translator, struct error *err)
{
    translator->atom = NO_ATOM;
    return copy(translator, 1, err);
}

static enum status character(struct translator *translator, struct error *err)
{
    translator->atom = translator->out->count;
    if (check_folding(translator, err) != OK) return ERR_UNSUPPORTED;
    return copy(translator, unicode_length(*translator->at), err);
}

static translate_step step_for(char byte)
{
    switch (byte) {
    case '\\':
        return escape;
    case '[':
        return bracket;
    case '(':
        return group;
    case ')':
        return close_group;
    case '{':
        return interval;
    case '*':
    case '+':
    case '?':
        return repetition;
    case '|':
    case '^':
    case '$':
        return alternative_or_anchor;
    default:
        return character;
    }
}

enum status pattern_translate(struct text *out, const char *bytes, uint64_t count, struct error *err)
{
    struct translator translator = {
        .out = out, .start = bytes, .at = bytes, .end = bytes + count, .atom = NO_ATOM, .fresh = true};
    enum status status = OK;

    if (count > PATTERN_LIMIT)
        return fail(err, ERR_MEMORY, "the pattern is longer than %d bytes", PATTERN_LIMIT);
    while (translator.at < translator.end && status == OK) {
        bool was_fresh = translator.fresh;
        char byte = *translator.at;
        status = step_for(byte)(&translator, err);
        if (byte != '(' && was_fresh) translator.fresh = false;
    }
    return status;
}
