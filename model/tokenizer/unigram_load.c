/* Reading the model: the vocabulary passes by once in the pull parser, whatever its size. */
#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "model/tokenizer/unigram.h"

enum { UNKNOWN_PENALTY = 10 };

static enum status add_score(struct unigram *unigram, uint64_t index, double score, struct error *err)
{
    if (memory_grow(&unigram->scores, &unigram->score_capacity, index + 1, sizeof score, err) != OK)
        return ERR_MEMORY;
    unigram->scores[index] = score;
    if (score - UNKNOWN_PENALTY < unigram->unknown_score) unigram->unknown_score = score - UNKNOWN_PENALTY;
    return OK;
}

static enum status expect_element(struct json_reader *reader, bool wanted, uint64_t id, struct error *err)
{
    bool more = false;
    enum status status = json_next_element(reader, &more, err);

    if (status || more == wanted) return status;
    return fail(err, ERR_FORMAT, "token %" PRIu64 " is no pair of a text and a score", id);
}

/* ["text", score] */
static enum status read_piece(
    struct unigram *unigram, struct vocabulary *vocabulary, struct json_reader *reader, struct error *err)
{
    const uint64_t id = vocabulary->count;
    struct json_text text;
    double score = 0;
    enum status status = json_enter_array(reader, err);

    if (!status) status = expect_element(reader, true, id, err);
    if (!status) status = json_read_string(reader, &text, err);
    if (!status) status = vocabulary_add(vocabulary, text.bytes, text.count, id, err);
    if (!status) status = expect_element(reader, true, id, err);
    if (!status) status = json_read_number(reader, &score, err);
    if (!status) status = expect_element(reader, false, id, err);
    return status ? status : add_score(unigram, id, score, err);
}

static enum status read_vocab(
    struct unigram *unigram, struct vocabulary *vocabulary, struct json_reader *reader, struct error *err)
{
    bool more = true;
    enum status status = json_enter_array(reader, err);

    while (!status) {
        status = json_next_element(reader, &more, err);
        if (status || !more) break;
        status = read_piece(unigram, vocabulary, reader, err);
    }
    vocabulary->model_count = vocabulary->count;
    return status;
}

/* ---- members ---- */

/* In the order of their names below. */
enum member { TYPE, VOCAB, UNKNOWN, FALLBACK, MEMBERS };
static const char *const members[] = {"type", "vocab", "unk_id", "byte_fallback"};

struct reading {
    struct unigram *unigram;
    struct vocabulary *vocabulary;
    uint64_t unknown;
    bool has_unknown, seen[MEMBERS];
};

static enum status read_optional(
    struct reading *in, struct json_reader *reader, enum member member, struct error *err)
{
    enum json_kind kind;
    enum status status = json_peek(reader, &kind, err);

    if (status) return status;
    if (kind == JSON_NULL) return json_read_null(reader, err);
    if (member == FALLBACK) return json_read_bool(reader, &in->unigram->byte_fallback, err);
    in->has_unknown = true;
    return json_read_u64(reader, &in->unknown, err);
}

static enum status read_member(
    struct reading *in, struct json_reader *reader, const struct json_text *key, struct error *err)
{
    unsigned member = 0;
    enum status status;

    while (member < MEMBERS &&
           (strlen(members[member]) != key->count || memcmp(members[member], key->bytes, key->count) != 0))
        member++;
    if (member == MEMBERS) return json_skip(reader, NULL, err);
    if (in->seen[member]) return fail(err, ERR_FORMAT, "%s is there twice", members[member]);
    in->seen[member] = true;
    if (member == TYPE)
        status = json_skip(reader, NULL, err);
    else if (member == VOCAB)
        status = read_vocab(in->unigram, in->vocabulary, reader, err);
    else
        status = read_optional(in, reader, (enum member)member, err);
    return status ? fail_within(err, status, "%s", members[member]) : OK;
}

static enum status read_members(struct reading *in, const struct json_text *section, struct error *err)
{
    struct json_reader reader;
    bool more = true;
    enum status status;

    json_reader_init(&reader, "value", section->bytes, section->count);
    status = json_enter_object(&reader, err);
    while (!status) {
        struct json_text key;
        status = json_next_key(&reader, &key, &more, err);
        if (status || !more) break;
        status = read_member(in, &reader, &key, err);
    }
    json_reader_free(&reader);
    return status || in->seen[VOCAB] ? status : fail(err, ERR_FORMAT, "vocab is missing");
}

enum status unigram_read(struct unigram *unigram, struct vocabulary *vocabulary,
    const struct json_text *section, struct error *err)
{
    struct reading in = {.unigram = unigram, .vocabulary = vocabulary};

    unigram->vocabulary = vocabulary;
    unigram->unknown = NO_ENTRY;
    unigram->unknown_score = INFINITY;
    enum status status = read_members(&in, section, err);
    if (status) return status;
    if (in.has_unknown && in.unknown >= vocabulary->model_count)
        return fail(err, ERR_FORMAT, "unk_id: %" PRIu64 " is no token", in.unknown);
    if (in.has_unknown) unigram->unknown = (uint32_t)in.unknown;
    vocabulary_find_bytes(vocabulary, unigram->byte_tokens);
    return piece_trie_build(&unigram->trie, vocabulary, err);
}

void unigram_free(struct unigram *unigram)
{
    piece_trie_free(&unigram->trie);
    memory_free(unigram->scores);
    *unigram = (struct unigram){0};
}
