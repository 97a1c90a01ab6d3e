/* Spilled arrays: the same rows back from memory and from a file, no name left in the folder, and what happens on a
 * full disk. */
#include "base/spill.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "tests/support/testing.h"

enum { ROWS = 1000, ROW_BYTES = 37 };

static struct spill *new_spill(uint64_t rows, uint64_t row_bytes, bool in_memory)
{
    struct spill *spill;
    struct error err = {0};

    REQUIRE(spill_create(&spill, rows, row_bytes, in_memory, testing_folder(), &err) == OK, &err);
    return spill;
}

static void check_round_trip(bool in_memory)
{
    static uint8_t truth[ROWS][ROW_BYTES], got[ROWS][ROW_BYTES];
    struct spill *spill = new_spill(ROWS, ROW_BYTES, in_memory);
    struct error err = {0};
    uint64_t seed = 1;

    memset(truth, 0, sizeof truth);
    CHECK(spill_read(spill, 0, ROWS, got, &err) == OK, &err);
    CU_ASSERT_EQUAL(memcmp(got, truth, sizeof truth), 0);
    for (int turn = 0; turn < 200; turn++) {
        uint64_t first = testing_random(&seed) % ROWS, count = testing_random(&seed) % (ROWS - first + 1);

        memset(truth[first], turn, count * ROW_BYTES);
        CHECK(spill_write(spill, first, count, truth[first], &err) == OK, &err);
        first = testing_random(&seed) % ROWS;
        count = testing_random(&seed) % (ROWS - first + 1);
        CHECK(spill_read(spill, first, count, got, &err) == OK, &err);
        CU_ASSERT_EQUAL(memcmp(got, truth[first], count * ROW_BYTES), 0);
    }
    spill_free(spill);
}

static void test_round_trip(void)
{
    check_round_trip(true);
    check_round_trip(false);
}

static void test_edges(void)
{
    struct error err = {0};
    struct spill *spill;
    uint64_t value = 7;

    for (int in_memory = 0; in_memory < 2; in_memory++) {
        spill = new_spill(0, 8, in_memory);
        CHECK(spill_read(spill, 0, 0, NULL, &err) == OK, &err);
        spill_free(spill);
        spill = new_spill(1, 8, in_memory);
        CHECK(spill_write(spill, 1, 0, NULL, &err) == OK, &err);
        CHECK(spill_write(spill, 0, 1, &value, &err) == OK, &err);
        spill_free(spill);
        CU_ASSERT_EQUAL(
            spill_create(&spill, UINT64_C(1) << 40, UINT64_C(1) << 24, in_memory, ".", &err), ERR_MEMORY);
        CU_ASSERT_PTR_NULL(spill);
    }
    CU_ASSERT_EQUAL(spill_create(&spill, UINT64_MAX, 1, false, testing_folder(), &err), ERR_IO);
    CU_ASSERT_PTR_NULL(spill);
    CU_ASSERT_EQUAL(spill_create(&spill, 1, 1, false, testing_path("absent"), &err), ERR_IO);
    CHECK(strstr(err.text, "absent"), &err);
    spill_free(NULL);
}

static void test_nameless(void)
{
    const char *name = testing_folder();
    struct error err = {0};
    struct spill *spill;
    struct dirent *entry;
    DIR *folder;

    REQUIRE(spill_create(&spill, 10, 10, false, name, &err) == OK, &err);
    REQUIRE((folder = opendir(name)) != NULL, NULL);
    while ((entry = readdir(folder)))
        CU_ASSERT_EQUAL(entry->d_name[0], '.');
    closedir(folder);
    spill_free(spill);
    CU_ASSERT_EQUAL(rmdir(name), 0);
}

/* ---- faults ---- */

static struct file_calls real;
static int interruptions, fault;

static int64_t short_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    if (fault == EINTR && interruptions-- <= 0) fault = 0;
    if (fault) return errno = fault, fault < 0 ? 0 : -1;
    interruptions = 1;
    fault = EINTR;
    return real.pread(descriptor, buffer, count > 5 ? 5 : count, offset);
}

static int64_t short_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (fault == EINTR && interruptions-- <= 0) fault = 0;
    if (fault) return errno = fault, fault < 0 ? 0 : -1;
    interruptions = 1;
    fault = EINTR;
    return real.pwrite(descriptor, buffer, count > 5 ? 5 : count, offset);
}

/* Every call is interrupted once and then does five bytes only: nothing changes. Then they fail for good. */
static void test_faults(void)
{
    static const int faults[] = {EIO, ENOSPC, -1}; /* -1: nothing is transferred, the file was cut */
    struct spill *spill = new_spill(10, 10, false);
    uint8_t rows[100], got[100];
    struct error err = {0};

    memset(rows, 9, sizeof rows);
    real = file_calls;
    file_calls.pread = short_pread;
    file_calls.pwrite = short_pwrite;
    CHECK(spill_write(spill, 0, 10, rows, &err) == OK, &err);
    CHECK(spill_read(spill, 0, 10, got, &err) == OK, &err);
    CU_ASSERT_EQUAL(memcmp(got, rows, sizeof rows), 0);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        fault = faults[i];
        CU_ASSERT_EQUAL(spill_write(spill, 0, 10, rows, &err), ERR_IO);
        CHECK(strstr(err.text, "cannot be written"), &err);
        CU_ASSERT_EQUAL(spill_read(spill, 0, 10, got, &err), ERR_IO);
        CHECK(strstr(err.text, "cannot be read"), &err);
    }
    file_calls = real;
    spill_free(spill);
}

/* Run in a child: a limit on the size of files cannot be taken back. */
static int create_beyond_limit(const char *folder)
{
    const struct rlimit limit = {4096, 4096};
    struct error err = {0};
    struct spill *spill;

    signal(SIGXFSZ, SIG_IGN); /* as every tool does */
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    if (spill_create(&spill, 100, 4096, false, folder, &err) != ERR_IO || spill) return 3;
    return strstr(err.text, "cannot be reserved") ? 0 : 4;
}

static void test_full_disk(void)
{
    const char *folder = testing_folder();
    int state = -1;
    pid_t child = fork();

    REQUIRE(child >= 0, NULL);
    if (child == 0) _exit(create_beyond_limit(folder));
    CU_ASSERT_EQUAL(waitpid(child, &state, 0), child);
    CU_ASSERT_TRUE(WIFEXITED(state));
    CU_ASSERT_EQUAL(WEXITSTATUS(state), 0);
}

static void test_no_memory(void)
{
    struct error err = {0};
    struct spill *spill;

    for (int in_memory = 0; in_memory < 2; in_memory++) {
        for (uint64_t nth = 1; nth <= 2; nth++) {
            memory_fail_at(nth, 0);
            CU_ASSERT_EQUAL(spill_create(&spill, 10, 10, in_memory, testing_folder(), &err), ERR_MEMORY);
            CU_ASSERT_PTR_NULL(spill);
        }
        memory_fail_at(0, 0);
    }
}

/* ---- threads ---- */

struct fill {
    struct spill *spill;
};

static enum status fill_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct fill *fill = context;
    uint64_t row[16], got[16];
    enum status status;

    (void)worker;
    for (int i = 0; i < 16; i++)
        row[i] = index;
    status = spill_write(fill->spill, index, 1, row, err);
    if (!status) status = spill_read(fill->spill, index, 1, got, err);
    return status || memcmp(row, got, sizeof row) == 0 ? status : fail(err, ERR_CHECK, "another row");
}

static void test_threads(void)
{
    struct error err = {0};
    struct pool *pool;

    REQUIRE(pool_create(&pool, 3, &err) == OK, &err);
    for (int in_memory = 0; in_memory < 2; in_memory++) {
        struct fill fill = {new_spill(500, 16 * sizeof(uint64_t), in_memory)};
        CHECK(pool_run(pool, 500, fill_row, &fill, &err) == OK, &err);
        spill_free(fill.spill);
    }
    pool_free(pool);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"round trip", test_round_trip},
        {"edges", test_edges},
        {"nameless", test_nameless},
        {"faults", test_faults},
        {"full disk", test_full_disk},
        {"no memory", test_no_memory},
        {"threads", test_threads},
    };

    return TESTING_RUN("spill", cases);
}
