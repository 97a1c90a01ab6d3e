/* Small files in which the kernel says something: sysfs and procfs. Their size is not known before they are read, so base/file
 * is not for them. */
#ifndef NIBBLE_RUNTIME_CHECK_SYSFS_H
#define NIBBLE_RUNTIME_CHECK_SYSFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The text of a file of less than `bytes` bytes, terminated, white space at its end cut off. False: it cannot be read or is
 * longer; errno says why (EFBIG). */
bool sysfs_text(char *out, size_t bytes, const char *path);

/* A file that holds one whole number, digits only. False with errno as above; EINVAL: something else stands there. */
bool sysfs_number(uint64_t *out, const char *path);

/* The number after "<key>:" in a file of such lines (/proc/self/status, /proc/meminfo), in bytes (those files count kB). False:
 * the file or the line is not there. */
bool sysfs_kilobytes(uint64_t *bytes, const char *path, const char *key);

#endif
