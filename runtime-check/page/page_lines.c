/* See page_lines.h. */
#include "runtime-check/page/page_lines.h"

#include <math.h>

#include "base/memory.h"
#include "runtime-check/page/digits.h"
#include "runtime-check/page/labels.h"

/* Between the end of a line and its name. */
enum { LEADER = 18 };

static double longest_name(
    const struct plot *plot, const struct page_view *view, const struct page_lines *figure)
{
    double longest = 0;
    for (uint64_t i = 0; i < figure->count && !plot->markup->failed; i++) {
        char *text = labels_shorten(view->looks[figure->lines[i].model].name, plot_name_most(plot), NULL);
        if (!text) plot->markup->failed = true;
        if (text) longest = fmax(longest, labels_width(text, plot->narrow ? 12 : 13));
        memory_free(text);
    }
    return longest;
}

static double step_at(const struct plot *plot, uint64_t step)
{
    return axis_at(&plot->x, (double)step);
}

/* The line itself, and once more, wide and unseen, as something to point at. */
static void draw_path(const struct plot *plot, const struct page_line *line, const char *kind)
{
    bool drawing = false;
    markup_format(plot->markup, "<path class=\"%s\" d=\"", kind);
    for (uint64_t i = line->first; i < line->count; i++) {
        const bool known = isfinite(line->values[i]);
        if (known)
            markup_format(plot->markup, "%s%.1f %.1f", drawing ? " " : "M", step_at(plot, i),
                axis_at(&plot->y, line->values[i]));
        drawing = known;
    }
    markup_put(plot->markup, "\"/>");
}

static void draw_line(const struct plot *plot, const struct page_view *view, const struct page_lines *figure,
    const struct page_line *line, double name_y)
{
    const struct page_look *look = &view->looks[line->model];
    const double last = line->values[line->count - 1];
    const double x = step_at(plot, line->count - 1);
    plot_group(plot, look, false, view->models[line->model].name, line->title);
    draw_path(plot, line, "line");
    draw_path(plot, line, "touch");
    for (uint64_t i = 0; i < line->count; i += figure->marker_every) {
        if (i >= line->first && isfinite(line->values[i]))
            plot_marker(plot->markup, look, step_at(plot, i), axis_at(&plot->y, line->values[i]));
    }
    if (isfinite(last))
        markup_format(plot->markup, "<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>", x + 6,
            axis_at(&plot->y, last), plot->right + LEADER - 3, name_y);
    plot_name(plot, plot->right + LEADER, name_y + 0.35 * plot->font, look->name);
    markup_put(plot->markup, "</g>\n");
}

static void draw_axes(const struct plot *plot, const struct page_lines *figure)
{
    char text[DIGITS_BYTES];
    for (uint64_t step = 0; step < figure->steps; step += figure->tick_every) {
        figure->tick_text(text, step);
        plot_x_tick(plot, step_at(plot, step), text);
    }
    plot_y_axis(plot, figure->y_title);
    plot_x_title(plot, figure->x_title);
}

static void draw_lines(const struct plot *plot, const struct page_view *view, const struct page_lines *figure)
{
    double *names = memory_new(figure->count, sizeof *names, NULL);
    for (uint64_t i = 0; names && i < figure->count; i++) {
        const struct page_line *line = &figure->lines[i];
        const double last = line->values[line->count - 1];
        names[i] = isfinite(last) ? axis_at(&plot->y, last) : plot->top;
    }
    if (!names || labels_spread(names, figure->count, 1.2 * plot->font, plot->top, plot->bottom, NULL)) {
        plot->markup->failed = true;
    }
    for (uint64_t i = 0; i < figure->count && !plot->markup->failed; i++)
        draw_line(plot, view, figure, &figure->lines[i], names[i]);
    memory_free(names);
}

void page_lines_draw(struct markup *markup, const struct page_view *view, const struct page_lines *figure)
{
    for (int narrow = 0; narrow < 2; narrow++) {
        struct plot plot = {.markup = markup, .narrow = narrow, .y = figure->y};
        const double names = 17 * (double)figure->count;
        /* One step only lies in the middle. */
        plot.x.low = figure->steps > 1 ? 0 : -1;
        plot.x.high = figure->steps > 1 ? (double)(figure->steps - 1) : 1;
        plot_layout(&plot, fmax(narrow ? 320 : 400, names), LEADER + longest_name(&plot, view, figure) + 2);
        plot_open(&plot, figure->id, figure->title, figure->description);
        draw_axes(&plot, figure);
        draw_lines(&plot, view, figure);
        plot_close(&plot);
    }
}
