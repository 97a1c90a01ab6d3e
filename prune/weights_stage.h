/* One stage of a decoder layer: observe its inputs, prune its matrices, put the pruned ones in their places. */
#ifndef NIBBLE_PRUNE_WEIGHTS_STAGE_H
#define NIBBLE_PRUNE_WEIGHTS_STAGE_H

#include "prune/weights.h"

/* Go to the stage and prune the matrices of the plan; outcomes go into the plan. ERR_NUMERIC: an activation or weight is not finite;
 * the Hessian cannot be factored. */
enum status weights_stage(struct weights *work, struct layer *layer, enum stage stage, struct error *err);

/* The same without inputs: all matrices of a layer, for a method without calibration. */
enum status weights_layer(struct weights *work, struct layer *layer, struct error *err);

/* Memory that the matrices of a stage take at most while they are pruned, for the plan of a run. */
uint64_t weights_stage_bytes(const struct weights *work, uint32_t layer, enum stage stage);

#endif
