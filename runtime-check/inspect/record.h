/* Write a measurement into the file it was measured on, so that a model carries its own evidence. */
#ifndef NIBBLE_RUNTIME_CHECK_RECORD_H
#define NIBBLE_RUNTIME_CHECK_RECORD_H

#include "base/report.h"
#include "base/threads.h"
#include "formats/container.h"
#include "runtime-check/judge/perplexity.h"

/* The document that holds it. */
#define RECORD_DOCUMENT "evaluation.json"

/* Whether a result can be written into this container at all: ERR_USAGE unless it is a .nbl file. To be asked before the
 * long work. */
enum status record_possible(const struct container *container, struct error *err);

/* Replace the .nbl file at `path` by a copy of itself whose document "evaluation.json" holds `result` (an older one is
 * replaced). Tensors are copied byte for byte; the file changes all at once or not at all.
 *   text_name  the text's file name, recorded without its folder
 * ERR_USAGE: path is not a .nbl file. */
enum status record_perplexity(const char *path, const struct perplexity_result *result,
    enum perplexity_protocol protocol, const char *text_name, struct pool *pool, const struct report *report,
    struct error *err);

#endif
