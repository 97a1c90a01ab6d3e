/* Errors: texts are one printable line whatever goes into them, and every code has its exit code. */
#include <errno.h>
#include <string.h>

#include "tests/support/testing.h"

static void test_fail_records_code_and_text(void)
{
    struct error err = {OK, ""};

    CU_ASSERT_EQUAL(fail(&err, ERR_FORMAT, "tensor %s: ends at byte %d", "a.b", 7), ERR_FORMAT);
    CU_ASSERT_EQUAL(err.code, ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "tensor a.b: ends at byte 7");
}

static void test_no_error_wanted(void)
{
    CU_ASSERT_EQUAL(fail(NULL, ERR_USAGE, "x"), ERR_USAGE);
    CU_ASSERT_EQUAL(fail_errno(NULL, ENOSPC, "x"), ERR_IO);
    CU_ASSERT_EQUAL(fail_errno(NULL, ENOMEM, "x"), ERR_MEMORY);
    CU_ASSERT_EQUAL(fail_within(NULL, ERR_CHECK, "x"), ERR_CHECK);
}

static void test_text_is_one_printable_line(void)
{
    struct error err = {OK, ""};

    fail(&err, ERR_FORMAT, "name %s", "a\nb\x1b[31m\x7f\xff");
    CU_ASSERT_STRING_EQUAL(err.text, "name a\\x0ab\\x1b[31m\\x7f\\xff");
}

static void test_long_text_is_cut(void)
{
    struct error err = {OK, ""};
    char longer[3000];

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    fail(&err, ERR_FORMAT, "%s", longer);
    CU_ASSERT_EQUAL(strlen(err.text), sizeof err.text - 1);
    CU_ASSERT_STRING_EQUAL(err.text + sizeof err.text - 5, "x...");
    fail_within(&err, ERR_FORMAT, "%s", longer);
    CU_ASSERT_EQUAL(strlen(err.text), sizeof err.text - 1);
    fail_errno(&err, ENOSPC, "%s", longer);
    CU_ASSERT_EQUAL(strlen(err.text), sizeof err.text - 1);
}

static void test_errno(void)
{
    struct error err = {OK, ""};

    CU_ASSERT_EQUAL(fail_errno(&err, ENOSPC, "out.nbl: write at %d", 5), ERR_IO);
    CU_ASSERT_STRING_EQUAL(err.text, "out.nbl: write at 5: no space left on device");
    CU_ASSERT_EQUAL(fail_errno(&err, ENOMEM, "map"), ERR_MEMORY);
    CU_ASSERT_EQUAL(err.code, ERR_MEMORY);
    CU_ASSERT_EQUAL(fail_errno(&err, 99999, "x"), ERR_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "99999"));
}

static void test_context_goes_before(void)
{
    struct error err = {OK, ""};
    enum status status = fail(&err, ERR_NUMERIC, "not positive definite");

    CU_ASSERT_EQUAL(fail_within(&err, status, "layer %d", 3), ERR_NUMERIC);
    CU_ASSERT_STRING_EQUAL(err.text, "layer 3: not positive definite");
    fail_within(&err, ERR_NUMERIC, "%s", "model");
    CU_ASSERT_STRING_EQUAL(err.text, "model: layer 3: not positive definite");
}

static void test_own_text_as_argument(void)
{
    struct error err = {OK, ""};

    fail(&err, ERR_IO, "inner");
    fail(&err, ERR_CHECK, "outer: %s", err.text);
    CU_ASSERT_STRING_EQUAL(err.text, "outer: inner");
}

static void check_quote(const char *bytes, size_t count, const char *expected)
{
    char out[64];

    CU_ASSERT_STRING_EQUAL(error_quote(out, sizeof out, bytes, count), expected);
}

static void test_quote(void)
{
    check_quote("", 0, "");
    check_quote("plain \\ text", 12, "plain \\ text");
    check_quote("a\0b", 3, "a\\x00b");
    check_quote("gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80", 15,
        "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80");
    check_quote("\xC2\x9B", 2, "\\xc2\\x9b");                   /* C1: the one-byte CSI of some terminals */
    check_quote("\xE2\x80\xAE", 3, "\\xe2\\x80\\xae");          /* right-to-left override */
    check_quote("\xE2\x80\xA8", 3, "\\xe2\\x80\\xa8");          /* line separator */
    check_quote("\xE2\x82", 2, "\\xe2\\x82");                   /* cut off */
    check_quote("\xC0\x80", 2, "\\xc0\\x80");                   /* overlong */
    check_quote("\xED\xA0\x80", 3, "\\xed\\xa0\\x80");          /* surrogate */
    check_quote("\xF4\x90\x80\x80", 4, "\\xf4\\x90\\x80\\x80"); /* above U+10FFFF */
}

/* Every size of the buffer: terminated, never over the end, and cut with dots only when something is missing.
 */
static void test_quote_cuts(void)
{
    static const char text[] = "ab\xC3\xBC"
                               "c\ndefghijklm"; /* quoted: 19 bytes */
    char out[40];

    for (size_t size = 8; size < sizeof out; size++) {
        memset(out, '#', sizeof out);
        error_quote(out, size, text, sizeof text - 1);
        CU_ASSERT_TRUE(strlen(out) < size);
        CU_ASSERT_EQUAL(out[size], '#');
        CU_ASSERT_EQUAL(strstr(out, "...") != NULL, size < 20);
    }
    CU_ASSERT_STRING_EQUAL(error_quote(out, 8, text, sizeof text - 1), "ab\xC3\xBC...");
    CU_ASSERT_STRING_EQUAL(error_quote(out, 8, "1234567", 7), "1234567");
    CU_ASSERT_STRING_EQUAL(error_quote(out, 8, "12345678", 8), "1234...");
}

static void test_exit_codes(void)
{
    static const int expected[] = {0, 2, 3, 4, 5, 6, 7, 8, 8, 130};

    for (int code = OK; code <= ERR_INTERRUPTED; code++)
        CU_ASSERT_EQUAL(exit_code((enum status)code), expected[code]);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"fail records code and text", test_fail_records_code_and_text},
        {"err may be NULL", test_no_error_wanted},
        {"a text is one printable line", test_text_is_one_printable_line},
        {"a long text is cut", test_long_text_is_cut},
        {"errno in words", test_errno},
        {"context goes before", test_context_goes_before},
        {"an error may quote itself", test_own_text_as_argument},
        {"quoting", test_quote},
        {"quoting into every size", test_quote_cuts},
        {"exit codes", test_exit_codes},
    };

    return TESTING_RUN("error", cases);
}
