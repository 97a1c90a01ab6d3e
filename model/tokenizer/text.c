/* Growing a text: the part of it that is not in the header because it is rare. */
#include "model/tokenizer/text.h"

#include <inttypes.h>

#include "base/memory.h"

enum status text_reserve(struct text *text, uint64_t count, struct error *err)
{
    uint64_t limit = text->limit > 0 ? text->limit : TEXT_LIMIT;

    if (count > limit || text->count > limit - count)
        return fail(err, ERR_MEMORY, "the text grows beyond %" PRIu64 " bytes", limit);
    uint64_t needed = text->count + count;
    return memory_grow(&text->bytes, &text->capacity, needed < 64 ? 64 : needed, 1, err);
}

enum status text_append_string(struct text *text, const char *string, struct error *err)
{
    return text_append(text, string, strlen(string), err);
}

void text_free(struct text *text)
{
    memory_free(text->bytes);
    *text = (struct text){0};
}
