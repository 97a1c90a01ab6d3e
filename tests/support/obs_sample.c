/* See obs_sample.h. */
#include "tests/support/obs_sample.h"

#include <math.h>
#include <string.h>

#include "tests/support/testing.h"

/* Inputs are mixtures of fewer sources, with one channel `outlier` times as loud as the others. */
static void make_hessian(struct obs_sample *sample, uint64_t cols, float outlier, uint64_t *state)
{
    enum { SOURCES = 24, TOKENS = 96 };
    static float mixing[SOURCES * OBS_SAMPLE_COLS], x[OBS_SAMPLE_COLS];
    double trace = 0;
    for (uint64_t i = 0; i < SOURCES * cols; i++)
        mixing[i] = testing_normal(state);
    memset(sample->hessian, 0, sizeof sample->hessian);
    for (uint64_t token = 0; token < TOKENS; token++) {
        float source[SOURCES];
        for (uint64_t s = 0; s < SOURCES; s++)
            source[s] = testing_normal(state);
        for (uint64_t j = 0; j < cols; j++) {
            x[j] = testing_normal(state);
            for (uint64_t s = 0; s < SOURCES; s++)
                x[j] += 0.4f * source[s] * mixing[s * cols + j];
            if (j == cols / 3) x[j] *= outlier;
        }
        for (uint64_t j = 0; j < cols; j++) {
            for (uint64_t k = 0; k < cols; k++)
                sample->hessian[j * cols + k] += (double)x[j] * x[k] / TOKENS;
        }
    }
    for (uint64_t j = 0; j < cols; j++)
        trace += sample->hessian[j * cols + j];
    for (uint64_t j = 0; j < cols; j++)
        sample->hessian[j * cols + j] += 0.01 * trace / (double)cols;
}

/* H = R R^T with R upper, from the last column to the first; U = R^-1. */
static void factorize(double *u, const double *h, uint64_t n)
{
    static double r[OBS_SAMPLE_COLS * OBS_SAMPLE_COLS];
    memset(r, 0, sizeof r);
    memset(u, 0, n * n * sizeof *u);
    for (uint64_t j = n; j-- > 0;) {
        for (uint64_t i = j + 1; i-- > 0;) {
            double sum = h[i * n + j];
            for (uint64_t k = j + 1; k < n; k++)
                sum -= r[i * n + k] * r[j * n + k];
            r[i * n + j] = i == j ? sqrt(sum) : sum / r[j * n + j];
        }
    }
    for (uint64_t j = 0; j < n; j++) {
        u[j * n + j] = 1 / r[j * n + j];
        for (uint64_t i = j; i-- > 0;) {
            double sum = 0;
            for (uint64_t k = i + 1; k <= j; k++)
                sum -= r[i * n + k] * u[k * n + j];
            u[i * n + j] = sum / r[i * n + i];
        }
    }
}

void obs_sample_place(struct obs_sample *sample, enum obs_order kind)
{
    uint64_t cols = sample->shape.cols;
    uint64_t nested[2] = {sample->block ? sample->block : sample->shape.group, sample->shape.group};
    static double diagonal[OBS_SAMPLE_COLS];
    for (uint64_t j = 0; j < cols; j++)
        diagonal[j] = sample->hessian[j * cols + j];
    REQUIRE(obs_order(sample->order, kind, diagonal, cols, nested, sample->block ? 2 : 1, NULL) == OK, NULL);
    for (uint64_t j = 0; j < cols; j++) {
        for (uint64_t k = 0; k < cols; k++)
            sample->damped_exact[j * cols + k] = sample->hessian[sample->order[j] * cols + sample->order[k]];
    }
    factorize(sample->factor_exact, sample->damped_exact, cols);
    for (uint64_t i = 0; i < cols * cols; i++) {
        sample->damped[i] = (float)sample->damped_exact[i];
        sample->factor[i] = (float)sample->factor_exact[i];
    }
}

void obs_sample_make(
    struct obs_sample *sample, struct obs_shape shape, float outlier, enum obs_order kind, uint64_t seed)
{
    uint64_t state = seed;
    sample->shape = shape;
    for (uint64_t i = 0; i < shape.rows * shape.cols; i++)
        sample->target[i] = testing_normal(&state) * 0.05f;
    make_hessian(sample, shape.cols, outlier, &state);
    for (uint64_t j = 0; j < shape.cols; j++)
        sample->importance[j] = (float)sample->hessian[j * shape.cols + j];
    obs_sample_place(sample, kind);
}

double obs_sample_error(const struct obs_sample *sample, const double *off)
{
    uint64_t cols = sample->shape.cols;
    double sum = 0;
    for (uint64_t j = 0; j < cols; j++) {
        double product = 0;
        for (uint64_t k = 0; k < cols; k++)
            product += sample->hessian[j * cols + k] * off[k];
        sum += off[j] * product;
    }
    return sum;
}
