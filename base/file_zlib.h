/* What the sources that call zlib share: its memory comes from ours, so that tests can refuse it. */
#ifndef NIBBLE_BASE_FILE_ZLIB_H
#define NIBBLE_BASE_FILE_ZLIB_H

#include <zlib.h>

#include "base/memory.h"

static inline void *file_zlib_new(void *opaque, unsigned count, unsigned size)
{
    (void)opaque;
    return memory_new(count, size, NULL);
}

static inline void file_zlib_free(void *opaque, void *pointer)
{
    (void)opaque;
    memory_free(pointer);
}

#endif
