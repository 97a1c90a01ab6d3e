/* See sysfs.h. */
#include "runtime-check/bench/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Read until the end or until `bytes` are there; -1 with errno. */
static ssize_t read_whole(int descriptor, char *out, size_t bytes)
{
    size_t count = 0;
    while (count < bytes) {
        const ssize_t part = read(descriptor, out + count, bytes - count);
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return -1;
        if (part == 0) break;
        count += (size_t)part;
    }
    return (ssize_t)count;
}

bool sysfs_text(char *out, size_t bytes, const char *path)
{
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return false;
    ssize_t count = read_whole(descriptor, out, bytes);
    const int reason = count < 0 ? errno : EFBIG;
    close(descriptor);
    if (count < 0 || (size_t)count == bytes) {
        errno = reason;
        return false;
    }
    while (count > 0 && strchr(" \t\n", out[count - 1]))
        count--;
    out[count] = 0;
    return true;
}

bool sysfs_number(uint64_t *out, const char *path)
{
    char text[32];
    if (!sysfs_text(text, sizeof text, path)) return false;
    uint64_t value = 0;
    bool valid = *text != 0;
    for (const char *at = text; *at && valid; at++) {
        valid = *at >= '0' && *at <= '9' && !__builtin_mul_overflow(value, 10, &value) &&
                !__builtin_add_overflow(value, (uint64_t)(*at - '0'), &value);
    }
    if (valid)
        *out = value;
    else
        errno = EINVAL;
    return valid;
}

bool sysfs_kilobytes(uint64_t *bytes, const char *path, const char *key)
{
    const size_t length = strlen(key);
    FILE *file = fopen(path, "re");
    char line[256];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        uint64_t kilobytes;
        if (strncmp(line, key, length) != 0 || line[length] != ':') continue;
        found = sscanf(line + length + 1, "%" SCNu64, &kilobytes) == 1 && kilobytes < UINT64_MAX / 1024;
        if (found) *bytes = kilobytes * 1024;
    }
    if (file) fclose(file);
    return found;
}
