/* Any bytes as the index of a folder of shards. The folder has the shards that the corpus names. */
#include <string.h>

#include "formats/bytes.h"
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
    static const char *const names[] = {
        "m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json", ""};
    char path[128];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
}

/* A shard with two empty tensors. */
static void write_shard(const char *name, const char *header)
{
    uint8_t bytes[256];

    bytes_put(bytes, strlen(header), 8);
    memcpy(bytes + 8, header, strlen(header));
    write_file(name, bytes, 8 + strlen(header));
}

#define EMPTY "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"

static void make_folder(void)
{
    if (!mkdtemp(folder)) abort();
    atexit(remove_folder);
    write_shard("m-1.safetensors", "{\"b\":" EMPTY ",\"a\":" EMPTY "}");
    write_shard("m-2.safetensors", "{\"d\":" EMPTY ",\"c\":" EMPTY "}");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    struct container *container = NULL;

    if (!made) make_folder();
    made = true;
    write_file("model.safetensors.index.json", data, size);
    if (container_open(&container, folder, NULL) == OK && container_count(container) != 4) abort();
    container_close(container);
    return 0;
}
