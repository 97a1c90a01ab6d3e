/* Problems for the solver (tensor/obs.h): a random matrix, a Hessian, and both as the solver wants them. */
#ifndef NIBBLE_TESTS_SUPPORT_OBS_SAMPLE_H
#define NIBBLE_TESTS_SUPPORT_OBS_SAMPLE_H

#include "tensor/obs.h"

enum { OBS_SAMPLE_ROWS = 130, OBS_SAMPLE_COLS = 512 };

struct obs_shape {
    uint64_t rows, cols, group;
};

struct obs_sample {
    struct obs_shape shape;
    uint64_t block; /* columns of a block whose sub-blocks are the groups; 0: there is none */
    float target[OBS_SAMPLE_ROWS * OBS_SAMPLE_COLS], importance[OBS_SAMPLE_COLS];
    double hessian[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS]; /* natural order, with the ridge */
    /* The rest in solving order. */
    double damped_exact[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS], factor_exact[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS];
    float damped[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS], factor[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS];
    uint32_t order[OBS_SAMPLE_COLS];
};

/* Fill *sample but for `block`, which stays as it is; of its inputs one channel is `outlier` times as loud as the others. Ends the program on failure. */
void obs_sample_make(
    struct obs_sample *sample, struct obs_shape shape, float outlier, enum obs_order kind, uint64_t seed);

/* Put the Hessian in solving order and factor it, again after it was changed. */
void obs_sample_place(struct obs_sample *sample, enum obs_order kind);

/* off H off^T; off [cols] in natural order. */
double obs_sample_error(const struct obs_sample *sample, const double *off);

#endif
