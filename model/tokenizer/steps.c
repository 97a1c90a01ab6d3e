/* Flattening sections, and the checks on members that all of them share. */
#include "model/tokenizer/steps.h"

#include "base/utf8.h"

/* How far the flattening has come. */
struct progress_of_steps {
    step_reader read;
    void *context;
    const char *list;
    unsigned count;
};

static enum status read_step(
    struct progress_of_steps *progress, const struct json_value *step, unsigned depth, struct error *err)
{
    const struct json_value *type = json_member(step, "type"), *list;
    const char *name = NULL;
    enum status status = json_get_text(step, "the step", "type", &name, err);

    if (status != OK) return status;
    if (!type || !name) return fail(err, ERR_FORMAT, "a step without a type");
    if (!json_is_text(type, "Sequence")) {
        if (progress->count++ == STEP_LIMIT)
            return fail(err, ERR_UNSUPPORTED, "more than %d steps", STEP_LIMIT);
        return progress->read(progress->context, step, name, err);
    }
    list = json_member(step, progress->list);
    if (!list || list->kind != JSON_ARRAY)
        return fail(err, ERR_FORMAT, "a Sequence without %s", progress->list);
    if (depth == STEP_DEPTH_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "more than %d Sequences within one another", STEP_DEPTH_LIMIT);
    for (const struct json_value *child = list->children; child && status == OK; child = child->next)
        status = read_step(progress, child, depth + 1, err);
    return status;
}

enum status steps_read(
    const struct json_value *section, const char *list, step_reader read, void *context, struct error *err)
{
    struct progress_of_steps progress = {read, context, list, 0};

    if (!section || section->kind == JSON_NULL) return OK;
    if (section->kind != JSON_OBJECT) return fail(err, ERR_FORMAT, "neither an object nor null");
    return read_step(&progress, section, 0, err);
}

enum status steps_unknown(const char *type, struct error *err)
{
    char quoted[80];
    uint64_t bytes = 0;

    while (type[bytes])
        bytes++;
    return fail(err, ERR_UNSUPPORTED, "unknown type \"%s\"", error_quote(quoted, sizeof quoted, type, bytes));
}

enum status step_text(
    const struct json_value *step, const char *key, struct json_text *text, struct error *err)
{
    const struct json_value *value = json_member(step, key);

    if (!value || value->kind != JSON_STRING) return fail(err, ERR_FORMAT, "%s is missing or no text", key);
    *text = value->text;
    return OK;
}

enum status step_character(
    const struct json_value *step, const char *key, struct json_text *text, struct error *err)
{
    enum status status = step_text(step, key, text, err);

    if (status != OK) return status;
    if (text->count == 0 || utf8_sequence(text->bytes, text->count) != text->count)
        return fail(err, ERR_FORMAT, "%s is not one character", key);
    return OK;
}

enum status step_flag(const struct json_value *step, const char *key, bool *flag, struct error *err)
{
    const struct json_value *value = json_member(step, key);

    if (!value || value->kind != JSON_BOOL)
        return fail(err, ERR_FORMAT, "%s is missing or neither true nor false", key);
    *flag = value->boolean;
    return OK;
}
