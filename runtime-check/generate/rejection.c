/* See rejection.h. */
#include "runtime-check/generate/rejection.h"

#include <math.h>

#include "model/sampling.h"

/* The first of the highest logits; false if one is NaN or +infinity, or none is finite. */
static bool find_highest(uint64_t *out, const float *logits, uint64_t vocabulary)
{
    *out = 0;
    for (uint64_t i = 0; i < vocabulary; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return false;
        if (logits[i] > logits[*out]) *out = i;
    }
    return vocabulary > 0 && isfinite(logits[*out]);
}

bool rejection_probabilities(double *out, const float *logits, uint64_t vocabulary, double temperature)
{
    uint64_t highest;
    double sum = 0;
    if (!find_highest(&highest, logits, vocabulary)) return false;
    for (uint64_t i = 0; i < vocabulary; i++) {
        if (temperature > 0)
            out[i] = exp(((double)logits[i] - (double)logits[highest]) / temperature);
        else
            out[i] = i == highest;
        sum += out[i];
    }
    for (uint64_t i = 0; i < vocabulary; i++)
        out[i] /= sum;
    return true;
}

uint32_t rejection_draw(const double *weights, uint64_t vocabulary, uint64_t *random)
{
    double sum = 0;
    uint64_t last = 0;
    for (uint64_t i = 0; i < vocabulary; i++)
        sum += weights[i];
    double aim = sampling_uniform(random) * sum;
    for (uint64_t i = 0; i < vocabulary; i++) {
        if (weights[i] <= 0) continue;
        last = i;
        if ((aim -= weights[i]) < 0) break;
    }
    return (uint32_t)last;
}

bool rejection_judge(uint32_t *token, double *p, const double *q, uint64_t vocabulary, uint64_t *random)
{
    double rest = 0;
    if (sampling_uniform(random) * q[*token] < p[*token]) return true;
    for (uint64_t i = 0; i < vocabulary; i++)
        rest += fmax(0, p[i] - q[i]);
    for (uint64_t i = 0; i < vocabulary && rest > 0; i++) /* 0 only by rounding: the rows are the same */
        p[i] = fmax(0, p[i] - q[i]);
    *token = rejection_draw(p, vocabulary, random);
    return false;
}

double rejection_expected(double acceptance, uint64_t lookahead)
{
    double sum = 1, power = 1;
    for (uint64_t i = 0; i < lookahead; i++)
        sum += power *= acceptance;
    return sum;
}
