/* See axis.h. */
#include "runtime-check/page/axis.h"

#include <math.h>

/* So many ticks are enough to read an axis by. */
enum { TICKS_WANTED = 4, DECADES_MOST = 9 };

/* Axes end here; what lies beyond is drawn at their ends. */
static const double VALUE_LEAST = 1e-12, VALUE_MOST = 1e20;

double axis_at(const struct axis *axis, double value)
{
    double share;
    if (axis->logarithmic && axis->zero && value < axis->low)
        return axis->at_zero + (axis->at_low - axis->at_zero) * (value > 0 ? value / axis->low : 0);
    if (value <= axis->low) return axis->at_low;
    if (value >= axis->high) return axis->at_high;
    if (axis->logarithmic)
        share = log(value / axis->low) / log(axis->high / axis->low);
    else
        share = (value - axis->low) / (axis->high - axis->low);
    return axis->at_low + share * (axis->at_high - axis->at_low);
}

/* mantissa * 10^exponent, as the decimal number is rounded: 3e-7 and not 3 * 1e-7. */
static double decimal(double mantissa, int exponent)
{
    return exponent < 0 ? mantissa / pow(10, -exponent) : mantissa * pow(10, exponent);
}

/* The nearest of 1, 2, 5 times a power of ten at or below (above) a value. */
static double round_value(double value, bool up)
{
    static const double mantissas[] = {1, 2, 5, 10};
    const int exponent = (int)floor(log10(value));
    double best = decimal(up ? 10 : 1, exponent);
    for (int i = 0; i < 4; i++) {
        const double candidate = decimal(mantissas[i], exponent);
        if (up ? candidate >= value && candidate < best : candidate <= value && candidate > best)
            best = candidate;
    }
    return best;
}

void axis_fit(struct axis *axis, double least, double most)
{
    axis->low = round_value(fmin(fmax(least, VALUE_LEAST), VALUE_MOST) / 1.3, false);
    axis->high = round_value(fmin(fmax(most, VALUE_LEAST), VALUE_MOST) * 1.3, true);
}

/* Ticks of a logarithmic axis at some mantissas of every decade. */
static uint64_t decade_ticks(const struct axis *axis, const double *mantissas, int count, double *out)
{
    const int first = (int)floor(log10(axis->low)), last = (int)ceil(log10(axis->high));
    const int step = (last - first) / DECADES_MOST + 1;
    uint64_t found = 0;
    for (int exponent = first; exponent <= last; exponent += step) {
        for (int i = 0; i < count; i++) {
            const double value = decimal(mantissas[i], exponent);
            if (value >= axis->low * (1 - 1e-9) && value <= axis->high * (1 + 1e-9) && found < AXIS_TICKS)
                out[found++] = value;
        }
    }
    return found;
}

static uint64_t linear_ticks(const struct axis *axis, double *out)
{
    const double step = round_value((axis->high - axis->low) / (2 * TICKS_WANTED), true);
    uint64_t found = 0;
    for (double i = ceil(axis->low / step - 1e-9); i * step <= axis->high + 1e-9 * step; i++) {
        if (found < AXIS_TICKS) out[found++] = i * step + 0.0; /* not -0 */
    }
    return found;
}

uint64_t axis_ticks(const struct axis *axis, double *out)
{
    /* Powers of two of one decade are among them as soon as there are more than three. */
    static const double mantissas[][10] = {
        {1}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 6, 8}, {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8}};
    static const int counts[] = {1, 3, 7, 10};
    uint64_t found = 0;
    if (!axis->logarithmic) return linear_ticks(axis, out);
    for (int i = 0; i < 4 && found < TICKS_WANTED; i++)
        found = decade_ticks(axis, mantissas[i], counts[i], out);
    return found < 2 ? linear_ticks(axis, out) : found;
}
