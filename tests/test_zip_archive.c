/* The zip reader by itself: one broken field after the other, in archives that are otherwise as torch.save writes them. */
#include "formats/pytorch/zip_archive.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"
#include "tests/support/zip_file.h"

static void build(struct zip_file *zip)
{
    *zip = (struct zip_file){0};
    zip_file_add(zip, "a/one", "first", 5);
    zip_file_add(zip, "a/two", "", 0);
    zip_file_add_aligned(zip, "a/three", "the third", 9, 64);
    zip_file_finish(zip);
}

static enum status open_zip(struct zip_archive *out, struct file **file, const struct zip_file *zip,
    uint64_t count, struct error *err)
{
    const char *path = testing_path("x.zip");
    enum status status;

    remove(path); /* writing over a file waits for the disk on some file systems */
    testing_write(path, zip->bytes, count);
    status = file_open(file, path, err);
    return status ? status : zip_archive_read(out, *file, err);
}

static void check_refused(const struct zip_file *zip, enum status expected, const char *says)
{
    struct zip_archive archive = {0};
    struct file *file = NULL;
    struct error err = {0};
    const enum status status = open_zip(&archive, &file, zip, zip->count, &err);

    if (status != expected || !strstr(err.text, says)) printf("expected '%s': %s\n", says, err.text);
    CU_ASSERT(status == expected && strstr(err.text, says) != NULL);
    zip_archive_free(&archive);
    file_close(file);
}

/* ---- sound archives ---- */

static void check_sound(const struct zip_file *zip)
{
    static const char *const names[] = {"a/one", "a/two", "a/three"};
    static const char *const texts[] = {"first", "", "the third"};
    struct zip_archive archive = {0};
    struct file *file = NULL;
    struct error err = {0};

    CHECK(open_zip(&archive, &file, zip, zip->count, &err) == OK, &err);
    CU_ASSERT_EQUAL(archive.count, 3);
    for (int i = 0; i < 3; i++) {
        const struct zip_entry *entry = zip_archive_find(&archive, names[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
        CU_ASSERT(entry->bytes == strlen(texts[i]) &&
                  memcmp(file->map + entry->offset, texts[i], entry->bytes) == 0);
        CHECK(zip_archive_check(entry, file, &err) == OK, &err);
    }
    CU_ASSERT_PTR_NULL(zip_archive_find(&archive, "a/four"));
    zip_archive_free(&archive);
    file_close(file);
}

static void test_sound(void)
{
    struct zip_file zip;

    build(&zip);
    check_sound(&zip);
    zip_file_patch(&zip, zip.end + 8, 0xFFFFFFFF, 4); /* numbers left to the zip64 record */
    zip_file_patch(&zip, zip.end + 12, UINT64_MAX, 8);
    check_sound(&zip);
    zip_file_free(&zip);
    build(&zip); /* without a zip64 record; local headers that say everything */
    memmove(zip.bytes + zip.end64, zip.bytes + zip.end, 22);
    zip.count = zip.end64 + 22;
    for (uint64_t i = 0; i < zip.entries; i++) {
        zip_file_patch(&zip, zip.entry[i].local + 14,
            file_crc32(0, zip.bytes + zip.entry[i].data, zip.entry[i].bytes), 4);
        zip_file_patch(&zip, zip.entry[i].local + 18, zip.entry[i].bytes, 4);
        zip_file_patch(&zip, zip.entry[i].local + 22, zip.entry[i].bytes, 4);
        zip_file_patch(&zip, zip.entry[i].local + 6, 0x0800, 2);
        zip_file_patch(&zip, zip.entry[i].central + 8, 0x0800, 2);
    }
    check_sound(&zip);
    zip_file_free(&zip);
}

/* More than 4 GiB, in holes: what PyTorch and what others write for sizes and places of more than 32 bits. */
static void put_at(FILE *file, uint64_t at, const char *widths, const uint64_t *values)
{
    REQUIRE(fseeko(file, (off_t)at, SEEK_SET) == 0, NULL);
    for (; *widths; widths++, values++) {
        for (int i = 0; i < *widths - '0'; i++)
            REQUIRE(fputc((int)(*values >> (8 * i) & 0xFF), file) != EOF, NULL);
    }
}

static void write_large(const char *path, bool open_sizes)
{
    const uint64_t big = (UINT64_C(1) << 32) + 10, flags = open_sizes ? 8 : 0, max = UINT32_MAX;
    const uint64_t second = 30 + 1 + 20 + big, directory = second + 30 + 1 + 12 + 3;
    const uint64_t size = open_sizes ? 0 : max, small = open_sizes ? 0 : 3;
    FILE *file = fopen(path, "wb");

    REQUIRE(file != NULL, NULL);
    put_at(file, 0,
        "42222244422"
        "1"
        "2288",
        (const uint64_t[]){
            0x04034b50, 0, flags, 0, 0, 0, 0, size, size, 1, 20, 'a', 1, 16, big, open_sizes ? 0 : big});
    put_at(file, second,
        "42222244422"
        "1"
        "228"
        "111",
        (const uint64_t[]){
            0x04034b50, 0, flags, 0, 0, 0, 0, small, small, 1, 12, 'b', 1, 8, second, 'x', 'y', 'z'});
    put_at(file, directory,
        "42222224442222244"
        "1"
        "2288",
        (const uint64_t[]){
            0x02014b50, 0, 0, flags, 0, 0, 0, 0, max, max, 1, 20, 0, 0, 0, 0, 0, 'a', 1, 16, big, big});
    put_at(file, directory + 67,
        "42222224442222244"
        "1"
        "228",
        (const uint64_t[]){
            0x02014b50, 0, 0, flags, 0, 0, 0, 0, 3, 3, 1, 12, 0, 0, 0, 0, max, 'b', 1, 8, second});
    put_at(file, directory + 67 + 59, "4822448888",
        (const uint64_t[]){0x06064b50, 44, 0, 45, 0, 0, 2, 2, 67 + 59, directory});
    put_at(file, directory + 67 + 59 + 56, "4484", (const uint64_t[]){0x07064b50, 0, directory + 67 + 59, 1});
    put_at(file, directory + 67 + 59 + 76, "42222442",
        (const uint64_t[]){0x06054b50, 0, 0, 2, 2, 67 + 59, max, 0});
    REQUIRE(fclose(file) == 0, NULL);
}

static void test_large(void)
{
    for (int open_sizes = 0; open_sizes < 2; open_sizes++) {
        struct zip_archive archive = {0};
        struct file *file = NULL;
        struct error err = {0};
        write_large(testing_path("large.zip"), open_sizes);
        REQUIRE(file_open(&file, testing_path("large.zip"), &err) == OK, &err);
        CHECK(zip_archive_read(&archive, file, &err) == OK, &err);
        const struct zip_entry *a = zip_archive_find(&archive, "a"), *b = zip_archive_find(&archive, "b");
        CU_ASSERT(a && a->offset == 51 && a->bytes == (UINT64_C(1) << 32) + 10);
        CU_ASSERT(b && b->bytes == 3 && memcmp(file->map + b->offset, "xyz", 3) == 0);
        zip_archive_free(&archive);
        file_close(file);
    }
}

static void test_checksum(void)
{
    struct zip_archive archive = {0};
    struct file *file = NULL;
    struct error err = {0};
    struct zip_file zip;

    build(&zip);
    zip.bytes[zip.entry[2].data + 3] ^= 1;
    CHECK(open_zip(&archive, &file, &zip, zip.count, &err) == OK, &err);
    CHECK(zip_archive_check(zip_archive_find(&archive, "a/one"), file, &err) == OK, &err);
    CHECK(zip_archive_check(zip_archive_find(&archive, "a/three"), file, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "entry a/three: the checksum of its 9 bytes at byte 192 is ") != NULL, &err);
    zip_archive_free(&archive);
    file_close(file);
    zip_file_free(&zip);
}

/* ---- one broken field ---- */

enum place { LOCAL, CENTRAL, END64, LOCATOR, END };

/* Of entry 1 (a/two) where it is a header. */
static const struct broken {
    enum place place;
    unsigned at, count;
    uint64_t value;
    enum status expected;
    const char *says;
} brokens[] = {
    {LOCAL, 0, 4, 0x04034b51, ERR_FORMAT, "entry a/two: has no local header at byte"},
    {LOCAL, 6, 2, 0, ERR_FORMAT, "entry a/two: its local header at byte"},
    {LOCAL, 6, 2, 0x0809, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 8, 2, 8, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 14, 4, 1, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 18, 4, 1, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 22, 4, 1, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 26, 2, 4, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 26, 2, 0xFFFF, ERR_FORMAT, "entry a/two: 0 bytes at byte"},
    {LOCAL, 28, 2, 0xFFFF, ERR_FORMAT, "reach into the directory"},
    {LOCAL, 28, 2, 3, ERR_FORMAT, "entry a/two: its local header"},
    {LOCAL, 31, 1, '!', ERR_FORMAT, "entry a/two: its local header"},
    {CENTRAL, 0, 4, 0, ERR_FORMAT, "no entry of the directory at byte"},
    {CENTRAL, 8, 2, 0x0809, ERR_UNSUPPORTED, "entry a/two: is encrypted"},
    {CENTRAL, 8, 2, 0x2008, ERR_UNSUPPORTED, "entry a/two: is encrypted"},
    {CENTRAL, 8, 2, 0x0828, ERR_UNSUPPORTED, "entry a/two: is compressed"},
    {CENTRAL, 10, 2, 8, ERR_UNSUPPORTED, "entry a/two: is compressed (method 8)"},
    {CENTRAL, 20, 4, 1, ERR_FORMAT, "entry a/two: is stored, but has 1 bytes in the archive and 0 outside"},
    {CENTRAL, 20, 8, 0x7000000070, ERR_FORMAT, "entries a/two and a/three overlap at byte"},
    {CENTRAL, 20, 8, 0x0000100000001000, ERR_FORMAT, "entry a/two: 4096 bytes at byte"},
    {CENTRAL, 20, 8, UINT64_MAX, ERR_FORMAT, "a size of more than 32 bits is missing"},
    {CENTRAL, 42, 4, UINT32_MAX, ERR_FORMAT, "a size of more than 32 bits is missing"},
    {CENTRAL, 42, 4, 0x7FFFFFFF, ERR_FORMAT, "entry a/two: has no local header at byte 2147483647"},
    {CENTRAL, 42, 4, 0, ERR_FORMAT, "entry a/two: its local header at byte 0 disagrees"},
    {CENTRAL, 28, 2, 0, ERR_FORMAT, "cannot be the name of an entry"},
    {CENTRAL, 28, 2, 0xFFFF, ERR_FORMAT, "the directory is cut short at byte"},
    {CENTRAL, 30, 2, 0xFFFF, ERR_FORMAT, "the directory is cut short at byte"},
    {CENTRAL, 32, 2, 0xFFFF, ERR_FORMAT, "the directory is cut short at byte"},
    {CENTRAL, 30, 2, 1, ERR_FORMAT, "its extra fields in the directory are damaged"},
    {CENTRAL, 46, 1, 0, ERR_FORMAT, "cannot be the name of an entry"},
    {CENTRAL, 46, 1, 0xFF, ERR_FORMAT, "entry '\\xff/two'"},
    {END64, 0, 4, 0, ERR_FORMAT, "zip64 end record is expected"},
    {END64, 4, 8, 45, ERR_FORMAT, "the end records at byte"},
    {END64, 16, 4, 1, ERR_UNSUPPORTED, "several disks"},
    {END64, 24, 8, 4, ERR_FORMAT, "disagree"},
    {END64, 32, 8, 4, ERR_FORMAT, "disagree"},
    {END64, 40, 8, 4, ERR_FORMAT, "disagree"},
    {END64, 48, 8, UINT64_MAX, ERR_FORMAT, "disagree"},
    {LOCATOR, 4, 4, 1, ERR_UNSUPPORTED, "several disks"},
    {LOCATOR, 8, 8, 5, ERR_FORMAT, "zip64 end record is expected at byte 5"},
    {LOCATOR, 8, 8, UINT64_MAX, ERR_FORMAT, "zip64 end record is expected"},
    {LOCATOR, 16, 4, 2, ERR_UNSUPPORTED, "several disks"},
    {LOCATOR, 0, 4, 0, ERR_FORMAT, "it must end at byte"},
    {END, 0, 4, 0, ERR_FORMAT, "no directory at its end"},
    {END, 4, 2, 1, ERR_UNSUPPORTED, "several disks"},
    {END, 8, 2, 2, ERR_UNSUPPORTED, "several disks"},
    {END, 12, 4, 1, ERR_FORMAT, "disagree"},
    {END, 16, 4, 1, ERR_FORMAT, "disagree"},
    {END, 20, 2, 1, ERR_FORMAT, "no directory at its end"},
};

static void test_broken(void)
{
    for (size_t i = 0; i < sizeof brokens / sizeof *brokens; i++) {
        const struct broken *broken = &brokens[i];
        struct zip_file zip;
        build(&zip);
        const uint64_t places[] = {zip.entry[1].local, zip.entry[1].central, zip.end64, zip.locator, zip.end};
        zip_file_patch(&zip, places[broken->place] + broken->at, broken->value, broken->count);
        check_refused(&zip, broken->expected, broken->says);
        zip_file_free(&zip);
    }
}

/* ---- entries together ---- */

static void test_together(void)
{
    struct zip_file zip = {0};

    zip_file_add(&zip, "a/one", "1", 1);
    zip_file_add(&zip, "a/one", "2", 1);
    zip_file_finish(&zip);
    check_refused(&zip, ERR_FORMAT, "duplicate entry a/one");
    zip_file_free(&zip);

    build(&zip); /* two records of one local header */
    memcpy(zip.bytes + zip.entry[1].central, zip.bytes + zip.entry[0].central, 51);
    check_refused(&zip, ERR_FORMAT, "entries a/one and a/one overlap at byte 0");
    zip_file_free(&zip);

    /* An entry inside another one's data, as zip bombs have them. */
    struct zip_file inner = {0};
    zip_file_add(&inner, "a/in", "secret", 6);
    zip_file_add(&zip, "a/out", inner.bytes, inner.count);
    zip_file_add(&zip, "a/in", "secret", 6);
    zip_file_finish(&zip);
    zip_file_patch(&zip, zip.entry[1].central + 42, zip.entry[0].data, 4);
    check_refused(&zip, ERR_FORMAT, "entries a/out and a/in overlap");
    zip_file_free(&inner);
    zip_file_free(&zip);

    build(&zip); /* fewer entries than the directory has, and more */
    zip_file_patch(&zip, zip.end + 8, 0x00020002, 4);
    zip_file_patch(&zip, zip.end64 + 24, 2, 8);
    zip_file_patch(&zip, zip.end64 + 32, 2, 8);
    check_refused(&zip, ERR_FORMAT, "after its last entry");
    zip_file_patch(&zip, zip.end + 8, 0xFFFFFFFF, 4);
    zip_file_patch(&zip, zip.end64 + 24, 4, 8);
    zip_file_patch(&zip, zip.end64 + 32, 4, 8);
    check_refused(&zip, ERR_FORMAT, "claims 4 entries");
    zip_file_patch(&zip, zip.end64 + 24, UINT64_MAX, 8);
    zip_file_patch(&zip, zip.end64 + 32, UINT64_MAX, 8);
    check_refused(&zip, ERR_FORMAT, "claims 18446744073709551615 entries");
    zip_file_free(&zip);
}

/* A name that would leave a folder is only a name. */
static void test_names(void)
{
    struct zip_archive archive = {0};
    struct file *file = NULL;
    struct error err = {0};
    struct zip_file zip = {0};

    zip_file_add(&zip, "../../etc/passwd", "x", 1);
    zip_file_finish(&zip);
    CHECK(open_zip(&archive, &file, &zip, zip.count, &err) == OK, &err);
    CU_ASSERT_PTR_NOT_NULL(zip_archive_find(&archive, "../../etc/passwd"));
    zip_archive_free(&archive);
    file_close(file);
    zip_file_free(&zip);
}

/* Cut short anywhere: refused. Any bit of the end or the directory flipped: refused, or the same entries. */
static void test_every_byte(void)
{
    struct error err = {0};
    struct zip_file zip;

    build(&zip);
    for (uint64_t count = 0; count < zip.count; count++) {
        struct zip_archive archive = {0};
        struct file *file = NULL;
        CHECK(open_zip(&archive, &file, &zip, count, &err) == ERR_FORMAT, &err);
        zip_archive_free(&archive);
        file_close(file);
    }
    for (uint64_t bit = 0; bit < 8 * zip.count; bit++) {
        struct zip_archive archive = {0};
        struct file *file = NULL;
        zip.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const enum status status = open_zip(&archive, &file, &zip, zip.count, &err);
        CU_ASSERT(status == OK || status == ERR_FORMAT || status == ERR_UNSUPPORTED);
        for (uint64_t i = 0; i < archive.count && status == OK; i++)
            CU_ASSERT(archive.entries[i].offset + archive.entries[i].bytes <= zip.directory);
        zip.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        zip_archive_free(&archive);
        file_close(file);
    }
    zip_file_free(&zip);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"sound archives", test_sound},
        {"more than 4 GiB", test_large},
        {"checksums", test_checksum},
        {"one broken field", test_broken},
        {"entries together", test_together},
        {"names", test_names},
        {"every byte", test_every_byte},
    };

    return TESTING_RUN("zip_archive", cases);
}
