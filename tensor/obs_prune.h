/* Optimal Brain Surgeon for pruning: SparseGPT (Frantar, Alistarh 2023, arXiv:2301.00774), and what improves on it.
 *
 * Per row, with target weights t, Hessian H (damped) and upper factor U (U^T U = H^-1): taking w_j away costs w_j^2 / U_jj^2 once the
 * columns after it have made up for it, w_k -= w_j / U_jj * U_jk (Algorithm 1). Columns are taken in blocks; which weights of a block go
 * is decided on their current values, over all rows and the columns of the block together, or for N:M when its first column is reached.
 *
 * Polishing afterwards, row by row: conjugate gradients, preconditioned by H's diagonal, towards the least (w - t) H (w - t)^T on the
 * weights that stay (with the support fixed this is a linear system; Meng et al. 2024, ALPS, arXiv:2406.07831, section 3.3), and in
 * between exchanges: a weight goes and another of its row (N:M: of its columns) comes, where the two together lower the error. */
#ifndef NIBBLE_TENSOR_OBS_PRUNE_H
#define NIBBLE_TENSOR_OBS_PRUNE_H

#include "tensor/sparsity.h"

/* One matrix. Columns stand in their order. */
struct prune_problem {
    uint64_t rows, cols;
    const float *target;       /* [rows][cols] finite */
    const float *damped;       /* [cols][cols] H + l */
    const float *factor;       /* [cols][cols] U */
    bool given;                /* the result's mask is there already: solve with it; no exchanges */
    struct sparsity_rule rule; /* else how it is chosen; by_row is not used */
    unsigned rounds;           /* of polishing: exchanges (unless given) and conjugate gradients; 0: none */
};

/* What comes out. The caller allocates both arrays. */
struct prune_solution {
    float *weights; /* [rows][cols] 0 where the mask is */
    uint8_t *mask;  /* [rows][cols] (tensor/sparsity.h) */
    /* Sums over rows, in double precision and in their order. */
    double power;        /* t H t^T */
    double error;        /* (w - t) H (w - t)^T of what is returned */
    double error_solved; /* before polishing */
    uint64_t exchanged;  /* weights that exchanges put in another's place */
};

/* Solve it. Work is cut into blocks of columns and strips of rows; the result depends on the problem only. A row that polishing does not
 * make better keeps what it had. ERR_NUMERIC: a target is not finite, or a weight ceases to be while solving (names row and
 * column); ERR_MEMORY. After an error the arrays of *solution hold anything. */
enum status obs_prune(const struct prune_problem *problem, struct prune_solution *solution, struct pool *pool,
    struct error *err);

/* Power and error of weights that are there already; of the problem rows, cols, target and damped count, of the solution weights and mask
 * go in. ERR_MEMORY. */
enum status obs_prune_measure(const struct prune_problem *problem, struct prune_solution *solution,
    struct pool *pool, struct error *err);

/* Scratch memory that it takes at most, for the plan of a run. */
uint64_t obs_prune_bytes(uint64_t rows, uint64_t cols, unsigned workers);

#endif
