/* The divergences of all tokens: exceeded by which share of them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/page_lines.h"

/* Steps that at least one token stands behind. */
static uint64_t steps_of(const struct comparison *result)
{
    uint64_t steps = 1;
    while (steps < COMPARE_CURVE &&
           pow(10, -(double)steps / COMPARE_CURVE_PER_DECADE) * (double)result->tokens_scored >= 1)
        steps++;
    return steps;
}

/* The share of tokens at a step. */
static void share_text(char *out, uint64_t step)
{
    char number[DIGITS_BYTES];
    const double share = 100 / pow(10, (double)(step / COMPARE_CURVE_PER_DECADE));
    snprintf(out, DIGITS_BYTES, "%.40s\xC2\xA0%%", digits_tick(number, share));
}

static void fill_line(struct page_line *line, uint64_t index, const struct comparison *result)
{
    char median[DIGITS_BYTES], worst[DIGITS_BYTES], most[DIGITS_BYTES];
    line->model = index;
    line->values = result->kld_curve;
    line->count = steps_of(result);
    line->first = line->count > 1; /* exceeded by all: the least divergence of any token tells little */
    snprintf(line->title, sizeof line->title, "median %.40s, worst 1 %% from %.40s, largest %.40s",
        digits_significant(median, result->kld_median.value, 3),
        digits_significant(worst, result->kld_p99.value, 3), digits_significant(most, result->kld_max, 3));
}

/* The axis shows the upper half of the tokens on a logarithmic scale; what is closer lies between its end and 0. */
static void fit_axis(struct page_lines *figure)
{
    const uint64_t half = 4; /* exceeded by 46 % */
    double least = INFINITY, most = 0;
    for (uint64_t i = 0; i < figure->count; i++) {
        const struct page_line *line = &figure->lines[i];
        const double low = line->values[line->count > half ? half : 0];
        const double high = line->values[line->count - 1];
        if (low > 0) least = fmin(least, low);
        if (isfinite(high)) most = fmax(most, high);
        if (line->count > figure->steps) figure->steps = line->count;
    }
    if (!isfinite(least)) least = 1e-6;
    axis_fit(&figure->y, least / 3, fmax(most, 10 * least));
}

void page_tokens_figure(struct markup *markup, const struct page_view *view)
{
    struct page_line *lines = memory_new(view->count, sizeof *lines, NULL);
    if (!lines) {
        markup->failed = true;
        return;
    }
    for (uint64_t i = 1; i < view->count; i++)
        fill_line(&lines[i - 1], i, view->models[i].result);
    struct page_lines figure = {
        .id = "tokens",
        .title = "Divergence exceeded by each share of the tokens",
        .description = "One line per model over the share of tokens, from all tokens on the left to the "
                       "most affected ones on the right; higher is worse. The table below has the numbers.",
        .y_title = "KL divergence of at least, nats",
        .x_title = "for this share of the tokens",
        .lines = lines,
        .count = view->count - 1,
        .marker_every = COMPARE_CURVE_PER_DECADE,
        .tick_every = COMPARE_CURVE_PER_DECADE,
        .tick_text = share_text,
        .y = {.logarithmic = true, .zero = true},
    };
    fit_axis(&figure);
    markup_put(markup,
        "<figure id=\"tokens\">\n<figcaption><h2>How the divergence is spread over the tokens</h2>\n<p>"
        "How to read it: where a line stands above 1\xC2\xA0%, that is the divergence which the most "
        "affected "
        "1\xC2\xA0% of the tokens reach or exceed; a low line with a high right end means rare but large "
        "changes.</p></figcaption>\n");
    page_lines_draw(markup, view, &figure);
    markup_put(markup,
        "<p class=\"note\">In the shaded band the vertical scale is linear down to 0.</p>\n</figure>\n");
    memory_free(lines);
}
