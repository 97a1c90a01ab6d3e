/* The page of a comparison: names, the Pareto front, and the page as a whole, which an independent reader parses where Python is
 * installed. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/page/page_view.h"
#include "tests/support/testing.h"

enum { MODELS = 41, LAYERS = 5 };

/* A comparison made up for a test. */
struct made {
    struct comparison_model models[MODELS];
    struct comparison results[MODELS];
    double errors[MODELS][LAYERS];
    char names[MODELS][32];
    struct page page;
};

static void fill_result(struct comparison *result, double kld)
{
    *result = (struct comparison){
        .tokens_scored = 20000,
        .windows = 80,
        .context = 256,
        .by_block = true,
        .perplexity = {20 + kld, 0.5},
        .log_ratio = {kld / 2, kld / 20},
        .kld = {kld, kld / 30},
        .kld_median = {kld / 2, kld / 50},
        .kld_p90 = {2 * kld, kld / 20},
        .kld_p95 = {3 * kld, kld / 10},
        .kld_p99 = {6 * kld, kld / 5},
        .kld_p999 = {20 * kld, kld},
        .kld_max = 50 * kld,
        .probability_rms = {sqrt(kld), 0.001},
        .same_top = {1 / (1 + kld), 0.002},
    };
    for (int i = 0; i < COMPARE_CURVE; i++)
        result->kld_curve[i] = kld * i;
}

/* `count` models and the base, which is the first; sizes fall, divergences rise, the second model is the base itself. */
static struct made *make(uint64_t count, bool layers)
{
    static struct made made;
    made = (struct made){
        .page = {
            .text = "some/where/eval.txt", .protocol = "gptq", .models = made.models, .count = count + 1}};
    made.models[0] = (struct comparison_model){"original", 8000000, 16, {20, 0.5}, NULL};
    for (uint64_t i = 1; i <= count; i++) {
        fill_result(&made.results[i], i == 2 ? 0 : 1e-5 * pow(1.4, (double)i));
        snprintf(made.names[i], sizeof made.names[i], "out/%c%d.nbl", (char)('a' + i % 7), (int)i);
        for (int k = 0; k < LAYERS; k++)
            made.errors[i][k] = i == 2 ? 0 : 0.001 * (double)(i * (uint64_t)(k + 1));
        made.results[i].layers = LAYERS;
        made.results[i].layer_errors = layers ? made.errors[i] : NULL;
        made.models[i] = (struct comparison_model){
            made.names[i], 7000000 / i, 14.0 / (double)i, made.results[i].perplexity, &made.results[i]};
    }
    return &made;
}

/* Write the page and read it back. Owner: the caller. */
static char *written(const struct page *page, const char *name)
{
    struct error err = {0};
    uint64_t count;
    CHECK(page_write(testing_path("%s", name), true, page, &err) == OK, &err);
    return testing_read(testing_path("%s", name), &count);
}

static uint64_t occurrences(const char *text, const char *part)
{
    uint64_t found = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        found++;
    return found;
}

/* What holds for every page, by a second reader if there is Python; its output (the names it found) goes to `output`. */
static void check_page(const char *text, const char *name, char *output, size_t room)
{
    char command[1024];
    CU_ASSERT_EQUAL(strncmp(text, "<!DOCTYPE html>\n", 16), 0);
    CU_ASSERT_EQUAL(occurrences(text, "http"), occurrences(text, "xmlns=\"http://www.w3.org/2000/svg\""));
    CU_ASSERT_EQUAL(occurrences(text, "<script") + occurrences(text, "href") + occurrences(text, "url("), 0);
    CU_ASSERT_EQUAL(occurrences(text, "nan") + occurrences(text, "inf ") + occurrences(text, "inf\""), 0);
    *output = 0;
    if (system("python3 -c '' >/dev/null 2>&1") != 0) {
        printf("python3 is not installed: the independent reader was not run ");
        return;
    }
    snprintf(command, sizeof command, "python3 %s %s 2>&1", testing_source("page_reader.py"),
        testing_path("%s", name));
    FILE *pipe = popen(command, "r");
    REQUIRE(pipe != NULL, NULL);
    output[fread(output, 1, room - 1, pipe)] = 0;
    const int ended = pclose(pipe);
    CU_ASSERT_EQUAL(ended, 0);
    if (ended != 0) printf("%s ", output);
}

/* ---- names and looks ---- */

static void check_names(const char *const *paths, const char *const *names, uint64_t count)
{
    struct comparison_model models[16] = {{0}};
    struct page_look *looks = NULL;
    struct error err = {0};
    for (uint64_t i = 0; i < count; i++)
        models[i].name = paths[i];
    REQUIRE(page_names_make(&looks, models, count, &err) == OK, &err);
    for (uint64_t i = 0; i < count; i++) {
        CU_ASSERT_STRING_EQUAL(looks[i].name, names[i]);
        if (strcmp(looks[i].name, names[i]) != 0) printf("\n  %s instead of %s ", looks[i].name, names[i]);
    }
    page_names_free(looks, count);
}

static void names_are_short_and_unique(void)
{
    check_names((const char *const[]){"models/folio-4M/", "out/int4.nbl", "int3.safetensors", "/", "."},
        (const char *const[]){"folio-4M", "int4", "int3", "/", "."}, 5);
    check_names((const char *const[]){"a/x.nbl", "b/x.nbl", "x", "b//y.nbl"},
        (const char *const[]){"a/x.nbl", "b/x.nbl", "x", "y"}, 4);
    check_names((const char *const[]){"m", "m.nbl", "m"}, (const char *const[]){"m", "m.nbl", "m #2"}, 3);
    check_names((const char *const[]){"p/a/m.nbl", "q/a/m.nbl", "q/b/m.nbl"},
        (const char *const[]){"p/a/m.nbl", "q/a/m.nbl", "b/m.nbl"}, 3);
    check_names((const char *const[]){".nbl", "x/.nbl"}, (const char *const[]){".nbl", "x/.nbl"}, 2);
}

static bool same_look(const struct page_look *a, const struct page_look *b)
{
    return a->colour == b->colour && a->shape == b->shape && a->hollow == b->hollow;
}

static void families_look_alike(void)
{
    static const char *const paths[] = {
        "base", "rtn4.nbl", "gptq4.nbl", "rtn3.nbl", "gptq-16.nbl", "gptq2.nbl"};
    struct comparison_model models[20] = {{0}};
    struct page_look *looks = NULL;
    struct error err = {0};
    for (int i = 0; i < 6; i++)
        models[i].name = paths[i];
    REQUIRE(page_names_make(&looks, models, 6, &err) == OK, &err);
    CU_ASSERT(same_look(&looks[1], &looks[3]) && same_look(&looks[2], &looks[5]));
    CU_ASSERT(!same_look(&looks[1], &looks[2]) && !same_look(&looks[4], &looks[2]));
    page_names_free(looks, 6);
    /* one family only: every model has its own look; from the thirteenth on, grey */
    static char names[20][8];
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "q%d", i);
        models[i].name = names[i];
    }
    REQUIRE(page_names_make(&looks, models, 20, &err) == OK, &err);
    for (int i = 1; i < 20; i++) {
        CU_ASSERT_EQUAL(looks[i].colour == PAGE_COLOURS, i > PAGE_STYLES);
        for (int k = 1; k < i && i <= PAGE_STYLES; k++)
            CU_ASSERT_FALSE(same_look(&looks[i], &looks[k]));
    }
    page_names_free(looks, 20);
}

static void check_front(const uint64_t *bytes, const double *klds, const bool *expected, uint64_t count)
{
    struct comparison_model models[8] = {{0}};
    struct comparison results[8] = {{0}};
    bool front[8];
    for (uint64_t i = 0; i < count; i++) {
        results[i].kld.value = klds[i];
        models[i] = (struct comparison_model){.bytes = bytes[i], .result = i ? &results[i] : NULL};
    }
    page_front_find(front, models, count);
    for (uint64_t i = 0; i < count; i++)
        CU_ASSERT_EQUAL(front[i], expected[i]);
}

static void front_is_what_none_surpasses(void)
{
    /* smaller and worse; larger and worse than another; as good and larger; larger than the base; alike twice */
    check_front((const uint64_t[]){1000, 500, 700, 600, 1100, 500},
        (const double[]){0, 0.2, 0.3, 0.2, 0, 0.2}, (const bool[]){true, true, false, false, false, true}, 6);
    /* sizes within 0.1 %: the closer one counts, also if it is some bytes larger */
    check_front((const uint64_t[]){100000, 50000, 50040, 50200}, (const double[]){0, 0.2, 0.1, 0.05},
        (const bool[]){true, false, true, true}, 4);
    /* sizes that are not known */
    check_front(
        (const uint64_t[]){0, 0, 700}, (const double[]){0, 0.2, 0}, (const bool[]){true, false, true}, 3);
}

/* ---- the page ---- */

static void pages_are_sound(void)
{
    static const uint64_t counts[] = {1, 2, 13, 40};
    static char output[8192];
    char expected[32];
    for (int i = 0; i < 8; i++) {
        const uint64_t count = counts[i / 2];
        const struct made *made = make(count, i % 2);
        char *text = written(&made->page, "page.html");
        check_page(text, "page.html", output, sizeof output);
        snprintf(expected, sizeof expected, "models %d\n", (int)count + 1);
        CU_ASSERT(*output == 0 || strncmp(output, expected, strlen(expected)) == 0);
        /* every figure wide and narrow; a group per model in each */
        CU_ASSERT_EQUAL(occurrences(text, "<svg class=\"wide\""), (uint64_t)(2 + i % 2));
        CU_ASSERT_EQUAL(occurrences(text, "<svg class=\"narrow\""), (uint64_t)(2 + i % 2));
        CU_ASSERT_EQUAL(occurrences(text, "<g class=\"model "), 2 * count * (uint64_t)(2 + i % 2));
        CU_ASSERT_PTR_NOT_NULL(strstr(text, "eval.txt"));
        CU_ASSERT_PTR_NOT_NULL(strstr(text, NIBBLE_VERSION));
        CU_ASSERT_PTR_NOT_NULL(strstr(text, "resampling blocks"));
        memory_free(text);
    }
}

/* Numbers of the comparison stand in the table. */
static void numbers_are_shown(void)
{
    struct made *made = make(2, true);
    made->results[1].kld = (struct estimate){0.0123456, 0.00078};
    made->results[1].layer_errors[LAYERS - 1] = 0.4321;
    made->results[1].by_block = false;
    made->results[1].base_top_k = 64;
    char *text = written(&made->page, "numbers.html");
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "<td class=\"begins\">0.01235<small>\xC2\xB1\xC2\xA0"
                                        "0.00078</small></td>"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "<td class=\"begins\">0.4321</td>"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "tokens are taken as independent"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "only the 64 likeliest"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "<h1>2 models compared with original</h1>"));
    CU_ASSERT_PTR_NULL(strstr(text, "resampling windows"));
    memory_free(text);
}

static void hostile_names_stay_text(void)
{
    static const char *const names[] = {"</title><script>alert(1)</script>", "\" onload=\"x", "a&b;&lt;<!--",
        "]]>'`", "\xFF\xFE\x01\x1B[31m",
        "\xE2\x80\xAE"
        "lbn.lauqe",
        "evil/../\n</svg>", "<b>", "<b>"};
    static char output[16384], long_name[5000];
    struct made *made = make(11, true);
    memset(long_name, '<', sizeof long_name - 1);
    for (int i = 0; i < 9; i++)
        made->models[i].name = names[i];
    made->models[9].name = long_name;
    made->page.text = "<img src=x>.txt";
    made->page.protocol = "<i>";
    char *text = written(&made->page, "hostile.html");
    check_page(text, "hostile.html", output, sizeof output);
    CU_ASSERT_EQUAL(occurrences(text, "<b>") + occurrences(text, "<img") + occurrences(text, "<!--"), 0);
    CU_ASSERT_PTR_NULL(strstr(text, "\xE2\x80\xAE"));
    CU_ASSERT_PTR_NULL(strchr(text, '\x1B'));
    if (*output) { /* the reader gets back the very names, but for what no page may hold */
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "\"</title><script>alert(1)</script>\""));
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "\"\\\" onload=\\\"x\""));
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "\"a&b;&lt;<!--\""));
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "\"\\ufffd\\ufffd\\ufffd\\ufffd[31m\""));
    }
    memory_free(text);
}

/* Zeros, infinities, sizes that are not known, few tokens, one layer, thousands of layers: nothing that is no number. */
static void odd_numbers_are_drawn(void)
{
    enum { MANY = 3000 };
    static char output[8192];
    static double many[MANY];
    struct made *made = make(6, true);
    fill_result(&made->results[1], 0);
    fill_result(&made->results[3], 1e-300);
    fill_result(&made->results[4], 700);
    fill_result(&made->results[5], 0.1);
    made->results[1].kld_curve[0] = 0;
    made->results[5].tokens_scored = 3;
    made->results[1].tokens_scored = 0;
    made->results[6].layer_errors[1] = INFINITY;
    made->results[6].layer_errors[LAYERS - 1] = NAN;
    made->results[4].perplexity.value = made->models[4].perplexity.value = INFINITY;
    made->results[4].log_ratio.value = 1000;
    made->results[4].kld.error = 1e6;
    made->models[5].bytes = made->models[0].bytes = 0;
    made->models[5].bits_per_weight = NAN;
    char *text = written(&made->page, "odd.html");
    check_page(text, "odd.html", output, sizeof output);
    memory_free(text);
    for (int i = 0; i < MANY; i++)
        many[i] = 0.5;
    made = make(2, true);
    made->results[1].layers = MANY;
    made->results[1].layer_errors = many;
    made->results[2].layers = 1;
    text = written(&made->page, "layers.html");
    check_page(text, "layers.html", output, sizeof output);
    memory_free(text);
}

static void same_bytes_in_every_locale(void)
{
    const struct made *made = make(13, true);
    char *first = written(&made->page, "first.html"), *second = written(&made->page, "second.html");
    const char *folder = testing_path("first.html");
    CU_ASSERT_STRING_EQUAL(first, second);
    const bool comma = testing_comma_locale();
    if (!comma) printf("no locale with decimal commas here ");
    struct error err = {0};
    uint64_t count;
    CHECK(page_write(folder, true, &made->page, &err) == OK, &err);
    char *third = testing_read(folder, &count);
    CU_ASSERT_STRING_EQUAL(first, third);
    if (comma) { /* the caller's locale is as it was */
        char number[16];
        snprintf(number, sizeof number, "%.1f", 1.5);
        CU_ASSERT_STRING_EQUAL(number, "1,5");
    }
    setlocale(LC_ALL, "C");
    memory_free(first);
    memory_free(second);
    memory_free(third);
}

static void existing_files_are_kept(void)
{
    const struct made *made = make(1, false);
    struct error err = {0};
    const char *path = testing_path("kept.html");
    uint64_t count;
    testing_write(path, "mine", 4);
    CU_ASSERT_EQUAL(page_write(path, false, &made->page, &err), ERR_USAGE);
    char *text = testing_read(path, &count);
    CU_ASSERT_STRING_EQUAL(text, "mine");
    memory_free(text);
    CU_ASSERT_EQUAL(page_write(testing_path("no/folder.html"), true, &made->page, &err), ERR_IO);
    const struct page alone = {.models = made->page.models, .count = 1};
    CU_ASSERT_EQUAL(page_write(path, true, &alone, &err), ERR_USAGE);
}

/* Every allocation fails once: an error, no file, nothing lost. */
static void every_allocation_may_fail(void)
{
    const struct made *made = make(3, true);
    struct error err = {0};
    for (uint64_t nth = 1;; nth++) {
        const char *path = testing_path("failed.html");
        memory_fail_at(nth, 0);
        const enum status status = page_write(path, false, &made->page, &err);
        const uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures == 0) {
            CHECK(status == OK && nth > 20, &err);
            break;
        }
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
        CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
        if (status != ERR_MEMORY) break;
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"names are short and unique", names_are_short_and_unique},
        {"families look alike", families_look_alike},
        {"the front is what none surpasses", front_is_what_none_surpasses},
        {"pages are sound", pages_are_sound},
        {"numbers are shown", numbers_are_shown},
        {"hostile names stay text", hostile_names_stay_text},
        {"odd numbers are drawn", odd_numbers_are_drawn},
        {"the same bytes in every locale", same_bytes_in_every_locale},
        {"existing files are kept", existing_files_are_kept},
        {"every allocation may fail", every_allocation_may_fail},
    };
    return TESTING_RUN("page", cases);
}
