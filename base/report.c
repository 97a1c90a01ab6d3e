/* What people read: notes and progress on standard error, tables on standard output. */
#include "base/report.h"

#include <inttypes.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/utf8.h"

/* ---- numbers in words ---- */

double report_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Three digits, as "1.23", "12.3" or "123". `value` is below 999.5. */
static int decimals(double value)
{
    return value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
}

char *report_bytes(char *out, uint64_t bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    size_t unit = 0;

    if (bytes < 1000) {
        snprintf(out, 16, "%u B", (unsigned)bytes);
        return out;
    }
    for (; value >= 999.5; unit++)
        value /= 1000;
    snprintf(out, 16, "%.*f %s", decimals(value), value, units[unit]);
    return out;
}

char *report_duration(char *out, double seconds)
{
    if (!(seconds > 0)) seconds = 0; /* also for NaN */
    if (seconds > 1e9) seconds = 1e9;
    if (seconds < 0.9995) {
        snprintf(out, 24, "%.3f s", seconds);
    } else if (seconds < 59.95) {
        snprintf(out, 24, "%.*f s", decimals(seconds), seconds);
    } else if (seconds < 3599.5) {
        unsigned whole = (unsigned)(seconds + 0.5);
        snprintf(out, 24, "%u min %02u s", whole / 60, whole % 60);
    } else {
        unsigned minutes = (unsigned)(seconds / 60 + 0.5);
        snprintf(out, 24, "%u h %02u min", minutes / 60, minutes % 60);
    }
    return out;
}

/* ---- the screen ---- */

/* Standard error is one screen, whoever writes to it: a note must first clear the progress line under it. */
static pthread_mutex_t screen = PTHREAD_MUTEX_INITIALIZER;
static bool line_drawn; /* a progress line stands on the terminal */

static void clear_line(void)
{
    if (line_drawn) fputs("\r\033[K", stderr);
    line_drawn = false;
}

static void print_note(const char *format, va_list arguments)
{
    pthread_mutex_lock(&screen);
    clear_line();
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    pthread_mutex_unlock(&screen);
}

void report_note(const struct report *report, const char *format, ...)
{
    va_list arguments;

    if (!report || report->quiet) return;
    va_start(arguments, format);
    print_note(format, arguments);
    va_end(arguments);
}

void report_detail(const struct report *report, const char *format, ...)
{
    va_list arguments;

    if (!report || report->quiet || !report->verbose) return;
    va_start(arguments, format);
    print_note(format, arguments);
    va_end(arguments);
}

int report_failure(const char *tool, const struct error *err)
{
    if (err->code == OK) return exit_code(OK);
    fflush(stdout); /* results printed so far come first where both streams go to one place */
    pthread_mutex_lock(&screen);
    clear_line();
    fprintf(stderr, "%s: error: %s\n", tool, err->text);
    pthread_mutex_unlock(&screen);
    return exit_code(err->code);
}

enum status report_finish(struct error *err)
{
    bool lost = ferror(stdout); /* by an earlier call; its reason is gone */

    if (fflush(stdout) != 0) return fail_errno(err, errno, "standard output: cannot be written");
    return lost ? fail(err, ERR_IO, "standard output: not everything could be written") : OK;
}

/* ---- progress ---- */

static const double TERMINAL_PERIOD = 0.1, PLAIN_PERIOD = 10; /* seconds between two lines */

struct progress {
    char *label;
    uint64_t total;
    enum progress_unit unit;
    bool on_terminal;
    double start, period;
    _Atomic uint64_t amount;
    _Atomic double due; /* when the next line is to be printed; whoever moves it on prints it */
};

struct progress *progress_start(
    const struct report *report, const char *label, uint64_t total, enum progress_unit unit)
{
    struct progress *progress;

    if (!report || report->quiet) return NULL;
    progress = memory_new(1, sizeof *progress, NULL);
    if (!progress) return NULL;
    progress->label = memory_text(label, strlen(label), NULL);
    if (!progress->label) {
        memory_free(progress);
        return NULL;
    }
    progress->total = total;
    progress->unit = unit;
    progress->on_terminal = isatty(STDERR_FILENO);
    progress->period = progress->on_terminal ? TERMINAL_PERIOD : PLAIN_PERIOD;
    progress->start = report_seconds();
    atomic_init(&progress->due, progress->start + progress->period);
    return progress;
}

/* "1.2 GB/s", "345 tokens/s", "12.3 per s". */
static void print_rate(char *out, size_t bytes, enum progress_unit unit, double rate)
{
    char text[16];

    if (unit == PROGRESS_BYTES)
        snprintf(out, bytes, "%s/s", report_bytes(text, (uint64_t)rate));
    else
        snprintf(
            out, bytes, "%.*f %s", rate < 100 ? 1 : 0, rate, unit == PROGRESS_TOKENS ? "tokens/s" : "per s");
}

/* Like report_duration, but a guess needs no fractions: whole seconds below a minute. Returns out (24 bytes). */
static char *time_left(char *out, double seconds)
{
    double whole = round(seconds);

    if (!(whole < 60)) return report_duration(out, whole);
    snprintf(out, 24, "%.0f s", whole);
    return out;
}

/* "quantizing  43%  1.2 GB/s  5 s left"; without a known total the amount so far instead of percent and time
 * left. */
static void describe(
    char *out, size_t bytes, const struct progress *progress, uint64_t amount, double elapsed)
{
    double rate = elapsed > 0 ? (double)amount / elapsed : 0;
    char rate_text[40], left[24], amount_text[24];

    print_rate(rate_text, sizeof rate_text, progress->unit, rate);
    if (progress->total > 0) {
        double part = amount < progress->total ? (double)amount / (double)progress->total : 1;
        time_left(left, rate > 0 ? (double)progress->total * (1 - part) / rate : 0);
        snprintf(out, bytes, "%s  %d%%  %s%s%s%s", progress->label, (int)(part * 100), rate_text,
            amount > 0 ? "  " : "", amount > 0 ? left : "", amount > 0 ? " left" : "");
        return;
    }
    if (progress->unit == PROGRESS_BYTES)
        report_bytes(amount_text, amount);
    else
        snprintf(amount_text, sizeof amount_text, "%" PRIu64, amount);
    snprintf(out, bytes, "%s  %s  %s", progress->label, amount_text, rate_text);
}

/* Cut the line to the terminal's width, because a line that wraps cannot be redrawn. */
static void fit_terminal(char *line)
{
    struct winsize window;
    unsigned width = 0;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col < 2) return;
    for (; *line; line++) {
        bool begins_character = (*line & 0xC0) != 0x80;
        if (begins_character && width++ == window.ws_col - 1u) break;
    }
    *line = 0;
}

static void print_progress(const struct progress *progress, uint64_t amount, double elapsed)
{
    char line[256];

    describe(line, sizeof line, progress, amount, elapsed);
    pthread_mutex_lock(&screen);
    if (progress->on_terminal) {
        fit_terminal(line);
        fprintf(stderr, "\r%s\033[K", line);
        line_drawn = true;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    pthread_mutex_unlock(&screen);
}

void progress_add(struct progress *progress, uint64_t amount)
{
    double now, due;
    uint64_t sum;

    if (!progress) return;
    sum = atomic_fetch_add(&progress->amount, amount) + amount;
    now = report_seconds();
    due = atomic_load(&progress->due);
    if (now < due || !atomic_compare_exchange_strong(&progress->due, &due, now + progress->period)) return;
    print_progress(progress, sum, now - progress->start);
}

void progress_end(struct progress *progress)
{
    if (!progress) return;
    pthread_mutex_lock(&screen);
    clear_line();
    fflush(stderr);
    pthread_mutex_unlock(&screen);
    memory_free(progress->label);
    memory_free(progress);
}
