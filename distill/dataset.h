/* A dataset to read: its document, and its shards one by one. */
#ifndef NIBBLE_DISTILL_DATASET_H
#define NIBBLE_DISTILL_DATASET_H

#include "base/report.h"
#include "distill/dataset_document.h"

struct dataset {
    const char *path;
    struct dataset_document document;
    uint64_t shard_count; /* of a complete one by its index, of an unfinished one those that are there */
    bool skip_damaged;
    const struct report *report;
    uint64_t damaged; /* shards that were skipped so far */
};

/* Read and check the document of the folder at `path`, which is kept, as is report. ERR_FORMAT, ERR_IO, ERR_UNSUPPORTED as
 * dataset_document_read. Release with dataset_close, also after an error. */
enum status dataset_open(
    struct dataset *out, const char *path, bool skip_damaged, const struct report *report, struct error *err);
void dataset_close(struct dataset *dataset);

/* Open shard `index`, below shard_count, and check every byte of it, also against the index. A damaged or missing one: its error, or, with
 * skip_damaged, *out NULL, OK and a note. Close with shard_close. */
enum status dataset_shard(struct shard **out, struct dataset *dataset, uint64_t index, struct error *err);

/* The teacher's tokenizer. Owner: the caller, tokenizer_free. */
enum status dataset_tokenizer(struct tokenizer **out, const struct dataset *dataset, struct error *err);

#endif
