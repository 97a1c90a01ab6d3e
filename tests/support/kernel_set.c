/* See kernel_set.h. */
#include "tests/support/kernel_set.h"

#include <stdlib.h>

#include "tensor/kernels/kernels.h"
#include "tests/support/testing.h"

void testing_kernel_set(void)
{
    struct error err = {0};
    const enum status status = kernels_select(getenv("NIBBLE_KERNELS"), &err);
    if (status == ERR_UNSUPPORTED) testing_skip(err.text);
    REQUIRE(status == OK, &err);
}
