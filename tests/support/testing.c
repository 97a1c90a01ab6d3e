/* The harness. Its own memory comes from malloc, so that memory_fail_at never hits the test itself. */
#include "tests/support/testing.h"

#include <CUnit/Basic.h>
#include <fcntl.h>
#include <ftw.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

/* ---- running ---- */

int testing_run(const char *suite_name, const struct test_case *cases, size_t count)
{
    CU_pSuite suite;
    unsigned run, failed;

    if (CU_initialize_registry() != CUE_SUCCESS || !(suite = CU_add_suite(suite_name, NULL, NULL))) return 1;
    for (size_t i = 0; i < count; i++) {
        if (!CU_add_test(suite, cases[i].name, cases[i].run)) return 1;
    }
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    run = CU_get_number_of_tests_run();
    failed = CU_get_number_of_failures() + CU_get_number_of_failure_records();
    CU_cleanup_registry();
    return run == 0 || run != count || failed > 0;
}

static void show_error(const struct error *err)
{
    if (err && err->text[0]) printf("\n    %s\n", err->text);
}

void testing_require(bool condition, const char *what, const struct error *err, const char *file, int line)
{
    if (condition) return;
    printf("\n%s:%d: required: %s\n", file, line, what);
    show_error(err);
    exit(1);
}

void testing_check(bool condition, const char *what, const struct error *err, const char *file, int line)
{
    if (!condition) show_error(err);
    CU_assertImplementation(condition, (unsigned)line, what, file, "", CU_FALSE);
}

void testing_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    exit(77);
}

/* ---- texts that live as long as the program ---- */

struct kept {
    struct kept *next;
    char text[];
};
static struct kept *kept_texts;

static const char *keep(const char *format, va_list arguments)
{
    struct kept *kept;
    va_list again;
    int count;

    va_copy(again, arguments);
    count = vsnprintf(NULL, 0, format, again);
    va_end(again);
    REQUIRE(count >= 0, NULL);
    kept = malloc(sizeof *kept + (size_t)count + 1);
    REQUIRE(kept != NULL, NULL);
    vsnprintf(kept->text, (size_t)count + 1, format, arguments);
    kept->next = kept_texts;
    kept_texts = kept;
    return kept->text;
}

static const char *keep_text(const char *format, ...) NIBBLE_PRINTF(1, 2);

static const char *keep_text(const char *format, ...)
{
    va_list arguments;
    const char *text;

    va_start(arguments, format);
    text = keep(format, arguments);
    va_end(arguments);
    return text;
}

/* ---- folders and files ---- */

static const char *root_folder, *current_folder;
static pid_t root_owner;

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

/* A forked child also runs this on exit; only the program that made the folder may remove it. */
static void remove_root(void)
{
    if (getpid() == root_owner) nftw(root_folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_root(void)
{
    const char *parent = getenv("TMPDIR");
    char *path;

    if (root_folder) return;
    path = (char *)(uintptr_t)keep_text("%s/nibble-test-XXXXXX", parent && *parent ? parent : "/tmp");
    REQUIRE(mkdtemp(path) != NULL, NULL);
    root_folder = path;
    root_owner = getpid();
    atexit(remove_root);
}

const char *testing_folder(void)
{
    static unsigned number;

    make_root();
    current_folder = keep_text("%s/%u", root_folder, number++);
    REQUIRE(mkdir(current_folder, 0700) == 0, NULL);
    return current_folder;
}

const char *testing_path(const char *format, ...)
{
    va_list arguments;
    const char *name;

    if (!current_folder) testing_folder();
    va_start(arguments, format);
    name = keep(format, arguments);
    va_end(arguments);
    return keep_text("%s/%s", current_folder, name);
}

void testing_write(const char *path, const void *bytes, uint64_t count)
{
    FILE *file = fopen(path, "wbe");

    testing_require(file != NULL, path, NULL, __FILE__, __LINE__);
    testing_require(count == 0 || fwrite(bytes, 1, count, file) == count, path, NULL, __FILE__, __LINE__);
    testing_require(fclose(file) == 0, path, NULL, __FILE__, __LINE__);
}

char *testing_read(const char *path, uint64_t *count)
{
    FILE *file = fopen(path, "rbe");
    struct error err = {OK, ""};
    long bytes = 0;
    char *text;

    testing_require(file != NULL, path, NULL, __FILE__, __LINE__);
    REQUIRE(fseek(file, 0, SEEK_END) == 0 && (bytes = ftell(file)) >= 0, NULL);
    rewind(file);
    text = memory_new((uint64_t)bytes + 1, 1, &err);
    REQUIRE(text != NULL, &err);
    REQUIRE(fread(text, 1, (size_t)bytes, file) == (size_t)bytes, NULL);
    fclose(file);
    *count = (uint64_t)bytes;
    return text;
}

bool testing_same_files(const char *path_a, const char *path_b)
{
    uint64_t count_a, count_b;
    char *a = testing_read(path_a, &count_a), *b = testing_read(path_b, &count_b);
    bool same = count_a == count_b && memcmp(a, b, count_a) == 0;

    memory_free(a);
    memory_free(b);
    return same;
}

const char *testing_source(const char *relative)
{
    return keep_text("%s/tests/%s", NIBBLE_SOURCE_DIR, relative);
}

const char *testing_shared(const char *relative)
{
    const char *path = keep_text("%s/../shared/data/%s", NIBBLE_SOURCE_DIR, relative);

    return access(path, R_OK) == 0 ? path : NULL;
}

/* ---- what is printed ---- */

static int captured_descriptor, original_descriptor = -1;
static const char *capture_path;

void testing_capture(int descriptor)
{
    int file;

    REQUIRE(original_descriptor < 0, NULL);
    fflush(NULL);
    capture_path = testing_path("captured");
    file = open(capture_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    captured_descriptor = descriptor;
    original_descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
    REQUIRE(file >= 0 && original_descriptor >= 0 && dup2(file, descriptor) == descriptor, NULL);
    close(file);
}

char *testing_captured(uint64_t *count)
{
    fflush(NULL);
    REQUIRE(dup2(original_descriptor, captured_descriptor) == captured_descriptor, NULL);
    close(original_descriptor);
    original_descriptor = -1;
    return testing_read(capture_path, count);
}

bool testing_comma_locale(void)
{
    if (!setlocale(LC_ALL, "de_DE.UTF-8")) {
        const char *folder = testing_folder();
        const char *command =
            keep_text("localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >/dev/null 2>&1", folder);
        if (system(command) != 0 || setenv("LOCPATH", folder, 1) != 0 || !setlocale(LC_ALL, "de_DE.UTF-8"))
            return false;
    }
    return localeconv()->decimal_point[0] == ',';
}

/* ---- numbers ---- */

/* splitmix64, Steele, Lea and Flood 2014. */
uint64_t testing_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* The sum of eight uniform numbers, scaled to variance 1: exact in float arithmetic, so the same on every
 * machine. */
float testing_normal(uint64_t *state)
{
    int64_t sum = 0;

    for (int i = 0; i < 8; i++)
        sum += (int64_t)(testing_random(state) >> 44);                             /* 20 bits */
    return (float)((double)(sum - 8 * (1 << 19)) / (1 << 20) * 1.224744871391589); /* sqrt(12 / 8) */
}
