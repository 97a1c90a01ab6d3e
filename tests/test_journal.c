/* The journal of a long run: what was finished is found again, what is damaged or of another run is not used, and
 * nothing of anybody else's is touched. */
#include "model/layerwise/journal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"

enum { LAYERS = 4, TENSORS = 3 };

static const char stamp[] = "{\"version\": \"0.1.0\", \"bits\": \"3\", \"samples\": \"128\"}\n";

static struct pool *pool;
static const struct report loud;

/* ---- layers ---- */

/* The tensors of a layer, their bytes drawn from its number. */
struct layer {
    struct tensor tensors[TENSORS];
    void *data[TENSORS];
    char notes[64];
};

static void fill(
    struct layer *layer, int i, const char *name, const struct tensor *like, uint64_t bytes, uint64_t *seed)
{
    uint8_t *data = memory_new(bytes, 1, NULL);

    REQUIRE(data != NULL, NULL);
    for (uint64_t at = 0; at < bytes; at++)
        data[at] = (uint8_t)testing_random(seed);
    layer->tensors[i] = *like;
    layer->tensors[i].name = name;
    layer->tensors[i].bytes = bytes;
    layer->tensors[i].data = layer->data[i] = data;
}

static struct layer make_layer(uint32_t number)
{
    static const struct scheme scheme = {5, 40, true};
    struct tensor tiles = {.dtype = DTYPE_F16, .storage = STORAGE_TILES, .rank = 2, .shape = {11, 40}};
    struct tensor norm = {.dtype = DTYPE_F32, .rank = 1, .shape = {40}};
    struct tensor empty = {.dtype = DTYPE_BF16, .rank = 2, .shape = {0, 3}};
    uint64_t seed = 100 + number;
    struct tiles_layout layout;
    struct layer layer;

    tiles.scheme = scheme;
    REQUIRE(tiles_layout(&layout, 11, 40, scheme, NULL) == OK, NULL);
    fill(&layer, 0, "mlp.down_proj.weight", &tiles, layout.bytes, &seed);
    fill(&layer, 1, "norm.weight", &norm, 160, &seed);
    fill(&layer, 2, "none", &empty, 0, &seed);
    snprintf(layer.notes, sizeof layer.notes, "{\"layer\": %" PRIu32 "}", number);
    return layer;
}

static void free_layer(struct layer *layer)
{
    for (int i = 0; i < TENSORS; i++)
        memory_free(layer->data[i]);
}

static enum status add_layer(struct journal *journal, uint32_t number, struct error *err)
{
    struct layer layer = make_layer(number);
    enum status status =
        journal_add(journal, number, layer.tensors, TENSORS, layer.notes, strlen(layer.notes), err);

    free_layer(&layer);
    return status;
}

static void check_layer(struct journal *journal, uint32_t number)
{
    struct container *file = journal_layer(journal, number);
    struct layer layer = make_layer(number);
    char *notes = NULL;
    uint64_t bytes;

    REQUIRE(file != NULL, NULL);
    CU_ASSERT_EQUAL(container_count(file), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const struct tensor *wanted = &layer.tensors[i], *found = container_find(file, wanted->name);
        REQUIRE(found && found->bytes == wanted->bytes, NULL);
        CU_ASSERT_PTR_NULL(found->data);
        void *data = memory_new(found->bytes, 1, NULL);
        REQUIRE(container_read(file, found, 0, data, found->bytes, NULL) == OK, NULL);
        CU_ASSERT_EQUAL(memcmp(data, wanted->data, wanted->bytes), 0);
        memory_free(data);
    }
    CHECK(container_document(file, "layer.json", &notes, &bytes, NULL) == OK && notes, NULL);
    CU_ASSERT_STRING_EQUAL(notes, layer.notes);
    memory_free(notes);
    free_layer(&layer);
}

/* ---- journals ---- */

/* The output in a fresh folder. */
static const char *fresh_output(void)
{
    testing_folder();
    return testing_path("out.nbl");
}

static const char *in_journal(const char *name)
{
    return testing_path("out.nbl.journal/%s", name);
}

static bool exists(const char *name)
{
    return access(in_journal(name), F_OK) == 0;
}

static int entries_of(const char *folder)
{
    DIR *stream = opendir(folder);
    int count = -2; /* . and .. */

    REQUIRE(stream != NULL, NULL);
    while (readdir(stream))
        count++;
    closedir(stream);
    return count;
}

static enum status try_open(
    struct journal **out, const char *with, bool restart, uint32_t *finished, struct error *err)
{
    return journal_open(out, testing_path("out.nbl"), with, LAYERS, restart, pool, NULL, finished, err);
}

/* Must work and find so many layers, all as they were written. */
static struct journal *opened(uint32_t expected)
{
    struct journal *journal = NULL;
    struct error err = {0};
    uint32_t finished;

    REQUIRE(try_open(&journal, stamp, false, &finished, &err) == OK, &err);
    REQUIRE(finished == expected, NULL);
    for (uint32_t i = 0; i < finished; i++)
        check_layer(journal, i);
    for (uint32_t i = finished; i < LAYERS + 1; i++)
        CU_ASSERT_PTR_NULL(journal_layer(journal, i));
    return journal;
}

static void check_refused(const char *with, bool restart, enum status expected, const char *says)
{
    struct journal *journal = NULL;
    struct error err = {0};
    uint32_t finished = 7;

    CHECK(try_open(&journal, with, restart, &finished, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CHECK(!strchr(err.text, '\n'), &err);
    CU_ASSERT_PTR_NULL(journal);
    CU_ASSERT_EQUAL(finished, 0);
}

/* A fresh journal with so many layers, as a killed run leaves it. */
static void leave_journal(uint32_t layers)
{
    struct error err = {0};

    fresh_output();
    struct journal *journal = opened(0);
    for (uint32_t i = 0; i < layers; i++)
        REQUIRE(add_layer(journal, i, &err) == OK, &err);
    journal_close(journal);
}

static void flip(const char *name, uint64_t at)
{
    uint64_t count;
    char *bytes = testing_read(in_journal(name), &count);

    REQUIRE(at < count, NULL);
    bytes[at] ^= 1;
    testing_write(in_journal(name), bytes, count);
    memory_free(bytes);
}

/* ---- cases ---- */

static void test_continue_and_finish(void)
{
    struct error err = {0};
    uint64_t count;
    char *text;

    leave_journal(0);
    CU_ASSERT_STRING_EQUAL(text = testing_read(in_journal("journal.json"), &count), stamp);
    memory_free(text);
    struct journal *journal = opened(0);
    CU_ASSERT_STRING_EQUAL(journal_folder(journal), testing_path("out.nbl.journal"));
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(add_layer(journal, i, &err) == OK, &err);
        check_layer(journal, i);
    }
    journal_close(journal);
    for (uint32_t i = 2; i < LAYERS; i++) {
        journal = opened(i);
        CHECK(add_layer(journal, i, &err) == OK, &err);
        journal_close(journal);
    }
    journal = opened(LAYERS);
    CU_ASSERT_EQUAL(add_layer(journal, LAYERS, &err), ERR_USAGE);
    CHECK(add_layer(journal, 1, &err) == OK, &err); /* once more */
    check_layer(journal, 1);
    CHECK(journal_remove(journal, &err) == OK, &err);
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 0);
    journal_close(NULL);
}

/* A layer that is damaged, cut short, missing, of another layer or no .nbl file ends what is continued. */
static void break_layer(int how)
{
    uint64_t count;
    char *bytes;

    switch (how) {
    case 0:
        flip("layer-00001.nbl", 65536 + 3); /* data */
        break;
    case 1:
        flip("layer-00001.nbl", file_size(in_journal("layer-00001.nbl")) - 1); /* documents */
        break;
    case 2:
        REQUIRE(truncate(in_journal("layer-00001.nbl"), 65536 + 100) == 0, NULL);
        break;
    case 3:
        REQUIRE(unlink(in_journal("layer-00001.nbl")) == 0, NULL);
        break;
    case 4:
        bytes = testing_read(in_journal("layer-00002.nbl"), &count);
        testing_write(in_journal("layer-00001.nbl"), bytes, count);
        memory_free(bytes);
        break;
    default:
        testing_write(in_journal("layer-00001.nbl"), "", 0);
    }
}

static void test_damaged_layer(void)
{
    for (int how = 0; how < 6; how++) {
        struct error err = {0};
        leave_journal(3);
        break_layer(how);
        struct journal *journal = opened(1);
        CHECK(add_layer(journal, 1, &err) == OK, &err);
        CHECK(add_layer(journal, 2, &err) == OK, &err); /* over the one that is there */
        journal_close(journal);
        journal_close(opened(3));
    }
}

/* Whole layers under another stamp's journal.json are not used. */
static void test_layer_of_another_journal(void)
{
    struct journal *journal = NULL;
    struct error err = {0};
    uint32_t finished;
    uint64_t count;
    char *bytes;

    leave_journal(2);
    bytes = testing_read(in_journal("layer-00000.nbl"), &count);
    REQUIRE(try_open(&journal, "{\"bits\": \"4\"}", true, &finished, &err) == OK, &err);
    journal_close(journal);
    testing_write(in_journal("layer-00000.nbl"), bytes, count);
    memory_free(bytes);
    CHECK(try_open(&journal, " {\"bits\":\"4\"} ", false, &finished, &err) == OK, &err);
    CU_ASSERT_EQUAL(finished, 0);
    journal_close(journal);
}

/* What cannot be continued is told of, as far as report allows. */
static void test_damage_is_told(void)
{
    struct journal *journal = NULL;
    uint32_t finished;
    uint64_t count;
    char *said;

    leave_journal(2);
    break_layer(0);
    testing_capture(2);
    CU_ASSERT_EQUAL(
        journal_open(&journal, testing_path("out.nbl"), stamp, LAYERS, false, pool, &loud, &finished, NULL),
        OK);
    said = testing_captured(&count);
    CU_ASSERT_EQUAL(finished, 1);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(said, "layer-00001.nbl: tensor mlp.down_proj.weight: its bytes are damaged"));
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "; the work goes on at layer 1\n"));
    memory_free(said);
    journal_close(journal);
}

/* Where nothing is finished, nothing can be mixed up. */
static void test_other_stamp_without_layers(void)
{
    static const char other[] = "{\"bits\": \"4\"}";
    struct journal *journal = NULL;
    struct error err = {0};
    uint32_t finished;
    uint64_t count;

    leave_journal(0);
    CHECK(try_open(&journal, other, false, &finished, &err) == OK, &err);
    journal_close(journal);
    char *text = testing_read(in_journal("journal.json"), &count);
    CU_ASSERT_STRING_EQUAL(text, other);
    memory_free(text);
    testing_write(in_journal("journal.json"), "{", 1);
    journal_close(opened(0));
}

static void test_other_stamp(void)
{
    leave_journal(2);
    check_refused("{\"version\": \"0.1.0\", \"bits\": \"4\", \"samples\": \"64\"}", false, ERR_USAGE,
        "out.nbl.journal was made with bits 3, this run has 4; give the options of before, or --restart");
    check_refused("{\"version\": \"0.1.0\", \"bits\": \"3\"}", false, ERR_USAGE,
        "out.nbl.journal was made with samples 128, this run has none; ");
    check_refused("{\"version\":\"0.1.0\",\"bits\":\"3\",\"samples\":\"128\",\"new\\n\":\"\\u0001\"}", false,
        ERR_USAGE, "out.nbl.journal was made without new\\x0a, this run has \\x01; ");
    check_refused("{\"bits\": 3}", false, ERR_FORMAT, "stamp: the value of bits is no string");
    journal_close(opened(2)); /* none of it did any harm */
}

/* A damaged stamp is an error: the layers may be worth hours, only --restart throws them away. */
static void test_damaged_stamp(void)
{
    static const char *const texts[] = {"", "{", "[]", "{\"bits\": {}}", "{\"bits\": \"3\"} x"};
    struct journal *journal = NULL;
    uint32_t finished;

    leave_journal(2);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        testing_write(in_journal("journal.json"), texts[i], strlen(texts[i]));
        check_refused(stamp, false, ERR_FORMAT, "the journal cannot be continued, --restart begins anew: ");
    }
    REQUIRE(truncate(in_journal("journal.json"), (1 << 20) + 1) == 0, NULL);
    check_refused(stamp, false, ERR_FORMAT, "journal.json: is too large");
    REQUIRE(unlink(in_journal("journal.json")) == 0, NULL);
    check_refused(stamp, false, ERR_USAGE, "its journal.json is missing");
    CU_ASSERT_TRUE(exists("layer-00001.nbl"));
    CU_ASSERT_EQUAL(try_open(&journal, stamp, true, &finished, NULL), OK);
    CU_ASSERT_FALSE(exists("layer-00001.nbl"));
    journal_close(journal);
}

static void test_restart(void)
{
    struct journal *journal = NULL;
    struct error err = {0};
    uint32_t finished = 7;

    leave_journal(2);
    testing_write(in_journal("states-00002"), "x", 1);
    testing_write(in_journal("mine.txt"), "mine", 4);
    CHECK(try_open(&journal, "{\"bits\": \"2\"}", true, &finished, &err) == OK, &err);
    CU_ASSERT_EQUAL(finished, 0);
    CU_ASSERT_EQUAL(entries_of(testing_path("out.nbl.journal")), 3); /* the stamp, the lock and mine.txt */
    CU_ASSERT_TRUE(exists("mine.txt"));
    CHECK(add_layer(journal, 0, &err) == OK, &err);
    journal_close(journal);
    check_refused(stamp, false, ERR_USAGE, "made without version, this run has 0.1.0");
}

/* What a killed run was writing is taken away, however the process is numbered today. */
static void test_temporaries(void)
{
    static const char *const ours[] = {
        ".layer-00001.nbl.tmp.12", ".states-00002.tmp.1", ".journal.json.tmp.7"};
    static const char *const others[] = {"layer-1.nbl", "layer-000001.nbl", "layer-00001.nblx",
        "states-00001.", "layer-00001", ".layer-00001.nbl", ".layer-00001.nbl.tmp.",
        ".layer-00001.nbl.tmp.1x", "x.tmp.1", ".x.tmp.1", "journal.json.bak", "locks", ".lock.tmp.1",
        "layer-0000a.nbl"};
    struct error err = {0};

    leave_journal(1);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        testing_write(in_journal(ours[i]), "x", 1);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        testing_write(in_journal(others[i]), "x", 1);
    struct journal *journal = opened(1);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        CU_ASSERT_FALSE(exists(ours[i]));
    CHECK(journal_remove(journal, &err) == OK, &err);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CU_ASSERT_TRUE(exists(others[i]));
    CU_ASSERT_EQUAL(entries_of(testing_path("out.nbl.journal")), (int)(sizeof others / sizeof *others));
}

/* Files of somebody else keep the folder, and that is said; folders and links under our names are not ours. */
static void test_foreign_files_stay(void)
{
    struct journal *journal = NULL;
    uint32_t finished;
    uint64_t count;
    char *said;

    leave_journal(1);
    testing_write(testing_path("elsewhere"), "x", 1);
    REQUIRE(symlink(testing_path("elsewhere"), in_journal("layer-00001.nbl")) == 0, NULL);
    REQUIRE(mkdir(in_journal("states-00003"), 0700) == 0, NULL);
    testing_capture(2);
    CU_ASSERT_EQUAL(
        journal_open(&journal, testing_path("out.nbl"), stamp, LAYERS, false, pool, &loud, &finished, NULL),
        OK);
    CU_ASSERT_EQUAL(finished, 1);
    CU_ASSERT_EQUAL(journal_remove(journal, NULL), OK);
    said = testing_captured(&count);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "out.nbl.journal stays: it holds what is not the journal's ("));
    memory_free(said);
    CU_ASSERT_EQUAL(entries_of(testing_path("out.nbl.journal")), 2);
    CU_ASSERT_TRUE(exists("states-00003") && exists("layer-00001.nbl"));
    check_refused(stamp, false, ERR_USAGE, "out.nbl.journal: is no journal (it holds ");
    check_refused(stamp, true, ERR_USAGE, "out.nbl.journal: is no journal (it holds ");
    CU_ASSERT_EQUAL(entries_of(testing_path("out.nbl.journal")), 2);
}

/* Names that are no folder of ours. */
static void test_no_folder(void)
{
    fresh_output();
    testing_write(testing_path("out.nbl.journal"), "x", 1);
    check_refused(stamp, true, ERR_USAGE, "out.nbl.journal: exists and is no folder");
    REQUIRE(unlink(testing_path("out.nbl.journal")) == 0, NULL);
    REQUIRE(mkdir(testing_path("real"), 0700) == 0, NULL);
    REQUIRE(symlink("real", testing_path("out.nbl.journal")) == 0, NULL);
    check_refused(stamp, true, ERR_USAGE, "out.nbl.journal: exists and is no folder");
    CU_ASSERT_EQUAL(entries_of(testing_path("real")), 0);
    REQUIRE(unlink(testing_path("out.nbl.journal")) == 0, NULL);
    REQUIRE(mkdir(testing_path("out.nbl.journal"), 0700) == 0, NULL);
    journal_close(opened(0)); /* an empty one: a run that was killed early */
    testing_folder();
    testing_write(testing_path("file"), "x", 1);
    struct journal *journal;
    struct error err = {0};
    uint32_t finished;
    CU_ASSERT_EQUAL(
        journal_open(&journal, testing_path("file/out"), stamp, LAYERS, false, pool, NULL, &finished, &err),
        ERR_IO);
    CU_ASSERT_EQUAL(
        journal_open(&journal, testing_path("out"), stamp, 100000, false, pool, NULL, &finished, &err),
        ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 1);
}

/* Another process has it; once that one is killed, nobody has. */
static void test_lock(void)
{
    int ready[2];
    char byte;

    leave_journal(1);
    REQUIRE(pipe(ready) == 0, NULL);
    pid_t child = fork();
    if (child == 0) {
        struct journal *journal;
        struct pool *own;
        uint32_t finished;
        alarm(30);
        if (pool_create(&own, 1, NULL) != OK ||
            journal_open(
                &journal, testing_path("out.nbl"), stamp, LAYERS, false, own, NULL, &finished, NULL) != OK ||
            write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    REQUIRE(read(ready[0], &byte, 1) == 1, NULL);
    check_refused(stamp, false, ERR_USAGE, "out.nbl.journal: another process is at work on it");
    check_refused(stamp, true, ERR_USAGE, "out.nbl.journal: another process is at work on it");
    CU_ASSERT_TRUE(exists("layer-00000.nbl"));
    kill(child, SIGKILL);
    REQUIRE(waitpid(child, NULL, 0) == child, NULL);
    close(ready[0]);
    close(ready[1]);
    struct journal *journal = opened(1);
    check_refused(stamp, false, ERR_USAGE, "another process"); /* twice in one process as well */
    journal_close(journal);
}

static void test_states(void)
{
    leave_journal(2);
    struct journal *journal = opened(2);
    CU_ASSERT_STRING_EQUAL(journal_states_path(journal, 2), in_journal("states-00002"));
    CU_ASSERT_EQUAL(journal_latest_states(journal, 2), 0);
    CU_ASSERT_STRING_EQUAL(journal_states_path(journal, UINT32_MAX), in_journal("states-4294967295"));
    for (uint32_t layer = 0; layer < 4; layer += 1 + (layer == 1))
        testing_write(journal_states_path(journal, layer), "x", 1); /* 0, 1, 3 */
    CU_ASSERT_EQUAL(journal_latest_states(journal, 0), 0);
    CU_ASSERT_EQUAL(journal_latest_states(journal, 2), 1);
    CU_ASSERT_EQUAL(journal_latest_states(journal, 3), 3);
    CU_ASSERT_EQUAL(journal_latest_states(journal, UINT32_MAX), 3);
    journal_drop_states(journal, 1);
    CU_ASSERT_TRUE(exists("states-00001") && !exists("states-00000") && !exists("states-00003"));
    CU_ASSERT_TRUE(exists("layer-00001.nbl") && exists("journal.json"));
    CU_ASSERT_EQUAL(journal_latest_states(journal, 4), 1);
    CU_ASSERT_EQUAL(journal_remove(journal, NULL), OK);
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 0);
}

/* ---- faults ---- */

/* From nothing, through continuing, to the end. */
static enum status whole_life(struct error *err)
{
    struct journal *journal = NULL;
    uint32_t finished;
    enum status status = try_open(&journal, stamp, false, &finished, err);

    if (!status && finished == 0) status = add_layer(journal, 0, err);
    journal_close(journal);
    if (status) return status;
    status = try_open(&journal, stamp, false, &finished, err);
    if (status) return status;
    CU_ASSERT_EQUAL(finished, 1);
    return journal_remove(journal, err);
}

/* Every allocation in turn: an error that says so, and the next run works with what is there. */
static void test_without_memory(void)
{
    enum status status = ERR_MEMORY;
    uint64_t failures = 1;

    fresh_output();
    struct layer layer = make_layer(0);
    for (uint64_t nth = 1; failures > 0; nth++) {
        struct journal *journal = NULL;
        struct error err = {0};
        uint32_t finished = 0;
        memory_fail_at(nth, 0);
        status = try_open(&journal, stamp, false, &finished, &err);
        if (!status && finished == 0)
            status = journal_add(journal, 0, layer.tensors, TENSORS, layer.notes, 5, &err);
        if (!status && !journal_layer(journal, 0)) status = ERR_CHECK;
        failures = memory_failures();
        memory_fail_at(0, 0);
        CHECK(status == (failures ? ERR_MEMORY : OK), &err);
        journal_close(journal);
        REQUIRE(nth < 10000, NULL);
    }
    free_layer(&layer);
    /* and a second walk over continuing, where a layer must not be taken for damaged */
    failures = 1;
    for (uint64_t nth = 1; failures > 0; nth++) {
        struct journal *journal = NULL;
        struct error err = {0};
        uint32_t finished = 0;
        memory_fail_at(nth, 0);
        status = try_open(&journal, stamp, false, &finished, &err);
        failures = memory_failures();
        memory_fail_at(0, 0);
        CHECK(status == (failures ? ERR_MEMORY : OK), &err);
        CU_ASSERT_TRUE(status || finished == 1);
        journal_close(journal);
    }
}

static int writes_left;
static int64_t (*real_pwrite)(int descriptor, const void *buffer, size_t count, int64_t offset);

static int64_t full_disk(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (writes_left-- > 0) return real_pwrite(descriptor, buffer, count, offset);
    errno = ENOSPC;
    return -1;
}

/* The disk is full at every write in turn. */
static void test_full_disk(void)
{
    enum status status = ERR_IO;

    fresh_output();
    real_pwrite = file_calls.pwrite;
    for (int nth = 0; status; nth++) {
        struct error err = {0};
        writes_left = nth;
        file_calls.pwrite = full_disk;
        status = whole_life(&err);
        file_calls.pwrite = real_pwrite;
        CHECK(status == OK || (status == ERR_IO && strstr(err.text, "cannot be written")), &err);
        if (nth == 0) CU_ASSERT_EQUAL(entries_of(testing_path(".")), 0); /* not even begun */
        if (status && nth > 0) CU_ASSERT_FALSE(exists("layer-00000.nbl"));
        REQUIRE(nth < 100, NULL);
        if (status && nth > 0) journal_close(opened(0));
    }
    CU_ASSERT_EQUAL(entries_of(testing_path(".")), 0);
}

/* Read errors are the system's trouble: nothing is taken for damaged and done again. */
static int64_t broken_disk(int descriptor, void *buffer, size_t count, int64_t offset)
{
    (void)descriptor, (void)buffer, (void)count, (void)offset;
    errno = EIO;
    return -1;
}

static void test_broken_disk(void)
{
    struct file_calls real = file_calls;

    leave_journal(2);
    file_calls.pread = broken_disk;
    check_refused(stamp, false, ERR_IO, "cannot be read");
    file_calls = real;
    journal_close(opened(2));
}

/* kill -9 at every write: what is found again is whole. */
static int64_t last_write(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    if (writes_left-- == 0) kill(getpid(), SIGKILL);
    return real_pwrite(descriptor, buffer, count, offset);
}

static void test_killed_at_every_write(void)
{
    int status = -1;

    fresh_output();
    real_pwrite = file_calls.pwrite;
    for (int nth = 0; status != 0; nth++) {
        pid_t child = fork();
        if (child == 0) {
            struct pool *own;
            struct journal *journal;
            uint32_t finished;
            alarm(30);
            writes_left = nth;
            file_calls.pwrite = last_write;
            if (pool_create(&own, 1, NULL) != OK ||
                journal_open(&journal, testing_path("out.nbl"), stamp, LAYERS, true, own, NULL, &finished,
                    NULL) != OK ||
                add_layer(journal, 0, NULL) != OK || add_layer(journal, 1, NULL) != OK)
                _exit(1);
            _exit(0);
        }
        REQUIRE(waitpid(child, &status, 0) == child && nth < 100, NULL);
        CU_ASSERT_TRUE(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        struct journal *journal = NULL;
        struct error err = {0};
        uint32_t finished;
        CHECK(try_open(&journal, stamp, false, &finished, &err) == OK, &err);
        CU_ASSERT_TRUE(finished <= 2 && (status != 0 || finished == 2));
        for (uint32_t i = 0; i < finished; i++)
            check_layer(journal, i);
        CU_ASSERT_EQUAL(entries_of(journal_folder(journal)), 2 + (int)finished);
        journal_close(journal);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"continue and finish", test_continue_and_finish},
        {"damaged layer", test_damaged_layer},
        {"layer of another journal", test_layer_of_another_journal},
        {"damage is told", test_damage_is_told},
        {"other stamp", test_other_stamp},
        {"other stamp without layers", test_other_stamp_without_layers},
        {"damaged stamp", test_damaged_stamp},
        {"restart", test_restart},
        {"temporaries", test_temporaries},
        {"foreign files stay", test_foreign_files_stay},
        {"no folder", test_no_folder},
        {"lock", test_lock},
        {"states", test_states},
        {"without memory", test_without_memory},
        {"full disk", test_full_disk},
        {"broken disk", test_broken_disk},
        {"killed at every write", test_killed_at_every_write},
    };
    struct error err = {0};
    int result;

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    result = TESTING_RUN("journal", cases);
    pool_free(pool);
    return result;
}
