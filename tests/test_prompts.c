/* Lines of a file as prompts. The tiny tokenizer makes a token of every byte (byte + 3), and adds none. */
#include "model/prompts.h"

#include <string.h>

#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

struct fixture {
    struct pool *pool;
    struct model *model;
    struct prompts prompts;
};

static void open_fixture(struct fixture *fixture)
{
    struct error err = {0};
    *fixture = (struct fixture){0};
    testing_folder();
    REQUIRE(!pool_create(&fixture->pool, 1, &err), &err);
    REQUIRE(
        !model_open(&fixture->model, tiny_model_folder("model", (struct tiny_model){0}), fixture->pool, &err),
        &err);
}

static void close_fixture(struct fixture *fixture)
{
    prompts_free(&fixture->prompts);
    model_close(fixture->model);
    pool_free(fixture->pool);
}

static enum status add_lines(struct fixture *fixture, const char *text, bool json, struct error *err)
{
    return prompts_lines(&fixture->prompts, fixture->model, text, strlen(text), json, err);
}

/* Prompt `index` is this text. */
static bool is_prompt(const struct prompts *prompts, uint64_t index, const char *text)
{
    const uint64_t begin = index ? prompts->ends[index - 1] : 0, count = strlen(text);
    if (index >= prompts->count || prompts->ends[index] - begin != count) return false;
    for (uint64_t i = 0; i < count; i++) {
        if (prompts->ids[begin + i] != (uint32_t)(unsigned char)text[i] + 3) return false;
    }
    return true;
}

/* Blank lines are passed over; what is within a line, and before it, stays. */
static void lines(void)
{
    struct fixture fixture;
    struct error err = {0};
    open_fixture(&fixture);
    CHECK(!add_lines(&fixture, "one\n\n \t\n two \r\n\r\nthe last", false, &err), &err);
    CU_ASSERT_EQUAL(fixture.prompts.count, 3);
    CU_ASSERT_EQUAL(fixture.prompts.longest, 8);
    CU_ASSERT(is_prompt(&fixture.prompts, 0, "one"));
    CU_ASSERT(is_prompt(&fixture.prompts, 1, " two "));
    CU_ASSERT(is_prompt(&fixture.prompts, 2, "the last"));
    CU_ASSERT_EQUAL(add_lines(&fixture, "\n \r\n", false, &err), ERR_USAGE); /* also after others */
    CU_ASSERT_EQUAL(fixture.prompts.count, 3);
    close_fixture(&fixture);
}

static void json_lines(void)
{
    struct fixture fixture;
    struct error err = {0};
    open_fixture(&fixture);
    CHECK(!add_lines(&fixture, "{\"text\": \"one\\ntwo\"}\n\n{\"text\": \"three\"}\r\n", true, &err), &err);
    CU_ASSERT_EQUAL(fixture.prompts.count, 2);
    CU_ASSERT(is_prompt(&fixture.prompts, 0, "one\ntwo"));
    CU_ASSERT(is_prompt(&fixture.prompts, 1, "three"));
    CU_ASSERT_EQUAL(add_lines(&fixture, "{\"text\": \"a\"}\nplain\n", true, &err), ERR_FORMAT);
    CU_ASSERT(strncmp(err.text, "line 2: ", 8) == 0);
    close_fixture(&fixture);
}

static void refusals(void)
{
    struct fixture fixture;
    struct error err = {0};
    open_fixture(&fixture);
    CU_ASSERT_EQUAL(add_lines(&fixture, "a\n\nb\xff\n", false, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "line 3: is no UTF-8");
    fixture.prompts.limit = 4;
    CHECK(!add_lines(&fixture, "abc", false, &err), &err);
    CU_ASSERT_EQUAL(add_lines(&fixture, "abc\nabcd", false, &err), ERR_USAGE);
    CU_ASSERT_STRING_EQUAL(err.text, "line 2: has 4 tokens, which leaves no room within --length 4");
    CU_ASSERT_EQUAL(prompts_add(&fixture.prompts, fixture.model, "", 0, &err), ERR_USAGE);
    struct tokenizer *tokenizer = fixture.model->tokenizer;
    fixture.model->tokenizer = NULL;
    CU_ASSERT_EQUAL(add_lines(&fixture, "a", false, &err), ERR_UNSUPPORTED);
    fixture.model->tokenizer = tokenizer;
    close_fixture(&fixture);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"lines", lines}, {"lines of JSON", json_lines}, {"refusals", refusals}};
    return TESTING_RUN("prompts", cases);
}
