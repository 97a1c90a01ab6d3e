/* What figures are made of: escaped markup, digits, axes, labels that keep apart. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/page/axis.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/labels.h"
#include "runtime-check/page/markup.h"
#include "tests/support/testing.h"

#define REPLACED "\xEF\xBF\xBD"

/* ---- markup ---- */

static void check_escaped(const char *text, const char *expected)
{
    struct markup markup = {0};
    markup_escape(&markup, text);
    markup_put(&markup, "|");
    CU_ASSERT_FALSE(markup.failed);
    const uint64_t count = strlen(expected);
    CU_ASSERT(markup.count == count + 1 && memcmp(markup.bytes, expected, count) == 0);
    if (markup.count != count + 1 || memcmp(markup.bytes, expected, count) != 0)
        printf("\n  %.*s instead of %s| ", (int)markup.count, markup.bytes, expected);
    markup_free(&markup);
}

static void foreign_text_is_escaped(void)
{
    check_escaped("", "");
    check_escaped("plain", "plain");
    check_escaped("<a href=\"x\">'&'</a>", "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    check_escaped("&amp;", "&amp;amp;");
    check_escaped("gr\xC3\xBC\xC3\x9F \xE6\xA8\xA1 \xF0\x9F\xA6\x99",
        "gr\xC3\xBC\xC3\x9F \xE6\xA8\xA1 \xF0\x9F\xA6\x99");
    check_escaped("a\xFF\x80z", "a" REPLACED REPLACED "z");                              /* no UTF-8 */
    check_escaped("\xC0\xBC", REPLACED REPLACED);                                        /* overlong '<' */
    check_escaped("\xE2\x82", REPLACED REPLACED);                                        /* cut off */
    check_escaped("\x01\t\n\x7F\xC2\x85", REPLACED REPLACED REPLACED REPLACED REPLACED); /* controls */
    check_escaped("a\xE2\x80\xAE"
                  "b\xE2\x81\xA6",
        "a" REPLACED "b" REPLACED);                               /* U+202E, U+2066: turn the direction */
    check_escaped("\xEF\xBF\xBF\xEF\xB7\x90", REPLACED REPLACED); /* noncharacters */
}

static void memory_that_runs_out_is_said(void)
{
    struct markup markup = {0};
    struct error err = {0};
    memory_fail_at(1, 1);
    markup_format(&markup, "%s", "lost");
    memory_fail_at(0, 0);
    markup_put(&markup, "more");
    CU_ASSERT(markup.failed && markup.count == 0);
    CU_ASSERT_EQUAL(markup_save(&markup, testing_path("lost.html"), false, &err), ERR_MEMORY);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "lost.html"));
    markup_free(&markup);
}

/* ---- digits ---- */

static void check_text(const char *text, const char *expected)
{
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected) != 0) printf("\n  '%s' instead of '%s' ", text, expected);
}

static void numbers_have_the_digits_that_mean_something(void)
{
    char a[DIGITS_BYTES], b[DIGITS_BYTES];
    check_text(digits_significant(a, 0.00736412, 3), "0.00736");
    check_text(digits_significant(a, 29.17653, 4), "29.18");
    check_text(digits_significant(a, 9.9996, 4), "10.00");
    check_text(digits_significant(a, -0.0012345, 2), "\xE2\x88\x92"
                                                     "0.0012");
    check_text(digits_significant(a, 1234567, 3), "1234567");
    check_text(digits_significant(a, 0, 3), "0");
    check_text(digits_significant(a, 2.743e-5, 2), "2.7\xC2\xA0\xC3\x97\xC2\xA0"
                                                   "10\xE2\x81\xBB\xE2\x81\xB5");
    check_text(digits_significant(a, 1e12, 1), "1\xC2\xA0\xC3\x97\xC2\xA0"
                                               "10\xC2\xB9\xC2\xB2");
    check_text(digits_significant(a, NAN, 3), "\xE2\x80\x93");
    check_text(digits_significant(a, -INFINITY, 3), "\xE2\x80\x93");
    digits_estimate(a, b, (struct estimate){29.17653, 0.6912});
    check_text(a, "29.18"), check_text(b, "0.69");
    digits_estimate(a, b, (struct estimate){0.0073641, 0.000083});
    check_text(a, "0.007364"), check_text(b, "0.000083");
    digits_estimate(a, b, (struct estimate){2.7453e-5, 3.2e-7});
    check_text(a, "2.745\xC2\xA0\xC3\x97\xC2\xA0"
                  "10\xE2\x81\xBB\xE2\x81\xB5");
    check_text(b, "3.2\xC2\xA0\xC3\x97\xC2\xA0"
                  "10\xE2\x81\xBB\xE2\x81\xB7");
    digits_estimate(a, b, (struct estimate){-0.0001, 0.01});
    check_text(a, "0.000"), check_text(b, "0.010"); /* no sign on what rounds to 0 */
    digits_estimate(a, b, (struct estimate){0.5, 0});
    check_text(a, "0.5000"), check_text(b, "");
    digits_estimate(a, b, (struct estimate){1, INFINITY});
    check_text(a, "1.000"), check_text(b, "");
    digits_estimate(a, b, (struct estimate){1e-300, 1e300});
    CU_ASSERT(strlen(a) < DIGITS_BYTES && strlen(b) < DIGITS_BYTES);
    check_text(digits_tick(a, 0.0001), "0.0001");
    check_text(digits_tick(a, 1e-6), "10\xE2\x81\xBB\xE2\x81\xB6");
    check_text(digits_tick(a, 5e-6), "5\xC3\x97"
                                     "10\xE2\x81\xBB\xE2\x81\xB6");
    check_text(digits_tick(a, 100), "100");
    check_text(digits_count(a, 999), "999");
    check_text(digits_count(a, 44625), "44\xE2\x80\xAF"
                                       "625");
    check_text(digits_count(a, UINT64_MAX), "18\xE2\x80\xAF"
                                            "446\xE2\x80\xAF"
                                            "744\xE2\x80\xAF"
                                            "073\xE2\x80\xAF"
                                            "709\xE2\x80\xAF"
                                            "551\xE2\x80\xAF"
                                            "615");
}

/* ---- axes ---- */

static void positions_follow_values(void)
{
    struct axis axis = {.logarithmic = true,
        .zero = true,
        .low = 1e-5,
        .high = 10,
        .at_low = 300,
        .at_high = 0,
        .at_zero = 330};
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 1e-5), 300, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 1e-2), 150, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 100), 0, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 0), 330, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, -1), 330, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 5e-6), 315, 1e-9);
    double before = axis_at(&axis, 0);
    for (double value = 1e-9; value < 20; value *= 1.7) {
        const double at = axis_at(&axis, value);
        CU_ASSERT(at <= before && at >= 0);
        before = at;
    }
    axis = (struct axis){.low = 2, .high = 6, .at_low = 10, .at_high = 50};
    CU_ASSERT_DOUBLE_EQUAL(axis_at(&axis, 3), 20, 1e-9);
}

/* Values of all magnitudes: the axis holds them, and has between 2 and AXIS_TICKS ascending ticks in its range. */
static void ticks_are_few_and_round(void)
{
    static const double spans[] = {1, 1.001, 1.5, 3, 40, 1e4, 1e9, 1e30};
    double ticks[AXIS_TICKS];
    for (double least = 1e-11; least < 1e12; least *= 7.3) {
        for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
            struct axis axis = {.logarithmic = true};
            axis_fit(&axis, least, fmin(least * spans[i], 1e19));
            CU_ASSERT(axis.low > 0 && axis.low <= least && axis.high >= fmin(least * spans[i], 1e19));
            const uint64_t count = axis_ticks(&axis, ticks);
            CU_ASSERT(count >= 2 && count <= AXIS_TICKS);
            for (uint64_t k = 0; k < count; k++)
                CU_ASSERT(ticks[k] >= axis.low * 0.999 && ticks[k] <= axis.high * 1.001 &&
                          (k == 0 || ticks[k] > ticks[k - 1]));
        }
    }
    struct axis axis = {0};
    axis_fit(&axis, 0, INFINITY); /* ends where axes end */
    CU_ASSERT(axis.low > 0 && isfinite(axis.high));
    axis = (struct axis){.low = 0, .high = 1};
    CU_ASSERT_EQUAL(axis_ticks(&axis, ticks), 6);
    CU_ASSERT(ticks[0] == 0 && !signbit(ticks[0]) && fabs(ticks[5] - 1) < 1e-12);
    axis = (struct axis){.logarithmic = true, .low = 2e6, .high = 7e6};
    const uint64_t count = axis_ticks(&axis, ticks);
    CU_ASSERT(count == 4 && ticks[0] == 2e6 && ticks[1] == 3e6 && ticks[2] == 4e6 && ticks[3] == 6e6);
}

/* ---- labels ---- */

static void check_short(const char *text, uint64_t most, const char *expected)
{
    struct error err = {0};
    char *shortened = labels_shorten(text, most, &err);
    REQUIRE(shortened != NULL, &err);
    check_text(shortened, expected);
    memory_free(shortened);
}

static void long_names_lose_their_middle(void)
{
    check_short("abcdef", 6, "abcdef");
    check_short("abcdefg", 6,
        "ab\xE2\x80\xA6"
        "efg");
    check_short("abcdefg", 3, "a\xE2\x80\xA6g");
    check_short(
        "\xC3\xA4\xC3\xB6\xC3\xBC\xC3\x84\xC3\x96\xC3\x9C", 4, "\xC3\xA4\xE2\x80\xA6\xC3\x96\xC3\x9C");
    check_short("\xFF\xFE\xFD\xFC", 3, "\xFF\xE2\x80\xA6\xFC");
    check_short("", 3, "");
    CU_ASSERT(labels_width("mmm", 10) > labels_width("iii", 10) && labels_width("", 10) == 0);
}

static void spread_positions_keep_their_distance(void)
{
    struct error err = {0};
    double few[] = {50, 10, 52, 51};
    REQUIRE(labels_spread(few, 4, 10, 0, 100, &err) == OK, &err);
    /* 10 stays; 50, 51, 52 move about their middle, in order */
    CU_ASSERT_DOUBLE_EQUAL(few[1], 10, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(few[0], 41, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(few[3], 51, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(few[2], 61, 1e-9);
    double ends[] = {-20, 120, 119};
    REQUIRE(labels_spread(ends, 3, 10, 0, 100, &err) == OK, &err);
    CU_ASSERT(ends[0] == 0 && ends[1] == 100 && ends[2] == 90);
    double crowd[30];
    for (int i = 0; i < 30; i++)
        crowd[i] = 5;
    REQUIRE(labels_spread(crowd, 30, 10, 0, 100, &err) == OK, &err);
    for (int i = 0; i < 30; i++)
        CU_ASSERT_DOUBLE_EQUAL(crowd[i], i * 100.0 / 29, 1e-9);
    CU_ASSERT_EQUAL(labels_spread(crowd, 0, 10, 0, 100, &err), OK);
}

static bool boxes_overlap(const struct labels_box *a, const struct labels_box *b)
{
    return a->left < b->right && b->left < a->right && a->top < b->bottom && b->top < a->bottom;
}

static void placed_labels_cover_nothing(void)
{
    enum { COUNT = 60 };
    static struct label labels[COUNT];
    static struct labels_box obstacles[COUNT];
    uint64_t random = 5, shown = 0;
    for (int i = 0; i < COUNT; i++) {
        const double x = (double)(testing_random(&random) % 400), y = (double)(testing_random(&random) % 200);
        labels[i] = (struct label){.x = x, .y = y, .width = 20 + (double)(testing_random(&random) % 50)};
        obstacles[i] = (struct labels_box){x - 5, y - 5, x + 5, y + 5};
    }
    const struct labels_ground ground = {
        .obstacles = obstacles, .obstacle_count = COUNT, .area = {0, 0, 450, 220}, .font = 12, .radius = 5};
    labels_place(labels, COUNT, &ground);
    for (int i = 0; i < COUNT; i++) {
        if (!labels[i].shown) continue;
        const struct labels_box *place = &labels[i].place;
        shown++;
        CU_ASSERT(place->left >= 0 && place->top >= 0 && place->right <= 450 && place->bottom <= 220);
        for (int k = 0; k < COUNT; k++) {
            CU_ASSERT_FALSE(boxes_overlap(place, &obstacles[k]));
            CU_ASSERT_FALSE(k != i && labels[k].shown && boxes_overlap(place, &labels[k].place));
        }
    }
    CU_ASSERT(shown > COUNT / 2 && shown <= COUNT);
    /* one point alone: to its right, without a leader; no room at all: not shown */
    struct label one = {.x = 100, .y = 100, .width = 40};
    labels_place(&one, 1, &(struct labels_ground){.area = {0, 0, 450, 220}, .font = 12, .radius = 5});
    CU_ASSERT(one.shown && !one.led && one.place.left > 105 && one.place.left < 112);
    labels_place(&one, 1, &(struct labels_ground){.area = {90, 90, 120, 120}, .font = 12, .radius = 5});
    CU_ASSERT_FALSE(one.shown);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"foreign text is escaped", foreign_text_is_escaped},
        {"memory that runs out is said", memory_that_runs_out_is_said},
        {"numbers have the digits that mean something", numbers_have_the_digits_that_mean_something},
        {"positions follow values", positions_follow_values},
        {"ticks are few and round", ticks_are_few_and_round},
        {"long names lose their middle", long_names_lose_their_middle},
        {"spread positions keep their distance", spread_positions_keep_their_distance},
        {"placed labels cover nothing", placed_labels_cover_nothing},
    };
    return TESTING_RUN("plot", cases);
}
