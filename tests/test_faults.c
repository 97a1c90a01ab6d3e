/* Faults: every allocation, every read, every write, fsync, close and rename of a conversion fails in turn.
 * Each time the error is the right one, the old output stands byte for byte, no temporary file is left, and
 * nothing leaks (the address sanitizer watches). Short and interrupted calls change nothing at all. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/nbl.h"
#include "formats/provenance.h"
#include "formats/transfer.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"

#define OLD_TEXT "what stood here before"

enum { OPERATIONS_LIMIT = 100000 }; /* a loop that never succeeds is a bug of the test */

static const char *folder, *output;

/* ---- a tiny conversion that uses everything ---- */

/* Code 9 and scale 1 everywhere: the encoder is not what is tested here. */
static enum status encode(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    struct tiles_layout layout;
    enum status status = tiles_layout(&layout, target->shape[0], target->shape[1], target->scheme, err);
    uint16_t *row_scales = (uint16_t *)(void *)(scratch + row_count * target->shape[1]);

    (void)context;
    (void)zeros;
    (void)rows;
    (void)row_begin;
    if (status) return status;
    memset(scratch, 9, row_count * layout.cols);
    for (uint64_t i = 0; i < row_count * layout.groups; i++)
        row_scales[i] = 0x3C00;
    tiles_pack(&layout, codes, scales, NULL, scratch, row_scales, NULL, row_count);
    return OK;
}

static struct transfer_item plan_item(const struct tensor *source)
{
    struct transfer_item item = {.source = source, .target = *source};

    if (source->storage == STORAGE_TILES) {
        item.target.storage = STORAGE_DENSE;
        item.target.scheme = (struct scheme){0};
    } else if (strcmp(source->name, "packed") == 0) {
        item.target.storage = STORAGE_TILES;
        item.target.dtype = DTYPE_F16;
        item.target.scheme = (struct scheme){4, 32, false};
        item.encode = encode;
    } else if (strcmp(source->name, "cast") == 0) {
        item.target.dtype = DTYPE_BF16;
    }
    return item;
}

static enum status write_output(
    struct container *container, struct writer *writer, struct pool *pool, struct error *err)
{
    static const char *const options[][2] = {{"bits", "4"}};
    struct transfer_item items[3];
    uint32_t crcs[3];
    enum status status;

    for (uint64_t i = 0; i < 3; i++)
        items[i] = plan_item(container_tensor(container, i));
    status = writer_alias(writer, "tied", "cast", err);
    if (!status) status = transfer_run(container, writer, items, 3, crcs, pool, NULL, "converting", err);
    if (!status) status = provenance_attach(writer, container, "test", options, 1, crcs, err);
    return status;
}

/* Convert `input` to `output`, from opening to committing. */
static enum status convert(const char *input, unsigned workers, struct error *err)
{
    struct container *container = NULL;
    struct writer *writer = NULL;
    struct pool *pool = NULL;
    enum status status = pool_create(&pool, workers, err);

    if (!status) status = container_open(&container, input, err);
    if (!status) status = container_map(container, err);
    if (!status) status = nbl_writer_create(&writer, output, true, err);
    if (!status) status = write_output(container, writer, pool, err);
    if (!status) {
        status = writer_commit(writer, err);
        writer = NULL;
    }
    writer_abandon(writer);
    container_close(container);
    pool_free(pool);
    return status;
}

static void write_shard(const char *name, const char *header, uint64_t data_bytes)
{
    uint8_t bytes[8192] = {0};
    char path[512];

    bytes_put(bytes, strlen(header), 8);
    memcpy(bytes + 8, header, strlen(header));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    testing_write(path, bytes, 8 + strlen(header) + data_bytes);
}

/* Two shards, with padding that leaves one unaligned, documents, and an older provenance. */
static void write_input(void)
{
    static const struct {
        const char *name, *text;
    } documents[] = {
        {"model.safetensors.index.json",
            "{\"weight_map\":{\"packed\":\"1.st\",\"cast\":\"2.st\",\"ids\":\"2.st\"}}"},
        {"config.json", "{}"},
        {"provenance.json", "{\"tool\":\"none\",\"history\":[]}"},
    };
    char path[512];

    write_shard("1.st", "{\"packed\":{\"dtype\":\"F16\",\"shape\":[8,32],\"data_offsets\":[0,512]}} ", 512);
    write_shard("2.st",
        "{\"cast\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"ids\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[24,48]},\"__metadata__\":{\"\\u0061\":"
        "\"cast\"}}   ",
        48);
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, documents[i].name);
        testing_write(path, documents[i].text, strlen(documents[i].text));
    }
}

/* ---- what must hold after a fault ---- */

static void put_old_output(void)
{
    testing_write(output, OLD_TEXT, sizeof OLD_TEXT);
}

static void check_old_output(void)
{
    uint64_t count;
    char *bytes = testing_read(output, &count);

    CU_ASSERT(count == sizeof OLD_TEXT && memcmp(bytes, OLD_TEXT, count) == 0);
    memory_free(bytes);
}

static void check_no_temporary(void)
{
    DIR *listing = opendir(folder);
    struct dirent *entry;

    REQUIRE(listing != NULL, NULL);
    while ((entry = readdir(listing)) != NULL)
        CU_ASSERT(strstr(entry->d_name, ".tmp.") == NULL);
    closedir(listing);
}

/* The inputs: a folder of shards, and the .nbl file that an undisturbed conversion makes of it. */
static const char *inputs[2];

static char *expected[2]; /* what an undisturbed conversion of each gives */
static uint64_t expected_bytes[2];

static void prepare(void)
{
    struct error err = {0};

    folder = testing_folder();
    output = testing_path("out.nbl");
    write_input();
    inputs[0] = folder;
    inputs[1] = testing_path("first.nbl");
    REQUIRE(convert(inputs[0], 1, &err) == OK, &err);
    expected[0] = testing_read(output, &expected_bytes[0]);
    testing_write(inputs[1], expected[0], expected_bytes[0]);
    REQUIRE(convert(inputs[1], 1, &err) == OK, &err);
    expected[1] = testing_read(output, &expected_bytes[1]);
}

static void check_new_output(int input)
{
    struct nbl_verification found;
    struct error err = {0};
    uint64_t count;
    char *bytes = testing_read(output, &count);

    CU_ASSERT(count == expected_bytes[input] && memcmp(bytes, expected[input], count) == 0);
    memory_free(bytes);
    CHECK(nbl_verify(&found, output, NULL, NULL, &err) == OK, &err);
}

/* ---- allocations ---- */

/* Failing allocation number n, for n = 1, 2, 3 ... until one conversion meets none. */
static void fail_every_allocation(int input, unsigned workers, int sticky)
{
    uint64_t n = 0, failures;

    do {
        struct error err = {0};
        put_old_output();
        memory_fail_at(++n, sticky);
        enum status status = convert(inputs[input], workers, &err);
        failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures > 0) {
            CHECK(status == ERR_MEMORY, &err);
            check_old_output();
        } else {
            CHECK(status == OK, &err);
            check_new_output(input);
        }
        check_no_temporary();
    } while (failures > 0 && n < OPERATIONS_LIMIT);
    CU_ASSERT(n > 40 && n < OPERATIONS_LIMIT);
}

static void test_allocations(void)
{
    for (int input = 0; input < 2; input++) {
        fail_every_allocation(input, 1, 0);
        fail_every_allocation(input, 1, 1);
        fail_every_allocation(input, 2, 0);
    }
}

/* ---- system calls ---- */

static struct file_calls real_calls;
static _Atomic uint64_t calls_left; /* until the one that fails; 0: none fails */
static int fault_errno;

/* Is this the call that fails? It and every later one: a full disk stays full. */
static bool fails_now(void)
{
    uint64_t left = atomic_load(&calls_left);

    while (left > 1 && !atomic_compare_exchange_weak(&calls_left, &left, left - 1))
        continue;
    if (left == 1) errno = fault_errno;
    return left == 1;
}

static int64_t failing_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    return fails_now() ? -1 : real_calls.pread(descriptor, buffer, count, offset);
}

static int64_t ending_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    return fails_now() ? 0 : real_calls.pread(descriptor, buffer, count, offset);
}

static int64_t failing_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    return fails_now() ? -1 : real_calls.pwrite(descriptor, buffer, count, offset);
}

static int failing_fsync(int descriptor)
{
    return fails_now() ? -1 : real_calls.fsync(descriptor);
}

static int failing_close(int descriptor)
{
    int result = real_calls.close(descriptor);

    return fails_now() ? -1 : result;
}

static int failing_rename(const char *from, const char *to)
{
    return fails_now() ? -1 : real_calls.rename(from, to);
}

/* Call number n fails, for n = 1, 2, 3 ... until one conversion, of more than `least` calls, meets no fault.
 */
static void fail_every_call(struct file_calls calls, int code, enum status wanted, uint64_t least)
{
    for (int input = 0; input < 2; input++) {
        enum status status = ERR_IO;
        uint64_t n;
        for (n = 1; status && n < OPERATIONS_LIMIT; n++) {
            struct error err = {0};
            put_old_output();
            fault_errno = code;
            atomic_store(&calls_left, n);
            file_calls = calls;
            status = convert(inputs[input], input ? 2 : 1, &err);
            file_calls = real_calls;
            if (status) {
                CHECK(status == wanted, &err);
                check_old_output();
            } else {
                check_new_output(input);
            }
            check_no_temporary();
        }
        CU_ASSERT(n > least && n < OPERATIONS_LIMIT);
    }
}

static void test_reads(void)
{
    struct file_calls calls = real_calls;

    calls.pread = failing_pread;
    fail_every_call(calls, EIO, ERR_IO, 8);
    calls.pread = ending_pread;
    fail_every_call(calls, 0, ERR_FORMAT, 8);
}

static void test_writes(void)
{
    struct file_calls calls = real_calls;

    calls.pwrite = failing_pwrite;
    fail_every_call(calls, ENOSPC, ERR_IO, 5);
    fail_every_call(calls, EFBIG, ERR_IO, 5);
}

static void test_commit(void)
{
    struct file_calls calls = real_calls;
    struct error err = {0};

    calls.close = failing_close;
    fail_every_call(calls, EDQUOT, ERR_IO, 1);
    calls = real_calls;
    calls.rename = failing_rename;
    fail_every_call(calls, EXDEV, ERR_IO, 1);

    /* The first fsync is the file's, before the rename; the second the folder's, with the file in place. */
    calls = real_calls;
    calls.fsync = failing_fsync;
    for (uint64_t n = 1; n <= 2; n++) {
        put_old_output();
        fault_errno = EIO;
        atomic_store(&calls_left, n);
        file_calls = calls;
        CHECK(convert(inputs[0], 1, &err) == ERR_IO, &err);
        file_calls = real_calls;
        if (n == 1)
            check_old_output();
        else
            check_new_output(0);
        check_no_temporary();
    }
}

/* ---- calls that do less than asked ---- */

static _Atomic uint64_t turn;

static int64_t short_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    if (atomic_fetch_add(&turn, 1) % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return real_calls.pread(descriptor, buffer, count > 13 ? 13 : count, offset);
}

static int64_t short_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (atomic_fetch_add(&turn, 1) % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return real_calls.pwrite(descriptor, buffer, count > 7 ? 7 : count, offset);
}

static void test_short_and_interrupted(void)
{
    for (int input = 0; input < 2; input++) {
        struct error err = {0};
        put_old_output();
        file_calls.pread = short_pread;
        file_calls.pwrite = short_pwrite;
        CHECK(convert(inputs[input], 2, &err) == OK, &err);
        file_calls = real_calls;
        check_new_output(input);
        check_no_temporary();
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"allocations", test_allocations},
        {"reads", test_reads},
        {"writes", test_writes},
        {"commit", test_commit},
        {"short and interrupted calls", test_short_and_interrupted},
    };
    int result;

    real_calls = file_calls;
    prepare();
    result = TESTING_RUN("faults", cases);
    memory_free(expected[0]);
    memory_free(expected[1]);
    return result;
}
