/* The exponential function in a form that compilers turn into vector code: no branches, no calls, no tables. */
#ifndef NIBBLE_MODEL_BACKENDS_FAST_EXP_H
#define NIBBLE_MODEL_BACKENDS_FAST_EXP_H

#include <stdint.h>
#include <string.h>

/* e^x within 2 units in the last place; x is clamped to -87 .. 88 (results stay normal numbers); NaN stays NaN.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite's reduction: ln 2 in two parts, the first with few enough bits that
 * n times it is exact); e^r by the polynomial of Cephes' expf; 2^n is put together from its bits. */
static inline float fast_exp(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    float clamped = x > 88.0f ? 88.0f : x, n, r, power, shifted;
    uint32_t bits;

    clamped = clamped < -87.0f ? -87.0f : clamped;
    shifted = clamped * 1.44269504088896341f + round;
    n = shifted - round;
    r = clamped - n * 0.693359375f - n * -2.12194440e-4f;
    power = 1.9875691500e-4f;
    power = power * r + 1.3981999507e-3f;
    power = power * r + 8.3334519073e-3f;
    power = power * r + 4.1665795894e-2f;
    power = power * r + 1.6666665459e-1f;
    power = power * r + 5.0000001201e-1f;
    power = power * r * r + r + 1.0f;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23; /* the low bits of `shifted` are n in two's complement */
    memcpy(&n, &bits, sizeof n);
    return power * n;
}

#endif
