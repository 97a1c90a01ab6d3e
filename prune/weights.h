/* Pruning single weights: matrices of the decoder layers keep their shapes and get zeros. Layer by layer into a journal
 * (model/layerwise/layerwise.h), with a calibration text each stage on the inputs that it will really see; then all tensors into the output,
 * whatever its format. */
#ifndef NIBBLE_PRUNE_WEIGHTS_H
#define NIBBLE_PRUNE_WEIGHTS_H

#include "model/layerwise/layerwise.h"
#include "prune/prune.h"
#include "tensor/sparsity.h"

/* The method of the run. Errors as prune_run. */
enum status weights_run(struct prune_job *job, struct error *err);

/* ---- what its steps work with ---- */

/* Where the weights of a matrix aim, beside staying what they are. */
struct weights_aim {
    bool
        inputs; /* at the original network's outputs, although its inputs carry the error of the layers before */
    bool residual; /* and at what is missing in the residual stream */
};

struct weights {
    struct prune_job *job;
    struct prune_tensor *(*layer)[ROLE_COUNT]; /* [layers]; NULL: not pruned */
    struct weights_aim aim;
    double damping;
    unsigned rounds; /* of polishing */
    bool nbl;        /* the output is a .nbl file */
    bool sparse;     /* matrices are stored sparse where that is smaller */
    double *shares;  /* [layers] of the weights that go */
    struct calibration calibration;
    struct walk *walk;
    struct journal *journal;
    bool in_memory; /* hidden states */
};

/* Where a matrix meets its inputs, and which matrices of the layer do at a stage: fills members, returns how many. */
enum { WEIGHTS_MEMBERS = 3 };
unsigned weights_members(const struct weights *work, uint32_t layer, enum stage stage,
    struct prune_tensor *members[WEIGHTS_MEMBERS]);

/* The rule for a matrix. */
struct sparsity_rule weights_rule(const struct weights *work, const struct prune_tensor *matrix);

#endif
