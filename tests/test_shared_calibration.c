/* Calibration on a real tokenizer and a real text: what the tokenizer gives for the whole text, cut. */
#include <string.h>

#include "base/memory.h"
#include "model/calibration.h"
#include "tests/support/testing.h"

#define MODEL "models/TinyStories-656K/tokenizer.json"
#define TEXT "text/stories-calibration.txt"

static void test_stories(void)
{
    enum { LENGTH = 256 };
    const struct calibration_options options = {
        .path = testing_shared(TEXT), .samples = 16, .length = LENGTH, .pick = CALIBRATION_SPREAD};
    struct tokenizer *tokenizer = NULL;
    struct calibration calibration;
    struct error err = {0};
    uint64_t json_bytes, text_bytes, count, windows;
    uint32_t *ids = NULL, bos;
    char *json = testing_read(testing_shared(MODEL), &json_bytes);
    char *text = testing_read(testing_shared(TEXT), &text_bytes);

    REQUIRE(tokenizer_create(&tokenizer, MODEL, json, json_bytes, &err) == OK, &err);
    REQUIRE(tokenizer_encode(tokenizer, &ids, &count, text, text_bytes, true, &err) == OK, &err);
    REQUIRE(calibration_load(&calibration, &options, tokenizer, NULL, &err) == OK, &err);
    windows = count / LENGTH;
    CU_ASSERT_EQUAL(calibration.samples, 16);
    CU_ASSERT_EQUAL(calibration.tokens_used, 16 * LENGTH);
    CU_ASSERT(tokenizer_prefix(tokenizer, &bos) && calibration.tokens[0] == bos);
    for (uint64_t i = 0; i < calibration.samples; i++) {
        const uint32_t *expected = ids + i * windows / 16 * LENGTH;
        CU_ASSERT_EQUAL(memcmp(calibration.tokens + i * LENGTH, expected, LENGTH * sizeof *ids), 0);
    }
    calibration_free(&calibration);
    memory_free(ids);
    tokenizer_free(tokenizer);
    memory_free(text);
    memory_free(json);
}

int main(void)
{
    static const struct test_case cases[] = {{"stories", test_stories}};

    if (!testing_shared(MODEL) || !testing_shared(TEXT))
        testing_skip("../shared/data is absent: no real text to calibrate on");
    return TESTING_RUN("shared_calibration", cases);
}
