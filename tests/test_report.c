/* Reports: words for numbers, tables that line up, and progress that neither floods a log nor spoils a
 * terminal. */
#include "base/report.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "tests/support/testing.h"

/* The clock of this program: stands still unless a test moves it, so that no test has to wait. */
static _Atomic int64_t nanoseconds;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_MONOTONIC) return (int)syscall(SYS_clock_gettime, clock, now);
    now->tv_sec = nanoseconds / 1000000000;
    now->tv_nsec = nanoseconds % 1000000000;
    return 0;
}

static void pass(double seconds)
{
    nanoseconds += llround(seconds * 1e9);
}

static const struct report talkative = {false, true}, normal = {false, false}, quiet = {true, true};

/* ---- numbers in words ---- */

static void check_bytes(uint64_t bytes, const char *expected)
{
    char text[16];

    CU_ASSERT_STRING_EQUAL(report_bytes(text, bytes), expected);
}

static void test_bytes(void)
{
    check_bytes(0, "0 B");
    check_bytes(17, "17 B");
    check_bytes(999, "999 B");
    check_bytes(1000, "1.00 kB");
    check_bytes(1234, "1.23 kB");
    check_bytes(9994, "9.99 kB");
    check_bytes(9996, "10.0 kB");
    check_bytes(12345, "12.3 kB");
    check_bytes(99960, "100 kB");
    check_bytes(655000000, "655 MB");
    check_bytes(999499, "999 kB");
    check_bytes(999500, "1.00 MB");
    check_bytes(1234567890, "1.23 GB");
    check_bytes(UINT64_C(1500000000000), "1.50 TB");
    check_bytes(UINT64_MAX, "18.4 EB");
}

static void check_duration(double seconds, const char *expected)
{
    char text[24];

    CU_ASSERT_STRING_EQUAL(report_duration(text, seconds), expected);
}

static void test_duration(void)
{
    check_duration(0, "0.000 s");
    check_duration(-1, "0.000 s");
    check_duration(NAN, "0.000 s");
    check_duration(0.123, "0.123 s");
    check_duration(0.9996, "1.00 s");
    check_duration(1.234, "1.23 s");
    check_duration(12.34, "12.3 s");
    check_duration(59.94, "59.9 s");
    check_duration(59.96, "1 min 00 s");
    check_duration(125, "2 min 05 s");
    check_duration(3599.4, "59 min 59 s");
    check_duration(3599.6, "1 h 00 min");
    check_duration(3720, "1 h 02 min");
    check_duration(360000, "100 h 00 min");
    check_duration(INFINITY, "277777 h 47 min");
}

static void test_seconds(void)
{
    double before = report_seconds();

    pass(2.5);
    CU_ASSERT_DOUBLE_EQUAL(report_seconds() - before, 2.5, 1e-9);
}

/* ---- notes ---- */

static void check_captured(const char *expected)
{
    uint64_t count;
    char *text = testing_captured(&count);

    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected) != 0) printf("\n%s", text);
    memory_free(text);
}

static void test_notes(void)
{
    testing_capture(2);
    report_note(&normal, "%d tensors", 3);
    report_detail(&normal, "not this");
    report_detail(&talkative, "tensor %s", "a");
    report_note(&quiet, "not this");
    report_detail(&quiet, "not this");
    report_note(NULL, "not this");
    report_detail(NULL, "not this");
    check_captured("3 tensors\ntensor a\n");
}

static void test_failure(void)
{
    struct error err = {OK, ""};

    CU_ASSERT_EQUAL(report_failure("nibble-x", &err), 0);
    fail(&err, ERR_FORMAT, "a.nbl: bad magic");
    testing_capture(2);
    CU_ASSERT_EQUAL(report_failure("nibble-x", &err), 3);
    check_captured("nibble-x: error: a.nbl: bad magic\n");
}

/* A result that does not reach its file is an error: /dev/full takes nothing. It refuses a buffered line when
 * report_finish flushes it, and an unbuffered one before. */
static int finish_on_full_disk(int buffering)
{
    struct error err = {OK, ""};

    if (!freopen("/dev/full", "w", stdout) || setvbuf(stdout, NULL, buffering, 0) != 0) return 1;
    printf("result\n");
    if (report_finish(&err) != ERR_IO) return 2;
    return strstr(err.text, buffering == _IOFBF ? "no space left" : "not everything") ? 0 : 3;
}

static void test_finish(void)
{
    struct error err = {OK, ""};
    int status;

    CHECK(report_finish(&err) == OK, &err);
    for (int round = 0; round < 2; round++) {
        pid_t child = fork();
        if (child == 0) _exit(finish_on_full_disk(round == 0 ? _IOFBF : _IONBF));
        CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
        CU_ASSERT_EQUAL(status, 0);
    }
}

/* ---- progress in a file ---- */

static void test_progress_without_terminal(void)
{
    struct progress *progress;

    testing_capture(2);
    progress = progress_start(&normal, "reading", 1000000000, PROGRESS_BYTES);
    REQUIRE(progress != NULL, NULL);
    for (int i = 0; i < 25; i++) {
        pass(1);
        progress_add(progress, 10000000);
    }
    progress_end(progress);
    check_captured("reading  10%  10.0 MB/s  1 min 30 s left\nreading  20%  10.0 MB/s  1 min 20 s left\n");
}

static void test_progress_of_unknown_length(void)
{
    struct progress *progress;

    testing_capture(2);
    progress = progress_start(&normal, "reading", 0, PROGRESS_BYTES);
    pass(10);
    progress_add(progress, 2500000);
    progress_end(progress);
    progress = progress_start(&normal, "scoring", 0, PROGRESS_TOKENS);
    pass(10);
    progress_add(progress, 2500);
    progress_end(progress);
    progress = progress_start(&normal, "packing", 8, PROGRESS_ITEMS);
    pass(10);
    progress_add(progress, 0);
    pass(10);
    progress_add(progress, 6);
    pass(10);
    progress_add(progress, 6); /* more than was announced */
    progress_end(progress);
    check_captured("reading  2.50 MB  250 kB/s\n"
                   "scoring  2500  250 tokens/s\n"
                   "packing  0%  0.0 per s\n"
                   "packing  75%  0.3 per s  7 s left\n"
                   "packing  100%  0.4 per s  0 s left\n");
}

static void test_no_progress(void)
{
    testing_capture(2);
    CU_ASSERT_PTR_NULL(progress_start(NULL, "x", 1, PROGRESS_ITEMS));
    CU_ASSERT_PTR_NULL(progress_start(&quiet, "x", 1, PROGRESS_ITEMS));
    for (uint64_t nth = 1; nth <= 2; nth++) {
        memory_fail_at(nth, 0);
        CU_ASSERT_PTR_NULL(progress_start(&normal, "x", 1, PROGRESS_ITEMS));
        memory_fail_at(0, 0);
    }
    progress_add(NULL, 1);
    progress_end(NULL);
    check_captured("");
}

static void *add_items(void *progress)
{
    for (int i = 0; i < 1000; i++) {
        pass(0.002);
        progress_add(progress, 1);
    }
    return NULL;
}

static void test_progress_from_threads(void)
{
    struct progress *progress;
    pthread_t threads[4];
    uint64_t count;
    unsigned lines = 0;
    char *text;

    testing_capture(2);
    progress = progress_start(&normal, "items", 5000, PROGRESS_ITEMS);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, add_items, progress) == 0, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    pass(10);
    progress_add(progress, 1000);
    progress_end(progress);
    text = testing_captured(&count);
    for (uint64_t i = 0; i < count; i++)
        lines += text[i] == '\n';
    CU_ASSERT_EQUAL(lines, 1); /* 8 seconds pass while the threads run */
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "items  100%"));
    memory_free(text);
}

/* ---- progress on a terminal ---- */

/* A bare chroot or container may have no /dev/pts. */
static bool has_terminals(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    bool found = master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0 && ptsname(master);

    if (master >= 0) close(master);
    return found;
}

/* Run `work` with a terminal of `columns` columns as standard error; returns what it printed (free). */
static char *on_terminal(unsigned short columns, void (*work)(void))
{
    struct winsize size = {24, columns, 0, 0};
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave, before;
    char *text = calloc(1, 65536);
    ssize_t count = 0, got;

    REQUIRE(text && master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0, NULL);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    REQUIRE(slave >= 0 && ioctl(slave, TIOCSWINSZ, &size) == 0 && before >= 0, NULL);
    fflush(stderr);
    dup2(slave, STDERR_FILENO);
    work();
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    fcntl(master, F_SETFL, O_NONBLOCK);
    while (count < 65535 && (got = read(master, text + count, (size_t)(65535 - count))) > 0)
        count += got;
    close(slave);
    close(master);
    return text;
}

static void redraw(void)
{
    struct progress *progress = progress_start(&normal, "quantizing", 1000, PROGRESS_ITEMS);

    for (int i = 0; i < 1000; i++) {
        pass(0.001);
        progress_add(progress, 1);
    }
    progress_end(progress);
}

static void test_terminal_is_redrawn_ten_times_a_second(void)
{
    static const char first[] = "\rquantizing  10%  1000 per s  1 s left\033[K\rquantizing  20%",
                      last[] = "\r\033[K";
    char *text = on_terminal(80, redraw);
    unsigned redraws = 0;

    CU_ASSERT_EQUAL(strncmp(text, first, sizeof first - 1), 0);
    for (char *at = text; (at = strstr(at, "\rquantizing")); at++)
        redraws++;
    CU_ASSERT_TRUE(redraws == 9 || redraws == 10);
    CU_ASSERT_PTR_NULL(strchr(text, '\n'));
    CU_ASSERT_TRUE(strlen(text) > sizeof last && strcmp(text + strlen(text) - (sizeof last - 1), last) == 0);
    free(text);
}

static void redraw_and_note(void)
{
    struct progress *progress = progress_start(&normal,
        "gr\xC3\xBC\xC3\x9F"
        "e",
        100, PROGRESS_ITEMS);

    pass(1);
    progress_add(progress, 50);
    report_note(&normal, "a note");
    progress_end(progress);
}

static void test_notes_and_the_line(void)
{
    char *text = on_terminal(80, redraw_and_note);

    CU_ASSERT_STRING_EQUAL(text, "\rgr\xC3\xBC\xC3\x9F"
                                 "e  50%  50.0 per s  1 s left\033[K\r\033[Ka note\r\n");
    free(text);
    text = on_terminal(5, redraw_and_note); /* cut before it wraps, between characters */
    CU_ASSERT_STRING_EQUAL(text, "\rgr\xC3\xBC\xC3\x9F\033[K\r\033[Ka note\r\n");
    free(text);
}

/* ---- tables ---- */

static void test_table(void)
{
    static const char *const headings[] = {"file", ">bits", "note"};
    struct table table = {0};

    table_head(&table, 3, headings);
    table_cell(&table, "gr\xC3\xBC\xC3\x9F.nbl");
    table_cell(&table, "%.2f", 4.25);
    table_cell(&table, "a");
    table_cell(&table, "x");
    table_cell(&table, "%d", 16);
    table_cell(&table, "%s", "");
    table_cell(&table, ">not a mark");
    testing_capture(1);
    table_print(&table);
    check_captured("file         bits  note\n"
                   "-----------  ----  ----\n"
                   "gr\xC3\xBC\xC3\x9F.nbl     4.25  a\n"
                   "x              16\n"
                   ">not a mark\n");
    table_free(&table);
    CU_ASSERT_PTR_NULL(table.cells);
    table_free(&table);
}

static void test_table_of_nothing(void)
{
    static const char *const headings[] = {"only"};
    struct table table = {0};

    testing_capture(1);
    table_print(&table);
    table_head(&table, 1, headings);
    table_print(&table);
    check_captured("only\n----\n");
    table_free(&table);
}

static void test_table_without_memory(void)
{
    static const char *const headings[] = {"a", "b"};

    for (uint64_t nth = 1;; nth++) {
        struct table table = {0};
        uint64_t count;
        memory_fail_at(nth, 0);
        table_head(&table, 2, headings);
        for (int i = 0; i < 6; i++)
            table_cell(&table, "%d", i);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        CU_ASSERT_EQUAL(table.failed, failures > 0);
        testing_capture(2);
        if (failures) table_print(&table);
        memory_free(testing_captured(&count));
        CU_ASSERT_EQUAL(count > 0, failures > 0); /* said, not swallowed */
        table_free(&table);
        if (failures == 0) break;
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"bytes", test_bytes},
        {"duration", test_duration},
        {"seconds", test_seconds},
        {"notes", test_notes},
        {"failure", test_failure},
        {"finish", test_finish},
        {"progress without a terminal", test_progress_without_terminal},
        {"progress of unknown length", test_progress_of_unknown_length},
        {"no progress", test_no_progress},
        {"progress from threads", test_progress_from_threads},
        {"table", test_table},
        {"table of nothing", test_table_of_nothing},
        {"table without memory", test_table_without_memory},
        {"a terminal is redrawn ten times a second", test_terminal_is_redrawn_ten_times_a_second},
        {"notes and the progress line", test_notes_and_the_line},
    };
    enum { ALL = sizeof cases / sizeof *cases, ON_TERMINALS = 2 }; /* the last ones */

    if (has_terminals()) return testing_run("report", cases, ALL);
    printf("LEFT OUT: %d cases, for this system gives no pseudo-terminals\n", ON_TERMINALS);
    return testing_run("report", cases, ALL - ON_TERMINALS);
}
