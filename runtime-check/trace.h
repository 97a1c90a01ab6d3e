/* Where the damage begins: how far the output of every decoder layer is from the base's, on the same tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_TRACE_H
#define NIBBLE_RUNTIME_CHECK_TRACE_H

#include "model/forward.h"

struct trace;

/* For `candidates` models against one base. Of each batch the first tokens are kept whose layer outputs fit TRACE_BYTES: all,
 * for small models. ERR_MEMORY. Free with trace_free (NULL is allowed). */
#define TRACE_BYTES (UINT64_C(256) << 20)
enum status trace_create(struct trace **out, const struct model *base, uint64_t candidates,
    uint64_t batch_tokens, struct error *err);
void trace_free(struct trace *trace);

/* Whether a candidate can be traced at all: as many layers, of the same hidden size. */
bool trace_matches(const struct model *base, const struct model *candidate);

/* Keep the layer outputs of the base's next step (session_observe). */
void trace_watch_base(struct trace *trace, struct session *session);
/* Compare those of candidate `index`'s next step, on the same tokens, with what is kept. */
void trace_watch(struct trace *trace, uint64_t index, struct session *session);

/* Relative error of the output of a layer, inherited errors included: with a the base's residual stream after the layer and b the
 * candidate's, sqrt(mean over tokens of |a - b|^2 / |a|^2). Per token, because some tokens' streams (the first one's) are
 * orders of magnitude longer than the others' and would hide them. */
double trace_error(const struct trace *trace, uint64_t index, uint32_t layer);
uint64_t trace_tokens(const struct trace *trace, uint64_t index);

#endif
