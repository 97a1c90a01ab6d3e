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
#include "formats/folder_writer.h"
#include "formats/gguf/gguf_types.h"
#include "formats/gguf/gguf_writer.h"
#include "formats/nbl.h"
#include "formats/provenance.h"
#include "formats/transfer.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"

#define OLD_TEXT "what stood here before"

enum { OPERATIONS_LIMIT = 100000 }; /* a loop that never succeeds is a bug of the test */

static const char *folder;

/* A name in the folder of the test; until the next call. */
static const char *place_of(const char *name)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- the outputs ---- */

static enum status create_nbl(struct writer **out, const char *path, struct error *err)
{
    return nbl_writer_create(out, path, true, err);
}

static enum status start_gguf(struct writer **out, const char *path, uint64_t split_bytes, struct error *err)
{
    const struct gguf_writer_options options = {
        .force = true, .split_bytes = split_bytes, .file_type = GGUF_TYPES_FILE_ANY};
    struct metadata_builder metadata = {0};

    metadata_builder_text(&metadata, "general.architecture", "none");
    return gguf_writer_create(out, path, &options, &metadata, err);
}

static enum status create_gguf(struct writer **out, const char *path, struct error *err)
{
    return start_gguf(out, path, 0, err);
}

/* One part, larger than all there is. */
static enum status create_parts(struct writer **out, const char *path, struct error *err)
{
    (void)path;
    return start_gguf(out, place_of("parts.gguf"), 1 << 20, err);
}

static enum status create_folder(struct writer **out, const char *path, struct error *err)
{
    return folder_writer_create(out, path, PACKED_KINDS, 0, NULL, err);
}

/* What is written and where the tensors then are; a folder must be new, files take the place of an old one. */
static const struct target {
    const char *path, *tensors;
    bool tiles, is_folder;
    enum status (*create)(struct writer **out, const char *path, struct error *err);
} nbl = {"out.nbl", "out.nbl", true, false, create_nbl},
  gguf = {"out.gguf", "out.gguf", false, false, create_gguf},
  parts = {"parts-00001-of-00001.gguf", "parts-00001-of-00001.gguf", false, false, create_parts},
  shards = {"out", "out/model.safetensors", false, true, create_folder};

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

static struct transfer_item plan_item(const struct tensor *source, const struct target *target)
{
    struct transfer_item item = {.source = source, .target = *source};

    if (source->storage == STORAGE_TILES) {
        item.target.storage = STORAGE_DENSE;
        item.target.scheme = (struct scheme){0};
    } else if (target->tiles && strcmp(source->name, "packed") == 0) {
        item.target.storage = STORAGE_TILES;
        item.target.dtype = DTYPE_F16;
        item.target.scheme = (struct scheme){4, 32, false};
        item.encode = encode;
    } else if (strcmp(source->name, "cast") == 0) {
        item.target.dtype = DTYPE_BF16;
    }
    return item;
}

static enum status write_output(struct container *container, struct writer *writer,
    const struct target *target, struct pool *pool, struct error *err)
{
    static const char *const options[][2] = {{"bits", "4"}};
    struct transfer_item items[3];
    uint32_t crcs[3];
    enum status status;

    for (uint64_t i = 0; i < 3; i++)
        items[i] = plan_item(container_tensor(container, i), target);
    status = provenance_reserve(writer, container, "test", options, 1, err);
    if (!status) status = writer_alias(writer, "tied", "cast", err);
    if (!status) status = transfer_run(container, writer, items, 3, crcs, pool, NULL, "converting", err);
    if (!status) status = provenance_attach(writer, container, "test", options, 1, crcs, err);
    return status;
}

/* Convert `input` to the target, from opening to committing. */
static enum status convert(
    const char *input, const struct target *target, unsigned workers, struct error *err)
{
    struct container *container = NULL;
    struct writer *writer = NULL;
    struct pool *pool = NULL;
    enum status status = pool_create(&pool, workers, err);

    if (!status) status = container_open(&container, input, err);
    if (!status) status = container_map(container, err);
    if (!status) status = target->create(&writer, place_of(target->path), err);
    if (!status) status = write_output(container, writer, target, pool, err);
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

/* What stands there before: an old file, or no folder. */
static void put_old_output(const struct target *target)
{
    static const char *const inside[] = {"out/config.json", "out/model.safetensors", "out/provenance.json"};

    if (!target->is_folder) {
        testing_write(place_of(target->path), OLD_TEXT, sizeof OLD_TEXT);
        return;
    }
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        unlink(place_of(inside[i]));
    rmdir(place_of(target->path));
}

static void check_old_output(const struct target *target)
{
    uint64_t count;

    if (target->is_folder) {
        CU_ASSERT(file_kind(place_of(target->path)) == FILE_ABSENT);
        return;
    }
    char *bytes = testing_read(place_of(target->path), &count);
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

/* What is converted into what, by how many workers. */
static struct job {
    int input;
    const struct target *target;
    unsigned workers;
    char *expected; /* the tensors' file that an undisturbed conversion gives */
    uint64_t expected_bytes;
} jobs[] = {
    {.input = 0, .target = &nbl, .workers = 1},
    {.input = 1, .target = &nbl, .workers = 2},
    {.input = 1, .target = &gguf, .workers = 1},
    {.input = 1, .target = &parts, .workers = 1},
    {.input = 1, .target = &shards, .workers = 1},
};
enum { JOBS = sizeof jobs / sizeof *jobs };

static enum status run(const struct job *job, unsigned workers, struct error *err)
{
    return convert(inputs[job->input], job->target, workers, err);
}

static void prepare(void)
{
    folder = testing_folder();
    write_input();
    inputs[0] = folder;
    inputs[1] = testing_path("first.nbl");
    for (int i = 0; i < JOBS; i++) {
        struct error err = {0};
        REQUIRE(run(&jobs[i], 1, &err) == OK, &err);
        jobs[i].expected = testing_read(place_of(jobs[i].target->tensors), &jobs[i].expected_bytes);
        if (i == 0) testing_write(inputs[1], jobs[0].expected, jobs[0].expected_bytes);
    }
}

static void check_new_output(const struct job *job)
{
    struct nbl_verification found;
    struct error err = {0};
    uint64_t count;
    char *bytes = testing_read(place_of(job->target->tensors), &count);

    CU_ASSERT(count == job->expected_bytes && memcmp(bytes, job->expected, count) == 0);
    memory_free(bytes);
    if (job->target == &nbl)
        CHECK(nbl_verify(&found, place_of(job->target->path), NULL, NULL, &err) == OK, &err);
}

/* ---- allocations ---- */

/* Failing allocation number n, for n = 1, 2, 3 ... until one conversion meets none. */
static void fail_every_allocation(const struct job *job, unsigned workers, int sticky)
{
    uint64_t n = 0, failures;

    do {
        struct error err = {0};
        put_old_output(job->target);
        memory_fail_at(++n, sticky);
        enum status status = run(job, workers, &err);
        failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures > 0) {
            CHECK(status == ERR_MEMORY, &err);
            check_old_output(job->target);
        } else {
            CHECK(status == OK, &err);
            check_new_output(job);
        }
        check_no_temporary();
    } while (failures > 0 && n < OPERATIONS_LIMIT);
    CU_ASSERT(n > 40 && n < OPERATIONS_LIMIT);
}

static void test_allocations(void)
{
    for (int i = 0; i < JOBS; i++) {
        fail_every_allocation(&jobs[i], 1, 0);
        fail_every_allocation(&jobs[i], 1, 1);
        if (jobs[i].target == &nbl) fail_every_allocation(&jobs[i], 2, 0);
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
    for (const struct job *job = jobs; job < jobs + JOBS; job++) {
        enum status status = ERR_IO;
        uint64_t n;
        for (n = 1; status && n < OPERATIONS_LIMIT; n++) {
            struct error err = {0};
            put_old_output(job->target);
            fault_errno = code;
            atomic_store(&calls_left, n);
            file_calls = calls;
            status = run(job, job->workers, &err);
            file_calls = real_calls;
            if (status) {
                CHECK(status == wanted, &err);
                check_old_output(job->target);
            } else {
                check_new_output(job);
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
    const struct job *job = &jobs[0];
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
        put_old_output(job->target);
        fault_errno = EIO;
        atomic_store(&calls_left, n);
        file_calls = calls;
        CHECK(run(job, 1, &err) == ERR_IO, &err);
        file_calls = real_calls;
        if (n == 1)
            check_old_output(job->target);
        else
            check_new_output(job);
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
    for (const struct job *job = jobs; job < jobs + JOBS; job++) {
        struct error err = {0};
        put_old_output(job->target);
        file_calls.pread = short_pread;
        file_calls.pwrite = short_pwrite;
        CHECK(run(job, 2, &err) == OK, &err);
        file_calls = real_calls;
        check_new_output(job);
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
    for (int i = 0; i < JOBS; i++)
        memory_free(jobs[i].expected);
    return result;
}
