/* Any bytes as a GGUF file: what opening hands out, every metadata value by every getter, every block decoded. */
#include "base/memory.h"
#include "formats/metadata.h"
#include "tests/fuzz/fuzz.h"

static void get_all(const struct metadata *metadata, const char *key)
{
    const struct metadata_item *array;
    const char *text;
    uint64_t integer, bytes;
    double number;
    bool flag;

    metadata_get_u64(metadata, key, 0, UINT64_MAX, &integer, NULL);
    metadata_get_number(metadata, key, -1e300, 1e300, &number, NULL);
    metadata_get_bool(metadata, key, &flag, NULL);
    if (metadata_get_string(metadata, key, &text, &bytes, NULL) == OK) return;
    for (int type = 0; type < METADATA_TYPES; type++) {
        if (metadata_get_array(metadata, key, (enum metadata_type)type, &array, NULL) || !array) continue;
        const uint8_t *at = array->bytes;
        double sum = 0;
        for (uint64_t i = 0; i < array->count; i++) {
            if (type == METADATA_STRING)
                metadata_next_string(&at, &bytes);
            else
                sum += metadata_number_at(array, i);
        }
        if (sum == 0.1234) abort(); /* so that it is computed */
    }
}

static void decode_all(struct container *container)
{
    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        float values[BLOCK_WEIGHTS_MOST];
        if (tensor->storage != STORAGE_BLOCKS) continue;
        const uint32_t weights = block_info(tensor->block)->weights;
        for (uint64_t at = 0; at < tensor->elements; at += weights)
            blocks_decode(values, tensor->block, tensor->data, at, weights);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct container *container = NULL;
    char path[FUZZ_PATH_BYTES];
    int descriptor = fuzz_file(path, data, size);

    fuzz_open(path);
    if (container_open(&container, path, NULL) == OK && container_map(container, NULL) == OK) {
        const struct metadata *metadata = container_metadata(container);
        for (uint64_t i = 0; i < metadata->count; i++)
            get_all(metadata, metadata->items[i].key);
        decode_all(container);
    }
    container_close(container);
    close(descriptor);
    return 0;
}
