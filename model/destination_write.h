/* Writing a model in one go: its tensors, its other names, its documents and where it came from, to a destination. For tools whose work
 * is done before the first byte is written, or on its way (transfer_encoder, transfer_patch). */
#ifndef NIBBLE_MODEL_DESTINATION_WRITE_H
#define NIBBLE_MODEL_DESTINATION_WRITE_H

#include "formats/transfer.h"
#include "model/destination.h"
#include "model/slice.h"

/* What is written. All of it is the caller's. */
struct destination_model {
    const struct checkpoint *input;
    const struct transfer_item *items; /* [count] every tensor of the output */
    uint64_t count;
    const struct slice *slice;       /* what of the model the items are; NULL: all of it */
    const char *tool;                /* for the provenance, with the options that decide the bytes: */
    const char *const (*options)[2]; /* [option_count] name, value */
    uint64_t option_count;
    const char *label; /* of the progress: "writing" */
};

/* The output appears complete or not at all. *parts says which files it became: release with destination_parts_free, also after an
 * error. Errors of destination_create, transfer_run and destination_parts_note; ERR_MEMORY. The bytes are the same for any pool. */
enum status destination_write(struct destination_parts *parts, const struct destination *destination,
    const struct destination_model *model, struct pool *pool, const struct report *report, struct error *err);

#endif
