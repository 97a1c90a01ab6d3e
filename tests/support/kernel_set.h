/* The kernel set a test runs with. */
#ifndef NIBBLE_TESTS_SUPPORT_KERNEL_SET_H
#define NIBBLE_TESTS_SUPPORT_KERNEL_SET_H

/* Select the set that NIBBLE_KERNELS names, or the best. A set this CPU lacks ends the program as skipped. */
void testing_kernel_set(void);

#endif
