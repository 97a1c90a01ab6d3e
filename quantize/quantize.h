/* Quantizing a model: from a container to a file by one of the methods. */
#ifndef NIBBLE_QUANTIZE_QUANTIZE_H
#define NIBBLE_QUANTIZE_QUANTIZE_H

#include "base/threads.h"
#include "formats/container.h"
#include "formats/nbl.h"
#include "model/calibration.h"
#include "model/destination.h"
#include "quantize/imatrix.h"
#include "quantize/plan.h"
#include "quantize/settings.h"

/* Where the time of a calibrated run went, in seconds. */
struct phases {
    double measure; /* of a budget: all that comes before the first layer */
    double forward; /* the walk: both streams through the layers */
    double hessian; /* summing up inputs */
    double factor;  /* Cholesky, inverse, correction of the target */
    double solve;   /* rounding column by column, range search, polishing, errors */
    double rescale; /* AWQ's search */
    double journal;
};

/* What a calibrated run did, for the report. */
struct calibrated_summary {
    uint64_t samples, length, tokens, documents;
    uint32_t text_crc32;
    uint32_t layers_resumed;
    uint64_t memory_estimate;
    struct phases phases;
};

/* What a method is given to work with. */
struct quantize_job {
    struct checkpoint *input;
    struct plan *plan; /* outcomes of its tensors are out */
    const struct quantize_options *options;
    const struct settings *settings;
    const struct imatrix *imatrix;
    struct writer *writer; /* empty; the method declares and writes every tensor of the plan, in order */
    struct destination_parts parts; /* of the output, once it is written */
    uint32_t *source_crcs;          /* [container_count] out, as transfer_run fills them */
    struct pool *pool;
    const struct report *report;
    uint64_t fixed_bytes;           /* of the output beside tensors, at most */
    struct calibration calibration; /* out, calibrated: tokens released, numbers kept, for the provenance */
    struct journal *journal;        /* out, calibrated: to be removed once the output is complete */
    struct calibrated_summary calibrated; /* out */
};

/* What was done, for the report. Holds the input open, because names and plan point into it. */
struct quantize_result {
    struct checkpoint input;
    struct settings settings;
    struct plan plan;
    struct imatrix imatrix;       /* of --imatrix; its numbers are the plan's column_weights */
    uint64_t bytes_in, bytes_out; /* of the files that hold tensors */
    bool bounded;                 /* after a dry run: bytes_out is a bound (.nbl), else it is exact */
    unsigned threads;
    double seconds;
    struct calibrated_summary calibrated;
};

/* Do what the options say. With dry_run everything is checked and planned, and nothing is written.
 * Errors: those of reading, planning (quantize/plan.h), and writing; ERR_NUMERIC names the first weight that
 * is not finite or too large. The output is the same for any number of threads, and on an error it is not
 * touched. Release *out with quantize_release, also after an error. */
enum status quantize_run(
    struct quantize_result *out, const struct quantize_options *options, struct error *err);
void quantize_release(struct quantize_result *result);

/* For the methods: make room in the output for its provenance, once calibration is known and before the transfer begins. */
enum status quantize_reserve(struct quantize_job *job, struct error *err);

#endif
