/* What every width would cost each matrix, in divergence of the model's predictions: the measurement behind a budget. */
#ifndef NIBBLE_QUANTIZE_COST_H
#define NIBBLE_QUANTIZE_COST_H

#include "model/probes.h"
#include "quantize/allocate.h"
#include "quantize/calibrated.h"

/* The matrices to choose for, in the plan's order. */
struct cost_table {
    struct allocate_matrix *matrices; /* [count] */
    struct plan_tensor **planned;     /* [count] */
    uint64_t count;
};

/* Fill in the errors of all matrices. For each, alone in a network that is otherwise the original: the Kullback-Leibler divergence of
 * its predictions when the matrix has 3 bits, measured (model/probes.h), times how much more or less the matrix's own output errs
 * at other widths than at 3 bits, by the Hessian of its inputs. Walks once through the original model; work->walk is used and NULL
 * again afterwards.
 *   in_memory, folder  where states lie, as in walk_options */
enum status cost_measure(
    struct calibrated *work, struct cost_table *table, bool in_memory, const char *folder, struct error *err);

/* How that probes so many matrices (states: not settled): as many samples as take about as long as the walk, but at least 1024
 * tokens. */
struct probes_options cost_probing(const struct calibrated *work, uint64_t matrices);

#endif
