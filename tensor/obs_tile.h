/* Private to obs.c, obs_solve.c and polish.c: what they know of a matrix, and a tile of its rows while it is worked on.
 *
 * "Place" counts columns in solving order. Grids lie rows-contiguous, because the loops over a column run over rows. */
#ifndef NIBBLE_TENSOR_OBS_TILE_H
#define NIBBLE_TENSOR_OBS_TILE_H

#include "tensor/obs.h"

enum {
    OBS_STRIP = 32,     /* rows that go through a column together */
    OBS_BLOCK = 128,    /* columns between two products with the rest of the matrix */
    OBS_TILE_MOST = 256 /* rows of a task, a multiple of OBS_STRIP */
};

/* What holds for all rows. */
struct obs_plan {
    const struct obs_problem *problem;
    uint64_t cols, group, groups, tile_rows;
    float top;          /* the largest code */
    uint32_t *order;    /* [cols] place -> column */
    uint32_t *group_at; /* [cols] place -> group */
    uint32_t *members;  /* [groups][group] the places of each, rising */
    uint8_t *together;  /* [groups] 1: its columns are consecutive in the order */
    float *importance;  /* [cols] by place, or NULL */
    bool scattered;     /* some group is not together */
};

/* One worker's scratch: a tile of rows. */
struct obs_tile {
    uint64_t row, rows;                          /* the first, how many */
    float *target;                               /* [rows][cols] by place */
    float *weights;                              /* [rows][cols] by place: current weights, then q - t */
    uint8_t *codes;                              /* [rows][cols] by place */
    float *scale, *inverse, *zero;               /* [groups][tile_rows] */
    float *gradient, *product, *direction;       /* [rows][polish_width] */
    float *errors;                               /* [rows][OBS_BLOCK] */
    float *column_weight, *column_error, *steps; /* [OBS_BLOCK][OBS_STRIP] */
    float *one_group;                            /* [group] */
    float *gathered;                             /* [group][cols] where groups may be scattered */
    double solved[OBS_TILE_MOST];                /* of every row, the sum of its squared column errors */
};

/* The nearest whole number of steps within the grid: the rule of grid_encode (half to even, limits first), in a form that
 * compiles to vectors: adding 1.5 * 2^23 leaves no bits for a fraction. NaN becomes `least`. */
static inline float obs_nearest_step(float steps, float least, float greatest)
{
    steps = steps > least ? steps : least;
    steps = steps < greatest ? steps : greatest;
    return (steps + 12582912.0f) - 12582912.0f;
}

/* The first place of a group. */
static inline uint64_t obs_first(const struct obs_plan *plan, uint64_t group)
{
    return plan->members[group * plan->group];
}

/* Set a group's grid for one row of the tile. */
void obs_tile_set_grid(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group,
    float scale, float zero);

/* From target to codes, grids, q - t (in tile->weights) and tile->solved, column by column. Grids of groups that are not together must
 * be set. ERR_NUMERIC: a current weight is not finite, or its scale does not fit. */
enum status obs_solve(const struct obs_plan *plan, struct obs_tile *tile, struct error *err);

#endif
