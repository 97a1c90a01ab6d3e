/* Any bytes as a llama2.c model; after "T" and a number of two bytes, as the tokens of so large a vocabulary. */
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"
#include "model/checkpoint.h"
#include "model/tokenizer/llama2c_tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void read_tokens(const uint8_t *data, size_t size, uint64_t vocabulary)
{
    static const char text[] = "Hello, 123 \xC3\xA4\n  <s>x";
    struct tokenizer *tokenizer = NULL;
    uint32_t *ids = NULL;
    char *json = NULL;
    uint64_t bytes, count;

    if (llama2c_tokenizer_write(&json, &bytes, data, size, vocabulary, NULL) == OK &&
        tokenizer_create(&tokenizer, "fuzz", json, bytes, NULL) == OK &&
        tokenizer_encode(tokenizer, &ids, &count, text, sizeof text - 1, true, NULL) == OK)
        memory_free(ids);
    tokenizer_free(tokenizer);
    memory_free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct checkpoint checkpoint;
    char path[FUZZ_PATH_BYTES];

    if (size >= 3 && data[0] == 'T') {
        read_tokens(data + 3, size - 3, bytes_get_u16(data + 1));
        return 0;
    }
    int descriptor = fuzz_file(path, data, size);
    fuzz_open(path);
    if (checkpoint_open(&checkpoint, path, NULL) == OK && container_map(checkpoint.container, NULL) != OK)
        abort();
    checkpoint_close(&checkpoint);
    close(descriptor);
    return 0;
}
