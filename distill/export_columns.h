/* A dataset as arrays: what it is exported to. Record after record, each array has one row per token, or per sequence. */
#ifndef NIBBLE_DISTILL_EXPORT_COLUMNS_H
#define NIBBLE_DISTILL_EXPORT_COLUMNS_H

#include "distill/dataset.h"

enum column {
    COLUMN_TOKENS,  /* int32 [tokens] */
    COLUMN_LOG_SUM, /* float32 [tokens] */
    COLUMN_REST,    /* float32 [tokens]: tail or entropy */
    COLUMN_IDS,     /* int32 [tokens][count] */
    COLUMN_VALUES,  /* float32 [tokens][count]: log-probabilities, or logarithms of weights */
    COLUMN_HIDDEN,  /* float16 [tokens][layers][width] */
    COLUMN_OFFSETS, /* int64 [sequences + 1]: where each sequence begins, and the end of the last */
    COLUMN_PROMPTS, /* int32 [sequences]: tokens that were given */
    COLUMN_SOURCES, /* int64 [sequences] */
    COLUMN_COUNT
};

struct export_column {
    const char *name;
    const char *safetensors, *numpy; /* the type's name there: "F32", "<f4" */
    unsigned rank;                   /* 0: the dataset has no such column */
    uint64_t shape[3];
    uint64_t row_bytes, bytes; /* of one index of the first dimension, and in all */
};

struct export_plan {
    struct export_column columns[COLUMN_COUNT];
    uint64_t sequences, tokens;
};

/* Go through all shards once and plan the arrays. Errors of dataset_shard; ERR_USAGE: no sequence is left. */
enum status export_plan_make(struct export_plan *out, struct dataset *dataset, struct error *err);

/* Where a column's bytes go. */
typedef enum status (*export_sink)(
    void *context, enum column column, uint64_t offset, const void *bytes, uint64_t count, struct error *err);

/* Decode everything, in pieces, to the sink; every byte of every column comes once. ERR_FORMAT also if a shard is now damaged that was
 * not when the plan was made. */
enum status export_columns(const struct export_plan *plan, struct dataset *dataset, export_sink sink,
    void *context, struct error *err);

#endif
