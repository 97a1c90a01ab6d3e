/* Tokenizers that are not a tokenizer.json, found beside a model: the ids of the libraries that they belong to. */
#include "model/tokenizer/tokenizer_files.h"

#include <stdio.h>

#include "model/checkpoint.h"
#include "tests/support/golden_texts.h"
#include "tests/support/tokenizer_folder.h"

/* Files of a golden folder, or those below ../shared/data, copied beside a model. */
static void copy(const char *from, const char *name)
{
    uint64_t bytes;
    char *text = testing_read(from, &bytes);

    testing_write(testing_path("%s", name), text, bytes);
    memory_free(text);
}

static const char *golden_folder(const char *name)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt",
        "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"};
    const char *folder = tokenizer_folder_make();
    char relative[200];

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(relative, sizeof relative, "golden/tokenizer-files/%s/%s", name, files[i]);
        FILE *file = fopen(testing_source(relative), "rb");
        if (!file) continue;
        fclose(file);
        copy(testing_source(relative), files[i]);
    }
    return folder;
}

/* ---- golden ---- */

static void check_cases(const char *folder, const char *cases_path, const char *name)
{
    struct container *container = tokenizer_folder_open(folder);
    struct json_document *cases = golden_texts_parse(testing_source(cases_path));
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    uint64_t texts = 0;

    REQUIRE(checkpoint_tokenizer(&tokenizer, container, &err) == OK && tokenizer, &err);
    for (const struct json_value *one = json_root(cases)->children; one; one = one->next, texts++) {
        golden_texts_check_one(tokenizer, one, false, name);
        golden_texts_check_one(tokenizer, one, true, name);
    }
    CU_ASSERT_TRUE(texts > 100);
    tokenizer_free(tokenizer);
    json_free(cases);
    container_close(container);
}

static void golden(void)
{
    static const char *const names[] = {"sp-llama", "sp-strip", "sp-gemma", "sp-unknown", "sp-unigram",
        "sp-unigram-bytes", "sp-unigram-rules", "vm-gpt2", "vm-gpt2-bos", "vm-qwen2", "tj-neox", "tj-olmo2",
        "tj-unigram-t5", "tj-unigram-albert", "tj-unigram-nmt"};
    char cases[200];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(cases, sizeof cases, "golden/tokenizer-files/%s/cases.json", names[i]);
        check_cases(golden_folder(names[i]), cases, names[i]);
    }
}

static void shared_llama2(void)
{
    const char *model = testing_shared("tokenizers/llama2/tokenizer.model");

    if (!model) {
        printf("\n    skipped: Llama 2's tokenizer.model, which is not here\n");
        return;
    }
    const char *folder = tokenizer_folder_make();
    copy(model, "tokenizer.model");
    check_cases(folder, "golden/tokenizer-files/shared-llama2.cases.json", "llama2");
}

/* wiki-6M has both files, made independently. */
static void shared_both(void)
{
    static const char *const paths[] = {"models/wiki-6M/tokenizer.model", "models/wiki-6M/tokenizer.json"};
    static const char *const names[] = {"tokenizer.model", "tokenizer.json"};
    uint32_t *ids[2] = {NULL, NULL};
    uint64_t counts[2] = {0, 0}, bytes;

    if (!testing_shared(paths[0]) || !testing_shared("text/wiki-eval.txt")) {
        printf("\n    skipped: wiki-6M, which is not here\n");
        return;
    }
    char *text = testing_read(testing_shared("text/wiki-eval.txt"), &bytes);
    for (unsigned i = 0; i < 2; i++) {
        struct tokenizer *tokenizer = NULL;
        struct error err = {0};
        const char *folder = tokenizer_folder_make();
        copy(testing_shared(paths[i]), names[i]);
        struct container *container = tokenizer_folder_open(folder);
        REQUIRE(checkpoint_tokenizer(&tokenizer, container, &err) == OK && tokenizer, &err);
        CHECK(tokenizer_encode(tokenizer, &ids[i], &counts[i], text, bytes, true, &err) == OK, &err);
        tokenizer_free(tokenizer);
        container_close(container);
    }
    CU_ASSERT_TRUE(counts[0] == 97007 && counts[0] == counts[1]);
    CU_ASSERT_TRUE(memcmp(ids[0], ids[1], counts[0] * sizeof *ids[0]) == 0);
    memory_free(ids[0]);
    memory_free(ids[1]);
    memory_free(text);
}

/* ---- what is used, and what is refused ---- */

static void check_attached(const char *folder, enum status expected, const char *made_of, const char *says)
{
    struct container *container = tokenizer_folder_open(folder);
    struct error err = {0};
    const char *found = NULL;

    CHECK(tokenizer_files_attach(&found, container, &err) == expected, &err);
    if (expected) CHECK(strstr(err.text, says) != NULL, &err);
    if (!expected && made_of) CU_ASSERT_TRUE(found && strcmp(found, made_of) == 0);
    if (!expected && !made_of) CU_ASSERT_PTR_NULL(found);
    container_close(container);
}

static void choice(void)
{
    const char *folder = golden_folder("sp-llama");

    testing_write(testing_path("vocab.json"), "{}", 2);
    testing_write(testing_path("merges.txt"), "", 0);
    check_attached(folder, OK, "tokenizer.model", NULL);
    testing_write(testing_path("tokenizer.json"), "{}", 2);
    check_attached(folder, OK, NULL, NULL);
    check_attached(golden_folder("vm-gpt2"), OK, "vocab.json and merges.txt", NULL);
    check_attached(tokenizer_folder_make(), OK, NULL, NULL);
    folder = tokenizer_folder_make();
    copy(testing_source("golden/tokenizer-files/sp-unigram/tokenizer.model"), "spiece.model");
    check_attached(folder, OK, "spiece.model", NULL);
    folder = tokenizer_folder_make();
    testing_write(testing_path("vocab.json"), "{}", 2);
    check_attached(folder, OK, NULL, NULL);
}

static void refused(void)
{
    static const char camembert[] = "{\"tokenizer_class\":\"CamembertTokenizerFast\"}";
    const char *folder = golden_folder("sp-unigram");

    testing_write(testing_path("tokenizer_config.json"), camembert, sizeof camembert - 1);
    check_attached(folder, ERR_UNSUPPORTED, NULL, "tokenizer.model: tokenizer_class CamembertTokenizer");
    folder = golden_folder("vm-gpt2");
    testing_write(testing_path("tokenizer_config.json"), "{", 1);
    check_attached(folder, ERR_FORMAT, NULL, "tokenizer_config.json");
    testing_write(testing_path("tokenizer_config.json"), "{}", 2);
    check_attached(folder, ERR_UNSUPPORTED, NULL, "without a tokenizer_class");
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden", golden},
        {"shared: Llama 2", shared_llama2},
        {"shared: one tokenizer in two forms", shared_both},
        {"which file is used", choice},
        {"what is refused", refused},
    };

    return TESTING_RUN("tokenizer_files", cases);
}
