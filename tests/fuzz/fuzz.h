/* What the fuzz targets share. */
#ifndef NIBBLE_TESTS_FUZZ_FUZZ_H
#define NIBBLE_TESTS_FUZZ_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/container.h"

/* The entry that libFuzzer, or replay.c, calls once per input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_PATH_BYTES = 64 };

/* Make a file of these bytes, in memory only; close() of the returned descriptor removes it. */
static inline int fuzz_file(char path[FUZZ_PATH_BYTES], const uint8_t *data, size_t size)
{
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);

    if (descriptor < 0 || write(descriptor, data, size) != (ssize_t)size) abort();
    snprintf(path, FUZZ_PATH_BYTES, "/proc/self/fd/%d", descriptor);
    return descriptor;
}

/* Look at everything that a mapped container hands out. */
static inline void fuzz_look(struct container *container)
{
    char byte;

    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        if (container_find(container, tensor->name) != tensor) abort();
        if (tensor->bytes == 0) continue;
        if (container_read(container, tensor, tensor->bytes - 1, &byte, 1, NULL) != OK) abort();
        if (byte != ((const char *)tensor->data)[tensor->bytes - 1]) abort();
    }
}

/* Open a model file and look. */
static inline void fuzz_open(const char *path)
{
    struct container *container = NULL;

    if (container_open(&container, path, NULL) == OK && container_map(container, NULL) == OK)
        fuzz_look(container);
    container_close(container);
}

#endif
