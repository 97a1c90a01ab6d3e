/* The order of columns: one sort, by the largest diagonal of every group a column is in, from coarse groups to fine, then by its own. */
#include <stdlib.h>

#include "base/memory.h"
#include "tensor/obs.h"

/* A column; level 0 is its coarsest group, and the last one the column itself. */
struct entry {
    double keys[OBS_NESTED_MOST + 1];
    uint32_t members[OBS_NESTED_MOST + 1];
};

static int compare_level(const struct entry *a, const struct entry *b, unsigned level)
{
    if (a->keys[level] != b->keys[level]) return a->keys[level] < b->keys[level] ? 1 : -1;
    return (a->members[level] > b->members[level]) - (a->members[level] < b->members[level]);
}

static int compare_entries(const void *left, const void *right)
{
    int result = 0;
    for (unsigned level = 0; result == 0 && level <= OBS_NESTED_MOST; level++)
        result = compare_level(left, right, level);
    return result;
}

static double largest_of(const double *values, uint64_t count)
{
    double largest = values[0];
    for (uint64_t i = 1; i < count; i++)
        largest = values[i] > largest ? values[i] : largest;
    return largest;
}

/* What a column is sorted by at one level of nesting. */
static void set_level(
    struct entry *entries, unsigned level, const double *diagonal, uint64_t cols, uint64_t group)
{
    for (uint64_t j = 0; j < cols; j++) {
        entries[j].members[level] = (uint32_t)(j / group);
        entries[j].keys[level] = j % group ? entries[j - 1].keys[level] : largest_of(diagonal + j, group);
    }
}

enum status obs_order(uint32_t *order, enum obs_order kind, const double *diagonal, uint64_t cols,
    const uint64_t *nested, unsigned levels, struct error *err)
{
    struct entry *entries = memory_new(cols, sizeof *entries, err);
    if (!entries) return ERR_MEMORY;
    set_level(entries, OBS_NESTED_MOST, diagonal, cols, 1);
    for (unsigned level = 0; level < levels && kind == OBS_ORDER_GROUP_AWARE; level++)
        set_level(entries, level, diagonal, cols, nested[level]);
    if (kind != OBS_ORDER_NONE) qsort(entries, cols, sizeof *entries, compare_entries);
    for (uint64_t j = 0; j < cols; j++)
        order[j] = entries[j].members[OBS_NESTED_MOST];
    memory_free(entries);
    return OK;
}
