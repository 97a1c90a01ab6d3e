/* The parts of the page, each of which adds itself to the markup. */
#ifndef NIBBLE_RUNTIME_CHECK_PAGE_VIEW_H
#define NIBBLE_RUNTIME_CHECK_PAGE_VIEW_H

#include "runtime-check/page/markup.h"
#include "runtime-check/page/page_names.h"

/* What all parts look at. */
struct page_view {
    const struct comparison_model *models; /* [count], the base first */
    uint64_t count;
    const struct page_look *looks; /* [count] */
    const bool *front;             /* [count] page_front_find; the base's is true */
};

/* The Pareto front: front[i] is set for each model that none surpasses, that is, for which no other is at most as large and at most as
 * far from the base and better in one of the two. Sizes within 0.1 % of each other
 * count as equal. The base counts as a model at divergence 0, if its size is known (not 0). */
void page_front_find(bool *front, const struct comparison_model *models, uint64_t count);

/* The figures: size against quality, divergences of all tokens, errors of the layers' outputs (nothing where no model has
 * any), and the table of all numbers. Memory that runs out shows in markup->failed. */
void page_size_figure(struct markup *markup, const struct page_view *view);
void page_tokens_figure(struct markup *markup, const struct page_view *view);
void page_layers_figure(struct markup *markup, const struct page_view *view);
void page_table_write(struct markup *markup, const struct page_view *view);

/* The style sheet, with its element. */
void page_style_write(struct markup *markup);

#endif
