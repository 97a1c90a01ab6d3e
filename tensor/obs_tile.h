/* Private to the solver's files (obs*.c, polish*.c): what they know of a matrix, and a tile of its rows while it is worked on.
 *
 * "Place" counts columns in solving order. Columns are cut twice: a group shares a line (step and offset: a group of a scheme, a
 * sub-block of a block); a unit is what is fitted at once (the same group, or the whole block). Lines lie rows-contiguous, because the
 * loops over a column run over rows. */
#ifndef NIBBLE_TENSOR_OBS_TILE_H
#define NIBBLE_TENSOR_OBS_TILE_H

#include "tensor/block_parts.h"
#include "tensor/obs.h"

enum {
    OBS_STRIP = 32,      /* rows that go through a column together */
    OBS_BLOCK = 128,     /* columns between two products with the rest of the matrix */
    OBS_TILE_MOST = 256, /* rows of a task, a multiple of OBS_STRIP */
    OBS_LEVELS = 16      /* of a type whose levels are not evenly spaced */
};

/* Columns cut into parts of one size. */
struct obs_cut {
    uint64_t size, count;
    uint32_t *members; /* [count][size] the places of each, rising */
    uint8_t *together; /* [count] 1: its columns are consecutive in the order */
};

/* What holds for all rows. */
struct obs_plan {
    const struct obs_problem *problem;
    const struct obs_grids *grids;
    const struct block_form *form; /* NULL: a scheme */
    uint64_t cols, tile_rows;
    struct obs_cut groups, units;
    float top;                                     /* the largest code */
    uint32_t *order;                               /* [cols] place -> column */
    uint32_t *group_at;                            /* [cols] place -> group */
    float *importance;                             /* [cols] by place, or NULL */
    bool scattered;                                /* some group is not together */
    bool uneven;                                   /* levels come from a table: */
    float levels[OBS_LEVELS], middles[OBS_LEVELS]; /* and what lies between a level and the next */
};

/* One worker's scratch: a tile of rows. A value is step * level + offset, level = code - zero or that of the table. */
struct obs_tile {
    uint64_t row, rows;                          /* the first, how many */
    float *target;                               /* [rows][cols] by place */
    float *weights;                              /* [rows][cols] by place: current weights, then q - t */
    uint8_t *codes;                              /* [rows][cols] by place */
    float *step, *inverse, *zero, *offset;       /* [groups][tile_rows] */
    struct block_parts *parts;                   /* [rows][units] of blocks; their codes are set last */
    float *gradient;                             /* [rows][polish_width] */
    float *product[2], *direction[2];            /* [rows][polish_width] */
    float *errors;                               /* [rows][OBS_BLOCK] */
    float *column_weight, *column_error, *steps; /* [OBS_BLOCK][OBS_STRIP]; steps are levels */
    float *stays;        /* [OBS_BLOCK][OBS_STRIP] 0 where the mask is, else 1; of a problem with a mask */
    float *unit_weights; /* [OBS_STRIP][size of a unit] */
    float *ordered;      /* [OBS_STRIP][size of a unit] of blocks: in the order of the row */
    float *gathered;     /* [size of a group][cols] where groups may be scattered */
    double solved[OBS_TILE_MOST]; /* of every row, the sum of its squared column errors */
};

struct polish_segment;

/* What the kinds of grids do each in their way. */
struct obs_grids {
    /* Round the tile's target to nearest, into the result. ERR_NUMERIC: a weight does not fit. */
    enum status (*nearest)(const struct obs_plan *plan, const struct obs_tile *tile,
        struct obs_result *result, struct error *err);
    /* Lines and codes of one row of the tile, from the result and into it. */
    void (*load)(
        const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result);
    void (*store)(
        const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result);
    /* Find the lines of a whole unit, which is together, or those of one group within it, for rows [row, row + rows) of the tile.
     *   weights  [rows][size]  in, finite, by place; rows at most OBS_STRIP
     * Returns how many rows fit half precision before the first that does not. fit_group is for units of several groups. */
    uint64_t (*fit_unit)(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t rows,
        uint64_t unit, const float *weights);
    uint64_t (*fit_group)(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t rows,
        uint64_t group, const float *weights);
    /* Lower the error of all rows by other lines for the unit that starts at a column of the segment (polish.h); codes stay. True:
     * something changed. */
    bool (*refit_unit)(const struct polish_segment *segment, uint64_t unit, uint64_t at);
};

extern const struct obs_grids obs_scheme_grids, obs_block_grids;

/* The nearest whole number of steps within the grid: the rule of grid_encode (half to even, limits first), in a form that
 * compiles to vectors: adding 1.5 * 2^23 leaves no bits for a fraction. NaN becomes `least`. */
static inline float obs_nearest_step(float steps, float least, float greatest)
{
    steps = steps > least ? steps : least;
    steps = steps < greatest ? steps : greatest;
    return (steps + 12582912.0f) - 12582912.0f;
}

/* The nearest level for every row of a strip: steps [OBS_STRIP] in and out, zero [OBS_STRIP] of their group. */
static inline void obs_nearest_levels(
    const struct obs_plan *plan, float *restrict steps, const float *restrict zero)
{
    float top = plan->top;
    if (!plan->uneven) {
        for (uint64_t r = 0; r < OBS_STRIP; r++)
            steps[r] = obs_nearest_step(steps[r], -zero[r], top - zero[r]);
        return;
    }
    float levels[OBS_STRIP];
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        levels[r] = plan->levels[0];
    for (uint64_t i = 0; i + 1 < OBS_LEVELS; i++) {
        float above = plan->levels[i + 1], middle = plan->middles[i];
        for (uint64_t r = 0; r < OBS_STRIP; r++)
            levels[r] = steps[r] > middle ? above : levels[r];
    }
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        steps[r] = levels[r];
}

/* Between a code and its level. */
static inline float obs_level(const struct obs_plan *plan, uint8_t code, float zero)
{
    return plan->uneven ? plan->levels[code] : (float)code - zero;
}

static inline uint8_t obs_code(const struct obs_plan *plan, float level, float zero)
{
    uint8_t code = 0;
    if (!plan->uneven) return (uint8_t)(level + zero);
    while (plan->levels[code] < level)
        code++;
    return code;
}

/* The first place of a group or a unit. */
static inline uint64_t obs_first(const struct obs_cut *cut, uint64_t index)
{
    return cut->members[index * cut->size];
}

/* What the mask says of some rows of a tile and columns [begin, end), for the loops over a column; nothing without a mask. */
static inline void obs_load_stays(const struct obs_plan *plan, const struct obs_tile *tile, uint64_t row,
    uint64_t rows, uint64_t begin, uint64_t end)
{
    const uint8_t *mask = plan->problem->mask;
    for (uint64_t place = begin; mask && place < end; place++) {
        for (uint64_t r = 0; r < rows; r++)
            tile->stays[(place - begin) * OBS_STRIP + r] = mask[(tile->row + row + r) * plan->cols + place];
    }
}

/* Set to 0 what does not stay of a column of levels. */
static inline void obs_mask_levels(
    const struct obs_plan *plan, float *restrict steps, const float *restrict stays)
{
    if (!plan->problem->mask) return;
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        steps[r] *= stays[r];
}

/* The unit of a place. */
static inline uint64_t obs_unit_at(const struct obs_plan *plan, uint64_t place)
{
    return plan->order[place] / plan->units.size;
}

/* Where a row's line of a group lies in the tile. */
static inline uint64_t obs_line_at(const struct obs_plan *plan, uint64_t row, uint64_t group)
{
    return group * plan->tile_rows + row;
}

/* Set a group's line for one row of the tile. */
void obs_tile_set_line(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group,
    float step, float zero, float offset);

/* Blocks only: the parts of one row's unit, and the lines of a group or a whole unit from them. */
struct block_parts *obs_blocks_parts(
    const struct obs_plan *plan, const struct obs_tile *tile, uint64_t row, uint64_t unit);
void obs_blocks_set_line(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group);
void obs_blocks_set_lines(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t unit);

/* From target to codes, grids, q - t (in tile->weights) and tile->solved, column by column. Grids of groups that are not together must
 * be set. ERR_NUMERIC: a current weight is not finite, or its scale does not fit. */
enum status obs_solve(const struct obs_plan *plan, struct obs_tile *tile, struct error *err);

#endif
