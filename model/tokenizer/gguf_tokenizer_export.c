/* See gguf_tokenizer_export.h. */
#include "model/tokenizer/gguf_tokenizer_export.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/memory.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/gguf_scores.h"
#include "model/tokenizer/gguf_shape.h"
#include "model/tokenizer/token_list.h"
#include "model/tokenizer/postprocessor.h"
#include "model/tokenizer/special_ids.h"
#include "model/tokenizer/tokenizer_json.h"
#include "model/tokenizer/unigram.h"

#define KEY(name) "tokenizer.ggml." name

enum { PAD_BYTES = 24 };

struct export
{
    struct metadata_builder *builder;
    char *text; /* tokenizer.json */
    struct json_document *normalizer_document, *pre_document, *post_document;
    struct vocabulary vocabulary;
    bool is_unigram; /* else BPE */
    struct bpe bpe;
    struct unigram unigram;
    uint32_t unknown;            /* of either model: an entry, or NO_ENTRY */
    const uint32_t *byte_tokens; /* [256] */
    struct normalizer *normalizer;
    struct added_tokens added;
    struct postprocessor around;
    struct gguf_shape shape;
    const struct gguf_pre *pre; /* byte-level */
    struct special_ids ids;
    uint64_t rows;
    struct json_text *tokens; /* [rows] */
    int32_t *types;           /* [rows] */
    float *scores;            /* [rows] pieces */
    char(*pads)[PAD_BYTES];   /* [rows - tokens of the vocabulary] for ids without a token */
    char *note;
};

static void add_note(struct export *export, const char *format, const char *what)
{
    size_t at = strlen(export->note);

    if (at) at += (size_t)snprintf(export->note + at, GGUF_TOKENIZER_NOTE - at, "; ");
    if (at < GGUF_TOKENIZER_NOTE) snprintf(export->note + at, GGUF_TOKENIZER_NOTE - at, format, what);
}

/* ---- reading ---- */

static enum status read_model(struct export *export, const struct json_text *section, struct error *err)
{
    enum status status = tokenizer_model_is(&export->is_unigram, section, "Unigram", err);

    if (!status && export->is_unigram)
        status = unigram_read(&export->unigram, &export->vocabulary, section, err);
    else if (!status)
        status = bpe_read(&export->bpe, &export->vocabulary, section, err);
    export->unknown = export->is_unigram ? export->unigram.unknown : export->bpe.unknown;
    export->byte_tokens = export->is_unigram ? export->unigram.byte_tokens : export->bpe.byte_tokens;
    return status ? fail_within(err, status, "tokenizer.json: model") : OK;
}

static enum status read_sections(struct export *export, uint64_t bytes, struct error *err)
{
    struct json_text sections[SECTION_COUNT] = {{0}};
    enum status status = tokenizer_sections(sections, "tokenizer.json", export->text, bytes, err);

    if (status) return status;
    status = read_model(export, &sections[SECTION_MODEL], err);
    if (status) return status;
    status = tokenizer_section_parse(&export->normalizer_document, &sections[SECTION_NORMALIZER], err);
    if (!status)
        status = tokenizer_section_parse(&export->pre_document, &sections[SECTION_PRE_TOKENIZER], err);
    if (!status)
        status = tokenizer_section_parse(&export->post_document, &sections[SECTION_POST_PROCESSOR], err);
    const struct json_value *normalizer =
        export->normalizer_document ? json_root(export->normalizer_document) : NULL;
    if (!status) status = normalizer_create(&export->normalizer, normalizer, err);
    if (!status)
        status = added_tokens_read(
            &export->added, &export->vocabulary, export->normalizer, &sections[SECTION_ADDED_TOKENS], err);
    if (!status)
        status = postprocessor_read(&export->around, &export->vocabulary,
            export->post_document ? json_root(export->post_document) : NULL, err);
    if (!status)
        status = gguf_shape_read(
            &export->shape, normalizer, export->pre_document ? json_root(export->pre_document) : NULL, err);
    return status ? fail_within(err, status, "tokenizer.json") : OK;
}

static enum status find_pre(struct export *export, struct error *err)
{
    const struct gguf_shape *shape = &export->shape;
    const struct json_text none = {"", 0}, *first = shape->count ? &shape->patterns[0] : &none;
    char quoted[300];

    export->pre = gguf_pre_match(shape->patterns, shape->count, shape->nfc, export->bpe.ignore_merges);
    if (export->pre) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "tokenizer.json: pre_tokenizer: no name in GGUF is known for %" PRIu64
        " pattern%s%s, the first \"%s\"; "
        "other output formats keep tokenizer.json",
        shape->count, shape->count == 1 ? "" : "s", shape->nfc ? " after NFC" : "",
        error_quote(quoted, sizeof quoted, first->bytes, first->count));
}

/* ---- tokens ---- */

static bool is_byte_token(const struct export *export, uint32_t entry)
{
    uint64_t bytes;
    const char *content = vocabulary_content(&export->vocabulary, entry, &bytes);

    if (export->shape.byte_level || bytes != 6 || memcmp(content, "<0x", 3) != 0) return false;
    for (unsigned i = 0; i < 256; i++) {
        if (export->byte_tokens[i] == entry) return true;
    }
    return false;
}

static enum token_type type_of(const struct export *export, uint32_t entry)
{
    const struct added_token *token = added_tokens_find(&export->added, entry);

    if (token && !token->special) return TOKEN_USER_DEFINED;
    if (token) return entry == export->unknown ? TOKEN_UNKNOWN : TOKEN_CONTROL;
    return is_byte_token(export, entry) ? TOKEN_BYTE : TOKEN_NORMAL;
}

static enum status allocate(struct export *export, struct error *err)
{
    const uint64_t rows = export->rows;

    export->tokens = memory_new(rows, sizeof *export->tokens, err);
    export->types = export->tokens ? memory_new(rows, sizeof *export->types, err) : NULL;
    export->scores = export->types ? memory_new(rows, sizeof *export->scores, err) : NULL;
    export->pads =
        export->scores ? memory_new(rows - export->vocabulary.count, sizeof *export->pads, err) : NULL;
    return export->pads ? OK : ERR_MEMORY;
}

static enum status size_up(struct export *export, uint64_t rows, struct error *err)
{
    const struct vocabulary *vocabulary = &export->vocabulary;
    char quoted[80];
    uint64_t bytes;

    export->rows = rows ? rows : vocabulary->size;
    if (export->rows > VOCABULARY_ID_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "%" PRIu64 " tokens are more than 2^24", export->rows);
    for (uint32_t i = 0; i < vocabulary->count; i++) {
        if (vocabulary->entries[i].id < export->rows) continue;
        const char *content = vocabulary_content(vocabulary, i, &bytes);
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer.json: the token \"%s\" has the id %" PRIu32 ", but the embedding has %" PRIu64
            " rows; take the token out of tokenizer.json",
            error_quote(quoted, sizeof quoted, content, bytes), vocabulary->entries[i].id, export->rows);
    }
    return allocate(export, err);
}

static enum status pad(struct export *export, struct error *err)
{
    char(*next)[PAD_BYTES] = export->pads;

    for (uint64_t id = 0; id < export->rows; id++) {
        if (export->tokens[id].bytes) continue;
        char *name = *next++;
        const int bytes = snprintf(name, PAD_BYTES, "[PAD%" PRIu64 "]", id);
        if (vocabulary_find(&export->vocabulary, name, (uint64_t)bytes) != NO_ENTRY)
            return fail(err, ERR_UNSUPPORTED,
                "tokenizer.json: %s is a token, and would have to stand for another id too", name);
        export->tokens[id] = (struct json_text){name, (uint64_t)bytes};
        export->types[id] = TOKEN_UNUSED;
    }
    return OK;
}

static enum status list_tokens(struct export *export, uint64_t rows, struct error *err)
{
    const struct vocabulary *vocabulary = &export->vocabulary;
    enum status status = size_up(export, rows, err);

    for (uint32_t i = 0; i < vocabulary->count && !status; i++) {
        const uint32_t id = vocabulary->entries[i].id;
        struct json_text *token = &export->tokens[id];
        token->bytes = vocabulary_content(vocabulary, i, &token->count);
        export->types[id] = (int32_t)type_of(export, i);
    }
    return status ? status : pad(export, err);
}

/* What added tokens may say that GGUF cannot. */
static void note_added(struct export *export)
{
    for (uint64_t i = 0; i < export->added.count; i++) {
        const struct added_token *token = &export->added.tokens[i];
        uint64_t bytes;
        char quoted[80];
        const char *content = vocabulary_content(&export->vocabulary, token->entry, &bytes);
        const bool rewritten =
            token->bytes != bytes || memcmp(export->added.texts.bytes + token->offset, content, bytes) != 0;
        if (!rewritten && !token->single_word && !token->strip_left && !token->strip_right) continue;
        add_note(export,
            "GGUF cannot say how the token \"%s\" takes white space beside it, or where it counts (lstrip, "
            "rstrip, single_word, normalized): programs that read the file find it wherever it is written",
            error_quote(quoted, sizeof quoted, content, bytes));
        return;
    }
}

/* ---- the three models ---- */

static enum status put_pieces(struct export *export, struct error *err)
{
    if (export->shape.strip_spaces || export->shape.charsmap.count)
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer.json: normalizer: steps that rewrite characters or strip spaces before BPE: GGUF has "
            "no "
            "place for them; other output formats keep tokenizer.json");
    enum status status = gguf_scores_make(
        export->scores, &export->bpe, &export->added, export->shape.split, export->rows, err);

    if (status) return fail_within(err, status, "tokenizer.json");
    if (export->shape.metaspace && export->shape.prefix_space)
        add_note(export, "%s",
            "programs that read the file put a space before a text that begins with one, and after special "
            "tokens; "
            "the Metaspace of tokenizer.json does not");
    if (!gguf_scores_have_bytes(&export->bpe))
        add_note(export, "%s",
            "there are no tokens for bytes: llama.cpp stops with an error at a character without a token, of "
            "which "
            "tokenizer.json makes unk_token");
    metadata_builder_text(export->builder, KEY("model"), "llama");
    metadata_builder_text(export->builder, KEY("pre"), "default");
    metadata_builder_f32s(export->builder, KEY("scores"), export->scores, export->rows);
    metadata_builder_bool(export->builder, KEY("add_space_prefix"), export->shape.prefix_space);
    return OK;
}

static enum status refuse_unigram(const char *what, struct error *err)
{
    return fail(err, ERR_UNSUPPORTED,
        "tokenizer.json: %s, which GGUF's \"t5\" tokenizer has not; other output formats keep tokenizer.json",
        what);
}

/* Programs that read the file search whole texts, by the scores of ordinary pieces. */
static enum status check_unigram(const struct export *export, struct error *err)
{
    const struct gguf_shape *shape = &export->shape;
    double lowest = INFINITY;

    if (shape->byte_level) return refuse_unigram("pre_tokenizer: ByteLevel before a Unigram model", err);
    if (export->unknown == NO_ENTRY) return refuse_unigram("model: no unk_id", err);
    if (shape->strip_spaces && !shape->prefix_space)
        return refuse_unigram("normalizer: spaces stripped and none put before a text", err);
    for (uint32_t i = 0; i < export->vocabulary.model_count; i++) {
        uint64_t bytes;
        const char *content = vocabulary_content(&export->vocabulary, i, &bytes);
        if (type_of(export, i) != TOKEN_NORMAL) continue;
        if (export->unigram.scores[i] < lowest) lowest = export->unigram.scores[i];
        if (shape->split && bytes > 1 && strstr(content + 1, "\xE2\x96\x81"))
            return refuse_unigram(
                "pre_tokenizer: texts cut before every space, and pieces with one inside", err);
    }
    if (lowest - 10 != export->unigram.unknown_score)
        return refuse_unigram("model: the lowest score is not that of an ordinary piece", err);
    return OK;
}

static void note_unigram(struct export *export, bool rounded)
{
    const struct gguf_shape *shape = &export->shape;

    if (shape->metaspace && shape->prefix_space && !shape->strip_spaces)
        add_note(export, "%s",
            "programs that read the file put a space before a text that begins with one, and after special "
            "tokens; the Metaspace of tokenizer.json does not");
    if (shape->charsmap.count && !shape->longest)
        add_note(export, "%s",
            "llama.cpp rewrites characters as sentencepiece does, tokenizer.json as the tokenizers library: "
            "marks on letters may come out otherwise");
    if (export->unigram.byte_fallback)
        add_note(export, "%s",
            "llama.cpp makes characters without a token unknown here, tokenizer.json makes bytes of them");
    if (rounded) add_note(export, "%s", "scores of pieces are rounded to single precision");
}

static enum status put_charsmap(struct export *export, struct error *err)
{
    const struct json_text *text = &export->shape.charsmap;
    uint8_t *table = NULL;
    uint64_t bytes;

    if (!text->count) return OK;
    const enum status status = base64_decode(&table, &bytes, text->bytes, text->count, err);
    if (!status) metadata_builder_u8s(export->builder, KEY("precompiled_charsmap"), table, bytes);
    memory_free(table);
    return status;
}

static enum status put_unigram(struct export *export, struct error *err)
{
    bool rounded = false;
    enum status status = check_unigram(export, err);

    for (uint32_t i = 0; i < export->vocabulary.model_count && !status; i++) {
        const float score = (float)export->unigram.scores[i];
        export->scores[export->vocabulary.entries[i].id] = score;
        rounded |= score != export->unigram.scores[i];
    }
    if (!status) status = put_charsmap(export, err);
    if (status) return status;
    note_unigram(export, rounded);
    metadata_builder_text(export->builder, KEY("model"), "t5");
    metadata_builder_text(export->builder, KEY("pre"), "default");
    metadata_builder_f32s(export->builder, KEY("scores"), export->scores, export->rows);
    metadata_builder_bool(export->builder, KEY("add_space_prefix"), export->shape.prefix_space);
    metadata_builder_bool(export->builder, KEY("remove_extra_whitespaces"), export->shape.strip_spaces);
    return OK;
}

static int compare_ranks(const void *left, const void *right)
{
    const struct bpe_merge *a = left, *b = right;

    return (a->rank > b->rank) - (a->rank < b->rank);
}

/* The merges in the order of their ranks. */
static enum status sort_merges(
    struct bpe_merge **out, uint64_t *count, const struct bpe *bpe, struct error *err)
{
    struct bpe_merge *merges = memory_new(bpe->merge_slots, sizeof *merges, err);

    *out = merges;
    *count = 0;
    if (!merges) return ERR_MEMORY;
    for (uint64_t i = 0; i < bpe->merge_slots; i++) {
        if (bpe->merges[i].left != NO_ENTRY) merges[(*count)++] = bpe->merges[i];
    }
    if (*count) qsort(merges, *count, sizeof *merges, compare_ranks);
    return OK;
}

/* "left right" */
static enum status join(
    struct text *out, const struct vocabulary *vocabulary, const struct bpe_merge *merge, struct error *err)
{
    uint64_t left_bytes, right_bytes;
    const char *left = vocabulary_content(vocabulary, merge->left, &left_bytes),
               *right = vocabulary_content(vocabulary, merge->right, &right_bytes);
    enum status status;

    if (memchr(left, ' ', left_bytes) || memchr(right, ' ', right_bytes))
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer.json: merge %" PRIu32 ": a space in a token is not of the byte-level alphabet",
            merge->rank);
    status = text_append(out, left, left_bytes, err);
    if (!status) status = text_append(out, " ", 1, err);
    return status ? status : text_append(out, right, right_bytes, err);
}

static enum status put_merges(struct export *export, struct error *err)
{
    struct bpe_merge *merges = NULL;
    struct json_text *texts = NULL;
    struct text all = {0};
    uint64_t count, *ends = NULL;
    enum status status = sort_merges(&merges, &count, &export->bpe, err);

    if (!status && !(ends = memory_new(count, sizeof *ends, err))) status = ERR_MEMORY;
    if (!status && !(texts = memory_new(count, sizeof *texts, err))) status = ERR_MEMORY;
    for (uint64_t i = 0; i < count && !status; i++) {
        status = join(&all, &export->vocabulary, &merges[i], err);
        ends[i] = all.count;
    }
    for (uint64_t i = 0, begin = 0; i < count && !status; begin = ends[i++])
        texts[i] = (struct json_text){all.bytes + begin, ends[i] - begin};
    if (!status) metadata_builder_strings(export->builder, KEY("merges"), texts, count);
    text_free(&all);
    memory_free(texts);
    memory_free(ends);
    memory_free(merges);
    return status;
}

static enum status put_byte_level(struct export *export, struct error *err)
{
    enum status status = find_pre(export, err);

    if (!status)
        status = gguf_scores_check_byte_level(
            &export->bpe, &export->added, export->pre->ignore_merges != export->bpe.ignore_merges, err);
    if (status) return status;
    if (export->pre->nfc)
        add_note(export, "%s",
            "llama.cpp does not bring texts into Unicode's normal form C first, as tokenizer.json does; most "
            "texts are "
            "in it");
    metadata_builder_text(export->builder, KEY("model"), "gpt2");
    metadata_builder_text(export->builder, KEY("pre"), export->pre->name);
    return put_merges(export, err);
}

/* ---- ids ---- */

/* What stands around a text must be one BOS and one EOS at most. */
static enum status take_around(struct export *export, struct error *err)
{
    const struct id_list *before = &export->around.before, *after = &export->around.after;

    if (before->count > 1 || after->count > 1)
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer.json: post_processor: %" PRIu64 " tokens before a text and %" PRIu64
            " behind it: GGUF has a place for one each",
            before->count, after->count);
    if (before->count) export->ids.id[SPECIAL_BOS] = before->ids[0];
    if (after->count) export->ids.id[SPECIAL_EOS] = after->ids[0];
    if (export->unknown != NO_ENTRY)
        export->ids.id[SPECIAL_UNKNOWN] = export->vocabulary.entries[export->unknown].id;
    return OK;
}

static void put_ids(struct export *export)
{
    static const char *const keys[SPECIAL_COUNT] = {
        [SPECIAL_BOS] = KEY("bos_token_id"),
        [SPECIAL_EOS] = KEY("eos_token_id"),
        [SPECIAL_UNKNOWN] = KEY("unknown_token_id"),
        [SPECIAL_PADDING] = KEY("padding_token_id"),
    };

    for (unsigned i = 0; i < SPECIAL_COUNT; i++) {
        if (export->ids.id[i] >= 0 && (uint64_t) export->ids.id[i] < export->rows)
            metadata_builder_u32(export->builder, keys[i], (uint32_t) export->ids.id[i]);
    }
    metadata_builder_bool(export->builder, KEY("add_bos_token"), export->around.before.count > 0);
    metadata_builder_bool(export->builder, KEY("add_eos_token"), export->around.after.count > 0);
}

/* ---- all of it ---- */

static enum status put_all(
    struct export *export, struct container *container, uint64_t rows, struct error *err)
{
    enum status status = list_tokens(export, rows, err);

    if (!status) status = special_ids_read(&export->ids, &export->vocabulary, container, err);
    if (!status) status = take_around(export, err);
    if (!status && export->is_unigram)
        status = put_unigram(export, err);
    else if (!status)
        status = export->shape.byte_level ? put_byte_level(export, err) : put_pieces(export, err);
    if (status) return status;
    metadata_builder_strings(export->builder, KEY("tokens"), export->tokens, export->rows);
    metadata_builder_i32s(export->builder, KEY("token_type"), export->types, export->rows);
    put_ids(export);
    note_added(export);
    return metadata_builder_status(export->builder, err);
}

static void release(struct export *export)
{
    memory_free(export->pads);
    memory_free(export->scores);
    memory_free(export->types);
    memory_free(export->tokens);
    postprocessor_free(&export->around);
    added_tokens_free(&export->added);
    normalizer_free(export->normalizer);
    unigram_free(&export->unigram);
    bpe_free(&export->bpe);
    vocabulary_free(&export->vocabulary);
    json_free(export->post_document);
    json_free(export->pre_document);
    json_free(export->normalizer_document);
    memory_free(export->text);
}

enum status gguf_tokenizer_export(struct metadata_builder *builder, struct container *container,
    uint64_t rows, char note[GGUF_TOKENIZER_NOTE], struct error *err)
{
    struct export export = {.builder = builder, .note = note};
    uint64_t bytes;
    enum status status = container_document(container, "tokenizer.json", &export.text, &bytes, err);

    note[0] = 0;
    if (!status && !export.text) {
        metadata_builder_text(builder, KEY("model"), "none");
        return metadata_builder_status(builder, err);
    }
    if (!status) status = read_sections(&export, bytes, err);
    if (!status) status = put_all(&export, container, rows, err);
    release(&export);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
