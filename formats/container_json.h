/* Documents of a container that are JSON, parsed. */
#ifndef NIBBLE_FORMATS_CONTAINER_JSON_H
#define NIBBLE_FORMATS_CONTAINER_JSON_H

#include "base/json.h"
#include "formats/container.h"

/* Parse the document `name` ("config.json"): *out NULL if there is none. Owner of *out: the caller, json_free. Errors are those of
 * container_document and json_parse; the latter name the document. */
enum status container_json(
    struct json_document **out, struct container *container, const char *name, struct error *err);

#endif
