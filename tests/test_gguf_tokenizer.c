/* Tokenizers of GGUF metadata: the golden tokenizers, taken apart as llama.cpp's converter does, must give the golden ids and
 * texts when put together again; and what cannot be put together is refused by name. */
#include "model/tokenizer/gguf_tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/gguf_file.h"
#include "tests/support/golden_texts.h"
#include "tests/support/testing.h"

enum { TOKENS_MOST = 2048 };

/* A golden tokenizer as lists. */
struct parts {
    const char *tokens[TOKENS_MOST];
    int32_t types[TOKENS_MOST];
    float scores[TOKENS_MOST];
    char merge_texts[TOKENS_MOST][128];
    const char *merges[TOKENS_MOST];
    uint64_t token_count, merge_count;
};

static struct parts parts; /* of one tokenizer at a time */

/* ---- taking apart ---- */

static void set_token(uint64_t id, const char *text, int32_t type)
{
    REQUIRE(id < TOKENS_MOST, NULL);
    parts.tokens[id] = text;
    parts.types[id] = type;
    if (id >= parts.token_count) parts.token_count = id + 1;
}

static void take_tokens(const struct json_value *root)
{
    const struct json_value *vocab = json_member(json_member(root, "model"), "vocab");

    for (const struct json_value *token = vocab->children; token; token = token->next) {
        const bool byte = token->key.count == 6 && memcmp(token->key.bytes, "<0x", 3) == 0;
        set_token(token->u64, token->key.bytes, byte ? 6 : 1);
    }
    for (const struct json_value *token = json_member(root, "added_tokens")->children; token;
         token = token->next) {
        const char *text = json_member(token, "content")->text.bytes;
        const bool special = json_member(token, "special")->boolean;
        set_token(json_member(token, "id")->u64, text, strcmp(text, "<unk>") == 0 ? 2 : special ? 3 : 4);
    }
}

static uint64_t id_of(const char *token)
{
    for (uint64_t id = 0; id < parts.token_count; id++) {
        if (strcmp(parts.tokens[id], token) == 0) return id;
    }
    REQUIRE(!"no such token", NULL);
    return 0;
}

/* Merges as texts; the earlier a merge, the higher the score of what it makes. */
static void take_merges(const struct json_value *root)
{
    const struct json_value *list = json_member(json_member(root, "model"), "merges");

    for (uint64_t id = 0; id < parts.token_count; id++)
        parts.scores[id] = -1e6f;
    for (const struct json_value *merge = list->children; merge; merge = merge->next) {
        const bool pair = merge->kind == JSON_ARRAY;
        char *text = parts.merge_texts[parts.merge_count], whole[128];
        snprintf(text, 128, "%s%s%s", pair ? merge->children->text.bytes : merge->text.bytes, pair ? " " : "",
            pair ? merge->children->next->text.bytes : "");
        const size_t left = strcspn(text, " ");
        snprintf(whole, sizeof whole, "%.*s%s", (int)left, text, text + left + 1);
        float *score = &parts.scores[id_of(whole)];
        if (*score == -1e6f) *score = -(float)parts.merge_count;
        parts.merges[parts.merge_count++] = text;
    }
}

/* ---- putting together ---- */

static struct tokenizer *tokenizer_of(const char *path)
{
    struct container *container = NULL;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes = 0;

    REQUIRE(container_open(&container, path, &err) == OK, &err);
    REQUIRE(gguf_tokenizer_write(&text, &bytes, container_metadata(container), &err) == OK, &err);
    REQUIRE(text != NULL, NULL);
    REQUIRE(tokenizer_create(&tokenizer, path, text, bytes, &err) == OK, &err);
    memory_free(text);
    container_close(container);
    return tokenizer;
}

struct row {
    const char *name, *model, *pre, *bos;
};

static const char *write_parts(const struct row *row)
{
    struct gguf_file file = {0};
    const char *path = testing_path("%s.gguf", row->name);

    gguf_file_string(&file, "tokenizer.ggml.model", row->model);
    gguf_file_strings(&file, "tokenizer.ggml.tokens", parts.tokens, parts.token_count);
    gguf_file_i32s(&file, "tokenizer.ggml.token_type", parts.types, parts.token_count);
    if (row->bos) gguf_file_u32(&file, "tokenizer.ggml.bos_token_id", (uint32_t)id_of(row->bos));
    if (row->pre) {
        gguf_file_string(&file, "tokenizer.ggml.pre", row->pre);
        gguf_file_strings(&file, "tokenizer.ggml.merges", parts.merges, parts.merge_count);
    } else {
        gguf_file_f32s(&file, "tokenizer.ggml.scores", parts.scores, parts.token_count);
    }
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    return path;
}

/* ---- golden ---- */

static void check_row(const struct row *row)
{
    char relative[128];
    snprintf(relative, sizeof relative, "golden/tokenizer/%s.json", row->name);
    struct json_document *document = golden_texts_parse(testing_source(relative));
    snprintf(relative, sizeof relative, "golden/tokenizer/%s.cases.json", row->name);
    struct json_document *cases = golden_texts_parse(testing_source(relative));
    uint64_t texts = 0;

    memset(&parts, 0, sizeof parts);
    take_tokens(json_root(document));
    take_merges(json_root(document));
    struct tokenizer *tokenizer = tokenizer_of(write_parts(row));
    for (const struct json_value *one = json_root(cases)->children; one; one = one->next, texts++) {
        golden_texts_check_one(tokenizer, one, false, row->name);
        golden_texts_check_one(tokenizer, one, true, row->name);
    }
    CU_ASSERT_TRUE(texts > 100);
    tokenizer_free(tokenizer);
    json_free(cases);
    json_free(document);
}

static void golden(void)
{
    static const struct row rows[] = {
        {"sp", "llama", NULL, NULL},
        {"gpt2", "gpt2", "gpt-2", NULL},
        {"llama3", "gpt2", "llama-bpe", "<|begin_of_text|>"},
        {"qwen2", "gpt2", "qwen2", NULL},
        {"tekken", "gpt2", "tekken", "<s>"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_row(&rows[i]);
}

/* ---- flags ---- */

static const char *const letters[] = {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "ab",
    "\xE2\x96\x81"
    "ab"};
static const int32_t letter_types[] = {2, 3, 3, 1, 1, 1, 1, 1};
static const float letter_scores[] = {0, 0, 0, -4, -5, -6, -1, -2};

static void add_letters(struct gguf_file *file)
{
    gguf_file_string(file, "tokenizer.ggml.model", "llama");
    gguf_file_strings(file, "tokenizer.ggml.tokens", letters, 8);
    gguf_file_i32s(file, "tokenizer.ggml.token_type", letter_types, 8);
    gguf_file_f32s(file, "tokenizer.ggml.scores", letter_scores, 8);
}

static void check_ids(
    struct gguf_file *file, const char *text, const uint32_t *expected, uint64_t expected_count)
{
    const char *path = testing_path("letters.gguf");
    struct error err = {0};
    uint32_t *ids = NULL;
    uint64_t count = 0;

    gguf_file_store(file, path);
    gguf_file_free(file);
    struct tokenizer *tokenizer = tokenizer_of(path);
    REQUIRE(tokenizer_encode(tokenizer, &ids, &count, text, strlen(text), true, &err) == OK, &err);
    CU_ASSERT_EQUAL_FATAL(count, expected_count);
    CU_ASSERT_TRUE(memcmp(ids, expected, count * sizeof *ids) == 0);
    memory_free(ids);
    tokenizer_free(tokenizer);
}

static void flags(void)
{
    struct gguf_file file = {0};

    add_letters(&file);
    check_ids(&file, "ab", (const uint32_t[]){1, 7}, 2);
    add_letters(&file);
    gguf_file_bool(&file, "tokenizer.ggml.add_space_prefix", false);
    gguf_file_bool(&file, "tokenizer.ggml.add_bos_token", false);
    gguf_file_bool(&file, "tokenizer.ggml.add_eos_token", true);
    check_ids(&file, "ab", (const uint32_t[]){6, 2}, 2);
}

/* ---- refusals ---- */

static void check_refused(struct gguf_file *file, enum status expected, const char *says)
{
    struct container *container = NULL;
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes;
    const char *path = testing_path("refused.gguf");

    gguf_file_store(file, path);
    gguf_file_free(file);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CHECK(gguf_tokenizer_write(&text, &bytes, container_metadata(container), &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_PTR_NULL(text);
    container_close(container);
}

/* A file with these lists; NULL: left out. */
static struct gguf_file lists(const char *model, const char *const *tokens, uint64_t count,
    const int32_t *types, uint64_t type_count, const float *scores, uint64_t score_count)
{
    struct gguf_file file = {0};

    gguf_file_string(&file, "tokenizer.ggml.model", model);
    if (tokens) gguf_file_strings(&file, "tokenizer.ggml.tokens", tokens, count);
    if (types) gguf_file_i32s(&file, "tokenizer.ggml.token_type", types, type_count);
    if (scores) gguf_file_f32s(&file, "tokenizer.ggml.scores", scores, score_count);
    return file;
}

static void refused_lists(void)
{
    static const char *const twice[] = {"a", "b", "a"}, *const broken[] = {"a", "\xFF"};
    static const int32_t no_type[] = {1, 7};
    static const float no_score[] = {0, INFINITY};
    struct gguf_file file = lists("llama", NULL, 0, NULL, 0, NULL, 0);

    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.tokens is missing");
    file = lists("llama", letters, 0, NULL, 0, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.tokens: is empty");
    file = lists("llama", letters, 8, letter_types, 7, letter_scores, 8);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.token_type: 7 elements, there are 8 tokens");
    file = lists("llama", letters, 8, letter_types, 8, letter_scores, 6);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.scores: 6 elements, there are 8 tokens");
    file = lists("llama", letters, 8, letter_types, 8, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.scores is missing");
    file = lists("llama", twice, 3, NULL, 0, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.tokens[2]: the token \"a\" is there twice");
    file = lists("llama", broken, 2, NULL, 0, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.tokens[1]: is no UTF-8");
    file = lists("llama", letters, 2, no_type, 2, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.token_type[1]: 7 is no type of token");
    file = lists("llama", letters, 2, NULL, 0, no_score, 2);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.scores[1]: is not finite");
}

static void refused_kinds(void)
{
    static char long_piece[1100];
    const char *const long_tokens[] = {"a", long_piece};
    struct gguf_file file = lists("bert", letters, 8, NULL, 0, NULL, 0);

    check_refused(&file, ERR_UNSUPPORTED, "tokenizer.ggml.model: bert is not known (known: llama, gpt2, t5)");
    file = lists("gpt2", letters, 8, NULL, 0, NULL, 0);
    gguf_file_string(&file, "tokenizer.ggml.pre", "viking");
    check_refused(&file, ERR_UNSUPPORTED, "tokenizer.ggml.pre: viking is not known");
    file = lists("gpt2", letters, 8, NULL, 0, NULL, 0);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.merges is missing");
    file = lists("gpt2", letters, 8, NULL, 0, NULL, 0);
    gguf_file_bool(&file, "tokenizer.ggml.add_bos_token", true);
    check_refused(
        &file, ERR_FORMAT, "tokenizer.ggml.bos_token_id is missing, but tokenizer.ggml.add_bos_token");
    add_letters(&file);
    gguf_file_u32(&file, "tokenizer.ggml.bos_token_id", 8);
    check_refused(&file, ERR_FORMAT, "tokenizer.ggml.bos_token_id: is 8, must be 0 to 7");
    add_letters(&file);
    gguf_file_bool(&file, "tokenizer.ggml.remove_extra_whitespaces", true);
    check_refused(&file, ERR_UNSUPPORTED, "remove_extra_whitespaces");
    memset(long_piece, 'x', sizeof long_piece - 1);
    file = lists("llama", long_tokens, 2, NULL, 0, letter_scores, 2);
    check_refused(&file, ERR_UNSUPPORTED, "token 1: 1099 bytes are more than 1024");
}

/* No tokenizer in the file is no error. */
static void none(void)
{
    struct container *container = NULL;
    struct gguf_file file = {0};
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes;
    const char *path = testing_path("none.gguf");

    gguf_file_string(&file, "general.architecture", "llama");
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CU_ASSERT_EQUAL(gguf_tokenizer_write(&text, &bytes, container_metadata(container), &err), OK);
    CU_ASSERT_PTR_NULL(text);
    container_close(container);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden tokenizers", golden},
        {"what goes around a text", flags},
        {"lists that do not fit", refused_lists},
        {"kinds that are not known", refused_kinds},
        {"no tokenizer", none},
    };

    return TESTING_RUN("gguf_tokenizer", cases);
}
