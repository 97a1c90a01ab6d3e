/* Base64: the vectors of RFC 4648, section 10, every length and every byte, and what is none. */
#include "base/base64.h"

#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

static void vectors(void)
{
    static const char *const texts[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct error err = {0};
        char *text = base64_encode(texts[i][0], strlen(texts[i][0]), &err);
        uint8_t *back = NULL;
        uint64_t bytes = 99;
        REQUIRE(text != NULL, &err);
        CU_ASSERT_STRING_EQUAL(text, texts[i][1]);
        CHECK(base64_decode(&back, &bytes, text, strlen(text), &err) == OK, &err);
        CU_ASSERT_TRUE(bytes == strlen(texts[i][0]) && memcmp(back, texts[i][0], bytes) == 0);
        memory_free(back);
        memory_free(text);
    }
}

static void all_lengths(void)
{
    uint8_t bytes[256], *back;
    uint64_t count;

    for (unsigned i = 0; i < 256; i++)
        bytes[i] = (uint8_t)(i * 37);
    for (uint64_t length = 0; length <= 256; length++) {
        struct error err = {0};
        char *text = base64_encode(bytes, length, &err);
        REQUIRE(text != NULL, &err);
        CHECK(base64_decode(&back, &count, text, strlen(text), &err) == OK, &err);
        CU_ASSERT_TRUE(count == length && memcmp(back, bytes, length) == 0);
        memory_free(back);
        memory_free(text);
    }
}

static void refused(void)
{
    static const char *const texts[] = {
        "Z", "Zg", "Zg=", "Zg==Zg==", "Z===", "====", "Zm9v!m9v", "Zm 9", "Zm9\xC3", "=m9v", "Zm9v=m9v"};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct error err = {0};
        uint8_t *out = (uint8_t *)1;
        uint64_t bytes;
        CHECK(base64_decode(&out, &bytes, texts[i], strlen(texts[i]), &err) == ERR_FORMAT, &err);
        CU_ASSERT_TRUE(out == NULL && strstr(err.text, "no base64") == err.text);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"vectors", vectors},
        {"all lengths", all_lengths},
        {"refused", refused},
    };

    return TESTING_RUN("base64", cases);
}
