/* See gguf_tokenizer.h. */
#include "model/tokenizer/gguf_tokenizer.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/charsmap.h"
#include "model/tokenizer/gguf_tokens.h"
#include "model/tokenizer/tokenizer_document.h"

#define MODEL "tokenizer.ggml.model"
#define PRE "tokenizer.ggml.pre"
#define MERGES "tokenizer.ggml.merges"
#define CHARSMAP "tokenizer.ggml.precompiled_charsmap"

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

struct source {
    const struct metadata *metadata;
    struct tokenizer_document document;
    bool scored;
};

static enum status read_id(
    struct document_token *out, const struct source *in, const char *key, struct error *err)
{
    if (metadata_find(in->metadata, key)) out->there = true;
    return metadata_get_u64(in->metadata, key, 0, in->document.tokens.vocabulary.count - 1, &out->entry, err);
}

/* The id under `key`, if the flag says that it goes around a text. */
static enum status read_around(struct document_token *out, const struct source *in, const char *key,
    const char *flag, bool wanted, struct error *err)
{
    enum status status = metadata_get_bool(in->metadata, flag, &wanted, err);

    if (!status) status = read_id(out, in, key, err);
    if (!status && wanted && !out->there)
        return fail(err, ERR_FORMAT, "%s is missing, but %s", key,
            metadata_find(in->metadata, flag) ? flag : "this tokenizer puts one around a text");
    if (out->entry >= in->document.tokens.vocabulary.count)
        wanted = false; /* the default of a vocabulary that is smaller */
    out->there = wanted;
    return status;
}

/* SentencePiece's ids have defaults: 0, 1 and 2; those of T5, which has no BOS: 2 and 1, and its EOS goes behind every text. */
static enum status read_ids(struct source *in, struct error *err)
{
    const bool pieces = !in->document.pre, unigram = in->document.unigram;
    enum status status;

    in->document.unknown = (struct document_token){pieces, unigram ? 2 : 0};
    in->document.before = (struct document_token){pieces && !unigram, 1};
    in->document.after = (struct document_token){pieces, unigram ? 1 : 2};
    status = read_id(&in->document.unknown, in, "tokenizer.ggml.unknown_token_id", err);
    if (!status)
        status = read_around(&in->document.before, in, "tokenizer.ggml.bos_token_id",
            "tokenizer.ggml.add_bos_token", unigram ? false : pieces || in->document.pre->add_bos, err);
    if (!status)
        status = read_around(&in->document.after, in, "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.add_eos_token", unigram, err);
    return status;
}

/* A damaged table is refused here, by the name of its key. */
static enum status read_charsmap(struct source *in, struct error *err)
{
    const struct metadata_item *item;
    struct charsmap *map = NULL;
    enum status status = metadata_get_array(in->metadata, CHARSMAP, METADATA_U8, &item, err);

    if (status) status = metadata_get_array(in->metadata, CHARSMAP, METADATA_I8, &item, err);
    if (status || !item || !item->count) return status;
    in->document.charsmap = item->bytes;
    in->document.charsmap_bytes = item->count;
    status = charsmap_create(&map, item->bytes, item->count, err);
    charsmap_free(map);
    return status ? fail_within(err, status, CHARSMAP) : OK;
}

static enum status read_unigram(struct source *in, struct error *err)
{
    bool behind = false;
    enum status status = read_charsmap(in, err);

    if (!status)
        status = metadata_get_bool(in->metadata, "tokenizer.ggml.treat_whitespace_as_suffix", &behind, err);
    if (!status && behind)
        return fail(err, ERR_UNSUPPORTED, "tokenizer.ggml.treat_whitespace_as_suffix is not supported");
    if (!status)
        status = metadata_get_bool(
            in->metadata, "tokenizer.ggml.remove_extra_whitespaces", &in->document.strip_spaces, err);
    return status ? status
                  : metadata_get_bool(
                        in->metadata, "tokenizer.ggml.add_space_prefix", &in->document.prefix_space, err);
}

/* What SentencePiece's normalizer would do beyond spaces is not done for BPE. */
static enum status read_pieces(struct source *in, struct error *err)
{
    bool strip = false;
    enum status status =
        metadata_get_bool(in->metadata, "tokenizer.ggml.remove_extra_whitespaces", &strip, err);

    if (status) return status;
    if (!in->scored) return fail(err, ERR_FORMAT, "tokenizer.ggml.scores is missing");
    if (in->document.unigram) return read_unigram(in, err);
    if (strip) return fail(err, ERR_UNSUPPORTED, "tokenizer.ggml.remove_extra_whitespaces is not supported");
    if (metadata_find(in->metadata, CHARSMAP))
        return fail(err, ERR_UNSUPPORTED, CHARSMAP " is not supported with " MODEL " llama");
    in->document.prefix_space = true;
    return metadata_get_bool(
        in->metadata, "tokenizer.ggml.add_space_prefix", &in->document.prefix_space, err);
}

static enum status read_merges(struct source *in, struct error *err)
{
    const struct metadata_item *list;
    enum status status = metadata_get_array(in->metadata, MERGES, METADATA_STRING, &list, err);

    if (status) return status;
    if (!list) return fail(err, ERR_FORMAT, MERGES " is missing");
    in->document.merges = memory_new(list->count, sizeof *in->document.merges, err);
    if (!in->document.merges) return ERR_MEMORY;
    in->document.merge_count = list->count;
    const uint8_t *at = list->bytes;
    for (uint64_t i = 0; i < list->count; i++)
        in->document.merges[i].bytes = metadata_next_string(&at, &in->document.merges[i].count);
    return OK;
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
    if (bytes == 4 && memcmp(model, "gpt2", 4) == 0) return find_pre(&in->document.pre, in->metadata, err);
    if (bytes == 5 && memcmp(model, "llama", 5) == 0) return OK;
    in->document.unigram = bytes == 2 && memcmp(model, "t5", 2) == 0;
    if (in->document.unigram) return OK;
    return fail(err, ERR_UNSUPPORTED, MODEL ": %s is not known (known: llama, gpt2, t5)",
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
    status = gguf_tokens_read(&in.document.tokens, &in.scored, metadata, err);
    if (!status && !in.document.pre) status = read_pieces(&in, err);
    if (!status) status = read_ids(&in, err);
    if (!status && in.document.pre) status = read_merges(&in, err);
    if (!status) status = tokenizer_document_write(text, bytes, &in.document, err);
    tokenizer_document_free(&in.document);
    return status;
}
