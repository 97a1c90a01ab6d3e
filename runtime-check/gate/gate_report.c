/* See gate_report.h. */
#include "runtime-check/gate/gate_report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/number.h"
#include "base/utf8.h"
#include "runtime-check/page/markup.h"

const char *gate_remark(char *out, const struct gate_verdict *verdict, double confidence)
{
    char share[GATE_TEXT];
    if (verdict->passed || !verdict->within) return NULL;
    snprintf(out, GATE_REMARK,
        "%s: the estimate is within the limit, its %s bound is not: more text would narrow it",
        verdict->check->word, gate_show_confidence(share, confidence));
    return out;
}

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* ---- XML ---- */

/* Characters that XML 1.0 has no way to write (production 2, Char) or discourages; 0 stands for what is no UTF-8. */
static bool is_no_xml(uint32_t point)
{
    if (point == '\t' || point == '\n' || point == '\r') return false;
    return point < 0x20 || (point >= 0x7F && point < 0xA0) || point == 0xFFFE || point == 0xFFFF;
}

/* White space is written by its number: a reader would turn it into blanks inside an attribute. */
static void add_xml(struct markup *text, const char *bytes)
{
    for (uint64_t left = strlen(bytes); left > 0;) {
        const unsigned length = utf8_sequence(bytes, left);
        const uint32_t point = length ? utf8_code_point(bytes, length) : 0;
        if (is_no_xml(point))
            markup_add(text, REPLACEMENT, strlen(REPLACEMENT));
        else if (point < 0x20 || (point < 0x80 && strchr("<>&\"'", (int)point)))
            markup_format(text, "&#%" PRIu32 ";", point);
        else
            markup_add(text, bytes, length);
        bytes += length ? length : 1;
        left -= length ? length : 1;
    }
}

/* ' name="value"' */
static void add_attribute(struct markup *text, const char *name, const char *value)
{
    markup_format(text, " %s=\"", name);
    add_xml(text, value);
    markup_format(text, "\"");
}

static void add_property(struct markup *text, const char *name, const char *value)
{
    if (!value) return;
    markup_format(text, "      <property");
    add_attribute(text, "name", name);
    add_attribute(text, "value", value);
    markup_format(text, "/>\n");
}

static void add_properties(struct markup *text, const struct gate_report *report)
{
    const struct gate_subject *subject = report->subject;
    char number[GATE_TEXT];
    markup_format(text, "    <properties>\n");
    add_property(text, "tool", "nibble-check gate " NIBBLE_VERSION);
    add_property(text, "model", subject->model);
    if (subject->base_option) add_property(text, subject->base_option, subject->base);
    add_property(text, "text", subject->text);
    if (report->result) {
        add_property(text, "protocol", subject->protocol);
        snprintf(number, sizeof number, "%" PRIu64, subject->measured->context);
        add_property(text, "context", number);
        snprintf(number, sizeof number, "%" PRIu64, subject->measured->windows);
        add_property(text, "windows", number);
        snprintf(number, sizeof number, "%" PRIu64, subject->measured->tokens_scored);
        add_property(text, "tokens_scored", number);
        add_property(text, "confidence", gate_show_confidence(number, report->result->confidence));
        if (subject->base) add_property(text, "errors", subject->unpaired ? "unpaired" : "paired");
    }
    markup_format(text, "    </properties>\n");
}

/* One line with the numbers of a check. */
static void describe(char *out, size_t room, const struct gate_verdict *verdict, double confidence)
{
    char value[GATE_TEXT], error[GATE_TEXT], bound[GATE_TEXT], limit[GATE_TEXT], share[GATE_TEXT];
    const struct gate_check *check = verdict->check;
    snprintf(out, room, "%s %s +- %s, bound at %s %s, limit %s", check->what,
        gate_show(value, check, verdict->value), gate_show(error, check, verdict->error),
        gate_show_confidence(share, confidence), gate_show(bound, check, verdict->bound),
        gate_show_limit(limit, verdict));
}

static void open_case(struct markup *text, const struct gate_report *report, const char *name)
{
    markup_format(text, "    <testcase");
    add_attribute(text, "classname", report->subject->model);
    add_attribute(text, "name", name);
    markup_format(text, " time=\"0\">\n");
}

/* All digits; what is not finite by its C name. */
static void add_number(struct markup *text, const char *name, double value)
{
    char digits[32];
    if (isfinite(value))
        markup_format(text, "%s %s\n", name, number_write(digits, value));
    else
        markup_format(text, "%s %f\n", name, value);
}

static void add_case(
    struct markup *text, const struct gate_report *report, const struct gate_verdict *verdict)
{
    char numbers[6 * GATE_TEXT], remark[GATE_REMARK];
    describe(numbers, sizeof numbers, verdict, report->result->confidence);
    open_case(text, report, verdict->check->word);
    if (!verdict->passed) {
        markup_format(text, "      <failure type=\"limit\"");
        add_attribute(text, "message", numbers);
        markup_format(text, ">");
        add_xml(text, gate_remark(remark, verdict, report->result->confidence) ? remark : numbers);
        markup_format(text, "</failure>\n");
    }
    markup_format(text, "      <system-out>%s\n", numbers);
    add_number(text, "value", verdict->value);
    add_number(text, "standard error", verdict->error);
    add_number(text, "bound", verdict->bound);
    add_number(text, "limit", verdict->limit);
    markup_format(text, "</system-out>\n    </testcase>\n");
}

static void add_error_case(struct markup *text, const struct gate_report *report)
{
    open_case(text, report, "measurement");
    markup_format(text, "      <error type=\"exit code %d\"", exit_code(report->failure->code));
    add_attribute(text, "message", report->failure->text);
    markup_format(text, "/>\n    </testcase>\n");
}

static void add_suite(struct markup *text, const struct gate_report *report)
{
    const struct gate_result *result = report->result;
    char counts[160];
    snprintf(counts, sizeof counts,
        "tests=\"%" PRIu64 "\" failures=\"%" PRIu64 "\" errors=\"%d\" time=\"%.3f\"",
        result ? result->count : 1, result ? result->failed : 0, !result, report->subject->seconds);
    markup_format(text,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"nibble-check gate\" %s>\n", counts);
    markup_format(text, "  <testsuite");
    add_attribute(text, "name", report->subject->model);
    markup_format(text, " skipped=\"0\" %s>\n", counts);
    add_properties(text, report);
    for (uint64_t i = 0; result && i < result->count; i++)
        add_case(text, report, &result->verdicts[i]);
    if (!result) add_error_case(text, report);
    markup_format(text, "  </testsuite>\n</testsuites>\n");
}

enum status gate_report_junit(const char *path, const struct gate_report *report, struct error *err)
{
    struct markup text = {0};
    add_suite(&text, report);
    enum status status = markup_save(&text, path, true, err);
    markup_free(&text);
    return status;
}

/* ---- Markdown ---- */

/* What Markdown or HTML would take for markup is escaped; a line break would end the table's row. */
static void add_markdown(struct markup *text, const char *bytes)
{
    for (uint64_t left = strlen(bytes); left > 0;) {
        const unsigned length = utf8_sequence(bytes, left);
        if (length == 1 && strchr("\\`*_{}[]<>&#|~", *bytes)) markup_format(text, "\\");
        if (length == 1 && ((unsigned char)*bytes < 0x20 || *bytes == 0x7F))
            markup_format(text, " ");
        else
            markup_add(text, length ? bytes : REPLACEMENT, length ? length : strlen(REPLACEMENT));
        bytes += length ? length : 1;
        left -= length ? length : 1;
    }
}

static void add_row(struct markup *text, const struct gate_verdict *verdict)
{
    const struct gate_check *check = verdict->check;
    char value[GATE_TEXT], error[GATE_TEXT], bound[GATE_TEXT], limit[GATE_TEXT];
    markup_format(text, "| %s | %s | %s | %s | %s | %s |\n", check->what, gate_show_limit(limit, verdict),
        gate_show(value, check, verdict->value), gate_show(error, check, verdict->error),
        gate_show(bound, check, verdict->bound), verdict->passed ? "pass" : "**FAIL**");
}

static void add_table(struct markup *text, const struct gate_report *report)
{
    const struct gate_result *result = report->result;
    const struct gate_subject *subject = report->subject;
    char share[GATE_TEXT], remark[GATE_REMARK];
    markup_format(text, "| check | limit | measured | standard error | bound at %s | verdict |\n",
        gate_show_confidence(share, result->confidence));
    markup_format(text, "| --- | ---: | ---: | ---: | ---: | --- |\n");
    for (uint64_t i = 0; i < result->count; i++)
        add_row(text, &result->verdicts[i]);
    for (uint64_t i = 0; i < result->count; i++) {
        if (gate_remark(remark, &result->verdicts[i], result->confidence))
            markup_format(text, "\n%s.\n", remark);
    }
    markup_format(text, "\n");
    if (subject->base) {
        markup_format(text, "Against ");
        add_markdown(text, subject->base);
        markup_format(text, ", ");
    }
    markup_format(text,
        "%" PRIu64 " tokens scored in %" PRIu64 " windows (%s protocol, context %" PRIu64 ").\n\n",
        subject->measured->tokens_scored, subject->measured->windows, subject->protocol,
        subject->measured->context);
}

static void add_summary(struct markup *text, const struct gate_report *report)
{
    const struct gate_result *result = report->result;
    markup_format(text, "### nibble-check gate: ");
    add_markdown(text, report->subject->model);
    markup_format(text, ": %s\n\n", !result ? "error" : result->failed ? "FAIL" : "pass");
    if (result) {
        add_table(text, report);
        return;
    }
    add_markdown(text, report->failure->text);
    markup_format(text, "\n\n");
}

/* Add to the end of an open file, or leave it as it was. */
static enum status append_to(int file, const char *path, const struct markup *text, struct error *err)
{
    struct stat before;
    const bool regular = fstat(file, &before) == 0 && S_ISREG(before.st_mode);
    for (uint64_t done = 0; done < text->count;) {
        const ssize_t count = write(file, text->bytes + done, text->count - done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            const int reason = errno;
            if (regular && ftruncate(file, before.st_size) != 0)
                return fail_errno(err, reason, "%s: only a part was appended", path);
            return fail_errno(err, reason, "%s: cannot be appended to", path);
        }
        done += (uint64_t)count;
    }
    return OK;
}

static enum status append(const char *path, const struct markup *text, struct error *err)
{
    const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
    if (file < 0) return fail_errno(err, errno, "%s: cannot be appended to", path);
    enum status status = append_to(file, path, text, err);
    if (close(file) != 0 && !status) status = fail_errno(err, errno, "%s: cannot be appended to", path);
    return status;
}

enum status gate_report_summary(const char *path, const struct gate_report *report, struct error *err)
{
    struct markup text = {0};
    add_summary(&text, report);
    enum status status =
        text.failed ? fail(err, ERR_MEMORY, "no memory for the summary") : append(path, &text, err);
    markup_free(&text);
    return status;
}
