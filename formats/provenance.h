/* Provenance: what every output says of how it was made. */
#ifndef NIBBLE_FORMATS_PROVENANCE_H
#define NIBBLE_FORMATS_PROVENANCE_H

#include "base/options.h"
#include "formats/container.h"
#include "formats/nbl.h"

/* Attach the container's documents (config.json, generation_config.json, tokenizer.json, tokenizer_config.json, special_tokens_map.json, those that exist) and
 * a "provenance.json": tool, version, options (as {"name": "value"} pairs, only what decides the bytes), the sources with their checksums, and under
 * "history" the provenance of a source that had one.
 *   options  [option_count][2]  name and value
 *   tensor_crcs  as container_write_sources wants them */
enum status provenance_attach(struct nbl_writer *writer, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, const uint32_t *tensor_crcs, struct error *err);

#endif
