/* See container_json.h. */
#include "formats/container_json.h"

#include "base/memory.h"

enum status container_json(
    struct json_document **out, struct container *container, const char *name, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = container_document(container, name, &text, &bytes, err);

    *out = NULL;
    if (!status && text) status = json_parse(out, name, text, bytes, err);
    memory_free(text);
    return status;
}
