/* Reports for people: a progress line with rate and time left, aligned tables, sizes and times in words. Progress and
 * notes go to standard error, results to standard output. */
#ifndef NIBBLE_BASE_REPORT_H
#define NIBBLE_BASE_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* What a tool wants to say while it works. Passed down to libraries, so that they never touch a stream themselves. */
struct report {
    bool quiet, verbose;
};

/* A note for people on standard error, one line; nothing when quiet (or report NULL). */
void report_note(const struct report *report, const char *format, ...) NIBBLE_PRINTF(2, 3);
/* The same, but only with --verbose. */
void report_detail(const struct report *report, const char *format, ...) NIBBLE_PRINTF(2, 3);

/* Progress of one long piece of work. On a terminal one line is redrawn at most ten times a second:
 * "quantizing  43%  1.2 GB/s  5 s left"; elsewhere a plain line every ten seconds. Thread-safe. */
struct progress;
enum progress_unit { PROGRESS_BYTES, PROGRESS_TOKENS, PROGRESS_ITEMS };
/* Never fails: without memory, or when quiet, it returns NULL, which all functions accept. */
struct progress *progress_start(
    const struct report *report, const char *label, uint64_t total, enum progress_unit unit);
void progress_add(struct progress *progress, uint64_t amount);
/* Clear the line (on a terminal) and free. */
void progress_end(struct progress *progress);

/* Seconds of the monotonic clock. */
double report_seconds(void);

/* "1.23 GB", "655 MB", "12.3 kB", "17 B": powers of 1000, three digits. Returns out (at least 16 bytes). */
char *report_bytes(char *out, uint64_t bytes);
/* "0.123 s", "12.3 s", "2 min 05 s", "1 h 02 min". Returns out (at least 24 bytes). */
char *report_duration(char *out, double seconds);

/* A table of text cells whose columns line up: words to the left, numbers to the right. UTF-8 widths are counted in
 * code points. Zero-initialise. */
struct table {
    char **cells;
    uint64_t count, capacity, columns;
    bool failed;
};

/* Start with the headings: "file", "bits/weight" ...; a heading that begins with '>' makes its column right-aligned. */
void table_head(struct table *table, uint64_t columns, const char *const *headings);
/* Add one cell; rows fill from left to right. */
void table_cell(struct table *table, const char *format, ...) NIBBLE_PRINTF(2, 3);
/* Print to standard output: two spaces between columns, a rule under the headings, nothing after the last column. */
void table_print(const struct table *table);
void table_free(struct table *table);

/* Print `nibble-x: error: <text>` for an error and return its exit code: the last line of every main. */
int report_failure(const char *tool, const struct error *err);

/* Flush standard output. ERR_IO if anything printed to it so far could not be written: a result that did not reach its
 * file must not end in exit code 0. Call it before report_failure, the last thing a main does. */
enum status report_finish(struct error *err);

#endif
