/* Any bytes as a tokenizer.json that is to become GGUF metadata: refused, or lists as long as there are tokens. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/tokenizer/gguf_tokenizer_export.h"
#include "tests/fuzz/fuzz.h"

/* A container with nothing but the document. */
static struct container *open_with(const uint8_t *data, size_t size)
{
    static const uint8_t file[] = "\2\0\0\0\0\0\0\0{}";
    struct container *container = NULL;
    char path[FUZZ_PATH_BYTES], *text = memory_new(size + 1, 1, NULL);
    int descriptor = fuzz_file(path, file, sizeof file - 1);

    if (!text || container_open(&container, path, NULL) != OK) abort();
    close(descriptor);
    memcpy(text, data, size);
    if (container_attach(container, "tokenizer.json", text, size, NULL) != OK) {
        container_close(container);
        return NULL;
    }
    return container;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t rows[] = {0, 300};
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL; /* the corpus has texts behind it */
    struct container *container = size ? open_with(data, nul ? (size_t)(nul - data) : size) : NULL;

    for (size_t i = 0; i < sizeof rows / sizeof *rows && container; i++) {
        struct metadata_builder builder = {0};
        char note[GGUF_TOKENIZER_NOTE];
        if (gguf_tokenizer_export(&builder, container, rows[i], note, NULL) == OK && builder.pairs < 7)
            abort();
        if (memchr(note, 0, sizeof note) == NULL) abort();
        metadata_builder_free(&builder);
    }
    container_close(container);
    return 0;
}
