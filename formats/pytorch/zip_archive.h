/* Zip archives whose entries are stored as they are, which is what torch.save writes: names, places, sizes, checksums. Only
 * the directory at the end of the file is believed, and every local header must agree with it.
 *
 *   local header | name | extra | data | data descriptor     once per entry, gaps allowed
 *   directory: per entry sizes, CRC-32, place of the local header, name
 *   zip64 end record | zip64 locator                          where numbers need more than 32 bits, or always (PyTorch)
 *   end record                                                the last 22 bytes and a comment
 *
 * Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3 to 4.5. */
#ifndef NIBBLE_FORMATS_ZIP_ARCHIVE_H
#define NIBBLE_FORMATS_ZIP_ARCHIVE_H

#include "base/file.h"
#include "formats/names.h"

struct zip_entry {
    const char *name;
    uint64_t header; /* of the local header in the file */
    uint64_t offset; /* of the data in the file */
    uint64_t bytes;
    uint32_t crc; /* of the data; not compared on reading */
};

/* Zero-initialise; release with zip_archive_free. */
struct zip_archive {
    struct zip_entry *entries; /* [count], in the order of their local headers */
    uint64_t count, capacity;
    struct names_pool names;
    struct names_index index; /* numbers of entries */
};

/* Read the directory of a file, which is mapped, and compare every local header with it. The data are not read.
 * ERR_FORMAT: no archive, numbers that leave the file, a local header that says something else, entries that
 * overlap or have the same name. ERR_UNSUPPORTED: several disks, entries that are encrypted or compressed. Errors name entry or
 * offset, the caller adds the file. */
enum status zip_archive_read(struct zip_archive *out, struct file *file, struct error *err);
void zip_archive_free(struct zip_archive *archive);

/* NULL if there is none. */
const struct zip_entry *zip_archive_find(const struct zip_archive *archive, const char *name);

/* Read an entry's data and compare the checksum. ERR_FORMAT: it is another, ERR_IO. */
enum status zip_archive_check(const struct zip_entry *entry, struct file *file, struct error *err);

#endif
