/* The .nbl file: writing it, and verifying one. The format itself is formats/SPEC.md. Reading goes through
 * formats/container.h. */
#ifndef NIBBLE_FORMATS_NBL_H
#define NIBBLE_FORMATS_NBL_H

#include "base/error.h"
#include "tensor/tensor.h"

struct nbl_writer;

/* Start a file that will appear at `path` on commit (base/file.h output rules). */
enum status nbl_writer_create(struct nbl_writer **out, const char *path, bool force, struct error *err);

/* Declare one tensor: name, storage, dtype, scheme, rank and shape are taken from `tensor` (its elements,
 * bytes and data are ignored). *index is its number, counted from 0. Not after nbl_writer_begin. ERR_FORMAT:
 * duplicate or bad name, bad scheme. */
enum status nbl_writer_add(
    struct nbl_writer *writer, const struct tensor *tensor, uint64_t *index, struct error *err);

/* Declare that `alias` stands for the tensor `target`, which may be added later. At any time before commit;
 * nbl_writer_begin finds out that a target is missing. */
enum status nbl_writer_alias(
    struct nbl_writer *writer, const char *alias, const char *target, struct error *err);

/* Lay the data out and reserve the disk. After it, tensors can be written from any thread in any order. */
enum status nbl_writer_begin(struct nbl_writer *writer, struct error *err);

/* Write part of a tensor's bytes. Thread-safe for disjoint ranges. Every byte of the tensor must be written,
 * but for the alignment gaps between the parts of TILES storage, which are zero. */
enum status nbl_writer_write(struct nbl_writer *writer, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err);

/* State the CRC-32 of all bytes of a tensor (alignment gaps of TILES storage included, as zeros).
 * Thread-safe. */
void nbl_writer_checksum(struct nbl_writer *writer, uint64_t index, uint32_t crc);

/* Attach a document (bytes are copied). Names are unique. At any time before commit. */
enum status nbl_writer_document(
    struct nbl_writer *writer, const char *name, const char *bytes, uint64_t count, struct error *err);

/* Write documents, table and header, make it durable, and let it appear. Frees the writer, also on error. */
enum status nbl_writer_commit(struct nbl_writer *writer, struct error *err);
void nbl_writer_abandon(struct nbl_writer *writer);

/* The size of tensor `index` in bytes (after add), and of the file so far laid out (after begin, documents
 * excluded). */
uint64_t nbl_writer_tensor_bytes(const struct nbl_writer *writer, uint64_t index);
uint64_t nbl_writer_bytes(const struct nbl_writer *writer);

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
