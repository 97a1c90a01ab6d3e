/* What the readers of the single formats fill in: the inside of struct container. Only files of formats/
 * include this; everyone else sees formats/container.h. */
#ifndef NIBBLE_FORMATS_READER_H
#define NIBBLE_FORMATS_READER_H

#include "base/file.h"
#include "formats/container.h"
#include "formats/metadata.h"
#include "formats/names.h"

/* One file that holds tensors. */
struct reader_file {
    struct file *file;
    const char *name;    /* without folders: what provenance and errors about shards call it */
    uint64_t head_bytes; /* what lies before the tensors' data */
    uint32_t head_crc;   /* safetensors: CRC-32 of those bytes; .nbl: the checksum the header records */
};

struct reader_entry;

/* Compute `count` bytes from `offset` on of a tensor that the file does not hold as it is. Any thread. */
typedef enum status (*reader_compute)(struct container *container, const struct reader_entry *entry,
    uint64_t offset, uint8_t *buffer, uint64_t count, struct error *err);

/* One tensor and where its bytes are. */
struct reader_entry {
    struct tensor tensor; /* first, so that a public pointer to the tensor is one to its entry */
    uint64_t offset;      /* from the start of the file */
    uint32_t file;        /* number of the file */
    uint32_t crc;         /* .nbl: the recorded CRC-32 of the tensor's bytes */
    void *copy; /* its bytes in memory, where the map is not aligned for them or does not show them so */
    const char *foreign;   /* its type in the file, if only parts of packed matrices may have it; else NULL */
    struct packed *packed; /* owned; not NULL: it is computed from parts (formats/packed/packed_read.h) */
    uint64_t head; /* rows whose halves are interleaved (container_interleave); 0: rows lie in order */
    reader_compute compute; /* NULL: its bytes lie at `offset` */
    uint64_t scales, group; /* llama2.c: where the scales lie in the file, elements that share one */
    uint64_t run,
        stride; /* container_split by turns: bytes that lie together, and from one such run to the next */
    uint64_t column; /* of part of a transposed matrix: elements of the whole one's columns; 0: shape[0] */
    float addend;    /* container_shift: added to every element */
    struct selection
        *selection; /* owned; not NULL: rows and columns of another tensor (container_select.h) */
    bool made;      /* its bytes are not those of the file: no recorded checksum is of them */
};

/* Another name for a tensor. */
struct reader_alias {
    const char *alias, *target;
    uint64_t number; /* of the target, once reader_index_aliases has found it */
    uint32_t file;   /* that says so */
};

/* A document inside the file (.nbl), or attached. */
struct reader_document {
    const char *name;
    uint64_t offset, bytes;
    char *text; /* attached: its bytes, owned; else NULL */
};

struct container {
    char *path;
    const char *format;
    bool records_checksums; /* reader_entry.crc means something */
    bool has_gaps;          /* between tensors: the file's checksum does not follow from theirs */
    char *folder;           /* where documents lie as files of their own; NULL: inside the file */
    struct names_pool names;
    struct reader_file *files;
    struct reader_entry *entries;
    struct reader_alias *aliases;
    struct reader_document *documents;
    uint64_t file_count, file_capacity;
    uint64_t entry_count, entry_capacity;
    uint64_t alias_count, alias_capacity;
    uint64_t document_count, document_capacity;
    struct metadata metadata; /* GGUF; empty for the others */
    struct names_index index; /* tensors by number; aliases have the number of their target */
};

/* Open one more file and give it the name `name` (copied). */
enum status reader_add_file(
    struct container *container, const char *path, const char *name, struct error *err);

/* Append a tensor of the newest file; its name must already be in container->names. ERR_MEMORY: more than
 * CONTAINER_TENSOR_LIMIT. */
enum status reader_add_entry(
    struct container *container, const struct reader_entry *entry, struct error *err);

/* Append an alias stated by the newest file; both names must already be in container->names. */
enum status reader_add_alias(
    struct container *container, const char *alias, const char *target, struct error *err);

/* Build the index of all tensors. ERR_FORMAT: two have the same name. */
enum status reader_index_tensors(struct container *container, struct error *err);

/* Add the aliases to the index. ERR_FORMAT: a target is no tensor, or an alias is a name in use. */
enum status reader_index_aliases(struct container *container, struct error *err);

/* Bytes of an entry in the order in which they are seen, whatever they lie like; nothing is checked. */
enum status reader_read(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err);

/* Release what an entry owns. */
void reader_entry_release(struct reader_entry *entry);

/* The part of a path after the last '/'. */
const char *reader_base_name(const char *path);

/* ---- the formats, one row each in container.c ---- */

/* Read one safetensors file as the whole container. */
enum status safetensors_read(struct container *container, const char *path, struct error *err);

/* How a file of a format that may come in shards is read: `add` appends one file and its tensors, `name` is what it is called
 * in provenance; `finish`, once all files are in, makes the index of their names. */
struct shard_format {
    const char *name;
    enum status (*add)(struct container *container, const char *path, const char *name, struct error *err);
    enum status (*finish)(struct container *container, struct error *err);
};

/* Read a folder's shards through its index, a file of it (model.safetensors.index.json). */
enum status shards_read(struct container *container, const char *folder, const char *index,
    const struct shard_format *format, struct error *err);

/* Read one PyTorch file. */
enum status pytorch_read(struct container *container, const char *path, struct error *err);

/* Read one llama2.c model. */
enum status llama2c_read(struct container *container, const char *path, struct error *err);

/* Read one GGUF file, or all parts of a split one through the first (formats/gguf/gguf_parts.h). */
enum status gguf_read(struct container *container, const char *path, struct error *err);

/* Read one .nbl file. */
enum status nbl_read(struct container *container, const char *path, struct error *err);

#endif
