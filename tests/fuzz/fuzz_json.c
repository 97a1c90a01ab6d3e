/* Any bytes as a JSON document: skipped by the pull parser and built into a tree. Both must agree on what is
 * valid, but for duplicate keys, which only the tree sees. */
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_document *document = NULL;
    struct json_reader reader;
    enum status pulled, built;

    json_reader_init(&reader, "fuzz", (const char *)data, size);
    pulled = json_skip(&reader, NULL, NULL);
    if (pulled == OK) pulled = json_finish(&reader, NULL);
    json_reader_free(&reader);
    built = json_parse(&document, "fuzz", (const char *)data, size, NULL);
    if (built == OK && pulled != OK) abort();
    json_free(document);
    return 0;
}
