/* See digits.h. */
#include "runtime-check/page/digits.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Exponents that are written out as zeros. */
enum { PLAIN_LEAST = -4, PLAIN_MOST = 6 };

static const char dash[] = "\xE2\x80\x93", minus[] = "\xE2\x88\x92";

/* The decimal exponent of a value once it is rounded to so many digits. */
static int exponent_of(double value, int digits)
{
    char text[DIGITS_BYTES];
    snprintf(text, sizeof text, "%.*e", digits - 1, value);
    return (int)strtol(strchr(text, 'e') + 1, NULL, 10);
}

static char *put_sign(char *out, double value)
{
    return stpcpy(out, value < 0 ? minus : "");
}

static void put_superscript(char *out, int number)
{
    static const char *const raised[] = {"\xE2\x81\xB0", "\xC2\xB9", "\xC2\xB2", "\xC2\xB3", "\xE2\x81\xB4",
        "\xE2\x81\xB5", "\xE2\x81\xB6", "\xE2\x81\xB7", "\xE2\x81\xB8", "\xE2\x81\xB9"};
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    for (const char *at = text; *at; at++)
        out = stpcpy(out, *at == '-' ? "\xE2\x81\xBB" : raised[*at - '0']);
}

/* A value with so many decimals; what rounds to zero has no sign. */
static char *put_fixed(char *out, double value, int decimals)
{
    char text[DIGITS_BYTES];
    snprintf(text, sizeof text, "%.*f", decimals > 0 ? decimals : 0, fabs(value));
    const bool zero = strspn(text, "0.") == strlen(text);
    strcpy(put_sign(out, zero ? 0 : value), text);
    return out;
}

char *digits_significant(char *out, double value, int digits)
{
    if (!isfinite(value)) return strcpy(out, dash);
    if (value == 0) return strcpy(out, "0");
    const int exponent = exponent_of(value, digits);
    if (exponent >= PLAIN_LEAST && exponent <= PLAIN_MOST)
        return put_fixed(out, value, digits - 1 - exponent);
    char text[DIGITS_BYTES];
    snprintf(text, sizeof text, "%.*e", digits - 1, fabs(value));
    *strchr(text, 'e') = 0;
    char *at = stpcpy(stpcpy(put_sign(out, value), text), "\xC2\xA0\xC3\x97\xC2\xA0"
                                                          "10");
    put_superscript(at, exponent);
    return out;
}

void digits_estimate(char *value, char *error, struct estimate estimate)
{
    *error = 0;
    if (!isfinite(estimate.value) || !isfinite(estimate.error) || estimate.error <= 0) {
        digits_significant(value, estimate.value, 4);
        return;
    }
    const int last = exponent_of(estimate.error, 2) - 1;
    const int first = estimate.value == 0 ? last : exponent_of(estimate.value, 4);
    const int digits = first - last + 1;
    if (first >= PLAIN_LEAST && first <= PLAIN_MOST && last > -8 && last < PLAIN_MOST) {
        put_fixed(value, estimate.value, -last);
        put_fixed(error, estimate.error, -last);
        return;
    }
    digits_significant(error, estimate.error, 2);
    digits_significant(value, estimate.value, digits < 1 ? 1 : digits > 9 ? 9 : digits);
}

char *digits_tick(char *out, double value)
{
    const int exponent = value == 0 ? 0 : exponent_of(value, 6);
    if (exponent >= -4 && exponent <= 5) {
        snprintf(out, DIGITS_BYTES, "%.6g", value);
        return out;
    }
    char text[DIGITS_BYTES], *at = out;
    snprintf(text, sizeof text, "%.6g", value / pow(10, exponent));
    if (strcmp(text, "1") != 0) at = stpcpy(stpcpy(at, text), "\xC3\x97");
    at = stpcpy(at, "10");
    put_superscript(at, exponent);
    return out;
}

char *digits_count(char *out, uint64_t count)
{
    char text[24], *at = out;
    snprintf(text, sizeof text, "%" PRIu64, count);
    const size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) at = stpcpy(at, "\xE2\x80\xAF");
        *at++ = text[i];
    }
    *at = 0;
    return out;
}
