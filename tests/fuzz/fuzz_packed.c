/* Any bytes as a packed checkpoint: config.json up to the first line feed, model.safetensors after it. Whatever opens has every tensor
 * whole, and is written in every layout that takes it. */
#include <string.h>

#include "base/memory.h"
#include "formats/packed/packed_parts.h"
#include "tests/fuzz/fuzz.h"

static char folder[] = "/tmp/nibble-fuzz-XXXXXX";

static void write_file(const char *name, const void *bytes, size_t count)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

static void remove_folder(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", ""};
    char path[128];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
}

static void pack_again(const struct tensor *tensor)
{
    for (int kind = 0; kind < PACKED_KINDS; kind++) {
        void *bytes[PACKED_PARTS_MOST] = {0};
        struct packed_parts parts;
        if (packed_parts_plan(&parts, (enum packed_kind)kind, tensor, NULL) != OK) continue;
        for (unsigned i = 0; i < parts.count; i++) {
            bytes[i] = memory_new(parts.list[i].bytes, 1, NULL);
            if (!bytes[i]) abort();
        }
        (void)packed_parts_fill(bytes, &parts, (enum packed_kind)kind, tensor, tensor->data, NULL);
        for (unsigned i = 0; i < parts.count; i++)
            memory_free(bytes[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    const size_t config = end ? (size_t)(end - data) : size, rest = end ? size - config - 1 : 0;
    struct container *container = NULL;
    static bool made;

    if (!made && !mkdtemp(folder)) abort();
    if (!made) atexit(remove_folder);
    made = true;
    write_file("config.json", data, config);
    write_file("model.safetensors", end ? end + 1 : data, rest);
    fuzz_open(folder);
    if (container_open(&container, folder, NULL) == OK && container_map(container, NULL) == OK) {
        for (uint64_t i = 0; i < container_count(container); i++) {
            const struct tensor *tensor = container_tensor(container, i);
            if (tensor->storage == STORAGE_TILES) pack_again(tensor);
        }
    }
    container_close(container);
    return 0;
}
