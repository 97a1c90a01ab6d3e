/* Attention of the CPU backend. */
#ifndef NIBBLE_MODEL_BACKENDS_CPU_ATTENTION_H
#define NIBBLE_MODEL_BACKENDS_CPU_ATTENTION_H

#include "base/error.h"
#include "base/threads.h"
#include "model/backends/backend.h"

/* Floats of scratch that one worker needs for this call. */
uint64_t cpu_attention_scratch(const struct attention *call);

/* One attention call on a pool.
 *   scratch  [workers][cpu_attention_scratch(call)], 64-byte aligned
 * The result depends on the call only. */
enum status cpu_attention(struct pool *pool, const struct attention *call, float *scratch, struct error *err);

#endif
