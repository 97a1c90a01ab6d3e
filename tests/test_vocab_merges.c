/* vocab.json and merges.txt: what is read, and every way to be refused. Ids are held to transformers in test_tokenizer_files.c. */
#include "model/tokenizer/vocab_merges.h"

#include <string.h>

#include "base/memory.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

#define VOCAB "{\"a\":0,\"b\":1,\"c\":5,\"ab\":2}"
#define GPT2 "{\"tokenizer_class\":\"GPT2TokenizerFast\""

static enum status make(const char *vocab, const char *merges, uint64_t merges_bytes, const char *config,
    char **text, struct error *err)
{
    struct token_extras extras = {0};
    uint64_t bytes;

    if (config)
        REQUIRE(json_parse(&extras.config, "tokenizer_config.json", config, strlen(config), err) == OK, err);
    enum status status =
        vocab_merges_write(text, &bytes, vocab, strlen(vocab), merges, merges_bytes, &extras, err);
    token_extras_free(&extras);
    return status;
}

static void check_written(const char *merges, const char *config, const char *part)
{
    struct error err = {0};
    char *text = NULL;

    CHECK(make(VOCAB, merges, strlen(merges), config, &text, &err) == OK, &err);
    testing_check(text && strstr(text, part) != NULL, part, &err, __FILE__, __LINE__);
    memory_free(text);
}

static void written(void)
{
    check_written("#version: 0.2\na b\n", GPT2 "}", "\"merges\":[\"a b\"]");
    check_written("a b", GPT2 "}", "\"merges\":[\"a b\"]");
    check_written("\r\na b\r\n\r\nc a\r\n", GPT2 "}", "\"merges\":[\"a b\",\"c a\"]");
    check_written("", GPT2 "}", "\"merges\":[]");
    check_written("", GPT2 "}", "\"vocab\":{\"a\":0,\"b\":1,\"c\":5,\"ab\":2}");
    check_written("", GPT2 ",\"bos_token\":\"c\",\"add_bos_token\":true}",
        "{\"SpecialToken\":{\"id\":\"c\",\"type_id\":0}}");
    check_written("", GPT2 ",\"pad_token\":{\"content\":\"b\"}}",
        "\"added_tokens\":[{\"id\":1,\"content\":\"b\",\"single_word\":false,\"lstrip\":false,\"rstrip\":"
        "false,"
        "\"normalized\":false,\"special\":true}]");
    check_written("", "{\"tokenizer_class\":\"Qwen2Tokenizer\"}", "\"type\":\"NFC\"");
}

static void check_refused(const char *name, const char *vocab, const char *merges, uint64_t merges_bytes,
    const char *config, enum status expected, const char *says)
{
    struct error err = {0};
    char *text = NULL, both[512];
    const uint64_t bytes = strlen(vocab);

    REQUIRE(bytes + 1 + merges_bytes <= sizeof both, NULL);
    memcpy(both, vocab, bytes + 1);
    memcpy(both + bytes + 1, merges, merges_bytes);
    corpus_keep("vocab_merges", name, both, bytes + 1 + merges_bytes);
    CHECK(make(vocab, merges, merges_bytes, config, &text, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_PTR_NULL(text);
}

static void refused(void)
{
    const char *no_merge = "merges.txt: line 2 is not two tokens with a space between them";

    check_refused("sound", VOCAB, "a b\n", 4, NULL, ERR_UNSUPPORTED, "without a tokenizer_class");
    check_refused("sound", VOCAB, "a b\n", 4, "{\"tokenizer_class\":\"RobertaTokenizer\"}", ERR_UNSUPPORTED,
        "tokenizer_class RobertaTokenizer is not known (known: GPT2Tokenizer, Qwen2Tokenizer)");
    check_refused("sound", VOCAB, "a b\n", 4, "{\"tokenizer_class\":\"GPT2TokenizerX\"}", ERR_UNSUPPORTED,
        "GPT2TokenizerX is not known");
    check_refused(
        "sound", VOCAB, "a b\n", 4, GPT2 ",\"add_prefix_space\":true}", ERR_UNSUPPORTED, "add_prefix_space");
    check_refused(
        "sound", VOCAB, "a b\n", 4, GPT2 ",\"add_bos_token\":true}", ERR_FORMAT, "there is no bos_token");
    check_refused("no-json", "{\"a\":0", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json");
    check_refused("trailing", "{} x", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json");
    check_refused("list", "[]", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json");
    check_refused("negative", "{\"a\":-1}", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json");
    check_refused("large", "{\"a\":4000000000}", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json: before byte");
    check_refused("id-twice", "{\"a\":0,\"b\":0}", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json: before byte");
    check_refused("token-twice", "{\"a\":0,\"a\":1}", "", 0, GPT2 "}", ERR_FORMAT, "vocab.json: before byte");
    check_refused("nul", "{\"\\u0000\":0}", "", 0, GPT2 "}", ERR_FORMAT, "without U+0000");
    check_refused("one", VOCAB, "a b\nab\n", 7, GPT2 "}", ERR_FORMAT, no_merge);
    check_refused("three", VOCAB, "a b\na b c\n", 10, GPT2 "}", ERR_FORMAT, no_merge);
    check_refused("left", VOCAB, "a b\n b\n", 7, GPT2 "}", ERR_FORMAT, no_merge);
    check_refused("right", VOCAB, "a b\na \n", 7, GPT2 "}", ERR_FORMAT, no_merge);
    check_refused("no-utf8", VOCAB, "a b\n\xFF b\n", 8, GPT2 "}", ERR_FORMAT, no_merge);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"what is written", written},
        {"what is refused", refused},
    };

    return TESTING_RUN("vocab_merges", cases);
}
