/* Tables for programs on standard output, row by row: comma-separated values or Markdown, one number per cell with all its digits. For
 * people see struct table (base/report.h). */
#ifndef NIBBLE_BASE_CELLS_H
#define NIBBLE_BASE_CELLS_H

#include <stdint.h>

/* CSV: RFC 4180, but lines end with a line feed. */
enum cells_format { CELLS_CSV, CELLS_MARKDOWN };

/* Zero-initialise but for the format. */
struct cells {
    enum cells_format format;
    uint64_t column; /* cells in the open row */
};

/* Add one cell to the open row. A text may hold anything: in CSV it is quoted where it has to be, in Markdown bars and backslashes
 * are escaped and line breaks become blanks. A number that is not finite gives an empty cell. */
void cells_text(struct cells *cells, const char *text);
void cells_number(struct cells *cells, double value);
void cells_u64(struct cells *cells, uint64_t value);
void cells_empty(struct cells *cells);

/* End the row. After the headings, which are cells of text, end with cells_end_head: in Markdown it adds the rule that makes the first
 * column left-aligned and the others right-aligned. */
void cells_end(struct cells *cells);
void cells_end_head(struct cells *cells);

#endif
