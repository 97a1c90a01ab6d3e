/* Letters by falling frequency, so that tokens are not all alike. */
#include "tests/support/sample_text.h"

#include <stdlib.h>

#include "tests/support/testing.h"

const char *sample_text(const char *name, uint64_t bytes, uint64_t seed)
{
    static const char letters[] = "EEEEETTTTAAAAOOOIIINNNSSSHHRRDDLLUCMWFGYPBVKXQJZ     \n";
    const char *path = testing_path("%s", name);
    char *text = malloc(bytes + 1);
    REQUIRE(text != NULL, NULL);
    for (uint64_t i = 0; i < bytes; i++)
        text[i] = letters[testing_random(&seed) % (sizeof letters - 1)];
    testing_write(path, text, bytes);
    free(text);
    return path;
}
