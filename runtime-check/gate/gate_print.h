/* The outcome of a gate on standard output: a table for people, an object for programs. */
#ifndef NIBBLE_RUNTIME_CHECK_GATE_PRINT_H
#define NIBBLE_RUNTIME_CHECK_GATE_PRINT_H

#include "base/json.h"
#include "runtime-check/gate/gate.h"

/* One row per check, remarks, and what it was measured on. */
void gate_print_table(const struct gate_result *result, const struct gate_subject *subject);

/* One object, with the keys of nibble-check perplexity --json that gate_baseline.h reads, so that it may be a later gate's
 * baseline. `kernels` and `threads`: what computed. */
void gate_write_json(struct json_writer *writer, const struct gate_result *result,
    const struct gate_subject *subject, const char *kernels, unsigned threads);

#endif
