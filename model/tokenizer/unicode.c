/* Classes of code points come from utf8proc's categories, corrected by the ranges of unicode_tables.h. Normal forms take
 * single decompositions and the composition of a run from utf8proc, but the ordering of marks in between is done here:
 * utf8proc's is quadratic in the length of a run of marks, and the text may be hostile. */
#include "model/tokenizer/unicode.h"

#include <utf8proc.h>

#include "base/memory.h"
#include "model/tokenizer/unicode_tables.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool in_ranges(const struct unicode_range *ranges, uint64_t count, uint32_t point)
{
    uint64_t low = 0, high = count;

    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (point > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && point >= ranges[low].first;
}

static bool has_category(uint32_t point, uint32_t categories)
{
    return (categories >> utf8proc_category((utf8proc_int32_t)point) & 1) != 0;
}

#define CATEGORY(name) (UINT32_C(1) << UTF8PROC_CATEGORY_##name)
#define CATEGORIES_NUMBER (CATEGORY(ND) | CATEGORY(NL) | CATEGORY(NO))
#define CATEGORIES_MARK (CATEGORY(MN) | CATEGORY(MC) | CATEGORY(ME))
#define CATEGORIES_LETTER (CATEGORY(LU) | CATEGORY(LL) | CATEGORY(LT) | CATEGORY(LM) | CATEGORY(LO))
#define CATEGORIES_PUNCTUATION                                                                               \
    (CATEGORY(PC) | CATEGORY(PD) | CATEGORY(PS) | CATEGORY(PE) | CATEGORY(PI) | CATEGORY(PF) | CATEGORY(PO))

/* ---- graphemes ---- */

uint64_t unicode_grapheme(const char *text, uint64_t bytes)
{
    utf8proc_int32_t state = 0;
    unsigned length;
    uint32_t before = unicode_decode(text, &length);
    uint64_t at = length;

    for (; at < bytes; at += length) {
        const uint32_t point = unicode_decode(text + at, &length);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)point, &state))
            break;
        before = point;
    }
    return at;
}

/* ---- classes ---- */

bool unicode_is_space(uint32_t point)
{
    if (point < 0x80) return point == ' ' || (point >= '\t' && point <= '\r');
    if (point >= 0x2000) {
        return point <= 0x200A || point == 0x2028 || point == 0x2029 || point == 0x202F || point == 0x205F ||
               point == 0x3000;
    }
    return point == 0x85 || point == 0xA0 || point == 0x1680;
}

static bool is_ascii_letter(uint32_t point)
{
    return (point | 0x20) >= 'a' && (point | 0x20) <= 'z';
}

static bool is_ascii_digit(uint32_t point)
{
    return point >= '0' && point <= '9';
}

bool unicode_is_word(uint32_t point)
{
    const uint32_t word = CATEGORIES_LETTER | CATEGORIES_MARK | CATEGORY(ND) | CATEGORY(NL) | CATEGORY(PC);

    if (point < 0x80) return is_ascii_letter(point) || is_ascii_digit(point) || point == '_';
    return has_category(point, word) || in_ranges(word_also, COUNT(word_also), point);
}

bool unicode_is_numeric(uint32_t point)
{
    if (point < 0x80) return is_ascii_digit(point);
    return has_category(point, CATEGORIES_NUMBER) || in_ranges(numeric_also, COUNT(numeric_also), point);
}

bool unicode_is_punctuation(uint32_t point)
{
    if (point < 0x80) return point > ' ' && point < 0x7F && !is_ascii_letter(point) && !is_ascii_digit(point);
    if (point == 0x166D || point == 0x111C9) return true; /* no longer punctuation since Unicode 8 */
    return has_category(point, CATEGORIES_PUNCTUATION) &&
           !in_ranges(punctuation_not, COUNT(punctuation_not), point);
}

/* A character that the reference's normal forms do not know. */
static bool is_unknown(uint32_t point)
{
    return point >= normalize_not[0].first && in_ranges(normalize_not, COUNT(normalize_not), point);
}

bool unicode_is_mark(uint32_t point)
{
    if (point < 0x300) return false;
    if (point == 0x1CF2 || point == 0x1CF3) return true; /* letters only since Unicode 12 */
    return has_category(point, CATEGORIES_MARK) && !is_unknown(point);
}

/* ---- UTF-8 ---- */

uint32_t unicode_decode_before(const char *end)
{
    unsigned length = 1;

    while (((uint8_t)end[-(int)length] & 0xC0) == 0x80)
        length++;
    return utf8_code_point(end - length, length);
}

static unsigned encode(char *out, uint32_t point)
{
    return (unsigned)utf8proc_encode_char((utf8proc_int32_t)point, (utf8proc_uint8_t *)out);
}

enum status unicode_append(struct text *out, uint32_t point, struct error *err)
{
    char bytes[4];

    return text_append(out, bytes, encode(bytes, point), err);
}

/* The bytes of the maximal subpart at `at`, where no well-formed sequence begins: those that could begin one. A prefix of
 * two or three bytes could if it is well-formed with continuation bytes after it. */
static uint64_t broken_length(const char *at, uint64_t count)
{
    for (uint64_t length = count < 3 ? count : 3; length >= 2; length--) {
        char whole[4] = {(char)0x80, (char)0x80, (char)0x80, (char)0x80};
        memcpy(whole, at, length);
        if (utf8_sequence(whole, sizeof whole) > length) return length;
    }
    return 1;
}

enum status unicode_repair(struct text *out, const char *bytes, uint64_t count, struct error *err)
{
    uint64_t copied = 0, at = 0;
    enum status status = OK;

    while (at < count && status == OK) {
        unsigned length = utf8_sequence(bytes + at, count - at);
        if (length > 0) {
            at += length;
            continue;
        }
        status = text_append(out, bytes + copied, at - copied, err);
        if (status == OK) status = text_append_string(out, "\xEF\xBF\xBD", err);
        at += broken_length(bytes + at, count - at);
        copied = at;
    }
    return status == OK ? text_append(out, bytes + copied, count - copied, err) : status;
}

/* ---- lower case ---- */

static uint32_t lower(uint32_t point)
{
    for (uint64_t i = 0; i < COUNT(lower_also); i++) {
        if (point >= lower_also[i].first && point <= lower_also[i].last)
            return (uint32_t)((int32_t)point + lower_also[i].offset);
    }
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)point);
}

enum status unicode_lower(struct text *out, const char *bytes, uint64_t count, struct error *err)
{
    enum status status = OK;

    for (uint64_t at = 0; at < count && status == OK;) {
        unsigned length;
        uint32_t point = unicode_decode(bytes + at, &length);
        if (point < 0x80) {
            char byte = (char)(point >= 'A' && point <= 'Z' ? point | 0x20 : point);
            status = text_append(out, &byte, 1, err);
        } else if (point == 0x130) {
            status = text_append_string(out, "i\xCC\x87", err); /* the one character that becomes two */
        } else {
            status = unicode_append(out, lower(point), err);
        }
        at += length;
    }
    return status;
}

uint32_t unicode_title(uint32_t point)
{
    return (uint32_t)utf8proc_totitle((utf8proc_int32_t)point);
}

/* ---- normal forms ---- */

enum { LONGEST_DECOMPOSITION = 32 /* U+FDFA, the longest, has 18 */, ENOUGH_PENDING = 4096 };

/* Decomposed code points that still wait for marks to follow. */
struct pending {
    utf8proc_int32_t *points;
    uint64_t count, capacity;
    utf8proc_int32_t *sorted; /* scratch for `order` */
    uint64_t sorted_capacity;
    int options;
};

static unsigned combining_class(utf8proc_int32_t point)
{
    return (unsigned)utf8proc_get_property(point)->combining_class;
}

/* Sort a run of marks by their class, keeping the order within a class: a counting sort. */
static enum status sort_marks(struct pending *pending, uint64_t begin, uint64_t end, struct error *err)
{
    uint64_t offsets[257] = {0};
    enum status status =
        memory_grow(&pending->sorted, &pending->sorted_capacity, end - begin, sizeof *pending->sorted, err);

    if (status != OK) return status;
    for (uint64_t i = begin; i < end; i++)
        offsets[combining_class(pending->points[i]) + 1]++;
    for (unsigned i = 1; i < 257; i++)
        offsets[i] += offsets[i - 1];
    for (uint64_t i = begin; i < end; i++)
        pending->sorted[offsets[combining_class(pending->points[i])]++] = pending->points[i];
    memcpy(pending->points + begin, pending->sorted, (end - begin) * sizeof *pending->sorted);
    return OK;
}

/* The canonical ordering algorithm: every run of marks is sorted unless it is in order already. */
static enum status order(struct pending *pending, struct error *err)
{
    for (uint64_t begin = 0; begin < pending->count;) {
        bool sorted = true;
        uint64_t end = begin;
        unsigned last = 0;
        for (; end < pending->count; end++) {
            unsigned class = combining_class(pending->points[end]);
            if (class == 0) break;
            if (class < last) sorted = false;
            last = class;
        }
        if (!sorted && sort_marks(pending, begin, end, err) != OK) return ERR_MEMORY;
        begin = end + 1;
    }
    return OK;
}

/* Order, compose if the form says so, and write out what is pending. */
static enum status flush(struct pending *pending, struct text *out, struct error *err)
{
    utf8proc_ssize_t count = (utf8proc_ssize_t)pending->count;
    enum status status = order(pending, err);

    if (status == OK && (pending->options & UTF8PROC_COMPOSE) && count > 1)
        count = utf8proc_normalize_utf32(pending->points, count, (utf8proc_option_t)pending->options);
    for (utf8proc_ssize_t i = 0; i < count && status == OK; i++)
        status = unicode_append(out, (uint32_t)pending->points[i], err);
    pending->count = 0;
    return status;
}

static enum status decompose(struct pending *pending, uint32_t point, struct error *err)
{
    int boundary = 0;
    enum status status = memory_grow(&pending->points, &pending->capacity,
        pending->count + LONGEST_DECOMPOSITION, sizeof *pending->points, err);

    if (status != OK) return status;
    utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)point, pending->points + pending->count,
            LONGEST_DECOMPOSITION, (utf8proc_option_t)pending->options, &boundary);
    if (count > 0 && count <= LONGEST_DECOMPOSITION) pending->count += (uint64_t)count;
    return OK;
}

/* Characters that never join what stands before them: safe places to flush. Far from all, but common ones. */
static bool begins_anew(uint32_t point)
{
    return point < 0x300 || (point >= 0x4E00 && point < 0xA000) || (point >= 0xAC00 && point < 0xD7A4);
}

/* Append the run of other than ASCII characters at *at, with the ASCII character before it that they may modify. */
static enum status normalize_run(struct pending *pending, struct text *out, const char *bytes, uint64_t count,
    uint64_t *at, struct error *err)
{
    enum status status = OK;

    do {
        unsigned length;
        uint32_t point = unicode_decode(bytes + *at, &length);
        if (is_unknown(point)) {
            status = flush(pending, out, err);
            if (status == OK) status = text_append(out, bytes + *at, length, err);
        } else {
            if (pending->count >= ENOUGH_PENDING && begins_anew(point)) status = flush(pending, out, err);
            if (status == OK) status = decompose(pending, point, err);
        }
        *at += length;
    } while (*at < count && (uint8_t)bytes[*at] >= 0x80 && status == OK);
    return status == OK ? flush(pending, out, err) : status;
}

enum status unicode_normalize(
    struct text *out, const char *bytes, uint64_t count, enum unicode_form form, struct error *err)
{
    static const int options[] = {
        [UNICODE_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [UNICODE_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [UNICODE_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [UNICODE_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    struct pending pending = {.options = options[form]};
    enum status status = OK;

    for (uint64_t at = 0; at < count && status == OK;) {
        uint64_t begin = at;
        while (at < count && (uint8_t)bytes[at] < 0x80)
            at++;
        if (at < count && at > begin) at--;
        status = text_append(out, bytes + begin, at - begin, err);
        if (at < count && status == OK) status = normalize_run(&pending, out, bytes, count, &at, err);
    }
    memory_free(pending.points);
    memory_free(pending.sorted);
    return status;
}
