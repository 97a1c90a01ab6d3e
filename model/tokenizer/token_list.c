/* See token_list.h. */
#include "model/tokenizer/token_list.h"

#include "base/json.h"
#include "base/memory.h"

enum status token_list_add(struct token_list *list, const char *content, uint64_t bytes, uint64_t id,
    const struct token *token, struct error *err)
{
    const uint64_t count = list->vocabulary.count;
    enum status status;

    if (bytes > UINT32_MAX || memchr(content, 0, bytes) || !json_valid_utf8(content, bytes))
        return fail(err, ERR_FORMAT, "is no UTF-8 text without U+0000");
    status = memory_grow(&list->tokens, &list->capacity, count + 1, sizeof *list->tokens, err);
    if (!status) status = vocabulary_add(&list->vocabulary, content, bytes, id, err);
    if (!status) list->tokens[count] = *token;
    return status;
}

void token_list_free(struct token_list *list)
{
    vocabulary_free(&list->vocabulary);
    memory_free(list->tokens);
    *list = (struct token_list){0};
}

const char *token_list_content(const struct token_list *list, uint64_t entry)
{
    uint64_t bytes;

    return vocabulary_content(&list->vocabulary, (uint32_t)entry, &bytes);
}
