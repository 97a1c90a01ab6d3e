/* Tables for programs, as bytes on standard output. */
#include <math.h>

#include "base/cells.h"
#include "base/memory.h"
#include "tests/support/testing.h"

static void write_rows(enum cells_format format)
{
    struct cells cells = {.format = format};
    cells_text(&cells, "model");
    cells_text(&cells, "bytes");
    cells_text(&cells, "value");
    cells_end_head(&cells);
    cells_text(&cells, "a|b\\c, \"d\"\r\ne");
    cells_u64(&cells, UINT64_MAX);
    cells_number(&cells, 0.1);
    cells_end(&cells);
    cells_empty(&cells);
    cells_number(&cells, NAN);
    cells_number(&cells, -INFINITY);
    cells_end(&cells);
    cells_text(&cells, "");
    cells_end(&cells);
}

static void check_rows(enum cells_format format, const char *expected)
{
    uint64_t count;
    testing_capture(1);
    write_rows(format);
    char *text = testing_captured(&count);
    CU_ASSERT_STRING_EQUAL(text, expected);
    memory_free(text);
}

static void csv(void)
{
    check_rows(CELLS_CSV, "model,bytes,value\n"
                          "\"a|b\\c, \"\"d\"\"\r\ne\",18446744073709551615,0.1\n"
                          ",,\n"
                          "\n");
}

static void markdown(void)
{
    check_rows(CELLS_MARKDOWN, "| model | bytes | value |\n"
                               "| --- | ---: | ---: |\n"
                               "| a\\|b\\\\c, \"d\"  e | 18446744073709551615 | 0.1 |\n"
                               "|  |  |  |\n"
                               "|  |\n");
}

int main(void)
{
    static const struct test_case cases[] = {
        {"comma-separated values", csv},
        {"Markdown", markdown},
    };
    return TESTING_RUN("cells", cases);
}
