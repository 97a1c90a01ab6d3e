/* Whatever the steps are, what they come to for a single text is a list of ids before it and one after it. */
#include "model/tokenizer/postprocessor.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "model/tokenizer/steps.h"

enum { AROUND_LIMIT = 1024 };

/* The section while it is read. */
struct reading {
    struct postprocessor *postprocessor;
    const struct vocabulary *vocabulary;
    bool templated; /* a template has put its tokens around the text */
};

static enum status add_id(
    const struct reading *reading, struct id_list *list, const struct json_value *value, struct error *err)
{
    if (value->kind != JSON_NUMBER || !value->is_u64) return fail(err, ERR_FORMAT, "an id that is no number");
    if (vocabulary_find_id(reading->vocabulary, value->u64) == NO_ENTRY)
        return fail(err, ERR_FORMAT, "the id %" PRIu64 " has no token", value->u64);
    if (list->count == AROUND_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "more than %d tokens around the text", AROUND_LIMIT);
    return id_list_add(list, (uint32_t)value->u64, err);
}

/* Put the ids of one step around those of the steps before it. */
static enum status put_around(struct postprocessor *postprocessor, struct id_list *before,
    const struct id_list *after, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < postprocessor->before.count && status == OK; i++)
        status = id_list_add(before, postprocessor->before.ids[i], err);
    for (uint64_t i = 0; i < after->count && status == OK; i++)
        status = id_list_add(&postprocessor->after, after->ids[i], err);
    if (postprocessor->after.count > AROUND_LIMIT || before->count > AROUND_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "more than %d tokens around the text", AROUND_LIMIT);
    struct id_list old = postprocessor->before;
    postprocessor->before = *before;
    *before = old;
    return status;
}

/* ---- BertProcessing, RobertaProcessing: cls text sep ---- */

/* "cls": ["[CLS]", 101] */
static enum status read_named_id(const struct reading *reading, const struct json_value *step,
    const char *key, struct id_list *list, struct error *err)
{
    const struct json_value *pair = json_member(step, key);

    if (!pair || pair->kind != JSON_ARRAY || pair->count != 2)
        return fail(err, ERR_FORMAT, "%s is missing or no pair", key);
    return add_id(reading, list, pair->children->next, err);
}

static enum status read_bert(const struct reading *reading, const struct json_value *step,
    struct id_list *before, struct id_list *after, struct error *err)
{
    enum status status = read_named_id(reading, step, "cls", before, err);

    return status == OK ? read_named_id(reading, step, "sep", after, err) : status;
}

/* ---- TemplateProcessing ---- */

/* {"SpecialToken": {"id": name}}: all ids that "special_tokens" gives for the name. */
static enum status read_special(const struct reading *reading, const struct json_value *step,
    const struct json_value *piece, struct id_list *list, struct error *err)
{
    const char *name = NULL;
    enum status status = json_get_text(piece, "SpecialToken", "id", &name, err);

    if (status != OK) return status;
    if (!name) return fail(err, ERR_FORMAT, "a SpecialToken without an id");
    const struct json_value *ids = json_member(json_member(json_member(step, "special_tokens"), name), "ids");
    if (!ids || ids->kind != JSON_ARRAY)
        return fail(err, ERR_FORMAT, "a SpecialToken that special_tokens lacks");
    for (const struct json_value *id = ids->children; id && status == OK; id = id->next)
        status = add_id(reading, list, id, err);
    return status;
}

static enum status read_template(const struct reading *reading, const struct json_value *step,
    struct id_list *before, struct id_list *after, struct error *err)
{
    const struct json_value *single = json_member(step, "single");
    enum status status = OK;
    unsigned texts = 0;

    if (!single || single->kind != JSON_ARRAY) return fail(err, ERR_FORMAT, "single is missing or no list");
    for (const struct json_value *item = single->children; item && status == OK; item = item->next) {
        const struct json_value *special = json_member(item, "SpecialToken"),
                                *text = json_member(item, "Sequence");
        if (special)
            status = read_special(reading, step, special, texts == 0 ? before : after, err);
        else if (text && json_is_text(json_member(text, "id"), "A"))
            texts++;
        else
            status = fail(err, ERR_UNSUPPORTED, "single has more than the text A and special tokens");
    }
    if (status == OK && texts != 1) return fail(err, ERR_UNSUPPORTED, "single has the text %u times", texts);
    return status;
}

/* ---- the list ---- */

/* ByteLevel corrects offsets, which nobody asks for here. */
static enum status read_nothing(const struct reading *reading, const struct json_value *step,
    struct id_list *before, struct id_list *after, struct error *err)
{
    (void)reading, (void)step, (void)before, (void)after, (void)err;
    return OK;
}

static const struct kind {
    const char *type;
    enum status (*read)(const struct reading *reading, const struct json_value *step, struct id_list *before,
        struct id_list *after, struct error *err);
} kinds[] = {
    {"TemplateProcessing", read_template},
    {"BertProcessing", read_bert},
    {"RobertaProcessing", read_bert},
    {"ByteLevel", read_nothing},
};

static enum status add_step(void *context, const struct json_value *step, const char *type, struct error *err)
{
    struct reading *reading = context;
    struct id_list before = {0}, after = {0};
    const struct kind *kind = NULL;

    for (uint64_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) == 0) kind = &kinds[i];
    }
    if (!kind) return steps_unknown(type, err);
    enum status status = kind->read(reading, step, &before, &after, err);
    bool around = before.count > 0 || after.count > 0;
    /* The library treats the tokens of a template as texts of their own in the next step, and puts tokens around each. */
    if (status == OK && around && reading->templated)
        status = fail(err, ERR_UNSUPPORTED, "%s after a TemplateProcessing", type);
    if (around && kind->read == read_template) reading->templated = true;
    if (status == OK) status = put_around(reading->postprocessor, &before, &after, err);
    memory_free(before.ids);
    memory_free(after.ids);
    return status;
}

enum status postprocessor_read(struct postprocessor *postprocessor, const struct vocabulary *vocabulary,
    const struct json_value *section, struct error *err)
{
    struct reading reading = {postprocessor, vocabulary, false};

    return steps_read(section, "processors", add_step, &reading, err);
}

void postprocessor_free(struct postprocessor *postprocessor)
{
    memory_free(postprocessor->before.ids);
    memory_free(postprocessor->after.ids);
    *postprocessor = (struct postprocessor){0};
}
