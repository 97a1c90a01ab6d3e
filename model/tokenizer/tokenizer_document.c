/* See tokenizer_document.h. */
#include "model/tokenizer/tokenizer_document.h"

#include <math.h>

#include "base/base64.h"
#include "base/memory.h"
#include "model/tokenizer/piece_merges.h"

#define SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's space */

/* A document being written. */
struct writing {
    const struct tokenizer_document *from;
    struct json_writer json;
};

/* ---- small parts ---- */

static const char *content_of(const struct writing *out, uint64_t entry)
{
    return token_list_content(&out->from->tokens, entry);
}

static uint64_t id_of(const struct writing *out, uint64_t entry)
{
    return out->from->tokens.vocabulary.entries[entry].id;
}

/* {"type": type */
static void open_step(struct json_writer *json, const char *type)
{
    json_open_object(json);
    json_put_text(json, "type", type);
}

static void put_step(struct json_writer *json, const char *type)
{
    open_step(json, type);
    json_close_object(json);
}

static void put_replace(struct json_writer *json, const char *from, const char *to)
{
    open_step(json, "Replace");
    json_write_key(json, "pattern");
    json_open_object(json);
    json_put_text(json, "String", from);
    json_close_object(json);
    json_put_text(json, "content", to);
    json_close_object(json);
}

static void put_replace_all(struct json_writer *json, const char *regex, const char *with)
{
    open_step(json, "Replace");
    json_write_key(json, "pattern");
    json_open_object(json);
    json_put_text(json, "Regex", regex);
    json_close_object(json);
    json_put_text(json, "content", with);
    json_close_object(json);
}

static void put_byte_level(struct json_writer *json)
{
    open_step(json, "ByteLevel");
    json_put_bool(json, "add_prefix_space", false);
    json_put_bool(json, "trim_offsets", true);
    json_put_bool(json, "use_regex", false);
    json_close_object(json);
}

/* ---- the sections ---- */

static void put_vocabulary(struct writing *out)
{
    json_write_key(&out->json, "vocab");
    json_open_object(&out->json);
    for (uint64_t i = 0; i < out->from->tokens.vocabulary.count; i++)
        json_put_u64(&out->json, content_of(out, i), id_of(out, i));
    json_close_object(&out->json);
}

static enum status put_derived_merges(struct writing *out, struct error *err)
{
    struct piece_merge *merges = NULL;
    uint64_t count = 0;
    enum status status = piece_merges_derive(&merges, &count, &out->from->tokens, err);

    for (uint64_t i = 0; i < count && !status; i++) {
        json_open_array(&out->json);
        json_write_text(&out->json, content_of(out, merges[i].left));
        json_write_text(&out->json, content_of(out, merges[i].right));
        json_close_array(&out->json);
    }
    memory_free(merges);
    return status;
}

static void put_stored_merges(struct writing *out)
{
    for (uint64_t i = 0; i < out->from->merge_count; i++)
        json_write_string(&out->json, out->from->merges[i].bytes, out->from->merges[i].count);
}

static bool has_bytes(const struct writing *out)
{
    for (uint64_t i = 0; i < out->from->tokens.vocabulary.count; i++) {
        if (out->from->tokens.tokens[i].type == TOKEN_BYTE) return true;
    }
    return false;
}

/* Tokens that are no ordinary pieces are found otherwise; their score must only not be the lowest, from which follows that of an
 * unknown character. */
static double other_score(const struct writing *out)
{
    double lowest = INFINITY;

    for (uint64_t i = 0; i < out->from->tokens.vocabulary.count; i++) {
        const struct token *token = &out->from->tokens.tokens[i];
        if (token->type == TOKEN_NORMAL && token->score < lowest) lowest = token->score;
    }
    return lowest > 0 && isfinite(lowest) ? lowest : 0;
}

/* A piece's id is its place in the list; added tokens with ids beyond it are not in it. */
static void put_unigram(struct writing *out)
{
    const struct token_list *tokens = &out->from->tokens;
    const double other = other_score(out);

    json_write_key(&out->json, "model");
    open_step(&out->json, "Unigram");
    if (out->from->unknown.there) json_put_u64(&out->json, "unk_id", id_of(out, out->from->unknown.entry));
    json_write_key(&out->json, "vocab");
    json_open_array(&out->json);
    for (uint64_t i = 0; i < tokens->vocabulary.count && id_of(out, i) == i; i++) {
        const struct token *token = &tokens->tokens[i];
        json_open_array(&out->json);
        json_write_text(&out->json, content_of(out, i));
        json_write_number(&out->json, token->type == TOKEN_NORMAL ? token->score : other);
        json_close_array(&out->json);
    }
    json_close_array(&out->json);
    json_put_bool(&out->json, "byte_fallback", has_bytes(out));
    json_close_object(&out->json);
}

static enum status put_bpe(struct writing *out, struct error *err)
{
    const bool pieces = !out->from->pre;
    enum status status = OK;

    json_write_key(&out->json, "model");
    open_step(&out->json, "BPE");
    json_put_text(&out->json, "unk_token",
        pieces && out->from->unknown.there ? content_of(out, out->from->unknown.entry) : NULL);
    json_put_bool(&out->json, "fuse_unk", pieces);
    json_put_bool(&out->json, "byte_fallback", pieces && has_bytes(out));
    json_put_bool(&out->json, "ignore_merges", !pieces && out->from->pre->ignore_merges);
    put_vocabulary(out);
    json_write_key(&out->json, "merges");
    json_open_array(&out->json);
    if (pieces)
        status = put_derived_merges(out, err);
    else
        put_stored_merges(out);
    json_close_array(&out->json);
    json_close_object(&out->json);
    return status;
}

static void put_added_token(struct writing *out, uint64_t entry)
{
    const struct token *token = &out->from->tokens.tokens[entry];

    json_open_object(&out->json);
    json_put_u64(&out->json, "id", id_of(out, entry));
    json_put_text(&out->json, "content", content_of(out, entry));
    json_put_bool(&out->json, "single_word", token->single_word);
    json_put_bool(&out->json, "lstrip", token->lstrip);
    json_put_bool(&out->json, "rstrip", token->rstrip);
    json_put_bool(&out->json, "normalized", token->normalized);
    json_put_bool(&out->json, "special", token->type != TOKEN_USER_DEFINED);
    json_close_object(&out->json);
}

static void put_added_tokens(struct writing *out)
{
    json_write_key(&out->json, "added_tokens");
    json_open_array(&out->json);
    for (uint64_t i = 0; i < out->from->tokens.vocabulary.count; i++) {
        if (token_is_added(&out->from->tokens.tokens[i])) put_added_token(out, i);
    }
    json_close_array(&out->json);
}

static enum status put_charsmap(struct writing *out, struct error *err)
{
    char *text =
        out->from->charsmap ? base64_encode(out->from->charsmap, out->from->charsmap_bytes, err) : NULL;

    if (!out->from->charsmap) return OK;
    if (!text) return ERR_MEMORY;
    open_step(&out->json, "Precompiled");
    json_put_text(&out->json, "precompiled_charsmap", text);
    json_put_bool(&out->json, "longest_match", true);
    json_close_object(&out->json);
    memory_free(text);
    return OK;
}

static enum status put_normalizer(struct writing *out, struct error *err)
{
    const char *space = out->from->plain_spaces ? " " : SPACE;

    json_write_key(&out->json, "normalizer");
    open_step(&out->json, "Sequence");
    json_write_key(&out->json, "normalizers");
    json_open_array(&out->json);
    if (out->from->pre && out->from->pre->nfc) put_step(&out->json, "NFC");
    const enum status status = put_charsmap(out, err);
    if (!out->from->pre && out->from->strip_spaces) {
        put_replace_all(&out->json, "\\A +| +\\z", "");
        put_replace_all(&out->json, "  +", " ");
    }
    if (!out->from->pre && out->from->prefix_space) {
        open_step(&out->json, "Prepend");
        json_put_text(&out->json, "prepend", space);
        json_close_object(&out->json);
    }
    if (!out->from->pre && !out->from->plain_spaces) put_replace(&out->json, " ", SPACE);
    json_close_array(&out->json);
    json_close_object(&out->json);
    return status;
}

static void put_split(struct json_writer *json, const char *pattern)
{
    open_step(json, "Split");
    json_write_key(json, "pattern");
    json_open_object(json);
    json_put_text(json, "Regex", pattern);
    json_close_object(json);
    json_put_text(json, "behavior", "Isolated");
    json_put_bool(json, "invert", false);
    json_close_object(json);
}

static void put_pre_tokenizer(struct writing *out)
{
    json_write_key(&out->json, "pre_tokenizer");
    if (!out->from->pre) {
        json_write_text(&out->json, NULL);
        return;
    }
    open_step(&out->json, "Sequence");
    json_write_key(&out->json, "pretokenizers");
    json_open_array(&out->json);
    for (int i = 0; i < GGUF_PRE_PATTERNS && out->from->pre->patterns[i]; i++)
        put_split(&out->json, out->from->pre->patterns[i]);
    put_byte_level(&out->json);
    json_close_array(&out->json);
    json_close_object(&out->json);
}

/* {"kind": {"id": name, "type_id": type_id}} */
static void put_item(struct json_writer *json, const char *kind, const char *name, uint64_t type_id)
{
    json_open_object(json);
    json_write_key(json, kind);
    json_open_object(json);
    json_put_text(json, "id", name);
    json_put_u64(json, "type_id", type_id);
    json_close_object(json);
    json_close_object(json);
}

/* One text or two, each with the tokens around it. */
static void put_template(struct writing *out, const char *key, uint64_t texts)
{
    json_write_key(&out->json, key);
    json_open_array(&out->json);
    for (uint64_t i = 0; i < texts; i++) {
        if (out->from->before.there)
            put_item(&out->json, "SpecialToken", content_of(out, out->from->before.entry), i);
        put_item(&out->json, "Sequence", i ? "B" : "A", i);
        if (out->from->after.there)
            put_item(&out->json, "SpecialToken", content_of(out, out->from->after.entry), i);
    }
    json_close_array(&out->json);
}

static void put_special(struct writing *out, const struct document_token *token)
{
    const double id = (double)id_of(out, token->entry);

    json_write_key(&out->json, content_of(out, token->entry));
    json_open_object(&out->json);
    json_put_text(&out->json, "id", content_of(out, token->entry));
    json_put_numbers(&out->json, "ids", &id, 1);
    json_write_key(&out->json, "tokens");
    json_open_array(&out->json);
    json_write_text(&out->json, content_of(out, token->entry));
    json_close_array(&out->json);
    json_close_object(&out->json);
}

static void put_post_processor(struct writing *out)
{
    const bool same = out->from->before.there && out->from->before.entry == out->from->after.entry;

    json_write_key(&out->json, "post_processor");
    if (!out->from->before.there && !out->from->after.there) {
        json_write_text(&out->json, NULL);
        return;
    }
    open_step(&out->json, "TemplateProcessing");
    put_template(out, "single", 1);
    put_template(out, "pair", 2);
    json_write_key(&out->json, "special_tokens");
    json_open_object(&out->json);
    if (out->from->before.there) put_special(out, &out->from->before);
    if (out->from->after.there && !same) put_special(out, &out->from->after);
    json_close_object(&out->json);
    json_close_object(&out->json);
}

static void put_decoder(struct writing *out)
{
    json_write_key(&out->json, "decoder");
    if (out->from->pre) {
        put_byte_level(&out->json);
        return;
    }
    open_step(&out->json, "Sequence");
    json_write_key(&out->json, "decoders");
    json_open_array(&out->json);
    if (!out->from->plain_spaces) put_replace(&out->json, SPACE, " ");
    put_step(&out->json, "ByteFallback");
    put_step(&out->json, "Fuse");
    if (out->from->prefix_space) {
        open_step(&out->json, "Strip");
        json_put_text(&out->json, "content", " ");
        json_put_u64(&out->json, "start", 1);
        json_put_u64(&out->json, "stop", 0);
        json_close_object(&out->json);
    }
    json_close_array(&out->json);
    json_close_object(&out->json);
}

/* ---- all of it ---- */

static enum status put_all(struct writing *out, struct error *err)
{
    enum status status;

    json_open_object(&out->json);
    json_put_text(&out->json, "version", "1.0");
    put_added_tokens(out);
    status = put_normalizer(out, err);
    if (status) return status;
    put_pre_tokenizer(out);
    put_post_processor(out);
    put_decoder(out);
    if (out->from->unigram)
        put_unigram(out);
    else
        status = put_bpe(out, err);
    json_close_object(&out->json);
    return status;
}

enum status tokenizer_document_write(
    char **text, uint64_t *bytes, const struct tokenizer_document *document, struct error *err)
{
    struct writing out = {.from = document};
    enum status status = put_all(&out, err);

    *text = NULL;
    if (!status) status = json_writer_take(&out.json, text, bytes, err);
    json_writer_free(&out.json);
    return status;
}

void tokenizer_document_free(struct tokenizer_document *document)
{
    token_list_free(&document->tokens);
    memory_free(document->merges);
    *document = (struct tokenizer_document){0};
}
