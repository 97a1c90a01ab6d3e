/* Decimal numbers as text, the same in every locale. */
#ifndef NIBBLE_BASE_NUMBER_H
#define NIBBLE_BASE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* The longest text number_read takes: more digits than ever decide how a double rounds (767). */
enum { NUMBER_TEXT_LIMIT = 1024 };

/* Read all `count` bytes as one decimal number (digits, point, exponent, sign; no white space, no
 * hexadecimal, no "inf" or "nan"), correctly rounded. Too large gives an infinity, too small zero or a
 * subnormal. False: no number, or longer than NUMBER_TEXT_LIMIT. */
bool number_read(double *out, const char *text, uint64_t count);

/* The shortest of 15, 16 and 17 significant digits that reads back as the same value, which must be finite.
 * Returns out (at least 32 bytes). */
char *number_write(char *out, double value);

#endif
