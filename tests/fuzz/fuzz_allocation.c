/* Any bytes as a file of bits. What can be read can be written and reads the same again. */
#include <string.h>

#include "quantize/allocate.h"
#include "quantize/mix.h"
#include "tests/fuzz/fuzz.h"

static char folder[] = "/tmp/nibble-fuzz-XXXXXX", copy[64];

static void clean_up(void)
{
    remove(copy);
    rmdir(folder);
}

static void make_folder(void)
{
    if (!mkdtemp(folder)) abort();
    snprintf(copy, sizeof copy, "%s/copy", folder);
    atexit(clean_up);
}

static void check_copy(const struct allocation *expected)
{
    struct allocate_matrix *matrices = calloc(expected->count + 1, sizeof *matrices);
    struct allocation found;

    if (!matrices) abort();
    for (uint64_t i = 0; i < expected->count; i++) {
        matrices[i].name = expected->lines[i].name;
        matrices[i].bits = expected->lines[i].bits;
        if (!expected->lines[i].block) continue;
        matrices[i].bits = 2;
        matrices[i].label = mix_block_name(expected->lines[i].block);
    }
    if (allocate_write(copy, true, matrices, expected->count, NULL) != OK) abort();
    if (allocate_read(&found, copy, NULL) != OK || found.count != expected->count) abort();
    for (uint64_t i = 0; i < found.count; i++) {
        if (found.lines[i].bits != expected->lines[i].bits) abort();
        if (found.lines[i].block != expected->lines[i].block) abort();
        if (strcmp(found.lines[i].name, expected->lines[i].name) != 0) abort();
    }
    allocate_free(&found);
    free(matrices);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct allocation allocation;
    char path[FUZZ_PATH_BYTES];
    int descriptor;

    if (!copy[0]) make_folder();
    descriptor = fuzz_file(path, data, size);
    if (allocate_read(&allocation, path, NULL) == OK) check_copy(&allocation);
    allocate_free(&allocation);
    close(descriptor);
    return 0;
}
