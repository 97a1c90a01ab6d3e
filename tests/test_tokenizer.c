/* The tokenizer: golden cases of the `tokenizers` library for every kind of step, hand-made ones where the answer can be
 * seen at a glance, and hostile files and texts. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/threads.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/golden_texts.h"
#include "tests/support/testing.h"

enum { TEXT_BYTES = 8192 };

/* Documents below are written with ' for ", so that they can be read. */
static const char *json_of(char *out, const char *text)
{
    size_t bytes = strlen(text);

    REQUIRE(bytes < TEXT_BYTES, NULL);
    for (size_t i = 0; i <= bytes; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
    return out;
}

static struct tokenizer *create(const char *document)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char json[TEXT_BYTES];

    json_of(json, document);
    REQUIRE(tokenizer_create(&tokenizer, "tokenizer.json", json, strlen(json), &err) == OK, &err);
    return tokenizer;
}

/* Ids as text: "3 1 2". */
static const char *show_ids(char *out, const uint32_t *ids, uint64_t count)
{
    size_t used = 0;

    out[0] = 0;
    for (uint64_t i = 0; i < count && used + 16 < TEXT_BYTES; i++)
        used += (size_t)snprintf(out + used, TEXT_BYTES - used, "%s%" PRIu32, i > 0 ? " " : "", ids[i]);
    return out;
}

/* ---- golden ---- */

static struct tokenizer *load(const char *path)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    uint64_t bytes;
    char *json = testing_read(path, &bytes);

    REQUIRE(tokenizer_create(&tokenizer, path, json, bytes, &err) == OK, &err);
    memory_free(json);
    return tokenizer;
}

static void check_encode(
    const struct tokenizer *tokenizer, const struct json_value *one, const char *key, const char *name)
{
    const struct json_value *text = json_member(one, "text"), *expected = json_member(one, key);
    struct error err = {0};
    uint32_t *ids = NULL;
    uint64_t count = 0;
    char quoted[200], message[320];
    bool special = strcmp(key, "ids") != 0;

    REQUIRE(text && expected, NULL);
    bool ok =
        tokenizer_encode(tokenizer, &ids, &count, text->text.bytes, text->text.count, special, &err) == OK &&
        golden_texts_same(expected, ids, count);
    error_quote(quoted, sizeof quoted, text->text.bytes, text->text.count);
    snprintf(message, sizeof message, "%s: %s of \"%s\"", name, key, quoted);
    testing_check(ok, message, &err, __FILE__, __LINE__);
    memory_free(ids);
}

static void check_decode(
    const struct tokenizer *tokenizer, const struct json_value *one, const char *key, const char *name)
{
    const struct json_value *list = json_member(one, "ids"), *expected = json_member(one, key);
    struct error err = {0};
    uint32_t *ids;
    uint64_t bytes = 0, count = 0;
    char *text = NULL, message[160];
    bool skip = strcmp(key, "decoded_skip") == 0;

    REQUIRE(list && expected, NULL);
    ids = malloc((list->count + 1) * sizeof *ids);
    REQUIRE(ids != NULL, NULL);
    for (const struct json_value *id = list->children; id; id = id->next)
        ids[count++] = (uint32_t)id->u64;
    bool ok = tokenizer_decode(tokenizer, &text, &bytes, ids, count, skip, &err) == OK &&
              bytes == expected->text.count && memcmp(text, expected->text.bytes, bytes) == 0 &&
              text[bytes] == 0;
    snprintf(message, sizeof message, "%s: %s of %" PRIu64 " ids from %" PRIu32, name, key, count,
        count > 0 ? ids[0] : 0);
    testing_check(ok, message, &err, __FILE__, __LINE__);
    memory_free(text);
    free(ids);
}

/* All cases of one file. */
static void check_cases(const struct tokenizer *tokenizer, const char *path, const char *name)
{
    struct json_document *document = golden_texts_parse(path);

    for (const struct json_value *one = json_root(document)->children; one; one = one->next) {
        if (json_member(one, "text")) {
            check_encode(tokenizer, one, "ids", name);
            check_encode(tokenizer, one, "ids_with_special", name);
        }
        check_decode(tokenizer, one, "decoded", name);
        check_decode(tokenizer, one, "decoded_skip", name);
    }
    json_free(document);
}

/* The tokenizer that "<name>.cases.json" is about; NULL if it is one of ../shared that is not there. */
static const char *tokenizer_path(const char *folder, const char *name)
{
    char relative[256];

    if (strncmp(name, "shared-", 7) == 0) {
        snprintf(relative, sizeof relative, "models/%s/tokenizer.json", name + 7);
        return testing_shared(relative);
    }
    snprintf(relative, sizeof relative, "%s/%s.json", folder, name);
    return testing_source(relative);
}

static void check_golden(const char *folder, const char *name)
{
    char relative[256];
    const char *path = tokenizer_path(folder, name);

    if (!path) {
        printf("\n    skipped: %s, which is not here\n", name);
        return;
    }
    struct tokenizer *tokenizer = load(path);
    snprintf(relative, sizeof relative, "%s/%s.cases.json", folder, name);
    check_cases(tokenizer, testing_source(relative), name);
    snprintf(relative, sizeof relative, "%s/%s.decode.json", folder, name);
    FILE *decode = fopen(testing_source(relative), "rb");
    if (decode) {
        fclose(decode);
        check_cases(tokenizer, testing_source(relative), name);
    }
    tokenizer_free(tokenizer);
}

static void check_golden_folder(const char *folder, unsigned at_least)
{
    static const char suffix[] = ".cases.json";
    DIR *listing = opendir(testing_source(folder));
    struct dirent *entry;
    unsigned count = 0;

    REQUIRE(listing != NULL, NULL);
    while ((entry = readdir(listing)) != NULL) {
        size_t bytes = strlen(entry->d_name);
        char name[128];
        if (bytes < sizeof suffix || strcmp(entry->d_name + bytes + 1 - sizeof suffix, suffix) != 0) continue;
        snprintf(name, sizeof name, "%.*s", (int)(bytes + 1 - sizeof suffix), entry->d_name);
        check_golden(folder, name);
        count++;
    }
    closedir(listing);
    CU_ASSERT(count >= at_least);
}

static void test_golden(void)
{
    check_golden_folder("golden/tokenizer", 20);
}

static void test_golden_extra(void)
{
    check_golden_folder("golden/tokenizer-extra", 30);
}

/* ---- hand-made: encoding ---- */

#define MODEL(options, vocab, merges)                                                                        \
    "'model':{'type':'BPE'," options "'vocab':{" vocab "},'merges':[" merges "]}"
#define LETTERS "'a':0,'b':1,'c':2,'ab':3,'bc':4,'abc':5,'aa':6,' ':7,'\xE2\x96\x81':8,'<unk>':9"
#define WORDS MODEL("", LETTERS, "'a b','b c','ab c','a a'")
#define METASPACE(scheme) "{'type':'Metaspace','replacement':'\xE2\x96\x81'," scheme "}"
#define FLAGS(special)                                                                                       \
    "'single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':" special
#define TEMPLATE(before, after)                                                                              \
    "{'type':'TemplateProcessing','single':[" before "{'Sequence':{'id':'A','type_id':0}}" after             \
    "],'special_tokens':{'x':{'id':'x','ids':[9],'tokens':['<unk>']},'y':{'id':'y','ids':[2,1],'tokens':['"  \
    "c','b']}}}"

static const struct encode_case {
    const char *name, *document, *text, *ids;
} encode_cases[] = {
    {"nothing", "{" WORDS "}", "", ""},
    {"merge", "{" WORDS "}", "ab", "3"},
    {"two merges", "{" WORDS "}", "abc", "5"},
    {"lowest rank first", "{" MODEL("", LETTERS, "'b c','a b'") "}", "abc", "0 4"},
    {"leftmost first", "{" WORDS "}", "aaa", "6 0"},
    {"leftmost first, even", "{" WORDS "}", "aaaaa", "6 6 0"},
    {"merges as pairs", "{" MODEL("", LETTERS, "['a','b'],['ab','c']") "}", "abc", "5"},
    {"version line", "{" MODEL("", LETTERS, "'#version: 0.2','a b'") "}", "ab", "3"},
    {"a pair again counts last", "{" MODEL("", LETTERS, "'a b','b c','a b'") "}", "abc", "0 4"},
    {"merges before vocab", "{'model':{'merges':['a b'],'vocab':{" LETTERS "},'type':'BPE'}}", "ab", "3"},
    {"model without a type", "{'model':{'vocab':{" LETTERS "},'merges':['a b']}}", "ab", "3"},
    {"characters without a token are left out", "{" WORDS "}", "xayz", "0"},
    {"unk_token", "{" MODEL("'unk_token':'<unk>',", LETTERS, "'a b'") "}", "axyb", "0 9 9 1"},
    {"fused", "{" MODEL("'unk_token':'<unk>','fuse_unk':true,", LETTERS, "'a b'") "}", "axyb", "0 9 1"},
    {"byte fallback", "{" MODEL("'byte_fallback':true,", "'<0xC3>':4,'<0xA9>':5", "") "}", "\xC3\xA9", "4 5"},
    {"half a byte fallback", "{" MODEL("'byte_fallback':true,'unk_token':'u',", "'u':1,'<0xC3>':4", "") "}",
        "\xC3\xA9", "1"},
    {"unk_token waits behind bytes",
        "{" MODEL("'byte_fallback':true,'unk_token':'u',", "'u':1,'<0x41>':4,'b':2", "") "}", "xAb", "4 1 2"},
    {"ignore_merges", "{" MODEL("'ignore_merges':true,", "'a':0,'b':1,'ab':2", "") "}", "ab", "2"},
    {"not ignore_merges", "{" MODEL("", "'a':0,'b':1,'ab':2", "") "}", "ab", "0 1"},
    {"ids with gaps", "{" MODEL("", "'a':7,'b':16777215", "") "}", "ba", "16777215 7"},
    {"ill-formed text", "{" MODEL("", "'a':0,'\xEF\xBF\xBD':1", "") "}",
        "a\xFF\xE2\x82\x61\xF0\x9F\x99\xED\xA0\x80\xC0\xAF\xE2", "0 1 1 0 1 1 1 1 1 1 1"},
    {"tokens with any character", "{" MODEL("", "'\\u0000':3,'\\n':4,'\\uD83D\\uDE42':5", "") "}",
        "\xF0\x9F\x99\x82\n", "5 4"},
    {"split", "{'pre_tokenizer':{'type':'WhitespaceSplit'}," WORDS "}", "ab ab", "3 3"},
    {"metaspace", "{'pre_tokenizer':" METASPACE("'prepend_scheme':'always'") "," WORDS "}", "a b", "8 0 8 1"},
    {"metaspace never", "{'pre_tokenizer':" METASPACE("'prepend_scheme':'never'") "," WORDS "}", "a b",
        "0 8 1"},
    {"metaspace of old", "{'pre_tokenizer':" METASPACE("'add_prefix_space':true") "," WORDS "}", "a b",
        "8 0 8 1"},
    {"metaspace of old, never", "{'pre_tokenizer':" METASPACE("'add_prefix_space':false") "," WORDS "}",
        "a b", "0 8 1"},
    {"metaspace first",
        "{'added_tokens':[{'id':9,'content':'<unk>'," FLAGS("true") "}],'pre_tokenizer':" METASPACE(
            "'prepend_scheme':'first'") "," WORDS "}",
        "a<unk>b", "8 0 9 1"},
    {"prepend nothing to nothing", "{'normalizer':{'type':'Prepend','prepend':'a'}," WORDS "}", "", ""},
    {"prepend", "{'normalizer':{'type':'Prepend','prepend':'a'}," WORDS "}", "b", "3"},
    {"added token", "{'added_tokens':[{'id':77,'content':'bb'," FLAGS("false") "}]," WORDS "}", "abbbc",
        "0 77 4"},
    {"the longest added token",
        "{'added_tokens':[{'id':77,'content':'bb'," FLAGS("false") "},{'id':78,'content':'bbb'," FLAGS(
            "false") "}]," WORDS "}",
        "abbbbc", "0 78 4"},
    {"an added token is no letter", "{'added_tokens':[{'id':77,'content':'x'," FLAGS("false") "}]," WORDS "}",
        "axb", "0 77 1"},
    {"template", "{'post_processor':" TEMPLATE("{'SpecialToken':{'id':'x','type_id':0}},", "") "," WORDS "}",
        "a", "9 0"},
    {"template around",
        "{'post_processor':" TEMPLATE("{'SpecialToken':{'id':'x','type_id':0}},",
            ",{'SpecialToken':{'id':'y','type_id':0}}") "," WORDS "}",
        "", "9 2 1"},
    {"bert", "{'post_processor':{'type':'BertProcessing','sep':['b',1],'cls':['a',0]}," WORDS "}", "c",
        "0 2 1"},
    {"bert within bert",
        "{'post_processor':{'type':'Sequence','processors':[{'type':'BertProcessing','sep':['b',1],'cls':['a'"
        ",0]},"
        "{'type':'RobertaProcessing','sep':['ab',3],'cls':['aa',6]}]}," WORDS "}",
        "c", "6 0 2 1 3"},
    {"padding and truncation are left alone",
        "{'truncation':{'max_length':1},'padding':{'pad_id':3}," WORDS "}", "ab ab", "3 7 3"},
};

static void check_encoding(
    const struct tokenizer *tokenizer, const char *name, const char *text, const char *expected)
{
    struct error err = {0};
    uint32_t *ids = NULL;
    uint64_t count = 0;
    char found[TEXT_BYTES];

    CHECK(tokenizer_encode(tokenizer, &ids, &count, text, strlen(text), true, &err) == OK, &err);
    show_ids(found, ids, count);
    if (strcmp(found, expected) != 0) printf("\n    %s: %s\n", name, found);
    testing_check(strcmp(found, expected) == 0, name, NULL, __FILE__, __LINE__);
    memory_free(ids);
}

static void test_encode(void)
{
    for (size_t i = 0; i < sizeof encode_cases / sizeof *encode_cases; i++) {
        const struct encode_case *one = &encode_cases[i];
        struct tokenizer *tokenizer = create(one->document);
        char json[TEXT_BYTES], file[40];
        check_encoding(tokenizer, one->name, one->text, one->ids);
        tokenizer_free(tokenizer);
        /* For the fuzz target: the document, a NUL, the text. */
        size_t bytes = strlen(json_of(json, one->document)) + 1;
        snprintf(json + bytes, sizeof json - bytes, "%s", one->text);
        snprintf(file, sizeof file, "encode-%02zu.json", i);
        corpus_keep("tokenizer", file, json, bytes + strlen(one->text));
    }
}

/* ---- hand-made: decoding ---- */

#define DECODED                                                                                              \
    "'<0x41>':0,'<0xC3>':1,'<0xA9>':2,'\xE2\x96\x81x':3,'\xC3\x83':4,'\xC2\xA9':5,'x</w>':6,'':7,' "         \
    "':8,'y':9"
#define DECODER(decoder) "{'decoder':" decoder "," MODEL("", DECODED, "") "}"

static const struct decode_case {
    const char *name, *document;
    uint32_t ids[6];
    uint32_t count;
    const char *text;
} decode_cases[] = {
    {"no decoder: spaces between", DECODER("null"), {9, 0, 9}, 3, "y <0x41> y"},
    {"byte fallback", DECODER("{'type':'ByteFallback'}"), {0, 1, 2, 9}, 4, "A\xC3\xA9y"},
    {"broken bytes", DECODER("{'type':'ByteFallback'}"), {0, 1, 9, 2}, 4,
        "\xEF\xBF\xBD\xEF\xBF\xBDy\xEF\xBF\xBD"},
    {"byte level", DECODER("{'type':'ByteLevel'}"), {4, 5, 9}, 3, "\xC3\xA9y"},
    {"byte level, cut", DECODER("{'type':'ByteLevel'}"), {4, 9}, 2, "\xEF\xBF\xBDy"},
    {"byte level, other characters", DECODER("{'type':'ByteLevel'}"), {3}, 1, "\xE2\x96\x81x"},
    {"metaspace", DECODER(METASPACE("'prepend_scheme':'always'")), {3, 3}, 2, "x x"},
    {"metaspace never", DECODER(METASPACE("'prepend_scheme':'never'")), {3, 3}, 2, " x x"},
    {"suffix", DECODER("{'type':'BPEDecoder','suffix':'</w>'}"), {6, 6}, 2, "x x"},
    {"strip each", DECODER("{'type':'Strip','content':' ','start':1,'stop':0}"), {8, 9, 8}, 3, "y"},
    {"strip after fuse",
        DECODER("{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':' "
                "','start':1,'stop':1}]}"),
        {8, 8, 9}, 3, " y"},
    {"strip more than there is", DECODER("{'type':'Strip','content':' ','start':1,'stop':5}"), {8, 7}, 2, ""},
    {"replace", DECODER("{'type':'Replace','pattern':{'String':'\xE2\x96\x81'},'content':' '}"), {3, 9}, 2,
        " xy"},
    {"no steps", DECODER("{'type':'Sequence','decoders':[]}"), {9, 9}, 2, "yy"},
    {"no ids", DECODER("{'type':'Fuse'}"), {0}, 0, ""},
};

static void test_decode(void)
{
    for (size_t i = 0; i < sizeof decode_cases / sizeof *decode_cases; i++) {
        const struct decode_case *one = &decode_cases[i];
        struct tokenizer *tokenizer = create(one->document);
        struct error err = {0};
        char *text = NULL, json[TEXT_BYTES], file[40];
        uint64_t bytes = 0;
        CHECK(tokenizer_decode(tokenizer, &text, &bytes, one->ids, one->count, false, &err) == OK, &err);
        bool same = text && bytes == strlen(one->text) && strcmp(text, one->text) == 0;
        if (!same) printf("\n    %s: \"%s\"\n", one->name, text);
        testing_check(same, one->name, NULL, __FILE__, __LINE__);
        memory_free(text);
        tokenizer_free(tokenizer);
        snprintf(file, sizeof file, "decode-%02zu.json", i);
        json_of(json, one->document);
        corpus_keep("tokenizer", file, json, strlen(json));
    }
}

static void test_decode_unknown_id(void)
{
    struct tokenizer *tokenizer = create("{" WORDS "}");
    struct error err = {0};
    uint32_t id = 10;
    char *text = NULL;
    uint64_t bytes;

    CU_ASSERT(tokenizer_decode(tokenizer, &text, &bytes, &id, 1, false, &err) == ERR_FORMAT);
    CU_ASSERT(strstr(err.text, "10") != NULL);
    CU_ASSERT(text == NULL);
    tokenizer_free(tokenizer);
}

/* ---- asking ---- */

static void test_ask(void)
{
    struct tokenizer *tokenizer =
        create("{'added_tokens':[{'id':77,'content':'<s>'," FLAGS("true") "}],'post_processor':" TEMPLATE(
            "{'SpecialToken':{'id':'y','type_id':0}},", "") "," WORDS "}");
    uint32_t id = 0;
    uint64_t bytes = 0;

    CU_ASSERT(tokenizer_size(tokenizer) == 78);
    CU_ASSERT(tokenizer_find(tokenizer, "ab", 2) == 3);
    CU_ASSERT(tokenizer_find(tokenizer, "<s>", 3) == 77);
    CU_ASSERT(tokenizer_find(tokenizer, "zz", 2) == -1);
    CU_ASSERT_STRING_EQUAL(tokenizer_token(tokenizer, 77, &bytes), "<s>");
    CU_ASSERT(bytes == 3);
    CU_ASSERT(tokenizer_token(tokenizer, 50, &bytes) == NULL);
    CU_ASSERT(tokenizer_prefix(tokenizer, &id) && id == 2);
    tokenizer_free(tokenizer);
    tokenizer = create("{" WORDS "}");
    CU_ASSERT(!tokenizer_prefix(tokenizer, &id));
    tokenizer_free(tokenizer);
    tokenizer_free(NULL);
}

/* ---- bad files ---- */

#define SPLIT(pattern)                                                                                       \
    "{'pre_tokenizer':{'type':'Split','pattern':" pattern ",'behavior':'Isolated','invert':false}," WORDS "}"
#define ADDED(tokens) "{'added_tokens':[" tokens "]," WORDS "}"
#define UNIGRAM(options, pieces) "{'model':{'type':'Unigram'," options "'vocab':[" pieces "]}}"

static const struct bad_case {
    const char *name, *document;
    enum status status;
    const char *text; /* what the message says */
} bad_cases[] = {
    {"empty", "", ERR_FORMAT, "tokenizer.json"},
    {"null", "null", ERR_FORMAT, "object"},
    {"no-model", "{}", ERR_FORMAT, "model is missing"},
    {"trailing", "{" WORDS "} x", ERR_FORMAT, "end of the document"},
    {"model-twice", "{" WORDS "," WORDS "}", ERR_FORMAT, "model is there twice"},
    {"version", "{'version':'2.0'," WORDS "}", ERR_UNSUPPORTED, "version"},
    {"wordpiece", "{'model':{'type':'WordPiece','vocab':{}}}", ERR_UNSUPPORTED,
        "model: unknown type \"WordPiece\""},
    {"model-list", "{'model':[]}", ERR_FORMAT, "model"},
    {"model-type", "{'model':{'type':1}}", ERR_FORMAT, "model"},
    {"unigram-no-vocab", "{'model':{'type':'Unigram'}}", ERR_FORMAT, "vocab is missing"},
    {"unigram-object", "{'model':{'type':'Unigram','vocab':{}}}", ERR_FORMAT, "vocab"},
    {"unigram-single", UNIGRAM("", "['a']"), ERR_FORMAT, "vocab: token 0 is no pair"},
    {"unigram-triple", UNIGRAM("", "['a',-1,2]"), ERR_FORMAT, "vocab: token 0 is no pair"},
    {"unigram-nothing", UNIGRAM("", "['a',-1],[]"), ERR_FORMAT, "vocab: token 1 is no pair"},
    {"unigram-score", UNIGRAM("", "['a','b']"), ERR_FORMAT, "vocab"},
    {"unigram-infinite", UNIGRAM("", "['a',-1e999]"), ERR_FORMAT, "vocab"},
    {"unigram-twice", UNIGRAM("", "['a',-1],['a',-2]"), ERR_FORMAT, "\"a\" is there twice"},
    {"unigram-unknown", UNIGRAM("'unk_id':2,", "['a',-1],['b',-2]"), ERR_FORMAT, "unk_id: 2 is no token"},
    {"unigram-no-tokens", UNIGRAM("'unk_id':0,", ""), ERR_FORMAT, "unk_id: 0 is no token"},
    {"unigram-flag", UNIGRAM("'byte_fallback':1,", "['a',-1]"), ERR_FORMAT, "byte_fallback"},
    {"unigram-vocab-twice", "{'model':{'type':'Unigram','vocab':[],'vocab':[]}}", ERR_FORMAT,
        "vocab is there twice"},
    {"no-vocab", "{'model':{'type':'BPE','merges':[]}}", ERR_FORMAT, "vocab is missing"},
    {"no-merges", "{'model':{'type':'BPE','vocab':{}}}", ERR_FORMAT, "merges is missing"},
    {"vocab-twice", "{'model':{'vocab':{},'vocab':{},'merges':[]}}", ERR_FORMAT, "vocab"},
    {"token-twice", "{" MODEL("", "'a':0,'a':1", "") "}", ERR_FORMAT, "\"a\" is there twice"},
    {"id-twice", "{" MODEL("", "'a':0,'b':0", "") "}", ERR_FORMAT, "id 0"},
    {"id-negative", "{" MODEL("", "'a':-1", "") "}", ERR_FORMAT, "vocab"},
    {"id-fraction", "{" MODEL("", "'a':1.5", "") "}", ERR_FORMAT, "vocab"},
    {"id-text", "{" MODEL("", "'a':'1'", "") "}", ERR_FORMAT, "vocab"},
    {"id-large", "{" MODEL("", "'a':16777216", "") "}", ERR_FORMAT, "16777216"},
    {"id-huge", "{" MODEL("", "'a':18446744073709551616", "") "}", ERR_FORMAT, "vocab"},
    {"vocab-array", "{'model':{'vocab':[],'merges':[]}}", ERR_FORMAT, "vocab"},
    {"merge-unknown-left", "{" MODEL("", LETTERS, "'x a'") "}", ERR_FORMAT, "merge 0 names \"x\""},
    {"merge-unknown-right", "{" MODEL("", LETTERS, "'a b','a x'") "}", ERR_FORMAT, "merge 1 names \"x\""},
    {"merge-unknown-product", "{" MODEL("", LETTERS, "'b a'") "}", ERR_FORMAT, "merge 0 makes \"ba\""},
    {"merge-one", "{" MODEL("", LETTERS, "'a'") "}", ERR_FORMAT, "merge 0"},
    {"merge-three", "{" MODEL("", LETTERS, "'a b c'") "}", ERR_FORMAT, "merge 0"},
    {"merge-triple", "{" MODEL("", LETTERS, "['a','b','c']") "}", ERR_FORMAT, "merge 0"},
    {"merge-single", "{" MODEL("", LETTERS, "['a']") "}", ERR_FORMAT, "merge 0"},
    {"merge-number", "{" MODEL("", LETTERS, "['a',1]") "}", ERR_FORMAT, "merges"},
    {"merge-control", "{" MODEL("", LETTERS, "'\\n\\u0001 a'") "}", ERR_FORMAT, "\\x0a\\x01"},
    {"dropout", "{" MODEL("'dropout':0.1,", LETTERS, "") "}", ERR_UNSUPPORTED, "dropout"},
    {"prefix", "{" MODEL("'continuing_subword_prefix':'##',", LETTERS, "") "}", ERR_UNSUPPORTED,
        "continuing_subword_prefix"},
    {"suffix", "{" MODEL("'end_of_word_suffix':'</w>',", LETTERS, "") "}", ERR_UNSUPPORTED,
        "end_of_word_suffix"},
    {"flag-number", "{" MODEL("'fuse_unk':1,", LETTERS, "") "}", ERR_FORMAT, "fuse_unk"},
    {"normalizer-unknown", "{'normalizer':{'type':'Foo'}," WORDS "}", ERR_UNSUPPORTED,
        "normalizer: unknown type \"Foo\""},
    {"normalizer-precompiled",
        "{'normalizer':{'type':'Precompiled','precompiled_charsmap':'AA=='}," WORDS "}", ERR_FORMAT,
        "precompiled_charsmap: 1 bytes hold no table"},
    {"precompiled-base64", "{'normalizer':{'type':'Precompiled','precompiled_charsmap':'A!=='}," WORDS "}",
        ERR_FORMAT, "no base64"},
    {"precompiled-missing", "{'normalizer':{'type':'Precompiled'}," WORDS "}", ERR_FORMAT,
        "precompiled_charsmap is missing"},
    {"normalizer-text", "{'normalizer':'NFC'," WORDS "}", ERR_FORMAT, "normalizer"},
    {"normalizer-typeless", "{'normalizer':{}," WORDS "}", ERR_FORMAT, "type"},
    {"prepend-missing", "{'normalizer':{'type':'Prepend'}," WORDS "}", ERR_FORMAT, "prepend"},
    {"replace-patternless", "{'normalizer':{'type':'Replace','content':'x'}," WORDS "}", ERR_FORMAT,
        "pattern"},
    {"pre-tokenizer-unknown", "{'pre_tokenizer':{'type':'Foo'}," WORDS "}", ERR_UNSUPPORTED,
        "tokenizer.json: pre_tokenizer: unknown type \"Foo\""},
    {"sequence-empty-handed", "{'pre_tokenizer':{'type':'Sequence'}," WORDS "}", ERR_FORMAT, "pretokenizers"},
    {"behavior-unknown", "{'pre_tokenizer':{'type':'Punctuation','behavior':'Eaten'}," WORDS "}",
        ERR_UNSUPPORTED, "Eaten"},
    {"delimiter-long", "{'pre_tokenizer':{'type':'CharDelimiterSplit','delimiter':'ab'}," WORDS "}",
        ERR_FORMAT, "delimiter"},
    {"metaspace-contradiction",
        "{'pre_tokenizer':" METASPACE("'prepend_scheme':'first','add_prefix_space':false") "," WORDS "}",
        ERR_FORMAT, "prepend_scheme"},
    {"metaspace-scheme", "{'pre_tokenizer':" METASPACE("'prepend_scheme':'last'") "," WORDS "}",
        ERR_UNSUPPORTED, "prepend_scheme"},
    {"regex-bad", SPLIT("{'Regex':'('}"), ERR_FORMAT, "pattern"},
    {"regex-large", SPLIT("{'Regex':'((a{1,100}){1,100}){1,100}'}"), ERR_FORMAT, "pattern"},
    {"regex-verb", SPLIT("{'Regex':'(*LIMIT_MATCH=1)a'}"), ERR_UNSUPPORTED, "(*LIMIT"},
    {"regex-recursion", SPLIT("{'Regex':'(?R)'}"), ERR_UNSUPPORTED, "(?R"},
    {"regex-back-reference", SPLIT("{'Regex':'(a)\\\\1'}"), ERR_UNSUPPORTED, "\\1"},
    {"regex-one-byte", SPLIT("{'Regex':'\\\\C'}"), ERR_UNSUPPORTED, "\\C"},
    {"regex-half-character", SPLIT("{'Regex':'\\\\xe2'}"), ERR_UNSUPPORTED, "\\xe2"},
    {"regex-nested-set", SPLIT("{'Regex':'[a[b]]'}"), ERR_UNSUPPORTED, "[b]]"},
    {"regex-intersection", SPLIT("{'Regex':'[a-z&&b]'}"), ERR_UNSUPPORTED, "&&"},
    {"regex-stacked", SPLIT("{'Regex':'a**'}"), ERR_UNSUPPORTED, "*"},
    {"regex-late-option", SPLIT("{'Regex':'a(?i)b'}"), ERR_UNSUPPORTED, "(?i)"},
    {"regex-folding", SPLIT("{'Regex':'(?i:stra\xC3\x9F\x65)'}"), ERR_UNSUPPORTED, "case"},
    {"added-no-id", ADDED("{'content':'x'}"), ERR_FORMAT, "token 0: id is missing"},
    {"added-no-content", ADDED("{'id':77}"), ERR_FORMAT, "token 0: content is missing"},
    {"added-other-id", ADDED("{'id':77,'content':'ab'}"), ERR_FORMAT, "77"},
    {"added-id-taken", ADDED("{'id':3,'content':'x'}"), ERR_FORMAT, "id 3"},
    {"added-id-twice", ADDED("{'id':77,'content':'x'},{'id':77,'content':'y'}"), ERR_FORMAT,
        "token 1: the id 77"},
    {"added-twice", ADDED("{'id':77,'content':'x'},{'id':77,'content':'x'}"), ERR_FORMAT,
        "\"x\" is there twice"},
    {"added-flag", ADDED("{'id':77,'content':'x','special':1}"), ERR_FORMAT, "token 0"},
    {"added-same-form",
        "{'normalizer':{'type':'Lowercase'},'added_tokens':[{'id':77,'content':'X','normalized':true},"
        "{'id':78,'content':'x','normalized':true}]," WORDS "}",
        ERR_FORMAT, "two tokens"},
    {"added-vanishes",
        "{'normalizer':{'type':'Strip','strip_left':true,'strip_right':true},'added_tokens':[{'id':7,'"
        "content':' ',"
        "'normalized':true}]," WORDS "}",
        ERR_UNSUPPORTED, "nothing"},
    {"template-lacks",
        "{'post_processor':" TEMPLATE("{'SpecialToken':{'id':'z','type_id':0}},", "") "," WORDS "}",
        ERR_FORMAT, "special_tokens"},
    {"template-b", "{'post_processor':" TEMPLATE("{'Sequence':{'id':'B','type_id':0}},", "") "," WORDS "}",
        ERR_UNSUPPORTED, "single"},
    {"template-twice",
        "{'post_processor':" TEMPLATE("{'Sequence':{'id':'A','type_id':0}},", "") "," WORDS "}",
        ERR_UNSUPPORTED, "2 times"},
    {"template-id",
        "{'post_processor':" TEMPLATE("{'SpecialToken':{'id':'x','type_id':0}},", "") "," MODEL(
            "", "'a':0", "") "}",
        ERR_FORMAT, "the id 9"},
    {"processor-unknown", "{'post_processor':{'type':'Foo'}," WORDS "}", ERR_UNSUPPORTED, "Foo"},
    {"decoder-wordpiece", "{'decoder':{'type':'WordPiece','prefix':'##'}," WORDS "}", ERR_UNSUPPORTED,
        "decoder: unknown type \"WordPiece\""},
    {"strip-long", "{'decoder':{'type':'Strip','content':'ab','start':0,'stop':0}," WORDS "}", ERR_FORMAT,
        "content"},
};

static void check_bad(
    const char *name, const char *json, uint64_t bytes, enum status status, const char *text)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    enum status found = tokenizer_create(&tokenizer, "tokenizer.json", json, bytes, &err);
    bool good = found == status && strstr(err.text, text) && strncmp(err.text, "tokenizer.json", 14) == 0;

    if (!good) printf("\n    %s: status %d: %s\n", name, (int)found, err.text);
    testing_check(good, name, NULL, __FILE__, __LINE__);
    CU_ASSERT(tokenizer == NULL && strchr(err.text, '\n') == NULL);
    tokenizer_free(tokenizer);
}

static void test_bad_files(void)
{
    char json[TEXT_BYTES], file[64];

    for (size_t i = 0; i < sizeof bad_cases / sizeof *bad_cases; i++) {
        const struct bad_case *one = &bad_cases[i];
        json_of(json, one->document);
        check_bad(one->name, json, strlen(json), one->status, one->text);
        snprintf(file, sizeof file, "bad-%s.json", one->name);
        corpus_keep("tokenizer", file, json, strlen(json));
    }
}

/* Every beginning of a good file is a bad file. */
static void test_cut_short(void)
{
    char json[TEXT_BYTES];
    uint64_t bytes = strlen(json_of(json,
        "{'version':'1.0','added_tokens':[{'id':77,'content':'x'," FLAGS(
            "true") "}],'normalizer':{'type':'NFC'},"
                    "'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false,'use_regex':true},'post_"
                    "processor':" TEMPLATE("{'SpecialToken':{'id':'x','type_id':0}},",
                        "") ",'decoder':{'type':'ByteLevel'}," WORDS "}"));
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};

    REQUIRE(tokenizer_create(&tokenizer, "tokenizer.json", json, bytes, &err) == OK, &err);
    tokenizer_free(tokenizer);
    for (uint64_t i = 0; i < bytes; i++)
        check_bad("cut short", json, i, ERR_FORMAT, "");
}

/* Sequences of Sequences, and many steps. */
static void test_step_limits(void)
{
    char json[TEXT_BYTES];

    for (unsigned depth = 8; depth <= 9; depth++) {
        struct tokenizer *tokenizer = NULL;
        struct error err = {0};
        strcpy(json, "{\"normalizer\":");
        for (unsigned i = 0; i < depth; i++)
            strcat(json, "{\"type\":\"Sequence\",\"normalizers\":[");
        strcat(json, "{\"type\":\"NFC\"}");
        for (unsigned i = 0; i < depth; i++)
            strcat(json, "]}");
        strcat(json, ",\"model\":{\"vocab\":{},\"merges\":[]}}");
        enum status status = tokenizer_create(&tokenizer, "tokenizer.json", json, strlen(json), &err);
        CHECK(status == (depth == 8 ? OK : ERR_UNSUPPORTED), &err);
        tokenizer_free(tokenizer);
    }
    strcpy(json, "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}");
    for (unsigned i = 0; i < 32; i++)
        strcat(json, ",{\"type\":\"NFC\"}");
    strcat(json, "]},\"model\":{\"vocab\":{},\"merges\":[]}}");
    check_bad("33 steps", json, strlen(json), ERR_UNSUPPORTED, "more than 32 steps");
}

/* ---- hostile patterns and texts: an answer or an error, but soon ---- */

static char *repeated(const char *unit, uint64_t times)
{
    size_t bytes = strlen(unit);
    char *text = malloc(bytes * times + 1);

    REQUIRE(text != NULL, NULL);
    for (uint64_t i = 0; i < times; i++)
        memcpy(text + i * bytes, unit, bytes);
    text[bytes * times] = 0;
    return text;
}

/* Encode a text that is a unit repeated. ERR_FORMAT and ERR_MEMORY are fair answers. */
static enum status encode_repeated(const char *document, const char *unit, uint64_t times, uint64_t *count)
{
    struct tokenizer *tokenizer = create(document);
    char *text = repeated(unit, times);
    struct error err = {0};
    uint32_t *ids = NULL;
    enum status status = tokenizer_encode(tokenizer, &ids, count, text, strlen(text), false, &err);

    CHECK(status == OK || status == ERR_FORMAT || status == ERR_MEMORY, &err);
    CU_ASSERT(status == OK || err.text[0] != 0);
    memory_free(ids);
    free(text);
    tokenizer_free(tokenizer);
    return status;
}

static void test_hostile_patterns(void)
{
    static const char *const patterns[] = {
        "(a+)+$",
        "(a+)+b",
        "(a|aa)+$",
        "(a|a)*b",
        "(.*)*x",
        "(?:.*+x)|.",
        ".*x|.",
        ".*?x|.",
        "(?:(?=.*+)a)*x|.",
        "a*a*a*a*a*a*b|.",
        "(?:a?){200}a{200}",
        "a{0,1000}a{0,1000}a{0,1000}b|.",
        "^(\\\\w+\\\\s?)*$",
        "(?:(?:a|b)(?:a|b))*c|.",
        "\\\\b",
        "x*",
    };
    char document[2048];
    uint64_t count;

    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        snprintf(document, sizeof document,
            "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'%s'},'behavior':'Isolated','invert':false}"
            "," WORDS "}",
            patterns[i]);
        encode_repeated(document, "a", 200000, &count);
        encode_repeated(document,
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\n", 2000, &count);
    }
}

static void test_hostile_texts(void)
{
    /* The marks are out of order, the longest decomposition there is, and texts that grow without end. */
    static const char *const steps[][2] = {
        {"{'type':'NFC'}", "e\xCC\x81\xCC\xA3"},
        {"{'type':'NFC'}", "\xCC\x81\xCC\xA3"},
        {"{'type':'NFKD'}", "\xEF\xB7\xBA"},
        {"{'type':'Replace','pattern':{'String':''},'content':'"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaa'}",
            "ab"},
    };
    char document[2048];
    uint64_t count = 0;

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        snprintf(document, sizeof document, "{'normalizer':%s," WORDS "}", steps[i][0]);
        encode_repeated(document, steps[i][1], 300000, &count);
    }
    CU_ASSERT(encode_repeated(
                  "{'added_tokens':[{'id':77,'content':'  ','single_word':false,'lstrip':true,'rstrip':true,"
                  "'normalized':false,'special':false}]," WORDS "}",
                  " ", 1000000, &count) == OK);
    CU_ASSERT(encode_repeated(
                  "{'added_tokens':[{'id':7,'content':' ','single_word':false,'lstrip':false,'rstrip':true,"
                  "'normalized':false,'special':false}]," WORDS "}",
                  " ", 1000000, &count) == OK);
    CU_ASSERT(count == 1000000);
}

/* Llama 3's split of a text that is one run of white space looks far ahead, but must work. */
static void test_long_runs(void)
{
    static const char llama3[] =
        "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?i:\\u0027s|\\u0027t|\\u0027re|\\u0027ve|"
        "\\u0027m|\\u0027ll|"
        "\\u0027d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+'},'behavior':'Isolated','invert':false}," WORDS "}";
    uint64_t count = 0;

    CU_ASSERT(encode_repeated(llama3, " ", 1000000, &count) == OK && count == 1000000);
    CU_ASSERT(encode_repeated(llama3, "                    a", 50000, &count) == OK && count == 1050000);
    CU_ASSERT(encode_repeated(llama3, "a", 1000000, &count) == OK && count == 500000);
    CU_ASSERT(encode_repeated(llama3, "\n", 1000000, &count) == OK && count == 0);
}

/* A text that is one word for the model, where everything may join everything. */
static void test_long_word(void)
{
    uint64_t count = 0;

    CU_ASSERT(encode_repeated("{" WORDS "}", "abcaab", 200000, &count) == OK);
    CU_ASSERT(count == 200000 * 3);
    CU_ASSERT(encode_repeated("{" WORDS "}", "a", 1000001, &count) == OK);
    CU_ASSERT(count == 500001);
    CU_ASSERT(
        encode_repeated("{" MODEL("", "'a':0,'b':1,'ab':2,'ba':3,'abab':4,'aa':5,'bb':6,'abb':7,'abba':8",
                            "'a b','b a','ab ab','a a','b b','ab b','abb a'") "}",
            "abbaab", 200000, &count) == OK);
    CU_ASSERT(count > 200000 && count < 600000);
}

/* ---- memory and threads ---- */

#define EVERYTHING                                                                                           \
    "{'added_tokens':[{'id':77,'content':'<s>'," FLAGS(                                                      \
        "true") "},{'id':78,'content':'Nb','normalized':true}],"                                             \
                "'normalizer':{'type':'Sequence','normalizers':[{'type':'NFKC'},{'type':'Lowercase'},{'"     \
                "type':'Replace','pattern':"                                                                 \
                "{'Regex':'\\\\s+'},'content':' '},{'type':'Prepend','prepend':' '}]},"                      \
                "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'String':' " \
                "'},'behavior':"                                                                             \
                "'MergedWithNext','invert':false},{'type':'ByteLevel','add_prefix_space':true,'use_regex':"  \
                "true}]},"                                                                                   \
                "'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel'}," TEMPLATE(          \
                    "{'SpecialToken':{'id':'x','type_id':0}},",                                              \
                    ",{'SpecialToken':{'id':'y','type_id':0}}") "]},"                                        \
                                                                "'decoder':{'type':'Sequence','decoders':[{" \
                                                                "'type':'Replace','pattern':{'Regex':'b'},'" \
                                                                "content':'B'},"                             \
                                                                "{'type':'ByteFallback'},{'type':'Fuse'},{'" \
                                                                "type':'ByteLevel'}]}," MODEL(               \
                                                                    "'unk_token':'<unk>','byte_fallback':"   \
                                                                    "true,",                                 \
                                                                    LETTERS ",'\xC4\xA0':10,'<0xC3>':11,'<"  \
                                                                            "0x83>':12",                     \
                                                                    "'a b','ab c'") "}"

/* Create, encode and decode, with whatever memory there is. */
static enum status use_everything(struct error *err)
{
    static const char text[] = "<s> abc\t\tABC\xC3\xA9 nb x \xFF";
    struct tokenizer *tokenizer = NULL;
    uint32_t *ids = NULL;
    char *decoded = NULL, json[TEXT_BYTES];
    uint64_t count, bytes;
    enum status status;

    json_of(json, EVERYTHING);
    status = tokenizer_create(&tokenizer, "tokenizer.json", json, strlen(json), err);
    if (status == OK) status = tokenizer_encode(tokenizer, &ids, &count, text, sizeof text - 1, true, err);
    if (status == OK) status = tokenizer_decode(tokenizer, &decoded, &bytes, ids, count, false, err);
    memory_free(decoded);
    memory_free(ids);
    tokenizer_free(tokenizer);
    return status;
}

static void check_memory_faults(int sticky)
{
    enum status status = ERR_MEMORY;
    struct error err;
    uint64_t nth = 0;

    /* PCRE2 gets along without some of its memory, so that success alone does not end the loop. */
    do {
        memset(&err, 0, sizeof err);
        memory_fail_at(++nth, sticky);
        status = use_everything(&err);
        CHECK(status == OK || (status == ERR_MEMORY && err.text[0]), &err);
    } while (memory_failures() > 0 && nth < 100000);
    memory_fail_at(0, 0);
    CHECK(status == OK, &err);
    CU_ASSERT(nth > 100);
}

static void test_memory_faults(void)
{
    check_memory_faults(0);
    check_memory_faults(1);
}

struct shared_use {
    const struct tokenizer *tokenizer;
    char found[8][256];
};

static enum status encode_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct shared_use *use = context;
    uint32_t *ids = NULL;
    uint64_t count = 0;
    char text[TEXT_BYTES];
    enum status status = OK;

    (void)worker;
    for (unsigned i = 0; i < 200 && status == OK; i++) {
        memory_free(ids);
        ids = NULL;
        status = tokenizer_encode(use->tokenizer, &ids, &count, "<s> abc ABC nb abcab", 20, true, err);
    }
    if (status == OK)
        snprintf(use->found[index], sizeof use->found[index], "%.255s", show_ids(text, ids, count));
    memory_free(ids);
    return status;
}

static void test_threads(void)
{
    struct tokenizer *tokenizer = create(EVERYTHING);
    struct shared_use use = {.tokenizer = tokenizer};
    struct error err = {0};
    struct pool *pool = NULL;

    REQUIRE(pool_create(&pool, 4, &err) == OK, &err);
    CHECK(pool_run(pool, 8, encode_task, &use, &err) == OK, &err);
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_STRING_EQUAL(use.found[i], use.found[0]);
    CU_ASSERT(use.found[0][0] != 0);
    pool_free(pool);
    tokenizer_free(tokenizer);
}

/* ---- real ones, from ../shared ---- */

static void check_text(
    const struct tokenizer *tokenizer, const char *relative, uint64_t tokens, const char *first)
{
    const char *path = testing_shared(relative);
    struct error err = {0};
    uint32_t *ids = NULL;
    uint64_t bytes, count = 0;
    char found[TEXT_BYTES], *text;

    if (!path) {
        printf("\n    skipped: %s, which is not here\n", relative);
        return;
    }
    text = testing_read(path, &bytes);
    CHECK(tokenizer_encode(tokenizer, &ids, &count, text, bytes, true, &err) == OK, &err);
    CU_ASSERT_EQUAL(count, tokens);
    show_ids(found, ids, count < 10 ? count : 10);
    CU_ASSERT_STRING_EQUAL(found, first);
    memory_free(ids);
    memory_free(text);
}

static void test_shared_texts(void)
{
    static const struct {
        const char *tokenizer, *text;
        uint64_t tokens;
        const char *first;
    } cases[] = {
        {"models/wiki-6M/tokenizer.json", "text/wiki-eval.txt", 97007,
            "1 3957 3957 13 477 3661 3959 328 1497 352"},
        {"models/stories260K/tokenizer.json", "text/stories-eval.txt", 60387,
            "1 385 328 432 261 376 298 315 421 395"},
        {"models/TinyStories-656K/tokenizer.json", "text/stories-eval.txt", 29380,
            "1 80 429 598 303 489 1148 177 1051 652"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = testing_shared(cases[i].tokenizer);
        if (!path) {
            printf("\n    skipped: %s, which is not here\n", cases[i].tokenizer);
            continue;
        }
        struct tokenizer *tokenizer = load(path);
        check_text(tokenizer, cases[i].text, cases[i].tokens, cases[i].first);
        tokenizer_free(tokenizer);
    }
}

/* GPT-2's vocab.json and merges.txt as one tokenizer.json. */
static char *gpt2_document(const char *vocab_path, const char *merges_path, uint64_t *bytes)
{
    static const char begin[] =
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":";
    struct json_writer writer = {0};
    struct error err = {0};
    uint64_t vocab_bytes, merges_bytes, list_bytes;
    char *vocab = testing_read(vocab_path, &vocab_bytes), *merges = testing_read(merges_path, &merges_bytes),
         *list;

    json_open_array(&writer);
    for (char *line = merges, *end; line < merges + merges_bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(merges + merges_bytes - line));
        if (!end) end = merges + merges_bytes;
        if (end > line) json_write_string(&writer, line, (uint64_t)(end - line));
    }
    json_close_array(&writer);
    REQUIRE(json_writer_take(&writer, &list, &list_bytes, &err) == OK, &err);
    *bytes = sizeof begin - 1 + list_bytes + strlen(",\"vocab\":") + vocab_bytes + 2;
    char *json = malloc(*bytes + 1);
    REQUIRE(json != NULL, NULL);
    snprintf(json, *bytes + 1, "%s%s,\"vocab\":%s}}", begin, list, vocab);
    memory_free(list);
    memory_free(merges);
    memory_free(vocab);
    return json;
}

static void test_shared_gpt2(void)
{
    const char *vocab = testing_shared("tokenizers/gpt2/vocab.json"),
               *merges = testing_shared("tokenizers/gpt2/merges.txt");
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    uint64_t bytes;

    if (!vocab || !merges) {
        printf("\n    skipped: GPT-2's vocabulary, which is not here\n");
        return;
    }
    char *json = gpt2_document(vocab, merges, &bytes);
    REQUIRE(tokenizer_create(&tokenizer, "gpt2", json, bytes, &err) == OK, &err);
    free(json);
    CU_ASSERT(tokenizer_size(tokenizer) == 50257);
    check_encoding(tokenizer, "gpt2", "Hello world! It's 2024.", "15496 995 0 632 338 48609 13");
    check_text(tokenizer, "text/wiki-eval.txt", 67624, "220 198 796 5199 347 2852 353 796 220 198");
    check_text(tokenizer, "text/stories-eval.txt", 28892, "3198 1110 11 257 1310 2576 3706 20037 1043 257");
    check_text(tokenizer, "text/code.utf8", 570568, "220 220 220 220 220 220 220 220 220 1445");
    tokenizer_free(tokenizer);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden", test_golden},
        {"golden, rare corners", test_golden_extra},
        {"encode", test_encode},
        {"decode", test_decode},
        {"decode an unknown id", test_decode_unknown_id},
        {"ask", test_ask},
        {"bad files", test_bad_files},
        {"files cut short", test_cut_short},
        {"limits on steps", test_step_limits},
        {"hostile patterns", test_hostile_patterns},
        {"hostile texts", test_hostile_texts},
        {"long runs", test_long_runs},
        {"long words", test_long_word},
        {"memory faults", test_memory_faults},
        {"threads", test_threads},
        {"shared texts", test_shared_texts},
        {"shared GPT-2", test_shared_gpt2},
    };

    return TESTING_RUN("tokenizer", cases);
}
