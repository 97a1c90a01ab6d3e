/* The accuracy gate: limits as text, bounds against formulas written out here, the borderline where the value is within the limit
 * and its bound is not, earlier results as a base and everything that must be refused of them, and the JUnit report read
 * by an independent parser (tests/junit_reader.py, where Python is installed). Whole runs on a real model are command-line
 * cases (tests/cli/check/gate-*.case). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/gate/gate.h"
#include "runtime-check/gate/gate_baseline.h"
#include "runtime-check/gate/gate_report.h"
#include "tests/support/testing.h"

enum { INCREASE, PERPLEXITY, KLD, KLD_P99, TOP };

#define NEAR(found, expected) CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-12 * (1 + fabs(expected)))

/* ---- limits ---- */

static void limits_as_text(void)
{
    static const struct {
        int check;
        const char *text;
        double value;
    } good[] = {{INCREASE, "2%", 0.02}, {INCREASE, "0.02", 0.02}, {INCREASE, "0%", 0},
        {INCREASE, "250%", 2.5}, {INCREASE, "0.5%", 0.005}, {PERPLEXITY, "30", 30}, {KLD, "0.02", 0.02},
        {KLD, "1e-3", 0.001}, {KLD_P99, "5", 5}, {TOP, "95%", 0.95}, {TOP, "0.95", 0.95},
        {TOP, "99.9%", 0.999}};
    static const struct {
        int check;
        const char *text, *says;
    } bad[] = {{INCREASE, "2", "2 would be 200 %; write 2% for percent"}, {INCREASE, "", "is not a share"},
        {INCREASE, "%", "is not a share"}, {INCREASE, "2 %", "is not a share"},
        {INCREASE, "2%%", "is not a share"}, {INCREASE, "-1%", "between 0% and 100000%"},
        {INCREASE, "nan%", "is not a share"}, {INCREASE, "1e999%", "is not between"},
        {TOP, "95", "95 would be 9500 %"}, {TOP, "100%", "is not between 0% and 99.999%"},
        {KLD, "2%", "is not a number"}, {KLD, "-0.1", "between 0 and 1000"}, {KLD, "inf", "is not a number"},
        {PERPLEXITY, "0.5", "between 1 and 1000000000"}, {PERPLEXITY, "", "is not a number"}};
    struct error err;
    double value;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(!gate_read_limit(&value, &gate_checks[good[i].check], good[i].text, &err), &err);
        CU_ASSERT_DOUBLE_EQUAL(value, good[i].value, 1e-15);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CU_ASSERT_EQUAL(gate_read_limit(&value, &gate_checks[bad[i].check], bad[i].text, &err), ERR_USAGE);
        CHECK(strstr(err.text, bad[i].says) != NULL, &err);
        CHECK(strstr(err.text, gate_checks[bad[i].check].word) != NULL, &err);
    }
    CU_ASSERT_EQUAL(gate_read_share(&value, "confidence", "40%", 0.5, 0.9999, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(gate_read_share(&value, "confidence", "95", 0.5, 0.9999, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(gate_read_share(&value, "confidence", "99%", 0.5, 0.9999, &err), OK);
}

/* Which limit can be held against what: rows are checks, columns the kinds of base. */
static void what_a_base_allows(void)
{
    static const bool allowed[GATE_CHECKS][4] = {
        {false, true, true, true},   /* increase */
        {true, true, true, true},    /* perplexity */
        {false, false, false, true}, /* divergence: by the likeliest tokens only a lower bound */
        {false, false, false, true}, /* its percentile */
        {false, false, true, true},  /* same top */
    };
    struct error err;
    for (int check = 0; check < GATE_CHECKS; check++) {
        for (int base = GATE_BASE_NONE; base <= GATE_BASE_WHOLE; base++) {
            struct gate_limits limits = {0};
            limits.given[check] = true;
            const enum status status = gate_possible(&limits, (enum gate_base)base, "file.json", &err);
            CU_ASSERT_EQUAL(status, allowed[check][base] ? OK : ERR_USAGE);
            if (!status) continue;
            CHECK(strstr(err.text, gate_checks[check].word) != NULL, &err);
            if (base == GATE_BASE_RESULT) CHECK(strstr(err.text, "use --base-logits") != NULL, &err);
            if (base == GATE_BASE_TOP) CHECK(strstr(err.text, "lower bounds") != NULL, &err);
        }
    }
    const struct gate_limits none = {0};
    CU_ASSERT_EQUAL(gate_possible(&none, GATE_BASE_WHOLE, "base", &err), ERR_USAGE);
    CHECK(strstr(err.text, "no limit is given") != NULL, &err);
}

/* ---- decisions ---- */

static const struct comparison measured = {
    .tokens_scored = 16 * 255,
    .windows = 16,
    .context = 256,
    .by_block = true,
    .perplexity = {29.4, 0.7},
    .log_ratio = {0.015, 0.003},
    .kld = {0.018, 0.001},
    .kld_p99 = {0.2, 0.03},
    .same_top = {0.93, 0.004},
    .same_top_effective = 2000,
};

static struct gate_limits one_limit(int check, double limit)
{
    struct gate_limits limits = {.confidence = 0.95};
    limits.given[check] = true;
    limits.limit[check] = limit;
    return limits;
}

static struct gate_verdict decide(int check, double limit)
{
    struct gate_result result;
    struct error err;
    const struct gate_limits limits = one_limit(check, limit);
    CHECK(!gate_decide(&result, &limits, &measured, &err), &err);
    CU_ASSERT_EQUAL(result.count, 1);
    CU_ASSERT_EQUAL(result.failed, !result.verdicts->passed);
    CU_ASSERT_PTR_EQUAL(result.verdicts->check, &gate_checks[check]);
    return *result.verdicts;
}

/* Student's t, 15 degrees of freedom: 95 % at 1.75305 (tables). */
static void bounds_by_hand(void)
{
    const double t = 1.75305, n = 2000, p = 0.93;
    const double wilson =
        (p + t * t / (2 * n) - t * sqrt(p * (1 - p) / n + t * t / (4 * n * n))) / (1 + t * t / n);
    const struct {
        int check;
        double value, error, bound;
    } rows[] = {
        {INCREASE, exp(0.015) - 1, exp(0.015) * 0.003, exp(0.015 + t * 0.003) - 1},
        {PERPLEXITY, 29.4, 0.7, exp(log(29.4) + t * 0.7 / 29.4)},
        {KLD, 0.018, 0.001, 0.018 + t * 0.001},
        {KLD_P99, 0.2, 0.03, 0.2 + t * 0.03},
        {TOP, 0.93, 0.004, wilson},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct gate_verdict verdict = decide(rows[i].check, 0.9);
        NEAR(verdict.value, rows[i].value);
        NEAR(verdict.error, rows[i].error);
        CU_ASSERT_DOUBLE_EQUAL(verdict.bound, rows[i].bound, 1e-4 * fabs(rows[i].bound));
    }
}

/* Between value and bound the value passes and the check does not, and says so; on either side there is nothing to say. */
static void borderline(void)
{
    for (int check = 0; check < GATE_CHECKS; check++) {
        const struct gate_verdict at = decide(check, gate_checks[check].least ? 0.5 : 100);
        const double step = at.bound - at.value; /* towards the limit */
        char remark[GATE_REMARK];
        CU_ASSERT(at.passed && at.within && step != 0);
        CU_ASSERT((step < 0) == gate_checks[check].least);
        CU_ASSERT_PTR_NULL(gate_remark(remark, &at, 0.95));
        const struct gate_verdict between = decide(check, at.value + step / 2);
        CU_ASSERT(between.within && !between.passed);
        CU_ASSERT_PTR_NOT_NULL(gate_remark(remark, &between, 0.95));
        CU_ASSERT_PTR_NOT_NULL(strstr(
            remark, "the estimate is within the limit, its 95 % bound is not: more text would narrow"));
        const struct gate_verdict beyond = decide(check, at.value - step / 2);
        CU_ASSERT(!beyond.within && !beyond.passed);
        CU_ASSERT_PTR_NULL(gate_remark(remark, &beyond, 0.95));
        CU_ASSERT(decide(check, at.bound + step * 1e-9).passed);
        CU_ASSERT_FALSE(decide(check, at.bound - step * 1e-9).passed);
    }
}

/* More confidence asks for a wider bound; a gate passes only if every check does. */
static void confidence_and_count(void)
{
    struct gate_limits limits = {.confidence = 0.95, .limit = {0.021, 32, 0.02, 0.3, 0.91}};
    struct gate_result result;
    struct error err;
    for (int check = 0; check < GATE_CHECKS; check++)
        limits.given[check] = true;
    CHECK(!gate_decide(&result, &limits, &measured, &err), &err);
    CU_ASSERT(result.count == 5 && result.failed == 0);
    const double first = result.verdicts[KLD].bound;
    limits.confidence = 0.99;
    CHECK(!gate_decide(&result, &limits, &measured, &err), &err);
    CU_ASSERT(result.verdicts[KLD].bound > first);
    CU_ASSERT(result.count == 5 && result.failed == 2);
    CU_ASSERT(!result.verdicts[INCREASE].passed && !result.verdicts[KLD].passed);
}

static void too_little_and_not_a_number(void)
{
    struct gate_result result;
    struct error err;
    struct comparison few = measured;
    struct gate_limits limits = one_limit(KLD, 1);
    few.windows = 7;
    CU_ASSERT_EQUAL(gate_decide(&result, &limits, &few, &err), ERR_USAGE);
    CHECK(strstr(err.text, "7 windows of 256 tokens, and a bound needs at least 8") != NULL, &err);
    few.windows = 8;
    CU_ASSERT_EQUAL(gate_decide(&result, &limits, &few, &err), OK);
    CU_ASSERT_EQUAL(result.failed, 0);
    few.kld.error = NAN;
    CU_ASSERT_EQUAL(gate_decide(&result, &limits, &few, &err), OK);
    CU_ASSERT_EQUAL(result.failed, 1);
    limits = one_limit(TOP, 0.5);
    few.same_top.value = NAN;
    CU_ASSERT_EQUAL(gate_decide(&result, &limits, &few, &err), OK);
    CU_ASSERT_EQUAL(result.failed, 1);
}

/* ---- earlier results ---- */

enum { WINDOWS = 8, CONTEXT = 64 };
static const double old_nll[WINDOWS] = {3.5, 2.25, 3.0, 4.5, 2.0, 3.75, 3.25, 2.75};        /* mean 3.125 */
static const double changes[WINDOWS] = {0.01, 0.02, 0.015, 0.01, 0.0, 0.025, 0.015, 0.025}; /* mean 0.015 */

/* The file as it should be, with one line (key) replaced, or left out if `line` is "". */
static const char *baseline_file(const char *key, const char *line)
{
    static char text[2048];
    static const char *const lines[] = {"\"protocol\": \"gptq\"", "\"context\": 64", "\"windows\": 8",
        "\"tokens\": 530", "\"text_crc32\": \"00c0ffee\"", "\"perplexity\": 22.75989509352673",
        "\"perplexity_error\": 6.5", "\"mean_nll\": 3.125",
        "\"window_nll\": [3.5, 2.25, 3.0, 4.5, 2.0, 3.75, 3.25, 2.75]"};
    size_t used = (size_t)snprintf(text, sizeof text, "{\"tool\": \"nibble-check perplexity\"");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const bool this_one =
            key && strncmp(lines[i] + 1, key, strlen(key)) == 0 && lines[i][strlen(key) + 1] == '"';
        const char *shown = this_one ? line : lines[i];
        if (*shown) used += (size_t)snprintf(text + used, sizeof text - used, ",\n%s", shown);
    }
    snprintf(text + used, sizeof text - used, "}\n");
    return text;
}

static enum status parse(struct gate_baseline *out, const char *text, struct error *err)
{
    return gate_baseline_parse(out, "old.json", text, strlen(text), err);
}

static struct perplexity_result new_result(double *window_nll)
{
    struct clustered nll = {0};
    for (int i = 0; i < WINDOWS; i++) {
        window_nll[i] = old_nll[i] + changes[i];
        clustered_add(&nll, 1, window_nll[i]);
    }
    const struct estimate mean = clustered_estimate(&nll);
    return (struct perplexity_result){.perplexity = {exp(mean.value), exp(mean.value) * mean.error},
        .mean_nll = mean.value,
        .window_nll = window_nll,
        .windows = WINDOWS,
        .context = CONTEXT};
}

/* Pairing changes the error, not the value: the windows differ far more from one another than the models do. */
static void paired_and_not(void)
{
    struct gate_baseline paired, alone;
    struct error err;
    double window_nll[WINDOWS];
    const struct perplexity_result now = new_result(window_nll);
    struct moments differences = {0};
    bool pairs;
    for (int i = 0; i < WINDOWS; i++)
        moments_add(&differences, changes[i]);
    CHECK(!parse(&paired, baseline_file(NULL, NULL), &err), &err);
    const struct estimate with = gate_baseline_ratio(&paired, &now, &pairs);
    CU_ASSERT(pairs);
    CU_ASSERT_DOUBLE_EQUAL(with.value, 0.015, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(with.error, moments_estimate(&differences).error, 1e-12);
    CHECK(!parse(&alone, baseline_file("window_nll", ""), &err), &err);
    const struct estimate without = gate_baseline_ratio(&alone, &now, &pairs);
    CU_ASSERT_FALSE(pairs);
    CU_ASSERT_DOUBLE_EQUAL(without.value, with.value, 1e-12);
    CU_ASSERT(without.error > 50 * with.error);
    const double mine = now.perplexity.error / now.perplexity.value;
    CU_ASSERT_DOUBLE_EQUAL(without.error, mine * sqrt(2), 1e-12); /* the stated error, 0.2856, is smaller */
    alone.perplexity.error = 2 * mine * alone.perplexity.value;
    CU_ASSERT_DOUBLE_EQUAL(gate_baseline_ratio(&alone, &now, &pairs).error, mine * sqrt(5), 1e-12);
    gate_baseline_free(&paired);
    gate_baseline_free(&alone);
}

static void every_mismatch(void)
{
    const struct gate_text same = {PERPLEXITY_GPTQ, CONTEXT, WINDOWS, 530, 0x00c0ffee};
    struct gate_text others[5] = {same, same, same, same, same};
    static const char *const says[] = {"under --protocol gptq, this run is under llama.cpp",
        "--context 64, this run has 32", "--windows 8, this run has 7",
        "tokens: 530, this run has 531: another tokenizer",
        "its CRC-32 is 00c0ffee, that of --text 00c0ffef"};
    struct gate_baseline baseline;
    struct error err;
    others[0].protocol = PERPLEXITY_LLAMA_CPP;
    others[1].context = 32;
    others[2].windows = 7;
    others[3].tokens = 531;
    others[4].crc32 = 0x00c0ffef;
    CHECK(!parse(&baseline, baseline_file(NULL, NULL), &err), &err);
    CU_ASSERT_EQUAL(gate_baseline_matches(&baseline, "old.json", &same, &err), OK);
    for (int i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(gate_baseline_matches(&baseline, "old.json", &others[i], &err), ERR_USAGE);
        CHECK(strstr(err.text, says[i]) != NULL, &err);
        CHECK(strstr(err.text, "old.json") == err.text, &err);
    }
    baseline.text.tokens = 0; /* a gate against stored predictions does not know it */
    CU_ASSERT_EQUAL(gate_baseline_matches(&baseline, "old.json", &others[3], &err), OK);
    gate_baseline_free(&baseline);
}

struct hostile {
    const char *key, *line, *says;
};

static void check_hostile(const struct hostile *row)
{
    struct gate_baseline baseline;
    struct error err = {0};
    CU_ASSERT_EQUAL(parse(&baseline, baseline_file(row->key, row->line), &err), ERR_FORMAT);
    CHECK(strstr(err.text, row->says) != NULL, &err);
    CHECK(strstr(err.text, "old.json") != NULL, &err);
    gate_baseline_free(&baseline);
}

static void hostile_results(void)
{
    static const struct hostile rows[] = {
        {"protocol", "", "no \"protocol\""},
        {"protocol", "\"protocol\": null", "no \"protocol\""},
        {"protocol", "\"protocol\": \"other\"", "neither \"gptq\" nor"},
        {"protocol", "\"protocol\": 1", "neither"},
        {"context", "\"context\": 3", "context"},
        {"context", "\"context\": -64", "context"},
        {"context", "\"context\": 1e300", "context"},
        {"windows", "\"windows\": 0", "windows"},
        {"windows", "\"windows\": 18446744073709551615", "windows"},
        {"windows", "\"windows\": 9", "530 tokens do not make 9 windows of 64"},
        {"windows", "\"windows\": 7", "has 8 values for 7 windows"},
        {"tokens", "\"tokens\": 0", "tokens"},
        {"tokens", "\"tokens\": 100", "do not make"},
        {"text_crc32", "", "no \"text_crc32\""},
        {"text_crc32", "\"text_crc32\": \"c0ffee\"", "8 hexadecimal digits"},
        {"text_crc32", "\"text_crc32\": \"00c0ffee0\"", "8 hexadecimal digits"},
        {"text_crc32", "\"text_crc32\": \"00c0ffeg\"", "8 hexadecimal digits"},
        {"text_crc32", "\"text_crc32\": 12648430", "text_crc32"},
        {"perplexity", "\"perplexity\": 22.7", "is not exp of"},
        {"perplexity", "\"perplexity\": 0", "is not exp of"},
        {"perplexity", "\"perplexity\": \"22\"", "perplexity"},
        {"perplexity_error", "", "no \"perplexity_error\""},
        {"perplexity_error", "\"perplexity_error\": -1", "perplexity_error"},
        {"mean_nll", "\"mean_nll\": 1e5", "mean_nll"},
        {"mean_nll", "\"mean_nll\": 1e999", "old.json"},
        {"window_nll", "\"window_nll\": 3", "is no array"},
        {"window_nll", "\"window_nll\": []", "has 0 values"},
        {"window_nll", "\"window_nll\": [1, 2]", "has 2 values for 8"},
        {"window_nll", "\"window_nll\": [3.5, 2.25, 3.0, 4.5, 2.0, 3.75, 3.25, null]", "[7] is not a number"},
        {"window_nll", "\"window_nll\": [-3.5, 2.25, 3.0, 4.5, 2.0, 3.75, 3.25, 9.75]",
            "[0] is not a number"},
        {"window_nll", "\"window_nll\": [3.5, 2.25, 3.0, 4.5, 2.0, 3.75, 3.25, 2.76]",
            "the mean of \"window_nll\""},
        {"mean_nll", "\"mean_nll\": 3.125, \"windows\": 8", "windows"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_hostile(&rows[i]);
}

/* A file cut short anywhere, one that is no object, and one that is not there. */
static void damaged_results(void)
{
    struct gate_baseline baseline;
    struct error err;
    const char *whole = baseline_file(NULL, NULL);
    for (uint64_t count = 0; count + 2 < strlen(whole); count++) {
        CU_ASSERT_EQUAL(gate_baseline_parse(&baseline, "old.json", whole, count, &err), ERR_FORMAT);
        gate_baseline_free(&baseline);
    }
    CU_ASSERT_EQUAL(parse(&baseline, "[1, 2]", &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(parse(&baseline, "{}", &err), ERR_FORMAT);
    CHECK(strstr(err.text, "a baseline is the output of nibble-check perplexity --json") != NULL, &err);
    CU_ASSERT_EQUAL(gate_baseline_read(&baseline, testing_path("absent.json"), &err), ERR_IO);
    testing_write(testing_path("old.json"), whole, strlen(whole));
    CU_ASSERT_EQUAL(gate_baseline_read(&baseline, testing_path("old.json"), &err), OK);
    CU_ASSERT_EQUAL(baseline.text.windows, WINDOWS);
    CU_ASSERT(memcmp(baseline.window_nll, old_nll, sizeof old_nll) == 0);
    gate_baseline_free(&baseline);
}

/* Every allocation may fail. */
static void results_without_memory(void)
{
    const char *whole = baseline_file(NULL, NULL);
    for (uint64_t nth = 1; nth < 1000; nth++) {
        struct gate_baseline baseline;
        struct error err;
        memory_fail_at(nth, 0);
        const enum status status = parse(&baseline, whole, &err);
        const bool failed = memory_failures() > 0;
        memory_fail_at(0, 0);
        gate_baseline_free(&baseline);
        if (!failed) {
            CU_ASSERT(status == OK && nth > 1);
            return;
        }
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
    }
    CU_FAIL("allocations do not end");
}

/* ---- reports ---- */

static const char hostile_name[] =
    "a<b>&\"c'\x01\x1b[31m\n\t\xff\xc3\xa4\xed\xa0\x80\xef\xbf\xbe]]>\xc4\xa6.nbl";

static struct gate_report failing_report(struct gate_subject *subject, struct gate_result *result)
{
    struct error err;
    struct gate_limits limits = {.confidence = 0.95, .limit = {0.016, 32, 0.02, 0.1, 0.91}};
    for (int check = 0; check < GATE_CHECKS; check++)
        limits.given[check] = true;
    CHECK(!gate_decide(result, &limits, &measured, &err), &err);
    CU_ASSERT_EQUAL(result->failed, 2);
    *subject = (struct gate_subject){.model = hostile_name,
        .base_option = "base",
        .base = hostile_name,
        .text = "eval.txt",
        .protocol = "gptq",
        .measured = &measured,
        .seconds = 1.5};
    return (struct gate_report){subject, result, NULL};
}

static bool have_python(void)
{
    static int known = -1;
    if (known < 0) known = system("python3 -c '' >/dev/null 2>&1") == 0;
    if (!known) printf("python3 is not installed: the independent parser was not run ");
    return known;
}

/* What the independent parser prints about a report, in `output`; false if it refuses it. */
static bool junit_reader(char *output, size_t room, const char *path)
{
    char command[1024];
    snprintf(command, sizeof command, "python3 '%s' '%s' 2>&1", testing_source("junit_reader.py"), path);
    FILE *pipe = popen(command, "r");
    REQUIRE(pipe != NULL, NULL);
    output[fread(output, 1, room - 1, pipe)] = 0;
    return pclose(pipe) == 0;
}

/* As Python prints it in ASCII: every byte that is no text became U+FFFD, everything else came through. */
#define SHOWN_NAME                                                                                           \
    "'a<b>&\"c\\'\\ufffd\\ufffd[31m\\n\\t\\ufffd\\xe4\\ufffd\\ufffd\\ufffd\\ufffd]]>\\u0126.nbl'"

static void junit_of_a_failure(void)
{
    static char output[16384];
    struct gate_subject subject;
    struct gate_result result;
    struct error err;
    const struct gate_report report = failing_report(&subject, &result);
    const char *path = testing_path("gate.xml");
    testing_write(path, "old", 3);
    CHECK(!gate_report_junit(path, &report, &err), &err);
    if (!have_python()) return;
    const bool read = junit_reader(output, sizeof output, path);
    if (!read) printf("%s", output);
    CU_ASSERT(read);
    static const char *const expected[] = {"suite " SHOWN_NAME "\n", "property base " SHOWN_NAME "\n",
        "case " SHOWN_NAME
        " max-ppl-increase\nfailure 'perplexity increase 1.511 % +- 0.305 %, bound at 95 % 2.0",
        "%, limit at most 1.6 %' 'max-ppl-increase: the estimate is within the limit, its 95 % bound is not",
        " max-kld-p99\nfailure '99th percentile of KL divergence 0.200000 +- 0.030000, bound at 95 % 0.25",
        " max-kld\ncase ", "property windows '16'\n", "property confidence '95 %'\n"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (!strstr(output, expected[i])) printf("not found: %s\nin:\n%s", expected[i], output);
        CU_ASSERT_PTR_NOT_NULL(strstr(output, expected[i]));
    }
}

static void junit_of_an_error(void)
{
    static char output[4096];
    const struct gate_subject subject = {.model = "small.nbl"};
    struct error failure, err;
    fail(&failure, ERR_FORMAT, "small.nbl: ends at byte 5 & <more>");
    const struct gate_report report = {&subject, NULL, &failure};
    CHECK(!gate_report_junit(testing_path("error.xml"), &report, &err), &err);
    if (!have_python()) return;
    CU_ASSERT(junit_reader(output, sizeof output, testing_path("error.xml")));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(output, "case 'small.nbl' measurement\nerror 'small.nbl: ends at byte 5 & <more>' ''\n"));
    CU_ASSERT_EQUAL(gate_report_junit(testing_path("absent/error.xml"), &report, &err), ERR_IO);
}

/* Appended, on lines of its own, with nothing in a name that would end a row or become markup. */
static void summary_is_appended(void)
{
    struct gate_subject subject;
    struct gate_result result;
    struct error err;
    const struct gate_report report = failing_report(&subject, &result);
    const char *path = testing_path("summary.md");
    const char *start = "before\n### nibble-check gate: a\\<b\\>\\&\"c'  \\[31m  \xef\xbf\xbd";
    uint64_t bytes;
    testing_write(path, "before\n", 7);
    CHECK(!gate_report_summary(path, &report, &err), &err);
    char *text = testing_read(path, &bytes);
    CU_ASSERT(strncmp(text, start, strlen(start)) == 0);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(text, "| mean KL divergence | at most 0.02 | 0.018000 | 0.001000 | 0.019753 | pass |\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "| 2.047 % | **FAIL** |\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "\nmax-ppl-increase: the estimate is within the limit"));
    memory_free(text);
    CU_ASSERT_EQUAL(gate_report_summary(testing_path("absent/summary.md"), &report, &err), ERR_IO);
    CU_ASSERT_EQUAL(gate_report_summary("/dev/full", &report, &err), ERR_IO);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"limits as text", limits_as_text},
        {"what a base allows", what_a_base_allows},
        {"bounds by hand", bounds_by_hand},
        {"borderline", borderline},
        {"confidence and count", confidence_and_count},
        {"too little text, not a number", too_little_and_not_a_number},
        {"paired and not", paired_and_not},
        {"every mismatch", every_mismatch},
        {"hostile results", hostile_results},
        {"damaged results", damaged_results},
        {"results without memory", results_without_memory},
        {"JUnit of a failure", junit_of_a_failure},
        {"JUnit of an error", junit_of_an_error},
        {"the summary is appended", summary_is_appended},
    };
    return TESTING_RUN("gate", cases);
}
