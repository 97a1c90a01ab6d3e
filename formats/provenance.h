/* Provenance: what every output says of how it was made. */
#ifndef NIBBLE_FORMATS_PROVENANCE_H
#define NIBBLE_FORMATS_PROVENANCE_H

#include "base/options.h"
#include "formats/container.h"
#include "formats/nbl.h"

#define PROVENANCE_DOCUMENT "provenance.json"

/* The documents that belong to a model and that every output carries over from its source, by file name; NULL
 * ends the list. */
extern const char *const provenance_carried[];

/* Attach one of the container's documents, or all those of the list above; what the container lacks is passed
 * over. */
enum status provenance_carry_document(
    struct writer *writer, struct container *container, const char *name, struct error *err);
enum status provenance_carry(struct writer *writer, struct container *container, struct error *err);

/* Attach the carried documents and a "provenance.json": tool, version, options (as {"name": "value"} pairs,
 * only what decides the bytes), the sources with their checksums, and under "history" the provenance of a
 * source that had one.
 *
 *   options      [option_count][2]  name and value
 *   tensor_crcs  as container_write_sources wants them */
enum status provenance_attach(struct writer *writer, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, const uint32_t *tensor_crcs, struct error *err);

/* Make room for that "provenance.json" in a format that needs it (writer_reserve): its length does not depend on the checksums. The
 * same arguments as provenance_attach will get, before writer_begin. */
enum status provenance_reserve(struct writer *writer, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, struct error *err);

#endif
