/* Where the damage begins: how far the output of every decoder layer is from the base's, on the same tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_TRACE_H
#define NIBBLE_RUNTIME_CHECK_TRACE_H

#include "model/forward.h"

struct trace;

/* For `candidates` models against one base. Of each batch the first tokens are kept whose layer outputs fit TRACE_BYTES (all, for
 * small models; one at the least). The base, and its pool, must outlive the trace. ERR_MEMORY. Free with trace_free (NULL is
 * allowed). */
#define TRACE_BYTES (UINT64_C(256) << 20)
enum status trace_create(struct trace **out, const struct model *base, uint64_t candidates,
    uint64_t batch_tokens, struct error *err);
void trace_free(struct trace *trace);

/* Whether a candidate can be traced at all: as many layers, of the same hidden size. */
bool trace_matches(const struct model *base, const struct model *candidate);

/* Keep the layer outputs of the base's next step instead of those kept so far (session_observe). Call it anew for every step: a
 * step that is not announced would be mixed into the last. */
void trace_watch_base(struct trace *trace, struct session *session);
/* Compare those of candidate `index`'s next step, on the same tokens, with what is kept. The session must be reset and the step
 * must be all the tokens that the base's was. Its rows are compared on the pool of the base, each by itself; per-row values are added in row
 * order, so that the result does not depend on threads. */
void trace_watch(struct trace *trace, uint64_t index, struct session *session);
/* The same, but every layer of that step starts from the base's own stream, not from what the candidate's earlier layers made of
 * it: what is then measured is the error that each layer adds by itself. The hidden states that the step returns are of no use. */
void trace_watch_alone(struct trace *trace, uint64_t index, struct session *session);

/* With a the base's residual stream after a layer, a0 before it, b the candidate's after it, all root means over the tokens watched
 * so far. Per token, because some tokens' streams (the first one's) are orders of magnitude longer than the others' and would hide
 * them. layer: 0 .. layers - 1, or SESSION_EMBEDDING (there a0 is 0). 0 before anything was watched; infinite where a stream of
 * length 0 has become another.
 *   trace_error  sqrt(mean |a - b|^2 / |a|^2), inherited errors included (trace_watch)
 *   trace_own    the same of trace_watch_alone: what the layer alone adds
 *   trace_share  sqrt(mean |a - b|^2 / |a - a0|^2) of trace_watch_alone: relative to what the layer does */
double trace_error(const struct trace *trace, uint64_t index, uint32_t layer);
double trace_own(const struct trace *trace, uint64_t index, uint32_t layer);
double trace_share(const struct trace *trace, uint64_t index, uint32_t layer);
/* Tokens compared by trace_watch, and by trace_watch_alone. */
uint64_t trace_tokens(const struct trace *trace, uint64_t index);
uint64_t trace_tokens_alone(const struct trace *trace, uint64_t index);

#endif
