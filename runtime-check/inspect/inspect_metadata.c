/* See inspect_metadata.h. Texts come from a stranger: what is no plain text is shown as \xNN. */
#include "runtime-check/inspect/inspect_metadata.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"
#include "base/report.h"

enum { TEXT_SHOWN = 60, ELEMENTS_SHOWN = 4 };

/* The numbers of an array that are shown, and "..." if there are more. */
static void elements_text(char *out, size_t room, const struct metadata_item *item)
{
    size_t used = 0;
    for (uint64_t i = 0; i < item->count && i < ELEMENTS_SHOWN && used < room; i++) {
        char number[32];
        used += (size_t)snprintf(out + used, room - used, "%s%s", i ? ", " : "",
            number_write(number, metadata_number_at(item, i)));
    }
    if (item->count > ELEMENTS_SHOWN && used < room) snprintf(out + used, room - used, ", ...");
}

static void string_elements_text(char *out, size_t room, const struct metadata_item *item)
{
    const uint8_t *at = item->bytes;
    size_t used = 0;
    for (uint64_t i = 0; i < item->count && i < ELEMENTS_SHOWN && used < room; i++) {
        char shown[24];
        uint64_t bytes;
        const char *text = metadata_next_string(&at, &bytes);
        error_quote(shown, sizeof shown, text, bytes);
        used += (size_t)snprintf(out + used, room - used, "%s\"%s\"", i ? ", " : "", shown);
    }
    if (item->count > ELEMENTS_SHOWN && used < room) snprintf(out + used, room - used, ", ...");
}

static void value_text(char *out, size_t room, const struct metadata_item *item)
{
    *out = 0;
    if (item->type == METADATA_STRING)
        error_quote(out, room < TEXT_SHOWN ? room : TEXT_SHOWN, (const char *)item->bytes, item->count);
    else if (item->type == METADATA_BOOL)
        snprintf(out, room, "%s", *item->bytes ? "true" : "false");
    else if (item->type == METADATA_F32)
        snprintf(out, room, "%.7g", metadata_value(item));
    else if (item->type != METADATA_ARRAY)
        number_write(out, metadata_value(item));
    else if (item->element == METADATA_STRING)
        string_elements_text(out, room, item);
    else
        elements_text(out, room, item);
}

/* "u32", "32000 x string" */
static void type_text(char *out, size_t room, const struct metadata_item *item)
{
    if (item->type == METADATA_ARRAY)
        snprintf(out, room, "%" PRIu64 " x %s", item->count, metadata_type_name(item->element));
    else
        snprintf(out, room, "%s", metadata_type_name(item->type));
}

void inspect_metadata_print(const struct metadata *metadata)
{
    struct table table = {0};
    if (metadata->count == 0) return;
    table_head(&table, 3, (const char *const[]){"metadata", "type", "value"});
    for (uint64_t i = 0; i < metadata->count; i++) {
        const struct metadata_item *item = &metadata->items[i];
        char key[96], type[48], value[160];
        type_text(type, sizeof type, item);
        value_text(value, sizeof value, item);
        table_cell(&table, "%s", error_quote(key, sizeof key, item->key, strlen(item->key)));
        table_cell(&table, "%s", type);
        table_cell(&table, "%s", value);
    }
    table_print(&table);
    printf("\n");
    table_free(&table);
}

void inspect_metadata_json(struct json_writer *writer, const struct metadata *metadata)
{
    if (metadata->count == 0) return;
    json_write_key(writer, "metadata");
    json_open_object(writer);
    for (uint64_t i = 0; i < metadata->count; i++) {
        const struct metadata_item *item = &metadata->items[i];
        char type[48];
        json_write_key(writer, item->key);
        if (item->type == METADATA_STRING) {
            json_write_string(writer, (const char *)item->bytes, item->count);
        } else if (item->type == METADATA_BOOL) {
            json_write_bool(writer, *item->bytes != 0);
        } else if (item->type == METADATA_ARRAY) {
            type_text(type, sizeof type, item);
            json_write_text(writer, type);
        } else {
            json_write_number(writer, metadata_value(item));
        }
    }
    json_close_object(writer);
}
