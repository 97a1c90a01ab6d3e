/* Any bytes as vocab.json and merges.txt, with a NUL between them, for every class that is known. */
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocab_merges.h"
#include "tests/fuzz/fuzz.h"

static void read_as(
    const char *config, const char *vocab, uint64_t vocab_bytes, const char *merges, uint64_t merges_bytes)
{
    static const char words[] = "Hello, ab 123 \xC3\xA4\n  x";
    struct token_extras extras = {0};
    struct tokenizer *tokenizer = NULL;
    char *text = NULL;
    uint32_t *ids = NULL;
    uint64_t bytes, count;

    if (json_parse(&extras.config, "config", config, strlen(config), NULL) != OK) abort();
    if (vocab_merges_write(&text, &bytes, vocab, vocab_bytes, merges, merges_bytes, &extras, NULL) == OK &&
        tokenizer_create(&tokenizer, "fuzz", text, bytes, NULL) == OK &&
        tokenizer_encode(tokenizer, &ids, &count, words, sizeof words - 1, true, NULL) == OK)
        memory_free(ids);
    tokenizer_free(tokenizer);
    memory_free(text);
    token_extras_free(&extras);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data, *nul = size ? memchr(bytes, 0, size) : NULL;
    const uint64_t vocab_bytes = nul ? (uint64_t)(nul - bytes) : size;
    const char *merges = nul ? nul + 1 : bytes + size;
    const uint64_t merges_bytes = (uint64_t)(bytes + size - merges);

    read_as("{\"tokenizer_class\":\"GPT2Tokenizer\"}", bytes, vocab_bytes, merges, merges_bytes);
    read_as("{\"tokenizer_class\":\"Qwen2Tokenizer\"}", bytes, vocab_bytes, merges, merges_bytes);
    return 0;
}
