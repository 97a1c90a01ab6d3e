/* See calibration_line.h. The pull parser and no tree: lines may be megabytes long and millions in number. */
#include "model/calibration_line.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

/* One line on its way. */
struct reading {
    struct calibration_line *line;
    struct json_reader json;
};

static void set_place(struct calibration_line *line, const char *format, ...) NIBBLE_PRINTF(2, 3);

static void set_place(struct calibration_line *line, const char *format, ...)
{
    const size_t head = (size_t)line->place_head;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line->place + head, sizeof line->place - head, format, arguments);
    va_end(arguments);
}

static bool is_key(struct json_text key, const char *name)
{
    return key.count == strlen(name) && memcmp(key.bytes, name, key.count) == 0;
}

static enum status append(struct calibration_text *text, const char *bytes, uint64_t count, struct error *err)
{
    enum status status = memory_grow(&text->bytes, &text->capacity, text->count + count, 1, err);

    if (status) return status;
    if (count > 0) memcpy(text->bytes + text->count, bytes, count);
    text->count += count;
    return OK;
}

/* Read a string and append it; after the first one with a newline between. */
static enum status append_string(struct reading *reading, struct calibration_text *to, struct error *err)
{
    struct json_text string;
    enum status status = json_read_string(&reading->json, &string, err);

    if (!status && to->found) status = append(to, "\n", 1, err);
    if (!status) status = append(to, string.bytes, string.count, err);
    to->found = true;
    return status;
}

/* The value of a key whose null means that it is absent. *present = false: it was null and is consumed. */
static enum status step_over_null(struct reading *reading, bool *present, struct error *err)
{
    enum json_kind kind;
    enum status status = json_peek(&reading->json, &kind, err);

    *present = !status && kind != JSON_NULL;
    return status || *present ? status : json_read_null(&reading->json, err);
}

static enum status twice(const struct calibration_line *line, struct error *err)
{
    return fail(err, ERR_FORMAT, "%s: stands there twice", line->place);
}

/* ---- messages ---- */

/* The `type` of a part: anything but text (an image, say) cannot be read as text. */
static enum status check_part_type(struct reading *reading, struct error *err)
{
    struct json_text type;
    char shown[64];
    enum status status = json_read_string(&reading->json, &type, err);

    if (status || is_key(type, "text")) return status;
    return fail(err, ERR_FORMAT, "%s: is \"%s\", only \"text\" can be read", reading->line->place,
        error_quote(shown, sizeof shown, type.bytes, type.count));
}

/* One part of a content: {"type": "text", "text": "..."}. */
static enum status read_part(struct reading *reading, uint64_t message, uint64_t part, struct error *err)
{
    struct calibration_line *line = reading->line;
    bool more = true, found = false;
    struct json_text key;
    enum status status;

    set_place(line, ": messages[%" PRIu64 "].content[%" PRIu64 "]", message, part);
    status = json_enter_object(&reading->json, err);
    while (!status && !(status = json_next_key(&reading->json, &key, &more, err)) && more) {
        const bool type = is_key(key, "type"), text = is_key(key, "text");
        set_place(line, ": messages[%" PRIu64 "].content[%" PRIu64 "]%s", message, part,
            type   ? ".type"
            : text ? ".text"
                   : "");
        if (text && found) return twice(line, err);
        found = found || text;
        status = type   ? check_part_type(reading, err)
                 : text ? append_string(reading, &line->messages, err)
                        : json_skip(&reading->json, NULL, err);
    }
    if (status || found) return status;
    set_place(line, ": messages[%" PRIu64 "].content[%" PRIu64 "]", message, part);
    return fail(err, ERR_FORMAT, "%s: has no text", line->place);
}

/* A string, or a list of parts. */
static enum status read_content(struct reading *reading, uint64_t message, struct error *err)
{
    enum json_kind kind;
    bool more;
    enum status status = json_peek(&reading->json, &kind, err);

    if (status) return status;
    if (kind != JSON_ARRAY) return append_string(reading, &reading->line->messages, err);
    status = json_enter_array(&reading->json, err);
    for (uint64_t i = 0; !status && !(status = json_next_element(&reading->json, &more, err)) && more; i++)
        status = read_part(reading, message, i, err);
    return status;
}

static enum status read_message(struct reading *reading, uint64_t index, struct error *err)
{
    struct calibration_line *line = reading->line;
    bool more = true, found = false, present;
    struct json_text key;
    enum status status;

    set_place(line, ": messages[%" PRIu64 "]", index);
    status = json_enter_object(&reading->json, err);
    while (!status && !(status = json_next_key(&reading->json, &key, &more, err)) && more) {
        const bool content = is_key(key, "content");
        set_place(line, ": messages[%" PRIu64 "]%s", index, content ? ".content" : "");
        if (content && found) return twice(line, err);
        found = found || content;
        if (!content) {
            status = json_skip(&reading->json, NULL, err);
        } else if (!(status = step_over_null(reading, &present, err)) && present) {
            status = read_content(reading, index, err);
        }
    }
    return status;
}

static enum status read_messages(struct reading *reading, struct error *err)
{
    bool more;
    enum status status = json_enter_array(&reading->json, err);

    for (uint64_t i = 0; !status && !(status = json_next_element(&reading->json, &more, err)) && more; i++)
        status = read_message(reading, i, err);
    return status;
}

/* ---- the line ---- */

/* The value of one key of the line's object. */
static enum status read_member(struct reading *reading, struct json_text key, bool seen[2], struct error *err)
{
    struct calibration_line *line = reading->line;
    const bool text = is_key(key, "text"), messages = is_key(key, "messages");
    bool present;
    enum status status;

    if (!text && !messages) return json_skip(&reading->json, NULL, err);
    set_place(line, text ? ": text" : ": messages");
    if (seen[text]) return twice(line, err);
    seen[text] = true;
    status = step_over_null(reading, &present, err);
    if (status || !present) return status;
    if (text) return append_string(reading, &line->text, err);
    status = read_messages(reading, err);
    line->messages.found = true; /* also an empty list */
    return status;
}

static enum status read_object(struct reading *reading, struct error *err)
{
    bool more = true, seen[2] = {false, false};
    struct json_text key;
    enum status status = json_enter_object(&reading->json, err);

    while (!status && !(status = json_next_key(&reading->json, &key, &more, err)) && more) {
        status = read_member(reading, key, seen, err);
        if (!status) set_place(reading->line, "%s", "");
    }
    return status ? status : json_finish(&reading->json, err);
}

enum status calibration_line_read(struct calibration_line *line, const char **out, uint64_t *out_bytes,
    uint64_t number, const char *json, uint64_t json_bytes, struct error *err)
{
    struct reading reading = {.line = line};
    const struct calibration_text *found;
    enum status status;

    line->text.count = line->messages.count = 0;
    line->text.found = line->messages.found = false;
    line->place_head = snprintf(line->place, sizeof line->place, "line %" PRIu64, number);
    json_reader_init(&reading.json, line->place, json, json_bytes);
    status = read_object(&reading, err);
    json_reader_free(&reading.json);
    if (status) return status;
    found = line->text.found ? &line->text : &line->messages;
    if (!found->found) return fail(err, ERR_FORMAT, "%s: has neither text nor messages", line->place);
    *out = found->count > 0 ? found->bytes : "";
    *out_bytes = found->count;
    return OK;
}

void calibration_line_free(struct calibration_line *line)
{
    memory_free(line->text.bytes);
    memory_free(line->messages.bytes);
    *line = (struct calibration_line){0};
}
