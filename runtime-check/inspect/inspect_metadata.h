/* The metadata that a GGUF file carries, for people and for programs. */
#ifndef NIBBLE_RUNTIME_CHECK_INSPECT_METADATA_H
#define NIBBLE_RUNTIME_CHECK_INSPECT_METADATA_H

#include "base/json.h"
#include "formats/metadata.h"

/* A table of key, type and value to standard output: texts cut to one line, arrays by their size and first elements. Nothing
 * where there is no metadata. */
void inspect_metadata_print(const struct metadata *metadata);

/* "metadata": an object into an open JSON object; integers beyond 2^53 lose digits; of arrays only "N x TYPE". */
void inspect_metadata_json(struct json_writer *writer, const struct metadata *metadata);

#endif
