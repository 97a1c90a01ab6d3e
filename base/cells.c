/* See cells.h. */
#include "base/cells.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

static void begin(struct cells *cells)
{
    if (cells->format == CELLS_CSV)
        fputs(cells->column ? "," : "", stdout);
    else
        fputs(cells->column ? " | " : "| ", stdout);
    cells->column++;
}

static void put_csv(const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* A bar would end the cell, a line break the row. */
static void put_markdown(const char *text)
{
    for (; *text; text++) {
        if (*text == '|' || *text == '\\') putchar('\\');
        putchar(*text == '\n' || *text == '\r' ? ' ' : *text);
    }
}

void cells_text(struct cells *cells, const char *text)
{
    begin(cells);
    if (cells->format == CELLS_CSV)
        put_csv(text);
    else
        put_markdown(text);
}

void cells_number(struct cells *cells, double value)
{
    char text[32];
    begin(cells);
    if (isfinite(value)) fputs(number_write(text, value), stdout);
}

void cells_u64(struct cells *cells, uint64_t value)
{
    begin(cells);
    printf("%" PRIu64, value);
}

void cells_empty(struct cells *cells)
{
    begin(cells);
}

void cells_end(struct cells *cells)
{
    fputs(cells->format == CELLS_CSV ? "\n" : " |\n", stdout);
    cells->column = 0;
}

void cells_end_head(struct cells *cells)
{
    const uint64_t columns = cells->column;
    cells_end(cells);
    if (cells->format == CELLS_CSV) return;
    for (uint64_t i = 0; i < columns; i++)
        fputs(i ? " ---: |" : "| --- |", stdout);
    putchar('\n');
}
