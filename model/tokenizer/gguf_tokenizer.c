/* See gguf_tokenizer.h. The document is written in the sections that model/tokenizer reads. */
#include "model/tokenizer/gguf_tokenizer.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/tokenizer/gguf_merges.h"
#include "model/tokenizer/gguf_pre.h"

#define SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's space */
#define MODEL "tokenizer.ggml.model"
#define PRE "tokenizer.ggml.pre"
#define MERGES "tokenizer.ggml.merges"

/* ---- pre-tokenizers ---- */

static enum status find_pre(const struct gguf_pre **out, const struct metadata *metadata, struct error *err)
{
    const char *name = "default";
    uint64_t bytes = strlen(name);
    char quoted[64], names[GGUF_PRE_NAMES];
    enum status status = metadata_get_string(metadata, PRE, &name, &bytes, err);

    if (status) return status;
    *out = gguf_pre_find(name, bytes);
    if (*out) return OK;
    return fail(err, ERR_UNSUPPORTED, PRE ": %s is not known (known: %s)",
        error_quote(quoted, sizeof quoted, name, bytes < 64 ? bytes : 64), gguf_pre_names(names));
}

/* ---- what is read ---- */

/* The token that a key names. */
struct named {
    bool there;
    uint64_t id;
};

struct source {
    const struct metadata *metadata;
    struct gguf_tokens tokens;
    const struct gguf_pre *pre; /* gpt2; NULL: SentencePiece */
    struct named before, after, unknown;
    bool prefix_space; /* SentencePiece: a space goes before the text */
    struct json_writer json;
};

static enum status read_id(struct named *out, const struct source *in, const char *key, struct error *err)
{
    if (metadata_find(in->metadata, key)) out->there = true;
    return metadata_get_u64(in->metadata, key, 0, in->tokens.vocabulary.count - 1, &out->id, err);
}

/* The id under `key`, if the flag says that it goes around a text. */
static enum status read_around(struct named *out, const struct source *in, const char *key, const char *flag,
    bool wanted, struct error *err)
{
    enum status status = metadata_get_bool(in->metadata, flag, &wanted, err);

    if (!status) status = read_id(out, in, key, err);
    if (!status && wanted && !out->there)
        return fail(err, ERR_FORMAT, "%s is missing, but %s", key,
            metadata_find(in->metadata, flag) ? flag : "this tokenizer puts one around a text");
    if (out->id >= in->tokens.vocabulary.count)
        wanted = false; /* the default of a vocabulary that is smaller */
    out->there = wanted;
    return status;
}

/* SentencePiece's ids have defaults: 0, 1 and 2. */
static enum status read_ids(struct source *in, struct error *err)
{
    const bool pieces = !in->pre;
    enum status status;

    in->unknown = (struct named){pieces, 0};
    in->before = (struct named){pieces, 1};
    in->after = (struct named){pieces, 2};
    status = read_id(&in->unknown, in, "tokenizer.ggml.unknown_token_id", err);
    if (!status)
        status = read_around(&in->before, in, "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token",
            pieces || in->pre->add_bos, err);
    if (!status)
        status = read_around(
            &in->after, in, "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token", false, err);
    return status;
}

/* What SentencePiece's normalizer would do beyond spaces is not done here. */
static enum status read_pieces(struct source *in, struct error *err)
{
    bool strip = false;
    enum status status =
        metadata_get_bool(in->metadata, "tokenizer.ggml.remove_extra_whitespaces", &strip, err);

    if (status) return status;
    if (strip) return fail(err, ERR_UNSUPPORTED, "tokenizer.ggml.remove_extra_whitespaces is not supported");
    if (metadata_find(in->metadata, "tokenizer.ggml.precompiled_charsmap"))
        return fail(err, ERR_UNSUPPORTED, "tokenizer.ggml.precompiled_charsmap is not supported");
    if (!in->tokens.scores) return fail(err, ERR_FORMAT, "tokenizer.ggml.scores is missing");
    in->prefix_space = true;
    return metadata_get_bool(in->metadata, "tokenizer.ggml.add_space_prefix", &in->prefix_space, err);
}

/* ---- small parts ---- */

static const char *content_of(const struct source *in, uint64_t id)
{
    uint64_t bytes;

    return vocabulary_content(&in->tokens.vocabulary, (uint32_t)id, &bytes);
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

static void put_byte_level(struct json_writer *json)
{
    open_step(json, "ByteLevel");
    json_put_bool(json, "add_prefix_space", false);
    json_put_bool(json, "trim_offsets", true);
    json_put_bool(json, "use_regex", false);
    json_close_object(json);
}

/* ---- the sections ---- */

static void put_vocabulary(struct source *in)
{
    json_write_key(&in->json, "vocab");
    json_open_object(&in->json);
    for (uint64_t id = 0; id < in->tokens.vocabulary.count; id++)
        json_put_u64(&in->json, content_of(in, id), id);
    json_close_object(&in->json);
}

static enum status put_derived_merges(struct source *in, struct error *err)
{
    struct gguf_merge *merges = NULL;
    uint64_t count = 0;
    enum status status = gguf_merges_derive(&merges, &count, &in->tokens, err);

    for (uint64_t i = 0; i < count && !status; i++) {
        json_open_array(&in->json);
        json_write_text(&in->json, content_of(in, merges[i].left));
        json_write_text(&in->json, content_of(in, merges[i].right));
        json_close_array(&in->json);
    }
    memory_free(merges);
    return status;
}

static enum status put_stored_merges(struct source *in, struct error *err)
{
    const struct metadata_item *list;
    enum status status = metadata_get_array(in->metadata, MERGES, METADATA_STRING, &list, err);

    if (status) return status;
    if (!list) return fail(err, ERR_FORMAT, MERGES " is missing");
    const uint8_t *at = list->bytes;
    for (uint64_t i = 0; i < list->count; i++) {
        uint64_t bytes;
        const char *merge = metadata_next_string(&at, &bytes);
        json_write_string(&in->json, merge, bytes);
    }
    return OK;
}

static bool has_bytes(const struct source *in)
{
    for (uint64_t id = 0; id < in->tokens.vocabulary.count; id++) {
        if (gguf_tokens_type(&in->tokens, (uint32_t)id) == GGUF_TOKEN_BYTE) return true;
    }
    return false;
}

static enum status put_model(struct source *in, struct error *err)
{
    const bool pieces = !in->pre;
    enum status status;

    json_write_key(&in->json, "model");
    open_step(&in->json, "BPE");
    json_put_text(&in->json, "unk_token", pieces ? content_of(in, in->unknown.id) : NULL);
    json_put_bool(&in->json, "fuse_unk", pieces);
    json_put_bool(&in->json, "byte_fallback", pieces && has_bytes(in));
    json_put_bool(&in->json, "ignore_merges", !pieces && in->pre->ignore_merges);
    put_vocabulary(in);
    json_write_key(&in->json, "merges");
    json_open_array(&in->json);
    status = pieces ? put_derived_merges(in, err) : put_stored_merges(in, err);
    json_close_array(&in->json);
    json_close_object(&in->json);
    return status;
}

static void put_added_token(struct source *in, uint64_t id, bool special)
{
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};

    json_open_object(&in->json);
    json_put_u64(&in->json, "id", id);
    json_put_text(&in->json, "content", content_of(in, id));
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        json_put_bool(&in->json, flags[i], false);
    json_put_bool(&in->json, "special", special);
    json_close_object(&in->json);
}

static void put_added_tokens(struct source *in)
{
    json_write_key(&in->json, "added_tokens");
    json_open_array(&in->json);
    for (uint64_t id = 0; id < in->tokens.vocabulary.count; id++) {
        const enum gguf_token_type type = gguf_tokens_type(&in->tokens, (uint32_t)id);
        const bool unknown = type == GGUF_TOKEN_UNKNOWN, control = type == GGUF_TOKEN_CONTROL;
        if (unknown || control || type == GGUF_TOKEN_USER_DEFINED)
            put_added_token(in, id, unknown || control);
    }
    json_close_array(&in->json);
}

static void put_normalizer(struct source *in)
{
    json_write_key(&in->json, "normalizer");
    open_step(&in->json, "Sequence");
    json_write_key(&in->json, "normalizers");
    json_open_array(&in->json);
    if (in->pre && in->pre->nfc) put_step(&in->json, "NFC");
    if (!in->pre && in->prefix_space) {
        open_step(&in->json, "Prepend");
        json_put_text(&in->json, "prepend", SPACE);
        json_close_object(&in->json);
    }
    if (!in->pre) put_replace(&in->json, " ", SPACE);
    json_close_array(&in->json);
    json_close_object(&in->json);
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

static void put_pre_tokenizer(struct source *in)
{
    json_write_key(&in->json, "pre_tokenizer");
    if (!in->pre) {
        json_write_text(&in->json, NULL);
        return;
    }
    open_step(&in->json, "Sequence");
    json_write_key(&in->json, "pretokenizers");
    json_open_array(&in->json);
    for (int i = 0; i < GGUF_PRE_PATTERNS && in->pre->patterns[i]; i++)
        put_split(&in->json, in->pre->patterns[i]);
    put_byte_level(&in->json);
    json_close_array(&in->json);
    json_close_object(&in->json);
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
static void put_template(struct source *in, const char *key, uint64_t texts)
{
    json_write_key(&in->json, key);
    json_open_array(&in->json);
    for (uint64_t i = 0; i < texts; i++) {
        if (in->before.there) put_item(&in->json, "SpecialToken", content_of(in, in->before.id), i);
        put_item(&in->json, "Sequence", i ? "B" : "A", i);
        if (in->after.there) put_item(&in->json, "SpecialToken", content_of(in, in->after.id), i);
    }
    json_close_array(&in->json);
}

static void put_special(struct source *in, const struct named *token)
{
    const double id = (double)token->id;

    json_write_key(&in->json, content_of(in, token->id));
    json_open_object(&in->json);
    json_put_text(&in->json, "id", content_of(in, token->id));
    json_put_numbers(&in->json, "ids", &id, 1);
    json_write_key(&in->json, "tokens");
    json_open_array(&in->json);
    json_write_text(&in->json, content_of(in, token->id));
    json_close_array(&in->json);
    json_close_object(&in->json);
}

static void put_post_processor(struct source *in)
{
    const bool same = in->before.there && in->before.id == in->after.id;

    json_write_key(&in->json, "post_processor");
    if (!in->before.there && !in->after.there) {
        json_write_text(&in->json, NULL);
        return;
    }
    open_step(&in->json, "TemplateProcessing");
    put_template(in, "single", 1);
    put_template(in, "pair", 2);
    json_write_key(&in->json, "special_tokens");
    json_open_object(&in->json);
    if (in->before.there) put_special(in, &in->before);
    if (in->after.there && !same) put_special(in, &in->after);
    json_close_object(&in->json);
    json_close_object(&in->json);
}

static void put_decoder(struct source *in)
{
    json_write_key(&in->json, "decoder");
    if (in->pre) {
        put_byte_level(&in->json);
        return;
    }
    open_step(&in->json, "Sequence");
    json_write_key(&in->json, "decoders");
    json_open_array(&in->json);
    put_replace(&in->json, SPACE, " ");
    put_step(&in->json, "ByteFallback");
    put_step(&in->json, "Fuse");
    if (in->prefix_space) {
        open_step(&in->json, "Strip");
        json_put_text(&in->json, "content", " ");
        json_put_u64(&in->json, "start", 1);
        json_put_u64(&in->json, "stop", 0);
        json_close_object(&in->json);
    }
    json_close_array(&in->json);
    json_close_object(&in->json);
}

/* ---- all of it ---- */

static enum status put_all(struct source *in, struct error *err)
{
    enum status status;

    json_open_object(&in->json);
    json_put_text(&in->json, "version", "1.0");
    put_added_tokens(in);
    put_normalizer(in);
    put_pre_tokenizer(in);
    put_post_processor(in);
    put_decoder(in);
    status = put_model(in, err);
    json_close_object(&in->json);
    return status;
}

/* *none: there is no tokenizer. */
static enum status read_kind(struct source *in, bool *none, struct error *err)
{
    const char *model = NULL;
    uint64_t bytes = 0;
    char quoted[64];
    enum status status = metadata_get_string(in->metadata, MODEL, &model, &bytes, err);

    *none = !model || (bytes == 4 && memcmp(model, "none", 4) == 0) ||
            (bytes == 8 && memcmp(model, "no_vocab", 8) == 0);
    if (status || *none) return status;
    if (bytes == 4 && memcmp(model, "gpt2", 4) == 0) return find_pre(&in->pre, in->metadata, err);
    if (bytes == 5 && memcmp(model, "llama", 5) == 0) return OK;
    return fail(err, ERR_UNSUPPORTED, MODEL ": %s is not known (known: llama, gpt2)",
        error_quote(quoted, sizeof quoted, model, bytes < 64 ? bytes : 64));
}

enum status gguf_tokenizer_write(
    char **text, uint64_t *bytes, const struct metadata *metadata, struct error *err)
{
    struct source in = {.metadata = metadata};
    bool none;
    enum status status = read_kind(&in, &none, err);

    *text = NULL;
    *bytes = 0;
    if (status || none) return status;
    status = gguf_tokens_read(&in.tokens, metadata, err);
    if (!status && !in.pre) status = read_pieces(&in, err);
    if (!status) status = read_ids(&in, err);
    if (!status) status = put_all(&in, err);
    if (!status) status = json_writer_take(&in.json, text, bytes, err);
    json_writer_free(&in.json);
    gguf_tokens_free(&in.tokens);
    return status;
}
