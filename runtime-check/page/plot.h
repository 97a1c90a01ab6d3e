/* The frame of a figure in SVG: its area, axes, grid and texts, and markers. Every figure is drawn twice, wide and narrow, so that
 * letters keep their size on a telephone; the page's style shows one of them. */
#ifndef NIBBLE_RUNTIME_CHECK_PLOT_H
#define NIBBLE_RUNTIME_CHECK_PLOT_H

#include "runtime-check/page/axis.h"
#include "runtime-check/page/markup.h"
#include "runtime-check/page/page_names.h"

/* Lengths in the figure's units (about one CSS pixel each), y grows downwards. The caller sets markup, narrow and the axes' kinds and
 * ranges; plot_layout the rest. */
struct plot {
    struct markup *markup;
    bool narrow;
    double width, height, font;
    double left, top, right, bottom; /* of the plotting area */
    struct axis x, y;
};

/* The longest name that is written out in a figure, in characters. */
uint64_t plot_name_most(const struct plot *plot);

/* Sizes for a plotting area this high with so much room on its right, and both axes' positions; y.zero adds room for the line of
 * 0 below y.low. */
void plot_layout(struct plot *plot, double height, double room_right);

/* Begin and end the drawing. `id` is unique in the page; title and description are our own text, for those who do not see it. */
void plot_open(const struct plot *plot, const char *id, const char *title, const char *description);
void plot_close(const struct plot *plot);

/* Grid and ticks of the y axis, its part below y.low shaded, with its title above; a vertical grid line with its text below; the x axis' title. */
void plot_y_axis(const struct plot *plot, const char *title);
void plot_x_tick(const struct plot *plot, double x, const char *text);
void plot_x_title(const struct plot *plot, const char *title);

/* Begin one model's group, which shows `title` (escaped here, after the model's full name) when pointed at; end it by "</g>". */
void plot_group(
    const struct plot *plot, const struct page_look *look, bool dimmed, const char *name, const char *title);
/* A marker of about PLOT_RADIUS around a point. */
#define PLOT_RADIUS 5.0
void plot_marker(struct markup *markup, const struct page_look *look, double x, double y);
void plot_name(const struct plot *plot, double x, double y, const char *name);

#endif
