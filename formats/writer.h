/* Writing a model: tensors and documents into a file or a folder, whatever its format. The formats are the makers: nbl_writer_create
 * (formats/nbl.h) and its kin return one of these, and nobody after that asks which. */
#ifndef NIBBLE_FORMATS_WRITER_H
#define NIBBLE_FORMATS_WRITER_H

#include "base/error.h"
#include "tensor/tensor.h"

struct writer;

/* Declare one tensor: name, storage, dtype, scheme, block, mask, rank and shape are taken from `tensor` (its elements,
 * bytes and data are ignored, but for the bytes of SPARSE storage with a bitmap, which sparse_make has counted). *index is its number, counted from 0. Not after writer_begin. ERR_FORMAT:
 * duplicate or bad name, bad scheme. ERR_UNSUPPORTED: the format has no place for such a tensor. */
enum status writer_add(
    struct writer *writer, const struct tensor *tensor, uint64_t *index, struct error *err);

/* Declare that `alias` stands for the tensor `target`, which may be added later. At any time before commit;
 * writer_begin finds out that a target is missing. Formats that know no aliases do without. */
enum status writer_alias(struct writer *writer, const char *alias, const char *target, struct error *err);

/* Lay the data out and reserve the disk. After it, tensors can be written from any thread in any order. */
enum status writer_begin(struct writer *writer, struct error *err);

/* In place of writer_begin: lay the data out and say how many bytes the files of tensors would have. Nothing appears on disk; only
 * writer_abandon may follow. *known is false where the format does not tell (.nbl, whose documents come last). */
enum status writer_bytes(struct writer *writer, uint64_t *bytes, bool *known, struct error *err);

/* Write part of a tensor's bytes. Thread-safe for disjoint ranges. Every byte of the tensor must be written,
 * but for the alignment gaps between the parts of TILES and SPARSE storage, which are zero. */
enum status writer_write(struct writer *writer, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err);

/* State the CRC-32 of all bytes of a tensor (alignment gaps between parts included, as zeros).
 * Thread-safe. */
void writer_checksum(struct writer *writer, uint64_t index, uint32_t crc);

/* How the format wants the rows of a tensor: 0: in their order; else the two halves of every `head` rows interleaved
 * (container_interleave says how). After writer_add. */
uint64_t writer_head(const struct writer *writer, uint64_t index);

/* What the format wants added to every element of a tensor: 0, or 1 where norms are stored as 1 + w. After writer_add. */
float writer_shift(const struct writer *writer, uint64_t index);

/* Make room for a document of at most `bytes` bytes that will be attached later. Before writer_begin; for formats that must know
 * where everything lies before the data are written. The others do nothing. */
enum status writer_reserve(struct writer *writer, const char *name, uint64_t bytes, struct error *err);

/* Attach a document (bytes are copied). Names are unique. At any time before commit. */
enum status writer_document(
    struct writer *writer, const char *name, const char *bytes, uint64_t count, struct error *err);

/* The path of file number `index` that will appear, for formats that may write several; NULL past the last, and always where
 * there is only the one that was asked for. After writer_begin; owner: the writer. */
const char *writer_file(const struct writer *writer, uint64_t index);

/* Write what is left, make it durable, and let it appear. Frees the writer, also on error. */
enum status writer_commit(struct writer *writer, struct error *err);
/* NULL is allowed. */
void writer_abandon(struct writer *writer);

/* ---- for those who make one ---- */

/* What a format does; the comments above say what each must do. NULL may be: `head` (rows in their order), `shift` (nothing
 * added), `bytes` (not known), `reserve` and `file`. */
struct writer_kind {
    const char *name; /* "nbl", "GGUF" */
    enum status (*add)(struct writer *, const struct tensor *, uint64_t *index, struct error *);
    enum status (*alias)(struct writer *, const char *alias, const char *target, struct error *);
    enum status (*begin)(struct writer *, struct error *);
    enum status (*bytes)(struct writer *, uint64_t *bytes, struct error *);
    enum status (*write)(
        struct writer *, uint64_t index, uint64_t offset, const void *bytes, uint64_t count, struct error *);
    void (*checksum)(struct writer *, uint64_t index, uint32_t crc);
    uint64_t (*head)(const struct writer *, uint64_t index);
    float (*shift)(const struct writer *, uint64_t index);
    enum status (*reserve)(struct writer *, const char *name, uint64_t bytes, struct error *);
    enum status (*document)(
        struct writer *, const char *name, const char *bytes, uint64_t count, struct error *);
    const char *(*file)(const struct writer *, uint64_t index);
    enum status (*commit)(struct writer *, struct error *);
    void (*abandon)(struct writer *);
};

/* The first member of every writer, so that a pointer to one is a pointer to the other. */
struct writer {
    const struct writer_kind *kind;
};

#endif
