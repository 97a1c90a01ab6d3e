/* See draft.h. */
#include "runtime-check/tasks/draft.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

void draft_put(struct draft *draft, const char *bytes, uint64_t count)
{
    if (!draft->status) draft->status = text_append(&draft->file->texts, bytes, count, draft->err);
}

void draft_put_string(struct draft *draft, const char *string)
{
    draft_put(draft, string, strlen(string));
}

uint64_t draft_begin(const struct draft *draft)
{
    return draft->file->texts.count;
}

struct task_text draft_finish(const struct draft *draft, uint64_t from)
{
    return (struct task_text){from, draft->file->texts.count - from};
}

struct json_text draft_refuse(struct draft *draft, const char *key, const char *wanted)
{
    if (!draft->status)
        draft->status = fail(draft->err, ERR_FORMAT, "\"%s\" is missing or not %s", key, wanted);
    return (struct json_text){"", 0};
}

struct json_text draft_string_of(struct draft *draft, const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);
    return value && value->kind == JSON_STRING ? value->text : draft_refuse(draft, key, "a string");
}

struct json_text draft_string(struct draft *draft, const char *key)
{
    return draft_string_of(draft, draft->object, key);
}

const struct json_value *draft_list_of(struct draft *draft, const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);
    if (value && value->kind == JSON_ARRAY && value->count > 0) return value->children;
    draft_refuse(draft, key, "a list with elements");
    return NULL;
}

static uint64_t count_characters(const char *bytes, uint64_t count)
{
    uint64_t characters = 0;
    for (uint64_t i = 0; i < count; i++)
        characters += ((uint8_t)bytes[i] & 0xC0) != 0x80;
    return characters;
}

void draft_add(struct draft *draft, struct json_text text)
{
    struct task_file *file = draft->file;
    const uint64_t from = draft_begin(draft);
    draft_put(draft, " ", 1);
    draft_put(draft, text.bytes, text.count);
    if (!draft->status && draft->item.choices == TASK_FILE_CHOICES)
        draft->status = fail(draft->err, ERR_FORMAT, "more than %d choices", TASK_FILE_CHOICES);
    if (!draft->status) {
        draft->status = memory_grow(&file->choices, &file->choice_capacity, file->choice_count + 1,
            sizeof *file->choices, draft->err);
    }
    if (draft->status) return;
    file->choices[file->choice_count++] = (struct task_choice){
        .context = draft->context,
        .continuation = draft_finish(draft, from),
        .characters = count_characters(text.bytes, text.count),
        .bytes = text.count,
    };
    draft->item.choices++;
}

void draft_add_key(struct draft *draft, const char *key)
{
    draft_add(draft, draft_string(draft, key));
}

void draft_add_list(struct draft *draft, const char *key)
{
    for (const struct json_value *value = draft_list_of(draft, draft->object, key); value && !draft->status;
         value = value->next) {
        draft_add(
            draft, value->kind == JSON_STRING ? value->text : draft_refuse(draft, key, "a list of strings"));
    }
}

/* ---- which one is right ---- */

void draft_right(struct draft *draft, const char *key, uint64_t index)
{
    if (!draft->status && index >= draft->item.choices) {
        draft->status = fail(
            draft->err, ERR_FORMAT, "\"%s\" names none of the %" PRIu32 " choices", key, draft->item.choices);
    }
    draft->item.right = draft->status ? 0 : (uint32_t)index;
}

/* The index of a number, or of a string of one or two digits; UINT64_MAX for anything else. */
static uint64_t index_of(const struct json_value *value)
{
    uint64_t index = 0;
    if (!value) return UINT64_MAX;
    if (value->kind == JSON_BOOL) return value->boolean;
    if (value->kind == JSON_NUMBER) return value->is_u64 ? value->u64 : UINT64_MAX;
    if (value->kind != JSON_STRING || value->text.count == 0 || value->text.count > 2) return UINT64_MAX;
    for (uint64_t i = 0; i < value->text.count; i++) {
        if (value->text.bytes[i] < '0' || value->text.bytes[i] > '9') return UINT64_MAX;
        index = 10 * index + (uint64_t)(value->text.bytes[i] - '0');
    }
    return index;
}

void draft_right_by_index(struct draft *draft, const char *key, uint64_t base)
{
    const uint64_t index = index_of(json_member(draft->object, key));
    draft_right(draft, key, index == UINT64_MAX || index < base ? UINT64_MAX : index - base);
}

static uint64_t letter_index(struct json_text text)
{
    return text.count == 1 && text.bytes[0] >= 'A' && text.bytes[0] <= 'Z' ? (uint64_t)(text.bytes[0] - 'A')
                                                                           : UINT64_MAX;
}

bool draft_same(struct json_text a, struct json_text b)
{
    return a.count == b.count && memcmp(a.bytes, b.bytes, a.count) == 0;
}

uint64_t draft_position(const struct json_value *list, struct json_text text)
{
    uint64_t index = 0;
    for (; list; list = list->next, index++) {
        if (list->kind == JSON_STRING && draft_same(list->text, text)) return index;
    }
    return UINT64_MAX;
}

void draft_right_by_answer(struct draft *draft)
{
    const struct json_value *answer = json_member(draft->object, "answer");
    uint64_t index = UINT64_MAX;
    if (answer && answer->kind == JSON_NUMBER && answer->is_u64) index = answer->u64;
    if (answer && answer->kind == JSON_STRING) {
        index = draft_position(draft_list_of(draft, draft->object, "choices"), answer->text);
        if (index == UINT64_MAX) index = letter_index(answer->text);
    }
    draft_right(draft, "answer", index);
}
