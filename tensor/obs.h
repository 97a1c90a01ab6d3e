/* Optimal Brain Surgeon, column by column: the solver of GPTQ (and of sparse quantization). One weight matrix is
 * quantized so that its output changes least, in the norm that a Hessian defines (tensor/hessian.h).
 *
 * Per row, with target weights t, Hessian H (damped) and upper factor U (U^T U = H^-1): for every column j in turn, round the
 * current weight, and take its error out of the columns to come: w_k -= (w_j - q_j) / U_jj * U_jk (Frantar et al. 2022,
 * arXiv:2210.17323, Algorithm 1 and section 3.3). The error that counts is (q - t) H (q - t)^T. */
#ifndef NIBBLE_TENSOR_OBS_H
#define NIBBLE_TENSOR_OBS_H

#include "base/error.h"
#include "base/threads.h"
#include "tensor/blocks.h"
#include "tensor/grid.h"

/* In which order columns are rounded. */
enum obs_order {
    OBS_ORDER_NONE, /* as they stand */
    OBS_ORDER_STATIC, /* by falling diagonal; grids are fixed beforehand, so nothing is stored for it (static groups) */
    OBS_ORDER_GROUP_AWARE /* groups by their largest diagonal, columns within a group by falling diagonal: groups stay
                             together, and their grids are found on the current weights */
};

enum { OBS_NESTED_MOST = 3 };

/* Fill order [cols] (place -> column) for a diagonal [cols]; ties keep the lower column first.
 *   nested  [levels]  in, columns per group, and of the groups within it: each divides the one before, the first divides cols.
 *                     levels is at most OBS_NESTED_MOST; one for a scheme, two for blocks with sub-blocks */
enum status obs_order(uint32_t *order, enum obs_order kind, const double *diagonal, uint64_t cols,
    const uint64_t *nested, unsigned levels, struct error *err);

/* One matrix. All arrays over columns stand in solving order: place j is column order[j].
 *
 * It is quantized either by a scheme or into blocks. A block's parameters are found together on the current weights of all its
 * columns when the first is reached, and then, with d and m as they are, the scale and minimum of each sub-block once more when its
 * own first column is reached (where these columns are consecutive in the order; else on the target, before anything is rounded). */
struct obs_problem {
    uint64_t rows, cols;
    struct scheme scheme; /* without a block type */
    enum block_type
        block; /* with a form (tensor/block_parts.h), and its weights divide cols; BLOCK_NONE: the scheme */
    const float *target;   /* [rows][cols] in NATURAL order; finite */
    const float *damped;   /* [cols][cols] H + l, solving order */
    const float *factor;   /* [cols][cols] U, solving order; NULL: do not solve, only round to nearest */
    const uint32_t *order; /* [cols], or NULL: natural */
    enum grid_range range; /* of a scheme; blocks are always searched */
    /* [cols] weights of the range search and of fitting blocks, NATURAL order, or NULL: none (GRID_MSE unweighted) */
    const float *importance;
    bool safeguard; /* also round the target to nearest, and keep per row whichever errs less */
    /* Most rounds of polishing: refit of scales and zero-points, coordinate descent over codes. A row that it does not
     * make better keeps what it had. 0: none. */
    unsigned sweeps;
    /* [rows][cols] in NATURAL order, 1: stays, 0: pruned, its value will be 0 (tensor/sparsity.h); or NULL: all stay. Grids, rounding and
     * polishing then look at what stays alone. Symmetric schemes only, with a factor, in natural order, without safeguard. */
    const uint8_t *mask;
    bool without_power; /* leave result->power 0: it takes as long as the products of the solver */
};

/* What came out; all in natural order. The caller allocates codes, scales and (asymmetric) zeros, or blocks. */
struct obs_result {
    uint8_t *codes;   /* [rows][cols] */
    uint16_t *scales; /* [rows][groups] half precision bits */
    uint8_t *zeros;   /* [rows][groups]; NULL if symmetric */
    uint8_t *blocks;  /* [rows][cols / weights of a block] blocks, as they are stored */
    /* Sums over rows, in double precision and in the order of rows. */
    double power; /* t H t^T */
    /* (q - t) H (q - t)^T of what is returned. Measured on H, so that a bad factor cannot hide; but solved with neither
     * safeguard nor sweeps, it is the sum of ((w_j - q_j) / U_jj)^2, the same number if U^T U = H^-1. */
    double error;
    /* The same of rounding the target to nearest with the same range search; only with safeguard or without factor,
     * else 0. */
    double error_nearest;
    double error_solved;   /* the same of the column-by-column solution as it was; without factor 0 */
    uint64_t rows_nearest; /* rows where rounding to nearest was better and kept (polished all the same) */
};

/* Solve it. Work is cut into tiles of rows; the result depends on the problem only. Grids of groups whose columns are
 * consecutive in the order are found on the current weights when their first column is reached; those of other groups
 * on the target, before anything is rounded. A group's grid is fitted by tensor/grid.h, a block by tensor/block_fit.h.
 * ERR_NUMERIC: a target is not finite, a current weight ceases to be, or a scale does not fit half precision (names row
 * and column); ERR_MEMORY. After an error, and before the end, the arrays of *result hold anything. */
enum status obs_quantize(
    const struct obs_problem *problem, struct obs_result *result, struct pool *pool, struct error *err);

/* Scratch memory that obs_quantize takes at most, for the plan of a run; 40 bytes for every row come on top. group: of a scheme; not
 * used with a block type. */
uint64_t obs_bytes(uint64_t cols, uint64_t group, enum block_type block, unsigned workers);

#endif
