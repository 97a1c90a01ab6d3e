/* Tokens on their way into a tokenizer.json: contents and ids, and what GGUF and SentencePiece say of each. */
#ifndef NIBBLE_MODEL_TOKENIZER_TOKEN_LIST_H
#define NIBBLE_MODEL_TOKENIZER_TOKEN_LIST_H

#include "model/tokenizer/vocabulary.h"

/* The numbers are those of GGUF and of SentencePiece's ModelProto, which begins with normal. */
enum token_type {
    TOKEN_UNDEFINED,
    TOKEN_NORMAL,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE,
    TOKEN_TYPES
};

struct token {
    enum token_type type;
    float score;
    bool single_word, lstrip, rstrip, normalized; /* of added tokens, as in tokenizer.json */
};

/* Zero-initialise; release with token_list_free. An entry of the vocabulary and its token have the same number. */
struct token_list {
    struct vocabulary vocabulary;
    struct token *tokens; /* [vocabulary.count] */
    uint64_t capacity;
};

/* ERR_FORMAT: a content that is no UTF-8 or holds U+0000, and what vocabulary_add refuses. */
enum status token_list_add(struct token_list *list, const char *content, uint64_t bytes, uint64_t id,
    const struct token *token, struct error *err);
void token_list_free(struct token_list *list);

/* The content of an entry, terminated. */
const char *token_list_content(const struct token_list *list, uint64_t entry);

/* What is looked for in a text before anything else: unknown, control and user-defined tokens. */
static inline bool token_is_added(const struct token *token)
{
    return token->type == TOKEN_UNKNOWN || token->type == TOKEN_CONTROL || token->type == TOKEN_USER_DEFINED;
}

#endif
