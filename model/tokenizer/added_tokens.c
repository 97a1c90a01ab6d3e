/* The sets are sorted lists that serve as tries: matching narrows the range of tokens that begin with the bytes read. */
#include "model/tokenizer/added_tokens.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"
#include "model/tokenizer/unicode.h"

/* ---- reading ---- */

/* One element of the section, as read. */
struct element {
    struct added_token token;
    char *content;
    uint64_t content_bytes, id;
    bool has_id;
};

static enum status read_content(struct element *element, struct json_reader *reader, struct error *err)
{
    struct json_text text;
    enum status status = json_read_string(reader, &text, err);

    if (status != OK) return status;
    if (element->content) return fail(err, ERR_FORMAT, "content is there twice");
    if (text.count > ADDED_BYTES_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "content is longer than %d bytes", ADDED_BYTES_LIMIT);
    element->content = memory_text(text.bytes, text.count, err);
    element->content_bytes = text.count;
    return element->content ? OK : ERR_MEMORY;
}

static bool key_is(const struct json_text *key, const char *name)
{
    return key->count == strlen(name) && memcmp(key->bytes, name, key->count) == 0;
}

static enum status read_member(
    struct element *element, const struct json_text *key, struct json_reader *reader, struct error *err)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {
        {"single_word", &element->token.single_word},
        {"lstrip", &element->token.strip_left},
        {"rstrip", &element->token.strip_right},
        {"normalized", &element->token.normalized},
        {"special", &element->token.special},
    };

    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (key_is(key, flags[i].name)) return json_read_bool(reader, flags[i].flag, err);
    }
    if (key_is(key, "content")) return read_content(element, reader, err);
    if (!key_is(key, "id")) return json_skip(reader, NULL, err);
    element->has_id = true;
    return json_read_u64(reader, &element->id, err);
}

static enum status read_element(struct element *element, struct json_reader *reader, struct error *err)
{
    enum status status = json_enter_object(reader, err);
    bool more = true;

    while (status == OK) {
        struct json_text key;
        status = json_next_key(reader, &key, &more, err);
        if (status != OK || !more) break;
        status = read_member(element, &key, reader, err);
    }
    if (status == OK && !element->has_id) return fail(err, ERR_FORMAT, "id is missing");
    if (status == OK && !element->content) return fail(err, ERR_FORMAT, "content is missing");
    return status;
}

/* Find the token's entry, or make it. */
static enum status place(struct element *element, struct vocabulary *vocabulary, struct error *err)
{
    uint32_t entry = vocabulary_find(vocabulary, element->content, element->content_bytes);

    element->token.entry = entry;
    if (entry == NO_ENTRY) {
        element->token.entry = (uint32_t)vocabulary->count;
        return vocabulary_add(vocabulary, element->content, element->content_bytes, element->id, err);
    }
    if (vocabulary->entries[entry].id == element->id) return OK;
    return fail(err, ERR_FORMAT, "id is %" PRIu64 ", but %" PRIu32 " in the vocabulary", element->id,
        vocabulary->entries[entry].id);
}

/* Append what is looked for to the texts: the content, normalized if the token says so. */
static enum status add_text(struct added_tokens *added, struct element *element,
    const struct normalizer *normalizer, struct pattern_scratch *scratch, struct error *err)
{
    struct normal_text text = {.text = element->content, .bytes = element->content_bytes};
    enum status status = OK;

    if (element->token.normalized) status = normalizer_apply(normalizer, scratch, &text, err);
    if (status == OK && (text.bytes == 0 || text.bytes > ADDED_BYTES_LIMIT))
        status = fail(
            err, ERR_UNSUPPORTED, "content is normalized to %s", text.bytes == 0 ? "nothing" : "too much");
    element->token.offset = added->texts.count;
    element->token.bytes = (uint32_t)text.bytes;
    if (status == OK) status = text_append(&added->texts, text.text, text.bytes, err);
    normal_text_free(&text);
    return status;
}

static enum status read_token(struct added_tokens *added, struct vocabulary *vocabulary,
    const struct normalizer *normalizer, struct pattern_scratch *scratch, struct json_reader *reader,
    struct error *err)
{
    struct element element = {0};
    enum status status = read_element(&element, reader, err);

    if (status == OK && element.content_bytes > 0) { /* the library ignores tokens without content */
        status = place(&element, vocabulary, err);
        if (status == OK) status = add_text(added, &element, normalizer, scratch, err);
        if (status == OK)
            status =
                memory_grow(&added->tokens, &added->capacity, added->count + 1, sizeof *added->tokens, err);
        if (status == OK) added->tokens[added->count++] = element.token;
    }
    memory_free(element.content);
    return status;
}

static enum status read_tokens(struct added_tokens *added, struct vocabulary *vocabulary,
    const struct normalizer *normalizer, struct pattern_scratch *scratch, const struct json_text *section,
    struct error *err)
{
    struct json_reader reader;
    enum status status;
    bool more = true;

    json_reader_init(&reader, "list", section->bytes, section->count);
    status = json_enter_array(&reader, err);
    for (uint64_t i = 0; status == OK; i++) {
        status = json_next_element(&reader, &more, err);
        if (status != OK || !more) break;
        status = read_token(added, vocabulary, normalizer, scratch, &reader, err);
        if (status != OK) fail_within(err, status, "token %" PRIu64, i);
    }
    json_reader_free(&reader);
    return status;
}

/* ---- sets ---- */

/* What qsort compares: it has no context argument, so the texts come along. */
struct sortable {
    const char *text;
    const struct added_token *token;
};

static int compare_texts(const void *left, const void *right)
{
    const struct sortable *a = left, *b = right;
    uint32_t shorter = a->token->bytes < b->token->bytes ? a->token->bytes : b->token->bytes;
    int order = memcmp(a->text, b->text, shorter);

    if (order != 0) return order;
    return (a->token->bytes > b->token->bytes) - (a->token->bytes < b->token->bytes);
}

static int compare_entries(const void *left, const void *right)
{
    const struct added_token *a = left, *b = right;

    return (a->entry > b->entry) - (a->entry < b->entry);
}

/* Take over the sorted tokens; the same text twice could not be told apart. */
static enum status fill_set(
    struct added_set *set, const struct sortable *sorted, uint64_t count, struct error *err)
{
    uint64_t at = 0;
    char quoted[80];

    set->count = count;
    set->tokens = memory_new(count, sizeof *set->tokens, err);
    if (!set->tokens) return ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++) {
        set->tokens[i] = sorted[i].token;
        if (i > 0 && compare_texts(&sorted[i - 1], &sorted[i]) == 0) {
            return fail(err, ERR_FORMAT, "two tokens are looked for as \"%s\"",
                error_quote(quoted, sizeof quoted, sorted[i].text, sorted[i].token->bytes));
        }
    }
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < count && (uint8_t)*sorted[at].text < byte)
            at++;
        set->first[byte] = (uint32_t)at;
    }
    return OK;
}

static enum status make_set(
    struct added_set *set, const struct added_tokens *added, bool normalized, struct error *err)
{
    struct sortable *sorted = memory_new(added->count, sizeof *sorted, err);
    uint64_t count = 0;
    enum status status;

    if (!sorted) return ERR_MEMORY;
    for (uint64_t i = 0; i < added->count; i++) {
        const struct added_token *token = &added->tokens[i];
        if (token->normalized == normalized)
            sorted[count++] = (struct sortable){added->texts.bytes + token->offset, token};
    }
    if (count > 0) qsort(sorted, count, sizeof *sorted, compare_texts);
    status = fill_set(set, sorted, count, err);
    memory_free(sorted);
    return status;
}

static enum status sort_tokens(
    struct added_tokens *added, const struct vocabulary *vocabulary, struct error *err)
{
    enum status status;
    uint64_t bytes;
    char quoted[80];

    if (added->count > 0) qsort(added->tokens, added->count, sizeof *added->tokens, compare_entries);
    for (uint64_t i = 1; i < added->count; i++) {
        if (added->tokens[i - 1].entry != added->tokens[i].entry) continue;
        const char *content = vocabulary_content(vocabulary, added->tokens[i].entry, &bytes);
        return fail(err, ERR_FORMAT, "the token \"%s\" is there twice",
            error_quote(quoted, sizeof quoted, content, bytes));
    }
    status = make_set(&added->raw, added, false, err);
    return status == OK ? make_set(&added->normalized, added, true, err) : status;
}

enum status added_tokens_read(struct added_tokens *added, struct vocabulary *vocabulary,
    const struct normalizer *normalizer, const struct json_text *section, struct error *err)
{
    struct pattern_scratch *scratch = NULL;
    enum status status = pattern_scratch_create(&scratch, section->count, err);

    if (status == OK && section->count > 0)
        status = read_tokens(added, vocabulary, normalizer, scratch, section, err);
    if (status == OK) status = sort_tokens(added, vocabulary, err);
    pattern_scratch_free(scratch);
    return status;
}

void added_tokens_free(struct added_tokens *added)
{
    memory_free(added->tokens);
    memory_free(added->raw.tokens);
    memory_free(added->normalized.tokens);
    text_free(&added->texts);
    *added = (struct added_tokens){0};
}

const struct added_token *added_tokens_find(const struct added_tokens *added, uint32_t entry)
{
    uint64_t low = 0, high = added->count;

    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (added->tokens[middle].entry < entry)
            low = middle + 1;
        else
            high = middle;
    }
    return low < added->count && added->tokens[low].entry == entry ? &added->tokens[low] : NULL;
}

/* ---- matching ---- */

static uint8_t byte_of(const struct added_tokens *added, const struct added_token *token, uint64_t depth)
{
    return (uint8_t)added->texts.bytes[token->offset + depth];
}

/* The first of the tokens from low to high whose byte at `depth` is at least `byte`. */
static uint64_t lower_bound(const struct added_tokens *added, const struct added_set *set, uint64_t low,
    uint64_t high, uint64_t depth, unsigned byte)
{
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (byte_of(added, set->tokens[middle], depth) < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token of the set at the beginning of the text, or NULL. */
static const struct added_token *longest(
    const struct added_tokens *added, const struct added_set *set, const char *text, uint64_t bytes)
{
    uint64_t low = set->first[(uint8_t)*text], high = set->first[(uint8_t)*text + 1];
    const struct added_token *found = NULL;

    /* All tokens from low to high begin with the `depth` bytes read, and none but the first can be no longer. */
    for (uint64_t depth = 1; low < high; depth++) {
        if (set->tokens[low]->bytes == depth) found = set->tokens[low++];
        if (low == high || depth == bytes) break;
        uint8_t byte = (uint8_t)text[depth];
        if (byte_of(added, set->tokens[low], depth) != byte)
            low = lower_bound(added, set, low, high, depth, byte);
        if (low < high && byte_of(added, set->tokens[high - 1], depth) != byte)
            high = lower_bound(added, set, low, high, depth, byte + 1u);
    }
    return found;
}

/* A walk over one text. */
struct splitting {
    const char *text;
    uint64_t bytes;
    uint64_t covered;                /* how far the parts reach */
    uint64_t space_begin, space_end; /* the run of white space seen last, so that none is scanned twice */
};

static bool stands_alone(const struct splitting *splitting, uint64_t begin, uint64_t end)
{
    unsigned length;

    if (begin > 0 && unicode_is_word(unicode_decode_before(splitting->text + begin))) return false;
    return end == splitting->bytes || !unicode_is_word(unicode_decode(splitting->text + end, &length));
}

/* Go left over white space, but not into what the parts cover already. */
static uint64_t skip_left(const struct splitting *splitting, uint64_t begin)
{
    if (begin <= splitting->covered) return splitting->covered;
    while (begin > splitting->covered && unicode_is_space(unicode_decode_before(splitting->text + begin))) {
        do {
            begin--;
        } while (((uint8_t)splitting->text[begin] & 0xC0) == 0x80);
    }
    return begin;
}

static uint64_t skip_right(struct splitting *splitting, uint64_t end)
{
    unsigned length;

    if (end >= splitting->space_begin && end < splitting->space_end) return splitting->space_end;
    splitting->space_begin = end;
    while (end < splitting->bytes && unicode_is_space(unicode_decode(splitting->text + end, &length)))
        end += length;
    return splitting->space_end = end;
}

/* A token that was found and counts: the part before it and the token itself. White space that a token takes in is still
 * searched for tokens, and what they find there may overlap, as in the library. */
static enum status add_token(struct splitting *splitting, const struct added_token *token, uint64_t begin,
    uint64_t end, added_sink sink, void *context, struct error *err)
{
    enum status status = OK;

    if (token->strip_left) begin = skip_left(splitting, begin);
    if (token->strip_right) end = skip_right(splitting, end);
    if (splitting->covered < begin) status = sink(context, NULL, splitting->covered, begin, err);
    if (status == OK && begin < end) status = sink(context, token, begin, end, err);
    splitting->covered = end;
    return status;
}

enum status added_tokens_split(const struct added_tokens *added, const struct added_set *set,
    const char *text, uint64_t bytes, added_sink sink, void *context, struct error *err)
{
    struct splitting splitting = {.text = text, .bytes = bytes};
    enum status status = OK;
    uint64_t at = set->count > 0 ? 0 : bytes;

    while (at < bytes && status == OK) {
        uint8_t byte = (uint8_t)text[at];
        const struct added_token *token =
            set->first[byte] < set->first[byte + 1] ? longest(added, set, text + at, bytes - at) : NULL;
        if (!token) {
            at++;
            continue;
        }
        uint64_t end = at + token->bytes;
        if (!token->single_word || stands_alone(&splitting, at, end))
            status = add_token(&splitting, token, at, end, sink, context, err);
        at = end;
    }
    if (status == OK && splitting.covered < bytes)
        status = sink(context, NULL, splitting.covered, bytes, err);
    return status;
}
