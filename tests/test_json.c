/* JSON: what RFC 8259 refuses is refused, what it accepts is read exactly, and what is written reads back. */
#include "base/json.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "tests/support/testing.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- whole documents: both readers must agree ---- */

/* Skip the document in an exact-size copy, so that the address sanitizer sees any read beyond its end. */
static enum status skip_document(const char *bytes, uint64_t count, struct error *err)
{
    struct json_reader reader;
    char *copy = malloc(count ? count : 1);
    enum status status;

    REQUIRE(copy != NULL, NULL);
    if (count) memcpy(copy, bytes, count);
    json_reader_init(&reader, "test.json", copy, count);
    status = json_skip(&reader, NULL, err);
    if (!status) status = json_finish(&reader, err);
    json_reader_free(&reader);
    free(copy);
    return status;
}

static enum status parse_document(const char *bytes, uint64_t count, struct error *err)
{
    struct json_document *document = NULL;
    enum status status = json_parse(&document, "test.json", bytes, count, err);

    CU_ASSERT_EQUAL(document != NULL, status == OK);
    json_free(document);
    return status;
}

static void check_document(const char *bytes, uint64_t count, bool good)
{
    struct error err = {OK, ""};
    char shown[100];
    enum status skipped = skip_document(bytes, count, &err), parsed = parse_document(bytes, count, &err);

    if ((skipped == OK) != good || (parsed == OK) != good)
        printf("\n    %s\n", error_quote(shown, sizeof shown, bytes, count));
    CHECK(skipped == (good ? OK : ERR_FORMAT), &err);
    CHECK(parsed == (good ? OK : ERR_FORMAT), &err);
    if (!good) CHECK(strstr(err.text, "test.json: ") == err.text && strstr(err.text, " at byte "), &err);
}

static void test_documents_that_are_accepted(void)
{
    static const char *const documents[] = {"null", "true", "false", "0", "-0", "12", "-12", "1.5", "0.0",
        "1e5", "1E+5", "1e-5", "-1.25e+10", "1e-999", "18446744073709551615", "18446744073709551616", "\"\"",
        "\"a\"", "[]", "{}", " [ ] ", "\t\r\n {\n} ", "[1,2,3]", "[[],{},[[]]]", "{\"a\":1}",
        "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"e\"}", "{\"\":1,\" \":2}",
        "{ \"a\" : 1 , \"b\" : [ 1 , 2 ] }", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0041\\u00e9\\u20AC\"",
        "\"\\ud83d\\ude00\"", "\"\\u0000\"", "\"\x7f\"", "\"gr\xC3\xBC\xC3\x9F\"", "\"\xE2\x82\xAC\"",
        "\"\xF0\x9F\x98\x80\"", "\"\xEE\x80\x80\xEF\xBF\xBF\xF4\x8F\xBF\xBF\"",
        "\"\xC2\x80\xE0\xA0\x80\xF0\x90\x80\x80\"", "[\"a\",\"b\\n\",true,false,null,1.5]"};

    for (size_t i = 0; i < COUNT(documents); i++)
        check_document(documents[i], strlen(documents[i]), true);
}

static void test_documents_that_are_refused(void)
{
    static const char *const documents[] = {"", " ", "nul", "nulll", "True", "tru", "NaN", "Infinity",
        "-Infinity", "-", "+1", "01", "-01", "00", "1.", ".5", "1.e5", "1e", "1e+", "1.5.5", "0x10", "1 2",
        "1,", "--1", "1_000", "1a", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1,,2]", "[}", "{", "}",
        "{]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,}", "{\"a\" 1}", "{\"a\":,}",
        "{a:1}", "{1:1}", "{'a':1}", "{\"a\":1 \"b\":2}", "{\"a\":1}}", "[]]", "{} x", "[] []", "{\"a\":1}{}",
        "\"", "\"a", "\"a\\", "\"\\\"", "\"\\x\"", "\"\\u\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u123",
        "\"\\U0041\"", "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"", "\"\\ud800\\u0041\"",
        "\"\\ud800\\ud800\"", "\"\\udc00\"", "\"\\udc00\\ud800\"", "\"\\ud83d\\ude", "\"\\ud83d\\",
        "\"a\nb\"", "\"\t\"", "\"\x01\"", "\"\x80\"", "\"\xC0\xAF\"", "\"\xC1\xBF\"", "\"\xC3\"", "\"\xC3(\"",
        "\"\xE2\x82\"", "\"\xE0\x9F\xBF\"", "\"\xED\xA0\x80\"", "\"\xED\xBF\xBF\"", "\"\xF0\x8F\xBF\xBF\"",
        "\"\xF4\x90\x80\x80\"", "\"\xF5\x80\x80\x80\"", "\"\xFF\"", "\"\xFE\"", "\xEF\xBB\xBF{}",
        "\xEF\xBB\xBF", "\v1", "\f1",
        ("\xC2\xA0"
         "1"),
        "// c\n1", "/* c */1", "[1] // c", "#", "undefined", "{\"a\":1,\"a\"}", "{\"a\":\"\x80\"}",
        "{\"\x80\":1}", "{\"\\ud800\":1}", "[\"a\\q\"]"};

    for (size_t i = 0; i < COUNT(documents); i++)
        check_document(documents[i], strlen(documents[i]), false);
    check_document("1\0", 2, false);
    check_document("\0", 1, false);
    check_document("\"a\0b\"", 5, false);
    check_document("[1,\0]", 5, false);
    check_document("\"\\\0\"", 4, false);
}

/* Every prefix of a good document is a bad one, and nothing is read beyond its end. */
static void test_every_prefix_is_refused(void)
{
    static const char text[] =
        "{\"a\\u00e9\\ud83d\\ude00\":[1.5e+3,true,null,\"\xE2\x82\xAC\",{}],\"b\":-0.25,\"c\":[[]]}";

    for (size_t count = 0; count < sizeof text - 1; count++)
        check_document(text, count, false);
    check_document(text, sizeof text - 1, true);
}

/* Every single byte of a document changed to every value: accepted or refused, but both readers agree unless
 * it is about duplicate keys, and nothing breaks. */
static void test_every_byte_changed(void)
{
    static const char text[] = "{\"k\":[1.5,\"\\u0041\xC3\xA9\",true,{}],\"l\":-1e9}";
    unsigned disagreements = 0;

    for (size_t at = 0; at < sizeof text - 1; at++) {
        for (int byte = 0; byte < 256; byte++) {
            char changed[sizeof text];
            memcpy(changed, text, sizeof text);
            changed[at] = (char)byte;
            enum status skipped = skip_document(changed, sizeof text - 1, NULL);
            enum status parsed = parse_document(changed, sizeof text - 1, NULL);
            disagreements += (skipped == OK) != (parsed == OK);
        }
    }
    CU_ASSERT_EQUAL(
        disagreements, 2); /* "l" becomes "k", "k" becomes "l": duplicates, which only the tree refuses */
}

static void test_random_texts(void)
{
    static const char alphabet[] = "{}[]:,\"\\u0dD8c1e+-.tfnrl \n\xC3\xA9\xF0";
    uint64_t state = 5;

    for (int round = 0; round < 100000; round++) {
        char text[24];
        uint64_t count = testing_random(&state) % sizeof text;
        for (uint64_t i = 0; i < count; i++)
            text[i] = alphabet[testing_random(&state) % (sizeof alphabet - 1)];
        enum status skipped = skip_document(text, count, NULL);
        if (skipped == OK) continue;
        CU_ASSERT_NOT_EQUAL(parse_document(text, count, NULL), OK);
    }
}

static char *repeat(const char *piece, uint64_t times, uint64_t *count)
{
    uint64_t length = strlen(piece);
    char *text = malloc(length * times + 1);

    REQUIRE(text != NULL, NULL);
    for (uint64_t i = 0; i < times; i++)
        memcpy(text + i * length, piece, length);
    *count = length * times;
    return text;
}

/* J01, S31: a million brackets end at the depth limit, not at the end of the stack. */
static void test_deep_nesting(void)
{
    static const char *const openers[] = {"[", "{\"a\":"};
    struct error err = {OK, ""};
    uint64_t count;
    char *text;

    for (int i = 0; i < 2; i++) {
        text = repeat(openers[i], 1000000, &count);
        CU_ASSERT_EQUAL(skip_document(text, count, &err), ERR_FORMAT);
        CHECK(strstr(err.text, "nested deeper than 64 levels") != NULL, &err);
        CU_ASSERT_EQUAL(parse_document(text, count < 1000000 ? count : 1000000, &err), ERR_FORMAT);
        CHECK(strstr(err.text, "nested deeper than 64 levels") != NULL, &err);
        free(text);
    }
    text = repeat("[", 130, &count);
    memset(text + 64, ']', 64);
    check_document(text, 128, true);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    check_document(text, 130, false);
    free(text);
}

static void check_message(const char *document, const char *expected)
{
    struct error err = {OK, ""};

    CU_ASSERT_EQUAL(parse_document(document, strlen(document), &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, expected);
    if (strcmp(err.text, expected) != 0) printf("\n    %s\n", err.text);
}

static void test_messages(void)
{
    check_message("", "test.json: expected a value, but the text ends at byte 0");
    check_message("[1,]", "test.json: expected a value, found ']' at byte 3");
    check_message("[1 2]", "test.json: expected ',' or ']', found '2' at byte 3");
    check_message("{\"a\":1 ", "test.json: expected ',' or '}', but the text ends at byte 7");
    check_message("{a:1}", "test.json: expected a key in quotes, found 'a' at byte 1");
    check_message("{\"a\"1}", "test.json: expected ':' after a key, found '1' at byte 4");
    check_message("[\"a\nb\"]", "test.json: control character 0x0a inside a string at byte 3");
    check_message("[\"\xFF\"]", "test.json: invalid UTF-8 inside a string at byte 2");
    check_message("[\"\\ud800\"]", "test.json: malformed \\u escape or lone surrogate at byte 2");
    check_message("\"\\q\"", "test.json: unknown escape in a string at byte 1");
    check_message("[\"abc", "test.json: the text ends inside a string at byte 5");
    check_message("[01]", "test.json: malformed number at byte 1");
    check_message("1e999", "test.json: number too large for a double at byte 0");
    check_message("{} x", "test.json: expected the end of the document, found 'x' at byte 3");
    check_message("\xEF\xBB\xBF{}", "test.json: expected a value, found byte 0xef at byte 0");
    check_message("{\"a\":1,\"a\":2}", "test.json: duplicate key \"a\" in one object");
}

/* ---- the pull parser ---- */

static struct json_reader reader_of(const char *text)
{
    struct json_reader reader;

    json_reader_init(&reader, "pull", text, strlen(text));
    return reader;
}

static bool text_is(struct json_text text, const char *expected)
{
    return text.count == strlen(expected) && memcmp(text.bytes, expected, text.count) == 0;
}

static void test_pull_a_document(void)
{
    struct json_reader reader =
        reader_of("{\"name\":\"w\\u0031\",\"shape\":[2, 18446744073709551615],\"x\":{\"y\":[]},"
                  "\"scale\":-2.5e-1,\"on\":true,\"off\":false,\"no\":null}");
    struct error err = {OK, ""};
    struct json_text text;
    enum json_kind kind;
    uint64_t integer = 0;
    double number = 0;
    bool more, flag = false;

    CHECK(json_peek(&reader, &kind, &err) == OK && kind == JSON_OBJECT, &err);
    CHECK(json_enter_object(&reader, &err) == OK, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more && text_is(text, "name"), &err);
    CHECK(json_peek(&reader, &kind, &err) == OK && kind == JSON_STRING, &err);
    CHECK(json_read_string(&reader, &text, &err) == OK && text_is(text, "w1"), &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more && text_is(text, "shape"), &err);
    CHECK(json_enter_array(&reader, &err) == OK, &err);
    CHECK(json_next_element(&reader, &more, &err) == OK && more, &err);
    CHECK(json_read_u64(&reader, &integer, &err) == OK && integer == 2, &err);
    CHECK(json_next_element(&reader, &more, &err) == OK && more, &err);
    CHECK(json_read_u64(&reader, &integer, &err) == OK && integer == UINT64_MAX, &err);
    CHECK(json_next_element(&reader, &more, &err) == OK && !more, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more && text_is(text, "x"), &err);
    CHECK(json_skip(&reader, &text, &err) == OK && text_is(text, "{\"y\":[]}"), &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more && text_is(text, "scale"), &err);
    CHECK(json_read_number(&reader, &number, &err) == OK && number == -0.25, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more, &err);
    CHECK(json_read_bool(&reader, &flag, &err) == OK && flag, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more, &err);
    CHECK(json_read_bool(&reader, &flag, &err) == OK && !flag, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && more, &err);
    CHECK(json_read_null(&reader, &err) == OK, &err);
    CHECK(json_next_key(&reader, &text, &more, &err) == OK && !more, &err);
    CHECK(json_finish(&reader, &err) == OK, &err);
    CU_ASSERT_EQUAL(json_offset(&reader), (uint64_t)(reader.end - reader.start));
    json_reader_free(&reader);
}

static void check_string(const char *document, const char *expected, uint64_t count)
{
    struct json_reader reader = reader_of(document);
    struct error err = {OK, ""};
    struct json_text text = {NULL, 0};

    CHECK(json_read_string(&reader, &text, &err) == OK, &err);
    CU_ASSERT_EQUAL(text.count, count);
    CU_ASSERT_TRUE(text.count == count && memcmp(text.bytes, expected, count) == 0);
    json_reader_free(&reader);
}

static void test_strings_are_decoded(void)
{
    check_string("\"\"", "", 0);
    check_string("\"plain\"", "plain", 5);
    check_string("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8);
    check_string("\"a\\u0000b\"", "a\0b", 3);
    check_string(
        "\"\\u007f\\u0080\\u07ff\\u0800\\uFfFf\"", "\x7f\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF", 11);
    check_string("\"\\ud800\\udc00\\udbff\\udfff\"", "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", 8);
    check_string("\"\\uD83D\\uDE00!\"", "\xF0\x9F\x98\x80!", 5);
}

/* A key stays valid while its value is read, unless the value is a string. */
static void test_key_outlives_its_value(void)
{
    struct json_reader reader = reader_of("{\"k\\u0031\":1.25,\"k\\u0032\":{\"other\\n\":[\"deep\\t\"]}}");
    struct error err = {OK, ""};
    struct json_text key;
    double number;
    bool more;

    CHECK(json_enter_object(&reader, &err) == OK, &err);
    CHECK(json_next_key(&reader, &key, &more, &err) == OK, &err);
    CHECK(json_read_number(&reader, &number, &err) == OK, &err);
    CU_ASSERT_TRUE(text_is(key, "k1"));
    CHECK(json_next_key(&reader, &key, &more, &err) == OK, &err);
    CHECK(json_skip(&reader, NULL, &err) == OK, &err);
    CU_ASSERT_TRUE(text_is(key, "k2"));
    json_reader_free(&reader);
}

static enum status read_u64(const char *document, uint64_t *value)
{
    struct json_reader reader = reader_of(document);
    enum status status = json_read_u64(&reader, value, NULL);

    return status ? status : json_finish(&reader, NULL);
}

static void test_u64(void)
{
    static const char *const bad[] = {"18446744073709551616", "99999999999999999999999", "-1", "-0", "1.0",
        "1e3", "1.5", "\"1\"", "true", "null", "[1]", "01", "+1", "", "x"};
    uint64_t value;

    CU_ASSERT_TRUE(read_u64("0", &value) == OK && value == 0);
    CU_ASSERT_TRUE(read_u64("9007199254740993", &value) == OK && value == UINT64_C(9007199254740993));
    CU_ASSERT_TRUE(read_u64("18446744073709551615", &value) == OK && value == UINT64_MAX);
    CU_ASSERT_TRUE(read_u64(" 7 ", &value) == OK && value == 7);
    for (size_t i = 0; i < COUNT(bad); i++) {
        value = 77;
        CU_ASSERT_EQUAL(read_u64(bad[i], &value), ERR_FORMAT);
        CU_ASSERT_EQUAL(value, 77);
    }
}

static void test_doubles_are_rounded_correctly(void)
{
    static const struct {
        const char *text;
        double value;
    } cases[] = {{"0.1", 0.1}, {"-0", -0.0}, {"1e22", 1e22}, {"2.2250738585072014e-308", DBL_MIN},
        {"4.9e-324", 4.9406564584124654e-324}, {"1e-400", 0}, {"1.7976931348623157e308", DBL_MAX},
        {"9007199254740993", 9007199254740992.0},
        {"9007199254740993.0000000000000000000000000001", 9007199254740994.0},
        {"0.500000000000000166533453693773481063544750213623046875", 0.5000000000000002},
        {"123456789012345678901234567890", 123456789012345678901234567890.0}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json_reader reader = reader_of(cases[i].text);
        double value = 77;
        CU_ASSERT_EQUAL(json_read_number(&reader, &value, NULL), OK);
        CU_ASSERT_EQUAL(memcmp(&value, &cases[i].value, sizeof value), 0);
    }
}

static void test_large_and_long_numbers(void)
{
    uint64_t count;
    char *digits = repeat("1", 1025, &count);

    CU_ASSERT_EQUAL(skip_document("1e999", 5, NULL), OK); /* only its syntax is looked at */
    CU_ASSERT_EQUAL(parse_document("1e999", 5, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(parse_document("-1e999", 6, NULL), ERR_FORMAT);
    digits[1] = '.';
    check_document(digits, 1024, true);
    check_document(digits, 1025, false);
    free(digits);
}

static void test_wrong_kinds(void)
{
    static const char *const documents[] = {"null", "true", "1", "\"s\"", "[]", "{}"};
    struct error err = {OK, ""};

    for (int found = JSON_NULL; found <= JSON_OBJECT; found++) {
        for (int wanted = JSON_NULL; wanted <= JSON_OBJECT; wanted++) {
            struct json_reader reader = reader_of(documents[found]);
            struct json_text text;
            enum status status = OK;
            double number;
            bool flag;
            switch (wanted) {
            case JSON_NULL:
                status = json_read_null(&reader, &err);
                break;
            case JSON_BOOL:
                status = json_read_bool(&reader, &flag, &err);
                break;
            case JSON_NUMBER:
                status = json_read_number(&reader, &number, &err);
                break;
            case JSON_STRING:
                status = json_read_string(&reader, &text, &err);
                break;
            case JSON_ARRAY:
                status = json_enter_array(&reader, &err);
                break;
            case JSON_OBJECT:
                status = json_enter_object(&reader, &err);
                break;
            }
            CU_ASSERT_EQUAL(status, found == wanted ? OK : ERR_FORMAT);
        }
    }
    CU_ASSERT_STRING_EQUAL(err.text, "pull: expected an array, found an object at byte 0");
}

/* A value that is refused is not consumed, so a caller may try another kind. */
static void test_try_another_kind(void)
{
    struct json_reader reader = reader_of("-1.5");
    uint64_t integer;
    double number = 0;
    bool flag;

    CU_ASSERT_EQUAL(json_read_bool(&reader, &flag, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_read_u64(&reader, &integer, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_read_number(&reader, &number, NULL), OK);
    CU_ASSERT_EQUAL(number, -1.5);
    CU_ASSERT_EQUAL(json_finish(&reader, NULL), OK);
}

/* Calls in an order that makes no sense are errors, not crashes. */
static void test_calls_out_of_order(void)
{
    struct json_reader reader = reader_of("{\"a\":[1]} ");
    struct json_text text;
    enum json_kind kind;
    bool more;

    CU_ASSERT_EQUAL(json_finish(&reader, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_next_key(&reader, &text, &more, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_next_element(&reader, &more, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_enter_object(&reader, NULL), OK);
    CU_ASSERT_EQUAL(json_peek(&reader, &kind, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_skip(&reader, NULL, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_next_element(&reader, &more, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_next_key(&reader, &text, &more, NULL), OK);
    CU_ASSERT_EQUAL(json_next_key(&reader, &text, &more, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_skip(&reader, NULL, NULL), OK);
    CU_ASSERT_EQUAL(json_next_key(&reader, &text, &more, NULL), OK);
    CU_ASSERT_FALSE(more);
    CU_ASSERT_EQUAL(json_skip(&reader, NULL, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_finish(&reader, NULL), OK);
    json_reader_free(&reader);
}

static void test_reader_without_memory(void)
{
    struct json_reader reader = reader_of("\"a\\n\"");
    struct error err = {OK, ""};
    struct json_text text;

    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(json_read_string(&reader, &text, &err), ERR_MEMORY);
    memory_fail_at(0, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "pull: "));
    json_reader_free(&reader);
}

/* ---- the set of keys ---- */

static bool add_key(struct json_keys *keys, const char *bytes, uint64_t count)
{
    struct error err = {OK, ""};
    bool added = false;

    REQUIRE(json_keys_add(keys, bytes, count, &added, &err) == OK, &err);
    return added;
}

static void test_keys(void)
{
    struct json_keys keys = {0};
    char name[32];

    CU_ASSERT_TRUE(add_key(&keys, "", 0));
    CU_ASSERT_FALSE(add_key(&keys, NULL, 0));
    CU_ASSERT_TRUE(add_key(&keys, "a", 1));
    CU_ASSERT_TRUE(add_key(&keys, "A", 1));
    CU_ASSERT_TRUE(add_key(&keys, "a\0", 2));
    CU_ASSERT_TRUE(add_key(&keys, "a\0b", 3));
    CU_ASSERT_FALSE(add_key(&keys, "a\0b", 3));
    for (int round = 0; round < 2; round++) {
        int added = 0;
        for (int i = 0; i < 20000; i++) { /* in one buffer: the set must have copied */
            int count = snprintf(name, sizeof name, "layers.%d.weight", i);
            added += add_key(&keys, name, (uint64_t)count);
        }
        CU_ASSERT_EQUAL(added, round == 0 ? 20000 : 0);
    }
    CU_ASSERT_EQUAL(keys.count, 20005);
    json_keys_free(&keys);
    CU_ASSERT_EQUAL(keys.count, 0);
    json_keys_free(&keys);
}

static void test_keys_of_every_length(void)
{
    struct json_keys keys = {0};
    uint64_t count;
    char *text = repeat("x", 300000, &count);

    for (uint64_t length = 0; length < 300; length++)
        CU_ASSERT_TRUE(add_key(&keys, text, length));
    CU_ASSERT_TRUE(add_key(&keys, text, count));
    for (uint64_t length = 0; length < 300; length++)
        CU_ASSERT_FALSE(add_key(&keys, text + 7, length));
    CU_ASSERT_FALSE(add_key(&keys, text, count));
    json_keys_free(&keys);
    free(text);
}

static void test_keys_without_memory(void)
{
    bool added;

    for (uint64_t nth = 1;; nth++) {
        struct json_keys keys = {0};
        enum status status = OK;
        memory_fail_at(nth, 0);
        for (uint64_t i = 0; i < 500 && !status; i++)
            status = json_keys_add(&keys, (const char *)&i, sizeof i, &added, NULL);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        CU_ASSERT_EQUAL(status, failures ? ERR_MEMORY : OK);
        json_keys_free(&keys);
        if (failures == 0) break;
    }
}

/* ---- the tree ---- */

static struct json_document *parsed(const char *text)
{
    struct json_document *document = NULL;
    struct error err = {OK, ""};

    REQUIRE(json_parse(&document, "tree", text, strlen(text), &err) == OK, &err);
    return document;
}

static void test_tree(void)
{
    struct json_document *document =
        parsed("{\"n\":1.5,\"u\":18446744073709551615,\"s\":\"a\\u0000b\",\"t\":true,\"z\":null,"
               "\"l\":[1,\"x\",[2],{}],\"e\":[]}");
    const struct json_value *root = json_root(document), *list = json_member(root, "l"), *item;

    CU_ASSERT_EQUAL(root->kind, JSON_OBJECT);
    CU_ASSERT_EQUAL(root->count, 7);
    CU_ASSERT_PTR_NULL(root->next);
    CU_ASSERT_STRING_EQUAL(root->children->key.bytes, "n");
    CU_ASSERT_TRUE(json_member(root, "n")->number == 1.5 && !json_member(root, "n")->is_u64);
    CU_ASSERT_TRUE(json_member(root, "u")->is_u64 && json_member(root, "u")->u64 == UINT64_MAX);
    CU_ASSERT_EQUAL(json_member(root, "s")->text.count, 3);
    CU_ASSERT_EQUAL(memcmp(json_member(root, "s")->text.bytes, "a\0b", 4), 0);
    CU_ASSERT_TRUE(json_member(root, "t")->boolean);
    CU_ASSERT_EQUAL(json_member(root, "z")->kind, JSON_NULL);
    CU_ASSERT_PTR_NULL(json_member(root, "N"));
    CU_ASSERT_PTR_NULL(json_member(root, ""));
    CU_ASSERT_PTR_NULL(json_member(NULL, "n"));
    CU_ASSERT_PTR_NULL(json_member(list, "n"));
    CU_ASSERT_EQUAL(list->count, 4);
    item = list->children;
    CU_ASSERT_TRUE(item->is_u64 && item->u64 == 1 && item->number == 1);
    item = item->next;
    CU_ASSERT_TRUE(json_is_text(item, "x") && !json_is_text(item, "xy") && !json_is_text(item, ""));
    item = item->next;
    CU_ASSERT_TRUE(item->kind == JSON_ARRAY && item->count == 1 && item->children->u64 == 2);
    item = item->next;
    CU_ASSERT_TRUE(item->kind == JSON_OBJECT && item->count == 0 && item->children == NULL);
    CU_ASSERT_PTR_NULL(item->next);
    CU_ASSERT_FALSE(json_is_text(NULL, "x"));
    CU_ASSERT_FALSE(json_is_text(json_member(root, "n"), "1.5"));
    json_free(document);
    json_free(NULL);
}

static void check_duplicate(const char *text, const char *key)
{
    struct error err = {OK, ""};

    CU_ASSERT_EQUAL(parse_document(text, strlen(text), &err), ERR_FORMAT);
    CHECK(strstr(err.text, "duplicate key") && strstr(err.text, key), &err);
}

static void test_duplicate_keys(void)
{
    static const char distinct[] = "{\"a\":{\"a\":1},\"b\":{\"a\":1},\"A\":1,\"a\\u0000\":2}";
    char text[40 * 10 + 20], *at = text;

    check_duplicate("{\"a\":1,\"a\":1}", "\"a\"");
    check_duplicate("{\"a\":1,\"b\":2,\"\\u0061\":3}", "\"a\"");
    check_duplicate("[{\"x\":{\"\":1,\"\":2}}]", "\"\"");
    check_document(distinct, strlen(distinct), true);
    for (int members = 2; members <= 40; members++) { /* both ways of looking for them */
        at = text + sprintf(text, "{");
        for (int i = 0; i < members; i++)
            at += sprintf(at, "%s\"k%d\":0", i ? "," : "", i);
        strcpy(at, "}");
        check_document(text, strlen(text), true);
        sprintf(at, ",\"k%d\":0}", members / 2);
        check_duplicate(text, "duplicate");
    }
}

static void test_tree_limits(void)
{
    struct error err = {OK, ""};
    uint64_t count;
    char *text = repeat("[],", 1000000, &count);

    text[0] = '[';
    memcpy(text, "[1,", 3);
    text[count - 1] = ']';
    CU_ASSERT_EQUAL(skip_document(text, count, &err), OK);
    CU_ASSERT_EQUAL(parse_document(text, count, &err), ERR_MEMORY); /* the array and a million values */
    CHECK(strstr(err.text, "more than 1000000 values") != NULL, &err);
    count -= 3;
    text[count - 1] = ']';
    CHECK(parse_document(text, count, &err) == OK, &err);
    free(text);
    text = repeat("\n", (16 << 20) + 1, &count);
    text[0] = '1';
    CHECK(parse_document(text, count - 1, &err) == OK, &err);
    CU_ASSERT_EQUAL(parse_document(text, count, &err), ERR_MEMORY);
    CHECK(strstr(err.text, "the limit is 16777216") != NULL, &err);
    free(text);
}

/* A6: a hostile document may take 64 MB and four times its size. */
static void test_tree_memory(void)
{
    uint64_t count, before = memory_peak_bytes();
    char *text = repeat(",0", 999999, &count);

    text[0] = '[';
    text[count++] = ']';
    CU_ASSERT_EQUAL(parse_document(text, count, NULL), OK);
    if (!TESTING_SANITIZED) CU_ASSERT_TRUE(memory_peak_bytes() - before < (64 << 20) + 4 * count);
    free(text);
}

/* Many keys of one object in about linear time. */
static void test_many_keys_are_quick(void)
{
    struct json_writer writer = {0};
    struct error err = {OK, ""};
    clock_t start;
    uint64_t count;
    char name[32], *text;

    json_open_object(&writer);
    for (int i = 0; i < 400000; i++) {
        snprintf(name, sizeof name, "token %d", i);
        json_put_u64(&writer, name, (uint64_t)i);
    }
    json_close_object(&writer);
    REQUIRE(json_writer_take(&writer, &text, &count, &err) == OK, &err);
    start = clock();
    CHECK(parse_document(text, count, &err) == OK, &err);
    CU_ASSERT_TRUE((double)(clock() - start) / CLOCKS_PER_SEC < 5);
    memory_free(text);
}

static void test_parse_without_memory(void)
{
    static const char text[] =
        "{\"a\\n\":[1,\"x\\t\",{\"k\":\"v\"}],\"1\":1,\"2\":1,\"3\":1,\"4\":1,\"5\":1,\"6\":1,\"7\":1,"
        "\"8\":1,\"9\":1,\"10\":1,\"11\":1,\"12\":1,\"13\":1,\"14\":1,\"15\":1,\"16\":1}";
    struct json_document *document;
    struct error err = {OK, ""};
    uint64_t nth = 1;

    for (;; nth++) {
        memory_fail_at(nth, 0);
        enum status status = json_parse(&document, "tree", text, sizeof text - 1, &err);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        CU_ASSERT_EQUAL(status, failures ? ERR_MEMORY : OK);
        CU_ASSERT_EQUAL(document == NULL, failures > 0);
        json_free(document);
        if (failures == 0) break;
    }
    CU_ASSERT_TRUE(nth > 5);
}

/* ---- typed members ---- */

static const char members[] =
    "{\"u\":5,\"f\":1.5,\"neg\":-1,\"big\":1e300,\"s\":\"text\",\"cut\":\"a\\u0000b\",\"t\":true,"
    "\"z\":null,\"l\":[],\"o\":{},\"ctl\":\"\\u001b[31m\"}";

static void test_get_u64(void)
{
    static const char *const bad[] = {"f", "neg", "big", "s", "t", "l"};
    struct json_document *document = parsed(members);
    const struct json_value *root = json_root(document);
    struct error err = {OK, ""};
    uint64_t value = 77;

    CU_ASSERT_TRUE(json_get_u64(root, "c", "absent", 0, 9, &value, &err) == OK && value == 77);
    CU_ASSERT_TRUE(json_get_u64(root, "c", "z", 0, 9, &value, &err) == OK && value == 77);
    CU_ASSERT_TRUE(json_get_u64(NULL, "c", "u", 0, 9, &value, &err) == OK && value == 77);
    for (size_t i = 0; i < COUNT(bad); i++)
        CU_ASSERT_EQUAL(json_get_u64(root, "c", bad[i], 0, UINT64_MAX, &value, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_get_u64(root, "c", "u", 6, 9, &value, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_get_u64(root, "c", "u", 0, 4, &value, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "c: u is 5, expected a whole number from 0 to 4");
    CU_ASSERT_EQUAL(value, 77);
    CU_ASSERT_TRUE(json_get_u64(root, "c", "u", 5, 5, &value, &err) == OK && value == 5);
    json_free(document);
}

static void test_get_number(void)
{
    struct json_document *document = parsed(members);
    const struct json_value *root = json_root(document);
    struct error err = {OK, ""};
    double value = 77;

    CU_ASSERT_TRUE(json_get_number(root, "c", "absent", 0, 9, &value, &err) == OK && value == 77);
    CU_ASSERT_EQUAL(json_get_number(root, "c", "s", 0, 9, &value, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "c: s is \"text\", expected a number from 0 to 9");
    CU_ASSERT_EQUAL(json_get_number(root, "c", "neg", 0, 9, &value, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_get_number(root, "c", "big", 0, 9, &value, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_get_number(root, "c", "ctl", 0, 9, &value, &err), ERR_FORMAT);
    CHECK(strstr(err.text, "\\x1b[31m") != NULL, &err);
    CU_ASSERT_EQUAL(value, 77);
    CU_ASSERT_TRUE(json_get_number(root, "c", "f", 1.5, 1.5, &value, &err) == OK && value == 1.5);
    CU_ASSERT_TRUE(json_get_number(root, "c", "u", 0, 9, &value, &err) == OK && value == 5);
    json_free(document);
}

static void test_get_bool_and_text(void)
{
    struct json_document *document = parsed(members);
    const struct json_value *root = json_root(document);
    struct error err = {OK, ""};
    const char *text = "before";
    bool flag = false;

    CU_ASSERT_TRUE(json_get_bool(root, "c", "absent", &flag, &err) == OK && !flag);
    CU_ASSERT_TRUE(json_get_bool(root, "c", "t", &flag, &err) == OK && flag);
    CU_ASSERT_EQUAL(json_get_bool(root, "c", "u", &flag, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "c: u is 5, expected true or false");
    CU_ASSERT_EQUAL(json_get_bool(root, "c", "l", &flag, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "c: l is an array, expected true or false");
    CU_ASSERT_EQUAL(json_get_bool(root, "c", "o", &flag, &err), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(err.text, "c: o is an object, expected true or false");
    CU_ASSERT_TRUE(json_get_text(root, "c", "z", &text, &err) == OK && strcmp(text, "before") == 0);
    CU_ASSERT_EQUAL(json_get_text(root, "c", "t", &text, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(json_get_text(root, "c", "cut", &text, &err), ERR_FORMAT);
    CHECK(strstr(err.text, "U+0000") != NULL, &err);
    CU_ASSERT_TRUE(json_get_text(root, "c", "s", &text, &err) == OK && strcmp(text, "text") == 0);
    json_free(document);
}

/* ---- the writer ---- */

static void check_written(struct json_writer *writer, const char *expected)
{
    struct error err = {OK, ""};
    uint64_t count;
    char *text;

    REQUIRE(json_writer_take(writer, &text, &count, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected) != 0) printf("\n%s", text);
    CU_ASSERT_EQUAL(count, strlen(expected));
    CHECK(parse_document(text, count, &err) == OK, &err);
    memory_free(text);
}

static void write_sample(struct json_writer *writer)
{
    json_open_object(writer);
    json_put_text(writer, "name", "a\"b");
    json_put_u64(writer, "big", UINT64_MAX);
    json_write_key(writer, "shape");
    json_open_array(writer);
    json_write_u64(writer, 1);
    json_write_u64(writer, 2);
    json_close_array(writer);
    json_write_key(writer, "none");
    json_open_array(writer);
    json_close_array(writer);
    json_put_number(writer, "half", 0.5);
    json_put_bool(writer, "yes", true);
    json_put_numbers(writer, "line", (const double[]){0.25, -3, 1e99}, 3);
    json_put_numbers(writer, "empty", NULL, 0);
    json_write_key(writer, "in");
    json_open_object(writer);
    json_put_text(writer, "z", NULL);
    json_close_object(writer);
    json_close_object(writer);
}

static void test_write(void)
{
    struct json_writer writer = {0};

    write_sample(&writer);
    check_written(&writer,
        "{\"name\":\"a\\\"b\",\"big\":18446744073709551615,\"shape\":[1,2],\"none\":[],\"half\":0.5,"
        "\"yes\":true,\"line\":[0.25,-3,1e+99],\"empty\":[],\"in\":{\"z\":null}}\n");
    writer.indent = 2;
    write_sample(&writer);
    check_written(&writer,
        "{\n  \"name\": \"a\\\"b\",\n  \"big\": 18446744073709551615,\n  \"shape\": [\n    1,\n    2\n  ],\n"
        "  \"none\": [],\n  \"half\": 0.5,\n  \"yes\": true,\n  \"line\": [0.25,-3,1e+99],\n  \"empty\": "
        "[],\n  "
        "\"in\": {\n    \"z\": null\n  }\n}\n");
    json_write_text(&writer, "alone");
    check_written(&writer, "\"alone\"\n");
}

static void test_write_strings(void)
{
    struct json_writer writer = {0};

    json_open_array(&writer);
    json_write_string(&writer, "\"\\/\b\f\n\r\t\x01\x1f\x7f", 11);
    json_write_string(&writer, "a\0b", 3);
    json_write_string(&writer, "\xC3\xBC\xE2\x82\xAC\xF0\x9F\x98\x80", 9);
    json_write_string(&writer, "x\xFFy\xE2\x82", 5);
    json_write_string(&writer, NULL, 0);
    json_close_array(&writer);
    check_written(&writer,
        "[\"\\\"\\\\/"
        "\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\",\"a\\u0000b\",\"\xC3\xBC\xE2\x82\xAC\xF0\x9F\x98\x80\","
        "\"x\xEF\xBF\xBDy\xEF\xBF\xBD\xEF\xBF\xBD\",\"\"]\n");
}

static void check_number(double value, const char *expected)
{
    struct json_writer writer = {0};
    uint64_t count;
    char *text, line[64];

    json_write_number(&writer, value);
    REQUIRE(json_writer_take(&writer, &text, &count, NULL) == OK, NULL);
    snprintf(line, sizeof line, "%s\n", expected);
    CU_ASSERT_STRING_EQUAL(text, line);
    memory_free(text);
}

static void test_write_numbers(void)
{
    check_number(0, "0");
    check_number(-0.0, "-0");
    check_number(0.1, "0.1");
    check_number(1.0 / 3, "0.3333333333333333");
    check_number(0.1 + 0.2, "0.30000000000000004");
    check_number(1e22, "1e+22");
    check_number(12345678, "12345678");
    check_number(DBL_MAX, "1.7976931348623157e+308");
    check_number(-5e-324, "-4.94065645841247e-324");
    check_number(NAN, "null");
    check_number(INFINITY, "null");
}

/* Any double reads back as itself, bit for bit. */
static void test_numbers_read_back(void)
{
    uint64_t state = 11, count, wrong = 0;

    for (int round = 0; round < 20000; round++) {
        struct json_writer writer = {0};
        struct json_reader reader;
        uint64_t bits = testing_random(&state);
        double value, again = 0;
        char *text;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        json_write_number(&writer, value);
        REQUIRE(json_writer_take(&writer, &text, &count, NULL) == OK, NULL);
        json_reader_init(&reader, "number", text, count);
        wrong += json_read_number(&reader, &again, NULL) != OK || memcmp(&again, &value, sizeof value) != 0;
        memory_free(text);
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

/* F21: where people write 1,5. */
static void test_comma_locale(void)
{
    if (!testing_comma_locale()) {
        printf("(no such locale here) ");
        return;
    }
    test_write_numbers();
    test_doubles_are_rounded_correctly();
    test_documents_that_are_accepted();
    check_document("1,5", 3, false);
    CU_ASSERT_STRING_EQUAL(localeconv()->decimal_point, ","); /* nor did we change it */
    setlocale(LC_ALL, "C");
}

static void test_write_without_memory(void)
{
    struct error err = {OK, ""};
    uint64_t nth = 1, count;
    char *text;

    for (;; nth++) {
        struct json_writer writer = {.indent = 2};
        memory_fail_at(nth, 0);
        write_sample(&writer);
        enum status status = json_writer_take(&writer, &text, &count, &err);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        CU_ASSERT_EQUAL(status, failures ? ERR_MEMORY : OK);
        CU_ASSERT_EQUAL(text == NULL, failures > 0);
        memory_free(text);
        if (failures == 0) break;
    }
    CU_ASSERT_TRUE(nth > 3);
}

static void test_valid_utf8(void)
{
    CU_ASSERT_TRUE(json_valid_utf8("", 0));
    CU_ASSERT_TRUE(json_valid_utf8("a\0\xC3\xBC\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF", 14));
    CU_ASSERT_FALSE(json_valid_utf8("a\xC3", 2));
    CU_ASSERT_FALSE(json_valid_utf8("\xED\xA0\x80", 3));
    CU_ASSERT_FALSE(json_valid_utf8("\xC0\x80", 2));
    CU_ASSERT_FALSE(json_valid_utf8("\xF4\x90\x80\x80", 4));
    CU_ASSERT_FALSE(json_valid_utf8("\xE2\x28\xA1", 3));
}

int main(void)
{
    static const struct test_case cases[] = {
        {"documents that are accepted", test_documents_that_are_accepted},
        {"documents that are refused", test_documents_that_are_refused},
        {"every prefix is refused", test_every_prefix_is_refused},
        {"every byte changed", test_every_byte_changed},
        {"random texts", test_random_texts},
        {"deep nesting", test_deep_nesting},
        {"messages", test_messages},
        {"pull a document", test_pull_a_document},
        {"strings are decoded", test_strings_are_decoded},
        {"a key outlives its value", test_key_outlives_its_value},
        {"u64", test_u64},
        {"doubles are rounded correctly", test_doubles_are_rounded_correctly},
        {"large and long numbers", test_large_and_long_numbers},
        {"wrong kinds", test_wrong_kinds},
        {"try another kind", test_try_another_kind},
        {"calls out of order", test_calls_out_of_order},
        {"reader without memory", test_reader_without_memory},
        {"keys", test_keys},
        {"keys of every length", test_keys_of_every_length},
        {"keys without memory", test_keys_without_memory},
        {"tree memory", test_tree_memory}, /* before anything that takes more */
        {"tree", test_tree},
        {"duplicate keys", test_duplicate_keys},
        {"tree limits", test_tree_limits},
        {"many keys are quick", test_many_keys_are_quick},
        {"parse without memory", test_parse_without_memory},
        {"get u64", test_get_u64},
        {"get number", test_get_number},
        {"get bool and text", test_get_bool_and_text},
        {"write", test_write},
        {"write strings", test_write_strings},
        {"write numbers", test_write_numbers},
        {"numbers read back", test_numbers_read_back},
        {"a locale with a comma", test_comma_locale},
        {"write without memory", test_write_without_memory},
        {"valid UTF-8", test_valid_utf8},
    };

    return TESTING_RUN("json", cases);
}
