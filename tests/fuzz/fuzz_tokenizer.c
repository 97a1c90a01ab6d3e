/* Any bytes as tokenizer.json and, after a NUL, a text to encode and decode. Without a NUL the file is its own text. */
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data, *text = size > 0 ? memchr(data, 0, size) : NULL;
    uint64_t bytes = text ? (uint64_t)(text++ - json) : size, text_bytes = size - (text ? bytes + 1 : 0);
    struct tokenizer *tokenizer = NULL;
    uint32_t *ids = NULL;
    char *decoded = NULL;
    uint64_t count, decoded_bytes;

    if (tokenizer_create(&tokenizer, "tokenizer.json", json, bytes, NULL) != OK) return 0;
    if (tokenizer_encode(tokenizer, &ids, &count, text ? text : json, text_bytes, true, NULL) == OK) {
        for (uint64_t i = 0; i < count; i++) {
            if (ids[i] >= tokenizer_size(tokenizer)) abort();
        }
        if (tokenizer_decode(tokenizer, &decoded, &decoded_bytes, ids, count, true, NULL) == OK &&
            !json_valid_utf8(decoded, decoded_bytes))
            abort();
    }
    memory_free(decoded);
    memory_free(ids);
    tokenizer_free(tokenizer);
    return 0;
}
