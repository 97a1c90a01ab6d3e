/* Quantizing a model: from a container to a .nbl file by one of the methods. */
#ifndef NIBBLE_QUANTIZE_QUANTIZE_H
#define NIBBLE_QUANTIZE_QUANTIZE_H

#include "base/threads.h"
#include "formats/container.h"
#include "formats/nbl.h"
#include "quantize/plan.h"
#include "quantize/settings.h"

/* What a method is given to work with. */
struct quantize_job {
    const struct checkpoint *input;
    struct plan *plan;         /* error and power of its tensors are out, if measure_error */
    struct nbl_writer *writer; /* empty; the method declares and writes every tensor of the plan, in order */
    uint32_t *source_crcs;     /* [container_count] out, as transfer_run fills them */
    struct pool *pool;
    const struct report *report;
    bool measure_error;
};

/* A method: write all tensors of the plan. The bytes may depend on the plan and the weights only. */
typedef enum status (*quantize_method)(struct quantize_job *job, struct error *err);

#define METHOD_DECLARE(name, help) enum status name##_run(struct quantize_job *job, struct error *err);
METHOD_LIST(METHOD_DECLARE)
#undef METHOD_DECLARE

/* What was done, for the report. Holds the input open, because names and plan point into it. */
struct quantize_result {
    struct checkpoint input;
    struct settings settings;
    struct plan plan;
    uint64_t bytes_in,
        bytes_out; /* of the files that hold tensors; after a dry run bytes_out is a prediction */
    unsigned threads;
    double seconds;
};

/* Do what the options say. With dry_run everything is checked and planned, and nothing is written.
 * Errors: those of reading, planning (quantize/plan.h), and writing; ERR_NUMERIC names the first weight that
 * is not finite or too large. The output is the same for any number of threads, and on an error it is not
 * touched. Release *out with quantize_release, also after an error. */
enum status quantize_run(
    struct quantize_result *out, const struct quantize_options *options, struct error *err);
void quantize_release(struct quantize_result *result);

#endif
