/* A container: files seen as named tensors plus attached documents (config.json, tokenizer.json ...). The
 * table of formats lives in container.c: one row to add one. Everything is validated before the first pointer
 * or size is handed out. */
#ifndef NIBBLE_FORMATS_CONTAINER_H
#define NIBBLE_FORMATS_CONTAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "formats/metadata.h"
#include "tensor/tensor.h"

struct container;
struct pool;

/* Limits on what a file may claim (beyond what its own size already bounds). */
#define CONTAINER_TENSOR_LIMIT 1000000
#define CONTAINER_NAME_LIMIT 512
#define CONTAINER_DOCUMENT_LIMIT (64u << 20)

/* Open a model: a Hugging Face folder (model.safetensors, or shards through model.safetensors.index.json; without them
 * pytorch_model.bin, or shards through pytorch_model.bin.index.json), one .safetensors or PyTorch file (documents are then looked
 * for beside it), one .nbl, one GGUF file, one llama2.c model; told apart by content,
 * not by name. The header of every file is read and validated; tensor data is not touched. GGUF files and llama2.c models show
 * their own names: model/gguf/gguf_checkpoint.h and model/llama2c_checkpoint.h make checkpoints of them. */
enum status container_open(struct container **out, const char *path, struct error *err);

/* The same, with what the user says of a file that does not say it itself. */
struct container_options {
    const char
        *gptq_zeros; /* GPTQ's zero-points: "v1": less 1, "v2": as they are; NULL: as the checkpoint says */
};
enum status container_open_with(
    struct container **out, const char *path, const struct container_options *options, struct error *err);
void container_close(struct container *container);

const char *container_path(const struct container *container);
/* "safetensors", "PyTorch", "nbl", "GGUF" or "llama2.c". */
const char *container_format(const struct container *container);
/* Bytes of all files that hold tensors. */
uint64_t container_bytes(const struct container *container);

/* One of these files, as container_file fills it in. */
struct container_file {
    const char *path; /* owned by the container */
    uint64_t bytes;
    const void *map; /* the whole file, read-only; NULL before container_map */
};
uint64_t container_file_count(const struct container *container);
/* index below container_file_count. */
struct container_file container_file(const struct container *container, uint64_t index);

/* Tensors in the order of the files' data: shard by shard (in name order), by offset within a shard. data is
 * NULL before container_map. Pointers stay valid until close. */
uint64_t container_count(const struct container *container);
const struct tensor *container_tensor(const struct container *container, uint64_t index);
/* The number of a tensor of this container. */
uint64_t container_index(const struct container *container, const struct tensor *tensor);
/* By name, through aliases (tied tensors); NULL if absent. */
const struct tensor *container_find(const struct container *container, const char *name);

/* How a Hugging Face folder stores the matrix that is seen as this one tensor: "gptq", "awq" ... (formats/packed/packed.h), else NULL. *why: the
 * reason why it is seen as computed values and not as tiles; NULL: it is tiles. */
const char *container_packed(
    const struct container *container, const struct tensor *tensor, const char **why);

/* What the file says of itself beside documents (GGUF, llama2.c); empty for other formats. */
const struct metadata *container_metadata(const struct container *container);

/* Names that stand for another tensor (safetensors __metadata__, .nbl aliases). */
uint64_t container_alias_count(const struct container *container);
void container_alias(
    const struct container *container, uint64_t index, const char **alias, const char **target);

/* Read part of a tensor's bytes into buffer with pread; never maps. Thread-safe. */
enum status container_read(struct container *container, const struct tensor *tensor, uint64_t offset,
    void *buffer, uint64_t count, struct error *err);

/* The CRC-32 that the file itself records for a tensor's bytes; false if its format records none. */
bool container_checksum(const struct container *container, const struct tensor *tensor, uint32_t *crc);

/* Map every file read-only; afterwards every tensor's data is set. A tensor whose data is not aligned to its
 * element (safetensors promises nothing), whose rows are interleaved or which is computed (transposed, shifted, or codes of
 * llama2.c), is read into memory that the container owns; container_map_by lets the workers of a pool do that (NULL: as
 * container_map). After an error nothing of it is kept. */
enum status container_map(struct container *container, struct error *err);
enum status container_map_by(struct container *container, struct pool *pool, struct error *err);

/* An attached document by file name ("config.json"): *out NULL if there is none. Owner of *out: the caller,
 * memory_free. Terminated; at most CONTAINER_DOCUMENT_LIMIT bytes. */
enum status container_document(
    struct container *container, const char *name, char **out, uint64_t *bytes, struct error *err);

/* The files' checksums as provenance: writes a JSON array of {"file", "bytes", "crc32"} with the CRC-32 of
 * each whole file in eight hexadecimal digits, computed without reading anything again from the CRC-32 of
 * every tensor's bytes (tensor_crcs [container_count], which the caller computed while reading). For .nbl the
 * recorded header checksum, which covers every tensor's checksum, stands for the file. What lies between the tensors of a file
 * (GGUF, PyTorch), or is not seen as it is stored, is read once more. tensor_crcs NULL: zeros stand for all checksums and nothing is read. */
enum status container_write_sources(
    struct container *container, const uint32_t *tensor_crcs, struct json_writer *writer, struct error *err);

/* ---- seeing a container in another way: what a format calls and stores differently ---- */

/* Give tensor number `index` another name (copied). container_find knows it after container_reindex. ERR_FORMAT: no name. */
enum status container_rename(
    struct container *container, uint64_t index, const char *name, struct error *err);

/* Build the index of names anew. ERR_FORMAT: two tensors have the same name. */
enum status container_reindex(struct container *container, struct error *err);

/* Attach a document, which container_document then finds by its name. text [bytes] is the container's from here on, also
 * after an error. ERR_MEMORY: more than CONTAINER_DOCUMENT_LIMIT. */
enum status container_attach(
    struct container *container, const char *name, char *text, uint64_t bytes, struct error *err);

/* Take a document out, so that container_document finds it no more. */
void container_detach(struct container *container, const char *name);

/* Take over the files and tensors of another .nbl file, before either is mapped: one model that lies in several files. A tensor
 * or alias that both have is kept once; its recorded checksums must agree. Documents of `from` are left behind. `from` is closed, also
 * after an error. ERR_FORMAT: they have different tensors of one name. ERR_UNSUPPORTED: not two .nbl files. */
enum status container_absorb(struct container *container, struct container *from, struct error *err);

/* The rows of tensor number `index` are stored with the two halves of every `head` rows interleaved: stored row
 * h head + 2 i + s is row h head + s head / 2 + i, with s 0 or 1. From here on container_read and container_map hand out the
 * rows in their order. Before container_map only. ERR_FORMAT: rows that are no multiple of head, an odd head.
 * ERR_UNSUPPORTED: a tensor that is not rank 1 or 2, tiles, or blocks of rank 1. */
enum status container_interleave(
    struct container *container, uint64_t index, uint64_t head, struct error *err);

/* A matrix that is stored column by column: from here on tensor number `index` is its transpose, shape [cols, rows] of what the file says.
 * Before container_map only, and before container_split, which may then take it apart. ERR_FORMAT: no matrix. ERR_UNSUPPORTED: not
 * dense, or a file that records a checksum of the tensor as it is. */
enum status container_transpose(struct container *container, uint64_t index, struct error *err);

/* See tensor number `index` as a matrix [rows][cols] of the same elements in the same order: a vector as one row, a tensor of rank 3 as its
 * matrices one below the other. Before container_map and container_split. ERR_FORMAT: another number of elements.
 * ERR_UNSUPPORTED: tiles, rows that are not stored as they are seen, or blocks that rows of `cols` would cut. */
enum status container_reshape(
    struct container *container, uint64_t index, uint64_t rows, uint64_t cols, struct error *err);

/* Replace tensor number `index` by several, each of the rows that follow those of the one before, or, where `turn` is not 0, of
 * `turn` rows in turn with the others, all of which then have as many; names are copied. Known to
 * container_find after container_reindex; tensors of this container that were handed out before are no longer valid. Before
 * container_map only. ERR_FORMAT: neither matrix nor vector, or one of another number of rows. ERR_MEMORY: more than
 * CONTAINER_TENSOR_LIMIT tensors. ERR_UNSUPPORTED: tiles of a file, rows that are not stored as they are seen, a file that records a checksum of the
 * whole tensor, or parts of a packed matrix that begin or end within 8 rows. */
struct container_part {
    const char *name;
    uint64_t rows;
};
enum status container_split(struct container *container, uint64_t index, const struct container_part *parts,
    unsigned count, uint64_t turn, struct error *err);

/* Add a number to every element of tensor number `index` when it is read or mapped: a file that stores 1 + w is seen as w. Before
 * container_map only. ERR_UNSUPPORTED: it is not F32. */
enum status container_shift(struct container *container, uint64_t index, float addend, struct error *err);

#endif
