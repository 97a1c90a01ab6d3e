/* Tokenizers written as GGUF metadata: read back they must give the golden ids, and what GGUF cannot say is refused by name or
 * noted. */
#include "model/tokenizer/gguf_tokenizer_export.h"

#include <inttypes.h>
#include <stdlib.h>

#include "model/tokenizer/gguf_tokenizer.h"
#include "model/tokenizer/tokenizer_files.h"
#include "tests/support/golden_texts.h"
#include "tests/support/tokenizer_folder.h"

/* ---- a folder with a tokenizer, and a file of its metadata ---- */

/* tokenizer: the text of tokenizer.json; NULL: none. */
static const char *make_folder(const char *tokenizer, uint64_t bytes, const char *config)
{
    const char *folder = tokenizer_folder_make();

    if (tokenizer) testing_write(testing_path("tokenizer.json"), tokenizer, bytes);
    if (config) testing_write(testing_path("tokenizer_config.json"), config, strlen(config));
    return folder;
}

static enum status export_folder(struct metadata_builder *builder, const char *folder, uint64_t rows,
    char note[GGUF_TOKENIZER_NOTE], struct error *err)
{
    struct container *container = tokenizer_folder_open(folder);
    enum status status = gguf_tokenizer_export(builder, container, rows, note, err);
    container_close(container);
    return status;
}

/* The metadata as a GGUF file without tensors. */
static struct container *open_metadata(const struct metadata_builder *builder)
{
    const char *path = testing_path("tokenizer.gguf");
    struct container *container = NULL;
    struct error err = {0};
    uint8_t *file = calloc(1, 24 + builder->count);

    REQUIRE(file != NULL, NULL);
    memcpy(file, "GGUF\3", 5);
    for (unsigned i = 0; i < 8; i++)
        file[16 + i] = (uint8_t)(builder->pairs >> 8 * i);
    memcpy(file + 24, builder->bytes, builder->count);
    testing_write(path, file, 24 + builder->count);
    free(file);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    return container;
}

static struct tokenizer *tokenizer_of(const struct container *container)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char *text = NULL;
    uint64_t bytes = 0;

    REQUIRE(gguf_tokenizer_write(&text, &bytes, container_metadata(container), &err) == OK, &err);
    REQUIRE(text && tokenizer_create(&tokenizer, "read back", text, bytes, &err) == OK, &err);
    memory_free(text);
    return tokenizer;
}

/* ---- golden ---- */

struct row {
    const char *name, *shared; /* shared: the tokenizer.json, below ../shared/data */
    const char *model, *pre, *note;
};

static bool contains(const struct json_value *text, const char *part)
{
    return strstr(text->text.bytes, part) != NULL;
}

/* Texts where a note says that ids may differ. */
static bool is_excused(const struct row *row, const struct json_value *text)
{
    if (!row->note || strcmp(row->note, "normal form C") == 0) return false;
    return contains(text, "<") || contains(text, "word") || contains(text, "Norm") ||
           contains(text, "norm") || *text->text.bytes == ' ' ||
           strncmp(text->text.bytes, "\xE2\x96\x81", 3) == 0;
}

static void check_texts(const struct row *row, const struct tokenizer *tokenizer)
{
    char relative[128];
    snprintf(relative, sizeof relative, "golden/tokenizer/%s.cases.json", row->name);
    struct json_document *cases = golden_texts_parse(testing_source(relative));
    uint64_t texts = 0;

    for (const struct json_value *one = json_root(cases)->children; one; one = one->next) {
        if (is_excused(row, json_member(one, "text"))) continue;
        golden_texts_check_one(tokenizer, one, false, row->name);
        golden_texts_check_one(tokenizer, one, true, row->name);
        texts++;
    }
    CU_ASSERT_TRUE(texts > 80);
    json_free(cases);
}

static void check_kind(const struct row *row, const struct metadata *metadata)
{
    const char *model = "", *pre = "";
    uint64_t model_bytes = 0, pre_bytes = 0;
    struct error err = {0};

    CHECK(metadata_get_string(metadata, "tokenizer.ggml.model", &model, &model_bytes, &err) == OK, &err);
    CHECK(metadata_get_string(metadata, "tokenizer.ggml.pre", &pre, &pre_bytes, &err) == OK, &err);
    testing_check(model_bytes == strlen(row->model) && memcmp(model, row->model, model_bytes) == 0, row->name,
        NULL, __FILE__, __LINE__);
    testing_check(pre_bytes == strlen(row->pre) && memcmp(pre, row->pre, pre_bytes) == 0, row->name, NULL,
        __FILE__, __LINE__);
}

static void check_row(const struct row *row)
{
    struct metadata_builder builder = {0};
    char note[GGUF_TOKENIZER_NOTE], relative[128];
    struct error err = {0};
    uint64_t bytes;

    snprintf(relative, sizeof relative, "golden/tokenizer/%s.json", row->name);
    const char *path = row->shared ? testing_shared(row->shared) : testing_source(relative);
    if (!path) {
        printf("\n    skipped: %s, which is not here\n", row->shared);
        return;
    }
    char *text = testing_read(path, &bytes);
    const char *folder = make_folder(text, bytes, NULL);
    memory_free(text);
    testing_check(export_folder(&builder, folder, 0, note, &err) == OK, row->name, &err, __FILE__, __LINE__);
    testing_check(row->note ? strstr(note, row->note) != NULL : !note[0], note, NULL, __FILE__, __LINE__);
    struct container *container = open_metadata(&builder);
    check_kind(row, container_metadata(container));
    struct tokenizer *tokenizer = tokenizer_of(container);
    check_texts(row, tokenizer);
    tokenizer_free(tokenizer);
    container_close(container);
    metadata_builder_free(&builder);
}

static void golden(void)
{
    static const struct row rows[] = {
        {"sp", NULL, "llama", "default", NULL},
        {"gemma", NULL, "llama", "default", NULL},
        {"sp-metaspace", NULL, "llama", "default", "begins with one"},
        {"added-sp", NULL, "llama", "default", "lstrip"},
        {"added-metaspace", NULL, "llama", "default", "begins with one"},
        {"gpt2", NULL, "gpt2", "gpt-2", NULL},
        {"llama3", NULL, "gpt2", "llama-bpe", NULL},
        {"qwen2", NULL, "gpt2", "qwen2", "normal form C"},
        {"tekken", NULL, "gpt2", "tekken", NULL},
        {"digits-bytelevel", NULL, "gpt2", "smollm", NULL},
        {"deepseek", NULL, "gpt2", "deepseek-coder", NULL},
        {"shared-wiki-6M", "models/wiki-6M/tokenizer.json", "llama", "default", NULL},
        {"shared-stories260K", "models/stories260K/tokenizer.json", "llama", "default", NULL},
        {"shared-TinyStories-656K", "models/TinyStories-656K/tokenizer.json", "llama", "default",
            "no tokens for bytes"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_row(&rows[i]);
}

/* Made of a tokenizer.model: written as "t5" and read back, the ids of sentencepiece. */
static void check_unigram(const char *name, const char *says)
{
    struct metadata_builder builder = {0};
    struct error err = {0};
    const char *made_of, *folder = tokenizer_folder_make();
    char note[GGUF_TOKENIZER_NOTE], relative[128];
    uint64_t bytes;

    snprintf(relative, sizeof relative, "golden/tokenizer-files/%s/tokenizer.model", name);
    char *model = testing_read(testing_source(relative), &bytes);
    testing_write(testing_path("tokenizer.model"), model, bytes);
    memory_free(model);
    struct container *container = tokenizer_folder_open(folder);
    CHECK(tokenizer_files_attach(&made_of, container, &err) == OK, &err);
    CHECK(gguf_tokenizer_export(&builder, container, 0, note, &err) == OK, &err);
    testing_check(*says ? strstr(note, says) != NULL : !note[0], note, NULL, __FILE__, __LINE__);
    container_close(container);
    container = open_metadata(&builder);
    check_kind(&(struct row){.name = name, .model = "t5", .pre = "default"}, container_metadata(container));
    struct tokenizer *tokenizer = tokenizer_of(container);
    snprintf(relative, sizeof relative, "golden/tokenizer-files/%s/cases.json", name);
    struct json_document *cases = golden_texts_parse(testing_source(relative));
    for (const struct json_value *one = json_root(cases)->children; one; one = one->next) {
        golden_texts_check_one(tokenizer, one, false, name);
        golden_texts_check_one(tokenizer, one, true, name);
    }
    json_free(cases);
    tokenizer_free(tokenizer);
    container_close(container);
    metadata_builder_free(&builder);
}

static void unigram(void)
{
    check_unigram("sp-unigram", "");
    check_unigram("sp-unigram-rules", "");
    check_unigram("sp-unigram-bytes", "llama.cpp makes characters without a token unknown");
}

/* ---- refusals ---- */

static void check_refused(
    const char *text, uint64_t bytes, uint64_t rows, enum status expected, const char *says)
{
    struct metadata_builder builder = {0};
    char note[GGUF_TOKENIZER_NOTE];
    struct error err = {0};

    CHECK(export_folder(&builder, make_folder(text, bytes, NULL), rows, note, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    metadata_builder_free(&builder);
}

static void check_golden_refused(const char *name, const char *says)
{
    char relative[128];
    uint64_t bytes;

    snprintf(relative, sizeof relative, "golden/tokenizer/%s.json", name);
    char *text = testing_read(testing_source(relative), &bytes);
    check_refused(text, bytes, 0, ERR_UNSUPPORTED, says);
    memory_free(text);
}

static void refused_golden(void)
{
    check_golden_refused("sp-metaspace-never", "is never made of its parts");
    check_golden_refused("sp-metaspace-split", "is never made of its parts");
    check_golden_refused("gpt2-prefix", "pre_tokenizer: ByteLevel with add_prefix_space: GGUF has no place");
    check_golden_refused("nfkc", "normalizer: NFKC: GGUF has no place for it");
    check_golden_refused("lower", "normalizer: Strip: GGUF has no place for it");
    check_golden_refused("added", "normalizer: Lowercase");
    check_golden_refused("punct-digits", "pre_tokenizer: Punctuation");
    check_golden_refused("whitespace", "pre_tokenizer: Whitespace");
}

/* A byte-level tokenizer of a few letters, and what is put where it says %s. */
#define LETTERS(model, pre, more)                                                                            \
    "{\"model\":{\"type\":\"BPE\"," model                                                                    \
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aab\":4},\"merges\":[\"a b\"]},"                                  \
    "\"pre_tokenizer\":" pre more "}"
#define SPLIT(pattern, behavior)                                                                             \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern        \
    "\"},\"behavior\":\"" behavior "\",\"invert\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false," \
    "\"use_regex\":false}]}"
#define LLAMA3                                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "                   \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"                                                               \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define WORDS "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

static void check_letters_refused(const char *text, uint64_t rows, const char *says)
{
    check_refused(text, strlen(text), rows, ERR_UNSUPPORTED, says);
}

static void refused_letters(void)
{
    check_letters_refused(LETTERS("", SPLIT("[ab]+", "Isolated"), ""), 0,
        "no name in GGUF is known for 1 pattern, the first \"[ab]+\"");
    check_letters_refused(LETTERS("", SPLIT(LLAMA3, "MergedWithNext"), ""), 0, "Split with this behavior");
    check_letters_refused(
        LETTERS("\"unk_token\":\"a\",", WORDS, ""), 0, "an unk_token that stands for bytes");
    check_letters_refused(LETTERS("\"ignore_merges\":true,", WORDS, ""), 0, "it matters for \"aab\"");
    check_letters_refused(LETTERS("", "null", ""), 0, "neither ByteLevel nor Metaspace");
    check_letters_refused(LETTERS("", "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\"}", ""), 0,
        "the token \"aab\" is never made of its parts");
    check_letters_refused(
        LETTERS("", WORDS, ""), 4, "the token \"aab\" has the id 4, but the embedding has 4 rows");
    check_letters_refused(LETTERS("", WORDS, ",\"added_tokens\":[{\"id\":7,\"content\":\"[PAD3]\"}]"), 0,
        "[PAD3] is a token, and would have to stand for another id too");
}

/* ---- what is written ---- */

#define META "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\"}"
#define UNIGRAM(unknown, pieces, normalizer, pre)                                                            \
    "{\"model\":{\"type\":\"Unigram\"," unknown "\"vocab\":[[\"u\",0],[\"a\",-1]" pieces                     \
    "]},\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre                                                \
    ",\"added_tokens\":[{\"id\":0,\"content\":\"u\",\"special\":true}]}"
#define STRIP(more)                                                                                          \
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\A +| "       \
    "+\\\\z\"},"                                                                                             \
    "\"content\":\"\"}" more "]}"

static void refused_unigram(void)
{
    check_letters_refused(UNIGRAM("", "", "null", META), 0, "model: no unk_id");
    check_letters_refused(
        UNIGRAM("\"unk_id\":0,", ",[\"a\xE2\x96\x81\",-2]", "null", META), 0, "pieces with one inside");
    check_letters_refused(UNIGRAM("\"unk_id\":1,", "", "null", WORDS), 0, "ByteLevel before a Unigram model");
    check_letters_refused("{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"u\",-5],[\"a\",-1]]},"
                          "\"pre_tokenizer\":" META
                          ",\"added_tokens\":[{\"id\":0,\"content\":\"u\",\"special\":true}]}",
        0, "the lowest score is not that of an ordinary piece");
    check_letters_refused(
        UNIGRAM("\"unk_id\":0,", "", STRIP(""), META), 0, "Replace of spaces around a text alone");
    check_letters_refused(UNIGRAM("\"unk_id\":0,", "", "{\"type\":\"Nmt\"}", META), 0, "normalizer: Nmt");
}

static struct container *export_letters(const char *text, const char *config, uint64_t rows)
{
    struct metadata_builder builder = {0};
    char note[GGUF_TOKENIZER_NOTE];
    struct error err = {0};
    const char *folder = make_folder(text, text ? strlen(text) : 0, config);

    CHECK(export_folder(&builder, folder, rows, note, &err) == OK, &err);
    struct container *container = open_metadata(&builder);
    metadata_builder_free(&builder);
    return container;
}

static uint64_t number_of(const struct container *container, const char *key)
{
    uint64_t value = 999;
    struct error err = {0};

    CHECK(metadata_get_u64(container_metadata(container), key, 0, 998, &value, &err) == OK, &err);
    return value;
}

static void check_token(const struct container *container, uint64_t id, const char *text, int type)
{
    const struct metadata_item *tokens =
                                   metadata_find(container_metadata(container), "tokenizer.ggml.tokens"),
                               *types =
                                   metadata_find(container_metadata(container), "tokenizer.ggml.token_type");
    const uint8_t *at = tokens->bytes;
    uint64_t bytes = 0;
    const char *token = NULL;

    REQUIRE(id < tokens->count && tokens->count == types->count, NULL);
    for (uint64_t i = 0; i <= id; i++)
        token = metadata_next_string(&at, &bytes);
    testing_check(bytes == strlen(text) && memcmp(token, text, bytes) == 0, text, NULL, __FILE__, __LINE__);
    CU_ASSERT_EQUAL((int)metadata_number_at(types, id), type);
}

/* Ids of other documents, rows beyond the tokens, tokens of every type. */
static void written(void)
{
    struct container *container =
        export_letters(LETTERS("", SPLIT(LLAMA3, "Removed"),
                           ",\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true},"
                           "{\"id\":6,\"content\":\"<u>\",\"special\":false}]"),
            "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<u>\",\"pad_token\":\"none of these\"}", 9);
    const char *pre;
    uint64_t bytes;
    struct error err = {0};

    check_token(container, 2, "ab", 1);
    check_token(container, 3, "[PAD3]", 5);
    check_token(container, 5, "<s>", 3);
    check_token(container, 6, "<u>", 4);
    check_token(container, 8, "[PAD8]", 5);
    CU_ASSERT_EQUAL(number_of(container, "tokenizer.ggml.bos_token_id"), 5);
    CU_ASSERT_EQUAL(number_of(container, "tokenizer.ggml.eos_token_id"), 6);
    CU_ASSERT_PTR_NULL(metadata_find(container_metadata(container), "tokenizer.ggml.padding_token_id"));
    CHECK(metadata_get_string(container_metadata(container), "tokenizer.ggml.pre", &pre, &bytes, &err) == OK,
        &err);
    CU_ASSERT_TRUE(bytes == 4 && memcmp(pre, "dbrx", 4) == 0);
    container_close(container);
}

static void none(void)
{
    struct container *container = export_letters(NULL, NULL, 9);
    const char *model;
    uint64_t bytes = 0;
    struct error err = {0};

    CHECK(metadata_get_string(container_metadata(container), "tokenizer.ggml.model", &model, &bytes, &err) ==
              OK,
        &err);
    CU_ASSERT_TRUE(bytes == 4 && memcmp(model, "none", 4) == 0);
    container_close(container);
}

static void memory_faults(void)
{
    static const char text[] = LETTERS("", WORDS, "");
    const char *folder = make_folder(text, sizeof text - 1, "{\"bos_token\":\"a\"}");
    struct container *container = tokenizer_folder_open(folder);
    struct error err = {0};
    char note[GGUF_TOKENIZER_NOTE];
    enum status status = ERR_MEMORY;
    uint64_t nth = 0;

    do {
        struct metadata_builder builder = {0};
        memory_fail_at(++nth, 0);
        status = gguf_tokenizer_export(&builder, container, 9, note, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
        metadata_builder_free(&builder);
    } while (status && nth < 10000);
    CU_ASSERT_TRUE(status == OK && nth > 20);
    container_close(container);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden tokenizers", golden},
        {"golden unigram tokenizers", unigram},
        {"unigram tokenizers that GGUF cannot say", refused_unigram},
        {"golden tokenizers that GGUF cannot say", refused_golden},
        {"other tokenizers that GGUF cannot say", refused_letters},
        {"tokens, types and ids", written},
        {"no tokenizer", none},
        {"memory faults", memory_faults},
    };

    return TESTING_RUN("gguf_tokenizer_export", cases);
}
