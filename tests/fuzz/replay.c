/* Runs a fuzz target over every file of its corpus: the ordinary test that stands in for libFuzzer.
 *
 *   fuzz_json FOLDER */
#include <dirent.h>
#include <stdint.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_LIMIT = 64 << 20 };

static int run_file(const char *folder, const char *name)
{
    struct error err = {0};
    char *path = NULL, *bytes = NULL;
    uint64_t count;
    int failed = file_join(&path, folder, name, strlen(name), &err) ||
                 file_read_all(&bytes, &count, path, INPUT_LIMIT, &err);

    if (failed)
        fprintf(stderr, "%s\n", err.text);
    else
        LLVMFuzzerTestOneInput((const uint8_t *)bytes, count);
    memory_free(bytes);
    memory_free(path);
    return failed;
}

int main(int argc, char **argv)
{
    DIR *listing = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    uint64_t count = 0;
    int failed = 0;

    if (!listing) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    while (!failed && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        printf("%s\n", entry->d_name); /* so that a crash shows which file it was */
        fflush(stdout);
        failed = run_file(argv[1], entry->d_name);
        count++;
    }
    closedir(listing);
    return failed || count == 0;
}
