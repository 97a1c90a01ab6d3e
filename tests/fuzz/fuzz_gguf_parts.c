/* Any bytes as the two parts of a split GGUF file: the first one's size in four bytes, the first, the second. */
#include <string.h>

#include "formats/bytes.h"
#include "tests/fuzz/fuzz.h"

static char folder[] = "/tmp/nibble-fuzz-XXXXXX";
static char paths[2][128];

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

static void remove_folder(void)
{
    remove(paths[0]);
    remove(paths[1]);
    remove(folder);
}

static void make_folder(void)
{
    if (!mkdtemp(folder)) abort();
    for (int i = 0; i < 2; i++)
        snprintf(paths[i], sizeof paths[i], "%s/m-%05d-of-00002.gguf", folder, i + 1);
    atexit(remove_folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    size_t first;

    if (!made) make_folder();
    made = true;
    if (size < 4) return 0;
    first = bytes_get_u32(data);
    if (first > size - 4) first = size - 4;
    write_file(paths[0], data + 4, first);
    write_file(paths[1], data + 4 + first, size - 4 - first);
    fuzz_open(paths[0]);
    return 0;
}
