/* See zip_file.h. */
#include "tests/support/zip_file.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/support/testing.h"

static void put(struct zip_file *zip, const void *bytes, uint64_t count)
{
    struct error err;

    REQUIRE(memory_grow(&zip->bytes, &zip->capacity, zip->count + count, 1, &err) == OK, &err);
    if (count) memcpy(zip->bytes + zip->count, bytes, count);
    zip->count += count;
}

static void put_number(struct zip_file *zip, uint64_t value, unsigned count)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    put(zip, bytes, count);
}

/* A row of numbers, each of the bytes that `widths` says by a digit. */
static void put_numbers(struct zip_file *zip, const char *widths, const uint64_t *values)
{
    for (; *widths; widths++)
        put_number(zip, *values++, (unsigned)(*widths - '0'));
}

void zip_file_add_aligned(
    struct zip_file *zip, const char *name, const void *bytes, uint64_t count, uint64_t alignment)
{
    const uint64_t name_bytes = strlen(name), at = zip->count + 30 + name_bytes + 4;
    const uint64_t padding = (alignment - at % alignment) % alignment;

    REQUIRE(zip->entries < ZIP_FILE_ENTRIES && name_bytes < sizeof zip->entry[0].name, NULL);
    strcpy(zip->entry[zip->entries].name, name);
    zip->entry[zip->entries].local = zip->count;
    put_numbers(zip, "42222244422",
        (const uint64_t[]){0x04034b50, 0, 0x0808, 0, 0, 0, 0, 0, 0, name_bytes, 4 + padding});
    put(zip, name, name_bytes);
    put_numbers(zip, "22", (const uint64_t[]){0x4246, padding}); /* "FB", as torch has it */
    for (uint64_t i = 0; i < padding; i++)
        put_number(zip, 'Z', 1);
    zip->entry[zip->entries].data = zip->count;
    zip->entry[zip->entries].bytes = count;
    put(zip, bytes, count);
    put_numbers(zip, "4444", (const uint64_t[]){0x08074b50, file_crc32(0, bytes, count), count, count});
    zip->entries++;
}

void zip_file_add(struct zip_file *zip, const char *name, const void *bytes, uint64_t count)
{
    zip_file_add_aligned(zip, name, bytes, count, 1);
}

void zip_file_finish(struct zip_file *zip)
{
    zip->directory = zip->count;
    for (uint64_t i = 0; i < zip->entries; i++) {
        const uint64_t bytes = zip->entry[i].bytes, name_bytes = strlen(zip->entry[i].name);
        const uint32_t crc = file_crc32(0, zip->bytes + zip->entry[i].data, bytes);
        zip->entry[i].central = zip->count;
        put_numbers(zip, "42222224442222244",
            (const uint64_t[]){0x02014b50, 0, 0, 0x0808, 0, 0, 0, crc, bytes, bytes, name_bytes, 0, 0, 0, 0,
                0, zip->entry[i].local});
        put(zip, zip->entry[i].name, name_bytes);
    }
    const uint64_t bytes = zip->count - zip->directory;
    zip->end64 = zip->count;
    put_numbers(zip, "4822448888",
        (const uint64_t[]){
            0x06064b50, 44, 0x031e, 45, 0, 0, zip->entries, zip->entries, bytes, zip->directory});
    zip->locator = zip->count;
    put_numbers(zip, "4484", (const uint64_t[]){0x07064b50, 0, zip->end64, 1});
    zip->end = zip->count;
    put_numbers(zip, "42222442",
        (const uint64_t[]){0x06054b50, 0, 0, zip->entries, zip->entries, bytes, zip->directory, 0});
}

void zip_file_patch(struct zip_file *zip, uint64_t at, uint64_t value, unsigned count)
{
    REQUIRE(at + count <= zip->count, NULL);
    for (unsigned i = 0; i < count; i++)
        zip->bytes[at + i] = (uint8_t)(value >> (8 * i));
}

void zip_file_free(struct zip_file *zip)
{
    memory_free(zip->bytes);
    *zip = (struct zip_file){0};
}
