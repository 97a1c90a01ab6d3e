/* Golden texts of a tokenizer (tests/golden/tokenizer*: NAME.cases.json): the reference's ids, and what they decode to. */
#ifndef NIBBLE_TESTS_SUPPORT_GOLDEN_TEXTS_H
#define NIBBLE_TESTS_SUPPORT_GOLDEN_TEXTS_H

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/testing.h"

/* Parse a file, or end the program. Owner: the caller, json_free. */
static inline struct json_document *golden_texts_parse(const char *path)
{
    struct json_document *document = NULL;
    struct error err = {0};
    uint64_t bytes;
    char *text = testing_read(path, &bytes);

    REQUIRE(json_parse(&document, path, text, bytes, &err) == OK, &err);
    memory_free(text);
    return document;
}

static inline bool golden_texts_same(const struct json_value *expected, const uint32_t *ids, uint64_t count)
{
    const struct json_value *id = expected->children;

    if (expected->count != count) return false;
    for (uint64_t i = 0; i < count; i++, id = id->next) {
        if (id->u64 != ids[i]) return false;
    }
    return true;
}

/* One text, with or without the tokens around it. What it decodes to is looked at only without. */
static inline void golden_texts_check_one(
    const struct tokenizer *tokenizer, const struct json_value *one, bool special, const char *name)
{
    const struct json_value *text = json_member(one, "text");
    const struct json_value *expected = json_member(one, special ? "ids_with_special" : "ids");
    const struct json_value *decoded = special ? NULL : json_member(one, "decoded");
    struct error err = {0};
    char quoted[120], message[200], *back = NULL;
    uint32_t *ids = NULL;
    uint64_t count = 0, bytes = 0;

    error_quote(quoted, sizeof quoted, text->text.bytes, text->text.count);
    snprintf(message, sizeof message, "%s: \"%s\"", name, quoted);
    bool ok =
        tokenizer_encode(tokenizer, &ids, &count, text->text.bytes, text->text.count, special, &err) == OK &&
        golden_texts_same(expected, ids, count) &&
        tokenizer_decode(tokenizer, &back, &bytes, ids, count, special, &err) == OK;
    if (ok && decoded) ok = bytes == decoded->text.count && memcmp(back, decoded->text.bytes, bytes) == 0;
    testing_check(ok, message, &err, __FILE__, __LINE__);
    memory_free(back);
    memory_free(ids);
}

#endif
