/* Command lines: one table decides what is accepted, what the errors say and what --help prints. */
#include "base/options.h"

#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

struct sample {
    struct common_options common;
    const char *input, *output;
    const char *method, *note;
    uint64_t group, any;
    double damp;
    bool force;
    struct option_list keep;
};

static const struct operand operands[] = {
    {"INPUT", offsetof(struct sample, input), "The checkpoint: a folder or a file."},
    {"OUTPUT", offsetof(struct sample, output), "The file to write."},
};

static const struct option options[] = {
    {"method", OPTION_CHOICE, offsetof(struct sample, method), 0, 0, "rtn|gptq|awq", NULL, "gptq",
        "How to round. The quick brown fox jumps over the lazy dog and over whatever else lies in its way to "
        "the end.",
        "Quantization"},
    {"group", OPTION_COUNT, offsetof(struct sample, group), 16, 4096, NULL, "N", "128",
        "Columns that share a scale.", NULL},
    {"damp", OPTION_NUMBER, offsetof(struct sample, damp), 0, 0.5, NULL, "X", "0.01", "Damping.", NULL},
    {"keep", OPTION_LIST, offsetof(struct sample, keep), 0, 0, NULL, "PATTERN", NULL,
        "Tensors to leave as they are.", NULL},
    {"note", OPTION_TEXT, offsetof(struct sample, note), 0, 0, NULL, NULL, NULL, "Text to store.", NULL},
    {"a-rather-long-option-name", OPTION_COUNT, offsetof(struct sample, any), 1, 1e19, NULL, "COUNT", NULL,
        "Any count.", NULL},
    {"force", OPTION_FLAG, offsetof(struct sample, force), 0, 0, NULL, NULL, NULL, "Replace the output.",
        "Output"},
    COMMON_OPTIONS(struct sample),
};

static const struct command command = {"nibble-sample", "Do something to a model.",
    "A paragraph.\n\nExample:\n  nibble-sample  in out", operands, COUNT(operands), options, COUNT(options)};

enum { ARGUMENTS_LIMIT = 16 };

/* Parse the arguments, which end with NULL. */
static enum status parse(
    struct sample *sample, enum options_outcome *outcome, struct error *err, const char *const *arguments)
{
    char *argv[ARGUMENTS_LIMIT + 2] = {(char *)(uintptr_t) "program"};
    int argc = 1;

    memset(sample, 0, sizeof *sample);
    sample->group = 128;
    for (; arguments[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)arguments[argc - 1];
    return options_parse(&command, argc, argv, sample, outcome, err);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void check_good(struct sample *sample, const char *const *arguments)
{
    struct error err = {OK, ""};
    enum options_outcome outcome = OPTIONS_HELP;

    CHECK(parse(sample, &outcome, &err, arguments) == OK, &err);
    CU_ASSERT_EQUAL(outcome, OPTIONS_RUN);
}

static void check_bad(const char *expected, const char *const *arguments)
{
    struct error err = {OK, ""};
    enum options_outcome outcome;
    struct sample sample;

    CU_ASSERT_EQUAL(parse(&sample, &outcome, &err, arguments), ERR_USAGE);
    CU_ASSERT_STRING_EQUAL(err.text, expected);
    if (strcmp(err.text, expected) != 0) printf("\n    %s\n", err.text);
    options_list_free(&sample.keep);
}

static void test_every_kind(void)
{
    struct sample sample;

    check_good(&sample, ARGS("--method", "awq", "in", "--group=64", "--damp", "0.25", "--force", "out",
                            "--note=a=b", "--threads", "3", "--json"));
    CU_ASSERT_STRING_EQUAL(sample.input, "in");
    CU_ASSERT_STRING_EQUAL(sample.output, "out");
    CU_ASSERT_STRING_EQUAL(sample.method, "awq");
    CU_ASSERT_STRING_EQUAL(sample.note, "a=b");
    CU_ASSERT_EQUAL(sample.group, 64);
    CU_ASSERT_EQUAL(sample.damp, 0.25);
    CU_ASSERT_EQUAL(sample.common.threads, 3);
    CU_ASSERT_TRUE(sample.force && sample.common.json && !sample.common.quiet && !sample.common.verbose);
}

static void test_defaults_stay(void)
{
    struct sample sample;

    check_good(&sample, ARGS("in", "out"));
    CU_ASSERT_EQUAL(sample.group, 128);
    CU_ASSERT_PTR_NULL(sample.method);
    CU_ASSERT_FALSE(sample.force);
}

static void test_lists_keep_their_order(void)
{
    struct sample sample;

    check_good(&sample, ARGS("--keep", "b", "in", "--keep=a", "out", "--keep", ""));
    CU_ASSERT_EQUAL(sample.keep.count, 3);
    CU_ASSERT_STRING_EQUAL(sample.keep.values[0], "b");
    CU_ASSERT_STRING_EQUAL(sample.keep.values[1], "a");
    CU_ASSERT_STRING_EQUAL(sample.keep.values[2], "");
    options_list_free(&sample.keep);
    CU_ASSERT_PTR_NULL(sample.keep.values);
    options_list_free(&sample.keep);
}

static const struct operand many_operands[] = {
    {"INPUT", offsetof(struct sample, input), "The first."},
    {"MODEL...", offsetof(struct sample, keep), "The others."},
};

static const struct command many = {
    "nibble-many", "Takes many.", NULL, many_operands, COUNT(many_operands), options, COUNT(options)};

/* The last operand takes the rest, wherever options stand between; --help shows the dots, an error the name. */
static void test_an_operand_repeated(void)
{
    const char *const arguments[] = {"program", "in", "a", "--force", "b", "--", "--c"};
    struct error err = {OK, ""};
    enum options_outcome outcome;
    struct sample sample = {.group = 128};

    CHECK(options_parse(&many, 7, (char **)(uintptr_t)arguments, &sample, &outcome, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(sample.input, "in");
    CU_ASSERT_TRUE(sample.force);
    CU_ASSERT_EQUAL_FATAL(sample.keep.count, 3);
    CU_ASSERT_STRING_EQUAL(sample.keep.values[0], "a");
    CU_ASSERT_STRING_EQUAL(sample.keep.values[1], "b");
    CU_ASSERT_STRING_EQUAL(sample.keep.values[2], "--c");
    options_list_free(&sample.keep);
    CU_ASSERT_EQUAL(
        options_parse(&many, 2, (char **)(uintptr_t)arguments, &sample, &outcome, &err), ERR_USAGE);
    CU_ASSERT_STRING_EQUAL(err.text, "MODEL is missing (The others.); --help explains");
    CU_ASSERT_PTR_NULL(sample.keep.values);
    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(
        options_parse(&many, 3, (char **)(uintptr_t)arguments, &sample, &outcome, &err), ERR_MEMORY);
    memory_fail_at(0, 0);
    options_list_free(&sample.keep);
}

static void test_the_last_one_wins(void)
{
    struct sample sample;

    check_good(&sample, ARGS("--group", "32", "in", "out", "--group", "64", "--method=rtn", "--method=gptq"));
    CU_ASSERT_EQUAL(sample.group, 64);
    CU_ASSERT_STRING_EQUAL(sample.method, "gptq");
}

static void test_what_looks_like_an_option(void)
{
    struct sample sample;

    check_good(&sample, ARGS("--force", "--", "--in", "-"));
    CU_ASSERT_STRING_EQUAL(sample.input, "--in");
    CU_ASSERT_STRING_EQUAL(sample.output, "-");
    check_good(&sample, ARGS("-", "--note", "--force", "--", "--help"));
    CU_ASSERT_STRING_EQUAL(sample.input, "-");
    CU_ASSERT_STRING_EQUAL(sample.output, "--help");
    CU_ASSERT_STRING_EQUAL(sample.note, "--force");
    CU_ASSERT_FALSE(sample.force);
    check_good(&sample, ARGS("", "--note=", "x"));
    CU_ASSERT_STRING_EQUAL(sample.input, "");
    CU_ASSERT_STRING_EQUAL(sample.note, "");
}

static void test_help_and_version_win(void)
{
    static const char *const lines[][4] = {{"--help"}, {"-h"}, {"--bogus", "--help"}, {"--group", "--help"},
        {"a", "b", "c", "--help"}, {"--method=x", "-h"}};
    struct error err = {OK, ""};
    enum options_outcome outcome;
    struct sample sample;

    for (size_t i = 0; i < COUNT(lines); i++) {
        CHECK(parse(&sample, &outcome, &err,
                  (const char *const[]){lines[i][0], lines[i][1], lines[i][2], lines[i][3], NULL}) == OK,
            &err);
        CU_ASSERT_EQUAL(outcome, OPTIONS_HELP);
    }
    CHECK(parse(&sample, &outcome, &err, ARGS("--nonsense", "--version")) == OK, &err);
    CU_ASSERT_EQUAL(outcome, OPTIONS_VERSION);
}

static void test_usage_errors(void)
{
    check_bad("INPUT is missing (The checkpoint: a folder or a file.); --help explains", ARGS("--force"));
    check_bad("OUTPUT is missing (The file to write.); --help explains", ARGS("in"));
    check_bad("'c': one argument too many; 2 expected", ARGS("a", "b", "c"));
    check_bad("--group: its value is missing (N)", ARGS("in", "out", "--group"));
    check_bad("--method: its value is missing (rtn|gptq|awq)", ARGS("in", "out", "--method"));
    check_bad("--note: its value is missing (VALUE)", ARGS("in", "out", "--note"));
    check_bad("--force: takes no value, but 'yes' is given", ARGS("in", "out", "--force=yes"));
    check_bad("--method: 'gp' is not one of rtn|gptq|awq", ARGS("--method", "gp"));
    check_bad("--method: '' is not one of rtn|gptq|awq", ARGS("--method="));
    check_bad("--method: 'rtn|gptq' is not one of rtn|gptq|awq", ARGS("--method", "rtn|gptq"));
    check_bad("--group: '8' is not between 16 and 4096", ARGS("--group", "8"));
    check_bad("--group: '1M' is not between 16 and 4096", ARGS("--group", "1M"));
    check_bad(
        "--group: '-1': is no count (digits, then K, M, G, Ki, Mi or Gi if wanted)", ARGS("--group", "-1"));
    check_bad("--damp: '0.51' is not between 0 and 0.5", ARGS("--damp", "0.51"));
    check_bad("--damp: '-0.1' is not between 0 and 0.5", ARGS("--damp", "-0.1"));
    check_bad("--keep: its value is missing (PATTERN)", ARGS("--keep", "a", "--keep"));
}

static void test_unknown_options(void)
{
    check_bad("--grup: unknown option; the nearest one is --group", ARGS("--grup=3"));
    check_bad("--thread: unknown option; the nearest one is --threads", ARGS("--thread", "3"));
    check_bad("--fcore: unknown option; the nearest one is --force", ARGS("--fcore"));
    check_bad("--hlep: unknown option; the nearest one is --help", ARGS("--hlep"));
    check_bad("--verison: unknown option; the nearest one is --version", ARGS("--verison"));
    check_bad("-force: unknown option; the nearest one is --force", ARGS("-force"));
    check_bad("--Force: unknown option; the nearest one is --force", ARGS("--Force"));
    check_bad("--quantisation: unknown option; --help lists them all", ARGS("--quantisation"));
    check_bad("-x: unknown option; --help lists them all", ARGS("-x"));
    check_bad("--=x: unknown option; --help lists them all", ARGS("--=x"));
    check_bad("---: unknown option; --help lists them all", ARGS("---"));
    check_bad("--a-name-that-is-longer-than-any-option-could-ever-be: unknown option; --help lists them all",
        ARGS("--a-name-that-is-longer-than-any-option-could-ever-be=1"));
    check_bad("--gr\\x1b: unknown option; --help lists them all", ARGS("--gr\x1b"));
}

static void test_numbers(void)
{
    static const char *const good[] = {"0", "0.5", ".5", "5e-1", "1E-3", "+0.25", "0.", "-0"};
    static const char *const bad[] = {
        "", " 0", "0 ", "0x0", "nan", "inf", "1e999", "0,1", "0.1.1", "e", "-", "0.1f"};
    struct error err = {OK, ""};
    enum options_outcome outcome;
    struct sample sample;

    for (size_t i = 0; i < COUNT(good); i++)
        check_good(&sample, ARGS("in", "out", "--damp", good[i]));
    for (size_t i = 0; i < COUNT(bad); i++) {
        CU_ASSERT_EQUAL(parse(&sample, &outcome, &err, ARGS("in", "out", "--damp", bad[i])), ERR_USAGE);
        CHECK(strstr(err.text, "is no number") != NULL, &err);
    }
}

static void test_comma_locale(void)
{
    struct sample sample;

    if (!testing_comma_locale()) {
        printf("(no such locale here) ");
        return;
    }
    test_numbers();
    check_good(&sample, ARGS("in", "out", "--damp", "0.25"));
    CU_ASSERT_EQUAL(sample.damp, 0.25);
    setlocale(LC_ALL, "C");
}

static void check_count(const char *text, enum status expected, uint64_t value)
{
    struct error err = {OK, ""};
    uint64_t found = 77;

    CHECK(options_count(&found, text, &err) == expected, &err);
    CU_ASSERT_EQUAL(found, expected ? 77 : value);
}

static void test_counts(void)
{
    static const char *const bad[] = {"", "K", "-1", "+1", " 1", "1 ", "1k", "1KB", "1Kib", "1T", "1.5G",
        "0x10", "1e3", "1 K", "18446744073709551616", "18446744073709551615K", "17179869184Gi",
        "99999999999999999999999999"};

    check_count("0", OK, 0);
    check_count("007", OK, 7);
    check_count("18446744073709551615", OK, UINT64_MAX);
    check_count("3K", OK, 3000);
    check_count("3M", OK, 3000000);
    check_count("3G", OK, UINT64_C(3000000000));
    check_count("3Ki", OK, 3072);
    check_count("3Mi", OK, 3145728);
    check_count("17179869183Gi", OK, UINT64_C(17179869183) << 30);
    check_count("0Gi", OK, 0);
    for (size_t i = 0; i < COUNT(bad); i++)
        check_count(bad[i], ERR_USAGE, 0);
}

static void test_count_limits(void)
{
    struct sample sample;

    check_good(&sample, ARGS("in", "out", "--a-rather-long-option-name", "10000000000000000000"));
    CU_ASSERT_EQUAL(sample.any, UINT64_C(10000000000000000000));
    check_bad("--a-rather-long-option-name: '10000000000000000001' is not between 1 and 10000000000000000000",
        ARGS("in", "out", "--a-rather-long-option-name", "10000000000000000001"));
    check_bad("--a-rather-long-option-name: '0' is not between 1 and 10000000000000000000",
        ARGS("in", "out", "--a-rather-long-option-name", "0"));
}

static void test_list_without_memory(void)
{
    struct error err = {OK, ""};
    enum options_outcome outcome;
    struct sample sample;

    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(parse(&sample, &outcome, &err, ARGS("--keep", "a", "in", "out")), ERR_MEMORY);
    memory_fail_at(0, 0);
    options_list_free(&sample.keep);
}

/* ---- --help ---- */

static char *help_of(const struct command *shown)
{
    uint64_t count;

    testing_capture(1);
    options_help(shown);
    return testing_captured(&count);
}

static void test_help(void)
{
    static const char expected[] =
        "usage: nibble-sample [options] INPUT OUTPUT\n"
        "\n"
        "Do something to a model.\n"
        "\n"
        "Arguments:\n"
        "  INPUT                  The checkpoint: a folder or a file.\n"
        "  OUTPUT                 The file to write.\n"
        "\n"
        "Quantization:\n"
        "  --method rtn|gptq|awq  How to round. The quick brown fox jumps over the lazy dog and over "
        "whatever\n"
        "                         else lies in its way to the end. (default: gptq)\n"
        "  --group N              Columns that share a scale. (16 to 4096; default: 128)\n"
        "  --damp X               Damping. (0 to 0.5; default: 0.01)\n"
        "  --keep PATTERN         Tensors to leave as they are. (may be repeated)\n"
        "  --note VALUE           Text to store.\n"
        "  --a-rather-long-option-name COUNT\n"
        "                         Any count. (at least 1)\n"
        "\n"
        "Output:\n"
        "  --force                Replace the output.\n"
        "\n"
        "Common options:\n"
        "  --threads N            Worker threads. The output is the same for every number. (0 to 1024;\n"
        "                         default: all processors)\n"
        "  --json                 Print the result as one JSON object on standard output.\n"
        "  --quiet                No progress and no notes; errors and results only.\n"
        "  --verbose              Say more: every tensor, the kernel set in use.\n"
        "  --help                 Print this text.\n"
        "  --version              Print the version.\n"
        "\n"
        "A paragraph.\n"
        "\n"
        "Example:\n"
        "  nibble-sample  in out\n";
    char *help = help_of(&command);

    CU_ASSERT_STRING_EQUAL(help, expected);
    if (strcmp(help, expected) != 0) printf("\n%s", help);
    memory_free(help);
}

static void test_help_is_narrow(void)
{
    char *help = help_of(&command), *line = help;

    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        CU_ASSERT_TRUE(end - line <= 100);
        CU_ASSERT_TRUE(end == line || end[-1] != ' ');
    }
    CU_ASSERT_STRING_EQUAL(line, "");
    memory_free(help);
}

static void test_help_of_choices_with_a_name(void)
{
    static const struct option choice = {
        "method", OPTION_CHOICE, 0, 0, 0, "rtn|gptq", "NAME", "rtn", "How to round.", NULL};
    static const struct command named = {"nibble-named", "Does something.", NULL, NULL, 0, &choice, 1};
    char *help = help_of(&named);

    CU_ASSERT_PTR_NOT_NULL(
        strstr(help, "\nOptions:\n  --method NAME  How to round. (rtn|gptq; default: rtn)\n"));
    memory_free(help);
}

static void test_help_of_a_repeated_operand(void)
{
    char *help = help_of(&many);

    CU_ASSERT_PTR_NOT_NULL(strstr(help, "usage: nibble-many [options] INPUT MODEL...\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(help, "\n  MODEL...               The others.\n"));
    memory_free(help);
}

static void test_help_of_little(void)
{
    static const struct command bare = {"nibble-bare", "Does nothing.", NULL, NULL, 0, NULL, 0};
    char *help = help_of(&bare);

    CU_ASSERT_STRING_EQUAL(help, "usage: nibble-bare [options]\n\nDoes nothing.\n\nOptions:\n"
                                 "  --help     Print this text.\n  --version  Print the version.\n");
    memory_free(help);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"every kind", test_every_kind},
        {"defaults stay", test_defaults_stay},
        {"lists keep their order", test_lists_keep_their_order},
        {"an operand repeated", test_an_operand_repeated},
        {"the last one wins", test_the_last_one_wins},
        {"what looks like an option", test_what_looks_like_an_option},
        {"help and version win", test_help_and_version_win},
        {"usage errors", test_usage_errors},
        {"unknown options", test_unknown_options},
        {"numbers", test_numbers},
        {"a locale with a comma", test_comma_locale},
        {"counts", test_counts},
        {"limits of counts", test_count_limits},
        {"list without memory", test_list_without_memory},
        {"help", test_help},
        {"help is narrow", test_help_is_narrow},
        {"help of choices with a name", test_help_of_choices_with_a_name},
        {"help of a repeated operand", test_help_of_a_repeated_operand},
        {"help of little", test_help_of_little},
    };

    return TESTING_RUN("options", cases);
}
