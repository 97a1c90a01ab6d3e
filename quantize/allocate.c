/* See allocate.h. The file for people is in allocate_file.c. */
#include "quantize/allocate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/memory.h"

const uint32_t allocate_widths[ALLOCATE_WIDTHS] = {2, 3, 4, 5, 6, 8};

enum { PASSES = 8 }; /* of exchanges; rarely more than two change anything */

/* The corners of one matrix's lower convex hull, from the fewest bytes on: error falls, and falls ever more slowly. */
struct hull {
    uint8_t corners[ALLOCATE_WIDTHS]; /* indices of widths */
    uint8_t count;
};

/* Going from one width of a matrix to a larger one. */
struct step {
    double slope; /* error gained per byte */
    uint64_t matrix;
    uint8_t from, to; /* corners of the hull, or widths */
};

/* One allocation on its way. */
struct allocating {
    struct allocate_matrix *matrices;
    uint64_t count, left; /* left: of the budget */
    struct hull *hulls;   /* [count] */
    uint8_t *chosen;      /* [count], an index of widths */
    struct step *steps;   /* [count * (ALLOCATE_WIDTHS - 1)] */
    uint64_t step_count;
};

/* ---- one matrix ---- */

static double slope(const struct allocate_matrix *matrix, uint8_t from, uint8_t to)
{
    return (matrix->error[from] - matrix->error[to]) / (double)(matrix->bytes[to] - matrix->bytes[from]);
}

/* Fewer bytes first; of equal ones the smaller error, then fewer bits. */
static bool precedes(const struct allocate_matrix *matrix, uint8_t a, uint8_t b)
{
    if (matrix->bytes[a] != matrix->bytes[b]) return matrix->bytes[a] < matrix->bytes[b];
    if (matrix->error[a] < matrix->error[b]) return true;
    return !(matrix->error[b] < matrix->error[a]) && a < b;
}

static void sort_widths(uint8_t order[ALLOCATE_WIDTHS], const struct allocate_matrix *matrix)
{
    for (uint8_t i = 0; i < ALLOCATE_WIDTHS; i++) {
        uint8_t at = i;
        for (; at > 0 && precedes(matrix, i, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

/* Andrew's monotone chain. Slopes are compared as they are computed, in the same way as the steps are sorted later, so
 * that rounding can never put a matrix's second step before its first. */
static void build_hull(struct hull *hull, const struct allocate_matrix *matrix)
{
    uint8_t order[ALLOCATE_WIDTHS], *corners = hull->corners;

    sort_widths(order, matrix);
    corners[0] = order[0];
    hull->count = 1;
    for (unsigned i = 1; i < ALLOCATE_WIDTHS; i++) {
        const uint8_t next = order[i];
        if (matrix->error[next] >= matrix->error[corners[hull->count - 1]]) continue;
        while (hull->count > 1 && slope(matrix, corners[hull->count - 1], next) >
                                      slope(matrix, corners[hull->count - 2], corners[hull->count - 1]))
            hull->count--;
        corners[hull->count++] = next;
    }
}

static enum status check_matrix(const struct allocate_matrix *matrix, struct error *err)
{
    for (unsigned i = 0; i < ALLOCATE_WIDTHS; i++) {
        if (isfinite(matrix->error[i]) && matrix->error[i] >= 0) continue;
        return fail(err, ERR_NUMERIC, "%s: the error at %" PRIu32 " bits is %g", matrix->name,
            allocate_widths[i], matrix->error[i]);
    }
    return OK;
}

/* ---- all of them ---- */

/* The steepest first; of equally steep ones the earlier matrix, and its steps in order. */
static int compare_steps(const void *left, const void *right)
{
    const struct step *a = left, *b = right;

    if (a->slope > b->slope) return -1;
    if (a->slope < b->slope) return 1;
    if (a->matrix != b->matrix) return a->matrix < b->matrix ? -1 : 1;
    return (a->to > b->to) - (a->to < b->to);
}

/* Go to a larger width if there is budget for it. */
static void go_to(struct allocating *all, uint64_t index, uint8_t width)
{
    const struct allocate_matrix *matrix = &all->matrices[index];
    const uint64_t more = matrix->bytes[width] - matrix->bytes[all->chosen[index]];

    if (more > all->left) return;
    all->left -= more;
    all->chosen[index] = width;
}

/* Every matrix at its fewest bytes. */
static enum status begin_least(struct allocating *all, uint64_t budget, struct error *err)
{
    uint64_t least = 0;

    for (uint64_t i = 0; i < all->count; i++) {
        const struct allocate_matrix *matrix = &all->matrices[i];
        enum status status = check_matrix(matrix, err);
        if (status) return status;
        build_hull(&all->hulls[i], matrix);
        all->chosen[i] = all->hulls[i].corners[0];
        if (checked_add(&least, least, matrix->bytes[all->chosen[i]]))
            return fail(
                err, ERR_USAGE, "%s: the least widths up to here take more than 2^64 bytes", matrix->name);
    }
    if (least > budget) {
        return fail(err, ERR_USAGE,
            "a budget of %" PRIu64 " bytes is too small for %" PRIu64
            " matrices: at the least widths they take %" PRIu64 " bytes",
            budget, all->count, least);
    }
    all->left = budget - least;
    return OK;
}

/* Along the hulls by falling slope: up to the first step that does not fit this is the multiplier's choice, which is the
 * best one for what it takes; what follows uses the rest for smaller steps. */
static void walk_hulls(struct allocating *all)
{
    all->step_count = 0;
    for (uint64_t i = 0; i < all->count; i++) {
        const struct hull *hull = &all->hulls[i];
        for (uint8_t k = 1; k < hull->count; k++) {
            all->steps[all->step_count++] =
                (struct step){slope(&all->matrices[i], hull->corners[k - 1], hull->corners[k]), i, k - 1, k};
        }
    }
    qsort(all->steps, all->step_count, sizeof *all->steps, compare_steps);
    for (uint64_t i = 0; i < all->step_count; i++) {
        const struct step *step = &all->steps[i];
        const struct hull *hull = &all->hulls[step->matrix];
        /* A step after one that did not fit has no place to start from. */
        if (all->chosen[step->matrix] == hull->corners[step->from])
            go_to(all, step->matrix, hull->corners[step->to]);
    }
}

/* Then any width that still fits and helps, on the hull or not. One pass leaves nothing that fits: a step that did not fit
 * once becomes shorter only by what is taken from the budget too. */
static void fill(struct allocating *all)
{
    all->step_count = 0;
    for (uint64_t i = 0; i < all->count; i++) {
        const struct allocate_matrix *matrix = &all->matrices[i];
        const uint8_t at = all->chosen[i];
        for (uint8_t to = 0; to < ALLOCATE_WIDTHS; to++) {
            if (matrix->bytes[to] > matrix->bytes[at] && matrix->error[to] < matrix->error[at])
                all->steps[all->step_count++] = (struct step){slope(matrix, at, to), i, at, to};
        }
    }
    qsort(all->steps, all->step_count, sizeof *all->steps, compare_steps);
    for (uint64_t i = 0; i < all->step_count; i++) {
        const struct step *step = &all->steps[i];
        const struct allocate_matrix *matrix = &all->matrices[step->matrix];
        const uint8_t at = all->chosen[step->matrix];
        if (matrix->bytes[step->to] > matrix->bytes[at] && matrix->error[step->to] < matrix->error[at])
            go_to(all, step->matrix, step->to);
    }
}

/* The best raise of another matrix that `bytes` pay for: what it gains, or 0. */
static double best_raise(
    const struct allocating *all, uint64_t except, uint64_t bytes, uint64_t *matrix, uint8_t *width)
{
    double best = 0;

    for (uint64_t i = 0; i < all->count; i++) {
        const struct allocate_matrix *candidate = &all->matrices[i];
        const uint8_t at = all->chosen[i];
        for (uint8_t to = 0; to < ALLOCATE_WIDTHS && i != except; to++) {
            const double gain = candidate->error[at] - candidate->error[to];
            if (gain <= best || candidate->bytes[to] > candidate->bytes[at] + bytes) continue;
            best = gain;
            *matrix = i;
            *width = to;
        }
    }
    return best;
}

/* Lower one matrix if what that frees is worth more elsewhere. */
static bool exchange(struct allocating *all, uint64_t index)
{
    const struct allocate_matrix *matrix = &all->matrices[index];
    const uint8_t at = all->chosen[index];
    double best = 0;
    uint64_t raised = 0, other = 0;
    uint8_t lowered = at, raised_to = 0, to = 0;

    for (uint8_t from = 0; from < ALLOCATE_WIDTHS; from++) {
        if (matrix->bytes[from] >= matrix->bytes[at]) continue;
        const double loss = matrix->error[from] - matrix->error[at];
        const double gain =
            best_raise(all, index, all->left + matrix->bytes[at] - matrix->bytes[from], &other, &to) - loss;
        if (gain <= best || gain + loss <= 0) continue;
        best = gain;
        lowered = from;
        raised = other;
        raised_to = to;
    }
    if (lowered == at) return false;
    all->left += matrix->bytes[at] - matrix->bytes[lowered];
    all->chosen[index] = lowered;
    go_to(all, raised, raised_to);
    return true;
}

static void exchange_all(struct allocating *all)
{
    bool changed = true;

    for (unsigned pass = 0; pass < PASSES && changed; pass++) {
        changed = false;
        for (uint64_t i = 0; i < all->count; i++)
            changed |= exchange(all, i);
    }
    fill(all);
}

static void store_choice(const struct allocating *all)
{
    double sum = 0;

    for (uint64_t i = 0; i < all->count; i++)
        sum += all->matrices[i].error[ALLOCATE_PROBED];
    for (uint64_t i = 0; i < all->count; i++) {
        struct allocate_matrix *matrix = &all->matrices[i];
        matrix->bits = allocate_widths[all->chosen[i]];
        matrix->importance = sum > 0 ? matrix->error[ALLOCATE_PROBED] / sum : 0;
    }
}

enum status allocate_choose(struct allocate_matrix *matrices, uint64_t count, uint64_t budget_bytes,
    uint64_t *bytes, struct error *err)
{
    struct allocating all = {.matrices = matrices, .count = count};
    enum status status = ERR_MEMORY;

    all.hulls = memory_new(count, sizeof *all.hulls, err);
    all.chosen = all.hulls ? memory_new(count, sizeof *all.chosen, err) : NULL;
    all.steps = all.chosen ? memory_new(count, (ALLOCATE_WIDTHS - 1) * sizeof *all.steps, err) : NULL;
    if (!all.steps) goto done;
    status = begin_least(&all, budget_bytes, err);
    if (status) goto done;
    walk_hulls(&all);
    fill(&all);
    exchange_all(&all);
    store_choice(&all);
    *bytes = budget_bytes - all.left;
done:
    memory_free(all.hulls);
    memory_free(all.chosen);
    memory_free(all.steps);
    return status;
}
