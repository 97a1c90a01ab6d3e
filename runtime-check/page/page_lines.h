/* Figures with one line per model over equal steps, every line named at its right end. */
#ifndef NIBBLE_RUNTIME_CHECK_PAGE_LINES_H
#define NIBBLE_RUNTIME_CHECK_PAGE_LINES_H

#include "runtime-check/page/page_view.h"
#include "runtime-check/page/plot.h"

/* The values of one model; where one is not finite, the line has a gap. */
struct page_line {
    uint64_t model;        /* its index in the view */
    const double *values;  /* [count] */
    uint64_t first, count; /* drawn from step `first` on, which is below count */
    char title[160];       /* shown when pointed at */
};

struct page_lines {
    const char *id, *title, *description, *y_title, *x_title;
    const struct page_line *lines; /* [count] */
    uint64_t count, steps;         /* steps: of the longest line, at least 1 */
    uint64_t marker_every;         /* a marker at every so many steps */
    uint64_t tick_every;
    void (*tick_text)(char *out, uint64_t step); /* out: DIGITS_BYTES */
    struct axis y;                               /* kind and range */
    bool gaps;                                   /* some value is not finite */
};

/* Draw it, wide and narrow. */
void page_lines_draw(struct markup *markup, const struct page_view *view, const struct page_lines *figure);

#endif
