/* SentencePiece models made byte by byte: defaults, flags, and every way to be refused. What tokens come of real models is held to
 * sentencepiece itself in test_tokenizer_files.c. */
#include "model/tokenizer/sentencepiece.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/charsmap_table.h"
#include "tests/support/testing.h"

/* A message while it is written; what does not fit ends the program. */
struct message {
    uint8_t bytes[8192];
    uint64_t count;
};

static void put(struct message *out, const void *bytes, uint64_t count)
{
    REQUIRE(out->count + count <= sizeof out->bytes, NULL);
    memcpy(out->bytes + out->count, bytes, count);
    out->count += count;
}

static void put_varint(struct message *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put(out, (const uint8_t[]){(uint8_t)(value | 0x80)}, 1);
    put(out, (const uint8_t[]){(uint8_t)value}, 1);
}

static void put_number(struct message *out, uint32_t field, uint64_t value)
{
    put_varint(out, (uint64_t)field << 3);
    put_varint(out, value);
}

static void put_bytes(struct message *out, uint32_t field, const void *bytes, uint64_t count)
{
    put_varint(out, (uint64_t)field << 3 | 2);
    put_varint(out, count);
    put(out, bytes, count);
}

static void put_piece(struct message *out, const char *text, float score, uint64_t type)
{
    struct message piece = {.count = 0};

    put_bytes(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | 5);
    put(&piece, &score, 4);
    if (type != 1) put_number(&piece, 3, type);
    put_bytes(out, 1, piece.bytes, piece.count);
}

#define SPACE "\xE2\x96\x81"

/* 0 <unk>, 1 <s>, 2 </s>, 3 "ab", 4 " ab", 5 " ", 6 "a", 7 "b" */
static void put_letters(struct message *out)
{
    put_piece(out, "<unk>", 0, 2);
    put_piece(out, "<s>", 0, 3);
    put_piece(out, "</s>", 0, 3);
    put_piece(out, "ab", -1, 1);
    put_piece(out, SPACE "ab", -2, 1);
    put_piece(out, SPACE, -3, 1);
    put_piece(out, "a", -4, 1);
    put_piece(out, "b", -5, 1);
}

/* One number of the trainer (message 2) or of the normalizer (3). */
static void put_setting(struct message *out, uint32_t message, uint32_t field, uint64_t value)
{
    struct message inner = {.count = 0};

    put_number(&inner, field, value);
    put_bytes(out, message, inner.bytes, inner.count);
}

static void begin(struct message *out)
{
    out->count = 0;
    put_letters(out);
    put_setting(out, 2, 3, 2); /* BPE */
    put_setting(out, 3, 4, 0); /* spaces are kept */
}

static enum status make(const struct message *model, const char *config, char **text, struct error *err)
{
    struct token_extras extras = {0};
    uint64_t bytes;

    if (config)
        REQUIRE(json_parse(&extras.config, "tokenizer_config.json", config, strlen(config), err) == OK, err);
    enum status status =
        sentencepiece_write(text, &bytes, (const char *)model->bytes, model->count, &extras, err);
    token_extras_free(&extras);
    return status;
}

/* ---- what comes of flags ---- */

static void check_ids(const struct message *model, const char *config, const char *text, const char *expected)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char *json = NULL, found[200] = "";
    uint32_t *ids = NULL;
    uint64_t count = 0;

    REQUIRE(make(model, config, &json, &err) == OK, &err);
    REQUIRE(tokenizer_create(&tokenizer, "made", json, strlen(json), &err) == OK, &err);
    REQUIRE(tokenizer_encode(tokenizer, &ids, &count, text, strlen(text), true, &err) == OK, &err);
    for (uint64_t i = 0, at = 0; i < count; i++)
        at += (uint64_t)snprintf(found + at, sizeof found - at, "%s%u", i ? " " : "", ids[i]);
    testing_check(strcmp(found, expected) == 0, found, NULL, __FILE__, __LINE__);
    memory_free(ids);
    memory_free(json);
    tokenizer_free(tokenizer);
}

static void flags(void)
{
    struct message model;

    begin(&model);
    check_ids(&model, NULL, "ab", "1 4");
    check_ids(&model, NULL, " ab  b", "1 5 4 5 5 7");
    check_ids(&model, NULL, "xx", "1 5 0");
    check_ids(&model, "{\"add_bos_token\":false,\"add_eos_token\":true}", "ab", "4 2");
    check_ids(&model, "{\"add_prefix_space\":false}", "ab", "1 3");
    check_ids(&model, "{\"added_tokens_decoder\":{\"9\":{\"content\":\"<x>\",\"special\":true}}}", "ab<x>",
        "1 4 9");
    put_setting(&model, 3, 3, 0); /* no space before */
    check_ids(&model, NULL, "ab", "1 3");
    put_setting(&model, 2, 41, UINT64_MAX); /* no BOS */
    check_ids(&model, NULL, "ab", "3");
    put_setting(&model, 3, 4, 1); /* spaces are stripped */
    check_ids(&model, NULL, "  ab   ab ", "3 4");
    put_piece(&model, "<u>" SPACE, 0, 4);
    check_ids(&model, NULL, "ab<u> b", "3 8 7");
}

/* The same pieces by their log-probabilities: "ab" (-1) and " " (-3) are less than " ab" (-2). What is
 * unknown costs -15. */
static void unigram(void)
{
    static struct charsmap_table table;
    struct message model, normalizer = {.count = 0};

    model.count = 0;
    put_letters(&model);
    check_ids(&model, NULL, "ab", "1 4");
    check_ids(&model, NULL, " ab  b", "1 4 5 7");
    check_ids(&model, NULL, "abxyab", "1 4 0 3");
    check_ids(&model, "{\"tokenizer_class\":\"T5TokenizerFast\"}", "ab", "4 2");
    check_ids(&model, "{\"tokenizer_class\":\"LlamaTokenizer\"}", "ab", "1 4");
    put_setting(&model, 3, 3, 0); /* no space before */
    put_piece(&model, "<0x78>", 0, 6);
    check_ids(&model, NULL, "ab xx", "1 3 5 8 8");
    check_ids(&model, NULL, "x\xC3\xA9", "1 0"); /* not every byte has a piece */
    put_setting(&model, 3, 5, 0);                /* a space is a space, which is unknown here */
    check_ids(&model, NULL, "ab  ab", "1 3 0 3");
    put_piece(&model, " ab", -1.5F, 1);
    check_ids(&model, NULL, "ab  ab", "1 3 9");
    charsmap_table_begin(&table);
    charsmap_table_add(&table, "x", "ab");
    charsmap_table_end(&table);
    put_bytes(&normalizer, 2, table.bytes, table.count);
    put_bytes(&model, 3, normalizer.bytes, normalizer.count);
    check_ids(&model, NULL, "ax", "1 6 3");
    corpus_keep("sentencepiece", "unigram-charsmap", model.bytes, model.count);
}

/* ---- refusals ---- */

static void check_refused(
    const char *name, const struct message *model, const char *config, enum status expected, const char *says)
{
    struct error err = {0};
    char *text = NULL;

    corpus_keep("sentencepiece", name, model->bytes, model->count);
    CHECK(make(model, config, &text, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_PTR_NULL(text);
}

static void refused_pieces(void)
{
    struct message model;

    begin(&model);
    put_piece(&model, "ab", -9, 1);
    check_refused("twice", &model, NULL, ERR_FORMAT, "piece 8 at byte");
    begin(&model);
    put_piece(&model, "", 0, 1);
    check_refused("empty", &model, NULL, ERR_FORMAT, "is empty");
    begin(&model);
    put_piece(&model, "\xFF", 0, 1);
    check_refused("no-utf8", &model, NULL, ERR_FORMAT, "is no UTF-8");
    begin(&model);
    put_piece(&model, "c", NAN, 1);
    check_refused("nan", &model, NULL, ERR_FORMAT, "its score is not finite");
    begin(&model);
    put_piece(&model, "c", 0, 7);
    check_refused("type", &model, NULL, ERR_FORMAT, "7 is no type of a piece");
    begin(&model);
    put_piece(&model, "c", 0, 5);
    check_refused("unused", &model, NULL, ERR_UNSUPPORTED, "is marked as unused");
    model.count = 0;
    check_refused("nothing", &model, NULL, ERR_FORMAT, "no pieces; this is no SentencePiece model");
}

static void refused_settings(void)
{
    struct message model, normalizer = {.count = 0};

    begin(&model);
    put_setting(&model, 2, 3, 3);
    check_refused("word", &model, NULL, ERR_UNSUPPORTED, "is a word model");
    begin(&model);
    put_setting(&model, 2, 3, 77);
    check_refused("kind", &model, NULL, ERR_UNSUPPORTED, "is a ? model");
    begin(&model);
    put_setting(&model, 2, 24, 1);
    check_refused("suffix", &model, NULL, ERR_UNSUPPORTED, "treat_whitespace_as_suffix");
    begin(&model);
    put_bytes(&normalizer, 2, "charsmap", 8);
    put_bytes(&model, 3, normalizer.bytes, normalizer.count);
    check_refused("charsmap", &model, NULL, ERR_FORMAT, "precompiled_charsmap: 8 bytes hold no table");
    begin(&model);
    put_bytes(&model, 5, normalizer.bytes, normalizer.count);
    check_refused("denormalizer", &model, NULL, ERR_UNSUPPORTED, "its denormalizer rewrites characters");
    begin(&model);
    check_refused("sound", &model, "{\"tokenizer_class\":\"XLMRobertaTokenizerFast\"}", ERR_UNSUPPORTED,
        "tokenizer_class XLMRobertaTokenizer");
    begin(&model);
    put_setting(&model, 2, 40, 8);
    check_refused("unk", &model, NULL, ERR_FORMAT, "unk_id: 8 is no piece");
    begin(&model);
    put_setting(&model, 2, 42, UINT64_MAX);
    check_refused("eos", &model, "{\"add_eos_token\":true}", ERR_FORMAT, "no such piece (id -1)");
    begin(&model);
    put_bytes(&normalizer, 3, "x", 1);
    put_bytes(&model, 3, normalizer.bytes, normalizer.count);
    check_refused("another-kind", &model, NULL, ERR_FORMAT, "field 3 is of another kind");
    begin(&model);
    check_refused("sound", &model, "{\"added_tokens_decoder\":{\"3\":{\"content\":\"<x>\"}}}", ERR_FORMAT,
        "added_tokens_decoder: \"3\"");
    check_refused("sound", &model, "{\"added_tokens_decoder\":{\"9\":{\"content\":\"ab\"}}}", ERR_FORMAT,
        "has the id 9, but 3 in the vocabulary");
    check_refused("sound", &model, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"ab\"}}}", ERR_FORMAT,
        "is no id with a content");
}

/* Cut at every length: refused, or the shorter model that it is. Never read beyond the end (the sanitizers see that). */
static void cut_short(void)
{
    struct message model;
    uint64_t refused = 0;

    begin(&model);
    for (uint64_t count = 0; count < model.count; count++) {
        struct message cut = {.count = count};
        struct error err = {0};
        char *text = NULL;
        memcpy(cut.bytes, model.bytes, count);
        refused += make(&cut, NULL, &text, &err) != OK;
        memory_free(text);
    }
    CU_ASSERT_TRUE(refused > model.count / 2);
}

static void memory_faults(void)
{
    enum status status = ERR_MEMORY;
    struct message model;
    uint64_t nth = 0;

    begin(&model);
    do {
        struct token_extras none = {0};
        struct error err = {0};
        char *text = NULL;
        uint64_t bytes;
        memory_fail_at(++nth, 0);
        status = sentencepiece_write(&text, &bytes, (const char *)model.bytes, model.count, &none, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || (status == ERR_MEMORY && !text), &err);
        memory_free(text);
    } while (status && nth < 1000);
    CU_ASSERT_TRUE(nth > 5);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"flags", flags},
        {"unigram", unigram},
        {"pieces that are refused", refused_pieces},
        {"settings that are refused", refused_settings},
        {"models cut short", cut_short},
        {"memory faults", memory_faults},
    };

    return TESTING_RUN("sentencepiece", cases);
}
