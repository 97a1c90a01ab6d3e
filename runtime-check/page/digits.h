/* Numbers for people: as many digits as mean something. All buffers hold at least DIGITS_BYTES; a number that is not finite is a
 * dash. Written as the thread's locale says: the caller holds it to "C". */
#ifndef NIBBLE_RUNTIME_CHECK_DIGITS_H
#define NIBBLE_RUNTIME_CHECK_DIGITS_H

#include "runtime-check/judge/estimate.h"

enum { DIGITS_BYTES = 64 };

/* So many significant digits: "0.00736", "29.18", and with a power of ten what would need many zeros: "2.7 x 10^-5" in Unicode.
 * 1 <= digits <= 15. Returns out. */
char *digits_significant(char *out, double value, int digits);

/* A value down to the last digit its standard error leaves it, and that error with two digits. Without an error (0): four
 * significant digits, and an empty text. */
void digits_estimate(char *value, char *error, struct estimate estimate);

/* The shortest way to write a tick of an axis: "0.001", "20", "10^-6" in Unicode. Returns out. */
char *digits_tick(char *out, double value);

/* A count in groups of three, divided by narrow spaces. Returns out. */
char *digits_count(char *out, uint64_t count);

#endif
