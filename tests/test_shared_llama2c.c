/* A published llama2.c model against the same weights as safetensors: every tensor to the bit, and the same tokens. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/checkpoint.h"
#include "tests/support/testing.h"

static struct checkpoint open_shared(const char *relative)
{
    struct checkpoint checkpoint;
    struct error err = {0};

    REQUIRE(checkpoint_open(&checkpoint, testing_shared(relative), &err) == OK, &err);
    REQUIRE(container_map(checkpoint.container, &err) == OK, &err);
    return checkpoint;
}

static void test_tensors(void)
{
    struct checkpoint model = open_shared("models/stories260K/stories260K.bin");
    struct checkpoint folder = open_shared("models/stories260K");

    CU_ASSERT_EQUAL(container_count(model.container), container_count(folder.container));
    for (uint64_t i = 0; i < container_count(folder.container); i++) {
        const struct tensor *expected = container_tensor(folder.container, i);
        const struct tensor *found = container_find(model.container, expected->name);
        CU_ASSERT_FATAL(found && found->bytes == expected->bytes && found->dtype == expected->dtype);
        CU_ASSERT(memcmp(found->data, expected->data, found->bytes) == 0);
    }
    checkpoint_close(&model);
    checkpoint_close(&folder);
}

static void test_tokens(void)
{
    struct checkpoint model = open_shared("models/stories260K/stories260K.bin");
    struct checkpoint folder = open_shared("models/stories260K");
    static const char *const texts[] = {"text/stories-eval.txt", "text/wiki-eval.txt", "text/code.utf8"};
    struct tokenizer *of_model = NULL, *of_folder = NULL;
    struct error err = {0};

    CHECK(checkpoint_tokenizer(&of_model, model.container, &err) == OK && of_model, &err);
    CHECK(checkpoint_tokenizer(&of_folder, folder.container, &err) == OK && of_folder, &err);
    for (size_t i = 0; i < sizeof texts / sizeof *texts && of_model && of_folder; i++) {
        uint64_t bytes, count = 0, expected = 1;
        uint32_t *ids = NULL, *others = NULL;
        char *text = testing_read(testing_shared(texts[i]), &bytes);
        if (bytes > 300000) bytes = 300000;
        while (bytes && ((uint8_t)text[bytes - 1] & 0x80))
            bytes--;
        CHECK(tokenizer_encode(of_model, &ids, &count, text, bytes, true, &err) == OK, &err);
        CHECK(tokenizer_encode(of_folder, &others, &expected, text, bytes, true, &err) == OK, &err);
        CU_ASSERT(count == expected && memcmp(ids, others, count * sizeof *ids) == 0);
        memory_free(ids);
        memory_free(others);
        memory_free(text);
    }
    tokenizer_free(of_model);
    tokenizer_free(of_folder);
    checkpoint_close(&model);
    checkpoint_close(&folder);
}

int main(void)
{
    static const struct test_case cases[] = {{"tensors", test_tensors}, {"tokens", test_tokens}};

    if (!testing_shared("models/stories260K/stories260K.bin")) testing_skip("../shared/data is absent");
    return TESTING_RUN("shared_llama2c", cases);
}
