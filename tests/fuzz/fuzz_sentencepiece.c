/* Any bytes as a SentencePiece model: what becomes a tokenizer.json must be one, and tokenize without an error that is no
 * status. */
#include <stdlib.h>

#include "base/memory.h"
#include "model/tokenizer/sentencepiece.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char words[] = "Hello, ab 123 \xC3\xA4\n  <s>x";
    const struct token_extras none = {0};
    struct tokenizer *tokenizer = NULL;
    char *text = NULL;
    uint32_t *ids = NULL;
    uint64_t bytes, count;

    if (sentencepiece_write(&text, &bytes, (const char *)data, size, &none, NULL) != OK) return 0;
    if (tokenizer_create(&tokenizer, "fuzz", text, bytes, NULL) == OK &&
        tokenizer_encode(tokenizer, &ids, &count, words, sizeof words - 1, true, NULL) == OK)
        memory_free(ids);
    tokenizer_free(tokenizer);
    memory_free(text);
    return 0;
}
