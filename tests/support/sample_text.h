/* Calibration text for tests, made up: the same arguments give the same bytes. */
#ifndef NIBBLE_TESTS_SUPPORT_SAMPLE_TEXT_H
#define NIBBLE_TESTS_SUPPORT_SAMPLE_TEXT_H

#include <stdint.h>

/* Write `bytes` bytes of words to `name` in the test's latest folder; returns the path, which lives as long as the
 * program. Upper case, spaces and line ends only: with the tokenizer of tests/support/tiny_model.h every byte is a
 * token below 94. */
const char *sample_text(const char *name, uint64_t bytes, uint64_t seed);

#endif
