/* How the corpus of the fuzz targets is made: every hostile file that a test writes is also kept under
 * $NIBBLE_CORPUS/<target>/<name>, if that variable is set. See tests/fuzz/README.md. */
#ifndef NIBBLE_TESTS_FUZZ_CORPUS_H
#define NIBBLE_TESTS_FUZZ_CORPUS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CORPUS_FILE_LIMIT = 16 * 1024 }; /* what is larger, a test makes when it runs */

static inline void corpus_keep(const char *target, const char *name, const void *bytes, uint64_t count)
{
    const char *folder = getenv("NIBBLE_CORPUS");
    char path[1024];
    FILE *file;

    if (!folder || count > CORPUS_FILE_LIMIT) return;
    snprintf(path, sizeof path, "%s/%s", folder, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", folder, target, name);
    file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

#endif
