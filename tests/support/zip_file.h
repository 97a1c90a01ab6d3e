/* Writes zip archives as torch.save does (stored entries, sizes and checksums in the directory only, zip64 end records), so that
 * a test can then break one byte of exactly the field it means. It knows the format by itself, on purpose. */
#ifndef NIBBLE_TESTS_SUPPORT_ZIP_FILE_H
#define NIBBLE_TESTS_SUPPORT_ZIP_FILE_H

#include <stdint.h>

enum { ZIP_FILE_ENTRIES = 16 };

/* Zero-initialise; release with zip_file_free. Whatever fails ends the program. */
struct zip_file {
    uint8_t *bytes;
    uint64_t count, capacity;
    uint64_t entries;
    struct {
        char name[64];
        uint64_t local, data, bytes, central; /* places of header, data and directory record; bytes of data */
    } entry[ZIP_FILE_ENTRIES];
    uint64_t directory, end64, locator, end; /* places, once finished */
};

/* Append an entry. */
void zip_file_add(struct zip_file *zip, const char *name, const void *bytes, uint64_t count);
/* The same, its data beginning at a multiple of `alignment`. */
void zip_file_add_aligned(
    struct zip_file *zip, const char *name, const void *bytes, uint64_t count, uint64_t alignment);
/* Write directory and end records. */
void zip_file_finish(struct zip_file *zip);
/* Overwrite `count` bytes (at most 8) with a little-endian number. */
void zip_file_patch(struct zip_file *zip, uint64_t at, uint64_t value, unsigned count);
void zip_file_free(struct zip_file *zip);

#endif
