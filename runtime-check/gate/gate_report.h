/* The outcome of a gate for continuous integration: JUnit XML, which GitHub, GitLab and Jenkins show beside test results, and
 * Markdown for a job's summary. */
#ifndef NIBBLE_RUNTIME_CHECK_GATE_REPORT_H
#define NIBBLE_RUNTIME_CHECK_GATE_REPORT_H

#include "runtime-check/gate/gate.h"

/* What to write about: a result, or the error that kept it from being made. */
struct gate_report {
    const struct gate_subject *subject;
    const struct gate_result *result; /* NULL: there is none */
    const struct error *failure;      /* then: why */
};

/* Write JUnit XML to `path`, all or nothing; an older file is replaced. One test suite named as the model, one test case per check
 * (class: the model, name: the option); a failed one carries what was measured. Without a result there is one test case
 * "measurement" with the error. Names may hold any bytes: what XML cannot carry (control characters, bytes that are not
 * UTF-8) becomes U+FFFD. ERR_IO, ERR_USAGE, as output_open. */
enum status gate_report_junit(const char *path, const struct gate_report *report, struct error *err);

/* Append a heading, a table and remarks in Markdown to `path`, which is made if it is not there: other steps of a job
 * write to the same file. Written by one call where the system allows; if that fails a regular file is cut back to what it
 * was. ERR_IO. */
enum status gate_report_summary(const char *path, const struct gate_report *report, struct error *err);

/* What to say of a verdict that no number says: of a check that fails although its value is within the limit; else NULL. Into
 * out, GATE_REMARK bytes. */
enum { GATE_REMARK = 320 };
const char *gate_remark(char *out, const struct gate_verdict *verdict, double confidence);

#endif
