/* The plan of a quantization: what becomes of every tensor, settled before any work starts. */
#ifndef NIBBLE_QUANTIZE_PLAN_H
#define NIBBLE_QUANTIZE_PLAN_H

#include "base/report.h"
#include "model/checkpoint.h"
#include "quantize/settings.h"

/* What became of a tensor. All 0 if not measured. */
struct outcome {
    double error, power; /* sums of squares: of what quantization changed, and of the weights */
    /* The rest of calibrated methods only. Sums over rows in the norm of the Hessian: mean squared output error, or power. */
    bool calibrated;
    uint64_t tokens; /* of the calibration text that its inputs were seen on */
    uint64_t
        uncalibrated; /* 1: of an expert that too few tokens were sent to; rounded to nearest, and errors are not comparable */
    double output_error, output_power;
    double nearest_error;    /* of rounding to nearest with the same range search */
    double unpolished_error; /* before polishing */
    uint64_t rows_nearest;   /* rows that kept rounding to nearest because it erred less */
    uint64_t dead;           /* input channels that calibration never saw but as 0 */
    double damping;          /* relative, as it was needed */
    double scale_ratio;      /* AWQ's exponent; 0: nothing scaled */
    double seconds;          /* of solving */
};

/* One tensor of the file to be. */
struct plan_tensor {
    const struct tensor *source; /* of the container */
    struct tensor target;        /* quantized: STORAGE_TILES with its scheme, or STORAGE_BLOCKS */
    enum role role;              /* ROLE_COUNT: none */
    uint32_t layer;              /* of a role that every layer has */
    uint32_t expert;             /* of a role that every expert has */
    struct recipe recipe;        /* keep: not quantized */
    const float *column_weights; /* [cols] of an importance matrix, not owned; NULL: none */
    bool pinned;                 /* a rule gives its bits or type: a budget leaves them */
    bool fallback;     /* the blocks it should have do not divide its rows: it has others, or is kept */
    bool requantized;  /* its source is quantized already */
    bool decoded;      /* source is DENSE, but the input stores it quantized (container_packed) */
    bool rewritten;    /* dense, but its values change: a norm or bias that AWQ folds scales into */
    uint64_t bytes;    /* of the target */
    double importance; /* share of the error if all had 3 bits; 0 if no budget was given */
    struct outcome outcome;
};

/* All of them, in the container's order. */
struct plan {
    struct plan_tensor *tensors; /* [count] */
    uint64_t count, quantized;
    uint64_t
        indivisible; /* those whose row group or blocks did not divide, settled as --indivisible or --fallback says */
    uint64_t requantized;
    uint64_t weights, weights_quantized; /* elements */
    uint64_t bytes, bytes_quantized;     /* of tensor data */
    struct plan_tensor *(
        *layer)[ROLE_COUNT];      /* [layers]: the tensors of a layer by role, or NULL; without experts */
    struct plan_tensor **experts; /* [layers][places - ROLE_COUNT]: those of experts, or NULL */
    uint32_t places, layers;      /* of a layer (layers_places); of the model */
};

/* The tensor in a place of a layer (a role, or layers_place of an expert's matrix); NULL where there is none. */
struct plan_tensor *plan_at(const struct plan *plan, uint32_t layer, uint32_t place);

/* Decide for every tensor of the input but the dropped ones. What cannot be decided is told to report, one
 * line per tensor. Release with plan_free, also after an error. ERR_USAGE: a rule matches no matrix or
 * changes nothing; --head beside a tied embedding; a group does not divide a row and --indivisible says stop
 * (or knows no way); blocks do not divide a row and no --fallback fits. ERR_UNSUPPORTED: a matrix to quantize is quantized already,
 * and --allow-requantize is not given. */
enum status plan_create(struct plan *out, const struct checkpoint *input, const struct settings *settings,
    const struct report *report, struct error *err);
void plan_free(struct plan *plan);

/* Give a matrix a block type, or other bits (without one; 0: keep it), or store a dense tensor as F32 because its values will change; sums follow. ERR_USAGE: the
 * group does not divide the row; ERR_UNSUPPORTED: it is quantized already. */
enum status plan_choose(struct plan *plan, struct plan_tensor *planned, const struct settings *settings,
    uint32_t bits, enum block_type block, struct error *err);
void plan_widen(struct plan *plan, struct plan_tensor *planned);

/* Store a tensor as `target` says (its storage and type; what its values are stays); sums follow. */
void plan_set_target(struct plan *plan, struct plan_tensor *planned, const struct tensor *target);

#endif
