/* The unigram model: the best of all ways to cut a word, found by trying them all; equal sums, unknown characters, long runs.
 * Real models are held to sentencepiece and tokenizers in test_tokenizer_files.c. */
#include "model/tokenizer/unigram.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "tests/support/testing.h"

struct model {
    struct vocabulary vocabulary;
    struct unigram unigram;
};

static enum status read_model(struct model *model, const char *section, struct error *err)
{
    const struct json_text text = {section, strlen(section)};

    *model = (struct model){0};
    return unigram_read(&model->unigram, &model->vocabulary, &text, err);
}

static void release(struct model *model)
{
    unigram_free(&model->unigram);
    vocabulary_free(&model->vocabulary);
}

static enum status encode(
    const struct model *model, const char *word, uint64_t bytes, struct id_list *ids, struct error *err)
{
    struct unigram_scratch scratch = {0};
    const enum status status = unigram_encode(&model->unigram, &scratch, word, bytes, ids, err);

    unigram_scratch_free(&scratch);
    return status;
}

static void check(const struct model *model, const char *word, const char *expected)
{
    struct id_list ids = {0};
    struct error err = {0};
    char found[300] = "";

    CHECK(encode(model, word, strlen(word), &ids, &err) == OK, &err);
    for (uint64_t i = 0, at = 0; i < ids.count; i++)
        at += (uint64_t)snprintf(found + at, sizeof found - at, "%s%u", i ? " " : "", ids.ids[i]);
    testing_check(strcmp(found, expected) == 0, found, NULL, __FILE__, __LINE__);
    memory_free(ids.ids);
}

/* ---- by hand ---- */

static void ties(void)
{
    struct model model;
    struct error err = {0};

    REQUIRE(read_model(&model, "{\"vocab\":[[\"a\",-1],[\"aa\",-1.5],[\"aaa\",-2.5],[\"\",0]]}", &err) == OK,
        &err);
    check(&model, "", "");
    check(&model, "a", "0");
    check(&model, "aaa", "2"); /* a aa, aa a and aaa are equal: the first found begins first */
    check(&model, "aaaa", "1 1");
    release(&model);
}

static void unknown(void)
{
    struct model model;
    struct error err = {0};
    struct id_list ids = {0};

    REQUIRE(read_model(&model, "{\"vocab\":[[\"<unk>\",0],[\"a\",-1]],\"unk_id\":0}", &err) == OK, &err);
    check(&model, "axya", "1 0 1");
    check(&model, "\xE2\x82\xAC\xF0\x9F\x98\x80", "0");
    check(&model, "x<unk>a", "0 1");
    release(&model);
    REQUIRE(read_model(&model,
                "{\"vocab\":[[\"u\",0],[\"a\",-1],[\"<0x78>\",-1],[\"<0x79>\",-1]],\"unk_id\":0,\"byte_"
                "fallback\":true}",
                &err) == OK,
        &err);
    check(&model, "axya", "1 2 3 1");
    check(&model, "xz", "0"); /* z has no byte: neither has what stands beside it */
    check(&model, "axu", "1 0");
    release(&model);
    REQUIRE(read_model(&model, "{\"vocab\":[[\"a\",-1],[\"ab\",-3]],\"unk_id\":null}", &err) == OK, &err);
    check(&model, "aaba", "0 1 0");
    CHECK(encode(&model, "ax", 2, &ids, &err) == ERR_FORMAT && strstr(err.text, "no unk_id"), &err);
    memory_free(ids.ids);
    release(&model);
}

/* ---- all ways ---- */

/* The highest sum over all ways to cut a word from `at` on. */
static double best_of(const struct model *model, const char *word, uint64_t bytes, uint64_t at)
{
    double best = at == bytes ? 0 : -1e300;

    for (uint64_t end = at + 1; end <= bytes; end++) {
        const uint32_t entry = vocabulary_find_model(&model->vocabulary, word + at, end - at);
        double score;
        if (entry != NO_ENTRY)
            score = model->unigram.scores[entry];
        else if (end == at + 1)
            score = model->unigram.unknown_score;
        else
            continue;
        const double sum = score + best_of(model, word, bytes, end);
        if (sum > best) best = sum;
    }
    return best;
}

static double sum_of(const struct model *model, const struct id_list *ids)
{
    double sum = 0;

    for (uint64_t i = 0; i < ids->count; i++)
        sum += model->unigram.scores[ids->ids[i]];
    return sum;
}

/* Pieces of one to four letters of three, single ones among them, and scores in sixteenths, so that sums are exact. */
static void make_random(struct model *model, unsigned *seed)
{
    char section[4096];
    struct error err = {0};
    size_t at = (size_t)snprintf(section, sizeof section, "{\"vocab\":[[\"a\",-4],[\"b\",-5],[\"c\",-3.5]");

    for (unsigned code = 0; code < 117; code++) { /* all words of two to four letters */
        const unsigned length = code < 9 ? 2 : code < 36 ? 3 : 4, start = code < 9 ? 0 : code < 36 ? 9 : 36;
        char word[5] = "";
        for (unsigned i = 0, rest = code - start; i < length; i++, rest /= 3)
            word[i] = (char)('a' + rest % 3);
        *seed = *seed * 1103515245 + 12345;
        if (*seed >> 16 & 3) continue;
        at += (size_t)snprintf(
            section + at, sizeof section - at, ",[\"%s\",%g]", word, -(double)(*seed >> 20 & 255) / 16);
    }
    snprintf(section + at, sizeof section - at, "]}");
    REQUIRE(read_model(model, section, &err) == OK, &err);
}

static void all_ways(void)
{
    unsigned seed = 1;

    for (unsigned round = 0; round < 40; round++) {
        struct model model;
        make_random(&model, &seed);
        for (unsigned i = 0; i < 20; i++) {
            struct id_list ids = {0};
            struct error err = {0};
            char word[13];
            for (unsigned k = 0; k < 12; k++) {
                seed = seed * 1103515245 + 12345;
                word[k] = (char)('a' + (seed >> 16) % 3);
            }
            CHECK(encode(&model, word, 12, &ids, &err) == OK, &err);
            CU_ASSERT_TRUE(sum_of(&model, &ids) == best_of(&model, word, 12, 0));
            memory_free(ids.ids);
        }
        release(&model);
    }
}

/* ---- limits ---- */

static void long_runs(void)
{
    enum { COUNT = 1 << 20 };
    struct model model;
    struct error err = {0};
    struct id_list ids = {0};
    char *word = memory_new(COUNT, 1, &err);

    REQUIRE(word != NULL, &err);
    memset(word, 'a', COUNT);
    REQUIRE(read_model(&model, "{\"vocab\":[[\"a\",-1],[\"aaaaaaaa\",-2]]}", &err) == OK, &err);
    CHECK(encode(&model, word, COUNT, &ids, &err) == OK, &err);
    CU_ASSERT_EQUAL(ids.count, COUNT / 8);
    memory_free(ids.ids);
    memory_free(word);
    release(&model);
}

static void long_piece(void)
{
    char section[1200];
    struct model model;
    struct error err = {0};

    for (int bytes = PIECE_BYTES_LIMIT; bytes < PIECE_BYTES_LIMIT + 2; bytes++) {
        snprintf(section, sizeof section, "{\"vocab\":[[\"%0*d\",-1]]}", bytes, 0);
        const enum status status = read_model(&model, section, &err);
        CHECK(status == (bytes > PIECE_BYTES_LIMIT ? ERR_UNSUPPORTED : OK), &err);
        release(&model);
    }
    CU_ASSERT_TRUE(strstr(err.text, "token 0: 1025 bytes") != NULL);
}

static enum status use(struct error *err)
{
    struct model model;
    struct id_list ids = {0};
    enum status status =
        read_model(&model, "{\"vocab\":[[\"u\",0],[\"a\",-1],[\"ab\",-1]],\"unk_id\":0}", err);

    if (!status) status = encode(&model, "abaxb", 5, &ids, err);
    memory_free(ids.ids);
    release(&model);
    return status;
}

static void memory_faults(void)
{
    enum status status;
    uint64_t nth = 0;

    do {
        struct error err = {0};
        memory_fail_at(++nth, 0);
        status = use(&err);
        memory_fail_at(0, 0);
        CHECK(status == OK || (status == ERR_MEMORY && err.text[0]), &err);
    } while (status && nth < 1000);
    CU_ASSERT_TRUE(nth > 10);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"equal sums", ties},
        {"unknown characters", unknown},
        {"all ways", all_ways},
        {"long runs", long_runs},
        {"long pieces", long_piece},
        {"memory faults", memory_faults},
    };

    return TESTING_RUN("unigram", cases);
}
