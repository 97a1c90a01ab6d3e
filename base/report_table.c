/* Tables: cells are collected as text, then printed with every column as wide as its widest cell. */
#include "base/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static uint64_t width_of(const char *text)
{
    uint64_t width = 0;

    for (; *text; text++)
        width += (*text & 0xC0) != 0x80;
    return width;
}

static void add_cell(struct table *table, char *text)
{
    if (!text ||
        memory_grow(&table->cells, &table->capacity, table->count + 1, sizeof *table->cells, NULL) != OK) {
        memory_free(text);
        table->failed = true;
        return;
    }
    table->cells[table->count++] = text;
}

void table_head(struct table *table, uint64_t columns, const char *const *headings)
{
    table->columns = columns;
    for (uint64_t i = 0; i < columns && !table->failed; i++)
        add_cell(table, memory_text(headings[i], strlen(headings[i]), NULL));
}

void table_cell(struct table *table, const char *format, ...)
{
    va_list arguments;
    char *text = NULL;
    int count;

    if (table->failed) return;
    va_start(arguments, format);
    count = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (count >= 0) text = memory_new((uint64_t)count + 1, 1, NULL);
    if (text) {
        va_start(arguments, format);
        vsnprintf(text, (size_t)count + 1, format, arguments);
        va_end(arguments);
    }
    add_cell(table, text);
}

static bool is_right(const struct table *table, uint64_t column)
{
    return table->cells[column][0] == '>';
}

/* The text of a cell; a heading without the mark that aligns its column. */
static const char *cell_text(const struct table *table, uint64_t index)
{
    const char *text = table->cells[index];

    return index < table->columns && text[0] == '>' ? text + 1 : text;
}

static void column_widths(const struct table *table, uint64_t *widths)
{
    for (uint64_t i = 0; i < table->count; i++) {
        uint64_t width = width_of(cell_text(table, i)), *widest = &widths[i % table->columns];
        if (width > *widest) *widest = width;
    }
}

/* Print count copies of a byte. */
static void print_run(char byte, uint64_t count)
{
    while (count-- > 0)
        putchar(byte);
}

/* Spaces are owed until something visible follows, so that no line ends in one. */
static void print_row(const struct table *table, uint64_t first, const uint64_t *widths)
{
    uint64_t owed = 0;

    for (uint64_t column = 0; column < table->columns && first + column < table->count; column++) {
        const char *text = cell_text(table, first + column);
        uint64_t padding = widths[column] - width_of(text);
        uint64_t before = is_right(table, column) ? padding : 0;
        if (*text) {
            print_run(' ', owed + before);
            fputs(text, stdout);
            owed = padding - before;
        } else {
            owed += padding;
        }
        owed += 2;
    }
    putchar('\n');
}

void table_print(const struct table *table)
{
    uint64_t *widths =
        table->failed || table->count == 0 ? NULL : memory_new(table->columns, sizeof *widths, NULL);

    if (!widths) {
        if (table->failed || table->count > 0) fputs("(no memory left for a table)\n", stderr);
        return;
    }
    column_widths(table, widths);
    print_row(table, 0, widths);
    for (uint64_t column = 0; column < table->columns; column++) {
        print_run(' ', column > 0 ? 2 : 0);
        print_run('-', widths[column]);
    }
    putchar('\n');
    for (uint64_t i = table->columns; i < table->count; i += table->columns)
        print_row(table, i, widths);
    memory_free(widths);
}

void table_free(struct table *table)
{
    for (uint64_t i = 0; i < table->count; i++)
        memory_free(table->cells[i]);
    memory_free(table->cells);
    memset(table, 0, sizeof *table);
}
