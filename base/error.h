/* Errors: a status code to branch on and one line of text to show. The text travels with the code in the last
 * argument of every function that can fail; nothing here is global, nothing prints, nothing exits. */
#ifndef NIBBLE_BASE_ERROR_H
#define NIBBLE_BASE_ERROR_H

#include <stddef.h>

/* What went wrong, as far as a caller or an exit code cares. */
enum status {
    OK = 0,
    ERR_USAGE,       /* the command line or the arguments make no sense */
    ERR_FORMAT,      /* an input file is damaged, inconsistent or hostile */
    ERR_IO,          /* the operating system refused to read or write */
    ERR_MEMORY,      /* out of memory, or over a stated size limit */
    ERR_NUMERIC,     /* NaN, infinity, overflow of a scale, a factorization that failed */
    ERR_CHECK,       /* a check did not hold: verify, an accuracy gate */
    ERR_UNSUPPORTED, /* valid, but not something this version knows */
    ERR_DEVICE,      /* an accelerator failed or is absent */
    ERR_INTERRUPTED  /* stopped from outside */
};

/* One error: its code and one line of text, lower case, naming file, tensor or field, and offset. */
struct error {
    enum status code;
    char text[1024];
};

#if defined(__GNUC__)
#define NIBBLE_PRINTF(format_at, first_at) __attribute__((format(printf, format_at, first_at)))
#else
#define NIBBLE_PRINTF(format_at, first_at)
#endif

/* Record an error and return its code, so that a fault reads `return fail(err, ERR_FORMAT, "...", ...)`.
 * err may be NULL (the caller does not want the text). A text longer than the buffer is cut. */
enum status fail(struct error *err, enum status code, const char *format, ...) NIBBLE_PRINTF(3, 4);

/* Record an error of the operating system: the formatted text, then ": " and what errno_value means.
 * ENOMEM becomes ERR_MEMORY, everything else ERR_IO. */
enum status fail_errno(struct error *err, int errno_value, const char *format, ...) NIBBLE_PRINTF(3, 4);

/* Put "<context>: " before the text already in err; returns code unchanged. Each caller that knows more adds it once. */
enum status fail_within(struct error *err, enum status code, const char *format, ...) NIBBLE_PRINTF(3, 4);

/* Copy bytes that came from a file into out so that they can stand in a message: printable ASCII and valid UTF-8 as
 * they are, everything else as \xNN, long text cut with "...". Always NUL-terminated. Returns out.
 *   out         [out_bytes]  out, at least 8 bytes
 *   bytes       [count]      in, need not be terminated */
char *error_quote(char *out, size_t out_bytes, const char *bytes, size_t count);

/* The process exit code for a status: 0 done, 2 usage, 3 bad input, 4 input/output, 5 memory or size limit, 6 numeric,
 * 7 a check did not hold, 8 unsupported or no device, 130 interrupted. */
int exit_code(enum status code);

#endif
