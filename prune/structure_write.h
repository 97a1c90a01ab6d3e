/* Writing a model that was pruned by seeing less of it. */
#ifndef NIBBLE_PRUNE_STRUCTURE_WRITE_H
#define NIBBLE_PRUNE_STRUCTURE_WRITE_H

#include "prune/structure.h"

/* Every tensor of job->input, as it is seen, and its documents, to where the options say; tells job->result. After a dry run nothing is
 * written, and bytes_out is what the tensors would take. */
enum status structure_write(struct prune_job *job, const struct structure *structure, struct error *err);

/* Bytes of the tensors in the output's format. */
enum status structure_bytes(uint64_t *out, struct prune_job *job, struct error *err);

#endif
