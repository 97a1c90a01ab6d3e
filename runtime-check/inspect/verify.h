/* Is this file what it claims to be? Checksums and rules of a .nbl file, finite numbers in any container, the architecture's
 * account of tensors, and, with the original beside it, how far each tensor moved. */
#ifndef NIBBLE_RUNTIME_CHECK_VERIFY_H
#define NIBBLE_RUNTIME_CHECK_VERIFY_H

#include "base/report.h"
#include "base/threads.h"
#include "formats/container.h"

/* What a tensor lost against its original. */
struct verify_difference {
    const struct tensor *tensor; /* of the verified container */
    double relative_rms;         /* sqrt(sum (a-b)^2 / sum a^2); 0 when both are zero */
    double largest;              /* max |a-b| */
    bool missing;                /* the original has no tensor of this name and shape */
};

struct verify_result {
    uint64_t tensors, bytes, faults;
};

/* Told about every fault, one line naming the tensor. */
typedef void (*verify_fault)(void *context, const char *text);

/* Check one container whole: for .nbl every rule of SPEC.md (nbl_verify), for all that every floating weight is finite
 * and, where a config.json is attached, that the tensors are the architecture's.
 * ERR_CHECK with result.faults > 0; the reader's own errors when the file cannot be read at all. */
enum status verify_container(struct verify_result *out, const char *path, struct pool *pool,
    const struct report *report, verify_fault fault, void *context, struct error *err);

/* Compare every tensor of `container` with the one of the same name in `original`, both decoded to float.
 *   out  [container_count(container)]  owner: the caller, memory_free
 * Both containers are mapped. */
enum status verify_against(struct verify_difference **out, struct container *container,
    struct container *original, struct pool *pool, const struct report *report, struct error *err);

#endif
