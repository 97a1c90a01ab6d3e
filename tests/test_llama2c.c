/* llama2.c models: the same random checkpoint in every version against its Hugging Face folder, headers that cannot be, and the
 * tokens beside a model. */
#include "formats/llama2c.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "formats/bytes.h"
#include "model/checkpoint.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/llama2c_file.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT, GROUP = 16 };

static const int32_t sizes[7] = {16, 24, 2, 4, 2, 300, 32};

static struct container *open_folder(bool tied)
{
    const struct tiny_model options = {
        .hidden = 16, .ffn = 24, .layers = 2, .heads = 4, .kv_heads = 2, .vocabulary = 300, .tied = tied};
    struct container *container = NULL;
    struct error err = {0};

    testing_folder();
    REQUIRE(container_open(&container, tiny_model_folder("hf", options), &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    return container;
}

/* ---- sound models ---- */

/* What version 2 makes of a row-major tensor whose groups lie in rows. */
static float rounded(const float *values, uint64_t at)
{
    float largest = 0;

    for (uint64_t i = at / GROUP * GROUP; i < (at / GROUP + 1) * GROUP; i++)
        largest = fabsf(values[i]) > largest ? fabsf(values[i]) : largest;
    return (float)(int8_t)rintf(values[at] / (largest / 127.0f)) * (largest / 127.0f);
}

/* Every tensor has its name, its shape and its values. w2 has 24 columns, so its groups of 16 cross rows. */
static void compare(struct checkpoint *left, const struct container *right, int version)
{
    for (uint64_t i = 0; i < container_count(right); i++) {
        const struct tensor *expected = container_tensor(right, i);
        const struct tensor *found = container_find(left->container, expected->name);
        uint64_t wrong = 0;
        CU_ASSERT_PTR_NOT_NULL_FATAL(found);
        CU_ASSERT_FATAL(
            found->dtype == DTYPE_F32 && found->rank == expected->rank && found->bytes == expected->bytes);
        CU_ASSERT(memcmp(found->shape, expected->shape, sizeof found->shape) == 0);
        for (uint64_t e = 0; e < found->elements; e++) {
            const float value = ((const float *)expected->data)[e];
            const bool coded = version == 2 && found->rank == 2;
            wrong += ((const float *)found->data)[e] != (coded ? rounded(expected->data, e) : value);
        }
        if (wrong) printf("%s\n", expected->name);
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

/* Rows in pieces that cut elements and groups. */
static void compare_pieces(struct checkpoint *checkpoint)
{
    struct error err = {0};

    for (uint64_t i = 0; i < container_count(checkpoint->container); i++) {
        const struct tensor *tensor = container_tensor(checkpoint->container, i);
        uint8_t piece[67];
        for (uint64_t at = 0, count; at < tensor->bytes; at += count) {
            count = tensor->bytes - at < sizeof piece ? tensor->bytes - at : sizeof piece;
            CHECK(container_read(checkpoint->container, tensor, at, piece, count, &err) == OK, &err);
            CU_ASSERT(memcmp(piece, (const uint8_t *)tensor->data + at, count) == 0);
        }
    }
}

static void check_version(int version, bool tied)
{
    struct container *folder = open_folder(tied);
    struct checkpoint checkpoint = {0};
    struct error err = {0};
    uint64_t count, bytes;
    uint8_t *file = llama2c_file_make(&count, folder, sizes, version, GROUP);
    uint8_t *tokens = llama2c_file_tokens(&bytes, 300);
    struct tokenizer *tokenizer = NULL;

    testing_write(testing_path("model.bin"), file, count);
    CHECK(checkpoint_open(&checkpoint, testing_path("model.bin"), &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(container_format(checkpoint.container), "llama2.c");
    CU_ASSERT(
        checkpoint.config.tied == tied && checkpoint.config.context == 32 && checkpoint.config.kv_heads == 2);
    CU_ASSERT(checkpoint_tokenizer(&tokenizer, checkpoint.container, &err) == OK && !tokenizer);
    CHECK(container_map(checkpoint.container, &err) == OK, &err);
    compare(&checkpoint, folder, version);
    compare_pieces(&checkpoint);
    checkpoint_close(&checkpoint);

    testing_write(testing_path("tokenizer.bin"), tokens, bytes);
    CHECK(checkpoint_open(&checkpoint, testing_path("model.bin"), &err) == OK, &err);
    CHECK(checkpoint_tokenizer(&tokenizer, checkpoint.container, &err) == OK && tokenizer, &err);
    tokenizer_free(tokenizer);
    checkpoint_close(&checkpoint);
    container_close(folder);
    memory_free(file);
    memory_free(tokens);
}

static void test_versions(void)
{
    for (int version = 0; version < 3; version++) {
        check_version(version, true);
        check_version(version, false);
    }
}

/* The smallest models there can be; they are the corpus of the fuzz target. */
static void test_smallest(void)
{
    static const int32_t small[7] = {4, 4, 1, 2, 1, 8, 4};

    for (int i = 0; i < 6; i++) {
        const struct tiny_model options = {
            .hidden = 4, .ffn = 4, .layers = 1, .heads = 2, .kv_heads = 1, .vocabulary = 8, .tied = i % 2};
        struct container *folder = NULL;
        struct checkpoint checkpoint;
        struct error err = {0};
        uint64_t count;
        char name[32];
        testing_folder();
        REQUIRE(container_open(&folder, tiny_model_folder("hf", options), &err) == OK, &err);
        REQUIRE(container_map(folder, &err) == OK, &err);
        uint8_t *file = llama2c_file_make(&count, folder, small, i / 2, 4);
        snprintf(name, sizeof name, "version-%d-%s", i / 2, i % 2 ? "tied" : "untied");
        testing_write(testing_path("model.bin"), file, count);
        corpus_keep("llama2c", name, file, count);
        CHECK(checkpoint_open(&checkpoint, testing_path("model.bin"), &err) == OK, &err);
        checkpoint_close(&checkpoint);
        container_close(folder);
        memory_free(file);
    }
}

/* ---- what is refused ---- */

static void check_refused(const char *path, enum status expected, const char *says)
{
    struct checkpoint checkpoint;
    struct error err = {0};
    const enum status status = checkpoint_open(&checkpoint, path, &err);

    if (status != expected || !strstr(err.text, says)) printf("expected '%s': %s\n", says, err.text);
    CU_ASSERT(status == expected && strstr(err.text, path) && strstr(err.text, says));
    checkpoint_close(&checkpoint);
}

static const struct bad {
    int version;
    unsigned at, bytes;
    uint64_t value;
    enum status expected;
    const char *says;
} bads[] = {
    /* Version 0 has no signature: what does not fit is no llama2.c model. */
    {0, 0, 4, 17, ERR_FORMAT, "damaged, or not a model file"},
    {0, 8, 4, 0, ERR_FORMAT, "damaged, or not a model file"},
    {0, 12, 4, 3, ERR_FORMAT, "damaged, or not a model file"},
    {0, 20, 4, 0x80000000, ERR_FORMAT, "damaged, or not a model file"},
    {0, 24, 4, 31, ERR_FORMAT, "damaged, or not a model file"},
    {1, 4, 4, 3, ERR_UNSUPPORTED, "llama2.c version 3; 0, 1 and 2 are read"},
    {1, 4, 4, 0, ERR_UNSUPPORTED, "llama2.c version 0;"},
    {1, 8, 4, 0, ERR_FORMAT, "dim is 0, must be 1 to 16777216"},
    {1, 12, 4, UINT32_MAX, ERR_FORMAT, "hidden_dim is -1, must be 1 to 16777216"},
    {1, 16, 4, 0x7FFFFFFF, ERR_FORMAT, "n_layers is 2147483647"},
    {1, 16, 4, 0x1000000, ERR_FORMAT, "describes a file of another size"},
    {1, 20, 4, 3, ERR_FORMAT, "dim 16 is no even number for each of n_heads 3"},
    {1, 20, 4, 16, ERR_FORMAT, "dim 16 is no even number for each of n_heads 16"},
    {1, 24, 4, 3, ERR_FORMAT, "n_heads 4 is no multiple of n_kv_heads 3"},
    {1, 24, 4, 8, ERR_FORMAT, "n_heads 4 is no multiple of n_kv_heads 8"},
    {1, 28, 4, (uint64_t)-300, ERR_FORMAT, "vocab_size is -300"},
    {1, 28, 4, 301, ERR_FORMAT, "describes a file of another size than"},
    {1, 36, 1, 2, ERR_FORMAT, "shared_classifier at byte 36 is 2"},
    {1, 36, 1, 0, ERR_FORMAT, "describes a file of another size than"},
    {2, 37, 4, 0, ERR_FORMAT, "group size 0 at byte 37 does not divide dim 16"},
    {2, 37, 4, 3, ERR_FORMAT, "group size 3 at byte 37 does not divide dim 16"},
    {2, 37, 4, 8, ERR_FORMAT, "describes a file of another size than"},
};

static void test_headers(void)
{
    struct container *folder = open_folder(true);

    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        uint64_t count;
        uint8_t *file = llama2c_file_make(&count, folder, sizes, bads[i].version, GROUP);
        char name[64];
        bytes_put(file + bads[i].at, bads[i].value, bads[i].bytes);
        testing_write(testing_path("bad.bin"), file, count);
        snprintf(name, sizeof name, "header-%zu", i);
        if (i % 4 == 0) corpus_keep("llama2c", name, file, count);
        check_refused(testing_path("bad.bin"), bads[i].expected, bads[i].says);
        memory_free(file);
    }
    container_close(folder);
}

static void test_cut(void)
{
    struct container *folder = open_folder(true);
    const char *path = testing_path("cut.bin");

    for (int version = 0; version < 3; version++) {
        uint64_t count;
        uint8_t *file = llama2c_file_make(&count, folder, sizes, version, GROUP);
        for (uint64_t part = 0; part < count; part += part < 300 ? 1 : 997) {
            struct checkpoint checkpoint;
            struct error err = {0};
            remove(path); /* writing over a file waits for the disk on some file systems */
            testing_write(path, file, part);
            CHECK(checkpoint_open(&checkpoint, path, &err) == ERR_FORMAT, &err);
            checkpoint_close(&checkpoint);
        }
        memory_free(file);
    }
    container_close(folder);
}

/* The layout of some months of 2023: all codes, then all scales. */
static void test_scales(void)
{
    struct container *folder = open_folder(true);
    uint64_t count;
    uint8_t *file = llama2c_file_make(&count, folder, sizes, 2, GROUP);
    const uint64_t scales = 256 + 4 * 16 * 5 + 300 * 16;

    bytes_put(file + scales + 4, 0x80000000 | 0x3F000000, 4);
    testing_write(testing_path("scales.bin"), file, count);
    check_refused(testing_path("scales.bin"), ERR_FORMAT,
        "tensor tok_embeddings.weight: scale 1 at byte 5380 is -0.5: damaged, or written by an export.py "
        "that put all");
    memory_free(file);
    container_close(folder);
}

/* Every allocation of opening may fail. */
static void test_memory(void)
{
    struct container *folder = open_folder(true);
    uint64_t count, bytes;
    uint8_t *file = llama2c_file_make(&count, folder, sizes, 2, GROUP),
            *tokens = llama2c_file_tokens(&bytes, 300);
    enum status status = ERR_MEMORY;

    testing_write(testing_path("model.bin"), file, count);
    testing_write(testing_path("tokenizer.bin"), tokens, bytes);
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        struct checkpoint checkpoint;
        struct error err = {0};
        memory_fail_at(nth, 1);
        status = checkpoint_open(&checkpoint, testing_path("model.bin"), &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
        checkpoint_close(&checkpoint);
    }
    CU_ASSERT_EQUAL(status, OK);
    memory_free(file);
    memory_free(tokens);
    container_close(folder);
}

/* ---- tokens ---- */

/* The fuzz target's way to say that these are tokens, and how many. */
static void keep_tokens(const uint8_t *tokens, uint64_t bytes, const char *name)
{
    static int number;
    char kept[64];
    uint8_t *whole = memory_new(bytes + 3, 1, NULL);

    REQUIRE(whole != NULL, NULL);
    bytes_put(whole, 'T' | 300 << 8, 3);
    memcpy(whole + 3, tokens, bytes);
    snprintf(kept, sizeof kept, "%s-%d", name, number++);
    corpus_keep("llama2c", kept, whole, bytes + 3);
    memory_free(whole);
}

static void check_tokens(
    const uint8_t *tokens, uint64_t bytes, const char *name, enum status expected, const char *says)
{
    testing_write(testing_path("%s", name), tokens, bytes);
    keep_tokens(tokens, bytes, name);
    check_refused(testing_path("model.bin"), expected, says);
    REQUIRE(unlink(testing_path("%s", name)) == 0, NULL);
}

static void test_tokens(void)
{
    struct container *folder = open_folder(true);
    uint64_t count, bytes;
    uint8_t *file = llama2c_file_make(&count, folder, sizes, 0, 0);
    uint8_t *tokens = llama2c_file_tokens(&bytes, 300);

    testing_write(testing_path("model.bin"), file, count);
    keep_tokens(tokens, bytes, "sound");
    check_tokens(tokens, 3, "tokenizer.bin", ERR_FORMAT, "tokenizer.bin beside it: 3 bytes are too few");
    check_tokens(tokens, bytes - 1, "tok300.bin", ERR_FORMAT, "token 299 at byte");
    memory_free(tokens);
    tokens = llama2c_file_tokens(&bytes, 301);
    check_tokens(tokens, bytes, "tok300.bin", ERR_FORMAT, "after the 300 tokens that the model has");
    memory_free(tokens);
    tokens = llama2c_file_tokens(&bytes, 299);
    check_tokens(tokens, bytes, "tokenizer.bin", ERR_FORMAT, "is cut short; the model has 300 tokens");
    memory_free(tokens);
    tokens = llama2c_file_tokens(&bytes, 300);
    tokens[4 + 8 + 5 + 8 + 5 + 8 + 6 + 8] = 0; /* in <0x00> */
    check_tokens(tokens, bytes, "tokenizer.bin", ERR_UNSUPPORTED, "token 3 at byte 44: holds U+0000");
    tokens[4 + 8 + 5 + 8 + 5 + 8 + 6 + 8] = 0xFF;
    check_tokens(tokens, bytes, "tokenizer.bin", ERR_FORMAT, "token 3 at byte 44: is no UTF-8 text");
    tokens[4 + 8 + 5 + 8 + 5 + 8 + 6 + 8] = '<';
    bytes_put(tokens + 4, 0x7FC00000, 4);
    check_tokens(tokens, bytes, "tokenizer.bin", ERR_FORMAT, "token 0 at byte 4: its score is not finite");
    memory_free(tokens);
    memory_free(file);
    container_close(folder);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"every version", test_versions},
        {"smallest", test_smallest},
        {"headers", test_headers},
        {"cut short", test_cut},
        {"scales", test_scales},
        {"no memory", test_memory},
        {"tokens", test_tokens},
    };

    return TESTING_RUN("llama2c", cases);
}
