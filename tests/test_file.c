/* Files: reads are exact or refused, outputs are complete or absent, whatever the system does in between. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "tests/support/testing.h"

/* ---- the faults ---- */

static struct file_calls real; /* file_calls as it was */

/* What the replaced calls do. Counters count calls since faults_begin. */
static struct {
    int reads, writes, syncs, closes, renames;
    int fail_read, fail_write, fail_sync, fail_close, fail_rename; /* the nth call fails; 0: none */
    int error;                                                     /* with this errno */
    int kill_write;                                                /* the nth write kills the process */
    size_t piece;     /* at most this many bytes per call; 0: all */
    bool interrupts;  /* every second call is interrupted first */
    bool empty_reads; /* reads give 0: the file was cut short */
} faults;

static bool injected(int *calls, int nth)
{
    ++*calls;
    if (faults.interrupts && *calls % 2 == 1) {
        errno = EINTR;
        return true;
    }
    if (*calls != nth) return false;
    errno = faults.error;
    return true;
}

static size_t piece_of(size_t count)
{
    return faults.piece && faults.piece < count ? faults.piece : count;
}

static int64_t faulty_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    if (injected(&faults.reads, faults.fail_read)) return -1;
    return faults.empty_reads ? 0 : real.pread(descriptor, buffer, piece_of(count), offset);
}

static int64_t faulty_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (faults.writes + 1 == faults.kill_write) raise(SIGKILL);
    if (injected(&faults.writes, faults.fail_write)) return -1;
    return real.pwrite(descriptor, buffer, piece_of(count), offset);
}

static int faulty_fsync(int descriptor)
{
    return injected(&faults.syncs, faults.fail_sync) ? -1 : real.fsync(descriptor);
}

static int faulty_close(int descriptor)
{
    int result = real.close(descriptor); /* as the kernel does: closed also when it reports an error */

    if (++faults.closes != faults.fail_close) return result;
    errno = faults.error;
    return -1;
}

static int faulty_rename(const char *from, const char *to)
{
    if (++faults.renames != faults.fail_rename) return real.rename(from, to);
    errno = faults.error;
    return -1;
}

static void faults_begin(void)
{
    memset(&faults, 0, sizeof faults);
    real = file_calls;
    file_calls = (struct file_calls){faulty_pread, faulty_pwrite, faulty_fsync, faulty_close, faulty_rename};
}

static void faults_end(void)
{
    file_calls = real;
}

/* ---- helpers ---- */

static int entries_of(const char *folder)
{
    DIR *listing = opendir(folder);
    int count = -2; /* "." and ".." */

    REQUIRE(listing != NULL, NULL);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

static bool holds(const char *path, const void *bytes, uint64_t count)
{
    uint64_t found;
    char *text = testing_read(path, &found);
    bool same = found == count && memcmp(text, bytes, count) == 0;

    memory_free(text);
    return same;
}

static bool holds_text(const char *path, const char *text)
{
    return holds(path, text, strlen(text));
}

static struct file *opened(const char *path)
{
    struct error err = {OK, ""};
    struct file *file = NULL;

    REQUIRE(file_open(&file, path, &err) == OK, &err);
    return file;
}

static struct output *started(const char *path, bool force)
{
    struct error err = {OK, ""};
    struct output *output = NULL;

    REQUIRE(output_open(&output, path, force, &err) == OK, &err);
    return output;
}

static const char *temporary_of(const char *name)
{
    return testing_path(".%s.tmp.%ld", name, (long)getpid());
}

static void check_refused(const char *path, bool force, enum status expected, const char *part)
{
    struct error err = {OK, ""};
    struct output *output = (struct output *)(void *)&err;
    enum status status = output_open(&output, path, force, &err);

    CHECK(status == expected, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CU_ASSERT_PTR_NULL(output);
}

/* ---- opening ---- */

static void test_open(void)
{
    struct file *file;

    testing_folder();
    testing_write(testing_path("a"), "12345", 5);
    file = opened(testing_path("a"));
    CU_ASSERT_EQUAL(file->bytes, 5);
    CU_ASSERT_STRING_EQUAL(file->path, testing_path("a"));
    CU_ASSERT_PTR_NULL(file->map);
    CU_ASSERT_TRUE(fcntl(file->descriptor, F_GETFD) & FD_CLOEXEC);
    CU_ASSERT_EQUAL(fcntl(file->descriptor, F_GETFL) & O_ACCMODE, O_RDONLY);
    file_close(file);
    file_close(NULL);
}

static void check_unopenable(const char *path, enum status expected, const char *part)
{
    struct error err = {OK, ""};
    struct file *file = (struct file *)(void *)&err;

    CHECK(file_open(&file, path, &err) == expected, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CHECK(strstr(err.text, path) != NULL, &err);
    CU_ASSERT_PTR_NULL(file);
}

static void test_open_what_is_no_file(void)
{
    const char *folder = testing_folder(), *fifo = testing_path("fifo"), *link = testing_path("link");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    REQUIRE(mkfifo(fifo, 0600) == 0 && symlink("fifo", link) == 0, NULL);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", testing_path("socket"));
    REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof address) == 0, NULL);
    alarm(20); /* a FIFO without a writer must not block */
    check_unopenable(folder, ERR_FORMAT, "is a folder");
    check_unopenable(fifo, ERR_FORMAT, "is a FIFO");
    check_unopenable(link, ERR_FORMAT, "is a FIFO");
    check_unopenable(address.sun_path, ERR_FORMAT, "is a socket");
    check_unopenable("/dev/null", ERR_FORMAT, "is a device");
    check_unopenable(testing_path("absent"), ERR_IO, "no such file");
    check_unopenable(testing_path("fifo/below"), ERR_IO, "not a directory");
    alarm(0);
    close(listener);
}

static void test_open_without_permission(void)
{
    if (geteuid() == 0) return; /* root may read everything */
    testing_folder();
    testing_write(testing_path("secret"), "x", 1);
    chmod(testing_path("secret"), 0);
    check_unopenable(testing_path("secret"), ERR_IO, "permission denied");
}

static void test_open_without_memory(void)
{
    struct error err = {OK, ""};
    struct file *file;

    testing_write(testing_path("memory"), "x", 1);
    for (uint64_t nth = 1; nth <= 2; nth++) {
        memory_fail_at(nth, 0);
        CU_ASSERT_EQUAL(file_open(&file, testing_path("memory"), &err), ERR_MEMORY);
        memory_fail_at(0, 0);
        CU_ASSERT_PTR_NULL(file);
    }
}

/* ---- reading ---- */

static void test_read_exactly(void)
{
    struct error err = {OK, ""};
    struct file *file;
    char bytes[11] = "..........";

    testing_write(testing_path("digits"), "0123456789", 10);
    file = opened(testing_path("digits"));
    CHECK(file_read_at(file, 3, bytes, 4, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(bytes, "3456......");
    CHECK(file_read_at(file, 0, bytes, 10, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(bytes, "0123456789");
    CHECK(file_read_at(file, 10, bytes, 0, &err) == OK, &err);
    CU_ASSERT_EQUAL(file_read_at(file, 0, bytes, 11, &err), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "ends at byte 10"));
    CU_ASSERT_EQUAL(file_read_at(file, 11, bytes, 0, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(file_read_at(file, UINT64_MAX, bytes, 1, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(file_read_at(file, 1, bytes, UINT64_MAX, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(file_read_at(file, UINT64_C(1) << 63, bytes, 1, &err), ERR_FORMAT);
    file_close(file);
}

static void test_read_short_and_interrupted(void)
{
    struct error err = {OK, ""};
    struct file *file;
    char bytes[1000], found[1000];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 7);
    testing_write(testing_path("short"), bytes, sizeof bytes);
    file = opened(testing_path("short"));
    for (size_t piece = 1; piece < 1001; piece = piece * 3 + 1) {
        memset(found, 0, sizeof found);
        faults_begin();
        faults.piece = piece;
        faults.interrupts = true;
        CHECK(file_read_at(file, 0, found, sizeof found, &err) == OK, &err);
        faults_end();
        CU_ASSERT_EQUAL(memcmp(found, bytes, sizeof bytes), 0);
    }
    file_close(file);
}

/* F07: every read of a call fails once. */
static void test_read_errors(void)
{
    struct error err = {OK, ""};
    struct file *file;
    char bytes[100] = {0};

    testing_write(testing_path("bad disk"), bytes, sizeof bytes);
    file = opened(testing_path("bad disk"));
    for (int nth = 1; nth <= 11; nth++) {
        faults_begin();
        faults.piece = 10;
        faults.fail_read = nth;
        faults.error = EIO;
        enum status status = file_read_at(file, 0, bytes, sizeof bytes, &err);
        faults_end();
        CU_ASSERT_EQUAL(status, nth <= 10 ? ERR_IO : OK);
        if (status) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "input/output error"));
    }
    file_close(file);
}

static void test_file_cut_short_while_open(void)
{
    struct error err = {OK, ""};
    struct file *file;
    char bytes[100] = {0};

    testing_write(testing_path("cut"), bytes, sizeof bytes);
    file = opened(testing_path("cut"));
    REQUIRE(truncate(testing_path("cut"), 60) == 0, NULL);
    CHECK(file_read_at(file, 0, bytes, 60, &err) == OK, &err);
    CU_ASSERT_EQUAL(file_read_at(file, 50, bytes, 20, &err), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "ends at byte 60"));
    faults_begin();
    faults.empty_reads = true;
    CU_ASSERT_EQUAL(file_read_at(file, 0, bytes, 1, &err), ERR_FORMAT);
    faults_end();
    file_close(file);
}

static void test_map(void)
{
    struct error err = {OK, ""};
    struct file *file;
    const uint8_t *map;

    testing_write(testing_path("map"), "mapped", 6);
    file = opened(testing_path("map"));
    CHECK(file_map(file, &err) == OK, &err);
    map = file->map;
    REQUIRE(map != NULL, NULL);
    CU_ASSERT_EQUAL(memcmp(map, "mapped", 6), 0);
    CHECK(file_map(file, &err) == OK, &err);
    CU_ASSERT_PTR_EQUAL(file->map, map);
    file_close(file);
    testing_write(testing_path("empty"), "", 0);
    file = opened(testing_path("empty"));
    CHECK(file_map(file, &err) == OK, &err);
    CU_ASSERT_PTR_NOT_NULL(file->map);
    file_close(file);
}

/* M07: a file that is replaced while mapped stays readable as it was. */
static void test_map_survives_replacement(void)
{
    struct error err = {OK, ""};
    struct file *file;
    struct output *output;

    testing_folder();
    testing_write(testing_path("old"), "old bytes", 9);
    file = opened(testing_path("old"));
    CHECK(file_map(file, &err) == OK, &err);
    output = started(testing_path("old"), true);
    CHECK(output_write_at(output, 0, "new", 3, &err) == OK, &err);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_EQUAL(memcmp(file->map, "old bytes", 9), 0);
    file_close(file);
    CU_ASSERT_TRUE(holds_text(testing_path("old"), "new"));
}

static void test_read_all(void)
{
    struct error err = {OK, ""};
    uint64_t bytes;
    char *text;

    testing_write(testing_path("all"), "a\0c", 3);
    CHECK(file_read_all(&text, &bytes, testing_path("all"), 3, &err) == OK, &err);
    CU_ASSERT_EQUAL(bytes, 3);
    CU_ASSERT_EQUAL(memcmp(text, "a\0c", 4), 0);
    memory_free(text);
    CU_ASSERT_EQUAL(file_read_all(&text, &bytes, testing_path("all"), 2, &err), ERR_MEMORY);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "limit is 2"));
    CU_ASSERT_PTR_NULL(text);
    CU_ASSERT_EQUAL(file_read_all(&text, &bytes, testing_path("not there"), 2, &err), ERR_IO);
    for (uint64_t nth = 1;; nth++) {
        memory_fail_at(nth, 0);
        enum status status = file_read_all(&text, &bytes, testing_path("all"), 3, &err);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures == 0) break;
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
        CU_ASSERT_PTR_NULL(text);
    }
    memory_free(text);
}

/* ---- texts that may be packed ---- */

/* "once upon a time, once upon a time\n" and 64 KiB of zeros as Python's gzip packs them. */
static const uint8_t packed_story[] = {31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 203, 207, 75, 78, 85, 40, 45, 200,
    207, 83, 72, 84, 40, 201, 204, 77, 213, 81, 200, 71, 19, 225, 2, 0, 23, 13, 20, 202, 35, 0, 0, 0};
static const uint8_t packed_zeros[96] = {[0] = 31,
    [1] = 139,
    [2] = 8,
    [8] = 2,
    [9] = 255,
    [10] = 237,
    [11] = 193,
    [12] = 1,
    [13] = 1,
    [17] = 128,
    [18] = 144,
    [19] = 254,
    [20] = 175,
    [21] = 238,
    [22] = 8,
    [23] = 10,
    [87] = 106,
    [88] = 235,
    [89] = 142,
    [90] = 151,
    [91] = 215,
    [94] = 1};
#define STORY "once upon a time, once upon a time\n"

static void put_32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* One gzip member made by hand, without compression: a header of ten bytes, stored blocks of at most 65535 bytes, CRC-32
 * and length. Returns its length. */
static uint64_t pack_stored(uint8_t *out, const void *bytes, uint32_t count)
{
    static const uint8_t header[10] = {31, 139, 8, [9] = 255};
    uint8_t *at = out + sizeof header;

    memcpy(out, header, sizeof header);
    for (uint32_t done = 0, piece; done == 0 || done < count; done += piece) {
        piece = count - done < 65535 ? count - done : 65535;
        *at++ = done + piece == count;
        put_32(at, piece | ~piece << 16);
        memcpy(at + 4, (const uint8_t *)bytes + done, piece);
        at += 4 + piece;
        if (count == 0) break;
    }
    put_32(at, file_crc32(0, bytes, count));
    put_32(at + 4, count);
    return (uint64_t)(at + 8 - out);
}

static void check_text(const void *stored, uint64_t stored_bytes, const void *expected, uint64_t count)
{
    const char *path = testing_path("text");
    struct error err = {OK, ""};
    uint32_t crc = 1;
    uint64_t bytes = 1;
    char *text = NULL;

    testing_write(path, stored, stored_bytes);
    CHECK(file_read_text(&text, &bytes, &crc, path, count, &err) == OK, &err);
    CU_ASSERT_EQUAL(bytes, count);
    CU_ASSERT_EQUAL(crc, file_crc32(0, stored, stored_bytes));
    CU_ASSERT(text && bytes == count && memcmp(text, expected, count) == 0 && text[count] == 0);
    memory_free(text);
}

static void check_no_text(
    const void *stored, uint64_t stored_bytes, uint64_t limit, enum status expected, const char *part)
{
    const char *path = testing_path("text");
    struct error err = {OK, ""};
    uint32_t crc;
    uint64_t bytes;
    char *text = (char *)&err;

    testing_write(path, stored, stored_bytes);
    CHECK(file_read_text(&text, &bytes, &crc, path, limit, &err) == expected, &err);
    CHECK(strstr(err.text, part) != NULL && strstr(err.text, path) != NULL, &err);
    CU_ASSERT_PTR_NULL(text);
}

static void test_text_plain(void)
{
    check_text("", 0, "", 0);
    check_text("\x1f", 1, "\x1f", 1);
    check_text("a\0c", 3, "a\0c", 3);
    check_text("\x1f\x8c", 2, "\x1f\x8c", 2);
    check_no_text("abc", 3, 2, ERR_MEMORY, "the limit is 2");
}

static void test_text_packed(void)
{
    enum { LARGE = 1000 * 1000 };
    static char large[LARGE];
    static uint8_t stored[LARGE + 1000];
    uint8_t two[sizeof packed_story * 2 + 100];
    uint64_t state = 1;

    check_text(packed_story, sizeof packed_story, STORY, 35);
    memcpy(two, packed_story, sizeof packed_story);
    memcpy(two + sizeof packed_story, packed_story, sizeof packed_story);
    check_text(two, 2 * sizeof packed_story, STORY STORY, 70);
    uint64_t empty = pack_stored(two + sizeof packed_story, "", 0);
    check_text(two, sizeof packed_story + empty, STORY, 35);
    check_text(two + sizeof packed_story, empty, "", 0);
    for (uint64_t i = 0; i < LARGE; i++)
        large[i] = (char)testing_random(&state);
    for (uint32_t count = LARGE - 3; count <= LARGE; count++)
        check_text(stored, pack_stored(stored, large, count), large, count);
    check_text(packed_zeros, sizeof packed_zeros, memset(large, 0, 65536), 65536);
}

/* A bit of the file is turned: an error, or it was one that does not matter (a date, what fills the last byte). */
static void check_turned(const uint8_t *bytes, uint64_t count)
{
    const char *path = testing_path("text");
    struct error err = {OK, ""};
    uint32_t crc;
    uint64_t unpacked;
    char *text = NULL;

    testing_write(path, bytes, count);
    enum status status = file_read_text(&text, &unpacked, &crc, path, 1000, &err);
    CHECK(status == ERR_FORMAT || (status == OK && strcmp(text, STORY) == 0), &err);
    memory_free(text);
}

/* Cut at every byte, every bit turned, and something behind it. */
static void test_text_packed_badly(void)
{
    uint8_t bytes[sizeof packed_story + 3];

    for (uint64_t count = 2; count < sizeof packed_story; count++)
        check_no_text(packed_story, count, 1000, ERR_FORMAT, "cut short");
    for (uint64_t bit = 16; bit < 8 * sizeof packed_story; bit++) {
        memcpy(bytes, packed_story, sizeof packed_story);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        check_turned(bytes, sizeof packed_story);
    }
    memcpy(bytes, packed_story, sizeof packed_story);
    memcpy(bytes + sizeof packed_story, "abc", 3);
    check_no_text(bytes, sizeof bytes, 1000, ERR_FORMAT, "incorrect header check");
    check_no_text(bytes, sizeof bytes - 2, 1000, ERR_FORMAT, "cut short");
    memset(bytes + sizeof packed_story, 0, 3);
    check_no_text(bytes, sizeof bytes, 1000, ERR_FORMAT, "incorrect header check");
}

/* What unpacks to 640 MB ends at the limit. */
static void test_text_bomb(void)
{
    enum { MEMBERS = 10000, LIMIT = 1 << 20 };
    static uint8_t bomb[MEMBERS * sizeof packed_zeros];
    uint64_t before = memory_peak_bytes();

    for (size_t i = 0; i < MEMBERS; i++)
        memcpy(bomb + i * sizeof packed_zeros, packed_zeros, sizeof packed_zeros);
    check_no_text(bomb, sizeof bomb, LIMIT, ERR_MEMORY, "more than 1048576 bytes once unpacked");
    if (!TESTING_SANITIZED) CU_ASSERT(memory_peak_bytes() < before + (16 << 20));
    check_no_text(packed_story, sizeof packed_story, 34, ERR_MEMORY, "more than 34 bytes");
    check_no_text(packed_story, sizeof packed_story, 0, ERR_MEMORY, "more than 0 bytes");
}

static void test_text_faults(void)
{
    const char *path = testing_path("text");
    struct error err = {OK, ""};
    enum status status = ERR_MEMORY;
    uint32_t crc;
    uint64_t bytes;
    char *text = NULL;

    CU_ASSERT_EQUAL(file_read_text(&text, &bytes, &crc, testing_path("absent"), 9, &err), ERR_IO);
    testing_write(path, packed_story, sizeof packed_story);
    for (uint64_t nth = 1; status; nth++) {
        memory_fail_at(nth, 0);
        status = file_read_text(&text, &bytes, &crc, path, 1000, &err);
        memory_fail_at(0, 0);
        CU_ASSERT(status == OK || (status == ERR_MEMORY && !text));
    }
    memory_free(text);
    for (int nth = 1; nth <= 2; nth++) {
        faults_begin();
        faults.fail_read = nth;
        faults.error = EIO;
        CU_ASSERT_EQUAL(file_read_text(&text, &bytes, &crc, path, 1000, &err), ERR_IO);
        faults_end();
    }
}

/* ---- paths ---- */

static void test_kind(void)
{
    const char *folder = testing_folder();

    testing_write(testing_path("a"), "", 0);
    REQUIRE(symlink("a", testing_path("link")) == 0 && symlink("x", testing_path("dangling")) == 0, NULL);
    CU_ASSERT_EQUAL(file_kind(folder), FILE_FOLDER);
    CU_ASSERT_EQUAL(file_kind(testing_path("a")), FILE_REGULAR);
    CU_ASSERT_EQUAL(file_kind(testing_path("link")), FILE_REGULAR);
    CU_ASSERT_EQUAL(file_kind(testing_path("dangling")), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind(testing_path("b")), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind("/dev/null"), FILE_OTHER);
}

static void test_same(void)
{
    testing_folder();
    testing_write(testing_path("a"), "x", 1);
    testing_write(testing_path("b"), "x", 1);
    REQUIRE(
        symlink("a", testing_path("soft")) == 0 && link(testing_path("a"), testing_path("hard")) == 0, NULL);
    CU_ASSERT_TRUE(file_same(testing_path("a"), testing_path("a")));
    CU_ASSERT_TRUE(file_same(testing_path("a"), testing_path("./a")));
    CU_ASSERT_TRUE(file_same(testing_path("a"), testing_path("soft")));
    CU_ASSERT_TRUE(file_same(testing_path("hard"), testing_path("soft")));
    CU_ASSERT_FALSE(file_same(testing_path("a"), testing_path("b")));
    CU_ASSERT_FALSE(file_same(testing_path("c"), testing_path("c")));
}

static void check_join(const char *folder, const char *name, uint64_t count, const char *expected)
{
    struct error err = {OK, ""};
    char *path;
    enum status status = file_join(&path, folder, name, count, &err);

    CHECK(status == (expected ? OK : ERR_FORMAT), &err);
    if (expected && path) CU_ASSERT_STRING_EQUAL(path, expected);
    if (!expected) CU_ASSERT_PTR_NULL(path);
    memory_free(path);
}

static void test_join(void)
{
    struct error err = {OK, ""};
    char *path;

    check_join("/data", "model.bin", 9, "/data/model.bin");
    check_join("/data", "model.bin", 5, "/data/model");
    check_join("/data/", "x", 1, "/data/x");
    check_join("", "x", 1, "x");
    check_join(".", "...", 3, "./...");
    check_join("d", "..x", 3, "d/..x");
    check_join("d", "", 0, NULL);
    check_join("d", ".", 1, NULL);
    check_join("d", "..", 2, NULL);
    check_join("d", "../../etc/passwd", 16, NULL);
    check_join("d", "sub/x", 5, NULL);
    check_join("d", "/etc/passwd", 11, NULL);
    check_join("d", "a\0b", 3, NULL);
    CU_ASSERT_EQUAL(file_join(&path, "d", "a\nb/", 4, &err), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "a\\x0ab/"));
    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(file_join(&path, "d", "a", 1, &err), ERR_MEMORY);
    memory_fail_at(0, 0);
}

static void check_parent(const char *path, const char *expected)
{
    struct error err = {OK, ""};
    char *folder = file_parent(path, &err);

    CHECK(folder != NULL, &err);
    if (folder) CU_ASSERT_STRING_EQUAL(folder, expected);
    memory_free(folder);
}

static void test_parent(void)
{
    check_parent("model.nbl", ".");
    check_parent("model/", ".");
    check_parent("a/b/model.nbl", "a/b");
    check_parent("a/b///", "a");
    check_parent("/model.nbl", "/");
    check_parent("/", "/");
    check_parent("", ".");
}

/* ---- writing ---- */

static void test_write_and_commit(void)
{
    struct error err = {OK, ""};
    const char *folder = testing_folder(), *path = testing_path("out");
    struct output *output = started(path, false);

    CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    CU_ASSERT_EQUAL(file_kind(temporary_of("out")), FILE_REGULAR);
    CHECK(output_write_at(output, 5, "world", 5, &err) == OK, &err);
    CHECK(output_write_at(output, 0, "hello", 5, &err) == OK, &err);
    CHECK(output_write_at(output, 3, NULL, 0, &err) == OK, &err);
    CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(path, "helloworld"));
    CU_ASSERT_EQUAL(entries_of(folder), 1);
}

static void test_abandon(void)
{
    struct error err = {OK, ""};
    const char *folder = testing_folder(), *path = testing_path("out");
    struct output *output = started(path, false);

    CHECK(output_write_at(output, 0, "x", 1, &err) == OK, &err);
    output_abandon(output);
    CU_ASSERT_EQUAL(entries_of(folder), 0);
    testing_write(path, "old", 3);
    output_abandon(started(path, true));
    CU_ASSERT_TRUE(holds_text(path, "old"));
    CU_ASSERT_EQUAL(entries_of(folder), 1);
    output_abandon(NULL);
}

static void test_relative_path(void)
{
    struct error err = {OK, ""};
    char before[PATH_MAX];
    struct output *output;

    REQUIRE(getcwd(before, sizeof before) && chdir(testing_folder()) == 0, NULL);
    output = started("here", false);
    CU_ASSERT_EQUAL(file_kind(temporary_of("here")), FILE_REGULAR);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(testing_path("here"), ""));
    REQUIRE(chdir(before) == 0, NULL);
}

static void test_targets_that_are_refused(void)
{
    const char *folder = testing_folder();

    testing_write(testing_path("old"), "old", 3);
    REQUIRE(
        symlink("old", testing_path("link")) == 0 && symlink(folder, testing_path("folder link")) == 0, NULL);
    REQUIRE(
        symlink("/dev/null", testing_path("null")) == 0 && symlink("x", testing_path("dangling")) == 0, NULL);
    REQUIRE(mkfifo(testing_path("fifo"), 0600) == 0, NULL);
    check_refused(testing_path("old"), false, ERR_USAGE, "exists; --force replaces it");
    check_refused(testing_path("link"), false, ERR_USAGE, "exists; --force replaces it");
    check_refused(testing_path("dangling"), false, ERR_USAGE, "exists; --force replaces it");
    check_refused(testing_path("fifo"), true, ERR_USAGE, "not a regular file");
    check_refused(testing_path("null"), true, ERR_USAGE, "not a regular file");
    check_refused("/dev/null", true, ERR_USAGE, "not a regular file");
    check_refused(folder, true, ERR_USAGE, "is a folder");
    check_refused(testing_path("folder link"), true, ERR_USAGE, "is a folder");
    check_refused(testing_path("new/"), true, ERR_USAGE, "not the name of a file");
    check_refused("", true, ERR_USAGE, "not the name of a file");
    check_refused("..", true, ERR_USAGE, "is a folder");
    check_refused(testing_path("absent/out"), false, ERR_IO, "no such file or directory");
    CU_ASSERT_EQUAL(entries_of(folder), 6);
}

static void test_force_replaces_a_link_not_its_target(void)
{
    struct error err = {OK, ""};
    struct output *output;
    struct stat info;

    testing_folder();
    testing_write(testing_path("target"), "target", 6);
    REQUIRE(symlink("target", testing_path("link")) == 0, NULL);
    output = started(testing_path("link"), true);
    CHECK(output_write_at(output, 0, "new", 3, &err) == OK, &err);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(testing_path("target"), "target"));
    CU_ASSERT_TRUE(holds_text(testing_path("link"), "new"));
    CU_ASSERT_TRUE(lstat(testing_path("link"), &info) == 0 && S_ISREG(info.st_mode));
}

static void test_file_that_appears_meanwhile(void)
{
    struct error err = {OK, ""};
    const char *folder = testing_folder(), *path = testing_path("out");
    struct output *output = started(path, false);

    testing_write(path, "someone else's", 14);
    CU_ASSERT_EQUAL(output_commit(output, &err), ERR_USAGE);
    CU_ASSERT_TRUE(holds_text(path, "someone else's"));
    CU_ASSERT_EQUAL(entries_of(folder), 1);
}

static mode_t mode_of(const char *path)
{
    struct stat info;

    REQUIRE(stat(path, &info) == 0, NULL);
    return info.st_mode & 07777;
}

static void test_mode(void)
{
    static const mode_t masks[] = {022, 027, 077, 0, 002};
    struct error err = {OK, ""};
    mode_t before = umask(0);

    testing_folder();
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        umask(masks[i]);
        struct output *output = started(testing_path("out"), i > 0);
        CU_ASSERT_EQUAL(mode_of(temporary_of("out")), 0600);
        CHECK(output_commit(output, &err) == OK, &err);
        CU_ASSERT_EQUAL(mode_of(testing_path("out")), (0666 & ~masks[i]));
    }
    umask(before);
}

static void test_long_name(void)
{
    struct error err = {OK, ""};
    const char *folder = testing_folder();
    char name[NAME_MAX + 1];
    struct output *output;

    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = 0;
    output = started(testing_path("%s", name), false);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_EQUAL(file_kind(testing_path("%s", name)), FILE_REGULAR);
    CU_ASSERT_EQUAL(entries_of(folder), 1);
}

static void test_stale_temporary_is_replaced(void)
{
    struct error err = {OK, ""};
    const char *folder = testing_folder();
    struct output *output;

    testing_write(temporary_of("out"), "left behind by a killed process", 31);
    output = started(testing_path("out"), false);
    CHECK(output_write_at(output, 0, "new", 3, &err) == OK, &err);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(testing_path("out"), "new"));
    CU_ASSERT_EQUAL(entries_of(folder), 1);
    REQUIRE(symlink("victim", temporary_of("out")) == 0, NULL); /* a trap: it must not be written through */
    testing_write(testing_path("victim"), "untouched", 9);
    output = started(testing_path("out"), true);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(testing_path("victim"), "untouched"));
    CU_ASSERT_EQUAL(entries_of(folder), 2);
}

/* What killed processes left of the same target goes; what others are still writing, or was never a temporary of this
 * target, stays. */
static void test_left_behind_temporaries_go(void)
{
    const char *folder = testing_folder();
    pid_t dead = fork();
    struct error err = {OK, ""};
    struct output *output;

    if (dead == 0) _exit(0);
    REQUIRE(dead > 0 && waitpid(dead, NULL, 0) == dead, NULL);
    testing_write(testing_path(".out.tmp.%d", (int)dead), "left behind", 11);
    testing_write(testing_path(".out.tmp.%d", (int)getppid()), "of a live process", 17);
    testing_write(testing_path(".out.tmp.%dx", (int)dead), "no number", 9);
    testing_write(testing_path(".out.tmp."), "no number", 9);
    testing_write(testing_path(".out2.tmp.%d", (int)dead), "of another target", 17);
    output = started(testing_path("out"), false);
    CU_ASSERT_EQUAL(entries_of(folder), 5); /* four stay, and ours */
    CU_ASSERT_EQUAL(file_kind(testing_path(".out.tmp.%d", (int)dead)), FILE_ABSENT);
    CHECK(output_commit(output, &err) == OK, &err);
    CU_ASSERT_EQUAL(entries_of(folder), 5);
}

static void test_live_temporary_is_left_alone(void)
{
    struct error err = {OK, ""};
    struct output *first, *second;

    testing_folder();
    first = started(testing_path("out"), false);
    CHECK(output_write_at(first, 0, "first", 5, &err) == OK, &err);
    CU_ASSERT_EQUAL(output_open(&second, testing_path("out"), false, &err), ERR_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "is being written already"));
    CU_ASSERT_PTR_NULL(second);
    CHECK(output_commit(first, &err) == OK, &err);
    CU_ASSERT_TRUE(holds_text(testing_path("out"), "first"));
}

static void test_many_outputs(void)
{
    enum { LIMIT = 256 };
    struct output *outputs[LIMIT + 1] = {NULL};
    struct error err = {OK, ""};
    const char *folder = testing_folder();

    for (int i = 0; i < LIMIT; i++)
        outputs[i] = started(testing_path("%d", i), false);
    CU_ASSERT_EQUAL(output_open(&outputs[LIMIT], testing_path("over"), false, &err), ERR_MEMORY);
    for (int i = 0; i < LIMIT; i++)
        output_abandon(outputs[i]);
    CU_ASSERT_EQUAL(entries_of(folder), 0);
    output_abandon(started(testing_path("again"), false));
}

static void test_reserve(void)
{
    struct error err = {OK, ""};
    const char *path;
    struct output *output;
    struct stat info;

    testing_folder();
    path = testing_path("out");
    output = started(path, false);
    CHECK(output_reserve(output, 0, &err) == OK, &err);
    CHECK(output_reserve(output, 4 << 20, &err) == OK, &err);
    CHECK(output_write_at(output, 0, "x", 1, &err) == OK, &err);
    CU_ASSERT_EQUAL(output_reserve(output, UINT64_MAX, &err), ERR_IO);
    CU_ASSERT_EQUAL(output_reserve(output, INT64_MAX, &err), ERR_IO);
    CHECK(output_commit(output, &err) == OK, &err);
    REQUIRE(stat(path, &info) == 0, NULL);
    CU_ASSERT_EQUAL(info.st_size, 1);               /* the reservation does not show in the length */
    CU_ASSERT_TRUE(info.st_blocks * 512 < 1 << 20); /* and what was not used is given back */
}

/* Beyond 4 GiB, with holes; and enough to start write-back early. */
static void test_large_offsets(void)
{
    struct error err = {OK, ""};
    const uint64_t far = UINT64_C(5) << 30;
    struct output *output;
    struct file *file;
    char bytes[4] = "", *block = memory_new(5 << 20, 1, NULL);

    testing_folder();
    REQUIRE(block != NULL, NULL);
    output = started(testing_path("large"), false);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(output_write_at(output, i * (5 << 20), block, 5 << 20, &err) == OK, &err);
    CHECK(output_write_at(output, far, "end", 3, &err) == OK, &err);
    CU_ASSERT_EQUAL(output_write_at(output, UINT64_MAX, "x", 1, &err), ERR_IO);
    CU_ASSERT_EQUAL(output_write_at(output, UINT64_MAX - 1, "xyz", 3, &err), ERR_IO);
    CHECK(output_commit(output, &err) == OK, &err);
    file = opened(testing_path("large"));
    CU_ASSERT_EQUAL(file->bytes, far + 3);
    CHECK(file_read_at(file, far, bytes, 3, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(bytes, "end");
    file_close(file);
    memory_free(block);
}

struct writer {
    struct output *output;
    uint64_t first;
};

static void *write_stripes(void *argument)
{
    struct writer *writer = argument;
    struct error err = {OK, ""};
    char stripe[64];

    for (uint64_t i = writer->first; i < 1024; i += 4) {
        memset(stripe, (int)(i % 251), sizeof stripe);
        if (output_write_at(writer->output, i * sizeof stripe, stripe, sizeof stripe, &err) != OK)
            return argument;
    }
    return NULL;
}

static void test_writing_threads(void)
{
    struct error err = {OK, ""};
    struct writer writers[4];
    pthread_t threads[4];
    struct output *output;
    uint64_t count, wrong = 0;
    char *bytes;
    void *failed;

    testing_folder();
    output = started(testing_path("out"), false);
    for (uint64_t i = 0; i < 4; i++) {
        writers[i] = (struct writer){output, i};
        REQUIRE(pthread_create(&threads[i], NULL, write_stripes, &writers[i]) == 0, NULL);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &failed);
        CU_ASSERT_PTR_NULL(failed);
    }
    CHECK(output_commit(output, &err) == OK, &err);
    bytes = testing_read(testing_path("out"), &count);
    CU_ASSERT_EQUAL(count, 65536);
    for (uint64_t i = 0; i < count; i++)
        wrong += (uint8_t)bytes[i] != i / 64 % 251;
    CU_ASSERT_EQUAL(wrong, 0);
    memory_free(bytes);
}

/* ---- writing while things go wrong ---- */

static char fresh[300]; /* what write_fresh writes */

/* Replace path by the bytes of `fresh`, in three writes that are not in order. */
static enum status write_fresh(const char *path, struct error *err)
{
    struct output *output = NULL;
    enum status status = output_open(&output, path, true, err);

    if (!status) status = output_reserve(output, sizeof fresh, err);
    if (!status) status = output_write_at(output, 100, fresh + 100, 150, err);
    if (!status) status = output_write_at(output, 250, fresh + 250, 50, err);
    if (!status) status = output_write_at(output, 0, fresh, 100, err);
    if (status) {
        output_abandon(output);
        return status;
    }
    return output_commit(output, err);
}

static const char *old_file(void)
{
    const char *path;

    testing_folder();
    path = testing_path("out");
    for (size_t i = 0; i < sizeof fresh; i++)
        fresh[i] = (char)(i + 1);
    testing_write(path, "old", 3);
    return path;
}

/* F01, F15: the disk is full at write N, for every N. */
static void test_full_disk_at_every_write(void)
{
    static const int errors[] = {ENOSPC, EDQUOT, EFBIG, EIO};
    const char *path = old_file();
    struct error err = {OK, ""};

    for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
        enum status status = ERR_IO;
        int nth = 0;
        while (status != OK) {
            testing_write(path, "old", 3);
            faults_begin();
            faults.piece = 7;
            faults.error = errors[e];
            faults.fail_write = ++nth;
            status = write_fresh(path, &err);
            faults_end();
            CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
            CU_ASSERT_TRUE(status ? holds_text(path, "old") : holds(path, fresh, sizeof fresh));
            if (!status) continue;
            CU_ASSERT_EQUAL(status, ERR_IO);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, path));
        }
        CU_ASSERT_EQUAL(
            nth, 22 + 8 + 15 + 1); /* 150, 50 and 100 bytes in sevens, and the round without a fault */
    }
}

/* F03 */
static void test_short_and_interrupted_writes(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};

    for (size_t piece = 1; piece < 301; piece = piece * 2 + 1) {
        testing_write(path, "old", 3);
        faults_begin();
        faults.piece = piece;
        faults.interrupts = true;
        CHECK(write_fresh(path, &err) == OK, &err);
        faults_end();
        CU_ASSERT_TRUE(holds(path, fresh, sizeof fresh));
    }
}

static int64_t write_nothing(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    (void)descriptor;
    (void)buffer;
    (void)count;
    (void)offset;
    return 0;
}

static void test_write_that_makes_no_progress(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};

    faults_begin();
    file_calls.pwrite = write_nothing;
    CU_ASSERT_EQUAL(write_fresh(path, &err), ERR_IO);
    faults_end();
    CU_ASSERT_TRUE(holds_text(path, "old"));
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
}

/* F05 and its neighbours: the last steps fail, before the rename. */
static void test_failing_end(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};
    int *const steps[] = {&faults.fail_sync, &faults.fail_close, &faults.fail_rename};
    static const char *const texts[] = {"synced", "closed", "renamed"};

    for (int i = 0; i < 3; i++) {
        faults_begin();
        *steps[i] = 1;
        faults.error = EIO;
        CU_ASSERT_EQUAL(write_fresh(path, &err), ERR_IO);
        CU_ASSERT_EQUAL(faults.syncs, 1); /* a failed fsync is never tried again */
        CU_ASSERT_EQUAL(faults.renames, i == 2);
        faults_end();
        CHECK(strstr(err.text, texts[i]) != NULL, &err);
        CU_ASSERT_TRUE(holds_text(path, "old"));
        CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
    }
}

/* The folder's fsync comes after the rename: the file is there and complete, but the caller hears of it. */
static void test_failing_folder_sync(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};

    faults_begin();
    faults.fail_sync = 2;
    faults.error = EIO;
    CU_ASSERT_EQUAL(write_fresh(path, &err), ERR_IO);
    faults_end();
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "in place"));
    CU_ASSERT_TRUE(holds(path, fresh, sizeof fresh));
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
    faults_begin();
    faults.fail_sync = 2;
    faults.error = EINVAL; /* a file system that cannot sync folders */
    CHECK(write_fresh(path, &err) == OK, &err);
    faults_end();
}

static void test_order_of_the_last_steps(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};

    faults_begin();
    CHECK(write_fresh(path, &err) == OK, &err);
    CU_ASSERT_EQUAL(faults.syncs, 2);
    CU_ASSERT_EQUAL(faults.closes, 1);
    CU_ASSERT_EQUAL(faults.renames, 1);
    faults_end();
}

static void test_write_without_memory(void)
{
    const char *path = old_file();
    struct error err = {OK, ""};

    for (uint64_t nth = 1;; nth++) {
        memory_fail_at(nth, 0);
        enum status status = write_fresh(path, &err);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        CU_ASSERT_EQUAL(status, failures ? ERR_MEMORY : OK);
        CU_ASSERT_TRUE(failures ? holds_text(path, "old") : holds(path, fresh, sizeof fresh));
        CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
        if (failures == 0) break;
    }
}

/* ---- in a process of its own ---- */

static int wait_for(pid_t child)
{
    int status = -1;

    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    return status;
}

/* kill -9 at write N: the name holds the old file or the new one, and the next run works. */
static void test_killed_at_every_write(void)
{
    const char *path = old_file();
    int status = -1;

    for (int nth = 1; status != 0; nth++) {
        testing_write(path, "old", 3);
        pid_t child = fork();
        if (child == 0) {
            faults_begin();
            faults.piece = 40;
            faults.kill_write = nth;
            _exit(write_fresh(path, NULL) == OK ? 0 : 1);
        }
        status = wait_for(child);
        CU_ASSERT_TRUE(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        CU_ASSERT_TRUE(status ? holds_text(path, "old") : holds(path, fresh, sizeof fresh));
    }
    CU_ASSERT_EQUAL(write_fresh(path, NULL), OK);
}

/* F15 for real: a limit on the size of files is an error, no signal. */
static void test_size_limit(void)
{
    const char *path = old_file();
    pid_t child = fork();

    if (child == 0) {
        struct rlimit limit = {200, 200};
        struct error err = {OK, ""};
        file_catch_signals();
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(write_fresh(path, &err) == ERR_IO && strstr(err.text, "file too large") ? 0 : 1);
    }
    CU_ASSERT_EQUAL(wait_for(child), 0);
    CU_ASSERT_TRUE(holds_text(path, "old"));
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
}

/* A child that opens two outputs, says so through a pipe, and waits. Never returns in the child. */
static pid_t waiting_child(const char *path, bool ignored_before)
{
    struct output *output, *other;
    int ready[2];
    char byte;
    pid_t child;

    REQUIRE(pipe(ready) == 0, NULL);
    child = fork();
    if (child == 0) {
        alarm(30);
        if (ignored_before) signal(SIGHUP, SIG_IGN);
        if (ignored_before) signal(SIGINT, SIG_IGN);
        file_catch_signals();
        output = started(path, true);
        other = started(testing_path("other"), false);
        if (output_write_at(output, 0, "partial", 7, NULL) != OK || !other) _exit(1);
        output_abandon(started(testing_path("abandoned"), false));
        if (write(ready[1], "", 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    REQUIRE(read(ready[0], &byte, 1) == 1, NULL);
    close(ready[0]);
    return child;
}

/* F09 */
static void test_signals_remove_temporaries(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    const char *path = old_file();

    for (int i = 0; i < 3; i++) {
        pid_t child = waiting_child(path, false);
        CU_ASSERT_EQUAL(entries_of(testing_path(".")), 3);
        kill(child, signals[i]);
        int status = wait_for(child);
        CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
        CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
        CU_ASSERT_TRUE(holds_text(path, "old"));
    }
}

/* What a tool has to say comes after the temporary files are gone, and only once. */
static void check_signal_note(const char *first, const char *then, const char *expected)
{
    static const int signals[] = {SIGINT, SIGTERM};
    const char *path = old_file();

    for (int i = 0; i < 2; i++) {
        uint64_t count;
        char *said;
        testing_capture(2);
        file_signal_note(first); /* the child inherits it */
        file_signal_note(then);
        pid_t child = waiting_child(path, false);
        kill(child, signals[i]);
        int status = wait_for(child);
        said = testing_captured(&count);
        file_signal_note(NULL);
        CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
        CU_ASSERT_STRING_EQUAL(said, expected);
        CU_ASSERT_EQUAL(entries_of(testing_path(".")), 2); /* the old file and what was said */
        memory_free(said);
    }
}

static void test_signal_note(void)
{
    check_signal_note(NULL, "stopped; the same command goes on", "stopped; the same command goes on\n");
    check_signal_note("one\n", "two\n", "two\n");
    check_signal_note("one", NULL, "");
    check_signal_note(NULL, "", "");
}

/* Nobody reads: the process ends all the same. */
static void test_signal_note_without_reader(void)
{
    const char *path = old_file();
    int ends[2], before = dup(2);
    char block[4096] = {0};

    REQUIRE(before >= 0 && pipe(ends) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0, NULL);
    while (write(ends[1], block, sizeof block) > 0) {
    }
    REQUIRE(fcntl(ends[1], F_SETFL, 0) == 0 && dup2(ends[1], 2) == 2, NULL);
    file_signal_note("stopped");
    pid_t child = waiting_child(path, false);
    file_signal_note(NULL);
    REQUIRE(dup2(before, 2) == 2, NULL);
    kill(child, SIGTERM);
    int status = wait_for(child);
    CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
    close(before);
    close(ends[0]);
    close(ends[1]);
}

static void test_signals_that_were_ignored(void)
{
    const char *path = old_file();
    pid_t child = waiting_child(path, true);
    int status;

    kill(child, SIGHUP); /* nohup */
    usleep(50000);
    CU_ASSERT_EQUAL(waitpid(child, &status, WNOHANG), 0);
    kill(child, SIGINT); /* a background job of a script */
    status = wait_for(child);
    CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
}

/* A signal at a random moment of a loop of outputs, while other threads do the same: no crash, no file left.
 */
static void *write_for_ever(void *path)
{
    for (;;) {
        struct output *output = NULL;
        if (output_open(&output, path, true, NULL) != OK) _exit(1);
        if (output_write_at(output, 0, fresh, sizeof fresh, NULL) != OK) _exit(2);
        output_abandon(output);
    }
    return NULL;
}

static void test_signal_at_any_moment(void)
{
    const char *folder;
    uint64_t state = 1;

    old_file();
    folder = testing_folder();
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            alarm(30);
            file_catch_signals();
            if (pthread_create(&thread, NULL, write_for_ever, (void *)(uintptr_t)testing_path("a")) != 0)
                _exit(3);
            write_for_ever((void *)(uintptr_t)testing_path("b"));
        }
        usleep((useconds_t)(testing_random(&state) % 10000) + 1000);
        kill(child, SIGTERM);
        int status = wait_for(child);
        CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    }
    CU_ASSERT_EQUAL(entries_of(folder), 0);
}

static void test_mapped_file_cut_short(void)
{
    const char *path, *input, *folder = testing_folder();
    int status, ends[2];
    char line[200] = "";
    ssize_t count;
    pid_t child;

    path = testing_path("out");
    input = testing_path("input");
    testing_write(input, fresh, sizeof fresh);
    REQUIRE(pipe(ends) == 0, NULL);
    child = fork();
    if (child == 0) {
        struct file *file = opened(input);
        dup2(ends[1], STDERR_FILENO);
        file_catch_signals();
        if (!started(path, false) || file_map(file, NULL) != OK || truncate(input, 0) != 0) _exit(1);
        _exit(*(volatile const uint8_t *)file->map);
    }
    close(ends[1]);
    status = wait_for(child);
    count = read(ends[0], line, sizeof line - 1);
    close(ends[0]);
    CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    CU_ASSERT_TRUE(count > 1 && strchr(line, '\n') == line + count - 1);
    CU_ASSERT_EQUAL(entries_of(folder), 1);
}

/* ---- checksums ---- */

static void test_crc(void)
{
    CU_ASSERT_EQUAL(file_crc32(0, "", 0), 0);
    CU_ASSERT_EQUAL(file_crc32(0, NULL, 0), 0);
    CU_ASSERT_EQUAL(file_crc32(7, NULL, 0), 7);
    CU_ASSERT_EQUAL(file_crc32(0, "123456789", 9), 0xCBF43926);
    CU_ASSERT_EQUAL(file_crc32(file_crc32(0, "1234", 4), "56789", 5), 0xCBF43926);
}

static void test_crc_combine(void)
{
    char bytes[1000];
    uint64_t state = 3;
    uint32_t whole;

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)testing_random(&state);
    whole = file_crc32(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut++) {
        uint32_t a = file_crc32(0, bytes, cut), b = file_crc32(0, bytes + cut, sizeof bytes - cut);
        CU_ASSERT_EQUAL(file_crc32_combine(a, b, sizeof bytes - cut), whole);
    }
}

/* 3 GiB of zeros + 3 GiB of zeros, without reading them: lengths above 2^31 and 2^32 are understood. */
static void test_crc_combine_long(void)
{
    static const char zeros[1 << 20];
    uint32_t mega = file_crc32(0, zeros, sizeof zeros), doubled = mega, stepped = mega;

    for (int i = 0; i < 13; i++) /* to 8 GiB by doubling */
        doubled = file_crc32_combine(doubled, doubled, UINT64_C(1) << (20 + i));
    for (int i = 1; i < 8192; i++) /* and by single steps */
        stepped = file_crc32_combine(stepped, mega, 1 << 20);
    CU_ASSERT_EQUAL(doubled, stepped);
}

/* ---- packing ---- */

enum { PACK_BYTES = 100 * 1000 };

/* Bytes of which small ones are more frequent, and their packed form. */
static uint64_t packed_sample(uint8_t *bytes, uint8_t *packed, uint64_t room, uint64_t count)
{
    struct error err = {OK, ""};
    uint64_t random = 5, used = 0;

    for (uint64_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(testing_random(&random) & testing_random(&random) & testing_random(&random));
    REQUIRE(file_pack(packed, room, &used, bytes, count, &err) == OK, &err);
    CU_ASSERT(used <= file_pack_bound(count));
    return used;
}

static void test_pack(void)
{
    static uint8_t bytes[PACK_BYTES], packed[2 * PACK_BYTES], back[PACK_BYTES];
    struct error err = {OK, ""};
    uint64_t used;

    for (uint64_t count = 0; count <= PACK_BYTES; count = count * 3 + 1) {
        used = packed_sample(bytes, packed, sizeof packed, count);
        CHECK(file_unpack(back, count, packed, used, &err) == OK, &err);
        CU_ASSERT(memcmp(bytes, back, count) == 0);
        if (count > 10000) CU_ASSERT(used < count * 3 / 4);
    }
    CU_ASSERT_EQUAL(file_pack_bound(FILE_PACK_LIMIT + 1), 0);
    CU_ASSERT_EQUAL(
        file_pack(packed, 100, &used, bytes, 100, &err), ERR_MEMORY); /* room for less than the bound */
    CU_ASSERT_EQUAL(file_pack(packed, sizeof packed, &used, bytes, FILE_PACK_LIMIT + 1, &err), ERR_MEMORY);
    CU_ASSERT_EQUAL(file_unpack(back, FILE_PACK_LIMIT + 1, packed, 10, &err), ERR_MEMORY);
}

/* Cut short anywhere, followed by a byte, or of another length than expected: an error, and not a byte beyond the room. */
static void test_unpack_damaged(void)
{
    enum { COUNT = 500 };
    static uint8_t bytes[COUNT], packed[2 * COUNT], back[COUNT + 1];
    struct error err = {OK, ""};
    uint64_t used = packed_sample(bytes, packed, sizeof packed, COUNT);

    back[COUNT - 1] = 0xAB;
    for (uint64_t length = 0; length < used; length++)
        CU_ASSERT_EQUAL(file_unpack(back, COUNT, packed, length, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(file_unpack(back, COUNT, packed, used + 1, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(file_unpack(back, COUNT + 1, packed, used, &err), ERR_FORMAT);
    back[COUNT - 1] = 0xAB;
    CU_ASSERT_EQUAL(file_unpack(back, COUNT - 1, packed, used, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(back[COUNT - 1], 0xAB);
    for (uint64_t at = 0; at < used; at++) {
        packed[at] ^= 0x10;
        CU_ASSERT_EQUAL(file_unpack(back, COUNT, packed, used, &err), ERR_FORMAT);
        packed[at] ^= 0x10;
    }
    CHECK(file_unpack(back, COUNT, packed, used, &err) == OK, &err);
}

static void test_pack_without_memory(void)
{
    static uint8_t bytes[100], packed[1000], back[100];
    struct error err = {OK, ""};
    uint64_t used = 0;
    enum status status = ERR_MEMORY;

    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 20; nth++) {
        memory_fail_at(nth, 0);
        status = file_pack(packed, sizeof packed, &used, bytes, sizeof bytes, &err);
        memory_fail_at(0, 0);
        CU_ASSERT(status == (nth == 1 ? ERR_MEMORY : status));
    }
    CHECK(status == OK, &err);
    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(file_unpack(back, sizeof back, packed, used, &err), ERR_MEMORY);
    memory_fail_at(0, 0);
}

/* ---- checksums ---- */

/* The definition: bit by bit, the lowest first. */
static uint32_t crc_by_bits(uint32_t crc, const uint8_t *bytes, uint64_t count)
{
    crc = ~crc;
    for (uint64_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
    }
    return ~crc;
}

/* Every length about the stretches that are taken together, every address, with something before or nothing. */
static void checksums(void)
{
    uint8_t bytes[1200];
    uint64_t state = 5;
    for (uint64_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)testing_random(&state);
    CU_ASSERT_EQUAL(file_crc32(0, "123456789", 9), 0xcbf43926);
    CU_ASSERT_EQUAL(file_crc32(7, NULL, 0), 7);
    for (uint64_t count = 0; count <= 1100; count++) {
        const uint64_t at = count % 17;
        const uint32_t before = count % 3 ? (uint32_t)testing_random(&state) : 0;
        const uint32_t expected = crc_by_bits(before, bytes + at, count);
        const uint64_t cut = count / 3;
        CU_ASSERT_EQUAL(file_crc32(before, bytes + at, count), expected);
        CU_ASSERT_EQUAL(
            file_crc32(file_crc32(before, bytes + at, cut), bytes + at + cut, count - cut), expected);
        CU_ASSERT_EQUAL(file_crc32_combine(crc_by_bits(before, bytes + at, cut),
                            file_crc32(0, bytes + at + cut, count - cut), count - cut),
            expected);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"checksums", checksums},
        {"open", test_open},
        {"open what is no file", test_open_what_is_no_file},
        {"open without permission", test_open_without_permission},
        {"open without memory", test_open_without_memory},
        {"read exactly", test_read_exactly},
        {"read in pieces, interrupted", test_read_short_and_interrupted},
        {"read errors", test_read_errors},
        {"a file cut short while open", test_file_cut_short_while_open},
        {"map", test_map},
        {"a map survives replacement", test_map_survives_replacement},
        {"read all", test_read_all},
        {"a plain text", test_text_plain},
        {"a packed text", test_text_packed},
        {"a text packed badly", test_text_packed_badly},
        {"a text that unpacks without end", test_text_bomb},
        {"reading a text, with faults", test_text_faults},
        {"kind", test_kind},
        {"same", test_same},
        {"join", test_join},
        {"parent", test_parent},
        {"write and commit", test_write_and_commit},
        {"abandon", test_abandon},
        {"a relative path", test_relative_path},
        {"targets that are refused", test_targets_that_are_refused},
        {"force replaces a link, not its target", test_force_replaces_a_link_not_its_target},
        {"a file that appears meanwhile", test_file_that_appears_meanwhile},
        {"mode", test_mode},
        {"a long name", test_long_name},
        {"a stale temporary is replaced", test_stale_temporary_is_replaced},
        {"temporaries left behind go", test_left_behind_temporaries_go},
        {"a live temporary is left alone", test_live_temporary_is_left_alone},
        {"many outputs", test_many_outputs},
        {"reserve", test_reserve},
        {"large offsets", test_large_offsets},
        {"writing threads", test_writing_threads},
        {"a full disk at every write", test_full_disk_at_every_write},
        {"short and interrupted writes", test_short_and_interrupted_writes},
        {"a write that makes no progress", test_write_that_makes_no_progress},
        {"fsync, close and rename fail", test_failing_end},
        {"the folder's fsync fails", test_failing_folder_sync},
        {"order of the last steps", test_order_of_the_last_steps},
        {"write without memory", test_write_without_memory},
        {"killed at every write", test_killed_at_every_write},
        {"a limit on the size of files", test_size_limit},
        {"signals remove temporaries", test_signals_remove_temporaries},
        {"a note of a signal", test_signal_note},
        {"a note of a signal that nobody reads", test_signal_note_without_reader},
        {"signals that were ignored", test_signals_that_were_ignored},
        {"a signal at any moment", test_signal_at_any_moment},
        {"a mapped file cut short", test_mapped_file_cut_short},
        {"crc", test_crc},
        {"crc combine", test_crc_combine},
        {"crc combine, long", test_crc_combine_long},
        {"pack and unpack", test_pack},
        {"unpack what is damaged", test_unpack_damaged},
        {"pack without memory", test_pack_without_memory},
    };

    return TESTING_RUN("file", cases);
}
