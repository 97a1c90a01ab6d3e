/* A thin harness over CUnit: cases in a table, one program per file, and temporary folders. */
#ifndef NIBBLE_TESTS_SUPPORT_TESTING_H
#define NIBBLE_TESTS_SUPPORT_TESTING_H

#include <CUnit/CUnit.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Whether memory and signals are in the hands of a sanitizer. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TESTING_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TESTING_SANITIZED 1
#endif
#endif
#ifndef TESTING_SANITIZED
#define TESTING_SANITIZED 0
#endif

/* One case: its name and what to run. */
struct test_case {
    const char *name;
    void (*run)(void);
};

/* Run every case and return what main must return: 0, or 1 if anything failed or no case ran. */
int testing_run(const char *suite, const struct test_case *cases, size_t count);
#define TESTING_RUN(suite, cases) testing_run(suite, cases, sizeof(cases) / sizeof *(cases))

/* Set-up that must not fail: on false prints file, line and err's text and ends the program with 1. */
void testing_require(bool condition, const char *what, const struct error *err, const char *file, int line);
#define REQUIRE(condition, err) testing_require((condition), #condition, (err), __FILE__, __LINE__)

/* A check that shows err's text when it does not hold. */
void testing_check(bool condition, const char *what, const struct error *err, const char *file, int line);
#define CHECK(condition, err) testing_check((condition), #condition, (err), __FILE__, __LINE__)

/* End the whole program as skipped (exit 77) with a printed reason. */
void testing_skip(const char *reason);

/* A fresh empty folder for every call, removed with everything in it when the program ends. The text lives as long as
 * the program. */
const char *testing_folder(void);
/* folder/name, printf style, in the folder that testing_folder made last (the first call makes one); lives as long as
 * the program. */
const char *testing_path(const char *format, ...) NIBBLE_PRINTF(1, 2);
/* Write a whole file, or end the program. */
void testing_write(const char *path, const void *bytes, uint64_t count);
/* Read a whole file into memory (memory_free), or end the program. */
char *testing_read(const char *path, uint64_t *count);
/* True if two files hold the same bytes; both must exist. */
bool testing_same_files(const char *path_a, const char *path_b);
/* Path of a file under tests/ of the source tree, and of ../shared/data beside it (NULL where that is absent). */
const char *testing_source(const char *relative);
const char *testing_shared(const char *relative);
/* Catch what is printed to a descriptor (1 or 2) from here until testing_captured, which returns it, terminated
 * (memory_free). One at a time. */
void testing_capture(int descriptor);
char *testing_captured(uint64_t *count);
/* Switch this process to a locale that writes 1,5 for 1.5. False if the system has none and cannot make one. */
bool testing_comma_locale(void);
/* A small deterministic generator (splitmix64) and a normal-ish float in about -4..4 from it. */
uint64_t testing_random(uint64_t *state);
float testing_normal(uint64_t *state);

#endif
