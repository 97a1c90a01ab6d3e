/* See sentencepiece.h. */
#include "model/tokenizer/sentencepiece.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "base/protobuf.h"
#include "model/tokenizer/charsmap.h"
#include "model/tokenizer/tokenizer_document.h"

#define SPACE "\xE2\x96\x81" /* U+2581 */

/* Numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { KIND_UNIGRAM = 1, KIND_BPE = 2 };

/* A model while it is read; the initial values are the defaults of the .proto. */
struct reading {
    struct tokenizer_document document;
    uint64_t kind, space_behind;
    uint64_t prefix_space, strip_spaces, escape_spaces;
    uint64_t unknown, before, after; /* ids, as they are written: a negative one is near 2^64 */
    uint64_t charsmap_bytes, denormalizer_bytes;
    const uint8_t *charsmap; /* [charsmap_bytes] in the file */
};

/* One number of a message, and where it goes. */
struct slot {
    uint32_t number;
    enum protobuf_wire wire; /* of bytes, their count is kept */
    uint64_t *value;
    const uint8_t **bytes; /* NULL: not wanted */
};

/* ---- messages ---- */

static enum status take_slots(struct protobuf_reader *outer, const struct protobuf_field *message,
    const struct slot *slots, size_t count, struct error *err)
{
    struct protobuf_reader reader;
    struct protobuf_field field;
    bool more;
    enum status status;

    protobuf_reader_enter(&reader, outer, message);
    while (!(status = protobuf_next(&reader, &field, &more, err)) && more) {
        for (size_t i = 0; i < count; i++) {
            if (slots[i].number != field.number) continue;
            if (slots[i].wire != field.wire)
                return fail(err, ERR_FORMAT, "at byte %" PRIu64 ": field %" PRIu32 " is of another kind",
                    field.offset, field.number);
            *slots[i].value = field.value;
            if (slots[i].bytes) *slots[i].bytes = field.bytes;
        }
    }
    return status;
}

static enum status read_trainer(struct reading *in, struct protobuf_reader *reader,
    const struct protobuf_field *message, struct error *err)
{
    const struct slot slots[] = {
        {3, PROTOBUF_VARINT, &in->kind, NULL},
        {24, PROTOBUF_VARINT, &in->space_behind, NULL},
        {40, PROTOBUF_VARINT, &in->unknown, NULL},
        {41, PROTOBUF_VARINT, &in->before, NULL},
        {42, PROTOBUF_VARINT, &in->after, NULL},
    };

    return take_slots(reader, message, slots, sizeof slots / sizeof *slots, err);
}

static enum status read_normalizer(struct reading *in, struct protobuf_reader *reader,
    const struct protobuf_field *message, struct error *err)
{
    const struct slot slots[] = {
        {2, PROTOBUF_BYTES, &in->charsmap_bytes, &in->charsmap},
        {3, PROTOBUF_VARINT, &in->prefix_space, NULL},
        {4, PROTOBUF_VARINT, &in->strip_spaces, NULL},
        {5, PROTOBUF_VARINT, &in->escape_spaces, NULL},
    };

    return take_slots(reader, message, slots, sizeof slots / sizeof *slots, err);
}

/* ---- pieces ---- */

/* What the user defined is looked for in the text as it comes, where a space is a space. */
static enum status add_user_defined(struct reading *in, const char *content, uint64_t bytes, uint64_t id,
    const struct token *token, struct error *err)
{
    struct text plain = {0};
    enum status status = OK;

    for (uint64_t at = 0; at < bytes && !status;) {
        const bool space = bytes - at >= 3 && memcmp(content + at, SPACE, 3) == 0;
        status = text_append(&plain, space ? " " : content + at, 1, err);
        at += space ? 3 : 1;
    }
    if (!status) status = token_list_add(&in->document.tokens, plain.bytes, plain.count, id, token, err);
    text_free(&plain);
    return status;
}

static float float_of(uint64_t bits)
{
    const uint32_t low = (uint32_t)bits;
    float value;

    memcpy(&value, &low, sizeof value);
    return value;
}

static enum status add_piece(
    struct reading *in, const char *content, uint64_t bytes, uint64_t type, float score, struct error *err)
{
    const struct token token = {.type = (enum token_type)type, .score = score};
    const uint64_t id = in->document.tokens.vocabulary.count;

    if (type < TOKEN_NORMAL || type >= TOKEN_TYPES)
        return fail(err, ERR_FORMAT, "%" PRIu64 " is no type of a piece", type);
    if (bytes == 0) return fail(err, ERR_FORMAT, "is empty");
    if (!isfinite(score)) return fail(err, ERR_FORMAT, "its score is not finite");
    if (type == TOKEN_UNUSED)
        return fail(err, ERR_UNSUPPORTED, "is marked as unused, which is not supported");
    if (type == TOKEN_USER_DEFINED) return add_user_defined(in, content, bytes, id, &token, err);
    return token_list_add(&in->document.tokens, content, bytes, id, &token, err);
}

static enum status read_piece(struct reading *in, struct protobuf_reader *outer,
    const struct protobuf_field *message, struct error *err)
{
    struct protobuf_reader reader;
    struct protobuf_field field, text = {0};
    uint64_t type = TOKEN_NORMAL, score = 0;
    bool more;
    enum status status;

    protobuf_reader_enter(&reader, outer, message);
    while (!(status = protobuf_next(&reader, &field, &more, err)) && more) {
        if (field.number == PIECE_TEXT && field.wire == PROTOBUF_BYTES) text = field;
        if (field.number == PIECE_SCORE && field.wire == PROTOBUF_FIXED32) score = field.value;
        if (field.number == PIECE_TYPE && field.wire == PROTOBUF_VARINT) type = field.value;
    }
    if (!status) status = add_piece(in, (const char *)text.bytes, text.value, type, float_of(score), err);
    if (!status) return OK;
    return fail_within(err, status, "piece %" PRIu64 " at byte %" PRIu64,
        in->document.tokens.vocabulary.count, message->offset);
}

/* ---- the model ---- */

static enum status read_model(struct reading *in, const char *model, uint64_t bytes, struct error *err)
{
    struct protobuf_reader reader;
    struct protobuf_field field;
    bool more;
    enum status status;

    protobuf_reader_init(&reader, model, bytes);
    while (!(status = protobuf_next(&reader, &field, &more, err)) && more) {
        const struct slot denormalizer = {2, PROTOBUF_BYTES, &in->denormalizer_bytes, NULL};
        if (field.wire != PROTOBUF_BYTES) continue;
        if (field.number == MODEL_PIECES) status = read_piece(in, &reader, &field, err);
        if (field.number == MODEL_TRAINER) status = read_trainer(in, &reader, &field, err);
        if (field.number == MODEL_NORMALIZER) status = read_normalizer(in, &reader, &field, err);
        if (field.number == MODEL_DENORMALIZER) status = take_slots(&reader, &field, &denormalizer, 1, err);
        if (status) return status;
    }
    if (!status && in->document.tokens.vocabulary.count == 0)
        return fail(err, ERR_FORMAT, "no pieces; this is no SentencePiece model");
    return status;
}

static enum status check_kind(const struct reading *in, struct error *err)
{
    static const char *const kinds[] = {"?", "unigram", "BPE", "word", "char"};

    if (in->kind != KIND_BPE && in->kind != KIND_UNIGRAM)
        return fail(err, ERR_UNSUPPORTED,
            "is a %s model, only unigram and BPE are supported; put the tokenizer.json of the model beside "
            "it if "
            "there is one",
            in->kind <= 4 ? kinds[in->kind] : "?");
    if (in->denormalizer_bytes)
        return fail(err, ERR_UNSUPPORTED,
            "its denormalizer rewrites characters (precompiled_charsmap of %" PRIu64
            " bytes), which is not supported; "
            "put the tokenizer.json of the model beside it if there is one",
            in->denormalizer_bytes);
    if (in->space_behind) return fail(err, ERR_UNSUPPORTED, "treat_whitespace_as_suffix is not supported");
    return OK;
}

/* A damaged table is refused here, by the name of its own file. */
static enum status take_normalizer(struct reading *in, struct error *err)
{
    struct charsmap *map = NULL;
    enum status status =
        in->charsmap_bytes ? charsmap_create(&map, in->charsmap, in->charsmap_bytes, err) : OK;

    charsmap_free(map);
    if (in->charsmap_bytes) in->document.charsmap = in->charsmap;
    in->document.charsmap_bytes = in->charsmap_bytes;
    in->document.strip_spaces = in->strip_spaces;
    in->document.plain_spaces = !in->escape_spaces;
    in->document.unigram = in->kind == KIND_UNIGRAM;
    return status;
}

/* ---- what goes around a text ---- */

static enum status set_around(struct document_token *out, const struct reading *in, uint64_t id,
    const char *name, bool wanted, struct error *err)
{
    if (!wanted) return OK;
    if (id >= in->document.tokens.vocabulary.count)
        return fail(err, ERR_FORMAT, "%s is true, but the model has no such piece (id %" PRId64 ")", name,
            (int64_t)id);
    *out = (struct document_token){true, id};
    return OK;
}

/* Classes of transformers (with or without "Fast" at the end) that are not like Llama's. */
static const struct class_row {
    const char *name;
    bool own_ids; /* its ids are not those of the pieces, or other tokens than BOS and EOS go around a text */
    bool after;   /* EOS goes behind a text, no BOS before it */
} classes[] = {
    {"T5Tokenizer", false, true},
    {"AlbertTokenizer", true, false},
    {"BarthezTokenizer", true, false},
    {"CamembertTokenizer", true, false},
    {"MBartTokenizer", true, false},
    {"MBart50Tokenizer", true, false},
    {"NllbTokenizer", true, false},
    {"PegasusTokenizer", true, false},
    {"XGLMTokenizer", true, false},
    {"XLMRobertaTokenizer", true, false},
    {"XLNetTokenizer", true, false},
};

static const struct class_row *find_class(const char *name)
{
    const uint64_t bytes = strlen(name), fast = bytes > 4 && strcmp(name + bytes - 4, "Fast") == 0 ? 4 : 0;

    for (uint64_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (strlen(classes[i].name) == bytes - fast && memcmp(classes[i].name, name, bytes - fast) == 0)
            return &classes[i];
    }
    return NULL;
}

/* Where no document says otherwise, BOS goes before a text if the model has one. */
static enum status set_ids(struct reading *in, const struct token_extras *extras, struct error *err)
{
    const struct class_row *row = find_class(token_extras_class(extras));
    bool after = row && row->after, prefix = in->prefix_space;
    bool before = !after && in->before < in->document.tokens.vocabulary.count;
    enum status status = OK;

    if (row && row->own_ids)
        return fail(err, ERR_UNSUPPORTED,
            "tokenizer_class %s numbers tokens, or puts them around a text, in its own way, which is not "
            "supported; put the tokenizer.json of the model beside it if there is one",
            row->name);
    status = token_extras_flag(extras, "add_bos_token", &before, err);

    if (!status) status = token_extras_flag(extras, "add_eos_token", &after, err);
    if (!status) status = token_extras_flag(extras, "add_prefix_space", &prefix, err);
    if (!status) status = set_around(&in->document.before, in, in->before, "add_bos_token", before, err);
    if (!status) status = set_around(&in->document.after, in, in->after, "add_eos_token", after, err);
    if (!status && in->unknown >= in->document.tokens.vocabulary.count)
        return fail(err, ERR_FORMAT, "unk_id: %" PRId64 " is no piece", (int64_t)in->unknown);
    in->document.unknown = (struct document_token){true, in->unknown};
    in->document.prefix_space = prefix;
    return status;
}

enum status sentencepiece_write(char **text, uint64_t *bytes, const char *model, uint64_t model_bytes,
    const struct token_extras *extras, struct error *err)
{
    struct reading in = {.kind = KIND_UNIGRAM,
        .prefix_space = 1,
        .strip_spaces = 1,
        .escape_spaces = 1,
        .before = 1,
        .after = 2};
    enum status status = read_model(&in, model, model_bytes, err);

    *text = NULL;
    if (!status) status = check_kind(&in, err);
    if (!status) status = take_normalizer(&in, err);
    if (!status) status = set_ids(&in, extras, err);
    if (!status) status = token_extras_add(extras, &in.document.tokens, err);
    if (!status) status = tokenizer_document_write(text, bytes, &in.document, err);
    tokenizer_document_free(&in.document);
    return status;
}
