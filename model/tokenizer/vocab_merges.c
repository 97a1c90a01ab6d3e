/* See vocab_merges.h. */
#include "model/tokenizer/vocab_merges.h"

#include <inttypes.h>

#include "base/memory.h"
#include "model/tokenizer/tokenizer_document.h"

/* One row per class of transformers; each is also known with "Fast" behind its name. */
static const struct class {
    const char *name, *pre; /* pre: a row of gguf_pre.h */
    const char *special;    /* bos_token and eos_token, where no document names them */
    bool adds_bos;          /* add_bos_token counts */
} classes[] = {
    {"GPT2Tokenizer", "gpt-2", "<|endoftext|>", true},
    {"Qwen2Tokenizer", "qwen2", "<|endoftext|>", false},
};

static enum status find_class(const struct class **out, const struct token_extras *extras, struct error *err)
{
    const char *name = token_extras_class(extras);
    char quoted[80];

    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        const size_t bytes = strlen(classes[i].name);
        if (strncmp(name, classes[i].name, bytes) != 0) continue;
        if (name[bytes] && strcmp(name + bytes, "Fast") != 0) continue;
        *out = &classes[i];
        return OK;
    }
    if (!*name)
        return fail(err, ERR_UNSUPPORTED,
            "how text is cut into words is not known without a tokenizer_class in tokenizer_config.json "
            "(known: GPT2Tokenizer, Qwen2Tokenizer)");
    return fail(err, ERR_UNSUPPORTED,
        "tokenizer_config.json: tokenizer_class %s is not known (known: GPT2Tokenizer, Qwen2Tokenizer); save "
        "the "
        "tokenizer with transformers, which writes a tokenizer.json",
        error_quote(quoted, sizeof quoted, name, strlen(name)));
}

/* ---- the files ---- */

static enum status read_vocab(struct token_list *list, const char *vocab, uint64_t bytes, struct error *err)
{
    static const struct token plain = {.type = TOKEN_NORMAL};
    struct json_reader reader;
    enum status status;
    bool more = true;

    json_reader_init(&reader, "vocab.json", vocab, bytes);
    status = json_enter_object(&reader, err);
    while (!status) {
        struct json_text token;
        uint64_t id;
        status = json_next_key(&reader, &token, &more, err);
        if (status || !more) break;
        status = json_read_u64(&reader, &id, err);
        if (status) break;
        status = token_list_add(list, token.bytes, token.count, id, &plain, err);
        if (status) fail_within(err, status, "vocab.json: before byte %" PRIu64, json_offset(&reader));
    }
    if (!status) status = json_finish(&reader, err);
    json_reader_free(&reader);
    return status;
}

/* Two tokens with one space between them. */
static bool is_merge(const struct json_text *line)
{
    const char *space = memchr(line->bytes, ' ', line->count), *end = line->bytes + line->count;

    return space && space > line->bytes && space + 1 < end &&
           !memchr(space + 1, ' ', (uint64_t)(end - space - 1)) && json_valid_utf8(line->bytes, line->count);
}

/* The next line, without its end. */
static struct json_text next_line(const char **at, const char *end)
{
    const char *begin = *at, *stop = memchr(begin, '\n', (uint64_t)(end - begin));

    *at = stop ? stop + 1 : end;
    if (!stop) stop = end;
    if (stop > begin && stop[-1] == '\r') stop--;
    return (struct json_text){begin, (uint64_t)(stop - begin)};
}

static enum status read_merges(
    struct tokenizer_document *document, const char *merges, uint64_t bytes, struct error *err)
{
    const char *at = merges, *end = merges + bytes;
    uint64_t capacity = 0;

    for (uint64_t number = 1; at < end; number++) {
        const struct json_text line = next_line(&at, end);
        if (line.count == 0 || (line.count >= 8 && memcmp(line.bytes, "#version", 8) == 0)) continue;
        if (!is_merge(&line))
            return fail(err, ERR_FORMAT,
                "merges.txt: line %" PRIu64 " is not two tokens with a space between them", number);
        enum status status = memory_grow(
            &document->merges, &capacity, document->merge_count + 1, sizeof *document->merges, err);
        if (status) return status;
        document->merges[document->merge_count++] = line;
    }
    return OK;
}

/* ---- flags ---- */

static void make_special(struct token_list *list, const char *content)
{
    const uint32_t entry = vocabulary_find(&list->vocabulary, content, strlen(content));

    if (entry != NO_ENTRY) list->tokens[entry].type = TOKEN_CONTROL;
}

static enum status set_flags(struct tokenizer_document *document, const struct class *class,
    const struct token_extras *extras, struct error *err)
{
    const struct vocabulary *vocabulary = &document->tokens.vocabulary;
    bool before = false, prefix = false;
    uint32_t bos = token_extras_special(extras, "bos_token", vocabulary);
    enum status status = token_extras_flag(extras, "add_bos_token", &before, err);

    if (!status) status = token_extras_flag(extras, "add_prefix_space", &prefix, err);
    if (status) return status;
    if (prefix) return fail(err, ERR_UNSUPPORTED, "tokenizer_config.json: add_prefix_space is not supported");
    if (bos == NO_ENTRY) bos = vocabulary_find(vocabulary, class->special, strlen(class->special));
    if (!before || !class->adds_bos) return OK;
    if (bos == NO_ENTRY)
        return fail(err, ERR_FORMAT, "tokenizer_config.json: add_bos_token, but there is no bos_token");
    document->before = (struct document_token){true, bos};
    return OK;
}

enum status vocab_merges_write(char **text, uint64_t *bytes, const char *vocab, uint64_t vocab_bytes,
    const char *merges, uint64_t merges_bytes, const struct token_extras *extras, struct error *err)
{
    struct tokenizer_document document = {0};
    const struct class *class = NULL;
    enum status status = find_class(&class, extras, err);

    *text = NULL;
    if (status) return status;
    document.pre = gguf_pre_find(class->pre, strlen(class->pre));
    status = read_vocab(&document.tokens, vocab, vocab_bytes, err);
    if (!status) make_special(&document.tokens, class->special);
    if (!status) status = read_merges(&document, merges, merges_bytes, err);
    if (!status) status = token_extras_add(extras, &document.tokens, err);
    if (!status) status = set_flags(&document, class, extras, err);
    if (!status) status = tokenizer_document_write(text, bytes, &document, err);
    tokenizer_document_free(&document);
    return status;
}
