/* The .nbl file: writing it, and verifying one. The format itself is formats/SPEC.md. Reading goes through
 * formats/container.h. */
#ifndef NIBBLE_FORMATS_NBL_H
#define NIBBLE_FORMATS_NBL_H

#include "base/error.h"
#include "formats/writer.h"

/* Start a file that will appear at `path` on commit (base/file.h output rules). It takes tensors of every storage, aliases, and
 * documents. */
enum status nbl_writer_create(struct writer **out, const char *path, bool force, struct error *err);

/* What nbl_verify found. */
struct nbl_verification {
    uint64_t tensors, bytes, faults;
};

/* Read every byte of a .nbl file and check it against SPEC.md: table, checksums of every tensor, zero
 * padding, finite scales. Each fault is told to `fault` (one line, naming the tensor); all are looked for.
 * Returns OK with faults = 0, ERR_CHECK with faults > 0 (err has the first), or the reader's own error when
 * header or table cannot be trusted. */
enum status nbl_verify(struct nbl_verification *out, const char *path,
    void (*fault)(void *context, const char *text), void *context, struct error *err);

#endif
