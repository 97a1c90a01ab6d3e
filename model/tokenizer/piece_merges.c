/* See piece_merges.h. */
#include "model/tokenizer/piece_merges.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"

enum { PIECE_LIMIT = 1024 };

struct list {
    struct piece_merge *merges;
    uint64_t count, capacity;
};

static bool is_piece(const struct token_list *tokens, uint32_t id)
{
    const enum token_type type = tokens->tokens[id].type;

    return type == TOKEN_UNDEFINED || type == TOKEN_NORMAL || type == TOKEN_USER_DEFINED;
}

/* The id of a piece, or NO_ENTRY. */
static uint32_t find_piece(const struct token_list *tokens, const char *content, uint64_t bytes)
{
    const uint32_t id = vocabulary_find(&tokens->vocabulary, content, bytes);

    return id != NO_ENTRY && is_piece(tokens, id) ? id : NO_ENTRY;
}

static bool is_inside_character(char byte)
{
    return ((uint8_t)byte & 0xC0) == 0x80;
}

static uint32_t count_characters(const char *content, uint64_t bytes)
{
    uint32_t count = 0;

    for (uint64_t i = 0; i < bytes; i++)
        count += !is_inside_character(content[i]);
    return count;
}

/* All cuts of one piece. */
static enum status add_cuts(
    struct list *list, const struct token_list *tokens, uint32_t id, struct error *err)
{
    uint64_t bytes;
    const char *content = vocabulary_content(&tokens->vocabulary, id, &bytes);
    const float score = tokens->tokens[id].score;

    if (bytes > PIECE_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "token %" PRIu32 ": %" PRIu64 " bytes are more than %d", id, bytes,
            PIECE_LIMIT);
    for (uint64_t cut = 1; cut < bytes; cut++) {
        if (is_inside_character(content[cut])) continue;
        const uint32_t left = find_piece(tokens, content, cut);
        const uint32_t right = left == NO_ENTRY ? NO_ENTRY : find_piece(tokens, content + cut, bytes - cut);
        if (right == NO_ENTRY) continue;
        enum status status =
            memory_grow(&list->merges, &list->capacity, list->count + 1, sizeof *list->merges, err);
        if (status) return status;
        list->merges[list->count++] = (struct piece_merge){left, right, count_characters(content, cut),
            count_characters(content + cut, bytes - cut), id, score};
    }
    return OK;
}

static int falling(uint32_t a, uint32_t b)
{
    return (a < b) - (a > b);
}

/* No two are equal: cuts of one piece differ in the left half's length. */
static int compare_merges(const void *left, const void *right)
{
    const struct piece_merge *a = left, *b = right;

    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    if (a->left_chars != b->left_chars) return falling(a->left_chars, b->left_chars);
    if (a->right_chars != b->right_chars) return falling(a->right_chars, b->right_chars);
    return falling(b->piece, a->piece);
}

enum status piece_merges_derive(
    struct piece_merge **out, uint64_t *count, const struct token_list *tokens, struct error *err)
{
    struct list list = {0};
    enum status status = OK;

    for (uint64_t id = 0; id < tokens->vocabulary.count && !status; id++) {
        if (is_piece(tokens, (uint32_t)id)) status = add_cuts(&list, tokens, (uint32_t)id, err);
    }
    if (status) {
        memory_free(list.merges);
        return status;
    }
    if (list.count) qsort(list.merges, list.count, sizeof *list.merges, compare_merges);
    *out = list.merges;
    *count = list.count;
    return OK;
}
