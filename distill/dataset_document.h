/* dataset.json: what a dataset is, what it was made with, and, once it is complete, which shards it has. */
#ifndef NIBBLE_DISTILL_DATASET_DOCUMENT_H
#define NIBBLE_DISTILL_DATASET_DOCUMENT_H

#include "distill/distill_settings.h"
#include "distill/shard.h"

#define DATASET_DOCUMENT "dataset.json"
#define DATASET_TOKENIZER "tokenizer.json"

/* A dataset as its document has it. */
struct dataset_document {
    bool complete;
    const char *teacher; /* its name; owner: json */
    struct token_record_layout layout;
    uint32_t *hidden_layers;        /* [layout.shape.hidden_layers] */
    const struct json_value *stamp; /* owner: json */
    uint32_t stamp_crc;
    uint64_t counters[SHARD_COUNTERS];          /* complete only, as what follows */
    uint64_t sequences, tokens, bytes, sources; /* sources: looked at, kept or not */
    struct shard_info *shards;                  /* [shard_count]; number, sequences, records, bytes, crc */
    uint64_t shard_count;
    struct json_document *json;
};

/* Write it into a folder (base/file). All but json is written; stamp must be set. */
enum status dataset_document_write(
    const struct dataset_document *document, const char *folder, struct error *err);

/* Read and check one. ERR_FORMAT names what is wrong; ERR_IO: there is none; ERR_UNSUPPORTED: a later version. Release with
 * dataset_document_free, also after an error. */
enum status dataset_document_read(struct dataset_document *out, const char *folder, struct error *err);
/* The same of bytes; `what` names them. */
enum status dataset_document_parse(
    struct dataset_document *out, const char *what, const char *bytes, uint64_t count, struct error *err);
void dataset_document_free(struct dataset_document *document);

#endif
