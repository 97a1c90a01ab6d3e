/* How large a .nbl file will be, before it is written. */
#ifndef NIBBLE_FORMATS_NBL_BOUND_H
#define NIBBLE_FORMATS_NBL_BOUND_H

#include "formats/container.h"

/* What a .nbl file made of a container takes beside the bytes of its tensors: header, table, padding, the documents that are carried and
 * the provenance. A bound, tight but for the list of sources and a history, which are taken for twice as long as they are because they
 * will be indented.
 *   count, name_bytes  tensors of the file, and the bytes of all their names
 *   options            [option_count][2] name and value, as provenance_attach will get them
 * Errors of reading; ERR_MEMORY. */
enum status nbl_bound(uint64_t *out, struct container *container, uint64_t count, uint64_t name_bytes,
    const char *const (*options)[2], uint64_t option_count, struct error *err);

#endif
