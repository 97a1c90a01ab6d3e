/* What a model is, as one text: the names and checksums of all that is read from it. Everything is read once for that, before the work
 * begins, because a journal must not be continued with another model of the same shape, and a NaN in the last layer should not be
 * found after hours. */
#ifndef NIBBLE_MODEL_SOURCE_STAMP_H
#define NIBBLE_MODEL_SOURCE_STAMP_H

#include "base/json.h"
#include "base/report.h"
#include "base/threads.h"
#include "formats/container.h"

/* Add to an open stamp (model/layerwise/journal.h): "input", the files and the CRC-32 of every tensor; "kernels" and "blas", on which
 * the last bits of a calibrated result depend. ERR_NUMERIC names the first element that is not finite; errors of reading. */
enum status source_stamp_put(struct json_writer *json, struct container *container, struct pool *pool,
    const struct report *report, struct error *err);

#endif
