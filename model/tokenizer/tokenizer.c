/* The public face: builds the parts from their sections, and leads a text through them:
 *
 *   text -> added tokens (raw) -> normalizer -> added tokens (normalized) -> pre-tokenizer -> model -> post-processor
 *
 * Each part hands its pieces on as it finds them. Once built, a tokenizer is only read; what an encoding writes to is its
 * own. */
#include "model/tokenizer/tokenizer.h"

#include <inttypes.h>

#include "base/memory.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/detokenizer.h"
#include "model/tokenizer/postprocessor.h"
#include "model/tokenizer/pretokenizer.h"
#include "model/tokenizer/tokenizer_json.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/unigram.h"

/* How far steps may blow a text up: no honest file comes near it (U+FDFA, the worst case of NFKC, grows elevenfold), and a
 * file of nothing but replacements cannot eat all memory. */
enum { GROWTH_LIMIT = 64, GROWTH_BASE = 1 << 20 };

struct tokenizer {
    struct vocabulary vocabulary;
    bool is_unigram; /* else BPE */
    struct bpe bpe;
    struct unigram unigram;
    struct added_tokens added;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct postprocessor postprocessor;
    struct detokenizer *detokenizer;
};

/* ---- building ---- */

static enum status read_model(struct tokenizer *tokenizer, const struct json_text *text, struct error *err)
{
    enum status status = tokenizer_model_is(&tokenizer->is_unigram, text, "Unigram", err);

    if (status) return status;
    return tokenizer->is_unigram ? unigram_read(&tokenizer->unigram, &tokenizer->vocabulary, text, err)
                                 : bpe_read(&tokenizer->bpe, &tokenizer->vocabulary, text, err);
}

static enum status read_section(struct tokenizer *tokenizer, enum tokenizer_section section,
    const struct json_text *text, struct error *err)
{
    struct json_document *document = NULL;
    enum status status;

    if (section == SECTION_MODEL) return read_model(tokenizer, text, err);
    if (section == SECTION_ADDED_TOKENS)
        return added_tokens_read(&tokenizer->added, &tokenizer->vocabulary, tokenizer->normalizer, text, err);
    status = tokenizer_section_parse(&document, text, err);
    const struct json_value *root = document ? json_root(document) : NULL;
    if (status == OK && section == SECTION_NORMALIZER)
        status = normalizer_create(&tokenizer->normalizer, root, err);
    else if (status == OK && section == SECTION_PRE_TOKENIZER)
        status = pretokenizer_create(&tokenizer->pretokenizer, root, err);
    else if (status == OK && section == SECTION_POST_PROCESSOR)
        status = postprocessor_read(&tokenizer->postprocessor, &tokenizer->vocabulary, root, err);
    else if (status == OK)
        status = detokenizer_create(&tokenizer->detokenizer, root, err);
    json_free(document);
    return status;
}

enum status tokenizer_create(
    struct tokenizer **out, const char *what, const char *json, uint64_t bytes, struct error *err)
{
    struct json_text sections[SECTION_COUNT] = {{0}};
    struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer, err);
    enum status status = tokenizer ? tokenizer_sections(sections, what, json, bytes, err) : ERR_MEMORY;

    /* In the order of the enumeration: added tokens need the model's vocabulary and the normalizer. */
    for (unsigned i = 0; i < SECTION_COUNT && status == OK; i++) {
        status = read_section(tokenizer, (enum tokenizer_section)i, &sections[i], err);
        if (status != OK) fail_within(err, status, "%s: %s", what, tokenizer_section_names[i]);
    }
    if (status == OK)
        *out = tokenizer;
    else
        tokenizer_free(tokenizer);
    return status;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    detokenizer_free(tokenizer->detokenizer);
    postprocessor_free(&tokenizer->postprocessor);
    pretokenizer_free(tokenizer->pretokenizer);
    added_tokens_free(&tokenizer->added);
    normalizer_free(tokenizer->normalizer);
    unigram_free(&tokenizer->unigram);
    bpe_free(&tokenizer->bpe);
    vocabulary_free(&tokenizer->vocabulary);
    memory_free(tokenizer);
}

/* ---- encoding ---- */

/* One call: what the parts write to. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct pattern_scratch *patterns;
    struct pretokenizer_scratch *pieces;
    struct bpe_scratch *words;
    struct unigram_scratch ways;
    struct normal_text normal;
    struct text repaired;
    const char *text; /* the whole input */
    struct id_list ids;
};

static uint64_t growth_limit(uint64_t bytes)
{
    uint64_t limit = bytes * GROWTH_LIMIT + GROWTH_BASE;

    return limit < TEXT_LIMIT ? limit : TEXT_LIMIT;
}

static enum status prepare(struct encoding *encoding, uint64_t bytes, struct error *err)
{
    uint64_t limit = growth_limit(bytes);
    enum status status = pattern_scratch_create(&encoding->patterns, bytes, err);

    if (status == OK) status = pretokenizer_scratch_create(&encoding->pieces, limit, err);
    if (status == OK && !encoding->tokenizer->is_unigram)
        status = bpe_scratch_create(&encoding->words, bytes, err);
    encoding->normal.buffers[0].limit = encoding->normal.buffers[1].limit = limit;
    return status;
}

static void clean_up(struct encoding *encoding)
{
    memory_free(encoding->ids.ids);
    text_free(&encoding->repaired);
    normal_text_free(&encoding->normal);
    unigram_scratch_free(&encoding->ways);
    bpe_scratch_free(encoding->words);
    pretokenizer_scratch_free(encoding->pieces);
    pattern_scratch_free(encoding->patterns);
}

static enum status add_ids(struct id_list *list, const struct id_list *more, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < more->count && status == OK; i++)
        status = id_list_add(list, more->ids[i], err);
    return status;
}

static enum status add_token(struct encoding *encoding, const struct added_token *token, struct error *err)
{
    return id_list_add(&encoding->ids, encoding->tokenizer->vocabulary.entries[token->entry].id, err);
}

static enum status encode_word(void *context, const struct piece *piece, struct error *err)
{
    struct encoding *encoding = context;

    if (encoding->tokenizer->is_unigram)
        return unigram_encode(
            &encoding->tokenizer->unigram, &encoding->ways, piece->text, piece->bytes, &encoding->ids, err);
    return bpe_encode(
        &encoding->tokenizer->bpe, encoding->words, piece->text, piece->bytes, &encoding->ids, err);
}

/* A part of a normalized text. */
static enum status encode_normal(
    void *context, const struct added_token *token, uint64_t begin, uint64_t end, struct error *err)
{
    struct encoding *encoding = context;
    const struct normal_text *normal = &encoding->normal;

    if (token) return add_token(encoding, token, err);
    uint64_t first = normal->first < end ? normal->first : end;
    struct piece piece = {normal->text + begin, end - begin, first > begin ? first - begin : 0};
    return pretokenizer_run(encoding->tokenizer->pretokenizer, encoding->pieces, encoding->patterns, &piece,
        encode_word, encoding, err);
}

/* A part of the text as it came. */
static enum status encode_raw(
    void *context, const struct added_token *token, uint64_t begin, uint64_t end, struct error *err)
{
    struct encoding *encoding = context;
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct normal_text *normal = &encoding->normal;

    if (token) return add_token(encoding, token, err);
    normal->text = encoding->text + begin;
    normal->bytes = end - begin;
    normal->first = begin == 0 ? unicode_length(*normal->text) : 0;
    enum status status = normalizer_apply(tokenizer->normalizer, encoding->patterns, normal, err);
    if (status != OK) return status;
    return added_tokens_split(&tokenizer->added, &tokenizer->added.normalized, normal->text, normal->bytes,
        encode_normal, encoding, err);
}

static enum status encode(
    struct encoding *encoding, const char *text, uint64_t bytes, bool special, struct error *err)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    const struct postprocessor *around = &tokenizer->postprocessor;
    enum status status = prepare(encoding, bytes, err);

    encoding->text = text;
    if (status == OK && !json_valid_utf8(text, bytes)) {
        status = unicode_repair(&encoding->repaired, text, bytes, err);
        encoding->text = encoding->repaired.bytes;
        bytes = encoding->repaired.count;
    }
    if (status == OK && special) status = add_ids(&encoding->ids, &around->before, err);
    if (status == OK)
        status = added_tokens_split(
            &tokenizer->added, &tokenizer->added.raw, encoding->text, bytes, encode_raw, encoding, err);
    if (status == OK && special) status = add_ids(&encoding->ids, &around->after, err);
    return status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, uint32_t **ids, uint64_t *count,
    const char *text, uint64_t bytes, bool special, struct error *err)
{
    struct encoding encoding = {.tokenizer = tokenizer};
    enum status status;

    if (bytes > TEXT_LIMIT)
        return fail(err, ERR_MEMORY, "a text of %" PRIu64 " bytes is more than 2 GiB", bytes);
    status = encode(&encoding, bytes > 0 ? text : "", bytes, special, err);
    if (status == OK && !encoding.ids.ids) { /* no ids at all: still something to free */
        encoding.ids.ids = memory_new(1, sizeof *encoding.ids.ids, err);
        status = encoding.ids.ids ? OK : ERR_MEMORY;
    }
    if (status == OK) {
        *ids = encoding.ids.ids;
        *count = encoding.ids.count;
        encoding.ids.ids = NULL;
    }
    clean_up(&encoding);
    return status;
}

/* ---- decoding ---- */

/* Append the text that one id decodes from, unless it is to be left out. */
static enum status add_text(const struct tokenizer *tokenizer, struct token_texts *texts, uint32_t id,
    bool skip_special, struct error *err)
{
    uint32_t entry = vocabulary_find_id(&tokenizer->vocabulary, id);
    uint64_t bytes;

    if (entry == NO_ENTRY) return fail(err, ERR_FORMAT, "the id %" PRIu32 " has no token", id);
    const struct added_token *token = added_tokens_find(&tokenizer->added, entry);
    if (token && token->special && skip_special) return OK;
    const char *content = vocabulary_content(&tokenizer->vocabulary, entry, &bytes);
    return token_texts_add(texts, content, bytes, err);
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, char **text, uint64_t *bytes,
    const uint32_t *ids, uint64_t count, bool skip_special, struct error *err)
{
    struct pattern_scratch *scratch = NULL;
    struct token_texts texts = {0};
    struct text out = {0};
    enum status status = OK;

    for (uint64_t i = 0; i < count && status == OK; i++)
        status = add_text(tokenizer, &texts, ids[i], skip_special, err);
    if (status == OK) status = pattern_scratch_create(&scratch, texts.bytes.count, err);
    texts.bytes.limit = growth_limit(texts.bytes.count);
    if (status == OK) status = detokenizer_apply(tokenizer->detokenizer, scratch, &texts, &out, err);
    if (status == OK) status = text_append(&out, "", 1, err);
    if (status == OK) {
        *text = out.bytes;
        *bytes = out.count - 1;
    } else {
        text_free(&out);
    }
    token_texts_free(&texts);
    pattern_scratch_free(scratch);
    return status;
}

/* ---- asking ---- */

uint32_t tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.size;
}

int64_t tokenizer_find(const struct tokenizer *tokenizer, const char *token, uint64_t bytes)
{
    uint32_t entry = vocabulary_find(&tokenizer->vocabulary, token, bytes);

    return entry == NO_ENTRY ? -1 : (int64_t)tokenizer->vocabulary.entries[entry].id;
}

const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id, uint64_t *bytes)
{
    uint32_t entry = vocabulary_find_id(&tokenizer->vocabulary, id);

    return entry == NO_ENTRY ? NULL : vocabulary_content(&tokenizer->vocabulary, entry, bytes);
}

bool tokenizer_prefix(const struct tokenizer *tokenizer, uint32_t *id)
{
    if (tokenizer->postprocessor.before.count == 0) return false;
    *id = tokenizer->postprocessor.before.ids[0];
    return true;
}
