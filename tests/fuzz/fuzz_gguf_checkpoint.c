/* Any bytes as a GGUF checkpoint: names, configuration and tokenizer made of whatever the metadata say, every tensor read in its
 * order. What opens must tokenize without an error that is no status. */
#include <string.h>

#include "base/memory.h"
#include "model/checkpoint.h"
#include "tests/fuzz/fuzz.h"

static void read_all(struct container *container, bool opened)
{
    uint8_t bytes[64];

    if (container_map(container, NULL) != OK) return;
    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        const uint64_t count = tensor->bytes < sizeof bytes ? tensor->bytes : sizeof bytes;
        if (opened && container_find(container, tensor->name) != tensor) abort();
        if (count == 0) continue;
        if (container_read(container, tensor, tensor->bytes - count, bytes, count, NULL) != OK) abort();
        if (memcmp(bytes, (const uint8_t *)tensor->data + tensor->bytes - count, count) != 0) abort();
    }
}

static void tokenize(struct container *container)
{
    static const char text[] = "Hello, 123 \xC3\xA4\n  <s>x";
    struct tokenizer *tokenizer = NULL;
    uint32_t *ids = NULL;
    uint64_t count;

    if (checkpoint_tokenizer(&tokenizer, container, NULL) == OK && tokenizer) {
        if (tokenizer_encode(tokenizer, &ids, &count, text, sizeof text - 1, true, NULL) == OK)
            memory_free(ids);
    }
    tokenizer_free(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct checkpoint checkpoint;
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, data, size);

    const bool opened = checkpoint_open(&checkpoint, path, NULL) == OK;
    if (checkpoint.container) {
        tokenize(checkpoint.container);
        read_all(checkpoint.container, opened);
    }
    checkpoint_close(&checkpoint);
    close(descriptor);
    return 0;
}
