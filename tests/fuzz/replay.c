/* Runs a fuzz target over every file of its corpus: the ordinary test that stands in for libFuzzer.
 *
 *   fuzz_json FOLDER... */
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

/* Every file of a folder, which must hold some. */
static int run_folder(const char *folder)
{
    DIR *listing = opendir(folder);
    struct dirent *entry;
    uint64_t count = 0;
    int failed = 0;

    if (!listing) {
        perror(folder);
        return 1;
    }
    while (!failed && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        printf("%s\n", entry->d_name); /* so that a crash shows which file it was */
        fflush(stdout);
        failed = run_file(folder, entry->d_name);
        count++;
    }
    closedir(listing);
    if (count == 0) fprintf(stderr, "%s: is empty\n", folder);
    return failed || count == 0;
}

int main(int argc, char **argv)
{
    int failed = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc && !failed; i++)
        failed = run_folder(argv[i]);
    return failed;
}
