/* See llama2c_tokenizer.h. The tokens are brought into the lists that a GGUF file has of such a vocabulary, and read like them. */
#include "model/tokenizer/llama2c_tokenizer.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"
#include "model/tokenizer/gguf_tokenizer.h"
#include "model/tokenizer/token_list.h"

#define SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's space */

enum { UNKNOWN, BOS, EOS, SPECIALS, TOKEN_HEAD = 8, LISTS = 4 };

/* The lists, as they lie in a GGUF file. */
struct lists {
    uint8_t *texts; /* of each: bytes: u64, then so many */
    uint64_t text_bytes;
    uint8_t *scores, *types; /* [vocabulary] f32, i32 */
};

static bool is_byte(const uint8_t *text, uint64_t count)
{
    return count == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static enum token_type type_of(uint64_t id, const uint8_t *text, uint64_t count)
{
    if (id == UNKNOWN) return TOKEN_UNKNOWN;
    if (id < SPECIALS) return TOKEN_CONTROL;
    return is_byte(text, count) ? TOKEN_BYTE : TOKEN_NORMAL;
}

/* Append one token's text, spaces replaced. */
static void put_text(struct lists *lists, uint64_t id, const uint8_t *text, uint64_t count)
{
    uint8_t *head = lists->texts + lists->text_bytes, *at = head + 8;

    if ((id == BOS || id == EOS) && count > 2 && text[0] == '\n' && text[count - 1] == '\n') {
        text++;
        count -= 2;
    }
    for (uint64_t i = 0; i < count; i++) {
        const bool space = text[i] == ' ';
        memcpy(at, space ? SPACE : (const char *)&text[i], space ? 3 : 1);
        at += space ? 3 : 1;
    }
    bytes_put(head, (uint64_t)(at - head) - 8, 8);
    lists->text_bytes += (uint64_t)(at - head);
}

static enum status read_tokens(
    struct lists *lists, const uint8_t *file, uint64_t count, uint64_t vocabulary, struct error *err)
{
    uint64_t at = 4;

    for (uint64_t id = 0; id < vocabulary; id++) {
        const uint64_t left = count - at, bytes = left < TOKEN_HEAD ? 0 : bytes_get_u32(file + at + 4);
        if (left < TOKEN_HEAD || bytes > left - TOKEN_HEAD)
            return fail(err, ERR_FORMAT,
                "token %" PRIu64 " at byte %" PRIu64 " of %" PRIu64 " is cut short; the model has %" PRIu64
                " tokens",
                id, at, count, vocabulary);
        const uint8_t *text = file + at + TOKEN_HEAD;
        if (memchr(text, 0, bytes))
            return fail(err, ERR_UNSUPPORTED,
                "token %" PRIu64 " at byte %" PRIu64
                " holds U+0000: damaged, or of the first tokenizer.py, whose bytes cannot be told from "
                "characters; export it again",
                id, at);
        memcpy(lists->scores + 4 * id, file + at, 4);
        bytes_put(lists->types + 4 * id, type_of(id, text, bytes), 4);
        put_text(lists, id, text, bytes);
        at += TOKEN_HEAD + bytes;
    }
    if (at == count) return OK;
    return fail(err, ERR_FORMAT,
        "goes on at byte %" PRIu64 " after the %" PRIu64 " tokens that the model has", at, vocabulary);
}

static enum status write_json(
    char **text, uint64_t *bytes, const struct lists *lists, uint64_t vocabulary, struct error *err)
{
    struct metadata_item items[LISTS] = {
        {"tokenizer.ggml.model", METADATA_STRING, 0, 5, (const uint8_t *)"llama"},
        {"tokenizer.ggml.tokens", METADATA_ARRAY, METADATA_STRING, vocabulary, lists->texts},
        {"tokenizer.ggml.scores", METADATA_ARRAY, METADATA_F32, vocabulary, lists->scores},
        {"tokenizer.ggml.token_type", METADATA_ARRAY, METADATA_I32, vocabulary, lists->types},
    };
    struct metadata metadata = {.items = items, .count = LISTS};
    enum status status = OK;

    for (uint64_t i = 0; i < LISTS && !status; i++)
        status = names_add(&metadata.index, items[i].key, i, err);
    names_sort(&metadata.index);
    if (!status) status = gguf_tokenizer_write(text, bytes, &metadata, err);
    names_index_free(&metadata.index);
    return status;
}

enum status llama2c_tokenizer_write(
    char **text, uint64_t *bytes, const uint8_t *file, uint64_t count, uint64_t vocabulary, struct error *err)
{
    struct lists lists = {0};
    enum status status = ERR_MEMORY;

    if (count < 4 || vocabulary > (count - 4) / TOKEN_HEAD)
        return fail(err, ERR_FORMAT,
            "%" PRIu64 " bytes are too few for the %" PRIu64 " tokens that the model has", count, vocabulary);
    lists.texts = memory_new(count, 3, err); /* every byte may become three */
    lists.scores = lists.texts ? memory_new(vocabulary, 4, err) : NULL;
    lists.types = lists.scores ? memory_new(vocabulary, 4, err) : NULL;
    if (lists.types) status = read_tokens(&lists, file, count, vocabulary, err);
    if (!status) status = write_json(text, bytes, &lists, vocabulary, err);
    memory_free(lists.texts);
    memory_free(lists.scores);
    memory_free(lists.types);
    return status;
}
