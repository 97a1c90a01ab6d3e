/* Pruning a model: from a container to a file by one of the methods. */
#ifndef NIBBLE_PRUNE_PRUNE_H
#define NIBBLE_PRUNE_PRUNE_H

#include "base/threads.h"
#include "model/checkpoint.h"
#include "model/destination.h"
#include "prune/prune_settings.h"

/* One matrix, and what became of it. */
struct prune_tensor {
    const char *name; /* the input's */
    const struct tensor *source;
    struct tensor target; /* how it is stored; before the run: if nothing of it were left out */
    enum role role;
    uint32_t layer;
    double share;            /* of its weights that shall go */
    uint64_t weights, zeros; /* elements of the result, and those that are 0 */
    uint64_t exchanged;      /* weights that polishing put in another's place */
    double gone, power;      /* sums of squares: of the weights that went, and of all as they were */
    /* Calibrated methods: mean squared output error and power, in the norm of the Hessian; else 0. */
    double output_error, output_power;
    double solved_error; /* the same before polishing and quantizing */
    double damping;      /* relative, as it was needed */
    uint64_t dead;       /* input channels that calibration never saw but as 0 */
    double seconds;
};

/* One decoder layer of the input, and what became of it. */
struct prune_layer {
    struct config_widths was, left; /* left: nothing of one that is gone */
    double score;                   /* of a method that takes layers (prune/depth.h) */
    bool gone;
};

/* What was done, for the report. Holds the input open, because names point into it. */
struct prune_result {
    struct checkpoint input;
    struct prune_settings settings;
    struct prune_tensor *tensors; /* [count] those that were pruned */
    uint64_t count;
    double target_sparsity;           /* chosen for --target-size; 0: none was */
    uint64_t weights_in, weights_out; /* elements of all tensors; zeros count */
    uint64_t zeros;
    struct prune_layer *layers; /* [layers_in] structured pruning */
    uint32_t layers_in, layers_out, vocabulary_in, vocabulary_out;
    uint64_t bytes_in,
        bytes_out;            /* of the files that hold tensors; after a dry run bytes_out is a prediction */
    uint64_t samples, tokens; /* of calibration */
    uint32_t layers_resumed;
    uint64_t memory_estimate; /* of a calibrated run */
    unsigned threads;
    double seconds;
};

/* Do what the options say. The output is the same for any number of threads, and on an error it is not touched. Errors: those of
 * reading, calibration and writing; ERR_USAGE: what the model does not have (layers, rows that the pattern divides) is named before work
 * starts; ERR_NUMERIC names the first weight or activation that is not finite. Release *out with prune_release, also after an error. */
enum status prune_run(struct prune_result *out, const struct prune_options *options, struct error *err);
void prune_release(struct prune_result *result);

/* What a kind of pruning is given to work with. It makes, fills and commits the output. */
struct prune_job {
    struct prune_result *result;
    const struct prune_options *options;
    const struct prune_settings *settings;
    struct checkpoint *input;
    struct pool *pool;
    const struct report *report;
};

/* Where the output goes, and as what. Its texts are the options'. */
struct destination prune_destination(const struct prune_options *options);

#endif
