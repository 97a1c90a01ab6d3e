/* Reading the model: vocabulary and merges pass by once in the pull parser, whatever their size. */
#include <inttypes.h>

#include "base/memory.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/hash.h"
#include "model/tokenizer/unicode.h"

/* The members of the section that are not small. */
struct sections {
    struct json_text vocab, merges;
};

/* ---- vocabulary ---- */

static enum status read_vocab(
    struct vocabulary *vocabulary, const struct json_text *section, struct error *err)
{
    struct json_reader reader;
    enum status status;
    bool more = true;

    json_reader_init(&reader, "vocab", section->bytes, section->count);
    status = json_enter_object(&reader, err);
    while (status == OK) {
        struct json_text token;
        uint64_t id;
        status = json_next_key(&reader, &token, &more, err);
        if (status != OK || !more) break;
        status = json_read_u64(&reader, &id, err);
        if (status == OK) status = vocabulary_add(vocabulary, token.bytes, token.count, id, err);
    }
    json_reader_free(&reader);
    vocabulary->model_count = vocabulary->count;
    return status;
}

/* ---- merges ---- */

static struct bpe_merge *merge_slot(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t slot = hash_pair(left, right);

    for (unsigned probe = 0; probe < HASH_PROBE_LIMIT; probe++, slot++) {
        struct bpe_merge *merge = &bpe->merges[slot & (bpe->merge_slots - 1)];
        if (merge->left == NO_ENTRY || (merge->left == left && merge->right == right)) return merge;
    }
    return NULL;
}

const struct bpe_merge *bpe_find_merge(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const struct bpe_merge *merge = bpe->merge_slots > 0 ? merge_slot(bpe, left, right) : NULL;

    return merge && merge->left != NO_ENTRY ? merge : NULL;
}

/* The elements of an array, to size the tables before they are filled. */
static enum status count_elements(const struct json_text *section, uint64_t *count, struct error *err)
{
    struct json_reader reader;
    enum status status;
    bool more = true;

    *count = 0;
    json_reader_init(&reader, "merges", section->bytes, section->count);
    status = json_enter_array(&reader, err);
    while (status == OK) {
        status = json_next_element(&reader, &more, err);
        if (status != OK || !more) break;
        status = json_skip(&reader, NULL, err);
        ++*count;
    }
    json_reader_free(&reader);
    return status;
}

/* One half of a merge: its token, and its content at the end of `product`. */
static enum status take_half(const struct vocabulary *vocabulary, const char *bytes, uint64_t count,
    uint64_t rank, struct text *product, uint32_t *entry, struct error *err)
{
    char quoted[80];

    *entry = vocabulary_find_model(vocabulary, bytes, count);
    if (*entry == NO_ENTRY) {
        return fail(err, ERR_FORMAT, "merge %" PRIu64 " names \"%s\", which is no token", rank,
            error_quote(quoted, sizeof quoted, bytes, count));
    }
    return text_append(product, bytes, count, err);
}

/* "a b": two halves with one space. */
static enum status read_joined(struct json_reader *reader, const struct vocabulary *vocabulary, uint64_t rank,
    struct text *product, uint32_t halves[2], bool *comment, struct error *err)
{
    static const char version[] = "#version"; /* the first line of a merges.txt, kept by some converters */
    struct json_text text;
    enum status status = json_read_string(reader, &text, err);

    if (status != OK) return status;
    *comment = text.count >= sizeof version - 1 && memcmp(text.bytes, version, sizeof version - 1) == 0;
    if (*comment) return OK;
    const char *end = text.bytes + text.count, *space = memchr(text.bytes, ' ', text.count);
    if (!space || memchr(space + 1, ' ', (uint64_t)(end - space - 1)))
        return fail(err, ERR_FORMAT, "merge %" PRIu64 " is not two tokens with a space between them", rank);
    status =
        take_half(vocabulary, text.bytes, (uint64_t)(space - text.bytes), rank, product, &halves[0], err);
    if (status != OK) return status;
    return take_half(vocabulary, space + 1, (uint64_t)(end - space - 1), rank, product, &halves[1], err);
}

/* ["a", "b"] */
static enum status read_pair(struct json_reader *reader, const struct vocabulary *vocabulary, uint64_t rank,
    struct text *product, uint32_t halves[2], struct error *err)
{
    enum status status = json_enter_array(reader, err);
    bool more = false;

    for (unsigned i = 0; i < 3 && status == OK; i++) {
        struct json_text text;
        status = json_next_element(reader, &more, err);
        if (status != OK) return status;
        if (more != (i < 2)) return fail(err, ERR_FORMAT, "merge %" PRIu64 " is not a pair", rank);
        if (!more) break;
        status = json_read_string(reader, &text, err);
        if (status == OK)
            status = take_half(vocabulary, text.bytes, text.count, rank, product, &halves[i], err);
    }
    return status;
}

static enum status add_merge(
    struct bpe *bpe, const uint32_t halves[2], uint64_t rank, const struct text *product, struct error *err)
{
    struct bpe_merge *merge = merge_slot(bpe, halves[0], halves[1]);
    char quoted[80];

    if (!merge) return fail(err, ERR_FORMAT, "the merges were chosen to collide in a hash table");
    uint32_t entry = vocabulary_find_model(bpe->vocabulary, product->bytes, product->count);
    if (entry == NO_ENTRY) {
        return fail(err, ERR_FORMAT, "merge %" PRIu64 " makes \"%s\", which is no token", rank,
            error_quote(quoted, sizeof quoted, product->bytes, product->count));
    }
    /* The same pair again: the last rank counts, as in the library. */
    *merge = (struct bpe_merge){halves[0], halves[1], (uint32_t)rank, entry};
    return OK;
}

static enum status make_merge_tables(struct bpe *bpe, uint64_t count, struct error *err)
{
    if (count >= UINT32_MAX / 4) return fail(err, ERR_MEMORY, "more than a billion merges");
    bpe->merge_slots = hash_slots(count);
    bpe->merges = memory_new(bpe->merge_slots, sizeof *bpe->merges, err);
    if (!bpe->merges) return ERR_MEMORY;
    for (uint64_t i = 0; i < bpe->merge_slots; i++)
        bpe->merges[i].left = NO_ENTRY;
    return OK;
}

static enum status read_merges(struct bpe *bpe, const struct json_text *section, struct error *err)
{
    struct json_reader reader;
    struct text product = {0};
    uint64_t count, rank = 0;
    enum status status = count_elements(section, &count, err);
    bool more = true;

    if (status == OK) status = make_merge_tables(bpe, count, err);
    if (status != OK) return status;
    json_reader_init(&reader, "merges", section->bytes, section->count);
    status = json_enter_array(&reader, err);
    while (status == OK) {
        enum json_kind kind;
        uint32_t halves[2] = {NO_ENTRY, NO_ENTRY};
        bool comment = false;
        status = json_next_element(&reader, &more, err);
        if (status != OK || !more) break;
        product.count = 0;
        status = json_peek(&reader, &kind, err);
        if (status == OK && kind == JSON_STRING)
            status = read_joined(&reader, bpe->vocabulary, rank, &product, halves, &comment, err);
        else if (status == OK)
            status = read_pair(&reader, bpe->vocabulary, rank, &product, halves, err);
        if (status == OK && !comment) status = add_merge(bpe, halves, rank++, &product, err);
    }
    text_free(&product);
    json_reader_free(&reader);
    return status;
}

/* ---- joints ---- */

/* The token of the first or the last character of a token; NO_ENTRY if that character has none, so that no word is ever
 * merged into this token. */
static uint32_t edge(const struct vocabulary *vocabulary, uint32_t entry, bool last)
{
    uint64_t bytes;
    const char *content = vocabulary_content(vocabulary, entry, &bytes);
    unsigned length = 1;

    if (bytes == 0) return NO_ENTRY;
    if (!last) return vocabulary_find_model(vocabulary, content, unicode_length(*content));
    while (((uint8_t)content[bytes - length] & 0xC0) == 0x80)
        length++;
    return vocabulary_find_model(vocabulary, content + bytes - length, length);
}

static bool add_joint(struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t slot = hash_pair(left, right), key = ((uint64_t)left << 32 | right) + 1;

    for (unsigned probe = 0; probe < HASH_PROBE_LIMIT; probe++, slot++) {
        uint64_t *at = &bpe->joints[slot & (bpe->joint_slots - 1)];
        if (*at != 0 && *at != key) continue;
        *at = key;
        return true;
    }
    return false;
}

/* Byte tokens and unk_token stand for something else than their own characters. */
static bool is_own_text(const struct bpe *bpe, uint32_t entry)
{
    uint64_t bytes;
    const char *content = vocabulary_content(bpe->vocabulary, entry, &bytes);

    return entry != bpe->unknown && !(bytes == 6 && memcmp(content, "<0x", 3) == 0);
}

/* A merge joins the last character of its left half and the first of its right half. False if that is not so for some
 * merge: then any pair may join. */
static bool fill_joints(struct bpe *bpe)
{
    for (uint64_t i = 0; i < bpe->merge_slots; i++) {
        const struct bpe_merge *merge = &bpe->merges[i];
        if (merge->left == NO_ENTRY) continue;
        if (!is_own_text(bpe, merge->left) || !is_own_text(bpe, merge->right)) return false;
        uint32_t left = edge(bpe->vocabulary, merge->left, true),
                 right = edge(bpe->vocabulary, merge->right, false);
        if (left != NO_ENTRY && right != NO_ENTRY && !add_joint(bpe, left, right)) return false;
    }
    return true;
}

static enum status find_joints(struct bpe *bpe, struct error *err)
{
    bpe->joint_slots = bpe->merge_slots;
    bpe->joints = memory_new(bpe->joint_slots, sizeof *bpe->joints, err);
    if (!bpe->joints) return ERR_MEMORY;
    if (fill_joints(bpe)) return OK;
    memory_free(bpe->joints);
    bpe->joints = NULL;
    return OK;
}

/* ---- the section ---- */

static enum status read_flag(struct json_reader *reader, bool *flag, struct error *err)
{
    enum json_kind kind;
    enum status status = json_peek(reader, &kind, err);

    if (status != OK) return status;
    return kind == JSON_NULL ? json_read_null(reader, err) : json_read_bool(reader, flag, err);
}

static enum status read_type(struct json_reader *reader, struct error *err)
{
    struct json_text text;
    char quoted[80];
    enum status status = json_read_string(reader, &text, err);

    if (status != OK || (text.count == 3 && memcmp(text.bytes, "BPE", 3) == 0)) return status;
    return fail(err, ERR_UNSUPPORTED, "unknown type \"%s\"",
        error_quote(quoted, sizeof quoted, text.bytes, text.count));
}

/* Text that must be null or empty because what it asks for is not supported. */
static enum status read_no_text(struct json_reader *reader, struct error *err)
{
    struct json_text text;
    enum json_kind kind;
    enum status status = json_peek(reader, &kind, err);

    if (status == OK && kind == JSON_NULL) return json_read_null(reader, err);
    if (status == OK) status = json_read_string(reader, &text, err);
    if (status == OK && text.count > 0) return fail(err, ERR_UNSUPPORTED, "not supported");
    return status;
}

static enum status read_dropout(struct json_reader *reader, struct error *err)
{
    enum json_kind kind;
    double dropout = 0;
    enum status status = json_peek(reader, &kind, err);

    if (status == OK && kind == JSON_NULL) return json_read_null(reader, err);
    if (status == OK) status = json_read_number(reader, &dropout, err);
    if (status == OK && dropout != 0) return fail(err, ERR_UNSUPPORTED, "not supported");
    return status;
}

static enum status read_unknown(struct bpe *bpe, struct json_reader *reader, struct error *err)
{
    struct json_text text;
    enum json_kind kind;
    enum status status = json_peek(reader, &kind, err);

    if (status == OK && kind == JSON_NULL) return json_read_null(reader, err);
    if (status == OK) status = json_read_string(reader, &text, err);
    if (status != OK) return status;
    if (memchr(text.bytes, 0, text.count)) return fail(err, ERR_FORMAT, "contains U+0000");
    bpe->unknown_text = memory_text(text.bytes, text.count, err);
    return bpe->unknown_text ? OK : ERR_MEMORY;
}

/* The members of the section, in the order of `enum member`. */
static const char *const members[] = {"type", "vocab", "merges", "unk_token", "fuse_unk", "byte_fallback",
    "ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix"};
enum member { TYPE, VOCAB, MERGES, UNKNOWN, FUSE, FALLBACK, IGNORE, DROPOUT, PREFIX, SUFFIX, MEMBERS };

static enum status read_member(struct bpe *bpe, struct sections *sections, struct json_reader *reader,
    enum member member, struct error *err)
{
    switch (member) {
    case TYPE:
        return read_type(reader, err);
    case VOCAB:
        return json_skip(reader, &sections->vocab, err);
    case MERGES:
        return json_skip(reader, &sections->merges, err);
    case UNKNOWN:
        return read_unknown(bpe, reader, err);
    case FUSE:
        return read_flag(reader, &bpe->fuse_unknown, err);
    case FALLBACK:
        return read_flag(reader, &bpe->byte_fallback, err);
    case IGNORE:
        return read_flag(reader, &bpe->ignore_merges, err);
    case DROPOUT:
        return read_dropout(reader, err);
    case PREFIX:
    case SUFFIX:
        return read_no_text(reader, err);
    default:
        return json_skip(reader, NULL, err);
    }
}

static enum status read_members(
    struct bpe *bpe, struct sections *sections, const struct json_text *section, struct error *err)
{
    struct json_reader reader;
    bool seen[MEMBERS] = {false}, more = true;
    enum status status;

    json_reader_init(&reader, "value", section->bytes, section->count);
    status = json_enter_object(&reader, err);
    while (status == OK) {
        struct json_text key;
        unsigned member = 0;
        status = json_next_key(&reader, &key, &more, err);
        if (status != OK || !more) break;
        while (member < MEMBERS &&
               (strlen(members[member]) != key.count || memcmp(members[member], key.bytes, key.count) != 0))
            member++;
        if (member < MEMBERS && seen[member]) {
            status = fail(err, ERR_FORMAT, "%s is there twice", members[member]);
            break;
        }
        if (member < MEMBERS) seen[member] = true;
        status = read_member(bpe, sections, &reader, (enum member)member, err);
        if (status != OK && member > TYPE && member < MEMBERS)
            fail_within(err, status, "%s", members[member]);
    }
    json_reader_free(&reader);
    if (status == OK && (!seen[VOCAB] || !seen[MERGES]))
        return fail(err, ERR_FORMAT, "%s is missing", seen[VOCAB] ? "merges" : "vocab");
    return status;
}

/* ---- tables for encoding ---- */

static enum status find_direct(struct bpe *bpe, struct error *err)
{
    struct text character = {0};
    enum status status = OK;

    for (uint32_t point = 0; point < BPE_DIRECT && status == OK; point++) {
        character.count = 0;
        status = unicode_append(&character, point, err);
        if (status == OK)
            bpe->direct[point] = vocabulary_find_model(bpe->vocabulary, character.bytes, character.count);
    }
    text_free(&character);
    return status;
}

enum status bpe_read(
    struct bpe *bpe, struct vocabulary *vocabulary, const struct json_text *section, struct error *err)
{
    struct sections sections = {{0}, {0}};
    enum status status = read_members(bpe, &sections, section, err);

    bpe->vocabulary = vocabulary;
    bpe->unknown = NO_ENTRY;
    if (status == OK) status = read_vocab(vocabulary, &sections.vocab, err);
    if (status == OK) status = read_merges(bpe, &sections.merges, err);
    if (status == OK) status = find_direct(bpe, err);
    if (status != OK) return status;
    vocabulary_find_bytes(vocabulary, bpe->byte_tokens);
    if (bpe->unknown_text)
        bpe->unknown = vocabulary_find_model(vocabulary, bpe->unknown_text, strlen(bpe->unknown_text));
    return find_joints(bpe, err);
}

void bpe_free(struct bpe *bpe)
{
    memory_free(bpe->merges);
    memory_free(bpe->unknown_text);
    memory_free(bpe->joints);
    *bpe = (struct bpe){0};
}
