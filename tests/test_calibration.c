/* Calibration text: what lies in a file becomes exactly the samples one expects, or an error that names the line. */
#include "model/calibration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { BOS = 1, BYTE = 3 }; /* ids of the tiny model's tokenizer: a byte b is token BYTE + b */

static struct tokenizer *plain, *with_bos;

/* ---- helpers ---- */

static struct tokenizer *create(const char *json, uint64_t bytes)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};

    REQUIRE(tokenizer_create(&tokenizer, "tokenizer.json", json, bytes, &err) == OK, &err);
    return tokenizer;
}

/* The tiny model's tokenizer, which puts nothing in front, and the same with a BOS. */
static void make_tokenizers(void)
{
    static const char processor[] =
        "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
        "{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
        "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}},";
    const char *folder = tiny_model_folder("model", (struct tiny_model){0});
    char path[4096], *json, *longer;
    uint64_t bytes;

    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    json = testing_read(path, &bytes);
    plain = create(json, bytes);
    longer = malloc(sizeof processor + bytes);
    REQUIRE(longer != NULL && json[0] == '{', NULL);
    memcpy(longer, processor, sizeof processor - 1);
    memcpy(longer + sizeof processor - 1, json + 1, bytes - 1);
    with_bos = create(longer, sizeof processor - 1 + bytes - 1);
    free(longer);
    memory_free(json);
}

static enum status load_file(struct calibration *out, const char *name, const void *bytes, uint64_t count,
    struct calibration_options options, const struct tokenizer *tokenizer, struct error *err)
{
    options.path = testing_path("%s", name);
    testing_write(options.path, bytes, count);
    return calibration_load(out, &options, tokenizer, NULL, err);
}

static struct calibration loaded(
    const char *name, const char *text, struct calibration_options options, const struct tokenizer *tokenizer)
{
    struct calibration calibration;
    struct error err = {0};

    REQUIRE(load_file(&calibration, name, text, strlen(text), options, tokenizer, &err) == OK, &err);
    CU_ASSERT_EQUAL(calibration.file_crc32, file_crc32(0, text, strlen(text)));
    return calibration;
}

/* Whether the samples, one after the other and with '|' behind each, are this text; '^' stands for the BOS. */
static void check_samples(const struct calibration *calibration, const char *expected)
{
    char shown[4096];
    size_t used = 0;
    uint64_t tokens = 0;

    for (uint64_t i = 0; i < calibration->samples; i++) {
        for (uint64_t k = 0; k < calibration->length; k++) {
            const uint32_t id = calibration->tokens[i * calibration->length + k];
            if (k >= calibration->lengths[i]) {
                CU_ASSERT_EQUAL(id, 0);
            } else {
                shown[used++] = id == BOS ? '^' : (char)(id - BYTE);
            }
        }
        tokens += calibration->lengths[i];
        shown[used++] = '|';
    }
    shown[used] = 0;
    testing_check(strcmp(shown, expected) == 0, shown, NULL, __FILE__, __LINE__);
    CU_ASSERT_EQUAL(calibration->tokens_used, tokens);
}

static void check_load(const char *name, const char *text, struct calibration_options options,
    const struct tokenizer *tokenizer, const char *expected)
{
    struct calibration calibration = loaded(name, text, options, tokenizer);

    check_samples(&calibration, expected);
    calibration_free(&calibration);
}

/* A file that is refused with a message that contains `part`. */
static void check_bad(
    const char *name, const char *text, uint64_t count, enum status expected, const char *part)
{
    const struct calibration_options options = {.samples = 4, .length = 4};
    struct calibration calibration;
    struct error err = {0};

    CHECK(load_file(&calibration, name, text, count, options, plain, &err) == expected, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CHECK(strstr(err.text, name) != NULL, &err);
    CU_ASSERT_PTR_NULL(calibration.tokens);
}

/* Lines are written with ' for ", so that they can be read. */
static const char *quoted(const char *text)
{
    static char out[8192];
    size_t bytes = strlen(text);

    REQUIRE(bytes < sizeof out, NULL);
    for (size_t i = 0; i <= bytes; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
    return out;
}

/* Unpacked documents of lines. */
static void check_lines(const char *lines, const char *expected)
{
    const struct calibration_options options = {.samples = 9, .length = 40, .unpacked = true};

    check_load("lines.jsonl", quoted(lines), options, plain, expected);
}

static void check_bad_lines(const char *lines, const char *part)
{
    const char *text = quoted(lines);

    check_bad("lines.jsonl", text, strlen(text), ERR_FORMAT, part);
}

/* ---- text ---- */

static void test_text(void)
{
    const struct calibration_options four = {.samples = 9, .length = 4};

    check_load("a.txt", "abcdefghijklm", four, plain, "abcd|efgh|ijkl|");
    check_load("a.txt", "abcdefghijklm", four, with_bos, "^abc|defg|hijk|");
    check_load("a", "{\"text\":1}\n\n", four, plain, "{\"te|xt\":|1}\n\n|");
    check_load("a.txt", "ab\r\ncd\r\n", four, plain, "ab\r\n|cd\r\n|");
    check_load("jsonl", "abcd", four, plain, "abcd|");
}

/* Packed windows are those of the whole text tokenized once, as perplexity cuts it. */
static void test_packed_is_the_whole_text_cut(void)
{
    enum { BYTES = 5000, LENGTH = 37 };
    struct calibration_options options = {.samples = UINT64_MAX, .length = LENGTH};
    char text[BYTES];
    uint64_t state = 3, count;
    uint32_t *ids = NULL;
    struct error err = {0};
    struct calibration calibration;

    for (uint64_t i = 0; i < BYTES; i++)
        text[i] = (char)(32 + testing_random(&state) % 95);
    REQUIRE(load_file(&calibration, "a.txt", text, BYTES, options, with_bos, &err) == OK, &err);
    REQUIRE(tokenizer_encode(with_bos, &ids, &count, text, BYTES, true, &err) == OK, &err);
    CU_ASSERT_EQUAL(calibration.samples, count / LENGTH);
    CU_ASSERT_EQUAL(calibration.text_bytes, BYTES);
    CU_ASSERT_EQUAL(calibration.documents, 1);
    CU_ASSERT_EQUAL(memcmp(calibration.tokens, ids, calibration.samples * LENGTH * sizeof *ids), 0);
    memory_free(ids);
    calibration_free(&calibration);
}

static void test_text_that_is_none(void)
{
    const struct calibration_options two = {.samples = 1, .length = 2};
    struct calibration calibration;
    struct error err = {0};

    check_bad("a.txt", "abc\ndef\xe9 abcd", 13, ERR_FORMAT, "line 2: invalid UTF-8 at byte 7");
    check_bad("a.txt", "abcdef\xff", 7, ERR_FORMAT, "invalid UTF-8");
    check_bad("a.txt", "abcdef\x80", 7, ERR_FORMAT, "invalid UTF-8");
    CHECK(load_file(&calibration, "a.txt", "abc\xe2\x82", 5, two, plain, &err) == OK, &err);
    check_samples(&calibration, "ab|");
    calibration_free(&calibration);
}

static void test_too_little(void)
{
    check_bad("a.txt", "abc", 3, ERR_USAGE, "it has 3 tokens, a sample has 4");
    check_bad("a.txt", "", 0, ERR_USAGE, "it has 0 tokens");
    check_bad("a.jsonl", "\n\n", 2, ERR_USAGE, "it has 0 tokens");
    check_bad("a.jsonl", "{\"text\":\"\"}", 11, ERR_USAGE, "it has 0 tokens");
}

static void test_options_that_ask_for_nothing(void)
{
    struct calibration calibration;
    struct error err = {0};
    const struct calibration_options none = {.length = 4}, empty = {.samples = 4},
                                     huge = {.samples = 1, .length = UINT64_MAX};

    CU_ASSERT_EQUAL(load_file(&calibration, "a.txt", "abcd", 4, none, plain, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(load_file(&calibration, "a.txt", "abcd", 4, empty, plain, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(load_file(&calibration, "a.txt", "abcd", 4, huge, plain, &err), ERR_USAGE);
    calibration_free(&calibration);
    calibration_free(&calibration);
}

static void test_no_file(void)
{
    const struct calibration_options options = {
        .path = testing_path("absent.jsonl"), .samples = 4, .length = 4};
    struct calibration calibration;
    struct error err = {0};

    CU_ASSERT_EQUAL(calibration_load(&calibration, &options, plain, NULL, &err), ERR_IO);
    CHECK(strstr(err.text, "absent.jsonl") != NULL, &err);
}

/* More than 2 GiB: refused by its size, nothing is read. */
static void test_too_large(void)
{
    const char *path = testing_path("large.txt");
    const struct calibration_options options = {.path = path, .samples = 4, .length = 4};
    struct calibration calibration;
    struct error err = {0};

    testing_write(path, "", 0);
    REQUIRE(truncate(path, (INT64_C(2) << 30) + 1) == 0, NULL);
    CU_ASSERT_EQUAL(calibration_load(&calibration, &options, plain, NULL, &err), ERR_MEMORY);
    CHECK(strstr(err.text, "limit is 2147483648") != NULL, &err);
    unlink(path);
}

/* ---- JSON lines ---- */

static void test_lines(void)
{
    check_lines("{'text':'one'}\n{'text':'two'}", "one|two|");
    check_lines("{'text':'one'}\r\n\r\n \t\n{'text':'two'}\r\n", "one|two|");
    check_lines("{'id':7,'meta':{'text':'no','a':[1,{}]},'text':'one\\ntwo\\u0020'}\n", "one\ntwo |");
    check_lines("{'messages':[{'role':'user','content':'hi'},{'content':'yes','role':'x'}]}", "hi\nyes|");
    check_lines("{'messages':[{'content':[{'type':'text','text':'ab'},{'text':'cd'}]},{'content':'e'}]}",
        "ab\ncd\ne|");
    check_lines("{'messages':[{'content':null,'tool_calls':[]},{'role':'tool'},{'content':'ok'}]}", "ok|");
    check_lines("{'messages':[{'content':'no'}],'text':'yes'}", "yes|");
    check_lines("{'text':'yes','messages':[{'content':'no'}]}", "yes|");
    check_lines("{'text':null,'messages':[{'content':'yes'}]}", "yes|");
    check_lines("{'text':'yes','messages':null}", "yes|");
    check_lines("{'text':''}\n{'messages':[]}\n{'text':'a'}\n{'text':'bc'}", "bc|");
}

static void test_lines_by_name(void)
{
    const struct calibration_options options = {.samples = 1, .length = 4, .unpacked = true};
    const char *line = "{\"text\":\"abcde\"}";

    check_load("a.jsonl", line, options, plain, "abcd|");
    check_load("a.NDJSON", line, options, plain, "abcd|");
    check_load("a.jsonl.gz", line, options, plain, "abcd|");
    check_load("a.json", line, options, plain, "{\"te|");
    check_load("a.gz", line, options, plain, "{\"te|");
}

static void test_bad_lines(void)
{
    check_bad_lines("{'text':'a'}\n\n{'txt':'b'}", "lines.jsonl: line 3: has neither text nor messages");
    check_bad_lines("{}", "line 1: has neither text nor messages");
    check_bad_lines("{'text':null}", "line 1: has neither text nor messages");
    check_bad_lines("['text']", "line 1: expected an object, found an array");
    check_bad_lines("'text'", "line 1: expected an object, found a string");
    check_bad_lines("{'text':'a'}\n{'text':'b'\n", "line 2: expected ',' or '}', but the text ends");
    check_bad_lines("{'text':'a'} {'text':'b'}", "line 1: ");
    check_bad_lines("{'text':7}", "line 1: text: expected a string, found a number");
    check_bad_lines("{'text':'a','text':'b'}", "line 1: text: stands there twice");
    check_bad_lines("{'text':null,'text':'b'}", "line 1: text: stands there twice");
    check_bad_lines("{'text':'\xe9'}", "line 1: text: invalid UTF-8");
    check_bad_lines("{'a':'\xe9','text':'a'}", "line 1: invalid UTF-8");
    check_bad_lines("{'text':'\\ud800'}", "line 1: text: ");
    check_bad_lines("text", "line 1: ");
    check_bad_lines("{'messages':'hi'}", "line 1: messages: expected an array, found a string");
    check_bad_lines("{'messages':[{'content':'a'},'hi']}", "messages[1]: expected an object, found a string");
    check_bad_lines("{'messages':[{'content':5}]}", "messages[0].content: expected a string, found a number");
    check_bad_lines(
        "{'messages':[{'content':'a','content':'b'}]}", "messages[0].content: stands there twice");
    check_bad_lines("{'messages':[{'content':['a']}]}", "messages[0].content[0]: expected an object");
    check_bad_lines("{'messages':[{'content':[{'type':'text'}]}]}", "messages[0].content[0]: has no text");
    check_bad_lines("{'messages':[{'content':[{'type':'image_url','image_url':'x'}]}]}",
        "messages[0].content[0].type: is \"image_url\", only \"text\" can be read");
    check_bad_lines("{'messages':[{'content':[{'text':null}]}]}", "content[0].text: expected a string");
}

/* A bad line stays unseen only behind what is needed. */
static void test_first_stops_reading(void)
{
    struct calibration_options options = {.samples = 2, .length = 4, .pick = CALIBRATION_FIRST};
    const char *text = "{\"text\":\"abcde\"}\n{\"text\":\"fghij\"}\n{\"text\":\"klmno\"}\nbad\n";
    struct calibration calibration = loaded("a.jsonl", text, options, plain);

    check_samples(&calibration, "abcd|efgh|");
    CU_ASSERT_EQUAL(calibration.documents, 2);
    CU_ASSERT_EQUAL(calibration.text_bytes, 10);
    calibration_free(&calibration);
    options.unpacked = true;
    check_load("a.jsonl", text, options, plain, "abcd|fghi|");
    options.samples = 3;
    check_load("a.jsonl", text, options, with_bos, "^abc|^fgh|^klm|");
    options.samples = 4;
    CU_ASSERT_EQUAL(load_file(&calibration, "a.jsonl", text, strlen(text), options, plain, NULL), ERR_FORMAT);
}

static void test_packed_lines(void)
{
    const struct calibration_options options = {.samples = 9, .length = 3};

    check_load("a.jsonl", "{\"text\":\"abcd\"}\n{\"text\":\"\"}\n{\"text\":\"efg\"}\n", options, with_bos,
        "^ab|cd^|efg|");
}

static void test_unpacked(void)
{
    const struct calibration_options options = {.samples = 9, .length = 4, .unpacked = true};
    const char *text = "{\"text\":\"abcdefg\"}\n{\"text\":\"h\"}\n{\"text\":\"ij\"}\n{\"text\":\"klm\"}\n";
    struct calibration calibration = loaded("a.jsonl", text, options, plain);

    check_samples(&calibration, "abcd|ij|klm|");
    CU_ASSERT_EQUAL(calibration.documents, 4);
    CU_ASSERT_EQUAL(calibration.length, 4);
    calibration_free(&calibration);
    check_load("a.jsonl", text, options, with_bos, "^abc|^h|^ij|^klm|");
    check_load("a.txt", "abcdefg", options, plain, "abcd|");
}

/* A gzip member made by hand, without compression. */
static void test_gzip(void)
{
    static const char line[] = "{\"text\":\"abcd\"}\n";
    const struct calibration_options options = {.samples = 1, .length = 4};
    const uint16_t count = sizeof line - 1;
    const uint32_t crc = file_crc32(0, line, count), length = count;
    const uint8_t head[15] = {
        31, 139, 8, [10] = 1, [11] = (uint8_t)count, [13] = (uint8_t)~count, [14] = 255};
    uint8_t bytes[sizeof head + sizeof line + 8];
    struct calibration calibration;
    struct error err = {0};

    memcpy(bytes, head, sizeof head);
    memcpy(bytes + sizeof head, line, count);
    memcpy(bytes + sizeof head + count, &crc, 4);
    memcpy(bytes + sizeof head + count + 4, &length, 4);
    const uint64_t total = sizeof head + count + 8;
    REQUIRE(load_file(&calibration, "a.jsonl.gz", bytes, total, options, plain, &err) == OK, &err);
    check_samples(&calibration, "abcd|");
    CU_ASSERT_EQUAL(calibration.file_crc32, file_crc32(0, bytes, total));
    calibration_free(&calibration);
    check_bad("a.jsonl.gz", (const char *)bytes, total - 1, ERR_FORMAT, "cut short");
}

/* ---- which windows ---- */

static void test_spread_and_first(void)
{
    struct calibration_options options = {.samples = 4, .length = 1};

    check_load("a.txt", "0123456789", options, plain, "0|2|5|7|");
    options.pick = CALIBRATION_FIRST;
    check_load("a.txt", "0123456789", options, plain, "0|1|2|3|");
    options.samples = 10;
    options.pick = CALIBRATION_SPREAD;
    check_load("a.txt", "0123456789", options, plain, "0|1|2|3|4|5|6|7|8|9|");
    options.pick = CALIBRATION_RANDOM;
    check_load("a.txt", "0123456789", options, plain, "0|1|2|3|4|5|6|7|8|9|");
}

/* 3 of 8 windows: in order, distinct, the same for a seed, and over many seeds each window as often as the others. */
static void test_random(void)
{
    enum { SEEDS = 2000, WINDOWS = 8, SAMPLES = 3 };
    struct calibration_options options = {.samples = SAMPLES, .length = 1, .pick = CALIBRATION_RANDOM};
    unsigned taken[WINDOWS] = {0};

    options.path = testing_path("random.txt");
    testing_write(options.path, "01234567", WINDOWS);
    for (options.seed = 0; options.seed < SEEDS; options.seed++) {
        struct calibration one, again;
        REQUIRE(calibration_load(&one, &options, plain, NULL, NULL) == OK, NULL);
        REQUIRE(calibration_load(&again, &options, plain, NULL, NULL) == OK, NULL);
        REQUIRE(one.samples == SAMPLES, NULL);
        CU_ASSERT_EQUAL(one.tokens_crc32, again.tokens_crc32);
        CU_ASSERT(one.tokens[0] < one.tokens[1] && one.tokens[1] < one.tokens[2]);
        for (unsigned i = 0; i < SAMPLES; i++)
            taken[one.tokens[i] - BYTE - '0']++;
        calibration_free(&one);
        calibration_free(&again);
    }
    for (unsigned i = 0; i < WINDOWS; i++) /* 750 expected, standard deviation 22 */
        CU_ASSERT(taken[i] > 650 && taken[i] < 850);
}

/* Results are resumed and compared by these numbers, so they may not change between versions. */
static void test_stable_checksums(void)
{
    const char *text = "the quick brown fox jumps over the lazy dog, again and again";
    struct calibration_options options = {.samples = 3, .length = 4, .pick = CALIBRATION_RANDOM, .seed = 42};
    struct calibration calibration = loaded("a.txt", text, options, plain);

    check_samples(&calibration, "own |s ov|gain|");
    CU_ASSERT_EQUAL(calibration.tokens_crc32, 0x495804E9);
    calibration_free(&calibration);
    options.unpacked = true; /* the same tokens in other rows are something else */
    options.length = 8;
    calibration = loaded("a.txt", "the quick", options, plain);
    const uint32_t crc = calibration.tokens_crc32;
    calibration_free(&calibration);
    options.length = 9;
    calibration = loaded("a.txt", "the quic", options, plain);
    CU_ASSERT_NOT_EQUAL(calibration.tokens_crc32, crc);
    calibration_free(&calibration);
}

static void test_fewer_is_told(void)
{
    const struct report report = {0};
    struct calibration_options options = {.path = testing_path("few.txt"), .samples = 9, .length = 4};
    struct calibration calibration;
    struct error err = {0};
    uint64_t count;

    testing_write(options.path, "abcdefghi", 9);
    testing_capture(2);
    enum status status = calibration_load(&calibration, &options, plain, &report, &err);
    char *told = testing_captured(&count);
    CHECK(status == OK && calibration.samples == 2, &err);
    CU_ASSERT_PTR_NOT_NULL(strstr(told, "few.txt gives only 2 of the 9 samples asked for"));
    memory_free(told);
    calibration_free(&calibration);
}

/* ---- faults ---- */

static void walk_allocations(const char *name, const char *text, bool unpacked, int sticky)
{
    const struct calibration_options options = {
        .path = testing_path("%s", name), .samples = 3, .length = 2, .unpacked = unpacked};
    struct calibration calibration;
    uint64_t failures;
    enum status status;

    testing_write(options.path, text, strlen(text));
    for (uint64_t nth = 1;; nth++) {
        struct error err = {0};
        memory_fail_at(nth, sticky);
        status = calibration_load(&calibration, &options, plain, NULL, &err);
        failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures == 0) break;
        CHECK(status == ERR_MEMORY && err.text[0], &err);
        CU_ASSERT(!calibration.tokens && !calibration.lengths);
        calibration_free(&calibration);
    }
    CU_ASSERT(status == OK && calibration.samples == 3);
    calibration_free(&calibration);
}

static void test_no_memory(void)
{
    const char *lines =
        "{\"text\":\"abc\"}\n{\"messages\":[{\"content\":\"d\\u0065f\"},{\"content\":\"g\"}]}\n"
        "{\"text\":\"hijk\"}\n";

    for (int sticky = 0; sticky < 2; sticky++) {
        walk_allocations("a.txt", "abcdefgh", false, sticky);
        walk_allocations("a.jsonl", lines, false, sticky);
        walk_allocations("a.jsonl", lines, true, sticky);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"text", test_text},
        {"packed is the whole text, cut", test_packed_is_the_whole_text_cut},
        {"text that is none", test_text_that_is_none},
        {"too little", test_too_little},
        {"options that ask for nothing", test_options_that_ask_for_nothing},
        {"no file", test_no_file},
        {"too large", test_too_large},
        {"lines", test_lines},
        {"lines by name", test_lines_by_name},
        {"bad lines", test_bad_lines},
        {"the first samples end the reading", test_first_stops_reading},
        {"packed lines", test_packed_lines},
        {"unpacked", test_unpacked},
        {"gzip", test_gzip},
        {"spread and first", test_spread_and_first},
        {"random", test_random},
        {"stable checksums", test_stable_checksums},
        {"fewer is told", test_fewer_is_told},
        {"no memory", test_no_memory},
    };

    make_tokenizers();
    int result = TESTING_RUN("calibration", cases);
    tokenizer_free(plain);
    tokenizer_free(with_bos);
    return result;
}
