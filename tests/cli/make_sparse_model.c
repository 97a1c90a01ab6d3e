/* make-sparse-model INPUT.nbl OUTPUT.nbl 2:4|PERCENT: a copy whose matrices are pruned by magnitude and sparse. For tests and measurements. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/sparse_sample.h"

int main(int count, char **words)
{
    if (count != 4) {
        fprintf(stderr, "make-sparse-model INPUT.nbl OUTPUT.nbl 2:4|PERCENT\n");
        return 2;
    }
    const bool pairs = strcmp(words[3], "2:4") == 0;
    sparse_sample_model(words[1], words[2], pairs ? MASK_2_4 : MASK_BITMAP, (unsigned)atoi(words[3]));
    return 0;
}
