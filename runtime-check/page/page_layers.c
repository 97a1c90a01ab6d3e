/* The error of every layer's output, for models that were traced. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/page_lines.h"

/* From this ratio of the largest to the smallest error on the scale is logarithmic. */
enum { LOGARITHMIC_FROM = 8 };

static void layer_text(char *out, uint64_t step)
{
    snprintf(out, DIGITS_BYTES, "%" PRIu64, step);
}

static void fill_line(struct page_line *line, uint64_t index, const struct comparison *result)
{
    char first[DIGITS_BYTES], last[DIGITS_BYTES];
    line->model = index;
    line->values = result->layer_errors;
    line->count = result->layers;
    snprintf(line->title, sizeof line->title,
        "relative error %.40s after layer 0, %.40s after layer %" PRIu32,
        digits_significant(first, result->layer_errors[0], 3),
        digits_significant(last, result->layer_errors[result->layers - 1], 3), result->layers - 1);
}

static void fit_axis(struct page_lines *figure)
{
    double least = INFINITY, most = 0;
    bool zero = false;
    for (uint64_t i = 0; i < figure->count; i++) {
        const struct page_line *line = &figure->lines[i];
        if (line->count > figure->steps) figure->steps = line->count;
        for (uint64_t k = 0; k < line->count; k++) {
            figure->gaps = figure->gaps || !isfinite(line->values[k]);
            if (!isfinite(line->values[k])) continue;
            zero = zero || line->values[k] <= 0;
            if (line->values[k] > 0) least = fmin(least, line->values[k]);
            most = fmax(most, line->values[k]);
        }
    }
    figure->y.logarithmic = most > LOGARITHMIC_FROM * least;
    figure->y.zero = figure->y.logarithmic && zero;
    axis_fit(&figure->y, isfinite(least) ? least : 0.1, most > 0 ? most : 1);
    if (!figure->y.logarithmic) figure->y.low = 0;
}

/* A step of 1, 2, 5, 10 ... that gives at most a dozen ticks. */
static uint64_t tick_step(uint64_t steps)
{
    uint64_t decade = 1;
    for (;; decade *= 10) {
        if (steps <= 12 * decade) return decade;
        if (steps <= 24 * decade) return 2 * decade;
        if (steps <= 60 * decade) return 5 * decade;
    }
}

static void write_figure(struct markup *markup, const struct page_view *view, struct page_lines *figure)
{
    fit_axis(figure);
    figure->tick_every = tick_step(figure->steps);
    figure->marker_every = figure->tick_every;
    markup_put(markup,
        "<figure id=\"layers\">\n<figcaption><h2>Where the error begins</h2>\n<p>"
        "How to read it: after each decoder layer, how far the model's hidden states are from the "
        "original's, relative to their length; "
        "what earlier layers did wrong is included, and a jump marks a layer that adds "
        "much.</p></figcaption>\n");
    page_lines_draw(markup, view, figure);
    if (figure->gaps)
        markup_put(
            markup, "<p class=\"note\">Where a line has a gap, the error is not a finite number.</p>\n");
    markup_put(markup, "</figure>\n");
}

void page_layers_figure(struct markup *markup, const struct page_view *view)
{
    struct page_line *lines = memory_new(view->count, sizeof *lines, NULL);
    struct page_lines figure = {
        .id = "layers",
        .title = "Relative error of every layer's output",
        .description = "One line per model over the decoder layers, first layer on the left; higher is "
                       "worse.",
        .y_title = "relative error of the layer's output",
        .x_title = "decoder layer",
        .lines = lines,
        .tick_text = layer_text,
    };
    for (uint64_t i = 1; lines && i < view->count; i++) {
        const struct comparison *result = view->models[i].result;
        if (result->layer_errors && result->layers > 0) fill_line(&lines[figure.count++], i, result);
    }
    if (!lines) markup->failed = true;
    if (figure.count > 0) write_figure(markup, view, &figure);
    memory_free(lines);
}
