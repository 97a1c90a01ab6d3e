/* Trimmed tokenizers: what is left encodes its texts as before, and every other text still. */
#include "model/tokenizer/tokenizer_trim.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/container.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/testing.h"

static const char small[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":{\"pad_id\":9,\"pad_token\":\"<p>\"},"
    "\"added_tokens\":[{\"id\":9,\"content\":\"<p>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":null,"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<p>\","
    "\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}],\"special_tokens\":{\"<p>\":{\"id\":\"<p>\",\"ids\":[9],"
    "\"tokens\":[\"<p>\"]}}},\"decoder\":null,\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":"
    "null,"
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":"
    "false,"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"bc\":3,\"ab\":4,\"abc\":5,\"cb\":6,\"ca\":7,\"abcab\":8},"
    "\"merges\":[\"b c\",\"a b\",\"a bc\",\"c b\",\"c a\",\"abc ab\"]}}";

/* Ids that stay, in order. */
static void number(uint32_t *ids, const bool *keep, uint64_t count)
{
    uint32_t next = 0;

    for (uint64_t i = 0; i < count; i++)
        ids[i] = keep[i] ? next++ : UINT32_MAX;
}

/* abc is made by b+c, then a+bc: ab is not needed, bc is. */
static void halves(void)
{
    static const bool expected[10] = {true, true, true, true, false, true, false, false, false, true};
    bool keep[10] = {false};
    struct error err = {0};

    keep[5] = true;
    CHECK(tokenizer_trim_close(keep, 10, "small", small, sizeof small - 1, &err) == OK, &err);
    CU_ASSERT(memcmp(keep, expected, sizeof keep) == 0);
    CU_ASSERT(tokenizer_trim_close(keep, 9, "small", small, sizeof small - 1, &err) == ERR_FORMAT);
}

static void document(void)
{
    bool keep[10] = {false};
    uint32_t ids[10];
    char *json = NULL;
    uint64_t bytes;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};

    keep[5] = true;
    REQUIRE(tokenizer_trim_close(keep, 10, "small", small, sizeof small - 1, &err) == OK, &err);
    number(ids, keep, 10);
    REQUIRE(tokenizer_trim_write(&json, &bytes, ids, 10, "small", small, sizeof small - 1, &err) == OK, &err);
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "\"merges\":[\"b c\",\"a bc\"]"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"bc\":3,\"abc\":4}"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "\"pad_id\":5"));
    CU_ASSERT_PTR_NOT_NULL(strstr(json, "\"ids\":[5]"));
    REQUIRE(tokenizer_create(&tokenizer, "trimmed", json, bytes, &err) == OK, &err);
    uint32_t *out = NULL;
    uint64_t count;
    REQUIRE(tokenizer_encode(tokenizer, &out, &count, "abcab", 5, true, &err) == OK, &err);
    CU_ASSERT(count == 4 && out[0] == 5 && out[1] == 4 && out[2] == 0 && out[3] == 1);
    memory_free(out);
    ids[9] = UINT32_MAX; /* what the post-processor puts in front would be gone */
    memory_free(json);
    CU_ASSERT(
        tokenizer_trim_write(&json, &bytes, ids, 10, "small", small, sizeof small - 1, &err) == ERR_FORMAT);
    tokenizer_free(tokenizer);
}

/* ---- real ones ---- */

static char *real_document(const char *folder, uint64_t *bytes)
{
    struct error err = {0};
    char *json = NULL, *path = NULL;

    if (file_join(&path, folder, "tokenizer.json", 14, &err) == OK && file_kind(path) != FILE_ABSENT)
        REQUIRE(file_read_all(&json, bytes, path, CONTAINER_DOCUMENT_LIMIT, &err) == OK, &err);
    memory_free(path);
    REQUIRE(json != NULL, NULL);
    return json;
}

/* Both decode what they make of a text to the same. */
static void same_text(
    const struct tokenizer *whole, const struct tokenizer *trimmed, const char *text, uint64_t bytes)
{
    const struct tokenizer *both[] = {whole, trimmed};
    char *decoded[2] = {NULL};
    uint64_t decoded_bytes[2] = {0};
    struct error err = {0};

    for (int i = 0; i < 2; i++) {
        uint32_t *ids = NULL;
        uint64_t count;
        CHECK(tokenizer_encode(both[i], &ids, &count, text, bytes, true, &err) == OK, &err);
        CHECK(tokenizer_decode(both[i], &decoded[i], &decoded_bytes[i], ids, count, true, &err) == OK, &err);
        memory_free(ids);
    }
    CU_ASSERT(decoded_bytes[0] == decoded_bytes[1] && memcmp(decoded[0], decoded[1], decoded_bytes[0]) == 0);
    memory_free(decoded[0]);
    memory_free(decoded[1]);
}

static void compare_real(const char *folder, const char *text_path, const char *other_path)
{
    uint64_t bytes, text_bytes, other_bytes, out_bytes, count, trimmed_count;
    char *json = real_document(folder, &bytes), *trimmed_json = NULL;
    char *text = testing_read(text_path, &text_bytes), *other = testing_read(other_path, &other_bytes);
    struct tokenizer *whole = NULL, *trimmed = NULL;
    uint32_t *ids = NULL, *trimmed_ids = NULL;
    struct error err = {0};

    text_bytes = text_bytes > 20000 ? 20000 : text_bytes;
    other_bytes = other_bytes > 5000 ? 5000 : other_bytes;
    REQUIRE(tokenizer_create(&whole, "whole", json, bytes, &err) == OK, &err);
    const uint32_t size = tokenizer_size(whole);
    bool *keep = memory_new(size, sizeof *keep, NULL);
    uint32_t *new_ids = memory_new(size, sizeof *new_ids, NULL);
    REQUIRE(tokenizer_encode(whole, &ids, &count, text, text_bytes, true, &err) == OK, &err);
    for (uint64_t i = 0; i < count; i++)
        keep[ids[i]] = true;
    REQUIRE(tokenizer_trim_close(keep, size, "whole", json, bytes, &err) == OK, &err);
    number(new_ids, keep, size);
    REQUIRE(tokenizer_trim_write(&trimmed_json, &out_bytes, new_ids, size, "whole", json, bytes, &err) == OK,
        &err);
    REQUIRE(tokenizer_create(&trimmed, "trimmed", trimmed_json, out_bytes, &err) == OK, &err);
    CU_ASSERT(tokenizer_size(trimmed) < size);
    REQUIRE(
        tokenizer_encode(trimmed, &trimmed_ids, &trimmed_count, text, text_bytes, true, &err) == OK, &err);
    CU_ASSERT_EQUAL(count, trimmed_count);
    for (uint64_t i = 0; i < count && count == trimmed_count; i++) {
        if (new_ids[ids[i]] == trimmed_ids[i]) continue;
        CU_FAIL("another token");
        break;
    }
    same_text(whole, trimmed, other, other_bytes);
    memory_free(trimmed_ids);
    memory_free(ids);
    memory_free(keep);
    memory_free(new_ids);
    memory_free(text);
    memory_free(other);
    memory_free(json);
    memory_free(trimmed_json);
    tokenizer_free(whole);
    tokenizer_free(trimmed);
}

static void real_tokenizers(void)
{
    const char *other = testing_shared("text/code.utf8");

    if (!other) {
        printf("skipped: no shared data\n");
        return;
    }
    compare_real(testing_shared("models/wiki-6M"), testing_shared("text/wiki-eval.txt"), other);
    compare_real(testing_shared("models/TinyStories-656K"), testing_shared("text/stories-eval.txt"), other);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the halves of the merge that makes a token", halves},
        {"the document", document},
        {"real tokenizers", real_tokenizers},
    };

    return TESTING_RUN("tokenizer_trim", cases);
}
