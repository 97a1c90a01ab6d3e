/* See llama2c_tokenizer.h. */
#include "model/tokenizer/llama2c_tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/bytes.h"
#include "model/tokenizer/tokenizer_document.h"

#define SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's space */

enum { UNKNOWN, BOS, EOS, SPECIALS, TOKEN_HEAD = 8 };

static bool is_byte(const char *text, uint64_t count)
{
    return count == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static enum token_type type_of(uint64_t id, const char *text, uint64_t count)
{
    if (id == UNKNOWN) return TOKEN_UNKNOWN;
    if (id < SPECIALS) return TOKEN_CONTROL;
    return is_byte(text, count) ? TOKEN_BYTE : TOKEN_NORMAL;
}

/* Its text as SentencePiece has it: without the lines around BOS and EOS, spaces replaced. */
static enum status add_token(
    struct token_list *list, uint64_t id, const char *text, uint64_t count, float score, struct error *err)
{
    const struct token token = {.type = type_of(id, text, count), .score = score};
    struct text content = {0};
    enum status status = OK;

    if (!isfinite(score)) return fail(err, ERR_FORMAT, "its score is not finite");
    if ((id == BOS || id == EOS) && count > 2 && text[0] == '\n' && text[count - 1] == '\n') {
        text++;
        count -= 2;
    }
    for (uint64_t i = 0; i < count && !status; i++)
        status =
            text[i] == ' ' ? text_append(&content, SPACE, 3, err) : text_append(&content, text + i, 1, err);
    if (!status) status = token_list_add(list, count ? content.bytes : "", content.count, id, &token, err);
    text_free(&content);
    return status;
}

static enum status read_token(
    struct token_list *list, const uint8_t *token, uint64_t bytes, struct error *err)
{
    const char *text = (const char *)token + TOKEN_HEAD;
    float score;

    if (memchr(text, 0, bytes))
        return fail(err, ERR_UNSUPPORTED,
            "holds U+0000: damaged, or of the first tokenizer.py, whose bytes cannot be told from "
            "characters; "
            "export it again");
    memcpy(&score, token, sizeof score);
    return add_token(list, list->vocabulary.count, text, bytes, score, err);
}

static enum status read_tokens(
    struct token_list *list, const uint8_t *file, uint64_t count, uint64_t vocabulary, struct error *err)
{
    uint64_t at = 4;

    for (uint64_t id = 0; id < vocabulary; id++) {
        const uint64_t left = count - at, bytes = left < TOKEN_HEAD ? 0 : bytes_get_u32(file + at + 4);
        if (left < TOKEN_HEAD || bytes > left - TOKEN_HEAD)
            return fail(err, ERR_FORMAT,
                "token %" PRIu64 " at byte %" PRIu64 " of %" PRIu64 " is cut short; the model has %" PRIu64
                " tokens",
                id, at, count, vocabulary);
        enum status status = read_token(list, file + at, bytes, err);
        if (status) return fail_within(err, status, "token %" PRIu64 " at byte %" PRIu64, id, at);
        at += TOKEN_HEAD + bytes;
    }
    if (at == count) return OK;
    return fail(err, ERR_FORMAT,
        "goes on at byte %" PRIu64 " after the %" PRIu64 " tokens that the model has", at, vocabulary);
}

enum status llama2c_tokenizer_write(
    char **text, uint64_t *bytes, const uint8_t *file, uint64_t count, uint64_t vocabulary, struct error *err)
{
    struct tokenizer_document document = {
        .unknown = {true, UNKNOWN},
        .before = {vocabulary > BOS, BOS},
        .prefix_space = true,
    };
    enum status status;

    *text = NULL;
    *bytes = 0;
    if (vocabulary == 0) return fail(err, ERR_FORMAT, "the model has no tokens");
    if (count < 4 || vocabulary > (count - 4) / TOKEN_HEAD)
        return fail(err, ERR_FORMAT,
            "%" PRIu64 " bytes are too few for the %" PRIu64 " tokens that the model has", count, vocabulary);
    status = read_tokens(&document.tokens, file, count, vocabulary, err);
    if (!status) status = tokenizer_document_write(text, bytes, &document, err);
    tokenizer_document_free(&document);
    return status;
}
