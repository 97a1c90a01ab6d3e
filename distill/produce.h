/* Making a dataset: sequences in waves through the teacher, what the filters leave into shards, again after a kill from the last complete
 * shard on. */
#ifndef NIBBLE_DISTILL_PRODUCE_H
#define NIBBLE_DISTILL_PRODUCE_H

#include "base/report.h"
#include "distill/dataset_document.h"

struct produce_result {
    uint64_t sequences, tokens, bytes, sources; /* of the whole dataset; sources: looked at */
    uint64_t shards, shards_resumed;            /* of which an earlier run made so many */
    uint64_t taken[SHARD_COUNTERS];             /* by filters */
    uint64_t record_bytes;
    uint64_t tokens_run;    /* through the teacher, in this run */
    double seconds;         /* that this took, without opening and checksums */
    double teacher_seconds; /* of which in the teacher's layers and head */
};

/* Make options->output, or go on with it. On error what is complete stays, for the same command to go on with; a folder that was made
 * for nothing is gone. ERR_USAGE: options that make no sense; the dataset is complete already; an unfinished one was made otherwise
 * (names the first difference); no sequence was kept. Errors of the teacher, the text and the disk. */
enum status produce_dataset(struct produce_result *out, const struct distill_options *options,
    struct pool *pool, const struct report *report, struct error *err);

#endif
